"""Products of layers: entries, application, bounds, and which chains are refused."""

import json
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli.errors import (
    GeometryError,
    Refused,
    UsageError,
)
from convfc_cli.layers import product, sparse_product
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.description import described, restored
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.product import Product
from convfc_cli.layers.tied import TiedSlab
from convfc_cli.layout import ORDERS, Layout
from convfc_cli.matrices.matrix import Matrix, Spec
from tests.support import brute
from tests.support.kinds import Chain, chains
from tests.support.layer_examples import (
    F32,
    SEEDS,
    block_sizes,
    many_examples,
    same_bits,
    some_examples,
)
from tests.support.strategies import rows_of, specs

orders = st.sampled_from(list(ORDERS))


def expected_rows(chain: Chain, spec: Spec) -> list[dict[int, Any]]:
    """{column: (the entry, the magnitudes of its terms)} of every row, exactly."""
    outputs = brute.positions(chain.output_shape, spec.layout.order)
    inputs = brute.positions(chain.input_shape, spec.layout.order)
    count = prod(chain.input_shape if spec.transpose else chain.output_shape)
    rows: list[dict[int, Any]] = [{} for _ in range(count)]
    sizes = chain.magnitudes()
    for pair, value in chain.values().items():
        row, column = int(outputs[pair[0]]), int(inputs[pair[1]])
        row, column = (column, row) if spec.transpose else (row, column)
        rows[row][column] = value, sizes[pair]
    return [dict(sorted(row.items())) for row in rows]


@pytest.mark.parametrize(("last", "multiplied"), [(3.0, 1), (-1.0, 2)], ids=["none", "some"])
def test_the_pattern_is_multiplied_again_only_where_sums_cancel(monkeypatch, last, multiplied):
    """1 x 1 and 1 x -1: one product; an entry is there all the same."""
    rows = np.array([[1, last], [1, 1]], F32)
    layer = Product([Dense(np.ones((2, 2), F32)), Dense(rows)])
    assert layer.counts.tolist() == [2, 2]
    made, times = [], sparse_product._times

    def watched(*given: Any) -> Any:
        made.append(given)
        return times(*given)

    monkeypatch.setattr(sparse_product, "_times", watched)
    block = layer.block(Layout(), 0, 2)
    assert len(made) == multiplied
    assert block.indices.tolist() == [0, 1, 0, 1]
    assert block.values.tolist() == [1 + last, 1 + last, 2, 2]


@pytest.mark.parametrize("most", [0, 2**30], ids=["made anew", "kept"])
def test_the_rows_of_factors_are_the_same_made_anew_and_kept(monkeypatch, most):
    """Bit for bit: a zero keeps its sign, and a NaN what it carries."""
    weights = np.array([[-0.0, 0.0], [1.5, 0.0]], F32)
    weights.view(np.uint32)[1, 1] = 0x7FC01234
    monkeypatch.setattr(product, "MAX_KEPT", most)
    layer = Product([Dense(weights), Diagonal(np.ones(2, F32), (2,))])
    (rows, _), _ = layer._matrices(Layout())[0]
    assert same_bits(rows.data.array(), weights.reshape(-1))
    assert rows.indices.array().tolist() == [0, 1, 0, 1]


@pytest.mark.slow
@many_examples
@given(chain=chains(), spec=specs(), most=st.integers(1, 60))
def test_a_product_has_an_entry_wherever_a_path_leads_and_it_is_their_sum(chain, spec, most):
    expected = expected_rows(chain, spec)
    with pytest.MonkeyPatch.context() as patch:
        for module in (product, sparse_product):
            patch.setattr(module, "CHUNK", most)
        block_sizes(patch, most)
        rows = rows_of(chain.layer, spec)
        indptr, indices, data = rows.indptr.array(), rows.indices.array(), rows.data.array()
        assert np.diff(indptr).tolist() == list(map(len, expected))
        assert indices.tolist() == [column for row in expected for column in row]
        assert data.dtype == chain.layer.dtype
        sums = [value for row in expected for value, _ in row.values()]
        assert data.tolist() == np.array(list(map(float, sums)), data.dtype).tolist()
        assert chain.layer.nnz == rows.nnz == len(sums)
        layer = Matrix(chain.layer, spec).rows_of
        block, sizes = layer.block_with_scale(spec.layout, 0, rows.shape[0])
        assert block.indptr.tolist() == indptr.tolist()
        assert block.indices.tolist() == indices.tolist()
        assert block.values.tolist() == list(map(float, sums))
        assert sizes.tolist() == [float(size) for row in expected for _, size in row.values()]
        last = len(expected)
        first = last // 2
        part = rows.block(first, last)
        assert part[0].tolist() == (indptr[first:] - indptr[first]).tolist()
        assert part[1].tolist() == indices[indptr[first] :].tolist()
        assert part[2].tolist() == data[indptr[first] :].tolist()


