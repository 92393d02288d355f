"""No size of a Keras model is silently taken: of several accounts that contradict each other none.

Small random models are written without Keras. Unchanged they are never refused, whether or not
their own sizes are given once more; with one declared or given size changed they always are, with
2 where it is the user's and 3 where it is the file's. CONVFC_TEST_MODELS is how many models.
"""

import copy
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import convfc_cli as convfc
from convfc_cli.errors import ConvfcError, MalformedInput, SizeMissing, UsageError
from convfc_cli.models.model import Model
from tests.support.cli_models import run
from tests.support.keras_files import (
    Config,
    called,
    functional,
    given_input,
    layer,
    legacy,
    modern,
    ramp,
    sequential,
)
from tests.support.keras_models import KERNEL, conv, weights

pytestmark = pytest.mark.usefixtures("in_place")

MODELS = int(os.environ.get("CONVFC_TEST_MODELS", "60"))

Sizes = tuple[int, ...]


@dataclass
class Made:
    """A random model of fixed sizes: its layers in a row, and what is true of each tensor."""

    items: list[Config]
    shapes: list[Sizes]
    """Of the output of each item, without its batch."""

    held: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [item["config"]["name"] for item in self.items]


def random_model(seed: int) -> Made:
    """Convolutions and what goes between them, then Flatten and Dense: all sizes are settled."""
    draw = random.Random(seed)
    shape: Sizes = (draw.randint(10, 14), draw.randint(10, 14), draw.randint(1, 3))
    made = Made([given_input("x", *shape)], [shape])
    for number in range(draw.randint(2, 5)):
        name = f"l{number}"
        kind = draw.choice(["Conv2D", "Conv2D", "MaxPooling2D", "ZeroPadding2D", "BN", "Lambda"])
        high, wide, channels = shape
        if kind == "Conv2D":
            filters, padding = draw.randint(1, 3), draw.choice(["valid", "same"])
            item = layer(kind, name, filters=filters, kernel_size=2, padding=padding)
            less = padding == "valid"
            shape = (high - less, wide - less, filters)
            item["config"]["use_bias"] = False
            made.held[name] = [(f"{name}/kernel:0", ramp(2, 2, channels, filters))]
        elif kind == "MaxPooling2D" and min(high, wide) > 5:
            item = layer(kind, name, pool_size=[2, 1])
            shape = (high // 2, wide, channels)
        elif kind == "ZeroPadding2D":
            item = layer(kind, name, padding=[[1, 0], [0, 2]])
            shape = (high + 1, wide + 2, channels)
        elif kind == "Lambda":
            item = layer(kind, name)
            shape = (draw.randint(6, 9), draw.randint(6, 9), channels)
        else:
            item = layer("BatchNormalization", name, axis=-1, center=True, scale=False)
            vectors = ("beta", "moving_mean", "moving_variance")
            made.held[name] = [(f"{name}/{one}:0", ramp(channels)) for one in vectors]
        made.items.append(item)
        made.shapes.append(shape)
    high, wide, channels = shape
    for item, sizes in (
        (layer("Reshape", "r", target_shape=[wide, high, channels]), (wide, high, channels)),
        (layer("Flatten", "f"), (high * wide * channels,)),
        (layer("Dense", "d", units=2, use_bias=False), (2,)),
    ):
        made.items.append(item)
        made.shapes.append(sizes)
    made.held["d"] = [("d/kernel:0", ramp(high * wide * channels, 2))]
    return made


def written(made: Made, path: Path, form: str) -> Path:
    """The model in a file: a Sequential, a functional model, or one whose tensors are stated."""
    items, names = copy.deepcopy(made.items), made.names
    if form == "sequential":
        return legacy(path, sequential(*items), made.held)
    found = [items[0]]
    for item, before in zip(items[1:], names, strict=False):
        item["inbound_nodes"] = [[[before, 0, 0, {}]]]
        found.append(item)
    if form == "stated":
        found = [
            modern(item, None if not number else [None, *made.shapes[number - 1]])
            for number, item in enumerate(found)
        ]
        for item in found:
            item["config"]["trainable"] = True  # else Keras 3 takes it for an operation
            del item["module"]
    return legacy(path, functional(found, [names[-1]]), made.held)


MORE = 4
"""By how much a size is changed: two poolings leave one of it."""

FORMS = ("sequential", "functional", "stated")


def hidden(made: Made) -> dict[str, Sizes]:
    """The sizes that only a user can give: a Lambda's, where a listed layer is before the next."""
    found, last = {}, None
    for item, shape in zip(made.items, made.shapes, strict=True):
        if item["class_name"] == "Lambda":
            last = item["config"]["name"], (1, *shape)
        elif last is not None and item["class_name"] != "MaxPooling2D":
            found[last[0]] = last[1]
    return found


def lambdas(made: Made) -> set[str]:
    return {item["config"]["name"] for item in made.items if item["class_name"] == "Lambda"}


def outcome(path: Path, shapes: Any) -> int:
    """0 where every layer of a model is ready, else the gravest exit code."""
    try:
        model: Model = convfc.read(path, shapes)
        codes = [entry.error.exit_code for entry in model.layers() if entry.error is not None]
    except ConvfcError as error:
        return error.exit_code
    return max(codes, default=0)


def changed(sizes: Sizes, axis: int) -> Sizes:
    return (*sizes[:axis], sizes[axis] + MORE, *sizes[axis + 1 :])


@pytest.mark.slow
def test_what_contradicts_is_refused_and_what_agrees_is_not(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for seed in range(MODELS):
        made, draw = random_model(seed), random.Random(seed)
        form = FORMS[seed % 3]
        path = written(made, tmp_path / f"{seed}.h5", form)
        own = hidden(made)
        given = own if form != "stated" else {}
        assert outcome(path, given) == 0, (seed, form)
        assert outcome(path, {**given, "x": (1, *made.shapes[0])}) == 0, (seed, form)
        counts["unchanged: ready"] += 2
        # A given size that is another than the model's own, of any tensor that is read.
        number = draw.randrange(len(made.items) - 1)
        name, sizes = made.names[number], (1, *made.shapes[number])
        wrong = changed(sizes, draw.randrange(1, len(sizes)))
        code = outcome(path, {**given, name: wrong})
        last = [one for one in made.names if one in lambdas(made)][-1:]
        if name in lambdas(made) and [name] != last and form != "stated":
            counts["given to a Lambda before another, which takes any size"] += 1
        else:
            assert code == 2, (seed, form, name, wrong)
            counts["given otherwise: refused"] += 1
        # A given size that the model knows, of an inner tensor.
        if name != "x" and name not in given:
            assert outcome(path, {**given, name: sizes}) == 2
            counts["given in vain: refused"] += 1
        # A declared size that is another.
        other, hides = copy.deepcopy(made), bool(own)
        ways = ["target", "kernel", *(["stated"] if form == "stated" else [])]
        ways += [] if hides and form != "stated" else ["input"]  # else a Lambda takes any size
        declared = draw.choice(ways)
        if declared == "stated":
            place = draw.randrange(len(made.shapes) - 1)
            axis = draw.randrange(len(made.shapes[place]))
            other.shapes[place] = changed(made.shapes[place], axis)
        elif declared == "target":
            other.items[-3]["config"]["target_shape"][draw.randrange(3)] += 1
        elif declared == "kernel":
            other.held["d"] = [("d/kernel:0", ramp(made.shapes[-2][0] + 1, 2))]
        else:
            other.items[0]["config"]["batch_input_shape"][draw.choice([1, 2, 3])] += MORE
        code = outcome(written(other, tmp_path / f"{seed}o.h5", form), given)
        user = given and declared in ("target", "kernel")  # against what only a user says
        assert code in ((2, 3) if user else (3,)), (seed, form, declared)
        counts[f"{declared} otherwise: refused"] += 1
    print(dict(sorted(counts.items())))
    assert counts["given otherwise: refused"] > MODELS // 2


# What contradicts what, by hand.


def built(item: Config, *shape: int | None) -> Config:
    return {**item, "build_config": {"input_shape": [None, *shape]}}


def sub(*shape: int | None) -> Config:
    """A model in the model: one convolution over an input of this shape, called on `a`."""
    inner = functional([given_input("i", *shape), conv("c", "i")], ["c"], name="sub")
    return called(inner, [["a", 0, 0]])


CONTRADICTIONS: dict[str, tuple[Config, str]] = {
    "the input of a model in the model": (
        functional([given_input("x", 9, 9, 2), conv("a", "x"), sub(9, 9, 2)], [["sub", 0, 0]]),
        r"'i' is \?,8,8,2 by Conv2D 'a', \?,9,9,2 by the InputLayer 'i'",
    ),
    "a Reshape": (
        functional(
            [
                given_input("x", 9, 9, 2),
                conv("a", "x"),
                layer("Reshape", "r", "a", target_shape=[9, 9, 2]),
            ],
            ["r"],
        ),
        r"Reshape r: an input of 8,8,2 cannot take the shape 9,9,2",
    ),
    "an Add": (
        functional([given_input("x", 9, 9, 2), conv("a", "x"), layer("Add", "s", "a", "x")], ["s"]),
        r"Add s: tensors of \?,8,8,2 and \?,9,9,2 do not go together",
    ),
    "a Concatenate": (
        functional(
            [
                given_input("x", 9, 9, 2),
                conv("a", "x"),
                layer("Concatenate", "s", "a", "x", axis=-1),
            ],
            ["s"],
        ),
        r"Concatenate s: tensors of \?,8,8,2 and \?,9,9,2 are not joined along axis 3",
    ),
    "two shapes of an input": (
        functional([given_input("x", 9, 9, 2, batch_shape=[None, 8, 9, 2]), conv("a", "x")], ["a"]),
        r"'x' is \?,8,9,2 by its batch_shape, \?,9,9,2 by its batch_input_shape",
    ),
    "a Sequential that was built": (
        sequential(given_input("x", 9, 9, 2), conv("a"), build_input_shape=[None, 8, 9, 2]),
        r"is \?,9,9,2 by the InputLayer 'x', \?,8,9,2 by its build_input_shape",
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_file_that_contradicts_itself_is_damaged(what: str, tmp_path: Path) -> None:
    """Whatever sizes are given besides: the fault is the file's."""
    model, told = CONTRADICTIONS[what]
    held = {**weights("a"), "sub": [("c/kernel:0", KERNEL)]}
    path = legacy(tmp_path / "m.h5", model, held)
    with pytest.raises(MalformedInput, match=told):
        convfc.read(path)
    with pytest.raises(MalformedInput, match=told):
        convfc.read(path, {"a": (1, 5, 5, 2)})
    run("convert", path, "-o", tmp_path / "o.npz").failed(3)


def test_a_layer_that_was_made_for_another_size_is_no_contradiction(tmp_path: Path) -> None:
    """As Keras 3.15 saves a Sequential of a layer that another model had, and loads it again:
    build_config keeps the size of the first.
    """
    model = sequential(given_input("x", 16, 16, 2), built(conv("a"), 32, 32, 2))
    (entry,) = convfc.read(legacy(tmp_path / "m.h5", model, weights("a"))).entries
    assert entry.require().input_shape == (2, 16, 16)
    model = sequential(given_input("x", None, None, 2), built(conv("a"), 32, 32, 2))
    path = legacy(tmp_path / "m.h5", model, weights("a"))
    (entry,) = convfc.read(path, {"x": (1, 16, 16, 2)}).entries
    assert entry.require().input_shape == (2, 16, 16)


def behind(*rest: Config, **build: Any) -> Config:
    """A Lambda, whose size nobody knows, and what is behind it."""
    items = [given_input("x", 5, 6, 2), layer("Lambda", "lam", "x"), *rest]
    return functional(items, [items[-1]["name"]])


def stated(item: Config, *shape: int | None) -> Config:
    """The layer as Keras 3 writes it, called on a tensor of this shape."""
    found = modern(item, [None, *shape])
    found["config"]["trainable"] = True
    del found["module"]
    return found


DECLARED: dict[str, tuple[Config, str]] = {
    "what a layer was made for": (
        behind(built(conv("a", "lam"), 16, 16, 2)),
        r"'input of a' is \?,5,5,2 by the given shape, \?,16,16,2 by the build_config of 'a'",
    ),
    "what a later layer was made for": (
        behind(conv("a", "lam"), built(conv("b", "a"), 15, 15, 2)),
        r"'input of b' is \?,4,4,2 by the given shape, \?,15,15,2 by the build_config of 'b'",
    ),
    "what a layer is called on": (
        behind(stated(conv("a", "lam"), 16, 16, 2)),
        r"'lam' is \?,5,5,2 by the given shape, \?,16,16,2 by what 'a' is called on",
    ),
    "what a later layer is called on": (
        behind(conv("a", "lam"), stated(conv("b", "a"), 15, 15, 2)),
        r"'a' is \?,4,4,2 by Conv2D 'a', \?,15,15,2 by what 'b' is called on \(with the given",
    ),
    "a Reshape": (
        behind(conv("a", "lam"), layer("Reshape", "r", "a", target_shape=[225, 2])),
        r"Reshape r: an input of 4,4,2 cannot take the shape 225,2 \(with the given shape\)",
    ),
    "a Dense kernel": (
        behind(
            conv("a", "lam"),
            layer("Flatten", "f", "a"),
            layer("Dense", "d", "f", units=3, use_bias=False),
        ),
        r"layer d \(Dense\): its kernel .* has shape \(450, 3\), where its input of \(32,\) asks",
    ),
}


@pytest.mark.parametrize("what", DECLARED)
def test_a_given_size_is_held_against_what_is_declared_behind(what: str, tmp_path: Path) -> None:
    """Each of them decides on 16 x 16: 5 x 5 is refused, and the example is not the usual one."""
    model, told = DECLARED[what]
    held = {**weights("a", "b"), "d": [("d/kernel:0", ramp(450, 3))]}
    path = legacy(tmp_path / "m.h5", model, held)
    with pytest.raises(UsageError, match=told):
        convfc.read(path, {"lam": (1, 5, 5, 2)})
    assert outcome(path, {} if "called on" in what else {"lam": (1, 16, 16, 2)}) == (
        2 if what == "what a later layer is called on" else 0
    )
    first = convfc.read(path).entries[0]
    if isinstance(first.error, SizeMissing):
        assert first.error.hint == "lam=1,16,16,2"


@pytest.mark.parametrize(
    "item",
    [
        built(conv("a", "x"), 12, 10, 2),
        stated(conv("a", "x"), 12, 10, 2),
        called(
            functional([given_input("i", 12, 10, 2), conv("c", "i")], ["c"], name="a"),
            [["x", 0, 0]],
        ),
    ],
)
def test_an_example_has_what_the_file_declares(item: Config, tmp_path: Path) -> None:
    """Of an open input: what its readers say of it."""
    reader = layer("ZeroPadding2D", "z", "x", padding=1)
    model = functional([given_input("x", None, None, 2), item, reader], [["a", 0, 0], "z"])
    held = {"a": [("a/kernel:0", KERNEL)]}
    path = legacy(tmp_path / "m.h5", model, held)
    (pad,) = (entry for entry in convfc.read(path).others if entry.name == "z")
    assert isinstance(pad.error, SizeMissing)
    assert pad.error.hint == "x=1,12,10,2"
    run("inspect", path, "--input-shape", pad.error.hint).succeeded()


def test_an_example_of_an_input_that_has_its_channels_first(tmp_path: Path) -> None:
    item = conv("a", "x", data_format="channels_first")
    model = functional([given_input("x", 2, None, None), item], ["a"])
    (entry,) = convfc.read(legacy(tmp_path / "m.h5", model, weights("a"))).entries
    assert isinstance(entry.error, SizeMissing)
    assert entry.error.hint == "x=1,2,224,224"


def test_no_example_where_none_is_found_that_fits(tmp_path: Path) -> None:
    model = behind(conv("a", "lam"), layer("Reshape", "r", "a", target_shape=[7, 11, 2]))
    (entry,) = convfc.read(legacy(tmp_path / "m.h5", model, weights("a"))).entries
    assert isinstance(entry.error, SizeMissing)
    assert entry.error.hint == "lam=1,?,?,2"


def test_the_output_of_an_impossible_layer_is_not_given(tmp_path: Path) -> None:
    """`a` takes 2 x 2 out of an image of 1 x 1."""
    model = functional([given_input("x", 1, 1, 2), conv("a", "x"), conv("b", "a")], ["b"])
    path = legacy(tmp_path / "m.h5", model, weights("a", "b"))
    with pytest.raises(UsageError, match="Conv2D a: no output"):
        convfc.read(path, {"a": (1, 5, 5, 2)})


def test_a_shared_model_has_the_sizes_of_each_call(tmp_path: Path) -> None:
    """What its file states is that of its making, and is left out where a call has it otherwise."""
    inner = functional([given_input("i", 9, 9, 2), conv("c", "i")], ["c"], name="sub")
    shared = called(inner, [["x", 0, 0]], [["y", 0, 0]])
    items = [given_input("x", 9, 9, 2), given_input("y", 7, 9, 2), shared]
    model = functional(items, [["sub", 0, 0], ["sub", 1, 0]])
    path = legacy(tmp_path / "m.h5", model, {"sub": [("c/kernel:0", KERNEL)]})
    first, second = convfc.read(path).entries
    assert first.require().input_shape == (2, 9, 9)
    assert isinstance(second.error, SizeMissing)
    assert second.source is not None
    assert second.source.known == (2, None, 9)


# A single layer at a size of its own, and a matrix of another size.


def test_a_layers_own_size_is_held_against_that_of_its_model(tmp_path: Path) -> None:
    model = functional([given_input("x", 9, 9, 2), conv("a", "x"), conv("b", "a")], ["b"])
    path = legacy(tmp_path / "m.h5", model, weights("a", "b"))
    out = tmp_path / "o.npz"
    told = run("convert", path, "-l", "b", "--input-shape", "1,5,5,2", "-o", out).failed(2)
    assert "'input of b' is 2,5,5 by the given shape, 2,8,8 by the model, channels first" in told
    assert not out.exists()
    run("convert", path, "-l", "b", "--input-shape", "1,8,8,2", "-o", out).succeeded()


def test_a_layers_own_size_is_held_against_what_is_known_of_it(tmp_path: Path) -> None:
    model = functional([given_input("x", None, 6, 2), conv("a", "x")], ["a"])
    path = legacy(tmp_path / "m.h5", model, weights("a"))
    out = tmp_path / "o.npz"
    told = run("convert", path, "-l", "a", "--input-shape", "1,7,9,2", "-o", out).failed(2)
    assert "'input of a' is 2,7,9 by the given shape, 2,?,6 by the model, channels first" in told
    run("convert", path, "-l", "a", "--input-shape", "1,7,6,2", "-o", out).succeeded()


def test_a_matrix_of_another_size_is_not_the_models(tmp_path: Path) -> None:
    small, large = (
        legacy(
            tmp_path / f"{size}.h5",
            functional([given_input("x", size, size, 2), conv("a", "x")], ["a"]),
            weights("a"),
        )
        for size in (8, 9)
    )
    out = tmp_path / "o.npz"
    run("convert", small, "-l", "a", "-o", out).succeeded()
    run("verify", out, "--model", small).succeeded()
    done = run("verify", out, "--model", large)
    assert done.code == 1
    assert "2x8x8" in done.out + done.err
    assert "2x9x9" in done.out + done.err
