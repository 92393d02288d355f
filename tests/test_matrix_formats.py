"""One contract for every kind of matrix file; then hostile and damaged files of each kind.

Crafted files are made by `tests.crafted`, with zipfile, numpy and h5py alone.
"""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anndata
import binsparse
import h5py
import numpy as np
import pytest
import scipy.sparse
from binsparse.conversions import to_scipy as binsparse_scipy
from hypothesis import given
from hypothesis import strategies as st

import convfc_cli
from convfc_cli import verification
from convfc_cli.errors import ConvfcError, MalformedInput, UsageError, WrongContents
from convfc_cli.files import opened
from convfc_cli.geometry import Axis
from convfc_cli.layers import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import format as matrix_format
from convfc_cli.matrices import hdf5, hdf5_frame, registry
from convfc_cli.matrices.container import StoredZip, write_all
from convfc_cli.matrices.matrix import FORMS, Matrix, Origin, Spec
from convfc_cli.taps import IndexMap
from tests import brute, crafted
from tests.crafted import CASES, example, label, npy, outcome, raw_npy, rendered, replaced
from tests.strategies import LAYOUTS, STREAM_SIZES, layouts, problems, stream_sizes

HDF5 = registry.formats()["hdf5"]
NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]

every_case = pytest.mark.parametrize(("kind", "form"), CASES, ids=label)
every_layout = pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda layout: f"{layout.order}{'-T' * layout.transpose}"
)


def assert_same_layer(found, expected):
    assert found.index_map == expected.index_map
    assert found.kernel.dtype == expected.kernel.dtype
    assert np.array_equal(brute.bits(found.kernel), brute.bits(expected.kernel))
    assert (found.bias is None) == (expected.bias is None)
    if expected.bias is not None:
        assert np.array_equal(brute.bits(found.bias), brute.bits(expected.bias))


# --- the contract -------------------------------------------------------------------------------


def test_the_registry_knows_each_kind_by_its_name_in_order():
    formats = registry.formats()
    assert list(formats) == sorted(formats)
    assert all(kind.name == name for name, kind in formats.items())
    assert len({kind.suffixes[0] for kind in formats.values()}) == len(formats)
    assert {form for kind in formats.values() for form in kind.forms} == set(FORMS)
    for kind in formats.values():
        assert kind.summary
        assert registry.by_suffix(Path(f"some.thing{kind.suffixes[0].upper()}")) is kind


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_a_kind_that_writes_it(form):
    assert form in registry.by_form(form).forms


def test_a_suffix_of_no_kind_is_refused_with_those_there_are():
    with pytest.raises(UsageError) as error:
        registry.by_suffix(Path("matrix.mat"))
    assert "matrix.mat" in str(error.value)
    for kind in registry.formats().values():
        assert kind.suffixes[0] in str(error.value)


@every_case
@every_layout
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_written_is_sniffed_read_back_equal_and_verified(
    kind, form, layout, dtype, tmp_path
):
    matrix = example(form, layout, dtype)
    path = crafted.written(kind, matrix, tmp_path)
    renamed = path.rename(path.with_suffix(".bin"))  # no suffix helps, the content does
    with opened(renamed) as source:
        found = registry.stored(source)[0].matrix
    assert_same_layer(found.layer, matrix.layer)
    assert found.spec == matrix.spec
    assert found.origin == matrix.origin
    assert found.shape == matrix.shape
    assert np.array_equal(found.bias, matrix.bias)
    report = crafted.checked(renamed)
    assert crafted.failures(report) == []
    assert report.ok
    assert (report.shape, report.form, report.layer) == (matrix.shape, form, "conv/1")
    assert report.nonzeros == 72
    assert report.strength == ("digest only" if form == "operator" else "2^-96")
    checks = {finding.check for finding in report.findings}
    structural = {"bias", "structure"} if form != "dense" else set()  # a dense file has neither
    assert checks >= ({"digest"} if form == "operator" else {"digest", "entries", *structural})


@every_case
def test_the_digest_is_stated_and_bias_is_flattened_as_the_outputs(kind, form, tmp_path):
    matrix = example(form, Layout("channels-last"))
    with opened(crafted.written(kind, matrix, tmp_path)) as source:
        (stored,) = registry.stored(source)
        assert stored.matrix.bias.tolist() == [0.5, -2] * 6
        assert form == "operator" or stored.bias().tolist() == [0.5, -2] * 6
        assert isinstance(stored.stated_digest, str)
        assert len(stored.stated_digest) == 64


class Pipe:
    """A sink that can do nothing but write, and takes a few bytes at a time."""

    def __init__(self, most):
        self.most, self.taken = most, bytearray()

    def write(self, data):
        part = bytes(memoryview(data)[: self.most])
        self.taken += part
        return len(part)


@every_case
def test_the_bytes_are_the_same_twice_and_to_a_pipe(kind, form):
    first = rendered(kind, example(form))
    assert rendered(kind, example(form)) == first
    for most in (1, 1000, 10**9):
        pipe = Pipe(most)
        kind.write([example(form)], pipe, lambda done: None)
        assert bytes(pipe.taken) == first


@every_case
def test_progress_counts_the_bytes_of_the_arrays(kind, form):
    told = []
    out = io.BytesIO()
    kind.write([example(form)], out, told.append)
    size = len(out.getvalue())
    assert all(done >= 0 for done in told)
    assert 0 < sum(told) <= size
    if form == "dense":  # with kernel and bias, unless they lie in a file of their own
        assert sum(told) == 12 * 48 * 4 + (0 if kind.beside(Path("x.npy")) else 72)


@every_case
@every_layout
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_size_is_planned_to_within_the_metadata(kind, form, layout, dtype):
    axes = (Axis(40, 40, 3, 1, 1, 1), Axis(40, 40, 3, 1, 1, 1))
    kernel = np.ones((4, 2, 3, 3), dtype)
    matrix = Matrix(Convolution(kernel, IndexMap(kernel.shape, axes)), Spec(layout, form))
    actual = len(rendered(kind, matrix))
    operator = crafted.beside(kind, matrix)
    actual += operator.size if operator else 0
    planned = kind.size(matrix.spec, matrix.layer.index_map, matrix.layer.dtype)
    assert 0 <= planned - actual <= 8192
    assert form == "operator" or actual > 20 * 8192


@every_case
def test_a_size_is_planned_without_weights_for_what_no_disk_holds(kind, form):
    axis = Axis(10**6, 10**6, 3, 1, 1, 1)
    index_map = IndexMap((1, 1, 3, 3), (axis, axis))
    size = kind.size(Spec(form=form), index_map, np.dtype(np.float32))
    exact = {"operator": 0, "csr": (3 * 10**6 - 2) ** 2 * 12 + 10**12 * 12, "dense": 4 * 10**24}
    assert 0 < size - exact[form] <= 16384


