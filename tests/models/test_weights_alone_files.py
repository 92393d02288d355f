"""Weights alone in the files of MATLAB, Caffe and Keras, and in untrusted ones."""

import json
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import Refused, Unsupported, UsageError
from convfc_cli.models.request import WeightsSpec
from tests.support.cli_models import listing, run
from tests.support.hdf5_files import matlab, matrix, ramp, recorded, weights
from tests.support.weights_alone import close, convert, describing

pytestmark = pytest.mark.usefixtures("folder", "in_place")


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
    assert found["model"]["kind"] == "keras"


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
