"""The bias of weights alone: named by the user, asked about where it lies beside the kernel."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli_models import listing, run
from tests.support.hdf5_files import ramp, weights
from tests.support.weights_alone import convert, describing

pytestmark = pytest.mark.usefixtures("folder", "in_place")


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
