"""Matrix files as HDF5: what they hold, who opens them, and hostile and damaged ones."""

import gc
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
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
from convfc_cli.errors import ConvfcError, MalformedInput, UsageError, WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import hdf5_writer, registry
from convfc_cli.matrices.formats import hdf5
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.proof import verify
from convfc_cli.taps import IndexMap
from tests.support import brute, crafted
from tests.support.crafted import assert_same_layer, example, label, outcome, rendered, within
from tests.support.one_child import in_one_child
from tests.support.paths import ROOT
from tests.support.strategies import every_spec, problems, specs

HDF5 = registry.formats()["hdf5"]
NPZ = registry.formats()["npz"]


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
    return [verify.verify(one, **options) for one in stored]


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


@every_spec
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_anndata_and_binsparse_open_a_group_as_it_is(spec, dtype):
    matrix = example("csr", spec, dtype, kernel_index=True)
    expected = brute.csr(
        *(matrix.layer.kernel, matrix.layer.index_map.axes, 2, False),
        *(spec.layout.order, spec.transpose),
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


@pytest.mark.slow
@given(problems(), specs())
def test_anndata_reads_the_matrix_bit_for_bit(problem, spec):
    data = rendered(HDF5, Matrix(problem.layer, spec, Origin(layer="c")))
    expected = problem.csr(spec)
    with h5py.File(io.BytesIO(data)) as file:
        loaded = anndata.io.read_elem(file["000-c"])
    assert loaded.shape == expected.shape
    assert loaded.indptr.tolist() == expected.indptr.tolist()
    assert loaded.indices.tolist() == expected.indices.tolist()
    assert np.array_equal(brute.bits(loaded.data), brute.bits(expected.data))


@pytest.mark.slow
@given(problems(), specs())
def test_anndata_reads_a_dense_matrix_bit_for_bit(problem, spec):
    data = rendered(HDF5, Matrix(problem.layer, replace(spec, form="dense"), Origin(layer="c")))
    with h5py.File(io.BytesIO(data)) as file:
        loaded = anndata.io.read_elem(file["000-c/dense"])
    assert np.array_equal(brute.bits(loaded), brute.bits(problem.csr(spec).dense()))


@pytest.mark.slow
@given(problems(), specs())
def test_an_hdf5_has_the_arrays_of_an_npz(problem, spec):
    matrix = Matrix(problem.layer, replace(spec, kernel_index=True), Origin(layer="c"))
    expected = crafted.arrays(rendered(NPZ, matrix))
    with h5py.File(io.BytesIO(rendered(HDF5, matrix))) as file:
        found = {name: dataset[()] for name, dataset in file["000-c"].items()}
    assert found.pop("convfc").decode() == str(expected.pop("convfc"))
    assert {*found} - {*expected} == {"values", "indices_1", "pointers_to_1"}
    assert {*expected} - {*found} == {"format", "shape", "_is_array"}
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
        "csr": "8f6f3694058e781188b7db85025876666113852fb240952c45efb2c8c61dfdf1",
        "operator": "9520627889ca49290e7061143e4f8b69c9fc555340ee20de66faf82418f671b4",
        "dense": "53e1886239cbc46decc1855bf7a07650185cc4fbbedf7a28cef138d48517af43",
    }


@pytest.mark.slow
def test_an_hdf5_knows_no_time_and_no_seed():
    code = (
        "import sys; from tests.matrices.formats.test_hdf5 import with_three;"
        "sys.stdout.buffer.write(with_three())"
    )
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"},
            cwd=ROOT,
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
        report = verify.verify(one, original=matrix)
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


@pytest.mark.slow
def test_a_hundred_layers_are_planned_and_written():
    matrices = [
        replace(example(), origin=Origin(layer=f"c{position}", position=position))
        for position in range(100)
    ]
    out = io.BytesIO()
    HDF5.write(matrices, out, lambda done: None)
    planned = sum(HDF5.size(m.spec, m.layer.index_map, m.layer.dtype, m.origin) for m in matrices)
    assert 0 <= planned - len(out.getvalue()) <= 100 * 8192
    assert all(report.ok for report in reports(out.getvalue()))


