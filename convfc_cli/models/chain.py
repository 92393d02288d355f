"""Chains of linear layers: which there are in a model, and one as a layer of its own.

A layer follows another where it reads the very tensor that the other makes (`Entry.reads`). What is
composed is the map from what the first reads to what the last makes; what else reads a tensor in
between is not looked at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, GeometryError, SizeMissing, Unsupported, UsageError
from convfc_cli.layers.compose import composed
from convfc_cli.layers.filling import filled
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import check_chain
from convfc_cli.layers.product import parts as factors
from convfc_cli.models.entry import Entry, ResolvedLayer
from convfc_cli.models.model import Model
from convfc_cli.taps import IndexMap

NORMALIZATION = "BatchNormalization"

PART = 64
"""Operations on the budget for each layer of a chain that is listed: what it takes to hold it to
those beside it."""


def compose(model: Model, between: str) -> Entry:
    """The chain FIRST:LAST of a model as one layer.

    FIRST and LAST are layers (see `naming.pick`); FIRST may also be the tensor that the first layer
    reads. A name may have colons in it. Raises `UsageError` where there is no such chain, saying
    what interrupts it, and the error of a layer that cannot be converted.
    """
    places = [place for place, letter in enumerate(between) if letter == ":"]
    if not places:
        raise UsageError(f"the chain {between!r}: write FIRST:LAST, two layers or one and the same")
    if between[0] == ":" or between[-1] == ":":
        side = "first" if between[0] == ":" else "last"
        raise UsageError(f"the chain {between!r} lacks its {side} layer: write FIRST:LAST")
    chains: dict[tuple[int, ...], list[Entry]] = {}
    reasons = []
    for place in places:
        try:
            last = model.layer(between[place + 1 :])
            parts = _back(model, last, _first(model, between[:place]))
            chains[tuple(part.position for part in parts)] = parts
        except UsageError as reason:
            reasons.append(reason)
    if len(chains) == 1:
        (parts,) = chains.values()
        return chained(parts)
    if chains:
        text = " or ".join(f"@{places[0]}:@{places[-1]}" for places in chains)
        raise UsageError(f"{between!r} names several chains: say {text}")
    raise (
        reasons[-1]
        if len(reasons) == 1
        else UsageError(f"{between!r} names no chain: {'; '.join(map(str, reasons))}")
    )


def again(model: Model, first: str, last: str, shape: tuple[int, ...]) -> Entry | None:
    """The chain between the layers with these outputs, on an input of this shape where the model
    leaves its size open; None where there is none.
    """
    makers = _makers(model)
    if first not in makers or last not in makers:
        return None
    return chained(_back(model, makers[last], lambda entry: entry.output == first), shape)


def chained(parts: Sequence[Entry], shape: tuple[int, ...] | None = None) -> Entry:
    """Layers that follow on each other as one. A size that the model leaves open is that of what
    the layer before makes; of the first, `shape`.
    """
    parts = [single for part in parts for single in part.parts or (part,)]
    if len(parts) == 1:
        return parts[0]
    parts = list(_sized(parts, shape))
    check_chain([part.require() for part in parts])
    product = _composed(parts)
    return _as_one(
        ComposedLayer(product.outline, lambda: product, product.dtype.name, tuple(parts))
    )


def _composed(parts: Sequence[Entry]) -> Linear:
    return composed([real(part) for part in parts])


@dataclass(frozen=True, slots=True)
class ComposedLayer(ResolvedLayer):
    """Layers that follow on each other as one."""

    parts: tuple[Entry, ...]

    def notes(self) -> dict[str, Any]:
        return {part.output: notes for part in self.parts if (notes := part.notes())}


def _as_one(layer: ComposedLayer) -> Entry:
    """Layers that follow on each other, listed as one."""
    parts = layer.parts
    first, last = parts[0], parts[-1]
    return replace(
        last,
        position=min(part.position for part in parts),  # of its first convolution, if it has one
        name=f"{first.name}:{last.name}",
        op="+".join(part.op for part in parts),
        error=None,
        resolved=layer,
        source=None,
        weight="",
        dtype=layer.dtype,
        flipped=False,
        reads=first.reads,
        producer=first.producer,
        remarks={},
        parts=parts,
    )


def _sized(parts: Sequence[Entry], shape: tuple[int, ...] | None) -> Iterator[Entry]:
    for part in parts:
        sized = part.at(shape) if shape and isinstance(part.error, SizeMissing) else part
        shape = sized.require().output_shape
        yield sized


def real(part: Entry) -> Linear:
    """A layer of a chain, of an integer one the real-valued: integers are not multiplied, for
    their sums may not fit.
    """
    return _real(part).load()


def _real(part: Entry) -> Entry:
    try:
        return part.as_real()
    except UsageError as error:
        raise Unsupported(
            f"layer {part.name} ({part.op}) has integers for weights and states no scale: it "
            f"is not part of a chain"
        ) from error


def normalized(model: Model, entry: Entry) -> Entry:
    """A convolution with the batch normalization that reads its output, where one does. Raises
    `UsageError` where several do.
    """
    if entry.position >= len(model.entries):
        return entry
    normalizations = [
        other
        for other in model.readers.get(entry.output, ())
        if other.op == NORMALIZATION and other.producer is None
    ]
    if len(normalizations) > 1:
        names = " or ".join(f"{entry.name}:{other.name}" for other in normalizations)
        raise UsageError(f"several batch normalizations read {entry.name!r}: compose {names}")
    return chained([entry, *normalizations])


@dataclass(frozen=True)
class Chain:
    """Layers that compose, and what that would cost."""

    parts: tuple[Entry, ...]

    @cached_property
    def error(self) -> ConvfcError | None:
        """Why it does not compose, as far as that is known before weights are read."""
        try:
            parts = [_real(part) for part in _sized(self.parts, None)]
            for one, other in pairwise(parts):
                made, taken = one.require().output_shape, other.require().input_shape
                if made != taken:
                    raise GeometryError(f"{one.name} makes {made}, {other.name} takes {taken}")
        except ConvfcError as error:
            return error
        return None

    @cached_property
    def entry(self) -> Entry | ConvfcError:
        """It as one layer that is not loaded, its entries counted at most; or why it does not
        compose.
        """
        if self.error is not None:
            return self.error
        try:
            parts = list(_sized(self.parts, None))
            check_chain([part.require() for part in parts])
            wide = any(part.dtype == "float64" for part in parts)
            dtype = "float64" if wide else "float32"
            load = partial(_composed, parts)
            return _as_one(ComposedLayer(filled(_layers(parts)), load, dtype, tuple(parts)))
        except ConvfcError as error:
            return error


def chains(model: Model) -> Iterator[Chain]:
    """The longest chains of a model, each named by its last layer."""
    makers = _makers(model)
    read = {entry.reads for entry in makers.values() if entry.producer is None}
    for entry in makers.values():
        if entry.output in read:
            continue
        parts = [entry]
        while (maker := _maker(makers, parts[-1])) and len(parts) <= len(makers):
            parts.append(maker)
        budget.spend(f"the chain that ends in {entry.name!r}", operations=PART * len(parts))
        if len(parts) > 1:
            yield Chain(tuple(reversed(parts)))


def _layers(entries: Iterable[Entry]) -> Iterator[IndexMap | Linear]:
    """Yield the layers whose entries are counted, without reading the weights of a convolution.

    Each is loaded when needed, and the work done with it is on the budget too.
    """
    for entry in entries:
        with budget.current().timed("the size of a chain"):
            outline = entry.require()
            yield from [outline] if isinstance(outline, IndexMap) else factors(entry.load())


def _maker(makers: Mapping[str, Entry], entry: Entry) -> Entry | None:
    """The layer that makes what another reads; None where something else stands in between."""
    return makers.get(entry.reads) if entry.producer is None else None


def _makers(model: Model) -> dict[str, Entry]:
    return {entry.output: entry for entry in (*model.entries, *model.others)}


def _first(model: Model, name: str) -> Callable[[Entry], bool]:
    """Tells the first layer of a chain: the layer of this name, or that which reads the tensor."""
    named = any(name in (entry.name, entry.output) for entry in model.layers())
    if not named and any(entry.reads == name for entry in model.layers()):
        return lambda entry: entry.reads == name
    position = model.layer(name).position
    return lambda entry: entry.position == position


def _back(model: Model, last: Entry, is_first: Callable[[Entry], bool]) -> list[Entry]:
    """The layers from the first to the last."""
    makers = _makers(model)
    parts = [last]
    while not is_first(parts[-1]):
        maker = _maker(makers, parts[-1])
        if maker is None or len(parts) > len(makers):
            read = parts[-1].producer or f"the tensor {parts[-1].reads!r}"
            raise UsageError(
                f"linear layers alone lead to {last.name!r} only from {parts[-1].name!r} on, which "
                f"reads {read}"
            )
        parts.append(maker)
    return parts[::-1]
