"""An untrusted HDF5 file: what is read of it, and what is not."""

import gc
import os
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5g, h5p, h5s, h5t, h5z

from convfc_cli.errors import MalformedInput, Refused, Unsupported
from convfc_cli.files import opened
from convfc_cli.hdf5 import chunks as chunked
from convfc_cli.hdf5 import survey
from convfc_cli.hdf5 import tree as trees
from convfc_cli.hdf5.tree import Dataset, Group, is_hdf5, open_tree
from tests.support.paths import ROOT

NAME = "file.h5"
Fill = Callable[[h5py.File], object]


def tree(fill: Fill | None = None, **options: Any) -> Group:
    """The root of a file in the current folder, written if `fill` says with what."""
    if fill is not None:
        with h5py.File(NAME, "w", **options) as file:
            fill(file)
    with opened(NAME) as source:
        return open_tree(source)


def the_dataset(fill: Fill, **options: Any) -> Dataset:
    """The dataset "x" of a file."""
    found = tree(fill, **options).dataset("x")
    assert found is not None
    return found


def hold(**options: Any) -> Fill:
    """A file with the dataset "x"."""
    return lambda file: file.create_dataset("x", **options)


def first_of(root: Group) -> Dataset:
    return next(root.walk())


@contextmanager
def little_memory(most: int = 16 * 2**20) -> Iterator[None]:
    """Fails if more is taken meanwhile, by Python or NumPy."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


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


# Attributes


def with_attribute(value: object) -> object:
    def fill(file: h5py.File) -> None:
        file.attrs["v"] = value

    return tree(fill).attribute("v")


class FixedText:
    """A text of fixed length, padded in one of HDF5's three ways."""

    def __init__(self, raw: bytes, padding: int) -> None:
        self.raw, self.padding = raw, padding

    def write(self, file: h5py.File) -> None:
        kind = h5t.C_S1.copy()
        kind.set_size(len(self.raw))
        kind.set_strpad(self.padding)
        attribute = h5py.h5a.create(file.id, b"v", kind, h5s.create(h5s.SCALAR))
        attribute.write(np.frombuffer(self.raw, f"S{len(self.raw)}").reshape(()), kind)


@pytest.mark.parametrize(
    "value",
    ["kernel", b"kernel", np.bytes_(b"kernel"), np.array("kernel", h5py.string_dtype("ascii"))],
)
def test_a_text_is_a_text(value: object) -> None:
    assert with_attribute(value) == "kernel"


@pytest.mark.parametrize(
    "value",
    [
        ["a", "bcd"],
        [b"a", b"bcd"],
        np.array([b"a", b"bcd"]),
        np.array(["a", "bcd"], h5py.string_dtype()),
        np.array(["a", "bcd"], h5py.string_dtype(length=9)),
    ],
)
def test_texts_are_a_list_of_texts(value: object) -> None:
    assert with_attribute(value) == ["a", "bcd"]


@pytest.mark.parametrize(
    ("raw", "padding", "text"),
    [
        (b"ab\0cd\0", h5t.STR_NULLTERM, "ab"),
        (b"ab\0cd\0", h5t.STR_NULLPAD, "ab\0cd"),
        (b"ab cd  ", h5t.STR_SPACEPAD, "ab cd"),
        (b"ab \xff\0", h5t.STR_NULLPAD, "ab \udcff"),
    ],
)
def test_padding_is_taken_off(raw: bytes, padding: int, text: str) -> None:
    assert tree(FixedText(raw, padding).write).attribute("v") == text


@pytest.mark.parametrize(
    "value",
    [
        3,
        -(2**62),
        0.5,
        True,
        "",
        "ü\n",
        [True, False],
        [1, 2],
        [[1.5, 2.5], [3.5, 4.5]],
        [["a", "b"], ["c", ""]],
        [],
    ],
)
def test_values_are_plain_python(value: object) -> None:
    found = with_attribute(value)
    assert found == value
    assert type(found) is type(value)


