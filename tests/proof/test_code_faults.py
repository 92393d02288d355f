"""Faults on purpose in the code that writes a file: what verifies it shares no code with it."""

from contextlib import contextmanager

import numpy as np
import pytest

from convfc_cli import direct, streams, taps, toeplitz
from convfc_cli.errors import Defect
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.streams import Repeat
from convfc_cli.taps import IndexMap, RowTaps, Segment
from tests.support import crafted
from tests.support.crafted import failures, outcome, rendered

NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]


def taps_off_by_one_in_the_kernel(patch):
    honest = taps.row_taps

    def faulty(axis, row, *, transposed):
        found = honest(axis, row, transposed=transposed)
        kernel = found.kernel
        if not kernel or min(kernel) == 0:
            return found
        return RowTaps(found.columns, range(kernel.start - 1, kernel.stop - 1, kernel.step))

    patch.setattr(taps, "row_taps", faulty)


def a_border_segment_forgotten(patch):
    honest = toeplitz.segments

    def faulty(axis, *, transposed):
        first, second, *others = honest(axis, transposed=transposed)
        return (Segment(0, first.blocks, second.step, second.rows), second, *others)

    patch.setattr(toeplitz, "segments", faulty)


def taps_counted_wrong(patch):
    honest = toeplitz.count_taps
    patch.setattr(toeplitz, "count_taps", lambda axis: honest(axis) - 1)


def toeplitz_ignores_groups(patch):
    patch.setattr(
        toeplitz._Indices,
        "channels",
        lambda self, child, level, found: Repeat(child, self.nest.lanes),
    )


def toeplitz_takes_the_stride_for_1(patch):
    patch.setattr(
        toeplitz._Indices, "step", lambda self, axis, segment, entries: self.nest.strides[axis]
    )


def toeplitz_moves_a_row_too_far(patch):
    patch.setattr(
        toeplitz._Indices,
        "step",
        lambda self, axis, segment, entries: segment.step * self.nest.strides[axis] + 1,
    )


def toeplitz_flips_the_kernel(patch):
    honest = toeplitz._Data.__init__

    def faulty(self, nest, kernel):
        honest(self, nest, kernel[..., ::-1])

    patch.setattr(toeplitz._Data, "__init__", faulty)


def toeplitz_takes_the_channels_in_another_order(patch):
    honest = toeplitz._Data.__init__

    def faulty(self, nest, kernel):
        honest(self, nest, kernel[:, ::-1])

    patch.setattr(toeplitz._Data, "__init__", faulty)


def row_pointers_step_off(patch):
    patch.setattr(toeplitz._Indptr, "step", lambda self, axis, segment, entries: entries + 1)


def streams_step_off_in_doubling(patch):
    def faulty(self, source, target, copies):
        np.add(source, (copies + 1) * self.step, out=target)

    patch.setattr(streams.Repeat, "_copy", faulty)


def streams_forget_the_step(patch):
    patch.setattr(
        streams.Repeat, "_copy", lambda self, source, target, copies: np.copyto(target, source)
    )


def streams_forget_the_shift_of_a_series(patch):
    honest = streams.Series.write

    def faulty(self, out, start, base, lanes):
        kept, self._shifts = self._shifts, None
        honest(self, out, start, base, lanes)
        self._shifts = kept

    patch.setattr(streams.Series, "write", faulty)


def lanes_all_the_first(patch):
    honest = toeplitz._KernelRow.write

    def faulty(self, out, start, base, lanes):
        for lane in range(len(out)):
            honest(self, out[lane : lane + 1], start, base, slice(0, 1))

    patch.setattr(toeplitz._KernelRow, "write", faulty)


def direct_ignores_dilation(patch):
    honest = direct._windows

    def faulty(padded, axes):
        dense = [Axis(a.inputs, a.outputs, a.span, a.stride, 1, a.offset) for a in axes]
        return honest(padded, dense)

    patch.setattr(direct, "_windows", faulty)


