"""The operators that are read as convolutions, and what a node of each resolves to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx

from convfc_cli.errors import MalformedInput, Unsupported
from convfc_cli.models.entry import ResolvedLayer
from convfc_cli.models.onnx import convolution, fused, integer, integer_original
from convfc_cli.models.onnx.constants import dynamic
from convfc_cli.models.onnx.integer import Quantized
from convfc_cli.models.onnx.original import ORIGINAL, original
from convfc_cli.models.onnx.scope import Scope
from convfc_cli.models.onnx.site import Fit, NodeSource, open_size, shape_of, size_hint
from convfc_cli.models.onnx.stored import MAX_RANK
from convfc_cli.runtimes.runtime import RunnableLayer
from convfc_cli.taps import IndexMap

Resolve = Callable[[onnx.NodeProto, Scope, IndexMap], ResolvedLayer]
"""A node as a layer once its map is known. Raises as a layer's `error` does."""


@dataclass(frozen=True)
class Reader:
    """How the nodes of an operator are read."""

    conv: Callable[[onnx.NodeProto], onnx.NodeProto]
    """The Conv or ConvTranspose with the same input, weights, bias, output and geometry. Raises
    `MalformedInput` for a node that has too few tensors, or too many.
    """

    resolved: Resolve


@dataclass(frozen=True, slots=True)
class ConvolutionNode(NodeSource):
    """A node that is read as a convolution."""

    node: onnx.NodeProto
    conv: onnx.NodeProto
    """The Conv or ConvTranspose of the same geometry."""

    scope: Scope
    resolved: Resolve
    fit: Fit

    def listed(self) -> ResolvedLayer:
        _check_constant(self.scope, self.conv)
        return self.at(_input_shape(self.scope, self.conv))

    def at(self, input_shape: tuple[int, ...]) -> ResolvedLayer:
        kernel = _kernel_shape(self.scope, self.conv)
        index = convolution.index_map(self.conv, kernel, input_shape)
        return self.resolved(self.node, self.scope, index)

    def doubt(self) -> str:
        doubts = map(self.scope.doubt, [*self.conv.input[:1], *self.node.output[:1]])
        return next(filter(None, doubts), "")

    def hint(self) -> str:
        kernel = _kernel_shape(self.scope, self.conv)
        sizes = self.scope.shape(self.conv.input[0]) or (None,) * len(kernel)
        known = (*sizes[:1], _channels(self.conv, kernel), *sizes[2:])
        return size_hint(self.scope, self.conv.input[0], known, len(kernel), self.fit)


@dataclass(frozen=True, slots=True)
class ConvolutionLayer(ResolvedLayer):
    """A Conv or ConvTranspose, which runtimes run as the model has it."""

    outline: IndexMap
    conv: onnx.NodeProto
    scope: Scope
    name: str = ORIGINAL
    after: dict[str, Any] | None = None
    """What a FusedConv computes after it."""

    def notes(self) -> dict[str, Any]:
        return self.after or {}

    def runnable(self) -> RunnableLayer:
        return original(self.conv, self.scope, self.outline, self.name)


@dataclass(frozen=True, slots=True)
class IntegerLayer(ResolvedLayer):
    """A ConvInteger or QLinearConv, in integers or in `real` ones."""

    quantized: Quantized
    real: bool = False

    def notes(self) -> dict[str, Any]:
        return self.quantized.notes()

    def runnable(self) -> RunnableLayer:
        return integer_original.original(self.quantized, real=self.real)

    def as_real(self) -> "IntegerLayer | None":
        quantized = self.quantized
        if quantized.node.op_type == "ConvInteger":
            return None
        if "B" in quantized.names and not quantized.constant("x_scale"):
            reason = f"the scale of its bias has the factor x_scale, {integer.RUN_TIME}"
            raise Unsupported(f"{reason}: as integers it is read")
        return IntegerLayer(self.outline, quantized.dequantized, self.dtype, quantized, real=True)


def _plain(node: onnx.NodeProto, scope: Scope, index: IndexMap) -> ResolvedLayer:
    load = partial(convolution.load, node, scope, index)
    return ConvolutionLayer(index, load, scope.dtype(node.input[1]), node, scope)


def _fused(node: onnx.NodeProto, scope: Scope, index: IndexMap) -> ResolvedLayer:
    after, conv = fused.notes(node), fused.conv(node)
    load, dtype = partial(convolution.load, conv, scope, index), scope.dtype(conv.input[1])
    name = f"{ORIGINAL} without its activation"
    return ConvolutionLayer(index, load, dtype, conv, scope, name, after)


def _integer(node: onnx.NodeProto, scope: Scope, index: IndexMap) -> ResolvedLayer:
    quantized = Quantized(node, scope, index)
    quantized.check()
    return IntegerLayer(index, quantized.layer, quantized.dtype("w"), quantized)


READERS = {
    ("", "Conv"): Reader(lambda node: node, _plain),
    ("", "ConvTranspose"): Reader(lambda node: node, _plain),
    ("", "ConvInteger"): Reader(integer.conv, _integer),
    ("", "QLinearConv"): Reader(integer.conv, _integer),
    ("com.microsoft", "FusedConv"): Reader(fused.conv, _fused),
}
"""By domain and operator."""


def _check_constant(scope: Scope, node: onnx.NodeProto) -> None:
    """Raise unless the node has an input, an output, and constant weights and bias."""
    if len(node.input) < 2 or not node.input[0] or not node.input[1] or not node.output:
        raise MalformedInput(f"a {node.op_type} without input, weights or output")
    if len(node.input) > 3:
        raise MalformedInput(f"a {node.op_type} with {len(node.input)} inputs; it takes three")
    for what, name in zip(("weights are", "bias is"), node.input[1:], strict=False):
        reason = dynamic(scope, name) if name else None
        if reason:
            raise Unsupported(f"its {what} not constant: {reason}")


def _input_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """(channels, *spatial) of the node's input."""
    kernel = _kernel_shape(scope, node)
    convolution.attributes(node, kernel[2:])  # what is wrong in them is wrong whatever the size
    sizes = scope.shape(node.input[0])
    if sizes is None or len(sizes) < 2 or None in sizes[2:]:
        raise open_size(scope, node.input[0], sizes)
    channels = sizes[1]
    if channels is None:
        channels = _channels(node, kernel)
    return (channels, *(size for size in sizes[2:] if size is not None))


def _kernel_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """The shape of the weights, without reading them where that is possible."""
    shape = shape_of(scope, node.input[1])
    if not 3 <= len(shape) <= MAX_RANK:
        raise MalformedInput(f"its weights {node.input[1]!r} have {len(shape)} axes")
    return shape


def _channels(node: onnx.NodeProto, kernel: tuple[int, ...]) -> int:
    """The channels of the input that weights of this shape ask for."""
    if node.op_type == "ConvTranspose":
        return kernel[0]
    return kernel[1] * convolution.attributes(node, kernel[2:]).group
