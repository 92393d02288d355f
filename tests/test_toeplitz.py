"""The matrix, bit for bit, against brute force."""

from itertools import pairwise, product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli import toeplitz
from convfc_cli.geometry import Axis
from convfc_cli.layout import Layout
from convfc_cli.streams import index_dtype
from convfc_cli.taps import IndexMap
from tests.support import brute
from tests.support.strategies import STREAM_SIZES, problems, rows_of, specs, stream_sizes


def dense(rows):
    """The dense matrix of streams, entry by entry; +0.0 where nothing is stored."""
    indptr, indices, data = rows.indptr.array(), rows.indices.array(), rows.data.array()
    matrix = np.zeros(rows.shape, data.dtype)
    view, values = brute.bits(matrix), brute.bits(data)
    for row in range(rows.shape[0]):
        for entry in range(indptr[row], indptr[row + 1]):
            view[row, indices[entry]] = values[entry]
    return view.view(data.dtype)


def assert_is(rows, expected):
    """Streams are exactly the matrix that brute force gives."""
    assert rows.shape == expected.shape
    assert rows.nnz == len(expected.data)
    assert rows.indptr.array().tolist() == expected.indptr.tolist()
    assert rows.indices.array().tolist() == expected.indices.tolist()
    assert rows.data.dtype == expected.data.dtype
    assert np.array_equal(brute.bits(rows.data.array()), brute.bits(expected.data))


A, B, C, D, E, F, G, H = range(1, 9)


def test_the_worked_example_entry_by_entry():
    axis = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
    kernel = np.array([[[[A, B], [C, D]]], [[[E, F], [G, H]]]], np.float32)
    rows = toeplitz.rows(IndexMap((2, 1, 2, 2), (axis, axis)), kernel)
    assert rows.shape == (8, 9)
    assert dense(rows).tolist() == [
        [A, B, 0, C, D, 0, 0, 0, 0],
        [0, A, B, 0, C, D, 0, 0, 0],
        [0, 0, 0, A, B, 0, C, D, 0],
        [0, 0, 0, 0, A, B, 0, C, D],
        [E, F, 0, G, H, 0, 0, 0, 0],
        [0, E, F, 0, G, H, 0, 0, 0],
        [0, 0, 0, E, F, 0, G, H, 0],
        [0, 0, 0, 0, E, F, 0, G, H],
    ]
    assert rows.indptr.array().tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert rows.indices.array()[:8].tolist() == [0, 1, 3, 4, 1, 2, 4, 5]


def test_the_worked_example_in_other_layouts():
    axis = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
    kernel = np.array([[[[A, B], [C, D]]], [[[E, F], [G, H]]]], np.float64)
    index_map = IndexMap((2, 1, 2, 2), (axis, axis))
    first = dense(toeplitz.rows(index_map, kernel))
    last = dense(toeplitz.rows(index_map, kernel, Layout("channels-last")))
    assert last.tolist() == first[[0, 4, 1, 5, 2, 6, 3, 7]].tolist()
    fortran = dense(toeplitz.rows(index_map, kernel, Layout("fortran")))
    columns = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert fortran.tolist() == first[[0, 4, 2, 6, 1, 5, 3, 7]][:, columns].tolist()
    adjoint = dense(toeplitz.rows(index_map.adjoint(), kernel))
    assert adjoint.tolist() == first.T.tolist()


def test_padding_stride_and_dilation_by_hand():
    # i = 2 o + 2 t - 1 over 4 inputs: o 0 reads 1 (t 1), 3 (t 2); o 1 reads 1 (t 0), 3 (t 1).
    axis = Axis(inputs=4, outputs=2, kernel=3, stride=2, dilation=2, offset=1)
    rows = toeplitz.rows(IndexMap((1, 1, 3), (axis,)), np.array([[[5.0, 6.0, 7.0]]]))
    assert dense(rows).tolist() == [[0, 6, 0, 7], [0, 5, 0, 6]]


