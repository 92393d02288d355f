"""Thousands of faults in files of every kind, each seen; thousands of right files, none accused.

A faulty file is written anew by numpy or h5py, so that nothing but its contents is wrong: every
checksum is right. Layers are drawn by numpy: `CONVFC_FAULTS_SEED` draws others. The figures are
counted from what has run and printed at the end of the run (`conftest`).
"""

import io
import os
import tracemalloc
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import scipy.sparse
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import _sparsetools

from convfc_cli import direct
from convfc_cli.errors import ConvfcError, MalformedInput, WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Origin, Spec, describe
from convfc_cli.proof.verify import verify
from convfc_cli.taps import IndexMap
from convfc_cli.vocabulary import NUMBERED
from tests.support import brute, crafted, faults
from tests.support.crafted import File, example, rendered, suits, usual_layout
from tests.support.faults import FAULTS, NOTHING, VERIFIED, Figures
from tests.support.strategies import DTYPES, SPECS, STYLES, kernel_of, problems, specs

pytestmark = pytest.mark.usefixtures("in_place")

NPZ, NPY, HDF5 = (registry.formats()[name] for name in ("npz", "npy", "hdf5"))

SEED = int(os.environ.get("CONVFC_FAULTS_SEED", "0"))

SHARDS = 24
"""Parts of the faults, and of the right files: tests of their own, for xdist."""

FEWEST_FAULTS = 10_000
FEWEST_GEOMETRIES = 200
FEWEST_RIGHT = 10_000

GEOMETRIES = 240
IN_EACH_FILE = {faults.PROOF: 12, faults.DIGEST: 3, faults.SCHEMA: 4}
"""Faults of each sort in each file; of those that `verify` alone does not see, one."""

LAYERS = 53
"""Layers in each part of the right files, each in all kinds, forms and layouts."""

CASES = [(kind, form) for kind, form in crafted.CASES if kind.name not in (*crafted.TEXT, "mat")]
"""Those whose arrays `File` writes anew; the faults of text and of .mat are in tests of theirs."""

FILES = [
    (kind, form, numbered)
    for kind, form in CASES
    for numbered in ((False, True) if form in NUMBERED else (False,))
]
"""(kind, form, whether with kernel_index)"""


# --- what is drawn ------------------------------------------------------------------------------


def drawn_axis(random, size, taps):
    """Half as a framework makes them, half any six numbers at all."""
    inputs, kernel = int(random.integers(1, size + 1)), int(random.integers(1, taps + 1))
    stride, dilation = int(random.integers(1, 5)), int(random.integers(1, 4))
    reach = dilation * (kernel - 1) + 1
    if random.integers(2):
        low, high = random.integers(0, reach + 1, 2).tolist()
        outputs = (inputs + low + high - reach) // stride + 1
        if 1 <= outputs <= size:
            return Axis(inputs, outputs, kernel, stride, dilation, low)
    outputs, offset = random.integers(1, size + 1), random.integers(-size, reach + 3)
    return Axis(inputs, int(outputs), kernel, stride, dilation, int(offset))


def drawn_geometry(random):
    """A convolution or a transposed one, in one to three dimensions, with groups."""
    ndim = int(random.choice([1, 2, 2, 3]))
    size, taps = {1: (7, 4), 2: (5, 3), 3: (3, 2)}[ndim]
    axes = tuple(drawn_axis(random, size, taps) for _ in range(ndim))
    groups = int(random.integers(1, 4))
    near, depth = random.integers(1, 4 if ndim == 1 else 3, 2).tolist()
    shape = (near * groups, depth, *(axis.kernel for axis in axes))
    return IndexMap(shape, axes, groups, bool(random.integers(2)))


@cache
def geometries():
    """As many different ones."""
    random, found = np.random.default_rng(SEED), {}
    while len(found) < GEOMETRIES:
        geometry = drawn_geometry(random)
        found[repr(geometry)] = geometry
    return list(found.values())


