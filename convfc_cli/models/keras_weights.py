"""Where a Keras file keeps the weights of a layer: two ways, neither by guessing at names.

Legacy HDF5 (`Legacy`): a group for each top-level layer, named after it, with the attribute
`weight_names`: the datasets in Keras's own order. The weights of a model within the model are all
in the group of the outermost one, told apart by the layer's name before the variable's.

Keras 2.12 and later (`Store`), in `.keras` and `.weights.h5`: groups are not named after layers,
but after their classes, numbered in the order of the configuration: `layers/conv2d_3/vars/0` is the
kernel of the fourth Conv2D. Newer files also carry the layer's name, as an attribute.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from convfc_cli.errors import MalformedInput
from convfc_cli.hdf5_input import Dataset, Group
from convfc_cli.models.keras_config import CONVOLUTION, Graph, Layer

Named = tuple[str, Dataset]
"""A dataset, and the name that its file has for the variable."""

Chain = Sequence[Layer]
"""A layer and what it is in, outermost first: models, wrappers, the layer itself."""

CONTAINERS = ("layers", "_layer_checkpoint_dependencies", "_self_tracked_trackables")
"""What the versions of Keras call the layers of a model, the usual one first."""

ROLES = {
    "kernel": "kernel",
    "depthwise_kernel": "kernel",
    "bias": "bias",
    "lora_kernel_a": "lora_kernel_a",
    "lora_kernel_b": "lora_kernel_b",
    "W": "kernel",
    "b": "bias",
}
"""What a variable is, by its name; the last two are those of Keras 1."""


class Weights(ABC):
    """The weights of a file."""

    @abstractmethod
    def of(self, model: Graph, chain: Chain) -> Mapping[str, Dataset]:
        """A convolution's datasets by their roles, `kernel` always among them.

        Raises `MalformedInput`, `Refused`, `Unsupported` where they are not to be told.
        """

    @abstractmethod
    def large(self, model: Graph, chain: Chain) -> list[Dataset]:
        """All datasets of a layer, whatever its class, that have a convolution kernel's rank."""


class Legacy(Weights):
    """Groups named after the layers, with the order of their weights in an attribute."""

    def __init__(self, root: Group) -> None:
        self._root = root

    def of(self, model: Graph, chain: Chain) -> Mapping[str, Dataset]:
        own = self._own(chain)
        roles: dict[str, Dataset] = {}
        for name, dataset in own:
            role = _role(name)
            if role is None or role in roles:
                break
            roles[role] = dataset
        else:
            if "kernel" in roles:
                return roles
        if len(chain) - _wrappers(chain) == 1 and 1 <= len(own) <= 2:
            return dict(zip(("kernel", "bias"), (dataset for _, dataset in own), strict=False))
        names = ", ".join(name for name, _ in own[:4])
        raise MalformedInput(f"its weights cannot be told from {names or 'an empty group'}")

    def large(self, model: Graph, chain: Chain) -> list[Dataset]:
        try:
            return [dataset for _, dataset in self._own(chain) if _is_large(dataset)]
        except MalformedInput:
            return []

    def _own(self, chain: Chain) -> list[Named]:
        """(name, dataset) of the layer's weights, in Keras's order."""
        top = chain[0].name
        group = self._root.group(top)
        if group is None:
            raise MalformedInput(f"it has no group {self._root.path}/{top} for its weights")
        found = []
        for name in texts(group, "weight_names"):
            dataset = group.dataset(name)
            if dataset is None:
                raise MalformedInput(f"{group.path} names a weight {name!r} that is not there")
            found.append((name, dataset))
        return found if chain[0].graph is None else _within(chain, found)


