"""Which nodes of a graph are listed as linear layers, what each reads, and what produces it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from convfc_cli.errors import UsageError
from tests.support.models import info, listed, make_model, tensor
from tests.support.onnx_nodes import by_name, check, np_pad, numbers, only, whole

pytestmark = pytest.mark.usefixtures("in_place")


def conv(source: str, target: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "W"], [target], name=name)


def chain(*nodes: onnx.NodeProto, shape: Any = (1, 2, 6), **more: Any) -> onnx.ModelProto:
    stored = [tensor("W", numbers(2, 2, 1)), tensor("pads", whole(0, 0, 1, 0, 0, 1))]
    return make_model(nodes, [info("x", shape)], [*stored, *more.pop("stored", ())], **more)


def test_others_are_numbered_on_from_the_convolutions_and_listed_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chain(
        helper.make_node("Pad", ["x", "pads"], ["p"], name="pad"),
        conv("p", "c", "conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
    )
    found = listed(model, tmp_path)
    assert [(e.position, e.name, e.op, e.output) for e in (*found.entries, *found.others)] == [
        (0, "conv", "Conv", "c"),
        (1, "pad", "Pad", "p"),
        (2, "pool", "GlobalAveragePool", "g"),
    ]
    assert [e.name for e in found.select([])] == ["conv"]
    assert [e.name for e in found.select([], ["globalaveragepool"])] == ["conv", "pool"]
    assert [e.name for e in found.select([], ["linear"])] == ["conv", "pad", "pool"]
    assert [e.name for e in found.select(["@1", "conv", "g"])] == ["conv", "pad", "pool"]
    with pytest.raises(UsageError, match="no linear layer of the operator 'gemm'"):
        found.select([], ["Gemm"])
    again = listed(model, tmp_path)
    monkeypatch.setattr("convfc_cli.models.onnx.listing.listed", None)
    with pytest.raises(TypeError):
        _ = again.others  # it is only now that more is looked at


def test_what_a_layer_reads_and_what_is_behind_it(tmp_path: Path) -> None:
    make = helper.make_node
    found = by_name(
        listed(
            chain(
                make("Pad", ["x", "pads"], ["p"], name="pad"),
                make("Identity", ["p"], ["i"]),
                make("Dropout", ["i"], ["d"]),
                make("Cast", ["d"], ["e"], to=TensorProto.FLOAT),
                conv("e", "c", "after pad"),
                make("Relu", ["c"], ["r"], name="relu_1"),
                conv("r", "s", "after relu"),
                conv("x", "t", "after input"),
                make("Add", ["s", "s"], ["a"]),
                conv("a", "u", "after sum"),
                make("Mul", ["one", "u"], ["m"], name="mul"),
                make("Cast", ["m"], ["h"], to=TensorProto.FLOAT16),
                make("Cast", ["h"], ["k"], to=TensorProto.FLOAT),
                conv("k", "v", "after cast"),
                conv("nowhere", "w", "after nothing"),
                make("Dropout", ["v", "", "true"], ["z"], name="drop"),
                conv("z", "y", "after training"),
                stored=[tensor("one", numbers(1)), tensor("true", np.array(True))],
            ),
            tmp_path,
        )
    )
    told = {name: (entry.reads, str(entry.producer or "")) for name, entry in found.items()}
    assert told == {
        "pad": ("x", "the input 'x'"),
        "after pad": ("p", ""),
        "after relu": ("r", "Relu 'relu_1'"),
        "after input": ("x", "the input 'x'"),
        "after sum": ("a", "Add 'a'"),
        "mul": ("u", ""),
        "after cast": ("k", "Cast 'k'"),
        "after nothing": ("nowhere", "'nowhere', which is defined nowhere"),
        "after training": ("z", "Dropout 'drop'"),
    }
    assert found["after pad"].reads == found["pad"].output
    resized = found["after relu"].at((2, 9))
    assert (resized.reads, str(resized.producer or "")) == ("r", "Relu 'relu_1'")


def branches(same: bool) -> onnx.ModelProto:
    """An If with a Pad and a Conv in each branch; their tensors have the `same` names or not."""

    def branch(which: str) -> onnx.GraphProto:
        tag = "" if same else which
        nodes = [
            helper.make_node("Pad", ["x", "pads"], [f"p{tag}"], name="pad"),
            helper.make_node("Conv", [f"p{tag}", "W"], [f"c{tag}"], name="conv"),
        ]
        return helper.make_graph(nodes, which, [], [info(f"c{tag}", (1, 2, 8))])

    node = helper.make_node(
        "If", ["b"], ["y"], name="if", then_branch=branch("then"), else_branch=branch("else")
    )
    stored = [tensor("W", numbers(2, 2, 1)), tensor("pads", whole(0, 0, 1, 0, 0, 1))]
    inputs = [info("x", (1, 2, 6)), info("b", (), TensorProto.BOOL)]
    return make_model([node], inputs, stored)


def test_layers_in_branches_are_told_apart(tmp_path: Path) -> None:
    found = by_name(listed(branches(same=False), tmp_path))
    assert found["if/then_branch/conv"].reads == found["if/then_branch/pad"].output == "pthen"
    assert found["if/else_branch/conv"].reads == found["if/else_branch/pad"].output == "pelse"
    check(found["if/else_branch/pad"], lambda x: np_pad(x, [0, 0, 1, 0, 0, 1], "constant"))
    found = by_name(listed(branches(same=True), tmp_path))
    reads = {name: (entry.reads, str(entry.producer or "")) for name, entry in found.items()}
    assert reads["if/then_branch/pad"] == ("x", "the input 'x'")
    for which in ("then", "else"):
        assert reads[f"if/{which}_branch/conv"] == (
            f"if/{which}_branch/p",
            f"Pad 'if/{which}_branch/pad', whose output 'p' has the name of another tensor",
        )


def test_layers_in_functions_are_listed(tmp_path: Path) -> None:
    body = [
        helper.make_node("Constant", [], ["k"], value=tensor("k", numbers(3))),
        helper.make_node("Mul", ["a", "k"], ["b"], name="scale"),
    ]
    opset = helper.make_opsetid("", 22)
    function = helper.make_function("own", "Scale", ["a"], ["b"], body, [opset])
    model = make_model(
        [helper.make_node("Scale", ["x"], ["y"], domain="own")],
        [info("x", (1, 2, 3))],
        domains={"own": 1},
    )
    model.functions.append(function)
    entry = only(model, tmp_path)
    check(entry, lambda x: x * numbers(3))
