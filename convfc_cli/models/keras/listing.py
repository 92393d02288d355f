"""The layers of a Keras model: the calls of its graph as entries.

Each call of a convolution is one entry: a layer that is applied twice, or is in a model that is
applied twice, has a matrix for each. Layers are named as Keras has them, with the models and
wrappers that they are in: `encoder/conv_1`; the calls of a shared one are `conv:0` and `conv:1`.
A separable convolution is two: `conv/depthwise`, then `conv/pointwise`, whose output is `conv`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from convfc_cli.errors import (
    ConvfcError,
    GeometryError,
    MalformedInput,
    SizeMissing,
    Unsupported,
    UsageError,
)
from convfc_cli.hdf5.floats import dtype_name
from convfc_cli.hdf5.tree import Dataset
from convfc_cli.models.entry import Draft, Entry, LayerSource, ResolvedLayer, resolve
from convfc_cli.models.keras import convolution, linear, locally_connected
from convfc_cli.models.keras.config import (
    CONVOLUTION,
    Graph,
    Layer,
    Shape,
    activation,
    modern,
)
from convfc_cli.models.keras.convolution import LOCAL, OTHERS, READ, SEPARABLE, ConvolutionConfig
from convfc_cli.models.keras.hints import Hints
from convfc_cli.models.keras.shapes import ATTENTIONS
from convfc_cli.models.keras.walk import WRAPPERS, Call, Place, Walk, after, batch_axes
from convfc_cli.models.keras.weights import Remembered, Weights
from convfc_cli.models.model import Listing
from convfc_cli.models.producer import Producer, Reason
from convfc_cli.models.request import Shapes
from convfc_cli.models.sizes import GIVEN, Account, agreed

KERNELS = ("EinsumDense", *ATTENTIONS)
"""Classes of Keras's own whose kernels have the rank of a convolution's."""


@dataclass(frozen=True)
class Writer:
    """What wrote a file's kernels, as far as Keras itself looks at that when it loads them."""

    keras1: bool = False
    theano: bool | None = False
    """Whether its backend was Theano, which flips kernels; None where the file does not say."""


FITS = "--layout channels-last fits the Dense layer behind it"


def list_layers(
    model: Layer, name: str, weights: Weights, writer: Writer, shapes: Shapes
) -> Listing:
    """All convolutions of a model, in the order of its configuration, and what lists its other
    linear layers.

    Raises `MalformedInput` where the file contradicts itself, `UsageError` where it contradicts
    `shapes`, or where a shape settles nothing.
    """
    assert model.graph is not None
    reading = _Reading(model.graph, Remembered(weights), writer)
    given = _named(model.graph, name, shapes)
    plain = reading.walk({})  # raises what is the file's own fault
    if not given:
        return reading.listed(plain)
    return reading.sized(plain, given, name)


