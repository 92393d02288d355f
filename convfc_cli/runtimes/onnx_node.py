"""One convolution as an ONNX model of its own, and what is known about it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx
from onnx import helper

from convfc_cli.runtimes.runtime import Array
from convfc_cli.taps import IndexMap

LARGEST_PAD = 2**24
"""Zeros along one side: runtimes count beyond 2**31 without saying so."""


@dataclass(frozen=True, eq=False)
class Node:
    """A model of one Conv or ConvTranspose, from the input `x` to the output `y`."""

    model: onnx.ModelProto
    index_map: IndexMap
    auto_pad: str = "NOTSET"
    negative_pads: bool = False
    output_shape: bool = False
    """Whether the node states its output's shape, and not its pads."""


@dataclass(frozen=True)
class Stated:
    """An index map as a node with pads that no runtime refuses, none negative.

    Where a pad would be negative, a convolution has more outputs than are asked for, and a
    transposed one is given more inputs, which are zero.
    """

    node: Node
    more: tuple[tuple[int, int], ...]
    """How many more, before and after, along each axis."""

    def given(self, x: Array) -> Array:
        """The batch x as the node takes it."""
        if not (self.node.index_map.transposed and any(map(any, self.more))):
            return x
        return np.pad(x, ((0, 0), (0, 0), *self.more))

    def asked(self, y: Array) -> Array:
        """What was asked for of the batch y that the node gives."""
        if self.node.index_map.transposed:
            return y
        sizes = self.node.index_map.output_shape[1:]
        inside = (
            slice(before, before + size) for (before, _), size in zip(self.more, sizes, strict=True)
        )
        return y[(slice(None), slice(None), *inside)]


@lru_cache(maxsize=64)
def stated(index_map: IndexMap, dtype: str, *, bias: bool) -> Stated | str:
    """The node of a map, with inputs `x`, `w` and, on request, `b`; or why there is none.

    ONNX states an axis, i = o stride + t dilation - offset, by the zeros before the input (offset)
    and after it, up to where the last window ends.
    """
    more, lows, highs = [], [], []
    for axis in index_map.axes:
        reach = (axis.outputs - 1) * axis.stride + axis.span
        low, high = axis.offset, reach - axis.inputs - axis.offset
        before, after = (max(0, -(pad // axis.stride)) for pad in (low, high))
        more.append((before, after))
        lows.append(low + before * axis.stride)
        highs.append(high + after * axis.stride)
    if max(*lows, *highs) > LARGEST_PAD:
        return f"a padding of {max(*lows, *highs)}"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = ["x", "w", "b"] if bias else ["x", "w"]
    node = helper.make_node(
        "ConvTranspose" if index_map.transposed else "Conv",
        names,
        ["y"],
        group=index_map.groups,
        strides=[axis.stride for axis in index_map.axes],
        dilations=[axis.dilation for axis in index_map.axes],
        pads=lows + highs,
    )
    sizes = [None] * (2 + len(index_map.axes))
    inputs = [
        helper.make_tensor_value_info(name, kind, sizes[:1] if name == "b" else sizes)
        for name in names
    ]
    output = helper.make_tensor_value_info("y", kind, sizes)
    graph = helper.make_graph([node], "layer", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return Stated(Node(model, index_map), tuple(more))
