"""A diagonal matrix: each output is its input times a number, as in batch normalization."""

from functools import cached_property
from math import prod
from typing import Any, Self

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.json_values import sizes
from convfc_cli.layers.blockwise import Blockwise
from convfc_cli.layers.linear import Read
from convfc_cli.layers.tied import check_fits, checked
from convfc_cli.layout import Layout
from convfc_cli.outline import FixedOutline
from convfc_cli.taps import Index


class Diagonal(Blockwise):
    """y = kernel * x + bias, element by element.

    Kernel and bias have as many axes as `shape`, each with its size or 1: (channels, 1, 1) is a
    number for each channel.

    Raises `GeometryError` for a kernel or a bias that does not fit.

    >>> normalized = Diagonal(np.array([[2.0], [3.0]]), (2, 2))
    >>> normalized.apply(np.array([[1.0, 1.0], [1.0, 1.0]]))
    array([[2., 2.],
           [3., 3.]])
    """

    kind = "diagonal"
    oracle = "one product for each element"

    def __init__(self, kernel: Array, shape: tuple[int, ...], bias: Array | None = None) -> None:
        check_fits(kernel, shape, "kernel")
        if bias is not None:
            check_fits(bias, shape, "bias")
        self.kernel, self.bias = checked(kernel, bias, () if bias is None else bias.shape)
        self._shape = shape

    @cached_property
    def outline(self) -> FixedOutline:
        """A matrix with one entry in each row."""
        shape, biases = self._shape, 0 if self.bias is None else self.bias.size
        return FixedOutline(shape, shape, self.kernel.shape, prod(shape), biases=biases)

    def with_kernel(self, kernel: Array, bias: Array | None = None) -> Self:
        return type(self)(kernel, self.output_shape, bias)

    def adjoint(self) -> "Diagonal":
        return Diagonal(self.kernel, self.output_shape)

    def geometry(self) -> dict[str, Any]:
        return {
            "kernel_shape": self.kernel.shape,
            "bias_shape": None if self.bias is None else self.bias.shape,
            "dtype": self.dtype.name,
        }

    @classmethod
    def restore(cls, geometry: dict[str, Any], read: Read) -> Self:
        bias = None if geometry["bias_shape"] is None else read("kernel_bias")
        return cls(read("kernel"), sizes(geometry["input_shape"]), bias)

    def weight_of(self, output: Index, source: Index) -> Index | None:
        if output != source:
            return None
        return tuple(
            i if size > 1 else 0 for i, size in zip(output, self.kernel.shape, strict=True)
        )

    def colors(self) -> Array:
        return np.zeros(self.input_shape, np.int64)  # an output reads one input: none meet

    @property
    def most_colors(self) -> int:
        return 1

    def row_lengths(self, outputs: Array) -> Array:
        return np.ones(len(outputs), np.int64)

    def row_entries(self, outputs: Array, layout: Layout) -> tuple[Array, Array]:
        columns, index = np.zeros((2, len(outputs)), np.int64)
        shape, kernel = self.input_shape, self.kernel
        steps = (*np.cumprod(kernel.shape[:0:-1], dtype=np.int64)[::-1], 1)
        places = np.unravel_index(outputs, shape)
        strides = layout.strides(shape)
        for place, stride, step, size in zip(places, strides, steps, kernel.shape, strict=True):
            columns += place * stride
            index += place * step if size > 1 else 0
        return columns, index

    def apply_kernel(self, x: Array, kernel: Array) -> Array:
        return x * kernel
