"""Chains of linear layers as one matrix: what composes, what it is, what a runtime computes."""

import json
import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from scipy.sparse import load_npz

import convfc_cli
from convfc_cli import budget
from convfc_cli.errors import ConvfcError, Refused
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.layers import product
from convfc_cli.models.chain import chains, normalized
from convfc_cli.models.entry import Entry
from convfc_cli.models.registry import read
from convfc_cli.rounding import RuntimeResult
from tests.support.cli_models import run
from tests.support.crafted import within
from tests.support.models import info, make_model, ramp, save, tensor
from tests.support.paths import RECORDED, SAMPLES

F32 = np.float32


def random(*shape: int, seed: int = 0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(F32)


def normalization(name: str, source: str, channels: int):
    """A BatchNormalization with its four vectors."""
    parts = ("scale", "offset", "mean", "variance")
    stored = [
        tensor(f"{name}_{part}", np.abs(random(channels, seed=k)) + (part == "variance"))
        for k, part in enumerate(parts)
    ]
    names = [source, *(one.name for one in stored)]
    return helper.make_node("BatchNormalization", names, [name], name=name, epsilon=1e-3), stored


def linear_network():
    """pad, conv, bn, pool, depthwise, pointwise, flatten, fc: every layer is linear."""
    bn, stored = normalization("bn", "conv", 4)
    node = helper.make_node
    nodes = [
        node("Pad", ["x", "pads"], ["pad"], name="pad", mode="reflect"),
        node("Conv", ["pad", "W1"], ["conv"], name="conv", strides=[1, 2]),
        bn,
        node("AveragePool", ["bn"], ["pool"], name="pool", kernel_shape=[2, 2], strides=[2, 1]),
        node("Conv", ["pool", "W2", "B2"], ["depthwise"], name="depthwise", group=4),
        node("Conv", ["depthwise", "W3"], ["pointwise"], name="pointwise"),
        node("Flatten", ["pointwise"], ["flat"], name="flatten"),
        node("Gemm", ["flat", "W4", "B4"], ["y"], name="fc", transB=1),
    ]
    # 1x2x9x11 -> 2x11x13 -> 4x9x6 -> 4x4x5 -> 4x3x4 -> 6x3x4 -> 72 -> 5
    stored += [
        tensor("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])),
        tensor("W1", random(4, 2, 3, 3)),
        tensor("W2", random(4, 1, 2, 2)),
        tensor("B2", random(4)),
        tensor("W3", random(6, 4, 1, 1)),
        tensor("W4", random(5, 72)),
        tensor("B4", random(5)),
    ]
    return make_model(nodes, [info("x", (1, 2, 9, 11))], stored)


PLACES = ("pad", "conv", "bn", "pool", "depthwise", "pointwise", "flatten", "fc")

OUTPUTS = {name: {"flatten": "flat", "fc": "y"}.get(name, name) for name in PLACES}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return save(linear_network(), tmp_path, "linear.onnx")


def between(model, first: str, last: str, x):
    """What a runtime computes from the tensor that `first` reads to the one that `last` makes."""
    from onnx.utils import Extractor

    inferred = helper.onnx.shape_inference.infer_shapes(model)
    node = next(node for node in model.graph.node if node.name == first)
    part = Extractor(inferred).extract_model([node.input[0]], [OUTPUTS[last]])
    return ReferenceEvaluator(part).run(None, {node.input[0]: x[None]})[0][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("pad", "conv"),
        ("conv", "bn"),
        ("bn", "pool"),
        ("pool", "depthwise"),
        ("depthwise", "pointwise"),
        ("pad", "bn"),
        ("pointwise", "fc"),
        ("conv", "fc"),
        ("pad", "fc"),
    ],
)
def test_a_chain_is_what_a_runtime_makes_of_its_nodes(network, first, last):
    folder = network.parent / "out"
    run("convert", network, "--compose", f"{first}:{last}", "-o", f"{folder}/").succeeded()
    (file,) = folder.glob("*.npz")
    operator = convfc_cli.load(file)
    x = random(*operator.layer.input_shape, seed=7)
    y = between(linear_network(), first, last, x)
    finding = check_runtime(operator.layer, RuntimeResult.of("reference", x, y))
    assert finding.holds, finding
    matrix, bias = load_npz(file), np.load(file)["bias"]
    assert np.allclose(matrix @ x.reshape(-1) + bias, y.reshape(-1), rtol=1e-4, atol=1e-5)
    assert run("verify", folder, "--model", network).succeeded().out.startswith("proven\t")


def test_the_whole_network_is_one_matrix_within_the_bound_of_onnxruntime(network):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    run("convert", network, "--compose", "x:fc", "-o", network.parent / "all.npz").succeeded()
    layer = convfc_cli.load(network.parent / "all.npz").layer
    assert (layer.kind, layer.input_shape, layer.output_shape) == ("product", (2, 9, 11), (5,))
    matrix = load_npz(network.parent / "all.npz").astype(np.float64)
    bias = np.load(network.parent / "all.npz")["bias"].astype(np.float64)
    for seed in range(5):
        x = random(2, 9, 11, seed=seed)
        (y,) = session.run(None, {"x": x[None]})
        result = RuntimeResult.of("onnxruntime", x, y[0])
        assert check_runtime(layer, result).holds
        (sums,) = layer.sums(x, convfc_cli.Layout(), 5)
        bound = result.bound(sums.terms, sums.scale, sums.answer)
        assert (np.abs(matrix @ x.reshape(-1) + bias - y[0]) <= bound).all()


def test_a_normalization_behind_a_convolution_goes_into_its_kernel(network):
    run("convert", network, "--fold-bn", "-o", f"{network.parent}/folded/").succeeded()
    names = sorted(path.name for path in (network.parent / "folded").glob("*.npz"))
    assert [name[4:] for name in names] == ["conv_bn.npz", "depthwise.npz", "pointwise.npz"]
    folded = convfc_cli.load(network.parent / "folded" / names[0])
    assert folded.layer.kind == "convolution"
    (conv, *_), others = read(network).entries, {e.name: e for e in read(network).others}
    kernel, scale = conv.load().kernel, others["bn"].load().kernel
    expected = (kernel.astype(np.float64) * scale.astype(np.float64)[..., None]).astype(F32)
    assert np.array_equal(folded.layer.kernel, expected)
    assert folded.origin.op == "Conv+BatchNormalization"
    report = convfc_cli.verify(network.parent / "folded" / names[0], model=network)
    assert (report.ok, report.strength) == (True, "2^-96")


def test_a_normalization_behind_a_transposed_convolution_of_groups_goes_into_its_kernel(tmp_path):
    bn, stored = normalization("bn", "up", 6)
    node = helper.make_node("ConvTranspose", ["x", "W"], ["up"], name="up", group=2, strides=[2, 1])
    stored += [tensor("W", random(4, 3, 2, 3))]
    model = make_model([node, bn], [info("x", (1, 4, 3, 4))], stored)
    path = save(model, tmp_path)
    run("convert", path, "--fold-bn", "-o", tmp_path / "up.npz").succeeded()
    layer = convfc_cli.load(tmp_path / "up.npz").layer
    x = random(4, 3, 4, seed=3)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x[None]})
    assert layer.kind == "convolution"
    assert np.allclose(layer.apply(x) + layer.bias_tensor(), y[0], rtol=1e-4, atol=1e-5)


