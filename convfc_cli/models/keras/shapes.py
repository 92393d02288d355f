"""How Keras's layers change the shapes of tensors: what lies between convolutions, and no more.

`SHAPES` has a rule for each class: (layer, shapes of its inputs) to the shape of its output, each
with its batch, None where a size is open; a layer with several outputs has a list of them. A class
without a rule makes a tensor of which nothing is known; that only ever leads to a question, never
to a wrong size.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

from convfc_cli.errors import GeometryError
from convfc_cli.geometry import MAX_SIZE, keras_convolution_axis, pooled
from convfc_cli.models.keras.config import Config, Layer, Shape, is_keras_class, modern
from convfc_cli.models.sizes import shown

Rule = Callable[[Layer, Sequence[Shape]], Shape | list[Shape]]

SAME = """
Activation ReLU LeakyReLU PReLU ELU ThresholdedReLU Softmax Dropout SpatialDropout1D
SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout GaussianNoise
ActivityRegularization BatchNormalization SyncBatchNormalization LayerNormalization
GroupNormalization UnitNormalization RMSNormalization Normalization Rescaling Masking Identity
Highway
""".split()

AUGMENTATIONS = """
AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization
MaxNumBoundingBoxes MixUp RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter
RandomContrast RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale
RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation
RandomSharpness RandomShear RandomTranslation RandomZoom Solarization
""".split()
"""What keeps the shape of an image; called on a mapping it may change what is beside the image."""

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


def output_shapes(layer: Layer, shapes: Sequence[Shape]) -> list[Shape]:
    """The output shapes of a layer other than a convolution, from its input shapes.

    Raises `GeometryError` where that has no elements, or where the shapes do not go together.
    """
    rules = OPERATIONS if layer.operation else SHAPES
    rule = rules.get(layer.kind) if layer.is_keras else None
    if rule is None:
        return [None]
    try:
        made = rule(layer, shapes)
    except GeometryError as error:
        raise GeometryError(f"{layer.kind} {layer.name}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError):
        return [None]  # a configuration of another kind than the rule knows: nothing is known
    except RecursionError:  # cells within cells
        return [None]
    several = made if isinstance(made, list) else [made]
    return [one if one is None or all(map(_is_size, one)) else None for one in several]


def output_shape(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """The first of `output_shapes`."""
    return output_shapes(layer, shapes)[0]


def _is_size(size: object) -> bool:
    return size is None or (type(size) is int and 1 <= size <= MAX_SIZE)


def without(first: Shape, second: Shape) -> Shape:
    """The first account of a shape, without what the second contradicts."""
    if first is None or second is None:
        return first
    if len(first) != len(second):
        return None
    return tuple(a if b in (None, a) else None for a, b in zip(first, second, strict=True))


def _only(shapes: Sequence[Shape]) -> tuple[int | None, ...]:
    shape = shapes[0]
    if shape is None:
        raise ValueError("nothing is known of its input")
    return shape


def _same(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def _elementwise(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """Broadcast as NumPy does; an open size takes the other one's value."""
    known = [shape for shape in (*shapes, *layer.constants) if shape is not None]
    if len(known) < len(shapes) + len(layer.constants) or not known:
        return None
    rank = max(map(len, known))
    broadcast: list[int | None] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in known), strict=True):
        large = [size for size in sizes if size not in (1, None)]
        if len(set(large)) > 1:
            if layer.constants or len(set(map(len, known))) > 1 or not broadcast:
                return None
            raise GeometryError(f"tensors of {_listed(known)} do not go together")
        broadcast.append(large[0] if large else None if None in sizes else 1)
    return tuple(broadcast)


def _listed(shapes: Sequence[Shape]) -> str:
    return " and ".join(shown(shape or ()) for shape in shapes)


