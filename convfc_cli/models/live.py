"""A convolution of a live model: a layer object of PyTorch or Keras, known by its attributes.

Neither library is imported.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import GeometryError, Unsupported, UsageError
from convfc_cli.geometry import keras_transposed_axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.from_array import from_array, numbers, per_axis
from convfc_cli.taps import IndexMap


def is_layer(value: object) -> bool:
    """Whether it looks like a layer, not like an array."""
    return hasattr(value, "kernel_size")


def of_layer(layer: Any, input_shape: Sequence[int]) -> tuple[Convolution, str]:
    """The convolution that a layer object is, and the layout of its tensors.

    `input_shape` is the shape that the layer itself is given, without the batch, or the spatial
    sizes alone. Raises `Unsupported` for another layer, `UsageError` where the shape does not fit.
    """
    name = type(layer).__name__
    try:
        if hasattr(layer, "padding_mode"):
            return _of_pytorch(layer, input_shape), "channels-first"
        if hasattr(layer, "dilation_rate"):
            order = str(layer.data_format).replace("_", "-")
            return _of_keras(layer, name, tuple(input_shape)), order
    except (AttributeError, TypeError) as error:
        raise Unsupported(f"a {name} is not a convolution that is read: {error}") from error
    raise Unsupported(f"a {name} is not a convolution of PyTorch or Keras")


def _of_pytorch(layer: Any, input_shape: Sequence[int]) -> Convolution:
    if layer.padding_mode != "zeros":
        raise Unsupported(f"the padding mode {layer.padding_mode!r} does not pad with zeros")
    return from_array(
        _values(layer.weight),
        input_shape,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.transposed,
        layer.output_padding,
        None if layer.bias is None else _values(layer.bias),
    )


def _of_keras(layer: Any, name: str, input_shape: tuple[int, ...]) -> Convolution:
    if "Separable" in name:
        raise Unsupported(f"a {name} is two convolutions: give the kernel of each as an array")
    if getattr(layer, "kernel", None) is None:
        raise UsageError(f"the {name} has no weights yet: apply it once, or call its build")
    kernel = np.moveaxis(_values(layer.kernel), (-1, -2), (0, 1))
    rank = kernel.ndim - 2
    if len(input_shape) == rank + 1 and layer.data_format == "channels_last":
        input_shape = (input_shape[-1], *input_shape[:-1])
    bias = None if layer.bias is None else _values(layer.bias)
    if "Transpose" in name:
        return _transposed(layer, kernel, input_shape, bias)
    if "Depthwise" in name:  # (multiplier, in, *spatial), each input channel a group of its own
        groups = kernel.shape[1]
        kernel = np.swapaxes(kernel, 0, 1).reshape(-1, 1, *kernel.shape[2:])
    else:
        groups = layer.groups
    return from_array(
        kernel, input_shape, layer.strides, layer.padding, layer.dilation_rate, groups, bias=bias
    )


def _transposed(
    layer: Any, kernel: Array, input_shape: tuple[int, ...], bias: Array | None
) -> Convolution:
    """A transposed convolution of Keras, whose padding states the size of its output."""
    rank = kernel.ndim - 2
    extra = layer.output_padding
    extras = (None,) * rank if extra is None else per_axis(extra, rank, "output_padding")
    steps = (layer.strides, layer.dilation_rate)
    strides, dilations = (per_axis(value, rank, "stride") for value in steps)
    if len(input_shape) not in (rank, rank + 1):
        raise UsageError(f"an input of shape {input_shape} for a kernel of {rank} spatial axes")
    try:
        axes = tuple(
            keras_transposed_axis(n, k, s, d, layer.padding, op)
            for n, k, s, d, op in zip(
                input_shape[-rank:], kernel.shape[2:], strides, dilations, extras, strict=True
            )
        )
        index_map = IndexMap(kernel.shape, axes, transposed=True)
        if input_shape not in (index_map.input_shape, index_map.input_shape[1:]):
            raise GeometryError(f"it reads {kernel.shape[0]} channels, not {input_shape[0]}")
        return Convolution(kernel, index_map, bias)
    except GeometryError as error:
        raise UsageError(str(error)) from error


def _values(tensor: Any) -> Array:
    """The values of a tensor or variable, wherever it lies."""
    for step in ("detach", "cpu", "numpy"):
        tensor = getattr(tensor, step, lambda tensor=tensor: tensor)()
    return numbers(tensor, "tensor")
