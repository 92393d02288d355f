"""Matrices as `.npy`: every entry of the dense matrix, row by row.

The metadata are in the operator file beside it (`sidecar`).
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import MalformedInput, WrongContents
from convfc_cli.files import Input
from convfc_cli.matrices.blocks import Block, dense_chunks, dense_rows
from convfc_cli.matrices.format import Progress
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.npy_header import header, read_header
from convfc_cli.matrices.sidecar import StoredWithSidecar, WithoutMetadata
from convfc_cli.matrices.stored_zip import Sink, write_all
from convfc_cli.outline import Outline


class Npy(WithoutMetadata):
    """A dense array."""

    name = "npy"
    suffixes = (".npy",)
    forms = ("dense",)
    summary = "`numpy.load` opens it; metadata in the operator file beside it"

    def recognizes(self, source: Input) -> bool:
        return source.head.startswith(b"\x93NUMPY")

    def own_size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> int:
        shape = spec.shape(outline)
        return len(header(shape, dtype)) + prod(shape) * dtype.itemsize

    def write(self, matrices: Sequence[Matrix], out: Sink, progress: Progress) -> None:
        (matrix,) = matrices
        write_all(out, header(matrix.shape, matrix.layer.dtype))
        for rows in dense_chunks(matrix):
            write_all(out, rows)
            progress(rows.nbytes)

    def stored(self, source: Input, matrix: Matrix, beside: str) -> "_StoredNpy":
        return _StoredNpy(source, matrix, beside)


FORMAT = Npy()


class _StoredNpy(StoredWithSidecar):
    explicit_zeros = False

    def __init__(self, source: Input, matrix: Matrix, beside: str) -> None:
        super().__init__(source, matrix)
        self._file = source.file
        source.file.seek(0)
        shape, dtype, length = read_header(source.file, source.name)
        if prod(shape) * dtype.itemsize + length != source.size:
            raise MalformedInput(
                f"{source.name} has {source.size} bytes, which does not match its header"
            )
        if shape != matrix.shape or dtype != matrix.layer.dtype:
            raise WrongContents(
                f"{source.name} is {shape} of {dtype}, where {beside} says "
                f"{matrix.shape} of {matrix.layer.dtype}"
            )
        self._dtype, self._row = dtype, matrix.rows.start

    def rows(self, counts: NDArray[Any]) -> Iterator[Block]:
        first, self._row = self._row, self._row + len(counts)
        yield from dense_rows(first, len(counts), self.matrix.shape[1], self)

    def finish(self) -> None:
        """Nothing is left to check: the size was, and the format has no checksum."""

    def read(self, count: int) -> NDArray[Any]:
        """The next `count` entries."""
        data = self._file.read(count * self._dtype.itemsize)
        if len(data) != count * self._dtype.itemsize:
            raise MalformedInput(f"{self.name} is cut short")
        return np.frombuffer(data, self._dtype)
