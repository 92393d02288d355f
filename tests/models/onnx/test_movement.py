"""Nodes that move numbers, against NumPy: Pad, Reshape, Slice, Resize and so on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import convfc_cli as convfc
from convfc_cli.errors import GeometryError, MalformedInput, Refused, Unsupported
from tests.support.models import info, listed, make_model, tensor
from tests.support.onnx_nodes import by_name, check, matrix, np_pad, numbers, one_node, only, whole

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]
F32 = np.float32

# --- what moves numbers ---------------------------------------------------------------------------

MODES = ["constant", "reflect", "edge", "wrap"]


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
