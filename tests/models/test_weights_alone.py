"""Weights alone: a dataset and a description make a layer, and nothing is guessed."""

import json
import os
import shlex
import zipfile
from collections.abc import Sequence
from itertools import combinations, permutations
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import Refused, SizeMissing, Unsupported, UsageError
from convfc_cli.models.request import WeightsSpec
from tests.support.cli_models import (
    COLOR,
    LENET,
    Ran,
    arrays,
    listing,
    matrix_of,
    run,
    shell,
    terminal,
)
from tests.support.hdf5_files import RECORDED, matlab, matrix, ramp, recorded, weights

pytestmark = pytest.mark.usefixtures("folder", "in_place")

PLAIN = ["--weight", "conv.weight", "--kernel-order", "oihw", "--input-shape", "1,2,5,4"]
"""The plainest description of `state`."""


def state(folder: Path) -> Path:
    """A state dict of one layer with its bias, 3 x 2 x 3 x 2."""
    return weights(folder / "w.h5", {"conv.weight": ramp(3, 2, 3, 2), "conv.bias": ramp(3)})


def convert(path: Path, *options: object) -> dict[str, Any]:
    """What `convert` writes of a described layer, all arrays and the matrix as `M`."""
    done = run("convert", path, *options, "-o", "c.npz", "--force", "-q").succeeded()
    assert done.lines == ["c.npz"]
    return {**arrays(Path("c.npz")), "M": matrix_of(Path("c.npz"))}


def describing(letters: str, stored: Any) -> list[object]:
    return ["--weight", stored, "--kernel-order", letters]


# Which axis is which


def stored_as(kernel: Any, letters: str, order: str) -> Any:
    """A kernel whose axes are `letters`, with its axes in another order."""
    return np.ascontiguousarray(kernel.transpose([letters.index(letter) for letter in order]))


@pytest.mark.parametrize("letters", ["oiw", "oihw", "oidhw"])
def test_every_order_of_a_kernels_axes(folder: Path, letters: str) -> None:
    sizes = (2, 3, 5)[-(len(letters) - 2) :]
    kernel = ramp(4, 3, *(2, 1, 3)[-len(sizes) :])
    wanted, _ = matrix(kernel, sizes)
    orders = ["".join(order) for order in permutations(letters)]
    path = weights(folder / "w.h5", {o: stored_as(kernel, letters, o) for o in orders})
    for order in orders if len(orders) < 100 else orders[::7]:
        found = convfc.matrix(path, weights=WeightsSpec(order, order), input_shape=(1, 3, *sizes))
        assert np.array_equal(found.toarray(), wanted), order


@pytest.mark.slow
@pytest.mark.parametrize("letters", ["iow", "iohw", "iodhw"])
def test_every_order_of_a_transposed_kernels_axes(folder: Path, letters: str) -> None:
    sizes = (2, 2, 3)[-(len(letters) - 2) :]
    kernel = ramp(4, 3, *(2, 1, 3)[-len(sizes) :])
    wanted, _ = matrix(kernel, sizes, stride=(2,) * len(sizes), transposed=True)
    orders = ["".join(order) for order in permutations(letters)]
    path = weights(folder / "w.h5", {o: stored_as(kernel, letters, o) for o in orders})
    for order in orders if len(orders) < 100 else orders[::7]:
        spec = WeightsSpec(order, order, stride=(2,), transposed=True)
        found = convfc.matrix(path, weights=spec, input_shape=(1, 4, *sizes))
        assert np.array_equal(found.toarray(), wanted), order


@pytest.mark.parametrize("letters", ["imw", "imhw", "imdhw"])
def test_every_order_of_a_depthwise_kernels_axes(folder: Path, letters: str) -> None:
    """Outputs number c * m + j: all those of the first input channel come first."""
    sizes = (2, 3, 5)[-(len(letters) - 2) :]
    kernel = ramp(3, 2, *(2, 1, 3)[-len(sizes) :])
    wanted, _ = matrix(kernel.reshape(6, 1, *kernel.shape[2:]), sizes, groups=3)
    orders = ["".join(order) for order in permutations(letters)]
    path = weights(folder / "w.h5", {o: stored_as(kernel, letters, o) for o in orders})
    for order in orders if len(orders) < 100 else orders[::7]:
        found = convfc.matrix(path, weights=WeightsSpec(order, order), input_shape=(1, 3, *sizes))
        assert np.array_equal(found.toarray(), wanted), order


def test_the_letters_may_be_capitals(folder: Path) -> None:
    path = state(folder)
    small = convert(path, *PLAIN, "--bias", "none")
    large = convert(path, *PLAIN, "--bias", "none", "--kernel-order", "OIHW")
    assert np.array_equal(small["M"], large["M"])


# How the kernel is applied: sizes, options, and what they mean as it was worked out by hand

Case = tuple[str, tuple[int, ...], tuple[int, ...], str, dict[str, Any]]

