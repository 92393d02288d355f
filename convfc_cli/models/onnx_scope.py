"""The graphs of an ONNX model, one within another: who defines a name, what is known of it.

Only what is declared or inferred; what a constant's value is, `onnx_constants` finds out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

STANDARD = ("", "ai.onnx")
"""The two spellings of ONNX's own operator set."""


def operator(node: onnx.NodeProto) -> tuple[str, str]:
    """The domain of a node's operator, empty for ONNX's own, and its name."""
    return ("" if node.domain in STANDARD else node.domain, node.op_type)


@dataclass
class Scope:
    """One graph of a model, within the graphs around it, with what is known of its tensors."""

    graph: onnx.GraphProto
    parent: "Scope | None"
    opsets: dict[str, int]
    folder: Path | None
    shapes: dict[str, tuple[int | None, ...]]
    types: dict[str, int]
    path: str = ""
    """Where in the model it is, for names."""

    stored: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    constant: set[str] = field(default_factory=set)
    """Tensors that are known to be constant beside those that are stored."""

    zeros: set[tuple[str, int]] = field(default_factory=set)
    """(tensor, axis) of the sizes that are declared as 0. They are taken for open ones."""

    def __post_init__(self) -> None:
        self.inputs.update(value.name for value in self.graph.input)
        self.stored.update((tensor.name, tensor) for tensor in self.graph.initializer)
        self.stored.update((tensor.values.name, tensor) for tensor in self.graph.sparse_initializer)
        for node in self.graph.node:
            self.producers.update((output, node) for output in node.output if output)
        for value in (*self.graph.input, *self.graph.value_info, *self.graph.output):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if dim.HasField("dim_value") and dim.dim_value == 0:
                    self.zeros.add((value.name, axis))

    @cached_property
    def open_input(self) -> str | None:
        """The first input of the model whose size is open, beside its batch."""
        if self.parent is not None:
            return self.parent.open_input
        names = (value.name for value in self.graph.input if value.name not in self.stored)
        return next((name for name in names if None in self.shapes.get(name, (None,))[1:]), None)

    @property
    def top(self) -> "Scope":
        """The outermost graph."""
        return self if self.parent is None else self.parent.top

    def home(self, name: str) -> "Scope | None":
        """The innermost graph that defines a tensor."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.stored or name in scope.producers or name in scope.inputs:
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
    path: str = "",
) -> Scope:
    """The scope of a graph, with what shape inference found of its twin `inferred`: sizes that
    a Shape node reads there are as good as stored.
    """
    shapes: dict[str, tuple[int | None, ...]] = {}
    types: dict[str, int] = {}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        kind = value.type.tensor_type
        types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(
                dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim
            )
    scope = Scope(graph, parent, opsets, folder, shapes, types, path)
    for node in inferred.node:
        if node.op_type == "Constant" and node.output:
            source = scope.producers.get(node.output[0])
            if source is not None and source.op_type == "Shape" and source.domain in STANDARD:
                scope.stored[node.output[0]] = node.attribute[0].t
    return scope


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
                place = f"{path}{label}/{attribute.name}/"
                below = scope_of(graph, shapes, scope, scope.opsets, scope.folder, place)
                yield from walk(below, shapes, place)
