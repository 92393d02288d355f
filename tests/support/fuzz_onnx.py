"""ONNX models altered where they are parsed, not where they are written: names, types, sizes.

Bytes changed at random rarely stay a model. Here a sound one loses, doubles or renames what it has,
and its attributes change their types, so that what comes out is a model all the same, and wrong.
`python -m tests.support.fuzz_onnx 10000` runs so many, and prints what ends in anything but an
error of ours; the suite runs a few.
"""

import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, Defect
from convfc_cli.models.chain import chains
from convfc_cli.models.registry import read
from tests.support.models import first_result, info, make_model, ramp, save, tensor

node = helper.make_node
NUMBERS = (0, 1, -1, 2, 3, 31, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))


def models() -> list[onnx.ModelProto]:
    """Sound models with most of what the reader reads."""
    x = info("x", (1, 4, 6, 6))
    stored = [
        tensor("W", ramp(4, 2, 3, 3)),
        tensor("V", ramp(4, 2, 2, 2)),
        tensor("B", ramp(4)),
        tensor("codes", np.arange(4 * 4 * 9).reshape(4, 4, 3, 3).astype(np.int8)),
        tensor("scale", np.float32([0.5, 1, 2, 3])),
        tensor("zero", np.int8([0, 1, 2, 3])),
        tensor("pads", np.int64([0, 0, 1, 1, 0, 0, 1, 1])),
        tensor("dense", ramp(5, 4)),
        tensor("shape", np.int64([0, -1])),
    ]
    nodes = [
        node("Pad", ["x", "pads"], ["p"], name="pad", mode="reflect"),
        node("Conv", ["p", "W", "B"], ["c"], name="conv", group=2, strides=[2, 2], pads=[1] * 4),
        node("BatchNormalization", ["c", "B", "B", "B", "scale"], ["n"], name="bn", epsilon=1e-3),
        node("ConvTranspose", ["n", "V"], ["t"], group=2, output_padding=[1, 0], strides=[2, 2]),
        node("DequantizeLinear", ["codes", "scale", "zero"], ["D"], axis=0),
        node("Identity", ["D"], ["D2"]),
        node("Conv", ["t", "D2"], ["d"], auto_pad="SAME_UPPER", dilations=[1, 2]),
        node("AveragePool", ["d"], ["a"], kernel_shape=[2, 2], ceil_mode=1),
        node("GlobalAveragePool", ["a"], ["g"]),
        node("Reshape", ["g", "shape"], ["f"]),
        node("Gemm", ["f", "dense"], ["y"], transB=1, alpha=0.5),
    ]
    plain = make_model(nodes, [x], stored)

    values, places = tensor("S", np.float32([1, 2])), tensor("", np.int64([3, 30]))
    sparse = helper.make_sparse_tensor(values, places, (4, 4, 3, 3))
    quantized = [
        node("Shape", ["x"], ["s"]),
        node("Constant", [], ["i"], value_ints=[1]),
        node("Gather", ["s", "i"], ["n"], axis=0),
        node("Concat", ["n", "n", "i", "i"], ["k"], axis=0),
        node("Expand", ["one", "k"], ["E"]),
        node("Conv", ["x", "E"], ["e"], name="expanded"),
        node("Quant", ["w", "h", "z", "b"], ["Q"], domain="qonnx.custom_op.general", narrow=1),
        node("Conv", ["e", "Q"], ["q"], name="quant"),
        node("Conv", ["q", "S"], ["r"], name="sparse", pads=[1] * 4),
        node("QuantizeLinear", ["x", "h", "u"], ["xc"]),
        node("QLinearConv", ["xc", "h", "u", "wc", "h", "v", "h", "u"], ["qc"], name="qlinear"),
        node("ConvInteger", ["xc", "wc", "u", "v"], ["ic"], name="integer"),
        node("FusedConv", ["x", "w"], ["fc"], domain="com.microsoft", activation="Relu"),
    ]
    own = [
        tensor("one", np.float32([[[[1]]]])),
        tensor("w", ramp(4, 4, 1, 1)),
        tensor("h", np.float32(0.5)),
        tensor("z", np.float32(0)),
        tensor("b", np.float32(4)),
        tensor("u", np.uint8(3)),
        tensor("v", np.int8(0)),
        tensor("wc", np.ones((4, 4, 1, 1), np.int8)),
    ]
    domains = {"qonnx.custom_op.general": 1, "com.microsoft": 1}
    integers = make_model(quantized, [x], own, domains=domains, sparse_initializer=[sparse])

    branch = [
        helper.make_graph([node("Conv", ["h", "W"], [k], group=2)], "b", [], [info(k, None)])
        for k in "pq"
    ]
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("F", ["v", "V"], ["o"], domain="f")],
        "body",
        [info("i", (), TensorProto.INT64), info("go", (), TensorProto.BOOL), info("v", None)],
        [info("on", (), TensorProto.BOOL), info("o", None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    function = helper.make_function(
        "f", "F", ["a", "k"], ["b"], [node("Conv", ["a", "k"], ["b"], group=2)], opsets
    )
    inner = [
        node("Slice", ["x", "lo", "hi"], ["h"]),
        node("If", ["c"], ["i"], then_branch=branch[0], else_branch=branch[1]),
        node("Loop", ["n", "", "h"], ["l"], body=body),
        node("MatMul", ["h", "M"], ["m"]),
        node("Resize", ["h", "", "sizes"], ["u"], mode="nearest"),
    ]
    more = [tensor("lo", np.int64([0, 0])), tensor("hi", np.int64([1, 4]))]
    more += [tensor("n", np.int64(1)), tensor("M", ramp(6, 3)), tensor("sizes", F4)]
    inputs = [x, info("c", (), TensorProto.BOOL)]
    nested = make_model(inner, inputs, [*stored[:2], *more], opset=18, domains={"f": 1})
    nested.functions.append(function)
    return [plain, integers, nested]


F4 = np.float32([1, 1, 2, 2])


def messages(root: Any) -> Iterator[Any]:
    """A message and all within it."""
    yield root
    for field, value in root.ListFields():
        if field.message_type is not None:
            for inner in value if hasattr(value, "add") else [value]:
                yield from messages(inner)


def altered(model: onnx.ModelProto, random: np.random.Generator) -> onnx.ModelProto:
    """A copy of a model with one to four changes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(int(random.integers(1, 5))):
        found = list(messages(copy))
        weights = np.array([1 + 4 * (type(m).__name__ != "Dimension") for m in found], float)
        _alter(found[int(random.choice(len(found), p=weights / weights.sum()))], copy, random)
    return copy


def _alter(message: Any, model: onnx.ModelProto, random: np.random.Generator) -> None:
    """Change one field of a message."""
    present = message.ListFields()
    absent = [f for f in message.DESCRIPTOR.fields if f not in [p for p, _ in present]]
    if absent and (not present or random.random() < 0.15):
        field = absent[int(random.integers(len(absent)))]
    elif present:
        field = present[int(random.integers(len(present)))][0]
    else:
        return
    value = getattr(message, field.name)
    repeated = hasattr(value, "extend")
    kind = int(random.integers(4))
    if kind == 0:
        message.ClearField(field.name)
    elif field.message_type is not None:
        if not repeated:
            return
        if kind == 1 and value:
            del value[int(random.integers(len(value)))]
        elif value:
            value.add().CopyFrom(value[int(random.integers(len(value)))])
        else:
            value.add()
    else:
        new = _plain(field, model, random)
        try:
            if not repeated:
                setattr(message, field.name, new)
            elif kind == 1 and value:
                del value[int(random.integers(len(value)))]
            elif kind == 2 and value:
                value[int(random.integers(len(value)))] = new
            else:
                value.append(new)
        except (ValueError, TypeError):  # out of the field's range
            message.ClearField(field.name)


def _plain(field: Any, model: onnx.ModelProto, random: np.random.Generator) -> Any:
    if field.type == field.TYPE_STRING:
        names = ["", "x", "nowhere", "pads", "value", "axis", "mode", "Constant", "Shape", "Split"]
        names += [name for n in model.graph.node for name in (*n.input, *n.output, n.op_type)]
        names += [a.name for n in model.graph.node for a in n.attribute]
        return names[int(random.integers(len(names)))]
    if field.type == field.TYPE_BYTES:
        return random.integers(0, 256, int(random.integers(0, 9))).astype(np.uint8).tobytes()
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return float(random.choice([0, -1, 0.5, np.nan, np.inf, 1e38]))
    if field.type == field.TYPE_ENUM:
        return int(random.integers(0, 18))
    if random.random() < 0.5:
        return int(random.integers(-3, 24))
    return NUMBERS[int(random.integers(len(NUMBERS)))]


def outcomes(path: Path) -> Iterator[str]:
    """What listing, loading and chaining a model ends in; all but our own errors escape."""
    try:
        model = read(path)
    except ConvfcError as error:
        yield _named(error)
        return
    try:
        entries = list(model.layers())
        for chain in chains(model):
            yield "no chain" if isinstance(chain.entry, ConvfcError) else "chain"
    except ConvfcError as error:
        yield _named(error)
        entries = list(model.entries)
    for entry in entries:
        if entry.error is not None:
            yield _named(entry.error)
            continue
        try:
            layer = entry.load()
            entry.notes()
            real = entry.as_real()
            real.load()
            if layer.outline.nnz < 2**16:
                first_result(entry, np.random.default_rng(0))
            yield "loaded"
        except ConvfcError as error:
            yield _named(error)


def _named(error: ConvfcError) -> str:
    if isinstance(error, Defect):
        raise error
    return type(error).__name__


def run(count: int, seed: int, folder: Path) -> tuple[Counter[str], dict[str, bytes]]:
    """How often so many altered models end in what; and those that end in a defect, by the place
    in the code where they do.
    """
    random, sound = np.random.default_rng(seed), models()
    seen: Counter[str] = Counter()
    defects: dict[str, bytes] = {}
    for number in range(count):
        content = altered(sound[number % len(sound)], random).SerializeToString()
        path = save(content, folder, "fuzz.onnx")
        try:
            with budget.command():
                seen.update(set(outcomes(path)))
        except Exception as error:
            frames = [
                f for f in traceback.extract_tb(error.__traceback__) if "convfc" in f.filename
            ]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {error!r}"[:200]
            defects.setdefault(where, content)
    return seen, defects


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        seen, defects = run(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]), Path(folder))
    print(dict(seen))
    for number, (where, content) in enumerate(defects.items()):
        print(where)
        Path(f"defect{number}.onnx").write_bytes(content)
    sys.exit(bool(defects))