def test_the_chains_of_a_model_are_listed_with_what_they_cost_at_most(network):
    (found,) = json.loads(run("inspect", network, "--chains", "--json").succeeded().out)["chains"]
    assert found["layer"] == "pad:fc"
    assert found["op"].split("+")[:3] == ["Pad", "Conv", "BatchNormalization"]
    assert (found["input_shape"], found["output_shape"]) == ([2, 9, 11], [5])
    (chain,) = chains(read(network))
    assert not isinstance(chain.entry, ConvfcError)
    nonzeros = chain.entry.require().nnz
    actual = convfc_cli.matrix(network, compose="pad:fc").nnz
    assert actual <= nonzeros <= 1.1 * actual
    header, line = run("inspect", network, "--chains").succeeded().lines
    assert line.split("\t")[header.split("\t").index("nonzeros")] == str(nonzeros)
    assert "1 chain of linear layers composes" in run("inspect", network).succeeded().err


def trained(model):
    """With a batch normalization that is in training, which is not read."""
    (bn,) = (node for node in model.graph.node if node.name == "bn")
    bn.attribute.append(helper.make_attribute("training_mode", 1))
    return model


def unfitting(model):
    """With a dense layer that takes 70 numbers where it is given 72."""
    (weights,) = (stored for stored in model.graph.initializer if stored.name == "W4")
    weights.CopyFrom(tensor("W4", random(5, 70)))
    return model


