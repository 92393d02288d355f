"""Verify matrix files: read each matrix, find its layer in the model, prove it."""

import os
from collections.abc import Iterator
from typing import Any

from convfc_cli import budget
from convfc_cli.errors import WrongContents
from convfc_cli.files import opened
from convfc_cli.jobs.observer import SILENT, ProofObserver
from convfc_cli.jobs.origin import find_again
from convfc_cli.matrices import registry as matrix_formats
from convfc_cli.matrices.format import StoredMatrix
from convfc_cli.models import registry as model_formats
from convfc_cli.models.model import Model
from convfc_cli.proof.report import Report, wrong
from convfc_cli.proof.verify import USUAL, Proof
from convfc_cli.proof.verify import verify as verify_stored


@budget.command()
def verify(
    path: str | os.PathLike[str],
    layer: str | None = None,
    *,
    model: Model | str | os.PathLike[str] | None = None,
    listed: dict[str, Any] | None = None,
    proof: Proof = USUAL,
    observer: ProofObserver = SILENT,
) -> Report:
    """Prove one matrix of a file.

    Parameters
    ----------
    path : str or PathLike
        The matrix file; `-` is standard input.
    layer : str, optional
        Which matrix, where the file holds several.
    model : Model, str or PathLike, optional
        The model whose kernel and geometry the matrix has to have.
    listed : dict, optional
        What the manifest of the folder says of the file (`manifest.matrix_files`).
    proof : Proof
        How it is proven; by default every bit and every zero, by probes.
    observer : ProofObserver
        Follows the progress.

    Returns
    -------
    Report
        What was checked and found. Wrong contents are a report that is not `ok`.

    Raises
    ------
    UsageError
        If the file, or the matrix in it, does not exist.
    MalformedInput
        If the file is damaged, or convfc did not write it.
    Refused
        If it is beyond a limit.

    Examples
    --------
    >>> verify("lenet.onnx.fc/000-node_conv2d.npz").verdict  # doctest: +SKIP
    'proven'
    """
    with opened(path) as source:
        try:
            stored = matrix_formats.one(matrix_formats.stored(source), layer, source.name)
        except WrongContents as error:
            return wrong(source.name, "entries", str(error))
        return _report(stored, model, listed, proof, observer, source.size)


def verify_all(
    path: str | os.PathLike[str],
    *,
    model: Model | str | os.PathLike[str] | None = None,
    listed: dict[str, Any] | None = None,
    proof: Proof = USUAL,
    observer: ProofObserver = SILENT,
) -> Iterator[Report]:
    """`verify` of each matrix of a file."""
    with opened(path) as source:
        try:
            matrices = matrix_formats.stored(source)
        except WrongContents as error:
            yield wrong(source.name, "entries", str(error))
            return
        for stored in matrices:
            size = source.size // len(matrices)
            yield _report(stored, model, listed, proof, observer, size)


@budget.command()
def _report(
    stored: StoredMatrix,
    model: Model | str | os.PathLike[str] | None,
    listed: dict[str, Any] | None,
    proof: Proof,
    observer: ProofObserver,
    size: int,
) -> Report:
    observer.started(stored.name, size)
    original = node = None
    if model is not None:
        opened_model = model if isinstance(model, Model) else model_formats.read(model)
        try:
            original, node = find_again(opened_model, stored.matrix)
        except WrongContents as error:
            return wrong(stored.name, "origin", str(error))
    return verify_stored(
        stored, proof, original=original, node=node, listed=listed, progress=observer.advanced
    )