@every_case
@given(problem=problems(), layout=layouts(), sizes=STREAM_SIZES)
def test_any_layer_comes_back_and_is_verified(kind, form, problem, layout, sizes):
    matrix = Matrix(problem.layer, Spec(layout, form))
    with stream_sizes(sizes):
        data = rendered(kind, matrix)
    (stored,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
    assert_same_layer(stored.matrix.layer, problem.layer)
    assert stored.matrix.spec == matrix.spec
    report = crafted.verified(kind, matrix, data)
    assert crafted.failures(report) == []


@every_case
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=()), max_size=9), min_size=6, max_size=6
    ),
    position=st.integers(),
    flipped=st.booleans(),
)
def test_any_origin_comes_back(kind, form, texts, position, flipped):
    file, sha256, layer, output, op, dtype = texts
    origin = Origin(file, sha256, layer, output, position, op, dtype, flipped)
    matrix = Matrix(example().layer, Spec(form=form), origin)
    data = rendered(kind, matrix)
    (stored,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
    assert stored.matrix.origin == origin
    assert crafted.verified(kind, matrix, data).layer == layer


@every_case
def test_a_file_cut_short_anywhere_is_malformed(kind, form, tmp_path):
    path = crafted.written(kind, example(form), tmp_path)
    data = path.read_bytes()
    for length in {*range(1, 200), *range(200, len(data), 37), *range(len(data) - 200, len(data))}:
        path.write_bytes(data[:length])
        assert outcome(path)[0] == "MalformedInput", length


@every_case
@pytest.mark.parametrize("extra", [b"\0", b"PK\5\6" + b"\0" * 18, b"x" * 5000])
def test_a_file_that_goes_on_after_its_end_is_malformed(kind, form, extra, tmp_path):
    path = crafted.written(kind, example(form), tmp_path)
    path.write_bytes(path.read_bytes() + extra)
    assert outcome(path)[0] == "MalformedInput"


def test_an_empty_file_is_malformed(tmp_path):
    path = tmp_path / "empty.npz"
    path.write_bytes(b"")
    assert outcome(path) == ("MalformedInput", f"{path} is empty")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"conv1.npz\nconv2.npz\n", "is a text file, not a matrix file"),
        ("größe ".encode() * 2000, "is a text file, not a matrix file"),
        (b"\x00\x01\x02\x03 no magic", "is no matrix file that convfc writes"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 500, "is a damaged HDF5 file"),
        (b"\x89HDF\r\n\x1a\n", "is a damaged HDF5 file"),
        (b"PK\5\6" + b"\0" * 18, "has no member convfc"),
        (b"PK\3\4", "damaged or truncated"),
        (b"\x93NUMPY", "needs "),
    ],
)
def test_what_is_no_matrix_file_is_malformed(content, expected, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    kind, text = outcome(path)
    assert kind == "MalformedInput"
    assert str(path) in text
    assert expected in text


# --- npz ----------------------------------------------------------------------------------------


@every_layout
def test_scipy_opens_an_npz_as_it_is(layout, tmp_path):
    matrix = example("csr", layout)
    path = crafted.written(NPZ, matrix, tmp_path)
    loaded = scipy.sparse.load_npz(path)
    expected = brute.csr(
        *(matrix.layer.kernel, matrix.layer.index_map.axes, 2, False),
        *(layout.order, layout.transpose),
    )
    assert loaded.format == "csr"
    assert loaded.shape == expected.shape
    assert loaded.has_canonical_format
    assert loaded.data.dtype == np.float32
    assert np.array_equal(loaded.toarray(), expected.dense())
    with np.load(path, allow_pickle=False) as archive:
        bias = brute.positions((2, 2, 3), layout.order)
        assert [archive["bias"][bias[c]].tolist() for c in range(2)] == [
            [[0.5] * 3] * 2,
            [[-2] * 3] * 2,
        ]
        assert archive["kernel"].tobytes() == matrix.layer.kernel.tobytes()
        assert archive["kernel_bias"].tolist() == [0.5, -2]


@given(problems(), layouts())
def test_scipy_reads_the_matrix_bit_for_bit(problem, layout):
    data = rendered(NPZ, Matrix(problem.layer, Spec(layout)))
    loaded = scipy.sparse.load_npz(io.BytesIO(data))
    expected = problem.csr(layout)
    assert loaded.shape == expected.shape
    assert loaded.indptr.tolist() == expected.indptr.tolist()
    assert loaded.indices.tolist() == expected.indices.tolist()
    assert np.array_equal(brute.bits(loaded.data), brute.bits(expected.data))


def test_scipy_takes_no_operator_file_for_a_matrix():
    data = rendered(NPZ, example("operator"))
    with pytest.raises(ValueError, match="does not contain a sparse"):
        scipy.sparse.load_npz(io.BytesIO(data))
    assert set(crafted.members(data)) == {"convfc.npy", "kernel.npy", "kernel_bias.npy"}


@given(problems(), layouts())
def test_a_kernel_index_is_stored_on_request_and_read_by_numpy(problem, layout):
    matrix = Matrix(problem.layer, Spec(layout, kernel_index=True))
    data = rendered(NPZ, matrix)
    contents = crafted.arrays(data)
    assert contents["kernel_index"].tolist() == problem.csr(layout).kernel_index.tolist()
    assert outcome(data) == ("ok", "")
    (stored,) = registry.stored(crafted.in_memory(data))
    assert stored.matrix.spec.kernel_index is True
    without = rendered(NPZ, Matrix(problem.layer, Spec(layout)))
    assert "kernel_index" not in crafted.arrays(without)


def test_an_npz_has_the_bytes_it_had_when_this_was_written(monkeypatch):
    monkeypatch.setattr(convfc_cli, "__version__", "0.0.0")
    digests = {
        form: hashlib.sha256(rendered(NPZ, example(form))).hexdigest()
        for form in ("csr", "operator")
    }
    assert digests == {
        "csr": "527c64fb8cb2312e74b9faa4a5e2007d5dbc8a3d51303d2db92b3c67ba86e0ae",
        "operator": "518cc7731e447b900f1062aed4d82febdfcb21287498aa02b41148b5ea8bfe73",
    }


def test_the_container_has_the_bytes_of_its_specification():
    out = io.BytesIO()
    archive = StoredZip(out)
    archive.add("a", [b"h", b"", memoryview(b"i")])
    archive.close()
    crc = "ac2a93d8"  # zlib.crc32(b"hi") is 0xd8932aac
    size, none, big = "0200000000000000", "0000000000000000", "ffffffff"
    version, flags, method, date = "2d00", "0808", "0000", "0000 2100"
    expected = " ".join(
        [
            *("504b0304", version, flags, method, date, "00000000", big, big, "0100 1400"),
            *("61", "0100 1000", none, none),  # name; extra field 1: 64-bit sizes, here unknown
            *("6869", "504b0708", crc, size, size),  # content, descriptor
            *("504b0102", version, version, flags, method, date, crc, big, big, "0100 1c00 0000"),
            *("0000 0000 00000000", big, "61", "0100 1800", size, size, none),
            *("504b0606", "2c00000000000000", version, version, "00000000 00000000"),
            *("0100000000000000 0100000000000000", "4b00000000000000", "4d00000000000000"),
            *("504b0607", "00000000", "9800000000000000", "01000000"),
            *("504b0506", "0000 0000 ffff ffff", big, big, "0000"),
        ]
    )
    assert out.getvalue().hex() == expected.replace(" ", "")


def test_a_sink_that_says_nothing_of_how_much_it_took_took_all():
    taken = []
    write_all(type("Sink", (), {"write": lambda self, data: taken.append(bytes(data))})(), b"abc")
    assert taken == [b"abc"]


@pytest.mark.parametrize("form", ["csr", "operator"])
@pytest.mark.parametrize("mask", ["all bits", "one bit"])
def test_every_single_flipped_byte_of_an_npz_is_malformed(form, mask):
    data = bytearray(rendered(NPZ, example(form)))
    for place in range(len(data)):
        flip = 0xFF if mask == "all bits" else 1 << place % 8
        data[place] ^= flip
        assert outcome(bytes(data))[0] == "MalformedInput", (place, flip)
        data[place] ^= flip


@pytest.mark.parametrize("name", ["indptr", "indices", "data", "kernel_index"])
def test_damage_in_the_first_of_many_blocks_is_not_taken_for_wrong_weights(name, monkeypatch):
    # The checksum stands after the last block; the wrong entry is met in the first.
    monkeypatch.setattr(verification, "CHUNK", 8)
    monkeypatch.setattr(matrix_format, "CHUNK", 8)
    data = bytearray(rendered(NPZ, example(kernel_index=True)))
    content = crafted.members(bytes(data))[f"{name}.npy"]
    start = data.index(content) + 128
    for place in range(start, start + len(content) - 128, 3):
        data[place] ^= 1 << place % 8
        kind, text = outcome(bytes(data))
        assert kind == "MalformedInput"
        assert "damaged" in text
        data[place] ^= 1 << place % 8
    assert outcome(bytes(data)) == ("ok", "")


@pytest.mark.parametrize("index", [False, True])
def test_an_npz_is_not_finished_before_its_last_row(index):
    matrix = example(kernel_index=index)
    (stored,) = registry.stored(crafted.in_memory(rendered(NPZ, matrix)))
    with pytest.raises(MalformedInput, match="beyond its end"):
        stored.finish()
    (stored,) = registry.stored(crafted.in_memory(rendered(NPZ, matrix)))
    counts = np.tile(np.repeat([4, 8], 3), 2)  # the first row of either channel is cut by padding
    assert sum(len(block.data) for block in stored.rows(counts)) == 72
    stored.finish()


@given(st.data())
def test_no_damage_to_an_npz_ends_in_anything_but_a_documented_error(data):
    form = data.draw(st.sampled_from(("csr", "operator")))
    file = rendered(NPZ, example(form))
    if data.draw(st.booleans(), label="written anew by numpy"):
        file = crafted.saved(crafted.arrays(file))
    file = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        # the directory stands at the end: that is where a reader is led astray
        back = data.draw(st.integers(1, 900) | st.integers(1, len(file)))
        file[-min(back, len(file))] = data.draw(st.integers(0, 255) | st.sampled_from((0, 1, 255)))
    assert outcome(bytes(file))[0] in {"ok", "wrong", "MalformedInput", "WrongContents"}


# --- crafted npz --------------------------------------------------------------------------------


CSR = rendered(NPZ, example())
OPERATOR = rendered(NPZ, example("operator"))


@pytest.mark.parametrize("data", [CSR, OPERATOR], ids=["csr", "operator"])
def test_an_npz_written_anew_by_numpy_or_zipfile_is_accepted(data):
    assert outcome(crafted.saved(crafted.arrays(data))) == ("ok", "")
    assert outcome(crafted.zipped(list(crafted.members(data).items()))) == ("ok", "")
    backwards = list(crafted.members(data).items())[::-1]
    assert outcome(crafted.zipped(backwards)) == ("ok", "")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        *((CSR, name.removesuffix(".npy")) for name in crafted.members(CSR)),
        *((OPERATOR, name.removesuffix(".npy")) for name in crafted.members(OPERATOR)),
    ],
)
def test_a_missing_member_is_malformed_and_named(data, name):
    kind, text = outcome(replaced(data, **{name: None}))
    if name == "kernel_bias":  # without one it is a layer without a bias, and the digest knows
        assert kind in {"wrong", "MalformedInput"}
    else:
        assert kind == "MalformedInput"
        assert f"no member {name}" in text


