"""Stored tensors of an ONNX model, read when they are needed.

Their numbers lie in the parsed model, in its file, where reading it has skipped them (`wire`), or
in files beside it.
"""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from convfc_cli import budget
from convfc_cli.arrays import Array
from convfc_cli.errors import MalformedInput, Refused, Unsupported
from convfc_cli.files import Kept
from convfc_cli.models.onnx.wire import skipped

MAX_BYTES = 2**31
"""Limit on a constant: protobuf's own limit; twice that in external data."""

MAX_RANK = 32
"""Axes of a tensor: NumPy allows 64, a network has five."""

MAX_SPARSE = 2**26
"""Elements of a sparse tensor: what memory has room for, whatever the budget of the command."""


@dataclass(frozen=True)
class Storage:
    """Where the numbers lie that are not in the parsed model."""

    content: Kept | None = None
    """The file of the model."""

    folder: Path | None = None
    """The folder of the model; None for a pipe."""


NOWHERE = Storage()
"""All that there is lies in the tensors."""


def decoded(tensor: onnx.TensorProto | onnx.SparseTensorProto, storage: Storage) -> Array:
    """The array of a stored tensor, its declared size checked before it is believed."""
    if isinstance(tensor, onnx.SparseTensorProto):
        return _densified(tensor, storage)
    name, shape = tensor.name or "a constant", tuple(tensor.dims)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise MalformedInput(f"tensor {name!r} declares the shape {str(shape)[:80]}")
    if tensor.data_type == onnx.TensorProto.STRING:
        raise Unsupported(f"tensor {name!r} holds text")
    try:
        itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except KeyError as error:
        raise MalformedInput(f"tensor {name!r} has the unknown type {tensor.data_type}") from error
    if prod(shape) * itemsize > 2 * MAX_BYTES:
        raise Refused(f"tensor {name!r} declares {prod(shape)} elements, more than are read")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        place = skipped(tensor)
        if place is not None:
            tensor = _whole(place, name, storage)
        else:
            tensor = _with_external(tensor, name, prod(shape) * itemsize, storage.folder)
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MalformedInput(f"tensor {name!r} cannot be read: {reason}") from error


def _whole(place: slice, name: str, storage: Storage) -> onnx.TensorProto:
    """The tensor as the file of the model has it in this place."""
    assert storage.content is not None
    message = storage.content.read(place.start, place.stop - place.start)
    try:
        tensor = onnx.TensorProto()
        tensor.ParseFromString(message)
    except Exception as error:  # the decoder raises types of its own
        raise MalformedInput(f"tensor {name!r} cannot be read: its numbers are damaged") from error
    return tensor


def external_size(graph: onnx.GraphProto, folder: Path) -> int:
    """Bytes of the files beside a model that its initializers lie in; holes are not counted."""
    locations = {
        entry.value
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    total = 0
    for location in filter(_is_beside, locations):
        with suppress(OSError, ValueError):  # it is missed when it is read
            status = (folder / location).stat()
            total += min(status.st_size, 512 * getattr(status, "st_blocks", 2**63))
    return total


def _is_beside(location: str) -> bool:
    """Whether a path leads to a file in the model's folder, or below, whatever links there are."""
    parts = Path(location).parts
    return bool(parts) and not (Path(location).is_absolute() or ".." in parts or "\\" in location)


def _with_external(
    tensor: onnx.TensorProto, name: str, expected: int, folder: Path | None
) -> onnx.TensorProto:
    """The tensor with its bytes, read from beside the model and from nowhere else."""
    from onnx.external_data_helper import load_external_data_for_tensor

    stated = {entry.key: entry.value for entry in tensor.external_data}
    location = stated.get("location", "")
    if folder is None:
        raise Refused(
            f"tensor {name!r} lies in the external file {location!r}, which cannot be found from a "
            f"pipe: name the model's path"
        )
    if not _is_beside(location):
        raise Refused(f"tensor {name!r} points outside the model's folder: {location!r}")
    try:
        missing = not (folder / location).is_file()
    except (OSError, ValueError):  # no file can have such a name
        missing = True
    if missing:
        raise MalformedInput(f"the external file {location!r} of tensor {name!r} is missing")
    length = stated.get("length")
    if length is not None and length != str(expected):
        raise MalformedInput(f"tensor {name!r} has {expected} bytes, its external data {length}")
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    if length is None:
        copy.external_data.add(key="length", value=str(expected))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of entries that mean nothing
            load_external_data_for_tensor(copy, str(folder))
    except ValueError as error:  # its offset or length do not fit the file
        reason = " ".join(str(error).split())[:160]
        raise MalformedInput(
            f"the external data of tensor {name!r} cannot be read: {reason}"
        ) from error
    except (OSError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Refused(f"the external data of tensor {name!r} is refused: {reason}") from error
    copy.data_location = onnx.TensorProto.DEFAULT
    return copy


def _densified(tensor: onnx.SparseTensorProto, storage: Storage) -> Array:
    name, shape = tensor.values.name, tuple(tensor.dims)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise MalformedInput(f"sparse tensor {name!r} declares the shape {str(shape)[:80]}")
    if prod(shape) > MAX_SPARSE:
        raise Refused(
            f"sparse tensor {name!r} declares {prod(shape)} elements, beyond {MAX_SPARSE}"
        )
    values, indices = decoded(tensor.values, storage), decoded(tensor.indices, storage)
    if values.ndim != 1 or indices.ndim not in (1, 2) or len(indices) != len(values):
        raise MalformedInput(
            f"sparse tensor {name!r} has {values.size} values of shape {values.shape} and indices "
            f"of shape {indices.shape}: one value needs one index, or one on each axis"
        )
    if indices.dtype.kind not in "iu":
        raise MalformedInput(f"the indices of sparse tensor {name!r} are {indices.dtype}")
    sizes = np.array(shape if indices.ndim == 2 else [prod(shape)], np.int64)
    places = indices if indices.ndim == 2 else indices[:, None]
    if places.shape[1:] != sizes.shape:
        raise MalformedInput(
            f"sparse tensor {name!r} has indices of shape {indices.shape}, and {len(shape)} axes"
        )
    if (places < 0).any() or (places >= sizes).any():
        raise MalformedInput(f"sparse tensor {name!r} has indices outside its shape {shape}")
    strides = np.array([prod(sizes[axis + 1 :].tolist()) for axis in range(len(sizes))], np.int64)
    flat = places.astype(np.int64) @ strides
    if (flat[1:] <= flat[:-1]).any():
        raise MalformedInput(f"sparse tensor {name!r} has indices that are not in ascending order")
    budget.spend(f"sparse tensor {name!r}", elements=prod(shape))
    dense = np.zeros(prod(shape), values.dtype)
    dense[flat] = values
    return dense.reshape(shape)
