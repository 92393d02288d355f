"""What one command may spend on the files it is given, whatever they ask for.

A file of a kilobyte can ask for hours of work. Every reader, every constant, every chain and every
runtime draws on one budget, which is that of the whole command: many small demands are refused as
one large demand is. `spend` is called before the work is done; where nobody can tell beforehand how
long it takes, it is `timed`. A large file may ask for more than a small one: `earn`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from time import thread_time

from convfc_cli.errors import Refused

ELEMENTS_PER_BYTE = 16
"""What each byte of a file adds: 64 elements for each weight of four bytes."""

SECONDS_PER_BYTE = 2.5e-7
"""The same of CPU time, a second for each 4 MB: dequantizing takes a tenth of it."""


@dataclass
class Budget:
    """How much of each is left; the defaults are what a command begins with."""

    elements: int = field(default=2**32, metadata={"unit": "elements to compute"})
    """Of constant arrays that are computed, not read: dequantized weights, folded shapes."""

    operations: int = field(default=2**24, metadata={"unit": "operations to evaluate"})
    """Nodes that are evaluated, or followed in search of a chain."""

    products: int = field(default=2**40, metadata={"unit": "products to compute"})
    """Multiplications of runtimes that run a layer, and of products of layers."""

    seconds: float = field(default=6, metadata={"unit": "seconds of CPU time"})
    """For constants to be computed in: the operators that make them may be written in Python."""

    def earn(self, size: int) -> None:
        """Add what a file of so many bytes may ask for."""
        self.elements += size * ELEMENTS_PER_BYTE
        self.seconds += size * SECONDS_PER_BYTE

    @contextmanager
    def timed(self, what: str) -> Iterator["Budget"]:
        """Take off the CPU time that this thread takes inside; who has others work for it takes off
        theirs. Raises `Refused` where none is left to begin with.
        """
        if self.seconds <= 0:
            raise Refused(f"{what}: all that came before took the CPU time that the command has")
        begun = thread_time()
        try:
            yield self
        finally:
            self.seconds -= thread_time() - begun

    def spend(self, what: str, **amounts: int) -> None:
        """Take these amounts off; `what` they are for, in a message.

        Raises `Refused` where too little is left; the budget then stays as it was.

        >>> budget = Budget()
        >>> budget.spend("the constant 'w'", elements=2**31)
        >>> budget.elements == 2**31
        True
        """
        for name, amount in amounts.items():
            left = getattr(self, name)
            if amount > left:
                raise Refused(f"{what} needs {amount} {_UNITS[name]}: the command has {left} left")
        for name, amount in amounts.items():
            setattr(self, name, getattr(self, name) - amount)


_UNITS = {resource.name: resource.metadata["unit"] for resource in fields(Budget)}

_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def command() -> Iterator[Budget]:
    """Let everything inside draw on one budget: that of the command around it, or a new one."""
    budget = _current.get()
    if budget is not None:
        yield budget
        return
    budget = Budget()
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)


def current() -> Budget:
    """The budget of the command that is under way; outside of one, a whole one."""
    return _current.get() or Budget()


def spend(what: str, **amounts: int) -> None:
    """`Budget.spend` of the command that is under way; outside of one, of a whole budget."""
    current().spend(what, **amounts)
