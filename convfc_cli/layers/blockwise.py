"""Rows made block by block: the builder of all layers but convolutions.

A layer that keeps a weight for each entry, or nearly so, gains nothing from runs and templates. For
any range of outputs it computes, by arithmetic on indices, which inputs they read and through which
weights; this module makes streams of that, so that the matrix need not exist.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from convfc_cli.arrays import Array, as_ones
from convfc_cli.errors import Refused
from convfc_cli.layers.slabs import Weights
from convfc_cli.layers.tied import Strip, TiedLinear, TiedSlab
from convfc_cli.layout import Layout
from convfc_cli.streams import Literal, Out, Run, Series, SparseRows, Stream, index_dtype

BLOCK = 2**16
"""Entries that are made at once."""

LATEST = 8
"""Outputs that are kept: those of the probes of a proof."""

MAX_ROWS = 2**27
"""Counting the rows takes a few arrays of 8 bytes for each."""

Entries = Callable[[slice], tuple[Array, Array]]
"""(columns, values) of all entries in some rows, one row after another, columns rising in each."""


class Blockwise(TiedLinear):
    """A layer whose rows are made block by block."""

    @abstractmethod
    def row_lengths(self, outputs: Array) -> Array:
        """How many inputs each of these outputs reads; outputs are flat, in C order."""

    @abstractmethod
    def row_entries(self, outputs: Array, layout: Layout) -> tuple[Array, Array]:
        """(columns, flat index of the weight) of all that these outputs read, one output after
        another, columns rising in each. Columns are in the order of the layout.
        """

    @abstractmethod
    def apply_kernel(self, x: Array, kernel: Array) -> Array:
        """The oracle: the outputs for x, with this kernel in x's dtype, without bias."""

    def matrix(self, layout: Layout, *, kernel_index: bool = False) -> SparseRows:
        if (count := prod(self.output_shape)) > MAX_ROWS:
            raise Refused(f"the rows of a {self.kind} with {count} outputs; at most {MAX_ROWS}")
        outputs = layout.vector(np.arange(count).reshape(self.output_shape))
        weights = self.kernel.reshape(-1)

        def entries(rows: slice) -> tuple[Array, Array]:
            columns, index = self.row_entries(outputs[rows], layout)
            return columns, weights[index]

        def numbers(rows: slice) -> Array:
            return self.row_entries(outputs[rows], layout)[1]

        shape = (len(outputs), prod(self.input_shape))
        made = BlockRows.of(shape, self.row_lengths(outputs), entries, self.dtype)
        if not kernel_index:
            return made
        dtype = np.dtype(index_dtype(self.kernel.size))
        return replace(made, kernel_index=made.stream(numbers, dtype))

    def slabs(self, layout: Layout, most: int) -> Iterator[TiedSlab]:
        count = prod(self.output_shape)
        whole, ones = Latest(self.apply_kernel), np.broadcast_to(np.uint64(1), self.input_shape)
        for first in range(0, count, most):
            rows = range(first, min(first + most, count))
            part = partial(self._part, whole, layout, rows)
            counts, strips = partial(_counted, part, ones), partial(self._strips, rows)
            yield TiedSlab(rows, part, counts, strips)

    def _part(
        self, whole: "Latest", layout: Layout, rows: range, x: Array, weights: Weights
    ) -> Array:
        y = whole.of(x, weights, self.kernel)
        return layout.vector(y)[rows.start : rows.stop]

    def _strips(self, rows: range) -> Iterator[Strip]:
        """One: the whole layer."""
        everything = (slice(None),) * len(self.input_shape)
        yield Strip(everything, self, slice(rows.start, rows.stop))


def _counted(part: Callable[[Array, Weights], Array], ones: Array) -> Array:
    return part(ones, as_ones).astype(np.int64)


class Latest:
    """What a layer has made of the latest inputs: slabs ask for the same ones in turn."""

    def __init__(self, applied: Callable[[Array, Array], Array]) -> None:
        self._applied = applied
        self._made: deque[tuple[Array, Weights, Array]] = deque(maxlen=LATEST)

    def of(self, x: Array, weights: Weights, kernel: Array) -> Array:
        """The whole output."""
        for known, change, y in self._made:
            if known is x and change is weights:
                return y
        y = self._applied(x, weights(kernel))
        self._made.append((x, weights, y))
        return y


@dataclass(frozen=True)
class BlockRows(SparseRows):
    """A sparse matrix whose rows are made a block at a time by `entries`."""

    entries: Entries = lambda rows: (np.zeros(0, np.int64), np.zeros(0))
    cuts: tuple[int, ...] = ()
    """Where the blocks begin, and the last ends."""

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        counts: Array,
        entries: Entries,
        dtype: np.dtype[Any],
        most: int = BLOCK,
    ) -> "BlockRows":
        """The matrix whose row r has counts[r] entries, made about `most` at a time."""
        indptr = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        index = np.dtype(index_dtype(int(indptr[-1]), *shape))
        starts = Stream(Literal(indptr), index)
        made = cls(shape, starts, starts, starts, entries=entries, cuts=cuts(indptr, most))
        return replace(
            made,
            data=made.stream(lambda rows: entries(rows)[1], dtype),
            indices=made.stream(lambda rows: entries(rows)[0], index),
        )

    def stream(self, make: Callable[[slice], Array], dtype: np.dtype[Any]) -> Stream:
        """An array with an element for each entry, made block by block."""
        starts = [int(self.indptr.part(cut, cut + 1)[0]) for cut in self.cuts]
        # Chunks of a stream end within blocks, so that each is needed twice in a row.
        made = lru_cache(maxsize=1)(lambda k: make(slice(self.cuts[k], self.cuts[k + 1])))
        lengths = [stop - start for start, stop in pairwise(starts)]
        return Stream(Series(lengths, lambda k: _Made(lengths[k], partial(made, k))), dtype)

    def block(self, first: int, last: int) -> tuple[Array, Array, Array]:
        indptr = self.indptr.part(first, last + 1)
        columns, values = self.entries(slice(first, last))
        return indptr - indptr[0], columns.astype(self.indices.dtype), values


@dataclass(frozen=True)
class _Made(Run):
    """Values as they are made, bit for bit: nothing is added to them."""

    length: int
    make: Callable[[], Array]

    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        out[...] = self.make()[start : start + out.shape[1]]


def rendered(rows: SparseRows) -> SparseRows:
    """The matrix with its entries made, for rows that are read again and again."""
    return replace(rows, data=_kept(rows.data), indices=_kept(rows.indices))


def _kept(stream: Stream) -> Stream:
    array = stream.array()
    return Stream(_Made(len(array), lambda: array), stream.dtype)


def cuts(indptr: Array, most: int) -> tuple[int, ...]:
    """Rows at which to cut into blocks of about `most` entries, of `most` rows or of one."""
    edges, rows = [0], len(indptr) - 1
    while edges[-1] < rows:
        full = int(np.searchsorted(indptr, indptr[edges[-1]] + most, side="right")) - 1
        edges.append(min(max(edges[-1] + 1, full), edges[-1] + most))
    return tuple(edges)