def sizeless(model):
    """With an input whose height is open."""
    model.graph.input[0].CopyFrom(info("x", (1, 2, None, 11)))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "status", "reason", "counted", "code"),
    [
        (trained, "unsupported", "layer bn (BatchNormalization): ", "1 does not", 4),
        (unfitting, "unsupported", "fc", "1 does not", 3),
        (
            sizeless,
            "needs a size",
            "layer pad (Pad): the size of its input 'x'",
            "1 needs a size",
            2,
        ),
    ],
)
def test_a_chain_that_does_not_compose_is_listed_with_the_reason(
    tmp_path, change, status, reason, counted, code
):
    path = save(change(linear_network()), tmp_path)
    done = run("inspect", path, "--chains", "--json").succeeded()
    (found,) = json.loads(done.out)["chains"]
    assert (found["layer"], found["status"]) == ("pad:fc", status)
    assert reason in found["error"]["message"]
    assert (found["input_shape"], found["nonzeros"], found["bytes"]) == (None, None, None)
    done = run("inspect", path, "--chains").succeeded()
    header, line = (line.split("\t") for line in done.lines)
    assert (
        dict(zip(header, line, strict=True))["status"] == f"{status}: {found['error']['message']}"
    )
    told = f"no chains of linear layers compose, {counted}"
    assert done.err == f"{told}\n"
    assert f"\n{told}: --chains lists them\n" in f"\n{run('inspect', path).succeeded().err}"
    refused = run("convert", path, "--compose", "pad:fc", "-o", tmp_path / "a.npz").failed(code)
    assert reason in refused


@pytest.mark.slow
def test_some_chains_compose_and_others_do_not(tmp_path):
    """Two networks in one model, the second of which is not read."""
    model = onnx.compose.add_prefix(linear_network(), "one_")
    other = onnx.compose.add_prefix(trained(linear_network()), "other_")
    model.graph.MergeFrom(other.graph)
    path = save(model, tmp_path)
    done = run("inspect", path, "--chains", "--json").succeeded()
    found = {item["layer"]: item["status"] for item in json.loads(done.out)["chains"]}
    assert found == {"one_pad:one_fc": "ready", "other_pad:other_fc": "unsupported"}
    told = "1 chain of linear layers composes, 1 does not"
    assert f"{told}: --chains lists them" in run("inspect", path).succeeded().err
    assert (
        run("inspect", path, "--chains")
        .succeeded()
        .err.startswith(f"{told}; the largest has at most ")
    )


def without_convolutions():
    """gap, flatten, fc, an activation, scale: linear layers, of which three are a chain."""
    node = helper.make_node
    nodes = [
        node("GlobalAveragePool", ["x"], ["gap"], name="gap"),
        node("Flatten", ["gap"], ["flat"], name="flatten"),
        node("Gemm", ["flat", "W", "B"], ["fc"], name="fc", transB=1),
        node("Relu", ["fc"], ["relu"], name="relu"),
        node("Mul", ["relu", "S"], ["y"], name="scale"),
    ]
    stored = [tensor("W", random(5, 2)), tensor("B", random(5)), tensor("S", random(5))]
    return make_model(nodes, [info("x", (1, 2, 3, 4))], stored)


