"""What a conversion writes, decided before anything is written: where to, in which form, how much.

A plan raises instead of planning the impossible: a layer that is not there or cannot be converted,
a size that is open, a destination that is in the way, more bytes than are allowed.
"""

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convfc_cli.errors import (
    ConvfcError,
    OutputExists,
    Refused,
    UsageError,
    gravest,
)
from convfc_cli.files import REPLACE, STDIN, check_folder, check_replaceable, free_space, human
from convfc_cli.hints import Advice, Hint
from convfc_cli.jobs.manifest import MANIFEST, check_length, is_ours, lists
from convfc_cli.jobs.origin import planned_origin
from convfc_cli.layout import ORDERS, Layout
from convfc_cli.matrices import registry as matrix_formats
from convfc_cli.matrices.format import MatrixFormat
from convfc_cli.matrices.matrix import Spec, longest
from convfc_cli.matrices.schema import MAX_DESCRIPTION_LENGTH
from convfc_cli.models import chain
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.naming import stem
from convfc_cli.proof.probes import check_size
from convfc_cli.proof.verify import USUAL, Proof
from convfc_cli.vocabulary import FLOATS, FORMATS, FORMS

ELSEWHERE = Hint(Advice.ELSEWHERE)
RESUME = Hint(Advice.RESUME)

MAX_BYTES = 8 * 2**30
"""The most that is written by default; half the free disk if less."""


@dataclass(frozen=True)
class Options:
    """What to write of the selected layers.

    Examples
    --------
    >>> Options(form="dense", dtype="float64").force
    False
    """

    form: str | None = None
    format: str | None = None
    """The format of each file in a folder, or of a stream, by its suffix; a file has its own."""

    layout: str | None = None
    """One of `layout.ORDERS`; by default the order in which the model flattens the layer."""

    transpose: bool = False
    dtype: str | None = None
    kernel_index: bool = False
    flip_kernel: bool | None = None
    """Whether to flip the kernels; by default those that the file says are flipped."""
    dequantize: bool = False
    """Real weights of integer layers, as their scales have them."""

    max_bytes: int | None = None
    force: bool = False
    resume: bool = False
    """Keep the files of a folder that have the bytes that would be written; write the others."""

    keep_going: bool = False
    dry_run: bool = False
    """Stop at the plan: nothing is written."""
    proof: Proof | None = USUAL
    """What each file is read back and proven by; None: it is not."""

    def __post_init__(self) -> None:
        choices = {"form": FORMS, "format": FORMATS, "layout": tuple(ORDERS), "dtype": FLOATS}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise UsageError(f"{name} {value!r} is not one of {', '.join(allowed)}")
        if self.force and self.resume:
            raise UsageError("force replaces what resume would keep: choose one of them")

    @property
    def replaces(self) -> bool:
        """Whether a file may take the place of another."""
        return self.force or self.resume


@dataclass(frozen=True)
class Item:
    """One matrix of a plan: the layer, where it goes and how large it will be."""

    entry: Entry
    spec: Spec
    kind: MatrixFormat
    path: Path
    dtype: np.dtype[Any]
    """That of the entries."""

    size: int

    @property
    def beside(self) -> list[Path]:
        """What is written beside it: its operator file, where its format has no metadata."""
        return self.kind.sidecar(self.path)

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
    idle: tuple[str, ...] = ()
    """Fields of `Options` and `Selection` that were set and change no layer."""

    @property
    def files(self) -> list[list[Item]]:
        """The matrices by the file that they go into."""
        by_path: dict[Path, list[Item]] = {}
        for item in self.items:
            by_path.setdefault(item.path, []).append(item)
        return list(by_path.values())

    @property
    def size(self) -> int:
        """At most so many bytes of all files."""
        return sum(item.size for item in self.items)


def _suffixes(has: Callable[[MatrixFormat], bool]) -> str:
    """The names of files of the formats that have something, each once."""
    kinds = filter(has, matrix_formats.formats().values())
    return " or ".join(dict.fromkeys(f"*{kind.suffixes[0]}" for kind in kinds))


