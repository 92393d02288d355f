"""An untrusted HDF5 file, opened safely: the only place that reads HDF5.

HDF5 is a file system in a file. It can point outside of itself, declare far more than it holds, and
ask for code to be loaded in order to be read. None of that happens here:

- only hard links are followed; external and virtual storage is refused; no filter plugin is loaded;
- what a dataset declares is held against what the file stores before any memory is taken;
- HDF5 lists the file, in a child process (`survey`), and reads no values: they are taken as
  they are stored, and chunks are expanded here, each to its own size at most;
- whatever HDF5 raises is a `MalformedInput` of one line, and so is a crash of it.

Names and text are UTF-8; a byte that is not becomes a lone surrogate, as in Python's file names.
"""

import errno
import io
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from convfc_cli.contained import Limits, run
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported
from convfc_cli.files import Input
from convfc_cli.hdf5.chunks import MAX_READ_BYTES, Chunks
from convfc_cli.hdf5.survey import (
    MAX_DEPTH,
    MAX_UNWRITTEN_BYTES,
    Array,
    Attributes,
    Folder,
    Survey,
    at,
    check_stored,
    damaged,
    native,
    reason,
    shown,
    survey,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = b"\x89HDF\r\n\x1a\n"

LIMITS = Limits(memory=2**29, seconds=10)
"""What HDF5 may take to list a file: it takes what a text of varying length says that it has."""

GCOL = b"GCOL"
"""What a heap of texts of varying length begins with."""

_trees: "WeakKeyDictionary[Input, Group]" = WeakKeyDictionary()
"""The roots of the files that are open, so that each is listed once."""


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

    Raises `MalformedInput` for a file that is damaged, cut short, or not HDF5, `Refused` for one
    that takes too long or too much memory to list.
    """
    if source not in _trees:
        (_trees[source],) = open_trees([source], source.name)
    return _trees[source]


def open_trees(sources: Iterable[Input], name: str) -> "list[Group]":
    """The roots of several files, as `open_tree`; the limits are those of all together.

    Each source may be closed when the next one is requested. `name` is what belongs to all of them,
    for messages. Raises `Refused` also where the system lets too few files be open at once.
    """
    h5 = library()
    try:
        files = [(source.name, _bytes(source)) for source in sources]
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise Refused(
            f"{name}: the system lets no more files be open at once: raise its limit (ulimit -n)"
        ) from error

    def listed() -> list[Survey]:
        return [_listed(h5, content, file) for file, content in files]

    surveys = run(listed, f"{name}: listing what it holds", LIMITS)
    return [
        _root(_Tree(file, content, listing))
        for (file, content), listing in zip(files, surveys, strict=True)
    ]


def _bytes(source: Input) -> "_Bytes":
    start = _start(source)
    if start is None:
        raise MalformedInput(f"{source.name} is not an HDF5 file: the signature is missing")
    return _Bytes(source.file.fileno(), start, source.size - start)


def _listed(h5: Any, content: "_Bytes", name: str) -> Survey:
    try:
        return survey(h5, h5.File(content, "r"), content, name)
    except (ConvfcError, MemoryError):
        raise
    except Exception as error:
        raise MalformedInput(f"{name} is a damaged HDF5 file: {reason(error)}") from error


def _root(tree: "_Tree") -> "Group":
    root = _given(tree.survey.objects[tree.survey.root])
    if not isinstance(root, Folder):
        raise MalformedInput(f"{tree.name} is a damaged HDF5 file: its root is not a group")
    return Group(tree, "/", tree.survey.root, root)


@cache
def library() -> Any:
    """h5py, imported when it is needed, after it is kept from loading code for any file."""
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    import h5py

    return h5py


class _Bytes(io.RawIOBase):
    """The bytes of a file from its signature on, with their own descriptor and position.

    HDF5 keeps texts of varying length in heaps. A heap in which it would loop forever is an error.
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
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self.size
        self._position = offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        position = self._position
        self.read_at(position, view)
        self._position += len(view)
        if bytes(view[:4]) == GCOL:
            self._check_heap(position)
        return len(view)

    def read_at(self, position: int, view: memoryview) -> None:
        """Fill a view with the bytes from a position on; the position of HDF5 stays as it is."""
        self._check_inside(position, len(view))
        done = 0
        while done < len(view):
            piece = view[done : done + 2**30]  # not every system reads more at once
            count = os.preadv(self._descriptor, [piece], self._start + position + done)
            if not count:  # HDF5 would take what was in its memory for read
                raise OSError("the file ends before what is read of it")
            done += count

    def at(self, position: int, count: int) -> bytearray:
        """Return `count` bytes from a position on."""
        self._check_inside(position, count)
        buffer = bytearray(count)
        self.read_at(position, memoryview(buffer))
        return buffer

    def _check_inside(self, position: int, count: int) -> None:
        if position + count > self.size:
            raise OSError("more is to be read than the file has")

    def _check_heap(self, start: int) -> None:
        """Raise unless the objects of a heap fill it: HDF5 would go round forever."""
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
    survey: Survey


def _given(value: Any) -> Any:
    """Return a value, or raise it if it is an error: a copy of it, as an error that is raised
    again keeps the frames of each time.
    """
    if isinstance(value, ConvfcError):
        raise copy(value)
    return value


class _Object:
    """What groups and datasets have in common: a path, and attributes."""

    def __init__(self, tree: _Tree, path: str, address: int, attributes: Attributes) -> None:
        self.path = path
        self._tree = tree
        self._address = address
        self._attributes = attributes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place}>"

    @property
    def _place(self) -> str:
        return at(self._tree.name, self.path)

    def _damaged(self, reason: str) -> MalformedInput:
        return damaged(self._tree.name, self.path, reason)

    def same_object(self, other: "_Object") -> bool:
        """Whether both are one object of one file, under two names perhaps."""
        return self._tree is other._tree and self._address == other._address

    def attributes(self) -> list[str]:
        """The names of its attributes, in order of name."""
        return list(_given(self._attributes))

    def attribute(self, name: str) -> Any:
        """The value of an attribute in plain Python; None where it is absent.

        Text of any kind is `str`; several values are a list, nested where they have several axes;
        no value is "" if it is text, else []. Raises `MalformedInput` for what is neither text
        nor integers, floats or booleans, `Refused` for too much of it.
        """
        return _given(_given(self._attributes).get(name))