def test_no_value_and_no_attribute() -> None:
    assert with_attribute(h5py.Empty("f4")) == []
    assert with_attribute(h5py.Empty("S4")) == ""
    root = tree()
    assert root.attributes() == ["v"]
    for name in ("w", "", "v\0", "a/b", "\ud800"):
        assert root.attribute(name) is None
    assert tree(lambda file: file.attrs.update({"a/b": 1})).attribute("a/b") == 1


@pytest.mark.slow
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
def test_numbers_of_either_byte_order(kind: str, order: str) -> None:
    values = np.array([1, 2, 100]).astype(order + kind)
    assert with_attribute(values) == [1, 2, 100]
    found = the_dataset(hold(data=values))
    assert found.type_name == np.dtype(kind).name
    assert found.dtype == np.dtype(kind)
    assert found.dtype.isnative
    assert found.read().dtype.isnative
    assert found.read().tolist() == [1, 2, 100]


def test_attributes_of_datasets() -> None:
    def fill(file: h5py.File) -> None:
        file["x"] = [1]
        file["x"].attrs.update({"b": 1, "a": "text"})

    found = the_dataset(fill)
    assert found.attributes() == ["a", "b"]
    assert found.attribute("a") == "text"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.zeros(2, [("a", "f4")]), "records"),
        (np.zeros((), "V2"), "two opaque bytes"),
        (np.zeros((), "V3"), "opaque bytes"),
        (np.complex64(1), "records"),
        (np.array([1, 0], h5py.enum_dtype({"A": 0, "B": 1}, "i1")), "an enumeration"),
    ],
)
def test_odd_attributes(value: object, told: str) -> None:
    with pytest.raises(MalformedInput, match=f"/: attribute 'v' is {told}, not text or numbers"):
        with_attribute(value)


def test_odd_attributes_of_other_kinds() -> None:
    def fill(file: h5py.File) -> None:
        file.attrs["reference"] = file.ref
        lists = np.empty(1, object)
        lists[0] = np.arange(2)
        file.attrs.create("lists", lists, dtype=h5py.vlen_dtype("i4"))
        file.attrs.create("arrays", np.zeros((2, 3), "i4"), dtype=np.dtype("(3,)i4"))

    root = tree(fill)
    for name in ("reference", "lists", "arrays"):
        with pytest.raises(MalformedInput, match=f"attribute '{name}' is "):
            root.attribute(name)


def test_attributes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(with_attribute(np.zeros(8000, "i1"))) == 8000  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"has 10001 elements and 10001 bytes: at most 10000"):
        with_attribute(np.zeros(10001, "i1"))
    monkeypatch.setattr(survey, "MAX_TEXT_BYTES", 100)
    with pytest.raises(Refused, match=r"1 elements and 101 bytes: at most 10000 and 100 are read"):
        with_attribute(np.bytes_(101 * b"x"))
    monkeypatch.setattr(survey, "MAX_ELEMENTS", 3)

    def fill(file: h5py.File) -> None:
        file.attrs.update(dict.fromkeys("abcd", 1))

    with pytest.raises(Refused, match=r"/ has 4 attributes: at most 3 are read"):
        tree(fill).attributes()


# Texts of varying length


def test_texts_of_an_unusual_kind() -> None:
    """Of characters of two bytes each."""
    tree(lambda file: file.attrs.update(v="some text"))
    raw = Path(NAME).read_bytes()
    text, character = b"\x19\1\1\0\x10\0\0\0", b"\x10\0\0\0\1\0\0\0\0\0\x08\0"
    assert raw.count(text + character) == 1
    wide = b"\x10\0\0\0\2\0\0\0\0\0\x10\0"
    Path(NAME).write_bytes(raw.replace(text + character, text + wide))
    with pytest.raises(MalformedInput, match="attribute 'v' is text of an unusual kind"):
        tree().attribute("v")


