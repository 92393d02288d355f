"""FusedConv and other relatives of Conv: read, or refused with the reason; sizes behind them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from convfc_cli.errors import MalformedInput, Unsupported
from tests.support.cli_models import run
from tests.support.models import (
    HAS_ONNXRUNTIME,
    conv_model,
    dense,
    info,
    listed,
    make_model,
    only,
    ramp,
    save,
    tensor,
)

node = helper.make_node


# --- FusedConv ------------------------------------------------------------------------------------


def fused(*names: str, input_shape: Any = (1, 2, 6, 5), **attributes: Any) -> onnx.ModelProto:
    """A FusedConv of x, W and these."""
    stored = [tensor("W", ramp(3, 2, 3, 3)), tensor("B", ramp(3))]
    made = node(
        "FusedConv", ["x", "W", *names], ["y"], name="conv", domain="com.microsoft", **attributes
    )
    inputs = [info("x", input_shape), info("Z", (1, 3, 6, 5))]
    return make_model([made], inputs, stored, domains={"com.microsoft": 1})


def test_the_linear_part_of_a_fusedconv(tmp_path: Path) -> None:
    given = {"pads": [1, 1, 1, 1], "strides": [1, 1], "group": 1}
    path = save(fused("B", activation="Relu", **given), tmp_path)
    entry = only(path.read_bytes(), tmp_path)
    plain = conv_model(ramp(3, 2, 3, 3), ramp(3), given, (1, 2, 6, 5))
    assert (dense(entry) == dense(only(plain, tmp_path))).all()
    assert entry.op == "com.microsoft.FusedConv"
    assert entry.notes() == {"activation": "Relu"}
    assert entry.load().bias.tolist() == ramp(3).tolist()
    save(fused("B", activation="Relu", **given), tmp_path)
    done = run("convert", path, "-v", "-o", tmp_path / "m.npz").succeeded()
    assert "note (conv): activation Relu" in done.err
    assert "the original node without its activation, run by" in " ".join(done.err.split())
    for name in ("reference",) + ("onnxruntime",) * HAS_ONNXRUNTIME:
        run("verify", tmp_path / "m.npz", "--model", path, "--against", name).succeeded()
    other = save(fused("B", activation="Tanh", **given), tmp_path, "other.onnx")
    assert run("verify", tmp_path / "m.npz", "--model", other).code == 1


def test_what_else_a_fusedconv_does_is_noted(tmp_path: Path) -> None:
    given = {"pads": [1] * 4, "activation": "HardSigmoid", "activation_params": [0.25, np.inf]}
    entry = only(fused("", "Z", **given), tmp_path)
    assert entry.notes() == {
        "activation": "HardSigmoid",
        "activation_params": [0.25, "inf"],
        "added_before_activation": "the tensor 'Z'",
    }
    assert entry.load().bias is None
    assert only(fused(), tmp_path).notes() == {}


@pytest.mark.parametrize(
    ("names", "attributes", "part"),
    [
        (("B", "Z", "Z"), {}, "takes four"),
        ((), {"activation": 3}, "'activation' of FusedConv has the wrong type"),
        ((), {"activation_params": "x"}, "'activation_params'"),
    ],
)
def test_a_malformed_fusedconv(
    names: tuple[str, ...], attributes: dict[str, Any], part: str, tmp_path: Path
) -> None:
    error = only(fused(*names, **attributes), tmp_path).error
    assert type(error) is MalformedInput
    assert part in str(error)


def test_an_unknown_attribute_of_a_fusedconv(tmp_path: Path) -> None:
    assert type(only(fused(beta=1.0), tmp_path).error) is Unsupported


# --- sizes behind operators that shape inference does not know ------------------------------------


def test_sizes_are_known_behind_fused_and_quantized_operators(tmp_path: Path) -> None:
    """Each output is what a last Conv reads: 4 channels of 8 x 8, or as its node makes it."""
    names = ["x", "s", "z"]
    microsoft: dict[str, Any] = {"domain": "com.microsoft"}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    cases = {
        "FusedConv": (
            node("FusedConv", ["x", "V"], ["t"], activation="Relu", **microsoft),
            (4, 6, 6),
        ),
        "Quant": (
            node("Quant", ["x", "s", "z", "b"], ["t"], domain="qonnx.custom_op.general"),
            (4, 8, 8),
        ),
        "QLinearAdd": (
            node("QLinearAdd", [*names, *names, "s", "z"], ["t"], **microsoft),
            (4, 8, 8),
        ),
        "QLinearMul": (
            node("QLinearMul", [*names, *names, "s", "z"], ["t"], **microsoft),
            (4, 8, 8),
        ),
        "QLinearSigmoid": (
            node("QLinearSigmoid", [*names, "s", "z"], ["t"], **microsoft),
            (4, 8, 8),
        ),
        "QLinearLeakyRelu": (
            node("QLinearLeakyRelu", [*names, "s", "z"], ["t"], alpha=0.1, **microsoft),
            (4, 8, 8),
        ),
        "QLinearConcat": (
            node("QLinearConcat", ["s", "z", *names, *names], ["t"], axis=2, **microsoft),
            (4, 16, 8),
        ),
        "QLinearAveragePool": (
            node(
                "QLinearAveragePool",
                [*names, "s", "z"],
                ["t"],
                channels_last=0,
                **pool,
                **microsoft,
            ),
            (4, 4, 4),
        ),
        "QLinearGlobalAveragePool": (
            node("QLinearGlobalAveragePool", [*names, "s", "z"], ["t"], **microsoft),
            (4, 1, 1),
        ),
        "channels last": (
            node(
                "QLinearAveragePool",
                [*names, "s", "z"],
                ["t"],
                channels_last=1,
                **pool,
                **microsoft,
            ),
            None,
        ),
    }
    stored = [tensor("W", ramp(1, 4, 1, 1)), tensor("V", ramp(4, 4, 3, 3))]
    stored += [tensor("s", np.float32(1)), tensor("z", np.float32(0)), tensor("b", np.float32(8))]
    for what, (made, shape) in cases.items():
        nodes = [made, node("Conv", ["t", "W"], ["y"], name="conv")]
        domains = {"com.microsoft": 1, "qonnx.custom_op.general": 1}
        model = make_model(nodes, [info("x", (1, 4, 8, 8))], stored, domains=domains)
        entry = listed(model, tmp_path).entries[-1]
        assert (entry.outline.input_shape if entry.outline else None) == shape, what


# --- refused with the reason ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "op", "part"),
    [
        ("", "DeformConv", "offsets are computed from the input"),
        ("com.microsoft.nchwc", "Conv", "reordered its weights into blocks"),
        ("com.microsoft", "NhwcConv", "NHWC"),
        ("com.microsoft", "NhwcFusedConv", "NHWC"),
        ("com.ms.internal.nhwc", "Conv", "NHWC"),
        ("com.ms.internal.nhwc", "ConvTranspose", "NHWC"),
        ("com.ms.internal.nhwc", "QLinearConv", "NHWC"),
        ("com.microsoft", "QLinearConv", "channels last"),
        ("com.microsoft", "ConvTransposeWithDynamicPads", "pads are computed"),
        ("qonnx.custom_op.channels_last", "Conv", "NHWC"),
        ("com.example", "ConvInteger", "com.example.ConvInteger is not read"),
        ("com.example", "FusedConv", "com.example.FusedConv is not read"),
    ],
)
def test_relatives_are_refused_with_the_reason(
    domain: str, op: str, part: str, tmp_path: Path
) -> None:
    made = node(op, ["x", "W"], ["y"], name="conv", domain=domain)
    domains = {domain: 1} if domain else None
    model = make_model(
        [made], [info("x", (1, 2, 6, 5))], [tensor("W", ramp(3, 2, 3, 3))], domains=domains
    )
    error = only(model, tmp_path).error
    assert type(error) is Unsupported
    assert part in str(error)
