"""Where a matrix comes from: the origin of a layer, and the layer of a model that it names."""

from dataclasses import replace
from pathlib import Path

from convfc_cli.errors import (
    MalformedInput,
    SizeMissing,
    Unsupported,
    UsageError,
    WeightsAlone,
    WrongContents,
)
from convfc_cli.hints import Advice, Hint
from convfc_cli.matrices.matrix import Matrix, Origin
from convfc_cli.models import chain
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.runtimes.runtime import RunnableLayer


def origin_of(model: Model, entry: Entry) -> Origin:
    """Where a layer comes from, as its file says it."""
    return replace(planned_origin(model, entry), sha256=model.sha256)


def planned_origin(model: Model, entry: Entry) -> Origin:
    """The same, as long as it will be, without the digest, for which all of the file is read."""
    return Origin(
        file=Path(model.name).name,
        sha256=64 * "0",
        layer=entry.name,
        output=entry.output,
        position=entry.position,
        first=entry.parts[0].output if entry.parts else "",
        op=entry.op,
        dtype=entry.dtype,
        flipped=bool(entry.flipped),
        dequantized=entry.dequantized,
        weight=entry.weight,
        notes=entry.notes(),
    )


def find_again(model: Model, matrix: Matrix) -> tuple[Matrix, RunnableLayer | None]:
    """Find the layer that a matrix says it came from, and make the same matrix of it.

    An open size of the model is taken from the matrix. Also returns the layer's node, where that
    computes just this layer. Raises `WrongContents` if the model has no such layer, `UsageError`
    where it stores weights alone, without a description.
    """
    origin = matrix.origin
    if origin.first:
        return _find_chain(model, matrix), None
    called = f"layer @{origin.position} {origin.layer!r} with the output {origin.output!r}"
    for entry in model.layers():
        if (entry.output, entry.position) == (origin.output, origin.position):
            if isinstance(entry.error, SizeMissing):
                try:
                    entry = entry.with_input(matrix.layer.input_shape, "the matrix")
                except (UsageError, MalformedInput) as error:
                    raise WrongContents(f"{model.name} has another {called}: {error}") from error
            try:
                entry = entry.with_flip(origin.flipped)
            except UsageError as error:
                raise WrongContents(f"{model.name} has another {called}: {error}") from error
            entry = entry.as_real() if origin.dequantized else entry
            layer = entry.load()
            changed = origin.flipped or layer.dtype != matrix.layer.dtype
            layer = layer.astype(matrix.layer.dtype.name)
            original = Matrix(layer, matrix.spec, origin_of(model, entry))
            return original, None if changed else entry.runnable()
    if any(isinstance(entry.error, WeightsAlone) for entry in model.entries):
        raise UsageError(
            f"{model.name} has weights alone: to compare, repeat how they are used",
            Hint(Advice.DESCRIBE, (origin.layer,)),
        )
    raise WrongContents(f"{model.name} has no {called}")


def _find_chain(model: Model, matrix: Matrix) -> Matrix:
    """The same for a matrix that was composed of several layers."""
    origin = matrix.origin
    shape = matrix.layer.input_shape
    try:
        entry = chain.again(model, origin.first, origin.output, shape)
    except (UsageError, MalformedInput, Unsupported) as error:
        message = f"{model.name} has no such chain of layers {origin.layer!r}"
        raise WrongContents(f"{message}: {error}") from error
    if entry is None:
        raise WrongContents(f"{model.name} has no chain of layers {origin.layer!r}")
    layer = entry.load().astype(matrix.layer.dtype.name)
    return Matrix(layer, matrix.spec, origin_of(model, entry))
