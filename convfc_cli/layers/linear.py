"""What every layer that can become a matrix has to offer.

A `Linear` has the shapes of its input and output tensors, a bias, `matrix` (written by a
builder) and `apply` (itself, computed in an independent way, the oracle). A new kind of layer is
a new module with a class: builder, files and proof know it through this contract alone.

Tensors have the shape (channels, *spatial), or whatever axes a layer's have, without a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, ClassVar, Self

import numpy as np

from convfc_cli.arrays import Array, as_float64, as_float_ones, as_magnitudes
from convfc_cli.errors import UsageError
from convfc_cli.layers.slabs import OutputSums, Slab, Weights
from convfc_cli.layout import Layout
from convfc_cli.outline import Outline
from convfc_cli.streams import SparseRows
from convfc_cli.taps import Index, Tap

Read = Callable[[str], Array]
"""Gives an array of a file by its name."""

DTYPES = ("float32", "float64", "int32")
"""What weights, and so the entries of a matrix, may be."""


class Linear(ABC):
    """A linear map between tensors, with a bias."""

    kind: ClassVar[str]
    """What files call it."""

    kinds: ClassVar[dict[str, type["Linear"]]] = {}
    """All kinds whose modules have been imported, by name."""

    def __init_subclass__(cls) -> None:
        if "kind" in cls.__dict__:
            Linear.kinds[cls.kind] = cls

    oracle: ClassVar[str] = "indexing and sums"
    """What `apply` computes by."""

    exact: ClassVar[bool] = True
    """Whether every entry of the matrix is a copy of a weight, so that bits can be compared."""

    @property
    @abstractmethod
    def outline(self) -> Outline:
        """All of it but the weights."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input."""
        return self.outline.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.outline.output_shape

    @property
    def nnz(self) -> int:
        """Entries of the matrix that are stored."""
        return self.outline.nnz

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the matrix entries."""

    @property
    @abstractmethod
    def finite(self) -> bool:
        """Whether all weights are finite. With a NaN or infinite weight, runtimes turn
        zero padding into NaN, where the matrix has no entry.
        """

    @abstractmethod
    def matrix(self, layout: Layout, *, kernel_index: bool = False) -> SparseRows:
        """The matrix, a row for each output and a column for each input, as streams."""

    def apply(self, x: Array, weights: Weights | None = None) -> Array:
        """The map without its bias: x (input_shape) to y (output_shape), never by way of `matrix`.

        It computes in x's dtype, with `weights(w)` for each array w of weights: by default the
        weights themselves in that dtype.
        """
        weights = weights or (lambda w: w.astype(x.dtype))
        layout = Layout()
        parts = [slab.apply(x, weights) for slab in self.slabs(layout, prod(self.output_shape))]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return layout.tensor(whole, self.output_shape)

    @abstractmethod
    def adjoint(self) -> "Linear":
        """The map whose matrix is the transpose, without a bias."""

    @abstractmethod
    def bias_tensor(self) -> Array:
        """The bias of each output, (output_shape)."""

    def biases(self) -> list[Array]:
        """What is added on the way to the outputs, step by step."""
        return [self.bias_tensor()]

    @abstractmethod
    def with_weights(self, change: Weights) -> Self:
        """The layer with every weight, and the bias, changed by an elementwise function."""

    def astype(self, dtype: str) -> Self:
        """The layer with its weights rounded to another dtype."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.with_weights(lambda w: w.astype(dtype))

    @abstractmethod
    def geometry(self) -> dict[str, Any]:
        """All but the arrays, as JSON has it: what `restore` of the class takes."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """What a file has to hold for `restore`, by name, and the digest is taken over."""

    @classmethod
    @abstractmethod
    def restore(cls, geometry: dict[str, Any], read: Read) -> Self:
        """The layer of an untrusted description, validated as when it was first made.

        Raises `KeyError`, `TypeError`, `ValueError`, `GeometryError`, `Refused`, and what `read`
        raises.
        """

    def of_output(self, output: Index) -> Iterator[tuple[Tap, Any]]:
        """What one output element reads, by rising column, each with its weight.

        Raises `IndexError` for one that there is not.
        """
        layout = Layout()
        row = place(layout, output, self.output_shape, "output")
        _, columns, values = self.matrix(layout).block(row, row + 1)
        for column, value in zip(columns.tolist(), values, strict=True):
            source = layout.unflatten(column, self.input_shape)
            yield Tap(output, source, self.weight_of(output, source) or ()), value

    def of_input(self, source: Index) -> Iterator[tuple[Tap, Any]]:
        """What one input element feeds, by rising row, each with its weight."""
        layout = Layout()
        column = place(layout, source, self.input_shape, "input")
        _, rows, values = self.adjoint().matrix(layout).block(column, column + 1)
        for row, value in zip(rows.tolist(), values, strict=True):
            output = layout.unflatten(row, self.output_shape)
            yield Tap(output, source, self.weight_of(output, source) or ()), value

    def of_weight(self, kernel: Index) -> Iterator[tuple[Tap, Any]]:
        """Where one weight stands in the matrix. Raises `UsageError` where entries are not copies,
        `IndexError` for a weight that there is not.
        """
        raise UsageError(f"the entries of a {self.kind} are sums, copies of no weight")

    def weight_of(self, output: Index, source: Index) -> Index | None:
        """The weight that the entry between an output and an input is a copy of; None for a
        structural zero, and where entries are not copies.
        """
        return None

    # From here on: what the proof goes through, part by part.

    @abstractmethod
    def slabs(self, layout: Layout, most: int) -> Iterator[Slab]:
        """The outputs in order, about `most` at a time, for `apply` in bounded memory."""

    def sums(self, x: Array, layout: Layout, most: int) -> Iterator[OutputSums]:
        """What the outputs for x are sums of, by the oracle, in the order of `slabs`."""
        x, ones = as_float64(x), np.ones(self.input_shape)
        # Named once: slabs keep what a layer makes of an input, and know it again by identity.
        magnitudes, vector = np.abs(x), layout.vector(self.bias_tensor())
        for slab in self.slabs(layout, most):
            bias = as_float64(vector[slab.rows.start : slab.rows.stop])
            with np.errstate(all="ignore"):  # untrusted weights may overflow
                answer = slab.apply(x, as_float64) + bias
                scale = slab.apply(magnitudes, as_magnitudes) + np.abs(bias)
            terms = slab.apply(ones, as_float_ones) + 1
            yield OutputSums(slab.rows, answer, scale, terms)

    def colors(self) -> Array:
        """A number from 0 on for each input, (input_shape): no output reads two of one number.

        This one suits every layer; a kind that knows better needs fewer.
        """
        return np.arange(self.most_colors).reshape(self.input_shape)

    @property
    def most_colors(self) -> int:
        """How many numbers `colors` has."""
        return prod(self.input_shape)


def place(layout: Layout, index: Index, shape: tuple[int, ...], what: str) -> int:
    """The position of element `index` of a tensor in its vector. Raises `IndexError` outside."""
    if len(index) != len(shape) or not all(
        0 <= i < size for i, size in zip(index, shape, strict=True)
    ):
        raise IndexError(f"{what} {index} is not within {shape}")
    return layout.flatten(index, shape)
