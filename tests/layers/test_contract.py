"""The contract that every kind of layer fulfils, held to brute force: alone, in files, in proofs.

A layer's rows, its oracle, its index arithmetic and its description are four accounts of one map;
`tests.support.brute` has the fifth, by loops.
"""

import io
import json
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from convfc_cli.errors import (
    Defect,
    GeometryError,
    MalformedInput,
    Refused,
    UsageError,
    WrongContents,
)
from convfc_cli.geometry import Axis
from convfc_cli.layers import blockwise, locally_connected, product
from convfc_cli.layers import registry as layer_kinds
from convfc_cli.layers.blockwise import BlockRows
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.description import described, restored
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.locally_connected import LocallyConnected
from convfc_cli.layers.product import Product
from convfc_cli.layers.tied import TiedLinear, TiedSlab
from convfc_cli.layout import ORDERS, Layout
from convfc_cli.matrices import blocks, registry
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.matrices.operator import load
from convfc_cli.proof import check
from convfc_cli.proof.check import Subject
from convfc_cli.proof.product import Factors, ProductEntries
from convfc_cli.rounding import check_runtime
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.runtime import as_read
from convfc_cli.streams import Stream
from tests.support import brute, crafted
from tests.support.cli_models import run
from tests.support.crafted import outcome, rendered
from tests.support.kinds import KINDS, Case, Chain, chains, copies
from tests.support.strategies import LAYOUTS, layouts

Array = NDArray[Any]

F32 = np.float32
NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]