CONVOLUTIONS: list[Case] = [
    ("oihw", (3, 2, 3, 2), (5, 4), "", {}),
    ("hwio", (3, 2, 3, 2), (5, 4), "--stride 2", {"stride": (2, 2)}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--stride 1,3", {"stride": (1, 3)}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--dilation 2", {"dilation": (2, 2)}),
    ("hwoi", (3, 2, 3, 2), (5, 4), "--dilation 2,3", {"dilation": (2, 3)}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad 1", {"pads": ((1, 1), (1, 1))}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad 1,2", {"pads": ((1, 1), (2, 2))}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad 0:1", {"pads": ((0, 1), (0, 1))}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad 0:1,2:0", {"pads": ((0, 1), (2, 0))}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad 3,0:1", {"pads": ((3, 3), (0, 1))}),
    ("oihw", (3, 2, 3, 2), (6, 5), "--pad -1", {"pads": ((-1, -1), (-1, -1))}),
    ("oihw", (3, 2, 3, 2), (6, 5), "--pad -2:1,0:-1", {"pads": ((-2, 1), (0, -1))}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad valid", {}),
    # 5 outputs of 5: 2 zeros; 4 of 4: 1 zero, which goes after, or before.
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad same", {"pads": ((1, 1), (0, 1))}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad same-lower", {"pads": ((1, 1), (1, 0))}),
    # 2 outputs of 5 need 3 + 3: 1 zero; 2 of 4 need 2 + 2: none.
    (
        "oihw",
        (3, 2, 3, 2),
        (5, 4),
        "--pad same --stride 3,2",
        {"stride": (3, 2), "pads": ((0, 1), (0, 0))},
    ),
    # 2 outputs of 5 need 4 + 1: none, though a kernel of 1 leaves room; 1 of 4: none.
    ("oihw", (3, 2, 1, 1), (5, 4), "--pad same --stride 4", {"stride": (4, 4)}),
    # 3 outputs of 5 need 2 * 2 + 5 = 9: 4 zeros; 2 of 4 need 2 + 4 = 6: 2.
    (
        "oihw",
        (3, 2, 3, 2),
        (5, 4),
        "--pad same --stride 2 --dilation 2,3",
        {"stride": (2, 2), "dilation": (2, 3), "pads": ((2, 2), (1, 1))},
    ),
    ("wio", (3, 2, 4), (7,), "--pad causal", {"pads": ((3, 0),)}),
    ("oiw", (3, 2, 4), (7,), "--pad causal --dilation 2", {"dilation": (2,), "pads": ((6, 0),)}),
    ("oiw", (3, 2, 4), (7,), "--stride 3 --pad 2:1", {"stride": (3,), "pads": ((2, 1),)}),
    ("dhwio", (2, 2, 2, 1, 3), (3, 2, 4), "--pad 1,0,1:2", {"pads": ((1, 1), (0, 0), (1, 2))}),
    ("oidhw", (2, 1, 2, 1, 3), (3, 2, 4), "--stride 2,1,1", {"stride": (2, 1, 1)}),
    ("oihw", (4, 2, 3, 2), (5, 4), "--groups 2", {"groups": 2}),
    ("hwio", (6, 1, 2, 2), (4, 3), "--groups 3 --pad same", {"groups": 3, "pads": ((0, 1),) * 2}),
]


@pytest.mark.parametrize(("order", "shape", "sizes", "options", "meaning"), CONVOLUTIONS)
def test_a_convolution_is_what_its_description_says(
    folder: Path,
    order: str,
    shape: tuple[int, ...],
    sizes: tuple[int, ...],
    options: str,
    meaning: dict[str, Any],
) -> None:
    kernel = ramp(*shape)
    letters = "oi" + "dhw"[-len(sizes) :]
    path = weights(folder / "w.h5", {"k": stored_as(kernel, letters, order), "b": ramp(shape[0])})
    channels = shape[1] * meaning.get("groups", 1)
    size = ",".join(map(str, (1, channels, *sizes)))
    told = ["--bias", "b", "--input-shape", size, *options.split()]
    found = convert(path, *describing(order, "k"), *told)
    wanted, outputs = matrix(kernel, sizes, **meaning)
    assert np.array_equal(found["M"], wanted)
    assert np.array_equal(found["kernel"], kernel)
    assert np.array_equal(found["bias"], np.repeat(ramp(shape[0]), prod(outputs[1:])))
    meta = json.loads(str(found["convfc"]))
    assert tuple(meta["output_shape"]) == outputs
    assert (meta["origin"]["layer"], meta["origin"]["op"]) == ("k", "Conv")


TRANSPOSED: list[Case] = [
    ("iohw", (3, 2, 3, 2), (3, 2), "", {}),
    ("hwoi", (3, 2, 3, 2), (3, 2), "--stride 2", {"stride": (2, 2)}),
    ("iohw", (3, 2, 3, 2), (3, 2), "--stride 2,3", {"stride": (2, 3)}),
    ("iohw", (3, 2, 3, 2), (3, 2), "--pad 1,0", {"pads": ((1, 1), (0, 0))}),
    ("iohw", (3, 2, 3, 2), (3, 2), "--pad 0:2,1:0", {"pads": ((0, 2), (1, 0))}),
    ("iohw", (3, 2, 3, 2), (3, 2), "--pad -1", {"pads": ((-1, -1), (-1, -1))}),
    ("iohw", (3, 2, 3, 2), (3, 2), "--dilation 2,3", {"dilation": (2, 3)}),
    (
        "iohw",
        (3, 2, 3, 2),
        (3, 2),
        "--stride 2,3 --output-padding 1,2",
        {"stride": (2, 3), "extra": (1, 2)},
    ),
    (
        "iohw",
        (3, 2, 3, 2),
        (3, 2),
        "--stride 2 --pad 1,0 --output-padding 1",
        {"stride": (2, 2), "pads": ((1, 1), (0, 0)), "extra": (1, 1)},
    ),
    ("iohw", (4, 3, 3, 2), (3, 2), "--groups 2 --stride 2", {"groups": 2, "stride": (2, 2)}),
    ("woi", (3, 2, 4), (5,), "--stride 3", {"stride": (3,)}),
    ("iodhw", (2, 1, 2, 1, 3), (2, 2, 2), "--stride 2,1,1", {"stride": (2, 1, 1)}),
]


@pytest.mark.parametrize(("order", "shape", "sizes", "options", "meaning"), TRANSPOSED)
def test_a_transposed_convolution_is_what_its_description_says(
    folder: Path,
    order: str,
    shape: tuple[int, ...],
    sizes: tuple[int, ...],
    options: str,
    meaning: dict[str, Any],
) -> None:
    """`shape` is (in, out/groups, *spatial)."""
    kernel = ramp(*shape)
    letters = "io" + "dhw"[-len(sizes) :]
    channels = shape[1] * meaning.get("groups", 1)
    path = weights(folder / "w.h5", {"k": stored_as(kernel, letters, order), "b": ramp(channels)})
    size = ",".join(map(str, (1, shape[0], *sizes)))
    told = ["--transposed", "--bias", "b", "--input-shape", size, *options.split()]
    found = convert(path, *describing(order, "k"), *told)
    wanted, outputs = matrix(kernel, sizes, transposed=True, **meaning)
    assert np.array_equal(found["M"], wanted)
    assert np.array_equal(found["bias"], np.repeat(ramp(channels), prod(outputs[1:])))
    meta = json.loads(str(found["convfc"]))
    assert tuple(meta["output_shape"]) == outputs
    assert meta["origin"]["op"] == "ConvTranspose"


def test_every_option_changes_the_matrix(folder: Path) -> None:
    path = weights(folder / "w.h5", {"k": ramp(4, 4, 3, 3), "b": ramp(4)})
    base = [*describing("oihw", "k"), "--bias", "none"]
    up = [*base, "--transposed", "--stride", "2"]
    descriptions = {
        "nothing": base,
        "--kernel-order": [*base, "--kernel-order", "iohw"],
        "the order of spatial axes": [*base, "--kernel-order", "oiwh"],
        "--stride": [*base, "--stride", "2"],
        "--pad": [*base, "--pad", "1"],
        "--dilation": [*base, "--dilation", "2"],
        "--groups": [*base, "--groups", "2"],
        "--transposed": [*base, "--transposed"],
        "--stride of a transposed one": up,
        "--pad of a transposed one": [*up, "--pad", "1"],
        "--dilation of a transposed one": [*up, "--dilation", "2"],
        "--groups of a transposed one": [*up, "--groups", "2"],
        "--output-padding": [*up, "--output-padding", "1"],
    }
    found = {}
    for name, options in descriptions.items():
        channels = 8 if name == "--groups" else 4
        found[name] = convert(path, *options, "--input-shape", f"1,{channels},6,6")["M"]
    for one, other in combinations(found, 2):
        assert not np.array_equal(found[one], found[other]), (one, other)


# Against PyTorch: a state dict written by h5py, and what its layers made of an input

DESCRIBED = {
    "stem": "oihw --stride 2 --pad 1,0",
    "grouped": "oihw --pad 1 --groups 2",
    "dilated": "oihw --dilation 3,2",
    "same": "oihw --pad same --dilation 1,2",
    "depthwise": "oihw --groups 3 --stride 2,1",
    "line": "oiw --stride 3 --pad 2",
    "solid": "oidhw --stride 1,2,1 --pad 0,1,1",
    "up": "iohw --transposed --stride 2 --pad 1 --output-padding 1,0",
    "up_grouped": "iohw --transposed --stride 3,1 --groups 2",
    "up_dilated": "iow --transposed --stride 2 --pad 1 --output-padding 2 --dilation 3",
}


def close(found: dict[str, Any], x: Any, y: Any) -> bool:
    """Whether M x + b is y, as far as float32 can tell."""
    made = found["M"].astype(np.float64) @ x.reshape(-1) + found.get("bias", np.float64(0))
    return made.shape == (y.size,) and bool(np.abs(made - y.reshape(-1)).max() < 1e-5)


@pytest.mark.parametrize("name", DESCRIBED)
def test_layers_of_pytorch(folder: Path, name: str) -> None:
    truth = recorded("torch_state", folder)
    x, y = truth[f"{name}/x"], truth[f"{name}/y"]
    bias = "none" if name == "grouped" else f"{name}.bias"
    size = ",".join(map(str, (1, *x.shape)))
    told = ["--kernel-order", *DESCRIBED[name].split(), "--bias", bias, "--input-shape", size]
    found = convert(RECORDED / "torch_state.h5", "--weight", f"{name}.weight", *told)
    assert close(found, x, y)
    assert not close({"M": found["M"]}, x, y) or bias == "none"


def test_every_kernel_of_a_state_dict_is_listed_and_no_bias(folder: Path) -> None:
    done = run("inspect", RECORDED / "torch_state.h5", "--json").succeeded()
    listed = json.loads(done.out)["layers"]
    assert [item["layer"] for item in listed] == sorted(f"{name}.weight" for name in DESCRIBED)
    assert {item["status"] for item in listed} == {"weights alone"}
    for item in listed:
        name = item["layer"].removesuffix(".weight")
        bias = "none" if name == "grouped" else f"{name}.bias"
        assert f"(bias: {bias})" in item["reason"]


# The bias


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [
        ("conv1.weight", "conv1.bias"),
        ("weight", "bias"),
        ("conv/kernel", "conv/bias"),
        ("conv/conv/kernel:0", "conv/conv/bias:0"),
        ("d/depthwise_kernel:0", "d/bias:0"),
        ("d/depthwise_kernel", "d/bias"),
        ("s/pointwise_kernel:0", "s/bias:0"),
        ("convolution2d_1_W", "convolution2d_1_b"),
        ("conv1/W", "conv1/b"),
        ("conv1_weight", "conv1_bias"),
        ("scope/weights:0", "scope/biases:0"),
        ("scope/weights", "scope/bias"),
        ("net/Weights", "net/Bias"),
        ("layers/conv2d/vars/0", "layers/conv2d/vars/1"),
        ("data/conv1/0", "data/conv1/1"),
    ],
)
def test_a_bias_beside_the_kernel_is_asked_about(folder: Path, kernel: str, bias: str) -> None:
    path = weights(folder / "w.h5", {kernel: ramp(3, 2, 3, 2), bias: ramp(3)})
    told = [*describing("oihw", kernel), "--input-shape", "1,2,5,4"]
    before = listing(folder)
    complaint = run("convert", path, *told).failed(2)
    assert f"{bias} lies beside {kernel}, and may be its bias: --bias {bias} takes it" in complaint
    assert "--bias is empty" in run("convert", path, *told, "--bias", "").failed(2)
    assert complaint == run("inspect", path, *told).failed(2)
    assert listing(folder) == before
    assert f"(bias: {bias})" in run("inspect", path).succeeded().lines[1]
    with_bias = convert(path, *told, "--bias", bias)
    without = convert(path, *told, "--bias", "none")
    assert np.array_equal(with_bias["kernel_bias"], ramp(3))
    assert "kernel_bias" not in without
    assert np.array_equal(with_bias["M"], without["M"])