def place_of(text: bytes) -> tuple[bytes, int]:
    """The file, and where in it the first heap is that begins with a text."""
    raw = Path(NAME).read_bytes()
    heap = raw.rindex(b"GCOL", 0, raw.index(text))
    return raw, heap


@pytest.mark.slow
def test_a_heap_without_an_end_does_not_hang() -> None:
    tree(lambda file: file.attrs.update(v="some text"))
    raw, heap = place_of(b"some text")
    for wrong in (0, 8, 2**63, 2**64 - 16):
        free = heap + 16 + 32  # behind the one object, which takes 16 and 16 bytes
        assert raw[free : free + 2] == b"\0\0"
        broken = raw[: free + 8] + wrong.to_bytes(8, "little") + raw[free + 16 :]
        Path(NAME).write_bytes(broken)
        with pytest.raises(MalformedInput, match="heap"):
            tree().attribute("v")
    Path(NAME).write_bytes(raw)
    assert tree().attribute("v") == "some text"


def test_a_heap_larger_than_the_file_takes_no_memory() -> None:
    tree(lambda file: file.attrs.update(v="some text"))
    raw, heap = place_of(b"some text")
    Path(NAME).write_bytes(raw[: heap + 8] + (2**30).to_bytes(8, "little") + raw[heap + 16 :])
    with little_memory(), pytest.raises(MalformedInput, match="more is to be read than the file"):
        tree().attribute("v")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux bounds it")
@pytest.mark.parametrize("length", [2**31, 2**32 - 1])
def test_a_text_that_says_it_is_endless_takes_no_memory(length: int) -> None:
    import resource

    tree(lambda file: file.attrs.update(v="some text"))
    raw, heap = place_of(b"some text")
    old = (9).to_bytes(4, "little") + heap.to_bytes(8, "little")
    assert raw.count(old) == 1
    Path(NAME).write_bytes(raw.replace(old, length.to_bytes(4, "little") + old[4:]))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MalformedInput, match="memory allocation failed"):
        tree().attribute("v")
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux bounds it")
def test_many_texts_that_are_one_take_no_memory() -> None:
    text = 2**20 * "x"

    def fill(file: h5py.File) -> None:
        file.attrs["v"] = [text, *(3000 * ["y"])]

    tree(fill)
    raw = Path(NAME).read_bytes()
    heap = raw.rindex(b"GCOL", 0, raw.index(text.encode()))
    first = len(text).to_bytes(4, "little") + heap.to_bytes(8, "little") + b"\1\0\0\0"
    at = raw.index(first)
    Path(NAME).write_bytes(raw[:at] + 3001 * first + raw[at + 3001 * 16 :])
    with pytest.raises(MalformedInput):
        tree().attribute("v")


# Datasets


def test_a_dataset_says_what_it_is() -> None:
    found = the_dataset(hold(data=np.zeros((2, 3), ">f4")))
    assert (found.shape, found.nbytes, found.type_name) == ((2, 3), 24, "float32")
    assert found.dtype == np.float32
    found = the_dataset(hold(data=h5py.Empty("f4")))
    assert (found.shape, found.nbytes) == ((), 0)
    found = the_dataset(hold(data=1.5))
    assert found.shape == ()
    assert found.read() == np.array(1.5)


def test_the_bits_of_half_precision_come_as_they_are() -> None:
    values = np.arange(6, dtype="<u2").view("V2").reshape(2, 3)
    found = the_dataset(hold(data=values))
    assert found.type_name == "two opaque bytes"
    assert found.dtype == np.dtype("V2")
    assert found.read().tobytes() == values.tobytes()


def test_a_signalling_nan_stays_one() -> None:
    bits = np.array([0x7F800001, 0xFF812345], ">u4")
    found = the_dataset(hold(data=bits.view(">f4")))
    assert found.read().view(np.uint32).tolist() == bits.tolist()


