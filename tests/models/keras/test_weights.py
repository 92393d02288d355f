"""Whose weights are whose: every way in which Keras has named and ordered them in a file.

The files are written by hand, each kernel with numbers of its own, so that none can stand in for
another; the expected kernels are the ones that were put in, transposed here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import load_npz

import convfc_cli as convfc
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported, UsageError
from convfc_cli.models.entry import Entry
from tests.support.cli_models import run
from tests.support.keras_files import (
    Config,
    Named,
    functional,
    given_input,
    layer,
    legacy,
    only,
    ramp,
    sequential,
    store,
    texts,
    zipped,
)

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]

KERNEL, BIAS = ramp(2, 3, 2, 4), ramp(4, start=500)


def kernel_of(number: int) -> Array:
    """A kernel of 2 x 2, 2 to 2 channels, with numbers that only it has."""
    return ramp(2, 2, 2, 2, start=1 + 100 * number)


def conv(name: str, *sources: str, **config: Any) -> Config:
    """A Conv2D that fits KERNEL, and with `filters=2` those of `kernel_of`."""
    size = [2, 2] if config.get("filters") == 2 else [2, 3]
    return layer("Conv2D", name, *sources, **{"filters": 4, "kernel_size": size, **config})


def plain(name: str, *sources: str, **config: Any) -> Config:
    """A Conv2D that fits `kernel_of`, without a bias, its output as large as its input."""
    config = {"padding": "same", "use_bias": False, "kernel_size": 2, "filters": 2, **config}
    return layer("Conv2D", name, *sources, **config)


def model_of(*layers: Config) -> Config:
    return sequential(given_input("x", 5, 6, 2), *layers)


def check(entry: Entry, kernel: Array, bias: Array | None = None) -> None:
    """The layer holds this kernel, in Keras's order (y, x, in, out), and this bias."""
    found = entry.load()
    assert found.kernel.dtype in (np.float32, np.float64)
    assert np.array_equal(found.kernel, np.moveaxis(kernel, (3, 2), (0, 1)))
    if bias is None:
        assert found.bias is None
    else:
        assert found.bias is not None
        assert np.array_equal(found.bias, bias)


def one(folder: Path, *names: str, **rest: Any) -> Entry:
    """The entry of a legacy file whose layer `conv` has a kernel and a bias of these names."""
    named = [*zip(names, (KERNEL, BIAS), strict=True)]
    return only(legacy(folder / "m.h5", model_of(conv("conv")), {"conv": named}, **rest))


NAMES = [
    ("conv/kernel:0", "conv/bias:0"),
    ("conv/conv_9/kernel:0", "conv/conv_9/bias:0"),
    ("conv/kernel", "conv/bias"),
    ("kernel:0", "bias:0"),
    ("kernel", "bias"),
    ("conv/kernel_3:0", "conv/bias_3:0"),
    ("conv_W", "conv_b"),
    ("conv_W:0", "conv_b:0"),
    ("conv_1_W", "conv_1_b"),
    ("param_0", "param_1"),
    ("tower/conv/kernel:0", "tower/conv/bias:0"),
    ("another/kernel:0", "another/bias:0"),
]
"""What versions of Keras call the variables of a layer `conv`."""


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_names_of_variables(names: tuple[str, str], tmp_path: Path) -> None:
    check(one(tmp_path, *names), KERNEL, BIAS)


def test_names_count_before_the_order(tmp_path: Path) -> None:
    named = [("conv/bias:0", BIAS), ("conv/kernel:0", KERNEL)]
    check(only(legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})), KERNEL, BIAS)


@pytest.mark.parametrize("name", ["block/conv", "a/b/c", "with space", "ünï/cödé", "conv:0", "."])
def test_names_of_layers(name: str, tmp_path: Path) -> None:
    held = name if name != "." else "dot."
    named = [(f"{held}/kernel:0", KERNEL), (f"{held}/bias:0", BIAS)]
    entry = only(legacy(tmp_path / "m.h5", model_of(conv(held)), {held: named}))
    assert entry.name == held
    check(entry, KERNEL, BIAS)


