"""All that HDF5 is asked of a file, in one walk: what its objects are and where their values lie.

HDF5 crashes on some damaged files, goes round forever in others and takes what memory they ask for.
So it is asked once, in a child of its own (`tree.open_tree`), and the answers are plain data:
whoever reads the file afterwards needs HDF5 no more. What is wrong with one object is kept as an
error, for whoever asks for that object.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported
from convfc_cli.hdf5 import chunks
from convfc_cli.hdf5.chunks import Source
from convfc_cli.hdf5.heaps import Heaps

MAX_TEXT_BYTES = 64 * 2**20
"""The most bytes of one text, and of one attribute without its texts of varying length."""

MAX_ELEMENTS = 10_000
"""The most elements of one attribute, and the most attributes of one object."""

MAX_VALUE_BYTES = 128 * 2**20
"""The most bytes of all attributes, texts and arrays in object headers of a file."""

ELEMENT = 64
"""Bytes that an element of an attribute counts for besides its own: it becomes a Python object."""

MAX_DEPTH = 64
"""The most groups within one another."""

MAX_LINKS = 200_000
"""The most links of one group, and the most that a walk meets."""

MAX_CHUNKS = 2**20
"""The most chunks of all datasets of a file."""

MAX_UNWRITTEN_BYTES = 2**20
"""The most bytes of a dataset that was declared and never written: all of it is fill value."""

PLAIN = frozenset(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
"""The numbers that are read, as NumPy has them."""

MAX_NAME_LENGTH = 200
"""Limit on a name in a message."""

MAX_FILTER_LENGTH = 40
"""Limit on a filter's name in a message."""

Attributes = dict[str, Any | ConvfcError] | ConvfcError
"""Values by name; an error where one value, or the list of them, cannot be read."""


@dataclass(frozen=True, eq=False)
class Folder:
    """A group. A link leads to the address of an object, to nothing that holds anything (None), or
    to what is not followed, which the text says.
    """

    attributes: Attributes
    links: dict[str, int | str | ConvfcError | None] | ConvfcError


@dataclass(frozen=True, eq=False)
class Array:
    """A dataset."""

    attributes: Attributes
    shape: tuple[int, ...]
    type_name: str
    dtype: np.dtype[Any]
    """The bits of an element as they are stored; `object` for what is not read."""

    item: int
    """Bytes of an element."""

    is_null: bool
    stored: int
    """Bytes that its values take in the file."""

    place: int | bytes | None
    """Where its values lie, or the values; None for chunks and for what was never written."""

    filler: Any
    """What stands where nothing was written."""

    chunks: chunks.Plan | None
    text: str | ConvfcError | None
    """Its text; None where it is not a single one."""

    @property
    def nbytes(self) -> int:
        """Bytes that it declares to have, stored or not."""
        return 0 if self.is_null else math.prod(self.shape) * self.item


Found = Folder | Array | ConvfcError | None
"""What lies at an address; None is what holds nothing, such as a named type."""


@dataclass(frozen=True, eq=False)
class Survey:
    """The objects of a file by their addresses, all that are less than `MAX_DEPTH` deep."""

    root: int
    objects: dict[int, Found]


def survey(h5: Any, file: Any, source: Source, name: str) -> Survey:
    """Walk a file that h5py has opened; `h5` is h5py, `name` how messages call the file.

    Raises `Unsupported` for addresses of a size that is not read.
    """
    sizes = file.id.get_create_plist().get_sizes()
    if sizes != (8, 8):
        raise Unsupported(
            f"{name} is HDF5 with addresses and lengths of {sizes} bytes: only those of 8 are read"
        )
    root = int(h5.h5o.get_info(file.id).addr)
    surveyor = _Surveyor(h5, source, name)
    surveyor.walk(file.id, root)
    return Survey(root, surveyor.objects)


def at(name: str, path: str) -> str:
    """How a message names an object of a file: on one line, whatever its name."""
    return f"{name}: {shown(path)}"


def damaged(name: str, path: str, reason: str) -> MalformedInput:
    """The error that says what is wrong with an object."""
    return MalformedInput(f"{name} is a damaged HDF5 file: {shown(path)}: {reason}")


