"""What is known of a matrix file: findings, and the report that they make."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: what, whether it holds (None: it could not be checked), and how
    strongly.
    """

    check: str
    holds: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """What is known of one file after `verify`."""

    file: str
    layer: str
    shape: tuple[int, int]
    nonzeros: int
    form: str
    seed: int
    strength: str
    """How strong the proof is: 2^-96, `digest only` for an operator file, `seed given`."""

    findings: tuple[Finding, ...] = ()
    trusted: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that was checked holds."""
        return all(finding.holds is not False for finding in self.findings)

    @property
    def verdict(self) -> str:
        """`proven`, `consistent` where no probability stands behind it, or `wrong`."""
        if not self.ok:
            return "wrong"
        return "proven" if self.strength.startswith("2^-") else "consistent"

    @property
    def complaint(self) -> str:
        """The first thing that does not hold, or nothing."""
        wrong = [finding for finding in self.findings if finding.holds is False]
        return f"{wrong[0].check}: {wrong[0].detail}" if wrong else ""

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**asdict(self), "ok": self.ok, "verdict": self.verdict}


def wrong(file: str, check: str, detail: str) -> Report:
    """The report of a file that could not be gone through."""
    return Report(file, "", (0, 0), 0, "", 0, "", (Finding(check, False, detail),))
