"""Matrices of int32 in every form: written, read, proven, and put to a runtime as reals."""

import json
from pathlib import Path

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.runtimes.registry import runtime
from convfc_cli.runtimes.runtime import as_read
from tests.support.cli_models import arrays, matrix_of, rewritten, run
from tests.support.integer_nodes import codes, held_against, linear_model
from tests.support.models import HAS_ONNXRUNTIME, dense, only, save


@pytest.fixture
def integer_model(tmp_path: Path) -> Path:
    """A QLinearConv with a bias that float32 has not, and a weight that is zero."""
    random = np.random.default_rng(2)
    w = codes(random, "int8", 3, 2, 3, 2)
    w[1, 1, 1, 1] = 1
    bias = np.array([2**24 + 1, -7, 2**31 - 1], np.int32)
    attributes = {"pads": [1, 0, 0, 1], "strides": [2, 1]}
    return save(linear_model(w, B=bias, attributes=attributes), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("m.npz",),
        ("m.npz", "--kernel-index"),
        ("m.npz", "--transpose", "--layout", "channels-last"),
        ("m.npz", "--form", "operator"),
        ("m.npy",),
        ("m.h5",),
        ("m.h5", "--form", "dense"),
    ],
)
def test_every_form_of_integers_is_written_read_and_proven(
    arguments: tuple[str, ...], integer_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / arguments[0]
    run("convert", integer_model, "-o", path, *arguments[1:]).succeeded()
    loaded = convfc.load(path)
    layer = only(integer_model.read_bytes(), tmp_path).load()
    assert loaded.dtype == np.int32
    assert loaded.layer.kernel.tobytes() == layer.kernel.tobytes()
    assert loaded.bias.dtype == np.int32
    assert sorted(set(loaded.bias.tolist())) == [-7, 2**24 + 1, 2**31 - 1]
    run("verify", path, "--model", integer_model).succeeded()
    if "operator" in arguments:
        return
    for name in ("reference",) + ("onnxruntime",) * HAS_ONNXRUNTIME:
        run("verify", path, "--exhaustive", "--against", name).succeeded()
        held_against(name, path, "--model", integer_model)


def test_the_matrix_is_of_integers(integer_model: Path, tmp_path: Path) -> None:
    run("convert", integer_model, "-o", tmp_path / "m.npz").succeeded()
    run("convert", integer_model, "-o", tmp_path / "m.npy").succeeded()
    matrix = matrix_of(tmp_path / "m.npz")
    assert matrix.dtype == np.int32
    assert (np.load(tmp_path / "m.npy") == matrix).all()
    assert (dense(only(integer_model.read_bytes(), tmp_path)) == matrix).all()
    assert convfc.matrix(integer_model).dtype == np.int32
    operator = convfc.load(tmp_path / "m.npz")
    x = np.random.default_rng(0).integers(-255, 256, matrix.shape[1])
    assert ((operator @ x) == matrix.astype(np.int64) @ x).all()
    assert (operator @ x.astype(np.float32) == (matrix @ x).astype(np.float64)).all()
    assert ((operator.T @ (operator @ x)) == matrix.T.astype(np.int64) @ (matrix @ x)).all()
    told = run("map", tmp_path / "m.npz", "--output-at", "0,1,1", "--json").succeeded()
    for entry in json.loads(told.out)["entries"]:
        assert entry["value"] == matrix[entry["row"], entry["column"]]
        assert isinstance(entry["value"], int)


@pytest.mark.parametrize("by", [1, -1, 256, 2**24])
def test_one_wrong_integer_is_found(by: int, integer_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    run("convert", integer_model, "-o", path, "--no-verify").succeeded()
    data = arrays(path)["data"].copy()
    place = int(np.flatnonzero(data == 0)[0])  # a stored zero, as good as any other
    data[place] += by
    wrong = rewritten(path, tmp_path / "wrong.npz", data=data)
    done = run("verify", wrong)
    assert done.code == 1
    assert f"expected 0, found {by}" in done.err
    bias = arrays(path)["bias"].copy()
    bias[-1] -= 1
    done = run("verify", rewritten(path, tmp_path / "wrong.npz", bias=bias))
    assert done.code == 1
    assert f"is {2**31 - 2}, by the kernel_bias {2**31 - 1}" in done.err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integers_as_reals(dtype: str, integer_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    run("convert", integer_model, "-o", path, "--dtype", dtype).succeeded()
    loaded = convfc.load(path)
    assert loaded.dtype == dtype
    whole = only(integer_model.read_bytes(), tmp_path).load()
    assert (loaded.layer.kernel == whole.kernel).all()  # less than 2**24: float32 has them all
    assert (loaded.layer.bias == whole.bias).all() == (dtype == "float64")
    run("verify", path, "--model", integer_model, "--against", "reference").succeeded()


def test_a_layer_of_integers_is_put_to_a_runtime_as_reals(tmp_path: Path) -> None:
    """Its bias is rounded to float32; what that may change is allowed for, and no more."""
    model = linear_model(np.ones((2, 2, 2, 2), np.int8), B=np.array([2**30 + 63, 3], np.int32))
    layer = only(model, tmp_path).load()
    for name in ("reference",) + ("onnxruntime",) * HAS_ONNXRUNTIME:
        result = as_read(layer).run(runtime(name), np.random.default_rng(0))
        assert not isinstance(result, str)
        assert result.x.dtype == np.float32
        assert np.abs(result.x).max() > 1
        assert check_runtime(layer, result).holds
        assert not check_runtime(layer.with_kernel(layer.kernel + 1, layer.bias), result).holds
