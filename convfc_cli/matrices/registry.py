"""The kinds of matrix file: every module of `matrices.formats`, each with a FORMAT."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from convfc_cli import discovery
from convfc_cli.errors import MalformedInput, UsageError
from convfc_cli.files import Input
from convfc_cli.matrices.format import MatrixFormat, StoredMatrix
from convfc_cli.naming import Label, first_few, pick


@cache
def formats() -> dict[str, MatrixFormat]:
    """All kinds by name, in the order of their names."""
    kinds: dict[str, MatrixFormat] = {}
    for module in discovery.modules("convfc_cli.matrices.formats"):
        kinds[module.FORMAT.name] = module.FORMAT
    return kinds


def by_suffix(path: Path, form: str | None = None) -> MatrixFormat:
    """The kind that a file name asks for: of several, the one that holds the form, else the
    preferred one.
    """
    kinds = [kind for kind in formats().values() if path.suffix.lower() in kind.suffixes]
    if kinds:
        fitting = [kind for kind in kinds if form in kind.forms] or kinds
        return max(fitting, key=lambda kind: kind.preferred)
    known = ", ".join(dict.fromkeys(s for kind in formats().values() for s in kind.suffixes))
    raise UsageError(
        f"{path}: its suffix names no matrix format (known: {known}); "
        f"end it in / to write into a folder"
    )


@cache
def by_form(form: str) -> MatrixFormat:
    """The kind that a form is written as unless a suffix says otherwise."""
    return by_suffix(Path("matrix.npy" if form == "dense" else "matrix.npz"), form)


def recognized(source: Input) -> MatrixFormat | None:
    """The kind of a file, by its contents; None where it is not a matrix file."""
    return next((kind for kind in formats().values() if kind.recognizes(source)), None)


def stored(source: Input) -> tuple[StoredMatrix, ...]:
    """The matrices of a file, whatever its kind; raises `MalformedInput` if it is none."""
    return kind_of(source).open(source)


def kind_of(source: Input) -> MatrixFormat:
    """The kind of a file, by its contents; raises `MalformedInput` if it is not a matrix file."""
    kind = recognized(source)
    if kind is not None:
        return kind
    known = ", ".join(formats())
    if source.looks_like_text() and source.path is None:
        raise MalformedInput(
            f"{source.name} is text, not a matrix file: if these are paths, use xargs convfc verify"
        )
    if source.looks_like_text():
        raise MalformedInput(f"{source.name} is a text file, not a matrix file ({known})")
    raise MalformedInput(f"{source.name} is not a matrix file that convfc writes ({known})")


def one(matrices: Sequence[StoredMatrix], layer: str | None, where: str) -> StoredMatrix:
    """The matrix of the layer that is meant (see `naming.pick`), or the only one there is."""
    if layer is None:
        if len(matrices) == 1:
            return matrices[0]
        names = first_few([stored.matrix.origin.layer for stored in matrices])
        raise UsageError(f"{where} holds {len(matrices)} matrices: say which layer's ({names})")
    origins = [stored.matrix.origin for stored in matrices]
    labels = [Label(o.position, o.layer, o.output, o.weight) for o in origins]
    return matrices[labels.index(pick(layer, labels, where))]
