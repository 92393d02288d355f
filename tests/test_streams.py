"""The algebra of runs against its plain meaning, with the sizes that choose a path made small."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from convfc_cli.streams import (
    Lanes,
    Literal,
    Repeat,
    Run,
    Series,
    SparseRows,
    Stream,
    index_dtype,
)
from tests.support.strategies import STREAM_SIZES, stream_sizes


@dataclass(frozen=True)
class LaneLeaf(Run):
    """A leaf with other elements in each lane, as a row of the kernel is."""

    values: np.ndarray

    @property
    def length(self):
        return self.values.shape[1]

    def write(self, out, start, base, lanes):
        part = self.values[lanes, start : start + out.shape[1]]
        assert part.shape == out.shape
        out[...] = part + base


@dataclass(frozen=True)
class Tree:
    """A run and what it means: a list of elements for each lane."""

    run: Run
    lanes: list

    def __repr__(self):
        return f"{self.run!r} meaning {self.lanes}"


def literal(values):
    return Tree(Literal(np.array(values, np.int64)), [list(values)] * LANES)


def lane_leaf(rows):
    return Tree(LaneLeaf(np.array(rows, np.int64).reshape(LANES, -1)), [list(row) for row in rows])


def repeat(tree, count, step):
    meaning = [[v + k * step for k in range(count) for v in lane] for lane in tree.lanes]
    return Tree(Repeat(tree.run, count, step), meaning)


def series(trees, shifts):
    run = Series([t.run.length for t in trees], [t.run for t in trees].__getitem__, shifts)
    added = shifts or [0] * len(trees)
    meaning = [
        [v + shift for t, shift in zip(trees, added, strict=True) for v in t.lanes[lane]]
        for lane in range(len(trees[0].lanes))
    ]
    return Tree(run, meaning)


def all_lanes(tree):
    """A run of one lane, in which the lanes of `tree` follow one another."""
    return Tree(Lanes(tree.run, LANES), [[v for lane in tree.lanes for v in lane]])


LANES = 4
NUMBERS = st.integers(-50, 50)


def grown(leaves):
    """Repeats and series over leaves."""

    def larger(inner):
        some = st.lists(inner, min_size=1, max_size=4)
        return st.one_of(
            st.builds(repeat, inner, st.integers(0, 9), st.integers(-3, 7)),
            st.builds(repeat, inner, st.integers(0, 9), st.just(0)),
            some.flatmap(
                lambda trees: st.builds(
                    series,
                    st.just(trees),
                    st.none() | st.lists(NUMBERS, min_size=len(trees), max_size=len(trees)),
                )
            ),
        )

    return st.recursive(leaves, larger, max_leaves=6)


SMALL = st.lists(NUMBERS, max_size=5)
SAME_IN_EVERY_LANE = st.builds(literal, SMALL)
OTHER_IN_EVERY_LANE = st.integers(1, 5).flatmap(
    lambda size: st.builds(
        lane_leaf,
        st.lists(st.lists(NUMBERS, min_size=size, max_size=size), min_size=LANES, max_size=LANES),
    )
)
INSIDE = grown(SAME_IN_EVERY_LANE | OTHER_IN_EVERY_LANE)


def single(tree):
    """A tree outside `Lanes` has one lane."""
    return Tree(tree.run, tree.lanes[:1])


TREES = grown(st.builds(all_lanes, INSIDE) | st.builds(single, grown(SAME_IN_EVERY_LANE)))


@given(TREES, STREAM_SIZES, st.sampled_from((np.int32, np.int64)), st.data())
def test_any_stretch_of_a_tree_is_that_stretch_of_its_meaning(tree, sizes, dtype, data):
    (meaning,) = tree.lanes
    stream = Stream(tree.run, np.dtype(dtype))
    assert len(stream) == len(meaning)
    assert stream.nbytes == len(meaning) * np.dtype(dtype).itemsize
    start = data.draw(st.integers(0, len(meaning)))
    stop = data.draw(st.integers(start, len(meaning)))
    size = data.draw(st.integers(1, len(meaning) + 2))
    with stream_sizes(sizes):
        assert stream.array().tolist() == meaning
        assert stream.array().dtype == dtype
        assert stream.part(start, stop).tolist() == meaning[start:stop]
        chunks = [chunk.copy() for chunk in stream.chunks(size)]
    assert [value for chunk in chunks for value in chunk.tolist()] == meaning
    assert all(len(chunk) == size for chunk in chunks[:-1])


@given(INSIDE, STREAM_SIZES, st.data())
def test_several_lanes_are_written_at_once(tree, sizes, data):
    length = tree.run.length
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length))
    first = data.draw(st.integers(0, LANES - 1))
    last = data.draw(st.integers(first + 1, LANES))
    base = data.draw(NUMBERS)
    whole = np.zeros((last - first, length + 3), np.int64)  # rows that do not touch one another
    with stream_sizes(sizes):
        if stop > start:
            tree.run.write(whole[:, : stop - start], start, base, slice(first, last))
    expected = [[v + base for v in lane[start:stop]] for lane in tree.lanes[first:last]]
    assert whole[:, : stop - start].tolist() == expected
    assert not whole[:, stop - start :].any()  # nothing beyond what was asked for


@pytest.mark.parametrize("count", [*range(1, 20), 63, 64, 65, 1000])
@pytest.mark.parametrize("step", [0, 1, -2, 100])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 9, 9), (7, 9, 9), (8, 9, 9), (10**6, 9, 9)])
def test_doubling_template_and_rest_meet_without_a_seam(count, step, sizes):
    child = Literal(np.array([5, 7, 0], np.int64))
    with stream_sizes(sizes):
        found = Stream(Repeat(child, count, step), np.dtype(np.int64)).array()
    assert found.tolist() == [v + k * step for k in range(count) for v in (5, 7, 0)]


def test_a_repeat_beyond_the_cache_is_rendered_again_not_copied():
    calls = []

    class Counted(Literal):
        def write(self, out, start, base, lanes):
            calls.append(base)
            super().write(out, start, base, lanes)

    stream = Stream(Repeat(Counted(np.arange(3)), 5, 10), np.dtype(np.int32))
    with stream_sizes((1, 3, 1)):
        copied = stream.array().tolist()
    assert calls == [0]
    calls.clear()
    with stream_sizes((1, 2, 1)):
        assert stream.array().tolist() == copied
    assert calls == [0, 10, 20, 30, 40]


def test_lanes_are_written_in_batches():
    calls = []

    class Counted(LaneLeaf):
        def write(self, out, start, base, lanes):
            calls.append((lanes.start, lanes.stop))
            super().write(out, start, base, lanes)

    stream = Stream(Lanes(Counted(np.arange(30).reshape(10, 3)), 10), np.dtype(np.int32))
    with stream_sizes((1, 1, 12)):
        assert stream.array().tolist() == list(range(30))
        assert calls == [(0, 4), (4, 8), (8, 10)]
        calls.clear()
        assert stream.part(2, 20).tolist() == list(range(2, 20))
    assert calls == [(0, 1), (1, 5), (5, 6), (6, 7)]


def test_a_series_makes_its_runs_when_they_are_needed_and_forgets_them():
    made = []

    def make(k):
        made.append(k)
        return Literal(np.array([k], np.int64))

    run = Series([1] * 1000, make, shifts=[1000] * 1000)
    assert (run.length, made) == (1000, [])
    stream = Stream(run, np.dtype(np.int64))
    assert stream.part(500, 503).tolist() == [1500, 1501, 1502]
    assert made == [500, 501, 502]
    assert stream.array().tolist() == list(range(1000, 2000))
    assert len(run._made) <= 64


def test_a_run_of_no_elements_is_not_made():
    empty = Series(
        [0, 2, 0, 0, 1, 0], {1: Literal(np.array([3, 4])), 4: Literal(np.array([5]))}.get
    )
    assert Stream(empty, np.dtype(np.int32)).array().tolist() == [3, 4, 5]


@given(st.integers(2, 9), st.integers(0, 40))
@example(3, 0)
def test_int64_is_not_narrowed_on_the_way(count, power):
    step = 2**power
    stream = Stream(Repeat(Literal(np.array([2**40, -1])), count, step), np.dtype(np.int64))
    with stream_sizes((2, 10, 10)):
        expected = [v + k * step for k in range(count) for v in (2**40, -1)]
        assert stream.array().tolist() == expected


def test_a_tree_larger_than_any_memory_costs_nothing_until_it_is_written():
    run = Repeat(Repeat(Literal(np.arange(7)), 10**9, 7), 10**9, 7 * 10**9)
    stream = Stream(run, np.dtype(np.int64))
    assert stream.nbytes == 8 * 7 * 10**18
    where = 7 * 10**18 - 10
    assert stream.part(where, where + 10).tolist() == list(range(where, where + 10))


@pytest.mark.parametrize(("start", "size"), [(-1, 2), (0, 7), (6, 1), (5, 2), (7, 0)])
def test_a_stretch_beyond_the_end_is_refused(start, size):
    stream = Stream(Literal(np.arange(6)), np.dtype(np.int64))
    with pytest.raises(IndexError, match=rf"\[{start}, {start + size}\) is beyond 6 elements"):
        stream.write(np.empty(size, np.int64), start)


def test_the_row_of_each_entry():
    """By a search over indptr, with rows that are empty at the ends and between."""
    lengths = np.array([0, 2, 0, 0, 3, 1, 0])
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    entries = Stream(Literal(np.arange(6)), np.dtype(np.int32))
    rows = SparseRows((7, 6), entries, entries, Stream(Literal(indptr), np.dtype(np.int32)))
    expected = np.repeat(np.arange(7), lengths)
    assert [rows.row_of(entry) for entry in range(6)] == expected.tolist()


def test_an_empty_stretch_is_nothing():
    stream = Stream(Literal(np.arange(6)), np.dtype(np.int64))
    assert stream.part(6, 6).tolist() == []
    assert Stream(Literal(np.arange(0)), np.dtype(np.int64)).array().tolist() == []
    assert list(Stream(Literal(np.arange(0)), np.dtype(np.int64)).chunks()) == []


def test_chunks_use_one_buffer_again():
    stream = Stream(Literal(np.arange(6)), np.dtype(np.int64))
    assert [len(chunk) for chunk in stream.chunks(4)] == [4, 2]
    addresses = {chunk.__array_interface__["data"][0] for chunk in stream.chunks(2)}
    assert len(addresses) == 1


def test_a_block_of_rows_counts_its_entries_from_zero():
    def stream(values):
        return Stream(Literal(np.array(values, np.int64)), np.dtype(np.int64))

    rows = SparseRows((3, 9), stream([7, 8, 9, 6]), stream([0, 4, 2, 8]), stream([0, 2, 2, 4]))
    assert rows.nnz == 4
    blocks = [[part.tolist() for part in rows.block(*stretch)] for stretch in ((0, 2), (1, 3))]
    assert blocks == [[[0, 2, 2], [0, 4], [7, 8]], [[0, 0, 2], [2, 8], [9, 6]]]


@pytest.mark.parametrize(
    ("nnz", "shape", "expected"),
    [
        (0, (1, 1), np.int32),
        (2**31 - 1, (2**31 - 1, 2**31 - 1), np.int32),
        (2**31, (5, 5), np.int64),
        (5, (2**31, 5), np.int64),
        (5, (5, 2**31), np.int64),
        (2**40, (2**40, 2**40), np.int64),
    ],
)
def test_indices_are_int32_while_everything_fits(nnz, shape, expected):
    assert index_dtype(nnz, *shape) is expected
