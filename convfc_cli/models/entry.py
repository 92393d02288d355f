"""One layer of a model as it is listed, and what becomes of one whose size is open."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from convfc_cli.errors import (
    ConvfcError,
    Defect,
    GeometryError,
    MalformedInput,
    SizeMissing,
    UsageError,
    WeightsAlone,
)
from convfc_cli.hints import Advice, Hint
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.models.producer import Producer
from convfc_cli.models.sizes import GIVEN, Account, Sizes, agreed
from convfc_cli.naming import Label
from convfc_cli.outline import Outline
from convfc_cli.runtimes.runtime import RunnableLayer
from convfc_cli.taps import IndexMap


def status(error: ConvfcError | None) -> str:
    """`ready` where nothing is wrong, else `needs a size`, `weights alone` or `unsupported`."""
    if error is None:
        return "ready"
    if isinstance(error, SizeMissing):
        return "needs a size"
    return "weights alone" if isinstance(error, WeightsAlone) else "unsupported"


@dataclass(frozen=True, slots=True)
class ResolvedLayer:
    """A layer on an input of one size: all of it but its weights, and how to load them.

    A reader that knows more of its layers than this extends the class.
    """

    outline: Outline
    load: Callable[[], Linear]
    """The layer with its weights, as the file stores them."""

    dtype: str
    """The weights' dtype in the model; empty where only loading tells."""

    def notes(self) -> dict[str, Any]:
        """Scales, zero points, an activation, as JSON: what the model says of the layer besides."""
        return {}

    def runnable(self) -> RunnableLayer | None:
        """The layer as a runtime can be given it; None where no runtime takes this kind of file."""
        return None

    def as_real(self) -> "ResolvedLayer | None":
        """The real-valued layer of an integer one; None where its scale is not known."""
        return None


class LayerSource(ABC):
    """A layer of a model as its reader has it, which resolves on an input of any size."""

    __slots__ = ()

    @property
    def known(self) -> Sizes | None:
        """What is known of the input where its size is open, (channels, *spatial)."""
        return None

    @abstractmethod
    def listed(self) -> ResolvedLayer:
        """The layer on the input that its model gives it.

        Raises `SizeMissing` where that is open, and what else keeps the layer from being converted.
        """

    @abstractmethod
    def at(self, input_shape: tuple[int, ...]) -> ResolvedLayer:
        """The layer on an input of this (channels, *spatial), whatever size its model gives it."""

    def doubt(self) -> str:
        """What contradicts the sizes that the model gives it; empty where nothing does."""
        return ""

    def asking(self, error: SizeMissing) -> SizeMissing:
        """The error with a size that would do, for instance. Raises what is worse."""
        return error


