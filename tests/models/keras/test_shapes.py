"""The shapes that Keras's layers make, as recorded from Keras (`data/make_keras_shapes.py`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convfc_cli.errors import MalformedInput, SizeMissing
from convfc_cli.models.keras.config import Layer, parse
from convfc_cli.models.keras.shapes import OPERATIONS, SHAPES, output_shape, output_shapes
from tests.support.keras_files import Config, functional, given_input, layer, ramp, sequential
from tests.support.keras_models import KERNEL, conv, entries, inputs, operation, point, weights
from tests.support.paths import DATA

pytestmark = pytest.mark.usefixtures("in_place")

RECORDED = DATA / "recorded" / "keras"

RECORDS = json.loads((RECORDED / "shapes.json").read_text())

RECORDS_OF_3 = json.loads((RECORDED / "shapes3.json").read_text())
"""(class, configuration, shapes of its inputs, shapes of its outputs as Keras 3 states them, and
where it really makes others these)."""

KNOWN_BETTER = {
    ("Multiply", "3"),  # an open size with one that is not: Keras 2 takes the one, Keras 3 neither
    ("Concatenate", "3"),
    ("UpSampling2D", "2"),  # Keras 2 forgets the sizes where one of them is open
    ("DepthwiseConv2D", "2"),
}
"""Classes where a version of Keras leaves sizes open that follow from its own rules."""


def agree(found: Any, record: list[Any]) -> None:
    """A shape is that which Keras has, or says more where Keras leaves a size open."""
    versions, kind, _, _, expected = record
    if all((kind, str(version)) in KNOWN_BETTER for version in versions):
        found = [None if e is None else f for f, e in zip(found, expected, strict=True)]
    assert list(found) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({record[1] for record in RECORDS}))
def test_shapes_are_those_of_keras(kind: str, tmp_path: Path) -> None:
    for record in RECORDS:
        if record[1] != kind:
            continue
        _, _, config, shapes, _ = record
        names = [f"x{number}" for number in range(len(shapes))]
        items = [given_input(name) for name in names]
        if kind in SHAPES:
            model = parse(
                json.dumps(functional([*items, layer(kind, "it", *names, **config)], ["it"])), "m"
            )
            assert model is not None
            assert model.graph is not None
            agree(output_shape(model.graph.by_name["it"], list(map(tuple, shapes))), record)
        else:
            agree(after(record, tmp_path), record)


LEFT_OPEN = ("CategoryEncoding", "Discretization")
"""Classes that sum over an axis which depends on the version and the backend."""


@pytest.mark.parametrize("kind", sorted({record[0] for record in RECORDS_OF_3}))
def test_shapes_are_those_that_keras_3_really_makes(kind: str) -> None:
    for record in RECORDS_OF_3:
        if record[0] != kind:
            continue
        _, config, shapes, stated, *real = record
        found = [None if one is None else list(one) for one in made(kind, config, shapes)]
        if kind in LEFT_OPEN and found == [None]:
            assert config["output_mode"] in ("multi_hot", "count")
            assert len(shapes[0]) > 2
            continue
        assert found == (real[0] if real else stated), (config, shapes)


def made(kind: str, config: Config, shapes: Any) -> list[Any]:
    """What the rule of a class makes of these shapes."""
    names = [f"x{number}" for number in range(len(shapes))]
    items = [*map(given_input, names), layer(kind, "it", *names, **config)]
    model = parse(json.dumps(functional(items, ["it"])), "m")
    assert model is not None
    assert model.graph is not None
    return output_shapes(model.graph.by_name["it"], list(map(tuple, shapes)))


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("Hashing", {"num_bins": 6, "output_mode": "int"}, (None, 5)),
        ("Hashing", {"num_bins": 6, "output_mode": "one_hot"}, (None, 6)),
        ("IntegerLookup", {"max_tokens": None, "output_mode": "int"}, (None, 5)),
        ("IntegerLookup", {"max_tokens": 9, "output_mode": "multi_hot"}, (None, None)),
        (
            "StringLookup",
            {"max_tokens": 9, "output_mode": "one_hot", "pad_to_max_tokens": True},
            (None, 5, 9),
        ),
    ],
)
def test_classes_that_need_tensorflow(kind: str, config: Config, expected: Any) -> None:
    """By the text of their `compute_output_shape`: without TensorFlow Keras does not make them."""
    assert made(kind, config, [(None, 5)]) == [expected]


def test_a_call_the_other_way_round_is_not_taken_for_an_embedding(tmp_path: Path) -> None:
    it = layer("ReversibleEmbedding", "it", "x", input_dim=9, output_dim=2)
    last = layer("Conv1D", "last", "it", filters=1, kernel_size=1, use_bias=False)
    model = functional([given_input("x", 7), it, last], ["last"])
    held = weights("last", kernel=ramp(1, 2, 1))
    assert inputs(entries(tmp_path, model, held)) == {"last": (2, 7)}
    it["inbound_nodes"] = [[["x", 0, 0, {"reverse": True}]]]
    assert inputs(entries(tmp_path, model, held)) == {"last": None}


@pytest.mark.parametrize(
    ("first", "item", "rank", "expected"),
    [
        ((5, 9, 8, 4), layer("ConvLSTM2D", "it", filters=3, kernel_size=2), 2, (3, 8, 7)),
        (
            (5, 9, 8, 4),
            layer("ConvLSTM2D", "it", filters=3, kernel_size=2, return_sequences=True),
            3,
            (3, 5, 8, 7),
        ),
        ((11, 8, 3), layer("RandomCrop", "it", height=5, width=6), 2, (3, 5, 6)),
        ((11, 8, 3), layer("AugMix", "it"), 2, (3, 11, 8)),
        (
            (64,),
            layer(
                "MelSpectrogram", "it", **{"num_mel_bins": 6, "sequence_stride": 4, "fft_length": 8}
            ),
            1,
            (17, 6),
        ),
        (
            (7, 6),
            layer(
                "RNN",
                "it",
                return_sequences=True,
                cell={
                    "class_name": "StackedRNNCells",
                    "config": {
                        "cells": [
                            {"class_name": "LSTMCell", "config": {"units": 6}},
                            {"class_name": "GRUCell", "config": {"units": 4}},
                        ]
                    },
                },
            ),
            1,
            (4, 7),
        ),
        (
            (5, 6),
            layer("EinsumDense", "it", equation="abc,cd->abd", output_shape=[None, 7]),
            1,
            (7, 5),
        ),
    ],
)
@pytest.mark.parametrize("form", ["sequential", "functional"])
def test_a_convolution_behind_a_layer_of_keras_3_is_ready(
    first: Any, item: Config, rank: int, expected: Any, form: str, tmp_path: Path
) -> None:
    last = layer(f"Conv{rank}D", "last", "it", filters=1, kernel_size=1, use_bias=False)
    items = [given_input("x", *first), item, last]
    item["inbound_nodes"] = [[["x", 0, 0, {}]]]
    model = sequential(*items) if form == "sequential" else functional(items, ["last"])
    kernel = ramp(*(1,) * rank, expected[0], 1)
    held = {"it": [], **weights("last", kernel=kernel)}
    found = {entry.name: entry for entry in entries(tmp_path, model, held)}["last"]
    assert found.status == "ready", found.error
    assert found.load().input_shape == expected


def test_a_state_is_an_output_of_its_own(tmp_path: Path) -> None:
    """(h, c) of a ConvLSTM2D are single images, whatever it returns besides."""
    it = layer("ConvLSTM2D", "it", "x", filters=2, kernel_size=2, return_sequences=True)
    it["config"]["return_state"] = True
    model = functional([given_input("x", 5, 9, 8, 2), it, conv("a", ["it", 1, 0])], ["a"])
    model["config"]["layers"][2] = conv("a", ["it", 0, 2])
    found = {e.name: e for e in entries(tmp_path, model, {"it": [], **weights("a")})}
    assert found["a"].require().input_shape == (2, 8, 7)


def test_a_cell_of_its_author_says_nothing(tmp_path: Path) -> None:
    cell = {"class_name": "Mine>LSTMCell", "config": {"units": 4}}
    assert made("RNN", {"cell": cell}, [(None, 7, 6)]) == [None]
    assert made("RNN", {"cell": {**cell, "class_name": "LSTMCell"}}, [(None, 7, 6)]) == [(None, 4)]


@pytest.mark.parametrize(("depth", "expected"), [(5, [(None, 4)]), (1100, [None])])
def test_cells_within_cells(depth: int, expected: Any) -> None:
    """Python 3.13 parses JSON that is nested deeper than functions may call each other."""
    cell: Config = {"class_name": "SimpleRNNCell", "config": {"units": 4}}
    for _ in range(depth):
        cell = {"class_name": "StackedRNNCells", "config": {"cells": [cell]}}
    assert output_shapes(Layer("RNN", "it", {"cell": cell}), [(None, 7, 6)]) == expected


def after(record: list[Any], folder: Path) -> Any:
    """The shape of a convolution's output, as the layer after it is told to have it."""
    _, kind, config, (shape,), expected = record
    rank = len(shape) - 2
    model = sequential(
        given_input("x", *shape[1:]),
        layer(kind, "it", **config),
        layer(f"Conv{rank}D", "after", filters=1, kernel_size=1, use_bias=False),
    )
    held = {"after": [("after/kernel:0", ramp(*(1,) * rank, expected[-1], 1))]}
    entry = entries(folder, model, held)[-1]
    if isinstance(entry.error, SizeMissing):
        told = str(entry.error).partition("channels first: ")[2].rstrip(")").split(", ")
        channels, *sizes = (None if size == "?" else int(size) for size in told)
    else:
        assert entry.outline is not None, entry.error
        channels, *sizes = entry.outline.input_shape
    return [None, *sizes, channels]


