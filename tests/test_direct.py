"""The oracle against numbers worked by hand, and against brute force in exact integers."""

from inspect import ismodule

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli import direct
from convfc_cli.errors import Refused
from convfc_cli.geometry import Axis
from tests.support import brute
from tests.support.strategies import axes, problems


@pytest.fixture(scope="module", params=[direct.FAR_FEWER, 0], autouse=True)
def far_fewer(request):
    """Both ways to apply a kernel: with 0 it is output by output wherever that is possible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "FAR_FEWER", request.param)
        yield


def line(x, weights, axis):
    """One channel in, one channel out."""
    found = direct.convolve(np.array([x], float), np.array([[weights]], float), [axis])
    assert found.shape[0] == 1
    return found[0].tolist()


def spread(y, weights, axis):
    """The same the other way."""
    found = direct.convolve_transposed(np.array([y], float), np.array([[weights]], float), [axis])
    assert found.shape[0] == 1
    return found[0].tolist()


# x 1 2 3 4 5, kernel 1 10 100
HAND = [
    (Axis(5, 3, 3, 1, 1, 0), [321, 432, 543]),
    (Axis(5, 5, 3, 1, 1, 1), [210, 321, 432, 543, 54]),
    (Axis(5, 3, 3, 2, 1, 1), [210, 432, 54]),
    (Axis(5, 1, 3, 1, 2, 0), [531]),
    (Axis(5, 3, 3, 1, 2, 1), [420, 531, 42]),
    (Axis(5, 5, 3, 1, 2, 4), [100, 200, 310, 420, 531]),  # causal
    (Axis(5, 2, 3, 1, 1, -1), [432, 543]),  # cropped by one
    (Axis(5, 2, 3, 3, 1, -1), [432, 5]),  # and read beyond the end
    (Axis(5, 2, 3, 4, 1, 1), [210, 54]),  # stride > kernel: input 3 is not read
    (Axis(5, 9, 3, 1, 1, 4), [0, 0, 100, 210, 321, 432, 543, 54, 5]),
    (Axis(5, 2, 3, 1, 1, 9), [0, 0]),  # nothing within reach, before
    (Axis(5, 2, 3, 1, 1, -7), [0, 0]),  # or after
]


@pytest.mark.parametrize(("axis", "expected"), HAND)
def test_convolve_by_hand(axis, expected):
    assert line([1, 2, 3, 4, 5], [1, 10, 100], axis) == expected


# y 1 2, kernel 1 10 100
HAND_TRANSPOSED = [
    (Axis(4, 2, 3, 1, 1, 0), [1, 12, 120, 200]),
    (Axis(5, 2, 3, 2, 1, 0), [1, 10, 102, 20, 200]),
    (Axis(7, 2, 3, 2, 1, 1), [10, 102, 20, 200, 0, 0, 0]),
    (Axis(3, 2, 3, 2, 1, 1), [10, 102, 20]),
    (Axis(6, 2, 3, 1, 2, 0), [1, 2, 10, 20, 100, 200]),
    (Axis(6, 2, 3, 3, 1, 0), [1, 10, 100, 2, 20, 200]),
    (Axis(8, 2, 3, 4, 1, -1), [0, 1, 10, 100, 0, 2, 20, 200]),
    (Axis(3, 2, 3, 1, 1, 9), [0, 0, 0]),
    (Axis(3, 2, 3, 1, 1, -9), [0, 0, 0]),
]


@pytest.mark.parametrize(("axis", "expected"), HAND_TRANSPOSED)
def test_convolve_transposed_by_hand(axis, expected):
    assert spread([1, 2], [1, 10, 100], axis) == expected


def test_two_dimensions_two_channels_and_unlike_axes_by_hand():
    x = np.array([[[1, 2, 3], [4, 5, 6]], [[10, 20, 30], [40, 50, 60]]], float)
    kernel = np.array([[[[1], [2]], [[3], [4]]]], float)  # 1 out, 2 in, 2 x 1
    axes = [Axis(2, 2, 2, 1, 1, 0), Axis(3, 2, 1, 2, 1, 0)]
    # 1*1 + 2*4 + 3*10 + 4*40; then the second row, whose lower half is padding
    assert direct.convolve(x, kernel, axes).tolist() == [[[199, 345], [124, 186]]]


def test_groups_keep_to_their_own_channels_by_hand():
    axis = Axis(2, 1, 2, 1, 1, 0)
    kernel = np.array([[[1, 2]], [[3, 4]], [[5, 6]], [[7, 8]]], float)
    x = np.array([[1, 10], [100, 1000]], float)
    assert direct.convolve(x, kernel, [axis], groups=2).tolist() == [[21], [43], [6500], [8700]]
    y = np.array([[1], [10], [100], [1000]], float)
    back = direct.convolve_transposed(y, kernel, [axis], groups=2)
    assert back.tolist() == [[31, 42], [7500, 8600]]


def test_unsigned_arithmetic_wraps_exactly():
    axis = Axis(2, 1, 2, 1, 1, 0)
    high = 2**64 - 1
    kernel = np.array([[[high, 2**63]]], np.uint64)
    found = direct.convolve(np.array([[high, 3]], np.uint64), kernel, [axis])
    assert found.dtype == np.uint64
    assert found.tolist() == [[(1 + 3 * 2**63) % 2**64]]
    back = direct.convolve_transposed(np.array([[high]], np.uint64), kernel, [axis])
    assert back.tolist() == [[1, 2**63]]


def integers(shape, seed):
    """Any 64 bits."""
    random = np.random.default_rng(seed)
    return random.integers(0, 2**64 - 1, shape, np.uint64, endpoint=True)


def oracle(problem, x, kernel):
    apply = direct.convolve_transposed if problem.transposed else direct.convolve
    return apply(x, kernel, problem.axes, problem.groups)


@given(problems(), st.integers(0, 2**16))
def test_modulo_2_to_the_64_it_is_brute_force_exactly(problem, seed):
    shapes = brute.tensor_shapes(
        problem.kernel.shape, problem.axes, problem.groups, problem.transposed
    )
    x, kernel = integers(shapes[1], seed), integers(problem.kernel.shape, seed + 1)
    found = oracle(problem, x, kernel)
    assert found.shape == shapes[0]
    assert found.dtype == np.uint64
    expected = brute.apply(x, kernel, problem.axes, problem.groups, problem.transposed)
    assert found.tolist() == (expected % 2**64).tolist()


@given(problems(styles=("integers",)), st.integers(0, 2**16))
def test_in_float64_small_integers_are_brute_force_exactly(problem, seed):
    _, shape = brute.tensor_shapes(
        problem.kernel.shape, problem.axes, problem.groups, problem.transposed
    )
    x = np.random.default_rng(seed).integers(-99, 100, shape).astype(np.float64)
    kernel = problem.kernel.astype(np.float64)
    found = oracle(problem, x, kernel)
    expected = brute.apply(x, kernel, problem.axes, problem.groups, problem.transposed)
    assert found.dtype == np.float64
    assert found.tolist() == expected.tolist()


@given(problems(), st.integers(0, 2**16))
def test_the_transposed_is_the_adjoint_exactly(problem, seed):
    near, far = brute.tensor_shapes(problem.kernel.shape, problem.axes, problem.groups, False)
    kernel, x, y = (
        integers(shape, seed + k) for k, shape in enumerate((problem.kernel.shape, far, near))
    )
    forth = direct.convolve(x, kernel, problem.axes, problem.groups)
    back = direct.convolve_transposed(y, kernel, problem.axes, problem.groups)
    assert (forth.shape, back.shape) == (near, far)
    assert int((forth * y).sum()) == int((x * back).sum())


@given(problems())
def test_neither_way_writes_into_what_it_was_given(problem):
    near, far = brute.tensor_shapes(problem.kernel.shape, problem.axes, problem.groups, False)
    kernel = np.ones(problem.kernel.shape, np.uint64)
    x, y = np.ones(far, np.uint64), np.ones(near, np.uint64)
    for array in (kernel, x, y):
        array.flags.writeable = False
    assert direct.convolve(x, kernel, problem.axes, problem.groups).shape == near
    assert direct.convolve_transposed(y, kernel, problem.axes, problem.groups).shape == far


@given(axes())
def test_kernel_elements_that_read_padding_alone_are_left_out(axis):
    assert direct._reading(axis) == sorted({t for _, _, t in brute.axis_taps(axis)})


def test_the_oracle_imports_nothing_that_it_checks():
    values = [value for value in vars(direct).values() if callable(value) or ismodule(value)]
    homes = {getattr(value, "__module__", value.__name__) for value in values}
    ours = {home for home in homes if home.startswith("convfc_cli")}
    assert ours <= {"convfc_cli.direct", "convfc_cli.geometry", "convfc_cli.errors"}
    assert "convfc_cli.direct" in ours


@pytest.mark.parametrize("apply", [direct.convolve, direct.convolve_transposed])
def test_a_padded_tensor_that_no_memory_holds_is_refused_with_its_size(apply):
    axis = Axis(inputs=2, outputs=2, kernel=1, stride=2**40, dilation=1, offset=0)
    with pytest.raises(Refused, match=rf"\(1, {2**40 + 1}\)"):
        apply(np.ones((1, 2)), np.ones((1, 1, 1)), [axis])


def test_a_step_that_is_never_taken_may_be_of_any_size():
    """Along each of two axes, so that the strides of arrays are beyond 64 bits."""
    far = Axis(inputs=2, outputs=1, kernel=1, stride=2**40, dilation=2**40, offset=0)
    wide = Axis(inputs=2**20, outputs=1, kernel=1, stride=2**40, dilation=2**40, offset=1 - 2**20)
    x = np.arange(2.0 * 2**20).reshape(1, 2, 2**20)
    y = direct.convolve(x, np.full((1, 1, 1, 1), 3.0), [far, wide])
    np.testing.assert_array_equal(y, [[[3.0 * (2**20 - 1)]]])
    back = direct.convolve_transposed(y, np.full((1, 1, 1, 1), 2.0), [far, wide])
    assert back[0, 0, -1] == 6.0 * (2**20 - 1)
    assert np.count_nonzero(back) == 1


def test_a_padded_tensor_may_have_2_gib_of_float64():
    assert direct.MAX_ELEMENTS * np.dtype(np.float64).itemsize == 2 * 1024**3


def test_the_largest_padded_tensor_is_made_and_a_larger_one_is_not(monkeypatch):
    monkeypatch.setattr(direct, "MAX_ELEMENTS", 5)
    assert line([1, 2, 3], [1, 1, 1], Axis(3, 3, 3, 1, 1, 1)) == [3, 6, 5]
    with pytest.raises(Refused, match=r"\(1, 6\), 6 elements; at most 5 are made"):
        line([1, 2, 3], [1, 1, 1], Axis(3, 4, 3, 1, 1, 1))