many_examples = settings(max_examples=max(40, settings().max_examples // 2))
some_examples = settings(max_examples=max(25, settings().max_examples // 4))
few_examples = settings(max_examples=max(10, settings().max_examples // 8))
every_kind = pytest.mark.parametrize("kind", KINDS)
orders = st.sampled_from(list(ORDERS))
SEEDS = st.integers(0, 999)


def as_integers(weights: Array) -> Array:
    """The bits of the weights as numbers: any elementwise function will do."""
    return brute.bits(weights).astype(np.uint64)


def whole_numbers(shape: Any, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 2**64 - 1, shape, np.uint64, endpoint=True)


def same_bits(one: Array, other: Array) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


def block_sizes(patch: pytest.MonkeyPatch, most: int) -> None:
    """Make rows in blocks of about so many entries, and go through arrays by as many."""
    patch.setattr(BlockRows.of.__func__, "__defaults__", (most,))
    patch.setattr(Stream.chunks, "__defaults__", (most,))


def modulo(case: Case, x: Array) -> list[int]:
    """What the bits of the weights make of whole numbers, modulo 2^64, flat in C order."""
    bits = {pair: as_integers(case.kernel)[place].item() for pair, place in case.entries.items()}
    y = brute.applied(bits, x.astype(object), case.output_shape)
    return [int(value) % 2**64 for value in y.reshape(-1)]


# --- copies: the rows ---------------------------------------------------------------------------


def test_every_kind_is_looked_at():
    kinds = layer_kinds.kinds().items()
    ours = {name: kind for name, kind in kinds if kind.__module__.startswith("convfc_cli")}
    assert ours.keys() == {*KINDS, "product"}
    assert [name for name, kind in ours.items() if not kind.exact] == ["product"]


@every_kind
@many_examples
@given(data=st.data(), layout=layouts(), most=st.integers(1, 40))
def test_the_rows_are_the_brute_force_matrix_in_every_layout(kind, data, layout, most):
    case = data.draw(copies(kind))
    expected = case.csr(layout)
    with pytest.MonkeyPatch.context() as patch:
        block_sizes(patch, most)
        rows = case.layer.rows(layout, kernel_index=True)
        plain = case.layer.rows(layout)
    assert rows.shape == expected.shape
    assert rows.indptr.array().tolist() == expected.indptr.tolist()
    assert rows.indices.array().tolist() == expected.indices.tolist()
    assert same_bits(rows.data.array(), expected.data)
    assert rows.kernel_index is not None
    assert rows.kernel_index.array().tolist() == expected.kernel_index.tolist()
    assert rows.nnz == case.layer.nnz == case.layer.outline.nnz == len(expected.data)
    assert rows.indices.dtype == rows.indptr.dtype == rows.kernel_index.dtype == np.int32
    assert plain.kernel_index is None
    assert same_bits(plain.data.array(), expected.data)


@every_kind
@many_examples
@given(data=st.data(), layout=layouts(), most=st.integers(1, 40))
def test_any_part_of_the_rows_is_that_part_of_the_matrix(kind, data, layout, most):
    case = data.draw(copies(kind))
    expected = case.csr(layout)
    with pytest.MonkeyPatch.context() as patch:
        block_sizes(patch, most)
        rows = case.layer.rows(layout, kernel_index=True)
    first = data.draw(st.integers(0, rows.shape[0] - 1))
    last = data.draw(st.integers(first + 1, rows.shape[0]))
    indptr, indices, values = rows.block(first, last)
    part = slice(expected.indptr[first], expected.indptr[last])
    starts = expected.indptr[first : last + 1]
    assert indptr.tolist() == (starts - starts[0]).tolist()
    assert indices.tolist() == expected.indices[part].tolist()
    assert indices.dtype == rows.indices.dtype
    assert same_bits(np.ascontiguousarray(values), expected.data[part])
    stop = data.draw(st.integers(0, rows.nnz))
    start = data.draw(st.integers(0, stop))
    assert same_bits(rows.data.part(start, stop), expected.data[start:stop])
    assert rows.indices.part(start, stop).tolist() == expected.indices[start:stop].tolist()
    chunks = [chunk.copy() for chunk in rows.data.chunks(7)]
    assert same_bits(np.concatenate([*chunks, rows.data.part(0, 0)]), expected.data)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 6))
def test_blocks_have_about_as_many_entries_as_are_asked_for_and_never_more_rows(counts, most):
    indptr = np.concatenate(([0], np.cumsum(counts)))
    cuts = blockwise.cuts(indptr, most)
    assert cuts[0] == 0
    assert cuts[-1] == len(counts)
    for first, last in pairwise(cuts):
        assert 1 <= last - first <= most
        assert last - first == 1 or indptr[last] - indptr[first] <= most
        full = last - first == most or last == len(counts)
        assert full or indptr[last + 1] - indptr[first] > most


@many_examples
@given(case=copies("locally-connected"), layout=layouts(), places=st.integers(1, 40))
def test_a_grid_that_is_looked_at_in_pieces_has_the_same_taps(case, layout, places):
    expected = case.csr(layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locally_connected, "GRID", places)
        rows = case.layer.rows(layout, kernel_index=True)
        assert rows.indices.array().tolist() == expected.indices.tolist()
        assert rows.kernel_index is not None
        assert rows.kernel_index.array().tolist() == expected.kernel_index.tolist()


def test_a_block_is_made_once_where_it_is_read_in_two_pieces():
    made = []

    def entries(rows: slice) -> tuple[Array, Array]:
        made.append(rows)
        count = 2 * (rows.stop - rows.start)
        return np.tile([0, 1], count // 2), np.arange(2 * rows.start, 2 * rows.stop) / 8

    rows = BlockRows.of((6, 2), np.full(6, 2), entries, np.dtype(np.float64), 4)
    chunks = [chunk.tolist() for chunk in rows.data.chunks(3)]
    assert chunks == [[0, 0.125, 0.25], [0.375, 0.5, 0.625], [0.75, 0.875, 1], [1.125, 1.25, 1.375]]
    assert made == [slice(0, 2), slice(2, 4), slice(4, 6)]


def test_a_matrix_of_many_blocks_is_whole():
    kernel = np.arange(300 * 301, dtype=np.float32).reshape(300, 301)
    rows = Dense(kernel).rows(Layout())
    assert rows.nnz > blockwise.BLOCK
    assert same_bits(rows.data.array(), kernel.reshape(-1))
    assert rows.indices.array().tolist() == list(range(301)) * 300


# --- copies: the oracle -------------------------------------------------------------------------


@every_kind
@many_examples
@given(data=st.data(), seed=SEEDS)
def test_a_layer_applied_is_its_matrix_times_the_vector(kind, data, seed):
    case = data.draw(copies(kind))
    x = whole_numbers(case.input_shape, seed)
    y = case.layer.apply(x, as_integers)
    assert (y.shape, y.dtype) == (case.output_shape, np.uint64)
    assert y.reshape(-1).tolist() == modulo(case, x)


@every_kind
@many_examples
@given(data=st.data(), seed=SEEDS)
def test_without_weights_named_a_layer_uses_its_own_in_the_dtype_of_x(kind, data, seed):
    case = data.draw(copies(kind, ("integers",), (np.float32,)))
    x = np.random.default_rng(seed).integers(-9, 10, case.input_shape).astype(np.float64)
    y = case.layer.apply(x)
    values = {pair: case.kernel[place].item() for pair, place in case.entries.items()}
    assert y.dtype == np.float64
    assert y.tolist() == brute.applied(values, x, case.output_shape).tolist()


@every_kind
@some_examples
@given(data=st.data(), layout=layouts())
def test_the_adjoint_is_the_transpose_without_a_bias(kind, data, layout):
    case = data.draw(copies(kind))
    adjoint = case.layer.adjoint()
    assert (adjoint.input_shape, adjoint.output_shape) == (case.output_shape, case.input_shape)
    assert adjoint.kind == kind
    assert not adjoint.bias_tensor().any()
    rows = adjoint.rows(layout)
    expected = case.csr(Layout(layout.order, not layout.transpose))
    assert rows.indptr.array().tolist() == expected.indptr.tolist()
    assert rows.indices.array().tolist() == expected.indices.tolist()
    assert same_bits(rows.data.array(), expected.data)
    x = whole_numbers(case.output_shape, 1)
    turned = Case(adjoint, brute.turned(case.entries), case.kernel, None, x.shape, case.input_shape)
    assert adjoint.apply(x, as_integers).reshape(-1).tolist() == modulo(turned, x)
    again = adjoint.adjoint()
    without = {name: value for name, value in described(again).items() if "bias" not in name}
    own = {name: value for name, value in described(case.layer).items() if "bias" not in name}
    assert without == own


@every_kind
@many_examples
@given(data=st.data(), layout=layouts(), most=st.integers(1, 40), seed=SEEDS)
def test_slabs_of_any_size_are_the_layer_applied_in_order(kind, data, layout, most, seed):
    case = data.draw(copies(kind))
    x = whole_numbers(case.input_shape, seed)
    upright = case.csr(Layout(layout.order))
    counts = np.diff(upright.indptr)
    y = layout.vector(np.array(modulo(case, x), np.uint64).reshape(case.output_shape))
    done = 0
    for slab in case.layer.slabs(layout, most):
        assert slab.rows.start == done
        assert 1 <= len(slab.rows) <= most
        done = slab.rows.stop
        inside = slice(slab.rows.start, done)
        assert slab.apply(x, as_integers).tolist() == y[inside].tolist()
        assert slab.counts().tolist() == counts[inside].tolist()
        assert slab.counts().dtype == np.int64
    assert done == prod(case.output_shape)


@every_kind
@some_examples
@given(data=st.data(), layout=layouts(), most=st.integers(1, 40))
def test_strips_are_layers_over_parts_that_add_up_to_their_slab(kind, data, layout, most):
    case = data.draw(copies(kind))
    x = whole_numbers(case.input_shape, 3)
    for slab in case.layer.slabs(layout, most):
        covered = np.zeros(case.input_shape, int)
        total = np.zeros(len(slab.rows), np.uint64)
        for strip in slab.strips():
            covered[strip.reads] += 1
            answer = strip.layer.apply(x[strip.reads], as_integers)
            total += layout.vector(answer)[strip.outputs]
        assert covered.max() <= 1
        assert total.tolist() == slab.apply(x, as_integers).tolist()


@every_kind
@many_examples
@given(data=st.data())
def test_no_output_reads_two_inputs_of_one_colour(kind, data):
    case = data.draw(copies(kind))
    colours = case.layer.colours()
    assert colours.shape == case.input_shape
    assert colours.min() >= 0
    assert colours.max() < case.layer.most_colours
    for sources in case.read.values():
        found = [int(colours[source]) for source in sources]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(("kind", "most"), [("gather", 1), ("diagonal", 1), ("dense", 4)])
@many_examples
@given(data=st.data())
def test_colours_are_few_where_outputs_read_few(kind, data, most):
    case = data.draw(copies(kind))
    needed = max(map(len, case.read.values()), default=1)
    assert case.layer.most_colours == needed
    assert needed <= most or (kind == "gather" and case.layer.transposed)


@every_kind
@some_examples
@given(data=st.data(), layout=layouts(), most=st.integers(1, 40), seed=SEEDS)
def test_sums_are_answers_the_magnitudes_of_their_terms_and_how_many(
    kind, data, layout, most, seed
):
    case = data.draw(copies(kind, ("integers",), (np.float32, np.float64)))
    x = np.random.default_rng(seed).integers(-9, 10, case.input_shape).astype(np.float32)
    values = {pair: case.kernel[place].item() for pair, place in case.entries.items()}
    sizes = {pair: abs(value) for pair, value in values.items()}
    bias = case.bias_tensor().astype(float)
    answer = layout.vector(brute.applied(values, x, case.output_shape) + bias)
    scale = layout.vector(brute.applied(sizes, abs(x), case.output_shape) + abs(bias))
    terms = layout.vector(
        np.array([len(case.read.get(o, [])) + 1 for o in brute.indices(case.output_shape)]).reshape(
            case.output_shape
        )
    )
    done = 0
    for sums in case.layer.sums(x, layout, most):
        inside = slice(sums.rows.start, sums.rows.stop)
        assert sums.rows.start == done
        done = sums.rows.stop
        assert sums.answer.tolist() == answer[inside].tolist()
        assert sums.scale.tolist() == scale[inside].tolist()
        assert sums.terms.tolist() == terms[inside].tolist()
    assert done == prod(case.output_shape)


@every_kind
@many_examples
@given(data=st.data())
def test_a_layer_has_the_shapes_the_bias_and_the_dtype_that_it_was_given(kind, data):
    case = data.draw(copies(kind))
    layer = case.layer
    assert (layer.input_shape, layer.output_shape) == (case.input_shape, case.output_shape)
    outline = layer.outline
    assert (outline.rows, outline.columns) == (prod(case.output_shape), prod(case.input_shape))
    assert outline.kernel_shape == case.kernel.shape
    assert layer.dtype == case.kernel.dtype
    assert same_bits(layer.bias_tensor(), case.bias_tensor())
    assert layer.finite == bool(np.isfinite(case.kernel).all())
    for array in layer.arrays().values():
        assert not array.flags.writeable


# --- copies: index arithmetic -------------------------------------------------------------------


@every_kind
@some_examples
@given(data=st.data())
def test_what_an_element_reads_and_feeds_is_told_by_rising_place(kind, data):
    case = data.draw(copies(kind))
    layer, layout = case.layer, Layout()
    output = data.draw(st.sampled_from(brute.indices(case.output_shape)))
    source = data.draw(st.sampled_from(brute.indices(case.input_shape)))
    found = [(tap.output, tap.input, tap.kernel) for tap, _ in layer.reads(output)]
    own = [(o, i, place) for (o, i), place in case.entries.items() if o == output]
    assert found == sorted(own, key=lambda tap: layout.flatten(tap[1], case.input_shape))
    fed = [(tap.output, tap.input, tap.kernel) for tap, _ in layer.feeds(source)]
    own = [(o, i, place) for (o, i), place in case.entries.items() if i == source]
    assert fed == sorted(own, key=lambda tap: layout.flatten(tap[0], case.output_shape))
    for tap, value in (*layer.reads(output), *layer.feeds(source)):
        assert value.tobytes() == case.kernel[tap.kernel].tobytes()
    assert layer.weight_of(output, source) == case.entries.get((output, source))


@every_kind
@some_examples
@given(data=st.data(), most=st.integers(1, 40))
def test_where_a_weight_stands_is_told(kind, data, most):
    case = data.draw(copies(kind))
    kernel = data.draw(st.sampled_from(brute.indices(case.kernel.shape)))
    with pytest.MonkeyPatch.context() as patch:
        block_sizes(patch, most)
        found = list(case.layer.stands(kernel))
    places = [(tap.output, tap.input) for tap, _ in found]
    assert len(set(places)) == len(places)
    assert set(places) == {pair for pair, place in case.entries.items() if place == kernel}
    for tap, value in found:
        assert tap.kernel == kernel
        assert value.tobytes() == case.kernel[kernel].tobytes()


@every_kind
@few_examples
@given(data=st.data())
def test_an_index_out_of_range_is_an_index_error(kind, data):
    layer = data.draw(copies(kind)).layer
    asked = {
        layer.reads: layer.output_shape,
        layer.feeds: layer.input_shape,
        layer.stands: layer.outline.kernel_shape,
    }
    for look_up, shape in asked.items():
        for wrong in (shape, (-1,) * len(shape), (0,) * (len(shape) + 1), (0,) * (len(shape) - 1)):
            with pytest.raises(IndexError, match=r"\("):
                list(look_up(wrong))


# --- copies: weights and descriptions -----------------------------------------------------------


@every_kind
@many_examples
@given(data=st.data())
def test_a_description_and_its_arrays_make_the_layer_anew(kind, data):
    layer = data.draw(copies(kind)).layer
    content = json.loads(json.dumps(described(layer)))
    assert content["kind"] == kind
    made = restored(content, layer.arrays().__getitem__)
    assert type(made) is type(layer)
    assert json.loads(json.dumps(described(made))) == content
    assert made.arrays().keys() == layer.arrays().keys()
    assert all(same_bits(made.arrays()[name], array) for name, array in layer.arrays().items())
    assert same_bits(made.bias_tensor(), layer.bias_tensor())


@every_kind
@some_examples
@given(data=st.data(), layout=layouts())
def test_weights_are_changed_each_in_its_place_and_the_bias_with_them(kind, data, layout):
    case = data.draw(copies(kind, ("integers",), (np.float32,)))
    changed = case.layer.with_weights(lambda w: (3 * w + 1).astype(np.float64))
    assert changed.dtype == np.float64
    rows, own = changed.rows(layout), case.csr(layout)
    assert rows.data.array().tolist() == (3 * own.data + 1).tolist()
    assert rows.indices.array().tolist() == own.indices.tolist()
    bias = case.bias_tensor()
    expected = bias if case.bias is None else 3 * bias + 1
    assert changed.bias_tensor().tolist() == expected.tolist()
    assert case.layer.astype("float64").dtype == np.float64
    assert case.layer.astype("float64").rows(layout).data.array().tolist() == own.data.tolist()
    without = case.layer.with_kernel(case.kernel + 1)
    assert without.bias is None
    assert without.rows(layout).data.array().tolist() == (own.data + 1).tolist()


def test_weights_beyond_float32_become_infinite_without_a_warning():
    layer = Dense(np.array([[1e300, 1.0]])).astype("float32")
    assert layer.kernel.tolist() == [[np.inf, 1]]
    assert not layer.finite


ENDS = Dense(np.array([[1, 1], [1, -1]], F32), bias=np.array([3, 4], F32))
SHORT = Gather((2,), np.array([1, -1, 0, 1]))
MIX = Dense(np.array([[1, 2, 3, 4], [0.1, 0.2, 0.3, 0.7], [5, 0, 1, 5]], F32))
CHAIN = Product([ENDS, SHORT, MIX])
"""[[8 0] [1.1 -.5] ...]: terms that cancel, a row that is empty in a factor, a bias."""


# --- products -----------------------------------------------------------------------------------


def expected_rows(chain: Chain, layout: Layout) -> list[dict[int, Any]]:
    """{column: (the entry, the magnitudes of its terms)} of every row, exactly."""
    outputs = brute.positions(chain.output_shape, layout.order)
    inputs = brute.positions(chain.input_shape, layout.order)
    count = prod(chain.input_shape if layout.transpose else chain.output_shape)
    rows: list[dict[int, Any]] = [{} for _ in range(count)]
    sizes = chain.magnitudes()
    for pair, value in chain.values().items():
        row, column = int(outputs[pair[0]]), int(inputs[pair[1]])
        row, column = (column, row) if layout.transpose else (row, column)
        rows[row][column] = value, sizes[pair]
    return [dict(sorted(row.items())) for row in rows]


@many_examples
@given(chain=chains(), layout=layouts(), most=st.integers(1, 60))
def test_a_product_has_an_entry_wherever_a_path_leads_and_it_is_their_sum(chain, layout, most):
    expected = expected_rows(chain, layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "CHUNK", most)
        block_sizes(patch, most)
        rows = chain.layer.rows(layout)
        indptr, indices, data = rows.indptr.array(), rows.indices.array(), rows.data.array()
        assert np.diff(indptr).tolist() == list(map(len, expected))
        assert indices.tolist() == [column for row in expected for column in row]
        assert data.dtype == chain.layer.dtype
        sums = [value for row in expected for value, _ in row.values()]
        assert data.tolist() == np.array(list(map(float, sums)), data.dtype).tolist()
        assert chain.layer.nnz == rows.nnz == len(sums)
        upright = chain.layer.adjoint() if layout.transpose else chain.layer
        order = Layout(layout.order)
        block, sizes = upright.block_with_scale(order, 0, rows.shape[0])
        assert block.indptr.tolist() == indptr.tolist()
        assert block.indices.tolist() == indices.tolist()
        assert block.values.tolist() == list(map(float, sums))
        assert sizes.tolist() == [float(size) for row in expected for _, size in row.values()]
        last = len(expected)
        first = last // 2
        part = rows.block(first, last)
        assert part[0].tolist() == (indptr[first:] - indptr[first]).tolist()
        assert part[1].tolist() == indices[indptr[first] :].tolist()
        assert part[2].tolist() == data[indptr[first] :].tolist()


@many_examples
@given(chain=chains(), order=orders, most=st.integers(1, 60), seed=SEEDS)
def test_a_product_applied_is_its_layers_one_after_another(chain, order, most, seed):
    layer, layout = chain.layer, Layout(order)
    x = np.random.default_rng(seed).integers(-3, 4, chain.input_shape).astype(np.float64)
    y = brute.applied(chain.values(), x, chain.output_shape)
    assert layer.apply(x).tolist() == y.tolist()
    vector = layout.vector(y)
    counts = list(map(len, expected_rows(chain, layout)))
    done = 0
    for slab in layer.slabs(layout, most):
        assert slab.rows.start == done
        assert 1 <= len(slab.rows) <= most
        done = slab.rows.stop
        inside = slice(slab.rows.start, done)
        assert slab.apply(x, lambda w: w.astype(np.float64)).tolist() == vector[inside].tolist()
        assert slab.counts().tolist() == counts[inside]
        assert not isinstance(slab, TiedSlab)
    assert done == prod(chain.output_shape)
    turned = layer.adjoint()
    assert (turned.input_shape, turned.output_shape) == (chain.output_shape, chain.input_shape)
    z = np.random.default_rng(seed).integers(-3, 4, chain.output_shape).astype(np.float64)
    back = brute.applied(brute.turned(chain.values()), z, chain.input_shape)
    assert turned.apply(z).tolist() == back.tolist()
    assert not turned.bias_tensor().any()


@many_examples
@given(chain=chains())
def test_the_bias_of_a_product_goes_through_all_that_follows(chain):
    layer = chain.layer
    bias = layer.bias_tensor()
    assert (bias.shape, bias.dtype) == (chain.output_shape, layer.dtype)
    exact = chain.bias_tensor().astype(float)
    assert bias.tolist() == exact.astype(layer.dtype).tolist()


@some_examples
@given(chain=chains(("reals",)), order=orders, most=st.integers(1, 60), seed=SEEDS)
def test_sums_of_a_product_bound_what_rounding_does(chain, order, most, seed):
    layer, layout = chain.layer, Layout(order)
    x = np.random.default_rng(seed).standard_normal(chain.input_shape).astype(np.float32)
    fractions = np.vectorize(Fraction, otypes=[object])(x)
    exact = brute.applied(chain.values(), fractions, chain.output_shape) + chain.bias_tensor()
    narrow = x
    for case in chain.cases:  # in float32 all the way
        kernel, bias = case.kernel.astype(np.float32), case.bias_tensor().astype(np.float32)
        narrow = case.layer.apply(narrow, lambda w: w.astype(np.float32)) + bias
        assert (narrow.dtype, kernel.dtype) == (np.float32, np.float32)
    exact, narrow = layout.vector(exact), layout.vector(narrow)
    sizes = brute.applied(chain.magnitudes(), abs(fractions), chain.output_shape)
    sizes = layout.vector(sizes)
    done = 0
    for sums in layer.sums(x, layout, most):
        assert sums.rows.start == done
        done = sums.rows.stop
        inside = slice(sums.rows.start, done)
        off = abs(sums.answer.astype(object) - exact[inside])
        assert (off <= sums.terms * sums.scale * 2.0**-53).all()
        off = abs(narrow[inside].astype(np.float64) - sums.answer)
        assert (off <= sums.terms * sums.scale * 2.0**-24 * (1 + 2**-20)).all()
        assert (sums.scale >= sizes[inside].astype(float) * (1 - 2**-40)).all()
    assert done == len(exact)


def test_sums_of_a_product_are_no_looser_than_they_have_to_be():
    chain = Product(
        [Dense(np.full((3, 2), 2.0), bias=np.full(3, -1.0)), Dense(np.full((1, 3), -5.0))]
    )
    (sums,) = chain.sums(np.array([1.0, -1.0]), Layout(), 10)
    assert sums.answer.tolist() == [15.0]  # 3 times -5 (2 - 2 - 1)
    assert sums.scale.tolist() == [75.0]  # 3 times 5 (2 + 2 + 1)
    # 2 + 1 terms, 3 + 1 terms, and the matrix and its bias are rounded.
    assert sums.terms.tolist() == pytest.approx([9.0], rel=1e-5)
    assert sums.terms[0] >= 9


@many_examples
@given(chain=chains())
def test_a_product_has_the_shapes_and_the_dtype_of_its_layers(chain):
    layer = chain.layer
    assert (layer.input_shape, layer.output_shape) == (chain.input_shape, chain.output_shape)
    outline = layer.outline
    assert (outline.rows, outline.columns) == (prod(chain.output_shape), prod(chain.input_shape))
    assert (outline.kernel_shape, outline.groups) == ((), 1)
    wide = any(case.kernel.dtype == np.float64 for case in chain.cases)
    assert layer.dtype == (np.float64 if wide else np.float32)
    assert layer.counts.shape == chain.output_shape
    assert layer.astype("float64").dtype == np.float64
    assert layer.astype("float32").dtype == np.float32


@many_examples
@given(chain=chains())
def test_a_description_and_its_arrays_make_a_product_anew(chain):
    layer = chain.layer
    content = json.loads(json.dumps(described(layer)))
    made = restored(content, layer.arrays().__getitem__)
    assert json.loads(json.dumps(described(made))) == content
    assert made.arrays().keys() == layer.arrays().keys()
    assert all(same_bits(made.arrays()[name], array) for name, array in layer.arrays().items())
    assert same_bits(made.bias_tensor(), layer.bias_tensor())
    assert [factor.kind for factor in made.factors] == [case.layer.kind for case in chain.cases]


@some_examples
@given(chain=chains(), data=st.data())
def test_what_an_output_of_a_product_reads_has_sums_and_no_weights(chain, data):
    output = data.draw(st.sampled_from(brute.indices(chain.output_shape)))
    source = data.draw(st.sampled_from(brute.indices(chain.input_shape)))
    values = chain.values()
    found = {(tap.output, tap.input): float(value) for tap, value in chain.layer.reads(output)}
    assert found == {pair: float(value) for pair, value in values.items() if pair[0] == output}
    fed = {(tap.output, tap.input): float(value) for tap, value in chain.layer.feeds(source)}
    assert fed == {pair: float(value) for pair, value in values.items() if pair[1] == source}
    assert all(tap.kernel == () for tap, _ in chain.layer.reads(output))
    assert chain.layer.weight_of(output, source) is None
    with pytest.raises(UsageError, match="copies of no weight"):
        chain.layer.stands((0,))
    with pytest.raises(UsageError, match="kernel_index"):
        chain.layer.rows(Layout(), kernel_index=True)


@some_examples
@given(chain=chains())
def test_every_input_of_a_product_has_a_colour_of_its_own(chain):
    colours = chain.layer.colours()
    assert colours.shape == chain.input_shape
    assert sorted(colours.reshape(-1).tolist()) == list(range(chain.layer.most_colours))


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ([], "a product of 0 layers"),
        ([Dense(np.ones((2, 3), F32)), Dense(np.ones((2, 3), F32))], r"makes \(2,\), .*\(3,\)"),
        ([Dense(np.ones((2, 3), np.int32))], "whole numbers are not multiplied"),
        ([Diagonal(np.ones(1, F32), (2,))] * 65, "a product of 65 layers; 1 to 64"),
    ],
)
def test_what_is_no_chain_is_refused(factors, told):
    with pytest.raises(GeometryError, match=told):
        Product(factors)


def test_products_in_a_product_are_the_layers_that_they_have():
    one, other = Dense(np.ones((2, 3), F32)), Dense(np.ones((4, 2), F32))
    nested = Product([Product([one]), Product([Product([other])])])
    assert nested.factors == (one, other)
    assert len(Product([Diagonal(np.ones(1, F32), (2,))] * 64).factors) == 64


def test_a_product_of_too_many_paths_is_refused_before_it_is_multiplied():
    wide = Dense(np.ones((2**12, 2**12), F32))
    with pytest.raises(
        Refused, match=r"3 layers takes too long to multiply, some 1.4e\+11 products"
    ):
        _ = Product([wide, wide, wide]).nnz


# --- what is refused ----------------------------------------------------------------------------


AXIS = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Gather((3,), np.array([3])), "a source beyond the 3 inputs"),
        (lambda: Gather((3,), np.array([-2])), "a source beyond the 3 inputs"),
        (lambda: Gather((3,), np.array([0.0])), "sources of float64"),
        (lambda: Gather((3,), np.array(0)), r"shape \(\)"),
        (lambda: Gather((3,), np.zeros((0, 2), int)), r"shape \(0, 2\)"),
        (lambda: Gather((), np.array([0])), r"a tensor of shape \(\)"),
        (lambda: Gather((2, 0), np.array([-1])), r"a tensor of shape \(2, 0\)"),
        (lambda: Gather((3,), np.array([0]), kernel=np.ones(2, F32)), r"kernel of shape \(2,\)"),
        (lambda: Gather((3,), np.array([0]), kernel=np.ones(1, "f2")), "a kernel of float16"),
        (lambda: Diagonal(np.ones(3, F32), (3, 2)), r"kernel of shape \(3,\) .* \(3, 2\)"),
        (lambda: Diagonal(np.ones((2, 2), F32), (3, 2)), r"kernel of shape \(2, 2\)"),
        (lambda: Diagonal(np.ones((), F32), ()), r"kernel of shape \(\)"),
        (lambda: Diagonal(np.ones(3, F32), (3,), np.ones(2, F32)), r"bias of shape \(2,\)"),
        (lambda: Diagonal(np.ones(3, F32), (3,), np.ones(3)), "float64; .* of float32"),
        (lambda: Dense(np.ones(3, F32)), r"\(3,\); \(out, in\)"),
        (lambda: Dense(np.ones((0, 3), F32)), r"\(0, 3\); \(out, in\)"),
        (lambda: Dense(np.ones((2, 3), F32), bias=np.ones(3, F32)), r"bias of shape \(3,\)"),
        (lambda: Dense(np.ones((2, 3), F32), (4,), bias=np.ones(2, F32)), r"outputs of \(4, 2\)"),
        (lambda: Dense(np.ones((2, 3), F32), bias=np.ones(2)), "float64; .* of float32"),
        (lambda: Dense(np.ones((2, 3), np.int64)), "a kernel of int64"),
        (lambda: LocallyConnected(np.ones((1, 1, 2, 3), F32), (AXIS,)), r"\(1, 1, 2, 3\)"),
        (lambda: LocallyConnected(np.ones((1, 1), F32), ()), r"\(1, 1\)"),
        (
            lambda: LocallyConnected(np.ones((1, 1, 2, 2), F32), (AXIS,), np.ones(1, F32)),
            r"\(1,\) .*\(1, 2\)",
        ),
        (
            lambda: LocallyConnected(
                np.ones((1, 1, 2, 2), F32), (AXIS,), np.ones((1, 2), F32), transposed=True
            ),
            r"\(1, 2\) .*\(1, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_it_is(make, told):
    with pytest.raises(GeometryError, match=told):
        make()


def hostile(layer: Linear, change: Any) -> tuple[str, str]:
    """What comes of a file with another description."""
    data = rendered(NPZ, Matrix(layer))
    content = crafted.description(data)
    change(content)
    return outcome(crafted.redescribed(data, content))


EXAMPLES: dict[str, TiedLinear] = {
    "gather": Gather((2, 3), np.array([[1, 5, -1], [1, 0, 2]])),
    "gather transposed": Gather((2, 3), np.array([[1, 5, -1], [1, 0, 2]]), transposed=True),
    "diagonal": Diagonal(np.array([[2], [3]], F32), (2, 3), np.array([[1], [-1]], F32)),
    "dense": Dense(np.arange(6, dtype=F32).reshape(2, 3), (2,), (), np.ones((1, 2), F32)),
    "dense transposed": Dense(np.arange(6, dtype=F32).reshape(2, 3), transposed=True),
    "local": LocallyConnected(np.arange(1, 9, dtype=F32).reshape(1, 2, 2, 2), (AXIS,)),
    "local transposed": LocallyConnected(
        np.arange(1, 9, dtype=F32).reshape(1, 2, 2, 2),
        (AXIS,),
        np.arange(6, dtype=F32).reshape(2, 3),
        transposed=True,
    ),
    "int32": Dense(np.array([[2**31 - 1, -(2**31)], [0, 7]], np.int32), bias=np.ones(2, np.int32)),
}
LAYERS: dict[str, Linear] = {
    **EXAMPLES,
    "product": Product([EXAMPLES["gather"], EXAMPLES["diagonal"], EXAMPLES["dense"]]),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
WRONG = (None, -1, 0, 1.5, 10**30, "x", [], [[]], [-1], [2**62] * 3, {}, {"x": 1}, True, False)


@every_layer
def test_a_field_of_another_type_or_size_is_malformed(name):
    layer = LAYERS[name]
    content = json.loads(json.dumps(described(layer)))
    for field, own in content.items():
        for value in WRONG:
            if json.dumps(value) == json.dumps(own):
                continue
            kind, told = hostile(layer, lambda c, f=field, v=value: c.update({f: v}))
            other = field == "transposed" and type(value) is bool  # of shapes that fit both ways
            assert kind == "MalformedInput" or (other and kind == "wrong"), (field, value, told)
        kind, told = hostile(layer, lambda c, f=field: c.pop(f))
        assert kind == "MalformedInput", (field, told)


def test_a_field_of_a_factor_is_held_to_the_same():
    layer = LAYERS["product"]
    for number, factor in enumerate(json.loads(json.dumps(described(layer)))["factors"]):
        for field, own in factor.items():
            for value in WRONG[::3]:
                if json.dumps(value) == json.dumps(own):
                    continue
                kind, told = hostile(
                    layer, lambda c, n=number, f=field, v=value: c["factors"][n].update({f: v})
                )
                large = field == "far" and kind == "Refused"
                other = field == "transposed" and type(value) is bool and kind == "wrong"
                assert kind == "MalformedInput" or large or other, (number, field, value, told)


@pytest.mark.parametrize("far", [2**26, 2**40, 2**62])
def test_tensors_of_a_strangers_sizes_are_not_made(far):
    def gather(c: Any) -> None:
        c.update({"far": [far], "input_shape": [far], "shape": [6, far]})

    def diagonal(c: Any) -> None:
        shapes = {"input_shape": [far], "output_shape": [far]}
        c["factors"] = [{**factor, **shapes} for factor in c["factors"]]
        c.update({**shapes, "shape": [far, far], "nonzeros": far})

    two = Product([Diagonal(np.ones(1, F32), (3,))] * 2)
    tracemalloc.start()
    try:
        assert hostile(EXAMPLES["gather"], gather)[0] == "WrongContents"  # of the stored shape
        kind, told = hostile(two, diagonal)
        assert (kind, f"a tensor of {far} elements" in told) == ("Refused", True)
        with pytest.raises(Refused, match="outputs; at most"):
            Diagonal(np.ones(1, F32), (4 * far,)).rows(Layout())
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.update(kind="toeplitz"), "the unknown kind 'toeplitz'"),
        (lambda c: c.update(kind=["dense"]), "a text belongs"),
        (lambda c: c["factors"].clear(), "a product of 0 layers"),
        (lambda c: c.update(factors=c["factors"] * 33), "more than 64 factors"),
        (lambda c: c["factors"][0].update(kind="product", factors=[]), "products among them"),
        (lambda c: c["factors"].pop(), "it says shape [4, 6], its geometry [6, 6]"),
        (lambda c: c["factors"].reverse(), "no member 0.kernel_bias"),
    ],
)
def test_factors_that_are_none_are_malformed(change, told):
    kind, found = hostile(LAYERS["product"], change)
    assert kind == "MalformedInput"
    assert told in found


# --- in files -----------------------------------------------------------------------------------

FILES = [("npz", "csr"), ("npz", "operator"), ("npy", "dense"), ("hdf5", "csr"), ("hdf5", "dense")]
in_every_file = pytest.mark.parametrize(("file", "form"), FILES)


@every_layer
@in_every_file
def test_every_kind_is_written_read_back_and_proven(name, file, form):
    layer, kind = LAYERS[name], registry.formats()[file]
    for layout in LAYOUTS:
        matrix = Matrix(layer, Spec(layout, form))
        data = rendered(kind, matrix)
        (stored,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
        found = stored.matrix.layer
        assert json.dumps(described(found)) == json.dumps(described(layer))
        assert all(same_bits(found.arrays()[key], array) for key, array in layer.arrays().items())
        report = crafted.proven(stored, exhaustive=True)
        assert crafted.failures(report) == []
        exact = name != "product"
        strength = {True: "every entry", False: "rounding bound"}[exact]
        if form == "operator":
            assert (report.verdict, report.strength) == ("consistent", "digest only")
        else:
            assert (report.verdict, report.strength) == ("proven", strength)
        undone = [] if exact and form != "operator" else ["impulses"]
        assert [finding.check for finding in report.undone] == undone
        checks = {finding.check for finding in report.findings}
        assert ({"factors", "product"} <= checks) == (form != "operator" and not exact)


@some_examples
@given(chain=chains(("integers", "zeros of integers", "reals")), layout=layouts(), seed=SEEDS)
def test_every_product_that_is_written_is_proven(chain, layout, seed):
    for kind, form in ((NPZ, "csr"), (NPY, "dense")):
        matrix = Matrix(chain.layer, Spec(layout, form))
        report = crafted.verified(kind, matrix, rendered(kind, matrix), seed=seed)
        assert crafted.failures(report) == []
        assert (report.verdict, report.strength) == ("proven", "rounding bound")


@every_kind
@few_examples
@given(data=st.data(), layout=layouts(), index=st.booleans())
def test_every_layer_that_is_written_is_proven(kind, data, layout, index):
    case = data.draw(copies(kind))
    matrix = Matrix(case.layer, Spec(layout, kernel_index=index))
    report = crafted.verified(NPZ, matrix, rendered(NPZ, matrix), exhaustive=True)
    assert crafted.failures(report) == []
    assert not report.undone
    assert report.strength == ("2^-96" if index else "every entry")


@every_kind
@few_examples
@given(data=st.data(), layout=layouts(), at=SEEDS, bit=st.integers(0, 63))
def test_one_bit_of_one_entry_is_seen(kind, data, layout, at, bit):
    case = data.draw(copies(kind))
    matrix = Matrix(case.layer, Spec(layout))
    contents = crafted.arrays(rendered(NPZ, matrix))
    if not len(contents["data"]):
        return
    width, place = contents["data"].dtype.itemsize, at % len(contents["data"])
    contents["data"].view(f"u{width}")[place] ^= np.array(1 << bit % (8 * width), f"u{width}")
    report = crafted.checked(crafted.saved(contents))
    assert report.verdict == "wrong"
    assert report.complaint.startswith("entries: entry (")


@every_layer
def test_a_file_is_a_linear_operator(name, tmp_path):
    layer = LAYERS[name]
    for layout in LAYOUTS:
        path = crafted.written(NPZ, Matrix(layer, Spec(layout, "operator")), tmp_path)
        operator = load(path)
        indptr, indices, data = layer.rows(layout).block(0, operator.shape[0])
        dense = csr_array((data, indices, indptr), shape=operator.shape).toarray()
        assert operator.dtype == layer.dtype
        assert operator.rows(0, operator.shape[0]).toarray().tolist() == dense.tolist()
        x = np.random.default_rng(1).integers(-9, 10, operator.shape[1]).astype(np.float64)
        y = np.random.default_rng(2).integers(-9, 10, operator.shape[0]).astype(np.float64)
        assert (operator @ x).tolist() == (dense.astype(float) @ x).tolist()
        assert (operator.rmatvec(y)).tolist() == (dense.astype(float).T @ y).tolist()
        assert operator.bias.tolist() == layout.vector(layer.bias_tensor()).tolist()
        row, column = map(int, np.argwhere(dense)[-1])
        tap, value = operator.tap(row, column)
        assert value.item() == dense[row, column].item()
        assert tap.kernel == (layer.weight_of(tap.output, tap.input) or ())
        row, column = map(int, np.argwhere(dense == 0)[0]) if (dense == 0).any() else (0, 0)
        assert operator.entry(row, column)[0] == tap_output(operator, row, column)


def tap_output(operator: Any, row: int, column: int) -> Any:
    output = column if operator.layout.transpose else row
    return operator.layout.unflatten(output, operator.layer.output_shape)


@every_layer
def test_the_command_proves_and_maps_every_kind(name, folder):
    layer = LAYERS[name]
    path = crafted.written(NPZ, Matrix(layer, origin=Origin(layer="l")), folder, "m")
    done = run("verify", path, "--exhaustive")
    if name == "product":
        assert done.code == 4
        assert "not checked (impulses): the entries of a product are sums" in done.err
        assert done.out == f"proven\t{path}\trounding bound\n"
    else:
        assert done.succeeded().out == f"proven\t{path}\tevery entry\n"
    output = next(o for o in brute.indices(layer.output_shape) if list(layer.reads(o)))
    told = run("map", path, "--output", ",".join(map(str, output)), "--json").succeeded()
    found = json.loads(told.out)
    expected = list(layer.reads(output))
    assert [tuple(line["input"]) for line in found] == [tap.input for tap, _ in expected]
    assert [line["weight"] for line in found] == [value.item() for _, value in expected]
    source = ",".join(map(str, expected[0][0].input))
    fed = run("map", path, "--input", source, "--json").succeeded()
    assert list(output) in [line["output"] for line in json.loads(fed.out)]
    row = Layout().flatten(output, layer.output_shape)
    column = Layout().flatten(expected[0][0].input, layer.input_shape)
    one = run("map", path, "--entry", f"{row},{column}").succeeded()
    assert ("\ta sum\t" in one.out) == (name == "product")
    kernel = ",".join(map(str, expected[0][0].kernel)) or "0"
    stands = run("map", path, "--kernel", kernel, "--json")
    if name == "product":
        assert stands.code == 2
        assert "copies of no weight" in stands.err
    else:
        assert list(output) in [line["output"] for line in json.loads(stands.succeeded().out)]


def test_whole_numbers_are_held_to_a_runtime_too():
    layer = crafted.example().layer
    layer = layer.with_kernel((8 * layer.kernel).astype(np.int32), np.array([5, -6], np.int32))
    for file, form in (("npz", "csr"), ("npy", "dense"), ("hdf5", "csr")):
        kind, matrix = registry.formats()[file], Matrix(layer, Spec(form=form))
        data = rendered(kind, matrix)
        report = crafted.verified(kind, matrix, data, against="reference")
        assert (report.verdict, report.undone) == ("proven", ())
    assert crafted.arrays(rendered(NPZ, Matrix(layer)))["data"].dtype == np.int32


def test_a_runtime_that_is_one_off_in_whole_numbers_does_not_agree():
    layer = crafted.example().layer
    layer = layer.with_kernel((8 * layer.kernel).astype(np.int32), np.array([5, -6], np.int32))
    witness = as_read(layer).witness(ORACLE, np.random.default_rng(3))
    assert not isinstance(witness, str)
    assert check_runtime(layer, witness).holds
    assert check_runtime(layer, replace(witness, y=witness.y + (witness.y == 0))).holds is (
        not (witness.y == 0).any()
    )
    assert check_runtime(layer, replace(witness, y=witness.y + 1)).holds is False


# --- faults in the file of a product ------------------------------------------------------------


def faulty(change: Any, **options: Any) -> Any:
    """The report of the chain's file after something in it has been changed."""
    contents = crafted.arrays(rendered(NPZ, Matrix(CHAIN)))
    change(contents)
    return crafted.checked(crafted.saved(contents), **options)


def test_the_chain_has_an_entry_that_cancels_to_zero():
    data = CHAIN.rows(Layout()).data.array()
    assert CHAIN.nnz == len(data) == 6
    assert data.tolist() == [8, -2, F32(1.1).item(), pytest.approx(-0.5), 11, -9]


@pytest.mark.parametrize("entry", range(6))
@pytest.mark.parametrize("factor", [1 + 2.0**-20, 1 - 2.0**-20, -1, 0, 2, np.nan, np.inf])
def test_an_entry_beyond_rounding_is_wrong_and_named(entry, factor):
    def change(contents: Any) -> None:
        contents["data"][entry] *= F32(factor)

    report = faulty(change)
    assert report.verdict == "wrong"
    row, column = divmod(entry, 2)
    assert report.complaint.startswith(f"entries: entry ({row}, {column}), output ({row},)")
    assert ": a sum, expected " in report.complaint


@pytest.mark.parametrize(
    ("stored", "verdict"),
    [
        (1.0, "proven"),
        (1 + 2.0**-23, "proven"),
        (1 + 2.0**-22, "wrong"),
        (1 - 2.0**-24, "wrong"),
    ],
)
def test_a_sum_may_be_rounded_either_way_and_no_further(stored, verdict):
    """1 + 2^-24 lies between two numbers of float32. Which of them is stored depends on the order
    of the sums: a last bit is what the proof of a product gives up, and this is all.
    """
    layer = Product([Dense(np.array([[1], [2.0**-24]], F32)), Dense(np.ones((1, 2), F32))])
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    assert contents["data"].tolist() == [1.0]
    contents["data"][0] = stored
    assert crafted.checked(crafted.saved(contents)).verdict == verdict


@pytest.mark.parametrize(
    ("off", "verdict"), [(0, "proven"), (2.0**-50, "proven"), (-(2.0**-45), "wrong")]
)
def test_of_terms_that_cancel_what_float64_loses_is_allowed_for(off, verdict):
    e = 2.0**-23
    layer = Product([Dense(np.array([[1 + e], [1]], F32)), Dense(np.array([[1 - e, -1]], F32))])
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    assert contents["data"].tolist() == [-(e**2)]
    contents["data"][0] += F32(off)
    assert crafted.checked(crafted.saved(contents)).verdict == verdict


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_entries_that_are_tiny_the_smallest_number_is_allowed_for(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    small = np.array([[tiny * 1000]], dtype)
    layer = Product([Dense(small), Dense(np.ones((1, 1), dtype))])
    for off, found in ((1, "proven"), (2, "wrong"), (-2, "wrong")):
        contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
        contents["data"][0] += off * tiny
        assert sums_alone(layer, contents) == found, off


def sums_alone(layer: Product, contents: Any) -> str:
    """What the check of the entries says, without the levels beside it."""
    subject = Subject(Matrix(layer), True)
    level = ProductEntries(subject, layer)
    block = Block(0, contents["indptr"], contents["indices"], contents["data"])
    try:
        level.hold(block, slice(0, layer.nnz))
    except WrongContents:
        return "wrong"
    assert level.finding().detail.startswith(f"{layer.nnz} entries ")
    return "proven"


def test_an_entry_that_overflows_is_infinite_and_proven_and_finite_it_is_wrong():
    layer = Product([Dense(np.full((1, 1), 1e30, F32)), Dense(np.full((1, 1), 1e30, F32))])
    for stored, verdict in ((np.inf, "proven"), (-np.inf, "wrong"), (3e38, "wrong")):
        contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
        assert contents["data"].tolist() == [np.inf]
        contents["data"][0] = stored
        assert crafted.checked(crafted.saved(contents)).verdict == verdict


def test_where_a_weight_is_not_finite_a_finite_entry_is_wrong():
    layer = Product([Dense(np.array([[np.nan, 1]], F32)), Dense(np.array([[2]], F32))])
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    assert crafted.checked(crafted.saved(contents)).ok
    contents["data"][0] = 2
    report = crafted.checked(crafted.saved(contents))
    assert report.complaint.startswith("entries: entry (0, 0), ")


def twice(contents: Any) -> None:
    contents["indices"][1] = 0


def dropped(contents: Any) -> None:
    for name in ("data", "indices"):
        contents[name] = contents[name][1:]
    contents["indptr"][1:] -= 1


def added(contents: Any) -> None:
    for name in ("data", "indices"):
        contents[name] = contents[name][:-1]
    contents["indptr"][-1] += 1


def bit_of_a_factor(contents: Any) -> None:
    contents["2.kernel"].view(np.uint32)[1, 1] ^= np.uint32(1)


def source_of_a_factor(contents: Any) -> None:
    contents["1.source"][0] = 0


def bias_of_a_factor(contents: Any) -> None:
    contents["0.kernel_bias"][1] += 1


def bias(contents: Any) -> None:
    contents["bias"][1] *= F32(1 + 2.0**-18)


def bias_that_is_none(contents: Any) -> None:
    contents["bias"][2] = np.nan


def bias_of_another_dtype(contents: Any) -> None:
    contents["bias"] = contents["bias"].astype(np.float64)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (twice, "structure: row 0 has column 0 after 0"),
        (bit_of_a_factor, "digest: "),
        (source_of_a_factor, "digest: "),
        (bias_of_a_factor, "digest: "),
        (bias, "bias: bias 1 is "),
        (bias_that_is_none, "bias: bias 2 is nan"),
        (bias_of_another_dtype, "bias: bias is (3,) of float64"),
    ],
)
def test_what_is_changed_in_the_file_of_a_product_is_found(change, told):
    report = faulty(change)
    assert report.verdict == "wrong"
    assert report.complaint.startswith(told)


@pytest.mark.parametrize("change", [dropped, added])
def test_rows_of_another_length_are_wrong_before_they_are_read(change):
    with pytest.raises(WrongContents, match=r"indptr|indices"):
        faulty(change)


SCATTERED = Product(
    [Diagonal(np.array([2, 3, 5], F32), (3,)), Gather((3,), np.array([0, -1, 2, 1]))]
)
"""[[2 . .] [. . .] [. . 5] [. 3 .]]"""


@pytest.mark.parametrize(
    ("entry", "column", "told"),
    [
        (0, 1, "entry (0, 0), output (0,) from input (0,): a sum, expected 2.0, found nothing"),
        (1, 0, "entry (2, 0), output (2,) from input (0,): a structural zero, expected nothing, "),
        (2, 0, "entry (3, 0), output (3,) from input (0,): a structural zero, expected nothing, "),
        (2, 2, "entry (3, 1), output (3,) from input (1,): a sum, expected 3.0, found nothing"),
    ],
)
@pytest.mark.parametrize("transpose", [False, True])
def test_an_entry_that_was_moved_is_wrong_whatever_it_is(entry, column, told, transpose):
    layer = SCATTERED.adjoint() if transpose else SCATTERED
    matrix = Matrix(layer, Spec(Layout(transpose=transpose)))  # the same rows, as columns
    contents = crafted.arrays(rendered(NPZ, matrix))
    contents["indices"][entry] = column
    report = crafted.checked(crafted.saved(contents))
    where = told.partition(":")[2] if transpose else told
    assert report.complaint.startswith("entries: entry (")
    assert where in report.complaint


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ((0, 0), 2.0, ""),
        ((0, 0), 0.0, "entry (0, 0), output (0,) from input (0,): a sum, expected 2.0, found 0.0"),
        ((0, 1), 1.0, "a structural zero, expected 0.0, found 1.0"),
        ((1, 2), -0.0, "a structural zero, expected 0.0, found -0.0"),
        ((3, 1), 3.1, "a sum, expected 3.0, found 3.1"),
    ],
)
def test_in_a_dense_file_of_a_product_every_entry_and_every_zero_is_held(place, value, told):
    matrix = Matrix(SCATTERED, Spec(form="dense"))
    dense = np.load(io.BytesIO(rendered(NPY, matrix)))
    dense[place] = value
    report = crafted.verified(NPY, matrix, crafted.npy(dense))
    assert report.ok == (told == "")
    assert told in report.complaint


