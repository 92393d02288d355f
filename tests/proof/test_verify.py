"""What a report says of right files and of wrong ones, and faults on purpose in the code.

A faulty code writes the file and verifies it: what is checked and what checks share no code. The
faults in the file are those of `tests.proof.test_faults`.
"""

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import load_npz

from convfc_cli import direct, rounding, streams, taps, toeplitz
from convfc_cli.errors import Defect, Refused
from convfc_cli.geometry import Axis
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import blocks, registry
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof import check, probes
from convfc_cli.proof.report import Finding, Report
from convfc_cli.rounding import RuntimeResult
from convfc_cli.streams import Repeat
from convfc_cli.taps import IndexMap, RowTaps, Segment
from tests.support import brute, crafted
from tests.support.crafted import CASES, example, failures, label, outcome, rendered, saved, suits
from tests.support.faults import row_of
from tests.support.strategies import SPECIAL, SPECS, problems

NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]

SEEDS = st.integers(0, 2**32)

every_case = pytest.mark.parametrize(("kind", "form"), CASES, ids=label)


# --- weights of any bits -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("value", SPECIAL[np.float32].tolist(), ids=hex)
def test_weights_of_any_bits_are_verified_and_each_of_their_bits_matters(value):
    axis = Axis(inputs=4, outputs=4, kernel=2, stride=1, dilation=1, offset=1)
    kernel = np.full((1, 1, 2), value, np.uint32).view(np.float32)
    contents = crafted.arrays(
        rendered(NPZ, Matrix(Convolution(kernel, IndexMap((1, 1, 2), (axis,)))))
    )
    report = crafted.checked(saved(contents))
    assert failures(report) == []
    for bit in range(32):
        data = contents["data"].copy()
        data.view(np.uint32)[3] ^= np.uint32(1 << bit)
        kind, message = outcome(saved(contents | {"data": data}))
        assert kind == "wrong"
        assert "kernel element (0, 0, 0)" in message


# --- what a finding says ------------------------------------------------------------------------

LINE = Axis(inputs=4, outputs=3, kernel=2, stride=1, dilation=1, offset=0)


def line_file(spec=Spec(), **changes):  # noqa: B008 - frozen
    """[[1 2 . .] [. 1 2 .] [. . 1 2]] with arrays replaced."""
    layer = Convolution(np.array([[[1, 2]]], np.float32), IndexMap((1, 1, 2), (LINE,)))
    contents = crafted.arrays(rendered(NPZ, Matrix(layer, spec)))
    for name, value in changes.items():
        contents[name] = np.array(value, contents[name].dtype)
    return saved(contents)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": [1, 2, 1, 5, 1, 2]},
            "entry (1, 2), output (0, 1) from input (0, 2): kernel element (0, 0, 1), "
            "expected 2.0, found 5.0",
        ),
        (
            {"indices": [0, 1, 1, 3, 2, 3]},
            "entry (1, 2), output (0, 1) from input (0, 2): kernel element (0, 0, 1), "
            "expected 2.0, found nothing",
        ),
        (
            {"indices": [0, 1, 0, 2, 2, 3]},
            "entry (1, 0), output (0, 1) from input (0, 0): a structural zero, "
            "expected nothing, found 1.0",
        ),
        (
            {"indices": [0, 1, 1, 2, 2, 4]},
            "row 2 has column 4, out of range [0, 4)",
        ),
        (
            {"indices": [0, -1, 1, 2, 2, 3]},
            "row 0 has column -1, out of range [0, 4)",
        ),
        (
            {"indices": [0, 1, 2, 1, 2, 3]},
            "row 1 has column 1 after 2: columns must increase strictly",
        ),
        (
            {"indices": [0, 1, 1, 2, 3, 3]},
            "row 2 has column 3 after 3: columns must increase strictly",
        ),
        (
            {"indptr": [0, 2, 3, 6]},
            "row 1 ends at entry 3 by indptr, where the geometry has it end at 4 with 2 entries",
        ),
        ({"indptr": [1, 2, 4, 6]}, "indptr does not begin with 0"),
        ({"bias": [0, 3, 0]}, "bias 1 is 3.0, by the kernel_bias 0.0"),
    ],
)
def test_a_finding_says_where_and_what(changes, message):
    assert outcome(line_file()) == ("ok", "")
    assert outcome(line_file(**changes)) == ("wrong", message)


