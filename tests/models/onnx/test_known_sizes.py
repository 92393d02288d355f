"""Sizes that an ONNX model states in some way or other: beside long texts, behind shapes that it
computes itself, in inner graphs. And weights that depend on nothing but such sizes.
"""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from convfc_cli.errors import MalformedInput, Refused, SizeMissing, Unsupported
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.models.onnx import constants, dataflow
from convfc_cli.models.onnx.shape_inference import Pass
from tests.support.models import (
    conv_model,
    first_result,
    info,
    listed,
    make_model,
    only,
    ramp,
    tensor,
)

node = helper.make_node

TEXT = "File forward.py, line 1, in forward\n" * 60


# --- text beside a tensor -------------------------------------------------------------------------


def noted(tensor: Any, how: str) -> Any:
    """A tensor or node with a long text beside it."""
    if how == "doc_string":
        tensor.doc_string = TEXT
    if how == "metadata_props":
        tensor.metadata_props.add(key="stack", value=TEXT)
    return tensor


def by_initializer(how: str) -> onnx.ModelProto:
    return reshaped([], [noted(tensor("shape", [1, 2, 4, 4]), how)])


def by_constant(how: str) -> onnx.ModelProto:
    stored = noted(tensor("", [1, 2, 4, 4]), how)
    return reshaped([noted(node("Constant", [], ["shape"], value=stored), how)])


def by_numbers(how: str) -> onnx.ModelProto:
    return reshaped([noted(node("Constant", [], ["shape"], value_ints=[1, 2, 4, 4]), how)])


def by_sparse(how: str) -> onnx.ModelProto:
    values, indices = tensor("v", [1, 2, 4, 4]), tensor("i", [0, 1, 2, 3])
    stored = helper.make_sparse_tensor(noted(values, how), noted(indices, how), [4])
    return reshaped([noted(node("Constant", [], ["shape"], sparse_value=stored), how)])


def by_scales(how: str) -> onnx.ModelProto:
    """A Resize by real numbers: of half the size, to the same."""
    stored = noted(tensor("scales", np.array([1, 1, 2, 2], np.float32)), how)
    return make_model(
        [node("Resize", ["x", "", "scales"], ["r"]), node("Conv", ["r", "W"], ["y"], name="c")],
        [info("x", (1, 2, 2, 2))],
        [tensor("W", ramp(3, 2, 3, 3)), stored],
    )


def in_a_branch(how: str) -> onnx.ModelProto:
    """The same within an If, the shape stored there."""

    def branch(name: str, *nodes: onnx.NodeProto, stored: Any = ()) -> onnx.GraphProto:
        return helper.make_graph(list(nodes), name, [], [info(f"y_{name}", None)], list(stored))

    then = branch(
        "then",
        node("Reshape", ["x", "shape"], ["r"]),
        node("Conv", ["r", "W"], ["y_then"], name="c"),
        stored=[noted(tensor("shape", [1, 2, 4, 4]), how)],
    )
    other = branch("else", node("Identity", ["x"], ["y_else"]))
    return make_model(
        [node("If", ["go"], ["y"], then_branch=then, else_branch=other)],
        [info("x", (1, 32)), info("go", (), TensorProto.BOOL)],
        [tensor("W", ramp(3, 2, 3, 3))],
    )


def in_a_function(how: str) -> onnx.ModelProto:
    """The same within a function."""
    stored = noted(tensor("", [1, 2, 4, 4]), how)
    nodes = [
        noted(node("Constant", [], ["shape"], value=stored), how),
        node("Reshape", ["a", "shape"], ["b"]),
    ]
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function("mine", "Shaped", ["a"], ["b"], nodes, opsets)
    model = make_model(
        [node("Shaped", ["x"], ["r"], domain="mine"), node("Conv", ["r", "W"], ["y"], name="c")],
        [info("x", (1, 32))],
        [tensor("W", ramp(3, 2, 3, 3))],
        domains={"mine": 1},
        opset=21,
    )
    model.functions.append(function)
    return model


