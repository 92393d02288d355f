"""Everything that is decided before anything is written: which layers, where to, how much.

A plan raises instead of planning the impossible: a layer that is not there or cannot be converted,
a size that is open, a destination that is in the way, more bytes than are allowed.
"""

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convfc_cli.errors import (
    ConvfcError,
    MalformedInput,
    OutputExists,
    Refused,
    UsageError,
    gravest,
)
from convfc_cli.files import STDIN, check_replaceable, free_space, opened
from convfc_cli.layout import Layout
from convfc_cli.manifest import MANIFEST, check_length, is_ours
from convfc_cli.matrices import registry as matrix_kinds
from convfc_cli.matrices.format import MatrixFormat
from convfc_cli.matrices.matrix import Origin, Spec, longest
from convfc_cli.matrices.schema import LONGEST_DESCRIPTION
from convfc_cli.models import chain
from convfc_cli.models import registry as model_kinds
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.models.request import Request, Shapes
from convfc_cli.naming import stem
from convfc_cli.proof.probes import PROBES, check_size

CEILING = 8 * 2**30
"""The most that is written unless --max-bytes says otherwise; half the free disk if less."""


@dataclass(frozen=True)
class Options:
    """What to make of the selected layers."""

    form: str | None = None
    layout: str | None = None
    """One of `layout.ORDERS`; by default the order in which the model flattens the layer."""

    transpose: bool = False
    dtype: str | None = None
    kernel_index: bool = False
    flip_kernel: bool | None = None
    """Whether to flip the kernels; by default those that the file says are flipped."""
    dequantize: bool = False
    """Real weights of integer layers, as their scales have them."""

    fold_bn: bool = False
    """Each convolution with the batch normalization that reads it."""

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
    def beside(self) -> list[Path]:
        """What is written beside it: its operator file, where its format has no metadata."""
        return self.kind.beside(self.path)

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
    def files(self) -> list[list[Item]]:
        """The matrices by the file that they go into."""
        found: dict[Path, list[Item]] = {}
        for item in self.items:
            found.setdefault(item.path, []).append(item)
        return list(found.values())

    @property
    def size(self) -> int:
        """At most so many bytes of all files."""
        return sum(item.size for item in self.items)


def select(
    model: str | os.PathLike[str],
    layers: Sequence[str] | str,
    request: Request,
    *,
    include: Sequence[str] | str = (),
    compose: Sequence[str] | str = (),
) -> tuple[Model, tuple[Entry, ...]]:
    """Open a model and pick layers; a nameless shape is the only input's or the only layer's.

    `include` are operators whose layers are taken too; `compose` chains that are taken instead.
    """
    layers, include, compose = (
        [given] if isinstance(given, str) else given for given in (layers, include, compose)
    )
    if compose and (layers or include):
        raise UsageError("--compose says itself which layers: it goes without -l and --include")
    with opened(model) as source:
        own = request.shapes.get(None) if len(layers) == 1 else None
        try:
            found = model_kinds.open_model(source, request)
        except UsageError:
            if own is None or request.weights is not None:
                raise
            named: Shapes = {k: v for k, v in request.shapes.items() if k is not None}
            found = model_kinds.open_model(source, Request(named))
            entry = found.select(layers)[0]
            try:
                return found, (entry.settled(entry.channels_first(own[1:]), "--input-shape"),)
            except MalformedInput as error:
                raise UsageError(f"layer {entry.name}: {error} (see --input-shape)") from error
    if compose:
        return found, tuple(chain.compose(found, between) for between in compose)
    entries = found.select(layers, include)
    if not entries:
        hint = ": --include linear takes its other linear layers" if found.others else ""
        raise UsageError(f"{found.name} has no convolution: there is nothing to do{hint}")
    return found, entries


def _suffixes(has: Callable[[MatrixFormat], bool]) -> str:
    """The names of files of the formats that have something, each once."""
    kinds = filter(has, matrix_kinds.formats().values())
    return " or ".join(dict.fromkeys(f"*{kind.suffixes[0]}" for kind in kinds))


