"""The operators that are read as convolutions, and what is told of a node of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from convfc_cli.errors import Unsupported
from convfc_cli.models.entry import Entry
from convfc_cli.models.onnx import convolution, fused, integer, integer_original
from convfc_cli.models.onnx.integer import Quantized
from convfc_cli.models.onnx.original import ORIGINAL, original
from convfc_cli.models.onnx.scope import Scope
from convfc_cli.taps import IndexMap


@dataclass(frozen=True)
class Reader:
    """How the nodes of an operator are read."""

    conv: Callable[[onnx.NodeProto], onnx.NodeProto]
    """The Conv or ConvTranspose with the same input, weights, bias, output and geometry. Raises
    `MalformedInput` for a node that has too few tensors, or too many.
    """

    filled: Callable[[Entry, onnx.NodeProto, Scope, IndexMap], Entry]
    """The entry of a node with all that is told of it once its map is known. Raises as a layer's
    `error` does.
    """


def _real(
    entry: Entry, node: onnx.NodeProto, scope: Scope, index: IndexMap, name: str = ORIGINAL
) -> Entry:
    return replace(
        entry,
        outline=index,
        dtype=scope.dtype(node.input[1]),
        loader=lambda: convolution.load(node, scope, index),
        original=original(node, scope, index, name),
    )


def _fused(entry: Entry, node: onnx.NodeProto, scope: Scope, index: IndexMap) -> Entry:
    name, noted = f"{ORIGINAL} without its activation", fused.notes(node)
    filled = _real(entry, fused.conv(node), scope, index, name)
    return replace(filled, noted=lambda: noted)


def _integer(entry: Entry, node: onnx.NodeProto, scope: Scope, index: IndexMap) -> Entry:
    found = Quantized(node, scope, index)
    found.check()
    whole = replace(
        entry,
        outline=index,
        dtype=found.dtype("w"),
        noted=found.notes,
        loader=found.layer,
        original=integer_original.original(found, real=False),
    )

    def real() -> Entry:
        if "B" in found.names and not found.constant("x_scale"):
            reason = f"the scale of its bias has the factor x_scale, {integer.RUN_TIME}"
            return replace(whole, error=Unsupported(f"{reason}: without --dequantize it is read"))
        node_of_real = integer_original.original(found, real=True)
        return replace(whole, loader=found.dequantized, original=node_of_real)

    return whole if node.op_type == "ConvInteger" else replace(whole, real=real)


READERS = {
    ("", "Conv"): Reader(lambda node: node, _real),
    ("", "ConvTranspose"): Reader(lambda node: node, _real),
    ("", "ConvInteger"): Reader(integer.conv, _integer),
    ("", "QLinearConv"): Reader(integer.conv, _integer),
    ("com.microsoft", "FusedConv"): Reader(fused.conv, _fused),
}
"""By domain and operator."""
