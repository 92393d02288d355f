"""The layers of a Keras model, their names, and the sizes that reach them.

What shapes Keras's own layers make of others is recorded from Keras 2 and 3 themselves
(`data/make_keras_shapes.py`); all else is worked out by hand, beside each model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput, Refused, SizeMissing, Unsupported, UsageError
from convfc_cli.models.entry import Entry
from convfc_cli.models.keras.config import Layer, parse
from convfc_cli.models.keras.shapes import OPERATIONS, SHAPES, output_shape, output_shapes
from tests.support.cli_models import run
from tests.support.keras_files import (
    Config,
    called,
    functional,
    given_input,
    layer,
    legacy,
    modern,
    ramp,
    sequential,
    zipped,
)
from tests.support.paths import DATA

pytestmark = pytest.mark.usefixtures("in_place")

RECORDED = DATA / "recorded" / "keras"

KERNEL = ramp(2, 2, 2, 2)


def conv(name: str, *sources: Any, **config: Any) -> Config:
    """A Conv2D of 2 x 2, 2 to 2 channels, that makes an image smaller by 1."""
    config = {"filters": 2, "kernel_size": 2, "use_bias": False, **config}
    return layer("Conv2D", name, *sources, **config)


def point(name: str, channels: int, *sources: Any) -> tuple[Config, Any]:
    """(a convolution of 1 x 1 to one channel, its kernel): it shows what it is given."""
    item = layer("Conv2D", name, *sources, filters=1, kernel_size=1, use_bias=False)
    return item, ramp(1, 1, channels, 1)


def weights(*names: str, kernel: Any = KERNEL) -> dict[str, Any]:
    """The kernel for each of these top-level layers."""
    return {name: [(f"{name}/kernel:0", kernel)] for name in names}


def entries(folder: Path, model: Any, held: Any, shapes: Any = None) -> tuple[Entry, ...]:
    return convfc.read(legacy(folder / "m.h5", model, held), shapes).entries


def inputs(found: tuple[Entry, ...]) -> dict[str, Any]:
    """By output name, the (channels, *spatial) that each layer takes; None where it has none."""
    return {e.output: e.outline and e.outline.input_shape for e in found}


# Shapes.

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


def operation(kind: str, name: str, *before: str, **config: Any) -> Any:
    return {**layer(kind, name, *before, **config), "module": "keras.src.ops.numpy"}


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


# Models.


def test_a_sequential_with_its_input(tmp_path: Path) -> None:
    model = sequential(given_input("x", 5, 6, 2), conv("a"), conv("b"))
    found = entries(tmp_path, model, weights("a", "b"))
    assert inputs(found) == {"a": (2, 5, 6), "b": (2, 4, 5)}
    assert [(e.position, e.name, e.op, e.status) for e in found] == [
        (0, "a", "Conv2D", "ready"),
        (1, "b", "Conv2D", "ready"),
    ]


@pytest.mark.parametrize(
    "first", [{"batch_input_shape": [None, 5, 6, 2]}, {"input_shape": [5, 6, 2]}]
)
def test_a_sequential_whose_first_layer_states_the_input(first: Config, tmp_path: Path) -> None:
    model = sequential(conv("a", **first), conv("b"))
    assert inputs(entries(tmp_path, model, weights("a", "b"))) == {"a": (2, 5, 6), "b": (2, 4, 5)}


def test_a_sequential_that_was_built(tmp_path: Path) -> None:
    model = sequential(conv("a"), conv("b"), build_input_shape=[None, 5, 6, 2])
    assert inputs(entries(tmp_path, model, weights("a", "b"))) == {"a": (2, 5, 6), "b": (2, 4, 5)}


def test_a_layer_that_was_built(tmp_path: Path) -> None:
    item = {**conv("a"), "build_config": {"input_shape": [None, 5, 6, 2]}}
    model = sequential(layer("Lambda", "l"), item)
    (found,) = entries(tmp_path, model, weights("a"))  # built there, but perhaps in another model
    assert isinstance(found.error, SizeMissing)


def test_a_sequential_that_says_nothing_needs_a_size(tmp_path: Path) -> None:
    model = sequential(conv("a"), conv("b"))
    for entry in entries(tmp_path, model, weights("a", "b")):
        assert isinstance(entry.error, SizeMissing)
        tensor, _, shape = entry.error.hint.partition("=")
        hinted = {tensor: tuple(map(int, shape.split(",")))}
        (settled,) = (
            e for e in entries(tmp_path, model, weights("a", "b"), hinted) if e.name == entry.name
        )
        assert settled.status == "ready"
    for shapes in ((1, 5, 6, 2), {"a_input": (1, 5, 6, 2)}):
        found = entries(tmp_path, model, weights("a", "b"), shapes)
        assert inputs(found) == {"a": (2, 5, 6), "b": (2, 4, 5)}


def test_a_sequential_of_keras_1_is_a_list(tmp_path: Path) -> None:
    items = [
        {"class_name": "Convolution2D", "config": config}
        for config in (
            {
                "name": "a",
                "nb_filter": 2,
                "nb_row": 2,
                "nb_col": 2,
                "batch_input_shape": [None, 2, 5, 6],
                "dim_ordering": "th",
                "bias": False,
            },
            {
                "name": "b",
                "nb_filter": 2,
                "nb_row": 2,
                "nb_col": 2,
                "subsample": [1, 2],
                "dim_ordering": "th",
                "bias": False,
            },
        )
    ]
    pool = {"class_name": "MaxPooling2D", "config": {"name": "p", "pool_size": [2, 1]}}
    pool["config"].update(strides=[2, 1], border_mode="valid", dim_ordering="th")
    model = {"class_name": "Sequential", "config": [items[0], pool, items[1]]}
    path = legacy(tmp_path / "m.h5", model, weights("a", "b"), version="1.2.2")
    found = convfc.read(path).entries
    assert inputs(found) == {"a": (2, 5, 6), "b": (2, 2, 5)}
    assert found[1].require().output_shape == (2, 1, 2)


def submodel(name: str, *calls: Any, channels: int = 2) -> Config:
    """A model of two convolutions, called on these tensors one after the other."""
    items = [given_input(f"{name}_in", 5, 6, channels), conv("a", f"{name}_in"), conv("b", "a")]
    return called(functional(items, ["b"], name=name), *([ref] for ref in calls))


def held_by(name: str, *layers: str) -> dict[str, Any]:
    return {name: [(f"{layer}/kernel:0", KERNEL) for layer in layers]}


@pytest.mark.parametrize("made", [0, 1])
def test_a_model_in_the_model(made: int, tmp_path: Path) -> None:
    """Some versions count the making of a model as a call of its own."""
    last, kernel = point("last", 2, ["sub", made, 0])
    items = [given_input("x", 5, 6, 2), submodel("sub", ["x", 0, 0]), last]
    model = functional(items, ["last"])
    held = {**held_by("sub", "a", "b"), **weights("last", kernel=kernel)}
    found = entries(tmp_path, model, held)
    assert inputs(found) == {"sub/a": (2, 5, 6), "sub/b": (2, 4, 5), "last": (2, 3, 4)}
    assert [entry.load().kernel.shape for entry in found] == [(2, 2, 2, 2)] * 2 + [(1, 2, 1, 1)]


@pytest.mark.parametrize("made", [0, 1])
def test_a_model_that_is_called_twice(made: int, tmp_path: Path) -> None:
    """On (5, 6) and, after itself, on (3, 4)."""
    sub = submodel("sub", ["x", 0, 0], ["sub", made, 0])
    sub["config"]["layers"][0] = given_input("sub_in", None, None, 2)
    model = functional([given_input("x", 5, 6, 2), sub], [["sub", made + 1, 0]])
    found = entries(tmp_path, model, held_by("sub", "a", "b"))
    assert [(e.name, e.output, e.require().input_shape) for e in found] == [
        ("sub/a:0", "sub/a:0", (2, 5, 6)),
        ("sub/b:0", "sub/b:0", (2, 4, 5)),
        ("sub/a:1", "sub/a:1", (2, 3, 4)),
        ("sub/b:1", "sub/b:1", (2, 2, 3)),
    ]


def test_a_layer_that_is_called_twice(tmp_path: Path) -> None:
    shared = called(conv("conv"), [["x", 0, 0]], [["y", 0, 0]])
    model = functional(
        [given_input("x", 5, 6, 2), given_input("y", 9, 3, 2), shared],
        [["conv", 0, 0], ["conv", 1, 0]],
    )
    found = entries(tmp_path, model, weights("conv"))
    assert inputs(found) == {"conv:0": (2, 5, 6), "conv:1": (2, 9, 3)}
    first, second = (entry.load() for entry in found)
    assert np.array_equal(first.kernel, second.kernel)
    path = tmp_path / "m.h5"
    assert convfc.matrix(path, "conv:1").shape == (8 * 2 * 2, 9 * 3 * 2)
    told = run("convert", path, "-l", "conv", "-o", tmp_path / "o.npz").failed(2)
    assert "fits several layers" in told
    assert told.endswith("say @0 (conv:0), @1 (conv:1)")


def test_models_deeper_in_models(tmp_path: Path) -> None:
    """Each of a depth has its name before that of what is in it; one of 40 is refused."""
    for depth in (3, 40):
        model = functional([given_input("x", 5, 6, 2), conv("c", "x")], ["c"], name="m0")
        for number in range(1, depth):
            inner = {**model, "inbound_nodes": [[["x", 0, 0, {}]]]}
            name = f"m{number}"
            model = functional(
                [given_input("x", 5, 6, 2), inner], [[f"m{number - 1}", 1, 0]], name=name
            )
        held = {f"m{depth - 2}": [("c/kernel:0", KERNEL)]}
        if depth == 3:
            assert inputs(entries(tmp_path, model, held)) == {"m1/m0/c": (2, 5, 6)}
        else:
            with pytest.raises(Refused, match="nested more than"):
                entries(tmp_path, model, held)


def test_time_distributed(tmp_path: Path) -> None:
    """(7, 5, 6, 2) is 7 images; the layer is given one."""
    wrapped = layer("TimeDistributed", "td", "x", layer=conv("conv"))
    after = layer("Conv3D", "after", "td", filters=1, kernel_size=1, use_bias=False)
    model = functional([given_input("x", 7, 5, 6, 2), wrapped, after], ["after"])
    held = {"td": [("td/kernel:0", KERNEL)]}
    held.update(weights("after", kernel=ramp(1, 1, 1, 2, 1)))
    found = entries(tmp_path, model, held)
    assert inputs(found) == {"td/conv": (2, 5, 6), "after": (2, 7, 4, 5)}
    assert found[0].load().kernel.shape == (2, 2, 2, 2)


def test_a_model_that_is_time_distributed(tmp_path: Path) -> None:
    """(7, 5, 6, 2) is 7 images; each is turned (6, 5, 2) before the convolutions."""
    inner = functional(
        [
            given_input("i", 5, 6, 2),
            layer("Permute", "p", "i", dims=[2, 1, 3]),
            conv("c", "p"),
            conv("d", "c"),
        ],
        ["d"],
        name="inner",
    )
    wrapped = layer("TimeDistributed", "td", "x", layer=inner)
    after = layer("Conv3D", "after", "td", filters=1, kernel_size=1, use_bias=False)
    model = functional([given_input("x", 7, 5, 6, 2), wrapped, after], ["after"])
    held = {"td": [("c/kernel:0", KERNEL), ("d/kernel:0", -KERNEL)]}
    held.update(weights("after", kernel=ramp(1, 1, 1, 2, 1)))
    found = entries(tmp_path, model, held)
    assert inputs(found) == {
        "td/inner/c": (2, 6, 5),
        "td/inner/d": (2, 5, 4),
        "after": (2, 7, 4, 3),
    }
    assert np.array_equal(found[0].load().kernel, KERNEL.transpose(3, 2, 0, 1))
    assert np.array_equal(found[1].load().kernel, -KERNEL.transpose(3, 2, 0, 1))


@pytest.mark.parametrize("state", ["sn/sn_u:0", "sn/vector_u"])
def test_spectral_normalization(state: str, tmp_path: Path) -> None:
    inner = conv("conv", use_bias=True)
    wrapped = layer("SpectralNormalization", "sn", "x", layer=inner, power_iterations=1)
    model = functional([given_input("x", 5, 6, 2), wrapped, conv("b", "sn")], ["b"])
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", ramp(2)), (state, ramp(1, 2))]
    found = entries(tmp_path, model, {"sn": named, **weights("b")})
    assert inputs(found) == {"sn/conv": (2, 5, 6), "b": (2, 4, 5)}
    convolution = found[0].load()
    assert np.array_equal(convolution.kernel, KERNEL.transpose(3, 2, 0, 1))
    assert convolution.bias is not None
    assert np.array_equal(convolution.bias, ramp(2))


@pytest.mark.parametrize("module", ["my.layers", None])
def test_a_wrapper_of_its_author(module: str | None, tmp_path: Path) -> None:
    kind = "MyWrapper" if module else "Mine>Wrapper"
    wrapped = layer(kind, "w", "x", layer=conv("conv"))
    if module:
        wrapped["module"] = module
    model = functional([given_input("x", 5, 6, 2), wrapped], ["w"])
    (found,) = entries(tmp_path, model, {"w": [("w/conv/kernel:0", KERNEL)]})
    assert found.name == "w/conv"
    assert found.status == "unsupported"
    with pytest.raises(Unsupported, match=r"it is in a (My)?Wrapper, which may change"):
        found.load()


@pytest.mark.parametrize("kind", ["MyConv2D", "Mine>Conv2D", "Something", "PartialConvolution2D"])
def test_a_class_of_its_author(kind: str, tmp_path: Path) -> None:
    item = layer(kind, "it", "x", filters=2, kernel_size=2, use_bias=False)
    if kind == "Something":
        item["module"] = "my.layers"
    model = functional([given_input("x", 5, 6, 2), item, conv("b", "it")], ["b"])
    found = entries(tmp_path, model, weights("it", "b"))
    assert [(e.name, e.status) for e in found] == [("it", "unsupported"), ("b", "needs a size")]
    with pytest.raises(Unsupported, match="what it computes is in no file"):
        found[0].load()


@pytest.mark.parametrize(
    "whose",
    [
        {"module": "my.layers"},
        {"module": "kerasnlp"},
        {"registered_name": "Mine>Conv2D"},
        {"class_name": "Mine>Conv2D"},
    ],
)
def test_a_class_of_its_author_with_a_name_that_keras_has_too(
    whose: Config, tmp_path: Path
) -> None:
    """Neither its kernel nor its shape is taken for what Keras's own would have."""
    model = functional(
        [given_input("x", 5, 6, 2), {**conv("a", "x"), **whose}, conv("b", "a")], ["b"]
    )
    a, b = entries(tmp_path, model, weights("a", "b"))
    assert (a.status, b.status) == ("unsupported", "needs a size")
    with pytest.raises(Unsupported, match="a class of its author"):
        a.load()


