"""The matrices of layers by brute force: loops straight from the formula of the definition.

    M[(c, o1..oN), (b, i1..iN)] = K[c, b - g C/G, t1..tN]

where i = o s + t d - offset on every axis, and g is the group of c.

Slow on purpose, and independent on purpose: it shares no code with the package and reads nothing of
it but the six numbers of an axis. Values are handled as bits, so that a NaN keeps its payload.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Index = tuple[int, ...]
Entries = dict[tuple[Index, Index], Index]
"""{(output, input): kernel element}"""


def axis_taps(axis: Any) -> list[tuple[int, int, int]]:
    """Every (o, i, t) of an axis, by trying all."""
    return [
        (o, i, t)
        for o in range(axis.outputs)
        for i in range(axis.inputs)
        for t in range(axis.kernel)
        if i == o * axis.stride + t * axis.dilation - axis.offset
    ]


def nonzeros(kernel_shape: Index, axes: Any, groups: int, transposed: bool) -> Entries:
    """{(output, input): kernel element}, all as (channel, *spatial)."""
    channels, depth = kernel_shape[:2]
    found: Entries = {}
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
    """The matrix of a convolution in a layout."""
    found = nonzeros(kernel.shape, axes, groups, transposed)
    shapes = tensor_shapes(kernel.shape, axes, groups, transposed)
    return placed(found, kernel, *shapes, order, transpose)


def placed(
    found: Entries, kernel: Array, out_shape: Index, in_shape: Index, order: str, transpose: bool
) -> Csr:
    """The matrix in a layout of the entries {(output, input): kernel element}."""
    outputs, inputs = positions(out_shape, order), positions(in_shape, order)
    places = np.arange(kernel.size).reshape(kernel.shape)
    entries = []
    for (output, source), element in found.items():
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


def adjoint(found: dict[tuple[Index, Index], Any]) -> dict[tuple[Index, Index], Any]:
    """The entries of the transpose."""
    return {(source, output): value for (output, source), value in found.items()}


def indices(shape: Index) -> list[Index]:
    """All places of a tensor, in C order."""
    return list(product(*map(range, shape)))


def gather(source: Array, far: Index, transposed: bool) -> Entries:
    """Output o is the input whose number is source[o]; -1 is none."""
    numbered = indices(far)
    found = {(o, numbered[source[o]]): (0,) for o in indices(source.shape) if source[o] >= 0}
    return adjoint(found) if transposed else found


def diagonal(kernel_shape: Index, shape: Index) -> Entries:
    """Output o is input o, times the number that stands for it."""
    return {
        (o, o): tuple(0 if size == 1 else i for i, size in zip(o, kernel_shape, strict=True))
        for o in indices(shape)
    }


def dense(kernel_shape: Index, before: Index, after: Index, transposed: bool) -> Entries:
    """Output (p, m, q) reads input (p, k, q) by weight (m, k)."""
    found = {
        ((*p, m, *q), (*p, k, *q)): (m, k)
        for p, q in product(indices(before), indices(after))
        for m, k in indices(kernel_shape)
    }
    return adjoint(found) if transposed else found


def local(kernel_shape: Index, axes: Any, transposed: bool) -> Entries:
    """Output (c, o..) reads input (b, i..) by weight (c, b, o.., t..)."""
    found = {}
    for c, b in indices(kernel_shape[:2]):
        for taps in product(*map(axis_taps, axes)):
            near, far = (o for o, _, _ in taps), (i for _, i, _ in taps)
            element = (c, b, *(o for o, _, _ in taps), *(t for _, _, t in taps))
            found[(c, *near), (b, *far)] = element
    return adjoint(found) if transposed else found


Paths = dict[tuple[Index, Index], list[Fraction]]
"""{(output, input): the products of the weights along each path between them}"""


def valued(found: Entries, kernel: Array) -> Paths:
    """The entries of one layer, each a path of one weight."""
    return {pair: [Fraction(kernel[element].item())] for pair, element in found.items()}


def chained(factors: list[Paths]) -> Paths:
    """All paths through layers one after another, the first first."""
    found = factors[0]
    for factor in factors[1:]:
        reading: dict[Index, list[tuple[Index, list[Fraction]]]] = {}
        for (output, source), weights in factor.items():
            reading.setdefault(source, []).append((output, weights))
        longer: Paths = {}
        for (middle, source), ways in found.items():
            for output, weights in reading.get(middle, []):
                made = [way * weight for way in ways for weight in weights]
                longer.setdefault((output, source), []).extend(made)
        found = longer
    return found


def applied(found: dict[tuple[Index, Index], Any], x: Array, out_shape: Index) -> Array:
    """What the entries {(output, input): value} make of x, in Python's own numbers."""
    y = np.zeros(out_shape, object)
    for (output, source), value in found.items():
        y[output] += value * x[source]
    return y
