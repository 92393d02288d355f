"""Gemm, MatMul, BatchNormalization, and sums, products and quotients with a constant, as layers.

What the model folds together only when it runs (alpha, a variance) is folded in float64 here, and
rounded once.

Source: the ONNX operator specifications, Gemm (versions 1 to 13), MatMul (1 to 13),
BatchNormalization (1 to 15), Add, Sub, Mul and Div (1 to 14).
"""

from collections.abc import Callable
from math import prod

import numpy as np

from convfc_cli.arrays import Array, as_float64, as_magnitudes
from convfc_cli.errors import MalformedInput, Unsupported
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.models.onnx.site import LinearNode, ResolvedNode, Shape
from convfc_cli.models.sizes import Sizes
from convfc_cli.outline import FixedOutline

EPSILON = float(np.float32(1e-5))
"""What is added to a variance by default; attributes are float32."""


def gemm(site: LinearNode, shape: Shape) -> ResolvedNode:
    """alpha * x B + beta * C: a dense layer."""
    attributes = site.attributes
    inputs, outputs = _of_gemm(site)
    if attributes.get("transA", 0):
        raise Unsupported("transA exchanges the batch with the inputs")
    if shape != (inputs,):
        raise MalformedInput(f"its B takes {inputs} inputs, it is given {shape}")
    bias_shape = site.measure(2, "C") if site.has(2) else ()
    if np.broadcast_shapes(bias_shape, (1, outputs)) != (1, outputs):
        raise Unsupported(f"its C has the shape {bias_shape}: it differs within the batch")

    def load() -> Dense:
        kernel = site.constant(1)
        kernel = _times(
            attributes.get("alpha", 1.0), kernel if attributes.get("transB", 0) else kernel.T
        )
        bias = None
        if site.has(2):
            bias = _times(attributes.get("beta", 1.0), site.constant(2)).reshape(-1)
        return Dense(kernel, bias=bias)

    def rounded(magnitudes: Array) -> Array:
        layer = load()
        return _magnitudes(layer, magnitudes) + np.abs(as_float64(layer.bias_tensor()))

    outline = FixedOutline(shape, (outputs,), (outputs, inputs), inputs * outputs)
    return ResolvedNode(outline, load, site.type_of(1), rounded)


def _of_gemm(site: LinearNode) -> tuple[int, int]:
    """(inputs, outputs) of a Gemm, by its B."""
    shape = site.measure(1, "B")
    if len(shape) != 2:
        raise MalformedInput(f"its B has {len(shape)} axes; it takes two")
    return (shape[1], shape[0]) if site.attributes.get("transB", 0) else (shape[0], shape[1])


def gemm_input(site: LinearNode, known: Sizes | None) -> Sizes | None:
    """The shape of what a Gemm maps: where it is open, its B tells."""
    if known is not None and None not in known[1:]:
        return known
    return None, _of_gemm(site)[0]


def matmul(site: LinearNode, shape: Shape) -> ResolvedNode:
    """x W along the last axis, or W x along the one before it."""
    rank, other = len(shape) + 1, 1 - site.place
    outer, (rows, columns) = _of_matmul(site)
    if any(size != 1 for size in outer) or len(outer) + 2 > rank:
        raise Unsupported(f"its constant has the shape {(*outer, rows, columns)}: more than one")
    if site.place and rank < 3:
        raise Unsupported("its constant multiplies the batch")
    made, read = (rows, columns) if site.place else (columns, rows)
    axis = len(shape) - 1 - site.place
    if shape[axis] != read:
        raise MalformedInput(f"its constant takes {read} inputs along axis {axis + 1} of {shape}")
    before, after = shape[:axis], shape[axis + 1 :]

    def load() -> Dense:
        kernel = site.constant(other).reshape(rows, columns)
        return Dense(kernel if site.place else kernel.T, before, after)

    nnz = made * read * prod((*before, *after))
    outline = FixedOutline(shape, (*before, made, *after), (made, read), nnz, biases=0)
    return ResolvedNode(outline, load, site.type_of(other))


def _of_matmul(site: LinearNode) -> tuple[Shape, Shape]:
    """(outer axes, the two that are multiplied by) of the constant."""
    shape = site.measure(1 - site.place, "other side")
    if len(shape) < 2:
        raise Unsupported(f"its constant has the shape {shape}: the sum takes an axis away")
    return shape[:-2], shape[-2:]


def matmul_input(site: LinearNode, known: Sizes | None) -> Sizes | None:
    """The shape of what is multiplied from the right, its last axis by the constant."""
    if known is None or site.place:
        return known
    return (*known[:-1], known[-1] or _of_matmul(site)[1][0])


