"""The configuration of a Keras model, as a graph: JSON of Keras 1, 2 or 3, read as data alone.

Nothing in a configuration is executed or looked up. A class is known by its name where Keras
itself is said to define it, and is otherwise one that only the model's author has.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from convfc_cli.errors import MalformedInput, Refused
from convfc_cli.models.model import Network
from convfc_cli.models.sizes import Account, agreed

Shape = tuple[int | None, ...] | None
"""A tensor's shape with its batch, None where a size is open; None altogether where nothing is
known."""

Config = Mapping[str, Any]

CONVOLUTION = re.compile("Conv(?![a-z])|Convolution")
"""Classes that are some convolution, by their names; ConvertSomething is none."""

MAX_DEPTH = 32
"""Limit on nested models and wrappers."""

MAX_CALLS = 10_000
"""Calls of layers in a model: a model may call another twice, which calls a third twice."""

MAX_BYTES = 2**24
"""Limit on a configuration: parsed, it takes twenty times as many; real ones have a few million."""


@dataclass(frozen=True)
class Ref:
    """A tensor: the layer that makes it, at which of its calls, and which of its outputs."""

    layer: str
    call: int
    output: int = 0
    stated: Shape = None


@dataclass(frozen=True)
class Layer:
    """A layer: its class, what it is configured with, and the tensors that it is called on."""

    kind: str
    name: str
    config: Config
    module: str = ""
    is_keras: bool = True
    """Whether the class is one of Keras's own."""

    calls: tuple[tuple[Ref, ...], ...] = ()
    constants: tuple[Shape, ...] = ()
    """The shapes of the arrays of numbers that it is called on besides."""

    built: Shape = None
    graph: "Graph | None" = None
    inner: "Layer | None" = None
    """The layer that a wrapper wraps."""

    hidden: "tuple[Layer, ...]" = ()
    """Layers in one that is not a model: what it does with them is not known."""

    operation: bool = False
    """Whether it is an operation of Keras 3 called on tensors, not a layer of that name."""

    implied: bool = False
    """Whether no file mentions it: the input of a Sequential that has none."""

    flags: frozenset[str] = frozenset()
    """The arguments that some call of it has, and true: `training`, `reverse`."""


@dataclass(frozen=True)
class Graph(Network):
    """A model: its layers in order, the inputs among them, and the tensors that it returns."""

    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[Ref, ...]
    by_name: Mapping[str, Layer] = field(repr=False, default_factory=dict)


