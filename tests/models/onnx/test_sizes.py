"""Sizes that a model states, leaves open, or contradicts; and convolutions that are refused.

The sizes of a matrix are the model's where it states them, and the user's where it does not: never
a guess. What is missing is said together with what to type.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from convfc_cli import budget
from convfc_cli.errors import (
    ConvfcError,
    GeometryError,
    MalformedInput,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.models.onnx import listing
from convfc_cli.models.onnx.site import OpenSize
from convfc_cli.models.registry import read
from tests.support.models import (
    conv_model,
    convfc,
    info,
    listed,
    make_model,
    only,
    ramp,
    save,
    tensor,
)

node = helper.make_node

SHAPE = (3, 2, 2, 3)


def plain(input_shape: Any, **attributes: Any) -> onnx.ModelProto:
    """One convolution of 2 channels by a 2x3 kernel, over whatever x is."""
    return conv_model(ramp(*SHAPE), None, attributes, input_shape)


def chain(input_shape: Any, nodes: int = 2) -> onnx.ModelProto:
    """x through a strided convolution, a Relu and another convolution: inner tensor `h`."""
    return make_model(
        [
            node("Conv", ["x", "W"], ["c"], name="first", strides=[2, 1]),
            node("Relu", ["c"], ["h"]),
            node("Conv", ["h", "V"], ["y"], name="second"),
        ],
        [info("x", input_shape)],
        [tensor("W", ramp(*SHAPE)), tensor("V", ramp(1, 3, 2, 2))],
    )


def sizes(model: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(input, output) of every layer of a model."""
    maps = [entry.require() for entry in model.entries]
    return [(index_map.input_shape, index_map.output_shape) for index_map in maps]


@pytest.mark.parametrize("batch", [1, 7, "batch", None, 0, -1])
def test_the_batch_does_not_matter(batch: Any, tmp_path: Path) -> None:
    found = listed(chain((batch, 2, 9, 6)), tmp_path)
    assert sizes(found) == [((2, 9, 6), (3, 4, 4)), ((3, 4, 4), (1, 3, 3))]


@pytest.mark.parametrize(
    "input_shape",
    [(1, 2, "h", "w"), ("n", "c", "h", "w"), (None, None, None, None), (1, 2, 9, "w"), None],
    ids=str,
)
@pytest.mark.parametrize("given", [{"x": (1, 2, 9, 6)}, {None: (1, 2, 9, 6)}], ids=["x", "only"])
def test_a_shape_for_the_input_settles_all(input_shape: Any, given: Any, tmp_path: Path) -> None:
    for entry in listed(chain(input_shape), tmp_path).entries:
        assert entry.status == "needs a size"
    found = listed(chain(input_shape), tmp_path, given)
    assert sizes(found) == [((2, 9, 6), (3, 4, 4)), ((3, 4, 4), (1, 3, 3))]
    assert found.entries[1].load().kernel.tobytes() == ramp(1, 3, 2, 2).tobytes()


def test_a_batch_beyond_one_may_be_given(tmp_path: Path) -> None:
    found = listed(chain(("n", 2, "h", "w")), tmp_path, {"x": (5, 2, 9, 6)})
    assert sizes(found) == [((2, 9, 6), (3, 4, 4)), ((3, 4, 4), (1, 3, 3))]


def test_a_shape_for_an_inner_tensor(tmp_path: Path) -> None:
    found = listed(chain((1, 2, "h", "w")), tmp_path, {"h": (1, 3, 5, 7)})
    first, second = found.entries
    assert first.status == "needs a size"
    assert second.require().input_shape == (3, 5, 7)
    assert second.require().output_shape == (1, 4, 6)


def test_a_shape_for_what_inference_does_not_reach(tmp_path: Path) -> None:
    model = make_model(
        [
            node("Mystery", ["x"], ["m"], domain="com.example"),
            node("Conv", ["m", "W"], ["y"], name="conv"),
        ],
        [info("x", (1, 2, 9, 6))],
        [tensor("W", ramp(*SHAPE))],
        domains={"com.example": 1},
    )
    entry = only(model, tmp_path)
    assert entry.status == "needs a size"
    assert "'m'" in str(entry.error)
    assert entry.error.hint.startswith("m=")
    assert only(model, tmp_path, {"m": (1, 2, 9, 6)}).require().output_shape == (3, 8, 4)


