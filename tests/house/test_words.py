"""Messages, help, docstrings and pages are in the field's plain English."""

import ast
import re

import pytest

from convfc_cli.cli.hints import WORDS
from convfc_cli.hints import Advice
from tests.house.test_walls import MODULES, path_of
from tests.support.readme import PAGES

TRANSLATED = re.compile(
    r"(?<![Tt]here )\b(is|are) no (?!longer|larger|more|less)\w|asked for\b|\b(is|are) none of\b|"
    r"what there is not|\btold\b(?! (apart|beforehand|from|not to))|stranger|\bwhole numbers?\b|"
    r"\bone by one\b"
)
"""English that reads as translated: say "is not a valid X", "expected X", "must be one of"."""


@pytest.mark.parametrize("module", MODULES)
def test_messages_help_and_docstrings_are_in_plain_english(module: str) -> None:
    lines = path_of(module).read_text().splitlines()
    assert not [line for line in lines if TRANSLATED.search(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_pages_are_in_plain_english(page) -> None:
    assert not [line for line in page.read_text().splitlines() if TRANSLATED.search(line)]


OPTION = re.compile(r"(?<![\w-])--[a-z]|(?<![\w-])-[olq](?![\w-])")

STORED = {"--layout channels-last fits the Dense layer behind it"}
"""Notes that matrix files have in their metadata: to change them would change the files."""


def literals(tree: ast.Module) -> list[str]:
    """The strings of a module that are not docstrings, nor the like of attributes."""
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    ]


@pytest.mark.parametrize(
    "module", [name for name in MODULES if not name.startswith("convfc_cli.cli")]
)
def test_only_the_command_knows_its_options(module: str) -> None:
    found = [
        text for text in literals(ast.parse(path_of(module).read_text())) if OPTION.search(text)
    ]
    assert set(found) <= STORED


def test_options_are_recognized() -> None:
    for text in ("with --force", "-o names another place", "name it, -l", "(--model)"):
        assert OPTION.search(text), text
    for text in ("two--three", "2**-32", "0-o", "--- a ---", "x -over y"):
        assert not OPTION.search(text), text
    assert literals(ast.parse("'doc'\nx = 'a'\n'of x'\ny = f'b{x}'")) == ["a", "b"]


def test_every_advice_has_words() -> None:
    assert set(WORDS) == set(Advice)
