"""The package as a library: what `import convfc_cli as convfc` offers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array, load_npz
from scipy.sparse.linalg import LinearOperator

import convfc_cli as convfc
from convfc_cli.errors import (
    MalformedInput,
    OutputExists,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.jobs.plan import Options
from tests.support.cli_models import LENET, MIXED, arrays, environment, net, rewritten


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return net(tmp_path / "m.onnx", names=("first", "second"))


def script(text: str) -> Any:
    """What a Python process prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", text], env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


# The package


def test_everything_is_imported_when_it_is_asked_for() -> None:
    loaded = script(
        "import sys, json, convfc_cli as convfc; before = set(sys.modules); dir(convfc)\n"
        "convfc.ConvfcError; between = set(sys.modules); convfc.read; after = set(sys.modules)\n"
        "print(json.dumps([sorted(s) for s in (before, between, after)]))"
    )
    before, between, after = (
        {name for name in names if name.split(".")[0] in ("numpy", "onnx", "scipy", "convfc_cli")}
        for names in loaded
    )
    assert before == {"convfc_cli"}
    assert between == {"convfc_cli", "convfc_cli.errors", "convfc_cli.hints"}
    assert {"convfc_cli.models.registry", "numpy"} <= after
    assert "scipy" not in after


@pytest.mark.parametrize("name", convfc.__all__)
def test_every_name_is_there(name: str) -> None:
    assert name in dir(convfc)
    assert getattr(convfc, name) is not None


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        convfc.nothing  # noqa: B018
    assert not hasattr(convfc, "numpy")


# read


def test_read(model: Path) -> None:
    found = convfc.read(model)
    assert (found.name, found.kind, len(found.sha256)) == (str(model), "onnx", 64)
    first, second = found.entries
    assert (first.position, first.name, first.output, first.op) == (0, "first", "y0", "Conv")
    assert (first.status, first.dtype, first.error) == ("ready", "float32", None)
    assert second.require().input_shape == (3, 6, 5)
    layer = second.load()
    assert layer.kernel.shape == (3, 3, 3, 3)
    assert not layer.kernel.flags.writeable
    assert [entry.name for entry in found.select(["second"])] == ["second"]


def test_read_with_shapes() -> None:
    assert {entry.status for entry in convfc.read(MIXED).entries} == {"needs a size"}
    for shapes in ({"x": (1, 1, 8, 8)}, {None: [1, 1, 8, 8]}):
        found = convfc.read(MIXED, shapes)
        assert {entry.status for entry in found.entries} == {"ready"}
    with pytest.raises(SizeMissing, match="the size of its input"):
        convfc.read(MIXED).entries[0].load()


# matrix


def test_matrix_equals_the_file(model: Path, tmp_path: Path) -> None:
    convfc.convert(model, tmp_path / "c.npz", layers=["second"])
    stored, ours = load_npz(tmp_path / "c.npz"), convfc.matrix(model, "second")
    assert isinstance(ours, csr_array)
    assert ours.has_canonical_format
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(stored, name), strict=True)
    assert ours.shape == stored.shape


def test_matrix_in_another_layout(model: Path) -> None:
    plain = convfc.matrix(model, "first").toarray()
    turned = convfc.matrix(model, "first", transpose=True).toarray()
    np.testing.assert_array_equal(turned, plain.T)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), [1, 1, 8, 8], {"x": (1, 1, 8, 8)}])
def test_matrix_at_a_size(shape: Any) -> None:
    first = convfc.read(MIXED, {None: (1, 1, 8, 8)}).entries[0]
    index = first.require()
    found = convfc.matrix(MIXED, first.name, input_shape=shape)
    assert found.shape == (index.rows, index.columns)
    assert found.nnz == index.nnz


