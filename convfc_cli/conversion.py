"""The job: plan, name, write, verify, record. What the API and the command line both call.

Nothing is written before the whole plan stands: every selected layer has its sizes, the bytes are
counted and allowed, and no destination is in the way. Then, layer by layer, the original node is
run against the layer as it was read, the file is written beside its destination, read back,
proven, and renamed. In a folder, `manifest.json` comes last: a folder without one, or whose
manifest disagrees, is incomplete.
"""

import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from convfc_cli import __version__
from convfc_cli.errors import (
    ConvfcError,
    Defect,
    MalformedInput,
    OutputExists,
    OutputFailed,
    Refused,
    SizeMissing,
    UsageError,
    WrongContents,
)
from convfc_cli.files import (
    HEAD,
    Input,
    check_replaceable,
    free_space,
    make_folder,
    opened,
    replacing,
)
from convfc_cli.layers import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry as matrix_kinds
from convfc_cli.matrices.format import MatrixFormat
from convfc_cli.matrices.matrix import Matrix, Origin, Spec
from convfc_cli.matrices.npy import sidecar
from convfc_cli.models import registry as model_kinds
from convfc_cli.models.model import Entry, Model, Shapes
from convfc_cli.verification import PROBES, Finding, Report, check_runtime
from convfc_cli.verification import verify as verify_stored

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CEILING = 8 * 2**30
"""The most that is written unless --max-bytes says otherwise; half the free disk if less."""

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "convfc-manifest/1"


@dataclass(frozen=True)
class Options:
    """What to make of the selected layers."""

    form: str | None = None
    layout: Layout = field(default_factory=Layout)
    dtype: str | None = None
    kernel_index: bool = False
    flip_kernel: bool = False
    max_bytes: int | None = None
    force: bool = False
    keep_going: bool = False
    verify: bool = True
    probes: int = PROBES


@dataclass(frozen=True)
class Item:
    """One matrix of a plan: the layer, where it goes and how large it will be."""

    entry: Entry
    spec: Spec
    kind: MatrixFormat
    path: Path
    size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix."""
        return self.spec.shape(self.entry.require())


@dataclass(frozen=True)
class Plan:
    """What will be written, before anything is."""

    model: Model
    items: tuple[Item, ...]
    failures: tuple[tuple[Entry, ConvfcError], ...]
    folder: Path | None

    @property
    def size(self) -> int:
        """About the bytes of all files."""
        return sum(item.size for item in self.items)


@dataclass(frozen=True)
class Result:
    """One file written, and what is known of it: no report where it was not verified."""

    item: Item
    size: int
    report: Report | None


@dataclass(frozen=True)
class Conversion:
    """All that a conversion wrote, and what it could not."""

    plan: Plan
    results: tuple[Result, ...]
    failures: tuple[tuple[Entry, ConvfcError], ...]

    @property
    def exit_code(self) -> int:
        """0, or the code of the gravest failure."""
        return max((error.exit_code for _, error in self.failures), default=0)


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


def convert(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] = (),
    shapes: Shapes | None = None,
    options: Options = Options(),
    observer: Observer = Silent(),  # noqa: B008 - has no state
) -> Conversion:
    """Write the matrices of a model's layers, each proven after it is written.

    `output` is a folder (it ends in / or exists as one; by default `NAME.fc` in the current
    directory) or, for one layer, a file whose suffix picks the format.

    Raises `UsageError` (nothing to do, no such layer, a size missing, the output exists),
    `Unsupported`, `Refused` (too large), `OutputFailed`, `WrongContents` where another runtime
    contradicts the layer as it was read: in each case nothing is half written.
    """
    selected = select(model, layers, shapes or {})
    plan = make_plan(*selected, output, options)
    observer.planned(plan)
    return _carry_out(plan, options, observer)


def stream(
    model: str | os.PathLike[str],
    out: BinaryIO,
    *,
    layers: Sequence[str] = (),
    shapes: Shapes | None = None,
    options: Options = Options(),
    observer: Observer = Silent(),  # noqa: B008 - has no state
) -> None:
    """Write one layer's npz to an output that need not seek. Nothing is read back."""
    if options.form == "dense":
        raise UsageError("a stream carries an npz: --form dense needs a file, -o NAME.npy")
    opened_model, entries = select(model, layers, shapes or {})
    plan = make_plan(opened_model, entries, "stream.npz", options, to_disk=False)
    observer.planned(plan)
    item = plan.items[0]
    observer.started(item.entry.name, item.size)
    matrix = _matrix(plan.model, item, item.entry.load(), options)
    try:
        item.kind.write(matrix, out, observer.advanced)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"cannot write the stream: {error.strerror}") from error


