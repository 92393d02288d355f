"""Files that were cut short, altered, or made to do harm: each must end in an error of ours.

Never another exception, never a crash, never more than seconds and some hundred megabytes. What
might take either is run in a process of its own, which counts both.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper

from convfc_cli import budget, contained
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported, UsageError
from convfc_cli.models.onnx import listing
from convfc_cli.models.registry import read
from tests.support import fuzz_onnx
from tests.support.models import (
    IR,
    conv_model,
    convfc,
    first_result,
    info,
    make_model,
    ramp,
    save,
    tensor,
    weight_model,
)
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

node = helper.make_node

SECONDS = 5
MEGABYTES = 500
TIMEOUT = 15

SHAPE = (3, 2, 2, 3)

F32 = np.float32

CHILD = """
import json, resource, sys, time
import numpy, onnx, onnx.inliner, onnx.reference, onnx.shape_inference
from convfc_cli.errors import ConvfcError
from convfc_cli.models.registry import read

resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
found = []
try:
    for entry in read(sys.argv[1]).entries[:20]:
        try:
            entry.load()
            found.append("loaded")
        except BaseException as error:
            found.append((type(error).__name__, isinstance(error, ConvfcError), str(error)[:300]))
except BaseException as error:
    found.append((type(error).__name__, isinstance(error, ConvfcError), str(error)[:300]))
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([found, time.process_time() - start, used / 1024]))
"""


def in_a_child(path: Path) -> list[Any]:
    """What listing and loading a file ends in, in another process; its limits are asserted."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OPENBLAS_NUM_THREADS": "1",
        },
        check=False,
    )
    assert done.returncode == 0, f"signal or exit {done.returncode}: {done.stderr[-500:]}"
    found, seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    assert seconds < SECONDS, found
    assert megabytes < MEGABYTES, found
    return list(found)


def outcome(content: bytes, folder: Path) -> str:
    """What listing and loading some bytes ends in here; anything but our own errors escapes."""
    path = save(content, folder, "hostile.onnx")
    start = time.process_time()
    results = []
    try:
        for entry in read(path).entries:
            try:
                entry.load()
                assert first_result(entry, np.random.default_rng(0)) is not None
                results.append("loaded")
            except ConvfcError as error:
                results.append(_described(error))
    except ConvfcError as error:
        results.append(_described(error))
    assert time.process_time() - start < SECONDS
    return " ".join(results) or "nothing"


def _described(error: ConvfcError) -> str:
    assert len(str(error)) > 10
    return type(error).__name__


def small() -> bytes:
    """A model with a bit of everything: two convolutions, folding, an If, attributes."""
    branch = [
        helper.make_graph([node("Conv", ["h", "V"], [name])], "b", [], [info(name, None)])
        for name in ("p", "q")
    ]
    model = make_model(
        [
            node("DequantizeLinear", ["codes", "scale"], ["W"], axis=0),
            node("Conv", ["x", "W", "B"], ["h"], name="conv", strides=[2, 1], pads=[1, 0, 0, 1]),
            node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1]),
        ],
        [info("x", ("n", 2, 5, 4)), info("c", (), TensorProto.BOOL)],
        [
            tensor("codes", np.arange(36).reshape(SHAPE).astype(np.int8)),
            tensor("scale", np.float32([0.5, 1, 2])),
            tensor("B", np.float32([1, 2, 3])),
            tensor("V", ramp(1, 3, 1, 1)),
        ],
    )
    return bytes(model.SerializeToString(deterministic=True))


def test_the_small_model_is_sound(tmp_path: Path) -> None:
    assert outcome(small(), tmp_path) == "loaded loaded loaded"


def test_a_file_cut_short_anywhere(tmp_path: Path) -> None:
    content = small()
    ends: dict[str, int] = {}
    for length in range(1, len(content), 3):
        result = outcome(content[:length], tmp_path)
        ends[result] = ends.get(result, 0) + 1
    assert ends["MalformedInput"] > 0.9 * sum(ends.values())
    assert "loaded loaded loaded" not in ends or ends["loaded loaded loaded"] < 12


