"""Long arrays as trees of short runs, repeated: what a sparse matrix's three arrays are made of.

A convolution's matrix repeats itself: neighboring outputs read the same kernel elements from
shifted inputs. So `data`, `indices` and `indptr` are written down as a small tree of *runs*

    Repeat(child, count, step)     child, child + step, child + 2 step, ...
    Series(lengths, child, shifts) one run after another, each with its shift
    Lanes(child, count)            the same run for lane 0, 1, 2, ... (an output channel each)

over leaves that the builder supplies. A `Stream` renders any stretch of such a tree into any
buffer: into one array, chunk by chunk into a file, or a single row. There is no gather, no sort and
no index arithmetic for single elements: all that is left is copying and adding a constant.

A run writes into a two-dimensional `out` of shape (lanes, elements), so that short runs of many
channels are written by one NumPy call.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Out = NDArray[Any]

TEMPLATE = 4096
"""A run is doubled in place up to this many elements before it serves as the template of the rest:
shorter rows cost NumPy more to step over than to copy."""

CACHED = 2**21
"""A run longer than this is rendered again rather than copied: its template has left the cache."""

BATCH = 2**16
"""Lanes are rendered together up to this many elements."""

CHUNK = 2**20
"""Elements in a chunk of `Stream.chunks`: 4 or 8 MB."""


class Run(ABC):
    """A sequence of `length` elements for each lane."""

    length: int

    @abstractmethod
    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        """Write elements [start, start + out.shape[1]) of these lanes, plus `base`, into `out`."""


@dataclass(frozen=True)
class Literal(Run):
    """A short array as it stands, the same for every lane."""

    values: NDArray[np.integer[Any]]

    @property
    def length(self) -> int:  # type: ignore[override]
        """The number of values."""
        return len(self.values)

    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        """Write the values, the same for every lane."""
        np.add(self.values[start : start + out.shape[1]], base, out=out, casting="same_kind")


@dataclass(frozen=True)
class Repeat(Run):
    """`child`, `count` times, each time `step` more."""

    child: Run
    count: int
    step: int = 0

    @cached_property
    def length(self) -> int:  # type: ignore[override]
        """The elements of all copies."""
        return self.count * self.child.length

    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        """Render one copy as a template and repeat it, unless it is longer than the cache."""
        child, size = self.child, out.shape[1]
        copy, offset = divmod(start, child.length)
        done = 0
        if offset:
            done = min(child.length - offset, size)
            child.write(out[:, :done], offset, base + copy * self.step, lanes)
            copy += 1
        whole = (size - done) // child.length
        if whole:
            end = done + whole * child.length
            self._copies(out[:, done:end], whole, base + copy * self.step, lanes)
            copy, done = copy + whole, end
        if done < size:
            child.write(out[:, done:], 0, base + copy * self.step, lanes)

    def _copies(self, out: Out, whole: int, base: int, lanes: slice) -> None:
        length = self.child.length
        if length > CACHED:
            for copy in range(whole):
                self.child.write(
                    out[:, copy * length : (copy + 1) * length], 0, base + copy * self.step, lanes
                )
            return
        self.child.write(out[:, :length], 0, base, lanes)
        ready = 1
        while ready < whole and ready * length < TEMPLATE:
            more = min(ready, whole - ready)
            self._copy(out[:, : more * length], out[:, ready * length :][:, : more * length], ready)
            ready += more
        template = out[:, : ready * length]
        blocks, rest = divmod(whole, ready)
        if blocks > 1:
            view = out[:, : blocks * ready * length].reshape(len(out), blocks, -1, copy=False)
            if self.step:
                steps = np.arange(1, blocks, dtype=out.dtype) * (ready * self.step)
                np.add(view[:, :1], steps[:, None], out=view[:, 1:])
            else:
                view[:, 1:] = view[:, :1]
        if rest:
            self._copy(template[:, : rest * length], out[:, -rest * length :], blocks * ready)

    def _copy(self, source: Out, target: Out, copies: int) -> None:
        if self.step:
            np.add(source, copies * self.step, out=target)
        else:
            target[...] = source


class Series(Run):
    """Runs one after another; run k is made by `child(k)` when it is needed, and `shifts[k]` added.

    The lengths are known without making the runs, so a tree of any size costs nothing until a
    stretch of it is written.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        child: Callable[[int], Run],
        shifts: Sequence[int] | None = None,
    ) -> None:
        self.starts = [0, *accumulate(lengths)]
        self.length = self.starts[-1]
        self._make = child
        self._made: dict[int, Run] = {}
        self._shifts = shifts

    def _child(self, k: int) -> Run:
        child = self._made.get(k)
        if child is None:
            if len(self._made) >= 64:  # a wide kernel's borders: keep the tree small
                self._made.clear()
            child = self._made[k] = self._make(k)
        return child

    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        """Write the children that the stretch meets, each with its shift."""
        k = bisect_right(self.starts, start) - 1
        done, size = 0, out.shape[1]
        while done < size:
            offset = start + done - self.starts[k]
            take = min(self.starts[k + 1] - self.starts[k] - offset, size - done)
            if take:
                shift = base + self._shifts[k] if self._shifts else base
                self._child(k).write(out[:, done : done + take], offset, shift, lanes)
            done, k = done + take, k + 1