def test_booleans() -> None:
    found = the_dataset(hold(data=5 * [True, False, True]))
    assert found.read().tolist() == 5 * [True, False, True]
    raw = Path(NAME).read_bytes()
    assert raw.count(5 * b"\1\0\1") == 1
    Path(NAME).write_bytes(raw.replace(5 * b"\1\0\1", 5 * b"\7\0\1"))
    assert first_of(tree()).read().view(np.uint8).tolist() == 5 * [1, 0, 1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"data": np.zeros(2, [("a", "f4")])}, "records"),
        ({"data": np.zeros(2, "V3")}, "opaque bytes"),
        ({"data": np.zeros(2, "c8")}, "records"),
        ({"data": "text"}, "text"),
        ({"data": np.bytes_(b"text")}, "text"),
        ({"data": [0], "dtype": h5py.enum_dtype({"A": 0}, "i1")}, "an enumeration"),
        ({"shape": 2, "dtype": h5py.vlen_dtype("i4")}, "lists of varying length"),
        ({"shape": 2, "dtype": h5py.ref_dtype}, "references"),
        ({"shape": 2, "dtype": np.dtype("(3,)f4")}, "arrays"),
        ({"data": h5py.Empty("f4")}, "nothing"),
    ],
)
def test_what_is_no_array_is_listed_and_not_read(options: dict[str, Any], told: str) -> None:
    found = the_dataset(hold(**options))
    assert told in ("nothing", found.type_name)
    assert list(tree().walk())
    for look in (found.read, lambda: found.part(0, 1) if found.shape else found.read()):
        with pytest.raises(Unsupported, match=rf"file\.h5: /x holds {told}: only integers, floats"):
            look()


def test_numbers_of_an_odd_size() -> None:
    def fill(file: h5py.File) -> None:
        kind = h5t.STD_I32LE.copy()
        kind.set_precision(17)
        h5d.create(file.id, b"x", kind, h5s.create_simple((4,)))

    found = the_dataset(fill)
    assert found.type_name == "integers of an unusual kind"
    with pytest.raises(Unsupported, match="holds integers of an unusual kind"):
        found.read()


@pytest.mark.parametrize(
    "value", ["text ü", b"text \xc3\xbc", np.bytes_(b"text \xc3\xbc"), ["text ü"], [["text ü"]]]
)
def test_a_text_in_a_dataset(value: object) -> None:
    assert the_dataset(hold(data=value)).text() == "text ü"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (["a", "b"], r"text of shape \(2,\), not a text"),
        (np.array([], "S4"), r"text of shape \(0,\), not a text"),
        (1, r"int64 of shape \(\), not a text"),
        ([1], "int64"),
        (h5py.Empty("f4"), "float32"),
    ],
)
def test_what_is_no_single_text(value: object, told: str) -> None:
    with pytest.raises(MalformedInput, match=f"damaged HDF5 file: /x: {told}"):
        the_dataset(hold(data=value)).text()


def test_no_text_and_a_text_in_chunks() -> None:
    assert the_dataset(hold(data=h5py.Empty("S4"))).text() == ""
    for value in (["text"], [b"text"]):
        with pytest.raises(Unsupported, match="/x is a text in chunks"):
            the_dataset(hold(data=value, chunks=(1,), compression="gzip")).text()


def test_parts() -> None:
    values = np.arange(60).reshape(10, 6)
    for options in ({}, {"chunks": (4, 5)}, {"chunks": (4, 5), "compression": "gzip"}):
        found = the_dataset(hold(data=values, **options))
        for start, stop in ((0, 10), (3, 5), (3, 4), (7, 99), (-2, 10), (5, 5), (6, 2)):
            assert found.part(start, stop).tolist() == values[start:stop].tolist()
            assert found.part(start, stop).shape == values[start:stop].shape
    with pytest.raises(MalformedInput, match="a single value where an array is expected"):
        the_dataset(hold(data=1)).part(0, 1)


