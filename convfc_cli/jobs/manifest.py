"""`manifest.json`: the record of a folder of matrices, and what commits it.

It is removed before the first matrix of a run is written and put back after the last, when all of
them are on the disk, so a folder without one, or whose manifest disagrees with what is there, is
incomplete. It says nothing of when
or where it was written.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from convfc_cli import __version__
from convfc_cli.errors import ConvfcError, MalformedInput, Refused
from convfc_cli.files import sibling
from convfc_cli.matrices.registry import by_suffix, formats
from convfc_cli.models.model import Model

MANIFEST = "manifest.json"
SCHEMA = "convfc-manifest/1"

MAX_BYTES = 2**24
"""Limit on a manifest that is read: parsed, it may take thirty times as many."""

MAX_MATRICES = 2**16
"""Matrix files in one folder."""

_OURS = re.compile(rb'\s*\{\s*"schema"\s*:\s*"convfc-manifest/')
"""What a manifest of ours begins with, of whatever version, whole or damaged further on."""


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
    entries, sha256 = _read(folder / MANIFEST)
    for entry in entries:
        name = entry["file"]
        path = folder / name
        if Path(name).name != name or name == os.pardir:
            yield Refused(f"{folder / MANIFEST} names {name!r}, which is outside the folder")
        elif _size(path) != entry["bytes"]:
            size = str(entry["bytes"])[:80]
            yield MalformedInput(
                f"{str(path)[:200]} is missing or not {size} bytes: the folder is incomplete"
            )
        else:
            yield path, {**entry, "sha256": sha256}


def lists(path: Path, model: Model) -> bool:
    """Whether a manifest can be read and is of the matrices of this model."""
    try:
        _, sha256 = _read(path)
    except MalformedInput:
        return False
    return sha256 == model.sha256


def _read(path: Path) -> tuple[list[dict[str, Any]], object]:
    """What a manifest says of each matrix, and the digest of the model.

    Raises `MalformedInput` for one that cannot be read.
    """
    with sibling(path) as source:
        if source.size > MAX_BYTES:
            raise MalformedInput(
                f"{source.name} has {source.size} bytes; at most {MAX_BYTES} are read"
            )
        text = source.file.read()
    try:
        content = json.loads(text.decode())
        if content["schema"] != SCHEMA or len(content["matrices"]) > MAX_MATRICES:
            raise ValueError("it is of another schema")
        entries = [dict(entry) for entry in content["matrices"]]
        names = [entry["file"] for entry in entries]
        sha256 = content.get("model", {}).get("sha256")
        if not all(type(name) is str and name for name in names) or len(set(names)) < len(names):
            raise ValueError("it names no files, or one of them twice")
        if not all(type(entry["bytes"]) is int for entry in entries):
            raise ValueError("it does not say how long a file is")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:160]
        raise MalformedInput(f"{path} is damaged, or no manifest of convfc's ({reason})") from error
    return entries, sha256


def check_length(entries: Sequence[tuple[str, str]]) -> None:
    """Raise `Refused` where a manifest that says this of its matrices, and as much as that beside
    it, would not be read back.
    """
    length = sum(512 + len(json.dumps(texts)) for texts in entries)
    if len(entries) > MAX_MATRICES or length > MAX_BYTES:
        raise Refused(
            f"the manifest of {len(entries)} matrices would have up to {length} bytes; at most "
            f"{MAX_MATRICES} and {MAX_BYTES} are read back: pick layers, or write a file of all, "
            "*.h5"
        )


def is_ours(path: Path) -> bool:
    """Whether a file is a manifest that convfc wrote, by how it begins; it may be damaged further
    on.
    """
    try:
        with sibling(path) as source:
            return _OURS.match(source.head) is not None
    except MalformedInput:
        return False


def _size(path: Path) -> int | None:
    """The bytes of a regular file; None where there is none that could have this name."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


def unlisted(folder: Path, listed: Iterable[Path]) -> list[Path]:
    """The matrix files of a folder that are neither listed nor beside one that is."""
    known = set(listed)
    suffixes = {suffix for kind in formats().values() for suffix in kind.suffixes}
    for path in tuple(known):
        if path.suffix.lower() in suffixes:
            known.update(by_suffix(path).read_with(path))
    return [p for p in sorted(folder.iterdir()) if p.suffix in suffixes and p not in known]
