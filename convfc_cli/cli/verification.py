"""What `verify` prints as it goes: a line for each matrix, and a summary last."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convfc_cli.cli.hints import worded
from convfc_cli.cli.progress import ProgressBar
from convfc_cli.cli.records import Record, of_unread, of_verified
from convfc_cli.cli.reports import print_report
from convfc_cli.cli.tables import Column, Lines
from convfc_cli.cli.terminal import console, is_terminal, printable, say
from convfc_cli.errors import ConvfcError, Unsupported, WrongContents

if TYPE_CHECKING:
    from convfc_cli.proof.report import Report

File = tuple[str | Path, dict[str, Any] | None] | ConvfcError
"""A file and what its folder's manifest says of it, or why there is none."""

COLUMNS = (Column("verdict"), Column("file", shrinks=True), Column("layer", 1, shrinks=True))

LAYER = 20
"""Characters of the name of a layer that are shown, where they have room."""

UNDONE = Unsupported.exit_code
"""The exit code where a check could not be made as asked."""


class Reporter(ProgressBar):
    """Follows a verification: an observer of `jobs`, used as a context manager.

    Standard output gets a line for each matrix, tab-separated in a pipe, or nothing where not
    `in_lines`; what is wrong, and with `verbose` every matrix, is reported check by check on a
    terminal. Standard error gets the rest.
    """

    def __init__(self, files: list[File], *, quiet: bool, verbose: bool, in_lines: bool) -> None:
        super().__init__(quiet=quiet)
        self._verbose, self._in_lines = verbose, in_lines
        self._for_people = in_lines and not quiet and is_terminal(sys.stdout)
        self._reports: list[Report] = []
        self.records: list[Record] = []
        """What there is to say of each matrix, as JSON."""
        self.codes: list[int] = []
        """The exit code that each would have alone."""
        self._remarks: dict[tuple[str, str], list[str]] = {}
        paths = [str(file[0]) for file in files if not isinstance(file, ConvfcError)]
        self._size = sum(path.stat().st_size for path in map(Path, paths) if path.is_file())
        self._count, self._share = len(files), 0
        if self._for_people:
            widest = [["consistent", path, "x" * LAYER] for path in paths]
            self._lines = Lines(COLUMNS, widest, console(sys.stdout).width)

    def started(self, name: str, size: int) -> None:
        """Show that a matrix is begun."""
        if not self._done and not self._total:
            self.begin(self._count, self._size)
        self.step(name)
        self._share = size

    def advanced(self, size: int) -> None:
        """Show that so many bytes more are read."""
        self.advance(size)

    def finished(self, report: "Report") -> None:
        """Print the line of a matrix."""
        self.done(self._share)
        self._reports.append(report)
        self.records.append(of_verified(report))
        self.codes.append(_exit_code(report))
        if self._in_lines:
            self._print(report)
        if not report.ok:
            self.say(f"convfc: {report.file} is WRONG: {report.complaint}")
        for caution in report.warnings:
            self._remarks.setdefault(("warning", caution.message), []).append(report.file)
        undone: dict[str, list[str]] = {}
        for finding in report.undone:
            undone.setdefault(finding.detail, []).append(finding.check)
        for why, checks in undone.items():
            text = f"not checked ({', '.join(checks)}): {why}"
            self._remarks.setdefault(("convfc", text), []).append(report.file)

    def failed(self, file: File, error: ConvfcError) -> None:
        """Say why a file cannot be verified."""
        self.say(f"convfc: error: {worded(error)}")
        self.codes.append(error.exit_code)
        name = None if isinstance(file, ConvfcError) else str(file[0])
        self.records.append(of_unread(name, error))

    def summarize(self) -> None:
        """Say what was not checked, and how many of how many are proven."""
        self.stop()
        for (kind, text), files in self._remarks.items():
            which = files[0] if len(files) == 1 else f"{len(files)} matrices"
            say(f"{kind}: {which}: {text}", quiet=self.quiet and kind == "warning")
        say(_counted(self._reports, len(self.codes)), quiet=self.quiet)

    def _print(self, report: "Report") -> None:
        if not self._for_people:
            detail = report.strength if report.ok else report.complaint
            print("\t".join(map(printable, (report.verdict, report.file, detail))), flush=True)
        elif self._verbose or not report.ok:
            print_report(report, self.screen(sys.stdout))
        else:
            line = self._lines.line([report.verdict, report.file, report.layer])
            self.screen(sys.stdout).out(line)


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
