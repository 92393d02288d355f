"""How layers are called: what each answers to, and that none is picked by mistake."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import convfc_cli as convfc
from convfc_cli.errors import UsageError
from convfc_cli.naming import Label, pick
from tests.support.cli_models import arrays, net, run, terminal
from tests.support.models import info, make_model, save, tensor

pytestmark = pytest.mark.usefixtures("folder")

RESNET = [
    Label(0, "node_Conv_293", "getitem", "conv1.weight"),
    Label(1, "node_Conv_295", "getitem_3", "layer1.0.conv1.weight"),
    Label(2, "node_Conv_297", "getitem_6", "layer1.0.conv2.weight"),
    Label(3, "node_linear", "linear", "fc.weight"),
]
"""As torch's default exporter calls the layers of a ResNet."""

PATHS = [
    Label(0, "/conv1/Conv", "/conv1/Conv_output_0", "onnx::Conv_193"),
    Label(1, "/layer1/layer1.0/conv1/Conv", "/layer1/layer1.0/conv1/Conv_output_0"),
    Label(2, "/layer1/layer1.0/conv2/Conv", "/layer1/layer1.0/conv2/Conv_output_0"),
    Label(3, "/head/conv10/Conv", "/head/conv10/Conv_output_0"),
    Label(4, "/fc/Gemm", "logits", "fc.weight"),
]
"""As its older one calls them."""


@pytest.mark.parametrize(
    ("labels", "wanted", "position"),
    [
        (RESNET, "node_Conv_295", 1),
        (RESNET, "getitem", 0),  # a name is not a part of others
        (RESNET, "conv1", 0),  # its weights' name, though another's ends so
        (RESNET, "conv1.weight", 0),
        (RESNET, "layer1.0.conv1", 1),
        (RESNET, "layer1.0.conv1.weight", 1),
        (RESNET, "conv2", 2),  # a component
        (RESNET, "0.conv2", 2),  # two of them
        (RESNET, "297", 2),  # an ending
        (RESNET, "fc", 3),
        (RESNET, "lin", 3),  # a part
        (RESNET, "@2", 2),
        (PATHS, "/conv1/Conv", 0),
        (PATHS, "/conv1", 0),
        (PATHS, "conv2", 2),
        (PATHS, "layer1.0/conv1", 1),
        (PATHS, "conv10", 3),
        (PATHS, "head", 3),
        (PATHS, "Gemm", 4),
        (PATHS, "logits", 4),
        (PATHS, "onnx::Conv_193", 0),
    ],
)
def test_what_a_layer_answers_to(labels: list[Label], wanted: str, position: int) -> None:
    assert pick(wanted, labels, "m.onnx").position == position


@pytest.mark.parametrize(
    ("names", "winner"),
    [
        ((("c", "x"), ("a/c", "y")), 0),  # a name before an ending
        ((("a/c", "x"), ("b", "c")), 1),  # an output too
        ((("a/c", "x"), ("b", "y", "c.weight")), 1),  # the weights before an ending
        ((("c", "x"), ("b", "y", "c.weight")), 0),  # a name before the weights
        ((("b", "y", "c"), ("d", "x", "a.c.w")), 0),  # the whole name of the weights
        ((("a/c", "x"), ("c/b", "y")), 0),  # an ending before a component
        ((("c/b", "x"), ("acd", "y")), 0),  # a component before a part
    ],
)
def test_the_strictest_answer_wins(names: tuple[tuple[str, ...], ...], winner: int) -> None:
    for order in (1, -1):
        labels = [Label(position, *name) for position, name in enumerate(names)][::order]
        assert pick("c", labels, "m.onnx").position == winner


