"""`convfc verify`: prove matrix files."""

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convfc_cli.cli import options
from convfc_cli.cli.data import print_json
from convfc_cli.cli.hints import worded
from convfc_cli.cli.progress import Reporter
from convfc_cli.cli.reports import print_report
from convfc_cli.cli.terminal import is_terminal, printable, say
from convfc_cli.errors import ConvfcError, Unsupported, UsageError, WrongContents, gravest
from convfc_cli.vocabulary import MAX_PROBES, PROBES, RUNTIMES

if TYPE_CHECKING:
    from convfc_cli.models.request import Request
    from convfc_cli.proof.report import Report

File = tuple[str | Path, dict[str, Any] | None] | ConvfcError
"""A file and what its folder's manifest says of it, or why there is none."""

UNDONE = Unsupported.exit_code
"""The exit code where a check could not be made as asked."""

EPILOG = """\b
Examples:
  convfc verify                             the *.fc/ folders of the current directory
  convfc verify model.onnx.fc --model model.onnx
  convfc verify conv1.npz --json
  convfc verify conv1.npz --exhaustive      every entry individually
  convfc verify model.onnx.fc --model model.onnx --against onnxruntime
  convfc convert model.onnx -l conv1 -o - | convfc verify -
"""


@click.command(epilog=EPILOG, context_settings=options.CONTEXT)
@click.argument("matrices", nargs=-1, type=options.PATH)
@click.option(
    "--model",
    type=options.PATH,
    metavar="MODEL",
    help="Also prove that kernel and geometry are this model's.",
)
@options.request
@click.option(
    "--probes",
    type=click.IntRange(1, MAX_PROBES),
    default=PROBES,
    show_default=True,
    help="Random probes: a wrong file passes with probability at most 2^-32 for each.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Repeat a run. A seed that is known beforehand voids the promise against crafted files: "
    "nothing is proven, and the exit code is 4, unless --exhaustive leaves nothing to it.",
)
@click.option(
    "--exhaustive",
    is_flag=True,
    help="Also compare every entry and every zero individually with the responses to impulses: of "
    "the runtime that --against names, else onnxruntime where it is installed; of the oracle where "
    "that cannot. Leaves no chance of a missed error, except in a stored kernel_index.",
)
@click.option(
    "--against",
    type=click.Choice(RUNTIMES),
    help="Also run the layer in another runtime, with --model the model's own node where it is "
    "ONNX, on integers (equal bit for bit) and on real numbers (within rounding). reference: "
    "ONNX's evaluator.",
)
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
) -> None:
    """Prove that MATRICES are what they say they are.

    MATRICES are files, folders that `convert` wrote, or - for standard input. Every stored bit and
    every zero is held to the stored kernel and geometry, applied in another way.
    """
    from convfc_cli.jobs.verify import verify_all
    from convfc_cli.models.registry import read
    from convfc_cli.proof.verify import Proof

    proof = Proof(probes, seed, exhaustive, against)
    if (request.shapes or request.weights) and model is None:
        raise UsageError("--input-shape and --weight are of a model's: they go with --model")
    reports: list[Report] = []
    records: list[dict[str, Any]] = []
    codes: list[int] = []
    human = is_terminal(sys.stdout)
    files = _files(matrices)
    found = model if model is None else read(model, request.shapes, request.weights)
    for file in files:
        try:
            if isinstance(file, ConvfcError):
                raise file
            path, listed = file
            with Reporter(quiet=quiet) as reporter:
                for report in verify_all(
                    path, model=found, listed=listed, proof=proof, observer=reporter
                ):
                    reporter.stop()
                    reports.append(report)
                    records.append(report.to_json())
                    codes.append(_exit_code(report))
                    if not as_json:
                        _print(report, table=human and not quiet)
                    _say(report)
        except ConvfcError as error:
            if len(files) == 1 and not reports and not as_json:
                raise
            say(f"convfc: error: {worded(error)}")
            codes.append(error.exit_code)
            name = None if isinstance(file, ConvfcError) else str(file[0])
            records.append({"file": name, "verdict": "error", "error": worded(error)})
    if as_json:
        print_json(records)
    say(_counted(reports, len(codes)), quiet=quiet)
    ctx.exit(gravest(codes))


def _exit_code(report: "Report") -> int:
    if not report.ok:
        return WrongContents.exit_code
    return UNDONE if report.undone else 0


def _counted(reports: "list[Report]", files: int) -> str:
    """The last line: how many of how many."""
    proven = sum(report.verdict == "proven" for report in reports)
    operators = sum(report.ok and report.form == "operator" for report in reports)
    undone = sum(report.ok and bool(report.undone) for report in reports)
    which = "an operator file stores" if operators == 1 else "operator files store"
    also = f", {operators} consistent ({which} no entries to prove)" if operators else ""
    also += f", {undone} not checked as asked" if undone else ""
    return f"{proven} of {files} proven{also}"


def _print(report: "Report", *, table: bool) -> None:
    if table:
        print_report(report)
    else:
        detail = report.strength if report.ok else report.complaint
        print("\t".join(map(printable, (report.verdict, report.file, detail))), flush=True)


def _say(report: "Report") -> None:
    """What is wrong, and what was not checked, in a line each."""
    if not report.ok:
        say(f"convfc: {report.file} is WRONG: {report.complaint}")
    undone: dict[str, list[str]] = {}
    for finding in report.undone:
        undone.setdefault(finding.detail, []).append(finding.check)
    for why, checks in undone.items():
        say(f"convfc: {report.file}: not checked ({', '.join(checks)}): {why}")


def _files(given: tuple[str, ...]) -> list[File]:
    """The files to check; an error in place of what a folder should hold and does not."""
    from convfc_cli.jobs.manifest import matrix_files, unlisted
    from convfc_cli.naming import first_few

    files: list[File] = []
    places = list(given) or _default()
    for place in places:
        if place == "-" or not Path(place).is_dir():
            files.append((place, None))
            continue
        try:
            found = list(matrix_files(Path(place)))
        except ConvfcError as error:
            files.append(error)
            continue
        files += found
        listed = [file[0] for file in found if not isinstance(file, ConvfcError)]
        if others := unlisted(Path(place), listed) if listed else []:
            named = first_few(list(map(str, others)))
            verb = "is" if len(others) == 1 else "are"
            say(f"convfc: {named} {verb} not in the manifest, and not looked at")
    if not files:
        raise UsageError(f"{', '.join(places)}: no matrix in it, nothing to verify")
    return files


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