@dataclass(frozen=True)
class _Reading:
    """One model that is listed with several sizes."""

    graph: Graph
    weights: Weights
    writer: Writer

    def walk(self, given: Mapping[str, Sequence[int]]) -> Walk:
        """The calls of the model with these shapes. Raises `MalformedInput`, `UsageError`."""
        walk = Walk(given, _is_channels_last(self.graph))
        walk.graph(self.graph, None, (), ())
        walk.calls.sort(key=lambda call: call.place)
        return walk

    def listed(self, walk: Walk) -> Listing:
        """The entries of its calls, as `list_layers` returns them."""
        hints = Hints(self.graph, len(walk.calls), partial(self._fits, walk))
        make = self._entries(walk, hints.hint)
        entries: list[Entry] = []
        for call in walk.calls:
            if not call.linear:
                entries += make.convolutions(len(entries), call)
        linear = [call for call in walk.calls if call.linear]
        count = len(entries)

        def others() -> tuple[Entry, ...]:
            return tuple(make.linear(number, call) for number, call in enumerate(linear, count))

        return Listing(tuple(entries), others, self.graph)

    def _entries(self, walk: Walk, hint: Callable[[Call, Sequence[int]], str]) -> "_Entries":
        places = (call.place for call in walk.calls)
        names = dict(zip(places, _numbered(walk.calls), strict=True))
        return _Entries(self.graph, self.weights, self.writer, hint, names)

    def sized(self, plain: Walk, given: Mapping[str, Sequence[int]], name: str) -> Listing:
        """The layers with shapes that the user gives, each held against all that the file says."""
        try:
            walk = self.walk(given)
        except MalformedInput as error:
            raise UsageError(f"{error} (with {GIVEN})") from error
        inputs = self.graph.inputs
        if missed := sorted(given.keys() - walk.met):
            raise UsageError(
                f"{name} has no tensor {missed[0]!r} (its inputs: {', '.join(inputs)})"
            )
        for tensor in sorted(given.keys() - set(inputs)):
            rest = self.walk({other: given[other] for other in given if other != tensor})
            if [call.shape for call in rest.calls] == [call.shape for call in walk.calls]:
                shape = ",".join(map(str, given[tensor]))
                raise UsageError(
                    f"{GIVEN} {tensor}={shape} settles no layer's size: either they follow "
                    f"from the rest, or no layer reads it; leave it out"
                )
            _hold_to_making(rest, walk)
        self._hold_to_weights(plain, walk)
        return self.listed(walk)

    def _hold_to_weights(self, plain: Walk, walk: Walk) -> None:
        """Raise where a size that is given makes a layer impossible, by its weights for one."""
        make = self._entries(walk, lambda call, guess: "")
        for before, call in zip(plain.calls, walk.calls, strict=True):
            if before.shape == call.shape:
                continue
            for number, entry in enumerate(make.of(call)):
                if not isinstance(entry.error, GeometryError):
                    continue
                if not isinstance(make.of(before)[number].error, GeometryError):
                    raise UsageError(
                        f"layer {entry.name} ({entry.op}): {entry.error} (with {GIVEN})"
                    )

    def _fits(self, plain: Walk, given: Mapping[str, Sequence[int]]) -> bool:
        """Whether nothing in the file contradicts these shapes."""
        try:
            walk = self.walk(given)
            if not given.keys() <= set(self.graph.inputs):
                _hold_to_making(plain, walk)
            self._hold_to_weights(plain, walk)
        except (MalformedInput, UsageError):
            return False
        return True


def _hold_to_making(rest: Walk, walk: Walk) -> None:
    """Raise where the shape given for an inner tensor contradicts the size for which a layer was
    made.

    Nothing else is held to that: a layer may be made for one size and applied to another, and Keras
    keeps the first (`build_config`).
    """
    for before, call in zip(rest.calls, walk.calls, strict=True):
        layer, shape = call.layer, call.shape
        if shape is None or layer.built is None or len(layer.calls) > 1 or shape == before.shape:
            continue
        if len(shape) != len(layer.built):  # of a layer that is wrapped: with axes of its own
            continue
        given = Account(shape, GIVEN, given=True)
        made = Account((None, *layer.built[1:]), f"the build_config of {call.name!r}")
        agreed(f"input of {call.name}", given, made)


def _is_channels_last(graph: Graph) -> bool:
    """Whether some layer of a model takes its input channels last, or none channels first."""
    formats = [
        modern(layer.config, layer.kind).get("data_format")
        for layer in _all_layers(graph)
        if layer.kind != "Flatten"
    ]
    return "channels_first" not in formats or "channels_last" in formats


