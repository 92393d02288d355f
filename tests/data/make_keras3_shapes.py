"""Records what shapes the layers that only Keras 3 has make of others, for `test_shapes.py`.

Run once, by hand:

    pip install keras jax
    KERAS_BACKEND=numpy python tests/data/make_keras3_shapes.py

It writes `tests/data/recorded/keras/shapes3.json`, a record for each case: the class, its
configuration as Keras writes it into a file, the shapes of its inputs, and those of its outputs by
`compute_output_spec`, which is what Keras states in a file. Where all sizes are known the layer is
called too; a record whose real outputs differ has those as well. What Keras refuses is printed, and
so are the classes of `keras.layers` of which there is no case.
"""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, tree

OUT = Path(__file__).parent / "recorded" / "keras" / "shapes3.json"
EARLIER = OUT.with_name("shapes.json")

Shape = tuple[int | None, ...]
Case = tuple[str, dict[str, Any], Any]

IMAGE, COLOR, FIRST = (None, 11, 8, 4), (None, 11, 8, 3), (None, 3, 11, 8)
SEQUENCE = {1: (None, 5, 9, 4), 2: (None, 5, 9, 8, 4), 3: (None, 5, 7, 6, 8, 4)}
SERIES = (None, 7, 6)

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "AugMix": {"value_range": (0, 1)},
    "AutoContrast": {"value_range": (0, 1)},
    "ContrastLimitedAdaptiveHistogramEqualization": {"value_range": (0, 1)},
    "CutMix": {},
    "Equalization": {"value_range": (0, 1)},
    "MaxNumBoundingBoxes": {"max_number": 5},
    "MixUp": {},
    "RandAugment": {"value_range": (0, 1)},
    "RandomBrightness": {"factor": 0.2},
    "RandomColorDegeneration": {"factor": 0.2},
    "RandomColorJitter": {"value_range": (0, 1)},
    "RandomContrast": {"factor": 0.2},
    "RandomElasticTransform": {},
    "RandomErasing": {},
    "RandomFlip": {},
    "RandomGaussianBlur": {},
    "RandomGrayscale": {},
    "RandomHue": {"factor": 0.2},
    "RandomInvert": {"value_range": (0, 1)},
    "RandomPerspective": {},
    "RandomPosterization": {"factor": 3},
    "RandomRotation": {"factor": 0.2},
    "RandomSaturation": {"factor": 0.2},
    "RandomSharpness": {"factor": 0.2},
    "RandomShear": {"x_factor": 0.1},
    "RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1},
    "RandomZoom": {"height_factor": 0.1},
    "Solarization": {},
}


def cells(*names: str) -> list[Any]:
    """A cell for each: its class, and its units."""
    return [getattr(layers, name)(units) for name, units in zip(names, (6, 5, 3), strict=False)]


def stacked(*names: str) -> Any:
    return layers.StackedRNNCells(cells(*names))


