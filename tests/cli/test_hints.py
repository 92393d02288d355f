"""Errors in the words of the command line."""

import copy
import pickle

import pytest

from convfc_cli.cli.hints import describing, worded
from convfc_cli.errors import ConvfcError, Refused, UsageError
from convfc_cli.hints import Advice, Hint
from convfc_cli.models.request import Request, WeightsSpec


def test_an_error_without_hints_is_its_message() -> None:
    assert worded(UsageError("too many")) == "too many"


def test_hints_follow_the_message() -> None:
    form = Hint(Advice.FORM, ("operator", "no entries"))
    error = Refused("too large", Hint(Advice.LAYERS, (3,)), form)
    assert str(error) == "too large"
    assert worded(error) == "too large: -l @3 picks one; --form operator writes no entries"


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_keeps_its_hints(again) -> None:
    error: ConvfcError = again(UsageError("it exists", Hint(Advice.REPLACE)))
    assert worded(error) == "it exists: --force replaces it, -o names another place"


@pytest.mark.parametrize("sized", [False, True])
def test_a_description_as_options(sized: bool) -> None:
    spec = WeightsSpec("w", "iohw", bias="", transposed=True)
    options = ["--weight", "w", "--bias", "none", "--kernel-order", "iohw", "--transposed"]
    shape = [] if sized else ["--input-shape", "1,3,8,8"]
    assert describing(Request({None: (1, 3, 8, 8)}, spec), sized=sized) == options + shape
