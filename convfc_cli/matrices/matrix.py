"""A matrix as its file knows it: a layer, a layout, a form, and where the layer came from.

`describe` puts all of it but the arrays into one JSON text, the schema `convfc/1`; `restore` reads
it back from an untrusted file and validates it as it was validated when the layer was first made.
Nothing in the text depends on when, where or in what order a file was written.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from numpy.typing import NDArray

from convfc_cli.errors import GeometryError, MalformedInput, UsageError
from convfc_cli.hints import Advice, Hint
from convfc_cli.json_values import exactly, sizes
from convfc_cli.layers import registry
from convfc_cli.layers.description import described, restored
from convfc_cli.layers.linear import Linear, Read
from convfc_cli.layout import Layout
from convfc_cli.outline import Outline
from convfc_cli.vocabulary import FORMS, NUMBERED, SPARSE

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SCHEMA = "convfc/1"


MAX_COUNT = 2**63 - 1
"""The most nonzeros, or sizes, that a statement may count."""


FIXED = 400
"""Characters of a description beside the layer's and the origin's, at most."""


NAME = 80
"""Characters that the name of a model's file counts for, unless it has more."""


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
    dequantized: bool = False
    """Whether the real-valued layer was made of an integer one."""

    first: str = ""
    """Of a chain of layers the output of the first; `output` is that of the last."""

    weight: str = ""
    """What the model calls the weights; a file says nothing of it where it is empty."""

    notes: dict[str, Any] = field(default_factory=dict)
    """What the model says besides: scales, zero points, an activation."""


_ORIGIN = {key: get_origin(hint) or hint for key, hint in get_type_hints(Origin).items()}
"""The type of each field."""


@dataclass(frozen=True)
class Spec:
    """How a matrix is to be written, whatever the layer."""

    layout: Layout = field(default_factory=Layout)
    form: str = "csr"
    kernel_index: bool = False
    transpose: bool = False
    """False: a row for each output, a column for each input, y = M x. True: a row for each input,
    y = x M, as the kernel of a Keras Dense layer.
    """

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"form {self.form!r} is not one of {', '.join(FORMS)}")
        if self.kernel_index and self.form not in NUMBERED:
            raise UsageError(
                f"a kernel_index needs each nonzero stored by itself; the form is {self.form} "
                f"(it goes with {', '.join(NUMBERED)})"
            )
        if self.form == "bsr" and self.layout.axes(2)[-1] != 0:
            raise UsageError(
                f"the form bsr stores the channels of a position as a block, and the layout "
                f"{self.layout.order} scatters them",
                Hint(Advice.LAYOUT, ("channels-last",)),
                Hint(Advice.FORM, ("csr", "the nonzeros alone")),
            )

    @property
    def sparse(self) -> bool:
        """Whether the nonzeros are stored, and nothing else of the matrix."""
        return self.form in SPARSE

    def shape(self, outline: Outline) -> tuple[int, int]:
        """(rows, columns) of the matrix of a layer with this map."""
        rows, columns = outline.rows, outline.columns
        return (columns, rows) if self.transpose else (rows, columns)

    def operator(self) -> "Spec":
        """That of an operator file of the same matrix."""
        return replace(self, form="operator", kernel_index=False)

    def transposed(self) -> "Spec":
        """That of the transpose."""
        return replace(self, transpose=not self.transpose)


