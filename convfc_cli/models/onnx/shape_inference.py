"""The types and sizes of an ONNX model's tensors, found in one pass over its nodes.

ONNX's own shape inference is given one node at a time: the types of its inputs as far as they are
known by then, and the values of those that are small constants. What then becomes constant, a shape
that the network computes, is evaluated at once, so that a pass takes time in proportion to the
nodes. All that the model declares, that is inferred, and that the user gave is held together at
each tensor.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import prod

import onnx

from convfc_cli.errors import ConvfcError, MalformedInput, UsageError
from convfc_cli.models.onnx.constants import folded, value
from convfc_cli.models.onnx.operators import READERS
from convfc_cli.models.onnx.qonnx import OPERATORS as QUANTIZERS
from convfc_cli.models.onnx.scope import STANDARD, Facts, Inner, Scope, inner_by_node, operator
from convfc_cli.models.onnx.stored import NOWHERE, decoded
from convfc_cli.models.sizes import GIVEN, Account, Sizes, agreed, complete, shown

FEW = 128
"""Elements of a constant that inference may want to read: a shape, an axis, a pad."""

MAX_REMEMBERED = 4096
"""Nodes whose outputs are kept for an equal node."""

INFERRED, STORED = "shape inference", "its stored value"

DECLARED = ("its declaration as an input", "its value_info", "its declaration as an output")

REALS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}

_NAMES = {kind: name.lower() for name, kind in onnx.TensorProto.DataType.items()}

READ_REALS = ("Range", "Resize", "Upsample")
"""Operators whose sizes depend on real numbers; others are given the whole ones alone."""

_STAND_INS = {
    ("com.microsoft", "QLinearAdd"): ("Add", slice(0, 4, 3)),
    ("com.microsoft", "QLinearMul"): ("Mul", slice(0, 4, 3)),
    ("com.microsoft", "QLinearConcat"): ("Concat", slice(2, None, 3)),
    ("com.microsoft", "QLinearAveragePool"): ("AveragePool", slice(1)),
    ("com.microsoft", "QLinearGlobalAveragePool"): ("GlobalAveragePool", slice(1)),
    ("com.microsoft", "QLinearLeakyRelu"): ("LeakyRelu", slice(1)),
    ("com.microsoft", "QLinearSigmoid"): ("Sigmoid", slice(1)),
    ("", "GroupNormalization"): ("Identity", slice(1)),
    ("", "MeanVarianceNormalization"): ("Identity", slice(1)),
}
"""Operators that shape inference does not know, those that make the same sizes, and which of the
inputs these take. onnxruntime's are on codes (scales and zero points are their other inputs): they
are found between QLinearConvs. ONNX's are functions, which it does not look into."""


@dataclass(frozen=True)
class Conflict:
    """What does not fit together."""

    error: ConvfcError
    tensors: tuple[str, ...]
    """A tensor of which there are two accounts, or what a node is given and does not take."""

    stated: Sizes | None = None
    inferred: Sizes | None = None
    """Two accounts of the same; None where there are none."""

    local: bool = False
    """Whether it concerns nothing but what is made from the tensor: a branch of an If need not be
    taken, and some exporters declare outputs with axes that they do not have.
    """


