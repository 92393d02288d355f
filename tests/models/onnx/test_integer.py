"""ConvInteger, QLinearConv, FusedConv, and weights that are quantized and dequantized.

The brute force here is the definition in integers: zero points taken off, zeros around, every
product added. It shares nothing with convfc. Weights and inputs are drawn from all codes.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput, Unsupported, UsageError
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.models.entry import Entry
from convfc_cli.models.onnx.integer import MOST_NOTED
from convfc_cli.runtimes import onnx_node, onnxruntime
from convfc_cli.runtimes.registry import runtime
from convfc_cli.runtimes.runtime import as_read
from tests.support import kernels
from tests.support.cli_models import arrays, matrix_of, rewritten, run
from tests.support.models import (
    conv_model,
    dense,
    first_result,
    info,
    listed,
    make_model,
    only,
    ramp,
    save,
    tensor,
)

Array = NDArray[Any]
node = helper.make_node

HAS_ONNXRUNTIME = importlib.util.find_spec("onnxruntime") is not None
needs_onnxruntime = pytest.mark.skipif(not HAS_ONNXRUNTIME, reason="onnxruntime is optional")

RUN_TIME = "known only at run time"


def codes(random: np.random.Generator, dtype: str, *shape: int) -> Array:
    """Any codes of 8 bits."""
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def convolved(x: Array, kernel: Array, given: Mapping[str, Any]) -> Array:
    """The convolution of one x (channels, *spatial), by definition, in integers."""
    n, group = x.ndim - 1, given.get("group", 1)
    strides = given.get("strides", (1,) * n)
    dilations = given.get("dilations", (1,) * n)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilations, strict=True)]
    pads = list(given.get("pads", (0,) * 2 * n))
    auto = given.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        for a, (size, step, span) in enumerate(zip(x.shape[1:], strides, spans, strict=True)):
            total = max(0, (-(-size // step) - 1) * step + span - size)
            pads[a] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[n + a] = total - pads[a]
    padded = np.pad(x.astype(np.int64), [(0, 0), *zip(pads[:n], pads[n:], strict=True)])
    counts = [
        (size - span) // step + 1
        for size, span, step in zip(padded.shape[1:], spans, strides, strict=True)
    ]
    y = np.zeros((len(kernel), *counts), np.int64)
    near, depth = len(kernel) // group, kernel.shape[1]
    for c, place, t in product(
        range(len(kernel)), product(*map(range, counts)), product(*map(range, kernel.shape[2:]))
    ):
        at = [p * s + e * d for p, s, e, d in zip(place, strides, t, dilations, strict=True)]
        read = padded[(slice(c // near * depth, c // near * depth + depth), *at)]
        y[(c, *place)] += kernel[(c, slice(None), *t)] @ read
    return y


def per_channel(values: Array, rank: int) -> Array:
    """One value, or one an output channel, against weights of this rank."""
    return values.astype(np.int64).reshape(-1, *(1,) * (rank - 1))


def model_of(
    op: str,
    w: Array,
    input_shape: Sequence[int | str | None],
    *,
    x_dtype: str = "uint8",
    attributes: Mapping[str, Any] | None = None,
    computed: Sequence[str] = (),
    **tensors: Any,
) -> onnx.ModelProto:
    """A node `conv`, x to y by weights `w` and `tensors`; those `computed` are inputs instead."""
    order = {
        "ConvInteger": ("w", "x_zero_point", "w_zero_point"),
        "QLinearConv": (
            *("x_scale", "x_zero_point", "w", "w_scale", "w_zero_point"),
            *("y_scale", "y_zero_point", "B"),
        ),
    }[op]
    given = {"w": w, **{what: np.asarray(array) for what, array in tensors.items()}}
    names = ["x", *(what if what in given else "" for what in order)]
    kinds = {what: helper.np_dtype_to_tensor_dtype(array.dtype) for what, array in given.items()}
    inputs = [
        info("x", input_shape, helper.np_dtype_to_tensor_dtype(np.dtype(x_dtype))),
        *(info(what, given[what].shape, kinds[what]) for what in computed),
    ]
    stored = [tensor(what, array) for what, array in given.items() if what not in computed]
    made = node(op, names, ["y"], name="conv", **(attributes or {}))
    return make_model([made], inputs, stored)


SCALES: dict[str, Any] = {
    "x_scale": np.float32(0.02),
    "w_scale": np.float32(0.005),
    "y_scale": np.float32(2.0),
}


def linear_model(
    w: Array, input_shape: Sequence[int | str | None] = (1, 2, 6, 5), **rest: Any
) -> onnx.ModelProto:
    """A QLinearConv with scales and zero points that do for most tests."""
    x_dtype, y_dtype = rest.get("x_dtype", "uint8"), rest.pop("y_dtype", "uint8")
    zeros = {
        "x_zero_point": np.array(3, x_dtype),
        "w_zero_point": np.array(1, w.dtype),
        "y_zero_point": np.array(100, y_dtype),
    }
    return model_of("QLinearConv", w, input_shape, **{**SCALES, **zeros, **rest})


def wrong_here(name: str, x: str = "uint8", w: str = "int8", op: str = "QLinearConv") -> str:
    """Why this runtime is not asked on this processor, or nothing."""
    return onnx_node.unfit(runtime(name), op, x, w)


def held_against(name: str, *arguments: Any) -> None:
    """`verify --against` of a QLinearConv of uint8 with int8 that is right."""
    done = run("verify", *arguments, "--against", name)
    told = wrong_here(name)
    assert (done.code, told in done.err) == (4 if told else 0, True), done


def findings(entry: Entry) -> dict[str, Any]:
    """What each runtime finds of the original node, by its name; a reason where it was not run."""
    layer, found = entry.load(), {}
    runnable = entry.runnable()
    assert runnable is not None
    for name in ("onnxruntime", "reference") if HAS_ONNXRUNTIME else ("reference",):
        result = runnable.run(runtime(name), np.random.default_rng(5))
        found[name] = result if isinstance(result, str) else check_runtime(layer, result)
    return found


# --- by definition --------------------------------------------------------------------------------

SIZES = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}
KERNEL = (3, 2, 2)

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "asymmetric pads": {"pads": ((1, 0, 2), (0, 2, 1))},
    "strides": {"strides": (2, 3, 2)},
    "dilations": {"dilations": (2, 3, 2), "pads": ((1, 1, 0), (1, 0, 1))},
    "group": {"group": 2},
    "depthwise": {"group": 4, "pads": ((1, 1, 1), (1, 1, 1))},
    "SAME_UPPER": {"auto_pad": "SAME_UPPER", "strides": (2, 1, 2)},
    "SAME_LOWER": {"auto_pad": "SAME_LOWER", "strides": (2, 2, 1)},
    "VALID": {"auto_pad": "VALID", "kernel_shape": KERNEL},
    "all": {
        "pads": ((1, 2, 0), (2, 0, 1)),
        "strides": (2, 1, 1),
        "dilations": (1, 2, 2),
        "group": 2,
    },
}


def trimmed(case: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The attributes of a case over n axes."""
    given = dict(case)
    for name in given.keys() & {"strides", "dilations", "kernel_shape"}:
        given[name] = given[name][:n]
    if "pads" in given:
        given["pads"] = (*given["pads"][0][:n], *given["pads"][1][:n])
    return given


