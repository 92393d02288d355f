"""A locally connected layer: a convolution whose kernel differs from place to place."""

from dataclasses import asdict
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, Self

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import GeometryError
from convfc_cli.geometry import Axis
from convfc_cli.json_values import member
from convfc_cli.layers.blockwise import Blockwise
from convfc_cli.layers.description import axes_of
from convfc_cli.layers.linear import Read
from convfc_cli.layers.tied import checked
from convfc_cli.layout import Layout
from convfc_cli.outline import FixedOutline
from convfc_cli.taps import Index, coloring, count_taps, elements_between

GRID = 2**20
"""Places that are looked at for taps at once."""


class LocallyConnected(Blockwise):
    """y[c, o..] = sum over b, t of kernel[c, b, o.., t..] * x[b, i..], i by each axis' relation:
    i = o * stride + t * dilation - offset.

    `kernel` is (out, in, *outputs, *kernel sizes): the axes' own. A weight that would be read with
    padding is in no entry. Where `transposed`, the layer is the transpose of that. The bias is one
    for each output.

    Raises `GeometryError` for a kernel or a bias that does not fit.

    >>> axis = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
    >>> layer = LocallyConnected(np.arange(1.0, 5).reshape(1, 1, 2, 2), (axis,))
    >>> layer.apply(np.array([[1.0, 10.0, 100.0]]))
    array([[ 21., 430.]])
    """

    kind = "locally-connected"
    oracle = "one kernel element after another"

    def __init__(
        self,
        kernel: Array,
        axes: tuple[Axis, ...],
        bias: Array | None = None,
        *,
        transposed: bool = False,
    ) -> None:
        sizes = (*(axis.outputs for axis in axes), *(axis.kernel for axis in axes))
        if kernel.ndim < 4 or kernel.shape[2:] != sizes:
            raise GeometryError(f"a kernel of shape {kernel.shape}; (out, in, {sizes}) is expected")
        self.axes, self.transposed = axes, transposed
        self._far = (kernel.shape[1], *(axis.inputs for axis in axes))
        self._near = (kernel.shape[0], *(axis.outputs for axis in axes))
        self.kernel, self.bias = checked(kernel, bias, self._far if transposed else self._near)

    @cached_property
    def outline(self) -> FixedOutline:
        """A matrix with the entries of a convolution, each with a weight of its own."""
        shapes = (self._near, self._far) if self.transposed else (self._far, self._near)
        nnz = prod(self.kernel.shape[:2]) * prod(map(count_taps, self.axes))
        return FixedOutline(*shapes, self.kernel.shape, nnz)

    def with_kernel(self, kernel: Array, bias: Array | None = None) -> Self:
        return type(self)(kernel, self.axes, bias, transposed=self.transposed)

    def adjoint(self) -> "LocallyConnected":
        return LocallyConnected(self.kernel, self.axes, transposed=not self.transposed)

    def geometry(self) -> dict[str, Any]:
        return {
            "kernel_shape": self.kernel.shape,
            "axes": [asdict(axis) for axis in self.axes],
            "transposed": self.transposed,
            "bias": self.bias is not None,
            "dtype": self.dtype.name,
        }

    @classmethod
    def restore(cls, geometry: dict[str, Any], read: Read) -> Self:
        axes = axes_of(geometry)
        bias = read("kernel_bias") if member(geometry, "bias", bool) else None
        return cls(read("kernel"), axes, bias, transposed=member(geometry, "transposed", bool))

    def weight_of(self, output: Index, source: Index) -> Index | None:
        near, far = (source, output) if self.transposed else (output, source)
        elements = elements_between(self.axes, near[1:], far[1:])
        return None if elements is None else (near[0], far[0], *near[1:], *elements)

    def colors(self) -> Array:
        channels, *sizes = self.input_shape
        colors = np.arange(channels)
        for size, (run, period) in zip(sizes, self._colorings(), strict=True):
            colors = colors[..., None] * period + np.arange(size) // run % period
        return colors

    @property
    def most_colors(self) -> int:
        return self.input_shape[0] * prod(period for _, period in self._colorings())

    def _colorings(self) -> list[tuple[int, int]]:
        return [coloring(axis, transposed=self.transposed) for axis in self.axes]

    def row_lengths(self, outputs: Array) -> Array:
        counts = np.full(len(outputs), self.input_shape[0])
        places = np.unravel_index(outputs, self.output_shape)[1:]
        for axis, place in zip(self.axes, places, strict=True):
            counts *= sum(self._read(axis, place, t)[1].astype(int) for t in range(axis.kernel))
        return counts

    def row_entries(self, outputs: Array, layout: Layout) -> tuple[Array, Array]:
        """A grid of (outputs, channels read, kernel elements...), of which the taps are taken."""
        shape, n = self.input_shape, len(self.axes)
        step = max(1, GRID // (shape[0] * prod(axis.kernel for axis in self.axes)))
        if len(outputs) > step:  # a grid may have far more places than taps
            starts = range(0, len(outputs), step)
            parts = [self.row_entries(outputs[start : start + step], layout) for start in starts]
            return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        strides = layout.strides(shape)
        channel, *places = (
            _along(place, 0, n + 2) for place in np.unravel_index(outputs, self.output_shape)
        )
        read = _along(np.arange(shape[0]), 1, n + 2)
        columns, taps = read * strides[0], np.array(True)
        near, elements = [], []
        for a, (axis, place) in enumerate(zip(self.axes, places, strict=True)):
            rising = np.arange(axis.kernel)
            # Of a transposed layer the outputs that have an element fall as elements rise.
            element = _along(rising[::-1] if self.transposed else rising, a + 2, n + 2)
            at, met = self._read(axis, place, element)
            near.append(at if self.transposed else place)
            elements.append(element)
            columns, taps = columns + at * strides[a + 1], taps & met
        index = np.array(0)
        channels = (read, channel) if self.transposed else (channel, read)
        for size, part in zip(self.kernel.shape, (*channels, *near, *elements), strict=True):
            index = index * size + part
        order = (0, *(axis + 1 for axis in layout.axes(n + 1)))
        grid = [len(outputs), shape[0], *(axis.kernel for axis in self.axes)]
        columns, index, taps = (
            np.broadcast_to(array, grid).transpose(order) for array in (columns, index, taps)
        )
        return columns[taps], index[taps]

    def _read(self, axis: Axis, place: Array, element: Any) -> tuple[Array, Array]:
        """What a place reads by a kernel element, and whether it does."""
        if not self.transposed:
            at = place * axis.stride + element * axis.dilation - axis.offset
            return at, (at >= 0) & (at < axis.inputs)
        at, rest = np.divmod(place + axis.offset - element * axis.dilation, axis.stride)
        return at, (rest == 0) & (at >= 0) & (at < axis.outputs)

    def apply_kernel(self, x: Array, kernel: Array) -> Array:
        """Kernel element by kernel element: what all places read through theirs."""
        y = np.zeros(self.output_shape, x.dtype)
        contraction = "ob...,o...->b..." if self.transposed else "ob...,b...->o..."
        for elements in product(*(range(axis.kernel) for axis in self.axes)):
            spans = [_met(axis, t) for axis, t in zip(self.axes, elements, strict=True)]
            near, far = (tuple(span[side] for span in spans) for side in (0, 1))
            place: tuple[Any, ...] = (..., *near, *elements)
            weights = kernel[place]
            read, written = (near, far) if self.transposed else (far, near)
            y[(slice(None), *written)] += np.einsum(contraction, weights, x[(slice(None), *read)])
        return y


def _along(values: Array, axis: int, ndim: int) -> Array:
    """A vector as an array of so many axes, along one of them."""
    return values.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _met(axis: Axis, element: int) -> tuple[slice, slice]:
    """The outputs that read within the input by this kernel element, and what they read."""
    shift = element * axis.dilation - axis.offset
    first = max(0, -(shift // axis.stride))
    last = min(axis.outputs, (axis.inputs - 1 - shift) // axis.stride + 1)
    last = max(first, last)
    start = first * axis.stride + shift
    if first == last:
        return slice(0, 0), slice(0, 0)
    return (
        slice(first, last),
        slice(start, (last - 1) * axis.stride + shift + 1, axis.stride),
    )
