"""One layer of a model as it is listed, and what becomes of one whose size is open."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from convfc_cli import budget
from convfc_cli.errors import (
    ConvfcError,
    Defect,
    GeometryError,
    MalformedInput,
    SizeMissing,
    UsageError,
    WeightsAlone,
)
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.models.sizes import Account, Sizes, agreed
from convfc_cli.naming import Label
from convfc_cli.outline import Outline
from convfc_cli.runtimes.runtime import Original


def noted(number: float) -> float | str:
    """A number as a note has it: JSON has none for nan and the infinities.

    >>> noted(0.5), noted(float("inf"))
    (0.5, 'inf')
    """
    return number if isfinite(number) else str(number)


def status(error: ConvfcError | None) -> str:
    """`ready` where nothing is wrong, else `needs a size`, `weights alone` or `unsupported`."""
    if error is None:
        return "ready"
    if isinstance(error, SizeMissing):
        return "needs a size"
    return "weights alone" if isinstance(error, WeightsAlone) else "unsupported"


@dataclass(frozen=True)
class Entry:
    """One layer of a model, as it is listed."""

    position: int
    name: str
    output: str
    op: str
    error: ConvfcError | None = None
    """Why the layer cannot be loaded, and what to do about it."""

    outline: Outline | None = None
    """All of the layer but its weights; None where there is an `error`."""

    known: Sizes | None = None
    """Of a layer whose size is open, what is known of its input, (channels, *spatial)."""

    stored: tuple[int, ...] | None = None
    """The shape of weights that the file has alone, saying nothing of how they are used."""

    weight: str = ""
    """What the file calls the weights; empty where it does not, or only as it calls the layer."""

    dtype: str = ""
    """The weights' dtype in the model; empty where only loading tells."""

    layout: str = "channels-first"
    """The order in which the model itself flattens the layer's tensors: one of `layout.ORDERS`."""

    channels_last: bool = False
    """Whether the model's own tensors have their channels last."""

    flipped: bool | None = False
    """Whether the weights in the file are those of a true convolution and are flipped when they are
    loaded; None where the file does not say."""

    reads: str = ""
    """The tensor that it reads: the `output` of the layer that makes it, where that is one of the
    model's linear layers.
    """

    behind: str = ""
    """What makes that tensor, where no linear layer does: `Relu 'relu_1'`, `the input 'x'`."""

    noted: Callable[[], dict[str, Any]] = dict
    """What the model says of it besides, as JSON has it: scales, zero points, an activation."""

    loader: Callable[[], Linear] | None = None
    original: Original | None = None
    """The layer as a runtime can be given it; None where no runtime takes this kind of file."""

    resizer: "Callable[[tuple[int, ...]], Entry] | None" = None
    real: "Callable[[], Entry] | None" = None
    """Of an integer layer the real-valued one; None where it is real, or its scale not known."""

    dequantized: bool = False
    """Whether it is what `real` made of an integer layer."""

    parts: "tuple[Entry, ...]" = ()
    """Of a chain of layers these, in order; none of a single layer."""

    def __post_init__(self) -> None:
        if self.error is not None:
            self.error.without_frames()

    @property
    def label(self) -> Label:
        """What the layer answers to."""
        return Label(self.position, self.name, self.output, self.weight)

    @property
    def matrix_dtype(self) -> str:
        """The dtype of the matrix, unless the user names another: narrower floats are widened,
        integers made int32.
        """
        if "int" in self.dtype and not self.dequantized:
            return "int32"
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def status(self) -> str:
        """`ready`, `needs a size`, `weights alone` or `unsupported`."""
        return status(self.error)

    def require(self) -> Outline:
        """The outline; raises the layer's error, with its name, if it has one."""
        if self.error is not None:
            raise self._named(self.error) from self.error
        if self.outline is None:
            raise Defect(f"layer {self.name} has neither an outline nor an error")
        return self.outline

    def load(self) -> Linear:
        """The layer with its weights, as a cross-correlation. Raises what `require` raises, and
        `UsageError` where the file does not say whether its kernels are flipped.
        """
        self.require()
        if self.loader is None:
            raise Defect(f"layer {self.name} has no loader")
        try:
            if self.flipped is None:
                raise UsageError(
                    "its file does not say whether the kernels are flipped (Theano's) or not: "
                    "--flip-kernel or --no-flip-kernel says it"
                )
            layer = self.loader()
        except ConvfcError as error:
            raise self._named(error) from error
        return layer.flipped() if self.flipped and isinstance(layer, Convolution) else layer

    def _named(self, error: ConvfcError) -> ConvfcError:
        named = copy(error)
        named.args = (f"layer {self.name} ({self.op}): {error}",)
        return named

    def channels_first(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(channels, *spatial) of a tensor of this shape in the model."""
        return (shape[-1], *shape[:-1]) if self.channels_last else tuple(shape)

    def at(self, input_shape: tuple[int, ...]) -> "Entry":
        """The layer on an input of this (channels, *spatial), whatever size its model gives it."""
        if self.resizer is None:
            self.require()
            raise UsageError(f"layer {self.name} has the size that its model gives it")
        return self.resizer(input_shape)

    def settled(self, input_shape: tuple[int, ...], source: str) -> "Entry":
        """The layer on an input of this (channels, *spatial), which `source` says it has.

        Raises `UsageError` where its model gives it another.
        """
        known = self.known if self.outline is None else self.outline.input_shape
        agreed(
            f"input of {self.name}",
            Account(input_shape, source, given=True),
            Account(known, "the model, channels first"),
        )
        return self.at(input_shape)

    def as_real(self) -> "Entry":
        """The layer with real weights, whatever it is in the model.

        Raises `UsageError` for an integer layer whose scale the model does not state.
        """
        if self.matrix_dtype != "int32":
            return self
        if self.real is None:
            raise UsageError(
                f"layer {self.name} ({self.op}) states no scale: without --dequantize its matrix "
                f"is one of whole numbers"
            )
        return replace(self.real(), flipped=self.flipped, dequantized=True)


Resized = Callable[[tuple[int, ...]], Entry]


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
