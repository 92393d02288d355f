"""One convolution of a Keras model: from its configuration to an index map, and its weights.

A separable one is two: depthwise, with all that is said of strides and padding, then pointwise.

Kernels as Keras stores them, whatever the data format, k the spatial axes:

    Conv               (k..., in/groups, out)
    ConvTranspose      (k..., out, in)                 not flipped
    DepthwiseConv      (k..., in, multiplier)          output channel c * multiplier + m
    Keras 1, Theano's order (th)    (out, in, k...)    flipped where the backend was Theano
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import GeometryError, MalformedInput, SizeMissing
from convfc_cli.geometry import keras_convolution_axis, keras_transposed_axis
from convfc_cli.hdf5.floats import bias, numbers
from convfc_cli.hdf5.tree import Dataset
from convfc_cli.layers.convolution import Convolution
from convfc_cli.models.keras.config import Config, Layer, Shape, modern
from convfc_cli.taps import IndexMap

RANKS = {
    **{f"Conv{n}D": n for n in (1, 2, 3)},
    **{f"Convolution{n}D": n for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": n for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": n for n in (1, 2)},
    **{f"AtrousConvolution{n}D": n for n in (1, 2)},
}
"""The classes that are one convolution, and their spatial axes."""

SEPARABLE = {f"Separable{conv}{n}D": n for conv in ("Conv", "Convolution") for n in (1, 2)}
"""The classes that are two, one after the other."""

LOCAL = {f"LocallyConnected{n}D": n for n in (1, 2)}
"""The classes whose kernels differ from place to place."""

READ = {**RANKS, **SEPARABLE, **LOCAL}
"""The classes that are read."""

OTHERS = {
    **{f"ConvLSTM{n}D": "it is recurrent, no fixed linear map" for n in (1, 2, 3)},
    "Deconvolution2D": "Keras 1 states its output shape by hand: save it with Keras 2",
    "Deconvolution3D": "Keras 1 states its output shape by hand: save it with Keras 2",
}
"""Convolutions that are listed, and not converted, with the reason."""


@dataclass(frozen=True)
class ConvolutionConfig:
    """What a convolution's configuration says, every default filled in."""

    rank: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str
    channels_last: bool
    filters: int | None
    """Output channels; None of a depthwise one, which has `multiplier` for each input channel."""

    multiplier: int
    groups: int
    bias: bool
    transposed: bool
    output_padding: tuple[int | None, ...]
    theano_order: bool
    """Whether the kernel is stored (out, in, k...), as Keras 1 did for channels first."""

    lora: float | None
    """What the product of LoRA's factors is multiplied by; None without LoRA."""


def attributes(layer: Layer, *, keras1: bool) -> ConvolutionConfig:
    """The attributes of a convolution. Raises `MalformedInput` for what is none."""
    try:
        return _attributes(layer.kind, modern(layer.config, layer.kind), keras1=keras1)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:120]
        raise MalformedInput(
            f"its configuration is not that of a {layer.kind}: {reason}"
        ) from error


def _attributes(kind: str, config: Config, *, keras1: bool) -> ConvolutionConfig:
    rank = READ[kind]
    depthwise, transposed = kind.startswith("Depthwise"), kind.endswith("Transpose")
    multiplies = depthwise or kind in SEPARABLE
    channels_last = _channels_last(config)
    op = config.get("output_padding")
    padding = str(config.get("padding", "valid")).lower()
    causal = padding == "causal" and re.fullmatch(r"(Separable)?Conv(olution)?1D", kind)
    if padding not in ("valid", "same") and not causal:
        raise ValueError(f"padding {padding!r} is not one of valid, same, causal (in 1-D)")
    return ConvolutionConfig(
        rank=rank,
        kernel=sizes(config["kernel_size"], rank),
        strides=sizes(config.get("strides", 1), rank),
        dilations=sizes(config.get("dilation_rate", 1), rank),
        padding=padding,
        channels_last=channels_last,
        filters=None if depthwise else whole(config["filters"]),
        multiplier=whole(config.get("depth_multiplier", 1)) if multiplies else 1,
        groups=1 if config.get("groups") is None else whole(config["groups"]),
        bias=truth(config.get("use_bias", True)),
        transposed=transposed,
        output_padding=(None,) * rank if op is None else sizes(op, rank),
        theano_order=keras1 and not channels_last and rank > 1,
        lora=lora(config),
    )


def separated(config: ConvolutionConfig) -> tuple[ConvolutionConfig, ConvolutionConfig]:
    """The depthwise and the pointwise convolution that a separable one is."""
    one = (1,) * config.rank
    return (
        replace(config, filters=None, bias=False),
        replace(config, kernel=one, strides=one, dilations=one, padding="valid"),
    )


def lora(config: Config) -> float | None:
    """What the product of LoRA's factors is multiplied by; None without LoRA."""
    rank = config.get("lora_rank")
    return None if not rank else (config.get("lora_alpha") or rank) / rank


def _channels_last(config: Config) -> bool:
    order = config.get("data_format") or "channels_last"
    if order not in ("channels_last", "channels_first"):
        raise ValueError(f"data_format {order!r} is neither channels_last nor channels_first")
    return bool(order == "channels_last")


def truth(value: object) -> bool:
    """The value, which must be true or false. Raises `TypeError`."""
    if type(value) is not bool:
        raise TypeError(f"{value!r} where true or false belongs")
    return value


def whole(value: object) -> int:
    """The value, which must be an integer. Raises `TypeError`."""
    if type(value) is not int:
        raise TypeError(f"{value!r} where an integer belongs")
    return value


