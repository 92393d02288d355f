"""What a runtime has to offer: the contract that each module of `runtimes` fulfils.

A runtime is asked so that someone else's account of a layer stands beside ours. It answers with a
tensor, or with a sentence that says why there is none: it is not installed, it cannot run the
layer, or it is known to be wrong there. Such an answer never counts as agreement.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from convfc_cli.arrays import Array
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.tied import TiedLinear
from convfc_cli.rounding import RuntimeResult

MAX_ELEMENTS = 2**25
"""Limit on the input and output arrays made to run a layer."""


class Runtime(ABC):
    """Something that computes layers."""

    name: str
    """What a person calls it."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name and version."""

    @abstractmethod
    def missing(self) -> str:
        """How to get it, where it is not installed; otherwise nothing."""

    @abstractmethod
    def apply(self, layer: Linear, x: Array) -> Array | str:
        """The layer, with its bias, on a batch x (n, *input_shape) of the dtype of its weights.

        Returns y (n, *output_shape), or why there is none.
        """


@dataclass(frozen=True)
class RunnableLayer:
    """A layer as a runtime can be given it: for instance the node of the model it was read from."""

    name: str
    """What it is: `the original node`."""

    run: Callable[[Runtime, Any], RuntimeResult | str]
    """The layer with its own weights on inputs drawn from a NumPy generator."""

    apply: Callable[[Runtime, Array, Array], Array | str]
    """`apply(runtime, x, kernel)`: on a batch x in float32, with another kernel and no bias."""


def as_read(layer: Linear) -> RunnableLayer:
    """The layer itself, stated to the runtime anew: where no node is at hand."""

    def run(runtime: Runtime, random: Any) -> RuntimeResult | str:
        whole = layer.dtype.kind == "i"
        real = layer.astype("float32") if whole else layer
        x = random.standard_normal(layer.input_shape).astype(real.dtype)
        y = runtime.apply(real, x[None])
        if isinstance(y, str):
            return y
        result = RuntimeResult.of(runtime.label, x, y[0])
        return replace(result, unit=2 * result.unit) if whole else result  # weights are rounded too

    def apply(runtime: Runtime, x: Array, kernel: Array) -> Array | str:
        if not isinstance(layer, TiedLinear):
            return f"a {layer.kind} has no kernel of its own"
        return runtime.apply(layer.with_kernel(kernel), x)

    return RunnableLayer("the layer", run, apply)
