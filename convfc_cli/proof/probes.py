"""Level 1, exact random probes: every bit of every entry, and every zero.

Each entry's bits are an integer (`planes`). For inputs r drawn uniformly from [0, 2**64), M r and
the oracle's answer must agree modulo 2**64. If any entry differs, by d with 0 < |d| <= 2**32, then
d r = c (mod 2**64) for one c has at most 2**32 solutions r, so one probe misses it with probability
at most 2**-32, whatever else is wrong; k independent probes with 2**-32k. A right matrix never
fails, whatever its weights: NaN payloads, infinities and -0.0 are bits like any others.

Source: Freivalds 1977, here over the ring Z/2**64, in which unsigned arithmetic is exact, so that
no number of taps is too large.
"""

import hashlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from convfc_cli.arrays import Array, bits
from convfc_cli.errors import Defect, Refused, WrongContents
from convfc_cli.layers.linear import Linear, Slab, Weights
from convfc_cli.layers.product import Product
from convfc_cli.layers.tied import TiedLinear
from convfc_cli.layout import Layout
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof.check import Check, Subject, product
from convfc_cli.proof.report import Finding

LARGEST = 2**32
"""Bytes of the vectors that a proof holds."""

PROBES = 3
"""Probes by default: a wrong matrix passes with probability at most 2**-96."""

MOST_PROBES = 8
"""More would say nothing more: 2**-256 is what their seed has."""


class Probes(Check):
    """The entries as integers, times random integers, against the oracle."""

    name = "entries"

    def __init__(self, subject: Subject, inputs: Sequence[Array], strength: str) -> None:
        self._subject, self._inputs, self._strength = subject, inputs, strength
        self._vectors = [subject.vector(x) for x in inputs]
        self._planes = planes(subject.layer.dtype, structural=subject.structural)
        self._expected: list[list[Array]] = []

    def expect(self, slab: Slab) -> None:
        self._expected = [[slab.apply(x, plane) for x in self._inputs] for plane in self._planes]

    def hold(self, block: Block, part: slice) -> None:
        for plane, answers in zip(self._planes, self._expected, strict=True):
            row = _first_wrong(block, plane(block.data), self._vectors, answers, part)
            if row is not None:
                raise self._subject.wrong_entry(block, row)

    def finding(self) -> Finding:
        promise = f"a wrong file passes with probability at most {self._strength}"
        if not self._strength.startswith("2^-"):
            promise = "with a seed that was given, so nothing is proven against a crafted file"
        told = f"every bit and every zero, by {len(self._inputs)} random probes modulo 2^64"
        return Finding(self.name, True, f"{told}: {promise}", self._strength, "the oracle")


class Factors(Check):
    """Of a product, the rows that its entries are multiplied from: each factor's, as if they were
    stored.
    """

    name = "factors"

    def __init__(
        self, product: Product, layout: Layout, seed: int, probes: int, strength: str
    ) -> None:
        self._product, self._layout, self._strength = product, layout, strength
        self._seed, self._count = seed, probes

    def expect(self, slab: Slab) -> None:
        pass

    def hold(self, block: Block, part: slice) -> None:
        pass

    def finding(self) -> Finding:
        entries = sum(map(self._prove, self._product.factors))
        told = (
            f"{len(self._product.factors)} factors with {entries:,} entries, made anew: every bit "
            f"and every zero, by {self._count} random probes each"
        )
        return Finding(self.name, True, told, self._strength, "the oracle")

    def _prove(self, layer: Linear) -> int:
        subject = Subject(Matrix(layer, Spec(self._layout)), structural=True)
        inputs = [uniform(self._seed, probe, layer.input_shape) for probe in range(self._count)]
        probes = Probes(subject, inputs, self._strength)
        rows = layer.rows(self._layout)
        for slab in layer.slabs(self._layout, subject.most_rows):
            probes.expect(slab)
            stored = rows.block(slab.rows.start, slab.rows.stop)
            try:
                probes.hold(Block(slab.rows.start, *stored), slice(0, len(slab.rows)))
            except WrongContents as error:
                raise Defect(f"the rows of a {layer.kind} are not what it computes") from error
        return layer.nnz