def sizes(value: Any, rank: int) -> tuple[int, ...]:
    """One integer for each spatial axis: as they are, or one for all."""
    if isinstance(value, dict):
        value = value.get("items")
    if not isinstance(value, list | tuple):
        return (whole(value),) * rank
    if len(value) != rank:
        raise ValueError(f"{list(value)} has not one number for each of {rank} axes")
    return tuple(whole(size) for size in value)


def own_shape(config: ConvolutionConfig, shape: Shape) -> Shape:
    """(channels, *spatial) of a tensor with its batch, whose leading axes all count as batch."""
    if shape is None or len(shape) < config.rank + 2:
        return None
    inner = shape[-config.rank - 1 :]
    return (inner[-1], *inner[:-1]) if config.channels_last else inner


def require_sizes(shape: Shape) -> tuple[int, ...]:
    """The (channels, *spatial) of an input, every size of which is known. Raises `SizeMissing`."""
    sizes = () if shape is None else tuple(size for size in shape if size is not None)
    if shape is None or len(sizes) < len(shape):
        known = "nothing" if shape is None else ", ".join(str(s or "?") for s in shape)
        raise SizeMissing(f"the size of its input is open (known, channels first: {known})")
    return sizes


def index_map(config: ConvolutionConfig, input_shape: Shape) -> IndexMap:
    """All of the layer but its weights. Raises `SizeMissing`, `GeometryError`."""
    channels, *sizes = require_sizes(input_shape)
    if not config.transposed:
        axes = tuple(
            keras_convolution_axis(n, k, s, d, config.padding)
            for n, k, s, d in zip(
                sizes, config.kernel, config.strides, config.dilations, strict=True
            )
        )
    else:
        axes = tuple(
            keras_transposed_axis(n, k, s, d, config.padding, op)
            for n, k, s, d, op in zip(
                sizes,
                config.kernel,
                config.strides,
                config.dilations,
                config.output_padding,
                strict=True,
            )
        )
    shape, groups = kernel_shape(config, channels)
    return IndexMap(shape, axes, groups, config.transposed)


def kernel_shape(config: ConvolutionConfig, channels: int) -> tuple[tuple[int, ...], int]:
    """The canonical kernel's shape, and the groups, over so many input channels."""
    if config.filters is None:
        return (channels * config.multiplier, 1, *config.kernel), channels
    if config.groups < 1 or channels % config.groups or config.filters % config.groups:
        raise GeometryError(
            f"{channels} input and {config.filters} output channels do not divide into "
            f"{config.groups} groups"
        )
    if config.transposed:
        return (channels, config.filters // config.groups, *config.kernel), config.groups
    return (config.filters, channels // config.groups, *config.kernel), config.groups


def order(config: ConvolutionConfig, index: IndexMap, stored: Dataset) -> tuple[int, ...]:
    """The axes of a stored kernel in canonical order, (out, in/groups, k...), where a depthwise
    one's (in, multiplier) are to become one. Raises `GeometryError` for a kernel of another shape.
    """
    first, second, *kernel = index.kernel_shape
    rank, spatial = config.rank, range(config.rank)
    orders = {(*kernel, second, first): (rank + 1, rank, *spatial)}
    if config.filters is None:
        channels = first // config.multiplier
        orders = {(*kernel, channels, config.multiplier): (rank, rank + 1, *spatial)}
        if config.theano_order:
            orders = {(config.multiplier, channels, *kernel): (1, 0, *range(2, rank + 2))}
    elif config.theano_order:
        orders = {index.kernel_shape: tuple(range(rank + 2))}
    elif rank == 1:  # Keras 1 stored a Convolution1D as that of an image one wide
        orders[first, second, *kernel, 1] = (0, 1, 2, 3)
        orders[*kernel, 1, second, first] = (3, 2, 0, 1)
    if stored.shape not in orders:
        raise GeometryError(
            f"its kernel {stored.path} has shape {stored.shape}, where its configuration and an "
            f"input of {index.input_shape[0]} channels ask for {next(iter(orders))}"
        )
    return orders[stored.shape]


def channels_of(config: ConvolutionConfig, kernel: tuple[int, ...]) -> int | None:
    """The input channels that a stored kernel of this shape asks for."""
    if len(kernel) != config.rank + 2:
        return None
    if config.theano_order:
        return kernel[1] * config.groups
    if config.transposed:
        return kernel[-1]
    return kernel[-2] * (1 if config.filters is None else config.groups)


def load(config: ConvolutionConfig, index: IndexMap, arrays: Mapping[str, Dataset]) -> Convolution:
    """The layer with its weights: `kernel`, `bias` and LoRA's factors.

    Raises `MalformedInput` where they do not fit the configuration.
    """
    kernel = merged(config.lora, arrays).transpose(order(config, index, arrays["kernel"]))
    if config.bias and "bias" not in arrays:
        raise MalformedInput(f"its bias is not in the file beside {arrays['kernel'].path}")
    values = bias(arrays["bias"], kernel.dtype) if config.bias else None
    return Convolution(np.ascontiguousarray(kernel).reshape(index.kernel_shape), index, values)


def merged(scale: float | None, arrays: Mapping[str, Dataset]) -> Array:
    """The kernel; with LoRA kernel + scale * a @ b, the sum rounded once."""
    kernel = numbers(arrays["kernel"])
    if scale is None or "lora_kernel_a" not in arrays:
        return kernel
    a, b = (numbers(arrays[f"lora_kernel_{which}"]) for which in "ab")
    if (*a.shape[:-1], *b.shape) != (*kernel.shape[:-1], a.shape[-1], kernel.shape[-1]):
        raise MalformedInput(f"LoRA factors of shape {a.shape} and {b.shape} for {kernel.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        total = kernel.astype(np.float64) + scale * (a.astype(np.float64) @ b.astype(np.float64))
        return total.astype(kernel.dtype)
