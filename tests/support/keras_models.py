"""Small Keras models of 2 x 2 convolutions, and what sizes convfc lists for them."""

from pathlib import Path
from typing import Any

import convfc_cli as convfc
from convfc_cli.models.entry import Entry
from tests.support.keras_files import Config, layer, legacy, ramp

KERNEL = ramp(2, 2, 2, 2)


def conv(name: str, *sources: Any, **config: Any) -> Config:
    """A Conv2D of 2 x 2, 2 to 2 channels, that makes an image smaller by 1."""
    config = {"filters": 2, "kernel_size": 2, "use_bias": False, **config}
    return layer("Conv2D", name, *sources, **config)


def point(name: str, channels: int, *sources: Any) -> tuple[Config, Any]:
    """(a convolution of 1 x 1 to one channel, its kernel): it shows what it is given."""
    item = layer("Conv2D", name, *sources, filters=1, kernel_size=1, use_bias=False)
    return item, ramp(1, 1, channels, 1)


def weights(*names: str, kernel: Any = KERNEL) -> dict[str, Any]:
    """The kernel for each of these top-level layers."""
    return {name: [(f"{name}/kernel:0", kernel)] for name in names}


def entries(folder: Path, model: Any, held: Any, shapes: Any = None) -> tuple[Entry, ...]:
    return convfc.read(legacy(folder / "m.h5", model, held), shapes).entries


def inputs(found: tuple[Entry, ...]) -> dict[str, Any]:
    """By output name, the (channels, *spatial) that each layer takes; None where it has none."""
    return {e.output: e.outline and e.outline.input_shape for e in found}


def operation(kind: str, name: str, *before: str, **config: Any) -> Any:
    return {**layer(kind, name, *before, **config), "module": "keras.src.ops.numpy"}


def held_by(name: str, *layers: str) -> dict[str, Any]:
    return {name: [(f"{layer}/kernel:0", KERNEL) for layer in layers]}