def matrix(
    model: str | os.PathLike[str],
    layer: str | None = None,
    *,
    input_shape: Shapes | Sequence[int] | None = None,
    layout: Layout = Layout(),  # noqa: B008 - frozen
) -> "csr_array[Any, tuple[int, int]]":
    """The matrix M of one layer in memory, vec(conv(x)) = M vec(x) + b, without its bias.

    `layer` may be left out where there is only one; `input_shape` is (batch, channels, *spatial)
    of the model's input, or a mapping from tensors to theirs.

    Raises what `convert` raises.
    """
    from scipy.sparse import csr_array

    shapes = _shapes(input_shape)
    _, entries = select(model, [layer] if layer else [], shapes)
    if len(entries) != 1:
        names = ", ".join(entry.name for entry in entries[:8])
        raise UsageError(f"{os.fspath(model)} has {len(entries)} layers: say which ({names})")
    rows = entries[0].load().rows(layout)
    arrays = (rows.data.array(), rows.indices.array(), rows.indptr.array())
    return csr_array(arrays, shape=rows.shape)


def verify(
    path: str | os.PathLike[str],
    *,
    model: Model | str | os.PathLike[str] | None = None,
    probes: int = PROBES,
    seed: int | None = None,
    observer: Observer = Silent(),  # noqa: B008 - has no state
) -> Report:
    """Prove one matrix file; with `model`, also that its kernel and geometry are that model's.

    Raises `UsageError`, `MalformedInput` (damaged, or no matrix file), `Refused`. Wrong contents
    are a report that is not `ok`.
    """
    with opened(path) as source:
        try:
            stored = matrix_kinds.stored(source)
        except WrongContents as error:
            finding = Finding("entries", False, str(error))
            return Report(source.name, "", (0, 0), 0, "", 0, 0, (finding,))
        observer.started(source.name, source.size)
        original = None
        if model is not None:
            found = model if isinstance(model, Model) else model_kinds.read(model)
            original = _original(found, stored.matrix)
        return verify_stored(
            stored,
            source.name,
            original=original,
            probes=probes,
            seed=seed,
            progress=observer.advanced,
        )


def select(
    model: str | os.PathLike[str], layers: Sequence[str], shapes: Shapes
) -> tuple[Model, tuple[Entry, ...]]:
    """Open a model and pick layers; a nameless shape is the only input's or the only layer's."""
    with opened(model) as source:
        own = shapes.get(None) if len(layers) == 1 else None
        try:
            found = model_kinds.open_model(source, shapes)
        except UsageError:
            if own is None:
                raise
            found = model_kinds.open_model(
                source, {k: v for k, v in shapes.items() if k is not None}
            )
            entry = found.select(layers)[0]
            return found, (entry.at(tuple(own)[1:]),)
    if not found.entries:
        raise UsageError(f"{found.name} has no convolution: there is nothing to do")
    return found, found.select(layers)


