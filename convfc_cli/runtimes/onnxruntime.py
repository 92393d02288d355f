"""onnxruntime, where it is installed: the runtime that most models run on."""

from importlib.util import find_spec
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

from convfc_cli.runtimes.onnx_node import Node, NodeRuntime
from convfc_cli.runtimes.runtime import Array

LARGEST_SCATTER = 2**27
"""Products of a transposed convolution that it holds before it adds them up: 512 MiB."""


class Onnxruntime(NodeRuntime):
    """onnxruntime on the CPU, its graph optimizations switched off."""

    name = "onnxruntime"

    @property
    def label(self) -> str:
        import onnxruntime  # also of builds that are distributed under other names

        return f"onnxruntime {onnxruntime.__version__}"

    def missing(self) -> str:
        return "" if find_spec("onnxruntime") else "pip install 'convfc[onnxruntime]'"

    def unfit(self, node: Node, feeds: dict[str, Array]) -> str:
        """Where its results are known not to follow the specification (seen in 1.31)."""
        index_map = node.index_map
        if node.auto_pad.startswith("SAME") and not index_map.transposed:
            for axis in index_map.axes:
                if axis.stride > axis.span:
                    return "is known to be wrong for SAME padding with a stride beyond the kernel"
        if index_map.transposed:
            group = index_map.kernel_shape[1] * prod(index_map.kernel_shape[2:])
            if group * prod(axis.outputs for axis in index_map.axes) > LARGEST_SCATTER:
                return "would take too much memory for it"
        return ""

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