@dataclass(frozen=True)
class Matrix:
    """What is written to a file, and what a file is read back as.

    Raises `UsageError` for a part that is not a range of its rows.
    """

    layer: Linear
    spec: Spec = field(default_factory=Spec)
    origin: Origin = field(default_factory=Origin)
    part: range | None = None
    """The rows that it has, if not all of them. A file of the schema holds all."""

    def __post_init__(self) -> None:
        if self.part is None:
            return
        count, _ = self.spec.shape(self.layer.outline)
        if self.part.step != 1 or not 0 <= self.part.start < self.part.stop <= count:
            raise UsageError(f"{self.part} is not a part of {count} rows")

    @property
    def layout(self) -> Layout:
        """How rows and columns are flattened."""
        return self.spec.layout

    @property
    def form(self) -> str:
        """One of FORMS."""
        return self.spec.form

    @property
    def rows(self) -> range:
        """Its rows, as numbered in the whole matrix."""
        return range(self.spec.shape(self.layer.outline)[0]) if self.part is None else self.part

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows = self.rows  # untrusted metadata may state more than `len` can count
        return rows.stop - rows.start, self.spec.shape(self.layer.outline)[1]

    @property
    def nonzeros(self) -> int:
        """Entries that are stored. Raises `UsageError` for a part."""
        self._require_whole()
        return self.layer.nnz

    @cached_property
    def rows_of(self) -> Linear:
        """The layer whose outputs are the rows: where they are inputs, the adjoint."""
        return self.layer.adjoint() if self.spec.transpose else self.layer

    def csr(self) -> "csr_array[Any, tuple[int, int]]":
        """The matrix in memory: about 8 bytes for each nonzero. Raises `UsageError` for a part."""
        self._require_whole()
        from scipy.sparse import csr_array

        rows = self.rows_of.matrix(self.layout)
        arrays = (rows.data.array(), rows.indices.array(), rows.indptr.array())
        return csr_array(arrays, shape=rows.shape)

    def transposed(self) -> "Matrix":
        """The transpose: a file stored by columns is that stored by rows. Raises `UsageError` for a
        part.
        """
        self._require_whole()
        return replace(self, spec=self.spec.transposed())

    def _require_whole(self) -> None:
        if self.part is not None:
            raise UsageError(f"all rows are needed, and the matrix has {self.part} alone")

    @property
    def bias(self) -> NDArray[Any]:
        """One value for each output, flattened as the outputs are."""
        return self.layout.vector(self.layer.bias_tensor())


def describe(matrix: Matrix) -> str:
    """The metadata of a matrix as JSON."""
    return json.dumps({**_content(matrix), "digest": digest(matrix.layer)})


def _content(matrix: Matrix) -> dict[str, Any]:
    """The metadata of a matrix, without the digest."""
    from convfc_cli import __version__

    return {
        "schema": SCHEMA,
        "version": __version__,
        "form": matrix.form,
        "shape": matrix.shape,
        "nonzeros": matrix.nonzeros,
        "kernel_index": matrix.spec.kernel_index,
        "layout": {"order": matrix.layout.order, "transpose": matrix.spec.transpose},
        **described(matrix.layer),
        "origin": _stated(matrix.origin),
    }


def _stated(origin: Origin) -> dict[str, Any]:
    fields = dict(vars(origin))
    if not origin.weight:
        del fields["weight"]
    return fields


def longest(outline: Outline, origin: Origin) -> int:
    """Bound the characters of `describe`, before any weight is read. Names of files, unless they
    are long, count alike: a plan is the same for a file and a pipe.
    """
    file = max(NAME, len(json.dumps(origin.file)))
    rest = len(json.dumps({**vars(origin), "file": ""}))
    return FIXED + outline.kept(1).text + file + rest


def restore(text: str, name: str, read: Read) -> Matrix:
    """The matrix that a file of this name describes, its parts checked against each other; `read`
    gives the arrays that the file holds.

    Raises `MalformedInput` when the text is not a `convfc/1` description of these arrays.
    """
    registry.kinds()  # imports them: all are known by name from here on
    with _malformed(name):
        content = _parsed(text)
        layer, spec = restored(content, read), _spec(content)
        matrix = Matrix(layer, spec, _origin(exactly(dict, content["origin"])))
        _compare(content, _content(matrix))
    return matrix


@dataclass(frozen=True)
class Statement:
    """What a file says of a matrix, held to nothing: its metadata alone."""

    name: str
    """What to call the matrix: the file, and where in it."""

    group: str
    spec: Spec
    dtype: str
    shape: tuple[int, ...]
    nonzeros: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    """Empty where its entries are copies of no weight."""

    groups: int
    digest: str
    origin: Origin