@pytest.mark.parametrize("whose", [{"module": "keras.layers"}, {"module": "tf_keras.src.layers"}])
@pytest.mark.parametrize("name", [None, "Conv2D"])
def test_classes_of_keras(whose: Config, name: str | None, tmp_path: Path) -> None:
    item = {**conv("a", "x"), **whose, "registered_name": name}
    model = functional([given_input("x", 5, 6, 2), item], ["a"])
    assert inputs(entries(tmp_path, model, weights("a"))) == {"a": (2, 5, 6)}


def test_a_class_of_its_author_without_kernels_is_not_listed(tmp_path: Path) -> None:
    item = {**layer("Scale", "it", "x"), "module": "my.layers"}
    model = functional([given_input("x", 5, 6, 2), item, conv("b", "x")], ["b"])
    held = {"it": [("it/gamma:0", ramp(2))], **weights("b")}
    assert inputs(entries(tmp_path, model, held)) == {"b": (2, 5, 6)}


@pytest.mark.parametrize("kind", ["ConvLSTM2D", "Deconvolution2D"])
def test_a_convolution_that_is_not_read_is_listed_with_the_reason(
    kind: str, tmp_path: Path
) -> None:
    item = layer(kind, "it", "x", filters=2, kernel_size=[2, 2], use_bias=False)
    model = functional([given_input("x", 5, 6, 2), item], ["it"])
    (found,) = entries(tmp_path, model, weights("it"))
    assert (found.name, found.op, found.status) == ("it", kind, "unsupported")


