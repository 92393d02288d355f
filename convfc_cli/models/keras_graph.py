"""The layers of a Keras model: the walk through its graph, with the size of every tensor.

Each call of a convolution is one entry: a layer that is applied twice, or is in a model that is
applied twice, has a matrix for each. Layers are named as Keras has them, with the models and
wrappers that they are in: `encoder/conv_1`; the calls of a shared one are `conv:0` and `conv:1`.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from convfc_cli.errors import (
    ConvfcError,
    GeometryError,
    MalformedInput,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.models import keras_layer
from convfc_cli.models.hdf5_numbers import dtype_name
from convfc_cli.models.keras_config import CONVOLUTION, Graph, Layer, Ref, Shape, input_shape
from convfc_cli.models.keras_layer import OTHERS, RANKS, Attributes
from convfc_cli.models.keras_shapes import SHAPES, agreed, merged, output_shape
from convfc_cli.models.keras_weights import Weights
from convfc_cli.models.model import Entry, Shapes

MOST_CALLS = 10_000
"""Calls of layers: a model may apply others twice, which apply others twice."""

WRAPPERS = ("TimeDistributed", "SpectralNormalization")
"""Wrappers that apply their layer as it is; the latter's kernel is stored normalized."""

KNOWN = frozenset({*SHAPES, *WRAPPERS, "InputLayer", "Functional", "Model", "Sequential"})
"""Classes of Keras's own that hold no convolution."""

KERNELS = ("EinsumDense", "MultiHeadAttention", "GroupQueryAttention")
"""Classes of Keras's own whose kernels have the rank of a convolution's."""


@dataclass(frozen=True)
class Origin:
    """Where a file's kernels come from: what Keras itself looks at when it loads them."""

    keras1: bool = False
    theano: bool | None = False
    """Whether its backend was Theano, which flips kernels; None where the file does not say."""


@dataclass(frozen=True)
class Call:
    """One application of a layer: what it is in, outermost first, and its input's shape."""

    chain: tuple[Layer, ...]
    place: tuple[int, ...]
    """Where it stands among all: the number of each layer in its model, and of the call."""

    shape: Shape
    names: tuple[str, ...]

    @property
    def layer(self) -> Layer:
        return self.chain[-1]

    @property
    def name(self) -> str:
        return "/".join(self.names)


