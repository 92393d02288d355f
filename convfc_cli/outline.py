"""What is known of a layer's matrix before any weight is read: what a plan is made of."""

from dataclasses import dataclass
from math import prod
from typing import Protocol


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

    @property
    def held(self) -> int:
        """Bytes that a file has of the layer beside its kernel and a bias for each channel."""

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
class Extent(Sized):
    """The outline of a layer that is told by its sizes.

    >>> Extent((3, 8, 8), (10,), (10, 192), 1920).columns
    192
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    nnz: int
    groups: int = 1
    held: int = 0

    @property
    def products(self) -> int:
        """One for each entry."""
        return self.nnz
