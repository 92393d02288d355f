"""`convfc verify`: what it takes, what it tells apart, and that every option changes something."""

import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cli_models import (
    COLOR,
    LENET,
    MIXED,
    Ran,
    arrays,
    listing,
    net,
    process,
    rewritten,
    run,
    shell,
    terminal,
)

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def matrix(model: Path) -> Path:
    """The matrix of the model's one layer."""
    run("convert", model, "-o", "c.npz", "--kernel-index", "--no-verify").succeeded()
    return Path("c.npz")


@pytest.fixture
def net_folder(folder: Path) -> Path:
    """What `convert` wrote of three layers."""
    net(folder / "m.onnx", names=("a", "b", "c"))
    run("convert", "m.onnx", "--no-verify").succeeded()
    return Path("m.onnx.fc")


def report(*arguments: object) -> dict[str, Any]:
    """The one report of a run with --json, whatever it says."""
    done = run("verify", "--json", *arguments)
    (found,) = json.loads(done.out)["matrices"]
    undone = any(finding["holds"] is None for finding in found["report"]["findings"])
    assert done.code == (1 if found["verdict"] == "wrong" else 4 if undone else 0), done
    return found | found["report"]


def altered(array: Any, place: Any, by: float = 1.0) -> Any:
    """A copy with one element another."""
    copy = array.copy()
    copy[place] += by
    return copy


