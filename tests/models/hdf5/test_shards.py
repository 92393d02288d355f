"""Sharded weights: a JSON that names its files, which lie beside it or are not opened."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput
from convfc_cli.files import opened
from convfc_cli.hdf5 import tree
from convfc_cli.hdf5.tree import Group
from convfc_cli.models.hdf5.shards import shards
from convfc_cli.models.request import WeightsSpec
from convfc_cli.models.weights_alone import candidates
from tests.support.cli_models import listing, matrix_of, process, run
from tests.support.hdf5_files import matrix, nir, node, ramp, recorded, sharded, weights

pytestmark = pytest.mark.usefixtures("folder")

KERNEL = ramp(3, 2, 3, 2)

TOLD = ["--weight", "a/vars/0", "--kernel-order", "oihw", "--input-shape", "1,2,5,4"]


def two(folder: Path) -> Path:
    """Weights in two files: kernel and bias of one layer lie in different ones."""
    weights(folder / "w_0.weights.h5", {"a/vars/0": KERNEL, "optimizer/vars/2": KERNEL})
    weights(folder / "w_1.weights.h5", {"a/vars/1": ramp(3), "b/vars/0": ramp(1, 1, 3, 2)})
    files = ["w_0.weights.h5", "w_1.weights.h5"]
    maps = {"/a/vars": files, "/b/vars": "w_1.weights.h5", "/optimizer/vars": files[:1]}
    return sharded(folder / "w.weights.json", maps)


def naming(folder: Path, name: Any) -> Path:
    return sharded(folder / "w.weights.json", {"/a/vars": name})


def test_files_are_read_as_one(folder: Path) -> None:
    path = two(folder)
    found = json.loads(run("inspect", path, "--json").succeeded().out)
    assert found["model"]["kind"] == "hdf5"
    assert [item["layer"] for item in found["layers"]] == ["a/vars/0", "b/vars/0"]
    assert "(bias: a/vars/1)" in found["layers"][0]["error"]["message"]
    assert "a/vars/1 lies beside a/vars/0" in run("convert", path, *TOLD).failed(2)
    run("convert", path, *TOLD, "--bias", "a/vars/1", "-o", "c.npz").succeeded()
    assert np.array_equal(matrix_of(Path("c.npz")), matrix(KERNEL, (5, 4))[0])
    with np.load("c.npz") as stored:
        assert np.array_equal(stored["kernel_bias"], ramp(3))
        origin = json.loads(str(stored["convfc"]))["origin"]
    assert origin["file"] == "w.weights.json"
    done = run("verify", "c.npz", "--model", path, *TOLD, "--bias", "a/vars/1").succeeded()
    assert done.lines[0].startswith("proven\t")
    told = run("convert", path, *TOLD[2:], "--weight", "b/vars/o", "-q").failed(2)
    assert "there are b/vars/0" in told


def test_a_dataset_that_two_files_hold(folder: Path) -> None:
    """As where a file of another model has been left behind: nobody can tell which is meant."""
    path = two(folder)
    with h5py.File(folder / "w_1.weights.h5", "a") as file:
        file["a/vars/0"] = KERNEL + 1
    told = "/a/vars/0 lies in two of its files"
    assert told in run("inspect", path).failed(3)
    assert told in run("convert", path, *TOLD, "--bias", "none").failed(3)


@pytest.mark.slow
def test_they_are_found_from_anywhere(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "elsewhere").mkdir()
    two(folder / "in")
    for path in ("../in/w.weights.json", folder / "in" / "w.weights.json"):
        done = process("inspect", path, cwd=folder / "elsewhere").succeeded()
        assert len(done.lines) == 3


def test_what_keras_writes(folder: Path) -> None:
    """A group maps to a file or to several, and the optimizer's arrays need four."""
    recorded("keras_weights", folder)
    found = json.loads((folder / "sharded.weights.json").read_text())["weight_map"]
    assert found["/layers/conv2d_1/vars"] == "sharded_00000.weights.h5"
    assert len(found["/optimizer/vars"]) == 4
    whole = run("inspect", "net.weights.h5").succeeded()
    assert run("inspect", "sharded.weights.json").succeeded().out == whole.out


