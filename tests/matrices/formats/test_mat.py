"""Matrix files as MATLAB's, level 5: what SciPy finds in them, and faulty ones."""

import io
import struct

import numpy as np
import pytest
import scipy.io
from hypothesis import assume, given
from hypothesis import strategies as st

from convfc_cli.errors import Refused, Unsupported, UsageError
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.taps import IndexMap
from tests.support import brute, crafted
from tests.support.crafted import example, outcome, patched, rendered
from tests.support.strategies import problems, specs

MAT = registry.formats()["mat"]


@pytest.mark.slow
@given(problems(), specs())
def test_scipy_reads_matrix_and_bias_bit_for_bit(problem, spec):
    assume(crafted.holds(MAT, problem.layer))
    matrix = Matrix(problem.layer, spec)
    loaded = scipy.io.loadmat(io.BytesIO(rendered(MAT, matrix)))
    expected = problem.csr(spec)
    found = loaded["M"].tocsc()
    assert found.shape == expected.shape
    assert found.dtype == np.float64
    assert found.nnz == len(expected.data)
    rows = np.repeat(np.arange(len(expected.indptr) - 1), np.diff(expected.indptr))
    order = np.lexsort((rows, expected.indices))
    assert found.indices.tolist() == rows[order].tolist()
    columns = np.repeat(np.arange(found.shape[1]), np.diff(found.indptr))
    assert columns.tolist() == expected.indices[order].tolist()
    values = found.data.astype(problem.kernel.dtype)
    assert np.array_equal(brute.bits(values), brute.bits(expected.data[order]))
    assert loaded["bias"].shape == (problem.index_map.rows, 1)
    bias = loaded["bias"][:, 0].astype(problem.kernel.dtype)
    assert np.array_equal(brute.bits(bias), brute.bits(np.ascontiguousarray(matrix.bias)))


def test_the_header_says_neither_when_nor_where():
    data = rendered(MAT, example())
    assert data[:128] == b"MATLAB 5.0 MAT-file, written by convfc".ljust(116) + bytes(8) + (
        b"\x00\x01IM"
    )
    assert [name for name, *_ in scipy.io.whosmat(io.BytesIO(data))] == ["bias", "M"]


def test_a_matrix_without_nonzeros_is_opened():
    nothing = (Axis(2, 2, 1, 1, 1, 2), Axis(2, 2, 1, 1, 1, 2))
    kernel = np.ones((2, 1, 1, 1), np.float32)
    matrix = Matrix(Convolution(kernel, IndexMap(kernel.shape, nothing)))
    data = rendered(MAT, matrix)
    assert scipy.io.loadmat(io.BytesIO(data))["M"].nnz == 0
    flags = data.index(struct.pack("<II", 6, 8), 200)  # those of M, after those of bias
    assert struct.unpack_from("<II", data, flags + 8) == (5, 1)  # MATLAB has room for one at least
    assert crafted.verified(MAT, matrix, data).ok


def test_a_signalling_nan_is_unsupported():
    kernel = np.array([[[1, 2]]], np.float32)
    kernel.view(np.uint32)[0, 0, 1] = 0x7F800001
    layer = Convolution(kernel, IndexMap(kernel.shape, (Axis(3, 2, 2, 1, 1, 0),)))
    with pytest.raises(Unsupported, match="signalling NaN"):
        rendered(MAT, Matrix(layer))


def square(size):
    """The identity of this size: its M takes 16 bytes a row and 68 to 72 more."""
    return IndexMap((1, 1, 1), (Axis(size, size, 1, 1, 1, 0),))


def test_the_largest_that_level_5_holds_is_planned_and_no_larger_one():
    assert 2**31 < MAT.size(Spec(), square(2**27 - 5), np.dtype(np.float32), Origin()) < 2**32
    with pytest.raises(Refused, match=r"take \*.npz or \*.h5"):
        MAT.size(Spec(), square(2**27 - 4), np.dtype(np.float32), Origin())


