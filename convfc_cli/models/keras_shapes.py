"""How Keras's layers change the shapes of tensors: what lies between convolutions, and no more.

`SHAPES` has a rule for each class: (layer, shapes of its inputs) to the shape of its output, each
with its batch, None where a size is open. A class without a rule makes a tensor of which nothing is
known; that only ever leads to a question, never to a wrong size.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from convfc_cli.errors import GeometryError
from convfc_cli.geometry import LARGEST, pooled
from convfc_cli.models.keras_config import Layer, Shape, modern

Rule = Callable[[Layer, Sequence[Shape]], Shape]

SAME = """
Activation ReLU LeakyReLU PReLU ELU ThresholdedReLU Softmax Dropout SpatialDropout1D
SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout GaussianNoise
ActivityRegularization BatchNormalization SyncBatchNormalization LayerNormalization
GroupNormalization UnitNormalization RMSNormalization Normalization Rescaling Masking Identity
Highway RandomFlip RandomRotation RandomContrast RandomBrightness RandomTranslation RandomZoom
RandomShear RandomHue RandomSaturation Solarization
""".split()

ELEMENTWISE = "Add Subtract Multiply Average Maximum Minimum".split()

OPERATIONS_SAME = """
Relu Relu6 LeakyRelu Elu Selu Gelu Silu Sigmoid HardSigmoid HardSilu Softplus Softsign Softmax
LogSoftmax Tanh Exp Log Sqrt Rsqrt Square Absolute Abs Negative Clip Cast StopGradient
""".split()

OPERATIONS_ELEMENTWISE = """
Add Subtract Multiply Divide TrueDivide FloorDivide Maximum Minimum Power Mod
""".split()

TENSORFLOW_SAME = """
nn.relu nn.relu6 nn.leaky_relu nn.elu nn.selu nn.gelu nn.silu nn.swish nn.softmax nn.softplus
nn.sigmoid nn.tanh math.sigmoid math.tanh math.exp math.log math.sqrt math.square math.abs
math.negative cast identity clip_by_value nn.dropout nn.l2_normalize math.l2_normalize
stop_gradient
""".split()

TENSORFLOW_ELEMENTWISE = """
math.add __operators__.add math.multiply math.subtract math.divide math.truediv math.maximum
math.minimum math.pow math.divide_no_nan math.squared_difference
""".split()


def output_shape(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """The shape of what a layer that is no convolution makes of tensors of these shapes.

    Raises `GeometryError` where that has no elements.
    """
    rules = OPERATIONS if layer.operation else SHAPES
    rule = rules.get(layer.kind) if layer.own else None
    if rule is None:
        return None
    try:
        found = rule(layer, shapes)
    except GeometryError as error:
        raise GeometryError(f"{layer.kind} {layer.name}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError):
        return None  # a configuration of another kind than the rule knows: nothing is known
    return found if found is None or all(map(_is_size, found)) else None


def _is_size(size: object) -> bool:
    return size is None or (type(size) is int and 1 <= size <= LARGEST)


def merged(first: Shape, second: Shape) -> Shape:
    """What two accounts of one shape say together; where they contradict each other, nothing."""
    return _compared(first, second, filled=True)


def agreed(first: Shape, second: Shape) -> Shape:
    """The first account of a shape, without what the second contradicts."""
    return _compared(first, second, filled=False)


def _compared(first: Shape, second: Shape, *, filled: bool) -> Shape:
    if first is None or second is None:
        return second if first is None and filled else first
    if len(first) != len(second):
        return None
    return tuple(
        (b if filled else None) if a is None else a if b in (None, a) else None
        for a, b in zip(first, second, strict=True)
    )


def _only(shapes: Sequence[Shape]) -> tuple[int | None, ...]:
    shape = shapes[0]
    if shape is None:
        raise ValueError("nothing is known of its input")
    return shape


def _same(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _elementwise(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """Broadcasting, as NumPy has it; an open size is taken for the other one."""
    known = [shape for shape in (*shapes, *layer.constants) if shape is not None]
    if len(known) < len(shapes) + len(layer.constants) or not known:
        return None
    rank = max(map(len, known))
    found: list[int | None] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in known), strict=True):
        large = [size for size in sizes if size not in (1, None)]
        if len(set(large)) > 1:
            return None
        found.append(large[0] if large else None if None in sizes else 1)
    return tuple(found)


def _concatenated(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    axis = layer.config.get("axis", layer.config.get("concat_axis", -1)) % len(known[0])
    found: Shape = known[0]
    for shape in known[1:]:
        found = merged(found, shape)
    assert found is not None
    along = [shape[axis] for shape in known]
    total = None if None in along else sum(size for size in along if size is not None)
    return (*found[:axis], total, *found[axis + 1 :])


def _merge(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """Keras 1's Merge, which is many layers in one."""
    mode = layer.config.get("mode", "sum")
    if mode == "concat":
        return _concatenated(layer, shapes)
    return _elementwise(layer, shapes) if mode in ("sum", "mul", "ave", "max") else None