def test_an_entry_at_another_size(tmp_path: Path) -> None:
    entry = only(plain((1, 2, "h", "w")), tmp_path)
    with pytest.raises(SizeMissing, match="layer conv"):
        entry.load()
    at = entry.at((2, 9, 6))
    assert at.status == "ready"
    assert at.require().output_shape == (3, 8, 4)
    assert at.load().kernel.tobytes() == ramp(*SHAPE).tobytes()
    assert at.at((2, 4, 4)).require().output_shape == (3, 3, 2)
    with pytest.raises(MalformedInput, match="channels"):
        entry.at((3, 9, 6))
    with pytest.raises(MalformedInput):
        entry.at((2, 9))
    with pytest.raises(GeometryError, match="no output"):
        entry.at((2, 1, 6))
    assert only(plain((1, 2, 9, 6)), tmp_path).at((2, 3, 3)).require().output_shape == (3, 2, 1)


def test_an_entry_that_can_have_no_size(tmp_path: Path) -> None:
    model = conv_model(ramp(*SHAPE), None, {}, (1, 2, 5, 4), domain="com.microsoft.nchwc")
    entry = only(model, tmp_path)
    with pytest.raises(Unsupported, match="reordered"):
        entry.at((2, 5, 4))


@pytest.mark.parametrize(
    "given",
    [
        {"x": (1, 2, 9, 7)},
        {"x": (1, 3, 9, 6)},
        {"x": (1, 2, 9)},
        {"x": (1, 2, 9, 6, 1)},
        {"x": ()},
        {"x": (1, 2, 0, 6)},
        {"x": (1, 2, -9, 6)},
        {None: (4, 2, 9, 6, 6)},
    ],
    ids=str,
)
def test_a_shape_that_contradicts_the_model(given: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        listed(plain((1, 2, 9, 6)), tmp_path, given)
    assert "the given shape" in str(raised.value)


def test_channels_that_contradict_the_weights(tmp_path: Path) -> None:
    entry = only(plain((1, "c", "h", "w")), tmp_path, {"x": (1, 5, 9, 6)})
    assert isinstance(entry.error, MalformedInput | UsageError)
    assert "5" in str(entry.error)
    assert "2" in str(entry.error)


def test_a_size_too_small_is_the_users_own(tmp_path: Path) -> None:
    entry = only(plain((1, 2, "h", "w")), tmp_path, {"x": (1, 2, 1, 6)})
    assert isinstance(entry.error, UsageError)
    assert "the given shape" in str(entry.error)
    assert type(only(plain((1, 2, 1, 6)), tmp_path).error) is GeometryError


@pytest.mark.parametrize("size", [2**31, 2**40])
def test_a_size_beyond_all_memory(size: int, tmp_path: Path) -> None:
    # Planned without being built: the ceiling refuses it later
    entry = only(plain((1, 2, "h", "w")), tmp_path, {"x": (1, 2, size, 6)})
    assert entry.require().input_shape == (2, size, 6)
    assert entry.require().nnz > size


@pytest.mark.parametrize("size", [0, 2**40 + 1, 2**62, 10**20])
def test_a_size_that_no_tensor_has(size: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"below 1 or beyond 2\*\*40"):
        listed(plain((1, 2, "h", "w")), tmp_path, {"x": (1, 2, size, 6)})


def two_inputs(first: Any, second: Any) -> onnx.ModelProto:
    return make_model(
        [
            node("Conv", ["a", "W"], ["p"], name="one"),
            node("Conv", ["b", "W"], ["q"], name="two"),
        ],
        [info("a", first), info("b", second)],
        [tensor("W", ramp(*SHAPE))],
        outputs=["p", "q"],
    )


def test_two_inputs_need_a_name(tmp_path: Path) -> None:
    model = two_inputs((1, 2, "h", "w"), (1, 2, "h", "w"))
    with pytest.raises(UsageError, match="say which") as raised:
        listed(model, tmp_path, {None: (1, 2, 9, 6)})
    assert "a, b" in str(raised.value)
    found = listed(model, tmp_path, {"a": (1, 2, 9, 6), "b": (1, 2, 5, 3)})
    assert sizes(found) == [((2, 9, 6), (3, 8, 4)), ((2, 5, 3), (3, 4, 1))]


def test_one_open_input_of_two_needs_no_name(tmp_path: Path) -> None:
    model = two_inputs((1, 2, 9, 6), (1, 2, "h", "w"))
    assert [e.status for e in listed(model, tmp_path).entries] == ["ready", "needs a size"]
    found = listed(model, tmp_path, {None: (1, 2, 5, 3)})
    assert sizes(found) == [((2, 9, 6), (3, 8, 4)), ((2, 5, 3), (3, 4, 1))]


def test_weights_that_are_graph_inputs_are_no_inputs_to_name(tmp_path: Path) -> None:
    model = plain((1, 2, "h", "w"))
    model.graph.input.append(info("W", SHAPE))
    entry = only(model, tmp_path, {None: (1, 2, 9, 6)})
    assert entry.require().output_shape == (3, 8, 4)


def test_large_weights_are_no_inputs_to_name(tmp_path: Path) -> None:
    model = conv_model(ramp(40, 2, 3, 3), None, {}, (1, 2, 9, 6))  # 2,880 bytes
    entry = only(model, tmp_path, {None: (1, 2, 9, 6)})  # what the model states anyway
    assert entry.require().output_shape == (40, 7, 4)
    with pytest.raises(UsageError) as raised:
        listed(model, tmp_path, {None: (1, 2, 9, 7)})
    assert "W" not in str(raised.value).split()
    with pytest.raises(UsageError):
        listed(model, tmp_path, {"W": (40, 2, 3, 3)})


def test_a_name_that_the_model_does_not_have(tmp_path: Path) -> None:
    # It names any tensor of the model. A tensor that is not there is a slip.
    with pytest.raises(UsageError, match="typo"):
        listed(plain((1, 2, 9, 6)), tmp_path, {"typo": (1, 2, 3, 3)})


def test_the_command_names_a_single_layers_own_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(two_inputs((1, 2, "h", "w"), (1, 2, "h", "w")), tmp_path)
    done = convfc(
        capsys,
        *("convert", path, "-l", "two", "--input-shape", "1,2,5,3"),
        *("-o", tmp_path / "two.npz", "--json"),
    )
    assert done.code == 0, done.err
    (told,) = done.json()["matrices"]
    assert told["layer"] == "two"
    assert told["shape"] == [3 * 4 * 1, 2 * 5 * 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (plain((1, 2, "h", "w")), "x=1,2,224,224"),
        (plain((4, 2, 9, "w")), "x=4,2,9,224"),
        (plain(("n", "c", "h", "w")), "x=1,2,224,224"),
        (plain(None), "x=1,2,224,224"),
        (conv_model(ramp(3, 2, 2), None, {}, (1, 2, "t")), "x=1,2,16000"),
        (conv_model(ramp(3, 2, 2, 2, 2), None, {}, (1, 2, "d", 5, 6)), "x=1,2,16,5,6"),
    ],
    ids=["sizes", "one size", "all", "no rank", "1-D", "3-D"],
)
def test_the_hint_is_a_value_that_settles_the_size(
    model: onnx.ModelProto, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = only(model, tmp_path)
    assert entry.status == "needs a size"
    done = convfc(capsys, "inspect", tmp_path / "model.onnx")
    assert done.code == 0
    (typed,) = re.findall(r"--input-shape (\S+)", done.err)
    assert typed == entry.error.hint
    name, values = typed.split("=")
    settled = only(model, tmp_path, {name: tuple(map(int, values.split(",")))})
    assert settled.status == "ready", settled.error  # what is offered must work
    assert typed == hint


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[budget.Budget | None]:
    """The budget that each listing of an ONNX model draws on."""
    found: list[budget.Budget | None] = []
    whole = listing.scope_of

    def noted(*given: Any) -> Any:
        found.append(budget._current.get())
        return whole(*given)

    monkeypatch.setattr(listing, "scope_of", noted)
    return found


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_a_hint_draws_on_the_budget_of_its_command(
    command: str, listings: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(plain((1, 2, "h", "w")), tmp_path)
    done = convfc(capsys, command, tmp_path / "model.onnx")
    assert "--input-shape x=1,2,224,224" in done.err
    assert len(listings) == 2  # as it is, and with the size that is tried
    assert listings[0] is listings[1] is not None


def test_the_hint_of_an_entry_has_a_budget_of_its_own(listings: list[Any], tmp_path: Path) -> None:
    entry = only(plain((1, 2, "h", "w")), tmp_path)
    assert entry.error.hint == "x=1,2,224,224"
    assert listings[1] is not None
    assert listings[1] is not listings[0]
    assert listings[1].seconds < budget.Budget().seconds  # to list the model took a part of it


@pytest.mark.slow
def test_no_size_is_tried_where_too_little_time_is_left(
    listings: list[Any], tmp_path: Path
) -> None:
    model = plain((1, 2, "h", "w"))
    model.graph.node.extend(node("Relu", ["x"], [f"r{i}"]) for i in range(2000))
    with budget.command() as left:
        first, second = (only(model, tmp_path).error for _ in range(2))
        assert first.hint == "x=1,2,224,224"
        left.seconds = 0.001
        assert second.hint == ""
    assert len(listings) == 3


@pytest.mark.parametrize("error", [Refused, MalformedInput, Unsupported])
def test_a_hint_that_cannot_be_found_is_none(error: type[ConvfcError]) -> None:
    def find() -> str:
        raise error("it takes too long")

    assert OpenSize("the size is open", find).hint == ""


def test_the_first_of_many_open_sizes_has_a_hint(
    listings: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [node("Conv", ["fixed", "W"], ["y"], name="fine")]
    for i in range(4):
        nodes.append(node("Foo", ["x"], [f"t{i}"], domain="my.ops"))
        nodes.append(node("Conv", [f"t{i}", "W"], [f"y{i}"], name=f"open{i}"))
    inputs = [info("x", (1, 2, 5, 5)), info("fixed", (1, 2, 5, 5))]
    model = make_model(nodes, inputs, [tensor("W", ramp(*SHAPE))])
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    path = save(model, tmp_path)
    done = convfc(capsys, "convert", path, "-o", f"{tmp_path}/out/", "--keep-going")
    assert done.code == 2
    told = [line for line in done.err.splitlines() if line.startswith("convfc: error: layer open")]
    assert [line.rpartition(" (")[2] for line in told] == [
        "such as --input-shape t0=1,2,224,224)",
        *["known: nothing)"] * 3,
    ]
    assert len(listings) == 2


def test_an_open_size_stops_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(chain((1, 2, "h", "w")), tmp_path)
    done = convfc(capsys, "convert", path, "-o", f"{tmp_path}/out/")
    assert done.code == 2
    assert "layer first (Conv)" in done.err
    assert "--input-shape" in done.err
    assert not (tmp_path / "out").exists()
    done = convfc(capsys, "convert", path, "-o", f"{tmp_path}/out/", "--input-shape", "x=1,2,9,6")
    assert done.code == 0, done.err
    assert len(done.paths) == 2


def test_sizes_through_reshapes_and_pooling(tmp_path: Path) -> None:
    model = make_model(
        [
            node("Reshape", ["x", "shape"], ["r"]),
            node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["m", "W"], ["y"], name="conv"),
        ],
        [info("x", ("n", 192))],
        [tensor("shape", np.array([-1, 2, 8, 12])), tensor("W", ramp(*SHAPE))],
    )
    entry = only(model, tmp_path)
    assert entry.require().input_shape == (2, 4, 6)
    assert entry.require().output_shape == (3, 3, 4)


def test_sizes_that_a_loop_does_not_fix(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Conv", ["s", "W"], ["t"], name="step"), node("Identity", ["go"], ["on"])],
        "body",
        [info("i", (), TensorProto.INT64), info("go", (), TensorProto.BOOL), info("s", None)],
        [info("on", (), TensorProto.BOOL), info("t", None)],
    )
    model = make_model(
        [node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)],
        [info("x", (1, 2, "h", 4)), info("n", (), TensorProto.INT64)],
        [tensor("W", ramp(2, 2, 1, 1))],
    )
    entry = only(model, tmp_path)
    assert entry.status == "needs a size"
    assert "'s'" in str(entry.error)
    assert only(model, tmp_path).at((2, 5, 4)).require().output_shape == (2, 5, 4)


# --- what is listed and not converted -------------------------------------------------------------


def deformable() -> onnx.ModelProto:
    """A DeformConv."""
    return make_model(
        [node("DeformConv", ["x", "W", "offsets"], ["y"], name="conv")],
        [info("x", (1, 2, 5, 4)), info("offsets", (1, 12, 4, 2))],
        [tensor("W", ramp(*SHAPE))],
    )


def foreign(domain: str, op: str = "Conv") -> onnx.ModelProto:
    """A convolution of another domain, with the weights of an ordinary one."""
    return conv_model(ramp(*SHAPE), None, {}, (1, 2, 5, 4), op, domain=domain)


OTHERS: dict[str, tuple[onnx.ModelProto, str, str]] = {
    "DeformConv": (deformable(), "DeformConv", "offsets are computed"),
    "blocked": (foreign("com.microsoft.nchwc"), "com.microsoft.nchwc.Conv", "reordered"),
    "channels last": (foreign("com.ms.internal.nhwc"), "com.ms.internal.nhwc.Conv", "NHWC"),
    "channels last 2": (foreign("com.microsoft", "NhwcConv"), "com.microsoft.NhwcConv", "NHWC"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_convolutions_are_listed_with_a_reason(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, op, part = OTHERS[what]
    entry = only(model, tmp_path)
    assert entry.op == op
    assert entry.status == "unsupported"
    assert type(entry.error) is Unsupported
    assert part in str(entry.error)
    done = convfc(capsys, "inspect", tmp_path / "model.onnx", "--json")
    assert done.code == 0, done.err
    (layer,) = done.json()["layers"]
    assert layer["status"] == "unsupported"
    assert part in layer["error"]["message"]
    done = convfc(capsys, "convert", tmp_path / "model.onnx", "-o", tmp_path / "out.npz")
    assert done.code == 4
    assert f"layer conv ({op})" in done.err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("domain", "op"),
    [
        ("com.example", "Conv"),  # whatever it means there
        ("com.microsoft", "ConvTransposeWithDynamicPads"),
        ("com.microsoft", "QLinearConv"),
        ("com.microsoft", "NhwcConv"),
        ("com.microsoft.nchwc", "Conv"),
        ("ai.onnx.ml", "Conv"),
    ],
)
def test_a_foreign_convolution_is_never_read_as_an_ordinary_one(
    domain: str, op: str, tmp_path: Path
) -> None:
    for entry in listed(foreign(domain, op), tmp_path).entries:
        assert entry.status == "unsupported"
        assert type(entry.error) is Unsupported


def test_the_standard_domain_by_its_other_name(tmp_path: Path) -> None:
    model = foreign("ai.onnx")
    model.opset_import[1].version = 22
    entry = only(model, tmp_path)
    assert entry.op == "Conv"
    assert entry.load().kernel.tobytes() == ramp(*SHAPE).tobytes()


def test_what_can_be_is_converted_beside_what_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = foreign("com.microsoft", "NhwcConv")
    model.graph.node.append(node("Conv", ["x", "W"], ["z"], name="fine"))
    path = save(model, tmp_path)
    done = convfc(capsys, "convert", path, "-o", f"{tmp_path}/out/", "--keep-going", "--json")
    assert done.code == 4
    told = done.json()
    assert [matrix["layer"] for matrix in told["matrices"]] == ["fine"]
    (failed,) = told["failed"]
    assert failed["layer"] == "conv"
    assert "NHWC" in failed["error"]["message"]
    assert failed["error"]["exit_code"] == 4


def test_a_model_without_a_convolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(make_model([node("Relu", ["x"], ["y"])], [info("x", (1, 2))]), tmp_path)
    assert read(path).entries == ()
    for arguments in (["convert", path, "-o", tmp_path / "out.npz"], ["inspect", path]):
        done = convfc(capsys, *arguments)
        assert done.code == 2
        assert "has no convolution" in done.err
        assert done.out == ""
    assert not (tmp_path / "out.npz").exists()


def test_every_error_of_a_listing_is_one_of_ours(tmp_path: Path) -> None:
    for model, _, _ in OTHERS.values():
        for entry in listed(model, tmp_path).entries:
            assert isinstance(entry.error, ConvfcError)
            assert entry.outline is None