@pytest.mark.parametrize(
    ("kernel", "other"),
    [
        ("conv.weight", "conv2.bias"),
        ("conv.weight", "conv.bias:0"),
        ("conv_0", "conv_1"),
        ("overweight", "overbias"),
        ("a/kernel", "bias"),
    ],
)
def test_what_is_no_bias_of_the_kernel_is_not_asked_about(
    folder: Path, kernel: str, other: str
) -> None:
    path = weights(folder / "w.h5", {kernel: ramp(3, 2, 3, 2), other: ramp(3)})
    found = convert(path, *describing("oihw", kernel), "--input-shape", "1,2,5,4")
    assert "kernel_bias" not in found
    assert "(bias: none)" in run("inspect", path).succeeded().lines[1]


def test_a_second_kernel_is_no_bias(folder: Path) -> None:
    """`layers.0` and `layers.1` are called as kernel and bias are."""
    path = weights(folder / "w.h5", {"layers.0": ramp(3, 2, 3, 2), "layers.1": ramp(2, 3, 1, 1)})
    found = convert(path, *describing("oihw", "layers.0"), "--input-shape", "1,2,5,4")
    assert "kernel_bias" not in found


def test_a_dataset_called_none_can_be_the_bias(folder: Path) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2, 3, 2), "none": ramp(3)})
    told = [*describing("oihw", "k"), "--input-shape", "1,2,5,4"]
    assert "kernel_bias" not in convert(path, *told, "--bias", "none")
    assert np.array_equal(convert(path, *told, "--bias", "/none")["kernel_bias"], ramp(3))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3), (1, 1, 1, 3), (3, 1, 1)])
def test_a_bias_may_have_axes_of_one(folder: Path, shape: tuple[int, ...]) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2, 3, 2), "b": ramp(*shape)})
    told = [*describing("oihw", "k"), "--bias", "b", "--input-shape", "1,2,5,4"]
    assert np.array_equal(convert(path, *told)["kernel_bias"], ramp(3))


@pytest.mark.parametrize("shape", [(2, 2), (3,), (5,), (4, 2), (2, 1, 2), (0,), ()])
@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_a_bias_that_does_not_fit(folder: Path, shape: tuple[int, ...], command: str) -> None:
    path = weights(folder / "w.h5", {"k": ramp(4, 2, 3, 2), "b": np.ones(shape, np.float32)})
    told = [*describing("oihw", "k"), "--bias", "b", "--input-shape", "1,2,5,4"]
    before = listing(folder)
    complaint = run(command, path, *told).failed(2)
    assert f"the bias b has the shape {shape}, the layer 4 output channels" in complaint
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        (["--kernel-order", "imhw"], 8),
        (["--kernel-order", "iohw", "--transposed"], 2),
        (["--kernel-order", "iohw", "--transposed", "--groups", "2"], 4),
        (["--kernel-order", "oihw", "--groups", "2"], 4),
    ],
)
def test_a_bias_has_one_value_for_each_output(
    folder: Path, options: list[str], channels: int
) -> None:
    path = weights(
        folder / "w.h5", {"k": ramp(4, 2, 3, 2), **{f"b{n}": ramp(n) for n in (2, 4, 8)}}
    )
    for n in (2, 4, 8):
        done = run("inspect", path, "--weight", "k", *options, "--bias", f"b{n}")
        assert done.code == (0 if n == channels else 2), done


def test_a_bias_is_not_rounded(folder: Path) -> None:
    """One of float64 is taken where float32 holds its values, a NaN among them."""
    exact = np.array([0.5, np.nan, -3e30], np.float64).astype(np.float32).astype(np.float64)
    path = weights(
        folder / "w.h5",
        {"k": ramp(3, 2, 3, 2), "exact": exact, "third": np.full(3, 1 / 3), "big": [1e300] * 3},
    )
    told = [*describing("oihw", "k"), "--input-shape", "1,2,5,4"]
    found = convert(path, *told, "--bias", "exact")["kernel_bias"]
    assert found.dtype == np.float32
    assert np.array_equal(found, exact, equal_nan=True)
    for name in ("third", "big"):
        complaint = run("convert", path, *told, "--bias", name, "-o", "d.npz", "-q").failed(4)
        assert f"the bias /{name} is float64" in complaint
    assert not os.path.exists("d.npz")


# Numbers


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("<f2", "float32"), ("<f4", "float32"), (">f4", "float32"), (">f8", "float64")],
)
def test_every_float(folder: Path, dtype: str, wanted: str) -> None:
    values = np.random.default_rng(0).standard_normal((3, 2, 3, 2)).astype(dtype)
    values.flat[:4] = [np.inf, -0.0, 6e-8, np.nan]
    path = weights(folder / "w.h5", {"k": values, "b": values[:, 0, 0, 1]})
    told = [*describing("oihw", "k"), "--bias", "b", "--input-shape", "1,2,5,4"]
    found = convert(path, *told)
    assert found["kernel"].dtype == found["data"].dtype == wanted
    native = values.astype(wanted)
    assert np.array_equal(
        found["kernel"].view(f"u{native.itemsize}"), native.view(f"u{native.itemsize}")
    )
    assert np.array_equal(found["kernel_bias"], native[:, 0, 0, 1], equal_nan=True)
    listed = json.loads(run("inspect", path, "--json").succeeded().out)["layers"][0]
    assert listed["dtype"] == {"2": "float16", "4": "float32", "8": "float64"}[dtype[2]]


