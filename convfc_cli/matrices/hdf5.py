"""Matrices as HDF5, one group for each layer: opened by anndata and by binsparse as they are.

The root has one attribute, `convfc`: the schema. A group is named as the file of its layer would
be, and holds, in the schema `convfc/1`,

    convfc        the metadata: JSON (`matrix.describe`)
    kernel        (out, in/groups, *spatial)
    kernel_bias   one value an output channel         only where the layer has a bias
    bias          one value an output                 only in csr form, as all up to kernel_index
    indptr, indices, data    CSR
    pointers_to_1, indices_1, values    the same three objects, as binsparse calls them
    kernel_index  for each entry its flat index into `kernel`    only on request
    dense         (rows, columns)                     only in dense form

and the attributes that the two packages know a matrix by: `encoding-type`, `encoding-version` and
`shape`, and `binsparse`.

HDF5 lays out a file of which it is given the shapes alone, in memory; that frame, a few kilobytes
for each layer, and the arrays are then written in the order in which they stand. So the values are
never copied by HDF5, the output need not seek, and no error of the disk passes through HDF5.
"""

import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import Defect, MalformedInput, WrongContents
from convfc_cli.files import Input
from convfc_cli.hdf5_input import SIGNATURE, Dataset, Group, open_tree
from convfc_cli.hdf5_input import _h5py as library
from convfc_cli.matrices.container import write_all
from convfc_cli.matrices.format import (
    Block,
    CsrReader,
    MatrixFormat,
    Progress,
    Stored,
    dense_chunks,
    dense_rows,
)
from convfc_cli.matrices.matrix import (
    SCHEMA,
    Matrix,
    Origin,
    Spec,
    describe,
    restore,
    stated_digest,
)
from convfc_cli.naming import stem
from convfc_cli.streams import index_dtype
from convfc_cli.taps import IndexMap

Array = NDArray[Any]
Attributes = dict[str, str | list[int]]

_INDICES = (np.dtype(np.int32), np.dtype(np.int64))

_LINKS = {"values": "data", "indices_1": "indices", "pointers_to_1": "indptr"}
"""What binsparse calls the arrays, and what SciPy and anndata call them."""

_DENSE_ATTRIBUTES: Attributes = {"encoding-type": "array", "encoding-version": "0.2.0"}

LONGEST_TEXT = 2**22
"""Bytes of metadata that are accepted: a real description has a few thousand."""

_LARGEST_RECORD = 60_000
"""Bytes of metadata that HDF5 takes among its own records, which have checksums: at most 64 kB."""

PAGE = 4096


class Hdf5(MatrixFormat):
    """A group for each layer, readable by anndata and binsparse."""

    name = "hdf5"
    suffixes = (".h5", ".hdf5")
    forms = ("csr", "operator", "dense")
    summary = "one group for each layer, which `anndata.io.read_elem` and binsparse open"
    several = True

    def recognises(self, source: Input) -> bool:
        return source.head.startswith(SIGNATURE)

    def size(self, spec: Spec, index_map: IndexMap, dtype: np.dtype[Any]) -> int:
        frame = 8192  # metadata, attributes, HDF5's own records
        shape, kernel = spec.shape(index_map), prod(index_map.kernel_shape)
        total = frame + (kernel + index_map.output_shape[0]) * dtype.itemsize
        if spec.form == "operator":
            return total
        if spec.form == "dense":
            return total + prod(shape) * dtype.itemsize
        index = np.dtype(index_dtype(index_map.nnz, shape)).itemsize
        entry = dtype.itemsize + index
        if spec.kernel_index:
            entry += np.dtype(index_dtype(kernel, (0, 0))).itemsize
        pointers = (shape[0] + 1) * index
        return total + index_map.nnz * entry + pointers + index_map.rows * dtype.itemsize

    def write(self, matrices: Sequence[Matrix], out: BinaryIO, progress: Progress) -> None:
        # In a thread of its own, where signals raise nothing: h5py would make it another error.
        with ThreadPoolExecutor(1) as thread:
            frame, arrays = thread.submit(_laid_out, matrices).result()
        done = 0
        for start, array in sorted(arrays, key=lambda placed: placed[0]):
            write_all(out, frame.part(done, start))
            done = start
            for chunk in array.chunks():
                write_all(out, chunk)
                progress(chunk.nbytes)
                done += chunk.nbytes
            if done != start + array.nbytes:
                raise Defect(f"{array.name} has {done - start} bytes, not {array.nbytes}")
        write_all(out, frame.part(done, frame.size))

    def open(self, source: Input, beside: Input | None = None) -> tuple[Stored, ...]:
        root = open_tree(source)
        _check_root(source, root)
        found = []
        for name in root.names():
            group = root.group(name)
            if group is None:
                raise MalformedInput(f"{source.name}: {name!r} is not the group of a layer")
            found.append(_StoredHdf5(f"{source.name}/{name}", group))
        if not found:
            raise MalformedInput(f"{source.name} holds no matrix")
        names = _group_names([stored.matrix.origin for stored in found])
        for stored, name in zip(found, names, strict=True):
            if stored.name != f"{source.name}/{name}":
                raise MalformedInput(
                    f"{stored.name} holds the layer of a group {name!r}, by its metadata"
                )
        return tuple(sorted(found, key=lambda stored: stored.matrix.origin.position))


