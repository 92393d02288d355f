"""One layer as an ONNX model of its own, and what the runtimes of such nodes share."""

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod
from textwrap import shorten
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper

from convfc_cli import contained
from convfc_cli.arrays import Array
from convfc_cli.contained import Limits
from convfc_cli.errors import Refused
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.outline import Outline
from convfc_cli.rounding import spend
from convfc_cli.runtimes.onnx_known import known
from convfc_cli.runtimes.runtime import MAX_ELEMENTS, Runtime
from convfc_cli.taps import IndexMap

TOO_LARGE = "the layer's tensors are too large to run it for a check"


@dataclass(frozen=True, eq=False)
class Node:
    """A model of one node, from the input `x` to the output `y`, and what tells of it whether a
    runtime is right and quick enough. `op` is its operator, `outline` the layer it is.
    """

    model: onnx.ModelProto
    op: str
    outline: Outline
    axes: tuple[Axis, ...] = ()
    """Of a convolution or a pooling layer."""

    auto_pad: str = "NOTSET"
    negative_pads: bool = False
    output_shape: bool = False
    """Whether the node states its output's shape, and not its pads."""

    per_channel: bool = False
    """Whether it has a zero point or a scale for each output channel, as a vector."""

    weights: str = ""
    """The dtype of its weights, where that is not the dtype of `x`."""


@dataclass(frozen=True)
class Stated:
    """An index map as a node with pads that no runtime refuses, none negative.

    Where a pad would be negative, a convolution has more outputs than the layer, and a
    transposed one is given more inputs, which are zero.
    """

    node: Node
    index_map: IndexMap
    """That of the layer."""

    more: tuple[tuple[int, int], ...]
    """How many more, before and after, along each axis."""

    def given(self, x: Array) -> Array:
        """The batch x as the node takes it."""
        if not (self.index_map.transposed and any(map(any, self.more))):
            return x
        return np.pad(x, ((0, 0), (0, 0), *self.more))

    def asked(self, y: Array) -> Array:
        """The layer's part of the batch y that the node gives."""
        if self.index_map.transposed:
            return y
        sizes = self.index_map.output_shape[1:]
        inside = (
            slice(before, before + size) for (before, _), size in zip(self.more, sizes, strict=True)
        )
        return y[(slice(None), slice(None), *inside)]


