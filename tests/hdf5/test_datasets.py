"""The datasets of an untrusted HDF5 file: types, bits, texts, and values that lie elsewhere."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from convfc_cli.errors import MalformedInput, Refused, Unsupported
from tests.support.hdf5_trees import NAME, first_of, hold, the_dataset, tree

pytestmark = pytest.mark.usefixtures("folder")


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