def make_plan(
    model: Model,
    entries: Sequence[Entry],
    output: str | os.PathLike[str] | None,
    options: Options,
    *,
    fold_bn: bool = False,
    to_disk: bool = True,
) -> Plan:
    """Plan the matrices of these layers; with `fold_bn`, of each convolution with the batch
    normalization that reads it.

    Raises a layer's own error (unless `options.keep_going`), `UsageError`, `OutputExists` or
    `Refused`.
    """
    folder, file = _destination(model, output)
    if options.resume and folder is None:
        raise UsageError(f"only a folder can be resumed: {file} is written whole or not at all")
    kind, form = _resolve_format(entries, file, options)
    if options.flip_kernel is not None and (fold_bn or any(entry.parts for entry in entries)):
        raise UsageError("kernels of single layers are flipped, not those of chains")
    proof = options.proof if to_disk and form != "operator" else None
    width = max(3, len(str(len(model.entries) - 1)))
    items: list[Item] = []
    integers, folded = [], []
    failures: list[tuple[Entry, ConvfcError]] = []
    taken: set[tuple[Path, str]] = set()
    for entry in entries:
        layout = Layout(options.layout or entry.layout)
        spec = Spec(layout, form, options.kernel_index, options.transpose)
        integers.append(entry.matrix_dtype == "int32")
        try:
            read, entry = entry, _as_asked(model, entry, options, fold_bn)
            _check_description(model, entry)
            name = f"{stem(entry.position, entry.name, width)}{kind.suffixes[0]}"
            path = file or Path(folder or ".") / name
            dtype = np.dtype(options.dtype or entry.matrix_dtype)
            item = _item(model, entry, spec, kind, path, dtype, proof)
        except ConvfcError as reason:
            if not options.keep_going:
                raise
            failures.append((entry, reason.without_frames()))
            continue
        folded.append(entry.op != read.op)
        if (path, name) in taken:
            raise UsageError(f"two of the matrices would be called {name}: write one at a time")
        taken.add((path, name))
        items.append(item)
    if not items:
        raise _gravest([reason for _, reason in failures])
    changing = {"dequantize": any(integers), "fold_bn": any(folded)}
    given = {"dequantize": options.dequantize, "fold_bn": fold_bn}
    idle = [name for name in given if given[name] and not changing[name]]
    plan = Plan(model, tuple(items), tuple(failures), folder, tuple(idle))
    if folder is not None:
        listed = [(item.entry.name, item.entry.output) for item in items]
        check_length(listed + [(entry.name, str(reason)) for entry, reason in failures])
    _check_ceiling(plan, options, to_disk=to_disk)
    if to_disk:
        _check_destinations(plan, options)
    return plan


def _resolve_format(
    entries: Sequence[Entry], file: Path | None, options: Options
) -> tuple[MatrixFormat, str]:
    """The format and the form that the matrices are written in."""
    if file is not None:
        kind = matrix_formats.by_suffix(file, options.form)
        if options.format is not None and f".{options.format}" not in kind.suffixes:
            raise UsageError(f"{file}: its suffix picks the format, and is not .{options.format}")
    elif options.format is not None:
        kind = matrix_formats.by_suffix(Path(f"matrix.{options.format}"), options.form)
    else:
        kind = matrix_formats.by_form(options.form or "csr")
    suffix = kind.suffixes[0]
    if file is not None and len(entries) > 1 and not kind.multi_layer:
        roomy = _suffixes(lambda kind: kind.multi_layer)
        raise UsageError(
            f"{len(entries)} layers do not fit into one file {file}: name a folder, ending in /, "
            f"or a file that holds several, {roomy}",
            Hint(Advice.LAYERS, (entries[0].position,)),
        )
    form = options.form or kind.forms[0]
    if form not in kind.forms:
        wanted = matrix_formats.by_form(form).suffixes[0]
        raise UsageError(f"a {suffix} file does not hold the form {form}: take *{wanted}")
    if options.kernel_index and not kind.has_kernel_index and form == "csr":
        roomy = _suffixes(lambda kind: kind.has_kernel_index)
        raise UsageError(f"a {suffix} file has no room for a kernel_index: take {roomy}")
    return kind, form


def _as_asked(model: Model, entry: Entry, options: Options, fold_bn: bool) -> Entry:
    """The layer that the matrix is made of: flipped, with real weights, normalized."""
    if options.flip_kernel is not None:
        entry = entry.with_flip(options.flip_kernel)
    if options.dequantize:
        entry = entry.as_real()
    return chain.normalized(model, entry) if fold_bn else entry


def _item(
    model: Model,
    entry: Entry,
    spec: Spec,
    kind: MatrixFormat,
    path: Path,
    dtype: "np.dtype[Any]",
    proof: Proof | None,
) -> Item:
    """The matrix of one layer. Raises `Refused` where the proof would take too much memory."""
    outline = entry.require()
    if spec.kernel_index and not outline.kernel_shape:
        raise UsageError(
            f"layer {entry.name}: its entries are sums, which have no place in a kernel_index"
        )
    if proof is not None:
        stored = spec.transposed() if kind.stores_transpose else spec
        rows, columns = stored.shape(outline)
        check_size(columns, rows, proof.vectors)
    try:
        size = kind.size(spec, outline, dtype, planned_origin(model, entry))
    except Refused as error:
        raise entry.named(error) from error
    return Item(entry, spec, kind, path, dtype, size)