def test_arrays_without_elements() -> None:
    for options in ({}, {"chunks": True, "maxshape": (None, 3)}):
        found = the_dataset(hold(shape=(0, 3), dtype="f4", **options))
        assert found.read().shape == (0, 3)
        assert found.part(0, 5).shape == (0, 3)


def compact(file: h5py.File) -> None:
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_layout(h5d.COMPACT)
    h5d.create(file.id, b"x", h5t.STD_I32BE, h5s.create_simple((3,)), plan)
    file["x"][...] = [1, 2, 3]


def test_a_compact_dataset() -> None:
    assert the_dataset(compact).read().tolist() == [1, 2, 3]


# Chunks and filters

FILTERS: list[dict[str, Any]] = [
    {},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True},
    {"shuffle": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", FILTERS)
@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("limits", [None, (None, 30), (None, None)])
def test_chunks_of_every_kind(
    options: dict[str, Any], version: str, limits: tuple[int | None, ...] | None
) -> None:
    random_ = np.random.default_rng(1)
    for values in (
        np.arange(600, dtype=">f4").reshape(20, 30) // 7,
        random_.integers(0, 256, (20, 30), np.uint8),
        random_.normal(size=(20, 30)),
        np.zeros((20, 30), bool),
        np.arange(600, dtype="u2").view("V2").reshape(20, 30),
    ):
        for chunks in ((20, 30), (7, 11), (1, 1), (3, 30)):
            found = the_dataset(
                hold(data=values, chunks=chunks, maxshape=limits, **options), libver=version
            )
            read = found.read()
            assert read.dtype == values.dtype.newbyteorder("=")
            assert read.tolist() == values.tolist()
            assert found.part(5, 9).tolist() == values[5:9].tolist()


def test_what_was_not_written_is_the_fill_value() -> None:
    for filler in (None, 7):

        def fill(file: h5py.File, filler: int | None = filler) -> None:
            found = file.create_dataset(
                "x", (50,), ">i4", chunks=(10,), compression="gzip", fillvalue=filler
            )
            found[20:25] = 1

        expected = np.full(50, filler or 0)
        expected[20:25] = 1
        assert the_dataset(fill).read().tolist() == expected.tolist()
    assert the_dataset(hold(shape=(50,), dtype="i4", fillvalue=7)).read().tolist() == 50 * [7]


def packed(size: int, chunk: bytes, *filters: tuple[int, tuple[int, ...]], mask: int = 0) -> Fill:
    """The dataset "x" of one chunk of bytes, which is stored just so."""

    def fill(file: h5py.File) -> None:
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_chunk((size,))
        for code, values in filters:
            plan.set_filter(code, h5z.FLAG_OPTIONAL, values)
        found = h5d.create(file.id, b"x", h5t.STD_U8LE, h5s.create_simple((size,)), plan)
        found.write_direct_chunk((0,), chunk, mask)

    return fill


DEFLATE = (h5z.FILTER_DEFLATE, (4,))
SHUFFLE = (h5z.FILTER_SHUFFLE, (1,))


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (packed(100, zlib.compress(bytes(99)), DEFLATE), "a chunk of 99 bytes where 100 belong"),
        (packed(100, zlib.compress(bytes(105)), DEFLATE), "not of a chunk of 100"),
        (packed(100, zlib.compress(bytes(100))[:-3], DEFLATE), "not of a chunk"),
        (packed(100, b"nonsense", DEFLATE), "incorrect header check"),
        (packed(100, bytes(70_000)), "70000 bytes are stored for a chunk of 100"),
        (packed(100, bytes(50)), "a chunk of 50 bytes where 100 belong"),
        (packed(100, bytes(200)), "a chunk of 200 bytes where 100 belong"),
        (packed(100, bytes(99), SHUFFLE), "a chunk of 99 bytes"),
    ],
)
def test_chunks_that_are_damaged(fill: Fill, told: str) -> None:
    found = the_dataset(fill)
    with pytest.raises(MalformedInput, match=rf"file\.h5 is a damaged HDF5 file: /x: .*{told}"):
        found.read()