@dataclass
class _Walk:
    """One pass over a model: the shapes that are given, and the calls found so far."""

    given: Mapping[str, Sequence[int]]
    met: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    count: int = 0

    def graph(
        self,
        graph: Graph,
        inputs: Sequence[Shape] | None,
        chain: tuple[Layer, ...],
        place: tuple[int, ...],
        *,
        alone: bool = True,
    ) -> list[Shape]:
        """The shapes of a model's outputs, given those of its inputs; its calls are collected.

        Shapes that the file states are those of the model's making. They hold of the outermost
        model (`inputs` None), and in one that is applied once (`alone`), not of every call.
        """
        made: dict[tuple[str, int], list[Shape]] = {}
        fed: dict[str, Shape] = {}
        if inputs is not None:
            known = inputs if len(inputs) == len(graph.inputs) else [None] * len(graph.inputs)
            fed = dict(zip(graph.inputs, known, strict=True))
        ready = deque(
            (number, layer, call)
            for number, layer in enumerate(graph.layers)
            for call in range(max(1, len(layer.calls)))
        )
        waiting: dict[tuple[str, int], list[tuple[int, Layer, int]]] = {}
        while ready:
            self._count()
            number, layer, call = ready.popleft()
            needed = layer.calls[call] if layer.calls else ()
            missing = next((ref for ref in needed if not self._is_made(ref, graph, made)), None)
            if missing is not None:
                waiting.setdefault((missing.layer, missing.call), []).append((number, layer, call))
                continue
            shapes = [self._shape(ref, made, alone) for ref in needed]
            if layer.name in fed and (fed[layer.name] is not None or not alone):
                found = [agreed(fed[layer.name], input_shape(layer))]
            elif layer.name in fed or layer.kind == "InputLayer":
                found = [input_shape(layer)]
            else:
                found = self.layer(layer, shapes, (*chain, layer), (*place, number, call), alone)
            made[layer.name, call] = self._settled(found, chain, layer, call)
            ready.extend(waiting.pop((layer.name, call), ()))
        if waiting:
            left = sorted(
                {(number, layer.name) for ls in waiting.values() for number, layer, _ in ls}
            )
            names = ", ".join(name for _, name in left[:3])
            raise MalformedInput(f"its layers wait for each other in a circle: {names}")
        return [self._shape(ref, made, alone) for ref in graph.outputs]

    def layer(
        self,
        layer: Layer,
        shapes: list[Shape],
        chain: tuple[Layer, ...],
        place: tuple[int, ...],
        alone: bool,
    ) -> list[Shape]:
        """The shapes of what a layer makes of these."""
        if layer.graph is not None:
            once = alone and len(layer.calls) <= 1
            return self.graph(layer.graph, shapes, chain, place, alone=once)
        if layer.inner is not None and layer.own and layer.kind in WRAPPERS:
            return self._wrapped(layer, layer.inner, shapes, chain, place, alone)
        shape = shapes[0] if shapes else None
        hidden = layer.hidden if layer.inner is None else (layer.inner,)
        for number, inside in enumerate(hidden):
            self._hidden(inside, (*chain, inside), (*place, number))
        if hidden:
            return [output_shape(layer, shapes)]
        if CONVOLUTION.search(layer.kind) or not layer.own or layer.kind not in KNOWN:
            names = tuple(step.name for step in chain)
            self.calls.append(Call(chain, place, shape, names))
        if layer.own and (layer.kind in RANKS or _stands_for(layer) is not None):
            return [_convolved(layer, shape)]
        return [output_shape(layer, shapes)]

    def _count(self) -> None:
        self.count += 1
        if self.count > MOST_CALLS:
            raise Refused(f"it applies layers more than {MOST_CALLS} times")

    def _wrapped(
        self,
        layer: Layer,
        inner: Layer,
        shapes: list[Shape],
        chain: tuple[Layer, ...],
        place: tuple[int, ...],
        alone: bool,
    ) -> list[Shape]:
        shape = shapes[0] if shapes else None
        if layer.kind != "TimeDistributed":
            return self.layer(inner, shapes, (*chain, inner), place, alone)
        once = None if shape is None or len(shape) < 2 else (shape[0], *shape[2:])
        found = self.layer(inner, [once], (*chain, inner), place, alone)
        steps = None if shape is None else shape[1]
        return [None if one is None else (one[0], steps, *one[1:]) for one in found]

    def _hidden(self, layer: Layer, chain: tuple[Layer, ...], place: tuple[int, ...]) -> None:
        """List what is in a layer that does something else than to apply it."""
        within = layer.hidden if layer.graph is None else layer.graph.layers
        for number, inside in enumerate(within if layer.inner is None else (layer.inner,)):
            self._hidden(inside, (*chain, inside), (*place, number))
        if layer.graph is None and layer.inner is None and CONVOLUTION.search(layer.kind):
            self.calls.append(Call(chain, place, None, tuple(step.name for step in chain)))

    def _is_made(self, ref: Ref, graph: Graph, made: Mapping[tuple[str, int], object]) -> bool:
        if (ref.layer, ref.call) in made:
            return True
        if ref.layer not in graph.by_name:
            raise MalformedInput(f"a layer is called on the output of {ref.layer!r}: there is none")
        return ref.call >= max(1, len(graph.by_name[ref.layer].calls))

    def _shape(
        self, ref: Ref, made: Mapping[tuple[str, int], Sequence[Shape]], alone: bool
    ) -> Shape:
        found = made.get((ref.layer, ref.call), ())
        shape = found[ref.output] if ref.output < len(found) else None
        return merged(shape, ref.stated) if alone else agreed(shape, ref.stated)

    def _settled(
        self, found: list[Shape], chain: tuple[Layer, ...], layer: Layer, call: int
    ) -> list[Shape]:
        """The shapes of a layer's outputs, with what the user says of the first."""
        name = "/".join(step.name for step in (*chain, layer))
        for given in (f"{name}:{call}", name):
            if given in self.given:
                self.met.add(given)
                return [_agreed(given, tuple(self.given[given]), found[0] if found else None)]
        return found


def _agreed(name: str, given: tuple[int, ...], known: Shape) -> Shape:
    if known is not None:
        if len(known) != len(given):
            raise UsageError(
                f"--input-shape {name}: {len(given)} sizes, where the model has {len(known)}"
            )
        for size, own in list(zip(given, known, strict=True))[1:]:
            if own not in (None, size):
                told = ",".join(str(s or "?") for s in known)
                raise UsageError(f"--input-shape {name}: the model has it as {told}")
    return (None, *given[1:])


def _stands_for(layer: Layer) -> str | None:
    """The convolution whose output has the shape of this one's, which is not read itself."""
    found = re.fullmatch(r"(?:Separable|LocallyConnected)(?:Conv|Convolution)?(\d)D", layer.kind)
    return f"Conv{found[1]}D" if found else None