def test_a_chain_without_a_convolution_is_listed_too(tmp_path):
    path = save(without_convolutions(), tmp_path)
    (found,) = json.loads(run("inspect", path, "--chains", "--json").succeeded().out)["chains"]
    assert (found["layer"], found["status"], found["error"]) == ("gap:fc", "ready", None)
    assert (found["input_shape"], found["output_shape"]) == ([2, 3, 4], [5])
    assert found["nonzeros"] == convfc_cli.matrix(path, compose="gap:fc").nnz == 5 * 24
    assert "1 chain of linear layers composes" in run("inspect", path).succeeded().err


def test_a_model_without_convolutions_lists_its_linear_layers(tmp_path):
    path = save(without_convolutions(), tmp_path)
    done = run("inspect", path, "--json").succeeded()
    found = json.loads(done.out)["layers"]
    assert [(item["layer"], item["op"], item["status"]) for item in found] == [
        ("gap", "GlobalAveragePool", "ready"),
        ("flatten", "Flatten", "ready"),
        ("fc", "Gemm", "ready"),
        ("scale", "Mul", "ready"),
    ]
    assert [item["nonzeros"] for item in found] == [24, 2, 10, 5]
    done = run("inspect", path).succeeded()
    assert [line.split("\t")[1] for line in done.lines[1:]] == ["gap", "flatten", "fc", "scale"]
    assert "4 of 4 layers ready" in done.err
    assert "no convolution: these are its other linear layers" in done.err
    (only,) = json.loads(run("inspect", path, "--include", "Mul", "--json").succeeded().out)[
        "layers"
    ]
    assert only["layer"] == "scale"
    assert "--include linear" in run("convert", path).failed(2)
    run("convert", path, "--include", "linear", "-o", f"{tmp_path}/all/").succeeded()


def test_the_sample_network_is_one_matrix_that_computes_what_pytorch_did(tmp_path):
    recorded = np.load(RECORDED / "linear.npz")
    arguments = ("--compose", "pad:fc", "-o", tmp_path / "all.npz")
    run("convert", SAMPLES / "linear.onnx", *arguments).succeeded()
    layer = convfc_cli.load(tmp_path / "all.npz").layer
    matrix, bias = load_npz(tmp_path / "all.npz"), np.load(tmp_path / "all.npz")["bias"]
    assert matrix.shape == (10, 784)
    assert len(recorded["x"]) == 2
    for x, y in zip(recorded["x"], recorded["y"], strict=True):
        result = RuntimeResult.of("PyTorch", x, y)
        assert check_runtime(layer, result).holds
        (sums,) = layer.sums(x, convfc_cli.Layout(), 10)
        bound = result.bound(sums.terms, sums.scale, sums.answer)
        vector = matrix.astype(np.float64) @ x.reshape(-1).astype(np.float64)
        assert (np.abs(vector + bias - y) <= bound).all()