def test_bfloat16(folder: Path) -> None:
    """Two opaque bytes, the upper half of a float32."""
    wide = np.random.default_rng(0).standard_normal((3, 2, 3, 2)).astype(np.float32)
    wide = (wide.view(np.uint32) & 0xFFFF0000).view(np.float32)
    half = (wide.view(np.uint32) >> 16).astype("<u2")
    path = weights(folder / "w.h5", {"k": half.view("V2"), "b": half[:, 1, 1, 1].copy().view("V2")})
    told = [*describing("oihw", "k"), "--bias", "b", "--input-shape", "1,2,5,4"]
    found = convert(path, *told)
    assert np.array_equal(found["kernel"], wide)
    assert np.array_equal(found["kernel_bias"], wide[:, 1, 1, 1])
    listed = json.loads(run("inspect", path, "--json").succeeded().out)["layers"][0]
    assert listed["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "i8", "?", "V3", "S3"])
@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_what_is_no_float_is_unsupported(folder: Path, dtype: str, command: str) -> None:
    values = np.zeros((3, 2, 3, 2), dtype)
    path = weights(
        folder / "w.h5", {"k": values, "b": np.zeros(3, dtype), "real": ramp(3, 2, 1, 1)}
    )
    before = listing(folder)
    for weight, bias in (("k", "none"), ("real", "b")):
        told = [*describing("oihw", weight), "--bias", bias, "--input-shape", "1,2,5,4"]
        assert "floating-point numbers are read" in run(command, path, *told).failed(4)
    assert listing(folder) == before


def test_the_dtype_of_the_matrix_can_be_chosen(folder: Path) -> None:
    found = convert(state(folder), *PLAIN, "--bias", "none", "--dtype", "float64")
    assert found["data"].dtype == np.float64
    assert np.array_equal(found["M"], matrix(ramp(3, 2, 3, 2), (5, 4))[0])


# What a person may get wrong: one line that says so, and nothing is written

BAD: list[tuple[str, int, str]] = [
    ("--weight conv.wieght", 2, "no dataset 'conv.wieght'; there are conv.weight"),
    ("--weight conv", 2, "no dataset 'conv'; there are conv.bias, conv.weight"),
    ("--weight /", 2, "no dataset '/'; there are"),
    ("--weight=", 2, "no dataset ''; there are"),
    ("--weight a/b/c", 2, "no dataset 'a/b/c'"),
    ("--weight ../conv.weight", 5, "leads out of it"),
    ("--bias conv.bais", 2, "no dataset 'conv.bais'; there are conv.bias"),
    ("--bias ../x", 5, "leads out of it"),
    ("--kernel-order oihx", 2, "'oihx' must name each axis once"),
    ("--kernel-order oihh", 2, "'oihh' must name each axis once"),
    ("--kernel-order omhw", 2, "'omhw' must name each axis once"),
    ("--kernel-order oi", 2, "such as oihw for PyTorch"),
    ("--weight solid --kernel-order oihwo", 2, "'oihwo' must name each axis once"),
    ("--kernel-order oidw", 2, "'oidw' must name each axis once"),
    ("--kernel-order=", 2, "'' must name each axis once"),
    ("--kernel-order oiw", 2, "names 3 axes; conv.weight has 4, (3, 2, 3, 2)"),
    ("--kernel-order oidhw", 2, "names 5 axes; conv.weight has 4"),
    ("--input-shape 1,3,5,4", 2, "1,3,5,4 does not fit conv.weight"),
    ("--input-shape 1,2,5", 2, "reads 1,2 and 2 spatial sizes, batch and channels first"),
    ("--input-shape 1,2,5,4,1", 2, "does not fit"),
    ("--input-shape 1,5,4,2", 2, "does not fit"),
    ("--input-shape 5,4", 2, "give 1,C,H,W"),
    ("--input-shape x=1,2,5,4", 2, "names 'x'; the layer is 'conv.weight'"),
    ("--input-shape 1,2,0,4", 2, "no output: size 0"),
    ("--input-shape 1,2,2,4", 2, "no output: size 2 with padding (0, 0) is less than the kernel's"),
    ("--input-shape a", 2, "'a' is not a shape"),
    ("--groups 2 --input-shape 1,4,5,4", 2, "3 channels cannot be shared out over 2 groups"),
    ("--groups 3", 2, "reads 1,6 and 2 spatial sizes"),
    ("--groups 0", 2, "--groups"),
    ("--stride 0", 2, "stride is 0"),
    ("--stride 1,2,3", 2, "stride has 3 values for 2 spatial axes"),
    ("--stride 1.5", 2, "'1.5' is not a size of each axis"),
    ("--dilation 0", 2, "dilation is 0"),
    ("--dilation 1,1,1", 2, "dilation has 3 values"),
    ("--dilation 3", 2, "kernel's span 7"),
    ("--pad -2", 2, "no output: size 5 with padding (-2, -2)"),
    ("--pad 1,1,1", 2, "pad has 3 values"),
    ("--pad full", 2, "'full' is not one of valid, same, same-lower, causal"),
    ("--pad 1:2:3", 2, "'1:2:3' is not one of"),
    ("--pad 2000000000000", 2, "outputs is 4000000000003; it must lie between 1 and 2**40"),
    ("--output-padding 1", 2, "an output padding goes with a transposed convolution"),
    ("--transposed --input-shape 1,3,5,4", 2, "reads 1,2 and 2 spatial sizes"),
    ("--transposed --pad same", 2, "is ambiguous for a transposed convolution: give numbers"),
    ("-l conv.wieght", 2, "has no layer 'conv.wieght': did you mean conv.weight?"),
    ("--flip", 2, "No such option"),
]


@pytest.mark.parametrize(("options", "code", "told"), BAD)
def test_a_description_that_does_not_fit(folder: Path, options: str, code: int, told: str) -> None:
    path = state(folder)
    with h5py.File(path, "a") as file:
        file["solid"] = ramp(3, 2, 2, 2, 3)
    before = listing(folder)
    given = [*PLAIN[:4], *([] if "--input-shape" in options else PLAIN[4:]), "--bias", "none"]
    assert told in run("convert", path, *given, *options.split()).failed(code)
    assert listing(folder) == before


TRANSPOSED_BAD = [
    ("--pad 2", "no output: 1 inputs spread over 3"),
    ("--output-padding 1", "output_padding 1 must be at least 0 and less than"),
    ("--output-padding 0,2 --stride 2", "output_padding 2 must be"),
    ("--output-padding 1,1,1", "output_padding has 3 values for 2 spatial axes"),
    ("--groups 2", "3 channels cannot be shared out over 2 groups"),
    ("--pad causal", "the padding causal is ambiguous for a transposed convolution"),
    ("--pad valid", "the padding valid is ambiguous for a transposed convolution"),
    ("--kernel-order imhw", "a depthwise order (with m) goes without transposed and groups"),
]


@pytest.mark.parametrize(("options", "told"), TRANSPOSED_BAD)
def test_a_description_of_a_transposed_layer_that_does_not_fit(
    folder: Path, options: str, told: str
) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2, 3, 3)})
    given = [*describing("iohw", "k"), "--transposed", "--input-shape", "1,3,1,1"]
    assert told in run("convert", path, *given, *options.split()).failed(2)
    assert os.listdir() == ["w.h5"]