class Numbers(Check):
    """Each entry's kernel_index, as if the flat indices themselves were the weights."""

    name = "kernel_index"

    def __init__(
        self, subject: Subject, inputs: Sequence[Array], strength: str, slabs: Iterator[Slab]
    ) -> None:
        """`slabs` are those of `numbered(subject)`, cut as the layer's own."""
        self._subject, self._size = subject, _numbered(subject.matrix.layer).kernel.size
        self._inputs, self._strength, self._slabs = inputs, strength, slabs
        self._vectors = [subject.vector(x) for x in inputs]
        self._expected: list[Array] = []

    def expect(self, slab: Slab) -> None:
        numbered = next(self._slabs)
        self._expected = [numbered.apply(x, _plus_one) for x in self._inputs]

    def hold(self, block: Block, part: slice) -> None:
        index = block.kernel_index
        assert index is not None
        wrong = np.flatnonzero((index < 0) | (index >= self._size))
        if len(wrong):
            raise WrongContents(
                f"kernel_index has {int(index[wrong[0]])}, beyond the {self._size} weights"
            )
        row = _first_wrong(block, _plus_one(index), self._vectors, self._expected, part)
        if row is not None:
            place = f"{self._subject.words[0]} {block.first + row}"
            raise WrongContents(f"kernel_index of {place} names other kernel elements")

    def finding(self) -> Finding:
        told = "each entry's kernel element, by the same probes"
        return Finding(self.name, True, told, self._strength, "the oracle")


def numbered(subject: Subject) -> Linear:
    """The layer whose rows are checked, with each weight's flat index in place of the weight."""
    layer = _numbered(subject.matrix.layer)
    return layer.adjoint() if subject.transposed else layer


def _numbered(layer: Linear) -> TiedLinear:
    if not isinstance(layer, TiedLinear):
        raise WrongContents(f"kernel_index where the entries of a {layer.kind} are sums")
    return layer.with_kernel(
        np.arange(layer.kernel.size, dtype=np.float64).reshape(layer.kernel.shape)
    )


def planes(dtype: np.dtype[Any], *, structural: bool) -> list[Weights]:
    """The bits of an entry as integers of at most 2**32: one function a 32-bit half.

    The lowest half plus one, so that an entry that is stored as zero differs from one that is not
    stored at all; not so for a dense file, which cannot tell them apart.
    """
    one = np.uint64(1 if structural else 0)
    if dtype.itemsize <= 4:
        return [lambda w: bits(w).astype(np.uint64) + one]
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    return [lambda w: (bits(w) & low) + one, lambda w: bits(w) >> high]


def uniform(seed: int, probe: int, shape: tuple[int, ...]) -> Array:
    """Uniform 64-bit integers: SHAKE-256 of the seed, so that no one without it can tell them."""
    key = seed.to_bytes(max(32, (seed.bit_length() + 7) // 8), "little") + bytes([probe])
    stream = hashlib.shake_256(key).digest(8 * prod(shape))
    return np.frombuffer(stream, np.uint64).reshape(shape)


def check_size(inputs: int, outputs: int, probes: int) -> None:
    """Raise `Refused` where a proof would take too much memory: a vector of the inputs for each
    probe and two more, and one of the outputs.
    """
    size = 8 * (inputs * (probes + 2) + outputs)
    if size > LARGEST:
        raise Refused(
            f"a proof of a layer with {inputs} inputs and {outputs} outputs takes {size} bytes, "
            f"more than {LARGEST}: convert --no-verify, or verify with fewer --probes, takes less"
        )


def _plus_one(numbers: Array) -> Array:
    return numbers.astype(np.uint64) + np.uint64(1)


def _first_wrong(
    block: Block, data: Array, xs: Sequence[Array], ys: Sequence[Array], part: slice
) -> int | None:
    """The first row of the block whose product with some x is not that part of its y."""
    for x, y in zip(xs, ys, strict=True):
        wrong = np.flatnonzero(product(block, data, x) != y[part])
        if len(wrong):
            return int(wrong[0])
    return None
