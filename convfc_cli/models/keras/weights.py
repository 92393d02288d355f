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
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from convfc_cli.errors import MalformedInput, Refused
from convfc_cli.hdf5.tree import Dataset, Group
from convfc_cli.models.keras.config import CONVOLUTION, Graph, Layer

Named = tuple[str, Dataset]
"""A dataset, and the name that its file has for the variable."""

Chain = Sequence[Layer]
"""A layer and what it is in, outermost first: models, wrappers, the layer itself."""

CONTAINERS = ("layers", "_layer_checkpoint_dependencies", "_self_tracked_trackables")
"""What the versions of Keras call the layers of a model, the usual one first."""

ROLES = {
    "lora_kernel_a": "lora_kernel_a",
    "lora_kernel_b": "lora_kernel_b",
    "depthwise_kernel": "kernel",
    "pointwise_kernel": "pointwise",
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "mean",
    "moving_variance": "variance",
    "running_mean": "mean",
    "running_std": "variance",
    "W": "kernel",
    "b": "bias",
}
"""What a variable is, by the end of its name; the last four are those of Keras 1, whose `std` is
a variance."""

LORA = {"lora_kernel_a", "lora_kernel_b"}

MAX_NAME_CHARACTERS = 2**25
"""Limit on the names of weights together, each counted once for each of its steps: all endings of
names are kept to tell layers apart."""

NORMALIZATIONS = ("BatchNormalization", "SyncBatchNormalization")


STATE = ("vector_u", "sn_u")
"""What SpectralNormalization keeps beside the weights of its layer."""


def variables(layer: Layer) -> tuple[str, ...]:
    """The roles of a layer's variables, in Keras's order; all but a bias are there."""
    if layer.kind in NORMALIZATIONS:
        learnt = (("scale", "gamma"), ("center", "beta"))
        learned = [role for option, role in learnt if layer.config.get(option, True)]
        return (*learned, "mean", "variance")
    return ("kernel", "pointwise", "bias") if "Separable" in layer.kind else ("kernel", "bias")


class Weights(ABC):
    """The weights of a file."""

    @abstractmethod
    def of(self, model: Graph, chain: Chain) -> Mapping[str, Dataset]:
        """A layer's datasets by their roles, all of its `variables` among them but a bias.

        Raises `MalformedInput`, `Refused`, `Unsupported` where they cannot be identified.
        """

    @abstractmethod
    def large(self, model: Graph, chain: Chain) -> list[Dataset]:
        """All datasets of a layer, whatever its class, that have a convolution kernel's rank."""


