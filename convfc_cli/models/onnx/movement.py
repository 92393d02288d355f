"""Nodes that move numbers and compute none, as layers: Pad, Reshape, Transpose, Slice, Resize.

Each is done to a tensor of places, by NumPy, as its specification says it in terms of NumPy: what
then stands at a place of the output is where it comes from.

Source: the ONNX operator specifications, Pad (versions 1 to 25), Flatten (1 to 25), Reshape (1 to
25), Transpose (1 to 25), Squeeze and Unsqueeze (1 to 25), Slice (1 to 13), DepthToSpace and
SpaceToDepth (1 to 28), Resize (10 to 19), Upsample (7 to 10).
"""

from collections.abc import Callable
from math import prod
from typing import Any, Literal, cast

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import MalformedInput, Unsupported
from convfc_cli.geometry import nearest, padded
from convfc_cli.layers.gather import Gather
from convfc_cli.models.onnx.attributes import text
from convfc_cli.models.onnx.constants import value
from convfc_cli.models.onnx.site import LinearNode, ResolvedNode, Shape, check_tensors
from convfc_cli.outline import FixedOutline

END = 2**31 - 1
"""From here on an end of a slice means that of the axis, however long it is."""

Move = Callable[[LinearNode, Array], Array]
"""The output of a node for a tensor, both with a batch of 1; a view where that is possible."""


def moved(move: Move) -> Callable[[LinearNode, Shape], ResolvedNode]:
    """The reader of an operator by what it does to a tensor."""

    def build(site: LinearNode, shape: Shape) -> ResolvedNode:
        check_tensors(shape)

        def tried(tensor: Array) -> Array:
            try:
                return move(site, tensor)
            except (ValueError, IndexError) as error:  # what NumPy says of untrusted numbers
                reason = " ".join(str(error).split())
                raise MalformedInput(f"it does not fit {(1, *shape)}: {reason}") from error

        # One byte that stands for all of them: its views tell the shape, and take no memory.
        output = tried(np.broadcast_to(np.int8(0), (1, *shape))).shape
        if len(output) < 2 or output[0] != 1:
            raise Unsupported(f"it makes {output} of {(1, *shape)}: the batch is not an axis of it")
        if not prod(output):
            raise MalformedInput(f"it makes {output} of {(1, *shape)}: nothing is left")

        def load() -> Gather:
            source = tried(np.arange(prod(shape)).reshape(1, *shape))[0]
            return Gather(shape, source, kernel=np.ones(1, site.weights))

        outline = FixedOutline(
            shape, output[1:], (1,), prod(output), extra_bytes=8 * prod(output), biases=0
        )
        return ResolvedNode(outline, load, site.dtype)

    return build


def pad(site: LinearNode, shape: Shape) -> ResolvedNode:
    """Zeros, or what is repeated of the input, before and after each axis; negative: cropped."""
    mode = text(site.attributes, "mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap") or (mode == "wrap" and site.opset < 19):
        raise MalformedInput(
            f"its mode {mode[:40]!r} is none that version {site.opset} of ONNX has"
        )
    pads = _pads(site, len(shape) + 1)
    if pads[0] != (0, 0):
        raise Unsupported("it pads the batch")
    axes = [padded(n, *ends, mode) for n, ends in zip(shape, pads[1:], strict=True)]
    output = tuple(len(kept) + before + after for kept, before, after in axes)
    check_tensors(shape, output)
    if mode == "constant" and any(before or after for _, before, after in axes):
        _check_zero(site)

    def load() -> Gather:
        source = np.arange(prod(shape)).reshape(shape)
        source = source[tuple(slice(kept.start, kept.stop) for kept, _, _ in axes)]
        widths = [(before, after) for _, before, after in axes]
        if mode == "constant":
            source = np.pad(source, widths, constant_values=-1)
        else:
            source = np.pad(source, widths, mode=cast(Literal["reflect", "edge", "wrap"], mode))
        return Gather(shape, source, kernel=np.ones(1, site.weights))

    nnz = prod(len(kept) for kept, _, _ in axes) if mode == "constant" else prod(output)
    return ResolvedNode(
        FixedOutline(shape, output, (1,), nnz, extra_bytes=8 * prod(output), biases=0),
        load,
        site.dtype,
    )