def test_in_a_dense_file_terms_that_cancel_are_no_entry_and_may_be_nothing_else():
    matrix = Matrix(Product([ENDS, ENDS.adjoint()]), Spec(form="dense"))  # [[2 0] [0 2]]
    dense = np.load(io.BytesIO(rendered(NPY, matrix)))
    assert dense.tolist() == [[2, 0], [0, 2]]
    assert crafted.verified(NPY, matrix, crafted.npy(dense)).verdict == "proven"
    dense[0, 1] = 1e-6
    report = crafted.verified(NPY, matrix, crafted.npy(dense))
    assert report.complaint.endswith("a sum, expected 0.0, found 1e-06")


def test_the_first_of_several_wrong_entries_is_named_and_others_after_it_are_not():
    def change(contents: Any) -> None:
        contents["data"][[5, 3]] += 1

    assert faulty(change).complaint.startswith("entries: entry (1, 1), ")


@pytest.mark.parametrize("entry", range(6))
def test_rows_are_told_right_in_files_of_many_blocks(entry, monkeypatch):
    for module in (check, blocks):
        monkeypatch.setattr(module, "CHUNK", 2)

    def change(contents: Any) -> None:
        contents["data"][entry] += 1

    row, column = divmod(entry, 2)
    assert faulty(lambda contents: None).verdict == "proven"
    assert faulty(change).complaint.startswith(f"entries: entry ({row}, {column}), ")


