"""A convolution's matrix, written row by row: data, indices and indptr as streams.

Each spatial axis is a few segments in which rows repeat with a shift (`taps.segments`). The rows
of the matrix are those of the axes, nested in the order of the layout, and so are the three arrays:

    data     the same kernel elements again            step 0
    indices  the same columns, moved along             step: the axis's shift times its stride
    indptr   the same row lengths, further on          step: the entries of one block

A leaf is one row: the taps of every axis are arithmetic progressions, so its columns are an outer
sum of ranges and its data a strided view of the kernel. Nothing is sorted: the kernel's axes are
permuted once into the order of the columns.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.layout import Layout
from convfc_cli.streams import (
    Lanes,
    Literal,
    Out,
    Repeat,
    Run,
    Series,
    SparseRows,
    Stream,
    index_dtype,
)
from convfc_cli.taps import NO_TAPS, IndexMap, RowTaps, Segment, count_taps, segments


def rows(
    index_map: IndexMap,
    kernel: NDArray[Any],
    layout: Layout = Layout(),  # noqa: B008 - frozen
    *,
    kernel_index: bool = False,
) -> SparseRows:
    """The block-Toeplitz matrix of a convolution, as streams.

    `kernel` has the map's kernel shape, (out, in/groups, *spatial). Row (c, *o) and column (b, *i),
    each flattened by `layout`, hold kernel[c, b - g C/G, *t] for every tap. Values are copied bit
    for bit.

    Source: Ma & Lu 2017, Eq. 8 and 9.

    >>> from convfc_cli.geometry import Axis
    >>> axis = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
    >>> matrix = rows(IndexMap((1, 1, 2), (axis,)), np.array([[[1.0, 2.0]]]))
    >>> [stream.array().tolist() for stream in (matrix.indptr, matrix.indices, matrix.data)]
    [[0, 2, 4], [0, 1, 1, 2], [1.0, 2.0, 1.0, 2.0]]
    """
    nest = _nest(index_map, layout)
    shape = (index_map.rows, index_map.columns)
    indices = np.dtype(index_dtype(index_map.nnz, *shape))
    positions = None
    if kernel_index:
        flat = np.arange(kernel.size, dtype=index_dtype(kernel.size))
        places = flat.reshape(kernel.shape)
        positions = Stream(_Data(nest, places).run(), places.dtype)
    return SparseRows(
        shape=shape,
        data=Stream(_Data(nest, kernel).run(), kernel.dtype),
        indices=Stream(nest.indices, indices),
        indptr=Stream(nest.indptr, indices),
        kernel_index=positions,
    )


class _Nest:
    """The nested loops over the rows of a matrix, slowest first, shared by its three arrays."""

    def __init__(self, index_map: IndexMap, layout: Layout) -> None:
        spatial = len(index_map.axes)
        self.order = layout.axes(spatial + 1)  # 0 is the channel, a the axis a - 1
        self.transposed = index_map.transposed
        self.groups = index_map.groups
        near, depth = index_map.kernel_shape[:2]
        # A row's channel belongs to one group and reads `depth` channels of the other side.
        self.lanes = near if not self.transposed else depth * self.groups
        self.depth = depth if not self.transposed else near // self.groups
        self.strides = layout.strides(index_map.input_shape)
        self.segments = [segments(axis, transposed=self.transposed) for axis in index_map.axes]
        self.rows = index_map.output_shape[1:]
        self.taps = [count_taps(axis) for axis in index_map.axes]

    @cached_property
    def indices(self) -> Run:
        """The tree of the columns."""
        return _Indices(self).run()

    @cached_property
    def indptr(self) -> Run:
        """The tree of where rows begin."""
        return _Indptr(self).run()

    def rows_below(self, level: int) -> int:
        """Rows of the nest from `level` on."""
        return prod(self.rows[a - 1] if a else self.lanes for a in self.order[level:])

    def entries_below(self, level: int, taps: dict[int, RowTaps]) -> int:
        """Entries of those rows, where the axes outside have the taps given."""
        inside = self.order[level:]
        fixed = self.depth * prod(len(row) for row in taps.values())
        return fixed * prod(self.taps[a - 1] if a else self.lanes for a in inside)

    def level(self, array: "_Array", level: int, taps: dict[int, RowTaps]) -> Run:
        """The tree of one of the three arrays from `level` on, where the axes outside have the
        taps given.
        """
        if level == len(self.order):
            return array.row(taps)
        axis = self.order[level]
        if axis == 0:
            return array.channels(self.level(array, level + 1, taps), level + 1, taps)
        stretches = self.segments[axis - 1]
        rows, for_one_tap = self.rows_below(level + 1), self.entries_below(level + 1, taps)
        entries = [segment.block_taps * for_one_tap for segment in stretches]

        def stretch(k: int) -> Run:
            segment = stretches[k]
            block = self._block(array, level + 1, axis, segment, taps)
            return Repeat(block, segment.blocks, array.step(axis, segment, entries[k]))

        blocks = [segment.blocks for segment in stretches]
        totals = [blocks[k] * entries[k] for k in range(len(stretches))]
        lengths = [
            array.length(blocks[k] * segment.block_rows * rows, totals[k])
            for k, segment in enumerate(stretches)
        ]
        return Series(lengths, stretch, array.shifts(totals))

    def _block(
        self, array: "_Array", level: int, axis: int, segment: Segment, taps: dict[int, RowTaps]
    ) -> Run:
        """One block of a segment: a single row of the axis, or a transposed axis's period."""
        inner = [taps | {axis: row} for _, row in segment.rows]
        counts = [count for count, _ in segment.rows]

        def child(k: int) -> Run:
            # Only rows without taps come more than one at a time, so nothing moves along.
            return Repeat(self.level(array, level, inner[k]), counts[k])

        if counts == [1]:
            return self.level(array, level, inner[0])
        rows, entries = self.rows_below(level), [self.entries_below(level, t) for t in inner]
        lengths = [array.length(c * rows, e) for c, e in zip(counts, entries, strict=True)]
        return Series(lengths, child, array.shifts(entries))