def test_a_finding_in_a_transposed_layout_names_output_and_input_all_the_same():
    spec = Spec(transpose=True)
    assert outcome(line_file(spec)) == ("ok", "")
    assert outcome(line_file(spec, data=[1, 2, 1, 2, 7, 2])) == (
        "wrong",
        "entry (2, 2), output (0, 2) from input (0, 2): kernel element (0, 0, 0), "
        "expected 1.0, found 7.0",
    )


def place_of(contents, row, column):
    """Where in the data of a file SciPy finds an entry."""
    numbers = np.arange(1, contents["data"].size + 1).reshape(contents["data"].shape)
    numbered = load_npz(io.BytesIO(saved(contents | {"data": numbers})))
    return int(numbered.toarray()[row, column]) - 1


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@every_case
def test_rows_are_told_right_however_the_file_is_cut_into_blocks(
    kind, form, spec, chunk, monkeypatch
):
    if not suits(form, spec):
        pytest.skip("no blocks in this layout")
    for module in (check, blocks):
        assert hasattr(module, "CHUNK")
        monkeypatch.setattr(module, "CHUNK", chunk)
    matrix = example(form, spec)
    data = rendered(kind, matrix)
    assert failures(crafted.verified(kind, matrix, data)) == []
    if form == "operator":
        return
    contents = crafted.arrays(rendered(NPZ, example("csr", spec)))
    row, column = row_of(contents, 50), int(contents["indices"][50])
    if kind.multi_layer:
        place = ("dense", (row, column)) if form == "dense" else ("data", 50)

        def change(file):
            (group,) = file.values()
            group[place[0]][place[1]] = 77

        data = crafted.edited(data, change)
    elif form == "dense":
        dense = np.load(io.BytesIO(data))
        dense[row, column] = 77
        data = crafted.npy(dense)
    elif kind.sidecar(Path("matrix")):
        data = crafted.with_value(kind, spec, data, (row, column), 77)
    else:
        contents = crafted.arrays(data)
        contents["data"].reshape(-1)[place_of(contents, row, column)] = 77
        data = saved(contents)
    report = crafted.verified(kind, matrix, data)
    assert report.complaint.startswith(f"entries: entry ({row}, {column}), output ")
    assert report.complaint.endswith("found 77.0")


# --- the report ---------------------------------------------------------------------------------


@every_case
def test_a_report_is_plain_json_and_says_what_is_trusted(kind, form):
    matrix = example(form)
    report = crafted.verified(kind, matrix, rendered(kind, matrix), seed=5)
    content = json.loads(json.dumps(report.to_json()))
    assert content["ok"] is True
    assert (content["seed"], report.seed) == ("5", 5)  # JSON would round 256 bits
    assert content["shape"] == [12, 48]
    assert content["form"] == form
    held = {finding["check"]: finding["holds"] for finding in content["findings"]}
    assert held.pop("promise", True) is (True if form == "operator" else None)
    assert all(held.values())
    assert any("origin not checked" in line for line in report.trusted)
    assert report.complaint == ""
    assert report.strength == ("digest only" if form == "operator" else "seed given")
    assert content["verdict"] == report.verdict == "consistent"


def test_a_seed_repeats_a_run_and_is_otherwise_new_each_time():
    data = rendered(NPZ, example())
    assert crafted.checked(data, seed=3) == crafted.checked(data, seed=3)
    seeds = {crafted.checked(data).seed for _ in range(4)}
    assert len(seeds) == 4
    assert max(seeds) > 2**64


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_strength_is_that_of_the_probes(count):
    report = crafted.checked(rendered(NPZ, example()), probes=count)
    assert report.strength == f"2^-{32 * count}"
    finding = next(finding for finding in report.findings if finding.check == "entries")
    assert finding.strength == report.strength
    assert f"{count} random probes" in finding.detail
    assert f"2^-{32 * count}" in finding.detail


def test_a_single_probe_already_sees_a_single_bit():
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"].view(np.uint32)[11] ^= np.uint32(1)
    assert not crafted.checked(saved(contents), probes=1).ok


