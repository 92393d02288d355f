"""One Conv or ConvTranspose node of an ONNX graph as a layer: every attribute, every default.

Source: the ONNX operator specifications, Conv (versions 1, 11, 22) and ConvTranspose (1, 11, 22).
"""

from dataclasses import dataclass
from functools import lru_cache

import onnx

from convfc_cli.errors import MalformedInput
from convfc_cli.geometry import onnx_convolution_axis, onnx_transposed_axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.models.onnx.attributes import pads_of, per_axis, read_attributes, text
from convfc_cli.models.onnx.constants import value, widened
from convfc_cli.models.onnx.scope import Scope
from convfc_cli.taps import IndexMap

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
class ConvolutionAttributes:
    """The attributes of a node over `n` spatial axes, defaults filled in."""

    auto_pad: str
    dilations: tuple[int, ...]
    group: int
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...] | None
    pads: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


def attributes(node: onnx.NodeProto, kernel: tuple[int, ...]) -> ConvolutionAttributes:
    """Read the attributes of a node whose weights have these kernel sizes.

    Raises `MalformedInput` for one that contradicts the specification, `Unsupported` for one that
    it does not have.
    """
    return _attributes(_stated(node), kernel)


def _stated(node: onnx.NodeProto) -> bytes:
    """What a node states beside its tensors, the same for many."""
    alone = onnx.NodeProto(op_type=node.op_type, attribute=node.attribute)
    content: bytes = alone.SerializeToString()
    return content


@lru_cache(maxsize=1024)
def _attributes(content: bytes, kernel: tuple[int, ...]) -> ConvolutionAttributes:
    node = onnx.NodeProto.FromString(content)
    transposed = node.op_type == "ConvTranspose"
    kinds = {
        name: k for name, k in _ATTRIBUTES.items() if transposed or name not in _ONLY_TRANSPOSED
    }
    attributes = read_attributes(node, kinds)
    n = len(kernel)
    stated = per_axis(attributes, "kernel_shape", 0, n)
    if "kernel_shape" in attributes and stated != kernel:
        raise MalformedInput(f"kernel_shape is {stated}, the weights have {kernel}")
    shape = tuple(attributes.get("output_shape", ()))
    if len(shape) == n + 2:  # old exporters stated batch and channels too
        shape = shape[2:]
    if shape and len(shape) != n:
        raise MalformedInput(f"output_shape has {len(shape)} values for {n} spatial axes")
    auto_pad, pads = text(attributes, "auto_pad", "NOTSET"), pads_of(attributes, n)
    if auto_pad != "NOTSET" and any(map(any, pads)):
        raise MalformedInput(
            f"auto_pad is {auto_pad} beside pads of {attributes['pads']}: one of them"
        )
    return ConvolutionAttributes(
        auto_pad=auto_pad,
        dilations=per_axis(attributes, "dilations", 1, n),
        group=attributes.get("group", 1),
        output_padding=per_axis(attributes, "output_padding", 0, n),
        output_shape=shape or None,
        pads=pads,
        strides=per_axis(attributes, "strides", 1, n),
    )


def index_map(
    node: onnx.NodeProto, kernel_shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> IndexMap:
    """The map of a node with weights of `kernel_shape` on an input of (channels, *spatial)."""
    return _index_map(_stated(node), kernel_shape, input_shape)


@lru_cache(maxsize=1024)
def _index_map(
    content: bytes, kernel_shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> IndexMap:
    node = onnx.NodeProto.FromString(content)
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
