"""The kinds of model file: every package in this one, each with a FORMAT in its `format.py`."""

import os
from collections.abc import Sequence
from functools import cache

from convfc_cli import budget, discovery
from convfc_cli.errors import MalformedInput
from convfc_cli.files import Input, opened
from convfc_cli.models.model import Model, ModelFormat
from convfc_cli.models.request import Request, Shapes, WeightsSpec, by_tensor


@cache
def formats() -> dict[str, ModelFormat]:
    """All kinds by name, in the order of their names."""
    kinds: dict[str, ModelFormat] = {}
    for module in discovery.modules("convfc_cli.models", "format"):
        kinds[module.FORMAT.name] = module.FORMAT
    return kinds


@budget.command()
def read(
    path: str | os.PathLike[str],
    input_shape: Shapes | Sequence[int] | None = None,
    weights: WeightsSpec | None = None,
) -> Model:
    """List the layers of a model file.

    Parameters
    ----------
    path : str or PathLike
        The file; `-` is standard input.
    input_shape : sequence of int, or mapping of str to sequence of int, optional
        Sizes that the model leaves open: (1, 3, 224, 224) of its only input, or the shapes of
        several tensors by name, {"x": (1, 3, 224, 224)}.
    weights : WeightsSpec, optional
        How a convolution is applied of which the file has only the weights. Its input is
        (1, channels, *spatial).

    Returns
    -------
    Model
        The layers, none of whose weights has been read.

    Raises
    ------
    UsageError
        If the file does not exist, or a shape or a description does not fit.
    MalformedInput
        If the file is damaged, or not a model.
    Refused
        If the file asks for more memory or time than a command has.

    Examples
    --------
    >>> model = read("sample_models/lenet.onnx")           # doctest: +SKIP
    >>> [entry.name for entry in model.entries]            # doctest: +SKIP
    ['node_conv2d', 'node_conv2d_1']
    """
    with opened(path) as source:
        return open_model(source, Request(by_tensor(input_shape), weights))


def recognized(source: Input) -> ModelFormat | None:
    """The kind of a file, by its contents; None where it is not a model file."""
    return next((kind for kind in formats().values() if kind.recognizes(source)), None)


def open_model(source: Input, request: Request) -> Model:
    """`read` of a file that is open already."""
    budget.current().earn(source.size)
    kind = recognized(source)
    if kind is not None:
        return kind.open(source, request)
    known = ", ".join(formats())
    if source.looks_like_text():
        raise MalformedInput(f"{source.name} is a text file, not a model (known: {known})")
    if source.head.startswith((b"PK", b"\x93NUMPY", b"\x89HDF")):
        known += "; of a matrix file, `convfc verify` and `convfc map` tell more"
    raise MalformedInput(f"{source.name} is not a model file of a known kind ({known})")