# Sizes that are open.


def lambda_model() -> Config:
    """A Lambda between the input and two convolutions."""
    return functional(
        [
            given_input("x", 5, 6, 2),
            layer("Lambda", "lambda", "x", function=["...", None, None]),
            conv("a", "lambda"),
            conv("b", "a"),
        ],
        ["b"],
    )


def test_a_lambda_hides_the_size_until_it_is_given(tmp_path: Path) -> None:
    held = weights("a", "b")
    for entry in entries(tmp_path, lambda_model(), held):
        assert entry.status == "needs a size"
        assert "the size of its input is open" in str(entry.error)
    first = entries(tmp_path, lambda_model(), held)[0].error
    assert isinstance(first, SizeMissing)
    assert first.hint.startswith("lambda=1,")
    found = entries(tmp_path, lambda_model(), held, {"lambda": (1, 9, 8, 2)})
    assert inputs(found) == {"a": (2, 9, 8), "b": (2, 8, 7)}
    out = tmp_path / "o"
    run(
        "convert", tmp_path / "m.h5", "--input-shape", "lambda=1,9,8,2", "-o", f"{out}/"
    ).succeeded()
    assert sorted(path.name for path in out.glob("*.npz")) == ["000-a.npz", "001-b.npz"]


def test_a_lambda_may_state_its_shape(tmp_path: Path) -> None:
    model = lambda_model()
    model["config"]["layers"][1]["config"].update(output_shape=[9, 8, 2], output_shape_type="raw")
    assert inputs(entries(tmp_path, model, weights("a", "b"))) == {"a": (2, 9, 8), "b": (2, 8, 7)}