class Remembered(Weights):
    """The weights of one model, each layer's looked up once, however often it is needed."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._datasets: dict[tuple[int, ...], Mapping[str, Dataset]] = {}

    def of(self, model: Graph, chain: Chain) -> Mapping[str, Dataset]:
        key = tuple(map(id, chain))  # of layers that the model keeps
        if key not in self._datasets:
            self._datasets[key] = self._weights.of(model, chain)
        return self._datasets[key]

    def large(self, model: Graph, chain: Chain) -> list[Dataset]:
        return self._weights.large(model, chain)


class Legacy(Weights):
    """Groups named after the layers, with the order of their weights in an attribute."""

    def __init__(self, root: Group) -> None:
        self._root = root
        self._held: dict[tuple[str, Family], _Held] = {}
        self._left = MAX_NAME_CHARACTERS

    def of(self, model: Graph, chain: Chain) -> Mapping[str, Dataset]:
        named = [
            (name, dataset) for name, dataset in self._weights_of(chain) if _leaf(name) not in STATE
        ]
        expected = variables(chain[-1])
        needed = {*expected} - {"bias"}
        roles: dict[str, Dataset] = {}
        for name, dataset in named:
            role = _role(name)
            if role not in {*expected, *LORA} or role in roles:
                break
            roles[role] = dataset
        else:
            if roles.keys() >= needed:
                return roles
        in_order = [(role, *held) for role, held in zip(expected, named, strict=False)]
        matching = all(_role(name) in (None, role) for role, name, _ in in_order)
        alone = len(chain) - _wrappers(chain) == 1
        if alone and matching and len(needed) <= len(named) <= len(expected):
            return {role: dataset for role, _, dataset in in_order}
        names = ", ".join(name[-80:] for name, _ in named[:4])
        raise MalformedInput(f"its weights cannot be told from {names or 'an empty group'}")

    def large(self, model: Graph, chain: Chain) -> list[Dataset]:
        try:
            return [dataset for _, dataset in self._weights_of(chain) if _is_large(dataset)]
        except MalformedInput:
            return []

    def _weights_of(self, chain: Chain) -> list[Named]:
        """(name, dataset) of the layer's weights, in Keras's order."""
        top, family = chain[0].name, _family(chain[-1])
        if (top, family) not in self._held:
            listed = self._listed(top)
            self._left -= _check_names((name for name, _ in listed), self._left)
            self._held[top, family] = _Held(chain[0], listed, family)
        return self._held[top, family].of(chain)

    def _listed(self, top: str) -> list[Named]:
        """All that the group of an outermost layer lists."""
        group = self._root.group(top)
        if group is None:
            raise MalformedInput(f"it has no group {self._root.path}/{top} for its weights")
        weights = []
        for name in texts(group, "weight_names"):
            dataset = group.dataset(name)
            if dataset is None:
                raise MalformedInput(
                    f"{group.path} names a weight {name[:200]!r} that is not there"
                )
            weights.append((name, dataset))
        return weights


@dataclass(frozen=True)
class Family:
    """Layers each of which has a variable that no layer of another family has."""

    has: Callable[[Layer], bool]
    marks: Callable[[str, Dataset], bool]


CONVOLUTIONS = Family(
    lambda layer: bool(CONVOLUTION.search(layer.kind)) or "LocallyConnected" in layer.kind,
    lambda name, dataset: _is_large(dataset),
)

NORMALIZING = Family(
    lambda layer: layer.kind in NORMALIZATIONS, lambda name, dataset: _role(name) == "variance"
)

DENSE = Family(
    lambda layer: layer.kind == "Dense",
    lambda name, dataset: _role(name) == "kernel" and len(dataset.shape) == 2,
)


def _family(layer: Layer) -> Family:
    return next((family for family in (NORMALIZING, DENSE) if family.has(layer)), CONVOLUTIONS)


class _Held:
    """The weights in the group of an outermost layer, and which layer of a family in it has which.

    Keras knows them by their order. TensorFlow may have made a name unique by a number after it
    (`conv_1_2/kernel:0` of a layer `conv_1`), so the order decides, and the names must agree with
    it. Where the order tells nothing, the names do, if no two layers may be meant by one.
    """

    def __init__(self, top: Layer, weights: Sequence[Named], family: Family) -> None:
        self._weights, self._family = weights, family
        scopes = list(
            dict.fromkeys(_scope(name) for name, data in weights if family.marks(name, data))
        )
        chains = list(_members(top, family, ()))
        if family is not NORMALIZING:  # whose variances are never trained, and so in one order
            chains.sort(key=_is_frozen)
        self._by_order: dict[tuple[str, ...], list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        self._meant: dict[str, int] = {}
        """How many scopes may be those of a layer of this name."""

        if len(scopes) == len(chains) and all(map(_agree, scopes, chains)):
            places: dict[str, list[int]] = {}
            for place, (name, _) in enumerate(weights):
                places.setdefault(_scope(name), []).append(place)
            for scope, chain in zip(scopes, chains, strict=True):
                self._by_order.setdefault(_path(chain), []).extend(places[scope])
        for place, (name, _) in enumerate(weights):
            for layer in _layers_in(name):
                self._by_name.setdefault(layer, []).append(place)
        for scope in scopes:
            for layer in _meant(scope):
                self._meant[layer] = self._meant.get(layer, 0) + 1
        holders = [self._scopes_of(chain) for chain in chains]
        alone = all(len(held) == 1 for held in holders)
        self._told_apart = alone and len(set().union(*holders)) == len(chains)

    def of(self, chain: Chain) -> list[Named]:
        """A layer's own weights."""
        if all(layer.graph is None for layer in chain):
            return list(self._weights)
        if self._by_order:
            return [self._weights[place] for place in self._by_order.get(_path(chain), ())]
        if not self._told_apart and sum(self._meant.get(name, 0) for name in _names(chain)) != 1:
            return []
        return [self._weights[place] for place in self._places(chain)]

    def _places(self, chain: Chain) -> list[int]:
        """Where the variables are whose names have the layer, or its wrapper, as a scope."""
        return sorted({place for name in _names(chain) for place in self._by_name.get(name, ())})

    def _scopes_of(self, chain: Chain) -> set[str]:
        weights = (self._weights[place] for place in self._places(chain))
        return {_scope(name) for name, data in weights if self._family.marks(name, data)}


