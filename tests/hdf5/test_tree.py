"""An untrusted HDF5 file: its signature, its groups, and the links that are followed."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5g

from convfc_cli.errors import MalformedInput, Refused
from convfc_cli.files import opened
from convfc_cli.hdf5 import survey
from convfc_cli.hdf5 import tree as trees
from convfc_cli.hdf5.tree import Dataset, Group, is_hdf5, open_tree
from tests.support.hdf5_trees import NAME, hold, the_dataset, tree
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("folder")


# What it is


@pytest.mark.parametrize("block", [0, 512, 1024, 4096])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_file_is_told_by_its_signature(block: int, version: str) -> None:
    values = np.arange(1000.0)

    def fill(file: h5py.File) -> None:
        file["whole"] = values
        file.create_dataset("chunks", data=values, chunks=(33,), compression="gzip")
        file.attrs["texts"] = ["a", "b"]

    root = tree(fill, userblock_size=block, libver=version)
    with opened(NAME) as source:
        assert is_hdf5(source)
    assert [dataset.read().tolist() for dataset in root.walk()] == 2 * [values.tolist()]
    assert root.attribute("texts") == ["a", "b"]


@pytest.mark.parametrize("raw", [b"x", b"\x89HDF\r\n\x1a", b"PK" * 9999, b" \x89HDF\r\n\x1a\n"])
def test_other_files_are_not_hdf5(raw: bytes) -> None:
    Path(NAME).write_bytes(raw)
    with opened(NAME) as source:
        assert not is_hdf5(source)
        with pytest.raises(MalformedInput, match=r"file\.h5 is not an HDF5 file"):
            open_tree(source)


def test_h5py_is_imported_late_and_without_plugins() -> None:
    with h5py.File(NAME, "w"):
        pass
    script = """if True:
        import os, sys
        from convfc_cli.files import opened
        from convfc_cli.hdf5.tree import open_tree
        assert "h5py" not in sys.modules
        with opened("file.h5") as source:
            open_tree(source)
        assert "h5py" in sys.modules
        assert os.environ["HDF5_PLUGIN_PRELOAD"] == "::"
    """
    environment = os.environ | {
        "HDF5_PLUGIN_PRELOAD": "",
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.slow
def test_the_tree_outlives_the_input_and_leaves_nothing_open() -> None:
    descriptors = Path("/proc/self/fd")
    gc.collect()
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    found = the_dataset(hold(data=[1, 2]))
    assert found.read().tolist() == [1, 2]
    del found
    gc.collect()
    if before:
        assert len(list(descriptors.iterdir())) == before
    Path(NAME).write_bytes(trees.SIGNATURE + bytes(100))
    for _ in range(3):
        with pytest.raises(MalformedInput):
            tree()
    gc.collect()
    if before:
        assert len(list(descriptors.iterdir())) == before


def test_the_position_of_the_input_is_left_alone() -> None:
    the_dataset(hold(data=[1, 2]))
    with opened(NAME) as source:
        source.file.seek(5)
        root = open_tree(source)
        list(root.walk())
        assert source.file.tell() == 5


# Groups


def branches(file: h5py.File) -> None:
    file["b/two"] = [2]
    file["b/one"] = [1]
    file["a"] = [0]
    file["c/d/deep"] = [3]
    file.create_group("empty")


def test_names_paths_and_kinds() -> None:
    root = tree(branches)
    assert root.path == "/"
    assert root.names() == ["a", "b", "c", "empty"]
    group = root.group("c/d")
    assert group is not None
    assert group.path == "/c/d"
    assert group.names() == ["deep"]
    found = root.dataset("c/d/deep")
    assert found is not None
    assert found.path == "/c/d/deep"
    assert repr(found) == "<Dataset file.h5: /c/d/deep>"
    assert root.group("a") is None
    assert root.dataset("b") is None
    assert isinstance(root.child("b"), Group)
    assert isinstance(root.child("a"), Dataset)


def test_what_is_absent_is_none() -> None:
    root = tree(branches)
    for name in ("no", "b/no", "a/no", "no/no", "", ".", "b/", "b//one", "b\0", "\ud800"):
        assert root.child(name) is None, name
        assert name not in root
    assert "b" in root
    assert "b/one" in root


@pytest.mark.parametrize("path", ["..", "b/..", "../b", "b/../a", "/b", "/"])
def test_paths_do_not_lead_out(path: str) -> None:
    root = tree(branches)
    for look in (root.child, root.group, root.dataset, root.__contains__):
        with pytest.raises(Refused, match="leads out of it"):
            look(path)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_walk_is_deep_and_in_order(version: str) -> None:
    root = tree(branches, libver=version)
    paths = ["/a", "/b/one", "/b/two", "/c/d/deep"]
    assert [dataset.path for dataset in root.walk()] == paths
    group = root.group("b")
    assert group is not None
    assert [dataset.path for dataset in group.walk()] == paths[1:3]


def test_names_that_are_no_text() -> None:
    def fill(file: h5py.File) -> None:
        h5g.create(file.id, b"\xff")
        h5py.Group(h5g.create(file.id, "ü\n".encode()))["x"] = h5py.SoftLink("y")

    root = tree(fill)
    assert root.names() == ["ü\n", "\udcff"]
    assert root.group("\udcff") is not None
    with pytest.raises(Refused, match=r"/\\xfc\\n/x is a soft link") as caught:
        list(root.walk())
    assert "\n" not in str(caught.value)


def test_a_named_type_holds_nothing() -> None:
    root = tree(lambda file: file.__setitem__("x", np.dtype("f4")))
    assert root.names() == ["x"]
    assert root.child("x") is None
    assert list(root.walk()) == []


# Links


def link(file: h5py.File, target: Any) -> None:
    file["a/b"] = target
    file["z"] = [1]


LINKS = [
    (h5py.SoftLink("/z"), r"file\.h5: /a/b is a soft link to '/z': links are not followed"),
    (h5py.SoftLink("/a/b"), "a soft link to '/a/b'"),
    (h5py.ExternalLink("other.h5", "/"), "an external link to 'other.h5'"),
    (h5py.ExternalLink("/etc/passwd", "/"), "an external link to '/etc/passwd'"),
]


@pytest.mark.parametrize(("target", "told"), LINKS)
def test_only_hard_links_are_followed(target: object, told: str) -> None:
    root = tree(lambda file: link(file, target))
    for look in (
        lambda: list(root.walk()),
        lambda: root.child("a/b"),
        lambda: root.group("a/b"),
        lambda: root.dataset("a/b"),
        lambda: root.child("a/b/c"),
        lambda: "a/b/c" in root,
    ):
        with pytest.raises(Refused, match=told):
            look()
    assert "a/b" in root


def test_links_of_a_kind_of_ones_own_are_not_followed() -> None:
    tree(lambda file: link(file, h5py.ExternalLink("other.h5", "/")))
    raw = Path(NAME).read_bytes()
    old = b"\x01\x08\x40\x01b"  # version, flags, kind 64 (external), length of name, name
    assert raw.count(old) == 1
    Path(NAME).write_bytes(raw.replace(old, b"\x01\x08\xc8\x01b"))
    with pytest.raises(Refused, match="/a/b is a link of kind 200: links are not followed"):
        list(tree().walk())


def test_a_name_that_is_a_path_is_no_name() -> None:
    def fill(file: h5py.File) -> None:
        file["a/b"] = h5py.SoftLink("/c")
        file["a_b"] = [2]
        file["c"] = [3]

    tree(fill)
    raw = Path(NAME).read_bytes()
    assert raw.count(b"a_b\0") == 1
    Path(NAME).write_bytes(raw.replace(b"a_b\0", b"a/b\0"))
    root = tree()
    assert "a/b" in root.names()
    group = root.group("a")
    assert group is not None
    assert root._open("a/b") is None


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_one_object_under_several_names(version: str) -> None:
    def fill(file: h5py.File) -> None:
        file["a/x"] = [1]
        file["a/y"] = [1]
        file["b"] = file["a"]
        file["c"] = file["a/x"]

    root = tree(fill, libver=version)
    one, same, other = (root.dataset(name) for name in ("a/x", "c", "a/y"))
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.same_object(same)
    assert not one.same_object(other)
    again = tree().dataset("a/x")
    assert again is not None
    assert not one.same_object(again)
    assert [dataset.path for dataset in root.walk()] == ["/a/x", "/a/y"]


def test_a_group_in_itself_is_walked_once() -> None:
    def fill(file: h5py.File) -> None:
        file["a/x"] = [1]
        file["a/again"] = file["a"]
        file["a/root"] = file["/"]

    root = tree(fill)
    assert [dataset.path for dataset in root.walk()] == ["/a/x"]
    assert isinstance(root.child("a/again/again/again/x"), Dataset)
    with pytest.raises(Refused, match="lies more than 64 deep"):
        root.child("a" + 64 * "/again")


def test_depth_is_limited() -> None:
    root = tree(lambda file: file.__setitem__("/".join(64 * "g"), [1]))
    assert len(list(root.walk())) == 1
    root = tree(lambda file: file.__setitem__("/".join(65 * "g"), [1]))
    with pytest.raises(Refused, match="lies more than 64 deep"):
        list(root.walk())


def test_the_number_of_links_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(file: h5py.File) -> None:
        for group in "abc":
            for name in "xyz":
                file[f"{group}/{name}"] = [1]

    monkeypatch.setattr(survey, "MAX_LINKS", 12)
    assert len(list(tree(fill).walk())) == 9
    monkeypatch.setattr(survey, "MAX_LINKS", 11)
    with pytest.raises(Refused, match=r"file\.h5: /c has too many links: at most 11"):
        list(tree().walk())
    monkeypatch.setattr(survey, "MAX_LINKS", 2)
    with pytest.raises(Refused, match=r"file\.h5: / has too many links"):
        tree().names()


# What h5py raises


def test_what_h5py_raises_is_told_in_one_line() -> None:
    for error, told in (
        (OSError("Unable to open (why\nso)"), "why so"),
        (KeyError("Unable to synchronously open object (object 'x' doesn't exist)"), "object 'x'"),
        (RuntimeError("Can't decode"), "Can't decode"),
        (MemoryError(), "MemoryError"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "utf-8"),
    ):
        assert survey.reason(error).startswith(told)
    assert len(survey.reason(ValueError(999 * "x"))) == 203
