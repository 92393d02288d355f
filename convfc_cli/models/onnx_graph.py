"""The layers of a parsed ONNX model: the walk through its graphs, and what sizes are known.

The graph, the bodies of If, Loop and Scan, and the functions of the model are walked in order.
Sizes come from ONNX's own shape inference, on a copy of the model without its weights, after the
sizes that the user gave have been written in and a free batch has been taken as 1.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx

from convfc_cli.errors import (
    ConvfcError,
    GeometryError,
    MalformedInput,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.models import onnx_layer, onnx_runtime
from convfc_cli.models.model import Entry, Shapes
from convfc_cli.models.onnx_constants import Scope

SMALL = 1024
"""Bytes of an initializer that shape inference may want to read: a shape, an axis, a pad."""

STANDARD = ("", "ai.onnx")

OTHERS = {
    ("", "DeformConv"): "its offsets are computed from the input, so it is no fixed linear map",
    ("", "ConvInteger"): "integer convolutions are not read by this version",
    ("", "QLinearConv"): "quantized convolutions are not read by this version",
    ("com.microsoft.nchwc", "Conv"): (
        "onnxruntime has reordered its weights into blocks: convert the model as it was before "
        "optimization"
    ),
    ("com.microsoft", "FusedConv"): (
        "an activation is fused into it: convert the model as it was before optimization"
    ),
    ("com.microsoft", "NhwcConv"): "onnxruntime's NhwcConv is not read by this version",
    ("com.ms.internal.nhwc", "Conv"): "onnxruntime's NHWC layout is not read by this version",
}
"""Convolutions that are listed, and not converted, with the reason."""


def list_layers(
    model: onnx.ModelProto, name: str, folder: Path | None, shapes: Shapes
) -> tuple[Entry, ...]:
    """All convolutions of a model, in the order of its nodes."""
    if model.functions:
        model = _inlined(model, name)
    light = _light(model)
    given = _settle(light.graph, shapes, name)
    inferred = _inferred(light, given)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    top = _scope(model.graph, inferred.graph, None, opsets, folder)
    entries: list[Entry] = []
    for path, scope, node in _walk(top, inferred.graph, ""):
        entry = _entry(len(entries), path, scope, node, sized=bool(shapes))
        if entry is not None:
            entries.append(entry)
    return tuple(entries)


def _inlined(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    from onnx.inliner import inline_local_functions

    try:
        return inline_local_functions(model)
    except Exception as error:  # the C++ side raises types of its own
        reason = " ".join(str(error).split())[:160]
        raise MalformedInput(f"{name}: its functions cannot be inlined: {reason}") from error


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its larger weights: for shape inference, which copies all it is given."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    source, graph = model.graph, light.graph
    graph.name = source.name or "graph"
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    listed = {value.name for value in source.input}

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
        else:
            graph.node.append(node)
    return light


def _settle(graph: onnx.GraphProto, shapes: Shapes, name: str) -> dict[str, tuple[int, ...]]:
    """Write the user's sizes and a batch of 1 into the graph; returns those of inner tensors."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {
        value.name: value
        for value in graph.input
        if value.name not in stored and value.type.tensor_type.HasField("elem_type")
    }
    inner: dict[str, tuple[int, ...]] = {}
    for given, sizes in shapes.items():
        sizes = tuple(int(size) for size in sizes)
        if not sizes or min(sizes) < 1:
            raise UsageError(f"the shape {sizes} of --input-shape has a size below 1")
        free = [key for key, value in inputs.items() if not _static(value)]
        if given is None:
            choice = free if len(free) == 1 else list(inputs)
            if len(choice) != 1:
                raise UsageError(
                    f"{name} has {len(inputs)} inputs: say which, --input-shape NAME=..., with "
                    f"NAME one of {', '.join(inputs)}"
                )
            given = choice[0]
        if given not in inputs:
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
    for value in inputs.values():
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1 and not dims[0].dim_value > 0:
            dims[0].dim_value = 1
    return inner


