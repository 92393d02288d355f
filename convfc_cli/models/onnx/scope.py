"""The graphs of an ONNX model, one within another: who defines a name, what is known of it.

Only what is declared or inferred; what a constant's value is, `constants` finds out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import onnx

from convfc_cli.models.onnx.stored import Storage
from convfc_cli.models.sizes import Sizes

STANDARD = ("", "ai.onnx")
"""The two spellings of ONNX's own operator set."""


def operator(node: onnx.NodeProto) -> tuple[str, str]:
    """The domain of a node's operator, empty for ONNX's own, and its name."""
    return ("" if node.domain in STANDARD else node.domain, node.op_type)


Inner = tuple[int, int, int]
"""An inner graph: the numbers of its node, of the attribute, and its own among several."""


def inner_graphs(
    graph: onnx.GraphProto,
) -> Iterator[tuple[Inner, onnx.AttributeProto, onnx.GraphProto]]:
    """The graphs directly within a graph, in the order of its nodes."""
    for number, node in enumerate(graph.node):
        for place, attribute in enumerate(node.attribute):
            graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for which, inner in enumerate(graphs):
                yield (number, place, which), attribute, inner


def inner_by_node(
    graph: onnx.GraphProto,
) -> dict[int, list[tuple[Inner, onnx.AttributeProto, onnx.GraphProto]]]:
    """The same by the number of their node."""
    by_node: dict[int, list[tuple[Inner, onnx.AttributeProto, onnx.GraphProto]]] = {}
    for inner in inner_graphs(graph):
        by_node.setdefault(inner[0][0], []).append(inner)
    return by_node


def read_within(graph: onnx.GraphProto) -> Iterator[str]:
    """The tensors that the nodes of a graph and of those within it read, and its outputs."""
    for node in graph.node:
        yield from node.input
    yield from (info.name for info in graph.output)
    for _, _, inner in inner_graphs(graph):
        yield from read_within(inner)


@dataclass
class Facts:
    """What is known of the tensors of one graph, and of those of the graphs within it."""

    shapes: dict[str, Sizes] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    """What contradicts the sizes of a tensor."""

    inner: dict[Inner, "Facts"] = field(default_factory=dict)


@dataclass
class Scope:
    """One graph of a model, within the graphs around it, with what is known of its tensors."""

    graph: onnx.GraphProto
    parent: "Scope | None"
    opsets: dict[str, int]
    storage: Storage
    facts: Facts
    sure: Callable[[], Facts]
    """What is known as well where a free batch is not taken as 1."""

    path: str = ""
    """Where in the model it is, for names."""

    lost: str = ""
    """Why the sizes of the model were not inferred; empty where they were."""

    stored: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    constant: set[str] = field(default_factory=set)
    """Tensors that are known to be constant, for a batch of 1, beside those that are stored."""

    fixed: set[str] = field(default_factory=set)
    """Those of them that depend on no size of another tensor."""

    dynamic: dict[tuple[str, bool], str | None] = field(default_factory=dict)
    """Why tensors are not constant, None for those that are; the bool says: for a batch of 1."""

    measured: dict[tuple[str, bool], tuple[int, ...]] = field(default_factory=dict)
    """Shapes of constants that nothing but computing them tells, with the `batch` of `shape`."""

    zeros: set[tuple[str, int]] = field(default_factory=set)
    """(tensor, axis) of the sizes that are declared as 0. They count as open."""

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
    def open_inputs(self) -> list[str]:
        """The inputs of the model whose sizes are open, beside the batch."""
        if self.parent is not None:
            return self.parent.open_inputs
        names = (value.name for value in self.graph.input if value.name not in self.stored)
        return [name for name in names if None in self.facts.shapes.get(name, (None,) * 2)[1:]]

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
        return _dtype(self.kind(name))

    def kind(self, name: str) -> int:
        """The element type of a tensor as ONNX numbers it; 0 where it is not known."""
        scope = self.home(name)
        if scope is None:
            return 0
        tensor = scope.stored.get(name)
        if isinstance(tensor, onnx.TensorProto):
            return int(tensor.data_type)
        return scope.facts.types.get(name, 0)

    def shape(self, name: str, *, batch: bool = True) -> Sizes | None:
        """The dimensions of a tensor, None where one is not known; without `batch`, where it is
        known only of a batch of 1.
        """
        scope = self.home(name)
        if scope is None:
            return None
        tensor = scope.stored.get(name)
        if tensor is not None:
            return tuple(tensor.dims)
        facts = scope.facts if batch or name in scope.fixed else scope.sure()
        return facts.shapes.get(name)

    def doubt(self, name: str) -> str:
        """What contradicts the sizes of a tensor; empty where nothing does."""
        scope = self.home(name)
        return scope.facts.doubts.get(name, "") if scope else ""


@cache
def _dtype(kind: int) -> str:
    """An element type as NumPy calls it; empty where it is not known."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name if kind else ""
    except KeyError:
        return ""


def walk(scope: Scope) -> Iterator[tuple[str, Scope, onnx.NodeProto]]:
    """(path, scope, node) for every node, those of inner graphs where their node stands."""
    inner = inner_by_node(scope.graph)
    for number, node in enumerate(scope.graph.node):
        yield scope.path, scope, node
        label = node.name or (node.output[0] if node.output else f"{node.op_type}_{number}")
        for key, attribute, graph in inner.get(number, ()):
            yield from walk(_below(scope, graph, key, f"{label}/{attribute.name}/"))


def _below(scope: Scope, graph: onnx.GraphProto, key: Inner, path: str) -> Scope:
    """The scope of a graph within another."""
    facts = scope.facts.inner.get(key) or Facts()

    def sure() -> Facts:
        return scope.sure().inner.get(key) or Facts()

    path, lost = scope.path + path, scope.lost
    return Scope(graph, scope, scope.opsets, scope.storage, facts, sure, path, lost)
