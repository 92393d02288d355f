"""What a level of the proof has to offer: the contract of each module here.

A stored matrix is read once, from its first row to its last. Slab by slab, each check says what it
expects of the rows to come (`expect`), is shown them (`hold`), and in the end what it has found
(`finding`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convfc_cli.arrays import Array, bits
from convfc_cli.errors import WrongContents
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.slabs import Slab
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.format import StoredMatrix
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.proof.report import Finding, WrongEntry
from convfc_cli.streams import CHUNK


@dataclass(frozen=True)
class Subject:
    """What is checked: the rows of a stored matrix, and the layer that they should be of."""

    matrix: Matrix
    """The matrix whose rows are stored: where the file is stored by columns, the transpose."""

    explicit_zeros: bool
    """Whether zeros can be stored as entries."""

    stores_transpose: bool = False
    """Whether so: a row here is a column of the file's matrix."""

    @classmethod
    def of(cls, stored: StoredMatrix) -> "Subject":
        """What an open file stores."""
        matrix = stored.matrix.transposed() if stored.stores_transpose else stored.matrix
        return cls(matrix, stored.explicit_zeros, stored.stores_transpose)

    @property
    def layer(self) -> Linear:
        """The layer whose outputs are the rows."""
        return self.matrix.rows_of

    @property
    def rows(self) -> range:
        """The rows that are stored."""
        return self.matrix.rows

    @property
    def columns(self) -> int:
        """How many columns they are of."""
        return self.matrix.shape[1]

    @property
    def words(self) -> tuple[str, str]:
        """What a person calls a row, and what a column."""
        return ("column", "row") if self.stores_transpose else ("row", "column")

    @property
    def nonzeros(self) -> int:
        """Entries that the geometry plans."""
        return self.matrix.nonzeros

    @property
    def most_rows(self) -> int:
        """Rows of a slab with about `CHUNK` entries."""
        return max(1, CHUNK // max(1, self.nonzeros // self.matrix.shape[0]))

    def vector(self, tensor: Array) -> Array:
        """vec(tensor) in the order of the matrix."""
        return self.matrix.layout.vector(tensor)

    def wrong_entry(self, block: Block, row: int) -> WrongContents:
        """The error that names the first wrong entry of row `row` of a block."""
        at = block.first + row
        part = slice(int(block.indptr[row]), int(block.indptr[row + 1]))
        _, columns, values = self.layer.matrix(self.matrix.layout).block(at, at + 1)
        stored = dict(zip(block.indices[part].tolist(), block.data[part], strict=True))
        expected = dict(zip(columns.tolist(), values, strict=True))
        zero = np.zeros((), self.layer.dtype)[()]
        for column in sorted(stored.keys() | expected.keys()):
            have, want = stored.get(column), expected.get(column)
            if self.explicit_zeros and (have is None) != (want is None):
                break
            have, want = have if have is not None else zero, want if want is not None else zero
            if have.tobytes() != want.tobytes():
                break
        else:
            return WrongContents(
                f"{self.words[0]} {at} is not what the layer computes, though its entries look "
                f"right"
            )
        return WrongContents(self.entry(at, column, expected.get(column), stored.get(column)))

    def entry(self, row: int, column: int, expected: Any, found: Any) -> WrongEntry:
        """A wrong entry in terms of the layer; None is one that is not there: a zero, where every
        entry is stored.
        """
        summed = expected is not None
        if not self.explicit_zeros:
            zero = np.zeros((), self.layer.dtype)[()]
            expected = zero if expected is None else expected
            found = zero if found is None else found
        layout, layer = self.matrix.layout, self.matrix.layer
        output, source = (column, row) if self.matrix.spec.transpose else (row, column)
        output_index = layout.unflatten(output, layer.output_shape)
        input_index = layout.unflatten(source, layer.input_shape)
        kernel = layer.weight_of(output_index, input_index)
        if not layer.exact and summed:
            kernel = ()
        place = (column, row) if self.stores_transpose else (row, column)
        return WrongEntry(
            *(*place, output_index, input_index, kernel),
            expected=None if expected is None else shown(expected),
            found=None if found is None else shown(found),
        )


class Check(ABC):
    """One level of the proof, on its way through a stored matrix."""

    name: str
    """What its finding is called."""

    @abstractmethod
    def expect(self, slab: Slab) -> None:
        """Get ready for the rows of a slab, which `hold` is shown next."""

    @abstractmethod
    def hold(self, block: Block, part: slice) -> None:
        """Hold stored rows, the part `part` of the slab, to what is expected.

        Raises `WrongContents` at the first that is wrong.
        """

    @abstractmethod
    def finding(self) -> Finding:
        """After the last row: what has been found. Raises `WrongContents` as `hold` does."""


def products(block: Block, data: Array, xs: Sequence[Array]) -> Iterator[Array]:
    """The block's rows, with `data` for its entries, times each of some vectors, in the dtype of
    both.

    One vector at a time: SciPy's products with several at once were measured to be slower, in CSR
    and in CSC (2.5 and 3.0 ns for a nonzero and three vectors, where three products take 2.0).
    """
    from scipy.sparse import csr_array

    indptr = block.indptr.astype(block.indices.dtype)
    rows = csr_array((data, block.indices, indptr), shape=(len(indptr) - 1, len(xs[0])))
    for x in xs:
        with np.errstate(all="ignore"):  # untrusted weights may be anything
            y = rows @ x
        yield y


def add_product(subject: Subject, block: Block, data: Array, x: Array, out: Array) -> None:
    """Add to `out`, a vector of all the layer's outputs, what the block has of M x, with `data`
    for its entries and x a vector of all its inputs.

    Where a row is an input, it is spread over the outputs.
    """
    last = block.first + len(block.indptr) - 1
    if not subject.matrix.spec.transpose:
        (y,) = products(block, data, [x])
        with np.errstate(all="ignore"):
            out[block.first : last] += y
    elif len(block.indices):
        from scipy.sparse import csr_array

        low, high = int(block.indices.min()), int(block.indices.max()) + 1
        shape = (last - block.first, high - low)
        rows = csr_array((data, block.indices - low, block.indptr), shape=shape)
        with np.errstate(all="ignore"):
            out[low:high] += rows.T @ x[block.first : last]


def shown(value: Any) -> str:
    """A value as text that tells it from every other: of a NaN, its bits."""
    pattern = f" (0x{bits(value).item():x})" if np.isnan(value) else ""
    return f"{value!s}{pattern}"