def reshaped(nodes: Any, stored: Any = ()) -> onnx.ModelProto:
    """A convolution behind a Reshape to the `shape` that these nodes make or store."""
    return make_model(
        [
            *nodes,
            node("Reshape", ["x", "shape"], ["r"]),
            node("Conv", ["r", "W"], ["y"], name="c"),
        ],
        [info("x", (1, 32))],
        [tensor("W", ramp(3, 2, 3, 3)), *stored],
    )


@pytest.mark.parametrize("how", ["doc_string", "metadata_props", "nothing"])
@pytest.mark.parametrize(
    "make",
    [
        by_initializer,
        by_constant,
        by_numbers,
        by_sparse,
        by_scales,
        in_a_branch,
        in_a_function,
    ],
)
def test_text_beside_a_tensor_does_not_matter(
    make: Callable[[str], onnx.ModelProto], how: str, tmp_path: Path
) -> None:
    model = make(how)
    assert (len(model.SerializeToString()) > len(TEXT)) == (how != "nothing")
    outline = only(model, tmp_path).require()
    assert (outline.input_shape, outline.output_shape) == ((2, 4, 4), (3, 2, 2))


# --- shapes that the network computes -------------------------------------------------------------


def shuffles(blocks: int, input_shape: Any = ("n", 8, "h", "w")) -> onnx.ModelProto:
    """Channel shuffles whose every shape is computed from that of their input, with a convolution
    behind each.
    """
    nodes, x = [], "x"
    stored = [tensor("two", [2]), tensor("W", ramp(8, 8, 1, 1))]
    stored += [tensor(f"i{axis}", [axis]) for axis in range(4)]
    for k in range(blocks):
        n, c, h, w = sizes = [f"d{k}_{axis}" for axis in range(4)]
        nodes.append(node("Shape", [x], [f"s{k}"]))
        nodes += [node("Gather", [f"s{k}", f"i{axis}"], [sizes[axis]]) for axis in range(4)]
        nodes += [
            node("Div", [c, "two"], [f"half{k}"]),
            node("Concat", [n, "two", f"half{k}", h, w], [f"five{k}"], axis=0),
            node("Reshape", [x, f"five{k}"], [f"r{k}"]),
            node("Transpose", [f"r{k}"], [f"t{k}"], perm=[0, 2, 1, 3, 4]),
            node("Concat", sizes, [f"four{k}"], axis=0),
            node("Reshape", [f"t{k}", f"four{k}"], [f"q{k}"]),
            node("Conv", [f"q{k}", "W"], [f"c{k}"], name=f"conv{k}", pads=[1, 1, 0, 0]),
        ]
        x = f"c{k}"
    return make_model(nodes, [info("x", input_shape)], stored)


def test_shapes_behind_shapes_to_any_depth(tmp_path: Path) -> None:
    found = listed(shuffles(40), tmp_path, {"x": (1, 8, 3, 5)})
    shapes = [entry.require().input_shape for entry in found.entries]
    assert shapes == [(8, 3 + k, 5 + k) for k in range(40)]


def test_the_work_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shuffles(30)
    calls = 0
    infer = onnx.shape_inference.infer_shapes

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return infer(*given, **named)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", counted)
    facts = Pass({"": 21}, {"x": (1, 8, 3, 5)}).over(model.graph)
    assert facts.shapes["c29"] == (1, 8, 33, 35)
    assert 30 < calls <= len(model.graph.node)


def test_group_normalization_as_it_is_written_with_a_free_batch(tmp_path: Path) -> None:
    model = make_model(
        [
            node("Reshape", ["x", "groups"], ["g"]),
            node("InstanceNormalization", ["g", "one", "zero"], ["i"]),
            node("Shape", ["x"], ["s"]),
            node("Reshape", ["i", "s"], ["n"]),
            node("Conv", ["n", "W"], ["y"], name="conv"),
        ],
        [info("x", ("batch", 8, 6, 7))],
        [
            tensor("groups", [0, 4, -1]),
            tensor("one", np.ones(4, np.float32)),
            tensor("zero", np.zeros(4, np.float32)),
            tensor("W", ramp(3, 8, 3, 3)),
        ],
    )
    assert only(model, tmp_path).require().output_shape == (3, 4, 5)


