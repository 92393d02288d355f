"""Layers of every kind drawn at random, each with its brute-force account."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.locally_connected import LocallyConnected
from convfc_cli.layers.product import Product
from convfc_cli.layers.tied import TiedLinear
from convfc_cli.matrices.matrix import Spec
from convfc_cli.taps import IndexMap
from tests.support import brute
from tests.support.strategies import STYLES, kernel_of

Array = NDArray[Any]
Shape = tuple[int, ...]

LARGEST = 36
"""Elements of a tensor that is drawn."""


@dataclass(frozen=True)
class Case:
    """A layer whose entries are copies of weights, and which entries they are."""

    layer: TiedLinear
    entries: brute.Entries
    kernel: Array
    bias: Array | None
    """As many axes as the output, each with its size or 1."""

    input_shape: Shape
    output_shape: Shape

    def csr(self, spec: Spec) -> brute.Csr:
        """The matrix by brute force."""
        shapes = self.output_shape, self.input_shape
        return brute.placed(self.entries, self.kernel, *shapes, spec.layout.order, spec.transpose)

    def bias_tensor(self) -> Array:
        """The bias of each output."""
        bias = np.zeros(1, self.kernel.dtype) if self.bias is None else self.bias
        return np.broadcast_to(bias, self.output_shape)

    @cached_property
    def read(self) -> dict[Any, list[Any]]:
        """What each output reads."""
        found: dict[Any, list[Any]] = {}
        for output, source in self.entries:
            found.setdefault(output, []).append(source)
        return found


@dataclass(frozen=True)
class Chain:
    """Layers one after another, and the paths through them."""

    cases: tuple[Case, ...]

    @cached_property
    def layer(self) -> Product:
        """The layer under test."""
        return Product([case.layer for case in self.cases])

    @cached_property
    def paths(self) -> brute.Paths:
        """{(output, input): the products of the weights along each path}"""
        return brute.chained([brute.valued(case.entries, case.kernel) for case in self.cases])

    @property
    def input_shape(self) -> Shape:
        """That of the first."""
        return self.cases[0].input_shape

    @property
    def output_shape(self) -> Shape:
        """That of the last."""
        return self.cases[-1].output_shape

    def values(self) -> dict[Any, Fraction]:
        """{(output, input): the entry, exactly}"""
        return {pair: sum(ways, Fraction(0)) for pair, ways in self.paths.items()}

    def magnitudes(self) -> dict[Any, Fraction]:
        """{(output, input): the magnitudes of its terms, added up}"""
        return {pair: sum(map(abs, ways), Fraction(0)) for pair, ways in self.paths.items()}

    def bias_tensor(self) -> Array:
        """The bias of the first through all others, and theirs added, exactly."""
        bias = np.zeros(self.input_shape, object)
        for case in self.cases:
            paths = brute.valued(case.entries, case.kernel)
            values = {pair: ways[0] for pair, ways in paths.items()}
            bias = brute.applied(values, bias, case.output_shape)
            bias = bias + np.vectorize(Fraction, otypes=[object])(case.bias_tensor())
        return bias


def shapes(least: int = 1) -> st.SearchStrategy[Shape]:
    """The shape of a tensor of few elements."""
    sizes = st.lists(st.integers(1, 4), min_size=least, max_size=4).map(tuple)
    return sizes.filter(lambda shape: prod(shape) <= LARGEST)


@dataclass(frozen=True)
class Weights:
    """How the weights of a layer are to be."""

    dtype: Any
    style: str
    seed: int

    def of(self, shape: Shape, more: int = 0) -> Array:
        """Weights of a shape."""
        if self.dtype is np.int32:
            random = np.random.default_rng(self.seed + more)
            return random.integers(-(2**31), 2**31, shape).astype(np.int32)
        return kernel_of(shape, self.dtype, self.style, self.seed + more)


@st.composite
def weights(draw: Any, styles: tuple[str, ...] = STYLES, dtypes: Any = (np.float32,)) -> Weights:
    """Any weights of these styles and dtypes."""
    dtype, style = draw(st.sampled_from(dtypes)), draw(st.sampled_from(styles))
    return Weights(dtype, style, draw(st.integers(0, 2**16)))


def _bias(draw: Any, made: Weights, shape: Shape) -> Array | None:
    """None, or a bias of this shape."""
    return made.of(shape, 1) if draw(st.booleans()) else None


def _thinned(draw: Any, shape: Shape) -> Shape:
    """The shape with some of its sizes 1."""
    return tuple(size if draw(st.booleans()) else 1 for size in shape)


@st.composite
def gathers(draw: Any, made: Weights, shape: Shape | None = None) -> Case:
    """Any sources at all: repeated, -1, all -1."""
    shape = draw(shapes()) if shape is None else shape
    other, transposed = draw(shapes()), draw(st.booleans())
    near, far = (shape, other) if transposed else (other, shape)
    random = np.random.default_rng(made.seed)
    most = draw(st.sampled_from([0, 2, prod(far)]))
    source = random.integers(-1, min(most, prod(far)), near)
    if draw(st.booleans()):
        source = np.sort(source, axis=None)[::-1].reshape(near)
    source = source.astype(draw(st.sampled_from([np.int64, np.int32])))
    one = np.ones(1, made.dtype)
    layer = Gather(far, source, transposed=transposed, kernel=one)
    entries = brute.gather(source, far, transposed)
    return Case(layer, entries, one, None, *((near, far) if transposed else (far, near)))


@st.composite
def diagonals(draw: Any, made: Weights, shape: Shape | None = None) -> Case:
    """A number for each channel, for each place, or anything between."""
    shape = draw(shapes()) if shape is None else shape
    kernel = made.of(_thinned(draw, shape))
    bias = _bias(draw, made, _thinned(draw, shape))
    entries = brute.diagonal(kernel.shape, shape)
    return Case(Diagonal(kernel, shape, bias), entries, kernel, bias, shape, shape)


@st.composite
def denses(draw: Any, made: Weights, shape: Shape | None = None) -> Case:
    """Along any axis of a tensor, either way round."""
    shape = draw(shapes()) if shape is None else shape
    axis, size = draw(st.integers(0, len(shape) - 1)), draw(st.integers(1, 4))
    before, after = shape[:axis], shape[axis + 1 :]
    transposed = draw(st.booleans())
    kernel = made.of((shape[axis], size) if transposed else (size, shape[axis]))
    output_shape = (*before, size, *after)
    bias = _bias(draw, made, _thinned(draw, output_shape))
    layer = Dense(kernel, before, after, bias, transposed=transposed)
    entries = brute.dense(kernel.shape, before, after, transposed)
    return Case(layer, entries, kernel, bias, shape, output_shape)


def _axis(draw: Any, size: int, transposed: bool) -> Axis:
    """An axis that reads so many places: any six numbers."""
    other = draw(st.integers(1, 4))
    inputs, outputs = (other, size) if transposed else (size, other)
    kernel, stride, dilation = (draw(st.integers(1, most)) for most in (3, 3, 2))
    return Axis(inputs, outputs, kernel, stride, dilation, draw(st.integers(-3, 4)))


def spatial(shape: Shape | None) -> st.SearchStrategy[Shape]:
    """The shape that is given, or one with channels and one to three axes."""
    if shape is not None:
        return st.just(shape)
    return shapes(least=2)


@st.composite
def locals_(draw: Any, made: Weights, shape: Shape | None = None) -> Case:
    """One to three axes, each any six numbers, either way round."""
    channels, *sizes = draw(spatial(shape))
    transposed, other = draw(st.booleans()), draw(st.integers(1, 2))
    axes = tuple(_axis(draw, size, transposed) for size in sizes)
    depth = (channels, other) if transposed else (other, channels)
    kernel = made.of((*depth, *(a.outputs for a in axes), *(a.kernel for a in axes)))
    near = (depth[0], *(axis.outputs for axis in axes))
    far = (depth[1], *(axis.inputs for axis in axes))
    both = (near, far) if transposed else (far, near)
    bias = _bias(draw, made, both[1])
    layer = LocallyConnected(kernel, axes, bias, transposed=transposed)
    return Case(layer, brute.local(kernel.shape, axes, transposed), kernel, bias, *both)


@st.composite
def convolutions(draw: Any, made: Weights, shape: Shape | None = None) -> Case:
    """One to three axes, each any six numbers, with groups, either way round."""
    channels, *sizes = draw(spatial(shape))
    transposed, other = draw(st.booleans()), draw(st.integers(1, 2))
    groups = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0]))
    axes = tuple(_axis(draw, size, transposed) for size in sizes)
    depth = (channels, other) if transposed else (other * groups, channels // groups)
    kernel = made.of((*depth, *(axis.kernel for axis in axes)))
    made_shape, read = brute.tensor_shapes(kernel.shape, axes, groups, transposed)
    bias = _bias(draw, made, made_shape[:1])
    layer = Convolution(kernel, IndexMap(kernel.shape, axes, groups, transposed), bias)
    entries = brute.nonzeros(kernel.shape, axes, groups, transposed)
    wide = None if bias is None else bias.reshape(-1, *(1,) * len(axes))
    return Case(layer, entries, kernel, wide, read, made_shape)


KINDS = {
    "gather": gathers,
    "diagonal": diagonals,
    "dense": denses,
    "locally-connected": locals_,
    "convolution": convolutions,
}


@st.composite
def copies(
    draw: Any,
    kind: str = "",
    styles: tuple[str, ...] = STYLES,
    dtypes: Any = (np.float32, np.float64, np.int32),
) -> Case:
    """A layer of this kind, of any kind by default, with weights of these styles and dtypes."""
    kind = kind or draw(st.sampled_from(sorted(KINDS)))
    return draw(KINDS[kind](draw(weights(styles, dtypes))))


@st.composite
def chains(draw: Any, styles: tuple[str, ...] = ("integers", "zeros of integers")) -> Chain:
    """Two to four layers of any kinds, each of which takes what the one before it makes."""
    found: list[Case] = []
    shape: Shape | None = None
    for _ in range(draw(st.integers(2, 4))):
        kinds = [k for k in KINDS if shape is None or 2 <= len(shape) <= 4 or k not in SPATIAL]
        if shape is not None and prod(shape) > LARGEST:
            kinds = ["gather"]
        kind = KINDS[draw(st.sampled_from(kinds))]
        dtype = draw(st.sampled_from([np.float32, np.float32, np.float64]))
        style = draw(st.sampled_from(styles))
        made = Whole(dtype, style, draw(st.integers(0, 2**16)))
        found.append(draw(kind(made, shape)))
        shape = found[-1].output_shape
    return Chain(tuple(found))


SPATIAL = ("convolution", "locally-connected")


@dataclass(frozen=True)
class Whole(Weights):
    """Weights of which sums of products are exact in float64, or reals."""

    def of(self, shape: Shape, more: int = 0) -> Array:
        random = np.random.default_rng(self.seed + more)
        if self.style == "reals":
            return random.standard_normal(shape).astype(self.dtype)
        most = 2 if self.style == "zeros of integers" else 10
        return random.integers(-most + 1, most, shape).astype(self.dtype)
