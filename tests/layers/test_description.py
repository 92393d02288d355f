"""Layers and descriptions of layers that are refused, each with what is wrong."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from convfc_cli.errors import (
    GeometryError,
    Refused,
)
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.description import described
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.locally_connected import LocallyConnected
from convfc_cli.layers.product import Product
from convfc_cli.layout import Layout
from convfc_cli.matrices.matrix import Matrix
from tests.support import crafted
from tests.support.crafted import outcome, rendered
from tests.support.layer_examples import AXIS, EXAMPLES, F32, LAYERS, NPZ, every_layer


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Gather((3,), np.array([3])), "a source beyond the 3 inputs"),
        (lambda: Gather((3,), np.array([-2])), "a source beyond the 3 inputs"),
        (lambda: Gather((3,), np.array([0.0])), "sources of float64"),
        (lambda: Gather((3,), np.array(0)), r"shape \(\)"),
        (lambda: Gather((3,), np.zeros((0, 2), int)), r"shape \(0, 2\)"),
        (lambda: Gather((), np.array([0])), r"a tensor of shape \(\)"),
        (lambda: Gather((2, 0), np.array([-1])), r"a tensor of shape \(2, 0\)"),
        (lambda: Gather((3,), np.array([0]), kernel=np.ones(2, F32)), r"kernel of shape \(2,\)"),
        (lambda: Gather((3,), np.array([0]), kernel=np.ones(1, "f2")), "a kernel of float16"),
        (lambda: Diagonal(np.ones(3, F32), (3, 2)), r"kernel of shape \(3,\) .* \(3, 2\)"),
        (lambda: Diagonal(np.ones((2, 2), F32), (3, 2)), r"kernel of shape \(2, 2\)"),
        (lambda: Diagonal(np.ones((), F32), ()), r"kernel of shape \(\)"),
        (lambda: Diagonal(np.ones(3, F32), (3,), np.ones(2, F32)), r"bias of shape \(2,\)"),
        (lambda: Diagonal(np.ones(3, F32), (3,), np.ones(3)), "float64; .* of float32"),
        (lambda: Dense(np.ones(3, F32)), r"\(3,\); \(out, in\)"),
        (lambda: Dense(np.ones((0, 3), F32)), r"\(0, 3\); \(out, in\)"),
        (lambda: Dense(np.ones((2, 3), F32), bias=np.ones(3, F32)), r"bias of shape \(3,\)"),
        (lambda: Dense(np.ones((2, 3), F32), (4,), bias=np.ones(2, F32)), r"tensors of \(4, 2\)"),
        (lambda: Dense(np.ones((2, 3), F32), bias=np.ones(2)), "float64; .* of float32"),
        (lambda: Dense(np.ones((2, 3), np.int64)), "a kernel of int64"),
        (lambda: LocallyConnected(np.ones((1, 1, 2, 3), F32), (AXIS,)), r"\(1, 1, 2, 3\)"),
        (lambda: LocallyConnected(np.ones((1, 1), F32), ()), r"\(1, 1\)"),
        (
            lambda: LocallyConnected(np.ones((1, 1, 2, 2), F32), (AXIS,), np.ones(1, F32)),
            r"\(1,\) .*\(1, 2\)",
        ),
        (
            lambda: LocallyConnected(
                np.ones((1, 1, 2, 2), F32), (AXIS,), np.ones((1, 2), F32), transposed=True
            ),
            r"\(1, 2\) .*\(1, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_it_is(make, told):
    with pytest.raises(GeometryError, match=told):
        make()


def hostile(layer: Linear, change: Any) -> tuple[str, str]:
    """What comes of a file with another description."""
    data = rendered(NPZ, Matrix(layer))
    content = crafted.description(data)
    change(content)
    return outcome(crafted.redescribed(data, content))


WRONG = (None, -1, 0, 1.5, 10**30, "x", [], [[]], [-1], [2**62] * 3, {}, {"x": 1}, True, False)


@pytest.mark.slow
@every_layer
def test_a_field_of_another_type_or_size_is_malformed(name):
    layer = LAYERS[name]
    content = json.loads(json.dumps(described(layer)))
    for field, own in content.items():
        for value in WRONG:
            if json.dumps(value) == json.dumps(own):
                continue
            kind, told = hostile(layer, lambda c, f=field, v=value: c.update({f: v}))
            other = field == "transposed" and type(value) is bool  # of shapes that fit both ways
            assert kind == "MalformedInput" or (other and kind == "wrong"), (field, value, told)
        kind, told = hostile(layer, lambda c, f=field: c.pop(f))
        assert kind == "MalformedInput", (field, told)


@pytest.mark.slow
def test_a_field_of_a_factor_is_held_to_the_same():
    layer = LAYERS["product"]
    for number, factor in enumerate(json.loads(json.dumps(described(layer)))["factors"]):
        for field, own in factor.items():
            for value in WRONG[::3]:
                if json.dumps(value) == json.dumps(own):
                    continue
                kind, told = hostile(
                    layer, lambda c, n=number, f=field, v=value: c["factors"][n].update({f: v})
                )
                large = field == "far" and kind == "Refused"
                other = field == "transposed" and type(value) is bool and kind == "wrong"
                assert kind == "MalformedInput" or large or other, (number, field, value, told)


@pytest.mark.parametrize("far", [2**26, 2**40, 2**62])
def test_tensors_of_a_strangers_sizes_are_not_made(far):
    def gather(c: Any) -> None:
        c.update({"far": [far], "input_shape": [far], "shape": [6, far]})

    def diagonal(c: Any) -> None:
        shapes = {"input_shape": [far], "output_shape": [far]}
        c["factors"] = [{**factor, **shapes} for factor in c["factors"]]
        c.update({**shapes, "shape": [far, far], "nonzeros": far})

    two = Product([Diagonal(np.ones(1, F32), (3,))] * 2)
    tracemalloc.start()
    try:
        assert hostile(EXAMPLES["gather"], gather)[0] == "WrongContents"  # of the stored shape
        kind, told = hostile(two, diagonal)
        assert (kind, f"a tensor of {far} elements" in told) == ("Refused", True)
        with pytest.raises(Refused, match="outputs; at most"):
            Diagonal(np.ones(1, F32), (4 * far,)).matrix(Layout())
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.update(kind="toeplitz"), "the unknown kind 'toeplitz'"),
        (lambda c: c.update(kind=["dense"]), "a text belongs"),
        (lambda c: c["factors"].clear(), "a product of 0 layers"),
        (lambda c: c.update(factors=c["factors"] * 33), "more than 64 factors"),
        (lambda c: c["factors"][0].update(kind="product", factors=[]), "products among them"),
        (lambda c: c["factors"].pop(), "it says shape [4, 6], its geometry [6, 6]"),
        (lambda c: c["factors"].reverse(), "no member 0.kernel_bias"),
    ],
)
def test_factors_that_are_none_are_malformed(change, told):
    kind, found = hostile(LAYERS["product"], change)
    assert kind == "MalformedInput"
    assert told in found