def make_plan(
    model: Model,
    entries: Sequence[Entry],
    output: str | os.PathLike[str] | None,
    options: Options,
    *,
    to_disk: bool = True,
) -> Plan:
    """Decide everything that can go wrong beforehand; raises instead of planning the impossible."""
    folder, file = _destination(model, output)
    if file is not None and len(entries) > 1:
        names = " ".join(f"-l @{entry.position}" for entry in entries[:3])
        raise UsageError(
            f"{len(entries)} layers do not fit into one file {file}: pick one ({names} ...), or "
            f"name a folder, ending in /"
        )
    kind = matrix_kinds.by_suffix(file) if file else matrix_kinds.by_form(options.form or "csr")
    form = options.form or kind.forms[0]
    if form not in kind.forms:
        wanted = matrix_kinds.by_form(form).suffix
        raise UsageError(f"a {kind.suffix} file does not hold the form {form}: name it *{wanted}")
    spec = Spec(options.layout, form, options.kernel_index)
    items, failures = [], []
    width = max(3, len(str(len(model.entries) - 1)))
    for entry in entries:
        try:
            index_map = entry.require()
        except ConvfcError as error:
            if not options.keep_going:
                raise
            failures.append((entry, error))
            continue
        dtype = np.dtype(options.dtype or ("float64" if entry.dtype == "float64" else "float32"))
        path = (
            file
            or Path(folder or ".") / f"{entry.position:0{width}}-{_safe(entry.name)}{kind.suffix}"
        )
        items.append(Item(entry, spec, kind, path, kind.size(spec, index_map, dtype)))
    if len(failures) > 1 and not items:
        first = failures[0][1]
        raise type(first)(f"none of {len(failures)} layers can be converted; the first: {first}")
    if not items:
        raise failures[0][1]
    plan = Plan(model, tuple(items), tuple(failures), folder)
    _check_ceiling(plan, options, to_disk=to_disk)
    if to_disk:
        _check_destinations(plan, options)
    return plan


def _shapes(given: Shapes | Sequence[int] | None) -> Shapes:
    if given is None:
        return {}
    if isinstance(given, Sequence):
        return {None: tuple(given)}
    return given


def _destination(
    model: Model, output: str | os.PathLike[str] | None
) -> tuple[Path | None, Path | None]:
    """(folder, None) or (None, file)."""
    if output is None:
        name = "stdin" if model.name in ("-", "standard input") else Path(model.name).name
        return Path(f"{name}.fc"), None
    text = os.fspath(output)
    if text.endswith(("/", os.sep)) or Path(text).is_dir():
        return Path(text), None
    if not text:
        raise UsageError("-o is empty: name a file, a folder, or - for standard output")
    return None, Path(text)


