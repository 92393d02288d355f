"""CSC, COO and BSR in npz: what SciPy makes of them, and faults and hostile files of each form.

Files are read and crafted by scipy, numpy and zipfile, as in `tests.matrices.formats.test_npz`.
"""

import hashlib
import io
import json
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import assume, given
from hypothesis import strategies as st

import convfc_cli
from convfc_cli import load
from convfc_cli.errors import Defect, MalformedInput, UsageError, WrongContents
from convfc_cli.files import opened
from convfc_cli.geometry import Axis
from convfc_cli.hints import Advice, Hint
from convfc_cli.jobs import plan
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import blocks, registry, schema
from convfc_cli.matrices.formats import npz_bsr, npz_coo
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof import verify
from convfc_cli.taps import IndexMap
from tests.support import brute, crafted
from tests.support.cli_models import net, run
from tests.support.crafted import (
    example,
    npy,
    outcome,
    raw_npy,
    rendered,
    replaced,
    suits,
    usual_layout,
)
from tests.support.strategies import problems, specs

FORMS = ("csc", "coo", "bsr")
KINDS = {form: registry.by_form(form) for form in ("csr", *FORMS)}
LAST = Layout("channels-last")

every_form = pytest.mark.parametrize("form", FORMS)


def bytes_of(form, **options):
    return rendered(KINDS[form], example(form, **options))


def loaded(data):
    found = scipy.sparse.load_npz(io.BytesIO(data))
    assert isinstance(found, scipy.sparse.sparray)
    return found


