"""The contract that every kind of layer fulfils, held to brute force.

A layer's rows, its oracle, its index arithmetic and its description are four accounts of one map;
`tests.support.brute` has the fifth, by loops.
"""

import json
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli.layers import blockwise, locally_connected
from convfc_cli.layers import registry as layer_kinds
from convfc_cli.layers.blockwise import BlockRows
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.description import described, restored
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layout import Layout
from convfc_cli.matrices.matrix import Spec
from tests.support import brute
from tests.support.kinds import KINDS, Case, copies
from tests.support.layer_examples import (
    SEEDS,
    Array,
    block_sizes,
    every_kind,
    few_examples,
    many_examples,
    same_bits,
    some_examples,
)
from tests.support.strategies import rows_of, specs


def as_integers(weights: Array) -> Array:
    """The bits of the weights as numbers: any elementwise function will do."""
    return brute.bits(weights).astype(np.uint64)


def integers(shape: Any, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 2**64 - 1, shape, np.uint64, endpoint=True)


def modulo(case: Case, x: Array) -> list[int]:
    """What the bits of the weights make of integers, modulo 2^64, flat in C order."""
    bits = {pair: as_integers(case.kernel)[place].item() for pair, place in case.entries.items()}
    y = brute.applied(bits, x.astype(object), case.output_shape)
    return [int(value) % 2**64 for value in y.reshape(-1)]


# --- the rows ------------------------------------------------------------------------------------


def test_every_kind_is_looked_at():
    kinds = layer_kinds.kinds().items()
    ours = {name: kind for name, kind in kinds if kind.__module__.startswith("convfc_cli")}
    assert ours.keys() == {*KINDS, "product"}
    assert [name for name, kind in ours.items() if not kind.exact] == ["product"]


@every_kind
@many_examples
@given(data=st.data(), spec=specs(), most=st.integers(1, 40))
def test_the_rows_are_the_brute_force_matrix_in_every_layout(kind, data, spec, most):
    case = data.draw(copies(kind))
    expected = case.csr(spec)
    with pytest.MonkeyPatch.context() as patch:
        block_sizes(patch, most)
        rows = rows_of(case.layer, spec, kernel_index=True)
        plain = rows_of(case.layer, spec)
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
@given(data=st.data(), spec=specs(), most=st.integers(1, 40))
def test_any_part_of_the_rows_is_that_part_of_the_matrix(kind, data, spec, most):
    case = data.draw(copies(kind))
    expected = case.csr(spec)
    with pytest.MonkeyPatch.context() as patch:
        block_sizes(patch, most)
        rows = rows_of(case.layer, spec, kernel_index=True)
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
@given(case=copies("locally-connected"), spec=specs(), places=st.integers(1, 40))
def test_a_grid_that_is_looked_at_in_pieces_has_the_same_taps(case, spec, places):
    expected = case.csr(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locally_connected, "GRID", places)
        rows = rows_of(case.layer, spec, kernel_index=True)
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
    rows = Dense(kernel).matrix(Layout())
    assert rows.nnz > blockwise.BLOCK
    assert same_bits(rows.data.array(), kernel.reshape(-1))
    assert rows.indices.array().tolist() == list(range(301)) * 300


# --- the oracle ----------------------------------------------------------------------------------


@every_kind
@many_examples
@given(data=st.data(), seed=SEEDS)
def test_a_layer_applied_is_its_matrix_times_the_vector(kind, data, seed):
    case = data.draw(copies(kind))
    x = integers(case.input_shape, seed)
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
@given(data=st.data(), spec=specs())
def test_the_adjoint_is_the_transpose_without_a_bias(kind, data, spec):
    case = data.draw(copies(kind))
    adjoint = case.layer.adjoint()
    assert (adjoint.input_shape, adjoint.output_shape) == (case.output_shape, case.input_shape)
    assert adjoint.kind == kind
    assert not adjoint.bias_tensor().any()
    rows = rows_of(adjoint, spec)
    expected = case.csr(spec.transposed())
    assert rows.indptr.array().tolist() == expected.indptr.tolist()
    assert rows.indices.array().tolist() == expected.indices.tolist()
    assert same_bits(rows.data.array(), expected.data)
    x = integers(case.output_shape, 1)
    entries = brute.adjoint(case.entries)
    turned = Case(adjoint, entries, case.kernel, None, x.shape, case.input_shape)
    assert adjoint.apply(x, as_integers).reshape(-1).tolist() == modulo(turned, x)
    again = adjoint.adjoint()
    without = {name: value for name, value in described(again).items() if "bias" not in name}
    own = {name: value for name, value in described(case.layer).items() if "bias" not in name}
    assert without == own


@every_kind
@many_examples
@given(data=st.data(), spec=specs(), most=st.integers(1, 40), seed=SEEDS)
def test_slabs_of_any_size_are_the_layer_applied_in_order(kind, data, spec, most, seed):
    case = data.draw(copies(kind))
    x = integers(case.input_shape, seed)
    counts = np.diff(case.csr(Spec(spec.layout)).indptr)
    y = spec.layout.vector(np.array(modulo(case, x), np.uint64).reshape(case.output_shape))
    done = 0
    for slab in case.layer.slabs(spec.layout, most):
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
@given(data=st.data(), spec=specs(), most=st.integers(1, 40))
def test_strips_are_layers_over_parts_that_add_up_to_their_slab(kind, data, spec, most):
    case = data.draw(copies(kind))
    x = integers(case.input_shape, 3)
    for slab in case.layer.slabs(spec.layout, most):
        covered = np.zeros(case.input_shape, int)
        total = np.zeros(len(slab.rows), np.uint64)
        for strip in slab.strips():
            covered[strip.reads] += 1
            answer = strip.layer.apply(x[strip.reads], as_integers)
            total += spec.layout.vector(answer)[strip.outputs]
        assert covered.max() <= 1
        assert total.tolist() == slab.apply(x, as_integers).tolist()


