"""NIR graphs: complete, so nothing is described; what is malformed is said node by node."""

import json
import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput, SizeMissing, Unsupported, UsageError
from tests.support.cli_models import arrays, listing, matrix_of, run
from tests.support.hdf5_files import matrix, nir, node, ramp, recorded

pytestmark = pytest.mark.usefixtures("folder", "in_place")


# As the package `nir` writes them, against PyTorch


@pytest.mark.parametrize(
    ("file", "layer", "kind"),
    [
        ("conv2d.nir", "first", "conv2d/first"),
        ("conv2d.nir", "second", "conv2d/second"),
        ("conv1d.nir", "inner/first", "conv1d/first"),
        ("conv1d.nir", "inner/second", "conv1d/second"),
    ],
)
def test_graphs_that_nir_wrote(folder: Path, file: str, layer: str, kind: str) -> None:
    truth = recorded("nir", folder)
    x, y = truth[f"{kind}/x"], truth[f"{kind}/y"]
    run("convert", file, "-l", layer, "-o", "c.npz").succeeded()
    found = arrays(Path("c.npz"))
    made = matrix_of(Path("c.npz")).astype(np.float64) @ x.reshape(-1) + found["bias"]
    assert made.shape == (y.size,)
    assert np.abs(made - y.reshape(-1)).max() < 1e-5
    assert json.loads(str(found["convfc"]))["output_shape"] == list(y.shape)


def test_a_graph_is_listed_whole(folder: Path) -> None:
    recorded("nir", folder)
    found = json.loads(run("inspect", "conv1d.nir", "--json").succeeded().out)
    assert found["model"]["kind"] == "hdf5"
    assert [(item["layer"], item["op"], item["status"]) for item in found["layers"]] == [
        ("inner/first", "Conv", "ready"),
        ("inner/second", "Conv", "ready"),
    ]
    done = run("convert", "conv1d.nir").succeeded()
    assert done.lines == [
        "conv1d.nir.fc/000-inner_first.npz",
        "conv1d.nir.fc/001-inner_second.npz",
    ]
    assert len(run("verify", "--model", "conv1d.nir").succeeded().lines) == 2


# Every field, against the definition


@pytest.mark.parametrize(
    ("kernel", "sizes", "fields", "meaning"),
    [
        (ramp(3, 2, 3, 2), (5, 4), {}, {}),
        (ramp(3, 2, 3, 2), (5, 4), {"stride": 2}, {"stride": (2, 2)}),
        (ramp(3, 2, 3, 2), (5, 4), {"stride": (1, 3)}, {"stride": (1, 3)}),
        (ramp(3, 2, 3, 2), (5, 4), {"dilation": (2, 3)}, {"dilation": (2, 3)}),
        (ramp(3, 2, 3, 2), (5, 4), {"dilation": 2}, {"dilation": (2, 2)}),
        (ramp(3, 2, 3, 2), (5, 4), {"padding": 1}, {"pads": ((1, 1), (1, 1))}),
        (ramp(3, 2, 3, 2), (5, 4), {"padding": (0, 2)}, {"pads": ((0, 0), (2, 2))}),
        (ramp(3, 2, 3, 2), (5, 4), {"padding": "valid"}, {}),
        (ramp(3, 2, 3, 2), (5, 4), {"padding": "same"}, {"pads": ((1, 1), (0, 1))}),
        (ramp(4, 2, 3, 2), (5, 4), {"groups": 2}, {"groups": 2}),
        (ramp(4, 1, 3, 2), (5, 4), {"groups": 4, "stride": 2}, {"groups": 4, "stride": (2, 2)}),
        (ramp(3, 2, 4), (7,), {}, {}),
        (ramp(3, 2, 4), (7,), {"stride": 2, "padding": 3}, {"stride": (2,), "pads": ((3, 3),)}),
        (ramp(3, 2, 4), (7,), {"padding": "same"}, {"pads": ((1, 2),)}),
        (ramp(3, 2, 4), (7,), {"dilation": np.array([2])}, {"dilation": (2,)}),
        (ramp(4, 1, 4), (7,), {"groups": 2}, {"groups": 2}),
        (ramp(3, 2, 4, dtype="f8"), (7,), {"stride": np.uint8(2)}, {"stride": (2,)}),
    ],
)
@pytest.mark.parametrize("stated", [True, False])
def test_a_node_is_the_convolution_that_it_says(
    folder: Path,
    kernel: Any,
    sizes: tuple[int, ...],
    fields: dict[str, Any],
    meaning: dict[str, Any],
    stated: bool,
) -> None:
    """Its input's size comes from the file, or from --input-shape."""
    shape = (sizes[0] if len(sizes) == 1 else sizes) if stated else None
    path = nir(folder / "g.nir", {"c": node(kernel, **fields, input_shape=shape)})
    channels = kernel.shape[1] * meaning.get("groups", 1)
    given = {} if stated else {"input_shape": (1, channels, *sizes)}
    wanted, outputs = matrix(kernel, sizes, **meaning)
    found = convfc.matrix(path, **given)
    assert found.dtype == kernel.dtype
    assert np.array_equal(found.toarray(), wanted)
    (entry,) = convfc.read(path, **given).entries
    assert (entry.name, entry.op, entry.require().output_shape) == ("c", "Conv", outputs)
    layer = entry.load()
    assert layer.bias is not None
    assert np.array_equal(layer.bias, ramp(len(kernel)))


