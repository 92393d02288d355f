"""Real-valued layers of quantized ones, and weights behind QuantizeLinear and DequantizeLinear."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

import convfc_cli as convfc
from convfc_cli.errors import UsageError
from tests.support.cli_models import matrix_of, run
from tests.support.integer_nodes import (
    RUN_TIME,
    codes,
    findings,
    held_against,
    linear_model,
    model_of,
)
from tests.support.models import HAS_ONNXRUNTIME, info, make_model, only, ramp, save, tensor

Array = NDArray[Any]
node = helper.make_node


# --- the real-valued layer ------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_dequantized_is_what_dequantizelinear_makes(
    dtype: str, bias: bool, channels: bool, tmp_path: Path
) -> None:
    random = np.random.default_rng(9)
    w = codes(random, dtype, 4, 2, 3, 2)
    size = (4,) if channels else ()
    scale = (np.abs(random.standard_normal(size)) * 0.01).astype(np.float32)
    zero = codes(random, dtype, *size)
    rest = {"B": random.integers(-(2**31), 2**31, 4).astype(np.int32)} if bias else {}
    entry = only(linear_model(w, w_scale=scale, w_zero_point=zero, **rest), tmp_path)
    real = entry.as_real()
    assert (real.dequantized, real.matrix_dtype, real.dtype) == (True, "float32", dtype)
    nodes = [
        node("DequantizeLinear", ["w", "w_scale", "w_zero_point"], ["W"], axis=0),
        node("Mul", ["w_scale", "x_scale"], ["s"]),
        node("Conv", ["x", "W", "b"] if bias else ["x", "W"], ["y"]),
    ]
    if bias:
        nodes.insert(2, node("DequantizeLinear", ["B", "s"], ["b"], axis=0))
    stored = {"w": w, "w_scale": scale, "w_zero_point": zero, "x_scale": np.float32(0.02), **rest}
    twin = make_model(nodes, [info("x", (1, 2, 6, 5))], [tensor(*one) for one in stored.items()])
    ours, theirs = real.load(), only(twin, tmp_path).load()
    assert ours.dtype == np.float32
    assert ours.kernel.tobytes() == theirs.kernel.tobytes()
    assert (ours.bias is None) == (theirs.bias is None) == (not bias)
    if bias:
        assert ours.bias.tobytes() == theirs.bias.tobytes()
    for finding in findings(real).values():
        assert isinstance(finding, str) or finding.holds is not False, finding


@pytest.mark.slow
def test_dequantize_by_the_command(tmp_path: Path) -> None:
    w = codes(np.random.default_rng(1), "int8", 3, 2, 3, 3)
    path = save(linear_model(w, B=np.array([5, -9, 0], np.int32)), tmp_path)
    whole, real = tmp_path / "whole.npz", tmp_path / "real.npz"
    run("convert", path, "-o", whole).succeeded()
    done = run("convert", path, "-o", real, "--dequantize").succeeded()
    assert ": proven, agrees with " in done.err
    assert matrix_of(whole).dtype == np.int32
    assert matrix_of(real).dtype == np.float32
    assert (matrix_of(real) == matrix_of(whole).astype(np.float32) * np.float32(0.005)).all()
    for file, dequantized in ((whole, False), (real, True)):
        assert convfc.load(file).origin.dequantized is dequantized
        run("verify", file, "--model", path).succeeded()
        for name in ("reference",) + ("onnxruntime",) * HAS_ONNXRUNTIME:
            held_against(name, file, "--model", path, "--exhaustive")
    other = save(linear_model(w, w_scale=np.float32(0.25)), tmp_path, "other.onnx")
    assert "not" in run("verify", real, "--model", other).err
    assert run("verify", whole, "--model", other).code == 1  # its notes are others


def test_a_model_of_both_kinds_is_dequantized_where_it_is_quantized(tmp_path: Path) -> None:
    model = linear_model(np.ones((2, 2, 1, 1), np.int8))
    model.graph.input.append(info("a", (1, 2, 3, 3)))
    model.graph.initializer.append(tensor("W", ramp(2, 2, 1, 1)))
    model.graph.node.append(node("Conv", ["a", "W"], ["z"], name="real"))
    path = save(model, tmp_path)
    run("convert", path, "--dequantize", "-o", f"{tmp_path}/out/").succeeded()
    files = sorted((tmp_path / "out").glob("*.npz"))
    assert [convfc.load(file).origin.dequantized for file in files] == [True, False]
    assert [convfc.load(file).dtype for file in files] == [np.float32] * 2


def test_a_convinteger_states_no_scale(tmp_path: Path) -> None:
    path = save(model_of("ConvInteger", np.ones((1, 1, 2), np.int8), (1, 1, 4)), tmp_path)
    told = run("convert", path, "-o", tmp_path / "m.npz", "--dequantize").failed(2)
    assert "states no scale" in told
    with pytest.raises(UsageError, match="states no scale"):
        only(path.read_bytes(), tmp_path).as_real()


def test_a_real_bias_takes_the_scale_of_the_input(tmp_path: Path) -> None:
    w = np.ones((3, 2, 3, 3), np.int8)
    entry = only(linear_model(w, computed=["x_scale"]), tmp_path)
    assert entry.as_real().load().dtype == np.float32
    path = save(linear_model(w, computed=["x_scale"], B=np.ones(3, np.int32)), tmp_path)
    assert only(path.read_bytes(), tmp_path).load().bias.tolist() == [1, 1, 1]
    told = run("convert", path, "-o", tmp_path / "m.npz", "--dequantize").failed(4)
    assert f"x_scale, {RUN_TIME}" in told
    assert "layer conv (QLinearConv)" in told


# --- weights that are quantized and dequantized ---------------------------------------------------


def by_hand(q: Array, scale: Array, zero: Array, shape: Sequence[int]) -> Array:
    """(q - zero) scale in float32, scale and zero point of a shape that broadcasts."""
    left = q.astype(np.int64) - zero.astype(np.int64).reshape(shape)
    return left.astype(np.float32) * scale.reshape(shape)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("how", ["tensor", "channel", "block"])
def test_weights_behind_dequantizelinear(how: str, dtype: str, tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    q = codes(random, dtype, 4, 6, 3, 2)
    size = {"tensor": (), "channel": (4,), "block": (4, 3, 3, 2)}[how]
    scale = np.abs(random.standard_normal(size)).astype(np.float32)
    zero = codes(random, dtype, *size)
    axis = {"axis": 1, "block_size": 2} if how == "block" else {"axis": 0}
    bias = random.integers(-(2**31), 2**31, 4).astype(np.int32)
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["W"], **axis),
        node("DequantizeLinear", ["q_bias", "s_bias"], ["B"], axis=0),
        node("QuantizeLinear", ["x", "s_x", "z_x"], ["q_x"]),
        node("DequantizeLinear", ["q_x", "s_x", "z_x"], ["x_"]),
        node("Conv", ["x_", "W", "B"], ["y"], name="conv"),
    ]
    stored = {"q": q, "s": scale, "z": zero, "q_bias": bias}
    stored |= {"s_bias": np.array([1, 0.5, 0.1, 3], np.float32)}
    stored |= {"s_x": np.float32(0.1), "z_x": np.uint8(7)}
    model = make_model(nodes, [info("x", (1, 6, 5, 5))], [tensor(*one) for one in stored.items()])
    entry = only(model, tmp_path)
    if how == "block":
        scale, zero = np.repeat(scale, 2, 1), np.repeat(zero, 2, 1)
    shape = {"tensor": (), "channel": (4, 1, 1, 1), "block": q.shape}[how]
    layer = entry.load()
    assert layer.kernel.tobytes() == by_hand(q, scale, zero, shape).tobytes()
    assert layer.bias.tobytes() == (bias.astype(np.float32) * stored["s_bias"]).tobytes()
    assert (entry.dtype, entry.matrix_dtype, entry.as_real()) == ("float32", "float32", entry)
    assert any(
        not isinstance(finding, str) and finding.holds for finding in findings(entry).values()
    )


@pytest.mark.parametrize("opset", [10, 12, 13, 17, 19, 21, 22])
def test_weights_are_dequantized_in_every_operator_set(opset: int, tmp_path: Path) -> None:
    q, scale = codes(np.random.default_rng(6), "uint8", 4, 2, 3, 3), np.float32([0.5, 2, 0.1, 3])
    axis = {"axis": 0} if opset >= 13 else {}  # before, there is one scale alone
    scale = scale if axis else scale[0]
    zero = np.arange(4, dtype=np.uint8) if axis else np.uint8(3)
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], ["W"], **axis),
        node("Conv", ["x", "W"], ["y"], name="conv"),
    ]
    stored = [tensor("q", q), tensor("s", scale), tensor("z", zero)]
    entry = only(make_model(nodes, [info("x", (1, 2, 5, 5))], stored, opset=opset), tmp_path)
    expected = by_hand(q, np.asarray(scale), np.asarray(zero), (4, 1, 1, 1) if axis else ())
    assert entry.load().kernel.tobytes() == expected.tobytes()
    if HAS_ONNXRUNTIME:
        assert findings(entry)["onnxruntime"].holds


@pytest.mark.parametrize("channels", [False, True])
def test_weights_that_are_rounded_on_the_way(channels: bool, tmp_path: Path) -> None:
    """Fake quantization: real weights through QuantizeLinear and back."""
    random = np.random.default_rng(6)
    w = random.standard_normal((4, 2, 3, 3)).astype(np.float32)
    w[0, 0, 0, 0] = 100  # beyond the codes
    scale = np.array([0.25, 0.03, 0.01, 0.5], np.float32) if channels else np.float32(0.0625)
    zero = np.array([0, -5, 7, 1], np.int8) if channels else np.int8(-3)
    names = ["s", "z"]
    nodes = [
        node("QuantizeLinear", ["w", *names], ["q"], axis=0),
        node("DequantizeLinear", ["q", *names], ["W"], axis=0),
        node("Conv", ["x", "W"], ["y"], name="conv"),
    ]
    stored = [tensor("w", w), tensor("s", scale), tensor("z", zero)]
    entry = only(make_model(nodes, [info("x", (1, 2, 5, 5))], stored), tmp_path)
    shape = (4, 1, 1, 1) if channels else ()
    offset = np.asarray(zero).astype(np.float32).reshape(shape)
    q = np.clip(np.rint(w / np.asarray(scale).reshape(shape)) + offset, -128, 127)
    expected = by_hand(q, np.asarray(scale), np.asarray(zero), shape)
    assert entry.load().kernel.tobytes() == expected.tobytes()


def test_a_flipped_layer_stays_flipped_when_it_is_dequantized(tmp_path: Path) -> None:
    w = codes(np.random.default_rng(0), "int8", 3, 2, 3, 3)
    path, out = save(linear_model(w), tmp_path), tmp_path / "m.npz"
    run("convert", path, "-o", out, "--dequantize", "--flip-kernel").succeeded()
    found = convfc.load(out)
    assert (found.origin.flipped, found.origin.dequantized) == (True, True)
    real = only(path.read_bytes(), tmp_path).as_real().load()
    assert (found.layer.kernel == real.kernel[:, :, ::-1, ::-1]).all()
    run("verify", out, "--model", path).succeeded()