@every_kind
@many_examples
@given(data=st.data())
def test_no_output_reads_two_inputs_of_one_color(kind, data):
    case = data.draw(copies(kind))
    colors = case.layer.colors()
    assert colors.shape == case.input_shape
    assert colors.min() >= 0
    assert colors.max() < case.layer.most_colors
    for sources in case.read.values():
        found = [int(colors[source]) for source in sources]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(("kind", "most"), [("gather", 1), ("diagonal", 1), ("dense", 4)])
@many_examples
@given(data=st.data())
def test_colors_are_few_where_outputs_read_few(kind, data, most):
    case = data.draw(copies(kind))
    needed = max(map(len, case.read.values()), default=1)
    assert case.layer.most_colors == needed
    assert needed <= most or (kind == "gather" and case.layer.transposed)


@every_kind
@some_examples
@given(data=st.data(), spec=specs(), most=st.integers(1, 40), seed=SEEDS)
def test_sums_are_answers_the_magnitudes_of_their_terms_and_how_many(kind, data, spec, most, seed):
    case = data.draw(copies(kind, ("integers",), (np.float32, np.float64)))
    x = np.random.default_rng(seed).integers(-9, 10, case.input_shape).astype(np.float32)
    values = {pair: case.kernel[place].item() for pair, place in case.entries.items()}
    sizes = {pair: abs(value) for pair, value in values.items()}
    bias = case.bias_tensor().astype(float)
    answer = spec.layout.vector(brute.applied(values, x, case.output_shape) + bias)
    scale = spec.layout.vector(brute.applied(sizes, abs(x), case.output_shape) + abs(bias))
    terms = spec.layout.vector(
        np.array([len(case.read.get(o, [])) + 1 for o in brute.indices(case.output_shape)]).reshape(
            case.output_shape
        )
    )
    done = 0
    for sums in case.layer.sums(x, spec.layout, most):
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


# --- index arithmetic ----------------------------------------------------------------------------


@every_kind
@some_examples
@given(data=st.data())
def test_what_an_element_reads_and_feeds_is_told_by_rising_place(kind, data):
    case = data.draw(copies(kind))
    layer, layout = case.layer, Layout()
    output = data.draw(st.sampled_from(brute.indices(case.output_shape)))
    source = data.draw(st.sampled_from(brute.indices(case.input_shape)))
    found = [(tap.output, tap.input, tap.kernel) for tap, _ in layer.of_output(output)]
    own = [(o, i, place) for (o, i), place in case.entries.items() if o == output]
    assert found == sorted(own, key=lambda tap: layout.flatten(tap[1], case.input_shape))
    fed = [(tap.output, tap.input, tap.kernel) for tap, _ in layer.of_input(source)]
    own = [(o, i, place) for (o, i), place in case.entries.items() if i == source]
    assert fed == sorted(own, key=lambda tap: layout.flatten(tap[0], case.output_shape))
    for tap, value in (*layer.of_output(output), *layer.of_input(source)):
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
        found = list(case.layer.of_weight(kernel))
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
        layer.of_output: layer.output_shape,
        layer.of_input: layer.input_shape,
        layer.of_weight: layer.outline.kernel_shape,
    }
    for look_up, shape in asked.items():
        for wrong in (shape, (-1,) * len(shape), (0,) * (len(shape) + 1), (0,) * (len(shape) - 1)):
            with pytest.raises(IndexError, match=r"\("):
                list(look_up(wrong))


# --- weights and descriptions --------------------------------------------------------------------


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
@given(data=st.data(), spec=specs())
def test_weights_are_changed_each_in_its_place_and_the_bias_with_them(kind, data, spec):
    case = data.draw(copies(kind, ("integers",), (np.float32,)))
    changed = case.layer.with_weights(lambda w: (3 * w + 1).astype(np.float64))
    assert changed.dtype == np.float64
    rows, own = rows_of(changed, spec), case.csr(spec)
    assert rows.data.array().tolist() == (3 * own.data + 1).tolist()
    assert rows.indices.array().tolist() == own.indices.tolist()
    bias = case.bias_tensor()
    expected = bias if case.bias is None else 3 * bias + 1
    assert changed.bias_tensor().tolist() == expected.tolist()
    assert case.layer.astype("float64").dtype == np.float64
    assert rows_of(case.layer.astype("float64"), spec).data.array().tolist() == own.data.tolist()
    without = case.layer.with_kernel(case.kernel + 1)
    assert without.bias is None
    assert rows_of(without, spec).data.array().tolist() == (own.data + 1).tolist()


def test_an_input_is_applied_once_however_many_slabs_there_are(monkeypatch):
    """For answers, magnitudes and counts of terms: thrice, and not anew for each slab."""
    layer, applied = Diagonal(np.ones(1, np.float32), (8,)), []
    apply = Diagonal.apply_kernel
    monkeypatch.setattr(Diagonal, "apply_kernel", lambda *given: applied.append(1) or apply(*given))
    assert len(list(layer.sums(np.ones(8), Layout(), 2))) == 4
    assert len(applied) == 3


def test_weights_beyond_float32_become_infinite_without_a_warning():
    layer = Dense(np.array([[1e300, 1.0]])).astype("float32")
    assert layer.kernel.tolist() == [[np.inf, 1]]
    assert not layer.finite
