"""For the tests of the command: small models, and ways to run it.

`run` runs it in this process, `process` in one of its own, `terminal` with a terminal in the place
of some of its streams. Models are built here from ONNX's own parts, so that nothing of what is
tested helps to make them.
"""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from convfc_cli.cli.main import main
from tests.support.paths import ROOT
from tests.support.schemas import held

LENET = ROOT / "sample_models" / "lenet.onnx"
MIXED = ROOT / "sample_models" / "mixed.onnx"

COMMAND = (sys.executable, "-m", "convfc_cli")

PATIENCE = 30
"""Seconds after which something that should have happened has not."""

COLOR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9]+)*m")


@dataclass(frozen=True)
class Ran:
    """What a run of the command left behind."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        """Standard output as text."""
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()

    def succeeded(self) -> "Ran":
        """Itself, having ended well."""
        assert (self.code, "Traceback" in self.err) == (0, False), self
        return self

    def failed(self, code: int) -> str:
        """Its error: the whole of standard error, one line; nothing on standard output."""
        assert self.code == code, self
        assert self.raw == b"", self
        return self.complaint()

    def complaint(self) -> str:
        """The one line of standard error that says what went wrong."""
        assert "Traceback" not in self.err, self
        found = [line for line in self.err.splitlines() if line.startswith("convfc: error: ")]
        assert len(found) == 1, self
        assert self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self
        return found[0].removeprefix("convfc: error: ")


class _Standard(io.TextIOWrapper):
    """A standard stream over bytes in memory."""

    def __init__(self) -> None:
        self.held = io.BytesIO()
        super().__init__(self.held, encoding="utf-8", write_through=True)


def run(*arguments: object, stdin: bytes | None = None) -> Ran:
    """The command in this process; `stdin` comes from a file, none is a closed one."""
    out, err, before = _Standard(), _Standard(), sys.stdin
    handler = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryFile() as source, redirect_stdout(out), redirect_stderr(err):
        try:
            if stdin is None:
                sys.stdin = None  # type: ignore[assignment]
            else:
                source.write(stdin)
                source.seek(0)
                sys.stdin = io.TextIOWrapper(source)
            with pytest.raises(SystemExit) as ended:
                main(list(map(str, arguments)))
        finally:
            if sys.stdin is not None:
                sys.stdin.detach()
            sys.stdin = before
            signal.signal(signal.SIGTERM, handler)
    code = ended.value.code
    assert isinstance(code, int)
    done = Ran(code, out.held.getvalue(), err.held.getvalue().decode())
    if "--json" in arguments and done.raw:
        held(done.out)
    return done


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process: this one's, without what steers colors."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **(extra or {})}


def process(
    *arguments: object,
    cwd: Path,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Ran:
    """The command in a process of its own; `stdin` comes through a pipe."""
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(
        [*prefix, *COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        **source,
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def shell(script: str, cwd: Path) -> Ran:
    """A bash script in which `convfc` is the command."""
    prelude = f'convfc() {{ "{sys.executable}" -m convfc_cli "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", prelude + script],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode())


def started(*arguments: object, cwd: Path, **more: Any) -> subprocess.Popen[bytes]:
    """The command in a process that goes on."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=environment(), **{**streams, **more}
    )


def terminal(
    *arguments: object,
    cwd: Path,
    streams: Sequence[str] = ("stdout",),
    columns: int = 160,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str, dict[str, str]]:
    """The command with `streams` on one terminal: (code, what the terminal got, the other two)."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    others = {name: tempfile.TemporaryFile() for name in ("stdout", "stderr")}  # noqa: SIM115
    chosen: dict[str, Any] = {"stdin": subprocess.DEVNULL, **others}
    chosen.update(dict.fromkeys(streams, theirs))
    shown = b""
    try:
        child = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], cwd=cwd, env=environment(env), **chosen
        )
        os.close(theirs)
        with suppress(OSError):  # the end of a terminal is an error
            while part := os.read(ours, 65536):
                shown += part
        code = child.wait(PATIENCE)
        texts = {}
        for name, file in others.items():
            file.seek(0)
            texts[name] = file.read().decode()
    finally:
        os.close(ours)
        for file in others.values():
            file.close()
    return code, shown.decode().replace("\r\n", "\n"), texts


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} has not happened"
        time.sleep(0.002)


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All that is in a folder: names, times of change, bytes."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns if path.is_file() else 0,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


def matrix_of(path: Path) -> Any:
    """The matrix in an npz as a dense array, opened by SciPy as it is."""
    from scipy.sparse import load_npz

    return load_npz(path).toarray()


def arrays(path: Path) -> dict[str, Any]:
    """All arrays in an npz."""
    with np.load(path) as file:
        return dict(file)


def rewritten(path: Path, target: Path, **changed: Any) -> Path:
    """The npz at `path` written anew by NumPy, well-formed, with some arrays in others' places."""
    np.savez(target, **{**arrays(path), **changed})
    return target