def test_a_depthwise_order_goes_without_groups(folder: Path) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2, 3, 3)})
    given = [*describing("imhw", "k"), "--groups", "3", "--input-shape", "1,3,5,5"]
    assert "goes without transposed and groups" in run("convert", path, *given).failed(2)


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_options_that_go_together(folder: Path, command: str) -> None:
    path = state(folder)
    subject: Sequence[object] = ["c.npz", "--model", path] if command == "verify" else [path]
    assert "--weight needs --kernel-order, such as oihw or hwio" in run(
        command, *subject, "--weight", "conv.weight"
    ).failed(2)
    for option, value in (
        ("--kernel-order", "oihw"),
        ("--bias", "none"),
        ("--stride", "1"),
        ("--pad", "same"),
        ("--dilation", "1"),
        ("--groups", "1"),
        ("--output-padding", "1"),
    ):
        assert f"{option} goes with --weight" in run(command, *subject, option, value).failed(2)
    assert "--transposed goes with --weight" in run(command, *subject, "--transposed").failed(2)


def test_one_layer_has_one_size(folder: Path) -> None:
    path = state(folder)
    more = ["--bias", "none", "--input-shape", "conv.weight=1,2,9,9"]
    complaint = run("convert", path, *PLAIN, *more).failed(2)
    assert "2 shapes are given; there is one layer, conv.weight" in complaint


def test_the_layer_answers_to_its_name(folder: Path) -> None:
    path = state(folder)
    given = [*PLAIN[:4], "--bias", "none"]
    found = convert(path, *given, "--input-shape", "conv.weight=1,2,5,4", "-l", "weight")
    assert np.array_equal(found["M"], matrix(ramp(3, 2, 3, 2), (5, 4))[0])
    slashes = ["--weight", "/conv.weight", "--kernel-order", "oihw", "--bias", "/conv.bias"]
    found = convert(path, *slashes, *PLAIN[4:])
    assert json.loads(str(found["convfc"]))["origin"]["layer"] == "conv.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "shape", "options"),
    [
        ("oihw", (3, 2, 3, 2), []),
        ("oihw", (3, 2, 3, 2), ["--groups", "3"]),
        ("oiw", (2, 1, 700), ["--dilation", "2"]),
        ("hwio", (3, 2, 100, 3), ["--pad", "-30"]),
        ("oidhw", (1, 2, 1, 70, 1), []),
        ("imhw", (3, 2, 3, 3), ["--stride", "3"]),
        ("iohw", (3, 2, 3, 2), ["--transposed", "--pad", "70"]),
    ],
)
def test_a_missing_size_prints_a_command_that_works(
    folder: Path, order: str, shape: tuple[int, ...], options: list[str]
) -> None:
    letters = {"m": "im"}.get(order[1], "io" if "--transposed" in options else "oi")
    kernel = stored_as(ramp(*shape), letters + "dhw"[-(len(shape) - 2) :], order)
    weights(folder / "my w.h5", {"a b/kernel:0": kernel})
    given = ["my w.h5", *describing(order, "a b/kernel:0"), *options, "--form", "operator"]
    told = run("convert", *given, "-o", "c.npz").failed(2)
    channels = shape[0] if order.startswith("i") else shape[1] * (3 if "--groups" in options else 1)
    assert f"its file does not say the size of its input, {channels} channels" in told
    command = told[told.index("convfc convert") :]
    pasted = run(*shlex.split(command)[1:]) if options else shell(command, folder)
    assert pasted.succeeded().lines == ["c.npz"]


def test_what_no_size_mends_is_said_at_once(folder: Path) -> None:
    path = state(folder)
    given = [*PLAIN[:4], "--bias", "none"]
    assert "3 channels cannot be" in run("convert", path, *given, "--groups", "2").failed(2)
    assert "stride is 0" in run("inspect", path, *given, "--stride", "0").failed(2)


def test_weights_alone_are_not_converted(folder: Path) -> None:
    path = state(folder)
    for more in ([], ["-l", "conv.weight"], ["--input-shape", "1,2,5,4"], ["--keep-going"]):
        told = run("convert", path, *more).failed(2)
        assert "layer conv.weight (weights): its file does not say what its axes are" in told
        assert "describe that, and the size of its input (bias: conv.bias)" in told
    assert os.listdir() == ["w.h5"]


@pytest.mark.parametrize(
    ("name", "shape", "bias", "outputs", "order"),
    [
        ("conv.weight", (3, 2, 3, 2), "conv.bias", 3, "oihw"),
        ("conv.weight", (3, 2, 3, 2), None, 0, "oihw"),
        ("up.weight", (3, 2, 3, 2), "up.bias", 2, "iohw --transposed"),
        ("conv.weight", (3, 2, 4), "conv.bias", 3, "oiw"),
        ("conv.weight", (3, 2, 1, 2, 3), "conv.bias", 3, "oidhw"),
        ("conv.weight", (3, 2, 3, 2), "conv.bias", 7, "oihw"),
        ("c/kernel:0", (3, 2, 2, 5), "c/bias:0", 5, "hwio"),
        ("c/kernel:0", (3, 2, 5), "c/bias:0", 5, "wio"),
        ("d/depthwise_kernel:0", (3, 2, 2, 5), "d/bias:0", 10, "hwim"),
        ("d/depthwise_kernel:0", (3, 2, 2, 5), None, 0, "hwim"),
        (
            "layers/conv2d_transpose/vars/0",
            (3, 2, 4, 5),
            "layers/conv2d_transpose/vars/1",
            4,
            "hwoi",
        ),
        (
            "layers/depthwise_conv2d/vars/0",
            (3, 2, 4, 5),
            "layers/depthwise_conv2d/vars/1",
            20,
            "hwim",
        ),
        ("with space/W", (3, 2, 300, 2), "with space/b", 3, "oihw"),
    ],
)
def test_weights_alone_print_a_command_that_works(
    folder: Path, name: str, shape: tuple[int, ...], bias: str | None, outputs: int, order: str
) -> None:
    """Once the names and the bias leave a choice; what it means is for people to say."""
    datasets = {name: ramp(*shape), **({bias: ramp(outputs)} if bias else {})}
    path = weights(folder / "w.h5", datasets)
    told = run("convert", "w.h5", "--form", "operator").failed(2)
    command = told[told.index("convfc convert") :]
    assert f" --kernel-order {order} " in f"{command} "
    assert (f"--bias {shlex.quote(str(bias))} " in command) == (outputs not in (0, 7))
    assert command.removeprefix("convfc convert w.h5 ") in told
    done = run(*shlex.split(command)[1:]).succeeded()
    stored = arrays(Path(done.lines[0]))
    assert stored["kernel"].size == ramp(*shape).size
    assert ("kernel_bias" in stored) == (outputs not in (0, 7))
    said = run("inspect", path.name).succeeded().err
    assert command.replace(" --form operator", "") in said


def test_a_command_for_matlab(folder: Path) -> None:
    matlab(folder / "net.mat", {"w": ramp(3, 2, 4, 5), "b": ramp(5, 1)})
    told = run("convert", "net.mat").failed(2)
    assert "--weight w --bias b --kernel-order hwio --input-shape 1,4,64,64" in told


# Whole models


def test_an_onnx_model_has_no_use_for_a_description(folder: Path) -> None:
    told = run("convert", LENET, *describing("oihw", "w"), "--input-shape", "1,1,28,28")
    assert "for files of weights alone" in told.failed(2)
    assert os.listdir() == []