def test_a_file_is_opened_once_however_often_it_is_named(folder: Path) -> None:
    weights(folder / "w.h5", {"k": KERNEL})
    many = {f"/{n}/vars": ["w.h5", "w.h5"] for n in range(3000)}
    path = sharded(folder / "w.weights.json", many)
    assert [entry.name for entry in convfc.read(path).entries] == ["k"]


def test_whatever_suffix_the_json_has(folder: Path) -> None:
    two(folder).rename(folder / "model")
    assert len(run("inspect", "model").succeeded().lines) == 3


def test_the_map_may_come_late(folder: Path) -> None:
    """After more metadata than a file's kind is told by."""
    weights(folder / "w.h5", {"k": KERNEL})
    content = {"metadata": {"x": "y" * 10_000}, "weight_map": {"/k": "w.h5"}}
    (folder / "w.json").write_text("\n  " + json.dumps(content))
    assert [entry.name for entry in convfc.read("w.json").entries] == ["k"]


def test_a_shard_is_weights_whatever_else_it_is(folder: Path) -> None:
    nir(folder / "g.nir", {"c": node(KERNEL, input_shape=(5, 4))})
    (entry,) = convfc.read(naming(folder, "g.nir")).entries
    assert (entry.name, entry.status) == ("node/nodes/c/weight", "weights alone")


# Names: a plain file beside the JSON, or nothing is opened