@pytest.mark.parametrize(
    ("labels", "wanted", "fitting"),
    [
        (RESNET, "Conv", "@0 (node_Conv_293), @1 (node_Conv_295), @2 (node_Conv_297)"),
        (RESNET, "layer1", "@1 (node_Conv_295), @2 (node_Conv_297)"),
        (PATHS, "conv1", "@0 (/conv1/Conv), @1 (/layer1/layer1.0/conv1/Conv)"),
        ([Label(0, "a", "x", "w"), Label(1, "b", "y", "w")], "w", "@0 (a), @1 (b)"),
    ],
)
def test_what_fits_several_is_an_error_that_lists_them(
    labels: list[Label], wanted: str, fitting: str
) -> None:
    with pytest.raises(UsageError) as raised:
        pick(wanted, labels, "m.onnx")
    assert str(raised.value) == f"{wanted!r} fits several layers of m.onnx: say {fitting}"


@pytest.mark.parametrize("digits", ["2", "0" * 5000 + "2", "9" * 5000])
def test_a_position_beyond_the_last(digits: str) -> None:
    with pytest.raises(UsageError, match=f"has no layer @{digits}: it has 2, @0 to @1"):
        pick(f"@{digits}", [Label(0, "a", "y"), Label(1, "b", "z")], "m.onnx")


def test_a_position_may_have_zeros_before_it_and_no_other_digits_than_ours() -> None:
    labels = [Label(0, "a", "y"), Label(1, "b", "z")]
    assert pick("@001", labels, "m.onnx").name == "b"
    with pytest.raises(UsageError, match="has no layer '@¹'"):
        pick("@¹", labels, "m.onnx")


def test_a_miss_names_each_layer_once_and_outputs_last() -> None:
    with pytest.raises(UsageError, match=r"no layer 'nope': there are c$"):
        pick("nope", [Label(0, "c", "y")], "m.onnx")
    with pytest.raises(UsageError, match="there are node_Conv_293, node_Conv_295, node_Conv_297, "):
        pick("!", RESNET, "m.onnx")
    with pytest.raises(UsageError, match=r"did you mean layer1\.0\.conv2, layer1\.0\.conv1\?$"):
        pick("layer1.0.conv3x", RESNET, "m.onnx")
    with pytest.raises(UsageError, match=r"did you mean encoder\?$"):
        pick("encodr", [Label(0, "encoder", "encoder_out", "encoder.w")], "m.onnx")


