"""The stored kernel_index, by random probes as if the flat indices were the weights."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import WrongContents
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.slabs import Slab
from convfc_cli.layers.tied import TiedLinear
from convfc_cli.matrices.blocks import Block
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.probes import first_wrong
from convfc_cli.proof.report import Finding


class KernelIndex(Check):
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
        row = first_wrong(block, _plus_one(index), self._vectors, self._expected, part)
        if row is not None:
            place = f"{self._subject.words[0]} {block.first + row}"
            raise WrongContents(f"kernel_index of {place} names other kernel elements")

    def finding(self) -> Finding:
        detail = "each entry's kernel element, by the same probes"
        return Finding(self.name, True, detail, self._strength, "the oracle")


def numbered(subject: Subject) -> Linear:
    """The layer whose rows are checked, with each weight's flat index in place of the weight."""
    return replace(subject.matrix, layer=_numbered(subject.matrix.layer)).rows_of


def _numbered(layer: Linear) -> TiedLinear:
    if not isinstance(layer, TiedLinear):
        raise WrongContents(f"kernel_index where the entries of a {layer.kind} are sums")
    return layer.with_kernel(
        np.arange(layer.kernel.size, dtype=np.float64).reshape(layer.kernel.shape)
    )


def _plus_one(numbers: Array) -> Array:
    return numbers.astype(np.uint64) + np.uint64(1)
