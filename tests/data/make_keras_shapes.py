"""Records what shapes Keras's layers make of others, for `test_shapes.py` (run once, by hand).

    pip install tensorflow-cpu tf_keras keras
    python tests/data/make_keras_shapes.py

writes `tests/data/recorded/keras/shapes.json`: for each case the versions of Keras (3, and tf_keras
for 2) that agree on it, the layer as they write it into a file, the shapes of its inputs, and that
of its output, with their batch; null is an open size. What a version lacks or refuses is printed.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tf_keras

OUT = Path(__file__).parent / "recorded" / "keras" / "shapes.json"

Shape = tuple[int | None, ...]

LINE, IMAGE, BLOCK = (None, 11, 4), (None, 11, 8, 4), (None, 7, 6, 5, 4)
OPEN = {1: (None, None, 4), 2: (None, None, 8, 4), 3: (None, 7, None, None, 4)}
KNOWN = {1: LINE, 2: IMAGE, 3: BLOCK}

SAME = """
ReLU LeakyReLU PReLU ELU ThresholdedReLU Softmax BatchNormalization SyncBatchNormalization
LayerNormalization UnitNormalization RMSNormalization Normalization Masking Identity
ActivityRegularization
"""


def cases() -> list[tuple[str, dict[str, Any], list[Shape]]]:
    """(class, configuration, shapes of its inputs)."""
    found: list[tuple[str, dict[str, Any], list[Shape]]] = []

    def add(kind: str, *shapes: Shape, **config: Any) -> None:
        found.append((kind, config, list(shapes)))

    for kind in SAME.split():
        add(kind, IMAGE)
    add("Activation", IMAGE, activation="relu")
    for kind in ("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout"):
        add(kind, OPEN[2], rate=0.5)
    add("SpatialDropout1D", LINE, rate=0.5)
    add("SpatialDropout3D", BLOCK, rate=0.5)
    add("GaussianNoise", IMAGE, stddev=1.0)
    add("GroupNormalization", IMAGE, groups=2)
    add("Rescaling", IMAGE, scale=0.5)
    for kind, config in (
        ("RandomFlip", {}),
        ("RandomRotation", {"factor": 0.5}),
        ("RandomContrast", {"factor": 0.5}),
        ("RandomBrightness", {"factor": 0.5}),
        ("RandomTranslation", {"height_factor": 0.1, "width_factor": 0.1}),
        ("RandomZoom", {"height_factor": 0.1}),
        ("RandomShear", {"x_factor": 0.1}),
        ("RandomHue", {"factor": 0.5}),
        ("RandomSaturation", {"factor": 0.5}),
        ("Solarization", {}),
    ):
        add(kind, (None, 11, 8, 3), **config)
    for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
        add(kind, IMAGE, IMAGE)
    add("Add", IMAGE, (None, 1, 1, 4))
    add("Add", (None, 1, 8, 1), (None, 11, 1, 4))
    add("Multiply", OPEN[2], IMAGE)
    add("Multiply", IMAGE, (None, 1, 1, 4), (None, 11, 8, 1))
    add("Add", (None, None, None, 4), (None, None, None, 4))
    add("Concatenate", IMAGE, (None, 11, 8, 3))
    add("Concatenate", OPEN[2], (None, 11, None, 3), (None, None, None, 2))
    add("Concatenate", IMAGE, (None, 5, 8, 4), axis=1)
    add("Concatenate", (None, None, 8, 4), (None, 5, 8, 4), axis=1)
    add("Concatenate", (None, 3, 8, 4), (None, 5, 8, 4), axis=-3)
    for shape in (IMAGE, OPEN[2], LINE, (None, 5), (None,)):
        add("Flatten", shape)
    add("Flatten", IMAGE, data_format="channels_first")
    add("Reshape", IMAGE, target_shape=(8, 44))
    add("Reshape", IMAGE, target_shape=(11, -1, 2))
    add("Reshape", OPEN[2], target_shape=(-1, 4))
    add("Reshape", (None, 12), target_shape=(2, 3, 2))
    add("Permute", IMAGE, dims=(3, 1, 2))
    add("Permute", OPEN[2], dims=(2, 1, 3))
    add("RepeatVector", (None, 6), n=5)
    add("Dense", (None, 6), units=5)
    add("Dense", IMAGE, units=5)
    add("Dense", OPEN[2], units=5)
    add("Embedding", (None, 9), input_dim=5, output_dim=3)
    add("Embedding", (None, None), input_dim=5, output_dim=3)
    add("Embedding", (None, 4, 9), input_dim=5, output_dim=3)
    for rank, plain in KNOWN.items():
        first = (None, plain[-1], *plain[1:-1])
        for shape in (plain, OPEN[rank]):
            for kind in ("MaxPooling", "AveragePooling"):
                for config in (
                    {},
                    {"padding": "same"},
                    {"pool_size": 3},
                    {"pool_size": 3, "strides": 1, "padding": "same"},
                    {"pool_size": 3, "strides": 2},
                    {"pool_size": (3, 2, 4)[:rank], "strides": (1, 2, 3)[:rank]},
                    {"pool_size": 2, "strides": 3, "padding": "same"},
                ):
                    add(f"{kind}{rank}D", shape, **config)
        add(f"MaxPooling{rank}D", first, data_format="channels_first", pool_size=2)
        for kind in ("GlobalMaxPooling", "GlobalAveragePooling"):
            for shape in (plain, OPEN[rank]):
                add(f"{kind}{rank}D", shape)
                add(f"{kind}{rank}D", shape, keepdims=True)
            add(f"{kind}{rank}D", first, data_format="channels_first")
            add(f"{kind}{rank}D", first, data_format="channels_first", keepdims=True)
        for kind in ("AdaptiveMaxPooling", "AdaptiveAveragePooling"):
            add(f"{kind}{rank}D", plain, output_size=3)
            add(f"{kind}{rank}D", plain, output_size=(3, 2, 1)[:rank])
            add(f"{kind}{rank}D", first, output_size=2, data_format="channels_first")
        sizes: list[Any] = [1, 2]
        if rank == 1:
            sizes += [(1, 2), (0, 3)]
        else:
            sizes += [(1, 2, 0)[:rank], ((1, 0), (0, 2), (1, 1))[:rank]]
        for shape in (plain, OPEN[rank]):
            for size in sizes:
                add(f"ZeroPadding{rank}D", shape, padding=size)
                add(f"Cropping{rank}D", shape, cropping=size)
            add(f"UpSampling{rank}D", shape, size=2)
            if rank > 1:
                add(f"UpSampling{rank}D", shape, size=(2, 3, 1)[:rank])
        if rank > 1:
            for kind, key in (("ZeroPadding", "padding"), ("Cropping", "cropping")):
                add(f"{kind}{rank}D", first, data_format="channels_first", **{key: 1})
            add(f"UpSampling{rank}D", first, data_format="channels_first", size=2)
        else:
            add("ZeroPadding1D", first, data_format="channels_first", padding=(1, 2))
    for kind in ("LSTM", "GRU", "SimpleRNN"):
        add(kind, LINE, units=5)
        add(kind, OPEN[1], units=5, return_sequences=True)
        add(kind, LINE, units=5, return_sequences=True)
    for mode in ("concat", "sum"):
        for sequences in (True, False):
            inner = {"units": 5, "return_sequences": sequences}
            add("Bidirectional", LINE, layer=inner, merge_mode=mode)
    add("MultiHeadAttention", LINE, LINE, num_heads=2, key_dim=3)
    add("MultiHeadAttention", LINE, (None, 9, 7), num_heads=2, key_dim=3)
    for kind in ("Attention", "AdditiveAttention"):
        add(kind, LINE, LINE)
        add(kind, LINE, (None, 9, 4))
    add("Attention", LINE, (None, 9, 6), (None, 9, 4))
    for kind in ("Resizing", "CenterCrop"):
        add(kind, IMAGE, height=5, width=3)
        add(kind, (None, None, None, 3), height=5, width=3)
        add(kind, (None, 4, 11, 8), height=5, width=3, data_format="channels_first")
    for rank, plain in KNOWN.items():
        for kind in (f"Conv{rank}D", f"Conv{rank}DTranspose", f"DepthwiseConv{rank}D"):
            if kind == "DepthwiseConv3D":
                continue
            own = {} if kind.startswith("Depthwise") else {"filters": 6}
            for shape in (plain, OPEN[rank]):
                for padding in ("valid", "same"):
                    for config in (
                        {"kernel_size": 3},
                        {"kernel_size": 2, "strides": 2},
                        {"kernel_size": (3, 2, 1)[:rank], "dilation_rate": 2},
                    ):
                        add(kind, shape, **own, **config, padding=padding)
        for kind in (f"SeparableConv{rank}D", f"LocallyConnected{rank}D"):
            if rank < 3:
                add(kind, plain, filters=6, kernel_size=3)
                add(kind, plain, filters=6, kernel_size=2, strides=2)
        if rank < 3:
            add(f"SeparableConv{rank}D", plain, filters=6, kernel_size=3, padding="same")
    add("Conv1D", LINE, filters=6, kernel_size=3, dilation_rate=2, padding="causal")
    return found


def made(library: Any, kind: str, config: dict[str, Any]) -> Any:
    config = dict(config)
    if kind == "Bidirectional":
        config["layer"] = library.layers.LSTM(**config["layer"])
    return getattr(library.layers, kind)(**config)


def output(library: Any, layer: Any, shapes: list[Shape]) -> list[int | None]:
    tensors = [library.Input(batch_shape=shape) for shape in shapes]
    several = type(layer).__name__ == "MultiHeadAttention"
    y = layer(*tensors) if several or len(tensors) == 1 else layer(tensors)
    return [None if size is None else int(size) for size in y.shape]


def told(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:100]}"


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def main() -> None:
    kept: list[list[Any]] = []
    for kind, config, shapes in cases():
        records: list[list[Any]] = []
        for version, library in ((3, keras), (2, tf_keras)):
            try:
                layer = made(library, kind, config)
                found = output(library, layer, shapes)
                content = json.loads(json.dumps(layer.get_config(), default=plain))
                content = {k: v for k, v in content.items() if not k.endswith(UNUSED)}
                content.pop("name")
                records.append([[version], kind, content, [list(s) for s in shapes], found])
            except Exception as error:
                print(f"Keras {version}: {kind} {config} {shapes}: {told(error)}")
        if len(records) == 2 and records[0][-1] != records[1][-1]:
            print(f"differ: {kind} {config} {shapes}: {records[0][-1]} {records[1][-1]}")
        if len(records) == 2 and records[0][1:] == records[1][1:]:
            records = [[[2, 3], *records[0][1:]]]
        kept += records
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in kept)
    OUT.write_text(f"[\n{lines}\n]\n")
    print(len(kept), "records,", OUT.stat().st_size, "bytes")


UNUSED = ("_initializer", "_regularizer", "_constraint", "dtype", "trainable", "seed", "momentum")
"""What says nothing of shapes."""


if __name__ == "__main__":
    main()
