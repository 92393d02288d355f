"""Matrix files as npz: what they hold, and hostile and damaged ones.

Crafted files are made by `tests.support.crafted`, with zipfile and numpy alone.
"""

import hashlib
import io
import json
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import convfc_cli
from convfc_cli.errors import MalformedInput
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import blocks, registry
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.matrices.stored_zip import StoredZip, write_all
from convfc_cli.proof import check
from convfc_cli.taps import IndexMap
from tests.support import brute, crafted
from tests.support.crafted import example, npy, outcome, raw_npy, rendered, replaced, within
from tests.support.paths import ROOT
from tests.support.strategies import every_spec, problems, specs

NPZ = registry.formats()["npz"]


@every_spec
def test_scipy_opens_an_npz_as_it_is(spec, tmp_path):
    matrix = example("csr", spec)
    path = crafted.written(NPZ, matrix, tmp_path)
    loaded = scipy.sparse.load_npz(path)
    expected = brute.csr(
        *(matrix.layer.kernel, matrix.layer.index_map.axes, 2, False),
        *(spec.layout.order, spec.transpose),
    )
    assert type(loaded) is scipy.sparse.csr_array
    assert loaded.shape == expected.shape
    assert loaded.has_canonical_format
    assert loaded.data.dtype == np.float32
    assert np.array_equal(loaded.toarray(), expected.dense())
    with np.load(path, allow_pickle=False) as archive:
        bias = brute.positions((2, 2, 3), spec.layout.order)
        assert [archive["bias"][bias[c]].tolist() for c in range(2)] == [
            [[0.5] * 3] * 2,
            [[-2] * 3] * 2,
        ]
        assert archive["kernel"].tobytes() == matrix.layer.kernel.tobytes()
        assert archive["kernel_bias"].tolist() == [0.5, -2]


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
def test_what_says_that_it_is_an_array_is_as_scipy_writes_it(form):
    ours = crafted.members(rendered(registry.by_form(form), example(form)))
    theirs = io.BytesIO()
    scipy.sparse.save_npz(theirs, scipy.sparse.csr_array(np.eye(2)), compressed=False)
    assert ours["_is_array.npy"] == crafted.members(theirs.getvalue())["_is_array.npy"]
    found = scipy.sparse.load_npz(io.BytesIO(crafted.zipped(list(ours.items()))))
    assert type(found) is getattr(scipy.sparse, f"{form}_array")


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (np.array(False), "WrongContents", "_is_array is False, not True"),
        (np.array([True]), "WrongContents", "_is_array is [ True], not True"),
        (np.zeros(0, bool), "WrongContents", "_is_array is [], not True"),
        (np.array(1), "MalformedInput", "_is_array holds int64"),
        (np.array("True"), "MalformedInput", "_is_array holds <U4"),
        (np.ones(10**6, bool), "MalformedInput", "_is_array has 1000128 bytes, too many"),
    ],
)
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
def test_what_says_that_it_is_an_array_says_nothing_else(form, value, kind, told):
    data = rendered(registry.by_form(form), example(form))
    found, text = outcome(replaced(data, _is_array=npy(value)))
    assert found == kind
    assert told in text
    assert len(text) < 300


@pytest.mark.parametrize("name", ["shape", "format"])
def test_what_says_something_of_the_entries_is_short(name):
    kind, text = outcome(replaced(CSR, **{name: npy(np.zeros(10**6, "u1"))}))
    assert (kind, f"{name} has 1000128 bytes, too many" in text) == ("MalformedInput", True)


def test_an_operator_file_does_not_say_that_it_is_an_array():
    contents = crafted.members(OPERATOR)
    kind, text = outcome(
        crafted.zipped([*contents.items(), ("_is_array.npy", npy(np.array(True)))])
    )
    assert kind == "MalformedInput"
    assert "has a member '_is_array.npy' that the form operator lacks" in text


@pytest.mark.slow
@given(problems(), specs())
def test_scipy_reads_the_matrix_bit_for_bit(problem, spec):
    data = rendered(NPZ, Matrix(problem.layer, spec))
    loaded = scipy.sparse.load_npz(io.BytesIO(data))
    expected = problem.csr(spec)
    assert loaded.shape == expected.shape
    assert loaded.indptr.tolist() == expected.indptr.tolist()
    assert loaded.indices.tolist() == expected.indices.tolist()
    assert np.array_equal(brute.bits(loaded.data), brute.bits(expected.data))


