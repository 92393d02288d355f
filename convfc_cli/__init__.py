"""The fully connected weight matrix of a convolution: read a model, write the matrix, prove it.

    import convfc_cli as convfc

    matrix = convfc.conv_matrix(kernel, (3, 224, 224), padding="same")   # from an array
    model = convfc.read("model.onnx")
    matrix = convfc.matrix("model.onnx", "conv1")     # scipy.sparse.csr_array
    convfc.convert("model.onnx", output="folder/")    # what `convfc convert` does
    report = convfc.verify("folder/000-conv1.npz")
    operator = convfc.load("folder/000-conv1.npz")    # scipy LinearOperator, with the index map

Everything is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from convfc_cli.errors import ConvfcError
    from convfc_cli.geometry import Axis
    from convfc_cli.jobs.conv_matrix import conv_matrix, convolution
    from convfc_cli.jobs.convert import convert, matrix
    from convfc_cli.jobs.plan import Options
    from convfc_cli.jobs.verify import verify
    from convfc_cli.layers.convolution import Convolution
    from convfc_cli.layout import Layout
    from convfc_cli.matrices.operator import MatrixOperator, load
    from convfc_cli.models.entry import Entry
    from convfc_cli.models.model import Model
    from convfc_cli.models.registry import read
    from convfc_cli.models.request import WeightsSpec
    from convfc_cli.proof.report import Finding, Report
    from convfc_cli.proof.verify import Proof
    from convfc_cli.taps import IndexMap

__all__ = [
    "Axis",
    "WeightsSpec",
    "Convolution",
    "ConvfcError",
    "Entry",
    "Finding",
    "IndexMap",
    "Layout",
    "MatrixOperator",
    "Model",
    "Options",
    "Proof",
    "Report",
    "__version__",
    "conv_matrix",
    "convert",
    "convolution",
    "load",
    "matrix",
    "read",
    "verify",
]

_HOMES = {
    "Axis": "geometry",
    "WeightsSpec": "models.request",
    "Convolution": "layers.convolution",
    "ConvfcError": "errors",
    "Entry": "models.entry",
    "Finding": "proof.report",
    "IndexMap": "taps",
    "Layout": "layout",
    "MatrixOperator": "matrices.operator",
    "Model": "models.model",
    "Options": "jobs.plan",
    "Proof": "proof.verify",
    "Report": "proof.report",
    "conv_matrix": "jobs.conv_matrix",
    "convert": "jobs.convert",
    "convolution": "jobs.conv_matrix",
    "load": "matrices.operator",
    "matrix": "jobs.convert",
    "read": "models.registry",
    "verify": "jobs.verify",
}
"""The module of each public name, the same as in the imports above."""

if not TYPE_CHECKING:  # a type checker would take it for a promise that any name is there

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
