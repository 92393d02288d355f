"""NIR graphs (neuromorphic intermediate representation): complete, so nothing is to be described.

A group `node` holds the graph; `nodes` in it the nodes, each with a `type`; a convolution has
`weight` (out, in/groups, *spatial), `bias`, `stride`, `padding`, `dilation`, `groups` and perhaps
`input_shape`, the spatial sizes of its input. A node may be a graph itself.
"""

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any

from convfc_cli.errors import (
    ConvfcError,
    MalformedInput,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.hdf5.tree import Group
from convfc_cli.models.entry import Entry
from convfc_cli.models.request import Pads, Shapes, WeightsSpec
from convfc_cli.models.sizes import GIVEN, Account, agreed, complete
from convfc_cli.models.weights_alone import Weight
from convfc_cli.models.weights_alone import entry as described
from convfc_cli.naming import first_few

ORDERS = {"Conv1d": "oiw", "Conv2d": "oihw"}

MAX_TYPE_LENGTH = 80
"""Limit on a node's type: only the beginning of a longer one is quoted."""

MAX_NODES = 4_000
"""Nodes of a graph that are visited: many paths may lead to one node."""


def is_nir(root: Group) -> bool:
    """Whether a file holds a NIR graph."""
    graph = root.group("node")
    return graph is not None and graph.group("nodes") is not None


def list_layers(root: Group, shapes: Shapes) -> tuple[Entry, ...]:
    """All convolutions of a graph, in the order of their names."""
    graph = root.group("node")
    assert graph is not None
    nodes = list(_convolutions(graph, "", iter(range(MAX_NODES))))
    names = [name for name, _, _ in nodes]
    given = dict(shapes)
    if None in given and len(nodes) == 1:
        given[names[0]] = given.pop(None)
    if unknown := [name for name in given if name not in names]:
        text = "needs a name" if unknown[0] is None else f"names {unknown[0]!r}"
        raise UsageError(f"{GIVEN} {text}; there are {first_few(names) or 'no layers'}")
    entries = tuple(
        _entry(position, name, kind, node, given.get(name))
        for position, (name, kind, node) in enumerate(nodes)
    )
    for entry in entries:
        if isinstance(entry.error, SizeMissing) and len(entries) > 1:
            entry.error.hint = f"{entry.name}={entry.error.hint}"
    return entries


def _convolutions(
    graph: Group, scope: str, left: Iterator[int]
) -> Iterator[tuple[str, str, Group]]:
    """(name, type, node) of every convolution. `left` are the nodes that may still be looked at; a
    group is only so deep as `hdf5.tree` lets it be.
    """
    nodes = graph.group("nodes")
    for name in nodes.names() if nodes is not None else ():
        if next(left, None) is None:
            raise Refused(f"{graph.path}: a graph of more than {MAX_NODES} nodes")
        node = nodes.group(name) if nodes is not None else None
        kind = _text(node, "type")[:MAX_TYPE_LENGTH] if node is not None else ""
        if node is not None and kind == "NIRGraph":
            yield from _convolutions(node, f"{scope}{name}/", left)
        elif node is not None and kind.startswith("Conv"):
            yield f"{scope}{name}", kind, node


def _entry(position: int, name: str, kind: str, node: Group, given: Any) -> Entry:
    failed = partial(Entry, position, name, name, kind)
    try:
        if kind not in ORDERS:
            raise Unsupported(f"{kind} is not read by this version")
        weight, bias = _weight(node, "weight"), _weight(node, "bias")
        order = ORDERS[kind]
        rank = len(order) - 2
        if len(weight.shape()) != len(order):
            raise MalformedInput(f"{node.path}/weight has the shape {weight.shape()} in a {kind}")
        (groups,) = _whole(node, "groups", 1)
        spec = WeightsSpec(
            weight=f"{name}/weight",
            order=order,
            bias=f"{name}/bias",
            stride=_whole(node, "stride", 1, rank),
            pad=_pads(node, rank),
            dilation=_whole(node, "dilation", 1, rank),
            groups=groups,
        )
        stated = None
        if node.dataset("input_shape") is not None:
            stated = (None, weight.shape()[1] * groups, *_whole(node, "input_shape", rank))
        sizes = agreed(
            name,
            Account(stated, "its node's input_shape"),
            Account(given, GIVEN, given=True),
        )
        shape = None if sizes is None else complete(sizes[1:])
        return described(position, name, weight, bias, spec, shape)
    except UsageError as error:
        if given:
            raise
        return failed(error=MalformedInput(str(error)))
    except ConvfcError as error:
        return failed(error=error)


def _weight(node: Group, name: str) -> Weight:
    dataset = node.dataset(name)
    if dataset is None:
        raise MalformedInput(f"{node.path} has no {name}")
    return Weight(dataset)


def _text(node: Group, name: str) -> str:
    dataset = node.dataset(name)
    return "" if dataset is None else dataset.text()


def _whole(node: Group, name: str, *counts: int) -> tuple[int, ...]:
    """Integers, as many as one of `counts`."""
    dataset = _weight(node, name).dataset
    if dataset.dtype.kind not in "iu" or prod(dataset.shape) not in counts:
        wanted = " or ".join(map(str, sorted(set(counts))))
        raise MalformedInput(f"{dataset.path} should be {wanted} integer{'s'[wanted == '1' :]}")
    return tuple(int(value) for value in dataset.read().reshape(-1))


def _pads(node: Group, rank: int) -> Pads:
    dataset = _weight(node, "padding").dataset
    if dataset.dtype.kind == "O":
        text = dataset.text()
        if text not in ("same", "valid"):
            raise MalformedInput(f"{dataset.path} is {text[:40]!r}, neither same nor valid")
        return text
    return tuple((pad, pad) for pad in _whole(node, "padding", 1, rank))
