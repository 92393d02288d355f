"""A layer's two accounts of itself: its rows and its oracle; and what it refuses."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli.errors import GeometryError
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layout import ORDERS, Layout
from convfc_cli.taps import IndexMap
from tests.support import brute
from tests.support.strategies import problems, specs

AXIS = Axis(inputs=4, outputs=3, kernel=2, stride=1, dilation=1, offset=0)


def integers(shape, seed):
    return np.random.default_rng(seed).integers(0, 2**64 - 1, shape, np.uint64, endpoint=True)


def as_integers(weights):
    """The bits of the weights as numbers: any elementwise function will do."""
    return brute.bits(weights).astype(np.uint64)


def matrix_bits(layer, layout):
    """The matrix with the bits of its entries as exact integers, from the layer's rows."""
    rows = layer.matrix(layout)
    matrix = np.zeros(rows.shape, np.uint64)
    indptr, indices = rows.indptr.array(), rows.indices.array()
    owners = np.repeat(np.arange(rows.shape[0]), np.diff(indptr))
    matrix[owners, indices] = as_integers(rows.data.array())
    return matrix


@pytest.mark.slow
@given(problems(), st.sampled_from(list(ORDERS)), st.integers(0, 999))
def test_the_matrix_times_the_vector_is_the_layer_applied(problem, order, seed):
    layer, layout = problem.layer, Layout(order)
    x = integers(layer.input_shape, seed)
    y = layer.apply(x, as_integers)
    assert y.shape == layer.output_shape
    product = (matrix_bits(layer, layout) * layout.vector(x)).sum(axis=1)
    assert product.tolist() == layout.vector(y).tolist()


@pytest.mark.slow
@given(problems(), st.sampled_from(list(ORDERS)), st.integers(0, 999))
def test_the_transposed_matrix_times_the_vector_is_the_adjoint_applied(problem, order, seed):
    adjoint, layout = problem.layer.adjoint(), Layout(order)
    x = integers(adjoint.input_shape, seed)
    y = adjoint.apply(x, as_integers)
    assert y.shape == problem.layer.input_shape
    product = (matrix_bits(adjoint, layout) * layout.vector(x)).sum(axis=1)
    assert product.tolist() == layout.vector(y).tolist()


@pytest.mark.slow
@given(problems(styles=("integers",)), st.integers(0, 999))
def test_without_weights_named_the_layers_own_are_used_in_the_dtype_of_x(problem, seed):
    layer = problem.layer
    x = np.random.default_rng(seed).integers(-99, 100, layer.input_shape).astype(np.float64)
    expected = brute.apply(x, problem.kernel, problem.axes, problem.groups, problem.transposed)
    assert layer.apply(x).dtype == np.float64
    assert layer.apply(x).tolist() == expected.tolist()


@pytest.mark.slow
@given(problems(), specs(), st.integers(1, 60), st.integers(0, 999))
def test_slabs_of_any_size_cover_the_outputs_in_order(problem, spec, most, seed):
    layer = problem.layer
    x = integers(layer.input_shape, seed)
    whole = spec.layout.vector(layer.apply(x, as_integers))
    expected = brute.apply(
        *(x, as_integers(problem.kernel), problem.axes, problem.groups, problem.transposed)
    )
    assert whole.tolist() == (spec.layout.vector(expected) % 2**64).tolist()
    done = 0
    for slab in layer.slabs(spec.layout, most):
        assert slab.rows.start == done
        assert 1 <= len(slab.rows) <= most
        part = slab.apply(x, as_integers)
        assert part.tolist() == whole[slab.rows.start : slab.rows.stop].tolist()
        done = slab.rows.stop
    assert done == prod(layer.output_shape)


def test_one_slab_is_enough_where_there_is_room():
    layer = Convolution(np.ones((6, 1, 2), np.float32), IndexMap((6, 1, 2), (AXIS,), groups=3))
    for order in ORDERS:
        assert [slab.rows for slab in layer.slabs(Layout(order), 18)] == [range(18)]
    sizes = [len(slab.rows) for slab in layer.slabs(Layout(), 4)]
    assert sum(sizes) == 18
    assert max(sizes) <= 4


