"""What ends badly: one line on standard error, a documented code, nothing half-written."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

from convfc_cli.cli.main import cli
from convfc_cli.errors import Defect, MalformedInput
from tests.support.cli_models import (
    COLOR,
    LENET,
    MIXED,
    PATIENCE,
    arrays,
    environment,
    large,
    listing,
    matrix_of,
    net,
    process,
    run,
    shell,
    started,
    terminal,
    wait_until,
    without_convolution,
    zero_sizes,
)

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose one matrix takes 680 MB."""
    return large(tmp_path_factory.mktemp("big") / "big.onnx")


# Errors of those who ask: one line, and nothing is written


def no_folder(folder: Path) -> list[object]:
    (folder / "dir").mkdir()
    return ["dir"]


def no_size(folder: Path) -> list[object]:
    return [MIXED]


def existing_file(folder: Path) -> list[object]:
    (folder / "c.npz").write_bytes(b"mine")
    return [net(folder / "m.onnx"), "-o", "c.npz"]


def existing_link(folder: Path) -> list[object]:
    (folder / "there").write_bytes(b"mine")
    (folder / "c.npz").symlink_to("there")
    return [net(folder / "m.onnx"), "-o", "c.npz"]


def existing_folder(folder: Path) -> list[object]:
    (folder / "m.onnx.fc").mkdir()
    (folder / "m.onnx.fc" / "manifest.json").write_text('{"schema": "convfc-manifest/1"}')
    return [net(folder / "m.onnx")]


def existing_file_where_the_folder_belongs(folder: Path) -> list[object]:
    (folder / "m.onnx.fc").write_text("mine")
    return [net(folder / "m.onnx")]


def existing_sidecar(folder: Path) -> list[object]:
    (folder / "c.npy.operator.npz").write_bytes(b"mine")
    return [net(folder / "m.onnx"), "-o", "c.npy"]


def folder_in_the_way(folder: Path) -> list[object]:
    (folder / "m.onnx.fc" / "000-conv.npz").mkdir(parents=True)
    return [net(folder / "m.onnx"), "--force"]


def text_file(folder: Path) -> list[object]:
    (folder / "m.onnx").write_text("ir_version: 8\n")
    return ["m.onnx"]


def empty_file(folder: Path) -> list[object]:
    (folder / "m.onnx").touch()
    return ["m.onnx"]


def truncated_file(folder: Path) -> list[object]:
    (folder / "m.onnx").write_bytes(LENET.read_bytes()[:-7])
    return ["m.onnx"]


def random_bytes(folder: Path) -> list[object]:
    (folder / "m.onnx").write_bytes(bytes(range(256)) * 20)
    return ["m.onnx"]


def unsupported_layer(folder: Path) -> list[object]:
    return [net(folder / "m.onnx", unsupported=("bad",))]


def wrong_group(folder: Path) -> list[object]:
    import onnx

    path = net(folder / "m.onnx")
    broken = onnx.load(path)
    broken.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 5))
    onnx.save(broken, path)
    return [path]


CASES: list[tuple[Callable[[Path], list[object]], int, str]] = [
    (no_folder, 2, "dir: is a directory"),
    (lambda folder: ["nowhere.onnx"], 2, "nowhere.onnx: no such file"),
    (lambda folder: ["x" * 5000], 2, "name too long"),
    (lambda folder: ["m.onnx/inside"], 2, "cannot read m.onnx/inside"),
    (lambda folder: [""], 2, "is empty: name a file, or - for standard input"),
    (lambda folder: [without_convolution(folder / "m.onnx")], 2, "has no convolution"),
    (no_size, 2, "the size of its input 'x' is open"),
    (existing_file, 2, "c.npz exists: --force replaces it"),
    (existing_link, 2, "c.npz exists: --force replaces it"),
    (existing_folder, 2, "manifest.json exists: --force replaces it"),
    (existing_file_where_the_folder_belongs, 2, "m.onnx.fc exists and is not a folder"),
    (existing_sidecar, 2, "c.npy.operator.npz exists"),
    (folder_in_the_way, 2, "is a folder"),
    (lambda folder: [LENET, "-o", "/dev/null/"], 2, "is not a folder"),
    (lambda folder: [LENET, "-l", "@0", "-o", ""], 2, "the output is empty"),
    (lambda folder: [LENET, "-l", "@0", "-o", "/dev/null"], 2, "-o - streams"),
    (lambda folder: [LENET, "-l", "@0", "-o", "/dev/null/c.npz"], 2, "null exists and is not"),
    (lambda folder: [LENET, "--max-bytes", "1MB"], 5, "above the ceiling of 1.0 MB"),
    (lambda folder: ["/dev/zero"], 5, "is a device"),
    (text_file, 3, "is a text file, not a model"),
    (empty_file, 3, "m.onnx is empty"),
    (truncated_file, 3, "m.onnx"),
    (random_bytes, 3, "m.onnx"),
    (wrong_group, 3, "conv"),
    (unsupported_layer, 4, "layer bad (com.microsoft.NhwcConv)"),
    (lambda folder: [], 2, "Missing argument"),
    (lambda folder: [LENET, "--what"], 2, "No such option"),
    (lambda folder: [LENET, "--form", "dia"], 2, "'dia' is not one of"),
    (lambda folder: [LENET, "--dtype", "int8"], 2, "'int8' is not one of"),
    (lambda folder: [LENET, LENET], 2, "unexpected extra argument"),
]