def plain(shown: str) -> str:
    """What a terminal shows without its colors."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def exported(path: Path) -> Path:
    """stem, a.conv, b.conv and fc as their weights call them, `node_...` as the nodes are called:
    as they are, transposed, quantized, and of a dense layer.
    """
    random = np.random.default_rng(0)
    kernels = [random.integers(-9, 9, (2, 2, 3, 3)).astype(np.float32) for _ in range(3)]
    node = helper.make_node
    nodes = [
        node("Identity", ["stem.weight"], ["same"]),
        node("Conv", ["x", "same"], ["getitem"], name="node_Conv_1", pads=[1, 1, 1, 1]),
        node("Transpose", ["a.conv.weight"], ["turned"], perm=[1, 0, 2, 3]),
        node("Conv", ["getitem", "turned"], ["getitem_3"], name="node_Conv_2", pads=[1] * 4),
        node("DequantizeLinear", ["b.conv.weight", "scale"], ["real"]),
        node("Conv", ["getitem_3", "real"], ["getitem_6"], name="node_Conv_3", pads=[1] * 4),
        node("Flatten", ["getitem_6"], ["flat"], name="node_flatten"),
        node("Gemm", ["flat", "fc.weight"], ["y"], name="node_linear", transB=1),
    ]
    stored = [
        tensor("stem.weight", kernels[0]),
        tensor("a.conv.weight", kernels[1]),
        tensor("b.conv.weight", kernels[2].astype(np.int8)),
        tensor("scale", np.float32(0.5)),
        tensor("fc.weight", random.standard_normal((5, 40)).astype(np.float32)),
    ]
    return Path(save(make_model(nodes, [info("x", (1, 2, 5, 4))], stored), path.parent, path.name))


WEIGHTS = ("stem.weight", "a.conv.weight", "b.conv.weight")


def test_the_name_of_the_weights_is_listed(folder: Path) -> None:
    path = exported(folder / "m.onnx")
    done = run("inspect", path, "--include", "linear", "--json").succeeded()
    found = {item["layer"]: item["weight"] for item in json.loads(done.out)["layers"]}
    assert found == {
        **{f"node_Conv_{n + 1}": name for n, name in enumerate(WEIGHTS)},
        "node_flatten": None,
        "node_linear": "fc.weight",
    }
    header, *lines = (line.split("\t") for line in run("inspect", path).succeeded().lines)
    assert [line[header.index("weight")] for line in lines] == list(WEIGHTS)


@pytest.mark.slow
def test_a_terminal_shows_the_weights_where_there_is_room(folder: Path) -> None:
    path = exported(folder / "m.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        node.name += "_of_a_longer_name"
    onnx.save(model, path)
    _, table, _ = terminal("inspect", path, cwd=folder, columns=200)
    needed = 1 + max(len(line.rstrip()) for line in plain(table).splitlines())  # and an edge
    assert needed > 100
    for columns, shown in ((needed, True), (needed - 1, False), (99, False), (60, False)):
        code, table, _ = terminal("inspect", path, cwd=folder, columns=columns)
        assert (code, "a.conv.weight" in table) == (0, shown), columns
        assert "node_Conv_2" in plain(table)
        assert not shown or max(map(len, plain(table).splitlines())) <= columns


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "position"),
    [("stem", 0), ("a.conv", 1), ("b.conv", 2), ("b", 2), ("fc", 4), ("flatten", 3)],
)
def test_convert_map_verify_and_compose_pick_by_the_weights_alike(
    folder: Path, wanted: str, position: int
) -> None:
    path = exported(folder / "m.onnx")
    run("convert", path, "-l", wanted, "-o", "by_name.npz").succeeded()
    run("convert", path, "-l", f"@{position}", "-o", "by_number.npz").succeeded()
    assert Path("by_name.npz").read_bytes() == Path("by_number.npz").read_bytes()
    run("convert", path, "--compose", f"{wanted}:{wanted}", "-o", "chain.npz").succeeded()
    assert Path("chain.npz").read_bytes() == Path("by_number.npz").read_bytes()
    run("convert", path, "--include", "linear", "-o", "all.h5").succeeded()
    told = run("map", "all.h5", "-l", wanted, "--output-at", "0" if position > 2 else "0,0,0")
    expected = run("map", "by_number.npz", "--output-at", "0" if position > 2 else "0,0,0")
    assert told.succeeded().lines == expected.succeeded().lines
    report = convfc.verify("all.h5", wanted, model=path)
    assert (report.verdict, report.layer) == ("proven", convfc.read(path).layer(wanted).name)


def test_weights_that_are_computed_have_no_name(folder: Path) -> None:
    model = onnx.load(net(folder / "m.onnx"))
    (kernel,) = (stored for stored in model.graph.initializer if stored.name == "w0")
    kernel.name = "w"
    nodes = [helper.make_node("Add", ["w", "w"], ["w0"]), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, "m.onnx")
    (layer,) = json.loads(run("inspect", "m.onnx", "--json").succeeded().out)["layers"]
    assert (layer["status"], layer["weight"]) == ("ready", None)


def test_a_layer_is_the_only_one_among_all_linear_layers(folder: Path) -> None:
    """A convolution and a dense layer that a part of a name fits alike."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "W"], ["c"], name="block/conv"),
        node("Flatten", ["c"], ["f"], name="flatten"),
        node("Gemm", ["f", "V"], ["y"], name="block/dense"),
    ]
    stored = [tensor("W", np.ones((1, 1, 2, 2), np.float32)), tensor("V", np.eye(4, dtype="f"))]
    path = save(make_model(nodes, [info("x", (1, 1, 3, 3))], stored), folder)
    told = run("convert", path, "-l", "block").failed(2)
    assert told.endswith("say @0 (block/conv), @2 (block/dense)")
    for wanted, name in (("block/c", "block/conv"), ("dense", "block/dense")):
        assert convfc.read(path).layer(wanted).name == name