def _path(chain: Chain) -> tuple[str, ...]:
    return tuple(layer.name for layer in chain)


def _names(chain: Chain) -> list[str]:
    """What a layer's variables may be called after: itself, and its wrappers."""
    return [layer.name for layer in chain if layer.graph is None]


def _layers_in(name: str) -> set[str]:
    """What the layer may be called whose variable has this name: `a/b/kernel:0` is of b or a/b,
    Keras 1's `conv_W` of conv.
    """
    scope, _, leaf = name.rpartition("/")
    old = re.fullmatch(r"(.+)_[Wb](:0)?", leaf)
    return _ends(scope) | {old[1]} if old else _ends(scope)


def _meant(scope: str) -> set[str]:
    """What the layer may be called whose variables are in this scope, if TensorFlow may have added
    a number.
    """
    return _ends(scope) | _ends(re.sub(r"_\d+$", "", scope))


def _ends(scope: str) -> set[str]:
    steps = scope.split("/")
    return {"/".join(steps[start:]) for start in range(len(steps))}


def _agree(scope: str, chain: Chain) -> bool:
    return not _meant(scope).isdisjoint(_names(chain))


def _scope(name: str) -> str:
    return name.rpartition("/")[0]


def _members(layer: Layer, family: Family, outer: Chain) -> Iterator[Chain]:
    """The layers of a family in a model, each with what it is in, in the configuration's order."""
    chain = (*outer, layer)
    if layer.graph is not None:
        for inside in layer.graph.layers:
            yield from _members(inside, family, chain)
    elif layer.inner is not None:
        yield from _members(layer.inner, family, chain)
    elif family.has(layer):
        yield chain


def _is_frozen(chain: Chain) -> bool:
    """Keras lists what is trained before what is not."""
    return any(layer.config.get("trainable") is False for layer in chain)


