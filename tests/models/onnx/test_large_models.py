"""Large initializers are skipped when a model is listed, and read when their layer is loaded; of
many equal layers one is worked out.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from convfc_cli import contained
from convfc_cli.cli.main import main
from convfc_cli.errors import MalformedInput
from convfc_cli.files import Kept, opened
from convfc_cli.jobs.convert import convert
from convfc_cli.models.onnx import wire
from convfc_cli.models.onnx.stored import Storage, decoded
from convfc_cli.models.registry import read

CHANNELS = 96
KERNEL = (CHANNELS, CHANNELS, 3, 3)
KERNELS = np.random.default_rng(0).standard_normal((4, *KERNEL)).astype(np.float32)
FIELDS = {
    "FLOAT": "float_data",
    "DOUBLE": "double_data",
    "INT8": "int32_data",
    "FLOAT16": "int32_data",
    "INT64": "int64_data",
    "UINT64": "uint64_data",
}


def stored(array: Any, name: str, *, raw: bool) -> onnx.TensorProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    if raw:
        return numpy_helper.from_array(array, name)
    return helper.make_tensor(name, kind, array.shape, array.ravel())


def model(*, raw: bool = True, text: str = "") -> onnx.ModelProto:
    """Four convolutions, one after another, of 332 kB each."""
    nodes = [
        helper.make_node("Conv", [f"x{n}", f"w{n}"], [f"x{n + 1}"], f"conv{n}", pads=[1] * 4)
        for n in range(len(KERNELS))
    ]
    inits = [stored(kernel, f"w{n}", raw=raw) for n, kernel in enumerate(KERNELS)]
    inits[1].doc_string = text
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, CHANNELS, 4, 4])
    y = helper.make_tensor_value_info("x4", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(params=[True, False], ids=["raw", "float_data"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    onnx.save(model(raw=request.param), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where a file is read from, and how many bytes."""
    found = []
    whole = Kept.read

    def noted(self: Kept, start: int, count: int) -> bytes:
        content = whole(self, start, count)
        found.append((start, len(content)))
        return content

    monkeypatch.setattr(Kept, "read", noted)
    return found


def without_weights(content: bytes, tmp_path: Path) -> bytes:
    (tmp_path / "content").write_bytes(content)
    with opened(tmp_path / "content") as source:
        return wire.without_weights(source.kept(), source.size)


def kept(content: bytes, tmp_path: Path) -> Storage:
    (tmp_path / "content").write_bytes(content)
    with open(tmp_path / "content", "rb") as file:
        return Storage(Kept("content", file))


def test_inspect_reads_less_than_a_twentieth_of_the_file(path, spans, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convfc", "inspect", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (None, 0)
    assert "4 of 4 layers ready" in capsys.readouterr().err
    assert 0 < sum(count for _, count in spans) < path.stat().st_size / 20


def test_a_plan_reads_no_weights(path, spans, monkeypatch):
    """The digest, for which all is read, is taken when something is written."""
    monkeypatch.setattr("convfc_cli.jobs.convert._carry_out", lambda plan, *rest: plan.size)
    assert convert(path, f"{path.parent}/o/")
    assert 0 < sum(count for _, count in spans) < path.stat().st_size / 20


def test_json_has_the_digest_of_the_file(path, capsys, monkeypatch):
    import hashlib
    import json

    monkeypatch.setattr(sys, "argv", ["convfc", "inspect", "--json", str(path)])
    with pytest.raises(SystemExit):
        main()
    listed = json.loads(capsys.readouterr().out)
    assert listed["model"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_layer_reads_its_own_weights_alone(path, spans):
    entries = read(path).entries
    spans.clear()
    assert entries[2].load().kernel.tobytes() == KERNELS[2].tobytes()
    ((start, count),) = spans
    content = path.read_bytes()
    assert b"w2" in content[start : start + count]
    assert KERNELS[2].nbytes < count < KERNELS[2].nbytes + 100


def test_what_is_parsed_has_no_large_weights(path, tmp_path):
    content = path.read_bytes()
    small = without_weights(content, tmp_path)
    assert len(small) < len(content) / 100
    parsed, whole = onnx.ModelProto.FromString(small), onnx.ModelProto.FromString(content)
    for tensor in parsed.graph.initializer:
        assert (tensor.raw_data, len(tensor.float_data), tuple(tensor.dims)) == (b"", 0, KERNEL)
    for one in (parsed, whole):
        del one.graph.initializer[:]
    assert parsed == whole


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "by field"])
@pytest.mark.parametrize("kind", FIELDS)
def test_every_field_of_numbers_is_skipped_and_found_again(kind, raw, tmp_path):
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
    array = np.random.default_rng(1).integers(0, 100, (3, 30_000)).astype(dtype)
    made = stored(array, "w", raw=raw)
    assert raw or len(getattr(made, FIELDS[kind])) == array.size
    graph = onnx.GraphProto(name="g", initializer=[stored(array[:, :1], "v", raw=raw), made])
    content = onnx.ModelProto(ir_version=8, graph=graph).SerializeToString()
    small = without_weights(content, tmp_path)
    assert len(small) < 200
    first, second = onnx.ModelProto.FromString(small).graph.initializer
    assert wire.skipped(first) is None
    assert wire.skipped(second) is not None
    found = decoded(second, kept(content, tmp_path))
    assert (found.dtype, found.shape, found.tobytes()) == (dtype, array.shape, array.tobytes())


