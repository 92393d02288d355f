"""`convfc inspect`: what a model holds."""

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from convfc_cli.cli import options
from convfc_cli.cli.output import (
    console,
    is_terminal,
    print_json,
    print_rows,
    print_table,
    say,
    shape,
)

if TYPE_CHECKING:
    from convfc_cli.models.model import Entry

WIDE = ("@", "layer", "op", "input", "output", "kernel", "nonzeros", "csr", "status")
NARROW = ("@", "layer", "output", "nonzeros", "status")
"""Columns on a terminal, and on one of less than `WIDTH` characters."""

WIDTH = 100

PIPED = ("position", "layer", "op", "input", "output", "kernel", "nonzeros", "bytes", "status")

REASONS = 8
"""Reasons that are told on a terminal; a pipe and --json have them all."""

EPILOG = """\b
Examples:
  convfc inspect model.onnx
  convfc inspect model.onnx --input-shape x=1,3,224,224
  convfc inspect model.onnx | cut -f 2,7
  convfc inspect weights.h5               datasets that may be kernels, and what is missing
"""


@click.command(epilog=EPILOG, context_settings=options.CONTEXT)
@click.argument("model")
@options.input_shape
@options.bare
@options.common
def inspect(
    model: str, input_shapes: tuple[options.Shape, ...], as_json: bool, quiet: bool, **rest: Any
) -> None:
    """List the convolutions of MODEL: shapes, nonzeros, and the bytes of each matrix.

    A table on a terminal, tab-separated lines in a pipe. No weight is read.
    """
    from convfc_cli.errors import SizeMissing, UsageError, WeightsAlone
    from convfc_cli.models.registry import read
    from convfc_cli.planning import human

    found = read(model, options.shapes(input_shapes), options.described(rest))
    if not found.entries:
        raise UsageError(f"{found.name} has no convolution: there is nothing to list")
    listed = [_described(entry) for entry in found.entries]
    if as_json:
        head = {"model": found.name, "kind": found.kind, "sha256": found.sha256}
        print_json({**head, "layers": listed})
        return
    if is_terminal(sys.stdout):
        columns = WIDE if console(sys.stdout).width >= WIDTH else NARROW
        rows = ([_cell(item, column) for column in columns] for item in listed)
        print_table(columns, rows, numbers=("@", "nonzeros", "csr"))
        failed = [item for item in listed if item["status"] == "unsupported"]
        for item in failed[:REASONS]:
            say(f"@{item['position']} {item['layer']}: {item['reason']}", quiet=quiet)
        if failed[REASONS:]:
            say(f"and {len(failed) - REASONS} more: pipe it to see them all", quiet=quiet)
    else:
        print_rows(PIPED, ([_cell(item, column) for column in PIPED] for item in listed))
    ready = [item for item in listed if item["status"] == "ready"]
    nonzeros, size = (sum(item[key] for item in ready) for key in ("nonzeros", "bytes"))
    say(
        f"{len(ready)} of {len(listed)} layers ready: {nonzeros:,} nonzeros, {human(size)} as csr",
        quiet=quiet,
    )
    hints = [entry.error.hint for entry in found.entries if isinstance(entry.error, SizeMissing)]
    if hints:
        arguments = click.get_current_context().find_root().obj or ["inspect", model]
        command = shlex.join(["convfc", *arguments, "--input-shape", hints[0]])
        say(f"sizes are open; for instance: {command}", quiet=quiet)
    alone = [entry.error.hint for entry in found.entries if isinstance(entry.error, WeightsAlone)]
    if alone:
        command = f"{shlex.join(['convfc', 'convert', model])} {alone[0]}"
        say(
            f"weights alone: how they are used is yours to say, if so for instance by {command} "
            f"(and --stride, --pad, --dilation, --groups, --transposed)",
            quiet=quiet,
        )


def _described(entry: "Entry") -> dict[str, Any]:
    """All that is listed of a layer, as plain values."""
    import numpy as np

    from convfc_cli.matrices.matrix import Spec
    from convfc_cli.matrices.registry import by_form

    index_map, size = entry.index_map, None
    if index_map is not None:
        dtype = np.dtype(entry.matrix_dtype)
        size = by_form("csr").size(Spec(), index_map, dtype)
    return {
        "position": entry.position,
        "layer": entry.name,
        "output": entry.output,
        "op": entry.op,
        "status": entry.status,
        "reason": str(entry.error) if entry.error else None,
        "input_shape": index_map.input_shape if index_map else None,
        "output_shape": index_map.output_shape if index_map else None,
        "kernel_shape": index_map.kernel_shape if index_map else entry.stored,
        "groups": index_map.groups if index_map else None,
        "nonzeros": index_map.nnz if index_map else None,
        "bytes": size,
        "dtype": entry.dtype or None,
        "layout": entry.layout,
    }


def _cell(item: dict[str, Any], column: str) -> str:
    """What stands in a column, for people and in a pipe."""
    from convfc_cli.planning import human

    if column in ("input", "output", "kernel"):
        sizes = item[f"{column}_shape"]
        return shape(sizes) if sizes else ""
    if column == "@":
        return str(item["position"])
    if column == "csr":
        return human(item["bytes"]) if item["bytes"] else ""
    if column == "status" and item["reason"]:
        return (
            f"{item['status']}: {item['reason']}" if not is_terminal(sys.stdout) else item["status"]
        )
    value = item[column]
    if column == "nonzeros" and value is not None and is_terminal(sys.stdout):
        return f"{value:,}"
    return "" if value is None else str(value)