def stated(text: str, name: str, *, group: str = "", form: str | None = None) -> Statement:
    """What the metadata of a file say of a matrix of this name, which has another form than they
    say where they are those of the operator file beside it.

    Raises `MalformedInput` for what is not of the schema.
    """
    with _malformed(name):
        content = _parsed(text)
        origin = _origin(exactly(dict, content["origin"]))
        json.dumps(origin.notes, allow_nan=False)
        digest = exactly(str, content["digest"])
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"its digest is {digest[:80]!r}")
        spec, shape = _spec(content), sizes(content["shape"])
        nonzeros, groups = exactly(int, content["nonzeros"]), exactly(int, content.get("groups", 1))
        if (
            len(shape) != 2
            or max(nonzeros, groups, *shape) > MAX_COUNT
            or min(nonzeros, groups) < 0
        ):
            raise ValueError(f"it says {str(nonzeros)[:80]} nonzeros in {str(shape)[:80]}")
        return Statement(
            name,
            group,
            replace(spec, form=form, kernel_index=False) if form else spec,
            exactly(str, content["dtype"]),
            shape,
            nonzeros,
            sizes(content["input_shape"]),
            sizes(content["output_shape"]),
            sizes(content.get("kernel_shape", [])) if content["kind"] == "convolution" else (),
            groups,
            digest,
            origin,
        )


@contextmanager
def _malformed(name: str) -> Iterator[None]:
    """Turn what is raised for metadata that are not of the schema into `MalformedInput`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, GeometryError, UsageError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise MalformedInput(f"{name}: the metadata is not {SCHEMA}: {what}") from error


def _parsed(text: str) -> dict[str, Any]:
    content = json.loads(text, object_pairs_hook=_object)
    if not isinstance(content, dict) or "schema" not in content:
        raise ValueError("it has no schema")
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
    return content


def _spec(content: dict[str, Any]) -> Spec:
    order, transpose = content["layout"]["order"], content["layout"]["transpose"]
    layout = Layout(exactly(str, order))
    form, numbered = exactly(str, content["form"]), exactly(bool, content["kernel_index"])
    return Spec(layout, form, numbered, exactly(bool, transpose))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("it has a field twice")
    return dict(pairs)


def _compare(content: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise unless a description says what we would say of the same matrix.

    The version of the tool may differ, and the digest: that is the proof's to judge.
    """
    expected["version"] = exactly(str, content["version"])
    expected["origin"] = content["origin"]
    stated = {key: value for key, value in content.items() if key != "digest"}
    if _canonical(stated) == _canonical(expected):
        return
    for key, value in expected.items():
        if _canonical(content[key]) != _canonical(value):
            said, wanted = str(content[key])[:80], str(json.loads(_canonical(value)))[:80]
            raise ValueError(f"it says {key} {said}, its geometry {wanted}")
    raise ValueError(f"it has an unknown field {min(stated.keys() - expected.keys())!r}")


def _canonical(value: object) -> str:
    """JSON by which values are compared: 1 and True differ, a tuple and a list do not."""
    return json.dumps(value, sort_keys=True)


def _origin(content: dict[str, object]) -> Origin:
    for key, value in content.items():
        if key not in _ORIGIN or type(value) is not _ORIGIN[key]:
            raise ValueError(f"origin has {key} = {value!r}")
    return Origin(**content)  # type: ignore[arg-type]


def stated_digest(text: str) -> object:
    """The digest that a description carries."""
    return json.loads(text).get("digest")


def digest(layer: Linear) -> str:
    """SHA-256 over the canonical geometry and the arrays, the kernel and the bias among them.

    It tells a file that was damaged or edited in part from a whole one; who edits all of it can
    also compute it again.
    """
    sha = hashlib.sha256(json.dumps(described(layer), sort_keys=True).encode())
    for array in layer.arrays().values():
        sha.update(array.tobytes())
    return sha.hexdigest()
