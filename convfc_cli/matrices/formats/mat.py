"""Matrices as MATLAB's `.mat`, level 5: the sparse matrix `M` and the column vector `bias`.

MATLAB's sparse matrices are of doubles and stored by columns, and so is M. The float32 values of a
layer are doubles like any others; a double that is not a value of the layer's dtype is a wrong one.
The metadata are in the operator file beside it (`sidecar`).

Source: MathWorks, MAT-File Format (R2024a), chapter 1, Level 5 MAT-File Format.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import MalformedInput, Refused, Unsupported, WrongContents
from convfc_cli.files import Input
from convfc_cli.matrices.blocks import Block, CsrReader
from convfc_cli.matrices.format import Progress
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.sidecar import StoredWithSidecar, WithoutMetadata
from convfc_cli.matrices.stored_zip import Sink, write_all
from convfc_cli.outline import Outline

MAGIC = b"MATLAB 5.0 MAT-file"

MAX_BYTES = 2**31
"""A variable of a level 5 file has fewer."""

_HEADER = (MAGIC + b", written by convfc").ljust(116) + bytes(8) + struct.pack("<H", 0x0100) + b"IM"

_INT8, _INT32, _UINT32, _DOUBLE, _MATRIX = 1, 5, 6, 9, 14
"""Types of data elements."""

_SPARSE_CLASS, _DOUBLE_CLASS = 5, 6
"""Classes of arrays."""

_WHOLE: np.dtype[Any] = np.dtype("<i4")
_REAL: np.dtype[Any] = np.dtype("<f8")


@dataclass(frozen=True)
class _Part:
    """An array of the file, the bytes before it, and where in the file it begins."""

    name: str
    frame: bytes
    dtype: np.dtype[Any]
    length: int
    start: int

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + self.length * self.dtype.itemsize


class Mat(WithoutMetadata):
    """A sparse matrix of MATLAB's."""

    name = "mat"
    suffixes = (".mat",)
    forms = ("csr",)
    summary = "MATLAB level 5: sparse `M`, vector `bias`; metadata in the operator file beside it"

    def recognizes(self, source: Input) -> bool:
        return source.head.startswith(MAGIC)

    def own_size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> int:
        return _parts(spec, outline)[-1].stop

    def write(self, matrices: Sequence[Matrix], out: Sink, progress: Progress) -> None:
        (matrix,) = matrices
        columns = matrix.transposed().rows_of.matrix(matrix.layout)
        for part in _parts(matrix.spec, matrix.layer.outline):
            write_all(out, part.frame)
            stored: Iterable[Array] = [matrix.bias]
            if part.name != "bias":
                stored = getattr(columns, part.name).chunks()
            for values in stored:
                chunk = _converted(values, part.dtype)
                write_all(out, chunk)
                progress(chunk.nbytes)

    def stored(self, source: Input, matrix: Matrix, beside: str) -> "_StoredMat":
        return _StoredMat(source, matrix, beside)


FORMAT = Mat()


def _parts(spec: Spec, outline: Outline) -> list[_Part]:
    """The four arrays; the last ends where the file does. Raises `Refused` beyond `MAX_BYTES`."""
    (rows, columns), nnz, outputs = spec.shape(outline), outline.nnz, outline.rows
    bias = [("bias", _REAL, outputs)]
    sparse = [("indices", _WHOLE, nnz), ("indptr", _WHOLE, columns + 1), ("data", _REAL, nnz)]
    parts: list[_Part] = []
    for variable in (bias, sparse):
        sizes = [length * dtype.itemsize for _, dtype, length in variable]
        total = 40 + sum(8 + size + -size % 8 for size in sizes)
        if total >= MAX_BYTES:
            raise Refused(
                f"a variable of a .mat file has less than {MAX_BYTES} bytes, and of a matrix of "
                f"{rows} x {columns} with {nnz} nonzeros one has {total}: take *.npz or *.h5, "
                f"or take the form operator, which stores no entries"
            )
        if variable is bias:
            frame = _HEADER + _tag(_MATRIX, total) + _head(_DOUBLE_CLASS, 0, outputs, 1, b"bias")
        else:
            frame = _tag(_MATRIX, total) + _head(_SPARSE_CLASS, max(nnz, 1), rows, columns, b"M")
        for (name, dtype, length), size in zip(variable, sizes, strict=True):
            frame += _tag(_DOUBLE if dtype == _REAL else _INT32, size)
            start = (parts[-1].stop if parts else 0) + len(frame)
            parts.append(_Part(name, frame, dtype, length, start))
            frame = bytes(-size % 8)
    return parts


