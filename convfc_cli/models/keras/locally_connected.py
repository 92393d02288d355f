"""The weights of a Keras 2 locally connected layer, which keeps them in one of three forms.

With o the outputs' places, k the kernel's elements, and both tensors flattened as the model has
them, channels last or first:

    implementation 1    (o, k... in, filters); (o, in k..., filters) where channels come first
    implementation 2    a number for each input and each output, most of them not looked at
    implementation 3    the numbers of 2 that are looked at, by output, then by input

A weight that would be read with padding is in the first form alone. The bias has a number for each
output, channels last in every case: where channels come first, Keras only takes the same numbers
for another shape.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import GeometryError, MalformedInput, Unsupported
from convfc_cli.geometry import Axis, keras_local_axis
from convfc_cli.hdf5.floats import bias, check_numbers, dtype_name, numbers
from convfc_cli.hdf5.tree import Dataset
from convfc_cli.layers.locally_connected import LocallyConnected
from convfc_cli.models.entry import ResolvedLayer
from convfc_cli.models.keras.config import Layer
from convfc_cli.models.keras.convolution import ConvolutionConfig
from convfc_cli.models.keras.linear import check_size, extent
from convfc_cli.taps import count_taps


def build(
    layer: Layer,
    config: ConvolutionConfig,
    input_shape: tuple[int, ...],
    arrays: Callable[[], Mapping[str, Dataset]],
) -> ResolvedLayer:
    """The layer on an input of this (channels, *spatial). Raises `MalformedInput`."""
    channels, *sizes = input_shape
    axes = tuple(
        keras_local_axis(n, k, s, config.padding)
        for n, k, s in zip(sizes, config.kernel, config.strides, strict=True)
    )
    outputs = tuple(axis.outputs for axis in axes)
    filters, rank = config.filters, config.rank
    assert filters is not None
    near, far = (filters, *outputs), (channels, *sizes)
    nnz = filters * channels * prod(map(count_taps, axes))
    outline = extent(far, near, (filters, channels, *outputs, *config.kernel), nnz)
    held = arrays()
    kernel = held["kernel"]
    form = layer.config.get("implementation", 1)
    forms = {
        1: (prod(outputs), channels * prod(config.kernel), filters),
        2: tuple(size for shape in (far, near) for size in _stored(shape, config.channels_last)),
        3: (nnz,),
    }
    if form not in forms:
        raise Unsupported(f"its weights are kept in an unknown form, implementation {form!r:.40}")
    if kernel.shape != forms[form]:
        raise GeometryError(
            f"its kernel {kernel.path} has shape {kernel.shape}, where its configuration and an "
            f"input of {far}, channels first, ask for {forms[form]}"
        )
    check_numbers(kernel)
    if config.bias and "bias" not in held:
        raise MalformedInput(f"its bias is not in the file beside {kernel.path}")
    shapes = [(*outputs, filters)]
    if not config.channels_last:  # as Keras 1 stored it
        shapes.append(near)
    if config.bias and held["bias"].shape not in shapes:
        raise GeometryError(
            f"its bias {held['bias'].path} has shape {held['bias'].shape}, not {shapes[0]}"
        )

    def load() -> LocallyConnected:
        for shape in (far, near, outline.kernel_shape):
            check_size(shape)
        weights = numbers(kernel)
        if form == 1:
            order = (
                (*config.kernel, channels) if config.channels_last else (channels, *config.kernel)
            )
            weights = weights.reshape(*outputs, *order, filters)
            weights = np.moveaxis(weights, -1, 0)
            weights = np.moveaxis(weights, -1 if config.channels_last else 1 + rank, 1)
        else:
            weights = _scattered(weights, axes, near, far, config.channels_last)
        values = None
        if config.bias:
            values = bias(held["bias"], weights.dtype)
            if config.channels_last:
                values = np.moveaxis(values.reshape(*outputs, filters), -1, 0)
        return LocallyConnected(
            np.ascontiguousarray(weights), axes, None if values is None else values.reshape(near)
        )

    return ResolvedLayer(outline, load, dtype_name(kernel))


def _stored(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """(channels, *spatial) as the model has it."""
    return (*shape[1:], shape[0]) if channels_last else shape


def _numbers(shape: tuple[int, ...], channels_last: bool) -> Array:
    """For each element of a (channels, *spatial) tensor its number in the model's own vector."""
    places = np.arange(prod(shape)).reshape(_stored(shape, channels_last))
    return np.moveaxis(places, -1, 0) if channels_last else places


def _scattered(
    stored: Array,
    axes: tuple[Axis, ...],
    near: tuple[int, ...],
    far: tuple[int, ...],
    channels_last: bool,
) -> Array:
    """(out, in, *outputs, *kernel) of weights kept by input and output: as a vector those that are
    looked at, else all.
    """
    rank = len(axes)
    inside: Array = np.array(True)
    places: list[Any] = [slice(None)]
    for number, axis in enumerate(axes):
        outputs, elements = np.arange(axis.outputs)[:, None], np.arange(axis.kernel)
        at = outputs * axis.stride + elements * axis.dilation - axis.offset
        shape = [1] * (2 * rank)
        shape[number], shape[rank + number] = at.shape
        at = at.reshape(shape)
        inside = inside & (at >= 0) & (at < axis.inputs)
        places.append(at.clip(0, axis.inputs - 1))
    made = _numbers(near, channels_last).reshape(near[0], 1, *near[1:], *(1,) * rank)
    read = _numbers(far, channels_last)[tuple(places)][None]
    inside = np.broadcast_to(inside, np.broadcast_shapes(made.shape, read.shape))
    weights = np.zeros(inside.shape, stored.dtype)
    if stored.ndim > 1:
        weights[inside] = stored.reshape(-1)[(read * prod(near) + made)[inside]]
    else:
        order = np.argsort((made * prod(far) + read)[inside])
        values = np.empty_like(stored)
        values[order] = stored
        weights[inside] = values
    return weights
