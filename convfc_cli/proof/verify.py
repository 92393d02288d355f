"""Proof that a matrix file is what it says: against its layer, applied in another way.

What the metadata say is compared first: the digest, the manifest, the model. Then the stored rows
are read once, at bounded memory, and each level of the proof holds them to the layer:

0  structure   row lengths, columns: before any arithmetic
1  entries     every bit and every zero, by exact random probes against the oracle
2  impulses    on request: every entry and every zero compared individually
3  integers    on request: against another runtime on small integers, bit for bit
4  reals       on request: against it on real numbers, within what rounding explains

What is trusted: the oracle (`direct`), the layout, NumPy's and SciPy's arithmetic, and, for a file
alone, that its kernel and geometry are the model's.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import Defect, UsageError, WrongContents
from convfc_cli.layers.linear import Linear
from convfc_cli.matrices.format import Progress, StoredMatrix
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.proof.bias import bias_findings
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.impulses import EXHAUSTIVE_VECTORS, Impulses, most_rows
from convfc_cli.proof.integers import Integers
from convfc_cli.proof.kernel_index import KernelIndex, numbered
from convfc_cli.proof.levels import of_entries
from convfc_cli.proof.metadata import digest_finding, manifest_finding, origin_finding
from convfc_cli.proof.probes import check_size, uniform
from convfc_cli.proof.reals import Reals
from convfc_cli.proof.report import EVERY_ENTRY, SEEDED, Caution, Finding, Report, WrongEntry
from convfc_cli.proof.structure import Structure
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.registry import runtime, runtimes
from convfc_cli.runtimes.runtime import RunnableLayer, Runtime, as_read
from convfc_cli.vocabulary import MAX_PROBES, PROBES

T = TypeVar("T")


@dataclass(frozen=True)
class Proof:
    """How a file is proven. Raises `UsageError` for values that no proof can have.

    Examples
    --------
    >>> Proof(probes=2).strength
    '2^-64'
    """

    probes: int = PROBES
    seed: int | None = None
    """To repeat a run; who knows it beforehand can craft a file that passes."""

    exhaustive: bool = False
    """Also every entry individually."""

    against: str | None = None
    """Also another runtime, by its name: one of `vocabulary.RUNTIMES`."""

    def __post_init__(self) -> None:
        if not 1 <= self.probes <= MAX_PROBES:
            raise UsageError(f"{self.probes} probes; there can be 1 to {MAX_PROBES}")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"the seed is {self.seed}; it must not be negative")
        if self.against is not None:
            runtime(self.against)

    @property
    def vectors(self) -> int:
        """The vectors of inputs that it holds in memory at once."""
        return self.probes + (EXHAUSTIVE_VECTORS if self.exhaustive else 0)

    @property
    def strength(self) -> str:
        """The probability that a wrong file passes the probes; with a seed, none can be stated."""
        return f"2^-{32 * self.probes}" if self.seed is None else SEEDED


USUAL = Proof()
"""Every bit and every zero, with 2^-96."""


def verify(
    stored: StoredMatrix,
    proof: Proof = USUAL,
    *,
    original: Matrix | None = None,
    node: RunnableLayer | None = None,
    listed: dict[str, Any] | None = None,
    progress: Progress = lambda done: None,
) -> Report:
    """Check a stored matrix; with `original`, also that it is that one; with `listed`, that it is
    what a manifest says of it. `node` is what another runtime is given, where one is asked: by
    default the layer as the file states it.

    Raises `MalformedInput` for a damaged file, `Refused` for a layer too large for it; wrong
    contents are not an error but a report that is not `ok`.
    """
    started = perf_counter()
    matrix = stored.matrix
    seed = secrets.randbits(256) if proof.seed is None else proof.seed
    findings = [digest_finding(stored)]
    if listed is not None:
        findings.append(manifest_finding(matrix, listed))
    if original is not None:
        findings.append(origin_finding(matrix, original))
        if not findings[-1].holds:  # another layer's node has nothing to say of this one
            node = None
    passing = _Pass(stored, proof, seed, node or as_read(matrix.layer), findings)
    try:
        stored.check_shapes()
        if matrix.form == "operator":
            findings += _nothing_stored(proof)
        else:
            passing.run(progress)
        stored.finish()
    except WrongContents as error:
        stored.check_undamaged()
        entry = error.args[0] if isinstance(error.args[0], WrongEntry) else None
        findings.append(Finding(passing.current, False, str(error), entry=entry))
    strength = "digest only" if matrix.form == "operator" else _strength(proof, findings)
    if strength == SEEDED and all(finding.holds is not False for finding in findings):
        findings.append(Finding("promise", None, _KNOWN_SEED))
    return Report(
        file=stored.name,
        group=stored.group,
        layer=matrix.origin.layer,
        shape=matrix.shape,
        nonzeros=matrix.nonzeros,
        form=matrix.form,
        seed=seed,
        strength=strength,
        findings=tuple(findings),
        warnings=() if matrix.layer.finite else (NOT_FINITE,),
        trusted=_trusted(matrix.layer, findings, original is not None),
        seconds=perf_counter() - started,
    )


NOT_FINITE = Caution(
    "not-finite", "some weights are NaN or infinite, so what they feed is not a number"
)
"""What is said of a matrix with such weights, which may be right all the same."""

_KNOWN_SEED = (
    "nothing is proven, for the seed was given, and a file can be crafted to pass the probes of a "
    "known seed; with a random one it is proven"
)
"""What is said where a seed that was given takes the promise away."""


def _strength(proof: Proof, findings: Sequence[Finding]) -> str:
    """That of the weakest proof of something that is stored."""
    every = any(finding.strength == EVERY_ENTRY and finding.holds for finding in findings)
    numbered = any(finding.check == KernelIndex.name for finding in findings)
    if every and not numbered:
        return EVERY_ENTRY
    return next((f.strength for f in findings if f.check == "entries" and f.holds), proof.strength)


def _trusted(layer: Linear, findings: Sequence[Finding], compared: bool) -> tuple[str, ...]:
    trusted = [
        f"the oracle, which computes the layer in another way ({layer.oracle}); the layout, NumPy "
        f"and SciPy"
    ]
    trusted += [
        f"for the impulses: {finding.against}"
        for finding in findings
        if finding.check == Impulses.name and finding.holds
    ]
    if not compared:
        trusted.append("kernel and geometry in the file: origin not checked without the model")
    return tuple(trusted)


class _Pass:
    """One pass over what a file stores: the bias, then all rows, shown to every check."""

    def __init__(
        self,
        stored: StoredMatrix,
        proof: Proof,
        seed: int,
        node: RunnableLayer,
        findings: list[Finding],
    ) -> None:
        """What is found is appended to `findings`."""
        self._stored = stored
        self._subject = Subject.of(stored)
        self._proof, self._seed, self._node, self._findings = proof, seed, node, findings
        self._most = self._subject.most_rows
        self._cost: dict[str, float] = {}
        self.current = Structure.name
        """What is being checked: in the end, or where something is wrong."""

    def run(self, progress: Progress) -> None:
        """Raises `WrongContents` at the first thing that is wrong."""
        import scipy.sparse  # noqa: F401 - before any check is charged with it

        if self._stored.explicit_zeros:
            self._findings += self._timed("bias", bias_findings, self._stored)
        checks = self._checks()
        self._walk(checks, progress)
        for check in checks:
            finding = self._timed(check.name, check.finding)
            self._findings.append(replace(finding, seconds=self._cost[check.name]))

    def _checks(self) -> list[Check]:
        """The levels of this proof, ready for the first row."""
        subject, proof = self._subject, self._proof
        check_size(subject.columns, subject.matrix.shape[0], proof.vectors)
        inputs = self._timed("entries", self._inputs)
        entries = of_entries(subject, inputs, self._seed, proof.strength)
        checks: list[Check] = [Structure(subject), *entries]
        if proof.exhaustive:
            self._most = min(self._most, most_rows(subject.layer))
            checks.append(Impulses(subject, _impulse_runtimes(proof)))
        if subject.matrix.spec.kernel_index:
            slabs = numbered(subject).slabs(subject.matrix.layout, self._most)
            checks.append(KernelIndex(subject, inputs, proof.strength, slabs))
        if proof.against is not None:
            other, random = runtime(proof.against), np.random.default_rng(self._seed)
            checks += [
                self._timed(kind.name, kind, subject, other, self._node, random)
                for kind in (Integers, Reals)
            ]
        return checks

    def _inputs(self) -> list[NDArray[Any]]:
        shape = self._subject.layer.input_shape
        return [uniform(self._seed, probe, shape) for probe in range(self._proof.probes)]

    def _walk(self, checks: list[Check], progress: Progress) -> None:
        subject = self._subject
        size = subject.layer.dtype.itemsize + 4
        done = subject.rows.start
        for slab in subject.layer.slabs(subject.matrix.layout, self._most):
            done = slab.rows.stop
            for check in checks:
                self._timed(check.name, check.expect, slab)
            self.current = Structure.name
            for block in self._stored.rows(slab.counts()):
                start = block.first - slab.rows.start
                part = slice(start, start + len(block.indptr) - 1)
                for check in checks:
                    self._timed(check.name, check.hold, block, part)
                self.current = Structure.name
                progress(len(block.data) * size)
        if done != subject.rows.stop:
            raise Defect(f"{done} of {subject.rows.stop} rows were looked at")

    def _timed(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Run a step of a check, and put what it costs to its account."""
        self.current = name
        started = perf_counter()
        result = step(*arguments)
        self._cost[name] = self._cost.get(name, 0.0) + perf_counter() - started
        return result


def _impulse_runtimes(proof: Proof) -> list[Runtime]:
    """Those that answer to impulses: the one that was named, else onnxruntime where
    it is installed; for what it cannot run, the oracle.
    """
    if proof.against is not None:
        return [runtime(proof.against), ORACLE]
    return [one for one in runtimes() if one.name == "onnxruntime" and not one.missing()] + [ORACLE]


def _nothing_stored(proof: Proof) -> list[Finding]:
    """What was asked of an operator file and cannot be."""
    asked = [Impulses.name] * proof.exhaustive + [Integers.name, Reals.name] * bool(proof.against)
    return [
        Finding(name, None, "an operator file stores no entries (the form csr does)")
        for name in asked
    ]
