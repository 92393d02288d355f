"""The original node, as the model has it, ready to be run by another runtime.

The node is cut out together with the operations that its weights are computed by, so that the
runtime decodes, dequantizes and transposes them itself.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from convfc_cli.models.onnx_constants import decoded, opset_ids, sources, value
from convfc_cli.models.onnx_layer import attributes
from convfc_cli.models.onnx_scope import Scope
from convfc_cli.rounding import Witness
from convfc_cli.runtimes.onnx_node import TOO_LARGE, Node, NodeRuntime
from convfc_cli.runtimes.runtime import LARGEST, Original, Runtime
from convfc_cli.taps import IndexMap

Array = NDArray[Any]


def original(node: onnx.NodeProto, scope: Scope, index: IndexMap) -> Original:
    """The node that a layer with this index map was read from."""

    def witness(runtime: Runtime, random: Any) -> Witness | str:
        if index.rows + index.columns > LARGEST:  # before the weights are decoded for it
            return TOO_LARGE
        model, dtype = _cut_out(node, scope, index)
        x = random.standard_normal(index.input_shape).astype(np.float32).astype(dtype)
        y = _run(runtime, model, x[None])
        return y if isinstance(y, str) else Witness.of(runtime.label, x, y[0])

    def apply(runtime: Runtime, x: Array, kernel: Array) -> Array | str:
        return _run(runtime, _with_kernel(node, scope, index, kernel, len(x)), x)

    def _run(runtime: Runtime, model: onnx.ModelProto, x: Array) -> Array | str:
        if not isinstance(runtime, NodeRuntime):
            return f"{runtime.name} runs no ONNX nodes"
        return runtime.run(_node(node, model, index), {"x": x})

    return Original("the original node", witness, apply)


def _node(node: onnx.NodeProto, model: onnx.ModelProto, index: IndexMap) -> Node:
    given = attributes(node, index.kernel_shape[2:])
    return Node(
        model,
        index,
        auto_pad=given.auto_pad,
        negative_pads=any(low < 0 or high < 0 for low, high in given.pads),
        output_shape=bool(given.output_shape),
    )


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
    return _model(scope, index, nodes, list(initializers.values()), kind, 1), kind


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
    return _model(scope, index, [copy], [weights], kernel.dtype, batch)


def _model(
    scope: Scope,
    index: IndexMap,
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    dtype: np.dtype[Any],
    batch: int,
) -> onnx.ModelProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    x, y = (
        onnx.helper.make_tensor_value_info(name, kind, (batch, *shape))
        for name, shape in (("x", index.input_shape), ("y", index.output_shape))
    )
    graph = onnx.helper.make_graph(nodes, "node", [x], [y], initializers)
    return onnx.helper.make_model(graph, opset_imports=opset_ids(scope.opsets), ir_version=10)
