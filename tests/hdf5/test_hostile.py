"""HDF5 that HDF5 itself cannot bear: each file ends in an error of ours, never in a signal."""

import random
import re
import time
from functools import cache
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import ConvfcError, MalformedInput, Refused
from convfc_cli.files import opened
from convfc_cli.hdf5 import survey
from convfc_cli.hdf5 import tree as trees
from convfc_cli.hdf5.heaps import Heaps
from convfc_cli.hdf5.tree import Group, open_tree
from convfc_cli.models.keras import weights
from tests.support.cli_models import run
from tests.support.hdf5_files import nir, node
from tests.support.hdf5_mutants import Mutable, checksum, files
from tests.support.keras_files import given_input, layer, legacy, ramp, sequential, zipped

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("folder")]

NAME = "file.h5"


def tree(raw: bytes | bytearray | None = None) -> Group:
    if raw is not None:
        Path(NAME).write_bytes(raw)
    with opened(NAME) as source:
        return open_tree(source)


def nested() -> bytes:
    """Three old groups within one another, each with a local heap, and a dataset of one value."""
    content = BytesIO()
    with h5py.File(content, "w", libver="earliest") as file:
        file.create_dataset("a/n/n", data=[[[[1.0]]]], dtype="f4")
    return content.getvalue()


def heaps(raw: bytes) -> list[int]:
    found = [at for at in range(len(raw)) if raw[at : at + 4] == b"HEAP"]
    assert len(found) == 3
    return found


def number(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 8], "little")


def put(raw: bytes, *changes: tuple[int, int]) -> bytes:
    """Numbers of 8 bytes written at some places."""
    changed = bytearray(raw)
    for at, value in changes:
        changed[at : at + 8] = value.to_bytes(8, "little")
    return bytes(changed)


def apart(raw: bytes, shift: int = 0, free: int | None = None) -> bytes:
    """The inner two heaps with one data segment, or two that overlap, at the end of the file.

    HDF5 then has an object of its cache for it, which only one of the heaps knows of.
    """
    _, first, second = heaps(raw)
    raw += bytes(-len(raw) % 8)
    size, start = number(raw, first + 8), number(raw, first + 24)
    end = len(raw)
    raw += raw[start : start + size] + bytes(shift)
    changes = [(first + 24, end), (second + 24, end + shift), (40, len(raw))]
    if free is not None:
        changes += [(first + 16, free), (second + 16, free)]
    return put(raw, *changes)


# Local heaps


def test_heaps_that_share_their_data_are_refused() -> None:
    raw = nested()
    assert tree(raw).names() == ["a"]
    pairs = permutations(heaps(raw), 2)
    shared = [put(raw, (one + 24, number(raw, other + 24)), (one + 16, 1)) for one, other in pairs]
    shared += [apart(raw, shift, free=1) for shift in (0, 8, 80)]
    assert len(shared) == 9
    for content in shared:
        with pytest.raises(MalformedInput, match="the local heaps of two groups overlap"):
            list(tree(content).walk())
        assert run("inspect", NAME).code == 3
    for content in (apart(raw, shift, free) for shift in (0, 8, 80) for free in (None, 0)):
        Path(NAME).write_bytes(content)
        told = run("inspect", NAME).failed(3)
        assert re.search("heaps of two groups overlap|blocks of a local heap have no end", told)


def test_heaps_outside_of_the_file_are_refused() -> None:
    raw = nested()
    inner = heaps(raw)[1]
    for at, value in (
        (inner + 24, len(raw)),
        (inner + 24, 2**64 - 1),
        (inner + 8, len(raw)),
        (inner + 8, 2**62),
    ):
        with pytest.raises(MalformedInput, match="/a: the local heap of a group lies outside"):
            list(tree(put(raw, (at, value))).walk())


def test_free_blocks_that_lead_in_a_circle_are_refused() -> None:
    raw = nested()
    inner = heaps(raw)[1]
    free, start = number(raw, inner + 16), number(raw, inner + 24)
    assert number(raw, start + free) == 1  # the only one
    with pytest.raises(MalformedInput, match="/a: the free blocks of a local heap have no end"):
        list(tree(put(raw, (start + free, free))).walk())


def test_a_header_that_leads_in_a_circle_is_refused() -> None:
    raw = nested()
    with h5py.File(BytesIO(raw)) as file:
        address = int(h5py.h5o.get_info(file["a"].id).addr)
    message = address + 16
    assert raw[message : message + 2] == b"\x11\0"  # the symbol table, of 16 bytes
    circle = put(raw, (message + 8, message), (message + 16, 24))
    circle = circle[:message] + b"\x10\0" + circle[message + 2 :]
    with pytest.raises(MalformedInput, match=r"file\.h5: |file\.h5 is a damaged HDF5 file"):
        list(tree(circle).walk())
    with pytest.raises(OSError, match="the header of a group is larger than the file"):
        Heaps(_Raw(circle)).check(address)


