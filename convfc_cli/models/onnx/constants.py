"""Constant tensors of an ONNX graph: initializers, Constant nodes, and expressions over them.

A weight may be an initializer (also one that is listed as a graph input), lie in an external file
or an outer graph, or be computed: dequantized, normalized, transposed, cast. What is computed
from constants alone is evaluated by ONNX's own reference operators, an allow-list of them, each
result's size known before it is made; QONNX's quantizers by `qonnx`. The operators are Python,
some of it a loop over elements: they run in the contained child, on the budget of the command.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from time import process_time

import numpy as np
import onnx
from onnx import numpy_helper

from convfc_cli import budget as budgets
from convfc_cli import contained
from convfc_cli.arrays import Array
from convfc_cli.errors import ConvfcError, MalformedInput, Refused, Unsupported
from convfc_cli.models.onnx import qonnx
from convfc_cli.models.onnx.scope import STANDARD, Scope, operator
from convfc_cli.models.onnx.stored import Storage, decoded
from convfc_cli.models.sizes import Sizes, complete, shown
from convfc_cli.naming import first_few

BUDGET = 2**26
"""Elements of all that is computed on the way to one constant: what memory has room for, whatever
the budget of the command."""

LIMITS = contained.Limits(memory=850_000_000)
"""Of the child, for one constant: BUDGET elements dequantized fit."""

_SAME_SIZE = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh Cast CastLike Ceil Cos Cosh CumSum Erf Exp "
    "Flatten Floor Identity IsInf IsNaN Log LpNormalization Neg Not Reciprocal ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Shape Sigmoid Sign Sin Sinh "
    "Size Slice Softmax Softplus Split Sqrt Squeeze Tan Tanh Transpose Trilu Unsqueeze".split()
)
"""Operators whose result is no larger than the larger of its inputs."""

_BROADCAST = frozenset(
    "Add And Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow "
    "Sub Sum Where Xor".split()
)

_SIZED: dict[str, Callable[[onnx.NodeProto, list[Array]], int]] = {
    "BatchNormalization": lambda node, inputs: _per_channel(inputs, 1),
    "Concat": lambda node, inputs: sum(array.size for array in inputs),
    "ConstantOfShape": lambda node, inputs: prod(map(int, inputs[0].reshape(-1))),
    "DequantizeLinear": lambda node, inputs: _per_channel(inputs, _axis(node, 1)),
    "Expand": lambda node, inputs: prod(
        np.broadcast_shapes(inputs[0].shape, tuple(map(int, inputs[1])))
    ),
    "EyeLike": lambda node, inputs: prod(_identity_shape(node)),
    "Gather": lambda node, inputs: inputs[1].size * inputs[0].size // inputs[0].shape[_axis(node)],
    "InstanceNormalization": lambda node, inputs: _per_channel(inputs, 1),
    "MatMul": lambda node, inputs: inputs[0].size * inputs[1].size // inputs[0].shape[-1],
    "QuantizeLinear": lambda node, inputs: _per_channel(inputs, _axis(node, 1)),
    "Range": lambda node, inputs: _steps(*(array.item() for array in inputs)),
    "Tile": lambda node, inputs: inputs[0].size * prod(map(int, inputs[1])),
}
"""Operators whose result may be far larger, and how many elements at most it then has."""

_NEWER = {"DequantizeLinear": 19}
"""The version of ONNX's operators by which one is evaluated at least: what says the same, where the
reference operators no longer have an older one (seen in onnx 1.23)."""

FOLDED = _SAME_SIZE | _BROADCAST | _SIZED.keys() | {"Constant"}
"""The operators of ONNX that are evaluated where all their inputs are constant."""


def folded(node: onnx.NodeProto) -> bool:
    """Whether a node is evaluated where all its inputs are constant."""
    return operator(node) in qonnx.OPERATORS or (node.domain in STANDARD and node.op_type in FOLDED)


MEASURED = {"CastLike": 1, "EyeLike": 0, "Shape": 0, "Size": 0}
"""Operators that read only the type or the sizes of an input, and that input's place."""


