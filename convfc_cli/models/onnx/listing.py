"""The layers of a parsed ONNX model: the walk through its graphs, and what sizes are known.

The graph, the bodies of If, Loop and Scan, and the functions of the model are walked in order.
Sizes are those of `sizes`.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnx

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported, UsageError
from convfc_cli.models.entry import Entry, settled
from convfc_cli.models.onnx import convolution
from convfc_cli.models.onnx.check import check
from convfc_cli.models.onnx.constants import LARGEST_RANK, dynamic
from convfc_cli.models.onnx.dataflow import Links, Walked
from convfc_cli.models.onnx.linear import KINDS, listed
from convfc_cli.models.onnx.operators import READERS
from convfc_cli.models.onnx.scope import STANDARD, Scope, operator, read_within, walk
from convfc_cli.models.onnx.site import Fit, Site, open_size, shape_of, size_hint, weight_name
from convfc_cli.models.onnx.sizes import Contradiction, scope_of
from convfc_cli.models.onnx.wire import MOST_NODES
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

DEEPEST = 100
"""Functions within functions."""

MOST_COPIED = 2**26
"""Bytes that functions may add to a file when they are inlined: it takes several times as many."""

NAME = 16
"""Bytes that a name in a function counts for besides its own: inlining makes it longer."""


Lister = Callable[[], tuple[Entry, ...]]


def list_layers(
    model: onnx.ModelProto, name: str, folder: Path | None, shapes: Shapes
) -> tuple[tuple[Entry, ...], Lister]:
    """All convolutions of a model, in the order of its nodes, and what lists its other linear
    layers, for which more sizes may have to be found.
    """
    begun = _seconds()
    check(model, name)
    if model.functions:
        _check_expansion(model, name)
        model = _inlined(model, name)
        check(model, name)
    top, settled = scope_of(model, shapes, name, folder)
    nodes = list(walk(top))
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
            found, others = list_layers(model, name, folder, {**shapes, tensor: sizes})
            entry = found[position] if position < len(found) else others()[position - len(found)]
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
        found: list[Entry] = []
        for path, scope, node in nodes:
            place = links.place(scope, node)
            if place is not None:
                position = len(entries) + len(found)
                entry = _named(position, path, scope, node, links, place)
                site, fits = Site(scope, node, place), partial(fit, position)
                found.append(listed(entry, site, fits, sized=bool(shapes)))
        return tuple(found)

    return tuple(entries), others


def _seconds() -> float:
    """The CPU time of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def _check_needed(tensor: str, nodes: Iterable[Walked], name: str) -> None:
    """Raise `UsageError` unless a layer's size may depend on that of a tensor."""
    reached = {tensor}
    for _, _, node in nodes:
        below = [graph for a in node.attribute for graph in (a.g, *a.graphs)]
        read = {*node.input, *(found for graph in below for found in read_within(graph))}
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
            function, found = functions[key], _Expansion()
            expand(function.node, 1, found, depth)
            found.copied += function.ByteSize() + NAME * found.tensors.total()
            for default in function.attribute_proto:
                found.copied += found.attributes[default.name] * default.ByteSize()
            bodies[key] = found
        return bodies[key]

    def expand(nodes: Iterable[onnx.NodeProto], times: int, into: _Expansion, depth: int) -> None:
        if depth > DEEPEST:
            raise Refused(f"the functions of {name} call each other more than {DEEPEST} deep")
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

    found = _Expansion()
    expand(model.graph.node, 1, found, 0)
    if found.nodes > MOST_NODES:
        raise Refused(f"the functions of {name} expand to more than {MOST_NODES} nodes")
    if found.copied > MOST_COPIED:
        raise Refused(f"inlining the functions of {name} adds more than {MOST_COPIED} bytes to it")


def _inlined(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    from onnx.inliner import inline_local_functions

    try:
        return inline_local_functions(model)
    except Exception as error:  # the C++ side raises types of its own
        reason = " ".join(str(error).split())[:160]
        raise MalformedInput(f"{name}: its functions cannot be inlined: {reason}") from error


def _named(
    position: int, path: str, scope: Scope, node: onnx.NodeProto, links: Links, place: int = 0
) -> Entry:
    """An entry that says how a node is called, and what makes its input at `place`."""
    output = node.output[0] if node.output else ""
    name = path + (node.name or output or f"{node.op_type}_{position}")
    op = ".".join(filter(None, operator(node)))
    reads, behind = links.source(scope, node.input[place]) if node.input else ("", "")
    return Entry(position, name, output, op, reads=reads, behind=behind)


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
    entry = _named(position, path, scope, node, links)
    if reader is None:
        reason = OTHERS.get(kind, f"{entry.op} is not read by this version")
        return replace(entry, error=Unsupported(reason))
    try:
        conv = reader.conv(node)
    except ConvfcError as error:
        return replace(entry, error=error)
    if len(conv.input) > 1:
        entry = replace(entry, weight=weight_name(scope, conv.input[1]))

    def resized(input_shape: tuple[int, ...]) -> Entry:
        index = convolution.index_map(conv, _kernel_shape(scope, conv), input_shape)
        return replace(reader.filled(entry, node, scope, index), resizer=resized)

    def shape() -> tuple[int, ...]:
        _check_constant(scope, conv)
        return _input_shape(scope, conv)

    def hint() -> str:
        kernel = _kernel_shape(scope, conv)
        sizes = scope.shape(conv.input[0]) or (None,) * len(kernel)
        known = (*sizes[:1], _channels(conv, kernel), *sizes[2:])
        return size_hint(scope, conv.input[0], known, len(kernel), fit)

    doubts = map(scope.doubt, [*conv.input[:1], entry.output])
    doubt = next(filter(None, doubts), "")
    return settled(entry, resized, shape, hint, doubt, sized=sized)


def _check_constant(scope: Scope, node: onnx.NodeProto) -> None:
    """Raise unless the node has an input, an output, and constant weights and bias."""
    if len(node.input) < 2 or not node.input[0] or not node.input[1] or not node.output:
        raise MalformedInput(f"a {node.op_type} without input, weights or output")
    if len(node.input) > 3:
        raise MalformedInput(f"a {node.op_type} with {len(node.input)} inputs; it takes three")
    for what, name in zip(("weights are", "bias is"), node.input[1:], strict=False):
        reason = dynamic(scope, name) if name else None
        if reason:
            raise Unsupported(f"its {what} not constant: {reason}")


def _input_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """(channels, *spatial) of the node's input."""
    kernel = _kernel_shape(scope, node)
    convolution.attributes(node, kernel[2:])  # what is wrong in them is wrong whatever the size
    sizes = scope.shape(node.input[0])
    if sizes is None or len(sizes) < 2 or None in sizes[2:]:
        raise open_size(scope, node.input[0], sizes)
    channels = sizes[1]
    if channels is None:
        channels = _channels(node, kernel)
    return (channels, *(size for size in sizes[2:] if size is not None))


def _kernel_shape(scope: Scope, node: onnx.NodeProto) -> tuple[int, ...]:
    """The shape of the weights, without reading them where that is possible."""
    shape = shape_of(scope, node.input[1])
    if not 3 <= len(shape) <= LARGEST_RANK:
        raise MalformedInput(f"its weights {node.input[1]!r} have {len(shape)} axes")
    return shape


def _channels(node: onnx.NodeProto, kernel: tuple[int, ...]) -> int:
    """The channels of the input that weights of this shape ask for."""
    if node.op_type == "ConvTranspose":
        return kernel[0]
    return kernel[1] * convolution.attributes(node, kernel[2:]).group