def test_a_factor_with_its_zeros_in_wrong_places_is_a_defect(monkeypatch):
    own = Diagonal._entries

    def displaced(self: Any, outputs: Array, layout: Layout) -> tuple[Array, Array]:
        columns, index = own(self, outputs, layout)
        return (columns + 1) % 3, index

    monkeypatch.setattr(Diagonal, "_entries", displaced)
    zeros = Product([Diagonal(np.zeros(1, F32), (3,))])
    with pytest.raises(Defect, match="the rows of a diagonal are not what it computes"):
        Factors(zeros, Layout(), 1, 3, "2^-96").finding()


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float64])
def test_sources_of_another_dtype_in_a_file_are_malformed(dtype):
    contents = crafted.arrays(rendered(NPZ, Matrix(SCATTERED.factors[1].adjoint())))
    contents["source"] = np.abs(contents["source"]).astype(dtype)
    kind, told = outcome(crafted.saved(contents))
    assert (kind, f"its source is {np.dtype(dtype)}" in told) == ("MalformedInput", True)


@pytest.mark.parametrize("name", ["diagonal", "dense", "local transposed"])
@pytest.mark.parametrize("value", [-0.0, np.nan])
def test_a_bias_is_held_bit_for_bit_where_it_is_a_copy(name, value):
    layer = EXAMPLES[name]
    own = layer.with_kernel(layer.kernel, np.full_like(layer.bias, value))
    data = rendered(NPZ, Matrix(own))
    assert crafted.checked(data).verdict == "proven"
    contents = crafted.arrays(data)
    contents["bias"].view(np.uint32)[-1] ^= np.uint32(1 << 31)
    assert crafted.checked(crafted.saved(contents)).complaint.startswith("bias: bias ")


