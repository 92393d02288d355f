"""Train one small network, and save it in every kind of file that holds a network's convolutions.

Run from the repository root, with the packages that sample_models/README.md lists:

    python sample_models/make_keras_samples.py

PyTorch trains the network and exports it to ONNX. The same weights, transposed and otherwise as
they are, are put into a Keras 2 and a Keras 3 model, and each framework saves its own files:
sample_models/digits*. What each of the three computes goes to tests/data/recorded/digits.npz.

Before it ends, the script has every framework read its files again and compares all weights.
"""

import ast
import os
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # other kernels on other processors
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import h5py
import keras
import nir
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tensorflow as tf
import tf_keras
import torch
from make_samples import (
    CONVOLUTION_OP_TYPES,
    MODELS_DIR,
    RECORDED_DIR,
    accuracy,
    load_digits,
    strip_metadata,
    train,
)
from torch import Tensor, nn

NAME = "digits"

RECORDED_IMAGE = 700
"""Position, among the held-out digits, of the recorded image: a 7."""

REQUIRED_ACCURACY = 0.94
"""Less than that of the other classifiers: this one has 4,168 parameters."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)

KERAS2_FILES = ("digits_keras2.h5", "digits_keras2.keras", "digits_keras2_weights.h5")
KERAS3_FILES = (
    "digits_keras3.h5",
    "digits_keras3.keras",
    "digits_keras3.weights.h5",
    "digits_keras3_shards.weights.json",
)
"""Whole as HDF5 and as a zip, and the weights alone; those of Keras 3 also in several files."""

SHARD = 10e-6
"""Gigabytes of weights that a shard may have: so little that there are several."""

TOLERANCE = 1e-5
"""How far the frameworks' outputs may be apart, absolutely and relatively; they reach 46."""

FloatArray = npt.NDArray[np.float32]
Arrays = dict[str, FloatArray]


class Stem(nn.Conv2d):
    """A convolution of stride 2, padded as Keras pads `same`: by one zero, at the end alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class Encoder(nn.Module):
    """The network within the network; `refine` is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(4, 8, kernel_size=3, padding=1, groups=4)
        self.mix = nn.Conv2d(8, 8, kernel_size=4, padding="same")
        self.refine = nn.Conv2d(8, 8, kernel_size=3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.expand(x)), 2)
        x = torch.relu(self.mix(x))
        return torch.relu(self.refine(torch.relu(self.refine(x))))


class Network(nn.Module):
    """A classifier of digits.

    The normalizations come after the activations: one right after a convolution would be merged
    into its weights by the ONNX exporter, and the matrix would be another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem(1, 4, kernel_size=3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.encoder = Encoder()
        self.grouped = nn.Conv2d(8, 8, kernel_size=3, padding=1, groups=2, bias=False)
        self.norm_1 = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, kernel_size=4, stride=2, padding=1)
        self.down = nn.Conv2d(6, 8, kernel_size=4, stride=2, padding=1)
        self.rows = nn.Conv1d(8, 10, kernel_size=7, stride=7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.relu(self.stem(x)))
        x = self.encoder(x)
        x = self.norm_1(torch.relu(self.grouped(x)))
        x = torch.relu(self.up(x))
        x = torch.relu(self.down(x))
        return self.rows(x.flatten(2)).mean(2)


def keras_network(package: Any) -> Any:
    """Return the same network made of the layers of `package`: keras, or tf_keras for Keras 2.

    The layers have the names of PyTorch's modules, and random weights.
    """
    layers = package.layers
    package.utils.set_random_seed(0)
    package.backend.clear_session()

    relu = "relu"
    inside = layers.Input((14, 14, 4), name="features")
    expand = layers.DepthwiseConv2D(
        3, padding="same", depth_multiplier=2, activation=relu, name="expand"
    )
    x = layers.MaxPooling2D(2, name="pool")(expand(inside))
    x = layers.Conv2D(8, 4, padding="same", activation=relu, name="mix")(x)
    refine = layers.Conv2D(8, 3, padding="same", dilation_rate=2, activation=relu, name="refine")
    encoder = package.Model(inside, refine(refine(x)), name="encoder")

    image = layers.Input((28, 28, 1), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation=relu, name="stem")(image)
    x = encoder(layers.BatchNormalization(epsilon=1e-5, name="norm")(x))
    x = layers.Conv2D(
        8, 3, padding="same", groups=2, activation=relu, use_bias=False, name="grouped"
    )(x)
    x = layers.BatchNormalization(epsilon=1e-5, name="norm_1")(x)
    x = layers.Conv2DTranspose(6, 4, strides=2, padding="same", activation=relu, name="up")(x)
    x = layers.Conv2D(8, 4, strides=2, padding="same", activation=relu, name="down")(x)
    x = layers.Reshape((49, 8), name="flatten")(x)
    x = layers.Conv1D(10, 7, strides=7, name="rows")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return package.Model(image, x, name=NAME)


def keras_layers(model: Any, scope: str = "") -> dict[str, Any]:
    """The layers of a Keras model that have weights, under the names of PyTorch's modules."""
    found: dict[str, Any] = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= keras_layers(layer, f"{scope}{layer.name}.")
        elif layer.weights:
            found[scope + layer.name] = layer
    return found


