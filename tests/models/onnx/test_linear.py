"""Linear layers of an ONNX graph beside its convolutions: pooling, dense layers, padding and so on.

Each is held to its own definition, by loops or NumPy, and to another runtime; the definitions here
share nothing with the package.
"""

import importlib.util
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

import convfc_cli as convfc
from convfc_cli.errors import (
    ConvfcError,
    GeometryError,
    MalformedInput,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.models.onnx.linear import KINDS
from convfc_cli.proof.verify import Proof
from convfc_cli.rounding import RuntimeResult
from convfc_cli.runtimes import onnxruntime
from tests.support.models import first_result, info, listed, make_model, save, tensor

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]
F32 = np.float32
RUNTIME = importlib.util.find_spec("onnxruntime") is not None


def numbers(*shape: int, seed: int = 1, dtype: Any = F32) -> Array:
    """Weights drawn at random, so that no symmetry hides."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def whole(*values: int) -> Array:
    """A list of axes or sizes, as nodes take it."""
    return np.array(values, np.int64)


def one_node(
    op: str,
    shape: Sequence[int | str | None] | None,
    /,
    *constants: Any,
    place: int = 0,
    opset: int = 22,
    outputs: Sequence[str] = ("y",),
    kind: int = TensorProto.FLOAT,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node of x, (1, *shape), and these constants, None for one that is left out;
    x is the input at `place`.
    """
    names = ["" if array is None else f"c{k}" for k, array in enumerate(constants)]
    names.insert(place, "x")
    node = helper.make_node(op, names, outputs, name="node", **attributes)
    stored = [tensor(f"c{k}", array) for k, array in enumerate(constants) if array is not None]
    sizes = None if shape is None else (1, *shape)
    return make_model([node], [info("x", sizes, kind)], stored, opset=opset, outputs=outputs[:1])


def only(model: onnx.ModelProto, folder: Path, shapes: Any = None) -> Entry:
    """The one other linear layer of a model."""
    (entry,) = listed(model, folder, shapes).others
    return entry


def matrix(entry: Entry) -> Array:
    """Every entry of a layer's matrix, in float64."""
    from scipy.sparse import csr_array

    layer = entry.load()
    rows = layer.matrix(convfc.Layout())
    arrays = (rows.data.array(), rows.indices.array(), rows.indptr.array())
    found = csr_array(arrays, shape=rows.shape)
    outline = entry.require()
    assert found.nnz == outline.nnz == layer.nnz
    assert (outline.rows, outline.columns) == found.shape == rows.shape
    assert layer.input_shape == outline.input_shape
    assert layer.output_shape == outline.output_shape
    return np.asarray(found.toarray(), np.float64)


def check(entry: Entry, expected: Callable[[Array], Array], *, run: bool = True) -> None:
    """Hold a layer to its definition for one sample, in float64, and to another runtime."""
    outline = entry.require()
    x = np.random.default_rng(5).standard_normal(outline.input_shape)
    bias = entry.load().bias_tensor().astype(np.float64)
    y = (matrix(entry) @ x.reshape(-1)).reshape(outline.output_shape) + bias
    wanted = expected(x[None])
    assert wanted.shape == (1, *outline.output_shape)
    np.testing.assert_allclose(y, wanted[0], rtol=2e-6, atol=2e-6)
    assert entry.status == "ready"
    if run and RUNTIME:
        theirs = first_result(entry, np.random.default_rng(6))
        assert isinstance(theirs, RuntimeResult), theirs
        assert check_runtime(entry.load(), theirs).holds
        wrong = np.array(theirs.y)
        wrong.reshape(-1)[wrong.size // 2] += 0.5
        changed = RuntimeResult.of(theirs.runtime, theirs.x, wrong)
        assert check_runtime(entry.load(), changed).holds is False


# --- pooling --------------------------------------------------------------------------------------


def pooled(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
    outputs: Sequence[int],
    include: bool,
) -> Array:
    """The mean of each window, by going through its elements."""
    y = np.zeros((*x.shape[:2], *outputs))
    for place in product(*map(range, outputs)):
        total, count = np.zeros(x.shape[:2]), 0
        for t in product(*map(range, kernel)):
            at = [
                o * s + e * d - lo
                for o, s, e, d, (lo, _) in zip(place, strides, t, dilations, pads, strict=True)
            ]
            inside = all(0 <= i < n for i, n in zip(at, x.shape[2:], strict=True))
            padded = all(
                -lo <= i < n + hi for i, n, (lo, hi) in zip(at, x.shape[2:], pads, strict=True)
            )
            total = total + (x[(slice(None), slice(None), *at)] if inside else 0)
            count += padded if include else inside
        y[(slice(None), slice(None), *place)] = total / count
    return y


@st.composite
def poolings(draw: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """(input shape, attributes) of an AveragePool with explicit pads, none as large as a kernel."""
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims))

    kernel, dilations, strides = each(1, 3), each(1, 2), each(1, 3)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [e + draw(st.integers(0, 4 if dims < 3 else 2)) for e in reach]
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    given: dict[str, Any] = {"kernel_shape": kernel}
    several = (("dilations", dilations), ("strides", strides), ("pads", pads))
    given |= {name: values for name, values in several if draw(st.booleans())}
    for name in ("ceil_mode", "count_include_pad"):
        if draw(st.booleans()):
            given[name] = draw(st.integers(0, 1))
    return (draw(st.integers(1, 2)), *sizes), given


