"""Matrices as `.npz` in CSC, by columns: what solvers that factorise take. See `npz_base`.

indptr, indices, data    CSC: those of the transpose in CSR
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from convfc_cli.matrices import schema
from convfc_cli.matrices.blocks import CsrReader, Rows, Sequential
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.npz_base import NpzFormat, Values
from convfc_cli.outline import Outline


class NpzCsc(NpzFormat):
    """The nonzeros by columns."""

    name = "npz-csc"
    forms = ("csc",)
    summary = "the same by columns: `scipy.sparse.load_npz` gives a CSC matrix"
    stores_transpose = True

    def arrays(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> schema.Arrays:
        return schema.compressed(spec.transposed(), outline, dtype)

    def values(self, matrix: Matrix, name: str, shape: tuple[int, ...]) -> Iterable[Values]:
        return schema.values(matrix.transposed(), name, *shape)

    def reader(self, matrix: Matrix, arrays: Mapping[str, Sequential]) -> Rows:
        first = matrix.transposed().rows.start
        return CsrReader(arrays["indptr"], arrays["indices"], arrays["data"], first, "column")


FORMAT = NpzCsc()