def test_scipy_takes_no_operator_file_for_a_matrix():
    data = rendered(NPZ, example("operator"))
    with pytest.raises(ValueError, match="does not contain a sparse"):
        scipy.sparse.load_npz(io.BytesIO(data))
    assert set(crafted.members(data)) == {"convfc.npy", "kernel.npy", "kernel_bias.npy"}


@pytest.mark.slow
@given(problems(), specs())
def test_a_kernel_index_is_stored_on_request_and_read_by_numpy(problem, spec):
    matrix = Matrix(problem.layer, replace(spec, kernel_index=True))
    data = rendered(NPZ, matrix)
    contents = crafted.arrays(data)
    assert contents["kernel_index"].tolist() == problem.csr(spec).kernel_index.tolist()
    assert outcome(data) == ("ok", "")
    (stored,) = registry.stored(crafted.in_memory(data))
    assert stored.matrix.spec.kernel_index is True
    without = rendered(NPZ, Matrix(problem.layer, spec))
    assert "kernel_index" not in crafted.arrays(without)


def test_an_npz_has_the_bytes_it_had_when_this_was_written(monkeypatch):
    monkeypatch.setattr(convfc_cli, "__version__", "0.0.0")
    digests = {
        form: hashlib.sha256(rendered(NPZ, example(form))).hexdigest()
        for form in ("csr", "operator")
    }
    assert digests == {
        "csr": "e3839086eec54bd6aa56ebe111c6a7b728b3ed3971d3898adbf62c1eced93979",
        "operator": "185529606a3249504b9cc4b0145a57f96d1e9248007da07cb4710115ac6cb16f",
    }


def test_the_container_has_the_bytes_of_its_specification():
    out = io.BytesIO()
    archive = StoredZip(out)
    archive.add("a", [b"h", b"", memoryview(b"i")])
    archive.close()
    crc = "ac2a93d8"  # zlib.crc32(b"hi") is 0xd8932aac
    size, none, big = "0200000000000000", "0000000000000000", "ffffffff"
    version, flags, method, date = "2d00", "0808", "0000", "0000 2100"
    expected = " ".join(
        [
            *("504b0304", version, flags, method, date, "00000000", big, big, "0100 1400"),
            *("61", "0100 1000", none, none),  # name; extra field 1: 64-bit sizes, here unknown
            *("6869", "504b0708", crc, size, size),  # content, descriptor
            *("504b0102", version, version, flags, method, date, crc, big, big, "0100 1c00 0000"),
            *("0000 0000 00000000", big, "61", "0100 1800", size, size, none),
            *("504b0606", "2c00000000000000", version, version, "00000000 00000000"),
            *("0100000000000000 0100000000000000", "4b00000000000000", "4d00000000000000"),
            *("504b0607", "00000000", "9800000000000000", "01000000"),
            *("504b0506", "0000 0000 ffff ffff", big, big, "0000"),
        ]
    )
    assert out.getvalue().hex() == expected.replace(" ", "")


def test_a_sink_that_says_nothing_of_how_much_it_took_took_all():
    taken = []
    write_all(type("Sink", (), {"write": lambda self, data: taken.append(bytes(data))})(), b"abc")
    assert taken == [b"abc"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csr", "operator"])
@pytest.mark.parametrize("mask", ["all bits", "one bit"])
def test_every_single_flipped_byte_of_an_npz_is_malformed(form, mask):
    data = bytearray(rendered(NPZ, example(form)))
    for place in range(len(data)):
        flip = 0xFF if mask == "all bits" else 1 << place % 8
        data[place] ^= flip
        assert outcome(bytes(data))[0] == "MalformedInput", (place, flip)
        data[place] ^= flip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["indptr", "indices", "data", "kernel_index"])
