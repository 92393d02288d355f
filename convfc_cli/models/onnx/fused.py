"""com.microsoft.FusedConv: a Conv that onnxruntime has put an activation, and a sum, into.

The layer is the Conv, which is linear; what comes after it is noted.

Source: onnxruntime's contributed operators, com.microsoft.FusedConv (version 1): the attributes of
Conv, `activation` and `activation_params`; the inputs X, W, B and Z, which is added to the output
of the convolution before the activation.
"""

from typing import Any

import onnx

from convfc_cli.errors import MalformedInput
from convfc_cli.json_values import json_number

_FUSED = {
    "activation": onnx.AttributeProto.STRING,
    "activation_params": onnx.AttributeProto.FLOATS,
}


MAX_LENGTH = 80
"""Characters of an activation's name, and its parameters, that are noted."""


def conv(node: onnx.NodeProto) -> onnx.NodeProto:
    """The Conv in it."""
    plain = onnx.helper.make_node("Conv", node.input[:3], node.output)
    plain.attribute.extend(a for a in node.attribute if a.name not in _FUSED)
    return plain


def notes(node: onnx.NodeProto) -> dict[str, Any]:
    """What comes after the Conv, as JSON has it."""
    if len(node.input) > 4:
        raise MalformedInput(f"a FusedConv with {len(node.input)} inputs; it takes four")
    notes: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name not in _FUSED:
            continue
        if attribute.type != _FUSED[attribute.name]:
            raise MalformedInput(f"attribute {attribute.name!r} of FusedConv has the wrong type")
        if attribute.name == "activation":
            notes["activation"] = attribute.s.decode(errors="replace")[:MAX_LENGTH]
        else:
            notes["activation_params"] = [
                json_number(number) for number in attribute.floats[:MAX_LENGTH]
            ]
    if len(node.input) > 3 and node.input[3]:
        notes["added_before_activation"] = f"the tensor {node.input[3]!r}"
    return notes
