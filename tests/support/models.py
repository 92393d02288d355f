"""ONNX models for the tests, built with onnx.helper, and how they are put through convfc.

Nothing here knows how convfc reads a model: a builder states nodes, attributes and tensors, so that
what a test writes down is what the file says.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from convfc_cli.cli.main import main
from convfc_cli.jobs.runtime_check import runtime_results
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.models.registry import read
from convfc_cli.rounding import RuntimeResult
from tests.support.schemas import held

Array = NDArray[Any]
Dims = Sequence[int | str | None]

OPSET = 22
"""The operator set of the models: the newest that changed Conv and ConvTranspose."""

IR = 10

HAS_ONNXRUNTIME = importlib.util.find_spec("onnxruntime") is not None


def tensor(name: str, array: Any) -> onnx.TensorProto:
    """A tensor of an array, of any dtype that ONNX has."""
    return numpy_helper.from_array(np.asarray(array), name)


def info(name: str, dims: Dims | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A typed name; `dims` None leaves the rank open, and None or a text in it one size."""
    return helper.make_tensor_value_info(name, kind, dims)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    stored: Sequence[onnx.TensorProto] = (),
    *,
    outputs: Sequence[str] | None = None,
    opset: int = OPSET,
    domains: Mapping[str, int] | None = None,
    **graph: Any,
) -> onnx.ModelProto:
    """A model of these nodes; its outputs are those of the last node unless they are named."""
    names = list(nodes[-1].output) if outputs is None and nodes else list(outputs or ())
    made = helper.make_graph(
        list(nodes),
        "graph",
        list(inputs),
        [onnx.ValueInfoProto(name=name) for name in names],
        list(stored),
        **graph,
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in (domains or {}).items()]
    return helper.make_model(made, opset_imports=opsets, ir_version=IR)


def conv_model(
    weights: Any,
    bias: Any = None,
    attributes: Mapping[str, Any] | None = None,
    input_shape: Dims | None = (1, 1, 5, 5),
    op: str = "Conv",
    *,
    opset: int = OPSET,
    domain: str = "",
    name: str = "conv",
) -> onnx.ModelProto:
    """A model of one node: x to y by weights W and, unless None, bias B, stored as initializers.

    `input_shape` is that of x with its batch; `attributes` go into the node as they are.
    """
    weights = np.asarray(weights)
    stored = [tensor("W", weights)]
    names = ["x", "W"]
    if bias is not None:
        stored.append(tensor("B", bias))
        names.append("B")
    node = helper.make_node(op, names, ["y"], name=name, domain=domain, **(attributes or {}))
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    domains = {domain: 1} if domain else None
    return make_model([node], [info("x", input_shape, kind)], stored, opset=opset, domains=domains)


def weight_model(
    nodes: Sequence[onnx.NodeProto],
    stored: Sequence[onnx.TensorProto],
    *,
    input_shape: Dims = (1, 2, 5, 4),
    attributes: Mapping[str, Any] | None = None,
    extra_inputs: Sequence[onnx.ValueInfoProto] = (),
    op: str = "Conv",
    kind: int = TensorProto.FLOAT,
    **rest: Any,
) -> onnx.ModelProto:
    """A model of one convolution y of x, whose weights `W` come from `nodes` and `stored`."""
    node = helper.make_node(op, ["x", "W"], ["y"], name="conv", **(attributes or {}))
    inputs = [info("x", input_shape, kind), *extra_inputs]
    return make_model([*nodes, node], inputs, stored, **rest)


def ramp(*shape: int, dtype: Any = np.float32) -> Array:
    """Weights that are all different, none of them zero, exact in every floating-point dtype."""
    size = int(np.prod(shape))
    signs = np.where(np.arange(size) % 3 == 1, -1, 1)
    return ((np.arange(size) + 1) * signs / 8).reshape(shape).astype(dtype)


def save(model: onnx.ModelProto | bytes, folder: Path, name: str = "model.onnx") -> Path:
    """Write a model, or any bytes, into a folder."""
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def listed(model: onnx.ModelProto | bytes, folder: Path, shapes: Any = None) -> Model:
    """The model, written to a folder and read by convfc."""
    return read(save(model, folder), shapes)


def only(model: onnx.ModelProto | bytes, folder: Path, shapes: Any = None) -> Entry:
    """The one layer of a model, written to a folder and read by convfc."""
    (entry,) = listed(model, folder, shapes).entries
    return entry


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        """The paths that it printed on standard output, one a line."""
        return [Path(line) for line in self.out.splitlines()]

    def json(self) -> Any:
        """Standard output, as JSON."""
        return held(self.out)


def convfc(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run the command line in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return Outcome(code, printed.out, printed.err)


def dense(entry: Entry) -> Array:
    """The matrix of a layer as convfc writes it, every entry of it."""
    from scipy.sparse import csr_array

    rows = entry.load().matrix()
    arrays = (rows.data.array(), rows.indices.array(), rows.indptr.array())
    return np.asarray(csr_array(arrays, shape=rows.shape).todense())


def worst_ratio(matrix: Any, bias: Array, x: Array, y: Array, unit: float) -> float:
    """How far M vec(x) + b is from y, as a share of what rounding allows: at most 1 where it fits.

    The bound is twice that of Jeannerod & Rump for sums of n terms in any order, and the rounding
    of y itself; `unit` is the unit roundoff of the format that y was computed in.
    """
    vector = x.reshape(-1).astype(np.float64)
    matrix, bias = matrix.astype(np.float64), bias.astype(np.float64)
    assert y.size == matrix.shape[0]
    error = np.abs(matrix @ vector + bias - y.reshape(-1).astype(np.float64))
    scale = abs(matrix) @ np.abs(vector) + np.abs(bias)
    terms = np.diff(matrix.indptr) + 2
    assert np.isfinite(error).all()
    return float((error / (2 * terms * unit * scale + 2.0**-149)).max())


def first_result(entry: Entry, random: Any) -> RuntimeResult | str:
    """The first result of a runtime that runs the original node; the reasons where none does."""
    reasons = []
    for result in runtime_results(entry.runnable(), int(random.integers(2**63))):
        if not isinstance(result, str):
            return result
        reasons.append(result)
    return "; ".join(dict.fromkeys(reasons))
