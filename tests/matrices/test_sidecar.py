"""Operator files, the files that a model or a folder names, and what `--force` spares."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import convfc_cli as convfc
from tests.support.cli_models import net, process, run
from tests.support.hdf5_files import weights

KINDS = ("sc.mtx", "sc.npy", "sc.csv", "sc.mat")


@pytest.fixture
def other(folder: Path) -> Path:
    return net(folder / "other.onnx", seed=1)


# Operator files


@pytest.mark.slow
def test_files_of_one_stem_have_each_their_own_operator_file(model: Path, other: Path) -> None:
    for name in KINDS:
        done = run("convert", model, "-o", name).succeeded()
        assert done.lines == [name, f"{name}.operator.npz"]
    run("convert", other, "-o", "sc.npy", "--force").succeeded()
    for name in KINDS:
        origin = other if name == "sc.npy" else model
        run("verify", name, "--model", origin).succeeded()


def test_json_lists_what_lies_beside(model: Path) -> None:
    (matrix,) = json.loads(run("convert", model, "-o", "sc.mtx", "--json").out)["matrices"]
    assert (matrix["file"], matrix["beside"]) == ("sc.mtx", ["sc.mtx.operator.npz"])
    (matrix,) = json.loads(run("convert", model, "-o", "sc.npz", "--json").out)["matrices"]
    assert (matrix["file"], matrix["beside"]) == ("sc.npz", [])


@pytest.fixture(params=KINDS)
def older(request: pytest.FixtureRequest, model: Path) -> str:
    """A file with the operator file beside it as version 0.1 called it."""
    run("convert", model, "-o", request.param).succeeded()
    Path(f"{request.param}.operator.npz").rename("sc.operator.npz")
    return request.param


def test_an_operator_file_of_the_older_name_is_read(older: str, model: Path) -> None:
    run("verify", older, "--model", model).succeeded()
    run("map", older, "--entry-at", "0,0").succeeded()
    assert convfc.load(older).shape == (90, 60)


def test_an_operator_file_of_the_older_name_is_not_written_or_replaced(
    older: str, other: Path
) -> None:
    before = Path("sc.operator.npz").read_bytes()
    run("convert", other, "-o", older, "--force").succeeded()
    assert Path("sc.operator.npz").read_bytes() == before
    run(
        "verify", older, "--model", other
    ).succeeded()  # by the newer one, which is looked for first


def test_a_newer_operator_file_is_not_passed_over_for_an_older_one(older: str) -> None:
    Path(f"{older}.operator.npz").write_bytes(b"damaged")
    assert f"{older}.operator.npz" in run("verify", older).failed(3)


def test_an_operator_file_of_another_matrix_is_wrong(older: str) -> None:
    net(Path("wide.onnx"), shape=(1, 2, 7, 5))
    run("convert", "wide.onnx", "-o", "sc.operator.npz", "--form", "operator", "--force")
    done = run("verify", older)
    assert done.code == (3 if older == "sc.mat" else 1)  # of MATLAB's the length is looked at first
    told = "row 25 has not the 12 entries" if older == "sc.csv" else "sc.operator.npz"
    assert told in done.err


def test_a_folder_knows_the_operator_files_of_its_files(model: Path) -> None:
    run("convert", model, "--form", "dense", "-o", "f/").succeeded()
    assert "not in the manifest" not in run("verify", "f").succeeded().err
    Path("f/000-conv.npz.operator.npz").write_bytes(b"stray")
    assert "000-conv.npz.operator.npz is not in the manifest" in run("verify", "f").err
    Path("f/000-conv.npz.operator.npz").unlink()
    Path("f/000-conv.npy.operator.npz").rename("f/000-conv.operator.npz")
    assert "not in the manifest" not in run("verify", "f").succeeded().err


# Things of that name that are not files


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def linked_fifo(path: Path) -> None:
    os.mkfifo("elsewhere")
    path.symlink_to("elsewhere")


def directory(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


STRANGE = (fifo, device, linked_fifo, directory, dangling)
every_strange = pytest.mark.parametrize("strange", STRANGE)


@pytest.mark.slow
@every_strange
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sidecar", ["{}.operator.npz", "sc.operator.npz"])
def test_an_operator_file_that_is_no_file_is_not_waited_for(strange, name, sidecar, model) -> None:
    run("convert", model, "-o", name, "--no-verify").succeeded()
    Path(f"{name}.operator.npz").unlink()
    strange(Path(sidecar.format(name)))
    for command in (("verify", name), ("map", name, "--entry-at", "0,0")):
        assert sidecar.format(name) in run(*command).failed(3)


@pytest.mark.slow
def test_a_pipe_beside_a_matrix_does_not_stop_the_command(model: Path, folder: Path) -> None:
    run("convert", model, "-o", "sc.npy", "--no-verify").succeeded()
    Path("sc.npy.operator.npz").unlink()
    os.mkfifo("sc.npy.operator.npz")
    done = process("verify", "sc.npy", cwd=folder)  # would hang, and be stopped by its timeout
    assert "is not a regular file" in done.failed(3)


@every_strange
def test_a_manifest_that_is_no_file_is_not_waited_for(strange, model: Path) -> None:
    run("convert", model, "-o", "f/", "--no-verify").succeeded()
    Path("f/manifest.json").unlink()
    strange(Path("f/manifest.json"))
    assert "manifest.json" in run("verify", "f").failed(3)


@every_strange
def test_a_listed_file_that_is_no_file_is_not_waited_for(strange, model: Path) -> None:
    run("convert", model, "-o", "f/", "--no-verify").succeeded()
    Path("f/000-conv.npz").unlink()
    strange(Path("f/000-conv.npz"))
    assert "is missing or not" in run("verify", "f").failed(3)


@every_strange
def test_a_shard_that_is_no_file_is_not_waited_for(strange, folder: Path) -> None:
    (folder / "w.json").write_text(json.dumps({"weight_map": {"/k": "w.h5"}}))
    strange(folder / "w.h5")
    linked = strange in (device, linked_fifo, dangling)
    assert "w.h5" in run("inspect", "w.json").failed(5 if linked else 3)


@every_strange
def test_external_data_that_is_no_file_is_not_waited_for(strange, folder: Path) -> None:
    externally(net(folder / "m.onnx"))
    (folder / "w.npz").unlink()
    strange(folder / "w.npz")
    done = run("convert", "m.onnx", "-o", "c.npz")
    assert done.code in (3, 5)
    assert "error: layer conv (Conv): the external file 'w.npz' of tensor" in done.err


def externally(path: Path, location: str = "w.npz") -> Path:
    """The model with its weights in another file."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    assert (path.parent / location).exists()
    return path


