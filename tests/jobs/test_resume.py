"""A folder that is resumed ends in the bytes of an undisturbed run, whatever was in it."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convfc_cli import files
from convfc_cli.errors import ConvfcError, Defect, OutputExists, UsageError
from convfc_cli.jobs import convert as job
from convfc_cli.jobs import plan as planning
from convfc_cli.jobs.convert import convert
from convfc_cli.jobs.manifest import MANIFEST
from convfc_cli.jobs.plan import Options
from convfc_cli.proof.report import Finding
from tests.support.cli_models import listing, net, run
from tests.support.kill_and_resume import contents, disturbed, undisturbed

RESUME = Options(resume=True)
NAMES = ("a", "b", "c")
DEAD = ".convfc-0123456789abcdef.part"


@pytest.fixture
def layers(folder: Path) -> Path:
    return net(folder / "m.onnx", names=NAMES)


@pytest.fixture
def wanted(layers: Path) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    convert(layers, "whole/")
    return contents(Path("whole"))


def interrupted(wanted: dict[str, bytes], *names: str, place: str = "f") -> Path:
    """A folder with these files alone."""
    folder = Path(place)
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(wanted[name])
    return folder


def kept(layers: Path, place: str = "f", options: Options = RESUME) -> list[str]:
    done = convert(layers, f"{place}/", options=options)
    return [result.item.entry.name for result in done.results if result.kept]


# What is there


@pytest.mark.parametrize("there", [(), ("001-b.npz",), ("000-a.npz", "002-c.npz")])
def test_what_is_whole_is_kept_and_the_rest_is_written(layers, wanted, there) -> None:
    folder = interrupted(wanted, *there)
    before = listing(folder)
    assert kept(layers) == [name[4] for name in there]
    assert contents(folder) == wanted
    assert {name: listing(folder)[name] for name in there} == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole, other: b"",
        lambda whole, other: whole[:-1],
        lambda whole, other: whole + b"\0",
        lambda whole, other: bytes(len(whole)),
        lambda whole, other: whole[:500] + bytes([whole[500] ^ 1]) + whole[501:],
        lambda whole, other: other,
    ],
)
@pytest.mark.parametrize("proof", [None, Options().proof])
def test_what_is_otherwise_is_written(
    layers: Path, wanted: dict[str, bytes], damage: Callable[[bytes, bytes], bytes], proof: Any
) -> None:
    folder = interrupted(wanted, "000-a.npz", "001-b.npz")
    whole = wanted["001-b.npz"]
    (folder / "001-b.npz").write_bytes(damage(whole, wanted["000-a.npz"]))
    assert kept(layers, options=replace(RESUME, proof=proof)) == ["a"]
    assert contents(folder)["001-b.npz"] == whole


def test_other_options_write_other_files(layers: Path, wanted: dict[str, bytes]) -> None:
    folder = interrupted(wanted, *(name for name in wanted if name != MANIFEST))
    assert kept(layers, options=Options(resume=True, transpose=True)) == []
    convert(layers, "transposed/", options=Options(transpose=True))
    assert contents(folder) == contents(Path("transposed"))


@pytest.mark.parametrize("lost", ["000-a.npy", "000-a.npy.operator.npz", ""])
def test_what_lies_beside_is_kept_with_its_matrix_or_not_at_all(layers: Path, lost: str) -> None:
    dense = Options(form="dense")
    convert(layers, "f/", options=dense)
    wanted = contents(Path("f"))
    Path("f", lost or MANIFEST).unlink()
    names = kept(layers, options=replace(dense, resume=True))
    assert names == (["b", "c"] if lost else ["a", "b", "c"])
    assert contents(Path("f")) == wanted


def test_a_finished_folder_is_kept_and_proven(layers: Path, wanted: dict[str, bytes]) -> None:
    done = convert(layers, "whole/", options=RESUME)
    assert [(result.kept, result.report and result.report.verdict) for result in done.results] == [
        (True, "proven")
    ] * 3
    checks = [{finding.check for finding in result.report.findings} for result in done.results]
    assert all({"origin", "bias", "structure", "entries", "runtime"} <= found for found in checks)
    assert contents(Path("whole")) == wanted


def test_a_matrix_that_is_not_proven_is_not_kept(layers, wanted, monkeypatch) -> None:
    def doubted(stored: Any, *given: Any, **named: Any) -> Any:
        report = whole(stored, *given, **named)
        return replace(report, findings=(Finding("entries", False, "doubted"),))

    interrupted(wanted, "000-a.npz")
    whole = job.verify_stored
    monkeypatch.setattr(job, "verify_stored", doubted)
    with pytest.raises(Defect, match="doubted"):
        convert(layers, "f/", options=RESUME)


def test_layers_that_failed_are_tried_again(layers: Path, monkeypatch: Any) -> None:
    def failing(entry: Any, layer: Any) -> Any:
        if entry.name == "b":
            raise ConvfcError("not now")
        return run_original(entry, layer)

    convert(layers, "whole/")
    run_original = job.run_original
    with monkeypatch.context() as patched:
        patched.setattr(job, "run_original", failing)
        convert(layers, "f/", options=Options(keep_going=True))
    assert json.loads(Path("f", MANIFEST).read_text())["failed"]
    assert kept(layers) == ["a", "c"]
    assert contents(Path("f")) == contents(Path("whole"))


def test_a_manifest_stands_until_a_file_is_written(layers, wanted, monkeypatch) -> None:
    """A run that keeps all leaves the folder complete at every moment; one that writes does not."""
    stood: list[bool] = []

    def checked(*given: Any, **named: Any) -> Any:
        stood.append(Path("whole", MANIFEST).exists())
        return whole(*given, **named)

    whole = job.run_original
    monkeypatch.setattr(job, "run_original", checked)
    convert(layers, "whole/", options=RESUME)
    Path("whole/000-a.npz").unlink()
    convert(layers, "whole/", options=RESUME)
    assert stood == [True] * 3 + [True, False, False]
    assert contents(Path("whole")) == wanted


# Temporary files


def test_temporary_files_of_the_dead_are_removed(layers: Path, wanted: dict[str, bytes]) -> None:
    folder = interrupted(wanted, "000-a.npz")
    (folder / DEAD).write_bytes(b"unfinished")
    kept(layers)
    assert contents(folder) == wanted


def test_what_is_not_ours_or_lives_stays(layers: Path, wanted: dict[str, bytes]) -> None:
    folder = interrupted(wanted)
    others = [".convfc-0123.part", f"{DEAD}s", f"x{DEAD}", ".convfc-0123456789ABCDEF.part"]
    for name in others:
        (folder / name).touch()
    (folder / DEAD).mkdir()
    link = folder / DEAD.replace("0", "f")
    link.symlink_to("000-a.npz")
    with files.replacing(folder / "single.npz") as file:
        file.write(b"single")
        kept(layers)
    assert (folder / "single.npz").read_bytes() == b"single"
    stayed = {path.name for path in folder.iterdir()} - set(wanted) - {"single.npz"}
    assert stayed == {*others, DEAD, link.name}


def test_without_resume_they_stay(layers: Path, wanted: dict[str, bytes]) -> None:
    folder = interrupted(wanted)
    (folder / DEAD).touch()
    convert(layers, "f/")
    assert (folder / DEAD).exists()


# What is refused


def test_a_folder_of_another_model_is_refused(layers: Path, wanted: dict[str, bytes]) -> None:
    other = net(Path("other.onnx"), names=NAMES, seed=1)
    with pytest.raises(OutputExists, match=r"manifest\.json is damaged, or of another model"):
        convert(other, "whole/", options=RESUME)
    assert contents(Path("whole")) == wanted


def test_a_damaged_manifest_is_refused(layers: Path, wanted: dict[str, bytes]) -> None:
    Path("whole", MANIFEST).write_bytes(wanted[MANIFEST][:-9])
    with pytest.raises(OutputExists, match="is damaged"):
        convert(layers, "whole/", options=RESUME)


@pytest.mark.usefixtures("wanted")
def test_a_manifest_of_another_program_is_refused(layers: Path) -> None:
    Path("whole", MANIFEST).write_text("{}")
    with pytest.raises(UsageError, match="never replaced"):
        convert(layers, "whole/", options=RESUME)


def test_another_model_that_was_converted_meanwhile_is_refused(layers: Path) -> None:
    from tests.jobs.test_concurrent_runs import Meanwhile

    other = net(Path("other.onnx"), names=NAMES, seed=1)
    meanwhile = Meanwhile("planned", lambda: convert(other, "f/"))
    with pytest.raises(OutputExists, match="of another model"):
        convert(layers, "f/", options=RESUME, observer=meanwhile)
    run("verify", "f", "--model", other).succeeded()


def test_the_model_is_not_replaced(layers: Path) -> None:
    Path("f").mkdir()
    layers.rename("f/000-a.npz")
    with pytest.raises(UsageError, match="is the model itself"):
        convert("f/000-a.npz", "f/", options=RESUME)


def test_only_a_folder_is_resumed(layers: Path) -> None:
    told = run("convert", layers, "-l", "a", "-o", "a.npz", "--resume").failed(2)
    assert told.startswith("only a folder can be resumed: a.npz")
    told = run("convert", layers, "-l", "a", "-o", "-", "--resume").failed(2)
    assert told.startswith("--force, --resume, ")
    told = run("convert", layers, "--resume", "--force").failed(2)
    assert told == "force replaces what resume would keep: choose one of them"


def test_what_is_there_takes_no_further_room(layers, wanted, monkeypatch) -> None:
    interrupted(wanted, "000-a.npz", "001-b.npz")
    size = sum(item.size for item in planning.make_plan(*opened(layers), "g/", Options()).items)
    monkeypatch.setattr(planning, "free_space", lambda path: size // 2)
    most = Options(max_bytes=size)
    with pytest.raises(ConvfcError, match="are free"):
        convert(layers, "g/", options=most)
    assert kept(layers, options=replace(most, resume=True)) == ["a", "b"]


def opened(layers: Path) -> tuple[Any, Any]:
    from convfc_cli.jobs.selection import Selection, select
    from convfc_cli.models.request import Request

    return select(layers, Selection(), Request({}))


# What is said


def test_an_incomplete_folder_names_the_way_on(layers: Path, wanted: dict[str, bytes]) -> None:
    interrupted(wanted, "000-a.npz")
    for place in ("f/", "whole/"):
        assert "exists: --resume keeps" in run("convert", layers, "-o", place).failed(2)
    other = net(Path("other.onnx"), names=NAMES, seed=1)
    assert "exists: --force replaces" in run("convert", other, "-o", "whole/").failed(2)


def test_the_summary_and_json_say_what_was_kept(layers: Path, wanted: dict[str, bytes]) -> None:
    interrupted(wanted, "000-a.npz", "002-c.npz")
    done = run("convert", layers, "-o", "f/", "--resume").succeeded()
    assert done.lines == [f"f/{name}" for name in sorted(wanted)[:3]]
    assert done.err.splitlines()[-1].endswith(", 2 kept from before")
    again = run("convert", layers, "-o", "f/", "--resume", "--json").succeeded()
    assert [matrix["kept"] for matrix in json.loads(again.out)["matrices"]] == [True] * 3
    fresh = run("convert", layers, "-o", "g/").succeeded()
    assert "kept" not in fresh.err


# Killed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("form", ["csr", "dense"])
@pytest.mark.parametrize("before", ["nothing", "old files", "some of them"])
@pytest.mark.parametrize("moment", range(0, 40, 3))
def test_it_goes_on_from_every_moment(layers: Path, form: str, before: str, moment: int) -> None:
    """It is killed before the step of this number that makes, syncs, names or removes something."""
    options = Options(form=form, proof=None)
    convert(layers, "whole/", options=options)
    resumed = replace(options, resume=True)
    if before == "old files":
        convert(layers, "f/", options=replace(options, transpose=True))
    elif before == "some of them":
        convert(layers, "f/", layers="b", options=options)
    child = os.fork()
    if not child:
        left = moment
        try:
            for step in ("fsync", "link", "replace", "unlink", "open"):
                whole = getattr(os, step)

                def counted(*given: Any, whole: Callable[..., Any] = whole, **named: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        os._exit(9)
                    return whole(*given, **named)

                setattr(files.os, step, counted)
            forced = replace(options, force=before == "old files", resume=before == "some of them")
            convert(layers, "f/", options=forced)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    convert(layers, "f/", options=resumed)
    assert contents(Path("f")) == contents(Path("whole"))


@pytest.mark.slow
def test_killed_at_random_moments(folder: Path) -> None:
    model = net(folder / "m.onnx", names=[f"c{number}" for number in range(30)])
    wanted, seconds = undisturbed(model)
    kills = list(disturbed(model, folder / "f", 3, seconds, random.Random(0)))
    assert len(kills) == 3
    assert contents(folder / "f") == wanted
