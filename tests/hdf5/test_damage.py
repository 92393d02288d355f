"""Damaged HDF5 files: cut short, mutated, or with addresses of other sizes."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5p

from convfc_cli.errors import MalformedInput, Refused, Unsupported
from convfc_cli.hdf5.tree import Dataset, Group
from tests.support.hdf5_trees import FILTERS, NAME, hold, the_dataset, tree
from tests.support.one_child import in_one_child

pytestmark = pytest.mark.usefixtures("folder")


def rich(file: h5py.File) -> None:
    """A little of everything."""
    values = np.arange(99.0).reshape(11, 9)
    file.attrs.update(config='{"a": 1}', names=["a", "bc"], fixed=np.array([b"x", b"yy"]), n=[1, 2])
    group = file.create_group("layers/conv")
    group["0"] = np.ones((3, 3, 2, 4), "f4")
    group["1"] = np.zeros(4, ">f4")
    file["again"] = group["0"]
    file["half"] = np.zeros(3, "V2")
    file["truth"] = np.array([True, False])
    file["text"] = "hello"
    file["record"] = np.zeros(3, [("a", "f4")])
    for number, options in enumerate(FILTERS):
        file.create_dataset(f"chunks{number}", data=values, chunks=(5, 4), **options)
    file.create_dataset("grows", data=values, chunks=(5, 4), maxshape=(None, None))


def look_at_everything() -> list[str]:
    """Read all that is in the file, and return what was complained of: in errors of ours alone."""
    complaints: list[str] = []

    def tried(of: Callable[[], Any]) -> Any:
        try:
            return of()
        except (MalformedInput, Unsupported, Refused) as error:
            told = str(error)
        assert told.startswith("file.h5")
        assert "\n" not in told
        complaints.append(told)
        return None

    def attributes(holder: Group | Dataset) -> None:
        for name in tried(holder.attributes) or []:
            tried(lambda name=name: holder.attribute(name))

    def below(group: Group, depth: int) -> None:
        attributes(group)
        for name in tried(group.names) or []:
            found = tried(lambda name=name: group.child(name))
            if isinstance(found, Group) and depth < 4:
                below(found, depth + 1)
            elif isinstance(found, Dataset):
                attributes(found)
                tried(found.read)
                tried(found.text)
                tried(lambda found=found: found.part(1, 3))

    root = tried(tree)
    if root is not None:
        tried(lambda: [tried(dataset.read) for dataset in root.walk()])
        below(root, 0)
    return complaints


@pytest.mark.slow
@pytest.mark.parametrize("version", ["earliest", "latest"])
@in_one_child
def test_files_cut_short(version: str) -> None:
    tree(rich, libver=version)
    raw = Path(NAME).read_bytes()
    for size in range(8, len(raw), 211):
        Path(NAME).write_bytes(raw[:size])
        with pytest.raises(MalformedInput, match=r"file\.h5 is a damaged HDF5 file: "):
            tree()


def test_a_file_that_becomes_shorter_meanwhile() -> None:
    found = the_dataset(hold(data=np.ones(10**5)))
    os.truncate(NAME, 5000)
    with pytest.raises(MalformedInput, match="/x: ") as caught:
        found.read()
    assert caught.value.__cause__ is not None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_mutated_files(version: str) -> None:
    """Some hundreds, always the same; many thousands were tried by hand."""
    tree(rich, libver=version)
    raw = Path(NAME).read_bytes()
    sound = look_at_everything()
    noticed = 0
    chosen = random.Random(20)
    written = [at for at, byte in enumerate(raw) if byte]
    for _ in range(100):
        mutated = bytearray(raw)
        for _ in range(chosen.choice((1, 2, 10))):
            at = chosen.choice(written)
            mutated[at] = chosen.choice((0, 1, 127, 128, 255, mutated[at] ^ 1))
        Path(NAME).write_bytes(mutated)
        noticed += look_at_everything() != sound
    assert noticed > 50


def test_addresses_of_other_sizes() -> None:
    plan = h5p.create(h5p.FILE_CREATE)
    plan.set_sizes(4, 4)
    h5py.h5f.create(NAME.encode(), fcpl=plan).close()
    with pytest.raises(
        Unsupported, match=r"file\.h5 is HDF5 with addresses and lengths of \(4, 4\)"
    ):
        tree()