def _gravest(reasons: Sequence[ConvfcError]) -> ConvfcError:
    """The error of a plan in which no layer can be converted."""
    code = gravest([reason.exit_code for reason in reasons])
    error = copy(next(reason for reason in reasons if reason.exit_code == code))
    error.hints = tuple(dict.fromkeys(hint for reason in reasons for hint in reason.hints))
    if len(reasons) > 1:
        message = "; ".join(map(str, reasons))
        error.args = (f"none of {len(reasons)} layers can be converted: {message}",)
    return error


def _check_description(model: Model, entry: Entry) -> None:
    """Raise `Refused` where names and notes are longer than what is read back."""
    length = longest(entry.require(), planned_origin(model, entry))
    if length > MAX_DESCRIPTION_LENGTH:
        raise Refused(
            f"layer {entry.name[:80]}: its metadata would have up to {length} characters, names "
            f"and notes among them; at most {MAX_DESCRIPTION_LENGTH} are read back"
        )


def _destination(
    model: Model, output: str | os.PathLike[str] | None
) -> tuple[Path | None, Path | None]:
    """(folder, None) or (None, file)."""
    if output is None:
        name = "stdin" if model.name == STDIN else Path(model.name).name
        output = f"{name}.fc/"
    text = os.fspath(output)
    if not text:
        raise UsageError("the output is empty", Hint(Advice.OUTPUT))
    path = Path(text)
    if text.endswith(("/", os.sep)) or path.is_dir():
        check_folder(path)
        return path, None
    check_folder(path.parent)
    check_replaceable(path, force=True)  # a device has no suffix that picks a format
    return None, path


def _check_ceiling(plan: Plan, options: Options, *, to_disk: bool) -> None:
    place = plan.folder or plan.items[0].path
    free = free_space(place) if to_disk else 2**63
    if options.resume:  # what is there already takes no further room
        there = filter(Path.is_file, (item.path for item in plan.items))
        free += sum(path.stat().st_size for path in there)
    most = options.max_bytes
    if most is None:
        most = min(MAX_BYTES, free // 2)
    if plan.size <= min(most, free):
        return
    largest = sorted(plan.items, key=lambda item: -item.size)[:3]
    names = ", ".join(
        f"@{item.entry.position} {item.entry.name} {human(item.size)}" for item in largest
    )
    what = f"{len(plan.items)} matrices" if len(plan.items) > 1 else "the matrix"
    if plan.size > free:
        limit = f"where {human(free)} are free"
    else:
        limit = f"above the ceiling of {human(most)}"
    hints = []
    if len(plan.items) > 1:
        smallest = min(plan.items, key=lambda item: item.size)
        hints.append(Hint(Advice.LAYERS, (smallest.entry.position,)))
    if largest[0].spec.form == "dense":
        hints.append(Hint(Advice.FORM, ("csr", "the nonzeros alone")))
    hints.append(Hint(Advice.FORM, ("operator", "no entries")))
    if plan.size <= free:
        hints.append(Hint(Advice.ALLOW, (plan.size + plan.size // 50,)))
    raise Refused(f"{what} would take {human(plan.size)}, {limit} (largest: {names})", *hints)


def _check_destinations(plan: Plan, options: Options) -> None:
    paths = [path for item in plan.items for path in (item.path, *item.beside)]
    if plan.folder is not None:
        paths.insert(0, plan.folder / MANIFEST)
    # What `force` does not replace comes first, lest an error hint at it in vain.
    there = {path: identity for path in paths if (identity := _identity(path))}
    model = plan.model
    read = [_identity(file) for file in (model.path, *model.beside())] if there else []
    for path, identity in there.items():
        if identity in read:
            raise UsageError(
                f"{path} is the model itself, or a file that it keeps weights in", ELSEWHERE
            )
        if plan.folder is not None and path == plan.folder / MANIFEST and not is_ours(path):
            raise UsageError(
                f"{path} is not a manifest that convfc wrote, and is never replaced", ELSEWHERE
            )
    for path in paths:
        check_replaceable(path, force=True)
    if plan.folder is not None:
        check_manifest(plan.folder / MANIFEST, model, options)
    for path in paths:
        check_replaceable(path, force=options.replaces, hint=RESUME if plan.folder else REPLACE)


def check_manifest(path: Path, model: Model, options: Options) -> None:
    """Raise unless a new manifest may be put at `path`: to resume, in the place of one of the same
    model.
    """
    if not path.exists():
        return
    same = options.force or lists(path, model)
    if options.resume and not same:
        raise OutputExists(f"{path} is damaged, or of another model", REPLACE)
    check_replaceable(path, force=options.replaces, hint=RESUME if same else REPLACE)


def _identity(path: Path | None) -> tuple[int, int] | None:
    """What tells whether two paths lead to one file; None where there is none."""
    try:
        status = None if path is None else path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status else None
