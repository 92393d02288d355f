"""Keras files that were cut short, altered, or made to do harm: each ends in an error of ours.

Never another exception, never more than seconds, and nothing is written.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import convfc_cli as convfc
from convfc_cli import errors
from convfc_cli.errors import ConvfcError, MalformedInput, Refused
from tests.support.cli_models import process, run
from tests.support.keras_files import (
    METADATA,
    Config,
    called,
    functional,
    given_input,
    layer,
    legacy,
    ramp,
    sequential,
    store,
    texts,
    zipped,
)
from tests.support.one_child import in_one_child

pytestmark = pytest.mark.slow

Array = NDArray[Any]


CODES = (2, 3, 4, 5)


def conv(name: str, *sources: Any, **config: Any) -> Config:
    config = {"filters": 2, "kernel_size": [2, 2], "use_bias": True, **config}
    return layer("Conv2D", name, *sources, **config)


def small() -> Config:
    """A model with a bit of everything."""
    inner = functional([given_input("i", None, None, 2), conv("c", "i")], ["c"], name="sub")
    return functional(
        [
            given_input("x", 9, 8, 2),
            conv("a", "x", padding="same", strides=[2, 1], dilation_rate=[1, 1], groups=1),
            layer("MaxPooling2D", "p", "a", pool_size=[2, 2], strides=None, padding="valid"),
            called(inner, [["p", 0, 0]]),
            layer("Conv2DTranspose", "t", "p", filters=3, kernel_size=[2, 2], output_padding=None),
            layer("DepthwiseConv2D", "d", "t", kernel_size=2, depth_multiplier=2),
        ],
        ["d", ["sub", 0, 0]],
    )


ARRAYS = {
    "a": [ramp(2, 2, 2, 2), ramp(2)],
    "sub/c": [ramp(2, 2, 2, 2, start=50), ramp(2)],
    "t": [ramp(2, 2, 3, 2), ramp(3)],
    "d": [ramp(2, 2, 3, 2), ramp(6)],
}


def small_legacy(path: Path, model: Any = None) -> Path:
    held: dict[str, Any] = {}
    for name, (kernel, bias) in ARRAYS.items():
        top, _, _ = name.partition("/")
        part = "depthwise_kernel" if name == "d" else "kernel"
        scope = name.rpartition("/")[2]
        held[top] = [(f"{scope}/{part}:0", kernel), (f"{scope}/bias:0", bias)]
    return legacy(path, small() if model is None else model, held)


def small_zip(path: Path, model: Any = None, **rest: Any) -> Path:
    groups = {
        "layers/conv2d": ARRAYS["a"],
        "layers/functional/layers/conv2d": ARRAYS["sub/c"],
        "layers/conv2d_transpose": ARRAYS["t"],
        "layers/depthwise_conv2d": ARRAYS["d"],
    }
    return zipped(path, small() if model is None else model, groups, **rest)


def outcome(path: Path, shapes: Any = None) -> list[Any]:
    """What listing and loading every layer of a file comes to: kernels, and errors by their class.

    Anything but an error of ours escapes.
    """
    found: list[Any] = []
    try:
        for entry in convfc.read(path, shapes).entries:
            try:
                found.append((entry.name, entry.load().kernel.tobytes()))
            except ConvfcError as error:
                found.append(checked(error))
    except ConvfcError as error:
        found.append(checked(error))
    return found


def checked(error: ConvfcError) -> str:
    assert error.exit_code in CODES, error
    assert len(str(error)) > 10
    return type(error).__name__


def refused(path: Path, *codes: int) -> str:
    """The one line with which the command refuses a file, having written nothing."""
    folder = path.parent / "written"
    done = run("convert", path, "-q", "-o", f"{folder}/")
    assert done.code in (codes or CODES), done
    assert not list(folder.glob("*")) if folder.exists() else True
    return done.failed(done.code)


@pytest.mark.parametrize("make", [small_legacy, small_zip])
def test_the_small_model_is_sound(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "m")
    assert [name for name, _ in outcome(path)] == list(ARRAYS)
    run("convert", path, "-o", f"{tmp_path}/o/").succeeded()


# Damage.


def ends(size: int) -> list[int]:
    return [*range(0, 200, 7), *range(200, size, size // 60), *range(size - 60, size, 3)]


@pytest.mark.parametrize("make", [small_legacy, small_zip])
@in_one_child
def test_a_file_cut_short(make: Callable[[Path], Path], tmp_path: Path) -> None:
    content = make(tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    for end in ends(len(content)):
        path.write_bytes(content[:end])
        assert all(isinstance(found, str) for found in outcome(path)), end
    path.write_bytes(content[: len(content) // 2])
    assert refused(path, 3)


def test_a_byte_of_a_zip_is_another(tmp_path: Path) -> None:
    """The checksums of a zip tell: either an error, or nothing has changed."""
    content = small_zip(tmp_path / "whole").read_bytes()
    path = tmp_path / "changed"
    sound = outcome(tmp_path / "whole")
    told = 0
    for place in range(0, len(content), 50):
        changed = bytearray(content)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        found = outcome(path)
        if found != sound:
            assert all(isinstance(one, str) for one in found), place
            told += 1
    assert told > len(content) // 50 * 0.8


def test_a_byte_of_a_legacy_file_is_another(tmp_path: Path) -> None:
    """HDF5 has no checksums: other numbers are other numbers; but nothing else goes wrong."""
    content = small_legacy(tmp_path / "whole").read_bytes()
    path = tmp_path / "changed"
    for place in range(0, len(content), 101):
        changed = bytearray(content)
        changed[place] ^= 0x15
        path.write_bytes(changed)
        outcome(path)


# Zips.


def archive(path: Path, *members: tuple[str, bytes]) -> Path:
    """A zip of these members, names as often as they are given."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            with file.open(info, "w") as member:
                member.write(content)
    return path


