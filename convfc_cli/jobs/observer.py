"""How a job reports its progress: the contract of an observer, and one that says nothing."""

from typing import Protocol

from convfc_cli.jobs.plan import Plan
from convfc_cli.jobs.result import Result


class ProofObserver(Protocol):
    """Follows a verification."""

    def started(self, name: str, size: int) -> None:
        """Called before each file: `size` bytes are to be written or read."""

    def advanced(self, size: int) -> None:
        """Called when `size` more bytes are done."""


class Observer(ProofObserver, Protocol):
    """Follows a conversion."""

    def planned(self, plan: Plan) -> None:
        """Called once, before anything is written."""

    def finished(self, result: Result) -> None:
        """Called for each matrix whose file has its name."""


class Silent:
    """An observer that says nothing."""

    def planned(self, plan: Plan) -> None:
        """Do nothing."""

    def started(self, name: str, size: int) -> None:
        """Do nothing."""

    def advanced(self, size: int) -> None:
        """Do nothing."""

    def finished(self, result: Result) -> None:
        """Do nothing."""


SILENT = Silent()
