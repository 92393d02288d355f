"""The sample networks against what PyTorch computed with them (`sample_models/README.md`).

`tests/data/recorded` holds, for two images, the input and the output of every convolution as the
framework itself ran it: a witness that has seen neither ONNX nor convfc.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import load_npz

from convfc_cli.models.registry import read
from tests.models import convfc, worst_ratio

Array = NDArray[Any]

ROOT = Path(__file__).parent.parent

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
}
"""By sample: options, and (output, operator, input shape, output shape) of each layer."""


def test_no_sample_is_left_out() -> None:
    models = {path.stem for path in (ROOT / "sample_models").glob("*.onnx")}
    recorded = {path.stem for path in (ROOT / "tests" / "data" / "recorded").glob("*.npz")}
    assert models == recorded == set(SAMPLES)


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
    with np.load(ROOT / "tests" / "data" / "recorded" / f"{name}.npz") as recorded:
        assert recorded["outputs"].tolist() == [output for output, *_ in layers]
        for position, (written, expected) in enumerate(zip(told["matrices"], layers, strict=True)):
            output, _, input_shape, output_shape = expected
            assert written["output"] == output
            assert written["position"] == position
            assert written["report"]["ok"] is True
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