_nest = lru_cache(maxsize=8)(_Nest)
"""The three arrays of a matrix share one, and so do the layers of a network that are alike."""


class _Array(ABC):
    """What tells data, indices and indptr apart."""

    def __init__(self, nest: _Nest) -> None:
        self.nest = nest

    def run(self) -> Run:
        """The tree of the whole array."""
        return self.nest.level(self, 0, {})

    def length(self, rows: int, entries: int) -> int:
        """Elements that this array has for so many rows with so many entries."""
        return entries

    def shifts(self, entries: list[int]) -> list[int] | None:
        """What runs that follow one another, with so many entries, have added to them."""
        return None

    @abstractmethod
    def row(self, taps: dict[int, RowTaps]) -> Run:
        """One row."""

    @abstractmethod
    def channels(self, child: Run, level: int, taps: dict[int, RowTaps]) -> Run:
        """`child` for each channel of the rows."""

    @abstractmethod
    def step(self, axis: int, segment: Segment, entries: int) -> int:
        """How much is added from one block of a segment, of so many entries, to the next."""


class _Data(_Array):
    def __init__(self, nest: _Nest, kernel: NDArray[Any]) -> None:
        super().__init__(nest)
        if nest.transposed:  # (G * near, depth, *k) -> (G * depth, near, *k)
            width = nest.lanes // nest.groups
            grouped = kernel.reshape(nest.groups, nest.depth, width, *kernel.shape[2:])
            kernel = grouped.swapaxes(1, 2).reshape(nest.lanes, nest.depth, *kernel.shape[2:])
        # In the order of the columns, so that the whole of a row is contiguous.
        self.kernel = np.ascontiguousarray(kernel.transpose(0, *(a + 1 for a in nest.order)))

    def row(self, taps: dict[int, RowTaps]) -> Run:
        picked = [taps[a].kernel if a else None for a in self.nest.order]
        return _KernelRow(self.kernel[:, *map(_slice, picked)])

    def channels(self, child: Run, level: int, taps: dict[int, RowTaps]) -> Run:
        return Lanes(child, self.nest.lanes)

    def step(self, axis: int, segment: Segment, entries: int) -> int:
        return 0


class _Indices(_Array):
    def row(self, taps: dict[int, RowTaps]) -> Run:
        nest = self.nest
        return _ColumnRow(
            tuple(
                _scaled(taps[a].columns if a else range(nest.depth), nest.strides[a])
                for a in nest.order
            )
        )

    def channels(self, child: Run, level: int, taps: dict[int, RowTaps]) -> Run:
        nest = self.nest
        group = Repeat(child, nest.lanes // nest.groups)
        return Repeat(group, nest.groups, nest.depth * nest.strides[0])

    def step(self, axis: int, segment: Segment, entries: int) -> int:
        return segment.step * self.nest.strides[axis]


class _Indptr(_Array):
    def run(self) -> Run:
        run, total = super().run(), self.nest.entries_below(0, {})
        end = Literal(np.array([total], np.int64))
        return Series([run.length, 1], [run, end].__getitem__)

    def length(self, rows: int, entries: int) -> int:
        return rows

    def shifts(self, entries: list[int]) -> list[int] | None:
        return [0, *accumulate(entries)][:-1]

    def row(self, taps: dict[int, RowTaps]) -> Run:
        return Literal(np.zeros(1, np.int64))

    def channels(self, child: Run, level: int, taps: dict[int, RowTaps]) -> Run:
        return Repeat(child, self.nest.lanes, self.nest.entries_below(level, taps))

    def step(self, axis: int, segment: Segment, entries: int) -> int:
        return entries


@dataclass(frozen=True)
class _KernelRow(Run):
    """One row's data for every lane: a view of the kernel, (lanes, *entries of the row)."""

    view: NDArray[Any]

    @property
    def length(self) -> int:  # type: ignore[override]
        return prod(self.view.shape[1:])

    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        view = self.view[lanes]
        if out.shape[1] == self.length:
            out.reshape(view.shape, copy=False)[...] = view
        else:
            out[...] = view.reshape(len(view), -1)[:, start : start + out.shape[1]]


@dataclass(frozen=True)
class _ColumnRow(Run):
    """One row's columns: the outer sum of a progression for each axis, slowest first."""

    progressions: tuple[range, ...]

    @property
    def length(self) -> int:  # type: ignore[override]
        return prod(map(len, self.progressions))

    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        columns = np.array([[base]], np.int64)
        for progression in self.progressions:
            columns = np.add.outer(columns, _values(progression)).reshape(1, -1)
        out[...] = columns[:, start : start + out.shape[1]]


def _slice(taps: range | None) -> slice:
    if taps is None:
        return slice(None)
    stop = taps.stop if taps.stop >= 0 else None
    return slice(taps.start, stop, taps.step)


def _scaled(progression: range, stride: int) -> range:
    if not progression:
        return NO_TAPS.columns
    return range(progression.start * stride, progression.stop * stride, progression.step * stride)


def _values(progression: range) -> NDArray[np.int64]:
    return np.arange(progression.start, progression.stop, progression.step, dtype=np.int64)