@pytest.mark.parametrize("seed", range(8))
def test_random_mutations(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    content = small()
    seen = set()
    for _ in range(60):
        altered = bytearray(content)
        for _ in range(int(random.choice([1, 1, 2, 4, 16]))):
            place = int(random.integers(len(altered)))
            kind = random.integers(4)
            if kind == 0:
                altered[place] = int(random.integers(256))
            elif kind == 1:
                altered[place] ^= 1 << int(random.integers(8))
            elif kind == 2:
                del altered[place : place + int(random.integers(1, 5))]
            else:
                added = random.integers(0, 256, int(random.integers(1, 5)))
                altered[place:place] = added.astype(np.uint8).tobytes()
        seen.add(outcome(bytes(altered), tmp_path))
    assert "MalformedInput" in seen
    assert len(seen) > 1  # many a mutation leaves something to read


@pytest.mark.parametrize(
    "name", [b"conv", b"codes", b"scale", b"n", b"Conv", b"DequantizeLinear", b"strides", b"graph"]
)
def test_names_that_are_no_text(name: bytes, tmp_path: Path) -> None:
    content = small()
    field_ = bytes([len(name)]) + name
    assert field_ in content
    for place in range(content.count(field_)):
        parts = content.split(field_)
        broken = field_[:-1] + b"\xe6"
        altered = field_.join(parts[: place + 1]) + broken + field_.join(parts[place + 1 :])
        assert len(altered) == len(content)
        result = outcome(altered, tmp_path)
        kinds = {"MalformedInput", "Unsupported", "SizeMissing", "loaded"}
        assert set(result.split()) <= kinds


def test_random_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for size in [1, 2, 3, 5, 8, 100, 1000, 5000] * 10:
        content = random.integers(0, 256, size).astype(np.uint8).tobytes()
        assert outcome(content, tmp_path) == "MalformedInput"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"B",
        b":",
        b"Beyond all doubt, this is a letter and not a model.\n" * 20,
        b": a comment of some language\n" * 20,
        b"\x08\x07",
        b"\x08\x0a\x12\x04test",
        b"\x00" * 100,
        b"\xff" * 100,
        b":\x00",
        b":\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b":\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x08" + b"\x80" * 5000,
        "ünïcode, böth lïnes\n".encode(),
        b"PK\x03\x04" + b"\0" * 30,
        b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
        b"\x93NUMPY\x01\x00",
        b'{"class_name": "Sequential"}',
        b"<html><body>404 Not Found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735151\n",
    ],
)
def test_what_is_no_model(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(content, tmp_path)
    with pytest.raises(MalformedInput):
        read(path)
    done = convfc(capsys, "convert", path, "-o", tmp_path / "out.npz")
    assert done.code == 3
    assert done.out == ""
    assert done.err.startswith("convfc: error: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.onnx", "/dev/null", "", "x" * 5000, "a\0b"):
        with pytest.raises((UsageError, Refused, MalformedInput)):
            read(path)


# --- bombs ----------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    key = number << 3 | 2
    return (
        (bytes([key]) if key < 0x80 else bytes([key & 0x7F | 0x80, key >> 7]))
        + bytes([*length, size])
        + content
    )


def nested(levels: int) -> bytes:
    """A model whose graph holds a node with an attribute with a graph, and so on."""
    content = b""
    for _ in range(levels):
        content = field(1, field(5, field(6, content)))  # graph.node.attribute.g
    return field(7, content)


def computed(nodes: Sequence[Any], *stored: tuple[str, Any], **rest: Any) -> bytes:
    """A model whose weights W are computed by `nodes` from these arrays."""
    arrays = [tensor(name, array) for name, array in stored]
    return bytes(weight_model(nodes, arrays, **rest).SerializeToString())


def declared(*dims: int, kind: int = TensorProto.FLOAT, raw: bytes = b"\0" * 16) -> bytes:
    """A model whose stored weights declare these dimensions and hold 16 bytes."""
    weights = TensorProto(name="W", data_type=kind, raw_data=raw)
    weights.dims.extend(dims)
    return bytes(weight_model([], [weights]).SerializeToString())


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


def packed(count: int) -> bytes:
    """A model whose weights declare so many axes, in one field."""
    weights = field(1, b"\1" * count) + b"\x10\x01" + field(8, b"W")
    model = weight_model([], [], extra_inputs=[])
    content = model.graph.SerializeToString() + field(5, weights)
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    return bytes(model.SerializeToString()) + field(7, content)


def conv_with(attribute: bytes) -> bytes:
    """A model whose Conv has this attribute beside."""
    model = weight_model([], [tensor("W", ramp(*SHAPE))])
    content = field(1, field(5, attribute)) + model.graph.SerializeToString()
    return bytes(model.SerializeToString()) + field(7, content)


def scattered(op: str, count: int) -> bytes:
    """Weights that need many elements to be put into their places individually."""
    places = np.arange(count)[:, None] if op == "ScatterND" else np.arange(count)
    return hidden(
        [node(op, ["a", "i", "a"], ["T"])],
        ("a", np.zeros(count, np.int8)),
        ("i", places.astype(np.int32)),
    )


def quantized(outputs: Sequence[str] = ("W",), **attributes: Any) -> bytes:
    """Weights that QONNX's Quant makes."""
    names = ["w", "scale", "zero", "bits"]
    quant = node("Quant", names, outputs, domain="qonnx.custom_op.general", **attributes)
    stored = zip(names, (ramp(*SHAPE), F32(0.5), F32(0), F32(4)), strict=True)
    return computed([quant], *stored, domains={"qonnx.custom_op.general": 1})


def sparse(values: Any, places: Any, *dims: int) -> bytes:
    """A model whose weights are a sparse tensor."""
    given = onnx.SparseTensorProto(dims=dims)
    given.values.CopyFrom(tensor("", np.array(values, np.float32)))
    given.indices.CopyFrom(tensor("", places))
    return computed([node("Constant", [], ["W"], sparse_value=given)])


def doubling(levels: int, *, recursive: bool = False) -> bytes:
    """Functions that each call the one before twice: 2**levels convolutions when written out."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    functions = []
    for level in range(levels):
        if level == 0 and not recursive:
            body = [node("Conv", ["a", "k"], ["b"])]
        else:
            inner = f"F{level}" if recursive else f"F{level - 1}"
            body = [
                node(inner, ["a", "k"], ["m"], domain="f"),
                node(inner, ["m", "k"], ["b"], domain="f"),
            ]
        functions.append(helper.make_function("f", f"F{level}", ["a", "k"], ["b"], body, opsets))
    graph = helper.make_graph(
        [node(f"F{levels - 1}", ["x", "W"], ["y"], domain="f")],
        "graph",
        [info("x", (1, 2, 5, 4))],
        [onnx.ValueInfoProto(name="y")],
        [tensor("W", ramp(2, 2, 1, 1))],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=IR)
    return bytes(model.SerializeToString())


COPIES = ("constant", "attribute", "attribute passed on", "default", "name", "name passed on")
"""What a function copies into the graph at each of its calls, or into each of its nodes."""


def copying(what: str, times: int, size: int) -> bytes:
    """A convolution by W, and functions that copy so many bytes so many times when inlined."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    value = helper.make_tensor("v", TensorProto.UINT8, [size], bytes(size), raw=True)
    name = "x" * size if what.startswith("name") else "x"
    if what == "constant":
        body, calls = [node("Constant", [], ["c"], value=value)], times
    elif what.startswith("name"):
        body, calls = [node("Relu", ["a"], [f"n{i}"]) for i in range(times)], 1
    else:
        body, calls = [node("Constant", [], [f"c{i}"], value=value) for i in range(times)], 1
        for constant in body:
            constant.attribute[0].CopyFrom(onnx.AttributeProto(name="value", type="TENSOR"))
            constant.attribute[0].ref_attr_name = "v"
    body.append(node("Identity", ["a"], ["b"]))
    default = [helper.make_attribute("v", value)] if what == "default" else []
    takes = ["v"] if what.startswith("attribute") else []
    given = {"v": value} if takes else {}
    functions = [helper.make_function("f", "F0", ["a"], ["b"], body, opsets, takes, default)]
    if what.endswith("passed on"):
        call = node("F0", ["a"], ["b"], domain="f")
        if takes:
            call.attribute.append(onnx.AttributeProto(name="v", type="TENSOR", ref_attr_name="v"))
        functions.append(helper.make_function("f", "F1", ["a"], ["b"], [call], opsets, takes))
    last = f"F{len(functions) - 1}"
    nodes = [node(last, [name], [f"b{i}"], domain="f", **given) for i in range(calls)]
    graph = helper.make_graph(
        [*nodes, node("Conv", [name, "W"], ["y"])],
        "graph",
        [info(name, (1, 2, 5, 4))],
        [onnx.ValueInfoProto(name="y")],
        [tensor("W", ramp(*SHAPE))],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=IR)
    return bytes(model.SerializeToString())


def hidden(nodes: Sequence[Any], *stored: tuple[str, Any], **rest: Any) -> bytes:
    """A model whose weights are of a modest shape, plus the largest element of a bomb `T`.

    Shape inference sees nothing amiss: only who computes the weights meets T.
    """
    after = [
        node("Cast", ["T"], ["numbers"], to=TensorProto.FLOAT),
        node("ReduceMax", ["numbers"], ["largest"], keepdims=0),
        node("Add", ["w", "largest"], ["W"]),
    ]
    return computed([*nodes, *after], ("w", ramp(*SHAPE)), *stored, **rest)


def stacked(count: int, size: int) -> bytes:
    """Weights that need the sum of so many constants, of so many elements each."""
    nodes = [node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(count)]
    nodes.append(node("Sum", [f"c{i}" for i in range(count)], ["T"]))
    return hidden(nodes, ("s", integers(size)))


GRID = np.ones((30_000, 1), np.float32)
"""A column, of 120 kB; the product of it and its transpose has 3.6 GB."""

BOMBS: dict[str, Callable[[], bytes]] = {
    "empty nodes": lambda: field(7, field(1, b"") * 10_000_000),
    "empty nodes, fewer": lambda: field(7, field(1, b"") * 3_900_000),
    "empty attributes": lambda: field(7, field(1, field(5, b"") * 6_000_000)),
    "empty names": lambda: field(7, field(1, field(1, b"") * 6_000_000)),
    "many operator sets": lambda: field(8, b"") * 6_000_000,
    "nested deeply": lambda: nested(3_000),
    "nested a little too deeply": lambda: nested(40),
    "groups of protobuf 1": lambda: b":\x0a" + b"\x0b" * 10,
    "huge dims": lambda: declared(2**31, 2**31, 2**31, 2**31),
    "huge dims, zero elements": lambda: declared(2**62, 2**62, 2, 0),
    "largest dims": lambda: declared(2**63 - 1, 2**63 - 1, 3, 3),
    "negative dims": lambda: declared(3, 2, -2, -3),
    "many dims": lambda: declared(*[2] * 200_000),
    "many dims of one": lambda: declared(*[1] * 200_000),
    "dims in one field": lambda: packed(10_000_000),
    "dims in one field, fewer": lambda: packed(1_900_000),
    "sizes of an attribute in one field": lambda: conv_with(field(8, b"\1" * 10_000_000)),
    "Erf of many": lambda: hidden(
        [node("ConstantOfShape", ["s"], ["a"]), node("Erf", ["a"], ["T"])], ("s", integers(2**25))
    ),
    "Range that wraps": lambda: hidden(
        [node("Range", ["a", "b", "c"], ["T"])],
        ("a", np.int64(-(2**62))),
        ("b", np.int64(2**62)),
        ("c", np.int64(2**3)),
    ),
    "Range that wraps to little": lambda: hidden(
        [node("Range", ["a", "b", "c"], ["T"])],
        ("a", np.int64(-(2**63))),
        ("b", np.int64(2**63 - 1)),
        ("c", np.int64(1)),
    ),
    "a rounding mode that is a number": lambda: quantized(rounding_mode=1),
    "a rounding mode of many": lambda: quantized(rounding_mode=["ROUND"]),
    "a rounding mode that is a tensor": lambda: quantized(rounding_mode=tensor("", [1])),
    "two outputs of a quantizer": lambda: quantized(outputs=("W", "V")),
    "a Constant of two outputs": lambda: computed(
        [node("Constant", [], ["V", "W"], value=tensor("", ramp(*SHAPE)))]
    ),
    "a Constant of another type": lambda: computed(
        [node("Constant", [], ["f"], value_ints=[1.5]), node("Reshape", ["f", "f"], ["W"])]
    ),
    "unknown type": lambda: declared(3, 2, 2, 3, kind=99),
    "text": lambda: declared(3, 2, 2, 3, kind=TensorProto.STRING),
    "too few bytes": lambda: declared(3, 2, 2, 3),
    "too many bytes": lambda: declared(3, 2, 2, 3, raw=b"\0" * 1000),
    "no dims": lambda: declared(),
    "ConstantOfShape": lambda: hidden(
        [node("ConstantOfShape", ["s"], ["T"])], ("s", integers(2**20, 2**20))
    ),
    "ConstantOfShape of 2 GiB": lambda: hidden(
        [node("ConstantOfShape", ["s"], ["T"])], ("s", integers(2**28))
    ),
    "ConstantOfShape, negative": lambda: hidden(
        [node("ConstantOfShape", ["s"], ["T"])], ("s", integers(-1, 2**40, -1, 1))
    ),
    "ConstantOfShape, negative and small": lambda: hidden(
        [node("ConstantOfShape", ["s"], ["T"])], ("s", integers(-1, 2**40))
    ),
    "ConstantOfShape as W": lambda: computed(
        [node("ConstantOfShape", ["s"], ["W"])], ("s", integers(1, 1, 2**20, 2**20))
    ),
    "a size left open": lambda: hidden(
        [node("ConstantOfShape", ["s"], ["T"])],
        ("s", integers(2**28)),
        input_shape=(1, 2, "h", 4),
    ),
    "Expand": lambda: hidden(
        [node("Expand", ["v", "s"], ["T"])],
        ("v", np.float32([1])),
        ("s", integers(2**20, 2**20)),
    ),
    "Expand by a scalar": lambda: hidden(
        [node("Expand", ["v", "s"], ["T"])], ("v", np.float32([1])), ("s", np.int64(2**40))
    ),
    "Gather": lambda: hidden(
        [node("Gather", ["v", "i"], ["T"])],
        ("v", np.ones((1, 4_000), np.float32)),
        ("i", np.zeros(300_000, np.int64)),
    ),
    "Gather on the last axis": lambda: hidden(
        [node("Gather", ["v", "i"], ["T"], axis=-1)],
        ("v", np.ones((4_000, 1), np.float32)),
        ("i", np.zeros(300_000, np.int64)),
    ),
    "Tile": lambda: hidden(
        [node("Tile", ["v", "s"], ["T"])], ("v", np.float32([1, 2])), ("s", integers(2**40))
    ),
    "MatMul": lambda: hidden([node("MatMul", ["a", "b"], ["T"])], ("a", GRID), ("b", GRID.T)),
    "MatMul of stacks": lambda: hidden(
        [node("MatMul", ["a", "b"], ["T"])], ("a", GRID[:, :, None, None]), ("b", GRID[:, :, None])
    ),
    "Range": lambda: hidden(
        [node("Range", ["a", "b", "c"], ["T"])],
        ("a", np.float64(0)),
        ("b", np.float64(1e12)),
        ("c", np.float64(1)),
    ),
    "Range, endless": lambda: hidden(
        [node("Range", ["a", "b", "c"], ["T"])],
        ("a", np.float64(0)),
        ("b", np.float64(1e308)),
        ("c", np.float64(1e-308)),
    ),
    "Range by zero": lambda: hidden(
        [node("Range", ["a", "b", "c"], ["T"])],
        ("a", np.float32(0)),
        ("b", np.float32(1)),
        ("c", np.float32(0)),
    ),
    "Mul of a row and a column": lambda: hidden(
        [node("Mul", ["a", "b"], ["T"])], ("a", GRID), ("b", GRID.T)
    ),
    "Clip of a row by a column": lambda: hidden(
        [node("Clip", ["a", "b"], ["T"])], ("a", GRID), ("b", GRID.T)
    ),
    "DequantizeLinear of a row by a column": lambda: hidden(
        [node("DequantizeLinear", ["a", "b"], ["T"], axis=0)],
        ("a", GRID.T.astype(np.int8)),
        ("b", GRID[:, 0]),
    ),
    "QuantizeLinear of a row by a column": lambda: hidden(
        [node("QuantizeLinear", ["a", "b", "z"], ["T"], axis=0)],
        ("a", GRID.T),
        ("b", GRID[:, 0]),
        ("z", np.zeros(30_000, np.int8)),
    ),
    "BatchNormalization of a row by a column": lambda: hidden(
        [node("BatchNormalization", ["a", "b", "b", "b", "b"], ["T"])],
        ("a", GRID[:, :, None]),
        ("b", GRID[:, 0]),
    ),
    "InstanceNormalization of a row by a column": lambda: hidden(
        [node("InstanceNormalization", ["a", "b", "b"], ["T"])],
        ("a", GRID[None]),
        ("b", GRID[:, 0]),
    ),
    "BatchNormalization in training": lambda: hidden(
        [node("BatchNormalization", ["a", "b", "b", "b", "b"], ["T", "", ""], training_mode=1)],
        ("a", GRID[:, :, None]),
        ("b", GRID[:, 0]),
    ),
    "Split into many": lambda: hidden(
        [node("Split", ["a"], ["T"], num_outputs=2**30)], ("a", GRID)
    ),
    "Unsqueeze at many axes": lambda: hidden(
        [node("Unsqueeze", ["a", "b"], ["T"])], ("a", GRID), ("b", np.arange(2, 5_000))
    ),
    "a hundred large constants": lambda: stacked(100, 2**27),
    "a stack of constants": lambda: stacked(12, 2**26),
    "Cast to text": lambda: hidden(
        [
            node("ConstantOfShape", ["s"], ["a"]),
            node("Cast", ["a"], ["T"], to=TensorProto.STRING),
        ],
        ("s", integers(2**25)),
    ),
    "doubled again and again": lambda: computed(
        [
            node("Concat", [f"c{i}" if i else "w"] * 2, [f"c{i + 1}" if i < 59 else "W"], axis=0)
            for i in range(60)
        ],
        ("w", ramp(*SHAPE)),
    ),
    "a long chain": lambda: computed(
        [
            node("Identity", [f"c{i}" if i else "w"], [f"c{i + 1}" if i < 4999 else "W"])
            for i in range(5000)
        ],
        ("w", ramp(*SHAPE)),
    ),
    "a node of itself": lambda: computed([node("Identity", ["W"], ["W"])]),
    "a node of itself, twice": lambda: computed([node("Add", ["W", "W"], ["W"])]),
    "a cycle of two": lambda: computed(
        [node("Neg", ["V"], ["W"]), node("Neg", ["W"], ["V"])],
    ),
    "a cycle of two, twice": lambda: computed(
        [node("Add", ["V", "V"], ["W"]), node("Mul", ["W", "W"], ["V"])],
    ),
    "its own weights": lambda: computed([node("Identity", ["y"], ["W"])]),
    "an empty sparse tensor": lambda: computed(
        [node("Constant", [], ["W"], sparse_value=onnx.SparseTensorProto())]
    ),
    "a huge sparse tensor": lambda: sparse([1], integers(5), 2**20, 2**20, 1, 1),
    "a sparse tensor of 800 MB": lambda: sparse([1], integers(5), 2**24, 2, 2, 3),
    "a sparse tensor, 500 million": lambda: sparse([1], integers(-5), 3, 2, -2, -3),
    "a sparse tensor of many axes": lambda: sparse([1], integers(0), *[1] * 100),
    "a constant without a value": lambda: computed([node("Constant", [], ["W"])]),
    "a constant of text": lambda: computed([node("Constant", [], ["W"], value_string="W")]),
    "functions that double": lambda: doubling(40),
    "functions that double, fewer": lambda: doubling(18),
    "a function that calls itself": lambda: doubling(1, recursive=True),
    **{f"a function that copies: {what}": partial(copying, what, 600, 2**20) for what in COPIES},
    "no graph": lambda: b"\x08\x0a" + field(8, b"\x10\x16"),
    "an operator set that is to come": lambda: computed([], ("W", ramp(*SHAPE)), opset=2**31),
    "an operator set below 0": lambda: computed([], ("W", ramp(*SHAPE)), opset=-5),
}

CYCLES = {
    "a node of itself": "'W'",
    "a node of itself, twice": "'W'",
    "a cycle of two": "'W', 'V'",
    "a cycle of two, twice": "'W', 'V'",
}
"""The tensors of each, in the order in which they are met."""

HARMLESS = {
    "functions that double, fewer",
    "InstanceNormalization of a row by a column",
    "empty nodes, fewer",
    "too many bytes",
    "an operator set that is to come",
    "an operator set below 0",
    "nested a little too deeply",
    "a long chain",
}
"""What may be read after all, if it stays within the limits."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb(name: str, tmp_path: Path) -> None:
    found = in_a_child(save(BOMBS[name](), tmp_path))
    if name in HARMLESS and all(result == "loaded" for result in found):
        return
    assert found
    for kind, ours, message in found:
        assert ours, f"{kind}: {message}"
        assert kind in ("MalformedInput", "GeometryError", "Refused", "Unsupported", "OpenSize")
        assert message


@pytest.mark.parametrize("what", COPIES)
def test_the_bytes_that_functions_copy_are_bounded(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as inlining really copies are refused, where there may be one less."""
    content = copying(what, 20, 2**16)
    model = onnx.load_from_string(content)
    copied = onnx.inliner.inline_local_functions(model).ByteSize() - len(content)
    assert what == "default" or copied > 18 * 2**16
    (entry,) = read(save(content, tmp_path)).entries
    assert np.array_equal(entry.load().kernel, ramp(*SHAPE))
    monkeypatch.setattr(listing, "MAX_COPIED_BYTES", copied - 1)
    told = f"inlining the functions of .* adds more than {copied - 1} bytes to it"
    with pytest.raises(Refused, match=told):
        read(save(content, tmp_path))


@pytest.mark.parametrize("name", CYCLES)
def test_a_cycle_names_what_is_in_it(name: str, tmp_path: Path) -> None:
    (entry,) = read(save(BOMBS[name](), tmp_path)).entries
    with pytest.raises(MalformedInput, match=rf"in a cycle: {CYCLES[name]}$"):
        entry.load()


def test_a_cycle_is_told_without_what_leads_to_it(tmp_path: Path) -> None:
    nodes = [node("Neg", ["V"], ["W"]), node("Abs", ["U"], ["V"]), node("Neg", ["V"], ["U"])]
    (entry,) = read(save(computed(nodes), tmp_path)).entries
    with pytest.raises(MalformedInput, match=r"in a cycle: 'V', 'U'$"):
        entry.load()


def test_a_sound_model_in_a_child(tmp_path: Path) -> None:
    assert in_a_child(save(small(), tmp_path)) == ["loaded"] * 3


def test_a_folded_weight_that_is_large_but_sound(tmp_path: Path) -> None:
    content = computed([node("ConstantOfShape", ["s"], ["W"])], ("s", integers(64, 2, 2, 3)))
    assert in_a_child(save(content, tmp_path)) == ["loaded"]


def test_a_model_without_a_name_or_with_a_long_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = conv_model(ramp(*SHAPE), None, {"group": 7}, (1, 2, 5, 4), name="n" * 1_000_000)
    path = save(model, tmp_path)
    with pytest.raises(MalformedInput):
        read(path).entries[0].load()
    done = convfc(capsys, "convert", path, "-o", tmp_path / "out.npz")
    assert done.code == 3
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\x07bell", "\u202egnp.exe", "\x9b31m"])
def test_names_do_not_steer_a_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = save(conv_model(ramp(*SHAPE), None, {"group": 7}, (1, 2, 5, 4), name=name), tmp_path)
    for arguments in (["convert", wrong, "-o", tmp_path / "out.npz"], ["inspect", wrong]):
        done = convfc(capsys, *arguments)
        assert done.code == (3 if arguments[0] == "convert" else 0)
        for stream in (done.out, done.err):
            assert all(c.isprintable() or c in "\t\n" for c in stream)
            assert "a\nb" not in stream
    right = save(conv_model(ramp(*SHAPE), None, {}, (1, 2, 5, 4), name=name), tmp_path, "r.onnx")
    done = convfc(capsys, "convert", right, "-o", f"{tmp_path}/out/")
    assert done.code == 0
    assert all(c.isprintable() or c == "\n" for c in done.out + done.err)
    (file,) = done.paths
    assert file.is_file()


def test_an_error_says_what_the_file_is_called(tmp_path: Path) -> None:
    path = save(b"\x08\x0a\xff\xff", tmp_path, "some name.onnx")
    with pytest.raises(MalformedInput, match=r"some name\.onnx"):
        read(path)
    with pytest.raises(Refused, match="bomb"):
        read(save(field(7, field(1, b"") * 4_500_000), tmp_path, "bomb.onnx"))
    entry = read(save(weight_model([], []), tmp_path)).entries[0]
    with pytest.raises(Unsupported, match="layer conv"):
        entry.load()


@pytest.mark.parametrize("size", [4, None, -3])
def test_sizes_that_become_negative_before_a_slice_end_nothing(size, tmp_path: Path) -> None:
    """ONNX's shape inference ends its process on them."""
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["r"], name="c"),
        helper.make_node("Slice", ["r", "starts", "ends", "axes"], ["y"]),
    ]
    stored = [tensor("W", np.ones((1, 1, 8), np.float32))]
    stored += [tensor(name, np.array([k])) for name, k in (("starts", 0), ("ends", 5), ("axes", 2))]
    path = save(make_model(nodes, [info("x", (1, 1, size))], stored), tmp_path)
    sizes = ["--input-shape", "x=1,1,4"] if size is None else []
    command = [sys.executable, "-m", "convfc_cli", "inspect", str(path), *sizes]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode in (0, 3), ran
    assert "Assertion" not in ran.stderr
    if size != -3:
        assert "no output: size 4" in ran.stdout


