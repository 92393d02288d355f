"""Level 0, structure: before any arithmetic, for sparse products trust the indices they are given.

That rows have the lengths which the geometry counts is seen when they are read
(`matrices.format.StoredMatrix.rows`), before memory is taken for them.
"""

import numpy as np

from convfc_cli.errors import WrongContents
from convfc_cli.layers.slabs import Slab
from convfc_cli.matrices.blocks import Block
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.report import Finding


class Structure(Check):
    """Columns in range and strictly increasing in each row; as many entries as planned."""

    name = "structure"

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._entries = 0

    def expect(self, slab: Slab) -> None:
        pass

    def hold(self, block: Block, part: slice) -> None:
        indices, columns = block.indices, self._subject.columns
        row, column = self._subject.words
        self._entries += len(indices)
        if not len(indices):
            return
        if int(indices.min()) < 0 or int(indices.max()) >= columns:
            wrong = int(np.flatnonzero((indices < 0) | (indices >= columns))[0])
            raise WrongContents(
                f"{row} {_row(block, wrong)} has {column} {int(indices[wrong])}, "
                f"out of range [0, {columns})"
            )
        rising = indices[1:] > indices[:-1]
        starts = block.indptr[1:-1]
        starts = starts[(starts > 0) & (starts < len(indices))]
        rising[starts - 1] = True  # from one row to the next, columns may fall
        if not rising.all():
            wrong = int(np.flatnonzero(~rising)[0]) + 1
            raise WrongContents(
                f"{row} {_row(block, wrong)} has {column} {int(indices[wrong])} after "
                f"{int(indices[wrong - 1])}: {column}s must increase strictly"
            )

    def finding(self) -> Finding:
        row, column = self._subject.words
        if not self._subject.explicit_zeros:
            detail = (
                f"{self._subject.matrix.shape[0]:,} {row}s of {self._subject.columns:,} entries"
            )
            return Finding(self.name, True, detail, "every row", "the geometry")
        if self._entries != self._subject.nonzeros:
            raise WrongContents(
                f"{self._entries} entries, where the geometry plans {self._subject.nonzeros}"
            )
        detail = (
            f"{self._entries:,} entries, {row}s as long as the geometry says, {column}s increasing"
        )
        return Finding(self.name, True, detail, f"every {row}", "the geometry")


def _row(block: Block, entry: int) -> int:
    return block.first + int(np.searchsorted(block.indptr, entry, side="right")) - 1