@pytest.mark.parametrize("data", [CSR, OPERATOR], ids=["csr", "operator"])
@pytest.mark.parametrize(
    "name",
    ["extra.npy", "kernel_index.npy", "data2.npy", "readme.txt", "a/../../b.npy", "_is_array.npy"],
)
def test_an_unknown_member_is_malformed_and_named(data, name):
    contents = [*crafted.members(data).items(), (name, npy(np.array([True])))]
    kind, text = outcome(crafted.zipped(contents))
    assert kind == "MalformedInput"
    assert name.removesuffix(".npy") in text


@pytest.mark.parametrize("name", ["data", "indices", "indptr", "kernel", "bias", "shape", "format"])
def test_a_member_whose_name_shadows_another_is_malformed(name):
    # numpy.load prefers "data" to "data.npy", so scipy would read what nobody has checked.
    contents = crafted.members(CSR)
    shadow = npy(crafted.arrays(CSR)[name])
    kind, text = outcome(crafted.zipped([*contents.items(), (name, shadow)]))
    assert kind == "MalformedInput"
    assert repr(name) in text


@pytest.mark.parametrize("name", ["data.npy", "convfc.npy", "kernel.npy"])
def test_two_members_of_one_name_are_malformed(name):
    contents = crafted.members(CSR)
    for twice in ([(name, contents[name]), *contents.items()], [*contents.items(), (name, b"")]):
        kind, text = outcome(crafted.zipped(twice))
        assert (kind, "same name" in text) == ("MalformedInput", True)


def test_many_members_are_malformed():
    contents = [*crafted.members(CSR).items(), *((f"m{k}.npy", b"") for k in range(2000))]
    kind, text = outcome(crafted.zipped(contents))
    assert kind == "MalformedInput"
    assert "too many" in text


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_npz_is_malformed_and_says_the_way_out(compression):
    kind, text = outcome(crafted.zipped(list(crafted.members(CSR).items()), compression))
    assert kind == "MalformedInput"
    assert "compressed" in text
    assert "numpy.savez" in text


def with_flag(file, member, bit):
    """The zip with a flag of one member set in its directory."""
    name, data = member.encode(), bytearray(file)
    place = data.rindex(name) - 46  # the directory stands after the members
    assert data[place : place + 4] == b"PK\1\2"
    data[place + 8] |= bit
    return bytes(data)


def test_an_encrypted_member_is_malformed():
    data = crafted.saved(crafted.arrays(CSR))
    kind, text = outcome(with_flag(data, "convfc.npy", 1))
    assert kind == "MalformedInput"
    assert "encrypted" in text
    assert "numpy.savez" in text


@pytest.mark.parametrize("bit", [0x20, 0x40], ids=["patched", "strong encryption"])
@pytest.mark.parametrize("name", ["kernel", "bias", "data"])
def test_a_member_that_zipfile_cannot_read_is_malformed_whatever_else_is_wrong(name, bit):
    for file in (crafted.saved(crafted.arrays(CSR)), rewritten(shape=lambda array: array[::-1])):
        kind, text = outcome(with_flag(file, f"{name}.npy", bit))
        assert kind == "MalformedInput"
        assert "flag bit" in text or "damaged" in text


def test_a_directory_that_points_before_the_file_is_malformed():
    data = bytearray(crafted.saved(crafted.arrays(CSR)))
    end = data.rindex(b"PK\5\6")
    # A directory that starts two bytes later than it says: every offset moves back by two.
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    data[end + 16 : end + 20] = (start + 2).to_bytes(4, "little")
    assert outcome(bytes(data))[0] == "MalformedInput"


MEMBERS = [
    "convfc",
    "format",
    "shape",
    "kernel",
    "kernel_bias",
    "bias",
    "indptr",
    "indices",
    "data",
]
every_member = pytest.mark.parametrize("name", MEMBERS)


@every_member
def test_a_pickled_member_is_malformed_and_not_unpickled(name, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    hostile = npy(np.array([Bomb()], object))
    kind, text = outcome(replaced(CSR, **{name: hostile}))
    assert kind == "MalformedInput"
    assert name in text
    assert not (tmp_path / "exploded").exists()


HEADERS = {
    "negative": raw_npy("<f4", (-1,)),
    "negative twice": raw_npy("<f4", (-2, -3), b"\0" * 24),
    "2**64 bytes": raw_npy("<f4", (2**62, 4)),
    "2**93 elements": raw_npy("<f4", (2**31, 2**31, 2**31)),
    "more than there is": raw_npy("<f4", (10**6,), b"\0" * 4),
    "less than there is": raw_npy("<f4", (1,), b"\0" * 8),
    "empty but 2**70": raw_npy("<f4", (0, 2**70)),
    "empty but 2**62": raw_npy("<f4", (0, 2**62)),
    "65 axes": raw_npy("<f4", (1,) * 65, b"\0" * 4),
    "true": raw_npy("<f4", (True,), b"\0" * 4),
    "text of no length": raw_npy("<U0", ()),
    "bytes of no length": raw_npy("|S0", (3,)),
    "fortran": raw_npy("<f4", (2, 2), b"\0" * 16, fortran=True),
    "void": raw_npy("|V4", (1,), b"\0" * 4),
    "dates": raw_npy("<M8[s]", (1,), b"\0" * 8),
    "complex": raw_npy("<c8", (1,), b"\0" * 8),
    "objects": raw_npy("|O", (1,), b"\0" * 8),
    "flags": raw_npy("|b1", (1,), b"\0"),
    "a shape of text": raw_npy("<f4", "x"),
    "no dtype": raw_npy("nonsense", (1,), b"\0" * 4),
    "a broken size": raw_npy("<f4", (1.5,), b"\0" * 4),
    "nothing": b"",
    "magic alone": b"\x93NUMPY",
    "header cut short": b"\x93NUMPY\x01\x00\xff\xff",
    "version 9": b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
    "4 GB of header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "brackets": b"\x93NUMPY\x01\x00\x0f\x00" + b"[" * 15,
    "quotes": b"\x93NUMPY\x01\x00\x0f\x00" + b"'" * 15,
    "zeros": b"\x93NUMPY\x01\x00\x0f\x00" + b"\0" * 15,
    "many brackets": b"\x93NUMPY\x01\x00\x00\x20" + b"[" * 0x2000,
    "text": b"no npy at all, but some text",
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_member_with_an_impossible_header_is_a_documented_error(header):
    found = {name: outcome(replaced(CSR, **{name: HEADERS[header]}))[0] for name in MEMBERS}
    assert set(found.values()) <= {"MalformedInput", "WrongContents", "wrong"}
    assert {found[name] for name in ("convfc", "kernel", "kernel_bias")} == {"MalformedInput"}


@pytest.mark.parametrize("header", ["more than there is", "less than there is"])
def test_a_header_that_contradicts_the_size_of_its_member_says_so(header):
    for name in ("kernel", "bias", "indptr", "indices", "data"):
        kind, text = outcome(replaced(CSR, **{name: HEADERS[header]}))
        assert kind == "MalformedInput"
        assert f"{name} has " in text
        assert "its header says another size" in text


@pytest.mark.parametrize("text", [b"\xff\xff\xff\xff" * 2, b"\0\0\x11\0" * 2, b"\xff\xdc\0\0" * 2])
def test_metadata_that_is_no_unicode_is_malformed(text):
    assert outcome(replaced(CSR, convfc=raw_npy("<U2", (), text)))[0] == "MalformedInput"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '"convfc/1"', "{}", "[" * 100_000, "9" * 5000, "NaN"]
)
def test_metadata_that_is_no_description_is_malformed(text):
    kind, message = outcome(replaced(CSR, convfc=npy(np.array(text))))
    assert kind == "MalformedInput"
    assert "convfc/1" in message


def test_metadata_of_many_megabytes_is_not_read():
    content = crafted.description(CSR) | {"padding": "x" * 2**20}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "too many" in message


def test_another_schema_is_malformed_and_both_are_named():
    content = crafted.description(CSR) | {"schema": "convfc/2"}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "'convfc/2'" in message
    assert "'convfc/1'" in message


FIELDS = [
    *("schema", "version", "form", "shape", "nonzeros", "kernel_index", "layout", "input_shape"),
    *("output_shape", "kernel_shape", "axes", "groups", "transposed", "bias", "dtype", "origin"),
    "digest",
]
WRONG = [
    None,
    -7,
    0,
    1.5,
    10**30,
    "x",
    "",
    [],
    [[]],
    [None],
    {},
    {"x": 1},
    [1, "2"],
    [-1, -1],
    True,
]


def test_the_fields_are_those_that_are_written():
    assert list(crafted.description(CSR)) == FIELDS


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_malformed(field):
    content = crafted.description(CSR)
    expected, found = {}, {}
    for value in WRONG:
        text = json.dumps(value)
        found[text] = outcome(crafted.redescribed(CSR, content | {field: value}))[0]
        expected[text] = "wrong" if field == "digest" else "MalformedInput"
    if field == "origin":
        expected["{}"] = "ok"  # what is not said is not known
    if field == "version":
        expected |= {'"x"': "ok", '""': "ok"}  # a text is all that is asked for
    if field == "bias":
        expected["true"] = "ok"  # as it was
    assert found == expected


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "digest"])
def test_a_field_that_is_missing_is_malformed_and_named(field):
    content = crafted.description(CSR)
    del content[field]
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert field in message