@pytest.mark.parametrize(("prepare", "code", "told"), CASES)
def test_one_line_and_nothing_written(
    folder: Path, prepare: Callable[[Path], list[object]], code: int, told: str
) -> None:
    arguments = prepare(folder)
    before = listing(folder)
    done = run("convert", *arguments)
    assert (done.code, done.out) == (code, ""), done
    assert told in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("convfc: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.err
    if code != 6:  # that one fails when the plan has been told
        assert done.complaint()
    assert listing(folder) == before


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_every_command_reads_models_alike(folder: Path, command: str) -> None:
    for prepare in (text_file, empty_file, truncated_file, random_bytes):
        assert "m.onnx" in run(command, *prepare(folder)).failed(3)
    assert "nowhere" in run(command, "nowhere").failed(2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["convert", ""], "'MODEL'"),
        (["inspect", ""], "'MODEL'"),
        (["map", "", "--entry-at", "0,0"], "'MATRIX'"),
        (["verify", ""], "'[MATRICES]...'"),
        (["verify", "c.npz", ""], "'[MATRICES]...'"),
        (["verify", "c.npz", "--model", ""], "'--model'"),
    ],
)
def test_an_empty_path_is_not_the_current_directory(
    model: Path, arguments: list[str], named: str
) -> None:
    run("convert", model, "-o", ".", "--no-verify").succeeded()
    told = run(*arguments).failed(2)
    assert f"Invalid value for {named}: the path is empty" in told


@pytest.mark.slow
def test_a_missing_size_prints_a_command_that_works(folder: Path) -> None:
    """Word for word, whatever is in the names."""
    for name, more in (
        ("m.onnx", ["-o", "c.npz"]),
        ("two  spaces.onnx", ["-o", "s.npz"]),
        ("line\nend\\'s\x1b.onnx", ["-o", "l.npz"]),
        (os.fsdecode(b"no \xff unicode.onnx"), ["-o", "u.npz"]),
        ("my model's.onnx", ["-l", "conv", "--dtype", "float64", "-o", "d e.npz"]),
    ):
        net(folder / name, shape=(1, 2, "height", "width"))
        told = run("convert", name, *more).failed(2)
        assert "convfc convert" in told
        command = told[told.index("convfc convert") :]
        pasted = shell(command, folder).succeeded()
        assert pasted.lines == [more[-1]]
        assert arrays(Path(more[-1]))["shape"][0] > 1000


def test_a_tensor_of_any_name_can_be_given_a_size(folder: Path) -> None:
    path = net(folder / "m.onnx", tensor="two\nlines  =", shape=(1, 2, "h", "w"))
    run("convert", path, "--input-shape", "two\nlines  ==1,2,6,5", "-o", "c.npz").succeeded()


@pytest.mark.slow
def test_long_names_do_not_hide_what_a_message_says(folder: Path) -> None:
    """A hint that is too long for --input-shape is not given."""
    path = net(folder / "m.onnx", names=("n" * 10**6,), tensor="x" * 10**5, shape=(1, 2, "h", "w"))
    for arguments in (["convert", path], ["convert", path, "-l", "z" * 10**5], ["inspect", path]):
        done = run(*arguments)
        assert max(map(len, done.err.splitlines())) < 2200
        assert "--input-shape x" not in done.err
    assert "; specify it with --input-shape" in run("convert", path).failed(2)


