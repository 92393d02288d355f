"""Which layers of a model a job takes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from convfc_cli.errors import MalformedInput, UsageError
from convfc_cli.files import opened
from convfc_cli.hints import Advice, Hint
from convfc_cli.models import chain
from convfc_cli.models import registry as model_formats
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.models.request import Request, Shapes
from convfc_cli.models.sizes import GIVEN


@dataclass(frozen=True)
class Selection:
    """The layers that are taken; by default all convolutions.

    Raises `UsageError` for chains beside single layers.
    """

    layers: tuple[str, ...] = ()
    """Names of layers; see `naming.pick`."""

    include: tuple[str, ...] = ()
    """Operators whose layers are taken beside the convolutions; `linear` is all of them."""

    compose: tuple[str, ...] = ()
    """Chains FIRST:LAST, each one matrix, taken in place of single layers."""

    fold_bn: bool = False
    """Whether each convolution is taken with the batch normalization that reads it."""

    def __post_init__(self) -> None:
        if self.compose and (self.layers or self.include):
            raise UsageError(
                "chains are composed in place of single layers", Hint(Advice.CHAINS_ALONE)
            )


def names(given: Sequence[str] | str) -> tuple[str, ...]:
    """One name, or several.

    >>> names("conv1")
    ('conv1',)
    """
    return (given,) if isinstance(given, str) else tuple(given)


def select(
    path: str | os.PathLike[str], selection: Selection, request: Request
) -> tuple[Model, tuple[Entry, ...]]:
    """Open a model and pick layers; a nameless shape is the only input's or the only layer's."""
    with opened(path) as source:
        nameless = request.shapes.get(None) if len(selection.layers) == 1 else None
        try:
            model = model_formats.open_model(source, request)
        except UsageError:
            if nameless is None or request.weights is not None:
                raise
            named: Shapes = {
                name: shape for name, shape in request.shapes.items() if name is not None
            }
            model = model_formats.open_model(source, Request(named))
            (first,) = model.select(selection.layers)
            others = model.of_kinds(selection.include)
            beside = (entry for entry in others if entry.position != first.position)
            return model, (_sized(first, nameless), *beside)
    if selection.compose:
        return model, tuple(chain.compose(model, between) for between in selection.compose)
    entries = model.select(selection.layers, selection.include)
    if not entries:
        hints = [Hint(Advice.INCLUDE)] if model.others else []
        raise UsageError(f"{model.name} has no convolution: there is nothing to do", *hints)
    return model, entries


def _sized(entry: Entry, shape: Sequence[int]) -> Entry:
    """The layer on an input of this shape, with its batch."""
    try:
        return entry.with_input(entry.channels_first(shape[1:]), GIVEN)
    except MalformedInput as error:
        raise UsageError(f"layer {entry.name}: {error} (with {GIVEN})") from error
