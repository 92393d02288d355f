"""What a kind of matrix file offers: the contract of each module in `matrices.formats`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import MalformedInput
from convfc_cli.files import Input
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.matrix import Matrix, Origin, Spec, Statement
from convfc_cli.matrices.stored_zip import Sink
from convfc_cli.outline import Outline

Progress = Callable[[int], None]
"""Called with the bytes that have been written, or read, since the last call."""


class StoredMatrix(ABC):
    """One matrix of an open file."""

    name: str
    """What to call it: the file, and where in it."""

    group: str = ""
    """Its group, in a file that holds several."""

    matrix: Matrix
    """What the file says it holds: the layer, restored from it, and how it is laid out."""

    stated_digest: object
    """The digest that the file carries."""

    explicit_zeros: bool
    """Whether zeros can be stored as entries: a file in dense form tells no zero from another."""

    stores_transpose: bool = False
    """Whether the file is stored by columns: `rows` then goes through the columns, each with its
    entries by increasing row, as through the rows of the transpose.
    """

    @abstractmethod
    def check_shapes(self) -> None:
        """Raise `WrongContents` unless the arrays have the shapes and dtypes that the geometry
        gives them: before anything is computed from sizes that only the metadata state.
        """

    @abstractmethod
    def bias(self) -> Array | None:
        """The bias vector as stored, one value an output; None where the file has none."""

    @abstractmethod
    def rows(self, counts: Array) -> Iterator[Block]:
        """The next len(counts) rows, which should hold counts[r] entries each.

        Called again and again, it goes through the file once. Raises `WrongContents` for rows of
        other lengths, before their entries are read, and `MalformedInput` for a damaged file.
        """

    @abstractmethod
    def finish(self) -> None:
        """After the last row: raise `MalformedInput` unless the file ends here, undamaged."""

    @abstractmethod
    def check_undamaged(self) -> None:
        """Read the whole file and raise `MalformedInput` if it is damaged, as far as it can tell.

        Distinguishes corruption in transit from wrong weights, once wrong contents are found.
        """


class MatrixFormat(ABC):
    """One kind of matrix file."""

    name: str
    suffixes: tuple[str, ...]
    """What file names of this kind end in, the usual one first."""

    preferred: bool = False
    """Whether it is meant, of several kinds with one suffix, where no form says which."""

    forms: tuple[str, ...]
    """The forms that it holds, the usual one first."""

    summary: str
    """One line for the README's table."""

    stores_transpose: bool = False
    """Whether files of this kind are stored by columns: see `StoredMatrix.stores_transpose`."""

    multi_layer: bool = False
    """Whether one file holds the matrices of several layers."""

    has_kernel_index: bool = True
    """Whether it has room for a kernel_index."""

    def sidecar(self, path: Path) -> list[Path]:
        """The operator file that is written beside the one at `path`, where that has no room for
        metadata.
        """
        return []

    def read_with(self, path: Path) -> list[Path]:
        """The operator file that the one at `path` is read with: an earlier version called it
        otherwise.
        """
        return self.sidecar(path)

    def groups(self, origins: Sequence[Origin]) -> list[str]:
        """What the matrices of a file are called in it; empty in one that holds one alone."""
        return [""] * len(origins)

    def check_holds(self, matrix: Matrix, name: str) -> None:
        """Raise `MalformedInput` where the metadata of a file of this kind say another form."""
        if matrix.form not in self.forms:
            raise MalformedInput(
                f"{name} is {matrix.form} by its metadata, where {self.name} holds "
                f"{' and '.join(self.forms)}"
            )

    @abstractmethod
    def recognizes(self, source: Input) -> bool:
        """Whether a file is of this kind, by its contents."""

    @abstractmethod
    def states(self, source: Input) -> tuple[Statement, ...]:
        """What a file says of each of its matrices, by its metadata alone: nothing else is read.

        Raises `MalformedInput`, or `UsageError` where the metadata are in a file beside a pipe.
        """

    @abstractmethod
    def size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any], origin: Origin) -> int:
        """Bound the bytes of the file and its sidecar, before any weight is read.

        Where entries are copies of weights it exceeds a binary file by a few thousand bytes. In
        text it assumes the longest value, so that a file may be a quarter of it.
        """

    @abstractmethod
    def write(self, matrices: Sequence[Matrix], out: Sink, progress: Progress) -> None:
        """Write a file of these matrices (one, unless `multi_layer`) in bounded memory.

        In one pass, to an output that need not seek.
        """

    @abstractmethod
    def open(self, source: Input, sidecar: Input | None = None) -> tuple[StoredMatrix, ...]:
        """Read the metadata of each matrix and make ready to read its rows.

        `sidecar` is the operator file where the format has one; by default it is looked for
        beside the file. Raises `MalformedInput`, and `WrongContents` where the parts
        contradict each other.
        """
