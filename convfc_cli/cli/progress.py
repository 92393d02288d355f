"""A job as it goes, on standard error: its plan, a progress bar, and a line for each file."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from convfc_cli.cli.terminal import console, is_terminal, printable, say

if TYPE_CHECKING:
    from rich.progress import Progress

    from convfc_cli.jobs.plan import Plan
    from convfc_cli.jobs.result import Result


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