def test_damage_in_the_first_of_many_blocks_is_not_taken_for_wrong_weights(name, monkeypatch):
    # The checksum stands after the last block; the wrong entry is met in the first.
    monkeypatch.setattr(check, "CHUNK", 8)
    monkeypatch.setattr(blocks, "CHUNK", 8)
    data = bytearray(rendered(NPZ, example(kernel_index=True)))
    content = crafted.members(bytes(data))[f"{name}.npy"]
    start = data.index(content) + 128
    for place in range(start, start + len(content) - 128, 3):
        data[place] ^= 1 << place % 8
        kind, text = outcome(bytes(data))
        assert kind == "MalformedInput"
        assert "damaged" in text
        data[place] ^= 1 << place % 8
    assert outcome(bytes(data)) == ("ok", "")


@pytest.mark.parametrize("index", [False, True])
def test_an_npz_is_not_finished_before_its_last_row(index):
    matrix = example(kernel_index=index)
    (stored,) = registry.stored(crafted.in_memory(rendered(NPZ, matrix)))
    with pytest.raises(MalformedInput, match="beyond its end"):
        stored.finish()
    (stored,) = registry.stored(crafted.in_memory(rendered(NPZ, matrix)))
    counts = np.tile(np.repeat([4, 8], 3), 2)  # the first row of either channel is cut by padding
    assert sum(len(block.data) for block in stored.rows(counts)) == 72
    stored.finish()


@pytest.mark.slow
@given(st.data())
def test_no_damage_to_an_npz_ends_in_anything_but_a_documented_error(data):
    form = data.draw(st.sampled_from(("csr", "operator")))
    file = rendered(NPZ, example(form))
    if data.draw(st.booleans(), label="written anew by numpy"):
        file = crafted.saved(crafted.arrays(file))
    file = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        # the directory stands at the end: that is where a reader is led astray
        back = data.draw(st.integers(1, 900) | st.integers(1, len(file)))
        file[-min(back, len(file))] = data.draw(st.integers(0, 255) | st.sampled_from((0, 1, 255)))
    assert outcome(bytes(file))[0] in {"ok", "wrong", "MalformedInput", "WrongContents"}


# --- crafted npz --------------------------------------------------------------------------------


CSR = rendered(NPZ, example())
OPERATOR = rendered(NPZ, example("operator"))


@pytest.mark.parametrize("data", [CSR, OPERATOR], ids=["csr", "operator"])
def test_an_npz_written_anew_by_numpy_or_zipfile_is_accepted(data):
    assert outcome(crafted.saved(crafted.arrays(data))) == ("ok", "")
    assert outcome(crafted.zipped(list(crafted.members(data).items()))) == ("ok", "")
    backwards = list(crafted.members(data).items())[::-1]
    assert outcome(crafted.zipped(backwards)) == ("ok", "")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        *((CSR, name.removesuffix(".npy")) for name in crafted.members(CSR)),
        *((OPERATOR, name.removesuffix(".npy")) for name in crafted.members(OPERATOR)),
    ],
)
def test_a_missing_member_is_malformed_and_named(data, name):
    kind, text = outcome(replaced(data, **{name: None}))
    if name == "kernel_bias":  # without one it is a layer without a bias, and the digest knows
        assert kind in {"wrong", "MalformedInput"}
    elif name == "_is_array":  # version 0.1 wrote none
        assert kind == "ok"
    else:
        assert kind == "MalformedInput"
        assert f"no member {name}" in text


@pytest.mark.parametrize("data", [CSR, OPERATOR], ids=["csr", "operator"])
@pytest.mark.parametrize(
    "name",
    ["extra.npy", "kernel_index.npy", "data2.npy", "readme.txt", "a/../../b.npy"],
)
def test_an_unknown_member_is_malformed_and_named(data, name):
    contents = [*crafted.members(data).items(), (name, npy(np.array([True])))]
    kind, text = outcome(crafted.zipped(contents))
    assert kind == "MalformedInput"
    assert name.removesuffix(".npy") in text


@pytest.mark.parametrize("name", ["data", "indices", "indptr", "kernel", "bias", "shape", "format"])
def test_a_member_whose_name_shadows_another_is_malformed(name):
    # numpy.load prefers "data" to "data.npy", so scipy would read what nobody has checked.
    contents = crafted.members(CSR)
    shadow = npy(crafted.arrays(CSR)[name])
    kind, text = outcome(crafted.zipped([*contents.items(), (name, shadow)]))
    assert kind == "MalformedInput"
    assert repr(name) in text


