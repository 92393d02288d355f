"""The conformance cases that ONNX publishes, put through the command line.

`onnx.backend.test` holds models with inputs and the outputs that every backend must give: those of
the operators themselves (`node`), and those converted from PyTorch years ago. Each of their
convolutions, integer and quantized ones too, and each of their average pools is written by `convfc
convert`, read back by SciPy, and M vec(x) + b is held to the published output, or, where the layer
is one of several nodes, to what ONNX's reference evaluator says that node gives.

Of an integer convolution M is that of the weights less their zero point, and it takes the input
less its own: M vec(x - x_zero_point) + b is exact. What QLinearConv makes of that is worked out
here.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.sparse import load_npz

from tests.support.models import convfc, save, tensor, worst_ratio

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_place")]

Array = NDArray[Any]

UNITS = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}

INTEGERS = {"ConvInteger", "QLinearConv"}

POOLS = {"AveragePool", "GlobalAveragePool"}
"""Layers that are listed with `--include linear` alone."""

LAYERS = {"Conv", "ConvTranspose"} | INTEGERS | POOLS

NODE = """
    test_averagepool_1d_default test_averagepool_2d_ceil
    test_averagepool_2d_ceil_last_window_starts_on_pad test_averagepool_2d_default
    test_averagepool_2d_dilations test_averagepool_2d_pads
    test_averagepool_2d_pads_count_include_pad test_averagepool_2d_precomputed_pads
    test_averagepool_2d_precomputed_pads_count_include_pad
    test_averagepool_2d_precomputed_same_upper test_averagepool_2d_precomputed_strides
    test_averagepool_2d_same_lower test_averagepool_2d_same_upper test_averagepool_2d_strides
    test_averagepool_3d_default
    test_averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False
    test_averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True
    test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False
    test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True
    test_averagepool_3d_dilations_small
    test_basic_conv_with_padding test_basic_conv_without_padding test_conv_with_autopad_same
    test_conv_with_strides_and_asymmetric_padding test_conv_with_strides_no_padding
    test_conv_with_strides_padding test_convinteger_with_padding
    test_convinteger_without_padding test_convtranspose test_convtranspose_1d test_convtranspose_3d
    test_convtranspose_autopad_same test_convtranspose_dilations test_convtranspose_group_2
    test_convtranspose_group_2_image_3 test_convtranspose_kernel_shape
    test_convtranspose_output_shape test_convtranspose_pad test_convtranspose_pads
    test_globalaveragepool test_globalaveragepool_precomputed test_qlinearconv
""".split()
"""The cases of the operators themselves."""

EXPANDED = """
    test_causal_conv_with_state_b1_c1_degenerate_expanded
    test_causal_conv_with_state_basic_expanded test_causal_conv_with_state_decode_step_expanded
    test_causal_conv_with_state_fp16_expanded test_causal_conv_with_state_kernel_size_one_expanded
    test_causal_conv_with_state_short_input_no_past_state_expanded
    test_causal_conv_with_state_silu_expanded test_causal_conv_with_state_silu_fp16_expanded
    test_causal_conv_with_state_silu_with_past_state_expanded
    test_causal_conv_with_state_swish_alias_expanded
    test_causal_conv_with_state_with_bias_and_past_state_expanded
    test_causal_conv_with_state_with_bias_expanded
    test_causal_conv_with_state_with_past_state_expanded
