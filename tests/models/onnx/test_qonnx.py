"""Quant, IntQuant and BipolarQuant, the quantizers of QONNX, on constant weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from convfc_cli.errors import MalformedInput, Unsupported
from tests.support.cli_models import run
from tests.support.models import info, make_model, only, ramp, save, tensor

Array = NDArray[Any]
node = helper.make_node


def quant(
    w: Array, op: str = "Quant", domain: str = "qonnx.custom_op.general", **rest: Any
) -> onnx.ModelProto:
    """A Conv whose weights a quantizer of QONNX makes."""
    inputs = {"scale": np.float32(0.5), "zero": np.float32(0), "bits": np.float32(4)}
    inputs |= {key: np.asarray(rest.pop(key)) for key in list(rest) if key in inputs}
    if op == "BipolarQuant":
        inputs = {"scale": inputs["scale"]}
    made = node(op, ["w", *inputs], ["W"], domain=domain, **rest)
    stored = [tensor("w", w), *(tensor(*one) for one in inputs.items())]
    conv = node("Conv", ["x", "W"], ["y"], name="conv")
    return make_model([made, conv], [info("x", (1, 1, 16))], stored, domains={domain: 1})


VALUES = np.array([5.5, 2.5, 1.6, 1.1, 1.0, -1.0, -1.1, -1.6, -2.5, -5.5], np.float32)

ROUNDED = {  # the table of QONNX's specification
    "ROUND": [6, 2, 2, 1, 1, -1, -1, -2, -2, -6],
    "half_even": [6, 2, 2, 1, 1, -1, -1, -2, -2, -6],
    "CEIL": [6, 3, 2, 2, 1, -1, -1, -1, -2, -5],
    "FLOOR": [5, 2, 1, 1, 1, -1, -2, -2, -3, -6],
    "UP": [6, 3, 2, 2, 1, -1, -2, -2, -3, -6],
    "DOWN": [5, 2, 1, 1, 1, -1, -1, -1, -2, -5],
    "HALF_UP": [6, 3, 2, 1, 1, -1, -1, -2, -3, -6],
    "HALF_DOWN": [5, 2, 2, 1, 1, -1, -1, -2, -2, -5],
}


@pytest.mark.parametrize("mode", ROUNDED)
def test_the_roundings_of_a_quantizer(mode: str, tmp_path: Path) -> None:
    w = (VALUES * 0.5).reshape(10, 1, 1)
    entry = only(quant(w, rounding_mode=mode, signed=1, narrow=0), tmp_path)
    assert (entry.load().kernel.reshape(-1) / 0.5).tolist() == ROUNDED[mode]


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "low", "high"),
    [
        (8, 1, 0, -128, 127),
        (8, 1, 1, -127, 127),
        (8, 0, 0, 0, 255),
        (8, 0, 1, 0, 254),
        (2, 1, 0, -2, 1),
        (1, 0, 0, 0, 1),
    ],
)
def test_the_range_of_a_quantizer(
    bits: int, signed: int, narrow: int, low: int, high: int, tmp_path: Path
) -> None:
    w = np.array([-1000, 1000], np.float32).reshape(2, 1, 1)
    model = quant(w, bits=np.float32(bits), zero=np.float32(1), signed=signed, narrow=narrow)
    assert only(model, tmp_path).load().kernel.reshape(-1).tolist() == [
        (low - 1) / 2,
        (high - 1) / 2,
    ]


def test_quantizers_that_tell_signs(tmp_path: Path) -> None:
    w = np.array([-0.1, 0, 3, -7], np.float32).reshape(4, 1, 1)
    scale = np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1)
    for model in (
        quant(w, "BipolarQuant", "onnx.brevitas", scale=scale),
        quant(w, "IntQuant", bits=np.float32(1), scale=scale),
    ):
        assert only(model, tmp_path).load().kernel.reshape(-1).tolist() == [-1, 2, 3, -4]


def test_no_runtime_runs_a_quantizer(tmp_path: Path) -> None:
    path = save(quant(ramp(2, 1, 3)), tmp_path)
    done = run("convert", path, "-o", tmp_path / "m.npz").succeeded()
    assert "the original node was not run" in done.err
    run("verify", tmp_path / "m.npz", "--model", path, "--against", "reference")
    assert "Quant" in done.err


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"bits": np.float32(0)}, Unsupported),
        ({"bits": np.float32(2.5)}, Unsupported),
        ({"bits": np.float32(1e9)}, Unsupported),
        ({"bits": np.float32(np.nan)}, Unsupported),
        ({"bits": np.ones((2, 1, 1), np.float32)}, Unsupported),
        ({"bits": np.ones(2, np.float32)}, MalformedInput),
        ({"rounding_mode": "SIDEWAYS"}, Unsupported),
        ({"scale": np.ones((7, 7), np.float32)}, MalformedInput),
    ],
)
def test_a_quantizer_that_is_not_understood(
    given: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        only(quant(ramp(2, 1, 3), **given), tmp_path).load()


def test_a_quantizer_of_what_is_not_constant(tmp_path: Path) -> None:
    model = quant(ramp(2, 1, 3))
    model.graph.node[0].input[1] = "x"
    assert type(only(model, tmp_path).error) is Unsupported
    model = quant(ramp(2, 1, 3))
    del model.graph.node[0].input[3]
    with pytest.raises(MalformedInput, match="takes 4"):
        only(model, tmp_path).load()
    model = quant(ramp(2, 1, 3), domain="com.example")
    assert "com.example.Quant" in str(only(model, tmp_path).error)
