"""Whose weights are whose: how Keras names and orders them in a legacy file, and their numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import convfc_cli as convfc
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported
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
    texts,
    zipped,
)
from tests.support.keras_weights import (
    BIAS,
    KERAS1,
    KERNEL,
    check,
    conv,
    inner,
    kernel_of,
    model_of,
    names_and_kernels,
    nested,
    plain,
)

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]


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