def keras_weights(module: nn.Module) -> list[FloatArray]:
    """The weights of a module in the order of Keras, and with the axes of Keras."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    if isinstance(module, nn.BatchNorm2d):
        return [state[name] for name in ("weight", "bias", "running_mean", "running_var")]
    kernel = state["weight"]
    spatial = range(2, kernel.ndim)
    if getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1:
        split = kernel.reshape(module.in_channels, -1, *kernel.shape[2:])
        kernel = split.transpose(*spatial, 0, 1)
    else:  # (out, in, k...), and (in, out, k...) of a transposed one: both are turned round
        kernel = kernel.transpose(*spatial, 1, 0)
    return [kernel, state["bias"]] if "bias" in state else [kernel]


def from_torch(package: Any, network: nn.Module) -> Any:
    """The network with the weights of PyTorch's, as a model of Keras 2 or 3."""
    model = keras_network(package)
    for name, layer in keras_layers(model).items():
        layer.set_weights(keras_weights(network.get_submodule(name)))
    model.compile(
        optimizer="sgd",
        loss=package.losses.SparseCategoricalCrossentropy(from_logits=True, name="loss"),
    )
    return model


def save_keras2(model: Any) -> None:
    """Save the network as Keras 2 does: whole, in both formats, and its weights alone."""
    whole, zipped, weights = (MODELS_DIR / name for name in KERAS2_FILES)
    model.save(whole)
    model.save(zipped)
    model.save_weights(weights, save_format="h5")


def save_keras3(model: Any) -> None:
    """Save the network as Keras 3 does: whole, in both formats, and its weights alone."""
    whole, zipped, weights, sharded = (MODELS_DIR / name for name in KERAS3_FILES)
    model.save(whole)
    model.save(zipped)
    model.save_weights(weights)
    model.save_weights(sharded, max_shard_size=SHARD)


def save_torch(network: nn.Module) -> None:
    """Save PyTorch's state dict, each tensor a dataset of that name."""
    with h5py.File(MODELS_DIR / "digits_torch.h5", "w") as file:
        for name, value in network.state_dict().items():
            file[name] = value.numpy()


def save_nir(network: Network) -> None:
    """Save convolutions as a NIR graph, in a chain without what is between them.

    NIR has no node for the padding of `stem`, nor for `up`, and its check of types takes no account
    of groups.
    """

    def arguments(module: nn.Conv1d | nn.Conv2d) -> dict[str, Any]:
        assert module.bias is not None
        weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
        return {"weight": weight, "bias": bias, "groups": module.groups}

    def conv1d(module: nn.Conv1d, size: int) -> nir.Conv1d:
        (stride,), (padding,), (dilation,) = module.stride, module.padding, module.dilation
        return nir.Conv1d(
            size, stride=stride, padding=padding, dilation=dilation, **arguments(module)
        )

    def conv2d(module: nn.Conv2d, size: int) -> nir.Conv2d:
        return nir.Conv2d(
            (size, size),
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            **arguments(module),
        )

    def chain(**nodes: nir.NIRNode) -> nir.NIRGraph:
        return nir.NIRGraph(nodes, list(zip(nodes, list(nodes)[1:], strict=False)), metadata={})

    encoder = chain(
        input=nir.Input(np.array([8, 7, 7])),
        mix=conv2d(network.encoder.mix, 7),
        refine=conv2d(network.encoder.refine, 7),
        output=nir.Output(np.array([8, 7, 7])),
    )
    graph = chain(
        input=nir.Input(np.array([6, 14, 14])),
        down=conv2d(network.down, 14),
        encoder=encoder,
        flatten=nir.Flatten({"input": np.array([8, 7, 7])}, 1, 2),
        rows=conv1d(network.rows, 49),
        output=nir.Output(np.array([10, 7])),
    )
    nir.write(MODELS_DIR / "digits.nir", graph)
    nir.read(MODELS_DIR / "digits.nir")


