"""Size and padding arithmetic against tables worked by hand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli.errors import GeometryError, MalformedInput, Refused, Unsupported
from convfc_cli.geometry import (
    MAX_KERNEL,
    MAX_POOLED,
    MAX_SIZE,
    Axis,
    convolution_axis,
    keras_convolution_axis,
    keras_local_axis,
    keras_transposed_axis,
    named_padding,
    nearest,
    onnx_convolution_axis,
    onnx_pooled_axis,
    onnx_transposed_axis,
    padded,
    pooled,
    same_padding,
    span,
    transposed_axis,
)
from convfc_cli.vocabulary import PADS

# n, k, s, d -> m, (low, high) of SAME_UPPER, of SAME_LOWER
SAME = [
    ((4, 2, 1, 1), 4, (0, 1), (1, 0)),
    ((4, 3, 2, 1), 2, (0, 1), (1, 0)),
    ((5, 3, 2, 1), 3, (1, 1), (1, 1)),
    ((5, 2, 1, 3), 5, (1, 2), (2, 1)),
    ((6, 3, 2, 2), 3, (1, 2), (2, 1)),
    ((8, 1, 4, 1), 2, (0, 0), (0, 0)),
    ((1, 5, 1, 1), 1, (2, 2), (2, 2)),
    ((7, 2, 7, 1), 1, (0, 0), (0, 0)),
    ((3, 4, 1, 2), 3, (3, 3), (3, 3)),
    ((10, 6, 4, 1), 3, (2, 2), (2, 2)),
]


@pytest.mark.parametrize(("case", "outputs", "upper", "lower"), SAME)
def test_same_padding_is_the_hand_table(case, outputs, upper, lower):
    assert same_padding(*case, upper=True) == upper
    assert same_padding(*case, upper=False) == lower


def test_which_half_of_same_comes_first_is_said_by_name():
    with pytest.raises(TypeError):
        same_padding(4, 2, 1, 1, True)


@pytest.mark.parametrize(("case", "outputs", "upper", "lower"), SAME)
def test_onnx_conv_same_is_the_hand_table_and_overrules_pads(case, outputs, upper, lower):
    n, k, s, d = case
    for auto_pad, low in (("SAME_UPPER", upper[0]), ("SAME_LOWER", lower[0])):
        axis = onnx_convolution_axis(n, k, s, d, pads=(7, 9), auto_pad=auto_pad)
        assert axis == Axis(n, outputs, k, s, d, low)


# n, k, s, d, low, high -> outputs
CONVOLUTIONS = [
    ((5, 3, 1, 1, 0, 0), 3),  # Eq. 5: none
    ((5, 3, 1, 1, 1, 1), 5),  # Eq. 6: half
    ((5, 4, 1, 1, 2, 2), 6),  # half of an even kernel: one more
    ((5, 3, 1, 1, 2, 2), 7),  # Eq. 7: full
    ((5, 3, 2, 1, 1, 1), 3),
    ((6, 3, 2, 1, 1, 1), 3),  # floor((6 + 2 - 3) / 2) + 1: the last zero is not read
    ((6, 3, 2, 1, 0, 0), 2),  # an input that nothing reads
    ((7, 3, 2, 2, 2, 2), 4),  # span 5
    ((5, 2, 1, 3, 1, 2), 5),  # asymmetric
    ((5, 3, 1, 2, 4, 0), 5),  # causal: low = span - 1
    ((8, 1, 4, 1, 0, 0), 2),  # stride > kernel
    ((5, 3, 1, 1, -1, 0), 2),  # cropped
    ((5, 2, 3, 1, -2, -1), 1),
    ((1, 3, 5, 1, 1, 1), 1),
    ((2, 3, 1, 1, 9, 9), 18),  # more outputs than the inputs reach
]


@pytest.mark.parametrize(("case", "outputs"), CONVOLUTIONS)
def test_convolution_axis_is_the_hand_table(case, outputs):
    n, k, s, d, low, high = case
    expected = Axis(n, outputs, k, s, d, low)
    assert convolution_axis(n, k, s, d, low, high) == expected
    assert onnx_convolution_axis(n, k, s, d, pads=(low, high)) == expected


def test_onnx_conv_defaults_are_stride_1_dilation_1_no_padding():
    assert onnx_convolution_axis(9, 4) == Axis(9, 6, 4, 1, 1, 0)


def test_onnx_conv_valid_ignores_pads():
    axis = onnx_convolution_axis(9, 4, 2, 2, pads=(3, 5), auto_pad="VALID")
    assert axis == Axis(9, 2, 4, 2, 2, 0)


@pytest.mark.parametrize(
    ("kernel", "dilation", "expected"), [(1, 9, 1), (2, 3, 4), (3, 1, 3), (3, 2, 5), (5, 4, 17)]
)
def test_span_is_dilation_times_kernel_less_1_plus_1(kernel, dilation, expected):
    assert span(kernel, dilation) == expected
    assert Axis(1, 1, kernel, 1, dilation, 0).span == expected


# n, k, s, d, low, high, output_padding -> m
TRANSPOSED = [
    ((3, 3, 2, 1, 0, 0, 0), 7),
    ((3, 3, 2, 1, 1, 1, 0), 5),  # Keras same with output_padding 0: m 5, low 1
    ((3, 3, 2, 1, 1, 1, 1), 6),
    ((3, 3, 2, 1, 0, 1, 0), 6),  # Keras same with output_padding None: m 6, low 0
    ((3, 3, 2, 1, 2, 0, 1), 6),
    ((4, 2, 3, 1, 0, 0, 2), 13),
    ((3, 2, 1, 3, 0, 0, 2), 8),  # output_padding >= stride, as dilation > stride allows
    ((3, 3, 1, 2, 2, 2, 0), 3),
    ((2, 1, 4, 1, 0, 0, 3), 8),  # rows that nothing feeds
    ((3, 3, 2, 1, -1, 0, 0), 8),  # negative pads: an output before the first
    ((1, 5, 1, 1, 2, 2, 0), 1),
]


@pytest.mark.parametrize(("case", "outputs"), TRANSPOSED)
def test_transposed_axis_is_the_hand_table(case, outputs):
    n, k, s, d, low, high, extra = case
    expected = Axis(inputs=outputs, outputs=n, kernel=k, stride=s, dilation=d, offset=low)
    assert transposed_axis(n, k, s, d, low, high, extra) == expected
    assert onnx_transposed_axis(n, k, s, d, (low, high), "NOTSET", extra) == expected


# keyword arguments of onnx_transposed_axis -> m, low
CONV_TRANSPOSE = [
    # NOTSET, no output_shape: nat - lo - hi, low from pads
    ({"n": 3, "k": 3, "s": 2}, 7, 0),
    ({"n": 3, "k": 3, "s": 2, "pads": (1, 0)}, 6, 1),
    ({"n": 3, "k": 3, "s": 2, "pads": (0, 1)}, 6, 0),
    ({"n": 3, "k": 3, "s": 2, "pads": (0, 1), "op": 1}, 7, 0),
    ({"n": 4, "k": 2, "s": 1, "d": 2, "pads": (2, 1)}, 3, 2),
    # VALID, no output_shape: nat, pads ignored
    ({"n": 3, "k": 3, "s": 2, "pads": (1, 1), "auto": "VALID"}, 7, 0),
    ({"n": 3, "k": 3, "s": 2, "op": 1, "auto": "VALID"}, 8, 0),
    # SAME, no output_shape: n s, low from total = nat - n s
    ({"n": 3, "k": 3, "s": 2, "auto": "SAME_UPPER"}, 6, 0),
    ({"n": 3, "k": 3, "s": 2, "auto": "SAME_LOWER"}, 6, 1),
    ({"n": 3, "k": 3, "s": 2, "op": 1, "auto": "SAME_UPPER"}, 6, 1),
    ({"n": 3, "k": 3, "s": 2, "op": 1, "auto": "SAME_LOWER"}, 6, 1),
    ({"n": 3, "k": 5, "s": 2, "auto": "SAME_UPPER"}, 6, 1),  # total 3
    ({"n": 3, "k": 5, "s": 2, "auto": "SAME_LOWER"}, 6, 2),
    ({"n": 3, "k": 2, "s": 2, "auto": "SAME_UPPER", "pads": (4, 4)}, 6, 0),  # total 0
    ({"n": 3, "k": 1, "s": 2, "op": 1, "auto": "SAME_LOWER"}, 6, 0),
    ({"n": 4, "k": 2, "s": 1, "d": 3, "auto": "SAME_UPPER"}, 4, 1),  # nat 7
    ({"n": 4, "k": 2, "s": 1, "d": 3, "auto": "SAME_LOWER"}, 4, 2),
    # output_shape: m as given, pads ignored; SAME_UPPER the smaller half first, else the larger
    ({"n": 3, "k": 3, "s": 2, "op": 1, "shape": 6}, 6, 1),
    ({"n": 3, "k": 3, "s": 2, "op": 1, "shape": 7, "auto": "SAME_UPPER"}, 7, 0),
    ({"n": 3, "k": 3, "s": 2, "op": 1, "shape": 7, "auto": "SAME_LOWER"}, 7, 1),
    ({"n": 3, "k": 3, "s": 2, "op": 1, "shape": 7, "auto": "VALID"}, 7, 1),
    ({"n": 3, "k": 3, "s": 2, "op": 1, "shape": 7}, 7, 1),
    ({"n": 3, "k": 3, "s": 2, "shape": 4, "pads": (1, 1)}, 4, 2),
    ({"n": 3, "k": 3, "s": 2, "shape": 4, "pads": (1, 1), "auto": "SAME_UPPER"}, 4, 1),
    ({"n": 3, "k": 3, "s": 2, "shape": 7}, 7, 0),
    # output_shape beyond nat: zeros at the end, low = 0
    ({"n": 3, "k": 3, "s": 2, "shape": 9}, 9, 0),
    ({"n": 3, "k": 3, "s": 2, "shape": 10, "auto": "SAME_UPPER"}, 10, 0),
    ({"n": 3, "k": 3, "s": 2, "shape": 9, "auto": "SAME_LOWER"}, 9, 0),
    ({"n": 3, "k": 1, "s": 3, "shape": 9, "auto": "SAME_UPPER"}, 9, 0),
]


@pytest.mark.parametrize(("case", "outputs", "low"), CONV_TRANSPOSE)
def test_onnx_conv_transpose_is_the_hand_table(case, outputs, low):
    axis = onnx_transposed_axis(
        *(case["n"], case["k"], case["s"], case.get("d", 1), case.get("pads", (0, 0))),
        auto_pad=case.get("auto", "NOTSET"),
        output_padding=case.get("op", 0),
        output_shape=case.get("shape"),
    )
    assert axis == Axis(outputs, case["n"], case["k"], case["s"], case.get("d", 1), low)


def test_onnx_conv_transpose_defaults_are_stride_1_dilation_1_no_padding():
    assert onnx_transposed_axis(3, 4) == Axis(6, 3, 4, 1, 1, 0)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("stride", "added"), [(2, 1), (3, 2)])  # 5 of 6, 7 of 9
def test_conv_transpose_same_that_would_add_outputs_is_unsupported(auto_pad, stride, added):
    says = rf"{auto_pad} would have to add {added} outputs \(stride {stride} "
    with pytest.raises(Unsupported, match=says) as error:
        onnx_transposed_axis(3, 1, stride=stride, auto_pad=auto_pad)
    assert error.value.exit_code == 4
    assert "output_shape or pads" in str(error.value)


ERRORS = [
    # an empty output names size, padding, span, kernel, dilation and stride
    (lambda: convolution_axis(4, 3, 2, 2, 0, 0), ("size 4", "(0, 0)", "span 5", "kernel 3")),
    (lambda: convolution_axis(4, 3, 2, 2, 0, 0), ("dilation 2", "stride 2")),
    (lambda: convolution_axis(3, 2, 1, 1, -1, -2), ("size 3", "(-1, -2)", "span 2")),
    (lambda: onnx_convolution_axis(2, 3, auto_pad="VALID"), ("size 2", "(0, 0)", "span 3")),
    (lambda: convolution_axis(0, 3, 1, 1, 2, 2), ("inputs is 0",)),
    # nothing is divided by zero
    (lambda: convolution_axis(4, 3, 0, 1, 0, 0), ("stride is 0",)),
    (lambda: convolution_axis(4, 3, -2, 1, 0, 0), ("stride is -2",)),
    (lambda: convolution_axis(4, 0, 1, 1, 0, 0), ("kernel is 0",)),
    (lambda: convolution_axis(4, 3, 1, 0, 0, 0), ("dilation is 0",)),
    (lambda: same_padding(4, 3, 0, 1, upper=True), ("stride is 0",)),
    (lambda: same_padding(4, 0, 1, 1, upper=False), ("kernel is 0",)),
    (lambda: transposed_axis(4, 3, 0, 1, 0, 0), ("stride is 0",)),
    (lambda: onnx_transposed_axis(4, 3, 0, auto_pad="SAME_UPPER"), ("stride is 0",)),
    (lambda: onnx_transposed_axis(4, 3, 1, 0, output_shape=3), ("dilation is 0",)),
    (lambda: onnx_transposed_axis(4, -3, auto_pad="SAME_UPPER"), ("kernel is -3",)),
    (lambda: convolution_axis(4, 3, MAX_SIZE + 1, 1, 0, 0), (f"stride is {MAX_SIZE + 1}",)),
    # transposed
    (lambda: transposed_axis(0, 3, 1, 1, 0, 0), ("over 0 inputs",)),
    (lambda: transposed_axis(3, 3, 2, 1, 4, 3), ("3 inputs", "over 7", "kernel 3", "(4, 3)")),
    (lambda: transposed_axis(3, 3, 2, 1, 4, 4, 1), ("over 8", "output_padding 1", "stride 2")),
    (lambda: transposed_axis(3, 3, 2, 1, 0, 0, 2), ("output_padding 2", "stride 2")),
    (lambda: transposed_axis(3, 3, 2, 3, 0, 0, 3), ("output_padding 3", "dilation 3")),
    (lambda: transposed_axis(3, 3, 2, 3, 0, 0, 5), ("output_padding 5", "stride 2", "dilation 3")),
    (lambda: transposed_axis(3, 3, 2, 1, 0, 0, -1), ("output_padding -1", "at least 0")),
    (lambda: onnx_transposed_axis(3, 3, output_shape=0), ("no output", "3 inputs")),
    (lambda: onnx_transposed_axis(3, 3, output_shape=-4), ("no output", "3 inputs")),
    (lambda: keras_transposed_axis(3, 3, 2, 1, "same", 3), ("output_padding 3", "stride 2")),
    (lambda: keras_transposed_axis(0, 5, 1, 1, "valid"), ("no output", "0 inputs")),
    (lambda: keras_transposed_axis(1, 2, 1, 1, "same", 0), ("no output", "1 inputs", "over 0")),
    # strings
    (lambda: onnx_convolution_axis(4, 3, auto_pad="SAME"), ("'SAME'", "SAME_UPPER")),
    (lambda: onnx_convolution_axis(4, 3, auto_pad=""), ("''", "NOTSET")),
    (lambda: onnx_convolution_axis(4, 3, auto_pad="valid"), ("'valid'", "VALID")),
    (lambda: onnx_transposed_axis(4, 3, auto_pad="valid"), ("'valid'", "VALID")),
    (lambda: onnx_transposed_axis(4, 3, auto_pad="", output_shape=5), ("''", "NOTSET")),
    (lambda: keras_convolution_axis(4, 3, 1, 1, "full"), ("'full'", "valid", "same", "causal")),
]


@pytest.mark.parametrize(("call", "names"), ERRORS)
def test_errors_name_their_numbers(call, names):
    with pytest.raises(GeometryError) as error:
        call()
    assert isinstance(error.value, MalformedInput)
    assert error.value.exit_code == 3
    for name in names:
        assert name in str(error.value)


@pytest.mark.parametrize("name", ["inputs", "outputs", "kernel", "stride", "dilation"])
@pytest.mark.parametrize("value", [0, -1, MAX_SIZE + 1])
def test_an_axis_of_no_size_or_too_large_is_refused(name, value):
    sizes = dict.fromkeys(("inputs", "outputs", "kernel", "stride", "dilation"), 1) | {name: value}
    with pytest.raises(GeometryError, match=rf"{name} is {value};.*1 and 2\*\*40"):
        Axis(**sizes, offset=0)


@pytest.mark.parametrize("offset", [MAX_SIZE + 1, -MAX_SIZE - 1])
def test_an_offset_beyond_the_largest_is_refused(offset):
    with pytest.raises(GeometryError, match=re.escape(f"padding of {offset} is beyond 2**40")):
        Axis(1, 1, 1, 1, 1, offset)


def test_the_limits_are_the_powers_of_two_that_their_messages_name():
    assert (MAX_SIZE, MAX_KERNEL) == (1_099_511_627_776, 1_048_576)


def test_the_largest_sizes_are_accepted():
    axis = Axis(MAX_SIZE, MAX_SIZE, MAX_KERNEL, MAX_SIZE, MAX_SIZE, -MAX_SIZE)
    assert axis.span == MAX_SIZE * (MAX_KERNEL - 1) + 1
    assert Axis(1, 1, 1, 1, 1, MAX_SIZE).offset == MAX_SIZE
    assert convolution_axis(1, 1, MAX_SIZE, MAX_SIZE, 0, 0) == Axis(1, 1, 1, MAX_SIZE, MAX_SIZE, 0)


def test_a_kernel_too_large_to_go_through_is_refused():
    with pytest.raises(GeometryError, match=rf"kernel of {MAX_KERNEL + 1} .* beyond 2\*\*20"):
        Axis(1, 1, MAX_KERNEL + 1, 1, 1, 0)


def test_an_axis_is_frozen():
    axis = Axis(1, 1, 1, 1, 1, 0)
    with pytest.raises(AttributeError):
        axis.stride = 2


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_same_padding_gives_ceil_n_over_s_outputs_with_the_odd_zero_where_it_belongs(n, k, s, d):
    upper, lower = (same_padding(n, k, s, d, upper=flag) for flag in (True, False))
    assert upper == lower[::-1]
    assert upper[1] - upper[0] in (0, 1)
    assert upper[0] >= 0
    for auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        assert onnx_convolution_axis(n, k, s, d, auto_pad=auto_pad).outputs == (n + s - 1) // s


@given(
    *(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)),
    *(st.integers(-3, 6), st.integers(-3, 6)),
)
def test_a_transposed_axis_is_the_axis_of_the_convolution_it_transposes(n, k, s, d, low, high):
    reach = d * (k - 1) + 1
    if n + low + high < reach:
        with pytest.raises(GeometryError, match="no output"):
            convolution_axis(n, k, s, d, low, high)
        return
    axis = convolution_axis(n, k, s, d, low, high)
    unread = (n + low + high - reach) % s  # what floor() dropped is the output_padding
    assert transposed_axis(axis.outputs, k, s, d, low, high, unread) == axis


@pytest.mark.parametrize(("case", "outputs", "upper", "lower"), SAME)
def test_keras_same_is_upper(case, outputs, upper, lower):
    n, k, s, d = case
    assert keras_convolution_axis(n, k, s, d, "same") == Axis(n, outputs, k, s, d, upper[0])


# n, k, s, d, padding -> outputs, offset
KERAS = [
    ((5, 3, 1, 1, "valid"), 3, 0),
    ((6, 3, 2, 1, "valid"), 2, 0),  # windows begin at 0 and 2; one at 4 would need 7 inputs
    ((7, 2, 3, 1, "valid"), 2, 0),
    ((7, 3, 1, 2, "valid"), 3, 0),  # span 5
    ((3, 3, 4, 1, "valid"), 1, 0),
    ((5, 3, 1, 1, "causal"), 5, 2),  # each output sees itself and the 2 before
    ((8, 3, 1, 2, "causal"), 8, 4),
    ((8, 2, 3, 1, "causal"), 3, 1),  # outputs at 0, 3, 6
    ((7, 2, 3, 1, "causal"), 3, 1),
    ((6, 2, 3, 1, "causal"), 2, 1),
    ((1, 4, 1, 3, "causal"), 1, 9),
    ((4, 1, 2, 1, "causal"), 2, 0),
]


PADDINGS = {
    "valid": [(0, 0)] * 4,
    "half": [(0, 0), (1, 1), (1, 1), (2, 2)],
    "full": [(0, 0), (1, 1), (2, 2), (3, 3)],
    "causal": [(0, 0), (1, 0), (2, 0), (3, 0)],
    "same": [(0, 0), (0, 1), (1, 1), (1, 2)],
    "same-lower": [(0, 0), (1, 0), (1, 1), (2, 1)],
}
"""Of the spans 1 to 4."""


@pytest.mark.parametrize("word", PADS)
def test_named_padding_is_the_hand_table(word: str) -> None:
    pads = PADDINGS[word]
    assert [named_padding(word, 9, span, 1, 1) for span in (1, 2, 3, 4)] == pads
    # A kernel of 2 elements that are 1 to 3 apart has the spans 2 to 4.
    assert [named_padding(word, 9, 2, 1, dilation) for dilation in (1, 2, 3)] == pads[1:]
    with pytest.raises(GeometryError, match="'most' is not one of valid"):
        named_padding("most", 9, 3, 1, 1)


@pytest.mark.parametrize(("case", "outputs", "offset"), KERAS)
def test_keras_convolution_axis_is_the_hand_table(case, outputs, offset):
    n, k, s, d, padding = case
    assert keras_convolution_axis(n, k, s, d, padding) == Axis(n, outputs, k, s, d, offset)


# n, k, s, d, padding, output_padding -> m, low. All n inputs spread over (n - 1) s + e outputs,
# e = (k - 1) d + 1 the kernel's span; what `same` crops of them, it crops half before.
KERAS_TRANSPOSED = [
    # valid without output_padding: all of them, and n s at least
    ((3, 3, 2, 1, "valid", None), 7, 0),  # 2 2 + 3
    ((3, 2, 2, 1, "valid", None), 6, 0),
    ((3, 1, 2, 1, "valid", None), 6, 0),  # 5, but 3 2: the last has nothing
    ((2, 1, 5, 1, "valid", None), 10, 0),  # 6, but 2 5
    ((4, 3, 1, 1, "valid", None), 6, 0),
    ((4, 2, 1, 3, "valid", None), 7, 0),  # span 4
    ((1, 4, 2, 1, "valid", None), 4, 0),
    # valid with it: all of them, and it
    ((3, 3, 2, 1, "valid", 0), 7, 0),
    ((3, 3, 2, 1, "valid", 1), 8, 0),
    ((3, 1, 3, 1, "valid", 0), 7, 0),  # less than n s
    ((3, 1, 3, 1, "valid", 2), 9, 0),
    # same without it: n s; 2 s + e less that are cropped, half of them (down) before
    ((3, 3, 2, 1, "same", None), 6, 0),  # 1 of 7
    ((3, 4, 2, 1, "same", None), 6, 1),  # 2 of 8
    ((3, 5, 2, 1, "same", None), 6, 1),  # 3 of 9
    ((3, 3, 1, 1, "same", None), 3, 1),  # 2 of 5
    ((3, 2, 1, 1, "same", None), 3, 0),  # 1 of 4
    ((3, 2, 2, 1, "same", None), 6, 0),  # none of 6
    ((3, 1, 2, 1, "same", None), 6, 0),  # 5: one is added
    ((3, 2, 3, 1, "same", None), 9, 0),  # 8: one is added
    ((4, 3, 1, 2, "same", None), 4, 2),  # 4 of 8
    # same with it: floor(e / 2) cropped at both ends, and it added
    ((3, 3, 2, 1, "same", 0), 5, 1),  # 2 of 7
    ((3, 3, 2, 1, "same", 1), 6, 0),  # 1 of 7
    ((3, 5, 2, 1, "same", 0), 5, 2),  # 4 of 9
    ((3, 5, 2, 1, "same", 1), 6, 1),  # 3 of 9
    ((3, 4, 2, 1, "same", 1), 5, 1),  # 3 of 8
    ((3, 1, 2, 1, "same", 0), 5, 0),
    ((3, 1, 3, 1, "same", 2), 9, 0),  # 7: two are added
    ((3, 5, 3, 1, "same", 2), 9, 1),  # 2 of 11
]


@pytest.mark.parametrize(("case", "outputs", "low"), KERAS_TRANSPOSED)
def test_keras_transposed_axis_is_the_hand_table(case, outputs, low):
    n, k, s, d, padding, extra = case
    expected = Axis(inputs=outputs, outputs=n, kernel=k, stride=s, dilation=d, offset=low)
    assert keras_transposed_axis(n, k, s, d, padding, extra) == expected


@pytest.mark.parametrize(
    "case",
    [
        (3, 3, 2, 1, "same", 2),  # output_padding must be less than the stride
        (3, 3, 2, 1, "valid", -1),
        (3, 3, 1, 1, "same", 1),
        (1, 2, 1, 1, "same", 0),  # 2 outputs of which both are cropped
        (0, 3, 2, 1, "same", None),
        (3, 0, 2, 1, "same", None),
        (3, 3, 0, 1, "valid", None),
        (3, 3, 2, 0, "valid", None),
        (3, 3, 2, 1, "causal", None),
        (3, 3, 2, 1, "SAME", None),
    ],
)
def test_keras_transposed_layers_that_are_none(case):
    with pytest.raises(GeometryError):
        keras_transposed_axis(*case)


@pytest.mark.parametrize(
    "case",
    [
        (2, 3, 1, 1, "valid"),
        (0, 1, 1, 1, "same"),
        (0, 1, 1, 1, "causal"),
        (3, 3, 0, 1, "same"),
        (3, 0, 1, 1, "causal"),
        (3, 3, 1, 0, "valid"),
        (3, 3, 1, 1, "full"),
        (3, 3, 1, 1, ""),
    ],
)
def test_keras_convolutions_that_are_none(case):
    with pytest.raises(GeometryError):
        keras_convolution_axis(*case)


# n, window, stride, padding -> outputs
POOLED = [
    ((7, 2, 2, "valid"), 3),  # windows begin at 0, 2, 4
    ((7, 2, 2, "same"), 4),  # and at 6
    ((8, 2, 2, "same"), 4),
    ((7, 3, 1, "valid"), 5),
    ((7, 3, 1, "same"), 7),
    ((7, 3, 3, "valid"), 2),
    ((7, 3, 3, "same"), 3),
    ((7, 2, 3, "valid"), 2),  # 0 and 3; one at 6 would need 8
    ((8, 2, 3, "valid"), 3),
    ((2, 3, 2, "same"), 1),
]


@pytest.mark.parametrize(("case", "outputs"), POOLED)
def test_pooled_is_the_hand_table(case, outputs):
    assert pooled(*case) == outputs


def test_a_pool_larger_than_what_it_pools():
    with pytest.raises(GeometryError):
        pooled(2, 3, 1, "valid")


@given(
    n=st.integers(1, 30),
    k=st.integers(1, 6),
    s=st.integers(1, 5),
    d=st.integers(1, 4),
    padding=st.sampled_from(["valid", "same"]),
)
def test_a_keras_transposed_axis_is_the_adjoint_of_a_convolution(n, k, s, d, padding):
    """It undoes the shape of the convolution over as many inputs as it has outputs."""
    axis = keras_transposed_axis(n, k, s, d, padding)
    assert keras_convolution_axis(axis.inputs, k, s, d, padding) == axis


# n, k, s, d, (low, high), ceil -> what each window has within the input, within the padded input
POOLS = [
    ((5, 2, 1, 1, (0, 0), False), [2, 2, 2, 2], [2, 2, 2, 2]),
    ((5, 3, 2, 1, (1, 1), False), [2, 3, 2], [3, 3, 3]),
    ((6, 3, 2, 1, (1, 1), False), [2, 3, 3], [3, 3, 3]),
    ((6, 3, 2, 1, (1, 1), True), [2, 3, 3, 1], [3, 3, 3, 2]),  # 5 6 [7]: 6 is a pad, 7 none
    ((5, 3, 2, 1, (1, 1), True), [2, 3, 2], [3, 3, 3]),  # it fits: none more
    ((7, 2, 3, 1, (1, 1), True), [1, 2, 2], [2, 2, 2]),  # the fourth would begin at 8, a pad
    ((7, 4, 3, 1, (0, 0), True), [4, 4], [4, 4]),  # 0..3, 3..6
    ((8, 4, 3, 1, (0, 0), True), [4, 4, 2], [4, 4, 2]),  # 6 7 [8 9]
    ((2, 3, 2, 1, (0, 0), True), [2], [2]),  # less than a window
    ((7, 2, 1, 3, (1, 1), False), [1, 2, 2, 2, 2, 1], [2, 2, 2, 2, 2, 2]),  # -1 2, 0 3, .., 4 7
    ((4, 3, 1, 2, (2, 1), False), [2, 2, 2], [3, 3, 3]),  # -2 0 2, -1 1 3, 0 2 4
    ((1, 3, 1, 1, (1, 1), False), [1], [3]),
    ((3, 1, 2, 1, (0, 0), False), [1, 1], [1, 1]),
]


@pytest.mark.parametrize(("case", "within", "padded_too"), POOLS)
def test_onnx_pooled_axis_is_the_hand_table(case, within, padded_too):
    n, k, s, d, pads, ceil = case
    for include, counts in ((False, within), (True, padded_too)):
        axis, found = onnx_pooled_axis(n, k, s, d, pads, ceil=ceil, include_pad=include)
        assert axis == Axis(n, len(counts), k, s, d, pads[0])
        assert list(found) == counts


# n, k, s, d, auto_pad -> offset, what each window has within the input, within the padded input
POOLS_BY_NAME = [
    ((7, 4, 2, 1, "SAME_UPPER"), 1, [3, 4, 4, 2], [4, 4, 4, 4]),
    ((7, 4, 2, 1, "SAME_LOWER"), 2, [2, 4, 4, 3], [4, 4, 4, 4]),
    ((5, 2, 1, 3, "SAME_UPPER"), 1, [1, 2, 2, 1, 1], [2, 2, 2, 2, 2]),
    ((8, 1, 4, 1, "SAME_UPPER"), 0, [1, 1], [1, 1]),
    ((5, 2, 3, 1, "VALID"), 0, [2, 2], [2, 2]),
]


@pytest.mark.parametrize(("case", "offset", "within", "padded_too"), POOLS_BY_NAME)
def test_onnx_pooled_axis_by_name_overrules_pads(case, offset, within, padded_too):
    n, k, s, d, auto_pad = case
    for ceil in (False, True):  # SAME has ceil(n / s) windows either way, VALID here fits
        for include, counts in ((False, within), (True, padded_too)):
            axis, found = onnx_pooled_axis(
                n, k, s, d, (7, 7), auto_pad, ceil=ceil, include_pad=include
            )
            assert (axis.offset, list(found)) == (offset, counts)


@pytest.mark.slow
def test_what_a_pooling_layer_cannot_be():
    with pytest.raises(Unsupported, match="VALID with ceil_mode"):
        onnx_pooled_axis(6, 3, 2, auto_pad="VALID", ceil=True)
    with pytest.raises(Unsupported, match="wholly in the padding"):
        onnx_pooled_axis(5, 2, pads=(2, 0))
    assert onnx_pooled_axis(5, 2, pads=(2, 0), include_pad=True)[1] == (2,) * 6
    with pytest.raises(GeometryError, match="negative padding"):
        onnx_pooled_axis(5, 2, pads=(0, -1))
    with pytest.raises(GeometryError, match="no output"):
        onnx_pooled_axis(2, 3)
    with pytest.raises(Refused, match="windows along one axis"):
        onnx_pooled_axis(MAX_POOLED + 1, 1)
    assert len(onnx_pooled_axis(MAX_POOLED, 1)[1]) == MAX_POOLED


# n, low, high -> kept, before, after
PADS = [
    ((5, 0, 0), (range(0, 5), 0, 0)),
    ((5, 2, 3), (range(0, 5), 2, 3)),
    ((5, -2, 3), (range(2, 5), 0, 3)),
    ((5, 2, -3), (range(0, 2), 2, 0)),
    ((5, -2, -2), (range(2, 3), 0, 0)),
]


@pytest.mark.parametrize(("case", "expected"), PADS)
def test_padded_is_the_hand_table(case, expected):
    assert padded(*case, "constant") == padded(*case, "edge") == expected


def test_what_padding_leaves_open():
    assert padded(5, 4, 4, "reflect") == (range(5), 4, 4)
    for low, high in ((5, 0), (0, 5), (4, -1)):
        with pytest.raises(Unsupported, match="it reflects"):
            padded(5, low, high, "reflect")
    assert padded(5, 9, 9, "wrap") == (range(5), 9, 9)
    assert padded(5, -1, -1, "wrap") == (range(1, 4), 0, 0)
    for low, high in ((1, -1), (-1, 1)):
        with pytest.raises(Unsupported, match="which is first"):
            padded(5, low, high, "wrap")
    for low, high in ((-5, 0), (-5, 5), (-3, -2)):
        with pytest.raises(GeometryError, match="leaves nothing of 5"):
            padded(5, low, high, "constant")
    with pytest.raises(GeometryError, match="beyond"):
        padded(5, MAX_SIZE + 1, 0, "constant")


# factor, transformation, rounding -> sources of 3 inputs
NEAREST = [
    ((1, "half_pixel", "ceil"), [0, 1, 2]),
    ((2, "half_pixel", "round_prefer_floor"), [0, 0, 1, 1, 2, 2]),
    ((2, "half_pixel", "floor"), [0, 0, 0, 1, 1, 2]),  # -.25 .25 .75 1.25 1.75 2.25
    ((2, "pytorch_half_pixel", "ceil"), [0, 1, 1, 2, 2, 2]),
    ((3, "half_pixel_symmetric", "round_prefer_ceil"), [0, 0, 0, 1, 1, 1, 2, 2, 2]),
    ((2, "asymmetric", "floor"), [0, 0, 1, 1, 2, 2]),  # 0 .5 1 1.5 2 2.5
    ((2, "asymmetric", "round_prefer_floor"), [0, 0, 1, 1, 2, 2]),
    ((2, "asymmetric", "round_prefer_ceil"), [0, 1, 1, 2, 2, 2]),
    ((2, "asymmetric", "ceil"), [0, 1, 1, 2, 2, 2]),
    ((3, "asymmetric", "round_prefer_floor"), [0, 0, 1, 1, 1, 2, 2, 2, 2]),
]


@pytest.mark.parametrize(("case", "sources"), NEAREST)
def test_nearest_is_the_hand_table(case, sources):
    assert list(nearest(3, *case)) == sources


def test_what_nearest_is_not():
    for words in (("align_corners", "floor"), ("asymmetric", "down")):
        with pytest.raises(Unsupported, match="is not read"):
            nearest(3, 2, *words)
    with pytest.raises(Refused):
        nearest(MAX_POOLED, 2, "asymmetric", "floor")


def test_resizing_by_a_large_factor_is_limited_by_what_comes_out():
    assert nearest(2, 23, "asymmetric", "floor") == (0,) * 23 + (1,) * 23


# n, k, s -> m, zeros before: half the kernel, whatever the stride
LOCAL_SAME = [
    ((4, 2, 1), 4, 1),
    ((5, 3, 2), 3, 1),
    ((6, 4, 5), 2, 2),
    ((7, 3, 3), 3, 1),
    ((9, 5, 2), 5, 2),
    ((1, 1, 1), 1, 0),
]


@pytest.mark.parametrize(("case", "outputs", "offset"), LOCAL_SAME)
def test_keras_local_same_is_the_hand_table(case, outputs, offset):
    axis = keras_local_axis(*case, "same")
    assert (axis.inputs, axis.outputs, axis.kernel, axis.stride) == (case[0], outputs, *case[1:])
    assert (axis.offset, axis.dilation) == (offset, 1)


def test_keras_local_valid_is_that_of_a_convolution():
    assert keras_local_axis(7, 3, 2, "valid") == keras_convolution_axis(7, 3, 2, 1, "valid")
