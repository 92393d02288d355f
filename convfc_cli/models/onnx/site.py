"""A node that is a linear layer, as the readers of such nodes are given it, and what they return.

Tensors are stated without their first axis, the batch: what a node does to one sample is the layer.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx

from convfc_cli import budget
from convfc_cli.arrays import Array
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, SizeMissing, Unsupported
from convfc_cli.geometry import Axis
from convfc_cli.models.entry import LayerSource, ResolvedLayer
from convfc_cli.models.onnx.attributes import read_attributes
from convfc_cli.models.onnx.constants import dynamic, value, widened
from convfc_cli.models.onnx.scope import STANDARD, Scope
from convfc_cli.models.onnx.stored import MAX_RANK
from convfc_cli.models.sizes import Sizes, complete, shown

Shape = tuple[int, ...]

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""What a layer computes in; integers are shapes, labels, and the like."""

MAX_ELEMENTS = 2**27
"""Limit on a tensor whose places are listed individually."""


Fit = Callable[[str, tuple[int, ...]], tuple[int, ...] | None]
"""How a size given for a tensor fits, by axes: empty where it settles an entry and the model takes
it, else as `sizes.Contradiction` has it; None where that is not known.
"""

MAX_HINT = 1024
"""The largest size tried for a hint."""

TRIES = 32
"""How many sizes are tried for a hint."""

USUAL = {2: (1, 16000), 3: (1, 1, 16000), 4: (1, 3, 224, 224), 5: (1, 1, 16, 112, 112)}
"""Sizes to try first, by the number of axes."""


@dataclass(frozen=True, slots=True)
class ResolvedNode(ResolvedLayer):
    """A node on an input of a known size."""

    rounded: Callable[[Array], Array | float] = lambda magnitudes: 0.0
    """From the magnitudes of the input: those of what a runtime rounds on its way to each output,
    where that is more than the terms of the layer's own sums.
    """

    axes: tuple[Axis, ...] = ()
    auto_pad: str = "NOTSET"


@dataclass(frozen=True)
class LinearNode:
    """A node of a graph, and which of its inputs is what it maps."""

    scope: Scope
    node: onnx.NodeProto
    place: int = 0

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators in this graph."""
        return opset(self.scope)

    @property
    def dtype(self) -> str:
        """The element type of what it maps; empty where it is not known."""
        return self.scope.dtype(self.node.input[self.place])

    @property
    def weights(self) -> "np.dtype[Any]":
        """What weights are, that the model does not state: of what the node maps, widened."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Its attributes, those that its operator has in this version of ONNX."""
        return read_attributes(
            self.node, {name: int(a.type) for name, a in self._schema.attributes.items()}
        )

    @cached_property
    def _schema(self) -> Any:
        try:
            return onnx.defs.get_schema(self.node.op_type, self.opset)
        except (onnx.defs.SchemaError, TypeError) as error:  # of a version beyond 32 bits
            message = f"version {self.opset} of ONNX has no {self.node.op_type}"
            raise MalformedInput(message) from error

    def check(self) -> None:
        """Raise unless attributes, inputs and outputs are of a kind and number that it can have."""
        op, schema = self.node.op_type, self._schema
        missing = [name for name, attribute in schema.attributes.items() if attribute.required]
        for name in missing:
            if name not in self.attributes and name != "consumed_inputs":  # obsolete, ignored
                raise MalformedInput(f"a {op} without its attribute {name!r}")
        for what, names, least, most in (
            ("inputs", self.node.input, schema.min_input, schema.max_input),
            ("outputs", self.node.output, schema.min_output, schema.max_output),
        ):
            if not least <= len(names) <= most:
                raise MalformedInput(f"a {op} with {len(names)} {what}")
        if not self.node.output[0]:
            raise MalformedInput(f"a {op} without an output")

    def has(self, place: int) -> bool:
        """Whether there is such an input."""
        return place < len(self.node.input) and bool(self.node.input[place])

    def require(self, place: int, what: str, *, batch: bool = False) -> None:
        """Raise `Unsupported` unless this input is constant, with `batch` for a batch of 1; `what`
        it is, for errors.
        """
        reason = dynamic(self.scope, self.node.input[place], batch=batch)
        if reason:
            raise Unsupported(f"its {what} is not constant: {reason}")

    def measure(self, place: int, what: str, *, batch: bool = False) -> Shape:
        """The shape of a constant input, which is not read where that is possible."""
        self.require(place, what, batch=batch)
        return shape_of(self.scope, self.node.input[place], batch=batch)

    def constant(self, place: int) -> Array:
        """A constant input that holds weights, widened exactly where it is narrow."""
        name = self.node.input[place]
        return widened(value(self.scope, name), name)

    def type_of(self, place: int) -> str:
        """The element type of an input, as it is in the model."""
        return self.scope.dtype(self.node.input[place])

    def listed(self, place: int, what: str) -> Array:
        """An input that lists numbers for axes, and is constant for a batch of 1."""
        if prod(self.measure(place, what, batch=True)) > 2 * MAX_RANK:
            raise MalformedInput(f"its {what} lists more than {2 * MAX_RANK} numbers")
        return value(self.scope, self.node.input[place], batch=True)

    def integers(self, place: int, what: str) -> Shape | None:
        """A constant input that lists axes or sizes; None where it is not there."""
        if not self.has(place):
            return None
        array = self.listed(place, what)
        if array.dtype.kind not in "iu":
            raise MalformedInput(f"its {what} is {array.dtype}; integers are expected")
        return tuple(array.reshape(-1).tolist())

    def sizes(self) -> Sizes | None:
        """What is known of the shape of what it maps, with its batch."""
        return self.scope.shape(self.node.input[self.place])

    def shape(self, known: Sizes | None) -> Shape:
        """The shape without its batch. Raises `SizeMissing` where it is open."""
        name = self.node.input[self.place]
        if self.scope.home(name) is None:
            raise MalformedInput(f"its input {name!r} is defined nowhere in the model")
        if known is not None and len(known) < 2:
            raise Unsupported(f"its input {name!r} has {len(known)} axes: none beside the batch")
        if known is None or None in known[1:]:
            raise open_size(self.scope, name, known)
        return tuple(size for size in known[1:] if size is not None)


