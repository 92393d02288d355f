"""One budget for a command, whatever draws on it."""

from dataclasses import fields

import pytest

from convfc_cli import budget
from convfc_cli.budget import Budget, command, spend
from convfc_cli.errors import Refused


def test_small_demands_add_up_within_a_command() -> None:
    whole = Budget().products
    with command():
        spend("layer a", products=whole - 10)
        spend("layer b", products=10)
        with pytest.raises(Refused, match=f"layer c needs 1 products to compute: .* 0 .* {whole}"):
            spend("layer c", products=1)


def test_what_is_refused_takes_nothing_off() -> None:
    own = Budget(elements=5, operations=5)
    with pytest.raises(Refused):
        own.spend("it", operations=3, elements=6)
    assert (own.elements, own.operations) == (5, 5)


def test_a_command_within_another_draws_on_the_same_budget() -> None:
    with command() as outer:
        with command() as inner:
            spend("it", bytes=7)
        assert inner is outer
        assert outer.bytes == Budget().bytes - 7


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


@pytest.mark.parametrize("resource", [resource.name for resource in fields(Budget)])
def test_every_resource_has_a_unit_and_an_end(resource: str) -> None:
    assert budget._UNITS[resource]
    with pytest.raises(Refused, match=budget._UNITS[resource]):
        Budget().spend("it", **{resource: 2**62})
