"""HDF5 files that are wrong in their structure: addresses swapped, sizes changed, checksums right.

A flipped byte in a new file ends at a checksum and goes no further into HDF5. Here the checksums
are written anew, so that what they protect is read.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

SIGNATURES = re.compile(
    rb"TREE|SNOD|HEAP|GCOL|OHDR|OCHK|FRHP|FHDB|FHIB|BTHD|BTLF|BTIN|FSHD|FSSE|EAHD|EAIB|EASB|EADB|"
    rb"FAHD|FADB|SMTB|SMLI"
)

UNSEALED = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"FHDB")
"""Structures without a checksum at their end."""

LONGEST = 600
"""Bytes of a structure whose end is looked for by its checksum."""

WORDS = (0, 1, 2, 8, 16, 0xFFFF, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 16, 2**64 - 1)


def checksum(raw: bytes) -> int:
    """Bob Jenkins's lookup3 with a start of 0, as HDF5 has it."""

    def turn(value: int, by: int) -> int:
        return (value << by | value >> (32 - by)) & 0xFFFFFFFF

    a = b = c = (0xDEADBEEF + len(raw)) & 0xFFFFFFFF
    if not raw:
        return c
    rest = raw
    while len(rest) > 12:
        x, y, z = (int.from_bytes(rest[at : at + 4], "little") for at in (0, 4, 8))
        a, b, c = (a + x) & 0xFFFFFFFF, (b + y) & 0xFFFFFFFF, (c + z) & 0xFFFFFFFF
        for by in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & 0xFFFFFFFF) ^ turn(c, by)
            a, b, c = b, (c + b) & 0xFFFFFFFF, a
        rest = rest[12:]
    x, y, z = (int.from_bytes(rest[at : at + 4], "little") for at in (0, 4, 8))
    a, b, c = (a + x) & 0xFFFFFFFF, (b + y) & 0xFFFFFFFF, (c + z) & 0xFFFFFFFF
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - turn(b, by)) & 0xFFFFFFFF
        a, b, c = b, c, a
    return b


