"""Record what PyTorch makes of the layers of a state dict: `python make_torch_state.py`.

`recorded/hdf5/torch_state.h5` is the state dict as people write one with h5py, a dataset for each
parameter; `torch_state.npz` holds an input and the output of every layer. Run with torch 2.13.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent / "recorded" / "hdf5"

LAYERS = {
    "stem": (nn.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0)), (3, 7, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (4, 5, 4)),
    "dilated": (nn.Conv2d(2, 3, (2, 3), dilation=(3, 2)), (2, 7, 8)),
    "same": (nn.Conv2d(2, 2, (4, 3), padding="same", dilation=(1, 2)), (2, 6, 7)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3, stride=(2, 1)), (3, 7, 5)),
    "line": (nn.Conv1d(3, 4, 5, stride=3, padding=2), (3, 13)),
    "solid": (nn.Conv3d(2, 3, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)), (2, 3, 4, 3)),
    "up": (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=(1, 0)), (3, 3, 4)),
    "up_grouped": (nn.ConvTranspose2d(4, 6, (3, 2), stride=(3, 1), groups=2), (4, 3, 3)),
    "up_dilated": (nn.ConvTranspose1d(2, 3, 3, 2, 1, 2, dilation=3), (2, 4)),
}


def main() -> None:
    torch.manual_seed(2017)
    net = nn.ModuleDict({name: layer for name, (layer, _) in LAYERS.items()})
    for parameter in net.parameters():  # large enough for a bias not to vanish in a tolerance
        nn.init.normal_(parameter)
    HERE.mkdir(parents=True, exist_ok=True)
    with h5py.File(HERE / "torch_state.h5", "w", libver="latest") as file:
        for name, value in net.state_dict().items():
            file[name] = value.numpy()
    arrays = {}
    for name, (layer, shape) in LAYERS.items():
        x = torch.randn(1, *shape)
        with torch.no_grad():
            y = layer.double()(x.double())
        arrays[f"{name}/x"], arrays[f"{name}/y"] = x[0].numpy(), y[0].numpy()
    np.savez_compressed(HERE / "torch_state.npz", **arrays)


if __name__ == "__main__":
    main()
