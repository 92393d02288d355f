"""A zip of stored members, written in one pass and always to the same bytes.

The standard library reads these files, here and everywhere; it does not write them here because
what it writes depends on its version and on whether the output can seek. This writer has one
form: no compression, 64-bit sizes, sizes and checksum after each member, 1980-01-01 as every
date. All bytes between the members follow from their names, sizes and checksums, so that a reader
can tell a damaged file by any one byte (`skeleton`).

Source: PKWARE's APPNOTE 6.3, sections 4.3 (records) and 4.5.3 (64-bit sizes).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

Chunk = bytes | memoryview | NDArray[Any]

VERSION = 45  # 64-bit sizes
FLAGS = 0x0808  # sizes after the data; names in UTF-8
DATE = 0x0021  # 1980-01-01
BIG = 0xFFFFFFFF  # "see the 64-bit field"


class Sink(Protocol):
    """Anything that bytes can be written to."""

    def write(self, data: Any, /) -> int | None:
        """Take the bytes."""


@dataclass(frozen=True)
class ZipMember:
    """A finished member: its name, its size in bytes and the CRC-32 of its content."""

    name: str
    size: int
    crc: int


class StoredZip:
    """Writes members one after another to an output that need not seek."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._members: list[ZipMember] = []

    def add(self, name: str, chunks: Iterable[Chunk]) -> None:
        """Write one member, as its chunks come."""
        write_all(self._out, _local_header(name))
        size = crc = 0
        for chunk in chunks:
            view = _bytes(chunk)
            crc = zlib.crc32(view, crc)
            size += len(view)
            write_all(self._out, view)
        self._members.append(ZipMember(name, size, crc))
        write_all(self._out, _descriptor(self._members[-1]))

    def close(self) -> None:
        """Write the directory; the file is then complete."""
        write_all(self._out, _directory(self._members))


def skeleton(members: Iterable[ZipMember]) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of all that stands in such a file beside the members' contents, in order."""
    members = list(members)
    offset = 0
    for member in members:
        header = _local_header(member.name)
        yield offset, header
        offset += len(header) + member.size
        descriptor = _descriptor(member)
        yield offset, descriptor
        offset += len(descriptor)
    yield offset, _directory(members)


def write_all(out: Sink, data: Chunk) -> None:
    """Write every byte: an unbuffered file may take fewer at a time."""
    view = _bytes(data)
    while view:
        written = out.write(view)
        view = view[len(view) if written is None else written :]


def _bytes(data: Chunk) -> memoryview:
    view = data if isinstance(data, memoryview) else memoryview(data)  # type: ignore[arg-type]
    return view.cast("B") if view.nbytes else memoryview(b"")


def _local_header(name: str) -> bytes:
    encoded = name.encode()
    extra = struct.pack("<HHQQ", 1, 16, 0, 0)
    fixed = struct.pack(
        "<4sHHHHHLLLHH",
        *(b"PK\3\4", VERSION, FLAGS, 0, 0, DATE, 0, BIG, BIG, len(encoded), len(extra)),
    )
    return fixed + encoded + extra


def _descriptor(member: ZipMember) -> bytes:
    return struct.pack("<4sLQQ", b"PK\7\x08", member.crc, member.size, member.size)


def _directory(members: list[ZipMember]) -> bytes:
    records, offset = [], 0
    for member in members:
        name = member.name.encode()
        extra = struct.pack("<HHQQQ", 1, 24, member.size, member.size, offset)
        records.append(
            struct.pack(
                "<4sHHHHHHLLLHHHHHLL",
                *(b"PK\1\2", VERSION, VERSION, FLAGS, 0, 0, DATE, member.crc, BIG, BIG),
                *(len(name), len(extra), 0, 0, 0, 0, BIG),
            )
            + name
            + extra
        )
        offset += len(_local_header(member.name)) + member.size + len(_descriptor(member))
    central = b"".join(records)
    count = len(members)
    end = struct.pack(
        "<4sQHHLLQQQQ",
        *(b"PK\6\6", 44, VERSION, VERSION, 0, 0, count, count, len(central), offset),
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset + len(central), 1)
    tail = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, BIG, BIG, 0)
    return central + end + locator + tail
