"""How layers are called: picking one by what a person writes, and names that files can bear."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from convfc_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Label:
    """What one layer answers to: its position, its name and its output's name."""

    position: int
    name: str
    output: str


def pick(wanted: str, labels: Sequence[Label], where: str) -> Label:
    """The layer that `wanted` means.

    A layer answers to its name, its output's name, an ending of either that no other layer has, and
    `@3`, its position. Raises `UsageError` for what fits none of `where`, or several.

    >>> pick("v2", [Label(0, "net/conv1", "a"), Label(1, "net/conv2", "b")], "m.onnx").position
    1
    """
    if not wanted:
        raise UsageError("-l is empty: name a layer, or @0 for the first")
    if wanted.startswith("@") and wanted[1:].isdigit():
        for label in labels:
            if label.position == int(wanted[1:]):
                return label
        places = [label.position for label in labels]
        span = f", @{min(places)} to @{max(places)}" if places else ""
        raise UsageError(f"{where} has no layer {wanted}: it has {len(labels)}{span}")
    tests: tuple[Callable[[Label], bool], ...] = (
        lambda label: wanted in (label.name, label.output),
        lambda label: label.name.endswith(wanted) or label.output.endswith(wanted),
    )
    for test in tests:
        fitting = [label for label in labels if test(label)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            told = ", ".join(f"@{label.position} ({label.name})" for label in fitting[:8])
            raise UsageError(f"{wanted!r} fits several layers of {where}: say {told}")
    names = sorted({name for label in labels for name in (label.name, label.output)})
    close = get_close_matches(wanted, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"there are {first_few(names)}"
    raise UsageError(f"{where} has no layer {wanted!r}: {hint}")


def first_few(names: Sequence[str], most: int = 8) -> str:
    """The beginning of a list for a message, and how many are left out.

    >>> first_few(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def stem(position: int, name: str, width: int = 3) -> str:
    """A name for a file, or a group in one, that any system takes; the position makes it unique.

    >>> stem(7, "block/conv:0")
    '007-block_conv_0'
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-80:].strip("._") or "layer"
    return f"{position:0{width}}-{safe}"
