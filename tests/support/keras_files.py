"""Files of Keras, written by h5py, zipfile and json alone, byte for byte what a test says.

A model is what its configuration says; `layer`, `sequential` and `functional` save only the typing.
Nothing here knows how convfc reads a file, and Keras is not needed.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from convfc_cli.models.entry import Entry
from convfc_cli.models.model import Model
from convfc_cli.models.registry import read

Array = NDArray[Any]
Config = dict[str, Any]

Named = Sequence[tuple[str, Array]]
"""(name of the variable, its values), in Keras's order."""


def ramp(*shape: int, start: int = 1, dtype: Any = np.float32) -> Array:
    """Integers that are all different, none of them zero, of both signs."""
    count = np.arange(start, start + int(np.prod(shape)))
    return (count * np.where(count % 3 == 1, -1, 1)).reshape(shape).astype(dtype)


def given_input(name: str, *shape: int | None, **config: Any) -> Config:
    """An InputLayer; `shape` without its batch."""
    config = {"name": name, "batch_input_shape": [None, *shape], **config}
    return {"class_name": "InputLayer", "name": name, "config": config, "inbound_nodes": []}


def layer(kind: str, name: str, *sources: str | Sequence[Any], **config: Any) -> Config:
    """A layer as Keras 2 writes it, called once on the first outputs of `sources`.

    A source that is not text is a tensor as it is written: [layer, call, output].
    """
    refs = [[s, 0, 0, {}] if isinstance(s, str) else [*s, {}] for s in sources]
    nodes = [refs] if refs else []
    config = {"name": name, **config}
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes}


def called(item: Config, *calls: Sequence[Any]) -> Config:
    """The layer with these calls, each a list of the tensors that it is called on."""
    nodes = [[[*ref, {}] for ref in call] for call in calls]
    return {**item, "inbound_nodes": nodes}


def modern(item: Config, shape: Sequence[int | None] | None = None) -> Config:
    """The layer as Keras 3 writes it, its tensors stated to have this shape (with its batch)."""

    def tensor(ref: Sequence[Any]) -> Config:
        return {
            "class_name": "__keras_tensor__",
            "config": {
                "shape": None if shape is None else list(shape),
                "dtype": "float32",
                "keras_history": ref[:3],
            },
        }

    nodes = []
    for node in item.get("inbound_nodes", []):
        tensors = [tensor(ref) for ref in node]
        nodes.append({"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}})
    config = dict(item["config"])
    if "batch_input_shape" in config:
        config["batch_shape"] = config.pop("batch_input_shape")
    return {
        **item,
        "module": "keras.layers",
        "registered_name": None,
        "config": config,
        "inbound_nodes": nodes,
    }


def sequential(*layers: Config, name: str = "sequential", **config: Any) -> Config:
    """A Sequential of these layers, of whose calls it says nothing."""
    bare = [
        {k: v for k, v in item.items() if k not in ("inbound_nodes", "name")} for item in layers
    ]
    return {"class_name": "Sequential", "config": {"name": name, "layers": bare, **config}}


def functional(
    layers: Sequence[Config],
    outputs: Sequence[str | Sequence[Any]],
    inputs: Sequence[str] | None = None,
    name: str = "model",
    kind: str = "Functional",
) -> Config:
    """A model of layers that call each other; its inputs are its InputLayers, unless named."""
    if inputs is None:
        inputs = [item["name"] for item in layers if item["class_name"] == "InputLayer"]
    config = {
        "name": name,
        "layers": list(layers),
        "input_layers": [[name, 0, 0] for name in inputs],
        "output_layers": [[o, 0, 0] if isinstance(o, str) else list(o) for o in outputs],
    }
    return {"class_name": kind, "name": name, "config": config}


def legacy(
    path: Path,
    model: Any,
    weights: Mapping[str, Named],
    *,
    version: str | None = "2.15.0",
    backend: str | None = "tensorflow",
    names: Any = np.bytes_,
) -> Path:
    """A whole model as `.h5`: attributes, and for each top-level layer a group of its weights.

    `model` is a configuration, or the text of one; `names` what the lists of names are made of.
    """
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = model if isinstance(model, str | bytes) else json.dumps(model)
        for key, value in (("keras_version", version), ("backend", backend)):
            if value is not None:
                file.attrs[key] = value
        top = file.create_group("model_weights")
        top.attrs["layer_names"] = texts(list(weights), names)
        for holder, named in weights.items():
            group = top.require_group(holder)
            group.attrs["weight_names"] = texts([name for name, _ in named], names)
            for name, values in named:
                group[name] = values
    return path


def texts(names: Sequence[str], kind: Any = np.bytes_) -> Any:
    """A list of names as an attribute: `np.bytes_` for fixed, `str` for varying length."""
    if kind is str:
        return np.array(list(names), dtype=h5py.string_dtype())
    return np.array([name.encode() for name in names], dtype="S")


def store(groups: Mapping[str, Sequence[Array]], names: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a `model.weights.h5`: in each group `vars` with the variables 0, 1, ...

    `names` gives the attribute `name` of a group's `vars`.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for place, arrays in groups.items():
            vars_ = file.create_group(f"{place}/vars")
            for number, array in enumerate(arrays):
                vars_[str(number)] = array
            if names and place in names:
                vars_.attrs["name"] = names[place]
    return content.getvalue()


METADATA = {"keras_version": "3.8.0", "date_saved": "2026-01-01@00:00:00"}


def zipped(
    path: Path,
    model: Any,
    weights: Mapping[str, Sequence[Array]] | bytes,
    *,
    metadata: Any = METADATA,
    names: Mapping[str, str] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A whole model as `.keras`: its configuration, or the text of one, and its weights."""
    content = weights if isinstance(weights, bytes) else store(weights, names)
    with zipfile.ZipFile(path, "w", compression) as archive:
        if metadata is not None:
            archive.writestr("metadata.json", json.dumps(metadata))
        text = model if isinstance(model, str | bytes) else json.dumps(model)
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", content)
    return path


def both(
    folder: Path, model: Config, item: Config, arrays: Sequence[Array], group: str
) -> list[Path]:
    """The model in either kind of file, its one layer with weights being `item`.

    The zip is a compressed one, as it may be; Keras itself only stores.
    """
    name = item["config"]["name"]
    kernel = "depthwise_kernel" if item["class_name"].startswith("Depthwise") else "kernel"
    named = [(f"{name}/{role}:0", a) for role, a in zip((kernel, "bias"), arrays, strict=False)]
    return [
        legacy(folder / "model.h5", model, {name: named}),
        zipped(
            folder / "model.keras",
            model,
            {f"layers/{group}": arrays},
            compression=zipfile.ZIP_DEFLATED,
        ),
    ]


def listed(path: Path, shapes: Any = None) -> Model:
    """What convfc makes of a file."""
    return read(path, shapes)


def only(path: Path, shapes: Any = None) -> Entry:
    """The one layer of a file."""
    (entry,) = read(path, shapes).entries
    return entry