@pytest.mark.slow
@many_examples
@given(chain=chains(), order=orders, most=st.integers(1, 60), seed=SEEDS)
def test_a_product_applied_is_its_layers_one_after_another(chain, order, most, seed):
    layer, layout = chain.layer, Layout(order)
    x = np.random.default_rng(seed).integers(-3, 4, chain.input_shape).astype(np.float64)
    y = brute.applied(chain.values(), x, chain.output_shape)
    assert layer.apply(x).tolist() == y.tolist()
    vector = layout.vector(y)
    counts = list(map(len, expected_rows(chain, Spec(layout))))
    done = 0
    for slab in layer.slabs(layout, most):
        assert slab.rows.start == done
        assert 1 <= len(slab.rows) <= most
        done = slab.rows.stop
        inside = slice(slab.rows.start, done)
        assert slab.apply(x, lambda w: w.astype(np.float64)).tolist() == vector[inside].tolist()
        assert slab.counts().tolist() == counts[inside]
        assert not isinstance(slab, TiedSlab)
    assert done == prod(chain.output_shape)
    turned = layer.adjoint()
    assert (turned.input_shape, turned.output_shape) == (chain.output_shape, chain.input_shape)
    z = np.random.default_rng(seed).integers(-3, 4, chain.output_shape).astype(np.float64)
    back = brute.applied(brute.adjoint(chain.values()), z, chain.input_shape)
    assert turned.apply(z).tolist() == back.tolist()
    assert not turned.bias_tensor().any()


@pytest.mark.slow
@many_examples
@given(chain=chains())
def test_the_bias_of_a_product_goes_through_all_that_follows(chain):
    layer = chain.layer
    bias = layer.bias_tensor()
    assert (bias.shape, bias.dtype) == (chain.output_shape, layer.dtype)
    exact = chain.bias_tensor().astype(float)
    assert bias.tolist() == exact.astype(layer.dtype).tolist()


@some_examples
@given(chain=chains(("reals",)), order=orders, most=st.integers(1, 60), seed=SEEDS)
def test_sums_of_a_product_bound_what_rounding_does(chain, order, most, seed):
    layer, layout = chain.layer, Layout(order)
    x = np.random.default_rng(seed).standard_normal(chain.input_shape).astype(np.float32)
    fractions = np.vectorize(Fraction, otypes=[object])(x)
    exact = brute.applied(chain.values(), fractions, chain.output_shape) + chain.bias_tensor()
    narrow = x
    for case in chain.cases:  # in float32 all the way
        kernel, bias = case.kernel.astype(np.float32), case.bias_tensor().astype(np.float32)
        narrow = case.layer.apply(narrow, lambda w: w.astype(np.float32)) + bias
        assert (narrow.dtype, kernel.dtype) == (np.float32, np.float32)
    exact, narrow = layout.vector(exact), layout.vector(narrow)
    sizes = brute.applied(chain.magnitudes(), abs(fractions), chain.output_shape)
    sizes = layout.vector(sizes)
    done = 0
    for sums in layer.sums(x, layout, most):
        assert sums.rows.start == done
        done = sums.rows.stop
        inside = slice(sums.rows.start, done)
        off = abs(sums.answer.astype(object) - exact[inside])
        assert (off <= sums.terms * sums.scale * 2.0**-53).all()
        off = abs(narrow[inside].astype(np.float64) - sums.answer)
        assert (off <= sums.terms * sums.scale * 2.0**-24 * (1 + 2**-20)).all()
        assert (sums.scale >= sizes[inside].astype(float) * (1 - 2**-40)).all()
    assert done == len(exact)


