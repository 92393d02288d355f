"""The arrays of the schema `convfc/1`: what a matrix file holds besides its description.

    kernel        of a convolution (out, in/groups, *spatial); what else a layer keeps is
    kernel_bias   in its kind's module: a gather's `source`, a product's factors
    bias          one value an output                 in csr form, as all that follow
    indptr, indices, data    CSR
    kernel_index  for each entry its flat index into `kernel`    only on request

A format adds what its readers know a matrix by: an npz `format`, `shape` and `_is_array`, as SciPy
has them.
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
from convfc_cli.outline import Outline
from convfc_cli.streams import Stream, index_dtype

Values = NDArray[Any]

Arrays = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and dtype of arrays, by name, in the order in which they are written."""

INDICES = (np.dtype(np.int32), np.dtype(np.int64))
"""The dtypes that integers are stored in."""

MAX_TEXT_BYTES = 2**22
"""Limit on metadata that are accepted: real ones have a few thousand."""

MAX_DESCRIPTION_LENGTH = MAX_TEXT_BYTES // 4 - 128
"""Limit on metadata that are written: NumPy stores four bytes for each character."""

PER_ARRAY = 384
"""Bytes that an array takes at most beside its values: a zip's records and a header of NumPy's, or
HDF5's.
"""


@dataclass(frozen=True)
class ArrayMember:
    """An array of a file: `chunks` makes its values when they are to be written, not before."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: Callable[[], Iterable[Values]]

    @property
    def nbytes(self) -> int:
        """Bytes of all its values."""
        return prod(self.shape) * self.dtype.itemsize


def whole(name: str, values: Values) -> ArrayMember:
    """An array that is there already."""
    return ArrayMember(name, values.shape, values.dtype, lambda: [np.ascontiguousarray(values)])


def weights(matrix: Matrix) -> Iterator[ArrayMember]:
    """What every form has: all of the layer but its geometry."""
    for name, array in matrix.layer.arrays().items():
        yield whole(name, array)


def bias(matrix: Matrix) -> ArrayMember:
    """The bias of every output."""
    chunks = partial(_bias, matrix)
    return ArrayMember("bias", (matrix.layer.outline.rows,), matrix.layer.dtype, chunks)


def _bias(matrix: Matrix) -> list[Values]:
    return [np.ascontiguousarray(matrix.bias)]


def compressed(spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> Arrays:
    """The arrays of the entries in CSR."""
    nnz, shape = outline.nnz, spec.shape(outline)
    index = np.dtype(index_dtype(nnz, *shape))
    arrays: Arrays = {"indptr": ((shape[0] + 1,), index), "indices": ((nnz,), index)}
    return arrays | {"data": ((nnz,), dtype)} | numbers(spec, outline)


def numbers(spec: Spec, outline: Outline) -> Arrays:
    """The kernel_index, where there is one."""
    if not spec.kernel_index:
        return {}
    return {"kernel_index": ((outline.nnz,), np.dtype(index_dtype(prod(outline.kernel_shape))))}


def values(matrix: Matrix, name: str, length: int) -> Iterable[Values]:
    """One of the arrays of a matrix in CSR."""
    rows = matrix.rows_of.matrix(matrix.layout, kernel_index=name == "kernel_index")
    stream: Stream = getattr(rows, name)
    if len(stream) != length:  # a file that says one and holds the other would look damaged
        raise Defect(f"{name} has {len(stream)} elements, where the geometry counts {length}")
    return stream.chunks()


def members(matrix: Matrix) -> Iterator[ArrayMember]:
    """The arrays of a matrix, in the order in which they are written."""
    yield from weights(matrix)
    if matrix.form != "csr":
        return
    yield bias(matrix)
    layer = matrix.layer
    for name, (shape, dtype) in compressed(matrix.spec, layer.outline, layer.dtype).items():
        yield ArrayMember(name, shape, dtype, partial(values, matrix, name, *shape))


def names(matrix: Matrix) -> set[str]:
    """The names of these arrays: what must be in a file, and all that is ours."""
    return {member.name for member in members(matrix)}


def size(
    spec: Spec, outline: Outline, dtype: np.dtype[Any], entries: Arrays, extra: int, text: int
) -> int:
    """Bound the bytes of a matrix and its metadata, before any weight is read.

    `entries` are the arrays of its entries; a format has `extra` further arrays, and takes `text`
    bytes for the metadata.
    """
    kept = outline.kept(dtype.itemsize)
    total = kept.nbytes + (outline.rows * dtype.itemsize if spec.sparse else 0) + text
    total += PER_ARRAY * (kept.arrays + len(entries) + extra)
    return total + sum(prod(shape) * kind.itemsize for shape, kind in entries.values())