def test_a_missing_digest_is_a_finding():
    content = crafted.description(CSR)
    del content["digest"]
    assert outcome(crafted.redescribed(CSR, content)) == (
        "wrong",
        "geometry, kernel or bias are not as they were written",
    )


AXIS_FIELDS = ["inputs", "outputs", "kernel", "stride", "dilation", "offset"]


@pytest.mark.parametrize("field", AXIS_FIELDS)
@pytest.mark.parametrize("value", [None, 1.0, "1", True, [], 2**41, -(2**41), 10**400])
def test_an_axis_with_a_number_that_is_none_is_malformed(field, value):
    content = crafted.description(CSR)
    content["axes"][0][field] = value
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "convfc/1" in message


@pytest.mark.parametrize("axes", [[5, 5], [None, None], [[], []], ["ab", "cd"], [{}, {}], {"a": 1}])
def test_axes_that_are_no_axes_are_malformed(axes):
    content = crafted.description(CSR) | {"axes": axes}
    assert outcome(crafted.redescribed(CSR, content))[0] == "MalformedInput"


@pytest.mark.parametrize("change", ["more", "fewer", "unknown key", "missing key"])
def test_axes_with_other_keys_or_of_another_number_are_malformed(change):
    content = crafted.description(CSR)
    if change == "more":
        content["axes"].append(content["axes"][0])
    elif change == "fewer":
        content["axes"].pop()
    elif change == "unknown key":
        content["axes"][0]["padding"] = 1
    else:
        del content["axes"][0]["offset"]
    assert outcome(crafted.redescribed(CSR, content))[0] == "MalformedInput"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [12, 47]),
        ("shape", [48, 12]),
        ("nonzeros", 71),
        ("input_shape", [4, 3, 5]),
        ("output_shape", [2, 2, 4]),
        ("dtype", "float64"),
        ("bias", False),
        ("groups", 1),
        ("kernel_shape", [2, 2, 4, 1]),
        ("transposed", True),
    ],
)
def test_metadata_that_contradicts_the_geometry_is_malformed(field, value):
    content = crafted.description(CSR) | {field: value}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "convfc/1" in message


@pytest.mark.parametrize(
    "origin",
    [{"file": 5}, {"position": "3"}, {"position": True}, {"flipped": 0}, {"where": "x"}, {"": ""}],
)
def test_an_origin_with_another_type_is_malformed(origin):
    content = crafted.description(CSR) | {"origin": origin}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert f"origin has {next(iter(origin))} = " in message


@pytest.mark.parametrize(
    "layout", [{"order": "channels-first"}, {"order": 5, "transpose": False}, {"transpose": True}]
)
def test_a_layout_that_is_none_is_malformed(layout):
    content = crafted.description(CSR) | {"layout": layout}
    assert outcome(crafted.redescribed(CSR, content))[0] == "MalformedInput"


@pytest.mark.parametrize("order", ["C", "channels_first"])
def test_an_unknown_order_is_malformed_and_named(order):
    content = crafted.description(CSR) | {"layout": {"order": order, "transpose": False}}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert (kind, repr(order) in message) == ("MalformedInput", True)


@contextmanager
def within(seconds):
    """Raise unless the block is done in time: for what could run for years."""

    def late(number, frame):
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs an alarm")
def test_a_kernel_of_2_to_the_40_in_the_metadata_is_malformed_at_once():
    content = crafted.description(CSR)
    axis = dict(zip(AXIS_FIELDS, (4, 4, 2**40, 1, 1, 0), strict=True))
    content |= {"kernel_shape": [2, 2, 2**40], "axes": [axis]}
    with within(5):
        kind, _ = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"


def rewritten(**changes):
    """The csr example with arrays replaced, as numpy saves it."""
    contents = crafted.arrays(CSR)
    for name, change in changes.items():
        contents[name] = change(contents[name]) if callable(change) else change
    return crafted.saved(contents)


@pytest.mark.parametrize("name", ["indices", "indptr"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "U3", "S4"])
def test_indices_that_are_no_whole_numbers_are_wrong_contents(name, dtype):
    kind, message = outcome(rewritten(**{name: lambda array: array.astype(dtype)}))
    assert kind == "WrongContents"
    assert f"{name} is " in message
    assert "whole numbers" in message


@pytest.mark.parametrize("name", ["indices", "indptr"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "u4", "u8", ">i4", ">i8"])
def test_indices_of_another_dtype_than_the_schema_has_are_wrong_contents(name, dtype):
    kind, message = outcome(rewritten(**{name: lambda array: array.astype(dtype)}))
    assert kind == "WrongContents"
    assert "whole numbers of 32 or 64 bits" in message


@pytest.mark.parametrize("name", ["indices", "indptr"])
def test_indices_of_64_bits_are_read_where_32_would_do(name):
    assert outcome(rewritten(**{name: lambda array: array.astype(np.int64)})) == ("ok", "")


@pytest.mark.parametrize("dtype", ["i1", "u1"])
def test_indices_of_one_byte_with_many_entries_crash_nothing(dtype):
    # 14 columns fit a byte, the 576 entries of a block do not. In a process of its own: a sparse
    # product with row pointers that have wrapped round reads wherever it likes.
    axis = Axis(inputs=14, outputs=12, kernel=3, stride=1, dilation=1, offset=0)
    layer = Convolution(np.ones((16, 1, 3), np.float32), IndexMap((16, 1, 3), (axis,)))
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    contents["indices"] = contents["indices"].astype(dtype)
    code = (
        "import sys; from tests.crafted import outcome; print(outcome(sys.stdin.buffer.read())[0])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=crafted.saved(contents),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert found.returncode == 0, found.stderr.decode()[-500:]
    assert found.stdout.decode().strip() in {"ok", "wrong", "WrongContents", "MalformedInput"}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.int32, "U8"])
def test_data_of_another_dtype_than_the_kernel_are_wrong_contents(dtype):
    kind, message = outcome(rewritten(data=lambda array: array.astype(dtype)))
    assert kind == "WrongContents"
    assert f"data is {np.dtype(dtype)}" in message
    assert "float32" in message


@pytest.mark.parametrize("dtype", [np.float16, np.int32, ">f4", "U8", np.longdouble])
def test_a_kernel_of_a_dtype_that_no_layer_has_is_malformed(dtype):
    kind, message = outcome(rewritten(kernel=lambda array: array.astype(dtype)))
    assert kind == "MalformedInput"
    assert "float32 or float64" in message


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("indptr", lambda a: a[:-1], "(12,)"),
        ("indptr", lambda a: np.append(a, a[-1]), "(14,)"),
        ("indptr", lambda a: a.reshape(1, -1), "(1, 13)"),
        ("indices", lambda a: a[:-1], "(71,)"),
        ("data", lambda a: np.append(a, a), "(144,)"),
        ("data", lambda a: a.reshape(-1, 1), "(72, 1)"),
        ("shape", lambda a: a[::-1], "[48, 12]"),
        ("shape", lambda a: np.append(a, 1), "[12, 48, 1]"),
        ("shape", lambda a: a.astype(float), "[12.0, 48.0]"),
        ("format", np.array(b"csc"), "format is not csr"),
        ("format", np.array(["csr"]), "format is not csr"),
        ("format", np.array(5), "format is not csr"),
    ],
)
def test_arrays_of_other_shapes_are_wrong_contents_with_their_numbers(name, change, expected):
    kind, message = outcome(rewritten(**{name: change}))
    assert kind == "WrongContents"
    assert expected in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a + 1, "indptr does not begin with 0"),
        (lambda a: a - 1, "indptr does not begin with 0"),
        (lambda a: np.where(np.arange(13) == 5, 0, a), "row 4 ends at entry 0 by indptr"),
        (lambda a: np.where(np.arange(13) == 5, -9, a), "row 4 ends at entry -9 by indptr"),
        (lambda a: np.where(np.arange(13) == 5, 2**30, a), f"row 4 ends at entry {2**30}"),
        (lambda a: np.append(a[:-1], a[-1] + 1), "row 11 ends at entry 73"),
        (lambda a: a.astype(np.int64) + 2**32 * (np.arange(13) > 5), "row 5 ends at entry 4294"),
    ],
)
def test_row_pointers_that_are_not_the_geometrys_are_found(change, expected):
    kind, message = outcome(rewritten(indptr=change))
    assert kind == "wrong"
    assert expected in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: np.append(a, a), "bias is (24,)"),
        (lambda a: a.reshape(2, 2, 3), "bias is (2, 2, 3)"),
        (lambda a: a.astype(np.float64), "float64"),
        (lambda a: a.astype("U9"), "<U9"),
        (lambda a: a + 1, "bias 0 is 1.5, by the kernel_bias 0.5"),
    ],
)
def test_a_bias_that_is_not_the_kernel_bias_flattened_is_found(change, expected):
    kind, message = outcome(rewritten(bias=change))
    assert kind == "wrong"
    assert expected in message