@pytest.mark.parametrize("kind", ["gather", "diagonal", "dense", "local"])
def test_factors_that_do_not_compute_their_rows_are_a_defect(kind, monkeypatch):
    """The file cannot show it: its entries would be multiplied from the same wrong rows."""
    factor = EXAMPLES[kind]
    wrong = np.zeros_like if kind != "gather" else lambda x: 2 * x
    own = type(factor)._applied
    monkeypatch.setattr(type(factor), "_applied", lambda s, x, k: wrong(own(s, x, k)))
    monkeypatch.setattr(Dense, "_part", blockwise.Blockwise._part)
    subject = Subject(Matrix(Product([factor])), True)
    with pytest.raises(Defect, match=f"the rows of a {factor.kind} are not what it computes"):
        Factors(Product([factor]), subject.upright, 1, 3, "2^-96").finding()


def test_factors_are_proven_each_and_said_to_be():
    found = Factors(CHAIN, Layout(), 1, 2, "2^-64").finding()
    assert found.holds
    assert found.detail.startswith("3 factors with 19 entries, made anew: ")
    assert found.detail.endswith("by 2 random probes each")
    assert (found.strength, found.against) == ("2^-64", "the oracle")


@pytest.mark.parametrize("at", range(6))
def test_the_product_as_a_whole_is_held_to_its_layers_one_after_another(at, monkeypatch):
    """Where the check of the entries were blind, reals would still see a wrong one."""
    monkeypatch.setattr(ProductEntries, "hold", lambda self, block, part: None)

    def change(contents: Any) -> None:
        contents["data"][at] += F32(0.01)

    assert faulty(change, seed=1).complaint.startswith("product: output (")