@pytest.mark.parametrize("megabytes", [60, 120, 160])
def test_too_little_memory_to_begin_with(model: Path, megabytes: int) -> None:
    """Where it runs out on the way, libraries end the process with any code."""
    run("convert", model, "-o", "c.npz").succeeded()
    done = shell(f"ulimit -v {1000 * megabytes}; convfc verify c.npz", model.parent)
    assert "address space (ulimit -v) is below" in done.failed(5)


def test_a_signal_when_all_is_done_leaves_no_trace(folder: Path) -> None:
    """Nobody is left then who would catch what it raises."""
    script = (
        "import atexit, os, signal; from convfc_cli.cli.main import main; "
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM)); main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (143, b"")


@pytest.mark.parametrize("inner", [False, True])
def test_a_size_that_is_declared_as_0_is_told_and_can_be_given(folder: Path, inner: bool) -> None:
    path = zero_sizes(folder / "m.onnx", inner=inner)
    told = run("convert", path).failed(2)
    assert "'x' is open (known: 1, 2, 0, 0; a size that is declared as 0 counts as open)" in told
    assert told.endswith("--input-shape x=1,2,224,224")
    run("convert", path, "--input-shape", "x=1,2,6,5", "-o", "zero/").succeeded()
    same = net(folder / "same.onnx", names=("a", "b"))
    run("convert", same, "-o", "same/").succeeded()
    for name in ("000-a.npz", "001-b.npz"):
        np.testing.assert_array_equal(
            matrix_of(folder / "zero" / name), matrix_of(folder / "same" / name)
        )


def test_an_open_size_is_no_0(folder: Path) -> None:
    path = net(folder / "m.onnx", shape=(1, 2, "h", 5))
    assert "is open (known: 1, 2, ?, 5);" in run("convert", path).failed(2)


def test_too_large_prints_ways_out_that_work(folder: Path) -> None:
    told = run("convert", LENET, "--max-bytes", "1.5MB").failed(5)
    assert "2 matrices would take 2.9 MB" in told
    assert "largest: @1 node_conv2d_1 2.0 MB, @0 node_conv2d 909.5 kB" in told
    run("convert", LENET, "-l", "@0", "--max-bytes", "1.5MB").succeeded()
    run("convert", LENET, "--form", "operator", "--max-bytes", "1.5MB", "--force").succeeded()


def test_the_default_ceiling(folder: Path) -> None:
    """Eight gibibytes, or half of what is free: no test has the room for it."""
    net(folder / "m.onnx", shape=(1, 64, 224, 224), outputs=64)
    told = run("convert", "m.onnx").failed(5)
    assert "above the ceiling" in told or "are free" in told
    assert os.listdir() == ["m.onnx"]
    run("convert", "m.onnx", "--form", "operator", "--no-verify").succeeded()


# Outputs that cannot be written


@pytest.fixture
def powerless() -> tuple[str, ...]:
    """What is put before a command so that permissions hold for it, also where root runs it."""
    if os.geteuid():
        return ()
    prefix = ("setpriv", "--bounding-set", "-all")
    if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("root cannot lay down its powers here")
    return prefix


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_to(
    model: Path, folder: Path, powerless: tuple[str, ...]
) -> None:
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    for output in ("closed/c.npz", "closed/to/"):
        done = process("convert", model, "-q", "-o", output, cwd=folder, prefix=powerless)
        assert "permission denied" in done.failed(6)
    assert os.listdir(closed) == []
    closed.chmod(0o755)


