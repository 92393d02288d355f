"""A matrix as its file knows it: a layer, a layout, a form, and where the layer came from.

`describe` puts all of it but the arrays into one JSON text, the schema `convfc/1`; `restore` reads
it back from a stranger's file and validates it as it was validated when the layer was first made.
Nothing in the text depends on when, where or in what order a file was written.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import GeometryError, MalformedInput, UsageError
from convfc_cli.geometry import Axis
from convfc_cli.layers import Convolution
from convfc_cli.layout import Layout
from convfc_cli.taps import IndexMap

T = TypeVar("T")

SCHEMA = "convfc/1"

FORMS = ("csr", "dense", "operator")
"""csr: the nonzeros; dense: every entry; operator: kernel, bias and geometry alone."""


@dataclass(frozen=True)
class Origin:
    """Where a layer came from: enough to find it again, and to see that it is the same."""

    file: str = ""
    sha256: str = ""
    layer: str = ""
    output: str = ""
    position: int = 0
    op: str = ""
    dtype: str = ""
    flipped: bool = False


@dataclass(frozen=True)
class Spec:
    """How a matrix is to be written, whatever the layer."""

    layout: Layout = field(default_factory=Layout)
    form: str = "csr"
    kernel_index: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"form {self.form!r} is none of {', '.join(FORMS)}")
        if self.kernel_index and self.form != "csr":
            raise UsageError(f"--kernel-index needs stored nonzeros; the form is {self.form}")

    def shape(self, index_map: IndexMap) -> tuple[int, int]:
        """(rows, columns) of the matrix of a layer with this map."""
        rows, columns = index_map.rows, index_map.columns
        return (columns, rows) if self.layout.transpose else (rows, columns)


@dataclass(frozen=True)
class Matrix:
    """What is written to a file, and what a file is read back as."""

    layer: Convolution
    spec: Spec = field(default_factory=Spec)
    origin: Origin = field(default_factory=Origin)

    @property
    def layout(self) -> Layout:
        """How rows and columns are flattened."""
        return self.spec.layout

    @property
    def form(self) -> str:
        """One of FORMS."""
        return self.spec.form

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.spec.shape(self.layer.index_map)

    @property
    def bias(self) -> NDArray[Any]:
        """One value for each output, flattened as the outputs are."""
        return self.layout.vector(self.layer.bias_tensor())


def describe(matrix: Matrix) -> str:
    """The metadata of a matrix as JSON."""
    from convfc_cli import __version__

    index_map = matrix.layer.index_map
    content = {
        "schema": SCHEMA,
        "version": __version__,
        "form": matrix.form,
        "shape": matrix.shape,
        "nonzeros": index_map.nnz,
        "kernel_index": matrix.spec.kernel_index,
        "layout": asdict(matrix.layout),
        "input_shape": index_map.input_shape,
        "output_shape": index_map.output_shape,
        **_geometry(matrix.layer),
        "origin": asdict(matrix.origin),
        "digest": digest(matrix.layer),
    }
    return json.dumps(content)


def restore(text: str, kernel: NDArray[Any], bias: NDArray[Any] | None) -> Matrix:
    """The matrix that a file describes, its parts checked against each other.

    Raises `MalformedInput` when the text is not a `convfc/1` description of these arrays.
    """
    try:
        content = json.loads(text, object_pairs_hook=_object)
        if not isinstance(content, dict) or "schema" not in content:
            raise ValueError("it has no schema")
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        shape = tuple(_as(int, size) for size in content["kernel_shape"])
        if shape != kernel.shape:  # before it is counted through
            raise ValueError(f"it says kernel_shape {shape}, the kernel has {kernel.shape}")
        axes = tuple(
            Axis(**{key: _as(int, number) for key, number in _as(dict, axis).items()})
            for axis in content["axes"]
        )
        groups, transposed = _as(int, content["groups"]), _as(bool, content["transposed"])
        order, transpose = content["layout"]["order"], content["layout"]["transpose"]
        layout = Layout(_as(str, order), _as(bool, transpose))
        matrix = Matrix(
            Convolution(kernel, IndexMap(shape, axes, groups, transposed), bias),
            Spec(layout, _as(str, content["form"]), _as(bool, content["kernel_index"])),
            _origin(_as(dict, content["origin"])),
        )
        _compare(content, json.loads(describe(matrix)))
    except (ValueError, KeyError, TypeError, GeometryError, UsageError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise MalformedInput(f"the metadata is not {SCHEMA}: {what}") from error
    return matrix


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("it has a field twice")
    return dict(pairs)


def _compare(content: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise unless a description says what we would say of the same matrix.

    The version of the tool may differ, and the digest: that is the proof's to judge.
    """
    own["version"] = _as(str, content["version"])
    own["digest"] = content.get("digest")
    own["origin"] = content["origin"]
    for key, value in own.items():
        found = content.get("digest") if key == "digest" else content[key]
        if json.dumps(found, sort_keys=True) != json.dumps(value, sort_keys=True):
            raise ValueError(f"it says {key} {str(found)[:80]}, its geometry {str(value)[:80]}")
    if unknown := sorted(content.keys() - own.keys()):
        raise ValueError(f"it has an unknown field {unknown[0]!r}")


def _origin(content: dict[str, object]) -> Origin:
    kinds = get_type_hints(Origin)
    for key, value in content.items():
        if key not in kinds or type(value) is not kinds[key]:
            raise ValueError(f"origin has {key} = {value!r}")
    return Origin(**content)  # type: ignore[arg-type]


def _as(kind: type[T], value: object) -> T:
    """The value, which must be of exactly this type: True is no number."""
    if type(value) is not kind:
        raise ValueError(f"{str(value)[:80]!r} where {_NAMES[kind]} belongs")
    return value


_NAMES = {int: "a whole number", bool: "true or false", str: "a text", dict: "an object"}


def stated_digest(text: str) -> object:
    """The digest that a description carries."""
    return json.loads(text).get("digest")


def digest(layer: Convolution) -> str:
    """SHA-256 over the canonical geometry, the kernel and the bias.

    It tells a file that was damaged or edited in part from a whole one; who edits all of it can
    also compute it again.
    """
    sha = hashlib.sha256(json.dumps(_geometry(layer), sort_keys=True).encode())
    sha.update(layer.kernel.tobytes())
    if layer.bias is not None:
        sha.update(layer.bias.tobytes())
    return sha.hexdigest()


def _geometry(layer: Convolution) -> dict[str, Any]:
    index_map = layer.index_map
    return {
        "kernel_shape": index_map.kernel_shape,
        "axes": [asdict(axis) for axis in index_map.axes],
        "groups": index_map.groups,
        "transposed": index_map.transposed,
        "bias": layer.bias is not None,
        "dtype": np.dtype(layer.dtype).name,
    }
