"""A matrix of some rows: what is written of it, and read back, is that part of the whole."""

import numpy as np
import pytest
from hypothesis import given

from convfc_cli.errors import UsageError
from convfc_cli.layers.dense import Dense
from convfc_cli.matrices import registry
from convfc_cli.matrices.blocks import dense_chunks
from convfc_cli.matrices.matrix import Matrix, describe
from tests.support.crafted import example, in_memory, rendered
from tests.support.strategies import STREAM_SIZES, rows_of, specs, stream_sizes

FORMATS = registry.formats()

PARTS = [range(12), range(5), range(3, 4), range(5, 12)]

every_part = pytest.mark.parametrize("part", PARTS, ids=str)


class Values:
    """An array that is read from front to back."""

    def __init__(self, values):
        self._values, self._next = values, 0

    def read(self, count):
        start, self._next = self._next, self._next + count
        return self._values[start : self._next]


def of(part, form="csr"):
    whole = example(form)
    return Matrix(whole.layer, whole.spec, whole.origin, part)


def whole_rows():
    return rows_of(example().layer, example().spec)


def lengths(part):
    indptr, _, _ = whole_rows().block(part.start, part.stop)
    return np.diff(indptr)


def assert_rows(blocks, part):
    """These blocks, one after the other, are those rows of the whole."""
    row = part.start
    for block in blocks:
        assert block.first == row
        row += len(block.indptr) - 1
        for found, expected in zip(
            (block.indptr, block.indices, block.data),
            whole_rows().block(block.first, row),
            strict=True,
        ):
            assert found.tolist() == expected.tolist()
    assert row == part.stop


@given(spec=specs())
def test_a_matrix_has_all_rows_by_default(spec):
    layer = example().layer
    rows, columns = (48, 12) if spec.transpose else (12, 48)
    matrix = Matrix(layer, spec)
    assert (matrix.rows, matrix.shape) == (range(rows), (rows, columns))
    assert matrix.transposed().rows == range(columns)
    assert Matrix(layer, spec, part=range(2, 7)).shape == (5, columns)


def test_rows_may_be_more_than_memory_could_address():
    layer = Dense(np.ones((1, 1), np.float32), (2**40, 2**40))
    assert Matrix(layer).rows == range(2**80)
    assert Matrix(layer).shape == (2**80, 2**80)


@pytest.mark.parametrize(
    "part", [range(13), range(3, 3), range(4, 2), range(-1, 2), range(0, 4, 2)], ids=str
)
def test_a_part_is_a_range_of_the_rows(part):
    with pytest.raises(UsageError, match=r"^range\(.*\) is not a part of 12 rows$"):
        of(part)


@every_part
@given(sizes=STREAM_SIZES)
def test_rows_of_a_dense_file_are_those_of_the_whole(part, sizes):
    whole = example("dense")
    with stream_sizes(sizes):
        entries = np.concatenate([chunk.copy() for chunk in dense_chunks(of(part, "dense"))])
        expected = np.concatenate([chunk.copy() for chunk in dense_chunks(whole)])
        assert entries.tolist() == expected.reshape(whole.shape)[part].reshape(-1).tolist()
        npy, matrix = FORMATS["npy"], of(part, "dense")
        stored = npy.stored(in_memory(rendered(npy, matrix)), matrix, "beside")
        assert_rows(stored.rows(lengths(part)), part)


@every_part
def test_lines_of_an_edge_list_are_those_of_the_whole(part):
    edges, matrix = FORMATS["edges"], of(part)
    header, *lines = rendered(edges, example()).splitlines(keepends=True)
    expected = [line for line in lines if int(line.split(b",")[1]) in part]
    data = rendered(edges, matrix)
    assert data.splitlines(keepends=True) == [header, *expected]
    assert_rows(edges.stored(in_memory(data), matrix, "beside").rows(lengths(part)), part)


@every_part
def test_readers_count_rows_from_the_first_of_the_matrix(part):
    indptr, indices, data = whole_rows().block(part.start, part.stop)
    csr = {"indptr": Values(indptr), "indices": Values(indices), "data": Values(data)}
    assert_rows(FORMATS["npz"].reader(of(part), csr).rows(lengths(part)), part)
    coo, matrix = FORMATS["npz-coo"], of(part, "coo")
    row = np.concatenate(list(coo.values(matrix, "row", data.shape)))
    assert row.tolist() == np.repeat(part, lengths(part)).tolist()
    arrays = {"row": Values(row), "col": Values(indices), "data": Values(data)}
    assert_rows(coo.reader(matrix, arrays).rows(lengths(part)), part)


def test_a_part_is_neither_described_nor_transposed():
    matrix = of(range(3, 7))
    for use in (describe, Matrix.transposed, FORMATS["mtx"].header):
        with pytest.raises(UsageError, match=r"^all rows are needed, .* range\(3, 7\) alone$"):
            use(matrix)
