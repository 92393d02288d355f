"""The local heaps of a file's old groups, checked before HDF5 reads them.

An old group keeps the names of its links in a local heap: a header, and a data segment elsewhere.
HDF5 2.0.0 crashes where two heaps have one data segment, and goes round forever where a list of
free blocks leads back into itself.

Source: HDF5 File Format Specification 3.0, sections III.D (local heaps), IV.A.1.a (object headers
of version 1), IV.A.2.q and r (continuation and symbol table messages).
"""

from bisect import bisect
from collections.abc import Iterator

from convfc_cli.hdf5.chunks import Source

CONTINUATION, SYMBOL_TABLE = 0x10, 0x11
"""Kinds of messages in an object header."""


class Heaps:
    """The data segments of the local heaps that were met, none of which may overlap another."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._segments: list[tuple[int, int]] = []
        """(first byte, byte behind the last), in order."""

    def check(self, group: int) -> None:
        """Check the heap of the group whose object header is at this address, if it has one.

        Raises `OSError`. A group is checked once: its own segment would overlap itself.
        """
        for kind, content in self._messages(group):
            if kind == SYMBOL_TABLE:
                self._check_heap(_number(content, 8))
                return

    def _check_heap(self, address: int) -> None:
        header = self._source.at(address, 32)
        if header[:4] != b"HEAP":
            raise OSError("a group has no local heap where it says")
        size, free, start = (_number(header, place) for place in (8, 16, 24))
        end = start + size
        if end > self._source.size:
            raise OSError("the local heap of a group lies outside of the file")
        after = bisect(self._segments, (start, end))
        if any(
            start < other_end and other_start < end
            for other_start, other_end in self._segments[max(after - 1, 0) : after + 1]
        ):
            raise OSError("the local heaps of two groups overlap")
        self._segments.insert(after, (start, end))
        self._check_free(start, size, free)

    def _check_free(self, start: int, size: int, free: int) -> None:
        """Follow the list of free blocks: each says where the next one is; 1 ends the list."""
        for _ in range(size // 16 + 1):
            if free == 1 or free > size - 16:  # HDF5 itself complains of what lies outside
                return
            free = _number(self._source.at(start + free, 8))
        raise OSError("the free blocks of a local heap have no end")

    def _messages(self, address: int) -> Iterator[tuple[int, bytes | bytearray]]:
        """(kind, content) of the messages of an object header of version 1."""
        prefix = self._source.at(address, 16)
        if prefix[0] != 1:
            return
        blocks = [(address + 16, _number(prefix[:12], 8))]
        left = self._source.size
        for start, size in blocks:
            left -= size
            if left < 0:
                raise OSError("the header of a group is larger than the file")
            block = self._source.at(start, size)
            at = 0
            while at + 8 <= size:
                kind, length = _number(block[at : at + 2]), _number(block[at + 2 : at + 4])
                content = block[at + 8 : at + 8 + length]
                if kind == CONTINUATION:
                    blocks.append((_number(content), _number(content, 8)))
                yield kind, content
                at += 8 + length


def _number(raw: bytes | bytearray, at: int = 0) -> int:
    return int.from_bytes(raw[at : at + 8], "little")
