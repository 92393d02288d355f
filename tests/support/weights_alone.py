"""Described kernels for the tests of weights alone, and what the command makes of them."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.cli_models import arrays, matrix_of, run
from tests.support.hdf5_files import ramp, weights

PLAIN = ["--weight", "conv.weight", "--kernel-order", "oihw", "--input-shape", "1,2,5,4"]
"""The plainest description of `state`."""


def state(folder: Path) -> Path:
    """A state dict of one layer with its bias, 3 x 2 x 3 x 2."""
    return weights(folder / "w.h5", {"conv.weight": ramp(3, 2, 3, 2), "conv.bias": ramp(3)})


def convert(path: Path, *options: object) -> dict[str, Any]:
    """What `convert` writes of a described layer, all arrays and the matrix as `M`."""
    done = run("convert", path, *options, "-o", "c.npz", "--force", "-q").succeeded()
    assert done.lines == ["c.npz"]
    return {**arrays(Path("c.npz")), "M": matrix_of(Path("c.npz"))}


def varied(given: list[Any], *more: Any) -> list[Any]:
    """Options with values, less those of which there is another among `more`; and `more`."""
    names = {str(option).partition("=")[0] for option in more}
    pairs = zip(given[::2], given[1::2], strict=True)
    return [*(part for pair in pairs if pair[0] not in names for part in pair), *more]


def describing(letters: str, stored: Any) -> list[object]:
    return ["--weight", stored, "--kernel-order", letters]


def stored_as(kernel: Any, letters: str, order: str) -> Any:
    """A kernel whose axes are `letters`, with its axes in another order."""
    return np.ascontiguousarray(kernel.transpose([letters.index(letter) for letter in order]))


def close(found: dict[str, Any], x: Any, y: Any) -> bool:
    """Whether M x + b is y, as far as float32 can tell."""
    made = found["M"].astype(np.float64) @ x.reshape(-1) + found.get("bias", np.float64(0))
    return made.shape == (y.size,) and bool(np.abs(made - y.reshape(-1)).max() < 1e-5)