@dataclass
class Pass:
    """One pass over a model, and what it is given to begin with."""

    opsets: Mapping[str, int]
    given: Mapping[str, Sizes]
    batch: int | None = 1
    """What a free batch is taken as; None where it stays free."""

    infers: bool = True
    """Whether shape inference is run: otherwise only what is declared and given is known."""

    remembered: dict[tuple[object, ...], "_Made"] = field(default_factory=dict)
    """What has been found of nodes, by all that it depends on."""

    conflicts: dict[str, Conflict] = field(default_factory=dict, init=False)
    settled: set[str] = field(default_factory=set, init=False)
    """Tensors that have sizes which only the user gave."""

    untyped: set[str] = field(default_factory=set, init=False)
    """Names of tensors whose elements are taken as float32 so that inference goes on: nothing says
    so, and neither it does of what is made from them."""

    assumes: bool = field(default=False, init=False)
    """Whether a free batch was taken as 1."""

    @cached_property
    def empty(self) -> onnx.ModelProto:
        """A model to put one node after another into."""
        opsets = [onnx.helper.make_opsetid(*entry) for entry in self.opsets.items()]
        return onnx.ModelProto(ir_version=10, opset_import=opsets)

    def over(self, graph: onnx.GraphProto) -> Facts:
        """What is known of a graph and of those within it."""
        top = _Graph(graph, None, self, {})
        top.go()
        return top.facts


_Constant = onnx.TensorProto | onnx.SparseTensorProto


@dataclass(frozen=True)
class _Refusal:
    """Why a node does not take its inputs."""

    reason: str
    stated: Sizes | None = None
    inferred: Sizes | None = None


_Made = list[tuple[onnx.TypeProto, _Constant | None]] | _Refusal
"""The type of each output of a node, and its value where that is constant."""