@every_case
def test_progress_tells_of_every_entry(kind, form):
    told = []
    matrix = example(form)
    crafted.verified(kind, matrix, rendered(kind, matrix), progress=told.append)
    assert sum(told) == (0 if form == "operator" else 72 * 8)


def test_a_report_is_ok_unless_something_does_not_hold():
    finding = Finding
    report = partial(Report, "f", "l", (1, 1), 1, "csr", 0, "2^-96")
    assert report((finding("a", True, ""), finding("b", None, "not checked"))).ok
    wrong = report((finding("a", True, ""), finding("b", False, "no"), finding("c", False, "nor")))
    assert not wrong.ok
    assert wrong.complaint == "b: no"
    assert wrong.to_json()["ok"] is False


@every_case
def test_the_verdict_is_proven_only_where_a_probability_stands_behind_it(kind, form):
    matrix = example(form)
    data = rendered(kind, matrix)
    drawn, given_seed = (crafted.verified(kind, matrix, data, seed=seed) for seed in (None, 7))
    assert drawn.verdict == ("consistent" if form == "operator" else "proven")
    assert given_seed.verdict == "consistent"
    if form != "operator":
        detail = next(f.detail for f in given_seed.findings if f.check == "entries")
        assert "2^-" not in detail
        assert "nothing is proven against a crafted file" in detail


def test_the_verdict_on_a_wrong_file_is_wrong_and_in_the_json():
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"][5] += 1
    report = crafted.checked(saved(contents))
    assert report.verdict == report.to_json()["verdict"] == "wrong"


def test_probes_and_seeds_draw_other_numbers_each_time():
    drawn = [
        probes.uniform(seed, probe, (2, 3))
        for seed in (0, 1, 2**128, 2**256 - 1, 2**256, 2**300)
        for probe in (0, 1, 7)
    ]
    assert all((array.shape, array.dtype) == ((2, 3), np.uint64) for array in drawn)
    assert len({array.tobytes() for array in drawn}) == len(drawn)
    assert np.array_equal(probes.uniform(5, 2, (4,)), probes.uniform(5, 2, (4,)))
    many = probes.uniform(9, 0, (2**14,))
    ones = [int(np.count_nonzero(many >> np.uint64(bit) & np.uint64(1))) for bit in range(64)]
    assert 2**13 - 600 < min(ones) <= max(ones) < 2**13 + 600


def test_a_layer_with_more_inputs_than_memory_is_refused_with_both_sizes(monkeypatch):
    data = rendered(NPZ, example())
    needed = 8 * (48 * 5 + 12)
    monkeypatch.setattr(probes, "MAX_BYTES", needed)
    assert crafted.checked(data).ok
    monkeypatch.setattr(probes, "MAX_BYTES", needed + 8 * 48 * 6)
    assert crafted.checked(data, exhaustive=True).ok
    monkeypatch.setattr(probes, "MAX_BYTES", needed + 8 * 48 * 6 - 1)
    with pytest.raises(Refused):
        crafted.checked(data, exhaustive=True)
    monkeypatch.setattr(probes, "MAX_BYTES", needed - 1)
    with pytest.raises(Refused) as error:
        crafted.checked(data)
    assert str(needed) in str(error.value)
    assert str(needed - 1) in str(error.value)
    assert crafted.checked(data, probes=1).ok


# --- the origin ---------------------------------------------------------------------------------


def origin_finding(original):
    """Of the example, held to this layer as if the model had it."""
    original = Matrix(original, origin=example().origin)
    report = crafted.checked(rendered(NPZ, example()), original=original)
    assert not any("origin not checked" in line for line in report.trusted)
    (finding,) = (finding for finding in report.findings if finding.check == "origin")
    assert report.ok == finding.holds
    return finding


def test_the_layer_itself_is_the_origin():
    finding = origin_finding(example().layer)
    assert finding.holds
    assert "bit for bit" in finding.detail


