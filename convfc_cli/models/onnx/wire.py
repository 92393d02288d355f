"""A protobuf file, scanned without being parsed.

Parsing turns each message into an object of a hundred bytes or more, so that 20 MB of empty nodes
become 1.5 GB. `survey` walks the messages without building them, and refuses the file before that
happens.
"""

from typing import Any

from convfc_cli.errors import MalformedInput, Refused

MAX_FIELDS = 2_000_000
MAX_MESSAGES = 500_000
MAX_NODES = 100_000
"""Limit on one file: the largest known networks have a fifth of these."""

PACKED = ("dims", "ints")
"""Fields of many numbers, of a byte each in the file and eight and more when they are parsed."""

MAX_DEPTH = 100
"""Limit on nested messages, as in protobuf itself."""


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
            key, place = _varint(content, place)
            wire = key & 7
            if wire == 0:
                _, place = _varint(content, place)
            elif wire == 2:
                length, place = _varint(content, place)
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
