"""Writes small matrix files with the version of convfc that is imported, for `test_written.py`.

    git worktree add /tmp/old c99599d          the tree of version 0.1 that wrote what is here
    PYTHONPATH=/tmp/old python tests/data/make_written.py tests/data/written_by_0.1

The models are made by ONNX's and HDF5's own libraries; `commands.json` says of each matrix file
with which arguments of `convfc convert` it was written.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

RANDOM = np.random.default_rng(20)


def weights(name: str, *shape: int, dtype: Any = np.float32) -> Any:
    """Weights that are not all finite, normal or nonzero, under a name."""
    values = RANDOM.standard_normal(shape).astype(dtype)
    if values.size > 4:
        values.reshape(-1)[:4] = [-0.0, 1e-40, 0.1, 0.0]
    return numpy_helper.from_array(values, name)


def whole(name: str, *shape: int, dtype: Any) -> Any:
    """Whole weights."""
    return numpy_helper.from_array(RANDOM.integers(0, 100, shape).astype(dtype), name)


def network(path: str) -> None:
    """Convolutions of several makes, and the linear layers around them."""
    node = helper.make_node
    nodes = [
        node("Pad", ["x", "pads"], ["padded"], "pad", mode="reflect"),
        node("Conv", ["padded", "w", "b"], ["c"], "conv", strides=[2, 1]),
        node("BatchNormalization", ["c", "g", "h", "m", "v"], ["n"], "norm"),
        node("Relu", ["n"], ["r"]),
        node("Conv", ["r", "d"], ["e"], "grouped", group=2, dilations=[1, 2]),
        node("ConvTranspose", ["e", "t", "u"], ["f"], "turned", strides=[2, 1]),
        node("AveragePool", ["f"], ["a"], "pool", kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
        node("Flatten", ["a"], ["flat"], "flat"),
        node("Gemm", ["flat", "k", "l"], ["y"], "fc", transB=1),
    ]
    stored = [
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"),
        *(weights("w", 2, 2, 3, 3), weights("b", 2), weights("d", 4, 1, 1, 2)),
        *(weights("t", 4, 2, 2, 2), weights("u", 2)),
        *(numpy_helper.from_array(np.abs(RANDOM.standard_normal(2)).astype(np.float32), n)
          for n in "ghmv"),
        *(weights("k", 2, 24), weights("l", 2)),
    ]  # fmt: skip
    _save(path, nodes, stored, (1, 2, 3, 4), TensorProto.FLOAT, TensorProto.FLOAT)


def integers(path: str) -> None:
    """An integer convolution, and a quantized one."""
    nodes = [
        helper.make_node("ConvInteger", ["x", "w"], ["y"], "whole"),
        helper.make_node(
            "QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["q"], "quantized"
        ),
    ]
    stored = [
        whole("w", 2, 1, 2, 2, dtype=np.uint8),
        numpy_helper.from_array(np.array(0.25, np.float32), "s"),
        numpy_helper.from_array(np.array(3, np.uint8), "z"),
    ]
    _save(path, nodes, stored, (1, 1, 4, 4), TensorProto.UINT8, TensorProto.INT32)


def _save(path: str, nodes: Any, stored: Any, shape: tuple[int, ...], kind: int, made: int) -> None:
    given = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", made, None)]
    graph = helper.make_graph(nodes, "network", given, outputs, stored)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def keras(path: str) -> None:
    """A Keras model, channels last, of which one layer has a kernel for each place."""
    common = {"data_format": "channels_last", "padding": "valid", "activation": "linear"}
    conv = {
        **{"name": "conv", "filters": 2, "kernel_size": [2, 3], "strides": [1, 2], **common},
        **{"use_bias": True, "dilation_rate": [1, 1], "batch_input_shape": [None, 5, 7, 2]},
    }
    local = {
        **{"name": "local", "filters": 2, "kernel_size": [2, 2], "strides": [1, 1], **common},
        **{"use_bias": True, "implementation": 1},
    }
    layers = [
        {"class_name": "Conv2D", "config": conv},
        {"class_name": "LocallyConnected2D", "config": local},
    ]
    model = {"class_name": "Sequential", "config": {"name": "model", "layers": layers}}
    variables = {
        "conv": {"kernel": (2, 3, 2, 2), "bias": (2,)},
        "local": {"kernel": (6, 8, 2), "bias": (3, 2, 2)},
    }
    with h5py.File(path, "w", libver="v108") as file:
        file.attrs["model_config"] = json.dumps(model)
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        top = file.create_group("model_weights")
        top.attrs["layer_names"] = np.array([b"conv", b"local"])
        for name, shapes in variables.items():
            group = top.create_group(name)
            paths = [f"{name}/{key}:0" for key in shapes]
            group.attrs["weight_names"] = np.array(paths, "S")
            for key, shape in zip(paths, shapes.values(), strict=True):
                group[key] = RANDOM.standard_normal(shape).astype(np.float32)


COMMANDS = {
    "csr.npz": "network.onnx -l conv",
    "csr_index.npz": "network.onnx -l conv --kernel-index",
    "csc.npz": "network.onnx -l grouped --form csc --layout channels-last",
    "coo.npz": "network.onnx -l grouped --form coo --transpose",
    "coo_index.npz": "network.onnx -l grouped --form coo --kernel-index",
    "bsr.npz": "network.onnx -l grouped --form bsr --layout channels-last",
    "operator.npz": "network.onnx -l conv --form operator",
    "dense.npy": "network.onnx -l grouped --form dense",
    "matrix_market.mtx": "network.onnx -l conv",
    "edges.csv": "network.onnx -l conv",
    "edges_transposed.csv": "network.onnx -l grouped --transpose",
    "matlab.mat": "network.onnx -l conv",
    "all.h5": "network.onnx -l conv -l turned -l norm",
    "index.h5": "network.onnx -l conv --kernel-index",
    "dense.h5": "network.onnx -l grouped --form dense",
    "operator.hdf5": "network.onnx -l conv -l norm --form operator",
    "transposed_layer.npz": "network.onnx -l turned --transpose",
    "float64.npz": "network.onnx -l conv --dtype float64",
    "flipped.npz": "network.onnx -l grouped --flip-kernel",
    "chain.npz": "network.onnx --compose pad:norm",
    "chain_tail.npz": "network.onnx --compose turned:fc --form csc",
    "chain.h5": "network.onnx --compose grouped:fc",
    "pool.npz": "network.onnx -l pool",
    "moved.npz": "network.onnx -l pad --form coo",
    "dense_layer.npz": "network.onnx -l fc",
    "whole.npz": "integers.onnx -l whole",
    "quantized.mat": "integers.onnx -l quantized",
    "dequantized.npz": "integers.onnx -l quantized --dequantize",
    "keras.npz": "keras.keras2 -l conv",
    "local.npz": "keras.keras2 -l local",
    "folder/": "network.onnx -l grouped -l pool",
    "dense_folder/": "keras.keras2 --form dense",
}  # fmt: skip
"""What is written, and by which arguments beside `-o`."""


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    where = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": os.path.abspath(where)}
    os.chdir(folder)
    network("network.onnx")
    integers("integers.onnx")
    keras("keras.keras2")
    for name, arguments in COMMANDS.items():
        command = [sys.executable, "-m", "convfc_cli", "convert", *arguments.split(), "-o", name]
        subprocess.run([*command, "-q"], env=environment, check=True, stdout=subprocess.DEVNULL)
    Path("commands.json").write_text(json.dumps(COMMANDS, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