""".split()
"""Cases of an operator that is a function of others, a Conv among them (since onnx 1.22)."""

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"

SHIPPED = sorted(
    f"{folder}/{path.parent.name}"
    for folder in ("pytorch-converted", "pytorch-operator", "simple")
    for path in DATA.glob(f"{folder}/*/model.onnx")
    if LAYERS & {node.op_type for node in onnx.load(path).graph.node}
)
"""The cases that lie as files in the package."""

AT_LEAST = {
    "AveragePool": 27,
    "Conv": 33,
    "ConvInteger": 2,
    "ConvTranspose": 14,
    "GlobalAveragePool": 2,
    "QLinearConv": 1,
}
"""How many cases there are of each operator."""

PRINTED = {"test_averagepool_2d_ceil_last_window_starts_on_pad": 1e-4}
"""Cases whose input and output were typed in from a print of so many decimals."""

REFUSED: dict[str, str] = {}
"""Cases that convfc does not convert, with the reason. None."""


@dataclass(frozen=True)
class Case:
    """A published model with its inputs and outputs by name."""

    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@cache
def node_cases() -> dict[str, Case]:
    """All cases of `onnx.backend.test.case.node` with one of the layers, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    found = {}
    for case in collected:
        if LAYERS & {node.op_type for node in case.model.graph.node}:
            assert len(case.data_sets) == 1
            inputs, outputs = case.data_sets[0]
            found[case.name] = _case(case.model, inputs, outputs)
    return found


