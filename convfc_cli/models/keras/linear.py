"""The linear layers of a Keras model that are not convolutions: a builder for each class.

A tensor is (channels, *spatial) here, as a convolution's are, whatever order the model has it in.
What a layer does to axes in the model's own order (Dense, Flatten, Reshape) is done in that order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import ConvfcError, GeometryError, MalformedInput, Refused, Unsupported
from convfc_cli.geometry import MAX_SIZE, keras_convolution_axis
from convfc_cli.hdf5.floats import bias, check_numbers, dtype_name, numbers
from convfc_cli.hdf5.tree import Dataset
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product
from convfc_cli.models.entry import ResolvedLayer
from convfc_cli.models.keras.config import Config, Layer, Shape, modern
from convfc_cli.models.keras.convolution import lora, merged, sizes, truth, whole
from convfc_cli.models.keras.shapes import ends
from convfc_cli.models.keras.weights import variables
from convfc_cli.outline import FixedOutline
from convfc_cli.taps import IndexMap

PASSING = frozenset(
    """
    InputLayer Identity Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout
    GaussianDropout GaussianNoise ActivityRegularization
    """.split()
)
"""The classes that do nothing to their input once a model is trained."""

MAX_ELEMENTS = 2**27
"""Limit on an array made for a layer whose file stores fewer elements: a gigabyte."""


@dataclass(frozen=True)
class Given:
    """A layer, and the input that it is applied to."""

    config: Config
    rank: int
    """The spatial axes that its class has in its name; those of its input where it has none."""

    shape: tuple[int, ...]
    """(channels, *spatial)."""

    channels_last: bool
    arrays: Callable[[], Mapping[str, Dataset]]
    variables: tuple[str, ...]
    training: bool

    @property
    def model_shape(self) -> tuple[int, ...]:
        """The shape in the model's order."""
        return (*self.shape[1:], self.shape[0]) if self.channels_last else self.shape

    def axis(self, number: int) -> int:
        """Which axis of ours is this one of the model's, neither counting the batch."""
        if not -len(self.shape) <= number < len(self.shape):
            raise ValueError(f"no axis {number} in an input of {len(self.shape)}")
        number %= len(self.shape)
        return (number + 1) % len(self.shape) if self.channels_last else number


Builder = Callable[[Given], ResolvedLayer]


def own_shape(shape: Shape, channels_last: bool) -> Shape:
    """(channels, *spatial) of a shape in the model's order, without its batch."""
    if not shape:
        return None
    return (shape[-1], *shape[:-1]) if channels_last else shape


def build(
    layer: Layer,
    shape: tuple[int, ...],
    channels_last: bool,
    arrays: Callable[[], Mapping[str, Dataset]],
) -> ResolvedLayer:
    """The layer on an input of this (channels, *spatial). Raises `MalformedInput` for what cannot
    be one, `Unsupported` for what is not linear.
    """
    config = modern(layer.config, layer.kind)
    rank = int(layer.kind[-2]) if layer.kind.endswith("D") else len(shape) - 1
    if len(shape) != rank + 1:
        raise GeometryError(
            f"its input has the shape {shape}: a {layer.kind} takes {rank + 1} axes"
        )
    known = variables(layer)
    given = Given(config, rank, shape, channels_last, arrays, known, "training" in layer.flags)
    try:
        return LINEAR[layer.kind](given)
    except ConvfcError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:120]
        raise MalformedInput(
            f"its configuration is not that of a {layer.kind}: {reason}"
        ) from error


def check_size(shape: Sequence[int]) -> None:
    """Raise `Refused` for an array that is too large to be made."""
    if prod(shape) > MAX_ELEMENTS:
        raise Refused(f"it needs an array of shape {tuple(shape)}, beyond {MAX_ELEMENTS} elements")


def extent(
    source: tuple[int, ...],
    output: tuple[int, ...],
    kernel: tuple[int, ...],
    nnz: int,
    **more: Any,
) -> FixedOutline:
    """The outline of a layer of these sizes; `more` is as `FixedOutline` has it. Raises
    `GeometryError` where they cannot be.
    """
    for shape in (source, output):
        if not shape or min(shape) < 1 or max(shape) > MAX_SIZE:
            raise GeometryError(f"its input {source} makes an output of shape {output}")
    if max(prod(source), prod(output), nnz) >= 2**63:
        raise GeometryError(f"its matrix, {output} by {source}, is beyond 64-bit indices")
    return FixedOutline(source, output, kernel, nnz, **more)