SPARSE: dict[str, tuple[Any, Any, str]] = {
    "repeated": ([1, 2], integers(3, 3), "ascending"),
    "unsorted": ([1, 2], integers(3, 0), "ascending"),
    "negative": ([1], integers(-1), "outside its shape"),
    "beyond": ([1], integers(36), "outside its shape"),
    "unsigned, beyond": ([1], np.uint64([2**64 - 1]), "outside its shape"),
    "beyond, on one axis": ([1], integers(0, 0, 2, 0)[None], "outside its shape"),
    "negative, on one axis": ([1], integers(0, 0, -1, 0)[None], "outside its shape"),
    "repeated, on axes": ([1, 2], np.int64([[0, 1, 0, 1]] * 2), "ascending"),
    "unsorted, on axes": ([1, 2], np.int64([[0, 1, 0, 1], [0, 0, 1, 1]]), "ascending"),
    "two axes of four": ([1], integers(0, 1)[None], "4 axes"),
    "one axis of four": ([1], integers(3)[None], "4 axes"),
    "one place for each axis of one value": ([1], integers(0, 1, 0, 1), "1 values"),
    "fewer values": ([1], integers(1, 2), "1 values"),
    "fewer places": ([1, 2], integers(1), "2 values"),
    "no axis": ([1], np.int64(3), "1 values"),
    "three axes": ([1], integers(3)[None, None], "1 values"),
    "values of two axes": ([[1, 2]], integers(3), "values"),
    "no numbers": ([1, 2], np.array([True, False]), "bool"),
    "fractions": ([1], np.float32([3]), "float32"),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_tensors_that_onnx_does_not_have(name: str, tmp_path: Path) -> None:
    values, places, message = SPARSE[name]
    entry = read(save(sparse(values, places, *SHAPE), tmp_path)).entries[0]
    with pytest.raises(MalformedInput, match=message):
        entry.load()


def test_a_sparse_tensor_of_any_integers_and_of_none(tmp_path: Path) -> None:
    for places in (np.int32([3, 35]), np.uint8([3, 35])):
        entry = read(save(sparse([4, 5], places, *SHAPE), tmp_path)).entries[0]
        kernel = entry.load().arrays()["kernel"].reshape(-1)
        assert (np.flatnonzero(kernel).tolist(), kernel[3], kernel[35]) == ([3, 35], 4, 5)
    entry = read(save(sparse([], np.zeros((0, 4), np.int64), *SHAPE), tmp_path)).entries[0]
    assert not entry.load().arrays()["kernel"].any()


PEAK = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "convfc_cli", *sys.argv[1:]], capture_output=True)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.stderr.buffer.write(done.stderr)
"""


def ended(*arguments: object) -> tuple[int, int, str]:
    """(exit code, megabytes of the largest of its processes, messages) of a command."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    code, megabytes = map(int, done.stdout.split())
    return code, megabytes, done.stderr


