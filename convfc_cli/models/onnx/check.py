"""What an ONNX model must be before it is read: every name in it stands for one thing.

ONNX wants single static assignment. Where a file breaks it, runtimes differ in which definition
they take, so that no reading of it is the right one. And no tensor has axes in thousands, for each
of which inference would make an object.
"""

from collections.abc import Callable, Iterable

import onnx

from convfc_cli.errors import MalformedInput
from convfc_cli.models.onnx.scope import STANDARD
from convfc_cli.models.onnx.stored import MAX_RANK

Describe = Callable[[], str]
"""What to call something, made only for an error: a name may be as long as the file."""

Defined = dict[str, Describe]
"""The tensors that a graph defines, and as what."""


def check(model: onnx.ModelProto, name: str) -> None:
    """Raise `MalformedInput` for a tensor that a graph or a function defines twice, an attribute
    that a node states twice, an operator set of two versions, or a stored tensor of more axes than
    `MAX_RANK`. `name` is the model's.

    An input of the outermost graph may have a stored default. Inputs and stored tensors of an inner
    graph may be called as tensors around it, and are meant within it; a node's output may not.
    """
    _check_opsets(model.opset_import, name)
    _check_graph(model.graph, (), lambda: "the graph")
    for function in model.functions:
        _check_opsets(function.opset_import, f"the function {function.name!r}")
        _check_function(function)


def _check_opsets(opsets: Iterable[onnx.OperatorSetIdProto], place: str) -> None:
    versions: dict[str, int] = {}
    for entry in opsets:
        domain = "" if entry.domain in STANDARD else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            raise MalformedInput(
                f"{place} imports the operator set {domain or STANDARD[1]!r} as version "
                f"{versions[domain]} and as version {entry.version}"
            )


def _check_function(function: onnx.FunctionProto) -> None:
    def place() -> str:
        return f"the function {function.name!r}"

    defined: Defined = {}
    for parameter in function.input:
        _define(defined, parameter, lambda: "an input", place)
    _check_nodes(function.node, defined, (), place)


def _check_graph(graph: onnx.GraphProto, outer: tuple[Defined, ...], place: Describe) -> None:
    inputs: Defined = {}
    for info in graph.input:
        _define(inputs, info.name, lambda: "an input", place)
    stored: Defined = inputs if outer else {}  # no default for what a Loop or a Scan hands in
    for tensor in graph.initializer:
        _check_rank(tensor, place)
        _define(stored, tensor.name, lambda: "an initializer", place)
    for sparse in graph.sparse_initializer:
        _check_rank(sparse, place)
        _define(stored, sparse.values.name, lambda: "a sparse initializer", place)
    _check_nodes(graph.node, inputs | stored, outer, place)


def _check_nodes(
    nodes: Iterable[onnx.NodeProto], defined: Defined, outer: tuple[Defined, ...], place: Describe
) -> None:
    """Check the nodes of a graph that has these inputs and stored tensors."""
    for number, node in enumerate(nodes):

        def called(node: onnx.NodeProto = node, number: int = number) -> str:
            return f"the {node.op_type} {node.name!r}" if node.name else f"node {number}"

        stated = set()
        for attribute in node.attribute:
            if attribute.name in stated:
                raise MalformedInput(
                    f"{called()} of {place()} states its attribute {attribute.name!r} twice"
                )
            stated.add(attribute.name)
            if attribute.HasField("t"):
                _check_rank(attribute.t, place)
            if attribute.HasField("sparse_tensor"):
                _check_rank(attribute.sparse_tensor, place)

            def inner(name: str = attribute.name, called: Describe = called) -> str:
                return f"the {name} of {called()} of {place()}"

            own = (attribute.g,) if attribute.HasField("g") else ()
            for graph in (*own, *attribute.graphs):
                _check_graph(graph, (*outer, defined), inner)

        def output(called: Describe = called) -> str:
            return f"an output of {called()}"

        for name in node.output:
            around = next((graph[name] for graph in outer if name in graph), None)
            if around is not None:
                raise MalformedInput(
                    f"the tensor {name!r} is defined twice: as {around()} around {place()}, and "
                    f"in it as {output()}"
                )
            _define(defined, name, output, place)


def _check_rank(tensor: onnx.TensorProto | onnx.SparseTensorProto, place: Describe) -> None:
    parts = (tensor.values, tensor.indices) if isinstance(tensor, onnx.SparseTensorProto) else ()
    for part in (tensor, *parts):
        if len(part.dims) > MAX_RANK:
            raise MalformedInput(f"a tensor of {place()} declares {len(part.dims)} axes")


def _define(defined: Defined, name: str, described: Describe, place: Describe) -> None:
    if name in defined:
        raise MalformedInput(
            f"the tensor {name!r} is defined twice in {place()}: as {defined[name]()} and as "
            f"{described()}"
        )
    if name:  # an empty one stands for an output that is not there
        defined[name] = described
