"""Level 1 of a product: every entry against the sum that it should be, within rounding.

The rows of the factors, which `probes` proves bit for bit, are multiplied again in float64. Where
entries stand has to be equal; what they are may differ by one rounding to the dtype of the file,
and by what float64 may lose, which depends on the order of the sums. A dense file cannot tell a
sum of zero from no entry.
"""

from typing import Any

import numpy as np

from convfc_cli.arrays import Array, as_float64
from convfc_cli.errors import WrongContents
from convfc_cli.layers.linear import Slab
from convfc_cli.layers.product import Product, places_of
from convfc_cli.matrices.blocks import Block
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.report import ROUNDING, Finding


class Sums(Check):
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
        layout, last = self._subject.upright, block.first + len(block.indptr) - 1
        expected, scale = self._product.block_with_scale(layout, block.first, last)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = expected.values.astype(self._product.dtype)
        width = self._subject.columns
        places = places_of(expected.indptr, expected.indices, width)
        stored = places_of(block.indptr, block.indices, width)
        wrong = np.setdiff1d(stored, places, assume_unique=True)
        if self._subject.structural:
            missing = np.setdiff1d(places, stored, assume_unique=True)
            wrong = np.sort(np.concatenate((wrong, missing)))
        if not len(wrong):
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

    def _ratio(self, sums: Array, scale: Array, found: Array) -> Array:
        """How far the entries are from these sums, in parts of what rounding explains."""
        with np.errstate(all="ignore"):
            bound = self._unit * np.abs(sums) + self._drift * scale + self._tiny
            compared = np.isfinite(bound)
            ratio: Array = np.where(compared, np.abs(found - sums) / bound, np.inf)
        return ratio

    def finding(self) -> Finding:
        told = (
            f"{self._entries:,} entries where the factors have paths, each at most "
            f"{self._worst:.2g} of what rounding explains"
        )
        return Finding(self.name, True, told, ROUNDING, "the factors", worst=self._worst)


def _at(places: Array, values: Array, place: int) -> Any:
    """The value at a place, or None."""
    found = np.flatnonzero(places == place)
    return values[found[0]] if len(found) else None
