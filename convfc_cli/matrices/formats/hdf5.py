"""Matrices as HDF5, one group for each layer: opened by anndata and by binsparse as they are.

The root has one attribute, `convfc`: the schema. A group is named as the file of its layer would
be, and holds, in the schema `convfc/1`,

    convfc        the metadata: JSON (`matrix.describe`)
    kernel        (out, in/groups, *spatial)
    kernel_bias   one value an output channel         only where the layer has a bias
    bias          one value an output                 only in csr form, as all up to kernel_index
    indptr, indices, data    CSR
    pointers_to_1, indices_1, values    the same three objects, as binsparse calls them
    kernel_index  for each entry its flat index into `kernel`    only on request
    dense         (rows, columns)                     only in dense form

and the attributes that the two packages know a matrix by: `encoding-type`, `encoding-version` and
`shape`, and `binsparse`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import MalformedInput, WrongContents
from convfc_cli.files import Input
from convfc_cli.hdf5.tree import SIGNATURE, Dataset, Group, open_tree
from convfc_cli.matrices import hdf5_writer, schema
from convfc_cli.matrices.blocks import Block, CsrReader, dense_chunks, dense_rows
from convfc_cli.matrices.format import MatrixFormat, Progress, StoredMatrix
from convfc_cli.matrices.hdf5_writer import Array, Attributes, Folder
from convfc_cli.matrices.matrix import (
    SCHEMA,
    Matrix,
    Origin,
    Spec,
    Statement,
    describe,
    longest,
    restore,
    stated,
    stated_digest,
)
from convfc_cli.matrices.stored_zip import Sink
from convfc_cli.naming import stem
from convfc_cli.outline import Outline

Values = NDArray[Any]

_LINKS = {"values": "data", "indices_1": "indices", "pointers_to_1": "indptr"}
"""What binsparse calls the arrays, and what SciPy and anndata call them."""

GROUP = 3072
"""Bytes that a group takes at most, with its share of the root and its attributes."""

_DENSE_ATTRIBUTES: Attributes = {"encoding-type": "array", "encoding-version": "0.2.0"}


class Hdf5(MatrixFormat):
    """A group for each layer, readable by anndata and binsparse."""

    name = "hdf5"
    suffixes = (".h5", ".hdf5")
    forms = ("csr", "operator", "dense")
    summary = "one group for each layer, which `anndata.io.read_elem` and binsparse open"
    multi_layer = True

    def recognizes(self, source: Input) -> bool:
        return source.head.startswith(SIGNATURE)

    def size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any], origin: Origin) -> int:
        entries: schema.Arrays = {}
        if spec.form == "csr":
            entries = schema.compressed(spec, outline, dtype)
        elif spec.form == "dense":
            entries = {"dense": (spec.shape(outline), dtype)}
        extra = 2 if spec.sparse else 1  # convfc; bias
        text = GROUP + longest(outline, origin)
        return schema.size(spec, outline, dtype, entries, extra, text)

    def groups(self, origins: Sequence[Origin]) -> list[str]:
        """In order of name as in the model's order."""
        width = max([3, *(len(str(origin.position)) for origin in origins)])
        return [stem(origin.position, origin.layer, width) for origin in origins]

    def write(self, matrices: Sequence[Matrix], out: Sink, progress: Progress) -> None:
        names = self.groups([matrix.origin for matrix in matrices])
        folders = list(map(_folder, names, matrices))
        hdf5_writer.write(out, {"convfc": SCHEMA}, folders, progress)

    def open(self, source: Input, sidecar: Input | None = None) -> tuple[StoredMatrix, ...]:
        matrices = [_StoredHdf5(source.name, name, group) for name, group in _groups(source)]
        names = self.groups([stored.matrix.origin for stored in matrices])
        for stored, name in zip(matrices, names, strict=True):
            if stored.group != name:
                raise MalformedInput(
                    f"{stored.name} holds the layer of a group {name!r}, by its metadata"
                )
        return tuple(sorted(matrices, key=lambda stored: stored.matrix.origin.position))

    def states(self, source: Input) -> tuple[Statement, ...]:
        found = []
        for name, group in _groups(source):
            where = f"{source.name}/{name}"
            found.append(stated(_text(group.dataset("convfc"), where), where, group=name))
        return tuple(sorted(found, key=lambda statement: statement.origin.position))


FORMAT = Hdf5()


