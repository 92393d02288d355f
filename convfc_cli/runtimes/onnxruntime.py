"""onnxruntime, where it is installed: the runtime that most models run on."""

from importlib.util import find_spec
from math import prod
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from convfc_cli.runtimes.onnx_node import Node, NodeRuntime
from convfc_cli.runtimes.runtime import Array

LARGEST_SCATTER = 2**27
"""Products of a transposed convolution that it holds before it adds them up: 512 MiB."""


def _convolution(node: Node, batch: int) -> str:
    if node.saturating:
        return "saturates such 8-bit sums at 16 bits on some processors"
    if node.auto_pad.startswith("SAME") and any(axis.stride > axis.span for axis in node.axes):
        return "is known to be wrong for SAME padding with a stride beyond the kernel"
    return ""


def _transposed(node: Node, batch: int) -> str:
    group = prod(node.outline.kernel_shape[1:]) * prod(axis.outputs for axis in node.axes)
    return "would take too much memory for it" if group > LARGEST_SCATTER else ""


def _average(node: Node, batch: int) -> str:
    if node.auto_pad.startswith("SAME") and any(axis.dilation > 1 for axis in node.axes):
        return "is known to be wrong for SAME padding with dilations"
    if node.auto_pad.startswith("SAME") and any(axis.stride > axis.span for axis in node.axes):
        return "is known to be wrong for SAME padding with a stride beyond the kernel"
    return ""


class Onnxruntime(NodeRuntime):
    """onnxruntime on the CPU, its graph optimizations switched off; its `rules` are where its
    results are known not to follow the specification (seen in 1.31).
    """

    name = "onnxruntime"
    rules: ClassVar = {
        **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv"), _convolution),
        "ConvTranspose": _transposed,
        "AveragePool": _average,
    }

    @property
    def label(self) -> str:
        import onnxruntime  # also of builds that are distributed under other names

        return f"onnxruntime {onnxruntime.__version__}"

    def missing(self) -> str:
        return "" if find_spec("onnxruntime") else "pip install 'convfc[onnxruntime]'"

    def answer(self, node: Node, feeds: dict[str, Array]) -> Any:
        session = _sessions.get(node)
        if session is None:
            session = _sessions[node] = _session(node)
        return session.run(None, feeds)[0]


_sessions: WeakKeyDictionary[Node, Any] = WeakKeyDictionary()
"""What running a node again saves: it goes when the node does, and the node's weights with it."""


def _session(node: Node) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        node.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


RUNTIME = Onnxruntime()
