"""Level 2, impulses: every entry and every zero compared individually, with no chance in it.

What a matrix does to an input that is 1 in one place is one of its columns. Inputs of one color
(`Linear.colors`) share no output, so the impulses of a whole color are put in at once: an output
that answers reads one of them. Three passes through a runtime tell which, and by which weight:

count   a kernel of ones, impulses of 1: 1 where the output reads one, 0 where it reads none
label   a kernel of ones, each impulse the number of its place: which one it reads
value   the bits of the weights for a kernel, impulses of 1: the entry

Numbers are sent through in parts of 24 bits, which float32 holds exactly; every sum has one term
that is not zero. So the weights are compared as bits: NaN and -0.0 are not exceptions. The answers
need as many probes as there are colors, whatever the size of the image. Outputs are looked at slab
by slab, and inputs channel by channel, each as a small layer of its own (`TiedSlab.strips`): memory
is bounded, and nobody multiplies by the zeros of all other channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convfc_cli.arrays import Array, bits
from convfc_cli.errors import WrongContents
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.slabs import Slab
from convfc_cli.layers.tied import Strip, TiedSlab
from convfc_cli.matrices.blocks import Block
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.report import EVERY_ENTRY, Finding
from convfc_cli.rounding import MAX_PRODUCTS
from convfc_cli.runtimes.runtime import Runtime
from convfc_cli.streams import CHUNK

PART = 24
"""Bits of a number that are sent through at once."""

BATCH = 2**22
"""Elements of the tensors that a runtime is given, or gives, at once."""


FREE = 2**33
"""Products that any layer may take: some seconds."""

EACH = 2**11
"""Products that each entry may take besides, as in a kernel of 10 x 10. A kernel as wide as its
input takes about the square of its entries.
"""


class _NoAnswer(Exception):
    """A runtime that cannot run a layer, or says of it what no layer does: why."""


EXHAUSTIVE_VECTORS = 6
"""Vectors of all inputs beside those of the probes: what stands in which column, and the colors,
labels and light of a strip that is all of them.
"""


@dataclass(frozen=True)
class _Answers:
    """What each row of a slab answers to each color: (colors, rows)."""

    columns: Array
    """The column that the row reads; -1 where it reads none of this color."""

    values: Array
    """The bits of the entry there."""


class Impulses(Check):
    """Every entry against the response to an impulse."""

    name = "impulses"

    def __init__(self, subject: Subject, runtimes: Sequence[Runtime]) -> None:
        """The first of the runtimes that can run the layer is asked."""
        self._subject, self._runtimes = subject, list(runtimes)
        self._asked: list[str] = []
        self._reasons: list[str] = []
        self._most = self._left = 0
        if subject.layer.exact:
            self._most = self._left = FREE + EACH * subject.layer.nnz
        else:
            self._runtimes = []
            self._reasons = [f"the entries of a {subject.layer.kind} are sums, not single weights"]
        self._entries = self._colors = 0
        self._expected: _Answers | None = None
        shape = subject.layer.input_shape
        self._column = subject.matrix.layout.tensor(np.arange(subject.columns), shape)
        self._color = np.zeros(subject.columns, np.int64)

    def expect(self, slab: Slab) -> None:
        self._expected = None
        while self._runtimes and self._expected is None:
            runtime = self._runtimes[0]
            try:
                self._expected = self._answers(runtime, slab)
            except _NoAnswer as reason:
                self._reasons.append(str(reason))
                self._runtimes.pop(0)
            else:
                self._asked += [] if runtime.label in self._asked else [runtime.label]

    def hold(self, block: Block, part: slice) -> None:
        if self._expected is None:
            return
        columns, values = self._expected.columns[:, part], self._expected.values[:, part]
        expected = columns >= 0 if self._subject.explicit_zeros else values != 0
        counts = np.diff(block.indptr)
        rows = np.repeat(np.arange(len(counts)), counts)
        color = self._color[block.indices]
        right = (columns[color, rows] == block.indices) & (values[color, rows] == bits(block.data))
        wrong = np.concatenate((rows[~right][:1], np.flatnonzero(expected.sum(0) != counts)[:1]))
        if len(wrong):
            raise self._wrong(block, int(wrong.min()), columns, values)
        self._entries += len(block.data)

    def finding(self) -> Finding:
        if not self._runtimes:
            return Finding(self.name, None, "; ".join(dict.fromkeys(self._reasons)))
        detail = (
            f"{self._entries:,} entries and every zero, compared individually; inputs lit in "
            f"{self._colors:,} turns"
        )
        refused = f" (not all by the first: {'; '.join(self._reasons)})" if self._reasons else ""
        return Finding(self.name, True, detail + refused, EVERY_ENTRY, " and ".join(self._asked))

    def _answers(self, runtime: Runtime, slab: Slab) -> _Answers:
        """What the runtime has the rows of a slab answer to impulses of every color."""
        assert isinstance(slab, TiedSlab)  # others have no runtime to ask: see __init__
        answers: list[_Answers] = []
        done = 0
        self._color[:] = -1
        for strip in slab.strips():
            layer, column = strip.layer, self._column[strip.reads].ravel()
            colors = layer.colors()
            count = int(colors.max()) + 1
            self._color[column] = colors.ravel() + done
            once = max(1, layer.outline.products)
            self._spend(count * once)
            room = min(BATCH // max(colors.size, len(slab.rows)), MAX_PRODUCTS // once)
            size = max(1, room)
            for start in range(0, count, size):
                batch = np.arange(start, min(start + size, count))
                answers.append(self._batch(runtime, strip, colors, batch, column))
            done += count
        self._colors = max(self._colors, done)
        return _Answers(
            np.concatenate([answer.columns for answer in answers]),
            np.concatenate([answer.values for answer in answers]),
        )

    def _spend(self, products: int) -> None:
        """Take a pass of so many products off what may be made, for each part of what is asked:
        count, label and value. Raises `_NoAnswer` where less is left.
        """
        parts = 2 + -(-8 * self._subject.layer.dtype.itemsize // PART)
        self._left -= parts * products
        if self._left < 0:
            raise _NoAnswer(
                f"its impulses take more than {self._most:,} products, the most that are made for "
                f"its {self._subject.layer.nnz:,} entries"
            )

    def _batch(
        self, runtime: Runtime, strip: Strip, colors: Array, batch: Array, column: Array
    ) -> _Answers:
        """The answers to the colors of a batch; `column` is that of each input of the layer."""
        layer = strip.layer
        lit = (colors == batch.reshape(-1, *(1,) * colors.ndim)).astype(np.float32)
        labels = np.arange(1, colors.size + 1).reshape(colors.shape)
        ones = np.ones(layer.kernel.shape, np.float32)
        weights = bits(layer.kernel)
        count = self._answer(runtime, strip, [(lit, ones)])
        label = self._answer(runtime, strip, [(lit * part, ones) for part in _parts(labels)])
        value = self._answer(runtime, strip, [(lit, part) for part in _parts(weights)])
        if int(count.max()) > 1:
            raise _NoAnswer(f"by {runtime.label} an output reads two inputs that never meet in one")
        silent = count == 0
        if label[silent].any() or value[silent].any() or (label[~silent] == 0).any():
            raise _NoAnswer(f"{runtime.label} answers where nothing was put in")
        if int(label.max()) > colors.size:
            raise _NoAnswer(f"{runtime.label} returned the label of an input that does not exist")
        place = label.astype(np.int64) - 1
        if ((colors.ravel()[place] != batch[:, None]) & ~silent).any():
            raise _NoAnswer(f"{runtime.label} answers by a place where nothing was put in")
        return _Answers(np.where(silent, -1, column[place]), value.astype(weights.dtype))

    def _answer(
        self, runtime: Runtime, strip: Strip, parts: Sequence[tuple[Array, Array]]
    ) -> Array:
        """The runtime's answers to pairs (inputs, kernel), the parts of one number: (probes, rows).

        Raises `_NoAnswer` where it has none.
        """
        layer = strip.layer
        axes = self._subject.matrix.layout.axes(len(layer.output_shape))
        number: Array = np.zeros(0, np.int64)
        for k, (x, kernel) in enumerate(parts):
            y = runtime.apply(layer.with_kernel(kernel), x)
            if isinstance(y, str):
                raise _NoAnswer(y)
            if y.shape != (len(x), *layer.output_shape):
                raise _NoAnswer(
                    f"{runtime.label} gives {y.shape[1:]}, the layer {layer.output_shape}"
                )
            part = y.transpose(0, *(1 + axis for axis in axes)).reshape(len(x), -1)[
                :, strip.outputs
            ]
            with np.errstate(invalid="ignore"):  # what is not a number is caught
                whole = part.astype(np.int64)
            right = (whole == part) & (whole >= 0) & (whole < 2**PART)
            if not right.all():
                raise _NoAnswer(
                    f"{runtime.label} gives {part[~right][0]} to impulses, where an integer "
                    f"of at most {PART} bits is the only right answer"
                )
            number = number | whole << PART * k if k else whole
        return number

    def _wrong(self, block: Block, row: int, columns: Array, values: Array) -> WrongContents:
        """The error that names the first entry of a row that is not as the impulses say."""
        part = slice(int(block.indptr[row]), int(block.indptr[row + 1]))
        stored = dict(zip(block.indices[part].tolist(), bits(block.data[part]), strict=True))
        lit = columns[:, row] >= 0
        expected = dict(zip(columns[lit, row].tolist(), values[lit, row], strict=True))
        if not self._subject.explicit_zeros:
            expected = {column: value for column, value in expected.items() if value}
        column = next(
            column
            for column in sorted(stored.keys() | expected.keys())
            if stored.get(column) != expected.get(column)
        )
        have, want = self._value(stored.get(column)), self._value(expected.get(column))
        return WrongContents(self._subject.entry(block.first + row, column, want, have))

    def _value(self, pattern: Any) -> Any:
        return None if pattern is None else pattern.view(self._subject.layer.dtype)


def most_rows(layer: Linear) -> int:
    """Rows of a slab that has room for what each of them answers to each color."""
    return max(1, CHUNK // layer.most_colors)


def _parts(numbers: Array) -> Iterator[Array]:
    """Unsigned numbers in parts of 24 bits, the lowest first, in float32."""
    numbers = numbers.astype(np.uint64)
    size = int(numbers.max()).bit_length()
    for shift in range(0, max(size, 1), PART):
        part = numbers >> np.uint64(shift) & np.uint64(2**PART - 1)
        yield part.astype(np.float32)
