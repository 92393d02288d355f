"""The levels of a product of layers: its factors, its entries within rounding, and its outputs.

The rows of the factors are proven bit for bit by probes, and multiplied again in float64. Where
entries stand has to be equal; what they are may differ by one rounding to the dtype of the file,
and by what float64 may lose, which depends on the order of the sums. A dense file cannot tell a
sum of zero from no entry.
"""

from typing import Any

import numpy as np

from convfc_cli.arrays import Array, as_float64
from convfc_cli.errors import Defect, WrongContents
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product
from convfc_cli.layers.slabs import Slab
from convfc_cli.layers.sparse_product import places_of
from convfc_cli.layout import Layout
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.probes import Probes, uniform
from convfc_cli.proof.reals import Reals
from convfc_cli.proof.report import ROUNDING, Finding


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
        detail = (
            f"{len(self._product.factors)} factors with {entries:,} entries, made anew: every bit "
            f"and every zero, by {self._count} random probes each"
        )
        return Finding(self.name, True, detail, self._strength, "the oracle")

    def _prove(self, layer: Linear) -> int:
        subject = Subject(Matrix(layer, Spec(self._layout)), explicit_zeros=True)
        inputs = [uniform(self._seed, probe, layer.input_shape) for probe in range(self._count)]
        probes = Probes(subject, inputs, self._strength)
        rows = layer.matrix(self._layout)
        for slab in layer.slabs(self._layout, subject.most_rows):
            probes.expect(slab)
            stored = rows.block(slab.rows.start, slab.rows.stop)
            try:
                probes.hold(Block(slab.rows.start, *stored), slice(0, len(slab.rows)))
            except WrongContents as error:
                raise Defect(f"the rows of a {layer.kind} are not what it computes") from error
        return layer.nnz


class ProductEntries(Check):
    """The stored entries against the product of the factors' rows."""

    name = "entries"

    def __init__(self, subject: Subject, product: Product) -> None:
        """`product` is the one whose outputs the rows are."""
        self._subject, self._product = subject, product
        self._unit = np.finfo(product.dtype).eps / 2 * (1 + 2.0**-10)
        self._tiny = float(np.finfo(product.dtype).smallest_subnormal)
        self._drift = 2.0**-52 * product.terms
        self._entries = 0
        self._worst = 0.0

    def expect(self, slab: Slab) -> None:
        pass

    def hold(self, block: Block, part: slice) -> None:
        layout, last = self._subject.matrix.layout, block.first + len(block.indptr) - 1
        expected, scale = self._product.block_with_scale(layout, block.first, last)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = expected.values.astype(self._product.dtype)
        width = self._subject.columns
        places = places_of(expected.indptr, expected.indices, width)
        stored = places_of(block.indptr, block.indices, width)
        same = np.array_equal(stored, places)
        wrong = stored[:0] if same else np.setdiff1d(stored, places, assume_unique=True)
        if not same and self._subject.explicit_zeros:
            missing = np.setdiff1d(places, stored, assume_unique=True)
            wrong = np.sort(np.concatenate((wrong, missing)))
        if not len(wrong):
            data = block.data
            if not same:
                data = np.zeros(len(places), block.data.dtype)
                data[np.searchsorted(places, stored)] = block.data
            ratio = self._ratio(expected.values, scale, as_float64(data))
            ratio[(data == rounded) | (np.isnan(data) & np.isnan(rounded))] = 0.0
            wrong = places[~(ratio <= 1)]
            self._entries += len(data)
            self._worst = max(self._worst, float(ratio.max(initial=0.0)))
        if len(wrong):
            row, column = divmod(int(wrong[0]), width)
            want, have = _at(places, rounded, wrong[0]), _at(stored, block.data, wrong[0])
            raise WrongContents(self._subject.entry(block.first + row, column, want, have))

    def _ratio(self, sums: Array, scale: Array, entries: Array) -> Array:
        """How far the entries are from these sums, relative to the rounding bound."""
        with np.errstate(all="ignore"):
            bound = self._unit * np.abs(sums) + self._drift * scale + self._tiny
            compared = np.isfinite(bound)
            ratio: Array = np.where(compared, np.abs(entries - sums) / bound, np.inf)
        return ratio

    def finding(self) -> Finding:
        detail = (
            f"{self._entries:,} entries where the factors have paths, each at most "
            f"{self._worst:.2g} of what rounding explains"
        )
        return Finding(self.name, True, detail, ROUNDING, "the factors", worst=self._worst)


def _at(places: Array, values: Array, place: int) -> Any:
    """The value at a place, or None."""
    matches = np.flatnonzero(places == place)
    return values[matches[0]] if len(matches) else None


class ProductOutputs(Reals):
    """A product and its layers one after another, each by its oracle."""

    name = "product"