def direct_pads_one_further(patch):
    honest_in, honest_out = direct._padded, direct._cropped
    patch.setattr(direct, "_padded", lambda x, axes: np.roll(honest_in(x, axes), 1, axis=-1))
    patch.setattr(direct, "_cropped", lambda x, axes: np.roll(honest_out(x, axes), 1, axis=-1))


def direct_adds_one_element_of_the_kernel_twice(patch):
    honest = direct._steps

    def faulty(kernel, axes, groups):
        first, *others = honest(kernel, axes, groups)
        return [first, *others, first]

    patch.setattr(direct, "_steps", faulty)


def direct_forgets_the_groups(patch):
    honest = direct._contract
    patch.setattr(
        direct, "_contract", lambda weights, read: honest(weights[:1] + 0 * weights, read)
    )


CODE_FAULTS = [
    taps_off_by_one_in_the_kernel,
    a_border_segment_forgotten,
    taps_counted_wrong,
    toeplitz_ignores_groups,
    toeplitz_takes_the_stride_for_1,
    toeplitz_moves_a_row_too_far,
    toeplitz_flips_the_kernel,
    toeplitz_takes_the_channels_in_another_order,
    row_pointers_step_off,
    streams_step_off_in_doubling,
    streams_forget_the_step,
    streams_forget_the_shift_of_a_series,
    lanes_all_the_first,
    direct_ignores_dilation,
    direct_pads_one_further,
    direct_adds_one_element_of_the_kernel_twice,
    direct_forgets_the_groups,
]


def awkward(transposed):
    """Two groups, padding, stride 2 and dilation 2: every one of the faults above must show."""
    axes = (Axis(13, 7, 3, 2, 2, 2), Axis(15, 8, 3, 2, 2, 2))
    kernel = np.arange(1, 1 + 4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    return Convolution(kernel, IndexMap(kernel.shape, axes, 2, transposed))


def without(faults, *unseen):
    """(fault, transposed) for every fault and both kinds of layer, but those where none shows."""
    return [(fault, t) for fault in faults for t in (False, True) if (fault, t) not in unseen]


@contextmanager
def broken(fault):
    """The code with a fault, and no map kept that was made without it."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        toeplitz._nest.cache_clear()
        try:
            yield
        finally:
            toeplitz._nest.cache_clear()


def named(value):
    return getattr(value, "__name__", {True: "transposed", False: ""}.get(value))


@pytest.mark.parametrize(
    ("fault", "transposed"),
    # A transposed layer's rows move by 1 as they are.
    without(CODE_FAULTS, (toeplitz_takes_the_stride_for_1, True)),
    ids=named,
)
def test_a_fault_in_the_code_that_writes_a_csr_file_is_found(fault, transposed):
    matrix = Matrix(awkward(transposed))
    assert outcome(rendered(NPZ, matrix)) == ("ok", "")
    with broken(fault):
        try:
            kind, message = outcome(rendered(NPZ, matrix))
        except Defect as error:  # the count is wrong: no file is made
            kind, message = "Defect", str(error)
    assert kind in {"wrong", "WrongContents", "Defect"}
    assert message


# Those that leave the row pointers alone, without which a dense file is not even written.
DENSE_CODE_FAULTS = [
    taps_off_by_one_in_the_kernel,
    toeplitz_ignores_groups,
    toeplitz_takes_the_stride_for_1,
    toeplitz_flips_the_kernel,
    toeplitz_takes_the_channels_in_another_order,
    lanes_all_the_first,
    direct_ignores_dilation,
    direct_pads_one_further,
    direct_adds_one_element_of_the_kernel_twice,
    direct_forgets_the_groups,
]


@pytest.mark.parametrize(
    ("fault", "transposed"),
    without(DENSE_CODE_FAULTS, (toeplitz_takes_the_stride_for_1, True)),
    ids=named,
)
def test_a_fault_in_the_code_that_writes_a_dense_file_is_found(fault, transposed):
    matrix = Matrix(awkward(transposed), Spec(form="dense"))
    assert failures(crafted.verified(NPY, matrix, rendered(NPY, matrix))) == []
    with broken(fault):
        report = crafted.verified(NPY, matrix, rendered(NPY, matrix))
    assert not report.ok
    assert report.complaint.startswith("entries: ")
