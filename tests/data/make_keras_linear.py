"""Records what Keras itself computes, for `test_linear.py` (run once, by hand).

    pip install tensorflow-cpu tf_keras keras
    TF_ENABLE_ONEDNN_OPTS=0 python tests/data/make_keras_linear.py

writes `tests/data/recorded/keras/linear.npz`, of two parts:

`cases` is JSON: for each small layer its class, its configuration, the versions of Keras that
computed it, the names of its variables, and the shapes of its input, variables and output, which
are in `numbers`, one after the other.

`models` is JSON: for each file that Keras itself saved its name, and for each layer in it, those in
inner models too, its path and the shape of its output; the first is the input. What they are is in
`outputs`, one after the other, the file itself in the array of its name.

Keras 2 (tf_keras) and Keras 3, both on TensorFlow, must agree within rounding; what one of them
refuses is printed with the reason, and what both refuse is left out.
"""

import json
import os
import tempfile
from itertools import product
from pathlib import Path

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tf_keras

OUT = Path(__file__).parent / "recorded" / "keras" / "linear.npz"

Case = tuple[str, dict, list]

BOTH = ("channels_last", "channels_first")


def cases() -> list[Case]:
    """(class, configuration, input shape without its batch)."""
    found: list[Case] = []

    def add(kind: str, shape: list, **config: object) -> None:
        found.append((kind, config, shape))

    def each(kind: str, shape: list, **config: object) -> None:
        """The layer, and its like channels first; `shape` is channels last."""
        add(kind, shape, data_format="channels_last", **config)
        add(kind, [shape[-1], *shape[:-1]], data_format="channels_first", **config)

    for padding in ("valid", "same"):
        each("SeparableConv2D", [5, 6, 2], filters=3, kernel_size=[3, 2], padding=padding)
        for more in ({"strides": 2}, {"dilation_rate": 2}, {"use_bias": False}):
            add("SeparableConv2D", [6, 5, 2], filters=2, kernel_size=2, padding=padding,
                depth_multiplier=3, **more)  # fmt: skip
            add("SeparableConv1D", [7, 2], filters=2, kernel_size=3, padding=padding,
                depth_multiplier=2, **more)  # fmt: skip
    add("SeparableConv1D", [7, 2], filters=3, kernel_size=3, padding="causal")
    add("SeparableConv1D", [7, 2], filters=3, kernel_size=3, padding="causal", strides=2)
    add("SeparableConv1D", [8, 2], filters=1, kernel_size=2, padding="causal", dilation_rate=3)
    add("SeparableConv1D", [2, 7], filters=3, kernel_size=2, data_format="channels_first")

    for form, padding, k, s in product((1, 2, 3), ("valid", "same"), (2, 3), (1, 2)):
        if form == 1 and padding == "same":
            continue
        config = {"filters": 2, "strides": s, "padding": padding, "implementation": form}
        each("LocallyConnected1D", [5, 2], kernel_size=k, **config)
        each("LocallyConnected2D", [4, 3, 2], kernel_size=[k, 2], **config)
    for form in (1, 2, 3):
        add("LocallyConnected2D", [3, 4, 1], filters=1, kernel_size=[3, 4], use_bias=False,
            implementation=form)  # fmt: skip
        add("LocallyConnected2D", [3, 3, 2], filters=3, kernel_size=1, implementation=form)

    add("ZeroPadding1D", [3, 2], padding=2)
    add("ZeroPadding1D", [3, 2], padding=[1, 3])
    add("Cropping1D", [6, 2], cropping=2)
    add("Cropping1D", [6, 2], cropping=[1, 3])
    add("UpSampling1D", [3, 2], size=3)
    for value in (1, [1, 2], [[1, 0], [2, 3]]):
        each("ZeroPadding2D", [3, 2, 2], padding=value)
        each("Cropping2D", [5, 6, 2], cropping=value)
    for value in (1, [1, 2, 0], [[1, 0], [2, 3], [0, 1]]):
        each("ZeroPadding3D", [2, 1, 2, 2], padding=value)
        each("Cropping3D", [4, 6, 3, 2], cropping=value)
    for value in (2, [3, 2]):
        each("UpSampling2D", [2, 3, 2], size=value)
    add("UpSampling2D", [2, 3, 2], size=2, interpolation="nearest")
    for value in (2, [1, 2, 3]):
        each("UpSampling3D", [2, 1, 2, 2], size=value)

    for padding, k, s in product(("valid", "same"), (1, 2, 3), (None, 1, 2)):
        each("AveragePooling1D", [5, 2], pool_size=k, strides=s, padding=padding)
        each("AveragePooling2D", [4, 5, 2], pool_size=[k, 2], strides=s, padding=padding)
    each("AveragePooling2D", [2, 3, 2], pool_size=[4, 5], strides=2, padding="same")
    for padding in ("valid", "same"):
        each("AveragePooling3D", [3, 2, 4, 2], pool_size=2, padding=padding)
        each("AveragePooling3D", [3, 2, 4, 2], pool_size=[3, 1, 2], strides=[1, 2, 2],
             padding=padding)  # fmt: skip
    for keepdims in (False, True):
        each("GlobalAveragePooling1D", [5, 3], keepdims=keepdims)
        each("GlobalAveragePooling2D", [3, 4, 3], keepdims=keepdims)
        each("GlobalAveragePooling3D", [3, 2, 2, 3], keepdims=keepdims)

    for axis, shape in ((-1, [4]), (-1, [3, 2, 4]), (1, [3, 2, 4]), (2, [3, 2, 4]), (3, [3, 2, 4])):
        add("BatchNormalization", shape, axis=axis)
    for more in ({"scale": False}, {"center": False}, {"scale": False, "center": False},
                 {"epsilon": 0.5}):  # fmt: skip
        add("BatchNormalization", [3, 2], **more)

    for shape in ([5], [4, 5], [2, 3, 5]):
        add("Dense", shape, units=3)
    add("Dense", [5], units=2, use_bias=False)
    for shape in ([4], [3, 2], [2, 3, 4]):
        each("Flatten", shape)
    add("Reshape", [6], target_shape=[2, 3])
    add("Reshape", [4, 3], target_shape=[-1])
    add("Reshape", [2, 3, 4], target_shape=[4, -1])
    add("Permute", [2, 3], dims=[2, 1])
    add("Permute", [2, 3, 4], dims=[3, 1, 2])
    add("Rescaling", [3, 2], scale=1 / 255)
    add("Rescaling", [3, 2], scale=1 / 127.5, offset=-1)
    add("Rescaling", [2, 2, 3], scale=[2.0, 0.5, -1.0], offset=[1.0, 2.0, 3.0])
    return found