# What --force does not replace


def test_the_model_is_not_replaced_under_another_name(model: Path) -> None:
    before = model.read_bytes()
    os.link(model, "hard.npz")
    Path("soft.npz").symlink_to(model.name)
    for name in ("hard.npz", "soft.npz"):
        told = run("convert", model, "-o", name, "--force").failed(2)
        assert "is the model itself" in told
    assert model.read_bytes() == before
    assert os.path.samefile("hard.npz", model)
    assert Path("soft.npz").is_symlink()


@pytest.mark.parametrize("how", ["name", "link", "symlink"])
def test_the_model_is_not_replaced_by_an_operator_file(model: Path, how: str) -> None:
    before, given = model.read_bytes(), "m.onnx"
    if how == "name":
        model.rename(given := "sc.npy.operator.npz")
    elif how == "link":
        os.link(model, "sc.npy.operator.npz")
    else:
        Path("sc.npy.operator.npz").symlink_to("m.onnx")
    told = run("convert", given, "-o", "sc.npy", "--force").failed(2)
    assert "is the model itself" in told
    assert Path(given).read_bytes() == before
    assert not Path("sc.npy").exists()


@pytest.mark.parametrize("place", ["w.npz", "sub/w.npz"])
def test_external_data_is_not_replaced(folder: Path, place: str) -> None:
    (folder / "sub").mkdir()
    externally(net(folder / "m.onnx"), place)
    before = Path(place).read_bytes()
    told = run("convert", "m.onnx", "-o", place, "--force").failed(2)
    assert "a file that it keeps weights in" in told
    assert Path(place).read_bytes() == before
    run("convert", "m.onnx", "-o", "c.npz").succeeded()


def test_external_data_of_an_inner_graph_is_not_replaced(model: Path) -> None:
    inner = onnx.helper.make_tensor("k", onnx.TensorProto.FLOAT, [1], [1.0])
    inner.ClearField("float_data")
    inner.data_location = onnx.TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="w.npz")
    made = onnx.helper.make_tensor_value_info("k", onnx.TensorProto.FLOAT, [1])
    body = onnx.helper.make_graph([], "body", [], [made], [inner])
    outer = onnx.load(model)
    branches = {"then_branch": body, "else_branch": body}
    outer.graph.node.append(onnx.helper.make_node("If", ["condition"], ["z"], **branches))
    outer.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "condition"))
    onnx.save(outer, model)
    Path("w.npz").write_bytes(b"weights")
    told = run("convert", model, "-o", "w.npz", "--force").failed(2)
    assert "a file that it keeps weights in" in told
    assert Path("w.npz").read_bytes() == b"weights"


def test_a_shard_is_not_replaced(folder: Path) -> None:
    kernel = np.ones((3, 3, 2, 4), np.float32)
    weights(folder / "w.h5", {"k": kernel})
    (folder / "w.json").write_text(json.dumps({"weight_map": {"/k": "w.h5"}}))
    before = (folder / "w.h5").read_bytes()
    described = ("--weight", "k", "--kernel-order", "hwio", "--input-shape", "1,2,8,8")
    told = run("convert", "w.json", *described, "-o", "w.h5", "--force").failed(2)
    assert "a file that it keeps weights in" in told
    assert (folder / "w.h5").read_bytes() == before


def named_model(model: Path) -> tuple[list[str], str]:
    model.rename("m.npz")
    return ["m.npz", "-o", "m.npz"], "is the model itself"


