"""The chunks of an HDF5 dataset, read and expanded here.

HDF5 itself would expand until the compressed bytes end, whatever memory that takes, and some of its
filters crash on bytes that are not theirs. So it is asked where the chunks lie and nothing else;
gzip and shuffle are undone, within the size that the chunk has.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import Refused, Unsupported

MAX_READ_BYTES = 4 * 2**30
"""The most bytes of a dataset that are read at once, and of one chunk."""

MAX_CHUNK_BYTES = 64 * 2**20
"""The most bytes of all chunks of a dataset, with `PADDING` times its own bytes on top."""

PADDING = 32
"""How many times larger chunks may be than what is theirs: each axis may almost double."""

MAX_EXPANSION = 1100
"""The most bytes that one stored byte may stand for: deflate reaches 1032."""

SLACK = 2**16
"""Bytes that a dataset in chunks may declare beyond that, and chunks that any read may touch."""

SMALL_CHUNK = 2**13
"""Bytes of a chunk below which a read may touch no more than `SLACK` chunks."""

DEFLATE, SHUFFLE = 1, 2
"""The filters that are undone, by their numbers."""


class Source(Protocol):
    """The bytes of the file."""

    size: int

    def at(self, position: int, count: int) -> bytes | bytearray:
        """Return `count` bytes from `position` on."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a file says of the chunks of a dataset."""

    steps: tuple[int, ...]
    """The shape of a chunk."""

    filters: list[tuple[int, tuple[int, ...], str]]
    """Number, parameters and name of each filter, in the order of writing."""

    index: NDArray[np.uint64] | None
    """Of each chunk that was written its number, in C order of all, and where it begins, how many
    bytes it has and its filter mask; in order of number. None where there are too many.
    """


class Chunks:
    """The chunks of one dataset.

    `item` are the bytes of an element, which is of `dtype`; `filler` stands where nothing was
    written, and `place` is how messages name the dataset. A damaged chunk raises `ValueError`,
    `OSError` or `zlib.error`.
    """

    def __init__(
        self,
        plan: Plan,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        item: int,
        filler: Any,
        source: Source,
        place: str,
    ) -> None:
        self._shape, self._dtype, self._item, self._filler = shape, dtype, item, filler
        self._source, self._place = source, place
        self._steps, self._filters, self._index = plan.steps, plan.filters, plan.index
        self._last: tuple[tuple[int, ...], NDArray[Any] | None] = ((), None)

    def check(self) -> None:
        """Raise `Unsupported` for filters that are not undone here, `Refused` for large chunks."""
        for code, _, name in self._filters:
            if code not in (DEFLATE, SHUFFLE):
                text = f"{name} (number {code})" if name else f"number {code}"
                raise Unsupported(
                    f"{self._place} is compressed by filter {text}: only gzip and shuffle are "
                    f"undone; write it with these, or with none (h5repack -f NONE)"
                )
        if len({code for code, _, _ in self._filters}) < len(self._filters):
            raise Refused(f"{self._place} is compressed more than once: it is not expanded")
        whole, chunk = math.prod(self._shape) * self._item, math.prod(self._steps) * self._item
        padded = math.prod(grid(self._shape, self._steps)) * chunk
        if chunk > MAX_READ_BYTES or padded > MAX_CHUNK_BYTES + PADDING * whole:
            raise Refused(
                f"{self._place} declares {whole} bytes in chunks of {chunk}, {padded} in all: so "
                f"large ones are not read"
            )

    def most(self, stored: int) -> int:
        """The most bytes that the dataset may declare where so many are stored."""
        return MAX_EXPANSION * stored + SLACK

    def fill(self, values: NDArray[Any], start: int) -> None:
        """Read rows from `start` on into `values`, chunk by chunk."""
        bounds = [(start, start + len(values)), *((0, size) for size in self._shape[1:])]
        spans = [
            range(low - low % step, high, step)
            for (low, high), step in zip(bounds, self._steps, strict=True)
        ]
        count = math.prod(map(len, spans))
        if count > SLACK + values.nbytes // SMALL_CHUNK:
            raise Refused(
                f"{self._place} has {values.nbytes} bytes in {count} chunks: "
                f"so many small ones are not read"
            )
        values[...] = self._filler
        for corner in product(*spans):
            block = self._chunk(corner)
            if block is not None:
                cut = [
                    (low, max(low, at), min(high, at + step), at)
                    for (low, high), at, step in zip(bounds, corner, self._steps, strict=True)
                ]
                there = tuple(slice(first - low, last - low) for low, first, last, _ in cut)
                here = tuple(slice(first - at, last - at) for _, first, last, at in cut)
                values[there] = block[here]

    def _chunk(self, corner: tuple[int, ...]) -> NDArray[Any] | None:
        """One chunk, None if it was never written. The last is kept: parts may be smaller."""
        if self._last[0] == corner:
            return self._last[1]
        stored = self._stored(corner)
        if stored is None:
            return None
        offset, count, mask = stored
        size = math.prod(self._steps) * self._item
        if count > min(self._source.size, size + size // 8 + SLACK):
            raise ValueError(f"{count} bytes are stored for a chunk of {size}")
        block = self._unpacked(self._source.at(offset, count), mask, size)
        self._last = corner, np.frombuffer(block, self._dtype).reshape(self._steps)
        return self._last[1]

    def _stored(self, corner: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Where a chunk begins, how many bytes it has and its filter mask."""
        if self._index is None:
            raise Refused(f"{self._place} has too many chunks: not all of them are looked up")
        counts = grid(self._shape, self._steps)
        number = 0
        for at, step, count in zip(corner, self._steps, counts, strict=True):
            number = number * count + at // step
        row = int(np.searchsorted(self._index[:, 0], np.uint64(number)))
        if row == len(self._index) or int(self._index[row, 0]) != number:
            return None
        _, offset, size, mask = map(int, self._index[row])
        return offset, size, mask

    def _unpacked(self, packed: bytes | bytearray, mask: int, size: int) -> bytes | bytearray:
        """The bytes of a chunk, the filters undone."""
        for index, (code, values, _) in reversed(list(enumerate(self._filters))):
            if mask >> index & 1:  # this chunk did not get smaller by it
                continue
            packed = _inflated(packed, size) if code == DEFLATE else _unshuffled(packed, values[0])
        if len(packed) != size:
            raise ValueError(f"a chunk of {len(packed)} bytes where {size} belong")
        return packed


def grid(shape: Sequence[int], steps: Sequence[int]) -> list[int]:
    """How many chunks there are along each axis.

    >>> grid((10, 4), (4, 4))
    [3, 1]
    """
    return [-(-size // step) for size, step in zip(shape, steps, strict=True)]


def _inflated(packed: bytes | bytearray, most: int) -> bytes:
    """Deflate undone."""
    stream = zlib.decompressobj()
    plain = stream.decompress(packed, most + 1)
    if len(plain) > most or not stream.eof:
        raise ValueError(f"{len(packed)} compressed bytes that are not of a chunk of {most}")
    return plain


def _unshuffled(packed: bytes | bytearray, width: int) -> bytes:
    """Bytes of like place in their elements stood together; what fills no element is last."""
    whole = len(packed) - len(packed) % width
    planes = np.frombuffer(packed, np.uint8, whole).reshape(width, -1)
    return planes.T.tobytes() + packed[whole:]
