"""One child for a test of many damaged files, each of which has a child of its own otherwise."""

import functools
from collections.abc import Callable
from typing import Any

from convfc_cli import contained

LIMITS = contained.Limits(seconds=600)


def in_one_child(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a child, where files are read in place: a crash fails the test.

    A fork copies the page tables of the whole suite, which takes longer than reading a file.
    """

    @functools.wraps(test)
    def wrapped(*given: Any, **named: Any) -> None:
        contained.run(lambda: test(*given, **named), test.__name__, LIMITS)

    return wrapped