def drawn_layer(random, geometry, number):
    """Weights of every style and dtype in turn, with a bias or without."""
    style, dtype = STYLES[number % len(STYLES)], DTYPES[number // len(STYLES) % len(DTYPES)]
    seed = int(random.integers(2**32))
    bias = None
    if random.integers(4):
        bias = kernel_of((geometry.output_shape[0],), dtype, style, seed + 1)
    return Convolution(kernel_of(geometry.kernel_shape, dtype, style, seed), geometry, bias)


def drawn_origin(random):
    position = int(random.integers(1000))
    return Origin("model.onnx", "ab" * 32, f"conv/{position}", "y;0", position, "Conv", "float32")


def drawn_spec(random, form):
    """One in which every layer can have the form."""
    suited = [spec for spec in SPECS if suits(form, spec)]
    return suited[random.integers(len(suited))]


def listing(matrix):
    """What a manifest says of a matrix."""
    names = ("layer", "output", "position", "op", "sha256")
    known = {name: getattr(matrix.origin, name) for name in names}
    return {**known, "form": matrix.form, "shape": list(matrix.shape), "nonzeros": nonzeros(matrix)}


def nonzeros(matrix):
    index_map = matrix.layer.index_map
    counts = [len(brute.axis_taps(axis)) for axis in index_map.axes]
    return int(np.prod([*index_map.kernel_shape[:2], *counts]))


# --- how a file fares ---------------------------------------------------------------------------


def verdict(file, contents, **options):
    """What does not hold, by names, and the message; or what was raised."""
    try:
        report = verify(file.opened(file.written(contents)), **options)
    except (
        Exception
    ) as error:  # also what is not an error of ours: it must not be taken for a finding
        return {raised(type(error))}, str(error)
    if "original" not in options:
        assert any("origin not checked" in line for line in report.trusted)
    return {found.check for found in report.findings if found.holds is False}, report.complaint


def raised(kind):
    return f"raised {kind.__name__}"


def is_seen(covered, wrong):
    """Whether a file alone is refused for the reason that there is."""
    found = bool(wrong) and not any(name.startswith("raised") for name in wrong)
    if covered == faults.DIGEST:
        return "digest" in wrong or wrong == {raised(WrongContents)}
    errors = (WrongContents,) if covered == faults.PROOF else (WrongContents, MalformedInput)
    return (found and "digest" not in wrong) or wrong in [{raised(kind)} for kind in errors]


def complaint_about(file, contents, covered):
    """Nothing where a fault is seen by what it is said to be covered by, and by nothing else."""
    wrong, message = verdict(file, contents)
    if covered in VERIFIED:
        return "" if is_seen(covered, wrong) else f"{wrong or 'ok'} {message}"
    beside, _ = verdict(file, contents, original=file.matrix, listed=listing(file.matrix))
    expected = {
        faults.MODEL: {"origin"} | (beside & {"manifest"}),
        faults.MANIFEST: {"manifest"},
        faults.EITHER: {"origin", "manifest"},
        NOTHING: set(),
    }
    right = not wrong and beside == expected[covered]
    return "" if right else f"{wrong or 'ok'} {message}, beside model and manifest {beside}"


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_fault_is_seen(shard, record_property):
    figures, missed = Figures(), []
    for number in range(shard, GEOMETRIES, SHARDS):
        random = np.random.default_rng((SEED, number))
        layer = drawn_layer(random, geometries()[number], number)
        figures.geometries.add(repr(layer.index_map))
        for kind, form, numbered in files_in_turn(number):
            spec = replace(drawn_spec(random, form), form=form, kernel_index=numbered)
            file = File.of(kind, Matrix(layer, spec, drawn_origin(random)))
            where = f"seed {SEED}, layer {number}, {kind.name} {spec}, {told(layer)}"
            wrong, message = verdict(file, file.contents)
            figures.count_right(not wrong)
            assert not wrong, f"{message}: a right file, {where}"
            for fault, changed in drawn_faults(random, file):
                covered = fault.covered[form]
                complaint = complaint_about(file, changed, covered)
                figures.count_fault(f"{kind.name} {form}", covered, not complaint)
                if complaint:
                    missed.append(f"{fault.name} ({covered}): {complaint}: {where}")
    record_property(*figures.to_property())
    assert not missed, first_of(missed)
    assert figures.caught() >= FEWEST_FAULTS / SHARDS
    assert len(figures.geometries) >= FEWEST_GEOMETRIES / SHARDS


def files_in_turn(number):
    """Three of all, one of them of a kind that is slower to make."""
    slow = [file for file in FILES if file[0].multi_layer]
    fast = [file for file in FILES if not file[0].multi_layer]
    turn = number + number // SHARDS
    return [slow[turn % len(slow)], fast[turn % len(fast)], fast[(turn + 1) % len(fast)]]


def drawn_faults(random, file):
    """Some faults that have a place in a file, with its contents changed by each."""
    left, form = IN_EACH_FILE | {"": 1}, file.matrix.form
    for name in random.permutation(sorted(FAULTS)).tolist():
        fault = FAULTS[name]
        if form not in fault.covered:
            continue
        sort = fault.covered[form] if fault.covered[form] in VERIFIED else ""
        changed = faults.applied(fault.change, file.contents, random) if left[sort] else None
        if changed is not None:
            left[sort] -= 1
            yield fault, changed


def first_of(complaints):
    return "\n".join([f"{len(complaints)} in all", *complaints[:5]])


def told(layer):
    bias = "no bias" if layer.bias is None else f"bias {layer.bias!r}"
    return f"{layer.index_map!r}, {layer.kernel!r}, {bias}"


# --- right files --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_right_file_is_accused(shard, record_property):
    figures, accused = Figures(), []
    for number in range(LAYERS):
        random = np.random.default_rng((SEED, shard, number))
        layer = drawn_layer(random, drawn_geometry(random), number)
        for matrix, stored in right_files(random, layer):
            report = verify(stored)
            figures.count_right(report.ok)
            if not report.ok:
                where = f"seed {SEED}, part {shard}, layer {number}, {matrix.spec}, {told(layer)}"
                accused.append(f"{report.complaint}: {where}")
    record_property(*figures.to_property())
    assert not accused, first_of(accused)
    assert figures.right >= FEWEST_RIGHT / SHARDS


def right_files(random, layer):
    """The layer in every kind and form, in some layout, as rendered or written anew."""
    by_kind = {}
    for position, (kind, form, numbered) in enumerate(FILES):
        spec = replace(drawn_spec(random, form), form=form, kernel_index=numbered)
        origin = replace(drawn_origin(random), position=position)
        by_kind.setdefault(kind, []).append(Matrix(layer, spec, origin))
    for kind, matrices in by_kind.items():
        if kind.multi_layer:
            data = rendered_together(kind, matrices)
            if random.integers(12) == 0:
                options = [{}, {"chunks": True}, {"compression": "gzip", "shuffle": True}]
                data = crafted.copied(data, **options[random.integers(len(options))])
            yield from zip(matrices, kind.open(crafted.in_memory(data)), strict=True)
            continue
        for matrix in matrices:
            data = rendered(kind, matrix)
            if random.integers(2):
                data = rewritten(random, kind, data)
            beside = crafted.beside(kind, matrix)
            yield matrix, kind.open(crafted.in_memory(data), beside)[0]


def rendered_together(kind, matrices):
    out = io.BytesIO()
    kind.write(matrices, out, lambda done: None)
    return out.getvalue()


def rewritten(random, kind, data):
    """The file as numpy or zipfile writes it, its members in any order, its numbers wide or not."""
    if data.startswith(b"\x93NUMPY"):
        return crafted.npy(np.load(io.BytesIO(data)))
    if random.integers(2):
        members = list(crafted.members(data).items())
        return crafted.zipped([members[place] for place in random.permutation(len(members))])
    contents = crafted.arrays(data)
    for name in ("indices", "indptr", "kernel_index"):
        if name in contents and random.integers(2):
            contents[name] = contents[name].astype(np.int64)
    return crafted.saved(contents)


# --- each of the faults -------------------------------------------------------------------------


def known_layers():
    """Layers in which every fault has a place, one after another."""
    axes = (Axis(3, 2, 2, 2, 1, 1), Axis(4, 3, 2, 1, 1, 0))
    kernel = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2) % 3
    bias = np.array([0.5, -2], np.float32)
    yield Convolution(kernel, IndexMap(kernel.shape, axes, groups=2), bias)
    square = (Axis(3, 3, 2, 1, 1, 1),) * 2
    yield Convolution(kernel, IndexMap(kernel.shape, square), bias)
    unread = (Axis(1, 1, 3, 2, 2, 0), Axis(1, 1, 1, 1, 1, 0))
    kernel = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3, 1)
    yield Convolution(kernel, IndexMap(kernel.shape, unread), bias)
    kernel = np.ones((1, 1, 1), np.float32)
    yield Convolution(kernel, IndexMap(kernel.shape, (Axis(2, 2, 1, 1, 1, 0),)))
    alike = (Axis(1, 1, 1, 2, 1, 0), Axis(1, 1, 1, 1, 1, 0))
    yield Convolution(kernel[..., None], IndexMap((1, 1, 1, 1), alike))
    nothing = (Axis(2, 2, 1, 1, 1, 2), Axis(2, 2, 1, 1, 1, 2))
    kernel = np.ones((2, 1, 1, 1), np.float32)
    yield Convolution(kernel, IndexMap(kernel.shape, nothing))