@pytest.mark.slow
@given(problem=poolings())
def test_average_pool_is_the_mean_of_each_window(
    problem: tuple[tuple[int, ...], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    shape, given = problem
    dims = len(shape) - 1
    ones = [1] * dims
    kernel, strides = given["kernel_shape"], given.get("strides", ones)
    dilations, flat = given.get("dilations", ones), given.get("pads", [0] * 2 * dims)
    pads = list(zip(flat[:dims], flat[dims:], strict=True))
    entry = only(one_node("AveragePool", shape, **given), tmp_path_factory.mktemp("pool"))
    if isinstance(entry.error, Unsupported):
        assert "wholly in the padding" in str(entry.error)
        assert any(d > 1 for d in dilations)  # with pads smaller than the kernel, else never
        return
    outputs = []
    for n, k, s, d, (low, high) in zip(shape[1:], kernel, strides, dilations, pads, strict=True):
        starts = range(-low, n + high - d * (k - 1), s)
        count = len(starts)
        if (
            given.get("ceil_mode")
            and -low + count * s < n
            and starts[-1] + d * (k - 1) < n + high - 1
        ):
            count += 1
        outputs.append(count)
    include = bool(given.get("count_include_pad", 0))
    check(entry, lambda x: pooled(x, kernel, strides, dilations, pads, outputs, include))


@pytest.mark.parametrize("opset", [7, 10, 11, 19, 22])
@pytest.mark.parametrize("include", [0, 1])
def test_average_pool_of_every_version(opset: int, include: int, tmp_path: Path) -> None:
    given: dict[str, Any] = {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}
    if opset >= 10:
        given["ceil_mode"] = 1
    model = one_node("AveragePool", (2, 6), opset=opset, count_include_pad=include, **given)
    outputs = [4 if opset >= 10 else 3]
    check(
        only(model, tmp_path),
        lambda x: pooled(x, [3], [2], [1], [(1, 1)], outputs, bool(include)),
    )


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize(
    ("auto_pad", "pads"),
    [
        ("SAME_UPPER", [(0, 1), (1, 2)]),
        ("SAME_LOWER", [(1, 0), (2, 1)]),
        ("VALID", [(0, 0), (0, 0)]),
    ],
)
def test_average_pool_with_auto_pad(
    auto_pad: str, pads: list[tuple[int, int]], include: int, tmp_path: Path
) -> None:
    given = {"kernel_shape": [2, 5], "strides": [1, 2], "auto_pad": auto_pad}
    entry = only(one_node("AveragePool", (2, 4, 6), count_include_pad=include, **given), tmp_path)
    outputs = [3, 1] if auto_pad == "VALID" else [4, 3]
    check(entry, lambda x: pooled(x, [2, 5], [1, 2], [1, 1], pads, outputs, bool(include)))


def test_average_pool_same_with_dilations_is_not_run(tmp_path: Path) -> None:
    given = {"kernel_shape": [2], "dilations": [3], "auto_pad": "SAME_UPPER"}
    entry = only(one_node("AveragePool", (1, 7), **given), tmp_path)
    check(entry, lambda x: pooled(x, [2], [1], [3], [(1, 2)], [7], False), run=False)
    reason = first_result(entry, np.random.default_rng(0))
    assert isinstance(reason, str)
    assert "SAME padding with dilations" in reason


def test_a_pool_whose_windows_are_all_alike_is_one_convolution(tmp_path: Path) -> None:
    plain = only(one_node("AveragePool", (3, 6, 6), kernel_shape=[2, 2], strides=[2, 2]), tmp_path)
    assert plain.load().kind == "convolution"
    assert plain.require().groups == 3
    given: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    counted = only(one_node("AveragePool", (3, 6, 6), count_include_pad=1, **given), tmp_path)
    assert counted.load().kind == "convolution"
    border = only(one_node("AveragePool", (3, 6, 6), **given), tmp_path)
    assert border.load().kind == "product"
    assert (border.require().nnz, border.require().kernel_shape) == (3 * 16 * 16, ())
    assert sorted(set(np.unique(matrix(border)).astype(F32))) == [
        0,
        *(F32(1 / count) for count in (9, 6, 4)),
    ]


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 3), (2, 3, 2, 4), (1, 2, 2, 1, 3)])
def test_global_average_pool(shape: tuple[int, ...], tmp_path: Path) -> None:
    entry = only(one_node("GlobalAveragePool", shape), tmp_path)
    axes = tuple(range(2, len(shape) + 1))
    check(entry, lambda x: x.mean(axes, keepdims=True))


BAD_POOLS: list[tuple[tuple[int, ...], dict[str, Any], type[Exception], str]] = [
    ((1, 5), {"kernel_shape": [2, 2]}, MalformedInput, "2 sizes for an input of"),
    ((5,), {"kernel_shape": [1]}, MalformedInput, "1 sizes"),
    ((1, 5), {}, MalformedInput, "without its attribute 'kernel_shape'"),
    ((1, 5), {"kernel_shape": [0]}, GeometryError, "kernel is 0"),
    ((1, 5), {"kernel_shape": [2], "strides": [0]}, GeometryError, "stride is 0"),
    ((1, 5), {"kernel_shape": [2], "strides": [1, 1]}, MalformedInput, "'strides' has 2 values"),
    ((1, 5), {"kernel_shape": [2], "pads": [1]}, MalformedInput, "'pads' has 1 values"),
    ((1, 5), {"kernel_shape": [2], "pads": [-1, 0]}, GeometryError, "negative padding"),
    ((1, 5), {"kernel_shape": [6]}, GeometryError, "no output"),
    ((1, 5), {"kernel_shape": [2], "pads": [2, 0]}, Unsupported, "wholly in the padding"),
    ((1, 5), {"kernel_shape": [2], "auto_pad": "SOME"}, GeometryError, "'SOME' is not one of"),
    ((1, 5), {"kernel_shape": [2], "auto_pad": b"\xff"}, MalformedInput, "is not text"),
    (
        (1, 6),
        {"kernel_shape": [3], "strides": [2], "auto_pad": "VALID", "ceil_mode": 1},
        Unsupported,
        "disagree",
    ),
    ((1, 5), {"kernel_shape": [2], "group": 1}, Unsupported, "'group' is not one"),
    ((1, 5), {"kernel_shape": 2}, MalformedInput, "wrong type"),
    ((1, 2**22 + 2), {"kernel_shape": [2]}, Refused, "windows along one axis"),
    ((2**10, 2**9, 2**9), {"kernel_shape": [2**9, 2**9]}, Refused, "a tensor of"),
]


@pytest.mark.parametrize(("shape", "given", "error", "told"), BAD_POOLS)
def test_hostile_poolings_are_listed_with_the_reason(
    shape: tuple[int, ...], given: dict[str, Any], error: type, told: str, tmp_path: Path
) -> None:
    entry = only(one_node("AveragePool", shape, **given), tmp_path)
    assert isinstance(entry.error, error)
    assert told in str(entry.error)
    with pytest.raises(error, match="layer node \\(AveragePool\\)"):
        entry.load()


def test_attributes_are_those_of_the_version(tmp_path: Path) -> None:
    for opset, name, value in (
        (6, "count_include_pad", 1),
        (9, "ceil_mode", 0),
        (18, "dilations", [1]),
    ):
        entry = only(
            one_node("AveragePool", (1, 5), opset=opset, kernel_shape=[2], **{name: value}),
            tmp_path,
        )
        assert isinstance(entry.error, Unsupported)
        assert repr(name) in str(entry.error)


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
    if opset > 6 and RUNTIME:  # onnxruntime has no training mode of old
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