def test_every_rule_has_a_record_or_a_test() -> None:
    """What has no record is Keras 1's or TensorFlow's, or another name of what has one."""
    recorded = {record[1] for record in RECORDS} | {record[0] for record in RECORDS_OF_3}
    others = {"TFOpLambda", "Lambda", "Merge", "Highway", "SyncBatchNormalization"}
    others |= {"Hashing", "IntegerLookup", "StringLookup", "GroupQueryAttention"}
    synonyms = {"MaxPool", "AvgPool", "CuDNN"}
    for kind in SHAPES:
        assert (
            kind in recorded or kind in others or any(kind.startswith(start) for start in synonyms)
        ), kind


@pytest.mark.parametrize("kind", sorted(OPERATIONS))
def test_operations_keep_the_shape(kind: str, tmp_path: Path) -> None:
    last, kernel = point("last", 2, "it")
    items = [given_input("x", 5, 6, 2), operation(kind, "it", "x"), last]
    found = entries(tmp_path, functional(items, ["last"]), weights("last", kernel=kernel))
    assert inputs(found) == {"last": (2, 5, 6)}


def args_of(shape: Any, layer_name: str = "x") -> Any:
    config = {"shape": shape, "dtype": "float32", "keras_history": [layer_name, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


@pytest.mark.parametrize("told", ["by the module", "by what it lacks"])
def test_an_operation_is_no_layer_of_its_name(told: str, tmp_path: Path) -> None:
    """`ops.average(x, axis=2)` is of class Average, and drops an axis; the file says so."""
    last, kernel = point("last", 2)
    last["inbound_nodes"] = [{"args": [args_of([None, 5, 6, 2], "it")], "kwargs": {}}]
    last["config"]["trainable"] = True
    it = {"class_name": "Average", "name": "it", "config": {"name": "it", "axis": 2}}
    it["inbound_nodes"] = [{"args": [args_of([None, 5, 7, 6, 2])], "kwargs": {"weights": None}}]
    if told == "by the module":
        it["module"] = "keras.src.ops.numpy"
    model = functional([given_input("x", 5, 7, 6, 2), it, last], ["last"])
    found = entries(tmp_path, model, weights("last", kernel=kernel))
    assert inputs(found) == {"last": (2, 5, 6)}


def test_accounts_that_contradict_each_other_are_a_damaged_file(tmp_path: Path) -> None:
    last, kernel = point("last", 2)
    last["inbound_nodes"] = [{"args": [args_of([None, 5, 9, 2], "it")], "kwargs": {}}]
    last["config"]["trainable"] = True
    model = functional([given_input("x", 5, 6, 2), layer("ReLU", "it", "x"), last], ["last"])
    told = r"'it' is \?,5,6,2 by ReLU 'it', \?,5,9,2 by what 'last' is called on"
    with pytest.raises(MalformedInput, match=told):
        entries(tmp_path, model, weights("last", kernel=kernel))


def test_a_mapping_of_inputs_goes_by_its_keys(tmp_path: Path) -> None:
    """Keras flattens mappings in the order of their keys, whatever order the file has."""
    inner = functional(
        [given_input("u", 9, 9, 2), given_input("v", 20, 20, 2), conv("a", "u"), conv("b", "v")],
        [["a", 0, 0], ["b", 0, 0]],
        name="sub",
    )
    inner["config"]["input_layers"] = {"y": ["u", 0, 0], "x": ["v", 0, 0]}
    inner["inbound_nodes"] = [{"y": ["small", 0, 0, {}], "x": ["large", 0, 0, {}]}]
    items = [
        given_input("large", 20, 20, 2),
        given_input("small", 9, 9, 2),
        {**inner, "name": "sub"},
    ]
    held = {"sub": [("a/kernel:0", KERNEL), ("b/kernel:0", KERNEL)]}
    for turned in (False, True):
        if turned:
            inner["inbound_nodes"] = [{"x": ["large", 0, 0, {}], "y": ["small", 0, 0, {}]}]
        found = entries(tmp_path, functional(items, [["sub", 0, 0]]), held)
        assert inputs(found) == {"sub/a": (2, 9, 9), "sub/b": (2, 20, 20)}


@pytest.mark.parametrize(
    "value", [[1.0, args_of([None, 5, 6, 2])], [args_of([None, 5, 6, 2]), 1.0]]
)
def test_a_number_beside_a_tensor_is_no_array(value: Any, tmp_path: Path) -> None:
    last, kernel = point("last", 2, "it")
    it = operation("Subtract", "it")
    it["inbound_nodes"] = [{"args": value, "kwargs": {}}]
    model = functional([given_input("x", 5, 6, 2), it, last], ["last"])
    assert inputs(entries(tmp_path, model, weights("last", kernel=kernel))) == {"last": (2, 5, 6)}


def test_layers_in_a_class_of_the_authors_are_not_chained(tmp_path: Path) -> None:
    own = layer("Pyramid", "p", "x", layers=[conv("c"), conv("d")])
    model = functional([given_input("x", 5, 6, 2), own, conv("b", "x")], ["b"])
    found = entries(tmp_path, model, weights("b"))
    assert inputs(found) == {"p/c": None, "p/d": None, "b": (2, 5, 6)}
    assert {e.name: e.status for e in found}["p/c"] == "unsupported"
    plain = layer("Dense3", "p", "x", layers=[64, 32])
    model = functional([given_input("x", 5, 6, 2), plain, conv("b", "x")], ["b"])
    assert inputs(entries(tmp_path, model, weights("b"))) == {"b": (2, 5, 6)}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("nn.relu", (2, 5, 6)),
        ("math.multiply", (2, 5, 6)),
        ("__operators__.add", (2, 5, 6)),
        ("image.resize", None),
        ("concat", None),
        ("__operators__.getitem", None),
    ],
)
def test_functions_of_tensorflow(function: str, expected: Any, tmp_path: Path) -> None:
    last, kernel = point("last", 2, "it")
    it = layer("TFOpLambda", "it", "x", function=function)
    it["inbound_nodes"] = [["x", 0, 0, {"y": 2.0, "name": None}]]
    model = functional([given_input("x", 5, 6, 2), it, last], ["last"])
    (found,) = entries(tmp_path, model, weights("last", kernel=kernel))
    assert (found.outline and found.outline.input_shape) == expected
    assert isinstance(found.error, SizeMissing) is (expected is None)