@cache
def known_files():
    """These layers in every kind and form, in two layouts, of a kind and form one after another."""
    found = {}
    both = (Spec(), Spec(Layout("channels-last"), transpose=True))
    for layer, spec in product(known_layers(), both):
        for kind, form, numbered in FILES:
            if not suits(form, spec):
                spec = Spec(usual_layout(form))
            spec = replace(spec, form=form, kernel_index=numbered)
            matrix = Matrix(layer, spec, example().origin)
            found.setdefault((kind, form, numbered), []).append(File.of(kind, matrix))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)
def test_a_fault_has_a_place_in_every_form_and_is_seen_as_it_says(fault):
    random, placed = np.random.default_rng(SEED), set()
    for (kind, form, _), files in known_files().items():
        if form not in fault.covered:
            continue
        found = ((file, faults.applied(fault.change, file.contents, random)) for file in files)
        for file, changed in found:
            if changed is not None:
                placed.add(form)
                assert not complaint_about(file, changed, fault.covered[form]), (kind.name, form)
                break
    assert placed == set(fault.covered)


def test_what_nothing_shows_is_known():
    """What these change is not part of the matrix: who wrote it, and how a vector is read."""
    unseen = {name for name, fault in FAULTS.items() if NOTHING in fault.covered.values()}
    assert unseen == {
        *("the_version", "the_origins_file", "the_origins_file_absent"),
        *("another_order_in_the_metadata", "another_order_that_makes_the_same_matrix"),
        "the_other_orientation_of_a_square_in_the_metadata",
        "the_other_orientation_of_a_square_that_makes_the_same_matrix",
    }


