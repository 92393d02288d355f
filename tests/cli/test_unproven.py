"""`convfc inspect` and `convfc map` of what `convert` wrote: matrix files and folders of them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convfc_cli.matrices import matrix
from convfc_cli.matrices.matrix import digest
from convfc_cli.matrices.operator import load
from tests.support.cli_models import LENET, arrays, listing, net, rewritten, run, shell, terminal
from tests.support.schemas import held

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def written(folder: Path) -> Path:
    """The folder of a model of three layers."""
    net(folder / "m.onnx", names=("a", "b", "c"))
    run("convert", "m.onnx", "--no-verify").succeeded()
    return Path("m.onnx.fc")


def table(text: str) -> list[dict[str, str]]:
    """Tab-separated lines by their header."""
    header, *lines = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def stated(path: Path) -> list[Any]:
    """The matrices that `inspect --json` lists."""
    return held(run("inspect", path, "--json").succeeded().out)["matrices"]


def test_a_folder_has_a_line_for_each_matrix(written: Path) -> None:
    done = run("inspect", written).succeeded()
    rows = table(done.out)
    assert [row["file"] for row in rows] == [
        f"m.onnx.fc/00{i}-{n}.npz" for i, n in enumerate("abc")
    ]
    for row in rows:
        path = Path(row["file"])
        operator = load(path)
        assert row == {
            "file": str(path),
            "layer": operator.origin.layer,
            "form": "csr",
            "layout": "channels-first",
            "transpose": "False",
            "shape": "x".join(map(str, operator.shape)),
            "nonzeros": str(operator.layer.nnz),
            "bytes": str(path.stat().st_size),
            "model": "m.onnx",
            "digest": digest(operator.layer),
            "verdict": "not verified",
        }
    size = sum(path.stat().st_size for path in written.glob("*.npz"))
    assert done.err == f"3 matrices, {size / 1000:.1f} kB; not verified: convfc verify m.onnx.fc\n"
    assert run("inspect", "-q", written).succeeded().err == ""


@pytest.mark.parametrize("name", ["c.npz", "c.npy", "c.mat", "c.mtx", "c.csv", "c.h5"])
def test_a_file_of_every_format(folder: Path, name: str) -> None:
    model = net(folder / "m.onnx")
    (made,) = json.loads(run("convert", model, "-o", name, "--json").succeeded().out)["matrices"]
    (found,) = stated(Path(name))
    shared = made.keys() & found.keys() - {"verdict"}
    assert len(shared) == 20
    assert {key: found[key] for key in shared} == {key: made[key] for key in shared}
    assert found["verdict"] == "not verified"
    assert (found["model"]["file"], len(found["model"]["sha256"])) == ("m.onnx", 64)


def test_a_file_of_several_and_one_of_sums(folder: Path) -> None:
    run("convert", LENET, "-o", "all.h5", "--no-verify").succeeded()
    found = stated(Path("all.h5"))
    assert [one["group"] for one in found] == ["000-node_conv2d", "001-node_conv2d_1"]
    assert [row["file"] for row in table(run("inspect", "all.h5").out)] == [
        "all.h5/000-node_conv2d",
        "all.h5/001-node_conv2d_1",
    ]
    linear = LENET.with_name("linear.onnx")
    run("convert", linear, "--compose", "pad:fc", "-o", "c.npz", "--no-verify").succeeded()
    (found,) = stated(Path("c.npz"))
    assert (found["layer"], found["weight"], found["kernel_shape"]) == ("pad:fc", None, None)


def test_a_pipe(written: Path) -> None:
    content = (written / "000-a.npz").read_bytes()
    (row,) = table(run("inspect", "-", stdin=content).succeeded().out)
    assert (row["file"], row["layer"]) == ("standard input", "a")


def test_only_the_metadata_are_read(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose every array is damaged is listed as if it were whole, and called unproven."""
    path = written / "000-a.npz"
    before = stated(path)
    stored = arrays(path)
    wrong = {name: np.zeros_like(stored[name]) for name in ("data", "kernel", "bias", "indices")}
    rewritten(path, Path("w.npz"), **wrong)
    content = path.read_bytes()
    place = content.index(stored["data"].tobytes())
    path.write_bytes(content[:place] + bytes(200) + content[place + 200 :])

    def restored(*arguments: Any) -> None:
        raise AssertionError("a layer is made of a file that is only listed")

    with monkeypatch.context() as patch:
        patch.setattr(matrix, "restored", restored)
        assert stated(path) == before
        (other,) = stated(Path("w.npz"))
        with pytest.raises(AssertionError, match="only listed"):
            load(path)
    assert (other["digest"], other["verdict"]) == (before[0]["digest"], "not verified")
    assert run("verify", path).code == 3
    assert run("verify", "w.npz").code == 1


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file with other metadata."""
    content = json.loads(str(arrays(path)["convfc"]))
    text = change(content)
    text = text if isinstance(text, str) else json.dumps(content)
    return rewritten(path, Path("w.npz"), convfc=np.array(text))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(shape=[1]),
        lambda content: content.update(shape=[0, 5]),
        lambda content: content.update(shape=[2**63, 5]),
        lambda content: content.update(shape="large"),
        lambda content: content.update(nonzeros=-1),
        lambda content: content.update(nonzeros=1.5),
        lambda content: content.update(nonzeros=10**400),
        lambda content: content.update(groups=True),
        lambda content: content.update(digest="\x1b[31m"),
        lambda content: content.update(digest=None),
        lambda content: content.update(dtype=3),
        lambda content: content.update(schema="convfc/2"),
        lambda content: content.update(layout={"order": "odd", "transpose": False}),
        lambda content: content.update(input_shape=[[1]]),
        lambda content: content.update(kernel_shape=[1] * 100),
        lambda content: content["origin"].update(position="0"),
        lambda content: content["origin"].update(more=1),
        lambda content: content["origin"].update(notes={"scale": float("nan")}),
        lambda content: json.dumps(content).replace('"notes": {}', '"notes": {"scale": 1e999}'),
        lambda content: json.dumps(content).replace('"notes": {}', f'"notes": {{"a": {"[" * 9**5}'),
        lambda content: content.pop("origin"),
        lambda content: "[]",
    ],
)
def test_what_a_stranger_wrote_into_the_metadata(
    written: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    path = changed(written / "000-a.npz", change)
    assert run("inspect", path).code == 3
    assert run("inspect", path, "--json").code == 3


def test_long_and_odd_names_are_printed_as_text(written: Path) -> None:
    evil = "a\x1b]0;owned\x07\tb\n" + "x" * 5000
    path = changed(written / "000-a.npz", lambda content: content["origin"].update(layer=evil))
    (row,) = table(run("inspect", path).succeeded().out)
    assert row["layer"].startswith("a\N{REPLACEMENT CHARACTER}]0;owned")
    (found,) = stated(path)
    assert found["layer"] == evil
    path = changed(written / "000-a.npz", lambda content: content["origin"].update(sha256="no"))
    assert stated(path)[0]["model"]["sha256"] is None


def test_a_folder_that_is_not_whole(written: Path) -> None:
    (written / "001-b.npz").unlink()
    (written / "002-c.npz").write_bytes(bytes((written / "002-c.npz").stat().st_size))
    done = run("inspect", written)
    assert (done.code, [row["layer"] for row in table(done.out)]) == (3, ["a"])
    assert "001-b.npz is missing" in done.err
    assert "002-c.npz is not a matrix file" in done.err
    listed = held(run("inspect", written, "--json").out)
    assert [error["kind"] for error in listed["errors"]] == ["MalformedInput"] * 2
    run("map", written, "-l", "a", "--entry-at", "0,0").succeeded()
    assert "001-b.npz is missing" in run("map", written, "-l", "b", "--entry-at", "0,0").failed(3)
    assert "001-b.npz is missing" in run("map", written, "--entry-at", "0,0").failed(3)
    (written / "manifest.json").unlink()
    for command in (["inspect", written], ["map", written, "-l", "a", "--entry-at", "0,0"]):
        assert "has no manifest.json" in run(*command).failed(3)


def test_a_file_without_what_lies_beside_it(folder: Path) -> None:
    run("convert", net(folder / "m.onnx"), "-o", "c.mat", "--no-verify").succeeded()
    content = Path("c.mat").read_bytes()
    assert "name the file" in run("inspect", "-", stdin=content).failed(2)
    os.remove("c.mat.operator.npz")
    assert "needs c.mat.operator.npz beside it" in run("inspect", "c.mat").failed(3)


@pytest.mark.parametrize(
    "more", [["--chains"], ["--include", "linear"], ["--input-shape", "1,2,6,5"]]
)
def test_options_of_models_are_refused(written: Path, more: list[str]) -> None:
    for place in (written, written / "000-a.npz"):
        assert "holds matrices: --include, --chains," in run("inspect", place, *more).failed(2)


@pytest.mark.parametrize("name", ["b", "@1", "y1", "w1"])
@pytest.mark.parametrize("file_format", ["npz", "mat", "h5"])
def test_map_picks_a_layer_of_a_folder(written: Path, name: str, file_format: str) -> None:
    run("convert", "m.onnx", "--format", file_format, "-o", "to/", "--no-verify").succeeded()
    asked = ["--output-at", "1,2,3"]
    expected = run("map", written / "001-b.npz", *asked).succeeded()
    assert run("map", "to", "-l", name, *asked).succeeded() == expected
    content = held(run("map", "to", "-l", name, *asked, "--json").succeeded().out)
    assert (content["file"], content["layer"]) == (f"to/001-b.{file_format}", "b")


def test_map_of_a_folder_of_which_no_layer_is_picked(written: Path) -> None:
    told = run("map", written, "--entry-at", "0,0").failed(2)
    assert told == "m.onnx.fc holds 3 matrices: say which layer's (a, b, c)"
    told = run("map", written, "-l", "d", "--entry-at", "0,0").failed(2)
    assert told == "m.onnx.fc has no layer 'd': there are a, b, c"
    run("convert", "m.onnx", "-l", "c", "-o", "one/", "--no-verify").succeeded()
    run("map", "one", "--entry-at", "0,0").succeeded()


@pytest.mark.slow
def test_on_a_terminal(written: Path, folder: Path) -> None:
    run("convert", "m.onnx", "-o", "t.mat", "-l", "a", "--transpose", "--no-verify").succeeded()
    code, shown, others = terminal("inspect", "t.mat", cwd=folder)
    assert code == 0
    assert "channels-first, transposed" in shown
    assert "not verified: convfc verify t.mat" in others["stderr"]
    (found,) = stated(Path("t.mat"))
    assert found["digest"][:12] in shown
    assert found["digest"] not in shown


@pytest.mark.slow
def test_the_command_that_is_named_proves_them(written: Path, folder: Path) -> None:
    os.rename(written, "my folder")
    done = run("inspect", "my folder").succeeded()
    command = done.err.strip().partition("not verified: ")[2]
    assert shell(command, folder).succeeded().err.endswith("3 of 3 proven\n")


def test_nothing_is_written(written: Path, folder: Path) -> None:
    before = listing(folder)
    run("inspect", written).succeeded()
    run("map", written, "-l", "a", "--entry-at", "0,0").succeeded()
    assert listing(folder) == before
