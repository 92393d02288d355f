"""Matrices as `.npz` in BSR, in dense blocks, which multiply fastest. See `npz_base`.

    indptr, indices    CSR of the blocks: the matrix of the layer with one channel a group
    data               (blocks, rows of a block, columns of a block)

A block connects one output position with one input position of one group: the weights of one kernel
element, (out/groups, in/groups), or their transpose where rows are what the kernel reads. So every
block is full, and a layer needs as many indices as it would with one channel in each group.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from convfc_cli import toeplitz
from convfc_cli.errors import MalformedInput, UsageError, WrongContents
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import schema
from convfc_cli.matrices.blocks import Block, CsrReader, Rows, Sequential, stretches
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.npz_base import NpzFormat, Values
from convfc_cli.outline import Outline
from convfc_cli.streams import CHUNK, SparseRows, index_dtype
from convfc_cli.taps import IndexMap


class NpzBsr(NpzFormat):
    """The nonzeros in dense blocks, one for each tap and group."""

    name = "npz-bsr"
    forms = ("bsr",)
    summary = "dense blocks of channels: `scipy.sparse.load_npz` gives a BSR matrix"

    def arrays(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> schema.Arrays:
        blocks = _blocks_of(outline)
        rows, columns = spec.shape(blocks)
        index = np.dtype(index_dtype(blocks.nnz, rows, columns))
        return {
            "indptr": ((rows + 1,), index),
            "indices": ((blocks.nnz,), index),
            "data": ((blocks.nnz, *_block_shape(spec, outline)), dtype),
        }

    def values(self, matrix: Matrix, name: str, shape: tuple[int, ...]) -> Iterable[Values]:
        blocks = _blocks(matrix)
        if name == "data":
            return _weights(matrix, blocks, max(1, CHUNK // prod(shape[1:])))
        return (blocks.indptr if name == "indptr" else blocks.indices).chunks()

    def check_holds(self, matrix: Matrix, name: str) -> None:
        super().check_holds(matrix, name)
        if not isinstance(matrix.layer, Convolution):
            raise MalformedInput(f"{name} is {matrix.form} of a {matrix.layer.kind}")

    def reader(self, matrix: Matrix, arrays: Mapping[str, Sequential]) -> Rows:
        outline = matrix.layer.outline
        columns = matrix.spec.shape(_blocks_of(outline))[1]
        return _BsrReader(
            *(arrays["indptr"], arrays["indices"], arrays["data"]),
            *(_block_shape(matrix.spec, outline), columns),
        )


FORMAT = NpzBsr()


def _blocks_of(outline: Outline) -> IndexMap:
    """The map of the blocks: that of the convolution with one channel a group. Raises `UsageError`
    for another layer.
    """
    if not isinstance(outline, IndexMap):
        raise UsageError("the form bsr has blocks of a convolution's channels; csr takes any")
    shape = (outline.groups, 1, *outline.kernel_shape[2:])
    return IndexMap(shape, outline.axes, outline.groups, outline.transposed)


def _block_shape(spec: Spec, outline: Outline) -> tuple[int, int]:
    """(rows, columns) of a block."""
    (rows, columns), (high, wide) = spec.shape(outline), spec.shape(_blocks_of(outline))
    return rows // high, columns // wide


def _blocks(matrix: Matrix) -> SparseRows:
    """The blocks in CSR form; the data are flat indices into a kernel of (groups, *spatial)."""
    index_map = _blocks_of(matrix.rows_of.outline)
    size = prod(index_map.kernel_shape)
    numbers = np.arange(size, dtype=index_dtype(size)).reshape(index_map.kernel_shape)
    return toeplitz.rows(index_map, numbers, matrix.layout)


def _weights(matrix: Matrix, blocks: SparseRows, most: int) -> Iterator[Values]:
    """The blocks themselves, some at a time."""
    layer = matrix.rows_of
    assert isinstance(layer, Convolution)
    kernel, index_map = layer.kernel, layer.index_map
    near, depth = kernel.shape[0] // index_map.groups, kernel.shape[1]
    by_group = kernel.reshape(index_map.groups, near, depth, -1)
    by_element = by_group.transpose((0, 3, 2, 1) if index_map.transposed else (0, 3, 1, 2))
    table = np.ascontiguousarray(by_element).reshape(-1, *by_element.shape[2:])
    for numbers in blocks.data.chunks(most):
        yield table[numbers]


class _BsrReader:
    """The rows of a stored BSR matrix, from front to back, entry by entry.

    Reads a whole row of blocks at a time, and keeps those not yet requested.
    """

    def __init__(
        self,
        indptr: Sequential,
        indices: Sequential,
        data: Sequential,
        shape: tuple[int, int],
        columns: int,
    ) -> None:
        """`shape` is that of a block; there are `columns` columns of blocks."""
        self._blocks = CsrReader(indptr, indices, _Whole(data, shape), 0, "block row")
        self._shape, self._columns = shape, columns
        self._kept: Block | None = None

    def rows(self, counts: Values) -> Iterator[Block]:
        """The next len(counts) rows; see `StoredMatrix.rows`."""
        high, wide = self._shape
        done = 0
        if self._kept is not None:
            block, self._kept = _cut(self._kept, len(counts))
            done = len(block.indptr) - 1
            yield block
        lengths = counts[done::high] // wide
        for part, _ in stretches(lengths * (high * wide)):
            for blocks in self._blocks.rows(lengths[part]):
                block, self._kept = _cut(self._entries(blocks), len(counts) - done)
                done += len(block.indptr) - 1
                yield block

    def _entries(self, blocks: Block) -> Block:
        """Rows of blocks as rows of entries."""
        high, wide = self._shape
        wrong = np.flatnonzero((blocks.indices < 0) | (blocks.indices >= self._columns))
        if len(wrong):  # before they are multiplied, which may wrap round
            at = int(wrong[0])
            row = blocks.first + int(np.searchsorted(blocks.indptr, at, side="right")) - 1
            raise WrongContents(
                f"block row {row} has block column {int(blocks.indices[at])}, out of range "
                f"[0, {self._columns})"
            )
        counts = np.repeat(np.diff(blocks.indptr), high)
        ends = np.cumsum(counts)
        # The blocks that each row meets, and which of a block's rows it is there.
        first = np.repeat(blocks.indptr[:-1], high) - (ends - counts)
        met = np.arange(int(ends[-1])) + np.repeat(first, counts)
        line = np.repeat(np.arange(len(counts)) % high, counts)
        index = np.dtype(index_dtype(self._columns * wide, len(met) * wide))
        corners = blocks.indices[met].astype(index) * index.type(wide)
        return Block(
            blocks.first * high,
            np.concatenate(([0], ends * wide)),
            (corners[:, None] + np.arange(wide, dtype=index)).reshape(-1),
            blocks.data[met, line].reshape(-1),
        )


class _Whole:
    """Blocks of an array, read from front to back."""

    def __init__(self, data: Sequential, shape: tuple[int, int]) -> None:
        self._data, self._shape = data, shape

    def read(self, count: int) -> Values:
        """The next `count` blocks."""
        return self._data.read(count * prod(self._shape)).reshape(count, *self._shape)


def _cut(block: Block, rows: int) -> tuple[Block, Block | None]:
    """The first rows of a block, and those that are left."""
    if rows >= len(block.indptr) - 1:
        return block, None
    at = int(block.indptr[rows])
    head = Block(block.first, block.indptr[: rows + 1], block.indices[:at], block.data[:at])
    tail = block.indptr[rows:] - at
    return head, Block(block.first + rows, tail, block.indices[at:], block.data[at:])
