"""Matrix files made, read and damaged by zipfile, numpy, json and h5py, not by what is tested."""

import io
import json
import os
import signal
import struct
import tempfile
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.sparse import csc_array

from convfc_cli.errors import ConvfcError
from convfc_cli.files import HEAD, Input, opened
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.format import MatrixFormat, StoredMatrix
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.naming import stem
from convfc_cli.proof.report import Report
from convfc_cli.proof.verify import Proof, verify
from convfc_cli.taps import IndexMap
from tests.support import brute

Array = NDArray[Any]


def example(
    form: str = "csr",
    spec: Spec | None = None,
    dtype: Any = np.float32,
    *,
    kernel_index: bool = False,
) -> Matrix:
    """A small matrix with two groups, a bias, unlike axes and an origin: 12 x 48, 72 nonzeros."""
    axes = (Axis(3, 2, 2, 2, 1, 1), Axis(4, 3, 2, 1, 1, 0))
    kernel = np.arange(1, 17, dtype=dtype).reshape(2, 2, 2, 2) / dtype(8)
    bias = np.array([0.5, -2], dtype)
    layer = Convolution(kernel, IndexMap((2, 2, 2, 2), axes, groups=2), bias)
    origin = Origin("model.onnx", "ab" * 32, "conv/1", "y;0", 3, "Conv", "float32")
    spec = spec or Spec(usual_layout(form))
    return Matrix(layer, replace(spec, form=form, kernel_index=kernel_index), origin)


def usual_layout(form: str) -> Layout:
    """A layout in which every layer can have this form."""
    return Layout("channels-last" if form == "bsr" else "channels-first")


def suits(form: str, spec: Spec) -> bool:
    """Whether a matrix like this can have this form: blocks need channels side by side."""
    return form != "bsr" or spec.layout.order != "channels-first"


def sidecar(path: Path) -> Path:
    """Where the operator file of a file without metadata lies, as its documentation says."""
    return path.with_name(f"{path.name}.operator.npz")


def written(kind: MatrixFormat, matrix: Matrix, folder: Path, name: str = "matrix") -> Path:
    """A file as the code under test writes it, with its operator file where it needs one."""
    path = folder / f"{name}{kind.suffixes[0]}"
    with open(path, "wb") as out:
        kind.write([matrix], out, lambda done: None)
    if kind.sidecar(path):
        operator = replace(matrix, spec=matrix.spec.operator())
        with open(sidecar(path), "wb") as out:
            registry.by_form("operator").write([operator], out, lambda done: None)
    return path


def rendered(kind: MatrixFormat, matrix: Matrix) -> bytes:
    """The bytes that the code under test writes."""
    out = io.BytesIO()
    kind.write([matrix], out, lambda done: None)
    return out.getvalue()


def in_memory(data: bytes) -> Input:
    """Bytes as an opened file without a name; it is closed when nobody has it any more."""
    with tempfile.TemporaryFile() as temporary:
        temporary.write(data)
        temporary.seek(0)
        descriptor = os.dup(temporary.fileno())
    file = open(descriptor, "rb", closefd=False)  # noqa: SIM115 - closed by the next line
    weakref.finalize(file, os.close, descriptor)
    return Input("crafted", None, file, len(data), data[:HEAD])


def checked(source: Path | bytes, **options: Any) -> Report:
    """The report of `verify`, of a file or of the bytes of an npz."""
    if isinstance(source, bytes):
        return proven(registry.stored(in_memory(source))[0], **options)
    with opened(source) as file:
        return proven(registry.stored(file)[0], **options)


PROOF = {field.name for field in fields(Proof)}


def proven(stored: StoredMatrix, **options: Any) -> Report:
    """`verify` with the fields of a `Proof` and its own options side by side."""
    asked = {name: options.pop(name) for name in PROOF & options.keys()}
    return verify(stored, Proof(**asked), **options)


def failures(report: Report) -> list[str]:
    """The details of all findings that do not hold."""
    return [finding.detail for finding in report.findings if finding.holds is False]


def outcome_beside(kind: MatrixFormat, matrix: Matrix, data: bytes) -> str:
    """The first word of `outcome`, of these bytes as a file of a kind without metadata."""
    try:
        return "ok" if verified(kind, matrix, data).ok else "wrong"
    except ConvfcError as error:
        return type(error).__name__


def outcome(source: Path | bytes) -> tuple[str, str]:
    """("ok", ""), ("wrong", the finding) or (the error's class, its text); lets others through."""
    try:
        report = checked(source)
    except ConvfcError as error:
        return type(error).__name__, str(error)
    return ("ok", "") if report.ok else ("wrong", "; ".join(failures(report)))


def members(data: bytes) -> dict[str, bytes]:
    """The contents of a zip, by member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def arrays(data: bytes) -> dict[str, Array]:
    """The arrays of an npz, writeable."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name].copy() for name in archive.files}


def saved(contents: dict[str, Any]) -> bytes:
    """An npz as `numpy.savez` writes it."""
    out = io.BytesIO()
    np.savez(out, **contents)
    return out.getvalue()