# --- what hypothesis draws, to show the smallest layer that fails -------------------------------

some_examples = settings(max_examples=max(20, settings().max_examples // 4))

OF_ENTRIES = [
    pytest.param(kind, form, fault, id=f"{form}-{fault.name}")
    for kind, form in ((NPZ, "csr"), (NPY, "dense"))
    for fault in FAULTS.values()
    if fault.covered.get(form) == faults.PROOF and fault.change.__name__ == fault.name
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "form", "fault"), OF_ENTRIES)
@some_examples
@given(
    problem=problems(),
    zeros=problems(("integers", "special", "zeros")),
    spec=specs(),
    seed=st.integers(0, 2**32),
)
def test_a_fault_in_the_entries_is_found(kind, form, fault, problem, zeros, spec, seed):
    drawn = zeros if "zero" in fault.name else problem
    for layer in (drawn.layer, *known_layers()):
        file = File.of(kind, Matrix(layer, replace(spec, form=form, kernel_index=form == "csr")))
        changed = faults.applied(fault.change, file.contents, np.random.default_rng(seed))
        if changed is not None:
            break
    assume(changed is not None)
    wrong, message = verdict(file, changed)
    assert is_seen(faults.PROOF, wrong)
    assert message
    if form == "dense" and fits(file, changed):
        assert "entry (" in message


def fits(file, contents):
    """Whether a dense file is of its own shape, and of the dtype of its kernel."""
    dense = contents["dense"]
    return (dense.shape, dense.dtype) == (file.matrix.shape, contents["kernel"].dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "form", "numbered"), FILES)
