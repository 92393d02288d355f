"""An HDF5 file written front to back, to an output that need not seek.

HDF5 lays out a file of which it is given the shapes alone, in memory; that frame, a few kilobytes
for each group, and the arrays are then written in the order in which they stand. So the values are
never copied by HDF5, and no error of the disk passes through it.

The files are of the oldest kind that has checksums over HDF5's own records, without the times of
anything: whatever reads HDF5 reads them, and every version of HDF5 writes the same bytes.
"""

import io
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convfc_cli.errors import Defect
from convfc_cli.hdf5.tree import library
from convfc_cli.matrices.format import Progress
from convfc_cli.matrices.schema import ArrayMember
from convfc_cli.matrices.stored_zip import Sink, write_all

Attributes = Mapping[str, str | list[int]]

MAX_RECORD_BYTES = 60_000
"""Limit on a text that HDF5 stores among its own records, which have checksums: at most 64 kB."""

PAGE = 4096


@dataclass(frozen=True)
class Array:
    """An array of a file, and its attributes."""

    member: ArrayMember
    attributes: Attributes = field(default_factory=dict)

    @classmethod
    def text(cls, name: str, text: str) -> "Array":
        """A single text."""
        raw = np.frombuffer(text.encode(), np.uint8)
        return cls(ArrayMember(name, (), library().string_dtype("utf-8", len(raw)), lambda: [raw]))


@dataclass(frozen=True)
class Folder:
    """A group of a file; `links` are further names of its arrays."""

    name: str
    arrays: Sequence[Array]
    attributes: Attributes
    links: Mapping[str, str]


def write(out: Sink, attributes: Attributes, folders: Sequence[Folder], progress: Progress) -> None:
    """Write a file of these groups; `attributes` are those of its root."""
    # In a thread of its own, where signals raise nothing: h5py would make it another error.
    with ThreadPoolExecutor(1) as thread:
        frame, placed = thread.submit(_laid_out, attributes, folders).result()
    done = 0
    for start, member in sorted(placed, key=lambda place: place[0]):
        write_all(out, frame.part(done, start))
        done = start
        for chunk in member.chunks():
            write_all(out, chunk)
            progress(chunk.nbytes)
            done += chunk.nbytes
        if done != start + member.nbytes:
            raise Defect(f"{member.name} has {done - start} bytes, not {member.nbytes}")
    write_all(out, frame.part(done, frame.size))


def _laid_out(
    attributes: Attributes, folders: Sequence[Folder]
) -> tuple["_Frame", list[tuple[int, ArrayMember]]]:
    """All of a file but its arrays, and where in it each of those begins."""
    frame = _Frame()
    placed: list[tuple[int, ArrayMember]] = []
    with closing(_new_file(frame)) as file:
        root = library().h5g.open(file, b"/")
        _set_attributes(root, attributes)
        for folder in folders:
            placed += _group(root, folder)
    return frame, placed


def _new_file(frame: "_Frame") -> Any:
    h5 = library()
    access = h5.h5p.create(h5.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5.h5f.CLOSE_STRONG)  # what is open in it is closed along
    access.set_libver_bounds(h5.h5f.LIBVER_V18, h5.h5f.LIBVER_V18)
    access.set_fileobj_driver(h5.h5fd.fileobj_driver, frame)
    return h5.h5f.create(b"frame", h5.h5f.ACC_TRUNC, _plan(h5.h5p.FILE_CREATE), access)


def _plan(kind: Any) -> Any:
    """How something is to be made: HDF5 notes the hour unless it is told not to."""
    plan = library().h5p.create(kind)
    plan.set_obj_track_times(False)
    return plan


def _group(root: Any, folder: Folder) -> Iterator[tuple[int, ArrayMember]]:
    """Make a group; yields its arrays, and where each begins."""
    h5 = library()
    group = h5.h5g.create(root, folder.name.encode(), gcpl=_plan(h5.h5p.GROUP_CREATE))
    plan = _plan(h5.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5.h5d.FILL_TIME_NEVER)
    for array in folder.arrays:
        member = array.member
        kind = h5.h5t.py_create(member.dtype, logical=True)
        scalar = member.shape == ()
        space = h5.h5s.create(h5.h5s.SCALAR) if scalar else h5.h5s.create_simple(member.shape)
        among_records = scalar and member.nbytes <= MAX_RECORD_BYTES
        plan.set_layout(h5.h5d.COMPACT if among_records else h5.h5d.CONTIGUOUS)
        dataset = h5.h5d.create(group, member.name.encode(), kind, space, plan)
        _set_attributes(dataset, array.attributes)
        if among_records:
            (content,) = member.chunks()
            dataset.write(h5.h5s.ALL, h5.h5s.ALL, content, kind)
        elif member.nbytes:
            yield dataset.get_offset(), member
    _set_attributes(group, folder.attributes)
    for link, target in folder.links.items():
        group.links.create_hard(link.encode(), group, target.encode())


def _set_attributes(holder: Any, attributes: Attributes) -> None:
    h5 = library()
    for name, value in attributes.items():
        if isinstance(value, str):
            # binsparse's reader in C takes texts of a fixed length alone, and seeks the zero at the
            # end of them.
            kind = h5.string_dtype("utf-8", len(value.encode()) + 1)
            content = np.array(value.encode(), kind)
            space = h5.h5s.create(h5.h5s.SCALAR)
        else:
            content = np.array(value, np.int64)
            space = h5.h5s.create_simple(content.shape)
        made = h5.h5a.create(
            holder, name.encode(), h5.h5t.py_create(content.dtype, logical=True), space
        )
        made.write(content)


class _Frame(io.RawIOBase):
    """A file in memory, of any size: only the pages that something was written to take any."""

    def __init__(self) -> None:
        super().__init__()
        self.size = self._position = 0
        self._pages: dict[int, bytearray] = defaultdict(lambda: bytearray(PAGE))

    def part(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop); what was not written is zero."""
        return b"".join(self._pieces(start, stop))

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        stop = self._position + len(buffer)
        buffer[:] = self.part(self._position, stop)
        self._position = stop
        return len(buffer)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        done, stop = 0, self._position + len(data)
        for piece in self._pieces(self._position, stop):
            piece[:] = data[done : done + len(piece)]
            done += len(piece)
        self._position = stop
        self.size = max(self.size, stop)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size

    def _pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        while start < stop:
            page, offset = divmod(start, PAGE)
            length = min(PAGE - offset, stop - start)
            yield memoryview(self._pages[page])[offset : offset + length]
            start += length