def constant(form: str, *shape: int) -> list[Any]:
    """The `inbound_nodes` of an operation on x and an array of numbers of this shape."""
    values = np.ones(shape).tolist()
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, 0]}}
    return {
        "argument": [["x", 0, 0, {"y": values, "name": None}]],
        "node": [[["x", 0, 0, {}], ["_CONSTANT_VALUE", -1, values, {}]]],
        "__numpy__": [{"args": [tensor, {"class_name": "__numpy__", "config": {"value": values}}]}],
        "__tensor__": [
            {"args": [{"class_name": "__tensor__", "config": {"value": values}}, tensor]}
        ],
    }[form]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2,), (2, 1, 6)), ((5, 6, 2), (2, 5, 6)), ((1, 5, 1, 1), (2, 5, 6)), ((5, 1, 1), (2, 5, 6))],
)
@pytest.mark.parametrize("form", ["argument", "node", "__numpy__", "__tensor__"])
def test_an_array_of_numbers_may_enlarge_what_it_is_added_to(
    form: str, shape: tuple[int, ...], expected: Any, tmp_path: Path
) -> None:
    last, kernel = point("last", 2, "it")
    kind = "TFOpLambda" if form in ("argument", "node") else "Add"
    it = layer(kind, "it", function="math.add")
    it["inbound_nodes"] = constant(form, *shape)
    model = functional([given_input("x", 1, 6, 2), it, last], ["last"])
    found = entries(tmp_path, model, weights("last", kernel=kernel))
    assert inputs(found) == {"last": expected}


