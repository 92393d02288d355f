"""Models in models, layers called several times, wrappers: each call once, each with its size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import Refused, SizeMissing
from tests.support.cli_models import run
from tests.support.keras_files import (
    Config,
    called,
    functional,
    given_input,
    layer,
    legacy,
    ramp,
    sequential,
)
from tests.support.keras_models import KERNEL, conv, entries, held_by, inputs, point, weights

pytestmark = pytest.mark.usefixtures("in_place")


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
