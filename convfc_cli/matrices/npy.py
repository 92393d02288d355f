"""Matrices as `.npy`: every entry of the dense matrix, row by row.

The file has no room for metadata, so the operator file of the same matrix (`npz`, kilobytes) lies
beside it: `NAME.npy` and `NAME.operator.npz`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import MalformedInput, UsageError, WrongContents
from convfc_cli.files import Input, opened
from convfc_cli.matrices import npz
from convfc_cli.matrices.container import write_all
from convfc_cli.matrices.format import (
    Block,
    MatrixFormat,
    Progress,
    Stored,
    dense_chunks,
    dense_rows,
)
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.npy_header import header, read_header
from convfc_cli.taps import IndexMap


class Npy(MatrixFormat):
    """A dense array."""

    name = "npy"
    suffixes = (".npy",)
    forms = ("dense",)
    summary = "`numpy.load` opens it; metadata in the operator file beside it"

    def beside(self, path: Path) -> list[Path]:
        return [path.with_name(f"{path.stem}.operator.npz")]

    def recognises(self, source: Input) -> bool:
        return source.head.startswith(b"\x93NUMPY")

    def size(self, spec: Spec, index_map: IndexMap, dtype: np.dtype[Any]) -> int:
        shape = spec.shape(index_map)
        beside = npz.FORMAT.size(replace(spec, form="operator"), index_map, dtype)
        return len(header(shape, dtype)) + prod(shape) * dtype.itemsize + beside

    def write(self, matrices: Sequence[Matrix], out: BinaryIO, progress: Progress) -> None:
        (matrix,) = matrices
        write_all(out, header(matrix.shape, matrix.layer.dtype))
        for rows in dense_chunks(matrix):
            write_all(out, rows)
            progress(rows.nbytes)

    def open(self, source: Input, beside: Input | None = None) -> tuple[Stored, ...]:
        if beside is not None:
            return (_StoredNpy(source, beside),)
        if source.path is None:
            raise UsageError(
                f"{source.name} holds a dense matrix without its metadata: name the file, so that "
                f"its operator file beside it can be read"
            )
        (operator,) = self.beside(source.path)
        if not operator.exists():
            raise MalformedInput(f"{source.name} needs {operator.name} beside it: it is not there")
        with opened(operator) as beside:
            return (_StoredNpy(source, beside),)


FORMAT = Npy()


class _StoredNpy(Stored):
    structural = False

    def __init__(self, source: Input, beside: Input) -> None:
        (operator,) = npz.FORMAT.open(beside)
        if operator.matrix.form != "operator":
            raise MalformedInput(f"{beside.name} is no operator file, but {operator.matrix.form}")
        self.stated_digest = operator.stated_digest
        self.matrix = replace(operator.matrix, spec=replace(operator.matrix.spec, form="dense"))
        self.name, self._file = source.name, source.file
        source.file.seek(0)
        shape, dtype, length = read_header(source.file, source.name)
        if prod(shape) * dtype.itemsize + length != source.size:
            raise MalformedInput(
                f"{source.name} has {source.size} bytes, its header says another size"
            )
        if shape != self.matrix.shape or dtype != self.matrix.layer.dtype:
            raise WrongContents(
                f"{source.name} is {shape} of {dtype}, where {beside.name} says "
                f"{self.matrix.shape} of {self.matrix.layer.dtype}"
            )
        self._dtype, self._row = dtype, 0

    def check_shapes(self) -> None:
        """They were, when the file was opened."""

    def bias(self) -> NDArray[Any]:
        return self.matrix.bias

    def rows(self, counts: NDArray[Any]) -> Iterator[Block]:
        first, self._row = self._row, self._row + len(counts)
        yield from dense_rows(first, len(counts), self.matrix.shape[1], self)

    def finish(self) -> None:
        """Nothing is left to check: the size was, and the format has no checksum."""

    def check_undamaged(self) -> None:
        """The format has no checksum: what is wrong in it cannot be told from damage."""

    def read(self, count: int) -> NDArray[Any]:
        """The next `count` entries."""
        data = self._file.read(count * self._dtype.itemsize)
        if len(data) != count * self._dtype.itemsize:
            raise MalformedInput(f"{self.name} is cut short")
        return np.frombuffer(data, self._dtype)
