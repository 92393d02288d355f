"""What the kinds that have a line of text for each nonzero share: they are written row by row.

A line is the two places and the value (`decimals`), and nothing else is taken for one: no blank
line, no comment, no sign, zero or digit more than is written.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import ConvfcError, MalformedInput, WrongContents
from convfc_cli.files import Input
from convfc_cli.matrices import decimals
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.format import Progress
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.sidecar import StoredWithSidecar, WithoutMetadata
from convfc_cli.matrices.stored_zip import Sink, write_all
from convfc_cli.outline import Outline
from convfc_cli.streams import CHUNK

LINES = 2**15
"""Lines that are written, or read, together."""

PIECE = 2**20
"""Bytes that are read together; no line is as long."""

_SIZES = re.compile(rb"[0-9]+( [0-9]+)*")


class Lines(WithoutMetadata):
    """A header, and a line for each nonzero."""

    forms = ("csr",)

    magic: bytes
    """What every file begins with."""

    separator: str
    """What stands between the numbers of a line."""

    first: int
    """What rows and columns are counted from."""

    @abstractmethod
    def header(self, matrix: Matrix) -> bytes:
        """The lines before the first entry."""

    @abstractmethod
    def column_first(self, spec: Spec) -> bool:
        """Whether the column stands before the row."""

    def recognizes(self, source: Input) -> bool:
        return source.head.startswith(self.magic)

    def own_size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> int:
        places = sum(len(str(size)) for size in spec.shape(outline))
        line = places + decimals.longest(dtype) + len("  \n")
        return 128 + outline.nnz * line

    def write(self, matrices: Sequence[Matrix], out: Sink, progress: Progress) -> None:
        (matrix,) = matrices
        write_all(out, self.header(matrix))
        swapped, texts = self.column_first(matrix.spec), decimals.Texts()
        for rows, columns, values in _entries(matrix):
            places = (columns, rows) if swapped else (rows, columns)
            one, other = (decimals.whole(place + self.first) for place in places)
            separator = self.separator
            text = decimals.lines(one, separator, other, separator, texts(values), "\n")
            write_all(out, text)
            progress(len(text))

    def stored(self, source: Input, matrix: Matrix, beside: str) -> "_StoredLines":
        return _StoredLines(self, source, matrix, beside)


def _entries(matrix: Matrix) -> Iterator[tuple[Array, Array, Array]]:
    """(rows, columns, values) of all entries, `LINES` at a time."""
    sparse = matrix.rows_of.matrix(matrix.layout)
    for first in matrix.rows[::CHUNK]:
        indptr = sparse.indptr.part(first, min(first + CHUNK, matrix.rows.stop) + 1)
        last = int(indptr[-1])
        for start in range(int(indptr[0]), last, LINES):
            stop = min(start + LINES, last)
            rows = first + _rows_of(indptr, start, stop)
            yield rows, sparse.indices.part(start, stop), sparse.data.part(start, stop)


def _rows_of(indptr: Array, start: int, stop: int) -> Array:
    """The row of each of the entries [start, stop)."""
    low = int(np.searchsorted(indptr, start, side="right")) - 1
    high = int(np.searchsorted(indptr, stop, side="left"))
    bounds = indptr[low : high + 1].clip(start, stop)
    return np.repeat(np.arange(low, high), np.diff(bounds))


class _StoredLines(StoredWithSidecar):
    explicit_zeros = True

    def __init__(self, kind: Lines, source: Input, matrix: Matrix, beside: str) -> None:
        super().__init__(source, matrix)
        header = kind.header(matrix)
        source.file.seek(0)
        content = source.file.read(len(header))
        if content != header:
            raise _header_error(source, header, beside)
        self._text = _Text(source, header.count(b"\n") + 1)
        self._reader = decimals.Entries(kind.separator, matrix.layer.dtype)
        self._first, self._swapped = kind.first, kind.column_first(matrix.spec)
        self._row = matrix.rows.start

    def rows(self, counts: Array) -> Iterator[Block]:
        ends = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        row = 0
        while row < len(counts):
            fits = int(np.searchsorted(ends, ends[row] + LINES, side="right")) - 1
            last = max(row + 1, fits)
            indptr = ends[row : last + 1] - ends[row]
            first = self._row
            columns, values = self._entries(indptr)
            self._row += last - row
            yield Block(first, indptr, columns, values)
            row = last

    def finish(self) -> None:
        if len(self._text.lines(1)[1]):
            raise MalformedInput(f"{self.name} goes on beyond its last entry")

    def _entries(self, indptr: Array) -> tuple[Array, Array]:
        """(columns, values) of the next rows."""
        columns: list[Array] = [np.empty(0, np.int64)]
        values: list[Array] = [np.empty(0, self.matrix.layer.dtype)]
        done, count = 0, int(indptr[-1])
        while done < count:
            line = self._text.line
            rows, *entries = self._read(min(count - done, LINES))
            expected = self._row + _rows_of(indptr, done, done + len(rows))
            wrong = np.flatnonzero(rows != expected)
            if len(wrong):
                row, actual = int(expected[wrong[0]]), int(rows[wrong[0]])
                size = int(indptr[row - self._row + 1] - indptr[row - self._row])
                raise WrongContents(
                    f"row {row} has not the {size} entries that the geometry gives it: line "
                    f"{line + int(wrong[0])} is of row {actual}"
                )
            columns.append(entries[0])
            values.append(entries[1])
            done += len(rows)
        return np.concatenate(columns), np.concatenate(values)

    def _read(self, most: int) -> tuple[Array, Array, Array]:
        """(rows, columns, values) of the next lines, at most so many."""
        line = self._text.line
        text, ends = self._text.lines(most)
        if not len(ends):
            raise MalformedInput(f"{self.name} is cut short: it ends before its last entry")
        try:
            one, other, values = self._reader.read(text, ends)
        except decimals.BadLine as bad:
            start = int(ends[bad.line - 1]) + 1 if bad.line else 0
            shown = bytes(text[start : min(int(ends[bad.line]), start + 80)])
            what = f"{self.name}: line {line + bad.line} is {shown!r}"
            if bad.written:
                raise WrongContents(f"{what}, where the value is written {bad.written}") from None
            raise MalformedInput(f"{what}, which is not an entry as they are written") from None
        rows, columns = (other, one) if self._swapped else (one, other)
        return rows - self._first, columns - self._first, values


def _header_error(source: Input, header: bytes, beside: str) -> ConvfcError:
    lines = header.splitlines()
    actual = source.head[: len(header) + 80].split(b"\n")
    for number, line in enumerate(lines):
        shown = actual[number][:80] if number < len(actual) else b""
        if shown == line and number < len(actual) - 1:
            continue
        what = f"{source.name}: line {number + 1} is {shown!r}, not {line!r}"
        if number and number < len(actual) - 1 and _SIZES.fullmatch(shown):
            return WrongContents(f"{what} as by {beside}")
        return MalformedInput(what)
    raise AssertionError


class _Text:
    """The lines of untrusted text, from front to back and a few at a time."""

    def __init__(self, source: Input, line: int) -> None:
        self._name, self._file = source.name, source.file
        self.line = line
        """The number of the next line."""
        self._text = np.empty(0, np.uint8)
        self._ends = np.empty(0, np.intp)

    def lines(self, most: int) -> tuple[Array, Array]:
        """Some lines, at most so many, and where each of them ends; none at the end."""
        if not len(self._ends):
            self._more()
        ends, self._ends = self._ends[:most], self._ends[most:]
        size = int(ends[-1]) + 1 if len(ends) else 0
        text, self._text = self._text[:size], self._text[size:]
        self._ends = self._ends - size
        self.line += len(ends)
        return text, ends

    def _more(self) -> None:
        more = np.frombuffer(self._file.read(PIECE), np.uint8)
        self._text = np.concatenate((self._text, more))
        self._ends = np.flatnonzero(self._text == ord("\n"))
        if len(self._text) and not len(self._ends):
            raise MalformedInput(
                f"{self._name}: line {self.line} has no end: the file is cut short or damaged"
            )