def expected(form, csr, index_map, transpose):
    """What SciPy itself makes of the brute-force matrix, as integers that are its weights' bits
    plus one: SciPy drops and reorders nothing then, not even NaN.
    """
    numbers = np.arange(1, len(csr.data) + 1)
    found = scipy.sparse.csr_matrix((numbers, csr.indices, csr.indptr), shape=csr.shape)
    if form == "csc":
        found = found.tocsc()
    elif form == "coo":
        found = found.tocoo()
    else:
        shape, groups = index_map.kernel_shape, index_map.groups
        block = (shape[0] // groups, shape[1])
        found = found.tobsr(block[::-1] if index_map.transposed != transpose else block)
        found.sort_indices()
    values = brute.bits(csr.data)[found.data.reshape(-1) - 1].reshape(found.data.shape)
    assert found.data.all()  # every block is full
    return found, values


# --- what SciPy opens ---------------------------------------------------------------------------


@pytest.mark.slow
@every_form
@given(problem=problems(), spec=specs())
def test_scipy_opens_each_form_bit_for_bit(form, problem, spec):
    assume(suits(form, spec))
    found = loaded(rendered(KINDS[form], Matrix(problem.layer, replace(spec, form=form))))
    csr = problem.csr(spec)
    right, values = expected(form, csr, problem.index_map, spec.transpose)
    assert (found.format, found.shape) == (form, csr.shape)
    assert np.array_equal(brute.bits(found.data), values)
    for name in ("row", "col") if form == "coo" else ("indptr", "indices"):
        assert getattr(found, name).tolist() == getattr(right, name).tolist()
    if form == "bsr":
        assert found.blocksize == right.blocksize
    elif form == "csc":
        assert found.has_canonical_format


@every_form
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transpose", [False, True])
def test_each_form_is_the_csr_file_of_the_same_layer(form, dtype, transpose):
    spec = Spec(usual_layout(form), transpose=transpose)
    found = loaded(bytes_of(form, spec=spec, dtype=dtype))
    csr = loaded(bytes_of("csr", spec=spec, dtype=dtype))
    assert found.dtype == dtype
    again = scipy.sparse.csr_matrix(found)
    again.sort_indices()
    assert (again != csr).nnz == 0
    assert again.nnz == csr.nnz == 72
    x = np.arange(csr.shape[1], dtype=dtype)
    assert np.array_equal(found @ x, csr @ x)


def test_blocks_are_the_channels_of_a_group():
    found = loaded(bytes_of("bsr"))
    assert (found.blocksize, found.data.shape) == ((1, 2), (36, 1, 2))
    found = loaded(bytes_of("bsr", spec=Spec(Layout("fortran"), transpose=True)))
    assert (found.blocksize, found.data.shape) == ((2, 1), (36, 2, 1))


@every_form
def test_each_form_has_the_bytes_it_had_when_this_was_written(form, monkeypatch):
    monkeypatch.setattr(convfc_cli, "__version__", "0.0.0")
    assert (
        hashlib.sha256(bytes_of(form)).hexdigest()
        == {
            "csc": "8811d6c065071bc98f5159c466e451061244ebd95663465798f1cbfcd832c0d0",
            "coo": "036c88e5256cc005fa12f7d18fc06198fddc94485ce2e5202b8a39e02df78f20",
            "bsr": "b6f1af98a2d1e0c23b58a48fa3f6940d7f8b74a24a671b897747113ba09a5dcd",
        }[form]
    )


# --- what has no such form ----------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
def test_blocks_need_channels_side_by_side(transpose):
    with pytest.raises(UsageError) as error:
        Spec(Layout("channels-first"), "bsr", transpose=transpose)
    for part in ("bsr", "channels-first scatters them"):
        assert part in str(error.value)
    assert Hint(Advice.LAYOUT, ("channels-last",)) in error.value.hints


def test_blocks_have_no_kernel_index():
    with pytest.raises(UsageError, match="the form is bsr"):
        Spec(LAST, "bsr", kernel_index=True)


@pytest.mark.slow
@given(problem=problems(), spec=specs(), form=st.sampled_from(("csc", "coo")))
def test_a_kernel_index_stands_beside_each_entry(problem, spec, form):
    data = rendered(KINDS[form], Matrix(problem.layer, replace(spec, form=form, kernel_index=True)))
    csr = problem.csr(spec)
    order = np.arange(len(csr.data))
    if form == "csc":
        rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
        order = np.lexsort((rows, csr.indices))
    assert crafted.arrays(data)["kernel_index"].tolist() == csr.kernel_index[order].tolist()
    assert outcome(data) == ("ok", "")


@pytest.mark.parametrize("form", ["csc", "coo"])
def test_a_kernel_index_that_is_wrong_is_found(form):
    contents = crafted.arrays(bytes_of(form, kernel_index=True))
    contents["kernel_index"][[0, -1]] = contents["kernel_index"][[-1, 0]]
    kind, text = outcome(crafted.saved(contents))
    assert (kind, "names other kernel elements" in text) == ("wrong", True)


# --- how they are read --------------------------------------------------------------------------


def rows_of(stored, counts, cuts):
    """All rows that are read when they are asked for in these parts, as (column, bits) by row."""
    found = []
    for first, last in pairwise([0, *cuts, len(counts)]):
        for block in stored.rows(counts[first:last]):
            assert block.first == len(found)
            assert block.indptr[0] == 0
            for start, stop in pairwise(block.indptr.tolist()):
                pair = block.indices[start:stop].tolist(), brute.bits(block.data[start:stop])
                found.append([pair[0], pair[1].tolist()])
        assert len(found) == last
    stored.finish()
    return found


@pytest.mark.slow
@every_form
@given(problem=problems(), spec=specs(), draw=st.data())
def test_rows_can_be_asked_for_in_any_parts(form, problem, spec, draw):
    assume(suits(form, spec))
    matrix = Matrix(problem.layer, replace(spec, form=form))
    turned = replace(spec, transpose=spec.transpose != (form == "csc"))
    csr = problem.csr(turned)
    counts = np.diff(csr.indptr)
    inside = range(1, len(counts))
    cuts = list(inside) if draw.draw(st.booleans(), label="one at a time") else []
    if inside and not cuts:
        cuts = sorted(draw.draw(st.sets(st.sampled_from(inside), max_size=4)))
    (stored,) = KINDS[form].open(crafted.in_memory(rendered(KINDS[form], matrix)))
    assert stored.stores_transpose is (form == "csc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CHUNK", draw.draw(st.sampled_from((1, 7, 50, 2**20))))
        found = rows_of(stored, counts, cuts)
    parts = [slice(*pair) for pair in pairwise(csr.indptr.tolist())]
    bits = brute.bits(csr.data)
    assert found == [[csr.indices[part].tolist(), bits[part].tolist()] for part in parts]


@pytest.mark.parametrize("form", ["csr", "coo", "bsr"])
def test_columns_beyond_32_bits_are_read_as_they_are(form):
    far = 2**31 - 2
    axis = Axis(inputs=2**31, outputs=1, kernel=2, stride=1, dilation=1, offset=-far)
    kernel = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    matrix = Matrix(Convolution(kernel, IndexMap((1, 3, 2), (axis,))), Spec(LAST, form))
    (stored,) = KINDS[form].open(crafted.in_memory(rendered(KINDS[form], matrix)))
    ((columns, _),) = rows_of(stored, np.array([6]), [])
    assert columns == [3 * far + step for step in range(6)]


def large():
    """1,6 million nonzeros in rows of 288."""
    axes = (Axis(28, 28, 3, 1, 1, 1),) * 2
    kernel = np.random.default_rng(0).standard_normal((8, 32, 3, 3), np.float32)
    return Convolution(kernel, IndexMap(kernel.shape, axes))


@pytest.mark.slow
@every_form
def test_neither_writing_nor_reading_takes_memory_for_the_matrix(form, monkeypatch, tmp_path):
    for module in (blocks, npz_bsr, npz_coo):
        monkeypatch.setattr(module, "CHUNK", 2**12)
    monkeypatch.setattr("convfc_cli.streams.Stream.chunks.__defaults__", (2**12,))
    matrix = Matrix(large(), Spec(LAST, form))
    stored_rows = matrix.transposed() if form == "csc" else matrix
    counts = np.diff(stored_rows.rows_of.matrix(LAST).indptr.array())
    tracemalloc.start()
    try:
        path = crafted.written(KINDS[form], matrix, tmp_path)
        with opened(path) as source:
            (stored,) = KINDS[form].open(source)
            assert sum(len(block.data) for block in stored.rows(counts)) == len(matrix_data(matrix))
            stored.finish()
        assert tracemalloc.get_traced_memory()[1] < 2**21 < path.stat().st_size
    finally:
        tracemalloc.stop()


def matrix_data(matrix):
    return matrix.rows_of.matrix(matrix.layout).data


@every_form
def test_a_file_in_which_more_would_be_written_than_it_says_is_a_defect(form):
    layer = example().layer
    with pytest.raises(Defect, match="indices has 72 elements, where the geometry counts 71"):
        schema.values(Matrix(layer), "indices", 71)


# --- which kind a file is -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csr", *FORMS])
def test_a_file_is_known_by_its_contents_in_any_order(form):
    data = bytes_of(form)
    backwards = crafted.zipped(list(crafted.members(data).items())[::-1])
    for file in (data, crafted.saved(crafted.arrays(data)), backwards):
        source = crafted.in_memory(file)
        kinds = [kind for kind in registry.formats().values() if kind.recognizes(source)]
        assert kinds == [KINDS[form]]
        (stored,) = registry.stored(source)
        assert stored.matrix.form == form
        assert outcome(file) == ("ok", "")


@every_form
@pytest.mark.parametrize("other", ["csr", *FORMS, "operator", "dense"])
def test_a_file_of_one_form_that_says_another_is_refused(form, other):
    if form == other:
        return
    content = crafted.description(bytes_of(form)) | {"form": other}
    how, text = outcome(crafted.redescribed(bytes_of(form), content))
    assert how in {"MalformedInput", "WrongContents"}
    assert "\n" not in text


@every_form
@pytest.mark.parametrize("value", [None, [], {}, 5, ["csc"], "", "CSC", "dia"])
def test_a_form_that_is_none_is_malformed(form, value):
    content = crafted.description(bytes_of(form)) | {"form": value}
    assert outcome(crafted.redescribed(bytes_of(form), content))[0] == "MalformedInput"


@every_form
def test_a_kind_opens_no_file_of_another(form):
    for other, kind in KINDS.items():
        if other != form:
            with pytest.raises(MalformedInput, match=f"is {form} by its metadata"):
                kind.open(crafted.in_memory(bytes_of(form)))
    hdf5 = registry.formats()["hdf5"]
    text = json.dumps(crafted.description(bytes_of(form)))

    def change(file):
        (group,) = file.values()
        del group["convfc"]
        group["convfc"] = text

    matrix = example("csr", Spec(usual_layout(form)))
    with pytest.raises(MalformedInput, match=f"is {form} by its metadata"):
        hdf5.open(crafted.in_memory(crafted.edited(rendered(hdf5, matrix), change)))


def test_metadata_that_are_compressed_or_huge_are_not_read_to_know_the_form():
    data = bytes_of("csc")
    compressed = crafted.zipped(list(crafted.members(data).items()), 8)
    assert not KINDS["csc"].recognizes(crafted.in_memory(compressed))
    assert "compressed" in outcome(compressed)[1]
    huge = crafted.description(data) | {"padding": "x" * 2**20}
    assert not KINDS["csc"].recognizes(crafted.in_memory(crafted.redescribed(data, huge)))


# --- faults -------------------------------------------------------------------------------------


def bit(contents):
    contents["data"].reshape(-1).view("u4")[5] ^= 1 << 3


def exchanged_weights(contents):
    flat = contents["data"].reshape(-1)
    flat[[3, 60]] = flat[[60, 3]]


def moved(name, place=7):
    def change(contents):
        contents[name][place] += 1 if contents[name][place] == 0 else -1

    return change


def beyond(name):
    def change(contents):
        contents[name][4] = 10**6

    return change


def below(name):
    def change(contents):
        contents[name][4] = -1

    return change


def modulo(name, period):
    def change(contents):
        contents[name] = contents[name].astype(np.int64)
        contents[name][9] += period

    return change


def without(*names):
    def change(contents):
        for name in names:
            contents[name] = np.delete(contents[name], 11, axis=0)

    return change


def twice(*names):
    def change(contents):
        for name in names:
            contents[name] = np.insert(contents[name], 11, contents[name][11], axis=0)

    return change


def in_place_of_its_neighbor(*names):
    def change(contents):
        for name in names:
            contents[name][11] = contents[name][10]

    return change


def neighbors_exchanged(*names):
    def change(contents):
        for name in names:
            contents[name][[10, 11]] = contents[name][[11, 10]]

    return change


def turned_round(name):
    def change(contents):
        contents[name] = contents[name][::-1].copy()

    return change


def one_row_for_all(contents):
    contents["row"][:] = 0


def of_unsigned(name):
    def change(contents):
        contents[name] = contents[name].astype(np.uint32)

    return change


def another_block(contents):
    contents["data"][8] = contents["data"][20]


def transposed_blocks(contents):
    contents["data"] = contents["data"].swapaxes(1, 2).reshape(contents["data"].shape).copy()
    contents["data"][:, 0, :] = contents["data"][:, 0, ::-1]


def of_other_blocks(contents):
    data = contents["data"]
    contents["data"] = data.reshape(len(data), *data.shape[:0:-1])


def flattened_blocks(contents):
    contents["data"] = contents["data"].reshape(-1)


def shape_turned(contents):
    contents["shape"] = contents["shape"][::-1]


def bias_changed(contents):
    contents["bias"][2] += 1


def wide_weights(contents):
    contents["data"] = contents["data"].astype(np.float64)


EVERY = {
    "bit": (bit, "expected"),
    "weights": (exchanged_weights, "expected"),
    "shape": (shape_turned, "shape is [48, 12], not [12, 48]"),
    "bias": (bias_changed, "bias 2 is"),
    "dtype": (wide_weights, "data is float64, the kernel float32"),
}

FAULTS = {
    "csc": EVERY
    | {
        "moved": (moved("indices"), ""),
        "beyond": (beyond("indices"), "has row 1000000, out of range [0, 12)"),
        "below": (below("indices"), "has row -1, out of range [0, 12)"),
        "modulo": (modulo("indices", 2**32), "out of range [0, 12)"),
        "pointer": (moved("indptr"), "column 6 ends at entry"),
        "first pointer": (moved("indptr", 0), "indptr does not begin with 0"),
        "pointer modulo": (modulo("indptr", -(2**32)), "column 8 ends at entry -"),
        "dropped": (without("indices", "data"), "has shape (71,)"),
        "twice": (twice("indices", "data"), "has shape (73,)"),
        "neighbor": (in_place_of_its_neighbor("indices", "data"), ""),
        "backwards": (turned_round("indices"), ""),
        "unsigned": (of_unsigned("indices"), "uint32, not integers"),
    },
    "coo": EVERY
    | {
        "moved": (moved("col"), ""),
        "beyond": (beyond("col"), "has column 1000000, out of range [0, 48)"),
        "below": (below("col"), "has column -1, out of range [0, 48)"),
        "modulo": (modulo("col", 2**32), "out of range [0, 48)"),
        "row": (moved("row"), "entry 7 is in row"),
        "row beyond": (beyond("row"), "entry 4 is in row 1000000 by the array row"),
        "row below": (below("row"), "entry 4 is in row -1 by the array row"),
        "row modulo": (modulo("row", 2**32), "entry 9 is in row 4294967"),
        "one row": (one_row_for_all, "is in row 0 by the array row, where the geometry has it in"),
        "rows backwards": (turned_round("row"), "entry 0 is in row 11 by the array row"),
        "dropped": (without("row", "col", "data"), "has shape (71,)"),
        "twice": (twice("row", "col", "data"), "has shape (73,)"),
        "fewer rows": (without("row"), "row has shape (71,)"),
        "neighbor": (in_place_of_its_neighbor("row", "col", "data"), "increase strictly"),
        "exchanged": (neighbors_exchanged("row", "col", "data"), "increase strictly"),
        "unsigned": (of_unsigned("row"), "row is uint32, not integers"),
    },
    "bsr": EVERY
    | {
        "moved": (moved("indices"), ""),
        "beyond": (beyond("indices"), "has block column 1000000, out of range [0, 24)"),
        "below": (below("indices"), "has block column -1, out of range [0, 24)"),
        # Blocks are two columns wide: times two, these are right again modulo 2**32 or 2**64.
        "modulo": (modulo("indices", 2**31), "out of range [0, 24)"),
        "modulo 64": (modulo("indices", -(2**63)), "out of range [0, 24)"),
        "pointer": (moved("indptr"), "block row 6 ends at entry"),
        "first pointer": (moved("indptr", 0), "indptr does not begin with 0"),
        "pointer modulo": (modulo("indptr", 2**32), "block row 8 ends at entry"),
        "dropped": (without("indices", "data"), "has shape (35,"),
        "twice": (twice("indices", "data"), "has shape (37,"),
        "neighbor": (in_place_of_its_neighbor("indices", "data"), "increase strictly"),
        "exchanged": (neighbors_exchanged("indices", "data"), "increase strictly"),
        "block": (another_block, "expected"),
        "transposed": (transposed_blocks, "expected"),
        "other blocks": (of_other_blocks, "data has shape (36, 2, 1)"),
        "flattened": (flattened_blocks, "data has shape (72,)"),
        "unsigned": (of_unsigned("indptr"), "indptr is uint32, not integers"),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "name"), [(form, name) for form, faults in FAULTS.items() for name in faults]
)
def test_each_fault_is_found_and_told(form, name):
    change, message = FAULTS[form][name]
    contents = crafted.arrays(bytes_of(form))
    assert outcome(crafted.saved(contents)) == ("ok", "")
    change(contents)
    how, text = outcome(crafted.saved(contents))
    assert how in {"wrong", "WrongContents"}
    assert message in text


@every_form
def test_a_wrong_weight_is_told_by_row_and_column_of_the_matrix(form):
    contents = crafted.arrays(bytes_of(form))
    contents["data"].reshape(-1)[40] = 99
    found = scipy.sparse.coo_matrix(loaded(crafted.saved(contents)))
    (place,) = np.flatnonzero(found.data == 99)
    how, text = outcome(crafted.saved(contents))
    assert how == "wrong"
    assert f"entry ({found.row[place]}, {found.col[place]})" in text
    assert "found 99.0" in text


@pytest.mark.slow
@every_form
@given(problem=problems(("distinct",)), spec=specs(), place=st.integers(0), bit=st.integers(0))
def test_any_changed_bit_is_found(form, problem, spec, place, bit):
    assume(suits(form, spec))
    contents = crafted.arrays(
        rendered(KINDS[form], Matrix(problem.layer, replace(spec, form=form)))
    )
    assume(contents["data"].size)
    view = brute.bits(contents["data"]).reshape(-1).copy()
    view[place % view.size] ^= view.dtype.type(1 << bit % (8 * view.itemsize))
    contents["data"] = view.view(contents["data"].dtype).reshape(contents["data"].shape)
    assert outcome(crafted.saved(contents))[0] == "wrong"


@pytest.mark.slow
@every_form
@given(problem=problems(), spec=specs(), draw=st.data())
def test_any_changed_index_is_found(form, problem, spec, draw):
    assume(suits(form, spec))
    contents = crafted.arrays(
        rendered(KINDS[form], Matrix(problem.layer, replace(spec, form=form)))
    )
    name = draw.draw(st.sampled_from(("row", "col") if form == "coo" else ("indptr", "indices")))
    assume(contents[name].size)
    place = draw.draw(st.integers(0, contents[name].size - 1))
    change = draw.draw(st.integers(-3, 3) | st.sampled_from((-(2**30), 2**30)))
    assume(change)
    contents[name][place] += change
    assert outcome(crafted.saved(contents))[0] == "wrong"


def test_a_wrong_row_is_told_by_its_entry_however_the_file_is_read(monkeypatch):
    contents = crafted.arrays(bytes_of("coo"))
    contents["row"][70] = 3
    for chunk in (1, 9, 2**20):
        monkeypatch.setattr(blocks, "CHUNK", chunk)
        how, text = outcome(crafted.saved(contents))
        told = "entry 70 is in row 3 by the array row, where the geometry has it in row 11"
        assert (how, told in text) == ("wrong", True)


# --- hostile files ------------------------------------------------------------------------------


@pytest.mark.slow
@every_form
def test_every_flipped_bit_is_malformed(form):
    data = bytearray(bytes_of(form))
    for place in range(0, len(data), 3):
        data[place] ^= 1 << place % 8
        assert outcome(bytes(data))[0] == "MalformedInput", place
        data[place] ^= 1 << place % 8


OPTIONAL = ("kernel_bias", "_is_array")


def names_of(form):
    return [name.removesuffix(".npy") for name in crafted.members(bytes_of(form))]


@pytest.mark.parametrize(
    ("form", "name"),
    [(form, name) for form in FORMS for name in names_of(form) if name not in OPTIONAL],
)
def test_a_missing_member_is_malformed_and_named(form, name):
    how, text = outcome(replaced(bytes_of(form), **{name: None}))
    assert (how, f"no member {name}" in text) == ("MalformedInput", True)


@every_form
@pytest.mark.parametrize("name", ["coords", "offsets", "kernel_index", "blocksize"])
def test_an_unknown_member_is_malformed_and_named(form, name):
    contents = [*crafted.members(bytes_of(form)).items(), (f"{name}.npy", npy(np.ones(1)))]
    how, text = outcome(crafted.zipped(contents))
    assert (how, name in text) == ("MalformedInput", True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "name"),
    [
        (form, name)
        for form in FORMS
        for name in sorted({*names_of(form)} - {"convfc", "format", "shape"})
    ],
)
@pytest.mark.parametrize("shape", [(2**48,), (2**24, 2**24, 1), (2**62,)], ids=str)
def test_petabytes_are_refused_without_memory(form, name, shape):
    data = bytes_of(form)
    descr = crafted.arrays(data)[name].dtype.str
    data = replaced(data, **{name: raw_npy(descr, shape, bytes(64))})
    tracemalloc.start()
    try:
        how, text = outcome(data)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    assert (how, name in text) == ("MalformedInput", True)


