"""One level of the proof on its own: what it finds of a file, and runtimes that are wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convfc_cli.errors import WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.matrices import registry
from convfc_cli.matrices.format import StoredMatrix
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.impulses import Impulses
from convfc_cli.proof.integers import Integers
from convfc_cli.proof.reals import Reals
from convfc_cli.proof.report import Finding
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.runtime import Runtime, as_read
from convfc_cli.taps import IndexMap
from tests.support import crafted
from tests.support.crafted import rendered, saved

Array = NDArray[Any]

NPZ = registry.formats()["npz"]

some_examples = settings(max_examples=max(20, settings().max_examples // 3))
few_examples = settings(max_examples=max(10, settings().max_examples // 6))
SEEDS = st.integers(0, 2**32)


def stored_of(kind: Any, matrix: Matrix, data: bytes | None = None) -> StoredMatrix:
    data = rendered(kind, matrix) if data is None else data
    (found,) = kind.open(crafted.in_memory(data), crafted.beside(kind, matrix))
    return found


def walked(stored: StoredMatrix, make: Callable[[Subject], Check], most: int = 40) -> Finding:
    """What one check finds when it is shown the rows and no other check is."""
    subject = Subject.of(stored)
    check = make(subject)
    for slab in subject.layer.slabs(subject.matrix.layout, most):
        check.expect(slab)
        for block in stored.rows(slab.counts()):
            start = block.first - slab.rows.start
            check.hold(block, slice(start, start + len(block.indptr) - 1))
    return check.finding()


def by_impulses(*asked: Runtime) -> Callable[[Subject], Check]:
    return lambda subject: Impulses(subject, asked)


def by_integers(asked: Runtime, seed: int = 1) -> Callable[[Subject], Check]:
    random = np.random.default_rng(seed)
    return lambda subject: Integers(subject, asked, as_read(subject.matrix.layer), random)


def by_reals(asked: Runtime, seed: int = 1) -> Callable[[Subject], Check]:
    random = np.random.default_rng(seed)
    return lambda subject: Reals(subject, asked, as_read(subject.matrix.layer), random)


LEVELS = {"impulses": by_impulses, "integers": by_integers, "reals": by_reals}
every_level = pytest.mark.parametrize("level", LEVELS)


def a_bit(contents: dict[str, Array], place: int, bit: int) -> None:
    width = contents["data"].dtype.itemsize
    contents["data"].view(f"u{width}")[place] ^= np.array(1 << bit % (8 * width), f"u{width}")


def changed(problem: Any, spec: Spec, seed: int) -> tuple[bytes, int, int]:
    """(the file with one bit of one weight changed, the row and the column of the weight)."""
    contents = crafted.arrays(rendered(NPZ, Matrix(problem.layer, spec)))
    place = seed % max(1, len(contents["data"]))
    if len(contents["data"]):
        a_bit(contents, place, seed)
    row = int(np.searchsorted(contents["indptr"], place, side="right")) - 1
    column = int(contents["indices"][place]) if len(contents["data"]) else -1
    return saved(contents), row, column


def zero_and_one() -> Convolution:
    """[[0 1 . .] [. 0 1 .] [. . 0 1]], its zeros stored."""
    kernel = np.array([[[0, 1]]], np.float32)
    return Convolution(kernel, IndexMap((1, 1, 2), (Axis(4, 3, 2, 1, 1, 0),)))


def disagreement(stored: StoredMatrix, make: Callable[[Subject], Check]) -> str:
    """Why a check does not hold: the file is wrong by it, or the runtime does not run the layer."""
    try:
        finding = walked(stored, make)
    except WrongContents as error:
        return str(error)
    assert finding.holds is None
    return finding.detail


class Answering(Runtime):
    """Gives what it is told to, whatever it is asked."""

    name = label = "answering"

    def __init__(self, answer: Callable[[Array], Array | str]) -> None:
        self._answer = answer

    def missing(self) -> str:
        return ""

    def apply(self, layer: Linear, x: Array) -> Array | str:
        return self._answer(ORACLE.apply(layer, x))


def findings(report: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


def wide(inputs: int, kernel: int, channels: int = 1) -> Convolution:
    """A 1-D convolution of so many channels, each of which reads all of them."""
    axis = Axis(inputs, inputs - kernel + 1, kernel, 1, 1, 0)
    shape = (channels, channels, kernel)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Convolution(values, IndexMap(shape, (axis,)))