def test_a_variable_that_is_no_kernel_of_a_convolution_is_not_taken_for_one(
    tmp_path: Path,
) -> None:
    named = [("conv/gamma:0", BIAS), ("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    entry = only(legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named}))
    with pytest.raises(MalformedInput, match="cannot be told from conv/gamma:0"):
        entry.load()


def test_two_kernels_of_one_layer_are_not_guessed_between(tmp_path: Path) -> None:
    named = [("conv/kernel:0", KERNEL), ("conv/kernel_1:0", -KERNEL), ("conv/bias:0", BIAS)]
    entry = only(legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named}))
    with pytest.raises(MalformedInput, match="cannot be told"):
        entry.load()


def test_the_optimizer_has_arrays_of_the_same_shape_and_name(tmp_path: Path) -> None:
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})
    with h5py.File(path, "a") as file:
        group = file.create_group("optimizer_weights")
        group.attrs["weight_names"] = texts(["conv/kernel:0", "conv/kernel/m:0"])
        group["conv/kernel:0"] = -KERNEL
        group["conv/kernel/m:0"] = 2 * KERNEL
        file["model_weights"].create_group("another").attrs["weight_names"] = texts(["kernel:0"])
        file["model_weights/another/kernel:0"] = 3 * KERNEL
    check(only(path), KERNEL, BIAS)


@pytest.mark.parametrize("kind", [np.bytes_, str], ids=["fixed", "varying"])
@pytest.mark.parametrize("text", ["str", "bytes"])
def test_texts_of_either_kind(kind: Any, text: str, tmp_path: Path) -> None:
    written: Any = json.dumps(model_of(conv("conv")))
    version: Any = "2.15.0"
    if text == "bytes":
        written, version = written.encode(), np.bytes_(b"2.15.0")
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "m.h5", written, {"conv": named}, version=version, names=kind)
    check(only(path), KERNEL, BIAS)


def test_a_list_of_names_in_several_attributes(tmp_path: Path) -> None:
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})
    with h5py.File(path, "a") as file:
        group = file["model_weights/conv"]
        del group.attrs["weight_names"]
        group.attrs["weight_names0"] = texts(["conv/kernel:0"])
        group.attrs["weight_names1"] = texts(["conv/bias:0"])
    check(only(path), KERNEL, BIAS)


@pytest.mark.parametrize(
    "name", ["/etc/kernel:0", "/model_weights/other/kernel:0", "../other/kernel:0", "a/../kernel"]
)
def test_a_name_that_leads_out_of_its_group_is_refused(name: str, tmp_path: Path) -> None:
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})
    with h5py.File(path, "a") as file:
        file["model_weights/other/kernel:0"] = KERNEL
        file["model_weights/conv"].attrs["weight_names"] = texts([name, "conv/bias:0"])
    with pytest.raises(Refused, match="leads out of it"):
        only(path).load()
    assert "leads out of it" in run("convert", path, "-o", tmp_path / "o.npz").failed(5)
    assert not (tmp_path / "o.npz").exists()


def test_a_weight_that_is_not_there(tmp_path: Path) -> None:
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})
    with h5py.File(path, "a") as file:
        del file["model_weights/conv/conv/kernel:0"]
    with pytest.raises(MalformedInput, match="'conv/kernel:0' that is not there"):
        only(path).load()


@pytest.mark.parametrize("part", ["model_weights/conv", "model_weights"])
def test_a_group_that_is_not_there(part: str, tmp_path: Path) -> None:
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})
    with h5py.File(path, "a") as file:
        del file[part]
    with pytest.raises(MalformedInput, match="no group"):
        only(path).load()