# What is listed


def many(folder: Path) -> Path:
    """Datasets of every kind, of which `a`, `b` and `c` may be kernels."""
    return weights(
        folder / "w.h5",
        {
            "net/a.weight": ramp(3, 2, 3),
            "net/a.bias": ramp(3),
            "net/b.weight": ramp(3, 2, 3, 2).astype("f8"),
            "net/c.weight": ramp(3, 2, 3, 2, 1).astype("f2"),
            "net/two": ramp(3, 2),
            "net/six": ramp(1, 2, 1, 2, 1, 2),
            "net/whole": ramp(3, 2, 3, dtype="i4"),
            "net/text": "kernel",
            "net/scalar": 1.0,
            "optimizer_weights/m": ramp(3, 2, 3),
            "optimizer/vars/1": ramp(3, 2, 3),
            "empty": h5py.Empty("f4"),
            "none": np.zeros((3, 0, 3, 2), np.float32),
        },
    )


def test_candidates_are_listed_with_what_is_missing(folder: Path) -> None:
    done = run("inspect", many(folder)).succeeded()
    head, *rows = [line.split("\t") for line in done.lines]
    listed = [dict(zip(head, row, strict=True)) for row in rows]
    assert [item["layer"] for item in listed] == ["net/a.weight", "net/b.weight", "net/c.weight"]
    assert [item["position"] for item in listed] == ["0", "1", "2"]
    assert [item["kernel"] for item in listed] == ["3x2x3", "3x2x3x2", "3x2x3x2x1"]
    assert {item["op"] for item in listed} == {"weights"}
    for item in listed:
        assert item["status"].startswith("weights alone: its file does not say what its axes are")
        assert (item["input"], item["output"], item["nonzeros"], item["bytes"]) == ("",) * 4
    told = [item["status"].rsplit("(", 1)[1] for item in listed]
    assert told == ["bias: net/a.bias)", "bias: none)", "bias: none)"]
    assert done.err.startswith("0 of 3 layers ready: 0 nonzeros, 0 bytes as csr\n")


def test_candidates_as_json(folder: Path) -> None:
    found = json.loads(run("inspect", many(folder), "--json").succeeded().out)
    assert (found["kind"], found["model"]) == ("hdf5", str(folder / "w.h5"))
    first = found["layers"][0]
    assert (first["kernel_shape"], first["dtype"]) == ([3, 2, 3], "float32")
    assert (first["status"], first["input_shape"]) == ("weights alone", None)
    assert "the size of its input (bias" in first["reason"]
    assert [item["dtype"] for item in found["layers"]] == ["float32", "float64", "float16"]


@pytest.mark.slow
def test_candidates_on_a_terminal(folder: Path) -> None:
    path = many(folder)
    code, shown, others = terminal("inspect", path.name, cwd=folder)
    shown = COLOR.sub("", shown)
    assert code == 0
    assert [word in shown for word in ("net/a.weight", "3x2x3x2x1", "weights alone")] == [True] * 3
    assert "net/two" not in shown
    assert "--weight net/a.weight --bias net/a.bias --kernel-order" in others["stderr"]


def test_a_described_layer_is_listed_as_a_layer(folder: Path) -> None:
    path = state(folder)
    listed = json.loads(run("inspect", path, *PLAIN, "--bias", "none", "--json").succeeded().out)
    (item,) = listed["layers"]
    assert (item["layer"], item["op"], item["status"]) == ("conv.weight", "Conv", "ready")
    assert (item["input_shape"], item["output_shape"]) == ([2, 5, 4], [3, 3, 3])
    assert (item["kernel_shape"], item["groups"]) == ([3, 2, 3, 2], 1)
    assert item["nonzeros"] == np.count_nonzero(matrix(ramp(3, 2, 3, 2), (5, 4))[0])
    done = run("inspect", path, *PLAIN[:4], "--bias", "none").succeeded()
    assert "needs a size: its file does not say the size of its input, 2 channels" in done.out


def test_a_file_without_candidates_says_so(folder: Path) -> None:
    path = weights(folder / "w.h5", {"dense": ramp(3, 2)})
    for command in ("inspect", "convert"):
        assert "w.h5 has no convolution" in run(command, path).failed(2)


def test_the_suffix_of_a_file_does_not_matter(folder: Path) -> None:
    state(folder).rename(folder / "weights.json")
    assert len(run("inspect", "weights.json").succeeded().lines) == 2
    content = (folder / "weights.json").read_bytes()
    assert len(run("inspect", "-", stdin=content).succeeded().lines) == 2
    done = run("convert", "-", *PLAIN, "--bias", "none", "-o", "c.npz", stdin=content).succeeded()
    assert done.lines == ["c.npz"]


# Proof


def verify(*options: object) -> Ran:
    return run("verify", "c.npz", *options, "-q")


def test_the_same_description_proves_a_file_and_no_other_does(folder: Path) -> None:
    path = weights(
        folder / "w.h5",
        {
            "k": ramp(4, 4, 3, 3),
            "b": ramp(4),
            "other": ramp(4, 4, 3, 3) + 1,
            "c": np.flip(ramp(4)).copy(),
        },
    )
    told = [*describing("oihw", "k"), "--bias", "b", "--pad", "1"]
    convert(path, *told, "--input-shape", "1,4,5,5")
    for same in (
        told,
        [*told, "--input-shape", "1,4,5,5"],
        [*told, "--pad", "1,1", "--stride", "1"],
        [*told, "--pad", "same"],
    ):
        done = verify("--model", path, *same).succeeded()
        assert done.lines[0].startswith("proven\t")
    for other in (
        ["--kernel-order", "iohw"],
        ["--kernel-order", "oiwh"],
        ["--weight", "other"],
        ["--bias", "none"],
        ["--bias", "c"],
        ["--pad", "valid"],
        ["--stride", "2"],
        ["--dilation", "2"],
        ["--transposed"],
        ["--input-shape", "1,4,6,5"],
    ):
        done = verify("--model", path, *told, *other)
        assert (done.code, done.lines[0].split("\t")[0]) == (1, "wrong"), (other, done)


def test_a_description_to_verify_by_needs_a_model(folder: Path) -> None:
    convert(state(folder), *PLAIN, "--bias", "none")
    told = verify(*describing("oihw", "conv.weight")).failed(2)
    assert "they go with --model" in told


def test_convert_says_what_it_could_not_do(folder: Path) -> None:
    """Nothing else can run a layer of which only a person knows what it is."""
    done = run("convert", state(folder), *PLAIN, "--bias", "none").succeeded()
    assert "the original node was not run" in done.err
    assert "proven (2^-96)" in done.err
    assert done.lines == ["w.h5.fc/000-conv.weight.npz"]


# The API


def test_the_api_says_what_the_command_says(folder: Path) -> None:
    path = state(folder)
    spec = WeightsSpec("conv.weight", "oihw", bias="conv.bias", stride=(2,), pad="same")
    wanted, outputs = matrix(ramp(3, 2, 3, 2), (5, 4), stride=(2, 2), pads=((1, 1), (0, 0)))
    model = convfc.read(path, (1, 2, 5, 4), spec)
    (entry,) = model.entries
    assert (model.kind, entry.require().output_shape) == ("hdf5", outputs)
    layer = entry.load()
    assert np.array_equal(layer.kernel, ramp(3, 2, 3, 2))
    assert layer.bias is not None
    assert np.array_equal(layer.bias, ramp(3))
    for shape in ((1, 2, 5, 4), {None: (1, 2, 5, 4)}, {"conv.weight": (1, 2, 5, 4)}):
        found = convfc.matrix(path, weights=spec, input_shape=shape)
        assert np.array_equal(found.toarray(), wanted)
    done = convfc.convert(path, "c.npz", weights=spec, input_shape=(1, 2, 5, 4))
    assert done.exit_code == 0
    assert np.array_equal(matrix_of(Path("c.npz")), wanted)
    assert convfc.verify("c.npz", model=convfc.read(path, weights=spec)).ok
    other = WeightsSpec("conv.weight", "oihw", bias="conv.bias", stride=(2,), pad=((1, 1), (1, 1)))
    assert not convfc.verify("c.npz", model=convfc.read(path, weights=other)).ok