def make_plan(
    model: Model,
    entries: Sequence[Entry],
    output: str | os.PathLike[str] | None,
    options: Options,
    *,
    to_disk: bool = True,
) -> Plan:
    """Plan the matrices of these layers.

    Raises a layer's own error (unless `options.keep_going`), `UsageError`, `OutputExists` or
    `Refused`.
    """
    folder, file = _destination(model, output)
    if file is not None:
        kind = matrix_kinds.by_suffix(file, options.form)
    else:
        kind = matrix_kinds.by_form(options.form or "csr")
    if file is not None and len(entries) > 1 and not kind.several:
        names = " ".join(f"-l @{entry.position}" for entry in entries[:3])
        roomy = _suffixes(lambda kind: kind.several)
        raise UsageError(
            f"{len(entries)} layers do not fit into one file {file}: pick one ({names} ...), or "
            f"name a folder, ending in /, or a file that holds several, {roomy}"
        )
    form = options.form or kind.forms[0]
    if form not in kind.forms:
        wanted = matrix_kinds.by_form(form).suffixes[0]
        raise UsageError(
            f"a {kind.suffixes[0]} file does not hold the form {form}: name it *{wanted}"
        )
    if options.kernel_index and not kind.numbered and form == "csr":
        roomy = _suffixes(lambda kind: kind.numbered)
        raise UsageError(
            f"a {kind.suffixes[0]} file has no room for --kernel-index: name it {roomy}"
        )
    items, failures = [], []
    taken: set[tuple[Path, str]] = set()
    width = max(3, len(str(len(model.entries) - 1)))
    for entry in entries:
        if options.flip_kernel is not None and (entry.parts or options.fold_bn):
            raise UsageError("--flip-kernel goes with single layers, not --compose or --fold-bn")
        if options.flip_kernel is not None:
            entry = replace(entry, flipped=options.flip_kernel)
        layout = Layout(options.layout or entry.layout, options.transpose)
        spec = Spec(layout, form, options.kernel_index)
        try:
            entry = entry.as_real() if options.dequantize else entry
            entry = chain.normalized(model, entry) if options.fold_bn else entry
            outline, origin = entry.require(), origin_of(model, entry)
            _check_description(longest(outline, origin), entry)
        except ConvfcError as reason:
            if not options.keep_going:
                raise
            failures.append((entry, reason.without_frames()))
            continue
        if options.kernel_index and not outline.kernel_shape:
            raise UsageError(
                f"layer {entry.name}: its entries are sums, which have no place in a kernel_index"
            )
        dtype = np.dtype(options.dtype or entry.matrix_dtype)
        name = f"{stem(entry.position, entry.name, width)}{kind.suffixes[0]}"
        path = file or Path(folder or ".") / name
        if (path, name) in taken:
            raise UsageError(f"two of the matrices would be called {name}: write one at a time")
        taken.add((path, name))
        if options.verify and to_disk and form != "operator":
            shape = spec.shape(outline)
            check_size(shape[not kind.by_column], shape[kind.by_column], options.probes)
        items.append(Item(entry, spec, kind, path, kind.size(spec, outline, dtype, origin)))
    if not items:
        reasons = [reason for _, reason in failures]
        code = gravest([reason.exit_code for reason in reasons])
        error = copy(next(reason for reason in reasons if reason.exit_code == code))
        if len(reasons) > 1:
            told = "; ".join(map(str, reasons))
            error.args = (f"none of {len(reasons)} layers can be converted: {told}",)
        raise error
    plan = Plan(model, tuple(items), tuple(failures), folder)
    if folder is not None:
        listed = [(item.entry.name, item.entry.output) for item in items]
        check_length(listed + [(entry.name, str(reason)) for entry, reason in failures])
    _check_ceiling(plan, options, to_disk=to_disk)
    if to_disk:
        _check_destinations(plan, options)
    return plan


def origin_of(model: Model, entry: Entry) -> Origin:
    """Where a layer comes from, as its file says it."""
    return Origin(
        file=Path(model.name).name,
        sha256=model.sha256,
        layer=entry.name,
        output=entry.output,
        position=entry.position,
        first=entry.parts[0].output if entry.parts else "",
        op=entry.op,
        dtype=entry.dtype,
        flipped=bool(entry.flipped),
        dequantized=entry.dequantized,
        weight=entry.weight,
        notes=entry.noted(),
    )


def _check_description(length: int, entry: Entry) -> None:
    """Raise `Refused` where names and notes are longer than what is read back."""
    if length > LONGEST_DESCRIPTION:
        raise Refused(
            f"layer {entry.name[:80]}: its metadata would have up to {length} characters, names "
            f"and notes among them; at most {LONGEST_DESCRIPTION} are read back"
        )


def _destination(
    model: Model, output: str | os.PathLike[str] | None
) -> tuple[Path | None, Path | None]:
    """(folder, None) or (None, file)."""
    if output is None:
        name = "stdin" if model.name == STDIN else Path(model.name).name
        return Path(f"{name}.fc"), None
    text = os.fspath(output)
    if not text:
        raise UsageError("-o is empty: name a file, a folder, or - for standard output")
    if text.endswith(("/", os.sep)) or Path(text).is_dir():
        return Path(text), None
    return None, Path(text)


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
    ways = []
    if len(plan.items) > 1:
        smallest = min(plan.items, key=lambda item: item.size)
        ways.append(f"-l @{smallest.entry.position} picks layers")
    if largest[0].spec.form == "dense":
        ways.append("--form csr writes the nonzeros alone")
    ways.append("--form operator writes no entries")
    if plan.size <= free:
        ways.append(f"--max-bytes {plan.size + plan.size // 50} allows it")
    raise Refused(
        f"{what} would take {human(plan.size)}, {limit} (largest: {told}): {'; '.join(ways)}"
    )


def _check_destinations(plan: Plan, options: Options) -> None:
    paths = [path for item in plan.items for path in (item.path, *item.beside)]
    if plan.folder is not None:
        if plan.folder.exists() and not plan.folder.is_dir():
            raise OutputExists(f"{plan.folder} exists and is not a folder: -o names another place")
        paths.insert(0, plan.folder / MANIFEST)
    # What --force does not replace comes first, lest an error name --force in vain.
    there = {path: identity for path in paths if (identity := _identity(path))}
    model = plan.model
    read = [_identity(file) for file in (model.path, *model.beside())] if there else []
    for path, identity in there.items():
        if identity in read:
            raise UsageError(
                f"{path} is the model itself, or a file that it keeps weights in: -o names "
                f"another place"
            )
        if plan.folder is not None and path == plan.folder / MANIFEST and not is_ours(path):
            raise UsageError(
                f"{path} is not a manifest that convfc wrote, and --force does not replace it: "
                f"-o names another folder"
            )
    for force in (True, options.force):
        for path in paths:
            check_replaceable(path, force=force)


def _identity(path: Path | None) -> tuple[int, int] | None:
    """What tells whether two paths lead to one file; None where there is none."""
    try:
        found = None if path is None else path.stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found else None


def human(size: int) -> str:
    """A number of bytes as people read it."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
