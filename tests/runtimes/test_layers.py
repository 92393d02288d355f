"""Other runtimes, given a layer that no model has: any six numbers an axis at all."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from convfc_cli import budget, contained
from convfc_cli.cli.main import cli
from convfc_cli.errors import UsageError
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.rounding import MAX_PRODUCTS
from convfc_cli.runtimes import onnxruntime, registry
from convfc_cli.runtimes.onnx_known import known
from convfc_cli.runtimes.onnx_node import TOO_LARGE, NodeRuntime, stated, unfit
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.registry import runtime, runtimes
from convfc_cli.runtimes.runtime import Runtime, as_read
from convfc_cli.taps import IndexMap
from convfc_cli.vocabulary import RUNTIMES
from tests.support import brute
from tests.support.cli_models import run
from tests.support.models import conv_model, info, make_model, ramp, save, tensor
from tests.support.strategies import problems

some_examples = settings(max_examples=max(20, settings().max_examples // 3))


def asked(name: str) -> Runtime:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    return ORACLE if name == "oracle" else runtime(name)


@pytest.mark.parametrize("name", [*RUNTIMES, "oracle"])
@some_examples
@given(
    problem=problems(styles=("integers",)),
    batch=st.integers(1, 3),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_layer_is_run_as_brute_force_has_it(name, problem, batch, bias, seed):
    random = np.random.default_rng(seed)
    layer = problem.layer
    x = random.integers(-9, 10, (batch, *layer.input_shape)).astype(np.float32)
    kernel = random.integers(-9, 10, problem.kernel.shape).astype(np.float32)
    offsets = random.integers(-9, 10, layer.output_shape[:1]).astype(np.float32)
    y = asked(name).apply(layer.with_kernel(kernel, offsets if bias else None), x)
    if isinstance(y, str):
        assert (name, y.split()[0]) == ("reference", "reference")
        assert problem.transposed
        assert problem.groups > 1
        return
    if not bias:
        offsets = np.zeros_like(offsets)
    added = offsets.reshape(-1, *(1,) * (x.ndim - 2))
    for one, answer in zip(x, y, strict=True):
        expected = brute.apply(one, kernel, problem.axes, problem.groups, problem.transposed)
        assert answer.tolist() == (expected + added).tolist()


FAR = [
    Axis(inputs=5, outputs=1, kernel=2, stride=1, dilation=1, offset=-(2**40)),
    Axis(inputs=5, outputs=1, kernel=2, stride=1, dilation=1, offset=2**40),
    Axis(inputs=5, outputs=2, kernel=2, stride=2**40, dilation=1, offset=0),
    Axis(inputs=5, outputs=2, kernel=2, stride=1, dilation=2**40, offset=3),
    Axis(inputs=2**26, outputs=2, kernel=2, stride=1, dilation=1, offset=0),
    Axis(inputs=5, outputs=2**26, kernel=2, stride=1, dilation=1, offset=0),
]


@pytest.mark.parametrize("axis", FAR, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", RUNTIMES)
def test_what_would_take_too_much_memory_is_not_run(name, axis, transposed):
    kernel = np.ones((1, 1, 2), np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis,), 1, transposed))
    x = np.zeros((1, 1, 1), np.float32)  # it is not looked at
    assert asked(name).apply(layer, x) == TOO_LARGE


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_transposed_layer_of_more_products_than_memory_is_not_run(name):
    kernel = np.ones((1, 1, 2**15), np.float32)
    axis = Axis(2**15 + 2**15 - 1, 2**15, 2**15, 1, 1, 0)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis,), 1, True))
    reason = asked(name).apply(layer, np.zeros((1, 1, 2**15), np.float32))
    assert isinstance(reason, str)
    assert "too" in reason


def test_a_node_is_made_once_for_each_geometry():
    index_map = IndexMap((1, 1, 2), (Axis(5, 4, 2, 1, 1, 0),))
    assert stated(index_map, "float32", bias=False) is stated(index_map, "float32", bias=False)
    assert stated(index_map, "float32", bias=False) is not stated(index_map, "float32", bias=True)


def test_a_runtime_that_does_not_implement_a_dtype_says_so():
    found = asked("onnxruntime")
    layer = Convolution(np.ones((1, 1, 2)), IndexMap((1, 1, 2), (Axis(5, 4, 2, 1, 1, 0),)))
    reason = found.apply(layer, np.ones((1, 1, 5)))
    assert isinstance(reason, str)
    assert reason.startswith("onnxruntime cannot run it (")


def test_the_command_knows_the_same_names():
    (option,) = (found for found in cli.commands["verify"].params if found.name == "against")
    assert tuple(option.type.choices) == RUNTIMES


def test_runtimes_say_what_they_are_and_what_is_missing(monkeypatch: Any) -> None:
    assert [found.name for found in runtimes()] == list(RUNTIMES)
    assert runtime("reference").label.startswith("onnx.reference 1.")
    with pytest.raises(UsageError, match="no runtime 'torch': there are onnxruntime, reference"):
        runtime("torch")
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    assert [bool(found.missing()) for found in registry.runtimes()] == [True, False]
    with pytest.raises(UsageError, match=r"pip install 'convfc\[onnxruntime\]'"):
        runtime("onnxruntime")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_as_it_was_read_computes_itself(dtype: Any) -> None:
    kernel = np.arange(6, dtype=dtype).reshape(1, 2, 3)
    bias = np.array([7], dtype)
    layer = Convolution(kernel, IndexMap(kernel.shape, (Axis(6, 4, 3, 1, 1, 0),)), bias)
    original = as_read(layer)
    result = original.run(runtime("reference"), np.random.default_rng(0))
    assert not isinstance(result, str)
    assert result.x.dtype == result.y.dtype == dtype
    assert result.unit == {np.float32: 2.0**-24, np.float64: 2.0**-53}[dtype]
    expected = brute.apply(result.x, kernel, layer.index_map.axes, 1, False) + 7
    np.testing.assert_allclose(result.y, expected.astype(dtype), rtol=1e-5)
    x = np.ones((2, 2, 6), np.float32)
    answers = original.apply(runtime("reference"), x, np.ones((1, 2, 3), np.float32))
    assert np.array_equal(answers, np.full((2, 1, 4), 6))


# --- layers whose answers are known ---------------------------------------------------------------

FLOATS = ("bfloat16", "float16", "float32", "float64")
CODES = ("int8", "uint8")
KNOWN = [
    *((op, x, x) for op in ("Conv", "ConvTranspose", "Gemm", "MatMul") for x in FLOATS),
    *((op, x, x) for op in ("AveragePool", "GlobalAveragePool") for x in FLOATS),
    *((op, x, w) for op in ("ConvInteger", "QLinearConv") for x in CODES for w in CODES),
]


@pytest.mark.parametrize(("op", "x", "weights"), KNOWN, ids=" ".join)
def test_the_known_answers_are_those_of_the_evaluator(op: str, x: str, weights: str) -> None:
    """They are worked out by definition: whoever computes in Python comes to the same."""
    assert unfit(runtime("reference"), op, x, weights) == ""


@pytest.mark.parametrize(("x", "weights"), [("int8", "uint8"), ("uint8", "int8")])
def test_a_known_answer_tells_of_pairs_that_saturate(x: str, weights: str) -> None:
    """What a processor without sums of four 8-bit products makes of it, by hand."""
    layer = known("ConvInteger", x, weights)
    assert layer is not None
    windows = np.lib.stride_tricks.sliding_window_view(layer.x[0].astype(int), (3, 3), (1, 2))
    read = windows.transpose(1, 2, 0, 3, 4).reshape(36, -1, 2)
    pairs = np.einsum("pkt,okt->opk", read, layer.constants["w"].astype(int).reshape(16, -1, 2))
    assert (pairs.sum(2).reshape(layer.answer.shape) == layer.answer).all()
    saturated = np.clip(pairs, -(2**15), 2**15 - 1).sum(2).reshape(layer.answer.shape)
    assert (saturated != layer.answer).mean() > 0.9


def test_an_operator_that_adds_nothing_up_has_no_known_answer() -> None:
    assert known("Transpose", "float32", "float32") is None
    assert unfit(runtime("reference"), "Transpose", "float32", "float32") == ""


# --- in the contained child -----------------------------------------------------------------------

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")


class Aborting(NodeRuntime):
    name = label = "aborting"
    rules: ClassVar = {}

    def missing(self) -> str:
        return ""

    @staticmethod
    def compute(model: bytes, feeds: dict[str, Any], products: int) -> Any:
        os.abort()


def of_nodes(nodes: list[onnx.NodeProto], **stored: Any) -> onnx.ModelProto:
    arrays = [tensor(name, np.asarray(array)) for name, array in stored.items()]
    return make_model(nodes, [info("x", (1, 2))], arrays)


def hungry(size: int) -> onnx.ModelProto:
    """A model that fills a tensor of so many elements on its way."""
    node = helper.make_node
    nodes = [
        node("ConstantOfShape", ["s"], ["big"]),
        node("Exp", ["big"], ["e"]),
        node("ReduceSum", ["e"], ["r"], keepdims=0),
        node("Add", ["x", "r"], ["y"]),
    ]
    return of_nodes(nodes, s=[size])


def endless() -> onnx.ModelProto:
    """A model that goes round for ever."""
    node, kind = helper.make_node, TensorProto
    inner = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), node("Add", ["v", "v"], ["v2"])],
        "body",
        [info("i", (), kind.INT64), info("c", (), kind.BOOL), info("v", (1, 2))],
        [info("c2", (), kind.BOOL), info("v2", (1, 2))],
    )
    return of_nodes([node("Loop", ["n", "", "x"], ["y"], body=inner)], n=2**62)


X = {"x": np.ones((1, 2), np.float32)}


@pytest.mark.slow
@on_linux
def test_a_runtime_that_crashes_cannot_run_it() -> None:
    assert Aborting().answer(hungry(2), X, 8, 0) == "aborting cannot run it (it crashes (signal 6))"
    assert np.array_equal(asked("reference").answer(hungry(2), X, 8, 0), [[3, 3]])


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("size", [2**28, 2**40])
def test_a_node_that_takes_too_much_memory_cannot_be_run(name: str, size: int) -> None:
    """1 GiB, which a machine may have, and 4 TiB: an exception, an abort or a refusal."""
    found = asked(name)
    told = found.answer(hungry(size), X, 8, 0)
    assert isinstance(told, str)
    assert told.startswith(f"{name} cannot run it (")
    assert np.array_equal(found.answer(hungry(2), X, 8, 0), [[3, 3]])


@pytest.mark.slow
@on_linux
def test_a_node_that_takes_too_long_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "convfc_cli.runtimes.onnx_node.Limits",
        lambda memory: contained.Limits(memory=memory, seconds=1),
    )
    begun = time.process_time()
    told = asked("onnxruntime").answer(endless(), X, 8, 0)
    assert told == "onnxruntime cannot run it (it takes more than 1 seconds of CPU time)"
    assert time.process_time() - begun < 1


@pytest.mark.slow
@on_linux
def test_onnxruntime_is_imported_in_the_child_alone(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = save(conv_model(ramp(2, 1, 3), None, {}, (1, 1, 6)), folder)
    script = (
        "import sys, convfc_cli; "
        f"found = convfc_cli.convert({str(path)!r}, 'm.npz'); "
        "print(found.results[0].report.findings[-1].detail, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "run by onnxruntime" in done.stdout, done
    assert done.stdout.endswith(" False\n")


@pytest.mark.slow
def test_onnxruntime_leaves_nothing_behind_in_the_home_folder(folder: Path) -> None:
    """1.32 writes a device id and its events there, unless told not to before its import."""
    pytest.importorskip("onnxruntime")
    path = save(conv_model(ramp(2, 1, 3), None, {}, (1, 1, 6)), folder)
    home = folder / "home"
    home.mkdir()
    places = {f"XDG_{what}_HOME": str(home / what) for what in ("CACHE", "CONFIG", "DATA", "STATE")}
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-m", "convfc_cli", "convert", str(path), "-o", str(folder / "m.npz")],
        env={**kept, **places, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert "agrees with onnxruntime" in done.stderr, done
    assert list(home.rglob("*")) == []


# --- within a budget ------------------------------------------------------------------------------


def wide(inputs: int, kernel: int) -> Convolution:
    """One channel of a 1-D convolution."""
    axis = Axis(inputs, inputs - kernel + 1, kernel, 1, 1, 0)
    return Convolution(np.ones((1, 1, kernel), np.float32), IndexMap((1, 1, kernel), (axis,)))


@pytest.mark.parametrize("name", [*RUNTIMES, "oracle"])
def test_a_layer_of_too_many_products_is_not_run(name: str) -> None:
    layer = wide(2**17, 2**16)
    begun = time.process_time()
    told = asked(name).apply(layer, np.zeros((1, 1, 2**17), np.float32))
    assert time.process_time() - begun < 1
    assert isinstance(told, str)
    assert name == "reference" or f"{4 * 2**16 * (2**16 + 1):,} products" in told
    assert name == "reference" or f"{MAX_PRODUCTS:,}" in told


@pytest.mark.parametrize("name", [*RUNTIMES, "oracle"])
def test_layers_that_are_run_draw_on_the_budget_of_the_command(name: str) -> None:
    layer, x = wide(9, 3), np.ones((2, 1, 9), np.float32)
    with budget.command() as whole:
        before = whole.products
        assert not isinstance(asked(name).apply(layer, x), str)
        assert before - whole.products == 2 * 4 * 3 * 7
        whole.products = 2 * 4 * 3 * 7 - 1
        told = asked(name).apply(layer, x)
    assert isinstance(told, str)
    assert "the command has 167 left" in told


def test_a_node_of_too_many_products_is_written_and_not_run(tmp_path: Path) -> None:
    """Half a megabyte that asks for some 10^10 products."""
    model = conv_model(np.ones((1, 1, 2**17), np.float32), None, {}, (1, 1, 2**18))
    path, out = save(model, tmp_path), tmp_path / "m.npz"
    done = run("convert", path, "-o", out, "--form", "operator").succeeded()
    assert "the original node was not run: applying it takes about" in done.err
    assert f"{4 * 2**17 * (2**17 + 1):,} products" in done.err