def test_a_layer_without_a_size_takes_any(folder: Path) -> None:
    (entry,) = convfc.read(
        state(folder), weights=WeightsSpec("conv.weight", "oihw", bias="")
    ).entries
    assert entry.status == "needs a size"
    with pytest.raises(SizeMissing) as missing:
        entry.require()
    assert missing.value.hint == "1,2,64,64"
    for sizes in ((5, 4), (3, 2), (9, 2)):
        found = entry.at((2, *sizes))
        assert found.require().output_shape == matrix(ramp(3, 2, 3, 2), sizes)[1]
        assert found.at((2, 7, 7)).require().input_shape == (2, 7, 7)
    with pytest.raises(UsageError, match="does not fit"):
        entry.at((3, 5, 4))


def test_the_api_holds_a_description_to_its_words(folder: Path) -> None:
    path = state(folder)
    for spec, told in (
        (WeightsSpec("conv.weight", "oihw", "", pad="full"), "'full' is not one of"),
        (WeightsSpec("conv.weight", "oihw", "", pad="valid", transposed=True), "is ambiguous"),
        (WeightsSpec("conv.weight", "oihw", "", stride=(1, 1, 1)), "stride has 3 values"),
        (WeightsSpec("conv.weight", "oihw", "", stride=()), "stride has 0 values"),
        (WeightsSpec("conv.weight", "oihw", "", output_padding=(0, 1)), "goes with a transposed"),
    ):
        with pytest.raises(UsageError, match=told):
            convfc.read(path, weights=spec)


# MATLAB


def test_matlab_reverses_axes_and_drops_ones_at_the_end(folder: Path) -> None:
    """MATLAB's own shapes: (h, w, in, out), and a column for the bias."""
    several, single = ramp(3, 2, 4, 5), ramp(5, 4, 1, 1)
    path = matlab(
        folder / "net.mat",
        {"w": several, "v": single, "b": ramp(5, 1), "c": ramp(1, 1), "n": ramp(3, 2, 4, 1)},
    )
    with h5py.File(path) as file:  # what lies in the file
        assert file["w"].shape == (5, 4, 2, 3)
        assert file["v"].shape == (4, 5)
        assert file["b"].shape == (1, 5)
        assert file["n"].shape == (4, 2, 3)
    listed = json.loads(run("inspect", path, "--json").succeeded().out)["layers"]
    assert [(item["layer"], item["kernel_shape"]) for item in listed] == [
        ("n", [3, 2, 4]),
        ("w", [3, 2, 4, 5]),
    ]
    told = [*describing("hwio", "w"), "--bias", "b", "--input-shape", "1,4,5,4"]
    found = convert(path, *told)
    assert np.array_equal(found["M"], matrix(several.transpose(3, 2, 0, 1), (5, 4))[0])
    assert np.array_equal(found["kernel_bias"], ramp(5))
    told = [*describing("hwio", "v"), "--bias", "c", "--input-shape", "1,1,7,6"]
    found = convert(path, *told)
    assert np.array_equal(found["kernel"], single.reshape(1, 1, 5, 4))
    assert np.array_equal(found["M"], matrix(single.reshape(1, 1, 5, 4), (7, 6))[0])
    assert np.array_equal(found["kernel_bias"], [-1])
    told = [*describing("hwio", "n"), "--bias", "none", "--input-shape", "1,4,5,4"]
    found = convert(path, *told)
    assert np.array_equal(found["kernel"], ramp(3, 2, 4, 1).transpose(3, 2, 0, 1))


def test_a_filter_of_matlab_by_hand(folder: Path) -> None:
    """w = [1 2; 3 4; 5 6] over a 3 x 3 image: its first row lies along the image's rows."""
    w = np.array([[1, 2], [3, 4], [5, 6]], np.float64)
    path = matlab(folder / "net.mat", {"w": w})
    found = convert(path, *describing("hwio", "w"), "--input-shape", "1,1,3,3")
    assert found["M"].tolist() == [[1, 2, 0, 3, 4, 0, 5, 6, 0], [0, 1, 2, 0, 3, 4, 0, 5, 6]]
    assert found["data"].dtype == np.float64


def test_matlab_has_no_ones_to_give_within_a_shape(folder: Path) -> None:
    path = matlab(folder / "net.mat", {"w": ramp(3, 2, 4, 5), "i": ramp(3, 2, 4, 5, dtype="i4")})
    told = run("convert", path, *describing("wio", "w"), "--input-shape", "1,4,5").failed(2)
    assert "names 3 axes; w has 4, (3, 2, 4, 5)" in told
    told = run("convert", path, *describing("hwio", "i"), "--input-shape", "1,4,5,5").failed(4)
    assert "holds int32" in told


def test_only_matlab_gives_ones(folder: Path) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2)})
    told = run("convert", path, *describing("hwio", "k"), "--input-shape", "1,1,5,4").failed(2)
    assert "names 4 axes; k has 2, (3, 2)" in told


# Caffe, Keras: what their own files look like


def test_caffe(folder: Path) -> None:
    kernel = ramp(4, 1, 3, 2)
    path = weights(
        folder / "net.caffemodel.h5",
        {"data/conv1/0": kernel, "data/conv1/1": ramp(1, 1, 1, 4), "data/ip/0": ramp(10, 4)},
    )
    listed = [line.split("\t")[1] for line in run("inspect", path).succeeded().lines[1:]]
    assert listed == ["data/conv1/0"]
    told = ["--bias", "data/conv1/1", "--groups", "2", "--pad", "1", "--input-shape", "1,2,5,4"]
    found = convert(path, *describing("oihw", "data/conv1/0"), *told)
    wanted, outputs = matrix(kernel, (5, 4), groups=2, pads=((1, 1), (1, 1)))
    assert np.array_equal(found["M"], wanted)
    assert np.array_equal(found["bias"], np.repeat(ramp(4), prod(outputs[1:])))


KERAS = {
    "net.weights.h5": {
        "net/first": "layers/conv2d/vars hwio --stride 2 --pad same",
        "net/depth": "layers/depthwise_conv2d/vars hwim",
        "net/up": "layers/conv2d_transpose/vars hwoi --transposed --stride 2",
        "net/last": "layers/conv2d_1/vars hwio --dilation 2 --groups 2",
    },
    "own.weights.h5": {
        "own/conv1": "conv1/vars hwio",
        "own/blocks1": "blocks/conv2d_1/vars hwio",
    },
}
KERAS["own.keras"] = KERAS["own.weights.h5"]
KERAS["sharded.weights.json"] = KERAS["net.weights.h5"]


@pytest.mark.parametrize("name", KERAS)
def test_weights_that_keras_3_wrote(folder: Path, name: str) -> None:
    truth = recorded("keras_weights", folder)
    for layer, told in KERAS[name].items():
        group, order, *options = told.split()
        x, y = (np.moveaxis(truth[f"{layer}/{end}"], -1, 0) for end in "xy")
        size = ",".join(map(str, (1, *x.shape)))
        given = [*describing(order, f"{group}/0"), *options, "--input-shape", size]
        if layer == "net/last":
            found = convert(folder / name, *given)
        else:
            assert f"{group}/1 lies beside" in run("convert", name, *given).failed(2)
            found = convert(folder / name, *given, "--bias", f"{group}/1")
        assert close(found, x, y), layer


