"""A conversion that is killed at random moments and resumed, held to an undisturbed one.

By hand: `python -m tests.support.kill_and_resume [LAYERS] [KILLS]` kills so many conversions once
each, then one so many times in a row, and prints a line for each kill.
"""

import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, TimeoutExpired

from tests.support.cli_models import net, process, started


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones too; nothing where there is none."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def undisturbed(model: Path) -> tuple[dict[str, bytes], float]:
    """What a conversion writes, and how many seconds it takes."""
    before = time.perf_counter()
    process("convert", model.name, "-o", "undisturbed/", cwd=model.parent).succeeded()
    return contents(model.parent / "undisturbed"), time.perf_counter() - before


def killed(model: Path, folder: Path, seconds: float) -> bool:
    """Whether a conversion that begins or resumes a folder had to be killed after so long."""
    arguments = ("convert", model.name, "-o", f"{folder.name}/", "--resume")
    child = started(*arguments, cwd=model.parent, stdout=DEVNULL, stderr=DEVNULL)
    with suppress(TimeoutExpired):
        assert child.wait(seconds) == 0
        return False
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def disturbed(
    model: Path, folder: Path, kills: int, seconds: float, moments: random.Random
) -> Iterator[tuple[float, int]]:
    """Kill a conversion so many times in a row, then resume it to its end: (the moment, files that
    are there then) of each kill. Where one ends sooner, the folder is begun anew.
    """
    while kills:
        moment = moments.uniform(0, seconds)
        if killed(model, folder, moment):
            kills -= 1
            yield moment, len(contents(folder))
        else:
            for path in folder.iterdir():
                path.unlink()
    process(
        "convert", model.name, "-o", f"{folder.name}/", "--resume", cwd=model.parent
    ).succeeded()


def main(layers: int = 100, kills: int = 20) -> None:
    """Print each kill, and whether all ended as the undisturbed conversion."""
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        names = [f"conv{number}" for number in range(layers)]
        model = net(Path(place, "m.onnx"), names=names, shape=(1, 3, 12, 12))
        wanted, seconds = undisturbed(model)
        print(f"seed {seed}: {layers} layers, {len(wanted)} files, {seconds:.2f} s undisturbed")
        for number, count in enumerate([1] * kills + [kills]):
            folder = Path(place, f"{number}")
            for moment, files in disturbed(model, folder, count, seconds, moments):
                print(f"folder {number}: killed after {moment:.2f} s with {files} files there")
            same = contents(folder) == wanted
            print(f"folder {number}: resumed, {'the same bytes' if same else 'OTHER BYTES'}")
            assert same


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