def shape_of(scope: Scope, name: str, *, batch: bool = False) -> Shape:
    """The shape of a constant, which is computed only where nothing else tells, and once. Raises
    what `value` raises.
    """
    shape = complete(scope.shape(name, batch=batch))
    if shape is not None:
        return shape
    measured = (scope.home(name) or scope).measured
    if (name, batch) not in measured:
        measured[name, batch] = value(scope, name, batch=batch).shape
    return measured[name, batch]


def open_size(scope: Scope, name: str, known: Sizes | None) -> SizeMissing:
    """The error for an input whose size is not settled."""
    home = scope.home(name)
    zeros = home.zeros if home is not None else ()
    sizes = [
        size if size is not None else 0 if (name, axis) in zeros else "?"
        for axis, size in enumerate(known or ())
    ]
    listed = ", ".join(map(str, sizes)) or "nothing"
    note = "; a size that is declared as 0 counts as open" if 0 in sizes else ""
    why = f"; {scope.lost}" if scope.lost else ""
    return SizeMissing(f"the size of its input {name!r} is open (known: {listed}{note}){why}")


def opset(scope: Scope) -> int:
    """The version of ONNX's own operators in a graph."""
    return next((scope.opsets[name] for name in STANDARD if name in scope.opsets), 1)


def check_tensors(*shapes: Shape) -> None:
    """Raise `Refused` for tensors of which no list of places is made."""
    largest = max(map(prod, shapes))
    if largest > MAX_ELEMENTS:
        raise Refused(f"a tensor of {largest} elements; {MAX_ELEMENTS} is the most")


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


class OpenSize(SizeMissing):
    """A missing size, with a hint that is worked out when the message is read."""

    def __init__(self, message: str, find: Callable[[], str] = str) -> None:
        super().__init__(message)
        self._find: Callable[[], str] | None = find

    @property
    def hint(self) -> str:
        """A shape, NAME=1,3,224,224, that the model takes; empty where none is found, or not on
        what the command has left.
        """
        if self._find is not None:
            find, self._find, self._hint = self._find, None, ""
            with suppress(ConvfcError), budget.command():
                self._hint = find()
        return self._hint

    @hint.setter
    def hint(self, hint: str) -> None:
        self._hint = hint


class NodeSource(LayerSource):
    """A node of which a missing size is hinted at when the message is read."""

    __slots__ = ()

    @abstractmethod
    def hint(self) -> str:
        """A shape, NAME=1,3,224,224, that the model takes; empty where none is found."""

    def asking(self, error: SizeMissing) -> SizeMissing:
        return OpenSize(str(error), self.hint)


def size_hint(
    scope: Scope, name: str, known: Sizes | None, rank: int, fit: Fit, beside: Sequence[Sizes] = ()
) -> str:
    """Which shape might be given, for instance: of an input of the model that is open, else of the
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
        aligned = (*(None,) * (len(sizes) - len(constant)), *constant)[-len(sizes) :]
        yield tuple(
            size or (other if other != 1 else None)
            for size, other in zip(sizes, aligned, strict=True)
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
    low, high = [0] * len(sizes), [2 * MAX_HINT] * len(sizes)
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