FORMAT = Hdf5()


def _group_names(origins: Sequence[Origin]) -> list[str]:
    """What the groups of a file are called: in order of name as in the model's order."""
    width = max([3, *(len(str(origin.position)) for origin in origins)])
    return [stem(origin.position, origin.layer, width) for origin in origins]


def _attributes(matrix: Matrix, dtypes: dict[str, np.dtype[Any]]) -> Attributes:
    """The attributes of a group whose arrays have these dtypes."""
    if matrix.form != "csr":
        return {}
    binsparse = {
        "version": "0.1.0",
        "format": "CSR",
        "shape": matrix.shape,
        "number_of_stored_values": matrix.layer.index_map.nnz,
        "data_types": {name: dtypes[own].name for name, own in _LINKS.items()},
    }
    return {
        "encoding-type": "csr_matrix",
        "encoding-version": "0.1.0",
        "shape": list(matrix.shape),
        "binsparse": json.dumps({"binsparse": binsparse}),
    }


# --- writing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Array:
    """An array of a file: `chunks` makes its values when they are to be written, not before."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: Callable[[], Iterable[Array]]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def _arrays(matrix: Matrix) -> Iterator[_Array]:
    """The arrays of a group."""
    layer, index_map, form = matrix.layer, matrix.layer.index_map, matrix.form
    text = np.frombuffer(describe(matrix).encode(), np.uint8)
    yield _Array("convfc", (), library().string_dtype("utf-8", len(text)), lambda: [text])
    yield _whole("kernel", layer.kernel)
    if layer.bias is not None:
        yield _whole("kernel_bias", layer.bias)
    if form == "dense":
        yield _Array("dense", matrix.shape, layer.dtype, lambda: dense_chunks(matrix))
    if form != "csr":
        return

    def streamed(name: str, length: int, dtype: Any) -> _Array:
        def chunks() -> Iterator[Array]:
            rows = layer.rows(matrix.layout, kernel_index=name == "kernel_index")
            yield from getattr(rows, name).chunks()

        return _Array(name, (length,), np.dtype(dtype), chunks)

    nnz, index = index_map.nnz, index_dtype(index_map.nnz, matrix.shape)
    yield _Array(
        "bias", (index_map.rows,), layer.dtype, lambda: [np.ascontiguousarray(matrix.bias)]
    )
    yield streamed("indptr", matrix.shape[0] + 1, index)
    yield streamed("indices", nnz, index)
    yield streamed("data", nnz, layer.dtype)
    if matrix.spec.kernel_index:
        yield streamed("kernel_index", nnz, index_dtype(layer.kernel.size, (0, 0)))


def _whole(name: str, array: Array) -> _Array:
    return _Array(name, array.shape, array.dtype, lambda: [np.ascontiguousarray(array)])


def _laid_out(matrices: Sequence[Matrix]) -> tuple["_Frame", list[tuple[int, "_Array"]]]:
    """All of a file but its arrays, and where in it each of those begins."""
    frame = _Frame()
    arrays: list[tuple[int, _Array]] = []
    with closing(_new_file(frame)) as file:
        root = library().h5g.open(file, b"/")
        _set_attributes(root, {"convfc": SCHEMA})
        names = _group_names([matrix.origin for matrix in matrices])
        for name, matrix in zip(names, matrices, strict=True):
            arrays += _group(root, name, matrix)
    return frame, arrays


def _new_file(frame: "_Frame") -> Any:
    """An HDF5 file without the times of anything, of the oldest kind that has checksums over HDF5's
    own records: whatever reads HDF5 reads it, and every version of HDF5 writes the same bytes.
    """
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


def _group(root: Any, name: str, matrix: Matrix) -> Iterator[tuple[int, _Array]]:
    """Make the group of a matrix; yields its arrays, and where each begins."""
    h5 = library()
    group = h5.h5g.create(root, name.encode(), gcpl=_plan(h5.h5p.GROUP_CREATE))
    plan = _plan(h5.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5.h5d.FILL_TIME_NEVER)
    dtypes = {}
    for array in _arrays(matrix):
        kind = h5.h5t.py_create(array.dtype, logical=True)
        scalar = array.shape == ()
        space = h5.h5s.create(h5.h5s.SCALAR) if scalar else h5.h5s.create_simple(array.shape)
        among_records = scalar and array.nbytes <= _LARGEST_RECORD
        plan.set_layout(h5.h5d.COMPACT if among_records else h5.h5d.CONTIGUOUS)
        dataset = h5.h5d.create(group, array.name.encode(), kind, space, plan)
        dtypes[array.name] = array.dtype
        if array.name == "dense":
            _set_attributes(dataset, _DENSE_ATTRIBUTES)
        if among_records:
            (content,) = array.chunks()
            dataset.write(h5.h5s.ALL, h5.h5s.ALL, content, kind)
        elif array.nbytes:
            yield dataset.get_offset(), array
    _set_attributes(group, _attributes(matrix, dtypes))
    if matrix.form == "csr":
        for link, own in _LINKS.items():
            group.links.create_hard(link.encode(), group, own.encode())


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
        """The bytes [start, stop); what nobody has written is zero."""
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


# --- reading ------------------------------------------------------------------------------------


class _StoredHdf5(Stored):
    """The matrix of a group.

    What its arrays and attributes say is held to the geometry when rows or bias are first asked
    for: a group that is wrong says nothing of the others.
    """

    def __init__(self, name: str, group: Group) -> None:
        self.name, self._group = name, group
        self._datasets: dict[str, Dataset] = {}
        for member in group.names():
            dataset = group.dataset(member)
            if dataset is None:
                raise MalformedInput(f"{name}: {member!r} is no array")
            self._datasets[member] = dataset
        text = self._text()
        kernel = self._dataset("kernel").read()
        bias = self._dataset("kernel_bias").read() if "kernel_bias" in self._datasets else None
        try:
            self.matrix = restore(text, kernel, bias)
        except MalformedInput as error:
            raise MalformedInput(f"{name}: {error}") from error
        self.stated_digest = stated_digest(text)
        self.structural = self.matrix.form != "dense"
        self._check_members()
        self._row = 0

    def bias(self) -> Array:
        return self._checked["bias"].read() if self.structural else self.matrix.bias

    def rows(self, counts: Array) -> Iterator[Block]:
        if not self.structural:
            first, self._row = self._row, self._row + len(counts)
            yield from dense_rows(first, len(counts), self.matrix.shape[1], self._dense)
            return
        for block in self._csr.rows(counts):
            if self._kernel_index is not None:
                block = replace(block, kernel_index=self._kernel_index.read(len(block.data)))
            yield block

    def finish(self) -> None:
        """Nothing is left to check: no array has more elements than the geometry gives it."""

    def check_undamaged(self) -> None:
        """HDF5 has checksums of its own records, but none of the arrays unless they are compressed:
        what is wrong in them cannot be told from damage.
        """

    @cached_property
    def _csr(self) -> CsrReader:
        indptr, indices, data = (
            _Sequence(self._checked[name]) for name in ("indptr", "indices", "data")
        )
        return CsrReader(indptr, indices, data)

    @cached_property
    def _kernel_index(self) -> "_Sequence | None":
        numbered = self.matrix.spec.kernel_index
        return _Sequence(self._checked["kernel_index"]) if numbered else None

    @cached_property
    def _dense(self) -> "_Sequence":
        return _Sequence(self._checked["dense"])

    @cached_property
    def _checked(self) -> dict[str, Dataset]:
        """The arrays. Raises `WrongContents` where they, or what the attributes say of them, are
        not as the geometry has them.
        """
        matrix, index_map = self.matrix, self.matrix.layer.index_map
        real = (matrix.layer.dtype,)
        nnz = (index_map.nnz,)
        expected = {
            "bias": ((index_map.rows,), real),
            "indptr": ((matrix.shape[0] + 1,), _INDICES),
            "indices": (nnz, _INDICES),
            "data": (nnz, real),
            "kernel_index": (nnz, _INDICES),
            "dense": (matrix.shape, real),
        }
        for name, dataset in self._datasets.items():
            if name not in expected:
                continue
            shape, kinds = expected[name]
            if dataset.dtype not in kinds:
                wanted = f"the kernel {real[0]}" if kinds is real else "not int32 or int64"
                raise WrongContents(f"{name} is {dataset.type_name}, {wanted}")
            if dataset.shape != shape:
                raise WrongContents(
                    f"{name} has shape {dataset.shape}, where the geometry gives {shape}"
                )
        dtypes = {name: dataset.dtype for name, dataset in self._datasets.items()}
        _check_attributes(self._group, _attributes(matrix, dtypes))
        if not self.structural:
            _check_attributes(self._datasets["dense"], _DENSE_ATTRIBUTES)
        return self._datasets

    def _check_members(self) -> None:
        """Every member and attribute that the form asks for and no other: nothing unread is called
        verified.
        """
        matrix = self.matrix
        names = {"convfc", "kernel"}
        names |= {"kernel_bias"} if matrix.layer.bias is not None else set()
        if matrix.form == "csr":
            names |= {"bias", "indptr", "indices", "data", *_LINKS}
            names |= {"kernel_index"} if matrix.spec.kernel_index else set()
        names |= {"dense"} if matrix.form == "dense" else set()
        _check_names(self.name, "array", self._datasets, names)
        for link in _LINKS.keys() & names:
            own = _LINKS[link]
            if not self._datasets[link].same_object(self._datasets[own]):
                raise MalformedInput(f"{self.name}: {link} is another array than {own}")
        dtypes = {name: dataset.dtype for name, dataset in self._datasets.items()}
        _check_names(
            self.name, "attribute", self._group.attributes(), set(_attributes(matrix, dtypes))
        )
        for name, dataset in self._datasets.items():
            allowed = set(_DENSE_ATTRIBUTES) if name == "dense" else set()
            _check_names(f"{self.name}/{name}", "attribute", dataset.attributes(), allowed)

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            raise MalformedInput(f"{self.name} has no array {name!r}")
        return self._datasets[name]

    def _text(self) -> str:
        dataset = self._dataset("convfc")
        text = dataset.text() if dataset.nbytes <= LONGEST_TEXT else None
        if text is None or len(text) > LONGEST_TEXT:
            raise MalformedInput(f"{self.name}: convfc has more than {LONGEST_TEXT} bytes")
        return text


class _Sequence:
    """An array of the file, read from front to back."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._next = dataset, 0
        self._width = prod(dataset.shape[1:])

    def read(self, count: int) -> Array:
        """The next `count` elements: whole rows, where there are rows."""
        start, self._next = self._next, self._next + count // self._width
        return self._dataset.part(start, self._next).reshape(-1)