def batch_normalization(site: LinearNode, shape: Shape) -> ResolvedNode:
    """(x - mean) * scale / sqrt(var + epsilon) + B, of each channel: a factor and a bias."""
    attributes, channels = site.attributes, shape[0]
    trained = attributes.get("training_mode", 0)
    if site.opset < 7:
        trained = not attributes.get("is_test", 0)
    if trained or any(site.node.output[1:]):
        raise Unsupported(
            "it is in training mode and normalizes by the statistics of each batch: export the "
            "model in evaluation mode (model.eval() in PyTorch)"
        )
    if not attributes.get("spatial", 1):
        raise Unsupported("spatial 0, statistics of each element, are not read")
    for place, name in enumerate(("scale", "B", "mean", "var"), 1):
        sizes = site.measure(place, name)
        if sizes != (channels,):
            raise MalformedInput(f"its {name} has the shape {sizes}, for {channels} channels")

    def folded() -> tuple[Array, Array, Array]:
        """The factor of each channel, and the two parts of its bias, in float64."""
        scale, shift, mean, var = (as_float64(site.constant(place)) for place in range(1, 5))
        with np.errstate(all="ignore"):  # untrusted numbers may be anything
            factor = scale / np.sqrt(var + attributes.get("epsilon", EPSILON))
            return factor, shift, mean * factor

    def load() -> Diagonal:
        factor, shift, mean = folded()
        ones = (1,) * (len(shape) - 1)
        with np.errstate(all="ignore"):
            kernel, bias = (
                array.astype(site.constant(1).dtype).reshape(-1, *ones)
                for array in (factor, shift - mean)
            )
        return Diagonal(kernel, shape, bias)

    def rounded(magnitudes: Array) -> Array:
        factor, shift, mean = (
            np.abs(array).reshape(-1, *(1,) * (len(shape) - 1)) for array in folded()
        )
        with np.errstate(all="ignore"):
            return magnitudes * factor + shift + mean

    kernel_shape = (channels, *(1,) * (len(shape) - 1))
    outline = FixedOutline(shape, shape, kernel_shape, prod(shape), biases=channels)
    return ResolvedNode(outline, load, site.type_of(1), rounded)


Fold = Callable[[Array, int], tuple[Array, Array | None]]
"""(factor, bias) of a constant that stands at one place, the data at another."""


def arithmetic(fold: Fold) -> Callable[[LinearNode, Shape], ResolvedNode]:
    """The reader of an operator that computes element by element with a constant."""

    def build(site: LinearNode, shape: Shape) -> ResolvedNode:
        other = 1 - site.place
        kernel_shape = _aligned(site, shape, site.measure(other, "other side"))

        def load() -> Diagonal:
            constant = site.constant(other).reshape(kernel_shape)
            with np.errstate(all="ignore"):
                factor, bias = fold(constant, site.place)
            return Diagonal(factor, shape, bias)

        nnz = prod(shape)
        return ResolvedNode(
            FixedOutline(shape, shape, kernel_shape, nnz, biases=prod(kernel_shape)),
            load,
            site.type_of(other),
        )

    return build


def _aligned(site: LinearNode, shape: Shape, constant: Shape) -> Shape:
    """The shape of the constant beside `shape`, an axis for an axis, without the batch.

    Before version 7 a node says by `axis` where the axes of its second input begin.
    """
    rank, attributes = len(shape) + 1, site.attributes
    if "axis" in attributes:
        start = attributes["axis"] % rank
        constant = (*constant, *(1,) * (rank - start - len(constant)))
    aligned = (*(1,) * (rank - len(constant)), *constant)
    if len(aligned) > rank or any(c not in (1, n) for c, n in zip(aligned[1:], shape, strict=True)):
        raise Unsupported(f"its constant, of shape {constant}, makes more of {shape}")
    if aligned[0] != 1:
        raise Unsupported(f"its constant has the shape {constant}: it differs within the batch")
    return aligned[1:]


def added(constant: Array, place: int) -> tuple[Array, Array]:
    """x + c."""
    return np.ones((1,) * constant.ndim, constant.dtype), constant


def subtracted(constant: Array, place: int) -> tuple[Array, Array]:
    """x - c, or c - x."""
    ones = np.ones((1,) * constant.ndim, constant.dtype)
    return (-ones, constant) if place else (ones, -constant)


def multiplied(constant: Array, place: int) -> tuple[Array, None]:
    """x * c."""
    return constant, None


def divided(constant: Array, place: int) -> tuple[Array, None]:
    """x / c: c's reciprocal, rounded once."""
    return (1 / as_float64(constant)).astype(constant.dtype), None


def _times(number: float, array: Array) -> Array:
    """The array by a number, rounded once; as it is, bit for bit, where that is 1."""
    if number == 1:
        return array
    with np.errstate(all="ignore"):
        return (as_float64(array) * number).astype(array.dtype)


def _magnitudes(layer: Dense, x: Array) -> Array:
    with np.errstate(all="ignore"):
        return layer.apply(x, as_magnitudes)