def test_sizes_in_a_scan(tmp_path: Path) -> None:
    """What a Scan takes at each step has one axis less; what it adds up has the size it had."""
    body = helper.make_graph(
        [
            node("Conv", ["part", "W"], ["made"], name="c"),
            node("Conv", ["sum", "W"], ["other"], name="d"),
            node("Identity", ["sum"], ["next"]),
        ],
        "body",
        [info("sum", None), info("part", None)],
        [info("next", None), info("made", None)],
    )
    scan = node("Scan", ["a", "x"], ["s", "y"], body=body, num_scan_inputs=1, name="scan")
    model = make_model(
        [scan, node("Conv", ["s", "W"], ["z"], name="after")],
        [info("a", (1, 2, 9, 9)), info("x", (5, 1, 2, 6, 7))],
        [tensor("W", ramp(3, 2, 3, 3))],
        outputs=["y", "z"],
    )
    shapes = [entry.require().input_shape for entry in listed(model, tmp_path).entries]
    assert shapes == [(2, 6, 7), (2, 9, 9), (2, 9, 9)]


def test_what_a_crash_of_inference_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(
        [
            node("Conv", ["x", "W"], ["h"], name="declared"),
            node("Conv", ["h", "V"], ["y"], name="inferred"),
        ],
        [info("x", (1, 2, 9, 6))],
        [tensor("W", ramp(3, 2, 2, 3)), tensor("V", ramp(1, 3, 2, 2))],
    )
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda *_, **__: os.abort())
    first, second = listed(model, tmp_path).entries
    assert first.require().output_shape == (3, 8, 4)
    assert isinstance(second.error, SizeMissing)
    assert "the shape inference of" in str(second.error)
    assert "crashes (signal 6)" in str(second.error)
    assert listed(model, tmp_path, {"x": (1, 2, 9, 6)}).entries[0].error is None
    with pytest.raises(Refused, match=r"the given shape h=1,3,8,4 cannot be held .* crashes"):
        listed(model, tmp_path, {"h": (1, 3, 8, 4)})


# --- weights that take a size or a type -----------------------------------------------------------


def weighted(nodes: Any, stored: Any, input_shape: Any = (1, 3, 8, 8), **rest: Any) -> Any:
    """A convolution of x by a kernel `W` and a bias `b` that these nodes make or store."""
    conv = node("Conv", ["x", "W", "b"], ["y"], name="conv", pads=[1, 1, 1, 1])
    if not any(t.name == "W" for t in stored) and not any("W" in n.output for n in nodes):
        stored = [*stored, tensor("W", ramp(4, 3, 3, 3))]
    if not any("b" in made.output for made in nodes):
        conv.input.pop()
    return make_model([*nodes, conv], [info("x", input_shape)], stored, opset=20, **rest)


def test_a_bias_that_takes_its_type_from_the_input(tmp_path: Path) -> None:
    """As torch's exporter by dynamo writes a convolution without one."""
    nodes = [
        node("Shape", ["W"], ["n"], start=0, end=1),
        node("CastLike", ["zero", "x"], ["like"]),
        node("Expand", ["like", "n"], ["b"]),
    ]
    entry = only(weighted(nodes, [tensor("zero", np.array(0))], (None, 3, 8, 8)), tmp_path)
    layer = entry.load()
    assert np.array_equal(layer.bias, np.zeros(4, np.float32))
    assert layer.kernel.tobytes() == ramp(4, 3, 3, 3).tobytes()
    agrees(entry)


