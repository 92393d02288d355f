"""The attributes of an untrusted HDF5 file, and its texts of varying length."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5s, h5t

from convfc_cli.errors import MalformedInput, Refused
from convfc_cli.hdf5 import survey
from tests.support.hdf5_trees import NAME, hold, little_memory, the_dataset, tree

pytestmark = pytest.mark.usefixtures("folder")


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
