"""How a node is listed: what every entry says, and what becomes of a node that is not readable."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, GeometryError, MalformedInput, SizeMissing, UsageError
from convfc_cli.models.model import Entry
from convfc_cli.models.onnx.scope import Scope
from convfc_cli.models.sizes import Sizes, shown

Resized = Callable[[tuple[int, ...]], Entry]

Fit = Callable[[str, tuple[int, ...]], tuple[int, ...] | None]
"""How a size given for a tensor fits, by axes: empty where it settles an entry and the model takes
it, else as `sizes.Contradiction` has it; None where that is not known.
"""

MOST = 1024
"""The largest size that is tried for a hint."""

TRIES = 32
"""How many sizes are tried for a hint."""

USUAL = {2: (1, 16000), 3: (1, 1, 16000), 4: (1, 3, 224, 224), 5: (1, 1, 16, 112, 112)}
"""Of a tensor with so many axes: sizes to begin with."""


class OpenSize(SizeMissing):
    """A missing size, with a hint that is worked out when the message is read."""

    def __init__(self, message: str, find: Callable[[], str] = str) -> None:
        super().__init__(message)
        self._find: Callable[[], str] | None = find

    @property
    def hint(self) -> str:
        """A value of --input-shape that the model takes; empty where none is found, or not on what
        the command has left.
        """
        if self._find is not None:
            find, self._find, self._hint = self._find, None, ""
            with suppress(ConvfcError), budget.command():
                self._hint = find()
        return self._hint

    @hint.setter
    def hint(self, hint: str) -> None:
        self._hint = hint


def settled(
    entry: Entry,
    resized: Resized,
    shape: Callable[[], tuple[int, ...]],
    hint: Callable[[], str],
    doubt: str,
    *,
    sized: bool,
) -> Entry:
    """The entry on the input that the model gives it, or with the error that says why not: its own,
    or the `doubt` in which the sizes are of what it reads or makes; `sized` where the user gave
    sizes.
    """
    try:
        found = resized(shape())
        return replace(entry, error=MalformedInput(doubt)) if doubt else found
    except SizeMissing as error:
        if doubt:
            return replace(entry, error=MalformedInput(doubt))
        return replace(entry, error=OpenSize(str(error), hint), resizer=resized)
    except GeometryError as error:
        return replace(entry, error=UsageError(f"{error} (see --input-shape)") if sized else error)
    except ConvfcError as error:
        return replace(entry, error=error)


_SAME_WEIGHTS = frozenset("Identity Transpose Cast QuantizeLinear DequantizeLinear".split())
"""Operators whose result is a form of the weights that they are given first."""


def weight_name(scope: Scope, name: str) -> str:
    """What the model calls the stored weights that this tensor is a form of; empty where it is
    computed in any other way, or known only when the network runs.
    """
    seen: set[tuple[int, str]] = set()
    home = scope.home(name)
    while home is not None and name not in home.stored and (id(home), name) not in seen:
        seen.add((id(home), name))
        node = home.producers.get(name)
        if node is not None and node.op_type == "Constant":
            return name
        if node is None or node.op_type not in _SAME_WEIGHTS or not node.input:
            return ""
        name = node.input[0]
        home = home.home(name)
    return name if home is not None and name in home.stored else ""


def size_hint(
    scope: Scope, name: str, known: Sizes | None, rank: int, fit: Fit, beside: Sequence[Sizes] = ()
) -> str:
    """What --input-shape might be, for instance: of an input of the model that is open, else of the
    tensor of this name, of which so much is known, or so many axes. `beside` are the shapes of
    constants that it meets. Empty where nothing that is tried fits, or inference has failed.
    """
    if scope.lost:  # nothing can be tried: what is inferred would be lost each time
        return ""
    left = TRIES

    def tried(tensor: str, guess: tuple[int, ...]) -> tuple[int, ...] | None:
        nonlocal left
        left -= 1
        return fit(tensor, guess) if left >= 0 else None

    for tensor in dict.fromkeys([*scope.open_inputs, name]):
        sizes = known if tensor == name else scope.top.shape(tensor)
        if not sizes or len(sizes) < 2:
            sizes = (None,) * rank
        for template in dict.fromkeys([sizes, *_beside(sizes, beside)]):
            guess = _fitting(tensor, template, tried)
            if guess is not None:
                return f"{tensor}={shown(guess)}"
    return ""


def _beside(sizes: Sizes, constants: Sequence[Sizes]) -> Iterator[Sizes]:
    """The sizes with open ones taken from those of constants."""
    for constant in constants:
        own = (*(None,) * (len(sizes) - len(constant)), *constant)[-len(sizes) :]
        yield tuple(
            size or (other if other != 1 else None) for size, other in zip(sizes, own, strict=True)
        )
    for size in dict.fromkeys(size for constant in constants for size in constant):
        for axis in range(1, len(sizes)):
            if sizes[axis] is None:
                yield (*sizes[:axis], size, *sizes[axis + 1 :])


def _fitting(tensor: str, sizes: Sizes, fit: Fit) -> tuple[int, ...] | None:
    """Sizes that fit, in place of those that are open: the usual ones, or larger or smaller ones,
    found by bisection along each axis.
    """
    usual = USUAL.get(len(sizes), (1,) * len(sizes))
    guess = [size or other for size, other in zip(sizes, usual, strict=True)]
    low, high = [0] * len(sizes), [2 * MOST] * len(sizes)
    while 0 not in guess:
        excess = fit(tensor, tuple(guess))
        if excess is None:
            return None
        if not any(excess):
            return tuple(guess)
        before = list(guess)
        for axis in range(2, len(sizes)):
            sign = excess[axis] if len(excess) == len(sizes) else max(excess, key=abs)
            if sizes[axis] is None and sign:
                (high if sign > 0 else low)[axis] = guess[axis]
                guess[axis] = (low[axis] + high[axis]) // 2
        if guess == before:
            return None
    return None
