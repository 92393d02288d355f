"""A stranger's HDF5 file, opened safely: the only place that reads HDF5.

HDF5 is a file system in a file. It can point outside of itself, declare far more than it holds, and
ask for code to be loaded in order to be read. None of that happens here:

- only hard links are followed; external and virtual storage is refused; no filter plugin is loaded;
- what a dataset declares is held against what the file stores before any memory is taken;
- HDF5 neither expands nor converts values: they are taken as they are stored, and chunks are
  expanded here, each to its own size at most;
- whatever HDF5 raises is a `MalformedInput` of one line.

Names and text are UTF-8; a byte that is not becomes a lone surrogate, as in Python's file names.
"""

import io
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported
from convfc_cli.files import Input
from convfc_cli.hdf5_chunks import READ_CEILING, Chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = b"\x89HDF\r\n\x1a\n"

TEXT_CEILING = 64 * 2**20
"""The most bytes of one text, and of one attribute without its texts of varying length."""

TEXTS_CEILING = 2**30
"""The most memory that texts of varying length may take while they are read; on Linux alone."""

ELEMENTS_CEILING = 10_000
"""The most elements of one attribute, and the most attributes of one object."""

DEPTH_CEILING = 64
"""The most groups within one another."""

LINKS_CEILING = 200_000
"""The most links of one group, and the most that a walk meets."""

UNWRITTEN_CEILING = 2**20
"""The most bytes of a dataset that was declared and never written: all of it is fill value."""

