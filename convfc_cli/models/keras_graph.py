"""The layers of a Keras model: the walk through its graph, with the size of every tensor.

Each call of a convolution is one entry: a layer that is applied twice, or is in a model that is
applied twice, has a matrix for each. Layers are named as Keras has them, with the models and
wrappers that they are in: `encoder/conv_1`; the calls of a shared one are `conv:0` and `conv:1`.
A separable convolution is two: `conv/depthwise`, then `conv/pointwise`, whose output is `conv`.

Every tensor is known with what makes it, so that linear layers in a row can be told.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from convfc_cli.errors import (
    ConvfcError,
    GeometryError,
    MalformedInput,
    Refused,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.models import keras_layer, keras_linear, keras_local
from convfc_cli.models.hdf5_numbers import dtype_name
from convfc_cli.models.keras_config import (
    CONVOLUTION,
    Graph,
    Layer,
    Ref,
    Shape,
    activation,
    input_shape,
    modern,
)
from convfc_cli.models.keras_layer import LOCAL, OTHERS, READ, SEPARABLE, Attributes, Built
from convfc_cli.models.keras_linear import LINEAR, ORDERLESS, PASSING
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


Place = tuple[int, ...]
"""Where a call stands among all: the number of each layer in its model, and of the call."""


@dataclass(frozen=True)
class Source:
    """What makes a tensor."""

    told: str
    """What to call it."""

    place: Place | None = None
    """The call of the layer that makes it, where that is a linear one."""

    channels_last: bool = True
    batch: int = 1
    """The leading axes that are none of that layer's: the batch, and the steps of a sequence."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model."""

    shape: Shape
    source: Source


@dataclass(frozen=True)
class Call:
    """One application of a layer: what it is in, outermost first, and its input."""

    chain: tuple[Layer, ...]
    place: Place
    input: Tensor
    channels_last: bool = True
    """Whether it takes the channels of its input to be the last axis."""

    @property
    def shape(self) -> Shape:
        return self.input.shape

    @property
    def layer(self) -> Layer:
        return self.chain[-1]

    @property
    def name(self) -> str:
        return "/".join(step.name for step in self.chain)

    @property
    def convolves(self) -> bool:
        """Whether it is of one of the convolutions that are read."""
        return self.layer.own and self.layer.kind in READ

    @property
    def linear(self) -> bool:
        """Whether it is of one of the linear layers that are no convolutions."""
        return self.layer.own and not self.layer.operation and self.layer.kind in LINEAR