def _concatenated(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    axis = layer.config.get("axis", layer.config.get("concat_axis", -1)) % len(known[0])
    joined: list[int | None] = []
    for number, sizes in enumerate(zip(*known, strict=True)):
        settled = [size for size in sizes if size is not None]
        if number == axis:
            joined.append(sum(settled) if len(settled) == len(sizes) else None)
            continue
        if len(set(settled)) > 1 and number:
            raise GeometryError(f"tensors of {_listed(known)} are not joined along axis {axis}")
        joined.append(settled[0] if settled else None)
    return tuple(joined)


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
    wanted = [size if size > 0 else None for size in target]
    total, rest = _product(sizes), prod(size for size in wanted if size is not None)
    if total is not None:
        if total % rest or (total != rest and None not in wanted):
            whole = shown([size or -1 for size in wanted])
            raise GeometryError(f"an input of {shown(sizes)} cannot take the shape {whole}")
        if wanted.count(None) == 1:
            wanted[wanted.index(None)] = total // rest
    return batch, *wanted


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


def _recurrent(layer: Layer, shapes: Sequence[Shape]) -> list[Shape]:
    """The output, and where `return_state` asks for them the states after it."""
    config = layer.config
    batch, steps, _ = _only(shapes)
    if config.get("time_major"):
        raise ValueError("its axes are in another order")
    cell = config["cell"] if layer.kind == "RNN" else {"class_name": layer.kind, "config": config}
    units = list(_states(cell))
    outputs: list[Shape] = [
        (batch, steps, units[-1]) if config.get("return_sequences") else (batch, units[-1])
    ]
    return outputs + [(batch, size) for size in units] * bool(config.get("return_state"))


STATES = {"LSTM": 2, "CuDNNLSTM": 2, "GRU": 1, "CuDNNGRU": 1, "SimpleRNN": 1}
"""How many states a recurrent layer has; its cell, which has the name with Cell after it, too."""


def _states(cell: Config) -> Iterator[int]:
    """The size of each state of a cell, or of several stacked; the last is the output's too.

    Raises `KeyError`, `TypeError` or `ValueError` for a cell of another class.
    """
    kind, config = str(cell["class_name"]), cell["config"]
    if not is_keras_class(cell, kind):
        raise ValueError(f"{kind} is a class of its author")
    if kind == "StackedRNNCells":
        for one in config["cells"]:
            yield from _states(one)
        return
    units = config["units"] if "units" in config else config["output_dim"]
    yield from [units] * STATES[kind.removesuffix("Cell")]


def _conv_recurrent(layer: Layer, shapes: Sequence[Shape]) -> list[Shape]:
    """A ConvLSTM: each step is convolved; its two states have the shape of what a step makes."""
    config, rank = layer.config, _rank(layer)
    batch, steps, *step = _only(shapes)
    if len(step) != rank + 1:
        raise ValueError("its input has other axes")
    first = _channels_first(layer)
    sizes = [
        None if size is None else _convolved(config, "kernel_size", axis, size)
        for axis, size in enumerate(step[1:] if first else step[:-1])
    ]
    filters = config["filters"]
    state = (filters, *sizes) if first else (*sizes, filters)
    output = (batch, steps, *state) if config.get("return_sequences") else (batch, *state)
    return [output, *[(batch, *state)] * (2 * bool(config.get("return_state")))]


def _convolved(config: Config, kernel: str, axis: int, size: int) -> int:
    """How many outputs a convolution with this configuration has along an axis."""
    stride, dilation = (int(_at(config.get(key, 1), axis)) for key in ("strides", "dilation_rate"))
    padding = str(config.get("padding", "valid")).lower()
    return keras_convolution_axis(
        size, int(_at(config[kernel], axis)), stride, dilation, padding
    ).outputs


def _bidirectional(layer: Layer, shapes: Sequence[Shape]) -> list[Shape]:
    """The outputs of both directions, joined or not, and the states of one and the other."""
    assert layer.inner is not None
    one, *states = output_shapes(layer.inner, shapes)
    mode = layer.config.get("merge_mode", "concat")
    outputs = [one, one] if mode is None else [one]
    if mode == "concat" and one is not None:
        last = one[-1]
        outputs = [(*one[:-1], None if last is None else 2 * last)]
    return [*outputs, *states, *states]


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
    pair = _at(value, axis)
    low, high = pair if isinstance(pair, list) else (pair, pair)
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


def _augmented(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    return shapes[0] if len(shapes) == 1 else None  # else a mapping: which is the image?


def _resized(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    if len(shapes) > 1:
        return None
    *rest, _, _, channels = _only(shapes)
    if _channels_first(layer):
        return *_only(shapes)[:-2], layer.config["height"], layer.config["width"]
    return *rest, layer.config["height"], layer.config["width"], channels


def _in_a_row(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """A Pipeline applies its layers one after another."""
    (shape,) = shapes
    for inner in layer.hidden:
        shape = output_shape(inner, [shape])
    return shape


def _attended(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    if layer.config.get("return_attention_scores"):
        return None
    if layer.kind == "MultiHeadAttention" and (stated := layer.config.get("output_shape")):
        return *_only(shapes)[:-1], *(stated if isinstance(stated, list) else [stated])
    if layer.kind in ATTENTIONS:
        return shapes[0]
    value = shapes[1]  # query, value, and perhaps key
    return None if value is None else (*_only(shapes)[:-1], value[-1])


def _einsum(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """Each axis of an EinsumDense's output: as its configuration has it, or as its input.

    Keras itself states two axes in the wrong order where the dots stand for several.
    """
    shape, target = _only(shapes), layer.config["output_shape"]
    match = re.fullmatch(
        r"(\.{3})?([a-zA-Z]+)(\.{3})?,[a-zA-Z]+->(\.{3})?([a-zA-Z]+)(\.{3})?",
        layer.config["equation"],
    )
    if match is None or (match[1], match[3]) != (match[4], match[6]) or (match[1] and match[3]):
        raise ValueError("an equation of another form")
    count = len(shape) - len(match[2])
    if count < 0 or (count and not match[1] and not match[3]):
        raise GeometryError(f"its equation does not take an input of {shown(shape)}")
    before = count if match[1] else 0
    elided = shape[:before] if match[1] else shape[len(match[2]) :]
    known = dict(zip(match[2], shape[before:], strict=False))
    stated = list(target) if isinstance(target, list) else [target]
    if not before:
        stated = [None, *stated]  # the batch
    sizes: list[int | None] = []
    for letter, size in zip(match[5], stated, strict=True):
        other = known.get(letter)
        if None not in (size, other) and size != other:
            raise GeometryError(f"{letter} is {other} in its input and {size} in its output")
        sizes.append(other if size is None else size)
    return (*elided, *sizes) if match[1] else (*sizes, *elided)


def _dot(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    first, second = (list(shape) for shape in shapes if shape is not None)
    axes = layer.config["axes"]
    one, two = axes if isinstance(axes, list) else (axes, axes)
    sizes = first.pop(one), second.pop(two)
    if None not in sizes and sizes[0] != sizes[1]:
        raise GeometryError(f"tensors of {_listed(shapes)} have no sum over those axes")
    return (*first, *second[1:]) if len(first) + len(second) > 2 else (first[0], 1)


def _mel(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """As many windows as there are, which is one less than Keras states of some lengths."""
    config = layer.config
    (*batch, size), length = _only(shapes), config["fft_length"]
    windows = None
    if size is not None:
        windows = 1 + (size + length // 2 * 2 - length) // config["sequence_stride"]
    return *batch, config["num_mel_bins"], windows


def _spectrogram(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    config = layer.config
    batch, *sizes = _only(shapes)
    size, channels = reversed(sizes) if _channels_first(layer) else sizes
    length = config["frame_length"]
    frames = {
        "kernel_size": length,
        "strides": config.get("frame_step") or length // 2,
        "padding": config.get("padding", "valid"),
    }
    windows = None if size is None else _convolved(frames, "kernel_size", 0, size)
    bins = (config.get("fft_length") or length) // 2 + 1
    bins *= 2 if config.get("mode", "log") == "stft" else 1
    if config.get("expand_dims"):
        made = (windows, bins)
        return (batch, channels, *made) if _channels_first(layer) else (batch, *made, channels)
    total = None if channels is None else bins * channels
    return (batch, total, windows) if _channels_first(layer) else (batch, windows, total)


def _encoded(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """Categories as vectors: as many numbers as there are categories, on an axis of their own."""
    shape, config = _only(shapes), layer.config
    mode = config.get("output_mode", "multi_hot" if layer.kind == "CategoryEncoding" else "int")
    if mode == "int":
        return shape
    if layer.kind == "Discretization":
        bounds = config.get("bin_boundaries")
        depth = config["num_bins"] if bounds is None else len(bounds) + 1
    elif layer.kind in ("IntegerLookup", "StringLookup"):
        depth = config["max_tokens"] if config.get("pad_to_max_tokens") else None
    else:
        depth = config["num_tokens" if layer.kind == "CategoryEncoding" else "num_bins"]
    if mode == "one_hot" and layer.kind != "Hashing":
        return (*shape[:-1], depth) if len(shape) > 1 and shape[-1] == 1 else (*shape, depth)
    if len(shape) != 2:  # which axis is summed over depends on the class and on the backend
        return None
    return shape[0], depth


def _embedded_or_not(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """A ReversibleEmbedding, one of whose calls may be the other way round."""
    return None if "reverse" in layer.flags else _embedded(layer, shapes)


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


ATTENTIONS = ("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention")
"""Those whose output is by default of the query's shape."""


def _spatial(*kinds: str) -> list[str]:
    return [f"{kind}{rank}D" for kind in kinds for rank in (1, 2, 3)]


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(AUGMENTATIONS, _augmented),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(
        _spatial("MaxPooling", "AveragePooling", "MaxPool", "AvgPool"), _along(_pooled)
    ),
    **dict.fromkeys(_spatial("GlobalMaxPooling", "GlobalAveragePooling"), _global_pooled),
    **dict.fromkeys(_spatial("AdaptiveMaxPooling", "AdaptiveAveragePooling"), _adapted),
    **dict.fromkeys(_spatial("ZeroPadding"), _along(_padded)),
    **dict.fromkeys(_spatial("Cropping"), _along(_cropped)),
    **dict.fromkeys(_spatial("UpSampling"), _along(_upsampled)),
    **dict.fromkeys((*STATES, "RNN"), _recurrent),
    **dict.fromkeys(_spatial("ConvLSTM"), _conv_recurrent),
    **dict.fromkeys((*ATTENTIONS, "Attention", "AdditiveAttention"), _attended),
    **dict.fromkeys(
        ("CategoryEncoding", "Discretization", "Hashing", "IntegerLookup", "StringLookup"), _encoded
    ),
    "Concatenate": _concatenated,
    "Merge": _merge,
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Permute": _permuted,
    "RepeatVector": _repeated,
    "Dense": _dense,
    "Embedding": _embedded,
    "Bidirectional": _bidirectional,
    **dict.fromkeys(("Resizing", "CenterCrop", "RandomCrop"), _resized),
    "Dot": _dot,
    "EinsumDense": _einsum,
    "MelSpectrogram": _mel,
    "STFTSpectrogram": _spectrogram,
    "ReversibleEmbedding": _embedded_or_not,
    "Pipeline": _in_a_row,
    "Lambda": _lambda,
    "TFOpLambda": _tensorflow,
}
"""The rule of each class of layers, by its name."""

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(OPERATIONS_SAME, _same),
    **dict.fromkeys(OPERATIONS_ELEMENTWISE, _elementwise),
}
"""The rule of each class of operations, some of which are named like layers that do otherwise."""
