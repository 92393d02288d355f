"""What terminals of several widths show: `python -m tests.support.screens` writes it anew."""

import re
import tempfile
from pathlib import Path

import pyte

from tests.support.cli_models import terminal
from tests.support.paths import ROOT, SAMPLES

SCREENS = ROOT / "tests" / "data" / "screens.md"

WIDTHS = (120, 80, 60, 40)

COMMANDS = (
    ("inspect", "lenet.onnx"),
    ("inspect", "mixed.onnx"),
    ("inspect", "linear.onnx", "--chains"),
    ("convert", "lenet.onnx", "-l", "@0", "-o", "one.npz"),
    ("convert", "digits.onnx"),
    ("inspect", "digits.onnx.fc"),
    ("verify",),
    ("map", "one.npz", "--output-at", "0,0,0"),
)
"""In this order in one folder: what one writes, another reads."""

HEAD = """# What terminals show

Written by `python -m tests.support.screens`, and what `tests/cli/test_screens.py` expects.
The version of the runtime is left out.
"""


def shown(*arguments: str, columns: int, cwd: Path) -> str:
    """What a terminal of so many columns shows in the end, both streams on it: letters alone."""
    code, text, _ = terminal(*arguments, cwd=cwd, columns=columns, streams=("stdout", "stderr"))
    assert code == 0, text
    text = re.sub(r"(onnxruntime|onnx\.reference) [0-9.]+[0-9]", "onnxruntime", text)
    return screen(text, columns)


def screen(text: str, columns: int) -> str:
    """What a terminal shows in the end of all that it got."""
    terminal_screen = pyte.Screen(columns, 200)
    pyte.Stream(terminal_screen).feed(text.replace("\n", "\r\n"))
    return "\n".join(line.rstrip() for line in terminal_screen.display).strip("\n")


def screens(columns: int, cwd: Path) -> dict[str, str]:
    """What each command shows on a terminal of so many columns, by its words."""
    for name in ("lenet.onnx", "mixed.onnx", "linear.onnx", "digits.onnx"):
        (cwd / name).symlink_to(SAMPLES / name)
    return {
        f"convfc {' '.join(words)}": shown(*words, columns=columns, cwd=cwd) for words in COMMANDS
    }


def page() -> str:
    """All of them."""
    parts = [HEAD]
    for columns in WIDTHS:
        parts.append(f"## {columns} columns\n")
        with tempfile.TemporaryDirectory() as folder:
            for command, text in screens(columns, Path(folder)).items():
                parts.append(f"```\n$ {command}\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    SCREENS.write_text(page())