@dataclass(frozen=True)
class Lanes(Run):
    """`child` once for each of `count` lanes, one lane after another."""

    child: Run
    count: int

    @cached_property
    def length(self) -> int:  # type: ignore[override]
        """The elements of all lanes."""
        return self.count * self.child.length

    def write(self, out: Out, start: int, base: int, lanes: slice) -> None:
        """Write lane after lane, short ones by one call."""
        length, size = self.child.length, out.shape[1]
        done = 0
        while done < size:
            lane, offset = divmod(start + done, length)
            batch = min((size - done) // length, max(1, BATCH // length)) if not offset else 0
            if batch:
                view = out[0, done : done + batch * length].reshape(batch, length, copy=False)
                self.child.write(view, 0, base, slice(lane, lane + batch))
                done += batch * length
            else:
                take = min(length - offset, size - done)
                part = out[:, done : done + take]
                self.child.write(part, offset, base, slice(lane, lane + 1))
                done += take


@dataclass(frozen=True)
class Stream:
    """A run as an array that need not exist: any stretch of it can be written, at any time."""

    run: Run
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.run.length

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.run.length * self.dtype.itemsize

    def write(self, out: Out, start: int = 0) -> None:
        """Fill the one-dimensional, contiguous `out` with elements [start, start + len(out))."""
        if start < 0 or start + len(out) > self.run.length:
            raise IndexError(f"[{start}, {start + len(out)}) is beyond {self.run.length} elements")
        if len(out):
            self.run.write(out.reshape(1, -1, copy=False), start, 0, slice(0, 1))

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """Elements [start, stop) as a new array."""
        out = np.empty(stop - start, self.dtype)
        self.write(out, start)
        return out

    def array(self) -> NDArray[Any]:
        """The whole array."""
        return self.part(0, self.run.length)

    def chunks(self, size: int = CHUNK) -> Iterator[NDArray[Any]]:
        """The array in order, `size` elements at a time, in one buffer that is used again."""
        buffer = np.empty(min(size, self.run.length), self.dtype)
        for start in range(0, self.run.length, size):
            out = buffer[: min(size, self.run.length - start)]
            self.write(out, start)
            yield out


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix in CSR form as three streams: row r holds entries [indptr[r], indptr[r + 1]).

    Column indices increase strictly within a row. `kernel_index`, where there is one, gives for
    each entry the flat index of the kernel element that it is a copy of.
    """

    shape: tuple[int, int]
    data: Stream
    indices: Stream
    indptr: Stream
    kernel_index: Stream | None = None

    @property
    def nnz(self) -> int:
        """The number of stored entries."""
        return len(self.data)

    def block(self, first: int, last: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(indptr, indices, data) of rows [first, last), indptr counted from 0."""
        indptr = self.indptr.part(first, last + 1)
        start, stop = int(indptr[0]), int(indptr[-1])
        return indptr - indptr[0], self.indices.part(start, stop), self.data.part(start, stop)

    def row_of(self, entry: int) -> int:
        """The row that an entry stands in."""
        low, high = 0, self.shape[0]
        while high - low > 1:
            middle = (low + high) // 2
            if int(self.indptr.part(middle, middle + 1)[0]) <= entry:
                low = middle
            else:
                high = middle
        return low


def index_dtype(*sizes: int) -> DTypeLike:
    """int32 while every index and count fits, int64 beyond."""
    return np.int32 if max(sizes) < 2**31 else np.int64