@pytest.mark.parametrize("size", [2**27, 2**31, 2**40])
def test_what_level_5_does_not_hold_is_refused_before_anything_is_written(size):
    out = io.BytesIO()
    layer = Convolution(np.ones((1, 1, 1), np.float32), square(size))
    with pytest.raises(Refused, match="has less than 2147483648 bytes"):
        MAT.write([Matrix(layer)], out, lambda done: None)
    assert out.getvalue() == b""


@pytest.mark.slow
@pytest.mark.parametrize("spec", [Spec(), Spec(Layout("channels-last"), transpose=True)], ids=str)
def test_every_flipped_byte_is_found(spec, tmp_path):
    path = crafted.written(MAT, example(spec=spec), tmp_path)
    data = bytearray(path.read_bytes())
    found = set()
    for place in range(len(data)):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        kind, _ = outcome(path)
        assert kind in {"wrong", "MalformedInput"}, place
        found.add(kind)
        data[place] ^= 1 << place % 8
    assert found == {"wrong", "MalformedInput"}
    path.write_bytes(data)
    assert outcome(path) == ("ok", "")


def test_a_wrong_value_a_wrong_row_and_a_wrong_column_are_named(tmp_path):
    path = crafted.written(MAT, example(), tmp_path)
    data = path.read_bytes()
    end, nonzeros, columns = len(data), 72, 48
    values = end - 8 * nonzeros
    starts = values - 8 - 4 - 4 * (columns + 1)  # the padding and a tag stand between
    rows = starts - 8 - 4 * nonzeros
    assert struct.unpack_from("<i", data, starts + 4 * columns) == (nonzeros,)
    for place, part, message in (
        (values, struct.pack("<d", 77), "entry (0, 0), output (0, 0, 0) from input (0, 0, 0)"),
        (values, struct.pack("<d", 0.1), "has 0.1, which is not a float32"),
        (values, struct.pack("<d", 1e300), "which is not a float32"),
        (rows, struct.pack("<i", 7), "entry (0, 0), output"),
        (rows, struct.pack("<i", 12), "column 0 has row 12, out of range [0, 12)"),
        (rows, struct.pack("<i", -1), "column 0 has row -1, out of range"),
        (starts, struct.pack("<i", 1), "indptr does not begin with 0"),
        (starts + 4, struct.pack("<i", 9), "column 0 ends at entry 9 by indptr"),
        (128 + 56, struct.pack("<d", 0.75), "bias 0 is 0.75"),
    ):
        path.write_bytes(patched(data, place, part))
        kind, told = outcome(path)
        assert kind == "wrong"
        assert message in told


def test_a_file_of_another_writer_is_malformed(tmp_path):
    path = crafted.written(MAT, example(), tmp_path)
    loaded = scipy.io.loadmat(path)
    for compressed in (False, True):
        scipy.io.savemat(
            path, {"bias": loaded["bias"], "M": loaded["M"]}, do_compression=compressed
        )
        kind, message = outcome(path)
        assert kind == "MalformedInput"
        assert "matrix.mat" in message


@pytest.mark.slow
@given(st.binary(min_size=1, max_size=64), st.integers(0, 2000))
def test_any_bytes_are_refused_with_a_documented_error(content, place):
    data = rendered(MAT, example())
    changed = patched(data, place % len(data), content)
    found = crafted.outcome_beside(MAT, example(), changed)
    assert found in ({"ok"} if changed == data else {"wrong", "WrongContents", "MalformedInput"})


def test_the_operator_file_of_another_matrix_is_not_taken_for_its_own(tmp_path):
    path = crafted.written(MAT, example(), tmp_path)
    npz = registry.formats()["npz"]
    for other in (
        example("operator", Spec(transpose=True)),
        example("operator", Spec(Layout("channels-last"))),
        example("csr"),
    ):
        crafted.sidecar(path).write_bytes(rendered(npz, other))
        assert outcome(path)[0] in {"MalformedInput", "wrong"}


def test_a_mat_from_a_pipe_is_a_usage_error_that_says_why():
    with pytest.raises(UsageError, match="its operator file beside it"):
        registry.stored(crafted.in_memory(rendered(MAT, example())))
