"""Values of JSON: untrusted ones, each of exactly the type that it should have; and numbers."""

from math import isfinite
from typing import Any, TypeVar

from convfc_cli.errors import GeometryError

T = TypeVar("T")

_NAMES = {int: "an integer", bool: "true or false", str: "a text", dict: "an object"}
_NAMES[list] = "a list"

MAX_RANK = 32
"""Axes of a tensor."""


def exactly(kind: type[T], value: object) -> T:
    """The value, which must be of exactly this type: True is not a number. Raises `ValueError`."""
    if type(value) is not kind:
        raise ValueError(f"{str(value)[:80]!r} where {_NAMES[kind]} belongs")
    return value


def sizes(value: object) -> tuple[int, ...]:
    """A shape: a list of integers from 1 on.

    >>> sizes([3, 224, 224])
    (3, 224, 224)
    """
    shape = tuple(exactly(int, size) for size in exactly(list, value))
    if len(shape) > MAX_RANK or min(shape, default=1) < 1:
        raise GeometryError(f"{str(list(shape))[:80]} is not a shape")
    return shape


def member(content: dict[str, Any], name: str, kind: type[T]) -> T:
    """A member of an object. Raises `KeyError`, `ValueError`."""
    return exactly(kind, content[name])


def json_number(number: float) -> float | str:
    """A number as JSON has it, which has none for nan and the infinities.

    >>> json_number(0.5), json_number(float("inf"))
    (0.5, 'inf')
    """
    return number if isfinite(number) else str(number)
