"""All size and padding arithmetic, in plain integers: from a framework's attributes to axes.

One axis of a convolution is a relation between three ranges. Output o in [0, outputs), input i in
[0, inputs) and kernel element t in [0, kernel) belong together where

    i = o * stride + t * dilation - offset.

`Axis` states the six numbers; nothing in it is inferred. Every rule by which a framework infers
them (explicit pads, SAME, VALID, output_padding, output_shape) is a function of this module, and
its strings travel no further. A transposed convolution's axis is the same relation read the other
way: `inputs` is then the size of the layer's *output*, `outputs` that of its *input*.

Sources: Ma & Lu 2017, Eq. 5-7; the ONNX operator specifications of Conv, ConvTranspose,
AveragePool, Pad and Resize; Keras by experiment.
"""

from dataclasses import dataclass, replace

from convfc_cli.errors import GeometryError, Refused, Unsupported

MAX_SIZE = 2**40
"""Limit on a size, stride, dilation or offset: no real tensor comes near it."""

MAX_KERNEL = 2**20
"""Limit on a kernel along one axis: its elements are visited individually."""

MAX_POOLED = 2**22
"""Windows along one axis of a pooling layer: the elements of each are counted."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The relation i = o * stride + t * dilation - offset of one spatial axis.

    Parameters
    ----------
    inputs, outputs, kernel : int
        Sizes, in elements: i, o and t run from 0 to below them.
    stride, dilation : int
        How many inputs apart the windows, and the kernel elements of a window, are.
    offset : int
        Zeros before the input; negative where the input is cropped.

    Raises
    ------
    GeometryError
        If a number is beyond what a real tensor has.

    Examples
    --------
    >>> Axis(inputs=4, outputs=4, kernel=3, stride=1, dilation=1, offset=1).span
    3
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    offset: int

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "kernel", "stride", "dilation"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_SIZE:
                raise GeometryError(f"{name} is {value}; it must lie between 1 and 2**40")
        if self.kernel > MAX_KERNEL:
            raise GeometryError(f"a kernel of {self.kernel} elements along one axis, beyond 2**20")
        if abs(self.offset) > MAX_SIZE:
            raise GeometryError(f"a padding of {self.offset} is beyond 2**40")

    @property
    def span(self) -> int:
        """Inputs from the first to the last that one output may read: d(k - 1) + 1."""
        return span(self.kernel, self.dilation)


def span(kernel: int, dilation: int) -> int:
    """Inputs covered by a dilated kernel, d(k - 1) + 1.

    Parameters
    ----------
    kernel, dilation : int
        Elements of the kernel along the axis, and their distance.

    Returns
    -------
    int
        The inputs from the first to the last that one output may read.

    Examples
    --------
    >>> span(kernel=3, dilation=2)
    5
    """
    return dilation * (kernel - 1) + 1


def convolution_axis(
    inputs: int, kernel: int, stride: int, dilation: int, low: int, high: int
) -> Axis:
    """The axis of a convolution with `low` zeros before and `high` after.

    outputs = floor((n + low + high - e) / s) + 1, with n the inputs, s the stride and e the span.

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        As in `Axis`.
    low, high : int
        Zeros before and after the input; negative numbers crop it.

    Returns
    -------
    Axis
        With as many outputs as fit.

    Raises
    ------
    GeometryError
        If the padded input is shorter than the kernel's span.

    References
    ----------
    Ma & Lu 2017, Eq. 5-7, for a stride and zeros; the ONNX specification of Conv for dilation.

    Examples
    --------
    >>> convolution_axis(inputs=5, kernel=3, stride=2, dilation=1, low=1, high=1).outputs
    3
    """
    _check_steps(kernel, stride, dilation)
    reach = span(kernel, dilation)
    outputs = (inputs + low + high - reach) // stride + 1
    if outputs < 1:
        raise GeometryError(
            f"no output: size {inputs} with padding ({low}, {high}) is less than the kernel's "
            f"span {reach} (kernel {kernel}, dilation {dilation}, stride {stride})"
        )
    return Axis(inputs, outputs, kernel, stride, dilation, offset=low)


def same_padding(
    inputs: int, kernel: int, stride: int, dilation: int, *, upper: bool
) -> tuple[int, int]:
    """The zeros by which a convolution has ceil(inputs / stride) outputs.

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        As in `Axis`.
    upper : bool
        Whether an odd zero is put after the input (SAME_UPPER) or before it (SAME_LOWER).

    Returns
    -------
    low, high : int
        Zeros before and after the input.

    Examples
    --------
    >>> same_padding(4, 2, 1, 1, upper=True), same_padding(4, 2, 1, 1, upper=False)
    ((0, 1), (1, 0))
    """
    _check_steps(kernel, stride, dilation)
    outputs = -(-inputs // stride)
    total = max(0, (outputs - 1) * stride + span(kernel, dilation) - inputs)
    low = total // 2 if upper else total - total // 2
    return low, total - low


def named_padding(
    word: str, inputs: int, kernel: int, stride: int, dilation: int
) -> tuple[int, int]:
    """The zeros that a word for a convolution's padding asks for.

    | word       | low, high, with e the kernel's span | whose word it is                 |
    |------------|-------------------------------------|----------------------------------|
    | valid      | 0, 0                                | Keras, PyTorch, SciPy            |
    | same       | `same_padding`, an odd zero after   | Keras, PyTorch; ONNX: SAME_UPPER |
    | same-lower | `same_padding`, an odd zero before  | SciPy's same; ONNX: SAME_LOWER   |
    | half       | floor(e / 2), floor(e / 2)          | Theano                           |
    | full       | e - 1, e - 1                        | SciPy, Theano                    |
    | causal     | e - 1, 0                            | Keras                            |

    Parameters
    ----------
    word : str
        One of `vocabulary.PADS`.
    inputs, kernel, stride, dilation : int
        As in `Axis`.

    Returns
    -------
    low, high : int
        Zeros before and after the input.

    Raises
    ------
    GeometryError
        If it is another word.

    References
    ----------
    Ma & Lu 2017, Eq. 5-7, for none (valid), half and full.

    Examples
    --------
    >>> named_padding("half", 5, 4, 1, 1), named_padding("full", 5, 4, 1, 1)
    ((2, 2), (3, 3))
    """
    _check_steps(kernel, stride, dilation)
    before = span(kernel, dilation) - 1
    fixed = {
        "valid": (0, 0),
        "half": ((before + 1) // 2, (before + 1) // 2),
        "full": (before, before),
        "causal": (before, 0),
    }
    if word in fixed:
        return fixed[word]
    if word not in ("same", "same-lower"):
        known = ", ".join((*fixed, "same", "same-lower"))
        raise GeometryError(f"the padding {word!r} is not one of {known}")
    return same_padding(inputs, kernel, stride, dilation, upper=word == "same")


def transposed_axis(
    inputs: int,
    kernel: int,
    stride: int,
    dilation: int,
    low: int,
    high: int,
    output_padding: int = 0,
) -> Axis:
    """The axis of a transposed convolution over `inputs`, cropped by `low` and `high`.

    The layer's output has m = (n - 1)s + e + output_padding - low - high elements, with n the
    inputs, s the stride and e the span.

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        Sizes and steps of the layer: `inputs` is the size of the tensor that it reads.
    low, high : int
        Outputs cropped at the beginning and at the end.
    output_padding : int
        Outputs added at the end.

    Returns
    -------
    Axis
        That of the convolution whose transpose the layer is: from m inputs to n outputs.

    Raises
    ------
    GeometryError
        If no output is left, or the output padding is not less than stride or dilation.

    References
    ----------
    The ONNX specification of ConvTranspose.

    Examples
    --------
    >>> transposed_axis(inputs=3, kernel=3, stride=2, dilation=1, low=1, high=1, output_padding=1)
    Axis(inputs=6, outputs=3, kernel=3, stride=2, dilation=1, offset=1)
    """
    _check_steps(kernel, stride, dilation)
    if inputs < 1:
        raise GeometryError(f"a transposed convolution over {inputs} inputs has no output")
    if not 0 <= output_padding < max(stride, dilation):
        raise GeometryError(
            f"output_padding {output_padding} must be at least 0 and less than "
            f"the larger of stride {stride} and dilation {dilation}"
        )
    natural = (inputs - 1) * stride + span(kernel, dilation) + output_padding
    outputs = natural - low - high
    if outputs < 1:
        raise GeometryError(
            f"no output: {inputs} inputs spread over {natural} (kernel {kernel}, stride {stride}, "
            f"dilation {dilation}, output_padding {output_padding}), cropped by ({low}, {high})"
        )
    return Axis(
        inputs=outputs, outputs=inputs, kernel=kernel, stride=stride, dilation=dilation, offset=low
    )


def onnx_convolution_axis(
    inputs: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    auto_pad: str = "NOTSET",
) -> Axis:
    """The axis of an ONNX Conv.

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        As in `Axis`.
    pads : (int, int)
        Zeros before and after the input; negative numbers crop it.
    auto_pad : str
        NOTSET, or what overrules `pads`, as it does in the runtimes: VALID, SAME_UPPER, SAME_LOWER.

    Returns
    -------
    Axis
        The axis, with its outputs.

    Raises
    ------
    GeometryError
        If no output is left, or `auto_pad` is another word.

    Examples
    --------
    >>> onnx_convolution_axis(4, 3, stride=2, auto_pad="SAME_LOWER").offset
    1
    """
    if auto_pad == "NOTSET":
        low, high = pads
    elif auto_pad == "VALID":
        low, high = 0, 0
    else:
        low, high = same_padding(inputs, kernel, stride, dilation, upper=_is_upper(auto_pad))
    return convolution_axis(inputs, kernel, stride, dilation, low, high)


def onnx_transposed_axis(
    inputs: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    auto_pad: str = "NOTSET",
    output_padding: int = 0,
    output_shape: int | None = None,
) -> Axis:
    """The axis of an ONNX ConvTranspose.

    With nat = (n - 1)s + e + output_padding, and total = nat - m shared out over both ends
    (SAME_UPPER: the smaller half first; anything else: the larger half first):

    | case                           | m               | low        |
    |--------------------------------|-----------------|------------|
    | NOTSET, no output_shape        | nat - lo - hi   | pads       |
    | VALID, no output_shape         | nat             | 0          |
    | SAME_*, no output_shape        | n * s           | from total |
    | output_shape, any auto_pad     | as given        | from total |

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        As in `transposed_axis`.
    pads : (int, int)
        lo and hi: outputs cropped at the beginning and at the end.
    auto_pad : str
        NOTSET, VALID, SAME_UPPER or SAME_LOWER.
    output_padding : int
        Outputs added at the end.
    output_shape : int, optional
        The size m of the layer's output, which overrules the padding.

    Returns
    -------
    Axis
        That of the convolution whose transpose the layer is: from m inputs to n outputs.

    Raises
    ------
    GeometryError
        If no output is left.
    Unsupported
        If SAME would have to add, not crop: the specification and its best known runtime disagree.

    References
    ----------
    The ONNX specification of ConvTranspose, and onnxruntime where it is silent.

    Examples
    --------
    >>> onnx_transposed_axis(3, 3, stride=2, output_padding=1, output_shape=6).offset
    1
    """
    _check_steps(kernel, stride, dilation)
    if output_shape is None and auto_pad in ("NOTSET", "VALID"):
        low, high = pads if auto_pad == "NOTSET" else (0, 0)
        return transposed_axis(inputs, kernel, stride, dilation, low, high, output_padding)
    upper = auto_pad not in ("NOTSET", "VALID") and _is_upper(auto_pad)
    outputs = inputs * stride if output_shape is None else output_shape
    natural = (inputs - 1) * stride + span(kernel, dilation) + output_padding
    total = natural - outputs
    if total < 0 and output_shape is None:
        raise Unsupported(
            f"auto_pad {auto_pad} would have to add {-total} outputs (stride {stride} is larger "
            f"than the kernel's span plus output_padding), where ONNX and its runtimes disagree; "
            f"state output_shape or pads in the model instead"
        )
    low = max(0, total // 2 if upper else total - total // 2)
    return transposed_axis(inputs, kernel, stride, dilation, low, total - low, output_padding)


def keras_convolution_axis(
    inputs: int, kernel: int, stride: int, dilation: int, padding: str
) -> Axis:
    """The axis of a Keras convolution.

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        As in `Axis`.
    padding : str
        valid, same (an odd zero after the input) or causal (all zeros before it).

    Returns
    -------
    Axis
        The axis, with its outputs.

    Raises
    ------
    GeometryError
        If no output is left, or `padding` is another word.

    Examples
    --------
    >>> keras_convolution_axis(8, 3, 1, 2, "causal").offset
    4
    """
    _check_padding(padding, "valid", "same", "causal")
    low, high = named_padding(padding, inputs, kernel, stride, dilation)
    return convolution_axis(inputs, kernel, stride, dilation, low, high)


def keras_transposed_axis(
    inputs: int,
    kernel: int,
    stride: int,
    dilation: int,
    padding: str,
    output_padding: int | None = None,
) -> Axis:
    """The axis of a Keras transposed convolution, which states its output's size, not its padding.

    | padding | output_padding | m                                  | low                         |
    |---------|----------------|------------------------------------|-----------------------------|
    | valid   | None           | n s + max(e - s, 0)                | 0                           |
    | valid   | op             | (n - 1)s + e + op                  | 0                           |
    | same    | None           | n s                                | floor(max(0, (n-1)s+e-m)/2) |
    | same    | op             | (n - 1)s + e - 2 floor(e / 2) + op | floor(max(0, (n-1)s+e-m)/2) |

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        As in `transposed_axis`.
    padding : str
        valid or same.
    output_padding : int, optional
        op in the table.

    Returns
    -------
    Axis
        That of the convolution whose transpose the layer is: from m inputs to n outputs.

    Raises
    ------
    GeometryError
        If no output is left, or the output padding is not less than the stride.

    References
    ----------
    Experiments with Keras 2 and 3 on TensorFlow.

    Examples
    --------
    >>> keras_transposed_axis(3, 3, 2, 1, "same").inputs
    6
    >>> keras_transposed_axis(3, 3, 2, 1, "same", 0).offset
    1
    """
    _check_steps(kernel, stride, dilation)
    reach = span(kernel, dilation)
    natural = (inputs - 1) * stride + reach
    if output_padding is not None and not 0 <= output_padding < stride:
        raise GeometryError(
            f"output_padding {output_padding} must be at least 0 and less than stride {stride}"
        )
    _check_padding(padding, "valid", "same")
    if padding == "same":
        if output_padding is None:
            outputs = inputs * stride
        else:
            outputs = natural - 2 * (reach // 2) + output_padding
        low = max(0, natural - outputs) // 2
    else:
        outputs = natural + max(stride - reach, 0)
        if output_padding is not None:
            outputs = natural + output_padding
        low = 0
    # What lies beyond the last tap is zeros: as many as an output_padding of any size would add.
    if inputs < 1 or outputs < 1:
        raise GeometryError(
            f"no output: {inputs} inputs spread over {outputs} (kernel {kernel}, stride {stride}, "
            f"dilation {dilation}, padding {padding}, output_padding {output_padding})"
        )
    return Axis(
        inputs=outputs, outputs=inputs, kernel=kernel, stride=stride, dilation=dilation, offset=low
    )


def keras_local_axis(inputs: int, kernel: int, stride: int, padding: str) -> Axis:
    """The axis of a Keras locally connected layer.

    Under `same` half the kernel is before the input, whatever the stride: not what `same` is for a
    convolution.

    Parameters
    ----------
    inputs, kernel, stride : int
        As in `Axis`, without dilation.
    padding : str
        valid or same.

    Returns
    -------
    Axis
        The axis, with its outputs.

    Examples
    --------
    >>> keras_local_axis(4, 2, 1, "same").offset, keras_convolution_axis(4, 2, 1, 1, "same").offset
    (1, 0)
    """
    _check_padding(padding, "valid", "same")
    if padding == "valid":
        return keras_convolution_axis(inputs, kernel, stride, 1, padding)
    _check_steps(kernel, stride, 1)
    return Axis(inputs, -(-inputs // stride), kernel, stride, dilation=1, offset=kernel // 2)


def pooled(inputs: int, window: int, stride: int, padding: str) -> int:
    """How many outputs a Keras pooling layer has along one axis.

    Parameters
    ----------
    inputs, window, stride : int
        Sizes and distance of the windows, in elements.
    padding : str
        valid or same.

    Returns
    -------
    int
        The number of windows.

    Examples
    --------
    >>> pooled(5, 2, 2, "valid"), pooled(5, 2, 2, "same")
    (2, 3)
    """
    return keras_convolution_axis(inputs, window, stride, 1, padding).outputs


def onnx_pooled_axis(
    inputs: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    auto_pad: str = "NOTSET",
    *,
    ceil: bool = False,
    include_pad: bool = False,
) -> tuple[Axis, tuple[int, ...]]:
    """The axis of an ONNX AveragePool, and by how many elements each window's sum is divided.

    Parameters
    ----------
    inputs, kernel, stride, dilation : int
        As in `Axis`.
    pads : (int, int)
        Zeros before and after the input.
    auto_pad : str
        NOTSET, VALID, SAME_UPPER or SAME_LOWER.
    ceil : bool
        Whether there is one more window where the last one would end beyond the padded input, if it
        begins before the padding after the input (as in PyTorch). SAME has ceil(n / s) either way.
    include_pad : bool
        Whether to count the elements of a window within the padded input, not only those within the
        input. What is beyond that is never counted.

    Returns
    -------
    axis : Axis
        The axis, with a window for each output.
    counts : tuple of int
        For each output, the elements of its window that are counted.

    Raises
    ------
    GeometryError
        If a pad is negative or no window fits.
    Unsupported
        For VALID with `ceil` where that makes a difference, as the specification and its runtimes
        disagree; for a window wholly in the padding, which has no average.
    Refused
        If there are more than 2**22 windows.

    References
    ----------
    The ONNX specification of AveragePool.

    Examples
    --------
    >>> onnx_pooled_axis(5, 3, stride=2, pads=(1, 1))[1]
    (2, 3, 2)
    >>> onnx_pooled_axis(6, 3, stride=2, pads=(1, 1), ceil=True, include_pad=True)[1]
    (3, 3, 3, 2)
    """
    if min(pads) < 0:
        raise GeometryError(f"a pooling layer has the negative padding {pads}")
    _check_steps(kernel, stride, dilation)
    low, high = pads if auto_pad == "NOTSET" else (0, 0)
    if auto_pad not in ("NOTSET", "VALID"):
        low, high = same_padding(inputs, kernel, stride, dilation, upper=_is_upper(auto_pad))
        ceil = False
    beyond = (span(kernel, dilation) - inputs - low - high) % stride if ceil else 0
    if beyond and auto_pad == "VALID":
        raise Unsupported(
            "auto_pad VALID with ceil_mode, where ONNX and its runtimes disagree on how many "
            "windows there are; state pads in the model instead"
        )
    axis = convolution_axis(inputs, kernel, stride, dilation, low, high + beyond)
    if beyond and (axis.outputs - 1) * stride >= inputs + low:
        axis = replace(axis, outputs=axis.outputs - 1)
    if axis.outputs > MAX_POOLED:
        raise Refused(f"{axis.outputs} windows along one axis of a pooling layer, beyond 2**22")
    first, last = (-low, inputs + high) if include_pad else (0, inputs)

    def counted(window: int) -> int:
        """The elements t of the kernel with first <= start + t * dilation < last."""
        start = window * stride - low
        below = max(0, -((start - first) // dilation))
        return min(kernel, -((start - last) // dilation)) - below

    counts = tuple(map(counted, range(axis.outputs)))
    if min(counts) < 1:
        raise Unsupported("a window lies wholly in the padding: there is nothing to average")
    return axis, counts


def padded(inputs: int, low: int, high: int, mode: str) -> tuple[range, int, int]:
    """What ONNX's Pad keeps of an axis, and how many elements it adds.

    Parameters
    ----------
    inputs : int
        Elements of the axis.
    low, high : int
        Elements added before and after; negative numbers crop, and what is cropped is not repeated.
    mode : str
        constant, reflect (without the border, no more than there is to reflect), edge, or wrap
        (as a torus).

    Returns
    -------
    kept : range
        The inputs that stay.
    before, after : int
        Elements added before and after them.

    Raises
    ------
    GeometryError
        If nothing is left.
    Unsupported
        Where the specification leaves open what is meant.

    References
    ----------
    The ONNX specification of Pad.

    Examples
    --------
    >>> padded(5, 2, -1, "edge")
    (range(0, 4), 2, 0)
    """
    if max(abs(low), abs(high)) > MAX_SIZE:
        raise GeometryError(f"a padding of {low} and {high} is beyond 2**40")
    kept = range(max(0, -low), inputs - max(0, -high))
    if not kept:
        raise GeometryError(f"a padding of {low} and {high} leaves nothing of {inputs} elements")
    before, after = max(0, low), max(0, high)
    if mode == "reflect" and max(before, after) >= len(kept):
        raise Unsupported(
            f"it reflects {max(before, after)} of {len(kept)} elements; there are "
            f"{len(kept) - 1} beside the one at the border"
        )
    if mode == "wrap" and len(kept) < inputs and before + after:
        raise Unsupported("it crops an axis and wraps it round; ONNX does not say which is first")
    return kept, before, after


def nearest(inputs: int, factor: int, transformation: str, rounding: str) -> tuple[int, ...]:
    """Which input each output is, along an axis that ONNX's Resize makes `factor` times as long.

    Parameters
    ----------
    inputs, factor : int
        Elements of the axis, and how many times as many there are afterwards.
    transformation : str
        A coordinate_transformation_mode that needs no more than the sizes.
    rounding : str
        A nearest_mode. A place beyond the input is the nearest one within.

    Returns
    -------
    tuple of int
        The input of each of the inputs * factor outputs.

    Raises
    ------
    Unsupported
        If a mode is another one.
    Refused
        If the axis would have more than 2**22 elements.

    References
    ----------
    The ONNX specification of Resize.

    Examples
    --------
    >>> nearest(3, 2, "half_pixel", "round_prefer_floor")
    (0, 0, 1, 1, 2, 2)
    >>> nearest(2, 3, "asymmetric", "round_prefer_ceil")
    (0, 0, 1, 1, 1, 1)
    """
    if not 1 <= inputs * factor <= MAX_POOLED:
        raise Refused(f"an axis of {inputs * factor} elements after resizing; 2**22 is the most")
    shift = {"asymmetric": 0, "half_pixel": 1, "half_pixel_symmetric": 1, "pytorch_half_pixel": 1}
    # The place of output o is (o + 1/2) / factor - 1/2, or o / factor: an integer over `below`.
    below = 2 * factor
    rules = {
        "floor": lambda place: place // below,
        "ceil": lambda place: -(-place // below),
        "round_prefer_floor": lambda place: -((factor - place) // below),
        "round_prefer_ceil": lambda place: (place + factor) // below,
    }
    if transformation not in shift or rounding not in rules:
        raise Unsupported(f"Resize with {transformation} coordinates and {rounding} is not read")
    shifted = shift[transformation] * (1 - factor)
    places = (2 * o + shifted for o in range(inputs * factor))
    return tuple(min(max(rules[rounding](place), 0), inputs - 1) for place in places)


def _check_padding(padding: str, *known: str) -> None:
    """Raise `GeometryError` for a padding that a layer of Keras does not have."""
    if padding not in known:
        raise GeometryError(f"padding {padding!r} is not one of {', '.join(known)}")


def _is_upper(auto_pad: str) -> bool:
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise GeometryError(
            f"auto_pad {auto_pad!r} is not one of NOTSET, VALID, SAME_UPPER, SAME_LOWER"
        )
    return auto_pad == "SAME_UPPER"


def _check_steps(kernel: int, stride: int, dilation: int) -> None:
    """Before any division: an `Axis` would refuse the same, but later."""
    for name, value in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if not 1 <= value <= MAX_SIZE:
            raise GeometryError(f"{name} is {value}; it must lie between 1 and 2**40")
