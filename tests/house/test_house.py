"""The walls of the house: who imports whom, that examples run, that every error is documented."""

import ast
import doctest
import inspect
import pkgutil
import re
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import convfc_cli
from convfc_cli import errors
from convfc_cli.cli.main import cli
from tests.support.cli_models import run

PACKAGE = Path(convfc_cli.__file__).parent
MODULES = sorted(
    ["convfc_cli", *(found.name for found in pkgutil.walk_packages([str(PACKAGE)], "convfc_cli."))]
)

ORDER = (
    {"arrays", "errors"},
    {"files", "geometry", "hdf5.chunks", "layout", "naming", "outline", "plain", "streams"},
    {"contained", "hdf5.heaps", "taps"},
    {"hdf5.survey"},
    {"hdf5.tree"},
    {"toeplitz", "direct"},
    {"layers.linear"},
    {"layers.description", "layers.tied"},
    {"layers.convolution", "layers.blockwise"},
    {"layers.dense", "layers.diagonal", "layers.gather", "layers.locally_connected"},
    {"layers.product"},
)
"""The heart, from the left: each imports only from those before it."""

KINDS = tuple(
    f"layers.{name}" for name in ("convolution", "dense", "diagonal", "gather", "locally_connected")
)


BUILT_OF = {
    "kernel_index": {"proof.probes"},
    "product": {"proof.probes", "proof.reals"},
    "levels": {"proof.probes", "proof.product"},
}
"""The levels of the proof that others are made of."""

LIGHT = {"convfc_cli", "errors", "layout", "matrices.vocabulary"}
"""What a command may import before it knows what to do: modules without NumPy."""


def path_of(module: str) -> Path:
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


def short(names: set[str]) -> set[str]:
    return {name.removeprefix("convfc_cli.") for name in names}


def users(library: str) -> set[str]:
    """The modules that import a library."""
    return short(
        {
            module
            for module, found in IMPORTS.items()
            if any(name.split(".")[0] == library for name in found)
        }
    )


def test_the_walls_are_looked_at() -> None:
    assert len(MODULES) > 30
    assert "convfc_cli.errors" in OURS["convfc_cli.files"]
    assert "convfc_cli.geometry" in beyond("convfc_cli.cli.convert")


def test_what_is_imported_is_there() -> None:
    for module, found in OURS.items():
        assert found <= set(MODULES), module


def test_the_heart_imports_in_one_direction() -> None:
    before: set[str] = set()
    for rank in ORDER:
        for name in sorted(rank):
            assert short(OURS[f"convfc_cli.{name}"]) <= before, name
        before |= rank


def test_the_oracle_shares_no_code_with_what_it_checks() -> None:
    for one, other in (("direct", "toeplitz"), ("toeplitz", "direct"), ("direct", "taps")):
        assert f"convfc_cli.{other}" not in beyond(f"convfc_cli.{one}")
    assert short(beyond("convfc_cli.direct")) <= {"geometry", "errors"}


def test_readers_and_writers_stand_left_of_the_job() -> None:
    for module in MODULES:
        rooms = module.split(".")
        if rooms[1:2] in (["models"], ["matrices"]) and len(rooms) > 2:
            other = {"models": "matrices", "matrices": "models"}[rooms[1]]
            reached = short(beyond(module))
            assert not reached & {"matrices.operator"}, module
            assert not any(name.startswith("jobs") for name in reached), module
            if rooms[1] == "matrices":
                assert not {name for name in reached if name.startswith(other)}, module


def test_the_levels_of_the_proof_see_neither_models_nor_each_other() -> None:
    levels = {name for name in MODULES if name.startswith("convfc_cli.proof.")}
    levels -= {"convfc_cli.proof.verify"}
    assert len(levels) > 2
    for module in levels:
        reached = short(beyond(module))
        assert not {name for name in reached if name.startswith("models")}, module
        assert "proof.verify" not in reached, module
        assert not {name for name in reached if name.startswith("jobs")}, module
        others = short(OURS[module] & levels) - {"proof.check", "proof.report"}
        assert others <= BUILT_OF.get(module.removeprefix("convfc_cli.proof."), set()), module


