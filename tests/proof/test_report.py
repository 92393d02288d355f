"""The report of a proof, by the API and by the command: strength, cost, and what was not done."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convfc_cli.errors import UsageError
from convfc_cli.matrices import registry
from convfc_cli.proof import impulses
from convfc_cli.proof.check import shown
from convfc_cli.proof.impulses import Impulses
from convfc_cli.proof.report import WrongEntry
from convfc_cli.proof.verify import Proof
from convfc_cli.runtimes import onnxruntime
from tests.support import crafted
from tests.support.cli_models import net, run
from tests.support.crafted import example, rendered, saved
from tests.support.levels import findings

NPZ = registry.formats()["npz"]


def test_what_is_not_asked_for_is_not_done():
    assert (
        not {"impulses", "integers", "reals"}
        & findings(crafted.checked(rendered(NPZ, example()))).keys()
    )


def test_an_exhaustive_check_proves_even_with_a_seed_that_is_known():
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True, seed=1)
    assert (report.strength, report.verdict) == ("every entry", "proven")
    assert findings(report)["impulses"].strength == "every entry"


def test_what_is_proven_is_as_strong_as_the_weakest_of_what_is_stored():
    data = rendered(NPZ, example(kernel_index=True))  # the impulses say nothing of kernel_index
    assert crafted.checked(data, exhaustive=True).strength == "2^-96"
    report = crafted.checked(data, exhaustive=True, seed=1)
    assert (report.strength, report.verdict) == ("seed given", "consistent")


def test_what_was_found_before_something_wrong_stays_in_the_report():
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"][5] += 1
    report = crafted.checked(saved(contents), exhaustive=True)
    assert [finding.check for finding in report.findings] == ["digest", "bias", "entries"]
    assert (report.strength, report.verdict) == ("2^-96", "wrong")


def test_the_cost_of_getting_ready_is_a_checks_own():
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True, against="reference")
    told = findings(report)
    for name in ("structure", "entries", "impulses", "integers", "reals"):
        assert 0 < told[name].seconds <= report.seconds
    assert sum(finding.seconds or 0 for finding in told.values()) <= report.seconds


def test_an_exhaustive_check_that_could_not_be_done_proves_nothing_more(monkeypatch):
    def refuse(*_: Any) -> None:
        raise impulses._NoAnswer("no, thanks")

    monkeypatch.setattr(Impulses, "_answers", refuse)
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True)
    assert (report.strength, report.verdict) == ("2^-96", "proven")
    assert [finding.check for finding in report.undone] == ["impulses"]


def test_without_onnxruntime_the_oracle_answers_impulses(monkeypatch):
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    report = crafted.checked(rendered(NPZ, example()), exhaustive=True)
    assert findings(report)["impulses"].against == "the oracle"
    with pytest.raises(UsageError, match=r"pip install 'convfc\[onnxruntime\]'"):
        Proof(against="onnxruntime")


@pytest.mark.parametrize(
    "asked", [{"probes": 0}, {"probes": 9}, {"seed": -1}, {"against": "numpy"}, {"against": ""}]
)
def test_a_proof_that_cannot_be_asked_for_is_refused(asked):
    with pytest.raises(UsageError):
        Proof(**asked)


def test_of_an_operator_file_it_is_said_what_was_not_checked():
    report = crafted.checked(
        rendered(NPZ, example("operator")), exhaustive=True, against="reference"
    )
    assert report.ok
    assert [finding.check for finding in report.undone] == ["impulses", "integers", "reals"]
    assert report.verdict == "consistent"


def test_the_first_wrong_entry_is_in_the_json():
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"][5] = np.nan
    report = crafted.checked(saved(contents))
    findings = report.to_json()["report"]["findings"]
    (wrong,) = (finding for finding in findings if finding["holds"] is False)
    assert json.loads(json.dumps(wrong["entry"], allow_nan=False)) == {
        **{"row": 1, "column": 2, "output_element": [0, 0, 1], "input_element": [0, 0, 2]},
        **{"kernel_element": [0, 0, 1, 1], "expected": "0.5", "found": "nan (0x7fc00000)"},
    }


def test_a_wrong_entry_says_where_it_stands():
    entry = WrongEntry(3, 7, (0, 3), (0, 7), None, None, "1.5")
    assert str(entry) == (
        "entry (3, 7), output (0, 3) from input (0, 7): a structural zero, "
        "expected nothing, found 1.5"
    )


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, np.inf, 1e-45])
def test_values_are_shown_as_they_are(value):
    assert shown(np.float32(value)) == str(np.float32(value))


def test_nans_are_told_apart():
    one, other = np.array([0x7FC00000, 0xFFC12345], np.uint32).view(np.float32)
    assert (shown(one), shown(other)) == ("nan (0x7fc00000)", "nan (0xffc12345)")


def findings_of(out: str) -> dict[str, Any]:
    """The findings on the one matrix, by the names of the checks."""
    (matrix,) = json.loads(out)["matrices"]
    return {finding["check"]: finding for finding in matrix["report"]["findings"]}


def test_the_command_holds_the_models_own_node_to_the_file(model: Path):
    run("convert", model, "-o", "c.npz").succeeded()
    done = run("verify", "c.npz", "--model", model, "--against", "reference", "--json").succeeded()
    told = findings_of(done.out)
    for name in ("integers", "reals"):
        assert told[name]["holds"] is True
        assert told[name]["against"].startswith("onnx.reference ")
        assert told[name]["detail"].startswith("the original node and the matrix")
    alone = run("verify", "c.npz", "--against", "reference", "--json").succeeded()
    told = findings_of(alone.out)
    assert told["integers"]["detail"].startswith("the layer and the matrix")


@pytest.mark.parametrize("transpose", [(), ("--transpose",)])
def test_the_node_of_another_layer_is_not_put_beside_the_file(model: Path, transpose):
    large = net(Path("large.onnx"), shape=(1, 2, 60, 50))
    run("convert", large, "-o", "c.npz", *transpose).succeeded()
    done = run("verify", "c.npz", "--model", model, "--against", "reference", "--json")
    assert done.code == 1, done
    told = findings_of(done.out)
    assert told["origin"]["holds"] is False
    assert told["reals"]["detail"].startswith("the layer and the matrix")


@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_a_layer_of_which_no_output_can_be_compared_is_converted_all_the_same(folder: Path, value):
    def fill(kernels: list[Any]) -> None:
        kernels[0][...] = value

    run("convert", net(Path("m.onnx"), change=fill), "-o", "c.npz").succeeded()
    done = run("verify", "c.npz", "--against", "reference")
    assert done.code == 4
    assert "not checked (reals): the layer and the matrix: no output could be compared" in done.err


@pytest.mark.parametrize("change", [("--flip-kernel",), ("--transpose",)])
def test_a_matrix_of_another_kernel_than_the_nodes_is_held_to_the_layer(model: Path, change):
    run("convert", model, "-o", "c.npz", *change).succeeded()
    done = run("verify", "c.npz", "--model", model, "--against", "reference", "--json").succeeded()
    told = findings_of(done.out)
    what = "the layer" if change == ("--flip-kernel",) else "the original node"
    assert told["reals"]["holds"] is True
    assert told["reals"]["detail"].startswith(what)


def test_what_could_not_be_checked_is_said_and_is_no_success(model: Path):
    run("convert", model, "-o", "c.npz", "--form", "operator").succeeded()
    done = run("verify", "c.npz", "--exhaustive", "--against", "reference")
    assert done.code == 4
    assert done.out == "consistent\tc.npz\tdigest only\n"
    told = "convfc: c.npz: not checked (impulses, integers, reals): an operator file stores no"
    consistent = "1 consistent (an operator file stores no entries to prove)"
    assert f"\n0 of 1 proven, {consistent}, 1 not checked as asked\n" in done.err
    assert told in done.err


def test_the_json_of_what_cannot_be_read_says_so(model: Path):
    run("convert", model, "-o", "c.npz").succeeded()
    for files in (("none.npz",), ("c.npz", "none.npz")):
        done = run("verify", *files, "--json")
        assert done.code == 2
        *good, bad = json.loads(done.out)["matrices"]
        assert (bad["file"], bad["verdict"]) == ("none.npz", "error")
        assert bad["error"]["message"] in done.err
        assert [report["verdict"] for report in good] == ["proven"] * len(good)


def test_exhaustive_from_the_command(model: Path):
    run("convert", model, "-o", "c.npz").succeeded()
    assert run("verify", "c.npz", "--exhaustive").succeeded().out == "proven\tc.npz\tevery entry\n"