def _within(chain: Chain, found: Sequence[Named]) -> list[Named]:
    """A layer's own weights among those of the model that it is in.

    Keras knows them by their order. TensorFlow may have made a name unique by a number after it
    (`conv_1_2/kernel:0` of a layer `conv_1`), so the order decides, and the names must agree with
    it.
    """
    scopes = list(dict.fromkeys(_scope(name) for name, dataset in found if _is_large(dataset)))
    chains = sorted(_with_kernels(chain[0], ()), key=_is_frozen)
    names = [layer.name for layer in chain]
    if len(scopes) == len(chains) and all(map(_agree, scopes, chains)):
        own = [
            scope
            for scope, other in zip(scopes, chains, strict=True)
            if [layer.name for layer in other] == names
        ]
        return [(name, dataset) for name, dataset in found if _scope(name) in own]
    holders = [
        {_scope(name) for name, dataset in found if _is_large(dataset) and _is_in(name, other)}
        for other in chains
    ]
    alone = all(len(held) == 1 for held in holders)
    told_apart = alone and len(set().union(*holders)) == len(chains)
    if not told_apart and sum(_agree(scope, chain) for scope in scopes) != 1:
        return []  # a layer's name may be what TensorFlow made of another's
    return [(name, dataset) for name, dataset in found if _is_in(name, chain)]


def _scope(name: str) -> str:
    return name.rpartition("/")[0]


def _with_kernels(layer: Layer, outer: Chain) -> Iterator[Chain]:
    """The convolutions in a model, each with what it is in, in the order of the configuration."""
    chain = (*outer, layer)
    if layer.graph is not None:
        for inside in layer.graph.layers:
            yield from _with_kernels(inside, chain)
    elif layer.inner is not None:
        yield from _with_kernels(layer.inner, chain)
    elif CONVOLUTION.search(layer.kind) or layer.kind.startswith("LocallyConnected"):
        yield chain


def _is_frozen(chain: Chain) -> bool:
    """Keras lists what is trained before what is not."""
    return any(layer.config.get("trainable") is False for layer in chain)


def _agree(scope: str, chain: Chain) -> bool:
    """Whether a variable's scope may be that of a layer: its name, or a wrapper's, and a number."""
    return any(
        re.search(rf"(^|/){re.escape(layer.name)}(_\d+)?$", scope)
        for layer in chain
        if layer.graph is None
    )


class Store(Weights):
    """Groups named after classes, in the order of the configuration."""

    def __init__(self, root: Group) -> None:
        self._groups = dict(_holders(root, ""))

    def of(self, model: Graph, chain: Chain) -> Mapping[str, Dataset]:
        place = self._place(model, chain)
        group = self._groups.get(place) or self._below(place)
        if group is None:
            raise MalformedInput(f"it has no weights in the file: {place}/vars is not there")
        named = group.attribute("name")
        if isinstance(named, str) and named != chain[-1].name:
            raise MalformedInput(
                f"{group.path} holds the weights of {named!r}, where the order of the "
                f"configuration has those of {chain[-1].name!r}"
            )
        found = [group.dataset(str(number)) for number in range(len(group.names()))]
        if not found or found[0] is None:
            raise MalformedInput(f"{group.path} holds no variable 0")
        roles = dict(zip(("kernel", "bias"), found, strict=False))
        return {role: dataset for role, dataset in roles.items() if dataset is not None}

    def large(self, model: Graph, chain: Chain) -> list[Dataset]:
        try:
            place = self._place(model, chain)
        except MalformedInput:
            return []
        return [
            dataset
            for path, group in self._groups.items()
            if path == place or path.startswith(f"{place}/")
            for dataset in _datasets(group)
            if _is_large(dataset)
        ]

    def _place(self, model: Graph, chain: Chain) -> str:
        place, graph = "", model
        for outer, layer in zip([None, *chain], chain, strict=False):
            if outer is not None and outer.graph is None:  # a wrapper: the layer is an attribute
                place = f"{place}/layer"
                continue
            graph = graph if outer is None or outer.graph is None else outer.graph
            place = self._in_container(place, graph, layer)
        return place

    def _in_container(self, place: str, graph: Graph, layer: Layer) -> str:
        """Where in a model's place a layer of it is, by its class and its number among them."""
        snake = snake_case(layer.kind)
        alike = [other for other in graph.layers if _counts(other) and _alike(other, snake)]
        number = [other.name for other in alike].index(layer.name)
        numbered = re.compile(rf"{re.escape(snake)}(?:_(\d+))?")
        for container in CONTAINERS:
            inside = f"{place}/{container}/".removeprefix("/")
            names = {p[len(inside) :].split("/")[0] for p in self._groups if p.startswith(inside)}
            places = {
                int(found[1] or 0): name for name in names if (found := numbered.fullmatch(name))
            }
            if not places:
                continue
            if len(places) == len(alike):  # some versions left gaps between the numbers
                return inside + places[sorted(places)[number]]
            if number in places and max(places) < len(alike):  # some layers have no weights
                return inside + places[number]
        raise MalformedInput(
            f"its weights are not found: no group for the {layer.kind} number {number} of "
            f"{place or 'the model'}"
        )

    def _below(self, place: str) -> Group | None:
        """The only group with weights under a place: a wrapper's, whatever it calls its layer."""
        outer = place.rpartition("/")[0] if place.endswith("/layer") else place
        found = [group for path, group in self._groups.items() if path.startswith(f"{outer}/")]
        return found[0] if len(found) == 1 else None


