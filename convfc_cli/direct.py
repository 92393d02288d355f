"""A convolution applied to a tensor by sliding windows: the oracle.

It is the trusted base of every check, so it is short, and shares no code with `taps` and
`toeplitz`, which it checks. Of an axis it reads the six numbers and nothing else. It computes in
the dtype it is given: float64, or unsigned 64-bit integers, where all arithmetic is exact modulo
2**64.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convfc_cli.errors import Refused
from convfc_cli.geometry import Axis

Array = Any
"""An ndarray; typed loosely, as its dtype is the caller's choice."""

MAX_ELEMENTS = 2**28
"""Limit on a padded tensor: 2 GiB."""

FAR_FEWER = 16
"""How many times as many elements as outputs a kernel has to have to be applied output by output:
products of a matrix and a vector take longer than those of matrices.
"""


def convolve(x: Array, kernel: Array, axes: Sequence[Axis], groups: int = 1) -> Array:
    """Apply a convolution to a tensor: the cross-correlation of x with the kernel.

    y[c, o..] = sum over b, t of kernel[c, b, t..] * x[g(c) C/G + b, o * stride + t * dilation -
    offset], x read as zero outside its range; c's group is g(c), C the channels of x, G the groups.

    Parameters
    ----------
    x : ndarray, shape (in, *inputs)
        The input, in float64 or uint64.
    kernel : ndarray, shape (out, in / groups, *spatial)
        The weights, in the dtype of x.
    axes : sequence of Axis
        One for each spatial axis.
    groups : int
        Parts of the channels that are convolved apart.

    Returns
    -------
    ndarray, shape (out, *outputs)
        The output, in the dtype of x.

    Raises
    ------
    Refused
        If the padded input would have more than 2**28 elements.

    References
    ----------
    Ma & Lu 2017, Eq. 8.

    Examples
    --------
    >>> axis = Axis(inputs=3, outputs=3, kernel=3, stride=1, dilation=1, offset=1)
    >>> convolve(np.array([[1.0, 2.0, 3.0]]), np.array([[[1.0, 10.0, 100.0]]]), [axis])
    array([[210., 321.,  32.]])
    """
    windows = _windows(_padded(x, axes), axes)
    positions = windows.shape[1 : 1 + len(axes)]
    y = np.zeros((groups, len(kernel) // groups, prod(positions)), x.dtype)
    for read, weights, written in _steps(kernel, axes, groups):
        y[..., written] += _contract(weights, windows[read].reshape(groups, weights.shape[2], -1))
    return y.reshape(len(kernel), *positions)


def convolve_transposed(y: Array, kernel: Array, axes: Sequence[Axis], groups: int = 1) -> Array:
    """Apply the transpose of `convolve`: spread y (out, *outputs) over (in, *inputs).

    Every y[c, o..] adds kernel[c, b, t..] * y[c, o..] where `convolve` would read; what falls
    outside the range is dropped.

    Parameters
    ----------
    y : ndarray, shape (out, *outputs)
        The input of the transposed layer, in float64 or uint64.
    kernel : ndarray, shape (out, in / groups, *spatial)
        The weights, in the dtype of y.
    axes : sequence of Axis
        Those of the convolution that is transposed.
    groups : int
        Parts of the channels that are convolved apart.

    Returns
    -------
    ndarray, shape (in, *inputs)
        The output of the transposed layer, in the dtype of y.

    Raises
    ------
    Refused
        If the tensor before cropping would have more than 2**28 elements.

    Examples
    --------
    >>> axis = Axis(inputs=4, outputs=2, kernel=2, stride=2, dilation=1, offset=0)
    >>> convolve_transposed(np.array([[1.0, 2.0]]), np.array([[[1.0, 10.0]]]), [axis])
    array([[ 1., 10.,  2., 20.]])
    """
    channels = kernel.shape[1] * groups
    reach = [_reach(axis) for axis in axes]
    spread = _zeros((channels, *reach), y.dtype)
    windows = _windows(spread, axes)
    y = y.reshape(groups, len(kernel) // groups, -1)
    for read, weights, written in _steps(kernel, axes, groups):
        target = windows[read]
        target += _contract(weights.swapaxes(1, 2), y[..., written]).reshape(target.shape)
    return _cropped(spread, axes)


def _steps(
    kernel: Array, axes: Sequence[Axis], groups: int
) -> Iterator[tuple[tuple[Any, ...], Array, slice]]:
    """(part of the windows, the weights (groups, out, in) that read it, outputs they add to).

    One step for each element of the kernel, and all outputs; where these are far fewer, one for
    each output, and all of the kernel.
    """
    reading = [_reading(axis) for axis in axes]
    outputs = [axis.outputs for axis in axes]
    whole = [slice(elements[0], elements[-1] + 1) for elements in reading if elements]
    spans = prod(part.stop - part.start for part in whole)
    if prod(map(len, reading)) == spans > FAR_FEWER * prod(outputs):
        weights = kernel[(..., *whole)].reshape(groups, len(kernel) // groups, -1)
        for number, output in enumerate(np.ndindex(*outputs)):
            yield (slice(None), *output, *whole), weights, slice(number, number + 1)
    else:
        for element in product(*reading):
            weights = kernel[(..., *element)].reshape(groups, -1, kernel.shape[1])
            yield (..., *element), weights, slice(None)


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros, unless an untrusted geometry asks for more than a real one would."""
    if prod(shape) > MAX_ELEMENTS:
        raise Refused(
            f"applying this layer takes a padded tensor of shape {shape}, "
            f"{prod(shape)} elements; at most {MAX_ELEMENTS} are made"
        )
    return np.zeros(shape, dtype)


def _contract(weights: Array, read: Array) -> Array:
    """(groups, m, k) x (groups, k, n) -> (groups, m, n)."""
    if weights.dtype.kind == "f":
        return np.matmul(weights, read)
    return np.einsum("gmk,gkn->gmn", weights, read)  # integers: matmul is twice as slow


def _reading(axis: Axis) -> list[int]:
    """The kernel elements that read more than padding."""
    elements = []
    for element in range(axis.kernel):
        shift = element * axis.dilation - axis.offset  # what the first output reads
        steps = max(0, -(shift // axis.stride))
        if steps < axis.outputs and shift + steps * axis.stride < axis.inputs:
            elements.append(element)
    return elements


def _reach(axis: Axis) -> int:
    """Padded inputs from the first that the first output reads to the last that the last reads."""
    return (axis.outputs - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1


def _windows(padded: Array, axes: Sequence[Axis]) -> Array:
    """A writeable view (channels, *outputs, *kernel) of a tensor padded to the `_reach` of each
    axis, where the last window ends.
    """
    channels, *sizes = padded.shape
    channel, *places = padded.strides
    each = list(zip(axes, sizes, places, strict=True))
    # A step beyond the tensor is never taken: there is one output, or one kernel element.
    windows = [place * min(axis.stride, size) for axis, size, place in each]
    inside = [place * min(axis.dilation, size) for axis, size, place in each]
    shape = (channels, *(axis.outputs for axis in axes), *(axis.kernel for axis in axes))
    return as_strided(padded, shape, (channel, *windows, *inside))


def _padded(x: Array, axes: Sequence[Axis]) -> Array:
    """x with zeros around it, or cropped, so that windows start at -offset and end at the reach."""
    out = _zeros((len(x), *(_reach(axis) for axis in axes)), x.dtype)
    inner, outer = _overlap(axes)
    out[(slice(None), *inner)] = x[(slice(None), *outer)]
    return out


def _cropped(spread: Array, axes: Sequence[Axis]) -> Array:
    """The inverse of `_padded`: the inputs' part of a padded tensor, zeros where it has none."""
    out = _zeros((len(spread), *(axis.inputs for axis in axes)), spread.dtype)
    inner, outer = _overlap(axes)
    out[(slice(None), *outer)] = spread[(slice(None), *inner)]
    return out


def _overlap(axes: Sequence[Axis]) -> tuple[list[slice], list[slice]]:
    """Where padded tensor and input overlap: the slices of the one and of the other."""
    inner, outer = [], []
    for axis in axes:
        first = max(0, axis.offset)
        last = max(first, min(_reach(axis), axis.inputs + axis.offset))
        inner.append(slice(first, last))
        outer.append(slice(first - axis.offset, last - axis.offset))
    return inner, outer