def shown(name: str) -> str:
    """A name for a message: printable, and not too long."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= MAX_NAME_LENGTH else text[:MAX_NAME_LENGTH] + "..."


def reason(error: Exception) -> str:
    """The part of h5py's text that says why.

    >>> reason(OSError("Unable to synchronously open file (truncated file: eof = 96)"))
    'truncated file: eof = 96'
    """
    text = " ".join(str(error.args[0] if error.args else "").split())
    if text.startswith(("Unable to ", "Can't ")) and text.endswith(")") and "(" in text:
        text = text[text.index("(") + 1 : -1]
    return shown(text) or type(error).__name__


class _Surveyor:
    """The walk through a file."""

    def __init__(self, h5: Any, source: Source, name: str) -> None:
        self.objects: dict[int, Found] = {}
        self._h5, self._source, self._name = h5, source, name
        self._heaps = Heaps(source)
        self._types = _Types(h5)
        self._links_left = MAX_LINKS
        self._values_left = MAX_VALUE_BYTES
        self._chunks_left = MAX_CHUNKS

    def walk(self, file: Any, root: int) -> None:
        """Look at every object once, those that lie less deep first."""
        todo = deque([(file, b"/", root, "/", 0)])
        while todo:
            holder, key, address, path, depth = todo.popleft()
            if address in self.objects:
                continue
            handle, entry = self._object(holder, key, address, path)
            self.objects[address] = entry
            if isinstance(entry, Folder) and isinstance(entry.links, dict) and depth < MAX_DEPTH:
                above = path.rstrip("/")
                todo.extend(
                    (handle, _key(name), link, f"{above}/{name}", depth + 1)
                    for name, link in entry.links.items()
                    if isinstance(link, int)
                )

    def _kept(self, of: Callable[[], Any], path: str) -> Any:
        """What a call returns, or the error that it raises, without the frames that it went
        through.
        """
        try:
            return of()
        except ConvfcError as error:
            return error.without_frames()
        except MemoryError:
            raise
        except Exception as error:  # h5py has no class of its own: it raises nine builtin ones
            return damaged(self._name, path, reason(error))

    def _object(self, holder: Any, key: bytes, address: int, path: str) -> tuple[Any, Found]:
        """An object, and what there is to say of it."""
        h5 = self._h5
        handle = self._kept(lambda: h5.h5o.open(holder, key), path)
        if isinstance(handle, ConvfcError):
            return None, handle
        if isinstance(handle, h5.h5d.DatasetID):
            return handle, self._kept(lambda: self._array(handle, path), path)
        if isinstance(handle, h5.h5g.GroupID):
            links = self._kept(lambda: self._links(handle, address, path), path)
            return handle, Folder(self._attributes(handle, path), links)
        return handle, None

    # Groups

    def _links(self, group: Any, address: int, path: str) -> dict[str, Any]:
        self._heaps.check(address)
        left = self._links_left
        names = _iterated(group.links.iterate, left) if group.get_num_objs() <= left else None
        if names is None or len(names) > left:
            raise Refused(
                f"{at(self._name, path)} has too many links: at most {MAX_LINKS} are looked at"
            )
        self._links_left -= len(names)
        return {_text(name): self._kept(partial(self._link, group, name), path) for name in names}

    def _link(self, group: Any, key: bytes) -> int | str | None:
        if b"/" in key or key in (b"", b"."):  # HDF5 would take it for a path
            return None
        h5l = self._h5.h5l
        link = group.links.get_info(key)
        if link.type == h5l.TYPE_HARD:
            return int(link.u)
        if link.type == h5l.TYPE_SOFT:
            return f"a soft link to '{shown(_text(group.links.get_val(key)))}'"
        if link.type == h5l.TYPE_EXTERNAL:
            return f"an external link to '{shown(_text(group.links.get_val(key)[0]))}'"
        return f"a link of kind {link.type}"

    # Attributes and texts

    def _attributes(self, handle: Any, path: str) -> Attributes:
        h5a = self._h5.h5a

        def names() -> list[bytes]:
            count = h5a.get_num_attrs(handle)
            if count > MAX_ELEMENTS:
                raise Refused(
                    f"{at(self._name, path)} has {count} attributes: at most {MAX_ELEMENTS} "
                    f"are read"
                )
            return _iterated(partial(h5a.iterate, handle), count) if count else []

        def value(name: bytes) -> Any:
            return self._value(h5a.open(handle, name), f"attribute {_text(name)!a}", path)

        listed = self._kept(names, path)
        if isinstance(listed, ConvfcError):
            return listed
        return {_text(name): self._kept(partial(value, name), path) for name in listed}

    def _value(self, holder: Any, what: str, path: str) -> Any:
        """The value of an attribute, or of a dataset of text, in plain Python."""
        h5t = self._h5.h5t
        kind, space = holder.get_type(), holder.get_space()
        is_text = kind.get_class() == h5t.STRING
        if space.get_simple_extent_type() == self._h5.h5s.NULL:
            return "" if is_text else []
        shape = self._shape(space)
        count = math.prod(shape)
        size = count * kind.get_size()
        if count > MAX_ELEMENTS or size > MAX_TEXT_BYTES:
            raise Refused(
                f"{at(self._name, path)}: {what} has {count} elements and {size} bytes: at most "
                f"{MAX_ELEMENTS} and {MAX_TEXT_BYTES} are read"
            )
        self._spend(ELEMENT * count + size, path)
        if is_text and kind.is_variable_str():
            usual = h5t.C_S1.copy()
            usual.set_size(h5t.VARIABLE)
            usual.set_cset(kind.get_cset())
            usual.set_strpad(kind.get_strpad())
            if not kind.equal(usual):
                raise damaged(self._name, path, f"{what} is text of an unusual kind")
            values = np.empty(shape, h5t.string_dtype())
            self._fill(holder, values, h5t.py_create(values.dtype))
            self._spend(sum(len(text or b"") for text in values.flat), path)
            return _each(values.tolist(), lambda text: _text(text or b""))
        if is_text:
            values = np.empty(shape, f"V{kind.get_size()}")
            self._fill(holder, values, kind)
            padding = kind.get_strpad()
            return _each(values.tolist(), lambda text: _text(self._unpadded(text, padding)))
        plain = self._types.plain(kind)
        if plain is None or plain.kind == "V":
            raise damaged(
                self._name, path, f"{what} is {self._types.name(kind, plain)}, not text or numbers"
            )
        values = np.empty(shape, plain)
        self._fill(holder, values, kind)
        return native(values).tolist()

    def _spend(self, size: int, path: str) -> None:
        """Take so many bytes off what the values of a file may have."""
        if size > self._values_left:
            raise Refused(
                f"{at(self._name, path)}: the file has too many attributes and texts: at most "
                f"{MAX_VALUE_BYTES} bytes of them are read"
            )
        self._values_left -= size

    def _unpadded(self, raw: bytes, padding: int) -> bytes:
        """A text of fixed length without what fills it up."""
        h5t = self._h5.h5t
        if padding == h5t.STR_SPACEPAD:
            return raw.rstrip(b" ")
        return raw.split(b"\0", 1)[0] if padding == h5t.STR_NULLTERM else raw.rstrip(b"\0")

    # Datasets

    def _array(self, handle: Any, path: str) -> Array:
        """Raises `Refused` where the values lie outside of the file or in other datasets."""
        h5d, h5s = self._h5.h5d, self._h5.h5s
        plan = handle.get_create_plist()
        layout = plan.get_layout()
        if plan.get_external_count():
            outside = shown(_text(plan.get_external(0)[0]))
            raise Refused(
                f"{at(self._name, path)} has its values in another file, '{outside}': it is not "
                f"opened"
            )
        if layout == h5d.VIRTUAL:
            raise Refused(
                f"{at(self._name, path)} is virtual, put together from other datasets: "
                f"these are not looked for"
            )
        kind, space = handle.get_type(), handle.get_space()
        shape, item = self._shape(space), int(kind.get_size())
        plain = self._types.plain(kind)
        dtype = plain or np.dtype(object)
        place: int | bytes | None = None
        chunks = None
        stored = 0
        filler = None
        if layout == h5d.CHUNKED:
            chunks, stored = self._chunks(handle, plan, shape)
        else:
            stored = int(handle.get_storage_size())
        if plain is not None and layout == h5d.COMPACT:
            self._spend(stored, path)
            values = np.empty(shape, plain)
            self._fill(handle, values, kind)
            place = values.tobytes()
        elif plain is not None and layout == h5d.CONTIGUOUS:
            place = handle.get_offset()
        if plain is not None and place is None:
            filler = np.zeros((), plain)
            if plan.fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED:
                plan.get_fill_value(filler)
        array = Array(
            self._attributes(handle, path),
            shape,
            self._types.name(kind, plain),
            dtype,
            item,
            space.get_simple_extent_type() == h5s.NULL,
            stored,
            place,
            filler,
            chunks,
            None,
        )
        if kind.get_class() == self._h5.h5t.STRING and math.prod(shape) == 1:
            text = self._kept(lambda: self._single_text(handle, array, path), path)
            array = replace(array, text=text)
        return array

    def _single_text(self, handle: Any, array: Array, path: str) -> str:
        check_stored(array, array.stored or MAX_UNWRITTEN_BYTES, self._source, at(self._name, path))
        if array.chunks is not None:
            raise Unsupported(f"{at(self._name, path)} is a text in chunks: none are read")
        value = self._value(handle, "the text", path)
        for _ in array.shape:
            (value,) = value
        return str(value)

    def _chunks(self, handle: Any, plan: Any, shape: tuple[int, ...]) -> tuple[chunks.Plan, int]:
        """What is stored of the chunks, and how many bytes in all."""
        steps = tuple(map(int, plan.get_chunk()))
        filters = [plan.get_filter(number) for number in range(plan.get_nfilters())]
        counts = chunks.grid(shape, steps)
        rows: list[tuple[int, int, int, int]] = []
        stored = 0

        def add(chunk: Any) -> bool | None:
            nonlocal stored
            number = 0
            for corner, step, count in zip(chunk.chunk_offset, steps, counts, strict=True):
                number = number * count + corner // step
            rows.append((number, chunk.byte_offset, chunk.size, chunk.filter_mask))
            stored += chunk.size
            return True if len(rows) > self._chunks_left else None

        handle.chunk_iter(add)
        index = None
        if len(rows) <= self._chunks_left and math.prod(counts) < 2**63:
            self._chunks_left -= len(rows)
            index = np.array(sorted(rows), np.uint64).reshape(-1, 4)
        stages = [(code, tuple(values), _filter(name)) for code, _, values, name in filters]
        return chunks.Plan(steps, stages, index), stored

    def _shape(self, space: Any) -> tuple[int, ...]:
        if space.get_simple_extent_type() != self._h5.h5s.SIMPLE:
            return ()
        return tuple(map(int, space.get_simple_extent_dims()))

    def _fill(self, holder: Any, values: NDArray[Any], kind: Any) -> None:
        """Read an attribute, or a whole dataset, into an array of HDF5's type `kind`."""
        h5 = self._h5
        if not values.size:
            return
        if isinstance(holder, h5.h5a.AttrID):
            holder.read(values, kind)
            return
        holder.read(h5.h5s.create_simple(values.shape), holder.get_space(), values, kind)


