"""The container of a Keras model: an HDF5 file, or a zip. The configuration is read as data, and
nothing in it is run.
"""

import json
import tempfile
import zipfile
import zlib

from convfc_cli.errors import MalformedInput, Refused, Unsupported
from convfc_cli.files import HEAD, Input, free_space
from convfc_cli.hdf5.tree import Group, open_tree
from convfc_cli.models.keras.config import MAX_BYTES, Layer, parse
from convfc_cli.models.keras.listing import Writer, list_layers
from convfc_cli.models.keras.weights import Legacy, Store, Weights
from convfc_cli.models.model import Listing
from convfc_cli.models.request import Request, Shapes
from convfc_cli.models.weights_alone import candidates, described
from convfc_cli.zips import open_zip

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

MAX_MEMBERS = 10_000

MAX_EXPANSION = 100
"""The most bytes that one compressed byte may expand to: weights hardly shrink, JSON to a tenth."""

MAX_WEIGHTS_BYTES = 8 * 2**30
"""Limit on weights extracted from a zip."""


def legacy(source: Input, request: Request) -> Listing:
    """The layers of a model in HDF5."""
    root = open_tree(source)
    if request.weights is not None:
        return Listing(described(root, request.weights, request.shapes))
    text = root.attribute("model_config")
    if not isinstance(text, str):
        raise MalformedInput(f"{source.name}: its model_config is not text")
    weights = root.group("model_weights")
    if weights is None:
        raise MalformedInput(f"{source.name} has no group model_weights")
    version = str(root.attribute("keras_version") or weights.attribute("keras_version") or "1")
    backend = root.attribute("backend") or weights.attribute("backend")
    keras1 = version.startswith("1")
    theano = None if backend is None and keras1 else backend == "theano"
    model = parse(text, source.name)
    return _entries(source, model, Legacy(weights), Writer(keras1, theano), request.shapes, root)


def zipped(source: Input, request: Request) -> Listing:
    """The layers of a model in a zip."""
    try:
        with open_zip(source.file, source.name) as archive:
            if len(archive.infolist()) > MAX_MEMBERS:
                raise Refused(f"{source.name} has more than {MAX_MEMBERS} members")
            config = _member(archive, CONFIG, MAX_BYTES, source.name)
            if METADATA in archive.namelist():
                _check_metadata(_member(archive, METADATA, MAX_BYTES, source.name), source.name)
            root = _weights(archive, source.name)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise MalformedInput(
            f"{source.name} is a damaged .keras file: {str(error).lower()}"
        ) from error
    if request.weights is not None:
        return Listing(described(root, request.weights, request.shapes))
    return _entries(source, parse(config, source.name), Store(root), Writer(), request.shapes, root)


def _entries(
    source: Input,
    model: Layer | None,
    weights: Weights,
    writer: Writer,
    shapes: Shapes,
    root: Group,
) -> Listing:
    """The layers of a model; where its configuration names none, what may be kernels."""
    if model is None:
        return Listing(candidates(root))
    try:
        return list_layers(model, source.name, weights, writer, shapes)
    except (MalformedInput, Refused) as error:
        if source.name in str(error):
            raise
        raise type(error)(f"{source.name}: {error}") from error


def _check(info: zipfile.ZipInfo, limit: int, file: str) -> None:
    """Raise unless a member can be what Keras writes, before any of it is expanded."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise Unsupported(f"{file}: {info.filename} is encrypted, or compressed in an unusual way")
    if info.file_size > min(limit, MAX_EXPANSION * info.compress_size + 2**16):
        raise Refused(
            f"{file}: {info.filename} declares {info.file_size} bytes and stores "
            f"{info.compress_size}: at most {limit} are read, and {MAX_EXPANSION} for one"
        )


def _member(archive: zipfile.ZipFile, name: str, limit: int, file: str) -> bytes:
    info = archive.getinfo(name)
    _check(info, limit, file)
    with archive.open(info) as member:  # never more than the zip's directory says
        content = member.read()
    if len(content) != info.file_size:
        raise MalformedInput(f"{file}: {name} has {len(content)} bytes, not {info.file_size}")
    return content


def _check_metadata(text: bytes, name: str) -> None:
    try:
        version = json.loads(text)["keras_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedInput(f"{name}: {METADATA} states no keras_version") from error
    if not str(version).startswith(("2.", "3.")):
        raise Unsupported(f"{name} was written by Keras {str(version)[:20]}, not 2 or 3")


def _weights(archive: zipfile.ZipFile, name: str) -> Group:
    """The weights, copied to an unnamed file: HDF5 seeks in them. The checksum is compared."""
    if WEIGHTS not in archive.namelist():
        raise Unsupported(f"{name} holds no {WEIGHTS}: weights in another form are not read")
    info = archive.getinfo(WEIGHTS)
    _check(info, MAX_WEIGHTS_BYTES, name)
    place = tempfile.gettempdir()
    if info.file_size > free_space(place) // 2:
        raise Refused(f"{name}: {info.file_size} bytes of weights do not fit into {place}")
    with tempfile.TemporaryFile() as copy:
        size = 0
        with archive.open(info) as member:
            while chunk := member.read(2**20):
                size += len(chunk)
                copy.write(chunk)
        if size != info.file_size:
            raise MalformedInput(f"{name}: {WEIGHTS} has {size} bytes, not {info.file_size}")
        copy.flush()
        copy.seek(0)
        head = copy.read(HEAD)
        return open_tree(Input(f"{name}: {WEIGHTS}", None, copy, size, head))