@pytest.mark.parametrize("name", ["data.npy", "convfc.npy", "kernel.npy"])
def test_two_members_of_one_name_are_malformed(name):
    contents = crafted.members(CSR)
    for twice in ([(name, contents[name]), *contents.items()], [*contents.items(), (name, b"")]):
        kind, text = outcome(crafted.zipped(twice))
        assert (kind, "same name" in text) == ("MalformedInput", True)


def test_many_members_are_malformed():
    contents = [*crafted.members(CSR).items(), *((f"m{k}.npy", b"") for k in range(2000))]
    kind, text = outcome(crafted.zipped(contents))
    assert kind == "MalformedInput"
    assert "too many" in text


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_npz_is_malformed_and_says_the_way_out(compression):
    kind, text = outcome(crafted.zipped(list(crafted.members(CSR).items()), compression))
    assert kind == "MalformedInput"
    assert "compressed" in text
    assert "numpy.savez" in text


def with_flag(file, member, bit):
    """The zip with a flag of one member set in its directory."""
    name, data = member.encode(), bytearray(file)
    place = data.rindex(name) - 46  # the directory stands after the members
    assert data[place : place + 4] == b"PK\1\2"
    data[place + 8] |= bit
    return bytes(data)


def test_an_encrypted_member_is_malformed():
    data = crafted.saved(crafted.arrays(CSR))
    kind, text = outcome(with_flag(data, "convfc.npy", 1))
    assert kind == "MalformedInput"
    assert "encrypted" in text
    assert "numpy.savez" in text


@pytest.mark.parametrize("bit", [0x20, 0x40], ids=["patched", "strong encryption"])
@pytest.mark.parametrize("name", ["kernel", "bias", "data"])
def test_a_member_that_zipfile_cannot_read_is_malformed_whatever_else_is_wrong(name, bit):
    for file in (crafted.saved(crafted.arrays(CSR)), rewritten(shape=lambda array: array[::-1])):
        kind, text = outcome(with_flag(file, f"{name}.npy", bit))
        assert kind == "MalformedInput"
        assert "flag bit" in text or "damaged" in text


def test_a_directory_that_points_before_the_file_is_malformed():
    data = bytearray(crafted.saved(crafted.arrays(CSR)))
    end = data.rindex(b"PK\5\6")
    # A directory that starts two bytes later than it says: every offset moves back by two.
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    data[end + 16 : end + 20] = (start + 2).to_bytes(4, "little")
    assert outcome(bytes(data))[0] == "MalformedInput"


MEMBERS = [
    "convfc",
    "format",
    "shape",
    "kernel",
    "kernel_bias",
    "bias",
    "indptr",
    "indices",
    "data",
]
every_member = pytest.mark.parametrize("name", MEMBERS)