def zipped(contents: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as the standard library writes it, with names as often as they are given."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", compression) as archive:
        warnings.simplefilter("ignore", UserWarning)  # duplicate names are the point
        for name, content in contents:
            archive.writestr(name, content)
    return out.getvalue()


def npy(array: Any) -> bytes:
    """An array as `numpy.save` writes it, pickled if it must."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def raw_npy(descr: str, shape: Any, content: bytes = b"", *, fortran: bool = False) -> bytes:
    """An npy file whose header says anything at all."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def description(data: bytes) -> dict[str, Any]:
    """The metadata of an npz."""
    return json.loads(str(arrays(data)["convfc"]))


def redescribed(data: bytes, content: Any) -> bytes:
    """The npz with other metadata."""
    return replaced(data, convfc=npy(np.array(json.dumps(content))))


def replaced(file: bytes, /, **changes: bytes | None) -> bytes:
    """The npz with members replaced by these bytes, or left out (None), in a frame of zipfile's."""
    contents = members(file)
    for name, content in changes.items():
        if content is None:
            del contents[f"{name}.npy"]
        else:
            contents[f"{name}.npy"] = content
    return zipped(list(contents.items()))


def edited(data: bytes, change: Callable[[h5py.File], object], **options: Any) -> bytes:
    """The HDF5 file after h5py has changed something in it."""
    held = io.BytesIO(data)
    with h5py.File(held, "r+", **options) as file:
        change(file)
    return held.getvalue()


def copied(data: bytes, **options: Any) -> bytes:
    """The HDF5 file as h5py writes it anew, its arrays in chunks and `options` on each of them."""
    held = io.BytesIO()
    with h5py.File(io.BytesIO(data)) as source, h5py.File(held, "w", libver="latest") as file:
        file.attrs.update(source.attrs)
        for name, group in source.items():
            made = file.create_group(name)
            made.attrs.update(group.attrs)
            for member, dataset in group.items():
                same = [known for known in made if group[known] == dataset]
                if same:
                    made[member] = made[same[0]]
                elif dataset.shape:
                    made.create_dataset(member, data=dataset[()], **options)
                    made[member].attrs.update(dataset.attrs)
                else:
                    made[member] = dataset[()].decode()
    return held.getvalue()


def beside(kind: MatrixFormat, matrix: Matrix) -> Input | None:
    """The operator file that a file of this kind needs, in memory."""
    if not kind.sidecar(Path("matrix")):
        return None
    operator = replace(matrix, spec=matrix.spec.operator())
    return in_memory(rendered(registry.by_form("operator"), operator))


def verified(kind: MatrixFormat, matrix: Matrix, data: bytes, **options: Any) -> Report:
    """The report on these bytes as a file of this kind, in memory."""
    return proven(kind.open(in_memory(data), beside(kind, matrix))[0], **options)


@dataclass(frozen=True)
class File:
    """A file of one matrix, and what numpy and h5py find in it: arrays by name, texts as 0-d ones.

    Of an HDF5 file its attributes and the name of its group count as contents, of a file without
    metadata those of the operator file beside it.
    """

    kind: MatrixFormat
    matrix: Matrix
    data: bytes
    operator: bytes | None
    contents: dict[str, Array]

    @classmethod
    def of(cls, kind: MatrixFormat, matrix: Matrix) -> "File":
        """The file as the code under test writes it."""
        data, operator = rendered(kind, matrix), None
        if kind.multi_layer:
            return cls(kind, matrix, data, operator, _hdf5_contents(data))
        if not kind.sidecar(Path("matrix")):
            return cls(kind, matrix, data, operator, arrays(data))
        beside = replace(matrix, spec=matrix.spec.operator())
        operator = rendered(registry.by_form("operator"), beside)
        dense = np.load(io.BytesIO(data))
        return cls(kind, matrix, data, operator, {"dense": dense, **arrays(operator)})

    def written(self, contents: dict[str, Array]) -> list[bytes]:
        """The file with other contents, as numpy or h5py writes it, and the one beside it."""
        if self.kind.multi_layer:
            return [edited(self.data, partial(_refill, before=self.contents, contents=contents))]
        if self.operator is None:
            return [saved(contents)]
        operator = {name: value for name, value in contents.items() if name != "dense"}
        return [npy(contents["dense"]), saved(operator)]

    def opened(self, files: list[bytes]) -> StoredMatrix:
        """The one matrix of what `written` gives."""
        return self.kind.open(*map(in_memory, files))[0]


LINKS = {"data": "values", "indices": "indices_1", "indptr": "pointers_to_1"}
"""What binsparse calls the arrays of an HDF5 file."""

ATTRIBUTES = ("encoding-type", "encoding-version", "shape", "binsparse")