def repeated(input_shape: Any) -> onnx.ModelProto:
    """A blur of as many channels as x has."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["c"]),
        node("Concat", ["c", "rest"], ["shape"], axis=0),
        node("Expand", ["k", "shape"], ["W"]),
    ]
    stored = [tensor("one", [1]), tensor("rest", [1, 3, 3]), tensor("k", ramp(1, 1, 3, 3))]
    model = weighted(nodes, stored, input_shape)
    model.graph.node[-1].attribute.append(helper.make_attribute("group", 3))
    return model


def test_a_kernel_repeated_for_each_channel_of_the_input(tmp_path: Path) -> None:
    entry = only(repeated((1, 3, 8, 8)), tmp_path)
    layer = entry.load()
    assert np.array_equal(layer.kernel, np.repeat(ramp(1, 1, 3, 3), 3, 0))
    agrees(entry)


def test_a_kernel_of_a_size_that_is_given(tmp_path: Path) -> None:
    entry = only(repeated((1, "c", "h", "w")), tmp_path)
    assert isinstance(entry.error, Unsupported)
    assert "its weights are not constant: it depends on the size of 'x'" in str(entry.error)
    entry = only(repeated((1, "c", "h", "w")), tmp_path, {"x": (1, 3, 8, 8)})
    assert entry.load().kernel.shape == (3, 1, 3, 3)


def by_the_batch(input_shape: Any, first: str = "Shape") -> onnx.ModelProto:
    """A bias that is the batch, or the number of elements."""
    nodes = [
        node(first, ["x"], ["n"], **({"start": 0, "end": 1} if first == "Shape" else {})),
        node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Expand", ["f", "four"], ["b"]),
    ]
    return weighted(nodes, [tensor("four", [4])], input_shape)


@pytest.mark.parametrize("first", ["Shape", "Size"])
def test_a_free_batch_is_no_weight(first: str, tmp_path: Path) -> None:
    entry = only(by_the_batch(("n", 3, 8, 8), first), tmp_path)
    assert isinstance(entry.error, Unsupported)
    assert "its bias is not constant: it depends on the batch of 'x'" in str(entry.error)
    times = 1 if first == "Shape" else 3 * 8 * 8
    for entry in (
        only(by_the_batch(("n", 3, 8, 8), first), tmp_path, {"x": (5, 3, 8, 8)}),
        only(by_the_batch((5, 3, 8, 8), first), tmp_path),
    ):
        assert np.array_equal(entry.load().bias, np.full(4, 5 * times, np.float32))


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Outputs of the nodes that `dynamic` follows, one for each time."""
    found: list[str] = []
    whole = constants.of_constants
    assert dataflow.of_constants is whole  # imported before it is patched: its calls do not count

    def noted(scope: Any, made: Any, *, batch: bool) -> Any:
        found.append(made.output[0])
        return whole(scope, made, batch=batch)

    monkeypatch.setattr(constants, "of_constants", noted)
    return found


BY_THE_BATCH = "its bias is not constant: it depends on the batch of 'x', which is open"


@pytest.mark.parametrize("biases", ["one for all", "one for each"])
def test_many_biases_that_depend_on_the_batch_are_followed_once(
    biases: str, tmp_path: Path, followed: list[str]
) -> None:
    count = 20
    nodes = [
        node("Shape", ["x"], ["n"], start=0, end=1),
        node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Expand", ["f", "four"], ["b0"]),
        *(node("Abs", [f"b{k}"], [f"b{k + 1}"]) for k in range(count)),
    ]
    for k in range(count):
        bias = f"b{count}" if biases == "one for all" else f"b{k + 1}"
        nodes.append(node("Conv", ["x", "W", bias], [f"y{k}"]))
    stored = [tensor("four", [4]), tensor("W", ramp(4, 3, 2, 2))]
    found = listed(make_model(nodes, [info("x", ("n", 3, 8, 8))], stored), tmp_path)
    assert [str(entry.error) for entry in found.entries] == [BY_THE_BATCH] * count
    assert sorted(followed) == sorted(["n", "f", *(f"b{k}" for k in range(count + 1))])


