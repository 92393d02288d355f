"""What holds of every level of the proof: right files, wrong runtimes, and colors of layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from convfc_cli.errors import WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.registry import runtime
from convfc_cli.runtimes.runtime import Runtime
from convfc_cli.taps import IndexMap
from convfc_cli.vocabulary import RUNTIMES
from tests.support import crafted
from tests.support.crafted import example, rendered, saved
from tests.support.levels import (
    LEVELS,
    Answering,
    by_impulses,
    by_integers,
    by_reals,
    disagreement,
    every_level,
    few_examples,
    some_examples,
    stored_of,
    walked,
)
from tests.support.strategies import problems, specs

Array = NDArray[Any]

NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.slow
@some_examples
@given(problem=problems(), spec=specs(), dense=st.booleans(), most=st.integers(1, 60))
def test_every_level_holds_of_a_right_file_whatever_its_weights(problem, spec, dense, most):
    kind = NPY if dense else NPZ
    matrix = Matrix(problem.layer, replace(spec, form="dense" if dense else "csr"))
    for name, make in LEVELS.items():
        finding = walked(stored_of(kind, matrix), make(ORACLE), most)
        left_out = name == "reals" and "no output could be compared" in finding.detail
        assert finding.holds or (finding.holds is None and left_out), finding
        assert (finding.check, finding.against) == (name, "the oracle")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
@few_examples
@given(problem=problems(), spec=specs())
def test_other_runtimes_agree_wherever_they_can_run_a_layer(name, problem, spec):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    asked = runtime(name)
    matrix = Matrix(problem.layer, spec)
    for make in LEVELS.values():
        finding = walked(stored_of(NPZ, matrix), make(asked))
        assert finding.holds is not False
        assert finding.holds or len(finding.detail) > 20
        if make is not by_reals and (name == "onnxruntime" or problem.groups == 1):
            assert finding.holds, finding.detail


# --- what is wrong in the file ------------------------------------------------------------------


def test_integers_see_what_reals_cannot():
    kernel = np.array([[[1.0, 1e-12, 2e-12]]], np.float32)
    layer = Convolution(kernel, IndexMap((1, 1, 3), (Axis(6, 4, 3, 1, 1, 0),)))
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    contents["data"][[1, 2]] = contents["data"][[2, 1]]
    data = saved(contents)
    assert walked(stored_of(NPZ, Matrix(layer), data), by_reals(ORACLE)).holds
    for make in (by_integers, by_impulses):
        with pytest.raises(WrongContents):
            walked(stored_of(NPZ, Matrix(layer), data), make(ORACLE))


def entry_moved(contents: dict[str, Array]) -> None:
    contents["indices"][1] += 2


def entry_of_a_zero_moved(contents: dict[str, Array]) -> None:
    contents["indices"][4] += 2


def rows_exchanged(contents: dict[str, Array]) -> None:
    for name in ("indices", "data"):
        contents[name][[0, 1, 2, 3]] = contents[name][[2, 3, 0, 1]]


@pytest.mark.parametrize("change", [entry_moved, entry_of_a_zero_moved, rows_exchanged])
@pytest.mark.parametrize("make", [by_impulses, by_integers])
def test_positions_are_seen_even_those_of_stored_zeros(change, make):
    layer = Convolution(
        np.array([[[0, 1]]], np.float32), IndexMap((1, 1, 2), (Axis(12, 6, 2, 2, 1, 0),))
    )
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    change(contents)
    with pytest.raises(WrongContents):
        walked(stored_of(NPZ, Matrix(layer), saved(contents)), make(ORACLE))


# --- what is wrong in the runtime ---------------------------------------------------------------


class Wrong(Runtime):
    """The oracle, wrong on purpose in what it takes a layer for."""

    name = "wrong"
    label = "wrong 1.0"

    def __init__(self, change: Callable[[Convolution, Array], tuple[IndexMap, Array]]) -> None:
        self._change = change

    def missing(self) -> str:
        return ""

    def apply(self, layer: Linear, x: Array) -> Array | str:
        assert isinstance(layer, Convolution)
        index_map, kernel = self._change(layer, layer.kernel)
        return ORACLE.apply(Convolution(kernel, index_map, layer.bias), x)


def with_axes(layer: Convolution, **changes: Any) -> IndexMap:
    return replace(
        layer.index_map, axes=tuple(replace(axis, **changes) for axis in layer.index_map.axes)
    )


MISREADINGS: dict[str, Callable[[Convolution, Array], tuple[IndexMap, Array]]] = {
    "one further": lambda layer, kernel: (
        replace(
            layer.index_map,
            axes=tuple(replace(axis, offset=axis.offset + 1) for axis in layer.index_map.axes),
        ),
        kernel,
    ),
    "no dilation": lambda layer, kernel: (with_axes(layer, dilation=1), kernel),
    "no stride": lambda layer, kernel: (with_axes(layer, stride=1), kernel),
    "flipped": lambda layer, kernel: (layer.index_map, kernel[..., ::-1]),
}


@pytest.mark.slow
@every_level
@pytest.mark.parametrize("what", MISREADINGS)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_runtime_that_misreads_the_layer_does_not_agree(what, level, transposed):
    axis = Axis(13, 7, 3, 2, 2, 2)
    kernel = np.arange(1, 1 + 4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    matrix = Matrix(Convolution(kernel, IndexMap(kernel.shape, (axis, axis), 2, transposed)))
    assert walked(stored_of(NPZ, matrix), LEVELS[level](ORACLE)).holds
    told = disagreement(stored_of(NPZ, matrix), LEVELS[level](Wrong(MISREADINGS[what])))
    assert "wrong 1.0" in told or "entry (" in told


@every_level
@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y + 1,
        lambda y: -y,
        lambda y: y * np.nan,
        lambda y: 0 * y,
        lambda y: y * 1.5,
        lambda y: y[..., :-1],
        lambda y: np.concatenate((y, y), -1),
        lambda y: y[:, ::-1],
        lambda y: y * 2.0**30,
    ],
)
def test_answers_that_are_wrong_in_any_way_are_not_taken_for_agreement(level, spoil):
    assert disagreement(stored_of(NPZ, example()), LEVELS[level](Answering(spoil)))


def one_channel_off(y: Array) -> Array:
    y = y.copy()
    y[:, 1] += 1
    return y


@pytest.mark.parametrize("level", ["integers", "reals"])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (one_channel_off, r"^output \(1, 0, 0\): the layer, run by answering"),
        (lambda y: y[..., :-1], r"answering.* \(2, 2, 2\).*, the layer \(2, 2, 3\)"),
        (lambda y: y.repeat(2, -1), r"answering.* \(2, 2, 6\).*, the layer \(2, 2, 3\)"),
    ],
)
def test_the_first_output_that_is_wrong_is_named_and_a_shape_without_its_batch(level, spoil, told):
    with pytest.raises(WrongContents, match=told):
        walked(stored_of(NPZ, example()), LEVELS[level](Answering(spoil)))


@every_level
def test_a_runtime_that_cannot_run_a_layer_is_no_agreement(level):
    finding = walked(stored_of(NPZ, example()), LEVELS[level](Answering(lambda y: "no, thanks")))
    assert finding.holds is None
    assert "no, thanks" in finding.detail


# --- the colors --------------------------------------------------------------------------------


@given(problem=problems())
def test_colors_of_a_layer_are_few_and_none_is_read_twice(problem):
    found = problem.layer.colors()
    assert found.shape == problem.layer.input_shape
    read: dict[Any, list[int]] = {}
    for output, source in problem.nonzeros():
        read.setdefault(output, []).append(int(found[source]))
    assert all(len(set(color)) == len(color) for color in read.values())
    reading = problem.kernel.shape[0] // problem.groups if problem.transposed else 0
    most = (reading or problem.kernel.shape[1]) * np.prod(problem.kernel.shape[2:])
    assert found.max() < most


@some_examples
@given(problem=problems(styles=("integers",)), spec=specs(), most=st.integers(1, 60))
def test_strips_add_up_to_their_slab(problem, spec, most):
    layer = problem.layer
    x = np.random.default_rng(0).integers(-9, 10, layer.input_shape).astype(np.float64)
    whole = spec.layout.vector(layer.apply(x))
    for slab in layer.slabs(spec.layout, most):
        covered = np.zeros(layer.input_shape, int)
        total = np.zeros(len(slab.rows))
        for strip in slab.strips():
            covered[strip.reads] += 1
            total += spec.layout.vector(strip.layer.apply(x[strip.reads]))
        assert covered.max() == 1
        assert total.tolist() == whole[slab.rows.start : slab.rows.stop].tolist()


def test_the_number_of_colors_is_known_without_making_them():
    for transposed in (False, True):
        axis = Axis(13, 7, 3, 2, 2, 2)
        layer = Convolution(
            np.ones((4, 3, 3, 3), np.float32), IndexMap((4, 3, 3, 3), (axis, axis), 2, transposed)
        )
        assert layer.most_colors == layer.colors().max() + 1
