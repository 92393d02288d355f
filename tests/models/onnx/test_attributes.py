"""Every attribute of Conv and ConvTranspose, each alone and each with every other.

The oracle pads with zeros and slides, or scatters and crops, as the operators' specifications
say it; it shares nothing with convfc, not even the six numbers of an axis. All weights are small
integers and the inputs are unit impulses, so that the matrices must agree to the last bit.
"""

from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convfc_cli.errors import GeometryError, MalformedInput, SizeMissing, Unsupported
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.rounding import RuntimeResult
from tests.support.models import (
    conv_model,
    dense,
    first_result,
    info,
    make_model,
    only,
    ramp,
    tensor,
)

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]
Attributes = Mapping[str, Any]

KERNEL = (3, 2, 2)

SIZES = {
    "Conv": {1: (9,), 2: (7, 6), 3: (5, 6, 3)},
    "ConvTranspose": {1: (4,), 2: (4, 3), 3: (4, 3, 3)},
}

CONV: dict[str, Any] = {
    "auto_pad=NOTSET": {"auto_pad": "NOTSET"},
    "auto_pad=VALID": {"auto_pad": "VALID"},
    "auto_pad=SAME_UPPER": {"auto_pad": "SAME_UPPER"},
    "auto_pad=SAME_LOWER": {"auto_pad": "SAME_LOWER"},
    "dilations": {"dilations": (2, 3, 2)},
    "kernel_shape": {"kernel_shape": KERNEL},
    "pads": {"pads": ((1, 0, 2), (0, 2, 1))},
    "negative pads": {"pads": ((-1, 0, 1), (1, -2, -1))},
    "strides": {"strides": (2, 3, 2)},
    "group": {"group": 2},
    "depthwise": {"group": 4},
    "B": {},
    "empty B": {},
}
"""Each a case other than the default; sequences have a value an axis, pads one for each end."""

TRANSPOSED: dict[str, Any] = {
    **CONV,
    "output_padding": {"output_padding": (1, 0, 1), "strides": (2, 3, 2)},
    "output_padding below dilation": {"output_padding": (1, 2, 1), "dilations": (2, 3, 2)},
    "output_shape": {"output_shape": (8, 5, 6)},
    "larger output_shape": {"output_shape": (13, 9, 9)},
    "output_shape of the whole tensor": {"output_shape": "whole"},
}


EDGE = 8
"""Zeros around a tensor, or room around the result: more than any case here reads or crops."""


