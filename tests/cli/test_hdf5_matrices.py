"""The command with HDF5: all layers of a model in one file."""

import json
import os
import resource
import signal
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import UsageError
from tests.support.cli_models import (
    LENET,
    MIXED,
    PATIENCE,
    arrays,
    large,
    listing,
    net,
    process,
    run,
    shell,
    started,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("folder")

GROUPS = ["000-node_conv2d", "001-node_conv2d_1"]


@pytest.fixture
def file(folder: Path) -> Path:
    """All layers of LeNet."""
    run("convert", LENET, "-o", "all.h5", "--no-verify").succeeded()
    return Path("all.h5")


def verified(*arguments: object) -> list[list[str]]:
    """(verdict, file, what is told) of each matrix that a run of `verify` found right."""
    return [line.split("\t") for line in run("verify", *arguments).succeeded().lines]


def changed(path: Path, place: str, at: int = 0) -> None:
    """Make another of one number in a file."""
    with h5py.File(path, "r+") as opened:
        values = opened[place][()]
        values[at] += 1
        opened[place][...] = values


def test_all_layers_go_into_one_file_whose_path_is_printed_once(folder: Path) -> None:
    done = run("convert", LENET, "-o", "all.h5").succeeded()
    assert done.lines == ["all.h5"]
    assert os.listdir() == ["all.h5"]
    assert "2 matrices, 2.9 MB, channels-first: all proven, all agree" in done.err
    with h5py.File("all.h5") as opened:
        assert list(opened) == GROUPS
        found = {name: anndata.io.read_elem(opened[name]) for name in GROUPS}
        biases = {name: opened[name]["bias"][()] for name in GROUPS}
    run("convert", LENET, "-o", "each/", "--no-verify").succeeded()
    for name in GROUPS:
        stored = arrays(Path(f"each/{name}.npz"))
        assert found[name].shape == tuple(stored["shape"])
        for part in ("data", "indices", "indptr"):
            assert getattr(found[name], part).tobytes() == stored[part].tobytes()
        assert biases[name].tobytes() == stored["bias"].tobytes()


def test_the_plan_is_close_to_what_is_written(file: Path) -> None:
    done = run("convert", LENET, "-o", "b.h5", "--json", "--no-verify").succeeded()
    matrices = json.loads(done.out)["matrices"]
    assert [matrix["file"] for matrix in matrices] == ["b.h5", "b.h5"]
    size = Path("b.h5").stat().st_size
    assert 0 <= sum(matrix["bytes"] for matrix in matrices) - size <= 2 * 8192


def test_the_other_suffix_and_a_single_layer(folder: Path) -> None:
    run("convert", LENET, "-l", "@1", "-o", "one.hdf5").succeeded()
    assert verified("one.hdf5") == [["proven", f"one.hdf5/{GROUPS[1]}", "2^-96"]]
    both = ["-l", "conv2d_1", "-l", "@0", "-o", "both.HDF5"]
    run("convert", LENET, *both).succeeded()
    assert [name for _, name, _ in verified("both.HDF5")] == [f"both.HDF5/{n}" for n in GROUPS]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csr", "dense", "operator"])
def test_every_form(folder: Path, form: str) -> None:
    run("convert", LENET, "-o", "all.h5", "--form", form).succeeded()
    assert os.listdir() == ["all.h5"]
    verdict = "consistent" if form == "operator" else "proven"
    assert [found[0] for found in verified("all.h5", "--model", LENET)] == [verdict] * 2


def test_options_reach_the_file(model: Path) -> None:
    more = ["--layout", "channels-last", "--transpose", "--dtype", "float64", "--kernel-index"]
    run("convert", model, "-o", "c.h5", *more).succeeded()
    run("convert", model, "-o", "c.npz", *more).succeeded()
    stored = arrays(Path("c.npz"))
    with h5py.File("c.h5") as opened:
        for name in ("data", "indices", "indptr", "kernel_index", "bias"):
            assert opened["000-conv"][name][()].tobytes() == stored[name].tobytes()
            assert opened["000-conv"][name].dtype == stored[name].dtype


def test_each_layer_is_reported_and_the_last_line_counts(file: Path) -> None:
    done = run("verify", file).succeeded()
    assert [line.split("\t") for line in done.lines] == [
        ["proven", f"all.h5/{name}", "2^-96"] for name in GROUPS
    ]
    assert done.err == "2 of 2 proven\n"
    found = json.loads(run("verify", "--json", file, "--model", LENET).succeeded().out)
    reports = found["matrices"]
    assert [report["layer"] for report in reports] == ["node_conv2d", "node_conv2d_1"]
    assert [(report["file"], report["group"]) for report in reports] == [
        ("all.h5", name) for name in GROUPS
    ]
    for report in reports:
        assert {"digest", "origin", "bias", "structure", "entries"} <= {
            finding["check"] for finding in report["report"]["findings"]
        }


def test_one_layer_that_is_wrong_hides_no_other(file: Path) -> None:
    changed(file, f"{GROUPS[0]}/data", 7)
    done = run("verify", file)
    assert done.code == 1
    assert [line.split("\t")[0] for line in done.lines] == ["wrong", "proven"]
    assert f"convfc: all.h5/{GROUPS[0]} is WRONG: entries: entry (" in done.err
    assert done.err.splitlines()[-1] == "1 of 2 proven"


def test_another_model_is_told_from_the_one_it_was_written_from(folder: Path) -> None:
    net(folder / "m.onnx", names=("a", "b"))
    run("convert", "m.onnx", "-o", "m.h5").succeeded()
    net(folder / "other.onnx", names=("a", "b"), change=lambda kernels: kernels[1].fill(1))
    done = run("verify", "m.h5", "--model", "other.onnx")
    assert done.code == 1
    assert [line.split("\t")[0] for line in done.lines] == ["proven", "wrong"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_standard_input(file: Path, folder: Path, way: str) -> None:
    script = {"file": "convfc verify - < all.h5", "pipe": "cat all.h5 | convfc verify"}[way]
    done = shell(script, folder)
    assert done.code == 0, done
    assert [line.split("\t")[:2] for line in done.lines] == [
        ["proven", f"standard input/{name}"] for name in GROUPS
    ]


def test_map_asks_for_the_layer(file: Path) -> None:
    text = run("map", file, "--output-at", "0,0,0").failed(2)
    assert text == "all.h5 holds 2 matrices: say which layer's (node_conv2d, node_conv2d_1)"
    assert "did you mean" in run("map", file, "-l", "node_conv2d_2", "--output-at", "0,0,0").failed(
        2
    )
    run("convert", LENET, "-l", "@1", "-o", "one.npz", "--no-verify").succeeded()
    expected = run("map", "one.npz", "--output-at", "3,2,1").succeeded().lines
    assert len(expected) == 1 + 6 * 5 * 5
    for layer in ("node_conv2d_1", "conv2d_1", "@1"):
        assert run("map", file, "-l", layer, "--output-at", "3,2,1").succeeded().lines == expected


def test_the_api_loads_and_verifies_one_of_several(file: Path) -> None:
    with pytest.raises(UsageError, match="holds 2 matrices"):
        convfc.load(file)
    operator = convfc.load(file, "conv2d_1")
    matrix = convfc.matrix(LENET, "conv2d_1")
    x = np.random.default_rng(0).standard_normal(operator.shape[1])
    np.testing.assert_allclose(operator @ x, matrix @ x, rtol=1e-5, atol=1e-5)
    report = convfc.verify(file, "conv2d_1", model=LENET)
    assert (report.ok, report.file) == (True, f"all.h5/{GROUPS[1]}")


def test_a_stream_is_an_npz_still(model: Path) -> None:
    done = run("convert", model, "-o", "-").succeeded()
    assert done.raw.startswith(b"PK\3\4")


def test_an_existing_file_is_replaced_on_demand_alone(file: Path) -> None:
    before = listing(Path())
    assert "all.h5 exists: --force replaces it" in run("convert", LENET, "-o", file).failed(2)
    assert listing(Path()) == before
    run("convert", LENET, "-o", file, "--force", "--form", "operator").succeeded()
    assert file.stat().st_size < 40_000
    run("convert", LENET, "-o", file, "--force", "--no-verify").succeeded()
    assert file.read_bytes() == before["all.h5"][1]


@pytest.mark.slow
def test_the_same_bytes_whatever_the_seed_and_the_hour(file: Path) -> None:
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
        process("convert", LENET, "-o", f"{seed}.h5", cwd=Path(), env=env).succeeded()
        assert Path(f"{seed}.h5").read_bytes() == file.read_bytes()


def test_several_layers_into_another_format_name_this_one(folder: Path) -> None:
    text = run("convert", LENET, "-o", "all.npz").failed(2)
    assert "a file that holds several, *.h5" in text


def test_keep_going_writes_the_rest_and_names_what_failed(folder: Path) -> None:
    net(folder / "m.onnx", names=("a", "b"), unsupported=("bad",))
    assert "NhwcConv" in run("convert", "m.onnx", "-o", "m.h5").failed(4)
    assert os.listdir() == ["m.onnx"]
    done = run("convert", "m.onnx", "-o", "m.h5", "--keep-going")
    assert (done.code, done.lines) == (4, ["m.h5"])
    assert "1 of 3 layers failed" in done.err
    assert [name for _, name, _ in verified("m.h5")] == ["m.h5/000-a", "m.h5/001-b"]


def test_keep_going_where_every_size_is_open(folder: Path) -> None:
    text = run("convert", MIXED, "-o", "m.h5", "--keep-going").failed(2)
    assert "none of 8 layers can be converted" in text
    assert os.listdir() == []


def test_layers_of_every_kind_in_one_file(folder: Path) -> None:
    done = run("convert", MIXED, "-o", "m.h5", "--input-shape", "x=1,1,16,16").succeeded()
    assert "8 matrices, 2.2 MB, channels-first: all proven, all agree" in done.err
    found = verified("m.h5", "--model", MIXED, "--input-shape", "x=1,1,16,16")
    assert [verdict for verdict, _, _ in found] == ["proven"] * 8


def test_what_is_no_file_of_ours(folder: Path) -> None:
    with h5py.File("plain.h5", "w") as opened:
        opened["x"] = [1]
    for command in (["verify"], ["map", "--output-at", "0,0,0"]):
        text = run(command[0], "plain.h5", *command[1:]).failed(3)
        assert "plain.h5 is HDF5, but not a matrix file that convfc writes" in text
    Path("text.h5").write_text("some text")
    assert "(edges, hdf5, mat, mtx, npy, npz, " in run("verify", "text.h5").failed(3)


def test_damage_has_the_documented_codes(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert "all.h5 is a damaged HDF5 file" in run("verify", file).failed(3)
    file.write_bytes(data + b"x")
    assert "by its own account" in run("verify", file).failed(3)
    file.write_bytes(data)
    with h5py.File(file, "r+") as opened:
        del opened[f"{GROUPS[0]}/bias"]
    assert f"all.h5/{GROUPS[0]} has no array 'bias'" in run("verify", file).failed(3)
    file.write_bytes(data)
    with h5py.File(file, "r+") as opened:
        opened["x"] = h5py.ExternalLink("other.h5", "/")
    assert "all.h5: /x is an external link" in run("verify", file).failed(5)
    file.write_bytes(data)
    with h5py.File(file, "r+") as opened:
        del opened[f"{GROUPS[0]}/kernel"]
        opened.create_dataset(f"{GROUPS[0]}/kernel", (10**12,), "f4", chunks=(10**6,))
    assert "declares 4000000000000 bytes" in run("verify", file).failed(5)


# What can happen while it is written


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 1, 100, 5000, 20_000, 500_000, 2_852_000])
def test_writing_fails_midway(folder: Path, limit: int) -> None:
    """At any byte: a file may not grow beyond `limit` here."""

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    child = started("convert", "-q", LENET, "-o", "a.h5", cwd=folder, preexec_fn=confine)
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (6, b""), err
    assert err.startswith(b"convfc: error: cannot write a.h5: ")
    assert err.count(b"\n") == 1
    assert os.listdir() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_stopped_while_writing(folder: Path, number: signal.Signals, code: int) -> None:
    large(folder / "m.onnx")
    more = ["--no-verify", "--max-bytes", "2GB"]
    child = started("convert", "m.onnx", "-o", "a.h5", *more, cwd=folder)
    wait_until(
        lambda: any(path.stat().st_size for path in folder.glob(".*.part")), "the file has begun"
    )
    child.send_signal(number)
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (code, b""), err
    assert b"Traceback" not in err
    assert os.listdir() == ["m.onnx"]
