"""How layers are called: picking one by what a person writes, and names that files can bear."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from convfc_cli.errors import UsageError

MAX_NAME_LENGTH = 200
"""Limit on a name compared for a hint: comparing two takes time in proportion to the product."""


@dataclass(frozen=True, slots=True)
class Label:
    """What one layer answers to."""

    position: int
    name: str
    output: str
    weight: str = ""
    """The name of its weights, `layer1.0.conv1.weight`; empty where they have none."""

    def names(self) -> tuple[str, ...]:
        """Its name, that of its weights without its ending, and its output's, each once.

        >>> Label(0, "node_Conv_293", "getitem", "layer1.0.conv1.weight").names()
        ('node_Conv_293', 'layer1.0.conv1', 'getitem')
        """
        names = (self.name, without_ending(self.weight), self.output)
        return tuple(dict.fromkeys(filter(None, names)))

    def all_names(self) -> tuple[str, ...]:
        """These, and the whole name of its weights."""
        return (*self.names(), self.weight)


def without_ending(weight: str) -> str:
    """The name of weights without its last component; empty where it has one alone.

    >>> [without_ending(name) for name in ("layer1.0.conv1.weight", "conv/kernel:0", "w")]
    ['layer1.0.conv1', 'conv', '']
    """
    return weight[: max(weight.rfind("."), weight.rfind("/"), 0)]


_ANSWERS: tuple[Callable[[Label, str], bool], ...] = (
    lambda label, wanted: wanted in (label.name, label.output),
    lambda label, wanted: wanted in (label.weight, without_ending(label.weight)),
    lambda label, wanted: any(name.endswith(wanted) for name in (label.name, label.output)),
    lambda label, wanted: any(_in_components(wanted, name) for name in label.all_names()),
    lambda label, wanted: any(wanted in name for name in label.all_names()),
)
"""How a layer answers to a word, the strictest first: by its name or its output's; the name of its
weights; an ending of the first two; components of any of them; any part of any of them."""


def _in_components(wanted: str, name: str) -> bool:
    """Whether a name has these whole components, of those that / . or : parts.

    >>> _in_components("conv1", "/conv1/Conv"), _in_components("conv1", "/conv10/Conv")
    (True, False)
    """
    return re.search(rf"(?:^|[/.:]){re.escape(wanted)}(?:[/.:]|$)", name) is not None


def pick(wanted: str, labels: Sequence[Label], where: str) -> Label:
    """The layer that `wanted` means.

    A layer answers to `@3`, its position; to its name and its output's name; to the name of its
    weights, with and without its ending; to an ending of its name or its output's; to components of
    any of these as paths; and to any part of them. The first of these by which any layer answers
    decides, and by that it has to be one layer alone. Raises `UsageError` for what fits none of
    `where`, or several.

    >>> pick("v2", [Label(0, "net/conv1", "a"), Label(1, "net/conv2", "b")], "m.onnx").position
    1
    """
    if not wanted:
        raise UsageError("the name of a layer is empty: name one, or @0 for the first")
    if re.fullmatch("@[0-9]+", wanted):
        position = wanted[1:].lstrip("0") or "0"  # as a text: it may have any number of digits
        for label in labels:
            if str(label.position) == position:
                return label
        places = [label.position for label in labels]
        span = f", @{min(places)} to @{max(places)}" if places else ""
        raise UsageError(f"{where} has no layer {wanted}: it has {len(labels)}{span}")
    for answers in _ANSWERS:
        fitting = [label for label in labels if answers(label, wanted)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            text = first_few([f"@{label.position} ({label.name})" for label in fitting])
            raise UsageError(f"{wanted!r} fits several layers of {where}: say {text}")
    close = _close(wanted, labels)
    hint = (
        f"did you mean {', '.join(close)}?"
        if close
        else f"there are {first_few([label.name for label in labels])}"
    )
    raise UsageError(f"{where} has no layer {wanted!r}: {hint}")


def _close(wanted: str, labels: Sequence[Label], most: int = 3) -> list[str]:
    """The names that are most like what was wanted, one for a layer."""
    if len(wanted) > MAX_NAME_LENGTH:
        return []
    owners = {
        name: label.position
        for label in reversed(labels)
        for name in label.names()
        if len(name) <= MAX_NAME_LENGTH
    }
    names: dict[int, str] = {}
    for name in get_close_matches(wanted, owners, n=3 * most, cutoff=0.5):
        names.setdefault(owners[name], name)
    return list(names.values())[:most]


def shell_command(words: Iterable[str]) -> str:
    """A command as it can be given to a shell, whatever characters its words have.

    >>> shell_command(["convfc", "inspect", "a  b.onnx", "x\\ny.onnx"])
    "convfc inspect 'a  b.onnx' $'x\\\\x0ay.onnx'"
    """
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    """A word for bash, ksh and zsh, with what cannot be printed as numbers."""
    parts = []
    for character in word:
        if character in "\\'":
            parts.append(f"\\{character}")
        elif character.isprintable():
            parts.append(character)
        else:
            parts += [f"\\x{byte:02x}" for byte in os.fsencode(character)]
    return f"$'{''.join(parts)}'"


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
