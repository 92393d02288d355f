"""A dense layer along one axis of a tensor: Gemm, MatMul with a constant side, Keras's Dense."""

from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import GeometryError
from convfc_cli.json_values import member, sizes
from convfc_cli.layers.blockwise import Blockwise, Latest
from convfc_cli.layers.linear import Read
from convfc_cli.layers.slabs import Weights
from convfc_cli.layers.tied import check_fits, checked
from convfc_cli.layout import Layout
from convfc_cli.outline import FixedOutline
from convfc_cli.taps import Index


class Dense(Blockwise):
    """y[p, m, q] = sum over k of kernel[m, k] * x[p, k, q] + bias.

    `kernel` is (out, in). `before` and `after` are the shapes of the axes p and q, which are only
    passed through: most layers have none. Where `transposed`, the layer is the transpose of that.
    The bias has as many axes as the output, each with its size or 1.

    Raises `GeometryError` for kernel, shapes and bias that do not fit.

    >>> layer = Dense(np.array([[1.0, 2.0]]), bias=np.array([10.0]))
    >>> layer.apply(np.array([3.0, 4.0])) + layer.bias_tensor()
    array([21.])
    """

    kind = "dense"
    oracle = "a matrix product"

    def __init__(
        self,
        kernel: Array,
        before: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
        bias: Array | None = None,
        *,
        transposed: bool = False,
    ) -> None:
        if kernel.ndim != 2 or not kernel.size:
            raise GeometryError(f"a kernel of shape {kernel.shape}; (out, in) is expected")
        self.before, self.after, self.transposed = before, after, transposed
        shape = (*before, kernel.shape[transposed], *after)
        if bias is not None:
            check_fits(bias, shape, "bias")
        self.kernel, self.bias = checked(kernel, bias, () if bias is None else bias.shape)

    @cached_property
    def outline(self) -> FixedOutline:
        """A matrix with an entry for each output and each input."""
        made, read = ((*self.before, size, *self.after) for size in self._weights.shape)
        nnz = self.kernel.size * prod(self.before) * prod(self.after)
        biases = 0 if self.bias is None else self.bias.size
        return FixedOutline(read, made, self.kernel.shape, nnz, biases=biases)

    @property
    def _weights(self) -> Array:
        """(made, read), whichever way round."""
        return self.kernel.T if self.transposed else self.kernel

    def with_kernel(self, kernel: Array, bias: Array | None = None) -> Self:
        return type(self)(kernel, self.before, self.after, bias, transposed=self.transposed)

    def adjoint(self) -> "Dense":
        return Dense(self.kernel, self.before, self.after, transposed=not self.transposed)

    def geometry(self) -> dict[str, Any]:
        return {
            "kernel_shape": self.kernel.shape,
            "before": self.before,
            "after": self.after,
            "transposed": self.transposed,
            "bias_shape": None if self.bias is None else self.bias.shape,
            "dtype": self.dtype.name,
        }

    @classmethod
    def restore(cls, geometry: dict[str, Any], read: Read) -> Self:
        bias = None if geometry["bias_shape"] is None else read("kernel_bias")
        return cls(
            read("kernel"),
            sizes(geometry["before"]),
            sizes(geometry["after"]),
            bias,
            transposed=member(geometry, "transposed", bool),
        )

    def weight_of(self, output: Index, source: Index) -> Index | None:
        axis = len(self.before)
        passed = [(*index[:axis], *index[axis + 1 :]) for index in (output, source)]
        if passed[0] != passed[1]:
            return None
        made, read = output[axis], source[axis]
        return (read, made) if self.transposed else (made, read)

    def colors(self) -> Array:
        axis = len(self.before)
        place = np.arange(self.input_shape[axis])
        return np.broadcast_to(place.reshape(-1, *(1,) * len(self.after)), self.input_shape)

    @property
    def most_colors(self) -> int:
        return int(self._weights.shape[1])

    def row_lengths(self, outputs: Array) -> Array:
        return np.full(len(outputs), self._weights.shape[1])

    def row_entries(self, outputs: Array, layout: Layout) -> tuple[Array, Array]:
        axis, width = len(self.before), self.kernel.shape[1]
        steps = (1, width) if self.transposed else (width, 1)
        strides = layout.strides(self.input_shape)
        places = list(np.unravel_index(outputs, self.output_shape))
        unit = places[axis].astype(np.int64)
        start = np.zeros(len(outputs), np.int64)
        for a, (place, stride) in enumerate(zip(places, strides, strict=True)):
            start += place * stride if a != axis else 0
        inputs = np.arange(self._weights.shape[1])
        columns = start[:, None] + inputs * strides[axis]
        return columns.reshape(-1), (unit[:, None] * steps[0] + inputs * steps[1]).reshape(-1)

    def _part(
        self, whole: Latest, layout: Layout, rows: range, x: Array, weights: Weights
    ) -> Array:
        if self.before or self.after:
            return super()._part(whole, layout, rows, x, weights)
        # Of one vector: part of the kernel, so that not all is gone through for each slab.
        part: Array = weights(self._weights[rows.start : rows.stop])
        return part @ x

    def apply_kernel(self, x: Array, kernel: Array) -> Array:
        x = x.reshape(prod(self.before), -1, prod(self.after))
        y: Array = (kernel.T if self.transposed else kernel) @ x
        return y.reshape(self.output_shape)