def test_keras_1_has_one_layer_for_many_merges(tmp_path: Path) -> None:
    last, kernel = point("last", 4, "it")
    for mode, channels in (("concat", 4), ("sum", 2), ("mul", 2), ("dot", None)):
        it = layer("Merge", "it", "x", "y", mode=mode, concat_axis=-1)
        items = [given_input("x", 5, 6, 2), given_input("y", 5, 6, 2), it, last]
        kernel = ramp(1, 1, channels or 4, 1)
        found = entries(tmp_path, functional(items, ["last"]), weights("last", kernel=kernel))
        assert inputs(found) == {"last": channels and (channels, 5, 6)}


def test_what_lies_between(tmp_path: Path) -> None:
    """(8, 6, 2) and (8, 6, 1): joined (8, 6, 3), turned (3, 8, 6), reshaped (4, 12, 3)."""
    last, kernel = point("last", 3, "r")
    items = [
        given_input("a", 8, 6, 2),
        given_input("b", 8, 6, 1),
        layer("Concatenate", "c", "a", "b", axis=-1),
        layer("Add", "s", "c", "b"),
        layer("Permute", "p", "s", dims=[3, 1, 2]),
        layer("Reshape", "r", "p", target_shape=[4, -1, 3]),
        last,
    ]
    found = entries(tmp_path, functional(items, ["last"]), weights("last", kernel=kernel))
    assert inputs(found) == {"last": (3, 4, 12)}
