"""The job: plan, write, verify, record. What the API and the command line both call.

Nothing is written before the whole plan stands (`planning`). Then, layer by layer, the original
node is run against the layer as it was read, the file is written beside its destination, read back,
proven, and renamed. In a folder, `manifest.json` comes last (`manifest`).
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from convfc_cli import budget
from convfc_cli.errors import (
    ConvfcError,
    Defect,
    MalformedInput,
    OutputFailed,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
    WeightsAlone,
    WrongContents,
    gravest,
)
from convfc_cli.files import (
    HEAD,
    Input,
    check_replaceable,
    claimed,
    make_folder,
    opened,
    replacing,
    replacing_all,
)
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product
from convfc_cli.layout import Layout
from convfc_cli.manifest import MANIFEST, manifest
from convfc_cli.matrices import registry as matrix_kinds
from convfc_cli.matrices.format import MatrixFormat, Stored
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.stored_zip import write_all
from convfc_cli.models import chain
from convfc_cli.models import registry as model_kinds
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.models.request import Request, Shapes, WeightsSpec, by_tensor
from convfc_cli.naming import first_few
from convfc_cli.planning import Item, Options, Plan, make_plan, origin_of, select
from convfc_cli.proof.report import Finding, Report, wrong
from convfc_cli.proof.verify import USUAL, Proof
from convfc_cli.proof.verify import verify as verify_stored
from convfc_cli.rounding import Witness, check_runtime
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.runtime import Original
from convfc_cli.witnesses import believed

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Result:
    """One matrix written, and what is known of it: no report where it was not verified.

    `size` is that of its file in bytes; of one of several in a file, about its share.
    """

    item: Item
    size: int
    report: Report | None

    def described(self) -> dict[str, Any]:
        """The result as plain values."""
        entry = self.item.entry
        return {
            "file": self.item.path.name,
            "layer": entry.name,
            "output": entry.output,
            "position": entry.position,
            "op": entry.op,
            "form": self.item.spec.form,
            "shape": self.item.shape,
            "nonzeros": entry.require().nnz,
            "bytes": self.size,
            "verified": self.report is not None,
        }


@dataclass(frozen=True)
class Conversion:
    """All that a conversion wrote, and what it could not."""

    plan: Plan
    results: tuple[Result, ...]
    failures: tuple[tuple[Entry, ConvfcError], ...]

    def failed(self) -> list[dict[str, Any]]:
        """The failures as plain values."""
        return [
            {"layer": entry.name, "reason": str(error), "exit_code": error.exit_code}
            for entry, error in self.failures
        ]

    @property
    def exit_code(self) -> int:
        """0, or the code of the gravest failure."""
        return gravest([error.exit_code for _, error in self.failures])


PLAIN = Options()
"""Everything as it is by default."""


class Observer(Protocol):
    """Is told how a job goes on."""

    def planned(self, plan: Plan) -> None: ...

    def started(self, name: str, size: int) -> None: ...

    def advanced(self, size: int) -> None: ...

    def finished(self, result: Result) -> None: ...


class Silent:
    """An observer that says nothing."""

    def planned(self, plan: Plan) -> None: ...

    def started(self, name: str, size: int) -> None: ...

    def advanced(self, size: int) -> None: ...

    def finished(self, result: Result) -> None: ...


@budget.command()
def convert(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] | str = (),
    input_shape: Shapes | Sequence[int] | None = None,
    weights: WeightsSpec | None = None,
    include: Sequence[str] | str = (),
    compose: Sequence[str] | str = (),
    options: Options = PLAIN,
    observer: Observer = Silent(),  # noqa: B008 - has no state
) -> Conversion:
    """Write the matrices of a model's layers, each proven after it is written.

    `output` is a folder (it ends in / or exists as one; by default `NAME.fc` in the current
    directory) or, for one layer, a file whose suffix picks the format. `input_shape` settles open
    sizes: the shape of the model's input with its batch, in the model's own order, or a mapping
    from tensors to theirs. `weights` describes a convolution that the file has only weights of.
    `include` are operators whose layers are converted beside the convolutions (`linear`: all);
    `compose` chains FIRST:LAST of linear layers, each one matrix, in place of single layers.

    Raises `UsageError` (nothing to do, no such layer, a size missing, the output exists),
    `Unsupported`, `Refused` (too large), `OutputFailed`, `WrongContents` where another runtime
    contradicts the layer as it was read: in each case nothing is half written.
    """
    request = Request(by_tensor(input_shape), weights)
    selected = select(model, layers, request, include=include, compose=compose)
    plan = make_plan(*selected, output, options)
    observer.planned(plan)
    return _carry_out(plan, options, observer)


@budget.command()
def stream(
    model: str | os.PathLike[str],
    out: BinaryIO,
    *,
    layers: Sequence[str] | str = (),
    input_shape: Shapes | Sequence[int] | None = None,
    weights: WeightsSpec | None = None,
    compose: Sequence[str] | str = (),
    options: Options = PLAIN,
    observer: Observer = Silent(),  # noqa: B008 - has no state
) -> None:
    """Write one layer's npz to an output that need not seek. Nothing is read back."""
    if options.form == "dense":
        raise UsageError("a stream carries an npz: --form dense needs a file, -o NAME.npy")
    request = Request(by_tensor(input_shape), weights)
    opened_model, entries = select(model, layers, request, compose=compose)
    if len(entries) > 1:
        raise UsageError(f"a stream carries one layer, not {len(entries)}: name it with -l")
    plan = make_plan(opened_model, entries, "stream.npz", options, to_disk=False)
    observer.planned(plan)
    item = plan.items[0]
    observer.started(item.entry.name, item.size)
    layer = _rounded(item.entry.load(), options.dtype)
    matrix = Matrix(layer, item.spec, origin_of(plan.model, item.entry))
    try:
        item.kind.write([matrix], out, observer.advanced)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"cannot write the stream: {error.strerror}") from error


