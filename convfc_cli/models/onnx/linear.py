"""Nodes that are linear layers beside the convolutions: which they are, and how each is listed.

Pooling, normalization, dense layers, arithmetic with a constant, and what only moves numbers: a
table of operators, each with its reader.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from convfc_cli.errors import MalformedInput
from convfc_cli.models.entry import Draft, Entry, ResolvedLayer, resolve
from convfc_cli.models.onnx import affine, movement, pooling
from convfc_cli.models.onnx.original import as_listed
from convfc_cli.models.onnx.site import (
    Fit,
    LinearNode,
    NodeSource,
    ResolvedNode,
    Shape,
    size_hint,
    weight_name,
)
from convfc_cli.models.sizes import Sizes
from convfc_cli.runtimes.runtime import RunnableLayer


@dataclass(frozen=True)
class Kind:
    """An operator that is a linear layer."""

    build: Callable[[LinearNode, Shape], ResolvedNode]
    """Its reader: a node on an input of this shape."""

    sides: tuple[int, ...] = ()
    """Of an operator that is linear where one of its first two inputs is constant: which inputs the
    other one may be.
    """

    weighted: bool = False
    """Whether its second input holds its weights, though it is linear in its first alone."""

    known: Callable[[LinearNode, Sizes | None], Sizes | None] = lambda site, sizes: sizes
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


@dataclass(frozen=True, slots=True)
class LinearLayer(ResolvedLayer):
    """A node that runtimes run as the model has it."""

    site: LinearNode
    part: ResolvedNode

    def runnable(self) -> RunnableLayer:
        return as_listed(self.site, self.part)


@dataclass(frozen=True, slots=True)
class LinearSource(NodeSource):
    """A node that is one of `KINDS`."""

    site: LinearNode
    kind: Kind
    fit: Fit

    def listed(self) -> ResolvedLayer:
        self.site.check()
        return self.at(self.site.shape(self._sizes()))

    def at(self, input_shape: Shape) -> ResolvedLayer:
        self.site.check()
        try:
            part = self.kind.build(self.site, input_shape)
        except ValueError as error:  # shapes that do not fit each other
            raise MalformedInput(f"its inputs do not fit each other: {error}") from error
        return LinearLayer(part.outline, part.load, part.dtype, self.site, part)

    def doubt(self) -> str:
        scope, node = self.site.scope, self.site.node
        return scope.doubt(node.input[self.site.place]) or scope.doubt(node.output[0])

    def hint(self) -> str:
        scope, node, known = self.site.scope, self.site.node, self._sizes()
        name = node.input[self.site.place]
        others = [scope.shape(other) for other in node.input if other != name]
        block = self.site.attributes.get("blocksize", 1)
        beside = [(block * block,), *(shape for shape in others if shape is not None)]
        return size_hint(scope, name, known, len(known or (1,) * 4), self.fit, beside)

    def _sizes(self) -> Sizes | None:
        return self.kind.known(self.site, self.site.sizes())


def listed(draft: Draft, site: LinearNode, fit: Fit, *, sized: bool) -> Entry:
    """The entry of a node that is one of `KINDS`; `sized` where the user gave sizes,
    `fit` how others would fit.
    """
    kind = KINDS[site.node.op_type]
    if (kind.sides or kind.weighted) and site.has(1 - site.place):
        draft = partial(draft, weight=weight_name(site.scope, site.node.input[1 - site.place]))
    return resolve(draft, LinearSource(site, kind, fit), sized=sized)
