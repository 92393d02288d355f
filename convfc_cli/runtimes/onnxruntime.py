"""onnxruntime, where it is installed: the runtime that most models run on."""

import os
from functools import cache, lru_cache
from importlib import util
from math import prod
from typing import Any, ClassVar

from convfc_cli import contained
from convfc_cli.arrays import Array
from convfc_cli.contained import Failed
from convfc_cli.errors import ConvfcError
from convfc_cli.runtimes.onnx_node import Node, NodeRuntime

find_spec = cache(util.find_spec)
"""It looks through folders, and every layer asks it."""

MAX_THREADS = 4
"""Each thread has a stack, which counts as memory."""

WORTH_THREADS = 2**26
"""Products that more than one thread is started for."""

MAX_KEPT_BYTES = 2**20
"""Limit on a model whose session is kept."""

MAX_SCATTER = 2**27
"""Products of a transposed convolution that it holds before it adds them up: 512 MiB."""


def _convolution(node: Node, batch: int) -> str:
    if node.auto_pad.startswith("SAME") and any(axis.stride > axis.span for axis in node.axes):
        return "is known to be wrong for SAME padding with a stride beyond the kernel"
    return ""


def _transposed(node: Node, batch: int) -> str:
    group = prod(node.outline.kernel_shape[1:]) * prod(axis.outputs for axis in node.axes)
    return "would take too much memory for it" if group > MAX_SCATTER else ""


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
        return f"onnxruntime {version}" if (version := _version()) else "onnxruntime"

    def missing(self) -> str:
        return "" if find_spec("onnxruntime") else "pip install 'convfc[onnxruntime]'"

    @staticmethod
    def compute(model: bytes, feeds: dict[str, Array], products: int) -> Any:
        threads = min(MAX_THREADS, os.cpu_count() or 1) if products > WORTH_THREADS else 1
        session = (_kept if len(model) <= MAX_KEPT_BYTES else _session)(model, threads)
        return session.run(None, feeds)[0]


@cache
def library() -> Any:
    """onnxruntime, imported when it is needed, with its telemetry switched off before that: release
    1.32 puts a device's id and a list of events into the home folder otherwise.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


@cache
def _version() -> str:
    """That of the library, also of builds that are distributed under other names; empty where it
    cannot be imported.
    """
    try:
        version: str = contained.call(_imported_version, what="importing onnxruntime")
    except (ConvfcError, Failed):
        return ""
    return version


def _imported_version() -> str:
    return str(library().__version__)


def _session(model: bytes, threads: int) -> Any:
    options = library().SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = library().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return library().InferenceSession(model, options, providers=["CPUExecutionProvider"])


_kept = lru_cache(maxsize=8)(_session)
"""What running a small model again saves."""


RUNTIME = Onnxruntime()
