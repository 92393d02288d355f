"""The walls of the house stand: who imports whom, and where each library lives (`walls`)."""

import ast
import pkgutil
import re
import tomllib
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

import convfc_cli
from tests.house.walls import APART, LIBRARIES, LIGHT, NOTHING_SEES, ROOMS, WITHIN
from tests.support.paths import ROOT

PACKAGE = Path(convfc_cli.__file__).parent
MODULES = sorted(
    ["convfc_cli", *(found.name for found in pkgutil.walk_packages([str(PACKAGE)], "convfc_cli."))]
)
ABOVE = {"convfc_cli", "convfc_cli.__main__"}
"""Modules that are in no room: the public names, and `python -m convfc_cli`."""


def path_of(module: str) -> Path:
    """The file of a module."""
    base = PACKAGE.parent.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def imports(module: str) -> set[str]:
    """All that a module imports, wherever in it: also late, also for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def at_the_top(module: str) -> set[str]:
    """What a module imports when it is imported itself."""
    found: set[str] = set()
    for node in ast.parse(path_of(module).read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & set(MODULES) or {node.module or ""}
    return found


IMPORTS = {module: imports(module) for module in MODULES}
OURS = {
    module: {name for name in found if name.split(".")[0] == "convfc_cli"}
    for module, found in IMPORTS.items()
}
OURS["convfc_cli"] = set()  # it names what is public for type checkers, and imports it when used


def beyond(module: str) -> set[str]:
    """All of ours that a module reaches."""
    reached: set[str] = set()
    todo = [module]
    while todo:
        for name in OURS[todo.pop()] - reached:
            reached.add(name)
            todo.append(name)
    return reached


def room_of(module: str) -> str:
    """The module or the package right below `convfc_cli` that a module is or is in."""
    return module.split(".")[1]


def users(library: str) -> dict[str, str]:
    """The modules that import a library, with their paths below the package."""
    return {
        module: path_of(module).relative_to(PACKAGE).as_posix()
        for module, found in IMPORTS.items()
        if library in {name.split(".")[0] for name in found}
    }


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path fits one of the patterns, as the lint rules understand them."""
    for pattern in patterns:
        group = re.search(r"\{(.*)\}", pattern)
        options = group[1].split(",") if group else [""]
        names = [pattern.replace(group[0], name) if group else pattern for name in options]
        if any(fnmatch(path, name) for name in names):
            return True
    return False


def test_the_walls_are_looked_at() -> None:
    assert len(MODULES) > 30
    assert "convfc_cli.errors" in OURS["convfc_cli.files"]
    assert "convfc_cli.geometry" in beyond("convfc_cli.cli.convert")
    assert matches("a/format.py", ("a/{[!f]*,fused}.py",)) is False
    assert matches("a/fused.py", ("a/{[!f]*,fused}.py",)) is True


def test_what_is_imported_is_there() -> None:
    for module, found in OURS.items():
        assert found <= set(MODULES), module


def test_every_room_is_in_the_table() -> None:
    rooms = list(chain.from_iterable(ROOMS))
    assert sorted(rooms) == sorted({room_of(module) for module in MODULES if module not in ABOVE})


def test_rooms_import_upwards_in_the_table() -> None:
    rank = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    for module in set(MODULES) - ABOVE:
        room = room_of(module)
        for other in {room_of(name) for name in OURS[module] - ABOVE} - {room}:
            assert rank[other] < rank[room], f"{module} imports {other}"


@pytest.mark.parametrize("package", WITHIN)
def test_the_modules_of_a_package_import_upwards_in_the_table(package: str) -> None:
    rank = {name: number for number, names in enumerate(WITHIN[package]) for name in names}
    assert rank.keys() == {
        name.split(".")[2] for name in MODULES if name.startswith(f"convfc_cli.{package}.")
    }
    for name, number in rank.items():
        for other in OURS[f"convfc_cli.{package}.{name}"]:
            if other.startswith(f"convfc_cli.{package}."):
                assert rank[other.split(".")[2]] < number, f"{package}.{name} imports {other}"