# --- what moves numbers ---------------------------------------------------------------------------

MODES = ["constant", "reflect", "edge", "wrap"]


def np_pad(x: Array, pads: Sequence[int], mode: str) -> Array:
    """NumPy's own padding, after what is negative has been cropped."""
    rank = x.ndim
    ends = list(zip(pads[:rank], pads[rank:], strict=True))
    crop = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, ends, strict=True))
    return np.pad(x[crop], [(max(0, a), max(0, b)) for a, b in ends], mode=mode)  # type: ignore


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "pads"),
    [
        ((5,), [0, 2, 0, 3]),
        ((2, 5), [0, 1, 2, 0, 0, 4]),
        ((2, 4, 5), [0, 0, 1, 2, 0, 1, 3, 0]),
        ((2, 4, 5), [0, 0, -1, 0, 0, 0, -2, 0]),
        ((2, 3, 2, 3), [0, 1, 0, 1, 2, 0, 0, 2, 0, 1]),
    ],
)
def test_pad(shape: Any, pads: list[int], mode: str, tmp_path: Path) -> None:
    if mode == "wrap" and min(pads) < 0:
        pads = [-abs(p) for p in pads]
    entry = only(one_node("Pad", shape, whole(*pads), mode=mode), tmp_path)
    check(entry, lambda x: np_pad(x, pads, mode))
    assert entry.load().kind == "gather"


def test_pad_beyond_the_size_of_its_input(tmp_path: Path) -> None:
    pads = [0, 0, 9, 0, 0, 7]
    for mode in ("constant", "edge", "wrap"):
        entry = only(one_node("Pad", (2, 4), whole(*pads), mode=mode), tmp_path)
        check(entry, lambda x, mode=mode: np_pad(x, pads, mode))
    entry = only(one_node("Pad", (2, 4), whole(0, 0, 4, 0, 0, 0), mode="reflect"), tmp_path)
    assert isinstance(entry.error, Unsupported)
    assert "it reflects 4 of 4 elements; there are 3" in str(entry.error)


def test_pad_of_some_axes(tmp_path: Path) -> None:
    for axes, pads in (((2, -1), [1, 2, 3, 0]), ((-1, 2), [2, 1, 0, 3])):
        entry = only(
            one_node("Pad", (2, 4, 5), whole(*pads), None, whole(*axes), mode="edge"), tmp_path
        )
        check(entry, lambda x: np_pad(x, [0, 0, 1, 2, 0, 0, 3, 0], "edge"))


@pytest.mark.parametrize("opset", [1, 2, 10, 11, 13, 18, 21])
def test_pad_of_every_version(opset: int, tmp_path: Path) -> None:
    pads = [0, 0, 1, 0, 0, 2]
    if opset < 11:
        model = one_node(
            "Pad",
            (2, 4),
            opset=opset,
            **{"pads" if opset > 1 else "paddings": pads},
            mode="reflect",
        )
    else:
        model = one_node("Pad", (2, 4), whole(*pads), opset=opset, mode="reflect")
    check(only(model, tmp_path), lambda x: np_pad(x, pads, "reflect"), run=opset > 6)


def test_pad_with_a_zero_or_a_value_that_is_not_used(tmp_path: Path) -> None:
    pads = whole(0, 0, 1, 0, 0, 2)
    for zero in (F32(0), F32(-0.0), np.zeros(1, F32)):
        entry = only(one_node("Pad", (2, 4), pads, zero), tmp_path)
        check(entry, lambda x: np_pad(x, pads.tolist(), "constant"), run=zero.ndim == 0)
    check(
        only(one_node("Pad", (2, 4), whole(0, 0, -1, 0, 0, 0), F32(3)), tmp_path),
        lambda x: x[..., 1:],
    )
    check(
        only(one_node("Pad", (2, 4), pads, F32(3), mode="edge"), tmp_path),
        lambda x: np_pad(x, pads.tolist(), "edge"),
    )


BAD_PADS: list[tuple[Any, dict[str, Any], type, str]] = [
    ((whole(0, 0, 1, 0, 0, 1), F32(2)), {}, Unsupported, "it pads with 2.0"),
    ((whole(0, 0, 1, 0, 0, 1), F32(np.nan)), {}, Unsupported, "it pads with nan"),
    ((whole(1, 0, 0, 0, 0, 0),), {}, Unsupported, "pads the batch"),
    ((whole(0, 0, 0, 1, 0, 0),), {"mode": "edge"}, Unsupported, "pads the batch"),
    ((whole(0, 0, 1, 0),), {}, MalformedInput, "4 pads for 3 axes"),
    ((whole(0, 0, -2, 0, 0, -2),), {}, GeometryError, "leaves nothing of 4"),
    ((whole(0, 0, -9, 0, 0, 9),), {}, GeometryError, "leaves nothing of 4"),
    ((whole(0, 0, 2**62, 0, 0, 2**62),), {}, GeometryError, "beyond 2**40"),
    ((whole(0, 0, 2**30, 0, 0, 0),), {}, Refused, "a tensor of"),
    ((whole(0, 0, 1, 0, 0, -1),), {"mode": "wrap"}, Unsupported, "which is first"),
    ((whole(0, 0, 1, 0, 0, 0),), {"mode": "circular"}, MalformedInput, "'circular' is none"),
    ((whole(0, 0, 1, 0, 0, 0),), {"mode": "wrap", "opset": 18}, MalformedInput, "version 18"),
    ((whole(1, 1), None, whole(7)), {}, MalformedInput, "the axes (7,)"),
    ((whole(1, 1, 0, 0), None, whole(1, 1)), {}, MalformedInput, "the axes (1, 1)"),
    ((whole(1, 1, 0, 0), None, whole(2, -1)), {}, MalformedInput, "the axes (2, -1)"),
    ((np.zeros(6, F32),), {}, MalformedInput, "integers are expected"),
    ((np.zeros(999, np.int64),), {}, MalformedInput, "more than 64 numbers"),
    ((), {}, MalformedInput, "with 1 inputs"),
]


@pytest.mark.parametrize(("constants", "given", "error", "told"), BAD_PADS)
def test_hostile_pads(constants: Any, given: Any, error: type, told: str, tmp_path: Path) -> None:
    entry = only(one_node("Pad", (2, 4), *constants, **given), tmp_path)
    assert isinstance(entry.error, error)
    assert told in str(entry.error)


