"""Matrices as an edge list, `.csv`: a line `source,destination,weight` for each nonzero.

The source is an input and the destination an output of the layer, each the place in its flattened
tensor, counted from 0. They stand destination by destination; with `--transpose`, whose rows are
inputs, source by source: it changes the order of the lines and nothing in them. The metadata are in
the operator file beside it (`sidecar`).
"""

from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.text import Lines


class Edges(Lines):
    """Synapses between two populations of neurons."""

    name = "edges"
    suffixes = (".csv",)
    summary = (
        "CSV: source, destination and weight of each edge; metadata in the operator file beside"
    )
    magic = b"source,destination,weight\n"
    separator = ","
    first = 0

    def header(self, matrix: Matrix) -> bytes:
        return self.magic

    def column_first(self, spec: Spec) -> bool:
        return not spec.transpose


FORMAT = Edges()