PLAIN = frozenset(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
"""The numbers that are read, as NumPy has them."""

GCOL = b"GCOL"
"""What a heap of texts of varying length begins with."""

LONGEST_NAME = 200
"""Characters of a name in a message."""


def is_hdf5(source: Input) -> bool:
    """Whether it is HDF5, by the signature; a block of the user's own may come before it."""
    return _start(source) is not None


def _start(source: Input) -> int | None:
    """Where the signature is: at 0, 512, 1024, 2048, ..., though not in what is stored in a zip."""
    if source.head.startswith(b"PK\3\4"):
        return None
    offset = 0
    while offset < source.size:
        if os.pread(source.file.fileno(), len(SIGNATURE), offset) == SIGNATURE:
            return offset
        offset = 2 * offset or 512
    return None


def open_tree(source: Input) -> "Group":
    """The root of a file; it stays readable after `source.file` is closed.

    Raises `MalformedInput` for a file that is damaged, cut short, or not HDF5.
    """
    start = _start(source)
    if start is None:
        raise MalformedInput(f"{source.name} is not an HDF5 file: the signature is missing")
    content = _Bytes(source.file.fileno(), start, source.size - start)
    try:
        file = library().File(content, "r")
        sizes = file.id.get_create_plist().get_sizes()
        if sizes != (8, 8):
            raise Unsupported(
                f"{source.name} is HDF5 with addresses and lengths of {sizes} bytes: "
                f"only those of 8 are read"
            )
        return Group(_Tree(source.name, content, file), "/", file["/"].id, -1)
    except ConvfcError:
        raise
    except Exception as error:
        raise MalformedInput(f"{source.name} is a damaged HDF5 file: {_reason(error)}") from error


@cache
def library() -> Any:
    """h5py, imported when it is needed, and told before that to load no code for any file."""
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    import h5py

    return h5py


class _Bytes(io.RawIOBase):
    """The bytes of a file from its signature on, under a descriptor and a position of its own.

    HDF5 keeps texts of varying length in heaps. It is not given one that it would not come to the
    end of.
    """

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        super().__init__()
        self.size = size
        self._start = start
        self._position = 0
        self._descriptor = os.dup(descriptor)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        position = self._position
        done = 0
        while done < len(view):
            piece = view[done : done + 2**30]  # not every system reads more at once
            count = os.preadv(self._descriptor, [piece], self._start + position + done)
            if not count:  # HDF5 would take what was in its memory for read
                raise OSError("the file ends before what is read of it")
            done += count
        self._position += done
        if bytes(view[:4]) == GCOL:
            self._check_heap(position)
        return done

    def at(self, position: int, count: int) -> bytes:
        """Some of the bytes; the position of HDF5 is left alone."""
        if count > self.size:
            raise OSError("more is to be read than the file has")
        found = os.pread(self._descriptor, count, self._start + position)
        if len(found) != count:
            raise OSError("the file ends before what is read of it")
        return found

    def _check_heap(self, start: int) -> None:
        """Raise unless the objects of a heap fill it one by one: HDF5 would go round forever."""
        size = int.from_bytes(self.at(start + 8, 8), "little")
        heap = self.at(start, size)
        at = 16
        for _ in range(2**16):
            if at + 16 > size:
                break
            is_free = heap[at : at + 2] == b"\0\0"
            length = int.from_bytes(heap[at + 8 : at + 16], "little")
            step = length if is_free else 16 + length + -length % 8
            at += step
        if at > size or at + 16 <= size:
            raise OSError("the objects of a heap do not fill it")

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


@dataclass(frozen=True, eq=False)
class _Tree:
    """What all objects of a file share; while one of them lives, the file is open."""

    name: str
    bytes: _Bytes
    file: Any

    def at(self, path: str) -> str:
        """How a message names an object: on one line, whatever its name."""
        return f"{self.name}: {_shown(path)}"

    def damaged(self, path: str, reason: str) -> MalformedInput:
        """The error that says what is wrong with an object."""
        return MalformedInput(f"{self.name} is a damaged HDF5 file: {_shown(path)}: {reason}")

    @contextmanager
    def told(self, path: str) -> Iterator[None]:
        """Whatever is raised while an object is read, as an error of ours."""
        try:
            yield
        except ConvfcError:
            raise
        except Exception as error:  # h5py has no class of its own: it raises nine builtin ones
            raise self.damaged(path, _reason(error)) from error


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let HDF5 take no more than `TEXTS_CEILING`.

    A text of varying length says how long it is, and that much, up to 4 GiB, is taken before the
    text is looked for; and many texts may be one and the same. No call tells it beforehand.
    """
    if threading.active_count() > 1:  # the limit is the whole process's
        yield
        return
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # not Linux
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + TEXTS_CEILING
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _shown(name: str) -> str:
    told = name if name.isprintable() else ascii(name)[1:-1]
    return told if len(told) <= LONGEST_NAME else told[:LONGEST_NAME] + "..."


def _reason(error: Exception) -> str:
    """The part of h5py's text that says why.

    >>> _reason(OSError("Unable to synchronously open file (truncated file: eof = 96)"))
    'truncated file: eof = 96'
    """
    text = " ".join(str(error.args[0] if error.args else "").split())
    if text.startswith(("Unable to ", "Can't ")) and text.endswith(")") and "(" in text:
        text = text[text.index("(") + 1 : -1]
    return _shown(text) or type(error).__name__


class _Object:
    """What groups and datasets have in common: a path, and attributes."""

    def __init__(self, tree: _Tree, path: str, handle: Any, address: int) -> None:
        self.path = path
        self._tree = tree
        self._handle = handle
        self._address = address

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place}>"

    @property
    def _place(self) -> str:
        return self._tree.at(self.path)

    def _damaged(self, reason: str) -> MalformedInput:
        return self._tree.damaged(self.path, reason)

    def same_object(self, other: "_Object") -> bool:
        """Whether both are one object of one file, under two names perhaps."""
        return self._tree is other._tree and self._address == other._address

    def attributes(self) -> list[str]:
        """The names of its attributes, in order of name."""
        h5a = library().h5a
        with self._tree.told(self.path):
            count = h5a.get_num_attrs(self._handle)
            if count > ELEMENTS_CEILING:
                raise Refused(
                    f"{self._place} has {count} attributes: at most {ELEMENTS_CEILING} are read"
                )
            found: list[bytes] = []
            h5a.iterate(self._handle, found.append)
            return [_text(name) for name in found]

    def attribute(self, name: str) -> Any:
        """The value of an attribute in plain Python; None where it is absent.

        Text of any kind is `str`; several values are a list, nested where they have several axes;
        no value is "" if it is text, else []. Raises `MalformedInput` for what is neither text
        nor integers, floats or booleans, `Refused` for too much of it.
        """
        h5a = library().h5a
        key = _key(name)
        with self._tree.told(self.path):
            if key is None or not h5a.exists(self._handle, key):
                return None
            return self._value(h5a.open(self._handle, key), f"attribute {name!a}")

    def _value(self, holder: Any, what: str) -> Any:
        """The value of an attribute, or of a dataset of text, which is read just so."""
        h5 = library()
        kind, space = holder.get_type(), holder.get_space()
        is_text = kind.get_class() == h5.h5t.STRING
        if space.get_simple_extent_type() == h5.h5s.NULL:
            return "" if is_text else []
        shape = _shape(space)
        count = math.prod(shape)
        size = count * kind.get_size()
        if count > ELEMENTS_CEILING or size > TEXT_CEILING:
            raise Refused(
                f"{self._place}: {what} has {count} elements and {size} bytes: at most "
                f"{ELEMENTS_CEILING} and {TEXT_CEILING} are read"
            )
        if is_text and kind.is_variable_str():
            usual = h5.h5t.C_S1.copy()
            usual.set_size(h5.h5t.VARIABLE)
            usual.set_cset(kind.get_cset())
            usual.set_strpad(kind.get_strpad())
            if not kind.equal(usual):
                raise self._damaged(f"{what} is text of an unusual kind")
            values = np.empty(shape, h5.h5t.string_dtype())
            with _bounded_memory():
                _fill(holder, values, h5.h5t.py_create(values.dtype))
            return _each(values.tolist(), lambda text: _text(text or b""))
        if is_text:
            values = np.empty(shape, f"V{kind.get_size()}")
            _fill(holder, values, kind)
            padding = kind.get_strpad()
            return _each(values.tolist(), lambda text: _text(_unpadded(text, padding)))
        plain = _plain(kind)
        if plain is None or plain.kind == "V":
            raise self._damaged(f"{what} is {_type_name(kind)}, not text or numbers")
        values = np.empty(shape, plain)
        _fill(holder, values, kind)
        return _native(values).tolist()


class Dataset(_Object):
    """An array in the file; none of its values is read before it is asked for.

    `shape` is () for a single value, and where there is none. `dtype` is that of what `read` gives;
    for what it does not read (text, records, references, ...) `object`: `type_name` says what it
    is.
    """

    def __init__(self, tree: _Tree, path: str, handle: Any, address: int) -> None:
        """Raises `Refused` where the values lie outside of the file or in other datasets."""
        super().__init__(tree, path, handle, address)
        h5 = library()
        with tree.told(path):
            plan = handle.get_create_plist()
            if plan.get_external_count():
                outside = _shown(_text(plan.get_external(0)[0]))
                raise Refused(
                    f"{self._place} has its values in another file, '{outside}': it is not opened"
                )
            if plan.get_layout() == h5.h5d.VIRTUAL:
                raise Refused(
                    f"{self._place} is virtual, put together from other datasets: "
                    f"these are not looked for"
                )
            kind, space = handle.get_type(), handle.get_space()
            self.shape = _shape(space)
            self.type_name = _type_name(kind)
            self._is_null = space.get_simple_extent_type() == h5.h5s.NULL
            self._item = int(kind.get_size())
            self._stored = _plain(kind) or np.dtype(object)
            self._chunks: Chunks | None = None
            if plan.get_layout() == h5.h5d.CHUNKED:
                self._chunks = Chunks(
                    h5, handle, self.shape, self._stored, self._item, tree.bytes, self._place
                )
        self.dtype = self._stored.newbyteorder("=")

    @property
    def nbytes(self) -> int:
        """Bytes that it declares to have, stored or not."""
        return 0 if self._is_null else math.prod(self.shape) * self._item

    def read(self) -> "NDArray[Any]":
        """All of it, in native byte order.

        Raises `Unsupported` for what is no plain array, or compressed by anything but gzip,
        and shuffle; `Refused` for more than 4 GiB, or than the file can hold.
        """
        return self._read(0, self.shape[0] if self.shape else 1)

    def part(self, start: int, stop: int) -> "NDArray[Any]":
        """`read()[start:stop]` without the rest, also of arrays too large to be read at once."""
        if not self.shape:
            raise self._damaged("a single value where an array is expected")
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        return self._read(start, max(start, stop))

    def text(self) -> str:
        """The text that it holds; raises `MalformedInput` where it is not a single one."""
        if (
            self._handle.get_type().get_class() != library().h5t.STRING
            or math.prod(self.shape) != 1
        ):
            raise self._damaged(f"{self.type_name} of shape {self.shape}, not a text")
        with self._tree.told(self.path):
            self._check_stored()
            if self._chunks is not None:
                raise Unsupported(f"{self._place} is a text in chunks: none are read")
            found = self._value(self._handle, "the text")
            for _ in self.shape:
                (found,) = found
            return str(found)

    def _read(self, start: int, stop: int) -> "NDArray[Any]":
        if self._stored.hasobject or self._is_null:
            what = "nothing" if self._is_null else self.type_name
            raise Unsupported(
                f"{self._place} holds {what}: only integers, floats and booleans are read"
            )
        with self._tree.told(self.path):
            self._check_stored()
            shape = (stop - start, *self.shape[1:]) if self.shape else ()
            size = math.prod(shape) * self._item
            if size > READ_CEILING:
                raise Refused(
                    f"{self._place}: {size} bytes are too many to be read at once: "
                    f"at most {READ_CEILING} are"
                )
            values = np.empty(shape, self._stored)
            if self._chunks is not None and values.size:
                self._chunks.fill(values, start)
            else:
                _fill(self._handle, values, self._handle.get_type(), start)
            return _native(values)

    def _check_stored(self) -> None:
        """Raise unless the file can hold what the dataset declares."""
        stored = int(self._handle.get_storage_size())
        most = stored or UNWRITTEN_CEILING
        if self._chunks is not None:
            self._chunks.check()
            most = self._chunks.most(stored)
        if self.nbytes > most or stored > self._tree.bytes.size:
            raise Refused(
                f"{self._place} declares {self.nbytes} bytes and stores {stored} in a file of "
                f"{self._tree.bytes.size}: that cannot be, so nothing of it is read"
            )


class Group(_Object):
    """A folder of groups and datasets. Paths in it are relative: "a/b"."""

    def names(self) -> list[str]:
        """The names of its links in order, of whatever kind and wherever they lead."""
        return self._names(LINKS_CEILING)

    def __contains__(self, name: str) -> bool:
        """Whether there is a link of that name, of whatever kind."""
        *above, last = self._steps(name)
        holder = self._follow(above)
        return isinstance(holder, Group) and holder._has(last)

    def child(self, name: str) -> "Group | Dataset | None":
        """The object of that name; None where there is none, or one that holds nothing.

        Raises `Refused` where a link on the way is not a hard link.
        """
        return self._follow(self._steps(name))

    def group(self, name: str) -> "Group | None":
        """The group of that name; None where there is none."""
        found = self.child(name)
        return found if isinstance(found, Group) else None

    def dataset(self, name: str) -> Dataset | None:
        """The dataset of that name; None where there is none."""
        found = self.child(name)
        return found if isinstance(found, Dataset) else None

    def walk(self) -> Iterator[Dataset]:
        """All datasets below in order of name, each once, however many names it has.

        Raises `Refused` for a link that is not a hard link, and for too many or too deep ones.
        """
        seen = {self._address}
        names = self.names()
        left = LINKS_CEILING - len(names)
        todo = [(self, iter(names))]
        while todo:
            group, rest = todo[-1]
            name = next(rest, None)
            if name is None:
                todo.pop()
                continue
            found = group._open(name)
            if found is None or found._address in seen:
                continue
            seen.add(found._address)
            if isinstance(found, Dataset):
                yield found
            else:
                names = found._names(left)
                left -= len(names)
                todo.append((found, iter(names)))

    def _names(self, most: int) -> list[str]:
        with self._tree.told(self.path):
            if self._handle.get_num_objs() > most:
                raise Refused(
                    f"{self._place} has too many links: at most {LINKS_CEILING} are looked at"
                )
            found: list[bytes] = []
            self._handle.links.iterate(found.append)
            return [_text(name) for name in found]

    def _has(self, name: str) -> bool:
        key = _key(name)
        if key is None or "/" in name:  # HDF5 would take it for a path
            return False
        with self._tree.told(self.path):
            return bool(self._handle.links.exists(key))

    def _steps(self, path: str) -> list[str]:
        """The names that a relative path goes through."""
        steps = path.split("/")
        if path.startswith("/") or ".." in steps:
            raise Refused(f"{self._place}: the path '{_shown(path)}' leads out of it")
        return steps

    def _follow(self, steps: list[str]) -> "Group | Dataset | None":
        here: Group | Dataset | None = self
        for step in steps:
            here = here._open(step) if isinstance(here, Group) else None
        return here

    def _open(self, name: str) -> "Group | Dataset | None":
        key = _key(name)
        if key is None or not self._has(name):
            return None
        path = f"{self.path.rstrip('/')}/{name}"
        h5 = library()
        with self._tree.told(path):
            link = self._handle.links.get_info(key)
            kind = link.type
            if kind != h5.h5l.TYPE_HARD:
                raise Refused(
                    f"{self._tree.at(path)} is {self._leading(key, kind)}: links are not followed"
                )
            if path.count("/") > DEPTH_CEILING:
                raise Refused(
                    f"{self._tree.at(path)} lies more than {DEPTH_CEILING} deep: "
                    f"groups within groups are not followed any further"
                )
            handle = h5.h5o.open(self._handle, key)
            if isinstance(handle, h5.h5d.DatasetID):
                return Dataset(self._tree, path, handle, int(link.u))
            if isinstance(handle, h5.h5g.GroupID):
                return Group(self._tree, path, handle, int(link.u))
            return None

    def _leading(self, key: bytes, kind: int) -> str:
        """What a link that is not a hard link is."""
        links, h5l = self._handle.links, library().h5l
        if kind == h5l.TYPE_SOFT:
            return f"a soft link to '{_shown(_text(links.get_val(key)))}'"
        if kind == h5l.TYPE_EXTERNAL:
            return f"an external link to '{_shown(_text(links.get_val(key)[0]))}'"
        return f"a link of kind {kind}"


def _text(raw: bytes | str) -> str:
    return raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")


def _key(name: str) -> bytes | None:
    """A name as HDF5 has it; None for what can be no name."""
    if not name or "\0" in name:
        return None
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def _unpadded(raw: bytes, padding: int) -> bytes:
    """A text of fixed length without what fills it up."""
    h5t = library().h5t
    if padding == h5t.STR_SPACEPAD:
        return raw.rstrip(b" ")
    return raw.split(b"\0", 1)[0] if padding == h5t.STR_NULLTERM else raw.rstrip(b"\0")


def _each(values: Any, of: Callable[[Any], str]) -> Any:
    """The same nesting of lists with each value replaced."""
    return [_each(value, of) for value in values] if isinstance(values, list) else of(values)


def _shape(space: Any) -> tuple[int, ...]:
    if space.get_simple_extent_type() != library().h5s.SIMPLE:
        return ()
    return tuple(map(int, space.get_simple_extent_dims()))


def _plain(kind: Any) -> "np.dtype[Any] | None":
    """The NumPy type with the very bits of an HDF5 type; None where there is none.

    bfloat16 is written as two opaque bytes.
    """
    h5t = library().h5t
    code, size = kind.get_class(), kind.get_size()
    if code == h5t.OPAQUE and size == 2:
        return np.dtype("V2")
    if code == h5t.ENUM:
        return np.dtype(bool) if kind.equal(h5t.py_create(np.dtype(bool), logical=True)) else None
    letters = {h5t.INTEGER: "iu", h5t.FLOAT: "f"}.get(code, "")
    for letter, order in product(letters, "<>"):
        if f"{letter}{size}" in PLAIN:
            dtype = np.dtype(f"{order}{letter}{size}")
            if kind.equal(h5t.py_create(dtype)):
                return dtype
    return None


def _type_name(kind: Any) -> str:
    """What a type is called in listings and messages: NumPy's name, or a few words."""
    plain = _plain(kind)
    if plain is not None:
        return "two opaque bytes" if plain.kind == "V" else plain.name
    h5t = library().h5t
    names = {
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
    return names.get(kind.get_class(), "values of an unknown kind")


def _fill(holder: Any, values: "NDArray[Any]", kind: Any, start: int = 0) -> None:
    """Read an attribute, or a dataset from `start` on, into an array of HDF5's type `kind`."""
    h5 = library()
    if not values.size:
        return
    if isinstance(holder, h5.h5a.AttrID):
        holder.read(values, kind)
        return
    here, there = h5.h5s.create_simple(values.shape), holder.get_space()
    if values.ndim:
        there.select_hyperslab((start,) + (0,) * (values.ndim - 1), values.shape)
    holder.read(here, there, values, kind)


def _native(values: "NDArray[Any]") -> "NDArray[Any]":
    """The same values in native byte order; their bytes are moved, so that a NaN keeps its bits."""
    if values.dtype.kind == "b":
        return np.not_equal(values.view(np.uint8), 0)
    if values.dtype.isnative:
        return values
    return values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))
