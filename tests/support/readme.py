"""The parts of the pages that are generated: `python -m tests.support.readme` writes them anew."""

import re
from collections.abc import Iterable, Sequence

import click
from click.testing import CliRunner

from convfc_cli.cli.command import GROUPS
from convfc_cli.cli.main import cli
from convfc_cli.matrices import registry as matrices
from convfc_cli.models import registry as models
from tests.support.paths import ROOT

README = ROOT / "README.md"

PAGES = [
    README,
    *(ROOT / "convfc_cli" / name / "README.md" for name in ("cli", "matrices", "models", "proof")),
    ROOT / ".github" / "CONTRIBUTING.md",
]
"""What is written for people who use convfc or work on it."""

HELP = re.compile(r"(<!-- help: (\w+) -->\n```\n).*?(```)", re.DOTALL)

TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def help_text(command: str) -> str:
    """What `convfc COMMAND --help` prints on 100 columns."""
    result = CliRunner().invoke(cli, [command, "--help"], prog_name="convfc", terminal_width=100)
    assert result.exit_code == 0, result.output
    return result.output


def table(name: str) -> str:
    """The formats that are registered, or the options that commands have, as a table."""
    if name == "options":
        commands = [name for name in cli.commands if any(name in has for has in options().values())]
        return _rows(
            ("Option", *(f"`{command}`" for command in commands)),
            (
                (names, *("x" if command in has else "" for command in commands))
                for names, has in options().items()
            ),
        )
    if name == "models":
        return _rows(
            ("Kind", "What is read"),
            ((f"`{kind.name}`", kind.summary) for kind in models.formats().values()),
        )
    assert name == "matrices"
    return _rows(
        ("Kind", "Suffix", "Forms", "Layers in a file", "What it is"),
        (
            (
                f"`{kind.name}`",
                ", ".join(f"`{suffix}`" for suffix in kind.suffixes),
                ", ".join(f"`{form}`" for form in kind.forms),
                "all" if kind.multi_layer else "one",
                kind.summary,
            )
            for kind in matrices.formats().values()
        ),
    )


def options() -> dict[str, list[str]]:
    """The options, in the order of the help, and which commands have each."""
    order = [name for names in GROUPS.values() for name in names]
    places: dict[str, int] = {}
    has: dict[str, list[str]] = {}
    for command, found in cli.commands.items():
        for option in found.params:
            if isinstance(option, click.Option):
                names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
                places[names] = [*order, option.name].index(option.name)
                has.setdefault(names, []).append(command)
    return {names: has[names] for names in sorted(has, key=lambda names: places[names])}


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def generated(text: str) -> str:
    """A page with its help texts and tables as they are now."""
    text = HELP.sub(lambda found: found[1] + help_text(found[2]) + found[3], text)
    return TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(generated(page.read_text()))
