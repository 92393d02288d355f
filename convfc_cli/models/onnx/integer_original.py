"""The original ConvInteger or QLinearConv, as the model has it, ready to be run.

It is given random codes, and random values for the scales and zero points that only a run of the
network would tell. A ConvInteger has to give the layer's sums exactly. A QLinearConv rounds them to
codes: each stands for all sums within half a step of it, and the least and the largest code for
everything beyond, so that they are left out.
"""

from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.models.onnx.integer import Quantized, conv
from convfc_cli.models.onnx.original import ORIGINAL, applied, cut_out, run, runtime_node
from convfc_cli.rounding import RuntimeResult
from convfc_cli.runtimes.onnx_node import TOO_LARGE
from convfc_cli.runtimes.runtime import MAX_ELEMENTS, RunnableLayer, Runtime

SPREAD = 40
"""The standard deviation, in codes, of the outputs that inputs are drawn for."""

LEAST = 2.0**-6
"""Of all codes the share that inputs are drawn from at least: four."""

DRAWN_SCALE = 2.0**-6
"""The x_scale of a run of a node that leaves it open."""

HALF = 0.5 * (1 + 2.0**-9)
"""Steps that rounding to a code may add, the arithmetic in float32 before it included."""

UNIT = 2.0**-22
"""Of the real-valued layer: its weights and inputs are products in float32, rounded once or twice,
where the node adds up integers."""


def original(quantized: Quantized, *, real: bool) -> RunnableLayer:
    """The node itself, to be held to the layer of integers, or to the `real` one."""
    plain = conv(quantized.node)

    def run_node(runtime: Runtime, random: Any) -> RuntimeResult | str:
        if (
            quantized.index.rows + quantized.index.columns > MAX_ELEMENTS
        ):  # before the weights are decoded
            return TOO_LARGE
        given, codes = _drawn(quantized, random)
        drawn = {
            quantized.names[what]: array
            for what, array in given.items()
            if not quantized.constant(what)
        }
        y_dtype = given["y_zero_point"].dtype if "y_zero_point" in given else np.dtype(np.int32)
        model = cut_out(
            quantized.node, quantized.scope, 0, quantized.index, (codes.dtype, y_dtype), drawn
        )
        node = replace(
            runtime_node(plain, quantized.node.op_type, model, quantized.index),
            per_channel=any(array.ndim for what, array in given.items() if what[0] == "w"),
            weights=quantized.dtype("w"),
        )
        y = run(runtime, node, codes)
        if isinstance(y, str):
            return y
        x = codes.astype(np.int32) - given["x_zero_point"].astype(np.int32)
        if "y_zero_point" not in given:
            return RuntimeResult.of(runtime.label, x, y)
        return _in_steps(quantized, runtime.label, given, x, y, real=real)

    return RunnableLayer(ORIGINAL, run_node, applied(plain, quantized.scope, quantized.index))


def _drawn(quantized: Quantized, random: Any) -> tuple[dict[str, Array], Array]:
    """(scales and zero points, x)."""
    given = {what: quantized.value(what) for what in quantized.places if quantized.constant(what)}
    dtype = np.dtype(quantized.dtype("x"))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if "x_zero_point" not in given:
        given["x_zero_point"] = np.array(random.integers(low, high, endpoint=True), dtype)
    zero = int(given["x_zero_point"].item())
    x = random.integers(low, high, quantized.index.input_shape, endpoint=True)
    if quantized.node.op_type == "QLinearConv":
        reach = _settled(quantized, random, given, x - zero)
        x = zero + np.rint((x - zero) * reach).astype(int)
    return given, x.astype(dtype)


def _settled(quantized: Quantized, random: Any, given: dict[str, Array], x: Array) -> float:
    """By what to multiply x for outputs that are not all saturated; puts what is not constant of a
    QLinearConv to what was `given`.
    """
    kernel = quantized.kernel().reshape(quantized.index.kernel_shape[0], -1).astype(np.float64)
    given.setdefault("x_scale", np.array(DRAWN_SCALE, np.float32))
    with np.errstate(all="ignore"):  # untrusted scales may be anything
        sums = np.sqrt(x.var() * (kernel**2).sum(1) + (x.mean() * kernel.sum(1)) ** 2)
        sums = sums * np.abs(given["x_scale"].item() * given["w_scale"].reshape(-1))
        typical = float(np.median(sums))
        given.setdefault("y_scale", np.array(typical / SPREAD or 1, np.float32))
        reach = float(np.abs(np.float64(given["y_scale"].item())) * SPREAD / typical)
    if "y_zero_point" not in given:
        codes = np.iinfo(quantized.dtype("y"))
        middle = (codes.min + codes.max) // 2
        given["y_zero_point"] = np.array(random.integers(middle - 32, middle + 32), codes.dtype)
    return min(max(reach, LEAST), 1.0) if isfinite(reach) else 1.0


def _in_steps(
    quantized: Quantized, label: str, given: dict[str, Array], x: Array, y: Array, *, real: bool
) -> RuntimeResult:
    """What a QLinearConv made of x, in the units of the layer."""
    codes = np.iinfo(y.dtype)
    saturated = (y == codes.min) | (y == codes.max)
    wide = {what: array.astype(np.float64) for what, array in given.items()}
    x_scale, y_scale = wide["x_scale"].reshape(()), wide["y_scale"].reshape(())
    with np.errstate(all="ignore"):
        step = y_scale if real else y_scale / (x_scale * quantized.along(wide["w_scale"], 0))
        coarse = np.where(saturated, np.inf, np.abs(step) * HALF)
        sums = (y.astype(np.float64) - wide["y_zero_point"].reshape(())) * step
        if real:
            x, unit, largest = x * x_scale, UNIT, 2.0**127
        else:
            unit, largest = 0.0, 2.0**31
    return RuntimeResult(label, x, sums, unit, largest, extra=coarse, beyond="saturated")