def of_constants(scope: Scope, node: onnx.NodeProto, *, batch: bool) -> onnx.NodeProto | str:
    """What makes the same as a node from nothing but values: the node itself, or one in its place
    where it takes only the type or the sizes of an input; or why these are not known.

    With `batch`, a free batch is 1; without, it is not known.
    """
    place = MEASURED.get(node.op_type) if node.domain in STANDARD else None
    if place is None or place >= len(node.input):
        return node
    name = node.input[place]
    if node.op_type == "CastLike":
        kind = scope.kind(name)
        if not kind:
            return f"it has the type of {name!r}, which is not known"
        cast = onnx.helper.make_node("Cast", node.input[:1], node.output, to=kind)
        cast.attribute.extend(node.attribute)
        return cast
    given = {attribute.name: attribute.i for attribute in node.attribute}
    asked = slice(given.get("start"), given.get("end")) if node.op_type == "Shape" else slice(None)
    shape, of_one = (_part(scope.shape(name, batch=b), asked) for b in (batch, True))
    if shape is None:
        text = "the size" if of_one is None else "the batch"
        return f"it depends on {text} of {name!r}, which is open"
    if node.op_type == "EyeLike":
        return _identity(scope, node, shape, given)
    if node.op_type == "Size" and prod(shape) >= 2**63:
        return f"it depends on the size of {name!r}, which is beyond 64 bits"
    array = np.array(shape if node.op_type == "Shape" else prod(shape), np.int64)
    return onnx.helper.make_node("Constant", [], node.output, value=numpy_helper.from_array(array))


def _part(shape: Sizes | None, asked: slice) -> tuple[int, ...] | None:
    """These sizes of a shape; None where one of them is open, or how many axes there are."""
    return None if shape is None else complete(shape[asked])


def _identity(
    scope: Scope, node: onnx.NodeProto, shape: tuple[int, ...], given: dict[str, int]
) -> onnx.NodeProto | str:
    """The EyeLike with its shape as an attribute in place of an input of it, or why there is none.

    It is not made yet: it may be far larger than the file.
    """
    kind = given.get("dtype") or scope.kind(node.input[0])
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        dtype = np.dtype(object)
    if dtype.kind not in "bfiu" or len(shape) != 2 or 0 in shape:
        return f"it is an EyeLike of {shown(shape)} and of type {kind}, which is not folded"
    k = given.get("k", 0)
    return onnx.helper.make_node("EyeLike", [], node.output, dtype=kind, k=k, shape=shape)


def _identity_shape(node: onnx.NodeProto) -> tuple[int, ...]:
    return next(tuple(a.ints) for a in node.attribute if a.name == "shape")