def test_groups_by_hand():
    axis = Axis(inputs=2, outputs=1, kernel=2, stride=1, dilation=1, offset=0)
    kernel = np.arange(1.0, 9.0).reshape(4, 1, 2)
    rows = toeplitz.rows(IndexMap((4, 1, 2), (axis,), groups=2), kernel)
    assert dense(rows).tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]]


def test_a_transposed_layer_by_hand():
    # Two inputs, stride 2, kernel 3: y = x0 a, x0 b, x0 c + x1 a, x1 b, x1 c
    axis = Axis(inputs=5, outputs=2, kernel=3, stride=2, dilation=1, offset=0)
    index_map = IndexMap((1, 1, 3), (axis,), transposed=True)
    rows = toeplitz.rows(index_map, np.array([[[1.0, 2.0, 3.0]]]))
    assert dense(rows).tolist() == [[1, 0], [2, 0], [3, 1], [0, 2], [0, 3]]


@given(problems(), specs(), STREAM_SIZES)
def test_the_matrix_is_brute_force_bit_for_bit_in_every_layout(problem, spec, sizes):
    with stream_sizes(sizes):
        rows = rows_of(problem.layer, spec)
        assert_is(rows, problem.csr(spec))


@given(problems(), specs())
def test_the_plan_is_the_matrix(problem, spec):
    rows = rows_of(problem.layer, spec)
    index_map = problem.index_map
    planned = (index_map.rows, index_map.columns)
    assert rows.shape == (planned[::-1] if spec.transpose else planned)
    assert rows.nnz == index_map.nnz == len(rows.data) == len(rows.indices)
    assert len(rows.indptr) == rows.shape[0] + 1
    assert int(rows.indptr.array()[-1]) == index_map.nnz
    assert rows.indices.dtype == rows.indptr.dtype == np.int32


@given(problems(), specs())
def test_columns_increase_strictly_in_every_row(problem, spec):
    rows = rows_of(problem.layer, spec)
    indptr, indices = rows.indptr.array(), rows.indices.array()
    for start, stop in pairwise(indptr):
        columns = indices[start:stop].tolist()
        assert columns == sorted(set(columns))
        assert all(0 <= column < rows.shape[1] for column in columns)


@given(problems(), specs())
def test_the_matrix_of_the_adjoint_is_the_transpose(problem, spec):
    layer = problem.layer
    ours, adjoints = dense(rows_of(layer, spec)), dense(rows_of(layer.adjoint(), spec))
    assert np.array_equal(brute.bits(adjoints), brute.bits(ours).T)


@given(problems(), st.sampled_from(("channels-first", "channels-last", "fortran")))
def test_the_other_orientation_is_the_transpose(problem, order):
    ours = dense(problem.layer.matrix(Layout(order)))
    adjoint = dense(problem.layer.adjoint().matrix(Layout(order)))
    assert np.array_equal(brute.bits(adjoint), brute.bits(ours).T)


@given(problems(), specs(), STREAM_SIZES)
def test_kernel_index_names_the_weight_of_every_nonzero(problem, spec, sizes):
    with stream_sizes(sizes):
        rows = rows_of(problem.layer, spec, kernel_index=True)
        places = rows.kernel_index.array()
        weights = brute.bits(problem.kernel).reshape(-1)[places]
        assert np.array_equal(weights, brute.bits(rows.data.array()))
    assert places.tolist() == problem.csr(spec).kernel_index.tolist()


def test_kernel_index_is_only_there_on_request():
    axis = Axis(3, 2, 2, 1, 1, 0)
    kernel = np.ones((1, 1, 2), np.float32)
    index_map = IndexMap((1, 1, 2), (axis,))
    assert toeplitz.rows(index_map, kernel).kernel_index is None
    with pytest.raises(TypeError):
        toeplitz.rows(index_map, kernel, Layout(), True)