def test_a_kernel_bias_of_another_size_is_malformed():
    kind, message = outcome(rewritten(kernel_bias=lambda a: np.append(a, a)))
    assert (kind, "(4,)" in message) == ("MalformedInput", True)


def with_index(**changes):
    """A csr file with a kernel_index, arrays replaced, as numpy saves it."""
    contents = crafted.arrays(rendered(NPZ, example(kernel_index=True)))
    for name, change in changes.items():
        contents[name] = change(contents[name])
    return crafted.saved(contents)


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        (lambda a: a[:-1], "WrongContents", "(71,)"),
        (lambda a: a.astype(float), "WrongContents", "whole numbers"),
        (lambda a: a - 1, "wrong", "kernel_index has -1, beyond the 16 weights"),
        (lambda a: a + 1, "wrong", "kernel_index has 16, beyond the 16 weights"),
        (lambda a: np.roll(a, 1), "wrong", "kernel_index of row 0 names other kernel elements"),
        (
            lambda a: np.where(np.arange(72) == 71, 0, a),
            "wrong",
            "kernel_index of row 11 names other kernel elements",
        ),
        (lambda a: a.astype(np.uint64) + 2**63, "WrongContents", "whole numbers"),
    ],
)
def test_a_kernel_index_that_is_wrong_is_found(change, kind, expected):
    assert outcome(with_index(kernel_index=lambda a: a)) == ("ok", "")
    found = outcome(with_index(kernel_index=change))
    assert found[0] == kind
    assert expected in found[1]


def test_a_kernel_index_that_names_another_element_of_the_same_weight_is_found():
    axis = Axis(inputs=4, outputs=3, kernel=2, stride=1, dilation=1, offset=0)
    layer = Convolution(np.ones((1, 1, 2), np.float32), IndexMap((1, 1, 2), (axis,)))
    contents = crafted.arrays(rendered(NPZ, Matrix(layer, Spec(kernel_index=True))))
    assert contents["kernel_index"].tolist() == [0, 1] * 3
    assert outcome(crafted.saved(contents)) == ("ok", "")
    contents["kernel_index"] = contents["kernel_index"][::-1].copy()
    kind, message = outcome(crafted.saved(contents))
    assert kind == "wrong"
    assert "kernel_index" in message


def test_one_weight_changed_is_explained_by_output_input_kernel_element_and_values():
    def change(data):
        data[40] = 99
        return data

    # Entry 40 is in row 6: output (1, 0, 0), which reads i = 0 of the first axis through t = 1
    kind, message = outcome(rewritten(data=change))
    assert kind == "wrong"
    contents = crafted.arrays(CSR)
    row = int(np.searchsorted(contents["indptr"], 40, side="right")) - 1
    column = int(contents["indices"][40])
    output = np.unravel_index(row, (2, 2, 3))
    source = np.unravel_index(column, (4, 3, 4))
    place = next(
        element
        for (o, i), element in brute.nonzeros(
            (2, 2, 2, 2), example().layer.index_map.axes, 2, False
        ).items()
        if o == tuple(map(int, output)) and i == tuple(map(int, source))
    )
    weight = contents["kernel"][place]
    assert message == (
        f"entry ({row}, {column}), output {tuple(map(int, output))} from input "
        f"{tuple(map(int, source))}: kernel element {place}, expected {weight}, found 99.0"
    )


# --- npy ----------------------------------------------------------------------------------------


@given(problems(), layouts())
def test_numpy_opens_an_npy_bit_for_bit(problem, layout):
    data = rendered(NPY, Matrix(problem.layer, Spec(layout, "dense")))
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    assert loaded.flags.c_contiguous
    assert np.array_equal(brute.bits(loaded), brute.bits(problem.csr(layout).dense()))


def dense_file(folder, data=None):
    path = crafted.written(NPY, example("dense"), folder)
    if data is not None:
        path.write_bytes(data)
    return path


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
    assert "matrix.npy needs matrix.operator.npz beside it" in message


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
        (raw_npy("<f4", (12, 48), b"\0" * 12), ("MalformedInput", "another size")),
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
        (rendered(NPZ, example("operator", Layout("fortran"))), {"wrong"}),
        (rendered(NPZ, example("operator", Layout(transpose=True))), {"WrongContents"}),
        (rendered(NPZ, example("operator", dtype=np.float64)), {"WrongContents"}),
        (rendered(NPZ, example("csr")), {"ok", "MalformedInput"}),
        (rendered(NPZ, example("csr", kernel_index=True)), {"ok", "MalformedInput"}),
        (OPERATOR[:-1], {"MalformedInput"}),
    ],
)
def test_an_operator_file_that_is_another_is_a_documented_error(content, expected, tmp_path):
    path = dense_file(tmp_path)
    crafted.sidecar(path).write_bytes(content)
    assert outcome(path)[0] in expected


# --- hdf5 ---------------------------------------------------------------------------------------


H5 = rendered(HDF5, example(kernel_index=True))
H5_DENSE = rendered(HDF5, example("dense"))
H5_OPERATOR = rendered(HDF5, example("operator"))
GROUP = "003-conv_1"
CSR_MEMBERS = [
    *("bias", "convfc", "data", "indices", "indices_1", "indptr", "kernel", "kernel_bias"),
    *("kernel_index", "pointers_to_1", "values"),
]


def three():
    """Matrices of three unlike layers: with groups, transposed, of one axis and without a bias."""
    random = np.random.default_rng(1)
    axis = Axis(inputs=4, outputs=7, kernel=3, stride=2, dilation=1, offset=1)
    turned = IndexMap((3, 2, 3), (axis,), transposed=True)
    line = IndexMap((2, 1, 5), (Axis(9, 7, 5, 1, 1, 1),))
    layers = [
        example().layer,
        Convolution(random.standard_normal((3, 2, 3)), turned, random.standard_normal(2)),
        Convolution(random.standard_normal((2, 1, 5)).astype(np.float32), line),
    ]
    return [
        Matrix(layer, origin=Origin(layer=f"net/{name}", output=name, position=position))
        for name, position, layer in zip("abc", (0, 2, 11), layers, strict=True)
    ]


def with_three():
    """A file of these."""
    out = io.BytesIO()
    HDF5.write(three(), out, lambda done: None)
    return out.getvalue()


def reports(data, **options):
    """The reports on all matrices of a file."""
    stored = registry.stored(crafted.in_memory(data))
    return [verification.verify(one, **options) for one in stored]


def edit(change, data=H5):
    """The outcome of a file whose group has been changed by h5py."""
    return outcome(crafted.edited(data, lambda file: change(file[GROUP])))


def put(name, values):
    """A change that puts another array in the place of one, under both of its names."""

    def change(group):
        links = {"data": "values", "indices": "indices_1", "indptr": "pointers_to_1"}
        made = values(group[name][()]) if callable(values) else values
        del group[name]
        group[name] = made
        if name in links:
            del group[links[name]]
            group[links[name]] = group[name]

    return change


@every_layout
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_anndata_and_binsparse_open_a_group_as_it_is(layout, dtype):
    matrix = example("csr", layout, dtype, kernel_index=True)
    expected = brute.csr(
        *(matrix.layer.kernel, matrix.layer.index_map.axes, 2, False),
        *(layout.order, layout.transpose),
    )
    with h5py.File(io.BytesIO(rendered(HDF5, matrix))) as file:
        loaded = anndata.io.read_elem(file[GROUP])
        tensor = binsparse.BinsparseTensor.parse(binsparse.HDF5BinsparseContainer(file[GROUP]))
    assert isinstance(loaded, scipy.sparse.csr_matrix | scipy.sparse.csr_array)
    assert isinstance(tensor, binsparse.CSRMatrix)
    assert loaded.has_canonical_format
    assert loaded.shape == tensor.shape == expected.shape
    assert tensor.number_of_stored_values == 72
    for found, theirs, kind in (
        (loaded.data, tensor.values, dtype),
        (loaded.indices, tensor.indices_1, np.int32),
        (loaded.indptr, tensor.pointers_to_1, np.int32),
    ):
        assert found.dtype == theirs.dtype == kind
        assert found.tobytes() == theirs.tobytes()
    assert np.array_equal(loaded.toarray(), expected.dense())
    assert np.array_equal(binsparse_scipy(tensor).toarray(), expected.dense())