def _groups(source: Input) -> Iterator[tuple[str, Group]]:
    """The groups of a file, by their names; there is one at least."""
    root = open_tree(source)
    _check_root(source, root)
    if not root.names():
        raise MalformedInput(f"{source.name} holds no matrix")
    for name in root.names():
        group = root.group(name)
        if group is None:
            raise MalformedInput(f"{source.name}: {name!r} is not the group of a layer")
        yield name, group


def _text(dataset: Dataset | None, name: str) -> str:
    """The metadata of a matrix. Raises `MalformedInput`."""
    if dataset is None:
        raise MalformedInput(f"{name} has no array 'convfc'")
    text = dataset.text()
    if len(text) > schema.MAX_TEXT_BYTES:
        raise MalformedInput(f"{name}: convfc has more than {schema.MAX_TEXT_BYTES} bytes")
    return text


def _attributes(matrix: Matrix, dtypes: dict[str, np.dtype[Any]]) -> Attributes:
    """The attributes of a group whose arrays have these dtypes."""
    if matrix.form != "csr":
        return {}
    binsparse = {
        "version": "0.1.0",
        "format": "CSR",
        "shape": matrix.shape,
        "number_of_stored_values": matrix.nonzeros,
        "data_types": {name: dtypes[target].name for name, target in _LINKS.items()},
    }
    return {
        "encoding-type": "csr_matrix",
        "encoding-version": "0.1.0",
        "shape": list(matrix.shape),
        "binsparse": json.dumps({"binsparse": binsparse}),
    }


def _folder(name: str, matrix: Matrix) -> Folder:
    """The group of a matrix."""
    arrays = list(_arrays(matrix))
    dtypes = {array.member.name: array.member.dtype for array in arrays}
    links = _LINKS if matrix.form == "csr" else {}
    return Folder(name, arrays, _attributes(matrix, dtypes), links)


def _arrays(matrix: Matrix) -> Iterator[Array]:
    yield Array.text("convfc", describe(matrix))
    for member in schema.members(matrix):
        yield Array(member)
    if matrix.form == "dense":
        chunks = partial(dense_chunks, matrix)
        member = schema.ArrayMember("dense", matrix.shape, matrix.layer.dtype, chunks)
        yield Array(member, _DENSE_ATTRIBUTES)


