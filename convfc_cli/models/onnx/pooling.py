"""AveragePool and GlobalAveragePool as layers.

Source: the ONNX operator specifications, AveragePool (versions 1, 7, 10, 11, 19, 22) and
GlobalAveragePool (1, 22).
"""

from functools import reduce
from math import prod
from typing import Any

import numpy as np

from convfc_cli.errors import MalformedInput
from convfc_cli.geometry import Axis, onnx_pooled_axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product
from convfc_cli.models.onnx.attributes import pads_of, per_axis, text
from convfc_cli.models.onnx.site import LinearNode, ResolvedNode, Shape, check_tensors
from convfc_cli.outline import FixedOutline
from convfc_cli.taps import IndexMap


def average_pool(site: LinearNode, shape: Shape) -> ResolvedNode:
    """The mean of each window: a depthwise convolution by one over the number of its elements.

    Where windows at the border have fewer, they are added up first, and divided after that.
    """
    attributes, n = site.attributes, len(shape) - 1
    auto_pad = text(attributes, "auto_pad", "NOTSET")
    if not n or len(attributes["kernel_shape"]) != n:
        message = f"a kernel_shape of {len(attributes['kernel_shape'])} sizes for an input of"
        raise MalformedInput(f"{message} {shape} (channels, then one size an axis)")
    steps = (
        attributes["kernel_shape"],
        per_axis(attributes, "strides", 1, n),
        per_axis(attributes, "dilations", 1, n),
    )
    axes, counts = zip(
        *(
            onnx_pooled_axis(
                *numbers,
                auto_pad,
                ceil=bool(attributes.get("ceil_mode", 0)),
                include_pad=bool(attributes.get("count_include_pad", 0)),
            )
            for numbers in zip(shape[1:], *steps, pads_of(attributes, n), strict=True)
        ),
        strict=True,
    )
    return _means(site, shape[0], axes, counts, auto_pad)


def global_average_pool(site: LinearNode, shape: Shape) -> ResolvedNode:
    """The mean of each channel: a depthwise convolution by a kernel as large as the input."""
    if len(shape) < 2:
        raise MalformedInput(f"an input of {shape} has no axis to average over")
    axes = tuple(Axis(size, 1, size, 1, 1, 0) for size in shape[1:])
    return _means(site, shape[0], axes, [(size,) for size in shape[1:]], "NOTSET")


def _shared(index: IndexMap, counts: Any) -> FixedOutline:
    """The outline of sums over windows, each divided by a count of its own."""
    made, shares = index.output_shape, (1, *map(len, counts))
    return FixedOutline(
        *(index.input_shape, made, (), index.nnz),
        factors=(index, FixedOutline(made, made, shares, prod(made), biases=0)),
    )


def _means(
    site: LinearNode, channels: int, axes: tuple[Axis, ...], counts: Any, auto_pad: str
) -> ResolvedNode:
    """Sums over the windows of these axes, divided by the counts, which multiply over the axes."""
    index = IndexMap((channels, 1, *(axis.kernel for axis in axes)), axes, channels)
    uniform = all(len(set(along)) == 1 for along in counts)
    check_tensors(index.kernel_shape, index.output_shape[1:])
    dtype = site.weights

    def load() -> Linear:
        if uniform:
            mean = 1 / prod(along[0] for along in counts)
            return Convolution(np.full(index.kernel_shape, mean, dtype), index)
        elements = reduce(np.multiply.outer, [np.array(along, np.float64) for along in counts])
        sums = Convolution(np.ones(index.kernel_shape, dtype), index)
        shares = (1 / elements[None]).astype(dtype)
        return Product([sums, Diagonal(shares, index.output_shape)])

    return ResolvedNode(
        index if uniform else _shared(index, counts),
        load,
        site.dtype,
        rounded=lambda magnitudes: load().apply(magnitudes),
        axes=axes,
        auto_pad=auto_pad,
    )