def test_a_given_size_is_held_to_that_of_the_file(folder: Path) -> None:
    path = nir(folder / "g.nir", {"c": node(ramp(3, 2, 3, 2), input_shape=(5, 4))})
    (entry,) = convfc.read(path, (1, 2, 5, 4)).entries
    assert entry.require().input_shape == (2, 5, 4)
    for other in ((1, 2, 9, 7), (1, 3, 5, 4), (1, 2, 5)):
        with pytest.raises(UsageError, match=r"\?,2,5,4 by its node's input_shape") as caught:
            convfc.read(path, other)
        assert f"'c' is {','.join(map(str, other))} by the given shape" in str(caught.value)


def test_a_size_that_the_file_leaves_open_is_given(folder: Path) -> None:
    path = nir(folder / "g.nir", {"c": node(ramp(3, 2, 3, 2))})
    (entry,) = convfc.read(path, (1, 2, 9, 7)).entries
    assert entry.require().input_shape == (2, 9, 7)
    assert entry.at((2, 4, 4)).require().input_shape == (2, 4, 4)


# Graphs in graphs, and names


def graph(nodes: dict[str, Any]) -> dict[str, Any]:
    return {"type": "NIRGraph", "nodes": nodes}


def test_graphs_in_graphs(folder: Path) -> None:
    conv = node(ramp(3, 2, 3), input_shape=5)
    nodes = {
        "z": conv,
        "a": graph({"lif": {"type": "LIF"}, "conv": conv, "b": graph({"conv": conv})}),
        "linear": {"type": "Linear", "weight": ramp(4, 3)},
        "input": {"type": "Input", "shape": np.array([2, 5])},
        "bare": {"weight": ramp(3, 2, 3)},
    }
    entries = convfc.read(nir(folder / "g.nir", nodes)).entries
    assert [entry.name for entry in entries] == ["a/b/conv", "a/conv", "z"]
    assert [entry.position for entry in entries] == [0, 1, 2]
    done = run("convert", "g.nir", "-l", "b/conv", "-o", "c.npz").succeeded()
    assert json.loads(str(arrays(Path("c.npz"))["convfc"]))["origin"]["layer"] == "a/b/conv"
    assert done.lines == ["c.npz"]


def nested(folder: Path, depth: int) -> Path:
    nodes: dict[str, Any] = {"c": node(ramp(3, 2, 3), input_shape=5)}
    for _ in range(depth):
        nodes = {"g": graph(nodes)}
    return nir(folder / "g.nir", nodes)


def test_graphs_nested_beyond_reason(folder: Path) -> None:
    (entry,) = convfc.read(nested(folder, 30)).entries
    assert (entry.name, entry.status) == (f"{'g/' * 30}c", "ready")
    for depth in (31, 60, 200):
        assert "lies more than 64 deep" in run("inspect", nested(folder, depth)).failed(5)


def test_sizes_go_to_nodes_by_name(folder: Path) -> None:
    path = nir(
        folder / "g.nir",
        {
            "a": node(ramp(3, 2, 3, 2)),
            "b": node(ramp(2, 3, 2)),
            "n": graph({"a": node(ramp(1, 1, 1))}),
        },
    )
    given = {"a": (1, 2, 5, 4), "b": (1, 3, 6), "n/a": (1, 1, 2)}
    found = [entry.require().input_shape for entry in convfc.read(path, given).entries]
    assert found == [(2, 5, 4), (3, 6), (1, 2)]
    listed = [entry.status for entry in convfc.read(path, {"b": (1, 3, 6)}).entries]
    assert listed == ["needs a size", "ready", "needs a size"]
    assert run("convert", path, "-l", "b", "--input-shape", "1,3,6", "-o", "c.npz").succeeded()
    before = listing(folder)
    for given_shape, told in (
        ("1,2,5,4", "the given shape needs a name; there are a, b, n/a"),
        ("x=1,2,5,4", "the given shape names 'x'; there are a, b, n/a"),
        ("a=1,3,5,4", "reads 1,2 and 2 spatial sizes"),
        ("a=1,2,5", "does not fit"),
        ("b=1,3,1", "no output: size 1"),
    ):
        assert told in run("convert", path, "--input-shape", given_shape).failed(2)
    assert listing(folder) == before