@pytest.mark.slow
@pytest.mark.parametrize("zeros", ["none", "scalar", "one", "channel"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", ["ConvInteger", "QLinearConv"])
def test_a_layer_is_the_convolution_of_what_is_left(
    op: str, case: str, n: int, zeros: str, tmp_path: Path
) -> None:
    random = np.random.default_rng([len(case), n, len(zeros)])
    given = trimmed(CASES[case], n)
    group = given.get("group", 1)
    x_dtype, w_dtype = random.choice(["int8", "uint8"], 2)
    if op == "QLinearConv" and (x_dtype, w_dtype) == ("int8", "uint8"):
        x_dtype = "uint8"  # onnxruntime has no other
    w = codes(random, w_dtype, 8, 4 // group, *KERNEL[:n])
    sizes = {"none": (), "scalar": (), "one": (1,), "channel": (8,)}[zeros]
    tensors: dict[str, Any] = {
        "x_zero_point": codes(random, x_dtype, *(sizes if zeros == "one" else ())),
        "w_zero_point": codes(random, w_dtype, *sizes),
    }
    x_zero = tensors["x_zero_point"].reshape(()).astype(np.int64)
    bias = np.zeros(8, np.int64)
    if zeros == "none":
        w_zero = np.zeros((), np.int64)
        if op == "ConvInteger":
            tensors, x_zero = {}, np.int64(0)
        else:
            tensors["w_zero_point"] = np.zeros((), w_dtype)
    else:
        w_zero = tensors["w_zero_point"]
    if op == "QLinearConv":
        scale = np.abs(random.standard_normal(sizes)) * 0.01
        tensors |= {"x_scale": np.float32(0.02), "w_scale": scale.astype(np.float32)}
        tensors |= {"y_scale": np.float32(1.5), "y_zero_point": codes(random, x_dtype)}
        if zeros != "scalar":
            bias = random.integers(-(2**31), 2**31, 8)
            tensors["B"] = bias.astype(np.int32)
    model = model_of(op, w, (1, 4, *SIZES[n]), x_dtype=x_dtype, attributes=given, **tensors)
    entry = only(model, tmp_path)
    layer = entry.load()
    kernel = w.astype(np.int64) - per_channel(w_zero, w.ndim)
    assert (layer.dtype, entry.matrix_dtype, entry.dtype) == ("int32", "int32", w_dtype)
    assert entry.op == op
    assert (layer.kernel == kernel).all()
    matrix = dense(entry)
    assert matrix.dtype == np.int32
    for _ in range(2):
        x = codes(random, x_dtype, 4, *SIZES[n]).astype(np.int64) - x_zero
        expected = convolved(x, kernel, given)
        assert layer.output_shape == expected.shape
        assert ((matrix.astype(np.int64) @ x.reshape(-1)) == expected.reshape(-1)).all()
    assert (layer.bias_tensor().reshape(8, -1)[:, 0] == bias).all()
    assert (layer.bias is None) == (bias == 0).all()
    told = findings(entry)
    for finding in told.values():
        assert isinstance(finding, str) or finding.holds is not False, finding
    if n == 2 or zeros in ("none", "scalar"):
        run_by = [finding for finding in told.values() if not isinstance(finding, str)]
        assert run_by, told
        if op == "ConvInteger":
            assert all(": equal" in finding.detail for finding in run_by)


def test_a_weight_that_is_the_zero_point_is_a_stored_zero(tmp_path: Path) -> None:
    w = np.full((1, 1, 2, 2), 7, np.uint8)
    w[0, 0, 0, 1] = 9
    entry = only(model_of("ConvInteger", w, (1, 1, 3, 3), w_zero_point=np.uint8(7)), tmp_path)
    assert entry.require().nnz == 16
    assert entry.load().matrix().data.array().tolist() == [0, 2, 0, 0] * 4


def test_the_padding_comes_after_the_zero_point(tmp_path: Path) -> None:
    """In codes the padding is the zero point: in the layer's units it is nothing."""
    w = np.ones((1, 1, 3), np.int8)
    zero = {"x_zero_point": np.uint8(200)}
    model = model_of("ConvInteger", w, (1, 1, 4), attributes={"pads": [2, 2]}, **zero)
    entry = only(model, tmp_path)
    assert entry.load().apply(np.zeros((1, 4), np.int64)).tolist() == [[0] * 6]
    assert findings(entry)["reference"].holds


# --- what is noted --------------------------------------------------------------------------------


def test_scales_and_zero_points_are_noted(tmp_path: Path) -> None:
    w = codes(np.random.default_rng(0), "int8", 3, 2, 3, 3)
    scale, zero = np.array([0.1, 0.25, 3e-9], np.float32), np.array([-3, 0, 127], np.int8)
    model = linear_model(w, w_scale=scale, w_zero_point=zero, B=np.zeros(3, np.int32))
    path = save(model, tmp_path)
    run("convert", path, "-o", tmp_path / "m.npz").succeeded()
    notes = {
        "x_scale": float(np.float32(0.02)),
        "x_zero_point": 3,
        "w_scale": [float(one) for one in scale],
        "w_zero_point": [-3, 0, 127],
        "y_scale": 2.0,
        "y_zero_point": 100,
    }
    assert convfc.load(tmp_path / "m.npz").origin.notes == notes
    (layer,) = json.loads(run("inspect", path, "--json").succeeded().out)["layers"]
    assert (layer["notes"], layer["dtype"], layer["op"]) == (notes, "int8", "QLinearConv")


def test_a_convinteger_notes_its_zero_points(tmp_path: Path) -> None:
    w = np.ones((2, 1, 2), np.int8)
    entry = only(model_of("ConvInteger", w, (1, 1, 4)), tmp_path)
    assert entry.notes() == {"x_zero_point": 0, "w_zero_point": 0}
    zeros = {"x_zero_point": np.array([5], np.uint8), "w_zero_point": np.int8(-4)}
    entry = only(model_of("ConvInteger", w, (1, 1, 4), **zeros), tmp_path)
    assert entry.notes() == {"x_zero_point": 5, "w_zero_point": -4}


def test_a_zero_point_of_the_run_is_said_to_be_so(tmp_path: Path) -> None:
    """As onnxruntime's dynamic quantization has it: DynamicQuantizeLinear before ConvInteger."""
    w = codes(np.random.default_rng(0), "uint8", 3, 2, 3, 3)
    nodes = [
        node("DynamicQuantizeLinear", ["a"], ["x", "x_scale", "zero"]),
        node("ConvInteger", ["x", "w", "zero", "w_zero"], ["y"], name="c1", pads=[1] * 4),
        node("ConvInteger", ["x", "w", "zero", "w_zero"], ["z"], name="c2"),
    ]
    stored = [tensor("w", w), tensor("w_zero", np.uint8(121))]
    path = save(make_model(nodes, [info("a", (1, 2, 6, 5))], stored), tmp_path)
    done = run("convert", path, "-o", f"{tmp_path}/out/").succeeded()
    assert done.err.count(f"note (2 layers): x_zero_point {RUN_TIME}") == 1
    assert done.err.count("note (2 layers): w_zero_point") == 1
    assert "equal" in done.err  # it was run, with a zero point that was drawn
    layers = json.loads(run("inspect", path, "--json").succeeded().out)["layers"]
    assert [layer["notes"]["x_zero_point"] for layer in layers] == [RUN_TIME] * 2
    assert convfc.load(next((tmp_path / "out").glob("*c1.npz"))).origin.notes == {
        "x_zero_point": RUN_TIME,
        "w_zero_point": 121,
    }
    run("verify", f"{tmp_path}/out", "--model", path).succeeded()
    done = run("convert", path, "-l", "c1", "-o", "-").succeeded()
    assert f"note (c1): x_zero_point {RUN_TIME}" in done.err
    assert "noted" not in run("convert", path, "-l", "c1", "-o", "-", "-q").succeeded().err


@pytest.mark.parametrize("what", ["x_scale", "x_zero_point", "y_scale", "y_zero_point"])
def test_of_a_qlinearconv_all_but_the_weights_may_be_computed(what: str, tmp_path: Path) -> None:
    w = codes(np.random.default_rng(0), "int8", 3, 2, 3, 3)
    entry = only(linear_model(w, computed=[what]), tmp_path)
    assert entry.notes()[what] == RUN_TIME
    assert [key for key, value in entry.notes().items() if value == RUN_TIME] == [what]
    for found in (findings(entry), findings(entry.as_real())):
        for name, finding in found.items():
            assert finding == told if (told := wrong_here(name)) else finding.holds, finding


@pytest.mark.parametrize("what", ["w", "w_scale", "w_zero_point", "B"])
def test_what_the_kernel_is_made_of_must_be_constant(what: str, tmp_path: Path) -> None:
    w = np.ones((3, 2, 3, 3), np.int8)
    model = linear_model(w, computed=[what], B=np.zeros(3, np.int32))
    entry = only(model, tmp_path)
    assert type(entry.error) is Unsupported
    assert "not constant" in str(entry.error)
    assert repr(what) in str(entry.error)


def test_more_values_than_can_be_noted_are_counted(tmp_path: Path) -> None:
    channels = MOST_NOTED + 1
    w = np.ones((channels, 1, 1), np.int8)
    zero = np.zeros(channels, np.int8)
    entry = only(model_of("ConvInteger", w, (1, 1, 2), w_zero_point=zero), tmp_path)
    assert entry.notes()["w_zero_point"] == f"{channels} values"
    entry = only(model_of("ConvInteger", w[1:], (1, 1, 2), w_zero_point=zero[1:]), tmp_path)
    assert entry.notes()["w_zero_point"] == [0] * MOST_NOTED
    path = tmp_path / "model.onnx"
    for suffix in ("npz", "h5"):
        run("convert", path, "-o", tmp_path / f"m.{suffix}").succeeded()


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
    assert "the original node, run by" in done.err
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


# --- the original node ----------------------------------------------------------------------------


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

    monkeypatch.setattr(integer_original, "LARGEST", 9)
    entry = only(model_of("ConvInteger", np.ones((1, 1, 2), np.int8), (1, 1, 6)), tmp_path)
    assert "too large" in str(first_result(entry, np.random.default_rng(0)))


# --- int32 through everything ---------------------------------------------------------------------


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
    told = run("map", tmp_path / "m.npz", "--output", "0,1,1", "--json").succeeded()
    for tap in json.loads(told.out):
        assert tap["weight"] == matrix[tap["row"], tap["column"]]
        assert isinstance(tap["weight"], int)


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


# --- what contradicts the specification -----------------------------------------------------------

ONES = np.ones((3, 2, 3, 3), np.int8)

HOSTILE: dict[str, tuple[onnx.ModelProto, str]] = {
    "w_zero_point of another length": (
        model_of("ConvInteger", ONES, (1, 2, 6, 5), w_zero_point=np.zeros(2, np.int8)),
        "w_zero_point 'w_zero_point' has values of shape (2,)",
    ),
    "w_zero_point of the weights' shape": (
        model_of("ConvInteger", ONES, (1, 2, 6, 5), w_zero_point=np.zeros((3, 1, 1, 1), np.int8)),
        "w_zero_point 'w_zero_point' has values of shape (3, 1, 1, 1)",
    ),
    "x_zero_point for each channel": (
        model_of("ConvInteger", ONES, (1, 2, 6, 5), x_zero_point=np.zeros(2, np.uint8)),
        "x_zero_point 'x_zero_point' has values of shape (2,)",
    ),
    "empty x_zero_point": (
        model_of("ConvInteger", ONES, (1, 2, 6, 5), x_zero_point=np.zeros(0, np.uint8)),
        "x_zero_point 'x_zero_point' has values of shape (0,)",
    ),
    "w_zero_point of another dtype": (
        model_of("ConvInteger", ONES, (1, 2, 6, 5), w_zero_point=np.uint8(0)),
        "w_zero_point 'w_zero_point' is uint8, not int8",
    ),
    "x_zero_point of another dtype": (
        model_of("ConvInteger", ONES, (1, 2, 6, 5), x_zero_point=np.int8(0)),
        "x_zero_point 'x_zero_point' is int8, not uint8",
    ),
    "real weights": (
        model_of("ConvInteger", ONES.astype(np.float32), (1, 2, 6, 5)),
        "w 'w' is float32, not int8 or uint8",
    ),
    "wide weights": (
        model_of("ConvInteger", ONES.astype(np.int16), (1, 2, 6, 5)),
        "w 'w' is int16, not int8 or uint8",
    ),
    "real input": (
        model_of("ConvInteger", ONES, (1, 2, 6, 5), x_dtype="float32"),
        "x 'x' is float32, not int8 or uint8",
    ),
    "scales without zero points": (
        linear_model(ONES, w_scale=np.ones(3, np.float32)),
        "w_scale 'w_scale' has 3 values, its w_zero_point 'w_zero_point' 1",
    ),
    "w_scale of another length": (
        linear_model(ONES, w_scale=np.ones(2, np.float32)),
        "w_scale 'w_scale' has values of shape (2,)",
    ),
    "a scale in double": (linear_model(ONES, w_scale=np.float64(1)), "'w_scale' is float64"),
    "two x_scales": (
        linear_model(ONES, x_scale=np.ones(2, np.float32)),
        "x_scale 'x_scale' has values of shape (2,), not one",
    ),
    "two y_scales": (linear_model(ONES, y_scale=np.ones(2, np.float32)), "y_scale 'y_scale'"),
    "real y_zero_point": (
        linear_model(ONES, y_zero_point=np.float32(0)),
        "y_zero_point 'y_zero_point' is float32",
    ),
    "a bias of another length": (
        linear_model(ONES, B=np.zeros(2, np.int32)),
        "B 'B' has values of shape (2,), not one for each of 3 channels",
    ),
    "a scalar bias": (linear_model(ONES, B=np.int32(1)), "B 'B' has values of shape ()"),
    "a real bias": (linear_model(ONES, B=np.zeros(3, np.float32)), "B 'B' is float32, not int32"),
    "a wide bias": (linear_model(ONES, B=np.zeros(3, np.int64)), "B 'B' is int64, not int32"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HOSTILE)
def test_what_contradicts_the_specification(what: str, tmp_path: Path) -> None:
    model, part = HOSTILE[what]
    with pytest.raises(MalformedInput) as caught:
        only(model, tmp_path).load()
    assert part in str(caught.value)
    assert "layer conv" in str(caught.value)
    run("inspect", tmp_path / "model.onnx", "--json").succeeded()
    done = run("convert", tmp_path / "model.onnx", "-o", tmp_path / "m.npz")
    assert done.code == 3
    assert part in done.err


@pytest.mark.parametrize("what", HOSTILE)
def test_computed_constants_are_held_to_it_as_well(what: str, tmp_path: Path) -> None:
    """Behind a chain whose shapes nothing infers: what is wrong is seen when it is read."""
    model, part = HOSTILE[what]
    if "'x'" in part:
        pytest.skip("x is not a constant")
    (conv,) = model.graph.node
    for place, name in enumerate(conv.input):
        if place and name:
            model.graph.node.insert(0, node("Identity", [name], [f"{name}'"]))
            conv_now = model.graph.node[-1]
            conv_now.input[place] = f"{name}'"
    with pytest.raises(MalformedInput) as caught:
        only(model, tmp_path).load()
    for name in ("w", "w_scale", "w_zero_point", "x_scale", "x_zero_point", "y_scale", "B"):
        part = part.replace(f" '{name}'", "")
    assert part.split(" has ")[0].split(" is ")[0].split("'")[0].strip() in str(caught.value)


@pytest.mark.slow
def test_too_few_and_too_many_tensors(tmp_path: Path) -> None:
    model = linear_model(ONES, B=np.zeros(3, np.int32))
    model.graph.node[0].input.append("B")
    assert "takes 9" in str(only(model, tmp_path).error)
    for place, what in enumerate(("x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point")):
        model = linear_model(ONES)
        model.graph.node[0].input[place] = ""
        assert f"without its {what}" in str(only(model, tmp_path).error)
    model = model_of("ConvInteger", ONES, (1, 2, 6, 5))
    del model.graph.node[0].input[1:]
    assert type(only(model, tmp_path).error) is MalformedInput
    model = model_of("ConvInteger", ONES, (1, 2, 6, 5))
    del model.graph.node[0].output[:]
    assert type(listed(model, tmp_path).entries[0].error) is MalformedInput


STRANGE = {
    "nan": np.nan,
    "infinity": np.inf,
    "zero": 0.0,
    "negative": -0.5,
    "huge": 3e38,
    "tiny": 1e-45,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["x_scale", "w_scale", "y_scale"])
@pytest.mark.parametrize("value", STRANGE)
def test_strange_scales_change_no_integer(value: str, what: str, tmp_path: Path) -> None:
    w = codes(np.random.default_rng(0), "int8", 3, 2, 3, 3)
    path = save(linear_model(w, **{what: np.float32(STRANGE[value])}), tmp_path)
    out, real = tmp_path / "m.npz", tmp_path / "real.npz"
    run("convert", path, "-o", out).succeeded()
    run("verify", out, "--model", path, "--against", "reference")
    assert (convfc.load(out).layer.kernel == w.astype(np.int32) - 1).all()
    noted = convfc.load(out).origin.notes[what]
    assert noted == (
        float(np.float32(STRANGE[value])) if np.isfinite(STRANGE[value]) else str(noted)
    )
    run("inspect", path, "--json").succeeded()
    run("convert", path, "-o", real, "--dequantize").succeeded()
    run("verify", real, "--model", path).succeeded()
    if what == "w_scale":
        with np.errstate(all="ignore"):
            expected = (w.astype(np.float32) - 1) * np.float32(STRANGE[value])
        assert convfc.load(real).layer.kernel.tobytes() == expected.tobytes()


# --- FusedConv ------------------------------------------------------------------------------------


def fused(*names: str, input_shape: Any = (1, 2, 6, 5), **attributes: Any) -> onnx.ModelProto:
    """A FusedConv of x, W and these."""
    stored = [tensor("W", ramp(3, 2, 3, 3)), tensor("B", ramp(3))]
    made = node(
        "FusedConv", ["x", "W", *names], ["y"], name="conv", domain="com.microsoft", **attributes
    )
    inputs = [info("x", input_shape), info("Z", (1, 3, 6, 5))]
    return make_model([made], inputs, stored, domains={"com.microsoft": 1})


def test_the_linear_part_of_a_fusedconv(tmp_path: Path) -> None:
    given = {"pads": [1, 1, 1, 1], "strides": [1, 1], "group": 1}
    path = save(fused("B", activation="Relu", **given), tmp_path)
    entry = only(path.read_bytes(), tmp_path)
    plain = conv_model(ramp(3, 2, 3, 3), ramp(3), given, (1, 2, 6, 5))
    assert (dense(entry) == dense(only(plain, tmp_path))).all()
    assert entry.op == "com.microsoft.FusedConv"
    assert entry.notes() == {"activation": "Relu"}
    assert entry.load().bias.tolist() == ramp(3).tolist()
    save(fused("B", activation="Relu", **given), tmp_path)
    done = run("convert", path, "-o", tmp_path / "m.npz").succeeded()
    assert "note (conv): activation Relu" in done.err
    assert "the original node without its activation, run by" in done.err
    for name in ("reference",) + ("onnxruntime",) * HAS_ONNXRUNTIME:
        run("verify", tmp_path / "m.npz", "--model", path, "--against", name).succeeded()
    other = save(fused("B", activation="Tanh", **given), tmp_path, "other.onnx")
    assert run("verify", tmp_path / "m.npz", "--model", other).code == 1


def test_what_else_a_fusedconv_does_is_noted(tmp_path: Path) -> None:
    given = {"pads": [1] * 4, "activation": "HardSigmoid", "activation_params": [0.25, np.inf]}
    entry = only(fused("", "Z", **given), tmp_path)
    assert entry.notes() == {
        "activation": "HardSigmoid",
        "activation_params": [0.25, "inf"],
        "added_before_activation": "the tensor 'Z'",
    }
    assert entry.load().bias is None
    assert only(fused(), tmp_path).notes() == {}


@pytest.mark.parametrize(
    ("names", "attributes", "part"),
    [
        (("B", "Z", "Z"), {}, "takes four"),
        ((), {"activation": 3}, "'activation' of FusedConv has the wrong type"),
        ((), {"activation_params": "x"}, "'activation_params'"),
    ],
)
def test_a_malformed_fusedconv(
    names: tuple[str, ...], attributes: dict[str, Any], part: str, tmp_path: Path
) -> None:
    error = only(fused(*names, **attributes), tmp_path).error
    assert type(error) is MalformedInput
    assert part in str(error)


def test_an_unknown_attribute_of_a_fusedconv(tmp_path: Path) -> None:
    assert type(only(fused(beta=1.0), tmp_path).error) is Unsupported


# --- sizes behind operators that shape inference does not know ------------------------------------


def test_sizes_are_known_behind_fused_and_quantized_operators(tmp_path: Path) -> None:
    """Each output is what a last Conv reads: 4 channels of 8 x 8, or as its node makes it."""
    names = ["x", "s", "z"]
    microsoft: dict[str, Any] = {"domain": "com.microsoft"}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    cases = {
        "FusedConv": (
            node("FusedConv", ["x", "V"], ["t"], activation="Relu", **microsoft),
            (4, 6, 6),
        ),
        "Quant": (
            node("Quant", ["x", "s", "z", "b"], ["t"], domain="qonnx.custom_op.general"),
            (4, 8, 8),
        ),
        "QLinearAdd": (
            node("QLinearAdd", [*names, *names, "s", "z"], ["t"], **microsoft),
            (4, 8, 8),
        ),
        "QLinearMul": (
            node("QLinearMul", [*names, *names, "s", "z"], ["t"], **microsoft),
            (4, 8, 8),
        ),
        "QLinearSigmoid": (
            node("QLinearSigmoid", [*names, "s", "z"], ["t"], **microsoft),
            (4, 8, 8),
        ),
        "QLinearLeakyRelu": (
            node("QLinearLeakyRelu", [*names, "s", "z"], ["t"], alpha=0.1, **microsoft),
            (4, 8, 8),
        ),
        "QLinearConcat": (
            node("QLinearConcat", ["s", "z", *names, *names], ["t"], axis=2, **microsoft),
            (4, 16, 8),
        ),
        "QLinearAveragePool": (
            node(
                "QLinearAveragePool",
                [*names, "s", "z"],
                ["t"],
                channels_last=0,
                **pool,
                **microsoft,
            ),
            (4, 4, 4),
        ),
        "QLinearGlobalAveragePool": (
            node("QLinearGlobalAveragePool", [*names, "s", "z"], ["t"], **microsoft),
            (4, 1, 1),
        ),
        "channels last": (
            node(
                "QLinearAveragePool",
                [*names, "s", "z"],
                ["t"],
                channels_last=1,
                **pool,
                **microsoft,
            ),
            None,
        ),
    }
    stored = [tensor("W", ramp(1, 4, 1, 1)), tensor("V", ramp(4, 4, 3, 3))]
    stored += [tensor("s", np.float32(1)), tensor("z", np.float32(0)), tensor("b", np.float32(8))]
    for what, (made, shape) in cases.items():
        nodes = [made, node("Conv", ["t", "W"], ["y"], name="conv")]
        domains = {"com.microsoft": 1, "qonnx.custom_op.general": 1}
        model = make_model(nodes, [info("x", (1, 4, 8, 8))], stored, domains=domains)
        entry = listed(model, tmp_path).entries[-1]
        assert (entry.outline.input_shape if entry.outline else None) == shape, what


# --- refused with the reason ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "op", "part"),
    [
        ("", "DeformConv", "offsets are computed from the input"),
        ("com.microsoft.nchwc", "Conv", "reordered its weights into blocks"),
        ("com.microsoft", "NhwcConv", "NHWC"),
        ("com.microsoft", "NhwcFusedConv", "NHWC"),
        ("com.ms.internal.nhwc", "Conv", "NHWC"),
        ("com.ms.internal.nhwc", "ConvTranspose", "NHWC"),
        ("com.ms.internal.nhwc", "QLinearConv", "NHWC"),
        ("com.microsoft", "QLinearConv", "channels last"),
        ("com.microsoft", "ConvTransposeWithDynamicPads", "pads are computed"),
        ("qonnx.custom_op.channels_last", "Conv", "NHWC"),
        ("com.example", "ConvInteger", "com.example.ConvInteger is not read"),
        ("com.example", "FusedConv", "com.example.FusedConv is not read"),
    ],
)
def test_relatives_are_refused_with_the_reason(
    domain: str, op: str, part: str, tmp_path: Path
) -> None:
    made = node(op, ["x", "W"], ["y"], name="conv", domain=domain)
    domains = {domain: 1} if domain else None
    model = make_model(
        [made], [info("x", (1, 2, 6, 5))], [tensor("W", ramp(3, 2, 3, 3))], domains=domains
    )
    error = only(model, tmp_path).error
    assert type(error) is Unsupported
    assert part in str(error)


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


# --- QONNX ----------------------------------------------------------------------------------------


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


# --- the rest -------------------------------------------------------------------------------------


def test_an_open_size_is_settled_as_any_other(tmp_path: Path) -> None:
    w = codes(np.random.default_rng(0), "int8", 3, 2, 3, 3)
    path = save(linear_model(w, (1, 2, "h", "w")), tmp_path)
    entry = only(path.read_bytes(), tmp_path)
    assert entry.status == "needs a size"
    assert entry.at((2, 9, 7)).as_real().require().output_shape == (3, 7, 5)
    out = tmp_path / "m.npz"
    run("convert", path, "-o", out, "--dequantize", "--input-shape", "1,2,7,8").succeeded()
    run("verify", out, "--model", path).succeeded()


def test_a_flipped_layer_stays_flipped_when_it_is_dequantized(tmp_path: Path) -> None:
    w = codes(np.random.default_rng(0), "int8", 3, 2, 3, 3)
    path, out = save(linear_model(w), tmp_path), tmp_path / "m.npz"
    run("convert", path, "-o", out, "--dequantize", "--flip-kernel").succeeded()
    found = convfc.load(out)
    assert (found.origin.flipped, found.origin.dequantized) == (True, True)
    real = only(path.read_bytes(), tmp_path).as_real().load()
    assert (found.layer.kernel == real.kernel[:, :, ::-1, ::-1]).all()
    run("verify", out, "--model", path).succeeded()


def test_notes_of_another_model_are_another_layer(tmp_path: Path) -> None:
    """The kernel is the same; what a code stands for is not."""
    path, out = save(linear_model(ONES), tmp_path), tmp_path / "m.npz"
    run("convert", path, "-o", out).succeeded()
    other = save(linear_model(ONES, x_zero_point=np.uint8(4)), tmp_path, "other.onnx")
    assert run("verify", out, "--model", other).code == 1


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    for model in (linear_model(ONES), model_of("ConvInteger", ONES, (1, 2, 6, 5))):
        result = first_result(only(model, tmp_path), np.random.default_rng(0))
        assert not isinstance(result, str)
        assert "reference" in result.runtime
        assert check_runtime(only(model, tmp_path).load(), replace(result)).holds
