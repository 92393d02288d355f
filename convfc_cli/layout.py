"""How a matrix flattens the tensors that its rows and columns index.

A tensor has the shape (channels, *spatial), without a batch axis. A `Layout` says in which order
its elements become one vector. It belongs to the matrix, not to the layer: the same convolution can
be written in any layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from convfc_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDERS = {
    "channels-first": "(c, y, x), x fastest: PyTorch, ONNX",
    "channels-last": "(y, x, c), c fastest: Keras, TensorFlow",
    "fortran": "(x, y, c), c fastest: numpy.ravel(order='F') of the (c, y, x) tensor",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The order in which tensors are flattened.

    Examples
    --------
    >>> Layout("channels-last").flatten((1, 0, 2), shape=(3, 4, 5))
    7
    """

    order: str = "channels-first"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise UsageError(f"layout {self.order!r} is not one of {', '.join(ORDERS)}")

    def axes(self, ndim: int) -> tuple[int, ...]:
        """The tensor's axes, slowest first: a permutation of range(ndim)."""
        if self.order == "channels-first":
            return tuple(range(ndim))
        if self.order == "channels-last":
            return (*range(1, ndim), 0)
        return tuple(reversed(range(ndim)))

    def strides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """How far the flat index moves for one step along each axis of the tensor."""
        strides = [0] * len(shape)
        step = 1
        for axis in reversed(self.axes(len(shape))):
            strides[axis] = step
            step *= shape[axis]
        return tuple(strides)

    def flatten(self, index: Sequence[int], shape: Sequence[int]) -> int:
        """The position of element `index` of a tensor of this shape in its vector."""
        return sum(i * step for i, step in zip(index, self.strides(shape), strict=True))

    def unflatten(self, position: int, shape: Sequence[int]) -> tuple[int, ...]:
        """The element that stands at `position` of the vector: the inverse of `flatten`."""
        if not 0 <= position < prod(shape):
            raise IndexError(f"{position} is not in [0, {prod(shape)})")
        return tuple(
            position // step % size for step, size in zip(self.strides(shape), shape, strict=True)
        )

    def vector(self, tensor: "NDArray[np.generic]") -> "NDArray[np.generic]":
        """vec(tensor): its elements in this order, as one axis."""
        return tensor.transpose(self.axes(tensor.ndim)).reshape(-1)

    def tensor(self, vector: "NDArray[np.generic]", shape: Sequence[int]) -> "NDArray[np.generic]":
        """The tensor of this shape whose `vector` it is."""
        axes = self.axes(len(shape))
        ordered = vector.reshape([shape[axis] for axis in axes])
        inverse = sorted(range(len(axes)), key=axes.__getitem__)
        return ordered.transpose(inverse)