@given(problem=problems(), spec=specs())
def test_a_file_written_anew_without_a_fault_never_fails(kind, form, numbered, problem, spec):
    assume(suits(form, spec))
    file = File.of(kind, Matrix(problem.layer, replace(spec, form=form, kernel_index=numbered)))
    assert verdict(file, file.contents) == (set(), "")


# --- crafted files, refused before any arithmetic -----------------------------------------------

MOST_MEMORY = 2**21


class Multiplied(Exception):
    """A product was made that must not be."""


def trap(*arguments, **options):
    raise Multiplied


@pytest.fixture
def no_products(monkeypatch):
    """No sparse product can be made."""
    for name in ("__matmul__", "dot"):
        monkeypatch.setattr(scipy.sparse.csr_array, name, trap)
    for name in ("csr_matvec", "csr_matvecs"):
        monkeypatch.setattr(_sparsetools, name, trap)
    with pytest.raises(Multiplied):
        crafted.checked(rendered(NPZ, example()))


@pytest.fixture
def no_oracle(no_products, monkeypatch):
    """Nor can the layer be applied."""
    for name in ("convolve", "convolve_transposed"):
        monkeypatch.setattr(direct, name, trap)
    with pytest.raises(Multiplied):
        crafted.checked(rendered(NPZ, example()))


def refusal(file, files):
    """What is wrong with a file, and why; it must not take much memory to say so."""
    tracemalloc.start()
    try:
        try:
            report = verify(file.opened(files))
        except ConvfcError as error:
            return type(error).__name__, str(error)
        return "ok" if report.ok else "wrong", report.complaint
    finally:
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        tracemalloc.stop()


def a_row_of_a_million_entries(contents, random):
    extra = 10**6
    contents["indptr"][5:] += extra
    start, columns = contents["indptr"][4], contents["shape"][1]
    for name, values in (("indices", np.arange(extra) % columns), ("data", np.zeros(extra))):
        whole = np.insert(contents[name], start, values.astype(contents[name].dtype))
        contents[name] = whole
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NPZ, HDF5], ids=crafted.label)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (faults.an_entry_stored_twice, "has shape"),
        (faults.an_entry_stored_twice_with_bits_that_add_up, "has shape"),
        (faults.a_column_stored_twice_in_place_of_its_neighbor, "must increase strictly"),
        (faults.two_columns_exchanged_with_their_weights, "must increase strictly"),
        (faults.a_column_beyond_the_last, "out of range [0, 48)"),
        (faults.a_negative_column, "out of range [0, 48)"),
        (faults.a_column_that_is_right_modulo_2_to_the_32, "out of range [0, 48)"),
        (faults.a_row_that_takes_all_entries, "by indptr"),
        (faults.a_row_pointer_that_is_right_modulo_2_to_the_32, "indptr"),
        (a_row_of_a_million_entries, "has shape"),
    ],
)
def test_crafted_rows_are_refused_before_any_product(kind, change, message, no_products):
    file = File.of(kind, example())
    drawn = [
        faults.applied(change, file.contents, np.random.default_rng(seed)) for seed in range(8)
    ]
    assert any(drawn)
    for changed in filter(None, drawn):
        how, why = refusal(file, file.written(changed))
        assert how in {"wrong", "WrongContents"}
        assert message in why


def vast(form="csr", spec=Spec(), *, transposed=False):  # noqa: B008 - frozen
    """One output that reads one of 2**62 inputs; or 2**62 outputs, one of which reads the input."""
    axes = (Axis(2**31, 1, 1, 1, 1, 0),) * 2
    kernel = np.ones((1, 1, 1, 1), np.float32)
    layer = Convolution(kernel, IndexMap((1, 1, 1, 1), axes, 1, transposed))
    return Matrix(layer, replace(spec, form=form), example().origin)


VAST = {
    "inputs": (Spec(), False),
    "rows": (Spec(transpose=True), False),
    "outputs": (Spec(), True),
}


def vast_cases():
    """Every kind, form and side."""
    for (kind, form), side in product(CASES, VAST):
        yield pytest.param(kind, form, *VAST[side], id=f"{kind.name}-{form}-{side}")


