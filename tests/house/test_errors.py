"""Every error is documented, with its exit code, and every option says what it does."""

import inspect
import re

from convfc_cli import errors
from convfc_cli.cli.main import cli
from tests.house.test_walls import imports
from tests.support.cli_models import run


def error_classes() -> list[type[errors.ConvfcError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    ]


def test_every_error_has_a_documented_code() -> None:
    help_ = run("--help").succeeded().out
    codes = help_[help_.index("Exit codes:") :]
    documented = set(map(int, re.findall(r"(?<!\S)(\d+)(?=\s{2,}\S)", codes)))
    assert {0, 1, 2, 3, 4, 5, 6, 70, 130, 141} <= documented
    found = {kind.exit_code for kind in error_classes()}
    assert found <= documented
    assert found == {1, 2, 3, 4, 5, 6, 70}


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    drawn = errors.__doc__
    for kind in error_classes():
        assert issubclass(kind, errors.ConvfcError)
        assert kind.__doc__
        (line,) = [text for text in drawn.splitlines() if re.search(rf"\b{kind.__name__}\b", text)]
        code = re.search(r"\((\d+)\)", line)
        if code:
            assert int(code[1]) == kind.exit_code
        depth = len(kind.__mro__) - len(errors.ConvfcError.__mro__)
        assert line.index(kind.__name__) == 4 * depth
    assert imports("convfc_cli.errors") == {"convfc_cli.hints"}


def test_every_option_says_what_it_does() -> None:
    for command in cli.commands.values():
        assert command.help
        assert command.epilog
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"
