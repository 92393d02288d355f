"""Chunks and filters of an untrusted HDF5 file, and what they expand to without the memory."""

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z

from convfc_cli.errors import MalformedInput, Refused, Unsupported
from convfc_cli.hdf5 import chunks as chunked
from convfc_cli.hdf5 import tree as trees
from tests.support.hdf5_trees import (
    FILTERS,
    NAME,
    Fill,
    first_of,
    hold,
    little_memory,
    the_dataset,
    tree,
)

pytestmark = pytest.mark.usefixtures("folder")


# Chunks and filters


@pytest.mark.slow
@pytest.mark.usefixtures("once_in_place")  # these files are sound
@pytest.mark.parametrize("options", FILTERS)
@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("limits", [None, (None, 30), (None, None)])
def test_chunks_of_every_kind(
    options: dict[str, Any], version: str, limits: tuple[int | None, ...] | None
) -> None:
    random_ = np.random.default_rng(1)
    for values in (
        np.arange(600, dtype=">f4").reshape(20, 30) // 7,
        random_.integers(0, 256, (20, 30), np.uint8),
        random_.normal(size=(20, 30)),
        np.zeros((20, 30), bool),
        np.arange(600, dtype="u2").view("V2").reshape(20, 30),
    ):
        for chunks in ((20, 30), (7, 11), (1, 1), (3, 30)):
            found = the_dataset(
                hold(data=values, chunks=chunks, maxshape=limits, **options), libver=version
            )
            read = found.read()
            assert read.dtype == values.dtype.newbyteorder("=")
            assert read.tolist() == values.tolist()
            assert found.part(5, 9).tolist() == values[5:9].tolist()


def test_what_was_not_written_is_the_fill_value() -> None:
    for filler in (None, 7):

        def fill(file: h5py.File, filler: int | None = filler) -> None:
            found = file.create_dataset(
                "x", (50,), ">i4", chunks=(10,), compression="gzip", fillvalue=filler
            )
            found[20:25] = 1

        expected = np.full(50, filler or 0)
        expected[20:25] = 1
        assert the_dataset(fill).read().tolist() == expected.tolist()
    assert the_dataset(hold(shape=(50,), dtype="i4", fillvalue=7)).read().tolist() == 50 * [7]


def packed(size: int, chunk: bytes, *filters: tuple[int, tuple[int, ...]], mask: int = 0) -> Fill:
    """The dataset "x" of one chunk of bytes, which is stored just so."""

    def fill(file: h5py.File) -> None:
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_chunk((size,))
        for code, values in filters:
            plan.set_filter(code, h5z.FLAG_OPTIONAL, values)
        found = h5d.create(file.id, b"x", h5t.STD_U8LE, h5s.create_simple((size,)), plan)
        found.write_direct_chunk((0,), chunk, mask)

    return fill


DEFLATE = (h5z.FILTER_DEFLATE, (4,))
SHUFFLE = (h5z.FILTER_SHUFFLE, (1,))


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (packed(100, zlib.compress(bytes(99)), DEFLATE), "a chunk of 99 bytes where 100 belong"),
        (packed(100, zlib.compress(bytes(105)), DEFLATE), "not of a chunk of 100"),
        (packed(100, zlib.compress(bytes(100))[:-3], DEFLATE), "not of a chunk"),
        (packed(100, b"nonsense", DEFLATE), "incorrect header check"),
        (packed(100, bytes(70_000)), "70000 bytes are stored for a chunk of 100"),
        (packed(100, bytes(50)), "a chunk of 50 bytes where 100 belong"),
        (packed(100, bytes(200)), "a chunk of 200 bytes where 100 belong"),
        (packed(100, bytes(99), SHUFFLE), "a chunk of 99 bytes"),
    ],
)
def test_chunks_that_are_damaged(fill: Fill, told: str) -> None:
    found = the_dataset(fill)
    with pytest.raises(MalformedInput, match=rf"file\.h5 is a damaged HDF5 file: /x: .*{told}"):
        found.read()


def test_a_chunk_that_a_filter_left_alone() -> None:
    assert the_dataset(packed(3, b"abc", DEFLATE, mask=1)).read().tolist() == [97, 98, 99]


def test_other_filters_are_named() -> None:
    values = np.arange(100)
    for options, told in (
        ({"compression": "szip"}, r"szip \(number 4\)"),
        ({"scaleoffset": 0}, r"scaleoffset \(number 6\)"),
        ({"compression": "lzf"}, r"lzf \(number 32000\)"),
        ({"fletcher32": True}, r"fletcher32 \(number 3\)"),
    ):
        found = the_dataset(hold(data=values, chunks=(100,), **options))
        with pytest.raises(Unsupported, match=f"/x is compressed by filter {told}: only gzip"):
            found.read()
    found = the_dataset(packed(100, bytes(100), (32001, (1,))))
    with pytest.raises(Unsupported, match="/x is compressed by filter number 32001: only gzip"):
        found.read()


# What a file cannot hold


