"""What every room does with arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of any dtype and shape."""


def frozen(array: Array) -> Array:
    """The array, contiguous and read-only."""
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array


def as_ones(weights: Array) -> Array:
    """Ones in the place of weights: to count them."""
    return np.ones(weights.shape, np.uint64)


def as_float64(weights: Array) -> Array:
    """Weights in float64, whatever they are."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return weights.astype(np.float64)


def as_magnitudes(weights: Array) -> Array:
    """The magnitudes of weights in float64."""
    return np.abs(as_float64(weights))


def as_float_ones(weights: Array) -> Array:
    """Ones in float64 in the place of weights: to add up what is applied to them."""
    return np.ones(weights.shape)


def bits(array: Array) -> Array:
    """The bit patterns as unsigned integers."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
