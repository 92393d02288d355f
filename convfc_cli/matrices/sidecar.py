"""Formats without room for metadata: the operator file of the same matrix lies beside them.

`NAME.suffix`, and `NAME.suffix.operator.npz` with kernel, bias and geometry. Version 0.1 called it
`NAME.operator.npz`, whatever the suffix; a file of that name is read where the new one is missing.
"""

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import MalformedInput, UsageError
from convfc_cli.files import Input, sibling
from convfc_cli.matrices import npz_base
from convfc_cli.matrices.format import MatrixFormat, StoredMatrix
from convfc_cli.matrices.formats import npz
from convfc_cli.matrices.matrix import Matrix, Origin, Spec, Statement, stated
from convfc_cli.outline import Outline


class WithoutMetadata(MatrixFormat):
    """A kind that is read with the operator file beside it."""

    has_kernel_index = False

    def sidecar(self, path: Path) -> list[Path]:
        return [path.with_name(f"{path.name}.operator.npz")]

    def read_with(self, path: Path) -> list[Path]:
        written = self.sidecar(path)
        older = path.with_name(f"{path.stem}.operator.npz")
        return [older] if os.path.lexists(older) and not os.path.lexists(written[0]) else written

    def size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any], origin: Origin) -> int:
        beside = npz.FORMAT.size(spec.operator(), outline, dtype, origin)
        return self.own_size(spec, outline, dtype) + beside

    def open(self, source: Input, sidecar: Input | None = None) -> tuple[StoredMatrix, ...]:
        if sidecar is not None:
            return (self._read(source, sidecar),)
        with self._beside(source) as sidecar:
            return (self._read(source, sidecar),)

    def states(self, source: Input) -> tuple[Statement, ...]:
        with self._beside(source) as sidecar:
            return (stated(npz_base.metadata(sidecar), source.name, form=self.forms[0]),)

    @contextmanager
    def _beside(self, source: Input) -> Iterator[Input]:
        """The operator file beside one that a person named."""
        if source.path is None:
            raise UsageError(
                f"{source.name} holds a {self.forms[0]} matrix without its metadata: name the "
                f"file, so that its operator file beside it can be read"
            )
        (operator,) = self.read_with(source.path)
        if not os.path.lexists(operator):
            raise MalformedInput(
                f"{source.name} needs {operator.name} beside it, which convfc writes with it: "
                f"it is not there"
            )
        with sibling(operator) as sidecar:
            yield sidecar

    def _read(self, source: Input, sidecar: Input) -> StoredMatrix:
        (operator,) = npz.FORMAT.open(sidecar)
        matrix = operator.matrix
        if matrix.form != "operator":
            raise MalformedInput(f"{sidecar.name} is not an operator file, but {matrix.form}")
        matrix = replace(matrix, spec=replace(matrix.spec, form=self.forms[0]))
        stored = self.stored(source, matrix, sidecar.name)
        stored.stated_digest = operator.stated_digest
        return stored

    @abstractmethod
    def own_size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> int:
        """Bound the bytes of the file itself; see `size`."""

    @abstractmethod
    def stored(self, source: Input, matrix: Matrix, beside: str) -> "StoredWithSidecar":
        """The file, which should hold `matrix` by the operator file that is called `beside`.

        Raises as `open` does.
        """


class StoredWithSidecar(StoredMatrix):
    """What such a file holds: the rows, and no checksum of them."""

    def __init__(self, source: Input, matrix: Matrix) -> None:
        self.name, self.matrix = source.name, matrix

    def check_shapes(self) -> None:
        """They were, when the file was opened."""

    def bias(self) -> NDArray[Any] | None:
        return None

    def check_undamaged(self) -> None:
        """The format has no checksum: what is wrong in it cannot be told from damage."""
