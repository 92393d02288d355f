"""Record NIR graphs as the package `nir` writes them: `python make_nir.py`.

`recorded/hdf5/nir.npz` holds the bytes of the files (compressed: HDF5 leaves much room), and for
each convolution an input and the output of PyTorch's layer. Run with nir 1.0.8 and torch 2.13.
"""

import tempfile
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import torch
from torch.nn import functional

HERE = Path(__file__).parent / "recorded" / "hdf5"


def graph(nodes: dict, first: tuple, last: tuple) -> nir.NIRGraph:
    names = ["input", *nodes, "output"]
    ends = {"input": nir.Input(np.array(first)), "output": nir.Output(np.array(last))}
    edges = list(pairwise(names))
    return nir.NIRGraph({**nodes, **ends}, edges)


def main() -> None:
    random = np.random.default_rng(2017)

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    conv2d = {
        "first": nir.Conv2d((7, 6), draw(4, 2, 3, 3), (2, 1), (1, 0), 1, 1, draw(4)),
        "second": nir.Conv2d(None, draw(4, 2, 2, 2), 1, "same", (2, 1), 2, draw(4)),
    }
    conv1d = {
        "first": nir.Conv1d(11, draw(3, 2, 4), 2, 3, 1, 1, draw(3)),
        "second": nir.Conv1d(None, draw(3, 1, 2), 1, "valid", 3, 3, draw(3)),
    }
    inner = graph(conv1d, (2, 11), (3, 4))
    graphs = {
        "conv2d": graph(conv2d, (2, 7, 6), (4, 4, 4)),
        "conv1d": graph({"inner": inner}, (2, 11), (3, 4)),
    }
    arrays = {}
    for name, made in graphs.items():
        with tempfile.TemporaryDirectory() as folder:
            nir.write(Path(folder) / "graph.nir", made)
            content = (Path(folder) / "graph.nir").read_bytes()
        arrays[f"{name}.nir"] = np.frombuffer(content, np.uint8)
    for kind, nodes, run in (
        ("conv2d", conv2d, functional.conv2d),
        ("conv1d", conv1d, functional.conv1d),
    ):
        for name, node in nodes.items():
            sizes = np.atleast_1d(node.input_shape)
            x = draw(node.weight.shape[1] * node.groups, *sizes)
            y = run(
                torch.from_numpy(x)[None].double(),
                torch.from_numpy(node.weight).double(),
                torch.from_numpy(node.bias).double(),
                node.stride,
                node.padding,
                node.dilation,
                node.groups,
            )
            arrays[f"{kind}/{name}/x"], arrays[f"{kind}/{name}/y"] = x, y[0].numpy()
    np.savez_compressed(HERE / "nir.npz", **arrays)


if __name__ == "__main__":
    main()
