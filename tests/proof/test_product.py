"""Faults in the file of a product: what its bound allows and what it does not."""

import io
import json
from typing import Any

import numpy as np
import pytest

from convfc_cli.errors import (
    Defect,
    MalformedInput,
    UsageError,
    WrongContents,
)
from convfc_cli.layers import blockwise, product, sparse_product
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.product import Product
from convfc_cli.layout import Layout
from convfc_cli.matrices import blocks
from convfc_cli.matrices.blocks import Block
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof import check
from convfc_cli.proof.check import Subject
from convfc_cli.proof.product import Factors, ProductEntries
from tests.support import crafted
from tests.support.crafted import outcome, rendered
from tests.support.layer_examples import (
    ENDS,
    EXAMPLES,
    F32,
    NPY,
    NPZ,
    Array,
)

SHORT = Gather((2,), np.array([1, -1, 0, 1]))
MIX = Dense(np.array([[1, 2, 3, 4], [0.1, 0.2, 0.3, 0.7], [5, 0, 1, 5]], F32))
CHAIN = Product([ENDS, SHORT, MIX])
"""[[8 0] [1.1 -.5] ...]: terms that cancel, a row that is empty in a factor, a bias."""


def faulty(change: Any, **options: Any) -> Any:
    """The report of the chain's file after something in it has been changed."""
    contents = crafted.arrays(rendered(NPZ, Matrix(CHAIN)))
    change(contents)
    return crafted.checked(crafted.saved(contents), **options)


def test_the_chain_has_an_entry_that_cancels_to_zero():
    data = CHAIN.matrix(Layout()).data.array()
    assert CHAIN.nnz == len(data) == 6
    assert data.tolist() == [8, -2, F32(1.1).item(), pytest.approx(-0.5), 11, -9]


@pytest.mark.parametrize("entry", range(6))
@pytest.mark.parametrize("factor", [1 + 2.0**-20, 1 - 2.0**-20, -1, 0, 2, np.nan, np.inf])
def test_an_entry_beyond_rounding_is_wrong_and_named(entry, factor):
    def change(contents: Any) -> None:
        contents["data"][entry] *= F32(factor)

    report = faulty(change)
    assert report.verdict == "wrong"
    row, column = divmod(entry, 2)
    assert report.complaint.startswith(f"entries: entry ({row}, {column}), output ({row},)")
    assert ": a sum, expected " in report.complaint


@pytest.mark.parametrize(
    ("stored", "verdict"),
    [
        (1.0, "proven"),
        (1 + 2.0**-23, "proven"),
        (1 + 2.0**-22, "wrong"),
        (1 - 2.0**-24, "wrong"),
    ],
)
def test_a_sum_may_be_rounded_either_way_and_no_further(stored, verdict):
    """1 + 2^-24 lies between two numbers of float32. Which of them is stored depends on the order
    of the sums: a last bit is what the proof of a product gives up, and this is all.
    """
    layer = Product([Dense(np.array([[1], [2.0**-24]], F32)), Dense(np.ones((1, 2), F32))])
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    assert contents["data"].tolist() == [1.0]
    contents["data"][0] = stored
    assert crafted.checked(crafted.saved(contents)).verdict == verdict