def net(
    path: Path,
    *,
    names: Sequence[str] = ("conv",),
    shape: Sequence[int | str] = (1, 2, 6, 5),
    outputs: int = 3,
    kernel: int = 3,
    seed: int = 0,
    dtype: Any = np.float32,
    tensor: str = "x",
    flipped: bool = False,
    transposed: bool = False,
    unsupported: Sequence[str] = (),
    change: Callable[[list[Any]], None] = lambda weights: None,
) -> Path:
    """A chain of convolutions that keep the size of `shape`, each followed by a Relu.

    `unsupported` names further convolutions that no version of ours reads; `change` may alter the
    kernels before they are written; `flipped` turns them round.
    """
    random = np.random.default_rng(seed)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    channels = shape[1]
    assert isinstance(channels, int)
    nodes, stored, kernels, source = [], [], [], tensor
    for number, _ in enumerate(names):
        sizes = (channels, outputs) if transposed else (outputs, channels)
        kernels.append(random.standard_normal((*sizes, kernel, kernel)).astype(dtype))
        stored.append(
            numpy_helper.from_array(random.standard_normal(outputs).astype(dtype), f"b{number}")
        )
        channels = outputs
    change(kernels)
    for number, name in enumerate(names):
        weights = kernels[number][:, :, ::-1, ::-1] if flipped else kernels[number]
        stored.append(numpy_helper.from_array(np.ascontiguousarray(weights), f"w{number}"))
        nodes.append(
            helper.make_node(
                "ConvTranspose" if transposed else "Conv",
                [source, f"w{number}", f"b{number}"],
                [f"y{number}"],
                name=name,
                pads=[kernel // 2] * 4,
            )
        )
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"z{number}"]))
        source = f"z{number}"
    for number, name in enumerate(unsupported):
        inputs = [source, f"w{len(names) - 1}"]
        nodes.append(
            helper.make_node("NhwcConv", inputs, [f"u{number}"], name=name, domain="com.microsoft")
        )
    _save(path, nodes, stored, tensor, kind, shape, source)
    return path


def without_convolution(path: Path) -> Path:
    """A model that has none."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    _save(path, nodes, [], "x", TensorProto.FLOAT, (1, 2, 6, 5), "y")
    return path


def zero_sizes(path: Path, *, inner: bool = True) -> Path:
    """`net` of two layers with 0 declared for height and width: of its input and output, and
    `inner` also of the tensors between.
    """
    model = onnx.load(net(path, names=("a", "b")))
    graph = model.graph
    if inner:
        names = ("y0", "z0", "y1")
        graph.value_info.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 0, 0]) for name in names
        )
    for value, channels in ((graph.input[0], 2), (graph.output[0], 3)):
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [1, channels, 0, 0])
        )
    onnx.save(model, path)
    return path


def large(path: Path, *, channels: int = 48, size: int = 64) -> Path:
    """One layer whose matrix has hundreds of megabytes: long to write, small to keep."""
    return net(path, shape=(1, channels, size, size), outputs=channels)


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    stored: Sequence[onnx.TensorProto],
    tensor: str,
    kind: int,
    shape: Sequence[int | str],
    result: str,
) -> None:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(tensor, kind, shape)],
        [helper.make_tensor_value_info(result, kind, [None] * len(shape))],
        stored,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