class _Types:
    """HDF5's types in NumPy's words."""

    def __init__(self, h5: Any) -> None:
        h5t = h5.h5t
        self._h5t = h5t
        self._letters = {h5t.INTEGER: "iu", h5t.FLOAT: "f"}
        self._made = {
            dtype: h5t.py_create(dtype)
            for dtype in (np.dtype(order + name) for name, order in product(PLAIN, "<>"))
        }
        self._truth = h5t.py_create(np.dtype(bool), logical=True)
        self._names = {
            h5t.INTEGER: "integers of an unusual kind",
            h5t.FLOAT: "floats of an unusual kind",
            h5t.TIME: "times",
            h5t.STRING: "text",
            h5t.BITFIELD: "bit fields",
            h5t.OPAQUE: "opaque bytes",
            h5t.COMPOUND: "records",
            h5t.REFERENCE: "references",
            h5t.ENUM: "an enumeration",
            h5t.VLEN: "lists of varying length",
            h5t.ARRAY: "arrays",
        }

    def plain(self, kind: Any) -> np.dtype[Any] | None:
        """The NumPy type with the very bits of an HDF5 type; None where there is none.

        bfloat16 is written as two opaque bytes.
        """
        code, size = kind.get_class(), kind.get_size()
        if code == self._h5t.OPAQUE and size == 2:
            return np.dtype("V2")
        if code == self._h5t.ENUM:
            return np.dtype(bool) if kind.equal(self._truth) else None
        for letter, order in product(self._letters.get(code, ""), "<>"):
            if f"{letter}{size}" in PLAIN:
                dtype = np.dtype(f"{order}{letter}{size}")
                if kind.equal(self._made[dtype]):
                    return dtype
        return None

    def name(self, kind: Any, plain: np.dtype[Any] | None) -> str:
        """What a type is called in listings and messages: NumPy's name, or a few words."""
        if plain is not None:
            return "two opaque bytes" if plain.kind == "V" else plain.name
        return self._names.get(kind.get_class(), "values of an unknown kind")


