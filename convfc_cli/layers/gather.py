"""A 0/1 matrix: every output is one of the inputs, or zero.

Padding of any mode, cropping, nearest upsampling, slices, flattening, permuting: whatever moves
numbers and computes none.
"""

from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np

from convfc_cli.arrays import Array, frozen
from convfc_cli.errors import GeometryError
from convfc_cli.json_values import member, sizes
from convfc_cli.layers.blockwise import Blockwise
from convfc_cli.layers.linear import Read
from convfc_cli.layers.tied import checked
from convfc_cli.layout import Layout
from convfc_cli.outline import FixedOutline
from convfc_cli.streams import CHUNK
from convfc_cli.taps import Index


class Gather(Blockwise):
    """Output o is input `source[o]`, flat in C order; -1 is zero.

    Where `transposed`, the layer is the transpose of that: inputs are added up where they come
    from, and `source` has the shape of the input. `kernel` is the only weight, (1,).

    Raises `GeometryError` for a source that is not within the input.

    >>> reflected = Gather((3,), np.pad(np.arange(3), 2, mode="reflect"))
    >>> reflected.apply(np.array([1.0, 2.0, 3.0]))
    array([3., 2., 1., 2., 3., 2., 1.])
    """

    kind = "gather"
    bias = None

    def __init__(
        self,
        far: tuple[int, ...],
        source: Array,
        *,
        transposed: bool = False,
        kernel: Array | None = None,
    ) -> None:
        """`far` is the shape of the input, of the output where `transposed`."""
        if source.dtype.kind not in "iu" or not source.size or not source.ndim:
            raise GeometryError(f"sources of {source.dtype} and shape {source.shape}")
        if min(far, default=0) < 1:
            raise GeometryError(f"a gather from or to a tensor of shape {far}")
        if int(source.min()) < -1 or int(source.max()) >= prod(far):
            raise GeometryError(f"a source beyond the {prod(far)} inputs of shape {far}")
        self.kernel, _ = checked(np.ones(1, np.float32) if kernel is None else kernel, None, ())
        if self.kernel.shape != (1,):
            raise GeometryError(f"a kernel of shape {self.kernel.shape}; a gather has one weight")
        self.source = frozen(source.astype(np.int64, order="C", copy=False))
        self.far, self.transposed = far, transposed

    @cached_property
    def outline(self) -> FixedOutline:
        """A matrix with at most one entry, a one, for each output."""
        near, far = self.source.shape, self.far
        source, output = (near, far) if self.transposed else (far, near)
        nnz = int(np.count_nonzero(self.source >= 0))
        return FixedOutline(source, output, (1,), nnz, extra_bytes=self.source.nbytes, biases=0)

    def with_kernel(self, kernel: Array, bias: Array | None = None) -> Self:
        return type(self)(self.far, self.source, transposed=self.transposed, kernel=kernel)

    def adjoint(self) -> "Gather":
        return Gather(self.far, self.source, transposed=not self.transposed, kernel=self.kernel)

    def geometry(self) -> dict[str, Any]:
        return {
            "far": self.far,
            "source_shape": self.source.shape,
            "transposed": self.transposed,
            "dtype": self.dtype.name,
        }

    def arrays(self) -> dict[str, Array]:
        return {"kernel": self.kernel, "source": self.source}

    @classmethod
    def restore(cls, geometry: dict[str, Any], read: Read) -> Self:
        source = read("source")
        if source.dtype != np.int64 or source.shape != sizes(geometry["source_shape"]):
            raise ValueError(f"its source is {source.dtype} of shape {source.shape}")
        transposed = member(geometry, "transposed", bool)
        return cls(sizes(geometry["far"]), source, transposed=transposed, kernel=read("kernel"))

    def weight_of(self, output: Index, source: Index) -> Index | None:
        near, far = (source, output) if self.transposed else (output, source)
        return (0,) if self.source[near] == np.ravel_multi_index(far, self.far) else None

    def colors(self) -> Array:
        if not self.transposed:  # an output reads one input: none meet
            return np.zeros(self.input_shape, np.int64)
        order, starts = self._fed
        sources = self.source.reshape(-1)[order]
        colors = np.zeros(self.source.size, np.int64)
        colors[order] = np.arange(len(order)) - starts[sources]
        return colors.reshape(self.source.shape)

    @property
    def most_colors(self) -> int:
        return max(1, int(np.diff(self._fed[1]).max())) if self.transposed else 1

    @cached_property
    def _fed(self) -> tuple[Array, Array]:
        """(near elements by the far one that they are tied to, where each far one's begin)."""
        flat = self.source.reshape(-1)
        order = np.argsort(flat, kind="stable")
        order = order[np.count_nonzero(flat < 0) :]
        counts = np.bincount(flat[order], minlength=prod(self.far))
        return order, np.concatenate(([0], np.cumsum(counts)))

    def row_lengths(self, outputs: Array) -> Array:
        if self.transposed:
            return np.diff(self._fed[1])[outputs]
        return (self.source.reshape(-1)[outputs] >= 0).astype(np.int64)

    def row_entries(self, outputs: Array, layout: Layout) -> tuple[Array, Array]:
        shape = self.input_shape
        if self.transposed:
            order, starts = self._fed
            counts = starts[outputs + 1] - starts[outputs]
            rows = np.repeat(np.arange(len(outputs)), counts)
            within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            columns = _places(order[starts[outputs][rows] + within], shape, layout)
            columns = columns[np.lexsort((columns, rows))]
        else:
            sources = self.source.reshape(-1)[outputs]
            columns = _places(sources[sources >= 0], shape, layout)
        return columns, np.zeros(len(columns), np.int64)

    def apply_kernel(self, x: Array, kernel: Array) -> Array:
        x, flat = x.reshape(-1), self.source.reshape(-1)
        y = np.zeros(prod(self.output_shape), x.dtype)
        for first in range(0, flat.size, CHUNK):
            part = slice(first, first + CHUNK)
            inside = flat[part] >= 0
            places = flat[part][inside]
            if self.transposed:
                np.add.at(y, places, x[part][inside] * kernel[0])
            else:
                y[part][inside] = x[places] * kernel[0]
        return y.reshape(self.output_shape)


def _places(flat: Array, shape: tuple[int, ...], layout: Layout) -> Array:
    """Where the elements with these flat indices in C order are in a layout's vector."""
    strides = layout.strides(shape)
    places = np.zeros(len(flat), np.int64)
    for index, stride in zip(np.unravel_index(flat, shape), strides, strict=True):
        places += index * stride
    return places
