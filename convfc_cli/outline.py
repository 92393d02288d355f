"""What is known of a layer's matrix before any weight is read: what a plan is made of."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """What a file keeps of a layer beside its matrix, at most."""

    arrays: int
    nbytes: int
    """Bytes of these arrays."""

    text: int
    """Characters of its description as JSON."""

    @classmethod
    def together(cls, parts: "Iterable[Kept]") -> "Kept":
        """Of layers one after another."""
        arrays, nbytes, text = zip((0, 0, TEXT), *parts, strict=True)
        return cls(sum(arrays), sum(nbytes), sum(text))


TEXT = 400
"""Characters of a description beside its shapes and axes."""


class Outline(Protocol):
    """All of a layer's matrix but its weights. A convolution's is its index map."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input: (channels, *spatial), or whatever axes it has, without a batch."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the weights that the entries are copies of; empty where they are of none."""

    @property
    def groups(self) -> int:
        """Parts that share no channel."""

    def kept(self, itemsize: int) -> Kept:
        """What a file keeps of the layer whose weights have so many bytes each."""

    @property
    def rows(self) -> int:
        """Outputs: the rows of the matrix."""

    @property
    def columns(self) -> int:
        """Inputs: the columns of the matrix."""

    @property
    def nnz(self) -> int:
        """Entries of the matrix that are stored."""

    @property
    def products(self) -> int:
        """About how many multiplications applying the layer takes, by padding included."""


class Sized:
    """An outline that counts its rows and columns by the shapes."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Outputs."""
        return prod(self.output_shape)

    @property
    def columns(self) -> int:
        """Inputs."""
        return prod(self.input_shape)


@dataclass(frozen=True)
class FixedOutline(Sized):
    """The outline of a layer given by its sizes.

    >>> FixedOutline((3, 8, 8), (10,), (10, 192), 1920).columns
    192
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    nnz: int
    groups: int = 1
    extra_bytes: int = 0
    """Bytes that a file has of the layer beside its weights."""

    biases: int | None = None
    """Weights beside the kernel; None is one for each output."""

    factors: tuple[Outline, ...] = ()
    """Of layers one after another, in the order in which they are applied, theirs."""

    @property
    def products(self) -> int:
        """Those of its factors; without any one for each entry."""
        return sum(factor.products for factor in self.factors) if self.factors else self.nnz

    def kept(self, itemsize: int) -> Kept:
        """What a file keeps of the layer whose weights have so many bytes each."""
        if self.factors:
            return Kept.together(factor.kept(itemsize) for factor in self.factors)
        biases = self.rows if self.biases is None else self.biases
        nbytes = self.extra_bytes + (prod(self.kernel_shape) + biases) * itemsize
        return Kept(2, nbytes, text_of(self))


def text_of(outline: Outline) -> int:
    """Bound the characters of a description: up to eight shapes, and the axes of a kernel."""
    shapes = (outline.input_shape, outline.output_shape, outline.kernel_shape)
    return TEXT + 8 * max(len(str(shape)) for shape in shapes) + 200 * len(shapes[1])
