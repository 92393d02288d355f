"""A matrix file as a SciPy linear operator, with the index map and the layer on it."""

import os
from functools import cached_property
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator

from convfc_cli.files import opened
from convfc_cli.layers.linear import Linear, place
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.taps import Index, Tap


class MatrixOperator(LinearOperator):
    """M as a SciPy linear operator: products by the layer, rows on demand, and what each entry is.

    It computes from kernel and geometry alone, so it serves operator files as well as stored
    matrices. Whether the stored entries are those, `convfc verify` says.

    Attributes
    ----------
    layer : Linear
        The layer, with its weights.
    layout : Layout
        The order in which inputs and outputs are flattened.
    origin : Origin
        The model file and the layer's name there.

    Examples
    --------
    >>> operator = load("conv1.npz")                       # doctest: +SKIP
    >>> output, input, kernel = operator.entry(0, 1)       # doctest: +SKIP
    """

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self.layer: Linear = matrix.layer
        self.spec: Spec = matrix.spec
        self.layout: Layout = matrix.layout
        self.origin: Origin = matrix.origin
        super().__init__(matrix.layer.dtype, matrix.shape)  # type: ignore[call-arg]

    @cached_property
    def bias(self) -> NDArray[Any]:
        """One value an output, flattened as the outputs are."""
        return self._matrix.bias

    def rows(self, first: int, last: int) -> "csr_array[Any, tuple[int, int]]":
        """Rows [first, last) of the matrix."""
        indptr, indices, data = self._matrix.rows_of.matrix(self.layout).block(first, last)
        return csr_array((data, indices, indptr), shape=(last - first, self.shape[1]))

    def entry(self, row: int, column: int) -> tuple[Index, Index, Index | None]:
        """(output, input, kernel element) of an entry; None for a structural zero.

        Raises `IndexError` outside the matrix.
        """
        row, column = index(row), index(column)
        if self.spec.transpose:
            row, column = column, row
        output = self.layout.unflatten(row, self.layer.output_shape)
        source = self.layout.unflatten(column, self.layer.input_shape)
        return output, source, self.layer.weight_of(output, source)

    def place(self, output: Index, source: Index) -> tuple[int, int]:
        """(row, column) of the entry between an output and an input: the inverse of `entry`.

        Raises `IndexError` outside their shapes.
        """
        row = place(self.layout, output, self.layer.output_shape, "output")
        column = place(self.layout, source, self.layer.input_shape, "input")
        return (column, row) if self.spec.transpose else (row, column)

    def tap(self, row: int, column: int) -> tuple[Tap, Any]:
        """An entry, and its weight; None for a structural zero."""
        output, source, kernel = self.entry(row, column)
        taps = ((tap, w) for tap, w in self.layer.of_output(output) if tap.input == source)
        return next(taps, (Tap(output, source, kernel or ()), None))

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._applied(self._matrix.rows_of, x)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._applied(self._matrix.transposed().rows_of, x)

    def _applied(self, layer: Linear, x: NDArray[Any]) -> NDArray[Any]:
        kind = np.result_type(x.dtype, layer.dtype)
        tensor = self.layout.tensor(x.reshape(-1).astype(kind), layer.input_shape)
        return self.layout.vector(layer.apply(tensor))


def load(path: str | os.PathLike[str], layer: str | None = None) -> MatrixOperator:
    """Open a matrix file as a linear operator.

    Parameters
    ----------
    path : str or PathLike
        A file that `convfc convert` wrote, of any format and form, operator files included.
    layer : str, optional
        Which layer, where the file holds several: its name, its output or `@` and its position.

    Returns
    -------
    MatrixOperator
        M, of shape (outputs, inputs), or its transpose where the file stores that.

    Raises
    ------
    UsageError
        If the file, or the layer in it, does not exist.
    MalformedInput
        If the file is damaged, or convfc did not write it.

    Examples
    --------
    >>> operator = load("conv1.npz")                       # doctest: +SKIP
    >>> y = operator @ x + operator.bias                   # doctest: +SKIP
    """
    with opened(path) as source:
        return MatrixOperator(registry.one(registry.stored(source), layer, source.name).matrix)
