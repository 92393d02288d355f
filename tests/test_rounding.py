"""How far a result of a runtime may be from the layer: as far as rounding explains, no further."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli import rounding
from convfc_cli.geometry import Axis
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.layers.convolution import Convolution
from convfc_cli.rounding import RuntimeResult, ratio_text, worst_ratio
from convfc_cli.taps import IndexMap
from tests.support import brute
from tests.support.strategies import problems

FORMATS = ["float64", "float32", "float16", "bfloat16"]

NARROW = ["float16", "bfloat16"]


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def result_in(name):
    """A result whose sums are in this dtype."""
    return RuntimeResult.of("it", np.zeros(1, dtype_of(name)), np.zeros(1, dtype_of(name)))


def bound(result, terms, scale, answer=0.0):
    (found,) = result.bound(np.array([terms]), np.array([scale]), np.array([answer]))
    return found


# --- how far a sum may be off -------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_the_unit_is_half_the_step_after_1_and_the_largest_sum_half_of_what_overflows(name):
    result, limits = result_in(name), ml_dtypes.finfo(dtype_of(name))
    assert result.unit == float(limits.eps) / 2
    assert result.largest <= float(limits.max)
    assert float(limits.max) / 2 < result.largest


def test_the_bound_is_terms_times_unit_times_scale_and_a_millionth_more():
    found = bound(result_in("float32"), terms=3.0, scale=2.0)
    assert found / (3 * 2.0 * 2**-24) - 1 == pytest.approx(2**-20, rel=0.01)


def test_the_bound_in_float64_has_room_for_the_rounding_of_the_answer_too():
    found = bound(result_in("float64"), terms=1.0, scale=1.0)
    assert 3 * 2**-53 < found < 3 * 2**-53 * (1 + 2**-19)


def test_terms_that_underflow_have_half_the_smallest_float32_each():
    assert bound(result_in("float32"), terms=5.0, scale=0.0) == 5 * 2.0**-150


@pytest.mark.parametrize("name", FORMATS)
def test_of_a_sum_that_can_overflow_nothing_is_said(name):
    result = result_in(name)
    assert np.isfinite(bound(result, 1.0, np.nextafter(result.largest, 0)))
    for scale in (result.largest, np.inf, np.nan):
        assert bound(result, 1.0, scale) == np.inf


def test_the_slack_is_that_of_the_answer():
    result = result_in("float16")
    assert bound(result, 0.0, 1.0, -3.0) == result.slack(np.array([-3.0]))[0] > 0


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_result_in_the_format_of_its_sums_has_no_slack(name):
    assert result_in(name).slack(np.array([1.0, -1e30])).tolist() == [0, 0]


def test_a_result_of_its_own_has_no_slack_unless_it_says_so():
    result = RuntimeResult("it", np.zeros(1), np.zeros(1), 2.0**-24, 2.0**127)
    assert result.slack(np.array([1.0, -1e30])).tolist() == [0, 0]


@pytest.mark.parametrize("name", NARROW)
def test_the_slack_of_a_narrow_result_is_what_rounding_to_it_can_add(name):
    dtype, slack = dtype_of(name), result_in(name).slack
    values = np.random.default_rng(1).standard_normal(2000) * 2.0 ** np.arange(-28, 12)[:, None]
    off = np.abs(values.astype(dtype).astype(np.float64) - values)
    assert (off <= slack(values)).all()
    halfway = np.array([1 + float(ml_dtypes.finfo(dtype).eps) / 2])  # as far off as can be
    off = np.abs(halfway.astype(dtype).astype(np.float64) - halfway)
    assert 0.98 * slack(halfway) < off <= slack(halfway)


def test_what_float16_takes_for_zero_is_within_the_slack_of_zero():
    smallest = float(np.finfo(np.float16).smallest_subnormal)
    (slack,) = result_in("float16").slack(np.zeros(1))
    assert np.float16(slack) == 0
    assert slack == smallest / 2


# --- the worst of many --------------------------------------------------------------------------


def worst(y, answer, bound, *, finite=True):
    return worst_ratio(*(np.array(a, np.float64) for a in (y, answer, bound)), finite=finite)


def test_the_worst_ratio_is_the_largest_and_1_is_not_wrong():
    assert worst([1, 2, 0.5], [1, 1, 1], [1, 1, 1]) == (1.0, None, 0)
    assert worst([1, 2, 4, 9], [1, 1, 1, 1], [1, 1, 2, 2]) == (4.0, 2, 0)


def test_nan_is_wrong_where_all_weights_are_finite_and_left_out_where_not():
    assert worst([0, np.nan], [0, 0], [1, 1])[1] == 1
    assert worst([0, np.nan], [0, 0], [1, 1], finite=False) == (0.0, None, 1)
    assert worst([0, np.nan, 3], [0, 0, 0], [1, 1, 1], finite=False)[1:] == (2, 1)


@pytest.mark.parametrize("finite", [True, False])
def test_without_a_bound_nothing_is_wrong_and_all_is_left_out(finite):
    assert worst([5, np.inf, 0], [0, 0, 0], [np.inf, np.inf, 1], finite=finite) == (0.0, None, 2)


def test_of_no_outputs_none_is_wrong():
    assert worst([], [], []) == (0.0, None, 0)


def test_what_was_left_out_is_said_only_where_something_was():
    assert ratio_text(0.1234, 0, 9) == "at most 0.12 of the rounding bound"
    left_out = "at most 0.12 of the rounding bound; 1,234 outputs left out, not finite"
    assert ratio_text(0.1234, 1234, 1235) == left_out
    none = "no output could be compared: all 1,234 overflow or are not finite"
    assert ratio_text(0.0, 1234, 1234) == none


# --- a runtime held to the layer ----------------------------------------------------------------


def line(weights):
    """Three outputs a weight, each reading one of three inputs."""
    kernel = np.array(weights, np.float32).reshape(-1, 1, 1)
    return Convolution(kernel, IndexMap(kernel.shape, (Axis(3, 3, 1, 1, 1, 0),)))


def answered(layer, y):
    x = np.ones((1, 3), np.float32)
    return check_runtime(layer, RuntimeResult("it", x, np.array(y), 2.0**-24, 2.0**127))


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (1, 4), (0, 3), (2, 3), (1, 3, 1)])
def test_an_answer_of_another_shape_is_wrong(shape):
    assert answered(line([1]), np.ones((1, 3))).holds is True
    finding = answered(line([1]), np.ones(shape))
    assert finding.holds is False
    assert finding.detail == f"the original node, run by it, gives {shape}, the layer (1, 3)"


@pytest.mark.parametrize("chunk", [4, 8, 2**20])
def test_what_is_left_out_and_what_is_worst_is_told_of_all_slabs(chunk, monkeypatch):
    monkeypatch.setattr(rounding, "CHUNK", chunk)
    y = np.array([[np.nan] * 3, [1, 1 + 2.0**-24, 1], [np.nan] * 3, [2] * 3])
    finding = answered(line([np.nan, 1, np.inf, 2]), y)
    assert finding.holds is True
    told = "at most 0.5 of the rounding bound; 6 outputs left out, not finite"
    assert finding.detail.endswith(told)  # one product and a bias: a bound of 2 * 2**-24
    assert answered(line([np.nan]), y[:1]).holds is None


def test_a_layer_is_applied_a_chunk_at_a_time(monkeypatch):
    asked, honest = [], Convolution.slabs
    monkeypatch.setattr(rounding, "CHUNK", 12)
    monkeypatch.setattr(
        Convolution,
        "slabs",
        lambda self, layout, most: asked.append(most) or honest(self, layout, most),
    )
    assert answered(line([1, 1, 1]), np.ones((3, 3))).holds is True
    assert asked == [12]


SEEDS = st.integers(0, 2**32)
UNIT = 2.0**-24

MOST = float(np.finfo(np.float32).max)


def in_float32(layer, x):
    """The layer as a float32 runtime would run it, in an order of its own."""
    index_map = layer.index_map
    y = layer.bias_tensor().astype(np.float32)
    nonzeros = brute.nonzeros(
        layer.kernel.shape, index_map.axes, index_map.groups, index_map.transposed
    )
    for (output, source), element in reversed(nonzeros.items()):
        y[output] += np.float32(layer.kernel[element]) * np.float32(x[source])
    return y


def normal_layer(problem, seed):
    """The drawn geometry with weights as a trained network has them."""
    random = np.random.default_rng(seed)
    kernel = random.standard_normal(problem.kernel.shape).astype(np.float32)
    bias = random.standard_normal(problem.index_map.output_shape[0]).astype(np.float32)
    layer = Convolution(kernel, problem.index_map, bias)
    return layer, random.standard_normal(layer.input_shape).astype(np.float32)


@given(problems(), SEEDS)
def test_a_runtime_that_computes_the_layer_agrees_with_it(problem, seed):
    layer, x = normal_layer(problem, seed)
    finding = check_runtime(
        layer, RuntimeResult("brute force", x, in_float32(layer, x), UNIT, MOST)
    )
    assert finding.holds is True
    assert (finding.check, "run by brute force" in finding.detail) == ("runtime", True)
    assert "left out" not in finding.detail


@pytest.mark.slow
@given(problems(), SEEDS, st.sampled_from([2.0**-14, -1.0, 1e9, np.nan, np.inf, -np.inf]))
def test_a_runtime_that_is_off_in_one_output_contradicts_the_layer(problem, seed, error):
    layer, x = normal_layer(problem, seed)
    y = in_float32(layer, x)
    place = np.unravel_index(seed % y.size, y.shape)
    scale = np.abs(in_float32(layer, x)[place]) + 1
    worst = np.abs(layer.kernel).sum() * np.abs(x).sum() + 10  # more than any S
    y[place] += np.float32(error * max(scale, worst))
    finding = check_runtime(layer, RuntimeResult("brute force", x, y, UNIT, MOST))
    assert finding.holds is False
    where = tuple(int(i) for i in place)
    assert (
        f"output {where}: the original node, run by brute force, gives {y[place]!s}"
        in finding.detail
    )


@pytest.mark.parametrize("change", ["offset", "flipped", "order", "no bias", "dilation"])
def test_a_layer_that_was_misread_is_contradicted(change):
    axis = Axis(9, 9, 3, 1, 1, 1)
    random = np.random.default_rng(1)
    kernel = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    bias = random.standard_normal(4).astype(np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis, axis)), bias)
    x = random.standard_normal((3, 9, 9)).astype(np.float32)
    result = RuntimeResult("brute force", x, in_float32(layer, x), UNIT, MOST)
    assert check_runtime(layer, result).holds is True
    other_axis = {
        "offset": Axis(9, 9, 3, 1, 1, 0),
        "dilation": Axis(9, 9, 3, 1, 2, 1),
    }.get(change, axis)
    other_kernel = {
        "flipped": kernel[..., ::-1],
        "order": kernel.swapaxes(2, 3),
    }.get(change, kernel)
    index_map = IndexMap(kernel.shape, (axis, other_axis))
    misread = Convolution(other_kernel, index_map, None if change == "no bias" else bias)
    assert check_runtime(misread, result).holds is False


def line_layer(weights, bias=None):
    kernel = np.array([[weights]], np.float32)
    axis = Axis(len(weights), 1, len(weights), 1, 1, 0)
    return Convolution(
        kernel,
        IndexMap(kernel.shape, (axis,)),
        None if bias is None else np.array([bias], np.float32),
    )


def result_of(y, x=(1.0, 1.0), **options):
    return RuntimeResult("it", np.array([x], np.float32), np.array([[y]]), UNIT, MOST, **options)


def test_the_bound_is_that_of_n_additions():
    # n = 2 + 1, S = 2: 3 * 2**-24 * 2 and a little; beyond it is wrong.
    layer = line_layer([1.0, 1.0])
    bound = 3 * 2.0**-24 * 2
    assert check_runtime(layer, result_of(2.0 + 0.99 * bound)).holds is True
    assert check_runtime(layer, result_of(2.0 - 0.99 * bound)).holds is True
    assert check_runtime(layer, result_of(2.0 + 1.01 * bound)).holds is False
    assert "at most 0.99" in check_runtime(layer, result_of(2.0 + 0.99 * bound)).detail


def test_the_bound_is_relative_to_what_is_added_not_to_the_result():
    layer = line_layer([1e6, -1e6])
    assert check_runtime(layer, result_of(0.3)).holds is True
    assert check_runtime(layer, result_of(0.5)).holds is False


def test_slack_is_added_to_the_bound():
    layer = line_layer([1.0, 1.0])
    rough = result_of(2.001, slack=lambda y: 2.0**-10 * np.abs(y))
    assert check_runtime(layer, rough).holds is True
    assert check_runtime(layer, result_of(2.001)).holds is False


def test_the_bias_counts_in_value_and_in_the_bound():
    layer = line_layer([1.0, 1.0], bias=1000.0)
    assert check_runtime(layer, result_of(1002.0)).holds is True
    assert check_runtime(layer, result_of(2.0)).holds is False
    assert check_runtime(layer, result_of(1002.0 + 150 * 2.0**-24)).holds is True


def test_another_output_shape_contradicts_the_layer_and_both_are_named():
    layer = line_layer([1.0, 1.0])
    result = RuntimeResult("it", np.ones((1, 2), np.float32), np.zeros((1, 2)), UNIT, MOST)
    finding = check_runtime(layer, result)
    assert finding.holds is False
    assert "(1, 2)" in finding.detail
    assert "(1, 1)" in finding.detail


def test_an_output_of_non_finite_weights_is_left_out_and_counted():
    axis = Axis(2, 2, 1, 1, 1, 0)
    kernel = np.array([[[np.nan]], [[1.0]]], np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis,)))
    x = np.ones((1, 2), np.float32)
    right = RuntimeResult("it", x, np.array([[np.nan, np.nan], [1, 1]]), UNIT, MOST)
    finding = check_runtime(layer, right)
    assert finding.holds is True
    assert "2 outputs left out, not finite" in finding.detail
    wrong = RuntimeResult("it", x, np.array([[np.nan, np.nan], [1, 2]]), UNIT, MOST)
    assert check_runtime(layer, wrong).holds is False


def test_a_sum_beyond_what_float32_holds_is_left_out_not_wrong():
    layer = line_layer([3e38, 3e38])
    with np.errstate(over="ignore"):
        y = np.float32(3e38) + np.float32(3e38)
    assert np.isinf(y)
    finding = check_runtime(layer, result_of(y))
    assert finding.holds is None  # of the one output, nothing can be said
    assert "no output could be compared: all 1 overflow or are not finite" in finding.detail
    assert check_runtime(line_layer([1e38, 1e38]), result_of(y)).holds is False


def test_a_result_larger_than_a_slab_is_held_to_every_output(monkeypatch):
    monkeypatch.setattr(rounding, "CHUNK", 16)
    axis = Axis(9, 9, 3, 1, 1, 1)
    kernel = np.ones((4, 1, 3), np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (axis,)))
    x = np.arange(9, dtype=np.float32)[None]
    y = in_float32(layer, x)
    assert check_runtime(layer, RuntimeResult("it", x, y, UNIT, MOST)).holds is True
    for place in np.ndindex(y.shape):
        wrong = y.copy()
        wrong[place] += 1
        finding = check_runtime(layer, RuntimeResult("it", x, wrong, UNIT, MOST))
        assert finding.holds is False
        assert f"output {place}: " in finding.detail
