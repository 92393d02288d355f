"""AveragePool and GlobalAveragePool: the mean of each window, by going through its elements."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from convfc_cli.errors import GeometryError, MalformedInput, Refused, Unsupported
from tests.support.models import first_result
from tests.support.onnx_nodes import check, matrix, one_node, only

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]
F32 = np.float32


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
