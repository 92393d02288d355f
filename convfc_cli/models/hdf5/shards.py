"""Keras's sharded weights: a JSON with the map from groups to the files that hold them.

The files must lie in the JSON's own folder, as plain names; their trees are read as one.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from convfc_cli.errors import MalformedInput, Refused, UsageError
from convfc_cli.files import Input, sibling
from convfc_cli.hdf5.tree import Dataset, Group, open_trees

MAX_BYTES = 2**23
"""Limit on the JSON that is read: parsed, it may take twenty times as many."""

MAX_FILES = 1000
"""Files in one set of weights."""


class Shards:
    """The trees of several files, as far as a list of datasets goes.

    A dataset that two of them hold raises `MalformedInput`: it is unclear which is meant.
    """

    def __init__(self, roots: list[Group], paths: list[Path]) -> None:
        self._roots, self.paths = roots, paths
        self._merged: dict[str, dict[str, list[Group]]] = {}

    def walk(self) -> Iterator[Dataset]:
        """All datasets, file by file."""
        seen: set[str] = set()
        for root in self._roots:
            for dataset in root.walk():
                if dataset.path in seen:
                    raise _twice(dataset)
                seen.add(dataset.path)
                yield dataset

    def dataset(self, name: str) -> Dataset | None:
        """The dataset of this path, in whichever file it is."""
        if not self._roots:
            return None
        *above, last = self._roots[0].steps(name)
        path, holders = "", self._merged.get("") or self._merge("", self._roots)
        for step in above:
            path += f"/{step}"
            if path not in self._merged:
                inside = (holder.group(step) for holder in holders.get(step, ()))
                self._merge(path, [group for group in inside if group is not None])
            holders = self._merged[path]
        each = (holder.dataset(last) for holder in holders.get(last, ()))
        datasets = [dataset for dataset in each if dataset is not None]
        if len(datasets) > 1:
            raise _twice(datasets[0])
        return datasets[0] if datasets else None

    def _merge(self, path: str, groups: list[Group]) -> dict[str, list[Group]]:
        """For each name in the groups of a path those that have it, file by file.

        Each path is merged once: there may be as many lookups as names, and a thousand files.
        """
        holders: dict[str, list[Group]] = {}
        for group in groups:
            for name in group.names():
                holders.setdefault(name, []).append(group)
        self._merged[path] = holders
        return holders


def _twice(dataset: Dataset) -> MalformedInput:
    return MalformedInput(
        f"{dataset.path} lies in two of its files, one of which may belong to another model"
    )


def is_sharded(source: Input) -> bool:
    """Whether it looks like the JSON of sharded weights: an object with a `weight_map`."""
    if not source.head.lstrip().startswith(b"{"):
        return False
    if b'"weight_map"' in source.head:
        return True
    return source.size <= MAX_BYTES and isinstance(_content(source), dict)


def shards(source: Input) -> Shards:
    """The weights that a JSON names. Raises `Refused` for a file outside its folder."""
    content = _content(source)
    if source.size > MAX_BYTES:
        raise Refused(f"{source.name} has {source.size} bytes, more than {MAX_BYTES}")
    if content is None:
        raise MalformedInput(f"{source.name} is not a JSON of sharded weights, or a damaged one")
    if source.path is None:
        raise UsageError(f"{source.name} names other files: give its path, not its content")
    names: dict[str, None] = {}
    for files in content["weight_map"].values():
        for name in files if isinstance(files, list) else [files]:
            if not isinstance(name, str):
                raise MalformedInput(f"{source.name} maps weights to {str(name)[:40]!r}, no file")
            names[name] = None
    if len(names) > MAX_FILES:
        raise Refused(f"{source.name} names {len(names)} files, more than {MAX_FILES}")
    folder = source.path.parent
    roots = open_trees(_beside(folder, names, source.name), source.name)
    return Shards(roots, [folder / name for name in names])


def _beside(folder: Path, names: Iterable[str], where: str) -> Iterator[Input]:
    """The files of these names in a folder, each open until the next one is."""
    for name in names:
        path = folder / name
        if Path(name).name != name or "\\" in name or os.path.islink(path):
            raise Refused(
                f"{where} names {name[:200]!r}: only a file in its own folder is opened, no link"
            )
        if not os.path.isfile(path):
            raise MalformedInput(f"{where} names {name[:200]!r}: no such file lies beside it")
        try:
            with sibling(path) as shard:
                yield shard
        except MalformedInput as error:
            raise MalformedInput(f"{where} names {name[:200]!r}: {error}") from error


def _content(source: Input) -> dict[str, Any] | None:
    """The JSON, if it maps weights to files."""
    if source.size > MAX_BYTES:
        return None
    source.file.seek(0)
    try:
        content = json.loads(source.file.read(MAX_BYTES))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("weight_map"), dict):
        return None
    return content
