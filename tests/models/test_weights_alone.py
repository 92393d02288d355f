"""Weights alone: a dataset and a description make a layer, and nothing is guessed."""

import json
from itertools import combinations, permutations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.models.request import WeightsSpec
from tests.support.cli_models import listing, run
from tests.support.hdf5_files import RECORDED, matrix, ramp, recorded, weights
from tests.support.weights_alone import PLAIN, close, convert, describing, state, stored_as, varied

pytestmark = pytest.mark.usefixtures("folder", "in_place")


# Which axis is which


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
    large = convert(path, *varied(PLAIN, "--bias", "none", "--kernel-order", "OIHW"))
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
    # Spans 3 and 2: half is 1 and 1, full 2 and 1.
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad half", {"pads": ((1, 1), (1, 1))}),
    ("oihw", (3, 2, 3, 2), (5, 4), "--pad full", {"pads": ((2, 2), (1, 1))}),
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
        "--kernel-order": varied(base, "--kernel-order", "iohw"),
        "the order of spatial axes": varied(base, "--kernel-order", "oiwh"),
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
        assert f"(bias: {bias})" in item["error"]["message"]


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