def cases() -> list[Case]:
    """(class, configuration, shape of its input, or a structure of several)."""
    found: list[Case] = []

    def add(kind: str, shapes: Any, **config: Any) -> None:
        found.append((kind, config, shapes))

    for kind, config in AUGMENTATIONS.items():
        add(kind, COLOR, **config)
        add(kind, (None, None, 8, 3), **config)
        if kind not in ("CutMix", "MaxNumBoundingBoxes", "MixUp"):
            add(kind, FIRST, **config, data_format="channels_first")
    for kind in ("RandomCrop", "CenterCrop", "Resizing"):
        add(kind, COLOR, height=5, width=3)
        add(kind, (None, None, None, 3), height=5, width=3)
        add(kind, FIRST, height=5, width=3, data_format="channels_first")
    for rank, shape in SEQUENCE.items():
        first = (*shape[:2], shape[-1], *shape[2:-1])
        kind, opened = f"ConvLSTM{rank}D", (None, None, *shape[2:])
        for sequences in (False, True):
            for state in (False, True):
                told = {"filters": 3, "return_sequences": sequences, "return_state": state}
                add(kind, shape, **told, kernel_size=3)
                add(kind, opened, **told, kernel_size=3, padding="same")
                add(kind, first, **told, kernel_size=2, data_format="channels_first")
        add(kind, shape, filters=3, kernel_size=2, strides=2, padding="same")
        add(kind, shape, filters=3, kernel_size=(3, 2, 1)[:rank], strides=(1, 2, 3)[:rank])
        add(kind, shape, filters=3, kernel_size=2, dilation_rate=2)
    for sequences in (False, True):
        for state in (False, True):
            told = {"return_sequences": sequences, "return_state": state}
            for names in (["LSTMCell"], ["GRUCell"], ["SimpleRNNCell"]):
                add("RNN", SERIES, cell=cells(*names)[0], **told)
            add("RNN", SERIES, cell=cells("LSTMCell", "GRUCell"), **told)
            add("RNN", (None, None, 6), cell=stacked("GRUCell", "LSTMCell", "LSTMCell"), **told)
            add("RNN", SERIES, cell=stacked("LSTMCell"), **told)
            for kind in ("LSTM", "GRU", "SimpleRNN"):
                add(kind, SERIES, units=5, **told)
                inner = getattr(layers, kind)(5, **told)
                for mode in ("concat", "ave", None):
                    add("Bidirectional", SERIES, layer=inner, merge_mode=mode)
            inner = layers.RNN(stacked("LSTMCell", "GRUCell"), **told)
            add("Bidirectional", SERIES, layer=inner)
            inner = layers.ConvLSTM2D(3, 2, **told)
            add("Bidirectional", SEQUENCE[2], layer=inner)
    for size in (64, 63, 62, 61, 100, 7):
        for stride in (4, 5, 16):
            add(
                "MelSpectrogram", (None, size), num_mel_bins=6, sequence_stride=stride, fft_length=8
            )
    add("MelSpectrogram", (None, 64), num_mel_bins=6, sequence_stride=5, fft_length=9)
    add("MelSpectrogram", (None, 65), num_mel_bins=6, sequence_stride=5, fft_length=9)
    add("MelSpectrogram", (None, None), num_mel_bins=6)
    for mode in ("log", "stft"):
        for padding in ("valid", "same"):
            for expand in (False, True):
                told = {"mode": mode, "padding": padding, "expand_dims": expand}
                sizes = {"frame_length": 9, "frame_step": 4, "fft_length": 16}
                add("STFTSpectrogram", (None, 50, 2), **told, **sizes)
                add("STFTSpectrogram", (None, None, 2), **told, **sizes)
                add("STFTSpectrogram", (None, 50, 1), **told, frame_length=8)
                order = {"data_format": "channels_first"}
                add("STFTSpectrogram", (None, 2, 50), **told, **sizes, **order)
    for equation, output, shape in (
        ("ab,bc->ac", 7, (None, 6)),
        ("abc,cd->abd", (None, 7), (None, 5, 6)),
        ("abc,cd->abd", (5, 7), (None, 5, 6)),
        ("abc,cde->abde", (None, 2, 3), (None, 5, 6)),
        ("abcd,cde->abe", (None, 7), (None, 5, 2, 3)),
        ("...x,xy->...y", 7, (None, 5, 4, 6)),
        ("...xy,xyz->...z", 7, (None, 5, 4, 6)),
        ("ab...,bc->ac...", 7, (None, 6, 5, 4)),
        ("ab...,bc->ac...", 7, (None, 6, None, 4)),
        ("abc,cd->adb", (7, None), (None, 5, 6)),
        ("abc,cd->adb", (7, 5), (None, 5, 6)),
        ("abc,bd->adc", (7, 6), (None, 5, 6)),
    ):
        add("EinsumDense", shape, equation=equation, output_shape=output)
    for axes in (1, 2, -1, (1, 2), (2, 1)):
        add("Dot", [(None, 5, 5), (None, 5, 5)], axes=axes)
    add("Dot", [(None, 4, 5), (None, 5, 6)], axes=(2, 1))
    add("Dot", [(None, 4), (None, 4)], axes=1)
    for mode in ("one_hot", "multi_hot", "count"):
        for shape in ((None, 1), (None, 5), (None, 5, 1), (None, 4, 5)):
            add("CategoryEncoding", shape, num_tokens=6, output_mode=mode)
            add("Discretization", shape, bin_boundaries=[0.0, 1.0], output_mode=mode)
    add("Discretization", (None, 4, 5), bin_boundaries=[0.0, 1.0])
    add("Discretization", (None, 4, 5), num_bins=3)
    for shape in ((None, 9), (None, None), (None, 4, 9)):
        add("ReversibleEmbedding", shape, input_dim=5, output_dim=3)
    for shapes in ([SERIES, SERIES], [SERIES, (None, 9, 7)]):
        add("MultiHeadAttention", shapes, num_heads=2, key_dim=3, output_shape=8)
        add("MultiHeadAttention", shapes, num_heads=2, key_dim=3, output_shape=(8, 2))
        add("GroupQueryAttention", shapes, head_dim=3, num_query_heads=4, num_key_value_heads=2)
    inner = [layers.Rescaling(0.5), layers.RandomCrop(5, 3), layers.RandomFlip()]
    add("Pipeline", COLOR, layers=inner)
    return found


