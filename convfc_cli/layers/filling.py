"""How many entries the matrix of layers one after another has, at most, without multiplying them.

Where a layer's axes do not mix (a convolution, a dense layer, what works element by element), each
place along an axis of its output reads within a stretch of the same axis of its input, and so does
a place of any number of such layers one after another. The entries of a row are then at most what
these stretches multiply to, and no more than paths lead there. Of convolutions that are not dilated
that is the number itself. Any other layer is given what the rows of the one before it have, and
adds them up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from math import gcd, prod

import numpy as np

from convfc_cli.arrays import Array, as_float_ones
from convfc_cli.errors import GeometryError
from convfc_cli.geometry import Axis
from convfc_cli.layers.compose import folds
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.locally_connected import LocallyConnected
from convfc_cli.layers.product import check_chain
from convfc_cli.outline import FixedOutline, Outline
from convfc_cli.taps import IndexMap


@dataclass(frozen=True)
class Stretch:
    """What each place along an axis reads, at most: `count` places within [first, last) of as many
    as `inputs`; none where `count` is 0.
    """

    inputs: int
    first: Array
    last: Array
    count: Array

    def after(self, before: "Stretch") -> "Stretch":
        """The same of this axis behind another."""
        low, high = before.bounds()
        there = self.count > 0
        first = np.where(there, low[np.where(there, self.first, 0)], 0)
        last = np.where(there, high[np.where(there, self.last - 1, 0)], 0)
        paths = self.count * before.count.max(initial=0)
        count = np.where(there, np.minimum(paths, (last - first).clip(0)), 0)
        return Stretch(before.inputs, first, last, count)

    def bounds(self) -> tuple[Array, Array]:
        """(the first, the last) that is read from each place on, up to each place."""
        there = self.count > 0
        first = np.where(there, self.first, self.inputs)
        last = np.where(there, self.last, 0)
        return np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(last)


def same(size: int) -> Stretch:
    """Each place reads its own."""
    places = np.arange(size)
    return Stretch(size, places, places + 1, np.ones(size, np.int64))


def grouped(inputs: int, outputs: int, groups: int) -> Stretch:
    """Each place reads every place of its group."""
    wide = inputs // groups
    first = np.arange(outputs) // (outputs // groups) * wide
    return Stretch(inputs, first, first + wide, np.full(outputs, wide))


def along(axis: Axis, *, transposed: bool) -> Stretch:
    """Each place reads through a kernel."""
    step, apart = axis.stride, axis.dilation
    if not transposed:
        start = np.arange(axis.outputs) * step - axis.offset
        low = (-(start // apart)).clip(0)
        high = ((axis.inputs - 1 - start) // apart).clip(None, axis.kernel - 1)
        count = (high - low + 1).clip(0)
        return Stretch(axis.inputs, start + low * apart, start + high * apart + 1, count)
    place = np.arange(axis.inputs) + axis.offset
    first = (-((axis.span - 1 - place) // step)).clip(0)
    last = (place // step).clip(None, axis.outputs - 1) + 1
    shared = gcd(step, apart)  # places that differ by less read through no kernel element alike
    count = -(-(last - first).clip(0) // (apart // shared))
    return Stretch(axis.outputs, first, last, np.where(place % shared, 0, count))


def stretches(layer: IndexMap | Linear) -> list[Stretch] | None:
    """What the places along each axis of the output read along that of the input; None for a layer
    whose axes mix.
    """
    if isinstance(layer, Convolution):
        layer = layer.index_map
    if isinstance(layer, IndexMap):
        channels = grouped(layer.input_shape[0], layer.output_shape[0], layer.groups)
        return [channels, *(along(axis, transposed=layer.transposed) for axis in layer.axes)]
    if isinstance(layer, LocallyConnected):
        channels = grouped(layer.input_shape[0], layer.output_shape[0], 1)
        return [channels, *(along(axis, transposed=layer.transposed) for axis in layer.axes)]
    if isinstance(layer, Dense):
        axis = len(layer.before)
        units = grouped(layer.input_shape[axis], layer.output_shape[axis], 1)
        return [*map(same, layer.before), units, *map(same, layer.after)]
    return None


def filled(layers: Iterable[IndexMap | Linear]) -> FixedOutline:
    """The outline of layers one after another as one: of each its outline, or itself where its
    axes mix. Its entries are counted at most. Each layer is let go before the next is loaded.

    Raises `GeometryError` where they do not follow on each other, and what `check_chain` raises.
    """
    kept: list[Outline] = []
    shapes: list[tuple[int, ...]] = []
    rows = None
    for layer in layers:
        outline = layer.outline if isinstance(layer, Linear) else layer
        shapes = shapes or [outline.input_shape]
        if shapes[-1] != outline.input_shape:
            raise GeometryError(
                f"{shapes[-1]} is made, and {outline.input_shape} is taken after it"
            )
        shapes.append(outline.output_shape)
        if not (kept and isinstance(layer, Diagonal) and folds(kept[-1], layer)):
            kept.append(outline)
            check_chain(kept)
        rows = rows or _Rows(outline.input_shape)
        rows.pass_through(layer)
        del layer
    if rows is None:
        raise GeometryError("a chain of no layers")
    return FixedOutline(shapes[0], shapes[-1], (), rows.total(), factors=tuple(kept))


class _Rows:
    """How many entries the rows of layers one after another have, at most."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._columns, self._most = prod(shape), 1
        self._axes = [same(size) for size in shape]
        self._mixed: Array | None = None  # the rows of the last layer, where its axes mix

    def pass_through(self, layer: IndexMap | Linear) -> None:
        """Take in the next layer."""
        if isinstance(layer, Diagonal):
            return
        axes = stretches(layer)
        if axes is not None:
            self._axes = [axis.after(before) for axis, before in zip(axes, self._axes, strict=True)]
            self._mixed = None
            return
        assert isinstance(layer, Linear)
        counts = self._counts() if self._mixed is None else self._mixed
        self._mixed = layer.apply(counts, as_float_ones)
        np.minimum(self._mixed, self._columns, out=self._mixed)
        self._most = int(self._mixed.max(initial=0))
        self._axes = [same(size) for size in self._mixed.shape]

    def total(self) -> int:
        """The entries of all rows."""
        if self._mixed is not None:
            return int(self._mixed.sum())
        total = self._most * prod(int(axis.count.sum()) for axis in self._axes)
        return min(total, self._columns * prod(len(axis.count) for axis in self._axes))

    def _counts(self) -> Array:
        """Those of each row."""
        axes = [axis.count.astype(np.float64) for axis in self._axes]
        counts: Array = reduce(np.multiply.outer, axes)
        counts *= self._most
        return np.minimum(counts, self._columns, out=counts)