def test_another_kernel_is_not_the_origin_and_the_first_element_is_named():
    layer = example().layer
    kernel = layer.kernel.copy()
    kernel[1, 0, 1, 0] = -0.75
    finding = origin_finding(Convolution(kernel, layer.index_map, layer.bias))
    assert finding.holds is False
    assert "kernel element (1, 0, 1, 0) is 1.375, in the model -0.75" in finding.detail


def test_a_zero_of_another_sign_is_not_the_origin():
    matrix = example()
    kernel = np.zeros_like(matrix.layer.kernel)
    stored = Matrix(Convolution(kernel, matrix.layer.index_map))
    original = Convolution(-kernel, matrix.layer.index_map)
    report = crafted.checked(rendered(NPZ, stored), original=Matrix(original))
    assert "origin: kernel element (0, 0, 0, 0) is 0.0, in the model -0.0" in report.complaint


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda layer: Convolution(layer.kernel, layer.index_map), "bias"),
        (lambda layer: Convolution(layer.kernel, layer.index_map, -layer.bias), "bias"),
        (
            lambda layer: Convolution(
                layer.kernel.astype(np.float64), layer.index_map, layer.bias.astype(np.float64)
            ),
            "float64",
        ),
        (lambda layer: Convolution(layer.kernel, layer.index_map.adjoint()), "geometry"),
        (
            lambda layer: Convolution(
                layer.kernel,
                IndexMap(layer.kernel.shape, layer.index_map.axes[::-1], layer.index_map.groups),
                layer.bias,
            ),
            "geometry",
        ),
    ],
)
def test_a_layer_that_differs_in_anything_is_not_the_origin(change, detail):
    finding = origin_finding(change(example().layer))
    assert finding.holds is False
    assert detail in finding.detail


def test_no_bias_is_the_same_origin_as_a_bias_of_zeros():
    layer = example().layer
    without = Matrix(Convolution(layer.kernel, layer.index_map))
    zeros = Convolution(layer.kernel, layer.index_map, np.zeros(2, np.float32))
    assert crafted.checked(rendered(NPZ, without), original=Matrix(zeros)).ok


def stored_with(origin, dtype=np.float32):
    """A file of the example with another origin."""
    return rendered(NPZ, Matrix(example(dtype=dtype).layer, origin=origin))


@pytest.mark.parametrize(
    "change", [{"layer": "conv/2"}, {"output": "z"}, {"position": 4}, {"op": "ConvTranspose"}]
)
def test_a_file_that_names_another_layer_is_not_of_that_origin(change):
    matrix = example()
    origin = replace(matrix.origin, **change)
    assert crafted.checked(stored_with(matrix.origin), original=matrix).ok
    report = crafted.checked(stored_with(origin), original=matrix)
    assert not report.ok
    assert report.complaint.startswith("origin: the model's layer is not the ")
    assert origin.op in report.complaint
    assert repr(origin.layer) in report.complaint


@pytest.mark.parametrize(
    ("origin", "dtype", "told"),
    [
        ({}, np.float32, "the model's, bit for bit"),
        ({"flipped": True}, np.float32, "the model's, flipped"),
        ({"dtype": "float64"}, np.float32, "the model's, rounded to float32"),
        ({"dtype": "float64"}, np.float64, "the model's, bit for bit"),
        ({"dtype": "float16"}, np.float32, "the model's, bit for bit"),
        (
            {"flipped": True, "dtype": "float64"},
            np.float32,
            "the model's, flipped and rounded to float32",
        ),
    ],
)
def test_an_origin_says_how_the_kernel_was_changed(origin, dtype, told):
    origin = replace(example().origin, **origin)
    matrix = Matrix(example(dtype=dtype).layer, origin=origin)
    report = crafted.checked(stored_with(origin, dtype), original=matrix)
    assert report.ok
    (finding,) = (finding for finding in report.findings if finding.check == "origin")
    assert finding.detail == f"geometry, kernel and bias are {told}"


def test_the_same_layer_of_another_model_file_is_accepted_and_told():
    matrix = example()
    other = replace(matrix, origin=replace(matrix.origin, file="b.onnx", sha256="cd" * 32))
    report = crafted.checked(rendered(NPZ, matrix), original=other)
    assert report.ok
    (finding,) = (finding for finding in report.findings if finding.check == "origin")
    assert "the model file is another" in finding.detail