def _safe(name: str) -> str:
    """A name that any file system takes; the position before it makes it unique."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-80:].strip("._") or "layer"


def _check_ceiling(plan: Plan, options: Options, *, to_disk: bool) -> None:
    place = plan.folder or plan.items[0].path
    free = free_space(place) if to_disk else 2**63
    ceiling = options.max_bytes
    if ceiling is None:
        ceiling = min(CEILING, free // 2)
    if plan.size <= min(ceiling, free):
        return
    largest = sorted(plan.items, key=lambda item: -item.size)[:3]
    told = ", ".join(
        f"@{item.entry.position} {item.entry.name} {human(item.size)}" for item in largest
    )
    what = f"{len(plan.items)} matrices" if len(plan.items) > 1 else "the matrix"
    if plan.size > free:
        limit = f"where {human(free)} are free"
    else:
        limit = f"above the ceiling of {human(ceiling)}"
    ways = [f"-l @{min(plan.items, key=lambda item: item.size).entry.position} picks layers"]
    ways.append("--form operator writes kilobytes")
    if plan.size <= free:
        ways.append(f"--max-bytes {plan.size + plan.size // 50} allows it")
    raise Refused(
        f"{what} would take {human(plan.size)}, {limit} (largest: {told}): {'; '.join(ways)}"
    )


def _check_destinations(plan: Plan, options: Options) -> None:
    if plan.folder is not None:
        if plan.folder.exists() and not plan.folder.is_dir():
            raise OutputExists(f"{plan.folder} exists and is no folder: -o names another place")
        check_replaceable(plan.folder / MANIFEST, force=options.force)
    for item in plan.items:
        check_replaceable(item.path, force=options.force)
        if not item.kind.standalone:
            check_replaceable(sidecar(item.path), force=options.force)


def _carry_out(plan: Plan, options: Options, observer: Observer) -> Conversion:
    failures = list(plan.failures)
    results: list[Result] = []
    if plan.folder is not None:
        existed = plan.folder.exists()
        make_folder(plan.folder)
        (plan.folder / MANIFEST).unlink(
            missing_ok=True
        )  # until the new one stands, it is incomplete
    try:
        for item in plan.items:
            observer.started(item.entry.name, item.size * (2 if options.verify else 1))
            try:
                result = _write(plan.model, item, options, observer)
            except ConvfcError as error:
                if not options.keep_going or error.exit_code in (6, 70):
                    raise
                failures.append((item.entry, error))
                continue
            results.append(result)
            observer.finished(result)
        if plan.folder is not None and results:
            with replacing(plan.folder / MANIFEST, force=True) as out:
                out.write(_manifest(plan, options, results, failures).encode())
    finally:
        if plan.folder is not None and not existed and not any(plan.folder.iterdir()):
            plan.folder.rmdir()
    return Conversion(plan, tuple(results), tuple(failures))


def _write(model: Model, item: Item, options: Options, observer: Observer) -> Result:
    layer = item.entry.load()
    runtime = None
    if options.verify:
        runtime = _run_original(item.entry, layer)
    matrix = _matrix(model, item, layer, options)
    with ExitStack() as stack:
        out = stack.enter_context(replacing(item.path, force=options.force))
        beside = None
        if not item.kind.standalone:
            # Entered last, renamed first: a matrix never stands without its metadata.
            beside = stack.enter_context(replacing(sidecar(item.path), force=options.force))
            operator = replace(matrix, spec=replace(matrix.spec, form="operator"))
            matrix_kinds.formats()["npz"].write(operator, beside, lambda size: None)
        item.kind.write(matrix, out, observer.advanced)
        size = out.seek(0, os.SEEK_END)
        if not options.verify or runtime is None:
            return Result(item, size, None)
        report = _read_back(
            item, out, beside, layer=matrix.layer, options=options, observer=observer
        )
        return Result(item, size, replace(report, findings=(*report.findings, runtime)))


def _read_back(
    item: Item,
    out: BinaryIO,
    beside: BinaryIO | None,
    *,
    layer: Convolution,
    options: Options,
    observer: Observer,
) -> Report:
    """Prove the file that was just written, before it takes its name."""
    operator = None if beside is None else _reread(sidecar(item.path), beside)
    stored = item.kind.open(_reread(item.path, out), operator)
    report = verify_stored(
        stored,
        str(item.path),
        original=layer,
        probes=options.probes,
        progress=observer.advanced,
    )
    for finding in report.findings:
        if finding.holds is False:
            raise Defect(
                f"{item.path} was not written as computed ({finding.check}: {finding.detail}): the "
                f"disk, the memory or convfc is at fault; nothing was put there"
            )
    return report


def _reread(path: Path, file: BinaryIO) -> Input:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return Input(str(path), path, file, size, head)


def _run_original(entry: Entry, layer: Convolution) -> Finding:
    """Hold the layer as it was read to the original node; raises where they differ."""
    witness = entry.run(np.random.default_rng(secrets.randbits(128)))
    if isinstance(witness, str):
        return Finding("runtime", None, f"the original node was not run: {witness}")
    finding = check_runtime(layer, witness)
    if not finding.holds:
        raise WrongContents(
            f"layer {entry.name}: {finding.detail}; one of them misreads the model, so nothing is "
            f"written (--no-verify writes it all the same; please report the model)"
        )
    return finding


def _matrix(model: Model, item: Item, layer: Convolution, options: Options) -> Matrix:
    entry = item.entry
    origin = Origin(
        file=Path(model.name).name,
        sha256=model.sha256,
        layer=entry.name,
        output=entry.output,
        position=entry.position,
        op=entry.op,
        dtype=entry.dtype or layer.dtype.name,
        flipped=options.flip_kernel,
    )
    return Matrix(prepared(layer, flip=options.flip_kernel, dtype=options.dtype), item.spec, origin)


def prepared(layer: Convolution, *, flip: bool, dtype: str | None) -> Convolution:
    """The layer with its kernel flipped along every spatial axis, and in another dtype."""
    kernel, bias = layer.kernel, layer.bias
    if flip:
        kernel = kernel[(slice(None), slice(None), *(slice(None, None, -1),) * (kernel.ndim - 2))]
    if dtype is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            kernel = kernel.astype(dtype)
            bias = None if bias is None else bias.astype(dtype)
    return Convolution(kernel, layer.index_map, bias)


def _original(model: Model, matrix: Matrix) -> Convolution:
    """The layer that a matrix says it came from, at the matrix's size where it is open."""
    origin = matrix.origin
    named = [entry for entry in model.entries if entry.output == origin.output]
    if len(named) > 1:
        named = [entry for entry in named if entry.position == origin.position]
    if len(named) != 1:
        raise UsageError(
            f"{model.name} has no layer {origin.layer!r} with output {origin.output!r}, which the "
            f"matrix says it came from (file {origin.file}, SHA-256 {origin.sha256[:12]}...)"
        )
    entry = named[0]
    if isinstance(entry.error, SizeMissing):
        entry = entry.at(matrix.layer.input_shape)
    return prepared(entry.load(), flip=origin.flipped, dtype=matrix.layer.dtype.name)


