"""Time and memory of `convfc verify`, the whole command, against `convert --no-verify`. By hand:

    python tests/benchmarks/verify.py [rounds] [folder]

The layer is the first of VGG, 86 million nonzeros, 715 MB as npz. The commands take turns; medians
of the times and of their ratios to `convert --no-verify` are printed, start-up included, and the
peak memory of each (Linux).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import helper, numpy_helper

COMMANDS = {
    "convert --no-verify": ("convert", "vgg.onnx", "--no-verify", "-o", "vgg.npz", "--force"),
    "convert": ("convert", "vgg.onnx", "-o", "proven.npz", "--force"),
    "verify": ("verify", "vgg.npz"),
    "verify --against": ("verify", "vgg.npz", "--against", "onnxruntime"),
    "verify --exhaustive": ("verify", "vgg.npz", "--exhaustive"),
}
"""In this order, the first writes what the others read."""


def write_model(path: Path) -> None:
    """The first layer of VGG on an image of 224 x 224, with random weights and a bias."""
    random = np.random.default_rng(0)
    kernel = random.standard_normal((64, 3, 3, 3), np.float32)
    bias = random.standard_normal(64, np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv1_1", pads=[1, 1, 1, 1])
    shapes = {"x": (1, 3, 224, 224), "y": (1, 64, 224, 224)}
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    stored = [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "vgg", [x], [y], stored)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def run(arguments: tuple[str, ...], folder: Path) -> tuple[float, int]:
    """(seconds, peak memory in MB) of one command."""
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "convfc_cli", *arguments, "--quiet"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"convfc {' '.join(arguments)} has failed")
    return seconds, usage.ru_maxrss // 1024


def main(rounds: int, folder: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_model(Path(place, "vgg.onnx"))
        taken: dict[str, list[tuple[float, int]]] = {name: [] for name in COMMANDS}
        for _ in range(rounds):
            for name, arguments in COMMANDS.items():
                taken[name].append(run(arguments, Path(place)))
    base = [seconds for seconds, _ in taken["convert --no-verify"]]
    for name, results in taken.items():
        ratio = median(seconds / one for (seconds, _), one in zip(results, base, strict=True))
        seconds, memory = median(s for s, _ in results), max(m for _, m in results)
        print(f"{name:20} {seconds:6.2f} s  {ratio:5.2f}  {memory:4} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else None)