@every_form
@pytest.mark.parametrize("name", ["data", "indices", "col"])
@pytest.mark.parametrize("dtype", ["O", "U4", "f2", "c8", ">f4", ">i4", "i2", "?"])
def test_arrays_of_another_dtype_are_refused(form, name, dtype):
    contents = crafted.arrays(bytes_of(form))
    if name not in contents:
        return
    data = replaced(bytes_of(form), **{name: npy(contents[name].astype(dtype))})
    assert outcome(data)[0] in {"MalformedInput", "WrongContents"}


def test_a_bsr_file_of_a_layout_that_has_no_blocks_is_malformed():
    content = crafted.description(bytes_of("bsr"))
    content["layout"]["order"] = "channels-first"
    how, text = outcome(crafted.redescribed(bytes_of("bsr"), content))
    assert how == "MalformedInput"
    assert "channels-first" in text
    assert "\n" not in text


@every_form
def test_scipy_is_given_no_index_that_was_not_looked_at(form, monkeypatch):
    def trap(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(scipy.sparse.csr_array, "__matmul__", trap)
    with pytest.raises(AssertionError):
        outcome(bytes_of(form))
    refused = {"moved", "bit", "weights", "block", "transposed"}
    for name, (change, message) in FAULTS[form].items():
        contents = crafted.arrays(bytes_of(form))
        change(contents)
        if name not in refused and message:
            assert outcome(crafted.saved(contents))[0] in {"wrong", "WrongContents"}


# --- from the command line ----------------------------------------------------------------------


LAYOUT = ("--layout", "channels-last")


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("transpose", [False, True])
def test_convert_and_verify(folder: Path, form, transpose):
    model = net(folder / "m.onnx")
    more = ["--form", form, *LAYOUT, *(["--transpose"] if transpose else [])]
    done = run("convert", model, "-o", "a.npz", *more).succeeded()
    assert done.lines == ["a.npz"]
    asked = ["--json", "--model", model, "--exhaustive", "--against", "reference"]
    (found,) = json.loads(run("verify", "a.npz", *asked).succeeded().out)["matrices"]
    assert (found["verdict"], found["form"]) == ("proven", form)
    held = {finding["check"] for finding in found["report"]["findings"] if finding["holds"]}
    assert held >= {"structure", "entries", "impulses", "integers", "reals", "origin"}
    run("convert", model, "-o", "b.npz", *more[2:]).succeeded()
    ours, csr = scipy.sparse.load_npz("a.npz"), scipy.sparse.load_npz("b.npz")
    assert ours.format == form
    assert (scipy.sparse.csr_matrix(ours) != csr).nnz == 0
    operator, x = load("a.npz"), np.arange(csr.shape[1], dtype=np.float32)
    np.testing.assert_allclose(operator @ x, csr @ x, rtol=1e-4, atol=1e-3)
    by_map = [
        run("map", path, "--output-at", "0,1,1").succeeded().out for path in ("a.npz", "b.npz")
    ]
    assert by_map[0] == by_map[1]


@every_form
def test_what_a_proof_takes_is_planned_as_it_will_be(folder: Path, form, monkeypatch):
    model, asked = net(folder / "m.onnx"), []
    monkeypatch.setattr(plan, "check_size", lambda *sizes: asked.append(sizes))
    monkeypatch.setattr(verify, "check_size", lambda *sizes: asked.append(sizes))
    run("convert", model, "--form", form, *LAYOUT).succeeded()
    assert asked == [(90, 60, 3) if form == "csc" else (60, 90, 3)] * 2


@every_form
def test_a_stream_is_the_file(folder: Path, form):
    model = net(folder / "m.onnx")
    (path,) = run("convert", model, "--form", form, *LAYOUT).succeeded().lines
    streamed = run("convert", model, "-o", "-", "--form", form, *LAYOUT).succeeded()
    assert streamed.raw == Path(path).read_bytes()


@every_form
def test_a_wrong_file_is_exit_code_1_and_a_damaged_one_3(folder: Path, form):
    model = net(folder / "m.onnx")
    run("convert", model, "-o", "a.npz", "--form", form, *LAYOUT).succeeded()
    data = Path("a.npz").read_bytes()
    contents = crafted.arrays(data)
    contents["data"].reshape(-1)[3] += 1
    Path("a.npz").write_bytes(crafted.saved(contents))
    assert run("verify", "a.npz").code == 1
    Path("a.npz").write_bytes(data[:-100])
    assert run("verify", "a.npz").code == 3


def test_what_has_no_such_form_is_a_usage_error_of_one_line(folder: Path):
    model = net(folder / "m.onnx")
    for more, told in (
        (("--form", "bsr"), "--layout channels-last orders them so"),
        (("--form", "bsr", *LAYOUT, "--kernel-index"), "kernel_index"),
        (("--form", "csc", "-o", "a.h5"), "take *.npz"),
        (("--form", "coo", "-o", "a.npy"), "take *.npz"),
    ):
        done = run("convert", model, *more)
        assert done.code == 2
        assert told in done.err
        assert len(done.err.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["m.onnx"]


def test_the_error_of_a_stored_file_is_one_of_ours():
    with pytest.raises(WrongContents):
        KINDS["coo"].open(
            crafted.in_memory(replaced(bytes_of("coo"), row=npy(np.zeros(5, np.int32))))
        )