def test_a_bias_that_is_not_there_and_one_that_is_not_used(tmp_path: Path) -> None:
    path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": [("conv/kernel:0", KERNEL)]})
    with pytest.raises(MalformedInput, match="its bias is not in the file"):
        only(path).load()
    named = [("conv/kernel:0", KERNEL), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "n.h5", model_of(conv("conv", use_bias=False)), {"conv": named})
    check(only(path), KERNEL)


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (0, 1, 3, 2), (3, 2, 0, 1)])
def test_a_kernel_with_its_axes_in_another_order(axes: Sequence[int], tmp_path: Path) -> None:
    arrays = [KERNEL.transpose(axes), BIAS]
    named = [*zip(("conv/kernel:0", "conv/bias:0"), arrays, strict=True)]
    for path in (
        legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named}),
        zipped(tmp_path / "m.keras", model_of(conv("conv")), {"layers/conv2d": arrays}),
    ):
        with pytest.raises(MalformedInput, match="shape"):
            only(path).load()


def test_a_bias_of_another_length(tmp_path: Path) -> None:
    arrays = [KERNEL, BIAS[:3]]
    path = zipped(tmp_path / "m.keras", model_of(conv("conv")), {"layers/conv2d": arrays})
    with pytest.raises(MalformedInput, match="bias"):
        only(path).load()


# Models within the model: all of their weights are in one group of a legacy file.


def nested(first: Config, second: Config) -> Config:
    """A model `top` of two models, one after the other, in a model."""
    top = functional(
        [
            given_input("t", 5, 6, 2),
            {**first, "inbound_nodes": [[["t", 0, 0, {}]]]},
            {**second, "inbound_nodes": [[[first["name"], 1, 0, {}]]]},
        ],
        [[second["name"], 1, 0]],
        name="top",
    )
    return functional(
        [given_input("x", 5, 6, 2), {**top, "inbound_nodes": [[["x", 0, 0, {}]]]}],
        [["top", 1, 0]],
    )


def inner(name: str, **config: Any) -> Config:
    """A model of a convolution `conv`."""
    layers = [given_input(f"{name}_in", 5, 6, 2), plain("conv", f"{name}_in", **config)]
    return functional(layers, ["conv"], name=name)


def names_and_kernels(path: Path) -> list[tuple[str, float]]:
    """Each layer's name, and the number of its kernel."""
    found = []
    for entry in convfc.read(path).entries:
        kernel = entry.load().kernel
        number = int(np.abs(kernel).min()) // 100
        expected = np.moveaxis(kernel_of(number), (3, 2), (0, 1))
        assert np.array_equal(kernel, expected)
        found.append((entry.name, number))
    return found


def scoped(*scopes: str) -> Named:
    """Kernels 0, 1, ... in these scopes, each named `kernel:0`."""
    return [(f"{scope}/kernel:0", kernel_of(number)) for number, scope in enumerate(scopes)]


def test_layers_of_one_name_in_two_models_each_with_a_group(tmp_path: Path) -> None:
    layers = [
        given_input("x", 5, 6, 2),
        {**inner("a"), "inbound_nodes": [[["x", 0, 0, {}]]]},
        {**inner("b"), "inbound_nodes": [[["a", 1, 0, {}]]]},
    ]
    weights = {"a": scoped("conv"), "b": [("conv/kernel:0", kernel_of(7))]}
    path = legacy(tmp_path / "m.h5", functional(layers, [["b", 1, 0]]), weights)
    assert names_and_kernels(path) == [("a/conv", 0), ("b/conv", 7)]


@pytest.mark.parametrize(
    "scopes",
    [("conv", "conv_1"), ("conv_1", "conv"), ("conv_4", "conv_5"), ("a/conv", "b/conv")],
    ids="-".join,
)
def test_layers_of_one_name_in_one_group_are_told_by_the_order(
    scopes: tuple[str, str], tmp_path: Path
) -> None:
    path = legacy(tmp_path / "m.h5", nested(inner("a"), inner("b")), {"top": scoped(*scopes)})
    assert names_and_kernels(path) == [("top/a/conv", 0), ("top/b/conv", 1)]


