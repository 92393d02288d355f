"""The walk through a Keras model: every call of a layer, with the size of every tensor.

Every tensor is known with what makes it, so that linear layers in a row are found.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from convfc_cli.errors import GeometryError, MalformedInput
from convfc_cli.models.keras import convolution
from convfc_cli.models.keras.config import (
    CONVOLUTION,
    Graph,
    Layer,
    Ref,
    Shape,
    activation,
    check_calls,
    input_shape,
    modern,
    unbatched,
)
from convfc_cli.models.keras.convolution import READ, ConvolutionConfig
from convfc_cli.models.keras.linear import LINEAR, ORDERLESS, PASSING
from convfc_cli.models.keras.shapes import SHAPES, output_shapes, without
from convfc_cli.models.producer import Producer, Reason
from convfc_cli.models.sizes import GIVEN, Account, agreed

WRAPPERS = ("TimeDistributed", "SpectralNormalization")
"""Wrappers that apply their layer as it is; the latter's kernel is stored normalized."""

KNOWN = frozenset({*SHAPES, *WRAPPERS, "InputLayer", "Functional", "Model", "Sequential"})
"""Classes of Keras's own that hold no convolution."""

Place = tuple[int, ...]
"""Where a call stands among all: the number of each layer in its model, and of the call."""


@dataclass(frozen=True)
class Source:
    """What makes a tensor."""

    producer: Producer

    place: Place | None = None
    """The call of the layer that makes it, where that is a linear one."""

    channels_last: bool = True
    batch: int = 1
    """The leading axes that do not belong to that layer: the batch, and the steps of a sequence."""


NOTHING = Source(Producer(Reason.NOTHING))


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model."""

    shape: Shape
    source: Source
    impossible: str = ""
    """Why its layer cannot make it, whatever its shape."""

    given: bool = False
    """Whether its shape is the user's."""


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
        """The shape of its input."""
        return self.input.shape

    @property
    def layer(self) -> Layer:
        """The layer that is called."""
        return self.chain[-1]

    @property
    def name(self) -> str:
        """The name of that layer."""
        return "/".join(step.name for step in self.chain)

    @property
    def convolves(self) -> bool:
        """Whether it is of one of the convolutions that are read."""
        return self.layer.is_keras and self.layer.kind in READ

    @property
    def linear(self) -> bool:
        """Whether it is of one of the linear layers that are not convolutions."""
        return self.layer.is_keras and not self.layer.operation and self.layer.kind in LINEAR


@dataclass
class Walk:
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
        model (`inputs` None), and in one that is applied once (`alone`), not of every call: there
        what they contradict is open.

        Raises `MalformedInput` where the file contradicts itself, `UsageError` where it contradicts
        a shape that is given.
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
            tensors = [self._tensor(ref, made, alone, layer.name) for ref in needed]
            if layer.name in fed:
                tensor, account = fed[layer.name], f"the {layer.kind} {layer.name!r}"
                outputs = [_stated(layer.name, tensor, input_shape(layer), account, alone)]
            elif layer.kind == "InputLayer":
                outputs = [Tensor(input_shape(layer), self._input(layer.name))]
            else:
                outputs = self.layer(layer, tensors, (*chain, layer), (*place, number, call), alone)
            made[layer.name, call] = self._settled(outputs, chain, layer, call)
            ready.extend(waiting.pop((layer.name, call), ()))
        if waiting:
            left = sorted(
                {(number, layer.name) for ls in waiting.values() for number, layer, _ in ls}
            )
            names = ", ".join(name for _, name in left[:3])
            raise MalformedInput(f"its layers wait for each other in a circle: {names}")
        return [self._tensor(ref, made, alone, "the model itself") for ref in graph.outputs]

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
        first = tensors[0] if tensors else Tensor(None, NOTHING)
        if layer.inner is not None and layer.is_keras and layer.kind in WRAPPERS:
            return self._wrapped(layer, layer.inner, first, chain, place, alone)
        call = _call(chain, place, first)
        shapes = [tensor.shape for tensor in tensors]
        hidden = layer.hidden if layer.inner is None else (layer.inner,)
        for number, inside in enumerate(hidden):
            self._hidden(inside, (*chain, inside), (*place, number))
        if hidden:
            return [Tensor(shape, _source(call)) for shape in output_shapes(layer, shapes)]
        if len(tensors) == 1 and _is_passing(layer):
            return [Tensor(shape, first.source) for shape in output_shapes(layer, shapes)]
        unknown = CONVOLUTION.search(layer.kind) or not layer.is_keras or layer.kind not in KNOWN
        if unknown or call.linear:
            self.calls.append(call)
        if call.convolves:
            return [_convolved(layer, first.shape, _source(call))]
        return [Tensor(shape, _source(call)) for shape in output_shapes(layer, shapes)]

    def _input(self, name: str) -> Source:
        return Source(Producer(Reason.INPUT, name), channels_last=self.channels_last)

    def _count(self) -> None:
        self.count += 1
        check_calls(self.count)

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
        outputs = self.layer(inner, [_folded(tensor, once, -1)], (*chain, inner), place, alone)
        steps = None if shape is None else shape[1]
        return [
            _folded(one, None if one.shape is None else (one.shape[0], steps, *one.shape[1:]), 1)
            for one in outputs
        ]

    def _hidden(self, layer: Layer, chain: tuple[Layer, ...], place: Place) -> None:
        """List what is in a layer that does something else than to apply it."""
        within = layer.hidden if layer.graph is None else layer.graph.layers
        for number, inside in enumerate(within if layer.inner is None else (layer.inner,)):
            self._hidden(inside, (*chain, inside), (*place, number))
        if layer.graph is None and layer.inner is None and CONVOLUTION.search(layer.kind):
            self.calls.append(Call(chain, place, Tensor(None, NOTHING)))

    def _is_made(self, ref: Ref, graph: Graph, made: Mapping[tuple[str, int], object]) -> bool:
        if (ref.layer, ref.call) in made:
            return True
        if ref.layer not in graph.by_name:
            raise MalformedInput(f"a layer is called on the output of {ref.layer!r}: there is none")
        return ref.call >= max(1, len(graph.by_name[ref.layer].calls))

    def _tensor(
        self,
        ref: Ref,
        made: Mapping[tuple[str, int], Sequence[Tensor]],
        alone: bool,
        reader: str,
    ) -> Tensor:
        outputs = made.get((ref.layer, ref.call), ())
        tensor = outputs[ref.output] if ref.output < len(outputs) else _unknown(ref.layer)
        return _stated(ref.layer, tensor, ref.stated, f"what {reader!r} is called on", alone)

    def _settled(
        self, outputs: list[Tensor], chain: tuple[Layer, ...], layer: Layer, call: int
    ) -> list[Tensor]:
        """A layer's outputs, with what the user says of the first."""
        name = "/".join(step.name for step in (*chain, layer))
        for tensor in (f"{name}:{call}", name):
            if tensor in self.given:
                self.met.add(tensor)
                output = outputs[0] if outputs else _unknown(name)
                if output.impossible:
                    raise GeometryError(output.impossible)
                given = Account(self.given[tensor], GIVEN, given=True)
                shape = agreed(
                    tensor, given, Account(unbatched(output.shape), str(output.source.producer))
                )
                return [replace(output, shape=unbatched(shape), given=True), *outputs[1:]]
        return outputs