def test_text_of_a_skipped_tensor_stays(tmp_path):
    content = model(text="t" * 2**15).SerializeToString()
    parsed = onnx.ModelProto.FromString(without_weights(content, tmp_path))
    assert parsed.graph.initializer[1].doc_string == "t" * 2**15


def test_external_tensors_are_left_as_they_are(tmp_path):
    whole = model()
    tensor = whole.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    parsed = onnx.ModelProto.FromString(without_weights(whole.SerializeToString(), tmp_path))
    assert parsed.graph.initializer[0] == tensor
    assert wire.skipped(tensor) is None


def test_tensors_of_many_fields_are_left_as_they_are(tmp_path):
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.STRING, dims=[2**14])
    tensor.string_data.extend([b"x"] * 2**14)
    whole = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
    content = whole.SerializeToString()
    assert without_weights(content, tmp_path) == content


def test_a_file_of_too_many_fields_is_left_to_the_survey(tmp_path, monkeypatch):
    content = model().SerializeToString()
    monkeypatch.setattr(wire, "MAX_FIELDS", 4)
    assert without_weights(content, tmp_path) == content


@pytest.mark.parametrize("size", [100, 300_000, 900_000, -1])
def test_what_is_cut_short_is_left_to_the_survey(size, tmp_path):
    content = model().SerializeToString()[:size]
    assert without_weights(content, tmp_path) == content
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(MalformedInput, match="cut short"):
        read(tmp_path / "m.onnx")


def test_the_mark_is_none_that_a_file_can_know(tmp_path):
    tensor = model().graph.initializer[0]
    tensor.external_data.add(key="skipped", value="0 100")
    assert wire.skipped(tensor) is None
    assert len(wire._MARK) == 32


def test_weights_that_are_damaged_are_told_when_they_are_read(tmp_path):
    """Numbers of four bytes each, the last of them of three."""
    whole = model()
    del whole.graph.initializer[0]
    described = onnx.TensorProto(name="w0", data_type=TensorProto.FLOAT, dims=KERNEL)
    damaged = described.SerializeToString() + wire._field(4, KERNELS[0].tobytes()[:-1])
    graph = whole.graph.SerializeToString() + wire._field(wire.INITIALIZER, damaged)
    whole.ClearField("graph")
    content = whole.SerializeToString() + wire._field(wire.GRAPH, graph)
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(MalformedInput, match="'w0' cannot be read: its numbers are damaged"):
        read(tmp_path / "m.onnx").entries[0].load()


def test_a_file_that_is_written_into_meanwhile_is_refused(path):
    entry = read(path).entries[0]
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"\0" * 9)
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(MalformedInput, match="was changed while it was read"):
        entry.load()


def test_a_file_that_is_gone_is_read_to_the_end(path):
    found = read(path)
    path.unlink()
    assert [entry.load().kernel.tobytes() for entry in found.entries] == [
        kernel.tobytes() for kernel in KERNELS
    ]
    assert len(found.sha256) == 64


def test_a_pipe_is_read_to_the_end(path, monkeypatch):
    with open(path, "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(file.raw)))
        found = read("-")
    assert found.entries[3].load().kernel.tobytes() == KERNELS[3].tobytes()


def test_the_numbers_of_fields_are_those_of_onnx():
    fields = {
        (message.DESCRIPTOR.name, field.name): field.number
        for message in (onnx.ModelProto, onnx.GraphProto, onnx.TensorProto)
        for field in message.DESCRIPTOR.fields
    }
    names = {*FIELDS.values(), "raw_data"}
    assert fields["ModelProto", "graph"] == wire.GRAPH
    assert fields["GraphProto", "initializer"] == wire.INITIALIZER
    assert fields["TensorProto", "external_data"] == wire.LOCATION
    assert fields["TensorProto", "data_location"] == wire.EXTERNAL
    assert {fields["TensorProto", name] for name in names} == wire.NUMBERS


def test_equal_layers_share_one_index_map(tmp_path):
    """Many layers of a network are alike; what they state is read once."""
    nodes = [helper.make_node("Conv", ["x", f"w{n}"], [f"y{n}"], strides=[2, 1]) for n in range(3)]
    nodes[2].attribute[0].ints[:] = [1, 1]
    kernels = [np.full((1, 1, 2, 2), n, np.float32) for n in range(3)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    outputs = [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, None) for n in range(3)]
    inits = [numpy_helper.from_array(kernel, f"w{n}") for n, kernel in enumerate(kernels)]
    graph = helper.make_graph(nodes, "g", [x], outputs, inits)
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "m.onnx")
    first, second, third = read(tmp_path / "m.onnx").entries
    assert first.outline is second.outline
    assert third.outline.output_shape == (1, 3, 3) != first.outline.output_shape
    assert (first.load().kernel == 0).all()
    assert (second.load().kernel == 1).all()


def test_shape_inference_is_asked_once_for_equal_nodes(tmp_path, monkeypatch):
    asked = []
    whole = onnx.shape_inference.infer_shapes

    def counted(content: bytes, **options: Any) -> onnx.ModelProto:
        asked.append(content)
        return whole(content, **options)

    monkeypatch.setattr(contained, "_is_possible", lambda: False)
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted)
    onnx.save(model(), tmp_path / "m.onnx")
    assert len(read(tmp_path / "m.onnx").entries) == len(KERNELS)
    assert len(asked) == 1
