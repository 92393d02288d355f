"""Results for people, on standard output: tables."""

import sys
from collections.abc import Iterable, Sequence

from convfc_cli.cli.terminal import console, escaped


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()
) -> None:
    """A table for people on standard output; columns named in `numbers` are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in header:
        right = title in numbers
        table.add_column(
            title, justify="right" if right else "left", overflow="fold", no_wrap=right
        )
    for row in rows:
        table.add_row(*(escaped(str(cell)) for cell in row))
    console(sys.stdout).print(table)


def shape(sizes: Sequence[int]) -> str:
    """A tensor's shape: 3x224x224."""
    return "x".join(map(str, sizes))
