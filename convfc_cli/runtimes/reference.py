"""ONNX's reference evaluator: slow, in Python, and always there."""

import logging
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx

from convfc_cli.arrays import Array
from convfc_cli.runtimes.onnx_node import Node, NodeRuntime

MAX_COLUMNS = 2**25
"""Elements of its im2col matrix."""

MAX_SCATTER = 2**18
"""Products of a transposed convolution, each scattered in Python."""

MAX_WINDOWS = 2**16
"""Windows of a pooling layer, each visited in Python."""


def _convolution(node: Node, batch: int) -> str:
    if node.auto_pad != "NOTSET" and onnx.__version__.startswith("1.22."):
        return "is wrong for auto_pad in onnx 1.22"
    if node.negative_pads:
        return "does not take negative pads"
    if node.per_channel and len(node.axes) != 2:
        return "is known to be wrong for zero points and scales per channel, but in 2-D"
    windows = batch * prod(axis.outputs for axis in node.axes)
    columns = node.outline.input_shape[0] * prod(axis.span for axis in node.axes) * windows
    return "is too slow for it" if columns > MAX_COLUMNS else ""


def _transposed(node: Node, batch: int) -> str:
    if node.outline.groups > 1 or node.output_shape or node.auto_pad != "NOTSET":
        return "is known to be wrong for ConvTranspose with group, output_shape or auto_pad"
    places = batch * prod(axis.outputs for axis in node.axes)
    work = node.outline.output_shape[0] * prod(node.outline.kernel_shape[2:]) * places
    return "is too slow for it" if work > MAX_SCATTER else ""


def _average(node: Node, batch: int) -> str:
    if node.auto_pad.startswith("SAME") and any(axis.dilation > 1 for axis in node.axes):
        return "is known to be wrong for SAME padding with dilations"
    if node.auto_pad == "VALID" and any(axis.dilation > 1 for axis in node.axes):
        return "is known to be wrong for VALID padding with dilations"
    if any(a.name == "ceil_mode" and a.i for a in node.model.graph.node[-1].attribute):
        return "is known to be wrong for some windows of ceil_mode"
    return "is too slow for it" if node.outline.rows > MAX_WINDOWS else ""


class Reference(NodeRuntime):
    """`onnx.reference`, where it follows the specification."""

    name = "reference"
    rules: ClassVar = {
        **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv"), _convolution),
        "ConvTranspose": _transposed,
        "AveragePool": _average,
    }

    @property
    def label(self) -> str:
        return f"onnx.reference {onnx.__version__}"

    def missing(self) -> str:
        return ""

    @staticmethod
    def compute(model: bytes, feeds: dict[str, Array], products: int) -> Any:
        from onnx.reference import ReferenceEvaluator

        logging.getLogger("onnx").setLevel(logging.ERROR)
        with np.errstate(all="ignore"):
            (y,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, feeds)
        return y


RUNTIME = Reference()
