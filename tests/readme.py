"""The parts of README.md that are generated: `python tests/readme.py` writes them anew."""

import re
from pathlib import Path

from click.testing import CliRunner

from convfc_cli.cli.main import cli

README = Path(__file__).parents[1] / "README.md"

BLOCK = re.compile(r"(<!-- help: (\w+) -->\n```\n).*?(```)", re.DOTALL)


def help_text(command: str) -> str:
    """What `convfc COMMAND --help` prints on 100 columns."""
    result = CliRunner().invoke(cli, [command, "--help"], prog_name="convfc", terminal_width=100)
    assert result.exit_code == 0, result.output
    return result.output


def generated(text: str) -> str:
    """The README with its help texts as they are now."""
    return BLOCK.sub(lambda found: found[1] + help_text(found[2]) + found[3], text)


if __name__ == "__main__":
    README.write_text(generated(README.read_text()))
