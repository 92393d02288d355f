"""The index map: which output reads which input through which kernel element.

A triple (o, i, t) of one axis with i = o * stride + t * dilation - offset, all three in range, is
a *tap* (Eq. 8 of Ma & Lu 2017). A convolution's nonzeros are the products of its axes' taps, over
the channels of each group: the matrix entry in row (c, o1, .., oN) and column (b, i1, .., iN) is
the kernel element (c, b - g * C/G, t1, .., tN), and every other entry is a structural zero.

Of an axis, `row_taps` gives one row's taps in closed form, and `segments` all rows as at most
2k + 1 stretches in which the taps repeat. `IndexMap` is the relation of the whole layer, both ways.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from math import gcd, prod

from convfc_cli.errors import GeometryError
from convfc_cli.geometry import MAX_SIZE, Axis
from convfc_cli.outline import TEXT, Kept

Index = tuple[int, ...]

AXIS = 14
"""Characters that an axis has in a file beyond its repr: more quotation marks."""

SHALLOW = 4
"""Input channels that are multiplied in the time that one takes."""


@dataclass(frozen=True, slots=True)
class RowTaps:
    """The taps of one row of an axis: columns, rising, and the kernel element of each."""

    columns: range
    kernel: range

    def __len__(self) -> int:
        return len(self.columns)


NO_TAPS = RowTaps(range(0), range(0))


@dataclass(frozen=True, slots=True)
class Segment:
    """`blocks` blocks of rows, each the one before shifted by `step` columns.

    `rows` describes the first block as (how many rows, their taps); only rows without taps come
    more than one at a time. A convolution's blocks are single rows, those of a transposed one hold
    `stride` rows.
    """

    first: int
    blocks: int
    step: int
    rows: tuple[tuple[int, RowTaps], ...]

    @property
    def block_rows(self) -> int:
        """Rows in one block."""
        return sum(count for count, _ in self.rows)

    @property
    def block_taps(self) -> int:
        """Taps of all rows in one block."""
        return sum(len(taps) for _, taps in self.rows)


def row_taps(axis: Axis, row: int, *, transposed: bool) -> RowTaps:
    """The taps of one row: of output `row` of the axis, or (transposed) of input `row`.

    >>> axis = Axis(inputs=5, outputs=3, kernel=3, stride=2, dilation=1, offset=1)
    >>> row_taps(axis, 0, transposed=False)
    RowTaps(columns=range(0, 2), kernel=range(1, 3))
    >>> row_taps(axis, 1, transposed=True)
    RowTaps(columns=range(0, 2), kernel=range(2, -1, -2))
    """
    stride, dilation = axis.stride, axis.dilation
    if not transposed:
        start = row * stride - axis.offset
        low = max(0, -(start // dilation))  # ceil(-start / dilation)
        high = min(axis.kernel, (axis.inputs - 1 - start) // dilation + 1)
        if high <= low:
            return NO_TAPS
        first = start + low * dilation
        columns = range(first, first + (high - low - 1) * dilation + 1, dilation)
        return RowTaps(columns, range(low, high, 1))
    reach = row + axis.offset  # o * stride + t * dilation = reach
    common = gcd(stride, dilation)
    if reach % common:
        return NO_TAPS
    period, advance = stride // common, dilation // common
    residue = (reach // common * pow(advance, -1, period)) % period
    # t = residue + m * period and o = start - m * advance, for m = 0, 1, 2, ...
    start = (reach - residue * dilation) // stride
    low = max(0, -((axis.outputs - 1 - start) // advance))
    high = min(-((residue - axis.kernel) // period), start // advance + 1)
    if high <= low:
        return NO_TAPS
    first, last = start - (high - 1) * advance, start - low * advance
    top = residue + (high - 1) * period
    return RowTaps(range(first, last + 1, advance), range(top, residue + low * period - 1, -period))


def tap_interval(axis: Axis, element: int) -> range:
    """The outputs o for which kernel element `element` reads an input that exists.

    >>> tap_interval(Axis(inputs=5, outputs=3, kernel=3, stride=2, dilation=1, offset=1), 0)
    range(1, 3)
    """
    start = element * axis.dilation - axis.offset
    low = max(0, -(start // axis.stride))
    high = min(axis.outputs, (axis.inputs - 1 - start) // axis.stride + 1)
    return range(low, max(low, high))


def count_taps(axis: Axis) -> int:
    """The number of taps of an axis, without listing them."""
    return sum(len(tap_interval(axis, element)) for element in range(axis.kernel))


def coloring(axis: Axis, *, transposed: bool) -> tuple[int, int]:
    """(run, period) of a coloring by which no output reads two inputs of one color.

    Input i has color i // run % period. Two inputs that meet in an output are m elements of the
    kernel apart, 0 < m < k: m * d inputs, or (transposed) m / (s / g) * d / g, g = gcd(s, d).
    Columns of one color can be recovered from one product: Curtis, Powell & Reid 1974.

    >>> axis = Axis(inputs=9, outputs=9, kernel=3, stride=1, dilation=2, offset=2)
    >>> coloring(axis, transposed=False)
    (2, 3)
    """
    if not transposed:
        return axis.dilation, axis.kernel
    common = gcd(axis.stride, axis.dilation)
    return axis.dilation // common, -(-axis.kernel * common // axis.stride)


def segments(axis: Axis, *, transposed: bool) -> tuple[Segment, ...]:
    """All rows of an axis, in order, as stretches in which the taps repeat.

    The first and the last valid tap move monotonically with the row, so a tap sets in once and
    drops out once; between those moments nothing changes but the shift.
    """
    if not transposed:
        rows, size, step = axis.outputs, 1, axis.stride
    else:
        rows, size, step = axis.inputs, axis.stride, 1
    whole, rest = divmod(rows, size)
    ends = {0, whole, whole + bool(rest)}
    for element in range(axis.kernel):
        valid = tap_interval(axis, element)
        if not valid:
            continue
        if not transposed:
            ends.update((valid.start, valid.stop))
        else:
            # Output o of the axis meets this element at input row o * stride + shift, and so
            # in the block of `stride` rows number o + shift // stride.
            shift = (element * axis.dilation - axis.offset) // axis.stride
            ends.update((valid.start + shift, valid.stop + shift))
    cuts = sorted(ends)
    return tuple(
        Segment(
            first=start * size,
            blocks=stop - start,
            step=step,
            rows=_block(axis, start * size, min(rows, (start + 1) * size), transposed),
        )
        for start, stop in pairwise(cuts)
    )


def _block(axis: Axis, first: int, last: int, transposed: bool) -> tuple[tuple[int, RowTaps], ...]:
    """The rows [first, last) individually, rows without taps gathered."""
    if not transposed:
        return ((1, row_taps(axis, first, transposed=False)),)
    # At most `kernel` rows of a period have taps: look at those alone, a stride may be huge.
    places = sorted(
        {
            (element * axis.dilation - axis.offset) % axis.stride
            for element in range(min(axis.kernel, axis.stride))
        }
    )
    rows: list[tuple[int, RowTaps]] = []
    done = first
    for place in places:
        row = first + place
        taps = row_taps(axis, row, transposed=True) if row < last else NO_TAPS
        if taps:
            if row > done:
                rows.append((row - done, NO_TAPS))
            rows.append((1, taps))
            done = row + 1
    if done < last:
        rows.append((last - done, NO_TAPS))
    return tuple(rows)


def elements_between(axes: Sequence[Axis], near: Index, far: Index) -> Index | None:
    """The kernel elements by which a place on the written side reads one on the reading side, along
    each axis; None where it does not.
    """
    elements = []
    for axis, o, i in zip(axes, near, far, strict=True):
        element, rest = divmod(i + axis.offset - o * axis.stride, axis.dilation)
        if rest or not 0 <= element < axis.kernel:
            return None
        elements.append(element)
    return tuple(elements)


@dataclass(frozen=True, slots=True)
class Tap:
    """One nonzero: the output element, the input element, and the kernel element between them."""

    output: Index
    input: Index
    kernel: Index


@dataclass(frozen=True)
class IndexMap:
    """The index map of a whole layer: all of a convolution but its weights.

    All positions are (channel, *spatial).

    Parameters
    ----------
    kernel_shape : tuple of int
        (out, in / groups, *spatial) of the convolution whose relation the axes state.
    axes : tuple of Axis
        One for each spatial axis.
    groups : int
        Parts of the channels that are convolved apart.
    transposed : bool
        Whether the layer is the transpose of that convolution: kernel, axes and groups stay as they
        are, and inputs and outputs change places.

    Raises
    ------
    GeometryError
        If kernel and axes do not fit, or the matrix is beyond 64-bit indices.

    References
    ----------
    Ma & Lu 2017, Eq. 8.

    Examples
    --------
    >>> axis = Axis(inputs=3, outputs=2, kernel=2, stride=1, dilation=1, offset=0)
    >>> IndexMap((2, 1, 2, 2), (axis, axis)).nnz
    32
    """

    kernel_shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    groups: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        sizes = tuple(axis.kernel for axis in self.axes)
        if len(self.kernel_shape) < 3 or self.kernel_shape[2:] != sizes:
            raise GeometryError(
                f"a kernel of shape {self.kernel_shape} does not fit {len(sizes)} axes with "
                f"kernels {sizes}: (out, in/groups, *spatial) is expected, one size for each axis"
            )
        if min(self.kernel_shape) < 1 or max(self.kernel_shape) > MAX_SIZE:
            raise GeometryError(f"a kernel of shape {self.kernel_shape} is empty or too large")
        if self.groups < 1 or self.kernel_shape[0] % self.groups:
            raise GeometryError(
                f"{self.kernel_shape[0]} channels cannot be shared out over {self.groups} groups"
            )
        if max(self.rows, self.columns, self.nnz) >= 2**63:
            raise GeometryError(
                f"a matrix of {self.rows} x {self.columns} with {self.nnz} nonzeros is beyond "
                f"64-bit indices"
            )

    @cached_property
    def _conv_input_shape(self) -> tuple[int, ...]:
        """Shape on the reading side of the relation: (in, *inputs)."""
        return (self.kernel_shape[1] * self.groups, *(axis.inputs for axis in self.axes))

    @cached_property
    def _conv_output_shape(self) -> tuple[int, ...]:
        """Shape on the written side of the relation: (out, *outputs)."""
        return (self.kernel_shape[0], *(axis.outputs for axis in self.axes))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, *spatial) of the layer's input."""
        return self._conv_output_shape if self.transposed else self._conv_input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(channels, *spatial) of the layer's output."""
        return self._conv_input_shape if self.transposed else self._conv_output_shape

    @property
    def rows(self) -> int:
        """Outputs: the rows of the matrix."""
        return prod(self.output_shape)

    @property
    def columns(self) -> int:
        """Inputs: the columns of the matrix."""
        return prod(self.input_shape)

    @cached_property
    def nnz(self) -> int:
        """Nonzeros of the matrix, D * (C/G) * the axes' taps, known before anything is built."""
        return self.kernel_shape[0] * self.kernel_shape[1] * prod(map(count_taps, self.axes))

    @property
    def products(self) -> int:
        """Output channels x input channels of a group x taps x positions; of fewer than `SHALLOW`
        channels as of so many, for they take no less time.
        """
        near, depth, *taps = self.kernel_shape
        return near * max(depth, SHALLOW) * prod(taps) * prod(axis.outputs for axis in self.axes)

    def adjoint(self) -> "IndexMap":
        """The map of the transposed matrix."""
        return IndexMap(self.kernel_shape, self.axes, self.groups, not self.transposed)

    def kept(self, itemsize: int) -> Kept:
        """What a file keeps of it, with a bias: see `Outline`."""
        weights = prod(self.kernel_shape) + self.output_shape[0]
        return Kept(2, weights * itemsize, self._text)

    @cached_property
    def _text(self) -> int:
        """Characters of its description, at most."""
        shapes = (self.input_shape, self.output_shape, self.kernel_shape)
        text = TEXT + sum(len(str(shape)) for shape in shapes)
        return text + sum(AXIS + len(repr(a)) for a in self.axes)

    def of_output(self, output: Index) -> Iterator[Tap]:
        """What one output element reads, in the order of a channels-first row."""
        _check(output, self.output_shape, "output")
        for source, kernel in self._neighbors(output, self.transposed):
            yield Tap(output, source, kernel)

    def of_input(self, source: Index) -> Iterator[Tap]:
        """What one input element feeds."""
        _check(source, self.input_shape, "input")
        for output, kernel in self._neighbors(source, not self.transposed):
            yield Tap(output, source, kernel)

    def of_kernel(self, kernel: Index) -> Iterator[Tap]:
        """Where one kernel element stands in the matrix."""
        _check(kernel, self.kernel_shape, "kernel")
        near_channel, far_channel = kernel[0], self._far_channel(kernel[0], kernel[1])
        elements = kernel[2:]
        spans = [tap_interval(axis, t) for axis, t in zip(self.axes, elements, strict=True)]
        for place in _grid(spans):
            near = (near_channel, *place)
            far: Index = (
                far_channel,
                *(
                    o * axis.stride + t * axis.dilation - axis.offset
                    for axis, o, t in zip(self.axes, place, elements, strict=True)
                ),
            )
            yield Tap(far, near, kernel) if self.transposed else Tap(near, far, kernel)

    def kernel_of(self, output: Index, source: Index) -> Index | None:
        """The kernel element between an output and an input, None for a structural zero."""
        _check(output, self.output_shape, "output")
        _check(source, self.input_shape, "input")
        near, far = (source, output) if self.transposed else (output, source)
        channel = far[0] - self._far_channel(near[0], 0)
        if not 0 <= channel < self.kernel_shape[1]:
            return None
        elements = elements_between(self.axes, near[1:], far[1:])
        return None if elements is None else (near[0], channel, *elements)

    def _far_channel(self, near: int, element: int) -> int:
        """The far-side channel of kernel element [near, element, ...]."""
        return near // (self.kernel_shape[0] // self.groups) * self.kernel_shape[1] + element

    def _neighbors(self, index: Index, transposed: bool) -> Iterator[tuple[Index, Index]]:
        """(position, kernel element) of all that one element of either side is tied to."""
        per_group, depth = self.kernel_shape[0] // self.groups, self.kernel_shape[1]
        taps = [
            row_taps(axis, row, transposed=transposed)
            for axis, row in zip(self.axes, index[1:], strict=True)
        ]
        channel = index[0]
        if transposed:
            group = channel // depth
            partners = [
                (near, (near, channel % depth))
                for near in range(group * per_group, (group + 1) * per_group)
            ]
        else:
            partners = [
                (self._far_channel(channel, element), (channel, element))
                for element in range(depth)
            ]
        pairs = [list(zip(row.columns, row.kernel, strict=True)) for row in taps]
        for (partner, channels), places in product(partners, list(product(*pairs))):
            yield (
                (partner, *(column for column, _ in places)),
                (*channels, *(element for _, element in places)),
            )


def _grid(ranges: Sequence[range]) -> Iterator[Index]:
    """itertools.product of ranges, which would hold them as tuples."""
    if not ranges:
        yield ()
        return
    for first in ranges[0]:
        for rest in _grid(ranges[1:]):
            yield (first, *rest)


def _check(index: Index, shape: tuple[int, ...], what: str) -> None:
    if len(index) != len(shape) or not all(
        0 <= i < size for i, size in zip(index, shape, strict=True)
    ):
        raise IndexError(f"{what} {index} is not within {shape}")
