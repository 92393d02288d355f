"""How tensors become vectors, against numpy's own flattening."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli.errors import UsageError
from convfc_cli.layout import ORDERS, Layout
from tests.support import brute

SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("channels-first", [0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112]),
        ("channels-last", [0, 100, 1, 101, 2, 102, 10, 110, 11, 111, 12, 112]),
        ("fortran", [0, 100, 10, 110, 1, 101, 11, 111, 2, 102, 12, 112]),
    ],
)
def test_each_order_by_hand(order, expected):
    tensor = np.array([[[0, 1, 2], [10, 11, 12]], [[100, 101, 102], [110, 111, 112]]])
    assert Layout(order).vector(tensor).tolist() == expected
    assert np.array_equal(Layout(order).tensor(np.array(expected), tensor.shape), tensor)


def test_fortran_is_numpys_ravel_in_order_f():
    tensor = np.arange(24).reshape(2, 3, 4)
    assert Layout("fortran").vector(tensor).tolist() == tensor.ravel(order="F").tolist()


def test_the_default_is_channels_first():
    assert Layout() == Layout("channels-first")


@given(SHAPES, st.sampled_from(list(ORDERS)))
def test_flatten_unflatten_strides_and_vector_agree_with_brute_force(shape, order):
    layout = Layout(order)
    places = brute.positions(shape, order)
    for index in product(*map(range, shape)):
        assert layout.flatten(index, shape) == places[index]
        assert layout.unflatten(int(places[index]), shape) == index
    assert layout.vector(places).tolist() == list(range(places.size))
    assert np.array_equal(layout.tensor(np.arange(places.size), shape), places)
    assert sorted(layout.axes(len(shape))) == list(range(len(shape)))


@pytest.mark.parametrize("position", [-1, 24, 1000])
@pytest.mark.parametrize("order", ORDERS)
def test_a_position_outside_the_tensor_is_refused(order, position):
    with pytest.raises(IndexError, match=rf"{position} is not in \[0, 24\)"):
        Layout(order).unflatten(position, (2, 3, 4))


def test_flatten_refuses_an_index_of_another_length():
    with pytest.raises(ValueError, match="zip"):
        Layout().flatten((1, 2), (2, 3, 4))


def test_an_unknown_order_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="'NCHW' is not one of") as error:
        Layout("NCHW")
    for order in ORDERS:
        assert order in str(error.value)