@every_member
def test_a_pickled_member_is_malformed_and_not_unpickled(name, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    hostile = npy(np.array([Bomb()], object))
    kind, text = outcome(replaced(CSR, **{name: hostile}))
    assert kind == "MalformedInput"
    assert name in text
    assert not (tmp_path / "exploded").exists()


HEADERS = {
    "negative": raw_npy("<f4", (-1,)),
    "negative twice": raw_npy("<f4", (-2, -3), b"\0" * 24),
    "2**64 bytes": raw_npy("<f4", (2**62, 4)),
    "2**93 elements": raw_npy("<f4", (2**31, 2**31, 2**31)),
    "more than there is": raw_npy("<f4", (10**6,), b"\0" * 4),
    "less than there is": raw_npy("<f4", (1,), b"\0" * 8),
    "empty but 2**70": raw_npy("<f4", (0, 2**70)),
    "empty but 2**62": raw_npy("<f4", (0, 2**62)),
    "65 axes": raw_npy("<f4", (1,) * 65, b"\0" * 4),
    "true": raw_npy("<f4", (True,), b"\0" * 4),
    "text of no length": raw_npy("<U0", ()),
    "bytes of no length": raw_npy("|S0", (3,)),
    "fortran": raw_npy("<f4", (2, 2), b"\0" * 16, fortran=True),
    "void": raw_npy("|V4", (1,), b"\0" * 4),
    "dates": raw_npy("<M8[s]", (1,), b"\0" * 8),
    "complex": raw_npy("<c8", (1,), b"\0" * 8),
    "objects": raw_npy("|O", (1,), b"\0" * 8),
    "flags": raw_npy("|b1", (1,), b"\0"),
    "a shape of text": raw_npy("<f4", "x"),
    "no dtype": raw_npy("nonsense", (1,), b"\0" * 4),
    "a broken size": raw_npy("<f4", (1.5,), b"\0" * 4),
    "nothing": b"",
    "magic alone": b"\x93NUMPY",
    "header cut short": b"\x93NUMPY\x01\x00\xff\xff",
    "version 9": b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16,
    "4 GB of header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "brackets": b"\x93NUMPY\x01\x00\x0f\x00" + b"[" * 15,
    "quotes": b"\x93NUMPY\x01\x00\x0f\x00" + b"'" * 15,
    "zeros": b"\x93NUMPY\x01\x00\x0f\x00" + b"\0" * 15,
    "many brackets": b"\x93NUMPY\x01\x00\x00\x20" + b"[" * 0x2000,
    "text": b"no npy at all, but some text",
}


@pytest.mark.slow
@pytest.mark.parametrize("header", HEADERS)
def test_a_member_with_an_impossible_header_is_a_documented_error(header):
    found = {name: outcome(replaced(CSR, **{name: HEADERS[header]}))[0] for name in MEMBERS}
    assert set(found.values()) <= {"MalformedInput", "WrongContents", "wrong"}
    assert {found[name] for name in ("convfc", "kernel", "kernel_bias")} == {"MalformedInput"}


@pytest.mark.parametrize("header", ["more than there is", "less than there is"])
def test_a_header_that_contradicts_the_size_of_its_member_says_so(header):
    for name in ("kernel", "bias", "indptr", "indices", "data"):
        kind, text = outcome(replaced(CSR, **{name: HEADERS[header]}))
        assert kind == "MalformedInput"
        assert f"{name} has " in text
        assert "does not match its header" in text


@pytest.mark.parametrize("text", [b"\xff\xff\xff\xff" * 2, b"\0\0\x11\0" * 2, b"\xff\xdc\0\0" * 2])
def test_metadata_that_is_no_unicode_is_malformed(text):
    assert outcome(replaced(CSR, convfc=raw_npy("<U2", (), text)))[0] == "MalformedInput"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '"convfc/1"', "{}", "[" * 100_000, "9" * 5000, "NaN"]
)
def test_metadata_that_is_no_description_is_malformed(text):
    kind, message = outcome(replaced(CSR, convfc=npy(np.array(text))))
    assert kind == "MalformedInput"
    assert "convfc/1" in message


def test_metadata_of_many_megabytes_is_not_read():
    content = crafted.description(CSR) | {"padding": "x" * 2**20}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "too many" in message


def test_another_schema_is_malformed_and_both_are_named():
    content = crafted.description(CSR) | {"schema": "convfc/2"}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "'convfc/2'" in message
    assert "'convfc/1'" in message


FIELDS = [
    *("schema", "version", "form", "shape", "nonzeros", "kernel_index", "layout", "kind"),
    *(
        "input_shape",
        "output_shape",
        "kernel_shape",
        "axes",
        "groups",
        "transposed",
        "bias",
        "dtype",
        "origin",
    ),
    "digest",
]
WRONG = [
    None,
    -7,
    0,
    1.5,
    10**30,
    "x",
    "",
    [],
    [[]],
    [None],
    {},
    {"x": 1},
    [1, "2"],
    [-1, -1],
    True,
]


def test_the_fields_are_those_that_are_written():
    assert list(crafted.description(CSR)) == FIELDS


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_malformed(field):
    content = crafted.description(CSR)
    expected, found = {}, {}
    for value in WRONG:
        text = json.dumps(value)
        found[text] = outcome(crafted.redescribed(CSR, content | {field: value}))[0]
        expected[text] = "wrong" if field == "digest" else "MalformedInput"
    if field == "origin":
        expected["{}"] = "ok"  # what is not said is not known
    if field == "version":
        expected |= {'"x"': "ok", '""': "ok"}  # a text is all that is asked for
    if field == "bias":
        expected["true"] = "ok"  # as it was
    assert found == expected


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "digest"])
def test_a_field_that_is_missing_is_malformed_and_named(field):
    content = crafted.description(CSR)
    del content[field]
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert field in message


