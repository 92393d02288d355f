"""The weights in the store of `.keras`: its groups, their order, and models within models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput, Unsupported
from tests.support.cli_models import run
from tests.support.keras_files import given_input, layer, only, ramp, sequential, store, zipped
from tests.support.keras_weights import (
    check,
    inner,
    kernel_of,
    model_of,
    names_and_kernels,
    nested,
    plain,
)

pytestmark = pytest.mark.usefixtures("in_place")


def test_groups_are_counted_by_class_in_the_order_of_the_configuration(tmp_path: Path) -> None:
    """The names would say another order: `conv2d_1` stands before `conv2d`."""
    names = ["conv2d_1", "conv2d_2", "conv2d"]
    model = model_of(*(plain(name) for name in names))
    weights = {
        f"layers/{group}": [kernel_of(number)]
        for number, group in enumerate(["conv2d", "conv2d_1", "conv2d_2"])
    }
    path = zipped(tmp_path / "m.keras", model, weights)
    assert names_and_kernels(path) == [("conv2d_1", 0), ("conv2d_2", 1), ("conv2d", 2)]


def test_more_than_ten_groups_are_counted_as_numbers(tmp_path: Path) -> None:
    model = model_of(*(plain(f"layer{number}") for number in range(12)))
    groups = ["layers/conv2d", *(f"layers/conv2d_{number}" for number in range(1, 12))]
    weights = {group: [kernel_of(number)] for number, group in enumerate(groups)}
    path = zipped(tmp_path / "m.keras", model, weights)
    assert names_and_kernels(path) == [(f"layer{number}", number) for number in range(12)]


def test_each_class_is_counted_by_itself(tmp_path: Path) -> None:
    model = model_of(
        plain("a"),
        layer("BatchNormalization", "n"),
        layer("Conv2DTranspose", "t", filters=2, kernel_size=2, padding="same", use_bias=False),
        layer("Activation", "r", activation="relu"),
        layer("DepthwiseConv2D", "d", kernel_size=2, padding="same", use_bias=False),
        plain("b"),
        layer("BatchNormalization", "m"),
    )
    depthwise = ramp(2, 2, 2, 1, start=401)
    weights = {
        "layers/conv2d": [kernel_of(0)],
        "layers/conv2d_1": [kernel_of(1)],
        "layers/conv2d_transpose": [kernel_of(2)],
        "layers/depthwise_conv2d": [depthwise],
        "layers/batch_normalization": [ramp(2)] * 4,
        "layers/batch_normalization_1": [ramp(2)] * 4,
    }
    a, t, d, b = convfc.read(zipped(tmp_path / "m.keras", model, weights)).entries
    check(a, kernel_of(0))
    check(b, kernel_of(1))
    assert np.array_equal(t.load().kernel, kernel_of(2).transpose(3, 2, 0, 1))
    assert np.array_equal(d.load().kernel[:, 0], depthwise[..., 0].transpose(2, 0, 1))


def test_numbers_of_groups_with_gaps(tmp_path: Path) -> None:
    model = model_of(plain("a"), plain("b"), plain("c"))
    weights = {
        "layers/conv2d": [kernel_of(0)],
        "layers/conv2d_2": [kernel_of(1)],
        "layers/conv2d_10": [kernel_of(2)],
    }
    path = zipped(tmp_path / "m.keras", model, weights)
    assert names_and_kernels(path) == [("a", 0), ("b", 1), ("c", 2)]


def test_a_group_too_few_is_not_guessed_at(tmp_path: Path) -> None:
    model = model_of(plain("a"), plain("b"), plain("c"))
    weights = {"layers/conv2d": [kernel_of(0)], "layers/conv2d_5": [kernel_of(1)]}
    for entry in convfc.read(zipped(tmp_path / "m.keras", model, weights)).entries:
        with pytest.raises(MalformedInput, match="weights are not found"):
            entry.load()


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_names_of_groups_in_older_versions(container: str, slash: str, tmp_path: Path) -> None:
    model = model_of(plain("b"), plain("a"))
    weights = {
        f"{container}{slash}conv2d": [kernel_of(0)],
        f"{container}{slash}conv2d_1": [kernel_of(1)],
    }
    path = zipped(tmp_path / "m.keras", model, weights, metadata={"keras_version": "2.12.0"})
    assert names_and_kernels(path) == [("b", 0), ("a", 1)]


def test_the_optimizer_of_a_store_is_not_looked_at(tmp_path: Path) -> None:
    weights = {"layers/conv2d": [kernel_of(0)], "optimizer": [kernel_of(1), kernel_of(2)]}
    path = zipped(tmp_path / "m.keras", model_of(plain("a")), weights)
    assert names_and_kernels(path) == [("a", 0)]


def test_a_group_that_names_its_layer(tmp_path: Path) -> None:
    model = model_of(plain("b"), plain("a"))
    weights = {"layers/conv2d": [kernel_of(0)], "layers/conv2d_1": [kernel_of(1)]}
    path = zipped(
        tmp_path / "m.keras", model, weights, names={"layers/conv2d": "b", "layers/conv2d_1": "a"}
    )
    assert names_and_kernels(path) == [("b", 0), ("a", 1)]


def test_a_group_that_names_another_layer_is_an_error(tmp_path: Path) -> None:
    model = model_of(plain("b"), plain("a"))
    weights = {"layers/conv2d": [kernel_of(0)], "layers/conv2d_1": [kernel_of(1)]}
    path = zipped(
        tmp_path / "m.keras", model, weights, names={"layers/conv2d": "a", "layers/conv2d_1": "b"}
    )
    for entry in convfc.read(path).entries:
        with pytest.raises(MalformedInput, match=r"holds the weights of '[ab]'"):
            entry.load()
    told = run("convert", path, "-l", "a", "-o", tmp_path / "o.npz").failed(3)
    assert "the order of the configuration" in told


def test_models_within_models_of_a_store(tmp_path: Path) -> None:
    weights = {
        "layers/functional/layers/functional/layers/conv2d": [kernel_of(0)],
        "layers/functional/layers/functional_1/layers/conv2d": [kernel_of(1)],
    }
    path = zipped(tmp_path / "m.keras", nested(inner("b"), inner("a")), weights)
    assert names_and_kernels(path) == [("top/b/conv", 0), ("top/a/conv", 1)]


def test_a_sequential_within_a_model_of_a_store(tmp_path: Path) -> None:
    model = model_of(
        {**sequential(plain("one"), plain("two"), name="s"), "name": "s"},
        plain("three"),
    )
    weights = {
        "layers/sequential/layers/conv2d": [kernel_of(0)],
        "layers/sequential/layers/conv2d_1": [kernel_of(1)],
        "layers/conv2d": [kernel_of(2)],
    }
    path = zipped(tmp_path / "m.keras", model, weights)
    assert names_and_kernels(path) == [("s/one", 0), ("s/two", 1), ("three", 2)]


def test_a_wrapped_layer_of_a_store(tmp_path: Path) -> None:
    wrapped = layer("TimeDistributed", "td", layer=plain("conv"))
    model = sequential(given_input("x", 3, 5, 6, 2), wrapped)
    weights = {"layers/time_distributed/layer": [kernel_of(0)]}
    path = zipped(tmp_path / "m.keras", model, weights)
    assert names_and_kernels(path) == [("td/conv", 0)]


def test_a_wrapped_layer_under_another_name(tmp_path: Path) -> None:
    """The only weights under a wrapper are its layer's; of two nobody can tell."""
    wrapped = layer("TimeDistributed", "td", layer=plain("conv"))
    model = sequential(given_input("x", 3, 5, 6, 2), wrapped)
    weights = {"layers/time_distributed/cell": [kernel_of(0)]}
    assert names_and_kernels(zipped(tmp_path / "m.keras", model, weights)) == [("td/conv", 0)]
    weights["layers/time_distributed/other"] = [kernel_of(1)]
    with pytest.raises(MalformedInput, match="no weights in the file"):
        only(zipped(tmp_path / "m.keras", model, weights)).load()