class Store(Weights):
    """Groups named after classes, in the order of the configuration."""

    def __init__(self, root: Group) -> None:
        self._root = root
        self._places: dict[str, str] = {}
        """The path of the `vars` of every place that holds weights; Windows wrote \\ for /."""

        self._kernels: list[tuple[str, Dataset]] = []
        """(place, dataset) of what has a convolution kernel's rank, in order of the places."""

        for dataset in root.walk():
            path = dataset.path.rpartition("/")[0]
            place, _, last = path.replace("\\", "/").removeprefix("/").rpartition("/")
            if last == "vars" and place.split("/")[0] not in ("optimizer", "optimizer_weights"):
                self._places[place] = path.removeprefix("/")
                if _is_large(dataset):
                    self._kernels.append((place, dataset))
        _check_names(self._places, MAX_NAME_CHARACTERS)
        self._kernels.sort(key=lambda kernel: kernel[0])
        self._numbers: dict[int, tuple[Graph, Mapping[str, tuple[str, int, int]]]] = {}
        self._inside = {key: sorted(places) for key, places in _numbered_groups(self._places)}
        """For each place and class the groups there, each with its number, in order."""

    def of(self, model: Graph, chain: Chain) -> Mapping[str, Dataset]:
        place = self._place(model, chain)
        path = self._places.get(place) or self._below(place)
        group = self._root.group(path) if path else None
        if group is None:
            raise MalformedInput(f"it has no weights in the file: {place}/vars is not there")
        named = group.attribute("name")
        if isinstance(named, str) and named != chain[-1].name:
            raise MalformedInput(
                f"{group.path} holds the weights of {named!r}, where the order of the "
                f"configuration has those of {chain[-1].name!r}"
            )
        expected = variables(chain[-1])
        roles = {role: group.dataset(str(number)) for number, role in enumerate(expected)}
        for number, role in enumerate(expected):
            if roles[role] is None and role != "bias":
                raise MalformedInput(f"{group.path} holds no variable {number}")
        return {role: dataset for role, dataset in roles.items() if dataset is not None}

    def large(self, model: Graph, chain: Chain) -> list[Dataset]:
        try:
            place = self._place(model, chain)
        except MalformedInput:
            return []
        first = bisect_left(self._kernels, place, key=lambda kernel: kernel[0])
        held = takewhile(lambda kernel: _is_below(kernel[0], place), self._kernels[first:])
        return [dataset for _, dataset in held]

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
        numbers = self._numbered(graph)
        if layer.name not in numbers:
            raise MalformedInput(
                f"its weights are not found: {layer.name} is not a layer but a call"
            )
        snake, number, count = numbers[layer.name]
        for container in CONTAINERS:
            inside = f"{place}/{container}".removeprefix("/")
            places = self._inside.get((inside, snake), [])
            if len(places) == count:  # some versions left gaps between the numbers
                return f"{inside}/{places[number][1]}"
            if places and places[-1][0] < count:  # some layers have no weights
                at = bisect_left(places, (number, ""))
                if at < len(places) and places[at][0] == number:
                    return f"{inside}/{places[at][1]}"
        raise MalformedInput(
            f"its weights are not found: no group for the {layer.kind} number {number} of "
            f"{place or 'the model'}"
        )

    def _numbered(self, graph: Graph) -> Mapping[str, tuple[str, int, int]]:
        """For each layer of a model what Keras makes of its class's name, its number among those
        of that class, and how many there are.
        """
        if id(graph) not in self._numbers:
            counts: dict[str, int] = {}
            numbered = []
            for layer in graph.layers:
                if _counts(layer):
                    snake = snake_case(layer.kind)
                    number = counts[snake] = counts.get(snake, -1) + 1
                    numbered.append((layer.name, snake, number))
            numbers = {name: (snake, number, counts[snake] + 1) for name, snake, number in numbered}
            self._numbers[id(graph)] = graph, numbers
        return self._numbers[id(graph)][1]

    def _below(self, place: str) -> str | None:
        """The only `vars` under a place: a wrapper's, whatever it calls its layer."""
        outer = place.rpartition("/")[0] if place.endswith("/layer") else place
        paths = [path for below, path in self._places.items() if _is_below(below, outer)]
        return paths[0] if len(paths) == 1 else None


def _check_names(names: Iterable[str], most: int) -> int:
    """How many characters names have, each name counted once for each of its steps.

    Raises `Refused` where that is more than `most`.
    """
    size = sum(len(name) * (name.count("/") + 1) for name in names)
    if size > most:
        raise Refused(
            f"the names of its weights are too long: at most {MAX_NAME_CHARACTERS} "
            f"characters, counted once for each step of a name, are compared"
        )
    return size


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def _numbered_groups(
    paths: Iterable[str],
) -> Iterable[tuple[tuple[str, str], set[tuple[int, str]]]]:
    """((place, class), {(number, name)}) of all groups: `conv2d_3` is number 3 of `conv2d`."""
    groups: dict[tuple[str, str], set[tuple[int, str]]] = {}
    for path in paths:
        steps = path.split("/")
        for depth in range(1, len(steps)):
            inside, name = "/".join(steps[:depth]), steps[depth]
            groups.setdefault((inside, name), set()).add((0, name))
            if numbered := re.fullmatch(r"(.+)_(\d{1,9})", name):
                groups.setdefault((inside, numbered[1]), set()).add((int(numbered[2]), name))
    return groups.items()


def _is_large(dataset: Dataset) -> bool:
    return len(dataset.shape) >= 3


def _counts(layer: Layer) -> bool:
    """Whether a layer of the configuration is one of the model's layers, and not an operation."""
    return not layer.implied and ".ops" not in str(layer.module)


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
        raise MalformedInput(f"attribute {name} of {group.path} is not a list of names")
    return value


def _leaf(name: str) -> str:
    return name.rpartition("/")[2].split(":")[0]


def _role(name: str) -> str | None:
    """What a variable is: `conv/kernel_1:0` is a kernel, Keras 1's `conv_W` too."""
    leaf = "_" + re.sub(r"_\d+$", "", _leaf(name))
    return next((role for end, role in ROLES.items() if leaf.endswith(f"_{end}")), None)


def _wrappers(chain: Chain) -> int:
    return sum(layer.graph is None for layer in chain[:-1])
