"""A protobuf file, scanned without being parsed.

Parsing turns each message into an object of a hundred bytes or more, so that 20 MB of empty nodes
become 1.5 GB. `survey` walks the messages without building them, and refuses the file before that
happens. And parsing copies all weights: `without_weights` skips those that are large, and `skipped`
says where in the file they lie.
"""

import secrets
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from convfc_cli.errors import MalformedInput, Refused
from convfc_cli.files import Kept

if TYPE_CHECKING:
    import onnx

MAX_FIELDS = 2_000_000
MAX_MESSAGES = 500_000
MAX_NODES = 100_000
"""Limit on one file: the largest known networks have a fifth of these."""

PACKED = ("dims", "ints")
"""Fields of many numbers, of a byte each in the file and eight and more when they are parsed."""

MAX_DEPTH = 100
"""Limit on nested messages, as in protobuf itself."""


LARGE = 2**14
"""Bytes of an initializer that is worth skipping."""

WINDOWS = (2**9, 2**18)
"""Bytes that are read at once: after something was skipped, and at most."""

FEW_FIELDS = 64
"""Fields of a tensor whose numbers are skipped; one has five or so, unless each of its numbers is
a field."""

VARINT = 10
"""Bytes of the longest number."""

GRAPH, INITIALIZER, LOCATION, EXTERNAL = 7, 5, 13, 14
"""Fields of a model, of its graph, and of a tensor whose numbers are not in it."""

NUMBERS = frozenset((4, 5, 7, 9, 10, 11))
"""Fields of a tensor with its numbers: float_data, int32_data, int64_data, raw_data, double_data
and uint64_data."""

_MARK = secrets.token_hex(16)
"""What skipped numbers are marked by in the parsed tensor: nothing that a file can know."""


def without_weights(file: Kept, size: int) -> bytes:
    """The file of a model, of so many bytes, without the numbers of the large initializers of its
    graph, which are not read. What cannot be followed is left as it is, for `survey`.
    """
    walk = _Walk(file)
    try:
        return walk.model(size)
    except (_LostError, IndexError):
        return file.read(0, size)


def skipped(tensor: "onnx.TensorProto") -> slice | None:
    """Where the whole of a tensor lies in its file, if its numbers were skipped."""
    for entry in tensor.external_data:
        if entry.key == _MARK:
            return slice(*map(int, entry.value.split()))
    return None


class _LostError(Exception):
    """The file is not a sequence of fields, or one of too many."""


