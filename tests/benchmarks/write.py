"""Time and memory of writing matrix files, against a plain write of as many bytes. Run by hand:

    python tests/benchmarks/write.py [rounds] [folder]

The layer is the first of VGG, 86 million nonzeros, 715 MB. "Raw" writes one buffer of 4 MB again
and again. Every file is flushed to the disk before the clock is asked. The kinds take turns in one
process; medians of the ratios to raw are printed, and, for what the disk can explain, the spread of
raw itself. Peak memory (Linux) is that of a process of its own that writes one file, less what it
has before.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import BinaryIO

import numpy as np

from convfc_cli.geometry import convolution_axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices.matrix import Matrix
from convfc_cli.matrices.registry import formats
from convfc_cli.matrices.stored_zip import write_all
from convfc_cli.taps import IndexMap

KINDS = ("npz", "hdf5")


def layer() -> Matrix:
    """The first layer of VGG on an image of 224 x 224, with random weights and a bias."""
    axis = convolution_axis(224, 3, 1, 1, 1, 1)
    random = np.random.default_rng(0)
    kernel = random.standard_normal((64, 3, 3, 3), np.float32)
    bias = random.standard_normal(64, np.float32)
    return Matrix(Convolution(kernel, IndexMap(kernel.shape, (axis, axis)), bias))


def writer(name: str, matrix: Matrix) -> Callable[[BinaryIO], None]:
    """What writes a file of this kind."""
    if name != "raw":
        return lambda out: formats()[name].write([matrix], out, lambda done: None)
    size = formats()["npz"].size(
        matrix.spec, matrix.layer.index_map, matrix.layer.dtype, matrix.origin
    )
    buffer = np.random.default_rng(0).bytes(2**22)

    def raw(out: BinaryIO) -> None:
        for start in range(0, size, len(buffer)):
            write_all(out, memoryview(buffer)[: size - start])

    return raw


def seconds(write: Callable[[BinaryIO], None], folder: Path) -> float:
    """How long it takes until the file is on the disk; what was there before has settled."""
    os.sync()
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as out:
        start = time.perf_counter()
        write(out)  # type: ignore[arg-type]
        os.fsync(out.fileno())
        return time.perf_counter() - start


def peak(name: str, folder: Path) -> float:
    """MB that writing takes at its peak, in a process of its own."""
    code = (
        "import runpy, pathlib\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        f"m = runpy.run_path({__file__!r}, run_name='benchmark')\n"
        f"write = m['writer']({name!r}, m['layer']())\n"
        "before = peak()\n"
        f"m['seconds'](write, pathlib.Path({str(folder)!r}))\n"
        "print((peak() - before) * 1024 / 1e6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.gettempdir())
    matrix = layer()
    writers = {name: writer(name, matrix) for name in ("raw", *KINDS)}
    for write in writers.values():  # memory and disk are touched once before they are timed
        seconds(write, folder)
    taken = []
    for turn in range(rounds):  # whoever writes first pays for what the disk has yet to do
        order = [*writers][turn % len(writers) :] + [*writers][: turn % len(writers)]
        taken.append({name: seconds(writers[name], folder) for name in order})
    raw = [times["raw"] for times in taken]
    print(f"{'kind':6} {'seconds':>8} {'ratio':>6} {'peak MB':>8}   least to most of the ratio")
    for name in writers:
        ratios = [times[name] / times["raw"] for times in taken]
        told = f"{min(ratios):.2f} to {max(ratios):.2f}"
        if name == "raw":
            told = f"raw itself: {min(raw) / median(raw):.2f} to {max(raw) / median(raw):.2f}"
        print(
            f"{name:6} {median(times[name] for times in taken):8.3f} {median(ratios):6.2f} "
            f"{peak(name, folder):8.1f}   {told}"
        )


if __name__ == "__main__":
    main()