def _manifest(
    plan: Plan,
    options: Options,
    results: Sequence[Result],
    failures: Sequence[tuple[Entry, ConvfcError]],
) -> str:
    """The record of a folder, the same for the same model and options."""
    content = {
        "schema": MANIFEST_SCHEMA,
        "version": __version__,
        "model": {"file": Path(plan.model.name).name, "sha256": plan.model.sha256},
        "matrices": [
            {
                "file": result.item.path.name,
                "layer": result.item.entry.name,
                "output": result.item.entry.output,
                "position": result.item.entry.position,
                "op": result.item.entry.op,
                "form": result.item.spec.form,
                "shape": result.item.shape,
                "nonzeros": result.item.entry.require().nnz,
                "bytes": result.size,
                "verified": result.report is not None,
            }
            for result in results
        ],
        "failed": [{"layer": entry.name, "reason": str(error)} for entry, error in failures],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def matrix_files(folder: Path) -> Iterator[Path | ConvfcError]:
    """The matrix files of a folder by its manifest; in place of one that is not there, an error.

    Raises `MalformedInput` for a folder without a manifest that can be read.
    """
    try:
        with opened(folder / MANIFEST) as source:
            content = json.loads(source.file.read(2**26).decode())
        names = [(entry["file"], entry["bytes"]) for entry in content["matrices"]]
        if content["schema"] != MANIFEST_SCHEMA or not all(type(n) is str for n, _ in names):
            raise ValueError("it is of another schema")
    except UsageError as error:
        raise MalformedInput(
            f"{folder} has no {MANIFEST}: it is incomplete, or not a folder that convfc wrote"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedInput(f"{folder / MANIFEST} cannot be read: {error}") from error
    for name, size in names:
        path = folder / name
        if Path(name).name != name:
            yield Refused(f"{folder / MANIFEST} names {name!r}, which is outside the folder")
        elif not path.is_file() or path.stat().st_size != size:
            yield MalformedInput(f"{path} is missing or not {size} bytes: the folder is incomplete")
        else:
            yield path


def human(size: int) -> str:
    """A number of bytes as people read it."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
