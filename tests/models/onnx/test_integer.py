"""ConvInteger and QLinearConv, held to their definition in integers by loops."""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput, Unsupported
from convfc_cli.models.onnx.integer import MAX_NOTED
from tests.support.cli_models import run
from tests.support.integer_nodes import (
    ONES,
    RUN_TIME,
    codes,
    findings,
    linear_model,
    model_of,
    wrong_here,
)
from tests.support.models import dense, info, listed, make_model, only, save, tensor

Array = NDArray[Any]
node = helper.make_node


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
    done = run("convert", path, "-v", "-o", f"{tmp_path}/out/").succeeded()
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
    channels = MAX_NOTED + 1
    w = np.ones((channels, 1, 1), np.int8)
    zero = np.zeros(channels, np.int8)
    entry = only(model_of("ConvInteger", w, (1, 1, 2), w_zero_point=zero), tmp_path)
    assert entry.notes()["w_zero_point"] == f"{channels} values"
    entry = only(model_of("ConvInteger", w[1:], (1, 1, 2), w_zero_point=zero[1:]), tmp_path)
    assert entry.notes()["w_zero_point"] == [0] * MAX_NOTED
    path = tmp_path / "model.onnx"
    for suffix in ("npz", "h5"):
        run("convert", path, "-o", tmp_path / f"m.{suffix}").succeeded()


# --- what contradicts the specification -----------------------------------------------------------

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


def test_notes_of_another_model_are_another_layer(tmp_path: Path) -> None:
    """The kernel is the same; what a code stands for is not."""
    path, out = save(linear_model(ONES), tmp_path), tmp_path / "m.npz"
    run("convert", path, "-o", out).succeeded()
    other = save(linear_model(ONES, x_zero_point=np.uint8(4)), tmp_path, "other.onnx")
    assert run("verify", out, "--model", other).code == 1