def test_a_chunk_that_a_filter_left_alone() -> None:
    assert the_dataset(packed(3, b"abc", DEFLATE, mask=1)).read().tolist() == [97, 98, 99]


def test_other_filters_are_named() -> None:
    values = np.arange(100)
    for options, told in (
        ({"compression": "szip"}, r"szip \(number 4\)"),
        ({"scaleoffset": 0}, r"scaleoffset \(number 6\)"),
        ({"compression": "lzf"}, r"lzf \(number 32000\)"),
        ({"fletcher32": True}, r"fletcher32 \(number 3\)"),
    ):
        found = the_dataset(hold(data=values, chunks=(100,), **options))
        with pytest.raises(Unsupported, match=f"/x is compressed by filter {told}: only gzip"):
            found.read()
    found = the_dataset(packed(100, bytes(100), (32001, (1,))))
    with pytest.raises(Unsupported, match="/x is compressed by filter number 32001: only gzip"):
        found.read()


# What a file cannot hold


@pytest.mark.slow
def test_bombs_are_refused_without_memory() -> None:
    def stacked(file: h5py.File) -> None:
        bomb = zlib.compress(zlib.compress(zlib.compress(bytes(10**8), 9), 9), 9)
        packed(2**30, bomb, DEFLATE, DEFLATE, DEFLATE)(file)

    def wide(file: h5py.File) -> None:
        packed(2**16, zlib.compress(bytes(10**8)), DEFLATE)(file)

    for fill, told in (
        (
            hold(shape=(9_900_000_000_000,), dtype="f4"),
            "declares 39600000000000 bytes and stores 0",
        ),
        (hold(shape=(2**18 + 1,), dtype="f4"), "declares 1048580 bytes and stores 0"),
        (hold(shape=(10**13,), dtype="f4", chunks=(10**6,)), "declares 40000000000000 bytes"),
        (hold(shape=(2**63 - 1, 2**63 - 1), dtype="f8", chunks=(1, 1)), "and stores 0"),
        (hold(shape=(2**62,), dtype="i1", chunks=(2**31,)), "declares 4611686018427387904 bytes"),
        (hold(shape=(9,), dtype="f4", maxshape=(None,), chunks=(2**25,)), "chunks of 134217728"),
        (stacked, "/x is compressed more than once|declares 1073741824 bytes and stores"),
        (wide, "not of a chunk of 65536"),
    ):
        found = the_dataset(fill)
        with little_memory():
            for look in (found.read, lambda dataset=found: dataset.part(0, 10**14)):
                with pytest.raises((Refused, MalformedInput), match=told):
                    look()


def test_what_is_compressed_twice_is_refused() -> None:
    twice = zlib.compress(zlib.compress(bytes(100)))
    with pytest.raises(Refused, match="/x is compressed more than once: it is not expanded"):
        the_dataset(packed(100, twice, DEFLATE, DEFLATE)).read()


def test_a_dataset_never_written_is_small() -> None:
    assert the_dataset(hold(shape=(2**20,), dtype="i1")).read().sum() == 0
    found = the_dataset(hold(shape=(2**20 + 1,), dtype="i1"))
    with pytest.raises(Refused, match=r"declares 1048577 bytes and stores 0 in a file of \d+"):
        found.part(0, 1)


def test_a_text_never_written_is_small() -> None:
    assert the_dataset(hold(shape=(), dtype="S9")).text() == ""
    with pytest.raises(Refused, match="declares 1048577 bytes and stores 0"):
        the_dataset(hold(shape=(), dtype=f"S{2**20 + 1}")).text()


