"""Record what live layers of PyTorch and Keras are, and compute: `recorded/live/layers.npz`.

Run it in an environment with torch==2.13.0 and numpy (`pytorch`), then in one with Keras 3
(`keras`): each adds its own. Not part of the tests, which import neither.
"""

import json
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent / "recorded" / "live" / "layers.npz"

PYTORCH = [
    ("Conv1d", (3, 9), {"out_channels": 4, "kernel_size": 3}),
    ("Conv1d", (2, 9), {"out_channels": 4, "kernel_size": 4, "padding": "same", "dilation": 2}),
    (
        "Conv2d",
        (4, 7, 6),
        {"out_channels": 6, "kernel_size": (3, 2), "stride": (2, 1), "groups": 2},
    ),
    ("Conv2d", (2, 7, 6), {"out_channels": 3, "kernel_size": (2, 4), "padding": "same"}),
    ("Conv2d", (2, 7, 6), {"out_channels": 3, "kernel_size": 3, "padding": "valid", "bias": False}),
    ("Conv2d", (2, 7, 6), {"out_channels": 3, "kernel_size": 3, "padding": (2, 1), "stride": 3}),
    ("Conv3d", (2, 4, 5, 3), {"out_channels": 2, "kernel_size": 2, "padding": 1}),
    ("ConvTranspose1d", (3, 5), {"out_channels": 2, "kernel_size": 4, "stride": 3, "padding": 1}),
    (
        "ConvTranspose2d",
        (4, 3, 4),
        {
            **{"out_channels": 6, "kernel_size": (3, 2), "stride": 2, "groups": 2},
            **{"output_padding": (1, 0), "padding": 1},
        },
    ),
]

KERAS = [
    ("Conv1D", (9, 3), {"filters": 4, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}),
    ("Conv2D", (7, 6, 4), {"filters": 6, "kernel_size": (3, 2), "strides": 2, "groups": 2}),
    ("Conv2D", (7, 6, 2), {"filters": 3, "kernel_size": (2, 4), "padding": "same", "strides": 2}),
    (
        "Conv2D",
        (2, 7, 6),
        {"filters": 3, "kernel_size": 3, "data_format": "channels_first", "use_bias": False},
    ),
    ("Conv3D", (4, 5, 3, 2), {"filters": 2, "kernel_size": 2, "padding": "same"}),
    ("DepthwiseConv1D", (9, 3), {"kernel_size": 3, "depth_multiplier": 2}),
    ("DepthwiseConv2D", (7, 6, 2), {"kernel_size": 2, "depth_multiplier": 3, "padding": "same"}),
    ("Conv1DTranspose", (5, 3), {"filters": 2, "kernel_size": 4, "strides": 3, "padding": "same"}),
    ("Conv2DTranspose", (3, 4, 2), {"filters": 3, "kernel_size": (3, 2), "strides": 2}),
    (
        "Conv2DTranspose",
        (3, 4, 2),
        {
            **{"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"},
            **{"output_padding": 1},
        },
    ),
]

ATTRIBUTES = {
    "pytorch": (
        *("kernel_size", "stride", "padding", "dilation", "groups", "transposed"),
        *("output_padding", "padding_mode"),
    ),
    "keras": (
        *("kernel_size", "strides", "padding", "dilation_rate", "groups", "data_format"),
        "output_padding",
    ),
}


def pytorch(name, shape, options):
    """A layer, its kernel, its bias, an input and what it makes of that."""
    import torch

    layer = getattr(torch.nn, name)(shape[0], **options)
    x = torch.randn(1, *shape)
    with torch.no_grad():
        y = layer(x)[0]
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    return layer, layer.weight.detach().numpy(), bias, x[0].numpy(), y.numpy()


def keras(name, shape, options):
    """The same of Keras."""
    import keras as library

    layer = getattr(library.layers, name)(bias_initializer="uniform", **options)
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    y = np.asarray(layer(x))[0]
    bias = None if layer.bias is None else np.asarray(layer.bias)
    return layer, np.asarray(layer.kernel), bias, x[0], y


def main(library):
    """Add the layers of a library to the file."""
    kept = {}
    if TARGET.exists():
        with np.load(TARGET) as file:
            kept = {key: file[key] for key in file.files if not key.startswith(library)}
    run, cases = {"pytorch": (pytorch, PYTORCH), "keras": (keras, KERAS)}[library]
    for number, (name, shape, options) in enumerate(cases):
        layer, kernel, bias, x, y = run(name, shape, options)
        has = {key: getattr(layer, key) for key in ATTRIBUTES[library] if hasattr(layer, key)}
        key = f"{library}_{number}_{name}"
        kept[f"{key}/attributes"] = np.array(json.dumps(has))
        kept |= {f"{key}/kernel": kernel, f"{key}/x": x, f"{key}/y": y}
        if bias is not None:
            kept[f"{key}/bias"] = bias
    np.savez_compressed(TARGET, **kept)


if __name__ == "__main__":
    main(sys.argv[1])
