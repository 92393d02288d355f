"""Constant weights, stored or computed: each source gives the very bits that the model means."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from convfc_cli.errors import Unsupported
from tests.support.models import (
    conv_model,
    convfc,
    dense,
    info,
    listed,
    make_model,
    only,
    ramp,
    save,
    tensor,
    weight_model,
)
from tests.support.onnx_weights import SHAPE, check

node = helper.make_node


# --- stored ---------------------------------------------------------------------------------------


def test_an_initializer(tmp_path: Path) -> None:
    check(weight_model([], [tensor("W", ramp(*SHAPE))]), ramp(*SHAPE), tmp_path)


def test_an_initializer_that_is_also_a_graph_input(tmp_path: Path) -> None:
    model = weight_model([], [tensor("W", ramp(*SHAPE))], extra_inputs=[info("W", SHAPE)])
    assert [value.name for value in model.graph.input] == ["x", "W"]
    check(model, ramp(*SHAPE), tmp_path)


def test_typed_fields_instead_of_raw_bytes(tmp_path: Path) -> None:
    weights = ramp(*SHAPE)
    stored = helper.make_tensor("W", TensorProto.FLOAT, SHAPE, weights.reshape(-1).tolist())
    assert len(stored.float_data) == weights.size
    check(weight_model([], [stored]), weights, tmp_path)


def test_a_constant_node(tmp_path: Path) -> None:
    made = node("Constant", [], ["W"], value=tensor("", ramp(*SHAPE)))
    check(weight_model([made], []), ramp(*SHAPE), tmp_path)


def test_a_constant_of_floats(tmp_path: Path) -> None:
    values = ramp(4)
    nodes = [
        node("Constant", [], ["flat"], value_floats=values.tolist()),
        node("Constant", [], ["shape"], value_ints=[1, 2, 1, 2]),
        node("Reshape", ["flat", "shape"], ["W"]),
    ]
    check(weight_model(nodes, []), values.reshape(1, 2, 1, 2), tmp_path)


@pytest.mark.parametrize("flat", [False, True])
def test_a_sparse_constant(flat: bool, tmp_path: Path) -> None:
    expected = np.zeros(SHAPE, np.float32)
    places = np.array([[0, 0, 0, 1], [0, 1, 1, 2], [2, 0, 1, 0]])
    expected[tuple(places.T)] = [1.5, -2, 3]
    if flat:
        places = np.ravel_multi_index(tuple(places.T), SHAPE)
    sparse = helper.make_sparse_tensor(
        tensor("", np.array([1.5, -2, 3], np.float32)), tensor("", places.astype(np.int64)), SHAPE
    )
    model = weight_model([node("Constant", [], ["W"], sparse_value=sparse)], [])
    entry = only(model, tmp_path)
    np.testing.assert_array_equal(entry.load().kernel, expected)
    # A zero of the kernel is an entry of the matrix all the same: it is a weight.
    assert entry.require().nnz == 4 * 2 * SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3]


def test_a_sparse_initializer(tmp_path: Path) -> None:
    expected = np.zeros(SHAPE, np.float32)
    expected.reshape(-1)[[3, 17]] = [4, -0.5]
    sparse = helper.make_sparse_tensor(
        tensor("W", np.array([4, -0.5], np.float32)), tensor("", np.array([3, 17])), SHAPE
    )
    model = weight_model([], [], sparse_initializer=[sparse])
    entry = only(model, tmp_path)
    np.testing.assert_array_equal(entry.load().kernel, expected)


# --- computed from constants ----------------------------------------------------------------------


def test_a_chain_of_identity_transpose_reshape_and_cast(tmp_path: Path) -> None:
    weights = ramp(*SHAPE, dtype=np.float64)
    stored = weights.transpose(3, 0, 2, 1)  # some other order
    nodes = [
        node("Identity", ["raw"], ["a"]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[1, 3, 2, 0]),
        node("Cast", ["c"], ["d"], to=TensorProto.FLOAT),
        node("Identity", ["d"], ["W"]),
    ]
    model = weight_model(
        nodes, [tensor("raw", stored.reshape(-1)), tensor("shape", np.array([3, 3, 2, 2]))]
    )
    check(model, weights.astype(np.float32), tmp_path)


def test_a_cast_rounds_as_onnx_says(tmp_path: Path) -> None:
    exact = np.array([1 + 2.0**-24, 1 + 2.0**-23 + 2.0**-24, -1e300, 2.0**-160])
    nodes = [node("Cast", ["raw"], ["W"], to=TensorProto.FLOAT)]
    model = weight_model(nodes, [tensor("raw", exact.reshape(1, 2, 1, 2))])
    layer = only(model, tmp_path).load()
    expected = np.float32([1, 1 + 2.0**-22, -np.inf, 0]).reshape(1, 2, 1, 2)
    np.testing.assert_array_equal(layer.kernel, expected)


SCALES = np.float32([0.5, 0.25, 2])


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_dequantized_per_tensor(kind: Any, tmp_path: Path) -> None:
    codes = (np.arange(36) * 7 % 100).reshape(SHAPE).astype(kind)
    stored = [tensor("q", codes), tensor("s", np.float32(0.125)), tensor("z", kind(10))]
    model = weight_model([node("DequantizeLinear", ["q", "s", "z"], ["W"])], stored)
    check(model, (codes.astype(np.float32) - 10) * np.float32(0.125), tmp_path)


@pytest.mark.parametrize("axis", [0, -4])
def test_dequantized_per_output_channel(axis: int, tmp_path: Path) -> None:
    codes = (np.arange(36) - 18).reshape(SHAPE).astype(np.int8)
    zeros = np.int8([1, -2, 3])
    stored = [tensor("q", codes), tensor("s", SCALES), tensor("z", zeros)]
    made = node("DequantizeLinear", ["q", "s", "z"], ["W"], axis=axis)
    expected = (codes.astype(np.float32) - zeros.reshape(3, 1, 1, 1)) * SCALES.reshape(3, 1, 1, 1)
    check(weight_model([made], stored), expected.astype(np.float32), tmp_path)


@pytest.mark.parametrize("axis", [None, 1, -3])
def test_dequantized_per_input_channel_is_the_default(axis: int | None, tmp_path: Path) -> None:
    codes = (np.arange(54) - 20).reshape(3, 3, 2, 3).astype(np.int8)
    rest = {} if axis is None else {"axis": axis}
    made = node("DequantizeLinear", ["q", "s"], ["W"], **rest)
    model = weight_model(
        [made], [tensor("q", codes), tensor("s", SCALES)], input_shape=(1, 3, 5, 4)
    )
    check(model, codes.astype(np.float32) * SCALES.reshape(1, 3, 1, 1), tmp_path)


@pytest.mark.parametrize("axis", [0, 1])
def test_dequantized_weights_of_a_transposed_convolution(axis: int, tmp_path: Path) -> None:
    codes = (np.arange(54) - 20).reshape(3, 3, 2, 3).astype(np.int8)
    made = node("DequantizeLinear", ["q", "s"], ["W"], axis=axis)
    stored = [tensor("q", codes), tensor("s", SCALES)]
    model = weight_model([made], stored, op="ConvTranspose", input_shape=(1, 3, 3, 2))
    scales = SCALES.reshape((3, 1, 1, 1) if axis == 0 else (1, 3, 1, 1))
    check(model, codes.astype(np.float32) * scales, tmp_path)


def test_quantized_and_dequantized_again(tmp_path: Path) -> None:
    weights = ramp(*SHAPE)
    nodes = [
        node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
        node("DequantizeLinear", ["q", "s", "z"], ["W"], axis=0),
    ]
    stored = [tensor("w", weights), tensor("s", SCALES), tensor("z", np.int8([0, 0, 0]))]
    scales = SCALES.reshape(3, 1, 1, 1)
    expected = np.clip(np.round(weights / scales), -128, 127).astype(np.int8) * scales
    check(weight_model(nodes, stored), expected, tmp_path)


@pytest.mark.parametrize("opset", [13, 18])
def test_weight_norm(opset: int, tmp_path: Path) -> None:
    direction, length = ramp(*SHAPE), np.float32([1, 2, 3]).reshape(3, 1, 1, 1)
    stored = [tensor("v", direction), tensor("g", length)]
    if opset < 18:
        reduced = node("ReduceL2", ["v"], ["norm"], axes=[1, 2, 3], keepdims=1)
    else:
        reduced = node("ReduceL2", ["v", "axes"], ["norm"], keepdims=1)
        stored.append(tensor("axes", np.array([1, 2, 3])))
    nodes = [reduced, node("Div", ["v", "norm"], ["unit"]), node("Mul", ["unit", "g"], ["W"])]
    entry = only(weight_model(nodes, stored, opset=opset), tmp_path)
    layer = entry.load()
    exact = direction.astype(np.float64)
    exact /= np.sqrt((exact**2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(layer.kernel, exact * length, rtol=4e-7)
    assert layer.kernel.dtype == np.float32


def test_arithmetic_on_constants(tmp_path: Path) -> None:
    weights = ramp(*SHAPE)
    nodes = [
        node("Add", ["w", "one"], ["a"]),
        node("Mul", ["a", "two"], ["b"]),
        node("Concat", ["b", "b"], ["c"], axis=0),
        node("Slice", ["c", "starts", "ends", "axes"], ["d"]),
        node("Gather", ["d", "order"], ["e"], axis=0),
        node("Unsqueeze", ["e", "axes"], ["f"]),
        node("Squeeze", ["f", "axes"], ["W"]),
    ]
    stored = [
        tensor("w", weights),
        tensor("one", np.float32(1)),
        tensor("two", np.float32(2)),
        tensor("starts", np.array([3])),
        tensor("ends", np.array([6])),
        tensor("axes", np.array([0])),
        tensor("order", np.array([2, 0, 1])),
    ]
    check(weight_model(nodes, stored), ((weights + 1) * 2)[[2, 0, 1]], tmp_path)


def test_a_bias_that_is_computed(tmp_path: Path) -> None:
    model = conv_model(ramp(*SHAPE), None, {}, (1, 2, 5, 4))
    graph = model.graph
    graph.node.insert(0, node("Neg", ["b"], ["B"]))
    graph.node[1].input.append("B")
    graph.initializer.append(tensor("b", np.float32([1, 2, 3])))
    layer = check(model, ramp(*SHAPE), tmp_path)
    np.testing.assert_array_equal(layer.bias, np.float32([-1, -2, -3]))


def test_one_of_several_outputs(tmp_path: Path) -> None:
    both = ramp(3, 4, 2, 3)
    made = node("Split", ["both", "sizes"], ["left", "W"], axis=1)
    model = weight_model([made], [tensor("both", both), tensor("sizes", np.array([2, 2]))])
    check(model, both[:, 2:].copy(), tmp_path)


# --- number formats -------------------------------------------------------------------------------


def test_float16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.uint16([0x0001, 0x8000, 0x7BFF, 0x3C01, 0x0400, 0xFBFF])
    weights = bits.view(np.float16).reshape(1, 2, 1, 3)
    model = conv_model(weights, weights[0, 0, 0, :1], {}, (1, 2, 5, 4))
    entry = only(model, tmp_path)
    assert entry.dtype == "float16"
    layer = entry.load()
    expected = np.float32([2.0**-24, -0.0, 65504, 1 + 2.0**-10, 2.0**-14, -65504])
    assert layer.kernel.dtype == np.float32
    assert layer.kernel.tobytes() == expected.tobytes()
    assert layer.bias.tobytes() == np.float32(2.0**-24).tobytes()


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.uint16([0x0001, 0x8000, 0x7F7F, 0x3F81, 0x0080, 0xC2F7])
    stored = TensorProto(
        name="W", data_type=TensorProto.BFLOAT16, dims=[1, 2, 1, 3], raw_data=bits.tobytes()
    )
    entry = only(weight_model([], [stored], kind=TensorProto.BFLOAT16), tmp_path)
    assert entry.dtype == "bfloat16"
    layer = entry.load()
    expected = (bits.astype(np.uint32) << 16).view(np.float32).reshape(1, 2, 1, 3)
    assert layer.kernel.tobytes() == expected.tobytes()


def test_float64_stays_float64(tmp_path: Path) -> None:
    weights = ramp(*SHAPE, dtype=np.float64) + 2.0**-40
    model = conv_model(weights, weights[:, 0, 0, 0], {}, (1, 2, 5, 4))
    layer = check(model, weights, tmp_path)
    assert layer.bias.dtype == np.float64
    assert dense(only(model, tmp_path)).dtype == np.float64


@pytest.mark.parametrize("special", ["nan payload", "infinity", "negative zero", "subnormal"])
def test_any_bits_survive(special: str, tmp_path: Path) -> None:
    odd = {
        "nan payload": 0x7FC12345,
        "infinity": 0xFF800000,
        "negative zero": 0x80000000,
        "subnormal": 0x00000001,
    }[special]
    bits = ramp(*SHAPE).view(np.uint32)
    bits[1, 1, 0, 2] = odd
    entry = only(conv_model(bits.view(np.float32), None, {}, (1, 2, 5, 4)), tmp_path)
    assert entry.load().kernel.view(np.uint32).tolist() == bits.tolist()


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.bool_])
def test_integers_are_refused(kind: Any, tmp_path: Path) -> None:
    weights = (np.arange(36) % 2).reshape(SHAPE).astype(kind)
    entry = only(conv_model(weights, None, {}, (1, 2, 5, 4)), tmp_path)
    with pytest.raises(Unsupported, match="not floating point") as raised:
        entry.load()
    assert np.dtype(kind).name in str(raised.value)
    assert "'W'" in str(raised.value)


# --- not constant ---------------------------------------------------------------------------------

DYNAMIC: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a graph input": (lambda: weight_model([], [], extra_inputs=[info("W", SHAPE)]), "'W'"),
    "computed from an input": (
        lambda: weight_model(
            [node("Mul", ["w", "scale"], ["W"])],
            [tensor("w", ramp(*SHAPE))],
            extra_inputs=[info("scale", (1,))],
        ),
        "'scale'",
    ),
    "random": (lambda: weight_model([node("RandomNormal", [], ["W"], shape=SHAPE)], []), "Random"),
    "of a foreign operator": (
        lambda: weight_model(
            [node("Unpack", ["w"], ["W"], domain="com.example")],
            [tensor("w", ramp(*SHAPE))],
            domains={"com.example": 1},
        ),
        "com.example.Unpack",
    ),
    "defined nowhere": (lambda: weight_model([], []), "defined nowhere"),
}


@pytest.mark.parametrize("what", DYNAMIC)
def test_dynamic_weights_are_refused(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, part = DYNAMIC[what]
    entry = only(make(), tmp_path)
    assert type(entry.error) is Unsupported
    assert "weights are not constant" in str(entry.error)
    assert part in str(entry.error)
    done = convfc(capsys, "convert", tmp_path / "model.onnx", "-o", tmp_path / "out.npz")
    assert done.code == 4
    assert "layer conv (Conv)" in done.err
    assert part in done.err
    assert not (tmp_path / "out.npz").exists()


def test_a_dynamic_bias_is_refused(tmp_path: Path) -> None:
    model = conv_model(ramp(*SHAPE), None, {}, (1, 2, 5, 4))
    model.graph.node[0].input.append("b")
    model.graph.input.append(info("b", (3,)))
    entry = only(model, tmp_path)
    assert type(entry.error) is Unsupported
    assert "bias" in str(entry.error)
    assert "'b'" in str(entry.error)


def test_a_layer_that_nobody_selects_need_not_resolve(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "W"], ["h"], name="good"),
        node("Conv", ["h", "V"], ["y"], name="bad"),
    ]
    inputs = [info("x", (1, 2, 5, 4)), info("V", (1, 3, 1, 1))]
    found = listed(make_model(nodes, inputs, [tensor("W", ramp(*SHAPE))]), tmp_path)
    assert [entry.status for entry in found.entries] == ["ready", "unsupported"]
    (good,) = found.select(["good"])
    np.testing.assert_array_equal(good.load().kernel, ramp(*SHAPE))


# --- from standard input --------------------------------------------------------------------------


def test_a_model_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(conv_model(ramp(*SHAPE), None, {}, (1, 2, 5, 4)), tmp_path)
    with open(path, "rb") as file:
        wrapped = SimpleNamespace(buffer=file, isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", wrapped)
        done = convfc(capsys, "inspect", "-", "--json")
    assert done.code == 0, done.err
    (layer,) = done.json()["layers"]
    assert layer["kernel_shape"] == list(SHAPE)
    assert isinstance(file, io.BufferedReader)