@dataclass
class _Walk:
    """One pass over a model: the shapes that are given, and the calls found so far.

    `channels_last` is the order of inputs, which say nothing of it themselves.
    """

    given: Mapping[str, Sequence[int]]
    channels_last: bool
    met: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    count: int = 0

    def graph(
        self,
        graph: Graph,
        inputs: Sequence[Tensor] | None,
        chain: tuple[Layer, ...],
        place: Place,
        *,
        alone: bool = True,
    ) -> list[Tensor]:
        """A model's outputs, given its inputs; its calls are collected.

        Shapes that the file states are those of the model's making. They hold of the outermost
        model (`inputs` None), and in one that is applied once (`alone`), not of every call.
        """
        made: dict[tuple[str, int], list[Tensor]] = {}
        fed: dict[str, Tensor] = {}
        if inputs is not None:
            unknown = [Tensor(None, self._input(name)) for name in graph.inputs]
            known = inputs if len(inputs) == len(graph.inputs) else unknown
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
            tensors = [self._tensor(ref, made, alone) for ref in needed]
            if layer.name in fed:
                own, stated = fed[layer.name], input_shape(layer)
                open_ = own.shape is None and alone
                found = [replace(own, shape=stated if open_ else agreed(own.shape, stated))]
            elif layer.kind == "InputLayer":
                found = [Tensor(input_shape(layer), self._input(layer.name))]
            else:
                found = self.layer(layer, tensors, (*chain, layer), (*place, number, call), alone)
            made[layer.name, call] = self._settled(found, chain, layer, call)
            ready.extend(waiting.pop((layer.name, call), ()))
        if waiting:
            left = sorted(
                {(number, layer.name) for ls in waiting.values() for number, layer, _ in ls}
            )
            names = ", ".join(name for _, name in left[:3])
            raise MalformedInput(f"its layers wait for each other in a circle: {names}")
        return [self._tensor(ref, made, alone) for ref in graph.outputs]

    def layer(
        self,
        layer: Layer,
        tensors: list[Tensor],
        chain: tuple[Layer, ...],
        place: Place,
        alone: bool,
    ) -> list[Tensor]:
        """What a layer makes of these."""
        if layer.graph is not None:
            once = alone and len(layer.calls) <= 1
            return self.graph(layer.graph, tensors, chain, place, alone=once)
        first = tensors[0] if tensors else Tensor(None, Source("nothing"))
        if layer.inner is not None and layer.own and layer.kind in WRAPPERS:
            return self._wrapped(layer, layer.inner, first, chain, place, alone)
        call = _call(chain, place, first)
        shapes = [tensor.shape for tensor in tensors]
        hidden = layer.hidden if layer.inner is None else (layer.inner,)
        for number, inside in enumerate(hidden):
            self._hidden(inside, (*chain, inside), (*place, number))
        if hidden:
            return [Tensor(output_shape(layer, shapes), _source(call))]
        if len(tensors) == 1 and _is_passing(layer):
            return [Tensor(output_shape(layer, shapes), first.source)]
        unknown = CONVOLUTION.search(layer.kind) or not layer.own or layer.kind not in KNOWN
        if unknown or call.linear:
            self.calls.append(call)
        shape = _convolved(layer, first.shape) if call.convolves else output_shape(layer, shapes)
        return [Tensor(shape, _source(call))]

    def _input(self, name: str) -> Source:
        return Source(f"the input {name!r}", channels_last=self.channels_last)

    def _count(self) -> None:
        self.count += 1
        if self.count > MOST_CALLS:
            raise Refused(f"it applies layers more than {MOST_CALLS} times")

    def _wrapped(
        self,
        layer: Layer,
        inner: Layer,
        tensor: Tensor,
        chain: tuple[Layer, ...],
        place: Place,
        alone: bool,
    ) -> list[Tensor]:
        if layer.kind != "TimeDistributed":
            return self.layer(inner, [tensor], (*chain, inner), place, alone)
        shape = tensor.shape
        once = None if shape is None or len(shape) < 2 else (shape[0], *shape[2:])
        found = self.layer(inner, [_folded(tensor, once, -1)], (*chain, inner), place, alone)
        steps = None if shape is None else shape[1]
        return [
            _folded(one, None if one.shape is None else (one.shape[0], steps, *one.shape[1:]), 1)
            for one in found
        ]

    def _hidden(self, layer: Layer, chain: tuple[Layer, ...], place: Place) -> None:
        """List what is in a layer that does something else than to apply it."""
        within = layer.hidden if layer.graph is None else layer.graph.layers
        for number, inside in enumerate(within if layer.inner is None else (layer.inner,)):
            self._hidden(inside, (*chain, inside), (*place, number))
        if layer.graph is None and layer.inner is None and CONVOLUTION.search(layer.kind):
            self.calls.append(Call(chain, place, Tensor(None, Source("nothing that is told"))))

    def _is_made(self, ref: Ref, graph: Graph, made: Mapping[tuple[str, int], object]) -> bool:
        if (ref.layer, ref.call) in made:
            return True
        if ref.layer not in graph.by_name:
            raise MalformedInput(f"a layer is called on the output of {ref.layer!r}: there is none")
        return ref.call >= max(1, len(graph.by_name[ref.layer].calls))

    def _tensor(
        self, ref: Ref, made: Mapping[tuple[str, int], Sequence[Tensor]], alone: bool
    ) -> Tensor:
        found = made.get((ref.layer, ref.call), ())
        own = found[ref.output] if ref.output < len(found) else _unknown(ref.layer)
        shape = (merged if alone else agreed)(own.shape, ref.stated)
        return replace(own, shape=shape)

    def _settled(
        self, found: list[Tensor], chain: tuple[Layer, ...], layer: Layer, call: int
    ) -> list[Tensor]:
        """A layer's outputs, with what the user says of the first."""
        name = "/".join(step.name for step in (*chain, layer))
        for given in (f"{name}:{call}", name):
            if given in self.given:
                self.met.add(given)
                own = found[0] if found else _unknown(name)
                return [replace(own, shape=_agreed(given, tuple(self.given[given]), own.shape))]
        return found


def _unknown(name: str) -> Tensor:
    return Tensor(None, Source(f"an output of {name!r} of which nothing is known"))


def _folded(tensor: Tensor, shape: Shape, batch: int) -> Tensor:
    """The tensor in this shape, with so many more batch axes."""
    return Tensor(shape, replace(tensor.source, batch=tensor.source.batch + batch))


def _is_passing(layer: Layer) -> bool:
    """Whether a layer's output is its input, once the model is trained."""
    if not layer.own or layer.operation or layer.training:
        return False
    return activation(layer) is None if layer.kind == "Activation" else layer.kind in PASSING