def shipped_case(name: str) -> Case:
    """A case that lies as files in the package."""
    folder = DATA / name
    sets = sorted(folder.glob("test_data_set_*"))
    assert len(sets) == 1

    def arrays(kind: str) -> list[Array]:
        files = sorted(sets[0].glob(f"{kind}_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
        return [numpy_helper.to_array(onnx.load_tensor(file)) for file in files]

    return _case(onnx.load(folder / "model.onnx"), arrays("input"), arrays("output"))


def _case(model: onnx.ModelProto, inputs: Any, outputs: Any) -> Case:
    stored = {tensor.name for tensor in model.graph.initializer}
    free = [value.name for value in model.graph.input if value.name not in stored]
    names = [value.name for value in model.graph.output]
    return Case(model, dict(zip(free, inputs, strict=True)), dict(zip(names, outputs, strict=True)))


def embedded(case: Case) -> onnx.ModelProto:
    """The case's model with weights, biases, scales and zero points that are inputs turned into
    initializers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    weights = {
        name
        for node in model.graph.node
        if node.op_type in LAYERS
        for name in node.input[1:]
        if name in case.inputs
    }
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(tensor(name, case.inputs[name]) for name in sorted(weights))
    return model


def tensors(case: Case, wanted: list[str]) -> dict[str, Array]:
    """Tensors of a case: its own data where that has them, else by the reference evaluator."""
    known = {**case.inputs, **case.outputs}
    missing = [name for name in wanted if name not in known]
    if missing:
        from onnx.reference import ReferenceEvaluator

        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
        results = ReferenceEvaluator(model).run(None, dict(case.inputs))
        for name, published in case.outputs.items():  # the evaluator gives what is published
            place = [value.name for value in model.graph.output].index(name)
            np.testing.assert_allclose(results[place], published, rtol=1e-3, atol=1e-6)
        known.update(zip(missing, results[-len(missing) :], strict=True))
    return {name: np.asarray(known[name]) for name in wanted}


def constants(model: onnx.ModelProto, node: onnx.NodeProto) -> list[Array | None]:
    """What the inputs of a node hold, by position; None where one is left out or is computed."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [stored.get(name) for name in node.input] + [None] * (9 - len(node.input))


def centered(array: Array, zero_point: Array | None) -> Array:
    """The integers of an array less their zero point, one for all; none is zero."""
    return array.astype(np.int64) - (0 if zero_point is None else int(zero_point.item()))


def quantized(exact: Array, given: list[Array | None], kind: Any) -> Array:
    """What a QLinearConv with these constant inputs makes of its exact sums (channels, -1)."""
    _, x_scale, _, _, w_scale, _, y_scale, y_zero_point, _ = given
    assert x_scale is not None
    assert w_scale is not None
    assert y_scale is not None
    scale = x_scale.astype(np.float64) * w_scale / y_scale  # one for all channels, or for each
    scaled = np.rint(exact * scale.reshape(-1, 1))  # halves to even
    shift = 0 if y_zero_point is None else int(y_zero_point.item())
    limits = np.iinfo(kind)
    return np.clip(scaled + shift, limits.min, limits.max).astype(kind)


def compare(
    model: onnx.ModelProto, node: onnx.NodeProto, matrix: Any, bias: Array, x: Array, y: Array
) -> None:
    """Hold M vec(x) + b of one image (channels, *spatial) to the output of a node."""
    if node.op_type not in INTEGERS:
        if node.op_type in POOLS:
            assert not bias.any()
        if model.graph.name in PRINTED:
            got = matrix @ x.reshape(-1) + bias
            np.testing.assert_allclose(got, y.reshape(-1), rtol=0, atol=PRINTED[model.graph.name])
        else:
            assert worst_ratio(matrix, bias, x, y, UNITS[y.dtype.name]) <= 1
        return
    assert matrix.dtype == bias.dtype == np.int32
    given = constants(model, node)
    x_zero_point = given[2]  # of both operators
    exact = matrix.astype(np.int64) @ centered(x, x_zero_point).reshape(-1) + bias
    if node.op_type == "QLinearConv":
        expected = quantized(exact.reshape(len(y), -1), given, y.dtype)
    else:
        assert y.dtype == np.int32
        expected = exact
    np.testing.assert_array_equal(expected.reshape(y.shape), y)


def check(case: Case, folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Convert a case and compare; returns the number of images that were compared."""
    model = embedded(case)
    nodes = [node for node in model.graph.node if node.op_type in LAYERS]
    known = tensors(case, [name for node in nodes for name in (node.input[0], node.output[0])])
    path = save(model, folder)
    options = [
        f"--input-shape={node.input[0]}={','.join(map(str, known[node.input[0]].shape))}"
        for node in nodes
        if len(model.graph.node) > 1
    ]
    if POOLS & {node.op_type for node in nodes}:
        options.append("--include=linear")
    done = convfc(capsys, "convert", path, "-o", f"{folder}/out/", "--json", *options)
    assert done.code == 0, done.err
    written = [told for told in done.json()["matrices"] if told["op"] in LAYERS]
    compared = 0
    for node, told in zip(nodes, written, strict=True):
        assert told["verdict"] == "proven"
        assert {finding["check"] for finding in told["report"]["findings"]} >= {
            "entries",
            "runtime",
        }
        assert (told["output"], told["op"]) == (node.output[0], node.op_type)
        matrix = load_npz(told["file"])
        with np.load(told["file"]) as members:
            bias = members["bias"]
        xs, ys = known[node.input[0]], known[node.output[0]]
        assert matrix.shape == (int(np.prod(ys.shape[1:])), int(np.prod(xs.shape[1:])))
        assert len(xs) == len(ys) > 0
        for x, y in zip(xs, ys, strict=True):
            compare(model, node, matrix, bias, x, y)
            assert y.any()  # a comparison of zeros with zeros would show nothing
            compared += 1
    return compared


@pytest.mark.parametrize("name", [*NODE, *EXPANDED])
def test_node_case(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = node_cases().get(name)
    if case is None and name in EXPANDED:
        pytest.skip(f"onnx {onnx.__version__} has no case {name}")
    assert case is not None
    compared = check(case, tmp_path, capsys)
    assert compared == len(next(iter(case.inputs.values())))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_case(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = shipped_case(name)
    assert check(case, tmp_path, capsys) == len(next(iter(case.outputs.values())))


def test_no_case_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = node_cases()
    assert not REFUSED
    assert set(NODE) <= set(found)
    assert len(NODE) == 42
    assert len(SHIPPED) >= 37
    assert sum(name.startswith("pytorch-converted/") for name in SHIPPED) >= 35
    assert sum(name.startswith("pytorch-operator/") for name in SHIPPED) >= 2
    cases = [*(found[name] for name in NODE), *(shipped_case(name) for name in SHIPPED)]
    counts = Counter(
        node.op_type for case in cases for node in case.model.graph.node if node.op_type in LAYERS
    )
    assert set(counts) == LAYERS
    assert all(counts[op] >= least for op, least in AT_LEAST.items()), counts
    assert set(PRINTED) <= set(NODE)
    for name in sorted(set(found) - {*NODE, *EXPANDED}):  # a newer onnx may have more
        folder = tmp_path / name
        folder.mkdir()
        assert check(found[name], folder, capsys) > 0, name