def parts() -> dict[str, bytes]:
    held = store({"layers/conv2d": [ramp(2, 2, 2, 2), ramp(2)]})
    model = sequential(given_input("x", 5, 5, 2), conv("a"))
    return {
        "metadata.json": json.dumps(METADATA).encode(),
        "config.json": json.dumps(model).encode(),
        "model.weights.h5": held,
    }


def test_a_sound_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", *parts().items())
    assert [name for name, _ in outcome(path)] == ["a"]


@pytest.mark.parametrize("missing", ["model.weights.h5", "config.json"])
def test_a_member_is_missing(missing: str, tmp_path: Path) -> None:
    rest = {name: content for name, content in parts().items() if name != missing}
    assert refused(archive(tmp_path / "m.keras", *rest.items()), 3, 4)


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "..\\up", "a/../../b"])
def test_names_that_lead_elsewhere_are_nobodys(name: str, tmp_path: Path) -> None:
    """No member is ever unpacked under its own name."""
    path = archive(tmp_path / "m.keras", *parts().items(), (name, b"harm"))
    before = sorted(tmp_path.rglob("*"))
    assert [name for name, _ in outcome(path)] == ["a"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "metadata.json"])
def test_a_member_that_is_there_twice(name: str, tmp_path: Path) -> None:
    """One account of a member, not a mixture: an error, or that which Python's own zipfile has."""
    other = parts()
    other["config.json"] = json.dumps(sequential(given_input("x", 6, 6, 2), conv("b"))).encode()
    other["model.weights.h5"] = store({"layers/conv2d": [-ramp(2, 2, 2, 2), ramp(2)]})
    other["metadata.json"] = b'{"keras_version": "9.9"}'
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "m.keras", *parts().items(), (name, other[name]))
    found = outcome(path)
    if name == "metadata.json":
        assert found == ["Unsupported"]
        return
    (one,) = found
    sign = -1 if name == "model.weights.h5" else 1
    kernel = sign * ramp(2, 2, 2, 2).transpose(3, 2, 0, 1)
    assert one in (
        "MalformedInput",
        "Refused",
        ("b" if name == "config.json" else "a", kernel.tobytes()),
    )


def declared(path: Path, name: str, size: int) -> Path:
    """The archive whose directory says that a member has this size, unpacked."""
    archive(path, *parts().items())
    content = bytearray(path.read_bytes())
    for signature, sizes, name_at in ((b"PK\1\2", 24, 46), (b"PK\3\4", 22, 30)):
        at = content.find(signature)
        while at >= 0:
            if content[at + name_at :].startswith(name.encode()):
                struct.pack_into("<I", content, at + sizes, size)
            at = content.find(signature, at + 1)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
