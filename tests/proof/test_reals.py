"""Level 4, real inputs: what they see beyond the rounding bound, and what they leave out."""

import numpy as np
import pytest

from convfc_cli import budget, rounding
from convfc_cli.errors import WrongContents
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layout import Layout
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof.check import Subject
from convfc_cli.proof.reals import Reals
from convfc_cli.proof.report import Finding
from convfc_cli.rounding import RuntimeResult
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.runtime import RunnableLayer, as_read
from convfc_cli.taps import IndexMap
from tests.support import crafted
from tests.support.crafted import example, rendered, saved
from tests.support.levels import by_reals, findings, stored_of, walked, wide

NPZ = registry.formats()["npz"]


@pytest.mark.parametrize("place", range(0, 72, 5))
@pytest.mark.parametrize("transpose", [False, True])
def test_reals_see_a_weight_that_is_a_thousandth_off(place, transpose):
    matrix = example(spec=Spec(transpose=transpose))
    contents = crafted.arrays(rendered(NPZ, matrix))
    contents["data"][place] *= np.float32(1.001)
    with pytest.raises(WrongContents, match=r"^output \(.*the oracle, gives .*, the matrix "):
        walked(stored_of(NPZ, matrix, saved(contents)), by_reals(ORACLE))


def two_ones(off: float, weight: float = 1.0) -> Finding:
    """What reals find of 1 + 1, where the runtime gives 2 and so much more."""
    kernel = np.full((1, 1, 2), weight, np.float32)
    layer = Convolution(kernel, IndexMap((1, 1, 2), (Axis(2, 1, 2, 1, 1, 0),)))
    result = RuntimeResult("it", np.ones((1, 2)), np.array([[2 + off]]), 2.0**-24, 2.0**127)
    original = RunnableLayer("the layer", lambda runtime, random: result, lambda *_: "")
    random = np.random.default_rng(1)
    return walked(
        stored_of(NPZ, Matrix(layer)), lambda subject: Reals(subject, ORACLE, original, random)
    )


def test_reals_may_be_off_by_three_terms_of_scale_2_and_no_more():
    bound = 3 * 2 * 2.0**-24  # two products and a bias
    assert "at most 0.99 of the rounding bound" in two_ones(0.99 * bound).detail
    assert two_ones(-0.99 * bound).holds
    for off in (1.01 * bound, -1.01 * bound):
        with pytest.raises(WrongContents, match=r"^output \(0, 0\): the layer, run by the oracle"):
            two_ones(off)


def test_reals_of_which_nothing_can_be_said_are_no_agreement():
    finding = two_ones(0.0, weight=3e38)
    assert finding.holds is None
    assert "no output could be compared: all 1 overflow or are not finite" in finding.detail


def test_a_result_of_other_shapes_is_wrong_before_anything_is_multiplied():
    matrix = example()
    other = as_read(
        Convolution(np.ones((1, 1, 2), np.float32), IndexMap((1, 1, 2), (Axis(9, 8, 2, 1, 1, 0),)))
    )
    random = np.random.default_rng(0)
    with pytest.raises(WrongContents, match=r"makes \(1, 8\) of \(1, 9\), the layer"):
        Reals(Subject(matrix, True), ORACLE, other, random)


@pytest.mark.parametrize("most", ["products", "budget"])
def test_reals_of_too_many_products_are_not_compared(
    most: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime has run it once; the oracle would three times more."""
    layer = wide(9, 3)
    stored = rendered(NPZ, Matrix(layer, Spec(Layout())))
    with budget.command() as whole:
        if most == "budget":
            whole.products = 2 * layer.outline.products
        else:
            monkeypatch.setattr(rounding, "MAX_PRODUCTS", layer.outline.products - 1)
        report = crafted.checked(stored, against="reference")
    told = findings(report)["reals"]
    assert told.holds is None
    assert "products" in told.detail
    assert report.ok