LISTED = {
    **{"layer": "conv/1", "output": "y;0", "position": 3, "op": "Conv", "form": "csr"},
    **{"shape": [12, 48], "nonzeros": 72, "sha256": "ab" * 32},
}


def test_a_file_that_is_what_its_manifest_lists_is_right():
    report = crafted.checked(rendered(NPZ, example()), listed=LISTED | {"bytes": 1})
    assert report.ok
    assert [f.holds for f in report.findings if f.check == "manifest"] == [True]


@pytest.mark.parametrize("key", LISTED)
@pytest.mark.parametrize("value", [None, "other", 5, [48, 12]])
def test_a_file_that_is_not_what_its_manifest_lists_is_wrong(key, value):
    report = crafted.checked(rendered(NPZ, example()), listed=LISTED | {key: value})
    assert not report.ok
    assert report.complaint.startswith(f"manifest: {key} is ")
    assert str(LISTED[key]) in report.complaint
    assert str(value) in report.complaint


# --- faults in the code -------------------------------------------------------------------------


def taps_off_by_one_in_the_kernel(patch):
    honest = taps.row_taps

    def faulty(axis, row, *, transposed):
        found = honest(axis, row, transposed=transposed)
        kernel = found.kernel
        if not kernel or min(kernel) == 0:
            return found
        return RowTaps(found.columns, range(kernel.start - 1, kernel.stop - 1, kernel.step))

    patch.setattr(taps, "row_taps", faulty)


def a_border_segment_forgotten(patch):
    honest = toeplitz.segments

    def faulty(axis, *, transposed):
        first, second, *others = honest(axis, transposed=transposed)
        return (Segment(0, first.blocks, second.step, second.rows), second, *others)

    patch.setattr(toeplitz, "segments", faulty)


def taps_counted_wrong(patch):
    honest = toeplitz.count_taps
    patch.setattr(toeplitz, "count_taps", lambda axis: honest(axis) - 1)


def toeplitz_ignores_groups(patch):
    patch.setattr(
        toeplitz._Indices,
        "channels",
        lambda self, child, level, found: Repeat(child, self.nest.lanes),
    )


def toeplitz_takes_the_stride_for_1(patch):
    patch.setattr(
        toeplitz._Indices, "step", lambda self, axis, segment, entries: self.nest.strides[axis]
    )


def toeplitz_moves_a_row_too_far(patch):
    patch.setattr(
        toeplitz._Indices,
        "step",
        lambda self, axis, segment, entries: segment.step * self.nest.strides[axis] + 1,
    )


def toeplitz_flips_the_kernel(patch):
    honest = toeplitz._Data.__init__

    def faulty(self, nest, kernel):
        honest(self, nest, kernel[..., ::-1])

    patch.setattr(toeplitz._Data, "__init__", faulty)


def toeplitz_takes_the_channels_in_another_order(patch):
    honest = toeplitz._Data.__init__

    def faulty(self, nest, kernel):
        honest(self, nest, kernel[:, ::-1])

    patch.setattr(toeplitz._Data, "__init__", faulty)


def row_pointers_step_off(patch):
    patch.setattr(toeplitz._Indptr, "step", lambda self, axis, segment, entries: entries + 1)


def streams_step_off_in_doubling(patch):
    def faulty(self, source, target, copies):
        np.add(source, (copies + 1) * self.step, out=target)

    patch.setattr(streams.Repeat, "_copy", faulty)


def streams_forget_the_step(patch):
    patch.setattr(
        streams.Repeat, "_copy", lambda self, source, target, copies: np.copyto(target, source)
    )


def streams_forget_the_shift_of_a_series(patch):
    honest = streams.Series.write

    def faulty(self, out, start, base, lanes):
        kept, self._shifts = self._shifts, None
        honest(self, out, start, base, lanes)
        self._shifts = kept

    patch.setattr(streams.Series, "write", faulty)


def lanes_all_the_first(patch):
    honest = toeplitz._KernelRow.write

    def faulty(self, out, start, base, lanes):
        for lane in range(len(out)):
            honest(self, out[lane : lane + 1], start, base, slice(0, 1))

    patch.setattr(toeplitz._KernelRow, "write", faulty)


