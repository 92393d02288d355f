"""The stored bias against the layer's: bit for bit where it is a copy, else within rounding."""

import numpy as np

from convfc_cli.arrays import bits
from convfc_cli.errors import WrongContents
from convfc_cli.matrices.format import StoredMatrix
from convfc_cli.proof.report import ROUNDING, Finding
from convfc_cli.rounding import RuntimeResult, worst_ratio


def bias_findings(stored: StoredMatrix) -> list[Finding]:
    """What is found of the bias of a file that stores one. Raises `WrongContents`."""
    bias, matrix = stored.bias(), stored.matrix
    if bias is None:
        return []
    layer, shape = matrix.layer, (matrix.layer.outline.rows,)
    if bias.shape != shape or bias.dtype != layer.dtype:
        raise WrongContents(f"bias is {bias.shape} of {bias.dtype}, not {shape} of {layer.dtype}")
    expected = np.ascontiguousarray(matrix.bias)
    if layer.exact:
        wrong = np.flatnonzero(bits(bias) != bits(expected))
        if not len(wrong):
            return [Finding("bias", True, f"{len(bias):,} values", "bit for bit", "kernel_bias")]
        at = int(wrong[0])
        raise WrongContents(f"bias {at} is {bias[at]!s}, by the kernel_bias {expected[at]!s}")
    zero = np.zeros(layer.input_shape, layer.dtype)
    result = RuntimeResult.of("", zero, zero)
    for sums in layer.sums(zero, matrix.layout, shape[0]):
        bound = result.bound(sums.terms, sums.scale, sums.answer)
        _, place, _ = worst_ratio(bias, sums.answer, bound, finite=layer.finite)
        if place is not None:
            raise WrongContents(
                f"bias {place} is {bias[place]!s}, by the factors {expected[place]!s}"
            )
    return [Finding("bias", True, f"{len(bias):,} values", ROUNDING, "the factors")]
