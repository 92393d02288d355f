"""Matrices as `.npz` in COO, row and column of each entry: what most programs can read and graph
libraries take for edges. See `npz_base`.

    row, col, data    by rising row, within a row by rising column
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from convfc_cli.errors import WrongContents
from convfc_cli.matrices import schema
from convfc_cli.matrices.blocks import Block, Rows, Sequential, stretches
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.npz_base import NpzFormat, Values
from convfc_cli.outline import Outline
from convfc_cli.streams import CHUNK, index_dtype


class NpzCoo(NpzFormat):
    """Row and column of each nonzero."""

    name = "npz-coo"
    forms = ("coo",)
    summary = "row and column of each entry: `scipy.sparse.load_npz` gives a COO matrix"

    def arrays(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> schema.Arrays:
        nnz = outline.nnz
        index = np.dtype(index_dtype(nnz, *spec.shape(outline)))
        arrays: schema.Arrays = {"row": ((nnz,), index), "col": ((nnz,), index)}
        return arrays | {"data": ((nnz,), dtype)} | schema.numbers(spec, outline)

    def values(self, matrix: Matrix, name: str, shape: tuple[int, ...]) -> Iterable[Values]:
        if name == "row":
            return _row_numbers(matrix)
        return schema.values(matrix, {"col": "indices"}.get(name, name), *shape)

    def reader(self, matrix: Matrix, arrays: Mapping[str, Sequential]) -> Rows:
        return _CooReader(arrays["row"], arrays["col"], arrays["data"], matrix.rows.start)


FORMAT = NpzCoo()


def _row_numbers(matrix: Matrix) -> Iterator[Values]:
    """The row of each entry."""
    indptr = matrix.rows_of.matrix(matrix.layout).indptr
    for first in matrix.rows[::CHUNK]:
        counts = np.diff(indptr.part(first, min(first + CHUNK, matrix.rows.stop) + 1))
        for part, _ in stretches(counts):
            numbers = np.arange(first + part.start, first + part.stop, dtype=indptr.dtype)
            yield np.repeat(numbers, counts[part])


class _CooReader:
    """The rows of a stored COO matrix, from front to back."""

    def __init__(self, row: Sequential, col: Sequential, data: Sequential, first: int) -> None:
        self._rows, self._columns, self._data = row, col, data
        self._row, self._entry = first, 0

    def rows(self, counts: Values) -> Iterator[Block]:
        """The next len(counts) rows; see `StoredMatrix.rows`."""
        for part, indptr in stretches(counts):
            entries = int(indptr[-1])
            first, self._row = self._row, self._row + part.stop - part.start
            self._check(np.repeat(np.arange(first, self._row), counts[part]))
            yield Block(first, indptr, self._columns.read(entries), self._data.read(entries))

    def _check(self, expected: Values) -> None:
        """Raise unless the next entries are in these rows."""
        rows = self._rows.read(len(expected))
        wrong = np.flatnonzero(rows != expected)
        if len(wrong):
            at = int(wrong[0])
            raise WrongContents(
                f"entry {self._entry + at} is in row {int(rows[at])} by the array row, where the "
                f"geometry has it in row {int(expected[at])}"
            )
        self._entry += len(expected)