def upsampled(x: Array, *factors: int) -> Array:
    """Every element so many times along each axis."""
    for axis, factor in enumerate(factors):
        x = x.repeat(factor, axis)
    return x


def d2s(x: Array, size: int, crd: bool) -> Array:
    """DepthToSpace, element by element."""
    _, c, h, w = x.shape
    depth = c // size**2
    y = np.zeros((1, depth, h * size, w * size))
    for k, i, j in np.ndindex(depth, h * size, w * size):
        (a, p), (b, q) = divmod(i, size), divmod(j, size)
        channel = k * size**2 + p * size + q if crd else (p * size + q) * depth + k
        y[0, k, i, j] = x[0, channel, a, b]
    return y


MOVES: dict[str, tuple[str, Any, tuple[Any, ...], dict[str, Any], Callable[[Array], Array]]] = {
    "flatten": ("Flatten", (2, 3, 4), (), {}, lambda x: x.reshape(1, 24)),
    "flatten from the end": ("Flatten", (2, 3), (), {"axis": -2}, lambda x: x.reshape(1, 6)),
    "flatten the same": ("Flatten", (1, 3, 4), (), {"axis": 2}, lambda x: x.reshape(1, 12)),
    "reshape": ("Reshape", (2, 3, 4), (whole(1, 4, 6),), {}, lambda x: x.reshape(1, 4, 6)),
    "reshape 0 -1": ("Reshape", (2, 3, 4), (whole(0, 0, -1),), {}, lambda x: x.reshape(1, 2, 12)),
    "reshape old": (
        "Reshape",
        (2, 3),
        (),
        {"shape": [0, -1], "opset": 4},
        lambda x: x.reshape(1, 6),
    ),
    "transpose": (
        "Transpose",
        (2, 3, 4),
        (),
        {"perm": [0, 3, 1, 2]},
        lambda x: x.transpose(0, 3, 1, 2),
    ),
    "squeeze": ("Squeeze", (2, 1, 3, 1), (whole(2, -1),), {}, lambda x: x.reshape(1, 2, 3)),
    "squeeze old": ("Squeeze", (2, 1), (), {"axes": [2], "opset": 11}, lambda x: x.reshape(1, 2)),
    "unsqueeze": ("Unsqueeze", (2, 3), (whole(-1, 2),), {}, lambda x: x.reshape(1, 2, 1, 3, 1)),
    "unsqueeze old": (
        "Unsqueeze",
        (2,),
        (),
        {"axes": [1], "opset": 11},
        lambda x: x.reshape(1, 1, 2),
    ),
    "slice": ("Slice", (4, 5), (whole(0, 1), whole(2**63 - 1, 4)), {}, lambda x: x[:, 1:4]),
    "slice axes": (
        "Slice",
        (4, 6),
        (whole(-1, 3), whole(-(2**63), 0), whole(2, 1), whole(-2, -1)),
        {},
        lambda x: x[:, 3:0:-1, ::-2],
    ),
    "slice old": (
        "Slice",
        (4, 6),
        (),
        {"starts": [1, -3], "ends": [99, -1], "axes": [1, 2], "opset": 9},
        lambda x: x[:, 1:, -3:-1],
    ),
    "depth to space": ("DepthToSpace", (8, 2, 3), (), {"blocksize": 2}, lambda x: d2s(x, 2, False)),
    "depth to space CRD": (
        "DepthToSpace",
        (8, 2, 3),
        (),
        {"blocksize": 2, "mode": "CRD"},
        lambda x: d2s(x, 2, True),
    ),
    "resize": (
        "Resize",
        (2, 3, 4),
        (None, np.array([1, 1, 2, 3], F32)),
        {"mode": "nearest"},
        lambda x: upsampled(x, 1, 1, 2, 3),
    ),
    "resize to sizes": (
        "Resize",
        (2, 3, 4),
        (None, None, whole(1, 2, 6, 12)),
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
        lambda x: upsampled(x, 1, 1, 2, 3),
    ),
    "resize axes": (
        "Resize",
        (2, 3, 4),
        (None, np.array([3], F32)),
        {"mode": "nearest", "axes": [3], "nearest_mode": "ceil"},
        lambda x: ceiled(x, 3),
    ),
    "resize old": (
        "Resize",
        (2, 3, 4),
        (np.array([1, 1, 2, 3], F32),),
        {"opset": 10},
        lambda x: upsampled(x, 1, 1, 2, 3),
    ),
    "upsample": (
        "Upsample",
        (2, 3, 4),
        (np.array([1, 1, 2, 3], F32),),
        {"opset": 9},
        lambda x: upsampled(x, 1, 1, 2, 3),
    ),
    "upsample old": (
        "Upsample",
        (2, 3, 4),
        (),
        {"scales": [1.0, 1.0, 2.0, 3.0], "opset": 7},
        lambda x: upsampled(x, 1, 1, 2, 3),
    ),
}


def ceiled(x: Array, factor: int) -> Array:
    """The last axis resized with half_pixel coordinates, which are rounded up."""
    n = x.shape[-1]
    places = [(2 * o + 1 - factor) / (2 * factor) for o in range(n * factor)]
    return x[..., [min(n - 1, max(0, int(np.ceil(place)))) for place in places]]


@pytest.mark.parametrize("what", MOVES)
def test_what_moves_numbers(what: str, tmp_path: Path) -> None:
    op, shape, constants, given, expected = MOVES[what]
    entry = only(one_node(op, shape, *constants, **given), tmp_path)
    check(entry, expected, run=given.get("opset", 22) > 6)
    assert entry.load().kind == "gather"


@pytest.mark.parametrize("size", [2, 3])
def test_space_to_depth_undoes_depth_to_space(size: int, tmp_path: Path) -> None:
    entry = only(one_node("SpaceToDepth", (2, 2 * size, size), blocksize=size), tmp_path)
    back = only(one_node("DepthToSpace", (2 * size**2, 2, 1), blocksize=size), tmp_path)
    assert np.array_equal(matrix(entry), matrix(back).T)
    check(entry, lambda x: (matrix(back).T @ x.reshape(-1)).reshape(1, 2 * size**2, 2, 1))


