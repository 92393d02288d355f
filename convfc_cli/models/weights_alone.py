"""Weights alone: datasets that may be kernels, and a convolution made of one and a description.

A dataset does not say which of its axes is which, nor how the kernel is applied. Neither is guessed
at: `candidates` lists what may be a kernel and says what is missing, `described` takes the one that
a person describes.

MATLAB (v7.3) stores arrays with their axes reversed, marks them with `MATLAB_class` and drops axes
of size 1 at the end. Here they have the shape that they have in MATLAB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np

from convfc_cli.arrays import Array
from convfc_cli.errors import GeometryError, SizeMissing, UsageError, WeightsAlone
from convfc_cli.geometry import Axis, convolution_axis, named_padding, transposed_axis
from convfc_cli.hdf5 import floats
from convfc_cli.hdf5.floats import check_numbers, dtype_name, numbers
from convfc_cli.hdf5.tree import Dataset
from convfc_cli.hints import Advice, Hint
from convfc_cli.layers.convolution import Convolution
from convfc_cli.models.entry import Entry, LayerSource, ResolvedLayer
from convfc_cli.models.request import Request, Shapes, WeightsSpec
from convfc_cli.models.sizes import GIVEN
from convfc_cli.naming import first_few
from convfc_cli.taps import IndexMap
from convfc_cli.vocabulary import PADS

SPATIAL = "dhw"
"""The letters of spatial axes, in the order in which tensors have them."""

EXAMPLES = {
    1: "oiw for PyTorch, wio for Keras",
    2: "oihw for PyTorch and Caffe, hwio for Keras, iohw for a transposed PyTorch layer",
    3: "oidhw for PyTorch, dhwio for Keras",
}

PAIRS = (
    ("weight", "bias"),
    ("kernel", "bias"),
    ("depthwise_kernel", "bias"),
    ("pointwise_kernel", "bias"),
    ("weights", "biases"),
    ("weights", "bias"),
    ("Weights", "Bias"),
    ("W", "b"),
    ("w", "b"),
    ("0", "1"),
)
"""How files call a kernel, and the bias that lies beside it."""


MAX_NAMES, MAX_NAME_LENGTH = 2000, 200
"""Names that are compared with the one the user gave, and characters of each: two short names take
a millisecond, long ones more than in proportion."""


class Tree(Protocol):
    """What holds the datasets: a file's root, or several together."""

    def walk(self) -> Iterator[Dataset]:
        """Yield all datasets, in the order of the file."""

    def dataset(self, name: str) -> Dataset | None:
        """Return the dataset of this name, or None."""


@dataclass(frozen=True)
class Weight:
    """A dataset as its makers see it."""

    dataset: Dataset

    @property
    def name(self) -> str:
        """The path of the dataset."""
        return self.dataset.path.removeprefix("/")

    @property
    def is_matlab(self) -> bool:
        """Whether MATLAB wrote it, with its axes the other way round."""
        return isinstance(self.dataset.attribute("MATLAB_class"), str)

    def shape(self, rank: int = 0) -> tuple[int, ...]:
        """Its shape; MATLAB's with axes of size 1 at the end, up to `rank`."""
        if not self.is_matlab:
            return self.dataset.shape
        shape = self.dataset.shape[::-1]
        return shape + (1,) * (rank - len(shape))

    def read(self, rank: int = 0) -> Array:
        """Its values, as float32 or float64, in that shape."""
        values = numbers(self.dataset)
        return (values.transpose() if self.is_matlab else values).reshape(self.shape(rank))


def candidates(tree: Tree) -> tuple[Entry, ...]:
    """An entry for each dataset that may be a kernel: of three to five axes, no kernel's bias, and
    not what an optimizer keeps. None can be converted before it is described.
    """
    kernels: list[tuple[Weight, str | None]] = []
    for dataset in tree.walk():
        weight = Weight(dataset)
        shape = weight.shape()
        is_kernel = 3 <= len(shape) <= 5 and 0 not in shape and dataset.dtype.kind in "fV"
        if is_kernel and not _is_optimizers(dataset):
            kernels.append((weight, next(_biases(tree, weight), None)))
    biases = {bias for _, bias in kernels}
    return tuple(
        Entry(
            position,
            weight.name,
            weight.name,
            "weights",
            error=WeightsAlone(
                f"its file does not say what its axes are, nor how it is used: describe that, "
                f"and the size of its input (bias: {bias or 'none'})",
                _example(tree, weight, bias),
            ),
            stored=weight.shape(),
            weight=weight.name,
            dtype=dtype_name(weight.dataset),
        )
        for position, (weight, bias) in enumerate(
            (weight, bias) for weight, bias in kernels if weight.name not in biases
        )
    )