@given(problems())
def test_a_layer_has_the_shapes_and_bias_it_was_given(problem):
    layer = problem.layer
    assert (layer.output_shape, layer.input_shape) == brute.tensor_shapes(
        problem.kernel.shape, problem.axes, problem.groups, problem.transposed
    )
    assert layer.dtype == problem.kernel.dtype
    bias = layer.bias_tensor()
    assert bias.shape == layer.output_shape
    given_bias = np.zeros(bias.shape[0], layer.dtype) if problem.bias is None else problem.bias
    for channel, value in zip(bias, given_bias, strict=True):
        assert set(brute.bits(channel).ravel().tolist()) == {int(brute.bits(value).item())}


@given(problems())
def test_the_adjoint_has_no_bias_and_its_adjoint_is_the_layer(problem):
    layer = problem.layer
    adjoint = layer.adjoint()
    assert adjoint.bias is None
    assert (adjoint.input_shape, adjoint.output_shape) == (layer.output_shape, layer.input_shape)
    assert adjoint.adjoint().index_map == layer.index_map
    assert np.array_equal(brute.bits(adjoint.adjoint().kernel), brute.bits(layer.kernel))


def test_a_kernel_in_any_memory_order_is_the_same_layer():
    kernel = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    index_map = IndexMap((3, 2, 2), (AXIS,))
    expected = Convolution(kernel, index_map).matrix().data.array().tolist()
    for other in (np.asfortranarray(kernel), np.repeat(kernel, 2, axis=2)[:, :, ::2]):
        layer = Convolution(other, index_map)
        assert layer.kernel.flags.c_contiguous
        assert layer.matrix().data.array().tolist() == expected


def test_kernel_and_bias_cannot_be_written():
    layer = Convolution(
        np.ones((1, 1, 2), np.float32), IndexMap((1, 1, 2), (AXIS,)), np.ones(1, np.float32)
    )
    for array in (layer.kernel, layer.bias, layer.bias_tensor()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_the_array_that_was_given_stays_writeable():
    kernel = np.ones((1, 1, 2), np.float32)
    Convolution(kernel, IndexMap((1, 1, 2), (AXIS,)))
    kernel[...] = 5
    assert kernel.tolist() == [[[5, 5]]]


F32 = np.float32


@pytest.mark.parametrize(
    ("kernel", "bias", "names"),
    [
        (np.ones((2, 1, 3), F32), None, ("(2, 1, 3)", "(2, 1, 2)")),
        (np.ones((2, 1, 2, 1), F32), None, ("(2, 1, 2, 1)", "(2, 1, 2)")),
        (np.ones((2, 1, 2), np.float16), None, ("float16", "float32 or float64 or int32")),
        (np.ones((2, 1, 2), np.int64), None, ("int64", "float32 or float64 or int32")),
        (np.ones((2, 1, 2), ">f4"), None, (">f4", "float32 or float64 or int32")),
        (np.ones((2, 1, 2), np.complex64), None, ("complex64",)),
        (np.ones((2, 1, 2), F32), np.ones(1, F32), ("(1,)", "(2,) of float32")),
        (np.ones((2, 1, 2), F32), np.ones((2, 1), F32), ("(2, 1)", "(2,)")),
        (np.ones((2, 1, 2), F32), np.ones(2, np.float64), ("float64", "(2,) of float32")),
        (np.ones((2, 1, 2), F32), F32(1), ("()", "(2,)")),
    ],
)
def test_a_kernel_or_bias_that_does_not_fit_is_refused_with_both_shapes(kernel, bias, names):
    with pytest.raises(GeometryError) as error:
        Convolution(kernel, IndexMap((2, 1, 2), (AXIS,)), bias)
    for name in names:
        assert name in str(error.value)


def test_the_bias_of_a_transposed_layer_has_a_value_for_each_of_its_own_outputs():
    index_map = IndexMap((2, 3, 2), (AXIS,), transposed=True)
    kernel = np.ones((2, 3, 2), F32)
    layer = Convolution(kernel, index_map, np.arange(3, dtype=F32))
    assert layer.bias_tensor().tolist() == [[0] * 4, [1] * 4, [2] * 4]
    with pytest.raises(GeometryError, match=r"\(3,\) of float32"):
        Convolution(kernel, index_map, np.arange(2, dtype=F32))
