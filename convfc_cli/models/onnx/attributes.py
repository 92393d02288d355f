"""The attributes of a node, each of the type that ONNX gives it."""

from collections.abc import Mapping
from typing import Any

import onnx

from convfc_cli.errors import MalformedInput, Unsupported


def read_attributes(node: onnx.NodeProto, kinds: Mapping[str, int]) -> dict[str, Any]:
    """What a node states of the attributes in `kinds`, each of which has its type there.

    Raises `MalformedInput` for one of another type or stated twice, `Unsupported` for one that is
    not among them.
    """
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if attribute.ref_attr_name:
            raise MalformedInput(f"attribute {name!r} refers to a function's that is not there")
        if name not in kinds:
            raise Unsupported(f"attribute {name!r} is not one of {node.op_type}'s in ONNX")
        if attribute.type != kinds[name]:
            raise MalformedInput(f"attribute {name!r} of {node.op_type} has the wrong type")
        attributes[name] = onnx.helper.get_attribute_value(attribute)
    return attributes


def per_axis(
    attributes: Mapping[str, Any], name: str, default: int, n: int, times: int = 1
) -> tuple[int, ...]:
    """An attribute with a value for each of `n` spatial axes, or so many times as many."""
    values, length = tuple(attributes.get(name, ())), n * times
    if not values:
        return (default,) * length
    if len(values) != length:
        raise MalformedInput(
            f"attribute {name!r} has {len(values)} values {values}; "
            f"{length} are expected, for {n} spatial axes"
        )
    return values


def pads_of(attributes: Mapping[str, Any], n: int) -> tuple[tuple[int, int], ...]:
    """The attribute `pads`: (before, after) of each of `n` spatial axes."""
    pads = per_axis(attributes, "pads", 0, n, times=2)
    return tuple(zip(pads[:n], pads[n:], strict=True))


def text(attributes: Mapping[str, Any], name: str, default: str) -> str:
    """An attribute that is a word."""
    try:
        return attributes.get(name, b"").decode() or default
    except UnicodeDecodeError as error:
        raise MalformedInput(f"attribute {name!r} is not text") from error
