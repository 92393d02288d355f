"""The graphs of an ONNX model, one within another: who defines a name, what is known of it.

Only what is declared or inferred; what a constant's value is, `onnx_constants` finds out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

STANDARD = ("", "ai.onnx")
"""The two spellings of ONNX's own operator set."""


@dataclass
class Scope:
    """One graph of a model, within the graphs around it, with what is known of its tensors."""

    graph: onnx.GraphProto
    parent: "Scope | None"
    opsets: dict[str, int]
    folder: Path | None
    shapes: dict[str, tuple[int | None, ...]]
    types: dict[str, int]
    stored: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stored.update((tensor.name, tensor) for tensor in self.graph.initializer)
        self.stored.update((tensor.values.name, tensor) for tensor in self.graph.sparse_initializer)
        for node in self.graph.node:
            self.producers.update((output, node) for output in node.output if output)

    def home(self, name: str) -> "Scope | None":
        """The innermost graph that defines a tensor."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.stored or name in scope.producers:
                return scope
            if any(value.name == name for value in scope.graph.input):
                return scope
            scope = scope.parent
        return None

    def dtype(self, name: str) -> str:
        """The element type of a tensor as NumPy calls it; empty where it is not known."""
        scope = self.home(name)
        tensor = scope.stored.get(name) if scope else None
        if isinstance(tensor, onnx.TensorProto):
            kind = tensor.data_type
        else:
            kind = scope.types.get(name, 0) if scope else 0
        try:
            return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name if kind else ""
        except KeyError:
            return ""

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The dimensions of a tensor, None where one is not known."""
        scope = self.home(name)
        if scope is None:
            return None
        tensor = scope.stored.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        node = scope.producers.get(name)
        if node is not None and node.op_type == "Constant" and node.domain in STANDARD:
            for attribute in node.attribute:
                if attribute.name == "value":
                    return tuple(attribute.t.dims)
        return scope.shapes.get(name)


def scope_of(
    graph: onnx.GraphProto,
    inferred: onnx.GraphProto,
    parent: Scope | None,
    opsets: dict[str, int],
    folder: Path | None,
) -> Scope:
    """The scope of a graph, with what shape inference found of its twin `inferred`."""
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


def walk(
    scope: Scope, inferred: onnx.GraphProto, path: str = ""
) -> Iterator[tuple[str, Scope, onnx.NodeProto]]:
    """(path, scope, node) for every node, those of inner graphs where their node stands."""
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
                below = scope_of(graph, shapes, scope, scope.opsets, scope.folder)
                yield from walk(below, shapes, f"{path}{label}/{attribute.name}/")
