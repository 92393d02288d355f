"""Level 1, random probes of the entries and of the kernel_index: what they name, and their seed."""

import numpy as np
import pytest

from convfc_cli.errors import Refused
from convfc_cli.matrices import blocks, registry
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.proof import check, probes
from tests.support import crafted
from tests.support.crafted import example, rendered, saved
from tests.support.levels import findings, zero_and_one

NPZ = registry.formats()["npz"]
NPY = registry.formats()["npy"]


# --- entries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "data", "place", "expected", "found"),
    [
        ([0, 2], [0, 1], (1, 0), None, "0.0"),
        ([2, 3], [1, 0], (1, 1), "0.0", None),
        ([1, 2], [-0.0, 1], (1, 1), "0.0", "-0.0"),
        ([1, 3], [0, 1], (1, 2), "1.0", None),
    ],
)
def test_probes_name_the_entry_even_where_it_is_a_zero(indices, data, place, expected, found):
    contents = crafted.arrays(rendered(NPZ, Matrix(zero_and_one())))
    contents["indices"][2:4], contents["data"][2:4] = indices, data
    (wrong,) = (f for f in crafted.checked(saved(contents)).findings if f.holds is False)
    assert wrong.check == "entries"
    assert (wrong.entry.row, wrong.entry.column) == place
    assert (wrong.entry.expected, wrong.entry.found) == (expected, found)


@pytest.mark.parametrize("probes", [1, 3])
def test_of_several_wrong_entries_probes_name_the_first(probes):
    contents = crafted.arrays(rendered(NPZ, example()))
    contents["data"][[20, 19, 60, 70]] += 1
    row = int(np.searchsorted(contents["indptr"], 19, side="right")) - 1
    report = crafted.checked(saved(contents), probes=probes)
    assert report.complaint.startswith(f"entries: entry ({row}, {contents['indices'][19]}), ")


def test_probes_pass_over_the_zeros_of_a_dense_file_to_the_entry_that_is_wrong():
    matrix = Matrix(zero_and_one(), Spec(form="dense"))
    dense = np.load(crafted.io.BytesIO(rendered(NPY, matrix)))
    dense[1, 2] = 5
    report = crafted.verified(NPY, matrix, crafted.npy(dense))
    assert report.complaint.startswith("entries: entry (1, 2), ")


# --- the seed and the vectors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (5, "6ff14708a3d7be3862ae454dad5e7e6a"),  # of 05, 31 times 00, 02
        (2**256, "8bf2b00a548457587b0a0bfe04824d38"),  # of 32 times 00, 01, 02
        (2**264 - 1, "3cc9bd17ce448bf68c0257946e1904bb"),  # of 33 times ff, 02
    ],
)
def test_a_seed_that_was_told_repeats_the_run_anywhere(seed, digest):
    drawn = probes.uniform(seed, 2, (2,))
    assert drawn.astype("<u8").tobytes().hex() == digest


def test_the_vectors_of_a_proof_take_4_gib_at_most():
    # Of the inputs three for the probes and two more, of the outputs one, of 8 bytes each.
    probes.check_size(107_374_182, 2, 3)
    probes.check_size(2, 536_870_902, 3)
    for sizes in ((107_374_183, 2, 3), (107_374_182, 3, 3), (107_374_182, 2, 4)):
        with pytest.raises(Refused, match=f"with {sizes[0]} inputs .*4294967296"):
            probes.check_size(*sizes)


# --- kernel_index -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(0, 72, 7))
@pytest.mark.parametrize("transposed", [False, True])
def test_a_kernel_index_is_held_to_the_geometry_wherever_it_stands(place, transposed, monkeypatch):
    data = rendered(NPZ, example(spec=Spec(transpose=transposed), kernel_index=True))
    assert findings(crafted.checked(data))["kernel_index"].holds
    contents = crafted.arrays(data)
    contents["kernel_index"][place] ^= 1
    for module in (check, blocks):
        monkeypatch.setattr(module, "CHUNK", 20)
    row = int(np.searchsorted(contents["indptr"], place, side="right")) - 1
    assert crafted.checked(saved(contents)).complaint == (
        f"kernel_index: kernel_index of row {row} names other kernel elements"
    )


@pytest.mark.parametrize("value", [-1, -16, 16, 17, 2**31 - 1])
def test_a_kernel_index_beyond_the_kernel_is_told(value):
    contents = crafted.arrays(rendered(NPZ, example(kernel_index=True)))
    contents["kernel_index"][[40, 41]] = value, -2
    told = f"kernel_index: kernel_index has {value}, beyond the 16 weights"
    assert crafted.checked(saved(contents)).complaint == told