def _call(chain: tuple[Layer, ...], place: Place, tensor: Tensor) -> Call:
    """A call, and in which order the layer takes its input: its own, or that of what makes it."""
    layer, call = chain[-1], Call(chain, place, tensor, tensor.source.channels_last)
    if not (call.convolves or call.linear) or layer.kind in ORDERLESS:
        return call
    first = modern(layer.config, layer.kind).get("data_format") == "channels_first"
    return replace(call, channels_last=not first)


def _source(call: Call) -> Source:
    layer, last = call.layer, call.channels_last
    told = f"{layer.kind} {call.name!r}"
    if not (call.convolves or call.linear):
        return Source(told, channels_last=last)
    if found := activation(layer):
        return Source(f"the activation {found!r} of {told}", channels_last=last)
    return Source(told, call.place, last, _batch(call))


def _batch(call: Call) -> int:
    """The leading axes of its input that a layer takes for its batch."""
    if call.shape is None or call.layer.kind not in READ:
        return 1
    return max(1, len(call.shape) - READ[call.layer.kind] - 1)


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


def _convolved(layer: Layer, shape: Shape) -> Shape:
    """The shape of a convolution's output, sizes that are open left open."""
    try:
        found = keras_layer.attributes(layer, keras1=False)
    except MalformedInput:
        return None
    return _after(found, shape)


def _after(found: Attributes, shape: Shape) -> Shape:
    """The shape of what a convolution with these attributes makes of a tensor."""
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


Entries = tuple[Entry, ...]


def list_layers(
    model: Layer, name: str, weights: Weights, origin: Origin, shapes: Shapes
) -> tuple[Entries, Callable[[], Entries]]:
    """All convolutions of a model, in the order of its configuration, and what lists its other
    linear layers.
    """
    assert model.graph is not None
    given = _named(model.graph, name, shapes)
    walk = _Walk(given, _is_channels_last(model.graph))
    try:
        walk.graph(model.graph, None, (), ())
    except GeometryError as error:
        raise (UsageError(f"{error} (see --input-shape)") if shapes else error) from error
    if missed := sorted(given.keys() - walk.met):
        inputs = ", ".join(model.graph.inputs)
        raise UsageError(f"{name} has no tensor {missed[0]!r} (its inputs: {inputs})")
    calls = sorted(walk.calls, key=lambda call: call.place)
    names = dict(zip((call.place for call in calls), _numbered(calls), strict=True))
    make = _Entries(model.graph, weights, origin, bool(shapes), names)
    entries: list[Entry] = []
    for call in calls:
        if not call.linear:
            entries += make.convolutions(len(entries), call)
    linear = [call for call in calls if call.linear]
    count = len(entries)
    return tuple(entries), lambda: tuple(
        make.linear(number, call) for number, call in enumerate(linear, count)
    )


