"""onnxruntime with other integer kernels than this processor's: right ones, or wrong ones.

`CONVFC_TEST_KERNELS=right` or `=int8,uint8` (inputs, weights: wrong for these) runs all tests so:
they must pass with both, whatever the processor. Commands that tests start as processes of their
own keep the processor's kernels.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from convfc_cli.runtimes import onnx_node
from convfc_cli.runtimes.onnxruntime import Onnxruntime

Array = NDArray[Any]

VARIABLE = "CONVFC_TEST_KERNELS"

PLACES = {"ConvInteger": (1, 3), "QLinearConv": (3, 5)}
"""Which inputs are the weights and their zero point."""


@contextmanager
def chosen() -> Iterator[None]:
    """The kernels that the environment asks for."""
    asked = os.environ.get(VARIABLE, "")
    with pytest.MonkeyPatch.context() as patch:
        if asked == "right":
            use_right(patch)
        elif asked:
            use_wrong(patch, *asked.split(","))
        yield


def use_wrong(patch: pytest.MonkeyPatch, x: str, weights: str) -> None:
    """Saturate sums of inputs and weights of these dtypes."""

    def answer(model: onnx.ModelProto, feeds: dict[str, Array], y: Any) -> Any:
        found = _weights(model)
        if isinstance(y, str) or (feeds["x"].dtype, found and found[0].dtype) != (x, weights):
            return y
        if y.dtype == np.int32:
            return np.clip(y, -(2**14), 2**14)
        middle = (np.iinfo(y.dtype).min + np.iinfo(y.dtype).max) // 2
        return np.clip(y, middle - 16, middle + 16).astype(y.dtype)

    patch_answers(patch, lambda model: model, answer)


def use_right(patch: pytest.MonkeyPatch) -> None:
    """Give all weights the dtype of their inputs: sums of 8-bit numbers of one dtype are right
    everywhere.
    """
    patch_answers(patch, _of_one_dtype, lambda model, feeds, y: y)


def patch_answers(patch: pytest.MonkeyPatch, change: Any, after: Any) -> None:
    """Change what models onnxruntime is given, and what it makes of them."""
    whole = Onnxruntime.answer

    def answer(
        self: Onnxruntime, model: onnx.ModelProto, feeds: dict[str, Array], *rest: int
    ) -> Any:
        return after(model, feeds, whole(self, change(model), feeds, *rest))

    patch.setattr(Onnxruntime, "answer", answer)
    patch.setattr(onnx_node, "unfit", cache(onnx_node.unfit.__wrapped__))


def _weights(model: onnx.ModelProto) -> tuple[Array, Array | None] | None:
    """The weights of a node of integers, and their zero point; None where they are not stored
    in the model.
    """
    node, stored = model.graph.node[-1], {t.name: t for t in model.graph.initializer}
    if node.op_type not in PLACES:
        return None
    place, zero = PLACES[node.op_type]
    if node.input[place] not in stored:
        return None
    given = node.input[zero] if len(node.input) > zero else ""
    return (
        numpy_helper.to_array(stored[node.input[place]]),
        numpy_helper.to_array(stored[given]) if given in stored else None,
    )


def _of_one_dtype(model: onnx.ModelProto) -> onnx.ModelProto:
    found = _weights(model)
    kind = model.graph.input[0].type.tensor_type.elem_type
    x = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if found is None or found[0].dtype == x:
        return model
    shift = 128 if x == np.uint8 else -128
    w, zero = found
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = copy.graph.node[-1]
    place, at = PLACES[node.op_type]
    node.input.extend([""] * (at + 1 - len(node.input)))
    zeros = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    for number, name, array in ((place, "right_w", w), (at, "right_zero", zeros)):
        node.input[number] = name
        shifted = (array.astype(np.int64) + shift).astype(x)
        copy.graph.initializer.append(numpy_helper.from_array(shifted, name))
    return copy
