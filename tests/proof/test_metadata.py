"""The bias, the digest, the manifest and the origin: a file held to the layer of its model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.product import Product
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.taps import IndexMap
from tests.support import crafted
from tests.support.crafted import example, rendered
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


def origin_finding(original):
    """Of the example, held to this layer as if the model had it."""
    original = Matrix(original, origin=example().origin)
    report = crafted.checked(rendered(NPZ, example()), original=original)
    assert not any("origin not checked" in line for line in report.trusted)
    (finding,) = (finding for finding in report.findings if finding.check == "origin")
    assert report.ok == finding.holds
    return finding


def test_the_layer_itself_is_the_origin():
    finding = origin_finding(example().layer)
    assert finding.holds
    assert "bit for bit" in finding.detail


def test_another_kernel_is_not_the_origin_and_the_first_element_is_named():
    layer = example().layer
    kernel = layer.kernel.copy()
    kernel[1, 0, 1, 0] = -0.75
    finding = origin_finding(Convolution(kernel, layer.index_map, layer.bias))
    assert finding.holds is False
    assert "kernel element (1, 0, 1, 0) is 1.375, in the model -0.75" in finding.detail


def test_a_zero_of_another_sign_is_not_the_origin():
    matrix = example()
    kernel = np.zeros_like(matrix.layer.kernel)
    stored = Matrix(Convolution(kernel, matrix.layer.index_map))
    original = Convolution(-kernel, matrix.layer.index_map)
    report = crafted.checked(rendered(NPZ, stored), original=Matrix(original))
    assert "origin: kernel element (0, 0, 0, 0) is 0.0, in the model -0.0" in report.complaint


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda layer: Convolution(layer.kernel, layer.index_map), "bias"),
        (lambda layer: Convolution(layer.kernel, layer.index_map, -layer.bias), "bias"),
        (
            lambda layer: Convolution(
                layer.kernel.astype(np.float64), layer.index_map, layer.bias.astype(np.float64)
            ),
            "float64",
        ),
        (lambda layer: Convolution(layer.kernel, layer.index_map.adjoint()), "geometry"),
        (
            lambda layer: Convolution(
                layer.kernel,
                IndexMap(layer.kernel.shape, layer.index_map.axes[::-1], layer.index_map.groups),
                layer.bias,
            ),
            "geometry",
        ),
    ],
)
def test_a_layer_that_differs_in_anything_is_not_the_origin(change, detail):
    finding = origin_finding(change(example().layer))
    assert finding.holds is False
    assert detail in finding.detail


def test_no_bias_is_the_same_origin_as_a_bias_of_zeros():
    layer = example().layer
    without = Matrix(Convolution(layer.kernel, layer.index_map))
    zeros = Convolution(layer.kernel, layer.index_map, np.zeros(2, np.float32))
    assert crafted.checked(rendered(NPZ, without), original=Matrix(zeros)).ok


def stored_with(origin, dtype=np.float32):
    """A file of the example with another origin."""
    return rendered(NPZ, Matrix(example(dtype=dtype).layer, origin=origin))


@pytest.mark.parametrize(
    "change", [{"layer": "conv/2"}, {"output": "z"}, {"position": 4}, {"op": "ConvTranspose"}]
)
def test_a_file_that_names_another_layer_is_not_of_that_origin(change):
    matrix = example()
    origin = replace(matrix.origin, **change)
    assert crafted.checked(stored_with(matrix.origin), original=matrix).ok
    report = crafted.checked(stored_with(origin), original=matrix)
    assert not report.ok
    assert report.complaint.startswith("origin: the model's layer is not the ")
    assert origin.op in report.complaint
    assert repr(origin.layer) in report.complaint


@pytest.mark.parametrize(
    ("origin", "dtype", "told"),
    [
        ({}, np.float32, "the model's, bit for bit"),
        ({"flipped": True}, np.float32, "the model's, flipped"),
        ({"dtype": "float64"}, np.float32, "the model's, rounded to float32"),
        ({"dtype": "float64"}, np.float64, "the model's, bit for bit"),
        ({"dtype": "float16"}, np.float32, "the model's, bit for bit"),
        (
            {"flipped": True, "dtype": "float64"},
            np.float32,
            "the model's, flipped and rounded to float32",
        ),
    ],
)
def test_an_origin_says_how_the_kernel_was_changed(origin, dtype, told):
    origin = replace(example().origin, **origin)
    matrix = Matrix(example(dtype=dtype).layer, origin=origin)
    report = crafted.checked(stored_with(origin, dtype), original=matrix)
    assert report.ok
    (finding,) = (finding for finding in report.findings if finding.check == "origin")
    assert finding.detail == f"geometry, kernel and bias are {told}"


def test_the_same_layer_of_another_model_file_is_accepted_and_told():
    matrix = example()
    other = replace(matrix, origin=replace(matrix.origin, file="b.onnx", sha256="cd" * 32))
    report = crafted.checked(rendered(NPZ, matrix), original=other)
    assert report.ok
    (finding,) = (finding for finding in report.findings if finding.check == "origin")
    assert "the model file is another" in finding.detail


LISTED = {
    **{"layer": "conv/1", "output": "y;0", "position": 3, "op": "Conv", "form": "csr"},
    **{"shape": [12, 48], "nonzeros": 72, "sha256": "ab" * 32},
}


def test_a_file_that_is_what_its_manifest_lists_is_right():
    report = crafted.checked(rendered(NPZ, example()), listed=LISTED | {"bytes": 1})
    assert report.ok
    assert [f.holds for f in report.findings if f.check == "manifest"] == [True]


@pytest.mark.parametrize("key", LISTED)
@pytest.mark.parametrize("value", [None, "other", 5, [48, 12]])
def test_a_file_that_is_not_what_its_manifest_lists_is_wrong(key, value):
    report = crafted.checked(rendered(NPZ, example()), listed=LISTED | {key: value})
    assert not report.ok
    assert report.complaint.startswith(f"manifest: {key} is ")
    assert str(LISTED[key]) in report.complaint
    assert str(value) in report.complaint


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