def spelled_out(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A node of `sources` as runtimes take it: an EyeLike reads its shape from a tensor again."""
    if node.op_type != "EyeLike" or node.input:
        return [node]
    shape, zeros = (f"{node.output[0]}/{part}" for part in ("shape", "zeros"))
    sizes = numpy_helper.from_array(np.array(_identity_shape(node), np.int64))
    eye = onnx.helper.make_node("EyeLike", [zeros], node.output)
    eye.attribute.extend(a for a in node.attribute if a.name != "shape")
    return [
        onnx.helper.make_node("Constant", [], [shape], value=sizes),
        onnx.helper.make_node("ConstantOfShape", [shape], [zeros]),
        eye,
    ]


def dynamic(scope: Scope, name: str, *, batch: bool = False) -> str | None:
    """Why a tensor is not constant, or None if it is; with `batch`, for a batch of 1.

    What is found out of a tensor on the way is remembered in its scope: many layers may share it.
    """
    path: dict[tuple[int, str], tuple[Scope, str, Iterator[str]]] = {}
    """The tensors on the way here, and what is left of what each is computed from."""

    def enter(place: Scope, tensor: str) -> str | None:
        """Why a tensor is not constant, as far as that is known before its sources are."""
        home = place.home(tensor)
        if home is None:
            return f"{tensor!r} is defined nowhere in the model"
        known = tensor in home.fixed or (batch and tensor in home.constant)
        if known or (id(home), tensor) in path or tensor in home.stored:
            return None
        if (tensor, batch) in home.dynamic:
            return home.dynamic[tensor, batch]
        node = home.producers.get(tensor)
        if node is None:
            return f"it depends on the input {tensor!r}, known only when the network runs"
        if not folded(node):
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            return f"it is computed by {kind} (tensor {tensor!r}), which is not folded"
        plain = of_constants(home, node, batch=batch)
        if isinstance(plain, str):
            return plain
        path[id(home), tensor] = (home, tensor, reversed(plain.input))
        return None

    reason = enter(scope, name)
    while path and reason is None:
        last = next(reversed(path))
        home, tensor, waiting = path[last]
        source = next(waiting, None)
        if source is None:
            del path[last]
            home.dynamic[tensor, batch] = None
        elif source:
            reason = enter(home, source)
    for home, tensor, _ in path.values():
        home.dynamic[tensor, batch] = reason
    return reason


def sources(scope: Scope, name: str, *, batch: bool = False) -> list[tuple[Scope, onnx.NodeProto]]:
    """The nodes that a constant is computed by, in an order in which they can be run. Raises
    `MalformedInput` where it is computed from itself or from what is defined nowhere, `Unsupported`
    where an input of the model is among its sources.
    """
    order: dict[int, tuple[Scope, onnx.NodeProto]] = {}
    path: dict[int, tuple[str, Scope, onnx.NodeProto, Iterator[str]]] = {}
    """The nodes on the way here: the tensor wanted of each, and what is left of what it reads."""

    def enter(place: Scope, tensor: str) -> None:
        home = place.home(tensor)
        if home is None:
            raise MalformedInput(f"{tensor!r} is defined nowhere in the model")
        if tensor in home.stored:
            return
        node = home.producers.get(tensor)
        if node is None:
            raise Unsupported(f"it depends on the input {tensor!r}, known only at run time")
        if id(node) in path:
            cycle = [wanted for wanted, *_ in path.values()][list(path).index(id(node)) :]
            text = first_few([repr(one) for one in cycle])
            raise MalformedInput(f"{name!r} is computed from itself, in a cycle: {text}")
        if id(node) in order:
            return
        plain = of_constants(home, node, batch=batch)
        if isinstance(plain, str):
            raise Unsupported(plain)
        path[id(node)] = (tensor, home, plain, iter(plain.input))

    enter(scope, name)
    while path:
        last = next(reversed(path))
        _, home, node, waiting = path[last]
        source = next(waiting, None)
        if source is None:
            del path[last]
            order[last] = (home, node)
        elif source:
            enter(home, source)
    return list(order.values())


@dataclass(frozen=True)
class Step:
    """A node to be evaluated, its tensors numbered; None for an input that is not there."""

    node: bytes
    opsets: dict[str, int]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]


def value(scope: Scope, name: str, budget: int = BUDGET, *, batch: bool = False) -> Array:
    """A constant tensor; with `batch`, for a batch of 1. Raises `Unsupported` if it is not
    constant, `Refused` if more than `budget` elements would have to be computed on the way, or more
    than the command has left.
    """
    reason = dynamic(scope, name, batch=batch)
    if reason:
        raise Unsupported(reason)
    steps: list[Step] = []
    arrays: dict[int, Array] = {}
    numbers: dict[tuple[int, str], int] = {}

    def number(place: Scope, tensor: str) -> int:
        home = place.home(tensor)
        assert home is not None
        index = numbers.setdefault((id(home), tensor), len(numbers))
        if tensor in home.stored and index not in arrays:
            arrays[index] = decoded(home.stored[tensor], home.storage)
        return index

    with budgets.current().timed(f"the constant {name!r}") as left:
        nodes = sources(scope, name, batch=batch)
        left.spend(f"the constant {name!r}", operations=len(nodes))
        for place, node in nodes:
            if node.domain in STANDARD and node.op_type == "Constant":
                arrays[number(place, node.output[0])] = _stated(node, place.storage)
                continue
            inputs = tuple(number(place, source) if source else None for source in node.input)
            if _is_identity(node):
                numbers[id(place), node.output[0]] = number(place, node.input[0])
                continue
            outputs = tuple(number(place, output) for output in node.output if output)
            steps.append(Step(node.SerializeToString(), place.opsets, inputs, outputs))
        wanted = number(scope, name)
        if wanted in arrays:
            return arrays[wanted]
        return _computed(name, steps, arrays, wanted, min(budget, left.elements), left)


def _is_identity(node: onnx.NodeProto) -> bool:
    one_each = len(node.input) == len(node.output) == 1 and node.input[0]
    return node.domain in STANDARD and node.op_type == "Identity" and bool(one_each)


def _computed(
    name: str,
    steps: Sequence[Step],
    arrays: dict[int, Array],
    wanted: int,
    most: int,
    left: budgets.Budget,
) -> Array:
    """The tensor of the number `wanted`, made in the child of the stored ones."""
    what = f"the constant {name!r}"
    limits = contained.Limits(LIMITS.memory, max(1, min(LIMITS.seconds, ceil(left.seconds))))
    try:
        seconds, elements, result = contained.call(
            evaluate, name, steps, arrays, wanted, most, what=what, limits=limits
        )
    except ConvfcError:
        left.seconds -= limits.seconds  # an upper bound: the child did not report it
        raise
    left.seconds -= seconds
    left.spend(what, elements=elements)
    if isinstance(result, ConvfcError):
        raise result
    return np.asarray(result)


def evaluate(
    name: str, steps: Sequence[Step], arrays: dict[int, Array], wanted: int, most: int
) -> tuple[float, int, Array | ConvfcError]:
    """(CPU time taken, elements made, the tensor or why there is none) of a constant that these
    steps compute, making at most so many elements.
    """
    begun, elements = process_time(), 0
    result: Array | ConvfcError
    try:
        for step in steps:
            node = onnx.NodeProto.FromString(step.node)
            inputs = [None if number is None else arrays[number] for number in step.inputs]
            size = _elements(node, [array for array in inputs if array is not None])
            if elements + size > most:
                raise Refused(f"the constant {name!r} takes too many elements to compute")
            elements += size
            made = _evaluated(node, inputs, step.opsets)
            if len(made) != len(step.outputs):
                raise MalformedInput(f"a {node.op_type} with {len(step.outputs)} outputs")
            arrays.update(zip(step.outputs, made, strict=True))
        result = arrays[wanted]
        if result.dtype.kind in "OSU":
            raise Unsupported(f"the constant {name!r} is text")
    except ConvfcError as error:
        result = error.with_traceback(None)
    return process_time() - begun, elements, result


_NUMBERS: dict[str, tuple[int, Callable[[onnx.AttributeProto], Array]]] = {
    "value_float": (onnx.AttributeProto.FLOAT, lambda given: np.array(given.f, np.float32)),
    "value_floats": (onnx.AttributeProto.FLOATS, lambda given: np.array(given.floats, np.float32)),
    "value_int": (onnx.AttributeProto.INT, lambda given: np.array(given.i, np.int64)),
    "value_ints": (onnx.AttributeProto.INTS, lambda given: np.array(given.ints, np.int64)),
}
"""The attributes in which a Constant may have plain numbers, and how they are read."""


def _stated(node: onnx.NodeProto, storage: Storage) -> Array:
    """What a Constant states."""
    if len(node.attribute) != 1 or len(node.output) != 1:
        text = f"{len(node.attribute)} values and {len(node.output)} outputs"
        raise MalformedInput(f"a Constant has {text}, not one of each")
    (given,) = node.attribute
    if given.name == "value":
        return decoded(given.t, storage)
    if given.name == "sparse_value":
        return decoded(given.sparse_tensor, storage)
    if given.name in ("value_string", "value_strings"):
        raise Unsupported(f"the constant {node.output[0]!r} is text")
    kind, read = _NUMBERS.get(given.name, (None, None))
    if read is None or given.type != kind:
        raise MalformedInput(f"a Constant states no value in its attribute {given.name!r}")
    return read(given)


def widened(array: Array, name: str) -> Array:
    """float64 as it is, float32 as it is, float16 and bfloat16 as float32: every value exactly."""
    if array.dtype.name in ("float16", "bfloat16"):
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return array.astype(np.float32)
    if array.dtype.name not in ("float32", "float64"):
        raise Unsupported(f"the weights {name!r} are {array.dtype.name}, not floating point")
    return array


def _evaluated(
    node: onnx.NodeProto, inputs: list[Array | None], opsets: dict[str, int]
) -> list[Array]:
    """The outputs of one node on constant inputs, those that have a name."""
    if operator(node) in qonnx.OPERATORS:
        return [qonnx.quantized(node, inputs)]
    if node.op_type == "EyeLike":
        given = {attribute.name: attribute.i for attribute in node.attribute}
        dtype = onnx.helper.tensor_dtype_to_np_dtype(given["dtype"])
        rows, columns = _identity_shape(node)
        return [np.eye(rows, columns, given["k"], dtype)]
    if any(a.name == "to" and a.i == onnx.TensorProto.STRING for a in node.attribute):
        raise Unsupported(f"the constant {node.output[0]!r} is text")
    from onnx.reference import ReferenceEvaluator

    named = {
        name: array for name, array in zip(node.input, inputs, strict=True) if array is not None
    }
    least = _NEWER.get(node.op_type, 0)
    opsets = {
        domain: max(version, least) if domain in STANDARD else version
        for domain, version in opsets.items()
    }
    model = single_node_model(node, named, opsets)
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(result) for result in ReferenceEvaluator(model).run(None, named)]
    except ConvfcError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # whatever an operator raises on untrusted constants
        reason = " ".join(str(error).split())[:160]
        raise MalformedInput(
            f"the constant {node.output[0]!r} cannot be computed by {node.op_type}: {reason}"
        ) from error


def single_node_model(
    node: onnx.NodeProto, inputs: dict[str, Array], opsets: dict[str, int]
) -> onnx.ModelProto:
    """A model of one node, its inputs typed as these arrays are."""
    described = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in inputs.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "constant", described, outputs)
    return onnx.helper.make_model(graph, opset_imports=opset_ids(opsets))


def opset_ids(opsets: dict[str, int]) -> list[onnx.OperatorSetIdProto]:
    """The operator sets as a model lists them."""
    return [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]


def _elements(node: onnx.NodeProto, inputs: list[Array]) -> int:
    """How many elements a node computes at most, before it does."""
    try:
        if node.op_type in _BROADCAST or operator(node) in qonnx.OPERATORS:
            return prod(np.broadcast_shapes(*(array.shape for array in inputs)))
        if node.op_type in _SIZED:
            return max(0, _SIZED[node.op_type](node, inputs))
        return max((array.size for array in inputs), default=0)
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise MalformedInput(
            f"the constant {node.output[0]!r} has inputs that {node.op_type} does not take"
        ) from error


def _steps(start: float, end: float, step: float) -> int:
    """Numbers from one to another; whole ones as Python has them, which do not wrap."""
    return abs(int((end - start) / step)) + 1


def _axis(node: onnx.NodeProto, default: int = 0) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), default)


def _per_channel(inputs: list[Array], axis: int) -> int:
    """Elements of a tensor whose other inputs have one value, one a channel, or one a block."""
    tensor, *others = inputs
    for other in others:
        fits = other.size == 1 or other.shape == tensor.shape[axis : axis + 1 or None]
        blocks = other.ndim == tensor.ndim and all(map(int.__le__, other.shape, tensor.shape))
        if not fits and not blocks:
            raise ValueError(f"{other.shape} values for a tensor of shape {tensor.shape}")
    return tensor.size
