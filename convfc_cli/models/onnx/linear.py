"""Nodes that are linear layers beside the convolutions: which they are, and how each is listed.

Pooling, normalization, dense layers, arithmetic with a constant, and what only moves numbers: a
table of operators, each with its reader.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from convfc_cli.errors import MalformedInput
from convfc_cli.models.entry import Entry, settled
from convfc_cli.models.onnx import affine, movement, pooling
from convfc_cli.models.onnx.original import as_listed
from convfc_cli.models.onnx.site import Fit, Part, Shape, Site, size_hint, weight_name
from convfc_cli.models.sizes import Sizes


@dataclass(frozen=True)
class Kind:
    """An operator that is a linear layer."""

    build: Callable[[Site, Shape], Part]
    """Its reader: a node on an input of this shape."""

    sides: tuple[int, ...] = ()
    """Of an operator that is linear where one of its first two inputs is constant: which inputs the
    other one may be.
    """

    weighted: bool = False
    """Whether its second input holds its weights, though it is linear in its first alone."""

    known: Callable[[Site, Sizes | None], Sizes | None] = lambda site, sizes: sizes
    """What is known of the shape of its input, from that and from its constants."""


KINDS = {
    "Add": Kind(affine.arithmetic(affine.added), (0, 1)),
    "AveragePool": Kind(pooling.average_pool),
    "BatchNormalization": Kind(affine.batch_normalization, weighted=True),
    "DepthToSpace": Kind(movement.moved(movement.depth_to_space)),
    "Div": Kind(affine.arithmetic(affine.divided), (0,)),
    "Flatten": Kind(movement.moved(movement.flattened)),
    "Gemm": Kind(affine.gemm, (0,), known=affine.gemm_input),
    "GlobalAveragePool": Kind(pooling.global_average_pool),
    "MatMul": Kind(affine.matmul, (0, 1), known=affine.matmul_input),
    "Mul": Kind(affine.arithmetic(affine.multiplied), (0, 1)),
    "Pad": Kind(movement.pad),
    "Reshape": Kind(movement.moved(movement.reshaped)),
    "Resize": Kind(movement.moved(movement.resized)),
    "Slice": Kind(movement.moved(movement.sliced)),
    "SpaceToDepth": Kind(movement.moved(movement.space_to_depth)),
    "Squeeze": Kind(movement.moved(movement.squeezed)),
    "Sub": Kind(affine.arithmetic(affine.subtracted), (0, 1)),
    "Transpose": Kind(movement.moved(movement.transposed)),
    "Unsqueeze": Kind(movement.moved(movement.unsqueezed)),
    "Upsample": Kind(movement.moved(movement.resized)),
}
"""By operator."""


def listed(entry: Entry, site: Site, fit: Fit, *, sized: bool) -> Entry:
    """The entry of a node that is one of `KINDS`; `sized` where the user gave sizes,
    `fit` how others would fit.
    """
    kind, scope, name = KINDS[site.node.op_type], site.scope, site.node.input[site.place]
    if (kind.sides or kind.weighted) and site.has(1 - site.place):
        entry = replace(entry, weight=weight_name(scope, site.node.input[1 - site.place]))

    def resized(shape: Shape) -> Entry:
        site.check()
        try:
            part = kind.build(site, shape)
        except ValueError as error:  # shapes that do not fit each other
            raise MalformedInput(f"its inputs do not fit each other: {error}") from error
        return replace(
            entry,
            error=None,
            outline=part.outline,
            dtype=part.dtype,
            loader=part.load,
            original=as_listed(site, part),
            resizer=resized,
        )

    def shape() -> Shape:
        site.check()
        return site.shape(kind.known(site, site.sizes()))

    def hint() -> str:
        known = kind.known(site, site.sizes())
        others = [scope.shape(other) for other in site.node.input if other != name]
        block = site.found.get("blocksize", 1)
        beside = [(block * block,), *(shape for shape in others if shape is not None)]
        return size_hint(scope, name, known, len(known or (1,) * 4), fit, beside)

    doubt = scope.doubt(name) or scope.doubt(entry.output)
    return settled(entry, resized, shape, hint, doubt, sized=sized)
