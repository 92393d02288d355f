"""Options: one meaning in all commands, given once, and listed by what they are about."""

import re
from pathlib import Path

import click
import pytest

from convfc_cli.cli.command import GROUPS
from convfc_cli.cli.main import cli
from tests.support.cli_models import listing, net, process, run
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("folder")

COMMANDS = sorted(cli.commands)


@pytest.mark.parametrize(
    ("twice", "named"),
    [
        (["--form", "csr", "--form", "dense"], "--form"),
        (["--form", "csr", "--form=csr"], "--form"),
        (["-o", "a.npz", "--output", "b.npz"], "--output"),
        (["--flip-kernel", "--no-flip-kernel"], "--flip-kernel"),
        (["--force", "--force"], "--force"),
        (["-q", "--quiet"], "--quiet"),
        (["--max-bytes", "1GB", "--max-bytes", "2GB"], "--max-bytes"),
    ],
)
def test_an_option_that_is_not_repeatable_is_given_once(
    model: Path, folder: Path, twice: list[str], named: str
) -> None:
    before = listing(folder)
    assert f"{named} is given 2 times" in run("convert", model, *twice).failed(2)
    assert listing(folder) == before


def test_a_repeatable_option_is_given_twice(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a", "b", "c"))
    done = run("convert", path, "-l", "a", "--layer", "c", "--no-verify").succeeded()
    assert [Path(line).name for line in done.lines] == ["000-a.npz", "002-c.npz"]


def test_every_option_has_its_group(folder: Path) -> None:
    """By the table, or among the few of the output."""
    names = {name for names in GROUPS.values() for name in names}
    for command in cli.commands.values():
        for param in command.params:
            if isinstance(param, click.Option):
                others = ("as_json", "print0", "quiet", "verbose", "debug")
                assert (param.name in names) != (param.name in others), param.name


def test_an_option_means_the_same_in_every_command() -> None:
    """Its names, its values and its help; `map` alone takes one layer."""
    meanings: dict[str, set[object]] = {}
    for name in COMMANDS:
        for param in cli.commands[name].params:
            if isinstance(param, click.Option) and (name, param.name) != ("map", "layer"):
                names = (*param.opts, *param.secondary_opts)
                meaning = (names, type(param.type), param.metavar, param.help, param.multiple)
                for each in names:
                    meanings.setdefault(each, set()).add(meaning)
    assert {name: means for name, means in meanings.items() if len(means) > 1} == {}


def test_a_name_that_is_kept_has_no_option() -> None:
    page = (ROOT / "convfc_cli" / "cli" / "README.md").read_text()
    (kept,) = re.findall(r"These names are kept for what is to come: (.*?)\.\n", page, re.DOTALL)
    names = set(re.findall("`(--[a-z-]+)`", kept))
    assert len(names) == 8
    taken = {name for command in cli.commands.values() for p in command.params for name in p.opts}
    assert names & taken == set()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_without_docstrings(folder: Path, command: list[str]) -> None:
    """`python -OO` drops them."""
    done = process(*command, "--help", cwd=folder, env={"PYTHONOPTIMIZE": "2"}).succeeded()
    assert done.out == run(*command, "--help").succeeded().out


@pytest.mark.parametrize(
    ("given", "meant"), [(["convrt"], "'convert'"), (["convert", "--dtyp", "x"], "'--dtype'")]
)
def test_a_name_that_is_nearly_right(given: list[str], meant: str) -> None:
    assert f"Did you mean {meant}?" in run(*given).failed(2)
