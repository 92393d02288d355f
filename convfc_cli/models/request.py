"""What the user states about a model beside its file: sizes that it leaves open, and how weights
without a configuration are applied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
"""One of `vocabulary.PADS`, or the zeros before and after along each axis."""


@dataclass(frozen=True)
class WeightsSpec:
    """How a convolution is applied of which a file has only the weights.

    `order` names the axes of the stored kernel: o output channels, i input channels, m the outputs
    of each input channel (depthwise), d, h and w the spatial ones. Of o and i, the one that groups
    share out is stored for each group: i, or o where `transposed`. One number in `stride`, `pad`,
    `dilation` or `output_padding` counts for all axes.

    Examples
    --------
    >>> WeightsSpec("features.0.weight", "oihw", stride=(2,), pad="same").groups
    1
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


@dataclass(frozen=True)
class Request:
    """How a model is to be read."""

    shapes: Shapes = field(default_factory=dict)
    """The sizes that are given."""

    weights: WeightsSpec | None = None
    """The convolution that is described, of a file of weights alone."""