def test_a_variable_0_that_is_missing(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.keras", model_of(plain("a")), {"layers/conv2d": []})
    with pytest.raises(MalformedInput, match="weights"):
        only(path).load()


@pytest.mark.parametrize("version", ["1.2.2", "4.0", "", None])
def test_a_store_of_another_version_of_keras(version: Any, tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "m.keras",
        model_of(plain("a")),
        {"layers/conv2d": [kernel_of(0)]},
        metadata={"keras_version": version},
    )
    with pytest.raises(Unsupported, match="not 2 or 3"):
        only(path)


def test_a_zip_without_metadata_is_read(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "m.keras",
        model_of(plain("a")),
        {"layers/conv2d": [kernel_of(0)]},
        metadata=None,
    )
    assert names_and_kernels(path) == [("a", 0)]


def test_a_zip_is_no_hdf5_wherever_its_weights_begin(tmp_path: Path) -> None:
    """HDF5 may begin at byte 512, 1024, ... of a file; so may the weights in a zip of Keras."""
    text, content = json.dumps(model_of(plain("a"))), store({"layers/conv2d": [kernel_of(0)]})
    signature = b"\x89HDF\r\n\x1a\n"
    begins = zipped(tmp_path / "m.keras", text, content).read_bytes().index(signature)
    target = next(size for size in (512, 1024, 2048, 4096) if size >= begins)
    path = zipped(tmp_path / "m.keras", text + " " * (target - begins), content)
    assert path.read_bytes().index(signature) == target
    assert names_and_kernels(path) == [("a", 0)]