def weights_beside(model: Path) -> tuple[list[str], str]:
    externally(model, "w.npz")
    return ["m.onnx", "-o", "w.npz"], "a file that it keeps weights in"


def foreign_manifest(model: Path) -> tuple[list[str], str]:
    Path("f").mkdir()
    Path("f/manifest.json").write_text("{}")
    return ["m.onnx", "-o", "f"], "f/manifest.json is not a manifest that convfc wrote"


def folder_as_manifest(model: Path) -> tuple[list[str], str]:
    Path("f/manifest.json").mkdir(parents=True)
    return ["m.onnx", "-o", "f"], "f/manifest.json is not a manifest that convfc wrote"


def pipe_as_manifest(model: Path) -> tuple[list[str], str]:
    Path("f").mkdir()
    os.mkfifo("f/manifest.json")
    return ["m.onnx", "-o", "f"], "f/manifest.json is not a manifest that convfc wrote"


def folder_beside(model: Path) -> tuple[list[str], str]:
    Path("c.npy.operator.npz").mkdir()
    Path("c.npy").write_bytes(b"old")
    return ["m.onnx", "-o", "c.npy"], "c.npy.operator.npz is a folder: -o names another place"


def folder_after_a_file(model: Path) -> tuple[list[str], str]:
    net(model, names=("a", "b"))
    Path("f/001-b.npz").mkdir(parents=True)
    Path("f/000-a.npz").write_bytes(b"old")
    return ["m.onnx", "-o", "f"], "f/001-b.npz is a folder: -o names another place"


def pipe_in_the_way(model: Path) -> tuple[list[str], str]:
    os.mkfifo("c.npz")
    return ["m.onnx", "-o", "c.npz"], "c.npz is not a regular file: -o names another place"


@pytest.mark.parametrize(
    "prepare",
    [
        *(named_model, weights_beside, foreign_manifest, folder_as_manifest, pipe_as_manifest),
        *(folder_beside, folder_after_a_file, pipe_in_the_way),
    ],
)
def test_force_is_not_named_where_it_does_not_help(
    model: Path, prepare: Callable[[Path], tuple[list[str], str]]
) -> None:
    """The same error with --force and without."""
    arguments, reason = prepare(model)
    told = run("convert", *arguments).failed(2)
    assert reason in told
    assert "--force replaces it" not in told
    assert run("convert", *arguments, "--force").failed(2) == told


FOREIGN = [
    b'{"name": "an app", "icons": []}',
    b'{"matrices": [], "schema": "convfc-manifest/1"}',
    b'{"schema": "other", "text": "convfc-manifest/1"}',
    b'["convfc-manifest/1"]',
    b"not json",
    b"",
]


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("place", [".", "f/"])
def test_a_manifest_of_another_program_is_not_replaced(
    model: Path, content: bytes, place: str
) -> None:
    path = Path(place, "manifest.json")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    told = run("convert", model, "-o", place, "--force").failed(2)
    assert "is not a manifest that convfc wrote" in told
    assert path.read_bytes() == content
    assert not list(Path(place).glob("*.npz"))


@pytest.mark.parametrize("cut", [60, 200, 10**6])
def test_a_manifest_of_ours_is_replaced_damaged_or_not(model: Path, cut: int) -> None:
    run("convert", model, "-o", "f/").succeeded()
    path = Path("f/manifest.json")
    path.write_bytes(path.read_bytes()[:cut])
    run("convert", model, "-o", "f/", "--force").succeeded()
    run("verify", "f").succeeded()


# Manifests of strangers


def listing(folder: Path, names: list[str], size: int = 1, **more: object) -> None:
    entries = [{"file": name, "bytes": size} for name in names]
    content = {"schema": "convfc-manifest/1", "matrices": entries, **more}
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_file_that_is_listed_twice_is_proven_not_once(model: Path) -> None:
    run("convert", model, "-o", "f/", "--no-verify").succeeded()
    path = Path("f/000-conv.npz")
    for names in (["000-conv.npz"] * 2, ["a.npz", *["000-conv.npz"] * 20_000]):
        listing(path.parent, names, path.stat().st_size)
        done = run("verify", "f")
        assert "is damaged, or no manifest" in done.failed(3)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300 + ".npz", "é" * 200, "a\\u0000b"])
def test_a_name_that_no_file_can_have_is_missing(folder: Path, name: str) -> None:
    listing(folder, [name])
    told = run("verify", ".").failed(3)
    assert "is missing or not 1 bytes" in told
    assert len(told) < 500


def test_more_files_than_a_folder_has_are_refused_in_little_time(folder: Path) -> None:
    listing(folder, [f"{number}.npz" for number in range(2**16 + 1)])
    assert "is damaged, or no manifest" in run("verify", ".").failed(3)


def test_a_manifest_beyond_what_is_read_is_not_cut_short(folder: Path) -> None:
    listing(folder, ["a.npz"], more="x" * 2**24)
    assert "at most 16777216 are read" in run("verify", ".").failed(3)
