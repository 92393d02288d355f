"""Weights that cross graphs: branches of an If, bodies of a Loop, and local functions."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from convfc_cli.errors import Unsupported
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.rounding import RuntimeResult
from tests.support.models import IR, first_result, info, listed, make_model, only, ramp, tensor
from tests.support.onnx_weights import SHAPE, check

node = helper.make_node


def branch(nodes: list[Any], output: str, stored: Any = ()) -> onnx.GraphProto:
    """The body of one branch of an If."""
    return helper.make_graph(nodes, "branch", [], [info(output, None)], list(stored))


def test_weights_of_an_outer_graph_in_the_branches_of_an_if(tmp_path: Path) -> None:
    first, second = ramp(*SHAPE), -2 * ramp(*SHAPE)
    made = node(
        "If",
        ["c"],
        ["y"],
        name="choose",
        then_branch=branch(
            [node("Conv", ["x", "W"], ["y1"], name="yes")],  # the outer W
            "y1",
        ),
        else_branch=branch(
            [
                node("Identity", ["x"], ["x2"]),
                node("Transpose", ["V"], ["inner"], perm=[0, 1, 2, 3]),
                node("Conv", ["x2", "inner"], ["y2"], name="no", strides=[2, 1]),
            ],
            "y2",
        ),
    )
    model = make_model(
        [made],
        [info("x", (1, 2, 5, 4)), info("c", (), TensorProto.BOOL)],
        [tensor("W", first), tensor("V", second)],
    )
    found = listed(model, tmp_path)
    assert {entry.name for entry in found.entries} == {
        "choose/then_branch/yes",
        "choose/else_branch/no",
    }
    for name, weights, outputs in (("yes", first, (3, 4, 2)), ("no", second, (3, 2, 2))):
        (entry,) = found.select([name])
        layer = entry.load()
        np.testing.assert_array_equal(layer.kernel, weights)
        assert layer.output_shape == outputs
        result = first_result(entry, np.random.default_rng(0))
        assert isinstance(result, RuntimeResult)
        assert check_runtime(layer, result).holds


def test_two_branches_that_call_different_weights_by_the_same_name(tmp_path: Path) -> None:
    sides = {"then_branch": ramp(*SHAPE), "else_branch": 3 * ramp(*SHAPE)}
    bodies = {
        side: branch([node("Conv", ["x", "W"], ["r"])], "r", [tensor("W", weights)])
        for side, weights in sides.items()
    }
    model = make_model(
        [node("If", ["c"], ["y"], name="if", **bodies)],
        [info("x", (1, 2, 5, 4)), info("c", (), TensorProto.BOOL)],
    )
    entries = listed(model, tmp_path).entries
    assert len(entries) == 2
    for entry in entries:
        side = entry.name.split("/")[1]
        np.testing.assert_array_equal(entry.load().kernel, sides[side])
        result = first_result(entry, np.random.default_rng(0))
        assert isinstance(result, RuntimeResult)
        assert check_runtime(entry.load(), result).holds


def loop_model(inner: list[Any], *, rank_known: bool = True) -> onnx.ModelProto:
    """A Loop whose body carries `state`, on which the nodes `inner` compute `next`."""
    shape = (1, 2, 5, 4) if rank_known else None
    body = helper.make_graph(
        [*inner, node("Identity", ["go"], ["on"])],
        "body",
        [
            info("i", (), TensorProto.INT64),
            info("go", (), TensorProto.BOOL),
            info("state", shape),
        ],
        [info("on", (), TensorProto.BOOL), info("next", None)],
    )
    return make_model(
        [node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)],
        [info("x", (1, 2, 5, 4)), info("n", (), TensorProto.INT64)],
        [tensor("W", ramp(2, 2, 1, 1))],
    )


def test_a_loop_with_weights_of_the_outer_graph(tmp_path: Path) -> None:
    model = loop_model([node("Conv", ["state", "W"], ["next"], name="step")])
    entry = only(model, tmp_path)
    assert entry.name == "loop/body/step"
    np.testing.assert_array_equal(entry.load().kernel, ramp(2, 2, 1, 1))
    assert entry.require().input_shape == (2, 5, 4)


def test_an_if_within_a_loop(tmp_path: Path) -> None:
    inner = node(
        "If",
        ["go"],
        ["next"],
        name="if",
        then_branch=branch([node("Conv", ["state", "W"], ["r"], name="deep")], "r"),
        else_branch=branch([node("Identity", ["state"], ["s"])], "s"),
    )
    entry = only(loop_model([inner]), tmp_path)
    assert entry.name == "loop/body/if/then_branch/deep"
    np.testing.assert_array_equal(entry.load().kernel, ramp(2, 2, 1, 1))


def test_weights_that_a_loop_carries_are_dynamic(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            node("Conv", ["x", "w"], ["r"], name="step"),
            node("Neg", ["w"], ["v"]),
            node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            info("i", (), TensorProto.INT64),
            info("go", (), TensorProto.BOOL),
            info("w", (2, 2, 1, 1)),
        ],
        [info("on", (), TensorProto.BOOL), info("v", None), info("r", None)],
    )
    model = make_model(
        [node("Loop", ["n", "", "W"], ["last", "y"], name="loop", body=body)],
        [info("x", (1, 2, 5, 4)), info("n", (), TensorProto.INT64)],
        [tensor("W", ramp(2, 2, 1, 1))],
    )
    entry = only(model, tmp_path)
    assert type(entry.error) is Unsupported
    assert "'w'" in str(entry.error)


def function_model() -> onnx.ModelProto:
    """Two calls of a function that convolves with what it is given, by the strides it is given."""
    body = [node("Conv", ["a", "k"], ["b"], name="inner"), node("Relu", ["b"], ["c"])]
    strides = body[0].attribute.add()
    strides.name = strides.ref_attr_name = "strides"
    strides.type = onnx.AttributeProto.INTS
    function = helper.make_function(
        "my", "Block", ["a", "k"], ["c"], body, [helper.make_opsetid("", 18)], ["strides"]
    )
    nodes = [
        node("Block", ["x", "W"], ["h"], domain="my", strides=[2, 1], name="first"),
        node("Block", ["h", "V"], ["y"], domain="my", name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [info("x", (1, 2, 5, 4))],
        [onnx.ValueInfoProto(name="y")],
        [tensor("W", ramp(*SHAPE)), tensor("V", 2 * ramp(1, 3, 1, 1))],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=IR)


def test_local_functions(tmp_path: Path) -> None:
    first, second = listed(function_model(), tmp_path).entries
    np.testing.assert_array_equal(first.load().kernel, ramp(*SHAPE))
    np.testing.assert_array_equal(second.load().kernel, 2 * ramp(1, 3, 1, 1))
    assert first.require().output_shape == (3, 2, 2)
    assert second.require().output_shape == (1, 2, 2)
    assert first.name != second.name
    for entry in (first, second):
        result = first_result(entry, np.random.default_rng(0))
        assert isinstance(result, RuntimeResult)
        assert check_runtime(entry.load(), result).holds


def test_a_function_with_its_own_constants(tmp_path: Path) -> None:
    body = [
        node("Constant", [], ["k"], value=tensor("", ramp(*SHAPE))),
        node("Conv", ["a", "k"], ["b"]),
    ]
    function = helper.make_function("my", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        [node("F", ["x"], ["y"], domain="my")],
        "graph",
        [info("x", (1, 2, 5, 4))],
        [onnx.ValueInfoProto(name="y")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=IR)
    check(model, ramp(*SHAPE), tmp_path)