def test_chunks_that_are_one_and_the_same() -> None:
    """Nine chunks of the last one's bytes, in a file that has only these."""
    size = 10**6

    def fill(file: h5py.File) -> None:
        found = file.create_dataset("x", (9 * size,), "u1", chunks=(size,))
        for start in range(0, 9 * size, size):
            found[start : start + size] = 1

    tree(fill)
    with h5py.File(NAME) as file:
        places = [file["x"].id.get_chunk_info(index).byte_offset for index in range(9)]
    raw = Path(NAME).read_bytes()
    first = min(places)
    raw = raw[:first] + raw[first : first + size] + raw[max(places) + size :]
    for place in places:
        old = place.to_bytes(8, "little")
        raw = raw.replace(old, first.to_bytes(8, "little"))
    end = len(raw).to_bytes(8, "little")
    Path(NAME).write_bytes(raw[:40] + end + raw[48:])
    with pytest.raises(Refused, match="declares 9000000 bytes and stores 9000000 in a file of 10"):
        first_of(tree()).read()


def test_large_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = the_dataset(hold(data=np.ones(1000, "u1"), chunks=(1000,)))
    monkeypatch.setattr(chunked, "MAX_READ_BYTES", 999)
    with pytest.raises(Refused, match="/x declares 1000 bytes in chunks of 1000, 1000 in all"):
        found.part(0, 1)


def test_as_far_as_compression_goes() -> None:
    for options in ({"compression": "gzip", "compression_opts": 9}, {"chunks": (2**22,)}):
        found = the_dataset(hold(data=np.zeros(2**22, "i1"), **options))
        assert found.read().tobytes() == bytes(2**22)


@pytest.mark.slow
def test_stored_bytes_that_the_file_does_not_have() -> None:
    the_dataset(hold(data=np.ones(1000)))
    raw = Path(NAME).read_bytes()
    old = (8000).to_bytes(8, "little")
    shape = (1000).to_bytes(8, "little")
    assert raw.count(old) == 1
    for count in (10**6, 10**12):
        new = raw.replace(old, (8 * count).to_bytes(8, "little"))
        Path(NAME).write_bytes(new.replace(shape, count.to_bytes(8, "little")))
        with little_memory(), pytest.raises((Refused, MalformedInput)):
            first_of(tree()).part(0, 1)


def test_what_is_read_at_once_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    found = the_dataset(hold(data=np.zeros((100, 10), "f4")))
    monkeypatch.setattr(trees, "MAX_READ_BYTES", 400)
    with pytest.raises(
        Refused, match="/x: 4000 bytes are too many to be read at once: at most 400"
    ):
        found.read()
    assert found.part(0, 10).shape == (10, 10)
    with pytest.raises(Refused, match="/x: 440 bytes"):
        found.part(0, 11)


def test_too_many_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "SLACK", 100)
    found = the_dataset(hold(data=np.zeros(101, "i1"), chunks=(1,)))
    with pytest.raises(Refused, match=r"/x has 101 bytes in 101 chunks: so many small ones"):
        found.read()
    assert found.part(0, 100).shape == (100,)


def test_chunks_that_are_mostly_padding() -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset(
            "x", (4096, 1), "u1", maxshape=(None, None), chunks=(1, 2**16), compression="gzip"
        )[:9] = 1

    with pytest.raises(Refused, match="declares 4096 bytes in chunks of 65536, 268435456 in all"):
        the_dataset(fill).read()


# Values that lie elsewhere


def test_values_in_other_files_are_refused() -> None:
    Path("secret").write_bytes(b"12345678")
    root = tree(hold(shape=(8,), dtype="u1", external=[("secret", 0, 8)]))
    for look in (lambda: root.child("x"), lambda: list(root.walk())):
        with pytest.raises(
            Refused, match=r"/x has its values in another file, 'secret': it is not"
        ):
            look()


