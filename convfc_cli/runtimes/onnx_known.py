"""Small layers whose answers are known, by which a runtime shows itself right on this machine.

A runtime has other code for other processors, and some of it is wrong: where x86 has no
instructions for 8-bit dot products, two products of a uint8 and an int8 are added and saturated at
16 bits. So an operator is tried on the dtypes in question before its answers count. All numbers
here are whole, half of the 8-bit codes extreme ones, and every sum is exact in its dtype; the
answers are sums of products in int64, by the definition of the operator.

Operators that add up nothing have no such layer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt, prod
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper, numpy_helper

from convfc_cli.arrays import Array

SEED = 0

PRECISION = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}
"""Bits of a significand: integers up to 2 to that power are exact."""

STEP = 1021
"""The y_scale of a QLinearConv. It is odd, so that no sum is half way between two codes."""


@dataclass(frozen=True)
class Known:
    """A node from the input `x` to the output `y`, with its answer."""

    op: str
    x: Array
    constants: dict[str, Array]
    """Its other inputs, in order."""

    answer: Array
    attributes: dict[str, Any] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The node as a model."""
        node = helper.make_node(self.op, ["x", *self.constants], ["y"], **self.attributes)
        kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in (self.x, self.answer)]
        graph = helper.make_graph(
            [node],
            "known",
            [helper.make_tensor_value_info("x", kinds[0], self.x.shape)],
            [helper.make_tensor_value_info("y", kinds[1], self.answer.shape)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        version = 22 if self.x.dtype.name == "bfloat16" else 17
        opset = helper.make_opsetid("", version)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def known(op: str, x: str, weights: str) -> Known | None:
    """The layer of an operator with inputs and weights of these dtypes; None where it has none."""
    if op not in _MAKERS:
        return None
    return _MAKERS[op](np.random.default_rng(SEED), dtype(x), dtype(weights))


def dtype(name: str) -> np.dtype[Any]:
    """A dtype by its name; NumPy itself has no bfloat16."""
    if name == "bfloat16":
        return np.dtype(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
    return np.dtype(name)


def _drawn(random: Any, dtype: np.dtype[Any], shape: tuple[int, ...], terms: int) -> Array:
    """Integers, so many products of which have an exact sum: of the codes of 8 bits any, half
    of them extreme.
    """
    if dtype.kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        array: Array = random.integers(low, high, shape, endpoint=True)
        extreme = random.random(shape) < 0.5
        array[extreme] = random.choice([low, high], np.count_nonzero(extreme))
    else:
        most = isqrt(2 ** min(PRECISION[dtype.name], 24) // terms)
        array = random.integers(-most, most, shape, endpoint=True)
    return array.astype(dtype)


def _convolved(x: Array, w: Array) -> Array:
    """x (1, in, h, w) by w (out, in, h, w), in int64."""
    windows = sliding_window_view(x[0].astype(np.int64), w.shape[2:], axis=(1, 2))
    sums: Array = np.einsum("cyxhw,ochw->oyx", windows, w.astype(np.int64))
    return sums[None]


KERNEL = (16, 8, 3, 3)
INPUT = (1, 8, 8, 8)
TERMS = prod(KERNEL[1:])


def _conv(random: Any, x_dtype: np.dtype[Any], w_dtype: np.dtype[Any]) -> Known:
    x, w = _drawn(random, x_dtype, INPUT, TERMS), _drawn(random, w_dtype, KERNEL, TERMS)
    return Known("Conv", x, {"w": w}, _convolved(x, w).astype(x_dtype))


def _conv_transpose(random: Any, x_dtype: np.dtype[Any], w_dtype: np.dtype[Any]) -> Known:
    """The convolution, by the kernel turned round, of x with zeros around it."""
    x, w = _drawn(random, x_dtype, INPUT, TERMS), _drawn(random, w_dtype, KERNEL, TERMS)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    answer = _convolved(padded, w[:, :, ::-1, ::-1]).astype(x_dtype)
    return Known("ConvTranspose", x, {"w": w.swapaxes(0, 1)}, answer)


def _conv_integer(random: Any, x_dtype: np.dtype[Any], w_dtype: np.dtype[Any]) -> Known:
    x, w = _drawn(random, x_dtype, INPUT, TERMS), _drawn(random, w_dtype, KERNEL, TERMS)
    return Known("ConvInteger", x, {"w": w}, _convolved(x, w).astype(np.int32))


def _qlinear_conv(random: Any, x_dtype: np.dtype[Any], w_dtype: np.dtype[Any]) -> Known:
    x, w = _drawn(random, x_dtype, INPUT, TERMS), _drawn(random, w_dtype, KERNEL, TERMS)
    codes = np.iinfo(x_dtype)
    middle = (codes.min + codes.max) // 2
    steps = np.rint(_convolved(x, w) / STEP) + middle
    constants = {
        "x_scale": np.float32(1),
        "x_zero_point": np.zeros((), x_dtype),
        "w": w,
        "w_scale": np.float32(1),
        "w_zero_point": np.zeros((), w_dtype),
        "y_scale": np.float32(STEP),
        "y_zero_point": np.array(middle, x_dtype),
    }
    answer = np.clip(steps, codes.min, codes.max).astype(x_dtype)
    return Known("QLinearConv", x, {name: np.asarray(a) for name, a in constants.items()}, answer)


def _multiplied(op: str) -> "Maker":
    """Of rows by a matrix."""

    def make(random: Any, x_dtype: np.dtype[Any], w_dtype: np.dtype[Any]) -> Known:
        x, w = _drawn(random, x_dtype, (5, 40), 40), _drawn(random, w_dtype, (40, 19), 40)
        answer = x.astype(np.int64) @ w.astype(np.int64)
        return Known(op, x, {"w": w}, answer.astype(x_dtype))

    return make


def _averaged(op: str, **attributes: Any) -> "Maker":
    """Of 4 x 4 whole channels, whose sums are multiples of 16."""

    def make(random: Any, x_dtype: np.dtype[Any], w_dtype: np.dtype[Any]) -> Known:
        x = 16 * random.integers(-7, 7, (1, 3, 4, 4), endpoint=True)
        answer = x.sum((2, 3), keepdims=True) // 16
        return Known(op, x.astype(x_dtype), {}, answer.astype(x_dtype), attributes)

    return make


Maker = Callable[[Any, np.dtype[Any], np.dtype[Any]], Known]

_MAKERS: dict[str, Maker] = {
    "AveragePool": _averaged("AveragePool", kernel_shape=[4, 4]),
    "Conv": _conv,
    "ConvInteger": _conv_integer,
    "ConvTranspose": _conv_transpose,
    "Gemm": _multiplied("Gemm"),
    "GlobalAveragePool": _averaged("GlobalAveragePool"),
    "MatMul": _multiplied("MatMul"),
    "QLinearConv": _qlinear_conv,
}
"""By operator."""
