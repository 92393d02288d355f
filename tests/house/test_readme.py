"""The README and the pages behind it tell the truth: help texts, commands, code and links."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.cli.main import cli
from convfc_cli.errors import ConvfcError
from tests.support.cli_models import run
from tests.support.readme import PAGES, README, ROOT, generated

TEXT = "\n".join(page.read_text() for page in PAGES)


@pytest.fixture
def in_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sample models in it, as the current one."""
    shutil.copytree(ROOT / "sample_models", tmp_path / "sample_models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_generated_is_as_it_is_now(page):
    text = page.read_text()
    assert generated(text) == text, "run: python -m tests.support.readme"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert all((page.parent / link).exists() for link in links if "://" not in link)


def test_the_readme_leads_to_every_page():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert {ROOT / link for link in links} >= set(PAGES) - {README}
    assert len(README.read_text().splitlines()) < 260


def test_the_tables_are_there():
    assert re.findall(r"<!-- table: (\w+) -->\n\|", TEXT) == [
        "models",
        "matrices",
        "options",
    ]


def test_every_command_has_its_help_in_it():
    assert set(re.findall(r"<!-- help: (\w+) -->", TEXT)) == set(cli.commands)


def test_the_two_commands_that_ci_runs_are_there():
    assert len(re.findall(r"<!-- ci: main -->\n```sh\n[^\n]+\n```", TEXT)) == 1
    assert len(re.findall(r"<!-- ci: tests -->\n```sh\n[^\n]+\n```", TEXT)) == 1


def test_every_exit_code_of_an_error_is_in_the_table():
    def tree(kind: type[ConvfcError]) -> set[int]:
        return {kind.exit_code}.union(*(tree(child) for child in kind.__subclasses__()))

    table = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    assert tree(ConvfcError) <= table


def test_the_python_example_runs(in_copy: Path):
    (example,) = [block for block in blocks("python") if "convfc.read" in block]
    scope: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["A"].toarray().tolist()[1] == [0, 1, 2, 0, 3, 4, 0, 0, 0]
    assert scope["M"].shape == (1600, 1176)
    assert scope["output"] == (0, 0, 0)


@pytest.mark.slow
def test_the_commands_on_samples_run(in_copy: Path):
    commands = [
        shlex.split(line)
        for block in blocks("sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("convfc ")
    ]
    assert commands
    for _, *arguments in commands:
        run(*arguments).succeeded()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["@3", "@5"])
def test_the_index_map_in_numpy_explains_every_nonzero(in_copy: Path, layer: str):
    (example,) = [block for block in blocks("python") if "def explain" in block]
    scope: dict[str, object] = {"np": np}
    exec(compile(example, "README.md", "exec"), scope)
    shapes = {None: (1, 1, 12, 12)}
    convfc.convert("sample_models/mixed.onnx", "m.npz", layers=[layer], input_shape=shapes)
    operator = convfc.load("m.npz")
    with np.load("m.npz") as arrays:
        meta, kernel = json.loads(str(arrays["convfc"])), arrays["kernel"]
        data, indices = arrays["data"], arrays["indices"]
        rows = np.repeat(np.arange(len(arrays["indptr"]) - 1), np.diff(arrays["indptr"]))
    assert len(data) > 1000
    for row, column, weight in zip(rows.tolist(), indices.tolist(), data, strict=True):
        output, source, element = scope["explain"](row, column, meta, kernel)
        assert kernel[element] == weight
        assert (output, source, element) == operator.entry(row, column)


def test_the_walk_through_prints_what_the_readme_shows(in_copy: Path):
    convfc.convert("sample_models/ma_lu_2017.onnx")
    file = "ma_lu_2017.onnx.fc/000-node_Conv_13.npz"
    assert file in TEXT
    operator = convfc.load(file)
    row = operator.rows(44, 45)
    shown = re.findall(r"^ +44 +(\d+) +0,3,5 +(\S+) +(\S+) +(\S+)$", TEXT, re.MULTILINE)
    assert len(shown) == row.nnz == 16
    for (column, source, element, weight), j, value in zip(
        shown, row.indices, row.data, strict=True
    ):
        assert int(column) == j
        expected = operator.entry(44, int(j))
        assert tuple(map(int, source.split(","))) == expected[1]
        assert tuple(map(int, element.split(","))) == expected[2]
        assert np.float32(weight) == value
