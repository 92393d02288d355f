"""A zip's directory is bounded before it is read, whatever number of members it states."""

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from convfc_cli.errors import Refused
from convfc_cli.zips import MAX_DIRECTORY_BYTES, open_zip
from tests.support.cli_models import run


def directory(members: int, name: bytes) -> bytes:
    """The entries of members that are all called the same and have nothing in them."""
    fixed = (b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
    return (struct.pack("<4s6H3L5H2L", *fixed) + name) * members


def crowded(members: int, *, stated: int, zip64: bool) -> bytes:
    """A zip of so many members, of which it states another number."""
    start = b"PK\3\4" + bytes(26)
    entries = directory(members, b"config.json")
    end = b""
    if zip64:
        place = len(start) + len(entries)
        sizes = (stated, stated, len(entries), len(start))
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *sizes)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
        end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    else:
        sizes = (min(stated, 65535), min(stated, 65535), len(entries), len(start))
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *sizes, 0)
    return start + entries + end


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("stated", [1, 100_000])
def test_a_crowded_directory_is_refused_before_it_is_read(
    stated: int, zip64: bool, tmp_path: Path
) -> None:
    content = crowded(100_000, stated=stated, zip64=zip64)
    assert len(content) > 2 * MAX_DIRECTORY_BYTES
    source = io.BytesIO(content)
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match=r"the directory of the zip has \d+ bytes"):
            open_zip(source, "m.zip")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**20
    path = tmp_path / "m.zip"
    path.write_bytes(content)
    for command in ("inspect", "convert", "verify"):
        assert "directory of the zip" in run(command, path).failed(5)


def test_the_crafted_zip_is_one(tmp_path: Path) -> None:
    """Smaller, it is opened, with all its members: what is refused above is its size alone."""
    for zip64 in (False, True):
        with open_zip(io.BytesIO(crowded(1000, stated=1000, zip64=zip64)), "m.zip") as archive:
            assert len(archive.infolist()) == 1000


def test_what_is_in_a_zip_may_be_large() -> None:
    """The bound is for the directory, not for members."""
    content, data = io.BytesIO(), bytes(3 * MAX_DIRECTORY_BYTES)
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a", data)
        with archive.open("b", "w", force_zip64=True) as member:
            member.write(data)
    with open_zip(content, "m.zip") as archive:
        assert archive.read("a") == data
        with archive.open("b") as reader:
            assert reader.read(2 * MAX_DIRECTORY_BYTES) == data[: 2 * MAX_DIRECTORY_BYTES]
