"""What the commands print with --json: each fits its JSON Schema, and every key of it is printed.

Every other test that runs a command with --json holds what it prints to the schema too.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from onnx import helper

from convfc_cli import errors
from convfc_cli.layout import ORDERS
from convfc_cli.models.registry import formats
from convfc_cli.vocabulary import FORMS
from tests.support.cli_models import LENET, MIXED, arrays, net, rewritten, run
from tests.support.models import info, make_model, ramp, save, tensor
from tests.support.paths import DATA, ROOT
from tests.support.schemas import COMMANDS, held, keys, schema, used

pytestmark = pytest.mark.usefixtures("folder")

LINEAR = ROOT / "sample_models" / "linear.onnx"
INTEGERS = DATA / "written_by_0.1" / "integers.onnx"
STATE = DATA / "recorded" / "hdf5" / "torch_state.h5"


@pytest.fixture
def files(folder: Path) -> None:
    """Models and matrices of every kind that the outputs below are of."""

    def unbounded(kernels: list[Any]) -> None:
        kernels[0][0, 0, 1, 1:] = np.nan, np.inf

    net(folder / "m.onnx", names=("a", "b"))
    net(folder / "bad.onnx", names=("a",), unsupported=("no",))
    net(folder / "nan.onnx", change=unbounded)
    run("convert", "m.onnx", "-o", "all.h5", "--no-verify").succeeded()
    run("convert", "m.onnx", "-o", "m/", "--no-verify").succeeded()
    run("convert", "m.onnx", "-o", "partly/", "-l", "a").succeeded()
    run("convert", "nan.onnx", "-o", "nan.npz").succeeded()
    (folder / "partly" / "stray.npz").write_bytes(b"")
    stored = arrays(Path("m/000-a.npz"))
    run("convert", LINEAR, "--compose", "pad:fc", "-o", "chain.npz").succeeded()
    rewritten(Path("m/000-a.npz"), Path("wrong.npz"), data=stored["data"] * np.float32(2))
    rewritten(Path("m/000-a.npz"), Path("cut.npz"), data=stored["data"][:-1])
    (folder / "text.npz").write_text("text")
    sizeless = onnx.load(LINEAR)
    sizeless.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(sizeless, folder / "sizeless.onnx")
    nodes = [helper.make_node("Conv", [x, "W"], [f"y{x}"], name=f"conv{x}") for x in "ab"]
    inputs = [info("a", (1, 1, 5, 5)), info("b", (1, 1, None, 5))]
    half = make_model(nodes, inputs, [tensor("W", ramp(2, 1, 3, 3))], outputs=["ya", "yb"])
    save(half, folder, "half.onnx")
    lost = folder / "lost"
    lost.mkdir()
    for file in (folder / "m").iterdir():
        (lost / file.name).write_bytes(file.read_bytes())
    (lost / "000-a.npz").unlink()


OUTPUTS: dict[str, list[tuple[str, int]]] = {
    "inspect": [
        (f"{LENET} --include linear", 0),
        (f"{MIXED}", 0),
        (f"{INTEGERS}", 0),
        (f"{LINEAR} --chains", 0),
        ("sizeless.onnx --chains", 0),
        ("bad.onnx", 0),
        (f"{STATE}", 0),
        (f"{ROOT}/sample_models/digits.nir", 0),
        (f"{ROOT}/sample_models/digits_keras3.keras", 0),
        ("m", 0),
        ("all.h5", 0),
        ("lost", 3),
        ("chain.npz", 0),
        (f"{DATA}/written_by_0.1/quantized.mat", 0),
    ],
    "convert": [
        ("m.onnx", 0),
        ("m.onnx -o n/ --no-verify --fold-bn", 0),
        ("bad.onnx --keep-going --kernel-index", 4),
        ("half.onnx --keep-going", 2),
        ("m.onnx -o c.h5", 0),
        ("m.onnx -o d.h5 --dry-run", 0),
        ("m.onnx -o c.h5 --force --no-verify --form operator", 0),
        ("m.onnx -l a -o c.mtx --transpose --layout channels-last", 0),
        ("m.onnx -l b -o partly/ --force", 0),
        ("nan.onnx -o c.npy --dtype float64", 0),
        (f"{LINEAR} --compose pad:fc -o d.npz", 0),
        (f"{INTEGERS} -o integers/", 0),
    ],
    "verify": [
        ("m --model m.onnx", 0),
        ("all.h5 --seed 3", 4),
        ("wrong.npz cut.npz", 1),
        ("none.npz", 2),
        ("text.npz", 3),
        ("lost", 3),
        ("partly", 0),
        ("nan.npz --exhaustive", 0),
        (f"nan.npz --model {STATE}", 2),
        ("chain.npz --against reference", 4),
        ("m/000-a.npz --exhaustive --against reference", 0),
        ("c.npy.operator.npz m/000-a.npz", 2),
        (f"{DATA}/written_by_0.1/operator.npz --exhaustive", 4),
    ],
    "map": [
        ("m/000-a.npz --output-at 0,0,0", 0),
        ("m/000-a.npz --input-at 0,0,0", 0),
        ("m/000-a.npz --kernel-at 0,0,1,1", 0),
        ("m/000-a.npz --entry-at 0,29", 0),
        ("nan.npz --output-at 0,0,0", 0),
        ("chain.npz --output-at 0", 0),
        ("all.h5 -l b --input-at 0,0,0", 0),
        ("m -l a --output-at 0,0,0", 0),
    ],
}
"""Words for each command, and how it ends."""

_WRONG = ("row", "column", "output_element", "input_element", "kernel_element", "expected", "found")

NEVER = {"convert": {"finding.entry", *(f"wrong_entry.{key}" for key in _WRONG)}}
"""What a report has room for, and no output of the command: a wrong file is not written."""


def outputs(command: str) -> Iterator[dict[str, Any]]:
    """All that a command prints, held to its schema."""
    for words, code in OUTPUTS[command]:
        done = run(command, *words.split(), "--json")
        assert done.code == code, (words, done)
        yield held(done.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_output_fits_its_schema_and_every_key_is_used(files: None, command: str) -> None:
    found: set[str] = set()
    for content in outputs(command):
        assert content["schema"] == f"convfc.{command}/1"
        found |= set(used(command, content))
    assert found == keys(command) - NEVER.get(command, set())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_schema_is_one_and_allows_no_other_key(command: str) -> None:
    whole = schema(command)
    Draft202012Validator.check_schema(whole)
    assert whole["$id"] == f"urn:convfc:{command}:1"
    for place in (whole, *whole["$defs"].values()):
        assert place["additionalProperties"] is False
        assert place["type"] == "object"
        for key, value in place["properties"].items():
            assert value["description"].endswith("."), key


def test_a_key_means_the_same_in_every_command() -> None:
    """And has the same values, but that it may be null where a file is not read."""
    meanings: dict[str, str] = {}
    for command in COMMANDS:
        whole = schema(command)
        for place in (whole, *whole["$defs"].values()):
            for key, value in place["properties"].items():
                if key in ("schema", "kind"):
                    continue
                meaning = json.dumps({**value, "type": None})
                assert meanings.setdefault(key, meaning) == meaning, (command, key)


def test_the_words_of_the_schemas_are_those_of_the_code() -> None:
    def tree(kind: type[errors.ConvfcError]) -> set[type[errors.ConvfcError]]:
        return {kind}.union(*(tree(child) for child in kind.__subclasses__()))

    written = schema("convert")["$defs"]
    matrix, error = (written[name]["properties"] for name in ("matrix", "error"))
    kinds = {kind for kind in tree(errors.ConvfcError) if kind.__module__ == errors.__name__}
    assert set(error["kind"]["enum"]) == {kind.__name__ for kind in kinds - {errors.ConvfcError}}
    codes = {kind.exit_code for kind in kinds}
    assert set(error["exit_code"]["enum"]) == codes
    assert set(matrix["form"]["enum"]) == {*FORMS, None}
    assert matrix["layout"]["enum"] == list(ORDERS)
    assert written["model"]["properties"]["kind"]["enum"] == [*sorted(formats()), None]


def test_the_page_names_every_schema() -> None:
    page = (ROOT / "convfc_cli" / "cli" / "README.md").read_text()
    assert set(re.findall(r"\]\(schemas/(\w+)\.json\)", page)) == set(COMMANDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(more=1),
        lambda content: content.pop("version"),
        lambda content: content["matrices"][0].update(ok=True),
        lambda content: content["matrices"][0]["report"].pop("seed"),
        lambda content: content["matrices"][0].update(verdict="fine"),
        lambda content: content["matrices"][0]["report"]["findings"][0].update(holds="yes"),
    ],
)
def test_what_does_not_fit_is_found(files: None, change: Callable[[dict[str, Any]], Any]) -> None:
    content = held(run("verify", "m", "--json").succeeded().out)
    change(content)
    with pytest.raises(AssertionError, match=r"^verify \$"):
        held(json.dumps(content, indent=1) + "\n")


def test_an_error_says_what_helps() -> None:
    (layer, *_) = held(run("inspect", MIXED, "--json").succeeded().out)["layers"]
    assert layer["error"] == {
        "kind": "SizeMissing",
        "exit_code": 2,
        "message": "the size of its input 'x' is open (known: 1, 1, ?, ?)",
        "hints": ["--input-shape x=1,1,224,224"],
    }
    (layer, *_) = held(run("inspect", STATE, "--json").succeeded().out)["layers"]
    assert layer["error"]["kind"] == "WeightsAlone"
    assert layer["error"]["hints"][0].startswith("--weight depthwise.weight --bias ")


def test_warnings_say_of_what_kind_they_are(files: None) -> None:
    idle = held(run("convert", "m.onnx", "-o", "n/", "--fold-bn", "--json").succeeded().out)
    assert [warning["kind"] for warning in idle["warnings"]] == ["no-effect"]
    beside = held(run("verify", "partly", "--json").succeeded().out)
    assert [warning["kind"] for warning in beside["warnings"]] == ["unlisted"]
    (matrix,) = held(run("verify", "nan.npz", "--json").succeeded().out)["matrices"]
    assert [warning["kind"] for warning in matrix["report"]["warnings"]] == ["not-finite"]


def test_a_matrix_has_the_same_name_in_every_command(files: None) -> None:
    written = held(run("convert", "m.onnx", "-o", "c.h5", "--json").succeeded().out)["matrices"]
    read = held(run("verify", "c.h5", "--json").succeeded().out)["matrices"]
    for one, other in zip(written, read, strict=True):
        shared = one.keys() & other.keys() - {"report"}
        assert shared == {"file", "group", "layer", "form", "shape", "nonzeros", "verdict"}
        assert [one[key] for key in shared] == [other[key] for key in shared]
    assert [matrix["group"] for matrix in read] == ["000-a", "001-b"]


def test_the_package_carries_the_schemas() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "convfc_cli"
    carried = {
        path for mask in settings["package-data"]["convfc_cli"] for path in package.glob(mask)
    }
    assert carried == {package / "py.typed", *(package / "cli" / "schemas").iterdir()}
