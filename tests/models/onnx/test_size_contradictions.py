"""Sizes that contradict each other: refused wherever they are, and nothing else is.

Either the user's size contradicts the model (2), or the model contradicts itself (3), in the layers
whose sizes that concerns. A small network is made up, its sizes worked out here in plain
arithmetic, and one of the sizes that it declares, or that are given, is changed.
`HYPOTHESIS_PROFILE=thorough` makes up 25 times as many.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper

from convfc_cli.errors import MalformedInput, SizeMissing, UsageError
from tests.support.models import convfc, info, listed, make_model, only, ramp, save, tensor

node = helper.make_node

Shape = tuple[int, ...]


# --- networks that are made up --------------------------------------------------------------------


@dataclass
class Network:
    """A chain of nodes from x on, each with what it makes of a shape; None where it refuses it."""

    first: Shape
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    last: str = "x"

    def sizes(self, first: Shape) -> dict[str, Shape] | None:
        """The shape of each tensor between the steps, where x has the shape `first`."""
        shapes = {"x": first}
        for step in self.steps:
            name, made = step(list(shapes.values())[-1])
            if made is None or min(made) < 1:
                return None
            shapes[name] = made
        return shapes

    def put(self, step: Any, *nodes: onnx.NodeProto, stored: Any = ()) -> None:
        """Add a step, unless it does not take what is there."""
        name = nodes[-1].output[0]
        self.steps.append(lambda shape: (name, step(shape)))
        if self.sizes(self.first) is None:
            self.steps.pop()
            return
        self.nodes += nodes
        self.stored += stored
        self.last = name


def convolution(network: Network, k: int, random: Any, now: Shape) -> None:
    inputs, kernel, stride = now[1], int(random.integers(1, 4)), int(random.integers(1, 3))
    outputs, pad = int(random.integers(1, 4)), int(random.integers(2))

    def step(shape: Shape) -> Shape | None:
        if shape[1] != inputs:
            return None
        return (shape[0], outputs, *((n + 2 * pad - kernel) // stride + 1 for n in shape[2:]))

    made = node(
        *("Conv", [network.last, f"w{k}"], [f"t{k}"]),
        **{"name": f"conv{k}", "pads": [pad] * 4, "strides": [stride] * 2},
    )
    network.put(step, made, stored=[tensor(f"w{k}", ramp(outputs, inputs, kernel, kernel))])


def pool(network: Network, k: int, random: Any, now: Shape) -> None:
    made = node("MaxPool", [network.last], [f"t{k}"], kernel_shape=[2, 2], strides=[2, 2])
    network.put(lambda s: (*s[:2], *((n - 2) // 2 + 1 for n in s[2:])), made)


def padding(network: Network, k: int, random: Any, now: Shape) -> None:
    ends = [int(n) for n in random.integers(0, 3, 4)]
    stored = [tensor(f"p{k}", [0, 0, *ends[:2], 0, 0, *ends[2:]])]
    made = node("Pad", [network.last, f"p{k}"], [f"t{k}"])
    network.put(
        lambda s: (*s[:2], s[2] + ends[0] + ends[2], s[3] + ends[1] + ends[3]),
        made,
        stored=stored,
    )


def activation(network: Network, k: int, random: Any, now: Shape) -> None:
    network.put(lambda s: s, node("Relu", [network.last], [f"t{k}"]))


def concatenation(network: Network, k: int, random: Any, now: Shape) -> None:
    made = node("Concat", [network.last, network.last], [f"t{k}"], axis=1)
    network.put(lambda s: (s[0], 2 * s[1], *s[2:]), made)


def reshape(network: Network, k: int, random: Any, now: Shape) -> None:
    """To a constant shape, one size of which may be what is left."""
    _, c, h, w = now
    wanted = [1, c * h, 1, w] if random.integers(2) else [1, w, c, h]
    if random.integers(2):
        wanted[int(random.integers(1, 4))] = -1

    def step(shape: Shape) -> Shape | None:
        try:
            return np.empty(shape, np.int8).reshape(wanted).shape
        except ValueError:
            return None

    made = node("Reshape", [network.last, f"s{k}"], [f"t{k}"])
    network.put(step, made, stored=[tensor(f"s{k}", wanted)])


def computed(network: Network, k: int, random: Any, now: Shape) -> None:
    """Channels and places exchanged, by a shape that the network computes."""
    nodes = [
        node("Shape", [network.last], [f"n{k}"]),
        node("Gather", [f"n{k}", f"g{k}"], [f"m{k}"]),
        node("Reshape", [network.last, f"m{k}"], [f"t{k}"]),
    ]
    network.put(lambda s: (s[0], s[2], s[1], s[3]), *nodes, stored=[tensor(f"g{k}", [0, 2, 1, 3])])


KINDS = (convolution, convolution, pool, padding, activation, concatenation, reshape, computed)


def made_up(random: Any) -> Network:
    """A network with a convolution in it."""
    network = Network((1, *(int(n) for n in random.integers((1, 4, 4), (4, 12, 12)))))
    for k in range(int(random.integers(1, 7))):
        shapes = network.sizes(network.first)
        assert shapes is not None
        KINDS[random.integers(len(KINDS))](network, k, random, shapes[network.last])
    shapes = network.sizes(network.first)
    assert shapes is not None
    convolution(network, 9, random, shapes[network.last])
    if not any(made.op_type == "Conv" for made in network.nodes):
        return made_up(random)
    return network


def stated(network: Network, declared: dict[str, Any]) -> onnx.ModelProto:
    """The network with these declarations: of x, of its output, of tensors between."""
    between = [name for name in declared if name not in ("x", network.last)]
    model = make_model(
        network.nodes,
        [info("x", declared["x"])],
        network.stored,
        value_info=[info(name, declared[name]) for name in between],
    )
    model.graph.output[0].CopyFrom(info(network.last, declared[network.last]))
    return model


def changed(shape: Shape, random: Any) -> Shape:
    """A shape with one size changed, not the batch."""
    axis = int(random.integers(1, len(shape)))
    size = shape[axis] + int(random.choice([-2, -1, 1, 2, 5]))
    return (*shape[:axis], size if size > 0 else shape[axis] + 1, *shape[axis + 1 :])


def refused(model: onnx.ModelProto, folder: Path, given: Any = None) -> str:
    """How a model is refused, it or one of its layers; empty where it is not."""
    try:
        errors: list[Any] = [entry.error for entry in listed(model, folder, given).entries]
    except (UsageError, MalformedInput) as error:
        errors = [error]
    errors = [error for error in errors if error is not None]
    assert not any(isinstance(error, SizeMissing) for error in errors)
    if not errors:
        return ""
    return "UsageError" if isinstance(errors[0], UsageError) else "MalformedInput"


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(5))
def test_one_size_changed(chunk: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    for seed in range(chunk, max(5, settings.default.max_examples // 2), 5):
        random = np.random.default_rng([83, seed])
        network = made_up(random)
        shapes = network.sizes(network.first)
        assert shapes is not None
        names = list(shapes)
        declared: dict[str, Any] = {
            name: shapes[name] for name in names if random.integers(2) or name == network.last
        }
        batch = "n" if random.integers(2) and "Reshape" not in {
            made.op_type for made in network.nodes
        } else 1  # fmt: skip
        declared["x"] = (batch, *network.first[1:])
        told = f"seed {seed}"

        assert not refused(stated(network, declared), tmp_path), told
        some = names[random.integers(len(names))]
        assert not refused(stated(network, declared), tmp_path, {some: shapes[some]}), told
        opened = {**declared, "x": (batch, network.first[1], "h", "w")}
        assert not refused(stated(network, opened), tmp_path, {"x": network.first}), told
        counts["unchanged, taken"] += 3

        inner = [name for name in declared if name != "x"]
        wrong = inner[random.integers(len(inner))]
        other = {**declared, wrong: changed(shapes[wrong], random)}
        assert refused(stated(network, other), tmp_path) == "MalformedInput", (told, wrong)
        counts["declared, refused"] += 1

        given = changed(shapes[some], random)
        how = refused(stated(network, declared), tmp_path, {some: given})
        assert how == "UsageError", (told, some, given)
        counts["given beside the model's own, refused"] += 1

        given = changed(network.first, random)
        made = network.sizes(given)
        fits = made is not None and all(made[name] == shapes[name] for name in inner)
        pairs = zip(given[1:], network.first[1:], strict=True)
        opened["x"] = (batch, *(None if a != b else a for a, b in pairs))
        for model, sizes in (
            (stated(network, {**declared, "x": given}), None),
            (stated(network, opened), {"x": given}),
        ):
            how = refused(model, tmp_path, sizes)
            assert bool(how) != fits, (told, given, how)
        counts["of the input, refused" if not fits else "of the input, fits all the same"] += 2
    with capsys.disabled():
        print(f" {dict(counts)}")


# --- and by hand ----------------------------------------------------------------------------------


def folded_up(out: Any = (1, 3, 9, 9)) -> onnx.ModelProto:
    """A Reshape to a constant shape, a ConvTranspose, and an output that is declared."""
    model = make_model(
        [
            node("Reshape", ["x", "shape"], ["r"]),
            node("ConvTranspose", ["r", "W"], ["y"], name="up", strides=[2, 2]),
        ],
        [info("x", (1, 32))],
        [tensor("shape", [-1, 2, 4, 4]), tensor("W", ramp(2, 3, 3, 3))],
    )
    model.graph.output[0].CopyFrom(info("y", out))
    return model


@pytest.mark.parametrize("given", [(1, 2, 5, 5), (1, 2, 224, 224), (1, 2, 4), (1, 2, 4, 5)])
def test_a_size_given_where_the_model_has_its_own(given: Shape, tmp_path: Path) -> None:
    assert only(folded_up(), tmp_path).require().output_shape == (3, 9, 9)
    assert only(folded_up(), tmp_path, {"r": (1, 2, 4, 4)}).require().output_shape == (3, 9, 9)
    with pytest.raises(UsageError) as caught:
        only(folded_up(), tmp_path, {"r": given})
    told = ",".join(map(str, given))
    assert str(caught.value) == (
        f"the tensor 'r' is {told} by the given shape, 1,2,4,4 by shape inference"
    )


def test_a_given_size_and_one_that_follows_from_another(tmp_path: Path) -> None:
    model = make_model(
        [node("Conv", ["x", "W"], ["a"], name="c1"), node("Conv", ["a", "V"], ["y"], name="c2")],
        [info("x", (1, 3, "h", "w"))],
        [tensor("W", ramp(8, 3, 1, 1)), tensor("V", ramp(2, 8, 3, 3))],
    )
    shapes = {"x": (1, 3, 16, 16), "a": (1, 8, 5, 5)}
    with pytest.raises(UsageError, match=r"'a' is 1,8,5,5 by the given shape, 1,8,16,16 by shape"):
        listed(model, tmp_path, shapes)
    shapes["a"] = (1, 8, 16, 16)
    found = listed(model, tmp_path, shapes)
    assert [e.require().output_shape for e in found.entries] == [(8, 16, 16), (2, 14, 14)]


def foreign(out: Any = (1, 3, 9, 9)) -> onnx.ModelProto:
    """A ConvTranspose behind an operator that nobody knows, and an output that is declared."""
    model = make_model(
        [
            node("Mystery", ["x"], ["m"], domain="com.example"),
            node("ConvTranspose", ["m", "W"], ["y"], name="up", strides=[2, 2]),
        ],
        [info("x", (1, 32))],
        [tensor("W", ramp(2, 3, 3, 3))],
        domains={"com.example": 1},
    )
    model.graph.output[0].CopyFrom(info("y", out))
    return model


def test_a_given_size_and_a_declared_output(tmp_path: Path) -> None:
    assert only(foreign(), tmp_path, {"m": (1, 2, 4, 4)}).require().output_shape == (3, 9, 9)
    with pytest.raises(UsageError) as caught:
        only(foreign(), tmp_path, {"m": (1, 2, 5, 4)})
    told = str(caught.value)
    assert told.startswith("the given shape m=1,2,5,4 does not fit")
    assert "'y' is 1,3,11,9 by shape inference, 1,3,9,9 by its declaration as an output" in told


def dense_behind(height: Any, width: Any) -> onnx.ModelProto:
    """A convolution by a 3x3 kernel and a dense layer of 4 * 5 * 7 numbers, as torch writes it."""
    return make_model(
        [
            node("Conv", ["x", "W"], ["c"], name="conv"),
            node("Flatten", ["c"], ["f"]),
            node("Gemm", ["f", "B"], ["y"], name="fc", transB=1),
        ],
        [info("x", ("n", 2, height, width))],
        [tensor("W", ramp(4, 2, 3, 3)), tensor("B", ramp(10, 140))],
    )


def test_a_given_size_and_a_dense_layer_behind(tmp_path: Path) -> None:
    found = only(dense_behind("h", "w"), tmp_path, {"x": (1, 2, 7, 9)})
    assert found.require().output_shape == (4, 5, 7)
    with pytest.raises(UsageError, match="Gemm 'fc' does not take its inputs: 197136 numbers"):
        only(dense_behind("h", "w"), tmp_path, {"x": (1, 2, 224, 224)})
    error = only(dense_behind(8, 9), tmp_path).error
    assert type(error) is MalformedInput
    assert "168 numbers for a sum over 140" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        foreign(),
        foreign((1, 3, 11, 7)),
        dense_behind(7, "w"),
        dense_behind("h", 9),
        make_model(
            [node("Conv", ["x", "W"], ["c"], strides=[4, 4]), node("Relu", ["c"], ["y"])],
            [info("x", (None, 2, None, None))],
            [tensor("W", ramp(4, 2, 3, 3))],
            value_info=[info("c", (None, 4, 10, 300))],
        ),
    ],
    ids=range(5),
)
def test_a_hint_is_one_that_the_model_takes(
    model: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(model, tmp_path)
    done = convfc(capsys, "convert", path, "-o", tmp_path / "a.npz")
    assert done.code == 2
    (hint,) = re.findall(r"--input-shape (\S+)", done.err)
    done = convfc(capsys, "convert", path, "-o", tmp_path / "a.npz", "--input-shape", hint)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_no_hint_where_none_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(foreign((1, 3, 8, 9)), tmp_path)  # 8 is not an output of any input
    done = convfc(capsys, "convert", path, "-o", tmp_path / "a.npz")
    assert done.code == 2
    assert done.err.endswith("; specify it with --input-shape\n")
    done = convfc(capsys, "inspect", path)
    assert done.code == 0
    assert "sizes are open; specify them with --input-shape" in done.err


def unneeded() -> onnx.ModelProto:
    """A convolution of x, and a Relu of z."""
    return make_model(
        [
            node("Conv", ["x", "W"], ["y"], name="conv"),
            node("Relu", ["z"], ["v"]),
            node("Constant", [], ["k"], value=tensor("", [1, 2])),
        ],
        [info("x", (1, 2, "h", "w")), info("z", (1, "m")), info("known", (1, 7))],
        [tensor("W", ramp(3, 2, 2, 3))],
        outputs=["y", "v"],
    )


@pytest.mark.parametrize("name", ["z", "v"])
def test_a_size_that_nothing_needs_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"'{name}' is given, but no layer of .* depends on it"):
        only(unneeded(), tmp_path, {"x": (1, 2, 9, 6), name: (1, 5)})


def test_a_size_that_is_known_may_be_said_again(tmp_path: Path) -> None:
    given = {"x": (1, 2, 9, 6), "known": (1, 7), "y": (1, 3, 8, 4)}
    assert only(unneeded(), tmp_path, given).require().output_shape == (3, 8, 4)
    with pytest.raises(UsageError, match=r"'known' is 1,8 by the given shape, 1,7 by its declar"):
        only(unneeded(), tmp_path, {"known": (1, 8)})
    with pytest.raises(UsageError, match="'k' is a constant of"):
        only(unneeded(), tmp_path, {"k": (2,)})


def two_layers(**declared: Any) -> onnx.ModelProto:
    """Three convolutions in a row of a 9 x 6 image, and these declarations."""
    return make_model(
        [
            node("Conv", ["x", "W"], ["a"], name="one"),
            node("Conv", ["a", "W"], ["b"], name="two"),
            node("Relu", ["b"], ["c"]),
            node("Conv", ["c", "W"], ["y"], name="three"),
        ],
        [info("x", declared.pop("x", (1, 2, 9, 6)))],
        [tensor("W", ramp(2, 2, 2, 2))],
        value_info=[info(name, shape) for name, shape in declared.items()],
    )


@pytest.mark.parametrize(
    ("declared", "refused"),
    [
        ({}, []),
        ({"a": (1, 2, 8, 5), "c": (1, 2, 7, 4)}, []),
        ({"a": ("n", 2, "h", None)}, []),
        ({"a": (64, 2, 8, 5), "c": (64, 2, 7, 4)}, []),  # the batch is not a size of a layer
        ({"x": ("n", 2, 9, 6), "a": (64, 2, 8, 5)}, []),
        ({"c": (1, 2, 7, 5)}, ["two", "three"]),
        ({"a": (1, 2, 8, 4)}, ["one", "two", "three"]),
        ({"y": (1, 2, 6, 4)}, ["three"]),
        ({"y": (1, 2, 24)}, ["three"]),
    ],
    ids=str,
)
def test_a_contradiction_refuses_the_layers_that_it_concerns(
    declared: dict[str, Any], refused: list[str], tmp_path: Path
) -> None:
    found = listed(two_layers(**declared), tmp_path).entries
    failed = [entry.name for entry in found if entry.error is not None]
    assert failed == refused
    assert all(type(e.error) is MalformedInput for e in found if e.error is not None)


def test_a_contradiction_of_the_models_own_is_not_the_users(tmp_path: Path) -> None:
    """It stays with its layers, whatever is given."""
    model = two_layers(x=(1, 2, "h", 6), c=(1, 2, "h", 5))
    found = listed(model, tmp_path, {"x": (1, 2, 9, 6)}).entries
    assert [type(entry.error) for entry in found] == [type(None), MalformedInput, MalformedInput]


def test_a_branch_that_need_not_be_taken(tmp_path: Path) -> None:
    """A size that one branch of an If takes and the other does not is not a contradiction."""

    def branch(name: str, elements: int) -> onnx.GraphProto:
        nodes = [
            node("Reshape", ["c", "shape"], [f"r_{name}"]),
            node("Identity", [f"r_{name}"], [f"y_{name}"]),
        ]
        stored = [tensor("shape", [1, elements])]
        return helper.make_graph(nodes, name, [], [info(f"y_{name}", None)], stored)

    branches = {"then_branch": branch("then", 96), "else_branch": branch("else", 97)}
    model = make_model(
        [node("Conv", ["x", "W"], ["c"], name="conv"), node("If", ["go"], ["y"], **branches)],
        [info("x", (1, 2, "h", 6)), info("go", (), TensorProto.BOOL)],
        [tensor("W", ramp(3, 2, 2, 3))],
    )
    assert only(model, tmp_path, {"x": (1, 2, 9, 6)}).require().output_shape == (3, 8, 4)


@pytest.mark.parametrize(
    ("shape", "kind", "told"),
    [
        ((4, 2, 3, 3), TensorProto.FLOAT, ""),
        (("n", 2, 3, 3), TensorProto.FLOAT, ""),
        ((8, 2, 3, 3), TensorProto.FLOAT, "4,2,3,3 by its stored value, 8,2,3,3 by"),
        ((4, 2, 3, 5), TensorProto.FLOAT, "4,2,3,3 by its stored value, 4,2,3,5 by"),
        ((4, 2, 3, 3), TensorProto.DOUBLE, "float by its stored value, double by"),
    ],
)
def test_weights_that_are_declared_otherwise(
    shape: Any, kind: int, told: str, tmp_path: Path
) -> None:
    """Their first axis is not a batch, and a runtime takes them as they are declared or not at
    all.
    """
    model = make_model(
        [node("Conv", ["x", "W"], ["y"])],
        [info("x", (1, 2, 9, 6)), info("W", shape, kind)],
        [tensor("W", ramp(4, 2, 3, 3))],
    )
    entry = only(model, tmp_path)
    if not told:
        assert entry.require().output_shape == (4, 7, 4)
        return
    assert isinstance(entry.error, MalformedInput)
    assert f"'W' is {told} its declaration as an input" in str(entry.error)


def test_a_node_that_lacks_an_input_hides_no_other_size(tmp_path: Path) -> None:
    """ONNX's own inference ends its process over an EyeLike of nothing."""
    model = two_layers(x=(1, 2, 9, 6))
    model.graph.node.add(op_type="EyeLike", input=[""], output=["eye"])
    found = listed(model, tmp_path).entries
    assert [entry.require().output_shape for entry in found][:2] == [(2, 8, 5), (2, 7, 4)]
    with pytest.raises(UsageError, match="'a' is 1,2,5,5 by the given shape, 1,2,8,5 by shape"):
        listed(model, tmp_path, {"a": (1, 2, 5, 5)})
