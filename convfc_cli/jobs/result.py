"""What a conversion has written, and what it could not."""

from dataclasses import dataclass
from typing import Any

from convfc_cli.errors import ConvfcError, gravest
from convfc_cli.jobs.plan import Item, Plan
from convfc_cli.models.entry import Entry
from convfc_cli.proof.report import Report
from convfc_cli.vocabulary import NOT_VERIFIED


@dataclass(frozen=True)
class Result:
    """One matrix written or kept, with its report; None where it was not verified.

    `size` is that of its file in bytes; of one of several in a file, about its share.
    """

    item: Item
    size: int
    report: Report | None
    group: str
    """What it is called in its file, where that holds several."""

    kept: bool = False
    """Whether its file was there already, with the bytes that would have been written."""

    planned: bool = False
    """Whether it is only planned: its file is not written, and `size` is the most it may take."""

    @property
    def verdict(self) -> str:
        """What is known of it, in a word or two."""
        if self.planned:
            return "planned"
        return self.report.verdict if self.report else NOT_VERIFIED

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
