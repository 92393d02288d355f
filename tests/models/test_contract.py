"""One contract for every kind of model file: the same small network, written in each by hand.

A kind that is registered and has no maker here fails; whoever adds one adds its maker to MAKERS.
"""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper

from convfc_cli.errors import ConvfcError, MalformedInput, UsageError
from convfc_cli.files import opened
from convfc_cli.models import registry, weights_alone
from convfc_cli.models.keras import convolution
from convfc_cli.models.model import Model
from convfc_cli.models.onnx import constants
from convfc_cli.models.request import WeightsSpec
from tests.support import brute
from tests.support.cli_models import process, run
from tests.support.models import info, make_model, tensor

RANDOM = np.random.default_rng(5)

KERNELS = [
    RANDOM.standard_normal((3, 2, 3, 2)).astype(np.float32),
    RANDOM.standard_normal((2, 3, 2, 2)).astype(np.float32),
]
"""(out, in, y, x) of the layers `first`, with stride (2, 1), and `second`; no padding."""

BIASES = [
    RANDOM.standard_normal(3).astype(np.float32),
    RANDOM.standard_normal(2).astype(np.float32),
]

STRIDES = [(2, 1), (1, 1)]

NAMES = ["first", "second"]

INPUTS = [(2, 7, 6), (3, 3, 5)]
"""(channels, y, x) of what each reads."""

OUTPUTS = [(3, 3, 5), (2, 2, 4)]


def as_onnx(path: Path, kernels: list[Any]) -> None:
    nodes, stored = [], []
    for name, kernel, bias, stride, source in zip(
        NAMES, kernels, BIASES, STRIDES, ["x", "first"], strict=True
    ):
        stored += [tensor(f"{name}.W", kernel), tensor(f"{name}.B", bias)]
        inputs = [source, f"{name}.W", f"{name}.B"]
        nodes.append(helper.make_node("Conv", inputs, [name], name=name, strides=stride))
    onnx.save(make_model(nodes, [info("x", (1, *INPUTS[0]))], stored), path)


def keras_config(version: int) -> dict[str, Any]:
    shape = "batch_shape" if version == 3 else "batch_input_shape"
    layers: list[dict[str, Any]] = [
        {"class_name": "InputLayer", "config": {"name": "x", shape: [None, 7, 6, 2]}}
    ]
    for name, kernel, stride in zip(NAMES, KERNELS, STRIDES, strict=True):
        config = {"name": name, "filters": len(kernel), "kernel_size": kernel.shape[2:]}
        layers.append({"class_name": "Conv2D", "config": {**config, "strides": stride}})
    return {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}


