"""What `inspect` lists of matrix files: what they say of themselves, which nobody has proven."""

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from convfc_cli.cli.data import print_json, print_rows
from convfc_cli.cli.hints import worded
from convfc_cli.cli.records import Record, head, of_error, of_unproven
from convfc_cli.cli.tables import Column, print_table, say_hidden, shape
from convfc_cli.cli.terminal import is_terminal, say
from convfc_cli.errors import ConvfcError, gravest

if TYPE_CHECKING:
    from convfc_cli.jobs.statements import Unproven

COLUMNS = (
    Column("file", shrinks=True),
    Column("layer", 3, shrinks=True),
    Column("form", 4),
    Column("layout", 5),
    Column("shape", 1),
    Column("nonzeros", 2, is_number=True),
    Column("size", is_number=True),
    Column("model", 6, shrinks=True),
    Column("digest", 7),
)
"""Columns on a terminal."""

PIPED = (
    *("file", "layer", "form", "layout", "transpose", "shape", "nonzeros", "bytes", "model"),
    *("digest", "verdict"),
)

SHORT = 12
"""Characters of a digest on a terminal; a pipe and --json have all."""


def list_matrices(
    place: str, found: "Iterable[Unproven | ConvfcError]", *, as_json: bool, quiet: bool
) -> int:
    """List the matrices of a file or a folder; returns the exit code."""
    listed: list[Record] = []
    errors: list[ConvfcError] = []
    for one in found:
        if isinstance(one, ConvfcError):
            errors.append(one)
            say(f"convfc: error: {worded(one)}")
        else:
            listed.append(of_unproven(one))
    if as_json:
        what = {"model": None, "matrices": listed, "errors": list(map(of_error, errors))}
        print_json({**head("inspect"), **what})
    elif is_terminal(sys.stdout):
        rows = ([_shown(record, column.title) for column in COLUMNS] for record in listed)
        say_hidden(print_table(COLUMNS, rows), quiet=quiet)
    else:
        print_rows(PIPED, ([_cell(record, column) for column in PIPED] for record in listed))
    if not as_json:
        _summarize(place, listed, quiet=quiet)
    return gravest([error.exit_code for error in errors])


def _summarize(place: str, listed: list[Record], *, quiet: bool) -> None:
    from convfc_cli.files import human
    from convfc_cli.naming import shell_command

    many = "1 matrix" if len(listed) == 1 else f"{len(listed)} matrices"
    size = human(sum(record["bytes"] for record in listed))
    say(f"{many}, {size}; not verified: {shell_command(['convfc', 'verify', place])}", quiet=quiet)


def _cell(record: Record, column: str) -> str:
    """What stands in a column of a pipe."""
    if column == "file":
        return f"{record['file']}{_group(record)}"
    if column == "model":
        return str(record["model"]["file"] or "")
    value = record[column]
    return shape(value) if column == "shape" else str(value)


def _group(record: Record) -> str:
    """Where in its file a matrix is, if that holds several."""
    return f"/{record['group']}" if record["group"] else ""


def _shown(record: Record, column: str) -> str:
    """What stands in a column on a terminal."""
    from convfc_cli.files import human

    if column == "file":
        return f"{os.path.basename(record['file'])}{_group(record)}"
    if column == "size":
        return human(record["bytes"])
    if column == "nonzeros":
        return f"{record['nonzeros']:,}"
    if column == "digest":
        return str(record["digest"][:SHORT])
    turned = ", transposed" if column == "layout" and record["transpose"] else ""
    return f"{_cell(record, column)}{turned}"
