"""Level 3, small integers: how large they are, and which wrong bits they see."""

from typing import Any

import pytest
from hypothesis import given
from numpy.typing import NDArray

from convfc_cli.errors import WrongContents
from convfc_cli.layers.linear import Linear
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.proof import integers
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from tests.support.crafted import example
from tests.support.levels import (
    SEEDS,
    Answering,
    by_integers,
    changed,
    some_examples,
    stored_of,
    walked,
)
from tests.support.strategies import problems, specs

Array = NDArray[Any]

NPZ = registry.formats()["npz"]


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
