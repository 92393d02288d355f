"""What a kind of model file has to offer: its layers, each a `Linear` to be loaded.

Listing a model decides what can be decided without weights: names, sizes, how many nonzeros. A
layer's weights are read when it is loaded, and a layer that nobody selects need not resolve.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from convfc_cli.errors import ConvfcError, Defect, Refused, SizeMissing, UsageError, WeightsAlone
from convfc_cli.files import Input
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.models.sizes import Account, Sizes, agreed
from convfc_cli.naming import Label, pick
from convfc_cli.outline import Outline
from convfc_cli.rounding import Witness
from convfc_cli.runtimes.registry import runtimes
from convfc_cli.runtimes.runtime import Original


def noted(number: float) -> float | str:
    """A number as a note has it: JSON has none for nan and the infinities.

    >>> noted(0.5), noted(float("inf"))
    (0.5, 'inf')
    """
    return number if isfinite(number) else str(number)


Shapes = Mapping[str | None, Sequence[int]]
"""Shapes of tensors, by name; None names the model's only input."""


def by_tensor(given: Shapes | Sequence[int] | None) -> Shapes:
    """Shapes by name from what the functions of the API take: a mapping, one shape, or nothing.

    >>> by_tensor((1, 3, 224, 224))
    {None: (1, 3, 224, 224)}
    """
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else {None: tuple(given)}


Pads = str | tuple[tuple[int, int], ...]
"""valid, same, same-lower, causal, or the zeros before and after along each axis."""


@dataclass(frozen=True)
class Bare:
    """What a person says of a convolution of which a file has only the weights.

    `order` names the axes of the stored kernel: o output channels, i input channels, m the outputs
    of each input channel (depthwise), d, h and w the spatial ones. Of o and i, the one that groups
    share out is stored for each group: i, or o where `transposed`. One number in `stride`, `pad`,
    `dilation` or `output_padding` stands for all axes.
    """

    weight: str
    order: str
    bias: str | None = None
    """The dataset of the bias; None where nothing is said of one, empty where there is none."""

    stride: tuple[int, ...] = (1,)
    pad: Pads = ((0, 0),)
    dilation: tuple[int, ...] = (1,)
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = (0,)


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

    def witnesses(self, random: Any) -> Iterator[Witness | str]:
        """The original layer run by one runtime after another, or why one does not run it.

        All are given the same inputs, drawn from the NumPy generator `random`. Those that are not
        installed come last.
        """
        if self.original is None:
            yield "no runtime runs this kind of file"
            return
        missing = {runtime: runtime.missing() for runtime in runtimes()}
        for runtime in sorted(missing, key=lambda runtime: bool(missing[runtime])):
            if missing[runtime]:
                yield f"{runtime.name} is not installed: {missing[runtime]}"
                continue
            try:
                found = self.original.witness(runtime, deepcopy(random))
            except Refused as error:  # no fault of the layer, which is read already
                found = str(error)
            yield found


@dataclass(frozen=True)
class Model:
    """An open model: its layers, in the model's order."""

    name: str
    kind: str
    entries: tuple[Entry, ...]
    """Its convolutions."""

    sha256: str
    path: Path | None = None
    lister: Callable[[], tuple[Entry, ...]] = tuple
    """Lists the other linear layers, numbered on from the convolutions."""

    beside: Callable[[], Iterable[Path]] = tuple
    """Names the other files that it is read from, whether they are there or not."""

    operators: tuple[str, ...] = ()
    """Of all that the file says that the network computes; none where it does not say."""

    @cached_property
    def others(self) -> tuple[Entry, ...]:
        """Its other linear layers: pooling, batch normalization, padding, dense layers."""
        return self.lister()

    @cached_property
    def readers(self) -> dict[str, list[Entry]]:
        """These others by the tensor that they read."""
        found: dict[str, list[Entry]] = {}
        for entry in self.others:
            found.setdefault(entry.reads, []).append(entry)
        return found

    def layers(self) -> Iterator[Entry]:
        """All of them: the convolutions, and the others, which are not listed before that."""
        yield from self.entries
        yield from self.others

    def select(self, wanted: Sequence[str], kinds: Sequence[str] = ()) -> tuple[Entry, ...]:
        """The layers of these names (see `naming.pick`), in the model's order; where none is named
        all convolutions, and the other linear layers of these operators (`linear`: all).

        Raises `UsageError` for a name or an operator that no layer has.
        """
        if wanted:
            chosen = {entry.position: entry for entry in map(self.layer, wanted)}
            chosen |= {entry.position: entry for entry in self.of_kinds(kinds)}
            return tuple(chosen[position] for position in sorted(chosen))
        return self.entries + self.of_kinds(kinds)

    def layer(self, name: str) -> Entry:
        """The layer of this name among all linear layers; the others are not listed for the
        position of a convolution.
        """
        for entry in self.entries:
            if name == f"@{entry.position}":
                return entry
        entries = tuple(self.layers())
        labels = [entry.label for entry in entries]
        return entries[labels.index(pick(name, labels, self.name))]

    def of_kinds(self, kinds: Sequence[str]) -> tuple[Entry, ...]:
        """The other linear layers of these operators, whatever their case; `linear` is all."""
        wanted = {kind.lower() for kind in kinds}
        found = (
            tuple(entry for entry in self.others if wanted & {"linear", entry.op.lower()})
            if wanted
            else ()
        )
        missing = wanted - {"linear", *(entry.op.lower() for entry in found)}
        if missing:
            has = ", ".join(sorted({entry.op for entry in self.others})) or "none at all"
            raise UsageError(
                f"{self.name} has no linear layer of the operator {sorted(missing)[0]!r}: beside "
                f"its convolutions it has {has} (linear: all of them)"
            )
        return found


class ModelFormat(ABC):
    """One kind of model file."""

    name: str
    summary: str
    """One line for the README's table."""

    @abstractmethod
    def recognises(self, source: Input) -> bool:
        """Whether a file is of this kind, by its first bytes, not by its suffix."""

    @abstractmethod
    def open(self, source: Input, shapes: Shapes, bare: Bare | None = None) -> Model:
        """List the layers, with sizes settled by `shapes`; with `bare`, the one that it describes.

        The model stays readable after `source` is closed. Raises `MalformedInput`, `Refused`, and
        `UsageError` for shapes or a description that do not fit.
        """
