"""Convert layers of a model: select, plan, write, verify, record.

Nothing is written before the whole plan stands (`plan`). Then, layer by layer, the original node is
run against the layer as it was read (`runtime_check`), the file is written beside its destination,
read back, proven, and renamed. In a folder, all files are then synced together, and `manifest.json`
comes last (`manifest`). To resume, a file that is there is held byte for byte to what would be
written, and read back and proven like a new one: the folder ends as if nothing had interrupted it.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from convfc_cli import budget
from convfc_cli.errors import (
    ConvfcError,
    Defect,
    MalformedInput,
    OutputFailed,
    Refused,
    Unsupported,
    UsageError,
)
from convfc_cli.files import (
    HEAD,
    Input,
    claimed,
    holds,
    made_folder,
    remove,
    remove_unfinished,
    replacing,
    replacing_all,
    sibling,
    sync,
)
from convfc_cli.hints import Advice, Hint
from convfc_cli.jobs.manifest import MANIFEST, manifest
from convfc_cli.jobs.observer import SILENT, Observer
from convfc_cli.jobs.origin import origin_of, planned_origin
from convfc_cli.jobs.plan import Item, Options, Plan, check_manifest, make_plan
from convfc_cli.jobs.result import Conversion, Result
from convfc_cli.jobs.runtime_check import run_original
from convfc_cli.jobs.selection import Selection, names, select
from convfc_cli.layers.linear import Linear
from convfc_cli.layout import Layout
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.registry import by_form
from convfc_cli.matrices.stored_zip import Sink, write_all
from convfc_cli.models.model import Model
from convfc_cli.models.request import Request, Shapes, WeightsSpec, by_tensor
from convfc_cli.naming import first_few
from convfc_cli.proof.report import Finding
from convfc_cli.proof.verify import Proof
from convfc_cli.proof.verify import verify as verify_stored

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PLAIN = Options()
"""Everything as it is by default."""


def convert(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] | str = (),
    input_shape: Shapes | Sequence[int] | None = None,
    weights: WeightsSpec | None = None,
    include: Sequence[str] | str = (),
    compose: Sequence[str] | str = (),
    fold_bn: bool = False,
    options: Options = PLAIN,
    observer: Observer = SILENT,
) -> Conversion:
    """Write the matrices of a model's layers, each proven after it is written.

    Parameters
    ----------
    model : str or PathLike
        The model file; `-` is standard input.
    output : str or PathLike, optional
        A folder (it ends in / or exists as one; by default `NAME.fc` in the current directory) or,
        for one layer, a file whose suffix picks the format.
    layers : sequence of str, optional
        Names, outputs or positions (`@3`) of the layers; by default all convolutions.
    input_shape : sequence of int, or mapping of str to sequence of int, optional
        Sizes that the model leaves open: the shape of its input with the batch, in the model's own
        order, or the shapes of several tensors by name.
    weights : WeightsSpec, optional
        How a convolution is applied of which the file has only the weights.
    include : sequence of str, optional
        Operators whose layers are converted beside the convolutions (`linear`: all).
    compose : sequence of str, optional
        Chains FIRST:LAST of linear layers, each one matrix, in place of single layers.
    fold_bn : bool
        Whether each convolution is converted with the batch normalization that reads it.
    options : Options
        What is written of each layer, and how it is proven.
    observer : Observer
        Follows the progress.

    Returns
    -------
    Conversion
        The files, and the layers that could not be converted.

    Raises
    ------
    UsageError
        If there is nothing to do, no such layer, a size is missing, or the output exists.
    Unsupported
        If a layer is none that becomes a matrix.
    Refused
        If the files would be too large.
    OutputFailed
        If a file cannot be written.
    WrongContents
        If another runtime contradicts the layer as it was read. In each case nothing is half
        written.

    Examples
    --------
    >>> convert("sample_models/lenet.onnx", "lenet/")      # doctest: +SKIP
    """
    selection = Selection(names(layers), names(include), names(compose), fold_bn)
    request = Request(by_tensor(input_shape), weights)
    return convert_selected(model, output, selection, request, options, observer)


@budget.command()
def convert_selected(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    selection: Selection,
    request: Request,
    options: Options,
    observer: Observer,
) -> Conversion:
    """`convert` of a selection."""
    opened, entries = select(model, selection, request)
    plan = make_plan(opened, entries, output, options, fold_bn=selection.fold_bn)
    observer.planned(plan)
    return _planned(plan, observer) if options.dry_run else _carry_out(plan, options, observer)


@budget.command()
def stream(
    model: str | os.PathLike[str],
    out: BinaryIO,
    selection: Selection,
    request: Request,
    options: Options,
    observer: Observer,
) -> None:
    """Write the file of one layer to an output that need not seek. Nothing is read back."""
    opened, entries = select(model, selection, request)
    if len(entries) > 1:
        raise UsageError(
            f"a stream carries one layer, not {len(entries)}",
            Hint(Advice.LAYERS, (entries[0].position,)),
        )
    form = by_form(options.form or "csr")
    name = f"stream.{options.format}" if options.format else f"stream{form.suffixes[0]}"
    plan = make_plan(opened, entries, name, options, fold_bn=selection.fold_bn, to_disk=False)
    item = plan.items[0]
    if item.beside:
        raise UsageError(
            f"a stream carries one file, and the metadata of a {item.path.suffix} are in another "
            f"beside it: name a file or a folder, or take *.npz or *.h5"
        )
    observer.planned(plan)
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

    Its size is not limited: it takes about 8 bytes for each nonzero.

    Parameters
    ----------
    model : str or PathLike
        The model file; `-` is standard input.
    layer : str, optional
        The layer's name, output or position; not needed where there is only one, or for a chain.
    input_shape : sequence of int, or mapping of str to sequence of int, optional
        Sizes that the model leaves open, as in `convert`.
    weights : WeightsSpec, optional
        How a convolution is applied of which the file has only the weights.
    compose : str, optional
        A chain FIRST:LAST of linear layers, as one matrix.
    layout : str, optional
        The order in which tensors are flattened, one of `layout.ORDERS`; by default the model's
        own.
    transpose : bool
        Whether to return the transpose of M.

    Returns
    -------
    csr_array, shape (outputs, inputs)
        The matrix; (inputs, outputs) if transposed.

    Raises
    ------
    UsageError
        If the layer does not exist or a size is missing.
    Unsupported
        If the layer is none that becomes a matrix.
    MalformedInput
        If the file is damaged, or not a model.

    Examples
    --------
    >>> matrix("sample_models/lenet.onnx", "conv2d_1").shape  # doctest: +SKIP
    (1600, 1176)
    """
    selection = Selection(names(layer or ()), compose=names(compose or ()))
    _, entries = select(model, selection, Request(by_tensor(input_shape), weights))
    if len(entries) != 1:
        several = first_few([entry.name for entry in entries])
        raise UsageError(f"{os.fspath(model)} has {len(entries)} layers: say which ({several})")
    entry = entries[0]
    spec = Spec(Layout(layout or entry.layout), transpose=transpose)
    return Matrix(entry.load(), spec).csr()


