"""The original node, as the model has it, run by another runtime on random inputs.

The node is cut out together with the operations that its weights are computed by, so that the
runtime decodes, dequantizes and transposes them itself. onnxruntime is used where it is
installed, ONNX's reference evaluator otherwise; neither where it is known to be wrong.
"""

import logging
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from convfc_cli.models.onnx_constants import decoded, opset_ids, sources, value
from convfc_cli.models.onnx_layer import attributes
from convfc_cli.models.onnx_scope import Scope
from convfc_cli.rounding import Witness
from convfc_cli.taps import IndexMap

Array = NDArray[Any]

LARGEST_TENSORS = 2**25
"""Elements of a layer's input and output that are made to run it."""

LARGEST_COLUMNS = 2**28
"""Elements of the im2col matrix that the reference evaluator makes."""

LARGEST_SCATTER = 2**21
"""Products that it scatters for a transposed convolution, one by one in Python."""

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff of each dtype."""

LARGEST = {"float64": 2.0**1023, "float32": 2.0**127, "float16": 2.0**15, "bfloat16": 2.0**127}
"""Half of what each dtype can hold."""


def run(node: onnx.NodeProto, scope: Scope, index: IndexMap, random: Any) -> Witness | str:
    """What a runtime makes of the node on a random input, or why none was asked."""
    if index.rows + index.columns > LARGEST_TENSORS:
        return "the layer's tensors are too large to run it for a check"
    model, dtype = _cut_out(node, scope, index)
    x = random.standard_normal(index.input_shape).astype(np.float32).astype(dtype)
    reasons = []
    for runtime in (_onnxruntime, _reference):
        y = runtime(model, node, index, x)
        if isinstance(y, str):
            reasons.append(y)
            continue
        unit = UNITS[dtype.name]
        return Witness(
            runtime.__name__.strip("_").replace("reference", "onnx.reference"),
            x,
            y[0],
            unit,
            LARGEST[dtype.name],
            slack=lambda y: _slack(y, dtype.name),
        )
    return "; ".join(reason for reason in reasons if reason)


def _slack(y: Array, dtype: str) -> Array:
    """What rounding the result itself to a narrow format may add."""
    if dtype in ("float32", "float64"):
        return np.zeros_like(y)
    return np.abs(y) * UNITS[dtype] * (1 + 2.0**-10) + 2.0**-25


def _cut_out(
    node: onnx.NodeProto, scope: Scope, index: IndexMap
) -> tuple[onnx.ModelProto, np.dtype[Any]]:
    """A model of the node and what its constants are computed by, names told apart by scope."""
    nodes: list[onnx.NodeProto] = []
    initializers: dict[str, onnx.TensorProto] = {}
    names: dict[tuple[int, str], str] = {}

    def unique(home: Scope, name: str) -> str:
        return names.setdefault((id(home), name), f"t{len(names)}")

    def add(where: Scope, original: onnx.NodeProto, data: str) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(original)
        for place, name in enumerate(original.input):
            if not name or (original is node and place == 0):
                continue
            home = where.home(name)
            assert home is not None
            copy.input[place] = unique(home, name)
            if name in home.stored and copy.input[place] not in initializers:
                array = decoded(home.stored[name], home.folder)
                initializers[copy.input[place]] = onnx.numpy_helper.from_array(
                    array, copy.input[place]
                )
        if original is node:
            copy.input[0], copy.output[0] = data, "y"
        else:
            for place, name in enumerate(original.output):
                copy.output[place] = unique(where, name) if name else ""
        copy.name = copy.output[0]
        nodes.append(copy)

    done: set[int] = set()
    for name in node.input[1:]:
        for where, source in sources(scope, name) if name else []:
            if id(source) not in done:
                done.add(id(source))
                add(where, source, "")
    add(scope, node, "x")
    kind = value(scope, node.input[1]).dtype
    described = onnx.helper.make_tensor_value_info(
        "x", onnx.helper.np_dtype_to_tensor_dtype(kind), (1, *index.input_shape)
    )
    graph = onnx.helper.make_graph(
        nodes, "node", [described], [onnx.ValueInfoProto(name="y")], list(initializers.values())
    )
    model = onnx.helper.make_model(graph, opset_imports=opset_ids(scope.opsets), ir_version=10)
    return model, kind


def _onnxruntime(
    model: onnx.ModelProto, node: onnx.NodeProto, index: IndexMap, x: Array
) -> Array | str:
    if find_spec("onnxruntime") is None:
        return ""
    wrong = _onnxruntime_is_wrong(node, index)
    if wrong:
        return f"onnxruntime is known to be wrong for {wrong}"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    declared = onnx.ModelProto()
    declared.CopyFrom(model)
    result = onnx.helper.make_tensor_value_info(
        "y", model.graph.input[0].type.tensor_type.elem_type, (1, *index.output_shape)
    )
    declared.graph.output[0].CopyFrom(result)
    try:
        session = onnxruntime.InferenceSession(
            declared.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, {"x": x[None]})[0])
    except Exception as error:  # it raises types of its own for whatever it does not implement
        return f"onnxruntime cannot run it ({' '.join(str(error).split())[:100]})"


def _onnxruntime_is_wrong(node: onnx.NodeProto, index: IndexMap) -> str:
    """Where onnxruntime's results are known not to follow the specification (seen in 1.31)."""
    given = attributes(node, index.kernel_shape[2:])
    if given.auto_pad.startswith("SAME") and node.op_type == "Conv":
        for axis in index.axes:
            if axis.stride > axis.span:
                return "SAME padding with a stride beyond the kernel"
    return ""


def _reference(
    model: onnx.ModelProto, node: onnx.NodeProto, index: IndexMap, x: Array
) -> Array | str:
    given = attributes(node, index.kernel_shape[2:])
    kernel, near = prod(index.kernel_shape[2:]), prod(axis.outputs for axis in index.axes)
    if node.op_type == "Conv":
        if index.input_shape[0] * prod(axis.span for axis in index.axes) * near > LARGEST_COLUMNS:
            return "the layer is beyond the reference evaluator: install convfc[onnxruntime]"
        if given.auto_pad != "NOTSET" and onnx.__version__.startswith("1.22."):
            return "the reference evaluator of onnx 1.22 is wrong for auto_pad"
        if any(low < 0 or high < 0 for low, high in given.pads):
            return "the reference evaluator does not take negative pads"
    else:
        if index.groups > 1 or given.output_shape or given.auto_pad != "NOTSET":
            return (
                "the reference evaluator is known to be wrong for ConvTranspose with group, "
                "output_shape or auto_pad"
            )
        if index.output_shape[0] * kernel * near > LARGEST_SCATTER:
            return "the layer is beyond the reference evaluator: install convfc[onnxruntime]"
    from onnx.reference import ReferenceEvaluator

    logging.getLogger("onnx").setLevel(logging.ERROR)
    try:
        with np.errstate(all="ignore"):
            (y,) = ReferenceEvaluator(model).run(None, {"x": x[None]})
            return np.asarray(y)
    except Exception as error:  # whatever an operator raises
        return f"the reference evaluator fails ({' '.join(str(error).split())[:100]})"
