"""What the tensors of an ONNX model measure: by the model, by inference, and by the user.

A free batch is taken as 1 on the way, which is an assumption: it yields to whatever contradicts it,
and no weight depends on it. What the user gives must fit all that is known without it. A model that
contradicts itself has the layers refused whose sizes are in doubt, and no others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from math import prod

import onnx

from convfc_cli import contained
from convfc_cli.errors import ConvfcError, Refused, UsageError
from convfc_cli.geometry import MAX_SIZE
from convfc_cli.hints import Advice, Hint
from convfc_cli.models.onnx.scope import Facts, Scope, inner_graphs, operator
from convfc_cli.models.onnx.shape_inference import Conflict, Pass, sizes_of
from convfc_cli.models.onnx.stored import Storage
from convfc_cli.models.request import Shapes
from convfc_cli.models.sizes import GIVEN, Sizes, shown


class Contradiction(UsageError):
    """Sizes of the user's that contradict the model; `excess` is how: for each axis 1 where the
    user's size makes too much of it and -1 where it makes too little, one for all axes where these
    are not told apart, and none where that is not known.
    """

    def __init__(self, message: str, excess: tuple[int, ...] = ()) -> None:
        super().__init__(message, Hint(Advice.SHAPE))
        self.excess = excess


def scope_of(
    model: onnx.ModelProto, shapes: Shapes, name: str, storage: Storage
) -> tuple[Scope, set[str]]:
    """The outermost graph of a model, with all sizes that can be known; and the tensors of which
    only `shapes` say so. `name` is for errors.

    Raises `UsageError` for shapes that do not fit the model, `Refused` for those of inner tensors
    where nothing can be inferred that they might contradict.
    """
    graph = model.graph
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    given = _named(graph, shapes, name)
    whole = Pass(opsets, given)
    what, lost = f"the shape inference of {name}", ""
    try:
        inferred: _Inferred = contained.run(lambda: _inferred(graph, whole), what)
    except (ConvfcError, contained.Failed) as error:  # what is declared remains
        lost = str(error) if isinstance(error, ConvfcError) else f"{what} fails: {error}"
        inner = sorted(given.keys() - {info.name for info in graph.input})
        if inner:
            text = f"{GIVEN} {inner[0]}={shown(given[inner[0]])}"
            raise Refused(f"{text} cannot be held against the model: {lost}") from error
        whole = replace(whole, infers=False)
        inferred = _inferred(graph, whole)
    if inferred.conflict is not None:
        raise _contradiction(inferred.conflict, given, name)

    @cache
    def sure() -> Facts:
        if not inferred.assumes:
            return inferred.facts
        free = replace(whole, batch=None)
        if lost:
            return free.over(graph)
        facts: Facts = contained.run(lambda: free.over(graph), what)
        return facts

    return Scope(graph, None, opsets, storage, inferred.facts, sure, lost=lost), inferred.settled


@dataclass(frozen=True)
class _Inferred:
    """What is known with a batch of 1."""

    facts: Facts
    settled: set[str]
    """Tensors that only the user sized."""

    assumes: bool
    """Whether a batch was free."""

    conflict: Conflict | None = None
    """What does not fit the user's sizes."""


def _inferred(graph: onnx.GraphProto, whole: Pass) -> _Inferred:
    facts = whole.over(graph)
    inferred = _Inferred(facts, whole.settled, whole.assumes)
    if not whole.conflicts:
        return inferred
    free = replace(whole, batch=None)
    sure = free.over(graph)
    if free.conflicts and whole.given:
        alone = replace(free, given={})
        alone.over(graph)
        for place, conflict in free.conflicts.items():
            if not conflict.local and place not in alone.conflicts:
                return replace(inferred, conflict=conflict)
    return replace(inferred, facts=_joined(facts, sure))


def _joined(facts: Facts, sure: Facts) -> Facts:
    """What is known with a batch of 1 where that contradicts the model: what is sure goes first,
    and nothing but that raises doubts.
    """
    shapes = dict(facts.shapes)
    for name, sizes in sure.shapes.items():
        if sizes.count(None) < shapes.get(name, (None,) * (len(sizes) + 1)).count(None):
            shapes[name] = sizes
    inner = {key: _joined(body, sure.inner[key]) for key, body in facts.inner.items()}
    return Facts(shapes, sure.types | facts.types, sure.doubts, inner)


def _contradiction(conflict: Conflict, given: Mapping[str, Sizes], name: str) -> Contradiction:
    """The error for sizes of the user's that contradict the model."""
    message = str(conflict.error)
    if not isinstance(conflict.error, UsageError):
        text = " ".join(f"{GIVEN} {tensor}={shown(sizes)}" for tensor, sizes in given.items())
        message = f"{text} does not fit {name}: {message}"
    stated, inferred = conflict.stated, conflict.inferred
    if stated is None or inferred is None:
        return Contradiction(message)
    if len(stated) != len(inferred):
        stated, inferred = ((prod(size or 1 for size in sizes),) for sizes in (stated, inferred))
    return Contradiction(message, tuple(map(_sign, stated, inferred)))


def _sign(stated: int | None, inferred: int | None) -> int:
    """Whether what is inferred is more or less than what is stated."""
    if stated is None or inferred is None:
        return 0
    return (inferred > stated) - (inferred < stated)


def _named(graph: onnx.GraphProto, shapes: Shapes, name: str) -> dict[str, Sizes]:
    """The user's sizes by tensor, each of which the model has."""
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {tensor.values.name for tensor in graph.sparse_initializer}
    constants = (node for node in graph.node if operator(node) == ("", "Constant"))
    weights |= {output for node in constants for output in node.output}
    inputs = {info.name: info for info in graph.input if info.name not in weights}
    named: dict[str, Sizes] = {}
    for given, wanted in shapes.items():
        sizes = tuple(map(int, wanted))
        if not sizes or min(sizes) < 1 or max(sizes) > MAX_SIZE:
            raise UsageError(f"a size of {GIVEN} {list(sizes)} is below 1 or beyond 2**40")
        if given is None:
            free = [key for key, info in inputs.items() if not _static(info)]
            choice = free if len(free) == 1 else list(inputs)
            if len(choice) != 1:
                raise UsageError(
                    f"{name} has {len(inputs)} inputs: say which has the given shape, "
                    f"one of {', '.join(inputs)}"
                )
            given = choice[0]
        if given in weights:
            raise UsageError(f"{given!r} is a constant of {name}: its size is known")
        if given not in inputs and given not in (known := set(_names(graph))):
            close = get_close_matches(given, sorted(known), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(close)}?" if close else f"inputs: {', '.join(inputs)}"
            raise UsageError(f"{name} has no tensor {given!r}: {hint}")
        named[given] = sizes
    return named


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """All tensors that a graph and those within it define."""
    yield from (info.name for info in graph.input)
    yield from (name for node in graph.node for name in node.output if name)
    for _, _, inner in inner_graphs(graph):
        yield from _names(inner)


def _static(info: onnx.ValueInfoProto) -> bool:
    sizes = sizes_of(info.type)
    return sizes is not None and None not in sizes[1:]
