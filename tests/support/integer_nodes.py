"""ConvInteger and QLinearConv nodes for the tests, and what each runtime finds of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.models.entry import Entry
from convfc_cli.runtimes import onnx_node
from convfc_cli.runtimes.registry import runtime
from tests.support.cli_models import run
from tests.support.models import HAS_ONNXRUNTIME, info, make_model, tensor

Array = NDArray[Any]
node = helper.make_node

RUN_TIME = "known only at run time"


def codes(random: np.random.Generator, dtype: str, *shape: int) -> Array:
    """Any codes of 8 bits."""
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def model_of(
    op: str,
    w: Array,
    input_shape: Sequence[int | str | None],
    *,
    x_dtype: str = "uint8",
    attributes: Mapping[str, Any] | None = None,
    computed: Sequence[str] = (),
    **tensors: Any,
) -> onnx.ModelProto:
    """A node `conv`, x to y by weights `w` and `tensors`; those `computed` are inputs instead."""
    order = {
        "ConvInteger": ("w", "x_zero_point", "w_zero_point"),
        "QLinearConv": (
            *("x_scale", "x_zero_point", "w", "w_scale", "w_zero_point"),
            *("y_scale", "y_zero_point", "B"),
        ),
    }[op]
    given = {"w": w, **{what: np.asarray(array) for what, array in tensors.items()}}
    names = ["x", *(what if what in given else "" for what in order)]
    kinds = {what: helper.np_dtype_to_tensor_dtype(array.dtype) for what, array in given.items()}
    inputs = [
        info("x", input_shape, helper.np_dtype_to_tensor_dtype(np.dtype(x_dtype))),
        *(info(what, given[what].shape, kinds[what]) for what in computed),
    ]
    stored = [tensor(what, array) for what, array in given.items() if what not in computed]
    made = node(op, names, ["y"], name="conv", **(attributes or {}))
    return make_model([made], inputs, stored)


SCALES: dict[str, Any] = {
    "x_scale": np.float32(0.02),
    "w_scale": np.float32(0.005),
    "y_scale": np.float32(2.0),
}


def linear_model(
    w: Array, input_shape: Sequence[int | str | None] = (1, 2, 6, 5), **rest: Any
) -> onnx.ModelProto:
    """A QLinearConv with scales and zero points that do for most tests."""
    x_dtype, y_dtype = rest.get("x_dtype", "uint8"), rest.pop("y_dtype", "uint8")
    zeros = {
        "x_zero_point": np.array(3, x_dtype),
        "w_zero_point": np.array(1, w.dtype),
        "y_zero_point": np.array(100, y_dtype),
    }
    return model_of("QLinearConv", w, input_shape, **{**SCALES, **zeros, **rest})


def wrong_here(name: str, x: str = "uint8", w: str = "int8", op: str = "QLinearConv") -> str:
    """Why this runtime is not asked on this processor, or nothing."""
    return onnx_node.unfit(runtime(name), op, x, w)


def held_against(name: str, *arguments: Any) -> None:
    """`verify --against` of a QLinearConv of uint8 with int8 that is right."""
    done = run("verify", *arguments, "--against", name)
    told = wrong_here(name)
    assert (done.code, told in done.err) == (4 if told else 0, True), done


def findings(entry: Entry) -> dict[str, Any]:
    """What each runtime finds of the original node, by its name; a reason where it was not run."""
    layer, found = entry.load(), {}
    runnable = entry.runnable()
    assert runnable is not None
    for name in ("onnxruntime", "reference") if HAS_ONNXRUNTIME else ("reference",):
        result = runnable.run(runtime(name), np.random.default_rng(5))
        found[name] = result if isinstance(result, str) else check_runtime(layer, result)
    return found


ONES = np.ones((3, 2, 3, 3), np.int8)
