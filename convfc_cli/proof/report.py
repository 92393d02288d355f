"""What is known of a matrix file: findings, and the report that they make."""

from dataclasses import asdict, dataclass, field
from typing import Any

EVERY_ENTRY = "every entry"
"""The strength of a check that compares each of them, so that no probability is left."""


SEEDED = "seed given"
"""In place of a probability where the seed was known beforehand: files can be crafted for it."""

ROUNDING = "rounding bound"
"""The strength of a check that allows for what rounding explains, and for no more."""


@dataclass(frozen=True)
class WrongEntry:
    """One entry of a matrix that is not what it should be, and what it is in terms of the layer."""

    row: int
    column: int
    output: tuple[int, ...]
    input: tuple[int, ...]
    kernel: tuple[int, ...] | None
    """The kernel element that belongs there; None for a structural zero, () for a sum."""

    expected: str | None
    found: str | None
    """The values as text, for JSON has no NaN; None where nothing is, or is to be, stored."""

    def __str__(self) -> str:
        where = f"kernel element {self.kernel}" if self.kernel else "a sum"
        where = "a structural zero" if self.kernel is None else where
        expected, found = self.expected or "nothing", self.found or "nothing"
        return (
            f"entry ({self.row}, {self.column}), output {self.output} from input {self.input}: "
            f"{where}, expected {expected}, found {found}"
        )


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Examples
    --------
    >>> Finding("entries", True, "28,800 entries", strength="2^-96").holds
    True
    """

    check: str
    holds: bool | None
    detail: str
    """What was looked at; what is wrong; why it could not be checked."""

    strength: str = ""
    """How strongly: a probability of error, or what stands in its place."""

    against: str = ""
    """What it was held to."""

    worst: float | None = field(default=None, compare=False)
    """The largest share of a rounding bound that was met, where there is one."""

    seconds: float | None = field(default=None, compare=False)
    """What it cost; None where that was next to nothing."""

    entry: WrongEntry | None = None
    """The first wrong entry, where one is known."""


@dataclass(frozen=True)
class Report:
    """What `verify` finds out about one file.

    Examples
    --------
    >>> findings = (Finding("digest", False, "the kernel has changed"),)
    >>> report = Report("conv1.npz", "conv1", (4, 9), 16, "csr", 0, "2^-96", findings)
    >>> report.ok, report.verdict, report.complaint
    (False, 'wrong', 'digest: the kernel has changed')
    """

    file: str
    layer: str
    shape: tuple[int, int]
    nonzeros: int
    form: str
    seed: int
    strength: str
    """How strong the proof is: 2^-96, `every entry`, `rounding bound` for a product, `digest only`
    for an operator file, `seed given`."""

    findings: tuple[Finding, ...] = ()
    trusted: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What holds, and still may surprise."""
    seconds: float = field(default=0.0, compare=False)
    """What the whole check cost, the reading of the file with it."""

    @property
    def ok(self) -> bool:
        """Whether everything that was checked holds."""
        return all(finding.holds is not False for finding in self.findings)

    @property
    def verdict(self) -> str:
        """`proven`, `consistent` where no probability stands behind it, or `wrong`."""
        if not self.ok:
            return "wrong"
        proof = self.strength in (EVERY_ENTRY, ROUNDING) or self.strength.startswith("2^-")
        return "proven" if proof else "consistent"

    @property
    def undone(self) -> tuple[Finding, ...]:
        """What was to be checked and could not be."""
        return tuple(finding for finding in self.findings if finding.holds is None)

    @property
    def complaint(self) -> str:
        """The first thing that does not hold, or nothing."""
        wrong = [finding for finding in self.findings if finding.holds is False]
        return f"{wrong[0].check}: {wrong[0].detail}" if wrong else ""

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        derived = {"ok": self.ok, "verdict": self.verdict}
        return {**asdict(self), "seed": str(self.seed), **derived}  # JSON's numbers have 53 bits


def wrong(file: str, check: str, detail: str) -> Report:
    """The report of a file that cannot be read to its end."""
    return Report(file, "", (0, 0), 0, "", 0, "", (Finding(check, False, detail),))
