"""A convolution from a kernel as an array, applied as the frameworks say it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import GeometryError, UsageError
from convfc_cli.geometry import Axis, convolution_axis, named_padding, transposed_axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import DTYPES
from convfc_cli.taps import IndexMap

PerAxis = int | Sequence[int]
"""One number for all spatial axes, or one for each."""

Padding = str | int | Sequence[int | Sequence[int]]
"""One of `vocabulary.PADS`; zeros at both ends, one number for all axes or one for each; or of each
axis a pair, the zeros before and after."""


def from_array(
    kernel: Any,
    input_shape: Sequence[int],
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: PerAxis = 0,
    bias: Any = None,
    flip: bool = False,
) -> Convolution:
    """The layer of `jobs.conv_matrix.convolution`, where the kernel is an array.

    Raises `UsageError` where the arguments do not fit each other.
    """
    array = numbers(kernel, "kernel")
    full, shape = _shapes(array, input_shape, groups, transposed)
    rank = len(shape) - 1
    strides = per_axis(stride, rank, "stride")
    dilations = per_axis(dilation, rank, "dilation")
    extra = per_axis(output_padding, rank, "output_padding")
    if any(extra) and not transposed:
        raise UsageError("an output_padding goes with a transposed convolution")
    if transposed and isinstance(padding, str):
        raise UsageError(
            f"the padding {padding!r} is ambiguous for a transposed convolution: give numbers"
        )
    steps = zip(shape[1:], full.shape[2:], strides, dilations, strict=True)
    axes: list[Axis] = []
    try:
        for (n, k, s, d), pad, op in zip(steps, _pads(padding, rank), extra, strict=True):
            low, high = named_padding(pad, n, k, s, d) if isinstance(pad, str) else pad
            if transposed:
                axes.append(transposed_axis(n, k, s, d, low, high, op))
            else:
                axes.append(convolution_axis(n, k, s, d, low, high))
        index_map = IndexMap(full.shape, tuple(axes), groups, transposed)
        if index_map.input_shape != shape:
            raise GeometryError(
                f"the kernel {full.shape} with groups {groups} reads {index_map.input_shape[0]} "
                f"channels; input_shape {tuple(input_shape)} has {shape[0]}"
            )
        values = None if bias is None else numbers(bias, "bias").astype(full.dtype)
        layer = Convolution(full, index_map, values)
    except GeometryError as error:
        raise UsageError(str(error)) from error
    return layer.flipped() if flip else layer


def per_axis(value: PerAxis, rank: int, what: str) -> tuple[int, ...]:
    """One number for each spatial axis; raises `UsageError` for others.

    >>> per_axis(2, 3, "stride")
    (2, 2, 2)
    """
    values = _parts(value) * (rank if _is_integer(value) else 1)
    if len(values) != rank or not all(map(_is_integer, values)):
        raise UsageError(f"{what} {value!r}: expected an integer, or one for each of {rank} axes")
    return tuple(map(int, values))


def _pads(padding: Padding, rank: int) -> Sequence[str | tuple[int, int]]:
    """Of each axis the word, or the zeros before and after."""
    if isinstance(padding, str):
        return [padding] * rank
    ends = [_parts(pad) * (2 if _is_integer(pad) else 1) for pad in _parts(padding)]
    ends *= rank if _is_integer(padding) else 1
    if len(ends) != rank or not all(len(e) == 2 and all(map(_is_integer, e)) for e in ends):
        raise UsageError(
            f"padding {padding!r}: expected a word, an integer, or for each of {rank} axes an "
            f"integer or a pair, the zeros before and after"
        )
    return [(int(low), int(high)) for low, high in ends]


def _parts(value: Any) -> tuple[Any, ...]:
    """A value alone, or those of a sequence."""
    return tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)


def _shapes(
    kernel: Array, input_shape: Sequence[int], groups: int, transposed: bool
) -> tuple[Array, tuple[int, ...]]:
    """The kernel with its channels, and (channels, *spatial) of the input."""
    if not all(map(_is_integer, (*input_shape, groups))):
        raise UsageError(f"input_shape {input_shape!r} and groups {groups!r} must be integers")
    shape = tuple(map(int, input_shape))
    if kernel.ndim in (len(shape), len(shape) - 1) and kernel.ndim:  # the spatial axes alone
        kernel = kernel[np.newaxis, np.newaxis]
    rank = kernel.ndim - 2
    if rank < 1 or len(shape) not in (rank, rank + 1):
        raise UsageError(
            f"a kernel of shape {kernel.shape} and input_shape {shape} do not fit: expected (out, "
            f"in/groups, *spatial) or *spatial alone, and (channels, *spatial) or *spatial alone"
        )
    if len(shape) == rank:
        shape = (kernel.shape[0] if transposed else kernel.shape[1] * groups, *shape)
    return kernel, shape


def numbers(values: Any, what: str) -> Array:
    """An array in a dtype that a layer may have: float16 as float32, other integers as float64."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise UsageError(f"a {what} of {array.dtype}: expected real numbers")
    if array.dtype.name == "float16":
        return array.astype(np.float32)
    return array if array.dtype.name in DTYPES else array.astype(np.float64)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