def parse(text: str | bytes, name: str) -> Layer | None:
    """The outermost model of a configuration; None where it is a class that says nothing of its
    layers. Raises `MalformedInput`, `Refused`.
    """
    if len(text) > MAX_BYTES:
        raise Refused(f"{name} has a configuration of {len(text)} bytes, more than {MAX_BYTES}")
    try:
        content = json.loads(text)
        model = _layer(_mapping(content), 0)
    except (MalformedInput, Refused) as error:
        raise type(error)(f"{name}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)[:120]
        raise MalformedInput(f"{name}: its configuration is not that of Keras: {reason}") from error
    return model if model.graph is not None else None


def _layer(item: Config, depth: int) -> Layer:
    if depth > MAX_DEPTH:
        raise Refused(f"its models are nested more than {MAX_DEPTH} deep")
    kind = str(item["class_name"])
    config = item.get("config", {})
    if isinstance(config, list):  # Keras 1: a Sequential is the list of its layers
        config = {"layers": config}
    config = _mapping(config)
    name = str(item.get("name") or config.get("name") or kind)
    layer = Layer(
        kind.rpartition(">")[2],
        name,
        config,
        module=str(item.get("module") or ""),
        is_keras=is_keras_class(item, kind),
        operation=_is_operation(item, config),
        calls=tuple(_calls(item.get("inbound_nodes") or ())),
        constants=tuple(_constants(item.get("inbound_nodes"))),
        flags=frozenset(_flags(item.get("inbound_nodes"))),
        built=_shape(_mapping(item.get("build_config") or {}).get("input_shape")),
    )
    if isinstance(config.get("layers"), list):
        if "input_layers" in config or (layer.is_keras and layer.kind in ("Sequential", "Model")):
            return replace(layer, graph=_graph(layer, depth))
        parts = [item for item in config["layers"] if isinstance(item, dict)]
        hidden = tuple(_layer(item, depth + 1) for item in parts if "class_name" in item)
        return replace(layer, hidden=hidden)
    inner = config.get("layer")
    if isinstance(inner, dict) and "class_name" in inner:
        return replace(layer, inner=_layer(inner, depth + 1))
    return layer


def is_keras_class(item: Config, kind: str) -> bool:
    """Whether the class of an object in a configuration is one of Keras's own."""
    if ">" in kind or item.get("registered_name") not in (None, kind):
        return False
    return str(item.get("module") or "keras").split(".")[0] in ("keras", "tf_keras", "tensorflow")


def _is_operation(item: Config, config: Config) -> bool:
    """Their module tells in `.keras`; in `.h5` no more than that they have no `trainable`."""
    if item.get("module"):
        return ".ops" in str(item["module"])
    nodes = item.get("inbound_nodes")
    called = isinstance(nodes, list) and any(
        isinstance(node, dict) and "args" in node for node in nodes
    )
    return called and "trainable" not in config and item["class_name"] != "InputLayer"


def check_calls(count: int) -> None:
    """Raise `Refused` for more than `MAX_CALLS` calls of layers."""
    if count > MAX_CALLS:
        raise Refused(f"it applies layers more than {MAX_CALLS} times")


def _graph(model: Layer, depth: int) -> Graph:
    check_calls(len(model.config["layers"]))
    layers = [_layer(_mapping(item), depth + 1) for item in model.config["layers"]]
    if "input_layers" in model.config:
        inputs = tuple(ref.layer for ref in refs(model.config["input_layers"]))
        outputs = tuple(refs(model.config["output_layers"]))
        layers, outputs = _renumbered(layers, outputs)
    else:
        layers = _chained(layers, model)
        inputs, outputs = (layers[0].name,), (Ref(layers[-1].name, 0),)
    if not inputs:
        raise ValueError(f"{model.name} has no inputs")
    by_name = {layer.name: layer for layer in layers}
    if len(by_name) != len(layers):
        raise ValueError(f"two layers of {model.name} have the same name")
    if missing := set(inputs) - by_name.keys():
        raise ValueError(f"{min(missing)!r}, an input of {model.name}, is not one of its layers")
    return Graph(tuple(layers), inputs, outputs, by_name)


def _renumbered(
    layers: Sequence[Layer], outputs: Sequence[Ref]
) -> tuple[list[Layer], tuple[Ref, ...]]:
    """The layers of a model with their calls counted from 0.

    Some versions count from 1 for a model within the model: its making was a call of its own.
    """
    every = [*outputs, *(ref for layer in layers for call in layer.calls for ref in call)]
    called = {(ref.layer, ref.call) for ref in every}
    shifted = {layer.name for layer in layers if (layer.name, len(layer.calls)) in called}

    def counted(ref: Ref) -> Ref:
        return replace(ref, call=ref.call - (ref.layer in shifted and ref.call > 0))

    calls = [tuple(tuple(map(counted, call)) for call in layer.calls) for layer in layers]
    renumbered = [replace(layer, calls=call) for layer, call in zip(layers, calls, strict=True)]
    return renumbered, tuple(map(counted, outputs))


def _chained(layers: Sequence[Layer], model: Layer) -> list[Layer]:
    """The layers of a Sequential, each called on the one before."""
    if not layers:
        raise ValueError(f"{model.name} has no layers")
    shape = agreed(
        f"input of {model.name}",
        Account(unbatched(input_shape(layers[0])), f"the {layers[0].kind} {layers[0].name!r}"),
        Account(unbatched(_shape(model.config.get("build_input_shape"))), "its build_input_shape"),
        Account(unbatched(model.built), "its build_config"),
    )
    if layers[0].kind != "InputLayer":
        name = f"{layers[0].name}_input"
        layers = [Layer("InputLayer", name, {"batch_shape": shape}, implied=True), *layers]
    chained = [replace(layers[0], calls=((),))]
    for layer in layers[1:]:
        chained.append(replace(layer, calls=((Ref(chained[-1].name, 0),),)))
    return chained


def input_shape(layer: Layer) -> Shape:
    """The shape of a layer's input as its own configuration states it."""
    config, accounts = layer.config, []
    for key, batch in (("batch_shape", ()), ("batch_input_shape", ()), ("input_shape", (None,))):
        if config.get(key) is not None:
            shape = _shape(config[key])
            if shape is None and layer.kind == "InputLayer":
                raise MalformedInput(
                    f"{layer.name}: its {key} is {str(config[key])[:40]}, not a shape"
                )
            accounts.append(Account(shape if shape is None else (*batch, *shape), f"its {key}"))
    if accounts:
        return agreed(layer.name, *accounts)
    if layer.graph is not None and len(layer.graph.inputs) == 1:
        return input_shape(layer.graph.by_name[layer.graph.inputs[0]])
    if layer.inner is not None and layer.kind != "TimeDistributed":
        return input_shape(layer.inner)
    return None


def unbatched(shape: Shape) -> Shape:
    """The shape with its batch open: it is whatever a model is fed with."""
    return (None, *shape[1:]) if shape else shape


def modern(config: Config, kind: str) -> Config:
    """A configuration in the words of Keras 2 and 3, if it is in those of Keras 1."""
    if not any(key in config for key in ("nb_filter", "border_mode", "dim_ordering")):
        return config
    renamed = dict(config)
    for old, new in (
        ("nb_filter", "filters"),
        ("filter_length", "kernel_size"),
        ("subsample_length", "strides"),
        ("subsample", "strides"),
        ("border_mode", "padding"),
        ("atrous_rate", "dilation_rate"),
        ("bias", "use_bias"),
    ):
        if old in renamed:
            renamed[new] = renamed.pop(old)
    if "nb_row" in renamed:
        renamed["kernel_size"] = [renamed["nb_row"], renamed["nb_col"]]
    if "kernel_dim1" in renamed:
        renamed["kernel_size"] = [renamed[f"kernel_dim{n}"] for n in (1, 2, 3)]
    if "dim_ordering" in renamed:
        order = renamed["dim_ordering"]
        renamed["data_format"] = {"th": "channels_first", "tf": "channels_last"}.get(order, order)
    if kind == "Convolution1D":
        renamed["data_format"] = "channels_last"
    return renamed


def activation(layer: Layer) -> str | None:
    """What a layer applies to the result of its own computation; None where that is nothing."""
    function = layer.config.get("activation")
    if isinstance(function, dict):  # a function by its name, or a layer
        inside = function.get("config")
        function = inside if isinstance(inside, str) else function.get("class_name")
    return None if function in (None, "linear") else str(function)[:80]


def _shape(value: object) -> Shape:
    """A shape as JSON has it; None for what is none, such as several."""
    if isinstance(value, dict):  # {"class_name": "__tuple__", "items": [...]}
        value = value.get("items")
    if not isinstance(value, list | tuple):
        return None
    if not all(size is None or (type(size) is int and (size > 0 or size == -1)) for size in value):
        return None
    return tuple(None if size == -1 else size for size in value)


def _calls(nodes: Any) -> Iterator[tuple[Ref, ...]]:
    """The tensors of each call of a layer, from its `inbound_nodes`."""
    if isinstance(nodes, list) and nodes and _is_ref(nodes):
        nodes = [[nodes]]  # a single call on a single tensor
    check_calls(len(nodes))
    for node in nodes:
        yield tuple(refs(node))


def refs(value: Any, depth: int = 0) -> Iterator[Ref]:
    """The tensors in a structure, in order.

    Keras 3 writes one as {"class_name": "__keras_tensor__", "config": {"keras_history": [layer,
    call, output]}}, Keras 1 and 2 as [layer, call, output] with perhaps a mapping of arguments
    after it, which may hold more.
    """
    if depth > MAX_DEPTH:
        raise ValueError("its tensors are nested too deep")
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            layer, call, output = value["config"]["keras_history"]
            shape = _shape(value["config"].get("shape"))
            yield _ref(str(layer), int(call), int(output), shape)
            return
        for key in sorted(value):  # as Keras flattens a mapping of tensors
            yield from refs(value[key], depth + 1)
    elif isinstance(value, list | tuple):
        if _is_ref(value):
            if value[0] != "_CONSTANT_VALUE":
                yield _ref(value[0], value[1], value[2])
            yield from refs(value[3:], depth + 1)
            return
        for part in value:
            yield from refs(part, depth + 1)


def _ref(layer: str, call: int, output: int, stated: Shape = None) -> Ref:
    if min(call, output) < 0:
        raise ValueError(f"a tensor of {layer[:40]} has the number {min(call, output)}"[:120])
    return Ref(layer, call, output, stated)


def _constants(value: Any) -> Iterator[Shape]:
    """The shapes of the arrays of numbers in a structure.

    Keras 3 writes one as {"class_name": "__numpy__", "config": {"value": [[1, 2], [3, 4]]}} (or
    "__tensor__"), Keras 2 as the lists alone.
    """
    if isinstance(value, dict):
        if value.get("class_name") != "__keras_tensor__":
            for part in value.values():
                yield from _constants(part)
    elif isinstance(value, list):
        if _is_ref(value):
            yield from _constants(value[2] if value[0] == "_CONSTANT_VALUE" else value[3:])
        elif _is_array(value):
            yield _lengths(value)
        else:
            for part in value:
                yield from _constants(part)


def _is_array(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, int | float) or _is_array(part) for part in value)
    )


def _flags(value: Any) -> Iterator[str]:
    """The names of what is true in the calls of a layer."""
    for key, part in value.items() if isinstance(value, dict) else ():
        if part is True:
            yield key
        else:
            yield from _flags(part)
    for part in value if isinstance(value, list) else ():
        if isinstance(part, dict | list):
            yield from _flags(part)


def _lengths(value: Any) -> tuple[int, ...]:
    return (len(value), *_lengths(value[0])) if isinstance(value, list) and value else ()


def _is_ref(value: Sequence[Any]) -> bool:
    return (
        len(value) >= 3
        and type(value[0]) is str
        and type(value[1]) is int
        and (type(value[2]) is int or value[0] == "_CONSTANT_VALUE")
    )


def _mapping(value: object) -> Config:
    if not isinstance(value, dict):
        raise TypeError(f"{str(value)[:40]!r} where an object belongs")
    return value