class _Walk:
    """A file that is gone through, of which no more is read than that takes."""

    def __init__(self, file: Kept) -> None:
        self._file, self._start, self._window, self._step = file, 0, b"", WINDOWS[0]
        self._left = MAX_FIELDS

    def model(self, size: int) -> bytes:
        return self._message(0, size, GRAPH, self._graph)

    def _graph(self, place: int, end: int) -> bytes:
        return self._message(place, end, INITIALIZER, self._tensor)

    def _message(
        self, place: int, end: int, number: int, made: Callable[[int, int], bytes]
    ) -> bytes:
        """A message of which the fields of this number, where they are large, are made anew."""
        parts = []
        for field, begin, content, after in self._fields(place, end):
            if field == number and after - content >= LARGE:
                parts.append(self._file.read(place, begin - place))
                parts.append(_field(number, made(content, after)))
                place = after
        return b"".join([*parts, self._file.read(place, end - place)])

    def _tensor(self, place: int, end: int) -> bytes:
        """A tensor without its numbers, with a mark that says where it lies."""
        fields = list(islice(self._fields(place, end), FEW_FIELDS + 1))
        is_external = any(abs(field) in (LOCATION, EXTERNAL) for field, *_ in fields)
        if is_external or len(fields) > FEW_FIELDS:
            return self._file.read(place, end - place)
        kept = (
            self._file.read(begin, after - begin)
            for field, begin, _, after in fields
            if field not in NUMBERS
        )
        mark = _field(1, _MARK.encode()) + _field(2, f"{place} {end}".encode())
        return b"".join([*kept, _field(LOCATION, mark), bytes([EXTERNAL << 3, 1])])

    def _fields(self, place: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, where it begins, where its content begins, where it ends) of each field; the
        number is negative where the content is not a run of bytes.
        """
        while place < end:
            self._left -= 1
            begin = place
            key, content = self._varint(place)
            wire, number = key & 7, key >> 3
            if wire == 2:
                length, content = self._varint(content)
                place = content + length
            elif wire == 0:
                _, place = self._varint(content)
            elif wire in (1, 5):
                place = content + (8 if wire == 1 else 4)
            else:
                raise _LostError
            if place > end or self._left < 0:
                raise _LostError
            yield (number if wire == 2 else -number), begin, content, place

    def _varint(self, place: int) -> tuple[int, int]:
        at = place - self._start
        if not 0 <= at <= len(self._window) - VARINT:
            least, most = WINDOWS
            goes_on = 0 <= at <= len(self._window)
            self._step = min(2 * self._step, most) if goes_on else least
            self._start, self._window, at = place, self._file.read(place, self._step), 0
        value, at = _varint(self._window, at)
        return value, self._start + at


def _field(number: int, content: bytes) -> bytes:
    """A field that is a run of bytes, as it is in a file."""
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def survey(content: bytes, descriptor: Any, name: str) -> None:
    """Count the fields and messages of a file, skipping over weights; texts must be UTF-8. Of
    numbers that share a field, sizes and attributes, each byte counts as one.

    Raises `Refused` beyond the limits. Source: the protobuf encoding,
    protobuf.dev/programming-guides/encoding.
    """
    kinds: dict[str, dict[int, Any]] = {}

    def inside(kind: Any) -> dict[int, Any]:
        """What to look into: messages by their descriptor, texts by None, numbers by `PACKED`."""
        if kind.full_name not in kinds:
            kinds[kind.full_name] = {
                field.number: PACKED if field.name in PACKED else field.message_type
                for field in kind.fields
                if field.message_type or field.type == field.TYPE_STRING or field.name in PACKED
            }
        return kinds[kind.full_name]

    fields = messages = nodes = 0
    stack = [(0, len(content), inside(descriptor))]
    while stack:
        place, end, known = stack.pop()
        while place < end:
            fields += 1
            key = content[place]
            place += 1
            if key >= 0x80:
                key, place = _varint(content, place - 1)
            wire = key & 7
            if wire == 0:
                _, place = _varint(content, place)
            elif wire == 2:
                length = content[place]
                place += 1
                if length >= 0x80:
                    length, place = _varint(content, place - 1)
                if length > end - place:
                    raise MalformedInput(f"{name} is cut short, or no ONNX model")
                kind = known.get(key >> 3, b"")
                if kind is None:
                    content[place : place + length].decode()
                elif kind is PACKED:
                    fields += length
                elif kind != b"":
                    messages += 1
                    nodes += kind.name == "NodeProto"
                    if length:
                        stack.append((place + length, end, known))
                        end, known = place + length, inside(kind)
                        continue
                place += length
            elif wire in (1, 5):
                place += 8 if wire == 1 else 4
            else:
                raise MalformedInput(f"{name} is not an ONNX model, or a damaged one")
            if fields > MAX_FIELDS or messages > MAX_MESSAGES or nodes > MAX_NODES:
                raise Refused(
                    f"{name} holds more than {MAX_NODES} nodes, {MAX_MESSAGES} messages or "
                    f"{MAX_FIELDS} fields: it would take far more memory than its size"
                )
        if len(stack) > MAX_DEPTH:
            raise Refused(f"{name} nests messages more than {MAX_DEPTH} deep")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = content[place]
    place += 1
    if value < 0x80:
        return value, place
    value &= 0x7F
    for shift in range(7, 64, 7):
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, place
