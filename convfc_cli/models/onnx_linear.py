"""Nodes that are linear layers beside the convolutions: which they are, and how each is listed.

Pooling, normalization, dense layers, arithmetic with a constant, and what only moves numbers: a
table of operators, each with its reader.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from convfc_cli.errors import MalformedInput
from convfc_cli.models import onnx_affine, onnx_moves, onnx_pool
from convfc_cli.models.model import Entry
from convfc_cli.models.onnx_entry import Fit, settled, size_hint, weight_name
from convfc_cli.models.onnx_original import as_listed
from convfc_cli.models.onnx_site import Part, Shape, Site
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
    "Add": Kind(onnx_affine.arithmetic(onnx_affine.added), (0, 1)),
    "AveragePool": Kind(onnx_pool.average_pool),
    "BatchNormalization": Kind(onnx_affine.batch_normalization, weighted=True),
    "DepthToSpace": Kind(onnx_moves.moved(onnx_moves.depth_to_space)),
    "Div": Kind(onnx_affine.arithmetic(onnx_affine.divided), (0,)),
    "Flatten": Kind(onnx_moves.moved(onnx_moves.flattened)),
    "Gemm": Kind(onnx_affine.gemm, (0,), known=onnx_affine.gemm_input),
    "GlobalAveragePool": Kind(onnx_pool.global_average_pool),
    "MatMul": Kind(onnx_affine.matmul, (0, 1), known=onnx_affine.matmul_input),
    "Mul": Kind(onnx_affine.arithmetic(onnx_affine.multiplied), (0, 1)),
    "Pad": Kind(onnx_moves.pad),
    "Reshape": Kind(onnx_moves.moved(onnx_moves.reshaped)),
    "Resize": Kind(onnx_moves.moved(onnx_moves.resized)),
    "Slice": Kind(onnx_moves.moved(onnx_moves.sliced)),
    "SpaceToDepth": Kind(onnx_moves.moved(onnx_moves.space_to_depth)),
    "Squeeze": Kind(onnx_moves.moved(onnx_moves.squeezed)),
    "Sub": Kind(onnx_affine.arithmetic(onnx_affine.subtracted), (0, 1)),
    "Transpose": Kind(onnx_moves.moved(onnx_moves.transposed)),
    "Unsqueeze": Kind(onnx_moves.moved(onnx_moves.unsqueezed)),
    "Upsample": Kind(onnx_moves.moved(onnx_moves.resized)),
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
