"""What hypothesis draws: axes, whole layers, kernels with awkward values, layouts.

All sizes are small, so that brute force is quick; what matters is the strange corner, not the bulk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from convfc_cli import streams
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.layout import ORDERS, Layout
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.streams import SparseRows
from convfc_cli.taps import IndexMap
from tests.support import brute

Array = NDArray[Any]

DTYPES = (np.float32, np.float64)

SPECS = [Spec(Layout(order), transpose=way) for order in ORDERS for way in (False, True)]

every_spec = pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.layout.order}{'-T' * spec.transpose}"
)


def specs() -> st.SearchStrategy[Spec]:
    """Every order in either orientation."""
    return st.sampled_from(SPECS)


def rows_of(layer: Linear, spec: Spec, *, kernel_index: bool = False) -> SparseRows:
    """The rows of the matrix of a layer."""
    return Matrix(layer, spec).rows_of.matrix(spec.layout, kernel_index=kernel_index)


@st.composite
def axes(draw: Any, size: int = 7, kernel: int = 4) -> Axis:
    """An axis: half of them as a framework makes them, half any six numbers at all.

    Among the latter are outputs that no input reaches, inputs that no output reads, negative
    offsets (cropping), strides beyond the kernel and dilations beyond the inputs.
    """
    k = draw(st.integers(1, kernel))
    stride = draw(st.integers(1, 5))
    dilation = draw(st.integers(1, 4))
    inputs = draw(st.integers(1, size))
    reach = dilation * (k - 1) + 1
    if draw(st.booleans()):
        low = draw(st.integers(0, reach))
        high = draw(st.integers(0, reach))
        outputs = (inputs + low + high - reach) // stride + 1
        if 1 <= outputs <= size:
            return Axis(inputs, outputs, k, stride, dilation, low)
    outputs = draw(st.integers(1, size))
    return Axis(inputs, outputs, k, stride, dilation, draw(st.integers(-size, reach + 2)))


SPECIAL = {
    np.float32: np.array(
        [
            *(0x00000000, 0x80000000, 0x3F800000, 0xBF800000),  # 0, -0, 1, -1
            *(0x00000001, 0x80000001, 0x007FFFFF, 0x7F7FFFFF),  # subnormals, the largest
            *(0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345),  # infinities, quiet NaNs
            *(0x7F800001, 0xFFFFFFFF, 0x3F800001),  # a signalling NaN, all ones, 1 + ulp
        ],
        np.uint32,
    ),
    np.float64: np.array(
        [
            *(0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000),
            *(0x0000000000000001, 0x8000000000000001, 0x000FFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF),
            *(0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0xFFF8000012345678),
            *(0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x00000000FFFFFFFF, 0xFFFFFFFF00000000),
        ],
        np.uint64,
    ),
}


def kernel_of(shape: tuple[int, ...], dtype: Any, style: str, seed: int) -> Array:
    """Weights: all different, small integers, awkward ones, zeros for the most, any bits at all."""
    random = np.random.default_rng(seed)
    size = int(np.prod(shape))
    special = SPECIAL[dtype]
    if style == "distinct":
        return (random.permutation(size) + 1).astype(dtype).reshape(shape)
    if style == "integers":
        return random.integers(-9, 10, shape).astype(dtype)
    if style == "special":
        return random.choice(special, shape).view(dtype)
    if style == "zeros":
        return random.choice(np.repeat(special, [16, 8, *(len(special) - 2) * [1]]), shape).view(
            dtype
        )
    high = np.iinfo(special.dtype).max
    return random.integers(0, high, shape, special.dtype, endpoint=True).view(dtype)


STYLES = ("distinct", "integers", "special", "zeros", "bits")


@dataclass(frozen=True)
class Problem:
    """A layer drawn at random, with its brute-force account."""

    kernel: Array
    axes: tuple[Axis, ...]
    groups: int
    transposed: bool
    bias: Array | None

    @property
    def index_map(self) -> IndexMap:
        """The map under test."""
        return IndexMap(self.kernel.shape, self.axes, self.groups, self.transposed)

    @property
    def layer(self) -> Convolution:
        """The layer under test."""
        return Convolution(self.kernel, self.index_map, self.bias)

    def nonzeros(self) -> dict[Any, Any]:
        """{(output, input): kernel element} by brute force."""
        return brute.nonzeros(self.kernel.shape, self.axes, self.groups, self.transposed)

    def csr(self, spec: Spec) -> brute.Csr:
        """The matrix by brute force."""
        return brute.csr(
            *(self.kernel, self.axes, self.groups, self.transposed),
            *(spec.layout.order, spec.transpose),
        )


@st.composite
def problems(draw: Any, styles: tuple[str, ...] = STYLES) -> Problem:
    """A convolution or a transposed one, in one to three dimensions, with groups."""
    ndim = draw(st.sampled_from((1, 1, 2, 2, 2, 3)))
    size, taps = {1: (7, 4), 2: (5, 3), 3: (3, 2)}[ndim]
    spatial = tuple(draw(axes(size, taps)) for _ in range(ndim))
    groups = draw(st.integers(1, 3))
    most = 3 if ndim == 1 else 2
    near, depth = draw(st.integers(1, most)), draw(st.integers(1, most))
    dtype = draw(st.sampled_from(DTYPES))
    transposed = draw(st.booleans())
    shape = (near * groups, depth, *(axis.kernel for axis in spatial))
    style, seed = draw(st.sampled_from(styles)), draw(st.integers(0, 2**16))
    bias = None
    if draw(st.booleans()):
        channels = depth * groups if transposed else near * groups
        bias = kernel_of((channels,), dtype, style, seed + 1)
    return Problem(kernel_of(shape, dtype, style, seed), spatial, groups, transposed, bias)


STREAM_SIZES = st.sampled_from(
    [(1, 1, 1), (2, 3, 5), (8, 4, 16), (64, 1000, 64), (4096, 2**21, 2**16)]
)
"""(TEMPLATE, CACHED, BATCH): small ones, that a small tree crosses every path of `streams`."""


@contextmanager
def stream_sizes(sizes: tuple[int, int, int]) -> Iterator[None]:
    """Render streams with these sizes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("TEMPLATE", "CACHED", "BATCH"), sizes, strict=True):
            assert hasattr(streams, name)
            patch.setattr(streams, name, value)
        yield
