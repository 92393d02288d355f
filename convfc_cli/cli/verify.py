"""`convfc verify`: prove matrix files."""

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convfc_cli.cli import options
from convfc_cli.cli.command import Command, option
from convfc_cli.cli.data import print_json
from convfc_cli.cli.records import Record, head, of_model, warning
from convfc_cli.cli.terminal import say
from convfc_cli.cli.verification import File, Reporter
from convfc_cli.errors import ConvfcError, UsageError, gravest
from convfc_cli.vocabulary import MAX_PROBES, PROBES, RUNTIMES

if TYPE_CHECKING:
    from convfc_cli.models.request import Request

HELP = """\
Prove that MATRICES are what they say they are.

MATRICES are files, folders that `convert` wrote, or - for standard input. Every stored bit and
every zero is held to the stored kernel and geometry, applied in another way.
"""

EPILOG = """\b
Examples:
  convfc verify                             the *.fc/ folders of the current directory
  convfc verify model.onnx.fc --model model.onnx
  convfc verify conv1.npz --json
  convfc verify conv1.npz --exhaustive      every entry individually
  convfc verify model.onnx.fc --model model.onnx --against onnxruntime
  convfc convert model.onnx -l conv1 -o - | convfc verify -
"""


@click.command(cls=Command, help=HELP, epilog=EPILOG, context_settings=options.CONTEXT)
@click.argument("matrices", nargs=-1, type=options.PATH)
@option(
    "--model",
    type=options.PATH,
    metavar="MODEL",
    help="Also prove that kernel and geometry are this model's.",
)
@options.request
@option(
    "--probes",
    type=click.IntRange(1, MAX_PROBES),
    default=PROBES,
    show_default=True,
    help="Random probes: a wrong file passes with probability at most 2^-32 for each.",
)
@option(
    "--seed",
    type=click.IntRange(0),
    help="Repeat a run. A seed that is known beforehand voids the promise against crafted files: "
    "nothing is proven, and the exit code is 4, unless --exhaustive leaves nothing to it.",
)
@option(
    "--exhaustive",
    is_flag=True,
    help="Also compare every entry and every zero individually with the responses to impulses: of "
    "the runtime that --against names, else onnxruntime where it is installed; of the oracle where "
    "that cannot. Leaves no chance of a missed error, except in a stored kernel_index.",
)
@option(
    "--against",
    type=click.Choice(RUNTIMES),
    help="Also run the layer in another runtime, with --model the model's own node where it is "
    "ONNX, on integers (equal bit for bit) and on real numbers (within rounding). reference: "
    "ONNX's evaluator.",
)
@options.verbose
@options.common
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    matrices: tuple[str, ...],
    model: str | None,
    request: "Request",
    probes: int,
    seed: int | None,
    exhaustive: bool,
    against: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run `convfc verify`; `HELP` says what it does."""
    from convfc_cli.jobs.verify import verify_all
    from convfc_cli.models.registry import read
    from convfc_cli.proof.verify import Proof

    proof = Proof(probes, seed, exhaustive, against)
    if (request.shapes or request.weights) and model is None:
        raise UsageError("--input-shape and --weight are of a model's: they go with --model")
    files, warnings = _files(matrices)
    opened = model if model is None else read(model, request.shapes, request.weights)
    with Reporter(files, quiet=quiet, verbose=verbose, in_lines=not as_json) as reporter:
        for file in files:
            try:
                if isinstance(file, ConvfcError):
                    raise file
                path, listed = file
                for report in verify_all(
                    path, model=opened, listed=listed, proof=proof, observer=reporter
                ):
                    reporter.finished(report)
            except ConvfcError as error:
                if len(files) == 1 and not reporter.codes and not as_json:
                    raise
                reporter.failed(file, error)
    if as_json:
        origin = {"model": of_model(opened) if opened else None}
        found = {"matrices": reporter.records, "warnings": warnings}
        print_json({**head("verify"), **origin, **found})
    reporter.summarize()
    ctx.exit(gravest(reporter.codes))


def _files(given: tuple[str, ...]) -> tuple[list[File], list[Record]]:
    """The files to check, an error in place of what a folder should hold and does not; and what
    lies in the folders besides.
    """
    from convfc_cli.jobs.manifest import matrix_files, unlisted
    from convfc_cli.naming import first_few

    files: list[File] = []
    warnings: list[Record] = []
    places = list(given) or _default()
    for place in places:
        if place == "-" or not Path(place).is_dir():
            files.append((place, None))
            continue
        try:
            inside = list(matrix_files(Path(place)))
        except ConvfcError as error:
            files.append(error)
            continue
        files += inside
        listed = [file[0] for file in inside if not isinstance(file, ConvfcError)]
        if others := unlisted(Path(place), listed) if listed else []:
            named = first_few(list(map(str, others)))
            verb = "is" if len(others) == 1 else "are"
            text = f"{named} {verb} not in the manifest, and not looked at"
            warnings.append(warning("unlisted", text))
            say(f"convfc: {text}")
    if not files:
        raise UsageError(f"{', '.join(places)}: no matrix in it, nothing to verify")
    return files, warnings


def _default() -> list[str]:
    """What is meant where nothing is named: the folders here, else what is piped in."""
    folders = sorted(str(path) for path in Path().glob("*.fc") if path.is_dir())
    mode = os.fstat(sys.stdin.fileno()).st_mode if sys.stdin is not None else 0
    piped = stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
    if folders:
        if piped:
            say("convfc: standard input is not read: there are *.fc folders here; - names it")
        return folders
    if piped:
        return ["-"]
    raise UsageError(
        "nothing to verify: no *.fc folder here, and nothing piped in; name a matrix file"
    )