@pytest.mark.parametrize("size", [0xFFFFFFFE, 2**31, 10, 0])
def test_a_member_of_another_size_than_it_says(name: str, size: int, tmp_path: Path) -> None:
    assert refused(declared(tmp_path / "m.keras", name, size), 3, 5)


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
def test_a_zip_bomb(name: str, tmp_path: Path) -> None:
    """300 MB of spaces in 300 kB; as weights they are not HDF5."""
    members = parts()
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as file:
        for part, content in members.items():
            with file.open(part, "w") as member:
                if part == name:
                    for _ in range(300):
                        member.write(b" " * 10**6)
                else:
                    member.write(content)
    assert refused(tmp_path / "m.keras", 3, 5)


def test_more_members_than_any_model_has(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", *parts().items(), *((f"m{n}", b"") for n in range(10_001)))
    assert "members" in refused(path, 5)


@pytest.mark.parametrize(
    "metadata", [b"", b"[]", b"{}", b"null", b"[" * 10**5, b'{"keras_version": {}}', b"\xff\xfe"]
)
def test_metadata_that_is_none(metadata: bytes, tmp_path: Path) -> None:
    members = {**parts(), "metadata.json": metadata}
    assert refused(archive(tmp_path / "m.keras", *members.items()), 3, 4)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\3\4", b"x" * 5000])
def test_weights_that_are_none(content: bytes, tmp_path: Path) -> None:
    members = {**parts(), "model.weights.h5": content}
    assert refused(archive(tmp_path / "m.keras", *members.items()), 3)


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", *parts().items())
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = content.find(signature)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(signature, at + 1)
    path.write_bytes(content)
    assert "encrypted" in refused(path, 4)


def test_a_method_of_compression_that_nobody_has(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", *parts().items())
    content = bytearray(path.read_bytes())
    for signature, method in ((b"PK\1\2", 10), (b"PK\3\4", 8)):
        at = content.find(signature)
        while at >= 0:
            struct.pack_into("<H", content, at + method, 99)
            at = content.find(signature, at + 1)
    path.write_bytes(content)
    assert refused(path, 3, 4)


# Configurations.

TEXTS: dict[str, str | bytes] = {
    "nothing": "",
    "a number": "3",
    "a list": "[]",
    "null": "null",
    "deep lists": "[" * 10**5 + "]" * 10**5,
    "deep objects": '{"class_name":' * 10**5,
    "deep lists within": '{"class_name": "Sequential", "config": {"layers": '
    + "[" * 900
    + "]" * 900
    + "}}",
    "cut short": '{"class_name": "Sequential"',
    "no class": '{"config": {}}',
    "class of no text": '{"class_name": 5, "config": []}',
    "no UTF-8": b'{"class_name": "\xff"}',
    "UTF-16": '{"class_name": "Sequential"}'.encode("utf-16"),
    "no layers": '{"class_name": "Sequential", "config": {"layers": []}}',
    "layers that are none": '{"class_name": "Sequential", "config": {"layers": [1, 2]}}',
    "layers of no class": '{"class_name": "Sequential", "config": {"layers": [{}]}}',
    "no outputs": '{"class_name": "Model", "config": {"layers": [], "input_layers": []}}',
    "a long number": '{"class_name": "Sequential", "config": ' + "9" * 10**5 + "}",
    "a surrogate": '{"class_name": "\\ud800", "config": {"name": "\\udfff", "layers": []}}',
}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (kind, what)
        for kind in ("legacy", "zip")
        for what in TEXTS
        if (kind, what) != ("legacy", "UTF-16")  # text in HDF5 has no zero bytes
    ],
)
def test_a_configuration_that_is_none(kind: str, what: str, tmp_path: Path) -> None:
    text = TEXTS[what]
    if kind == "zip":
        path = small_zip(tmp_path / "m.keras", text)
    else:
        content = text.encode() if isinstance(text, str) else text
        path = small_legacy(tmp_path / "m.h5", b"x")
        with h5py.File(path, "a") as file:
            del file.attrs["model_config"]
            dtype = h5py.string_dtype()
            file.attrs.create("model_config", content, dtype=dtype)
    assert refused(path, 2, 3)