def test_a_constant_that_many_biases_share_is_followed_once(
    tmp_path: Path, followed: list[str]
) -> None:
    """The nodes stand in the opposite order, so that only `dynamic` finds the constant."""
    count = 20
    nodes = [node("Conv", ["x", "W", f"s{k}"], [f"y{k}"]) for k in range(count)]
    nodes += [node("Add", ["f", f"c{count}"], [f"s{k}"]) for k in range(count)]
    nodes += [node("Abs", [f"c{k}"], [f"c{k + 1}"]) for k in reversed(range(count))]
    nodes += [node("Cast", ["n"], ["f"], to=TensorProto.FLOAT), node("Size", ["x"], ["n"])]
    stored = [tensor("c0", ramp(4)), tensor("W", ramp(4, 3, 2, 2))]
    found = listed(make_model(nodes, [info("x", ("n", 3, 8, 8))], stored), tmp_path)
    assert [str(entry.error) for entry in found.entries] == [BY_THE_BATCH] * count
    sums, constants = (f"s{k}" for k in range(count)), (f"c{k}" for k in range(2, count + 1))
    assert sorted(followed) == sorted(["n", "f", *sums, *constants])


def test_an_identity_as_large_as_a_tensor(tmp_path: Path) -> None:
    nodes = [
        node("EyeLike", ["z"], ["eye"], k=1, dtype=TensorProto.FLOAT),
        node("Reshape", ["eye", "shape"], ["W"]),
    ]
    model = weighted(nodes, [tensor("shape", [4, 3, 1, 1])])
    model.graph.input.append(info("z", (4, 3)))
    entry = only(model, tmp_path)
    assert np.array_equal(entry.load().kernel[:, :, 0, 0], np.eye(4, 3, 1))
    agrees(entry)


def test_a_reshape_of_a_free_batch_is_a_layer(tmp_path: Path) -> None:
    """What lists sizes may have the batch among them: a layer is what is done to one sample."""
    model = make_model(
        [
            node("Shape", ["x"], ["n"], start=0, end=1),
            node("Concat", ["n", "rest"], ["shape"], axis=0),
            node("Reshape", ["x", "shape"], ["y"], name="r"),
        ],
        [info("x", ("n", 3, 4))],
        [tensor("rest", [-1])],
    )
    (entry,) = listed(model, tmp_path).others
    x = ramp(3, 4)
    assert np.array_equal(entry.load().apply(x), x.reshape(12))
    agrees(entry)


def agrees(entry: Any) -> None:
    """Let a runtime run the node as it is cut out, and hold it to the layer."""
    result = first_result(entry, np.random.default_rng(0))
    assert not isinstance(result, str), result
    finding = check_runtime(entry.load(), result)
    assert finding.holds, finding.detail


def sized_by(*nodes: Any, t: Any = None, **rest: Any) -> onnx.ModelProto:
    """A convolution whose kernel is made from the sizes of `t`; what it is, nobody knows."""
    inputs = [info("x", (1, 3, 8, 8)), *([] if t is None else [info("t", t)])]
    unknown = [] if t is not None else [node("Foo", ["x"], ["t"], domain="com.example")]
    stored = [tensor("one", ramp(1, 3, 1, 1)), tensor("sizes", [4, 3, 1, 1])]
    conv = node("Conv", ["x", "W"], ["y"], name="conv")
    return make_model(
        [*unknown, *nodes, conv], inputs, stored, opset=20, domains={"com.example": 1}, **rest
    )


def test_sizes_of_a_tensor_whose_axes_nobody_knows(tmp_path: Path) -> None:
    """From the second on, they are not none."""
    nodes = [node("Shape", ["t"], ["s"], start=1), node("Expand", ["one", "s"], ["W"])]
    with pytest.raises(Unsupported, match="the size of 't', which is open"):
        only(sized_by(*nodes), tmp_path).require()
    layer = only(sized_by(*nodes, t=(7, 4, 3, 1, 1)), tmp_path).load()
    assert layer.kernel.shape == (4, 3, 1, 1)


