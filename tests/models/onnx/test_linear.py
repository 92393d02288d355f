"""Every linear operator beside the convolutions: proof, dtypes, open sizes, runtimes, damage."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import convfc_cli as convfc
from convfc_cli.errors import ConvfcError, SizeMissing, Unsupported
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.models.onnx.linear import KINDS
from convfc_cli.proof.verify import Proof
from convfc_cli.rounding import RuntimeResult
from convfc_cli.runtimes import onnxruntime
from tests.support.models import HAS_ONNXRUNTIME, first_result, info, listed, make_model, save
from tests.support.onnx_nodes import matrix, numbers, one_node, only, whole

pytestmark = pytest.mark.usefixtures("in_place")

F32 = np.float32

# --- every operator -------------------------------------------------------------------------------

PLAIN: dict[str, tuple[tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = {
    "Add": ((3, 4), (numbers(4),), {}),
    "AveragePool": ((2, 6), (), {"kernel_shape": [2], "pads": [1, 0]}),
    "BatchNormalization": ((3, 4), (*(numbers(3, seed=k) for k in range(3)), np.ones(3, F32)), {}),
    "DepthToSpace": ((4, 2, 2), (), {"blocksize": 2}),
    "Div": ((3, 4), (numbers(4),), {}),
    "Flatten": ((3, 4), (), {}),
    "Gemm": ((4,), (numbers(4, 3), numbers(3)), {"alpha": 0.5}),
    "GlobalAveragePool": ((3, 4), (), {}),
    "MatMul": ((3, 4), (numbers(4, 5),), {}),
    "Mul": ((3, 4), (numbers(4),), {}),
    "Pad": ((3, 4), (whole(0, 0, 1, 0, 0, 2),), {}),
    "Reshape": ((3, 4), (whole(1, -1),), {}),
    "Resize": ((3, 4), (None, np.array([1, 1, 2], F32)), {}),
    "Slice": ((3, 4), (whole(1), whole(3), whole(2)), {}),
    "SpaceToDepth": ((1, 2, 2), (), {"blocksize": 2}),
    "Squeeze": ((1, 4), (whole(1),), {}),
    "Sub": ((3, 4), (numbers(4),), {}),
    "Transpose": ((3, 4), (), {"perm": [0, 2, 1]}),
    "Unsqueeze": ((3, 4), (whole(1),), {}),
    "Upsample": ((3, 4), (np.array([1, 1, 2], F32),), {"opset": 9}),
}


def test_every_kind_is_tried_here() -> None:
    assert PLAIN.keys() == KINDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("op", PLAIN)
def test_a_layer_goes_through_a_file_and_is_proven(op: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    path = save(one_node(op, shape, *constants, **given), tmp_path)
    out = tmp_path / "out.npz"
    done = convfc.convert(path, out, layers=["node"])
    (result,) = done.results
    assert result.report is not None
    assert result.report.ok
    held = {finding.check: finding.holds for finding in result.report.findings}
    assert held["runtime"] is True or not HAS_ONNXRUNTIME
    assert convfc.verify(out).ok
    report = convfc.verify(out, model=path)
    assert report.ok
    assert {f.check: f.holds for f in report.findings}["origin"] is True
    if HAS_ONNXRUNTIME:
        report = convfc.verify(out, model=path, proof=Proof(against="onnxruntime"))
        assert report.ok
        assert {f.check: f.holds for f in report.findings}["reals"] is True
    if constants and np.asarray(constants[-1]).dtype == F32 and op not in ("Resize", "Upsample"):
        other = (*constants[:-1], np.asarray(constants[-1]) * F32(1.01))
        changed = save(one_node(op, shape, *other, **given), tmp_path, "other.onnx")
        assert not convfc.verify(out, model=changed).ok


@pytest.mark.parametrize("op", PLAIN)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes(op: str, dtype: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    if op not in ("Resize", "Upsample"):
        constants = tuple(
            c.astype(dtype) if isinstance(c, np.ndarray) and c.dtype == F32 else c
            for c in constants
        )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    entry = only(one_node(op, shape, *constants, kind=kind, **given), tmp_path)
    layer = entry.load()
    assert (
        entry.matrix_dtype == layer.dtype.name == ("float64" if dtype == "float64" else "float32")
    )
    assert entry.dtype == dtype
    theirs = first_result(entry, np.random.default_rng(2))
    if not isinstance(theirs, str):
        assert theirs.x.dtype == dtype
        assert check_runtime(layer, theirs).holds, check_runtime(layer, theirs).detail


@pytest.mark.parametrize("op", PLAIN)
def test_sizes_that_are_open(op: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    model = one_node(op, (None,) * len(shape), *constants, **given)
    entry = only(model, tmp_path)
    if op == "Gemm":
        assert entry.require().input_shape == shape
        return
    assert isinstance(entry.error, SizeMissing)
    assert entry.status == "needs a size"
    assert "the size of its input 'x' is open (known: 1, ?" in str(entry.error)
    assert entry.error.hint.startswith("x=1,")
    assert entry.error.hint.count(",") == len(shape)
    fixed = only(model, tmp_path, {"x": (1, *shape)})
    resized = entry.at(shape)
    assert (
        resized.outline
        == fixed.outline
        == only(one_node(op, shape, *constants, **given), tmp_path).outline
    )
    assert np.array_equal(matrix(resized), matrix(fixed))
    path = save(model, tmp_path)
    out = tmp_path / "out.npz"
    convfc.convert(path, out, layers=["node"], input_shape=(1, *shape))
    assert convfc.verify(out, model=path).ok


@pytest.mark.parametrize("op", PLAIN)
def test_a_tensor_without_a_batch_or_of_unknown_rank(op: str, tmp_path: Path) -> None:
    _, constants, given = PLAIN[op]
    if op == "Gemm":
        return
    entry = only(one_node(op, (), *constants, **given), tmp_path)
    assert isinstance(entry.error, Unsupported)
    assert "1 axes: none beside the batch" in str(entry.error)
    entry = only(one_node(op, None, *constants, **given), tmp_path)
    assert isinstance(entry.error, SizeMissing)
    assert "known: nothing" in str(entry.error)


@pytest.mark.parametrize("op", PLAIN)
def test_constants_that_are_computed_when_the_network_runs(op: str, tmp_path: Path) -> None:
    shape, constants, given = PLAIN[op]
    model = one_node(op, shape, *constants, **given)
    for number in range(len(constants)):
        if constants[number] is None:
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        (node,) = changed.graph.node
        node.input[number + 1] = "z"
        kind = helper.np_dtype_to_tensor_dtype(np.asarray(constants[number]).dtype)
        changed.graph.input.append(info("z", np.shape(constants[number]), kind))
        found = listed(changed, tmp_path).others
        if KINDS[op].sides and number == 0:
            assert not found  # then it is not a linear map
            continue
        (entry,) = found
        assert isinstance(entry.error, Unsupported)
        assert "is not constant: it depends on the input 'z'" in str(entry.error)


def test_a_fixed_batch_is_no_hindrance_unless_it_is_reshaped(tmp_path: Path) -> None:
    for op, (shape, constants, more) in PLAIN.items():
        model = one_node(op, shape, *constants, **more)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
        entry = only(model, tmp_path)
        if op == "Reshape":
            assert isinstance(entry.error, Unsupported)
            assert "reshapes a batch of 4" in str(entry.error)
        else:
            assert entry.error is None


@pytest.mark.parametrize(("opset", "error"), [(0, "version 0 of ONNX has no Pad"), (10**9, None)])
def test_versions_that_there_are_not(opset: int, error: str | None, tmp_path: Path) -> None:
    entry = only(one_node("Pad", (2, 4), whole(0, 0, 1, 0, 0, 1), opset=opset), tmp_path)
    assert error in str(entry.error) if error else entry.error is None


# --- the other runtime ----------------------------------------------------------------------------


@pytest.mark.parametrize("op", PLAIN)
def test_without_onnxruntime_the_reference_is_asked(
    op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    shape, constants, given = PLAIN[op]
    entry = only(one_node(op, shape, *constants, **given), tmp_path)
    theirs = first_result(entry, np.random.default_rng(3))
    if isinstance(theirs, str):
        assert "onnx.reference" in theirs or "reference cannot run it" in theirs
        return
    assert theirs.runtime.startswith("onnx.reference")
    assert check_runtime(entry.load(), theirs).holds


# --- hostile files --------------------------------------------------------------------------------


def every_kind() -> bytes:
    """A model with a node of each operator, side by side."""
    nodes, stored, inputs = [], [], []
    for op, (shape, constants, more) in PLAIN.items():
        part = one_node(op, shape, *constants, **{k: v for k, v in more.items() if k != "opset"})
        (node,) = part.graph.node
        for place, name in enumerate(node.input):
            node.input[place] = f"{op}{name}" if name else ""
        node.name, node.output[0] = op, f"{op}y"
        nodes.append(node)
        for stored_one in part.graph.initializer:
            stored_one.name = op + stored_one.name
            stored.append(stored_one)
        inputs.append(info(f"{op}x", (1, *shape)))
    return make_model(nodes, inputs, stored, opset=13).SerializeToString()


def load_all(content: bytes, folder: Path) -> list[str]:
    """What becomes of each of the layers; nothing but the package's own errors is raised."""
    try:
        found = [*listed(content, folder).layers()]
    except ConvfcError as error:
        return [type(error).__name__]
    ends = []
    for entry in found:
        try:
            layer = entry.load()
            assert layer.nnz == entry.require().nnz
            assert layer.output_shape == entry.require().output_shape
            if HAS_ONNXRUNTIME:
                theirs = first_result(entry, np.random.default_rng(0))
                if isinstance(theirs, RuntimeResult):
                    assert check_runtime(layer, theirs).holds is not False
            ends.append("loaded")
        except ConvfcError as error:
            ends.append(type(error).__name__)
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_files(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    content = every_kind()
    seen = set()
    for _ in range(25):
        altered = bytearray(content)
        for place in random.integers(0, len(altered), int(random.choice([1, 2, 4, 16]))).tolist():
            altered[place] = int(random.integers(256))
        seen.update(load_all(bytes(altered), tmp_path))
    assert {"loaded", "MalformedInput"} <= seen


def test_every_kind_side_by_side(tmp_path: Path) -> None:
    found = listed(every_kind(), tmp_path)
    ends = load_all(every_kind(), tmp_path)
    assert len(found.others) == len(ends) == len(PLAIN)
    assert [e.op for e, end in zip(found.others, ends, strict=True) if end != "loaded"] == [
        "Upsample"
    ]
