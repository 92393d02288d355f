"""Record weights alone as Keras writes them: `python make_keras_weights.py` (both Keras 2 and 3).

`recorded/hdf5/keras_weights.npz` holds the bytes of the files (compressed: HDF5 leaves much room):
- `net.weights.h5`, `sharded.weights.json` and its shards: one trained Sequential model, whose
  groups are called after classes, not layers, and whose optimizer keeps arrays like the kernels;
- `own.weights.h5`, `own.keras`: a subclassed model, of which Keras keeps no list of layers;
- `legacy.h5`: `save_weights` of Keras 2;
and for each convolution an input and an output of Keras's layer. Run with Keras 3.15 and tf_keras
2.21 on TensorFlow 2.21.
"""

import os
import tempfile
from pathlib import Path

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import keras
import numpy as np
import tf_keras

HERE = Path(__file__).parent / "recorded" / "hdf5"

SHARD_GB = 1.2e-6
"""Gigabytes of a shard: so little that the optimizer's arrays need several."""


class Own(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = keras.layers.Conv2D(3, 3)
        self.blocks = [keras.layers.Conv2D(2, 1), keras.layers.Conv2D(2, 2)]

    def call(self, x: object) -> object:
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return x


def net() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((9, 8, 2)),
            layers.Conv2D(3, (3, 2), strides=2, padding="same", name="first"),
            layers.DepthwiseConv2D(2, depth_multiplier=2, name="depth"),
            layers.Conv2DTranspose(4, 3, strides=2, padding="valid", name="up"),
            layers.Conv2D(2, 2, dilation_rate=2, groups=2, use_bias=False, name="last"),
        ]
    )


def legacy() -> tf_keras.Model:
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Conv1D(3, 4, padding="causal", dilation_rate=2, input_shape=(9, 2), name="a/b"),
            layers.SeparableConv1D(2, 3, name="separable"),
        ]
    )


def main() -> None:
    keras.utils.set_random_seed(2017)
    random = np.random.default_rng(2017)
    arrays = {}

    def run(name: str, model: object, x: np.ndarray) -> None:
        for layer in model.layers:
            y = np.asarray(layer(x))
            arrays[f"{name}/{layer.name}/x"], arrays[f"{name}/{layer.name}/y"] = x[0], y[0]
            x = y

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model = net()
        model.compile("adam", "mse")
        model.fit(draw(2, 9, 8, 2), draw(2, *model.output_shape[1:]), verbose=0)
        model.save_weights("net.weights.h5")
        model.save_weights("sharded.weights.json", max_shard_size=SHARD_GB)
        run("net", model, draw(1, 9, 8, 2))
        own = Own()
        own(draw(1, 6, 5, 2))
        own.save_weights("own.weights.h5")
        own.save("own.keras")
        x = draw(1, 6, 5, 2)
        y = np.asarray(own.conv1(x))
        arrays["own/conv1/x"], arrays["own/conv1/y"] = x[0], y[0]
        z = np.asarray(own.blocks[0](y))
        arrays["own/blocks1/x"], arrays["own/blocks1/y"] = z[0], np.asarray(own.blocks[1](z))[0]
        old = legacy()
        for weight in old.weights:
            weight.assign(draw(*weight.shape))
        old.save_weights("legacy.h5")
        x = draw(1, 9, 2)
        arrays["legacy/a/b/x"], arrays["legacy/a/b/y"] = x[0], np.asarray(old.layers[0](x))[0]
        for path in sorted(Path().iterdir()):
            arrays[f"file/{path.name}"] = np.frombuffer(path.read_bytes(), np.uint8)
    np.savez_compressed(HERE / "keras_weights.npz", **arrays)


if __name__ == "__main__":
    main()
