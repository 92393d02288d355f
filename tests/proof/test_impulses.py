"""Level 2, impulses: what they see of wrong entries, and of runtimes that answer wrongly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from convfc_cli.errors import WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.linear import Linear
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof import impulses, integers, probes
from convfc_cli.proof.check import shown
from convfc_cli.runtimes import onnxruntime
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.taps import IndexMap
from tests.support import crafted
from tests.support.cli_models import run
from tests.support.crafted import example, rendered, saved
from tests.support.levels import (
    SEEDS,
    Answering,
    by_impulses,
    changed,
    disagreement,
    findings,
    some_examples,
    stored_of,
    walked,
    wide,
    zero_and_one,
)
from tests.support.strategies import problems, specs

Array = NDArray[Any]

NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]


# --- what is right ------------------------------------------------------------------------------


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


@some_examples
@given(problem=problems(), spec=specs(), seed=SEEDS)
def test_impulses_name_the_entry_of_which_one_bit_is_wrong(problem, spec, seed):
    data, row, column = changed(problem, spec, seed)
    stored = stored_of(NPZ, Matrix(problem.layer, spec), data)
    if column < 0:  # the matrix has no entries
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


# --- what is wrong in the runtime ---------------------------------------------------------------


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


def test_impulses_go_on_with_the_next_runtime_and_name_who_answered():
    refusing = Answering(lambda y: "no, thanks")
    finding = walked(stored_of(NPZ, example()), by_impulses(refusing, ORACLE))
    assert (finding.holds, finding.against) == (True, "the oracle")
    calls = iter(range(100))
    tiring = Answering(lambda y: y if next(calls) < 9 else "enough")
    finding = walked(stored_of(NPZ, example()), by_impulses(tiring, ORACLE), most=4)
    assert (finding.holds, finding.against) == (True, "answering and the oracle")


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


# --- what they cost -------------------------------------------------------------------------------


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


def test_impulses_of_a_layer_without_entries() -> None:
    layer = Gather((2,), np.array([-1, -1, -1]), kernel=np.ones(1, np.float32))
    assert layer.outline.products == 0
    report = crafted.checked(rendered(NPZ, Matrix(layer, Spec(Layout()))), exhaustive=True)
    assert findings(report)["impulses"].holds