def test_sums_of_a_product_are_no_looser_than_they_have_to_be():
    chain = Product(
        [Dense(np.full((3, 2), 2.0), bias=np.full(3, -1.0)), Dense(np.full((1, 3), -5.0))]
    )
    (sums,) = chain.sums(np.array([1.0, -1.0]), Layout(), 10)
    assert sums.answer.tolist() == [15.0]  # 3 times -5 (2 - 2 - 1)
    assert sums.scale.tolist() == [75.0]  # 3 times 5 (2 + 2 + 1)
    # 2 + 1 terms, 3 + 1 terms, and the matrix and its bias are rounded.
    assert sums.terms.tolist() == pytest.approx([9.0], rel=1e-5)
    assert sums.terms[0] >= 9


@many_examples
@given(chain=chains())
def test_a_product_has_the_shapes_and_the_dtype_of_its_layers(chain):
    layer = chain.layer
    assert (layer.input_shape, layer.output_shape) == (chain.input_shape, chain.output_shape)
    outline = layer.outline
    assert (outline.rows, outline.columns) == (prod(chain.output_shape), prod(chain.input_shape))
    assert (outline.kernel_shape, outline.groups) == ((), 1)
    wide = any(case.kernel.dtype == np.float64 for case in chain.cases)
    assert layer.dtype == (np.float64 if wide else np.float32)
    assert layer.counts.shape == chain.output_shape
    assert layer.astype("float64").dtype == np.float64
    assert layer.astype("float32").dtype == np.float32


@pytest.mark.slow
@many_examples
@given(chain=chains())
def test_a_description_and_its_arrays_make_a_product_anew(chain):
    layer = chain.layer
    content = json.loads(json.dumps(described(layer)))
    made = restored(content, layer.arrays().__getitem__)
    assert json.loads(json.dumps(described(made))) == content
    assert made.arrays().keys() == layer.arrays().keys()
    assert all(same_bits(made.arrays()[name], array) for name, array in layer.arrays().items())
    assert same_bits(made.bias_tensor(), layer.bias_tensor())
    assert [factor.kind for factor in made.factors] == [case.layer.kind for case in chain.cases]


@pytest.mark.slow
@some_examples
@given(chain=chains(), data=st.data())
def test_what_an_output_of_a_product_reads_has_sums_and_no_weights(chain, data):
    output = data.draw(st.sampled_from(brute.indices(chain.output_shape)))
    source = data.draw(st.sampled_from(brute.indices(chain.input_shape)))
    values = chain.values()
    found = {(tap.output, tap.input): float(value) for tap, value in chain.layer.of_output(output)}
    assert found == {pair: float(value) for pair, value in values.items() if pair[0] == output}
    fed = {(tap.output, tap.input): float(value) for tap, value in chain.layer.of_input(source)}
    assert fed == {pair: float(value) for pair, value in values.items() if pair[1] == source}
    assert all(tap.kernel == () for tap, _ in chain.layer.of_output(output))
    assert chain.layer.weight_of(output, source) is None
    with pytest.raises(UsageError, match="copies of no weight"):
        chain.layer.of_weight((0,))
    with pytest.raises(UsageError, match="kernel_index"):
        chain.layer.matrix(Layout(), kernel_index=True)


@some_examples
@given(chain=chains())
def test_every_input_of_a_product_has_a_color_of_its_own(chain):
    colors = chain.layer.colors()
    assert colors.shape == chain.input_shape
    assert sorted(colors.reshape(-1).tolist()) == list(range(chain.layer.most_colors))


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ([], "a product of 0 layers"),
        ([Dense(np.ones((2, 3), F32)), Dense(np.ones((2, 3), F32))], r"makes \(2,\), .*\(3,\)"),
        ([Dense(np.ones((2, 3), np.int32))], "integers are not multiplied"),
        ([Diagonal(np.ones(1, F32), (2,))] * 65, "a product of 65 layers; 1 to 64"),
    ],
)
def test_what_is_no_chain_is_refused(factors, told):
    with pytest.raises(GeometryError, match=told):
        Product(factors)


def test_products_in_a_product_are_the_layers_that_they_have():
    one, other = Dense(np.ones((2, 3), F32)), Dense(np.ones((4, 2), F32))
    nested = Product([Product([one]), Product([Product([other])])])
    assert nested.factors == (one, other)
    assert len(Product([Diagonal(np.ones(1, F32), (2,))] * 64).factors) == 64


@pytest.mark.slow
def test_a_product_of_too_many_paths_is_refused_before_it_is_multiplied():
    wide = Dense(np.ones((2**12, 2**12), F32))
    with pytest.raises(
        Refused, match=r"3 layers takes too long to multiply, some 1.4e\+11 products"
    ):
        _ = Product([wide, wide, wide]).nnz
