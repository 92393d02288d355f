"""Levels 2 to 4 of the proof, each on its own: what it sees without the probes beside it.

A runtime that is wrong on purpose stands in for one that misreads a layer; a file is changed on
purpose for one that was written wrong.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convfc_cli import budget, rounding
from convfc_cli.errors import Refused, UsageError, WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.linear import Linear
from convfc_cli.layout import Layout
from convfc_cli.matrices import blocks, registry
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.format import StoredMatrix
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof import check, impulses, integers, probes
from convfc_cli.proof.check import Check, Subject, shown
from convfc_cli.proof.impulses import Impulses
from convfc_cli.proof.integers import Integers
from convfc_cli.proof.reals import Reals
from convfc_cli.proof.report import Finding, WrongEntry
from convfc_cli.proof.structure import Structure
from convfc_cli.proof.verify import Proof
from convfc_cli.rounding import RuntimeResult
from convfc_cli.runtimes import onnxruntime
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.registry import runtime
from convfc_cli.runtimes.runtime import RunnableLayer, Runtime, as_read
from convfc_cli.taps import IndexMap
from convfc_cli.vocabulary import RUNTIMES
from tests.support import crafted
from tests.support.cli_models import net, run
from tests.support.crafted import example, rendered, saved
from tests.support.strategies import problems, specs

Array = NDArray[Any]

NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]

some_examples = settings(max_examples=max(20, settings().max_examples // 3))
few_examples = settings(max_examples=max(10, settings().max_examples // 6))
SEEDS = st.integers(0, 2**32)


def stored_of(kind: Any, matrix: Matrix, data: bytes | None = None) -> StoredMatrix:
    data = rendered(kind, matrix) if data is None else data
    (found,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
    return found


def walked(stored: StoredMatrix, make: Callable[[Subject], Check], most: int = 40) -> Finding:
    """What one check finds when it is shown the rows and no other check is."""
    subject = Subject.of(stored)
    check = make(subject)
    for slab in subject.layer.slabs(subject.matrix.layout, most):
        check.expect(slab)
        for block in stored.rows(slab.counts()):
            start = block.first - slab.rows.start
            check.hold(block, slice(start, start + len(block.indptr) - 1))
    return check.finding()


def by_impulses(*asked: Runtime) -> Callable[[Subject], Check]:
    return lambda subject: Impulses(subject, asked)


def by_integers(asked: Runtime, seed: int = 1) -> Callable[[Subject], Check]:
    random = np.random.default_rng(seed)
    return lambda subject: Integers(subject, asked, as_read(subject.matrix.layer), random)


def by_reals(asked: Runtime, seed: int = 1) -> Callable[[Subject], Check]:
    random = np.random.default_rng(seed)
    return lambda subject: Reals(subject, asked, as_read(subject.matrix.layer), random)


LEVELS = {"impulses": by_impulses, "integers": by_integers, "reals": by_reals}
every_level = pytest.mark.parametrize("level", LEVELS)


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.slow
@some_examples
@given(problem=problems(), spec=specs(), dense=st.booleans(), most=st.integers(1, 60))
def test_every_level_holds_of_a_right_file_whatever_its_weights(problem, spec, dense, most):
    kind = NPY if dense else NPZ
    matrix = Matrix(problem.layer, replace(spec, form="dense" if dense else "csr"))
    for name, make in LEVELS.items():
        finding = walked(stored_of(kind, matrix), make(ORACLE), most)
        left_out = name == "reals" and "no output could be compared" in finding.detail
        assert finding.holds or (finding.holds is None and left_out), finding
        assert (finding.check, finding.against) == (name, "the oracle")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
@few_examples
@given(problem=problems(), spec=specs())
def test_other_runtimes_agree_wherever_they_can_run_a_layer(name, problem, spec):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    asked = runtime(name)
    matrix = Matrix(problem.layer, spec)
    for make in LEVELS.values():
        finding = walked(stored_of(NPZ, matrix), make(asked))
        assert finding.holds is not False
        assert finding.holds or len(finding.detail) > 20
        if make is not by_reals and (name == "onnxruntime" or problem.groups == 1):
            assert finding.holds, finding.detail


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_impulses_are_put_in_a_few_at_a_time_where_memory_asks_for_it(batch, monkeypatch):
    matrix = example()
    whole = walked(stored_of(NPZ, matrix), by_impulses(ORACLE))
    monkeypatch.setattr(impulses, "BATCH", batch)
    assert walked(stored_of(NPZ, matrix), by_impulses(ORACLE)) == whole
    contents = crafted.arrays(rendered(NPZ, matrix))
    contents["data"][30] += 1
    with pytest.raises(WrongContents):
        walked(stored_of(NPZ, matrix, saved(contents)), by_impulses(ORACLE))


@pytest.mark.parametrize("batch", [1, 12, 24, 30, 47, 10**6])
def test_as_many_impulses_are_put_in_at_once_as_memory_is_asked_for(batch, monkeypatch):
    monkeypatch.setattr(impulses, "BATCH", batch)
    kernel = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5)
    layer = Convolution(kernel, IndexMap(kernel.shape, (Axis(12, 8, 5, 1, 1, 0),)))
    seen = []

    def watch(y: Array) -> Array:
        seen.append(len(y))
        return y

    finding = walked(stored_of(NPZ, Matrix(layer)), by_impulses(Answering(watch)), most=10**6)
    told = "40 entries and every zero, compared individually; inputs lit in 5 turns"
    assert finding.detail == told
    at_once = min(5, max(1, batch // 12))  # each has 12 inputs, more than outputs
    assert max(seen) == at_once
    # Which are lit, by which number, and the weights in two parts of 24 bits.
    assert len(seen) == 4 * -(-5 // at_once)
    assert sum(seen) == 4 * 5


def test_a_slab_has_room_for_what_each_row_answers_to_each_color(monkeypatch):
    monkeypatch.setattr(impulses, "CHUNK", 100)
    axis = Axis(9, 9, 3, 1, 1, 1)
    kernel = np.ones((4, 3, 3), np.float32)
    layer = Convolution(kernel, IndexMap((4, 3, 3), (axis,), 2))
    assert impulses.most_rows(layer) == 11  # of nine colors: three places in three channels
    monkeypatch.setattr(impulses, "CHUNK", 8)
    assert impulses.most_rows(layer) == 1


FIVE = Convolution(
    np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5),
    IndexMap((1, 1, 5), (Axis(12, 8, 5, 1, 1, 0),)),
)
"""Eight outputs, each of five inputs in a row: colors 0 to 4, again and again."""


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda y: y[..., :-1], "answering gives (1, 7), the layer (1, 8)"),
        (lambda y: y[:3], "answering gives (1, 8), the layer (1, 8)"),
        (
            lambda y: y + np.arange(1, 1 + y.size).reshape(y.shape) / 64,
            "answering gives 1.015625 to impulses, where an integer of at most 24 bits is the "
            "only right answer",
        ),
    ],
)
def test_what_a_runtime_did_wrong_is_told_as_it_was(spoil, told):
    stored = stored_of(NPZ, Matrix(FIVE))
    finding = walked(stored, by_impulses(Answering(spoil)), most=10**6)
    assert (finding.holds, finding.detail) == (None, told)


@pytest.mark.parametrize("step", [-1, 1])
def test_an_answer_by_the_neighbor_of_the_place_is_none(step):
    calls = iter(range(100))  # the second of four are the numbers of the places

    def neighbors(y: Array) -> Array:
        beside = np.clip(y + step, 1, 12)
        return np.where(y > 0, beside, y) if next(calls) == 1 else y

    finding = walked(stored_of(NPZ, Matrix(FIVE)), by_impulses(Answering(neighbors)), most=10**6)
    assert finding.holds is None
    assert finding.detail == "answering answers by a place where nothing was put in"


@pytest.mark.parametrize("part", [1, 2, 5, 24])
def test_numbers_are_sent_in_parts_of_any_size(part, monkeypatch):
    monkeypatch.setattr(impulses, "PART", part)
    assert walked(stored_of(NPZ, example()), by_impulses(ORACLE)).holds
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"].view(np.uint32)[7] ^= np.uint32(1 << 31)
    with pytest.raises(WrongContents):
        walked(stored_of(NPZ, example(), saved(contents)), by_impulses(ORACLE))


# --- what is wrong in the file ------------------------------------------------------------------


def a_bit(contents: dict[str, Array], place: int, bit: int) -> None:
    width = contents["data"].dtype.itemsize
    contents["data"].view(f"u{width}")[place] ^= np.array(1 << bit % (8 * width), f"u{width}")


def changed(problem: Any, spec: Spec, seed: int) -> tuple[bytes, int, int]:
    """(the file with one bit of one weight changed, the row and the column of the weight)."""
    contents = crafted.arrays(rendered(NPZ, Matrix(problem.layer, spec)))
    place = seed % max(1, len(contents["data"]))
    if len(contents["data"]):
        a_bit(contents, place, seed)
    row = int(np.searchsorted(contents["indptr"], place, side="right")) - 1
    column = int(contents["indices"][place]) if len(contents["data"]) else -1
    return saved(contents), row, column


@some_examples
@given(problem=problems(), spec=specs(), seed=SEEDS)
def test_impulses_name_the_entry_of_which_one_bit_is_wrong(problem, spec, seed):
    data, row, column = changed(problem, spec, seed)
    stored = stored_of(NPZ, Matrix(problem.layer, spec), data)
    if column < 0:  # there is no entry in it
        assert walked(stored, by_impulses(ORACLE)).holds
        return
    with pytest.raises(WrongContents) as error:
        walked(stored, by_impulses(ORACLE))
    (entry,) = error.value.args
    assert (entry.row, entry.column) == (row, column)
    source, output = (row, column) if spec.transpose else (column, row)
    assert spec.layout.flatten(entry.output, problem.layer.output_shape) == output
    assert spec.layout.flatten(entry.input, problem.layer.input_shape) == source
    assert entry.expected == shown(problem.kernel[entry.kernel])
    assert entry.found != entry.expected


@some_examples
@given(problem=problems(), spec=specs(), seed=SEEDS)
def test_integers_see_one_bit_of_one_weight_unless_its_input_is_0(problem, spec, seed):
    data, _, column = changed(problem, spec, seed)
    matrix = Matrix(problem.layer, spec)
    seen = []
    for draw in range(40):  # an input is 0 once in 16 times at most
        try:
            walked(stored_of(NPZ, matrix, data), by_integers(ORACLE, draw))
        except WrongContents as error:
            seen.append(str(error))
        if seen or column < 0:
            break
    assert bool(seen) == (column >= 0)


@pytest.mark.parametrize("place", range(0, 72, 5))
@pytest.mark.parametrize("transpose", [False, True])
def test_reals_see_a_weight_that_is_a_thousandth_off(place, transpose):
    matrix = example(spec=Spec(transpose=transpose))
    contents = crafted.arrays(rendered(NPZ, matrix))
    contents["data"][place] *= np.float32(1.001)
    with pytest.raises(WrongContents, match=r"^output \(.*the oracle, gives .*, the matrix "):
        walked(stored_of(NPZ, matrix, saved(contents)), by_reals(ORACLE))


def test_integers_see_what_reals_cannot():
    kernel = np.array([[[1.0, 1e-12, 2e-12]]], np.float32)
    layer = Convolution(kernel, IndexMap((1, 1, 3), (Axis(6, 4, 3, 1, 1, 0),)))
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    contents["data"][[1, 2]] = contents["data"][[2, 1]]
    data = saved(contents)
    assert walked(stored_of(NPZ, Matrix(layer), data), by_reals(ORACLE)).holds
    for make in (by_integers, by_impulses):
        with pytest.raises(WrongContents):
            walked(stored_of(NPZ, Matrix(layer), data), make(ORACLE))


def entry_moved(contents: dict[str, Array]) -> None:
    contents["indices"][1] += 2


def entry_of_a_zero_moved(contents: dict[str, Array]) -> None:
    contents["indices"][4] += 2


def rows_exchanged(contents: dict[str, Array]) -> None:
    for name in ("indices", "data"):
        contents[name][[0, 1, 2, 3]] = contents[name][[2, 3, 0, 1]]


@pytest.mark.parametrize("change", [entry_moved, entry_of_a_zero_moved, rows_exchanged])
@pytest.mark.parametrize("make", [by_impulses, by_integers])
def test_positions_are_seen_even_those_of_stored_zeros(change, make):
    layer = Convolution(
        np.array([[[0, 1]]], np.float32), IndexMap((1, 1, 2), (Axis(12, 6, 2, 2, 1, 0),))
    )
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    change(contents)
    with pytest.raises(WrongContents):
        walked(stored_of(NPZ, Matrix(layer), saved(contents)), make(ORACLE))


def test_an_entry_that_is_missing_or_too_many_in_a_dense_file_is_named():
    matrix = example("dense")
    dense = np.load(crafted.io.BytesIO(rendered(NPY, matrix)))
    row, column = (int(place[3]) for place in np.nonzero(dense))
    for at, value, told in (
        ((row, column), 0.0, "found 0.0"),
        ((0, 47), 5.0, "expected 0.0, found 5.0"),
        ((0, 47), -0.0, "expected 0.0, found -0.0"),
    ):
        wrong = dense.copy()
        wrong[at] = value
        with pytest.raises(WrongContents, match=told) as error:
            walked(stored_of(NPY, matrix, crafted.npy(wrong)), by_impulses(ORACLE))
        (entry,) = error.value.args
        assert (entry.row, entry.column) == at


def zero_and_one() -> Convolution:
    """[[0 1 . .] [. 0 1 .] [. . 0 1]], its zeros stored."""
    kernel = np.array([[[0, 1]]], np.float32)
    return Convolution(kernel, IndexMap((1, 1, 2), (Axis(4, 3, 2, 1, 1, 0),)))


@pytest.mark.parametrize(
    ("indices", "data", "place", "expected", "found"),
    [
        ([0, 2], [0, 1], (1, 0), None, "0.0"),
        ([2, 3], [1, 0], (1, 1), "0.0", None),
        ([1, 2], [-0.0, 1], (1, 1), "0.0", "-0.0"),
        ([1, 3], [0, 1], (1, 2), "1.0", None),
    ],
)
def test_probes_name_the_entry_even_where_it_is_a_zero(indices, data, place, expected, found):
    contents = crafted.arrays(rendered(NPZ, Matrix(zero_and_one())))
    contents["indices"][2:4], contents["data"][2:4] = indices, data
    (wrong,) = (f for f in crafted.checked(saved(contents)).findings if f.holds is False)
    assert wrong.check == "entries"
    assert (wrong.entry.row, wrong.entry.column) == place
    assert (wrong.entry.expected, wrong.entry.found) == (expected, found)


@pytest.mark.parametrize("probes", [1, 3])
def test_of_several_wrong_entries_probes_name_the_first(probes):
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"][[20, 19, 60, 70]] += 1
    row = int(np.searchsorted(contents["indptr"], 19, side="right")) - 1
    report = crafted.checked(saved(contents), probes=probes)
    assert report.complaint.startswith(f"entries: entry ({row}, {contents['indices'][19]}), ")


def test_probes_pass_over_the_zeros_of_a_dense_file_to_the_entry_that_is_wrong():
    matrix = Matrix(zero_and_one(), Spec(form="dense"))
    dense = np.load(crafted.io.BytesIO(rendered(NPY, matrix)))
    dense[1, 2] = 5
    report = crafted.verified(NPY, matrix, crafted.npy(dense))
    assert report.complaint.startswith("entries: entry (1, 2), ")


# --- what is wrong in the runtime ---------------------------------------------------------------


def disagreement(stored: StoredMatrix, make: Callable[[Subject], Check]) -> str:
    """Why a check does not hold: the file is wrong by it, or the runtime does not run the layer."""
    try:
        finding = walked(stored, make)
    except WrongContents as error:
        return str(error)
    assert finding.holds is None
    return finding.detail


class Wrong(Runtime):
    """The oracle, wrong on purpose in what it takes a layer for."""

    name = "wrong"
    label = "wrong 1.0"

    def __init__(self, change: Callable[[Convolution, Array], tuple[IndexMap, Array]]) -> None:
        self._change = change

    def missing(self) -> str:
        return ""

    def apply(self, layer: Linear, x: Array) -> Array | str:
        assert isinstance(layer, Convolution)
        index_map, kernel = self._change(layer, layer.kernel)
        return ORACLE.apply(Convolution(kernel, index_map, layer.bias), x)


def with_axes(layer: Convolution, **changes: Any) -> IndexMap:
    return replace(
        layer.index_map, axes=tuple(replace(axis, **changes) for axis in layer.index_map.axes)
    )


MISREADINGS: dict[str, Callable[[Convolution, Array], tuple[IndexMap, Array]]] = {
    "one further": lambda layer, kernel: (
        replace(
            layer.index_map,
            axes=tuple(replace(axis, offset=axis.offset + 1) for axis in layer.index_map.axes),
        ),
        kernel,
    ),
    "no dilation": lambda layer, kernel: (with_axes(layer, dilation=1), kernel),
    "no stride": lambda layer, kernel: (with_axes(layer, stride=1), kernel),
    "flipped": lambda layer, kernel: (layer.index_map, kernel[..., ::-1]),
}


@pytest.mark.slow
@every_level
@pytest.mark.parametrize("what", MISREADINGS)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_runtime_that_misreads_the_layer_does_not_agree(what, level, transposed):
    axis = Axis(13, 7, 3, 2, 2, 2)
    kernel = np.arange(1, 1 + 4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    matrix = Matrix(Convolution(kernel, IndexMap(kernel.shape, (axis, axis), 2, transposed)))
    assert walked(stored_of(NPZ, matrix), LEVELS[level](ORACLE)).holds
    told = disagreement(stored_of(NPZ, matrix), LEVELS[level](Wrong(MISREADINGS[what])))
    assert "wrong 1.0" in told or "entry (" in told


class Answering(Runtime):
    """Gives what it is told to, whatever it is asked."""

    name = label = "answering"

    def __init__(self, answer: Callable[[Array], Array | str]) -> None:
        self._answer = answer

    def missing(self) -> str:
        return ""

    def apply(self, layer: Linear, x: Array) -> Array | str:
        return self._answer(ORACLE.apply(layer, x))


@every_level
@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y + 1,
        lambda y: -y,
        lambda y: y * np.nan,
        lambda y: 0 * y,
        lambda y: y * 1.5,
        lambda y: y[..., :-1],
        lambda y: np.concatenate((y, y), -1),
        lambda y: y[:, ::-1],
        lambda y: y * 2.0**30,
    ],
)
def test_answers_that_are_wrong_in_any_way_are_not_taken_for_agreement(level, spoil):
    assert disagreement(stored_of(NPZ, example()), LEVELS[level](Answering(spoil)))


def two_ones(off: float, weight: float = 1.0) -> Finding:
    """What reals find of 1 + 1, where the runtime gives 2 and so much more."""
    kernel = np.full((1, 1, 2), weight, np.float32)
    layer = Convolution(kernel, IndexMap((1, 1, 2), (Axis(2, 1, 2, 1, 1, 0),)))
    result = RuntimeResult("it", np.ones((1, 2)), np.array([[2 + off]]), 2.0**-24, 2.0**127)
    original = RunnableLayer("the layer", lambda runtime, random: result, lambda *_: "")
    random = np.random.default_rng(1)
    return walked(
        stored_of(NPZ, Matrix(layer)), lambda subject: Reals(subject, ORACLE, original, random)
    )


def test_reals_may_be_off_by_three_terms_of_scale_2_and_no_more():
    bound = 3 * 2 * 2.0**-24  # two products and a bias
    assert "at most 0.99 of the rounding bound" in two_ones(0.99 * bound).detail
    assert two_ones(-0.99 * bound).holds
    for off in (1.01 * bound, -1.01 * bound):
        with pytest.raises(WrongContents, match=r"^output \(0, 0\): the layer, run by the oracle"):
            two_ones(off)


def test_reals_of_which_nothing_can_be_said_are_no_agreement():
    finding = two_ones(0.0, weight=3e38)
    assert finding.holds is None
    assert "no output could be compared: all 1 overflow or are not finite" in finding.detail


def test_integers_are_drawn_from_0_to_the_largest_there_is_room_for(monkeypatch):
    monkeypatch.setattr(integers, "EXACT", 15 * 8 * 2**8)
    drawn: set[float] = set()

    class Watching(Answering):
        def apply(self, layer: Linear, x: Array) -> Array | str:
            drawn.update(x.reshape(-1).tolist())
            return super().apply(layer, x)

    for seed in range(5):
        assert walked(stored_of(NPZ, example()), by_integers(Watching(lambda y: y), seed)).holds
    assert drawn == set(range(16))


@pytest.mark.parametrize("asked", range(4))
def test_an_answer_where_nothing_was_put_in_is_none_whichever_was_asked_for(asked):
    kernel = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5)
    layer = Convolution(kernel, IndexMap(kernel.shape, (Axis(12, 12, 5, 1, 1, 2),)))
    calls = iter(range(100))  # which are lit, by which number, the weights in two parts
    spoilt = Answering(lambda y: np.where(y > 0, y, 1.0) if next(calls) == asked else y)
    finding = walked(stored_of(NPZ, Matrix(layer)), by_impulses(spoilt), most=10**6)
    assert finding.holds is None
    assert finding.detail == "answering answers where nothing was put in"


def test_of_a_kernel_of_zeros_every_entry_is_compared_too():
    layer = Convolution(0 * zero_and_one().kernel, zero_and_one().index_map)
    data = rendered(NPZ, Matrix(layer))
    assert walked(stored_of(NPZ, Matrix(layer), data), by_impulses(ORACLE)).holds
    contents = crafted.arrays(data)
    contents["data"][3] = -0.0
    with pytest.raises(WrongContents, match=r"^entry \(1, 2\).* expected 0.0, found -0.0$"):
        walked(stored_of(NPZ, Matrix(layer), saved(contents)), by_impulses(ORACLE))


@pytest.mark.parametrize("column", [0, 1, 3])
def test_an_entry_in_a_column_that_its_row_does_not_read_is_wrong(column):
    layer = Convolution(
        np.array([[[3]]], np.float32), IndexMap((1, 1, 1), (Axis(4, 2, 1, 2, 1, 0),))
    )
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    contents["indices"][1] = column
    with pytest.raises(WrongContents) as error:
        walked(stored_of(NPZ, Matrix(layer), saved(contents)), by_impulses(ORACLE))
    (entry,) = error.value.args
    assert (entry.row, entry.column) == (1, min(column, 2))


def one_channel_off(y: Array) -> Array:
    y = y.copy()
    y[:, 1] += 1
    return y


@pytest.mark.parametrize("level", ["integers", "reals"])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (one_channel_off, r"^output \(1, 0, 0\): the layer, run by answering"),
        (lambda y: y[..., :-1], r"answering.* \(2, 2, 2\).*, the layer \(2, 2, 3\)"),
        (lambda y: y.repeat(2, -1), r"answering.* \(2, 2, 6\).*, the layer \(2, 2, 3\)"),
    ],
)
def test_the_first_output_that_is_wrong_is_named_and_a_shape_without_its_batch(level, spoil, told):
    with pytest.raises(WrongContents, match=told):
        walked(stored_of(NPZ, example()), LEVELS[level](Answering(spoil)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: np.where(y > 0, y + 0.25, y),
        lambda y: np.where(y > 0, y, -0.25),
        lambda y: np.where(y > 0, y, -1.0),
        lambda y: np.where(y > 0, y, 2.0**24),
        lambda y: np.where(y > 0, y, 2.0**25),
    ],
)
def test_impulses_take_nothing_for_an_answer_but_a_integer_of_24_bits(spoil):
    told = disagreement(stored_of(NPZ, example()), by_impulses(Answering(spoil)))
    assert "an integer of at most 24 bits is the only right answer" in told


@every_level
def test_a_runtime_that_cannot_run_a_layer_is_no_agreement(level):
    finding = walked(stored_of(NPZ, example()), LEVELS[level](Answering(lambda y: "no, thanks")))
    assert finding.holds is None
    assert "no, thanks" in finding.detail


def test_impulses_go_on_with_the_next_runtime_and_name_who_answered():
    refusing = Answering(lambda y: "no, thanks")
    finding = walked(stored_of(NPZ, example()), by_impulses(refusing, ORACLE))
    assert (finding.holds, finding.against) == (True, "the oracle")
    calls = iter(range(100))
    tiring = Answering(lambda y: y if next(calls) < 9 else "enough")
    finding = walked(stored_of(NPZ, example()), by_impulses(tiring, ORACLE), most=4)
    assert (finding.holds, finding.against) == (True, "answering and the oracle")


def test_sums_of_too_many_terms_leave_no_room_for_integers(monkeypatch):
    monkeypatch.setattr(integers, "EXACT", 15 * 8 * 2 - 1)
    finding = walked(stored_of(NPZ, example()), by_integers(ORACLE))
    assert finding.holds is None
    assert "sums of 8 terms" in finding.detail


@pytest.mark.parametrize(
    ("exact", "width", "most"),
    [
        (2**24, 8, 8192),
        (2**15, 8, 16),
        (15 * 8 * 2**8, 8, 15),
        (15 * 8 * 2**8 - 1, 4, 239),
        (2**14, 4, 128),
        (2**9, 2, 16),
        (2**8, 1, 16),
        (15 * 8 * 2, 1, 15),
    ],
)
def test_bits_are_taken_as_many_at_a_time_as_sums_have_room_for(exact, width, most, monkeypatch):
    monkeypatch.setattr(integers, "EXACT", exact)
    largest = []

    def watch(y: Array) -> Array:
        largest.append(float(y.max()))
        return y

    finding = walked(stored_of(NPZ, example()), by_integers(Answering(watch)))
    assert finding.holds
    told = f"agree on integers up to {most}, {width} bits of the weights at a time"
    assert finding.detail.endswith(told)  # sums have 8 terms
    assert len(largest) == 32 // width
    assert max(largest) <= exact


def test_float32_has_every_number_that_is_sent_through_it_and_not_all_of_the_next():
    assert int(np.float32(integers.EXACT - 1)) == integers.EXACT - 1
    assert int(np.float32(integers.EXACT + 1)) != integers.EXACT + 1
    assert int(np.float32(2**impulses.PART - 1)) == 2**impulses.PART - 1
    assert int(np.float32(2 ** (impulses.PART + 1) - 1)) != 2 ** (impulses.PART + 1) - 1


@pytest.mark.parametrize(
    ("bits", "dtype", "explicit_zeros", "planes"),
    [
        (0x89ABCDEF, np.uint32, True, [0x89ABCDF0]),
        (0x89ABCDEF, np.uint32, False, [0x89ABCDEF]),
        (0xFFFFFFFF, np.uint32, True, [0x100000000]),
        (0x0123456789ABCDEF, np.uint64, True, [0x89ABCDF0, 0x01234567]),
        (0x0123456789ABCDEF, np.uint64, False, [0x89ABCDEF, 0x01234567]),
        (0xFFFFFFFFFFFFFFFF, np.uint64, True, [0x100000000, 0xFFFFFFFF]),
        (0, np.uint64, True, [1, 0]),
    ],
)
def test_an_entry_is_its_bits_in_halves_the_lower_plus_one_where_zeros_are_stored(
    bits, dtype, explicit_zeros, planes
):
    weights = np.array([bits], dtype).view(f"f{np.dtype(dtype).itemsize}")
    made = [plane(weights) for plane in probes.planes(weights.dtype, explicit_zeros=explicit_zeros)]
    assert [int(part[0]) for part in made] == planes
    assert all(part.dtype == np.uint64 for part in made)


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (5, "6ff14708a3d7be3862ae454dad5e7e6a"),  # of 05, 31 times 00, 02
        (2**256, "8bf2b00a548457587b0a0bfe04824d38"),  # of 32 times 00, 01, 02
        (2**264 - 1, "3cc9bd17ce448bf68c0257946e1904bb"),  # of 33 times ff, 02
    ],
)
def test_a_seed_that_was_told_repeats_the_run_anywhere(seed, digest):
    drawn = probes.uniform(seed, 2, (2,))
    assert drawn.astype("<u8").tobytes().hex() == digest


def test_the_vectors_of_a_proof_take_4_gib_at_most():
    # Of the inputs three for the probes and two more, of the outputs one, of 8 bytes each.
    probes.check_size(107_374_182, 2, 3)
    probes.check_size(2, 536_870_902, 3)
    for sizes in ((107_374_183, 2, 3), (107_374_182, 3, 3), (107_374_182, 2, 4)):
        with pytest.raises(Refused, match=f"with {sizes[0]} inputs .*4294967296"):
            probes.check_size(*sizes)


# --- kernel_index -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(0, 72, 7))
@pytest.mark.parametrize("transposed", [False, True])
def test_a_kernel_index_is_held_to_the_geometry_wherever_it_stands(place, transposed, monkeypatch):
    data = rendered(NPZ, example(spec=Spec(transpose=transposed), kernel_index=True))
    assert findings(crafted.checked(data))["kernel_index"].holds
    contents = crafted.arrays(data)
    contents["kernel_index"][place] ^= 1
    for module in (check, blocks):
        monkeypatch.setattr(module, "CHUNK", 20)
    row = int(np.searchsorted(contents["indptr"], place, side="right")) - 1
    assert crafted.checked(saved(contents)).complaint == (
        f"kernel_index: kernel_index of row {row} names other kernel elements"
    )


@pytest.mark.parametrize("value", [-1, -16, 16, 17, 2**31 - 1])
def test_a_kernel_index_beyond_the_kernel_is_told(value):
    contents = crafted.arrays(rendered(NPZ, example(kernel_index=True)))
    contents["kernel_index"][[40, 41]] = value, -2
    told = f"kernel_index: kernel_index has {value}, beyond the 16 weights"
    assert crafted.checked(saved(contents)).complaint == told


# --- the colors --------------------------------------------------------------------------------


@given(problem=problems())
def test_colors_of_a_layer_are_few_and_none_is_read_twice(problem):
    found = problem.layer.colors()
    assert found.shape == problem.layer.input_shape
    read: dict[Any, list[int]] = {}
    for output, source in problem.nonzeros():
        read.setdefault(output, []).append(int(found[source]))
    assert all(len(set(color)) == len(color) for color in read.values())
    reading = problem.kernel.shape[0] // problem.groups if problem.transposed else 0
    most = (reading or problem.kernel.shape[1]) * np.prod(problem.kernel.shape[2:])
    assert found.max() < most


@some_examples
@given(problem=problems(styles=("integers",)), spec=specs(), most=st.integers(1, 60))
def test_strips_add_up_to_their_slab(problem, spec, most):
    layer = problem.layer
    x = np.random.default_rng(0).integers(-9, 10, layer.input_shape).astype(np.float64)
    whole = spec.layout.vector(layer.apply(x))
    for slab in layer.slabs(spec.layout, most):
        covered = np.zeros(layer.input_shape, int)
        total = np.zeros(len(slab.rows))
        for strip in slab.strips():
            covered[strip.reads] += 1
            total += spec.layout.vector(strip.layer.apply(x[strip.reads]))
        assert covered.max() == 1
        assert total.tolist() == whole[slab.rows.start : slab.rows.stop].tolist()


# --- structure ----------------------------------------------------------------------------------


def threes() -> Subject:
    """[[0 1 2] [1 2 3] [2 3 4]] are its columns."""
    kernel = np.array([[[1, 2, 3]]], np.float32)
    layer = Convolution(kernel, IndexMap((1, 1, 3), (Axis(5, 3, 3, 1, 1, 0),)))
    return Subject(Matrix(layer), True)


def block(indices: list[int], first: int = 0) -> Block:
    """Rows of three entries, the first of them row `first`."""
    indptr = np.arange(0, len(indices) + 1, 3)
    return Block(first, indptr, np.array(indices), np.ones(len(indices), np.float32))


def held(*blocks: Block) -> Finding:
    check = Structure(threes())
    for one in blocks:
        check.hold(one, slice(one.first, one.first + len(one.indptr) - 1))
    return check.finding()


@pytest.mark.parametrize(
    ("indices", "told"),
    [
        ([0, 1, 2, 1, 9, 3, 2, -3, 4], "row 1 has column 9, out of range [0, 5)"),
        ([0, 1, 2, 1, -2, 3, 2, 5, 4], "row 1 has column -2, out of range [0, 5)"),
        ([0, 1, 2, 1, 2, 3, 2, 3, 5], "row 2 has column 5, out of range [0, 5)"),
        ([-1, 1, 2, 1, 2, 3, 2, 3, 4], "row 0 has column -1, out of range [0, 5)"),
        ([0, 2, 1, 0, 2, 3, 2, 3, 3], "row 0 has column 1 after 2: columns must"),
        ([0, 1, 1, 1, 2, 3, 3, 2, 4], "row 0 has column 1 after 1: columns must"),
        ([0, 1, 2, 1, 3, 2, 2, 3, 4], "row 1 has column 2 after 3: columns must"),
        ([0, 1, 2, 1, 2, 3, 2, 4, 3], "row 2 has column 3 after 4: columns must"),
    ],
)
def test_the_first_column_that_is_wrong_is_named_with_its_row(indices, told):
    assert held(block([0, 1, 2, 1, 2, 3, 2, 3, 4])).holds
    with pytest.raises(WrongContents) as error:
        held(block(indices))
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("indptr", [[0, 0, 3], [0, 3, 3], [0, 0, 3, 3], [0, 0, 0, 3, 3, 3]])
def test_beside_empty_rows_columns_must_increase_all_the_same(indptr):
    check = Structure(threes())
    data, rows = np.ones(3, np.float32), slice(0, len(indptr) - 1)
    check.hold(Block(0, np.array(indptr), np.array([0, 1, 2]), data), rows)
    for indices in ([1, 0, 2], [0, 2, 1]):
        with pytest.raises(WrongContents, match="columns must increase strictly"):
            check.hold(Block(0, np.array(indptr), np.array(indices), data), rows)


@pytest.mark.parametrize("first", [1, 2, 3, 5])
def test_rows_are_counted_from_the_first_of_the_block(first):
    for indices, told in (([0, 1, 2, 1, 9, 3], "column 9, out"), ([0, 1, 2, 1, 3, 2], "column 2 ")):
        with pytest.raises(WrongContents) as error:
            held(block(indices, first))
        assert str(error.value).startswith(f"row {first + 1} has {told}")


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_entries_are_as_many_as_planned_no_fewer_and_no_more(rows):
    blocks = [block([0, 1, 2], row) for row in range(3)]
    assert held(*blocks).detail.startswith("9 entries")
    with pytest.raises(WrongContents, match=f"^{3 * rows} entries, where the geometry plans 9$"):
        held(*(blocks * 2)[:rows])


# --- the report and the command -----------------------------------------------------------------


def findings(report: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


def test_what_is_not_asked_for_is_not_done():
    assert (
        not {"impulses", "integers", "reals"}
        & findings(crafted.checked(rendered(NPZ, example()))).keys()
    )


def test_an_exhaustive_check_proves_even_with_a_seed_that_is_known():
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True, seed=1)
    assert (report.strength, report.verdict) == ("every entry", "proven")
    assert findings(report)["impulses"].strength == "every entry"


def test_what_is_proven_is_as_strong_as_the_weakest_of_what_is_stored():
    data = rendered(NPZ, example(kernel_index=True))  # the impulses say nothing of kernel_index
    assert crafted.checked(data, exhaustive=True).strength == "2^-96"
    report = crafted.checked(data, exhaustive=True, seed=1)
    assert (report.strength, report.verdict) == ("seed given", "consistent")


def test_what_was_found_before_something_wrong_stays_in_the_report():
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"][5] += 1
    report = crafted.checked(saved(contents), exhaustive=True)
    assert [finding.check for finding in report.findings] == ["digest", "bias", "entries"]
    assert (report.strength, report.verdict) == ("2^-96", "wrong")


def test_the_cost_of_getting_ready_is_a_checks_own():
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True, against="reference")
    told = findings(report)
    for name in ("structure", "entries", "impulses", "integers", "reals"):
        assert 0 < told[name].seconds <= report.seconds
    assert sum(finding.seconds or 0 for finding in told.values()) <= report.seconds


def test_an_exhaustive_check_that_could_not_be_done_proves_nothing_more(monkeypatch):
    def refuse(*_: Any) -> None:
        raise impulses._NoAnswer("no, thanks")

    monkeypatch.setattr(Impulses, "_answers", refuse)
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True)
    assert (report.strength, report.verdict) == ("2^-96", "proven")
    assert [finding.check for finding in report.undone] == ["impulses"]


def test_without_onnxruntime_the_oracle_answers_impulses(monkeypatch):
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True)
    assert findings(report)["impulses"].against == "the oracle"
    with pytest.raises(UsageError, match=r"pip install 'convfc\[onnxruntime\]'"):
        Proof(against="onnxruntime")


@pytest.mark.parametrize(
    "asked", [{"probes": 0}, {"probes": 9}, {"seed": -1}, {"against": "numpy"}, {"against": ""}]
)
def test_a_proof_that_cannot_be_asked_for_is_refused(asked):
    with pytest.raises(UsageError):
        Proof(**asked)


def test_of_an_operator_file_it_is_said_what_was_not_checked():
    report = crafted.checked(
        rendered(NPZ, example("operator")), exhaustive=True, against="reference"
    )
    assert report.ok
    assert [finding.check for finding in report.undone] == ["impulses", "integers", "reals"]
    assert report.verdict == "consistent"


def test_the_first_wrong_entry_is_in_the_json():
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"][5] = np.nan
    report = crafted.checked(saved(contents))
    (wrong,) = (finding for finding in report.to_json()["findings"] if finding["holds"] is False)
    assert json.loads(json.dumps(wrong["entry"], allow_nan=False)) == {
        **{"row": 1, "column": 2, "output": [0, 0, 1], "input": [0, 0, 2]},
        **{"kernel": [0, 0, 1, 1], "expected": "0.5", "found": "nan (0x7fc00000)"},
    }


def test_a_wrong_entry_says_where_it_stands():
    entry = WrongEntry(3, 7, (0, 3), (0, 7), None, None, "1.5")
    assert str(entry) == (
        "entry (3, 7), output (0, 3) from input (0, 7): a structural zero, "
        "expected nothing, found 1.5"
    )


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, np.inf, 1e-45])
def test_values_are_shown_as_they_are(value):
    assert shown(np.float32(value)) == str(np.float32(value))


def test_nans_are_told_apart():
    one, other = np.array([0x7FC00000, 0xFFC12345], np.uint32).view(np.float32)
    assert (shown(one), shown(other)) == ("nan (0x7fc00000)", "nan (0xffc12345)")


def test_the_command_holds_the_models_own_node_to_the_file(model: Path):
    run("convert", model, "-o", "c.npz").succeeded()
    done = run("verify", "c.npz", "--model", model, "--against", "reference", "--json").succeeded()
    (report,) = json.loads(done.out)
    told = {finding["check"]: finding for finding in report["findings"]}
    for name in ("integers", "reals"):
        assert told[name]["holds"] is True
        assert told[name]["against"].startswith("onnx.reference ")
        assert told[name]["detail"].startswith("the original node and the matrix")
    alone = run("verify", "c.npz", "--against", "reference", "--json").succeeded()
    told = {finding["check"]: finding for finding in json.loads(alone.out)[0]["findings"]}
    assert told["integers"]["detail"].startswith("the layer and the matrix")


@pytest.mark.parametrize("transpose", [(), ("--transpose",)])
def test_the_node_of_another_layer_is_not_put_beside_the_file(model: Path, transpose):
    large = net(Path("large.onnx"), shape=(1, 2, 60, 50))
    run("convert", large, "-o", "c.npz", *transpose).succeeded()
    done = run("verify", "c.npz", "--model", model, "--against", "reference", "--json")
    assert done.code == 1, done
    (report,) = json.loads(done.out)
    told = {finding["check"]: finding for finding in report["findings"]}
    assert told["origin"]["holds"] is False
    assert told["reals"]["detail"].startswith("the layer and the matrix")


def test_a_result_of_other_shapes_is_wrong_before_anything_is_multiplied():
    matrix = example()
    other = as_read(
        Convolution(np.ones((1, 1, 2), np.float32), IndexMap((1, 1, 2), (Axis(9, 8, 2, 1, 1, 0),)))
    )
    random = np.random.default_rng(0)
    with pytest.raises(WrongContents, match=r"makes \(1, 8\) of \(1, 9\), the layer"):
        Reals(Subject(matrix, True), ORACLE, other, random)


@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_a_layer_of_which_no_output_can_be_compared_is_converted_all_the_same(folder: Path, value):
    def fill(kernels: list[Any]) -> None:
        kernels[0][...] = value

    run("convert", net(Path("m.onnx"), change=fill), "-o", "c.npz").succeeded()
    done = run("verify", "c.npz", "--against", "reference")
    assert done.code == 4
    assert "not checked (reals): the layer and the matrix: no output could be compared" in done.err


@pytest.mark.parametrize("change", [("--flip-kernel",), ("--transpose",)])
def test_a_matrix_of_another_kernel_than_the_nodes_is_held_to_the_layer(model: Path, change):
    run("convert", model, "-o", "c.npz", *change).succeeded()
    done = run("verify", "c.npz", "--model", model, "--against", "reference", "--json").succeeded()
    told = {finding["check"]: finding for finding in json.loads(done.out)[0]["findings"]}
    what = "the layer" if change == ("--flip-kernel",) else "the original node"
    assert told["reals"]["holds"] is True
    assert told["reals"]["detail"].startswith(what)


def test_what_could_not_be_checked_is_said_and_is_no_success(model: Path):
    run("convert", model, "-o", "c.npz", "--form", "operator").succeeded()
    done = run("verify", "c.npz", "--exhaustive", "--against", "reference")
    assert done.code == 4
    assert done.out == "consistent\tc.npz\tdigest only\n"
    told = "convfc: c.npz: not checked (impulses, integers, reals): an operator file stores no"
    consistent = "1 consistent (an operator file stores no entries to prove)"
    assert f"\n0 of 1 proven, {consistent}, 1 not checked as asked\n" in done.err
    assert told in done.err


def test_the_json_of_what_cannot_be_read_says_so(model: Path):
    run("convert", model, "-o", "c.npz").succeeded()
    for files in (("none.npz",), ("c.npz", "none.npz")):
        done = run("verify", *files, "--json")
        assert done.code == 2
        *good, bad = json.loads(done.out)
        assert (bad["file"], bad["verdict"]) == ("none.npz", "error")
        assert bad["error"] in done.err
        assert [report["verdict"] for report in good] == ["proven"] * len(good)


def test_the_number_of_colors_is_known_without_making_them():
    for transposed in (False, True):
        axis = Axis(13, 7, 3, 2, 2, 2)
        layer = Convolution(
            np.ones((4, 3, 3, 3), np.float32), IndexMap((4, 3, 3, 3), (axis, axis), 2, transposed)
        )
        assert layer.most_colors == layer.colors().max() + 1


def test_exhaustive_from_the_command(model: Path):
    run("convert", model, "-o", "c.npz").succeeded()
    assert run("verify", "c.npz", "--exhaustive").succeeded().out == "proven\tc.npz\tevery entry\n"


def wide(inputs: int, kernel: int, channels: int = 1) -> Convolution:
    """A 1-D convolution of so many channels, each of which reads all of them."""
    axis = Axis(inputs, inputs - kernel + 1, kernel, 1, 1, 0)
    shape = (channels, channels, kernel)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Convolution(values, IndexMap(shape, (axis,)))


@pytest.mark.slow
def test_a_kernel_as_wide_as_its_input_is_not_compared_entry_by_entry(tmp_path: Path) -> None:
    """Of 65,536 entries each would take all products: 790 kB took 50 seconds."""
    path = tmp_path / "m.npz"
    path.write_bytes(rendered(NPZ, Matrix(wide(2**16, 2**16), Spec(Layout()))))
    done = run("verify", path, "--exhaustive")
    assert done.code == 4
    assert (
        "not checked (impulses): its impulses take more than 8,724,152,320 products, the most "
        "that are made for its 65,536 entries"
    ) in done.err
    assert done.lines[0].split("\t")[0] == "proven"  # by the probes


def test_impulses_take_a_kernel_of_10_by_10(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to spare: what an entry may take is enough for it."""
    monkeypatch.setattr(impulses, "FREE", 0)
    axes = (Axis(24, 15, 10, 1, 1, 0),) * 2
    layer = Convolution(np.ones((2, 3, 10, 10), np.float32), IndexMap((2, 3, 10, 10), axes))
    report = crafted.checked(rendered(NPZ, Matrix(layer, Spec(Layout()))), exhaustive=True)
    assert findings(report)["impulses"].holds