@pytest.mark.parametrize("name", KERAS)
def test_only_kernels_of_keras_3_are_listed(folder: Path, name: str) -> None:
    """The optimizer keeps arrays of the same shapes."""
    recorded("keras_weights", folder)
    if name.startswith("net"):
        with h5py.File(name) as file:
            assert file["optimizer/vars/2"].shape == file["layers/conv2d/vars/0"].shape
    listed = json.loads(run("inspect", name, "--json").succeeded().out)["layers"]
    wanted = {f"{told.split()[0]}/0" for told in KERAS[name].values()}
    if name.startswith("own"):
        wanted |= {"blocks/conv2d/vars/0"}
    assert {item["layer"] for item in listed} == wanted
    assert {item["status"] for item in listed} == {"weights alone"}


def test_weights_that_keras_2_wrote(folder: Path) -> None:
    truth = recorded("keras_weights", folder)
    listed = [line.split("\t")[1] for line in run("inspect", "legacy.h5").succeeded().lines[1:]]
    assert listed == [
        "a/b/a/b/kernel:0",
        "separable/separable/depthwise_kernel:0",
        "separable/separable/pointwise_kernel:0",
    ]
    x, y = truth["legacy/a/b/x"].T, truth["legacy/a/b/y"].T
    told = ["--bias", "a/b/a/b/bias:0", "--pad", "causal", "--dilation", "2"]
    given = [*describing("wio", listed[0]), *told, "--input-shape", "a/b/a/b/kernel:0=1,2,9"]
    assert close(convert(folder / "legacy.h5", *given), x, y)


def test_a_kernel_out_of_a_whole_keras_model(folder: Path) -> None:
    """A description takes the dataset, whatever the configuration says."""
    kernel = ramp(3, 2, 2, 3)
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}
    path = weights(folder / "m.h5", {"model_weights/c/c/kernel:0": kernel})
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
    told = [*describing("hwio", "model_weights/c/c/kernel:0"), "--input-shape", "1,2,5,4"]
    wanted = matrix(kernel.transpose(3, 2, 0, 1), (5, 4))[0]
    assert np.array_equal(convert(path, *told)["M"], wanted)
    found = json.loads(run("inspect", path, *told, "--json").succeeded().out)
    assert found["kind"] == "keras"


def test_a_kernel_out_of_a_zip_of_keras(folder: Path) -> None:
    kernel = ramp(3, 2, 2, 3)
    weights(folder / "w.h5", {"layers/conv2d/vars/0": kernel})
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.0"}))
        archive.write(folder / "w.h5", "model.weights.h5")
    told = [*describing("hwio", "layers/conv2d/vars/0"), "--input-shape", "1,2,5,4"]
    wanted = matrix(kernel.transpose(3, 2, 0, 1), (5, 4))[0]
    assert np.array_equal(convert(folder / "m.keras", *told)["M"], wanted)
    told[1] = "conv2d"
    assert "there are layers/conv2d/vars/0" in run("convert", "m.keras", *told).failed(2)


# Strangers' files


def soft_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["real"] = ramp(3, 2, 3, 2)
        file["k"] = h5py.SoftLink("/real")


def looped_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["k"] = h5py.SoftLink("/k")


def external_link(path: Path) -> None:
    weights(path.with_name("there.h5"), {"k": ramp(3, 2, 3, 2)})
    with h5py.File(path, "w") as file:
        file["k"] = h5py.ExternalLink("there.h5", "/k")


def external_storage(path: Path) -> None:
    path.with_name("there").write_bytes(ramp(3, 2, 3, 2).tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("k", (3, 2, 3, 2), "f4", external=[("there", 0, h5py.h5f.UNLIMITED)])


def virtual(path: Path) -> None:
    there = weights(path.with_name("there.h5"), {"k": ramp(3, 2, 3, 2)})
    layout = h5py.VirtualLayout((3, 2, 3, 2), "f4")
    layout[:] = h5py.VirtualSource(there, "k", (3, 2, 3, 2))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("k", layout)


def declared_beyond_the_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("k", (2**10, 2**10, 2**10, 2**10), "f4", chunks=(1, 1, 32, 32))


def bias_elsewhere(path: Path) -> None:
    weights(path.with_name("there.h5"), {"b": ramp(3)})
    with h5py.File(path, "w") as file:
        file["k"] = ramp(3, 2, 3, 2)
        file["b"] = h5py.ExternalLink("there.h5", "/b")


def truncated(path: Path) -> None:
    weights(path, {"k": np.ones((64, 64, 3, 3), np.float32)})
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        (soft_link, 5, "is a soft link to '/real': links are not followed"),
        (looped_link, 5, "is a soft link to '/k'"),
        (external_link, 5, "is an external link to 'there.h5'"),
        (external_storage, 5, "has its values in another file, 'there'"),
        (virtual, 5, "is virtual"),
        (declared_beyond_the_file, 5, ""),
        (bias_elsewhere, 5, "is an external link to 'there.h5'"),
        (truncated, 3, "truncated"),
    ],
)
def test_what_leads_out_of_a_file_is_refused(folder: Path, make: Any, code: int, told: str) -> None:
    make(folder / "w.h5")
    before = listing(folder)
    size = "1,1024,1024,1024" if make is declared_beyond_the_file else "1,2,5,4"
    bias = "b" if make is bias_elsewhere else "none"
    given = [*describing("oihw", "k"), "--bias", bias, "--input-shape", size, "--form", "operator"]
    assert told in run("convert", "w.h5", *given, "-o", "c.npz").failed(code)
    if make is not declared_beyond_the_file:  # of which nothing has to be read to list it
        assert told in run("inspect", "w.h5").failed(code)
    assert listing(folder) == before


@pytest.mark.parametrize("name", ["/etc/passwd", "//k", "/../k", "..", "a/../k", "\0", "k\0"])
def test_names_that_lead_nowhere(folder: Path, name: str) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2, 3, 2)})
    for spec in (WeightsSpec(name, "oihw"), WeightsSpec("k", "oihw", bias=name)):
        if name == "//k" and not spec.bias:
            assert convfc.read(path, weights=spec).entries[0].name == "k"
            continue
        with pytest.raises(Refused if ".." in name else (UsageError, Unsupported)):
            convfc.read(path, weights=spec)


def test_what_a_name_could_do_to_a_terminal_is_not_printed(folder: Path) -> None:
    path = weights(folder / "w.h5", {"\x1b[31mk\n": ramp(3, 2, 3, 2)})
    done = run("inspect", path).succeeded()
    assert "\x1b" not in done.out + done.err
    assert len(done.lines) == 2
    told = run("convert", path, *describing("oihw", "k"), "--input-shape", "1,2,5,4").failed(2)
    assert "\x1b" not in told


def test_a_name_among_very_many_is_found_soon(folder: Path) -> None:
    """Names are only compared where none has what was asked for in it."""
    with h5py.File(folder / "w.h5", "w") as file:
        file["layer_0/kernel:0"] = np.float32(1)
        for n in range(1, 3000):
            file[f"layer_{n}"] = file["layer_0"]
        file["last/kernel:0"] = np.float32(1)
    told = run("convert", "w.h5", *describing("oihw", "last/kernel")).failed(2)
    assert "there are last/kernel:0" in told
    told = run("convert", "w.h5", *describing("oihw", "lost/kernel:0")).failed(2)
    assert "there are last/kernel:0" in told