class Dataset(_Object):
    """An array in the file; its values are read when they are needed.

    `shape` is () for a single value, and where there is none. `dtype` is that of what `read` gives;
    for what it does not read (text, records, references, ...) `object`: `type_name` says what it
    is.
    """

    def __init__(self, tree: _Tree, path: str, address: int, array: Array) -> None:
        super().__init__(tree, path, address, array.attributes)
        self._array = array
        self.shape = array.shape
        self.type_name = array.type_name
        self.dtype = array.dtype.newbyteorder("=")
        self._chunks: Chunks | None = None
        if array.chunks is not None:
            self._chunks = Chunks(
                array.chunks,
                array.shape,
                array.dtype,
                array.item,
                array.filler,
                tree.bytes,
                self._place,
            )

    @property
    def nbytes(self) -> int:
        """Bytes that it declares to have, stored or not."""
        return self._array.nbytes

    def read(self) -> "NDArray[Any]":
        """All of it, in native byte order.

        Raises `Unsupported` for what is not a plain array, or compressed by anything but gzip,
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
        if self._array.text is None:
            raise self._damaged(f"{self.type_name} of shape {self.shape}, not a text")
        return str(_given(self._array.text))

    def _read(self, start: int, stop: int) -> "NDArray[Any]":
        if self.dtype.hasobject or self._array.is_null:
            what = "nothing" if self._array.is_null else self.type_name
            raise Unsupported(
                f"{self._place} holds {what}: only integers, floats and booleans are read"
            )
        self._check_stored()
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        size = math.prod(shape) * self._array.item
        if size > MAX_READ_BYTES:
            raise Refused(
                f"{self._place}: {size} bytes are too many to be read at once: "
                f"at most {MAX_READ_BYTES} are"
            )
        values = np.empty(shape, self._array.dtype)
        try:
            if values.size:
                self._fill(values, start)
        except (OSError, ValueError, zlib.error) as error:
            raise self._damaged(reason(error)) from error
        return native(values)

    def _fill(self, values: "NDArray[Any]", start: int) -> None:
        """Read rows from `start` on into an array of the dtype that is stored."""
        place = self._array.place
        if self._chunks is not None:
            self._chunks.fill(values, start)
        elif place is None:
            values[...] = self._array.filler
        else:
            view = values.reshape(-1).view(np.uint8).data
            first = start * (values.nbytes // len(values)) if values.ndim else 0
            if isinstance(place, bytes):
                view[:] = place[first : first + len(view)]
            else:
                self._tree.bytes.read_at(place + first, view)

    def _check_stored(self) -> None:
        """Raise unless the file can hold what the dataset declares."""
        stored = self._array.stored
        most = stored or MAX_UNWRITTEN_BYTES
        if self._chunks is not None:
            self._chunks.check()
            most = self._chunks.most(stored)
        check_stored(self._array, most, self._tree.bytes, self._place)


class Group(_Object):
    """A folder of groups and datasets. Paths in it are relative: "a/b"."""

    def __init__(self, tree: _Tree, path: str, address: int, folder: Folder) -> None:
        super().__init__(tree, path, address, folder.attributes)
        self._folder = folder

    def names(self) -> list[str]:
        """The names of its links in order, of whatever kind and wherever they lead."""
        return list(_given(self._folder.links))

    def __contains__(self, name: str) -> bool:
        """Whether there is a link of that name, of whatever kind."""
        *above, last = self.steps(name)
        holder = self._follow(above)
        return isinstance(holder, Group) and last in _given(holder._folder.links)

    def child(self, name: str) -> "Group | Dataset | None":
        """The object of that name; None where there is none, or one that holds nothing.

        Raises `Refused` where a link on the way is not a hard link.
        """
        return self._follow(self.steps(name))

    def group(self, name: str) -> "Group | None":
        """The group of that name; None where there is none."""
        child = self.child(name)
        return child if isinstance(child, Group) else None

    def dataset(self, name: str) -> Dataset | None:
        """The dataset of that name; None where there is none."""
        child = self.child(name)
        return child if isinstance(child, Dataset) else None

    def walk(self) -> Iterator[Dataset]:
        """All datasets below in order of name, each once, however many names it has.

        Raises `Refused` for a link that is not a hard link, and for too many or too deep ones.
        """
        seen = {self._address}
        todo = [(self, iter(self.names()))]
        while todo:
            group, rest = todo[-1]
            name = next(rest, None)
            if name is None:
                todo.pop()
                continue
            child = group._open(name)
            if child is None or child._address in seen:
                continue
            seen.add(child._address)
            if isinstance(child, Dataset):
                yield child
            else:
                todo.append((child, iter(child.names())))

    def steps(self, path: str) -> list[str]:
        """The names that a relative path goes through; raises `Refused` where it leads out."""
        steps = path.split("/")
        if path.startswith("/") or ".." in steps:
            raise Refused(f"{self._place}: the path '{shown(path)}' leads out of it")
        return steps

    def _follow(self, steps: list[str]) -> "Group | Dataset | None":
        here: Group | Dataset | None = self
        for step in steps:
            here = here._open(step) if isinstance(here, Group) else None
        return here

    def _open(self, name: str) -> "Group | Dataset | None":
        link = _given(_given(self._folder.links).get(name))
        if link is None:
            return None
        tree, path = self._tree, f"{self.path.rstrip('/')}/{name}"
        if isinstance(link, str):
            raise Refused(f"{at(tree.name, path)} is {link}: links are not followed")
        if path.count("/") > MAX_DEPTH:
            raise Refused(
                f"{at(tree.name, path)} lies more than {MAX_DEPTH} deep: "
                f"groups within groups are not followed any further"
            )
        entry = _given(tree.survey.objects[link])
        if isinstance(entry, Array):
            return Dataset(tree, path, link, entry)
        return None if entry is None else Group(tree, path, link, entry)
