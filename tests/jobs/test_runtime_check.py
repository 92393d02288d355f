"""Whom to believe where runtimes and the layer as it was read differ, and what commands say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import convfc_cli as convfc
from convfc_cli import budget
from convfc_cli.jobs.runtime_check import believed
from convfc_cli.proof.report import Finding
from convfc_cli.proof.verify import Proof
from convfc_cli.runtimes import onnxruntime
from convfc_cli.runtimes.onnx_node import NodeRuntime
from convfc_cli.runtimes.onnxruntime import Onnxruntime
from convfc_cli.runtimes.reference import Reference
from tests.support import kernels
from tests.support.cli_models import arrays, run
from tests.support.models import conv_model, info, make_model, ramp, save, tensor

Array = NDArray[Any]

AGREES = Finding("runtime", True, "the node, run by A 1: equal", against="A 1")
AGREES_TOO = Finding("runtime", True, "the node, run by B 2: equal", against="B 2")
CONTRADICTS = Finding("runtime", False, "the node, run by A 1, gives 3", against="A 1")
CONTRADICTS_TOO = Finding("runtime", False, "the node, run by B 2, gives 4", against="B 2")
UNCLEAR = Finding("runtime", None, "no output could be compared", against="A 1")
UNABLE = Finding("runtime", None, "A cannot run it")
UNABLE_TOO = Finding("runtime", None, "B is too slow for it")

TABLE = [
    ([AGREES, CONTRADICTS_TOO], True, "A 1", "the node, run by A 1: equal"),
    (
        *([CONTRADICTS, AGREES_TOO], True, "B 2"),
        "the node, run by B 2: equal; A 1 stands alone: the node, run by A 1, gives 3",
    ),
    (
        *([CONTRADICTS, CONTRADICTS_TOO], False, "A 1"),
        "the node, run by A 1, gives 3; the node, run by B 2, gives 4",
    ),
    (
        *([CONTRADICTS, UNABLE_TOO], False, "A 1"),
        "the node, run by A 1, gives 3; B is too slow for it",
    ),
    ([UNABLE, AGREES_TOO], True, "B 2", "the node, run by B 2: equal; A cannot run it"),
    ([UNABLE, CONTRADICTS_TOO], False, "B 2", "the node, run by B 2, gives 4; A cannot run it"),
    (
        *([UNABLE, UNABLE_TOO], None, ""),
        "the original node was not run: A cannot run it; B is too slow for it",
    ),
    ([UNABLE, UNABLE], None, "", "the original node was not run: A cannot run it"),
    ([UNCLEAR, AGREES_TOO], True, "B 2", f"the node, run by B 2: equal; {UNCLEAR.detail}"),
    ([UNCLEAR, UNABLE_TOO], None, "A 1", "no output could be compared; B is too slow for it"),
]


@pytest.mark.parametrize(("accounts", "holds", "against", "detail"), TABLE)
def test_what_accounts_come_to(
    accounts: list[Finding], holds: bool | None, against: str, detail: str
) -> None:
    found = believed(accounts)
    assert (found.holds, found.against, found.detail) == (holds, against, detail)


def test_nobody_is_asked_after_one_that_agrees() -> None:
    accounts = iter([AGREES, CONTRADICTS_TOO])
    believed(accounts)
    assert next(accounts) is CONTRADICTS_TOO


# --- by the commands ------------------------------------------------------------------------------

RIGHT, WRONG, UNABLE_HERE = "right", "wrong", "unable"


def use(patch: pytest.MonkeyPatch, runtime: type[NodeRuntime], how: str) -> None:
    """Let a runtime be right or wrong on the layer, or unable to run it; it is right on layers
    whose answer is known.
    """
    whole = runtime.answer

    def answer(self: NodeRuntime, model: onnx.ModelProto, *rest: Any) -> Any:
        y = whole(self, model, *rest)
        if model.graph.name == "known" or how == RIGHT:
            return y
        return f"{self.name} is unable" if how == UNABLE_HERE else y + 1

    patch.setattr(runtime, "answer", answer)


def runtime_of(done: Any) -> dict[str, Any]:
    (told,) = json.loads(done.out)["matrices"]
    (finding,) = (f for f in told["report"]["findings"] if f["check"] == "runtime")
    return finding


BY_COMMAND = [
    (RIGHT, WRONG, True, "run by onnxruntime"),
    (WRONG, RIGHT, True, "onnxruntime 1"),
    (WRONG, WRONG, False, "run by onnx.reference"),
    (WRONG, UNABLE_HERE, False, "reference is unable"),
    (UNABLE_HERE, RIGHT, True, "onnxruntime is unable"),
    (UNABLE_HERE, WRONG, False, "run by onnx.reference"),
    (UNABLE_HERE, UNABLE_HERE, None, "onnxruntime is unable; reference is unable"),
]


@pytest.mark.parametrize(("first", "second", "holds", "part"), BY_COMMAND)
def test_a_layer_is_written_unless_all_who_run_it_contradict_it(
    first: str,
    second: str,
    holds: bool | None,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    use(monkeypatch, Onnxruntime, first)
    use(monkeypatch, Reference, second)
    path, out = save(conv_model(ramp(2, 1, 3), None, {}, (1, 1, 6)), tmp_path), tmp_path / "m.npz"
    done = run("convert", path, "-o", out, "--json")
    if holds is False:
        assert done.code == 1
        assert part in done.err
        assert "nothing is written" in done.err
        assert not out.exists()
        return
    finding = runtime_of(done.succeeded())
    assert (finding["holds"], part in finding["detail"]) == (holds, True)
    assert ("onnxruntime" in finding["detail"] and "stands alone" in finding["detail"]) is (
        (first, second) == (WRONG, RIGHT)
    )
    assert arrays(out)["data"].tolist() == 4 * ramp(3).tolist() + 4 * ramp(6)[3:].tolist()


def standardised() -> tuple[onnx.ModelProto, Array]:
    """(a convolution by weights standardised as timm's StdConv2d asks for, these weights).

    The statistics share their tensors with scale and bias: without graph optimization onnxruntime
    1.32 updates them in place and computes other weights.
    """
    w = np.random.default_rng(2).standard_normal((4, 3, 3, 3)).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Reshape", ["Wf", "s3"], ["w3"]),
        node(
            *("BatchNormalization", ["w3", "one", "zero", "zero", "one"], ["wn", "m", "v"]),
            epsilon=1e-6,
            training_mode=1,
        ),
        node("Reshape", ["wn", "s4"], ["W"]),
        node("Conv", ["x", "W"], ["y"], name="c"),
    ]
    stored = [
        tensor("Wf", w),
        tensor("s3", np.array([1, 4, 27])),
        tensor("s4", np.array([4, 3, 3, 3])),
        tensor("one", np.ones(4, np.float32)),
        tensor("zero", np.zeros(4, np.float32)),
    ]
    rows = w.reshape(4, -1).astype(np.float64)
    wide = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-6)
    return make_model(nodes, [info("x", (1, 3, 5, 5))], stored), wide.reshape(w.shape)


def test_standardised_weights_are_written_whatever_one_runtime_makes_of_them(
    tmp_path: Path,
) -> None:
    model, weights = standardised()
    out = tmp_path / "m.npz"
    done = run("convert", save(model, tmp_path), "-o", out, "--json").succeeded()
    finding = runtime_of(done)
    assert finding["holds"] is True
    np.testing.assert_allclose(convfc.load(out).layer.kernel, weights, rtol=1e-5, atol=1e-6)


def test_against_asks_the_runtime_that_is_named_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    path, out = save(conv_model(ramp(2, 1, 3), None, {}, (1, 1, 6)), tmp_path), tmp_path / "m.npz"
    run("convert", path, "-o", out).succeeded()
    use(monkeypatch, Onnxruntime, WRONG)
    run("verify", out, "--model", path, "--against", "reference").succeeded()
    done = run("verify", out, "--model", path, "--against", "onnxruntime")
    assert done.code == 1
    assert "run by onnxruntime" in done.err


@pytest.mark.parametrize("option", ["--against", "--exhaustive"])
def test_a_runtime_that_fails_its_known_answer_ends_in_not_checked(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kernel of its convolutions wrong: none of its answers may call a right file wrong."""
    pytest.importorskip("onnxruntime")
    path, out = save(conv_model(ramp(2, 1, 3), None, {}, (1, 1, 6)), tmp_path), tmp_path / "m.npz"
    run("convert", path, "-o", out).succeeded()
    kernels.patch_answers(
        monkeypatch, lambda model: model, lambda model, feeds, y: y if isinstance(y, str) else y + 1
    )
    given = ["--against", "onnxruntime"] if option == "--against" else ["--exhaustive"]
    done = run("verify", out, "--model", path, *given, "--json")
    findings = {f["check"]: f for f in json.loads(done.out)["matrices"][0]["report"]["findings"]}
    told = f"{onnxruntime.RUNTIME.label} computes Conv of float32 wrongly on this processor"
    if option == "--against":
        assert done.code == 4
        for check in ("integers", "reals"):
            assert (findings[check]["holds"], told in findings[check]["detail"]) == (None, True)
    else:  # the oracle answers in its place
        done.succeeded()
        assert told in findings["impulses"]["detail"]
        assert findings["impulses"]["against"] == "the oracle"


# --- what the command cannot pay for --------------------------------------------------------------


def computed(folder: Path, layers: int = 1) -> Path:
    """Convolutions one after another, 1x1, by weights each of which takes one operation to compute
    whenever it is read.
    """
    names = ["x", *(f"y{k}" for k in range(layers))]
    nodes = [helper.make_node("Neg", ["w"], [f"W{k}"]) for k in range(layers)]
    nodes += [
        helper.make_node("Conv", [names[k], f"W{k}"], [names[k + 1]], name=f"c{k}")
        for k in range(layers)
    ]
    return save(make_model(nodes, [info("x", (1, 1, 3))], [tensor("w", ramp(1, 1, 1))]), folder)


def test_a_layer_is_written_where_no_budget_is_left_to_run_its_node(tmp_path: Path) -> None:
    path = computed(tmp_path)
    with budget.command() as left:
        left.operations = 1
        (done,) = convfc.convert(path, tmp_path / "m.npz").results
        assert left.operations == 0
    (finding,) = (one for one in done.report.findings if one.check == "runtime")
    assert finding.holds is None
    told = "the original node was not run: the constant 'W0' needs 1 operations to evaluate"
    assert finding.detail.startswith(told)
    assert done.report.ok
    assert convfc.load(tmp_path / "m.npz").layer.kernel == -ramp(1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("operations", range(2, 6))
def test_a_chain_is_written_where_no_budget_is_left_to_run_its_nodes(
    operations: int, tmp_path: Path
) -> None:
    """Two operations make the matrix; the rest ends somewhere on the way through the checks."""
    path, out = computed(tmp_path, 2), tmp_path / "m.npz"
    with budget.command() as left:
        left.operations = operations
        (done,) = convfc.convert(path, out, compose="c0:c1").results
        assert left.operations == 0
    (finding,) = (one for one in done.report.findings if one.check == "runtime")
    assert (finding.holds, "operations to evaluate" in finding.detail) == (None, True)
    assert done.report.ok


def test_a_check_against_a_runtime_is_not_made_where_no_budget_is_left(tmp_path: Path) -> None:
    path, out = computed(tmp_path), tmp_path / "m.npz"
    convfc.convert(path, out)
    with budget.command() as left:
        left.operations = 1
        report = convfc.verify(out, model=path, proof=Proof(against="reference"))
    (finding,) = (one for one in report.findings if one.check == "reals")
    assert (finding.holds, "operations to evaluate" in finding.detail) == (None, True)
