"""The fully connected weight matrix of a convolution: read a model, write the matrix, prove it.

    import convfc_cli as convfc

    model = convfc.read("model.onnx")
    matrix = convfc.matrix("model.onnx", "conv1")     # scipy.sparse.csr_array
    convfc.convert("model.onnx", output="folder/")    # what `convfc convert` does
    report = convfc.verify("folder/000-conv1.npz")
    operator = convfc.load("folder/000-conv1.npz")    # scipy LinearOperator, with the index map

Everything is imported when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "read": "convfc_cli.models.registry",
    "matrix": "convfc_cli.conversion",
    "convert": "convfc_cli.conversion",
    "verify": "convfc_cli.conversion",
    "load": "convfc_cli.operators",
    "Axis": "convfc_cli.geometry",
    "Convolution": "convfc_cli.layers.convolution",
    "IndexMap": "convfc_cli.taps",
    "Layout": "convfc_cli.layout",
    "Options": "convfc_cli.planning",
    "Proof": "convfc_cli.verification",
    "ConvfcError": "convfc_cli.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
