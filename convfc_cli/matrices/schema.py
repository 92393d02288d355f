"""The arrays of the schema `convfc/1`: what a matrix file holds besides its description.

    kernel        (out, in/groups, *spatial)
    kernel_bias   one value an output channel         only where the layer has a bias
    bias          one value an output                 in csr form, as all that follow
    indptr, indices, data    CSR
    kernel_index  for each entry its flat index into `kernel`    only on request

A format adds what its readers know a matrix by.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import Defect
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.streams import Stream, index_dtype
from convfc_cli.taps import IndexMap

Values = NDArray[Any]

INDICES = (np.dtype(np.int32), np.dtype(np.int64))
"""The dtypes that whole numbers are stored in."""

LONGEST_TEXT = 2**22
"""Bytes of metadata that are accepted: a real description has a few thousand."""

FRAME = 8192
"""About the bytes of the metadata and of what a format itself takes."""


@dataclass(frozen=True)
class Member:
    """An array of a file: `chunks` makes its values when they are to be written, not before."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: Callable[[], Iterable[Values]]

    @property
    def nbytes(self) -> int:
        """Bytes of all its values."""
        return prod(self.shape) * self.dtype.itemsize


def whole(name: str, values: Values) -> Member:
    """An array that is there already."""
    return Member(name, values.shape, values.dtype, lambda: [np.ascontiguousarray(values)])


def members(matrix: Matrix) -> Iterator[Member]:
    """The arrays of a matrix, in the order in which they are written."""
    layer, index_map = matrix.layer, matrix.layer.index_map
    yield whole("kernel", layer.kernel)
    if layer.bias is not None:
        yield whole("kernel_bias", layer.bias)
    if matrix.form != "csr":
        return
    yield Member("bias", (index_map.rows,), layer.dtype, partial(_bias, matrix))
    nnz, index = index_map.nnz, np.dtype(index_dtype(index_map.nnz, *matrix.shape))
    lengths = {"indptr": (matrix.shape[0] + 1, index), "indices": (nnz, index)}
    lengths["data"] = (nnz, layer.dtype)
    if matrix.spec.kernel_index:
        lengths["kernel_index"] = (nnz, np.dtype(index_dtype(layer.kernel.size)))
    for name, (length, dtype) in lengths.items():
        yield Member(name, (length,), dtype, partial(_streamed, matrix, name, length))


def _bias(matrix: Matrix) -> list[Values]:
    return [np.ascontiguousarray(matrix.bias)]


def _streamed(matrix: Matrix, name: str, length: int) -> Iterable[Values]:
    rows = matrix.layer.rows(matrix.layout, kernel_index=name == "kernel_index")
    stream: Stream = getattr(rows, name)
    if len(stream) != length:  # a file that says one and holds the other would look damaged
        raise Defect(f"{name} has {len(stream)} elements, where the geometry counts {length}")
    return stream.chunks()


def names(matrix: Matrix) -> set[str]:
    """The names of these arrays: what must be in a file, and all that is ours."""
    return {member.name for member in members(matrix)}


def size(spec: Spec, index_map: IndexMap, dtype: np.dtype[Any]) -> int:
    """About the bytes of a matrix and its metadata, before any weight is read."""
    total = FRAME + (prod(index_map.kernel_shape) + index_map.output_shape[0]) * dtype.itemsize
    shape = spec.shape(index_map)
    if spec.form == "dense":
        return total + prod(shape) * dtype.itemsize
    if spec.form == "operator":
        return total
    index = np.dtype(index_dtype(index_map.nnz, *shape)).itemsize
    entry = dtype.itemsize + index
    if spec.kernel_index:
        entry += np.dtype(index_dtype(prod(index_map.kernel_shape))).itemsize
    return total + index_map.nnz * entry + (shape[0] + 1) * index + index_map.rows * dtype.itemsize