@lru_cache(maxsize=8)
def stated(index_map: IndexMap, dtype: str, *, bias: bool) -> Stated | str:
    """The node of a map, with inputs `x`, `w` and, on request, `b`; or why there is none.

    ONNX states an axis, i = o stride + t dilation - offset, by the zeros before the input (offset)
    and after it, up to where the last window ends.
    """
    more, axes, highs = [], [], []
    for axis in index_map.axes:
        reach = (axis.outputs - 1) * axis.stride + axis.span
        pads = (axis.offset, reach - axis.inputs - axis.offset)
        before, after = (max(0, -(pad // axis.stride)) for pad in pads)
        if max(*pads, before, after) > MAX_ELEMENTS:
            return TOO_LARGE
        low, high = (pad + n * axis.stride for pad, n in zip(pads, (before, after), strict=True))
        more.append((before, after))
        axes.append(replace(axis, outputs=before + axis.outputs + after, offset=low))
        highs.append(high)
    if index_map.kernel_shape[1] * index_map.groups * prod(map(_padded, axes)) > MAX_ELEMENTS:
        return TOO_LARGE
    wider = IndexMap(index_map.kernel_shape, tuple(axes), index_map.groups, index_map.transposed)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = ["x", "w", "b"] if bias else ["x", "w"]
    node = helper.make_node(
        "ConvTranspose" if index_map.transposed else "Conv",
        names,
        ["y"],
        group=index_map.groups,
        strides=[axis.stride for axis in index_map.axes],
        dilations=[axis.dilation for axis in index_map.axes],
        pads=[*(axis.offset for axis in axes), *highs],
    )
    sizes = [None] * (2 + len(index_map.axes))
    inputs = [
        helper.make_tensor_value_info(name, kind, sizes[:1] if name == "b" else sizes)
        for name in names
    ]
    output = helper.make_tensor_value_info("y", kind, sizes)
    graph = helper.make_graph([node], "layer", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return Stated(Node(model, node.op_type, wider, wider.axes), index_map, tuple(more))


def _padded(axis: Axis) -> int:
    """Inputs of an axis with the zeros around them."""
    return max(axis.inputs, (axis.outputs - 1) * axis.stride + axis.span)


LEAST_MEMORY = 2**30
"""Bytes that running a node may take whatever its size: those of a runtime's import included."""

COPIES = 8
"""How often its tensors and weights may be held, and as what is wider, beside that."""


class NodeRuntime(Runtime):
    """A runtime of ONNX nodes: how a layer is put to it, and how its failures are worded.

    Nodes are run in the contained child, which alone imports the runtime.
    """

    rules: ClassVar[dict[str, Callable[[Node, int], str]]]
    """By operator: why its answer on this many inputs would be useless; empty where it is not."""

    def apply(self, layer: Linear, x: Array) -> Array | str:
        if not isinstance(layer, Convolution):
            return f"{self.name} is given convolutions alone, this is a {layer.kind}"
        node = stated(layer.index_map, x.dtype.name, bias=layer.bias is not None)
        if isinstance(node, str):
            return node
        feeds = {"x": node.given(x), "w": layer.kernel}
        y = self.run(node.node, feeds if layer.bias is None else {**feeds, "b": layer.bias})
        return y if isinstance(y, str) else node.asked(y)

    def run(self, node: Node, feeds: dict[str, Array]) -> Array | str:
        """What the node makes of its inputs, or why the runtime is not asked."""
        if node.outline.rows + node.outline.columns > MAX_ELEMENTS:
            return TOO_LARGE
        x = feeds["x"]
        if node.op in self.rules and (why := self.rules[node.op](node, len(x))):
            return f"{self.name} {why}"
        products = len(x) * node.outline.products
        try:
            spend(products)
        except Refused as error:
            return str(error)
        if why := unfit(self, node.op, x.dtype.name, node.weights or x.dtype.name):
            return why
        return self.answer(node.model, feeds, 8 * len(x) * node.outline.rows, products)

    def answer(
        self, model: onnx.ModelProto, feeds: dict[str, Array], size: int, products: int
    ) -> Array | str:
        """The output of a model, of `size` bytes at most, or why the runtime has none."""
        try:
            whole = model.SerializeToString()
            size += len(whole) + sum(array.nbytes for array in feeds.values())
            limits = Limits(memory=LEAST_MEMORY + COPIES * size)
            given = (whole, feeds, products)
            return np.asarray(contained.call(type(self).compute, *given, what="it", limits=limits))
        except Exception as error:  # it raises types of its own for whatever it does not implement
            prefix = r"^(.*Status Message: |\[ONNXRuntimeError\] : \d+ : )"
            text = re.sub(prefix, "", str(error), flags=re.DOTALL)
            return f"{self.name} cannot run it ({shorten(text, 100, placeholder=' ...')})"

    @staticmethod
    @abstractmethod
    def compute(model: bytes, feeds: dict[str, Array], products: int) -> Any:
        """The output of a model that takes about `products` multiplications; may raise any error.

        It is called in the contained child.
        """


@cache
def unfit(runtime: NodeRuntime, op: str, x: str, weights: str) -> str:
    """Why what a runtime makes of an operator with inputs and weights of these dtypes is worth
    nothing on this machine, by a layer whose answer is known; otherwise nothing.
    """
    layer = known(op, x, weights)
    if layer is None:
        return ""
    y = runtime.answer(layer.model(), {"x": layer.x}, layer.answer.nbytes, 0)
    if isinstance(y, str):
        return y
    if np.array_equal(y, layer.answer):
        return ""
    dtypes = x if weights == x else f"{x} with {weights}"
    return f"{runtime.label} computes {op} of {dtypes} wrongly on this processor: not asked"
