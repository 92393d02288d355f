"""ONNX's reference evaluator: slow, in Python, and always there."""

import logging
from math import prod
from typing import Any

import onnx

from convfc_cli.runtimes.onnx_node import Node, NodeRuntime
from convfc_cli.runtimes.runtime import Array

LARGEST_COLUMNS = 2**25
"""Elements of the im2col matrix that it makes."""

LARGEST_SCATTER = 2**18
"""Products that it scatters for a transposed convolution, one by one in Python."""


class Reference(NodeRuntime):
    """`onnx.reference`, where it follows the specification."""

    name = "reference"

    @property
    def label(self) -> str:
        return f"onnx.reference {onnx.__version__}"

    def missing(self) -> str:
        return ""

    def unfit(self, node: Node, feeds: dict[str, Array]) -> str:
        index_map, batch = node.index_map, len(feeds["x"])
        near = batch * prod(axis.outputs for axis in index_map.axes)
        if index_map.transposed:
            if index_map.groups > 1 or node.output_shape or node.auto_pad != "NOTSET":
                return "is known to be wrong for ConvTranspose with group, output_shape or auto_pad"
            work = index_map.output_shape[0] * prod(index_map.kernel_shape[2:]) * near
            return "is too slow for it" if work > LARGEST_SCATTER else ""
        if node.auto_pad != "NOTSET" and onnx.__version__.startswith("1.22."):
            return "is wrong for auto_pad in onnx 1.22"
        if node.negative_pads:
            return "does not take negative pads"
        columns = index_map.input_shape[0] * prod(axis.span for axis in index_map.axes) * near
        return "is too slow for it" if columns > LARGEST_COLUMNS else ""

    def answer(self, node: Node, feeds: dict[str, Array]) -> Any:
        from onnx.reference import ReferenceEvaluator

        logging.getLogger("onnx").setLevel(logging.ERROR)
        (y,) = ReferenceEvaluator(node.model).run(None, feeds)
        return y


RUNTIME = Reference()