def _layout(channels_last: bool) -> str:
    """The order of the model's own tensors in memory."""
    return "channels-last" if channels_last else "channels-first"


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
                raise UsageError(f"{GIVEN} needs a name: {name} has the inputs {inputs}")
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
    writer: Writer
    hint: Callable[[Call, Sequence[int]], str]
    """What to say for the size of a call, and a guess of what it reads."""

    names: Mapping[Place, str]
    """What each call is called."""

    def of(self, call: Call) -> list[Entry]:
        """The entries of a call, whatever it is of."""
        return [self.linear(0, call)] if call.linear else self.convolutions(0, call)

    def convolutions(self, position: int, call: Call) -> list[Entry]:
        """The entries of a call, two of a separable convolution; none for a layer of another class
        that holds no kernel.
        """
        layer, name = call.layer, self.names[call.place]
        draft = self._draft(position, call)
        if not layer.is_keras or (layer.kind not in READ and layer.kind not in OTHERS):
            reason = self._foreign(call)
            return [] if reason is None else [draft(error=reason)]
        try:
            self._check_read(call)
            config = convolution.attributes(layer, keras1=self.writer.keras1)
        except ConvfcError as error:
            return [draft(error=error)]
        draft = partial(
            draft,
            layout=_layout(config.channels_last),
            channels_last=config.channels_last,
        )
        if layer.kind not in SEPARABLE:
            draft = partial(draft, flipped=self._flipped(layer, config))
            return [resolve(draft, ConvolutionCall(self, call, config, call.shape))]
        depthwise, pointwise = convolution.separated(config)
        between, output = after(depthwise, call.shape), f"{name}/depthwise"
        first = partial(
            draft,
            name=output,
            output=output,
            flipped=self._flipped(layer, depthwise),
            remarks={},
        )
        second = partial(
            draft,
            position=position + 1,
            name=f"{name}/pointwise",
            flipped=self._flipped(layer, pointwise),
            reads=output,
            producer=None,
        )
        return [
            resolve(first, ConvolutionCall(self, call, depthwise, call.shape)),
            resolve(
                second, ConvolutionCall(self, call, pointwise, between, "pointwise", depthwise)
            ),
        ]

    def linear(self, position: int, call: Call) -> Entry:
        """The entry of a call of a linear layer other than a convolution."""
        draft = partial(
            self._draft(position, call),
            channels_last=call.channels_last,
            layout=_layout(call.channels_last),
        )
        return resolve(draft, LinearCall(self, call))

    def _draft(self, position: int, call: Call) -> Draft:
        name, source = self.names[call.place], call.input.source
        reads = ""
        producer: Producer | None = source.producer
        if source.place is not None:
            if (source.channels_last, source.batch) == (call.channels_last, batch_axes(call)):
                reads, producer = self.names[source.place], None
            else:
                producer = replace(source.producer, reason=Reason.AXES)
        function = activation(call.layer)
        remarks: dict[str, Any] = {"activation": function} if function else {}
        remarks |= {} if call.channels_last else self._turned
        return partial(
            Entry,
            position=position,
            name=name,
            output=name,
            op=call.layer.kind,
            reads=reads,
            producer=producer,
            remarks=remarks,
        )

    def arrays(self, call: Call) -> Mapping[str, Dataset]:
        """The weights of the layer that is called."""
        return self.weights.of(self.graph, call.chain)

    def _flipped(self, layer: Layer, config: ConvolutionConfig) -> bool | None:
        if layer.kind in LOCAL:
            return False
        return None if config.filters is None and self.writer.theano else self.writer.theano

    def _check_read(self, call: Call) -> None:
        """Raise unless a convolution is one that is read, and applied as it is."""
        if call.layer.kind in OTHERS:
            raise Unsupported(OTHERS[call.layer.kind])
        for step in call.chain[:-1]:
            if step.graph is None and step.kind not in WRAPPERS:
                raise Unsupported(f"it is in a {step.kind}, which may change what it computes")

    @cached_property
    def _turned(self) -> dict[str, Any]:
        """A note for layers that have their channels first, where a Flatten turns them last."""
        names = [
            layer.name
            for layer in _all_layers(self.graph)
            if layer.kind == "Flatten" and layer.config.get("data_format") == "channels_first"
        ]
        return {"flatten": f"{names[0]!r} takes channels last: {FITS}"} if names else {}

    def _foreign(self, call: Call) -> Unsupported | None:
        """Why a class is not read, which is listed where it is, or may hold, a convolution."""
        layer = call.layer
        convolves = CONVOLUTION.search(layer.kind)
        if not convolves and layer.is_keras and (layer.module or layer.kind in KERNELS):
            return None  # Keras's own, and none of its convolutions
        large = self.weights.large(self.graph, call.chain)
        if not large and not convolves:
            return None
        whose = (
            "a class that this version does not read" if layer.is_keras else "a class of its author"
        )
        description = f"{layer.kind} is {whose}, and what it computes is in no file"
        if large:
            shapes = ", ".join(f"{dataset.path} {dataset.shape}" for dataset in large[:3])
            description += f"; described as weights alone, a kernel is taken out of it: {shapes}"
        return Unsupported(description)


