"""The original ConvInteger or QLinearConv, run by each runtime that is right on this processor."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.runtimes import onnxruntime
from convfc_cli.runtimes.registry import runtime
from tests.support import kernels
from tests.support.cli_models import run
from tests.support.integer_nodes import ONES, codes, findings, linear_model, model_of, wrong_here
from tests.support.models import HAS_ONNXRUNTIME, first_result, only, save

Array = NDArray[Any]

needs_onnxruntime = pytest.mark.skipif(not HAS_ONNXRUNTIME, reason="onnxruntime is optional")


@pytest.mark.parametrize("real", [False, True])
def test_a_wrong_weight_is_seen_by_the_original(real: bool, tmp_path: Path) -> None:
    """Of a QLinearConv only where a step is fine enough: here each code is a few integers."""
    random = np.random.default_rng(4)
    w = codes(random, "int8", 2, 1, 1, 1)
    fine = {"x_scale": np.float32(1), "w_scale": np.float32(1), "y_scale": np.float32(2)}
    entry = only(linear_model(w, (1, 1, 9, 9), **fine), tmp_path)
    entry = entry.as_real() if real else entry
    layer, kernel = entry.load(), entry.load().kernel.copy()
    kernel[1] += 9
    runnable = entry.runnable()
    assert runnable is not None
    for name in ("reference",) + ("onnxruntime",) * HAS_ONNXRUNTIME:
        result = runnable.run(runtime(name), random)
        if told := wrong_here(name):
            assert result == told
            continue
        assert check_runtime(layer, result).holds
        finding = check_runtime(layer.with_kernel(kernel), result)
        assert finding.holds is False
        assert "output (1, " in finding.detail


@pytest.mark.parametrize("what", ["w_zero_point", "x_zero_point", "B", "scale"])
@pytest.mark.parametrize("op", ["ConvInteger", "QLinearConv"])
def test_a_reader_that_misunderstands_a_tensor_is_stopped(
    op: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convfc_cli.models.onnx.integer import Quantized

    if op == "ConvInteger" and what in ("B", "scale"):
        pytest.skip("it has none")
    random = np.random.default_rng(4)
    w = codes(random, "int8", 4, 2, 3, 3)
    zeros = {"x_zero_point": np.uint8(77), "w_zero_point": np.int8(-50)}
    scales = {"w_scale": np.float32(0.02), "y_scale": np.float32(0.24)}
    if op == "QLinearConv":
        zeros |= scales | {"B": np.full(4, 40000, np.int32)}
        model = linear_model(w, **zeros)
    else:
        model = model_of(op, w, (1, 2, 6, 5), **zeros)
    path = save(model, tmp_path)
    run("convert", path, "-o", tmp_path / "right.npz").succeeded()
    sound = Quantized.value

    def misread(self: Quantized, name: str) -> Array:
        array = sound(self, name)
        if name == what:
            return array + np.int8(3) if what != "B" else -array
        return array * np.float32(1.25) if what == "scale" and name == "x_scale" else array

    monkeypatch.setattr(Quantized, "value", misread)
    done = run("convert", path, "-o", tmp_path / "wrong.npz")
    assert done.code == 1, done
    assert "one of them misreads the model" in done.err
    assert not (tmp_path / "wrong.npz").exists()


def test_outputs_beyond_the_codes_are_left_out(tmp_path: Path) -> None:
    w = np.ones((2, 1, 1), np.int8)
    bias = np.array([0, 10**6], np.int32)
    model = linear_model(w, (1, 1, 50), x_dtype="uint8", B=bias, y_scale=np.float32(0.01))
    for name, finding in findings(only(model, tmp_path)).items():
        if told := wrong_here(name):
            assert finding == told
            continue
        assert finding.holds
        assert "50 outputs left out, saturated" in finding.detail
    model = linear_model(w, (1, 1, 50), B=np.full(2, 10**6, np.int32), y_scale=np.float32(0.01))
    for name, finding in findings(only(model, tmp_path)).items():
        if wrong_here(name):
            continue
        assert finding.holds is None
        assert "all 100 overflow or are saturated" in finding.detail


def test_what_no_runtime_runs_is_said(tmp_path: Path) -> None:
    w, zero = np.ones((3, 1, 2), np.int8), np.zeros(3, np.int8)
    entry = only(model_of("ConvInteger", w, (1, 1, 5), w_zero_point=zero), tmp_path)
    told = first_result(entry, np.random.default_rng(0))
    assert isinstance(told, str)
    assert "reference is known to be wrong for zero points and scales per channel" in told
    if HAS_ONNXRUNTIME:
        assert "onnxruntime cannot run it" in told


EXTREME = np.full((1, 2, 3), 255, np.uint8)


@needs_onnxruntime
@pytest.mark.parametrize("right", [True, False])
def test_a_kernel_that_is_wrong_on_this_processor_is_not_asked(
    right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 by uint8, as without VNNI: the next runtime is asked, and the first is named."""
    if right:
        kernels.use_right(monkeypatch)
    else:
        kernels.use_wrong(monkeypatch, "int8", "uint8")
    model = model_of("ConvInteger", EXTREME, (1, 2, 5), x_dtype="int8")
    path, out = save(model, tmp_path), tmp_path / "m.npz"
    done = run("convert", path, "-o", out, "--json").succeeded()
    (told,) = json.loads(done.out)["matrices"]
    (finding,) = (f for f in told["report"]["findings"] if f["check"] == "runtime")
    first, second = runtime("onnxruntime").label, runtime("reference").label
    refused = (
        f"{first} computes ConvInteger of int8 with uint8 wrongly on this processor: not asked"
    )
    assert finding["holds"] is True
    assert finding["against"] == (first if right else second)
    assert (refused in finding["detail"]) is not right
    done = run("verify", out, "--model", path, "--against", "onnxruntime")
    assert done.code == (0 if right else 4)
    assert (f"not checked (reals): {refused}" in done.err) is not right
    assert "WRONG" not in done.err


@needs_onnxruntime
def test_only_the_kernel_that_is_wrong_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.use_right(monkeypatch)
    kernels.use_wrong(monkeypatch, "int8", "uint8")
    for x, w in product(("int8", "uint8"), repeat=2):
        assert bool(wrong_here("onnxruntime", x, w, "ConvInteger")) is ((x, w) == ("int8", "uint8"))
        weights = codes(np.random.default_rng(3), w, 8, 4, 3, 3)
        entry = only(model_of("ConvInteger", weights, (1, 4, 6, 6), x_dtype=x), tmp_path)
        found = findings(entry)["onnxruntime"]
        assert isinstance(found, str) if (x, w) == ("int8", "uint8") else found.holds


def test_a_large_node_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convfc_cli.models.onnx import integer_original

    monkeypatch.setattr(integer_original, "MAX_ELEMENTS", 9)
    entry = only(model_of("ConvInteger", np.ones((1, 1, 2), np.int8), (1, 1, 6)), tmp_path)
    assert "too large" in str(first_result(entry, np.random.default_rng(0)))


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    for model in (linear_model(ONES), model_of("ConvInteger", ONES, (1, 2, 6, 5))):
        result = first_result(only(model, tmp_path), np.random.default_rng(0))
        assert not isinstance(result, str)
        assert "reference" in result.runtime
        assert check_runtime(only(model, tmp_path).load(), replace(result)).holds
