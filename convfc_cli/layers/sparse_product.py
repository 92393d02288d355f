"""Rows of a product of sparse matrices whose rows are made as they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.layers.blockwise import cuts
from convfc_cli.layers.slabs import Weights
from convfc_cli.streams import CHUNK, SparseRows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Sparse = csr_array[Any, tuple[int, int]]

NEAR = 4
"""Rows that are needed are made with those in between, if that makes no more times the entries."""


@dataclass(frozen=True)
class ProductRows:
    """Some rows of a product, before they are rounded."""

    indptr: Array
    indices: Array
    values: Array


def block_of_rows(
    matrices: Sequence[tuple[SparseRows, Array]], first: int, last: int, change: Weights
) -> "Sparse":
    """The rows [first, last) of the product of matrices, the last of which is multiplied first."""
    from scipy.sparse import csr_array

    *others, (rows, _) = matrices
    indptr, indices, data = rows.block(first, last)
    product = csr_array((change(data), indices, indptr), shape=(last - first, rows.shape[1]))
    for matrix in reversed(others):
        product = _times(product, *matrix, change)
    return product


def pattern_of(weights: Array) -> Array:
    """True in the place of weights: where entries are."""
    return np.ones(weights.shape, bool)


def _times(left: "Sparse", rows: SparseRows, indptr: Array, change: Weights) -> "Sparse":
    """left times a matrix, whose rows are made as they are needed, `CHUNK` entries at a time."""
    from scipy.sparse import csr_array

    read = np.zeros(left.shape[1], bool)
    read[left.indices] = True
    needed = np.flatnonzero(read)
    ends = np.concatenate(([0], np.cumsum(indptr[needed + 1] - indptr[needed])))
    total = None
    for start, stop in pairwise(cuts(ends, CHUNK)):
        chosen = needed[start:stop]
        first, last = int(chosen[0]), int(chosen[-1]) + 1
        if int(indptr[last] - indptr[first]) <= NEAR * CHUNK:
            starts, indices, data = rows.block(first, last)
        else:
            starts, indices, data = _picked(rows, chosen)
        shape = (last - first, rows.shape[1])
        term = left[:, first:last] @ csr_array((change(data), indices, starts), shape=shape)
        total = term if total is None else total + term
    if total is None:
        dtype = change(np.zeros(0, np.float32)).dtype
        return csr_array((left.shape[0], rows.shape[1]), dtype=dtype)
    return total


def _picked(rows: SparseRows, chosen: Array) -> tuple[Array, Array, Array]:
    """(indptr, indices, data) of these rows of a matrix, rising, the first of them row 0; those in
    between are empty.
    """
    breaks = np.flatnonzero(np.diff(chosen) > 1) + 1
    runs = np.split(chosen, breaks)
    blocks = [rows.block(int(run[0]), int(run[-1]) + 1) for run in runs]
    lengths = np.zeros(int(chosen[-1] - chosen[0]) + 1, np.int64)
    lengths[chosen - chosen[0]] = np.concatenate([np.diff(starts) for starts, _, _ in blocks])
    indices, data = (np.concatenate([block[k] for block in blocks]) for k in (1, 2))
    return np.concatenate(([0], np.cumsum(lengths))), indices, data


def aligned(pattern: "Sparse | ProductRows", values: "Sparse") -> Array:
    """The values at all places of the pattern: SciPy's sums drop those that cancel."""
    if len(values.indices) == len(pattern.indices):
        return values.data
    width = values.shape[1]
    data = np.zeros(len(pattern.indices))
    places = places_of(pattern.indptr, pattern.indices, width)
    data[np.searchsorted(places, places_of(values.indptr, values.indices, width))] = values.data
    return data


def places_of(indptr: Array, indices: Array, width: int) -> Array:
    """One rising number for the place of each entry, row * width + column."""
    rows = np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))
    return rows * width + indices
