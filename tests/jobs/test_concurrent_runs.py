"""Two runs that write into one folder at the same time: what remains is what one of them wrote."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convfc_cli import files
from convfc_cli.errors import OutputExists, UsageError
from convfc_cli.jobs.convert import convert
from convfc_cli.jobs.observer import Silent
from convfc_cli.jobs.plan import Options, Plan
from tests.support.cli_models import LENET, listing, net, run, shell

FORCE = Options(force=True, proof=None)
PLAIN = Options(proof=None)


class Meanwhile(Silent):
    """Lets something happen once: after the plan, as a layer begins, or while its file is written.

    `moment` is "planned", the name of the layer, or that and " advanced".
    """

    def __init__(self, moment: str, what: Callable[[], object]) -> None:
        self._moment, self._what, self._layer = moment, what, ""

    def _reached(self, moment: str) -> None:
        if moment == self._moment:
            self._moment = ""
            self._what()

    def planned(self, plan: Plan) -> None:
        self._reached("planned")

    def started(self, name: str, size: int) -> None:
        self._layer = name
        self._reached(name)

    def advanced(self, size: int) -> None:
        self._reached(f"{self._layer} advanced")


@pytest.fixture
def layers(folder: Path) -> Path:
    """A model of the layers `a` and `b`."""
    return net(folder / "m.onnx", names=("a", "b"))


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot lock a folder."""
    monkeypatch.setitem(sys.modules, "fcntl", None)


def listed(place: str = "f") -> list[str]:
    """The files that the manifest of a complete folder lists."""
    run("verify", place).succeeded()
    content: dict[str, Any] = json.loads(Path(place, "manifest.json").read_text())
    return [entry["file"] for entry in content["matrices"]]


# Without --force


@pytest.mark.parametrize("moment", ["planned", "a", "a advanced", "b", "b advanced"])
@pytest.mark.usefixtures("unlocked")
def test_a_finished_folder_stays_as_it_is(layers: Path, moment: str) -> None:
    """Another run has written all of it between the plan of this one and its last file."""
    finished: dict[str, tuple[int, bytes]] = {}

    def finish() -> None:
        convert(layers, "f/", options=FORCE)
        found = listing(Path("f")).items()
        finished.update((name, file) for name, file in found if not name.endswith(".part"))

    with pytest.raises(OutputExists, match=r"f/.* (exists|was created by another process)"):
        convert(layers, "f/", options=PLAIN, observer=Meanwhile(moment, finish))
    assert listing(Path("f")) == finished
    assert listed() == ["000-a.npz", "001-b.npz"]


@pytest.mark.parametrize("moment", ["planned", "b", "b advanced"])
@pytest.mark.usefixtures("unlocked")
def test_a_manifest_of_other_layers_is_not_replaced(layers: Path, moment: str) -> None:
    def finish() -> None:
        convert(layers, "f/", layers="a", options=PLAIN)

    with pytest.raises(OutputExists, match=r"f/manifest\.json"):
        convert(layers, "f/", layers="b", options=PLAIN, observer=Meanwhile(moment, finish))
    assert listed() == ["000-a.npz"]


def test_a_run_that_finds_the_folder_finished_writes_nothing(layers: Path) -> None:
    def finish() -> None:
        convert(layers, "f/", layers="a", options=PLAIN)

    with pytest.raises(OutputExists, match=r"f/manifest\.json exists"):
        convert(layers, "f/", layers="b", options=PLAIN, observer=Meanwhile("planned", finish))
    assert not Path("f/001-b.npz").exists()


# While another run writes


@pytest.mark.parametrize(("layer", "options"), [("a", FORCE), ("b", PLAIN), ("b", FORCE)])
def test_a_second_run_is_told_of_the_first(layers: Path, layer: str, options: Options) -> None:
    """Also one of other layers, and with --force: the manifest can list the files of one run."""
    told: list[str] = []

    def begin() -> None:
        with pytest.raises(UsageError, match="another run is writing into f:") as caught:
            convert(layers, "f/", layers=layer, options=options)
        told.append(str(caught.value))

    convert(layers, "f/", options=FORCE, observer=Meanwhile("b", begin))
    assert len(told) == 1
    assert listed() == ["000-a.npz", "001-b.npz"]


def test_a_run_that_is_refused_leaves_the_folder_that_the_first_has_made(layers: Path) -> None:
    with files.claimed(Path()), pytest.raises(UsageError, match="another run is writing"):
        convert(layers, ".", options=PLAIN)
    assert sorted(path.name for path in Path().iterdir()) == ["m.onnx"]
    convert(layers, ".", options=PLAIN)
    assert listed(".") == ["000-a.npz", "001-b.npz"]


def test_a_folder_is_claimed_until_the_block_ends(tmp_path: Path) -> None:
    def claim_twice() -> None:
        with files.claimed(tmp_path), files.claimed(tmp_path):
            pytest.fail("it is claimed already")

    for _ in range(2):
        with pytest.raises(UsageError, match="another run is writing"):
            claim_twice()
    with files.claimed(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_child_that_lives_on_does_not_hold_the_folder(tmp_path: Path) -> None:
    """As the one that reads models, which answers several commands of a process."""
    reading, writing = os.pipe()
    with files.claimed(tmp_path):
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        with files.claimed(tmp_path):
            pass
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)


@pytest.mark.slow
@pytest.mark.parametrize("force", ["", "--force"])
def test_two_processes(folder: Path, force: str) -> None:
    """However they meet, one of them succeeds, and what it wrote is proven."""
    script = (
        f"convfc convert {LENET} -q -o f/ --form csr {force} & one=$!\n"
        f"convfc convert {LENET} -q -o f/ --form csc {force} & two=$!\n"
        "wait $one; echo $? >&2; wait $two; echo $? >&2; convfc verify f -q"
    )
    done = shell(script, folder)
    assert done.code == 0, done
    codes = [int(line) for line in done.err.splitlines() if line.isdigit()]
    assert 0 in codes
    assert set(codes) <= {0, 2}
    assert len(codes) == 2
    if not force:
        assert sorted(codes) == [0, 2]
    assert [line.split("\t")[0] for line in done.lines[-2:]] == ["proven", "proven"]
