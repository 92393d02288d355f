"""Proof that a matrix file is what it says: against its layer, applied in another way.

What the metadata say is compared first: the digest, the manifest, the model. Then the stored rows
are read once, at bounded memory, and each level of the proof holds them to the layer (`checks`):

0  structure   row lengths, columns: before any arithmetic
1  entries     every bit and every zero, by exact random probes against the oracle

What is trusted: the oracle (`direct`), the layout, NumPy's and SciPy's arithmetic, and, for a file
alone, that its kernel and geometry are the model's.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from convfc_cli.checks.check import Check, Subject, bits
from convfc_cli.checks.probes import PROBES, Numbers, Probes, check_size, numbered, uniform
from convfc_cli.checks.structure import Structure
from convfc_cli.errors import Defect, WrongContents
from convfc_cli.matrices.format import Progress, Stored
from convfc_cli.matrices.matrix import Matrix, digest
from convfc_cli.report import Finding, Report, WrongEntry
from convfc_cli.rounding import as_ones
from convfc_cli.streams import CHUNK


def verify(
    stored: Stored,
    *,
    original: Matrix | None = None,
    listed: dict[str, Any] | None = None,
    probes: int = PROBES,
    seed: int | None = None,
    progress: Progress = lambda done: None,
) -> Report:
    """Check a stored matrix; with `original`, also that it is that one; with `listed`, that it is
    what a manifest says of it.

    Raises `MalformedInput` for a damaged file; wrong contents are no error but a report that is not
    `ok`. `seed` repeats a run; who knows it beforehand can craft a file that passes.
    """
    started = perf_counter()
    matrix = stored.matrix
    strength = f"2^-{32 * probes}" if seed is None else "seed given"
    strength = "digest only" if matrix.form == "operator" else strength
    seed = secrets.randbits(256) if seed is None else seed
    findings = [_digest_finding(stored)]
    if listed is not None:
        findings.append(_manifest_finding(matrix, listed))
    if original is not None:
        findings.append(_origin_finding(matrix, original))
    passing = _Pass(stored, probes, seed, strength)
    try:
        if matrix.form != "operator":
            findings += passing.run(progress)
        stored.finish()
    except WrongContents as error:
        stored.check_undamaged()
        entry = error.args[0] if isinstance(error.args[0], WrongEntry) else None
        findings.append(Finding(passing.current, False, str(error), entry=entry))
    trusted = ["the oracle (sliding windows), the layout, NumPy and SciPy"]
    if original is None:
        trusted.append("kernel and geometry in the file: origin not checked, add --model")
    return Report(
        file=stored.name,
        layer=matrix.origin.layer,
        shape=matrix.shape,
        nonzeros=matrix.layer.index_map.nnz,
        form=matrix.form,
        seed=seed,
        strength=strength,
        findings=tuple(findings),
        trusted=tuple(trusted),
        seconds=perf_counter() - started,
    )


class _Pass:
    """One pass over what a file stores: the bias, then all rows, shown to every check."""

    def __init__(self, stored: Stored, probes: int, seed: int, strength: str) -> None:
        self._stored, self._subject = stored, Subject(stored.matrix, stored.structural)
        self._seed, self._probes, self._strength = seed, probes, strength
        self._most = max(1, CHUNK // max(1, self._subject.nonzeros // self._subject.rows))
        self._cost: dict[str, float] = {}
        self.current = "bias"
        """What is being checked: in the end, or where something is wrong."""

    def run(self, progress: Progress) -> list[Finding]:
        """The findings; raises `WrongContents` at the first thing that is wrong."""
        findings = [_bias_finding(self._stored)] if self._stored.structural else []
        checks = self._checks()
        self._walk(checks, progress)
        for check in checks:
            self.current = check.name
            findings.append(replace(check.finding(), seconds=self._cost[check.name]))
        return findings

    def _checks(self) -> list[Check]:
        subject, shape = self._subject, self._subject.layer.input_shape
        check_size(prod(shape), self._probes)
        inputs = [uniform(self._seed, probe, shape) for probe in range(self._probes)]
        checks: list[Check] = [Structure(subject), Probes(subject, inputs, self._strength)]
        if subject.matrix.spec.kernel_index:
            slabs = numbered(subject).slabs(subject.matrix.layout, self._most)
            checks.append(Numbers(subject, inputs, self._strength, slabs))
        return checks

    def _walk(self, checks: list[Check], progress: Progress) -> None:
        subject = self._subject
        size = subject.layer.dtype.itemsize + 4
        ones = np.ones(subject.layer.input_shape, np.uint64)
        self._cost = {check.name: 0.0 for check in checks}
        done = 0
        for slab in subject.layer.slabs(subject.matrix.layout, self._most):
            done = slab.rows.stop
            for check in checks:
                self._timed(check, check.expect, slab)
            self.current = Structure.name
            for block in self._stored.rows(slab.apply(ones, as_ones).astype(np.int64)):
                start = block.first - slab.rows.start
                part = slice(start, start + len(block.indptr) - 1)
                for check in checks:
                    self._timed(check, check.hold, block, part)
                self.current = Structure.name
                progress(len(block.data) * size)
        if done != subject.rows:
            raise Defect(f"{done} of {subject.rows} rows were looked at")

    def _timed(self, check: Check, step: Callable[..., None], *arguments: Any) -> None:
        self.current = check.name
        started = perf_counter()
        step(*arguments)
        self._cost[check.name] += perf_counter() - started


def _digest_finding(stored: Stored) -> Finding:
    holds = stored.stated_digest == digest(stored.matrix.layer)
    if holds:
        told = "geometry, kernel and bias are as they were written"
        return Finding("digest", True, told, "SHA-256", "the file's own")
    return Finding("digest", False, "geometry, kernel or bias are not as they were written")


def _manifest_finding(matrix: Matrix, listed: dict[str, Any]) -> Finding:
    origin = matrix.origin
    own = {
        **{"layer": origin.layer, "output": origin.output, "position": origin.position},
        **{"op": origin.op, "form": matrix.form, "shape": list(matrix.shape)},
        **{"nonzeros": matrix.layer.index_map.nnz, "sha256": origin.sha256},
    }
    for key, value in own.items():
        if listed.get(key) != value:
            told = f"{key} is {str(value)[:80]}, by the manifest {str(listed.get(key))[:80]}"
            return Finding("manifest", False, told)
    told = "layer, shape and model are those that it lists"
    return Finding("manifest", True, told, against="manifest.json")


def _origin_finding(matrix: Matrix, expected: Matrix) -> Finding:
    layer, original, origin = matrix.layer, expected.layer, matrix.origin
    if replace(origin, file="", sha256="") != replace(expected.origin, file="", sha256=""):
        told = f"{origin.op} {origin.layer!r} of {origin.dtype or 'unknown dtype'}"
        return Finding("origin", False, f"the model's layer is not the {told} that the file names")
    if layer.index_map != original.index_map:
        return Finding("origin", False, "the geometry is not that of the model's layer")
    if layer.kernel.dtype != original.kernel.dtype:
        return Finding(
            "origin", False, f"the kernel is {layer.dtype}, the model's layer {original.dtype}"
        )
    if layer.kernel.tobytes() != original.kernel.tobytes():
        wrong = np.argwhere(bits(layer.kernel) != bits(original.kernel))[0]
        place = tuple(int(i) for i in wrong)
        return Finding(
            "origin",
            False,
            f"kernel element {place} is {layer.kernel[place]!s}, "
            f"in the model {original.kernel[place]!s}",
        )
    ours, theirs = layer.bias_tensor(), original.bias_tensor()
    if ours.tobytes() != theirs.tobytes():
        return Finding("origin", False, "the bias is not that of the model's layer")
    changes = ["flipped"] if origin.flipped else []
    if origin.dtype and layer.dtype.itemsize < np.dtype(_widest(origin.dtype)).itemsize:
        changes.append(f"rounded to {layer.dtype.name}")
    told = f"the model's, {' and '.join(changes)}" if changes else "the model's, bit for bit"
    if origin.sha256 != expected.origin.sha256:
        told += "; the model file is another than the one it was written from"
    return Finding(
        "origin", True, f"geometry, kernel and bias are {told}", "bit for bit", "the model"
    )


def _widest(dtype: str) -> str:
    return dtype if dtype == "float64" else "float32"


def _bias_finding(stored: Stored) -> Finding:
    bias, layer = stored.bias(), stored.matrix.layer
    shape = (layer.index_map.rows,)
    if bias.shape != shape or bias.dtype != layer.dtype:
        raise WrongContents(f"bias is {bias.shape} of {bias.dtype}, not {shape} of {layer.dtype}")
    expected = stored.matrix.bias
    wrong = np.flatnonzero(bits(bias) != bits(np.ascontiguousarray(expected)))
    if len(wrong):
        at = int(wrong[0])
        raise WrongContents(f"bias {at} is {bias[at]!s}, by the kernel_bias {expected[at]!s}")
    return Finding("bias", True, f"{len(bias):,} values", "bit for bit", "kernel_bias")
