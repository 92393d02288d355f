"""What a report says of right files and of wrong ones, and what is asked of a proof."""

import io
import json
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import load_npz

from convfc_cli.errors import Defect, Refused
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import blocks, registry
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof import check, probes, verify
from convfc_cli.proof.report import Finding, Report
from convfc_cli.proof.verify import Proof
from convfc_cli.taps import IndexMap
from tests.support import crafted
from tests.support.crafted import CASES, example, failures, label, outcome, rendered, saved, suits
from tests.support.faults import row_of
from tests.support.strategies import SPECIAL, SPECS

NPZ = registry.formats()["npz"]

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
    assert report.ok
    assert (content["report"]["seed"], report.seed) == ("5", 5)  # JSON would round 256 bits
    assert content["shape"] == [12, 48]
    assert content["form"] == form
    held = {finding["check"]: finding["holds"] for finding in content["report"]["findings"]}
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
    assert wrong.to_json()["verdict"] == "wrong"


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


# --- what is asked of a proof, and what it costs --------------------------------------------------


def test_verify_leaves_the_name_of_the_file_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = crafted.written(NPZ, example(), tmp_path)
    report = crafted.checked(path.relative_to(tmp_path))
    assert (report.file, report.layer) == ("matrix.npz", "conv/1")


def test_the_most_probes_and_the_seed_0_can_be_asked_for():
    assert Proof(probes=8).strength == "2^-256"
    assert Proof(probes=1).strength == "2^-32"
    assert Proof(seed=0).strength == "seed given"


def test_nothing_more_is_asked_than_the_probes_by_default():
    assert (Proof().probes, Proof().exhaustive, Proof().against) == (3, False, None)
    assert Proof().strength == "2^-96"


def test_each_check_is_charged_with_its_own_steps_and_the_report_with_all(monkeypatch):
    ticks = count(-100)  # where a clock begins says nothing
    monkeypatch.setattr(verify, "perf_counter", lambda: float(next(ticks)))
    report = crafted.checked(rendered(NPZ, example()))
    cost = {finding.check: finding.seconds for finding in report.findings}
    # In one slab and one block: expect, hold, finding, each from one tick to the next; and before
    # them the random inputs.
    assert cost == {"digest": None, "bias": None, "structure": 3, "entries": 4}
    assert 6 < report.seconds < next(ticks) + 100


def test_a_seed_that_is_drawn_has_the_256_bits_that_8_probes_promise(monkeypatch):
    monkeypatch.setattr(verify.secrets, "randbits", lambda bits: bits)
    report = crafted.checked(rendered(NPZ, example()), probes=8)
    assert (report.seed, report.strength) == (256, "2^-256")


def rows_at_a_time(layer, monkeypatch):
    """What `verify` asks the layer for, in rows."""
    asked = []
    honest = Convolution.slabs

    def watched(self, layout, most):
        asked.append(most)
        return honest(self, layout, most)

    monkeypatch.setattr(Convolution, "slabs", watched)
    assert crafted.checked(rendered(NPZ, Matrix(layer))).ok
    return set(asked)


@pytest.mark.parametrize(("chunk", "rows"), [(1, 1), (6, 1), (60, 10), (65, 10)])
def test_a_slab_has_as_many_rows_as_a_chunk_has_room_for(chunk, rows, monkeypatch):
    monkeypatch.setattr(check, "CHUNK", chunk)
    assert rows_at_a_time(example().layer, monkeypatch) == {rows}  # 72 nonzeros in 12 rows


def test_where_most_rows_are_empty_a_slab_has_no_more_of_them_than_a_chunk(monkeypatch):
    monkeypatch.setattr(check, "CHUNK", 4)
    far = Convolution(
        np.ones((1, 1, 1), np.float32), IndexMap((1, 1, 1), (Axis(1, 9, 1, 1, 1, 0),))
    )
    assert rows_at_a_time(far, monkeypatch) == {4}


@pytest.mark.parametrize("seen", [0, 1, 11])
def test_rows_that_nobody_looked_at_are_a_defect_not_a_proof(seen, monkeypatch):
    data, honest = rendered(NPZ, example()), Convolution.slabs
    monkeypatch.setattr(check, "CHUNK", 1)
    monkeypatch.setattr(
        Convolution, "slabs", lambda self, layout, most: list(honest(self, layout, most))[:seen]
    )
    with pytest.raises(Defect, match=f"^{seen} of 12 rows were looked at$"):
        crafted.checked(data)