def test_impulses_are_put_in_a_few_at_a_time_where_products_ask_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, asked = wide(9, 3), []
    monkeypatch.setattr(impulses, "MAX_PRODUCTS", 2 * layer.outline.products + 1)
    whole = type(ORACLE).apply

    def apply(self: Any, given: Linear, x: Any) -> Any:
        asked.append(len(x))
        return whole(self, given, x)

    monkeypatch.setattr(type(ORACLE), "apply", apply)
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    report = crafted.checked(rendered(NPZ, Matrix(layer, Spec(Layout()))), exhaustive=True)
    assert findings(report)["impulses"].holds
    assert set(asked) == {2, 1}  # of three colors


@pytest.mark.parametrize("most", ["products", "budget"])
def test_reals_of_too_many_products_are_not_compared(
    most: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime has run it once; the oracle would three times more."""
    layer = wide(9, 3)
    stored = rendered(NPZ, Matrix(layer, Spec(Layout())))
    with budget.command() as whole:
        if most == "budget":
            whole.products = 2 * layer.outline.products
        else:
            monkeypatch.setattr(rounding, "MAX_PRODUCTS", layer.outline.products - 1)
        report = crafted.checked(stored, against="reference")
    told = findings(report)["reals"]
    assert told.holds is None
    assert "products" in told.detail
    assert report.ok


def test_impulses_of_a_layer_without_entries() -> None:
    layer = Gather((2,), np.array([-1, -1, -1]), kernel=np.ones(1, np.float32))
    assert layer.outline.products == 0
    report = crafted.checked(rendered(NPZ, Matrix(layer, Spec(Layout()))), exhaustive=True)
    assert findings(report)["impulses"].holds
