"""Weights in an HDF5 file as numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import Unsupported
from convfc_cli.hdf5.tree import Dataset


def numbers(dataset: Dataset) -> NDArray[Any]:
    """The values, float32 or float64: narrower floats are widened exactly."""
    check_numbers(dataset)
    dtype, values = dtype_name(dataset), dataset.read()
    if dtype == "bfloat16":
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if dtype == "float16" else values


def bias(dataset: Dataset, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values as a vector of the kernel's dtype, which must hold them exactly."""
    wide = numbers(dataset).reshape(-1)
    with np.errstate(over="ignore"):
        values = wide.astype(dtype)
    if not np.array_equal(wide, values, equal_nan=True):
        raise Unsupported(
            f"the bias {dataset.path} is {wide.dtype}, and the kernel {dtype}, which does not hold "
            f"its values"
        )
    return values


def check_numbers(dataset: Dataset) -> None:
    """Raise `Unsupported` unless it holds floating-point numbers. None is read."""
    dtype = dtype_name(dataset)
    if dtype not in ("bfloat16", "float16", "float32", "float64"):
        raise Unsupported(f"{dataset.path} holds {dtype}: floating-point numbers are read")


def dtype_name(dataset: Dataset) -> str:
    """What the values are; HDF5 has no bfloat16, so Keras and others store two opaque bytes."""
    dtype = dataset.dtype
    if dtype.kind == "V" and dtype.itemsize == 2:
        return "bfloat16"
    return dataset.type_name if dtype.kind == "O" else str(dtype.name)