@pytest.mark.slow
def test_a_model_that_may_not_be_read(
    model: Path, folder: Path, powerless: tuple[str, ...]
) -> None:
    model.chmod(0)
    done = process("convert", model, cwd=folder, prefix=powerless)
    assert "m.onnx: permission denied" in done.failed(2)
    assert os.listdir() == ["m.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["inspect"], ["convert", "-l", "@0", "-o", "-"]])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_standard_output_is_full(folder: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        child = started(arguments[0], "-q", LENET, *arguments[1:], cwd=folder, stdout=full)
        _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 6, err
    assert err.decode().startswith("convfc: error: ")
    assert err.count(b"\n") == 1
    assert os.listdir() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "verify --help",
        f"inspect {LENET}",
        f"inspect {LENET} --json -q",
        f"convert {LENET} -o new/",
        f"convert {LENET} -o new/ --json -q",
        f"convert {LENET} -l @0 -o -",
        "verify old",
        "verify old --json",
        "map old/000-node_conv2d.npz --output-at 0,0,0",
    ],
)
def test_standard_output_is_closed(folder: Path, arguments: str) -> None:
    """What was to be printed is lost, so the job has failed, and was not begun."""
    run("convert", LENET, "-l", "@0", "-o", "old/", "--no-verify").succeeded()
    done = shell(f"convfc {arguments} >&-", folder)
    done.failed(6)
    assert os.listdir() == ["old"]


def test_a_closed_standard_output_hides_no_error_of_usage(folder: Path) -> None:
    assert "No such option" in shell("convfc verify --nonsense >&-", folder).failed(2)
    assert "No such command" in shell("convfc nonsense >&-", folder).failed(2)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "2>/dev/full"])
def test_standard_error_is_closed_or_full(folder: Path, closed: str) -> None:
    for arguments, code, lines in (
        (f"inspect {LENET}", 0, 3),
        (f"convert {LENET} -o to/", 0, 2),
        ("verify to", 0, 2),
        ("convert nowhere", 2, 0),
        ("", 2, 0),
    ):
        done = shell(f"convfc {arguments} {closed}", folder)
        assert (done.code, len(done.lines), done.err) == (code, lines, ""), arguments


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 5000, 500_000, 905_000])
def test_writing_fails_midway(folder: Path, limit: int) -> None:
    """At any byte: a file may not grow beyond `limit` here."""

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    for output in ("c.npz", "to/"):
        child = started(
            "convert", "-q", LENET, "-l", "@0", "-o", output, cwd=folder, preexec_fn=confine
        )
        out, err = child.communicate(timeout=PATIENCE)
        assert (child.returncode, out) == (6, b""), err
        assert err.startswith(b"convfc: error: cannot write")
        assert err.count(b"\n") == 1
        assert os.listdir() == []


@pytest.mark.slow
@pytest.mark.parametrize("source", ["convert -", "inspect /dev/stdin"])
def test_a_pipe_that_cannot_be_spooled(folder: Path, source: str) -> None:
    """It is standard input's copy that outgrows the limit, not the output."""
    done = shell(f"cat {LENET} | (ulimit -f 100; convfc {source})", folder)
    told = done.failed(5)
    assert told.startswith("cannot spool ")
    assert "to the temporary folder" in told
    assert "file too large; set TMPDIR" in told
    assert os.listdir() == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["convert -", "inspect -", "verify -", "map - --entry-at 0,0"])
def test_a_closed_standard_input(folder: Path, command: str) -> None:
    assert "standard input is closed" in shell(f"convfc {command} <&-", folder).failed(2)


@pytest.mark.slow
def test_writing_fails_and_the_old_file_stays(folder: Path) -> None:
    run("convert", LENET, "-l", "@0", "-o", "c.npz", "--no-verify").succeeded()
    before = listing(folder)

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    more = ["-l", "@0", "-o", "c.npz", "--force", "--dtype", "float64"]
    child = started("convert", "-q", LENET, *more, cwd=folder, preexec_fn=confine)
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 6, err
    assert listing(folder) == before