@pytest.mark.slow
def test_bombs_are_refused_without_memory() -> None:
    def stacked(file: h5py.File) -> None:
        bomb = zlib.compress(zlib.compress(zlib.compress(bytes(10**8), 9), 9), 9)
        packed(2**30, bomb, DEFLATE, DEFLATE, DEFLATE)(file)

    def wide(file: h5py.File) -> None:
        packed(2**16, zlib.compress(bytes(10**8)), DEFLATE)(file)

    for fill, told in (
        (
            hold(shape=(9_900_000_000_000,), dtype="f4"),
            "declares 39600000000000 bytes and stores 0",
        ),
        (hold(shape=(2**18 + 1,), dtype="f4"), "declares 1048580 bytes and stores 0"),
        (hold(shape=(10**13,), dtype="f4", chunks=(10**6,)), "declares 40000000000000 bytes"),
        (hold(shape=(2**63 - 1, 2**63 - 1), dtype="f8", chunks=(1, 1)), "and stores 0"),
        (hold(shape=(2**62,), dtype="i1", chunks=(2**31,)), "declares 4611686018427387904 bytes"),
        (hold(shape=(9,), dtype="f4", maxshape=(None,), chunks=(2**25,)), "chunks of 134217728"),
        (stacked, "/x is compressed more than once|declares 1073741824 bytes and stores"),
        (wide, "not of a chunk of 65536"),
    ):
        found = the_dataset(fill)
        with little_memory():
            for look in (found.read, lambda dataset=found: dataset.part(0, 10**14)):
                with pytest.raises((Refused, MalformedInput), match=told):
                    look()


def test_what_is_compressed_twice_is_refused() -> None:
    twice = zlib.compress(zlib.compress(bytes(100)))
    with pytest.raises(Refused, match="/x is compressed more than once: it is not expanded"):
        the_dataset(packed(100, twice, DEFLATE, DEFLATE)).read()


def test_a_dataset_never_written_is_small() -> None:
    assert the_dataset(hold(shape=(2**20,), dtype="i1")).read().sum() == 0
    found = the_dataset(hold(shape=(2**20 + 1,), dtype="i1"))
    with pytest.raises(Refused, match=r"declares 1048577 bytes and stores 0 in a file of \d+"):
        found.part(0, 1)


def test_a_text_never_written_is_small() -> None:
    assert the_dataset(hold(shape=(), dtype="S9")).text() == ""
    with pytest.raises(Refused, match="declares 1048577 bytes and stores 0"):
        the_dataset(hold(shape=(), dtype=f"S{2**20 + 1}")).text()


def test_chunks_that_are_one_and_the_same() -> None:
    """Nine chunks of the last one's bytes, in a file that has only these."""
    size = 10**6

    def fill(file: h5py.File) -> None:
        found = file.create_dataset("x", (9 * size,), "u1", chunks=(size,))
        for start in range(0, 9 * size, size):
            found[start : start + size] = 1

    tree(fill)
    with h5py.File(NAME) as file:
        places = [file["x"].id.get_chunk_info(index).byte_offset for index in range(9)]
    raw = Path(NAME).read_bytes()
    first = min(places)
    raw = raw[:first] + raw[first : first + size] + raw[max(places) + size :]
    for place in places:
        old = place.to_bytes(8, "little")
        raw = raw.replace(old, first.to_bytes(8, "little"))
    end = len(raw).to_bytes(8, "little")
    Path(NAME).write_bytes(raw[:40] + end + raw[48:])
    with pytest.raises(Refused, match="declares 9000000 bytes and stores 9000000 in a file of 10"):
        first_of(tree()).read()


def test_large_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = the_dataset(hold(data=np.ones(1000, "u1"), chunks=(1000,)))
    monkeypatch.setattr(chunked, "MAX_READ_BYTES", 999)
    with pytest.raises(Refused, match="/x declares 1000 bytes in chunks of 1000, 1000 in all"):
        found.part(0, 1)


def test_as_far_as_compression_goes() -> None:
    for options in ({"compression": "gzip", "compression_opts": 9}, {"chunks": (2**22,)}):
        found = the_dataset(hold(data=np.zeros(2**22, "i1"), **options))
        assert found.read().tobytes() == bytes(2**22)


@pytest.mark.slow
def test_stored_bytes_that_the_file_does_not_have() -> None:
    the_dataset(hold(data=np.ones(1000)))
    raw = Path(NAME).read_bytes()
    old = (8000).to_bytes(8, "little")
    shape = (1000).to_bytes(8, "little")
    assert raw.count(old) == 1
    for count in (10**6, 10**12):
        new = raw.replace(old, (8 * count).to_bytes(8, "little"))
        Path(NAME).write_bytes(new.replace(shape, count.to_bytes(8, "little")))
        with little_memory(), pytest.raises((Refused, MalformedInput)):
            first_of(tree()).part(0, 1)


def test_what_is_read_at_once_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    found = the_dataset(hold(data=np.zeros((100, 10), "f4")))
    monkeypatch.setattr(trees, "MAX_READ_BYTES", 400)
    with pytest.raises(
        Refused, match="/x: 4000 bytes are too many to be read at once: at most 400"
    ):
        found.read()
    assert found.part(0, 10).shape == (10, 10)
    with pytest.raises(Refused, match="/x: 440 bytes"):
        found.part(0, 11)


def test_too_many_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "SLACK", 100)
    found = the_dataset(hold(data=np.zeros(101, "i1"), chunks=(1,)))
    with pytest.raises(Refused, match=r"/x has 101 bytes in 101 chunks: so many small ones"):
        found.read()
    assert found.part(0, 100).shape == (100,)


def test_chunks_that_are_mostly_padding() -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset(
            "x", (4096, 1), "u1", maxshape=(None, None), chunks=(1, 2**16), compression="gzip"
        )[:9] = 1

    with pytest.raises(Refused, match="declares 4096 bytes in chunks of 65536, 268435456 in all"):
        the_dataset(fill).read()