def module_of(node: onnx.NodeProto) -> str:
    """The module that a node was exported from, by the exporter's notes: `encoder.mix`."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    return str(ast.literal_eval(notes["pkg.torch.onnx.name_scopes"])[-2])


def export(network: nn.Module, image: Tensor) -> onnx.ModelProto:
    """Return the ONNX form of the network; its convolutions are named after their modules."""
    program = torch.onnx.export(
        network, (image,), input_names=["x"], output_names=["y"], dynamo=True, verbose=False
    )
    if program is None:
        raise RuntimeError("the exporter returned no model")
    model = program.model_proto
    nodes = [node for node in model.graph.node if node.op_type in CONVOLUTION_OP_TYPES]
    for node, name in zip(nodes, numbered([module_of(node) for node in nodes]), strict=True):
        node.name = name
    strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def numbered(modules: list[str]) -> list[str]:
    """Names of calls: `encoder/mix`, and `encoder/refine:0` where a module is called again."""
    seen: dict[str, int] = {}
    names = []
    for module in modules:
        call = seen[module] = seen.get(module, -1) + 1
        name = module.replace(".", "/")
        names.append(name if modules.count(module) == 1 else f"{name}:{call}")
    return names


@torch.no_grad()
def record_torch(network: nn.Module, image: Tensor) -> tuple[list[str], Arrays]:
    """Run the network: the modules of its convolutions as they are called, and the tensors."""
    modules: list[str] = []
    arrays: Arrays = {}

    def keep(name: str, arguments: tuple[Any, ...], output: Tensor) -> None:
        arrays[f"{len(modules)}/input"] = arguments[0].clone().numpy()
        arrays[f"{len(modules)}/torch"] = output.clone().numpy()
        modules.append(name)

    hooks = [
        module.register_forward_hook(lambda _, a, o, name=name: keep(name, a, o))
        for name, module in network.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    arrays["y/torch"] = network(image).numpy()
    for hook in hooks:
        hook.remove()
    return modules, arrays


def record_keras(model: Any, label: str, modules: list[str], arrays: Arrays) -> None:
    """Run the network, and each convolution on the input that it had in PyTorch."""
    arrays[f"y/{label}"] = np.array(model(np.moveaxis(arrays["x"], 1, -1)))
    layers = keras_layers(model)
    for number, name in enumerate(modules):
        layer, x = layers[name], np.moveaxis(arrays[f"{number}/input"], 1, -1)
        activation, layer.activation = layer.activation, None
        arrays[f"{number}/{label}"] = np.array(layer(x))
        layer.activation = activation


def check_outputs(model: onnx.ModelProto, count: int, arrays: Arrays) -> float:
    """Compare Keras and ONNX Runtime with PyTorch, and return the largest difference."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    nodes = [node for node in model.graph.node if node.op_type in CONVOLUTION_OP_TYPES]
    names = [node.output[0] for node in nodes]
    for name in names:
        exposed.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(exposed.SerializeToString())
    computed = dict(
        zip(["y", *range(count)], session.run(["y", *names], {"x": arrays["x"]}), strict=True)
    )
    largest = 0.0
    for key, runtime in computed.items():
        want = arrays[f"{key}/torch"]
        keras2, keras3 = (np.moveaxis(arrays[f"{key}/keras{n}"], -1, 1) for n in (2, 3))
        for got in (runtime, keras2, keras3):
            np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)
            largest = max(largest, float(np.abs(got - want).max()))
    return largest


def check_keras(package: Any, model: Any, names: tuple[str, ...]) -> None:
    """Have Keras load each of its files, and compare all weights with those of `model`."""
    for name in names:
        path = str(MODELS_DIR / name)
        if "weights" in name:
            loaded = keras_network(package)
            loaded.load_weights(path)
        else:
            loaded = package.models.load_model(path, compile=False)
        layers, others = keras_layers(model), keras_layers(loaded)
        if layers.keys() != others.keys():
            raise RuntimeError(f"{name} has the layers {', '.join(others)}")
        for layer in layers:
            for one, two in zip(
                layers[layer].get_weights(), others[layer].get_weights(), strict=True
            ):
                np.testing.assert_array_equal(one, two, err_msg=f"{name}: {layer}")


def clear() -> None:
    """Remove the files of an earlier run: a different number of shards would leave some."""
    for path in MODELS_DIR.glob(f"{NAME}*"):
        path.unlink()


def main() -> None:
    """Train the network and save it everywhere."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    training, held_out = load_digits()

    torch.manual_seed(0)
    network = Network()
    train(
        network,
        training.images,
        training.labels,
        nn.functional.cross_entropy,
        epochs=20,
        learning_rate=4e-3,
    )
    reached = accuracy(network, held_out)
    print(
        f"{NAME}: accuracy {accuracy(network, training):.2%} on the training digits, "
        f"{reached:.2%} on the held-out digits"
    )
    if reached < REQUIRED_ACCURACY:
        raise RuntimeError(f"{NAME}: the accuracy is below {REQUIRED_ACCURACY:.0%}")

    clear()
    image = held_out.images[RECORDED_IMAGE : RECORDED_IMAGE + 1]
    model = export(network, image)
    onnx.save(model, MODELS_DIR / "digits.onnx")
    save_torch(network)
    save_nir(network)
    keras2 = from_torch(tf_keras, network)
    save_keras2(keras2)
    keras3 = from_torch(keras, network)
    save_keras3(keras3)

    modules, arrays = record_torch(network, image)
    arrays["x"] = image.numpy()
    record_keras(keras2, "keras2", modules, arrays)
    record_keras(keras3, "keras3", modules, arrays)
    difference = check_outputs(model, len(modules), arrays)
    print(f"{NAME}: largest difference from PyTorch {difference:.1e}")
    outputs = np.array(numbered(modules))
    np.savez_compressed(RECORDED_DIR / f"{NAME}.npz", outputs=outputs, **arrays)

    check_keras(tf_keras, keras2, KERAS2_FILES)
    check_keras(keras, keras3, KERAS3_FILES)


if __name__ == "__main__":
    main()
