"""`convfc inspect` and `convfc map`: every option, in a pipe, as JSON and on a terminal."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cli_models import (
    COLOR,
    LENET,
    MIXED,
    arrays,
    listing,
    matrix_of,
    net,
    run,
    shell,
    terminal,
)

pytestmark = pytest.mark.usefixtures("folder")


def table(text: str) -> list[dict[str, str]]:
    """Tab-separated lines by their header."""
    header, *lines = (line.split("\t") for line in text.splitlines())
    assert all(len(line) == len(header) for line in lines)
    return [dict(zip(header, line, strict=True)) for line in lines]


# inspect


def test_inspect_in_a_pipe() -> None:
    done = run("inspect", LENET).succeeded()
    first, second = table(done.out)
    sizes = {key: int(first.pop(key)) for key in ("nonzeros", "bytes")}
    assert first == {
        "position": "0",
        "layer": "node_conv2d",
        "op": "Conv",
        "input": "1x28x28",
        "output": "6x28x28",
        "kernel": "6x1x5x5",
        "status": "ready",
        "weight": "0.weight",
    }
    run("convert", LENET, "-l", "@0", "-o", "c.npz", "--no-verify").succeeded()
    assert sizes["nonzeros"] == np.count_nonzero(matrix_of(Path("c.npz")))
    assert 0.9 < Path("c.npz").stat().st_size / sizes["bytes"] <= 1
    assert (second["position"], second["layer"]) == ("1", "node_conv2d_1")
    assert done.err.startswith("2 of 2 layers ready: 347,736 nonzeros")


def test_inspect_as_json(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a", "b"), unsupported=("bad",), transposed=True)
    done = run("inspect", "--json", path).succeeded()
    content = json.loads(done.out)
    assert content["model"]["kind"] == "onnx"
    assert len(content["model"]["sha256"]) == 64
    first, second, bad = content["layers"]
    assert (first["position"], first["layer"], first["output"]) == (0, "a", "y0")
    assert (first["op"], first["status"], first["error"]) == ("ConvTranspose", "ready", None)
    assert (first["input_shape"], first["output_shape"]) == ([2, 6, 5], [3, 6, 5])
    assert (first["kernel_shape"], first["groups"], first["dtype"]) == ([2, 3, 3, 3], 1, "float32")
    assert second["input_shape"] == [3, 6, 5]
    assert (bad["status"], bad["nonzeros"], bad["bytes"]) == ("unsupported", None, None)
    assert "channels last" in bad["error"]["message"]


def test_inspect_of_open_sizes() -> None:
    done = run("inspect", MIXED).succeeded()
    rows = table(done.out)
    assert len(rows) == 8
    assert all(row["status"].startswith("needs a size") for row in rows)
    assert {row["nonzeros"] for row in rows} == {""}
    done = run("inspect", MIXED, "--input-shape", "1,1,28,28").succeeded()
    assert {row["status"] for row in table(done.out)} == {"ready"}
    assert table(done.out)[0]["output"] == "12x14x14"


@pytest.mark.slow
def test_inspect_prints_a_command_that_works(folder: Path) -> None:
    net(folder / "my model.onnx", shape=(1, 2, "h", "w"))
    done = run("inspect", "my model.onnx").succeeded()
    (line,) = [line for line in done.err.splitlines() if "--input-shape" in line]
    pasted = shell(line[line.index("convfc inspect") :], folder).succeeded()
    assert table(pasted.out)[0]["status"] == "ready"


def test_inspect_quietly() -> None:
    loud, quiet = run("inspect", MIXED).succeeded(), run("inspect", "-q", MIXED).succeeded()
    assert loud.err
    assert quiet.err == ""
    assert quiet.out == loud.out
    assert run("inspect", "--json", MIXED).succeeded().err == ""


@pytest.mark.slow
def test_inspect_of_standard_input(folder: Path) -> None:
    given = run("inspect", "-", stdin=LENET.read_bytes()).succeeded()
    assert given.out == run("inspect", LENET).succeeded().out
    (folder / "m.onnx").write_bytes(LENET.read_bytes())
    script = "cat m.onnx | convfc inspect -; convfc inspect <(cat m.onnx); convfc inspect - <m.onnx"
    assert shell(script, folder).succeeded().out == given.out * 3


def test_inspect_reads_no_weight(folder: Path) -> None:
    """The weights lie in a file that is not there: the sizes are in the model all the same."""
    import onnx

    model = onnx.load(net(folder / "m.onnx", outputs=64))
    onnx.save(model, "e.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    os.remove("weights.bin")
    (row,) = table(run("inspect", "e.onnx").succeeded().out)
    assert (row["status"], row["kernel"]) == ("ready", "64x2x3x3")
    done = run("convert", "e.onnx")
    assert (done.code, done.out) == (3, "")
    assert "'weights.bin' of tensor 'w0' is missing" in done.err
    assert not (folder / "e.onnx.fc").exists()


@pytest.mark.slow
def test_inspect_on_a_terminal(folder: Path) -> None:
    code, shown, others = terminal("inspect", LENET, cwd=folder)
    assert code == 0
    assert "\t" not in shown
    assert "107,736" in shown
    assert "ready" in shown
    assert "2 of 2 layers ready" in others["stderr"]
    for columns in (40, 80):
        code, shown, _ = terminal("inspect", LENET, cwd=folder, columns=columns)
        assert code == 0
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        assert max(map(len, plain.splitlines())) <= columns
    _, shown, _ = terminal("inspect", LENET, cwd=folder, env={"NO_COLOR": "1"})
    assert not COLOR.search(shown)


@pytest.mark.slow
def test_names_of_strangers_do_not_steer_the_terminal(folder: Path) -> None:
    evil = "a\x1b]0;owned\x07\tb\nc\x9b31m[bold]"
    net(folder / "m.onnx", names=(evil,), unsupported=(f"bad{evil}",))
    outputs = [run("inspect", "m.onnx").succeeded()]
    assert len(table(outputs[0].out)) == 2
    outputs += [run("convert", "m.onnx", "--keep-going"), run("convert", "m.onnx", "-l", "bad")]
    outputs += [run("convert", "m.onnx"), run("verify", "m.onnx.fc")]
    told = run("inspect", "m.onnx", "--json").succeeded()
    assert json.loads(told.out)["layers"][0]["layer"] == evil
    for done in (*outputs, told):
        for character in "\x1b\x07\x9b":
            assert character not in done.out + done.err
    code, shown, others = terminal("inspect", "m.onnx", cwd=folder)
    assert code == 0
    assert "]0;owned" not in shown.replace("\N{REPLACEMENT CHARACTER}]0;owned", "")
    assert "[bold]" in shown
    assert "\x1b" not in others["stderr"]


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_model_without_convolutions(folder: Path, command: str) -> None:
    from tests.support.cli_models import without_convolution

    path = without_convolution(folder / "m.onnx")
    told = run(command, path).failed(2)
    assert "has no convolution" in told
    assert command == "convert" or "no other linear layer (it holds Relu)" in told
    assert os.listdir() == ["m.onnx"]


# map


@pytest.fixture
def matrix(folder: Path) -> Path:
    """The matrix of one layer, stored."""
    net(folder / "m.onnx")
    run("convert", "m.onnx", "-o", "c.npz", "--no-verify").succeeded()
    return Path("c.npz")


def looked_up(*arguments: object) -> list[dict[str, Any]]:
    """The rows that `map` gives as JSON, which must be those that it gives in a pipe."""
    out = run("map", "--json", *arguments).succeeded().out
    listed = json.loads(out)["entries"]
    for row, plain in zip(listed, table(run("map", *arguments).succeeded().out), strict=True):
        assert [row["row"], row["column"]] == [int(plain["row"]), int(plain["column"])]
        for key in ("output", "input"):
            assert ",".join(map(str, row[f"{key}_element"])) == plain[key]
        kernel = row["kernel_element"]
        assert plain["kernel"] == (",".join(map(str, kernel)) if kernel else "structural zero")
        assert float(plain["weight"]) == pytest.approx(row["value"], rel=1e-8)
    return listed


@pytest.mark.parametrize("more", [[], ["--transpose"], ["--layout", "channels-last"]])
@pytest.mark.parametrize("transposed", [False, True])
def test_map_of_every_kind(folder: Path, more: list[str], transposed: bool) -> None:
    """Every row that is listed is an entry of the matrix, and none is left out."""
    net(folder / "m.onnx", transposed=transposed)
    run("convert", "m.onnx", "-o", "c.npz", *more).succeeded()
    matrix, kernel = matrix_of(Path("c.npz")), arrays(Path("c.npz"))["kernel"]
    found = {}
    for given, of in (
        ("--output-at", (2, 3, 4)),
        ("--input-at", (1, 0, 2)),
        ("--kernel-at", (1, 1, 0, 2)),
    ):
        listed = looked_up("c.npz", given, ",".join(map(str, of)))
        for row in listed:
            assert row["value"] == matrix[row["row"], row["column"]] != 0
            assert row["value"] == kernel[tuple(row["kernel_element"])]
            assert row[f"{given[2:].removesuffix('-at')}_element"] == list(of)
        assert len({(row["row"], row["column"]) for row in listed}) == len(listed)
        found[given] = listed
    sides = ("column", "row") if "--transpose" in more else ("row", "column")
    for given, side in zip(("--output-at", "--input-at"), sides, strict=True):
        at = {row[side] for row in found[given]}
        assert len(at) == 1
        line = matrix[at.pop()] if side == "row" else matrix[:, at.pop()]
        assert len(found[given]) == np.count_nonzero(line)
    value = kernel[1, 1, 0, 2]
    assert len(found["--kernel-at"]) == np.count_nonzero(matrix == value)


def test_map_of_an_entry(matrix: Path) -> None:
    dense = matrix_of(matrix)
    row, column = (int(i[7]) for i in np.nonzero(dense))
    (found,) = looked_up(matrix, "--entry-at", f"{row},{column}")
    assert found["value"] == dense[row, column]
    assert found["kernel_element"] is not None


def test_map_of_a_structural_zero(matrix: Path) -> None:
    (found,) = looked_up(matrix, "--entry-at", "0,29")
    assert (found["row"], found["column"]) == (0, 29)
    assert (found["output_element"], found["input_element"]) == ([0, 0, 0], [0, 5, 4])
    assert (found["kernel_element"], found["value"]) == (None, 0)
    assert "structural zero" in run("map", matrix, "--entry-at", "0,29").succeeded().out


def test_map_of_an_operator_a_dense_file_and_a_pipe(matrix: Path) -> None:
    expected = run("map", matrix, "--output-at", "0,0,0").succeeded().out
    for name, form in (("o.npz", "operator"), ("d.npy", "dense")):
        run("convert", "m.onnx", "-o", name, "--form", form).succeeded()
        assert run("map", name, "--output-at", "0,0,0").succeeded().out == expected
    piped = run("map", "-", "--output-at", "0,0,0", stdin=matrix.read_bytes()).succeeded()
    assert piped.out == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output-at", "3,0,0"], "output (3, 0, 0) is not within (3, 6, 5)"),
        (["--output-at", "0,0"], "output (0, 0) is not within (3, 6, 5)"),
        (["--input-at", "0,6,0"], "input (0, 6, 0) is not within (2, 6, 5)"),
        (["--input-at", "0,0,0,0"], "is not within (2, 6, 5)"),
        (["--kernel-at", "0,2,0,0"], "is not within (3, 2, 3, 3)"),
        (["--kernel-at", "0,0"], "is not within (3, 2, 3, 3)"),
        (["--entry-at", "90,0"], "90 is not in [0, 90)"),
        (["--entry-at", "0,60"], "60 is not in [0, 60)"),
        (["--entry-at", "5"], "--entry-at takes two numbers"),
        (["--entry-at", "5,5,5"], "--entry-at takes two numbers"),
        (["--entry-at", "-1,0"], "not a position"),
        (["--output-at", "a,b"], "not a position"),
        (["--output-at", "1;2;3"], "not a position"),
        (["--output-at", ""], "not a position"),
        ([], "one of --output-at, --input-at, --kernel-at, --entry-at"),
        (
            ["--output-at", "0,0,0", "--entry-at", "0,0"],
            "one of --output-at, --input-at, --kernel-at, --entry-at",
        ),
    ],
)
def test_map_of_what_is_not_there(matrix: Path, arguments: list[str], told: str) -> None:
    for more in ([], ["--json"]):
        assert told in run("map", matrix, *arguments, *more).failed(2)


def test_map_of_a_file_that_is_no_matrix(folder: Path) -> None:
    assert "not a matrix file" in run("map", LENET, "--entry-at", "0,0").failed(3)
    assert "no such file" in run("map", "nowhere.npz", "--entry-at", "0,0").failed(2)
    (folder / "t.npz").write_text("text")
    assert "text file" in run("map", "t.npz", "--entry-at", "0,0").failed(3)


@pytest.mark.slow
def test_map_on_a_terminal(matrix: Path, folder: Path) -> None:
    code, shown, others = terminal("map", matrix, "--output-at", "1,2,2", cwd=folder)
    assert code == 0
    assert "\t" not in shown
    assert len(shown.strip().splitlines()) >= 18
    bias = arrays(matrix)["bias"][42]
    assert f"bias of output (1, 2, 2): {bias!s}" in others["stderr"]
    arguments = ["--kernel-at", "0,0,1,1"]
    assert len(looked_up(matrix, *arguments)) == 30
    run("convert", LENET, "-l", "@0", "-o", "l.npz", "--no-verify").succeeded()
    code, shown, others = terminal("map", "l.npz", "--kernel-at", "0,0,2,2", cwd=folder)
    assert "and 744 more: pipe it to see them all" in others["stderr"]
    assert len(shown.splitlines()) < 50
    large = ["--input-shape", "1,2,400,400", "--form", "operator", "--no-verify", "-o", "large.npz"]
    run("convert", net(folder / "free.onnx", shape=(1, 2, "h", "w")), *large).succeeded()
    _, _, others = terminal("map", "large.npz", "--kernel-at", "0,0,1,1", cwd=folder)
    assert "and at least 100,001 more: pipe" in others["stderr"]
    _, _, others = terminal("map", "-q", "l.npz", "--kernel-at", "0,0,2,2", cwd=folder)
    assert others["stderr"] == ""


def test_weights_that_are_not_finite_are_json_all_the_same(folder: Path) -> None:
    def change(kernels: list[Any]) -> None:
        kernels[0][0, 0, 1, 1] = np.nan
        kernels[0][0, 0, 1, 2] = np.inf

    net(folder / "m.onnx", change=change)
    run("convert", "m.onnx", "-o", "c.npz").succeeded()

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is not a JSON")

    done = run("map", "c.npz", "--output-at", "0,0,0", "--json").succeeded()
    assert json.loads(done.out, parse_constant=refused)


def test_neither_writes_anything(matrix: Path, folder: Path) -> None:
    before = listing(folder)
    run("map", matrix, "--entry-at", "0,0").succeeded()
    run("inspect", "m.onnx").succeeded()
    assert listing(folder) == before
    assert stat.S_IMODE(matrix.stat().st_mode) & 0o111 == 0
