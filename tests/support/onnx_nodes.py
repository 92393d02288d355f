"""Models of one linear node, and the check that holds such a layer to its definition in NumPy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

import convfc_cli as convfc
from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.rounding import RuntimeResult
from tests.support.models import HAS_ONNXRUNTIME, first_result, info, listed, make_model, tensor

Array = NDArray[Any]
F32 = np.float32


def numbers(*shape: int, seed: int = 1, dtype: Any = F32) -> Array:
    """Weights drawn at random, so that no symmetry hides."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def whole(*values: int) -> Array:
    """A list of axes or sizes, as nodes take it."""
    return np.array(values, np.int64)


def one_node(
    op: str,
    shape: Sequence[int | str | None] | None,
    /,
    *constants: Any,
    place: int = 0,
    opset: int = 22,
    outputs: Sequence[str] = ("y",),
    kind: int = TensorProto.FLOAT,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node of x, (1, *shape), and these constants, None for one that is left out;
    x is the input at `place`.
    """
    names = ["" if array is None else f"c{k}" for k, array in enumerate(constants)]
    names.insert(place, "x")
    node = helper.make_node(op, names, outputs, name="node", **attributes)
    stored = [tensor(f"c{k}", array) for k, array in enumerate(constants) if array is not None]
    sizes = None if shape is None else (1, *shape)
    return make_model([node], [info("x", sizes, kind)], stored, opset=opset, outputs=outputs[:1])


def only(model: onnx.ModelProto, folder: Path, shapes: Any = None) -> Entry:
    """The one other linear layer of a model."""
    (entry,) = listed(model, folder, shapes).others
    return entry


def matrix(entry: Entry) -> Array:
    """Every entry of a layer's matrix, in float64."""
    from scipy.sparse import csr_array

    layer = entry.load()
    rows = layer.matrix(convfc.Layout())
    arrays = (rows.data.array(), rows.indices.array(), rows.indptr.array())
    found = csr_array(arrays, shape=rows.shape)
    outline = entry.require()
    assert found.nnz == outline.nnz == layer.nnz
    assert (outline.rows, outline.columns) == found.shape == rows.shape
    assert layer.input_shape == outline.input_shape
    assert layer.output_shape == outline.output_shape
    return np.asarray(found.toarray(), np.float64)


def check(entry: Entry, expected: Callable[[Array], Array], *, run: bool = True) -> None:
    """Hold a layer to its definition for one sample, in float64, and to another runtime."""
    outline = entry.require()
    x = np.random.default_rng(5).standard_normal(outline.input_shape)
    bias = entry.load().bias_tensor().astype(np.float64)
    y = (matrix(entry) @ x.reshape(-1)).reshape(outline.output_shape) + bias
    wanted = expected(x[None])
    assert wanted.shape == (1, *outline.output_shape)
    np.testing.assert_allclose(y, wanted[0], rtol=2e-6, atol=2e-6)
    assert entry.status == "ready"
    if run and HAS_ONNXRUNTIME:
        theirs = first_result(entry, np.random.default_rng(6))
        assert isinstance(theirs, RuntimeResult), theirs
        assert check_runtime(entry.load(), theirs).holds
        wrong = np.array(theirs.y)
        wrong.reshape(-1)[wrong.size // 2] += 0.5
        changed = RuntimeResult.of(theirs.runtime, theirs.x, wrong)
        assert check_runtime(entry.load(), changed).holds is False


def np_pad(x: Array, pads: Sequence[int], mode: str) -> Array:
    """NumPy's own padding, after what is negative has been cropped."""
    rank = x.ndim
    ends = list(zip(pads[:rank], pads[rank:], strict=True))
    crop = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, ends, strict=True))
    return np.pad(x[crop], [(max(0, a), max(0, b)) for a, b in ends], mode=mode)  # type: ignore


def by_name(model: Model) -> dict[str, Entry]:
    return {entry.name: entry for entry in (*model.entries, *model.others)}
