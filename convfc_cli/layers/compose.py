"""Layers one after another as one, and which of them fold into a convolution."""

from collections.abc import Sequence
from itertools import chain
from math import prod

import numpy as np

from convfc_cli.arrays import as_float64
from convfc_cli.errors import GeometryError
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product, parts
from convfc_cli.outline import Outline
from convfc_cli.taps import IndexMap


def composed(factors: Sequence[Linear]) -> Linear:
    """Layers applied one after another as one: a `Product`, or what it comes down to.

    Numbers for each channel that a convolution's outputs are multiplied by go into its kernel, each
    weight rounded once. Raises `GeometryError` where the layers do not follow on each other.
    """
    if any(factor.dtype.kind != "f" for factor in factors):
        raise GeometryError("integers are not multiplied: their sums may not fit int32")
    layers: list[Linear] = []
    for factor in chain.from_iterable(map(parts, factors)):
        folded = _folded(layers[-1], factor) if layers else None
        layers[-1:] = [folded] if folded is not None else [*layers[-1:], factor]
    return layers[0] if len(layers) == 1 else Product(layers)


def folds(before: Outline, after: Diagonal) -> bool:
    """Whether a layer's outputs are multiplied channel by channel, and it is a convolution."""
    arrays = (after.kernel, after.bias)
    per_channel = all(prod(array.shape[1:]) == 1 for array in arrays if array is not None)
    return isinstance(before, IndexMap) and before.output_shape == after.input_shape and per_channel


def _folded(before: Linear, after: Linear) -> Convolution | None:
    """A convolution and the numbers for each channel after it as one; None for anything else."""
    if not isinstance(before, Convolution) or not isinstance(after, Diagonal):
        return None
    if not folds(before.index_map, after):
        return None
    index_map, dtype = before.index_map, np.result_type(before.dtype, after.dtype)
    channels = index_map.output_shape[0]
    scale = np.broadcast_to(as_float64(after.kernel).reshape(-1), channels)
    kernel = as_float64(before.kernel)
    with np.errstate(all="ignore"):  # untrusted weights may be anything
        if index_map.transposed:  # (groups * near, depth, ...): depth channels of each group
            near = len(kernel) // index_map.groups
            by_row = np.repeat(scale.reshape(index_map.groups, -1), near, axis=0)
            kernel = kernel * by_row.reshape(*kernel.shape[:2], *(1,) * (kernel.ndim - 2))
        else:
            kernel = kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1))
        bias = np.zeros(channels)
        if before.bias is not None:
            bias = as_float64(before.bias) * scale
        if after.bias is not None:
            bias = bias + as_float64(after.bias).reshape(-1)
        return Convolution(kernel.astype(dtype), index_map, bias.astype(dtype))
