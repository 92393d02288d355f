"""Quant and BipolarQuant: the quantizers of QONNX, where what they quantize is constant.

They round in steps, and give the real numbers that the steps stand for. They are not operators of
ONNX, so no runtime runs a node whose weights they make.

Source: the operator specifications of QONNX, docs/qonnx-custom-ops, and its sample implementation.
"""

from collections.abc import Callable

import numpy as np
import onnx

from convfc_cli.arrays import Array
from convfc_cli.errors import MalformedInput, Unsupported

_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
"""The domain of the operators, and the older ones of Brevitas and FINN."""

_INPUTS = {"Quant": 4, "IntQuant": 4, "BipolarQuant": 2}
"""How many inputs each has; IntQuant is the newer name of Quant."""

OPERATORS = frozenset((domain, name) for domain in _DOMAINS for name in _INPUTS)

MAX_BITS = 64

_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.copysign(np.ceil(np.abs(x)), x),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "HALF_DOWN": lambda x: np.copysign(np.ceil(np.abs(x) - 0.5), x),
}


def quantized(node: onnx.NodeProto, inputs: list[Array | None]) -> Array:
    """What a node of `OPERATORS` makes of constants, in float32."""
    given = [array.astype(np.float32) for array in inputs if array is not None]
    if len(given) != _INPUTS[node.op_type] or len(given) != len(inputs):
        raise MalformedInput(f"a {node.op_type} takes {_INPUTS[node.op_type]} inputs")
    with np.errstate(all="ignore"):  # untrusted scales may be anything
        if node.op_type == "BipolarQuant":
            x, scale = given
            return _signs(x) * scale
        x, scale, zero, bits = given
        return (_codes(node, x / scale + zero, bits) - zero) * scale


def _codes(node: onnx.NodeProto, x: Array, bits: Array) -> Array:
    """The integers of `bits` bits that represent x."""
    if bits.size != 1 or not 1 <= bits.item() <= MAX_BITS or bits.item() % 1:
        raise Unsupported(f"a {node.op_type} to {str(bits.tolist())[:40]} bits is not read")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
    stated = attributes.get("rounding_mode", b"ROUND")
    mode = stated.decode(errors="replace").upper() if isinstance(stated, bytes) else str(stated)
    if mode not in _ROUNDING:
        raise Unsupported(f"a {node.op_type} that rounds by {mode[:40]!r} is not read")
    count = 2 ** int(bits.item())
    if signed and count == 2:  # as the sample implementation has it
        return _signs(x)
    low = narrow - count // 2 if signed else 0
    high = count // 2 - 1 if signed else count - 1 - narrow
    return np.asarray(_ROUNDING[mode](np.clip(x, np.float32(low), np.float32(high))))


def _signs(x: Array) -> Array:
    return np.where(x >= 0, np.float32(1), np.float32(-1))
