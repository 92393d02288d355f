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
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from convfc_cli.arrays import Array, bits
from convfc_cli.errors import Refused
from convfc_cli.layers.slabs import Slab, Weights
from convfc_cli.matrices.blocks import Block
from convfc_cli.proof.check import Check, Subject, products
from convfc_cli.proof.report import Finding

MAX_BYTES = 2**32
"""Limit on the vectors that a proof holds."""


class Probes(Check):
    """The entries as integers, times random integers, against the oracle."""

    name = "entries"

    def __init__(self, subject: Subject, inputs: Sequence[Array], strength: str) -> None:
        self._subject, self._inputs, self._strength = subject, inputs, strength
        self._vectors = [subject.vector(x) for x in inputs]
        self._planes = planes(subject.layer.dtype, explicit_zeros=subject.explicit_zeros)
        self._expected: list[list[Array]] = []

    def expect(self, slab: Slab) -> None:
        self._expected = [[slab.apply(x, plane) for x in self._inputs] for plane in self._planes]

    def hold(self, block: Block, part: slice) -> None:
        for plane, answers in zip(self._planes, self._expected, strict=True):
            row = first_wrong(block, plane(block.data), self._vectors, answers, part)
            if row is not None:
                raise self._subject.wrong_entry(block, row)

    def finding(self) -> Finding:
        promise = f"a wrong file passes with probability at most {self._strength}"
        if not self._strength.startswith("2^-"):
            promise = "with a seed that was given, so nothing is proven against a crafted file"
        detail = f"every bit and every zero, by {len(self._inputs)} random probes modulo 2^64"
        return Finding(self.name, True, f"{detail}: {promise}", self._strength, "the oracle")


def planes(dtype: np.dtype[Any], *, explicit_zeros: bool) -> list[Weights]:
    """The bits of an entry as integers of at most 2**32: one function a 32-bit half.

    The lowest half plus one, so that an entry that is stored as zero differs from one that is not
    stored at all; not so for a dense file, which cannot tell them apart.
    """
    one = np.uint64(1 if explicit_zeros else 0)
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
    if size > MAX_BYTES:
        raise Refused(
            f"a proof of a layer with {inputs} inputs and {outputs} outputs takes {size} bytes, "
            f"more than {MAX_BYTES}: fewer probes take less, and no proof takes none"
        )


def first_wrong(
    block: Block, data: Array, xs: Sequence[Array], ys: Sequence[Array], part: slice
) -> int | None:
    """The first row of the block whose product with some x is not that part of its y."""
    for product, y in zip(products(block, data, xs), ys, strict=True):
        wrong = np.flatnonzero(product != y[part])
        if len(wrong):
            return int(wrong[0])
    return None
