"""The layers of a parsed ONNX model: the walk through its graphs, and what sizes are known.

The graph, the bodies of If, Loop and Scan, and the functions of the model are walked in order.
Sizes are those of `sizes`.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import onnx

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported, UsageError
from convfc_cli.models.entry import Draft, Entry, resolve
from convfc_cli.models.model import Listing, Network
from convfc_cli.models.onnx.check import check
from convfc_cli.models.onnx.dataflow import Links, Walked
from convfc_cli.models.onnx.linear import KINDS, listed
from convfc_cli.models.onnx.operators import READERS, ConvolutionNode
from convfc_cli.models.onnx.scope import STANDARD, Scope, operator, read_within, walk
from convfc_cli.models.onnx.site import Fit, LinearNode, weight_name
from convfc_cli.models.onnx.sizes import Contradiction, scope_of
from convfc_cli.models.onnx.stored import Storage
from convfc_cli.models.onnx.wire import MAX_NODES
from convfc_cli.models.request import Shapes

_CHANNELS_LAST = (
    "onnxruntime has put its channels last (NHWC): convert the model as it was before optimization"
)

OTHERS = {
    ("", "DeformConv"): "its offsets are computed from the input, so it is not a fixed linear map",
    ("com.microsoft.nchwc", "Conv"): (
        "onnxruntime has reordered its weights into blocks: convert the model as it was before "
        "optimization"
    ),
    ("com.microsoft", "QLinearConv"): (
        "onnxruntime has made it of a QLinearConv, perhaps with its channels last (NHWC): convert "
        "the model as it was before optimization"
    ),
    ("com.microsoft", "NhwcConv"): _CHANNELS_LAST,
    ("com.microsoft", "NhwcFusedConv"): _CHANNELS_LAST,
    ("com.ms.internal.nhwc", "Conv"): _CHANNELS_LAST,
    ("com.ms.internal.nhwc", "ConvTranspose"): _CHANNELS_LAST,
    ("com.ms.internal.nhwc", "QLinearConv"): _CHANNELS_LAST,
    ("com.microsoft", "ConvTransposeWithDynamicPads"): (
        "its pads are computed when the network runs, so it is not a fixed linear map"
    ),
    ("qonnx.custom_op.channels_last", "Conv"): (
        "its tensors have their channels last (NHWC): convert the model as it was before that, or "
        "have qonnx turn it back"
    ),
}
"""Convolutions that are listed, and not converted, with the reason."""

CONVOLUTION = re.compile("Conv(?![a-z])")
"""Operators that are some convolution, by their names; ConvertSomething is none."""

MAX_DEPTH = 100
"""Limit on functions that call functions."""

MAX_COPIED_BYTES = 2**26
"""What inlining functions may add to a file; it takes several times as much memory."""

NAME = 16
"""Bytes that a name in a function counts for besides its own: inlining makes it longer."""


@dataclass(frozen=True)
class NodeGraph(Network):
    """An ONNX model as its file has it, and its nodes with the functions inlined."""

    model: onnx.ModelProto
    nodes: tuple[Walked, ...]
    """Every node with its scope, those of inner graphs where their node stands."""

    links: Links
    """What makes the tensor that a node reads."""

    def operators(self) -> tuple[str, ...]:
        return tuple(sorted({node.op_type for node in self.model.graph.node}))


def list_layers(model: onnx.ModelProto, name: str, storage: Storage, shapes: Shapes) -> Listing:
    """All convolutions of a model, in the order of its nodes, and what lists its other linear
    layers, for which more sizes may have to be found.
    """
    begun, in_file = _seconds(), model
    check(model, name)
    if model.functions:
        _check_expansion(model, name)
        model = _inlined(model, name)
        check(model, name)
    top, settled = scope_of(model, shapes, name, storage)
    nodes = tuple(walk(top))
    links = Links(nodes)
    for tensor in settled:
        _check_needed(tensor, nodes, name)

    def fit(position: int, tensor: str, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
        """How a size would fit; see `site.Fit`. Not known where the command has not so much
        time left as this listing took: the model is listed again.
        """
        left, since = budget.current(), _seconds()
        if left.seconds < took:
            return None
        try:
            listing = list_layers(model, name, storage, {**shapes, tensor: sizes})
            beyond = position - len(listing.entries)
            entry = listing.entries[position] if beyond < 0 else listing.lister()[beyond]
        except Contradiction as error:
            return error.excess or None
        except ConvfcError:
            return None
        finally:
            left.seconds -= _seconds() - since
        return () if entry.status == "ready" else None

    entries: list[Entry] = []
    for path, scope, node in nodes:
        fits = partial(fit, len(entries))
        entry = _entry(len(entries), path, scope, node, links, fits, sized=bool(shapes))
        if entry is not None:
            entries.append(entry)
    took = _seconds() - begun

    def others() -> tuple[Entry, ...]:
        layers: list[Entry] = []
        for path, scope, node in nodes:
            place = links.place(scope, node)
            if place is not None:
                position = len(entries) + len(layers)
                entry = _named(position, path, scope, node, links, place)
                site, fits = LinearNode(scope, node, place), partial(fit, position)
                layers.append(listed(entry, site, fits, sized=bool(shapes)))
        return tuple(layers)

    return Listing(tuple(entries), others, NodeGraph(in_file, nodes, links))


def _seconds() -> float:
    """The CPU time of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def _check_needed(tensor: str, nodes: Iterable[Walked], name: str) -> None:
    """Raise `UsageError` unless a layer's size may depend on that of a tensor."""
    reached = {tensor}
    for _, _, node in nodes:
        below = [graph for a in node.attribute for graph in (a.g, *a.graphs)]
        read = {*node.input, *(inner for graph in below for inner in read_within(graph))}
        if reached.isdisjoint(read):
            continue
        if _is_convolution(node) or (node.domain in STANDARD and node.op_type in KINDS):
            return
        reached.update(node.output, (info.name for graph in below for info in graph.input))
    raise UsageError(f"the size of {tensor!r} is given, but no layer of {name} depends on it")