@given(problems(), specs(), STREAM_SIZES, st.data())
def test_any_stretch_of_each_array_is_that_stretch_of_the_whole(problem, spec, sizes, data):
    rows = rows_of(problem.layer, spec, kernel_index=True)
    expected = problem.csr(spec)
    arrays = {
        "data": brute.bits(expected.data),
        "indices": expected.indices,
        "indptr": expected.indptr,
        "kernel_index": expected.kernel_index,
    }
    with stream_sizes(sizes):
        for name, whole in arrays.items():
            stream = getattr(rows, name)
            start = data.draw(st.integers(0, len(whole)), label=f"start of {name}")
            stop = data.draw(st.integers(start, len(whole)), label=f"stop of {name}")
            found = stream.part(start, stop)
            found = brute.bits(found) if name == "data" else found
            assert found.tolist() == whole[start:stop].tolist()


@given(problems(), specs(), st.integers(1, 50))
def test_chunks_of_any_size_are_the_array(problem, spec, size):
    rows, expected = rows_of(problem.layer, spec), problem.csr(spec)
    data = [brute.bits(chunk.copy()) for chunk in rows.data.chunks(size)]
    indices = [chunk.copy() for chunk in rows.indices.chunks(size)]
    assert [v for c in data for v in c.tolist()] == brute.bits(expected.data).tolist()
    assert [v for c in indices for v in c.tolist()] == expected.indices.tolist()
    assert all(len(c) == size for c in data[:-1])


@given(problems(), specs(), st.data())
def test_a_block_of_rows_is_those_rows(problem, spec, data):
    rows, expected = rows_of(problem.layer, spec), problem.csr(spec)
    first = data.draw(st.integers(0, rows.shape[0] - 1))
    last = data.draw(st.integers(first, rows.shape[0]))
    indptr, indices, values = rows.block(first, last)
    start, stop = expected.indptr[first], expected.indptr[last]
    assert indptr.tolist() == (expected.indptr[first : last + 1] - start).tolist()
    assert indices.tolist() == expected.indices[start:stop].tolist()
    assert brute.bits(values).tolist() == brute.bits(expected.data[start:stop]).tolist()


# One matrix too large to build: 64 -> 64 channels, 5 x 5 over 300 x 280, 8.4e9 nonzeros.
HUGE = (
    Axis(inputs=300, outputs=300, kernel=5, stride=1, dilation=1, offset=2),
    Axis(inputs=280, outputs=280, kernel=5, stride=1, dilation=1, offset=2),
)
HUGE_KERNEL = np.arange(64 * 64 * 25, dtype=np.float32).reshape(64, 64, 5, 5)


def huge_row(index, layout, transposed):
    """[(column, weight)] of one row of the huge layer, by the formula, for one output."""
    channel, *place = index
    found = []
    shape = (64, *(axis.outputs for axis in HUGE)) if transposed else (64, 300, 280)
    places = brute.positions(shape, layout.order)
    for other, *taps in product(range(64), range(5), range(5)):
        if transposed:  # i = o + t - 2, so o = i - t + 2
            partner = [i - t + 2 for i, t in zip(place, taps, strict=True)]
            weight = HUGE_KERNEL[other, channel, *taps]
        else:
            partner = [o + t - 2 for o, t in zip(place, taps, strict=True)]
            weight = HUGE_KERNEL[channel, other, *taps]
        if 0 <= partner[0] < 300 and 0 <= partner[1] < 280:
            found.append((int(places[other, *partner]), float(weight)))
    return sorted(found)


