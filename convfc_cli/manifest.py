"""`manifest.json`: the record of a folder of matrices, and what commits it.

It is removed before the first matrix of a run is written and put back after the last, so a folder
without one, or whose manifest disagrees with what is there, is incomplete. It says nothing of when
or where it was written.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convfc_cli import __version__
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, UsageError
from convfc_cli.files import opened
from convfc_cli.models.model import Model

MANIFEST = "manifest.json"
SCHEMA = "convfc-manifest/1"

LONGEST = 2**26
"""Bytes of a manifest that are read."""


def manifest(
    model: Model, matrices: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]
) -> str:
    """The text of a manifest, the same for the same model and options."""
    content = {
        "schema": SCHEMA,
        "version": __version__,
        "model": {"file": Path(model.name).name, "sha256": model.sha256},
        "matrices": list(matrices),
        "failed": list(failed),
    }
    return json.dumps(content, indent=1) + "\n"


def matrix_files(folder: Path) -> Iterator[Path | ConvfcError]:
    """The matrix files of a folder by its manifest; in place of one that is not there, an error.

    Raises `MalformedInput` for a folder without a manifest that can be read.
    """
    try:
        with opened(folder / MANIFEST) as source:
            content = json.loads(source.file.read(LONGEST).decode())
        names = [(entry["file"], entry["bytes"]) for entry in content["matrices"]]
        if content["schema"] != SCHEMA or not all(type(n) is str for n, _ in names):
            raise ValueError("it is of another schema")
    except UsageError as error:
        raise MalformedInput(
            f"{folder} has no {MANIFEST}: it is incomplete, or not a folder that convfc wrote"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedInput(f"{folder / MANIFEST} cannot be read: {error}") from error
    for name, size in names:
        path = folder / name
        if Path(name).name != name:
            yield Refused(f"{folder / MANIFEST} names {name!r}, which is outside the folder")
        elif not path.is_file() or path.stat().st_size != size:
            yield MalformedInput(f"{path} is missing or not {size} bytes: the folder is incomplete")
        else:
            yield path
