"""Lines for people, on standard error, and what a terminal may be sent.

rich is imported when a table or a bar is drawn, and not before.
"""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console


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


def console(stream: TextIO) -> "Console":
    """A rich console on a stream, without emoji and without guessing at numbers."""
    from rich.console import Console

    screen = Console(file=stream, highlight=False, emoji=False)
    # Its own ends the process with code 1.
    screen.on_broken_pipe = _raise  # type: ignore[method-assign]
    return screen


def _raise() -> NoReturn:
    """Raise the error that is being handled."""
    raise


def escaped(text: str) -> str:
    """Text of an untrusted file as rich prints it."""
    from rich.markup import escape

    return escape(printable(text))
