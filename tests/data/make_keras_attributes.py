"""Records what Keras itself computes, for `test_attributes.py` (run once, by hand).

    pip install tensorflow-cpu tf_keras keras
    TF_ENABLE_ONEDNN_OPTS=0 python tests/data/make_keras_attributes.py

writes `tests/data/recorded/keras/attributes.npz`: inputs, kernels, biases and outputs of small
layers, all of them integers, one after the other in `numbers`. `cases` is JSON: for each its
class, its configuration, the versions of Keras that computed it, and the shapes of its arrays.
Keras 3 and Keras 2 (tf_keras), both on TensorFlow, must agree on every number; what one of them
refuses is printed with the reason, and what both refuse is left out. oneDNN's Conv3D of one channel
is not always right, hence the variable.
"""

import json
import os
from itertools import product
from pathlib import Path

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tf_keras

OUT = Path(__file__).parent / "recorded" / "keras" / "attributes.npz"

Case = tuple[str, dict, list]


def cases() -> list[Case]:
    """(class, configuration, input shape without its batch)."""
    found: list[Case] = []

    def add(kind: str, shape: list, **config: object) -> None:
        found.append((kind, config, shape))

    for k, s, padding in product((2, 3, 4), (1, 2, 3), ("valid", "same")):
        add("Conv1D", [7, 2], filters=2, kernel_size=k, strides=s, padding=padding)
    for k, d, padding in product((2, 3), (2, 3), ("valid", "same", "causal")):
        add("Conv1D", [8, 2], filters=2, kernel_size=k, dilation_rate=d, padding=padding)
    add("Conv1D", [8, 2], filters=2, kernel_size=3, strides=2, padding="causal")
    add("Conv1D", [6, 4], filters=6, kernel_size=2, groups=2, padding="same")
    add("Conv1D", [2, 6], filters=3, kernel_size=4, strides=2, data_format="channels_first")
    for padding in ("valid", "same"):
        add("Conv2D", [5, 6, 2], filters=3, kernel_size=[2, 3], strides=[2, 2], padding=padding)
        add("Conv2D", [6, 7, 2], filters=2, kernel_size=2, dilation_rate=[2, 3], padding=padding)
        add("Conv2D", [5, 4, 4], filters=4, kernel_size=[3, 2], groups=2, padding=padding)
        add("Conv3D", [4, 3, 4, 2], filters=2, kernel_size=2, strides=[2, 1, 2], padding=padding)
        for multiplier in (1, 3):
            add(
                "DepthwiseConv2D",
                [5, 6, 2],
                kernel_size=[3, 2],
                depth_multiplier=multiplier,
                padding=padding,
            )
        add("DepthwiseConv2D", [6, 6, 2], kernel_size=[3, 2], strides=2, padding=padding)
        add("DepthwiseConv2D", [6, 5, 2], kernel_size=2, dilation_rate=2, padding=padding)
        add(
            "DepthwiseConv1D", [7, 2], kernel_size=2, strides=2, depth_multiplier=2, padding=padding
        )
        add("DepthwiseConv1D", [7, 3], kernel_size=3, dilation_rate=2, padding=padding)
    add("Conv2D", [3, 6, 7], filters=2, kernel_size=[3, 2], data_format="channels_first")
    add("Conv2D", [4, 4, 1], filters=2, kernel_size=3, use_bias=False)
    for k, s, padding in product((1, 2, 3, 4, 5), (1, 2, 3), ("valid", "same")):
        add("Conv1DTranspose", [3, 2], filters=2, kernel_size=k, strides=s, padding=padding)
        for op in range(s):
            add(
                "Conv1DTranspose",
                [3, 2],
                filters=2,
                kernel_size=k,
                strides=s,
                padding=padding,
                output_padding=op,
            )
    for k, d, padding in product((2, 3), (2, 3), ("valid", "same")):
        add("Conv1DTranspose", [4, 1], filters=2, kernel_size=k, dilation_rate=d, padding=padding)
        add(
            "Conv2DTranspose", [4, 3, 1], filters=2, kernel_size=k, dilation_rate=d, padding=padding
        )
    for padding, op in product(("valid", "same"), (None, [1, 0])):
        add(
            "Conv2DTranspose",
            [3, 2, 2],
            filters=3,
            kernel_size=[3, 2],
            strides=[2, 3],
            padding=padding,
            output_padding=op,
        )
    for padding in ("valid", "same"):
        add(
            "Conv2DTranspose",
            [2, 3, 4],
            filters=2,
            kernel_size=[2, 3],
            strides=2,
            data_format="channels_first",
            padding=padding,
        )
        add(
            "Conv3DTranspose",
            [2, 3, 2, 2],
            filters=2,
            kernel_size=2,
            strides=[1, 2, 3],
            padding=padding,
        )
        add("Conv3DTranspose", [2, 2, 3, 2], filters=1, kernel_size=[3, 2, 1], padding=padding)
    return found


def numbers(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.integers(-9, 10, shape).astype(np.int8)


def computed(library: object, case: Case, weights: list, x: np.ndarray) -> np.ndarray:
    kind, config, _ = case
    layer = getattr(library.layers, kind)(**config)
    layer.build((None, *x.shape[1:]))
    layer.set_weights([array.astype(np.float32) for array in weights])
    return np.asarray(layer(x.astype(np.float32)))


def main() -> None:
    random = np.random.default_rng(2017)
    flat: list[np.ndarray] = []
    told = []
    for case in cases():
        kind, config, shape = case
        layer = getattr(keras.layers, kind)(**config)
        layer.build((None, *shape))
        weights = [numbers(random, array.shape) for array in layer.get_weights()]
        x = numbers(random, (1, *shape))
        outputs = {}
        for version, library in ((3, keras), (2, tf_keras)):
            try:
                outputs[version] = computed(library, case, weights, x)
            except Exception as error:
                reason = " ".join(str(error).split())[:120]
                print(f"Keras {version}: {kind} {config}: {type(error).__name__} {reason}")
        if not outputs:
            continue
        found = list(outputs.values())
        assert all(np.array_equal(found[0], other) for other in found), case
        assert (found[0] == found[0].astype(np.int16)).all()
        arrays = [x, *weights, found[0]]
        flat += [array.astype(np.int16).reshape(-1) for array in arrays]
        told.append([kind, config, sorted(outputs), [list(array.shape) for array in arrays]])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, cases=np.array(json.dumps(told)), numbers=np.concatenate(flat))
    print(len(told), "cases,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