@pytest.mark.parametrize(("one", "other"), APART)
def test_rooms_that_are_apart_do_not_reach_each_other(one: str, other: str) -> None:
    for module in set(MODULES) - ABOVE:
        if room_of(module) == one:
            assert other not in {room_of(name) for name in beyond(module) - ABOVE}, module


def test_the_oracle_reads_the_six_numbers_of_an_axis_and_nothing_else() -> None:
    reached = {name.removeprefix("convfc_cli.") for name in beyond("convfc_cli.direct")}
    assert reached <= {"errors", "geometry", "hints"}


def test_no_assert_is_needed_for_what_it_calls() -> None:
    """`python -O` leaves asserts out."""
    for module in MODULES:
        for node in ast.walk(ast.parse(path_of(module).read_text())):
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Call):
                called = ast.unparse(node.test.func)
                assert called in {"isinstance", "issubclass", "callable"}, f"{module}: {called}"


def test_there_are_no_cycles() -> None:
    try:
        order = list(TopologicalSorter(OURS).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_has_its_room(library: str) -> None:
    wall, found = LIBRARIES[library], users(library)
    assert found
    for module, path in found.items():
        assert matches(path, wall.rooms), f"{module} imports {library}"
        top = library in {name.split(".")[0] for name in at_the_top(module)}
        assert not (top and wall.late) or matches(path, wall.early), f"{module} is not late"


def test_no_pattern_is_idle() -> None:
    for library, wall in LIBRARIES.items():
        for pattern in (*wall.rooms, *wall.early):
            assert any(matches(path, (pattern,)) for path in users(library).values()), pattern


def test_tests_are_not_imported() -> None:
    assert not {**users("tests"), **users("pytest"), **users("hypothesis")}


def test_the_lint_rules_are_the_table() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    rules = lint["flake8-tidy-imports"]
    banned = {name: wall.why for name, wall in LIBRARIES.items() if wall.why}
    banned |= {name: why for name, (why, _) in NOTHING_SEES.items()}
    assert {name: rule["msg"] for name, rule in rules["banned-api"].items()} == banned
    assert rules["banned-module-level-imports"] == sorted(
        name for name, wall in LIBRARIES.items() if wall.late
    )
    expected: dict[str, set[str]] = {"tests/**": {"TID"}, "sample_models/**": {"TID"}}
    for wall in LIBRARIES.values():
        for pattern in wall.rooms if wall.why else ():
            expected.setdefault(f"convfc_cli/{pattern}", set()).add("TID251")
        for pattern in wall.early:
            expected.setdefault(f"convfc_cli/{pattern}", set()).add("TID253")
    for _, patterns in NOTHING_SEES.values():
        for pattern in patterns:
            expected.setdefault(f"convfc_cli/{pattern}", set()).add("TID251")
    ignores = {pattern: set(codes) for pattern, codes in lint["per-file-ignores"].items()}
    assert ignores == expected


def test_the_command_imports_little_before_it_is_needed() -> None:
    """At the top of a module of `cli`: click, the standard library, and plain modules of ours."""
    for module in MODULES:
        if room_of(f"{module}.") != "cli":
            continue
        for name in at_the_top(module):
            assert name.split(".")[0] not in {"numpy", *LIBRARIES} - {"click"}, module
            if name.startswith("convfc_cli.") and not name.startswith("convfc_cli.cli"):
                assert name.removeprefix("convfc_cli.") in LIGHT, module


def test_a_kind_of_model_file_is_recognized_without_its_library() -> None:
    for module in MODULES:
        if re.fullmatch(r"convfc_cli\.models\.\w+\.format", module):
            assert not {name.split(".")[0] for name in at_the_top(module)} & LIBRARIES.keys()


def test_the_light_modules_are_light() -> None:
    for module in LIGHT:
        reached = beyond(f"convfc_cli.{module}") | {f"convfc_cli.{module}"}
        for name in reached:
            assert "numpy" not in {top.split(".")[0] for top in at_the_top(name)}, name
