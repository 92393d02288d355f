"""Rows of a stored matrix as they are read: in blocks, from front to back, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import WrongContents
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.streams import CHUNK


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of a stored matrix, in CSR form, indptr counted from 0.

    `indices` have the file's own dtype; neither they nor `kernel_index` have been checked.
    """

    first: int
    indptr: Array
    indices: Array
    data: Array
    kernel_index: Array | None = None


class Sequential(Protocol):
    """A one-dimensional array that is read from front to back."""

    def read(self, count: int) -> Array:
        """Return the next `count` elements."""


class Rows(Protocol):
    """The rows of a stored matrix, from front to back: see `StoredMatrix.rows`."""

    def rows(self, counts: Array) -> Iterator[Block]:
        """Yield the rows in order, as many in each block as `counts` says."""


def stretches(counts: Array) -> Iterator[tuple[slice, Array]]:
    """Rows of these lengths, `CHUNK` entries or one row at a time: (which rows, their indptr)."""
    ends = np.cumsum(counts, dtype=np.int64)
    row = entry = 0
    while row < len(counts):
        last = max(row + 1, int(np.searchsorted(ends, entry + CHUNK, side="right")))
        yield slice(row, last), np.concatenate(([0], ends[row:last] - entry))
        row, entry = last, int(ends[last - 1])


class CsrReader:
    """The rows of a stored CSR matrix, from front to back.

    `indptr`, `indices` and `data` stand at their beginnings; `first` is the number of their first
    row, and `word` what a person calls a row.
    """

    def __init__(
        self,
        indptr: Sequential,
        indices: Sequential,
        data: Sequential,
        first: int,
        word: str = "row",
    ) -> None:
        self._indptr, self._indices, self._data, self._word = indptr, indices, data, word
        self._first = self._row = first
        self._entry = 0

    def rows(self, counts: Array) -> Iterator[Block]:
        """The next len(counts) rows; see `StoredMatrix.rows`."""
        if self._row == self._first and int(self._indptr.read(1)[0]) != 0:
            raise WrongContents("indptr does not begin with 0")
        stored = self._indptr.read(len(counts))
        ends = self._entry + np.cumsum(counts, dtype=np.int64)
        wrong = np.flatnonzero(stored != ends)
        if len(wrong):
            row = int(wrong[0])
            raise WrongContents(
                f"{self._word} {self._row + row} ends at entry {int(stored[row])} by indptr, where "
                f"the geometry has it end at {int(ends[row])} with {int(counts[row])} entries"
            )
        for _, indptr in stretches(counts):
            entries = int(indptr[-1])
            first = self._row
            self._row, self._entry = first + len(indptr) - 1, self._entry + entries
            yield Block(first, indptr, self._indices.read(entries), self._data.read(entries))


def dense_rows(first: int, count: int, columns: int, data: Sequential) -> Iterator[Block]:
    """The rows [first, first + count) of a dense matrix as blocks of all that is not +0.0."""
    step = max(1, CHUNK // columns)
    for row in range(first, first + count, step):
        size = min(step, first + count - row)
        values = data.read(size * columns).reshape(size, columns)
        bits = values.view(f"u{values.dtype.itemsize}")
        rows, indices = np.nonzero(bits)
        indptr = np.searchsorted(rows, np.arange(size + 1))
        yield Block(row, indptr, indices, values[rows, indices])


def dense_chunks(matrix: Matrix) -> Iterator[Array]:
    """Every entry, about `CHUNK` at a time and row by row, in one buffer that is used again."""
    columns = matrix.shape[1]
    rows = matrix.rows_of.matrix(matrix.layout)
    step = max(1, CHUNK // columns)
    buffer = np.zeros(step * columns, matrix.layer.dtype)
    for first in matrix.rows[::step]:
        last = min(first + step, matrix.rows.stop)
        indptr, indices, data = rows.block(first, last)
        starts = np.repeat(np.arange(last - first) * columns, np.diff(indptr))
        places = starts + indices
        buffer[places] = data
        yield buffer[: (last - first) * columns]
        buffer[places] = 0
