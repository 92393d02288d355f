"""Completion: what a shell is offered, and that nothing of an untrusted file runs in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convfc_cli.cli.completion import SHELLS, VARIABLE
from tests.support.cli_models import LENET, PATIENCE, environment, net, process, run

pytestmark = pytest.mark.usefixtures("folder")


def offered(folder: Path, *words: str) -> list[str]:
    """What bash is offered for the last word, without its kind."""
    asked = {
        VARIABLE: "bash_complete",
        "COMP_WORDS": "\n".join(["convfc", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = process(cwd=folder, env=asked).succeeded()
    assert done.err == ""
    return [line.partition(",")[2] for line in done.out.splitlines() if line]


def test_commands_options_and_choices(folder: Path) -> None:
    assert offered(folder, "co") == ["completion", "convert"]
    assert offered(folder, "convert", "m.onnx", "--fo") == [
        *("--fold-bn", "--form", "--format", "--force"),
    ]
    assert offered(folder, "convert", "m.onnx", "--form", "cs") == ["csr", "csc"]


@pytest.mark.parametrize("before", [[], ["-q"], ["-l", "b"], ["-o", "x.npz"]])
def test_layers_of_a_model(folder: Path, before: list[str]) -> None:
    net(folder / "m.onnx", names=("first", "b", "last"))
    line = ["convert", *before, "m.onnx", "-l"]
    assert offered(folder, *line, "f") == ["first"]
    assert offered(folder, *line, "@") == ["@0", "@1", "@2"]
    assert offered(folder, *line, "x") == []
    assert offered(folder, "convert", "-l", "f") == []


def test_layers_of_a_matrix_file(folder: Path) -> None:
    run("convert", LENET, "-o", "all.h5", "--no-verify").succeeded()
    assert offered(folder, "map", "all.h5", "-l", "node") == ["node_conv2d", "node_conv2d_1"]
    run("convert", LENET, "-o", "to/", "--no-verify").succeeded()
    (folder / "to" / "000-node_conv2d.npz").unlink()
    assert offered(folder, "map", "to", "-l", "node") == ["node_conv2d_1"]


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x08\x07"])
def test_a_file_that_cannot_be_read_offers_nothing(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / "m.onnx").write_bytes(content)
    assert offered(folder, "convert", "m.onnx", "-l", "a") == []
    assert offered(folder, "map", "m.onnx", "-l", "a") == []


HOSTILE = (
    "$(touch it)",
    "`touch it`",
    ";touch it",
    "*",
    "~",
    "-q",
    "a b",
    "a:b",
    "x=y",
    "!1",
    "\n",
)


def test_a_name_that_a_shell_would_read_is_offered_by_position(folder: Path) -> None:
    net(folder / "m.onnx", names=HOSTILE)
    positions = [f"@{position}" for position in range(len(HOSTILE))]
    assert offered(folder, "convert", "m.onnx", "-l", "") == positions


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_those_of_the_shells(shell: str) -> None:
    script = run("completion", shell).succeeded().out
    assert f"{VARIABLE}={shell}_complete" in script
    assert "'nu' is not one of" in run("completion", "nu").failed(2)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_a_layer_and_runs_no_name(folder: Path) -> None:
    net(folder / "m.onnx", names=(*HOSTILE, "conv1"))
    (folder / "bin").mkdir()
    (folder / "bin" / "convfc").write_text(
        f"""#!/bin/sh\nexec "{sys.executable}" -m convfc_cli "$@"\n"""
    )
    (folder / "bin" / "convfc").chmod(0o755)
    script = """
        source <(convfc completion bash)
        COMP_WORDS=(convfc convert m.onnx -l "$1"); COMP_CWORD=4
        _convfc_completion convfc; echo "${COMPREPLY[@]}"
    """
    for typed, expected in (("c", "conv1"), ("", "@0 @1 @2 @3 @4 @5 @6 @7 @8 @9 @10 conv1")):
        done = subprocess.run(
            ["bash", "-c", script, "bash", typed],
            cwd=folder,
            env=environment({"PATH": f"{folder}/bin:{os.environ['PATH']}"}),
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            text=True,
        )
        assert (done.stdout.strip(), done.stderr) == (expected, "")
    assert sorted(os.listdir(folder)) == ["bin", "m.onnx"]