def _is_convolution(node: onnx.NodeProto) -> bool:
    return operator(node) in READERS or CONVOLUTION.search(node.op_type) is not None


@dataclass
class _Expansion:
    """What nodes become when the functions that they call are inlined."""

    nodes: int = 0
    copied: int = 0
    """Bytes that are not in the file."""

    tensors: Counter[str] = field(default_factory=Counter)
    """How often each tensor is named. A caller's name takes the place of a function's."""

    attributes: Counter[str] = field(default_factory=Counter)
    """How often each attribute of the function around the nodes is copied into them."""


def _check_expansion(model: onnx.ModelProto, name: str) -> None:
    """Raise `Refused` if inlining would make far more nodes or bytes: a function may call others
    twice. The time is linear in the size of the model.
    """
    functions = {
        (function.domain, function.name, function.overload): function
        for function in model.functions
    }
    bodies: dict[tuple[str, str, str], _Expansion] = {}

    def body(key: tuple[str, str, str], depth: int) -> _Expansion:
        if key not in bodies:
            function, expansion = functions[key], _Expansion()
            expand(function.node, 1, expansion, depth)
            expansion.copied += function.ByteSize() + NAME * expansion.tensors.total()
            for default in function.attribute_proto:
                expansion.copied += expansion.attributes[default.name] * default.ByteSize()
            bodies[key] = expansion
        return bodies[key]

    def expand(nodes: Iterable[onnx.NodeProto], times: int, into: _Expansion, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Refused(f"the functions of {name} call each other more than {MAX_DEPTH} deep")
        for node in nodes:
            into.nodes += times
            for tensor in (*node.input, *node.output):
                into.tensors[tensor] += times
            key = (node.domain, node.op_type, node.overload)
            called = body(key, depth + 1) if key in functions else None
            if called is not None:
                into.nodes += times * called.nodes
                into.copied += times * called.copied
                formal = (functions[key].input, functions[key].output)
                for inner, outer in zip(formal, (node.input, node.output), strict=True):
                    for parameter, given in zip(inner, outer, strict=False):
                        count = times * called.tensors[parameter]
                        into.tensors[given] += count
                        into.copied += count * len(given)
            for attribute in node.attribute:
                count = times if called is None else times * called.attributes[attribute.name]
                if attribute.ref_attr_name:
                    into.attributes[attribute.ref_attr_name] += count
                elif called is not None and count:
                    into.copied += count * attribute.ByteSize()
                for graph in (attribute.g, *attribute.graphs):
                    expand(graph.node, max(times, count), into, depth + 1)

    expansion = _Expansion()
    expand(model.graph.node, 1, expansion, 0)
    if expansion.nodes > MAX_NODES:
        raise Refused(f"the functions of {name} expand to more than {MAX_NODES} nodes")
    if expansion.copied > MAX_COPIED_BYTES:
        raise Refused(
            f"inlining the functions of {name} adds more than {MAX_COPIED_BYTES} bytes to it"
        )


def _inlined(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    from onnx.inliner import inline_local_functions

    try:
        return inline_local_functions(model)
    except Exception as error:  # the C++ side raises types of its own
        reason = " ".join(str(error).split())[:160]
        raise MalformedInput(f"{name}: its functions cannot be inlined: {reason}") from error


def _named(
    position: int, path: str, scope: Scope, node: onnx.NodeProto, links: Links, place: int = 0
) -> Draft:
    """An entry that says how a node is called, and what makes its input at `place`."""
    output = node.output[0] if node.output else ""
    name = path + (node.name or output or f"{node.op_type}_{position}")
    reads, producer = links.source(scope, node.input[place]) if node.input else ("", None)
    return partial(Entry, position, name, output, _qualified(node), reads=reads, producer=producer)


def _qualified(node: onnx.NodeProto) -> str:
    return ".".join(filter(None, operator(node)))


def _entry(
    position: int,
    path: str,
    scope: Scope,
    node: onnx.NodeProto,
    links: Links,
    fit: Fit,
    *,
    sized: bool,
) -> Entry | None:
    """The entry of a node that is a convolution; `sized` where the user gave sizes, `fit` how
    others would fit.
    """
    kind = operator(node)
    reader = READERS.get(kind)
    if not _is_convolution(node):
        return None
    draft = _named(position, path, scope, node, links)
    if reader is None:
        reason = OTHERS.get(kind, f"{_qualified(node)} is not read by this version")
        return draft(error=Unsupported(reason))
    try:
        conv = reader.conv(node)
    except ConvfcError as error:
        return draft(error=error)
    if len(conv.input) > 1:
        draft = partial(draft, weight=weight_name(scope, conv.input[1]))
    source = ConvolutionNode(node, conv, scope, reader.resolved, fit)
    return resolve(draft, source, sized=sized)
