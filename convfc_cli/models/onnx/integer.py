"""ConvInteger and QLinearConv: convolutions of integers, with the zero points taken off.

x and w are codes of 8 bits; the code that stands for zero is their zero point. Both operators
convolve x - x_zero_point, with zeros around it, by w - w_zero_point. QLinearConv adds B, multiplies
by x_scale w_scale / y_scale, rounds half to even, adds y_zero_point, and cuts to 8 bits.

The layer is what is linear in this: the kernel w - w_zero_point and the bias B, in int32, applied
to x - x_zero_point. The scales and zero points are noted. The real-valued layer has the kernel
(w - w_zero_point) w_scale and the bias B (x_scale w_scale), in float32, as DequantizeLinear makes
them.

Source: the ONNX operator specifications, ConvInteger (version 10), QLinearConv (10) and
DequantizeLinear (10).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from convfc_cli.arrays import Array
from convfc_cli.errors import ConvfcError, MalformedInput, Unsupported
from convfc_cli.json_values import json_number
from convfc_cli.layers.convolution import Convolution
from convfc_cli.models.onnx.constants import dynamic, value
from convfc_cli.models.onnx.scope import Scope
from convfc_cli.taps import IndexMap

INPUTS = {
    "ConvInteger": ("x", "w", "x_zero_point", "w_zero_point"),
    "QLinearConv": (
        *("x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point"),
        *("y_scale", "y_zero_point", "B"),
    ),
}
"""The inputs of each operator, in order, as its specification calls them."""

OPTIONAL = {"ConvInteger": ("x_zero_point", "w_zero_point"), "QLinearConv": ("B",)}

CODES = ("int8", "uint8")

RUN_TIME = "known only at run time"
"""What is noted of a scale or zero point that is not constant."""

MAX_NOTED = 2**14
"""Values of a tensor noted individually: more than any real layer has channels."""


def tensors(node: onnx.NodeProto) -> dict[str, str]:
    """The tensors that a node is given, by what they are to it."""
    places = INPUTS[node.op_type]
    if len(node.input) > len(places):
        raise MalformedInput(
            f"a {node.op_type} with {len(node.input)} inputs; it takes {len(places)}"
        )
    tensors = {what: name for what, name in zip(places, node.input, strict=False) if name}
    for what in places:
        if what not in tensors and what not in OPTIONAL[node.op_type]:
            raise MalformedInput(f"a {node.op_type} without its {what}")
    return tensors


def conv(node: onnx.NodeProto) -> onnx.NodeProto:
    """The Conv of the same geometry."""
    names = tensors(node)
    inputs = [names[what] for what in ("x", "w", "B") if what in names]
    plain = onnx.helper.make_node("Conv", inputs, node.output)
    plain.attribute.extend(node.attribute)
    return plain


@dataclass(frozen=True)
class Quantized:
    """A ConvInteger or a QLinearConv, its tensors by what they are to it."""

    node: onnx.NodeProto
    scope: Scope
    index: IndexMap

    @property
    def names(self) -> dict[str, str]:
        """The tensors that it is given."""
        return tensors(self.node)

    @property
    def places(self) -> list[str]:
        """Its scales and zero points, given or not, as the specification calls them."""
        return [what for what in INPUTS[self.node.op_type] if "_" in what]

    def constant(self, what: str) -> bool:
        """Whether a tensor is known, if only because it is not given."""
        return what not in self.names or dynamic(self.scope, self.names[what]) is None

    def check(self) -> None:
        """Raise `Unsupported` where the kernel is not constant, `MalformedInput` where what is
        known of a tensor before it is read contradicts the specification.
        """
        for what, name in self.names.items():
            reason = dynamic(self.scope, name)
            if reason and what.startswith("w"):
                raise Unsupported(f"its {what} is not constant: {reason}")
            shape = self.scope.shape(name)
            if shape is not None:
                known = tuple(size for size in shape if size is not None)
                shape = known if len(known) == len(shape) else None
            self._check(what, shape, self.scope.dtype(name))

    def _check(self, what: str, shape: tuple[int | None, ...] | None, dtype: str) -> None:
        """Raise `MalformedInput` for a shape or dtype that a tensor must not have."""
        name, channels = self.names[what], self.index.kernel_shape[0]
        wanted = {"B": ("int32",)}.get(what, ("float32",) if "scale" in what else CODES)
        partner = what.removesuffix("_zero_point")
        if partner != what and (known := self.scope.dtype(self.names.get(partner, ""))):
            wanted = (known,)
        if dtype and dtype not in wanted:
            raise MalformedInput(f"its {what} {name!r} is {dtype}, not {' or '.join(wanted)}")
        if what in ("x", "w") or shape is None:
            return
        sizes: set[tuple[int | None, ...]]
        text, sizes = "one", {(), (1,)}
        if what == "B":
            text, sizes = f"one for each of {channels} channels", {(channels,)}
        elif what.startswith("w"):
            text, sizes = f"one, or one for each of {channels} channels", {*sizes, (channels,)}
        if shape not in sizes:
            raise MalformedInput(f"its {what} {name!r} has values of shape {shape}, not {text}")

    def dtype(self, what: str) -> str:
        """The dtype of x, w or y, which the zero point alone may state."""
        names = [self.names[one] for one in (what, f"{what}_zero_point") if one in self.names]
        for name in names:
            if dtype := self.scope.dtype(name):
                return dtype
            if dynamic(self.scope, name) is None:
                return value(self.scope, name).dtype.name
        return "uint8"

    def value(self, what: str) -> Array:
        """A constant tensor; 0 for a zero point that is not given."""
        if what not in self.names:
            return np.zeros((), np.int8)
        array = value(self.scope, self.names[what])
        self._check(what, array.shape, array.dtype.name)
        return array

    def kernel(self) -> Array:
        """w - w_zero_point."""
        zero = self.value("w_zero_point").astype(np.int32)
        return self.value("w") - self.along(zero)

    def along(self, values: Array, axes: int = 1) -> Array:
        """One value, or one an output channel, for a tensor with these more axes than spatial."""
        return values.reshape(-1, *(1,) * (len(self.index.axes) + axes))

    def layer(self) -> Convolution:
        """The layer of integers."""
        sizes = {what: self.value(what).size for what in self.places if self.constant(what)}
        if sizes.get("w_scale", sizes["w_zero_point"]) != sizes["w_zero_point"]:
            raise MalformedInput(
                f"its w_scale {self.names['w_scale']!r} has {sizes['w_scale']} values, its "
                f"w_zero_point {self.names['w_zero_point']!r} {sizes['w_zero_point']}"
            )
        bias = self.value("B") if "B" in self.names else None
        return Convolution(self.kernel(), self.index, bias)

    def dequantized(self) -> Convolution:
        """The layer of real numbers."""
        layer, scale = self.layer(), self.value("w_scale")
        with np.errstate(all="ignore"):  # untrusted scales may be anything
            kernel = layer.kernel.astype(np.float32) * self.along(scale)
            if layer.bias is None:
                return Convolution(kernel, self.index)
            scale = self.value("x_scale").reshape(()) * scale
            return Convolution(kernel, self.index, layer.bias.astype(np.float32) * scale)

    def notes(self) -> dict[str, Any]:
        """Every scale and zero point, as JSON has it: a number, a list of one for each output
        channel, or why there is none.
        """
        return {what: self._note(what) for what in self.places}

    def _note(self, what: str) -> Any:
        if not self.constant(what):
            return RUN_TIME
        try:
            values = self.value(what).reshape(-1)
        except ConvfcError as error:  # loading raises it
            return str(error)
        if len(values) > MAX_NOTED:
            return f"{len(values)} values"
        numbers = list(map(json_number, values.tolist()))
        return numbers if len(numbers) > 1 else numbers[0]