class _Raw:
    def __init__(self, raw: bytes) -> None:
        self._raw, self.size = raw, len(raw)

    def at(self, position: int, count: int) -> bytes:
        return self._raw[position : position + count]


def test_values_that_look_like_heaps_are_values() -> None:
    """Two copies of one file within a file: their heaps say that they have the same addresses."""
    inner = np.frombuffer(nested(), np.uint8)
    content = BytesIO()
    with h5py.File(content, "w", libver="earliest") as file:
        file["one/kernel"] = inner
        file["two/kernel"] = inner
        file["HEAP"] = np.frombuffer(100 * b"HEAP", np.uint8)
    values = [dataset.read().tobytes() for dataset in tree(content.getvalue()).walk()]
    assert values == [100 * b"HEAP", inner.tobytes(), inner.tobytes()]


# What HDF5 does in its child


def test_a_crash_of_hdf5_is_malformed_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same heaps, unchecked."""
    monkeypatch.setattr(Heaps, "check", lambda *_: None)
    crashes = 0
    for shift in (0, 8):
        Path(NAME).write_bytes(apart(nested(), shift))
        done = run("inspect", NAME)
        assert done.code in (0, 2, 3)
        crashes += "file.h5: listing what it holds crashes (signal " in done.err
    assert crashes


def test_hdf5_has_no_file_open_in_our_own_process() -> None:
    root = tree(nested())
    (dataset,) = root.walk()
    assert h5py.h5f.get_obj_count(types=h5py.h5f.OBJ_FILE) == 0
    assert dataset.read().tolist() == [[[[1.0]]]]


def test_a_file_is_listed_once_for_each_time_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    actual = trees.run

    def counted(function: Any, what: str, limits: Any) -> Any:
        listed.append(what)
        return actual(function, what, limits)

    monkeypatch.setattr(trees, "run", counted)
    Path(NAME).write_bytes(nested())
    convfc.read(NAME)
    assert listed == ["file.h5: listing what it holds"]
    convfc.read(NAME)
    assert len(listed) == 2


def test_an_error_is_told_each_time_and_keeps_nothing() -> None:
    with h5py.File(NAME, "w") as file:
        file.attrs["v"] = np.zeros(3, "V3")
    root = tree()
    told = []
    for _ in range(2):
        with pytest.raises(MalformedInput, match="opaque bytes") as caught:
            root.attribute("v")
        told.append(caught.value)
    assert told[0] is not told[1]
    assert root._attributes["v"].__traceback__ is None  # type: ignore[index, union-attr]


# Limits of a file


def test_values_of_a_file_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(NAME, "w") as file:
        for name in "abc":
            file.create_group(name).attrs["v"] = 100 * "x"
    monkeypatch.setattr(survey, "MAX_VALUE_BYTES", 2 * (100 + 16 + survey.ELEMENT))
    root = tree()
    groups = [root.group(name) for name in "abc"]
    assert [group.attribute("v") for group in groups[:2] if group] == 2 * [100 * "x"]
    assert groups[2] is not None
    with pytest.raises(Refused, match="/c: the file has too many attributes and texts: at most"):
        groups[2].attribute("v")


def test_compact_values_count_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    with h5py.File(NAME, "w") as file:
        space = h5py.h5s.create_simple((8,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F64LE, space, plan).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.arange(8.0)
        )
    (dataset,) = tree().walk()
    assert dataset.part(2, 4).tolist() == [2, 3]
    monkeypatch.setattr(survey, "MAX_VALUE_BYTES", 63)
    with pytest.raises(Refused, match="/x: the file has too many attributes"):
        list(tree().walk())


def test_chunks_of_a_file_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(NAME, "w") as file:
        for name in "ab":
            file.create_dataset(name, data=np.arange(10), chunks=(2,))
    monkeypatch.setattr(survey, "MAX_CHUNKS", 9)
    first, second = tree().walk()
    assert first.read().tolist() == list(range(10))
    with pytest.raises(Refused, match="/b has too many chunks: not all of them are looked up"):
        second.read()


def test_long_names_of_weights_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of 22 steps has 22 endings, which are kept: memory quadratic in its length."""
    model = sequential(
        given_input("x", 3, 3, 1), layer("Conv2D", "a", filters=1, kernel_size=[1, 1])
    )
    kernel = ramp(1, 1, 1, 1)
    name = "/".join([*(20 * ["abc"]), "a", "kernel:0"])
    kept = legacy(Path("kept.h5"), model, {"a": [(name, kernel)]})
    stored = zipped(Path("kept.keras"), model, {"layers/conv2d": [kernel]})
    for path in (kept, stored):
        (entry,) = convfc.read(path).entries
        assert entry.error is None
    monkeypatch.setattr(weights, "MAX_NAME_CHARACTERS", len(name) * 22 - 1)
    (entry,) = convfc.read(kept).entries
    assert isinstance(entry.error, Refused)
    monkeypatch.setattr(weights, "MAX_NAME_CHARACTERS", len("layers/conv2d") * 2 - 1)
    with pytest.raises(Refused, match="the names of its weights are too long: at most 25 char"):
        convfc.read(stored)


