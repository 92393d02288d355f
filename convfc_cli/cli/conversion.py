"""What `convert` prints as it goes: a line for each matrix, and a summary last."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from convfc_cli.cli.progress import ProgressBar
from convfc_cli.cli.reports import print_report
from convfc_cli.cli.tables import Column, Lines
from convfc_cli.cli.terminal import console, is_terminal, printable, say
from convfc_cli.vocabulary import NOT_VERIFIED

if TYPE_CHECKING:
    from convfc_cli.jobs.plan import Item, Plan
    from convfc_cli.jobs.result import Conversion, Result

COLUMNS = (
    Column("name", shrinks=True),
    Column("shape", 2, is_number=True),
    Column("nonzeros", 3, is_number=True),
    Column("size", 1, is_number=True),
    Column("verdict"),
)

IDLE = {
    "dequantize": "--dequantize changes nothing: no layer here is one of integers",
    "fold_bn": "--fold-bn changes nothing: no batch normalization reads the output of a layer here",
}
"""What is said of options that change no layer."""


class Reporter(ProgressBar):
    """Follows a conversion: an observer of `jobs`, used as a context manager.

    On a terminal standard output gets a line for each matrix, in a pipe the path of each file;
    nothing where not `paths`. `end` ends each path. With `verbose` the plan and the report of each
    matrix go to standard error.
    """

    def __init__(
        self, *, quiet: bool, verbose: bool, paths: bool, verified: bool, end: str = "\n"
    ) -> None:
        super().__init__(quiet=quiet)
        self._verbose, self._paths, self._end = verbose and not quiet, paths, end
        self._passes = 2 if verified else 1  # a file is written, and read back
        self._in_lines = paths and not quiet and end == "\n" and is_terminal(sys.stdout)
        self._lines: Lines | None = None
        self._in_folder = False
        self._printed = ""
        self.unprinted: OSError | None = None
        """Why something could not be printed on standard output: to be raised in the end."""
        self._remarks: dict[tuple[str, str], list[str]] = {}

    def planned(self, plan: "Plan") -> None:
        """Show the plan, before anything is written."""
        for field in plan.idle:
            say(f"warning: {IDLE[field]}", quiet=self.quiet)
        for item in plan.items:
            for note in _notes(item.entry.notes()):
                self._remark("note", note, item)
        if self._verbose:
            say(planned(plan))
        if self._in_lines:
            print(printable(f"{plan.folder}/" if plan.folder else str(plan.items[0].path)))
            self._in_folder = plan.folder is not None
            widest = [self._cells(item, item.size, NOT_VERIFIED) for item in plan.items]
            self._lines = Lines(COLUMNS, widest, console(sys.stdout).width - 2)
        self.begin(len(plan.items), self._passes * plan.size)

    def started(self, name: str, size: int) -> None:
        """Show that a file is begun."""
        self.step(name)

    def advanced(self, size: int) -> None:
        """Show that so many bytes more are done."""
        self.advance(size)

    def finished(self, result: "Result") -> None:
        """Print the line of a matrix whose file has its name."""
        item, report = result.item, result.report
        self.done(self._passes * item.size)
        with self.printing():
            self._print(result)
        if report is None:
            return
        for caution in report.warnings:
            self._remark("warning", caution.message, item)
        for finding in report.findings:
            if finding.check == "runtime" and finding.holds is None:
                self._remark("note", finding.detail, item)
        if self._verbose:
            with suppress(OSError):  # as `say`
                print_report(report, self.screen(sys.stderr), head=self._lines is None)

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Print on standard output in the block. Where nobody reads it the job goes on, and the
        error is kept for its end.
        """
        try:
            yield
        except OSError as error:
            self.unprinted = error

    def _print(self, result: "Result") -> None:
        item = result.item
        if self._lines is not None:
            line = self._lines.line(self._cells(item, result.size, result.verdict))
            beside = [f"  {printable(path.name)}  beside it, its metadata" for path in item.beside]
            self.screen(sys.stdout).out(f"  {line}", *beside, sep="\n")
        elif self._paths and str(item.path) != self._printed:
            self._printed = str(item.path)
            print(item.path, *item.beside, sep=self._end, end=self._end, flush=True)

    def summarize(self, done: "Conversion | None" = None) -> None:
        """Say what is to be noted of some layers, and what became of them all."""
        self.stop()
        for (kind, text), names in self._remarks.items():
            say(f"{kind} ({_counted(names)}): {text}", quiet=self.quiet)
        if done is not None and done.results:
            say(_summary(done), quiet=self.quiet)

    def _cells(self, item: "Item", size: int, verdict: str) -> list[str]:
        """The line of a matrix, cell by cell."""
        from convfc_cli.files import human

        name = item.path.name if self._in_folder else item.entry.name
        rows, columns = item.shape
        nonzeros = f"{item.entry.require().nnz:,} nonzeros"
        return [name, f"{rows:,} x {columns:,}", nonzeros, human(size), verdict]

    def _remark(self, kind: str, text: str, item: "Item") -> None:
        """Keep what is to be said of a layer: once, of however many layers."""
        self._remarks.setdefault((kind, text), []).append(item.entry.name)


