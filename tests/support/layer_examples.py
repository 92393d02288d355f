"""Layers of every kind that several tests share."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convfc_cli.geometry import Axis
from convfc_cli.layers.blockwise import BlockRows
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.locally_connected import LocallyConnected
from convfc_cli.layers.product import Product
from convfc_cli.layers.tied import TiedLinear
from convfc_cli.matrices import registry
from convfc_cli.streams import Stream
from tests.support.kinds import KINDS

Array = NDArray[Any]
F32 = np.float32
NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]
many_examples = settings(max_examples=max(40, settings().max_examples // 2))
some_examples = settings(max_examples=max(25, settings().max_examples // 4))
few_examples = settings(max_examples=max(10, settings().max_examples // 8))
every_kind = pytest.mark.parametrize("kind", KINDS)
SEEDS = st.integers(0, 999)


def same_bits(one: Array, other: Array) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


def block_sizes(patch: pytest.MonkeyPatch, most: int) -> None:
    """Make rows in blocks of about so many entries, and go through arrays by as many."""
    patch.setattr(BlockRows.of.__func__, "__defaults__", (most,))
    patch.setattr(Stream.chunks, "__defaults__", (most,))


ENDS = Dense(np.array([[1, 1], [1, -1]], F32), bias=np.array([3, 4], F32))
AXIS = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
EXAMPLES: dict[str, TiedLinear] = {
    "gather": Gather((2, 3), np.array([[1, 5, -1], [1, 0, 2]])),
    "gather transposed": Gather((2, 3), np.array([[1, 5, -1], [1, 0, 2]]), transposed=True),
    "diagonal": Diagonal(np.array([[2], [3]], F32), (2, 3), np.array([[1], [-1]], F32)),
    "dense": Dense(np.arange(6, dtype=F32).reshape(2, 3), (2,), (), np.ones((1, 2), F32)),
    "dense transposed": Dense(np.arange(6, dtype=F32).reshape(2, 3), transposed=True),
    "local": LocallyConnected(np.arange(1, 9, dtype=F32).reshape(1, 2, 2, 2), (AXIS,)),
    "local transposed": LocallyConnected(
        np.arange(1, 9, dtype=F32).reshape(1, 2, 2, 2),
        (AXIS,),
        np.arange(6, dtype=F32).reshape(2, 3),
        transposed=True,
    ),
    "int32": Dense(np.array([[2**31 - 1, -(2**31)], [0, 7]], np.int32), bias=np.ones(2, np.int32)),
}

LAYERS: dict[str, Linear] = {
    **EXAMPLES,
    "product": Product([EXAMPLES["gather"], EXAMPLES["diagonal"], EXAMPLES["dense"]]),
}

every_layer = pytest.mark.parametrize("name", LAYERS)
