"""Messages, help, docstrings and pages are in the field's plain English."""

import re

import pytest

from tests.house.test_house import MODULES, path_of
from tests.support.readme import PAGES

TRANSLATED = re.compile(
    r"(?<![Tt]here )\b(is|are) no (?!longer|larger|more|less)\w|asked for\b|\b(is|are) none of\b|"
    r"what there is not|\btold by\b|stranger"
)
"""English that reads as translated: say "is not a valid X", "expected X", "must be one of"."""


@pytest.mark.parametrize("module", MODULES)
def test_messages_help_and_docstrings_are_in_plain_english(module: str) -> None:
    lines = path_of(module).read_text().splitlines()
    assert not [line for line in lines if TRANSLATED.search(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_pages_are_in_plain_english(page) -> None:
    assert not [line for line in page.read_text().splitlines() if TRANSLATED.search(line)]
