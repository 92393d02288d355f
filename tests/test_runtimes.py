"""Other runtimes, given a layer that no model has: any six numbers an axis at all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convfc_cli.cli.main import cli
from convfc_cli.errors import UsageError
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.runtimes import onnxruntime, registry
from convfc_cli.runtimes.onnx_node import TOO_LARGE, stated
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.registry import NAMES, runtime, runtimes
from convfc_cli.runtimes.runtime import Runtime, as_read
from convfc_cli.taps import IndexMap
from tests import brute
from tests.strategies import problems

some_examples = settings(max_examples=max(20, settings().max_examples // 3))


def asked(name: str) -> Runtime:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    return ORACLE if name == "oracle" else runtime(name)


@pytest.mark.parametrize("name", [*NAMES, "oracle"])
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
@pytest.mark.parametrize("name", NAMES)
def test_what_would_take_too_much_memory_is_not_run(name, axis, transposed):
    kernel = np.ones((1, 1, 2), np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis,), 1, transposed))
    x = np.zeros((1, 1, 1), np.float32)  # it is not looked at
    assert asked(name).apply(layer, x) == TOO_LARGE


@pytest.mark.parametrize("name", NAMES)
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
    assert tuple(option.type.choices) == NAMES


def test_runtimes_say_what_they_are_and_what_is_missing(monkeypatch: Any) -> None:
    assert [found.name for found in runtimes()] == list(NAMES)
    assert runtime("reference").label.startswith("onnx.reference 1.")
    with pytest.raises(UsageError, match="no runtime 'torch': there are onnxruntime, reference"):
        runtime("torch")
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    assert [bool(found.missing()) for found in registry.runtimes()] == [True, False]
    with pytest.raises(UsageError, match=r"pip install 'convfc\[onnxruntime\]'"):
        runtime("onnxruntime")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_layer_as_it_was_read_is_its_own_witness(dtype: Any) -> None:
    kernel = np.arange(6, dtype=dtype).reshape(1, 2, 3)
    bias = np.array([7], dtype)
    layer = Convolution(kernel, IndexMap(kernel.shape, (Axis(6, 4, 3, 1, 1, 0),)), bias)
    original = as_read(layer)
    witness = original.witness(runtime("reference"), np.random.default_rng(0))
    assert not isinstance(witness, str)
    assert witness.x.dtype == witness.y.dtype == dtype
    assert witness.unit == {np.float32: 2.0**-24, np.float64: 2.0**-53}[dtype]
    expected = brute.apply(witness.x, kernel, layer.index_map.axes, 1, False) + 7
    np.testing.assert_allclose(witness.y, expected.astype(dtype), rtol=1e-5)
    x = np.ones((2, 2, 6), np.float32)
    answers = original.apply(runtime("reference"), x, np.ones((1, 2, 3), np.float32))
    assert np.array_equal(answers, np.full((2, 1, 4), 6))
