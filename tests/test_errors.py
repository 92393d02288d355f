"""An error that is kept keeps none of the frames that raised it."""

import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convfc_cli.errors import ConvfcError, MalformedInput
from convfc_cli.jobs.convert import convert
from convfc_cli.jobs.plan import Options, make_plan
from convfc_cli.layers.linear import Linear
from convfc_cli.models.entry import Entry, ResolvedLayer
from convfc_cli.models.keras import linear
from convfc_cli.models.keras.linear import Given
from convfc_cli.models.registry import read
from tests.support.keras_files import functional, given_input, layer, legacy

MEGABYTE = 2**20


class Large:
    """What a frame has alive when it raises."""


def raised(kept: list[weakref.ref[Large]]) -> ConvfcError:
    """An error that was raised with a cause, in frames that had something alive."""

    def inner() -> None:
        large = Large()
        kept.append(weakref.ref(large))
        raise ValueError("cause")

    def outer() -> None:
        large = Large()
        kept.append(weakref.ref(large))
        try:
            inner()
        except ValueError as error:
            raise MalformedInput("told") from error

    try:
        outer()
    except MalformedInput as error:
        return error
    raise AssertionError


def test_an_entry_keeps_its_error_without_frames_and_causes() -> None:
    kept: list[weakref.ref[Large]] = []
    error = raised(kept)
    assert len(kept) == 2
    assert all(ref() is not None for ref in kept)
    entry = Entry(0, "c", "c", "Conv", error=error)
    assert all(ref() is None for ref in kept)
    assert entry.error is error
    assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)
    with pytest.raises(MalformedInput, match=r"layer c \(Conv\): told"):
        entry.require()


COUNT, ALIVE = 30, 8 * MEGABYTE


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of many layers, each of which fails while a large array is alive."""

    def fails(given: Given) -> ResolvedLayer:
        large = np.ones(ALIVE, np.uint8)
        raise MalformedInput(f"it fails with {large.sum()}")

    monkeypatch.setitem(linear.LINEAR, "Rescaling", fails)
    names = [f"r{n}" for n in range(COUNT)]
    layers = [given_input("x", 4)]
    for before, name in zip(["x", *names], names, strict=False):
        layers.append(layer("Rescaling", name, before, scale=2.0, offset=0.0))
    return legacy(tmp_path / "m.h5", functional(layers, [names[-1]]), {})


def test_a_listing_keeps_no_array_of_the_layers_that_failed(failing: Path) -> None:
    tracemalloc.start()
    try:
        model = read(failing)
        entries = model.others
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [str(entry.error) for entry in entries] == [f"it fails with {ALIVE}"] * COUNT
    assert held < ALIVE


def test_a_plan_keeps_no_array_of_the_layers_that_failed(tmp_path: Path) -> None:
    """With --keep-going, what `as_real` raises is kept by the plan, not by an entry."""
    kept: list[weakref.ref[Large]] = []
    layers = [given_input("x", 4), layer("Flatten", "f", "x"), layer("Flatten", "g", "f")]
    path = legacy(tmp_path / "m.h5", functional(layers, ["g"]), {})
    model = read(path)
    good, _ = model.others

    class Scaleless(ResolvedLayer):
        def as_real(self) -> ResolvedLayer:
            large = Large()
            kept.append(weakref.ref(large))
            raise MalformedInput("no scale")

    bad = Entry(
        0, "q", "q", "Conv", resolved=Scaleless(good.require(), good.load, "int8"), dtype="int8"
    )
    options = Options(keep_going=True, dequantize=True)
    plan = make_plan(model, [bad, good], f"{tmp_path}/out/", options, to_disk=False)
    assert [str(error) for _, error in plan.failures] == ["layer q (Conv): no scale"]
    assert kept[0]() is None


def test_a_conversion_keeps_no_array_of_the_layers_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[Large]] = []
    sound = linear.LINEAR["Flatten"]

    def fails() -> Linear:
        large = Large()
        kept.append(weakref.ref(large))
        raise MalformedInput("it does not load")

    def unsound(given: Given) -> ResolvedLayer:
        return replace(sound(given), load=fails)

    monkeypatch.setitem(linear.LINEAR, "Permute", unsound)
    layers = [given_input("x", 4), layer("Flatten", "f", "x"), layer("Permute", "p", "f")]
    path = legacy(tmp_path / "m.h5", functional(layers, ["p"]), {})
    done = convert(
        path, f"{tmp_path}/out/", include="linear", options=Options(keep_going=True, proof=None)
    )
    assert [str(error) for _, error in done.failures] == ["layer p (Permute): it does not load"]
    assert kept[0]() is None