@budget.command()
def matrix(
    model: str | os.PathLike[str],
    layer: str | None = None,
    *,
    input_shape: Shapes | Sequence[int] | None = None,
    weights: WeightsSpec | None = None,
    compose: str | None = None,
    layout: str | None = None,
    transpose: bool = False,
) -> "csr_array[Any, tuple[int, int]]":
    """The matrix M of one layer in memory, vec(conv(x)) = M vec(x) + b, without its bias.

    `layer` may be left out where there is only one, or for the chain of layers `compose`;
    `input_shape` as in `convert`; `layout` is one
    of `layout.ORDERS`, by default the model's own.

    Raises `UsageError`, `Unsupported`, `MalformedInput`. There is no ceiling: the matrix takes
    about 8 bytes for each nonzero.

    >>> matrix("sample_models/lenet.onnx", "conv2d_1").shape  # doctest: +SKIP
    (1600, 1176)
    """
    from scipy.sparse import csr_array

    request = Request(by_tensor(input_shape), weights)
    _, entries = select(model, layer or (), request, compose=compose or ())
    if len(entries) != 1:
        names = first_few([entry.name for entry in entries])
        raise UsageError(f"{os.fspath(model)} has {len(entries)} layers: say which ({names})")
    entry = entries[0]
    rows = entry.load().rows(Layout(layout or entry.layout, transpose))
    arrays = (rows.data.array(), rows.indices.array(), rows.indptr.array())
    return csr_array(arrays, shape=rows.shape)


@budget.command()
def verify(
    path: str | os.PathLike[str],
    layer: str | None = None,
    *,
    model: Model | str | os.PathLike[str] | None = None,
    listed: dict[str, Any] | None = None,
    proof: Proof = USUAL,
    observer: Observer = Silent(),  # noqa: B008 - has no state
) -> Report:
    """Prove one matrix: the only one of a file, or that of `layer`; with `model`, also that its
    kernel and geometry are that model's; with `listed`, that it is what its folder's manifest says
    (`manifest.matrix_files`).

    Raises `UsageError`, `MalformedInput` (damaged, or no matrix file), `Refused`. Wrong contents
    are a report that is not `ok`.
    """
    with opened(path) as source:
        try:
            stored = matrix_kinds.one(matrix_kinds.stored(source), layer, source.name)
        except WrongContents as error:
            return wrong(source.name, "entries", str(error))
        return _report(stored, model, listed, proof, observer, source.size)


def verify_all(
    path: str | os.PathLike[str],
    *,
    model: Model | str | os.PathLike[str] | None = None,
    listed: dict[str, Any] | None = None,
    proof: Proof = USUAL,
    observer: Observer = Silent(),  # noqa: B008 - has no state
) -> Iterator[Report]:
    """`verify` of each matrix of a file."""
    with opened(path) as source:
        try:
            found = matrix_kinds.stored(source)
        except WrongContents as error:
            yield wrong(source.name, "entries", str(error))
            return
        for stored in found:
            size = source.size // len(found)
            yield _report(stored, model, listed, proof, observer, size)


@budget.command()
def _report(
    stored: Stored,
    model: Model | str | os.PathLike[str] | None,
    listed: dict[str, Any] | None,
    proof: Proof,
    observer: Observer,
    size: int,
) -> Report:
    observer.started(stored.name, size)
    original = node = None
    if model is not None:
        found = model if isinstance(model, Model) else model_kinds.read(model)
        try:
            original, node = _original(found, stored.matrix)
        except WrongContents as error:
            return wrong(stored.name, "origin", str(error))
    return verify_stored(
        stored, proof, original=original, node=node, listed=listed, progress=observer.advanced
    )