def _head(kind: int, entries: int, rows: int, columns: int, name: bytes) -> bytes:
    """What an array begins with: 40 bytes."""
    flags = _tag(_UINT32, 8) + struct.pack("<II", kind, entries)
    sizes = _tag(_INT32, 8) + struct.pack("<ii", rows, columns)
    return flags + sizes + struct.pack("<HH4s", _INT8, len(name), name)


def _tag(kind: int, size: int) -> bytes:
    return struct.pack("<II", kind, size)


def _converted(values: Array, dtype: np.dtype[Any]) -> Array:
    """The values in a dtype that holds them. Raises `Unsupported` where it does not."""
    with np.errstate(invalid="ignore"):
        converted = np.ascontiguousarray(values, dtype)
        back = converted.astype(values.dtype)
    if back.tobytes() != values.tobytes():
        raise Unsupported(
            "a weight is a signalling NaN of float32, which no double is: .npz has it"
        )
    return converted


class _StoredMat(StoredWithSidecar):
    explicit_zeros = True
    stores_transpose = True

    def __init__(self, source: Input, matrix: Matrix, beside: str) -> None:
        super().__init__(source, matrix)
        parts = _parts(matrix.spec, matrix.layer.outline)
        if source.size != parts[-1].stop:
            raise MalformedInput(
                f"{source.name} has {source.size} bytes, where {beside} gives it {parts[-1].stop}"
            )
        for part in parts:
            start = part.start - len(part.frame)
            source.file.seek(start)
            if source.file.read(len(part.frame)) != part.frame:
                raise MalformedInput(
                    f"{source.name} is not as convfc writes the matrix of {beside}: other bytes "
                    f"stand before {part.name}, in [{start}, {part.start})"
                )
        self._arrays = {part.name: _Array(source, part) for part in parts}
        doubles = _Values(self._arrays["data"], matrix.layer.dtype)
        arrays = self._arrays
        first = matrix.transposed().rows.start
        self._columns = CsrReader(arrays["indptr"], arrays["indices"], doubles, first, "column")

    def bias(self) -> Array:
        part = self._arrays["bias"]
        return _Values(part, self.matrix.layer.dtype).read(part.length)

    def rows(self, counts: Array) -> Iterator[Block]:
        return self._columns.rows(counts)

    def finish(self) -> None:
        """Nothing is left to check: the size was, and the format has no checksum."""


class _Array:
    """An array of the file, read from front to back."""

    def __init__(self, source: Input, part: _Part) -> None:
        self.name, self.length = f"{source.name}: {part.name}", part.length
        self._file, self._dtype, self._place = source.file, part.dtype, part.start

    def read(self, count: int) -> Array:
        """The next `count` elements."""
        self._file.seek(self._place)
        data = self._file.read(count * self._dtype.itemsize)
        if len(data) != count * self._dtype.itemsize:
            raise MalformedInput(f"{self.name} is cut short")
        self._place += len(data)
        return np.frombuffer(data, self._dtype)


class _Values:
    """Doubles as values of a dtype. Raises `WrongContents` for one that is none."""

    def __init__(self, doubles: _Array, dtype: np.dtype[Any]) -> None:
        self._doubles, self._dtype = doubles, dtype

    def read(self, count: int) -> Array:
        """The next `count` values."""
        doubles = self._doubles.read(count)
        with np.errstate(over="ignore", invalid="ignore"):
            values = doubles.astype(self._dtype)
            wrong = np.flatnonzero(values.astype(_REAL).view(np.uint64) != doubles.view(np.uint64))
        if len(wrong):
            at = int(wrong[0])
            raise WrongContents(
                f"{self._doubles.name} has {doubles[at]!s}, which is not a {self._dtype.name}"
            )
        return values