def _planned(plan: Plan, observer: Observer) -> Conversion:
    """What a conversion would write."""
    results = []
    for items in plan.files:
        origins = [planned_origin(plan.model, item.entry) for item in items]
        for item, group in zip(items, items[0].kind.groups(origins), strict=True):
            results.append(Result(item, item.size, None, group, planned=True))
            observer.finished(results[-1])
    return Conversion(plan, tuple(results), plan.failures)


def _carry_out(plan: Plan, options: Options, observer: Observer) -> Conversion:
    folder = plan.folder
    if folder is None:
        with made_folder(plan.items[0].path.parent):
            return _write_files(plan, options, observer)
    with made_folder(folder), claimed(folder):
        # Since the plan was made, another run may have ended here.
        check_manifest(folder / MANIFEST, plan.model, options)
        if options.resume:
            remove_unfinished(folder)
        done = _write_files(plan, options, observer)
        if done.results:
            items = [result.item for result in done.results]
            sync([path for item in items for path in (*item.beside, item.path)])
            described = [result.described() for result in done.results]
            text = manifest(plan.model, described, done.failed())
            with replacing(folder / MANIFEST, force=options.replaces) as out:
                write_all(out, text.encode())
    return done


def _write_files(plan: Plan, options: Options, observer: Observer) -> Conversion:
    """Write the files of a plan, all but the manifest."""
    failures = list(plan.failures)
    results: list[Result] = []
    passes = 1 if options.proof is None else 2
    for items in plan.files:
        observer.started(items[0].entry.name, passes * sum(item.size for item in items))
        made = []
        for item in items:
            try:
                made.append(_make(plan.model, item, options))
            except ConvfcError as error:
                if not options.keep_going or isinstance(error, OutputFailed | Defect):
                    raise
                failures.append((item.entry, error.without_frames()))
        if not made:
            continue
        try:
            done = _keep(made, options, observer) if options.resume else []
            done = done or _write(plan, made, options, observer)
        except (Refused, Unsupported) as error:  # values or sizes that the format does not have
            named = made[0].item.entry.named(error) if len(made) == 1 else error
            if not options.keep_going:
                raise named from error
            failures += [(one.item.entry, named.without_frames()) for one in made]
            continue
        for result in done:
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
    runtime = None if options.proof is None else run_original(item.entry, layer)
    matrix = Matrix(_rounded(layer, options.dtype), item.spec, origin_of(model, item.entry))
    return _Made(item, matrix, runtime)


