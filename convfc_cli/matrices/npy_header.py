"""The header of an `.npy` array: written, and read from an untrusted file without trusting it."""

import io
from functools import lru_cache
from math import prod
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from convfc_cli.errors import MalformedInput

MAX_HEADER_BYTES = 2**14
"""A real header has 128."""

KINDS = "fiuUS"
"""Numbers and text, as NumPy tells kinds of dtypes apart."""

_UNREADABLE = (
    *(ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError),
    TokenError,
)
"""What NumPy raises for a header that is none: it is parsed as a Python literal."""


@lru_cache(maxsize=1024)
def header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Magic, version and header of a C-ordered array; its content begins at a multiple of 64."""
    out = io.BytesIO()
    description = {
        "descr": npy.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tuple(int(size) for size in shape),
    }
    npy.write_array_header_1_0(out, description)
    return out.getvalue()


@lru_cache(maxsize=1024)
def _parsed(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether it is in Fortran's order, dtype) by a header and its length before it."""
    return npy.read_array_header_1_0(io.BytesIO(content), max_header_size=MAX_HEADER_BYTES)


def read_header(
    file: IO[bytes], name: str, kinds: str = KINDS
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, dtype, bytes of the header); `file` then stands at the array's first byte.

    Raises `MalformedInput` unless it is a C-ordered array of one of these kinds whose size in
    bytes fits 63 bits: nothing that would be unpickled, nothing else.
    """
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            length = file.read(2)
            header = _parsed(length + file.read(int.from_bytes(length, "little")))
        elif version == (2, 0):
            header = npy.read_array_header_2_0(file, max_header_size=MAX_HEADER_BYTES)
        else:
            raise ValueError(f"npy version {version} is not read")
        shape, fortran, dtype = header
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120]
        raise MalformedInput(f"{name} is not an npy array: {reason}") from error
    if dtype.kind not in kinds or not dtype.itemsize or (fortran and len(shape) > 1):
        raise MalformedInput(f"{name} holds {dtype}, not a C-ordered array of plain numbers")
    sizes = [max(size, 1) if type(size) is int and size >= 0 else -1 for size in shape]
    if len(shape) > 32 or min(sizes, default=1) < 0 or prod(sizes) * dtype.itemsize >= 2**63:
        raise MalformedInput(f"{name} declares the shape {shape}")
    return shape, dtype, file.tell()