class _Graph:
    """One graph in a pass."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        parent: "_Graph | None",
        run: Pass,
        inputs: Mapping[str, onnx.TypeProto],
        path: str = "",
        *,
        conditional: bool = False,
    ) -> None:
        self.graph, self.parent, self.run, self.path = graph, parent, run, path
        self.conditional = conditional
        self.facts = Facts()
        self.types: dict[str, onnx.TypeProto] = {}
        self.constants: dict[str, _Constant] = {}
        self.conflicts: list[Conflict] = []
        self.declared: dict[str, list[tuple[str, onnx.TypeProto]]] = {}
        for source, infos in zip(
            DECLARED, (graph.input, graph.value_info, graph.output), strict=True
        ):
            for info in infos:
                self.declared.setdefault(info.name, []).append((source, info.type))
        stored = {tensor.name: tensor for tensor in graph.initializer}
        stored |= {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        for name, tensor in stored.items():
            self._settle(name, _type_of(tensor), STORED)
            self.constants[name] = tensor
        for info in graph.input:
            if info.name not in stored:
                self._settle(info.name, inputs.get(info.name), is_input=True)

    def home(self, name: str) -> "_Graph | None":
        """The innermost graph that has a tensor by now."""
        graph: _Graph | None = self
        while graph is not None and name not in graph.types:
            graph = graph.parent
        return graph

    def type_of(self, name: str) -> onnx.TypeProto:
        """What is known of the type of a tensor by now."""
        home = self.home(name)
        return home.types[name] if home else onnx.TypeProto()

    def go(self) -> None:
        """Find out the types of what the nodes make."""
        below = inner_by_node(self.graph)
        for number, node in enumerate(self.graph.node):
            doubt = self._doubt(node.input)
            if number in below:
                node, inner = self._with_stubs(node, below[number])
                doubt = doubt or inner
            outputs = self._outputs(node)
            if isinstance(outputs, _Refusal):
                doubt = doubt or self._refused(node, outputs)
                outputs = []
            self._hand_on(node.input, node.output)
            for place, name in enumerate(node.output):
                made, constant = outputs[place] if place < len(outputs) else (None, None)
                if name:
                    self._settle(name, made)
                    if constant is not None:
                        self.constants[name] = constant
                    if doubt:
                        self.facts.doubts.setdefault(name, doubt)
        self._look_back()

    def _hand_on(self, given: Iterable[str], made: Iterable[str]) -> None:
        """Where nothing says the type of what is given, nothing says that of what is made of it."""
        untyped = self.run.untyped
        if untyped and not untyped.isdisjoint(given):
            untyped.update(name for name in made if name and name not in self.declared)

    def _doubt(self, names: Iterable[str]) -> str:
        """What contradicts the sizes that a node is given; empty where nothing does."""
        if self.run.conflicts:
            for name in names:
                home = self.home(name)
                if home is not None and name in home.facts.doubts:
                    return home.facts.doubts[name]
        return ""

    def _look_back(self) -> None:
        """Let what is contradicted reach the convolutions that it is made from."""
        makers = {name: node for node in self.graph.node for name in node.output}
        seen: set[str] = set()
        for conflict in self.conflicts:
            if conflict.local:
                continue
            waiting = list(conflict.tensors)
            while waiting:
                node = makers.get(waiting.pop())
                if node is None or (node.output and node.output[0] in seen):
                    continue
                seen.update(node.output)
                for name in node.output:
                    self.facts.doubts.setdefault(name, str(conflict.error))
                if operator(node) not in READERS:
                    waiting.extend(node.input)

    def _settle(
        self,
        name: str,
        made: onnx.TypeProto | None,
        source: str = INFERRED,
        *,
        is_input: bool = False,
    ) -> None:
        """Record a tensor: what computes it, and all that is stated about it."""
        declared, given = self.declared.get(name, ()), self.run.given.get(name)
        inferred = sizes_of(made)
        if given is None and made is not None and all(kind == made for _, kind in declared):
            self._take(name, made, inferred)
            return
        accounts = [Account(sizes_of(kind), source) for source, kind in declared]
        accounts = [Account(inferred, source), *accounts]
        if source != STORED:
            accounts = _of_one_batch(accounts)
        if given is not None:
            accounts.append(Account(given, GIVEN, given=True))
        try:
            if source == STORED and made is not None:
                _check_element(name, made, declared)
            sizes = agreed(name, *accounts)
        except (UsageError, MalformedInput) as error:
            sizes = next(tuple(a.sizes) for a in reversed(accounts) if a.sizes is not None)
            is_users = isinstance(error, UsageError)
            other_axes = inferred is not None and len(inferred) != len(sizes)
            local = not is_users and (other_axes or self.conditional)
            self._contradict(name, Conflict(error, (name,), sizes, inferred, local))
            self.facts.doubts[name] = str(error)
        if given is not None:
            before = agreed(name, *accounts[:-1]) if name not in self.facts.doubts else given
            if before is None or None in before:
                self.run.settled.add(name)
        if is_input and self.parent is None and sizes and len(sizes) > 1 and sizes[0] is None:
            sizes = (self.run.batch, *sizes[1:])
            self.run.assumes = self.run.batch is not None
        kinds = [kind for kind in (made, *(kind for _, kind in declared)) if kind is not None]
        if sizes is not None and not any(kind.tensor_type.elem_type for kind in kinds):
            self.run.untyped.add(name)
        self._take(name, _merged(kinds, sizes), sizes)

    def _take(self, name: str, kind: onnx.TypeProto, sizes: Sizes | None) -> None:
        self.types[name] = kind
        if sizes is not None:
            self.facts.shapes[name] = sizes
        if kind.HasField("tensor_type") and name not in self.run.untyped:
            self.facts.types[name] = kind.tensor_type.elem_type

    def _with_stubs(
        self,
        node: onnx.NodeProto,
        below: Sequence[tuple[Inner, onnx.AttributeProto, onnx.GraphProto]],
    ) -> tuple[onnx.NodeProto, str]:
        """The node with graphs that have no nodes, but the same types of inputs and outputs, which
        is what shape inference takes from them; and what contradicts one of the outputs.
        """
        stub, doubt = onnx.NodeProto(), ""
        stub.CopyFrom(node)
        given = self._into_body(node)
        for key, _, inner in below:
            types = dict(zip((info.name for info in inner.input), given, strict=False))
            may_be_left_out = self.conditional or operator(node) == ("", "If")
            path = f"{self.path}{key}/"
            body = _Graph(inner, self, self.run, types, path, conditional=may_be_left_out)
            self._hand_on(node.input, (info.name for info in inner.input))
            body.go()
            self.facts.inner[key] = body.facts
            names = [info.name for info in inner.output]
            self._hand_on(names, node.output)
            doubt = doubt or body._doubt(names)
            _, place, which = key
            attribute = stub.attribute[place]
            graph = attribute.g if attribute.HasField("g") else attribute.graphs[which]
            graph.Clear()
            graph.name = "body"
            for number, info in enumerate(inner.input):
                kind = body.type_of(info.name)
                graph.input.append(onnx.ValueInfoProto(name=f"i{number}", type=kind))
            for number, name in enumerate(names):
                kind = body.type_of(name)
                graph.output.append(onnx.ValueInfoProto(name=f"o{number}", type=kind))
        return stub, doubt

    def _into_body(self, node: onnx.NodeProto) -> list[onnx.TypeProto]:
        """The types of what the body of a Loop or Scan is given, as far as they stay the same."""
        kinds = [self.type_of(name) for name in node.input]
        if operator(node) == ("", "Loop"):
            number, going = _type(onnx.TensorProto.INT64, ()), _type(onnx.TensorProto.BOOL, ())
            return [number, going, *(_without_sizes(kind) for kind in kinds[2:])]
        if operator(node) == ("", "Scan") and self._opset() > 8:  # before, each had a batch
            count = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
            axes = next((a.ints for a in node.attribute if a.name == "scan_input_axes"), ())
            states, scanned = kinds[: len(kinds) - count], kinds[len(kinds) - count :]
            padded = [*axes, *[0] * len(scanned)]
            slices = (_slice(kind, axis) for kind, axis in zip(scanned, padded, strict=False))
            return [*states, *slices]
        return []

    def _opset(self) -> int:
        return next((self.run.opsets[name] for name in STANDARD if name in self.run.opsets), 1)

    def _outputs(self, node: onnx.NodeProto) -> _Made:
        """What a node makes, from what is known of its inputs."""
        if node.op_type == "Constant" and node.domain in STANDARD:
            for attribute in node.attribute:
                if attribute.name == "value":
                    return [(_type_of(attribute.t), attribute.t)]
                if attribute.name == "sparse_value":
                    return [(_type_of(attribute.sparse_tensor), attribute.sparse_tensor)]
        if not self.run.infers or not node.output:
            return []
        try:
            plain = _standing_in(node)
        except ConvfcError:  # its reader says so
            return []
        inputs = self._inputs(plain)
        key = _key(plain, inputs)
        made = self.run.remembered.get(key)
        if made is None:
            made = [] if self._lacks_inputs(plain) else self._computed(self._alone(plain, inputs))
            if len(self.run.remembered) < MAX_REMEMBERED:
                self.run.remembered[key] = made
        return made

    def _lacks_inputs(self, node: onnx.NodeProto) -> bool:
        """Whether an input that must be there is not: inference may end the process over that."""
        is_standard = node.domain in STANDARD
        version = self._opset() if is_standard else self.run.opsets.get(node.domain, 1)
        try:
            schema = onnx.defs.get_schema(node.op_type, version, "" if is_standard else node.domain)
        except onnx.defs.SchemaError:
            return False
        given = [*node.input, *[""] * (schema.min_input - len(node.input))]
        single = onnx.defs.OpSchema.FormalParameterOption.Single
        return any(
            not name and formal.option == single
            for name, formal in zip(given, schema.inputs, strict=False)
        )

    def _inputs(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto | onnx.TensorProto]:
        """What a node is given: the values of small constants, otherwise types."""
        names = dict.fromkeys(filter(None, node.input))
        whole = node.op_type in READ_REALS or all(map(self._is_constant, names))
        given: dict[str, onnx.TypeProto | onnx.TensorProto] = {}
        for name in names:
            kind = self.type_of(name)
            read = whole or kind.tensor_type.elem_type not in REALS
            given[name] = (self._constant(name) if read else None) or kind
        return given

    def _alone(
        self, node: onnx.NodeProto, inputs: Mapping[str, onnx.TypeProto | onnx.TensorProto]
    ) -> onnx.ModelProto:
        """A model of this node and nothing else, its tensors named by their places."""
        model = self.run.empty
        model.graph.Clear()
        copy = model.graph.node.add(op_type=node.op_type, domain=node.domain)
        copy.attribute.extend(node.attribute)
        for place, given in enumerate(inputs.values()):
            if isinstance(given, onnx.TypeProto):
                model.graph.input.add(name=f"i{place}").type.CopyFrom(given)
            else:
                tensor = model.graph.initializer.add()
                tensor.CopyFrom(given)
                tensor.name = f"i{place}"
        places = {"": ""} | {name: f"i{place}" for place, name in enumerate(inputs)}
        copy.input.extend(places[name] for name in node.input)
        copy.output.extend(f"o{place}" for place in range(len(node.output)))
        return model

    def _is_constant(self, name: str) -> bool:
        home = self.home(name)
        return home is not None and name in home.constants

    def _constant(self, name: str) -> onnx.TensorProto | None:
        """The value of a small constant, without all that is written beside it."""
        home = self.home(name)
        tensor = home.constants.get(name) if home is not None else None
        if home is None or tensor is None:
            return None
        if not (isinstance(tensor, onnx.TensorProto) and tensor.name == _CLEAN):
            tensor = _small(tensor)
            if tensor is None:
                del home.constants[name]
                return None
            home.constants[name] = tensor
        return tensor

    def _computed(self, model: onnx.ModelProto) -> _Made:
        """What shape inference makes of a model of one node, and the value if that is constant."""
        try:
            inferred = onnx.shape_inference.infer_shapes(
                model.SerializeToString(), strict_mode=True
            ).graph.value_info
        except Exception as error:  # the C++ side raises types of its own
            if operator(model.graph.node[0]) in READERS or not _is_about_sizes(model):
                return []  # its reader says so
            reason = " ".join(str(error).split()).rpartition("[ShapeInferenceError]")[2].strip()
            return _contradicted(model.graph, onnx.TypeProto()) or _Refusal(reason[:160])
        node, kinds = model.graph.node[0], {info.name: info.type for info in inferred}
        made = [kinds.get(name, onnx.TypeProto()) for name in node.output]
        for kind in made:
            for dim in kind.tensor_type.shape.dim if kind.HasField("tensor_type") else ():
                if dim.dim_value < 0:  # by which the inference of the next node ends the process
                    dim.ClearField("dim_value")
        refusal = _contradicted(model.graph, made[0]) if made else None
        if refusal is not None:
            return refusal
        if len(made) == 1 and folded(node):
            return [(made[0], self._folded(model, made[0]))]
        return [(kind, None) for kind in made]

    def _folded(self, model: onnx.ModelProto, kind: onnx.TypeProto) -> onnx.TensorProto | None:
        """The value of what a node makes of constants, or of the sizes of its inputs."""
        sizes = complete(sizes_of(kind))
        if sizes is None or prod(sizes) > FEW:
            return None
        facts = Facts()
        for info in model.graph.input:
            known = sizes_of(info.type)
            if known is not None:
                facts.shapes[info.name] = known
            facts.types[info.name] = info.type.tensor_type.elem_type
        scope = Scope(model.graph, None, dict(self.run.opsets), NOWHERE, facts, lambda: facts)
        try:
            array = value(scope, "o0")
        except ConvfcError:  # then its size stays open, and the layer says so
            return None
        if array.size > FEW or array.dtype.hasobject:
            return None
        return onnx.numpy_helper.from_array(array, _CLEAN)

    def _refused(self, node: onnx.NodeProto, refusal: _Refusal) -> str:
        """Note that a node does not take what it is given; and what that contradicts."""
        name = f"{node.op_type} {node.name or node.output[0]!r}"
        error = MalformedInput(f"{name} does not take its inputs: {refusal.reason}")
        about = (refusal.stated, refusal.inferred, self.conditional)
        conflict = Conflict(error, tuple(node.input), *about)
        self._contradict(f"{node.output[0]} made", conflict)
        return "" if conflict.local else str(error)

    def _contradict(self, what: str, conflict: Conflict) -> None:
        self.conflicts.append(conflict)
        self.run.conflicts[self.path + what] = conflict


def _key(
    node: onnx.NodeProto, inputs: Mapping[str, onnx.TypeProto | onnx.TensorProto]
) -> tuple[object, ...]:
    """All that the outputs of a node depend on."""
    places = {name: place for place, name in enumerate(inputs)}
    return (
        *(node.op_type, node.domain, len(node.output)),
        *(attribute.SerializeToString() for attribute in node.attribute),
        *(places.get(name) for name in node.input),
        *((type(given), given.SerializeToString()) for given in inputs.values()),
    )


_CLEAN = "constant"
"""The name of a tensor that holds nothing but its values."""


def sizes_of(kind: onnx.TypeProto | None) -> Sizes | None:
    """The sizes of a tensor by its type; one below 1 means an open size."""
    if kind is None or not kind.HasField("tensor_type"):
        return None
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.tensor_type.shape.dim)


@lru_cache(maxsize=4096)
def _type(kind: int, sizes: tuple[int | None, ...]) -> onnx.TypeProto:
    """The type of a tensor, one for all that are alike: nobody changes it."""
    made = onnx.TypeProto()
    made.tensor_type.elem_type = kind
    made.tensor_type.shape.SetInParent()
    for size in sizes:
        made.tensor_type.shape.dim.add(**({} if size is None else {"dim_value": size}))
    return made


def _type_of(tensor: _Constant) -> onnx.TypeProto:
    dense = tensor if isinstance(tensor, onnx.TensorProto) else tensor.values
    return _type(dense.data_type, tuple(max(size, 0) for size in tensor.dims))


def _is_about_sizes(model: onnx.ModelProto) -> bool:
    """Whether shape inference refuses a node for the sizes that it is given: without them it does
    not, as it does for an attribute, or a number of outputs, that the operator does not have.
    """
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for info in free.graph.input:
        info.type.CopyFrom(_without_sizes(info.type))
    try:
        onnx.shape_inference.infer_shapes(free.SerializeToString(), strict_mode=True)
    except Exception:  # the C++ side raises types of its own
        return False
    return True


def _contradicted(graph: onnx.GraphProto, made: onnx.TypeProto) -> _Refusal | None:
    """What ONNX's shape inference lets pass, or tells without numbers: a Reshape to another number
    of elements, a Gemm or MatMul of sizes that do not fit each other.
    """
    node = graph.node[0]
    known = {info.name: sizes_of(info.type) for info in graph.input}
    known |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    sizes = [known.get(name) for name in node.input]
    if node.domain not in STANDARD or not sizes or sizes[0] is None:
        return None
    before, after = complete(sizes[0]), complete(sizes_of(made))
    if before and after and node.op_type == "Reshape" and prod(before) != prod(after):
        return _Refusal(f"{shown(before)} is not {shown(after)} reshaped", after, before)
    if node.op_type in ("Gemm", "MatMul") and len(sizes) > 1 and sizes[1] and sizes[0]:
        turned = {a.name for a in node.attribute if a.name in ("transA", "transB") and a.i}
        given = sizes[0][0 if "transA" in turned else -1]
        wanted = sizes[1][-1 if "transB" in turned or len(sizes[1]) == 1 else -2]
        if None not in (given, wanted) and given != wanted:
            return _Refusal(f"{given} numbers for a sum over {wanted}", (wanted,), (given,))
    return None


def _check_element(
    name: str, stored: onnx.TypeProto, declared: Iterable[tuple[str, onnx.TypeProto]]
) -> None:
    """Raise `MalformedInput` where a stored tensor is declared with another type of elements."""
    for source, kind in declared:
        stored_type, other = stored.tensor_type.elem_type, kind.tensor_type.elem_type
        if other and other != stored_type:
            types = [_NAMES.get(kind, f"of the type {kind}") for kind in (stored_type, other)]
            raise MalformedInput(
                f"the tensor {name!r} is {types[0]} by {STORED}, {types[1]} by {source}"
            )


def _merged(kinds: Sequence[onnx.TypeProto], sizes: Sizes | None) -> onnx.TypeProto:
    """The first of these types that says anything, with these sizes."""
    known = [kind for kind in kinds if kind.WhichOneof("value")]
    if known and not known[0].HasField("tensor_type"):
        return known[0]
    elements = (kind.tensor_type.elem_type for kind in known)
    element = next((element for element in elements if element), onnx.TensorProto.UNDEFINED)
    if sizes is not None:
        return _type(element or onnx.TensorProto.FLOAT, sizes)
    return known[0] if known else onnx.TypeProto()


def _of_one_batch(accounts: Sequence[Account]) -> list[Account]:
    """The accounts with one first axis, where they have as many axes: exporters
    declare wrong batches, and no layer depends on the batch.
    """
    batches = [a.sizes[0] for a in accounts if a.sizes and len(a.sizes) > 1 and a.sizes[0]]
    if len(set(batches)) < 2:
        return list(accounts)
    return [
        Account((batches[0], *a.sizes[1:]), a.source)
        if a.sizes and len(a.sizes) > 1 and a.sizes[0]
        else a
        for a in accounts
    ]


def _without_sizes(kind: onnx.TypeProto) -> onnx.TypeProto:
    copy = onnx.TypeProto()
    copy.CopyFrom(kind)
    if copy.HasField("tensor_type"):
        copy.tensor_type.ClearField("shape")
    return copy


def _slice(kind: onnx.TypeProto, axis: int) -> onnx.TypeProto:
    """The type of what a Scan takes from a tensor at each step."""
    copy = onnx.TypeProto()
    copy.CopyFrom(kind)
    if not copy.tensor_type.HasField("shape"):
        return copy
    rank = len(copy.tensor_type.shape.dim)
    if not -rank <= axis < rank:
        return onnx.TypeProto()
    del copy.tensor_type.shape.dim[axis]
    return copy


def _small(tensor: _Constant) -> onnx.TensorProto | None:
    """A tensor that has few elements, nothing but its values; None for a larger one."""
    dense = isinstance(tensor, onnx.TensorProto)
    parts = (tensor,) if dense else (tensor.values, tensor.indices)
    if any(part.data_location == onnx.TensorProto.EXTERNAL for part in parts):
        return None
    if any(prod(part.dims) > FEW for part in (tensor, *parts)):
        return None
    try:
        array = decoded(tensor, NOWHERE)
    except ConvfcError:  # its reader reports that
        return None
    return onnx.numpy_helper.from_array(array, _CLEAN)


def _standing_in(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node of ONNX's own operators whose outputs have the same shapes, where there is one for an
    operator that shape inference does not know.
    """
    kind = operator(node)
    if any(a.name == "channels_last" and a.i for a in node.attribute):
        return node
    if node.domain not in STANDARD and kind in READERS:
        return READERS[kind].conv(node)
    if kind in QUANTIZERS:
        return onnx.helper.make_node("Identity", node.input[:1], node.output)
    if kind not in _STAND_INS:
        return node
    name, tensors = _STAND_INS[kind]
    plain = onnx.helper.make_node(name, node.input[tensors], node.output)
    if name != "Identity":
        plain.attribute.extend(a for a in node.attribute if a.name != "channels_last")
    return plain