def _example(tree: Tree, weight: Weight, bias: str | None) -> Request:
    """A description that would do, for instance: with an order that such names often have, and by
    which the layer has an output channel for each value of the bias.
    """
    name, shape = weight.name, weight.shape()
    spatial = SPATIAL[5 - len(shape) :]
    orders = [f"oi{spatial}", f"io{spatial}"]
    if "kernel" in name or "/vars/" in name or weight.is_matlab:
        orders = [f"{spatial}io", f"{spatial}oi", f"{spatial}im"]
        orders.sort(key=lambda order: "depthwise" in name and "m" not in order)
    beside = tree.dataset(bias) if bias else None
    for order in orders:
        sizes = dict(zip(order, shape, strict=True))
        outputs = sizes["o"] if "o" in sizes else sizes["i"] * sizes["m"]
        if beside is None or prod(beside.shape) == outputs:
            break
    else:
        order, sizes, bias = orders[0], dict(zip(orders[0], shape, strict=True)), None
    size = 64
    while size < max(sizes[letter] for letter in spatial):
        size *= 2
    transposed = order in (f"io{spatial}", f"{spatial}oi")
    spec = WeightsSpec(name, order, bias=bias or "", transposed=transposed)
    return Request({None: (1, sizes["i"], *(size,) * len(spatial))}, spec)


def _is_optimizers(dataset: Dataset) -> bool:
    return dataset.path.split("/")[1].startswith("optimizer")


def described(tree: Tree, spec: WeightsSpec, shapes: Shapes) -> tuple[Entry, ...]:
    """The one layer that is described. Raises `UsageError` where the description does not fit."""
    weight = _weight(tree, spec.weight)
    bias = _bias(tree, spec, weight)
    return (entry(0, weight.name, weight, bias, spec, _own(shapes, weight.name)),)


def entry(
    position: int,
    name: str,
    weight: Weight,
    bias: Weight | None,
    spec: WeightsSpec,
    input_shape: tuple[int, ...] | None,
) -> Entry:
    """The entry of a described layer on an input of (channels, *spatial), None where it is open."""
    geometry = Geometry.of(spec, weight.shape(len(spec.order)))
    check_numbers(weight.dataset)
    if bias is not None:
        check_numbers(bias.dataset)
        shape = bias.shape()
        if prod(shape) != geometry.outputs or max(shape, default=1) != geometry.outputs:
            raise UsageError(
                f"the bias {bias.name} has the shape {shape}, the layer {geometry.outputs} output "
                f"channels"
            )
    op = "ConvTranspose" if spec.transposed else "Conv"
    dtype, source = dtype_name(weight.dataset), DescribedLayer(geometry, weight, bias, input_shape)
    draft = partial(Entry, position, name, name, op, source=source, weight=weight.name, dtype=dtype)
    try:
        return draft(resolved=source.listed())
    except SizeMissing as error:
        return draft(error=error)


