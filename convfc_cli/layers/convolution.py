"""A convolution, or the transpose of one: written by `toeplitz`, its oracle `direct`."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import product
from math import prod
from typing import Any, Self

import numpy as np

from convfc_cli import direct, toeplitz
from convfc_cli.arrays import Array, as_ones
from convfc_cli.errors import GeometryError
from convfc_cli.geometry import Axis
from convfc_cli.json_values import member, sizes
from convfc_cli.layers.description import axes_of
from convfc_cli.layers.linear import Read
from convfc_cli.layers.slabs import Weights
from convfc_cli.layers.tied import Strip, TiedLinear, TiedSlab, checked
from convfc_cli.layout import Layout
from convfc_cli.streams import SparseRows
from convfc_cli.taps import Index, IndexMap, Tap, coloring

_AXIS = tuple(field.name for field in fields(Axis))
"""What is described of an axis."""


class Convolution(TiedLinear):
    """A convolution, or the transpose of one.

    Parameters
    ----------
    kernel : ndarray, shape (out, in / groups, *spatial)
        The weights of the convolution whose relation the map's axes state. They are not flipped: a
        cross-correlation, as every framework computes it.
    index_map : IndexMap
        All of the layer but its weights.
    bias : ndarray, shape (output channels,), optional
        One value an output channel.

    Raises
    ------
    GeometryError
        If kernel, map and bias do not fit.

    Examples
    --------
    >>> axis = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
    >>> layer = Convolution(np.ones((1, 1, 2)), IndexMap((1, 1, 2), (axis,)))
    >>> layer.apply(np.array([[1.0, 2.0, 3.0]]))
    array([[3., 5.]])
    """

    kind = "convolution"
    oracle = "sliding windows"

    def __init__(self, kernel: Array, index_map: IndexMap, bias: Array | None = None) -> None:
        if kernel.shape != index_map.kernel_shape:
            raise GeometryError(
                f"a kernel of shape {kernel.shape} where the map says {index_map.kernel_shape}"
            )
        self.kernel, self.bias = checked(kernel, bias, index_map.output_shape[:1])
        self.index_map = index_map

    @property
    def outline(self) -> IndexMap:
        return self.index_map

    @property
    def _ones(self) -> Array:
        return np.broadcast_to(np.uint64(1), self.input_shape)

    def bias_tensor(self) -> Array:
        channels = self.output_shape[0]
        bias = np.zeros(channels, self.dtype) if self.bias is None else self.bias
        return np.broadcast_to(
            bias.reshape(-1, *(1,) * len(self.index_map.axes)), self.output_shape
        )

    def adjoint(self) -> "Convolution":
        return Convolution(self.kernel, self.index_map.adjoint())

    def flipped(self) -> "Convolution":
        """The convolution with its kernel turned round along every spatial axis."""
        spatial = tuple(range(2, self.kernel.ndim))
        return Convolution(np.flip(self.kernel, spatial), self.index_map, self.bias)

    def with_kernel(self, kernel: Array, bias: Array | None = None) -> Self:
        return type(self)(kernel, self.index_map, bias)

    def geometry(self) -> dict[str, Any]:
        index_map = self.index_map
        return {
            "kernel_shape": index_map.kernel_shape,
            "axes": [{name: getattr(axis, name) for name in _AXIS} for axis in index_map.axes],
            "groups": index_map.groups,
            "transposed": index_map.transposed,
            "bias": self.bias is not None,
            "dtype": self.dtype.name,
        }

    @classmethod
    def restore(cls, geometry: dict[str, Any], read: Read) -> Self:
        kernel = read("kernel")
        shape = sizes(geometry["kernel_shape"])
        if shape != kernel.shape:  # before it is counted through
            raise ValueError(f"it says kernel_shape {shape}, the kernel has {kernel.shape}")
        axes = axes_of(geometry)
        index_map = IndexMap(
            shape, axes, member(geometry, "groups", int), member(geometry, "transposed", bool)
        )
        return cls(
            kernel, index_map, read("kernel_bias") if member(geometry, "bias", bool) else None
        )

    def of_output(self, output: Index) -> Iterator[tuple[Tap, Any]]:
        return ((tap, self.kernel[tap.kernel]) for tap in self.index_map.of_output(output))

    def of_input(self, source: Index) -> Iterator[tuple[Tap, Any]]:
        return ((tap, self.kernel[tap.kernel]) for tap in self.index_map.of_input(source))

    def of_weight(self, kernel: Index) -> Iterator[tuple[Tap, Any]]:
        return ((tap, self.kernel[tap.kernel]) for tap in self.index_map.of_kernel(kernel))

    def weight_of(self, output: Index, source: Index) -> Index | None:
        return self.index_map.kernel_of(output, source)

    def matrix(
        self,
        layout: Layout = Layout(),  # noqa: B008 - frozen
        *,
        kernel_index: bool = False,
    ) -> SparseRows:
        return toeplitz.rows(self.index_map, self.kernel, layout, kernel_index=kernel_index)

    def colors(self) -> Array:
        """The channel within its group, and a color along each axis (`taps.coloring`)."""
        channels, *sizes = self.input_shape
        colors = np.arange(channels) % (channels // self.index_map.groups)
        for size, (run, period) in zip(sizes, self._colorings(), strict=True):
            colors = colors[..., None] * period + np.arange(size) // run % period
        return colors

    @property
    def most_colors(self) -> int:
        channels = self.input_shape[0] // self.index_map.groups
        return channels * prod(period for _, period in self._colorings())

    def _colorings(self) -> list[tuple[int, int]]:
        """(run, period) along each axis, the period no more than the inputs have."""
        colorings = []
        for axis, size in zip(self.index_map.axes, self.input_shape[1:], strict=True):
            run, period = coloring(axis, transposed=self.index_map.transposed)
            colorings.append((run, min(period, -(-size // run))))
        return colorings

    def slabs(self, layout: Layout, most: int) -> Iterator[TiedSlab]:
        groups, channels = self.index_map.groups, self.output_shape[0]
        sizes: list[int] = []
        for axis in layout.axes(len(self.output_shape)):
            sizes += [groups, channels // groups] if axis == 0 else [self.output_shape[axis]]
        first = 0
        for box in _boxes(sizes, most):
            last = first + prod(map(len, box))
            yield self._slab(layout, range(first, last), box)
            first = last

    def _slab(self, layout: Layout, rows: range, box: tuple[range, ...]) -> TiedSlab:
        """The outputs in a box (as `slabs` cuts them): those of a smaller convolution."""
        index_map = self.index_map
        order = layout.axes(len(self.output_shape))
        at = order.index(0)
        groups, members = box[at : at + 2]
        by_axis = dict(zip([a for a in order if a], box[:at] + box[at + 2 :], strict=True))
        places = [by_axis[a] for a in sorted(by_axis)]
        near, depth = index_map.kernel_shape[0] // index_map.groups, index_map.kernel_shape[1]
        kernel = self.kernel.reshape(-1, near, *self.kernel.shape[1:])[_slice(groups)]
        if not index_map.transposed:
            kernel, channels = kernel[:, _slice(members)], depth
            read = list(map(_read_inputs, index_map.axes, places))
            relations = zip(index_map.axes, read, places, strict=True)
            apply: Callable[..., Array] = direct.convolve
        else:
            kernel, channels = kernel[:, :, _slice(members)], near
            read = list(map(_read_outputs, index_map.axes, places))
            relations = zip(index_map.axes, places, read, strict=True)
            apply = direct.convolve_transposed
        axes = [
            replace(
                axis,
                inputs=len(i),
                outputs=len(o),
                offset=axis.offset + i.start - o.start * axis.stride,
            )
            for axis, i, o in relations
        ]
        first, last = groups.start * channels, groups.stop * channels
        inside = tuple(map(_slice, read))
        flat = kernel.reshape(-1, *kernel.shape[2:])

        def part(x: Array, weights: Weights) -> Array:
            x = x[(slice(first, last), *inside)]
            return layout.vector(apply(x, weights(flat), axes, len(groups)))

        def strips() -> Iterator[Strip]:
            along = 1 if index_map.transposed else 2  # the axis of the channels that are read
            for channel in range(channels):
                one = kernel.take([channel], along)
                one = one.reshape(-1, *one.shape[2:])
                smaller = IndexMap(one.shape, tuple(axes), len(groups), index_map.transposed)
                reads = (slice(first + channel, last, channels), *inside)
                yield Strip(reads, Convolution(one, smaller))

        def counts() -> Array:
            return part(self._ones, as_ones).astype(np.int64)

        return TiedSlab(rows, part, counts, strips)


def _read_inputs(axis: Axis, outputs: range) -> range:
    """The inputs of an axis that these outputs may read: at least one, if only for its shape."""
    start = outputs.start * axis.stride - axis.offset
    stop = (outputs.stop - 1) * axis.stride - axis.offset + axis.span
    return _within(start, stop, axis.inputs)


def _read_outputs(axis: Axis, inputs: range) -> range:
    """The same of a transposed axis: the outputs that may read these inputs."""
    start = -(-(inputs.start + axis.offset - axis.span + 1) // axis.stride)
    stop = (inputs.stop - 1 + axis.offset) // axis.stride + 1
    return _within(start, stop, axis.outputs)


def _within(start: int, stop: int, size: int) -> range:
    """The range cut to [0, size), and not to nothing."""
    start = min(max(start, 0), size - 1)
    return range(start, max(start + 1, min(stop, size)))


def _slice(places: range) -> slice:
    return slice(places.start, places.stop)


def _boxes(sizes: list[int], most: int) -> Iterator[tuple[range, ...]]:
    """Boxes that cover an array of these sizes in C order, of about `most` elements at most."""
    split = 0
    while split < len(sizes) - 1 and prod(sizes[split + 1 :]) > most:
        split += 1
    inner = tuple(range(size) for size in sizes[split + 1 :])
    step = max(1, most // max(1, prod(sizes[split + 1 :])))
    for outer in product(*(range(size) for size in sizes[:split])):
        for start in range(0, sizes[split], step):
            middle = range(start, min(start + step, sizes[split]))
            yield (*(range(i, i + 1) for i in outer), middle, *inner)