@given(problems(), layouts())
def test_anndata_reads_the_matrix_bit_for_bit(problem, layout):
    data = rendered(HDF5, Matrix(problem.layer, Spec(layout), Origin(layer="c")))
    expected = problem.csr(layout)
    with h5py.File(io.BytesIO(data)) as file:
        loaded = anndata.io.read_elem(file["000-c"])
    assert loaded.shape == expected.shape
    assert loaded.indptr.tolist() == expected.indptr.tolist()
    assert loaded.indices.tolist() == expected.indices.tolist()
    assert np.array_equal(brute.bits(loaded.data), brute.bits(expected.data))


@given(problems(), layouts())
def test_anndata_reads_a_dense_matrix_bit_for_bit(problem, layout):
    data = rendered(HDF5, Matrix(problem.layer, Spec(layout, "dense"), Origin(layer="c")))
    with h5py.File(io.BytesIO(data)) as file:
        loaded = anndata.io.read_elem(file["000-c/dense"])
    assert np.array_equal(brute.bits(loaded), brute.bits(problem.csr(layout).dense()))


@given(problems(), layouts())
def test_an_hdf5_has_the_arrays_of_an_npz(problem, layout):
    matrix = Matrix(problem.layer, Spec(layout, kernel_index=True), Origin(layer="c"))
    expected = crafted.arrays(rendered(NPZ, matrix))
    with h5py.File(io.BytesIO(rendered(HDF5, matrix))) as file:
        found = {name: dataset[()] for name, dataset in file["000-c"].items()}
    assert found.pop("convfc").decode() == str(expected.pop("convfc"))
    assert {*found} - {*expected} == {"values", "indices_1", "pointers_to_1"}
    assert {*expected} - {*found} == {"format", "shape"}
    for name in expected.keys() & found.keys():
        assert found[name].dtype == expected[name].dtype
        assert found[name].shape == expected[name].shape
        assert found[name].tobytes() == expected[name].tobytes()


def test_a_group_holds_what_its_form_has_and_no_more():
    found = {}
    for form in HDF5.forms:
        with h5py.File(io.BytesIO(rendered(HDF5, example(form)))) as file:
            assert dict(file.attrs) == {"convfc": b"convfc/1"}
            found[form] = {*file[GROUP], *file[GROUP].attrs}
            for dataset in file[GROUP].values():
                extra = {"encoding-type", "encoding-version"} if len(dataset.shape) == 2 else set()
                assert {*dataset.attrs} == extra
                assert dataset.chunks is None
                assert dataset.id.get_create_plist().get_layout() != h5py.h5d.CHUNKED
    attributes = {"encoding-type", "encoding-version", "shape", "binsparse"}
    assert found == {
        "csr": {*CSR_MEMBERS, *attributes} - {"kernel_index"},
        "dense": {"convfc", "kernel", "kernel_bias", "dense"},
        "operator": {"convfc", "kernel", "kernel_bias"},
    }


def test_an_hdf5_has_the_bytes_it_had_when_this_was_written(monkeypatch):
    monkeypatch.setattr(convfc_cli, "__version__", "0.0.0")
    digests = {
        form: hashlib.sha256(rendered(HDF5, example(form))).hexdigest() for form in HDF5.forms
    }
    assert digests == {
        "csr": "1488889106d527c9657415dc87375968a097b1f21869a019d1fa34b410df0746",
        "operator": "99fb0ffc1bb0e6c27879f63f5722bd05aa904e73a4840d6c160a74bbf438edc6",
        "dense": "bafc61d2cdcc34c41410909e795b10fed9f9ce32c3246fc9b74663fbf2c0ea5c",
    }


def test_an_hdf5_knows_no_time_and_no_seed():
    code = (
        "import sys; from tests.test_matrix_formats import with_three;"
        "sys.stdout.buffer.write(with_three())"
    )
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            check=True,
        )
        found.add(done.stdout)
        time.sleep(1.1)  # HDF5 counts its times in seconds
    found.add(with_three())
    assert len(found) == 1


def test_three_layers_in_one_file_are_each_verified():
    matrices = three()
    found = registry.stored(crafted.in_memory(with_three()))
    assert [one.name for one in found] == [
        f"crafted/{name}" for name in ("000-net_a", "002-net_b", "011-net_c")
    ]
    for one, matrix in zip(found, matrices, strict=True):
        assert_same_layer(one.matrix.layer, matrix.layer)
        assert one.matrix.origin == matrix.origin
        report = verification.verify(one, original=matrix)
        assert report.ok
        assert report.strength == "2^-96"
    assert registry.one(found, "net/b", "f").matrix.origin.position == 2
    with pytest.raises(UsageError, match=r"holds 3 matrices.*net/a, net/b, net/c"):
        registry.one(found, None, "f")


def test_a_file_of_several_says_of_each_what_is_wrong_with_it():
    def change(file):
        file["002-net_b/data"][3] = 99

    first, second, third = reports(crafted.edited(with_three(), change))
    assert (first.ok, second.ok, third.ok) == (True, False, True)
    assert "found 99.0" in crafted.failures(second)[0]

    def contradict(file):
        file["002-net_b"].attrs["shape"] = [1, 1]

    first, second, third = reports(crafted.edited(with_three(), contradict))
    assert (first.ok, second.ok, third.ok) == (True, False, True)


def test_groups_keep_the_order_of_the_model_beyond_a_thousand_layers():
    layer = example("operator")
    matrices = [
        replace(layer, origin=Origin(layer=f"c{position}", position=position))
        for position in (0, 7, 999, 1000, 12345)
    ]
    out = io.BytesIO()
    HDF5.write(matrices, out, lambda done: None)
    found = registry.stored(crafted.in_memory(out.getvalue()))
    assert [one.matrix.origin.position for one in found] == [0, 7, 999, 1000, 12345]
    assert found[1].name == "crafted/00007-c7"


def test_a_hundred_layers_are_planned_and_written():
    matrices = [
        replace(example(), origin=Origin(layer=f"c{position}", position=position))
        for position in range(100)
    ]
    out = io.BytesIO()
    HDF5.write(matrices, out, lambda done: None)
    planned = sum(HDF5.size(m.spec, m.layer.index_map, m.layer.dtype) for m in matrices)
    assert 0 <= planned - len(out.getvalue()) <= 100 * 8192
    assert all(report.ok for report in reports(out.getvalue()))


def test_a_file_that_no_disk_holds_is_laid_out_with_64_bits():
    axis = Axis(10**6, 10**6, 3, 1, 1, 1)
    layer = Convolution(np.ones((1, 1, 3, 3), np.float32), IndexMap((1, 1, 3, 3), (axis, axis)))
    matrix = Matrix(layer, Spec(kernel_index=True), Origin(layer="c"))
    nnz = (3 * 10**6 - 2) ** 2
    frame, _ = hdf5_frame._laid_out({}, [hdf5._folder("000-c", matrix)])
    with h5py.File(frame) as file:
        found = {name: (dataset.dtype, dataset.shape) for name, dataset in file["000-c"].items()}
        types = json.loads(file["000-c"].attrs["binsparse"])["binsparse"]["data_types"]
    for name in ("indices", "indices_1"):
        assert found[name] == (np.int64, (nnz,))
    assert found["indptr"] == found["pointers_to_1"] == (np.int64, (10**12 + 1,))
    assert found["kernel_index"] == (np.int32, (nnz,))
    assert types == {"values": "float32", "indices_1": "int64", "pointers_to_1": "int64"}
    planned = HDF5.size(matrix.spec, layer.index_map, layer.dtype)
    assert 0 <= planned - frame.size <= 8192


def test_many_biases_are_planned_too():
    index_map = IndexMap((1, 5000, 1), (Axis(1, 1, 1, 1, 1, 0),), transposed=True)
    layer = Convolution(np.ones((1, 5000, 1)), index_map, np.ones(5000))
    for form in HDF5.forms:
        actual = len(rendered(HDF5, Matrix(layer, Spec(form=form))))
        assert 0 <= HDF5.size(Spec(form=form), index_map, layer.dtype) - actual <= 8192