def _pads(site: LinearNode, rank: int) -> list[tuple[int, int]]:
    """(before, after) of each axis, the batch's first."""
    if site.opset < 11:
        numbers = tuple(site.attributes["pads" if site.opset > 1 else "paddings"])
    else:
        numbers = site.integers(1, "list of pads") or ()
    axes = site.integers(3, "list of axes")
    chosen = tuple(range(rank)) if axes is None else _axes(axes, rank)
    n = len(chosen)
    if len(numbers) != 2 * n:
        raise MalformedInput(f"it has {len(numbers)} pads for {n} axes, not two for each")
    given = dict(zip(chosen, zip(numbers[:n], numbers[n:], strict=True), strict=True))
    return [given.get(axis, (0, 0)) for axis in range(rank)]


def _check_zero(site: LinearNode) -> None:
    """Raise unless it is zeros that are added."""
    number: Any = site.attributes.get("value", 0.0)
    if site.has(2):
        site.require(2, "constant_value")
        number = value(site.scope, site.node.input[2])
    if np.any(number != 0):
        raise Unsupported(f"it pads with {np.asarray(number).reshape(-1)[0]}: no linear map does")


def flattened(site: LinearNode, tensor: Array) -> Array:
    """Flatten, which keeps the batch where its axis is 1."""
    axis = site.attributes.get("axis", 1)
    if not -tensor.ndim <= axis <= tensor.ndim:
        raise MalformedInput(f"its axis {axis} is not one of {tensor.ndim}")
    axis = axis + tensor.ndim if axis < 0 else axis
    if not axis:
        raise Unsupported("its axis is 0: the batch is flattened too")
    return tensor.reshape(prod(tensor.shape[:axis]), -1)


def reshaped(site: LinearNode, tensor: Array) -> Array:
    """Reshape: 0 is the size that an axis has, -1 what is left."""
    known = site.sizes() or (None,)
    if known[0] not in (None, 1):
        raise Unsupported(f"it reshapes a batch of {known[0]}, with it and beside it")
    if site.opset < 5:
        wanted = tuple(site.attributes.get("shape", ()))
    else:
        wanted = site.integers(1, "shape") or ()
    if not site.attributes.get("allowzero", 0):
        wanted = tuple(size or tensor.shape[axis] for axis, size in enumerate(wanted))
    return tensor.reshape(wanted)


def transposed(site: LinearNode, tensor: Array) -> Array:
    """Transpose, which leaves the batch where it is."""
    perm = site.attributes.get("perm") or tuple(reversed(range(tensor.ndim)))
    if perm[0] != 0:
        raise Unsupported(f"its perm {tuple(perm)} moves the batch")
    return tensor.transpose(perm)


def squeezed(site: LinearNode, tensor: Array) -> Array:
    """Squeeze, which leaves the batch."""
    axes = _stated_axes(site)
    if axes is None:
        raise Unsupported("it takes away every axis of size 1, the batch's too")
    axes = _axes(axes, tensor.ndim)
    if 0 in axes:
        raise Unsupported("it takes the batch away")
    return tensor.squeeze(axes)


def unsqueezed(site: LinearNode, tensor: Array) -> Array:
    """Unsqueeze, after the batch."""
    axes = _stated_axes(site) or ()
    axes = _axes(axes, tensor.ndim + len(axes))
    if 0 in axes:
        raise Unsupported("it puts an axis before the batch")
    return np.expand_dims(tensor, axes)


def sliced(site: LinearNode, tensor: Array) -> Array:
    """Slice: as Python's own, along some axes."""
    names = ("starts", "ends", "axes", "steps")
    if site.opset < 10:
        lists = [site.attributes.get(name) for name in names]
    else:
        lists = [site.integers(place, f"list of {name}") for place, name in enumerate(names, 1)]
    starts, ends, axes, steps = lists
    starts, ends = starts or (), ends or ()
    axes = _axes(range(len(starts)) if axes is None else axes, tensor.ndim)
    steps = (1,) * len(starts) if steps is None else steps
    chosen = [slice(None)] * tensor.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis == 0 and ((start, step) != (0, 1) or end < END):
            raise Unsupported("it takes a part of the batch")
        chosen[axis] = slice(start, end, step)
    return tensor[tuple(chosen)]


