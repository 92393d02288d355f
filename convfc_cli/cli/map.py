"""`convfc map`: what feeds what, through which weight."""

import os
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convfc_cli.cli import options
from convfc_cli.cli.command import Command, option
from convfc_cli.cli.completion import layers
from convfc_cli.cli.data import print_json_stream, print_rows
from convfc_cli.cli.records import Row, head, of_entry
from convfc_cli.cli.tables import Column, print_table, say_hidden
from convfc_cli.cli.terminal import is_terminal, say
from convfc_cli.json_values import json_number

if TYPE_CHECKING:
    from convfc_cli.matrices.operator import MatrixOperator
    from convfc_cli.taps import Tap

PRIORITIES = {"row": 4, "column": 3, "output": 1, "input": 1, "kernel": 2, "weight": 0}
"""The columns, and in which order a narrow terminal drops them: the largest number first."""

HEADER = tuple(PRIORITIES)

ON_SCREEN = 40
"""Lines of a table on a terminal; a pipe gets them all."""

COUNTED = 100_000
"""Lines beyond them that are counted: a second."""

HELP = """\
Look up how inputs, outputs and weights of MATRIX are connected.

MATRIX is a matrix file, or a folder that `convert` wrote. Give one of the four options. A table on
a terminal, tab-separated lines in a pipe.
"""

EPILOG = """\b
Examples:
  convfc map conv1.npz --output-at 0,5,5     what output channel 0 at (5, 5) reads
  convfc map conv1.npz --input-at 0,0,0      what one input feeds
  convfc map conv1.npz --kernel-at 0,0,1,1   where one kernel element stands
  convfc map conv1.npz --entry-at 33,4       what one matrix entry is
  convfc map model.onnx.fc -l conv1 --output-at 0,5,5
"""


@click.command("map", cls=Command, help=HELP, epilog=EPILOG, context_settings=options.CONTEXT)
@click.argument("matrix", type=options.PATH)
@option(
    "-l",
    "--layer",
    metavar="NAME",
    shell_complete=layers,
    help="Which layer's, where MATRIX holds several.",
)
@option("--output-at", type=options.INDEX, metavar="C,Y,X", help="One output element.")
@option("--input-at", type=options.INDEX, metavar="C,Y,X", help="One input element.")
@option(
    "--kernel-at",
    type=options.INDEX,
    metavar="O,I,A,B",
    help="One kernel element (out, in/groups, *spatial; a transposed layer's as its file has it).",
)
@option("--entry-at", type=options.INDEX, metavar="ROW,COLUMN", help="One matrix entry.")
@options.common
def map_(
    matrix: str,
    layer: str | None,
    output_at: tuple[int, ...] | None,
    input_at: tuple[int, ...] | None,
    kernel_at: tuple[int, ...] | None,
    entry_at: tuple[int, ...] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run `convfc map`; `HELP` says what it does."""
    from convfc_cli.errors import UsageError
    from convfc_cli.files import STDIN
    from convfc_cli.jobs.statements import find
    from convfc_cli.matrices.operator import load

    if sum(given is not None for given in (output_at, input_at, kernel_at, entry_at)) != 1:
        raise UsageError(
            "say what to look up: one of --output-at, --input-at, --kernel-at, --entry-at"
        )
    if os.path.isdir(matrix):
        matrix, layer = find(Path(matrix), layer), None
    operator = load(matrix, layer)
    linear = operator.layer
    try:
        if entry_at is not None:
            taps = _of_entry(operator, entry_at)
        elif output_at is not None:
            taps = linear.of_output(output_at)
        elif input_at is not None:
            taps = linear.of_input(input_at)
        else:
            taps = linear.of_weight(kernel_at or ())
        rows = _rows(operator, taps)
        first = list(islice(rows, ON_SCREEN + 1))
    except IndexError as error:
        raise UsageError(f"{matrix}: {error}") from error
    if as_json:
        bias = None if output_at is None else json_number(linear.bias_tensor()[output_at].item())
        where = {"file": STDIN if matrix == "-" else matrix, "layer": operator.origin.layer}
        begin = {**head("map"), **where, "bias": bias}
        print_json_stream(begin, "entries", map(of_entry, chain(first, rows)))
        return
    if not is_terminal(sys.stdout):
        print_rows(HEADER, map(_plain, chain(first, rows)))
        return
    asked = {"output": output_at, "input": input_at, "kernel": kernel_at}
    columns = [
        Column(title, 5 if asked.get(title) else priority, is_number=title not in asked)
        for title, priority in PRIORITIES.items()
    ]
    hidden = print_table(columns, map(_plain, first[:ON_SCREEN]))
    say_hidden(hidden, quiet=quiet)
    if len(first) > ON_SCREEN:
        more = 1 + sum(1 for _ in islice(rows, COUNTED))
        least = "at least " if more > COUNTED else ""
        say(f"and {least}{more:,} more: pipe it to see them all", quiet=quiet)
    if output_at is not None:
        say(
            f"bias of output {output_at}: {linear.bias_tensor()[output_at]!s}",
            quiet=quiet,
        )
    if not first:
        say("no entries: this position touches only padding or cropped values", quiet=quiet)


def _of_entry(operator: "MatrixOperator", entry: tuple[int, ...]) -> "Iterator[tuple[Tap, Any]]":
    from convfc_cli.errors import UsageError

    if len(entry) != 2:
        raise UsageError("--entry-at takes two numbers, ROW,COLUMN")
    return iter([operator.tap(*entry)])


def _rows(operator: "MatrixOperator", taps: "Iterator[tuple[Tap, Any]]") -> Iterator[Row]:
    for tap, weight in taps:
        row, column = operator.place(tap.output, tap.input)
        if weight is None:
            yield row, column, tap.output, tap.input, None, 0.0
        else:
            yield row, column, tap.output, tap.input, tap.kernel, weight.item()


def _plain(row: Row) -> tuple[object, ...]:
    output, source, kernel = (",".join(map(str, index or ())) for index in row[2:5])
    what = kernel or ("structural zero" if row[4] is None else "a sum")
    return row[0], row[1], output, source, what, f"{row[5]:.9g}"