def test_the_shape_of_a_scalar_is_known(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["t"], ["s"]),
        node("Expand", ["one", "s"], ["e"]),
        node("Size", ["t"], ["n"]),
        node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["e", "f"], ["W"]),
    ]
    assert np.array_equal(only(sized_by(*nodes, t=()), tmp_path).load().kernel, ramp(1, 3, 1, 1))


def test_a_size_beyond_64_bits(tmp_path: Path) -> None:
    nodes = [
        node("Size", ["t"], ["n"]),
        node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["one", "f"], ["W"]),
    ]
    with pytest.raises(Unsupported, match="the size of 't', which is beyond 64 bits"):
        only(sized_by(*nodes, t=(2**40, 2**40)), tmp_path).require()


def test_a_size_that_is_given_says_nothing_of_the_type(tmp_path: Path) -> None:
    """Nor of what is made from the tensor."""
    nodes = [node("Abs", ["t"], ["a"]), node("CastLike", ["one", "a"], ["W"])]
    for shapes in (None, {"t": (1, 3, 8, 8)}):
        with pytest.raises(Unsupported, match="the type of 'a', which is not known"):
            only(sized_by(*nodes), tmp_path, shapes).require()


def test_castlike_saturates_as_it_says(tmp_path: Path) -> None:
    """1000 is beyond the largest float8 of this kind, 448."""
    kernels = []
    for saturate in (0, 1):
        nodes = [
            node("CastLike", ["big", "t"], ["narrow"], saturate=saturate),
            node("Cast", ["narrow"], ["W"], to=TensorProto.FLOAT),
        ]
        model = sized_by(*nodes, t=(1,))
        model.graph.input[1].CopyFrom(info("t", (1,), TensorProto.FLOAT8E4M3FN))
        model.graph.initializer.append(tensor("big", np.full((1, 3, 1, 1), 1000, np.float32)))
        kernels.append(only(model, tmp_path).load().kernel)
    assert np.isnan(kernels[0]).all()
    assert (kernels[1] == 448).all()


@pytest.mark.slow
def test_large_identities_are_not_made_before_they_are_needed(tmp_path: Path) -> None:
    """Sixty of 8 MB, of which a kernel needs one number."""
    nodes = [node("EyeLike", ["t"], [f"e{n}"], dtype=TensorProto.DOUBLE) for n in range(60)]
    nodes += [node("Sum", [f"e{n}" for n in range(60)], ["sum"])]
    nodes += [node("ReduceMax", ["sum"], ["most"], keepdims=0)]
    nodes += [node("Cast", ["most"], ["f"], to=TensorProto.FLOAT), node("Mul", ["one", "f"], ["W"])]
    model = sized_by(*nodes, t=(1024, 1024))
    tracemalloc.start()
    try:
        entry = only(model, tmp_path)
        assert np.array_equal(entry.load().kernel, 60 * ramp(1, 3, 1, 1))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


# --- what is not a graph -------------------------------------------------------------------------


def constant_without(what: str) -> onnx.ModelProto:
    model = conv_model(ramp(3, 2, 2, 3), None, {}, (1, 2, 9, 6))
    broken = model.graph.node.add(op_type="Constant")
    if what != "output":
        broken.output.append("k")
    if what == "output":
        broken.attribute.append(helper.make_attribute("value", tensor("t", ramp(300, 2))))
    return model


def twins() -> onnx.ModelProto:
    """Two nodes of the same outputs, with other numbers of graphs."""
    graph = helper.make_graph([], "empty", [], [])
    model = conv_model(ramp(3, 2, 2, 3), None, {}, (1, 2, 9, 6))
    for count in (1, 2):
        twin = model.graph.node.add(op_type="Twin", domain="com.example", output=["twin"])
        twin.attribute.append(helper.make_attribute("graphs", [graph] * count))
    model.opset_import.add(domain="com.example", version=1)
    return model


@pytest.mark.parametrize(
    "model", [constant_without("output"), constant_without("value"), twins()], ids=range(3)
)
def test_nodes_that_no_graph_has_are_malformed_at_worst(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    try:
        assert only(model, tmp_path).require().output_shape == (3, 8, 4)
    except MalformedInput:
        return
