"""Weights in files beside the model: what is read of them, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from convfc_cli import budget
from convfc_cli.errors import ConvfcError, MalformedInput, Refused
from convfc_cli.models.registry import read
from convfc_cli.rounding import RuntimeResult
from tests.support.models import conv_model, convfc, first_result, ramp, save, tensor
from tests.support.onnx_weights import SHAPE


def external(folder: Path) -> Path:
    """A model in `folder` with its weights in weights.bin beside it."""
    model = conv_model(ramp(*SHAPE), np.float32([1, 2, 3]), {}, (1, 2, 5, 4))
    path = folder / "model.onnx"
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (folder / "weights.bin").stat().st_size >= 4 * 39
    return path


def restate(path: Path, **stated: str | None) -> None:
    """Change what the model says of where W lies; None takes an entry away."""
    model = onnx.load(path, load_external_data=False)
    (weights,) = (t for t in model.graph.initializer if t.name == "W")
    kept = {entry.key: entry.value for entry in weights.external_data} | stated
    del weights.external_data[:]
    for key, value in kept.items():
        if value is not None:
            weights.external_data.add(key=key, value=value)
    save(model, path.parent)


def test_external_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = external(tmp_path)
    (entry,) = read(path).entries
    layer = entry.load()
    np.testing.assert_array_equal(layer.kernel, ramp(*SHAPE))
    np.testing.assert_array_equal(layer.bias, np.float32([1, 2, 3]))
    assert isinstance(first_result(entry, np.random.default_rng(0)), RuntimeResult)
    done = convfc(capsys, "convert", path, "-o", tmp_path / "out.npz")
    assert done.code == 0, done.err
    assert done.paths == [tmp_path / "out.npz"]


def test_external_data_in_a_folder_below(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "data" / "weights.bin")
    restate(path, location="data/weights.bin")
    model = onnx.load(path, load_external_data=False)
    (bias,) = (t for t in model.graph.initializer if t.name == "B")
    bias.CopyFrom(tensor("B", np.float32([1, 2, 3])))
    (entry,) = read(save(model, tmp_path)).entries
    np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))


def test_external_data_found_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    external(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    (entry,) = read("models/model.onnx").entries
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))


def test_external_files_add_to_the_budget_what_they_hold(tmp_path: Path) -> None:
    path = external(tmp_path)
    with budget.command() as left:
        before = left.elements
        read(path)
        own = (tmp_path / "weights.bin").stat().st_size
        assert left.elements - before == 16 * (path.stat().st_size + own)
    for location in ("../weights.bin", "missing.bin", "\0"):
        restate(path, location=location)
        with budget.command() as left:
            read(path)
            # of B alone, which is where it was
            assert left.elements - before == 16 * (path.stat().st_size + own)
    restate(path, location="weights.bin")
    with open(tmp_path / "weights.bin", "ab") as file:
        file.truncate(2**30)  # a hole
    with budget.command() as left:
        read(path)
        assert left.elements - before < 16 * 2**20


def test_external_data_without_a_length(tmp_path: Path) -> None:
    path = external(tmp_path)
    restate(path, length=None)
    (entry,) = read(path).entries
    np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))


def _link(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    (folder / "weights.bin").rename(outside)
    (folder / "weights.bin").symlink_to(outside)


def _linked_folder(folder: Path) -> None:
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    (folder / "weights.bin").rename(outside / "weights.bin")
    (folder / "link").symlink_to(outside)


def _shorter(folder: Path) -> None:
    with open(folder / "weights.bin", "r+b") as file:
        file.truncate(20)


EXTERNAL: dict[str, tuple[dict[str, str | None], Callable[[Path], None] | None, Any, str]] = {
    "an absolute path": ({"location": "/etc/passwd"}, None, Refused, "outside"),
    "a folder above": ({"location": "../weights.bin"}, None, Refused, "outside"),
    "above, from below": ({"location": "data/../../weights.bin"}, None, Refused, "outside"),
    "a backslash": ({"location": "..\\weights.bin"}, None, Refused, "outside"),
    "no name": ({"location": ""}, None, Refused, "outside"),
    "no location": ({"location": None}, None, Refused, "outside"),
    "a link that leads out": ({}, _link, Refused, "refused"),
    "a linked folder": ({"location": "link/weights.bin"}, _linked_folder, Refused, "refused"),
    "a missing file": ({"location": "other.bin"}, None, MalformedInput, "missing"),
    "a folder": ({"location": "."}, None, (MalformedInput, Refused), "'W'"),
    "a zero byte": ({"location": "weights\0.bin"}, None, (MalformedInput, Refused), "'W'"),
    "a long name": ({"location": "w" * 5000}, None, (MalformedInput, Refused), "'W'"),
    "another length": ({"length": "140"}, None, MalformedInput, "140"),
    "a huge length": ({"length": str(2**62)}, None, MalformedInput, "144"),
    "a length below 0": ({"length": "-1"}, None, MalformedInput, "-1"),
    "no number for length": ({"length": "many"}, None, MalformedInput, "many"),
    "an offset beyond": ({"offset": "100000000"}, None, MalformedInput, "'W'"),
    "an offset below 0": ({"offset": "-8"}, None, MalformedInput, "'W'"),
    "no number for offset": ({"offset": "x"}, None, MalformedInput, "'W'"),
    "a file too short": ({}, _shorter, MalformedInput, "'W'"),
    "an unknown entry": ({"offset": "0", "command": "rm"}, None, (), ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", EXTERNAL)
def test_external_data_that_is_refused(what: str, tmp_path: Path) -> None:
    stated, prepare, errors, part = EXTERNAL[what]
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 1000)  # what a path that leads out would find
    path = external(folder)
    if prepare:
        prepare(folder)
    restate(path, **stated)
    (entry,) = read(path).entries
    assert entry.status == "ready"  # listing reads no weights
    if not errors:
        np.testing.assert_array_equal(entry.load().kernel, ramp(*SHAPE))
        return
    with pytest.raises(errors) as raised:
        entry.load()
    assert isinstance(raised.value, ConvfcError)
    assert part in str(raised.value)
    assert "layer conv" in str(raised.value)


def test_external_data_of_a_model_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = external(tmp_path)
    monkeypatch.chdir(tmp_path)
    with open(path, "rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file, isatty=lambda: False))
        done = convfc(capsys, "convert", "-", "-o", tmp_path / "out.npz")
    assert done.code == 5
    assert "'weights.bin'" in done.err
    assert not (tmp_path / "out.npz").exists()
