"""Files that version 0.1 wrote are still read, proven, mapped and written to the same matrix.

`tests/data/written_by_0.1` has them, and how they were made.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.jobs.manifest import matrix_files
from convfc_cli.jobs.verify import verify_all
from tests.support.cli_models import arrays, run
from tests.support.paths import DATA

WRITTEN = DATA / "written_by_0.1"
COMMANDS: dict[str, str] = json.loads((WRITTEN / "commands.json").read_text())
FILES = sorted(
    str(path.relative_to(WRITTEN))
    for name in COMMANDS
    for path in (WRITTEN / name).parent.glob(
        name.rstrip("/") + ("/*.np[yz]" if name[-1] == "/" else "")
    )
    if "operator.npz" not in path.name or name == "operator.npz"
)
every_file = pytest.mark.parametrize("name", FILES)


def model_of(name: str) -> Path:
    """The model that a file is of."""
    folder = f"{Path(name).parent}/"
    return WRITTEN / COMMANDS.get(name, COMMANDS.get(folder, "")).split()[0]


def layers(path: Path) -> list[str | None]:
    """The names of the layers of a file that holds several."""
    if path.suffix not in (".h5", ".hdf5"):
        return [None]
    with h5py.File(path) as file:
        texts = [json.loads(group["convfc"][()]) for group in file.values()]
    return [text["origin"]["layer"] for text in texts]


@pytest.mark.slow
def test_the_files_are_of_every_form_and_format() -> None:
    assert len(FILES) == len(COMMANDS) + 2  # two folders of two files each
    told = [report(name) for name in FILES]
    assert {found["form"] for found in told} == {"csr", "csc", "coo", "bsr", "dense", "operator"}
    suffixes = {Path(name).suffix for name in FILES}
    assert suffixes == {".npz", ".npy", ".mtx", ".csv", ".mat", ".h5", ".hdf5"}


def report(name: str) -> Any:
    """What `verify` says of the first matrix of a file."""
    return json.loads(run("verify", WRITTEN / name, "--json").succeeded().out)["matrices"][0]


@pytest.mark.slow
@every_file
def test_it_is_proven(name: str) -> None:
    path, model = WRITTEN / name, model_of(name)
    said = "consistent" if name.startswith("operator.") else "proven"
    done = run("verify", path, "--model", model).succeeded()
    assert [line.split("\t")[0] for line in done.lines] == [said] * len(layers(path))
    assert all(found.ok for found in verify_all(path))


@every_file
def test_it_is_loaded_and_mapped(name: str) -> None:
    path = WRITTEN / name
    for layer in layers(path):
        picked = ["-l", layer] if layer else []
        operator = convfc.load(path, layer)
        x = np.arange(operator.shape[1], dtype=np.float64)
        rows = operator.rows(0, operator.shape[0])
        np.testing.assert_allclose(operator @ x, rows @ x, rtol=1e-5, atol=1e-3)
        row = int(np.diff(rows.indptr).argmax())
        column, value = rows.indices[rows.indptr[row]], rows.data[rows.indptr[row]]
        done = run("map", path, *picked, "--entry-at", f"{row},{column}").succeeded()
        assert done.lines[1].split("\t")[:2] == [str(row), str(column)]
        assert value == pytest.approx(float(done.lines[1].split("\t")[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_todays_version_writes_the_same_matrix(name: str, tmp_path: Path) -> None:
    model, *rest = COMMANDS[name].split()
    target = tmp_path / name if name[-1] != "/" else f"{tmp_path}/{name}"
    run("convert", WRITTEN / model, *rest, "-o", target, "--no-verify").succeeded()
    for file in FILES:
        if file == name or file.startswith(name if name[-1] == "/" else "?"):
            same(WRITTEN / file, tmp_path / file)


def same(one: Path, other: Path) -> None:
    """Fail unless two files hold the same entries."""
    if one.suffix == ".npz":
        old, new = arrays(one), arrays(other)
        assert old.keys() - {"convfc"} == new.keys() - {"convfc", "_is_array"}
        for key in old.keys() - {"convfc"}:
            assert (old[key].dtype, old[key].tobytes()) == (new[key].dtype, new[key].tobytes()), key
    elif one.suffix in (".h5", ".hdf5"):
        with h5py.File(one) as old, h5py.File(other) as new:
            assert old.keys() == new.keys()
            for group in old:
                assert old[group].keys() == new[group].keys()
                for key in old[group].keys() - {"convfc"}:
                    assert old[group][key][()].tobytes() == new[group][key][()].tobytes(), key
    else:
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name[-1] == "/"])
def test_the_manifest_of_its_folder_is_right(name: str) -> None:
    model = WRITTEN / COMMANDS[name].split()[0]
    done = run("verify", WRITTEN / name, "--model", model).succeeded()
    assert done.err == "2 of 2 proven\n"
    found = list(matrix_files(WRITTEN / name))
    assert all(isinstance(file, tuple) for file in found)


@every_file
def test_a_damaged_copy_of_it_is_not_proven(name: str, tmp_path: Path) -> None:
    """One bit of a value is another, or of the text where a format has one."""
    shutil.copytree((WRITTEN / name).parent, tmp_path / "copy")
    path = tmp_path / "copy" / Path(name).name
    if path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "r+") as file:
            group = next(iter(file.values()))
            values = group[next(key for key in ("data", "dense", "kernel") if key in group)]
            values[0] = values[0] + 1
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    done = run("verify", path)
    assert done.code == (3 if path.suffix == ".npz" else 1), done
