"""`convfc convert`: what it writes and says, and that every option changes something."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from convfc_cli.cli.options import ShapeType, SizeType
from convfc_cli.files import opened
from convfc_cli.jobs import runtime_check
from convfc_cli.matrices.formats import mat
from convfc_cli.matrices.registry import by_suffix, formats, stored
from convfc_cli.vocabulary import FORMATS
from tests.support.cli_models import (
    LENET,
    MIXED,
    ROOT,
    Ran,
    arrays,
    listing,
    matrix_of,
    net,
    process,
    rewritten,
    run,
    shell,
    terminal,
)

SHAPE = (2, 6, 5)
"""Of the input of `net`, without the batch."""
LINEAR = ROOT / "sample_models" / "linear.onnx"

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def symbolic(folder: Path) -> Path:
    """Two layers; height and width are open."""
    return net(folder / "m.onnx", names=("first", "second"), shape=("n", 2, "h", "w"))


def converted(*arguments: object) -> Path:
    """The one file that a conversion wrote, whatever was written beside it."""
    path, *beside = run("convert", *arguments).succeeded().lines
    assert beside in ([], [f"{path}.operator.npz"])
    return Path(path)


def metadata(path: Path) -> dict:
    return json.loads(str(arrays(path)["convfc"]))


# The main job


def test_the_default_writes_every_layer_and_a_manifest(folder: Path) -> None:
    done = run("convert", LENET).succeeded()
    names = ["000-node_conv2d.npz", "001-node_conv2d_1.npz"]
    assert done.lines == [f"lenet.onnx.fc/{name}" for name in names]
    assert sorted(os.listdir("lenet.onnx.fc")) == [*names, "manifest.json"]
    assert done.err.startswith("2 matrices, 2.9 MB, channels-first: all proven, all agree with on")
    assert done.err.count("\n") == 1


def test_the_matrix_is_the_layer(model: Path) -> None:
    stored = arrays(converted(model, "-o", "c.npz"))
    matrix = matrix_of(Path("c.npz"))
    x = np.random.default_rng(1).standard_normal((1, *SHAPE)).astype(np.float32)
    (y,) = ReferenceEvaluator(str(model)).run(None, {"x": x})
    ours = np.maximum(matrix @ x.reshape(-1) + stored["bias"], 0)  # the model ends in a Relu
    np.testing.assert_allclose(ours.reshape(y.shape), y, rtol=1e-4, atol=1e-4)
    assert stored["data"].size == stored["indptr"][-1] == np.count_nonzero(matrix)


def test_the_manifest_records_each_file(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a/b", "c"))
    run("convert", path).succeeded()
    content = json.loads(Path("m.onnx.fc/manifest.json").read_text())
    assert content["schema"] == "convfc-manifest/1"
    assert content["model"]["file"] == "m.onnx"
    assert len(content["model"]["sha256"]) == 64
    assert content["failed"] == []
    assert [entry["file"] for entry in content["matrices"]] == ["000-a_b.npz", "001-c.npz"]
    for position, entry in enumerate(content["matrices"]):
        file = Path("m.onnx.fc") / entry["file"]
        assert entry["bytes"] == file.stat().st_size
        assert entry["shape"] == list(matrix_of(file).shape)
        assert entry["nonzeros"] == arrays(file)["data"].size
        assert (entry["position"], entry["output"]) == (position, f"y{position}")
        assert (entry["op"], entry["form"], entry["verified"]) == ("Conv", "csr", True)


def test_names_are_safe_and_unique_whatever_the_case(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("Conv", "conv", "../up", "é/\x1b[1m", "x" * 300))
    names = [Path(line).name for line in run("convert", path).succeeded().lines]
    assert len({name.lower() for name in names}) == 5
    assert all(name.isascii() and name.isprintable() and "/" not in name for name in names)
    assert all(len(name) < 100 and ".." not in name for name in names)
    assert {path.name for path in folder.iterdir()} == {"m.onnx", "m.onnx.fc"}


def test_a_model_from_standard_input(model: Path) -> None:
    done = run("convert", "-", stdin=model.read_bytes()).succeeded()
    assert done.lines == ["stdin.fc/000-conv.npz"]
    run("convert", model, "-o", "named.npz").succeeded()
    np.testing.assert_array_equal(matrix_of(Path(done.lines[0])), matrix_of(Path("named.npz")))


@pytest.mark.slow
def test_the_same_bytes_whatever_the_folder_the_seed_and_the_hour(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a", "b"))
    results = []
    for seed, name, given in (("1", "one", path), ("2", "two", Path("..") / "m.onnx")):
        place = folder / name
        place.mkdir()
        env = {"PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
        process("convert", given, cwd=place, env=env).succeeded()
        results.append({k: v for k, (_, v) in listing(place).items()})
    assert results[0] == results[1]
    assert len(results[0]) == 4  # the folder, two matrices, the manifest


def test_a_file_and_a_pipe_get_the_same_bytes(model: Path) -> None:
    path = converted(model, "-o", "c.npz", "--kernel-index")
    streamed = run("convert", model, "-o", "-", "--kernel-index").succeeded()
    assert streamed.raw == path.read_bytes()


# -l


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("node_conv2d", "000-node_conv2d"),
        ("node_conv2d_1", "001-node_conv2d_1"),
        ("conv2d", "000-node_conv2d"),  # an output's name, though others end in it
        ("conv2d_1", "001-node_conv2d_1"),
        ("2d_1", "001-node_conv2d_1"),
        ("@0", "000-node_conv2d"),
        ("@1", "001-node_conv2d_1"),
    ],
)
def test_a_layer_is_picked(wanted: str, name: str) -> None:
    done = run("convert", LENET, "-l", wanted, "--form", "operator").succeeded()
    assert done.lines == [f"lenet.onnx.fc/{name}.npz"]


def test_layers_are_picked_in_the_order_of_the_model(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a", "b", "c"))
    done = run("convert", path, "--layer", "c", "-l", "a", "-l", "@0").succeeded()
    assert done.lines == ["m.onnx.fc/000-a.npz", "m.onnx.fc/002-c.npz"]


def test_an_exact_name_beats_an_ending(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a/conv", "conv"))
    assert run("convert", path, "-l", "conv").succeeded().lines == ["m.onnx.fc/001-conv.npz"]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("cnov2d", "did you mean conv2d"),
        ("2d", None),  # fits node_conv2d alone: an ending
        ("nothing like it", "there are node_conv2d, node_conv2d_1, node_view"),
        ("@6", "it has 6, @0 to @5"),
        ("@x", "no layer '@x'"),
    ],
)
def test_a_layer_that_is_missed(wanted: str, told: str | None) -> None:
    done = run("convert", LENET, "-l", wanted, "--form", "operator")
    if told is None:
        assert done.succeeded().lines == ["lenet.onnx.fc/000-node_conv2d.npz"]
    else:
        assert told in done.failed(2)
        assert os.listdir() == []


def test_an_ending_of_several_names_them(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a/conv", "b/conv"))
    told = run("convert", path, "-l", "conv").failed(2)
    assert "@0 (a/conv), @1 (b/conv)" in told
    assert os.listdir() == ["m.onnx"]


# -o


def test_output_is_a_file(model: Path) -> None:
    assert run("convert", model, "-o", "here.npz").succeeded().lines == ["here.npz"]
    assert sorted(os.listdir()) == ["here.npz", "m.onnx"]


@pytest.mark.parametrize("existing", [False, True])
def test_output_is_a_folder(model: Path, existing: bool) -> None:
    if existing:
        Path("to").mkdir()
    done = run("convert", model, "-o", "to" if existing else "to/").succeeded()
    assert done.lines == ["to/000-conv.npz"]
    assert sorted(os.listdir("to")) == ["000-conv.npz", "manifest.json"]


def test_folders_above_are_made(model: Path) -> None:
    assert run("convert", model, "-o", "a/b/c/").succeeded().lines == ["a/b/c/000-conv.npz"]
    assert run("convert", model, "-o", "d/e/c.npz").succeeded().lines == ["d/e/c.npz"]


def test_the_suffix_picks_the_format(model: Path) -> None:
    assert run("convert", model, "-o", "c.npy").succeeded().lines == [
        "c.npy",
        "c.npy.operator.npz",
    ]
    run("convert", model, "-o", "c.NPZ").succeeded()
    np.testing.assert_array_equal(np.load("c.npy"), matrix_of(Path("c.NPZ")))
    assert "data" not in arrays(Path("c.npy.operator.npz"))
    assert "c.txt: its suffix names no matrix format" in run(
        "convert", model, "-o", "c.txt"
    ).failed(2)


def test_several_layers_do_not_fit_into_a_file() -> None:
    told = run("convert", LENET, "-o", "all.npz").failed(2)
    assert "2 layers do not fit into one file all.npz" in told
    assert "-l @0" in told
    assert "one layer, not 2" in run("convert", LENET, "-o", "-").failed(2)
    assert os.listdir() == []


@pytest.mark.slow
def test_a_stream_is_verified_at_the_other_end(model: Path, folder: Path) -> None:
    done = shell("convfc convert m.onnx -o - | convfc verify -; echo ${PIPESTATUS[@]}", folder)
    assert done.lines == ["proven\tstandard input\t2^-96", "0 0"]
    assert "not verified" in done.err
    assert "1 of 1 proven" in done.err
    assert listing(folder).keys() == {"m.onnx"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--json"], "--json and -o - both want standard output"),
        (["--form", "dense"], "the metadata of a .npy are in another beside it"),
        (["--format", "mat"], "the metadata of a .mat are in another beside it"),
    ],
)
def test_what_a_stream_cannot_carry(model: Path, more: list[str], told: str) -> None:
    assert told in run("convert", model, "-o", "-", *more).failed(2)


# The format of each file in a folder


@pytest.fixture
def two(folder: Path) -> Path:
    """A model of two layers, and one that is not read."""
    return net(folder / "two.onnx", names=("a", "b"), unsupported=("no",))


def test_the_formats_are_those_of_the_registry() -> None:
    assert {f".{name}" for name in FORMATS} == {kind.suffixes[0] for kind in formats().values()}


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_model_in_one_format(two: Path, name: str) -> None:
    form = "dense" if name == "npy" else "csr"
    kind = by_suffix(Path(f"m.{name}"), form)
    arguments = [two, "-l", "a", "-l", "b", "--format", name, "-o", "to/"]
    done = run("convert", *arguments).succeeded()
    matrices = [Path("to") / f"{stem}.{name}" for stem in ("000-a", "001-b")]
    assert done.lines == [str(path) for one in matrices for path in (one, *kind.sidecar(one))]
    _, second = json.loads(Path("to/manifest.json").read_text())["matrices"]
    assert (second["file"], second["form"]) == (f"001-b.{name}", form)
    assert run("verify", "to", "--model", two).succeeded().err == "2 of 2 proven\n"
    for path in matrices:
        with opened(path) as source:
            assert kind.recognizes(source)
            (matrix,) = stored(source)
            assert matrix.matrix.form == form
    before = {path.name: path.read_bytes() for path in Path("to").iterdir()}
    assert "exists" in run("convert", *arguments).failed(2)
    run("convert", *arguments, "--force").succeeded()
    assert {path.name: path.read_bytes() for path in Path("to").iterdir()} == before


def test_keep_going_in_another_format(two: Path) -> None:
    done = run("convert", two, "--format", "mtx", "-o", "to/", "--keep-going")
    assert (done.code, len(done.lines)) == (4, 4)
    (failed,) = json.loads(Path("to/manifest.json").read_text())["failed"]
    assert failed["layer"] == "no"
    run("verify", "to").succeeded()


def test_a_layer_too_large_for_a_format_does_not_keep_the_others(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mat, "MAX_BYTES", 20_000)
    arguments = [two, "-l", "a", "-l", "b", "--format", "mat", "-o", "to/"]
    assert run("convert", *arguments).failed(5).startswith("layer b (Conv): a variable of a .mat")
    done = run("convert", *arguments, "--keep-going")
    assert (done.code, done.lines) == (5, ["to/000-a.mat", "to/000-a.mat.operator.npz"])
    assert "take *.npz or *.h5" in done.err


def test_a_value_that_a_format_has_not_does_not_keep_the_others(folder: Path) -> None:
    def signalling(kernels: list[Any]) -> None:
        kernels[0].view(np.uint32)[0, 0, 1, 1] = 0x7F800001

    path = net(folder / "nan.onnx", names=("a", "b"), change=signalling)
    arguments = [path, "--format", "mat", "-o", "to/"]
    assert "layer a (Conv): a weight is a signalling NaN" in run("convert", *arguments).err
    assert not Path("to").exists()
    done = run("convert", *arguments, "--keep-going")
    assert (done.code, done.lines) == (4, ["to/001-b.mat", "to/001-b.mat.operator.npz"])
    (failed,) = json.loads(Path("to/manifest.json").read_text())["failed"]
    assert (failed["layer"], failed["exit_code"]) == ("a", 4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "c.npz", "--format", "mat"], "c.npz: its suffix picks the format, and is not .mat"),
        (["-o", "c.mtx", "--format", "npz"], "c.mtx: its suffix picks the format, and is not .npz"),
        (["--format", "mat", "--form", "dense"], "does not hold the form dense: take *.npy"),
        (["--format", "mat", "--kernel-index"], "no room for a kernel_index: take *.h5 or *.npz"),
        (["--format", "zip"], "'zip' is not one of 'npz', 'h5', 'mtx', 'mat', 'csv', 'npy'"),
    ],
)
def test_a_format_that_does_not_fit(model: Path, arguments: list[str], told: str) -> None:
    assert told in run("convert", model, *arguments).failed(2)
    assert os.listdir() == ["m.onnx"]


def test_a_format_that_a_file_has_anyway(model: Path) -> None:
    run("convert", model, "-o", "c.mtx", "--format", "mtx").succeeded()
    run("convert", model, "-o", "c.hdf5", "--format", "h5").succeeded()
    run("convert", model, "-o", "c.npz", "--format", "npz", "--form", "coo").succeeded()
    run("verify", "c.mtx", "c.hdf5", "c.npz").succeeded()


@pytest.mark.parametrize(
    ("more", "suffix"), [([], "h5"), (["--form", "dense"], "h5"), (["--form", "coo"], "npz")]
)
def test_a_stream_in_another_format(model: Path, more: list[str], suffix: str) -> None:
    piped = run("convert", model, "--format", suffix, *more, "-o", "-").succeeded()
    run("convert", model, *more, "-o", f"c.{suffix}").succeeded()
    assert piped.raw == Path(f"c.{suffix}").read_bytes()
    assert "proven" in run("verify", "-", stdin=piped.raw).succeeded().out


# What to make of a layer


def test_form(model: Path) -> None:
    sizes = {}
    for form in ("csr", "operator"):
        path = converted(model, "-o", f"{form}.npz", "--form", form)
        assert metadata(path)["form"] == form
        assert ("data" in arrays(path)) == (form == "csr")
        sizes[form] = path.stat().st_size
    assert sizes["operator"] < sizes["csr"]
    path = converted(model, "--form", "dense")
    assert path == Path("m.onnx.fc/000-conv.npy")
    np.testing.assert_array_equal(np.load(path), matrix_of(Path("csr.npz")))
    assert sorted(os.listdir("m.onnx.fc")) == [
        "000-conv.npy",
        "000-conv.npy.operator.npz",
        "manifest.json",
    ]


@pytest.mark.parametrize(
    ("form", "name", "fits"), [("dense", "c.npz", "*.npy"), ("operator", "c.npy", "*.npz")]
)
def test_a_form_that_a_format_does_not_hold(model: Path, form: str, name: str, fits: str) -> None:
    assert f"take {fits}" in run("convert", model, "--form", form, "-o", name).failed(2)
    assert os.listdir() == ["m.onnx"]


@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "fortran"])
def test_layout(model: Path, layout: str) -> None:
    plain = matrix_of(converted(model, "-o", "plain.npz"))
    path = converted(model, "-o", "c.npz", "--layout", layout)
    orders = {
        "channels-first": lambda place: place,
        "channels-last": lambda place: place.transpose(1, 2, 0),
        "fortran": lambda place: place.transpose(2, 1, 0),
    }
    rows = orders[layout](np.arange(len(plain)).reshape(3, *SHAPE[1:])).reshape(-1)
    columns = orders[layout](np.arange(plain.shape[1]).reshape(SHAPE)).reshape(-1)
    np.testing.assert_array_equal(matrix_of(path), plain[np.ix_(rows, columns)])
    np.testing.assert_array_equal(
        arrays(path)["bias"], arrays(Path("plain.npz"))["bias"][rows], strict=True
    )
    assert metadata(path)["layout"]["order"] == layout


def test_transpose(model: Path) -> None:
    plain = matrix_of(converted(model, "-o", "plain.npz"))
    path = converted(model, "-o", "t.npz", "--transpose")
    assert plain.shape == (90, 60)
    np.testing.assert_array_equal(matrix_of(path), plain.T)
    np.testing.assert_array_equal(arrays(path)["bias"], arrays(Path("plain.npz"))["bias"])
    assert metadata(path)["layout"]["transpose"] is True


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        (np.float32, None, np.float32),
        (np.float64, None, np.float64),
        (np.float16, None, np.float32),
        (np.float32, "float64", np.float64),
        (np.float64, "float32", np.float32),
    ],
)
def test_dtype(folder: Path, stored: type, asked: str | None, expected: type) -> None:
    path = net(folder / "m.onnx", dtype=stored)
    more = [] if asked is None else ["--dtype", asked]
    found = arrays(converted(path, "-o", "c.npz", *more))
    assert {found[name].dtype for name in ("data", "bias", "kernel")} == {np.dtype(expected)}
    wide = arrays(converted(path, "-o", "w.npz", "--dtype", "float64"))
    np.testing.assert_array_equal(found["data"], wide["data"].astype(expected))


@pytest.mark.parametrize("output", ["m/", "c.h5", "c.mtx"])
def test_a_dry_run_says_what_would_be_written(folder: Path, output: str) -> None:
    path = net(folder / "m.onnx", names=("a", "b") if output != "c.mtx" else ("a",))
    options = ("convert", path, "-o", output)
    planned = run(*options, "--dry-run").succeeded()
    assert "at most" in planned.err
    assert planned.err.endswith("nothing is written\n")
    told = json.loads(run(*options, "--dry-run", "--json").succeeded().out)
    assert os.listdir() == ["m.onnx"]
    done = json.loads(run(*options, "--json").succeeded().out)
    assert planned.out == run(*options, "--force").succeeded().out
    for before, after in zip(told["matrices"], done["matrices"], strict=True):
        assert before["bytes"] >= after["bytes"]
        later = {"bytes", "verdict", "report"}
        assert {k: v for k, v in before.items() if k not in later} == {
            k: v for k, v in after.items() if k not in later
        }
        assert before["verdict"] == "planned"
    assert "exists: " in run(*options, "--dry-run").failed(2)
    assert "--dry-run and -0 mean nothing with -o -" in run(
        "convert", path, "-o", "-", "--dry-run"
    ).failed(2)


def test_paths_that_end_in_nul(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a", "b"))
    done = run("convert", path, "-0", "-o", "two lines\n/").succeeded()
    assert done.out == "two lines\n/000-a.npz\0two lines\n/001-b.npz\0"
    done = run("convert", path, "--print0", "-l", "a", "-o", "c.mtx").succeeded()
    assert done.out == "c.mtx\0c.mtx.operator.npz\0"


def test_kernel_index(model: Path) -> None:
    found = arrays(converted(model, "-o", "c.npz", "--kernel-index"))
    np.testing.assert_array_equal(found["kernel"].reshape(-1)[found["kernel_index"]], found["data"])
    assert "kernel_index" not in arrays(converted(model, "-o", "plain.npz"))
    told = run("convert", model, "--kernel-index", "--form", "operator").failed(2)
    assert "a kernel_index needs each nonzero stored by itself" in told


@pytest.mark.parametrize("option", ["--dequantize", "--fold-bn"])
def test_an_option_that_changes_nothing_is_warned_of(model: Path, option: str) -> None:
    done = run("convert", model, option, "-o", "c.npz").succeeded()
    assert f"warning: {option} changes nothing" in done.err
    assert "warning" not in run("convert", model, option, "-o", "d.npz", "-q").succeeded().err
    assert Path("c.npz").read_bytes() == converted(model, "-o", "e.npz").read_bytes()


def test_an_option_that_changes_a_layer_is_not(folder: Path) -> None:
    done = run("convert", LINEAR, "-l", "conv", "--fold-bn", "-o", "c.npz").succeeded()
    assert "warning" not in done.err


def test_only_convolutions_are_flipped(folder: Path) -> None:
    told = run("convert", LINEAR, "-l", "fc", "--flip-kernel", "-o", "f.npz").failed(2)
    assert "layer fc (Gemm) is not a convolution: it has no kernel to flip" in told
    run("convert", LINEAR, "-l", "fc", "--no-flip-kernel", "-o", "f.npz").succeeded()
    assert metadata(Path("f.npz"))["origin"]["flipped"] is False
    record = metadata(Path("f.npz"))
    record["origin"]["flipped"] = True
    rewritten(Path("f.npz"), Path("g.npz"), convfc=np.array(json.dumps(record)))
    done = run("verify", "g.npz", "--model", LINEAR)
    assert done.code == 1
    assert "is not a convolution: it has no kernel to flip" in done.err


def test_flip_kernel(folder: Path) -> None:
    path, turned = net(folder / "m.onnx"), net(folder / "t.onnx", flipped=True)
    flipped = converted(path, "-o", "f.npz", "--flip-kernel")
    np.testing.assert_array_equal(
        matrix_of(flipped), matrix_of(converted(turned, "-o", "turned.npz"))
    )
    assert not np.array_equal(matrix_of(flipped), matrix_of(converted(path, "-o", "plain.npz")))
    run("verify", flipped, "--model", path).succeeded()


# Limits, and what is in the way


@pytest.mark.parametrize("size", ["500MB", "8GiB", "100000", "0.1MB", "100 kB"])
def test_max_bytes_allows(model: Path, size: str) -> None:
    assert run("convert", model, "--max-bytes", size).succeeded().lines


@pytest.mark.parametrize("size", ["0", "1kB", "1 KiB", "2000"])
def test_max_bytes_refuses(model: Path, size: str) -> None:
    told = run("convert", model, "--max-bytes", size).failed(5)
    assert "@0 conv" in told
    assert "above the ceiling" in told
    assert os.listdir() == ["m.onnx"]
    way = told.split("--max-bytes ")[1].split()[0]
    assert run("convert", model, "--max-bytes", way).succeeded().lines


@pytest.mark.parametrize("size", ["", "much", "-1", "1e999", "5QB", "8 GiB please"])
def test_max_bytes_that_is_no_size(model: Path, size: str) -> None:
    assert "is not a size" in run("convert", model, "--max-bytes", size).failed(2)
    assert os.listdir() == ["m.onnx"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500000000", 5 * 10**8),
        ("500MB", 5 * 10**8),
        ("500M", 5 * 10**8),
        ("8GiB", 2**33),
        ("8Gi", 2**33),
        ("1.5 GB", 15 * 10**8),
        ("2TiB", 2**41),
        ("3kB", 3000),
        ("3KiB", 3072),
        ("7B", 7),
        ("20gb", 20 * 10**9),
        ("2tib", 2**41),
        ("1e9", 10**9),
        ("1.5E+3", 1500),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert SizeType().convert(text, None, None) == size


def test_force_replaces_and_nothing_else_does(model: Path, folder: Path) -> None:
    for output in ("c.npz", "c.npy", "to/"):
        run("convert", model, "-o", output).succeeded()
        before = listing(folder)
        told = run("convert", model, "-o", output).failed(2)
        assert "--force replaces" in told
        assert listing(folder) == before
        run("convert", model, "-o", output, "--force", "--dtype", "float64").succeeded()
        assert listing(folder).keys() == before.keys()
        assert {k: v for k, v in listing(folder).items() if "c.n" in k} != before
    run("verify", "to", "c.npz", "c.npy").succeeded()


def test_force_does_not_replace_a_folder(model: Path) -> None:
    Path("to/000-conv.npz").mkdir(parents=True)
    assert "is a folder" in run("convert", model, "-o", "to/", "--force").failed(2)
    assert os.listdir("to") == ["000-conv.npz"]


def test_keep_going_converts_the_rest_and_names_what_failed(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a", "b"), unsupported=("bad",))
    before = listing(folder)
    told = run("convert", path).failed(4)
    assert "bad" in told
    assert "NhwcConv" in told
    assert listing(folder) == before
    done = run("convert", path, "--keep-going")
    assert done.code == 4
    assert done.lines == ["m.onnx.fc/000-a.npz", "m.onnx.fc/001-b.npz"]
    assert "convfc: error: layer bad" in done.err or "convfc: error: bad" in done.err
    assert "1 of 3 layers failed" in done.err
    (failed,) = json.loads(Path("m.onnx.fc/manifest.json").read_text())["failed"]
    assert failed["layer"] == "bad"
    assert "channels last" in failed["reason"]
    run("verify", "m.onnx.fc").succeeded()


def test_keep_going_with_nothing_left_names_every_failure(folder: Path) -> None:
    path = net(folder / "m.onnx", unsupported=("bad", "worse"))
    done = run("convert", path, "--keep-going", "-l", "bad", "-l", "worse")
    assert (done.code, done.out) == (4, "")
    assert "bad" in done.err
    assert "worse" in done.err
    assert os.listdir() == ["m.onnx"]


def unloadable(path: Path) -> Path:
    """Two layers that are listed as ready and fail when they are loaded: in the first the bias has
    too many values (3), in the second the weights cannot be folded within the budget (5).
    """
    model = onnx.load(net(path, names=("bad", "large")))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(5, np.float32), "b0"))
    (kernel,) = (tensor for tensor in model.graph.initializer if tensor.name == "w1")
    kernel.name = "w"
    repeats = numpy_helper.from_array(np.array([1, 10**8, 1, 1]), "repeats")
    slices = [
        numpy_helper.from_array(np.array([number]), name)
        for name, number in (("from", 0), ("to", 3), ("axis", 1))
    ]
    model.graph.initializer.extend([repeats, *slices])
    computed = [
        helper.make_node("Tile", ["w", "repeats"], ["tiled"]),
        helper.make_node("Slice", ["tiled", "from", "to", "axis"], ["w1"]),
    ]
    nodes = [*computed, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("layers", "code", "names"),
    [(["@0"], 3, {"bad"}), (["@1"], 5, {"large"}), (["@1", "@0"], 3, {"bad", "large"})],
)
@pytest.mark.parametrize("output", ["to/", "a/b/c/", "all.h5"])
def test_keep_going_where_no_layer_can_be_loaded(
    folder: Path, layers: list[str], code: int, names: set[str], output: str
) -> None:
    path = unloadable(folder / "m.onnx")
    chosen = [word for layer in layers for word in ("-l", layer)]
    done = run("convert", path, "--keep-going", "-o", output, *chosen)
    assert (done.code, done.out) == (code, ""), done
    errors = [line for line in done.err.splitlines() if line.startswith("convfc: error: ")]
    assert {line.split()[3] for line in errors} == names
    assert f"{len(names)} of {len(names)} layers failed" in done.err
    assert os.listdir() == ["m.onnx"]


def test_keep_going_leaves_a_folder_that_was_there_as_it_was(folder: Path) -> None:
    path = unloadable(folder / "m.onnx")
    run("convert", net(folder / "good.onnx"), "-o", "to/").succeeded()
    before = listing(folder / "to")
    assert run("convert", path, "--keep-going", "--force", "-o", "to/").code == 3
    assert listing(folder / "to") == before


def test_where_no_layer_can_be_planned_the_gravest_failure_counts(folder: Path) -> None:
    """One needs a size (2), one is not read (4), one contradicts itself (3)."""
    path = net(folder / "m.onnx", names=("a", "b"), shape=(1, 2, "h", "w"), unsupported=("c",))
    model = onnx.load(path)
    (second,) = (node for node in model.graph.node if node.name == "b")
    second.attribute[0].ints[:] = [1, 1, 1]
    onnx.save(model, path)
    done = run("convert", path, "--keep-going")
    assert "none of 3 layers can be converted" in done.failed(3)
    assert os.listdir() == ["m.onnx"]


def test_keep_going_over_layers_that_need_a_size(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a",), shape=(1, 2, "h", "w"))
    done = run("convert", path, "--keep-going")
    assert done.code == 2
    assert os.listdir() == ["m.onnx"]


# Whether it is proven, and how that is told


def test_no_verify(model: Path) -> None:
    done = run("convert", model, "--no-verify").succeeded()
    assert "not verified" in done.err
    assert "proven" not in done.err
    content = json.loads(Path("m.onnx.fc/manifest.json").read_text())
    assert content["matrices"][0]["verified"] is False
    plain = run("convert", model, "-o", "c.npz").succeeded()
    assert "proven" in plain.err
    assert Path("c.npz").read_bytes() == Path(done.lines[0]).read_bytes()


def test_the_original_node_is_run(model: Path) -> None:
    done = run("convert", model, "--json").succeeded()
    (matrix,) = json.loads(done.out)["matrices"]
    checks = {finding["check"]: finding for finding in matrix["report"]["findings"]}
    assert {"digest", "origin", "bias", "structure", "entries", "runtime"} <= set(checks)
    assert "the original node, run by on" in checks["runtime"]["detail"]
    assert matrix["verdict"] == "proven"


def test_equal_results_are_each_told(folder: Path) -> None:
    """Kernels of zeros: every layer is its bias, so that the reports have the same text."""

    def blank(weights: list[Any]) -> None:
        weights[:] = [0 * kernel for kernel in weights]

    path = net(folder / "m.onnx", names=("a", "b"), change=blank)
    told = " ".join(run("convert", path, "-v").succeeded().err.split())
    assert told.count("runtime ok the original node, run by ") == 2
    assert "all agree with" in told


def test_why_no_original_node_is_run_is_told_once_with_the_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = net(folder / "m.onnx", names=("a", "b", "c"))
    reasons = iter(["reason one", "reason one", "reason two"])
    monkeypatch.setattr(
        runtime_check, "runtime_results", lambda runnable, random: iter([next(reasons)])
    )
    assert run("convert", path).succeeded().err.splitlines() == [
        "note (2 layers): the original node was not run: reason one",
        "note (c): the original node was not run: reason two",
        "3 matrices, 62.7 kB, channels-first: all proven",
    ]


def test_json(folder: Path) -> None:
    path = net(folder / "m.onnx", names=("a", "b"), unsupported=("bad",))
    done = run("convert", path, "--json", "--keep-going", "--no-verify")
    assert done.code == 4
    content = json.loads(done.out)
    assert [entry["file"] for entry in content["matrices"]] == [
        "m.onnx.fc/000-a.npz",
        "m.onnx.fc/001-b.npz",
    ]
    assert [entry["report"] for entry in content["matrices"]] == [None, None]
    assert content["matrices"][0]["shape"] == [90, 60]
    assert content["matrices"][0]["bytes"] == Path("m.onnx.fc/000-a.npz").stat().st_size
    (failed,) = content["failed"]
    assert (failed["layer"], failed["error"]["exit_code"]) == ("bad", 4)
    assert len(content["model"]["sha256"]) == 64


def test_quiet(model: Path) -> None:
    loud = run("convert", model, "-o", "a.npz").succeeded()
    quiet = run("convert", model, "-q", "-o", "b.npz").succeeded()
    assert loud.err
    assert quiet == Ran(0, b"b.npz\n", "")
    streamed = run("convert", model, "--quiet", "-o", "-").succeeded()
    assert (streamed.err, streamed.raw) == ("", Path("b.npz").read_bytes())
    assert "exists" in run("convert", model, "-q", "-o", "b.npz").failed(2)


# --input-shape


@pytest.mark.parametrize(
    "given",
    [
        "x=1,2,6,5",
        "x:1,2,6,5",
        "x=[1,2,6,5]",
        "x:[1,2,6,5]",
        "x=[1, 2, 6, 5]",
        "1,2,6,5",
        "[1,2,6,5]",
    ],
)
def test_input_shape_in_its_spellings(symbolic: Path, given: str) -> None:
    done = run("convert", symbolic, "--input-shape", given).succeeded()
    assert len(done.lines) == 2
    assert matrix_of(Path(done.lines[0])).shape == (90, 60)


@pytest.mark.parametrize("tensor", ["in=put", "input:0", "a:b=c"])
def test_input_shape_is_split_at_the_last_sign(folder: Path, tensor: str) -> None:
    path = net(folder / "m.onnx", shape=(1, 2, "h", "w"), tensor=tensor)
    for sign in "=:":
        path_out = converted(
            path, "-o", "c.npz", "--force", "--input-shape", f"{tensor}{sign}1,2,4,4"
        )
        assert matrix_of(path_out).shape == (48, 32)


def test_input_shape_of_an_inner_tensor(symbolic: Path) -> None:
    path = converted(symbolic, "-l", "second", "-o", "c.npz", "--input-shape", "z0=1,3,4,4")
    assert matrix_of(path).shape == (48, 48)


def test_input_shape_of_the_one_layer(symbolic: Path) -> None:
    """Without a name and with one -l, what does not fit the model's input is the layer's own."""
    path = converted(symbolic, "-l", "second", "-o", "c.npz", "--input-shape", "1,3,4,4")
    assert matrix_of(path).shape == (48, 48)
    path = converted(LENET, "-l", "@1", "-o", "d.npz", "--input-shape", "1,6,14,14")
    assert matrix_of(path).shape == (16 * 10 * 10, 6 * 14 * 14)
    other = ["-l", "@1", "-o", "e.npz", "--input-shape", "1,6,8,8"]
    told = run("convert", LENET, *other).failed(2)
    assert "6,8,8 by the given shape, 6,14,14 by the model" in told


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (LENET, ["--input-shape", "1,1,14,14"]),
        (LENET, ["--input-shape", "conv2d_1=1,16,5,5"]),
        (LENET, ["-l", "@1", "--input-shape", "1,6,8,8"]),
        (ROOT / "sample_models" / "digits_keras3.keras", ["--input-shape", "1,14,14,1"]),
    ],
)
def test_another_size_than_the_models_own_is_refused_with_the_way_to_it(
    model: Path, more: list[str]
) -> None:
    told = run("convert", model, *more).failed(2)
    assert "by the given shape, " in told
    assert told.endswith(
        ": without --input-shape the model's own size is taken; another takes a model that is "
        "exported with that size, or leaves it open"
    )
    assert os.listdir() == []


def test_input_shape_twice(symbolic: Path) -> None:
    twice = ["--input-shape", "x=1,2,6,5", "--input-shape", "x=1,2,6,6"]
    assert "twice" in run("convert", symbolic, *twice).failed(2)
    several = ["--input-shape", "x=1,2,6,5", "--input-shape", "z0=1,3,6,5"]
    assert len(run("convert", symbolic, *several).succeeded().lines) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("x=1,2,6", "x' is 1,2,6 by the given shape, ?,2,?,? by its declaration as an input"),
        ("x=1,5,6,5", "1,5,6,5 by the given shape, ?,2,?,? by its declaration"),
        ("x=1,2,0,5", "below 1"),
        ("x=1,2,-6,5", "not a shape"),
        ("x=", "not a shape"),
        ("x=1;2;6;5", "not a shape"),
        ("", "not a shape"),
        ("nosuch=1,2,6,5", "nosuch"),
    ],
)
def test_input_shape_that_does_not_fit(symbolic: Path, given: str, told: str) -> None:
    for command in ("convert", "inspect"):
        assert told in run(command, symbolic, "--input-shape", given).failed(2)
    assert os.listdir() == ["m.onnx"]


def test_input_shape_that_the_one_layer_cannot_take(symbolic: Path) -> None:
    """The model is sound, the request is not: usage, and the layer is named."""
    told = run("convert", symbolic, "-l", "second", "--input-shape", "1,7,4,4").failed(2)
    assert "second" in told


def test_a_name_that_no_tensor_has_is_not_passed_over() -> None:
    told = run("convert", LENET, "--input-shape", "nosuch=1,1,9,9", "--form", "operator").failed(2)
    assert "nosuch" in told


@pytest.mark.parametrize(
    ("text", "shape"),
    [("x=1,2", ("x", (1, 2))), ("a=b:[3]", ("a=b", (3,))), ("4,5", (None, (4, 5)))],
)
def test_shapes(text: str, shape: tuple[str | None, tuple[int, ...]]) -> None:
    assert ShapeType().convert(text, None, None) == shape
    with pytest.raises(click.BadParameter, match="not a shape"):
        ShapeType().convert(f"{text},", None, None)


def test_a_whole_network_with_open_sizes() -> None:
    arguments = ["--input-shape", "1,1,8,8", "--json"]
    content = json.loads(run("convert", MIXED, *arguments).succeeded().out)
    assert len(content["matrices"]) == 8
    assert all(entry["verdict"] == "proven" for entry in content["matrices"])


def test_an_operator_file_is_held_to_its_model_in_little_memory(folder: Path) -> None:
    """Its bias is one number an output channel, each of which has a million outputs here."""
    large = net(Path("large.onnx"), shape=(1, 2, 1000, 1000))
    run("convert", large, "--form", "operator", "-o", "large.npz", "--no-verify").succeeded()
    tracemalloc.start()
    try:
        run("verify", "large.npz", "--model", large).succeeded()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_paths_are_printed_as_they_are_in_a_pipe_and_harmless_on_a_terminal(folder: Path) -> None:
    """Those of the default folder have the model's name, which may come from anyone."""
    evil = net(Path("\x1b[2Ja\n.onnx"))
    assert run("convert", evil).succeeded().out == f"{evil}.fc/000-conv.npz\n"
    code, shown, _ = terminal("convert", evil, "--force", cwd=folder)
    assert code == 0
    folder_line, matrix_line = shown.splitlines()
    assert folder_line == "\N{REPLACEMENT CHARACTER}[2Ja\N{REPLACEMENT CHARACTER}.onnx.fc/"
    assert matrix_line.startswith("  000-conv.npz  ")
