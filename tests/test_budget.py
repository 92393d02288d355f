"""One budget for a command, whatever draws on it."""

import time
from dataclasses import fields
from pathlib import Path

import pytest

import convfc_cli
from convfc_cli import budget
from convfc_cli.budget import Budget, command, spend
from convfc_cli.errors import Refused
from convfc_cli.models import registry
from tests.support.cli_models import net, run


def test_small_demands_add_up_within_a_command() -> None:
    whole = Budget().products
    with command():
        spend("layer a", products=whole - 10)
        spend("layer b", products=10)
        with pytest.raises(Refused, match=r"layer c needs 1 products to compute: .* 0 left"):
            spend("layer c", products=1)


def test_what_is_refused_takes_nothing_off() -> None:
    own = Budget(elements=5, operations=5)
    with pytest.raises(Refused):
        own.spend("it", operations=3, elements=6)
    assert (own.elements, own.operations) == (5, 5)


def test_a_command_within_another_draws_on_the_same_budget() -> None:
    with command() as outer:
        with command() as inner:
            spend("it", products=7)
        assert inner is outer
        assert outer.products == Budget().products - 7


def test_each_command_begins_with_a_whole_budget() -> None:
    whole = Budget()
    with command():
        spend("it", elements=whole.elements)
    with command() as next_:
        assert next_ == whole


def test_outside_of_a_command_nothing_adds_up() -> None:
    whole = Budget().products
    for _ in range(2):
        spend("it", products=whole)
    with pytest.raises(Refused):
        spend("it", products=whole + 1)


def test_a_larger_file_may_ask_for_more() -> None:
    small, large = Budget(), Budget()
    large.earn(10**9)
    assert large.elements - small.elements == 16 * 10**9
    assert large.seconds - small.seconds == 250
    assert (large.products, large.operations) == (small.products, small.operations)


def test_time_is_taken_as_it_passes_and_then_refused() -> None:
    def busy(seconds: float, error: type[Exception] | None = None) -> None:
        begun = time.thread_time()
        while time.thread_time() - begun < seconds:
            pass
        if error:
            raise error

    left = Budget(seconds=0.05)
    with left.timed("the constant 'w'"):
        busy(0.02)
    assert 0 < left.seconds <= 0.03
    with pytest.raises(ZeroDivisionError), left.timed("the constant 'w'"):
        busy(0.03, ZeroDivisionError)
    with (
        pytest.raises(Refused, match="the constant 'v': all that came before"),
        left.timed("the constant 'v'"),
    ):
        pytest.fail("it was begun")


@pytest.mark.parametrize("resource", [resource.name for resource in fields(Budget)])
def test_every_resource_has_a_unit_and_an_end(resource: str) -> None:
    assert budget._UNITS[resource]
    with pytest.raises(Refused, match=budget._UNITS[resource]):
        Budget().spend("it", **{resource: 2**62})


def test_the_command_line_has_one_budget_which_the_model_adds_to(folder, monkeypatch) -> None:
    net(Path("m.onnx"))
    seen = []
    original = registry.open_model

    def watched(*given):
        found = original(*given)
        seen.append(budget._current.get())
        return found

    monkeypatch.setattr(registry, "open_model", watched)
    run("inspect", "m.onnx").succeeded()
    run("convert", "m.onnx", "--no-verify").succeeded()
    convfc_cli.read("m.onnx")
    assert len({id(left) for left in seen}) == 3
    size = Path("m.onnx").stat().st_size
    for left in seen:
        assert left.elements == budget.Budget().elements + 16 * size
    assert budget._current.get() is None
