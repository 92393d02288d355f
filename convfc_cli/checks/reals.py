"""Level 4, real inputs: the stored matrix and another runtime within what rounding explains.

The runtime applies the layer, weights and bias as they are, to random reals; M x + b is summed in
float64. Both are sums of the same terms in some order, for which `rounding` has the bound.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.checks.check import Check, Subject, add_product
from convfc_cli.errors import WrongContents
from convfc_cli.layers import Slab
from convfc_cli.matrices.format import Block
from convfc_cli.report import Finding
from convfc_cli.rounding import as_float64, largest_ratio, left_out_note, worst_ratio
from convfc_cli.runtimes.runtime import Original, Runtime

Array = NDArray[Any]


class Reals(Check):
    """The stored matrix and a runtime, applied to the same random reals."""

    name = "reals"

    def __init__(self, subject: Subject, runtime: Runtime, original: Original, random: Any) -> None:
        self._subject, self._original, self._label = subject, original, runtime.label
        self._witness = original.witness(runtime, random)
        if not isinstance(self._witness, str):
            self._x = subject.vector(as_float64(self._witness.x))
            outputs = subject.matrix.layer.index_map.rows
            self._sums, self._scale, self._terms = (np.zeros(outputs) for _ in range(3))

    def expect(self, slab: Slab) -> None:
        pass

    def hold(self, block: Block, part: slice) -> None:
        if isinstance(self._witness, str):
            return
        data = as_float64(block.data)
        for entries, x, total in (
            (data, self._x, self._sums),
            (np.abs(data), np.abs(self._x), self._scale),
            (np.ones_like(data), np.ones_like(self._x), self._terms),
        ):
            add_product(self._subject, block, entries, x, total)

    def finding(self) -> Finding:
        witness, subject = self._witness, self._subject
        if isinstance(witness, str):
            return Finding(self.name, None, witness, against=self._label)
        shape = subject.matrix.layer.output_shape
        if witness.y.shape != shape:
            raise WrongContents(f"{self._label} gives {witness.y.shape}, the layer {shape}")
        y, bias = subject.vector(witness.y), as_float64(subject.matrix.bias)
        with np.errstate(all="ignore"):
            answer = self._sums + bias
            bound = witness.bound(self._terms + 1, self._scale + np.abs(bias), answer)
        worst, wrong, left_out = worst_ratio(y, answer, bound, finite=subject.layer.finite)
        if wrong is not None:
            raise WrongContents(
                f"output {subject.matrix.layout.unflatten(wrong, shape)}: {self._original.name}, "
                f"run by {self._label}, gives {y[wrong]:.9g}, the matrix {answer[wrong]:.9g}"
            )
        told = f"{self._original.name} and the matrix: {largest_ratio(worst)} of the rounding bound"
        compared = True if left_out < y.size else None
        return Finding(
            self.name, compared, told + left_out_note(left_out), "rounding bound", self._label
        )