def _is_channels_last(graph: Graph) -> bool:
    """Whether some layer of a model takes its input channels last, or none channels first."""
    found = [
        modern(layer.config, layer.kind).get("data_format")
        for layer in _all_layers(graph)
        if layer.kind != "Flatten"
    ]
    return "channels_first" not in found or "channels_last" in found


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
    names: Mapping[Place, str]
    """What each call is called."""

    def convolutions(self, position: int, call: Call) -> list[Entry]:
        """The entries of a call, two of a separable convolution; none for a layer of another class
        that holds no kernel.
        """
        layer = call.layer
        entry = self._entry(position, call)
        if not layer.own or (layer.kind not in READ and layer.kind not in OTHERS):
            foreign = self._foreign(entry, call)
            return [] if foreign is None else [foreign]
        try:
            self._check_read(call)
            found = keras_layer.attributes(layer, keras1=self.origin.keras1)
        except ConvfcError as error:
            return [replace(entry, error=error)]
        entry = replace(
            entry, layout=self._layout(found.channels_last), channels_last=found.channels_last
        )
        if layer.kind not in SEPARABLE:
            return [self._convolution(entry, call, found, call.shape)]
        depthwise, pointwise = keras_layer.separated(found)
        name = f"{entry.name}/depthwise"
        after = replace(
            entry, position=position + 1, name=f"{entry.name}/pointwise", reads=name, behind=""
        )
        return [
            self._convolution(
                replace(entry, name=name, output=name, noted=dict), call, depthwise, call.shape
            ),
            self._convolution(
                after, call, pointwise, _after(depthwise, call.shape), "pointwise", depthwise
            ),
        ]

    def linear(self, position: int, call: Call) -> Entry:
        """The entry of a call of a linear layer that is no convolution."""
        entry = replace(
            self._entry(position, call),
            channels_last=call.channels_last,
            layout=self._layout(call.channels_last),
        )

        def make(shape: Shape) -> Built:
            arrays = partial(self.weights.of, self.graph, call.chain)
            own = keras_layer.settled(shape)
            return keras_linear.build(call.layer, own, call.channels_last, arrays)

        shape = None if call.shape is None else call.shape[1:]
        guess = [size or 64 for size in shape or ()]
        own = keras_linear.own_shape(shape, call.channels_last)
        return self._sized(entry, make, own, lambda: self._hint(call, guess))

    def _entry(self, position: int, call: Call) -> Entry:
        name, source = self.names[call.place], call.input.source
        reads, behind = "", source.told
        if source.place is not None:
            if (source.channels_last, source.batch) == (call.channels_last, _batch(call)):
                reads, behind = self.names[source.place], ""
            else:
                behind = f"{source.told}, whose axes are taken in another order"
        found = activation(call.layer)
        noted: dict[str, Any] = {"activation": found} if found else {}
        return Entry(
            position,
            name,
            name,
            call.layer.kind,
            reads=reads,
            behind=behind,
            noted=lambda: noted,
        )

    def _check_read(self, call: Call) -> None:
        """Raise unless a convolution is one that is read, and applied as it is."""
        if call.layer.kind in OTHERS:
            raise Unsupported(OTHERS[call.layer.kind])
        for step in call.chain[:-1]:
            if step.graph is None and step.kind not in WRAPPERS:
                raise Unsupported(f"it is in a {step.kind}, which may change what it computes")

    def _convolution(
        self,
        entry: Entry,
        call: Call,
        found: Attributes,
        shape: Shape,
        role: str = "kernel",
        first: Attributes | None = None,
    ) -> Entry:
        """The entry of one convolution on a tensor of this shape, whose kernel has this role; of
        several the `first` is what takes the layer's input.
        """
        layer = call.layer
        if layer.kind not in LOCAL:
            flipped = None if found.filters is None and self.origin.theano else self.origin.theano
            entry = replace(entry, flipped=flipped)

        def make(own: Shape) -> Built:
            if own is not None and len(own) != found.rank + 1:
                raise UsageError(
                    f"{len(own)} sizes where a {layer.kind} takes {found.rank + 1}: "
                    f"channels and {found.rank} spatial ones"
                )
            if layer.kind in LOCAL:
                arrays = partial(self.weights.of, self.graph, call.chain)
                return keras_local.build(layer, found, keras_layer.settled(own), arrays)
            if own is not None and own[0] is None:
                kernel = self.weights.of(self.graph, call.chain)[role]
                own = (keras_layer.channels_of(found, kernel.shape), *own[1:])
            index = keras_layer.index_map(found, own)
            held = {**self.weights.of(self.graph, call.chain)}
            held["kernel"] = held[role]
            keras_layer.order(found, index, held["kernel"])
            self._check_theano(found)
            dtype = dtype_name(held["kernel"])
            return Built(index, lambda: keras_layer.load(found, index, held), dtype)

        def hint() -> str:
            kernel = self.weights.of(self.graph, call.chain)["kernel"].shape
            channels = keras_layer.channels_of(first or found, kernel) or 1
            sizes = (64,) * found.rank
            return self._hint(
                call, (*sizes, channels) if found.channels_last else (channels, *sizes)
            )

        return self._sized(entry, make, keras_layer.own_shape(found, shape), hint)

    def _sized(
        self, entry: Entry, make: Callable[[Shape], Built], own: Shape, hint: Callable[[], str]
    ) -> Entry:
        """The entry of what `make` makes of an input of this (channels, *spatial)."""

        def resized(own_shape: Shape) -> Entry:
            built = make(own_shape)
            return replace(
                entry,
                error=None,
                outline=built.outline,
                dtype=built.dtype,
                loader=built.load,
                resizer=resized,
            )

        try:
            return resized(own)
        except SizeMissing as error:
            try:
                error.hint = hint()
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

    def _layout(self, channels_last: bool) -> str:
        """How the model flattens the layer's tensors: channels last, also where they come first,
        for Flatten turns those round, unless the model has one that was not told of it.
        """
        return "channels-first" if self._untold and not channels_last else "channels-last"

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

    def _hint(self, call: Call, guess: Sequence[int]) -> str:
        """What --input-shape might be: of the model's input if that is open, else what the layer
        reads, of the size that is guessed.
        """
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
        return f"{tensor}={','.join(map(str, (1, *guess)))}"