def test_a_missing_digest_is_a_finding():
    content = crafted.description(CSR)
    del content["digest"]
    assert outcome(crafted.redescribed(CSR, content)) == (
        "wrong",
        "geometry, kernel or bias are not as they were written",
    )


AXIS_FIELDS = ["inputs", "outputs", "kernel", "stride", "dilation", "offset"]


@pytest.mark.parametrize("field", AXIS_FIELDS)
@pytest.mark.parametrize("value", [None, 1.0, "1", True, [], 2**41, -(2**41), 10**400])
def test_an_axis_with_a_number_that_is_none_is_malformed(field, value):
    content = crafted.description(CSR)
    content["axes"][0][field] = value
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "convfc/1" in message


@pytest.mark.parametrize("axes", [[5, 5], [None, None], [[], []], ["ab", "cd"], [{}, {}], {"a": 1}])
def test_axes_that_are_no_axes_are_malformed(axes):
    content = crafted.description(CSR) | {"axes": axes}
    assert outcome(crafted.redescribed(CSR, content))[0] == "MalformedInput"


@pytest.mark.parametrize("change", ["more", "fewer", "unknown key", "missing key"])
def test_axes_with_other_keys_or_of_another_number_are_malformed(change):
    content = crafted.description(CSR)
    if change == "more":
        content["axes"].append(content["axes"][0])
    elif change == "fewer":
        content["axes"].pop()
    elif change == "unknown key":
        content["axes"][0]["padding"] = 1
    else:
        del content["axes"][0]["offset"]
    assert outcome(crafted.redescribed(CSR, content))[0] == "MalformedInput"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [12, 47]),
        ("shape", [48, 12]),
        ("nonzeros", 71),
        ("input_shape", [4, 3, 5]),
        ("output_shape", [2, 2, 4]),
        ("dtype", "float64"),
        ("kind", "dense"),
        ("groups", 1),
        ("kernel_shape", [2, 2, 4, 1]),
        ("transposed", True),
    ],
)
def test_metadata_that_contradicts_the_geometry_is_malformed(field, value):
    content = crafted.description(CSR) | {field: value}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert "convfc/1" in message


def test_a_bias_that_the_metadata_do_not_know_of_is_malformed():
    content = crafted.description(CSR) | {"bias": False}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert (kind, "'kernel_bias.npy'" in message) == ("MalformedInput", True)


@pytest.mark.parametrize(
    "origin",
    [{"file": 5}, {"position": "3"}, {"position": True}, {"flipped": 0}, {"where": "x"}, {"": ""}],
)
def test_an_origin_with_another_type_is_malformed(origin):
    content = crafted.description(CSR) | {"origin": origin}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"
    assert f"origin has {next(iter(origin))} = " in message


@pytest.mark.parametrize(
    "layout", [{"order": "channels-first"}, {"order": 5, "transpose": False}, {"transpose": True}]
)
def test_a_layout_that_is_none_is_malformed(layout):
    content = crafted.description(CSR) | {"layout": layout}
    assert outcome(crafted.redescribed(CSR, content))[0] == "MalformedInput"


@pytest.mark.parametrize("order", ["C", "channels_first"])
def test_an_unknown_order_is_malformed_and_named(order):
    content = crafted.description(CSR) | {"layout": {"order": order, "transpose": False}}
    kind, message = outcome(crafted.redescribed(CSR, content))
    assert (kind, repr(order) in message) == ("MalformedInput", True)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs an alarm")
def test_a_kernel_of_2_to_the_40_in_the_metadata_is_malformed_at_once():
    content = crafted.description(CSR)
    axis = dict(zip(AXIS_FIELDS, (4, 4, 2**40, 1, 1, 0), strict=True))
    content |= {"kernel_shape": [2, 2, 2**40], "axes": [axis]}
    with within(5):
        kind, _ = outcome(crafted.redescribed(CSR, content))
    assert kind == "MalformedInput"


def rewritten(**changes):
    """The csr example with arrays replaced, as numpy saves it."""
    contents = crafted.arrays(CSR)
    for name, change in changes.items():
        contents[name] = change(contents[name]) if callable(change) else change
    return crafted.saved(contents)