@pytest.mark.parametrize("what", ["the layer", "the model"])
def test_what_is_frozen_comes_after_what_is_trained(what: str, tmp_path: Path) -> None:
    first = inner("a", trainable=False) if what == "the layer" else inner("a")
    if what == "the model":
        first["config"]["trainable"] = False
    model = nested(first, inner("b"))
    path = legacy(tmp_path / "m.h5", model, {"top": scoped("conv_1", "conv")})
    assert names_and_kernels(path) == [("top/a/conv", 1), ("top/b/conv", 0)]


def test_renamed_variables_of_a_model_that_was_made_twice(tmp_path: Path) -> None:
    layers = [given_input("i", 5, 6, 2), plain("conv", "i"), plain("conv_1", "conv")]
    top = functional(layers, ["conv_1"], name="top")
    model = functional(
        [given_input("x", 5, 6, 2), {**top, "inbound_nodes": [[["x", 0, 0, {}]]]}],
        [["top", 1, 0]],
    )
    path = legacy(tmp_path / "m.h5", model, {"top": scoped("conv_1", "conv_1_1")})
    assert names_and_kernels(path) == [("top/conv", 0), ("top/conv_1", 1)]


def test_kernels_that_order_and_names_tell_apart_differently_are_refused(tmp_path: Path) -> None:
    layers = [given_input("i", 5, 6, 2), plain("left", "i"), plain("right", "left")]
    top = functional(layers, ["right"], name="top")
    model = functional(
        [given_input("x", 5, 6, 2), {**top, "inbound_nodes": [[["x", 0, 0, {}]]]}],
        [["top", 1, 0]],
    )
    path = legacy(tmp_path / "m.h5", model, {"top": scoped("right", "left")})
    found = dict(names_and_kernels(path))
    assert found == {"top/left": 1, "top/right": 0}  # the names, which leave no doubt


def with_another_kernel(first: str, second: str) -> Config:
    """A model `top` of models a and b, each with a convolution, and a layer of some rank 3."""
    a, b = inner("a"), inner("b")
    for item, name in ((a, first), (b, second)):
        item["config"]["layers"][1] = plain(name, f"{item['name']}_in")
        item["config"]["output_layers"] = [[name, 0, 0]]
    top = nested(a, b)["config"]["layers"][1]
    top["config"]["layers"].append(
        layer("EinsumDense", "other", ["b", 1, 0], equation="abcd,de->abce", output_shape=[5, 6, 2])
    )
    return functional([given_input("x", 5, 6, 2), top], [["top", 1, 0]])


OTHER = ("other/kernel:0", ramp(2, 2, 2, start=900))


def test_kernels_of_other_layers_do_not_hide_names_that_are_unique(tmp_path: Path) -> None:
    model = with_another_kernel("left", "right")
    path = legacy(tmp_path / "m.h5", model, {"top": [OTHER, *scoped("left", "right")]})
    assert [kernel for kernel in listed_kernels(path) if kernel] == [
        ("top/a/left", 0),
        ("top/b/right", 1),
    ]