def _flattened(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    batch, *sizes = _only(shapes)
    return batch, _product(sizes)


def _reshaped(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    config = layer.config
    target = config["target_shape"] if "target_shape" in config else config["newshape"][1:]
    batch, *sizes = _only(shapes)
    found = [size if size > 0 else None for size in target]
    total, rest = _product(sizes), _product([size for size in found if size is not None])
    if found.count(None) == 1 and total is not None and rest:
        found[found.index(None)] = total // rest
    return batch, *found


def _product(sizes: Sequence[int | None]) -> int | None:
    return None if None in sizes else prod(size for size in sizes if size is not None)


def _permuted(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    shape = _only(shapes)
    return shape[0], *(shape[axis] for axis in layer.config["dims"])


def _repeated(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    batch, *sizes = _only(shapes)
    return batch, layer.config["n"], *sizes


def _dense(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    units = layer.config.get("units", layer.config.get("output_dim"))
    return *_only(shapes)[:-1], units


def _embedded(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    return *_only(shapes), layer.config["output_dim"]


def _recurrent(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    config = layer.config
    if config.get("return_state"):
        return None
    units = config.get("units", config.get("output_dim"))
    shape = _only(shapes)
    return (*shape[:2], units) if config.get("return_sequences") else (shape[0], units)


def _bidirectional(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    if layer.inner is None:
        return None
    one, mode = output_shape(layer.inner, shapes), layer.config.get("merge_mode", "concat")
    if one is None or mode is None:
        return None
    last = one[-1]
    return one if mode != "concat" else (*one[:-1], None if last is None else 2 * last)


def _along(change: Callable[[Layer, int, int], int]) -> Rule:
    """A rule that changes each spatial size, and neither batch nor channels.

    `change(layer, axis, size)` is the new size of a spatial axis, counted from 0.
    """

    def rule(layer: Layer, shapes: Sequence[Shape]) -> Shape:
        shape = list(_only(shapes))
        first = 2 if _channels_first(layer) else 1
        for axis in range(len(shape) - 2):
            size = shape[first + axis]
            shape[first + axis] = None if size is None else change(layer, axis, size)
        return tuple(shape)

    return rule


def _channels_first(layer: Layer) -> bool:
    return modern(layer.config, layer.kind).get("data_format") == "channels_first"


def _at(value: Any, axis: int) -> Any:
    """What a configuration says of one axis: a number for all, or a list with one for each."""
    return value[axis] if isinstance(value, list) else value


def _pooled(layer: Layer, axis: int, size: int) -> int:
    config = modern(layer.config, layer.kind)
    window = config["pool_size"] if "pool_size" in config else config["pool_length"]
    stride = config.get("strides", config.get("stride"))
    window = int(_at(window, axis))
    stride = window if stride is None or _at(stride, axis) is None else int(_at(stride, axis))
    return pooled(size, window, stride, str(config.get("padding", "valid")).lower())


def ends(value: Any, axis: int, rank: int) -> tuple[int, int]:
    """How much of a padding or cropping is before and after an axis.

    It is written as one number, one for each axis, or two for each, in pairs or in one row.
    """
    if isinstance(value, list) and len(value) == 2 * rank:
        return value[2 * axis], value[2 * axis + 1]
    found = _at(value, axis)
    low, high = found if isinstance(found, list) else (found, found)
    return low, high


def _padded(layer: Layer, axis: int, size: int) -> int:
    return size + sum(ends(layer.config["padding"], axis, _rank(layer)))


def _cropped(layer: Layer, axis: int, size: int) -> int:
    left = size - sum(ends(layer.config["cropping"], axis, _rank(layer)))
    if left < 1:
        raise GeometryError(f"{layer.kind} {layer.name} leaves nothing of {size} elements")
    return left


def _upsampled(layer: Layer, axis: int, size: int) -> int:
    times = layer.config["size"] if "size" in layer.config else layer.config["length"]
    return size * int(_at(times, axis))


def _rank(layer: Layer) -> int:
    """The spatial axes that a class has in its name: 2 for ZeroPadding2D."""
    return int(layer.kind[-2])


def _global_pooled(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    shape = _only(shapes)
    first = _channels_first(layer)
    batch, channels = shape[0], shape[1] if first else shape[-1]
    if not layer.config.get("keepdims"):
        return batch, channels
    ones = (1,) * (len(shape) - 2)
    return (batch, channels, *ones) if first else (batch, *ones, channels)


def _adapted(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    shape = _only(shapes)
    sizes = [_at(layer.config["output_size"], axis) for axis in range(len(shape) - 2)]
    if _channels_first(layer):
        return shape[0], shape[1], *sizes
    return shape[0], *sizes, shape[-1]


def _resized(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    *rest, _, _, channels = _only(shapes)
    if _channels_first(layer):
        return *_only(shapes)[:-2], layer.config["height"], layer.config["width"]
    return *rest, layer.config["height"], layer.config["width"], channels


def _attended(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    if layer.config.get("output_shape") or layer.config.get("return_attention_scores"):
        return None
    if layer.kind == "MultiHeadAttention":
        return shapes[0]
    value = shapes[1]  # query, value, and perhaps key
    return None if value is None else (*_only(shapes)[:-1], value[-1])


def _lambda(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """A Lambda runs code of the author's; its output's shape may be stated beside."""
    if layer.config.get("output_shape_type") != "raw" or not layer.config.get("output_shape"):
        return None
    return _only(shapes)[0], *layer.config["output_shape"]


def _tensorflow(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """A TensorFlow function that was called in a Keras 2 model."""
    function = layer.config["function"]
    if function in TENSORFLOW_SAME:
        return shapes[0]
    return _elementwise(layer, shapes) if function in TENSORFLOW_ELEMENTWISE else None


def _spatial(*kinds: str) -> list[str]:
    return [f"{kind}{rank}D" for kind in kinds for rank in (1, 2, 3)]


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(
        _spatial("MaxPooling", "AveragePooling", "MaxPool", "AvgPool"), _along(_pooled)
    ),
    **dict.fromkeys(_spatial("GlobalMaxPooling", "GlobalAveragePooling"), _global_pooled),
    **dict.fromkeys(_spatial("AdaptiveMaxPooling", "AdaptiveAveragePooling"), _adapted),
    **dict.fromkeys(_spatial("ZeroPadding"), _along(_padded)),
    **dict.fromkeys(_spatial("Cropping"), _along(_cropped)),
    **dict.fromkeys(_spatial("UpSampling"), _along(_upsampled)),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU"), _recurrent),
    **dict.fromkeys(("MultiHeadAttention", "Attention", "AdditiveAttention"), _attended),
    "Concatenate": _concatenated,
    "Merge": _merge,
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Permute": _permuted,
    "RepeatVector": _repeated,
    "Dense": _dense,
    "Embedding": _embedded,
    "Bidirectional": _bidirectional,
    "Resizing": _resized,
    "CenterCrop": _resized,
    "Lambda": _lambda,
    "TFOpLambda": _tensorflow,
}
"""The rule of each class of layers, by its name."""

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(OPERATIONS_SAME, _same),
    **dict.fromkeys(OPERATIONS_ELEMENTWISE, _elementwise),
}
"""The rule of each class of operations, some of which are named like layers that do otherwise."""
