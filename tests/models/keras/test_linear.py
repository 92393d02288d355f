"""Keras's linear layers that are not single convolution, against what Keras itself computed.

The outputs are recorded (`data/make_keras_linear.py`): of small layers, whose files are written
here, and of whole models, whose files are those that Keras 2 and 3 saved. Weights and inputs are
integers or eighths, so that nothing is rounded but what divides.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import load_npz

import convfc_cli as convfc
from convfc_cli.errors import GeometryError, MalformedInput, Refused, SizeMissing, Unsupported
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product
from convfc_cli.layout import Layout
from convfc_cli.models.entry import Entry
from convfc_cli.models.keras.convolution import SEPARABLE
from convfc_cli.models.keras.linear import LINEAR
from convfc_cli.models.keras.shapes import SHAPES
from convfc_cli.models.keras.weights import snake_case
from convfc_cli.models.model import Model
from tests.support.cli_models import run
from tests.support.keras_files import (
    Config,
    functional,
    given_input,
    layer,
    legacy,
    modern,
    ramp,
    sequential,
    zipped,
)
from tests.support.paths import DATA

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]

RECORDED = DATA / "recorded" / "keras" / "linear.npz"

with np.load(RECORDED) as file:
    HELD = {name: file[name] for name in file.files}


def parts(flat: Array, shapes: Sequence[Sequence[int]], at: int = 0) -> list[Array]:
    """The arrays of these shapes that stand one after the other."""
    found = []
    for shape in shapes:
        size = int(np.prod(shape))
        found.append(flat[at : at + size].reshape(shape))
        at += size
    return found


def cases() -> list[Any]:
    """Every small layer: class, configuration, versions, names of variables, arrays."""
    found, at = [], 0
    for kind, config, versions, names, shapes in json.loads(str(HELD["cases"])):
        arrays = parts(HELD["numbers"], shapes, at)
        at += sum(array.size for array in arrays)
        told = ",".join(f"{key}={value}" for key, value in config.items())
        found.append(pytest.param(kind, config, versions, names, arrays, id=f"{kind}-{told}"))
    assert at == len(HELD["numbers"])
    return found


def both(folder: Path, kind: str, config: Config, named: Any, shape: Sequence[int]) -> list[Path]:
    """A model of this one layer in either kind of file."""
    item = layer(kind, "it", **config)
    model = sequential(given_input("x", *shape), item)
    held = {"it": [(f"it/{name}:0", array) for name, array in named]}
    arrays = [array for _, array in named]
    groups = {f"layers/{snake_case(kind)}": arrays} if arrays else {}
    return [
        legacy(folder / "m.h5", model, held if named else {}),
        zipped(folder / "m.keras", model, groups),
    ]


def all_of(model: Model) -> tuple[Entry, ...]:
    return (*model.entries, *model.others)


def ours(tensor: Array, entry: Entry) -> Array:
    """A tensor of Keras's, without its batch, as (channels, *spatial)."""
    return np.moveaxis(tensor, -1, 0) if entry.channels_last else tensor


def applied(layer: Linear, x: Array) -> Array:
    """The layer by its matrix, whose vectors are in the order that is the default of no model."""
    layout = Layout("fortran")
    rows = layer.matrix(layout)
    indptr, indices, data = rows.block(0, rows.shape[0])
    product = np.zeros(rows.shape[0])
    row = np.repeat(np.arange(rows.shape[0]), np.diff(indptr))
    np.add.at(product, row, data.astype(np.float64) * layout.vector(x)[indices])
    assert len(data) == layer.nnz
    return layout.tensor(product, layer.output_shape) + layer.bias_tensor()


def check(entry: Entry, x: Array, y: Array) -> None:
    """The layer makes y of x, by its matrix and by its oracle, and is of the sizes it says."""
    layer = entry.load()
    outline = entry.require()
    assert (outline.input_shape, outline.output_shape) == (x.shape, y.shape)
    assert (layer.input_shape, layer.output_shape, layer.nnz) == (x.shape, y.shape, outline.nnz)
    assert outline.kernel_shape == layer.outline.kernel_shape
    assert layer.dtype == entry.matrix_dtype == "float32"
    x = x.astype(np.float64)
    for found in (applied(layer, x), layer.apply(x) + layer.bias_tensor()):
        assert np.allclose(found, y, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "config", "versions", "names", "arrays"), cases())
def test_what_keras_computed(
    kind: str,
    config: Config,
    versions: list[int],
    names: list[str],
    arrays: list[Array],
    tmp_path: Path,
) -> None:
    x, *weights, y = arrays
    named = list(zip(names, weights, strict=True))
    for path in both(tmp_path, kind, config, named, x.shape[1:]):
        found = convfc.read(path)
        if kind in SEPARABLE:
            first, second = found.entries
            assert (first.output, second.reads, second.output) == ("it/depthwise",) * 2 + ("it",)
            xs, ys = ours(x[0], first), ours(y[0], first)
            middle = applied(first.load(), xs)
            assert first.load().bias is None  # type: ignore[attr-defined]
            check(second, middle, ys)
            continue
        (entry,) = all_of(found)
        assert (entry.op, entry.position, entry.output) == (kind, 0, "it")
        assert (entry.reads, str(entry.producer or "")) == ("", "the input 'x'")
        check(entry, ours(x[0], entry), y[0] if y[0].ndim == 1 else ours(y[0], entry))