def test_metadata_too_long_for_the_records_of_hdf5_are_written_and_read():
    for length in (50_000, 60_000, 70_000, 300_000):
        origin = Origin(file="x" * length, layer="conv/1", position=3)
        data = rendered(HDF5, replace(example(), origin=origin))
        (stored,) = registry.stored(crafted.in_memory(data))
        assert stored.matrix.origin == origin
        assert verification.verify(stored).ok


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"chunks": True},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("data", [H5, H5_DENSE, H5_OPERATOR], ids=["csr", "dense", "operator"])
def test_a_file_written_anew_with_compression_is_verified(data, options):
    assert outcome(crafted.copied(data, **options)) == ("ok", "")


@pytest.mark.parametrize("version", ["earliest", "v110", "latest"])
def test_a_file_in_another_version_of_the_format_is_verified(version):
    held = io.BytesIO()
    with h5py.File(io.BytesIO(H5)) as source, h5py.File(held, "w", libver=version) as file:
        file.attrs["convfc"] = source.attrs["convfc"]
        source.copy(GROUP, file)
    assert outcome(held.getvalue()) == ("ok", "")


def test_indices_of_64_bits_are_verified_where_the_attribute_says_so():
    def widen(group):
        put("indices", lambda a: a.astype(np.int64))(group)

    kind, text = edit(widen)
    assert kind == "wrong"
    assert "attribute binsparse" in text

    def widen_both(group):
        widen(group)
        content = json.loads(group.attrs["binsparse"])
        content["binsparse"]["data_types"]["indices_1"] = "int64"
        group.attrs["binsparse"] = json.dumps(content)

    assert edit(widen_both) == ("ok", "")


# What each kind of damage ends in. The first is the outcome, the second is in its text.
DAMAGE = {
    "a weight": (put("data", lambda a: np.where(np.arange(72) == 40, 99, a)), "wrong", "found 99."),
    "a column": (put("indices", lambda a: a[::-1].copy()), "wrong", "columns must increase"),
    "a row": (put("indptr", lambda a: a + 1), "wrong", "indptr does not begin with 0"),
    "a row's end": (
        put("indptr", lambda a: np.where(np.arange(13) == 5, 0, a)),
        "wrong",
        "row 4 ends at entry 0 by indptr",
    ),
    "a bias": (put("bias", lambda a: a + 1), "wrong", "bias 0 is 1.5, by the kernel_bias 0.5"),
    "a kernel": (put("kernel", lambda a: a + 1), "wrong", "not as they were written"),
    "a kernel bias": (put("kernel_bias", lambda a: a + 1), "wrong", "not as they were written"),
    "a number": (put("kernel_index", lambda a: a[::-1].copy()), "wrong", "kernel_index"),
    "fewer weights": (put("data", lambda a: a[:-1]), "wrong", "data has shape (71,)"),
    "more weights": (put("data", lambda a: np.append(a, a)), "wrong", "data has shape (144,)"),
    "fewer rows": (put("indptr", lambda a: a[:-1]), "wrong", "indptr has shape (12,)"),
    "a longer bias": (put("bias", lambda a: np.append(a, a)), "wrong", "bias has shape (24,)"),
    "a bias of more axes": (put("bias", lambda a: a.reshape(2, 2, 3)), "wrong", "(2, 2, 3)"),
    "a single value": (put("data", np.float32(1)), "wrong", "data has shape ()"),
    "wider weights": (put("data", lambda a: a.astype(float)), "wrong", "data is float64"),
    "wider bias": (put("bias", lambda a: a.astype(float)), "wrong", "bias is float64"),
    "narrow columns": (put("indices", lambda a: a.astype("i2")), "wrong", "indices is int16"),
    "unsigned rows": (put("indptr", lambda a: a.astype("u4")), "wrong", "indptr is uint32"),
    "real columns": (put("indices", lambda a: a.astype("f4")), "wrong", "indices is float32"),
    "text for weights": (put("data", np.array([b"x"] * 72)), "wrong", "data is text"),
    "a wide kernel": (
        put("kernel", lambda a: a.astype("f8")),
        "MalformedInput",
        "2 values of float64 are asked for",
    ),
    "a half kernel": (
        put("kernel", lambda a: a.astype("f2")),
        "MalformedInput",
        "float32 or float64",
    ),
    "a kernel of text": (put("kernel", np.array([b"x"])), "Unsupported", "kernel holds text"),
    "a kernel of another shape": (
        put("kernel", lambda a: a[:1].copy()),
        "MalformedInput",
        "says kernel_shape (2, 2, 2, 2)",
    ),
    "an array more": (
        lambda g: g.create_dataset("x", data=[1]),
        "MalformedInput",
        "has an array 'x'",
    ),
    "a group more": (lambda g: g.create_group("x"), "MalformedInput", "'x' is no array"),
    "a type": (lambda g: g.__setitem__("x", np.dtype("f4")), "MalformedInput", "'x' is no array"),
    "a group for an array": (
        lambda g: (g.pop("bias"), g.create_group("bias")),
        "MalformedInput",
        "'bias' is no array",
    ),
    "an attribute more": (lambda g: g.attrs.create("x", 1), "MalformedInput", "attribute 'x'"),
    "an attribute of an array": (
        lambda g: g["data"].attrs.create("x", 1),
        "MalformedInput",
        "data has an attribute 'x'",
    ),
    "an attribute of the root": (
        lambda g: g.parent.attrs.create("x", 1),
        "MalformedInput",
        "has an attribute 'x'",
    ),
    "an array of the root": (
        lambda g: g.parent.create_dataset("x", data=[1]),
        "MalformedInput",
        "'x' is not the group of a layer",
    ),
    "an empty group of the root": (
        lambda g: g.parent.create_group("x"),
        "MalformedInput",
        "x has no array 'convfc'",
    ),
    "another name": (
        lambda g: g.parent.move(GROUP, "003-conv_2"),
        "MalformedInput",
        "'003-conv_1'",
    ),
    "another position": (lambda g: g.parent.move(GROUP, "004-conv_1"), "MalformedInput", GROUP),
    "another schema": (
        lambda g: g.parent.attrs.create("convfc", "convfc/2"),
        "MalformedInput",
        "its schema is 'convfc/2', not 'convfc/1'",
    ),
    "no schema": (
        lambda g: g.parent.attrs.pop("convfc"),
        "MalformedInput",
        "no matrix file that convfc writes",
    ),
    "a schema of a number": (lambda g: g.parent.attrs.create("convfc", 1), "MalformedInput", "'1'"),
    "no group": (lambda g: g.parent.pop(GROUP), "MalformedInput", "holds no matrix"),
    "another shape": (lambda g: g.attrs.create("shape", [48, 12]), "wrong", "shape is [48, 12]"),
    "a real shape": (lambda g: g.attrs.create("shape", [12.0, 48.0]), "wrong", "[12.0, 48.0]"),
    "a shape of more axes": (lambda g: g.attrs.create("shape", [[12, 48]]), "wrong", "[[12, 48]]"),
    "another encoding": (
        lambda g: g.attrs.create("encoding-type", "csc_matrix"),
        "wrong",
        "attribute encoding-type",
    ),
    "another encoding version": (
        lambda g: g.attrs.create("encoding-version", "0.2.0"),
        "wrong",
        "attribute encoding-version",
    ),
    "another descriptor": (
        lambda g: g.attrs.create("binsparse", g.attrs["binsparse"].replace(b"CSR", b"CSC")),
        "wrong",
        "attribute binsparse",
    ),
    "a copy for a link": (
        lambda g: (g.pop("values"), g.create_dataset("values", data=g["data"][()])),
        "MalformedInput",
        "values is another array than data",
    ),
    "a crossed link": (
        lambda g: (g.pop("values"), g.__setitem__("values", g["kernel_index"])),
        "MalformedInput",
        "values is another array than data",
    ),
    "a soft link": (
        lambda g: (g.pop("values"), g.__setitem__("values", h5py.SoftLink(f"/{GROUP}/data"))),
        "Refused",
        "values is a soft link",
    ),
    "a soft link in the root": (
        lambda g: g.parent.__setitem__("x", h5py.SoftLink(f"/{GROUP}")),
        "Refused",
        "x is a soft link",
    ),
    "an external link": (
        lambda g: (g.pop("bias"), g.__setitem__("bias", h5py.ExternalLink("/etc/passwd", "/x"))),
        "Refused",
        "bias is an external link",
    ),
    "an external group": (
        lambda g: g.parent.__setitem__("x", h5py.ExternalLink("other.h5", "/")),
        "Refused",
        "x is an external link",
    ),
    "values in another file": (
        lambda g: (
            g.pop("bias"),
            g.create_dataset("bias", (12,), "f4", external=[("/etc/passwd", 0, 48)]),
        ),
        "Refused",
        "bias has its values in another file",
    ),
    "a virtual array": (lambda g: virtual(g, "bias"), "Refused", "bias is virtual"),
    "more than there is": (
        lambda g: (g.pop("bias"), g.create_dataset("bias", (12 * 10**9,), "f4", chunks=(10**6,))),
        "wrong",
        "bias has shape (12000000000,)",
    ),
    "a kernel beyond the file": (
        lambda g: (g.pop("kernel"), g.create_dataset("kernel", (10**12,), "f4", chunks=(10**6,))),
        "Refused",
        "kernel declares 4000000000000 bytes",
    ),
    "metadata of a number": (put("convfc", np.float64(1)), "MalformedInput", "not a text"),
    "metadata of two texts": (put("convfc", np.array([b"x"] * 2)), "MalformedInput", "not a text"),
    "no metadata": (put("convfc", "no JSON"), "MalformedInput", "the metadata is not convfc/1"),
    "too much metadata": (put("convfc", "x" * 2**23), "MalformedInput", "more than 4194304 bytes"),
    "too much fixed metadata": (
        put("convfc", np.bytes_(b"x" * 2**23)),
        "MalformedInput",
        "more than 4194304 bytes",
    ),
    "metadata of another kernel": (
        put("convfc", lambda text: text.replace(b'"groups": 2', b'"groups": 1')),
        "MalformedInput",
        "the metadata is not convfc/1",
    ),
    "metadata of another form": (
        put("convfc", lambda text: text.replace(b'"form": "csr"', b'"form": "dense"')),
        "MalformedInput",
        "the form is dense",
    ),
}


