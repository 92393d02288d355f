"""Which layers of a Keras model are listed, with which reason, and sizes that are left open."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import SizeMissing, Unsupported, UsageError
from tests.support.cli_models import run
from tests.support.keras_files import (
    Config,
    functional,
    given_input,
    layer,
    legacy,
    ramp,
    sequential,
    zipped,
)
from tests.support.keras_models import KERNEL, conv, entries, inputs, weights

pytestmark = pytest.mark.usefixtures("in_place")


# Models.


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


# Kernels without a layer, no convolutions, and the command.


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