def in_small_disk(folder: Path, size: str, script: str) -> subprocess.CompletedProcess[bytes]:
    """A bash script in a file system of its own, of so many bytes, that nobody else sees."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root may mount")
    (folder / "disk").mkdir()
    mount = f'mount -t tmpfs -o size={size} tmpfs "{folder}/disk" || exit 99; cd "{folder}/disk"'
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"{mount}\n{script}"],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode == 99 or b"unshare failed" in done.stderr:
        pytest.skip("mounting is not possible here")
    return done


@pytest.mark.slow
def test_the_disk_fills_up(folder: Path) -> None:
    """The plan saw room enough, and it is gone."""
    start = (
        "import convfc_cli.files as f; f.free_space = lambda place: 2**60; "
        "from convfc_cli.cli.main import main; main()"
    )
    arguments = f"convert -q {LENET} -l @0"
    script = "".join(
        f'"{sys.executable}" -c "{start}" {arguments} -o {output}; echo $?; ls -A\n'
        for output in ("c.npz", "to/", "c.npy")
    )
    done = in_small_disk(folder, "300k", script)
    assert done.stdout.decode().split() == ["6", "6", "6"], done
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 3
    assert all("no space left on device" in line for line in lines)


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_seen_beforehand(folder: Path) -> None:
    script = f'"{sys.executable}" -m convfc_cli convert {LENET} --max-bytes 8GiB; echo $?; ls -A'
    done = in_small_disk(folder, "300k", script)
    assert done.stdout.split() == [b"5"], done
    assert b"are free" in done.stderr
    assert done.stderr.count(b"\n") == 1


# Signals


def begun(folder: Path) -> bool:
    """Whether some bytes of a matrix are written."""
    return any(path.stat().st_size for path in folder.rglob("*.part") if path.exists())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("output", ["c.npz", "to/"])
def test_stopped_while_writing(
    big: Path, folder: Path, number: signal.Signals, code: int, output: str
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("ignored here, as by nohup, and so by what is started from here")
    child = started("convert", big, "-o", output, "--no-verify", "--max-bytes", "2GB", cwd=folder)
    wait_until(lambda: begun(folder), "the file has begun")
    child.send_signal(number)
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (code, b""), err
    assert b"Traceback" not in err
    assert os.listdir() == []
    word = {129: b"hung up", 130: b"interrupted", 143: b"terminated"}[code]
    assert err.splitlines()[-1] == b"convfc: " + word


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
@pytest.mark.parametrize("then", ["raise ImportError('initialization failed')", "return real(*a)"])
def test_stopped_where_a_library_hides_it(
    model: Path, folder: Path, number: signal.Signals, code: int, then: str
) -> None:
    """Modules in C make an ImportError of it, others go on: it is an interruption all the same."""
    script = (
        "import convfc_cli.models.registry as r, os, sys, time\n"
        "from convfc_cli.cli.main import main\n"
        "real = r.open_model\n"
        "def hiding(*a):\n"
        f"    try: os.kill(os.getpid(), {int(number)}); time.sleep(5)\n"
        f"    except BaseException: {then}\n"
        "r.open_model = hiding; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "convert", str(model), "-o", "c.npz"],
        env=environment(),
        cwd=folder,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"defect" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("old", [None, b"the old file"])
def test_killed(big: Path, folder: Path, old: bytes | None) -> None:
    """Nothing can be cleared away then, but the destination is absent or the old file."""
    if old is not None:
        (folder / "c.npz").write_bytes(old)
    child = started(
        "convert", big, "-o", "c.npz", "--no-verify", "--force", "--max-bytes", "2GB", cwd=folder
    )
    wait_until(lambda: begun(folder), "the file has begun")
    child.kill()
    child.communicate(timeout=PATIENCE)
    assert child.returncode == -signal.SIGKILL
    found = [path.name for path in folder.iterdir() if not path.name.endswith(".part")]
    assert found == ([] if old is None else ["c.npz"])
    if old is not None:
        assert (folder / "c.npz").read_bytes() == old
    for path in folder.glob(".*.part"):
        path.unlink()


def test_interrupted_while_reading_a_pipe(folder: Path) -> None:
    child = started("verify", "-", cwd=folder, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(b"PK\3\4" + bytes(100_000))
    child.stdin.flush()
    wait_until(lambda: "tmp" in spooling(child.pid), "the spool is open")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (130, b"")
    assert err.strip() == b"convfc: interrupted"


def spooling(number: int) -> str:
    """Unnamed temporary files that a process has open."""
    found = []
    for handle in Path(f"/proc/{number}/fd").iterdir():
        try:
            found.append(os.readlink(handle))
        except OSError:
            continue
    return " ".join(name for name in found if "(deleted)" in name)


@pytest.mark.slow
def test_a_pipe_that_breaks(folder: Path) -> None:
    net(folder / "m.onnx", shape=(1, 2, 80, 80))
    run("convert", "m.onnx", "-o", "c.npz", "--no-verify").succeeded()
    for command in ("convert -q m.onnx -o -", "map c.npz --kernel-at 0,0,1,1"):
        script = f"convfc {command} | head -c 10; code=${{PIPESTATUS[0]}}; echo; echo $code"
        done = shell(script, folder)
        assert done.raw.splitlines()[-1] == b"141", done
        assert done.err == ""


@pytest.mark.parametrize("options", [(), ("-q",), ("-v",), ("--json",), ("--keep-going",)])
@pytest.mark.parametrize("both", [False, True])
def test_a_job_outlives_the_reader_of_its_listing(
    folder: Path, options: tuple[str, ...], both: bool
) -> None:
    """As with `| head -1`, and `2>&1 | head -1`."""
    net(
        folder / "m.onnx", names=("a", "b"), unsupported=("u",) if "--keep-going" in options else ()
    )
    reader, writer = os.pipe()
    os.close(reader)
    more = {"stderr": writer} if both else {}
    child = started("convert", "m.onnx", *options, cwd=folder, stdout=writer, **more)
    os.close(writer)
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 141
    run("verify", "m.onnx.fc").succeeded()
    assert sorted(os.listdir("m.onnx.fc")) == ["000-a.npz", "001-b.npz", "manifest.json"]
    if both:
        return
    said = [line.split(":")[0] for line in err.decode().splitlines()[-3:]]
    summary = "2 matrices, 40.1 kB, channels-first"
    if "--keep-going" in options:
        assert said == ["convfc", summary, "convfc"]
    else:
        assert said[-1:] == ([] if "-q" in options else [summary])


def test_a_listing_that_finds_no_room_does_not_cost_the_job(folder: Path) -> None:
    net(folder / "m.onnx", names=("a", "b"))
    with open("/dev/full", "wb") as full:
        child = started("convert", "m.onnx", cwd=folder, stdout=full)
        _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 6
    assert (
        err.splitlines()[-1] == b"convfc: error: cannot write the output: no space left on device"
    )
    run("verify", "m.onnx.fc").succeeded()


@pytest.mark.parametrize("command", [("inspect", "m.onnx"), ("verify", "m.onnx.fc", "-v")])
def test_a_reader_that_is_gone_ends_what_only_prints(
    folder: Path, command: tuple[str, ...]
) -> None:
    run("convert", net(folder / "m.onnx")).succeeded()
    reader, writer = os.pipe()
    os.close(reader)
    child = started(*command, cwd=folder, stdout=writer)
    os.close(writer)
    _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 141, err


# Defects


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `convert` and `inspect` fail in a way that nothing expects."""

    def fail(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("convfc_cli.jobs.convert.convert_selected", fail)
    monkeypatch.setattr("convfc_cli.models.registry.open_model", fail)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("two\nlines"),
        KeyError("key"),
        AssertionError(),
        RecursionError("deep"),
        Defect("a contradiction"),
    ],
)
@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_a_defect_is_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, command: str
) -> None:
    failing(monkeypatch, error)
    done = run(command, model)
    assert (done.code, done.out) == (70, "")
    assert done.err.startswith("convfc: ")
    assert done.err.count("\n") == 1
    assert os.listdir() == ["m.onnx"]