def _hdf5_contents(data: bytes) -> dict[str, Array]:
    with h5py.File(io.BytesIO(data)) as file:
        ((name, group),) = file.items()
        found = {key: np.array(_text(value)) for key, value in group.attrs.items()}
        for key, dataset in group.items():
            if key not in LINKS.values():
                text = key == "convfc"
                found[key] = np.array(dataset[()].decode()) if text else dataset[()]
        return {"group": np.array(name), **found}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _refill(file: h5py.File, *, before: dict[str, Array], contents: dict[str, Array]) -> None:
    """Put these contents into the one group; its name, and what its attributes say of the arrays,
    follow the metadata and the arrays unless they are what was changed.
    """
    (group,) = file.values()
    for name in before.keys() | contents.keys():
        old, new = before.get(name), contents.get(name)
        if same(old, new) or name in ("group", *ATTRIBUTES):
            continue
        alike = [(array.dtype, array.shape) for array in (old, new) if array is not None]
        if len(alike) == 2 and alike[0] == alike[1] and new.dtype.kind != "U":
            group[name][...] = new
            continue
        attributes = {}
        if old is not None:
            attributes = dict(group[name].attrs)
            for known in (name, LINKS.get(name)):
                if known is not None and known in group:
                    del group[known]
        if new is not None:
            group[name] = str(new) if new.dtype.kind == "U" else new
            group[name].attrs.update(attributes)
            if "indptr" in before and name in LINKS:
                group[LINKS[name]] = group[name]
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        _redescribe(group, json.loads(str(contents["convfc"])), contents)
    for name in ("encoding-type", "encoding-version", "binsparse"):
        if not same(before.get(name), contents.get(name)):
            group.attrs[name] = str(contents[name])
    if "shape" in contents:
        group.attrs["shape"] = contents["shape"]
    if not same(before["group"], contents["group"]):
        file.move(group.name, str(contents["group"]))


def _redescribe(group: h5py.Group, content: dict[str, Any], contents: dict[str, Array]) -> None:
    if "indptr" in contents:
        known = json.loads(group.attrs["binsparse"])
        known["binsparse"]["shape"] = content["shape"]
        known["binsparse"]["number_of_stored_values"] = content["nonzeros"]
        for name, link in LINKS.items():
            known["binsparse"]["data_types"][link] = contents[name].dtype.name
        group.attrs["binsparse"] = json.dumps(known)
    origin = content["origin"]
    name = stem(origin.get("position", 0), origin.get("layer", ""))
    if name != group.name.strip("/"):
        group.file.move(group.name, name)


def same(one: Array | None, other: Array | None) -> bool:
    """Whether two arrays are the same byte for byte."""
    if one is None or other is None:
        return one is other
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and one.tobytes() == other.tobytes()


CASES = [(kind, form) for kind in registry.formats().values() for form in kind.forms]
"""Every kind of matrix file there is, in each of its forms."""

TEXT = {"edges", "mtx"}
"""Kinds with a line for each nonzero: how long it is, the digits say."""


def with_value(
    kind: MatrixFormat, spec: Spec, data: bytes, place: tuple[int, int], value: int
) -> bytes:
    """A file of text, or a .mat, with another value at this row and column."""
    row, column = place
    if kind.name == "mat":
        columns = scipy.io.loadmat(io.BytesIO(data))["M"].tocsc()
        order = np.arange(columns.nnz)
        found = csc_array((order, columns.indices, columns.indptr), columns.shape)[row, column]
        return patched(data, len(data) - 8 * (columns.nnz - int(found)), struct.pack("<d", value))
    start = f"{row + 1} {column + 1} "
    if kind.name == "edges":
        start = f"{row},{column}," if spec.transpose else f"{column},{row},"
    (line,) = [line for line in data.splitlines() if line.startswith(start.encode())]
    return data.replace(b"\n" + line + b"\n", f"\n{start}{value}.0\n".encode())


def patched(data: bytes, place: int, part: bytes) -> bytes:
    """The bytes with others from a place on."""
    return data[:place] + part + data[place + len(part) :]


def holds(kind: MatrixFormat, layer: Convolution) -> bool:
    """Whether a kind has room for these weights: text knows one NaN, a double no signalling one of
    float32.
    """
    values = layer.kernel.reshape(-1)
    if kind.name == "mat" and layer.bias is not None:
        values = np.concatenate((values, layer.bias))
    nans = brute.bits(values[np.isnan(values)])
    if kind.name in TEXT:
        return bool((nans == brute.bits(np.array([np.nan], layer.dtype))).all())
    return kind.name != "mat" or layer.dtype != np.float32 or bool((nans >> 22 & 1).all())


def label(value: object) -> str | None:
    """What pytest calls a case."""
    return getattr(value, "name", None)


def assert_same_layer(found: Convolution, expected: Convolution) -> None:
    """Bit for bit: geometry, kernel and bias."""
    assert found.outline == expected.outline
    assert found.kernel.dtype == expected.kernel.dtype
    assert np.array_equal(brute.bits(found.kernel), brute.bits(expected.kernel))
    assert (found.bias is None) == (expected.bias is None)
    if expected.bias is not None:
        assert np.array_equal(brute.bits(found.bias), brute.bits(expected.bias))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise unless the block is done in time: for what could run for years."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