def direct_ignores_dilation(patch):
    honest = direct._windows

    def faulty(padded, axes):
        dense = [Axis(a.inputs, a.outputs, a.span, a.stride, 1, a.offset) for a in axes]
        return honest(padded, dense)

    patch.setattr(direct, "_windows", faulty)


def direct_pads_one_further(patch):
    honest_in, honest_out = direct._padded, direct._cropped
    patch.setattr(direct, "_padded", lambda x, axes: np.roll(honest_in(x, axes), 1, axis=-1))
    patch.setattr(direct, "_cropped", lambda x, axes: np.roll(honest_out(x, axes), 1, axis=-1))


def direct_adds_one_element_of_the_kernel_twice(patch):
    honest = direct._steps

    def faulty(kernel, axes, groups):
        first, *others = honest(kernel, axes, groups)
        return [first, *others, first]

    patch.setattr(direct, "_steps", faulty)


def direct_forgets_the_groups(patch):
    honest = direct._contract
    patch.setattr(
        direct, "_contract", lambda weights, read: honest(weights[:1] + 0 * weights, read)
    )


CODE_FAULTS = [
    taps_off_by_one_in_the_kernel,
    a_border_segment_forgotten,
    taps_counted_wrong,
    toeplitz_ignores_groups,
    toeplitz_takes_the_stride_for_1,
    toeplitz_moves_a_row_too_far,
    toeplitz_flips_the_kernel,
    toeplitz_takes_the_channels_in_another_order,
    row_pointers_step_off,
    streams_step_off_in_doubling,
    streams_forget_the_step,
    streams_forget_the_shift_of_a_series,
    lanes_all_the_first,
    direct_ignores_dilation,
    direct_pads_one_further,
    direct_adds_one_element_of_the_kernel_twice,
    direct_forgets_the_groups,
]


