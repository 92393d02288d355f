"""Files of Keras 1 and of Theano: layers of other names, and kernels that are turned round."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import load_npz

from convfc_cli.errors import Unsupported, UsageError
from tests.support.cli_models import run
from tests.support.keras_files import Config, layer, legacy, only, ramp
from tests.support.keras_weights import BIAS, KERAS1, KERNEL, check, conv, model_of

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]


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
