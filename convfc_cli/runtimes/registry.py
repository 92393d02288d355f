"""The runtimes, by name, each imported when it is first used."""

from importlib import import_module

from convfc_cli.errors import UsageError
from convfc_cli.runtimes.runtime import Runtime
from convfc_cli.vocabulary import RUNTIMES


def runtime(name: str) -> Runtime:
    """The runtime of this name. Raises `UsageError` where there is none, or none installed."""
    if name not in RUNTIMES:
        raise UsageError(f"no runtime {name!r}: there are {', '.join(RUNTIMES)}")
    chosen: Runtime = import_module(f"convfc_cli.runtimes.{name}").RUNTIME
    if missing := chosen.missing():
        raise UsageError(f"{name} is not installed: {missing}")
    return chosen


def runtimes() -> list[Runtime]:
    """All of them, the preferred one first, installed or not."""
    return [import_module(f"convfc_cli.runtimes.{name}").RUNTIME for name in RUNTIMES]
