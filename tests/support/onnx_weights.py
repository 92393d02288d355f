"""The check that the weights of an ONNX convolution are read bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from convfc_cli.jobs.runtime_check import check_runtime
from convfc_cli.rounding import RuntimeResult
from tests.support.models import first_result, only

Array = NDArray[Any]

SHAPE = (3, 2, 2, 3)
"""Of the weights: an input of (1, 2, 5, 4) has 3 outputs of 4 x 2."""


def check(model: onnx.ModelProto, expected: Array, folder: Path, *, ran: bool = True) -> Any:
    """The one layer of a model has these weights, and a runtime agrees; returns the layer."""
    entry = only(model, folder)
    assert entry.status == "ready", entry.error
    layer = entry.load()
    assert layer.kernel.dtype == expected.dtype
    np.testing.assert_array_equal(layer.kernel, expected)
    assert layer.kernel.tobytes() == expected.tobytes()
    result = first_result(entry, np.random.default_rng(5))
    assert isinstance(result, RuntimeResult) is ran, result
    if ran:
        finding = check_runtime(layer, result)
        assert finding.holds, finding.detail
    return layer
