"""The sample networks against what their frameworks computed with them (`sample_models/README.md`).

`tests/data/recorded` holds the input and the output of every convolution as the framework itself
ran it: a witness that has seen neither ONNX nor convfc. The network `digits` is there once for each
kind of file, with the outputs of PyTorch, Keras 2 and Keras 3: its files are also held to each
other, bit for bit.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz

import convfc_cli
from convfc_cli.layout import Layout
from convfc_cli.matrices.matrix import digest
from convfc_cli.models.entry import Entry
from convfc_cli.models.registry import read
from convfc_cli.models.request import WeightsSpec
from tests.support.models import convfc, worst_ratio
from tests.support.paths import RECORDED, ROOT

Array = NDArray[Any]


NO_SHAPE: tuple[str, ...] = ()

SAMPLES: dict[str, tuple[tuple[str, ...], list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]]]
SAMPLES = {
    "lenet": (
        NO_SHAPE,
        [
            ("conv2d", "Conv", (1, 28, 28), (6, 28, 28)),
            ("conv2d_1", "Conv", (6, 14, 14), (16, 10, 10)),
        ],
    ),
    "ma_lu_2017": (NO_SHAPE, [("conv2d", "Conv", (1, 28, 28), (128, 13, 13))]),
    "mixed": (
        ("--input-shape", "1,1,28,28"),
        [
            ("/0/Conv_output_0", "Conv", (1, 28, 28), (12, 14, 14)),
            ("/2/Conv_output_0", "Conv", (12, 14, 14), (24, 7, 7)),
            ("/4/Conv_output_0", "Conv", (24, 7, 7), (24, 7, 7)),
            ("/6/Conv_output_0", "Conv", (24, 7, 7), (24, 7, 7)),
            ("/8/Conv_output_0", "Conv", (24, 7, 7), (24, 7, 7)),
            ("/10/ConvTranspose_output_0", "ConvTranspose", (24, 7, 7), (12, 14, 14)),
            ("/12/ConvTranspose_output_0", "ConvTranspose", (12, 14, 14), (8, 28, 28)),
            ("/14/Conv_output_0", "Conv", (8, 28, 28), (1, 28, 28)),
        ],
    ),
    "linear": (
        NO_SHAPE,
        [
            ("conv", "Conv", (1, 30, 30), (4, 28, 28)),
            ("depthwise", "Conv", (4, 14, 14), (4, 14, 14)),
            ("pointwise", "Conv", (4, 14, 14), (8, 14, 14)),
        ],
    ),
}
"""By sample: options, and (output, operator, input shape, output shape) of each layer."""


@dataclass(frozen=True)
class Call:
    """A convolution of `digits` as it is called: what its architecture says, not any file."""

    name: str
    op: str
    keras: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    spec: WeightsSpec
    """What a person says of its weights, less the datasets and the order of the axes."""

    @property
    def layer(self) -> str:
        """The layer's name: two calls may be of one."""
        return self.name.split(":")[0]


SAME = WeightsSpec("", "", pad="same")

CALLS = (
    Call("stem", "Conv", "Conv2D", (1, 28, 28), (4, 14, 14), replace(SAME, stride=(2,))),
    Call("encoder/expand", "Conv", "DepthwiseConv2D", (4, 14, 14), (8, 14, 14), SAME),
    Call("encoder/mix", "Conv", "Conv2D", (8, 7, 7), (8, 7, 7), SAME),
    *(
        Call(
            f"encoder/refine:{n}",
            "Conv",
            "Conv2D",
            (8, 7, 7),
            (8, 7, 7),
            replace(SAME, dilation=(2,)),
        )
        for n in (0, 1)
    ),
    Call("grouped", "Conv", "Conv2D", (8, 7, 7), (8, 7, 7), replace(SAME, groups=2, bias="")),
    Call(
        "up",
        "ConvTranspose",
        "Conv2DTranspose",
        (8, 7, 7),
        (6, 14, 14),
        WeightsSpec("", "", stride=(2,), pad=((1, 1),), transposed=True),
    ),
    Call("down", "Conv", "Conv2D", (6, 14, 14), (8, 7, 7), replace(SAME, stride=(2,))),
    Call("rows", "Conv", "Conv1D", (8, 49), (10, 7), WeightsSpec("", "", stride=(7,))),
)
"""All of them in order; the sizes are those of an image of 28 x 28."""