def virtual(group, name):
    """Put a virtual dataset that shows an array in its place."""
    layout = h5py.VirtualLayout(group[name].shape, group[name].dtype)
    group.move(name, "moved")
    layout[...] = h5py.VirtualSource(group["moved"])
    group.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_kind_of_damage_to_an_hdf5_is_what_it_is_documented_to_be(damage):
    change, expected, text = DAMAGE[damage]
    kind, found = edit(change)
    assert kind == expected, found
    assert text in found
    assert "\n" not in found


@pytest.mark.parametrize("name", CSR_MEMBERS)
def test_a_missing_array_is_malformed_and_named(name):
    kind, text = edit(lambda group: group.pop(name))
    if name == "kernel_bias":  # without one it is a layer without a bias, and the metadata knows
        assert kind == "MalformedInput"
    else:
        assert kind == "MalformedInput"
        assert f"no array {name!r}" in text


@pytest.mark.parametrize("name", ["encoding-type", "encoding-version", "shape", "binsparse"])
def test_a_missing_attribute_is_malformed_and_named(name):
    kind, text = edit(lambda group: group.attrs.pop(name))
    assert (kind, f"has no attribute {name!r}" in text) == ("MalformedInput", True)


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        (lambda g: put("dense", g["dense"][()] + 0)(g), "MalformedInput", "no attribute"),
        (lambda g: g["dense"].attrs.create("encoding-type", "x"), "wrong", "encoding-type"),
        (lambda g: g["dense"].attrs.create("x", 1), "MalformedInput", "attribute 'x'"),
        (lambda g: g.attrs.create("shape", [12, 48]), "MalformedInput", "attribute 'shape'"),
        (lambda g: g.create_dataset("bias", data=g["kernel_bias"]), "MalformedInput", "'bias'"),
        (lambda g: g["dense"].write_direct(np.ones((12, 48), "f4")), "wrong", "found 1.0"),
        (lambda g: reshaped(g, (48, 12)), "wrong", "dense has shape (48, 12)"),
        (lambda g: reshaped(g, (576,)), "wrong", "dense has shape (576,)"),
    ],
)
def test_damage_to_a_dense_hdf5_is_found(change, kind, expected):
    found = edit(change, H5_DENSE)
    assert found[0] == kind, found
    assert expected in found[1]


def reshaped(group, shape):
    """Give the dense matrix another shape."""
    values, attributes = group["dense"][()], dict(group["dense"].attrs)
    del group["dense"]
    group["dense"] = values.reshape(shape)
    group["dense"].attrs.update(attributes)


def test_an_operator_hdf5_holds_no_more_than_it_says():
    assert outcome(H5_OPERATOR) == ("ok", "")
    for name in ("bias", "data", "dense", "values"):
        kind, text = edit(lambda g, name=name: g.create_dataset(name, data=[1.0]), H5_OPERATOR)
        assert (kind, repr(name) in text) == ("MalformedInput", True)
    kind, _ = edit(lambda g: g.attrs.create("encoding-type", "csr_matrix"), H5_OPERATOR)
    assert kind == "MalformedInput"


def dump(data):
    """All that h5py reads in a file."""
    found = {}
    with h5py.File(io.BytesIO(data)) as file:
        holders = [file, *file.values(), *(d for group in file.values() for d in group.values())]
        for holder in holders:
            attributes = {key: np.asarray(value) for key, value in holder.attrs.items()}
            shown = {key: (value.dtype, value.tobytes()) for key, value in attributes.items()}
            values = np.asarray(holder[()]) if isinstance(holder, h5py.Dataset) else np.empty(0)
            found[holder.name] = (shown, values.shape, values.dtype, values.tobytes())
    return found


@pytest.mark.parametrize("data", [H5, H5_DENSE, H5_OPERATOR], ids=["csr", "dense", "operator"])
def test_every_flipped_byte_of_an_hdf5_is_found_unless_nothing_reads_it(data):
    expected, changed = dump(data), bytearray(data)
    step = 1 if data is H5_OPERATOR else 5
    for place in range(0, len(data), step):
        changed[place] ^= 1 << place // step % 8
        kind, text = outcome(bytes(changed))
        assert kind in {"ok", "wrong", "MalformedInput"}, (place, text)
        if kind == "ok":
            assert data is not H5_OPERATOR
            assert dump(bytes(changed)) == expected, place
        changed[place] ^= 1 << place // step % 8


@given(st.data())
def test_no_damage_to_an_hdf5_ends_in_anything_but_a_documented_error(data):
    form = data.draw(st.sampled_from(HDF5.forms))
    file = rendered(HDF5, example(form))
    if data.draw(st.booleans(), label="without checksums"):
        held = io.BytesIO()
        with h5py.File(io.BytesIO(file)) as source, h5py.File(held, "w", libver="earliest") as made:
            made.attrs["convfc"] = source.attrs["convfc"]
            source.copy(GROUP, made)
        file = held.getvalue()
    file = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(file) - 1))
        file[place] = data.draw(st.integers(0, 255) | st.sampled_from((0, 1, 255)))
    kinds = {"ok", "wrong", "MalformedInput", "WrongContents", "Refused", "Unsupported"}
    assert outcome(bytes(file))[0] in kinds


class Full:
    """A disk with room for so many bytes, which raises an error of its choice after that."""

    def __init__(self, room, error):
        self.room, self.error = room, error

    def write(self, data):
        taken = min(self.room, len(memoryview(data)))
        if not taken:
            raise self.error
        self.room -= taken
        return taken


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(143)]
)
@pytest.mark.parametrize("room", [0, 1, 48, 1000, 3000, 5000])
def test_what_the_output_raises_comes_out_as_it_is(room, error, capfd):
    with pytest.raises(type(error)) as raised:
        HDF5.write([example()], Full(room, error), lambda done: None)
    assert raised.value is error
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs an alarm")
def test_a_signal_while_hdf5_lays_out_the_file_is_no_error_of_hdf5(monkeypatch, capfd):
    real = hdf5_frame._Frame.write

    def slow(self, data):
        time.sleep(0.02)
        return real(self, data)

    monkeypatch.setattr(hdf5_frame._Frame, "write", slow)
    taken = io.BytesIO()
    with pytest.raises(TimeoutError), within(0.05):
        HDF5.write(three(), taken, lambda done: None)
    assert taken.getvalue() == b""
    monkeypatch.undo()
    assert len(rendered(HDF5, example())) > 5000
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", [HDF5, NPZ], ids=label)
def test_700_megabytes_are_written_in_a_few(kind):
    code = (
        "import re\n"
        "from pathlib import Path\n"
        "from convfc_cli.matrices.registry import formats\n"
        "from tests.benchmarks.write import layer\n"
        "status, matrix, done = Path('/proc/self/status'), layer(), []\n"
        "def peak(): return int(re.search(r'VmHWM:\\s*(\\d+) kB', status.read_text())[1])\n"
        "before = peak()\n"
        "with open('/dev/null', 'wb', buffering=0) as out:\n"
        f"    formats()[{kind.name!r}].write([matrix], out, done.append)\n"
        "print(sum(done), peak() - before)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=True,
    )
    written, kilobytes = map(int, found.stdout.split())
    assert written > 690_000_000
    assert kilobytes < 70_000


def test_the_errors_of_these_files_carry_the_documented_exit_codes():
    assert (MalformedInput.exit_code, WrongContents.exit_code, UsageError.exit_code) == (3, 1, 2)
    for error in (MalformedInput, WrongContents, UsageError):
        assert issubclass(error, ConvfcError)
        assert not issubclass(error, ValueError)