@pytest.mark.parametrize(("kind", "form", "spec", "transposed"), list(vast_cases()))
def test_2_to_the_62_inputs_or_rows_are_refused_without_memory(
    kind, form, spec, transposed, no_oracle
):
    if not suits(form, spec):
        spec = replace(spec, layout=usual_layout(form))
    file, matrix = File.of(kind, example(form)), vast(form, spec, transposed=transposed)
    operator = replace(matrix, spec=replace(spec, form="operator"))
    contents = {name: array.copy() for name, array in file.contents.items()}
    contents["convfc"] = np.array(describe(operator if kind is NPY else matrix))
    contents["kernel"] = matrix.layer.kernel
    del contents["kernel_bias"]
    if form == "csr":
        contents["shape"] = np.array(matrix.shape)
        contents["indptr"], contents["indices"] = np.array([0, 1]), np.array([0])
        contents["data"], contents["bias"] = np.ones(1, np.float32), np.zeros(1, np.float32)
    how, why = refusal(file, file.written(contents))
    if form == "operator":
        assert (how, why) == ("ok", "")
    else:
        fits = form == "csr" and matrix.shape[0] == 1
        assert how in ({"Refused"} if fits else {"wrong", "WrongContents", "Refused"})
        assert str(2**62)[:-1] in why


@pytest.mark.parametrize("name", ["kernel", "kernel_bias", "bias", "indptr", "indices", "data"])
@pytest.mark.parametrize("shape", [(2**48,), (2**24, 2**24), (2**62,)], ids=str)
def test_an_npz_that_declares_petabytes_is_refused_without_memory(name, shape, no_oracle):
    file = File.of(NPZ, example())
    descr = "<i4" if name.startswith("ind") else "<f4"
    data = crafted.replaced(file.data, **{name: crafted.raw_npy(descr, shape, bytes(64))})
    how, why = refusal(file, [data])
    assert how == "MalformedInput"
    assert name in why


@pytest.mark.parametrize("shape", [(12, 2**48), (2**24, 2**24), (2**62, 1), (1, 2**62)], ids=str)
def test_an_npy_that_declares_petabytes_is_refused_without_memory(shape, no_oracle):
    file = File.of(NPY, example("dense"))
    for matrix in (file.matrix, vast("operator"), vast("operator", Spec(transpose=True))):
        beside = rendered(NPZ, replace(matrix, spec=replace(matrix.spec, form="operator")))
        how, why = refusal(file, [crafted.raw_npy("<f4", shape, bytes(2304)), beside])
        assert how == "MalformedInput"
        assert "header" in why or "shape" in why


@pytest.mark.parametrize("name", ["kernel", "kernel_bias", "bias", "indptr", "indices", "data"])
def test_an_hdf5_that_declares_petabytes_is_refused_without_memory(name, no_oracle):
    file = File.of(HDF5, example())

    def declare(opened):
        (group,) = opened.values()
        dtype = group[name].dtype
        for known in (name, crafted.LINKS.get(name, name)):
            if known in group:
                del group[known]
        group.create_dataset(name, (2**48,), dtype, chunks=(2**10,))
        if name in crafted.LINKS:
            group[crafted.LINKS[name]] = group[name]

    how, why = refusal(file, [crafted.edited(file.data, declare)])
    assert how in {"wrong", "Refused", "MalformedInput"}
    assert name in why


# --- the figures --------------------------------------------------------------------------------


def test_figures_are_added_up_from_all_parts_of_a_run():
    one, other = Figures(), Figures()
    for figures, geometry in ((one, "a"), (other, "a"), (other, "b")):
        figures.geometries.add(geometry)
        figures.count_right(True)
        figures.count_fault("npz csr", faults.PROOF, True)
        figures.count_fault(f"npy {geometry}", faults.SCHEMA, geometry == "a")
        figures.count_fault("npz csr", faults.MODEL, True)
    other.count_right(False)
    other.count_fault("npz csr", NOTHING, True)
    properties = [one.to_property(), ("another", "5"), other.to_property()]
    assert str(Figures.of(properties)).splitlines() == [
        "faults: 5 of 6 caught, over 2 geometries and 3 forms of file (proof 3, digest 0, schema "
        "2); 3 that only --model or the manifest shows, 1 that nothing shows",
        "false alarms: 1 of 4 untouched matrices",
    ]
    assert Figures.of([("another", "5")]) == Figures()