def test_every_class_is_recorded() -> None:
    kinds = {case.values[0] for case in cases()}
    assert kinds >= set(LINEAR) - {"SyncBatchNormalization"}
    assert set(LINEAR) <= set(SHAPES)


# Whole models, as Keras saved them.


def models() -> list[Any]:
    """Every file: its name, the paths of its layers, and what is between them."""
    found, at, before = [], 0, None
    for name, steps in json.loads(str(HELD["models"])):
        shapes = [shape for _, shape in steps]
        if before is not None and before[0] != name.partition(".")[0]:
            at = before[1]
        arrays = parts(HELD["outputs"], shapes, at)
        before = name.partition(".")[0], at + sum(array.size for array in arrays)
        found.append(pytest.param(name, [path for path, _ in steps], arrays, id=name))
    assert before is not None
    assert before[1] == len(HELD["outputs"])
    return found


def saved(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(HELD[name].tobytes())
    return path


def of_layer(model: Model, path: str) -> list[Entry]:
    """The entries of a layer, in the order in which they are applied."""
    return [
        entry
        for entry in all_of(model)
        if entry.output == path or entry.name.startswith(f"{path}/")
    ]


def activated(entry: Entry, y: Array) -> Array:
    return np.maximum(y, 0) if entry.notes().get("activation") == "relu" else y


@pytest.mark.parametrize(("name", "paths", "tensors"), models())
def test_each_layer_of_a_model(
    name: str, paths: list[str], tensors: list[Array], tmp_path: Path
) -> None:
    model = convfc.read(saved(name, tmp_path))
    seen = 0
    for path, source, made in zip(paths[1:], tensors[:-1], tensors[1:], strict=True):
        entries = of_layer(model, path)
        if not entries:
            assert path.split("/")[-1].startswith(("dropout", "activation"))
            assert np.array_equal(source, made)
            continue
        seen += len(entries)
        x = ours(source[0], entries[0])
        for entry in entries:
            loaded = entry.load()
            assert loaded.input_shape == x.shape
            x = activated(entry, applied(loaded, x))
        y = ours(made[0], entries[-1])
        assert x.shape == y.shape
        assert np.allclose(x, y, rtol=1e-4, atol=1e-4)
    assert seen == len(all_of(model))
    assert [entry.position for entry in all_of(model)] == list(range(seen))


@pytest.mark.parametrize(("name", "paths", "tensors"), models())
def test_layers_in_a_row_are_a_product(
    name: str, paths: list[str], tensors: list[Array], tmp_path: Path
) -> None:
    """Each reads the one before, unless an activation is between them."""
    model = convfc.read(saved(name, tmp_path))
    entries = {entry.output: entry for entry in all_of(model)}
    given = dict(zip(paths[1:], tensors[:-1], strict=True))
    made = dict(zip(paths[1:], tensors[1:], strict=True))
    heads = []
    read = {entry.reads for entry in entries.values()}
    for end in (entry for entry in entries.values() if entry.output not in read):
        chain = [end]
        while chain[0].reads:
            chain.insert(0, entries[chain[0].reads])
        heads.append(str(chain[0].producer or ""))
        product = Product([entry.load() for entry in chain])
        x = given[chain[0].output.removesuffix("/depthwise")][0]
        x = ours(x, chain[0]).astype(np.float64)
        y = activated(end, product.apply(x) + product.bias_tensor())
        expected = made[end.output][0]
        expected = expected if expected.ndim == 1 else ours(expected, end)
        assert y.shape == expected.shape
        assert np.allclose(y, expected, rtol=1e-4, atol=1e-4)
    told = [head for head in heads if head.startswith("the activation 'relu' of ")]
    assert len(told) == ACTIVATIONS[name.split("_")[0]]
    assert len(heads) == len(told) + 1
    assert [head for head in heads if head.startswith("the input ")]


ACTIVATIONS = {"image": 2, "untold": 0, "line": 0, "volume": 0, "nested": 0, "local": 1}
"""How many layers of a model are followed by another behind an activation."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["line_2.h5", "line_3.h5", "line_3.keras", "local_2.h5"])
def test_files_are_written_and_proven(name: str, tmp_path: Path) -> None:
    path = saved(name, tmp_path)
    model = convfc.read(path)
    wanted = [entry.output for entry in all_of(model)]
    done = convfc.convert(path, f"{tmp_path}/fc/", layers=wanted)
    assert len(done.results) == len(wanted)
    for result in done.results:
        assert result.report is not None
        assert result.report.ok, result.report
        assert convfc.verify(result.item.path, model=path).ok


def test_a_matrix_of_other_weights_is_told(tmp_path: Path) -> None:
    kernel, gamma = ramp(1, 1, 2, 2), ramp(2)
    paths = []
    for number, values in enumerate((gamma, gamma + 1)):
        model = sequential(
            given_input("x", 3, 3, 2),
            layer("Conv2D", "conv", filters=2, kernel_size=1, use_bias=False),
            layer("BatchNormalization", "norm", center=False),
        )
        held = {
            "conv": [("conv/kernel:0", kernel)],
            "norm": [("norm/gamma:0", values), ("norm/moving_mean:0", gamma),
                     ("norm/moving_variance:0", np.abs(gamma))],
        }  # fmt: skip
        paths.append(legacy(tmp_path / f"{number}.h5", model, held))
    convfc.convert(paths[0], tmp_path / "norm.npz", layers="norm")
    assert convfc.verify(tmp_path / "norm.npz", model=paths[0]).ok
    assert not convfc.verify(tmp_path / "norm.npz", model=paths[1]).ok


# What reads what.

CONV = {"filters": 2, "kernel_size": 1, "use_bias": False}


def conv(name: str, *sources: Any, **config: Any) -> Config:
    return layer("Conv2D", name, *sources, **{**CONV, **config})


def norm(name: str, *sources: Any, **config: Any) -> Config:
    return layer("BatchNormalization", name, *sources, **config)


def reads(folder: Path, *layers: Config, shape: Sequence[int] = (4, 4, 2)) -> dict[str, str]:
    """For each layer but the input what it reads, or what is before it, of layers in a row."""
    row = [given_input("x", *shape)]
    for item in layers:
        row.append({**item, "inbound_nodes": [[[row[-1]["name"], 0, 0, {}]]]})
    return read(folder, functional(row, [row[-1]["name"]]))


def read(folder: Path, model: Config) -> dict[str, str]:
    found = all_of(convfc.read(legacy(folder / "m.h5", model, {})))
    return {entry.output: entry.reads or f"({entry.producer or ''!s})" for entry in found}


@pytest.mark.parametrize(
    "item",
    [
        layer("Dropout", "between"),
        layer("SpatialDropout2D", "between"),
        layer("GaussianNoise", "between"),
        layer("Activation", "between", activation="linear"),
        sequential(given_input("y", 4, 4, 2), layer("Dropout", "d"), name="between"),
    ],
    ids=lambda item: item["class_name"],
)
def test_what_does_nothing_is_looked_through(item: Config, tmp_path: Path) -> None:
    item = {**item, "name": "between"}
    assert reads(tmp_path, conv("a"), item, conv("b")) == {"a": "(the input 'x')", "b": "a"}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (layer("ReLU", "between"), "ReLU 'between'"),
        (layer("Activation", "between", activation="tanh"), "Activation 'between'"),
        (layer("MaxPooling2D", "between", pool_size=2), "MaxPooling2D 'between'"),
        (layer("Lambda", "between"), "Lambda 'between'"),
        (conv("between", activation="relu"), "the activation 'relu' of Conv2D 'between'"),
        (
            layer("Dense", "between", units=2, activation={"class_name": "LeakyReLU"}),
            "the activation 'LeakyReLU' of Dense 'between'",
        ),
        (
            layer("SeparableConv2D", "between", **CONV, activation={"config": "gelu"}),
            "the activation 'gelu' of SeparableConv2D 'between'",
        ),
        ({**layer("Dropout", "between"), "registered_name": "mine>Dropout"}, "Dropout 'between'"),
        ({**norm("between"), "module": "mine"}, "BatchNormalization 'between'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_linear_is_told(item: Config, told: str, tmp_path: Path) -> None:
    found = reads(tmp_path, conv("a"), item, conv("b"))
    assert found["b"] == f"({told})"
    assert found["a"] == "(the input 'x')"


def test_an_activation_is_noted_of_what_applies_it(tmp_path: Path) -> None:
    model = sequential(
        given_input("x", 4, 4, 2),
        conv("a", activation="linear"),
        layer("SeparableConv2D", "b", **CONV, activation="relu"),
    )
    found = convfc.read(legacy(tmp_path / "m.h5", model, {})).entries
    notes = {entry.name: entry.notes() for entry in found}
    assert notes == {"a": {}, "b/depthwise": {}, "b/pointwise": {"activation": "relu"}}


def test_two_that_read_one_another_and_a_sum(tmp_path: Path) -> None:
    model = functional(
        [
            given_input("x", 4, 4, 2),
            conv("a", "x"),
            norm("b", "a"),
            conv("c", "a"),
            layer("Add", "sum", "b", "c"),
            layer("Flatten", "flat", "sum"),
        ],
        ["flat"],
    )
    expected = {"a": "(the input 'x')", "b": "a", "c": "a", "flat": "(Add 'sum')"}
    assert read(tmp_path, model) == expected


def test_the_calls_of_a_shared_layer_each_read_their_own(tmp_path: Path) -> None:
    shared = {**conv("a"), "inbound_nodes": [[["x", 0, 0, {}]], [["b", 0, 0, {}]]]}
    items = [given_input("x", 4, 4, 2), shared, norm("b", ["a", 0, 0]), norm("c", ["a", 1, 0])]
    found = read(tmp_path, functional(items, ["c"]))
    assert found == {"a:0": "(the input 'x')", "b": "a:0", "a:1": "b", "c": "a:1"}


def test_layers_within_a_model_read_those_before_it(tmp_path: Path) -> None:
    inner = sequential(given_input("y", 4, 4, 2), norm("n"), conv("c"), name="inner")
    inner = {**inner, "name": "inner"}
    found = reads(tmp_path, conv("a"), inner, layer("Flatten", "flat"))
    expected = {"a": "(the input 'x')", "inner/c": "inner/n", "inner/n": "a", "flat": "inner/c"}
    assert found == expected


def test_each_step_is_read_by_each_step(tmp_path: Path) -> None:
    """What is applied step by step makes no tensor that a layer takes as a whole."""
    steps = [
        layer("TimeDistributed", f"t{number}", layer=item)
        for number, item in enumerate((conv("a"), layer("Dropout", "d"), norm("b")))
    ]
    found = reads(tmp_path, *steps, layer("Flatten", "flat"), shape=(3, 4, 4, 2))
    taken = "whose axes are taken in another order"
    assert found == {
        "t0/a": f"(the input 'x', {taken})".replace(f", {taken}", ""),
        "t2/b": "t0/a",
        "flat": f"(BatchNormalization 't2/b', {taken})",
    }


def test_a_convolution_of_many_steps_is_read_by_one(tmp_path: Path) -> None:
    found = reads(tmp_path, conv("a"), conv("b"), norm("c"), shape=(3, 4, 4, 2))
    taken = "whose axes are taken in another order"
    assert found == {"a": "(the input 'x')", "b": "a", "c": f"(Conv2D 'b', {taken})"}


def test_another_order_of_axes_ends_a_row(tmp_path: Path) -> None:
    first = {"data_format": "channels_first"}
    found = reads(tmp_path, conv("a", **first), norm("b"), conv("c"), shape=(2, 2, 2))
    taken = "whose axes are taken in another order"
    assert found == {
        "a": "(the input 'x')",
        "b": "a",
        "c": f"(BatchNormalization 'b', {taken})",
    }


def test_an_input_has_its_channels_where_the_model_takes_them(tmp_path: Path) -> None:
    first = {"data_format": "channels_first"}
    items = [norm("a"), layer("Flatten", "flat"), layer("Reshape", "b", target_shape=[2, 2, 2])]
    found = reads(tmp_path, *items, conv("c", **first), shape=(2, 2, 2))
    assert found == {"a": "(the input 'x')", "flat": "a", "b": "flat", "c": "b"}
    found = reads(tmp_path, *items, conv("c"), shape=(2, 2, 2))
    assert found == {"a": "(the input 'x')", "flat": "a", "b": "flat", "c": "b"}


def test_operations_of_keras_3_are_no_layers(tmp_path: Path) -> None:
    item = modern(layer("Flatten", "flat", "x"))
    operation = {**item, "module": "keras.src.ops.numpy"}
    for made, count in ((item, 1), (operation, 0)):
        made["config"]["trainable"] = True
        model = functional([modern(given_input("x", 2, 2)), made], ["flat"])
        path = zipped(tmp_path / f"{count}.keras", model, {"layers/other": [ramp(1)]})
        assert len(convfc.read(path).others) == count


# Configurations of other versions, and what none has.


def single(folder: Path, item: Config, held: Any = (), shape: Sequence[int] = (4, 5, 2)) -> Entry:
    """The only entry of a model of one layer."""
    name = item["config"]["name"]
    weights = {name: [(f"{name}/{key}:0", value) for key, value in held]} if held else {}
    model = sequential(given_input("x", *shape), item)
    (entry,) = all_of(convfc.read(legacy(folder / "m.h5", model, weights)))
    return entry


@pytest.mark.parametrize(
    ("item", "pads"),
    [
        (layer("ZeroPadding2D", "it", padding=[1, 2], dim_ordering="tf"), ((1, 1), (2, 2))),
        (layer("ZeroPadding2D", "it", padding=[1, 2, 3, 0]), ((1, 2), (3, 0))),
    ],
)
def test_paddings_as_keras_1_has_them(item: Config, pads: Any, tmp_path: Path) -> None:
    entry = single(tmp_path, item)
    x = ramp(2, 4, 5).astype(np.float64)
    assert np.array_equal(applied(entry.load(), x), np.pad(x, ((0, 0), *pads)))


def test_layers_as_keras_1_has_them(tmp_path: Path) -> None:
    pool = layer("AveragePooling1D", "it", pool_length=2, stride=1, border_mode="valid")
    x = ramp(2, 4).astype(np.float64)
    entry = single(tmp_path, pool, shape=(4, 2))
    assert np.array_equal(applied(entry.load(), x), (x[:, 1:] + x[:, :-1]) / 2)
    entry = single(tmp_path, layer("UpSampling1D", "it", length=2), shape=(4, 2))
    assert np.array_equal(applied(entry.load(), x), x.repeat(2, 1))
    kernel, bias = ramp(4, 3), ramp(3)
    dense = layer("Dense", "it", output_dim=3, bias=True)
    entry = single(tmp_path, dense, [("it_W", kernel), ("it_b", bias)], shape=(4,))
    assert np.array_equal(applied(entry.load(), x[0]), x[0] @ kernel + bias)
    held = [("it_gamma", ramp(2)), ("it_beta", ramp(2, start=9)),
            ("it_running_mean", ramp(2, start=5)), ("it_running_std", np.abs(ramp(2)))]  # fmt: skip
    entry = single(tmp_path, norm("it", mode=0, axis=-1, epsilon=0.0), held, shape=(4, 2))
    gamma, beta, mean, variance = (array.reshape(2, 1) for _, array in held)
    expected = (x - mean) / np.sqrt(variance) * gamma + beta
    assert np.allclose(applied(entry.load(), x), expected, rtol=1e-6)


NAMES = {
    "Keras 1": ("gamma", "beta", "running_mean", "running_std"),
    "Keras 2": ("gamma", "beta", "moving_mean", "moving_variance"),
    "TensorFlow": ("gamma_1", "beta_1", "moving_mean_1", "moving_variance_1"),
}


@pytest.mark.parametrize("version", NAMES)
def test_variables_are_told_by_their_names_before_their_order(version: str, tmp_path: Path) -> None:
    gamma, beta, mean, variance = (np.full(1, value, np.float32) for value in (3, 5, 7, 4))
    held = list(zip(NAMES[version], (gamma, beta, mean, variance), strict=True))
    entry = single(tmp_path, norm("it", epsilon=0.0), held[::-1], shape=(1,))
    assert applied(entry.load(), np.zeros(1)) == 5 - 7 * 3 / 2


def test_names_that_contradict_the_order_are_not_guessed_between(tmp_path: Path) -> None:
    held = [(name, ramp(2)) for name in ("beta", "gamma", "moving_mean", "strange")]
    entry = single(tmp_path, norm("it"), held, shape=(2,))
    assert isinstance(entry.error, MalformedInput)
    held = [(name, np.abs(ramp(2))) for name in ("a", "c", "d", "e")]
    assert single(tmp_path, norm("it"), held, shape=(2,)).error is None


def test_a_separable_convolution_as_keras_1_has_it(tmp_path: Path) -> None:
    """Theano's order of axes: (multiplier, in, y, x), then (out, in, 1, 1)."""
    item = layer("SeparableConvolution2D", "it", nb_filter=3, nb_row=2, nb_col=2,
                 depth_multiplier=2, dim_ordering="th", bias=False)  # fmt: skip
    depthwise, pointwise = ramp(2, 2, 2, 2), ramp(3, 4, 1, 1)
    held = {"it": [("it_depthwise_kernel", depthwise), ("it_pointwise_kernel", pointwise)]}
    model = sequential(given_input("x", 2, 4, 5), item)
    path = legacy(tmp_path / "m.h5", model, held, version="1.2.2")
    first, second = convfc.read(path).entries
    kernels = [entry.load() for entry in (first, second)]
    assert all(isinstance(kernel, Convolution) for kernel in kernels)
    one, other = (kernel.arrays()["kernel"] for kernel in kernels)
    assert np.array_equal(one, depthwise.swapaxes(0, 1).reshape(4, 1, 2, 2))
    assert np.array_equal(other, pointwise)


UNSUPPORTED = [
    (layer("UpSampling2D", "it", size=2, interpolation="bilinear"), "bilinear"),
    (norm("it", mode=1), "statistics"),
    (norm("it", axis=[1, 3]), "several axes"),
]


@pytest.mark.parametrize(("item", "told"), UNSUPPORTED)
def test_what_is_not_linear_or_not_read_says_so(item: Config, told: str, tmp_path: Path) -> None:
    entry = single(tmp_path, item)
    with pytest.raises(Unsupported, match=told):
        entry.load()


def test_what_is_always_in_training_is_not_linear(tmp_path: Path) -> None:
    training = {"training": True}
    items = [
        given_input("x", 4, 4, 2),
        conv("a", "x"),
        {**layer("Dropout", "d"), "inbound_nodes": [[["a", 0, 0, training]]]},
        {**norm("n"), "inbound_nodes": [[["d", 0, 0, training]]]},
    ]
    model = convfc.read(legacy(tmp_path / "m.h5", functional(items, ["n"]), {}))
    (entry,) = model.others
    assert str(entry.producer or "") == "Dropout 'd'"
    with pytest.raises(Unsupported, match="save a model that calls it without training=True"):
        entry.load()


WRONG = [
    (layer("ZeroPadding2D", "it", padding=[1, -1]), "negative"),
    (layer("ZeroPadding2D", "it", padding="1"), "integer"),
    (layer("ZeroPadding2D", "it", padding=[[1, 2, 3], 0]), "unpack"),
    (layer("ZeroPadding2D", "it"), "lacks 'padding'"),
    (layer("UpSampling2D", "it", size=[2, 0]), "output of shape"),
    (layer("UpSampling2D", "it", size=[2]), "each of 2 axes"),
    (layer("AveragePooling2D", "it", pool_size=[2, True]), "integer"),
    (layer("AveragePooling2D", "it", pool_size=0), "kernel is 0"),
    (layer("AveragePooling2D", "it", pool_size=2, strides=-1), "stride is -1"),
    (layer("AveragePooling2D", "it", pool_size=2, padding="reflect"), "reflect"),
    (layer("GlobalAveragePooling2D", "it", keepdims=1), "true or false"),
    (layer("AveragePooling1D", "it", pool_size=2), "takes 2 axes"),
    (layer("Reshape", "it", target_shape=[7, -1]), "cannot take the shape"),
    (layer("Reshape", "it", target_shape=[40, 2]), "cannot take the shape"),
    (layer("Reshape", "it", target_shape=[-40, -1]), "cannot take the shape"),
    (layer("Permute", "it", dims=[1, 2]), "dims"),
    (layer("Permute", "it", dims=[1, 2, 2]), "dims"),
    (norm("it", axis=4), "no axis"),
    (norm("it", axis=0), "batch"),
    (norm("it", epsilon="much"), "much"),
    (layer("Rescaling", "it", scale=[1.0, 2.0, 3.0]), r"shape \(3,\)"),
    (layer("Rescaling", "it", scale="twice"), "twice"),
    (layer("Dense", "it", units="3"), "integer"),
    (layer("Dense", "it", units=3, use_bias="no"), "true or false"),
    (layer("Dense", "it"), "output_dim"),
]
"""Configurations of nothing, and a part of what is said of them."""


@pytest.mark.parametrize(("item", "told"), WRONG)
def test_a_configuration_that_is_none(item: Config, told: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedInput, match=told) as caught:
        single(tmp_path, item).load()
    assert f"{item['class_name']}" in str(caught.value)
    assert "it" in str(caught.value)


HELD_WRONG: list[tuple[Config, list[tuple[str, Array]], str]] = [
    (layer("Dense", "it", units=3), [("kernel", ramp(3, 2)), ("bias", ramp(3))], "kernel /model"),
    (layer("Dense", "it", units=3), [("kernel", ramp(2, 3)), ("bias", ramp(2))], "bias /model"),
    (layer("Dense", "it", units=3), [("kernel", ramp(2, 3))], "bias is not in the file"),
    (
        layer("Dense", "it", units=3),
        [("gamma", ramp(2, 3)), ("bias", ramp(3)), ("more", ramp(3))],
        "told from",
    ),
    (norm("it"), [("gamma", ramp(2)), ("beta", ramp(2)), ("moving_mean", ramp(2))], "told from"),
    (
        norm("it", scale=False, center=False),
        [("moving_mean", ramp(2)), ("moving_variance", ramp(1))],
        "variance /model",
    ),
    (
        layer("LocallyConnected2D", "it", filters=1, kernel_size=2),
        [("kernel", ramp(12, 8, 2)), ("bias", ramp(3, 4, 1))],
        "kernel /model",
    ),
    (
        layer("LocallyConnected2D", "it", filters=1, kernel_size=2),
        [("kernel", ramp(12, 8, 1)), ("bias", ramp(4, 3, 1))],
        "bias /model",
    ),
    (
        layer("LocallyConnected2D", "it", filters=1, kernel_size=2),
        [("kernel", ramp(12, 8, 1))],
        "bias is not in the file",
    ),
]
"""Weights that do not fit their layer."""


@pytest.mark.parametrize(("item", "held", "told"), HELD_WRONG)
def test_weights_that_do_not_fit(
    item: Config, held: list[tuple[str, Array]], told: str, tmp_path: Path
) -> None:
    entry = single(tmp_path, item, held)
    assert isinstance(entry.error, MalformedInput)
    assert told in str(entry.error)


def test_a_form_of_local_weights_that_there_is_not(tmp_path: Path) -> None:
    item = layer("LocallyConnected1D", "it", filters=1, kernel_size=2, implementation=4)
    entry = single(tmp_path, item, [("kernel", ramp(3))], shape=(4, 2))
    assert isinstance(entry.error, Unsupported)


def test_weights_that_no_store_holds(tmp_path: Path) -> None:
    model = sequential(given_input("x", 4, 2), norm("it"))
    groups = {"layers/batch_normalization": [ramp(2)] * 3}
    (entry,) = convfc.read(zipped(tmp_path / "m.keras", model, groups)).others
    assert isinstance(entry.error, MalformedInput)
    assert "no variable 3" in str(entry.error)


LARGE = 2**16

REFUSED = [
    (layer("ZeroPadding2D", "it", padding=2**20), "array of shape"),
    (layer("UpSampling2D", "it", size=2**20), "array of shape"),
    (layer("AveragePooling2D", "it", pool_size=LARGE, padding="same"), "array of shape"),
]


@pytest.mark.parametrize(("item", "told"), REFUSED)
def test_what_would_take_too_much_memory_is_refused(
    item: Config, told: str, tmp_path: Path
) -> None:
    entry = single(tmp_path, item)
    assert entry.outline is not None
    with pytest.raises(Refused, match=told):
        entry.load()


def test_more_numbers_than_there_are(tmp_path: Path) -> None:
    entry = single(tmp_path, layer("UpSampling3D", "it", size=2**39), shape=(2, 2, 2, 1))
    assert isinstance(entry.error, GeometryError)


def test_a_size_that_is_open_is_asked_for(tmp_path: Path) -> None:
    model = sequential(
        given_input("x", None, None, 2),
        layer("AveragePooling2D", "pool", pool_size=2),
        layer("SeparableConv2D", "sep", **CONV),
    )
    held = {
        "sep": [
            ("sep/depthwise_kernel:0", ramp(1, 1, 2, 1)),
            ("sep/pointwise_kernel:0", ramp(1, 1, 2, 2)),
        ]
    }
    path = legacy(tmp_path / "m.h5", model, held)
    for entry in all_of(convfc.read(path)):
        assert isinstance(entry.error, SizeMissing)
        assert entry.error.hint == "x=1,224,224,2"
        found = entry.at((2, 4, 6))
        assert found.outline is not None
        assert found.outline.input_shape == (2, 4, 6)
        assert found.load().input_shape == (2, 4, 6)
    sized = convfc.read(path, {"x": (1, 4, 6, 2)})
    shapes = [entry.require().input_shape for entry in all_of(sized)]
    assert shapes == [(2, 2, 3), (2, 2, 3), (2, 4, 6)]


# Whose weights are whose, within a model.


def within(model: Config, *sources: str) -> Config:
    """A model as a layer of another."""
    nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
    return {**model, "name": model["config"]["name"], "inbound_nodes": nodes}


def test_layers_of_one_family_are_told_by_their_order(tmp_path: Path) -> None:
    """TensorFlow made the names unique: the second `d` of a group is `d_1`, though `d_1` is one."""
    dense, normal = (
        layer("Dense", "d", units=2, use_bias=False),
        norm("n", scale=False, center=False),
    )
    inner = [
        within(sequential(given_input("y", 2), dense, normal, name=name))
        for name in ("left", "right")
    ]
    outer = within(sequential(given_input("z", 2), *inner, name="outer"), "x")
    model = functional([given_input("x", 2), outer], ["outer"])
    one, other = ramp(2, 2), ramp(2, 2, start=9)
    held = [("d/kernel:0", one), ("d_1/kernel:0", other)]
    held += [
        (f"{name}/{role}:0", np.abs(ramp(2, start=2 + number)))
        for number, name in enumerate(("n", "n_1"))
        for role in ("moving_mean", "moving_variance")
    ]
    found = convfc.read(legacy(tmp_path / "m.h5", model, {"outer": held}))
    kernels = {entry.name: entry.load().arrays()["kernel"] for entry in found.others}
    assert np.array_equal(kernels["outer/left/d"], one.T)
    assert np.array_equal(kernels["outer/right/d"], other.T)
    scale = [1 / np.sqrt(np.abs(ramp(2, start=n)) + 1e-3) for n in (2, 3)]
    assert np.allclose(kernels["outer/left/n"], scale[0], rtol=1e-6)
    assert np.allclose(kernels["outer/right/n"], scale[1], rtol=1e-6)


def test_a_dense_layer_with_lora(tmp_path: Path) -> None:
    item = layer("Dense", "it", units=3, use_bias=False, lora_rank=2, lora_alpha=4)
    kernel, a, b = ramp(2, 3), ramp(2, 2), ramp(2, 3, start=5)
    held = [("kernel", kernel), ("lora_kernel_a", a), ("lora_kernel_b", b)]
    found = single(tmp_path, item, held, shape=(2,)).load()
    assert np.array_equal(found.arrays()["kernel"], (kernel + 2 * a @ b).T)


def test_a_normalization_is_rounded_once(tmp_path: Path) -> None:
    held = [("gamma", np.array([3.0], np.float32)), ("beta", np.array([1.0], np.float32)),
            ("moving_mean", np.array([1e4], np.float32)),
            ("moving_variance", np.array([7.0], np.float32))]  # fmt: skip
    found = single(tmp_path, norm("it", epsilon=1e-3), held, shape=(1,)).load()
    assert isinstance(found, Diagonal)
    scale = 3 / np.sqrt(7 + 1e-3)
    assert found.kernel == np.float32(scale)
    assert found.bias == np.float32(1 - 1e4 * scale)


FIRST = {"data_format": "channels_first"}


def test_the_layout_is_the_order_of_the_models_own_tensors(tmp_path: Path) -> None:
    """Whether or not a Flatten turns them; where one does, that is noted."""
    for flatten, told in ((FIRST, True), ({}, False)):
        model = sequential(
            given_input("x", 2, 3, 4),
            conv("a", **FIRST),
            norm("b", axis=1),
            layer("Flatten", "flat", **flatten),
        )
        found = convfc.read(legacy(tmp_path / "m.h5", model, {}))
        entries = (*found.entries, *found.others)
        assert {entry.layout for entry in entries} == {"channels-first"}
        notes = {entry.notes().get("flatten", "") for entry in entries}
        assert all(("--layout channels-last" in note) is told for note in notes), notes
        flat = found.layer("flat").load()
        rows = flat.matrix(Layout("channels-last" if told else "channels-first"))
        assert np.array_equal(rows.indices.array(), np.arange(24))


def flattened(order: str) -> Config:
    """A convolution, a Flatten and a Dense layer, in this data format."""
    config: Config = {"data_format": order}
    shape = (3, 5, 4) if order == "channels_first" else (5, 4, 3)
    return functional(
        [
            given_input("x", *shape),
            conv("c", "x", filters=2, kernel_size=[3, 2], use_bias=True, **config),
            layer("Flatten", "f", "c", **config),
            layer("Dense", "d", "f", units=4, use_bias=True),
        ],
        ["d"],
    )


def convolved(x: Array, kernel: Array, bias: Array, order: str) -> Array:
    """Keras's Conv2D, `valid`, of one image in its own order, by its definition."""
    image = np.moveaxis(x, 0, -1) if order == "channels_first" else x
    high, wide, _, filters = kernel.shape
    rows, columns = image.shape[0] - high + 1, image.shape[1] - wide + 1
    y = np.zeros((rows, columns, filters))
    for i in range(rows):
        for j in range(columns):
            y[i, j] = np.einsum("yxc,yxco->o", image[i : i + high, j : j + wide], kernel) + bias
    return np.moveaxis(y, -1, 0) if order == "channels_first" else y


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
def test_a_matrix_takes_the_memory_of_the_models_own_tensor(order: str, tmp_path: Path) -> None:
    """M @ x.ravel() + b is conv(x).ravel(); in channels-last it fits the Dense layer behind a
    Flatten, and the chain through both is what the model computes.
    """
    random = np.random.default_rng(7)
    kernel, bias = random.standard_normal((3, 2, 3, 2)), random.standard_normal(2)
    dense, added = random.standard_normal((18, 4)), random.standard_normal(4)
    held = {
        "c": [("c/kernel:0", kernel), ("c/bias:0", bias)],
        "d": [("d/kernel:0", dense), ("d/bias:0", added)],
    }
    path = legacy(tmp_path / "m.h5", flattened(order), held)
    x = random.standard_normal((3, 5, 4) if order == "channels_first" else (5, 4, 3))
    y = convolved(x, kernel, bias, order)
    last = np.moveaxis(y, 0, -1) if order == "channels_first" else y
    answer = last.ravel() @ dense + added  # a Flatten takes them channels last, whatever they are

    def written(name: str, *options: str) -> tuple[Any, Array]:
        out = tmp_path / f"{name}.npz"
        run("convert", path, "-o", out, *options).succeeded()
        with np.load(out) as members:
            return load_npz(out), members["bias"]

    own, added_own = written("own", "-l", "c")
    assert np.allclose(own @ x.ravel() + added_own, y.ravel())
    turned, added_turned = written("last", "-l", "c", "--layout", "channels-last")
    image = np.moveaxis(x, 0, -1) if order == "channels_first" else x
    fits = turned @ image.ravel() + added_turned
    assert np.allclose(fits @ dense + added, answer)
    chain, added_chain = written("chain", "--compose", "c:d")
    assert np.allclose(chain @ x.ravel() + added_chain, answer)


def test_the_plan_says_the_layout_of_each_file_and_what_a_flatten_turns(tmp_path: Path) -> None:
    items = [
        given_input("x", 3, 5, 4),
        conv("first", "x", kernel_size=2, **FIRST),
        layer("Permute", "p", "first", dims=[2, 3, 1]),
        conv("last", "p", kernel_size=2),
        layer("Flatten", "flat", "first", **FIRST),
    ]
    kernels = {"first": ramp(2, 2, 3, 2), "last": ramp(2, 2, 2, 2)}
    held = {name: [(f"{name}/kernel:0", kernel)] for name, kernel in kernels.items()}
    path = legacy(tmp_path / "m.h5", functional(items, ["last", "flat"]), held)
    done = run("convert", path, "-o", f"{tmp_path}/o/").succeeded()
    assert "channels-first (first), channels-last (last)" in done.err
    assert "note (first): flatten 'flat' takes channels last: --layout channels-last" in done.err
    same = run("convert", path, "-o", f"{tmp_path}/p/", "--layout", "channels-last").succeeded()
    assert ", channels-last: all proven" in same.err
