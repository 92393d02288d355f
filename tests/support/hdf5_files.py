"""HDF5 files of weights, written by h5py alone, and what a convolution is, by loops.

`matrix` is the definition: no code of the package has a part in it, and the sizes of outputs are
counted, not computed. `recorded` is what the frameworks themselves wrote (tests/data/make_*.py).
"""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.support.paths import DATA

Array = NDArray[Any]
Sizes = tuple[int, ...]
Pads = Sequence[tuple[int, int]]

RECORDED = DATA / "recorded" / "hdf5"


def ramp(*shape: int, dtype: Any = np.float32) -> Array:
    """Integers that are all different, none of them zero, of both signs."""
    count = np.arange(1, prod(shape) + 1)
    return (count * np.where(count % 3 == 1, -1, 1)).reshape(shape).astype(dtype)


def weights(path: Path, datasets: Mapping[str, Any], **options: Any) -> Path:
    """A file of datasets; groups are made of the slashes in their names."""
    with h5py.File(path, "w", **options) as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def matlab(path: Path, variables: Mapping[str, Array]) -> Path:
    """MATLAB v7.3: a block of 512 bytes first, classes as attributes, no 1s at the end of a shape,
    all axes reversed, and never less than two.
    """
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in variables.items():
            shape = values.shape
            while len(shape) > 2 and shape[-1] == 1:
                shape = shape[:-1]
            shape += (1,) * (2 - len(shape))
            kind = {"float32": "single", "float64": "double"}.get(str(values.dtype), "int32")
            file[name] = values.reshape(shape).T
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
    with open(path, "r+b") as file:
        text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Fri Nov 20 2026"
        file.write(text.ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def node(weight: Array, /, **changed: Any) -> dict[str, Any]:
    """A NIR convolution; `None` leaves a field out."""
    fields = {
        "type": f"Conv{weight.ndim - 2}d",
        "weight": weight,
        "bias": ramp(len(weight)),
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        **changed,
    }
    return {name: value for name, value in fields.items() if value is not None}


def nir(path: Path, nodes: Mapping[str, Any]) -> Path:
    """A NIR graph; a node that holds `nodes` is a graph."""

    def put(group: h5py.Group, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if isinstance(value, Mapping):
                put(group.create_group(name), value)
            elif isinstance(value, str):
                group.create_dataset(name, data=value, dtype=h5py.string_dtype())
            else:
                group[name] = value

    with h5py.File(path, "w") as file:
        put(file, {"version": "1.0.8", "node": {"type": "NIRGraph", "nodes": nodes}})
    return path


def sharded(path: Path, files: Any) -> Path:
    """The JSON of sharded weights: `files` by the groups that they hold."""
    path.write_text(json.dumps({"metadata": {"total_size": 1.0}, "weight_map": files}))
    return path


def recorded(name: str, folder: Path) -> dict[str, Array]:
    """What was recorded: files are put into `folder`, arrays given back."""
    arrays = {}
    with np.load(RECORDED / f"{name}.npz") as found:
        for key in found.files:
            if key.endswith((".nir", ".h5", ".keras", ".json")):
                (folder / Path(key).name).write_bytes(found[key].tobytes())
            else:
                arrays[key] = found[key]
    return arrays


def outputs(size: int, kernel: int, stride: int, dilation: int, low: int, high: int) -> int:
    """How many windows fit, counted individually."""
    found = 0
    while found * stride + (kernel - 1) * dilation < size + low + high:
        found += 1
    return found


def matrix(
    kernel: Array,
    sizes: Sizes,
    *,
    stride: Sizes = (),
    dilation: Sizes = (),
    pads: Pads = (),
    groups: int = 1,
    transposed: bool = False,
    extra: Sizes = (),
) -> tuple[Array, Sizes]:
    """Every entry of M, and the output's shape. `kernel` is (out, in/groups, *spatial), that of a
    transposed layer (in, out/groups, *spatial); `sizes` are the spatial ones of the input.
    """
    rank = kernel.ndim - 2
    stride, dilation = stride or (1,) * rank, dilation or (1,) * rank
    pads, extra = pads or ((0, 0),) * rank, extra or (0,) * rank
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[2:], strict=True)]
    if transposed:
        channels_in, channels_out = kernel.shape[0], kernel.shape[1] * groups
        spread = [(n - 1) * s + e for n, s, e in zip(sizes, stride, span, strict=True)]
        last = [m + x - sum(p) for m, x, p in zip(spread, extra, pads, strict=True)]
    else:
        channels_in, channels_out = kernel.shape[1] * groups, kernel.shape[0]
        last = [
            outputs(n, k, s, d, *p)
            for n, k, s, d, p in zip(sizes, kernel.shape[2:], stride, dilation, pads, strict=True)
        ]
    shape = (channels_out, *last)
    found = np.zeros((*shape, channels_in, *sizes), kernel.dtype)
    for c, b in product(range(channels_out), range(channels_in)):
        group = c // (channels_out // groups)
        if group != b // (channels_in // groups):
            continue
        own = (
            (b, c - group * (channels_out // groups))
            if transposed
            else (c, b - group * (channels_in // groups))
        )
        for t in product(*map(range, kernel.shape[2:])):
            # A convolution's windows start at its outputs, a transposed one's at its inputs.
            for start in product(*map(range, sizes if transposed else last)):
                other = tuple(
                    o * s + x * d - low
                    for o, s, x, d, (low, _) in zip(start, stride, t, dilation, pads, strict=True)
                )
                there = last if transposed else sizes
                if all(0 <= i < n for i, n in zip(other, there, strict=True)):
                    y, x = (other, start) if transposed else (start, other)
                    found[(c, *y, b, *x)] = kernel[(*own, *t)]
    return found.reshape(prod(shape), channels_in * prod(sizes)), shape
