"""What a kind of model file has to offer: its layers, each a `Linear` to be loaded.

Listing a model decides what can be decided without weights: names, sizes, how many nonzeros. A
layer's weights are read when it is loaded, and a layer that is not selected need not resolve.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from convfc_cli.errors import UsageError
from convfc_cli.files import Input, Kept
from convfc_cli.models.entry import Entry
from convfc_cli.models.request import Request
from convfc_cli.naming import pick


class Network:
    """The parsed graph of a whole model, for what walks it; each reader extends it with its own."""

    def operators(self) -> tuple[str, ...]:
        """Name all that the file says that the network computes; none where it does not say."""
        return ()


@dataclass(frozen=True)
class Listing:
    """What a reader lists of a model."""

    entries: tuple[Entry, ...]
    """Its convolutions."""

    lister: Callable[[], tuple[Entry, ...]] = tuple
    """Lists the other linear layers, numbered on from the convolutions."""

    graph: Network | None = None
    """The network; None of weights alone."""


@dataclass(frozen=True)
class Model:
    """An open model: its layers, in the model's order.

    Examples
    --------
    >>> from convfc_cli.models.registry import read
    >>> model = read("sample_models/lenet.onnx")           # doctest: +SKIP
    >>> model.layer("@1").name                             # doctest: +SKIP
    'node_conv2d_1'
    """

    name: str
    kind: str
    listing: Listing = field(repr=False)
    content: Kept = field(repr=False)
    path: Path | None = None
    beside: Callable[[], Iterable[Path]] = tuple
    """Names the other files that it is read from, whether they are there or not."""

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of its file, all of which is read for it."""
        return self.content.sha256()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its convolutions."""
        return self.listing.entries

    @property
    def graph(self) -> Network | None:
        """The network as its reader has it; None of weights alone."""
        return self.listing.graph

    @cached_property
    def others(self) -> tuple[Entry, ...]:
        """Its other linear layers: pooling, batch normalization, padding, dense layers."""
        return self.listing.lister()

    @cached_property
    def readers(self) -> dict[str, list[Entry]]:
        """These others by the tensor that they read."""
        readers: dict[str, list[Entry]] = {}
        for entry in self.others:
            readers.setdefault(entry.reads, []).append(entry)
        return readers

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
        entries = (
            tuple(entry for entry in self.others if wanted & {"linear", entry.op.lower()})
            if wanted
            else ()
        )
        missing = wanted - {"linear", *(entry.op.lower() for entry in entries)}
        if missing:
            has = ", ".join(sorted({entry.op for entry in self.others})) or "none at all"
            raise UsageError(
                f"{self.name} has no linear layer of the operator {sorted(missing)[0]!r}: beside "
                f"its convolutions it has {has} (linear: all of them)"
            )
        return entries


class ModelFormat(ABC):
    """One kind of model file."""

    name: str
    summary: str
    """One line for the README's table."""

    @abstractmethod
    def recognizes(self, source: Input) -> bool:
        """Whether a file is of this kind, by its first bytes, not by its suffix."""

    @abstractmethod
    def open(self, source: Input, request: Request) -> Model:
        """List the layers, with open sizes as `request` gives them; of weights alone, the layer
        that it describes.

        The model stays readable after `source` is closed. Raises `MalformedInput`, `Refused`, and
        `UsageError` for shapes or a description that do not fit.
        """
