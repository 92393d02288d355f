"""Results for people, on standard output: tables that fit the terminal."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from convfc_cli.cli.terminal import console, escaped, printable, say

LEAST = 12
"""Characters to which a long column of single lines may shrink."""

READABLE = 28
"""Characters of a long cell that are worth more than a further column."""

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    priority: int = 0
    """Where room is short the columns of the largest number are left out first, of 0 never."""

    is_number: bool = False
    """Aligned right."""

    shrinks: bool = False
    """Whether long cells take several lines, or in single lines keep only their ends."""


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> list[str]:
    """Print a table without its empty columns; returns the titles of those for which the terminal
    is too narrow.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    screen = console(sys.stdout)
    cells = [[str(cell) for cell in row] for row in rows]
    used = [place for place in range(len(columns)) if any(row[place] for row in cells)]
    least = {}
    for place in used:
        texts = [columns[place].title] + [row[place] for row in cells]
        least[columns[place]] = _least(columns[place], texts, READABLE)
    hidden = _left_out(least, screen.width - 2, gap=3)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    shown = [place for place in used if columns[place] not in hidden]
    for column in (columns[place] for place in shown):
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=not column.shrinks,
        )
    for row in cells:
        table.add_row(*(escaped(row[place]) for place in shown))
    screen.print(table)
    return [column.title for column in columns if column in hidden]


def say_hidden(titles: Sequence[str], *, quiet: bool) -> None:
    """Say which columns a table left out, and how to see them."""
    if titles:
        say(f"no room here for: {', '.join(titles)} (a pipe has all, | less -S)", quiet=quiet)


class Lines:
    """The rows of a table without a head, that are printed as they come.

    Parameters
    ----------
    columns : sequence of Column
        The columns.
    widest : sequence of sequence of str
        Rows with the widest cells that each column will have.
    width : int
        Characters of a line.
    """

    def __init__(
        self, columns: Sequence[Column], widest: Sequence[Sequence[str]], width: int
    ) -> None:
        cells = {column: [row[place] for row in widest] for place, column in enumerate(columns)}
        wanted = {column: _least(column, texts, READABLE) for column, texts in cells.items()}
        least = {column: _least(column, texts, LEAST) for column, texts in cells.items()}
        hidden = _left_out(wanted, width, gap=2)
        spare = width - sum(size + 2 for column, size in least.items() if column not in hidden) + 2
        self._columns = []
        for place, column in enumerate(columns):
            if column not in hidden:
                size = max(map(_length, cells[column]))
                if column.shrinks:
                    size = min(size, least[column] + max(0, spare))
                    spare -= size - least[column]
                self._columns.append((place, column, size))

    def line(self, row: Sequence[str]) -> str:
        """One row."""
        cells = []
        for place, column, size in self._columns:
            text = printable(row[place])
            if column.shrinks and _length(text) > size:
                text = _ending(text, size)
            room = " " * (size - _length(text))
            cells.append(room + text if column.is_number else text + room)
        return "  ".join(cells).rstrip()


def _least(column: Column, cells: Sequence[str], most: int) -> int:
    """The fewest characters that a column with these cells takes: `most` where it shrinks."""
    longest = max(map(_length, cells), default=0)
    return min(longest, max(most, _length(column.title))) if column.shrinks else longest


def _left_out(least: dict[Column, int], width: int, gap: int) -> set[Column]:
    """The columns that do not fit into a line beside those of smaller priority numbers, of each the
    fewest characters that it takes.
    """
    room = width + gap
    hidden: set[Column] = set()
    for column in sorted(least, key=lambda column: column.priority):
        room -= least[column] + gap
        if column.priority and (hidden or room < 0):
            hidden.add(column)
    return hidden


def _ending(text: str, size: int) -> str:
    """The end of a text that is too long."""
    start = next(i for i in range(len(text) + 1) if _length(text[i:]) < size or i == len(text))
    return ELLIPSIS + text[start:]


def _length(text: str) -> int:
    """How many characters wide a text is on a terminal."""
    from rich.cells import cell_len

    return cell_len(text)


def shape(sizes: Sequence[int]) -> str:
    """A tensor's shape: 3x224x224."""
    return "x".join(map(str, sizes))
