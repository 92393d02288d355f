"""Layers whose weights are tied: every entry of the matrix is a copy of one of them."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from convfc_cli.arrays import Array, frozen
from convfc_cli.errors import GeometryError
from convfc_cli.layers.linear import DTYPES, Linear, place
from convfc_cli.layers.slabs import Slab, Weights
from convfc_cli.layout import Layout
from convfc_cli.taps import Index, Tap


@dataclass(frozen=True)
class Strip:
    """What some outputs read from a part of the input, as a layer of its own."""

    reads: tuple[slice, ...]
    """The part of the input, along each of its axes."""

    layer: "TiedLinear"
    outputs: slice = field(default_factory=lambda: slice(None))
    """Which of its outputs they are, in the order of the layout."""


@dataclass(frozen=True)
class TiedSlab(Slab):
    """A slab whose weights can be told apart by what a runtime answers to impulses."""

    strips: Callable[[], Iterator[Strip]]
    """Layers over parts of the input that no two share, whose outputs add up to the slab's."""


class TiedLinear(Linear):
    """A layer whose every entry is a copy of one of its weights.

    `kernel` holds them, and `bias` what is added, or is None.
    """

    kernel: Array
    bias: Array | None
    """As many axes as the output, each with its size or 1, unless a kind has it otherwise."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kernel.dtype

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.kernel).all())

    def bias_tensor(self) -> Array:
        bias = np.zeros((), self.dtype) if self.bias is None else self.bias
        return np.broadcast_to(bias, self.output_shape)

    @abstractmethod
    def slabs(self, layout: Layout, most: int) -> Iterator[TiedSlab]: ...

    @abstractmethod
    def with_kernel(self, kernel: Array, bias: Array | None = None) -> Self:
        """The layer with another kernel and bias of the same shapes."""

    def with_weights(self, change: Weights) -> Self:
        return self.with_kernel(
            change(self.kernel), None if self.bias is None else change(self.bias)
        )

    def arrays(self) -> dict[str, Array]:
        bias = {} if self.bias is None else {"kernel_bias": self.bias}
        return {"kernel": self.kernel, **bias}

    @abstractmethod
    def weight_of(self, output: Index, source: Index) -> Index | None: ...

    def of_weight(self, kernel: Index) -> Iterator[tuple[Tap, Any]]:
        layout = Layout()
        wanted = place(layout, kernel, self.kernel.shape, "kernel")
        rows = self.matrix(layout, kernel_index=True)
        assert rows.kernel_index is not None
        done = 0
        for numbers in rows.kernel_index.chunks():
            for entry in (done + np.flatnonzero(numbers == wanted)).tolist():
                row = rows.row_of(entry)
                column = int(rows.indices.part(entry, entry + 1)[0])
                output = layout.unflatten(row, self.output_shape)
                source = layout.unflatten(column, self.input_shape)
                yield Tap(output, source, kernel), self.kernel[kernel]
            done += len(numbers)


def checked(
    kernel: Array, bias: Array | None, shape: tuple[int, ...]
) -> tuple[Array, Array | None]:
    """Kernel and bias as a layer keeps them, read-only; raises `GeometryError` unless they are
    numbers of one of `DTYPES` and the bias has this shape.
    """
    if kernel.dtype.name not in DTYPES or not kernel.dtype.isnative:
        raise GeometryError(f"a kernel of {kernel.dtype}; {' or '.join(DTYPES)} is expected")
    if bias is not None and (bias.shape != shape or bias.dtype != kernel.dtype):
        raise GeometryError(
            f"a bias of shape {bias.shape} and {bias.dtype}; {shape} of {kernel.dtype} is expected"
        )
    return frozen(kernel), None if bias is None else frozen(bias)


def check_fits(array: Array, shape: tuple[int, ...], what: str) -> None:
    """Raise `GeometryError` unless an array has the axes of a tensor, each with its size or 1."""
    fits = array.ndim == len(shape) > 0
    if not fits or any(k not in (1, n) for k, n in zip(array.shape, shape, strict=True)):
        raise GeometryError(f"a {what} of shape {array.shape} for tensors of {shape}")
