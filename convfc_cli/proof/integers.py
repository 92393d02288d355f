"""Level 3, small integers: the stored matrix against another runtime, bit for bit.

A sum of float32 numbers is exact, in whatever order, while all of it are integers of at most
2**24 together. So the bits of the weights are taken a few at a time (`_limbs`), the runtime applies
the layer with these numbers for its kernel to integers x, and M x, with the same bits of the
stored entries, has to be equal: NaN, infinities and -0.0 are bits like any others.
"""

from typing import Any

import numpy as np

from convfc_cli.arrays import Array, bits
from convfc_cli.errors import WrongContents
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.slabs import Slab, Weights
from convfc_cli.layers.tied import TiedLinear
from convfc_cli.layout import Layout
from convfc_cli.matrices.blocks import Block
from convfc_cli.proof.check import Check, Subject, add_product
from convfc_cli.proof.report import Finding
from convfc_cli.runtimes.runtime import RunnableLayer, Runtime
from convfc_cli.streams import CHUNK

EXACT = 2**24
"""Integers up to this are exact in float32."""

LEAST = 15
"""Inputs are drawn from 0 to at least this, and from more where few bits leave room for it."""


class Integers(Check):
    """The stored matrix and a runtime, applied to the same integers."""

    name = "integers"

    def __init__(
        self, subject: Subject, runtime: Runtime, original: RunnableLayer, random: Any
    ) -> None:
        self._subject, self._original, self._runtime = subject, original, runtime
        self._limbs: list[Weights] = []
        self._answers: list[Array] = []
        self._sums: list[Array] = []
        layer = subject.matrix.layer
        if not isinstance(layer, TiedLinear):
            self._reason = f"the entries of a {layer.kind} are sums: they have no bits of weights"
            return
        terms = _terms(layer)
        self._width = next((width for width in (8, 4, 2, 1) if _room(terms, width) >= LEAST), 0)
        self._reason = "" if self._width else f"sums of {terms} terms leave no room for it"
        if not self._reason:
            self._most = _room(terms, self._width)
            x = random.integers(0, self._most, layer.input_shape, endpoint=True)
            self._x = subject.vector(x.astype(np.float64))
            self._limbs = _limbs(layer.dtype, self._width, explicit_zeros=subject.explicit_zeros)
            self._ask(layer, x.astype(np.float32))
        self._sums = [np.zeros_like(answer) for answer in self._answers]

    def _ask(self, layer: TiedLinear, x: Array) -> None:
        for limb in self._limbs:
            kernel = limb(layer.kernel).astype(np.float32)
            y = self._original.apply(self._runtime, x[None], kernel)
            if isinstance(y, str):
                self._reason, self._answers = y, []
                return
            if y.shape[1:] != layer.output_shape:
                raise WrongContents(
                    f"{self._runtime.label} gives {y.shape[1:]}, the layer {layer.output_shape}"
                )
            self._answers.append(self._subject.vector(y[0]))

    def expect(self, slab: Slab) -> None:
        pass

    def hold(self, block: Block, part: slice) -> None:
        for limb, total in zip(self._limbs, self._sums, strict=False):
            data = limb(block.data).astype(np.float64)
            add_product(self._subject, block, data, self._x, total)

    def finding(self) -> Finding:
        label = self._runtime.label
        if self._reason:
            return Finding(self.name, None, self._reason, against=label)
        layout, shape = self._subject.matrix.layout, self._subject.matrix.layer.output_shape
        for answer, total in zip(self._answers, self._sums, strict=True):
            wrong = np.flatnonzero(answer != total)
            if len(wrong):
                at = int(wrong[0])
                raise WrongContents(
                    f"output {layout.unflatten(at, shape)}: {self._original.name}, run by {label} "
                    f"on integers, gives {answer[at]:.9g}, the matrix {total[at]:.9g}"
                )
        detail = (
            f"{self._original.name} and the matrix agree on integers up to {self._most}, "
            f"{self._width} bits of the weights at a time"
        )
        return Finding(self.name, True, detail, "bit for bit", label)


def _terms(layer: Linear) -> int:
    """The most terms that an output is a sum of."""
    return max(1, *(int(slab.counts().max()) for slab in layer.slabs(Layout(), CHUNK)))


def _room(terms: int, width: int) -> int:
    """The largest input for which sums of so many terms, each with so many bits, are exact."""
    return EXACT // (terms << width)


def _limbs(dtype: np.dtype[Any], width: int, *, explicit_zeros: bool) -> list[Weights]:
    """The bits of an entry, `width` at a time, the lowest plus one as in `probes.planes`."""

    def limb(shift: int, one: int) -> Weights:
        low = np.uint64((1 << width) - 1)
        return lambda w: (bits(w).astype(np.uint64) >> np.uint64(shift) & low) + np.uint64(one)

    return [limb(k, int(explicit_zeros and not k)) for k in range(0, 8 * dtype.itemsize, width)]