def test_an_error_of_the_system_that_nobody_named_is_told_as_one_of_the_output(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, OSError(5, "Input/output error"))
    done = run("convert", model)
    assert (done.code, done.out) == (6, "")
    assert done.err == "convfc: error: cannot write the output: input/output error\n"


@pytest.mark.slow
def test_a_defect_shows_its_traceback_with_debug(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import convfc_cli.jobs.convert as c, sys; from convfc_cli.cli.main import main\n"
        "def fail(*a, **k): raise ValueError('a secret place')\n"
        "c.convert_selected = fail; main(sys.argv[1:])"
    )
    codes = {}
    for more in ([], ["--debug"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "convert", str(model), *more],
            env=environment(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        codes[len(more)] = done.returncode
        assert (b"Traceback" in done.stderr) == bool(more)
        assert b"a secret place" in done.stderr
    assert codes == {0: 70, 1: 70}


def test_debug_keeps_the_code_of_an_error(folder: Path) -> None:
    done = process("convert", "nowhere.onnx", "--debug", cwd=folder)
    assert "Traceback" in done.err
    assert "nowhere.onnx" in done.err
    assert done.code == 2


def test_memory_that_runs_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, MemoryError())
    assert "out of memory" in run("convert", model).failed(5)


def test_an_error_of_ours_has_its_code(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, MalformedInput("a\nb  c"))
    assert run("convert", model).failed(3) == "a b  c"  # two spaces may be part of a name


# The command as a whole


def test_bare(folder: Path) -> None:
    done = process(cwd=folder)
    assert done.code == 2
    help_ = process("--help", cwd=folder).succeeded().out
    assert help_.strip() in (done.out + done.err)
    assert "Traceback" not in done.err


def test_a_command_that_is_none() -> None:
    assert "No such command 'covnert'" in run("covnert").failed(2)


def test_version() -> None:
    from convfc_cli import __version__

    assert run("--version").succeeded().out.split()[-1] == __version__


HELP = [["--help"], *([name, "--help"] for name in sorted(cli.commands))]


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_is_quick(folder: Path, arguments: list[str]) -> None:
    """It imports nothing large, and lists every option."""
    script = (
        "import sys\nfrom convfc_cli.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        text=True,
    )
    assert done.returncode == 0
    loaded = set(json.loads(done.stderr.replace("'", '"')))
    assert "click" in loaded
    assert not loaded & {"numpy", "onnx", "scipy", "rich", "h5py", "onnxruntime", "google"}
    command = cli if len(arguments) == 1 else cli.commands[arguments[0]]
    for parameter in command.params:
        for name in parameter.opts:
            if name.startswith("-"):
                assert name in done.stdout


EXAMPLES = [
    line.strip()
    for command in cli.commands.values()
    for line in (command.epilog or "").splitlines()
    if line.strip().startswith("convfc ")
]


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_of_the_help_can_be_typed(line: str) -> None:
    assert len(EXAMPLES) > 10
    for part in line.split("   ")[0].split("|"):
        words = part.split(">")[0].split()
        if words[0] == "convfc":
            with cli.commands[words[1]].make_context(words[1], words[2:]) as context:
                assert isinstance(context, click.Context)


# Terminals


def test_binary_is_not_put_on_a_terminal(model: Path, folder: Path) -> None:
    code, shown, others = terminal("convert", model, "-o", "-", cwd=folder)
    assert (code, shown) == (2, "")
    assert others["stderr"].startswith("convfc: error: -o - would print binary")
    assert os.listdir() == ["m.onnx"]


@pytest.mark.slow
def test_progress_only_on_a_terminal(folder: Path) -> None:
    arguments = ["convert", LENET, "-l", "@1"]
    code, shown, others = terminal(*arguments, "-o", "a.npz", cwd=folder, streams=["stderr"])
    assert code == 0
    assert "━" in shown
    assert others["stdout"] == "a.npz\n"
    code, shown, _ = terminal(*arguments, "-o", "b.npz", "-q", cwd=folder, streams=["stderr"])
    assert (code, shown) == (0, "")
    env = {"NO_COLOR": "1"}
    code, shown, _ = terminal(*arguments, "-o", "c.npz", cwd=folder, streams=["stderr"], env=env)
    assert (code, COLOR.search(shown)) == (0, None)
    done = process(*arguments, "-o", "d.npz", cwd=folder).succeeded()
    assert not set("━\r\x1b") & set(done.out + done.err)


@pytest.mark.slow
def test_nothing_is_colored_in_a_pipe(model: Path, folder: Path) -> None:
    process("convert", model, "-o", "c.npz", cwd=folder).succeeded()
    for arguments in (
        ["inspect", model],
        ["verify", "c.npz"],
        ["map", "c.npz", "--entry-at", "0,0"],
    ):
        done = process(*arguments, cwd=folder).succeeded()
        assert "\x1b" not in done.out + done.err


# Names


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="names are Unicode there")
def test_a_file_name_that_is_no_unicode(folder: Path) -> None:
    shutil.copy(net(folder / "m.onnx"), os.fsdecode(b"m\xff.onnx"))
    child = started("convert", b"m\xff.onnx".decode(errors="surrogateescape"), cwd=folder)
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, err
    assert out == b"m\xff.onnx.fc/000-conv.npz\n"
    verified = started("verify", cwd=folder)
    out, err = verified.communicate(timeout=PATIENCE)
    assert verified.returncode == 0, err


def test_a_model_whose_name_begins_with_a_dash(folder: Path) -> None:
    net(folder / "-m.onnx")
    done = run("convert", "--", "-m.onnx").succeeded()
    assert done.lines == ["-m.onnx.fc/000-conv.npz"]
    assert len(run("verify").succeeded().lines) == 1