@pytest.mark.parametrize(
    ("off", "verdict"), [(0, "proven"), (2.0**-50, "proven"), (-(2.0**-45), "wrong")]
)
def test_of_terms_that_cancel_what_float64_loses_is_allowed_for(off, verdict):
    e = 2.0**-23
    layer = Product([Dense(np.array([[1 + e], [1]], F32)), Dense(np.array([[1 - e, -1]], F32))])
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    assert contents["data"].tolist() == [-(e**2)]
    contents["data"][0] += F32(off)
    assert crafted.checked(crafted.saved(contents)).verdict == verdict


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_entries_that_are_tiny_the_smallest_number_is_allowed_for(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    small = np.array([[tiny * 1000]], dtype)
    layer = Product([Dense(small), Dense(np.ones((1, 1), dtype))])
    for off, found in ((1, "proven"), (2, "wrong"), (-2, "wrong")):
        contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
        contents["data"][0] += off * tiny
        assert sums_alone(layer, contents) == found, off


def sums_alone(layer: Product, contents: Any) -> str:
    """What the check of the entries says, without the levels beside it."""
    subject = Subject(Matrix(layer), True)
    level = ProductEntries(subject, layer)
    block = Block(0, contents["indptr"], contents["indices"], contents["data"])
    try:
        level.hold(block, slice(0, layer.nnz))
    except WrongContents:
        return "wrong"
    assert level.finding().detail.startswith(f"{layer.nnz} entries ")
    return "proven"


def test_an_entry_that_overflows_is_infinite_and_proven_and_finite_it_is_wrong():
    layer = Product([Dense(np.full((1, 1), 1e30, F32)), Dense(np.full((1, 1), 1e30, F32))])
    for stored, verdict in ((np.inf, "proven"), (-np.inf, "wrong"), (3e38, "wrong")):
        contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
        assert contents["data"].tolist() == [np.inf]
        contents["data"][0] = stored
        assert crafted.checked(crafted.saved(contents)).verdict == verdict


def test_where_a_weight_is_not_finite_a_finite_entry_is_wrong():
    layer = Product([Dense(np.array([[np.nan, 1]], F32)), Dense(np.array([[2]], F32))])
    contents = crafted.arrays(rendered(NPZ, Matrix(layer)))
    assert crafted.checked(crafted.saved(contents)).ok
    contents["data"][0] = 2
    report = crafted.checked(crafted.saved(contents))
    assert report.complaint.startswith("entries: entry (0, 0), ")


def twice(contents: Any) -> None:
    contents["indices"][1] = 0


def dropped(contents: Any) -> None:
    for name in ("data", "indices"):
        contents[name] = contents[name][1:]
    contents["indptr"][1:] -= 1


def added(contents: Any) -> None:
    for name in ("data", "indices"):
        contents[name] = contents[name][:-1]
    contents["indptr"][-1] += 1


def bit_of_a_factor(contents: Any) -> None:
    contents["2.kernel"].view(np.uint32)[1, 1] ^= np.uint32(1)


def source_of_a_factor(contents: Any) -> None:
    contents["1.source"][0] = 0


def bias_of_a_factor(contents: Any) -> None:
    contents["0.kernel_bias"][1] += 1


def bias(contents: Any) -> None:
    contents["bias"][1] *= F32(1 + 2.0**-18)


def bias_that_is_none(contents: Any) -> None:
    contents["bias"][2] = np.nan


def bias_of_another_dtype(contents: Any) -> None:
    contents["bias"] = contents["bias"].astype(np.float64)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (twice, "structure: row 0 has column 0 after 0"),
        (bit_of_a_factor, "digest: "),
        (source_of_a_factor, "digest: "),
        (bias_of_a_factor, "digest: "),
        (bias, "bias: bias 1 is "),
        (bias_that_is_none, "bias: bias 2 is nan"),
        (bias_of_another_dtype, "bias: bias is (3,) of float64"),
    ],
)
def test_what_is_changed_in_the_file_of_a_product_is_found(change, told):
    report = faulty(change)
    assert report.verdict == "wrong"
    assert report.complaint.startswith(told)


@pytest.mark.parametrize("change", [dropped, added])
def test_rows_of_another_length_are_wrong_before_they_are_read(change):
    with pytest.raises(WrongContents, match=r"indptr|indices"):
        faulty(change)


SCATTERED = Product(
    [Diagonal(np.array([2, 3, 5], F32), (3,)), Gather((3,), np.array([0, -1, 2, 1]))]
)
"""[[2 . .] [. . .] [. . 5] [. 3 .]]"""