def _inferred(light: onnx.ModelProto, inner: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with what shape inference finds, and the sizes of inner tensors that were given."""
    for name, sizes in inner.items():
        known = [value for value in light.graph.value_info if value.name == name]
        target = known[0] if known else light.graph.value_info.add(name=name)
        if not target.type.tensor_type.elem_type:
            target.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        del target.type.tensor_type.shape.dim[:]
        for size in sizes:
            target.type.tensor_type.shape.dim.add(dim_value=size)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # without it, declared shapes remain, and layers that need more say so
        inferred = light
    for name, sizes in inner.items():  # also where inference did not keep it
        if not any(value.name == name for value in inferred.graph.value_info):
            kind = onnx.TensorProto.FLOAT
            inferred.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, sizes))
    return inferred


def _scope(
    graph: onnx.GraphProto,
    inferred: onnx.GraphProto,
    parent: Scope | None,
    opsets: dict[str, int],
    folder: Path | None,
) -> Scope:
    shapes: dict[str, tuple[int | None, ...]] = {}
    types: dict[str, int] = {}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        kind = value.type.tensor_type
        types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(
                dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim
            )
    return Scope(graph, parent, opsets, folder, shapes, types)


def _walk(
    scope: Scope, inferred: onnx.GraphProto, path: str
) -> Iterator[tuple[str, Scope, onnx.NodeProto]]:
    """(path, scope, node) for every node, inner graphs where their node stands."""
    twins = {tuple(node.output): node for node in inferred.node}
    for number, node in enumerate(scope.graph.node):
        yield path, scope, node
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            if not graphs:
                continue
            twin = twins.get(tuple(node.output), node)
            found = [a for a in twin.attribute if a.name == attribute.name] or [attribute]
            inner = [found[0].g] if attribute.HasField("g") else list(found[0].graphs)
            label = node.name or (node.output[0] if node.output else f"{node.op_type}_{number}")
            for graph, shapes in zip(graphs, inner, strict=True):
                below = _scope(graph, shapes, scope, scope.opsets, scope.folder)
                yield from _walk(below, shapes, f"{path}{label}/{attribute.name}/")


def _entry(
    position: int, path: str, scope: Scope, node: onnx.NodeProto, *, sized: bool
) -> Entry | None:
    """The entry of a node that is a convolution; `sized` where the user gave sizes."""
    domain = "" if node.domain in STANDARD else node.domain
    output = node.output[0] if node.output else ""
    name = path + (node.name or output or f"{node.op_type}_{position}")
    op = f"{domain}.{node.op_type}" if domain else node.op_type
    entry = Entry(position, name, output, op)
    if (domain, node.op_type) in OTHERS:
        return replace(entry, error=Unsupported(OTHERS[domain, node.op_type]))
    if domain or node.op_type not in ("Conv", "ConvTranspose"):
        return None

    def resized(input_shape: tuple[int, ...]) -> Entry:
        index = onnx_layer.index_map(node, _kernel_shape(scope, node), input_shape)
        return replace(
            entry,
            error=None,
            index_map=index,
            dtype=scope.dtype(node.input[1]),
            loader=lambda: onnx_layer.load(node, scope, index),
            runner=lambda random: onnx_runtime.run(node, scope, index, random),
            resizer=resized,
        )

    try:
        _check_constant(scope, node)
        return resized(_input_shape(scope, node))
    except SizeMissing as error:
        return replace(entry, error=error, size_hint=_hint(scope, node), resizer=resized)
    except GeometryError as error:
        return replace(entry, error=UsageError(f"{error} (see --input-shape)") if sized else error)
    except ConvfcError as error:
        return replace(entry, error=error)


def _check_constant(scope: Scope, node: onnx.NodeProto) -> None:
    """Raise unless the node has an input, an output, and constant weights and bias."""
    if len(node.input) < 2 or not node.input[0] or not node.input[1] or not node.output:
        raise MalformedInput(f"a {node.op_type} without input, weights or output")
    for what, name in zip(("weights", "bias"), node.input[1:], strict=False):
        reason = scope.dynamic(name) if name else None
        if reason:
            raise Unsupported(f"its {what} are not constant: {reason}")


def _input_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """(channels, *spatial) of the node's input."""
    kernel = _kernel_shape(scope, node)
    group = onnx_layer.attributes(node, kernel[2:]).group
    sizes = scope.shape(node.input[0])
    if sizes is None or len(sizes) < 2 or None in sizes[2:]:
        known = (
            "nothing" if sizes is None else ", ".join("?" if s is None else str(s) for s in sizes)
        )
        raise SizeMissing(f"the size of its input {node.input[0]!r} is open (known: {known})")
    channels = sizes[1]
    if channels is None:
        channels = kernel[0] if node.op_type == "ConvTranspose" else kernel[1] * group
    return (channels, *(size for size in sizes[2:] if size is not None))


def _kernel_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """The shape of the weights, without reading them where that is possible."""
    shape = scope.shape(node.input[1])
    if shape is None or None in shape:
        shape = scope.value(node.input[1]).shape
    known = tuple(size for size in shape if size is not None)
    if len(known) < 3:
        raise MalformedInput(f"its weights {node.input[1]!r} have the shape {known}")
    return known


def _hint(scope: Scope, node: onnx.NodeProto) -> str:
    """What --input-shape might be, for instance: of the model's input if that is open."""
    top = scope
    while top.parent is not None:
        top = top.parent
    free = [
        value.name
        for value in top.graph.input
        if value.name not in top.stored and None in top.shapes.get(value.name, (None,))[1:]
    ]
    name = free[0] if free else node.input[0]
    rank = len(_kernel_shape(scope, node))
    sizes = top.shapes.get(name) if free else scope.shape(name)
    if not sizes or len(sizes) < 2:
        sizes = (None,) * rank
    usual = {2: (1, 16000), 3: (1, 1, 16000), 4: (1, 3, 224, 224), 5: (1, 1, 16, 112, 112)}
    guess = usual.get(len(sizes), (1,) * len(sizes))
    values = [size or other for size, other in zip(sizes, guess, strict=True)]
    return f"{name}={','.join(map(str, values))}"


def _static(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(dim.dim_value > 0 for dim in kind.shape.dim[1:])


def _shown(value: onnx.ValueInfoProto) -> str:
    return (
        "["
        + ", ".join(dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
        + "]"
    )