# Layers that move numbers.


def _gathered(
    given: Given, output: tuple[int, ...], nnz: int, move: Callable[[Array], Array]
) -> ResolvedLayer:
    """A layer that does to numbers what `move` does to a tensor of their places; -1 is zero."""
    outline = extent(given.shape, output, (1,), nnz, extra_bytes=8 * prod(output), biases=0)

    def load() -> Gather:
        check_size(given.shape)
        check_size(output)
        return Gather(given.shape, move(np.arange(prod(given.shape)).reshape(given.shape)))

    return ResolvedLayer(outline, load, "float32")


def _rearranged(
    given: Given, output: tuple[int, ...], move: Callable[[Array], Array]
) -> ResolvedLayer:
    """`_gathered` for what moves all numbers, stated in the model's order."""
    last = given.channels_last
    made = (output[-1], *output[:-1]) if last else output

    def moved(places: Array) -> Array:
        result = move(np.moveaxis(places, 0, -1) if last else places)
        return np.moveaxis(result, -1, 0) if last else result

    return _gathered(given, made, prod(given.shape), moved)


def _pairs(given: Given, what: str) -> list[tuple[int, int]]:
    """What a padding or a cropping has before and after each spatial axis."""
    pairs = [ends(given.config[what], axis, given.rank) for axis in range(given.rank)]
    if any(whole(end) < 0 for pair in pairs for end in pair):
        raise ValueError(f"{what} {given.config[what]!r} is negative")
    return pairs


def _padded(given: Given) -> ResolvedLayer:
    pairs = [(0, 0), *_pairs(given, "padding")]
    output = tuple(low + n + high for n, (low, high) in zip(given.shape, pairs, strict=True))
    return _gathered(
        given, output, prod(given.shape), lambda places: np.pad(places, pairs, constant_values=-1)
    )


def _cropped(given: Given) -> ResolvedLayer:
    pairs = [(0, 0), *_pairs(given, "cropping")]
    output = tuple(n - low - high for n, (low, high) in zip(given.shape, pairs, strict=True))
    left = tuple(slice(low, low + size) for (low, _), size in zip(pairs, output, strict=True))
    return _gathered(given, output, prod(output), lambda places: places[left])


def _upsampled(given: Given) -> ResolvedLayer:
    config = given.config
    if (mode := config.get("interpolation", "nearest")) != "nearest":
        raise Unsupported(f"its interpolation is {str(mode)[:40]}; nearest is read")
    times = sizes(config["size"] if "size" in config else config["length"], given.rank)
    output = (given.shape[0], *(n * t for n, t in zip(given.shape[1:], times, strict=True)))

    def repeated(places: Array) -> Array:
        for axis, count in enumerate(times, 1):
            places = np.repeat(places, count, axis)
        return places

    return _gathered(given, output, prod(output), repeated)


def _flattened(given: Given) -> ResolvedLayer:
    first = given.config.get("data_format") == "channels_first" and len(given.shape) > 1

    def flat(places: Array) -> Array:
        return (np.moveaxis(places, 0, -1) if first else places).reshape(-1)

    return _rearranged(given, (prod(given.shape),), flat)


def _reshaped(given: Given) -> ResolvedLayer:
    target = [whole(size) for size in _items(given.config["target_shape"])]
    count = prod(given.shape)
    if target.count(-1) == 1:
        rest = -prod(target)
        target[target.index(-1)] = count // rest if rest > 0 else 0
    if prod(target) != count or min(target, default=0) < 1:
        raise GeometryError(
            f"an input of {given.model_shape} cannot take the shape {tuple(target)}"
        )
    return _rearranged(given, tuple(target), lambda places: places.reshape(target))