WHOLE = {
    "digits.onnx": "torch",
    "digits_keras2.h5": "keras2",
    "digits_keras2.keras": "keras2",
    "digits_keras3.h5": "keras3",
    "digits_keras3.keras": "keras3",
}
ALONE = {
    "digits_keras2_weights.h5": "keras2",
    "digits_keras3.weights.h5": "keras3",
    "digits_keras3_shards.weights.json": "keras3",
    "digits_torch.h5": "torch",
}
CONTAINERS = {**WHOLE, "digits.nir": "torch", **ALONE}
"""Every file of `digits`, and the framework whose outputs it is held to."""

KERAS = [file for file, framework in WHOLE.items() if framework != "torch"]

SHARDS = {f"digits_keras3_shards_0000{n}.weights.h5" for n in (0, 1)}
"""They belong to the JSON, and are read through it."""

SUFFIXES = (".onnx", ".h5", ".keras", ".json", ".nir")

IN_NIR = ("down", "encoder/mix", "encoder/refine:0", "rows")
"""What the NIR graph has, in the order of its names; `refine` is there once."""

STORED_BY_KERAS3 = {
    "stem": "layers/conv2d/vars",
    "encoder/expand": "layers/functional/layers/depthwise_conv2d/vars",
    "encoder/mix": "layers/functional/layers/conv2d/vars",
    "encoder/refine": "layers/functional/layers/conv2d_1/vars",
    "grouped": "layers/conv2d_1/vars",
    "up": "layers/conv2d_transpose/vars",
    "down": "layers/conv2d_2/vars",
    "rows": "layers/conv1d/vars",
}
"""Keras 3 names groups after classes and counts them, in the order in which the model has them."""


def calls_in(file: str) -> list[Call]:
    """The convolutions that a file has."""
    if file == "digits.nir":
        return [call for name in IN_NIR for call in CALLS if call.name == name]
    return list(CALLS)


def description(file: str, call: Call) -> WeightsSpec:
    """What a person has to say of a layer of which a file has the weights alone."""
    depthwise = call.keras == "DepthwiseConv2D"
    spatial = "w" if call.keras == "Conv1D" else "hw"
    if file == "digits_torch.h5":
        module = call.layer.replace("/", ".")
        weight, bias = f"{module}.weight", f"{module}.bias"
        order = ("io" if call.spec.transposed else "oi") + spatial
        groups = 4 if depthwise else call.spec.groups
    else:
        if file == "digits_keras2_weights.h5":
            group = call.layer if "/" in call.layer else f"{call.layer}/{call.layer}"
            kernel = "depthwise_kernel" if depthwise else "kernel"
            weight, bias = f"{group}/{kernel}:0", f"{group}/bias:0"
        else:
            weight, bias = (f"{STORED_BY_KERAS3[call.layer]}/{n}" for n in (0, 1))
        order = spatial + ("im" if depthwise else "oi" if call.spec.transposed else "io")
        groups = call.spec.groups
    bias = bias if call.spec.bias is None else call.spec.bias
    return replace(call.spec, weight=weight, order=order, bias=bias, groups=groups)


def entry_of(path: Path, call: Call) -> Entry:
    """A layer of `digits`, from any of its files."""
    if path.name in ALONE:
        (entry,) = read(path, (1, *call.input_shape), description(path.name, call)).entries
        return entry
    name = call.layer if path.name == "digits.nir" else call.name
    (entry,) = read(path).select([name])
    return entry