def open_model(*shape: int | None) -> Config:
    return functional(
        [
            given_input("x", *shape),
            conv("a", "x", padding="same"),
            layer("MaxPooling2D", "p", "a", pool_size=[2, 2]),
            conv("b", "p"),
        ],
        ["b"],
    )


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ((1, 8, 6, 2), {"a": (2, 8, 6), "b": (2, 4, 3)}),
        ({"x": (1, 8, 6, 2)}, {"a": (2, 8, 6), "b": (2, 4, 3)}),
        ({"x": (7, 8, 6, 2)}, {"a": (2, 8, 6), "b": (2, 4, 3)}),
        ({"p": (1, 9, 9, 2)}, {"a": None, "b": (2, 9, 9)}),
    ],
)
def test_sizes_are_given(shapes: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    found = entries(tmp_path, open_model(None, None, 2), weights("a", "b"), shapes)
    assert inputs(found) == expected


def test_an_open_size_is_asked_for_with_a_shape_that_would_do(tmp_path: Path) -> None:
    found = entries(tmp_path, open_model(None, 6, 2), weights("a", "b"))
    for entry in found:
        assert isinstance(entry.error, SizeMissing)
        assert entry.error.hint == "x=1,224,6,2"
    path = tmp_path / "m.h5"
    told = run("convert", path, "-q", "-o", tmp_path / "o.npz", "-l", "a").failed(2)
    assert "--input-shape x=1,224,6,2" in told
    run("inspect", path, "--input-shape", "x=1,224,6,2").succeeded()


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"y": (1, 8, 6, 2)}, "no tensor 'y'"),
        ((1, 8, 6), r"'x' is 1,8,6 by the given shape, \?,\?,6,2 by the input 'x'"),
        ((1, 2, 8, 6, 2), r"'x' is 1,2,8,6,2 by the given shape, \?,\?,6,2 by the input"),
        ((1, 8, 6, 3), r"by the input 'x'$"),
        ((1, 8, 7, 2), r"1,8,7,2 by the given shape, \?,\?,6,2 by the input 'x'$"),
        ({"p": (1, 4, 9, 2)}, r"1,4,9,2 by the given shape, \?,\?,3,2 by MaxPooling2D 'p'$"),
        ({"x": (1, 8, 6, 2), "p": (1, 5, 3, 2)}, r"'p' is 1,5,3,2 by the given shape, \?,4,3,2 by"),
        ({"x": (1, 8, 6, 2), "p": (1, 4, 3, 2)}, "p=1,4,3,2 settles no layer's size"),
        ({"b": (1, 4, 2, 2)}, "b=1,4,2,2 settles no layer's size"),
        ({"x": (1, 8, 6, 2), "y": (1, 8, 6, 2)}, "no tensor 'y'"),
    ],
)
def test_shapes_that_do_not_fit(shapes: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        entries(tmp_path, open_model(None, 6, 2), weights("a", "b"), shapes)


def test_a_shape_that_is_too_small_is_the_users(tmp_path: Path) -> None:
    """(2, 2) is (1, 1) where `b` is, whose kernel is 2 x 2; the file itself is sound."""
    with pytest.raises(
        UsageError, match=r"layer b \(Conv2D\): no output.*\(with the given shape\)"
    ):
        entries(tmp_path, open_model(None, None, 2), weights("a", "b"), (1, 2, 2, 2))


def test_a_nameless_shape_needs_an_only_input(tmp_path: Path) -> None:
    items = [
        given_input("x", None, 6, 2),
        given_input("y", None, 6, 2),
        layer("Add", "s", "x", "y"),
    ]
    model = functional([*items, conv("a", "s")], ["a"])
    with pytest.raises(UsageError, match="x, y"):
        entries(tmp_path, model, weights("a"), (1, 8, 6, 2))
    found = entries(tmp_path, model, weights("a"), {"x": (1, 8, 6, 2)})
    assert inputs(found) == {"a": (2, 8, 6)}


def test_a_nameless_shape_with_a_layer_is_that_of_its_own_input(tmp_path: Path) -> None:
    """In the order that the model itself has: y, x, channels."""
    path = legacy(tmp_path / "m.h5", lambda_model(), weights("a", "b"))
    out = tmp_path / "o.npz"
    run("convert", path, "-l", "b", "--input-shape", "1,4,3,2", "-o", out).succeeded()
    with np.load(out) as members:
        meta = json.loads(str(members["convfc"]))
    assert meta["input_shape"] == [2, 4, 3]
    assert "2" in run("convert", path, "-l", "b", "--input-shape", "1,2,4,3", "-o", out).failed(2)


def test_a_nameless_shape_with_a_layer_that_has_its_channels_first(tmp_path: Path) -> None:
    items = [
        given_input("x", 5, 6),
        layer("Lambda", "l", "x"),
        conv("a", "l", data_format="channels_first"),
    ]
    path = legacy(tmp_path / "m.h5", functional(items, ["a"]), weights("a"))
    out = tmp_path / "o.npz"
    run("convert", path, "-l", "a", "--input-shape", "1,2,4,3", "-o", out).succeeded()
    with np.load(out) as members:
        assert json.loads(str(members["convfc"]))["input_shape"] == [2, 4, 3]


@pytest.mark.parametrize(
    ("kind", "config", "shape", "channels"),
    [
        ("Conv2D", {"filters": 2}, (2, 2, 3, 2), 3),
        ("Conv2D", {"filters": 2, "groups": 2}, (2, 2, 3, 2), 6),
        ("Conv2DTranspose", {"filters": 2}, (2, 2, 2, 5), 5),
        ("DepthwiseConv2D", {"depth_multiplier": 2}, (2, 2, 3, 2), 3),
    ],
)
def test_channels_that_are_open_are_those_of_the_kernel(
    kind: str, config: Config, shape: tuple[int, ...], channels: int, tmp_path: Path
) -> None:
    item = layer(kind, "a", "x", kernel_size=2, use_bias=False, **config)
    model = functional([given_input("x", 5, 6, None), item], ["a"])
    (found,) = entries(tmp_path, model, weights("a", kernel=ramp(*shape)))
    assert found.load().input_shape == (channels, 5, 6)


# The forms of `inbound_nodes`.

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


def test_a_class_that_says_nothing_of_its_layers_lists_what_may_be_kernels(
    tmp_path: Path,
) -> None:
    """A model that was written as a class of its author has no graph in its file."""
    model = {"class_name": "MyModel", "config": {"name": "mine"}, "module": "my"}
    path = zipped(tmp_path / "m.keras", model, {"conv": [KERNEL, ramp(2)]})
    assert [entry.name for entry in convfc.read(path).entries] == ["conv/vars/0"]
    given = [
        "--weight",
        "conv/vars/0",
        "--kernel-order",
        "hwio",
        "--input-shape",
        "1,2,4,3",
        "--bias",
        "none",
    ]
    out = tmp_path / "o.npz"
    run("convert", path, *given, "-o", out).succeeded()
    with np.load(out) as members:
        assert np.array_equal(members["kernel"], KERNEL.transpose(3, 2, 0, 1))


def test_a_model_without_convolutions(tmp_path: Path) -> None:
    model = sequential(given_input("x", 4), layer("Dense", "d", units=3))
    assert entries(tmp_path, model, {"d": [("d/kernel:0", ramp(4, 3))]}) == ()


def test_inspect_says_what_is_what(tmp_path: Path) -> None:
    path = legacy(tmp_path / "m.h5", lambda_model(), weights("a", "b"))
    told = run("inspect", path, "--json").succeeded().out
    assert [one["layer"] for one in json.loads(told)["layers"]] == ["a", "b"]
