"""The layers of a parsed ONNX model: the walk through its graphs, and what sizes are known.

The graph, the bodies of If, Loop and Scan, and the functions of the model are walked in order.
Sizes come from ONNX's own shape inference, on a copy of the model without its weights, after the
sizes that the user gave have been written in and a free batch has been taken as 1.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx

from convfc_cli.errors import (
    ConvfcError,
    GeometryError,
    MalformedInput,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.models import onnx_layer
from convfc_cli.models.model import Entry, Shapes
from convfc_cli.models.onnx_constants import LARGEST_RANK, dynamic, value
from convfc_cli.models.onnx_original import original
from convfc_cli.models.onnx_scope import STANDARD, Scope, scope_of, walk
from convfc_cli.models.onnx_sizes import inferred_shapes
from convfc_cli.models.onnx_wire import MOST_NODES

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
    ("com.ms.internal.nhwc", "Conv"): "onnxruntime's NHWC layout is not read by this version",
}
"""Convolutions that are listed, and not converted, with the reason."""

CONVOLUTION = re.compile("Conv(?![a-z])")
"""Operators that are some convolution, by their names; ConvertSomething is none."""

DEEPEST = 100
"""Functions within functions."""


def list_layers(
    model: onnx.ModelProto, name: str, folder: Path | None, shapes: Shapes
) -> tuple[Entry, ...]:
    """All convolutions of a model, in the order of its nodes."""
    if model.functions:
        _check_expansion(model, name)
        model = _inlined(model, name)
    inferred = inferred_shapes(model, shapes, name)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    top = scope_of(model.graph, inferred, None, opsets, folder)
    entries: list[Entry] = []
    for path, scope, node in walk(top, inferred):
        entry = _entry(len(entries), path, scope, node, sized=bool(shapes))
        if entry is not None:
            entries.append(entry)
    return tuple(entries)


def _check_expansion(model: onnx.ModelProto, name: str) -> None:
    """Raise `Refused` if inlining would make far more nodes: a function may call others twice."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > DEEPEST:
            raise Refused(f"the functions of {name} call each other more than {DEEPEST} deep")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies:
                if key not in sizes:
                    sizes[key] = size(bodies[key], depth + 1)
                total += sizes[key]
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    total += size(graph.node, depth + 1)
            total += 1
        return total

    if size(model.graph.node, 0) > MOST_NODES:
        raise Refused(f"the functions of {name} expand to more than {MOST_NODES} nodes")


def _inlined(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    from onnx.inliner import inline_local_functions

    try:
        return inline_local_functions(model)
    except Exception as error:  # the C++ side raises types of its own
        reason = " ".join(str(error).split())[:160]
        raise MalformedInput(f"{name}: its functions cannot be inlined: {reason}") from error


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
        if not CONVOLUTION.search(node.op_type):
            return None
        return replace(entry, error=Unsupported(f"{op} is not read by this version"))

    def resized(input_shape: tuple[int, ...]) -> Entry:
        index = onnx_layer.index_map(node, _kernel_shape(scope, node), input_shape)
        return replace(
            entry,
            error=None,
            index_map=index,
            dtype=scope.dtype(node.input[1]),
            loader=lambda: onnx_layer.load(node, scope, index),
            original=original(node, scope, index),
            resizer=resized,
        )

    try:
        _check_constant(scope, node)
        return resized(_input_shape(scope, node))
    except SizeMissing as error:
        error.hint = _hint(scope, node)
        return replace(entry, error=error, resizer=resized)
    except GeometryError as error:
        return replace(entry, error=UsageError(f"{error} (see --input-shape)") if sized else error)
    except ConvfcError as error:
        return replace(entry, error=error)


def _check_constant(scope: Scope, node: onnx.NodeProto) -> None:
    """Raise unless the node has an input, an output, and constant weights and bias."""
    if len(node.input) < 2 or not node.input[0] or not node.input[1] or not node.output:
        raise MalformedInput(f"a {node.op_type} without input, weights or output")
    if len(node.input) > 3:
        raise MalformedInput(f"a {node.op_type} with {len(node.input)} inputs; it takes three")
    for what, name in zip(("weights", "bias"), node.input[1:], strict=False):
        reason = dynamic(scope, name) if name else None
        if reason:
            raise Unsupported(f"its {what} are not constant: {reason}")


def _input_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """(channels, *spatial) of the node's input."""
    kernel = _kernel_shape(scope, node)
    onnx_layer.attributes(node, kernel[2:])  # what is wrong in them is wrong whatever the size
    sizes = scope.shape(node.input[0])
    if sizes is None or len(sizes) < 2 or None in sizes[2:]:
        known = (
            "nothing" if sizes is None else ", ".join("?" if s is None else str(s) for s in sizes)
        )
        raise SizeMissing(f"the size of its input {node.input[0]!r} is open (known: {known})")
    channels = sizes[1]
    if channels is None:
        channels = _channels(node, kernel)
    return (channels, *(size for size in sizes[2:] if size is not None))


def _kernel_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """The shape of the weights, without reading them where that is possible."""
    shape = scope.shape(node.input[1])
    if shape is None or None in shape:
        shape = value(scope, node.input[1]).shape
    known = tuple(size for size in shape if size is not None)
    if not 3 <= len(known) <= LARGEST_RANK:
        raise MalformedInput(f"its weights {node.input[1]!r} have {len(known)} axes")
    return known


def _channels(node: onnx.NodeProto, kernel: tuple[int, ...]) -> int:
    """The channels of the input that weights of this shape ask for."""
    if node.op_type == "ConvTranspose":
        return kernel[0]
    return kernel[1] * onnx_layer.attributes(node, kernel[2:]).group


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
    if name == node.input[0]:
        values[1] = _channels(node, _kernel_shape(scope, node))
    return f"{name}={','.join(map(str, values))}"
