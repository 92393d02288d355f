"""The names of several layers in one ONNX model, and how one of them is selected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from convfc_cli.errors import UsageError
from tests.support.models import convfc, info, listed, make_model, ramp, tensor

Array = NDArray[Any]
node = helper.make_node


def several(
    names: list[str], folder: Path, outputs: list[str] | None = None
) -> tuple[Any, list[Array]]:
    """A chain of 1x1 convolutions with these node names; (model, weights)."""
    outputs = outputs or [f"out{i}" for i in range(len(names))]
    weights = [(i + 1) * ramp(2, 2, 1, 1) for i in range(len(names))]
    nodes = [
        node("Conv", [before, f"W{i}"], [outputs[i]], name=name)
        for i, (before, name) in enumerate(zip(["x", *outputs[:-1]], names, strict=True))
    ]
    stored = [tensor(f"W{i}", array) for i, array in enumerate(weights)]
    return listed(make_model(nodes, [info("x", (1, 2, 3, 2))], stored), folder), weights


def test_shared_weights(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "W"], ["h"], name="first", pads=[1, 1, 1, 1]),
        node("Conv", ["h", "W"], ["y"], name="second", strides=[2, 2]),
    ]
    weights = ramp(2, 2, 3, 3)
    model = make_model(nodes, [info("x", (1, 2, 5, 5))], [tensor("W", weights)])
    first, second = listed(model, tmp_path).entries
    assert first.load().kernel.tobytes() == second.load().kernel.tobytes() == weights.tobytes()
    assert first.require().output_shape == (2, 5, 5)
    assert second.require().output_shape == (2, 2, 2)


def test_unnamed_nodes_answer_to_their_outputs(tmp_path: Path) -> None:
    found, weights = several(["", ""], tmp_path)
    assert [entry.name for entry in found.entries] == ["out0", "out1"]
    for i, wanted in enumerate(["out0", "@1"]):
        (entry,) = found.select([wanted])
        np.testing.assert_array_equal(entry.load().kernel, weights[i])


NAMES = [
    "/block.0/conv;x",
    "/block.0/conv",
    "A",
    "a",
    "../../up",
    "nul",
    "ünï",
    "x" * 300,
    " ",
    "-",
]


def test_awkward_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, weights = several(NAMES, tmp_path)
    assert [entry.name for entry in found.entries] == NAMES
    done = convfc(capsys, "convert", tmp_path / "model.onnx", "-o", f"{tmp_path}/out/", "--json")
    assert done.code == 0, done.err
    written = done.json()["matrices"]
    assert [told["layer"] for told in written] == NAMES
    files = [Path(told["file"]) for told in written]
    assert len({file.name.lower() for file in files}) == len(NAMES)
    for file, array in zip(files, weights, strict=True):
        assert file.parent == tmp_path / "out"
        assert len(file.name) < 100
        assert set(file.name) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
        )
        with np.load(file) as members:
            np.testing.assert_array_equal(members["kernel"], array)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*(file.name for file in files), "manifest.json"]
    )


def test_duplicate_names(tmp_path: Path) -> None:
    found, weights = several(["conv", "conv", "other"], tmp_path)
    with pytest.raises(UsageError, match="@0") as raised:
        found.select(["conv"])
    assert "@1" in str(raised.value)
    for wanted, position in (("@1", 1), ("out1", 1), ("other", 2), ("ther", 2)):
        (entry,) = found.select([wanted])
        assert entry.position == position
        np.testing.assert_array_equal(entry.load().kernel, weights[position])


def test_a_name_that_fits_none(tmp_path: Path) -> None:
    found, _ = several(["encoder", "decoder"], tmp_path)
    with pytest.raises(UsageError, match="did you mean encoder"):
        found.select(["encodr"])
    with pytest.raises(UsageError, match="@0 to @1"):
        found.select(["@2"])