def oracle(op: str, x: Array, weights: Array, given: Attributes) -> Array | None:
    """The operator on a batch x (n, channels, *spatial); None where it is not agreed upon."""
    conv = op == "Conv"
    sizes, kernel, ones = x.shape[2:], weights.shape[2:], (1,) * (x.ndim - 2)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    extra = given.get("output_padding", (0,) * len(sizes))
    group, auto = given.get("group", 1), given.get("auto_pad", "NOTSET")
    pads = given.get("pads", (0,) * 2 * len(sizes))
    low, high = list(pads[: len(sizes)]), list(pads[len(sizes) :])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    whole = [(n - 1) * s + e for n, s, e in zip(sizes, strides, spans, strict=True)]
    stated = given.get("output_shape")
    for a, n in enumerate(sizes):
        if auto == "VALID":
            low[a] = high[a] = 0
        if auto.startswith("SAME") or stated:
            if conv:
                total = max(0, (-(-n // strides[a]) - 1) * strides[a] + spans[a] - n)
            else:
                total = whole[a] + extra[a] - (stated[a] if stated else n * strides[a])
            if total < 0 and not stated:
                return None
            low[a] = max(0, total // 2 if auto == "SAME_UPPER" else total - total // 2)
            high[a] = total - low[a]
    assert max(map(abs, (*low, *high))) <= EDGE
    inner = tuple(slice(EDGE, EDGE + n) for n in sizes)
    near = len(weights) // group if conv else weights.shape[1]
    depth = weights.shape[1] if conv else len(weights) // group
    if conv:
        counts = [
            (n + lo + hi - e) // s + 1
            for n, lo, hi, e, s in zip(sizes, low, high, spans, strides, strict=True)
        ]
        padded = np.zeros((*x.shape[:2], *(n + 2 * EDGE for n in sizes)))
        padded[(..., *inner)] = x
        for a, n in enumerate(sizes):  # what negative pads crop is not there to be read
            at = np.arange(n + 2 * EDGE) - EDGE
            keep = (at >= -low[a]) & (at < n + high[a])
            padded *= keep.reshape(-1, *(1,) * (len(sizes) - 1 - a))
        y = np.zeros((len(x), near * group, *counts))
    else:
        counts = list(sizes)
        y = np.zeros((len(x), near * group, *(w + 3 * EDGE for w in whole)))
    for g, place, t in product(
        range(group), product(*map(range, counts)), product(*map(range, kernel))
    ):
        outs, ins = slice(g * near, (g + 1) * near), slice(g * depth, (g + 1) * depth)
        at = [p * s + e * d for p, s, e, d in zip(place, strides, t, dilations, strict=True)]
        if conv:
            read = padded[
                (slice(None), ins, *(EDGE + i - lo for i, lo in zip(at, low, strict=True)))
            ]
            y[(slice(None), outs, *place)] += read @ weights[(outs, slice(None), *t)].T
        else:
            read = x[(slice(None), ins, *place)]
            y[(slice(None), outs, *(EDGE + i for i in at))] += (
                read @ weights[(ins, slice(None), *t)]
            )
    if conv:
        return y
    ends = zip(whole, extra, low, high, strict=True)
    return y[(..., *(slice(EDGE + lo, EDGE + w + op_ - hi) for w, op_, lo, hi in ends))]


def expected_matrix(
    op: str, weights: Array, given: Attributes, input_shape: tuple[int, ...]
) -> tuple[Array, tuple[int, ...]] | None:
    """(matrix, output shape) by impulses; `input_shape` is (channels, *spatial)."""
    size = int(np.prod(input_shape))
    y = oracle(op, np.eye(size).reshape(size, *input_shape), weights.astype(np.float64), given)
    return None if y is None else (y.reshape(size, -1).T, y.shape[1:])


def integers(*shape: int) -> Array:
    """Weights that are all different, exact in float32."""
    return (np.arange(int(np.prod(shape))) + 1).reshape(shape).astype(np.float32)


def build(op: str, dims: int, names: tuple[str, ...]) -> tuple[Any, ...]:
    """(model, weights, bias, attributes, input shape) of some choices together, or None."""
    table = CONV if op == "Conv" else TRANSPOSED
    given: dict[str, Any] = {}
    for name in names:
        for key, value in table[name].items():
            if key == "pads":
                value = (*value[0][:dims], *value[1][:dims])
            elif isinstance(value, tuple):
                value = value[:dims]
            given[key] = value
    sizes, kernel = SIZES[op][dims], KERNEL[:dims]
    group = given.get("group", 1)
    near = 1 if group == 4 else 2
    weights = integers(4, near, *kernel)
    channels = near * group if op == "Conv" else 4
    outputs = 4 if op == "Conv" else near * group
    whole = given.get("output_shape") == "whole"
    if whole:
        given["output_shape"] = (8, 5, 6)[:dims]
    bias = integers(outputs) if "B" in names else None
    written = {**given}
    if whole:
        written["output_shape"] = (1, outputs, *given["output_shape"])
    model = conv_model(weights, bias, written, (1, channels, *sizes), op)
    if "empty B" in names and bias is None:
        model.graph.node[0].input.append("")
    return model, weights, bias, given, (channels, *sizes)


def choices() -> list[Any]:
    """Every choice alone, and every two of them, with and without a stride beyond 1."""
    found = []
    for op, table in (("Conv", CONV), ("ConvTranspose", TRANSPOSED)):
        single = [(name,) for name in table]
        pairs = [
            pair
            for pair in combinations(table, 2)
            if not (
                (set(table[pair[0]]) & set(table[pair[1]]))  # two values of one attribute
                or {"B", "empty B"} == set(pair)
            )
        ]
        strided = [
            (*names, "strides")
            for names in [*single, *pairs]
            if not any("strides" in table[name] for name in names)
        ]
        known = dict.fromkeys([(), *single, *pairs, *strided])
        for dims in (1, 2, 3):
            found += [
                pytest.param(op, dims, names, id=f"{op}{dims}d-{'+'.join(names) or 'plain'}")
                for names in known
                if dims < 3 or len(names) < 3
            ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("op", "dims", "names"), choices())
def test_an_attribute(op: str, dims: int, names: tuple[str, ...], tmp_path: Path) -> None:
    model, weights, bias, given, input_shape = build(op, dims, names)
    expected = expected_matrix(op, weights, given, input_shape)
    entry = only(model, tmp_path)
    assert entry.name == "conv"
    assert entry.op == op
    if given.get("auto_pad", "NOTSET") != "NOTSET" and any(given.get("pads", ())):
        assert isinstance(entry.error, MalformedInput)
        assert f"auto_pad is {given['auto_pad']} beside pads" in str(entry.error)
        return
    if expected is None:
        assert isinstance(entry.error, Unsupported)
        assert "disagree" in str(entry.error)
        return
    matrix, output_shape = expected
    assert entry.status == "ready", entry.error
    layer = entry.load()
    assert layer.input_shape == input_shape
    assert layer.output_shape == output_shape
    assert layer.kernel.tobytes() == weights.tobytes()
    np.testing.assert_array_equal(dense(entry), matrix)
    assert entry.require().nnz == np.count_nonzero(matrix)
    if bias is None:
        assert layer.bias is None
    else:
        np.testing.assert_array_equal(layer.bias, bias)
    result = first_result(entry, np.random.default_rng(1))
    if isinstance(result, RuntimeResult):
        finding = check_runtime(layer, result)
        assert finding.holds, finding.detail
    else:
        assert result  # says why


def test_most_attributes_are_checked_by_a_runtime(tmp_path: Path) -> None:
    checked = {"Conv": 0, "ConvTranspose": 0}
    for op, table in (("Conv", CONV), ("ConvTranspose", TRANSPOSED)):
        for name in table:
            model, *_ = build(op, 2, (name,))
            entry = only(model, tmp_path)
            if entry.error is None:
                checked[op] += isinstance(
                    first_result(entry, np.random.default_rng(0)), RuntimeResult
                )
    assert checked["Conv"] >= len(CONV) - 2
    assert checked["ConvTranspose"] >= 6


def test_the_oracle_on_the_worked_example() -> None:
    kernel = np.arange(1.0, 9.0).reshape(2, 1, 2, 2)
    matrix, shape = expected_matrix("Conv", kernel, {}, (1, 3, 3))
    a, b, c, d = 1, 2, 3, 4
    assert shape == (2, 2, 2)
    np.testing.assert_array_equal(matrix[0], [a, b, 0, c, d, 0, 0, 0, 0])
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 0, a, b, 0, c, d])
    np.testing.assert_array_equal(matrix[4], [5, 6, 0, 7, 8, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("attributes", "outputs", "first"),
    [
        # n 3, k 3, s 2: (attributes, m, lo), worked by hand; m is what nat = 7 + op leaves
        ({"auto_pad": "SAME_UPPER"}, 6, 0),
        ({"auto_pad": "SAME_LOWER"}, 6, 1),
        ({"output_padding": [1], "output_shape": [6]}, 6, 1),
        ({"output_shape": [7], "auto_pad": "SAME_UPPER"}, 7, 0),
        ({"output_shape": [5], "auto_pad": "SAME_LOWER"}, 5, 1),
        ({"output_shape": [4], "auto_pad": "SAME_UPPER"}, 4, 1),
        ({"output_shape": [4], "auto_pad": "VALID"}, 4, 2),
        ({"output_shape": [9]}, 9, 0),
        ({"output_padding": [1], "pads": [1, 1]}, 6, 1),
    ],
)
def test_transposed_sizes_worked_by_hand(
    attributes: Attributes, outputs: int, first: int, tmp_path: Path
) -> None:
    model = conv_model(
        integers(1, 1, 3), None, {"strides": [2], **attributes}, (1, 1, 3), "ConvTranspose"
    )
    entry = only(model, tmp_path)
    layer = entry.load()
    assert layer.output_shape == (1, outputs)
    column = np.zeros(outputs)
    for t, weight in enumerate((1, 2, 3)):
        if 0 <= t - first < outputs:
            column[t - first] = weight
    np.testing.assert_array_equal(dense(entry)[:, 0], column)


LONG = [2, 2, 2]

WRONG: list[tuple[str, str, Attributes, type[Exception], str]] = [
    # (name, op, attributes over a 3x3 kernel and 2 channels, error, part of the message)
    ("strides too long", "Conv", {"strides": LONG}, MalformedInput, "'strides' has 3 values"),
    ("strides too short", "Conv", {"strides": [2]}, MalformedInput, "'strides' has 1 values"),
    ("dilations", "Conv", {"dilations": LONG}, MalformedInput, "'dilations' has 3 values"),
    ("pads", "Conv", {"pads": [1, 1]}, MalformedInput, "'pads' has 2 values"),
    ("pads odd", "Conv", {"pads": [1, 1, 1, 1, 1]}, MalformedInput, "'pads' has 5 values"),
    ("kernel_shape", "Conv", {"kernel_shape": [3]}, MalformedInput, "'kernel_shape' has 1"),
    ("another kernel_shape", "Conv", {"kernel_shape": [3, 2]}, MalformedInput, "(3, 2)"),
    (
        "transposed kernel_shape",
        "ConvTranspose",
        {"kernel_shape": [2, 3]},
        MalformedInput,
        "weights have (3, 3)",
    ),
    (
        "output_padding",
        "ConvTranspose",
        {"output_padding": [1], "strides": [2, 2]},
        MalformedInput,
        "'output_padding' has 1 values",
    ),
    ("output_shape", "ConvTranspose", {"output_shape": LONG}, MalformedInput, "output_shape"),
    ("type of strides", "Conv", {"strides": [2.0, 2.0]}, MalformedInput, "'strides'"),
    ("type of strides, one", "Conv", {"strides": 2}, MalformedInput, "'strides'"),
    ("type of group", "Conv", {"group": [1]}, MalformedInput, "'group'"),
    ("type of group, text", "Conv", {"group": "1"}, MalformedInput, "'group'"),
    ("type of auto_pad", "Conv", {"auto_pad": 1}, MalformedInput, "'auto_pad'"),
    ("type of pads", "Conv", {"pads": "1,1,1,1"}, MalformedInput, "'pads'"),
    ("type of pads, a tensor", "Conv", {"pads": tensor("p", [1])}, MalformedInput, "'pads'"),
    ("unknown", "Conv", {"padding_mode": "reflect"}, Unsupported, "'padding_mode'"),
    ("of another operator", "Conv", {"output_padding": [0, 0]}, Unsupported, "'output_padding'"),
    ("of another operator 2", "Conv", {"output_shape": [5, 5]}, Unsupported, "'output_shape'"),
    ("unknown, transposed", "ConvTranspose", {"activation": "Relu"}, Unsupported, "'activation'"),
    ("auto_pad", "Conv", {"auto_pad": "SAME"}, GeometryError, "'SAME'"),
    ("auto_pad in small letters", "Conv", {"auto_pad": "same_upper"}, GeometryError, "same_upper"),
    ("auto_pad no text", "Conv", {"auto_pad": b"\xff\xfe"}, MalformedInput, "auto_pad"),
    ("auto_pad, transposed", "ConvTranspose", {"auto_pad": "FULL"}, GeometryError, "'FULL'"),
    ("stride 0", "Conv", {"strides": [0, 1]}, GeometryError, "stride is 0"),
    ("stride -1", "Conv", {"strides": [1, -1]}, GeometryError, "stride is -1"),
    ("dilation 0", "Conv", {"dilations": [1, 0]}, GeometryError, "dilation is 0"),
    ("dilation -2", "Conv", {"dilations": [-2, 1]}, GeometryError, "dilation is -2"),
    ("stride 0, transposed", "ConvTranspose", {"strides": [0, 1]}, GeometryError, "stride is 0"),
    (
        "SAME, stride 0",
        "Conv",
        {"strides": [0, 1], "auto_pad": "SAME_UPPER"},
        GeometryError,
        "is 0",
    ),
    ("huge stride", "Conv", {"strides": [2**62, 1]}, GeometryError, "2**40"),
    ("huge dilation", "Conv", {"dilations": [2**62, 1]}, GeometryError, "2**40"),
    ("huge pads", "Conv", {"pads": [2**62, 0, 0, 0]}, GeometryError, "2**40"),
    ("huge pads both", "Conv", {"pads": [2**62, 0, -(2**62), 0]}, GeometryError, "2**40"),
    ("pads below all", "Conv", {"pads": [-9, 0, 0, 0]}, GeometryError, "no output"),
    ("dilation beyond", "Conv", {"dilations": [9, 1]}, GeometryError, "no output"),
    ("cropped", "ConvTranspose", {"pads": [9, 0, 9, 0]}, GeometryError, "no output"),
    ("group 0", "Conv", {"group": 0}, GeometryError, "group"),
    ("group -1", "Conv", {"group": -1}, GeometryError, "group"),
    ("group 3", "Conv", {"group": 3}, GeometryError, "group"),
    ("group 2", "Conv", {"group": 2}, MalformedInput, "channels"),
    ("group 3, transposed", "ConvTranspose", {"group": 3}, GeometryError, "group"),
    ("huge group", "Conv", {"group": 2**62}, GeometryError, "group"),
    (
        "output_padding at stride",
        "ConvTranspose",
        {"output_padding": [1, 0]},
        GeometryError,
        "output_padding 1",
    ),
    (
        "output_padding below 0",
        "ConvTranspose",
        {"output_padding": [-1, 0]},
        GeometryError,
        "output_padding -1",
    ),
    ("output_shape 0", "ConvTranspose", {"output_shape": [0, 5]}, GeometryError, "output"),
    ("output_shape -1", "ConvTranspose", {"output_shape": [5, -1]}, GeometryError, "output"),
    ("huge output_shape", "ConvTranspose", {"output_shape": [2**62, 5]}, GeometryError, "2**40"),
]


@pytest.mark.parametrize(
    ("op", "attributes", "error", "part"),
    [pytest.param(*case[1:], id=case[0]) for case in WRONG],
)
def test_a_wrong_attribute(
    op: str, attributes: Attributes, error: type[Exception], part: str, tmp_path: Path
) -> None:
    model = conv_model(ramp(2, 2, 3, 3), None, attributes, (1, 2, 5, 5), op)
    entry = only(model, tmp_path)
    assert type(entry.error) is error
    assert part in str(entry.error)
    assert entry.status == "unsupported"
    with pytest.raises(error) as raised:
        entry.load()
    assert f"layer conv ({op})" in str(raised.value)


def test_an_attribute_given_twice(tmp_path: Path) -> None:
    model = conv_model(ramp(2, 2, 3, 3), None, {"strides": [2, 2]}, (1, 2, 5, 5))
    twice = model.graph.node[0].attribute
    twice.add().CopyFrom(twice[0])
    with pytest.raises(MalformedInput, match=r"Conv 'conv' of the graph .* 'strides' twice"):
        only(model, tmp_path)


def test_an_attribute_that_refers_to_a_function_that_is_not_there(tmp_path: Path) -> None:
    # Its value is elsewhere: to take the default instead would be a guess.
    model = conv_model(ramp(2, 2, 3, 3), None, {"strides": [2, 2]}, (1, 2, 5, 5))
    attribute = model.graph.node[0].attribute[0]
    attribute.ref_attr_name = "strides"
    attribute.ClearField("ints")
    entry = only(model, tmp_path)
    assert isinstance(entry.error, MalformedInput | Unsupported)


def test_empty_lists_are_the_defaults(tmp_path: Path) -> None:
    plain = only(conv_model(integers(2, 2, 3, 3), None, {}, (1, 2, 5, 5)), tmp_path)
    model = conv_model(integers(2, 2, 3, 3), None, {"strides": [1]}, (1, 2, 5, 5))
    model.graph.node[0].attribute[0].ClearField("ints")
    entry = only(model, tmp_path)
    assert entry.error is None
    np.testing.assert_array_equal(dense(entry), dense(plain))


@pytest.mark.parametrize(
    ("op", "weights", "input_shape", "error"),
    [
        pytest.param("Conv", (2, 3, 3, 3), (1, 2, 5, 5), MalformedInput, id="channels"),
        pytest.param("ConvTranspose", (3, 2, 3, 3), (1, 2, 5, 5), MalformedInput, id="transposed"),
        pytest.param("Conv", (2, 2, 3), (1, 2, 5, 5), MalformedInput, id="1-D weights"),
        pytest.param("Conv", (2, 2, 3, 3, 3), (1, 2, 5, 5), MalformedInput, id="3-D weights"),
        pytest.param("Conv", (2, 2), (1, 2), MalformedInput, id="no axis"),
        pytest.param("Conv", (2,), (1, 2, 5, 5), MalformedInput, id="a vector"),
        pytest.param("Conv", (), (1, 2, 5, 5), MalformedInput, id="a scalar"),
        pytest.param("Conv", (0, 2, 3, 3), (1, 2, 5, 5), MalformedInput, id="no output channel"),
        pytest.param("Conv", (2, 0, 3, 3), (1, 0, 5, 5), MalformedInput, id="no input channel"),
        pytest.param("Conv", (2, 2, 0, 3), (1, 2, 5, 5), MalformedInput, id="no kernel"),
        pytest.param("Conv", (2, 2, 9, 3), (1, 2, 5, 5), GeometryError, id="kernel beyond input"),
        pytest.param("Conv", (2, 2, 3, 3), (1, 2, 0, 5), SizeMissing, id="size 0 reads as open"),
        pytest.param("Conv", (2, 2, 3, 3), (1, 2, -5, 5), SizeMissing, id="size below 0, as open"),
    ],
)
def test_sizes_that_do_not_fit(
    op: str, weights: Any, input_shape: Any, error: type[Exception], tmp_path: Path
) -> None:
    entry = only(conv_model(ramp(*weights), None, {}, input_shape, op), tmp_path)
    assert isinstance(entry.error, error)
    with pytest.raises(error):
        entry.load()


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 1), (), (0,)])
def test_a_bias_that_does_not_fit(shape: Any, tmp_path: Path) -> None:
    model = conv_model(integers(2, 2, 3, 3), integers(*shape), {}, (1, 2, 5, 5))
    entry = only(model, tmp_path)
    with pytest.raises(MalformedInput, match="bias"):
        entry.load()


