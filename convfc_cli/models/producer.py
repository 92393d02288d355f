"""What makes a tensor that a layer reads, where no linear layer does: a value, and its words."""

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Why no linear layer makes a tensor, and how a message calls what does."""

    OPERATOR = "{op} {node!r}"
    ACTIVATION = "the activation {function!r} of {op} {node!r}"
    AXES = "{op} {node!r}, whose axes are taken in another order"
    NAME = "{op} {node!r}, whose output {tensor!r} has the name of another tensor"
    CONSTANT = "the constant {tensor!r}"
    INPUT = "the input {tensor!r}"
    UNDEFINED = "{tensor!r}, which is defined nowhere"
    UNKNOWN = "an output of {node!r} of which nothing is known"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Producer:
    """What makes a tensor.

    >>> str(Producer(Reason.OPERATOR, op="Relu", node="relu_1"))
    "Relu 'relu_1'"
    """

    reason: Reason
    tensor: str = ""
    op: str = ""
    node: str = ""
    """The node or layer that makes it, with the path to its graph."""

    function: str = ""
    """The activation of that layer."""

    def __str__(self) -> str:
        return self.reason.value.format(
            tensor=self.tensor, op=self.op, node=self.node, function=self.function
        )
