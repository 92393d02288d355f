"""`manifest.json`: the record of a folder of matrices, and what commits it.

It is removed before the first matrix of a run is written and put back after the last, so a folder
without one, or whose manifest disagrees with what is there, is incomplete. It says nothing of when
or where it was written.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from convfc_cli import __version__
from convfc_cli.errors import ConvfcError, MalformedInput, Refused
from convfc_cli.files import opened
from convfc_cli.matrices.registry import formats
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


def matrix_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]] | ConvfcError]:
    """The matrix files of a folder by its manifest, and what it says of each; an error in place of
    one that is not there.

    Raises `MalformedInput` for a folder without a manifest that can be read.
    """
    if not (folder / MANIFEST).is_file():
        raise MalformedInput(
            f"{folder} has no {MANIFEST}: it is incomplete, or not a folder that convfc wrote"
        )
    try:
        with opened(folder / MANIFEST) as source:
            content = json.loads(source.file.read(LONGEST).decode())
        entries = [dict(entry) for entry in content["matrices"]]
        names = [entry["file"] for entry in entries]
        sha256 = content.get("model", {}).get("sha256")
        if content["schema"] != SCHEMA or not all(type(name) is str for name in names):
            raise ValueError("it is of another schema")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedInput(
            f"{folder / MANIFEST} is damaged, or no manifest of convfc's"
        ) from error
    for name, entry in zip(names, entries, strict=True):
        path = folder / name
        if Path(name).name != name:
            yield Refused(f"{folder / MANIFEST} names {name!r}, which is outside the folder")
        elif not path.is_file() or path.stat().st_size != entry.get("bytes"):
            size = entry.get("bytes")
            yield MalformedInput(f"{path} is missing or not {size} bytes: the folder is incomplete")
        else:
            yield path, {**entry, "sha256": sha256}


def unlisted(folder: Path, listed: Iterable[Path]) -> list[Path]:
    """The matrix files of a folder that are neither listed nor beside one that is."""
    known = set(listed)
    for path in tuple(known):
        for kind in formats().values():
            known.update(kind.beside(path))
    suffixes = {suffix for kind in formats().values() for suffix in kind.suffixes}
    return [p for p in sorted(folder.iterdir()) if p.suffix in suffixes and p not in known]