def test_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    for value in (5, [1.5, 2], np.array(["a", "b"], dtype="S1")):
        path = small_legacy(tmp_path / "m.h5")
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = value
        assert "not text" in refused(path, 3)


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**200,
    -(2**70),
    0.5,
    float("nan"),
    float("inf"),
    1e400,
    "",
    "same",
    "x" * 5000,
    "a\nb\0c",
    "\ud800",
    [],
    [0],
    [2, 2, 2, 2, 2, 2],
    [[2, 2], [2, 2]],
    [None, "x", 1.5],
    {},
    {"class_name": "__tuple__", "items": [2, 2]},
    {"class_name": "__keras_tensor__"},
    {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 2**70, -1]}},
    ["x", 0, 0, {}],
    ["x", -1, -1],
    ["a", 10**9, 10**9],
]
"""What may stand where something else belongs."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a configuration."""
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, part in items:
        yield from places(part, (*path, key))


def changed(model: Any, path: tuple[Any, ...], value: Any) -> Any:
    model = deepcopy(model)
    holder = model
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return model


PLACES = list(places(small()))

PARTS = [reduce(getitem, place, small()) for place in PLACES]
"""What stands there: in the place of another part it is well formed, and wrong."""


def reread(model: Any, path: Path) -> list[Any]:
    """Put another configuration into a legacy file, and read that."""
    with h5py.File(path, "a") as file:
        text = json.dumps(model)
        file.attrs["model_config"] = text
    return outcome(path)


def is_told_or_stored(found: Any) -> bool:
    """An error of ours by its class, or a kernel that is one of the file's arrays, turned about."""
    if isinstance(found, str):
        return issubclass(getattr(errors, found), ConvfcError)
    values = np.sort(np.frombuffer(found[1], np.float32))
    return any(np.array_equal(values, np.sort(kernel, axis=None)) for kernel, _ in ARRAYS.values())


@pytest.mark.usefixtures("once_in_place")  # the HDF5 around the configuration is sound
@pytest.mark.parametrize("value", ODD, ids=[repr(odd)[:40] for odd in ODD])
def test_anything_anywhere(value: Any, tmp_path: Path) -> None:
    path = small_legacy(tmp_path / "m.h5")
    for place in PLACES[:: 3 if ODD.index(value) % 2 else 2]:
        for found in reread(changed(small(), place, value), path):
            assert is_told_or_stored(found), place


VALUES = st.sampled_from(ODD) | st.sampled_from(PARTS) | st.integers() | st.floats()