def _write(
    plan: Plan, made: Sequence[_Made], options: Options, observer: Observer
) -> Sequence[Result]:
    """Write one file, prove it, and give it its name."""
    writers = _writers(made, observer)
    in_folder = plan.folder is not None
    with replacing_all(*writers, force=options.replaces, synced=not in_folder) as files:
        for write, file in zip(writers.values(), files, strict=True):
            write(file)
        sources = [_reread(path, file) for path, file in zip(writers, files, strict=True)]
        results = _read_back(sources, made, options.proof, observer)
        # From here until the new manifest stands, the folder is incomplete. Where none may be
        # replaced there was none; one that has appeared is that of another run, and stays.
        if plan.folder is not None and options.replaces:
            remove(plan.folder / MANIFEST)
        return results


def _keep(made: Sequence[_Made], options: Options, observer: Observer) -> Sequence[Result]:
    """Prove the file that is there, if it has just the bytes that would be written."""
    writers = _writers(made, observer)
    with ExitStack() as stack:
        try:
            sources = [stack.enter_context(sibling(path)) for path in writers]
        except MalformedInput:
            return []
        for source, write in zip(sources, writers.values(), strict=True):
            if not holds(source.file, write):
                return []
        results = _read_back(sources, made, options.proof, observer)
        return [replace(result, kept=True) for result in results]


def _writers(made: Sequence[_Made], observer: Observer) -> dict[Path, Callable[[Sink], None]]:
    """What writes the file of these matrices, and what lies beside it. That takes its name first: a
    matrix never stands without its metadata.
    """
    item, matrices = made[0].item, [one.matrix for one in made]
    operators = [replace(matrix, spec=matrix.spec.operator()) for matrix in matrices]
    write = partial(by_form("operator").write, operators, progress=observer.advanced)
    beside = dict.fromkeys(item.beside, write)
    return {**beside, item.path: partial(item.kind.write, matrices, progress=observer.advanced)}


def _read_back(
    sources: Sequence[Input], made: Sequence[_Made], proof: Proof | None, observer: Observer
) -> list[Result]:
    """Prove the last of these files, unless it is not to be proven; the others lie beside it."""
    size = sources[-1].size
    sizes = [size] if len(made) == 1 else [one.item.size for one in made]
    kind = made[0].item.kind
    groups = kind.groups([one.matrix.origin for one in made])
    written = [
        Result(one.item, size, None, group)
        for one, size, group in zip(made, sizes, groups, strict=True)
    ]
    if proof is None:
        return written
    results = []
    stored = kind.open(sources[-1], *sources[:-1])
    for one, result, matrix in zip(made, written, stored, strict=True):
        report = verify_stored(matrix, proof, original=one.matrix, progress=observer.advanced)
        if not report.ok:
            raise Defect(
                f"{matrix.name} was not written as computed ({report.complaint}): the disk, the "
                f"memory or a bug in convfc; the output was not created"
            )
        runtime = [one.runtime] if one.runtime is not None else []
        report = replace(report, findings=(*report.findings, *runtime))
        results.append(replace(result, report=report))
    return results


def _reread(path: Path, file: BinaryIO) -> Input:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return Input(str(path), path, file, size, head)


def _rounded(layer: Linear, dtype: str | None) -> Linear:
    return layer if dtype is None else layer.astype(dtype)
