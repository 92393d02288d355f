"""What can become a matrix: frozen values, validated once.

A `Linear` has the shapes of its input and output tensors, a bias, `rows` (its matrix, written by
a builder) and `apply` (itself, computed in an independent way, the oracle). A new kind of layer is
a new class: builder and proof do their arithmetic through this contract alone. `Convolution` is one
kind; its matrix is written by `toeplitz` and its oracle is `direct`.

Tensors have the shape (channels, *spatial): there is no batch axis.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli import direct, toeplitz
from convfc_cli.errors import GeometryError
from convfc_cli.geometry import Axis
from convfc_cli.layout import Layout
from convfc_cli.streams import SparseRows
from convfc_cli.taps import IndexMap, colouring

Array = NDArray[Any]

Weights = Callable[[Array], Array]
"""An elementwise function of the weights: `apply` uses what it returns in their place."""


@dataclass(frozen=True)
class Slab:
    """Some consecutive outputs of a layer, in the order of a layout: a way to apply it in parts."""

    rows: range
    apply: Callable[[Array, Weights], Array]
    """`apply(x, weights)` is the vector of those outputs, without bias."""

    strips: "Callable[[], Iterator[Strip]]"
    """Layers over disjoint parts of the input, whose outputs add up to them."""


@dataclass(frozen=True)
class Strip:
    """What some outputs read from a part of the input, as a layer of its own."""

    reads: tuple[slice, ...]
    """The part of the input, along each of its axes."""

    layer: "Convolution"


class Linear(ABC):
    """A linear map between tensors, with a bias."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """(channels, *spatial) of the input."""

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """(channels, *spatial) of the output."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the matrix entries."""

    @property
    @abstractmethod
    def finite(self) -> bool:
        """Whether all weights are finite. Where one is not, a runtime makes NaN of the zeros
        around an input, which no entry of the matrix stands for.
        """

    @abstractmethod
    def bias_tensor(self) -> Array:
        """The bias of each output, (output_shape)."""

    @abstractmethod
    def adjoint(self) -> "Linear":
        """The map whose matrix is the transpose, without a bias."""

    @abstractmethod
    def rows(self, layout: Layout) -> SparseRows:
        """The matrix in this layout, as streams."""

    @abstractmethod
    def slabs(self, layout: Layout, most: int) -> Iterator[Slab]:
        """The outputs in order, about `most` at a time, for `apply` in bounded memory.

        The layout's orientation is not looked at: the adjoint has slabs of its own.
        """

    def colours(self) -> Array:
        """A number from 0 on for each input, (input_shape): no output reads two of one number.

        This one suits every layer; a kind that knows better needs fewer.
        """
        return np.arange(self.most_colours).reshape(self.input_shape)

    @property
    def most_colours(self) -> int:
        """How many numbers `colours` has."""
        return prod(self.input_shape)

    def apply(self, x: Array, weights: Weights | None = None) -> Array:
        """The map without its bias: x (input_shape) to y (output_shape), never by way of `rows`.

        It computes in x's dtype, with `weights(w)` for each array w of weights: by default the
        weights themselves in that dtype.
        """
        weights = weights or (lambda w: w.astype(x.dtype))
        layout = Layout()
        parts = [slab.apply(x, weights) for slab in self.slabs(layout, prod(self.output_shape))]
        return layout.tensor(np.concatenate(parts), self.output_shape)


class Convolution(Linear):
    """A convolution, or the transpose of one.

    `kernel` is (out, in/groups, *spatial) of the convolution whose relation the map's axes state;
    it is float32 or float64 and not flipped (a cross-correlation, as every framework computes
    it).
    `bias` has one value an output channel, or is None.

    Raises `GeometryError` when kernel, map and bias do not fit.

    >>> axis = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
    >>> layer = Convolution(np.ones((1, 1, 2)), IndexMap((1, 1, 2), (axis,)))
    >>> layer.apply(np.array([[1.0, 2.0, 3.0]]))
    array([[3., 5.]])
    """

    def __init__(self, kernel: Array, index_map: IndexMap, bias: Array | None = None) -> None:
        if kernel.shape != index_map.kernel_shape:
            raise GeometryError(
                f"a kernel of shape {kernel.shape} where the map says {index_map.kernel_shape}"
            )
        if kernel.dtype not in (np.float32, np.float64):
            raise GeometryError(f"a kernel of {kernel.dtype}; float32 or float64 is asked for")
        channels = index_map.output_shape[0]
        if bias is not None and (bias.shape != (channels,) or bias.dtype != kernel.dtype):
            raise GeometryError(
                f"a bias of shape {bias.shape} and {bias.dtype}; "
                f"{channels} values of {kernel.dtype} are asked for, one an output channel"
            )
        self.kernel = _frozen(kernel)
        self.bias = None if bias is None else _frozen(bias)
        self.index_map = index_map

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.index_map.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.index_map.output_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kernel.dtype

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.kernel).all())

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

    def astype(self, dtype: str) -> "Convolution":
        """The convolution with its weights rounded to another dtype."""
        with np.errstate(over="ignore", invalid="ignore"):
            kernel = self.kernel.astype(dtype)
            bias = None if self.bias is None else self.bias.astype(dtype)
        return Convolution(kernel, self.index_map, bias)

    def rows(
        self,
        layout: Layout = Layout(),  # noqa: B008 - frozen
        *,
        kernel_index: bool = False,
    ) -> SparseRows:
        return toeplitz.rows(self.index_map, self.kernel, layout, kernel_index=kernel_index)

    def colours(self) -> Array:
        """The channel within its group, and a colour along each axis (`taps.colouring`)."""
        channels, *sizes = self.input_shape
        found = np.arange(channels) % (channels // self.index_map.groups)
        for size, (run, period) in zip(sizes, self._colourings(), strict=True):
            found = found[..., None] * period + np.arange(size) // run % period
        return found

    @property
    def most_colours(self) -> int:
        channels = self.input_shape[0] // self.index_map.groups
        return channels * prod(period for _, period in self._colourings())

    def _colourings(self) -> list[tuple[int, int]]:
        """(run, period) along each axis, the period no more than the inputs have."""
        found = []
        for axis, size in zip(self.index_map.axes, self.input_shape[1:], strict=True):
            run, period = colouring(axis, transposed=self.index_map.transposed)
            found.append((run, min(period, -(-size // run))))
        return found

    def slabs(self, layout: Layout, most: int) -> Iterator[Slab]:
        groups, channels = self.index_map.groups, self.output_shape[0]
        sizes: list[int] = []
        for axis in layout.axes(len(self.output_shape)):
            sizes += [groups, channels // groups] if axis == 0 else [self.output_shape[axis]]
        first = 0
        for box in _boxes(sizes, most):
            last = first + prod(map(len, box))
            yield self._slab(layout, range(first, last), box)
            first = last

    def _slab(self, layout: Layout, rows: range, box: tuple[range, ...]) -> Slab:
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

        return Slab(rows, part, strips)


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


def _frozen(array: Array) -> Array:
    """The array, contiguous and read-only."""
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array