def test_with_other_kernel_arrays_a_kernel_index_is_no_part_of_a_product():
    with pytest.raises(UsageError, match="kernel_index"):
        rendered(NPZ, Matrix(CHAIN, Spec(kernel_index=True)))


# --- against the model --------------------------------------------------------------------------


@every_layer
def test_a_layer_of_any_kind_is_held_to_the_models(name):
    layer = LAYERS[name]
    data = rendered(NPZ, Matrix(layer))
    assert crafted.checked(data, original=Matrix(layer)).ok
    with np.errstate(over="ignore"):
        other = layer.with_weights(lambda w: w + w.dtype.type(1))
    told = crafted.checked(data, original=Matrix(other)).complaint
    assert told.startswith("origin: ")
    assert "kernel element (0" in told


def test_another_source_of_a_gather_is_another_origin():
    other = Gather((2, 3), np.array([[1, 5, -1], [1, 0, 3]]))
    told = crafted.checked(rendered(NPZ, Matrix(other)), original=Matrix(EXAMPLES["gather"]))
    assert told.complaint == "origin: source element (1, 2) is 3, in the model 2"


@pytest.mark.parametrize("inside", [False, True])
def test_no_bias_is_the_origin_of_a_bias_of_zeros_and_of_no_other(inside):
    def made(bias: Any) -> Matrix:
        layer = Dense(np.ones((2, 2), F32), bias=None if bias is None else np.full(2, bias, F32))
        return Matrix(Product([layer, ENDS]) if inside else layer)

    for one, other, same in ((None, 0, True), (0, None, True), (None, -0.0, False), (1, 0, False)):
        report = crafted.checked(rendered(NPZ, made(one)), original=made(other))
        assert report.ok == same
        assert same or report.complaint == "origin: the bias is not that of the model's layer"