def listed_kernels(path: Path) -> list[tuple[str, int] | None]:
    """As `names_and_kernels`, None for a layer that cannot be loaded."""
    found: list[tuple[str, int] | None] = []
    for entry in convfc.read(path).entries:
        try:
            found.append((entry.name, int(np.abs(entry.load().kernel).min()) // 100))
        except ConvfcError:
            found.append(None)
    return found


@pytest.mark.parametrize(
    ("names", "scopes"),
    [
        (("conv", "conv"), ("conv", "conv_1")),
        (("conv", "conv_1"), ("conv_1", "conv_1_1")),
    ],
)
def test_kernels_that_cannot_be_told_apart_are_not_guessed_at(
    names: tuple[str, str], scopes: tuple[str, str], tmp_path: Path
) -> None:
    """With a kernel of another kind of layer among them their number does not tell the order."""
    path = legacy(
        tmp_path / "m.h5", with_another_kernel(*names), {"top": [OTHER, *scoped(*scopes)]}
    )
    assert set(listed_kernels(path)) == {None}


def test_a_layer_that_two_models_share_is_stored_once(tmp_path: Path) -> None:
    path = legacy(tmp_path / "m.h5", nested(inner("a"), inner("b")), {"top": scoped("conv")})
    assert listed_kernels(path) == [("top/a/conv", 0), ("top/b/conv", 0)]


@pytest.mark.parametrize(
    ("kind", "names", "version"),
    [
        ("DepthwiseConv2D", ("c/depthwise_kernel:0", "c/bias:0"), "2.15.0"),
        ("DepthwiseConv2D", ("c/kernel", "c/bias"), "3.8.0"),
        ("Convolution2D", ("c_W", "c_b"), "1.2.2"),
        ("Convolution2D", ("c_1_W:0", "c_1_b:0"), "1.2.2"),
    ],
)
def test_variables_of_a_model_in_the_model_by_their_names(
    kind: str, names: tuple[str, str], version: str, tmp_path: Path
) -> None:
    depthwise = kind.startswith("Depthwise")
    kernel, bias = (ramp(2, 3, 2, 1), ramp(2)) if depthwise else (KERNEL, BIAS)
    config = {"kernel_size": [2, 3]} if depthwise else KERAS1
    model = model_of({**sequential(layer(kind, "c", **config), name="s"), "name": "s"})
    named = [*zip(names, (kernel, bias), strict=True)]
    path = legacy(tmp_path / "m.h5", model, {"s": named}, version=version)
    if names[0].startswith("c_1"):  # in no scope of its own: it might be of another layer
        with pytest.raises(MalformedInput, match="cannot be told"):
            only(path).load()
        return
    found = only(path).load()
    expected = np.moveaxis(kernel, (2, 3), (0, 1) if depthwise else (1, 0))
    assert np.array_equal(found.kernel, expected)
    assert np.array_equal(found.bias, bias)


# The store of `.keras`.


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


# Numbers.


def bfloat16(values: Array) -> Array:
    """The upper halves of float32s, as two opaque bytes each."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16
    return bits.astype("<u2").view("V2")


@pytest.mark.parametrize("kind", ["legacy", "store"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", ">f4", "float32", "float64", ">f8"])
def test_numbers_of_every_kind(dtype: str, kind: str, tmp_path: Path) -> None:
    arrays = [KERNEL, BIAS]  # less than 256 in size, or even: exact in bfloat16
    stored = [bfloat16(a) if dtype == "bfloat16" else a.astype(dtype) for a in arrays]
    if kind == "legacy":
        named = [*zip(("conv/kernel:0", "conv/bias:0"), stored, strict=True)]
        path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})
    else:
        path = zipped(tmp_path / "m.keras", model_of(conv("conv")), {"layers/conv2d": stored})
    entry = only(path)
    expected = arrays if dtype != "bfloat16" else [truncated(a) for a in arrays]
    check(entry, *expected)
    wide = dtype in ("float64", ">f8")
    assert entry.dtype == np.dtype(dtype if dtype != "bfloat16" else "f4").name.replace(
        "float32", "bfloat16" if dtype == "bfloat16" else "float32"
    )
    assert entry.load().dtype == (np.float64 if wide else np.float32)


def truncated(values: Array) -> Array:
    """What is left of float32s when their lower halves are zeros."""
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "bool", "complex64"])
def test_numbers_that_are_not_read(dtype: str, tmp_path: Path) -> None:
    named = [("conv/kernel:0", KERNEL.astype(dtype)), ("conv/bias:0", BIAS)]
    path = legacy(tmp_path / "m.h5", model_of(conv("conv")), {"conv": named})
    with pytest.raises((Unsupported, MalformedInput)):
        only(path).load()


# LoRA: a legacy file has the kernel and two factors, a `.keras` what they come to.

FACTORS = [ramp(2, 3, 2, 3, start=7), ramp(3, 4, start=3)]


@pytest.mark.parametrize("kernel_first", [True, False])
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6, 2.0), (1.5, 0.5)])
def test_factors_of_a_legacy_file(
    alpha: float | None, scale: float, kernel_first: bool, tmp_path: Path
) -> None:
    named = [
        ("conv/lora_kernel_a", FACTORS[0]),
        ("conv/lora_kernel_b", FACTORS[1]),
        ("conv/kernel", KERNEL),
        ("conv/bias", BIAS),
    ]
    if kernel_first:
        named = [*named[2:], *named[:2]]
    model = model_of(conv("conv", lora_rank=3, lora_alpha=alpha))
    path = legacy(tmp_path / "m.h5", model, {"conv": named}, version="3.8.0")
    expected = KERNEL.astype(np.float64)
    for y, x, i, o, r in np.ndindex(2, 3, 2, 4, 3):
        expected[y, x, i, o] += scale * float(FACTORS[0][y, x, i, r]) * float(FACTORS[1][r, o])
    check(only(path), expected.astype(np.float32), BIAS)


def test_factors_of_another_shape(tmp_path: Path) -> None:
    named = [
        ("conv/kernel", KERNEL),
        ("conv/bias", BIAS),
        ("conv/lora_kernel_a", FACTORS[0]),
        ("conv/lora_kernel_b", FACTORS[1][:2]),
    ]
    model = model_of(conv("conv", lora_rank=3))
    with pytest.raises(MalformedInput, match="LoRA"):
        only(legacy(tmp_path / "m.h5", model, {"conv": named})).load()


def test_the_kernel_of_a_store_has_its_factors_in_it(tmp_path: Path) -> None:
    model = model_of(conv("conv", lora_rank=3))
    path = zipped(tmp_path / "m.keras", model, {"layers/conv2d": [KERNEL, BIAS]})
    check(only(path), KERNEL, BIAS)


# Keras 1, and Theano.

KERAS1: dict[str, Any] = {"nb_filter": 4, "nb_row": 2, "nb_col": 3, "border_mode": "valid"}


def keras1(order: str, kernel: Array, folder: Path, **rest: Any) -> Path:
    """A file of Keras 1 with an image of 5 x 6 and a Convolution2D that fits KERNEL."""
    shape = [None, 2, 5, 6] if order == "th" else [None, 5, 6, 2]
    backend = rest.pop("backend", "theano" if order == "th" else "tensorflow")
    config = {**KERAS1, "dim_ordering": order, "batch_input_shape": shape, "bias": True, **rest}
    item = {"class_name": "Convolution2D", "config": {"name": "conv", **config}}
    model = {"class_name": "Sequential", "config": [item]}
    named = [("conv_W", kernel), ("conv_b", BIAS)]
    return legacy(folder / "k1.h5", model, {"conv": named}, version="1.2.2", backend=backend)


def flipped(kernel: Array) -> Array:
    """A kernel (y, x, in, out) turned round along y and x."""
    return kernel[::-1, ::-1]


@pytest.mark.parametrize("order", ["th", "tf"])
@pytest.mark.parametrize("backend", ["theano", "tensorflow"])
def test_kernels_of_keras_1(order: str, backend: str, tmp_path: Path) -> None:
    stored = KERNEL.transpose(3, 2, 0, 1) if order == "th" else KERNEL
    entry = only(keras1(order, stored, tmp_path, backend=backend))
    assert entry.outline is not None
    assert (entry.outline.input_shape, entry.outline.output_shape) == ((2, 5, 6), (4, 4, 4))
    assert entry.flipped is (backend == "theano")
    check(entry, flipped(KERNEL) if backend == "theano" else KERNEL, BIAS)


def test_keras_2_on_theano_turns_its_kernels_round_too(tmp_path: Path) -> None:
    named = [("conv/kernel", KERNEL), ("conv/bias", BIAS)]
    path = legacy(
        tmp_path / "m.h5",
        model_of(conv("conv")),
        {"conv": named},
        version="2.1.5",
        backend="theano",
    )
    check(only(path), flipped(KERNEL), BIAS)


def test_keras_1_without_a_backend_asks(tmp_path: Path) -> None:
    path = keras1("th", KERNEL.transpose(3, 2, 0, 1), tmp_path, backend=None)
    entry = only(path)
    assert entry.flipped is None
    with pytest.raises(UsageError, match="whether the kernels are flipped"):
        entry.load()
    out = tmp_path / "o.npz"
    assert "--flip-kernel or --no-flip-kernel" in run("convert", path, "-q", "-o", out).failed(2)
    assert not out.exists()
    for option, expected in (("--flip-kernel", flipped(KERNEL)), ("--no-flip-kernel", KERNEL)):
        run("convert", path, "-o", out, option, "--force").succeeded()
        with np.load(out) as members:
            assert np.array_equal(members["kernel"], np.moveaxis(expected, (3, 2), (0, 1)))
        assert load_npz(out).shape == (4 * 4 * 4, 5 * 6 * 2)


def test_a_flip_can_be_overruled(tmp_path: Path) -> None:
    path = keras1("th", KERNEL.transpose(3, 2, 0, 1), tmp_path)
    for options, expected in (([], flipped(KERNEL)), (["--no-flip-kernel"], KERNEL)):
        run("convert", path, "-o", tmp_path / "o.npz", "--force", *options).succeeded()
        with np.load(tmp_path / "o.npz") as members:
            assert np.array_equal(members["kernel"], np.moveaxis(expected, (3, 2), (0, 1)))


@pytest.mark.parametrize("backend", ["theano", "tensorflow"])
@pytest.mark.parametrize("stored", ["(k, 1, in, out)", "(out, in, k, 1)", "(k, in, out)"])
def test_lines_of_keras_1(stored: str, backend: str, tmp_path: Path) -> None:
    kernel = ramp(3, 2, 4)
    item = {
        "class_name": "Convolution1D",
        "config": {
            "name": "conv",
            "nb_filter": 4,
            "filter_length": 3,
            "subsample_length": 2,
            "border_mode": "valid",
            "batch_input_shape": [None, 8, 2],
            "bias": True,
        },
    }
    written = {
        "(k, 1, in, out)": kernel[:, None],
        "(out, in, k, 1)": kernel.transpose(2, 1, 0)[..., None],
        "(k, in, out)": kernel,
    }[stored]
    model = {"class_name": "Sequential", "config": [item]}
    named = [("conv_W", written), ("conv_b", BIAS)]
    path = legacy(tmp_path / "m.h5", model, {"conv": named}, version="1.2.0", backend=backend)
    found = only(path).load()
    expected = kernel.transpose(2, 1, 0)
    assert np.array_equal(found.kernel, expected[..., ::-1] if backend == "theano" else expected)
    assert found.output_shape == (4, 3)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("AtrousConvolution1D", {"filter_length": 2, "atrous_rate": 3}),
        ("Convolution1D", {"filter_length": 2, "subsample_length": 3, "dim_ordering": "th"}),
        ("AtrousConvolution2D", {"nb_row": 2, "nb_col": 2, "atrous_rate": [1, 3]}),
        ("Convolution3D", {f"kernel_dim{n}": n for n in (1, 2, 3)}),
    ],
)
def test_other_classes_of_keras_1(kind: str, config: Config, tmp_path: Path) -> None:
    """A line has its channels last, whatever is said of images."""
    size, kernel, output = {
        "AtrousConvolution1D": ([9, 2], ramp(2, 2, 4), (4, 6)),  # span 4
        "Convolution1D": ([9, 2], ramp(2, 2, 4), (4, 3)),
        "AtrousConvolution2D": ([9, 8, 2], ramp(2, 2, 2, 4), (4, 8, 5)),
        "Convolution3D": ([4, 4, 4, 2], ramp(1, 2, 3, 2, 4), (4, 4, 3, 2)),
    }[kind]
    config = {"name": "c", "nb_filter": 4, "batch_input_shape": [None, *size], **config}
    model = {"class_name": "Sequential", "config": [{"class_name": kind, "config": config}]}
    named = [("c_W", kernel), ("c_b", BIAS)]
    found = only(legacy(tmp_path / "m.h5", model, {"c": named}, version="1.1.0")).load()
    assert found.output_shape == output
    assert np.array_equal(found.kernel, np.moveaxis(kernel, (-1, -2), (0, 1)))


def test_a_file_without_a_version_is_one_of_keras_1(tmp_path: Path) -> None:
    path = keras1("th", KERNEL.transpose(3, 2, 0, 1), tmp_path, backend=None)
    with h5py.File(path, "a") as file:
        del file.attrs["keras_version"]
    entry = only(path)
    assert entry.flipped is None
    assert entry.require().kernel_shape == (4, 2, 2, 3)


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"nb_row": 3, "nb_col": 3}, False),
        ({"nb_row": 3, "nb_col": 2}, True),
        ({"nb_row": 4, "nb_col": 3}, True),
        ({"nb_row": 3, "nb_col": 3, "subsample": [2, 1]}, True),
        ({"nb_row": 3, "nb_col": 2, "border_mode": "valid", "subsample": [2, 1]}, False),
    ],
)
def test_same_is_another_on_theano(config: Config, refused: bool, tmp_path: Path) -> None:
    config = {"border_mode": "same", **config}
    kernel = ramp(4, 2, config["nb_row"], config["nb_col"])
    path = keras1("th", kernel, tmp_path, **config)
    if refused:
        with pytest.raises(Unsupported, match="Theano"):
            only(path).load()
        assert "Theano" in run("convert", path, "-o", tmp_path / "o.npz").failed(4)
    else:
        assert np.array_equal(only(path).load().kernel, kernel[..., ::-1, ::-1])
    path = keras1("th", kernel, tmp_path, backend="tensorflow", **config)
    assert np.array_equal(only(path).load().kernel, kernel)


def test_a_depthwise_kernel_on_theano_asks(tmp_path: Path) -> None:
    model = model_of(layer("DepthwiseConv2D", "d", kernel_size=2, use_bias=False))
    named = [("d/depthwise_kernel", ramp(2, 2, 2, 1))]
    path = legacy(tmp_path / "m.h5", model, {"d": named}, version="2.2.4", backend="theano")
    with pytest.raises(UsageError, match="whether the kernels are flipped"):
        only(path).load()


def test_a_zip_is_no_hdf5_wherever_its_weights_begin(tmp_path: Path) -> None:
    """HDF5 may begin at byte 512, 1024, ... of a file; so may the weights in a zip of Keras."""
    text, content = json.dumps(model_of(plain("a"))), store({"layers/conv2d": [kernel_of(0)]})
    signature = b"\x89HDF\r\n\x1a\n"
    begins = zipped(tmp_path / "m.keras", text, content).read_bytes().index(signature)
    target = next(size for size in (512, 1024, 2048, 4096) if size >= begins)
    path = zipped(tmp_path / "m.keras", text + " " * (target - begins), content)
    assert path.read_bytes().index(signature) == target
    assert names_and_kernels(path) == [("a", 0)]
