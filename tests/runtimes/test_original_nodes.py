"""The original node, run by another runtime: what it proves, and that it does catch faults.

Random layers say where convfc, onnxruntime and ONNX's reference evaluator agree, wherever the
runtime is not known to be wrong; and faults put into the reader on purpose, one for each thing that
a reader may misunderstand, must stop `convfc convert` with exit code 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from convfc_cli import contained
from convfc_cli.errors import ConvfcError
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.layers.convolution import Convolution
from convfc_cli.models.onnx import constants, convolution
from convfc_cli.rounding import RuntimeResult
from convfc_cli.runtimes import onnxruntime
from tests.support.models import (
    HAS_ONNXRUNTIME,
    conv_model,
    convfc,
    first_result,
    info,
    make_model,
    only,
    ramp,
    save,
    tensor,
)

Array = NDArray[Any]
node = helper.make_node

RUNTIMES = [
    pytest.param(
        "onnxruntime",
        marks=pytest.mark.skipif(not HAS_ONNXRUNTIME, reason="onnxruntime is optional"),
    ),
    "onnx.reference",
]


def use(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let convfc find onnxruntime, or not."""
    if runtime == "onnx.reference":
        monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)


# --- agreement ------------------------------------------------------------------------------------

PLAIN: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1-D": ("Conv", (2, 3, 3), (3, 9), {"strides": [2], "pads": [1, 0]}),
    "2-D": ("Conv", (4, 2, 3, 2), (4, 6, 5), {"group": 2, "dilations": [2, 1]}),
    "3-D": ("Conv", (2, 1, 2, 2, 2), (1, 3, 4, 3), {"auto_pad": "SAME_LOWER"}),
    "depthwise": ("Conv", (6, 1, 3, 3), (3, 6, 5), {"group": 3, "pads": [1, 1, 0, 0]}),
    "transposed": (
        "ConvTranspose",
        (2, 3, 3, 2),
        (2, 4, 3),
        {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("what", PLAIN)
def test_plain_layers_are_run(
    what: str, dtype: str, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(runtime, monkeypatch)
    op, kernel, input_shape, attributes = PLAIN[what]
    random = np.random.default_rng(3)
    channels = kernel[0] if op == "Conv" else kernel[1]
    model = conv_model(
        random.standard_normal(kernel).astype(dtype),
        random.standard_normal(channels).astype(dtype),
        attributes,
        (1, *input_shape),
        op,
    )
    entry = only(model, tmp_path)
    result = first_result(entry, random)
    assert isinstance(result, RuntimeResult), result
    if dtype == "float64":  # onnxruntime has none: the reference evaluator steps in
        assert result.runtime.startswith("onnx.reference ")
    else:
        assert result.runtime.startswith(f"{runtime} ")
    assert result.x.shape == input_shape
    assert result.y.shape == entry.require().output_shape
    assert np.asarray(result.y).std() > 0.1
    finding = check_runtime(entry.load(), result)
    assert finding.holds, finding.detail
    assert runtime in finding.detail or dtype == "float64"
    y = np.array(result.y)  # and an output that is wrong is seen
    y.reshape(-1)[y.size // 2] += 0.5
    assert check_runtime(entry.load(), replace(result, y=y)).holds is False
    assert check_runtime(entry.load(), replace(result, y=y[:, :-1])).holds is False


@st.composite
def layers(draw: Any) -> tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], str, int]:
    """(op, kernel shape, input shape, attributes, dtype, seed), any attributes at all."""
    op = draw(st.sampled_from(["Conv", "ConvTranspose"]))
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    most = {1: 9, 2: 6, 3: 4}[dims]

    def each(low: int, high: int, count: int = dims) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    group = draw(st.sampled_from([1, 1, 2, 3]))
    near, depth = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, sizes = each(1, 4 if dims < 3 else 3), each(1, most)
    given: dict[str, Any] = {"group": group} if group > 1 else {}
    if draw(st.booleans()):
        given["strides"] = each(1, 4)
    if draw(st.booleans()):
        given["dilations"] = each(1, 3)
    padding = draw(st.sampled_from(["none", "pads", "auto", "both", "negative"]))
    if padding in ("pads", "both"):
        given["pads"] = each(0, 3, 2 * dims)
    if padding == "negative":
        given["pads"] = each(-2, 3, 2 * dims)
    if padding in ("auto", "both"):
        modes = ["VALID", "SAME_UPPER", "SAME_LOWER", "NOTSET"]
        given["auto_pad"] = draw(st.sampled_from(modes))
    if op == "ConvTranspose":
        ones = [1] * dims
        steps = [*zip(given.get("strides", ones), given.get("dilations", ones), strict=True)]
        if draw(st.booleans()):
            given["output_padding"] = [draw(st.integers(0, max(pair) - 1)) for pair in steps]
        if draw(st.integers(0, 3)) == 0:
            given["output_shape"] = [
                max(1, (n - 1) * s + d * (k - 1) + 1 + draw(st.integers(-3, 2)))
                for n, k, (s, d) in zip(sizes, kernel, steps, strict=True)
            ]
    channels = near * group if op == "ConvTranspose" else depth * group
    dtype = draw(st.sampled_from(["float32", "float32", "float16", "float64"]))
    shape = (near * group, depth, *kernel)
    return op, shape, (channels, *sizes), given, dtype, draw(st.integers(0, 2**16))


def _agrees(drawn: Any, folder: Path) -> None:
    op, kernel, input_shape, attributes, dtype, seed = drawn
    random = np.random.default_rng(seed)
    outputs = kernel[1] * attributes.get("group", 1) if op == "ConvTranspose" else kernel[0]
    bias = random.standard_normal(outputs).astype(dtype) if seed % 2 else None
    weights = random.standard_normal(kernel).astype(dtype)
    entry = only(conv_model(weights, bias, attributes, (1, *input_shape), op), folder)
    if entry.error is not None:  # a geometry without outputs, or one that is not agreed upon
        assert isinstance(entry.error, ConvfcError)
        return
    result = first_result(entry, random)
    if isinstance(result, str):
        assert len(result) > 20
        return
    finding = check_runtime(entry.load(), result)
    assert finding.holds, finding.detail


quietly = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
@quietly
@given(drawn=layers())
def test_random_layers_by_onnxruntime(drawn: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    _agrees(drawn, tmp_path)


@pytest.mark.slow
@quietly
@given(drawn=layers())
def test_random_layers_by_the_reference_evaluator(drawn: Any, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use("onnx.reference", patch)
        _agrees(drawn, tmp_path)


def test_a_runtime_that_is_known_to_be_wrong_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # n 8, k 1, s 4: inputs 0 and 4 by the specification; onnxruntime 1.31 reads 1 and 5.
    model = conv_model(
        np.float32([[[3]]]), None, {"strides": [4], "auto_pad": "SAME_UPPER"}, (1, 1, 8)
    )
    entry = only(model, tmp_path)
    result = first_result(entry, np.random.default_rng(0))
    assert isinstance(result, RuntimeResult)
    assert result.runtime.startswith("onnx.reference ")
    np.testing.assert_array_equal(result.y, 3 * result.x[:, ::4])
    assert check_runtime(entry.load(), result).holds


def test_no_runtime_for_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use("onnx.reference", monkeypatch)
    model = conv_model(
        ramp(2, 1, 3), None, {"group": 2, "strides": [2]}, (1, 2, 4), "ConvTranspose"
    )
    entry = only(model, tmp_path)
    reason = first_result(entry, np.random.default_rng(0))
    assert isinstance(reason, str)
    assert "ConvTranspose with group" in reason
    done = convfc(capsys, "convert", tmp_path / "model.onnx", "-o", tmp_path / "out.npz", "--json")
    assert done.code == 0, done.err
    (told,) = done.json()["matrices"]
    (finding,) = (f for f in told["report"]["findings"] if f["check"] == "runtime")
    assert finding["holds"] is not True  # what was not checked does not hold
    assert "ConvTranspose with group" in finding["detail"]


# --- faults ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_map_of_a_fault() -> Iterator[None]:
    """Maps are made once for all nodes alike: none may outlive the fault that it was made with."""
    yield
    convolution._index_map.cache_clear()


def _attributes(change: Callable[[Any], dict[str, Any]]) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in what the attributes are taken for."""

    def put(patch: pytest.MonkeyPatch) -> None:
        original = convolution.attributes

        def wrong(made: Any, kernel: Any) -> Any:
            read = original(made, kernel)
            changed = replace(read, **change(read))
            assert changed != read  # a fault that changes nothing would prove nothing
            return changed

        patch.setattr(convolution, "attributes", wrong)
        convolution._index_map.cache_clear()

    return put


def _weights(change: Callable[[Array], Array]) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in how the weights are read."""

    def put(patch: pytest.MonkeyPatch) -> None:
        original = convolution.widened

        def wrong(array: Array, name: str) -> Array:
            read = original(array, name)
            if array.ndim < 3:
                return read
            changed = np.ascontiguousarray(change(read))
            assert changed.shape == read.shape
            assert (changed != read).any()
            return changed

        patch.setattr(convolution, "widened", wrong)

    return put


def _bias(change: Callable[[Array], Array | None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in how the bias is read."""

    def put(patch: pytest.MonkeyPatch) -> None:
        def wrong(kernel: Array, index_map: Any, bias: Array) -> Convolution:
            return Convolution(kernel, index_map, change(bias))

        patch.setattr(convolution, "Convolution", wrong)

    return put


def _axis_ignored(patch: pytest.MonkeyPatch) -> None:
    """DequantizeLinear along its default axis, 1, whatever it says."""
    original = constants._evaluated

    def wrong(made: onnx.NodeProto, *rest: Any) -> Any:
        copy = onnx.NodeProto()
        copy.CopyFrom(made)
        if made.op_type == "DequantizeLinear":
            del copy.attribute[:]
        return original(copy, *rest)

    patch.setattr(constants, "_evaluated", wrong)
    patch.setattr(contained, "call", lambda run, *given, **rest: run(*given))


def _one_weight(array: Array) -> Array:
    changed = array.copy()
    changed.reshape(-1)[array.size // 2] *= np.float32(1.001)
    return changed


def layer(op: str, shape: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """A layer over (2, 7, 6) with a bias; weights drawn at random, so that no symmetry hides."""
    random = np.random.default_rng(8)
    outputs = shape[0] if op == "Conv" else shape[1] * attributes.get("group", 1)
    return conv_model(
        random.standard_normal(shape).astype(np.float32),
        random.standard_normal(outputs).astype(np.float32),
        attributes,
        (1, 2, 7, 6),
        op,
    )


def dequantized() -> onnx.ModelProto:
    """Weights of as many outputs as inputs, with a scale for each output."""
    made = [
        node("DequantizeLinear", ["q", "s"], ["W"], axis=0),
        node("Conv", ["x", "W"], ["y"], name="conv"),
    ]
    codes = np.random.default_rng(2).integers(-100, 100, (2, 2, 3, 3)).astype(np.int8)
    stored = [tensor("q", codes), tensor("s", np.float32([0.5, 2]))]
    return make_model(made, [info("x", (1, 2, 7, 6), TensorProto.FLOAT)], stored)


SQUARE = (2, 2, 3, 3)

FAULTS: dict[str, tuple[onnx.ModelProto, Callable[[pytest.MonkeyPatch], None]]] = {
    "pads swapped": (
        layer("Conv", SQUARE, pads=[1, 0, 0, 1]),
        _attributes(lambda a: {"pads": tuple((hi, lo) for lo, hi in a.pads)}),
    ),
    "pads of the wrong axis": (
        layer("Conv", SQUARE, pads=[1, 0, 1, 0]),
        _attributes(lambda a: {"pads": a.pads[::-1]}),
    ),
    "pads interleaved": (
        layer("Conv", SQUARE, pads=[1, 2, 0, 0]),
        _attributes(lambda a: {"pads": ((1, 2), (0, 0))}),
    ),
    "pads ignored": (
        layer("Conv", SQUARE, pads=[1, 1, 1, 1]),
        _attributes(lambda a: {"pads": ((0, 0), (0, 0))}),
    ),
    "pads of a transposed one swapped": (
        layer("ConvTranspose", SQUARE, pads=[1, 0, 0, 1]),
        _attributes(lambda a: {"pads": tuple((hi, lo) for lo, hi in a.pads)}),
    ),
    "SAME_UPPER as SAME_LOWER": (
        layer("Conv", (2, 2, 2, 2), auto_pad="SAME_UPPER"),
        _attributes(lambda a: {"auto_pad": "SAME_LOWER"}),
    ),
    "SAME_LOWER as SAME_UPPER": (
        layer("Conv", (2, 2, 2, 2), auto_pad="SAME_LOWER"),
        _attributes(lambda a: {"auto_pad": "SAME_UPPER"}),
    ),
    "dilations ignored": (
        layer("Conv", SQUARE, dilations=[2, 2], pads=[2, 2, 2, 2]),
        _attributes(lambda a: {"dilations": (1, 1)}),
    ),
    "dilations ignored, the size kept": (
        layer("Conv", SQUARE, dilations=[2, 2], pads=[2, 2, 2, 2]),
        _attributes(lambda a: {"dilations": (1, 1), "pads": ((1, 1), (1, 1))}),
    ),
    "strides ignored": (
        layer("Conv", SQUARE, strides=[2, 1]),
        _attributes(lambda a: {"strides": (1, 1)}),
    ),
    "strides of the wrong axis": (
        layer("Conv", SQUARE, strides=[2, 1]),
        _attributes(lambda a: {"strides": (1, 2)}),
    ),
    "output_padding ignored": (
        layer("ConvTranspose", SQUARE, strides=[2, 2], output_padding=[1, 1]),
        _attributes(lambda a: {"output_padding": (0, 0)}),
    ),
    "output_padding before": (
        layer("ConvTranspose", SQUARE, strides=[2, 2], output_padding=[1, 1]),
        _attributes(lambda a: {"output_padding": (0, 0), "pads": ((-1, 0), (-1, 0))}),
    ),
    "kernel of a transposed one as of a convolution": (
        layer("ConvTranspose", SQUARE),
        _weights(lambda w: w.swapaxes(0, 1)),
    ),
    "kernel transposed": (layer("Conv", SQUARE), _weights(lambda w: w.swapaxes(0, 1))),
    "kernel axes exchanged": (layer("Conv", SQUARE), _weights(lambda w: w.swapaxes(2, 3))),
    "kernel flipped": (layer("Conv", SQUARE), _weights(lambda w: w[:, :, ::-1, ::-1])),
    "kernel of a transposed one flipped": (
        layer("ConvTranspose", SQUARE),
        _weights(lambda w: w[:, :, ::-1, ::-1]),
    ),
    "kernel in channels-last order": (
        layer("Conv", SQUARE),
        _weights(lambda w: w.reshape(2, 3, 3, 2).transpose(0, 3, 1, 2)),
    ),
    "one weight wrong by a thousandth": (layer("Conv", SQUARE), _weights(_one_weight)),
    "groups in the wrong order": (
        layer("Conv", (4, 1, 3, 3), group=2),
        _weights(lambda w: w.reshape(2, 2, 1, 3, 3).swapaxes(0, 1).reshape(w.shape)),
    ),
    "bias ignored": (layer("Conv", SQUARE), _bias(lambda b: None)),
    "bias twice": (layer("Conv", SQUARE), _bias(lambda b: 2 * b)),
    "bias of other channels": (layer("Conv", SQUARE), _bias(lambda b: b[::-1])),
    "DequantizeLinear along the wrong axis": (dequantized(), _axis_ignored),
}

GROUP_IGNORED = (
    conv_model(ramp(2, 3, 3, 3), None, {"group": 2}, (1, 2, 7, 6), "ConvTranspose"),
    _attributes(lambda a: {"group": 1}),
)
"""Its outputs are too few then; the reference evaluator cannot run it, onnxruntime can."""


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_in_the_reader_stops_the_conversion(
    what: str,
    runtime: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, put = FAULTS[what]
    _stops(model, put, runtime, tmp_path, monkeypatch, capsys)


def test_a_group_ignored_stops_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    _stops(*GROUP_IGNORED, "onnxruntime", tmp_path, monkeypatch, capsys)


def _stops(
    model: onnx.ModelProto,
    put: Callable[[pytest.MonkeyPatch], None],
    runtime: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(runtime, monkeypatch)
    path, out = save(model, folder), folder / "out.npz"
    done = convfc(capsys, "convert", path, "-o", out, "--json")
    assert done.code == 0, done.err  # without the fault
    (told,) = done.json()["matrices"]
    (finding,) = (f for f in told["report"]["findings"] if f["check"] == "runtime")
    assert finding["holds"] is True
    assert runtime in finding["detail"]
    sound = out.read_bytes()
    out.unlink()
    with monkeypatch.context() as patch:
        put(patch)
        done = convfc(capsys, "convert", path, "-o", out)
        assert done.code == 1, done.err
        assert done.out == ""
        assert "the original node, run by " + runtime in done.err
        assert "layer conv" in done.err
        assert not list(folder.glob("*.npz"))
        assert not list(folder.glob(".*.part"))
        done = convfc(capsys, "convert", path, "-o", out, "--no-verify")
        assert done.code == 0, done.err
        assert out.read_bytes() != sound