class Mutable:
    """A file whose structures, and the places that hold their addresses, are known."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.structures = [(found.start(), found[0]) for found in SIGNATURES.finditer(raw)]
        self.sealed = list(self._sealed())
        with h5py.File(BytesIO(raw)) as file:
            objects = {int(h5py.h5o.get_info(file.id).addr)}
            file.visititems(lambda _, found: objects.add(int(h5py.h5o.get_info(found.id).addr)))
        self.starts = {start: kind for start, kind in self.structures}
        self.starts |= {start: b"object" for start in objects}
        self.pointers = [
            (at, kind)
            for start, kind in sorted(self.starts.items())
            for at in self._occurrences(start.to_bytes(8, "little"))
        ]
        """(place, kind) of what seems to be the address of a structure of this kind."""

    def mutant(self, chosen: random.Random) -> bytes:
        """The file with one to three changes."""
        changed = bytearray(self.raw)
        for _ in range(chosen.choice((1, 1, 2, 3))):
            chosen.choice(CHANGES)(self, changed, chosen)
        for start, end in self.sealed:
            changed[end : end + 4] = checksum(bytes(changed[start:end])).to_bytes(4, "little")
        return bytes(changed)

    def _sealed(self) -> Iterator[tuple[int, int]]:
        """(start, end) of what has its checksum at its end."""
        superblock = [(0, b"")] if self.raw[8] >= 2 else []
        for start, kind in superblock + self.structures:
            if kind in UNSEALED:
                continue
            for end in range(start + 12, min(start + LONGEST, len(self.raw) - 3)):
                stated = self.raw[end : end + 4]
                if checksum(self.raw[start:end]).to_bytes(4, "little") == stated:
                    yield start, end
                    break

    def _occurrences(self, part: bytes) -> Iterator[int]:
        at = self.raw.find(part)
        while at >= 0:
            yield at
            at = self.raw.find(part, at + 1)


def swap_address(of: Mutable, changed: bytearray, chosen: random.Random) -> None:
    """One structure in place of another of its kind."""
    at, kind = chosen.choice(of.pointers)
    same = [start for start, other in of.starts.items() if other == kind]
    changed[at : at + 8] = chosen.choice(same).to_bytes(8, "little")


def any_address(of: Mutable, changed: bytearray, chosen: random.Random) -> None:
    """One structure in place of another, of whatever kind, or a few bytes beside it."""
    at, _ = chosen.choice(of.pointers)
    start = chosen.choice(list(of.starts)) + chosen.choice((0, 0, 0, 8, -8, 32))
    changed[at : at + 8] = max(start, 0).to_bytes(8, "little")


def word(of: Mutable, changed: bytearray, chosen: random.Random) -> None:
    """A size or a number in a structure."""
    start = chosen.choice(list(of.starts)) + chosen.randrange(80)
    size = chosen.choice((1, 2, 4, 8))
    value = chosen.choice(WORDS) % 256**size
    if start + size <= len(changed):
        changed[start : start + size] = value.to_bytes(size, "little")


def flip(of: Mutable, changed: bytearray, chosen: random.Random) -> None:
    """A bit in a structure."""
    at = chosen.choice(list(of.starts)) + chosen.randrange(200)
    if at < len(changed):
        changed[at] ^= 1 << chosen.randrange(8)


def pointed(of: Mutable, changed: bytearray, chosen: random.Random) -> None:
    """An odd address or size where an address or what lies beside it was."""
    at, _ = chosen.choice(of.pointers)
    at += chosen.choice((0, 8, -8, 16))
    if 0 <= at <= len(changed) - 8:
        changed[at : at + 8] = chosen.choice(WORDS).to_bytes(8, "little")


CHANGES = (swap_address, swap_address, any_address, word, flip, pointed)


def _written(fill: Callable[[h5py.File], object], **options: Any) -> bytes:
    content = BytesIO()
    with h5py.File(content, "w", **options) as file:
        fill(file)
    return content.getvalue()


def _old_groups(file: h5py.File) -> None:
    for number in range(3):
        for name in "abcdefghij":
            file.require_group(f"g{number}").create_group(f"{name}{number}")
    file["g1/k"] = np.ones((2, 2, 1, 3), "f4")
    file["g2/again"] = file["g1"]
    file["int/uint/w"] = np.ones((1, 1, 1, 1), "f4")


def _everything(file: h5py.File) -> None:
    values = np.arange(99.0).reshape(11, 9)
    file.attrs.update(model='{"a": 1}', names=["a", "bc"], fixed=np.array([b"x", b"yy"]), n=[1, 2])
    file["a/b/kernel"] = np.ones((3, 3, 2, 4), "f4")
    file["a/b/kernel"].attrs["MATLAB_class"] = np.bytes_("single")
    file["a/text"] = "hello"
    file["record"] = np.zeros(3, [("a", "f4"), ("b", "S3")])
    file["type"] = np.dtype("f4")
    for number, options in enumerate(
        ({}, {"compression": "gzip", "shuffle": True}, {"maxshape": (None, 9)}, {"fillvalue": 3})
    ):
        file.create_dataset(f"c{number}", data=values, chunks=(5, 4), **options)
    file.create_dataset("two", data=values, chunks=(5, 4), maxshape=(None, None))
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_layout(h5d.COMPACT)
    h5d.create(file.id, b"compact", h5t.IEEE_F32LE, h5s.create_simple((2, 2)), plan)


def _dense(file: h5py.File) -> None:
    for number in range(40):
        file.create_group(f"a/group with a name of some length {number}")
        file["a"].attrs[f"attribute {number}"] = number
    file["a"].attrs["long"] = "x" * 5000
    _everything(file)


def _nir(file: h5py.File) -> None:
    file["version"] = "1.0"
    file["node/type"] = "NIRGraph"
    for name in "cd":
        inner = file.create_group(f"node/nodes/{name}")
        inner["type"] = "Conv2d"
        inner["weight"] = np.ones((2, 1, 3, 3), "f4")
        inner["bias"] = np.ones(2, "f4")
        for field in ("stride", "padding", "dilation", "groups"):
            inner[field] = int(field != "padding")
        inner["input_shape"] = np.array([5, 5])
    file["node/nodes/e/type"] = "NIRGraph"
    file["node/nodes/e/nodes"] = file["node/nodes"]


def files() -> Mapping[str, Mutable]:
    """Small files of every kind of structure, by name."""
    return {
        name: Mutable(raw)
        for name, raw in (
            ("old groups", _written(_old_groups, libver="earliest")),
            ("old", _written(_everything, libver="earliest")),
            ("new", _written(_everything, libver="latest", track_order=True)),
            ("dense", _written(_dense, libver="latest")),
            ("free space", _written(_dense, libver="latest", fs_strategy="fsm", fs_persist=True)),
            ("NIR", _written(_nir, libver="earliest")),
        )
    }
