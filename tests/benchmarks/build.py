"""Time and memory of building matrices, against the least that any builder must do. Run by hand:

    python tests/benchmarks/build.py [rounds]

"Fill" allocates `data` and `indices` and fills them with a constant. Fill and build take turns in
one process; medians of the ratios are printed. Peak memory (Linux) is that of a process of its own
that builds one matrix, less what it has before and less the three arrays.
"""

import subprocess
import sys
import time
from statistics import median

import numpy as np

from convfc_cli.geometry import convolution_axis, transposed_axis
from convfc_cli.layout import Layout
from convfc_cli.streams import SparseRows
from convfc_cli.taps import IndexMap
from convfc_cli.toeplitz import rows


def cases() -> dict[str, IndexMap]:
    """Large layers of well-known networks, and a transposed one."""
    alexnet = convolution_axis(224, 11, 4, 1, 2, 2)
    vgg = convolution_axis(224, 3, 1, 1, 1, 1)
    resnet = convolution_axis(14, 3, 1, 1, 1, 1)
    wavenet = convolution_axis(8000, 2, 1, 512, 512, 0)
    cube = convolution_axis(16, 3, 1, 1, 1, 1)
    upsampling = transposed_axis(56, 4, 2, 1, 1, 1)
    return {
        "AlexNet conv1": IndexMap((64, 3, 11, 11), (alexnet,) * 2),
        "VGG conv1_1": IndexMap((64, 3, 3, 3), (vgg,) * 2),
        "ResNet 3x3 256ch": IndexMap((256, 256, 3, 3), (resnet,) * 2),
        "WaveNet": IndexMap((64, 64, 2), (wavenet,)),
        "3-D": IndexMap((16, 16, 3, 3, 3), (cube,) * 3),
        "transposed 4x4 s2": IndexMap((64, 64, 4, 4), (upsampling,) * 2, 1, True),
    }


def matrix(index_map: IndexMap, layout: Layout) -> SparseRows:
    """The rows of a layer with random weights."""
    kernel = np.random.default_rng(0).standard_normal(index_map.kernel_shape, np.float32)
    return rows(index_map, kernel, layout)


def build(streams: SparseRows) -> list[np.ndarray]:
    """The three arrays, in memory."""
    return [stream.array() for stream in (streams.data, streams.indices, streams.indptr)]


def fill(streams: SparseRows) -> list[np.ndarray]:
    """Two arrays of the size of data and indices."""
    arrays = [np.empty(len(s), s.dtype) for s in (streams.data, streams.indices)]
    for array in arrays:
        array.fill(1)
    return arrays


def seconds(work, streams: SparseRows) -> float:
    """How long one run takes; the arrays are freed before the clock is asked again."""
    start = time.perf_counter()
    arrays = work(streams)
    elapsed = time.perf_counter() - start
    del arrays
    return elapsed


def peak_beyond_output(name: str) -> float:
    """MB that building takes at its peak beside the arrays themselves, in a process of its own."""
    code = (
        "import runpy\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        f"m = runpy.run_path({__file__!r}, run_name='benchmark')\n"
        f"s = m['matrix'](m['cases']()[{name!r}], m['Layout']())\n"
        "before = peak()\n"
        "arrays = m['build'](s)\n"
        "print((peak() * 1024 - before * 1024 - sum(a.nbytes for a in arrays)) / 1e6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print(f"{'layer':18} {'layout':15} {'nonzeros':>12} {'fill s':>8} {'ratio':>6} {'peak MB':>8}")
    for name, index_map in cases().items():
        for order in ("channels-first", "channels-last"):
            streams = matrix(index_map, Layout(order))
            seconds(fill, streams)  # the first touch of memory is slower than any other
            pairs = [(seconds(fill, streams), seconds(build, streams)) for _ in range(rounds)]
            ratio = median(built / filled for filled, built in pairs)
            peak = peak_beyond_output(name) if order == "channels-first" else float("nan")
            print(
                f"{name:18} {order:15} {index_map.nnz:12,} {median(f for f, _ in pairs):8.3f} "
                f"{ratio:6.2f} {peak:8.1f}"
            )


if __name__ == "__main__":
    main()
