"""Models in which a name stands for two things: refused before anything of them is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from convfc_cli.errors import MalformedInput
from convfc_cli.models.onnx.check import check
from tests.support.crafted import within
from tests.support.models import IR, convfc, info, listed, make_model, only, ramp, tensor

node = helper.make_node

ONE = np.ones((1, 1, 1, 1), np.float32)
X = info("x", (1, 1, 2, 2))
CONV = node("Conv", ["x", "W"], ["y"], name="conv")


def sparse(name: str) -> onnx.SparseTensorProto:
    values, places = tensor(name, np.float32([3])), tensor("", np.int64([0]))
    return helper.make_sparse_tensor(values, places, ONE.shape)


def branches(
    nodes: Sequence[onnx.NodeProto] = (),
    stored: Sequence[onnx.TensorProto] = (),
    after: Sequence[onnx.NodeProto] = (),
) -> onnx.ModelProto:
    """A Conv by W in both branches of an If, each with these nodes and tensors of its own."""
    graphs = [
        helper.make_graph(
            [*nodes, node("Conv", ["x", "W"], [name])], "b", [], [info(name, None)], list(stored)
        )
        for name in ("p", "q")
    ]
    choice = node("If", ["c"], ["y"], then_branch=graphs[0], else_branch=graphs[1], name="if")
    inputs = [X, info("c", (), TensorProto.BOOL)]
    return make_model([choice, *after], inputs, [tensor("W", ONE)], outputs=["y"])


def looped() -> onnx.ModelProto:
    """A Loop whose body has a stored value for what it is handed."""
    body = helper.make_graph(
        [
            node("Conv", ["x", "w"], ["out"]),
            node("Identity", ["going"], ["on"]),
            node("Identity", ["w"], ["next"]),
        ],
        "body",
        [
            info("i", (), TensorProto.INT64),
            info("going", (), TensorProto.BOOL),
            info("w", (1,) * 4),
        ],
        [info(name, None) for name in ("on", "next", "out")],
        [tensor("w", 2 * ONE)],
    )
    stored = [tensor("trips", np.int64(1)), tensor("true", np.bool_(True)), tensor("first", ONE)]
    loop = node("Loop", ["trips", "true", "first"], ["last", "y"], body=body, name="loop")
    return make_model([loop], [X], stored)


def function(
    inputs: Sequence[str], nodes: Sequence[onnx.NodeProto], opsets: Sequence[int] = (18,)
) -> onnx.ModelProto:
    """A model that calls a function with these inputs and nodes."""
    own = [helper.make_opsetid("", version) for version in opsets]
    made = helper.make_function("f", "F", inputs, ["b"], nodes, own)
    graph = helper.make_graph(
        [node("F", ["x"] * len(inputs), ["y"], domain="f")],
        "graph",
        [X],
        [onnx.ValueInfoProto(name="y")],
    )
    known = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=known, functions=[made], ir_version=IR)


def constant(*names: str, value: Any = ONE) -> onnx.NodeProto:
    return node("Constant", [], list(names), value=tensor("", value))


TWICE: dict[str, tuple[onnx.ModelProto, str]] = {
    "two initializers": (
        make_model([CONV], [X], [tensor("W", ONE), tensor("W", 2 * ONE)]),
        "'W' is defined twice in the graph: as an initializer and as an initializer",
    ),
    "two initializers, one sparse": (
        make_model([CONV], [X], [tensor("W", ONE)], sparse_initializer=[sparse("W")]),
        "'W' .* as an initializer and as a sparse initializer",
    ),
    "two sparse initializers": (
        make_model([CONV], [X], sparse_initializer=[sparse("W"), sparse("W")]),
        "'W' .* as a sparse initializer and as a sparse initializer",
    ),
    "two nodes": (
        make_model([constant("W"), node("Identity", ["x"], ["W"], name="n"), CONV], [X]),
        "'W' .* as an output of node 0 and as an output of the Identity 'n'",
    ),
    "one node": (
        make_model([node("Split", ["x"], ["W", "W"], name="s"), CONV], [X]),
        "'W' .* as an output of the Split 's' and as an output of the Split 's'",
    ),
    "an initializer and a Constant": (
        make_model([constant("W", value=2 * ONE), CONV], [X], [tensor("W", ONE)]),
        "'W' .* as an initializer and as an output of node 0",
    ),
    "a sparse initializer and a Constant": (
        make_model([constant("W"), CONV], [X], sparse_initializer=[sparse("W")]),
        "'W' .* as a sparse initializer and as an output of node 0",
    ),
    "two inputs": (
        make_model([CONV], [X, X], [tensor("W", ONE)]),
        "'x' is defined twice in the graph: as an input and as an input",
    ),
    "an input and a node": (
        make_model([constant("x"), CONV], [X], [tensor("W", ONE)]),
        "'x' .* as an input and as an output of node 0",
    ),
    "an output named as its weight": (
        make_model([node("Conv", ["x", "W"], ["W"])], [X], [tensor("W", ONE)]),
        "'W' .* as an initializer and as an output of node 0",
    ),
    "an input of a body and an initializer": (
        looped(),
        "'w' is defined twice in the body of the Loop 'loop' of the graph: as an input and as an "
        "initializer",
    ),
    "in a branch": (
        branches([constant("V"), constant("V")]),
        "'V' is defined twice in the else_branch of the If 'if' of the graph",
    ),
    "around a branch and by a node in it": (
        branches([constant("W", value=2 * ONE)]),
        "'W' is defined twice: as an initializer around the else_branch of the If 'if' of the "
        "graph, and in it as an output of node 0",
    ),
    "in a function": (
        function(["a"], [constant("V"), node("Neg", ["a"], ["V"]), node("Abs", ["V"], ["b"])]),
        "'V' is defined twice in the function 'F'",
    ),
    "inputs of a function": (
        function(["a", "a"], [node("Neg", ["a"], ["b"])]),
        "'a' is defined twice in the function 'F': as an input and as an input",
    ),
    "operator sets": (
        make_model([CONV], [X], [tensor("W", ONE)], domains={"ai.onnx": 7}),
        "imports the operator set 'ai.onnx' as version 22 and as version 7",
    ),
    "operator sets of a function": (
        function(["a"], [node("Neg", ["a"], ["b"])], [18, 19]),
        "the function 'F' imports the operator set 'ai.onnx' as version 18 and as version 19",
    ),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_name_that_stands_for_two_things(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, message = TWICE[case]
    with pytest.raises(MalformedInput, match=message):
        listed(model, tmp_path)
    for arguments in (["inspect"], ["convert", "-o", tmp_path / "out.npz"]):
        done = convfc(capsys, arguments[0], tmp_path / "model.onnx", *arguments[1:])
        assert (done.code, done.err.count("\n")) == (3, 1)
    assert not (tmp_path / "out.npz").exists()


def test_an_initializer_may_be_an_input(tmp_path: Path) -> None:
    weights = ramp(1, 1, 1, 1)
    model = make_model([CONV], [X, info("W", (1, 1, 1, 1))], [tensor("W", weights)])
    assert only(model, tmp_path).load().arrays()["kernel"].tolist() == weights.tolist()


def test_an_inner_graph_may_call_a_tensor_of_its_own_as_one_around_it(tmp_path: Path) -> None:
    """As onnxruntime has it: within the graph its own is meant."""
    entries = listed(branches(stored=[tensor("W", 2 * ONE)]), tmp_path).entries
    assert [entry.load().arrays()["kernel"].item() for entry in entries] == [2, 2]
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Conv", ["x", "W"], ["v"])],
        "body",
        [info("i", (), TensorProto.INT64), info("go", (), TensorProto.BOOL), X],
        [info("on", (), TensorProto.BOOL), info("v", None)],
    )
    loop = node("Loop", ["n", "", "x"], ["y"], body=body)
    stored = [tensor("W", 3 * ONE), tensor("n", np.int64(1))]
    assert only(make_model([loop], [X], stored), tmp_path).load().arrays()["kernel"].item() == 3


def test_a_name_may_come_again_where_the_first_is_not_seen(tmp_path: Path) -> None:
    later = branches([constant("V")], after=[node("Identity", ["y"], ["V"])])
    assert len(listed(later, tmp_path).entries) == 2


def test_outputs_that_are_not_there_have_no_name_in_common(tmp_path: Path) -> None:
    drops = [node("Dropout", ["x"], [f"d{i}", ""]) for i in range(2)]
    model = make_model([*drops, node("Conv", ["d1", "W"], ["y"])], [X], [tensor("W", ONE)])
    assert only(model, tmp_path).status == "ready"


def test_a_function_that_is_called_often_defines_nothing_twice(tmp_path: Path) -> None:
    body = helper.make_graph([node("Neg", ["a"], ["p"])], "t", [], [info("p", None)])
    other = helper.make_graph([node("Abs", ["a"], ["q"])], "e", [], [info("q", None)])
    nodes = [node("If", ["c"], ["b"], then_branch=body, else_branch=other)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    made = helper.make_function("f", "F", ["a", "c"], ["b"], nodes, opsets)
    calls = [node("F", ["x", "c"], ["p"], domain="f"), node("F", ["p", "c"], ["p__1"], domain="f")]
    calls += [node("F", ["p__1", "c"], ["u"], domain="f"), node("Conv", ["u", "W"], ["y"])]
    inputs = [X, info("c", (), TensorProto.BOOL)]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(calls, "graph", inputs, outputs, [tensor("W", ONE)])
    model = helper.make_model(graph, opset_imports=opsets, functions=[made], ir_version=IR)
    assert len(listed(model, tmp_path).entries) == 1


def test_names_and_graphs_in_great_numbers_take_linear_time() -> None:
    """A message that named each graph by the long names around it took a copy for each."""
    many = node("If", ["c"], ["y"], name="n" * 2**21)
    many.attribute.add(name="g").graphs.extend([onnx.GraphProto()] * 20_000)
    many.attribute[0].type = onnx.AttributeProto.GRAPHS
    model = make_model([many, CONV], [X], [tensor("W", ONE)])
    with within(5), pytest.raises(MalformedInput, match="'y' is defined twice"):
        check(model, "it")
