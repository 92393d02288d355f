"""`convfc inspect`: what a model holds."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convfc_cli.cli import options
from convfc_cli.cli.command import Command, option
from convfc_cli.cli.data import print_json, print_rows
from convfc_cli.cli.hints import describing, with_size
from convfc_cli.cli.records import Record, head, of_error, of_model, of_outline
from convfc_cli.cli.tables import Column, print_table, say_hidden, shape
from convfc_cli.cli.terminal import is_terminal, say
from convfc_cli.cli.unproven import list_matrices

if TYPE_CHECKING:
    from convfc_cli.models.entry import Entry
    from convfc_cli.models.model import Model
    from convfc_cli.models.request import Request

COLUMNS = (
    Column("@", is_number=True),
    Column("layer", shrinks=True),
    Column("weight", 8),
    Column("op", 6),
    Column("input", 4),
    Column("output", 3),
    Column("kernel", 5),
    Column("nonzeros", 2, is_number=True),
    Column("size", is_number=True),
    Column("status", 7),
)
"""Columns of the layers on a terminal."""

NOT_READY = Column("status", 1, shrinks=True)
"""The status where layers differ in it."""

PIPED = (
    *("position", "layer", "op", "input", "output", "kernel", "nonzeros", "bytes", "status"),
    "weight",
)

CHAINS = (
    Column("chain", shrinks=True),
    Column("operators", 4, shrinks=True),
    Column("input", 5),
    Column("output", 3),
    Column("nonzeros", 2, is_number=True),
    Column("size", is_number=True),
    Column("status", 1, shrinks=True),
)
"""Columns of the chains on a terminal."""

PIPED_CHAINS = ("chain", "operators", "input", "output", "nonzeros", "bytes", "status")

REASONS = 8
"""Reasons that a terminal shows; a pipe and --json have them all."""

HELP = """\
List the convolutions of MODEL: shapes, nonzeros, and the bytes of each matrix.

A table on a terminal, tab-separated lines in a pipe. No weight of a convolution is read; --json
has the digest of the file, for which all of it is. Where MODEL has no convolution its other
linear layers are listed.

MODEL may also be a matrix file, or a folder that `convert` wrote: each matrix is listed as its
metadata describe it, and nothing of it is verified.
"""

EPILOG = """\b
Examples:
  convfc inspect model.onnx
  convfc inspect model.onnx --input-shape x=1,3,224,224
  convfc inspect model.onnx | cut -f 2,7
  convfc inspect model.onnx --include linear    also pooling, batch normalization, dense layers
  convfc inspect model.onnx --chains            what --compose can make one matrix of
  convfc inspect model.onnx.fc                  what convert wrote, without proving it
  convfc inspect weights.h5               datasets that may be kernels, and what is missing
