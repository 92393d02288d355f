"""What tests share; and how hypothesis runs: at random here, the same examples always in CI.

`HYPOTHESIS_PROFILE=thorough` looks at 25 times as many.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from convfc_cli import contained
from tests.support import kernels
from tests.support.cli_models import net
from tests.support.faults import Figures

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before any test imports onnxruntime itself

COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}

settings.register_profile("local", max_examples=100, **COMMON)
settings.register_profile("derandomized", max_examples=100, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=2500, **COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "derandomized" if os.environ.get("CI") else "local")
)


@pytest.fixture(autouse=True, scope="session")
def integer_kernels() -> Iterator[None]:
    """Those of the processor, unless the environment asks for others (`tests.support.kernels`)."""
    with kernels.chosen():
        yield


@pytest.fixture(scope="module")
def in_place() -> Iterator[None]:
    """For modules of tests of something else: no child is forked, which takes 40 ms in a suite of
    300 MB.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contained, "_inside", True)
        yield


@pytest.fixture
def once_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for one test."""
    monkeypatch.setattr(contained, "_inside", True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder: Path) -> Path:
    """A model of one layer, `conv`."""
    return net(folder / "m.onnx")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what `tests.proof.test_faults` has counted, in whichever process it ran."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    calls = [report for report in reports if getattr(report, "when", "") == "call"]
    figures = Figures.of(told for report in calls for told in report.user_properties)
    if figures.right or figures.run:
        terminalreporter.write_line(str(figures))
