"""Where a convolution's weights come from, and what becomes of those that cannot be read.

Each source must give the very bits that the model means. The expected arrays are worked out here,
by NumPy or by hand; and the original node, with whatever computes its weights, is run by a runtime
that knows nothing of how convfc folds constants.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported, UsageError
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.models.registry import read
from convfc_cli.rounding import RuntimeResult
from tests.support.models import (
    IR,
    conv_model,
    convfc,
    dense,
    first_result,
    info,
    listed,
    make_model,
    only,
    ramp,
    save,
    tensor,
    weight_model,
)

Array = NDArray[Any]
node = helper.make_node

SHAPE = (3, 2, 2, 3)
"""Of the weights: an input of (1, 2, 5, 4) has 3 outputs of 4 x 2."""


def check(model: onnx.ModelProto, expected: Array, folder: Path, *, ran: bool = True) -> Any:
    """The one layer of a model has these weights, and a runtime agrees; returns the layer."""
    entry = only(model, folder)
    assert entry.status == "ready", entry.error
    layer = entry.load()
    assert layer.kernel.dtype == expected.dtype
    np.testing.assert_array_equal(layer.kernel, expected)
    assert layer.kernel.tobytes() == expected.tobytes()
    result = first_result(entry, np.random.default_rng(5))
    assert isinstance(result, RuntimeResult) is ran, result
    if ran:
        finding = check_runtime(layer, result)
        assert finding.holds, finding.detail
    return layer


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


# --- other graphs ---------------------------------------------------------------------------------


def branch(nodes: list[Any], output: str, stored: Any = ()) -> onnx.GraphProto:
    """The body of one branch of an If."""
    return helper.make_graph(nodes, "branch", [], [info(output, None)], list(stored))


def test_weights_of_an_outer_graph_in_the_branches_of_an_if(tmp_path: Path) -> None:
    first, second = ramp(*SHAPE), -2 * ramp(*SHAPE)
    made = node(
        "If",
        ["c"],
        ["y"],
        name="choose",
        then_branch=branch(
            [node("Conv", ["x", "W"], ["y1"], name="yes")],  # the outer W
            "y1",
        ),
        else_branch=branch(
            [
                node("Identity", ["x"], ["x2"]),
                node("Transpose", ["V"], ["inner"], perm=[0, 1, 2, 3]),
                node("Conv", ["x2", "inner"], ["y2"], name="no", strides=[2, 1]),
            ],
            "y2",
        ),
    )
    model = make_model(
        [made],
        [info("x", (1, 2, 5, 4)), info("c", (), TensorProto.BOOL)],
        [tensor("W", first), tensor("V", second)],
    )
    found = listed(model, tmp_path)
    assert {entry.name for entry in found.entries} == {
        "choose/then_branch/yes",
        "choose/else_branch/no",
    }
    for name, weights, outputs in (("yes", first, (3, 4, 2)), ("no", second, (3, 2, 2))):
        (entry,) = found.select([name])
        layer = entry.load()
        np.testing.assert_array_equal(layer.kernel, weights)
        assert layer.output_shape == outputs
        result = first_result(entry, np.random.default_rng(0))
        assert isinstance(result, RuntimeResult)
        assert check_runtime(layer, result).holds


def test_two_branches_that_call_different_weights_by_the_same_name(tmp_path: Path) -> None:
    sides = {"then_branch": ramp(*SHAPE), "else_branch": 3 * ramp(*SHAPE)}
    bodies = {
        side: branch([node("Conv", ["x", "W"], ["r"])], "r", [tensor("W", weights)])
        for side, weights in sides.items()
    }
    model = make_model(
        [node("If", ["c"], ["y"], name="if", **bodies)],
        [info("x", (1, 2, 5, 4)), info("c", (), TensorProto.BOOL)],
    )
    entries = listed(model, tmp_path).entries
    assert len(entries) == 2
    for entry in entries:
        side = entry.name.split("/")[1]
        np.testing.assert_array_equal(entry.load().kernel, sides[side])
        result = first_result(entry, np.random.default_rng(0))
        assert isinstance(result, RuntimeResult)
        assert check_runtime(entry.load(), result).holds


def loop_model(inner: list[Any], *, rank_known: bool = True) -> onnx.ModelProto:
    """A Loop whose body carries `state`, on which the nodes `inner` compute `next`."""
    shape = (1, 2, 5, 4) if rank_known else None
    body = helper.make_graph(
        [*inner, node("Identity", ["go"], ["on"])],
        "body",
        [
            info("i", (), TensorProto.INT64),
            info("go", (), TensorProto.BOOL),
            info("state", shape),
        ],
        [info("on", (), TensorProto.BOOL), info("next", None)],
    )
    return make_model(
        [node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)],
        [info("x", (1, 2, 5, 4)), info("n", (), TensorProto.INT64)],
        [tensor("W", ramp(2, 2, 1, 1))],
    )


def test_a_loop_with_weights_of_the_outer_graph(tmp_path: Path) -> None:
    model = loop_model([node("Conv", ["state", "W"], ["next"], name="step")])
    entry = only(model, tmp_path)
    assert entry.name == "loop/body/step"
    np.testing.assert_array_equal(entry.load().kernel, ramp(2, 2, 1, 1))
    assert entry.require().input_shape == (2, 5, 4)


def test_an_if_within_a_loop(tmp_path: Path) -> None:
    inner = node(
        "If",
        ["go"],
        ["next"],
        name="if",
        then_branch=branch([node("Conv", ["state", "W"], ["r"], name="deep")], "r"),
        else_branch=branch([node("Identity", ["state"], ["s"])], "s"),
    )
    entry = only(loop_model([inner]), tmp_path)
    assert entry.name == "loop/body/if/then_branch/deep"
    np.testing.assert_array_equal(entry.load().kernel, ramp(2, 2, 1, 1))


def test_weights_that_a_loop_carries_are_dynamic(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            node("Conv", ["x", "w"], ["r"], name="step"),
            node("Neg", ["w"], ["v"]),
            node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            info("i", (), TensorProto.INT64),
            info("go", (), TensorProto.BOOL),
            info("w", (2, 2, 1, 1)),
        ],
        [info("on", (), TensorProto.BOOL), info("v", None), info("r", None)],
    )
    model = make_model(
        [node("Loop", ["n", "", "W"], ["last", "y"], name="loop", body=body)],
        [info("x", (1, 2, 5, 4)), info("n", (), TensorProto.INT64)],
        [tensor("W", ramp(2, 2, 1, 1))],
    )
    entry = only(model, tmp_path)
    assert type(entry.error) is Unsupported
    assert "'w'" in str(entry.error)


def function_model() -> onnx.ModelProto:
    """Two calls of a function that convolves with what it is given, by the strides it is given."""
    body = [node("Conv", ["a", "k"], ["b"], name="inner"), node("Relu", ["b"], ["c"])]
    strides = body[0].attribute.add()
    strides.name = strides.ref_attr_name = "strides"
    strides.type = onnx.AttributeProto.INTS
    function = helper.make_function(
        "my", "Block", ["a", "k"], ["c"], body, [helper.make_opsetid("", 18)], ["strides"]
    )
    nodes = [
        node("Block", ["x", "W"], ["h"], domain="my", strides=[2, 1], name="first"),
        node("Block", ["h", "V"], ["y"], domain="my", name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [info("x", (1, 2, 5, 4))],
        [onnx.ValueInfoProto(name="y")],
        [tensor("W", ramp(*SHAPE)), tensor("V", 2 * ramp(1, 3, 1, 1))],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=IR)


def test_local_functions(tmp_path: Path) -> None:
    first, second = listed(function_model(), tmp_path).entries
    np.testing.assert_array_equal(first.load().kernel, ramp(*SHAPE))
    np.testing.assert_array_equal(second.load().kernel, 2 * ramp(1, 3, 1, 1))
    assert first.require().output_shape == (3, 2, 2)
    assert second.require().output_shape == (1, 2, 2)
    assert first.name != second.name
    for entry in (first, second):
        result = first_result(entry, np.random.default_rng(0))
        assert isinstance(result, RuntimeResult)
        assert check_runtime(entry.load(), result).holds


def test_a_function_with_its_own_constants(tmp_path: Path) -> None:
    body = [
        node("Constant", [], ["k"], value=tensor("", ramp(*SHAPE))),
        node("Conv", ["a", "k"], ["b"]),
    ]
    function = helper.make_function("my", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        [node("F", ["x"], ["y"], domain="my")],
        "graph",
        [info("x", (1, 2, 5, 4))],
        [onnx.ValueInfoProto(name="y")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=IR)
    check(model, ramp(*SHAPE), tmp_path)


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


# --- external data --------------------------------------------------------------------------------


def external(folder: Path) -> Path:
    """A model in `folder` with its weights in weights.bin beside it."""
    model = conv_model(ramp(*SHAPE), np.float32([1, 2, 3]), {}, (1, 2, 5, 4))
    path = folder / "model.onnx"
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (folder / "weights.bin").stat().st_size >= 4 * 39
    return path


def restate(path: Path, **stated: str | None) -> None:
    """Change what the model says of where W lies; None takes an entry away."""
    model = onnx.load(path, load_external_data=False)
    (weights,) = (t for t in model.graph.initializer if t.name == "W")
    kept = {entry.key: entry.value for entry in weights.external_data} | stated
    del weights.external_data[:]
    for key, value in kept.items():
        if value is not None:
            weights.external_data.add(key=key, value=value)
    save(model, path.parent)


def test_external_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = external(tmp_path)
    (entry,) = read(path).entries
    layer = entry.load()
    np.testing.assert_array_equal(layer.kernel, ramp(*SHAPE))
    np.testing.assert_array_equal(layer.bias, np.float32([1, 2, 3]))
    assert isinstance(first_result(entry, np.random.default_rng(0)), RuntimeResult)
    done = convfc(capsys, "convert", path, "-o", tmp_path / "out.npz")
    assert done.code == 0, done.err
    assert done.paths == [tmp_path / "out.npz"]


def test_external_data_in_a_folder_below(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "data" / "weights.bin")
    restate(path, location="data/weights.bin")
    model = onnx.load(path, load_external_data=False)
    (bias,) = (t for t in model.graph.initializer if t.name == "B")
    bias.CopyFrom(tensor("B", np.float32([1, 2, 3])))
    (entry,) = read(save(model, tmp_path)).entries
    np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))


def test_external_data_found_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    external(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    (entry,) = read("models/model.onnx").entries
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))


def test_external_files_add_to_the_budget_what_they_hold(tmp_path: Path) -> None:
    path = external(tmp_path)
    with budget.command() as left:
        before = left.elements
        read(path)
        own = (tmp_path / "weights.bin").stat().st_size
        assert left.elements - before == 16 * (path.stat().st_size + own)
    for location in ("../weights.bin", "missing.bin", "\0"):
        restate(path, location=location)
        with budget.command() as left:
            read(path)
            # of B alone, which is where it was
            assert left.elements - before == 16 * (path.stat().st_size + own)
    restate(path, location="weights.bin")
    with open(tmp_path / "weights.bin", "ab") as file:
        file.truncate(2**30)  # a hole
    with budget.command() as left:
        read(path)
        assert left.elements - before < 16 * 2**20


def test_external_data_without_a_length(tmp_path: Path) -> None:
    path = external(tmp_path)
    restate(path, length=None)
    (entry,) = read(path).entries
    np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))


def _link(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    (folder / "weights.bin").rename(outside)
    (folder / "weights.bin").symlink_to(outside)


def _linked_folder(folder: Path) -> None:
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    (folder / "weights.bin").rename(outside / "weights.bin")
    (folder / "link").symlink_to(outside)


def _shorter(folder: Path) -> None:
    with open(folder / "weights.bin", "r+b") as file:
        file.truncate(20)


EXTERNAL: dict[str, tuple[dict[str, str | None], Callable[[Path], None] | None, Any, str]] = {
    "an absolute path": ({"location": "/etc/passwd"}, None, Refused, "outside"),
    "a folder above": ({"location": "../weights.bin"}, None, Refused, "outside"),
    "above, from below": ({"location": "data/../../weights.bin"}, None, Refused, "outside"),
    "a backslash": ({"location": "..\\weights.bin"}, None, Refused, "outside"),
    "no name": ({"location": ""}, None, Refused, "outside"),
    "no location": ({"location": None}, None, Refused, "outside"),
    "a link that leads out": ({}, _link, Refused, "refused"),
    "a linked folder": ({"location": "link/weights.bin"}, _linked_folder, Refused, "refused"),
    "a missing file": ({"location": "other.bin"}, None, MalformedInput, "missing"),
    "a folder": ({"location": "."}, None, (MalformedInput, Refused), "'W'"),
    "a zero byte": ({"location": "weights\0.bin"}, None, (MalformedInput, Refused), "'W'"),
    "a long name": ({"location": "w" * 5000}, None, (MalformedInput, Refused), "'W'"),
    "another length": ({"length": "140"}, None, MalformedInput, "140"),
    "a huge length": ({"length": str(2**62)}, None, MalformedInput, "144"),
    "a length below 0": ({"length": "-1"}, None, MalformedInput, "-1"),
    "no number for length": ({"length": "many"}, None, MalformedInput, "many"),
    "an offset beyond": ({"offset": "100000000"}, None, MalformedInput, "'W'"),
    "an offset below 0": ({"offset": "-8"}, None, MalformedInput, "'W'"),
    "no number for offset": ({"offset": "x"}, None, MalformedInput, "'W'"),
    "a file too short": ({}, _shorter, MalformedInput, "'W'"),
    "an unknown entry": ({"offset": "0", "command": "rm"}, None, (), ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", EXTERNAL)
def test_external_data_that_is_refused(what: str, tmp_path: Path) -> None:
    stated, prepare, errors, part = EXTERNAL[what]
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 1000)  # what a path that leads out would find
    path = external(folder)
    if prepare:
        prepare(folder)
    restate(path, **stated)
    (entry,) = read(path).entries
    assert entry.status == "ready"  # listing reads no weights
    if not errors:
        np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))
        return
    with pytest.raises(errors) as raised:
        entry.load()
    assert isinstance(raised.value, ConvfcError)
    assert part in str(raised.value)
    assert "layer conv" in str(raised.value)


def test_external_data_of_a_model_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = external(tmp_path)
    monkeypatch.chdir(tmp_path)
    with open(path, "rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file, isatty=lambda: False))
        done = convfc(capsys, "convert", "-", "-o", tmp_path / "out.npz")
    assert done.code == 5
    assert "'weights.bin'" in done.err
    assert not (tmp_path / "out.npz").exists()


# --- several layers -------------------------------------------------------------------------------


def several(
    names: list[str], folder: Path, outputs: list[str] | None = None
) -> tuple[Any, list[Array]]:
    """A chain of 1x1 convolutions with these node names; (model, weights)."""
    outputs = outputs or [f"out{i}" for i in range(len(names))]
    weights = [(i + 1) * ramp(2, 2, 1, 1) for i in range(len(names))]
    nodes = [
        node("Conv", [before, f"W{i}"], [outputs[i]], name=name)
        for i, (before, name) in enumerate(zip(["x", *outputs[:-1]], names, strict=True))
    ]
    stored = [tensor(f"W{i}", array) for i, array in enumerate(weights)]
    return listed(make_model(nodes, [info("x", (1, 2, 3, 2))], stored), folder), weights


def test_shared_weights(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "W"], ["h"], name="first", pads=[1, 1, 1, 1]),
        node("Conv", ["h", "W"], ["y"], name="second", strides=[2, 2]),
    ]
    weights = ramp(2, 2, 3, 3)
    model = make_model(nodes, [info("x", (1, 2, 5, 5))], [tensor("W", weights)])
    first, second = listed(model, tmp_path).entries
    assert first.load().kernel.tobytes() == second.load().kernel.tobytes() == weights.tobytes()
    assert first.require().output_shape == (2, 5, 5)
    assert second.require().output_shape == (2, 2, 2)


def test_unnamed_nodes_answer_to_their_outputs(tmp_path: Path) -> None:
    found, weights = several(["", ""], tmp_path)
    assert [entry.name for entry in found.entries] == ["out0", "out1"]
    for i, wanted in enumerate(["out0", "@1"]):
        (entry,) = found.select([wanted])
        np.testing.assert_array_equal(entry.load().kernel, weights[i])


NAMES = [
    "/block.0/conv;x",
    "/block.0/conv",
    "A",
    "a",
    "../../up",
    "nul",
    "ünï",
    "x" * 300,
    " ",
    "-",
]


def test_awkward_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, weights = several(NAMES, tmp_path)
    assert [entry.name for entry in found.entries] == NAMES
    done = convfc(capsys, "convert", tmp_path / "model.onnx", "-o", f"{tmp_path}/out/", "--json")
    assert done.code == 0, done.err
    written = done.json()["matrices"]
    assert [told["layer"] for told in written] == NAMES
    files = [Path(told["file"]) for told in written]
    assert len({file.name.lower() for file in files}) == len(NAMES)
    for file, array in zip(files, weights, strict=True):
        assert file.parent == tmp_path / "out"
        assert len(file.name) < 100
        assert set(file.name) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
        )
        with np.load(file) as members:
            np.testing.assert_array_equal(members["kernel"], array)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*(file.name for file in files), "manifest.json"]
    )


def test_duplicate_names(tmp_path: Path) -> None:
    found, weights = several(["conv", "conv", "other"], tmp_path)
    with pytest.raises(UsageError, match="@0") as raised:
        found.select(["conv"])
    assert "@1" in str(raised.value)
    for wanted, position in (("@1", 1), ("out1", 1), ("other", 2), ("ther", 2)):
        (entry,) = found.select([wanted])
        assert entry.position == position
        np.testing.assert_array_equal(entry.load().kernel, weights[position])


def test_a_name_that_fits_none(tmp_path: Path) -> None:
    found, _ = several(["encoder", "decoder"], tmp_path)
    with pytest.raises(UsageError, match="did you mean encoder"):
        found.select(["encodr"])
    with pytest.raises(UsageError, match="@0 to @1"):
        found.select(["@2"])


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
