"""What one command may spend on the files it is given, whatever they ask for.

A file of a kilobyte can ask for hours of work. Every reader, every constant, every chain and every
runtime draws on one budget, which is that of the whole command: many small demands are refused as
one large demand is. `spend` is called before the work is done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields

from convfc_cli.errors import Refused


@dataclass
class Budget:
    """How much of each is left; see `WHOLE` for what a command begins with."""

    elements: int = field(default=2**32, metadata={"unit": "elements to compute"})
    """Of constant arrays that are computed, not read: dequantized weights, folded shapes."""

    bytes: int = field(default=2**38, metadata={"unit": "bytes to decode"})
    """Of stored tensors that are decoded, each time they are."""

    operations: int = field(default=2**24, metadata={"unit": "operations to evaluate"})
    """Nodes that are evaluated, or followed in search of a chain."""

    products: int = field(default=2**40, metadata={"unit": "products to compute"})
    """Multiplications of runtimes that run a layer, and of products of layers."""

    def spend(self, what: str, **amounts: int) -> None:
        """Take these amounts off; `what` they are for, in a message.

        Raises `Refused` where more is asked for than is left, and takes nothing off.

        >>> budget = Budget()
        >>> budget.spend("the constant 'w'", elements=2**31)
        >>> budget.elements == 2**31
        True
        """
        for name, amount in amounts.items():
            left = getattr(self, name)
            if amount > left:
                raise Refused(
                    f"{what} needs {amount} {_UNITS[name]}: the command has {left} left of "
                    f"{_WHOLE[name]}"
                )
        for name, amount in amounts.items():
            setattr(self, name, getattr(self, name) - amount)


_UNITS = {resource.name: resource.metadata["unit"] for resource in fields(Budget)}
_WHOLE = {resource.name: resource.default for resource in fields(Budget)}

_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def command() -> Iterator[Budget]:
    """Let everything inside draw on one budget: that of the command around it, or a new one."""
    found = _current.get()
    if found is not None:
        yield found
        return
    token = _current.set(Budget())
    try:
        found = _current.get()
        assert found is not None
        yield found
    finally:
        _current.reset(token)


def spend(what: str, **amounts: int) -> None:
    """`Budget.spend` of the command that is under way; outside of one, of a whole budget."""
    (_current.get() or Budget()).spend(what, **amounts)
