"""What the proof's numbers are, worked by hand: rounding, and what a report says of its checks."""

from dataclasses import replace
from itertools import count

import ml_dtypes
import numpy as np
import pytest

from convfc_cli import rounding
from convfc_cli.errors import Defect
from convfc_cli.geometry import Axis
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.proof import check, verify
from convfc_cli.proof.verify import Proof
from convfc_cli.rounding import RuntimeResult, ratio_text, worst_ratio
from convfc_cli.taps import IndexMap
from tests.support import crafted
from tests.support.crafted import example, rendered

NPZ = registry.formats()["npz"]

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


# --- what is asked of a proof, and what it costs ------------------------------------------------


def test_the_most_probes_and_the_seed_0_can_be_asked_for():
    assert Proof(probes=8).strength == "2^-256"
    assert Proof(probes=1).strength == "2^-32"
    assert Proof(seed=0).strength == "seed given"


def test_nothing_more_is_asked_than_the_probes_by_default():
    assert (Proof().probes, Proof().exhaustive, Proof().against) == (3, False, None)
    assert Proof().strength == "2^-96"


def test_each_check_is_charged_with_its_own_steps_and_the_report_with_all(monkeypatch):
    ticks = count(-100)  # where a clock begins says nothing
    monkeypatch.setattr(verify, "perf_counter", lambda: float(next(ticks)))
    report = crafted.checked(rendered(NPZ, example()))
    cost = {finding.check: finding.seconds for finding in report.findings}
    # In one slab and one block: expect, hold, finding, each from one tick to the next; and before
    # them the random inputs.
    assert cost == {"digest": None, "bias": None, "structure": 3, "entries": 4}
    assert 6 < report.seconds < next(ticks) + 100


def test_a_seed_that_is_drawn_has_the_256_bits_that_8_probes_promise(monkeypatch):
    monkeypatch.setattr(verify.secrets, "randbits", lambda bits: bits)
    report = crafted.checked(rendered(NPZ, example()), probes=8)
    assert (report.seed, report.strength) == (256, "2^-256")


def rows_at_a_time(layer, monkeypatch):
    """What `verify` asks the layer for, in rows."""
    asked = []
    honest = Convolution.slabs

    def watched(self, layout, most):
        asked.append(most)
        return honest(self, layout, most)

    monkeypatch.setattr(Convolution, "slabs", watched)
    assert crafted.checked(rendered(NPZ, Matrix(layer))).ok
    return set(asked)


@pytest.mark.parametrize(("chunk", "rows"), [(1, 1), (6, 1), (60, 10), (65, 10)])
def test_a_slab_has_as_many_rows_as_a_chunk_has_room_for(chunk, rows, monkeypatch):
    monkeypatch.setattr(check, "CHUNK", chunk)
    assert rows_at_a_time(example().layer, monkeypatch) == {rows}  # 72 nonzeros in 12 rows


def test_where_most_rows_are_empty_a_slab_has_no_more_of_them_than_a_chunk(monkeypatch):
    monkeypatch.setattr(check, "CHUNK", 4)
    far = Convolution(
        np.ones((1, 1, 1), np.float32), IndexMap((1, 1, 1), (Axis(1, 9, 1, 1, 1, 0),))
    )
    assert rows_at_a_time(far, monkeypatch) == {4}


@pytest.mark.parametrize("seen", [0, 1, 11])
def test_rows_that_nobody_looked_at_are_a_defect_not_a_proof(seen, monkeypatch):
    data, honest = rendered(NPZ, example()), Convolution.slabs
    monkeypatch.setattr(check, "CHUNK", 1)
    monkeypatch.setattr(
        Convolution, "slabs", lambda self, layout, most: list(honest(self, layout, most))[:seen]
    )
    with pytest.raises(Defect, match=f"^{seen} of 12 rows were looked at$"):
        crafted.checked(data)


# --- the bias, the digest and the origin --------------------------------------------------------


def stored():
    return NPZ.open(crafted.in_memory(rendered(NPZ, example())), None)[0]


@pytest.mark.parametrize(
    "bias",
    [
        *(np.zeros(shape, np.float32) for shape in ((), (11,), (13,), (12, 1), (1, 12))),
        *(np.zeros(12, dtype) for dtype in (np.float16, np.float64, np.int32)),
    ],
    ids=lambda bias: f"{bias.shape} {bias.dtype}",
)
def test_a_bias_of_another_shape_or_dtype_is_wrong_and_both_are_named(bias, monkeypatch):
    file = stored()
    monkeypatch.setattr(file, "bias", lambda: bias)
    report = crafted.proven(file)
    told = f"bias: bias is {bias.shape} of {bias.dtype}, not (12,) of float32"
    assert report.complaint == told


