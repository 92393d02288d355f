"""How far a job is: a bar on a terminal, a line every half minute in a log."""

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from convfc_cli.cli.terminal import console, is_terminal, printable, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PAUSE = 30.0
"""Seconds between lines of progress in a log."""

NARROW = 70
"""Columns of a terminal below which a bar has no room for figures beside it."""

MAX_NAME = 30
"""Characters of the name beside a bar: its last ones."""


class ProgressBar:
    """The progress of a job of several matrices, on standard error; a context manager.

    Where `quiet` nothing is shown. While the bar is there, what else is printed goes to `screen`.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._bar: Progress | None = None
        self._total = self._bytes = self._count = self._done = self._before = 0
        self._said = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def begin(self, count: int, size: int) -> None:
        """Show that `count` matrices, about `size` bytes in all, are to be done."""
        self._count, self._total = count, size
        if self.quiet or not is_terminal(sys.stderr):
            return
        from rich import progress

        screen = console(sys.stderr)
        if not screen.is_terminal or screen.is_dumb_terminal:
            return
        figures = [] if screen.width < NARROW else [progress.DownloadColumn()]
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=20 if figures else 10),
            *figures,
            progress.TimeRemainingColumn(),
            console=screen,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar.add_task(f"0 of {count}", total=size)
        self._bar.start()

    def step(self, name: str) -> None:
        """Show that the next matrix is begun."""
        self._before = self._bytes
        if self._bar is not None:
            beside = f" {printable(name)[-MAX_NAME:]}" if self._bar.console.width >= NARROW else ""
            text = f"{self._done + 1} of {self._count}{beside}"
            self._bar.update(self._bar.task_ids[0], description=text)
        self._pulse()

    def advance(self, size: int) -> None:
        """Show that `size` more bytes are done."""
        self._bytes += size
        self._show()

    def done(self, size: int) -> None:
        """Show that a matrix is done, for which `size` bytes had been counted."""
        self._done += 1
        self._bytes = self._before = self._before + size
        self._show()

    def screen(self, stream: TextIO) -> "Console":
        """Where to print on a stream: above the bar, where that is on the same terminal."""
        if self._bar is not None and is_terminal(stream):
            return self._bar.console
        return console(stream)

    def say(self, text: str) -> None:
        """Print a line on standard error, above the bar."""
        if self._bar is not None:
            self._bar.console.out(printable(text))
        else:
            say(text)

    def stop(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._bytes)
        self._pulse()

    def _pulse(self) -> None:
        """Print a line in a log where the last one is long ago."""
        if self.quiet or self._bar is not None or monotonic() < self._said + PAUSE:
            return
        from convfc_cli.files import human

        self._said = monotonic()
        share = f", {human(self._bytes)} of about {human(self._total)}" if self._total else ""
        say(f"convfc: {self._done} of {self._count} done{share}")
