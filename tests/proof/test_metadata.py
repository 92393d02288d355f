"""A file held to the layer of its model."""

from typing import Any

import numpy as np
import pytest

from convfc_cli.layers.dense import Dense
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.product import Product
from convfc_cli.matrices.matrix import Matrix
from tests.support import crafted
from tests.support.crafted import rendered
from tests.support.layer_examples import ENDS, EXAMPLES, F32, LAYERS, NPZ, every_layer


@every_layer
def test_a_layer_of_any_kind_is_held_to_the_models(name):
    layer = LAYERS[name]
    data = rendered(NPZ, Matrix(layer))
    assert crafted.checked(data, original=Matrix(layer)).ok
    with np.errstate(over="ignore"):
        other = layer.with_weights(lambda w: w + w.dtype.type(1))
    told = crafted.checked(data, original=Matrix(other)).complaint
    assert told.startswith("origin: ")
    assert "kernel element (0" in told


def test_another_source_of_a_gather_is_another_origin():
    other = Gather((2, 3), np.array([[1, 5, -1], [1, 0, 3]]))
    told = crafted.checked(rendered(NPZ, Matrix(other)), original=Matrix(EXAMPLES["gather"]))
    assert told.complaint == "origin: source element (1, 2) is 3, in the model 2"


@pytest.mark.parametrize("inside", [False, True])
def test_no_bias_is_the_origin_of_a_bias_of_zeros_and_of_no_other(inside):
    def made(bias: Any) -> Matrix:
        layer = Dense(np.ones((2, 2), F32), bias=None if bias is None else np.full(2, bias, F32))
        return Matrix(Product([layer, ENDS]) if inside else layer)

    for one, other, same in ((None, 0, True), (0, None, True), (None, -0.0, False), (1, 0, False)):
        report = crafted.checked(rendered(NPZ, made(one)), original=made(other))
        assert report.ok == same
        assert same or report.complaint == "origin: the bias is not that of the model's layer"