def test_a_bias_of_another_type(tmp_path: Path) -> None:
    model = conv_model(integers(2, 2, 3, 3), np.ones(2, np.int32), {}, (1, 2, 5, 5))
    with pytest.raises((Unsupported, MalformedInput), match="B"):
        only(model, tmp_path).load()


def test_a_bias_of_another_precision(tmp_path: Path) -> None:
    # ONNX asks for one type; to round the bias in silence would change the layer.
    model = conv_model(integers(2, 2, 3, 3), np.float64([1 + 2.0**-40, 2]), {}, (1, 2, 5, 5))
    with pytest.raises((Unsupported, MalformedInput), match="B"):
        only(model, tmp_path).load()


@pytest.mark.parametrize("names", [[], ["x"], ["", "W"], ["x", ""]])
def test_a_node_that_lacks_an_input(names: list[str], tmp_path: Path) -> None:
    model = conv_model(integers(2, 2, 3, 3), None, {}, (1, 2, 5, 5))
    del model.graph.node[0].input[:]
    model.graph.node[0].input.extend(names)
    entry = only(model, tmp_path)
    assert type(entry.error) is MalformedInput
    assert "without input" in str(entry.error)


@pytest.mark.parametrize("fourth", ["x", "nowhere", "B"])
def test_a_node_with_too_many_inputs(fourth: str, tmp_path: Path) -> None:
    model = conv_model(integers(2, 2, 3, 3), integers(2), {}, (1, 2, 5, 5))
    model.graph.node[0].input.append(fourth)
    entry = only(model, tmp_path)
    assert isinstance(entry.error, MalformedInput | Unsupported)


def test_the_same_weights_in_every_operator_set(tmp_path: Path) -> None:
    from onnx import helper

    found = []
    for opset in (1, 7, 11, 13, 22):
        node = helper.make_node("Conv", ["x", "W"], ["y"], name="conv", strides=[2, 1])
        model = make_model(
            [node], [info("x", (1, 2, 5, 5))], [tensor("W", integers(2, 2, 3, 3))], opset=opset
        )
        found.append(dense(only(model, tmp_path)))
    for matrix in found[1:]:
        np.testing.assert_array_equal(matrix, found[0])
    assert found[0].shape == (2 * 2 * 3, 2 * 5 * 5)