def depth_to_space(site: LinearNode, tensor: Array) -> Array:
    """Channels laid out as blocks of places: DCR, the depth before the columns and rows, or CRD."""
    size, (n, c, h, w) = _block(site), tensor.shape
    c //= size * size
    if text(site.attributes, "mode", "DCR") == "DCR":
        tensor = tensor.reshape(n, size, size, c, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        tensor = tensor.reshape(n, c, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return tensor.reshape(n, c, h * size, w * size)


def space_to_depth(site: LinearNode, tensor: Array) -> Array:
    """Blocks of places laid out as channels: the inverse of `depth_to_space`."""
    size, (n, c, h, w) = _block(site), tensor.shape
    blocks = tensor.reshape(n, c, h // size, size, w // size, size)
    order = (
        (0, 3, 5, 1, 2, 4) if text(site.attributes, "mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    )
    return blocks.transpose(order).reshape(n, c * size * size, h // size, w // size)


def _block(site: LinearNode) -> int:
    size: int = site.attributes["blocksize"]
    if not 1 <= size <= 2**16:
        raise MalformedInput(f"its blocksize is {size}")
    if text(site.attributes, "mode", "DCR") not in ("DCR", "CRD"):
        raise MalformedInput("its mode is neither DCR nor CRD")
    return size


def resized(site: LinearNode, tensor: Array) -> Array:
    """Resize and Upsample to the nearest, by whole factors."""
    attributes = site.attributes
    if (mode := text(attributes, "mode", "nearest")) != "nearest":
        raise Unsupported(f"mode {mode[:40]!r} is not read, nearest is")
    if attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise Unsupported("a keep_aspect_ratio_policy is not read")
    of_old = site.opset < 11
    transformation = "asymmetric" if of_old else "half_pixel"
    transformation = text(attributes, "coordinate_transformation_mode", transformation)
    rounding = text(attributes, "nearest_mode", "floor" if of_old else "round_prefer_floor")
    axes = _axes(attributes.get("axes", range(tensor.ndim)), tensor.ndim)
    factors = dict(zip(axes, _factors(site, [tensor.shape[axis] for axis in axes]), strict=True))
    if factors.get(0, 1) != 1:
        raise Unsupported("it resizes the batch")
    check_tensors(tuple(n * factors.get(axis, 1) for axis, n in enumerate(tensor.shape)))
    for axis, factor in factors.items():
        if factor != 1:
            places = nearest(tensor.shape[axis], factor, transformation, rounding)
            tensor = tensor.take(places, axis)
    return tensor


def _factors(site: LinearNode, sizes: list[int]) -> list[int]:
    """How many times as long each of these axes becomes."""
    if site.has(3):
        wanted = site.integers(3, "list of sizes") or ()
        factors = [
            new / old if len(wanted) == len(sizes) else 0.0
            for new, old in zip(wanted, sizes, strict=False)
        ]
    else:
        place = 1 if site.opset < 11 else 2
        if site.has(place):
            factors = site.listed(place, "list of scales").reshape(-1).tolist()
        else:
            factors = list(site.attributes.get("scales", ()))
    if len(factors) != len(sizes):
        raise MalformedInput(f"it has {len(factors)} factors for {len(sizes)} axes")
    if any(not float(factor).is_integer() or factor < 1 for factor in factors):
        raise Unsupported(f"it resizes by {factors}; whole factors are read")
    return [int(factor) for factor in factors]


def _stated_axes(site: LinearNode) -> Any:
    """The axes of a Squeeze or Unsqueeze: an input since version 13."""
    return site.attributes.get("axes") if site.opset < 13 else site.integers(1, "list of axes")


def _axes(axes: Any, rank: int) -> Shape:
    """Axes as they are counted from the first. Raises for one that is not there, or twice."""
    counted = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if len(set(counted)) < len(counted) or any(not 0 <= axis < rank for axis in counted):
        raise MalformedInput(f"the axes {tuple(axes)} of a tensor of {rank}")
    return counted
