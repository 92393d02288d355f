"""Layers one after another, as one matrix: the product of theirs.

Its entries are sums of products of weights, so their bits are not known beforehand. What is known
of it: its factors, each of which is proven bit for bit; where its entries stand; and how far
rounding may take them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from convfc_cli.arrays import Array, as_float64, as_float_ones, as_magnitudes, as_ones
from convfc_cli.errors import GeometryError, Refused, UsageError
from convfc_cli.json_values import exactly
from convfc_cli.layers.blockwise import BlockRows, cuts, rendered
from convfc_cli.layers.description import described, restored
from convfc_cli.layers.linear import Linear, Read
from convfc_cli.layers.slabs import OutputSums, Slab, Weights
from convfc_cli.layers.sparse_product import ProductRows, aligned, block_of_rows, pattern_of
from convfc_cli.layout import Layout
from convfc_cli.outline import Kept, Outline, Sized
from convfc_cli.streams import CHUNK, SparseRows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Sparse = csr_array[Any, tuple[int, int]]


MAX_WORK = 2**34
"""Products of two weights computed for one matrix: some minutes."""

MAX_FACTORS = 64
"""Layers in one chain."""

MAX_KEPT = 4 * CHUNK
"""Entries of all factors that are kept: 50 MB. Of more, rows are made anew for each block."""

MAX_ELEMENTS = 2**25
"""Limit on a tensor between two layers: several vectors of that length are made."""


def check_chain(layers: Sequence[Outline | Linear]) -> None:
    """Raise `Refused` for layers one after another that are too many, or have a tensor too large:
    their outlines tell before any is loaded.
    """
    if len(layers) > MAX_FACTORS:
        raise Refused(f"a chain of {len(layers)} layers; at most {MAX_FACTORS} are multiplied")
    shapes = (layers[0].input_shape, *(layer.output_shape for layer in layers))
    if (largest := max(map(prod, shapes))) > MAX_ELEMENTS:
        raise Refused(
            f"a chain of layers with a tensor of {largest} elements; at most {MAX_ELEMENTS} are "
            f"multiplied through"
        )


class Product(Linear):
    """Layers applied one after another, the first of `factors` first.

    The matrix has an entry wherever a path leads from an input to an output, also where its terms
    cancel. Sums are made in float64 and rounded once, to float64 where a factor is float64 and to
    float32 else.

    Products among the factors are taken for the factors they have. Raises `GeometryError` unless
    each takes what the one before it makes, in floating point, and `Refused` for tensors too large.
    """

    kind = "product"
    oracle = "its layers one after another, each by its own"
    exact = False

    def __init__(self, factors: Sequence[Linear]) -> None:
        factors = tuple(chain.from_iterable(map(parts, factors)))
        if not 1 <= len(factors) <= MAX_FACTORS:
            raise GeometryError(f"a product of {len(factors)} layers; 1 to {MAX_FACTORS} are taken")
        for one, other in pairwise(factors):
            if one.output_shape != other.input_shape:
                raise GeometryError(
                    f"a {one.kind} makes {one.output_shape}, the {other.kind} after it takes "
                    f"{other.input_shape}"
                )
        if any(factor.dtype.kind != "f" for factor in factors):
            raise GeometryError("integers are not multiplied: their sums may not fit int32")
        check_chain(factors)
        self.factors = factors
        self.stated: int | None = None
        """How many entries it has by the file that it was read from, which a proof counts anew."""
        self._made: tuple[Layout, list[tuple[SparseRows, Array]], Array] | None = None

    @cached_property
    def outline(self) -> "ProductOutline":
        """A matrix whose entries are sums over the paths through the factors."""
        return ProductOutline(self)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """That of the factors together: float64 if one of them is."""
        return np.result_type(*(factor.dtype for factor in self.factors))

    @cached_property
    def finite(self) -> bool:
        """Whether the weights of all factors are."""
        return all(factor.finite for factor in self.factors)

    def bias_tensor(self) -> Array:
        bias = np.zeros(self.input_shape)
        with np.errstate(all="ignore"):  # untrusted weights may be anything
            for factor in self.factors:
                bias = factor.apply(bias, as_float64) + as_float64(factor.bias_tensor())
            return bias.astype(self.dtype)

    def biases(self) -> list[Array]:
        return [factor.bias_tensor() for factor in self.factors]

    def adjoint(self) -> "Product":
        return self._adjoint

    @cached_property
    def _adjoint(self) -> "Product":
        return Product([factor.adjoint() for factor in reversed(self.factors)])

    def with_weights(self, change: Weights) -> Self:
        return type(self)([factor.with_weights(change) for factor in self.factors])

    def geometry(self) -> dict[str, Any]:
        return {"factors": list(map(described, self.factors)), "dtype": self.dtype.name}

    def arrays(self) -> dict[str, Array]:
        return {
            f"{number}.{name}": array
            for number, factor in enumerate(self.factors)
            for name, array in factor.arrays().items()
        }

    @classmethod
    def restore(cls, geometry: dict[str, Any], read: Read) -> Self:
        factors = [exactly(dict, factor) for factor in exactly(list, geometry["factors"])]
        if len(factors) > MAX_FACTORS or any(factor.get("kind") == cls.kind for factor in factors):
            raise ValueError(f"more than {MAX_FACTORS} factors, or products among them")

        def reader_of(number: int) -> Read:
            return lambda name: read(f"{number}.{name}")

        made = cls([restored(factor, reader_of(number)) for number, factor in enumerate(factors)])
        if "nonzeros" in geometry:
            made.stated = exactly(int, geometry["nonzeros"])
            if not 0 <= made.stated <= prod(made.input_shape) * prod(made.output_shape):
                raise ValueError(f"it has {made.stated} nonzeros, beyond the room of its shape")
        return made

    def matrix(self, layout: Layout, *, kernel_index: bool = False) -> SparseRows:
        if kernel_index:
            raise UsageError("the entries of a product are sums: they have no kernel_index")

        def entries(rows: slice) -> tuple[Array, Array]:
            made = self.block(layout, rows.start, rows.stop)
            with np.errstate(over="ignore", invalid="ignore"):
                return made.indices, made.values.astype(self.dtype)

        def columns(rows: slice) -> Array:
            return self._multiplied(layout, rows.start, rows.stop, pattern_of).indices

        shape = (prod(self.output_shape), prod(self.input_shape))
        made = BlockRows.of(shape, layout.vector(self.counts), entries, self.dtype, CHUNK)
        return replace(made, indices=made.stream(columns, made.indices.dtype))

    @cached_property
    def terms(self) -> float:
        """How many roundings a sum through all factors may go through: the most terms of an output
        of each, with its bias.
        """
        terms = 0.0
        for factor in self.factors:
            ones = np.ones(factor.input_shape, np.uint64)
            terms += float(factor.apply(ones, as_ones).max()) + 1
        return terms

    @cached_property
    def counts(self) -> Array:
        """How many entries the row of each output has, (output_shape): where paths lead, found by
        multiplying the factors' patterns. Raises `Refused` where that takes too long.
        """
        if self._work > MAX_WORK:
            raise Refused(
                f"a chain of {len(self.factors)} layers takes too long to multiply, some "
                f"{self._work:.2g} products of weights: compose fewer layers"
            )
        counts = np.zeros(prod(self.output_shape), np.int64)
        starts = np.concatenate(([0], np.cumsum(self._widths)))
        for first, last in pairwise(cuts(starts, CHUNK)):
            counts[first:last] = np.diff(self._multiplied(Layout(), first, last, pattern_of).indptr)
        return counts.reshape(self.output_shape)

    @property
    def _widths(self) -> Array:
        """The most entries that the row of each output has on its way through the factors, flat in
        C order: at most as many as paths lead there, or as the tensor on the way has elements.
        """
        return self._reach[0]

    @property
    def _work(self) -> float:
        """Bound the products of two weights computed for the matrix."""
        return self._reach[1]

    @cached_property
    def _reach(self) -> tuple[Array, float]:
        widths, work, held = np.ones(prod(self.output_shape)), 0.0, None
        for place, factor in reversed(list(enumerate(self.factors))):
            paths = np.ones(factor.input_shape)
            longest = factor.apply(paths, as_float_ones).max(initial=0.0)
            for later in self.factors[place:]:
                paths = later.apply(paths, as_float_ones)
            work += float(longest) * (paths.size if held is None else float(held.sum()))
            held = np.minimum(paths.reshape(-1), prod(factor.input_shape))
            widths = np.maximum(widths, held)
        return widths.astype(np.int64), work

    def block(self, layout: Layout, first: int, last: int) -> ProductRows:
        """The rows [first, last) in float64."""
        values = self._multiplied(layout, first, last, as_float64)
        pattern = values
        if len(values.indices) != self._counted(layout, range(first, last)).sum():
            pattern = self._multiplied(layout, first, last, pattern_of)
        return ProductRows(pattern.indptr, pattern.indices, aligned(pattern, values))

    def block_with_scale(self, layout: Layout, first: int, last: int) -> tuple[ProductRows, Array]:
        """These rows, and of each entry the magnitudes of its terms, added up."""
        block = self.block(layout, first, last)
        scale = self._multiplied(layout, first, last, as_magnitudes)
        return block, aligned(block, scale)

    def _multiplied(self, layout: Layout, first: int, last: int, change: Weights) -> "Sparse":
        """The rows [first, last) of the product of the factors' matrices, their entries changed."""
        from scipy.sparse import vstack

        matrices, widths = self._matrices(layout)
        starts = np.concatenate(([0], np.cumsum(widths[first:last])))
        blocks = [
            block_of_rows(matrices, first + start, first + stop, change)
            for start, stop in pairwise(cuts(starts, CHUNK))
        ]
        rows: Sparse = blocks[0] if len(blocks) == 1 else vstack(blocks, format="csr")
        rows.sort_indices()
        return rows

    def _matrices(self, layout: Layout) -> tuple[list[tuple[SparseRows, Array]], Array]:
        """(those of the factors, and where their rows begin; the widths of the rows)."""
        if self._made is None or self._made[0] != layout:
            rows = [factor.matrix(layout) for factor in self.factors]
            if sum(one.nnz for one in rows) <= MAX_KEPT:
                rows = list(map(rendered, rows))
            widths = layout.vector(self._widths.reshape(self.output_shape))
            self._made = layout, [(one, one.indptr.array()) for one in rows], widths
        return self._made[1:]

    def slabs(self, layout: Layout, most: int) -> Iterator[Slab]:
        count = prod(self.output_shape)
        for first in range(0, count, most):
            rows = range(first, min(first + most, count))
            yield Slab(
                rows,
                partial(self._part, layout, rows),
                partial(self._counted, layout, rows),
            )

    def _part(self, layout: Layout, rows: range, x: Array, weights: Weights) -> Array:
        with np.errstate(all="ignore"):
            for factor in self.factors:
                x = factor.apply(x, weights)
        return layout.vector(x)[rows.start : rows.stop]

    def _counted(self, layout: Layout, rows: range) -> Array:
        return layout.vector(self.counts)[rows.start : rows.stop]

    def sums(self, x: Array, layout: Layout, most: int) -> Iterator[OutputSums]:
        """Through one factor after another: roundings add up, and magnitudes multiply."""
        answer = as_float64(x)
        scale = np.abs(answer)
        terms = self.terms + 2  # the matrix and its bias are rounded themselves
        with np.errstate(all="ignore"):
            for factor in self.factors:
                bias = as_float64(factor.bias_tensor())
                answer = factor.apply(answer, as_float64) + bias
                scale = factor.apply(scale, as_magnitudes) + np.abs(bias)
        terms *= 1 + terms * 2.0**-22
        vectors = layout.vector(answer), layout.vector(scale)
        for first in range(0, len(vectors[0]), most):
            part = slice(first, min(first + most, len(vectors[0])))
            inside = range(part.start, part.stop)
            yield OutputSums(
                inside, vectors[0][part], vectors[1][part], np.full(len(inside), terms)
            )


class ProductOutline(Sized):
    """The outline of a product: how many entries it has is found by multiplying its patterns."""

    kernel_shape: tuple[int, ...] = ()
    groups = 1

    def __init__(self, product: Product) -> None:
        self.product = product
        self.input_shape = product.factors[0].input_shape
        self.output_shape = product.factors[-1].output_shape

    @property
    def nnz(self) -> int:
        """Entries; raises `Refused` where counting them takes too long."""
        stated = self.product.stated
        return int(self.product.counts.sum()) if stated is None else stated

    @property
    def products(self) -> int:
        """Those of its factors, one after another."""
        return sum(factor.outline.products for factor in self.product.factors)

    def kept(self, itemsize: int) -> Kept:
        """What a file keeps of the factors."""
        return Kept.together(factor.outline.kept(itemsize) for factor in self.product.factors)


def parts(layer: Linear) -> tuple[Linear, ...]:
    """The factors of a product; of another layer, itself."""
    return layer.factors if isinstance(layer, Product) else (layer,)