def flipped(path: Path, offset: int) -> None:
    """Turn over one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# Right files


def test_a_right_file(matrix: Path) -> None:
    done = run("verify", matrix).succeeded()
    assert done.lines == ["proven\tc.npz\t2^-96"]
    assert done.err.splitlines()[-1] == "1 of 1 proven"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csr", "operator", "dense"])
@pytest.mark.parametrize("layout", ["channels-first", "channels-last", "fortran"])
@pytest.mark.parametrize("transpose", [False, True])
def test_every_form_and_layout(model: Path, form: str, layout: str, transpose: bool) -> None:
    more = ["--form", form, "--layout", layout, *(["--transpose"] if transpose else [])]
    path, *_ = run("convert", model, "--no-verify", *more).succeeded().lines
    found = report(path, "--model", model)
    assert found["verdict"] == ("consistent" if form == "operator" else "proven")
    assert found["form"] == form


def test_a_file_that_numpy_wrote_anew(matrix: Path) -> None:
    assert report(rewritten(matrix, Path("again.npz")))["verdict"] == "proven"


def test_json_says_what_was_checked_and_what_is_trusted(matrix: Path, model: Path) -> None:
    found = report(matrix)
    assert (found["file"], found["layer"], found["shape"]) == ("c.npz", "conv", [90, 60])
    assert found["nonzeros"] == arrays(matrix)["data"].size
    checks = [finding["check"] for finding in found["findings"]]
    assert checks == ["digest", "bias", "structure", "entries", "kernel_index"]
    assert any("origin not checked without the model" in text for text in found["trusted"])
    found = report(matrix, "--model", model)
    assert "origin" in [finding["check"] for finding in found["findings"]]
    assert not any("without the model" in text for text in found["trusted"])


def test_quiet(matrix: Path) -> None:
    assert run("verify", "-q", matrix) == Ran(0, b"proven\tc.npz\t2^-96\n", "")


def test_probes(matrix: Path) -> None:
    for probes in (1, 5):
        done = run("verify", matrix, "--probes", probes).succeeded()
        assert done.lines == [f"proven\tc.npz\t2^-{32 * probes}"]
    for probes in ("0", "9", "some"):
        assert "--probes" in run("verify", matrix, "--probes", probes).failed(2)


def untimed(found: dict[str, Any]) -> dict[str, Any]:
    """A report without what the checks cost."""
    findings = [finding | {"seconds": None} for finding in found["findings"]]
    return found | {"findings": findings, "seconds": None, "report": None}


def test_a_seed_takes_nothing_from_a_proof_that_rests_on_none(matrix: Path, model: Path) -> None:
    """Every entry is compared; what is wrong is wrong whatever the seed."""
    run("convert", model, "-o", "plain.npz").succeeded()
    done = run("verify", "plain.npz", "--seed", 5, "--exhaustive").succeeded()
    assert done.lines == ["proven\tplain.npz\tevery entry"]
    assert run("verify", matrix, "--seed", 5, "--exhaustive").code == 4  # it has a kernel_index
    bad = rewritten(matrix, Path("bad.npz"), data=altered(arrays(matrix)["data"], 4))
    done = run("verify", bad, "--seed", 5)
    assert (done.code, "not checked" in done.err) == (1, False), done


def test_operator_files_are_consistent_and_no_failure(model: Path) -> None:
    path = net(Path("two.onnx"), names=("a", "b"))
    for source, told in (
        (model, "0 of 1 proven, 1 consistent (an operator file stores no entries to prove)"),
        (path, "0 of 2 proven, 2 consistent (operator files store no entries to prove)"),
    ):
        run("convert", source, "--form", "operator").succeeded()
        folder = f"{source.name}.fc"
        done = run("verify", folder).succeeded()
        assert done.err.splitlines() == [told]
        reports = json.loads(run("verify", folder, "--json").succeeded().out)["matrices"]
        assert {report["verdict"] for report in reports} == {"consistent"}
        findings = [finding for report in reports for finding in report["report"]["findings"]]
        assert all(finding["holds"] for finding in findings)


def test_seed_repeats_a_run_and_says_what_that_costs(matrix: Path) -> None:
    first, second = (untimed(report(matrix, "--seed", 5)) for _ in range(2))
    assert first == second
    assert first["seed"] == "5"
    assert report(matrix)["seed"] != report(matrix)["seed"]
    (entries,) = (f["detail"] for f in first["findings"] if f["check"] == "entries")
    assert "nothing is proven against a crafted file" in entries
    assert (first["strength"], first["verdict"]) == ("seed given", "consistent")
    done = run("verify", matrix, "--seed", 5)
    assert (done.code, done.lines) == (4, ["consistent\tc.npz\tseed given"])
    told, last = done.err.splitlines()
    assert told.startswith("convfc: c.npz: not checked (promise): nothing is proven, for the seed")
    assert last == "0 of 1 proven, 1 not checked as asked"
    assert "--seed" in run("verify", matrix, "--seed", "-1").failed(2)


# Wrong contents: 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("data", lambda a: altered(a, 5)),
        ("data", lambda a: altered(a, -1, 1e-6)),
        ("data", lambda a: np.where(np.arange(a.size) == 3, np.float32("nan"), a)),
        ("bias", lambda a: altered(a, 7)),
        ("indices", lambda a: altered(a, 0, 1)),
        ("indices", lambda a: altered(a, 0, 10**6)),
        ("indices", lambda a: altered(a, 0, -(10**6))),
        ("indptr", lambda a: altered(a, 3, 1)),
        ("indptr", lambda a: altered(a, 0, 1)),
        ("shape", lambda a: altered(a, 0, 1)),
        ("kernel", lambda a: altered(a, (0, 0, 1, 1))),
        ("kernel_bias", lambda a: altered(a, 2)),
        ("kernel_index", lambda a: altered(a, 4, 1)),
        ("kernel_index", lambda a: altered(a, 4, 10**6)),
        ("data", lambda a: a[:-1]),
        ("indices", lambda a: a[:-1]),
        ("data", lambda a: a.astype(np.float64)),
    ],
)
def test_one_change_in_a_well_formed_file(
    matrix: Path, name: str, change: Callable[[Any], Any]
) -> None:
    path = rewritten(matrix, Path("w.npz"), **{name: change(arrays(matrix)[name])})
    done = run("verify", path)
    assert done.code == 1, done
    verdict, file, told = done.lines[0].split("\t")
    assert (verdict, file) == ("wrong", "w.npz")
    assert f"convfc: w.npz is WRONG: {told}" in done.err
    assert done.err.splitlines()[-1] == "0 of 1 proven"
    assert "Traceback" not in done.err
    assert report(path)["verdict"] == "wrong"


def test_a_wrong_entry_is_named(model: Path) -> None:
    run("convert", model, "-o", "c.npz", "--no-verify").succeeded()
    stored = arrays(Path("c.npz"))
    row = 40
    at = int(stored["indptr"][row])
    column = int(stored["indices"][at])
    path = rewritten(Path("c.npz"), Path("w.npz"), data=altered(stored["data"], at))
    (line,) = run("verify", path).lines
    assert re.search(rf"\b{row}\b.*\b{column}\b", line)
    assert f"expected {stored['data'][at]!s}, found {stored['data'][at] + 1!s}" in line


def test_a_wrong_dense_file(model: Path) -> None:
    run("convert", model, "-o", "c.npy", "--no-verify").succeeded()
    dense = np.load("c.npy")
    for place in ((0, 0), (0, 59), (89, 59)):
        np.save("c.npy", altered(dense, place))
        done = run("verify", "c.npy")
        assert (done.code, done.lines[0].split("\t")[0]) == (1, "wrong")
    np.save("c.npy", dense)
    run("verify", "c.npy").succeeded()


# Damage: 3


@pytest.mark.slow
@pytest.mark.parametrize("part", range(24))
def test_one_bit_turned_over(matrix: Path, part: int) -> None:
    size = matrix.stat().st_size
    flipped(matrix, part * (size - 1) // 23)
    told = run("verify", matrix).failed(3)
    assert "c.npz" in told


@pytest.mark.parametrize("tenths", range(10))
def test_a_file_cut_short(matrix: Path, tenths: int) -> None:
    content = matrix.read_bytes()
    matrix.write_bytes(content[: len(content) * tenths // 10])
    assert "c.npz" in run("verify", matrix).failed(3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"hello\n", "is a text file"),
        ("grüße\n".encode(), "is a text file"),
        (b"\x00\x01\x02\x03", "is not a matrix file"),
        (b"PK\x03\x04", "damaged or truncated"),
        (b"PK\x05\x06" + bytes(18), "no member convfc"),
        (b"\x93NUMPY", "needs f.operator.npz beside it"),
    ],
)
def test_files_that_are_none(folder: Path, content: bytes, told: str) -> None:
    (folder / "f").write_bytes(content)
    assert told in run("verify", "f").failed(3)


def sparse(path: Path, **how: bool) -> None:
    from scipy.sparse import csr_array, save_npz

    save_npz(path, csr_array(np.eye(5)), **how)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays")


@pytest.mark.parametrize(
    "write",
    [
        sparse,
        lambda path: sparse(path, compressed=False),
        lambda path: np.savez(path, a=np.eye(5)),
        lambda path: np.savez_compressed(path, a=np.eye(5)),
        zipped,
    ],
)
@pytest.mark.parametrize("command", [["verify"], ["map", "--entry-at", "0,0"]])
def test_an_npz_of_another_tool(
    folder: Path, write: Callable[[Path], None], command: list[str]
) -> None:
    """No advice how to mend it: convfc would not read it then either."""
    write(folder / "f.npz")
    told = run(*command, "f.npz").failed(3)
    assert told == "f.npz has no member convfc: it is a zip that convfc did not write"


@pytest.mark.parametrize("command", [["verify"], ["map", "--entry-at", "0,0"]])
def test_an_npz_of_ours_that_was_compressed(matrix: Path, command: list[str]) -> None:
    np.savez_compressed("f.npz", **arrays(matrix))
    assert "write it again with numpy.savez" in run(*command, "f.npz").failed(3)
    np.savez("f.npz", **arrays(Path("f.npz")))
    run(*command, "f.npz").succeeded()


def test_something_after_the_end(matrix: Path) -> None:
    matrix.write_bytes(matrix.read_bytes() + b"more")
    assert "c.npz" in run("verify", matrix).failed(3)


def test_members_too_many_or_too_few(matrix: Path) -> None:
    path = rewritten(matrix, Path("w.npz"), extra=np.zeros(3))
    assert "a member 'extra" in run("verify", path).failed(3)
    for name in sorted(arrays(matrix).keys()):
        kept = {k: v for k, v in arrays(matrix).items() if k != name}
        np.savez("w.npz", **kept)
        done = run("verify", "w.npz")
        if name == "_is_array":  # files of before have none
            done.succeeded()
        else:
            assert name.removeprefix("kernel_") in done.failed(3)


def test_a_dense_file_without_what_lies_beside_it(model: Path) -> None:
    run("convert", model, "-o", "c.npy", "--no-verify").succeeded()
    assert "name the file" in run("verify", "-", stdin=Path("c.npy").read_bytes()).failed(2)
    content = Path("c.npy").read_bytes()
    Path("c.npy").write_bytes(content[:-1])
    assert "c.npy" in run("verify", "c.npy").failed(3)
    Path("c.npy").write_bytes(content)
    os.remove("c.npy.operator.npz")
    assert "c.npy.operator.npz beside it, which convfc writes with it" in run(
        "verify", "c.npy"
    ).failed(3)


# What is verified where nothing, or much, is named


def test_bare_takes_the_folders_here(folder: Path) -> None:
    net(folder / "m.onnx", names=("a", "b"))
    net(folder / "n.onnx")
    for name in ("m.onnx", "n.onnx"):
        run("convert", name, "--no-verify").succeeded()
    run("convert", "n.onnx", "-o", "elsewhere/", "--no-verify").succeeded()
    done = run("verify").succeeded()
    assert [line.split("\t")[1] for line in done.lines] == [
        "m.onnx.fc/000-a.npz",
        "m.onnx.fc/001-b.npz",
        "n.onnx.fc/000-conv.npz",
    ]
    assert done.err.splitlines()[-1] == "3 of 3 proven"


@pytest.mark.slow
def test_bare_takes_standard_input(matrix: Path, folder: Path) -> None:
    assert run("verify", stdin=matrix.read_bytes()).succeeded().lines == [
        "proven\tstandard input\t2^-96"
    ]
    done = shell("cat c.npz | convfc verify; convfc verify < c.npz", folder).succeeded()
    assert done.lines == ["proven\tstandard input\t2^-96"] * 2


def test_bare_with_nothing_is_an_error(folder: Path) -> None:
    assert "nothing to verify" in process("verify", cwd=folder).failed(2)
    assert "nothing to verify" in run("verify").failed(2)
    (folder / "empty").mkdir()
    assert "manifest.json" in run("verify", "empty").failed(3)


def test_a_folder_of_no_matrices_is_nothing(net_folder: Path) -> None:
    manifest = net_folder / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "matrices": []}))
    assert "nothing to verify" in run("verify", net_folder).failed(2)


@pytest.mark.slow
def test_paths_on_standard_input_are_answered_with_xargs(matrix: Path, folder: Path) -> None:
    done = shell("ls *.npz | convfc verify", folder)
    assert done.code != 0
    assert "xargs convfc verify" in done.complaint()
    script = f'ls *.npz | xargs "{sys.executable}" -m convfc_cli verify'
    assert shell(script, folder).succeeded().lines == ["proven\tc.npz\t2^-96"]
    assert "xargs convfc verify" in run("verify", "-", stdin=b"a.npz\nb.npz\n").complaint()


def test_a_folder_as_its_manifest_has_it(net_folder: Path) -> None:
    done = run("verify", net_folder).succeeded()
    assert len(done.lines) == 3
    (net_folder / "zzz.npz").write_bytes(b"not of the manifest")
    again = run("verify", net_folder).succeeded()
    assert again.lines == done.lines
    assert "zzz.npz is not in the manifest, and not looked at" in again.err


def test_of_many_files_that_are_not_listed_the_first_are_named(net_folder: Path) -> None:
    for number in range(1000):
        (net_folder / f"z{number:03}.npz").touch()
    (told,) = [
        line for line in run("verify", net_folder).succeeded().err.splitlines() if "z0" in line
    ]
    named = ", ".join(f"m.onnx.fc/z{number:03}.npz" for number in range(8))
    assert told == f"convfc: {named} and 992 more are not in the manifest, and not looked at"
    told = run("convert", "m.onnx", "--force").succeeded().err.splitlines()[0]
    named = f"{named} and 992 more"
    assert told == f"convfc: {named} were there before and are not in the manifest"


def test_two_files_of_a_folder_exchanged(net_folder: Path) -> None:
    first, second = net_folder / "000-a.npz", net_folder / "001-b.npz"
    entries = json.loads((net_folder / "manifest.json").read_text())
    for entry, other in zip(entries["matrices"][:2], (second, first), strict=True):
        entry["file"], entry["bytes"] = other.name, other.stat().st_size
    (net_folder / "manifest.json").write_text(json.dumps(entries))
    done = run("verify", net_folder)
    assert done.code == 1
    assert "manifest: layer is b, by the manifest a" in done.out


def test_a_manifest_of_another_model(net_folder: Path) -> None:
    path = net_folder / "manifest.json"
    entries = json.loads(path.read_text())
    entries["model"]["sha256"] = "0" * 64
    path.write_text(json.dumps(entries))
    done = run("verify", net_folder)
    assert done.code == 1
    assert done.out.count("manifest: sha256 is ") == 3


def test_an_incomplete_folder(net_folder: Path) -> None:
    path = net_folder / "002-c.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    done = run("verify", net_folder)
    assert done.code == 3
    assert "002-c.npz is missing or not" in done.err
    path.unlink()
    done = run("verify", net_folder)
    assert done.code == 3
    assert "002-c.npz is missing or not" in done.err
    path.write_bytes(content)
    (net_folder / "manifest.json").unlink()
    assert "has no manifest.json" in run("verify", net_folder).failed(3)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", 3),
        (b"{", 3),
        (b"[]", 3),
        (b"\xff\xfe", 3),
        (b'{"schema": "other", "matrices": []}', 3),
        (b'{"schema": "convfc-manifest/1", "matrices": [{"file": 3, "bytes": 1}]}', 3),
        (b'{"schema": "convfc-manifest/1", "matrices": [{"file": "../m.onnx", "bytes": 1}]}', 5),
        (b'{"schema": "convfc-manifest/1", "matrices": [{"file": "/dev/zero", "bytes": 0}]}', 5),
        (b'{"schema": "convfc-manifest/1", "matrices": [{"file": "\\u0000", "bytes": 1}]}', 3),
        (b"[" * 100_000, 3),
    ],
)
def test_a_manifest_of_a_stranger(net_folder: Path, content: bytes, code: int) -> None:
    (net_folder / "manifest.json").write_bytes(content)
    done = run("verify", net_folder)
    assert done.code == code, done
    assert done.complaint()


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, "1", 1.0, True, [], "absent"])
@pytest.mark.parametrize("name", ["nope.npz", "pipe", "..", "", ".", "000-a.npz"])
def test_a_manifest_that_states_no_size(net_folder: Path, name: str, size: object) -> None:
    """It is damaged, whatever it names: no such file is a usage error, and no folder is opened."""
    os.mkfifo(net_folder / "pipe")
    entry = {"file": name} if size == "absent" else {"file": name, "bytes": size}
    (net_folder / "manifest.json").write_text(
        json.dumps({"schema": "convfc-manifest/1", "matrices": [entry]})
    )
    assert "manifest.json is damaged" in run("verify", net_folder).failed(3)


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("", 3, "manifest.json is damaged"),
        (".", 5, "outside the folder"),
        ("..", 5, "names '..', which is outside the folder"),
        ("../m.onnx.fc", 5, "outside the folder"),
        ("...", 3, "is missing or not 4096 bytes"),
    ],
)
def test_a_manifest_that_names_no_file_of_its_folder(
    net_folder: Path, name: str, code: int, told: str
) -> None:
    entry = {"file": name, "bytes": 4096}
    (net_folder / "manifest.json").write_text(
        json.dumps({"schema": "convfc-manifest/1", "matrices": [entry]})
    )
    assert told in run("verify", net_folder).failed(code)


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_all_files_of_a_folder_are_checked(net_folder: Path, damaged: int) -> None:
    """Also those after a damaged one."""
    files = sorted(net_folder.glob("*.npz"))
    flipped(files[damaged], files[damaged].stat().st_size // 2)
    done = run("verify", net_folder)
    assert done.code == 3, done
    proven = [line.split("\t")[1] for line in done.lines if line.startswith("proven")]
    assert proven == [str(file) for i, file in enumerate(files) if i != damaged]
    assert done.err.splitlines()[-1] == "2 of 3 proven"


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_all_files_of_an_incomplete_folder_are_checked(net_folder: Path, missing: int) -> None:
    files = sorted(net_folder.glob("*.npz"))
    files[missing].unlink()
    done = run("verify", net_folder)
    assert done.code == 3, done
    assert len(done.lines) == 2


def test_the_worst_code_of_several_files(matrix: Path, folder: Path) -> None:
    rewritten(matrix, Path("wrong.npz"), data=altered(arrays(matrix)["data"], 0))
    Path("damaged.npz").write_bytes(matrix.read_bytes()[:500])
    done = run("verify", "wrong.npz", matrix)
    assert (done.code, len(done.lines)) == (1, 2)
    assert done.err.splitlines()[-1] == "1 of 2 proven"
    for order in (["damaged.npz", "wrong.npz", matrix], [matrix, "wrong.npz", "damaged.npz"]):
        done = run("verify", *order)
        assert done.code == 3
        assert sorted(line.split("\t")[0] for line in done.lines) == ["proven", "wrong"]
        assert "convfc: error: damaged.npz" in done.err
        assert done.err.splitlines()[-1] == "1 of 3 proven"
    done = run("verify", "nowhere.npz", matrix)
    assert (done.code, len(done.lines)) == (2, 1)


def test_a_missing_file(folder: Path) -> None:
    assert "nowhere.npz: no such file" in run("verify", "nowhere.npz").failed(2)


# --model


def test_with_the_right_model(matrix: Path, model: Path) -> None:
    proven = [f"proven\t{matrix}\t2^-96"]
    assert run("verify", matrix, "--model", model).succeeded().lines == proven
    net(Path("renamed.onnx"))
    assert run("verify", matrix, "--model", "renamed.onnx").succeeded().lines == proven


def test_with_one_weight_changed_in_the_model(matrix: Path) -> None:
    def change(kernels: list[Any]) -> None:
        kernels[0][2, 1, 0, 2] += 1e-3

    net(Path("other.onnx"), change=change)
    done = run("verify", matrix, "--model", "other.onnx")
    assert done.code == 1
    assert "kernel element (2, 1, 0, 2)" in done.lines[0]
    assert run("verify", matrix).succeeded()


def test_with_another_model(matrix: Path) -> None:
    net(Path("wide.onnx"), outputs=4)
    done = run("verify", matrix, "--model", "wide.onnx")
    assert (done.code, "geometry" in done.lines[0]) == (1, True)
    done = run("verify", matrix, "--model", LENET)
    assert done.code == 1
    assert "origin: " in done.lines[0]
    assert "has no layer @0 'conv' with the output" in done.lines[0]
    assert "no such file" in run("verify", matrix, "--model", "nowhere.onnx").failed(2)
    assert "not a model" in run("verify", matrix, "--model", matrix).failed(3)


def test_with_a_model_of_open_sizes(folder: Path) -> None:
    run("convert", MIXED, "--input-shape", "1,1,8,8", "--no-verify").succeeded()
    done = run("verify", "--model", MIXED).succeeded()
    assert len(done.lines) == 8
    given = run("verify", "--model", MIXED, "--input-shape", "x=1,1,8,8").succeeded()
    assert given.lines == done.lines
    other = run("verify", "--model", MIXED, "--input-shape", "x=1,1,16,16")
    assert other.code == 1
    assert all("geometry" in line for line in other.lines if line.startswith("wrong"))


def test_input_shape_without_a_model_is_not_passed_over(matrix: Path) -> None:
    assert "--model" in run("verify", matrix, "--input-shape", "1,2,6,5").failed(2)


def test_a_flipped_or_widened_matrix_is_the_models(model: Path) -> None:
    more = ["--flip-kernel", "--dtype", "float64", "--layout", "fortran"]
    run("convert", model, "-o", "f.npz", *more).succeeded()
    done = run("verify", "f.npz", "--model", model).succeeded()
    assert done.lines == ["proven\tf.npz\t2^-96"]


# On a terminal


@pytest.mark.slow
def test_a_terminal_gets_a_table(matrix: Path, folder: Path) -> None:
    code, shown, others = terminal("verify", matrix, cwd=folder)
    assert code == 0
    assert "c.npz" in shown
    assert others["stderr"] == "1 of 1 proven\n"
    code, shown, others = terminal("verify", "-v", matrix, cwd=folder)
    assert code == 0
    assert "origin not checked without the model" in " ".join(shown.split())
    assert COLOR.search(shown)
    code, shown, _ = terminal("verify", "-v", matrix, cwd=folder, env={"NO_COLOR": "1"})
    assert (code, COLOR.search(shown)) == (0, None)
    assert "every bit and every zero" in shown


@pytest.mark.slow
def test_standard_input_that_is_a_terminal(folder: Path) -> None:
    code, _, others = terminal("verify", "-", cwd=folder, streams=("stdin",))
    assert code == 2
    assert "standard input is a terminal" in others["stderr"]
    code, _, others = terminal("verify", cwd=folder, streams=("stdin",))
    assert code == 2
    assert "nothing to verify" in others["stderr"]


def test_nothing_is_written(matrix: Path, folder: Path) -> None:
    before = listing(folder)
    run("verify", matrix, "--model", "m.onnx").succeeded()
    assert listing(folder) == before
