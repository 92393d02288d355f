"""Keras files of small models, each kernel with numbers that only it has."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import convfc_cli as convfc
from convfc_cli.models.entry import Entry
from tests.support.keras_files import Config, functional, given_input, layer, ramp, sequential

Array = NDArray[Any]

KERNEL, BIAS = ramp(2, 3, 2, 4), ramp(4, start=500)


def kernel_of(number: int) -> Array:
    """A kernel of 2 x 2, 2 to 2 channels, with numbers that only it has."""
    return ramp(2, 2, 2, 2, start=1 + 100 * number)


def conv(name: str, *sources: str, **config: Any) -> Config:
    """A Conv2D that fits KERNEL, and with `filters=2` those of `kernel_of`."""
    size = [2, 2] if config.get("filters") == 2 else [2, 3]
    return layer("Conv2D", name, *sources, **{"filters": 4, "kernel_size": size, **config})


def plain(name: str, *sources: str, **config: Any) -> Config:
    """A Conv2D that fits `kernel_of`, without a bias, its output as large as its input."""
    config = {"padding": "same", "use_bias": False, "kernel_size": 2, "filters": 2, **config}
    return layer("Conv2D", name, *sources, **config)


def model_of(*layers: Config) -> Config:
    return sequential(given_input("x", 5, 6, 2), *layers)


def check(entry: Entry, kernel: Array, bias: Array | None = None) -> None:
    """The layer holds this kernel, in Keras's order (y, x, in, out), and this bias."""
    found = entry.load()
    assert found.kernel.dtype in (np.float32, np.float64)
    assert np.array_equal(found.kernel, np.moveaxis(kernel, (3, 2), (0, 1)))
    if bias is None:
        assert found.bias is None
    else:
        assert found.bias is not None
        assert np.array_equal(found.bias, bias)


def nested(first: Config, second: Config) -> Config:
    """A model `top` of two models, one after the other, in a model."""
    top = functional(
        [
            given_input("t", 5, 6, 2),
            {**first, "inbound_nodes": [[["t", 0, 0, {}]]]},
            {**second, "inbound_nodes": [[[first["name"], 1, 0, {}]]]},
        ],
        [[second["name"], 1, 0]],
        name="top",
    )
    return functional(
        [given_input("x", 5, 6, 2), {**top, "inbound_nodes": [[["x", 0, 0, {}]]]}],
        [["top", 1, 0]],
    )


def inner(name: str, **config: Any) -> Config:
    """A model of a convolution `conv`."""
    layers = [given_input(f"{name}_in", 5, 6, 2), plain("conv", f"{name}_in", **config)]
    return functional(layers, ["conv"], name=name)


def names_and_kernels(path: Path) -> list[tuple[str, float]]:
    """Each layer's name, and the number of its kernel."""
    found = []
    for entry in convfc.read(path).entries:
        kernel = entry.load().kernel
        number = int(np.abs(kernel).min()) // 100
        expected = np.moveaxis(kernel_of(number), (3, 2), (0, 1))
        assert np.array_equal(kernel, expected)
        found.append((entry.name, number))
    return found


KERAS1: dict[str, Any] = {"nb_filter": 4, "nb_row": 2, "nb_col": 3, "border_mode": "valid"}