def sample(file: str) -> Path:
    return ROOT / "sample_models" / file


def flat(tensor: Array, layout: str) -> Array:
    """The elements of a channels-first tensor in the order that a file states."""
    return (np.moveaxis(tensor, 0, -1) if layout == "channels-last" else tensor).reshape(-1)


@pytest.fixture(scope="module")
def recorded() -> Iterator[Any]:
    with np.load(RECORDED / "digits.npz") as arrays:
        assert arrays["outputs"].tolist() == [call.name for call in CALLS]
        yield dict(arrays)


def test_no_sample_is_left_out() -> None:
    folder = ROOT / "sample_models"
    models = {path.name for path in folder.iterdir() if path.suffix in SUFFIXES}
    recorded = {path.stem for path in (RECORDED).glob("*.npz")}
    assert models == {f"{name}.onnx" for name in SAMPLES} | set(CONTAINERS) | SHARDS
    assert recorded == {*SAMPLES, "digits"}


def test_the_readme_of_the_samples_names_every_file_and_its_size() -> None:
    told = (ROOT / "sample_models" / "README.md").read_text()
    for path in (ROOT / "sample_models").iterdir():
        if path.suffix in SUFFIXES:
            size = round(path.stat().st_size / 1000)
            line = rf"^\| `{re.escape(path.name)}` \|.* {size} kB \|$"
            assert re.search(line, told, re.MULTILINE), (path.name, size)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_layer_gives_what_the_framework_recorded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, layers = SAMPLES[name]
    model = ROOT / "sample_models" / f"{name}.onnx"
    done = convfc(capsys, "convert", model, "-o", f"{tmp_path}/out/", "--json", *options)
    assert done.code == 0, done.err
    told = done.json()
    assert told["failed"] == []
    compared = 0
    with np.load(RECORDED / f"{name}.npz") as recorded:
        assert recorded["outputs"].tolist() == [output for output, *_ in layers]
        for position, (written, expected) in enumerate(zip(told["matrices"], layers, strict=True)):
            output, _, input_shape, output_shape = expected
            assert written["output"] == output
            assert written["position"] == position
            assert written["verdict"] == "proven"
            checks = {f["check"]: f["holds"] for f in written["report"]["findings"]}
            assert checks["entries"] is True
            assert checks["origin"] is True
            matrix = load_npz(written["file"])
            assert matrix.nnz == written["nonzeros"]
            with np.load(written["file"]) as members:
                bias = members["bias"]
            xs, ys = recorded[f"{position}/input"], recorded[f"{position}/output"]
            assert xs.shape == (2, *input_shape)
            assert ys.shape == (2, *output_shape)
            for x, y in zip(xs, ys, strict=True):
                assert worst_ratio(matrix, bias, x, y, 2.0**-24) <= 1
                product = matrix.astype(np.float64) @ x.reshape(-1) + bias
                magnitude = np.abs(y).max()
                assert magnitude > 0.1
                assert np.abs(product - y.reshape(-1)).max() <= 1e-5 * magnitude
                compared += 1
    assert compared == 2 * len(layers)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_listing_of_a_sample(name: str) -> None:
    _, layers = SAMPLES[name]
    model = read(ROOT / "sample_models" / f"{name}.onnx", {None: (1, 1, 28, 28)})
    found = [
        (entry.output, entry.op, entry.require().input_shape, entry.require().output_shape)
        for entry in model.entries
    ]
    assert found == layers


def test_a_sample_that_leaves_its_size_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ROOT / "sample_models" / "mixed.onnx"
    done = convfc(capsys, "convert", model, "-o", f"{tmp_path}/out/")
    assert done.code == 2
    assert "--input-shape" in done.err
    assert not (tmp_path / "out").exists()
    done = convfc(capsys, "inspect", model, "--json", "--input-shape", "x=1,1,12,20")
    assert done.code == 0, done.err
    found = [layer["output_shape"] for layer in done.json()["layers"]]
    assert found[0] == [12, 6, 10]
    assert found[-1] == [1, 12, 20]


