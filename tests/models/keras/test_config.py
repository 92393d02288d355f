"""The forms in which Keras 1 to 3 write a configuration: calls, inputs, outputs and names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput, SizeMissing
from tests.support.keras_files import functional, given_input, layer, modern, zipped
from tests.support.keras_models import KERNEL, conv, entries, held_by, inputs, point, weights

pytestmark = pytest.mark.usefixtures("in_place")

TENSOR = {
    "class_name": "__keras_tensor__",
    "config": {"shape": [None, 5, 6, 2], "dtype": "float32", "keras_history": ["x", 0, 0]},
}

NODES: dict[str, Any] = {
    "list": [[["x", 0, 0, {}]]],
    "list without arguments": [[["x", 0, 0]]],
    "flat": [["x", 0, 0, {}]],
    "flat without arguments": [["x", 0, 0]],
    "one flat node": ["x", 0, 0, {}],
    "nested lists": [[[["x", 0, 0, {}]]]],
    "keyword": [[["x", 0, 0, {"training": False, "name": None}]]],
    "dict": [{"inputs": ["x", 0, 0, {}]}],
    "dict of lists": [{"inputs": [["x", 0, 0, {}]]}],
    "args": [{"args": [TENSOR], "kwargs": {}}],
    "args in a list": [{"args": [[TENSOR]], "kwargs": {"training": False}}],
    "kwargs": [{"args": [], "kwargs": {"inputs": TENSOR}}],
}


@pytest.mark.parametrize("form", NODES)
def test_forms_of_nodes(form: str, tmp_path: Path) -> None:
    item = {**conv("a"), "inbound_nodes": NODES[form]}
    model = functional([given_input("x", 5, 6, 2), item, conv("b", "a")], ["b"])
    found = entries(tmp_path, model, weights("a", "b"))
    assert inputs(found) == {"a": (2, 5, 6), "b": (2, 4, 5)}


SEVERAL: dict[str, Any] = {
    "list": [[["x", 0, 0, {}], ["y", 0, 0, {}]]],
    "keyword": [[["x", 0, 0, {"y": ["y", 0, 0]}]]],
    "flat with a keyword": [["x", 0, 0, {"y": ["y", 0, 0], "name": None}]],
    "nested": [[[["x", 0, 0, {}], ["y", 0, 0, {}]]]],
    "dict": [{"a": ["x", 0, 0, {}], "b": ["y", 0, 0, {}]}],
    "keyword with a list": [[["x", 0, 0, {"others": [["y", 0, 0]]}]]],
}


@pytest.mark.parametrize("form", SEVERAL)
def test_forms_of_nodes_with_several_tensors(form: str, tmp_path: Path) -> None:
    last, kernel = point("last", 5, "both")
    both = {**layer("Concatenate", "both", axis=-1), "inbound_nodes": SEVERAL[form]}
    items = [given_input("x", 5, 6, 2), given_input("y", 5, 6, 3), both, last]
    found = entries(tmp_path, functional(items, ["last"]), weights("last", kernel=kernel))
    assert inputs(found) == {"last": (5, 5, 6)}


@pytest.mark.parametrize("value", [2.0, 3, [1.0, 2.0], None, "text"])
def test_a_constant_in_a_node_is_no_tensor(value: Any, tmp_path: Path) -> None:
    last, kernel = point("last", 2, "it")
    it = layer("TFOpLambda", "it", function="math.multiply")
    it["inbound_nodes"] = [["_CONSTANT_VALUE", -1, value, {"y": ["x", 0, 0], "name": None}]]
    model = functional([given_input("x", 5, 6, 2), it, last], ["last"])
    found = entries(tmp_path, model, weights("last", kernel=kernel))
    assert inputs(found) == {"last": (2, 5, 6)}


def test_keras_3_states_the_shapes_of_tensors(tmp_path: Path) -> None:
    """What a class of its author makes is known by them."""
    mine = {**layer("Mine", "mine", "x"), "module": "my.layers"}
    items = [
        modern(given_input("x", 5, 6, 2)),
        {**modern(mine), "module": "my.layers"},
        modern(conv("a", "mine"), [None, 9, None, 2]),
        modern(conv("b", "a"), [None, 8, 7, 2]),
    ]
    path = zipped(
        tmp_path / "m.keras",
        functional(items, ["b"]),
        {"layers/conv2d": [KERNEL], "layers/conv2d_1": [KERNEL]},
    )
    a, b = convfc.read(path).entries
    assert isinstance(a.error, SizeMissing)
    assert b.require().input_shape == (2, 8, 7)


def test_operations_are_no_layers_of_the_store(tmp_path: Path) -> None:
    """The operation Add has no group, and so no number; a layer Add has."""
    operation = {**modern(layer("Conv2D", "op", "x", filters=1)), "module": "keras.src.ops.nn"}
    items = [modern(given_input("x", 5, 6, 2)), operation, modern(conv("a", "x"))]
    path = zipped(tmp_path / "m.keras", functional(items, ["a"]), {"layers/conv2d": [KERNEL]})
    found = {entry.name: entry for entry in convfc.read(path).entries}
    assert np.array_equal(found["a"].load().kernel, KERNEL.transpose(3, 2, 0, 1))


@pytest.mark.parametrize(
    "stated", [{"x": ["x", 0, 0]}, [["x", 0, 0]], ["x", 0, 0], {"a": [["x", 0, 0]]}]
)
def test_forms_of_inputs_and_outputs(stated: Any, tmp_path: Path) -> None:
    model = functional([given_input("x", 5, None, 2), conv("a", "x")], ["a"])
    model["config"]["input_layers"] = stated
    found = entries(tmp_path, model, weights("a"), (1, 5, 6, 2))
    assert inputs(found) == {"a": (2, 5, 6)}


def test_inputs_of_a_model_in_the_model_are_in_the_order_of_its_input_layers(
    tmp_path: Path,
) -> None:
    for order in (["p", "q"], ["q", "p"]):
        sub = functional(
            [given_input("p"), given_input("q"), conv("a", "p"), conv("b", "q")],
            ["a", "b"],
            inputs=order,
            name="sub",
        )
        for item in sub["config"]["layers"][:2]:
            del item["config"]["batch_input_shape"]
        model = functional(
            [
                given_input("x", 5, 6, 2),
                given_input("y", 9, 8, 2),
                {**sub, "inbound_nodes": [[["x", 0, 0, {}], ["y", 0, 0, {}]]]},
                conv("c", ["sub", 1, 1]),
            ],
            ["c"],
        )
        found = entries(tmp_path, model, {**held_by("sub", "a", "b"), **weights("c")})
        sizes = {"p": (2, 5, 6), "q": (2, 9, 8)}
        if order[0] == "q":
            sizes = {"p": (2, 9, 8), "q": (2, 5, 6)}
        b = sizes["q"]
        assert inputs(found) == {
            "sub/a": sizes["p"],
            "sub/b": b,
            "c": (2, b[1] - 1, b[2] - 1),
        }


def test_a_layer_whose_name_is_not_that_of_its_configuration(tmp_path: Path) -> None:
    """What the model calls it counts."""
    item = conv("a", "x")
    item["config"]["name"] = "another"
    model = functional([given_input("x", 5, 6, 2), item], ["a"])
    (found,) = entries(tmp_path, model, weights("a"))
    assert found.name == "a"
    assert found.load().kernel.shape == (2, 2, 2, 2)


def test_the_layers_of_a_model_in_any_order(tmp_path: Path) -> None:
    """Named in the order of the configuration, sized in that of the calls."""
    model = functional([conv("b", "a"), conv("a", "x"), given_input("x", 5, 6, 2)], ["b"])
    found = entries(tmp_path, model, weights("a", "b"))
    assert [(e.position, e.name, e.require().input_shape) for e in found] == [
        (0, "b", (2, 4, 5)),
        (1, "a", (2, 5, 6)),
    ]


def test_a_circle(tmp_path: Path) -> None:
    model = functional([given_input("x", 5, 6, 2), conv("a", "b"), conv("b", "a")], ["b"])
    with pytest.raises(MalformedInput, match="circle: a, b"):
        entries(tmp_path, model, weights("a", "b"))


def test_a_call_on_what_is_not_there(tmp_path: Path) -> None:
    model = functional([given_input("x", 5, 6, 2), conv("a", "y")], ["a"])
    with pytest.raises(MalformedInput, match="'y': there is none"):
        entries(tmp_path, model, weights("a"))


def test_two_layers_of_one_name(tmp_path: Path) -> None:
    model = functional([given_input("x", 5, 6, 2), conv("a", "x"), conv("a", "x")], ["a"])
    with pytest.raises(MalformedInput, match="same name"):
        entries(tmp_path, model, weights("a"))


@pytest.mark.parametrize("name", ["a/b", "with space", "über", "a;b", "conv:0", "x=1"])
def test_names_as_they_are(name: str, tmp_path: Path) -> None:
    model = functional([given_input("in", 5, None, 2), conv(name, "in"), conv("z", name)], ["z"])
    found = entries(tmp_path, model, weights(name, "z"), {name: (1, 4, 5, 2)})
    assert [entry.name for entry in found] == [name, "z"]
    assert found[1].require().input_shape == (2, 4, 5)
