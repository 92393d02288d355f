"""The index map against a listing of all triples."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli.errors import GeometryError
from convfc_cli.geometry import MAX_SIZE, Axis
from convfc_cli.layout import Layout
from convfc_cli.taps import (
    SHALLOW,
    IndexMap,
    Tap,
    coloring,
    count_taps,
    row_taps,
    segments,
    tap_interval,
)
from tests.support import brute
from tests.support.strategies import axes, problems, rows_of, specs


def listed(taps):
    """[(column, kernel element)] of a row."""
    return list(zip(taps.columns, taps.kernel, strict=True))


def brute_row(axis, row, transposed):
    """The same by brute force, columns rising."""
    taps = brute.axis_taps(axis)
    if transposed:
        return sorted((o, t) for o, i, t in taps if i == row)
    return sorted((i, t) for o, i, t in taps if o == row)


def row_count(axis, transposed):
    return axis.inputs if transposed else axis.outputs


def test_the_taps_of_a_row_by_hand():
    axis = Axis(inputs=5, outputs=3, kernel=3, stride=2, dilation=1, offset=1)
    assert [listed(row_taps(axis, o, transposed=False)) for o in range(3)] == [
        [(0, 1), (1, 2)],
        [(1, 0), (2, 1), (3, 2)],
        [(3, 0), (4, 1)],
    ]
    assert [listed(row_taps(axis, i, transposed=True)) for i in range(5)] == [
        [(0, 1)],
        [(0, 2), (1, 0)],
        [(1, 1)],
        [(1, 2), (2, 0)],
        [(2, 1)],
    ]


def test_transposed_rows_with_stride_and_dilation_that_share_a_factor_by_hand():
    # i = 4 o + 6 t - 3: with g = 2 only odd i are reached; along a row o rises by 3, t falls by 2.
    axis = Axis(inputs=20, outputs=4, kernel=4, stride=4, dilation=6, offset=3)
    assert listed(row_taps(axis, 15, transposed=True)) == [(0, 3), (3, 1)]
    assert listed(row_taps(axis, 13, transposed=True)) == [(1, 2)]
    assert listed(row_taps(axis, 9, transposed=True)) == [(0, 2), (3, 0)]
    assert listed(row_taps(axis, 8, transposed=True)) == []


def test_transposed_rows_that_a_long_kernel_reaches_from_three_outputs_by_hand():
    # i = 3 o + t, t < 8: along a row o rises by 1, t falls by 3.
    axis = Axis(inputs=17, outputs=4, kernel=8, stride=3, dilation=1, offset=0)
    assert listed(row_taps(axis, 4, transposed=True)) == [(0, 4), (1, 1)]
    assert listed(row_taps(axis, 7, transposed=True)) == [(0, 7), (1, 4), (2, 1)]
    assert listed(row_taps(axis, 8, transposed=True)) == [(1, 5), (2, 2)]
    assert listed(row_taps(axis, 13, transposed=True)) == [(2, 7), (3, 4)]
    assert listed(row_taps(axis, 16, transposed=True)) == [(3, 7)]


@given(axes(), st.booleans())
def test_row_taps_are_those_of_the_listing_with_rising_columns(axis, transposed):
    for row in range(row_count(axis, transposed)):
        taps = row_taps(axis, row, transposed=transposed)
        assert listed(taps) == brute_row(axis, row, transposed)
        assert len(taps) == len(taps.columns) == len(taps.kernel)
        assert taps.columns.step > 0


@given(axes())
def test_tap_interval_and_count_taps_are_those_of_the_listing(axis):
    taps = brute.axis_taps(axis)
    for element in range(axis.kernel):
        interval = tap_interval(axis, element)
        assert list(interval) == [o for o, _, t in taps if t == element]
        assert 0 <= interval.start <= interval.stop
    assert count_taps(axis) == len(taps)


@given(axes(), st.booleans())
def test_segments_unroll_to_every_row_in_order(axis, transposed):
    stretches = segments(axis, transposed=transposed)
    unrolled = []
    for segment in stretches:
        assert segment.first == len(unrolled)
        assert segment.blocks >= 1
        assert segment.block_taps == sum(count * len(taps) for count, taps in segment.rows)
        for block in range(segment.blocks):
            for count, taps in segment.rows:
                assert count >= 1
                assert count == 1 or not taps  # only rows without taps come together
                shifted = [(column + block * segment.step, t) for column, t in listed(taps)]
                unrolled += [shifted] * count
    rows = row_count(axis, transposed)
    assert unrolled == [brute_row(axis, row, transposed) for row in range(rows)]
    assert len(stretches) <= 2 * axis.kernel + 1 + transposed  # and a last block that is not whole


COLOURINGS = {  # (kernel, stride, dilation): (run, period), and of the transposed axis
    (3, 1, 1): ((1, 3), (1, 3)),
    (3, 1, 2): ((2, 3), (2, 3)),
    (3, 2, 1): ((1, 3), (1, 2)),  # o and o + 1 meet through t and t - 2; o and o + 2 never
    (4, 2, 1): ((1, 4), (1, 2)),
    (5, 2, 1): ((1, 5), (1, 3)),
    (2, 5, 1): ((1, 2), (1, 1)),
    (3, 4, 6): ((6, 3), (3, 2)),  # g = 2: o and o + 3 meet through t and t - 2
    (7, 6, 4): ((4, 7), (2, 3)),
}


@pytest.mark.parametrize("steps", COLOURINGS, ids=str)
def test_colorings_by_hand(steps):
    axis = Axis(20, 20, *steps, offset=0)
    found = tuple(coloring(axis, transposed=transposed) for transposed in (False, True))
    assert found == COLOURINGS[steps]
    with pytest.raises(TypeError):
        coloring(axis, False)


@given(axis=axes(), transposed=st.booleans())
def test_no_output_reads_two_inputs_of_one_color(axis, transposed):
    span, period = coloring(axis, transposed=transposed)
    read = {}
    for o, i, _ in brute.axis_taps(axis):
        output, source = (i, o) if transposed else (o, i)
        read.setdefault(output, []).append(source // span % period)
    assert all(len(set(found)) == len(found) for found in read.values())
    assert period <= axis.kernel


def test_the_segments_of_a_transposed_axis_by_hand():
    # i = 2 o + t: the second output sets in one block later, the third tap of the first with it.
    axis = Axis(inputs=7, outputs=2, kernel=3, stride=2, dilation=1, offset=0)
    stretches = segments(axis, transposed=True)
    assert [(s.first, s.blocks, [(c, listed(t)) for c, t in s.rows]) for s in stretches] == [
        (0, 1, [(1, [(0, 0)]), (1, [(0, 1)])]),
        (2, 1, [(1, [(0, 2), (1, 0)]), (1, [(1, 1)])]),
        (4, 1, [(1, [(1, 2)]), (1, [])]),
        (6, 1, [(1, [])]),
    ]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_axis_has_few_segments(transposed):
    axis = Axis(inputs=2**30, outputs=2**29, kernel=7, stride=2, dilation=1, offset=3)
    stretches = segments(axis, transposed=transposed)
    assert len(stretches) <= 15
    assert {count for segment in stretches for count, _ in segment.rows} == {1}  # none of 0 rows
    rows = sum(segment.blocks * sum(count for count, _ in segment.rows) for segment in stretches)
    assert rows == row_count(axis, transposed)
    taps = sum(segment.blocks * segment.block_taps for segment in stretches)
    assert taps == count_taps(axis) == 7 * 2**29 - (2 + 1 + 1) - (1 + 1)


def test_a_stride_of_2_to_the_40_is_no_loop_over_its_rows():
    axis = Axis(
        inputs=MAX_SIZE, outputs=2, kernel=3, stride=MAX_SIZE, dilation=MAX_SIZE // 2, offset=0
    )
    stretches = segments(axis, transposed=True)
    assert [(s.first, s.blocks, [(c, listed(t)) for c, t in s.rows]) for s in stretches] == [
        (
            *(0, 1),
            [
                *((1, [(0, 0)]), (MAX_SIZE // 2 - 1, [])),
                *((1, [(0, 1)]), (MAX_SIZE // 2 - 1, [])),
            ],
        )
    ]


@given(problems())
def test_the_map_has_the_shapes_and_the_count_of_the_listing(problem):
    index_map = problem.index_map
    outputs, inputs = brute.tensor_shapes(
        problem.kernel.shape, problem.axes, problem.groups, problem.transposed
    )
    assert (index_map.output_shape, index_map.input_shape) == (outputs, inputs)
    assert (index_map.rows, index_map.columns) == (np.prod(outputs), np.prod(inputs))
    assert index_map.nnz == len(problem.nonzeros())


@given(problems())
def test_every_nonzero_is_found_from_its_output_its_input_and_its_kernel_element(problem):
    index_map = problem.index_map
    expected = {
        Tap(output, source, kernel) for (output, source), kernel in problem.nonzeros().items()
    }
    shapes = (index_map.output_shape, index_map.input_shape, problem.kernel.shape)
    for look, shape in zip(
        (index_map.of_output, index_map.of_input, index_map.of_kernel), shapes, strict=True
    ):
        found = [tap for index in product(*map(range, shape)) for tap in look(index)]
        assert len(found) == len(expected)
        assert set(found) == expected


@given(problems())
def test_each_look_up_gives_only_what_it_was_asked_for(problem):
    index_map = problem.index_map
    for (output, source), kernel in list(problem.nonzeros().items())[:20]:
        tap = Tap(output, source, kernel)
        assert tap in list(index_map.of_output(output))
        assert {found.output for found in index_map.of_output(output)} == {output}
        assert tap in list(index_map.of_input(source))
        assert {found.input for found in index_map.of_input(source)} == {source}
        assert tap in list(index_map.of_kernel(kernel))
        assert {found.kernel for found in index_map.of_kernel(kernel)} == {kernel}


@given(problems())
def test_kernel_of_is_the_kernel_element_or_none_for_a_structural_zero(problem):
    index_map, nonzeros = problem.index_map, problem.nonzeros()
    outputs = list(product(*map(range, index_map.output_shape)))
    inputs = list(product(*map(range, index_map.input_shape)))
    step = max(1, len(outputs) * len(inputs) // 4000)
    pairs = [*list(product(outputs, inputs))[::step], *nonzeros]
    for output, source in pairs:
        assert index_map.kernel_of(output, source) == nonzeros.get((output, source))


@given(problems())
def test_what_an_output_reads_comes_in_the_order_of_a_channels_first_row(problem):
    index_map = problem.index_map
    for output in product(*map(range, index_map.output_shape)):
        columns = [
            Layout().flatten(tap.input, index_map.input_shape)
            for tap in index_map.of_output(output)
        ]
        assert columns == sorted(set(columns))


@given(problems(), specs())
def test_every_entry_of_the_matrix_is_explained_by_layout_and_map(problem, spec):
    index_map = problem.index_map
    matrix = rows_of(problem.layer, spec)
    indptr, indices, data = (s.array() for s in (matrix.indptr, matrix.indices, matrix.data))
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    weights = brute.bits(problem.kernel)
    seen = set()
    for row, column, value in zip(rows.tolist(), indices.tolist(), brute.bits(data), strict=True):
        place = (column, row) if spec.transpose else (row, column)
        output = spec.layout.unflatten(place[0], index_map.output_shape)
        source = spec.layout.unflatten(place[1], index_map.input_shape)
        assert spec.layout.flatten(output, index_map.output_shape) == place[0]
        assert spec.layout.flatten(source, index_map.input_shape) == place[1]
        element = index_map.kernel_of(output, source)
        assert element is not None
        assert weights[element] == value
        seen.add((output, source))
    assert seen == problem.nonzeros().keys()


@given(problems())
def test_the_adjoint_exchanges_inputs_and_outputs_and_nothing_else(problem):
    index_map = problem.index_map
    adjoint = index_map.adjoint()
    assert (adjoint.output_shape, adjoint.input_shape) == (
        index_map.input_shape,
        index_map.output_shape,
    )
    assert adjoint.nnz == index_map.nnz
    assert adjoint.adjoint() == index_map
    for index in product(*map(range, adjoint.output_shape)):
        ours = {Tap(tap.input, tap.output, tap.kernel) for tap in index_map.of_input(index)}
        assert set(adjoint.of_output(index)) == ours


LINE = Axis(inputs=6, outputs=4, kernel=3, stride=1, dilation=1, offset=0)


@pytest.mark.parametrize(
    ("shape", "groups", "names"),
    [
        ((2, 1, 4), 1, ("(2, 1, 4)", "(3,)", "1 axes")),
        ((2, 1, 2), 1, ("(2, 1, 2)", "(3,)")),
        ((2, 1, 3, 3), 1, ("(2, 1, 3, 3)", "(3,)")),
        ((2, 3), 1, ("(2, 3)",)),
        ((0, 1, 3), 1, ("(0, 1, 3)", "empty")),
        ((2, 0, 3), 1, ("(2, 0, 3)", "empty")),
        ((MAX_SIZE + 1, 1, 3), 1, (str(MAX_SIZE + 1), "too large")),
        ((5, 1, 3), 2, ("5 channels", "2 groups")),
        ((3, 1, 3), 0, ("3 channels", "0 groups")),
        ((3, 1, 3), -3, ("3 channels", "-3 groups")),
        ((MAX_SIZE, MAX_SIZE, 3), 1, (str(MAX_SIZE * 4), str(MAX_SIZE * 6), "64-bit")),
    ],
)
def test_a_map_that_fits_no_convolution_is_refused_with_its_numbers(shape, groups, names):
    with pytest.raises(GeometryError) as error:
        IndexMap(shape, (LINE,), groups)
    for name in names:
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs"),
    [
        ((2**23, 1, 1), 1, 2**40),  # rows: 2**23 * 2**40
        ((1, 2**23, 1), 2**40, 1),  # columns
        ((2**20, 2**20, 1), 2**23, 2**23),  # nonzeros: a pair of channels, at each place one
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_columns_and_nonzeros_are_below_2_to_the_63(shape, inputs, outputs, transposed):
    axis = Axis(inputs, outputs, kernel=1, stride=1, dilation=1, offset=0)
    with pytest.raises(GeometryError, match=rf"\b{2**63}\b.*64-bit"):
        IndexMap(shape, (axis,), transposed=transposed)
    smaller = tuple(max(1, size - 1) for size in shape)
    assert IndexMap(smaller, (axis,), transposed=transposed).kernel_shape == smaller


def test_a_map_is_of_one_group_and_not_transposed_unless_told():
    assert IndexMap((2, 1, 3), (LINE,)) == IndexMap((2, 1, 3), (LINE,), 1, False)


def test_which_side_the_rows_are_is_said_by_name():
    with pytest.raises(TypeError):
        row_taps(LINE, 0, False)
    with pytest.raises(TypeError):
        segments(LINE, False)


def test_a_map_and_what_it_tells_are_frozen():
    index_map = IndexMap((2, 1, 3), (LINE,))
    (segment,) = segments(LINE, transposed=False)
    tap = next(index_map.of_output((0, 0)))
    told = [(index_map, "groups"), (segment, "blocks"), (segment.rows[0][1], "kernel")]
    for value, name in [*told, (tap, "kernel")]:
        with pytest.raises(AttributeError):
            setattr(value, name, 2)


def test_a_map_without_axes_is_refused():
    with pytest.raises(GeometryError, match=r"\(2, 1\) does not fit 0 axes"):
        IndexMap((2, 1), ())


@pytest.mark.parametrize(
    "index", [(2, 0), (9, 0), (0, 4), (0, 9), (-1, 0), (0, -1), (0,), (0, 0, 0), ()]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_positions_outside_the_layer_are_refused_by_name(index, transposed):
    index_map = IndexMap((2, 1, 3), (LINE,), transposed=transposed)
    near, far = ("input", "output") if transposed else ("output", "input")
    look = index_map.of_input if transposed else index_map.of_output
    with pytest.raises(IndexError) as error:
        list(look(index))
    assert str(error.value) == f"{near} {index} is not within (2, 4)"
    with pytest.raises(IndexError, match=rf"^{near} "):
        index_map.kernel_of(*((0, 0), index) if transposed else (index, (0, 0)))
    with pytest.raises(IndexError, match=rf"^{far} "):
        index_map.kernel_of(*((0, 6), (0, 0)) if transposed else ((0, 0), (0, 6)))


@pytest.mark.parametrize("element", [(2, 0, 0), (0, 1, 0), (0, 0, 3), (0, 0, -1), (0, 0)])
def test_a_kernel_element_that_is_none_is_refused(element):
    with pytest.raises(IndexError) as error:
        list(IndexMap((2, 1, 3), (LINE,)).of_kernel(element))
    assert str(error.value) == f"kernel {element} is not within (2, 1, 3)"


def test_a_depthwise_layer_reads_each_channel_alone_by_hand():
    index_map = IndexMap((4, 1, 3), (LINE,), groups=2)
    assert index_map.input_shape == (2, 6)
    assert [tap.input for tap in index_map.of_output((2, 1))] == [(1, 1), (1, 2), (1, 3)]
    assert [tap.kernel for tap in index_map.of_output((2, 1))] == [(2, 0, t) for t in range(3)]
    assert {tap.output[0] for tap in index_map.of_input((0, 3))} == {0, 1}
    assert index_map.kernel_of((2, 1), (0, 1)) is None
    assert index_map.kernel_of((2, 1), (1, 4)) is None
    assert index_map.kernel_of((2, 1), (1, 3)) == (2, 0, 2)


@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_of_every_output_channel_input_channel_tap_and_position(transposed):
    axes = (Axis(6, 4, 3, 1, 1, 0), Axis(5, 2, 2, 2, 1, 1))  # also by the zeros around
    assert IndexMap((4, 5, 3, 2), axes, 2, transposed).products == 4 * 5 * 6 * 8
    assert IndexMap((4, 1, 3, 2), axes, 4, transposed).products == 4 * SHALLOW * 6 * 8
