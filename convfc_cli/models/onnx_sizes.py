"""What the tensors of an ONNX model measure.

ONNX's own shape inference is run on a copy of the model without its weights, after the sizes that
the user gave have been written in and a free batch has been taken as 1. Where a network computes
its own paddings and shapes, the sizes so found make those constant: they are evaluated, written in,
and the inference is run again.
"""

import os
import warnings
from difflib import get_close_matches

import numpy as np
import onnx

from convfc_cli.errors import ConvfcError, UsageError
from convfc_cli.geometry import LARGEST
from convfc_cli.models.model import Shapes
from convfc_cli.models.onnx_constants import FOLDED, value
from convfc_cli.models.onnx_quant import OPERATORS as QUANTIZERS
from convfc_cli.models.onnx_readers import READERS
from convfc_cli.models.onnx_scope import STANDARD, Scope, operator, scope_of, walk

SMALL = 1024
"""Bytes of a tensor that shape inference may want to read: a shape, an axis, a pad."""

ROUNDS = 8
"""How often what became constant is written in."""


_STAND_INS = {
    ("com.microsoft", "QLinearAdd"): ("Add", slice(0, 4, 3)),
    ("com.microsoft", "QLinearMul"): ("Mul", slice(0, 4, 3)),
    ("com.microsoft", "QLinearConcat"): ("Concat", slice(2, None, 3)),
    ("com.microsoft", "QLinearAveragePool"): ("AveragePool", slice(1)),
    ("com.microsoft", "QLinearGlobalAveragePool"): ("GlobalAveragePool", slice(1)),
    ("com.microsoft", "QLinearLeakyRelu"): ("LeakyRelu", slice(1)),
    ("com.microsoft", "QLinearSigmoid"): ("Sigmoid", slice(1)),
}
"""onnxruntime's operators on codes, ONNX's on reals, and which of the inputs are tensors of codes
(scales and zero points are the others): they are found between QLinearConvs."""


def inferred_shapes(
    model: onnx.ModelProto, shapes: Shapes, name: str, *, thorough: bool = False
) -> onnx.GraphProto:
    """The model's graph without weights, with every size that convolutions need and that can be
    known; `thorough`: that all nodes need. `name` is for errors.

    Raises `UsageError` for shapes that do not fit the model.
    """
    light, weights = _light(model)
    inner = _settle(light.graph, weights, shapes, name)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    inferred = _inferred(light, inner)
    for _ in range(ROUNDS):
        top = scope_of(light.graph, inferred.graph, None, opsets, None)
        nodes = [(scope, node) for _, scope, node in walk(top, inferred.graph)]
        settled = not thorough and all(
            None not in (scope.shape(node.input[0]) or (None,) * 3)[2:]
            for scope, node in nodes
            if operator(node) in READERS and node.input
        )
        if settled or not [node for scope, node in nodes if _made_constant(scope, node)]:
            break
        inferred = _inferred(light, inner)
    return inferred.graph


def _made_constant(scope: Scope, node: onnx.NodeProto) -> bool:
    """Turn a node into a Constant if the sizes known by now determine its small result."""
    if node.domain not in STANDARD or len(node.output) != 1 or node.op_type == "Constant":
        return False
    if node.op_type == "Shape":
        shape = scope.shape(node.input[0]) if node.input else None
        limits = {attribute.name: attribute.i for attribute in node.attribute}
        shape = None if shape is None else shape[limits.get("start") : limits.get("end")]
        if shape is None or None in shape:
            return False
        array = np.array(shape, np.int64)
    else:
        if node.op_type not in FOLDED or not node.input:
            return False
        if not all(_is_stored(scope, source) for source in node.input if source):
            return False
        try:
            array = value(scope, node.output[0], budget=SMALL)
        except ConvfcError:  # then its size stays open, and the layer says so
            return False
    if array.nbytes > SMALL or array.dtype.hasobject:
        return False
    constant = onnx.helper.make_node(
        "Constant", [], list(node.output), value=onnx.numpy_helper.from_array(array)
    )
    node.CopyFrom(constant)
    return True


def _is_stored(scope: Scope, name: str) -> bool:
    home = scope.home(name)
    if home is None:
        return False
    producer = home.producers.get(name)
    return name in home.stored or (producer is not None and producer.op_type == "Constant")


def _light(model: onnx.ModelProto) -> tuple[onnx.ModelProto, set[str]]:
    """The model without its larger weights, for shape inference, which copies all it is given; and
    the names of all weights, those among its inputs now.
    """
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    source, graph = model.graph, light.graph
    graph.name = source.name or "graph"
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    listed = {info.name for info in source.input}
    weights = {tensor.name for tensor in source.initializer}

    def describe(tensor: onnx.TensorProto, name: str) -> None:
        if name not in listed:
            graph.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            )

    for tensor in source.initializer:
        if tensor.ByteSize() <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            describe(tensor, tensor.name)
    for node in source.node:
        if (
            node.op_type == "Constant"
            and node.ByteSize() > SMALL
            and node.attribute[0].HasField("t")
        ):
            describe(node.attribute[0].t, node.output[0])
            weights.add(node.output[0])
        else:
            graph.node.append(_standing_in(node))
    return light, weights


