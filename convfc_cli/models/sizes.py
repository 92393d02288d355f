"""What a tensor measures, whatever the reader: one account of it, out of what several sources say.

A file declares shapes, inference derives some, and the user gives some. They must not contradict
each other: no source is silently taken before another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from convfc_cli.errors import MalformedInput, UsageError

Sizes = tuple[int | None, ...]
"""A shape, None for each size that is open."""


@dataclass(frozen=True)
class Account:
    """What one source says of a tensor's shape; None altogether where it says nothing."""

    sizes: Sequence[int | None] | None
    source: str
    """`--input-shape`, `the file`, `shape inference`: as a message names it."""

    given: bool = False
    """Whether it is the user's."""


def agreed(tensor: str, *accounts: Account) -> Sizes | None:
    """The shape of a tensor by all accounts together; None where none says anything.

    Raises `UsageError` where the user's contradicts another, `MalformedInput` where two others
    contradict each other. Both sources are named.

    >>> agreed("x", Account((1, 3, None), "the file"), Account((None, 3, 8), "shape inference"))
    (1, 3, 8)
    """
    found: list[int | None] | None = None
    for number, account in enumerate(accounts):
        if account.sizes is None:
            continue
        for before in accounts[:number]:
            _hold(tensor, before, account)
        if found is None:
            found = [None] * len(account.sizes)
        found = [
            own if own is not None else size for own, size in zip(found, account.sizes, strict=True)
        ]
    return None if found is None else tuple(found)


def _hold(tensor: str, first: Account, second: Account) -> None:
    """Raise where two accounts contradict each other."""
    if first.sizes is None or second.sizes is None or _agree(first.sizes, second.sizes):
        return
    if second.given:
        first, second = second, first
    kind = UsageError if first.given else MalformedInput
    told = (f"{shown(account.sizes or ())} by {account.source}" for account in (first, second))
    raise kind(f"the tensor {tensor!r} is {', '.join(told)}")


def _agree(first: Sequence[int | None], second: Sequence[int | None]) -> bool:
    return len(first) == len(second) and all(
        a == b or a is None or b is None for a, b in zip(first, second, strict=True)
    )


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