def test_a_type_of_a_node_is_told_by_its_beginning() -> None:
    path = nir(Path("g.nir"), {"c": node(ramp(1, 1, 3, 3), type="Conv" + 10**6 * "x")})
    (entry,) = convfc.read(path).entries
    assert entry.op == "Conv" + 76 * "x"
    assert str(entry.error) == f"{entry.op} is not read by this version"
    path = nir(Path("g.nir"), {"c": node(ramp(1, 1, 3, 3), padding=10**6 * "x")})
    (entry,) = convfc.read(path).entries
    assert len(str(entry.error)) < 200


def test_graphs_that_hold_each_other_are_refused() -> None:
    conv = {"type": "NIRGraph", "nodes": {"c": node(ramp(1, 1, 3, 3), input_shape=(5, 5))}}
    path = nir(Path("g.nir"), {"one": conv, "two": conv, "three": {"type": "Flatten"}})
    with h5py.File(path, "a") as file:
        nodes = file["node/nodes"]
        nodes["one/nodes/again"] = nodes["two"]
        nodes["two/nodes/again"] = nodes["one"]
    assert "lies more than 64 deep" in run("inspect", path).failed(5)
    with h5py.File(path, "a") as file:
        nodes = file["node/nodes"]
        for number in range(20):
            nodes[f"one/nodes/{number}"] = nodes["two"]
            nodes[f"two/nodes/{number}"] = nodes["one"]
    assert run("inspect", path).code == 5


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_many_chunks_take_time_in_proportion(version: str) -> None:
    """HDF5 goes through all of them for each that it is asked for."""
    count = 40_000
    values = np.arange(2 * count).reshape(2, count)
    with h5py.File(NAME, "w", libver=version) as file:
        file.create_dataset("x", data=values, chunks=(2, 1))
    begun = time.process_time()
    (dataset,) = tree().walk()
    assert np.array_equal(dataset.read(), values)
    assert time.process_time() - begun < 5  # 80 when each was looked for


# Mutants


@cache
def mutable() -> dict[str, Mutable]:
    return dict(files())


def test_checksums_are_those_of_hdf5() -> None:
    """And of Bob Jenkins, who says what those of nothing and of one sentence are."""
    assert checksum(b"") == 0xDEADBEEF
    assert checksum(b"Four score and seven years ago") == 0x17770551
    assert len(mutable()["new"].sealed) > 20


@pytest.mark.parametrize("name", ["old groups", "old", "new", "dense", "NIR"])
def test_mutants_end_in_an_error_of_ours(name: str) -> None:
    """A few dozen, always the same; many thousands were tried by hand."""
    chosen = random.Random(name)
    of = mutable()[name]
    assert len(of.pointers) > 10
    sound, complaints = outcome(of.raw)
    assert 3 not in {error.exit_code for error in complaints}
    changed = 0
    for _ in range(30):
        found, complaints = outcome(of.mutant(chosen))
        changed += found != sound
        assert {error.exit_code for error in complaints} <= {2, 3, 4, 5}
    assert changed > 10


def outcome(raw: bytes) -> tuple[list[str], list[ConvfcError]]:
    """What is read of a file, and the errors that come instead."""
    found: list[str] = []
    complaints: list[ConvfcError] = []

    def tried(of: Any) -> Any:
        try:
            result = of()
        except ConvfcError as error:
            complaints.append(error)
            return []
        found.append(repr(result))
        return result

    for dataset in tried(lambda: list(tree(raw).walk())):
        tried(lambda dataset=dataset: dataset.read().tobytes())
    tried(lambda: convfc.read(NAME).entries)
    return found, complaints