@pytest.mark.parametrize("name", ["indices", "indptr"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "U3", "S4"])
def test_indices_that_are_no_integers_are_wrong_contents(name, dtype):
    kind, message = outcome(rewritten(**{name: lambda array: array.astype(dtype)}))
    assert kind == "WrongContents"
    assert f"{name} is " in message
    assert "integers" in message


@pytest.mark.parametrize("name", ["indices", "indptr"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "u4", "u8", ">i4", ">i8"])
def test_indices_of_another_dtype_than_the_schema_has_are_wrong_contents(name, dtype):
    kind, message = outcome(rewritten(**{name: lambda array: array.astype(dtype)}))
    assert kind == "WrongContents"
    assert "integers of 32 or 64 bits" in message


@pytest.mark.parametrize("name", ["indices", "indptr"])
def test_indices_of_64_bits_are_read_where_32_would_do(name):
    assert outcome(rewritten(**{name: lambda array: array.astype(np.int64)})) == ("ok", "")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["i1", "u1"])
def test_indices_of_one_byte_with_many_entries_crash_nothing(dtype):
    # 14 columns fit a byte, the 576 entries of a block do not. In a process of its own: a sparse
    # product with row pointers that have wrapped round reads wherever it likes.
    axis = Axis(inputs=14, outputs=12, kernel=3, stride=1, dilation=1, offset=0)
    layer = Convolution(np.ones((16, 1, 3), np.float32), IndexMap((16, 1, 3), (axis,)))
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    contents["indices"] = contents["indices"].astype(dtype)
    code = """
import sys
from tests.support.crafted import outcome
print(outcome(sys.stdin.buffer.read())[0])
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=crafted.saved(contents),
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr.decode()[-500:]
    assert found.stdout.decode().strip() in {"ok", "wrong", "WrongContents", "MalformedInput"}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.int32, "U8"])
def test_data_of_another_dtype_than_the_kernel_are_wrong_contents(dtype):
    kind, message = outcome(rewritten(data=lambda array: array.astype(dtype)))
    assert kind == "WrongContents"
    assert f"data is {np.dtype(dtype)}" in message
    assert "float32" in message


@pytest.mark.parametrize("dtype", [np.float16, np.int64, ">f4", "U8", np.longdouble])
def test_a_kernel_of_a_dtype_that_no_layer_has_is_malformed(dtype):
    kind, message = outcome(rewritten(kernel=lambda array: array.astype(dtype)))
    assert kind == "MalformedInput"
    assert "float32 or float64 or int32" in message


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("indptr", lambda a: a[:-1], "(12,)"),
        ("indptr", lambda a: np.append(a, a[-1]), "(14,)"),
        ("indptr", lambda a: a.reshape(1, -1), "(1, 13)"),
        ("indices", lambda a: a[:-1], "(71,)"),
        ("data", lambda a: np.append(a, a), "(144,)"),
        ("data", lambda a: a.reshape(-1, 1), "(72, 1)"),
        ("shape", lambda a: a[::-1], "[48, 12]"),
        ("shape", lambda a: np.append(a, 1), "[12, 48, 1]"),
        ("shape", lambda a: a.astype(float), "[12.0, 48.0]"),
        ("format", np.array(b"csc"), "format is not csr"),
        ("format", np.array(["csr"]), "format is not csr"),
        ("format", np.array(5), "format is not csr"),
    ],
)
def test_arrays_of_other_shapes_are_wrong_contents_with_their_numbers(name, change, expected):
    kind, message = outcome(rewritten(**{name: change}))
    assert kind == "WrongContents"
    assert expected in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a + 1, "indptr does not begin with 0"),
        (lambda a: a - 1, "indptr does not begin with 0"),
        (lambda a: np.where(np.arange(13) == 5, 0, a), "row 4 ends at entry 0 by indptr"),
        (lambda a: np.where(np.arange(13) == 5, -9, a), "row 4 ends at entry -9 by indptr"),
        (lambda a: np.where(np.arange(13) == 5, 2**30, a), f"row 4 ends at entry {2**30}"),
        (lambda a: np.append(a[:-1], a[-1] + 1), "row 11 ends at entry 73"),
        (lambda a: a.astype(np.int64) + 2**32 * (np.arange(13) > 5), "row 5 ends at entry 4294"),
    ],
)
def test_row_pointers_that_are_not_the_geometrys_are_found(change, expected):
    kind, message = outcome(rewritten(indptr=change))
    assert kind == "wrong"
    assert expected in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: np.append(a, a), "bias is (24,)"),
        (lambda a: a.reshape(2, 2, 3), "bias is (2, 2, 3)"),
        (lambda a: a.astype(np.float64), "float64"),
        (lambda a: a.astype("U9"), "<U9"),
        (lambda a: a + 1, "bias 0 is 1.5, by the kernel_bias 0.5"),
    ],
)
def test_a_bias_that_is_not_the_kernel_bias_flattened_is_found(change, expected):
    kind, message = outcome(rewritten(bias=change))
    assert kind == "wrong"
    assert expected in message


def test_a_kernel_bias_of_another_size_is_malformed():
    kind, message = outcome(rewritten(kernel_bias=lambda a: np.append(a, a)))
    assert (kind, "(4,)" in message) == ("MalformedInput", True)


def with_index(**changes):
    """A csr file with a kernel_index, arrays replaced, as numpy saves it."""
    contents = crafted.arrays(rendered(NPZ, example(kernel_index=True)))
    for name, change in changes.items():
        contents[name] = change(contents[name])
    return crafted.saved(contents)


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        (lambda a: a[:-1], "WrongContents", "(71,)"),
        (lambda a: a.astype(float), "WrongContents", "integers"),
        (lambda a: a - 1, "wrong", "kernel_index has -1, beyond the 16 weights"),
        (lambda a: a + 1, "wrong", "kernel_index has 16, beyond the 16 weights"),
        (lambda a: np.roll(a, 1), "wrong", "kernel_index of row 0 names other kernel elements"),
        (
            lambda a: np.where(np.arange(72) == 71, 0, a),
            "wrong",
            "kernel_index of row 11 names other kernel elements",
        ),
        (lambda a: a.astype(np.uint64) + 2**63, "WrongContents", "integers"),
    ],
)
def test_a_kernel_index_that_is_wrong_is_found(change, kind, expected):
    assert outcome(with_index(kernel_index=lambda a: a)) == ("ok", "")
    found = outcome(with_index(kernel_index=change))
    assert found[0] == kind
    assert expected in found[1]


def test_a_kernel_index_that_names_another_element_of_the_same_weight_is_found():
    axis = Axis(inputs=4, outputs=3, kernel=2, stride=1, dilation=1, offset=0)
    layer = Convolution(np.ones((1, 1, 2), np.float32), IndexMap((1, 1, 2), (axis,)))
    contents = crafted.arrays(rendered(NPZ, Matrix(layer, Spec(kernel_index=True))))
    assert contents["kernel_index"].tolist() == [0, 1] * 3
    assert outcome(crafted.saved(contents)) == ("ok", "")
    contents["kernel_index"] = contents["kernel_index"][::-1].copy()
    kind, message = outcome(crafted.saved(contents))
    assert kind == "wrong"
    assert "kernel_index" in message


def test_one_weight_changed_is_explained_by_output_input_kernel_element_and_values():
    def change(data):
        data[40] = 99
        return data

    # Entry 40 is in row 6: output (1, 0, 0), which reads i = 0 of the first axis through t = 1
    kind, message = outcome(rewritten(data=change))
    assert kind == "wrong"
    contents = crafted.arrays(CSR)
    row = int(np.searchsorted(contents["indptr"], 40, side="right")) - 1
    column = int(contents["indices"][40])
    output = np.unravel_index(row, (2, 2, 3))
    source = np.unravel_index(column, (4, 3, 4))
    place = next(
        element
        for (o, i), element in brute.nonzeros(
            (2, 2, 2, 2), example().layer.index_map.axes, 2, False
        ).items()
        if o == tuple(map(int, output)) and i == tuple(map(int, source))
    )
    weight = contents["kernel"][place]
    assert message == (
        f"entry ({row}, {column}), output {tuple(map(int, output))} from input "
        f"{tuple(map(int, source))}: kernel element {place}, expected {weight}, found 99.0"
    )