def as_keras_h5(path: Path, kernels: list[Any]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(keras_config(2))
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        for name, kernel, bias in zip(NAMES, kernels, BIASES, strict=True):
            group = file.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
            group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel.transpose(2, 3, 1, 0), bias


def as_keras_zip(path: Path, kernels: list[Any]) -> None:
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        for place, kernel, bias in zip(["conv2d", "conv2d_1"], kernels, BIASES, strict=True):
            file[f"layers/{place}/vars/0"] = kernel.transpose(2, 3, 1, 0)
            file[f"layers/{place}/vars/1"] = bias
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.4.1"}))
        archive.writestr("config.json", json.dumps(keras_config(3)))
        archive.writestr("model.weights.h5", held.getvalue())


def as_nir(path: Path, kernels: list[Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, kernel, bias, stride, shape in zip(
            NAMES, kernels, BIASES, STRIDES, INPUTS, strict=True
        ):
            node = file.create_group(f"node/nodes/{name}")
            node["type"], node["weight"], node["bias"], node["stride"] = (
                "Conv2d",
                kernel,
                bias,
                stride,
            )
            node["padding"], node["dilation"], node["groups"] = (0, 0), (1, 1), 1
            node["input_shape"] = shape[1:]


MAKERS: list[tuple[str, str, Callable[[Path, list[Any]], None]]] = [
    ("onnx", "m.onnx", as_onnx),
    ("keras", "m.h5", as_keras_h5),
    ("keras", "m.keras", as_keras_zip),
    ("hdf5", "m.nir", as_nir),
]
"""(kind, file name, what writes the network in it)."""

every_kind = pytest.mark.parametrize(("kind", "name", "make"), MAKERS, ids=[m[1] for m in MAKERS])

LAST = {"keras"}
"""Kinds that flatten channels last."""


def read_back(make: Any, path: Path, **options: Any) -> Model:
    make(path, KERNELS)
    return registry.read(path, **options)


def test_every_registered_kind_has_a_maker():
    formats = registry.formats()
    assert list(formats) == sorted(formats)
    assert set(formats) == {kind for kind, _, _ in MAKERS}
    for name, kind in formats.items():
        assert kind.name == name
        assert kind.summary


@every_kind
def test_a_kind_is_known_by_its_content_alone(kind, name, make, folder):
    make(folder / name, KERNELS)
    for other in ("m", "m.json", "m.npz"):
        (folder / name).rename(folder / other)
        name = other
        with opened(other) as source:
            assert [k.name for k in registry.formats().values() if k.recognizes(source)] == [kind]


@every_kind
def test_its_layers_are_listed_in_order(kind, name, make, folder):
    model = read_back(make, folder / name)
    assert (model.kind, model.name) == (kind, str(folder / name))
    assert [entry.position for entry in model.entries] == [0, 1]
    assert [entry.name for entry in model.entries] == NAMES
    assert len({entry.output for entry in model.entries}) == 2
    for entry, shape, output, kernel in zip(model.entries, INPUTS, OUTPUTS, KERNELS, strict=True):
        assert entry.status == "ready"
        assert entry.require().input_shape == shape
        assert entry.require().output_shape == output
        assert entry.require().kernel_shape == kernel.shape
        assert (entry.dtype, entry.matrix_dtype) == ("float32", "float32")
        assert entry.layout == ("channels-last" if kind in LAST else "channels-first")
        assert entry.flipped is False


@every_kind
def test_listing_reads_no_weights(kind, name, make, folder, monkeypatch):
    make(folder / name, KERNELS)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("weights were read")

    with monkeypatch.context() as patch:
        patch.setattr(constants, "decoded", refuse)
        patch.setattr(convolution, "numbers", refuse)
        patch.setattr(weights_alone, "numbers", refuse)
        model = registry.read(folder / name)
        with pytest.raises(AssertionError, match="weights were read"):
            model.entries[0].load()
    assert model.entries[0].load().kernel.shape == KERNELS[0].shape


@every_kind
def test_the_weights_are_read_after_the_file_is_closed_and_gone(kind, name, make, folder):
    model = read_back(make, folder / name)
    (folder / name).unlink()
    for entry, kernel, bias in zip(model.entries, KERNELS, BIASES, strict=True):
        layer = entry.load()
        assert layer.index_map == entry.outline
        assert layer.kernel.tobytes() == kernel.tobytes()
        assert layer.bias.tobytes() == bias.tobytes()


@every_kind
def test_what_a_layer_computes_is_what_the_network_does(kind, name, make, folder):
    x = RANDOM.integers(-9, 9, INPUTS[0]).astype(float)
    layer = read_back(make, folder / name).entries[0].load()
    y = np.zeros(OUTPUTS[0])
    for c, i, j in np.ndindex(y.shape):  # straight from the definition: stride (2, 1), no padding
        y[c, i, j] = (KERNELS[0][c] * x[:, 2 * i : 2 * i + 3, j : j + 2]).sum()
    np.testing.assert_allclose(layer.apply(x), y, rtol=1e-6, atol=1e-5)


@pytest.mark.slow
@every_kind
def test_a_pipe_gives_what_the_file_does(kind, name, make, folder):
    model = read_back(make, folder / name)
    piped = process("inspect", "-", "--json", cwd=folder, stdin=(folder / name).read_bytes())
    listed = json.loads(piped.succeeded().out)
    assert listed["model"]["sha256"] == model.sha256
    assert [layer["layer"] for layer in listed["layers"]] == NAMES
    done = process(
        *("convert", "-", "-l", "second", "-o", "p.npz"),
        cwd=folder,
        stdin=(folder / name).read_bytes(),
    )
    assert done.succeeded().lines == ["p.npz"]


@every_kind
def test_a_layer_can_be_had_at_another_size(kind, name, make, folder):
    entry = read_back(make, folder / name).entries[0].at((2, 9, 4))
    assert entry.require().output_shape == (3, 4, 3)
    assert entry.load().kernel.tobytes() == KERNELS[0].tobytes()
    with pytest.raises(ConvfcError):
        entry.at((2, 2, 4))
    with pytest.raises(ConvfcError):
        entry.at((3, 9, 4))


@every_kind
def test_a_size_that_the_model_does_not_have_is_a_usage_error(kind, name, make, folder):
    make(folder / name, KERNELS)
    with pytest.raises(UsageError):
        registry.read(folder / name, {"nothing of that name": (1, 2, 7, 6)})


@every_kind
def test_it_converts_and_is_proven_to_be_the_models(kind, name, make, folder):
    make(folder / name, KERNELS)
    done = run("convert", name, "-o", "out/").succeeded()
    assert done.lines == ["out/000-first.npz", "out/001-second.npz"]
    order = "channels-last" if kind in LAST else "channels-first"
    for file, kernel, stride, shape in zip(done.lines, KERNELS, STRIDES, INPUTS, strict=True):
        with np.load(file) as arrays:
            meta, found = json.loads(str(arrays["convfc"])), dict(arrays)
        axes = list(map(PlainAxis, shape[1:], kernel.shape[2:], stride))
        expected = brute.csr(kernel, axes, 1, False, order, False)
        assert meta["layout"] == {"order": order, "transpose": False}
        assert found["data"].tobytes() == expected.data.tobytes()
        np.testing.assert_array_equal(found["indices"], expected.indices)
        np.testing.assert_array_equal(found["indptr"], expected.indptr)
    run("verify", "out", "--model", name).succeeded()
    make(folder / name, [np.flip(kernel, -1) for kernel in KERNELS])
    assert run("verify", "out", "--model", name).code == 1


class PlainAxis:
    """The six numbers of an axis without padding, counted here."""

    def __init__(self, inputs: int, kernel: int, stride: int) -> None:
        self.inputs, self.kernel, self.stride = inputs, kernel, stride
        self.outputs = len(range(0, inputs - kernel + 1, stride))
        self.dilation, self.offset = 1, 0


@pytest.mark.slow
@every_kind
def test_a_file_cut_short_is_an_error_or_lists_the_same(kind, name, make, folder):
    make(folder / name, KERNELS)
    content = (folder / name).read_bytes()
    for part in range(1, 24):
        (folder / name).write_bytes(content[: len(content) * part // 24])
        with pytest.raises(ConvfcError):
            [entry.load() for entry in registry.read(folder / name).entries]


@every_kind
def test_a_description_of_bare_weights_fits_or_is_refused(kind, name, make, folder):
    spec = WeightsSpec("model_weights/first/first/kernel:0", "hwio", bias="")
    if kind == "keras" and name == "m.h5":
        (entry,) = read_back(make, folder / name, input_shape=(1, 2, 7, 6), weights=spec).entries
        assert entry.load().kernel.tobytes() == KERNELS[0].tobytes()
    else:
        with pytest.raises(UsageError):
            read_back(make, folder / name, input_shape=(1, 2, 7, 6), weights=spec)


def test_what_is_no_model_is_refused_with_the_kinds_there_are(folder):
    (folder / "t").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(MalformedInput) as error:
        registry.read(folder / "t")
    for kind in registry.formats():
        assert kind in str(error.value)
