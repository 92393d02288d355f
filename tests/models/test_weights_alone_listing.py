"""Kernels that `inspect` lists in a file of weights alone, and a description to verify by."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.cli_models import COLOR, Ran, run, terminal
from tests.support.hdf5_files import matrix, ramp, weights
from tests.support.weights_alone import PLAIN, convert, describing, state, varied

pytestmark = pytest.mark.usefixtures("folder", "in_place")


# What is listed


def many(folder: Path) -> Path:
    """Datasets of every kind, of which `a`, `b` and `c` may be kernels."""
    return weights(
        folder / "w.h5",
        {
            "net/a.weight": ramp(3, 2, 3),
            "net/a.bias": ramp(3),
            "net/b.weight": ramp(3, 2, 3, 2).astype("f8"),
            "net/c.weight": ramp(3, 2, 3, 2, 1).astype("f2"),
            "net/two": ramp(3, 2),
            "net/six": ramp(1, 2, 1, 2, 1, 2),
            "net/whole": ramp(3, 2, 3, dtype="i4"),
            "net/text": "kernel",
            "net/scalar": 1.0,
            "optimizer_weights/m": ramp(3, 2, 3),
            "optimizer/vars/1": ramp(3, 2, 3),
            "empty": h5py.Empty("f4"),
            "none": np.zeros((3, 0, 3, 2), np.float32),
        },
    )


def test_candidates_are_listed_with_what_is_missing(folder: Path) -> None:
    done = run("inspect", many(folder)).succeeded()
    head, *rows = [line.split("\t") for line in done.lines]
    listed = [dict(zip(head, row, strict=True)) for row in rows]
    assert [item["layer"] for item in listed] == ["net/a.weight", "net/b.weight", "net/c.weight"]
    assert [item["position"] for item in listed] == ["0", "1", "2"]
    assert [item["kernel"] for item in listed] == ["3x2x3", "3x2x3x2", "3x2x3x2x1"]
    assert {item["op"] for item in listed} == {"weights"}
    for item in listed:
        assert item["status"].startswith("weights alone: its file does not say what its axes are")
        assert (item["input"], item["output"], item["nonzeros"], item["bytes"]) == ("",) * 4
    told = [item["status"].rsplit("(", 1)[1] for item in listed]
    assert told == ["bias: net/a.bias)", "bias: none)", "bias: none)"]
    assert done.err.startswith("0 of 3 layers ready\n")


def test_candidates_as_json(folder: Path) -> None:
    found = json.loads(run("inspect", many(folder), "--json").succeeded().out)
    assert (found["model"]["kind"], found["model"]["file"]) == ("hdf5", str(folder / "w.h5"))
    first = found["layers"][0]
    assert (first["kernel_shape"], first["dtype"]) == ([3, 2, 3], "float32")
    assert (first["status"], first["input_shape"]) == ("weights alone", None)
    assert "the size of its input (bias" in first["error"]["message"]
    assert [item["dtype"] for item in found["layers"]] == ["float32", "float64", "float16"]


@pytest.mark.slow
def test_candidates_on_a_terminal(folder: Path) -> None:
    path = many(folder)
    code, shown, others = terminal("inspect", path.name, cwd=folder)
    shown = COLOR.sub("", shown)
    assert code == 0
    assert [word in shown for word in ("net/a.weight", "3x2x3x2x1", "weights alone")] == [True] * 3
    assert "net/two" not in shown
    assert "--weight net/a.weight --bias net/a.bias --kernel-order" in others["stderr"]


def test_a_described_layer_is_listed_as_a_layer(folder: Path) -> None:
    path = state(folder)
    listed = json.loads(run("inspect", path, *PLAIN, "--bias", "none", "--json").succeeded().out)
    (item,) = listed["layers"]
    assert (item["layer"], item["op"], item["status"]) == ("conv.weight", "Conv", "ready")
    assert (item["input_shape"], item["output_shape"]) == ([2, 5, 4], [3, 3, 3])
    assert (item["kernel_shape"], item["groups"]) == ([3, 2, 3, 2], 1)
    assert item["nonzeros"] == np.count_nonzero(matrix(ramp(3, 2, 3, 2), (5, 4))[0])
    done = run("inspect", path, *PLAIN[:4], "--bias", "none").succeeded()
    assert "needs a size: its file does not say the size of its input, 2 channels" in done.out


def test_a_file_without_candidates_says_so(folder: Path) -> None:
    path = weights(folder / "w.h5", {"dense": ramp(3, 2)})
    for command in ("inspect", "convert"):
        assert "w.h5 has no convolution" in run(command, path).failed(2)


def test_the_suffix_of_a_file_does_not_matter(folder: Path) -> None:
    state(folder).rename(folder / "weights.json")
    assert len(run("inspect", "weights.json").succeeded().lines) == 2
    content = (folder / "weights.json").read_bytes()
    assert len(run("inspect", "-", stdin=content).succeeded().lines) == 2
    done = run("convert", "-", *PLAIN, "--bias", "none", "-o", "c.npz", stdin=content).succeeded()
    assert done.lines == ["c.npz"]


# Proof


def verify(*options: object) -> Ran:
    return run("verify", "c.npz", *options, "-q")


def test_the_same_description_proves_a_file_and_no_other_does(folder: Path) -> None:
    path = weights(
        folder / "w.h5",
        {
            "k": ramp(4, 4, 3, 3),
            "b": ramp(4),
            "other": ramp(4, 4, 3, 3) + 1,
            "c": np.flip(ramp(4)).copy(),
        },
    )
    told = [*describing("oihw", "k"), "--bias", "b", "--pad", "1"]
    convert(path, *told, "--input-shape", "1,4,5,5")
    for same in (
        told,
        [*told, "--input-shape", "1,4,5,5"],
        varied(told, "--pad", "1,1", "--stride", "1"),
        varied(told, "--pad", "same"),
    ):
        done = verify("--model", path, *same).succeeded()
        assert done.lines[0].startswith("proven\t")
    for other in (
        ["--kernel-order", "iohw"],
        ["--kernel-order", "oiwh"],
        ["--weight", "other"],
        ["--bias", "none"],
        ["--bias", "c"],
        ["--pad", "valid"],
        ["--stride", "2"],
        ["--dilation", "2"],
        ["--transposed"],
        ["--input-shape", "1,4,6,5"],
    ):
        done = verify("--model", path, *varied(told, *other))
        assert (done.code, done.lines[0].split("\t")[0]) == (1, "wrong"), (other, done)


def test_a_description_to_verify_by_needs_a_model(folder: Path) -> None:
    convert(state(folder), *PLAIN, "--bias", "none")
    told = verify(*describing("oihw", "conv.weight")).failed(2)
    assert "they go with --model" in told


def test_convert_says_what_it_could_not_do(folder: Path) -> None:
    """Nothing else can run a layer of which only a person knows what it is."""
    done = run("convert", state(folder), *PLAIN, "--bias", "none").succeeded()
    assert "the original node was not run" in done.err
    assert done.err.endswith(": proven\n")
    assert done.lines == ["w.h5.fc/000-conv.weight.npz"]