def outputs(layer: Any, shapes: Any) -> list[list[int | None]]:
    """The shapes that Keras states of what a layer makes."""
    if isinstance(shapes, list):
        tensors = [keras.Input(batch_shape=shape) for shape in shapes]
        made = layer(*tensors) if "Attention" in type(layer).__name__ else layer(tensors)
    else:
        made = layer(keras.Input(batch_shape=shapes))
    return [list(tensor.shape) for tensor in tree.flatten(made)]


def real(layer: Any, shapes: Any) -> list[list[int | None]] | None:
    """The shapes of what a layer really makes; None where a size is open."""
    several = shapes if isinstance(shapes, list) else [shapes]
    if any(None in shape[1:] for shape in several):
        return None
    dtype = "int32" if type(layer).__name__ == "CategoryEncoding" else "float32"
    arrays = [np.zeros((2, *shape[1:]), dtype) for shape in several]
    if not isinstance(shapes, list):
        made = layer(arrays[0])
    else:
        made = layer(*arrays) if "Attention" in type(layer).__name__ else layer(arrays)
    return [[None, *tensor.shape[1:]] for tensor in tree.flatten(made)]


def config_of(layer: Any) -> Any:
    """The configuration as JSON of a file has it, without what says nothing of shapes."""
    content = keras.saving.serialize_keras_object(layer)["config"]
    return plain(content)


UNUSED = ("_initializer", "_regularizer", "_constraint", "dtype", "trainable", "seed", "momentum")


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: plain(v)
            for k, v in value.items()
            if not k.endswith(UNUSED) and k not in ("name", "build_config", "registered_name")
        }
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def main() -> None:
    kept: list[list[Any]] = []
    for kind, config, shapes in cases():
        try:
            layer = getattr(layers, kind)(**config)
            content = config_of(layer)
            stated = outputs(layer, shapes)
        except Exception as error:
            told = " ".join(str(error).split())[:150]
            print(f"{kind} {config} {shapes}: {type(error).__name__} {told}")
            continue
        several = shapes if isinstance(shapes, list) else [shapes]
        record = [type(layer).__name__, content, several, stated]
        try:
            made = real(layer, shapes)
        except Exception as error:
            print(f"not called: {kind} {config} {shapes}: {' '.join(str(error).split())[:150]}")
            made = None
        if made not in (None, stated):
            print(f"states {stated}, makes {made}: {kind} {config} {shapes}")
            record.append(made)
        kept.append(record)
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in kept)
    OUT.write_text(f"[\n{lines}\n]\n")
    print(len(kept), "records,", OUT.stat().st_size, "bytes, Keras", keras.__version__)
    known = {record[0] for record in kept}
    known |= {record[1] for record in json.loads(EARLIER.read_text())}
    classes = {
        kind.__name__
        for kind in vars(layers).values()
        if isinstance(kind, type) and issubclass(kind, layers.Layer)
    }
    print("without a case:", *sorted(classes - known))


if __name__ == "__main__":
    main()
