"""The original node, as the model has it, ready to be run by another runtime.

The node is cut out together with the operations that its weights are computed by, so that the
runtime decodes, dequantizes and transposes them itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from convfc_cli.arrays import Array, as_float64
from convfc_cli.models.onnx.constants import opset_ids, sources, spelled_out, value
from convfc_cli.models.onnx.convolution import attributes
from convfc_cli.models.onnx.scope import Scope
from convfc_cli.models.onnx.site import LinearNode, ResolvedNode
from convfc_cli.models.onnx.stored import decoded
from convfc_cli.outline import Outline
from convfc_cli.rounding import RuntimeResult
from convfc_cli.runtimes.onnx_node import TOO_LARGE, Node, NodeRuntime
from convfc_cli.runtimes.runtime import MAX_ELEMENTS, RunnableLayer, Runtime
from convfc_cli.taps import IndexMap

ROUNDINGS = 8
"""How often what a node computes on its way may be rounded, beside its sums."""

_TYPES = {"float64": "DOUBLE", "float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


ORIGINAL = "the original node"


def original(
    node: onnx.NodeProto, scope: Scope, index: IndexMap, name: str = ORIGINAL
) -> RunnableLayer:
    """The Conv or ConvTranspose that a layer with this index map was read from."""

    def run_node(runtime: Runtime, random: Any) -> RuntimeResult | str:
        if index.rows + index.columns > MAX_ELEMENTS:  # before the weights are decoded for it
            return TOO_LARGE
        dtype = _dtype_of(scope, node.input[1])
        x = _drawn(random, index, dtype)
        model = cut_out(node, scope, 0, index, (dtype, dtype))
        y = run(runtime, runtime_node(node, node.op_type, model, index), x)
        return y if isinstance(y, str) else RuntimeResult.of(runtime.label, x, y)

    return RunnableLayer(name, run_node, applied(node, scope, index))


def applied(
    node: onnx.NodeProto, scope: Scope, index: IndexMap
) -> Callable[[Runtime, Array, Array], Array | str]:
    """What `RunnableLayer.apply` is of a Conv or ConvTranspose."""

    def apply(runtime: Runtime, x: Array, kernel: Array) -> Array | str:
        model = _with_kernel(node, scope, index, kernel, len(x))
        return _run(runtime, runtime_node(node, node.op_type, model, index), x)

    return apply


def as_listed(site: LinearNode, part: ResolvedNode) -> RunnableLayer:
    """The node that another linear layer was read from."""
    node, scope, outline = site.node, site.scope, part.outline

    def run_node(runtime: Runtime, random: Any) -> RuntimeResult | str:
        if outline.rows + outline.columns > MAX_ELEMENTS:
            return TOO_LARGE
        dtype = _dtype(site.dtype or "float32")
        x = _drawn(random, outline, dtype)
        model = cut_out(node, scope, site.place, outline, (dtype, dtype))
        y = run(runtime, Node(model, node.op_type, outline, part.axes, part.auto_pad), x)
        if isinstance(y, str):
            return y
        made = RuntimeResult.of(runtime.label, x, y)
        extra = ROUNDINGS * made.unit * part.rounded(np.abs(as_float64(x)))
        return replace(made, extra=extra)

    def apply(runtime: Runtime, x: Array, kernel: Array) -> Array | str:
        return f"{node.op_type} is run with nothing but its own weights"

    return RunnableLayer(ORIGINAL, run_node, apply)


def _dtype_of(scope: Scope, name: str) -> np.dtype[Any]:
    """That of a constant: one that is stored need not be decoded for it, and one that is computed
    is on the budget before a runtime computes it again.
    """
    home = scope.home(name)
    tensor = home.stored.get(name) if home is not None else None
    if isinstance(tensor, onnx.TensorProto):
        return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return value(scope, name).dtype


def _dtype(name: str) -> np.dtype[Any]:
    """That of a floating-point type by its name; NumPy itself has no bfloat16."""
    return onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, _TYPES[name]))


def _drawn(random: Any, outline: Outline, dtype: np.dtype[Any]) -> Array:
    x: Array = random.standard_normal(outline.input_shape).astype(np.float32).astype(dtype)
    return x


def run(runtime: Runtime, node: Node, x: Array) -> Array | str:
    """What a node makes of one x, without a batch axis, or why there is nothing."""
    y = _run(runtime, node, x[None])
    return y if isinstance(y, str) else y[0]


def _run(runtime: Runtime, node: Node, x: Array) -> Array | str:
    if not isinstance(runtime, NodeRuntime):
        return f"{runtime.name} runs no ONNX nodes"
    return runtime.run(node, {"x": x})


def runtime_node(conv: onnx.NodeProto, op: str, model: onnx.ModelProto, index: IndexMap) -> Node:
    """A model of one node, and what its runtime has to know of it; `conv` has its attributes, `op`
    is its own operator.
    """
    given = attributes(conv, index.kernel_shape[2:])
    return Node(
        *(model, op, index, index.axes),
        auto_pad=given.auto_pad,
        negative_pads=any(low < 0 or high < 0 for low, high in given.pads),
        output_shape=bool(given.output_shape),
    )


def cut_out(
    node: onnx.NodeProto,
    scope: Scope,
    data: int,
    outline: Outline,
    dtypes: tuple[np.dtype[Any], np.dtype[Any]],
    drawn: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A model of the node, its input `data` x, and what its constants are computed by, names
    distinguished by scope.

    `dtypes` are those of its input and output; `drawn` has values for what is not constant beside
    the input, by tensor.
    """
    drawn = drawn or {}
    nodes: list[onnx.NodeProto] = []
    initializers: dict[str, onnx.TensorProto] = {}
    names: dict[tuple[int, str], str] = {}

    def unique(home: Scope, name: str) -> str:
        return names.setdefault((id(home), name), f"t{len(names)}")

    def add(where: Scope, original: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(original)
        for place, name in enumerate(original.input):
            if not name or (original is node and place == data):
                continue
            if original is node and name in drawn:
                copy.input[place] = f"drawn{place}"
                stored = onnx.numpy_helper.from_array(drawn[name], copy.input[place])
                initializers[copy.input[place]] = stored
                continue
            home = where.home(name)
            assert home is not None
            copy.input[place] = unique(home, name)
            if name in home.stored and copy.input[place] not in initializers:
                array = decoded(home.stored[name], home.storage)
                initializers[copy.input[place]] = onnx.numpy_helper.from_array(
                    array, copy.input[place]
                )
        if original is node:
            copy.input[data], copy.output[0] = "x", "y"
        else:
            for place, name in enumerate(original.output):
                copy.output[place] = unique(where, name) if name else ""
        copy.name = copy.output[0]
        nodes.extend(spelled_out(copy))

    done: set[tuple[int, str]] = set()
    for place, name in enumerate(node.input):
        needed = name and place != data and name not in drawn
        for where, source in sources(scope, name, batch=True) if needed else []:
            key = (id(where), next(filter(None, source.output)))
            if key not in done:
                done.add(key)
                add(where, source)
    add(scope, node)
    return _model(scope, outline, nodes, list(initializers.values()), dtypes, 1)


def _with_kernel(
    node: onnx.NodeProto, scope: Scope, index: IndexMap, kernel: Array, batch: int
) -> onnx.ModelProto:
    """A model of the node, its attributes as they are, with another kernel and no bias."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(["x", "w"])
    copy.output.append("y")
    weights = onnx.numpy_helper.from_array(kernel, "w")
    return _model(scope, index, [copy], [weights], (kernel.dtype, kernel.dtype), batch)


def _model(
    scope: Scope,
    outline: Outline,
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    dtypes: tuple[np.dtype[Any], np.dtype[Any]],
    batch: int,
) -> onnx.ModelProto:
    x, y = (
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(dtype), (batch, *shape)
        )
        for name, dtype, shape in zip(
            "xy", dtypes, (outline.input_shape, outline.output_shape), strict=True
        )
    )
    graph = onnx.helper.make_graph(nodes, "node", [x], [y], initializers)
    return onnx.helper.make_model(graph, opset_imports=opset_ids(scope.opsets), ir_version=10)