def _convolved(layer: Layer, shape: Shape) -> Shape:
    """The shape of a convolution's output, sizes that are open left open."""
    kind = _stands_for(layer) or layer.kind
    try:
        found = keras_layer.attributes(replace(layer, kind=kind), keras1=False)
    except MalformedInput:
        return None
    own = keras_layer.own_shape(found, shape)
    if own is None or shape is None:
        return None
    channels = found.filters
    if channels is None:
        channels = None if own[0] is None else own[0] * found.multiplier
    sizes = []
    for axis, size in enumerate(own[1:]):
        single = replace(
            found,
            rank=1,
            kernel=found.kernel[axis : axis + 1],
            strides=found.strides[axis : axis + 1],
            dilations=found.dilations[axis : axis + 1],
            output_padding=found.output_padding[axis : axis + 1],
            filters=1,
            groups=1,
        )
        try:
            index = None if size is None else keras_layer.index_map(single, (1, size))
        except GeometryError:
            return None
        sizes.append(None if index is None else index.output_shape[1])
    batch = shape[: len(shape) - len(own)]
    return (*batch, *sizes, channels) if found.channels_last else (*batch, channels, *sizes)


def list_layers(
    model: Layer, name: str, weights: Weights, origin: Origin, shapes: Shapes
) -> tuple[Entry, ...]:
    """All convolutions of a model, in the order of its configuration."""
    assert model.graph is not None
    given = _named(model.graph, name, shapes)
    walk = _Walk(given)
    try:
        walk.graph(model.graph, None, (), ())
    except GeometryError as error:
        raise (UsageError(f"{error} (see --input-shape)") if shapes else error) from error
    if missed := sorted(given.keys() - walk.met):
        inputs = ", ".join(model.graph.inputs)
        raise UsageError(f"{name} has no tensor {missed[0]!r} (its inputs: {inputs})")
    calls = sorted(walk.calls, key=lambda call: call.place)
    entries: list[Entry] = []
    make = _Entries(model.graph, weights, origin, bool(shapes))
    for call, called in zip(calls, _numbered(calls), strict=True):
        entry = make.entry(len(entries), call, called)
        if entry is not None:
            entries.append(entry)
    return tuple(entries)


def _all_layers(graph: Graph) -> Iterator[Layer]:
    for layer in graph.layers:
        yield layer
        if layer.graph is not None:
            yield from _all_layers(layer.graph)


def _named(graph: Graph, name: str, shapes: Shapes) -> dict[str, Sequence[int]]:
    """The given shapes by tensor: a nameless one is that of the only input."""
    given: dict[str, Sequence[int]] = {}
    for tensor, shape in shapes.items():
        if tensor is None:
            if len(graph.inputs) != 1:
                inputs = ", ".join(graph.inputs)
                raise UsageError(f"--input-shape needs a name: {name} has the inputs {inputs}")
            tensor = graph.inputs[0]
        given[tensor] = shape
    return given


def _numbered(calls: Sequence[Call]) -> Iterator[str]:
    """What each call is called: the layer's name, numbered where there are several."""
    counts: dict[str, int] = {}
    for call in calls:
        counts[call.name] = counts.get(call.name, 0) + 1
    seen: dict[str, int] = {}
    for call in calls:
        number = seen[call.name] = seen.get(call.name, -1) + 1
        yield call.name if counts[call.name] == 1 else f"{call.name}:{number}"


