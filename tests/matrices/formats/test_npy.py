"""Matrix files as npy, beside their operator files: what they hold, and damaged ones."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from convfc_cli.errors import UsageError
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Spec
from tests.support import brute, crafted
from tests.support.crafted import example, npy, outcome, raw_npy, rendered
from tests.support.strategies import problems, specs

NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]


@pytest.mark.slow
@given(problems(), specs())
def test_numpy_opens_an_npy_bit_for_bit(problem, spec):
    data = rendered(NPY, Matrix(problem.layer, replace(spec, form="dense")))
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    assert loaded.flags.c_contiguous
    assert np.array_equal(brute.bits(loaded), brute.bits(problem.csr(spec).dense()))


def dense_file(folder, data=None):
    path = crafted.written(NPY, example("dense"), folder)
    if data is not None:
        path.write_bytes(data)
    return path


@pytest.mark.slow
def test_every_flipped_byte_of_an_npys_entries_is_found(tmp_path):
    path = dense_file(tmp_path)
    data = bytearray(path.read_bytes())
    start = len(data) - 12 * 48 * 4
    for place in range(start, len(data), 5):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        kind, message = outcome(path)
        row, column = divmod((place - start) // 4, 48)
        assert kind == "wrong"
        assert f"entry ({row}, {column}), output " in message
        data[place] ^= 1 << place % 8


def test_every_flipped_byte_of_an_npys_header_is_found_unless_it_means_the_same(tmp_path):
    path = dense_file(tmp_path)
    data = bytearray(path.read_bytes())
    original = np.load(path)
    accepted = 0
    for place in range(len(data) - 12 * 48 * 4):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        kind, _ = outcome(path)
        assert kind in {"ok", "MalformedInput", "WrongContents"}
        if kind == "ok":
            accepted += 1
            assert np.array_equal(np.load(path), original)
        data[place] ^= 1 << place % 8
    assert accepted < 50


def test_an_npy_without_its_operator_file_is_malformed_and_the_file_is_named(tmp_path):
    path = dense_file(tmp_path)
    crafted.sidecar(path).unlink()
    kind, message = outcome(path)
    assert kind == "MalformedInput"
    assert "matrix.npy needs matrix.npy.operator.npz beside it" in message


def test_an_npy_from_a_pipe_is_a_usage_error_that_says_why():
    with pytest.raises(UsageError, match="its operator file beside it"):
        registry.stored(crafted.in_memory(rendered(NPY, example("dense"))))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (npy(np.zeros((12, 48))), ("WrongContents", "float64")),
        (npy(np.zeros((12, 48), ">f4")), ("WrongContents", ">f4")),
        (npy(np.zeros((48, 12), np.float32)), ("WrongContents", "(48, 12)")),
        (npy(np.zeros((12, 48, 1), np.float32)), ("WrongContents", "(12, 48, 1)")),
        (npy(np.asfortranarray(np.zeros((12, 48), np.float32))), ("MalformedInput", "C-ordered")),
        (npy(np.array([{}], object)), ("MalformedInput", "object")),
        (raw_npy("<f4", (12, -48)), ("MalformedInput", "(12, -48)")),
        (raw_npy("<f4", (2**40, 2**40)), ("MalformedInput", "declares the shape")),
        (raw_npy("<f4", (12, 48), b"\0" * 12), ("MalformedInput", "does not match its header")),
    ],
)
def test_an_npy_of_another_shape_or_dtype_is_refused_with_both(content, expected, tmp_path):
    kind, message = outcome(dense_file(tmp_path, content))
    assert kind == expected[0]
    assert expected[1] in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"some text", {"MalformedInput"}),
        (npy(np.zeros(3)), {"MalformedInput"}),
        (rendered(NPZ, example("operator", Spec(Layout("fortran")))), {"wrong"}),
        (rendered(NPZ, example("operator", Spec(transpose=True))), {"WrongContents"}),
        (rendered(NPZ, example("operator", dtype=np.float64)), {"WrongContents"}),
        (rendered(NPZ, example("csr")), {"ok", "MalformedInput"}),
        (rendered(NPZ, example("csr", kernel_index=True)), {"ok", "MalformedInput"}),
        (rendered(NPZ, example("operator"))[:-1], {"MalformedInput"}),
    ],
)
def test_an_operator_file_that_is_another_is_a_documented_error(content, expected, tmp_path):
    path = dense_file(tmp_path)
    crafted.sidecar(path).write_bytes(content)
    assert outcome(path)[0] in expected