def held_to_the_recording(
    matrix: Any, bias: Array, layout: str, file: str, call: Call, recorded: dict[str, Array]
) -> float:
    """The error of M vec(x) + b, as a share of what is allowed: at most 1 where it fits."""
    framework, number = CONTAINERS[file], CALLS.index(call)
    (x,), (y,) = recorded[f"{number}/input"], recorded[f"{number}/{framework}"]
    assert x.shape == call.input_shape
    if framework != "torch":
        y = np.moveaxis(y, -1, 0)
    assert y.shape == call.output_shape
    x, y = flat(x, layout), flat(y, layout)
    magnitude = np.abs(y).max()
    assert magnitude > 0.1
    error = np.abs(matrix.astype(np.float64) @ x + bias - y).max()
    return max(worst_ratio(matrix, bias, x, y, 2.0**-24), float(error / (1e-5 * magnitude)))


@pytest.mark.slow
@pytest.mark.parametrize("file", CONTAINERS)
def test_every_container_gives_what_its_framework_recorded(
    file: str, recorded: dict[str, Array], tmp_path: Path
) -> None:
    expected = "channels-last" if file in KERAS else "channels-first"
    calls = calls_in(file)
    if file in ALONE:
        for call in calls:
            convfc_cli.convert(
                sample(file),
                tmp_path / f"{CALLS.index(call)}.npz",
                input_shape=(1, *call.input_shape),
                weights=description(file, call),
            )
        paths = sorted(tmp_path.glob("*.npz"))
    else:
        done = convfc_cli.convert(sample(file), f"{tmp_path}/out/")
        assert done.exit_code == 0
        paths = [result.item.path for result in done.results]
    for path, call in zip(paths, calls, strict=True):
        assert convfc_cli.verify(path).strength == "2^-96"
        with np.load(path) as members:
            bias, meta = members["bias"], json.loads(str(members["convfc"]))
        assert meta["layout"]["order"] == expected
        assert tuple(meta["input_shape"]) == call.input_shape
        assert tuple(meta["output_shape"]) == call.output_shape
        matrix = load_npz(path)
        assert held_to_the_recording(matrix, bias, expected, file, call, recorded) <= 1