@dataclass(frozen=True)
class _Entries:
    """Makes the entries of one model."""

    graph: Graph
    weights: Weights
    origin: Origin
    sized: bool

    def entry(self, position: int, call: Call, name: str) -> Entry | None:
        """The entry of a call; None for a layer of another class that holds no kernel."""
        layer = call.layer
        entry = Entry(position, name, name, layer.kind)
        if not layer.own or (layer.kind not in RANKS and layer.kind not in OTHERS):
            return self._foreign(entry, call)
        if layer.kind in OTHERS:
            return replace(entry, error=Unsupported(OTHERS[layer.kind]))
        outside = [
            step for step in call.chain[:-1] if step.graph is None and step.kind not in WRAPPERS
        ]
        if outside:
            reason = f"it is in a {outside[0].kind}, which may change what it computes"
            return replace(entry, error=Unsupported(reason))
        try:
            found = keras_layer.attributes(layer, keras1=self.origin.keras1)
        except ConvfcError as error:
            return replace(entry, error=error)
        entry = replace(
            entry,
            layout=self._layout(found),
            channels_last=found.channels_last,
            flipped=None if found.filters is None and self.origin.theano else self.origin.theano,
        )
        return self._sized(entry, call, found)

    def _sized(self, entry: Entry, call: Call, found: Attributes) -> Entry:
        def resized(own_shape: Shape) -> Entry:
            if own_shape is not None and len(own_shape) != found.rank + 1:
                raise UsageError(
                    f"{len(own_shape)} sizes where a {call.layer.kind} takes {found.rank + 1}: "
                    f"channels and {found.rank} spatial ones"
                )
            index = keras_layer.index_map(found, own_shape)
            arrays = self.weights.of(self.graph, call.chain)
            keras_layer.order(found, index, arrays["kernel"])
            self._check_theano(found)
            return replace(
                entry,
                error=None,
                index_map=index,
                dtype=dtype_name(arrays["kernel"]),
                loader=lambda: keras_layer.load(found, index, arrays),
                resizer=resized,
            )

        own = keras_layer.own_shape(found, call.shape)
        try:
            if own is not None and own[0] is None:
                kernel = self.weights.of(self.graph, call.chain)["kernel"]
                own = (keras_layer.channels_of(found, kernel.shape), *own[1:])
            return resized(own)
        except SizeMissing as error:
            try:
                error.hint = self._hint(call, found)
            except ConvfcError as worse:
                return replace(entry, error=worse)
            return replace(entry, error=error, resizer=resized)
        except GeometryError as error:
            told: ConvfcError = error
            if self.sized:
                told = UsageError(f"{error} (see --input-shape)")
            return replace(entry, error=told)
        except ConvfcError as error:
            return replace(entry, error=error)

    def _layout(self, found: Attributes) -> str:
        """How the model flattens the layer's tensors: channels last, also where they come first,
        for Flatten turns those round, unless the model has one that was not told of it.
        """
        return "channels-first" if self._untold and not found.channels_last else "channels-last"

    @cached_property
    def _untold(self) -> bool:
        return any(
            layer.kind == "Flatten" and layer.config.get("data_format") != "channels_first"
            for layer in _all_layers(self.graph)
        )

    def _check_theano(self, found: Attributes) -> None:
        """Theano pads `same` by half the kernel at both ends, whatever the stride."""
        even = any(k % 2 == 0 for k in found.kernel)
        if self.origin.theano and found.padding == "same" and (even or max(found.strides) > 1):
            raise Unsupported(
                "its file was written with Theano, whose padding 'same' is another than Keras's "
                "for even kernels and strides: save it with another backend"
            )

    def _foreign(self, entry: Entry, call: Call) -> Entry | None:
        """A class that is not read: listed where it is, or may hold, a convolution."""
        layer = call.layer
        convolves = CONVOLUTION.search(layer.kind)
        if not convolves and layer.own and (layer.module or layer.kind in KERNELS):
            return None  # Keras's own, and none of its convolutions
        large = self.weights.large(self.graph, call.chain)
        if not large and not convolves:
            return None
        whose = "a class that this version does not read" if layer.own else "a class of its author"
        told = f"{layer.kind} is {whose}, and what it computes is in no file"
        if large:
            shapes = ", ".join(f"{dataset.path} {dataset.shape}" for dataset in large[:3])
            told += f"; --weight takes a kernel out of it: {shapes}"
        return replace(entry, error=Unsupported(told))

    def _hint(self, call: Call, found: Attributes) -> str:
        """What --input-shape might be: of the model's input if that is open."""
        for name in self.graph.inputs:
            shape = input_shape(self.graph.by_name[name])
            if shape is not None and None in shape[1:]:
                guesses = {2: (100,), 3: (1000, 4), 4: (224, 224, 3), 5: (16, 112, 112, 3)}
                guess = guesses.get(len(shape), (1,) * (len(shape) - 1))
                sizes = [size or other for size, other in zip(shape[1:], guess, strict=True)]
                return f"{name}={','.join(map(str, (1, *sizes)))}"
        before = call.layer.calls[0][0].layer if call.layer.calls and call.layer.calls[0] else ""
        scope = "/".join(step.name for step in call.chain[:-1])
        tensor = f"{scope}/{before}".strip("/") or self.graph.inputs[0]
        kernel = self.weights.of(self.graph, call.chain)["kernel"].shape
        channels = keras_layer.channels_of(found, kernel) or 1
        spatial = (64,) * found.rank
        sizes_ = (*spatial, channels) if found.channels_last else (channels, *spatial)
        return f"{tensor}={','.join(map(str, (1, *sizes_)))}"