@dataclass(frozen=True)
class Geometry:
    """A description, held to the shape of the stored kernel."""

    spec: WeightsSpec
    stored: tuple[int, ...]
    rank: int
    sizes: dict[str, int]
    """What each letter of the order means."""

    @classmethod
    def of(cls, spec: WeightsSpec, stored: tuple[int, ...]) -> "Geometry":
        """Raises `UsageError` where the order is none, or does not fit the shape."""
        letters = spec.order.lower()
        rank = sum(letter in SPATIAL for letter in letters)
        spatial = SPATIAL[3 - rank :]
        wanted = {frozenset(f"oi{spatial}"), frozenset(f"im{spatial}")}
        examples = EXAMPLES.get(rank, EXAMPLES[2])
        if not 1 <= rank <= 3 or len(set(letters)) != len(letters) or set(letters) not in wanted:
            raise UsageError(
                f"the kernel order {spec.order!r} must name each axis once: o and i (or i and m "
                f"for depthwise) and {spatial or 'hw'}, such as {examples}"
            )
        if len(stored) != len(letters):
            raise UsageError(
                f"the kernel order {spec.order} names {len(letters)} axes; {spec.weight} has "
                f"{len(stored)}, {stored}"
            )
        if "m" in letters and (spec.transposed or spec.groups != 1):
            raise UsageError("a depthwise order (with m) goes without transposed and groups")
        for option in ("stride", "dilation", "output_padding"):
            _per_axis(getattr(spec, option), rank, option)
        if not isinstance(spec.pad, str):
            _per_axis(spec.pad, rank, "pad")
        elif spec.transposed:
            raise UsageError(
                f"the padding {spec.pad} is ambiguous for a transposed convolution: give numbers"
            )
        elif spec.pad not in PADS:
            raise UsageError(f"the padding {spec.pad!r} is not one of {', '.join(PADS)}")
        if any(spec.output_padding) and not spec.transposed:
            raise UsageError("an output padding goes with a transposed convolution")
        return cls(spec, stored, rank, dict(zip(letters, stored, strict=True)))

    @property
    def groups(self) -> int:
        """Parts of the channels that are convolved apart."""
        return self.sizes["i"] if "m" in self.sizes else self.spec.groups

    @property
    def channels(self) -> int:
        """The channels of the layer's input."""
        shared = self.spec.groups if not self.spec.transposed else 1
        return self.sizes["i"] * shared

    @property
    def outputs(self) -> int:
        """The channels of its output."""
        if "m" in self.sizes:
            return self.sizes["i"] * self.sizes["m"]
        return self.sizes["o"] * (self.spec.groups if self.spec.transposed else 1)

    def enough(self) -> tuple[int, ...]:
        """An input of (channels, *spatial) that is large enough, for instance.

        Raises `UsageError` where none is, whatever its size.
        """
        size = 64
        while True:
            try:
                return self.index_map((self.channels, *(size,) * self.rank)).input_shape
            except UsageError:
                if size >= 2**20:
                    raise
            size *= 2

    def index_map(self, shape: Sequence[int]) -> IndexMap:
        """All of the layer but its weights, over an input of (channels, *spatial)."""
        if len(shape) != self.rank + 1 or shape[0] != self.channels:
            raise UsageError(
                f"{GIVEN} 1,{','.join(map(str, shape))} does not fit {self.spec.weight}: its "
                f"kernel of {self.stored} in the order {self.spec.order} with groups "
                f"{self.groups} reads 1,{self.channels} and {self.rank} spatial sizes, batch and "
                f"channels first"
            )
        spatial = SPATIAL[3 - self.rank :]
        kernel = [self.sizes[letter] for letter in spatial]
        try:
            axes = tuple(map(self._axis, shape[1:], kernel, range(self.rank)))
            if "m" in self.sizes:
                first, second = self.outputs, 1
            elif self.spec.transposed:
                first, second = self.sizes["i"], self.sizes["o"]
            else:
                first, second = self.sizes["o"], self.sizes["i"]
            return IndexMap((first, second, *kernel), axes, self.groups, self.spec.transposed)
        except GeometryError as error:
            raise UsageError(f"{self.spec.weight}: {error}") from error

    def _axis(self, inputs: int, kernel: int, axis: int) -> Axis:
        spec, rank = self.spec, self.rank
        stride = _per_axis(spec.stride, rank, "")[axis]
        dilation = _per_axis(spec.dilation, rank, "")[axis]
        if isinstance(spec.pad, str):
            low, high = named_padding(spec.pad, inputs, kernel, stride, dilation)
        else:
            low, high = _per_axis(spec.pad, rank, "")[axis]
        if not spec.transposed:
            return convolution_axis(inputs, kernel, stride, dilation, low, high)
        extra = _per_axis(spec.output_padding, rank, "")[axis]
        return transposed_axis(inputs, kernel, stride, dilation, low, high, extra)

    def load(self, index: IndexMap, weight: Weight, bias: Weight | None) -> Convolution:
        """The layer with its weights."""
        kernel = weight.read(len(self.spec.order))
        letters = self.spec.order.lower()
        first = "im" if "m" in letters else "io" if self.spec.transposed else "oi"
        wanted = first + SPATIAL[3 - self.rank :]
        kernel = kernel.transpose([letters.index(letter) for letter in wanted])
        values = None if bias is None else floats.bias(bias.dataset, kernel.dtype)
        return Convolution(np.ascontiguousarray(kernel).reshape(index.kernel_shape), index, values)