@pytest.mark.parametrize("file", [*WHOLE, "digits.nir"])
def test_the_listing_of_a_container(file: str) -> None:
    found = [
        (
            entry.output if file in KERAS else entry.name,
            entry.op,
            entry.require().input_shape,
            entry.require().output_shape,
        )
        for entry in read(sample(file)).entries
    ]
    assert found == [
        (
            call.layer if file == "digits.nir" else call.name,
            call.keras if file in KERAS else call.op,
            call.input_shape,
            call.output_shape,
        )
        for call in calls_in(file)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("file", ALONE)
def test_weights_alone_are_listed_with_their_biases(file: str) -> None:
    found = {entry.name: entry for entry in read(sample(file)).entries}
    assert len(found) == len({call.layer for call in CALLS})
    for call in CALLS:
        spec = description(file, call)
        entry = found[spec.weight]
        assert entry.status == "weights alone"
        assert entry.stored is not None
        assert prod(entry.stored) == entry_of(sample(file), call).load().kernel.size
        assert (spec.bias or "none") in str(entry.error)


def same_bits(one: Any, other: Any) -> bool:
    """Whether two sparse matrices have the same entries at the same places, bit for bit."""
    assert one.data.dtype == other.data.dtype == np.float32
    return (
        one.shape == other.shape
        and np.array_equal(one.indptr, other.indptr)
        and np.array_equal(one.indices, other.indices)
        and np.array_equal(one.data.view(np.uint32), other.data.view(np.uint32))
    )


def in_order(matrix: Any, call: Call, order: str) -> Any:
    """A channels-first matrix with its rows and columns in another order of the layout."""
    rows, columns = (
        Layout(order).vector(np.arange(np.prod(shape)).reshape(shape))
        for shape in (call.output_shape, call.input_shape)
    )
    permuted = csr_array(matrix)[rows][:, columns]
    permuted.sort_indices()
    return permuted


@pytest.mark.slow
@pytest.mark.usefixtures("once_in_place")  # the samples are sound
@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_every_container_gives_the_same_matrix_up_to_the_stated_layout(call: Call) -> None:
    first = convfc_cli.matrix(sample("digits.onnx"), call.name)
    layer = entry_of(sample("digits.onnx"), call).load()
    last = in_order(first, call, "channels-last")
    assert not same_bits(first, last)
    for file in CONTAINERS:
        if call not in calls_in(file):
            continue
        own = entry_of(sample(file), call)
        assert own.layout == ("channels-last" if file in KERAS else "channels-first")
        options: dict[str, Any] = {}
        name: str | None = own.output
        if file in ALONE:
            options = {
                "input_shape": (1, *call.input_shape),
                "weights": description(file, call),
            }
            name = None
        found = convfc_cli.matrix(sample(file), name, **options)
        assert same_bits(found, last if file in KERAS else first), file
        for order in ("channels-first", "channels-last"):
            found = convfc_cli.matrix(sample(file), name, layout=order, **options)
            assert same_bits(found, in_order(first, call, order)), (file, order)
        loaded = own.load()
        assert loaded.kernel.tobytes() == layer.kernel.tobytes(), file
        assert loaded.outline == layer.outline, file
        assert (loaded.bias is None) == (call.name == "grouped")
        assert digest(loaded) == digest(layer), file


@pytest.mark.slow
def test_both_calls_of_a_shared_layer_give_one_matrix() -> None:
    for file in WHOLE:
        one, two = (convfc_cli.matrix(sample(file), f"encoder/refine:{n}") for n in (0, 1))
        assert same_bits(one, two), file


def swapped(file: str, folder: Path) -> Path:
    """A copy of a sample in which two weights of `encoder/mix` have changed places."""
    path = folder / file
    inner = path
    shutil.copy(sample(file), path)
    if path.suffix == ".keras":
        inner = folder / "weights.h5"
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        inner.write_bytes(members["model.weights.h5"])
    with h5py.File(inner, "r+") as h5:
        found: list[h5py.Dataset] = []
        h5.visititems(lambda _, item: found.append(item) if _is_mix(item) else None)
        (dataset,) = found
        values = dataset[()]
        one, two = values[0, 0, 0, 0], values[1, 2, 3, 4 % values.shape[3]]
        values[0, 0, 0, 0], values[1, 2, 3, 4 % values.shape[3]] = two, one
        dataset[...] = values
    if path.suffix == ".keras":
        members["model.weights.h5"] = inner.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    return path


def _is_mix(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and sorted(item.shape) == [4, 4, 8, 8]


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in CONTAINERS if file.endswith((".h5", ".keras"))])
def test_two_swapped_weights_are_noticed(
    file: str, recorded: dict[str, Array], tmp_path: Path
) -> None:
    (call,) = [call for call in CALLS if call.name == "encoder/mix"]
    ratios = []
    for path in (sample(file), swapped(file, tmp_path)):
        entry = entry_of(path, call)
        layer = entry.load()
        rows = layer.matrix(Layout(entry.layout))
        arrays = (rows.data.array(), rows.indices.array(), rows.indptr.array())
        matrix = csr_array(arrays, shape=rows.shape)
        assert layer.bias is not None
        bias = flat(np.broadcast_to(layer.bias[:, None, None], call.output_shape), entry.layout)
        ratios.append(held_to_the_recording(matrix, bias, entry.layout, file, call, recorded))
        same = digest(layer) == digest(entry_of(sample("digits.onnx"), call).load())
        assert same == (path == sample(file))
    assert ratios[0] <= 1 < 100 < ratios[1]
