"""A tensor's shape out of what several sources say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convfc_cli.errors import MalformedInput, UsageError
from convfc_cli.models.sizes import GIVEN, Account, agreed
from tests.support.crafted import within

FILE, INFERRED = "the file", "shape inference"


def test_what_one_leaves_open_another_settles() -> None:
    accounts = Account((None, 3, None), FILE), Account((1, None, None), INFERRED)
    assert agreed("x", *accounts) == (1, 3, None)
    assert agreed("x", Account(None, FILE)) is None
    assert agreed("x", Account(None, FILE), Account((), INFERRED)) == ()


@pytest.mark.parametrize("other", [(1, 3, 8), (1, 3), ()])
def test_the_users_against_the_files_is_a_usage_error(other: tuple[int, ...]) -> None:
    accounts = [Account(other, GIVEN, given=True), Account((1, 3, 9), FILE)]
    for order in (accounts, accounts[::-1]):
        with pytest.raises(UsageError) as caught:
            agreed("x", *order)
        told = ",".join(map(str, other))
        assert str(caught.value) == (
            f"the tensor 'x' is {told or 'a scalar'} by the given shape, 1,3,9 by the file"
        )


def test_a_file_that_contradicts_itself_is_malformed() -> None:
    with pytest.raises(MalformedInput, match=r"'x' is 1,3 by the file, 1,4 by shape inference"):
        agreed("x", Account((1, 3), FILE), Account((1, 4), INFERRED))


def test_accounts_that_agree_with_a_third_alone_are_held_to_each_other() -> None:
    with pytest.raises(MalformedInput):
        agreed("x", Account(None, "a"), Account((None, 2), "b"), Account((1, 3), "c"))


@given(
    st.lists(st.integers(0, 9), max_size=5),
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4),
)
def test_partial_accounts_of_one_shape_never_contradict(
    sizes: list[int], masks: list[list[bool]]
) -> None:
    accounts = [
        Account([s if m else None for s, m in zip(sizes, mask, strict=False)], FILE)
        for mask in masks
    ]
    found = agreed("x", *accounts)
    assert found is not None
    known = [any(mask[axis] for mask in masks) for axis in range(len(sizes))]
    assert found == tuple(s if k else None for s, k in zip(sizes, known, strict=True))


def test_many_accounts_take_linear_time() -> None:
    accounts = [Account((1, 3, 8), FILE)] * 100_000
    with within(2):
        assert agreed("x", *accounts) == (1, 3, 8)