BAD_MOVES: list[tuple[str, Any, tuple[Any, ...], dict[str, Any], type, str]] = [
    ("Flatten", (2, 3), (), {"axis": 0}, Unsupported, "the batch is flattened too"),
    ("Flatten", (2, 3), (), {"axis": 2}, Unsupported, "the batch is not an axis of it"),
    ("Flatten", (2, 3), (), {"axis": 4}, MalformedInput, "axis 4"),
    ("Reshape", (2, 3), (whole(-1),), {}, Unsupported, "the batch is not an axis of it"),
    ("Reshape", (2, 3), (whole(2, 3),), {}, Unsupported, "the batch is not an axis of it"),
    ("Reshape", (2, 3), (whole(1, 5),), {}, MalformedInput, "does not fit"),
    ("Reshape", (2, 3), (whole(1, -1, -1),), {}, MalformedInput, "does not fit"),
    ("Reshape", (2, 3), (whole(1, 2, 3, 0),), {}, MalformedInput, "does not fit"),
    ("Reshape", (2, 3), (whole(1, 0, 3),), {"allowzero": 1}, MalformedInput, "does not fit"),
    ("Transpose", (2, 3), (), {}, Unsupported, "moves the batch"),
    ("Transpose", (2, 3), (), {"perm": [2, 1, 0]}, Unsupported, "moves the batch"),
    ("Transpose", (2, 3), (), {"perm": [0, 1, 1]}, MalformedInput, "does not fit"),
    ("Transpose", (2, 3), (), {"perm": [0, 1]}, MalformedInput, "does not fit"),
    ("Squeeze", (1, 3), (), {}, Unsupported, "the batch's too"),
    ("Squeeze", (1, 3), (whole(0),), {}, Unsupported, "takes the batch away"),
    ("Squeeze", (2, 3), (whole(1),), {}, MalformedInput, "does not fit"),
    ("Squeeze", (1,), (whole(1),), {}, Unsupported, "the batch is not an axis of it"),
    ("Unsqueeze", (2, 3), (whole(0),), {}, Unsupported, "before the batch"),
    ("Unsqueeze", (2, 3), (whole(-4),), {}, Unsupported, "before the batch"),
    ("Unsqueeze", (2, 3), (whole(1, 1),), {}, MalformedInput, "the axes (1, 1)"),
    ("Slice", (4, 5), (whole(0), whole(1), whole(0)), {}, Unsupported, "part of the batch"),
    ("Slice", (4, 5), (whole(1), whole(2**31), whole(0)), {}, Unsupported, "part of the batch"),
    ("Slice", (4, 5), (whole(3), whole(1), whole(1)), {}, MalformedInput, "nothing is left"),
    ("Slice", (4, 5), (whole(0), whole(1), whole(1), whole(0)), {}, MalformedInput, "does not fit"),
    ("Slice", (4, 5), (whole(0, 0), whole(1), whole(1)), {}, MalformedInput, "does not fit"),
    ("Slice", (4, 5), (whole(0), whole(1), whole(3)), {}, MalformedInput, "the axes (3,)"),
    ("DepthToSpace", (6, 2, 2), (), {"blocksize": 2}, MalformedInput, "does not fit"),
    ("DepthToSpace", (4, 2), (), {"blocksize": 2}, MalformedInput, "does not fit"),
    ("DepthToSpace", (4, 2, 2), (), {"blocksize": 0}, MalformedInput, "blocksize is 0"),
    ("DepthToSpace", (4, 2, 2), (), {"blocksize": 2, "mode": "X"}, MalformedInput, "DCR nor CRD"),
    ("SpaceToDepth", (1, 3, 2), (), {"blocksize": 2}, MalformedInput, "does not fit"),
    ("Resize", (2, 3), (None, np.ones(3, F32)), {"mode": "linear"}, Unsupported, "'linear'"),
    ("Resize", (2, 3), (None, np.array([1, 1, 1.5], F32)), {}, Unsupported, "whole factors"),
    ("Resize", (2, 3), (None, np.array([1, 1, np.nan], F32)), {}, Unsupported, "whole factors"),
    ("Resize", (2, 3), (None, np.array([2, 1, 1], F32)), {}, Unsupported, "resizes the batch"),
    ("Resize", (2, 3), (None, None, whole(1, 2, 7)), {}, Unsupported, "whole factors"),
    ("Resize", (2, 3), (None, None, whole(1, 2)), {}, MalformedInput, "2 factors for 3 axes"),
    ("Resize", (2, 3), (None, np.array([1, 1, 2.0**30], F32)), {}, Refused, "a tensor of"),
    ("Resize", (2, 3), (None, np.array([1, 1, 2], F32)), {"nearest_mode": "up"}, Unsupported, "up"),
    (
        "Resize",
        (2, 3),
        (None, np.array([1, 1, 2], F32)),
        {"coordinate_transformation_mode": "align_corners"},
        Unsupported,
        "align_corners",
    ),
    (
        "Resize",
        (2, 3),
        (None, None, whole(1, 2, 6)),
        {"keep_aspect_ratio_policy": "not_larger"},
        Unsupported,
        "keep_aspect_ratio_policy",
    ),
    ("Flatten", (2**14, 2**14), (), {}, Refused, "a tensor of"),
]


@pytest.mark.parametrize(("op", "shape", "constants", "given", "error", "told"), BAD_MOVES)
def test_hostile_moves(
    op: str, shape: Any, constants: Any, given: Any, error: type, told: str, tmp_path: Path
) -> None:
    entry = only(one_node(op, shape, *constants, **given), tmp_path)
    assert isinstance(entry.error, error), entry.error
    assert told in str(entry.error)
    assert "\n" not in str(entry.error)


# --- every operator -------------------------------------------------------------------------------