def _permuted(given: Given) -> ResolvedLayer:
    axes = [whole(axis) - 1 for axis in _items(given.config["dims"])]
    if sorted(axes) != list(range(len(given.shape))):
        raise ValueError(f"dims {given.config['dims']} for an input of {len(given.shape)} axes")
    output = tuple(given.model_shape[axis] for axis in axes)
    return _rearranged(given, output, lambda places: places.transpose(axes))


def _items(value: Any) -> Any:
    """A list; Keras 3 writes a tuple as an object."""
    return value.get("items") if isinstance(value, dict) else value


# Layers that average.


def _pooled(given: Given) -> ResolvedLayer:
    config, rank = given.config, given.rank
    window = sizes(config["pool_size"] if "pool_size" in config else config["pool_length"], rank)
    strides = config.get("strides", config.get("stride"))
    steps = window if strides is None else sizes(strides, rank)
    return _averaged(given, window, steps, str(config.get("padding", "valid")).lower())


def _averaged(
    given: Given, window: tuple[int, ...], steps: tuple[int, ...], padding: str
) -> ResolvedLayer:
    """Each window's sum, divided by how many inputs it has; padding is none."""
    channels, *inputs = given.shape
    axes = tuple(
        keras_convolution_axis(n, k, s, 1, padding)
        for n, k, s in zip(inputs, window, steps, strict=True)
    )
    index = IndexMap((channels, 1, *window), axes, groups=channels)
    count = prod(window)

    def summed(channels: int, weight: float) -> Convolution:
        shape = (channels, 1, *window)
        check_size(shape)
        kernel = np.full(shape, weight, np.float32)
        return Convolution(kernel, IndexMap(shape, axes, groups=channels))

    if index.nnz == index.rows * count:  # no window reaches beyond the input
        return ResolvedLayer(index, lambda: summed(channels, 1 / count), "float32")

    def load() -> Linear:
        check_size(given.shape)
        counts = summed(1, 1).apply(np.ones((1, *inputs)))
        shares = Diagonal((1 / counts).astype(np.float32), index.output_shape)
        return Product([summed(channels, 1), shares])

    made = index.output_shape
    factors = (index, FixedOutline(made, made, (1, *made[1:]), index.rows, biases=0))
    outline = extent(given.shape, made, (), index.nnz, factors=factors)
    return ResolvedLayer(outline, load, "float32")


def _averaged_whole(given: Given) -> ResolvedLayer:
    channels, *inputs = given.shape
    average = _averaged(given, tuple(inputs), (1,) * given.rank, "valid")
    if truth(given.config.get("keepdims", False)):
        return average

    def load() -> Product:
        one = Gather((channels, *(1,) * given.rank), np.arange(channels))
        return Product([average.load(), one])

    flat = FixedOutline(
        average.outline.output_shape, (channels,), (1,), channels, extra_bytes=8 * channels
    )
    factors = (average.outline, flat)
    outline = extent(given.shape, (channels,), (), average.outline.nnz, factors=factors)
    return ResolvedLayer(outline, load, "float32")


# Layers with weights.


def _weights(given: Given, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Dataset]:
    """A layer's datasets, each of which has to have the shape that its role has here."""
    held = given.arrays()
    for role, shape in shapes.items():
        if role not in held:
            raise MalformedInput(f"its {role} is not in the file")
        check_numbers(held[role])
        if held[role].shape != shape:
            raise GeometryError(
                f"its {role} {held[role].path} has shape {held[role].shape}, where its input of "
                f"{given.model_shape} asks for {shape}"
            )
    return held


def _along(vector: Array, axis: int, count: int) -> Array:
    """A vector along one of so many axes."""
    return vector.reshape([-1 if a == axis else 1 for a in range(count)])


def _connected(given: Given) -> ResolvedLayer:
    config, shape = given.config, given.shape
    units = whole(config["units"] if "units" in config else config["output_dim"])
    axis = given.axis(-1)
    shapes: dict[str, tuple[int, ...]] = {"kernel": (shape[axis], units)}
    if truth(config.get("use_bias", config.get("bias", True))):
        shapes["bias"] = (units,)
    held = _weights(given, shapes)
    before, after = shape[:axis], shape[axis + 1 :]
    nnz = units * prod(shape)

    def load() -> Dense:
        kernel = merged(lora(config), held)
        values = None
        if "bias" in shapes:
            values = _along(bias(held["bias"], kernel.dtype), axis, len(shape))
        return Dense(np.ascontiguousarray(kernel.T), before, after, values)

    outline = extent(shape, (*before, units, *after), (units, shape[axis]), nnz)
    return ResolvedLayer(outline, load, dtype_name(held["kernel"]))