def test_matrix_of_the_only_layer(tmp_path: Path) -> None:
    assert convfc.matrix(net(tmp_path / "m.onnx")).shape == (90, 60)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ((LENET,), UsageError, "has 2 layers: say which"),
        ((LENET, "nothing"), UsageError, "has no layer"),
        ((MIXED, "@0"), SizeMissing, "input 'x' is open"),
        (("nowhere.onnx",), UsageError, "no such file"),
        ((Path(__file__),), MalformedInput, "is a text file"),
        (("/dev/zero",), Refused, "is a device"),
    ],
)
def test_errors_of_matrix(arguments: tuple[Any, ...], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        convfc.matrix(*arguments)
    assert issubclass(error, convfc.ConvfcError)


# convert and verify


def test_convert(model: Path, tmp_path: Path) -> None:
    done = convfc.convert(model, f"{tmp_path}/to/", options=Options(layout="fortran"))
    assert done.exit_code == 0
    assert done.failures == ()
    assert [result.item.path.name for result in done.results] == ["000-first.npz", "001-second.npz"]
    for result in done.results:
        assert result.size == result.item.path.stat().st_size
        assert result.report is not None
        assert result.report.ok
    assert convfc.load(done.results[0].item.path).layout.order == "fortran"
    with pytest.raises(OutputExists):
        convfc.convert(model, f"{tmp_path}/to/")


def test_convert_tells_its_observer(model: Path, tmp_path: Path) -> None:
    told: list[Any] = []

    class Noting:
        def planned(self, plan: Any) -> None:
            told.append(("planned", plan.size))

        def started(self, name: str, size: int) -> None:
            told.append(("started", name))

        def advanced(self, size: int) -> None:
            told.append(("advanced", size))

        def finished(self, result: Any) -> None:
            told.append(("finished", result.size))

    (tmp_path / "to").mkdir()
    convfc.convert(model, tmp_path / "to", layers=["first"], observer=Noting())
    assert [what for what, _ in told if what != "advanced"] == ["planned", "started", "finished"]
    assert sum(size for what, size in told if what == "advanced") > dict(told)["finished"]


def test_errors_of_convert(tmp_path: Path) -> None:
    path = net(tmp_path / "m.onnx", unsupported=("bad",))
    with pytest.raises(Unsupported, match="layer bad"):
        convfc.convert(path, f"{tmp_path}/to/")
    done = convfc.convert(path, f"{tmp_path}/to/", options=Options(keep_going=True))
    assert done.exit_code == 4
    assert [entry.name for entry, _ in done.failures] == ["bad"]
    with pytest.raises(Refused, match="above the ceiling"):
        convfc.convert(path, f"{tmp_path}/on/", layers=["conv"], options=Options(max_bytes=10))
    assert not (tmp_path / "on").exists()


def test_verify(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    convfc.convert(model, path, layers=["first"])
    report = convfc.verify(path)
    assert report.ok
    assert report.complaint == ""
    assert (report.file, report.layer, report.form) == (str(path), "first", "csr")
    assert report.shape == load_npz(path).shape
    proof = convfc.Proof(seed=3)
    assert convfc.verify(path, model=model, proof=proof) == convfc.verify(
        path, model=model, proof=proof
    )
    data = arrays(path)["data"].copy()
    data[0] += 1
    report = convfc.verify(rewritten(path, tmp_path / "w.npz", data=data))
    assert not report.ok
    assert report.complaint.startswith("entries: ")
    (tmp_path / "t.npz").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MalformedInput, match=r"t\.npz"):
        convfc.verify(tmp_path / "t.npz")
    with pytest.raises(UsageError, match="no such file"):
        convfc.verify(tmp_path / "nowhere.npz")


# load

LAYOUTS = [
    (order, turned)
    for order in ("channels-first", "channels-last", "fortran")
    for turned in (False, True)
]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csr", "operator", "dense"])
@pytest.mark.parametrize(("order", "turned"), LAYOUTS)
@pytest.mark.parametrize("transposed", [False, True])
def test_load(tmp_path: Path, form: str, order: str, turned: bool, transposed: bool) -> None:
    path = net(tmp_path / "m.onnx", transposed=transposed)
    layout = convfc.Layout(order)
    options = Options(form=form, layout=order, transpose=turned)
    done = convfc.convert(path, f"{tmp_path}/to/", options=options)
    operator = convfc.load(done.results[0].item.path)
    matrix = convfc.matrix(path, layout=order, transpose=turned).toarray().astype(np.float64)
    assert isinstance(operator, LinearOperator)
    assert operator.shape == matrix.shape == ((60, 90) if turned else (90, 60))
    assert operator.dtype == np.float32
    assert (operator.layout, operator.origin.layer) == (layout, "conv")
    assert operator.spec.transpose is turned

    random = np.random.default_rng(0)
    x, y = random.standard_normal(matrix.shape[1]), random.standard_normal(matrix.shape[0])
    many = random.standard_normal((matrix.shape[1], 3))
    np.testing.assert_allclose(operator @ x, matrix @ x, atol=1e-12)
    np.testing.assert_allclose(operator @ x[:, None], matrix @ x[:, None], atol=1e-12)
    np.testing.assert_allclose(operator @ many, matrix @ many, atol=1e-12)
    np.testing.assert_allclose(operator.rmatvec(y), matrix.T @ y, atol=1e-12)
    np.testing.assert_allclose(operator.T @ y, matrix.T @ y, atol=1e-12)
    assert (operator @ x.astype(np.float32)).dtype == np.float32

    for first, last in ((0, len(matrix)), (7, 8), (5, 50), (9, 9)):
        block = operator.rows(first, last)
        assert isinstance(block, csr_array)
        np.testing.assert_array_equal(block.toarray(), matrix[first:last])

    assert operator.bias.shape == (90,)
    np.testing.assert_array_equal(
        operator.bias, layout.vector(np.broadcast_to(operator.layer.bias[:, None, None], (3, 6, 5)))
    )


@pytest.mark.slow
@pytest.mark.parametrize(("order", "turned"), LAYOUTS)
def test_entries_of_an_operator(tmp_path: Path, order: str, turned: bool) -> None:
    path = net(tmp_path / "m.onnx")
    convfc.convert(
        path, tmp_path / "c.npz", options=Options(form="operator", layout=order, transpose=turned)
    )
    operator = convfc.load(tmp_path / "c.npz")
    matrix = convfc.matrix(path, layout=order, transpose=turned).toarray()
    for row, column in np.ndindex(matrix.shape):
        output, source, kernel = operator.entry(row, column)
        value = 0 if kernel is None else operator.layer.kernel[kernel]
        assert value == matrix[row, column]
        assert operator.layer.weight_of(output, source) == kernel
    for place in ((matrix.shape[0], 0), (0, matrix.shape[1]), (-1, 0), (0, -1)):
        with pytest.raises(IndexError):
            operator.entry(*place)


def test_places_of_an_operator_are_integers_within_it(tmp_path: Path) -> None:
    convfc.convert(net(tmp_path / "m.onnx"), tmp_path / "c.npz")
    operator = convfc.load(tmp_path / "c.npz")
    output, source, _ = operator.entry(np.int64(3), np.int64(4))
    assert operator.place(output, source) == (3, 4)
    with pytest.raises(TypeError):
        operator.entry(0.5, 1)  # type: ignore[arg-type]
    outside = (operator.layer.output_shape, source), (output, operator.layer.input_shape)
    for place in outside:
        with pytest.raises(IndexError):
            operator.place(*place)


@pytest.mark.parametrize("wrong", [{"form": "x"}, {"layout": "x"}, {"dtype": "int8"}])
def test_options_that_are_no_choice(wrong: dict[str, str]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"{name} {value!r} is not one of "):
        Options(**wrong)  # type: ignore[arg-type]


def test_an_operator_acts_as_its_network(tmp_path: Path) -> None:
    """y = M x + b, against the runtime that ONNX itself brings."""
    from onnx.reference import ReferenceEvaluator

    path = net(tmp_path / "m.onnx")
    convfc.convert(path, tmp_path / "c.npz")
    operator = convfc.load(tmp_path / "c.npz")
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 5)).astype(np.float32)
    (y,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    ours = np.maximum(operator @ x.reshape(-1) + operator.bias, 0)
    np.testing.assert_allclose(ours, y.reshape(-1), rtol=1e-4, atol=1e-4)


def test_errors_of_load(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        convfc.load(tmp_path / "nowhere.npz")
    with pytest.raises(MalformedInput, match="not a matrix file"):
        convfc.load(model)
    (tmp_path / "t.npz").write_text("text")
    with pytest.raises(MalformedInput, match="text file"):
        convfc.load(tmp_path / "t.npz")
    convfc.convert(model, tmp_path / "c.npz", layers=["first"])
    operator = convfc.load(tmp_path / "c.npz")
    with pytest.raises(ValueError, match="dimension mismatch"):
        operator @ np.zeros(3)


def test_rows_out_of_range(tmp_path: Path, model: Path) -> None:
    convfc.convert(model, tmp_path / "c.npz", layers=["first"])
    operator = convfc.load(tmp_path / "c.npz")
    rows = operator.shape[0]
    for first, last in ((0, rows + 1), (-1, 2), (5, 4)):
        with pytest.raises((IndexError, ValueError)):
            operator.rows(first, last)
