"""What is said of a file's size before it is written: at most so many bytes, and never too few."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convfc_cli as convfc
from convfc_cli.files import human
from convfc_cli.geometry import Axis
from convfc_cli.layers.compose import composed
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.filling import filled
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product
from convfc_cli.matrices import registry
from convfc_cli.matrices.matrix import Matrix, Origin, Spec, describe, longest
from convfc_cli.matrices.schema import MAX_DESCRIPTION_LENGTH
from convfc_cli.outline import FixedOutline
from convfc_cli.taps import IndexMap
from tests.support import crafted
from tests.support.cli_models import arrays, net, run
from tests.support.crafted import rendered, suits
from tests.support.kinds import KINDS, chains, copies
from tests.support.paths import SAMPLES
from tests.support.strategies import specs

LINEAR = SAMPLES / "linear.onnx"

FORMATS = [(kind, form) for kind in registry.formats().values() for form in kind.forms]
every_format = pytest.mark.parametrize(("kind", "form"), FORMATS, ids=crafted.label)

LONG = [
    *(np.float64("-2.2250738585072014e-308"), np.float32("-1.1754944e-38")),
    np.array([0x95AE43FD], np.uint32).view(np.float32)[0],  # -7.038531e-26, written as a double
    np.int32(-(2**31)),
]

ORIGINS = st.builds(
    Origin,
    file=st.text(max_size=40),
    layer=st.text(max_size=200),
    output=st.text(max_size=200),
    position=st.integers(0, 10**6),
    notes=st.dictionaries(st.text(max_size=9), st.lists(st.floats(0, 1), max_size=50), max_size=3),
)


def written(matrix: Matrix, kind: Any) -> int:
    """Bytes of the file and of what lies beside it."""
    beside = crafted.beside(kind, matrix)
    return len(rendered(kind, matrix)) + (beside.size if beside else 0)


def held(form: str, layer: Linear, spec: Spec) -> bool:
    """Whether such a layer has such a form in this layout."""
    return suits(form, spec) and (form != "bsr" or isinstance(layer, Convolution))


@pytest.mark.slow
@every_format
@pytest.mark.parametrize("layer", KINDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_file_is_as_large_as_planned_or_a_little_smaller(kind, form, layer, data) -> None:
    case, spec = data.draw(copies(layer)), data.draw(specs())
    numbered = form in ("csr", "csc", "coo") and kind.has_kernel_index and data.draw(st.booleans())
    if not held(form, case.layer, spec):
        return
    matrix = Matrix(case.layer, replace(spec, form=form, kernel_index=numbered), data.draw(ORIGINS))
    outline, dtype = case.layer.outline, case.layer.dtype
    try:
        actual = written(matrix, kind)
    except convfc.ConvfcError:  # a NaN that a text does not tell
        return
    planned = kind.size(matrix.spec, outline, dtype, matrix.origin)
    text = longest(outline, matrix.origin) - len(describe(matrix))
    assert 0 <= text <= 1500
    files = 2 if kind.sidecar(Path("x")) else 1
    loose = actual if kind.name in crafted.TEXT else 0
    assert actual <= planned <= actual + loose + 4 * text * files + 5_000


@pytest.mark.parametrize("name", sorted(crafted.TEXT))
@pytest.mark.parametrize("value", LONG, ids=str)
def test_the_longest_values_are_planned_for(name, value) -> None:
    kind, layer = registry.formats()[name], Dense(np.full((9, 9), value))
    matrix = Matrix(layer, Spec(), Origin())
    text = rendered(kind, matrix)
    planned = kind.own_size(matrix.spec, layer.outline, layer.dtype)
    assert len(text) <= planned
    if value.dtype == np.float64:
        assert planned <= len(text) + 128  # none is longer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form"), [pair for pair in FORMATS if pair[1] != "bsr"], ids=crafted.label
)
@settings(max_examples=10, deadline=None)
@given(chain=chains(), spec=specs(), origin=ORIGINS, dtype=st.sampled_from([None, "float64"]))
def test_a_product_is_never_larger_than_planned(kind, form, chain, spec, origin, dtype) -> None:
    layer: Linear = chain.layer if dtype is None else chain.layer.astype(dtype)
    matrix = Matrix(layer, replace(spec, form=form), origin)
    actual = written(matrix, kind)
    for outline in (layer.outline, listed(chain.layer)):  # of a plan; of `inspect --chains`
        assert actual <= kind.size(matrix.spec, outline, layer.dtype, origin)


def listed(product: Product) -> FixedOutline:
    """The outline of a product as a listing has it, that reads no kernel of a convolution."""
    return filled([f.index_map if isinstance(f, Convolution) else f for f in product.factors])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(chain=chains())
def test_a_product_has_no_more_entries_than_are_listed(chain) -> None:
    outline = listed(chain.layer)
    assert (outline.input_shape, outline.output_shape) == (chain.input_shape, chain.output_shape)
    assert len(chain.paths) <= outline.nnz <= outline.rows * outline.columns


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(chain=chains())
def test_what_is_folded_into_a_kernel_is_not_listed_beside_it(chain) -> None:
    layer, outline = composed(chain.layer.factors), listed(chain.layer)
    kept = layer.outline.kept(8)
    assert kept.nbytes <= outline.kept(8).nbytes
    assert len(layer.factors if isinstance(layer, Product) else [layer]) == len(outline.factors)


def conv(shape: tuple[int, ...], size: int, *axes: Axis, groups: int = 1) -> Convolution:
    """A convolution of one 0s."""
    kernel = (size, shape[0] // groups, *(axis.kernel for axis in axes))
    return Convolution(np.ones(kernel, np.float32), IndexMap(kernel, axes, groups))


def test_chains_of_convolutions_are_counted_to_the_last_entry() -> None:
    wide, narrow = Axis(20, 20, 3, 1, 1, 1), Axis(20, 9, 4, 2, 1, 0)
    one = conv((4, 20, 20), 6, wide, wide)
    grouped = conv((6, 20, 20), 6, wide, wide, groups=2)
    strided = conv((6, 20, 20), 8, narrow, narrow, groups=2)
    for factors in (
        [one, grouped],
        [one, strided],
        [grouped, grouped, strided],
        [one, grouped, strided],
    ):
        product = Product(factors)
        assert listed(product).nnz == product.nnz


def test_padding_before_convolutions_is_counted_to_within_its_borders() -> None:
    source = np.pad(np.arange(4 * 18 * 18).reshape(4, 18, 18), ((0, 0), (1, 1), (1, 1)), "reflect")
    wide = Axis(20, 20, 3, 1, 1, 1)
    product = Product([
        Gather((4, 18, 18), source), conv((4, 20, 20), 6, wide, wide),
        conv((6, 20, 20), 6, wide, wide),
    ])  # fmt: skip
    assert product.nnz <= listed(product).nnz <= 1.25 * product.nnz


# One figure, everywhere


def told(*arguments: Any) -> dict[str, Any]:
    return json.loads(run("inspect", *arguments, "--json").succeeded().out)


@pytest.mark.slow
@pytest.mark.parametrize("between", ["pad:conv", "pad:norm", "conv:pool", "pool:fc", "pad:fc"])
def test_a_chain_is_planned_for_no_less_than_it_takes(folder: Path, between: str) -> None:
    done = run("convert", LINEAR, "--compose", between, "-o", "c.npz", "-v")
    if done.code == 2:
        pytest.skip("no such chain")
    planned = done.err.splitlines()[0].rsplit("at most ", 1)[1]
    size = Path("c.npz").stat().st_size
    assert float(planned.split()[0]) * 1000 >= size - 50
    tight = run("convert", LINEAR, "--compose", between, "-o", "t.npz", "--max-bytes", size - 1)
    assert tight.code == 5
    streamed = run("convert", LINEAR, "--compose", between, "-o", "-", "--max-bytes", size - 1)
    assert streamed.code == 5


@pytest.mark.slow
def test_the_list_the_plan_and_the_ceiling_have_one_figure(folder: Path) -> None:
    (chain,) = told(LINEAR, "--chains")["chains"]
    done = run("convert", LINEAR, "--compose", chain["layer"], "-o", "c.npz", "-v")
    assert f"at most {human(chain['bytes'])}" in done.succeeded().err
    assert Path("c.npz").stat().st_size <= chain["bytes"]
    assert chain["nonzeros"] == np.load("c.npz")["data"].size
    ceiling = ("--max-bytes", chain["bytes"])
    run("convert", LINEAR, "--compose", chain["layer"], "-o", "d.npz", *ceiling).succeeded()
    short = ("--max-bytes", chain["bytes"] - 1)
    for output in ("e.npz", "-"):
        run("convert", LINEAR, "--compose", chain["layer"], "-o", output, *short).failed(5)


def test_every_layer_takes_no_more_than_is_listed(folder: Path) -> None:
    found = told(LINEAR, "--include", "linear")["layers"]
    run("convert", LINEAR, "--include", "linear", "-o", "f/").succeeded()
    assert len(found) > 5
    for layer in found:
        (path,) = Path("f").glob(f"{layer['position']:03}-*.npz")
        assert path.stat().st_size <= layer["bytes"] <= path.stat().st_size + 20_000


# What a person gave as a name


def named(path: Path, length: int) -> Path:
    """A model of one layer with a name of this length."""
    net(path)
    model = onnx.load(path)
    model.graph.node[0].name = "n" * length
    onnx.save(model, path)
    return path


def test_a_long_name_is_part_of_the_plan(folder: Path) -> None:
    named(folder / "m.onnx", 100_000)
    (layer,) = told("m.onnx")["layers"]
    run("convert", "m.onnx", "-o", "c.npz").succeeded()
    assert 400_000 < Path("c.npz").stat().st_size <= layer["bytes"]
    run("verify", "c.npz").succeeded()


@pytest.mark.parametrize("name", ["c.npz", "c.npy", "c.h5", "f/"])
def test_a_name_that_would_not_be_read_back_is_refused_before_it_is_written(
    folder: Path, name: str
) -> None:
    named(folder / "m.onnx", 2**22)
    told = run("convert", "m.onnx", "-o", name).failed(5)
    assert f"at most {MAX_DESCRIPTION_LENGTH} are read back" in told
    assert len(told) < 500
    assert sorted(path.name for path in folder.iterdir()) == ["m.onnx"]


@pytest.mark.slow
def test_the_longest_name_that_is_taken_is_read_back(folder: Path) -> None:
    origin = Origin(layer="c", output="y0", position=0, op="Conv", dtype="float32")
    named(folder / "m.onnx", MAX_DESCRIPTION_LENGTH - 4000)
    for name in ("c.npz", "c.npy", "c.h5"):
        run("convert", "m.onnx", "-o", name).succeeded()
        run("verify", name).succeeded()
    assert len(str(arrays(Path("c.npz"))["convfc"])) > MAX_DESCRIPTION_LENGTH - 4000 + len(
        origin.op
    )


def test_a_manifest_that_would_not_be_read_back_is_refused(folder: Path, monkeypatch) -> None:
    net(folder / "m.onnx", names=[f"c{number}" for number in range(5)])
    monkeypatch.setattr("convfc_cli.jobs.manifest.MAX_MATRICES", 4)
    assert "the manifest of 5 matrices" in run("convert", "m.onnx", "-o", "f/").failed(5)
    assert not Path("f").exists()
    run("convert", "m.onnx", "-o", "f/", "-l", "c0", "--no-verify").succeeded()
