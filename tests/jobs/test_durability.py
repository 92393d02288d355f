"""When files are flushed to the disk: a file before it has its name, a folder before its manifest.

A kill at any moment leaves each file absent, old or whole, and no manifest of an incomplete folder.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import convfc_cli
from convfc_cli import files
from convfc_cli.errors import OutputFailed
from convfc_cli.jobs.manifest import MANIFEST
from convfc_cli.jobs.plan import Options

LAYERS = 7


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes, kernels = [], []
    for n in range(LAYERS):
        kernel = np.full((2, 2, 1, 1), n + 1, np.float32)
        kernels.append(numpy_helper.from_array(kernel, f"w{n}"))
        nodes.append(helper.make_node("Conv", [f"x{n}", f"w{n}"], [f"x{n + 1}"], f"c{n}"))
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 2, 2, 2])
    y = helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], kernels)
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(what was done, to what) with files and folders: synced, named, removed; those that are
    synced by the names that they have then.
    """
    done: list[tuple[str, str]] = []

    def noted(step: str, place: Callable[..., str]) -> None:
        whole = getattr(os, step)

        def call(*given: Any, **options: Any) -> Any:
            done.append((step, place(*given)))
            return whole(*given, **options)

        monkeypatch.setattr(files.os, step, call)

    noted("fsync", lambda handle: Path(os.readlink(f"/proc/self/fd/{handle}")).name)
    noted("link", lambda part, target: Path(target).name)
    noted("replace", lambda part, target: Path(target).name)
    noted("unlink", lambda path, **options: Path(path).name)
    return [] if not Path("/proc/self/fd").is_dir() else done


linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


def written(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The steps, without the removal of temporary files; these are all called part."""
    found = []
    for step, name in steps:
        name = "part" if name.endswith(".part") else name
        if (step, name) != ("unlink", "part"):
            found.append((step, name))
    return found


@linux
def test_a_folder_is_synced_once_before_its_manifest(model, tmp_path, steps):
    done = convfc_cli.convert(model, f"{tmp_path}/o/")
    names = [result.item.path.name for result in done.results]
    assert len(names) == LAYERS
    assert written(steps) == [
        *(("link", name) for name in names),
        *(("fsync", name) for name in names),
        ("fsync", "o"),
        ("fsync", "part"),
        ("link", MANIFEST),
        ("fsync", "o"),
    ]


@linux
def test_an_old_manifest_is_gone_from_the_disk_before_a_file_is_replaced(model, tmp_path, steps):
    convfc_cli.convert(model, f"{tmp_path}/o/")
    steps.clear()
    done = convfc_cli.convert(model, f"{tmp_path}/o/", options=Options(force=True))
    names = [result.item.path.name for result in done.results]
    found = written(steps)
    assert found[:3] == [("unlink", MANIFEST), ("fsync", "o"), ("replace", names[0])]
    assert found[-3:] == [("fsync", "part"), ("replace", MANIFEST), ("fsync", "o")]
    assert [step for step, _ in found].count("fsync") == LAYERS + 4


@linux
def test_what_lies_beside_is_synced_too(model, tmp_path, steps):
    convfc_cli.convert(model, f"{tmp_path}/o/", options=Options(form="dense"))
    synced = {name for step, name in steps if step == "fsync"}
    assert {name for name in os.listdir(tmp_path / "o") if name != MANIFEST} < synced
    assert sum(name.endswith(".operator.npz") for name in synced) == LAYERS


@linux
def test_a_file_alone_is_synced_before_it_has_its_name(model, tmp_path, steps):
    convfc_cli.convert(model, tmp_path / "c.npz", layers="c0")
    assert written(steps) == [("fsync", "part"), ("link", "c.npz"), ("fsync", tmp_path.name)]


def test_without_all_files_on_the_disk_there_is_no_manifest(model, tmp_path, monkeypatch):
    whole, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count == LAYERS:
            raise OSError(28, "No space left on device")
        whole(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputFailed, match="no space left on device"):
        convfc_cli.convert(model, f"{tmp_path}/o/")
    assert count == LAYERS
    assert not (tmp_path / "o" / MANIFEST).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("moment", range(0, 3 * LAYERS + 6, 2))
def test_a_kill_leaves_whole_files_and_no_wrong_manifest(model, tmp_path, moment, force):
    """It comes before the step of this number that syncs, names or removes something."""
    folder = tmp_path / "o"
    convfc_cli.convert(model, f"{tmp_path}/whole/", options=Options(proof=None))
    if force:
        convfc_cli.convert(model, f"{folder}/", options=Options(transpose=True))
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if force else {}
    left = moment
    child = os.fork()
    if not child:
        try:
            for step in ("fsync", "link", "replace"):
                whole = getattr(os, step)

                def counted(*given: Any, whole: Callable[..., Any] = whole) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        os._exit(9)
                    return whole(*given)

                setattr(files.os, step, counted)
            convfc_cli.convert(model, f"{folder}/", options=Options(force=force, proof=None))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.waitstatus_to_exitcode(status) == 9
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".part"}
    if MANIFEST in found:
        assert found in (before, wanted)
    else:
        assert killed
        for name, content in found.items():
            assert content in (before.get(name), wanted[name])