def _standing_in(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node of ONNX's own operators whose outputs have the same shapes, where there is one for an
    operator that shape inference does not know.
    """
    kind = operator(node)
    if node.domain in STANDARD or any(a.name == "channels_last" and a.i for a in node.attribute):
        return node
    if kind in READERS:
        return READERS[kind].conv(node)
    if kind in QUANTIZERS:
        return onnx.helper.make_node("Identity", node.input[:1], node.output)
    if kind not in _STAND_INS:
        return node
    name, tensors = _STAND_INS[kind]
    plain = onnx.helper.make_node(name, node.input[tensors], node.output)
    plain.attribute.extend(a for a in node.attribute if a.name != "channels_last")
    return plain


def _settle(
    graph: onnx.GraphProto, weights: set[str], shapes: Shapes, name: str
) -> dict[str, tuple[int, ...]]:
    """Write the user's sizes and a batch of 1 into the graph, and take out sizes below 1, which
    stand for open ones; returns the sizes of inner tensors.
    """
    for info in (*graph.input, *graph.value_info, *graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value < 1:
                dim.ClearField("dim_value")
    inputs = {
        value.name: value
        for value in graph.input
        if value.name not in weights and value.type.tensor_type.HasField("elem_type")
    }
    inner: dict[str, tuple[int, ...]] = {}
    for given, sizes in shapes.items():
        sizes = tuple(int(size) for size in sizes)
        if not sizes or min(sizes) < 1 or max(sizes) > LARGEST:
            raise UsageError(f"a size of --input-shape {list(sizes)} is below 1 or beyond 2**40")
        free = [key for key, value in inputs.items() if not _static(value)]
        if given is None:
            choice = free if len(free) == 1 else list(inputs)
            if len(choice) != 1:
                raise UsageError(
                    f"{name} has {len(inputs)} inputs: say which, --input-shape NAME=..., with "
                    f"NAME one of {', '.join(inputs)}"
                )
            given = choice[0]
        if given in weights:
            raise UsageError(f"{given!r} is a constant of {name}: its size is known")
        if given not in inputs:
            known = _names(graph)
            if given not in known:
                close = get_close_matches(given, sorted(set(known)), n=3, cutoff=0.5)
                hint = (
                    f"did you mean {', '.join(close)}?" if close else f"inputs: {', '.join(inputs)}"
                )
                raise UsageError(f"{name} has no tensor {given!r}: {hint}")
            inner[given] = sizes
            continue
        shape = inputs[given].type.tensor_type
        declared = list(shape.shape.dim) if shape.HasField("shape") else None
        if declared is not None and (
            len(declared) != len(sizes)
            or any(
                dim.HasField("dim_value") and dim.dim_value > 0 and dim.dim_value != size
                for dim, size in zip(declared, sizes, strict=True)
            )
        ):
            told = _shown(inputs[given])
            raise UsageError(
                f"--input-shape gives {given!r} as {list(sizes)}, {name} declares it as {told}"
            )
        del shape.shape.dim[:]
        for size in sizes:
            shape.shape.dim.add(dim_value=size)
    for info in inputs.values():
        dims = info.type.tensor_type.shape.dim
        if len(dims) > 1 and not dims[0].dim_value > 0:
            dims[0].dim_value = 1
    return inner


def _names(graph: onnx.GraphProto) -> list[str]:
    """All tensors of a graph and of those within it."""
    names = [value.name for value in graph.input]
    for node in graph.node:
        names += [name for name in (*node.input, *node.output) if name]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names += _names(inner)
    return names


def _inferred(light: onnx.ModelProto, inner: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with what shape inference finds, and the sizes of inner tensors that were given."""
    for name, sizes in inner.items():
        known = [info for info in light.graph.value_info if info.name == name]
        target = known[0] if known else light.graph.value_info.add(name=name)
        if not target.type.tensor_type.elem_type:
            target.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        del target.type.tensor_type.shape.dim[:]
        for size in sizes:
            target.type.tensor_type.shape.dim.add(dim_value=size)
    try:
        # Without its data propagation, which keeps an object for each element of any vector.
        inferred = _apart(light)
    except Exception:  # without it, declared shapes remain, and layers that need more say so
        inferred = light
    for name, sizes in inner.items():  # also where inference did not keep it
        if not any(info.name == name for info in inferred.graph.value_info):
            kind = onnx.TensorProto.FLOAT
            inferred.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, sizes))
    return inferred


def _apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX's shape inference in a process of its own, where the system has such: on sizes that
    become negative it ends the process that it runs in (a Slice behind them, seen in 1.23).
    """
    if not hasattr(os, "fork"):
        return onnx.shape_inference.infer_shapes(model)
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of threads, which the child has none of
        child = os.fork()
    if not child:  # nothing but the inference: no handlers, no buffers of the parent's
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with open(theirs, "wb") as out:
                out.write(onnx.shape_inference.infer_shapes(model).SerializeToString())
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(theirs)
    with open(ours, "rb") as results:
        content = results.read()
    if os.waitpid(child, 0)[1]:
        raise ValueError("the shapes of the model cannot be inferred")
    inferred = onnx.ModelProto()
    inferred.ParseFromString(content)
    return inferred


def _static(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(dim.dim_value > 0 for dim in kind.shape.dim[1:])


def _shown(value: onnx.ValueInfoProto) -> str:
    return (
        "["
        + ", ".join(dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
        + "]"
    )