class _StoredHdf5(StoredMatrix):
    """The matrix of a group.

    What its arrays and attributes say is held to the geometry when rows or bias are first asked
    for: a group that is wrong says nothing of the others.
    """

    def __init__(self, file: str, name: str, group: Group) -> None:
        self.name, self.group, self._group = f"{file}/{name}", name, group
        self._datasets: dict[str, Dataset] = {}
        for member in group.names():
            dataset = group.dataset(member)
            if dataset is None:
                raise MalformedInput(f"{self.name}: {member!r} is not an array")
            self._datasets[member] = dataset
        text = _text(self._datasets.get("convfc"), self.name)
        self.matrix = restore(text, self.name, lambda member: self._dataset(member).read())
        FORMAT.check_holds(self.matrix, self.name)
        self.stated_digest = stated_digest(text)
        self.explicit_zeros = self.matrix.form != "dense"
        self._check_members()
        self._row = self.matrix.rows.start

    def check_shapes(self) -> None:
        """Raise also where the attributes are not those of the arrays."""
        _ = self._checked

    def bias(self) -> Values:
        return self._checked["bias"].read() if self.explicit_zeros else self.matrix.bias

    def rows(self, counts: Values) -> Iterator[Block]:
        if not self.explicit_zeros:
            first, self._row = self._row, self._row + len(counts)
            yield from dense_rows(first, len(counts), self.matrix.shape[1], self._dense)
            return
        for block in self._csr.rows(counts):
            if self._kernel_index is not None:
                block = replace(block, kernel_index=self._kernel_index.read(len(block.data)))
            yield block

    def finish(self) -> None:
        """Nothing is left to check: no array has more elements than the geometry gives it."""

    def check_undamaged(self) -> None:
        """HDF5 has checksums of its own records, but none of the arrays unless they are compressed:
        what is wrong in them cannot be told from damage.
        """

    @cached_property
    def _csr(self) -> CsrReader:
        indptr, indices, data = (
            _Sequence(self._checked[name]) for name in ("indptr", "indices", "data")
        )
        return CsrReader(indptr, indices, data, self.matrix.rows.start)

    @cached_property
    def _kernel_index(self) -> "_Sequence | None":
        numbered = self.matrix.spec.kernel_index
        return _Sequence(self._checked["kernel_index"]) if numbered else None

    @cached_property
    def _dense(self) -> "_Sequence":
        return _Sequence(self._checked["dense"])

    @cached_property
    def _checked(self) -> dict[str, Dataset]:
        """The arrays. Raises `WrongContents` where they, or what the attributes say of them, are
        not as the geometry has them.
        """
        matrix, layer = self.matrix, self.matrix.layer
        real = (matrix.layer.dtype,)
        nnz = (layer.nnz,)
        expected = {
            "bias": ((layer.outline.rows,), real),
            "indptr": ((matrix.shape[0] + 1,), schema.INDICES),
            "indices": (nnz, schema.INDICES),
            "data": (nnz, real),
            "kernel_index": (nnz, schema.INDICES),
            "dense": (matrix.shape, real),
        }
        for name, dataset in self._datasets.items():
            if name not in expected:
                continue
            shape, kinds = expected[name]
            if dataset.dtype not in kinds:
                wanted = f"the kernel {real[0]}" if kinds is real else "not int32 or int64"
                raise WrongContents(f"{name} is {dataset.type_name}, {wanted}")
            if dataset.shape != shape:
                raise WrongContents(
                    f"{name} has shape {dataset.shape}, where the geometry gives {shape}"
                )
        dtypes = {name: dataset.dtype for name, dataset in self._datasets.items()}
        _check_attributes(self._group, _attributes(matrix, dtypes))
        if not self.explicit_zeros:
            _check_attributes(self._datasets["dense"], _DENSE_ATTRIBUTES)
        return self._datasets

    def _check_members(self) -> None:
        """Every member and attribute that the form asks for and no other: nothing unread is called
        verified.
        """
        matrix = self.matrix
        names = {"convfc", *schema.names(matrix)}
        names |= set(_LINKS) if matrix.form == "csr" else set()
        names |= {"dense"} if matrix.form == "dense" else set()
        _check_names(self.name, "array", self._datasets, names)
        for link in _LINKS.keys() & names:
            target = _LINKS[link]
            if not self._datasets[link].same_object(self._datasets[target]):
                raise MalformedInput(f"{self.name}: {link} is another array than {target}")
        dtypes = {name: dataset.dtype for name, dataset in self._datasets.items()}
        _check_names(
            self.name, "attribute", self._group.attributes(), set(_attributes(matrix, dtypes))
        )
        for name, dataset in self._datasets.items():
            allowed = set(_DENSE_ATTRIBUTES) if name == "dense" else set()
            _check_names(f"{self.name}/{name}", "attribute", dataset.attributes(), allowed)

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            raise MalformedInput(f"{self.name} has no array {name!r}")
        return self._datasets[name]


class _Sequence:
    """An array of the file, read from front to back."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._next = dataset, 0
        self._width = prod(dataset.shape[1:])

    def read(self, count: int) -> Values:
        """The next `count` elements: whole rows, where there are rows."""
        start, self._next = self._next, self._next + count // self._width
        return self._dataset.part(start, self._next).reshape(-1)


def _check_names(where: str, what: str, names: Iterable[str], expected: set[str]) -> None:
    if missing := sorted(expected - set(names)):
        raise MalformedInput(f"{where} has no {what} {missing[0]!r}")
    if unknown := sorted(set(names) - expected):
        raise MalformedInput(f"{where} has an {what} {unknown[0]!r}, which the schema lacks")


def _check_attributes(holder: Group | Dataset, expected: Attributes) -> None:
    for name, value in expected.items():
        text = json.dumps(holder.attribute(name))  # tells 1 from 1.0 and from true
        if text != json.dumps(value):
            raise WrongContents(
                f"attribute {name} is {text[:200]}, where the geometry gives {json.dumps(value)}"
            )


def _check_root(source: Input, root: Group) -> None:
    schema = root.attribute("convfc")
    if schema is None:
        raise MalformedInput(
            f"{source.name} is HDF5, but not a matrix file that convfc writes: its root has no "
            f"attribute convfc"
        )
    if schema != SCHEMA:
        raise MalformedInput(f"{source.name}: its schema is {str(schema)[:80]!r}, not {SCHEMA!r}")
    _check_names(source.name, "attribute", root.attributes(), {"convfc"})
    _check_end(source)


def _check_end(source: Input) -> None:
    """Raise unless the file ends where it says: HDF5 itself takes longer ones.

    Source: HDF5 File Format Specification 3.0, section II.A (the superblock).
    """
    place = {0: 40, 1: 44, 2: 28, 3: 28}.get(source.head[8], 0)
    end = int.from_bytes(source.head[place : place + 8], "little")
    if end != source.size:
        raise MalformedInput(f"{source.name} has {source.size} bytes, by its own account {end}")