def _carry_out(plan: Plan, options: Options, observer: Observer) -> Conversion:
    folder = plan.folder
    if folder is None:
        return _write_files(plan, options, observer)
    new = [path for path in (folder, *folder.parents) if not path.exists()]  # the innermost first
    make_folder(folder)
    with claimed(folder):
        try:
            # Since the plan was made, another run may have ended here.
            check_replaceable(folder / MANIFEST, force=options.force)
            done = _write_files(plan, options, observer)
            if done.results:
                described = [result.described() for result in done.results]
                text = manifest(plan.model, described, done.failed())
                with replacing(folder / MANIFEST, force=options.force) as out:
                    write_all(out, text.encode())
        finally:
            for path in new:
                if any(path.iterdir()):
                    break
                path.rmdir()
    return done


def _write_files(plan: Plan, options: Options, observer: Observer) -> Conversion:
    """Write the files of a plan, all but the manifest."""
    failures = list(plan.failures)
    results: list[Result] = []
    for items in plan.files:
        observer.started(
            items[0].entry.name,
            sum(item.size for item in items) * (2 if options.verify else 1),
        )
        made = []
        for item in items:
            try:
                made.append(_make(plan.model, item, options))
            except ConvfcError as error:
                if not options.keep_going or error.exit_code in (6, 70):
                    raise
                failures.append((item.entry, error.without_frames()))
        for result in _write(plan, made, options, observer) if made else []:
            results.append(result)
            observer.finished(result)
    return Conversion(plan, tuple(results), tuple(failures))


@dataclass(frozen=True)
class _Made:
    """A matrix that is ready to be written, and how the original node compares to it."""

    item: Item
    matrix: Matrix
    runtime: Finding | None


def _make(model: Model, item: Item, options: Options) -> _Made:
    layer = item.entry.load()
    runtime = _run_original(item.entry, layer) if options.verify else None
    matrix = Matrix(_rounded(layer, options.dtype), item.spec, origin_of(model, item.entry))
    return _Made(item, matrix, runtime)


def _write(
    plan: Plan, made: Sequence[_Made], options: Options, observer: Observer
) -> Sequence[Result]:
    """Write one file, prove it, and give it its name."""
    kind, path = made[0].item.kind, made[0].item.path
    # What lies beside takes its name first: a matrix never stands without its metadata.
    paths = [*made[0].item.beside, path]
    with replacing_all(*paths, force=options.force) as files:
        for file in files[:-1]:
            (matrix,) = (one.matrix for one in made)
            operator = replace(matrix, spec=Spec(matrix.layout, "operator"))
            matrix_kinds.by_form("operator").write([operator], file, lambda size: None)
        kind.write([one.matrix for one in made], files[-1], observer.advanced)
        reports: Sequence[Report | None] = [None] * len(made)
        if options.verify:
            sources = [_reread(path, file) for path, file in zip(paths, files, strict=True)]
            reports = _read_back(kind, sources, made, options, observer)
        # From here until the new manifest stands, the folder is incomplete. Without --force there
        # was no manifest; one that has appeared is that of another run, and stays.
        if plan.folder is not None and options.force:
            (plan.folder / MANIFEST).unlink(missing_ok=True)
        size = files[-1].seek(0, os.SEEK_END)
        sizes = [size] if len(made) == 1 else [one.item.size for one in made]
        return [
            Result(one.item, size, report)
            for one, size, report in zip(made, sizes, reports, strict=True)
        ]


def _read_back(
    kind: MatrixFormat,
    sources: list[Input],
    made: Sequence[_Made],
    options: Options,
    observer: Observer,
) -> list[Report]:
    """Prove the file that was just written, before it takes its name."""
    reports = []
    for one, stored in zip(made, kind.open(sources[-1], *sources[:-1]), strict=True):
        report = verify_stored(
            stored, Proof(options.probes), original=one.matrix, progress=observer.advanced
        )
        if not report.ok:
            raise Defect(
                f"{stored.name} was not written as computed ({report.complaint}): the disk, the "
                f"memory or a bug in convfc; the output was not created"
            )
        runtime = [one.runtime] if one.runtime is not None else []
        reports.append(replace(report, findings=(*report.findings, *runtime)))
    return reports


def _reread(path: Path, file: BinaryIO) -> Input:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return Input(str(path), path, file, size, head)


