"""Matrices in an `.npz`, opened by `scipy.sparse.load_npz` as they are: what all forms share.

Members, in this order, each an `.npy` array, in the schema `convfc/1`:

    convfc        the metadata: JSON in a 0-d unicode array (`matrix.describe`)
    format        the form, such as b"csr"            as scipy has it
    shape         (rows, columns), int64              as scipy has it
    _is_array     True, for a sparse array, not a spmatrix     as scipy has it
    kernel        (out, in/groups, *spatial)
    kernel_bias   one value an output channel         only where the layer has a bias
    bias          one value an output, flattened as the outputs are
    ...           the entries, in arrays named as scipy names those of the form
    kernel_index  for each entry its flat index into kernel    only on request

An operator file has convfc, kernel and kernel_bias alone. Version 0.1 wrote no `_is_array`, and a
file without it is read as well. A form is a subclass of `NpzFormat` in a
module of its own: it says which arrays hold the entries, writes them, and reads rows from them.
"""

import json
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import MalformedInput, WrongContents
from convfc_cli.files import Input
from convfc_cli.layers.product import MAX_FACTORS
from convfc_cli.matrices import schema
from convfc_cli.matrices.blocks import Block, Rows, Sequential
from convfc_cli.matrices.format import MatrixFormat, Progress, StoredMatrix
from convfc_cli.matrices.matrix import (
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
from convfc_cli.matrices.npy_header import KINDS, header, read_header
from convfc_cli.matrices.stored_zip import Chunk, Sink, StoredZip, ZipMember, skeleton
from convfc_cli.outline import Outline
from convfc_cli.zips import open_zip

Values = NDArray[Any]

IS_ARRAY = "_is_array"
"""What SciPy opens a file by as an array: without it, as a matrix, which it deprecates."""

MAX_NOTE_BYTES = 2**14
"""Limit on a member that describes the entries, with its header: a real one has about 150."""

MAX_MEMBERS = 2 * MAX_FACTORS + 16
"""Two arrays for each factor, and our own."""


class NpzFormat(MatrixFormat):
    """Stored zip of arrays, readable by numpy and scipy."""

    suffixes = (".npz",)

    @abstractmethod
    def arrays(self, spec: Spec, outline: Outline, dtype: np.dtype[Any]) -> schema.Arrays:
        """The arrays that hold the entries, kernel_index among them."""

    @abstractmethod
    def values(self, matrix: Matrix, name: str, shape: tuple[int, ...]) -> Iterable[Values]:
        """The values of one of these arrays, a part at a time."""

    @abstractmethod
    def reader(self, matrix: Matrix, arrays: Mapping[str, Sequential]) -> Rows:
        """The rows of a matrix whose arrays have the shapes and dtypes that `arrays` gives."""

    def recognizes(self, source: Input) -> bool:
        return is_zip(source) and stated_form(source) in self.forms

    def size(self, spec: Spec, outline: Outline, dtype: np.dtype[Any], origin: Origin) -> int:
        entries = self.arrays(spec, outline, dtype)
        extra = 5 if spec.sparse else 1  # convfc; format, shape, _is_array, bias
        text = 4 * longest(outline, origin) + 128
        return schema.size(spec, outline, dtype, entries, extra, text)

    def write(self, matrices: Sequence[Matrix], out: Sink, progress: Progress) -> None:
        (matrix,) = matrices
        container = StoredZip(out)
        for member in self._members(matrix):
            head = [header(member.shape, member.dtype)]
            container.add(f"{member.name}.npy", _reported(head, member.chunks(), progress))
        container.close()

    def _members(self, matrix: Matrix) -> Iterator[schema.ArrayMember]:
        yield schema.whole("convfc", np.array(describe(matrix)))
        if matrix.spec.sparse:  # without them, nobody takes an operator file for a matrix
            yield schema.whole("format", np.array(matrix.form.encode()))
            yield schema.whole("shape", np.array(matrix.shape, np.int64))
            yield schema.whole(IS_ARRAY, np.array(True))
        yield from schema.weights(matrix)
        if matrix.spec.sparse:
            yield schema.bias(matrix)
        layer = matrix.layer
        for name, (shape, dtype) in self.arrays(matrix.spec, layer.outline, layer.dtype).items():
            yield schema.ArrayMember(name, shape, dtype, partial(self.values, matrix, name, shape))

    def open(self, source: Input, sidecar: Input | None = None) -> tuple[StoredMatrix, ...]:
        return (_StoredNpz(source, self),)

    def states(self, source: Input) -> tuple[Statement, ...]:
        return (stated(metadata(source), source.name),)


def is_zip(source: Input) -> bool:
    """Whether a file is a zip, by its first bytes."""
    return source.head.startswith((b"PK\3\4", b"PK\5\6"))


def stated_form(source: Input) -> object:
    """The form of a zip by its metadata; None where it has none that can be read."""
    try:
        return json.loads(metadata(source)).get("form")
    except (*_UNREADABLE, MalformedInput):
        return None


def metadata(source: Input) -> str:
    """The metadata of a zip. Raises `MalformedInput`."""
    try:
        with open_zip(source.file, source.name) as archive:
            info = archive.getinfo("convfc.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > schema.MAX_TEXT_BYTES:
                raise MalformedInput(f"{source.name}: its metadata are compressed, or too large")
            with archive.open(info) as file:
                return str(_ArrayReader(source.name, file, info.file_size).whole())
    except _UNREADABLE as error:
        raise MalformedInput(f"{source.name} has no metadata that can be read: {error}") from error


_UNREADABLE = (
    *(AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    zipfile.BadZipFile,
)
"""What is raised for a damaged zip, and for metadata that are not a JSON object."""


def _reported(
    head: Iterable[Chunk], chunks: Iterable[Values], progress: Progress
) -> Iterator[Chunk]:
    yield from head
    for chunk in chunks:
        yield chunk
        progress(chunk.nbytes)


class _StoredNpz(StoredMatrix):
    explicit_zeros = True

    def __init__(self, source: Input, kind: NpzFormat) -> None:
        self.name, self._kind = source.name, kind
        self.stores_transpose = kind.stores_transpose
        try:
            self._zip = open_zip(source.file, source.name)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise MalformedInput(
                f"{source.name} is a damaged or truncated npz: {str(error).lower()}"
            ) from error
        self._check_container(source)
        text = self._member("convfc", limit=schema.MAX_TEXT_BYTES)
        if text.dtype.kind != "U" or text.shape != ():
            raise MalformedInput(f"{source.name}: member convfc is not a single text")
        description = str(text.whole())
        self.matrix = restore(description, source.name, lambda name: self._member(name).whole())
        kind.check_holds(self.matrix, source.name)
        self.stated_digest = stated_digest(description)
        layer = self.matrix.layer
        self._arrays = kind.arrays(self.matrix.spec, layer.outline, layer.dtype)
        self._check_members()
        self._kernel_index: _ArrayReader | None = None
        self._streams: list[_ArrayReader] = []
        if self.matrix.spec.sparse:
            try:
                self._open_rows()
            except WrongContents as error:
                self.check_undamaged()
                raise WrongContents(f"{source.name}: {error}") from error

    def check_shapes(self) -> None:
        """They were, when the file was opened."""

    def bias(self) -> Values:
        return self._member("bias").whole()

    def rows(self, counts: Values) -> Iterator[Block]:
        for block in self._rows.rows(counts):
            if self._kernel_index is not None:
                block = replace(block, kernel_index=self._kernel_index.read(len(block.data)))
            yield block

    def finish(self) -> None:
        for stream in self._streams:
            stream.end()

    def check_undamaged(self) -> None:
        with _Damage(self.name):
            damaged = self._zip.testzip()
        if damaged:
            raise MalformedInput(f"{self.name} is damaged: the checksum of {damaged} is wrong")

    def _open_rows(self) -> None:
        matrix, shape = self.matrix, self.matrix.shape
        stated = self._member("shape", limit=MAX_NOTE_BYTES).whole()
        if stated.dtype.kind not in "iu" or stated.tolist() != list(shape):
            raise WrongContents(f"shape is {stated.tolist()}, not {list(shape)}")
        if self._member("format", limit=MAX_NOTE_BYTES).whole().tolist() not in (
            matrix.form.encode(),
            matrix.form,
        ):
            raise WrongContents(f"format is not {matrix.form}")
        if self._has(IS_ARRAY):
            flag = self._member(IS_ARRAY, limit=MAX_NOTE_BYTES, kinds="b").whole()
            if flag.shape != () or not flag:
                raise WrongContents(f"{IS_ARRAY} is {str(flag)[:80]}, not True")
        arrays = {name: self._array(name, *given) for name, given in self._arrays.items()}
        self._streams = list(arrays.values())
        self._kernel_index = arrays.get("kernel_index")
        self._rows = self._kind.reader(matrix, arrays)

    def _check_members(self) -> None:
        """Every member that the form asks for and no other: nothing unread is called verified."""
        matrix = self.matrix
        names = {"convfc", *(member.name for member in schema.weights(matrix)), *self._arrays}
        names |= {"format", "shape", "bias"} if matrix.spec.sparse else set()
        names = {f"{name}.npy" for name in names}
        members = set(self._zip.namelist())
        if missing := sorted(names - members):
            raise MalformedInput(f"{self.name} has no member {missing[0]}")
        names |= {f"{IS_ARRAY}.npy"} if matrix.spec.sparse else set()
        if unknown := sorted(members - names):
            raise MalformedInput(
                f"{self.name} has a member {unknown[0]!r} that the form {matrix.form} lacks"
            )

    def _check_container(self, source: Input) -> None:
        infos = self._zip.infolist()
        names = [info.filename for info in infos]
        if (
            "convfc.npy" not in names
        ):  # first: what the schema asks for does not help with such a file
            raise MalformedInput(
                f"{source.name} has no member convfc: it is a zip that convfc did not write"
            )
        if len(set(names)) != len(names) or len(names) > MAX_MEMBERS:
            raise MalformedInput(f"{source.name} has members of the same name, or too many")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise MalformedInput(
                    f"{source.name}: member {info.filename!r} is compressed or encrypted, where "
                    f"the schema has it stored: write it again with numpy.savez"
                )
            if info.file_size != info.compress_size or info.file_size > source.size:
                raise MalformedInput(f"{source.name}: {info.filename!r} is larger than the file")
        if min((info.header_offset for info in infos), default=0) or self._zip.comment:
            raise MalformedInput(f"{source.name} holds more than its members")
        # A file of ours is known byte for byte; one written anew by numpy has another frame.
        if any(info.flag_bits & 8 for info in infos):
            members = [ZipMember(info.filename, info.file_size, info.CRC) for info in infos]
            end = 0
            for offset, expected in skeleton(members):
                source.file.seek(offset)
                if source.file.read(len(expected)) != expected:
                    raise MalformedInput(
                        f"{source.name} is damaged: the frame around its members is not as "
                        f"written, near byte {offset}"
                    )
                end = offset + len(expected)
            if end != source.size:
                raise MalformedInput(
                    f"{source.name} is damaged: {source.size - end} bytes too many"
                )

    def _has(self, name: str) -> bool:
        return f"{name}.npy" in self._zip.namelist()

    def _open(self, filename: str) -> IO[bytes]:
        try:
            return self._zip.open(filename)
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError) as error:
            raise MalformedInput(f"{self.name} is damaged: {error}") from error

    def _member(self, name: str, *, limit: int | None = None, kinds: str = KINDS) -> "_ArrayReader":
        if not self._has(name):
            raise MalformedInput(f"{self.name} has no member {name}")
        info = self._zip.getinfo(f"{name}.npy")
        if limit is not None and info.file_size > limit:
            raise MalformedInput(f"{self.name}: {name} has {info.file_size} bytes, too many")
        return _ArrayReader(
            f"{self.name}: {name}", self._open(info.filename), info.file_size, kinds
        )

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "_ArrayReader":
        """One of the arrays of the entries; integers may be wider than they need to be."""
        member = self._member(name)
        if dtype.kind == "i" and member.dtype not in schema.INDICES:
            raise WrongContents(f"{name} is {member.dtype}, not integers of 32 or 64 bits")
        if dtype.kind != "i" and member.dtype != dtype:
            raise WrongContents(f"{name} is {member.dtype}, the kernel {dtype}")
        if member.shape != shape:
            raise WrongContents(
                f"{name} has shape {member.shape}, where the geometry gives {shape}"
            )
        return member


class _ArrayReader:
    """An array in a member, read from front to back."""

    def __init__(self, name: str, file: IO[bytes], size: int, kinds: str = KINDS) -> None:
        self._name, self._file = name, file
        with self._damage():
            self.shape, self.dtype, length = read_header(file, name, kinds)
        if length + prod(self.shape) * self.dtype.itemsize != size:
            raise MalformedInput(f"{name} has {size} bytes, which does not match its header")

    def read(self, count: int) -> Values:
        """The next `count` elements."""
        with self._damage():
            data = self._file.read(count * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise MalformedInput(f"{self._name} is cut short")
        return np.frombuffer(data, self.dtype)

    def whole(self) -> Values:
        """The whole array, with its checksum compared."""
        array = self.read(prod(self.shape)).reshape(self.shape)
        self.end()
        return array

    def end(self) -> None:
        """Raise unless this is the end and the checksum is right."""
        with self._damage():
            if self._file.read(1):
                raise MalformedInput(f"{self._name} goes on beyond its end")

    def _damage(self) -> "_Damage":
        return _Damage(self._name)


class _Damage:
    """Turns what the zip reader raises for damaged bytes into one error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, zipfile.BadZipFile | zlib.error | EOFError | OSError | RuntimeError):
            raise MalformedInput(f"{self._name} is damaged: {str(error).lower()}") from error