@dataclass(frozen=True, slots=True)
class DescribedLayer(LayerSource):
    """A described layer, with the input that it is given."""

    geometry: Geometry
    weight: Weight
    bias: Weight | None
    input_shape: tuple[int, ...] | None

    def listed(self) -> ResolvedLayer:
        if self.input_shape is not None:
            return self.at(self.input_shape)
        channels = self.geometry.channels
        hint = ",".join(map(str, (1, *self.geometry.enough())))
        raise SizeMissing(f"its file does not say the size of its input, {channels} channels", hint)

    def at(self, input_shape: tuple[int, ...]) -> ResolvedLayer:
        index = self.geometry.index_map(input_shape)
        load = partial(self.geometry.load, index, self.weight, self.bias)
        return ResolvedLayer(index, load, dtype_name(self.weight.dataset))


def _per_axis(values: Sequence[Any], rank: int, option: str) -> Sequence[Any]:
    """One value for each axis: as they are, or one for all."""
    if len(values) == 1:
        return tuple(values) * rank
    if len(values) != rank:
        raise UsageError(f"{option} has {len(values)} values for {rank} spatial axes")
    return values


def _own(shapes: Shapes, name: str) -> tuple[int, ...] | None:
    """(channels, *spatial) of the layer's input, as it is given."""
    if len(shapes) > 1:
        raise UsageError(f"{len(shapes)} shapes are given; there is one layer, {name}")
    for tensor, shape in shapes.items():
        if tensor not in (None, name):
            raise UsageError(f"{GIVEN} names {tensor!r}; the layer is {name!r}")
        if len(shape) < 3:
            raise UsageError(f"{GIVEN} {','.join(map(str, shape))}: give 1,C,H,W")
        return tuple(shape[1:])
    return None


def _weight(tree: Tree, name: str) -> Weight:
    dataset = tree.dataset(name.strip("/"))
    if dataset is not None:
        return Weight(dataset)
    paths = [other.path.removeprefix("/") for other in tree.walk()]
    close = [path for path in paths if name.strip("/") in path][:3] if name.strip("/") else []
    short = [path for path in paths[:MAX_NAMES] if len(path) <= MAX_NAME_LENGTH]
    close = close or get_close_matches(name, short, n=3, cutoff=0.5)
    named = ", ".join(close) or first_few(paths, 4) or "none"
    raise UsageError(f"the file has no dataset {name!r}; there are {named}")


def _bias(tree: Tree, spec: WeightsSpec, weight: Weight) -> Weight | None:
    """The bias that is described. Where the description leaves it out and one lies beside the
    kernel, that is an error: it is not silently dropped.
    """
    if spec.bias:
        return _weight(tree, spec.bias)
    if spec.bias is None:
        for name in _biases(tree, weight):
            raise UsageError(
                f"{name} lies beside {weight.name}, and may be its bias",
                Hint(Advice.BIAS, (name,)),
            )
    return None


def _biases(tree: Tree, weight: Weight) -> Iterator[str]:
    """What may be the bias of a kernel: it lies beside it, is called so, and is a vector."""
    for name in _beside(weight.name):
        dataset = tree.dataset(name)
        if dataset is not None and 0 < prod(dataset.shape) == max(dataset.shape, default=0):
            yield name


def _beside(name: str) -> Iterator[str]:
    """Where the bias of a kernel of this name would lie."""
    for kernel, bias in PAIRS:
        for suffix in ("", ":0"):
            before = name.removesuffix(kernel + suffix)
            if before != name and before[-1:] in ("", "/", ".", "" if kernel == "0" else "_"):
                yield before + bias + suffix