def _run_original(entry: Entry, layer: Linear) -> Finding:
    """Hold the layer as it was read to the original node, of a chain each to its own; raises where
    they differ.
    """
    if entry.parts:
        try:
            layers = [chain.real(part) for part in entry.parts]
            whole = _hold_to_parts(entry, layer, layers)
            findings = [_run_original(part, part.load()) for part in entry.parts]
        except Refused as error:  # to load them again may be more than the command has left
            return Finding("runtime", None, f"the original nodes were not run: {error}")
        unclear = [finding for finding in findings if finding.holds is None]
        told = (unclear or sorted(findings, key=lambda finding: finding.worst or 0))[-1]
        detail = f"of {len(findings)} layers, one by one, the worst: {told.detail}"
        if whole.holds is None:
            return replace(whole, detail=f"{whole.detail}; {detail}")
        return replace(told, detail=detail)
    note = "; the kernel was flipped after that" if entry.flipped else ""
    layer = layer.flipped() if entry.flipped and isinstance(layer, Convolution) else layer
    finding = believed(_accounts(entry, layer))
    if finding.holds is False:
        raise WrongContents(
            f"layer {entry.name}: {finding.detail}; one of them misreads the model, so nothing is "
            f"written (--no-verify writes it all the same; please report the model)"
        )
    return replace(finding, detail=finding.detail + note)


def _accounts(entry: Entry, layer: Linear) -> Iterator[Finding]:
    """What one runtime after another says of the layer as it was read."""
    for witness in entry.witnesses(np.random.default_rng(secrets.randbits(128))):
        if isinstance(witness, str):
            yield Finding("runtime", None, witness)
        else:
            assert entry.original is not None
            yield check_runtime(layer, witness, entry.original.name)


def _hold_to_parts(entry: Entry, layer: Linear, layers: Sequence[Linear]) -> Finding:
    """Hold a chain to what its layers compute, one after another, by their oracles: also where
    numbers for each channel have gone into a kernel. Raises where they differ.
    """
    name = "the chain, its layers one by one"
    x = np.random.default_rng(secrets.randbits(128)).standard_normal(layer.input_shape)
    x = x.astype(layer.dtype)
    y = ORACLE.apply(Product(layers), x[None])
    if isinstance(y, str):
        return Finding("runtime", None, f"{name}, was not run: {y}")
    finding = check_runtime(layer, Witness.of(ORACLE.label, x, y[0]), name)
    if finding.holds is False:
        raise Defect(f"the chain {entry.name} does not compute what its layers do")
    return finding


def _rounded(layer: Linear, dtype: str | None) -> Linear:
    return layer if dtype is None else layer.astype(dtype)


def _original(model: Model, matrix: Matrix) -> tuple[Matrix, Original | None]:
    """What the model makes of the layer that a matrix says it came from, at the matrix's size where
    the model leaves it open; and its node, where that computes just this layer.

    Raises `WrongContents` if it has no such layer, `UsageError` where the model has weights alone
    that nobody described.
    """
    origin = matrix.origin
    if origin.first:
        return _original_chain(model, matrix), None
    called = f"layer @{origin.position} {origin.layer!r} with the output {origin.output!r}"
    for entry in model.layers():
        if (entry.output, entry.position) == (origin.output, origin.position):
            if isinstance(entry.error, SizeMissing):
                try:
                    entry = entry.settled(matrix.layer.input_shape, "the matrix")
                except (UsageError, MalformedInput) as error:
                    raise WrongContents(f"{model.name} has another {called}: {error}") from error
            entry = replace(entry, flipped=origin.flipped)
            entry = entry.as_real() if origin.dequantized else entry
            layer = entry.load()
            changed = origin.flipped or layer.dtype != matrix.layer.dtype
            layer = layer.astype(matrix.layer.dtype.name)
            found = Matrix(layer, matrix.spec, origin_of(model, entry))
            return found, None if changed else entry.original
    if any(isinstance(entry.error, WeightsAlone) for entry in model.entries):
        raise UsageError(
            f"{model.name} has weights alone: to compare, repeat how they are used, --weight, "
            f"--kernel-order and what else was said for {origin.layer!r}"
        )
    raise WrongContents(f"{model.name} has no {called}")


def _original_chain(model: Model, matrix: Matrix) -> Matrix:
    """The same of a matrix that was composed of several layers."""
    origin = matrix.origin
    shape = matrix.layer.input_shape
    try:
        entry = chain.again(model, origin.first, origin.output, shape)
    except (UsageError, MalformedInput, Unsupported) as error:
        told = f"{model.name} has no such chain of layers {origin.layer!r}"
        raise WrongContents(f"{told}: {error}") from error
    if entry is None:
        raise WrongContents(f"{model.name} has no chain of layers {origin.layer!r}")
    layer = entry.load().astype(matrix.layer.dtype.name)
    return Matrix(layer, matrix.spec, origin_of(model, entry))