def _holders(group: Group, path: str) -> Iterator[tuple[str, Group]]:
    """(path, its `vars`) of every group that holds weights; Windows wrote \\ for /."""
    for name in group.names():
        child = group.child(name)
        if not isinstance(child, Group):
            continue
        if name == "vars" and child.names():
            yield path, child
        elif name not in ("optimizer", "optimizer_weights") or path:
            yield from _holders(child, f"{path}/{name}".replace("\\", "/").removeprefix("/"))


def _datasets(group: Group) -> Iterator[Dataset]:
    for name in group.names():
        if isinstance(child := group.child(name), Dataset):
            yield child


def _is_large(dataset: Dataset) -> bool:
    return len(dataset.shape) >= 3


def _counts(layer: Layer) -> bool:
    """Whether a layer of the configuration is one of the model's layers, and not an operation."""
    return not layer.implied and ".ops" not in str(layer.module)


def _alike(layer: Layer, snake: str) -> bool:
    return snake_case(layer.kind) == snake


def snake_case(kind: str) -> str:
    """What Keras makes of a class's name: Conv2DTranspose to conv2d_transpose.

    >>> snake_case("DepthwiseConv2D")
    'depthwise_conv2d'
    """
    name = re.sub(r"\W+", "", kind)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def texts(group: Group, name: str) -> list[str]:
    """A list of texts in an attribute, or, where that is too long, in several: name0, name1, ..."""
    value = group.attribute(name)
    if value is None:
        value = []
        while (part := group.attribute(f"{name}{len(value)}")) is not None:
            value.append(part)
        value = [text for part in value for text in (part if isinstance(part, list) else [part])]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        if value in (None, []):
            return []
        raise MalformedInput(f"attribute {name} of {group.path} is no list of names")
    return value


def _role(name: str) -> str | None:
    """What a variable is: `conv/kernel_1:0` is a kernel, Keras 1's `conv_W` too."""
    leaf = name.rpartition("/")[2].split(":")[0]
    leaf = re.sub(r"_\d+$", "", leaf)
    return ROLES.get(leaf) or ROLES.get(leaf.rpartition("_")[2])


def _is_in(name: str, chain: Chain) -> bool:
    """Whether a variable's name has a layer, or its wrapper, right before the variable's part."""
    scope, _, leaf = f"/{name}".rpartition("/")
    return any(
        scope.endswith(f"/{layer.name}") or re.match(rf"{re.escape(layer.name)}_[Wb](:0)?$", leaf)
        for layer in chain
        if layer.graph is None
    )


def _wrappers(chain: Chain) -> int:
    return sum(layer.graph is None for layer in chain[:-1])
