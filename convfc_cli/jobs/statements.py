"""What matrix files say of themselves, by their metadata alone: nothing of it is verified."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, UsageError
from convfc_cli.files import Input, opened, sibling
from convfc_cli.jobs.manifest import matrix_files
from convfc_cli.matrices import registry as matrix_formats
from convfc_cli.matrices.format import MatrixFormat
from convfc_cli.matrices.matrix import Statement
from convfc_cli.models import registry as model_formats
from convfc_cli.models.model import Model
from convfc_cli.models.request import Request
from convfc_cli.naming import Label, first_few, pick


@dataclass(frozen=True)
class Unproven:
    """A matrix as its file describes it."""

    statement: Statement
    file: str
    beside: tuple[Path, ...]
    """What the file is read with."""

    size: int
    """Bytes of the file; of one of several in it, about its share."""


@budget.command()
def look(path: str | os.PathLike[str], request: Request) -> Model | tuple[Unproven, ...]:
    """List a model file, or the matrices of a matrix file. Raises as `registry.read` does."""
    with opened(path) as source:
        if model_formats.recognized(source) is None:
            kind = matrix_formats.recognized(source)
            if kind is not None:
                return _stated(source, kind)
        return model_formats.open_model(source, request)


def look_into(folder: Path) -> Iterator[Unproven | ConvfcError]:
    """The matrices of a folder by its manifest; an error in place of a file that is not there, or
    not a matrix file. Raises as `matrix_files` does.
    """
    for file in matrix_files(folder):
        if isinstance(file, ConvfcError):
            yield file
            continue
        path, _ = file
        try:
            with sibling(path) as source:
                found = _stated(source, matrix_formats.kind_of(source))
        except ConvfcError as error:
            yield error.without_frames()
        else:
            yield from found


def find(folder: Path, layer: str | None) -> str:
    """The file of a folder that holds the matrix of a layer (see `naming.pick`), or the only one.

    Raises `UsageError` where no layer or several answer to that, and what `look_into` raises or
    gives in place of the file.
    """
    found = list(look_into(folder))
    errors = [one for one in found if isinstance(one, ConvfcError)]
    matrices = [one for one in found if not isinstance(one, ConvfcError)]
    origins = [one.statement.origin for one in matrices]
    labels = [Label(o.position, o.layer, o.output, o.weight) for o in origins]
    if layer is None and errors:
        raise errors[0]
    if layer is None and len(labels) != 1:
        names = first_few([label.name for label in labels])
        raise UsageError(f"{folder} holds {len(labels)} matrices: say which layer's ({names})")
    if layer is None:
        return matrices[0].file
    try:
        return matrices[labels.index(pick(layer, labels, str(folder)))].file
    except UsageError:
        if errors:
            raise errors[0] from None
        raise


def _stated(source: Input, kind: MatrixFormat) -> tuple[Unproven, ...]:
    statements = kind.states(source)
    beside = () if source.path is None else tuple(kind.read_with(source.path))
    share = source.size // len(statements)
    return tuple(Unproven(one, source.name, beside, share) for one in statements)
