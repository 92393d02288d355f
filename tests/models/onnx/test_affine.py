"""Gemm, MatMul, BatchNormalization and arithmetic with a constant, each against NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from convfc_cli.errors import MalformedInput, Unsupported
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.rounding import RuntimeResult
from tests.support.models import HAS_ONNXRUNTIME, first_result, info, listed, make_model, tensor
from tests.support.onnx_nodes import check, numbers, one_node, only, whole

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]
F32 = np.float32


# --- dense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("beta", [1.0, -0.7])
@pytest.mark.parametrize("bias", [None, (), (1,), (4,), (1, 1), (1, 4)])
def test_gemm(
    trans: int, alpha: float, beta: float, bias: tuple[int, ...] | None, tmp_path: Path
) -> None:
    b = numbers(4, 6) if trans else numbers(6, 4)
    c = () if bias is None else (numbers(*bias, seed=2),)
    entry = only(one_node("Gemm", (6,), b, *c, transB=trans, alpha=alpha, beta=beta), tmp_path)
    b64 = b.astype(np.float64).T if trans else b.astype(np.float64)
    added = F32(beta) * c[0].astype(np.float64) if c else 0
    check(entry, lambda x: F32(alpha) * (x @ b64) + added)
    if alpha == 1:  # bit for bit, and not by way of float64
        assert entry.load().arrays()["kernel"].tobytes() == (b if trans else b.T).tobytes()


def test_weights_are_taken_bit_for_bit(tmp_path: Path) -> None:
    bits = np.array(
        [[0x7F800001, 0x80000000], [0xFFC00123, 1], [0x7F800000, 0x3F800001]], np.uint32
    )
    w = bits.view(F32)  # a NaN that signals, -0.0, a payload, the smallest number, infinity
    for op, more in (("Gemm", (w[0],)), ("MatMul", ()), ("Mul", ())):
        shape = (2,) if op == "Mul" else (3,)
        layer = only(one_node(op, shape, w[:1] if op == "Mul" else w, *more), tmp_path).load()
        kernel = layer.arrays()["kernel"]
        assert kernel.tobytes() == (w[0] if op == "Mul" else w.T).tobytes()
        assert not more or layer.arrays()["kernel_bias"].tobytes() == w[0].tobytes()


def test_gemm_takes_its_size_from_its_weights(tmp_path: Path) -> None:
    for shape in (None, (None,), ("n",)):
        entry = only(one_node("Gemm", shape, numbers(6, 4)), tmp_path)
        assert entry.require().input_shape == (6,)


BAD_GEMMS: list[tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any], type, str]] = [
    ((6,), (numbers(6, 4),), {"transA": 1}, Unsupported, "transA"),
    ((5,), (numbers(6, 4),), {}, MalformedInput, "takes 6 inputs, it is given (5,)"),
    ((6,), (numbers(6),), {}, MalformedInput, "its B has 1 axes"),
    ((6,), (numbers(6, 4), numbers(2, 4)), {}, Unsupported, "differs within the batch"),
    ((6,), (numbers(6, 4), numbers(3)), {}, MalformedInput, "do not fit each other"),
    ((2, 3), (numbers(6, 4),), {}, MalformedInput, "is given (2, 3)"),
]


@pytest.mark.parametrize(("shape", "constants", "given", "error", "told"), BAD_GEMMS)
def test_hostile_gemms(
    shape: Any, constants: Any, given: Any, error: type, told: str, tmp_path: Path
) -> None:
    entry = only(one_node("Gemm", shape, *constants, **given), tmp_path)
    assert isinstance(entry.error, error)
    assert told in str(entry.error)


@pytest.mark.parametrize(
    ("shape", "constant", "place"),
    [
        ((6,), (6, 4), 0),
        ((3, 6), (6, 4), 0),
        ((2, 3, 6), (6, 4), 0),
        ((3, 6), (1, 6, 4), 0),
        ((3, 6), (5, 3), 1),
        ((2, 3, 6), (5, 3), 1),
        ((2, 3, 6), (1, 5, 3), 1),
    ],
)
def test_matmul(shape: Any, constant: Any, place: int, tmp_path: Path) -> None:
    w = numbers(*constant)
    entry = only(one_node("MatMul", shape, w, place=place), tmp_path)
    check(entry, lambda x: np.matmul(w, x) if place else np.matmul(x, w))
    assert entry.load().kind == "dense"
    assert entry.dtype == "float32"


BAD_MATMULS: list[tuple[Any, Any, int, type, str]] = [
    ((6,), (6,), 0, Unsupported, "takes an axis away"),
    ((2, 6), (2, 6, 4), 0, Unsupported, "more than one"),
    ((6,), (1, 6, 4), 0, Unsupported, "more than one"),
    ((6,), (3, 1), 1, Unsupported, "multiplies the batch"),
    ((3, 6), (5, 4), 0, MalformedInput, "takes 5 inputs"),
    ((3, 6), (5, 4), 1, MalformedInput, "takes 4 inputs"),
]


@pytest.mark.parametrize(("shape", "constant", "place", "error", "told"), BAD_MATMULS)
def test_hostile_matmuls(
    shape: Any, constant: Any, place: int, error: type, told: str, tmp_path: Path
) -> None:
    entry = only(one_node("MatMul", shape, numbers(*constant), place=place), tmp_path)
    assert isinstance(entry.error, error)
    assert told in str(entry.error)


# --- normalization, arithmetic --------------------------------------------------------------------


@pytest.mark.parametrize("opset", [6, 7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 4), (3, 2, 2, 2)])
def test_batch_normalization(shape: Any, opset: int, tmp_path: Path) -> None:
    scale, shift, mean = (numbers(3, seed=k) for k in range(3))
    mean *= 1000  # much of the bias is lost where it is computed in float32
    var = np.abs(numbers(3, seed=4))
    given = {"is_test": 1} if opset < 7 else {}
    model = one_node(
        "BatchNormalization", shape, scale, shift, mean, var, opset=opset, epsilon=0.01, **given
    )
    along = (slice(None), *(None,) * (len(shape) - 1))

    def expected(x: Array) -> Array:
        s, b, m, v = (a.astype(np.float64)[along] for a in (scale, shift, mean, var))
        return (x - m) / np.sqrt(v + F32(0.01)) * s + b

    entry = only(model, tmp_path)
    layer = entry.load()
    assert layer.kind == "diagonal"
    y = layer.apply(np.zeros(shape)) + layer.bias_tensor()
    np.testing.assert_allclose(y, expected(np.zeros((1, *shape)))[0], rtol=2**-23)
    if opset > 6 and HAS_ONNXRUNTIME:  # onnxruntime has no training mode of old
        theirs = first_result(entry, np.random.default_rng(3))
        assert isinstance(theirs, RuntimeResult), theirs
        assert check_runtime(layer, theirs).holds
        slack = np.asarray(theirs.extra).max()
        wrong = RuntimeResult.of(theirs.runtime, theirs.x, theirs.y + np.float32(4 * slack))
        assert check_runtime(layer, wrong).holds is False


def test_batch_normalization_that_is_trained(tmp_path: Path) -> None:
    constants = (*(numbers(3, seed=k) for k in range(3)), np.ones(3, F32))
    for opset, more, outputs in (
        (15, {"training_mode": 1}, ("y", "m", "v")),
        (9, {}, ("y", "m", "v", "s", "t")),
        (6, {}, ("y",)),
        (6, {"is_test": 0}, ("y",)),
    ):
        model = one_node(
            "BatchNormalization", (3, 2), *constants, opset=opset, outputs=outputs, **more
        )
        entry = only(model, tmp_path)
        assert isinstance(entry.error, Unsupported)
        assert "training mode" in str(entry.error)
        assert "export the model in evaluation mode" in str(entry.error)
    model = one_node("BatchNormalization", (3, 2), *constants, opset=7, spatial=0)
    assert "spatial 0" in str(only(model, tmp_path).error)
    model = one_node("BatchNormalization", (2, 2), *constants)
    assert "for 2 channels" in str(only(model, tmp_path).error)
    model = one_node("BatchNormalization", (3, 2), *constants[:3])
    assert "with 4 inputs" in str(only(model, tmp_path).error)


ARITHMETIC: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "constant", [(), (1,), (5,), (4, 1), (3, 1, 1), (1, 3, 4, 5), (1, 1, 1, 5)]
)
def test_arithmetic_with_a_constant(op: str, place: int, constant: Any, tmp_path: Path) -> None:
    c = numbers(*constant)
    found = listed(one_node(op, (3, 4, 5), c, place=place), tmp_path).others
    if (op, place) == ("Div", 1):
        assert not found  # one over x is not a linear map
        return
    (entry,) = found
    compute = ARITHMETIC[op]
    c64 = c.astype(np.float64)
    check(entry, lambda x: compute(c64, x) if place else compute(x, c64))


def test_arithmetic_that_makes_more_of_its_input(tmp_path: Path) -> None:
    for shape, constant, told in (
        ((3, 1), (3, 4), "makes more"),
        ((3,), (1, 2, 3), "makes more"),
        ((3, 4), (2, 3, 4), "differs within the batch"),
        ((3, 4), (5,), "makes more"),
    ):
        entry = only(one_node("Mul", shape, numbers(*constant)), tmp_path)
        assert isinstance(entry.error, Unsupported)
        assert told in str(entry.error)


def test_arithmetic_before_version_7_says_where_its_axes_begin(tmp_path: Path) -> None:
    for axis in (1, -3):
        c = numbers(3)
        entry = only(one_node("Mul", (3, 4, 3), c, opset=6, broadcast=1, axis=axis), tmp_path)
        check(entry, lambda x, c=c: x * c.reshape(-1, 1, 1), run=False)


def test_what_computes_with_no_constant_or_integers_is_no_layer(tmp_path: Path) -> None:
    make = helper.make_node
    nodes = [
        make("Add", ["x", "x"], ["a"]),
        make("MatMul", ["x", "x"], ["b"]),
        make("Mul", ["c", "c"], ["d"]),  # a constant
        make("Transpose", ["c"], ["e"]),
        make("Shape", ["x"], ["f"]),
        make("Unsqueeze", ["f", "zero"], ["g"]),  # integers
        make("Add", ["x", "d"], ["h"], name="layer"),
        make("ReduceMean", ["x"], ["j"], keepdims=0),
        make("Mul", ["j", "s"], ["k"]),  # a scalar
        make("Flatten", ["u"], ["v"]),
    ]
    stored = [tensor("c", numbers(2, 2)), tensor("zero", whole(0)), tensor("s", F32(2))]
    inputs = [info("x", (1, 2, 2)), info("u", (1, 2, 2), TensorProto.UINT8)]
    assert [e.name for e in listed(make_model(nodes, inputs, stored), tmp_path).others] == ["layer"]


# --- the other runtime ----------------------------------------------------------------------------


def test_a_batch_normalization_of_nonsense_is_left_out(tmp_path: Path) -> None:
    ones = np.ones(2, F32)
    for broken in (np.array([np.inf, 1], F32), np.array([np.nan, 1], F32)):
        entry = only(one_node("BatchNormalization", (2, 3), broken, ones, ones, ones), tmp_path)
        theirs = first_result(entry, np.random.default_rng(0))
        finding = check_runtime(entry.load(), theirs)
        assert finding.holds
        assert "3 outputs left out" in finding.detail
    entry = only(one_node("BatchNormalization", (2, 3), ones, ones, ones, -9 * ones), tmp_path)
    assert not entry.load().finite
    assert check_runtime(entry.load(), first_result(entry, np.random.default_rng(0))).holds is None