def numbers(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Integers; a variance is none that is negative."""
    if "variance" in name:
        return random.integers(1, 20, shape).astype(np.float32)
    return random.integers(-9, 10, shape).astype(np.float32)


def leaf(variable: object) -> str:
    return variable.name.split("/")[-1].split(":")[0]


def made(library: object, case: Case) -> object:
    kind, config, shape = case
    layer = getattr(library.layers, kind)(**config)
    layer.build((None, *shape))
    return layer


def small(random: np.random.Generator, arrays: list[np.ndarray]) -> list:
    told = []
    for case in cases():
        kind, config, shape = case
        layers = {}
        for version, library in ((2, tf_keras), (3, keras)):
            try:
                layers[version] = made(library, case)
            except Exception as error:
                print(f"Keras {version}: {kind} {config}: {str(error).split(chr(10))[0][:100]}")
        first = next(iter(layers.values()))
        names = [leaf(variable) for variable in first.weights]
        weights = [
            numbers(random, name, tuple(variable.shape))
            for name, variable in zip(names, first.weights, strict=True)
        ]
        x = numbers(random, "x", (1, *shape))
        outputs = {}
        for version, layer in layers.items():
            try:
                layer.set_weights(weights)
                outputs[version] = np.asarray(layer(x))
            except Exception as error:
                print(f"Keras {version}: {kind} {config}: {str(error).split(chr(10))[0][:100]}")
        if not outputs:
            continue
        y, *rest = outputs.values()
        assert all(np.allclose(y, other, rtol=1e-5, atol=1e-5) for other in rest), case
        told.append(
            [kind, config, sorted(outputs), names, [list(a.shape) for a in (x, *weights, y)]]
        )
        arrays += [x, *weights, y]
    return told


def models(library: object) -> dict[str, object]:
    """Models whose linear layers follow each other, by name."""
    layers, sequential = library.layers, library.Sequential
    found = {}
    for order in BOTH:
        last = order == "channels_last"
        shape = (9, 8, 3) if last else (3, 9, 8)
        own = {"data_format": order}
        found[f"image_{order}"] = [
            library.Input(shape),
            layers.ZeroPadding2D([[1, 0], [2, 1]], **own),
            layers.Conv2D(4, 3, strides=2, padding="same", **own),
            layers.BatchNormalization(axis=-1 if last else 1),
            layers.AveragePooling2D(2, strides=1, padding="same", **own),
            layers.Dropout(0.5),
            layers.SeparableConv2D(5, 2, depth_multiplier=2, activation="relu", **own),
            layers.UpSampling2D(2, **own),
            layers.Activation("linear"),
            layers.Cropping2D([[1, 0], [0, 2]], **own),
            layers.Flatten(**own),
            layers.Dense(3, activation="relu"),
            layers.BatchNormalization(center=False),
            layers.Dense(2),
        ]
    found["untold"] = [
        library.Input((2, 4, 5)),
        layers.Conv2D(3, 2, data_format="channels_first"),
        layers.Flatten(data_format="channels_last"),
        layers.Dense(2),
    ]
    found["line"] = [
        library.Input((10, 3)),
        layers.Conv1D(4, 3, padding="causal"),
        layers.BatchNormalization(scale=False),
        layers.SeparableConv1D(5, 2, padding="same", depth_multiplier=2),
        layers.AveragePooling1D(2),
        layers.Dense(6),
        layers.Permute((2, 1)),
        layers.Reshape((3, 2, 5)),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, use_bias=False),
    ]
    found["volume"] = [
        library.Input((4, 3, 5, 2)),
        layers.Rescaling(1 / 255, offset=-1),
        layers.Conv3D(3, 2),
        layers.ZeroPadding3D(1),
        layers.AveragePooling3D(2, padding="same"),
        layers.UpSampling3D((1, 2, 1)),
        layers.Cropping3D(((0, 1), (1, 0), (0, 0))),
        layers.GlobalAveragePooling3D(keepdims=True),
        layers.Flatten(),
        layers.Dense(2),
    ]
    block = sequential(
        [
            library.Input((6, 6, 2)),
            layers.Conv2D(3, 2, name="inner_conv"),
            layers.BatchNormalization(name="inner_norm"),
            layers.BatchNormalization(name="inner_norm_1", trainable=False),
            layers.AveragePooling2D(2, name="inner_pool"),
            layers.Dense(3, name="inner_dense", trainable=False),
            layers.Dense(4, name="inner_dense_1"),
        ],
        name="block",
    )
    found["nested"] = [library.Input((6, 6, 2)), block, layers.Flatten(), layers.Dense(2)]
    if library is tf_keras:
        found["local"] = [
            library.Input((5, 4, 2)),
            layers.LocallyConnected2D(3, 2, strides=(2, 1)),
            layers.BatchNormalization(),
            layers.LocallyConnected2D(2, 2, padding="same", implementation=3),
            layers.Reshape((-1, 2)),
            layers.LocallyConnected1D(2, 3, padding="same", implementation=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    return {name: sequential(parts) for name, parts in found.items()}


def flat(layers: list, path: str = "") -> list:
    found = []
    for layer in layers:
        inner = getattr(layer, "layers", None)
        own = f"{path}{layer.name}"
        found += flat(inner, f"{own}/") if inner else [(own, layer)]
    return found


def called(layer: object, x: np.ndarray) -> np.ndarray:
    """What a layer makes of x; one that takes its channels first, which TensorFlow does not on
    every machine, by its like that takes them last.
    """
    config = layer.get_config()
    if config.get("data_format") != "channels_first" or type(layer).__name__ == "Flatten":
        return np.asarray(layer(x))
    like = type(layer).from_config({**config, "data_format": "channels_last"})
    x = np.moveaxis(x, 1, -1)
    like.build(x.shape)
    like.set_weights(layer.get_weights())
    return np.moveaxis(np.asarray(like(x)), -1, 1)


def saved(random: np.random.Generator, outputs: list[np.ndarray]) -> tuple[list, dict]:
    told, files = [], {}
    for version, library in ((2, tf_keras), (3, keras)):
        library.utils.set_random_seed(0)
        for name, model in models(library).items():
            for variable in model.weights:
                values = numbers(random, leaf(variable), tuple(variable.shape))
                variable.assign(values / 8)
            x = numbers(random, "x", (1, *model.input_shape[1:]))
            steps = [["", list(x.shape)]]
            outputs.append(x)
            for path, layer in flat(model.layers):
                if "Input" in type(layer).__name__:
                    continue
                x = called(layer, x)
                steps.append([path, list(x.shape)])
                outputs.append(x)
            for suffix in (".h5", ".keras"):
                file = f"{name}_{version}{suffix}"
                with tempfile.TemporaryDirectory() as folder:
                    model.save(Path(folder) / file)
                    files[file] = np.frombuffer((Path(folder) / file).read_bytes(), np.uint8)
                told.append([file, steps])
    return told, files


def main() -> None:
    random = np.random.default_rng(2017)
    arrays: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    cases_told = small(random, arrays)
    models_told, files = saved(random, outputs)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        OUT,
        cases=np.array(json.dumps(cases_told)),
        numbers=np.concatenate([array.reshape(-1) for array in arrays]),
        models=np.array(json.dumps(models_told)),
        outputs=np.concatenate([array.reshape(-1) for array in outputs]),
        **files,
    )
    print(len(cases_told), "cases,", len(files), "files,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