def test_a_chain_begins_at_the_tensor_that_is_named_not_at_a_layer_with_a_part_of_it(
    folder: Path,
) -> None:
    node = helper.make_node
    nodes = [
        node("Mul", ["a", "S"], ["m"], name="first"),
        node("Conv", ["m", "W"], ["c"], name="a/conv"),
        node("Mul", ["c", "S"], ["y"], name="last"),
    ]
    stored = [tensor("W", np.ones((1, 1, 2, 2), np.float32)), tensor("S", np.float32([2]))]
    path = save(make_model(nodes, [info("a", (1, 1, 3, 3))], stored), folder)
    run("convert", path, "--compose", "a:last", "-o", "c.npz").succeeded()
    assert arrays(Path("c.npz"))["data"].max() == 4
    assert json.loads(str(arrays(Path("c.npz"))["convfc"]))["origin"]["layer"] == "first:last"


def test_a_chain_whose_colons_can_be_read_in_two_ways_is_an_error(folder: Path) -> None:
    names = ("a", "a:b", "b:c", "c")
    nodes = [
        helper.make_node("Mul", ["x" if not n else f"t{n}", "S"], [f"t{n + 1}"], name=name)
        for n, name in enumerate(names)
    ]
    stored = [tensor("S", np.float32([2]))]
    path = save(make_model(nodes, [info("x", (1, 1, 3, 3))], stored), folder)
    told = run("convert", path, "--compose", "a:b:c", "-o", "c.npz").failed(2)
    assert "names several chains: say @0:@2 or @1:@3" in told
    run("convert", path, "--compose", "@1:@3", "-o", "c.npz").succeeded()
    assert set(arrays(Path("c.npz"))["data"]) == {8}


def test_a_file_that_does_not_name_the_weights_is_the_models_all_the_same(folder: Path) -> None:
    """As files of earlier versions; one that names others is not."""
    path = exported(folder / "m.onnx")
    run("convert", path, "-l", "stem", "-o", "c.npz").succeeded()
    stored = arrays(Path("c.npz"))
    content = json.loads(str(stored["convfc"]))
    assert content["origin"]["weight"] == "stem.weight"
    del content["origin"]["weight"]
    np.savez("old.npz", **{**stored, "convfc": np.array(json.dumps(content))})
    run("verify", "old.npz", "--model", path).succeeded()
    content["origin"]["weight"] = "other.weight"
    np.savez("other.npz", **{**stored, "convfc": np.array(json.dumps(content))})
    assert run("verify", "other.npz", "--model", path).code == 1


def test_weights_alone_answer_to_their_dataset_without_its_ending(folder: Path) -> None:
    with h5py.File("w.h5", "w") as file:
        for name in ("conv1.weight", "layer1.conv1.weight"):
            file[name] = np.ones((2, 1, 3, 3), np.float32)
    found = convfc.read("w.h5")
    assert [entry.weight for entry in found.entries] == ["conv1.weight", "layer1.conv1.weight"]
    assert found.layer("conv1").name == "conv1.weight"
    assert found.layer("layer1").name == "layer1.conv1.weight"


def test_a_cycle_of_weights_has_no_name(folder: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["V"], ["W"]),
        helper.make_node("Identity", ["W"], ["V"]),
        helper.make_node("Conv", ["x", "W"], ["y"], name="conv", kernel_shape=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 3, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(1, np.float32), "unused")],
    )
    onnx.save(helper.make_model(graph), "m.onnx")
    assert [entry.weight for entry in convfc.read("m.onnx").entries] == [""]
