"""Level 4, real inputs: the stored matrix and another runtime within what rounding explains.

The runtime applies the layer, weights and bias as they are, to random reals; M x + b is summed in
float64. Both are sums of the same terms in some order, for which `rounding` has the bound.
"""

from typing import Any

import numpy as np

from convfc_cli.arrays import as_float64
from convfc_cli.errors import Refused, WrongContents
from convfc_cli.layers.slabs import Slab
from convfc_cli.matrices.blocks import Block
from convfc_cli.proof.check import Check, Subject, add_product
from convfc_cli.proof.report import ROUNDING, Finding
from convfc_cli.rounding import bounds, ratio_text, worst_ratio
from convfc_cli.runtimes.runtime import RunnableLayer, Runtime


class Reals(Check):
    """The stored matrix and a runtime, applied to the same random reals."""

    name = "reals"

    def __init__(
        self, subject: Subject, runtime: Runtime, original: RunnableLayer, random: Any
    ) -> None:
        self._subject, self._what, self._label = subject, original.name, runtime.label
        layer = subject.matrix.layer
        try:
            self._result = result = original.run(runtime, random)
            if isinstance(result, str):
                return
            if (result.x.shape, result.y.shape) != (layer.input_shape, layer.output_shape):
                raise WrongContents(
                    f"{self._what}, run by {self._label}, makes {result.y.shape} of "
                    f"{result.x.shape}, the layer {layer.output_shape} of {layer.input_shape}"
                )
            # By the oracle, not by the file that is checked.
            parts = bounds(layer, result, subject.matrix.layout)
        except Refused as error:
            self._result = str(error)
            return
        self._x = subject.vector(as_float64(result.x))
        self._sums = as_float64(subject.vector(layer.bias_tensor()))
        self._bound = np.concatenate([bound for _, _, bound in parts])

    def expect(self, slab: Slab) -> None:
        pass

    def hold(self, block: Block, part: slice) -> None:
        if not isinstance(self._result, str):
            add_product(self._subject, block, as_float64(block.data), self._x, self._sums)

    def finding(self) -> Finding:
        if isinstance(self._result, str):
            return Finding(self.name, None, self._result, against=self._label)
        layer, y = self._subject.matrix.layer, self._subject.vector(self._result.y)
        worst, wrong, left_out = worst_ratio(y, self._sums, self._bound, finite=layer.finite)
        if wrong is not None:
            place = self._subject.matrix.layout.unflatten(wrong, layer.output_shape)
            raise WrongContents(
                f"output {place}: {self._what}, run by {self._label}, gives {y[wrong]:.9g}, "
                f"the matrix {self._sums[wrong]:.9g}"
            )
        ratio = ratio_text(worst, left_out, y.size, self._result.beyond)
        detail = f"{self._what} and the matrix: {ratio}"
        compared = True if left_out < y.size else None
        return Finding(self.name, compared, detail, ROUNDING, self._label, worst=worst)