@pytest.mark.parametrize("value", [0.25, 0.75, -0.5])
def test_a_bias_that_is_too_small_or_too_large_is_wrong(value):
    contents = crafted.arrays(rendered(NPZ, example()))
    assert contents["bias"].tolist() == [0.5] * 6 + [-2.0] * 6
    contents["bias"][2:4] = value
    report = crafted.checked(crafted.saved(contents))
    assert report.complaint == f"bias: bias 2 is {value}, by the kernel_bias 0.5"


@pytest.mark.parametrize("stated", ["", "0" * 64, "f" * 64, "g"])
def test_any_other_digest_is_wrong(stated, monkeypatch):
    file = stored()
    monkeypatch.setattr(file, "stated_digest", stated)
    report = crafted.proven(file)
    assert report.complaint.startswith("digest: geometry, kernel or bias are not as")
    assert [finding.check for finding in report.findings if finding.holds is False] == ["digest"]


def test_of_a_long_name_in_a_manifest_80_letters_are_told():
    matrix = example()
    matrix = replace(matrix, origin=replace(matrix.origin, layer="a" * 100))
    report = crafted.checked(rendered(NPZ, matrix), listed={"layer": "b" * 100})
    assert report.complaint == f"manifest: layer is {'a' * 80}, by the manifest {'b' * 80}"


@pytest.mark.parametrize(("dtype", "told"), [("float16", "float16"), ("", "unknown dtype")])
def test_a_layer_that_the_model_has_not_is_named_with_its_dtype(dtype, told):
    matrix = example()
    other = replace(matrix, origin=replace(matrix.origin, dtype=dtype))
    report = crafted.checked(rendered(NPZ, other), original=matrix)
    assert report.complaint == (
        f"origin: the model's layer is not the Conv 'conv/1' of {told} that the file names"
    )


def held_to(kernel, kept=np.float32, **origin):
    """The report on the example, kept in this dtype, held to a model's layer with this kernel."""
    matrix = example(dtype=kept)
    matrix = replace(matrix, origin=replace(matrix.origin, **origin))
    layer = matrix.layer
    bias = layer.bias.astype(kernel.dtype)
    model = replace(matrix, layer=Convolution(kernel, layer.index_map, bias))
    return crafted.checked(rendered(NPZ, matrix), original=model)


@pytest.mark.parametrize("value", [0.125, 9.0, -0.0])
def test_the_first_kernel_element_that_is_not_the_models_is_named(value):
    kernel = example().layer.kernel.copy()
    kernel[0, 1, 0, 1] = value
    kernel[1, 1] = -1
    told = f"origin: kernel element (0, 1, 0, 1) is 0.75, in the model {value}"
    assert held_to(kernel).complaint == told


@pytest.mark.parametrize(("ours", "theirs"), [("float32", "float64"), ("float64", "float32")])
def test_a_kernel_of_another_dtype_is_not_the_models(ours, theirs):
    kernel = example(dtype=getattr(np, theirs)).layer.kernel
    told = held_to(kernel, getattr(np, ours)).complaint
    assert told.startswith("origin: the geometry is not that of the model's layer: ")
    assert told.index(f"in {ours}, in the model ") < told.index(f"in {theirs}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", ""])
def test_a_kernel_that_was_widened_is_the_models_bit_for_bit(dtype):
    report = held_to(example(dtype=np.float64).layer.kernel, np.float64, dtype=dtype)
    (detail,) = (finding.detail for finding in report.findings if finding.check == "origin")
    assert detail == "geometry, kernel and bias are the model's, bit for bit"


@pytest.mark.parametrize("sha256", ["01" * 32, "cd" * 32])
def test_another_model_file_is_told_whatever_its_digest(sha256):
    matrix = example()
    other = replace(matrix, origin=replace(matrix.origin, sha256=sha256))
    report = crafted.checked(rendered(NPZ, matrix), original=other)
    (detail,) = (finding.detail for finding in report.findings if finding.check == "origin")
    assert detail.endswith("; the model file is another than the one it was written from")
