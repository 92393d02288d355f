"""Docstrings: every public thing has one, examples run, and what users call has NumPy sections."""

import ast
import doctest
import inspect
from functools import cached_property
from importlib import import_module
from typing import Any

import pytest
from numpydoc.validate import validate

import convfc_cli as convfc
from tests.house.test_walls import MODULES, path_of

ARITHMETIC = ("geometry", "direct")
"""Modules whose functions are documented as those that users call."""

KINDS = tuple(
    f"layers.{name}" for name in ("convolution", "dense", "diagonal", "gather", "locally_connected")
)

REQUIRED = {
    "GL03": "no more than one blank line between sections",
    "GL06": "sections that numpydoc knows",
    "GL07": "sections in numpydoc's order",
    "GL08": "a docstring",
    "SS01": "a summary",
    "SS03": "a summary that ends with a period",
    "SS06": "a summary of one line",
    "PR01": "every parameter",
    "PR02": "no other parameter",
    "PR03": "parameters in their order",
    "PR04": "each with its type",
    "PR07": "each with a description",
    "PR10": "a space before a type",
    "RT01": "what is returned",
    "RT03": "with a description",
    "EX01": "an example",
}

OF_CLASSES = REQUIRED.keys() - {"PR01", "RT01"}
"""Fields of a class are documented where they are declared."""


METHODS = (staticmethod, classmethod, property, cached_property)


def is_default(value: Any) -> bool:
    """Whether it is a lambda: the default of a field, not a method."""
    return getattr(value, "__name__", "") == "<lambda>"


def public(module: str) -> list[tuple[str, Any]]:
    """The public functions and classes that a module defines, and the methods of these classes."""
    things: list[tuple[str, Any]] = []
    for name, thing in vars(import_module(module)).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module:
            continue
        if inspect.isfunction(thing):
            things.append((name, thing))
        elif inspect.isclass(thing):
            things.append((name, thing))
            for inner, value in vars(thing).items():
                method = inspect.isfunction(value) or isinstance(value, METHODS)
                if method and not inner.startswith("_") and not is_default(value):
                    things.append((f"{name}.{inner}", getattr(thing, inner)))
    return things


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(path_of(module).read_text()))


@pytest.mark.parametrize("module", [name for name in MODULES if name != "convfc_cli.__main__"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = {
        name: sum(len(test.examples) for test in finder.find(import_module(f"convfc_cli.{name}")))
        for name in (
            "geometry",
            "taps",
            "direct",
            "toeplitz",
            "layout",
            "outline",
            "json_values",
            *KINDS,
        )
    }
    assert min(counts.values()) >= 1, counts


@pytest.mark.parametrize("module", [name for name in MODULES if name != "convfc_cli.__main__"])
def test_every_public_thing_has_a_docstring_or_inherits_one(module: str) -> None:
    classes = {
        node.name: ast.get_docstring(node)  # inspect would take what dataclass writes for one
        for node in ast.parse(path_of(module).read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    for name, thing in public(module):
        assert classes[name] if name in classes else inspect.getdoc(thing), name


def documented() -> list[str]:
    """The paths of all that users call, and of the functions of the arithmetic."""
    names = [getattr(convfc, name) for name in convfc.__all__ if name != "__version__"]
    for module in ARITHMETIC:
        names += [thing for name, thing in public(f"convfc_cli.{module}") if "." not in name]
    return sorted({f"{thing.__module__}.{thing.__qualname__}" for thing in names})


@pytest.mark.parametrize("path", documented())
def test_what_users_call_has_numpy_sections(path: str) -> None:
    found = validate(path)
    required = REQUIRED.keys() if found["type"] == "function" else OF_CLASSES
    assert not [error for error in found["errors"] if error[0] in required]
