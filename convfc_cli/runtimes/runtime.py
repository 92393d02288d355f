"""What a runtime has to offer: the contract that each module of `runtimes` fulfils.

A runtime is asked so that someone else's account of a layer stands beside ours. It answers with a
tensor, or with a sentence that says why it is no witness: it is not installed, it cannot run the
layer, or it is known to be wrong there. Such an answer never counts as agreement.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from convfc_cli.layers import Convolution
from convfc_cli.rounding import Witness

Array = NDArray[Any]

LARGEST = 2**25
"""Elements of a layer's input and output that are made to run it."""


class Runtime(ABC):
    """Something that computes convolutions."""

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
    def apply(
        self, layer: Convolution, x: Array, kernel: Array, bias: Array | None = None
    ) -> Array | str:
        """The layer on a batch x (n, *input_shape), with this kernel and bias in place of its own.

        All arrays have one dtype. Returns y (n, *output_shape), or why there is none.
        """


@dataclass(frozen=True)
class Original:
    """A layer as a runtime can be given it: for instance the node of the model it was read from."""

    name: str
    """What it is: `the original node`."""

    witness: Callable[[Runtime, Any], Witness | str]
    """The layer with its own weights on inputs drawn from a NumPy generator."""

    apply: Callable[[Runtime, Array, Array], Array | str]
    """`apply(runtime, x, kernel)`: on a batch x in float32, with another kernel and no bias."""


def as_read(layer: Convolution) -> Original:
    """The layer itself, stated to the runtime anew: where no node is at hand."""

    def witness(runtime: Runtime, random: Any) -> Witness | str:
        x = random.standard_normal(layer.input_shape).astype(layer.dtype)
        y = runtime.apply(layer, x[None], layer.kernel, layer.bias)
        return y if isinstance(y, str) else Witness.of(runtime.label, x, y[0])

    def apply(runtime: Runtime, x: Array, kernel: Array) -> Array | str:
        return runtime.apply(layer, x, kernel)

    return Original("the layer", witness, apply)
