"""Matrices as `.npz` in CSR, the usual form; and operator files. See `npz_base`."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from convfc_cli.files import Input
from convfc_cli.matrices import schema
from convfc_cli.matrices.blocks import CsrReader, Rows, Sequential
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.npz_base import NpzFormat, Values, is_zip, stated_form
from convfc_cli.outline import Outline
from convfc_cli.vocabulary import SPARSE


class Npz(NpzFormat):
    """indptr, indices and data, as scipy has them; nothing of it in operator form."""

    name = "npz"
    preferred = True
    forms = ("csr", "operator")
    summary = "`scipy.sparse.load_npz` opens it; kernel, bias and metadata inside"

    def recognizes(self, source: Input) -> bool:
        """Also what is damaged: every zip that is not clearly one of another form."""
        if not is_zip(source):
            return False
        stated = stated_form(source)
        return stated in self.forms or stated not in SPARSE

    def arrays(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> schema.Arrays:
        return schema.compressed(spec, outline, dtype) if spec.form == "csr" else {}

    def values(self, matrix: Matrix, name: str, shape: tuple[int, ...]) -> Iterable[Values]:
        return schema.values(matrix, name, *shape)

    def reader(self, matrix: Matrix, arrays: Mapping[str, Sequential]) -> Rows:
        return CsrReader(arrays["indptr"], arrays["indices"], arrays["data"], matrix.rows.start)


FORMAT = Npz()