def _stated(name: str, tensor: Tensor, stated: Shape, source: str, alone: bool) -> Tensor:
    """A tensor of which a file states this shape; its batch is whatever it is fed with.

    Raises `MalformedInput`, or `UsageError` for a shape that is given, where a model that is
    applied once (`alone`) has it otherwise.
    """
    if not alone:
        return replace(tensor, shape=without(tensor.shape, stated))
    known_source = GIVEN if tensor.given else str(tensor.source.producer)
    account = Account(tensor.shape, known_source, given=tensor.given)
    return replace(tensor, shape=agreed(name, account, Account(unbatched(stated), source)))


def _unknown(name: str) -> Tensor:
    return Tensor(None, Source(Producer(Reason.UNKNOWN, node=name)))


def _folded(tensor: Tensor, shape: Shape, batch: int) -> Tensor:
    """The tensor in this shape, with so many more batch axes."""
    return Tensor(shape, replace(tensor.source, batch=tensor.source.batch + batch))


def _is_passing(layer: Layer) -> bool:
    """Whether a layer's output is its input, once the model is trained."""
    if not layer.is_keras or layer.operation or "training" in layer.flags:
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
    producer = Producer(Reason.OPERATOR, op=layer.kind, node=call.name)
    if not (call.convolves or call.linear):
        return Source(producer, channels_last=last)
    if function := activation(layer):
        producer = replace(producer, reason=Reason.ACTIVATION, function=function)
        return Source(producer, channels_last=last)
    return Source(producer, call.place, last, batch_axes(call))


def batch_axes(call: Call) -> int:
    """The leading axes of its input that a layer takes for its batch."""
    if call.shape is None or call.layer.kind not in READ:
        return 1
    return max(1, len(call.shape) - READ[call.layer.kind] - 1)


def _convolved(layer: Layer, shape: Shape, source: Source) -> Tensor:
    """A convolution's output, sizes that are open left open."""
    try:
        return Tensor(after(convolution.attributes(layer, keras1=False), shape), source)
    except GeometryError as error:
        return Tensor(None, source, f"{layer.kind} {layer.name}: {error}")
    except MalformedInput:
        return Tensor(None, source)


def after(config: ConvolutionConfig, shape: Shape) -> Shape:
    """The shape of what a convolution with these attributes makes of a tensor.

    Raises `GeometryError` where that has no elements.
    """
    inner = convolution.own_shape(config, shape)
    if inner is None or shape is None:
        return None
    channels = config.filters
    if channels is None:
        channels = None if inner[0] is None else inner[0] * config.multiplier
    sizes = []
    for axis, size in enumerate(inner[1:]):
        single = replace(
            config,
            rank=1,
            kernel=config.kernel[axis : axis + 1],
            strides=config.strides[axis : axis + 1],
            dilations=config.dilations[axis : axis + 1],
            output_padding=config.output_padding[axis : axis + 1],
            filters=1,
            groups=1,
        )
        index = None if size is None else convolution.index_map(single, (1, size))
        sizes.append(None if index is None else index.output_shape[1])
    batch = shape[: len(shape) - len(inner)]
    return (*batch, *sizes, channels) if config.channels_last else (*batch, channels, *sizes)