def _normalized(given: Given) -> ResolvedLayer:
    config, shape = given.config, given.shape
    if config.get("mode", 0) != 0:
        raise Unsupported("it normalizes by its input's own statistics, which is not linear")
    if given.training:
        raise Unsupported(
            "it is in training mode and normalizes by the statistics of each batch: save a model "
            "that calls it without training=True"
        )
    along = _items(config.get("axis", -1))
    along = along[0] if isinstance(along, list) and len(along) == 1 else along
    if isinstance(along, list):
        raise Unsupported(f"it normalizes along several axes, {along}")
    if whole(along) == 0:
        raise ValueError("it normalizes along the batch")
    axis = given.axis(along - 1 if along > 0 else along)
    epsilon = float(config.get("epsilon", 1e-3))
    held = _weights(given, dict.fromkeys(given.variables, (shape[axis],)))

    def load() -> Diagonal:
        values = {role: numbers(held[role]) for role in given.variables}
        dtype = np.result_type(*values.values())
        wide = {role: array.astype(np.float64) for role, array in values.items()}
        with np.errstate(all="ignore"):  # untrusted weights may be anything
            scale = wide.get("gamma", 1.0) / np.sqrt(wide["variance"] + epsilon)
            offset = wide.get("beta", 0.0) - wide["mean"] * scale
            kernel, added = scale.astype(dtype), offset.astype(dtype)
        return Diagonal(_along(kernel, axis, len(shape)), shape, _along(added, axis, len(shape)))

    kernel = tuple(size if a == axis else 1 for a, size in enumerate(shape))
    outline = extent(shape, shape, kernel, prod(shape), biases=shape[axis])
    return ResolvedLayer(outline, load, dtype_name(held["variance"]))


def _rescaled(given: Given) -> ResolvedLayer:
    shape = given.shape
    scale, offset = (_vector(given, key, default) for key, default in (("scale", 1), ("offset", 0)))
    outline = extent(shape, shape, scale.shape, prod(shape), biases=offset.size)
    return ResolvedLayer(outline, lambda: Diagonal(scale, shape, offset), "float32")


def _vector(given: Given, key: str, default: float) -> Array:
    """A number, or one for each element along the last of the model's axes."""
    value = given.config.get(key, default)
    if isinstance(value, dict):
        value = value.get("items", value.get("config"))
    if isinstance(value, dict):
        value = value["value"]
    vector = np.asarray(value, np.float64).astype(np.float32)
    if vector.ndim and not given.channels_last:
        raise Unsupported(f"what it takes its {key} for depends on the backend, channels first")
    if vector.ndim > 1 or vector.size not in (1, given.model_shape[-1]):
        raise GeometryError(
            f"its {key} has the shape {vector.shape} for an input of {given.model_shape}"
        )
    return _along(vector.reshape(-1), given.axis(-1), len(given.shape))


def _spatial(kind: str, builder: Builder) -> dict[str, Builder]:
    return {f"{kind}{rank}D": builder for rank in (1, 2, 3)}


LINEAR: dict[str, Builder] = {
    **_spatial("ZeroPadding", _padded),
    **_spatial("Cropping", _cropped),
    **_spatial("UpSampling", _upsampled),
    **_spatial("AveragePooling", _pooled),
    **_spatial("GlobalAveragePooling", _averaged_whole),
    "BatchNormalization": _normalized,
    "SyncBatchNormalization": _normalized,
    "Dense": _connected,
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Permute": _permuted,
    "Rescaling": _rescaled,
}
"""How a layer of each class is made, by the class's name."""

ORDERLESS = frozenset(LINEAR) - {kind for kind in LINEAR if kind.endswith("D")}
"""Those that take their input in whatever order it comes."""