def huge_counts(order):
    """Entries in each row of the huge layer."""
    lengths = np.multiply.outer(*[[min(5, o + 3, n - o + 2) for o in range(n)] for n in (300, 280)])
    places = brute.positions((64, 300, 280), order)
    counts = np.zeros(places.size, np.int64)
    counts[places] = 64 * lengths
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("order", ["channels-first", "channels-last", "fortran"])
@pytest.mark.parametrize(
    "index", [(0, 0, 0), (20, 150, 279), (41, 7, 100), (63, 299, 278), (63, 299, 279)]
)
def test_rows_of_a_matrix_too_large_to_build_are_rendered_in_int64(transposed, order, index):
    layout = Layout(order)
    index_map = IndexMap((64, 64, 5, 5), HUGE, transposed=transposed)
    rows = toeplitz.rows(index_map, HUGE_KERNEL, layout, kernel_index=True)
    per_axis = [n * 5 - 6 for n in (300, 280)]  # 2 + 1 taps are missing at either end
    assert rows.nnz == index_map.nnz == 64 * 64 * prod(per_axis) > 2**32
    assert rows.indices.dtype == rows.indptr.dtype == np.int64
    assert rows.kernel_index.dtype == np.int32

    places = brute.positions((64, 300, 280), order)
    row = int(places[index])
    indptr, indices, data = rows.block(row, row + 1)
    expected = huge_row(index, layout, transposed)
    assert indptr.tolist() == [0, len(expected)]
    assert list(zip(indices.tolist(), data.tolist(), strict=True)) == expected

    before = int(huge_counts(order)[:row].sum())
    assert rows.indptr.part(row, row + 2).tolist() == [before, before + len(expected)]
    assert rows.kernel_index.part(before, before + len(expected)).tolist() == data.tolist()


def test_the_entries_on_either_side_of_number_2_to_the_31_are_right():
    rows = toeplitz.rows(IndexMap((64, 64, 5, 5), HUGE), HUGE_KERNEL)
    ends = huge_counts("channels-first").cumsum()
    row = int(np.searchsorted(ends, 2**31, side="right"))  # the row that holds entry 2**31
    start = int(ends[row - 2])
    assert start < 2**31 < ends[row]
    places = [np.unravel_index(r, (64, 300, 280)) for r in (row - 1, row)]
    expected = [
        entry
        for place in places
        for entry in huge_row(tuple(int(i) for i in place), Layout(), transposed=False)
    ]
    columns = rows.indices.part(start, start + len(expected)).tolist()
    weights = rows.data.part(start, start + len(expected)).tolist()
    assert list(zip(columns, weights, strict=True)) == expected
    assert rows.indptr.part(row - 1, row + 2).tolist() == ends[row - 2 : row + 1].tolist()


def test_columns_beyond_32_bits_are_int64_though_there_are_few_entries():
    axis = Axis(inputs=2**33, outputs=3, kernel=2, stride=2**31, dilation=2**30 + 1, offset=-7)
    layer = IndexMap((1, 1, 2), (axis,))
    rows = toeplitz.rows(layer, np.array([[[1.0, 2.0]]]))
    assert rows.indices.dtype == np.int64
    assert rows.indptr.array().tolist() == [0, 2, 4, 6]
    assert rows.indices.array().tolist() == [
        o * 2**31 + t * (2**30 + 1) + 7 for o in range(3) for t in range(2)
    ]
    adjoint = toeplitz.rows(layer.adjoint(), np.array([[[1.0, 2.0]]]))
    assert adjoint.shape == (2**33, 3)
    row = 2 * 2**31 + 2**30 + 1 + 7
    assert adjoint.indptr.part(row - 1, row + 2).tolist() == [5, 5, 6]
    assert [part.tolist() for part in adjoint.block(row, row + 1)] == [[0, 1], [2], [2.0]]


def test_int32_is_used_up_to_its_last_value():
    axis = Axis(inputs=2**31 - 1, outputs=2, kernel=1, stride=2**31 - 2, dilation=1, offset=0)
    rows = toeplitz.rows(IndexMap((1, 1, 1), (axis,)), np.array([[[3.0]]]))
    assert rows.indices.dtype == index_dtype(2, *rows.shape) == np.int32
    assert rows.indices.array().tolist() == [0, 2**31 - 2]
