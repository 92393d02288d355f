"""What reads what: which nodes are layers, and what makes the tensor that a layer reads."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx

from convfc_cli.errors import ConvfcError
from convfc_cli.models.onnx.constants import dynamic, folded, of_constants, value
from convfc_cli.models.onnx.linear import KINDS
from convfc_cli.models.onnx.scope import STANDARD, Scope, operator
from convfc_cli.models.onnx.site import FLOATS, opset
from convfc_cli.models.producer import Producer, Reason

LINEAR = (("", "Conv"), ("", "ConvTranspose"))
"""Convolutions whose output is that of the linear layer: no activation follows, no rounding."""

Walked = tuple[str, Scope, onnx.NodeProto]
"""A node, with the path to its graph and the scope that it is in."""


class Links:
    """The nodes of a model as they hang together.

    Names are distinguished by the graph that defines them; one that several define is given with
    the path to its graph.
    """

    def __init__(self, nodes: Sequence[Walked]) -> None:
        """`nodes` in their order."""
        self._sources: dict[tuple[int, str], tuple[str, Producer | None]] = {}
        scopes = {id(scope): scope for _, scope, _ in nodes}
        self._defined = Counter(
            name
            for scope in scopes.values()
            for name in {*scope.stored, *scope.producers, *(i.name for i in scope.graph.input)}
        )
        for _, scope, node in nodes:
            plain = of_constants(scope, node, batch=True) if folded(node) else ""
            if isinstance(plain, str):
                continue
            names = [name for name in plain.input if name]
            if all(self.constant(scope, name) for name in names):
                scope.constant.update(node.output)
                if plain.op_type == node.op_type and all(_is_fixed(scope, name) for name in names):
                    scope.fixed.update(node.output)

    def constant(self, scope: Scope, name: str) -> bool:
        """Whether a tensor is the same whatever the network is given."""
        home = scope.home(name)
        return home is not None and (name in home.stored or name in home.constant)

    def place(self, scope: Scope, node: onnx.NodeProto) -> int | None:
        """Which of its inputs a node maps, one of `KINDS`; None where it is not a linear layer: it
        has no constant side, computes with integers, a scalar, or nothing but a constant.
        """
        kind = KINDS.get(node.op_type) if node.domain in STANDARD else None
        if kind is None or not node.output:
            return None
        candidates = node.input[: 2 if kind.sides else 1]
        open_ones = [
            place
            for place, name in enumerate(candidates)
            if name and not self.constant(scope, name)
        ]
        if len(open_ones) != 1 or (kind.sides and not (set(open_ones) & set(kind.sides))):
            return None
        (place,) = open_ones
        scalar = scope.shape(node.input[place]) == ()
        return place if scope.dtype(node.input[place]) in ("", *FLOATS) and not scalar else None

    def source(self, scope: Scope, name: str) -> tuple[str, Producer | None]:
        """(the tensor that a layer reads by this name, what makes it where no layer does); nodes
        that pass a tensor on as it is are looked through.
        """
        passed: dict[tuple[int, str], None] = {}
        home = scope.home(name)
        while home is not None and (key := (id(home), name)) not in passed:
            passed[key] = None
            before = None if key in self._sources else _passes(home, name)
            if before is None:
                break
            home, name = home.home(before), before
        if home is None:
            return name, Producer(Reason.UNDEFINED, name)
        origin = self._sources.get((id(home), name)) or self._made(home, name)
        self._sources.update(dict.fromkeys(passed, origin))
        return origin

    def _made(self, home: Scope, name: str) -> tuple[str, Producer | None]:
        """(the name of a tensor that no node passes on, what makes it where no layer does)."""
        unique = self._defined[name] == 1
        return (name if unique else f"{home.path or '/'}{name}"), self._producer(home, name, unique)

    def _producer(self, home: Scope, name: str, unique: bool) -> Producer | None:
        node = home.producers.get(name)
        if self.constant(home, name):
            return Producer(Reason.CONSTANT, home.path + name)
        if node is None:
            return Producer(Reason.INPUT, home.path + name)
        layer = operator(node) in LINEAR or self.place(home, node) is not None
        path = home.path + (node.name or node.output[0])
        if not layer or node.output[0] != name:
            return Producer(Reason.OPERATOR, name, node.op_type, path)
        return None if unique else Producer(Reason.NAME, name, node.op_type, path)


def _is_fixed(scope: Scope, name: str) -> bool:
    home = scope.home(name)
    return home is not None and (name in home.stored or name in home.fixed)


def _passes(home: Scope, name: str) -> str | None:
    """The tensor that this one is, made by an Identity, a Dropout that drops nothing or a Cast
    that changes nothing; None where it is made in any other way.
    """
    node = home.producers.get(name)
    if node is None or name in home.stored or node.domain not in STANDARD or not node.input:
        return None
    if node.op_type == "Dropout":
        same = node.output[0] == name and not _drops(home, node)
    elif node.op_type == "Cast":
        same = home.dtype(name) == home.dtype(node.input[0]) in FLOATS
    else:
        same = node.op_type == "Identity"
    return node.input[0] or None if same else None


def _drops(scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether a Dropout is in training mode, as far as can be known."""
    if opset(scope) < 7:
        return not any(a.name == "is_test" and a.i for a in node.attribute)
    if len(node.input) < 3 or not node.input[2]:
        return False
    if dynamic(scope, node.input[2]):
        return True
    try:
        return bool(np.any(value(scope, node.input[2])))
    except ConvfcError:
        return True