@pytest.mark.parametrize("several", [True, False])
def test_a_missing_size_prints_a_command_that_works(folder: Path, several: bool) -> None:
    nodes = {"a b": node(ramp(3, 2, 100, 2)), **({"c": node(ramp(1, 2, 3))} if several else {})}
    nir(folder / "g.nir", nodes)
    (first, *rest) = convfc.read("g.nir").entries
    with pytest.raises(SizeMissing) as missing:
        first.require()
    assert missing.value.hint == ("a b=1,2,128,128" if several else "1,2,128,128")
    assert [entry.error.hint for entry in rest if isinstance(entry.error, SizeMissing)] == (
        ["c=1,2,64"] if several else []
    )
    told = run("convert", "g.nir", "--form", "operator").failed(2)
    while "convfc convert" in told:  # each names one more node
        done = run(*shlex.split(told[told.index("convfc convert") :])[1:])
        told = done.complaint() if done.code == 2 else ""
    assert len(done.succeeded().lines) == len(nodes)


# What is malformed: the node is listed with the reason, and the others are converted

KERNEL = ramp(3, 2, 3, 2)

BROKEN: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"bias": None}, MalformedInput, "/node/nodes/c has no bias"),
    ({"weight": None}, MalformedInput, "/node/nodes/c has no weight"),
    ({"stride": None}, MalformedInput, "/node/nodes/c has no stride"),
    ({"padding": None}, MalformedInput, "/node/nodes/c has no padding"),
    ({"dilation": None}, MalformedInput, "/node/nodes/c has no dilation"),
    ({"groups": None}, MalformedInput, "/node/nodes/c has no groups"),
    ({"type": "Conv3d"}, Unsupported, "Conv3d is not read"),
    ({"type": "ConvTranspose2d"}, Unsupported, "ConvTranspose2d is not read"),
    ({"type": "Conv1d"}, MalformedInput, "has the shape (3, 2, 3, 2) in a Conv1d"),
    ({"weight": ramp(3, 2, 3)}, MalformedInput, "has the shape (3, 2, 3) in a Conv2d"),
    ({"weight": ramp(3, 2, 3, 2, dtype="i4")}, Unsupported, "holds int32"),
    ({"weight": "text"}, MalformedInput, "has the shape () in a Conv2d"),
    ({"bias": ramp(2)}, MalformedInput, "has the shape (2,), the layer 3 output channels"),
    ({"bias": ramp(3, dtype="i4")}, Unsupported, "holds int32"),
    ({"stride": 1.5}, MalformedInput, "stride should be 1 or 2 integers"),
    ({"stride": (1, 1, 1)}, MalformedInput, "stride should be 1 or 2 integers"),
    ({"stride": np.zeros(0, int)}, MalformedInput, "stride should be 1 or 2 integers"),
    ({"stride": "one"}, MalformedInput, "stride should be 1 or 2 integers"),
    ({"stride": 0}, MalformedInput, "stride is 0"),
    ({"stride": -1}, MalformedInput, "stride is -1"),
    ({"stride": np.uint64(2**63)}, MalformedInput, f"stride is {2**63}"),
    ({"dilation": 0}, MalformedInput, "dilation is 0"),
    ({"dilation": 5}, MalformedInput, "no output"),
    ({"groups": 0}, MalformedInput, "over 0 groups"),
    ({"groups": -1}, MalformedInput, "over -1 groups"),
    ({"groups": 2}, MalformedInput, "3 channels cannot be shared out over 2 groups"),
    ({"groups": (1, 1)}, MalformedInput, "groups should be 1 integer"),
    ({"padding": "circular"}, MalformedInput, "is 'circular', neither same nor valid"),
    ({"padding": (1, 1, 1)}, MalformedInput, "padding should be 1 or 2 integers"),
    ({"padding": -9}, MalformedInput, "no output"),
    ({"input_shape": 5}, MalformedInput, "input_shape should be 2 integers"),
    ({"input_shape": (5, 4, 1)}, MalformedInput, "input_shape should be 2 integers"),
    ({"input_shape": (5.0, 4.0)}, MalformedInput, "input_shape should be 2 integers"),
    ({"input_shape": (2, 4)}, MalformedInput, "no output: size 2"),
    ({"input_shape": (-5, 4)}, MalformedInput, "no output: size -5"),
]


