"""Faults on purpose: each changes one thing in what a file holds, and says who sees it.

A fault is given the contents of a file as `crafted.File` knows them and a random generator that
picks the place. It changes the contents in place and gives True, or gives False where there is
nothing of its sort to change. What sees it depends on the form of the file:

proof              the structure and the exact probes, also where the digest is right
digest             geometry, kernel or bias are not what the stored SHA-256 was made of
schema             the metadata contradict themselves or the arrays
model              no one but the model itself: `original=`
manifest           no one but the manifest: `listed=`
model or manifest  either of the two
nothing            no one: the matrix is what it says it is, and was
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.vocabulary import FORMS, NUMBERED, SPARSE
from tests.support import brute
from tests.support.crafted import LINKS, same

Contents = dict[str, NDArray[Any]]
Random = np.random.Generator
Change = Callable[[Contents, Random], bool]

PROOF, DIGEST, SCHEMA = "proof", "digest", "schema"
MODEL, MANIFEST, EITHER = "model", "manifest", "model or manifest"
NOTHING = "nothing"

VERIFIED = (PROOF, DIGEST, SCHEMA)
"""What `verify` sees in a file alone."""


@dataclass(frozen=True)
class Fault:
    """A change, and what sees it in files of each form that it can be made in."""

    name: str
    change: Change
    covered: dict[str, str]


FAULTS: dict[str, Fault] = {}


def register(name: str, change: Change, **covered: str) -> None:
    """Add a fault: each form says what sees it there; `numbered` does for those that can have a
    kernel_index, `sparse` for those that store nonzeros, `all` for every form.
    """
    assert name not in FAULTS
    for group, forms in (("numbered", NUMBERED), ("sparse", SPARSE), ("all", FORMS)):
        if group in covered:
            covered |= dict.fromkeys(forms, covered.pop(group))
    FAULTS[name] = Fault(name, change, covered)


def fault(**covered: str) -> Callable[[Change], Change]:
    """Register a function under its own name."""

    def named(change: Change) -> Change:
        register(change.__name__, change, **covered)
        return change

    return named


def applied(change: Change, contents: Contents, random: Random) -> Contents | None:
    """The contents with the fault, or None where it has no place or leaves every byte as it was."""
    changed = {name: array.copy() for name, array in contents.items()}
    if not change(changed, random):
        return None
    names = contents.keys() | changed.keys()
    if all(same(contents.get(name), changed.get(name)) for name in names):
        return None
    return changed


@dataclass
class Figures:
    """What has been counted of faults and of right files."""

    run: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    geometries: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    right: int = 0
    alarms: int = 0

    def count_fault(self, file: str, covered: str, seen: bool) -> None:
        """One fault in a file of this kind and form."""
        self.files.add(file)
        self.run[covered] += 1
        self.seen[covered] += seen

    def count_right(self, unaccused: bool) -> None:
        """One file without a fault."""
        self.right += 1
        self.alarms += not unaccused

    def caught(self) -> int:
        """Faults that `verify` has seen in the file alone."""
        return sum(self.seen[covered] for covered in VERIFIED)

    def to_property(self) -> tuple[str, str]:
        """Name and value of a property of a test."""
        sets = {"geometries": sorted(self.geometries), "files": sorted(self.files)}
        return "faults", json.dumps(vars(self) | sets)

    @classmethod
    def of(cls, properties: Iterable[tuple[str, object]]) -> "Figures":
        """What all these properties of tests say together."""
        total = cls()
        for name, value in properties:
            if name == "faults":
                told = json.loads(str(value))
                total.run.update(told["run"])
                total.seen.update(told["seen"])
                total.geometries.update(told["geometries"])
                total.files.update(told["files"])
                total.right += told["right"]
                total.alarms += told["alarms"]
        return total

    def __str__(self) -> str:
        asked = sum(self.run[covered] for covered in VERIFIED)
        by = ", ".join(f"{covered} {self.seen[covered]:,}" for covered in VERIFIED)
        outside = sum(self.seen[covered] for covered in (MODEL, MANIFEST, EITHER))
        return (
            f"faults: {self.caught():,} of {asked:,} caught, over {len(self.geometries):,} "
            f"geometries and {len(self.files)} forms of file ({by}); {outside:,} that only --model "
            f"or the manifest shows, {self.seen[NOTHING]:,} that nothing shows\n"
            f"false alarms: {self.alarms:,} of {self.right:,} untouched matrices"
        )


# --- what the faults have in common -------------------------------------------------------------


def picked(random, places):
    return int(random.choice(places)) if len(places) else None


def bits(array):
    """A view of the bits, to be changed."""
    return array.reshape(-1).view(f"u{array.itemsize}")


def flip(array, random, places=None):
    """One bit, of one of these elements."""
    view = bits(array)
    place = picked(random, np.arange(view.size) if places is None else places)
    if place is None:
        return False
    view[place] ^= view.dtype.type(1 << int(random.integers(8 * array.itemsize)))
    return True


def exchange(array, random, places=None):
    """Two elements of different bits, one of them at one of these places."""
    flat, known = array.reshape(-1), bits(array)
    first = picked(random, np.arange(flat.size) if places is None else places)
    second = None if first is None else picked(random, np.flatnonzero(known != known[first]))
    if second is None:
        return False
    flat[[first, second]] = flat[[second, first]]
    return True


def weights(contents):
    """The entries: those that are stored, or all."""
    return contents["data" if "data" in contents else "dense"].reshape(-1)


def entry(contents, random):
    return picked(random, np.arange(len(contents["data"])))


def row_of(contents, place):
    return int(np.searchsorted(contents["indptr"], place, side="right")) - 1


def after_another(contents):
    """The entries that are not the first of their row."""
    first = np.zeros(len(contents["data"]) + 1, bool)
    first[contents["indptr"]] = True
    return np.flatnonzero(~first[:-1])


def inserted(contents, row, column, value):
    start, stop = contents["indptr"][row : row + 2]
    place = start + np.searchsorted(contents["indices"][start:stop], column, side="right")
    contents["indices"] = np.insert(contents["indices"], place, column)
    contents["data"] = np.insert(contents["data"], place, value)
    if "kernel_index" in contents:
        contents["kernel_index"] = np.insert(contents["kernel_index"], place, 0)
    contents["indptr"][row + 1 :] += 1


def described(contents):
    return json.loads(str(contents["convfc"]))


def describe(contents, content):
    contents["convfc"] = np.array(json.dumps(content))
    return True


def axes_of(content):
    return [SimpleNamespace(**axis) for axis in content["axes"]]


def csr_of(contents, kernel=None, *, order=None, transpose=None):
    """The matrix that the metadata and the kernel make, by brute force."""
    content = described(contents)
    return brute.csr(
        contents["kernel"] if kernel is None else kernel,
        axes_of(content),
        content["groups"],
        content["transposed"],
        content["layout"]["order"] if order is None else order,
        content["layout"]["transpose"] if transpose is None else transpose,
    )


def bias_of(contents):
    """The bias of every output, by metadata and kernel_bias."""
    content = described(contents)
    shape = content["output_shape"]
    bias = contents.get("kernel_bias", np.zeros(shape[0], contents["kernel"].dtype))
    tensor = np.broadcast_to(bias.reshape(-1, *(1,) * len(content["axes"])), shape)
    vector = np.empty(prod(shape), bias.dtype)
    vector[brute.positions(shape, content["layout"]["order"])] = tensor
    return vector


def holds(contents):
    """Whether the entries are those that metadata, kernel and kernel_bias make, by brute force."""
    csr, content = csr_of(contents), described(contents)
    if list(csr.shape) != content["shape"]:
        return False
    if "dense" in contents:
        return same(contents["dense"], csr.dense())
    found = [contents["indptr"], contents["indices"], brute.bits(contents["data"])]
    expected = [csr.indptr, csr.indices, brute.bits(csr.data)]
    if "kernel_index" in contents:
        found.append(contents["kernel_index"])
        expected.append(csr.kernel_index)
    if not same(contents["bias"], bias_of(contents)):
        return False
    return all(map(np.array_equal, found, expected))


def rewrite(contents, csr):
    """Put these entries in place of those that are there."""
    if "dense" in contents:
        contents["dense"] = csr.dense()
    else:
        for name in ("indptr", "indices", "data"):
            contents[name] = getattr(csr, name).astype(contents[name].dtype, copy=False)
    return True


def with_its_digest(contents):
    """Compute the digest again, as its documentation says."""
    content = described(contents)
    names = ("kind", "input_shape", "output_shape")
    names += ("kernel_shape", "axes", "groups", "transposed", "bias", "dtype")
    geometry = {name: content[name] for name in names}
    sha = hashlib.sha256(json.dumps(geometry, sort_keys=True).encode())
    for name in ("kernel", "kernel_bias"):
        if name in contents:
            sha.update(contents[name].tobytes())
    content["digest"] = sha.hexdigest()
    return describe(contents, content)


def derived(content):
    """What geometry and layout make of sizes and counts."""
    shape, groups = content["kernel_shape"], content["groups"]
    axes, transposed = axes_of(content), content["transposed"]
    out, source = map(list, brute.tensor_shapes(shape, axes, groups, transposed))
    sides = [prod(out), prod(source)]
    taps = prod(len(brute.axis_taps(axis)) for axis in axes)
    return {
        "shape": sides[::-1] if content["layout"]["transpose"] else sides,
        "nonzeros": shape[0] * shape[1] * taps,
        "input_shape": source,
        "output_shape": out,
    }


def fitted(contents, content):
    """Put this geometry or layout into the file, with all that follows from it but the entries and
    the digest; False where the kernel_bias does not fit.
    """
    content = {**content, **derived(content)}
    channels = contents.get("kernel_bias", np.zeros(content["output_shape"][0])).size
    if channels != content["output_shape"][0]:
        return False
    describe(contents, content)
    if "data" in contents:
        contents["shape"] = np.array(content["shape"], contents["shape"].dtype)
        contents["bias"] = bias_of(contents)
    return True


def read_elements(contents):
    """The flat kernel elements that some output reads."""
    content = described(contents)
    read = np.ones(content["kernel_shape"][:2], bool)
    for axis in axes_of(content):
        taps = {t for _, _, t in brute.axis_taps(axis)}
        read = read[..., None] & np.isin(np.arange(axis.kernel), list(taps))
    return np.flatnonzero(read)


# --- the entries --------------------------------------------------------------------------------


@fault(sparse=PROOF, dense=PROOF)
def one_bit_of_one_weight(contents, random):
    return flip(weights(contents), random)


@fault(sparse=PROOF, dense=PROOF)
def one_ulp_of_one_weight(contents, random):
    view = bits(weights(contents))
    place = picked(random, np.arange(view.size))
    if place is None:
        return False
    view[place : place + 1] += view.dtype.type(1)
    return True


@fault(sparse=PROOF, dense=PROOF)
def the_sign_of_a_zero(contents, random):
    values = weights(contents)
    place = picked(random, np.flatnonzero(values == 0))
    if place is None:
        return False
    values[place] = 0.0 if np.signbit(values[place]) else -0.0
    return True


@fault(sparse=PROOF, dense=PROOF)
def two_weights_exchanged(contents, random):
    return exchange(weights(contents), random)


@fault(csr=PROOF)
def all_weights_of_a_row_turned_round(contents, random):
    rows = np.flatnonzero(np.diff(contents["indptr"]) > 1)
    row = picked(random, rows)
    if row is None:
        return False
    part = slice(*contents["indptr"][row : row + 2])
    contents["data"][part] = contents["data"][part][::-1].copy()
    return True


def moved(contents, random, places):
    """One of these entries in another column, the columns of its row still rising."""
    indptr, indices = contents["indptr"], contents["indices"]
    for place in random.permutation(places):
        row = row_of(contents, place)
        low = indices[place - 1] + 1 if place > indptr[row] else 0
        high = indices[place + 1] if place + 1 < indptr[row + 1] else contents["shape"][1]
        free = [column for column in range(low, high) if column != indices[place]]
        if free:
            indices[place] = picked(random, free)
            return True
    return False


@fault(csr=PROOF)
def a_weight_moved_to_another_column(contents, random):
    return moved(contents, random, np.arange(len(contents["data"])))


@fault(csr=PROOF)
def a_stored_zero_moved_to_another_column(contents, random):
    return moved(contents, random, np.flatnonzero(brute.bits(contents["data"]) == 0))


@fault(dense=PROOF)
def a_weight_moved_to_a_zero(contents, random):
    known = bits(contents["dense"])
    source = picked(random, np.flatnonzero(known))
    target = picked(random, np.flatnonzero(known == 0))
    if source is None or target is None:
        return False
    known[target], known[source] = known[source], 0
    return True


@fault(csr=PROOF)
def an_entry_dropped(contents, random):
    place = entry(contents, random)
    if place is None:
        return False
    row = row_of(contents, place)
    for name in {"data", "indices", "kernel_index"} & contents.keys():
        contents[name] = np.delete(contents[name], place)
    contents["indptr"][row + 1 :] -= 1
    return True


@fault(csr=PROOF)
def an_entry_added(contents, random):
    rows, columns = contents["shape"]
    row = int(random.integers(rows))
    start, stop = contents["indptr"][row : row + 2]
    column = picked(random, np.setdiff1d(np.arange(columns), contents["indices"][start:stop]))
    if column is None:
        return False
    inserted(contents, row, column, random.choice([0.0, 1.0]))
    return True


@fault(csr=PROOF)
def an_entry_in_the_row_of_another(contents, random):
    ends = np.flatnonzero(np.diff(contents["indptr"])[:-1] > 0) + 1
    row = picked(random, ends[ends < len(contents["indptr"]) - 1])
    if row is None:
        return False
    contents["indptr"][row] -= 1
    return True


@fault(csr=PROOF)
def an_entry_stored_twice(contents, random):
    place = entry(contents, random)
    if place is None:
        return False
    column, value = contents["indices"][place], contents["data"][place]
    inserted(contents, row_of(contents, place), column, value)
    return True


@fault(csr=PROOF)
def an_entry_stored_twice_with_bits_that_add_up(contents, random):
    # As the probes add (bits + 1) of what stands in a column, these two weigh as much as the one.
    low = brute.bits(contents["data"]).astype(np.uint64) & np.uint64(0xFFFFFFFF)
    place = picked(random, np.flatnonzero(low > 0))
    if place is None:
        return False
    bits(contents["data"])[place] -= 1
    row, column = row_of(contents, place), contents["indices"][place]
    inserted(contents, row, column, 0.0)
    return True


@fault(csr=PROOF)
def a_column_stored_twice_in_place_of_its_neighbor(contents, random):
    place = picked(random, after_another(contents))
    if place is None:
        return False
    contents["indices"][place] = contents["indices"][place - 1]
    return True


@fault(csr=PROOF)
def two_columns_exchanged_with_their_weights(contents, random):
    place = picked(random, after_another(contents))
    if place is None:
        return False
    for name in {"indices", "data", "kernel_index"} & contents.keys():
        contents[name][[place - 1, place]] = contents[name][[place, place - 1]]
    return True


@fault(csr=PROOF)
def a_row_shifted(contents, random):
    indptr, indices = contents["indptr"], contents["indices"]
    for row in random.permutation(contents["shape"][0]):
        start, stop = indptr[row : row + 2]
        step = random.choice([-1, 1])
        if (
            start < stop
            and indices[start] + step >= 0
            and indices[stop - 1] + step < contents["shape"][1]
        ):
            indices[start:stop] += step
            return True
    return False


@fault(csr=PROOF)
def two_rows_exchanged(contents, random):
    indptr = contents["indptr"]
    rows = random.permutation(contents["shape"][0])
    for first in rows[:8]:
        for second in rows[:8]:
            ours, theirs = (slice(*indptr[row : row + 2]) for row in (first, second))
            if ours.stop - ours.start != theirs.stop - theirs.start:
                continue
            parts = [
                (contents[name][ours].copy(), contents[name][theirs].copy())
                for name in ("indices", "data")
            ]
            if all(a.tobytes() == b.tobytes() for a, b in parts):
                continue
            for name, (a, b) in zip(("indices", "data"), parts, strict=True):
                contents[name][ours], contents[name][theirs] = b, a
            return True
    return False


def rolled(dense, random):
    for row in random.permutation(len(dense)):
        if not same(np.roll(dense[row], 1), dense[row]):
            dense[row] = np.roll(dense[row], 1)
            return True
    return False


@fault(dense=PROOF)
def a_dense_row_shifted(contents, random):
    return rolled(contents["dense"], random)


@fault(dense=PROOF)
def a_dense_column_shifted(contents, random):
    return rolled(contents["dense"].T, random)


def exchanged(dense, random):
    first = int(random.integers(len(dense)))
    others = [row for row in range(len(dense)) if not same(dense[row], dense[first])]
    second = picked(random, others)
    if second is None:
        return False
    dense[[first, second]] = dense[[second, first]]
    return True


@fault(dense=PROOF)
def two_dense_rows_exchanged(contents, random):
    return exchanged(contents["dense"], random)


@fault(dense=PROOF)
def two_dense_columns_exchanged(contents, random):
    return exchanged(contents["dense"].T, random)


@fault(dense=PROOF)
def the_same_dense_values_in_another_shape(contents, random):
    dense = contents["dense"]
    contents["dense"] = dense.reshape(random.choice([dense.size, 1]), -1)
    return True


@fault(csr=PROOF)
def a_row_ends_one_entry_later(contents, random):
    indptr = contents["indptr"]
    row = picked(random, np.flatnonzero(np.diff(indptr)[1:] > 0) + 1)
    if row is None:
        return False
    indptr[row] += 1
    return True


@fault(csr=PROOF)
def any_row_pointer_off_by_one(contents, random):
    contents["indptr"][random.integers(len(contents["indptr"]))] += random.choice([-1, 1])
    return True


@fault(csr=PROOF)
def a_row_that_takes_all_entries(contents, random):
    ends = contents["indptr"][1:]
    row = picked(random, np.flatnonzero(ends < len(contents["data"])))
    if row is None:
        return False
    ends[row:] = len(contents["data"])
    return True


@fault(csr=PROOF)
def a_row_pointer_that_is_right_modulo_2_to_the_32(contents, random):
    contents["indptr"] = contents["indptr"].astype(np.int64)
    place = random.integers(len(contents["indptr"]))
    contents["indptr"][place] += random.choice([-1, 1]) * 2**32
    return True


@fault(csr=PROOF)
def a_column_beyond_the_last(contents, random):
    place = entry(contents, random)
    if place is None:
        return False
    contents["indices"][place] = random.choice([contents["shape"][1], 2**31 - 1])
    return True


@fault(csr=PROOF)
def a_negative_column(contents, random):
    place = entry(contents, random)
    if place is None:
        return False
    contents["indices"][place] = random.choice([-1, -contents["shape"][1], -(2**31)])
    return True


@fault(csr=PROOF)
def a_column_that_is_right_modulo_2_to_the_32(contents, random):
    place = entry(contents, random)
    if place is None:
        return False
    contents["indices"] = contents["indices"].astype(np.int64)
    contents["indices"][place] += random.choice([-1, 1]) * 2**32
    return True


@fault(csr=PROOF)
def columns_as_unsigned_numbers(contents, random):
    contents["indices"] = contents["indices"].astype(np.uint32)
    return True


@fault(sparse=PROOF, dense=PROOF)
def entries_of_another_dtype(contents, random):
    name = "data" if "data" in contents else "dense"
    contents[name] = in_another_dtype(contents[name])
    return True


def in_another_dtype(array):
    with np.errstate(all="ignore"):
        return array.astype(np.float32 if array.dtype == np.float64 else np.float64)


# --- the entries of another layer, or another layout --------------------------------------------


@fault(csr=PROOF, dense=PROOF)
def entries_of_a_kernel_flipped_along_one_axis(contents, random):
    kernel = contents["kernel"]
    return rewrite(contents, csr_of(contents, np.flip(kernel, random.integers(2, kernel.ndim))))


@fault(csr=PROOF, dense=PROOF)
def entries_of_a_kernel_flipped_along_all_axes(contents, random):
    kernel = contents["kernel"]
    return rewrite(contents, csr_of(contents, np.flip(kernel, tuple(range(2, kernel.ndim)))))


def reordered(contents, one, other):
    kernel = contents["kernel"]
    return rewrite(contents, csr_of(contents, kernel.swapaxes(one, other).reshape(kernel.shape)))


@fault(csr=PROOF, dense=PROOF)
def entries_of_a_kernel_with_two_spatial_axes_exchanged(contents, random):
    if contents["kernel"].ndim == 3:
        return False
    return reordered(contents, *random.permutation(np.arange(2, contents["kernel"].ndim))[:2])


@fault(csr=PROOF, dense=PROOF)
def entries_of_a_kernel_with_input_and_output_channels_exchanged(contents, random):
    return reordered(contents, 0, 1)


@fault(csr=PROOF, dense=PROOF)
def entries_of_a_kernel_read_in_fortran_order(contents, random):
    kernel = contents["kernel"]
    return rewrite(contents, csr_of(contents, kernel.ravel(order="F").reshape(kernel.shape)))


@fault(csr=PROOF, dense=PROOF)
def entries_of_a_kernel_with_its_groups_turned_round(contents, random):
    kernel = contents["kernel"]
    by_group = kernel.reshape(described(contents)["groups"], -1, *kernel.shape[1:])
    return rewrite(contents, csr_of(contents, by_group[::-1].reshape(kernel.shape)))


@fault(csr=PROOF, dense=PROOF)
def entries_in_another_order(contents, random):
    return rewrite(contents, csr_of(contents, order=another_order(described(contents), random)))


@fault(csr=PROOF, dense=PROOF)
def entries_in_the_other_orientation(contents, random):
    transpose = not described(contents)["layout"]["transpose"]
    return rewrite(contents, csr_of(contents, transpose=transpose))


def another_order(content, random):
    orders = {"channels-first", "channels-last", "fortran"} - {content["layout"]["order"]}
    return str(random.choice(sorted(orders)))


# --- kernel and bias ----------------------------------------------------------------------------


@fault(all=DIGEST)
def one_bit_of_the_kernel(contents, random):
    return flip(contents["kernel"], random)


@fault(sparse=PROOF, dense=PROOF, operator=MODEL)
def one_bit_of_the_kernel_with_its_digest(contents, random):
    return flip(contents["kernel"], random, read_elements(contents)) and with_its_digest(contents)


@fault(all=MODEL)
def one_bit_of_an_unread_kernel_element_with_its_digest(contents, random):
    unread = np.setdiff1d(np.arange(contents["kernel"].size), read_elements(contents))
    return flip(contents["kernel"], random, unread) and with_its_digest(contents)


@fault(all=DIGEST)
def two_kernel_elements_exchanged(contents, random):
    return exchange(contents["kernel"], random)


@fault(sparse=PROOF, dense=PROOF, operator=MODEL)
def two_kernel_elements_exchanged_with_their_digest(contents, random):
    places = read_elements(contents)
    return exchange(contents["kernel"], random, places) and with_its_digest(contents)


@fault(csr=PROOF, dense=PROOF, operator=MODEL)
def a_kernel_flipped_with_its_digest(contents, random):
    kernel = contents["kernel"]
    flipped = np.flip(kernel, tuple(range(2, kernel.ndim)))
    contents["kernel"] = np.ascontiguousarray(flipped)
    with_its_digest(contents)
    return not same(kernel, flipped) and is_wrong(contents)


def recast(contents, names):
    for name in set(names) & contents.keys():
        contents[name] = in_another_dtype(contents[name])
    describe(contents, described(contents) | {"dtype": contents["kernel"].dtype.name})
    return with_its_digest(contents)


@fault(sparse=PROOF, dense=PROOF, operator=MODEL)
def a_kernel_of_another_dtype_with_its_digest(contents, random):
    return recast(contents, ("kernel", "kernel_bias"))


@fault(sparse=MODEL, dense=MODEL)
def a_layer_of_another_dtype_with_its_digest(contents, random):
    return recast(contents, ("kernel", "kernel_bias", "bias", "data", "dense"))


@fault(sparse=PROOF)
def one_bit_of_the_bias(contents, random):
    return flip(contents["bias"], random)


@fault(all=DIGEST)
def one_bit_of_the_kernel_bias(contents, random):
    return "kernel_bias" in contents and flip(contents["kernel_bias"], random)


@fault(sparse=PROOF, dense=MODEL, operator=MODEL)
def one_bit_of_the_kernel_bias_with_its_digest(contents, random):
    return one_bit_of_the_kernel_bias(contents, random) and with_its_digest(contents)


@fault(sparse=DIGEST)
def one_bit_of_the_bias_in_both_places(contents, random):
    found = one_bit_of_the_kernel_bias(contents, random)
    contents["bias"] = bias_of(contents)
    return found


@fault(sparse=MODEL)
def one_bit_of_the_bias_in_both_places_with_its_digest(contents, random):
    return one_bit_of_the_bias_in_both_places(contents, random) and with_its_digest(contents)


@fault(all=MODEL)
def no_bias_any_more_with_its_digest(contents, random):
    bias = contents.pop("kernel_bias", None)
    if bias is None or not bits(bias).any():
        return False
    describe(contents, described(contents) | {"bias": False})
    if "bias" in contents:
        contents["bias"] = bias_of(contents)
    return with_its_digest(contents)


# --- kernel_index -------------------------------------------------------------------------------


@fault(numbered=PROOF)
def two_numbers_of_kernel_elements_exchanged(contents, random):
    return "kernel_index" in contents and exchange(contents["kernel_index"], random)


def number_changed(contents, random, change):
    place = entry(contents, random) if "kernel_index" in contents else None
    if place is None:
        return False
    contents["kernel_index"][place] = change(int(contents["kernel_index"][place]))
    return True


@fault(numbered=PROOF)
def the_number_of_a_kernel_element_off_by_one(contents, random):
    step = random.choice([-1, 1])
    return number_changed(contents, random, lambda number: number + step)


@fault(numbered=PROOF)
def the_number_of_a_kernel_element_beyond_the_last(contents, random):
    wrong = random.choice([contents["kernel"].size, 2**31 - 1])
    return number_changed(contents, random, lambda number: wrong)


@fault(numbered=PROOF)
def a_negative_number_of_a_kernel_element(contents, random):
    size = contents["kernel"].size
    wrong = random.choice([-1, -size, -(2**31)])
    return number_changed(contents, random, lambda number: wrong)


@fault(numbered=PROOF)
def a_number_of_a_kernel_element_that_is_right_modulo_2_to_the_32(contents, random):
    if "kernel_index" in contents:
        contents["kernel_index"] = contents["kernel_index"].astype(np.int64)
    step = random.choice([-1, 1]) * 2**32
    return number_changed(contents, random, lambda number: number + step)


# --- the geometry -------------------------------------------------------------------------------


def stepped(*names: str, least: int = 1):
    """Metadata in which one of these numbers of one axis is another."""

    def changes(content, random) -> Iterator[dict[str, Any]]:
        places = [(axis, name) for axis in range(len(content["axes"])) for name in names]
        for place in random.permutation(len(places)):
            axis, name = places[place]
            for step in random.permutation([-2, -1, 1, 2]).tolist():
                if content["axes"][axis][name] + step >= least:
                    axes = [dict(known) for known in content["axes"]]
                    axes[axis][name] += step
                    yield content | {"axes": axes}

    return changes


def of_other_groups(content, random):
    channels = content["kernel_shape"][0]
    for groups in random.permutation(np.arange(1, channels + 1)).tolist():
        if channels % groups == 0 and groups != content["groups"]:
            yield content | {"groups": groups}


def turned_round(content, random):
    yield content | {"transposed": not content["transposed"]}


def with_axes_exchanged(content, random):
    for one, other in pairwise(range(len(content["axes"]))):
        axes = list(content["axes"])
        axes[one], axes[other] = axes[other], axes[one]
        if [axis["kernel"] for axis in axes] == content["kernel_shape"][2:]:
            yield content | {"axes": axes}


GEOMETRY = {
    "another_stride": (stepped("stride"), ("csr", "dense")),
    "another_dilation": (stepped("dilation"), ("csr", "dense")),
    "another_offset": (stepped("offset", least=-(2**40)), ("csr", "dense")),
    "another_size": (stepped("inputs", "outputs"), ("csr",)),
    "another_number_of_groups": (of_other_groups, ("csr",)),
    "the_other_direction": (turned_round, ("csr", "dense")),
    "two_axes_exchanged": (with_axes_exchanged, ("csr", "dense")),
}
"""What changes, and the forms in which it may leave every entry where it is."""


def with_geometry(changes, suits, *, digest):
    """A change to the first geometry that suits, all that follows from it made to fit."""

    def change(contents, random):
        content = described(contents)
        for changed in changes(content, random):
            if changed == content or not fitted(contents, changed):
                continue
            if digest:
                with_its_digest(contents)
            if suits(contents):
                return True
        return False

    return change


def alone(changes, *, contradicts):
    """A change to geometry alone, where other fields contradict it or where none does."""

    def change(contents, random):
        content = described(contents)
        for changed in changes(content, random):
            new = derived(changed)
            if changed != content and contradicts == any(content[key] != new[key] for key in new):
                return describe(contents, changed)
        return False

    return change


def has_entries(contents):
    return "data" in contents or "dense" in contents


def is_wrong(contents):
    return not has_entries(contents) or not holds(contents)


def is_right(contents):
    return has_entries(contents) and holds(contents)


def always(contents):
    return True


for name, (changes, forms) in GEOMETRY.items():
    register(
        f"{name}_with_its_digest",
        with_geometry(changes, is_wrong, digest=True),
        **{"csr": PROOF, "dense": PROOF, "operator": MODEL},
    )
    register(
        f"{name}_of_the_same_entries_with_its_digest",
        with_geometry(changes, is_right, digest=True),
        **dict.fromkeys(forms, MODEL),
    )
    register(
        f"{name}_and_all_that_follows", with_geometry(changes, always, digest=False), all=DIGEST
    )
    register(f"{name}_alone_as_sizes_contradict", alone(changes, contradicts=True), all=SCHEMA)
    if "dense" in forms:
        register(f"{name}_alone_as_sizes_fit", alone(changes, contradicts=False), all=DIGEST)


# --- the layout ---------------------------------------------------------------------------------


def in_other_orders(content, random):
    for order in random.permutation(["channels-first", "channels-last", "fortran"]).tolist():
        yield content | {"layout": content["layout"] | {"order": order}}


def in_other_orientations(content, random):
    transpose = not content["layout"]["transpose"]
    yield content | {"layout": content["layout"] | {"transpose": transpose}}


def is_square(contents):
    rows, columns = described(contents)["shape"]
    return rows == columns


for name, changes, where, operator in (
    ("another_order", in_other_orders, always, NOTHING),
    ("the_other_orientation", in_other_orientations, lambda c: not is_square(c), MANIFEST),
    ("the_other_orientation_of_a_square", in_other_orientations, is_square, NOTHING),
):
    register(
        f"{name}_in_the_metadata",
        with_geometry(changes, lambda c, where=where: where(c) and is_wrong(c), digest=False),
        **{"csr": PROOF, "dense": PROOF, "operator": operator},
    )
    if where is not always and operator == MANIFEST:
        continue  # another shape is another matrix
    register(
        f"{name}_that_makes_the_same_matrix",
        with_geometry(changes, lambda c, where=where: where(c) and is_right(c), digest=False),
        **{"csr": NOTHING, "dense": NOTHING},
    )
register(
    "the_other_orientation_alone_as_sizes_contradict",
    alone(in_other_orientations, contradicts=True),
    all=SCHEMA,
)


# --- the metadata, one field at a time ----------------------------------------------------------


def one_field(path: str, *values: Any):
    """One field, at a path of names, as one of these values: functions are given the old one."""
    *outer, last = path.split("/")

    def change(contents, random):
        content = described(contents)
        place = content
        for name in outer:
            place = place[name]
        value = values[random.integers(len(values))]
        new = value(place[last]) if callable(value) else value
        if json.dumps(place[last]) == json.dumps(new):
            return False
        place[last] = new
        return describe(contents, content)

    return change


def longer(sizes):
    return [*sizes, 1]


def grown(sizes):
    return [*sizes[:-1], sizes[-1] + 1]


def turned(sizes):
    return sizes[::-1]


SIZES = (longer, grown, turned, None, "", [])
FIELDS: dict[str, tuple[Any, ...]] = {
    "schema": ("convfc/2", "", None, "CONVFC/1"),
    "form": ("csr", "dense", "operator", "", None),
    "shape": SIZES,
    "nonzeros": (lambda n: n + 1, lambda n: n - 1, float, str, None),
    "kernel_index": (lambda flag: not flag, 0, None),
    "layout": (None, {}, "channels-first"),
    "layout/order": ("channels-middle", "", None),
    "layout/transpose": (0, 1, None, "false"),
    "input_shape": SIZES,
    "output_shape": SIZES,
    "kernel_shape": SIZES,
    "axes": (longer, [], None, lambda axes: [*axes, axes[0]], lambda axes: axes[1:]),
    **{
        f"axes/0/{name}": (float, str, None, 2**62, True)
        for name in ("inputs", "outputs", "kernel", "stride", "dilation", "offset")
    },
    "groups": (0, -1, float, None, lambda groups: 7 * groups),
    "transposed": (0, 1, None, "true"),
    "bias": (lambda flag: not flag, 0, None),
    "dtype": ("float32", "float64", "float16", "", None, lambda dtype: "<" + dtype),
    "version": (1, None, []),
    "origin": (None, [], "model.onnx"),
    "origin/file": (None, 1),
    "origin/sha256": (None, 1),
    "origin/layer": (None, 1),
    "origin/output": (None, 1),
    "origin/position": (None, "0", 1.5, True),
    "origin/op": (None, 1),
    "origin/dtype": (None, 1),
    "origin/flipped": (None, 0, 1),
}


def at_axis_0(path: str, *values: Any):
    """As `one_field`, in the first of the axes."""
    name = path.rpartition("/")[2]

    def change(contents, random):
        content = described(contents)
        value = values[random.integers(len(values))]
        old = content["axes"][0][name]
        content["axes"][0][name] = value(old) if callable(value) else value
        return describe(contents, content)

    return change


for path, values in FIELDS.items():
    make = at_axis_0 if path.startswith("axes/") else one_field
    register(f"metadata_{path.replace('/', '_')}_malformed", make(path, *values), all=SCHEMA)


def absent(contents, random):
    content = described(contents)
    names = sorted(content.keys() - {"digest"})
    del content[names[random.integers(len(names))]]
    return describe(contents, content)


def unknown(contents, random):
    content = described(contents)
    place = [content, content["layout"], content["axes"][0], content["origin"]][random.integers(4)]
    place["surplus"] = 1
    return describe(contents, content)


def twice(contents, random):
    text = str(contents["convfc"])
    name = random.choice(["nonzeros", "schema", "digest", "groups"])
    contents["convfc"] = np.array(
        f'{{"{name}": {json.dumps(described(contents)[name])}, {text[1:]}'
    )
    return True


def cut_short(contents, random):
    text = str(contents["convfc"])
    contents["convfc"] = np.array(text[: random.integers(len(text))])
    return True


register("a_field_of_the_metadata_absent", absent, all=SCHEMA)
register("a_field_of_the_metadata_unknown", unknown, all=SCHEMA)
register("a_field_of_the_metadata_twice", twice, all=SCHEMA)
register("the_metadata_cut_short", cut_short, all=SCHEMA)
register("the_version", one_field("version", "0.0.0", "", "99"), all=NOTHING)


@fault(all=DIGEST)
def another_digest(contents, random):
    known = described(contents)["digest"]
    wrong = random.choice(["", "0" * 64, known.upper(), known[1:] + known[0], known[:-1]])
    return describe(contents, described(contents) | {"digest": str(wrong)})


@fault(all=DIGEST)
def no_digest(contents, random):
    content = described(contents)
    del content["digest"]
    return describe(contents, content if random.integers(2) else content | {"digest": None})


def without_origin(name):
    """The field absent, where that says another thing than what it said."""

    def change(contents, random):
        content = described(contents)
        return bool(content["origin"].pop(name)) and describe(contents, content)

    return change


def one_more(name):
    return f"{name}2"


for name, covered, values in (
    ("file", NOTHING, (one_more, "")),
    ("sha256", MANIFEST, ("", "0" * 64, str.upper)),
    ("layer", EITHER, (one_more, "")),
    ("output", EITHER, (one_more, "")),
    ("position", EITHER, (lambda position: position + 1,)),
    ("op", EITHER, ("ConvTranspose", "")),
    ("dtype", MODEL, ("float64", "float16", "")),
    ("flipped", MODEL, (lambda flag: not flag,)),
):
    register(f"the_origins_{name}", one_field(f"origin/{name}", *values), all=covered)
    if name != "flipped":
        register(f"the_origins_{name}_absent", without_origin(name), all=covered)


# --- the arrays as such -------------------------------------------------------------------------


@fault(all=SCHEMA)
def an_array_absent(contents, random):
    names = {"kernel", "kernel_bias", "bias", "row", "col", *LINKS, "kernel_index"}
    found = sorted(names & contents.keys())
    del contents[found[random.integers(len(found))]]
    return True


@fault(all=SCHEMA)
def an_array_too_many(contents, random):
    names = sorted({"kernel_bias", "bias", "kernel_index", "surplus"} - contents.keys())
    contents[names[random.integers(len(names))]] = np.zeros(1, contents["kernel"].dtype)
    return True


@fault(all=SCHEMA)
def a_kernel_of_another_shape(contents, random):
    kernel = contents["kernel"]
    contents["kernel"] = kernel.reshape([(kernel.size,), (*kernel.shape, 1)][random.integers(2)])
    return True


@fault(all=SCHEMA)
def a_kernel_bias_of_another_length(contents, random):
    if "kernel_bias" not in contents:
        return False
    contents["kernel_bias"] = np.append(contents["kernel_bias"], contents["kernel_bias"][:1])
    return True


@fault(sparse=PROOF)
def a_bias_of_another_length(contents, random):
    contents["bias"] = np.append(contents["bias"], contents["bias"][:1])
    return True


@fault(sparse=SCHEMA)
def another_shape_beside_the_arrays(contents, random):
    contents["shape"][random.integers(2)] += random.choice([-1, 1])
    return True


@fault(sparse=SCHEMA)
def another_format_beside_the_arrays(contents, random):
    if "format" in contents:
        contents["format"] = np.array(random.choice([b"csc", b"coo", b"CSR"]))
        return True
    text = str(contents["binsparse"])
    for old, new in [[('"CSR"', '"CSC"'), ('"values"', '"value"')][random.integers(2)]]:
        contents["binsparse"] = np.array(text.replace(old, new))
    return True


@fault(csr=SCHEMA)
def another_encoding_beside_the_arrays(contents, random):
    if "encoding-type" not in contents:
        return False
    contents["encoding-type"] = np.array("csc_matrix")
    return True


@fault(csr=SCHEMA, dense=SCHEMA, operator=SCHEMA)
def another_name_of_the_group(contents, random):
    if "group" not in contents:
        return False
    contents["group"] = np.array(f"{contents['group']}2")
    return True
