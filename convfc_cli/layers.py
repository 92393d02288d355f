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
from functools import partial
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
from convfc_cli.taps import IndexMap

Array = NDArray[Any]

Weights = Callable[[Array], Array]
"""An elementwise function of the weights: `apply` uses what it returns in their place."""


@dataclass(frozen=True)
class Slab:
    """Some consecutive outputs of a layer, in the order of a layout: a way to apply it in parts."""

    rows: range
    apply: Callable[[Array, Weights], Array]
    """`apply(x, weights)` is the vector of those outputs, without bias."""


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

    def slabs(self, layout: Layout, most: int) -> Iterator[Slab]:
        groups, channels = self.index_map.groups, self.output_shape[0]
        sizes: list[int] = []
        for axis in layout.axes(len(self.output_shape)):
            sizes += [groups, channels // groups] if axis == 0 else [self.output_shape[axis]]
        first = 0
        for box in _boxes(sizes, most):
            last = first + prod(map(len, box))
            yield Slab(range(first, last), partial(self._part, layout, box))
            first = last

    def _part(self, layout: Layout, box: tuple[range, ...], x: Array, weights: Weights) -> Array:
        """The outputs in a box (as `slabs` cuts them), as a vector: a smaller convolution's."""
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
            axes = [
                replace(axis, outputs=len(o), offset=axis.offset - o.start * axis.stride)
                for axis, o in zip(index_map.axes, places, strict=True)
            ]
            apply: Callable[..., Array] = direct.convolve
        else:
            kernel, channels = kernel[:, :, _slice(members)], near
            readers = list(map(_readers, index_map.axes, places))
            axes = [
                replace(
                    axis,
                    inputs=len(i),
                    outputs=len(o),
                    offset=axis.offset + i.start - o.start * axis.stride,
                )
                for axis, i, o in zip(index_map.axes, places, readers, strict=True)
            ]
            x = x[(slice(None), *map(_slice, readers))]
            apply = direct.convolve_transposed
        x = x[groups.start * channels : groups.stop * channels]
        kernel = weights(kernel.reshape(-1, *kernel.shape[2:]))
        return layout.vector(apply(x, kernel, axes, len(groups)))


def _readers(axis: Axis, inputs: range) -> range:
    """The outputs of an axis that may read these inputs: at least one, if only for its shape."""
    start = -(-(inputs.start + axis.offset - axis.span + 1) // axis.stride)
    stop = (inputs.stop - 1 + axis.offset) // axis.stride + 1
    start = min(max(start, 0), axis.outputs - 1)
    return range(start, max(start + 1, min(stop, axis.outputs)))


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
