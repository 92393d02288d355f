"""How a node is listed: what every entry says, and what becomes of a node that is not readable."""

from collections.abc import Callable
from dataclasses import replace

from convfc_cli.errors import ConvfcError, GeometryError, SizeMissing, UsageError
from convfc_cli.models.model import Entry
from convfc_cli.models.onnx_scope import Scope

Resized = Callable[[tuple[int, ...]], Entry]


def settled(
    entry: Entry,
    resized: Resized,
    shape: Callable[[], tuple[int, ...]],
    hint: Callable[[], str],
    *,
    sized: bool,
) -> Entry:
    """The entry on the input that the model gives it, or with the error that says why not; `sized`
    where the user gave sizes.
    """
    try:
        return resized(shape())
    except SizeMissing as error:
        error.hint = hint()
        return replace(entry, error=error, resizer=resized)
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


def size_hint(scope: Scope, name: str, rank: int, channels: int | None = None) -> str:
    """What --input-shape might be, for instance: of the model's input if that is open, else of the
    tensor of this name, which has so many axes and, where it is known, channels.
    """
    free = scope.open_input
    sizes = scope.top.shapes.get(free) if free else scope.shape(name)
    tensor = free or name
    if not sizes or len(sizes) < 2:
        sizes = (None,) * rank
    usual = {2: (1, 16000), 3: (1, 1, 16000), 4: (1, 3, 224, 224), 5: (1, 1, 16, 112, 112)}
    guess = usual.get(len(sizes), (1,) * len(sizes))
    values = [size or other for size, other in zip(sizes, guess, strict=True)]
    if tensor == name and channels is not None:
        values[1] = channels
    return f"{tensor}={','.join(map(str, values))}"