def _check_names(where: str, what: str, found: Iterable[str], expected: set[str]) -> None:
    if missing := sorted(expected - set(found)):
        raise MalformedInput(f"{where} has no {what} {missing[0]!r}")
    if unknown := sorted(set(found) - expected):
        raise MalformedInput(f"{where} has an {what} {unknown[0]!r}, which the schema lacks")


def _check_attributes(holder: Group | Dataset, expected: Attributes) -> None:
    for name, value in expected.items():
        found = json.dumps(holder.attribute(name))  # tells 1 from 1.0 and from true
        if found != json.dumps(value):
            raise WrongContents(
                f"attribute {name} is {found[:200]}, where the geometry gives {json.dumps(value)}"
            )


def _check_root(source: Input, root: Group) -> None:
    schema = root.attribute("convfc")
    if schema is None:
        raise MalformedInput(
            f"{source.name} is HDF5, but no matrix file that convfc writes: its root has no "
            f"attribute convfc"
        )
    if schema != SCHEMA:
        raise MalformedInput(f"{source.name}: its schema is {str(schema)[:80]!r}, not {SCHEMA!r}")
    _check_names(source.name, "attribute", root.attributes(), {"convfc"})
    _check_end(source)


def _check_end(source: Input) -> None:
    """Raise unless the file ends where it says: HDF5 itself takes longer ones.

    Source: HDF5 File Format Specification 3.0, section II.A (the superblock).
    """
    place = {0: 40, 1: 44, 2: 28, 3: 28}.get(source.head[8], 0)
    end = int.from_bytes(source.head[place : place + 8], "little")
    if end != source.size:
        raise MalformedInput(f"{source.name} has {source.size} bytes, by its own account {end}")
