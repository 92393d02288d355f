"""What the commands show on terminals of several widths, held to `tests/data/screens.md`."""

import re
from pathlib import Path

import pytest

from tests.support.cli_models import LENET, run, terminal
from tests.support.screens import SCREENS, WIDTHS, screen, screens

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("folder")]


@pytest.mark.parametrize("columns", WIDTHS)
def test_what_a_terminal_shows(columns: int, folder: Path) -> None:
    section = SCREENS.read_text().split(f"## {columns} columns\n")[1].split("\n## ")[0]
    expected = dict(re.findall(r"```\n\$ ([^\n]*)\n(.*?)\n```", section, re.DOTALL))
    assert screens(columns, folder) == expected


def test_a_dumb_terminal_gets_no_bar_and_no_color(folder: Path) -> None:
    code, text, _ = terminal(
        "convert", LENET, cwd=folder, streams=("stdout", "stderr"), env={"TERM": "dumb"}
    )
    assert code == 0
    assert "\x1b" not in text
    assert [line.split()[0] for line in text.splitlines()] == [
        "lenet.onnx.fc/",
        "000-node_conv2d.npz",
        "001-node_conv2d_1.npz",
        "2",
    ]


def test_a_log_gets_paths_and_a_line_now_and_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convfc_cli.cli.progress.PAUSE", 0.0)
    done = run("convert", LENET).succeeded()
    assert [Path(line).name for line in done.lines] == [
        "000-node_conv2d.npz",
        "001-node_conv2d_1.npz",
    ]
    said = done.err.splitlines()
    assert said[0].startswith("convfc: 0 of 2 done, 0 bytes of about 5.7 MB")
    assert any(line.startswith("convfc: 1 of 2 done, ") for line in said)
    assert run("convert", LENET, "--force", "-q").succeeded().err == ""


def test_details_come_with_v_and_where_something_is_wrong(folder: Path) -> None:
    both = ("stdout", "stderr")
    run("convert", LENET).succeeded()
    _, text, _ = terminal("verify", cwd=folder, streams=both)
    assert "every bit and every zero" not in text
    _, text, _ = terminal("verify", "-v", cwd=folder, streams=both)
    assert text.count("every bit and every zero") == 2
    path = folder / "lenet.onnx.fc" / "000-node_conv2d.npz"
    path.write_bytes(path.with_name("001-node_conv2d_1.npz").read_bytes())
    manifest = folder / "lenet.onnx.fc" / "manifest.json"
    size = (path.stat().st_size, path.with_name("001-node_conv2d_1.npz").stat().st_size)
    manifest.write_text(re.sub(r'"bytes": \d+', f'"bytes": {size[0]}', manifest.read_text()))
    code, text, _ = terminal("verify", cwd=folder, streams=both)
    assert code == 1
    assert "WRONG" in text
    assert text.count("every bit and every zero") == 1


def test_what_lies_beside_a_matrix_is_shown(folder: Path) -> None:
    _, text, _ = terminal("convert", LENET, "-l", "@0", "-o", "c.mtx", cwd=folder)
    assert [line.split()[0] for line in text.splitlines()] == [
        "c.mtx",
        "node_conv2d",
        "c.mtx.operator.npz",
    ]


def test_errors_stand_above_the_bar(folder: Path) -> None:
    """Each in a line of its own, while the bar is on the same terminal."""
    run("convert", LENET).succeeded()
    path = folder / "lenet.onnx.fc" / "001-node_conv2d_1.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    columns, both = 200, ("stdout", "stderr")
    code, text, _ = terminal("verify", cwd=folder, streams=both, columns=columns)
    assert code == 3
    first, second, last = screen(text, columns).splitlines()
    assert first.startswith("proven ")
    assert second.startswith("convfc: error: ")
    assert last == "1 of 2 proven"


def test_weights_that_are_not_finite_are_warned_of(folder: Path) -> None:
    from tests.support.cli_models import net

    def blank(kernels: list) -> None:
        kernels[0][0, 0, 0, 0] = float("nan")

    path = net(folder / "m.onnx", names=("a", "b"), change=blank)
    told = run("convert", path).succeeded().err
    assert "warning (a): some weights are NaN or infinite" in told
    assert "warning (b)" not in told
    told = run("verify").succeeded().err
    assert "warning: m.onnx.fc/000-a.npz: some weights are NaN or infinite" in told
