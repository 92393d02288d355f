"""What is known of a matrix file: findings, and the report that they make."""

from dataclasses import dataclass, field
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

    def to_json(self) -> dict[str, Any]:
        """The entry as plain values."""
        return {
            "row": self.row,
            "column": self.column,
            "output_element": self.output,
            "input_element": self.input,
            "kernel_element": self.kernel,
            "expected": self.expected,
            "found": self.found,
        }


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

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values."""
        return {
            "check": self.check,
            "holds": self.holds,
            "detail": self.detail,
            "strength": self.strength or None,
            "against": self.against or None,
            "worst": self.worst,
            "seconds": self.seconds,
            "entry": self.entry.to_json() if self.entry else None,
        }


@dataclass(frozen=True)
class Caution:
    """What holds, and still may surprise."""

    kind: str
    message: str


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
    warnings: tuple[Caution, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    """What the whole check cost, the reading of the file with it."""

    group: str = ""
    """The group of the matrix, in a file that holds several; `file` ends in it."""

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
        """The report as plain values: `matrices` of the schema `convfc.verify/1`."""
        known = bool(self.form)
        return {
            "file": self.file.removesuffix(f"/{self.group}") if self.group else self.file,
            "group": self.group or None,
            "layer": self.layer if known else None,
            "form": self.form if known else None,
            "shape": self.shape if known else None,
            "nonzeros": self.nonzeros if known else None,
            "verdict": self.verdict,
            "report": {
                "strength": self.strength or None,
                "seed": str(self.seed) if known else None,  # JSON's numbers have 53 bits
                "findings": [finding.to_json() for finding in self.findings],
                "trusted": self.trusted,
                "warnings": [vars(caution) for caution in self.warnings],
                "seconds": self.seconds,
            },
        }


def wrong(file: str, check: str, detail: str) -> Report:
    """The report of a file that cannot be read to its end."""
    return Report(file, "", (0, 0), 0, "", 0, "", (Finding(check, False, detail),))
