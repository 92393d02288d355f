"""Real inputs: how far two ways of adding the same products may differ, and what may not.

A sum of n products, in any order and at unit roundoff u, differs from the exact one by at most
n u (1 + 2**-20) S + n 2**-150, with S the sum of their magnitudes; the bias is one term more.
Source: Jeannerod & Rump 2013.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from convfc_cli import budget
from convfc_cli.arrays import Array, as_float64
from convfc_cli.errors import Refused
from convfc_cli.layers.linear import Linear
from convfc_cli.layout import Layout
from convfc_cli.streams import CHUNK

MAX_PRODUCTS = 2**31
"""Limit on a layer applied for a check: a few seconds."""


@dataclass(frozen=True)
class RuntimeResult:
    """The original layer run by another runtime: the y it made of x, both without a batch axis.

    `unit` is the unit roundoff of its sums, 2**-24 for float32; `largest` what they can hold:
    outputs whose terms add up to more are left out. `slack` is what rounding a result y itself may
    add, where the output's format is coarser.
    """

    runtime: str
    x: Array
    y: Array
    unit: float
    largest: float
    slack: Callable[[Array], Array] = field(default=lambda y: np.zeros_like(y))
    tiny: float = 2.0**-150
    """What a product may lose by being too small for the dtype of the sums."""

    extra: Array | float = 0.0
    """How much more each y may be off, where other sums than the layer's, or steps that y is made
    in, led to it; infinite where nothing can be said.
    """

    beyond: str = "not finite"
    """What is to be said of outputs that are left out."""

    @classmethod
    def of(cls, runtime: str, x: Array, y: Array) -> "RuntimeResult":
        """What a runtime made of x, in sums of the dtype of both."""
        dtype = x.dtype.name
        unit, largest, tiny = _FORMATS[dtype]
        return cls(runtime, x, y, unit, largest, lambda y: _slack(y, dtype), tiny)

    def bound(self, terms: Array, scale: Array, answer: Array) -> Array:
        """How far each y may be from `answer`, a sum in float64 of so many terms whose magnitudes
        add up to `scale`; infinite where nothing can be said.
        """
        with np.errstate(all="ignore"):
            unit = self.unit + 2.0**-52  # the answer is rounded too
            bound = terms * (unit * (1 + 2.0**-20) * scale + self.tiny) + self.slack(answer)
            bound[~(scale < self.largest)] = np.inf
        return bound


_FORMATS = {
    "float64": (2.0**-53, 2.0**1023, 2.0**-1074),
    "float32": (2.0**-24, 2.0**127, 2.0**-150),
    "float16": (2.0**-11, 2.0**15, 2.0**-150),
    "bfloat16": (2.0**-8, 2.0**127, 2.0**-150),
    "int32": (0.0, 2.0**31, 2.0**-150),
}
"""Unit roundoff of each dtype, half of what it can hold, and what products lose below its range;
of integers, what their sums in float64 lose, and where they wrap round.
"""


def _slack(y: Array, dtype: str) -> Array:
    """What rounding the result itself to a narrow format may add."""
    if dtype not in ("float16", "bfloat16"):
        return np.zeros_like(y)
    return np.abs(y) * _FORMATS[dtype][0] * (1 + 2.0**-10) + 2.0**-25


def bounds(
    layer: Linear, result: RuntimeResult, layout: Layout
) -> Iterator[tuple[slice, Array, Array]]:
    """(which outputs, the layer's answer to the x of `result`, how far its y may be from that), by
    the oracle in float64 and slab by slab, as vectors in the order of the layout.

    Raises `Refused` where that takes too many products.
    """
    spend(layer.outline.products, times=3)  # for the answer, its scale and the number of its terms
    return _bounds(layer, result, layout)


def spend(products: int, times: int = 1) -> None:
    """Take the products of a layer that is applied so many times for a check off the budget of the
    command. Raises `Refused` for more than a check may take, or than the command has left.
    """
    if products > MAX_PRODUCTS:
        raise Refused(
            f"applying it takes about {products:,} products; for a check at most "
            f"{MAX_PRODUCTS:,} are made"
        )
    budget.spend("applying it for a check", products=times * products)


def _bounds(
    layer: Linear, result: RuntimeResult, layout: Layout
) -> Iterator[tuple[slice, Array, Array]]:
    extra = layout.vector(np.broadcast_to(result.extra, layer.output_shape))
    for sums in layer.sums(result.x, layout, CHUNK):
        part = slice(sums.rows.start, sums.rows.stop)
        bound = result.bound(sums.terms, sums.scale, sums.answer) + extra[part]
        yield part, sums.answer, bound


def worst_ratio(
    y: Array, answer: Array, bound: Array, *, finite: bool
) -> tuple[float, int | None, int]:
    """(largest |y - answer|/bound, the first place beyond 1 or None, how many are left out).

    Left out are sums without a finite bound and, of a layer whose weights are not all `finite`,
    those that the runtime gives as not finite.
    """
    y = as_float64(y)
    compared = np.isfinite(bound) if finite else np.isfinite(bound) & np.isfinite(y)
    with np.errstate(all="ignore"):
        ratio = np.where(compared, np.abs(y - answer) / bound, 0.0)
    wrong = np.flatnonzero(~(ratio <= 1))
    first = int(wrong[0]) if len(wrong) else None
    return float(ratio.max(initial=0.0)), first, compared.size - int(np.count_nonzero(compared))


def ratio_text(worst: float, left_out: int, outputs: int, beyond: str = "not finite") -> str:
    """How far apart all outputs were, but those that could not be compared: why, `beyond` says."""
    if left_out == outputs:
        return f"no output could be compared: all {outputs:,} overflow or are {beyond}"
    note = f"; {left_out:,} outputs left out, {beyond}" if left_out else ""
    far = f"at most {worst:.2g} of the rounding bound" if worst else "equal"
    return f"{far}{note}"
