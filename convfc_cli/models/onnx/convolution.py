"""One Conv or ConvTranspose node of an ONNX graph as a layer: every attribute, every default.

Source: the ONNX operator specifications, Conv (versions 1, 11, 22) and ConvTranspose (1, 11, 22).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from convfc_cli.errors import MalformedInput, Unsupported
from convfc_cli.geometry import onnx_convolution_axis, onnx_transposed_axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.models.onnx.constants import value
from convfc_cli.models.onnx.scope import Scope
from convfc_cli.taps import IndexMap

Array = NDArray[Any]

_ATTRIBUTES = {
    "auto_pad": onnx.AttributeProto.STRING,
    "dilations": onnx.AttributeProto.INTS,
    "group": onnx.AttributeProto.INT,
    "kernel_shape": onnx.AttributeProto.INTS,
    "output_padding": onnx.AttributeProto.INTS,
    "output_shape": onnx.AttributeProto.INTS,
    "pads": onnx.AttributeProto.INTS,
    "strides": onnx.AttributeProto.INTS,
}

_ONLY_TRANSPOSED = {"output_padding", "output_shape"}


@dataclass(frozen=True)
class Attributes:
    """The attributes of a node over `n` spatial axes, defaults filled in."""

    auto_pad: str
    dilations: tuple[int, ...]
    group: int
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...] | None
    pads: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


def attributes(node: onnx.NodeProto, kernel: tuple[int, ...]) -> Attributes:
    """Read the attributes of a node whose weights have these kernel sizes.

    Raises `MalformedInput` for one that contradicts the specification, `Unsupported` for one that
    it does not have.
    """
    transposed = node.op_type == "ConvTranspose"
    kinds = {
        name: k for name, k in _ATTRIBUTES.items() if transposed or name not in _ONLY_TRANSPOSED
    }
    found = stated(node, kinds)
    n = len(kernel)
    own = each(found, "kernel_shape", 0, n)
    if "kernel_shape" in found and own != kernel:
        raise MalformedInput(f"kernel_shape is {own}, the weights have {kernel}")
    shape = tuple(found.get("output_shape", ()))
    if len(shape) == n + 2:  # old exporters stated batch and channels too
        shape = shape[2:]
    if shape and len(shape) != n:
        raise MalformedInput(f"output_shape has {len(shape)} values for {n} spatial axes")
    auto_pad, pads = text(found, "auto_pad", "NOTSET"), ends(found, n)
    if auto_pad != "NOTSET" and any(map(any, pads)):
        raise MalformedInput(f"auto_pad is {auto_pad} beside pads of {found['pads']}: one of them")
    return Attributes(
        auto_pad=auto_pad,
        dilations=each(found, "dilations", 1, n),
        group=found.get("group", 1),
        output_padding=each(found, "output_padding", 0, n),
        output_shape=shape or None,
        pads=pads,
        strides=each(found, "strides", 1, n),
    )


def stated(node: onnx.NodeProto, kinds: Mapping[str, int]) -> dict[str, Any]:
    """What a node states of the attributes in `kinds`, each of which has its type there.

    Raises `MalformedInput` for one of another type or stated twice, `Unsupported` for one that is
    not among them.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if attribute.ref_attr_name:
            raise MalformedInput(f"attribute {name!r} refers to a function's that is not there")
        if name not in kinds:
            raise Unsupported(f"attribute {name!r} is none of {node.op_type}'s in ONNX")
        if attribute.type != kinds[name]:
            raise MalformedInput(f"attribute {name!r} of {node.op_type} has the wrong type")
        found[name] = onnx.helper.get_attribute_value(attribute)
    return found


def each(
    found: Mapping[str, Any], name: str, default: int, n: int, times: int = 1
) -> tuple[int, ...]:
    """An attribute with a value for each of `n` spatial axes, or so many times as many."""
    values, length = tuple(found.get(name, ())), n * times
    if not values:
        return (default,) * length
    if len(values) != length:
        raise MalformedInput(
            f"attribute {name!r} has {len(values)} values {values}; "
            f"{length} are expected, for {n} spatial axes"
        )
    return values


def ends(found: Mapping[str, Any], n: int) -> tuple[tuple[int, int], ...]:
    """The attribute `pads`: (before, after) of each of `n` spatial axes."""
    pads = each(found, "pads", 0, n, times=2)
    return tuple(zip(pads[:n], pads[n:], strict=True))


def text(found: Mapping[str, Any], name: str, default: str) -> str:
    """An attribute that is a word."""
    try:
        return found.get(name, b"").decode() or default
    except UnicodeDecodeError as error:
        raise MalformedInput(f"attribute {name!r} is no text") from error


def index_map(
    node: onnx.NodeProto, kernel_shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> IndexMap:
    """The map of a node with weights of `kernel_shape` on an input of (channels, *spatial)."""
    transposed = node.op_type == "ConvTranspose"
    kernel, spatial = kernel_shape[2:], input_shape[1:]
    if not kernel or len(kernel) != len(spatial):
        raise MalformedInput(
            f"weights of shape {kernel_shape} do not fit an input of shape {input_shape} "
            f"(channels, then one size an axis)"
        )
    given = attributes(node, kernel)
    axes = []
    for a, size in enumerate(spatial):
        shared = (size, kernel[a], given.strides[a], given.dilations[a], given.pads[a])
        if transposed:
            shape = given.output_shape[a] if given.output_shape else None
            axes.append(
                onnx_transposed_axis(*shared, given.auto_pad, given.output_padding[a], shape)
            )
        else:
            axes.append(onnx_convolution_axis(*shared, given.auto_pad))
    result = IndexMap(kernel_shape, tuple(axes), given.group, transposed)
    if result.input_shape[0] != input_shape[0]:
        raise MalformedInput(
            f"weights of shape {kernel_shape} with group {given.group} take "
            f"{result.input_shape[0]} channels, the input has {input_shape[0]}"
        )
    return result


def load(node: onnx.NodeProto, scope: Scope, index: IndexMap) -> Convolution:
    """The layer with its weights, widened exactly to float32 where they are narrower."""
    kernel = widened(value(scope, node.input[1]), node.input[1])
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = widened(value(scope, node.input[2]), node.input[2])
        if bias.dtype != kernel.dtype:
            raise MalformedInput(
                f"its bias {node.input[2]!r} is {bias.dtype}, its weights are {kernel.dtype}"
            )
    return Convolution(kernel, index, bias)


def widened(array: Array, name: str) -> Array:
    """float64 as it is, float32 as it is, float16 and bfloat16 as float32: every value exactly."""
    if array.dtype.name in ("float16", "bfloat16"):
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return array.astype(np.float32)
    if array.dtype.name not in ("float32", "float64"):
        raise Unsupported(f"the weights {name!r} are {array.dtype.name}, not floating point")
    return array
