"""One contract for every kind of matrix file."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convfc_cli.errors import Refused, UsageError
from convfc_cli.files import opened
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.taps import IndexMap
from convfc_cli.vocabulary import FORMS
from tests.support import crafted
from tests.support.crafted import (
    CASES,
    TEXT,
    assert_same_layer,
    example,
    label,
    outcome,
    rendered,
    suits,
    usual_layout,
)
from tests.support.strategies import STREAM_SIZES, every_spec, problems, specs, stream_sizes

pytestmark = pytest.mark.usefixtures("in_place")

HDF5 = registry.formats()["hdf5"]

every_case = pytest.mark.parametrize(("kind", "form"), CASES, ids=label)


def test_the_registry_knows_each_kind_by_its_name_in_order():
    formats = registry.formats()
    assert list(formats) == sorted(formats)
    assert all(kind.name == name for name, kind in formats.items())
    assert len({(kind.suffixes[0], form) for kind, form in CASES}) == len(CASES)
    assert {form for kind in formats.values() for form in kind.forms} == set(FORMS)
    for kind in formats.values():
        assert kind.summary
        for form in kind.forms:
            assert registry.by_suffix(Path(f"a.b{kind.suffixes[0].upper()}"), form) is kind


def test_a_suffix_alone_names_one_kind():
    kinds = registry.formats().values()
    for suffix in {suffix for kind in kinds for suffix in kind.suffixes}:
        several = [kind.preferred for kind in kinds if suffix in kind.suffixes]
        assert len(several) == 1 or sum(several) == 1, suffix
    found = {suffix: registry.by_suffix(Path(f"a{suffix}")) for suffix in (".npz", ".npy", ".h5")}
    assert {suffix: kind.forms[0] for suffix, kind in found.items()} == {
        **{".npz": "csr", ".npy": "dense", ".h5": "csr"}
    }
    assert registry.by_suffix(Path("a.npz"), "dense").forms[0] == "csr"  # for want of a better one


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_a_kind_that_writes_it(form):
    assert form in registry.by_form(form).forms


def test_a_suffix_of_no_kind_is_refused_with_those_there_are():
    with pytest.raises(UsageError) as error:
        registry.by_suffix(Path("matrix.xyz"))
    assert "matrix.xyz" in str(error.value)
    for kind in registry.formats().values():
        assert kind.suffixes[0] in str(error.value)


@every_case
@every_spec
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_written_is_sniffed_read_back_equal_and_verified(kind, form, spec, dtype, tmp_path):
    if not suits(form, spec):
        pytest.skip("no blocks in this layout")
    matrix = example(form, spec, dtype)
    path = crafted.written(kind, matrix, tmp_path)
    renamed = path.rename(path.with_suffix(".bin"))  # no suffix helps, the content does
    if kind.sidecar(path):
        crafted.sidecar(path).rename(crafted.sidecar(renamed))
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
    structural -= {"bias"} if kind.name in TEXT else set()
    assert checks >= ({"digest"} if form == "operator" else {"digest", "entries", *structural})


@every_case
def test_a_file_says_what_it_holds(kind, form, tmp_path):
    """By its metadata alone: whatever its entries are."""
    matrix = example(form, Spec(Layout("channels-last"), transpose=True))
    with opened(crafted.written(kind, matrix, tmp_path)) as source:
        (stored,) = registry.stored(source)
        (found,) = kind.states(source)
    outline = matrix.layer.outline
    assert (found.name, found.group) == (stored.name, stored.group)
    assert (found.spec, found.origin) == (matrix.spec, matrix.origin)
    assert (found.shape, found.nonzeros) == (matrix.shape, matrix.nonzeros)
    assert (found.input_shape, found.output_shape) == (outline.input_shape, outline.output_shape)
    assert (found.kernel_shape, found.groups) == (outline.kernel_shape, outline.groups)
    assert (found.dtype, found.digest) == ("float32", stored.stated_digest)


@every_case
def test_the_digest_is_stated_and_bias_is_flattened_as_the_outputs(kind, form, tmp_path):
    matrix = example(form, Spec(Layout("channels-last")))
    with opened(crafted.written(kind, matrix, tmp_path)) as source:
        (stored,) = registry.stored(source)
        assert stored.matrix.bias.tolist() == [0.5, -2] * 6
        if form == "csr" and kind.name not in TEXT:
            assert stored.bias().tolist() == [0.5, -2] * 6
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
        assert sum(told) == 12 * 48 * 4 + (0 if kind.sidecar(Path("x.npy")) else 72)


@pytest.mark.slow
@every_case
@every_spec
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_size_is_planned_to_within_the_metadata(kind, form, spec, dtype):
    if not suits(form, spec):
        pytest.skip("no blocks in this layout")
    axes = (Axis(40, 40, 3, 1, 1, 1), Axis(40, 40, 3, 1, 1, 1))
    kernel = np.ones((4, 2, 3, 3), dtype)
    matrix = Matrix(Convolution(kernel, IndexMap(kernel.shape, axes)), replace(spec, form=form))
    actual = len(rendered(kind, matrix))
    operator = crafted.beside(kind, matrix)
    actual += operator.size if operator else 0
    planned = kind.size(matrix.spec, matrix.layer.index_map, matrix.layer.dtype, matrix.origin)
    if kind.name in TEXT:  # 1.0 is not the longest value
        assert actual <= planned <= 4 * actual
    else:
        assert 0 <= planned - actual <= 8192
    assert form == "operator" or actual > 20 * 8192


@every_case
def test_a_size_is_planned_without_weights_for_what_no_disk_holds(kind, form):
    axis = Axis(10**6, 10**6, 3, 1, 1, 1)
    index_map = IndexMap((1, 1, 3, 3), (axis, axis))
    spec = Spec(usual_layout(form), form)
    if kind.name == "mat":
        with pytest.raises(Refused, match="has less than 2147483648 bytes"):
            kind.size(spec, index_map, np.dtype(np.float32), Origin())
        return
    size = kind.size(spec, index_map, np.dtype(np.float32), Origin())
    nonzeros = (3 * 10**6 - 2) ** 2
    compressed = nonzeros * 12 + 10**12 * 12
    exact = {"operator": 0, "dense": 4 * 10**24, "coo": nonzeros * 20 + 10**12 * 4}
    exact |= dict.fromkeys(("csr", "csc", "bsr"), compressed)  # blocks of one entry each
    if kind.name in TEXT:
        longest = len("1000000000000 1000000000000 -1.1754943508222875e-38\n")
        assert 0 < size - nonzeros * longest <= 16384
    else:
        assert 0 < size - exact[form] <= 16384


@pytest.mark.slow
@every_case
@given(problem=problems(), spec=specs(), sizes=STREAM_SIZES)
def test_any_layer_comes_back_and_is_verified(kind, form, problem, spec, sizes):
    assume(crafted.holds(kind, problem.layer) and suits(form, spec))
    matrix = Matrix(problem.layer, replace(spec, form=form))
    with stream_sizes(sizes):
        data = rendered(kind, matrix)
    (stored,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
    assert_same_layer(stored.matrix.layer, problem.layer)
    assert stored.matrix.spec == matrix.spec
    report = crafted.verified(kind, matrix, data)
    assert crafted.failures(report) == []


@pytest.mark.slow
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
    matrix = Matrix(example().layer, Spec(usual_layout(form), form), origin)
    data = rendered(kind, matrix)
    (stored,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
    assert stored.matrix.origin == origin
    assert crafted.verified(kind, matrix, data).layer == layer


@pytest.mark.slow
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
        (b"\x00\x01\x02\x03 no magic", "is not a matrix file that convfc writes"),
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