@pytest.mark.parametrize(("fields", "kind", "told"), BROKEN)
def test_a_malformed_node_is_listed_with_the_reason(
    folder: Path, fields: dict[str, Any], kind: type[Exception], told: str
) -> None:
    """In terms of the file, not of options that nobody gave."""
    broken = node(KERNEL, **{"input_shape": (5, 4), **fields})
    path = nir(folder / "g.nir", {"c": broken, "good": node(KERNEL, input_shape=(5, 4))})
    bad, good = convfc.read(path).entries
    assert type(bad.error) is kind
    assert told in str(bad.error)
    assert "--" not in str(bad.error)
    assert (bad.status, good.status) == ("unsupported", "ready")
    assert bad.error is not None
    done = run("convert", path, "--keep-going")
    assert done.code == bad.error.exit_code
    assert done.lines == ["g.nir.fc/001-good.npz"]
    assert np.array_equal(matrix_of(Path(done.lines[0])), matrix(KERNEL, (5, 4))[0])


def test_what_no_size_mends_is_said_without_one(folder: Path) -> None:
    for fields, told in (({"groups": 0}, "0 groups"), ({"stride": 0}, "stride is 0")):
        path = nir(folder / "g.nir", {"c": node(KERNEL, **fields)})
        assert told in run("convert", path).failed(3)


@pytest.mark.parametrize(("kind", "code"), [(3, 3), (1.5, 3), (["Conv2d", "Conv2d"], 3)])
def test_a_type_that_is_no_text(folder: Path, kind: Any, code: int) -> None:
    path = nir(folder / "g.nir", {"c": node(KERNEL, type=kind)})
    assert "not a text" in run("inspect", path).failed(code)


def test_a_graph_without_a_convolution(folder: Path) -> None:
    path = nir(folder / "g.nir", {"l": {"type": "Linear", "weight": ramp(4, 3)}})
    assert "g.nir has no convolution" in run("inspect", path).failed(2)


def test_a_file_that_only_looks_like_nir_has_weights_alone(folder: Path) -> None:
    with h5py.File(folder / "w.h5", "w") as file:
        file["node/weight"] = KERNEL
    (entry,) = convfc.read("w.h5").entries
    assert (entry.name, entry.status) == ("node/weight", "weights alone")


def test_a_node_can_be_described_all_the_same(folder: Path) -> None:
    path = nir(folder / "g.nir", {"c": node(KERNEL, stride=2, input_shape=(5, 4))})
    told = ["--weight", "node/nodes/c/weight", "--kernel-order", "oihw", "--bias", "none"]
    run("convert", path, *told, "--input-shape", "1,2,5,4", "-o", "c.npz").succeeded()
    assert np.array_equal(matrix_of(Path("c.npz")), matrix(KERNEL, (5, 4))[0])


# Strangers' files


def test_links_in_a_graph_are_refused(folder: Path) -> None:
    for link in (h5py.SoftLink("/node/nodes/c"), h5py.ExternalLink("other.h5", "/x")):
        path = nir(folder / "g.nir", {"c": node(KERNEL, input_shape=(5, 4))})
        with h5py.File(path, "a") as file:
            file["node/nodes/d"] = link
        assert "links are not followed" in run("convert", path).failed(5)


def test_a_field_of_another_file_is_refused(folder: Path) -> None:
    path = nir(folder / "g.nir", {"c": node(KERNEL, stride=None, input_shape=(5, 4))})
    with h5py.File(path, "a") as file:
        file["node/nodes/c/stride"] = h5py.ExternalLink("other.h5", "/x")
    assert "is an external link to 'other.h5'" in run("convert", path).failed(5)


def test_a_graph_within_itself_ends(folder: Path) -> None:
    """HDF5 lets a group hold itself."""
    path = nir(folder / "g.nir", {"g": graph({"c": node(KERNEL, input_shape=(5, 4))})})
    with h5py.File(path, "a") as file:
        file["node/nodes/g/nodes/again"] = file["node/nodes/g"]
    assert run("inspect", path).complaint()


def test_very_many_ways_to_one_node_are_not_all_gone(folder: Path) -> None:
    """Each graph holds the next one twice: 2^20 names for one convolution."""
    path = nested(folder, 20)
    with h5py.File(path, "a") as file:
        for depth in range(20):
            nodes = file["node/nodes/" + "g/nodes/" * depth]
            nodes["h"] = nodes["g"]
    assert "a graph of more than 4000 nodes" in run("inspect", path).failed(5)


def test_a_field_that_declares_very_much_is_not_read(folder: Path) -> None:
    path = nir(folder / "g.nir", {"c": node(KERNEL, stride=None, input_shape=(5, 4))})
    with h5py.File(path, "a") as file:
        file.create_dataset("node/nodes/c/stride", (2**30,), "i8", chunks=(2**10,))
    assert "stride should be 1 or 2 integers" in run("convert", path).failed(3)