def check_stored(array: Array, most: int, source: Source, place: str) -> None:
    """Raise `Refused` unless the file can hold what a dataset declares: `most` bytes at most."""
    if array.nbytes > most or array.stored > source.size:
        raise Refused(
            f"{place} declares {array.nbytes} bytes and stores {array.stored} in a file of "
            f"{source.size}: that cannot be, so nothing of it is read"
        )


def native(values: NDArray[Any]) -> NDArray[Any]:
    """The same values in native byte order; their bytes are moved, so that a NaN keeps its bits."""
    if values.dtype.kind == "b":
        return np.not_equal(values.view(np.uint8), 0)
    if values.dtype.isnative:
        return values
    return values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))


def _iterated(iterate: Callable[[Callable[[bytes], Any]], Any], most: int) -> list[bytes]:
    """The names that HDF5 lists, at most one more than `most`: a damaged list may never end."""
    names: list[bytes] = []

    def add(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) > most else None

    iterate(add)
    return names


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _each(values: Any, of: Callable[[Any], str]) -> Any:
    """The same nesting of lists with each value replaced."""
    return [_each(value, of) for value in values] if isinstance(values, list) else of(values)


def _filter(name: bytes) -> str:
    """The name of a filter, for a message."""
    text = name.decode("ascii", "replace")
    return "".join(character for character in text if character.isprintable())[:MAX_FILTER_LENGTH]