def interrupted():
    """Two convolutions, an activation between them."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "W"], ["a"], name="one"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "W"], ["c"], name="two"),
    ]
    return make_model(nodes, [info("x", (1, 1, 5, 5))], [tensor("W", ramp(1, 1, 2, 2))])


@pytest.mark.parametrize(
    ("between", "parts"),
    [
        ("one:two", ["'two'", "Relu 'relu'"]),
        ("two:one", ["'one'", "the input 'x'"]),
        ("one", ["FIRST:LAST"]),
        ("one:", ["lacks its last layer"]),
        ("three:two", ["no layer 'three'"]),
        ("one:three", ["no layer 'three'"]),
    ],
)
def test_what_is_no_chain_is_told_with_what_interrupts_it(tmp_path, between, parts):
    path = save(interrupted(), tmp_path)
    error = run("convert", path, "--compose", between, "-o", tmp_path / "a.npz").failed(2)
    for part in parts:
        assert part in error
    assert not (tmp_path / "a.npz").exists()


def test_a_chain_of_one_layer_is_that_layer(tmp_path):
    path = save(interrupted(), tmp_path)
    run("convert", path, "--compose", "two:two", "-o", tmp_path / "a.npz").succeeded()
    run("convert", path, "-l", "two", "-o", tmp_path / "b.npz").succeeded()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_activation_that_is_fused_into_a_convolution_ends_a_chain(tmp_path):
    node = helper.make_node
    nodes = [
        node("FusedConv", ["x", "W"], ["a"], name="one", domain="com.microsoft", activation="Relu"),
        node("Conv", ["a", "W"], ["b"], name="two"),
    ]
    stored, domains = [tensor("W", ramp(1, 1, 2, 2))], {"com.microsoft": 1}
    model = make_model(nodes, [info("x", (1, 1, 5, 5))], stored, domains=domains)
    model.graph.value_info.append(info("a", (1, 1, 4, 4)))
    path = save(model, tmp_path)
    error = run("convert", path, "--compose", "one:two", "-o", tmp_path / "a.npz").failed(2)
    assert "FusedConv 'one'" in error
    assert not list(chains(read(path)))


def test_names_may_have_colons_in_them(tmp_path):
    model = linear_network()
    for node in model.graph.node:
        node.name = f"block:{node.name}:0"
    path = save(model, tmp_path)
    run(
        "convert", path, "--compose", "block:conv:0:block:bn:0", "-o", tmp_path / "a.npz"
    ).succeeded()
    assert convfc_cli.load(tmp_path / "a.npz").layer.kind == "convolution"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("-l", "conv"), "in place of single layers"),
        (("--include", "linear"), "in place of single layers"),
        (("--flip-kernel",), "kernels of single layers are flipped"),
        (("--kernel-index",), "kernel_index"),
    ],
)
def test_options_that_mean_nothing_for_a_chain_are_refused(network, options, part):
    out = network.parent / "a.npz"
    assert part in run("convert", network, "--compose", "pad:pool", *options, "-o", out).failed(2)


def test_several_chains_go_into_a_folder_or_a_file_that_holds_several(network):
    several = ("--compose", "pad:conv", "--compose", "depthwise:fc")
    ran = run("convert", network, *several, "-o", network.parent / "all.h5").succeeded()
    assert "2 matrices, " in ran.err
    assert ": all proven, all agree with " in ran.err
    out = run("verify", network.parent / "all.h5", "--model", network).succeeded().out
    assert out.count("proven\t") == 2


def test_a_chain_goes_through_a_pipe(network):
    ran = run("convert", network, "--compose", "pad:pool", "-o", "-").succeeded()
    assert "proven\t" in run("verify", "-", stdin=ran.raw).succeeded().out


@pytest.mark.parametrize(("chain", "side"), [("pad:", "last"), (":pad", "first"), (":", "first")])
def test_a_chain_without_one_of_its_ends_says_so(network, chain, side):
    said = run("convert", network, "--compose", chain).failed(2)
    assert f"the chain {chain!r} lacks its {side} layer: write FIRST:LAST" in said


def test_the_original_nodes_are_run_one_by_one(network):
    ran = run("convert", network, "--compose", "conv:pool", "-v", "-o", network.parent / "a.npz")
    said = " ".join(ran.succeeded().err.split())
    assert "of 3 layers, each on its own, the worst: the original node" in said


def test_another_model_is_not_where_a_chain_came_from(network, tmp_path):
    run("convert", network, "--compose", "pad:fc", "-o", tmp_path / "a.npz").succeeded()
    model = linear_network()
    (weights,) = (one for one in model.graph.initializer if one.name == "W3")
    changed = random(6, 4, 1, 1)
    changed[2, 1] += F32(2**-20)
    weights.CopyFrom(tensor("W3", changed))
    other = save(model, tmp_path, "other.onnx")
    ran = run("verify", tmp_path / "a.npz", "--model", other)
    assert ran.code == 1
    assert "4.kernel element (2, 1, 0, 0)" in ran.err  # the normalization is in that of conv
    shorter = save(interrupted(), tmp_path, "shorter.onnx")
    ran = run("verify", tmp_path / "a.npz", "--model", shorter)
    assert (ran.code, "no chain of layers 'pad:fc'" in ran.err) == (1, True)


def test_a_chain_that_takes_too_long_to_multiply_is_refused(network, monkeypatch):
    monkeypatch.setattr(product, "MAX_WORK", 10_000)
    out = network.parent / "a.npz"
    error = run("convert", network, "--compose", "pad:fc", "-o", out).failed(5)
    assert "compose fewer layers" in error
    assert not out.exists()


@pytest.mark.slow
def test_a_layer_without_a_size_is_named(tmp_path):
    model = linear_network()
    model.graph.input[0].CopyFrom(info("x", (1, 2, None, None)))
    path = save(model, tmp_path)
    out = tmp_path / "a.npz"
    error = run("convert", path, "--compose", "pad:conv", "-o", out).failed(2)
    assert "--input-shape" in error
    shape = ("--input-shape", "x=1,2,9,11")
    run("convert", path, "--compose", "pad:pointwise", *shape, "-o", out).succeeded()
    assert "proven\t" in run("verify", out, "--model", path).succeeded().out


def test_float64_layers_compose_in_float64(tmp_path):
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "W"], ["a"], name="one"),
        node("Conv", ["a", "V"], ["b"], name="two"),
    ]
    stored = [
        tensor("W", random(2, 1, 2, 2).astype(np.float64) / 3),
        tensor("V", random(3, 2, 2, 1).astype(np.float64) / 7),
    ]
    model = make_model(nodes, [info("x", (1, 1, 5, 5), TensorProto.DOUBLE)], stored)
    path = save(model, tmp_path)
    run("convert", path, "--compose", "one:two", "-o", tmp_path / "a.npz").succeeded()
    matrix = load_npz(tmp_path / "a.npz")
    assert matrix.dtype == np.float64
    one, two = (convfc_cli.matrix(path, name) for name in ("one", "two"))
    assert np.abs((matrix - two @ one).toarray()).max() < 1e-15
    rounded = tmp_path / "b.npz"
    run("convert", path, "--compose", "one:two", "--dtype", "float32", "-o", rounded).succeeded()
    assert load_npz(rounded).dtype == np.float32


def tree(trunk: int, leaves: int) -> bytes:
    """Convolutions one after another, and others that all read the last."""
    names = ["x", *(f"t{i}" for i in range(trunk))]
    nodes = [helper.make_node("Conv", [a, "W"], [b]) for a, b in pairwise(names)]
    nodes += [helper.make_node("Conv", [names[-1], "W"], [f"leaf{i}"]) for i in range(leaves)]
    model = make_model(nodes, [info("x", (1, 1, 4, 4))], [tensor("W", ramp(1, 1, 1, 1))])
    return bytes(model.SerializeToString())


def test_chains_that_fan_out_from_a_trunk_are_bounded_together(tmp_path):
    found = read(save(tree(5, 3), tmp_path))
    with budget.command() as left:
        before = left.operations
        assert [len(chain.parts) for chain in chains(found)] == [6] * 3
        used = before - left.operations
        left.operations = used - 1
        with pytest.raises(Refused, match="the chain that ends in 'leaf2'"):
            list(chains(found))


def test_estimates_of_many_chains_have_an_end(tmp_path):
    (first, second, _) = chains(read(save(tree(5, 3), tmp_path)))
    with budget.command() as left:
        assert first.entry.require().nnz == 16
        assert 0 < left.seconds < budget.Budget().seconds
        left.seconds = 0
        assert isinstance(second.entry, Refused)


def test_the_size_of_a_long_chain_over_a_large_tensor_is_found_at_once(tmp_path):
    names = ["x", *(f"t{i}" for i in range(60))]
    nodes = [helper.make_node("Conv", [a, "W"], [b]) for a, b in pairwise(names)]
    model = make_model(nodes, [info("x", (1, 1, 4096, 8192))], [tensor("W", ramp(1, 1, 1, 1))])
    (found,) = chains(read(save(model, tmp_path)))
    with within(5):
        assert found.entry.require().nnz == 4096 * 8192


def transposes(count: int, *shape: int) -> bytes:
    """Transposes of the last two axes, one after another."""
    names = ["x", *(f"t{i}" for i in range(count))]
    nodes = [
        helper.make_node("Transpose", [a], [b], name=b, perm=[0, 2, 1]) for a, b in pairwise(names)
    ]
    return bytes(make_model(nodes, [info("x", (1, *shape))], []).SerializeToString())


@pytest.mark.parametrize(
    ("count", "shape", "told"),
    [
        (5, (8192, 16384), "a tensor of 134217728 elements; at most 33554432"),
        (65, (2, 3), "a chain of 65 layers; at most 64"),
    ],
)
def test_limits_of_a_chain_are_tested_before_a_layer_is_loaded(
    count, shape, told, tmp_path, monkeypatch
):
    path = save(transposes(count, *shape), tmp_path)
    monkeypatch.setattr(Entry, "load", lambda entry: pytest.fail("a layer is loaded"))
    (found,) = chains(read(path))
    assert isinstance(found.entry, Refused)
    assert told in str(found.entry)
    given = ("--compose", f"t0:t{count - 1}", "-o", tmp_path / "a.npz")
    assert told in run("convert", path, *given).failed(5)


def test_a_chain_of_64_layers_is_not_too_long(tmp_path):
    path = save(transposes(64, 2, 3), tmp_path)
    (found,) = chains(read(path))
    assert found.entry.require().nnz == convfc_cli.matrix(path, compose="t0:t63").nnz == 6


def test_one_layer_of_a_chain_is_held_at_a_time_to_list_it(tmp_path, monkeypatch):
    whole, loaded, before = Entry.load, [], []

    def load(entry):
        before.append([one() is not None for one in loaded])
        layer = whole(entry)
        loaded.append(weakref.ref(layer))
        return layer

    monkeypatch.setattr(Entry, "load", load)
    (found,) = chains(read(save(transposes(4, 2, 3), tmp_path)))
    assert found.entry.require().nnz == 6
    assert before == [[False] * k for k in range(4)]


def test_each_layer_of_a_chain_is_on_the_budget(tmp_path, monkeypatch):
    whole, loaded = Entry.load, []
    with budget.command() as left:

        def load(entry):
            loaded.append(entry.name)
            left.seconds = 0
            return whole(entry)

        monkeypatch.setattr(Entry, "load", load)
        (found,) = chains(read(save(transposes(4, 2, 3), tmp_path)))
        assert isinstance(found.entry, Refused)
    assert loaded == ["t0"]


def test_normalizations_are_found_without_a_search_for_each(tmp_path):
    nodes, stored = [], [tensor("W", ramp(2, 1, 1, 1))]
    for i in range(3):
        nodes.append(helper.make_node("Conv", ["x", "W"], [f"c{i}"], name=f"conv{i}"))
        made, own = normalization(f"bn{i}", f"c{i}", 2)
        nodes.append(made)
        stored += own
    model = read(save(make_model(nodes, [info("x", (1, 1, 4, 4))], stored), tmp_path))
    assert [normalized(model, entry).name for entry in model.entries] == [
        f"conv{i}:bn{i}" for i in range(3)
    ]
    assert {name: len(found) for name, found in model.readers.items()} == {
        f"c{i}": 1 for i in range(3)
    }
