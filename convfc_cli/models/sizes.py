"""What a tensor measures, whatever the reader: one account of it, out of what several sources say.

A file declares shapes, inference derives some, and the user gives some. They must not contradict
each other: no source is silently taken before another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from convfc_cli.errors import MalformedInput, UsageError
from convfc_cli.hints import Advice, Hint

GIVEN = "the given shape"
"""The user's account of a tensor, as a message names it."""

Sizes = tuple[int | None, ...]
"""A shape, None for each size that is open."""


@dataclass(frozen=True)
class Account:
    """What one source says of a tensor's shape; None altogether where it says nothing."""

    sizes: Sequence[int | None] | None
    source: str
    """`GIVEN`, `the file`, `shape inference`: as a message names it."""

    given: bool = False
    """Whether it is the user's."""


def agreed(tensor: str, *accounts: Account) -> Sizes | None:
    """The shape of a tensor by all accounts together; None where none says anything.

    Raises `UsageError` where the user's contradicts another, `MalformedInput` where two others
    contradict each other. Both sources are named.

    >>> agreed("x", Account((1, 3, None), "the file"), Account((None, 3, 8), "shape inference"))
    (1, 3, 8)
    """
    known = [account for account in accounts if account.sizes is not None]
    if not known:
        return None
    shape: list[int | None] = [None] * len(known[0].sizes or ())
    sources = [known[0]] * len(shape)
    """The first account that has the size, for each axis."""
    for account in known:
        sizes = account.sizes or ()
        if len(sizes) != len(shape):
            raise _contradiction(tensor, known[0], account)
        for axis, size in enumerate(sizes):
            if size is not None and shape[axis] is None:
                shape[axis], sources[axis] = size, account
            elif size is not None and shape[axis] != size:
                raise _contradiction(tensor, sources[axis], account)
    return tuple(shape)


def _contradiction(tensor: str, first: Account, second: Account) -> UsageError | MalformedInput:
    """The error for two accounts of which at most one is right."""
    if second.given:
        first, second = second, first
    kind = UsageError if first.given else MalformedInput
    text = (f"{shown(account.sizes or ())} by {account.source}" for account in (first, second))
    hints = [Hint(Advice.SHAPE)] if first.source == GIVEN else []
    return kind(f"the tensor {tensor!r} is {', '.join(text)}", *hints)


def complete(sizes: Sizes | None) -> tuple[int, ...] | None:
    """A shape that has no open size; None for any other.

    >>> complete((1, 3)), complete((1, None)), complete(None)
    ((1, 3), None, None)
    """
    known = tuple(size for size in sizes or () if size is not None)
    return known if sizes is not None and len(known) == len(sizes) else None


def shown(sizes: Sequence[int | None]) -> str:
    """Return a shape as messages have it.

    >>> shown((1, None, 8))
    '1,?,8'
    """
    return ",".join("?" if size is None else str(size) for size in sizes) or "a scalar"