LARGE: dict[str, tuple[int, str]] = {
    "Erf of many": (5, "takes more than"),
    "Range that wraps": (5, "takes too many elements"),
    "Range that wraps to little": (5, "takes too many elements"),
    "dims in one field": (5, "fields"),
    "dims in one field, fewer": (3, "declares 1900000 axes"),
    "sizes of an attribute in one field": (5, "fields"),
    "a sparse tensor of 800 MB": (5, "201326592 elements"),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_in_all_processes(name: str, tmp_path: Path) -> None:
    code, message = LARGE[name]
    path = save(BOMBS[name](), tmp_path)
    found = ended("convert", path, "--form", "operator", "-o", tmp_path / "out.npz")
    assert found[0] == code, found
    assert message in found[2]
    assert found[1] < 1000


def test_a_chain_of_declared_kernels_makes_no_ones_of_them(tmp_path: Path) -> None:
    stored = [TensorProto(name=name, data_type=TensorProto.FLOAT) for name in "WV"]
    stored[0].dims.extend([2**16, 2**16, 1, 1])
    stored[1].dims.extend([1, 2**16, 1, 1])
    nodes = [node("Conv", ["x", "W"], ["a"]), node("Conv", ["a", "V"], ["y"])]
    path = save(make_model(nodes, [info("x", (1, 2**16, 1, 1))], stored), tmp_path)
    code, megabytes, _ = ended("inspect", "--chains", path)
    assert code == 0
    assert megabytes < 1000


@pytest.mark.parametrize("longest", [8192, 16384])
def test_a_chain_of_large_layers_takes_the_memory_of_one(longest: int, tmp_path: Path) -> None:
    """As large as a chain may have them, and larger."""
    nodes = [node("Transpose", ["x"], ["a"], perm=[0, 2, 1])]
    nodes.append(node("Transpose", ["a"], ["b"], perm=[0, 2, 1]))
    nodes.append(node("Transpose", ["b"], ["y"], perm=[0, 2, 1]))
    path = save(make_model(nodes, [info("x", (1, 4096, longest))], []), tmp_path)
    code, megabytes, told = ended("inspect", "--chains", path)
    assert (code, "1 chain of linear layers composes" in told) == (0, longest == 8192)
    assert megabytes < (950 if longest == 8192 else 200)


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_loops_over_elements_have_an_end(op: str, tmp_path: Path) -> None:
    (entry,) = read(save(scattered(op, 2**22), tmp_path)).entries
    begun = time.process_time()
    with budget.command() as left:
        left.seconds = 0.5
        with pytest.raises(Refused, match="takes more than 1 seconds of CPU time"):
            entry.load()
        assert left.seconds <= 0
        with pytest.raises(Refused, match="all that came before"):
            entry.load()
    assert time.process_time() - begun < SECONDS


def test_what_many_constants_take_adds_up(tmp_path: Path) -> None:
    nodes = [node("Neg", ["w"], [f"W{i}"]) for i in range(3)]
    nodes += [node("Conv", ["x", f"W{i}"], [f"y{i}"]) for i in range(3)]
    model = make_model(nodes, [info("x", (1, 2, 5, 4))], [tensor("w", ramp(*SHAPE))])
    entries = read(save(model, tmp_path)).entries
    with budget.command() as left:
        left.elements, before = 80, left.operations
        for entry in entries[:2]:
            assert (entry.load().arrays()["kernel"] == -ramp(*SHAPE)).all()
        assert (left.elements, before - left.operations) == (8, 2)
        with pytest.raises(Refused, match="takes too many elements"):
            entries[2].load()


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_weights_of_a_computed_shape_are_computed_once_to_be_listed(
    op: str, tmp_path: Path
) -> None:
    """Inference does not follow sizes through so long a list."""
    shape, sizes = (SHAPE, (1, 2, 5, 4)) if op == "Conv" else ((3, 4), (1, 3))
    listed = np.pad(integers(*shape), (0, 200))
    nodes = [
        node("Abs", ["listed"], ["abs"]),
        node("Slice", ["abs", "first", "last"], ["size"]),
        node("Reshape", ["w", "size"], ["W"]),
    ]
    nodes += [node(op, ["x", "W"], [f"y{i}"]) for i in range(3)]
    stored = [tensor("w", ramp(prod(shape))), tensor("listed", listed)]
    stored += [tensor("first", integers(0)), tensor("last", integers(len(shape)))]
    path = save(make_model(nodes, [info("x", sizes)], stored), tmp_path)
    with budget.command() as left:
        before = left.operations
        entries = list(read(path).layers())
        assert before - left.operations == 3  # Abs, Slice and Reshape
    assert [entry.require().kernel_shape for entry in entries] == [
        shape if op == "Conv" else (4, 3)
    ] * 3


def test_an_output_without_a_name_keeps_its_place(tmp_path: Path) -> None:
    """The others were taken for those before them."""
    weights = ramp(4, 2, 2, 3)
    split = node("Split", ["w"], ["", "W"], axis=0, num_outputs=2)
    (entry,) = read(save(computed([split], ("w", weights)), tmp_path)).entries
    assert (entry.load().arrays()["kernel"] == weights[2:]).all()


def test_constants_that_are_stated_start_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [node("Constant", [], ["a"], value=tensor("", ramp(*SHAPE)))]
    nodes.append(node("Identity", ["a"], ["W"]))
    (entry,) = read(save(computed(nodes), tmp_path)).entries
    monkeypatch.setattr(contained, "call", lambda *given, **rest: pytest.fail("a child"))
    assert (entry.load().arrays()["kernel"] == ramp(*SHAPE)).all()


@pytest.mark.parametrize("seed", range(3))
def test_models_altered_where_they_are_parsed(seed: int, tmp_path: Path) -> None:
    seen, defects = fuzz_onnx.run(24, seed, tmp_path)
    assert list(defects) == []
    assert {"loaded", "MalformedInput"} <= set(seen)


def test_the_models_that_are_altered_are_sound(tmp_path: Path) -> None:
    for model in fuzz_onnx.models():
        found = set(fuzz_onnx.outcomes(save(model, tmp_path)))
        assert "loaded" in found
        assert "MalformedInput" not in found


@pytest.mark.parametrize("version", [2**31, 2**40, 2**62, -1, 0])
def test_a_version_that_onnx_does_not_have(version: int, tmp_path: Path) -> None:
    nodes = [node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])]
    model = make_model(nodes, [info("x", (1, 2, 5, 4))], opset=version)
    found = set(fuzz_onnx.outcomes(save(model, tmp_path)))
    assert found <= {"loaded", "MalformedInput", "Unsupported", "SizeMissing"}


@pytest.mark.parametrize(("third", "error"), [("nowhere", MalformedInput), ("z", Unsupported)])
def test_an_input_that_the_layer_does_not_need(
    third: str, error: type[ConvfcError], tmp_path: Path
) -> None:
    """The number that a reflecting Pad would not put anywhere: its node cannot be run without."""
    nodes = [node("Pad", ["x", "pads", third], ["y"], mode="reflect", name="pad")]
    stored = [tensor("pads", integers(0, 0, 1, 1, 0, 0, 1, 1))]
    model = make_model(nodes, [info("x", (1, 2, 5, 4)), info("z", ())], stored)
    (entry,) = read(save(model, tmp_path)).others
    assert entry.load().output_shape == (2, 7, 6)
    with pytest.raises(error, match=third):
        first_result(entry, np.random.default_rng(0))
