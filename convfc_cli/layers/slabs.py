"""A layer in parts, some of its outputs at a time: what `apply` and the proof go through."""

from collections.abc import Callable
from dataclasses import dataclass

from convfc_cli.arrays import Array

Weights = Callable[[Array], Array]
"""An elementwise function of the weights: `apply` uses what it returns in their place."""


@dataclass(frozen=True)
class Slab:
    """Some consecutive outputs of a layer, in the order of a layout: a way to apply it in parts."""

    rows: range
    apply: Callable[[Array, Weights], Array]
    """`apply(x, weights)` is the vector of those outputs, without bias."""

    counts: Callable[[], Array]
    """How many entries each of their rows has, by the oracle where the entries are copies."""


@dataclass(frozen=True)
class OutputSums:
    """What some outputs are sums of, in float64: what rounding may do to them follows from it."""

    rows: range
    answer: Array
    """The outputs, with their bias."""

    scale: Array
    """The magnitudes of their terms, added up."""

    terms: Array
    """How many roundings each may have gone through."""