@pytest.mark.parametrize("pattern", ["other.h5", "."])
def test_virtual_datasets_are_refused(pattern: str) -> None:
    def fill(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((8,), "u1", maxshape=(None,))
        layout[...] = h5py.VirtualSource(pattern, "y", (8,), maxshape=(None,))
        file.create_virtual_dataset("x", layout)
        file["y"] = np.arange(8, dtype="u1")

    root = tree(fill, libver="latest")
    for look in (lambda: root.child("x"), lambda: list(root.walk())):
        with pytest.raises(Refused, match=r"/x is virtual, put together from other datasets"):
            look()


# Damage


def rich(file: h5py.File) -> None:
    """A little of everything."""
    values = np.arange(99.0).reshape(11, 9)
    file.attrs.update(config='{"a": 1}', names=["a", "bc"], fixed=np.array([b"x", b"yy"]), n=[1, 2])
    group = file.create_group("layers/conv")
    group["0"] = np.ones((3, 3, 2, 4), "f4")
    group["1"] = np.zeros(4, ">f4")
    file["again"] = group["0"]
    file["half"] = np.zeros(3, "V2")
    file["truth"] = np.array([True, False])
    file["text"] = "hello"
    file["record"] = np.zeros(3, [("a", "f4")])
    for number, options in enumerate(FILTERS):
        file.create_dataset(f"chunks{number}", data=values, chunks=(5, 4), **options)
    file.create_dataset("grows", data=values, chunks=(5, 4), maxshape=(None, None))


def look_at_everything() -> list[str]:
    """Read all that is in the file, and return what was complained of: in errors of ours alone."""
    complaints: list[str] = []

    def tried(of: Callable[[], Any]) -> Any:
        try:
            return of()
        except (MalformedInput, Unsupported, Refused) as error:
            told = str(error)
        assert told.startswith("file.h5")
        assert "\n" not in told
        complaints.append(told)
        return None

    def attributes(holder: Group | Dataset) -> None:
        for name in tried(holder.attributes) or []:
            tried(lambda name=name: holder.attribute(name))

    def below(group: Group, depth: int) -> None:
        attributes(group)
        for name in tried(group.names) or []:
            found = tried(lambda name=name: group.child(name))
            if isinstance(found, Group) and depth < 4:
                below(found, depth + 1)
            elif isinstance(found, Dataset):
                attributes(found)
                tried(found.read)
                tried(found.text)
                tried(lambda found=found: found.part(1, 3))

    root = tried(tree)
    if root is not None:
        tried(lambda: [tried(dataset.read) for dataset in root.walk()])
        below(root, 0)
    return complaints


@pytest.mark.slow
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_files_cut_short(version: str) -> None:
    tree(rich, libver=version)
    raw = Path(NAME).read_bytes()
    for size in range(8, len(raw), 211):
        Path(NAME).write_bytes(raw[:size])
        with pytest.raises(MalformedInput, match=r"file\.h5 is a damaged HDF5 file: "):
            tree()


def test_a_file_that_becomes_shorter_meanwhile() -> None:
    found = the_dataset(hold(data=np.ones(10**5)))
    os.truncate(NAME, 5000)
    with pytest.raises(MalformedInput, match="/x: ") as caught:
        found.read()
    assert caught.value.__cause__ is not None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_mutated_files(version: str) -> None:
    """Some hundreds, always the same; many thousands were tried by hand."""
    tree(rich, libver=version)
    raw = Path(NAME).read_bytes()
    sound = look_at_everything()
    noticed = 0
    chosen = random.Random(20)
    written = [at for at, byte in enumerate(raw) if byte]
    for _ in range(100):
        mutated = bytearray(raw)
        for _ in range(chosen.choice((1, 2, 10))):
            at = chosen.choice(written)
            mutated[at] = chosen.choice((0, 1, 127, 128, 255, mutated[at] ^ 1))
        Path(NAME).write_bytes(mutated)
        noticed += look_at_everything() != sound
    assert noticed > 50


def test_addresses_of_other_sizes() -> None:
    plan = h5p.create(h5p.FILE_CREATE)
    plan.set_sizes(4, 4)
    h5py.h5f.create(NAME.encode(), fcpl=plan).close()
    with pytest.raises(
        Unsupported, match=r"file\.h5 is HDF5 with addresses and lengths of \(4, 4\)"
    ):
        tree()


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