def test_nothing_sees_the_command() -> None:
    for module, found in OURS.items():
        if not module.startswith("convfc_cli.cli") and module != "convfc_cli.__main__":
            assert not {name for name in found if name.startswith("convfc_cli.cli")}, module


def test_there_are_no_cycles() -> None:
    try:
        order = list(TopologicalSorter(OURS).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert set(order) == set(MODULES)


@pytest.mark.parametrize(
    ("library", "room"),
    [
        ("click", r"cli\..*"),
        ("rich", r"cli\..*"),
        ("onnx", r"models\.onnx\..*|runtimes\.(onnx_.*|reference)"),
        ("google", r"models\.onnx\..*"),
        ("onnxruntime", r"runtimes\.onnxruntime"),
        ("h5py", r"hdf5\.tree"),
    ],
)
def test_each_library_has_its_room(library: str, room: str) -> None:
    for module in users(library):
        assert re.fullmatch(room, module), f"{module} imports {library}"


def test_the_rooms_are_in_use() -> None:
    assert {"cli.main", "cli.options"} <= users("click")
    assert users("rich") == {"cli.output"}
    assert users("onnx") >= {"models.onnx.format", "models.onnx.listing"}
    assert not users("tests") | users("pytest") | users("hypothesis")


def test_the_command_imports_little_before_it_is_needed() -> None:
    """At the top of a module of `cli`: click, the standard library, and plain modules of ours."""
    for module in MODULES:
        if not module.startswith("convfc_cli.cli."):
            continue
        for node in ast.parse(path_of(module).read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("numpy", "onnx", "scipy", "rich", "h5py"), module
                if name.startswith("convfc_cli") and not name.startswith("convfc_cli.cli"):
                    assert short({name}) <= {
                        "convfc_cli",
                        "errors",
                        "layout",
                        "matrices.vocabulary",
                    }, module


@pytest.mark.parametrize("module", [name for name in MODULES if name != "convfc_cli.__main__"])
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = {
        name: sum(len(test.examples) for test in finder.find(import_module(f"convfc_cli.{name}")))
        for name in ("geometry", "taps", "direct", "toeplitz", "layout", "outline", "plain", *KINDS)
    }
    assert min(counts.values()) >= 1, counts


TRANSLATED = re.compile(
    r"(?<![Tt]here )\b(is|are) no (?!longer|larger|more|less)\w|asked for\b|\b(is|are) none of\b|"
    r"what there is not|\btold by\b|stranger"
)
"""English that reads as translated: say "is not a valid X", "expected X", "must be one of"."""


@pytest.mark.parametrize("module", MODULES)
def test_messages_help_and_docstrings_are_in_plain_english(module: str) -> None:
    found = [line for line in path_of(module).read_text().splitlines() if TRANSLATED.search(line)]
    assert not found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(path_of(module).read_text()))


def error_classes() -> list[type[errors.ConvfcError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    ]


def test_every_error_has_a_documented_code() -> None:
    help_ = run("--help").succeeded().out
    codes = help_[help_.index("Exit codes:") :]
    documented = set(map(int, re.findall(r"(?<!\S)(\d+)(?=\s{2,}\S)", codes)))
    assert {0, 1, 2, 3, 4, 5, 6, 70, 130, 141} <= documented
    found = {kind.exit_code for kind in error_classes()}
    assert found <= documented
    assert found == {1, 2, 3, 4, 5, 6, 70}


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    drawn = errors.__doc__
    for kind in error_classes():
        assert issubclass(kind, errors.ConvfcError)
        assert kind.__doc__
        (line,) = [text for text in drawn.splitlines() if re.search(rf"\b{kind.__name__}\b", text)]
        code = re.search(r"\((\d+)\)", line)
        if code:
            assert int(code[1]) == kind.exit_code
        depth = len(kind.__mro__) - len(errors.ConvfcError.__mro__)
        assert line.index(kind.__name__) == 4 * depth
    assert imports("convfc_cli.errors") == set()


def test_every_option_says_what_it_does() -> None:
    for command in cli.commands.values():
        assert command.help
        assert command.epilog
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"