def awkward(transposed):
    """Two groups, padding, stride 2 and dilation 2: every one of the faults above must show."""
    axes = (Axis(13, 7, 3, 2, 2, 2), Axis(15, 8, 3, 2, 2, 2))
    kernel = np.arange(1, 1 + 4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    return Convolution(kernel, IndexMap(kernel.shape, axes, 2, transposed))


def without(faults, *unseen):
    """(fault, transposed) for every fault and both kinds of layer, but those where none shows."""
    return [(fault, t) for fault in faults for t in (False, True) if (fault, t) not in unseen]


def named(value):
    return getattr(value, "__name__", {True: "transposed", False: ""}.get(value))


@pytest.mark.parametrize(
    ("fault", "transposed"),
    # A transposed layer's rows move by 1 as they are.
    without(CODE_FAULTS, (toeplitz_takes_the_stride_for_1, True)),
    ids=named,
)
def test_a_fault_in_the_code_that_writes_a_csr_file_is_found(fault, transposed):
    matrix = Matrix(awkward(transposed))
    assert outcome(rendered(NPZ, matrix)) == ("ok", "")
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        try:
            kind, message = outcome(rendered(NPZ, matrix))
        except Defect as error:  # the count is wrong: no file is made
            kind, message = "Defect", str(error)
    assert kind in {"wrong", "WrongContents", "Defect"}
    assert message


# Those that leave the row pointers alone, without which a dense file is not even written.
DENSE_CODE_FAULTS = [
    taps_off_by_one_in_the_kernel,
    toeplitz_ignores_groups,
    toeplitz_takes_the_stride_for_1,
    toeplitz_flips_the_kernel,
    toeplitz_takes_the_channels_in_another_order,
    lanes_all_the_first,
    direct_ignores_dilation,
    direct_pads_one_further,
    direct_adds_one_element_of_the_kernel_twice,
    direct_forgets_the_groups,
]


@pytest.mark.parametrize(
    ("fault", "transposed"),
    without(DENSE_CODE_FAULTS, (toeplitz_takes_the_stride_for_1, True)),
    ids=named,
)
def test_a_fault_in_the_code_that_writes_a_dense_file_is_found(fault, transposed):
    matrix = Matrix(awkward(transposed), Spec(form="dense"))
    assert failures(crafted.verified(NPY, matrix, rendered(NPY, matrix))) == []
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        report = crafted.verified(NPY, matrix, rendered(NPY, matrix))
    assert not report.ok
    assert report.complaint.startswith("entries: ")


# --- the runtime --------------------------------------------------------------------------------

UNIT = 2.0**-24
MOST = float(np.finfo(np.float32).max)


def in_float32(layer, x):
    """The layer as a float32 runtime would run it, in an order of its own."""
    index_map = layer.index_map
    y = layer.bias_tensor().astype(np.float32)
    nonzeros = brute.nonzeros(
        layer.kernel.shape, index_map.axes, index_map.groups, index_map.transposed
    )
    for (output, source), element in reversed(nonzeros.items()):
        y[output] += np.float32(layer.kernel[element]) * np.float32(x[source])
    return y


def normal_layer(problem, seed):
    """The drawn geometry with weights as a trained network has them."""
    random = np.random.default_rng(seed)
    kernel = random.standard_normal(problem.kernel.shape).astype(np.float32)
    bias = random.standard_normal(problem.index_map.output_shape[0]).astype(np.float32)
    layer = Convolution(kernel, problem.index_map, bias)
    return layer, random.standard_normal(layer.input_shape).astype(np.float32)


@given(problems(), SEEDS)
def test_a_runtime_that_computes_the_layer_agrees_with_it(problem, seed):
    layer, x = normal_layer(problem, seed)
    finding = check_runtime(
        layer, RuntimeResult("brute force", x, in_float32(layer, x), UNIT, MOST)
    )
    assert finding.holds is True
    assert (finding.check, "run by brute force" in finding.detail) == ("runtime", True)
    assert "left out" not in finding.detail


@pytest.mark.slow
@given(problems(), SEEDS, st.sampled_from([2.0**-14, -1.0, 1e9, np.nan, np.inf, -np.inf]))
def test_a_runtime_that_is_off_in_one_output_contradicts_the_layer(problem, seed, error):
    layer, x = normal_layer(problem, seed)
    y = in_float32(layer, x)
    place = np.unravel_index(seed % y.size, y.shape)
    scale = np.abs(in_float32(layer, x)[place]) + 1
    worst = np.abs(layer.kernel).sum() * np.abs(x).sum() + 10  # more than any S
    y[place] += np.float32(error * max(scale, worst))
    finding = check_runtime(layer, RuntimeResult("brute force", x, y, UNIT, MOST))
    assert finding.holds is False
    where = tuple(int(i) for i in place)
    assert (
        f"output {where}: the original node, run by brute force, gives {y[place]!s}"
        in finding.detail
    )


@pytest.mark.parametrize("change", ["offset", "flipped", "order", "no bias", "dilation"])
def test_a_layer_that_was_misread_is_contradicted(change):
    axis = Axis(9, 9, 3, 1, 1, 1)
    random = np.random.default_rng(1)
    kernel = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    bias = random.standard_normal(4).astype(np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis, axis)), bias)
    x = random.standard_normal((3, 9, 9)).astype(np.float32)
    result = RuntimeResult("brute force", x, in_float32(layer, x), UNIT, MOST)
    assert check_runtime(layer, result).holds is True
    other_axis = {
        "offset": Axis(9, 9, 3, 1, 1, 0),
        "dilation": Axis(9, 9, 3, 1, 2, 1),
    }.get(change, axis)
    other_kernel = {
        "flipped": kernel[..., ::-1],
        "order": kernel.swapaxes(2, 3),
    }.get(change, kernel)
    index_map = IndexMap(kernel.shape, (axis, other_axis))
    misread = Convolution(other_kernel, index_map, None if change == "no bias" else bias)
    assert check_runtime(misread, result).holds is False


def line_layer(weights, bias=None):
    kernel = np.array([[weights]], np.float32)
    axis = Axis(len(weights), 1, len(weights), 1, 1, 0)
    return Convolution(
        kernel,
        IndexMap(kernel.shape, (axis,)),
        None if bias is None else np.array([bias], np.float32),
    )


def result_of(y, x=(1.0, 1.0), **options):
    return RuntimeResult("it", np.array([x], np.float32), np.array([[y]]), UNIT, MOST, **options)


