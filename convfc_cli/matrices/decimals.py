"""Numbers as decimal text, many at a time: written, and read just as they are written.

An integer is its digits. A value is the shortest decimal that reads back to the same bits,
both as what it is and as a double that is then rounded: `0.1`, `-0.0`, `1e-45`, `inf`, `nan`.
The same few weights come again and again in a matrix, so those of late are remembered (`_Memory`).

Many texts are an array with a row of bytes for each, NUL where there is nothing.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from convfc_cli.arrays import Array
from convfc_cli.errors import Unsupported

DIGITS = 18
"""The most that an integer is read with: it then fits 64 bits."""

CHARACTERS = 32
"""The most that a value is read with: -2.2250738585072014e-308 has 24."""

_TEXT = np.dtype(f"S{CHARACTERS}")

_VALUE = re.compile(rb"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?|nan|-?inf")

REMEMBERED = 2**19
"""The most values that are remembered: with their texts some 20 MB."""

_MIX = np.array([1, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
"""Odd numbers that tell texts apart (`_distinct`)."""


class BadLine(Exception):
    """The first line that is not as it is written: its number from 0 on.

    `written` is how its value is written, where it is a number and nothing else is wrong.
    """

    def __init__(self, line: int, written: str = "") -> None:
        super().__init__(line)
        self.line, self.written = line, written


def longest(dtype: np.dtype[Any]) -> int:
    """Characters of the longest value. The few float32 that have to be written as doubles
    (`_texts`) are the longest.
    """
    if dtype.kind == "f":
        return len({4: "-1.1754943508222875e-38", 8: "-2.2250738585072014e-308"}[dtype.itemsize])
    return len(str(np.iinfo(dtype).min))


def whole(numbers: Array) -> Array:
    """Integers from 0 on as texts."""
    width = len(str(int(numbers.max())))
    texts = np.zeros((len(numbers), width), np.uint8)
    left = numbers.astype(np.uint64)
    for place in reversed(range(width)):
        rest = left // np.uint64(10)
        digit = (left - rest * np.uint64(10)).astype(np.uint8) + np.uint8(ord("0"))
        texts[:, place] = digit if place == width - 1 else digit * (left > 0)
        left = rest
    return texts


class Texts:
    """Values as texts."""

    def __init__(self) -> None:
        self._memory = _Memory()

    def __call__(self, values: Array) -> Array:
        """Raises `Unsupported` for a NaN other than the usual one."""
        patterns, inverse = np.unique(_bits(values), return_inverse=True)

        def written(new: Array) -> Array:
            return _texts(patterns[new].view(values.dtype)).astype(_TEXT)

        texts = self._memory.look_up(patterns, written)
        return texts.view(np.uint8).reshape(len(texts), -1)[inverse]


def lines(*parts: Array | str) -> bytes:
    """Lines of these texts, one after another; a character stands in each of them."""
    widths = [1 if isinstance(part, str) else part.shape[1] for part in parts]
    count = max(len(part) for part in parts)
    characters = np.empty((count, sum(widths)), np.uint8)
    start = 0
    for part, width in zip(parts, widths, strict=True):
        characters[:, start : start + width] = ord(part) if isinstance(part, str) else part
        start += width
    return characters.tobytes().translate(None, b"\0")


class Entries:
    """What lines of two integers and a value say."""

    def __init__(self, separator: str, dtype: np.dtype[Any]) -> None:
        self._separator, self._dtype = separator, dtype
        self._memory = _Memory()

    def read(self, text: Array, ends: Array) -> tuple[Array, Array, Array]:
        """(integers, integers, values) of lines that end at `ends`. Raises `BadLine`."""
        starts = np.concatenate(([0], ends[:-1] + 1))
        _check(np.add.reduceat(text == 0, starts) == 0)
        places = np.flatnonzero(text == ord(self._separator))
        _check(np.diff(np.searchsorted(places, np.append(starts, len(text)))) == 2)
        one, other = places.reshape(-1, 2).T
        return (
            _read_whole(text, starts, one),
            _read_whole(text, one + 1, other),
            self._read_values(text, other + 1, ends),
        )

    def _read_values(self, text: Array, starts: Array, stops: Array) -> Array:
        lengths = stops - starts
        _check(lengths <= CHARACTERS)
        keys, distinct, inverse = _distinct(_fields(text, starts, lengths))

        def read(new: Array) -> Array:
            records = np.empty(int(new.sum()), [("text", _TEXT), ("value", self._dtype)])
            records["text"] = distinct[new]
            records["value"] = _values(distinct, new, inverse, self._dtype)
            return records

        records = self._memory.look_up(keys, read)
        if (records["text"] != distinct).any():  # two texts with one key, made on purpose
            records = read(np.ones(len(distinct), bool))
        values: Array = records["value"][inverse]
        return values


class _Memory:
    """Results by key, of which it remembers `REMEMBERED` at most."""

    def __init__(self) -> None:
        self._keys: Array | None = None

    def look_up(self, keys: Array, find: Callable[[Array], Array]) -> Array:
        """The results for these keys, which rise strictly. `find` gets a mask of those that are not
        remembered, and returns theirs.
        """
        if self._keys is None or len(self._keys) + len(keys) > REMEMBERED:
            self._keys, self._results = keys, find(np.ones(len(keys), bool))
            return self._results
        place = np.searchsorted(self._keys, keys)
        new = self._keys.take(place, mode="clip") != keys
        if new.any():
            results = find(new)
            order = np.argsort(np.concatenate((self._keys, keys[new])), kind="stable")
            self._keys = np.concatenate((self._keys, keys[new]))[order]
            self._results = np.concatenate((self._results, results))[order]
            place = np.searchsorted(self._keys, keys)
        return self._results[place]


def _read_whole(text: Array, starts: Array, stops: Array) -> Array:
    lengths = stops - starts
    _check((lengths > 0) & (lengths <= DIGITS))
    digits = _fields(text, starts, lengths)
    within = digits != 0
    digits -= np.uint8(ord("0"))
    _check(((digits <= 9) | ~within).all(axis=1) & ((digits[:, 0] > 0) | (lengths == 1)))
    numbers = digits[:, 0].astype(np.int64)
    for place in range(1, digits.shape[1]):
        numbers = np.where(within[:, place], numbers * 10 + digits[:, place], numbers)
    return numbers


def _values(distinct: Array, new: Array, inverse: Array, dtype: np.dtype[Any]) -> Array:
    """The values that the new ones of some texts say; line k has the text inverse[k]."""
    try:
        values = _numbers(distinct[new], dtype)
    except ValueError:
        right = np.array([_VALUE.fullmatch(value) is not None for value in distinct])
        _check(right[inverse])
        raise
    written = distinct.copy()
    written[new] = _texts(values)
    wrong = (written != distinct)[inverse]
    if wrong.any():
        line = int(np.argmax(wrong))
        value = written[inverse[line]].decode()
        raise BadLine(line, value if _VALUE.fullmatch(distinct[inverse[line]]) else "")
    return values


def _check(right: Array) -> None:
    """Raise unless all lines are right."""
    if not right.all():
        raise BadLine(int(np.argmin(right)))


def _texts(values: Array) -> Array:
    """The texts of values as an array of strings."""
    texts = _shortest(values)
    # A decimal just beside the middle of two float32 becomes, as a double, that middle.
    wrong = np.flatnonzero(_bits(_numbers(texts, values.dtype)) != _bits(values))
    if not len(wrong):
        return texts
    if np.isnan(values[wrong]).any():
        raise Unsupported(
            "a weight is a NaN with a sign or a payload, of which text keeps nothing: .npz does"
        )
    texts = texts.astype(_TEXT)
    texts[wrong] = _shortest(values[wrong].astype(np.float64))
    return texts


def _shortest(values: Array) -> Array:
    return values.astype("S")


def _numbers(texts: Array, dtype: np.dtype[Any]) -> Array:
    """What texts say, read as doubles and rounded; NaN is the usual one. Raises `ValueError`."""
    doubles = texts.astype(np.float64)
    doubles[np.isnan(doubles)] = np.nan
    with np.errstate(over="ignore", invalid="ignore"):
        return doubles.astype(dtype)


def _fields(text: Array, starts: Array, lengths: Array) -> Array:
    """The parts of a text as texts."""
    width = int(lengths.max())
    padded = np.concatenate((text, np.zeros(width, np.uint8)))
    fields: Array = sliding_window_view(padded, width)[starts]
    fields[np.arange(width) >= lengths[:, None]] = 0
    return fields


def _distinct(texts: Array) -> tuple[Array, Array, Array]:
    """Texts as an array of different strings, a key of each, and which of them each is."""
    padded = np.zeros((len(texts), CHARACTERS), np.uint8)
    padded[:, : texts.shape[1]] = texts
    words = padded.view(np.uint64)
    keys, inverse = np.unique(words @ _MIX, return_inverse=True)
    last = np.empty(len(keys), np.intp)
    last[inverse] = np.arange(len(texts))
    if (words != words[last[inverse]]).any():  # two texts with one key, made on purpose
        keys = last = inverse = np.arange(len(texts), dtype=np.uint64)
    return keys, padded[last].view(_TEXT)[:, 0], inverse


def _bits(values: Array) -> Array:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