@dataclass(frozen=True, slots=True)
class LinearCall(LayerSource):
    """A call of a linear layer other than a convolution."""

    entries: _Entries
    call: Call

    @property
    def known(self) -> Shape:
        shape = self.call.shape
        return linear.own_shape(None if shape is None else shape[1:], self.call.channels_last)

    def listed(self) -> ResolvedLayer:
        return self._on(self.known)

    def at(self, input_shape: tuple[int, ...]) -> ResolvedLayer:
        return self._on(input_shape)

    def asking(self, error: SizeMissing) -> SizeMissing:
        guess = [size or 64 for size in (self.call.shape or ())[1:]]
        error.hint = self.entries.hint(self.call, guess)
        return error

    def _on(self, shape: Shape) -> ResolvedLayer:
        arrays = partial(self.entries.arrays, self.call)
        sizes = convolution.require_sizes(shape)
        return linear.build(self.call.layer, sizes, self.call.channels_last, arrays)


@dataclass(frozen=True, slots=True)
class ConvolutionCall(LayerSource):
    """A convolution that a call makes of a tensor of this shape, whose kernel has this role."""

    entries: _Entries
    call: Call
    attributes: ConvolutionConfig
    shape: Shape
    role: str = "kernel"
    first: ConvolutionConfig | None = None
    """Of several convolutions that which takes the layer's input."""

    @property
    def known(self) -> Shape:
        return convolution.own_shape(self.attributes, self.shape)

    def listed(self) -> ResolvedLayer:
        return self._on(self.known)

    def at(self, input_shape: tuple[int, ...]) -> ResolvedLayer:
        return self._on(input_shape)

    def asking(self, error: SizeMissing) -> SizeMissing:
        config = self.attributes
        kernel = self.entries.arrays(self.call)["kernel"].shape
        channels = convolution.channels_of(self.first or config, kernel) or 1
        sizes = (64,) * config.rank
        guess = (*sizes, channels) if config.channels_last else (channels, *sizes)
        error.hint = self.entries.hint(self.call, guess)
        return error

    def _on(self, sizes: Shape) -> ResolvedLayer:
        layer, config = self.call.layer, self.attributes
        if sizes is not None and len(sizes) != config.rank + 1:
            raise UsageError(
                f"{len(sizes)} sizes where a {layer.kind} takes {config.rank + 1}: "
                f"channels and {config.rank} spatial ones"
            )
        arrays = partial(self.entries.arrays, self.call)
        if layer.kind in LOCAL:
            return locally_connected.build(layer, config, convolution.require_sizes(sizes), arrays)
        if sizes is not None and sizes[0] is None:
            sizes = (convolution.channels_of(config, arrays()[self.role].shape), *sizes[1:])
        index = convolution.index_map(config, sizes)
        held = {**arrays()}
        held["kernel"] = held[self.role]
        convolution.order(config, index, held["kernel"])
        if self.entries.writer.theano:
            _check_theano(config)
        load = partial(convolution.load, config, index, held)
        return ResolvedLayer(index, load, dtype_name(held["kernel"]))


def _check_theano(config: ConvolutionConfig) -> None:
    """Theano pads `same` by half the kernel at both ends, whatever the stride."""
    even = any(k % 2 == 0 for k in config.kernel)
    if config.padding == "same" and (even or max(config.strides) > 1):
        raise Unsupported(
            "its file was written with Theano, whose padding 'same' is another than Keras's "
            "for even kernels and strides: save it with another backend"
        )
