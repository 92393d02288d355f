"""The matrix of a convolution by brute force: loops straight from the formula of the definition.

    M[(c, o1..oN), (b, i1..iN)] = K[c, b - g C/G, t1..tN]

where i = o s + t d - offset on every axis, and g is the group of c.

Slow on purpose, and independent on purpose: it shares no code with the package and reads nothing of
it but the six numbers of an axis. Values are handled as bits, so that a NaN keeps its payload.
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Index = tuple[int, ...]


def axis_taps(axis: Any) -> list[tuple[int, int, int]]:
    """Every (o, i, t) of an axis, by trying all."""
    return [
        (o, i, t)
        for o in range(axis.outputs)
        for i in range(axis.inputs)
        for t in range(axis.kernel)
        if i == o * axis.stride + t * axis.dilation - axis.offset
    ]


def nonzeros(
    kernel_shape: Index, axes: Any, groups: int, transposed: bool
) -> dict[tuple[Index, Index], Index]:
    """{(output, input): kernel element}, all as (channel, *spatial)."""
    channels, depth = kernel_shape[:2]
    found: dict[tuple[Index, Index], Index] = {}
    for c, b in product(range(channels), range(depth * groups)):
        g = c * groups // channels
        if not g * depth <= b < (g + 1) * depth:
            continue
        for taps in product(*map(axis_taps, axes)):
            near = (c, *(o for o, _, _ in taps))
            far = (b, *(i for _, i, _ in taps))
            pair = (far, near) if transposed else (near, far)
            assert pair not in found
            found[pair] = (c, b - g * depth, *(t for _, _, t in taps))
    return found


def positions(shape: Index, order: str) -> Array:
    """Where each element (channel, *spatial) of a tensor stands in its vector."""
    numbers = np.arange(prod(shape))
    if order == "channels-first":
        return numbers.reshape(shape)
    if order == "channels-last":
        return np.moveaxis(numbers.reshape(*shape[1:], shape[0]), -1, 0)
    assert order == "fortran"
    return numbers.reshape(shape, order="F")


def tensor_shapes(kernel_shape: Index, axes: Any, groups: int, transposed: bool) -> Any:
    """(output shape, input shape) of the layer."""
    near = (kernel_shape[0], *(axis.outputs for axis in axes))
    far = (kernel_shape[1] * groups, *(axis.inputs for axis in axes))
    return (far, near) if transposed else (near, far)


def bits(array: Array) -> Array:
    """The bits of an array as unsigned integers: what equality means here."""
    array = np.ascontiguousarray(array)
    return array.view(f"u{array.dtype.itemsize}")


@dataclass(frozen=True)
class Csr:
    """The matrix as CSR, with the flat kernel index of each entry."""

    shape: tuple[int, int]
    indptr: Array
    indices: Array
    data: Array
    kernel_index: Array

    def dense(self) -> Array:
        """Every entry; what is not stored is +0.0."""
        dense = np.zeros(self.shape, self.data.dtype)
        view = bits(dense)
        for row in range(self.shape[0]):
            part = slice(self.indptr[row], self.indptr[row + 1])
            for column, value in zip(self.indices[part], bits(self.data)[part], strict=True):
                view[row, column] = value
        return view.view(self.data.dtype)


def csr(
    kernel: Array, axes: Any, groups: int, transposed: bool, order: str, transpose: bool
) -> Csr:
    """The matrix of a layer in a layout."""
    out_shape, in_shape = tensor_shapes(kernel.shape, axes, groups, transposed)
    outputs, inputs = positions(out_shape, order), positions(in_shape, order)
    places = np.arange(kernel.size).reshape(kernel.shape)
    entries = []
    for (output, source), element in nonzeros(kernel.shape, axes, groups, transposed).items():
        row, column = int(outputs[output]), int(inputs[source])
        entries.append((column, row) if transpose else (row, column))
        entries[-1] += (int(places[element]),)
    entries.sort()
    shape = (prod(in_shape), prod(out_shape)) if transpose else (prod(out_shape), prod(in_shape))
    indptr = np.zeros(shape[0] + 1, np.int64)
    for row, _, _ in entries:
        indptr[row + 1] += 1
    index = np.array([place for _, _, place in entries], np.int64)
    return Csr(
        shape=shape,
        indptr=indptr.cumsum(),
        indices=np.array([column for _, column, _ in entries], np.int64),
        data=bits(kernel).reshape(-1)[index].view(kernel.dtype),
        kernel_index=index,
    )


def apply(x: Array, kernel: Array, axes: Any, groups: int, transposed: bool) -> Array:
    """The layer applied to x (channels, *spatial), in Python's own numbers: integers are exact."""
    out_shape, _ = tensor_shapes(kernel.shape, axes, groups, transposed)
    y = np.zeros(out_shape, object)
    for (output, source), element in nonzeros(kernel.shape, axes, groups, transposed).items():
        y[output] += kernel[element].item() * x[source].item()
    return y