@pytest.mark.parametrize(
    ("entry", "column", "told"),
    [
        (0, 1, "entry (0, 0), output (0,) from input (0,): a sum, expected 2.0, found nothing"),
        (1, 0, "entry (2, 0), output (2,) from input (0,): a structural zero, expected nothing, "),
        (2, 0, "entry (3, 0), output (3,) from input (0,): a structural zero, expected nothing, "),
        (2, 2, "entry (3, 1), output (3,) from input (1,): a sum, expected 3.0, found nothing"),
    ],
)
@pytest.mark.parametrize("transpose", [False, True])
def test_an_entry_that_was_moved_is_wrong_whatever_it_is(entry, column, told, transpose):
    layer = SCATTERED.adjoint() if transpose else SCATTERED
    matrix = Matrix(layer, Spec(transpose=transpose))  # the same rows, as columns
    contents = crafted.arrays(rendered(NPZ, matrix))
    contents["indices"][entry] = column
    report = crafted.checked(crafted.saved(contents))
    where = told.partition(":")[2] if transpose else told
    assert report.complaint.startswith("entries: entry (")
    assert where in report.complaint


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ((0, 0), 2.0, ""),
        ((0, 0), 0.0, "entry (0, 0), output (0,) from input (0,): a sum, expected 2.0, found 0.0"),
        ((0, 1), 1.0, "a structural zero, expected 0.0, found 1.0"),
        ((1, 2), -0.0, "a structural zero, expected 0.0, found -0.0"),
        ((3, 1), 3.1, "a sum, expected 3.0, found 3.1"),
    ],
)
def test_in_a_dense_file_of_a_product_every_entry_and_every_zero_is_held(place, value, told):
    matrix = Matrix(SCATTERED, Spec(form="dense"))
    dense = np.load(io.BytesIO(rendered(NPY, matrix)))
    dense[place] = value
    report = crafted.verified(NPY, matrix, crafted.npy(dense))
    assert report.ok == (told == "")
    assert told in report.complaint


def test_in_a_dense_file_terms_that_cancel_are_no_entry_and_may_be_nothing_else():
    matrix = Matrix(Product([ENDS, ENDS.adjoint()]), Spec(form="dense"))  # [[2 0] [0 2]]
    dense = np.load(io.BytesIO(rendered(NPY, matrix)))
    assert dense.tolist() == [[2, 0], [0, 2]]
    assert crafted.verified(NPY, matrix, crafted.npy(dense)).verdict == "proven"
    dense[0, 1] = 1e-6
    report = crafted.verified(NPY, matrix, crafted.npy(dense))
    assert report.complaint.endswith("a sum, expected 0.0, found 1e-06")


def test_the_first_of_several_wrong_entries_is_named_and_others_after_it_are_not():
    def change(contents: Any) -> None:
        contents["data"][[5, 3]] += 1

    assert faulty(change).complaint.startswith("entries: entry (1, 1), ")


@pytest.mark.parametrize("entry", range(6))
def test_rows_are_told_right_in_files_of_many_blocks(entry, monkeypatch):
    for module in (check, blocks):
        monkeypatch.setattr(module, "CHUNK", 2)

    def change(contents: Any) -> None:
        contents["data"][entry] += 1

    row, column = divmod(entry, 2)
    assert faulty(lambda contents: None).verdict == "proven"
    assert faulty(change).complaint.startswith(f"entries: entry ({row}, {column}), ")


def test_a_factor_with_its_zeros_in_wrong_places_is_a_defect(monkeypatch):
    own = Diagonal.row_entries

    def displaced(self: Any, outputs: Array, layout: Layout) -> tuple[Array, Array]:
        columns, index = own(self, outputs, layout)
        return (columns + 1) % 3, index

    monkeypatch.setattr(Diagonal, "row_entries", displaced)
    zeros = Product([Diagonal(np.zeros(1, F32), (3,))])
    with pytest.raises(Defect, match="the rows of a diagonal are not what it computes"):
        Factors(zeros, Layout(), 1, 3, "2^-96").finding()


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float64])
def test_sources_of_another_dtype_in_a_file_are_malformed(dtype):
    contents = crafted.arrays(rendered(NPZ, Matrix(SCATTERED.factors[1].adjoint())))
    contents["source"] = np.abs(contents["source"]).astype(dtype)
    kind, told = outcome(crafted.saved(contents))
    assert (kind, f"its source is {np.dtype(dtype)}" in told) == ("MalformedInput", True)


@pytest.mark.parametrize("name", ["diagonal", "dense", "local transposed"])
@pytest.mark.parametrize("value", [-0.0, np.nan])
def test_a_bias_is_held_bit_for_bit_where_it_is_a_copy(name, value):
    layer = EXAMPLES[name]
    own = layer.with_kernel(layer.kernel, np.full_like(layer.bias, value))
    data = rendered(NPZ, Matrix(own))
    assert crafted.checked(data).verdict == "proven"
    contents = crafted.arrays(data)
    contents["bias"].view(np.uint32)[-1] ^= np.uint32(1 << 31)
    assert crafted.checked(crafted.saved(contents)).complaint.startswith("bias: bias ")