"""


@click.command(cls=Command, help=HELP, epilog=EPILOG, context_settings=options.CONTEXT)
@click.argument("model", type=options.PATH)
@options.include
@option(
    "--chains",
    is_flag=True,
    help="List the chains of linear layers: what each would cost at most as the one matrix that "
    "`convert --compose` makes of it (products fill in), or why it is refused.",
)
@options.request
@options.common
@click.pass_context
def inspect(
    ctx: click.Context,
    /,
    model: str,
    include: tuple[str, ...],
    chains: bool,
    request: "Request",
    as_json: bool,
    quiet: bool,
) -> None:
    """Run `convfc inspect`; `HELP` says what it does."""
    from convfc_cli.errors import SizeMissing, UsageError, WeightsAlone
    from convfc_cli.files import human
    from convfc_cli.jobs.statements import look, look_into
    from convfc_cli.models.model import Model
    from convfc_cli.naming import first_few, shell_command

    opened = look_into(Path(model)) if os.path.isdir(model) else look(model, request)
    if not isinstance(opened, Model):
        if include or chains or request.shapes or request.weights:
            raise UsageError(
                f"{model} holds matrices: --include, --chains, --input-shape and --weight are of a "
                f"model"
            )
        ctx.exit(list_matrices(model, opened, as_json=as_json, quiet=quiet))
    entries = opened.select([], include) or opened.others
    if not entries:
        operators = opened.graph.operators() if opened.graph else ()
        holds = f" (it holds {first_few(operators)})" if operators else ""
        raise UsageError(
            f"{opened.name} has no convolution and no other linear layer{holds}: there is nothing "
            f"to list"
        )
    if chains:
        _list_chains(opened, as_json=as_json, quiet=quiet)
        return
    listed = [_described(opened, entry) for entry in entries]
    if as_json:
        print_json({**head("inspect"), "model": of_model(opened), "layers": listed})
        return
    if is_terminal(sys.stdout):
        alike = all(item["status"] == "ready" for item in listed)
        columns = COLUMNS if alike else (*COLUMNS[:-1], NOT_READY)
        rows = ([_cell(item, column.title, True) for column in columns] for item in listed)
        say_hidden(print_table(columns, rows), quiet=quiet)
        failed = [item for item in listed if item["status"] == "unsupported"]
        _say_reasons(
            [f"@{item['position']} {item['layer']}: {_reason(item)}" for item in failed], quiet
        )
    else:
        print_rows(PIPED, ([_cell(item, column, False) for column in PIPED] for item in listed))
    ready = [item for item in listed if item["status"] == "ready"]
    nonzeros, size = (sum(item[key] for item in ready) for key in ("nonzeros", "bytes"))
    sums = f": {nonzeros:,} nonzeros, at most {human(size)} to write" if ready else ""
    say(f"{len(ready)} of {len(listed)} layers ready{sums}", quiet=quiet)
    if not opened.entries and not include:
        say(
            "no convolution: these are its other linear layers, which convert takes by -l, or all "
            "by --include linear",
            quiet=quiet,
        )
    if statuses := _chains_in(opened):
        say(f"{_counted(statuses)}: --chains lists them", quiet=quiet)
    missing = [entry.error for entry in entries if isinstance(entry.error, SizeMissing)]
    if missing:
        arguments = ctx.find_root().obj or ["inspect", model]
        command = with_size(arguments, missing[0].hint)
        way = f"for example: {command}" if command else "specify them with --input-shape"
        say(f"sizes are open; {way}", quiet=quiet)
    alone = [entry.error.example for entry in entries if isinstance(entry.error, WeightsAlone)]
    if alone and alone[0] is not None:
        options_of_it = describing(alone[0], sized=False)
        command = shell_command(["convfc", "convert", model, *options_of_it])
        say(
            f"weights alone: describe how they are applied, for example by {command} "
            f"(and --stride, --pad, --dilation, --groups, --transposed)",
            quiet=quiet,
        )


def _list_chains(model: "Model", *, as_json: bool, quiet: bool) -> None:
    """The chains, as the layers are listed."""
    from convfc_cli.errors import ConvfcError
    from convfc_cli.files import human
    from convfc_cli.models.chain import chains
    from convfc_cli.models.entry import status

    listed: list[Record] = []
    for chain in chains(model):
        outcome = chain.entry
        error, entry = (outcome, None) if isinstance(outcome, ConvfcError) else (None, outcome)
        outline = entry.outline if entry else None
        listed.append(
            {
                "layer": f"{chain.parts[0].name}:{chain.parts[-1].name}",
                "op": "+".join(part.op for part in chain.parts),
                "status": status(error),
                "error": of_error(error) if error else None,
                **of_outline(outline),
                "bytes": _size(model, entry) if entry else None,
            }
        )
    if as_json:
        print_json({**head("inspect"), "model": of_model(model), "chains": listed})
        return
    terminal = is_terminal(sys.stdout)
    titles = [column.title for column in CHAINS] if terminal else PIPED_CHAINS
    rows = [[_cell(item, title, terminal) for title in titles] for item in listed]
    if terminal:
        say_hidden(print_table(CHAINS, rows), quiet=quiet)
        _say_reasons([f"{i['layer']}: {_reason(i)}" for i in listed if i["error"]], quiet)
    else:
        print_rows(titles, rows)
    sizes = [item["bytes"] for item in listed if item["status"] == "ready"]
    note = f"; the largest has at most {human(max(sizes or [0]))}"
    counted = _counted([item["status"] for item in listed])
    say(f"{counted}{note if sizes else ''}", quiet=quiet)


def _say_reasons(reasons: list[str], quiet: bool) -> None:
    """Why layers or chains are not ready, the first of them."""
    for reason in reasons[:REASONS]:
        say(reason, quiet=quiet)
    if reasons[REASONS:]:
        say(f"and {len(reasons) - REASONS} more: pipe it to see them all", quiet=quiet)


def _chains_in(model: "Model") -> list[str]:
    """The statuses of its chains; none where the other layers of a model cannot be listed."""
    from convfc_cli.errors import ConvfcError
    from convfc_cli.models.chain import chains
    from convfc_cli.models.entry import status

    try:
        return [status(chain.error) for chain in chains(model)]
    except ConvfcError:
        return []


def _counted(statuses: list[str]) -> str:
    """How many chains compose, and how many do not."""
    ready, sizeless = statuses.count("ready"), statuses.count("needs a size")
    refused = len(statuses) - ready - sizeless
    text = f"{ready or 'no'} chains of linear layers compose"
    if ready == 1:
        text = "1 chain of linear layers composes"
    if sizeless:
        text += f", {sizeless} {'needs' if sizeless == 1 else 'need'} a size"
    if refused:
        text += f", {refused} {'does' if refused == 1 else 'do'} not"
    return text


def _size(model: "Model", entry: "Entry") -> int:
    """At most so many bytes of the file of a layer."""
    import numpy as np

    from convfc_cli.jobs.origin import planned_origin
    from convfc_cli.matrices.matrix import Spec
    from convfc_cli.matrices.registry import by_form

    dtype = np.dtype(entry.matrix_dtype)
    return by_form("csr").size(Spec(), entry.require(), dtype, planned_origin(model, entry))


def _described(model: "Model", entry: "Entry") -> Record:
    """All that is listed of a layer, as JSON."""
    outline = entry.outline
    return {
        "position": entry.position,
        "layer": entry.name,
        "output": entry.output,
        "weight": entry.weight or None,
        "op": entry.op,
        "status": entry.status,
        "error": of_error(entry.error) if entry.error else None,
        **of_outline(outline),
        "kernel_shape": (outline.kernel_shape or None) if outline else entry.stored,
        "groups": outline.groups if outline else None,
        "bytes": None if outline is None else _size(model, entry),
        "dtype": entry.dtype or None,
        "layout": entry.layout,
        "notes": entry.notes(),
    }


def _reason(item: Record) -> str:
    """Why a layer or a chain is not ready; empty for one that is."""
    return str(item["error"]["message"]) if item["error"] else ""


def _cell(item: Record, column: str, terminal: bool) -> str:
    """What stands in a column, for people on a terminal or in a pipe."""
    if column in ("input", "output", "kernel"):
        sizes = item[f"{column}_shape"]
        return shape(sizes) if sizes else ""
    if column == "@":
        return str(item["position"])
    if column == "size":
        from convfc_cli.files import human

        return human(item["bytes"]) if item["bytes"] else ""
    if column == "operators":
        return " + ".join(item["op"].split("+")) if terminal else str(item["op"])
    if column == "status" and item["error"] and not terminal:
        return f"{item['status']}: {_reason(item)}"
    value = item["layer" if column == "chain" else column]
    if column == "nonzeros" and value is not None and terminal:
        return f"{value:,}"
    return "" if value is None else str(value)