OUTSIDE = [
    "../there.h5",
    "sub/w.h5",
    "./w.h5",
    "sub/../w.h5",
    "w.h5/",
    "a\\w.h5",
    "..\\w.h5",
    "//there/w.h5",
    ".",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_what_lies_elsewhere_is_not_opened(folder: Path, name: str, command: str) -> None:
    inner = folder / "in"
    (inner / "sub").mkdir(parents=True)
    for place in (folder / "there.h5", inner / "w.h5", inner / "sub" / "w.h5", inner / "a\\w.h5"):
        weights(place, {"a/vars/0": KERNEL})
    path = naming(inner, name)
    before = listing(folder)
    for names in (name, ["w.h5", name]):
        naming(inner, names)
        before = listing(folder)
        told = run(command, path, *TOLD).failed(5)
        assert f"names {name!r}: only a file in its own folder is opened, no link" in told
        assert listing(folder) == before


def test_an_absolute_name_is_refused(folder: Path) -> None:
    there = weights(folder / "w.h5", {"a/vars/0": KERNEL})
    told = run("inspect", naming(folder, str(there))).failed(5)
    assert "only a file in its own folder is opened" in told
    assert run("inspect", naming(folder, "w.h5")).succeeded()


@pytest.mark.parametrize("target", ["real.h5", "../there.h5", "nowhere.h5", "link.h5"])
def test_a_link_is_refused_wherever_it_leads(folder: Path, target: str) -> None:
    inner = folder / "in"
    inner.mkdir()
    for place in (folder / "there.h5", inner / "real.h5"):
        weights(place, {"a/vars/0": KERNEL})
    (inner / "link.h5").symlink_to(target)
    assert "no link" in run("inspect", naming(inner, "link.h5")).failed(5)


@pytest.mark.parametrize(
    "name",
    ["w.h5", "", "..", "sub", "x" * 300, "x" * 100_000, "a\0b", "a\nb", "\ud800", "~", "CON:"],
)
def test_a_file_that_is_not_there(folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    path = naming(folder, name)
    told = run("inspect", path).failed(3)
    assert f"names {name[:200]!r}: no such file lies beside it" in told
    assert len(told) < 700


def test_a_pipe_in_the_folder_is_no_file(folder: Path) -> None:
    """Nobody waits for what never comes."""
    os.mkfifo(folder / "w.h5")
    assert "no such file lies beside it" in run("inspect", naming(folder, "w.h5")).failed(3)


def test_a_shard_that_is_no_hdf5(folder: Path) -> None:
    for content in (b"", b"\x10\0\0\0\0\0\0\0{}", b"\x89HDF\r\n\x1a\n" + bytes(100)):
        (folder / "w.h5").write_bytes(content)
        assert "w.h5 is" in run("inspect", naming(folder, "w.h5")).failed(3)
    assert "is not an HDF5 file" in run("inspect", naming(folder, "w.weights.json")).failed(3)


def test_a_shard_that_leads_out_is_refused(folder: Path) -> None:
    with h5py.File(folder / "w.h5", "w") as file:
        file["k"] = h5py.ExternalLink("there.h5", "/k")
    assert "links are not followed" in run("inspect", naming(folder, "w.h5")).failed(5)
    told = ["--weight", "../k", *TOLD[2:]]
    assert "leads out of it" in run("convert", naming(folder, "w.h5"), *told).failed(5)


# What is in the JSON


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"weight_map": {"a":', "is not a JSON of sharded weights, or a damaged one"),
        ('{"weight_map": ["w.h5"]}', "is not a JSON of sharded weights"),
        ('{"weight_map": "w.h5"}', "is not a JSON of sharded weights"),
        ('{"weight_map": null}', "is not a JSON of sharded weights"),
        ('{"weight_map": {"a": 3}}', "maps weights to '3', no file"),
        ('{"weight_map": {"a": null}}', "maps weights to 'None', no file"),
        ('{"weight_map": {"a": {"b": "w.h5"}}}', "no file"),
        ('{"weight_map": {"a": ["w.h5", 3]}}', "maps weights to '3', no file"),
        ('{"weight_map": ' + "[" * 100_000 + "}", "is not a JSON of sharded weights"),
        ('{"weight_map": {"a": ' + "9" * 10_000 + "}}", "is not a JSON of sharded weights"),
        ('{"weight_map": {"a": "w.h5"}}\xff', "is not a JSON of sharded weights"),
        ('{"other": 1}', "is a text file, not a model"),
        ('{"weights": {"weight_map": 1', "is not a JSON of sharded weights"),
        ('["weight_map"]', "is a text file, not a model"),
        ("{", "is a text file, not a model"),
        ('{"a": ' + "[" * 100_000, "is a text file, not a model"),
    ],
)
def test_json_that_is_none_of_ours(folder: Path, content: str, told: str) -> None:
    (folder / "w.json").write_bytes(content.encode("latin-1"))
    weights(folder / "w.h5", {"k": KERNEL})
    assert told in run("inspect", "w.json").failed(3)


def test_a_map_without_files(folder: Path) -> None:
    for files in ({}, {"/a/vars": []}):
        sharded(folder / "w.json", files)
        assert "w.json has no convolution" in run("inspect", "w.json").failed(2)


def test_a_map_of_too_many_files(folder: Path) -> None:
    path = sharded(folder / "w.json", {str(n): f"{n}.h5" for n in range(1001)})
    assert "names 1001 files, more than 1000" in run("inspect", path).failed(5)
    path = sharded(folder / "w.json", {str(n): f"{n}.h5" for n in range(1000)})
    assert "names '0.h5': no such file" in run("inspect", path).failed(3)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("spare", [20, 41, 44])
def test_more_files_than_may_be_open(folder: Path, spare: int) -> None:
    """Whichever is one too many: a shard, or a pipe to the child that lists them."""
    import resource

    for number in range(40):
        weights(folder / f"{number}.h5", {f"{number}": KERNEL})
    path = sharded(folder / "w.json", {"/a/vars": [f"{number}.h5" for number in range(40)]})
    assert len(run("inspect", path).succeeded().lines) == 41
    free = [os.open(path, os.O_RDONLY) for _ in range(spare)]
    for descriptor in free:
        os.close(descriptor)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, before[1]))
    try:
        told = run("inspect", path).failed(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "w.json" in told
    assert "ulimit -n" in told


@pytest.mark.slow
def test_a_map_is_read_in_linear_time(folder: Path) -> None:
    """As large as is read: a million times one file, and hundreds of thousands of files."""
    weights(folder / "w.h5", {"k": KERNEL})
    begun = time.process_time()
    path = sharded(folder / "w.json", {"/a/vars": 10**6 * ["w.h5"]})
    assert 2**22 < path.stat().st_size < 2**23
    assert [entry.name for entry in convfc.read(path).entries] == ["k"]
    path.write_text(json.dumps({"weight_map": {"a": list(map(str, range(600_000)))}}))
    assert "names 600000 files, more than 1000" in run("inspect", path).failed(5)
    assert time.process_time() - begun < 10


def test_many_files_are_looked_through_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 400 datasets may have a bias under four names in any of 41 files."""
    for number in range(40):
        names = {f"layers/c{number}_{n}/vars/0": KERNEL[:1, :1] for n in range(10)}
        weights(folder / f"{number}.h5", names)
    weights(folder / "bias.h5", {"layers/c7_3/vars/1": ramp(2)})
    files = [*(f"{number}.h5" for number in range(40)), "bias.h5"]
    with opened(sharded(folder / "w.json", {"/layers": files})) as source:
        tree = shards(source)
    lookups: list[str] = []
    actual = Group._open
    monkeypatch.setattr(
        Group, "_open", lambda self, name: lookups.append(name) or actual(self, name)
    )
    found = candidates(tree)
    assert len(lookups) < 400 * 10  # 400 * 41 at least when each file is asked
    assert len(found) == 400
    (biased,) = [entry for entry in found if "(bias: layers/c7_3/vars/1)" in str(entry.error)]
    assert biased.name == "layers/c7_3/vars/0"
    assert tree.dataset("layers/c9_3/vars/1") is None
    assert tree.dataset("layers") is None
    assert tree.dataset("layers/c7_3/vars/1/x") is None


def test_files_are_listed_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one child, and within the limits of one file."""
    asked: list[str] = []
    actual = tree.run
    monkeypatch.setattr(
        tree, "run", lambda listed, what, limits: asked.append(what) or actual(listed, what)
    )
    run("inspect", two(folder)).succeeded()
    assert asked == [f"{folder}/w.weights.json: listing what it holds"]


def test_json_too_large_to_parse(folder: Path) -> None:
    (folder / "w.json").write_text('{"weight_map": {"/a": "w.h5"}}' + " " * 2**23)
    assert f"bytes, more than {2**23}" in run("inspect", "w.json").failed(5)
    (folder / "w.json").write_text('{"other": "' + "x" * 2**23 + '"}')
    assert "is a text file, not a model" in run("inspect", "w.json").failed(3)


@pytest.mark.slow
def test_json_from_a_pipe_names_nothing(folder: Path) -> None:
    path = two(folder)
    told = "standard input names other files: give its path, not its content"
    assert told in run("inspect", "-", stdin=path.read_bytes()).failed(2)
    assert told in process("convert", "-", *TOLD, cwd=folder, stdin=path.read_bytes()).failed(2)


def test_the_api_reads_them_too(folder: Path) -> None:
    spec = WeightsSpec("a/vars/0", "oihw", bias="a/vars/1")
    found = convfc.matrix(two(folder), weights=spec, input_shape=(1, 2, 5, 4))
    assert np.array_equal(found.toarray(), matrix(KERNEL, (5, 4))[0])
    (folder / "w_1.weights.h5").unlink()
    with pytest.raises(MalformedInput, match=r"'w_1.weights.h5': no such file"):
        convfc.read("w.weights.json", weights=spec)