def test_the_bound_is_that_of_n_additions():
    # n = 2 + 1, S = 2: 3 * 2**-24 * 2 and a little; beyond it is wrong.
    layer = line_layer([1.0, 1.0])
    bound = 3 * 2.0**-24 * 2
    assert check_runtime(layer, result_of(2.0 + 0.99 * bound)).holds is True
    assert check_runtime(layer, result_of(2.0 - 0.99 * bound)).holds is True
    assert check_runtime(layer, result_of(2.0 + 1.01 * bound)).holds is False
    assert "at most 0.99" in check_runtime(layer, result_of(2.0 + 0.99 * bound)).detail


def test_the_bound_is_relative_to_what_is_added_not_to_the_result():
    layer = line_layer([1e6, -1e6])
    assert check_runtime(layer, result_of(0.3)).holds is True
    assert check_runtime(layer, result_of(0.5)).holds is False


def test_slack_is_added_to_the_bound():
    layer = line_layer([1.0, 1.0])
    rough = result_of(2.001, slack=lambda y: 2.0**-10 * np.abs(y))
    assert check_runtime(layer, rough).holds is True
    assert check_runtime(layer, result_of(2.001)).holds is False


def test_the_bias_counts_in_value_and_in_the_bound():
    layer = line_layer([1.0, 1.0], bias=1000.0)
    assert check_runtime(layer, result_of(1002.0)).holds is True
    assert check_runtime(layer, result_of(2.0)).holds is False
    assert check_runtime(layer, result_of(1002.0 + 150 * 2.0**-24)).holds is True


def test_another_output_shape_contradicts_the_layer_and_both_are_named():
    layer = line_layer([1.0, 1.0])
    result = RuntimeResult("it", np.ones((1, 2), np.float32), np.zeros((1, 2)), UNIT, MOST)
    finding = check_runtime(layer, result)
    assert finding.holds is False
    assert "(1, 2)" in finding.detail
    assert "(1, 1)" in finding.detail


def test_an_output_of_non_finite_weights_is_left_out_and_counted():
    axis = Axis(2, 2, 1, 1, 1, 0)
    kernel = np.array([[[np.nan]], [[1.0]]], np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis,)))
    x = np.ones((1, 2), np.float32)
    right = RuntimeResult("it", x, np.array([[np.nan, np.nan], [1, 1]]), UNIT, MOST)
    finding = check_runtime(layer, right)
    assert finding.holds is True
    assert "2 outputs left out, not finite" in finding.detail
    wrong = RuntimeResult("it", x, np.array([[np.nan, np.nan], [1, 2]]), UNIT, MOST)
    assert check_runtime(layer, wrong).holds is False


def test_a_sum_beyond_what_float32_holds_is_left_out_not_wrong():
    layer = line_layer([3e38, 3e38])
    with np.errstate(over="ignore"):
        y = np.float32(3e38) + np.float32(3e38)
    assert np.isinf(y)
    finding = check_runtime(layer, result_of(y))
    assert finding.holds is None  # of the one output, nothing can be said
    assert "no output could be compared: all 1 overflow or are not finite" in finding.detail
    assert check_runtime(line_layer([1e38, 1e38]), result_of(y)).holds is False


def test_a_result_larger_than_a_slab_is_held_to_every_output(monkeypatch):
    monkeypatch.setattr(rounding, "CHUNK", 16)
    axis = Axis(9, 9, 3, 1, 1, 1)
    kernel = np.ones((4, 1, 3), np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis,)))
    x = np.arange(9, dtype=np.float32)[None]
    y = in_float32(layer, x)
    assert check_runtime(layer, RuntimeResult("it", x, y, UNIT, MOST)).holds is True
    for place in np.ndindex(y.shape):
        wrong = y.copy()
        wrong[place] += 1
        finding = check_runtime(layer, RuntimeResult("it", x, wrong, UNIT, MOST))
        assert finding.holds is False
        assert f"output {place}: " in finding.detail


def test_verify_leaves_the_name_of_the_file_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = crafted.written(NPZ, example(), tmp_path)
    report = crafted.checked(path.relative_to(tmp_path))
    assert (report.file, report.layer) == ("matrix.npz", "conv/1")
