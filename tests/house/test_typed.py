"""What a type checker sees of the package: every public name with its type, and no other."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import convfc_cli as convfc
from tests.support.paths import ROOT

IMPORT = "import convfc_cli as convfc\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all programs, so that mypy reads NumPy's types once."""
    return tmp_path_factory.mktemp("typed")


def mypy(code: str, folder: Path) -> str:
    """What mypy says of a program of a user's; empty where it has nothing to say."""
    (folder / "program.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "program.py"]
    command += ["--config-file", "", "--cache-dir", str(folder / "cache"), "--hide-error-context"]
    command += ["--disable-error-code", "import-untyped"]
    env = {**os.environ, "MYPYPATH": str(ROOT)}  # mypy does not follow an editable installation
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_of_the_readme(folder: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(import convfc_cli.*?)```", text, re.DOTALL)
    assert mypy(example, folder) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("convfc.covnert('m.onnx')", 'Module has no attribute "covnert"; maybe "convert"?'),
        ("convfc.read(3)", 'Argument 1 to "read" has incompatible type "int"'),
        ("convfc.matrix('m.onnx', layer=b'c')", 'Argument "layer" to "matrix"'),
        ("convfc.Options(fromat='csr')", 'Unexpected keyword argument "fromat" for "Options"'),
        ("convfc.verify('m.npz').okay", '"Report" has no attribute "okay"'),
        ("convfc.read('m.onnx').entries[0].nam", '"Entry" has no attribute "nam"'),
    ],
)
def test_a_mistake_is_found(line: str, told: str, folder: Path) -> None:
    found = mypy(IMPORT + line, folder)
    assert found.startswith("program.py:2: error: ")
    assert told in found


@pytest.mark.slow
def test_every_public_name_has_a_type(folder: Path) -> None:
    names = sorted(set(convfc.__all__) - {"__version__"})
    found = mypy(IMPORT + "".join(f"reveal_type(convfc.{name})\n" for name in names), folder)
    types = re.findall(r'Revealed type is "(.*)"', found)
    assert len(types) == len(names)
    assert not {"Any", "builtins.object"} & set(types)


def test_users_are_given_what_type_checkers_are_told() -> None:
    tree = ast.parse(Path(convfc.__file__).read_text())
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("convfc_cli")
        for alias in node.names
    }
    assert imported == {name: f"convfc_cli.{home}" for name, home in convfc._HOMES.items()}
    assert sorted([*imported, "__version__"]) == sorted(convfc.__all__)
