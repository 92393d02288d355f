"""ONNX models: what tells one by its bytes, and from untrusted bytes to a parsed graph."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convfc_cli import budget
from convfc_cli.errors import MalformedInput, Refused, UsageError
from convfc_cli.files import Input, Kept
from convfc_cli.hints import Advice, Hint
from convfc_cli.models.model import Model, ModelFormat
from convfc_cli.models.onnx.wire import survey, without_weights
from convfc_cli.models.request import Request

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2**31 - 1
"""The most protobuf can parse; larger models keep their weights in external files."""


class Onnx(ModelFormat):
    """Open Neural Network Exchange."""

    name = "onnx"
    summary = (
        "Conv, ConvTranspose, ConvInteger, QLinearConv and FusedConv, in the graph, in the bodies "
        "of If, Loop and Scan, in functions"
    )

    def recognizes(self, source: Input) -> bool:
        """Whether the first field is one that a ModelProto begins with, and the file is binary."""
        if source.looks_like_text() or not source.head:
            return False
        number, wire = source.head[0] >> 3, source.head[0] & 7
        return (number, wire) in {(1, 0), (5, 0)} or (
            wire == 2 and number in {2, 3, 4, 6, 7, 8, 14} and source.head[0] < 0x80
        )

    def open(self, source: Input, request: Request) -> Model:
        if request.weights is not None:
            raise UsageError(
                f"{source.name} is an ONNX model and says itself how its weights are used: "
                f"a description of weights is for files of weights alone",
                Hint(Advice.NO_WEIGHTS),
            )
        from convfc_cli.models.onnx.listing import list_layers
        from convfc_cli.models.onnx.stored import Storage, external_size

        content = source.kept()
        model = _parsed(source, content)
        folder = None if source.path is None else source.path.absolute().parent
        if folder is not None:
            budget.current().earn(external_size(model.graph, folder))
        return Model(
            name=source.name,
            kind=self.name,
            listing=list_layers(model, source.name, Storage(content, folder), request.shapes),
            content=content,
            path=source.path,
            beside=lambda: _external_files(model, folder),
        )


FORMAT = Onnx()


def _external_files(model: "onnx.ModelProto", folder: Path | None) -> Iterator[Path]:
    """The files in the model's folder that it keeps weights in."""
    todo: list[Any] = [model]
    while folder is not None and todo:
        message = todo.pop()
        if message.DESCRIPTOR.name == "TensorProto":
            for entry in message.external_data:
                if entry.key == "location" and ".." not in entry.value and "\0" not in entry.value:
                    yield folder / entry.value.lstrip("/")
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                todo += [value] if hasattr(value, "DESCRIPTOR") else value


def _parsed(source: Input, kept: Kept) -> "onnx.ModelProto":
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if source.size > MAX_BYTES:
        raise Refused(
            f"{source.name} has {source.size} bytes; an ONNX file of more than 2 GiB cannot be "
            f"parsed: save it with external data"
        )
    try:
        content = without_weights(kept, source.size)
        survey(content, onnx.ModelProto.DESCRIPTOR, source.name)
        model = onnx.ModelProto()
        model.ParseFromString(content)
    except (DecodeError, IndexError, UnicodeDecodeError) as error:
        raise MalformedInput(f"{source.name} is not an ONNX model, or a damaged one") from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise MalformedInput(f"{source.name} is not an ONNX model: it holds no graph")
    return model
