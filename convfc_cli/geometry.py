"""All size and padding arithmetic, in plain integers: from a framework's attributes to axes.

One axis of a convolution is a relation between three ranges. Output o in [0, outputs), input i in
[0, inputs) and kernel element t in [0, kernel) belong together where

    i = o * stride + t * dilation - offset.

`Axis` states the six numbers; nothing in it is inferred. Every rule by which a framework infers
them (explicit pads, SAME, VALID, output_padding, output_shape) is a function of this module, and
its strings travel no further. A transposed convolution's axis is the same relation read the other
way: `inputs` is then the size of the layer's *output*, `outputs` that of its *input*.

Sources: Ma & Lu 2017, Eq. 5-7; the ONNX operator specifications of Conv and ConvTranspose; Keras by
experiment.
"""

from dataclasses import dataclass

from convfc_cli.errors import GeometryError, Unsupported

LARGEST = 2**40
"""The largest size, stride, dilation or offset accepted: no real tensor comes near it."""

LARGEST_KERNEL = 2**20
"""The largest kernel along one axis: its elements are gone through one by one."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The relation i = o * stride + t * dilation - offset of one spatial axis.

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
            if not 1 <= value <= LARGEST:
                raise GeometryError(f"{name} is {value}; it must lie between 1 and 2**40")
        if self.kernel > LARGEST_KERNEL:
            raise GeometryError(f"a kernel of {self.kernel} elements along one axis, beyond 2**20")
        if abs(self.offset) > LARGEST:
            raise GeometryError(f"a padding of {self.offset} is beyond 2**40")

    @property
    def span(self) -> int:
        """Inputs from the first to the last that one output may read: d(k - 1) + 1."""
        return span(self.kernel, self.dilation)


def span(kernel: int, dilation: int) -> int:
    """Inputs covered by a dilated kernel, d(k - 1) + 1.

    >>> span(kernel=3, dilation=2)
    5
    """
    return dilation * (kernel - 1) + 1


def convolution_axis(
    inputs: int, kernel: int, stride: int, dilation: int, low: int, high: int
) -> Axis:
    """The axis of a convolution with `low` zeros before and `high` after (negative: cropped).

    outputs = floor((n + low + high - e) / s) + 1, with e the span.

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
    """(low, high) of SAME padding, by which a convolution has ceil(n / s) outputs.

    The odd zero stands after the input for SAME_UPPER, before it for SAME_LOWER.

    >>> same_padding(4, 2, 1, 1, upper=True), same_padding(4, 2, 1, 1, upper=False)
    ((0, 1), (1, 0))
    """
    _check_steps(kernel, stride, dilation)
    outputs = -(-inputs // stride)
    total = max(0, (outputs - 1) * stride + span(kernel, dilation) - inputs)
    low = total // 2 if upper else total - total // 2
    return low, total - low


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

    The layer's output has m = (n - 1)s + e + output_padding - low - high elements. The axis is that
    of the convolution whose transpose it is: from m inputs to n outputs.

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
    """The axis of an ONNX Conv; `auto_pad` other than NOTSET overrules `pads`, as in the runtimes.

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

    Raises `Unsupported` where SAME would have to add, not crop: the specification and its best
    known runtime then disagree.

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
    """The axis of a Keras convolution: `padding` is valid, same (UPPER) or causal (all before).

    >>> keras_convolution_axis(8, 3, 1, 2, "causal").offset
    4
    """
    _check_steps(kernel, stride, dilation)
    if padding == "causal":
        low, high = span(kernel, dilation) - 1, 0
    elif _is_same(padding):
        low, high = same_padding(inputs, kernel, stride, dilation, upper=True)
    else:
        low, high = 0, 0
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

    Found by experiment with Keras 2 and 3 on TensorFlow.

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
    if _is_same(padding):
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


def pooled(inputs: int, window: int, stride: int, padding: str) -> int:
    """How many outputs a Keras pooling layer has along one axis; `padding` is valid or same.

    >>> pooled(5, 2, 2, "valid"), pooled(5, 2, 2, "same")
    (2, 3)
    """
    return keras_convolution_axis(inputs, window, stride, 1, padding).outputs


def _is_same(padding: str) -> bool:
    if padding not in ("valid", "same"):
        raise GeometryError(f"padding {padding!r} is none of valid, same, causal")
    return padding == "same"


def _is_upper(auto_pad: str) -> bool:
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise GeometryError(
            f"auto_pad {auto_pad!r} is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER"
        )
    return auto_pad == "SAME_UPPER"


def _check_steps(kernel: int, stride: int, dilation: int) -> None:
    """Before any division: an `Axis` would refuse the same, but later."""
    for name, value in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if not 1 <= value <= LARGEST:
            raise GeometryError(f"{name} is {value}; it must lie between 1 and 2**40")
