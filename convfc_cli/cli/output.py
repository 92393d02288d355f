"""What is printed: tables on a terminal, data in a pipe, progress on standard error.

rich is imported when a table or a bar is drawn, and not before.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from convfc_cli.jobs.plan import Plan
    from convfc_cli.jobs.result import Result
    from convfc_cli.proof.report import Report


LONGEST_SIZE = 1000
"""Characters of an --input-shape that are taken."""


def is_terminal(stream: TextIO) -> bool:
    """Whether people read it."""
    return stream.isatty()


def say(message: str, *, quiet: bool = False) -> None:
    """One line for people, on standard error."""
    if not quiet:
        with suppress(OSError):  # standard error is full: there is nowhere to say so
            print(printable(message), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text of an untrusted file without what would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def with_size(arguments: Sequence[str], size: str) -> str:
    """The command again with an --input-shape; empty for none, or one that is too long."""
    from convfc_cli.naming import shell_command

    if not 0 < len(size) <= LONGEST_SIZE:
        return ""
    return shell_command(["convfc", *arguments, "--input-shape", size])


def print_json(value: object) -> None:
    """A JSON document on standard output."""
    print(json.dumps(value, indent=1, allow_nan=False))


def print_json_list(items: Iterable[object]) -> None:
    """A JSON list on standard output, each item as it comes."""
    before = "["
    for item in items:
        text = json.dumps(item, indent=1, allow_nan=False).replace("\n", "\n ")
        print(f"{before}\n {text}", end="")
        before = ","
    print("[]" if before == "[" else "\n]")


def print_rows(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Tab-separated lines on standard output, a header first."""
    print("\t".join(header))
    for row in rows:
        print("\t".join(printable(str(cell)) for cell in row))


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
        table.add_row(*(_escaped(str(cell)) for cell in row))
    console(sys.stdout).print(table)


def console(stream: TextIO) -> "Console":
    """A rich console on a stream, without emoji and without guessing at numbers."""
    from rich.console import Console

    return Console(file=stream, highlight=False, emoji=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


def shape(sizes: Sequence[int]) -> str:
    """A tensor's shape: 3x224x224."""
    return "x".join(map(str, sizes))


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


_MARKS = {True: "[green]ok[/]", False: "[bold red]WRONG[/]", None: "[yellow]no[/]"}


WIDE = 110
"""Columns of a terminal from which on a report has columns of its own for strength and cost."""


def print_report(report: "Report") -> None:
    """A report for people, on standard output."""
    screen = console(sys.stdout)
    rows, columns = report.shape
    screen.print(
        f"[bold]{_escaped(report.file)}[/]  {_escaped(report.layer)}  "
        f"{rows:,} x {columns:,}, {report.nonzeros:,} nonzeros, {report.form}"
    )
    from rich.table import Table

    wide = screen.width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=wide, header_style="dim")
    for column in ("", "check", "", *(("how strongly", "against", "cost") if wide else ())):
        table.add_column(column, no_wrap=True, justify="right" if column == "cost" else "left")
    table.add_column("what", overflow="fold")
    for finding in report.findings:
        cost = f"{finding.seconds:.2f} s" if (finding.seconds or 0) >= 0.005 else ""
        cells = [finding.strength, finding.against, cost, finding.detail]
        if not wide:
            against = f"against {finding.against}" if finding.against else ""
            strength = "" if finding.strength in finding.detail else finding.strength
            how = ", ".join(filter(None, (f"{strength} {against}".strip(), cost)))
            cells = [f"{finding.detail} ({how})" if how else finding.detail]
        table.add_row("", finding.check, _MARKS[finding.holds], *map(_escaped, cells))
    screen.print(table)
    for trusted in report.trusted:
        screen.print(f"  trusted: {_escaped(trusted)}")


def _orders(plan: "Plan") -> str:
    """The layout of all files, or which files have which."""
    from convfc_cli.naming import first_few

    found: dict[str, list[str]] = {}
    for item in plan.items:
        found.setdefault(item.spec.layout.order, []).append(item.entry.name)
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{order} ({first_few(names)})" for order, names in sorted(found.items()))


class Reporter:
    """Tells of a job on standard error: the plan, a progress bar, a line for each file, and at its
    end why original nodes were not run.

    `paths` prints each finished file on standard output.
    """

    def __init__(self, *, quiet: bool, paths: bool = False) -> None:
        self._quiet, self._paths = quiet, paths
        self._bar: Progress | None = None
        self._task: Any = None
        self._printed = ""
        self._not_run: dict[str, list[str]] = {}

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        for why, names in self._not_run.items():
            say(f"  {_counted(names)}: {why}", quiet=self._quiet)

    def stop(self) -> None:
        """Take the progress bar off the screen; the next file begins another."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def planned(self, plan: "Plan") -> None:
        """The plan, before anything is written."""
        from convfc_cli.files import human

        count = len(plan.items)
        what = f"{count} matrices" if count > 1 else "1 matrix"
        nonzeros = sum(item.entry.require().nnz for item in plan.items)
        size = f"at most {human(plan.size)}"
        say(f"{what}, {nonzeros:,} nonzeros, {_orders(plan)}, {size}", quiet=self._quiet)
        notes: dict[str, list[str]] = {}
        for item in plan.items:
            for note in _notes(item.entry.notes()):
                notes.setdefault(note, []).append(item.entry.name)
        for note, names in notes.items():
            say(f"  note ({_counted(names)}): {note}", quiet=self._quiet)

    def started(self, name: str, size: int) -> None:
        """A file is begun: `size` bytes are to be written or read."""
        if self._quiet or not is_terminal(sys.stderr):
            return
        if self._bar is None:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console(sys.stderr), transient=True)
            self._bar.start()
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._task = self._bar.add_task(printable(name)[-30:], total=size)

    def advanced(self, size: int) -> None:
        """So many bytes more are done."""
        if self._bar is not None:
            self._bar.update(self._task, advance=size)

    def finished(self, result: "Result") -> None:
        """A file stands."""
        from convfc_cli.files import human

        path = str(result.item.path)
        self.stop()
        if self._paths and path != self._printed:
            paths = map(str, (path, *result.item.beside))
            shown = map(printable, paths) if is_terminal(sys.stdout) else paths
            print(*shown, sep="\n", flush=True)
            self._printed = path
        rows, columns = result.item.shape
        line = f"  {result.item.entry.name}: {rows:,} x {columns:,}, {human(result.size)}, "
        if result.report is None:
            say(f"{line}not verified", quiet=self._quiet)
            return
        say(f"{line}{result.report.verdict} ({result.report.strength})", quiet=self._quiet)
        for finding in result.report.findings:
            if finding.check == "runtime" and finding.holds is None:  # the same of many layers
                self._not_run.setdefault(finding.detail, []).append(result.item.entry.name)
            elif finding.check == "runtime":
                say(f"    {finding.detail}", quiet=self._quiet)