@settings(max_examples=60)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(PLACES), st.sampled_from(ODD + PARTS) | st.integers() | st.floats()
        ),
        min_size=2,
        max_size=4,
    )
)
def test_several_things_anywhere(changes: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = small()
    for place, value in changes:
        try:
            model = changed(model, place, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    for found in reread(model, small_legacy(tmp_path_factory.mktemp("m") / "m.h5")):
        assert is_told_or_stored(found)


@pytest.mark.parametrize("make", [small_legacy, small_zip])
@pytest.mark.parametrize("is_inner", [False, True])
def test_an_input_that_is_not_a_layer(
    make: Callable[..., Path], is_inner: bool, tmp_path: Path
) -> None:
    """It is looked for when a size is missing: no sooner, were it not held to the layers."""
    model = small()
    inputs = [place for place in PLACES if place[-1] == "input_layers"]
    assert len(inputs) > 1
    model = changed(model, inputs[is_inner], [["nowhere", 0, 0]])
    message = refused(make(tmp_path / ("m.h5" if make is small_legacy else "m.keras"), model), 3)
    assert "'nowhere', an input of" in message


def test_places_are_all_over_the_configuration() -> None:
    assert len(PLACES) > 150
    assert len({place[-1] for place in PLACES if isinstance(place[-1], str)}) > 15


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("depth", [20, 31])
def test_models_that_call_each_other_twice(depth: int, calls: int, tmp_path: Path) -> None:
    """2 to the power of the depth calls, in a configuration of some kilobytes."""
    last = conv("c", "x", padding="same") if calls else layer("ReLU", "c", "x")
    model = functional([given_input("x", 9, 9, 2), last], ["c"], name="m0")
    for number in range(1, depth):
        twice = called(model, [["x", 0, 0]], [[f"m{number - 1}", 0, 0]])
        model = functional(
            [given_input("x", 9, 9, 2), twice], [[f"m{number - 1}", 1, 0]], name=f"m{number}"
        )
    path = small_legacy(tmp_path / "m.h5", model)
    assert "times" in refused(path, 5)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
@pytest.mark.parametrize("kind", ["legacy", "zip", "within a model"])
def test_thousands_of_layers_take_seconds(kind: str, order: int, tmp_path: Path) -> None:
    count = 1000
    names = [f"c{number}" for number in range(count)]
    items = [given_input("x", 9, 9, 2)]
    items += [
        conv(name, source, padding="same", use_bias=False)
        for name, source in zip(names, ["x", *names], strict=False)
    ]
    model = functional(items[::order], [names[-1]])
    kernel = ramp(2, 2, 2, 2)
    if kind == "zip":
        groups = {f"layers/conv2d_{n}" if n else "layers/conv2d": [kernel] for n in range(count)}
        path = zipped(tmp_path / "m.keras", model, groups)
    elif kind == "legacy":
        held = {name: [(f"{name}/kernel:0", kernel)] for name in names}
        path = legacy(tmp_path / "m.h5", model, held)
    else:
        sub = called({**model, "name": "sub"}, [["x", 0, 0]])
        sub["config"]["name"] = "sub"
        model = functional([given_input("x", 9, 9, 2), sub], [["sub", 0, 0]])
        held = {"sub": [(f"{name}/kernel:0", kernel) for name in names[::order]]}
        path = legacy(tmp_path / "m.h5", model, held)
    entries = convfc.read(path).entries
    assert len(entries) == count
    assert {entry.status for entry in entries} == {"ready"}
    assert entries[count // 2].load().kernel.shape == (2, 2, 2, 2)


def test_weights_that_may_be_anyones_take_seconds(tmp_path: Path) -> None:
    """Thousands of layers in a model, and as many variables of which none fits by its name."""
    names = [f"c{number}" for number in range(1500)]
    sub = sequential(given_input("x", 9, 9, 2), *(conv(n, padding="same") for n in names), name="s")
    model = sequential(given_input("x", 9, 9, 2), {**sub, "name": "s"})
    held = {"s": [(f"d{number}/kernel:0", ramp(2, 2, 2, 2)) for number in range(1499)]}
    assert set(outcome(legacy(tmp_path / "m.h5", model, held))) == {"MalformedInput"}


def test_layers_that_a_name_cannot_tell_apart(tmp_path: Path) -> None:
    model = functional([given_input("x", 5, 5, 2), conv("a", "x"), conv("a", "x")], ["a"])
    assert "same name" in refused(small_legacy(tmp_path / "m.h5", model), 3)


def test_a_circle(tmp_path: Path) -> None:
    model = functional([given_input("x", 5, 5, 2), conv("a", "b"), conv("b", "a")], ["b"])
    assert "circle" in refused(small_legacy(tmp_path / "m.h5", model), 3)


@pytest.mark.parametrize("size", [2**40, 2**62, 2**100])
@pytest.mark.parametrize("key", ["filters", "kernel_size", "strides", "dilation_rate", "groups"])
def test_huge_numbers_take_no_memory(key: str, size: int, tmp_path: Path) -> None:
    for kind in ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D"):
        for padding in ("valid", "same"):
            config = {"filters": 2, "kernel_size": [2, 2], "padding": padding, key: size}
            model = sequential(given_input("x", 5, 5, 2), layer(kind, "a", **config))
            found = outcome(small_legacy(tmp_path / "m.h5", model))
            kernel = size == 2**40 and found[0][0] == "a"  # a step as long as any may be
            assert kernel or found == ["GeometryError"]


def test_an_image_larger_than_any(tmp_path: Path) -> None:
    for size in (2**20, 2**40, 2**63, 2**100):
        model = sequential(given_input("x", size, size, 2), conv("a"))
        refused(small_legacy(tmp_path / "m.h5", model), 3, 5)


@pytest.mark.parametrize("rank", [0, -1, 0.5, "3", True, float("nan"), [1], 10**30, 10**400])
def test_ranks_of_lora_that_are_none(rank: Any, tmp_path: Path) -> None:
    model = sequential(given_input("x", 5, 5, 2), conv("a", lora_rank=rank, lora_alpha=rank))
    path = small_legacy(tmp_path / "m.h5", model)
    with h5py.File(path, "a") as file:
        group = file["model_weights/a"]
        group["a/lora_kernel_a"] = ramp(2, 2, 2, 3)
        group["a/lora_kernel_b"] = ramp(3, 2)
        names = ["a/kernel:0", "a/bias:0", "a/lora_kernel_a", "a/lora_kernel_b"]
        group.attrs["weight_names"] = texts(names)
    found = outcome(path)[0]
    assert found == "MalformedInput" if isinstance(rank, str | list) else found[0] == "a"


def test_a_factor_that_is_beyond_all_numbers(tmp_path: Path) -> None:
    for alpha in (1e308, float("inf"), 10**400):
        model = sequential(given_input("x", 5, 5, 2), conv("a", lora_rank=1, lora_alpha=alpha))
        path = small_legacy(tmp_path / "m.h5", model)
        with h5py.File(path, "a") as file:
            group = file["model_weights/a"]
            group["a/lora_kernel_a"] = ramp(2, 2, 2, 1)
            group["a/lora_kernel_b"] = ramp(1, 2)
            names = ["a/kernel:0", "a/bias:0", "a/lora_kernel_a", "a/lora_kernel_b"]
            group.attrs["weight_names"] = texts(names)
        found = outcome(path)[0]
        if alpha == 10**400:  # no float at all
            assert found == "MalformedInput"
        else:
            assert found[0] == "a"
            assert not np.isfinite(np.frombuffer(found[1], np.float32)).any()


# HDF5.


def linked(path: Path, what: str, target: Path) -> Path:
    """The small model whose kernel of `a` is a link, or a dataset that is somewhere else."""
    small_legacy(path)
    with h5py.File(target, "w") as other:
        other["kernel"] = ramp(2, 2, 2, 2)
    with h5py.File(path, "a") as file:
        group = file["model_weights/a/a"]
        del group["kernel:0"]
        if what == "an external link":
            group["kernel:0"] = h5py.ExternalLink(str(target), "kernel")
        elif what == "a soft link":
            group["kernel:0"] = h5py.SoftLink("/model_weights/sub/c/kernel:0")
        elif what == "a soft link to itself":
            group["kernel:0"] = h5py.SoftLink("/model_weights/a/a/kernel:0")
        elif what == "a virtual dataset":
            layout = h5py.VirtualLayout((2, 2, 2, 2), "f4")
            layout[:] = h5py.VirtualSource(str(target), "kernel", (2, 2, 2, 2))
            group.create_virtual_dataset("kernel:0", layout)
        elif what == "external storage":
            target.with_suffix(".raw").write_bytes(bytes(64))
            outside = [(str(target.with_suffix(".raw")), 0, 64)]
            group.create_dataset("kernel:0", (2, 2, 2, 2), "f4", external=outside)
    return path


LINKS = [
    "an external link",
    "a soft link",
    "a soft link to itself",
    "a virtual dataset",
    "external storage",
]


@pytest.mark.parametrize("what", LINKS)
def test_weights_that_lie_elsewhere_are_refused(what: str, tmp_path: Path) -> None:
    path = linked(tmp_path / "m.h5", what, tmp_path / "other.h5")
    told = refused(path, 5)
    assert "link" in told or "virtual" in told or "another file" in told


@pytest.mark.parametrize("what", ["an external link", "a soft link"])
def test_groups_that_lie_elsewhere_are_refused(what: str, tmp_path: Path) -> None:
    small_legacy(tmp_path / "other.h5")
    for place in ("model_weights/a", "model_weights"):
        path = small_legacy(tmp_path / "m.h5")
        with h5py.File(path, "a") as file:
            file.move(place, "elsewhere")
            there = h5py.SoftLink("/elsewhere")
            if what == "an external link":
                there = h5py.ExternalLink(str(tmp_path / "other.h5"), place)
            file[place] = there
        refused(path, 5)


@pytest.mark.parametrize("what", ["an external link", "a soft link"])
def test_links_in_the_store_of_a_zip(what: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["0"] = ramp(2, 2, 2, 2)
    content = io.BytesIO(store({"layers/conv2d": [ramp(2, 2, 2, 2), ramp(2)]}))
    with h5py.File(content, "a") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = (
            h5py.SoftLink("/layers/conv2d/vars/1")
            if what == "a soft link"
            else h5py.ExternalLink(str(tmp_path / "other.h5"), "0")
        )
    members = {**parts(), "model.weights.h5": content.getvalue()}
    assert refused(archive(tmp_path / "m.keras", *members.items()), 5)


def test_weights_that_were_declared_and_never_written(tmp_path: Path) -> None:
    """40 TB, as the file says, which has some kilobytes."""
    size = 2**20
    model = sequential(given_input("x", 5, 5, size), conv("a", filters=size, use_bias=False))
    path = small_legacy(tmp_path / "m.h5", model)
    with h5py.File(path, "a") as file:
        group = file["model_weights/a/a"]
        del group["kernel:0"]
        group.create_dataset("kernel:0", (2, 2, size, size), "f4", chunks=(2, 2, 64, 64))
    assert refused(path, 5)


@pytest.mark.parametrize("number", ["9" * 5000, "99999999999", "-1", "²", "٣", "1_000", " 1"])
def test_numbers_of_groups_that_are_none(number: str, tmp_path: Path) -> None:
    held = {"layers/conv2d": [ramp(2, 2, 2, 2), ramp(2)], f"layers/conv2d_{number}": [ramp(2)]}
    model = sequential(given_input("x", 5, 5, 2), conv("a"))
    found = outcome(zipped(tmp_path / "m.keras", model, held))
    expected = ("a", ramp(2, 2, 2, 2).transpose(3, 2, 0, 1).tobytes())
    assert found in ([expected], ["MalformedInput"])


def test_a_convolution_that_says_it_is_an_operation(tmp_path: Path) -> None:
    """Operations have no weights of their own, so this one has none either."""
    item = {**conv("a"), "module": "keras.src.ops.nn"}
    model = sequential(given_input("x", 5, 5, 2), item)
    path = zipped(tmp_path / "m.keras", model, {"layers/conv2d": ARRAYS["a"]})
    assert "weights are not found" in refused(path, 3)


@pytest.mark.parametrize(
    "names", [5, [1.5], [[b"a"], [b"b"]], b"a/kernel:0", [b"a/kernel:0"] * 9, [b""], [b"a"], [b"."]]
)
def test_lists_of_names_that_are_none(names: Any, tmp_path: Path) -> None:
    path = small_legacy(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        file["model_weights/a"].attrs["weight_names"] = names
    found = outcome(path)
    assert found[0] in ("MalformedInput", "UsageError")
    assert [one[0] for one in found[1:]] == ["sub/c", "t", "d"]


@pytest.mark.parametrize("version", ["", "x", "1", "nan", "2" * 5000, "\0", 7, [1, 2]])
def test_versions_that_are_none(version: Any, tmp_path: Path) -> None:
    path = small_legacy(tmp_path / "m.h5")
    usual = outcome(path)
    for key in ("keras_version", "backend"):
        with h5py.File(path, "a") as file:
            if isinstance(version, str):
                value = version.encode() or b" "
                file.attrs[key] = np.void(value) if b"\0" in value else value
            else:
                file.attrs[key] = version
        assert outcome(path) == (["MalformedInput"] if version == "\0" else usual)


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """No traceback, and one line, where the interpreter itself might give up."""
    path = small_zip(tmp_path / "m.keras", "[" * 10**6)
    told = process("convert", path, "-o", "o/", cwd=tmp_path).failed(3)
    assert "not that of Keras" in told
    assert not (tmp_path / "o").exists()


def test_the_errors_are_the_documented_ones(tmp_path: Path) -> None:
    with pytest.raises(MalformedInput):
        convfc.read(small_zip(tmp_path / "m.keras", "[]"))
    with pytest.raises(Refused):
        convfc.read(declared(tmp_path / "n.keras", "config.json", 2**31))


# Very many layers and calls are counted before anything is made of them.


@pytest.mark.parametrize("what", ["layers", "calls"])
def test_very_many_layers_or_calls_are_refused_by_their_number(what: str, tmp_path: Path) -> None:
    if what == "layers":
        items = [{"class_name": f"a{number}", "config": {}} for number in range(10_001)]
        model: Config = {"class_name": "Sequential", "config": {"name": "s", "layers": items}}
    else:
        shared = called(conv("a"), *([["x", 0, 0]] for _ in range(10_001)))
        model = functional([given_input("x", 9, 8, 2), shared], [["a", 0, 0]])
    path = small_zip(tmp_path / "m.keras", model)
    with pytest.raises(Refused, match=r"m\.keras: it applies layers more than 10000 times"):
        convfc.read(path)