def planned(plan: "Plan") -> str:
    """What a plan comes to, in a line."""
    from convfc_cli.files import human

    nonzeros = sum(item.entry.require().nnz for item in plan.items)
    size = f"at most {human(plan.size)}"
    return f"{_matrices(len(plan.items))}, {nonzeros:,} nonzeros, {_orders(plan)}, {size}"


def _summary(done: "Conversion") -> str:
    """How many matrices there are, and what is known of them."""
    from convfc_cli.files import human

    results = done.results
    reports = [result.report for result in results if result.report]
    words = [result.verdict for result in results]
    known = [_share(words.count(word), len(results), word) for word in dict.fromkeys(words)]
    runtimes = [
        finding.against
        for report in reports
        for finding in report.findings
        if finding.check == "runtime" and finding.holds
    ]
    if runtimes:
        agree = "agrees" if len(results) == 1 else "agree"
        by = " and ".join(dict.fromkeys(runtimes))
        known.append(_share(len(runtimes), len(results), f"{agree} with {by}"))
    if kept := sum(result.kept for result in results):
        known.append(_share(kept, len(results), "kept from before"))
    size = human(sum(result.size for result in results))
    if results[0].planned:
        size, known = f"at most {size}", ["nothing is written"]
    what = ", ".join([_matrices(len(results)), size, _orders(done.plan)])
    return f"{what}: {', '.join(known)}"


def _share(count: int, whole: int, what: str) -> str:
    """How many of a whole are something: `all proven`."""
    if count < whole:
        return f"{count} {what}"
    return f"all {what}" if whole > 1 else what


def _matrices(count: int) -> str:
    return f"{count} matrices" if count != 1 else "1 matrix"


def _notes(notes: dict[str, Any]) -> Iterator[str]:
    """What a layer's notes say, in a line each: texts as they are; of numbers, which there are."""
    numbers = [key for key, value in notes.items() if not isinstance(value, str)]
    if numbers:
        yield ", ".join(numbers)
    for key, value in notes.items():
        if isinstance(value, str):
            yield f"{key} {value}"


def _counted(names: Sequence[str]) -> str:
    """The name of a layer, or the count of several."""
    return f"{len(names)} layers" if len(names) > 1 else names[0]


def _orders(plan: "Plan") -> str:
    """The layout of all files, or which files have which."""
    from convfc_cli.naming import first_few

    by_order: dict[str, list[str]] = {}
    for item in plan.items:
        by_order.setdefault(item.spec.layout.order, []).append(item.entry.name)
    if len(by_order) == 1:
        return next(iter(by_order))
    return ", ".join(f"{order} ({first_few(names)})" for order, names in sorted(by_order.items()))
