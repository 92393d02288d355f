"""Matrices as MatrixMarket, `.mtx`: a line `row column value` for each nonzero, counted from 1.

The lines stand row by row, each row by increasing column. The metadata are in the operator file
beside it (`sidecar`).

Source: Boisvert, Pozo & Remington 1996, The Matrix Market Exchange Formats, NISTIR 5935. It has no
text for infinities and NaN; `inf` and `nan` are what SciPy writes and reads.
"""

from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.text import Lines


class MatrixMarket(Lines):
    """Coordinates and values."""

    name = "mtx"
    suffixes = (".mtx",)
    summary = "MatrixMarket text: `scipy.io.mmread` opens it; metadata in the operator file beside"
    magic = b"%%MatrixMarket"
    separator = " "
    first = 1

    def header(self, matrix: Matrix) -> bytes:
        field = "real" if matrix.layer.dtype.kind == "f" else "integer"
        rows, columns = matrix.shape
        sizes = f"{rows} {columns} {matrix.nonzeros}"
        return f"%%MatrixMarket matrix coordinate {field} general\n{sizes}\n".encode()

    def column_first(self, spec: Spec) -> bool:
        return False


FORMAT = MatrixMarket()