# --- what has to be true of a product whatever it is given ----------------------------------------


@pytest.mark.parametrize("other", [-np.inf, np.nan, 1.0])
def test_an_entry_that_is_not_finite_is_no_other_that_is_not(other):
    factors = [Diagonal(np.array([np.inf, 2], F32), (2,)), Dense(np.ones((1, 2), F32))]
    contents = crafted.arrays(rendered(NPZ, Matrix(Product(factors))))
    assert crafted.checked(crafted.saved(contents)).ok
    contents["data"][0] = other
    report = crafted.checked(crafted.saved(contents))
    assert report.complaint.startswith("entries: entry (0, 0), output (0,)")


def test_the_rows_of_a_chain_with_a_wide_middle_are_multiplied_a_few_at_a_time(monkeypatch):
    """16 numbers, 4,096 in between, 16 again: few entries, each from many paths."""
    wide, narrow = random_dense(4096, 16), random_dense(16, 4096)
    layer, made = Product([wide, narrow]), []
    rows_of = product._rows_of

    def watched(matrices: Any, first: int, last: int, change: Any) -> Any:
        made.append(last - first)
        return rows_of(matrices, first, last, change)

    monkeypatch.setattr(product, "_rows_of", watched)
    monkeypatch.setattr(product, "CHUNK", 2**13)
    data = layer.rows(Layout()).data.array()
    assert max(made) == 2
    expected = narrow.kernel.astype(np.float64) @ wide.kernel.astype(np.float64)
    assert np.allclose(data.reshape(16, 16), expected, rtol=1e-6)


def random_dense(made: int, read: int) -> Dense:
    random = np.random.default_rng([made, read])
    return Dense(random.standard_normal((made, read)).astype(F32))


def test_opening_the_file_of_a_chain_multiplies_nothing(monkeypatch):
    data = rendered(NPZ, Matrix(CHAIN))
    monkeypatch.setattr(product, "_times", None)
    (stored,) = NPZ.open(crafted.in_memory(data))
    assert stored.matrix.layer.nnz == CHAIN.nnz


def test_entries_that_a_file_of_a_chain_states_are_counted():
    contents = crafted.arrays(rendered(NPZ, Matrix(CHAIN)))
    content = json.loads(str(contents["convfc"]))
    content["nonzeros"] -= 1
    contents["convfc"] = np.array(json.dumps(content))
    for name in ("indices", "data"):
        contents[name] = contents[name][:-1]
    with pytest.raises(MalformedInput, match="indices is cut short"):
        crafted.checked(crafted.saved(contents))