@dataclass(frozen=True, slots=True)
class Entry:
    """One layer of a model, as it is listed.

    Examples
    --------
    >>> from convfc_cli.models.registry import read
    >>> entry = read("sample_models/lenet.onnx").layer("@0")  # doctest: +SKIP
    >>> entry.require().output_shape                       # doctest: +SKIP
    (6, 28, 28)
    """

    position: int
    name: str
    output: str
    op: str
    error: ConvfcError | None = None
    """Why the layer cannot be loaded, and what to do about it."""

    resolved: ResolvedLayer | None = field(default=None, repr=False, compare=False)
    """The layer itself; None where there is an `error`."""

    source: LayerSource | None = field(default=None, repr=False, compare=False)
    """What resolves it on an input of another size; None where nothing does."""

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

    producer: Producer | None = None
    """What makes that tensor, where no linear layer does."""

    remarks: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What the listing itself says of the layer besides, as JSON."""

    dequantized: bool = False
    """Whether it is what `as_real` made of an integer layer."""

    parts: "tuple[Entry, ...]" = ()
    """Of a chain of layers these, in order; none of a single layer."""

    def __post_init__(self) -> None:
        if (self.error is None) == (self.resolved is None):
            raise Defect(f"layer {self.name} must have an outline or an error")
        if self.error is not None:
            self.error.without_frames()

    @property
    def outline(self) -> Outline | None:
        """All of the layer but its weights; None where there is an `error`."""
        return None if self.resolved is None else self.resolved.outline

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

    def notes(self) -> dict[str, Any]:
        """What the model says of the layer besides, as JSON: scales, zero points, an activation."""
        return {**self.remarks, **(self.resolved.notes() if self.resolved else {})}

    def _required(self) -> ResolvedLayer:
        if self.resolved is None:
            assert self.error is not None
            raise self.named(self.error) from self.error
        return self.resolved

    def require(self) -> Outline:
        """The outline; raises the layer's error, with its name, if it has one."""
        return self._required().outline

    def load(self) -> Linear:
        """The layer with its weights, as a cross-correlation. Raises what `require` raises, and
        `UsageError` where the file does not say whether its kernels are flipped.
        """
        resolved = self._required()
        try:
            if self.flipped is None:
                raise UsageError(
                    "its file does not say whether the kernels are flipped (Theano's) or not",
                    Hint(Advice.FLIP),
                )
            layer = resolved.load()
        except ConvfcError as error:
            raise self.named(error) from error
        return layer.flipped() if self.flipped and isinstance(layer, Convolution) else layer

    def with_flip(self, flipped: bool) -> "Entry":
        """The layer with its kernel flipped, or as it is stored. Raises `UsageError` where one that
        is not a convolution is to be flipped.
        """
        if flipped and not isinstance(self.require(), IndexMap):
            raise UsageError(
                f"layer {self.name} ({self.op}) is not a convolution: it has no kernel to flip"
            )
        return replace(self, flipped=flipped)

    def named(self, error: ConvfcError) -> ConvfcError:
        """The error with the name of the layer in front."""
        named = copy(error)
        named.args = (f"layer {self.name} ({self.op}): {error}",)
        return named

    def channels_first(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(channels, *spatial) of a tensor of this shape in the model."""
        return (shape[-1], *shape[:-1]) if self.channels_last else tuple(shape)

    def _on(self, resolved: ResolvedLayer) -> "Entry":
        return replace(self, error=None, resolved=resolved, dtype=resolved.dtype)

    def at(self, input_shape: tuple[int, ...]) -> "Entry":
        """The layer on an input of this (channels, *spatial), whatever size its model gives it."""
        if self.source is None or self.status == "unsupported":
            self.require()
            raise UsageError(f"layer {self.name} has the size that its model gives it")
        return self._on(self.source.at(input_shape))

    def with_input(self, input_shape: tuple[int, ...], source: str) -> "Entry":
        """The layer on an input of this (channels, *spatial), which `source` says it has.

        Raises `UsageError` where its model gives it another.
        """
        known = self.source.known if self.source is not None else None
        known = known if self.outline is None else self.outline.input_shape
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
        resolved = self._required()
        try:
            real = resolved.as_real()
        except ConvfcError as error:
            raise self.named(error) from error
        if real is None:
            raise UsageError(
                f"layer {self.name} ({self.op}) states no scale: its matrix can only be "
                f"one of integers"
            )
        return replace(self._on(real), source=None, dequantized=True)

    def runnable(self) -> RunnableLayer | None:
        """The layer as a runtime can be given it; None where no runtime takes this kind of file."""
        return None if self.resolved is None else self.resolved.runnable()


Draft = Callable[..., Entry]
"""An entry but for what its source makes of it: it takes `source`, and `resolved` or `error`."""


def resolve(draft: Draft, source: LayerSource, *, sized: bool = False) -> Entry:
    """The entry on the input that the model gives it, or with the error that says why not: that of
    its source, or the doubt in which its sizes are; `sized` where the user gave sizes.
    """
    try:
        resolved = source.listed()
        if doubt := source.doubt():
            return draft(source=source, error=MalformedInput(doubt))
        return draft(source=source, resolved=resolved, dtype=resolved.dtype)
    except SizeMissing as missing:
        if doubt := source.doubt():
            return draft(source=source, error=MalformedInput(doubt))
        try:
            return draft(source=source, error=source.asking(missing))
        except ConvfcError as worse:
            return draft(source=source, error=worse)
    except GeometryError as error:
        return draft(source=source, error=UsageError(f"{error} (with {GIVEN})") if sized else error)
    except ConvfcError as error:
        return draft(source=source, error=error)