@pytest.mark.parametrize("kind", ["gather", "diagonal", "dense", "local"])
def test_factors_that_do_not_compute_their_rows_are_a_defect(kind, monkeypatch):
    """The file cannot show it: its entries would be multiplied from the same wrong rows."""
    factor = EXAMPLES[kind]
    wrong = np.zeros_like if kind != "gather" else lambda x: 2 * x
    own = type(factor).apply_kernel
    monkeypatch.setattr(type(factor), "apply_kernel", lambda s, x, k: wrong(own(s, x, k)))
    monkeypatch.setattr(Dense, "_part", blockwise.Blockwise._part)
    subject = Subject(Matrix(Product([factor])), True)
    with pytest.raises(Defect, match=f"the rows of a {factor.kind} are not what it computes"):
        Factors(Product([factor]), subject.matrix.layout, 1, 3, "2^-96").finding()


def test_factors_are_proven_each_and_said_to_be():
    found = Factors(CHAIN, Layout(), 1, 2, "2^-64").finding()
    assert found.holds
    assert found.detail.startswith("3 factors with 19 entries, made anew: ")
    assert found.detail.endswith("by 2 random probes each")
    assert (found.strength, found.against) == ("2^-64", "the oracle")


@pytest.mark.parametrize("at", range(6))
def test_the_product_as_a_whole_is_held_to_its_layers_one_after_another(at, monkeypatch):
    """Where the check of the entries were blind, reals would still see a wrong one."""
    monkeypatch.setattr(ProductEntries, "hold", lambda self, block, part: None)

    def change(contents: Any) -> None:
        contents["data"][at] += F32(0.01)

    assert faulty(change, seed=1).complaint.startswith("product: output (")


def test_with_other_kernel_arrays_a_kernel_index_is_no_part_of_a_product():
    with pytest.raises(UsageError, match="kernel_index"):
        rendered(NPZ, Matrix(CHAIN, Spec(kernel_index=True)))


@pytest.mark.parametrize("other", [-np.inf, np.nan, 1.0])
def test_an_entry_that_is_not_finite_is_no_other_that_is_not(other):
    factors = [Diagonal(np.array([np.inf, 2], F32), (2,)), Dense(np.ones((1, 2), F32))]
    contents = crafted.arrays(rendered(NPZ, Matrix(Product(factors))))
    assert crafted.checked(crafted.saved(contents)).ok
    contents["data"][0] = other
    report = crafted.checked(crafted.saved(contents))
    assert report.complaint.startswith("entries: entry (0, 0), output (0,)")


def test_the_rows_of_a_chain_with_a_wide_middle_are_multiplied_a_few_at_a_time(monkeypatch):
    """16 numbers, 4,096 in between, 16 again: few entries, each from many paths."""
    wide, narrow = random_dense(4096, 16), random_dense(16, 4096)
    layer, made = Product([wide, narrow]), []
    block_of_rows = product.block_of_rows

    def watched(matrices: Any, first: int, last: int, change: Any) -> Any:
        made.append(last - first)
        return block_of_rows(matrices, first, last, change)

    monkeypatch.setattr(product, "block_of_rows", watched)
    for module in (product, sparse_product):
        monkeypatch.setattr(module, "CHUNK", 2**13)
    data = layer.matrix(Layout()).data.array()
    assert max(made) == 2
    expected = narrow.kernel.astype(np.float64) @ wide.kernel.astype(np.float64)
    assert np.allclose(data.reshape(16, 16), expected, rtol=1e-6)


def random_dense(made: int, read: int) -> Dense:
    random = np.random.default_rng([made, read])
    return Dense(random.standard_normal((made, read)).astype(F32))


def test_opening_the_file_of_a_chain_multiplies_nothing(monkeypatch):
    data = rendered(NPZ, Matrix(CHAIN))
    monkeypatch.setattr(sparse_product, "_times", None)
    (stored,) = NPZ.open(crafted.in_memory(data))
    assert stored.matrix.layer.nnz == CHAIN.nnz


def test_entries_that_a_file_of_a_chain_states_are_counted():
    contents = crafted.arrays(rendered(NPZ, Matrix(CHAIN)))
    content = json.loads(str(contents["convfc"]))
    content["nonzeros"] -= 1
    contents["convfc"] = np.array(json.dumps(content))
    for name in ("indices", "data"):
        contents[name] = contents[name][:-1]
    with pytest.raises(MalformedInput, match="indices is cut short"):
        crafted.checked(crafted.saved(contents))
