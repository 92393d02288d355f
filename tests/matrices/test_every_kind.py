"""Every kind of layer in files: written, read back, proven, mapped."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.layers.description import described
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.matrices.operator import load
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.runtime import as_read
from tests.support import brute, crafted
from tests.support.cli_models import run
from tests.support.crafted import rendered
from tests.support.kinds import chains, copies
from tests.support.layer_examples import (
    LAYERS,
    NPY,
    NPZ,
    SEEDS,
    every_kind,
    every_layer,
    few_examples,
    same_bits,
    some_examples,
)
from tests.support.strategies import SPECS, rows_of, specs

FILES = [("npz", "csr"), ("npz", "operator"), ("npy", "dense"), ("hdf5", "csr"), ("hdf5", "dense")]

in_every_file = pytest.mark.parametrize(("file", "form"), FILES)


@pytest.mark.slow
@every_layer
@in_every_file
def test_every_kind_is_written_read_back_and_proven(name, file, form):
    layer, kind = LAYERS[name], registry.formats()[file]
    for spec in SPECS:
        matrix = Matrix(layer, replace(spec, form=form))
        data = rendered(kind, matrix)
        (stored,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
        found = stored.matrix.layer
        assert json.dumps(described(found)) == json.dumps(described(layer))
        assert all(same_bits(found.arrays()[key], array) for key, array in layer.arrays().items())
        report = crafted.proven(stored, exhaustive=True)
        assert crafted.failures(report) == []
        exact = name != "product"
        strength = {True: "every entry", False: "rounding bound"}[exact]
        if form == "operator":
            assert (report.verdict, report.strength) == ("consistent", "digest only")
        else:
            assert (report.verdict, report.strength) == ("proven", strength)
        undone = [] if exact and form != "operator" else ["impulses"]
        assert [finding.check for finding in report.undone] == undone
        checks = {finding.check for finding in report.findings}
        assert ({"factors", "product"} <= checks) == (form != "operator" and not exact)


@pytest.mark.slow
@some_examples
@given(chain=chains(("integers", "zeros of integers", "reals")), spec=specs(), seed=SEEDS)
def test_every_product_that_is_written_is_proven(chain, spec, seed):
    for kind, form in ((NPZ, "csr"), (NPY, "dense")):
        matrix = Matrix(chain.layer, replace(spec, form=form))
        report = crafted.verified(kind, matrix, rendered(kind, matrix), seed=seed)
        assert crafted.failures(report) == []
        assert (report.verdict, report.strength) == ("proven", "rounding bound")


@every_kind
@few_examples
@given(data=st.data(), spec=specs(), index=st.booleans())
def test_every_layer_that_is_written_is_proven(kind, data, spec, index):
    case = data.draw(copies(kind))
    matrix = Matrix(case.layer, replace(spec, kernel_index=index))
    report = crafted.verified(NPZ, matrix, rendered(NPZ, matrix), exhaustive=True)
    assert crafted.failures(report) == []
    assert not report.undone
    assert report.strength == ("2^-96" if index else "every entry")


@every_kind
@few_examples
@given(data=st.data(), spec=specs(), at=SEEDS, bit=st.integers(0, 63))
def test_one_bit_of_one_entry_is_seen(kind, data, spec, at, bit):
    case = data.draw(copies(kind))
    matrix = Matrix(case.layer, spec)
    contents = crafted.arrays(rendered(NPZ, matrix))
    if not len(contents["data"]):
        return
    width, place = contents["data"].dtype.itemsize, at % len(contents["data"])
    contents["data"].view(f"u{width}")[place] ^= np.array(1 << bit % (8 * width), f"u{width}")
    report = crafted.checked(crafted.saved(contents))
    assert report.verdict == "wrong"
    assert report.complaint.startswith("entries: entry (")


@every_layer
def test_a_file_is_a_linear_operator(name, tmp_path):
    layer = LAYERS[name]
    for spec in SPECS:
        path = crafted.written(NPZ, Matrix(layer, replace(spec, form="operator")), tmp_path)
        operator = load(path)
        indptr, indices, data = rows_of(layer, spec).block(0, operator.shape[0])
        dense = csr_array((data, indices, indptr), shape=operator.shape).toarray()
        assert operator.dtype == layer.dtype
        assert operator.rows(0, operator.shape[0]).toarray().tolist() == dense.tolist()
        x = np.random.default_rng(1).integers(-9, 10, operator.shape[1]).astype(np.float64)
        y = np.random.default_rng(2).integers(-9, 10, operator.shape[0]).astype(np.float64)
        assert (operator @ x).tolist() == (dense.astype(float) @ x).tolist()
        assert (operator.rmatvec(y)).tolist() == (dense.astype(float).T @ y).tolist()
        assert operator.bias.tolist() == spec.layout.vector(layer.bias_tensor()).tolist()
        row, column = map(int, np.argwhere(dense)[-1])
        tap, value = operator.tap(row, column)
        assert value.item() == dense[row, column].item()
        assert tap.kernel == (layer.weight_of(tap.output, tap.input) or ())
        row, column = map(int, np.argwhere(dense == 0)[0]) if (dense == 0).any() else (0, 0)
        assert operator.entry(row, column)[0] == tap_output(operator, row, column)


def tap_output(operator: Any, row: int, column: int) -> Any:
    output = column if operator.spec.transpose else row
    return operator.layout.unflatten(output, operator.layer.output_shape)


@every_layer
def test_the_command_proves_and_maps_every_kind(name, folder):
    layer = LAYERS[name]
    path = crafted.written(NPZ, Matrix(layer, origin=Origin(layer="l")), folder, "m")
    done = run("verify", path, "--exhaustive")
    if name == "product":
        assert done.code == 4
        assert "not checked (impulses): the entries of a product are sums" in done.err
        assert done.out == f"proven\t{path}\trounding bound\n"
    else:
        assert done.succeeded().out == f"proven\t{path}\tevery entry\n"
    output = next(o for o in brute.indices(layer.output_shape) if list(layer.of_output(o)))
    told = run("map", path, "--output-at", ",".join(map(str, output)), "--json").succeeded()
    found = json.loads(told.out)["entries"]
    expected = list(layer.of_output(output))
    assert [tuple(line["input_element"]) for line in found] == [tap.input for tap, _ in expected]
    assert [line["value"] for line in found] == [value.item() for _, value in expected]
    source = ",".join(map(str, expected[0][0].input))
    fed = run("map", path, "--input-at", source, "--json").succeeded()
    assert list(output) in [line["output_element"] for line in json.loads(fed.out)["entries"]]
    row = Layout().flatten(output, layer.output_shape)
    column = Layout().flatten(expected[0][0].input, layer.input_shape)
    one = run("map", path, "--entry-at", f"{row},{column}").succeeded()
    assert ("\ta sum\t" in one.out) == (name == "product")
    kernel = ",".join(map(str, expected[0][0].kernel)) or "0"
    stands = run("map", path, "--kernel-at", kernel, "--json")
    if name == "product":
        assert stands.code == 2
        assert "copies of no weight" in stands.err
    else:
        found = json.loads(stands.succeeded().out)["entries"]
        assert list(output) in [line["output_element"] for line in found]


def test_integers_are_held_to_a_runtime_too():
    layer = crafted.example().layer
    layer = layer.with_kernel((8 * layer.kernel).astype(np.int32), np.array([5, -6], np.int32))
    for file, form in (("npz", "csr"), ("npy", "dense"), ("hdf5", "csr")):
        kind, matrix = registry.formats()[file], Matrix(layer, Spec(form=form))
        data = rendered(kind, matrix)
        report = crafted.verified(kind, matrix, data, against="reference")
        assert (report.verdict, report.undone) == ("proven", ())
    assert crafted.arrays(rendered(NPZ, Matrix(layer)))["data"].dtype == np.int32


def test_a_runtime_that_is_one_off_in_integers_does_not_agree():
    layer = crafted.example().layer
    layer = layer.with_kernel((8 * layer.kernel).astype(np.int32), np.array([5, -6], np.int32))
    result = as_read(layer).run(ORACLE, np.random.default_rng(3))
    assert not isinstance(result, str)
    assert check_runtime(layer, result).holds
    assert check_runtime(layer, replace(result, y=result.y + (result.y == 0))).holds is (
        not (result.y == 0).any()
    )
    assert check_runtime(layer, replace(result, y=result.y + 1)).holds is False
