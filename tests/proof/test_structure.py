"""Level 0, structure: columns, rows and counts before any arithmetic."""

import numpy as np
import pytest

from convfc_cli.errors import WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.proof.check import Subject
from convfc_cli.proof.report import Finding
from convfc_cli.proof.structure import Structure
from convfc_cli.taps import IndexMap


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