def test_a_file_that_no_disk_holds_is_laid_out_with_64_bits():
    axis = Axis(10**6, 10**6, 3, 1, 1, 1)
    layer = Convolution(np.ones((1, 1, 3, 3), np.float32), IndexMap((1, 1, 3, 3), (axis, axis)))
    matrix = Matrix(layer, Spec(kernel_index=True), Origin(layer="c"))
    nnz = (3 * 10**6 - 2) ** 2
    frame, _ = hdf5_writer._laid_out({}, [hdf5._folder("000-c", matrix)])
    with h5py.File(frame) as file:
        found = {name: (dataset.dtype, dataset.shape) for name, dataset in file["000-c"].items()}
        types = json.loads(file["000-c"].attrs["binsparse"])["binsparse"]["data_types"]
    for name in ("indices", "indices_1"):
        assert found[name] == (np.int64, (nnz,))
    assert found["indptr"] == found["pointers_to_1"] == (np.int64, (10**12 + 1,))
    assert found["kernel_index"] == (np.int32, (nnz,))
    assert types == {"values": "float32", "indices_1": "int64", "pointers_to_1": "int64"}
    planned = HDF5.size(matrix.spec, layer.index_map, layer.dtype, matrix.origin)
    assert 0 <= planned - frame.size <= 8192


def test_many_biases_are_planned_too():
    index_map = IndexMap((1, 5000, 1), (Axis(1, 1, 1, 1, 1, 0),), transposed=True)
    layer = Convolution(np.ones((1, 5000, 1)), index_map, np.ones(5000))
    for form in HDF5.forms:
        actual = len(rendered(HDF5, Matrix(layer, Spec(form=form))))
        assert 0 <= HDF5.size(Spec(form=form), index_map, layer.dtype, Origin()) - actual <= 8192


def test_metadata_too_long_for_the_records_of_hdf5_are_written_and_read():
    for length in (50_000, 60_000, 70_000, 300_000):
        origin = Origin(file="x" * length, layer="conv/1", position=3)
        data = rendered(HDF5, replace(example(), origin=origin))
        (stored,) = registry.stored(crafted.in_memory(data))
        assert stored.matrix.origin == origin
        assert verify.verify(stored).ok


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
        "(2,) of float64 is expected",
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
    "a group more": (lambda g: g.create_group("x"), "MalformedInput", "'x' is not an array"),
    "a type": (
        lambda g: g.__setitem__("x", np.dtype("f4")),
        "MalformedInput",
        "'x' is not an array",
    ),
    "a group for an array": (
        lambda g: (g.pop("bias"), g.create_group("bias")),
        "MalformedInput",
        "'bias' is not an array",
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
        "not a matrix file that convfc writes",
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("data", [H5, H5_DENSE, H5_OPERATOR], ids=["csr", "dense", "operator"])
@in_one_child
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs an alarm")
def test_a_signal_while_hdf5_lays_out_the_file_is_no_error_of_hdf5(monkeypatch, capfd):
    real = hdf5_writer._Frame.write

    def slow(self, data):
        time.sleep(0.02)
        return real(self, data)

    monkeypatch.setattr(hdf5_writer._Frame, "write", slow)
    taken = io.BytesIO()
    gc.disable()  # Hypothesis has a callback in it, in which what a signal raises is lost
    try:
        with pytest.raises(TimeoutError), within(0.05):
            HDF5.write(three(), taken, lambda done: None)
    finally:
        gc.enable()
    assert taken.getvalue() == b""
    monkeypatch.undo()
    assert len(rendered(HDF5, example())) > 5000
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
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
        cwd=ROOT,
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
