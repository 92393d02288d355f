"""Completion in a shell: of commands, options and files, and of the layers of a model.

A shell asks by a variable of the environment (`VARIABLE`); click's scripts set it. What is offered
comes from untrusted files and is typed into a command line: only plain names are.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convfc_cli.cli import options
from convfc_cli.cli.command import Command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "convfc"

VARIABLE = "_CONVFC_COMPLETE"

SHELLS = ("bash", "zsh", "fish")

PLAIN = re.compile(r"[\w./@%+,][\w./@%+,-]*", re.ASCII)
"""A name that no shell splits, expands or runs; bash ends words at : and = too."""

HELP = """\
Print what lets SHELL complete commands, options, files and layers.

The names of layers are those of the model, or of the matrix file, that is already on the command
line; -l takes @3, the position, for a name that would have to be quoted.
"""

EPILOG = """\b
Examples:
  convfc completion bash > ~/.local/share/bash-completion/completions/convfc
  convfc completion zsh > ~/.zfunc/_convfc      a folder of fpath, before compinit
  convfc completion fish > ~/.config/fish/completions/convfc.fish
"""


@click.command(cls=Command, help=HELP, epilog=EPILOG, context_settings=options.CONTEXT)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Run `convfc completion`; `HELP` says what it does."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # one of `SHELLS`, which click has
    click.echo(kind(click.Group(), {}, PROGRAM, VARIABLE).source())


def answered(cli: click.Command) -> bool:
    """Answer a shell that asks how a line goes on. Returns False where none does."""
    question = os.environ.pop(VARIABLE, None)
    if question is None:
        return False
    from click.shell_completion import shell_complete

    with suppress(Exception):  # an unfinished line may be anything
        shell_complete(cli, {}, PROGRAM, VARIABLE, question)
    return True


def layers(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """The layers of the file that is on the command line, by name or by position."""
    from click.shell_completion import CompletionItem

    names: list[tuple[str, int]] = []
    with suppress(Exception):  # a file that is not there or cannot be read has none
        (argument,) = (each for each in ctx.command.params if isinstance(each, click.Argument))
        # Where the option still lacks its value, click leaves arguments unread.
        path = ctx.params[argument.name or ""] or ctx.args[0]
        names = _of_model(path) if argument.name == "model" else _of_matrix(path)
    typed = (
        (name if PLAIN.fullmatch(name) and incomplete[:1] != "@" else f"@{place}", name, place)
        for name, place in names
    )
    return [
        CompletionItem(text, help=name if text[:1] == "@" else f"@{place}")
        for text, name, place in typed
        if text.startswith(incomplete)
    ]


def _of_model(path: str) -> list[tuple[str, int]]:
    from convfc_cli import budget
    from convfc_cli.models.registry import read

    with budget.command():
        model = read(path)
        return [(entry.name, entry.position) for entry in model.entries or model.others]


def _of_matrix(path: str) -> list[tuple[str, int]]:
    from convfc_cli import budget
    from convfc_cli.jobs.statements import Unproven, look, look_into
    from convfc_cli.models.model import Model
    from convfc_cli.models.request import Request

    with budget.command():
        found = look_into(Path(path)) if os.path.isdir(path) else look(path, Request())
        if isinstance(found, Model):
            return []
        origins = [one.statement.origin for one in found if isinstance(one, Unproven)]
        return [(origin.layer, origin.position) for origin in origins]