PLAIN: dict[str, tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = {
    "Add": ((3, 4), (numbers(4),), {}),
    "AveragePool": ((2, 6), (), {"kernel_shape": [2], "pads": [1, 0]}),
    "BatchNormalization": ((3, 4), (*(numbers(3, seed=k) for k in range(3)), np.ones(3, F32)), {}),
    "DepthToSpace": ((4, 2, 2), (), {"blocksize": 2}),
    "Div": ((3, 4), (numbers(4),), {}),
    "Flatten": ((3, 4), (), {}),
    "Gemm": ((4,), (numbers(4, 3), numbers(3)), {"alpha": 0.5}),
    "GlobalAveragePool": ((3, 4), (), {}),
    "MatMul": ((3, 4), (numbers(4, 5),), {}),
    "Mul": ((3, 4), (numbers(4),), {}),
    "Pad": ((3, 4), (whole(0, 0, 1, 0, 0, 2),), {}),
    "Reshape": ((3, 4), (whole(1, -1),), {}),
    "Resize": ((3, 4), (None, np.array([1, 1, 2], F32)), {}),
    "Slice": ((3, 4), (whole(1), whole(3), whole(2)), {}),
    "SpaceToDepth": ((1, 2, 2), (), {"blocksize": 2}),
    "Squeeze": ((1, 4), (whole(1),), {}),
    "Sub": ((3, 4), (numbers(4),), {}),
    "Transpose": ((3, 4), (), {"perm": [0, 2, 1]}),
    "Unsqueeze": ((3, 4), (whole(1),), {}),
    "Upsample": ((3, 4), (np.array([1, 1, 2], F32),), {"opset": 9}),
}


def test_every_kind_is_tried_here() -> None:
    assert PLAIN.keys() == KINDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("op", PLAIN)
def test_a_layer_goes_through_a_file_and_is_proven(op: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    path = save(one_node(op, shape, *constants, **given), tmp_path)
    out = tmp_path / "out.npz"
    done = convfc.convert(path, out, layers=["node"])
    (result,) = done.results
    assert result.report is not None
    assert result.report.ok
    held = {finding.check: finding.holds for finding in result.report.findings}
    assert held["runtime"] is True or not RUNTIME
    assert convfc.verify(out).ok
    report = convfc.verify(out, model=path)
    assert report.ok
    assert {f.check: f.holds for f in report.findings}["origin"] is True
    if RUNTIME:
        report = convfc.verify(out, model=path, proof=Proof(against="onnxruntime"))
        assert report.ok
        assert {f.check: f.holds for f in report.findings}["reals"] is True
    if constants and np.asarray(constants[-1]).dtype == F32 and op not in ("Resize", "Upsample"):
        other = (*constants[:-1], np.asarray(constants[-1]) * F32(1.01))
        changed = save(one_node(op, shape, *other, **given), tmp_path, "other.onnx")
        assert not convfc.verify(out, model=changed).ok


@pytest.mark.parametrize("op", PLAIN)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes(op: str, dtype: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    if op not in ("Resize", "Upsample"):
        constants = tuple(
            c.astype(dtype) if isinstance(c, np.ndarray) and c.dtype == F32 else c
            for c in constants
        )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    entry = only(one_node(op, shape, *constants, kind=kind, **given), tmp_path)
    layer = entry.load()
    assert (
        entry.matrix_dtype == layer.dtype.name == ("float64" if dtype == "float64" else "float32")
    )
    assert entry.dtype == dtype
    theirs = first_result(entry, np.random.default_rng(2))
    if not isinstance(theirs, str):
        assert theirs.x.dtype == dtype
        assert check_runtime(layer, theirs).holds, check_runtime(layer, theirs).detail


@pytest.mark.parametrize("op", PLAIN)
def test_sizes_that_are_open(op: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    model = one_node(op, (None,) * len(shape), *constants, **given)
    entry = only(model, tmp_path)
    if op == "Gemm":
        assert entry.require().input_shape == shape
        return
    assert isinstance(entry.error, SizeMissing)
    assert entry.status == "needs a size"
    assert "the size of its input 'x' is open (known: 1, ?" in str(entry.error)
    assert entry.error.hint.startswith("x=1,")
    assert entry.error.hint.count(",") == len(shape)
    fixed = only(model, tmp_path, {"x": (1, *shape)})
    resized = entry.at(shape)
    assert (
        resized.outline
        == fixed.outline
        == only(one_node(op, shape, *constants, **given), tmp_path).outline
    )
    assert np.array_equal(matrix(resized), matrix(fixed))
    path = save(model, tmp_path)
    out = tmp_path / "out.npz"
    convfc.convert(path, out, layers=["node"], input_shape=(1, *shape))
    assert convfc.verify(out, model=path).ok


@pytest.mark.parametrize("op", PLAIN)
def test_a_tensor_without_a_batch_or_of_unknown_rank(op: str, tmp_path: Path) -> None:
    _, constants, given = PLAIN[op]
    if op == "Gemm":
        return
    entry = only(one_node(op, (), *constants, **given), tmp_path)
    assert isinstance(entry.error, Unsupported)
    assert "1 axes: none beside the batch" in str(entry.error)
    entry = only(one_node(op, None, *constants, **given), tmp_path)
    assert isinstance(entry.error, SizeMissing)
    assert "known: nothing" in str(entry.error)


@pytest.mark.parametrize("op", PLAIN)
def test_constants_that_are_computed_when_the_network_runs(op: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    model = one_node(op, shape, *constants, **given)
    for number in range(len(constants)):
        if constants[number] is None:
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        (node,) = changed.graph.node
        node.input[number + 1] = "z"
        kind = helper.np_dtype_to_tensor_dtype(np.asarray(constants[number]).dtype)
        changed.graph.input.append(info("z", np.shape(constants[number]), kind))
        found = listed(changed, tmp_path).others
        if KINDS[op].sides and number == 0:
            assert not found  # then it is not a linear map
            continue
        (entry,) = found
        assert isinstance(entry.error, Unsupported)
        assert "is not constant: it depends on the input 'z'" in str(entry.error)


def test_a_fixed_batch_is_no_hindrance_unless_it_is_reshaped(tmp_path: Path) -> None:
    for op, (shape, constants, more) in PLAIN.items():
        model = one_node(op, shape, *constants, **more)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
        entry = only(model, tmp_path)
        if op == "Reshape":
            assert isinstance(entry.error, Unsupported)
            assert "reshapes a batch of 4" in str(entry.error)
        else:
            assert entry.error is None


@pytest.mark.parametrize(("opset", "error"), [(0, "version 0 of ONNX has no Pad"), (10**9, None)])
def test_versions_that_there_are_not(opset: int, error: str | None, tmp_path: Path) -> None:
    entry = only(one_node("Pad", (2, 4), whole(0, 0, 1, 0, 0, 1), opset=opset), tmp_path)
    assert error in str(entry.error) if error else entry.error is None


# --- where the layers are -------------------------------------------------------------------------


def conv(source: str, target: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "W"], [target], name=name)


def chain(*nodes: onnx.NodeProto, shape: Any = (1, 2, 6), **more: Any) -> onnx.ModelProto:
    stored = [tensor("W", numbers(2, 2, 1)), tensor("pads", whole(0, 0, 1, 0, 0, 1))]
    return make_model(nodes, [info("x", shape)], [*stored, *more.pop("stored", ())], **more)


def by_name(model: Model) -> dict[str, Entry]:
    return {entry.name: entry for entry in (*model.entries, *model.others)}


def test_others_are_numbered_on_from_the_convolutions_and_listed_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chain(
        helper.make_node("Pad", ["x", "pads"], ["p"], name="pad"),
        conv("p", "c", "conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
    )
    found = listed(model, tmp_path)
    assert [(e.position, e.name, e.op, e.output) for e in (*found.entries, *found.others)] == [
        (0, "conv", "Conv", "c"),
        (1, "pad", "Pad", "p"),
        (2, "pool", "GlobalAveragePool", "g"),
    ]
    assert [e.name for e in found.select([])] == ["conv"]
    assert [e.name for e in found.select([], ["globalaveragepool"])] == ["conv", "pool"]
    assert [e.name for e in found.select([], ["linear"])] == ["conv", "pad", "pool"]
    assert [e.name for e in found.select(["@1", "conv", "g"])] == ["conv", "pad", "pool"]
    with pytest.raises(UsageError, match="no linear layer of the operator 'gemm'"):
        found.select([], ["Gemm"])
    again = listed(model, tmp_path)
    monkeypatch.setattr("convfc_cli.models.onnx.listing.listed", None)
    with pytest.raises(TypeError):
        _ = again.others  # it is only now that more is looked at


def test_what_a_layer_reads_and_what_is_behind_it(tmp_path: Path) -> None:
    make = helper.make_node
    found = by_name(
        listed(
            chain(
                make("Pad", ["x", "pads"], ["p"], name="pad"),
                make("Identity", ["p"], ["i"]),
                make("Dropout", ["i"], ["d"]),
                make("Cast", ["d"], ["e"], to=TensorProto.FLOAT),
                conv("e", "c", "after pad"),
                make("Relu", ["c"], ["r"], name="relu_1"),
                conv("r", "s", "after relu"),
                conv("x", "t", "after input"),
                make("Add", ["s", "s"], ["a"]),
                conv("a", "u", "after sum"),
                make("Mul", ["one", "u"], ["m"], name="mul"),
                make("Cast", ["m"], ["h"], to=TensorProto.FLOAT16),
                make("Cast", ["h"], ["k"], to=TensorProto.FLOAT),
                conv("k", "v", "after cast"),
                conv("nowhere", "w", "after nothing"),
                make("Dropout", ["v", "", "true"], ["z"], name="drop"),
                conv("z", "y", "after training"),
                stored=[tensor("one", numbers(1)), tensor("true", np.array(True))],
            ),
            tmp_path,
        )
    )
    told = {name: (entry.reads, str(entry.producer or "")) for name, entry in found.items()}
    assert told == {
        "pad": ("x", "the input 'x'"),
        "after pad": ("p", ""),
        "after relu": ("r", "Relu 'relu_1'"),
        "after input": ("x", "the input 'x'"),
        "after sum": ("a", "Add 'a'"),
        "mul": ("u", ""),
        "after cast": ("k", "Cast 'k'"),
        "after nothing": ("nowhere", "'nowhere', which is defined nowhere"),
        "after training": ("z", "Dropout 'drop'"),
    }
    assert found["after pad"].reads == found["pad"].output
    resized = found["after relu"].at((2, 9))
    assert (resized.reads, str(resized.producer or "")) == ("r", "Relu 'relu_1'")


def branches(same: bool) -> onnx.ModelProto:
    """An If with a Pad and a Conv in each branch; their tensors have the `same` names or not."""

    def branch(which: str) -> onnx.GraphProto:
        tag = "" if same else which
        nodes = [
            helper.make_node("Pad", ["x", "pads"], [f"p{tag}"], name="pad"),
            helper.make_node("Conv", [f"p{tag}", "W"], [f"c{tag}"], name="conv"),
        ]
        return helper.make_graph(nodes, which, [], [info(f"c{tag}", (1, 2, 8))])

    node = helper.make_node(
        "If", ["b"], ["y"], name="if", then_branch=branch("then"), else_branch=branch("else")
    )
    stored = [tensor("W", numbers(2, 2, 1)), tensor("pads", whole(0, 0, 1, 0, 0, 1))]
    inputs = [info("x", (1, 2, 6)), info("b", (), TensorProto.BOOL)]
    return make_model([node], inputs, stored)


def test_layers_in_branches_are_told_apart(tmp_path: Path) -> None:
    found = by_name(listed(branches(same=False), tmp_path))
    assert found["if/then_branch/conv"].reads == found["if/then_branch/pad"].output == "pthen"
    assert found["if/else_branch/conv"].reads == found["if/else_branch/pad"].output == "pelse"
    check(found["if/else_branch/pad"], lambda x: np_pad(x, [0, 0, 1, 0, 0, 1], "constant"))
    found = by_name(listed(branches(same=True), tmp_path))
    reads = {name: (entry.reads, str(entry.producer or "")) for name, entry in found.items()}
    assert reads["if/then_branch/pad"] == ("x", "the input 'x'")
    for which in ("then", "else"):
        assert reads[f"if/{which}_branch/conv"] == (
            f"if/{which}_branch/p",
            f"Pad 'if/{which}_branch/pad', whose output 'p' has the name of another tensor",
        )


def test_layers_in_functions_are_listed(tmp_path: Path) -> None:
    body = [
        helper.make_node("Constant", [], ["k"], value=tensor("k", numbers(3))),
        helper.make_node("Mul", ["a", "k"], ["b"], name="scale"),
    ]
    opset = helper.make_opsetid("", 22)
    function = helper.make_function("own", "Scale", ["a"], ["b"], body, [opset])
    model = make_model(
        [helper.make_node("Scale", ["x"], ["y"], domain="own")],
        [info("x", (1, 2, 3))],
        domains={"own": 1},
    )
    model.functions.append(function)
    entry = only(model, tmp_path)
    check(entry, lambda x: x * numbers(3))


# --- padding computed by nodes --------------------------------------------------------------------


def legacy_pad(target: str, pads: Sequence[int], rank: int) -> list[onnx.NodeProto]:
    """The pads of torch.nn.functional.pad as PyTorch's exporter for opset 11 computes them: filled
    up with zeros to all axes, two by two, in the reverse order, all befores first.
    """
    make = helper.make_node

    def constant(name: str, array: Any) -> onnx.NodeProto:
        return make("Constant", [], [name], value=tensor(name, array))

    return [
        constant("pad", whole(*pads)),
        constant("missing", whole(2 * rank - len(pads))),
        make("ConstantOfShape", ["missing"], ["zeros"], value=tensor("", whole(0))),
        make("Concat", ["pad", "zeros"], ["all"], axis=0),
        constant("pairs", whole(-1, 2)),
        make("Reshape", ["all", "pairs"], ["two"]),
        constant("minus", whole(-1)),
        constant("least", whole(-(2**63) + 1)),
        constant("first", whole(0)),
        make("Slice", ["two", "minus", "least", "first", "minus"], ["turned"]),
        make("Transpose", ["turned"], ["ordered"], perm=[1, 0]),
        constant("flat", whole(-1)),
        make("Reshape", ["ordered", "flat"], ["list"]),
        make("Cast", ["list"], [target], to=TensorProto.INT64),
    ]


@pytest.mark.parametrize("mode", MODES[:3])
def test_asymmetric_padding_as_pytorch_exports_it(mode: str, tmp_path: Path) -> None:
    nodes = [
        *legacy_pad("pads", [1, 2, 0, 3], 4),
        helper.make_node("Pad", ["x", "pads"], ["p"], name="pad", mode=mode),
        helper.make_node("Conv", ["p", "W"], ["y"], name="conv"),
    ]
    model = make_model(nodes, [info("x", ("n", 2, 5, 6))], [tensor("W", numbers(3, 2, 2, 2))])
    model.opset_import[0].version = 11
    found = by_name(listed(model, tmp_path))
    assert set(found) == {"pad", "conv"}  # and nothing of what computes the pads
    check(found["pad"], lambda x: np_pad(x, [0, 0, 0, 1, 0, 0, 3, 2], mode))
    assert found["conv"].require().input_shape == (2, 8, 9)
    assert (found["conv"].reads, str(found["conv"].producer or "")) == ("p", "")
    m, c = matrix(found["pad"]), found["conv"].load().matrix()
    both = convfc.matrix(tmp_path / "model.onnx", "conv") @ m
    assert both.shape == (c.shape[0], 60)


def test_padding_that_is_computed_from_the_size_of_the_input(tmp_path: Path) -> None:
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["shape"], start=2),
        make("Mod", ["shape", "four"], ["over"]),
        make("Sub", ["four", "over"], ["more"]),
        make("Concat", ["zeros", "more"], ["pads"], axis=0),
        make("Pad", ["x", "pads"], ["p"], name="pad", mode="edge"),
        make("Shape", ["p"], ["padded"]),
        make("Gather", ["padded", "first"], ["batch"]),
        make("Concat", ["batch", "rest"], ["target"], axis=0),
        make("Reshape", ["p", "target"], ["q"], name="reshape"),
        make("Conv", ["p", "W"], ["y"], name="conv"),
    ]
    stored = [tensor("four", whole(4)), tensor("zeros", whole(0, 0, 0, 0, 0))]
    stored += [tensor("first", whole(0)), tensor("rest", whole(-1)), tensor("W", numbers(3, 2, 2))]
    model = make_model(nodes, [info("x", ("n", 2, "t"))], stored, outputs=["y", "q"])
    found = by_name(listed(model, tmp_path))
    assert {entry.status for entry in found.values()} == {"needs a size"}
    found = by_name(listed(model, tmp_path, (1, 2, 6)))
    assert set(found) == {"pad", "reshape", "conv"}
    check(found["pad"], lambda x: np_pad(x, [0, 0, 0, 0, 0, 2], "edge"))
    check(found["reshape"], lambda x: x.reshape(1, 16))
    assert found["conv"].require().input_shape == (2, 8)


# --- the other runtime ----------------------------------------------------------------------------


@pytest.mark.parametrize("op", PLAIN)
def test_without_onnxruntime_the_reference_is_asked(
    op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    shape, constants, given = PLAIN[op]
    entry = only(one_node(op, shape, *constants, **given), tmp_path)
    theirs = first_result(entry, np.random.default_rng(3))
    if isinstance(theirs, str):
        assert "onnx.reference" in theirs or "reference cannot run it" in theirs
        return
    assert theirs.runtime.startswith("onnx.reference")
    assert check_runtime(entry.load(), theirs).holds


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


# --- hostile files --------------------------------------------------------------------------------


def every_kind() -> bytes:
    """A model with a node of each operator, side by side."""
    nodes, stored, inputs = [], [], []
    for op, (shape, constants, more) in PLAIN.items():
        part = one_node(op, shape, *constants, **{k: v for k, v in more.items() if k != "opset"})
        (node,) = part.graph.node
        for place, name in enumerate(node.input):
            node.input[place] = f"{op}{name}" if name else ""
        node.name, node.output[0] = op, f"{op}y"
        nodes.append(node)
        for stored_one in part.graph.initializer:
            stored_one.name = op + stored_one.name
            stored.append(stored_one)
        inputs.append(info(f"{op}x", (1, *shape)))
    return make_model(nodes, inputs, stored, opset=13).SerializeToString()


def load_all(content: bytes, folder: Path) -> list[str]:
    """What becomes of each of the layers; nothing but the package's own errors is raised."""
    try:
        found = [*listed(content, folder).layers()]
    except ConvfcError as error:
        return [type(error).__name__]
    ends = []
    for entry in found:
        try:
            layer = entry.load()
            assert layer.nnz == entry.require().nnz
            assert layer.output_shape == entry.require().output_shape
            if RUNTIME:
                theirs = first_result(entry, np.random.default_rng(0))
                if isinstance(theirs, RuntimeResult):
                    assert check_runtime(layer, theirs).holds is not False
            ends.append("loaded")
        except ConvfcError as error:
            ends.append(type(error).__name__)
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_files(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    content = every_kind()
    seen = set()
    for _ in range(25):
        altered = bytearray(content)
        for place in random.integers(0, len(altered), int(random.choice([1, 2, 4, 16]))).tolist():
            altered[place] = int(random.integers(256))
        seen.update(load_all(bytes(altered), tmp_path))
    assert {"loaded", "MalformedInput"} <= seen


def test_every_kind_side_by_side(tmp_path: Path) -> None:
    found = listed(every_kind(), tmp_path)
    ends = load_all(every_kind(), tmp_path)
    assert len(found.others) == len(ends) == len(PLAIN)
    assert [e.op for e, end in zip(found.others, ends, strict=True) if end != "loaded"] == [
        "Upsample"
    ]
