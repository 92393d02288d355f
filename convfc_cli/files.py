"""What every reader and every writer shares: opening an untrusted file, and replacing a file whole.

Reading: `opened` gives a seekable, regular file whatever was named: a path, a pipe, standard
input (both copied to an unnamed temporary file, under a ceiling). Readers
recognize the kind of file by `head`, never by the suffix.

Writing: `replacing` builds the file beside its destination, flushes it to the disk and renames
it. Whatever happens, the destination is absent, the old file, or the new one complete. Of many
files that are valid by a record of them all, none has to be on the disk before that: `sync`
flushes them together, and the record is written last. Whatever happens to the process, each is
absent, old or complete; after a crash of the system the record is missing. A temporary file is
locked while its process lives, so that `remove_unfinished` knows those that died.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from convfc_cli.errors import MalformedInput, OutputExists, OutputFailed, Refused, UsageError
from convfc_cli.hints import Advice, Hint

STDIN = "standard input"

HEAD = 4096
"""Bytes of a file's beginning by which its kind is recognized."""

MAX_SPOOL_BYTES = 8 * 2**30
"""The most that is read from a pipe, unless less than twice that is free."""

_PART = re.compile(r"\.convfc-[0-9a-f]{16}\.part")
"""What a file is called until it has its name."""


class Kept:
    """The bytes of a file under a descriptor of its own: they are read when they are needed, also
    after whoever opened the file has closed it.

    Raises `MalformedInput` for a file that is written into meanwhile.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name, self._descriptor = name, os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._state = self._stated()

    def read(self, start: int, count: int) -> bytes:
        """So many bytes from a place on; fewer at the end."""
        pieces: list[bytes] = []
        while count:
            piece = os.pread(self._descriptor, min(count, 2**30), start)
            if not piece:
                break
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        if self._stated() != self._state:
            raise MalformedInput(f"{self._name} was changed while it was read")
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def sha256(self) -> str:
        """The SHA-256 of all of them, in hexadecimal."""
        digest, start = hashlib.sha256(), 0
        while piece := self.read(start, 2**20):
            digest.update(piece)
            start += len(piece)
        return digest.hexdigest()

    def _stated(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Input:
    """A file to read: what to call it, where it lies (None: a pipe), and its bytes."""

    name: str
    path: Path | None
    file: BinaryIO
    size: int
    head: bytes

    def kept(self) -> "Kept":
        """Its bytes, for when it is closed."""
        return Kept(self.name, self.file)

    def looks_like_text(self) -> bool:
        """Whether the beginning is readable text: never a model, never a matrix."""
        try:
            text = self.head.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":  # the head may end within a character
                return False
            text = self.head[: error.start].decode()
        return all(character.isprintable() or character in "\t\r\n\f" for character in text)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Input]:
    """Open a file that a person named; `-` is standard input.

    Raises `UsageError` for a path that names no file, `MalformedInput` for an empty one,
    `Refused` for a device, a pipe that gives too much, or one that cannot be spooled.
    """
    name = os.fspath(path)
    with ExitStack() as stack:
        if name == "-":
            name, place, file = STDIN, None, _standard_input()
        else:
            place, file = Path(name), stack.enter_context(_named(name))
        try:
            with _regular(file, name, place) as source:
                yield source
        except OSError as error:
            raise UsageError(f"cannot read {name}: {_reason(error)}") from error


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("standard input is closed: name a file, or pipe one in")
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal: name a file, or pipe one in")
    return sys.stdin.buffer


def _named(name: str) -> BinaryIO:
    if not name:
        raise UsageError(
            "the path of a file to read is empty: name a file, or - for standard input"
        )
    try:
        return open(name, "rb")
    except ValueError as error:
        raise UsageError(f"cannot read {name!r}: {error}") from error
    except OSError as error:
        hint = "" if error.errno != 2 else " (a path is taken from the current directory)"
        raise UsageError(f"cannot read {name}: {_reason(error)}{hint}") from error


@contextmanager
def sibling(path: Path) -> Iterator[Input]:
    """Open a file that the user did not name, but another file refers to: only a regular one, and
    without waiting for the writer of a pipe.

    Raises `MalformedInput` where there is none, or another thing of that name.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise MalformedInput(f"{path} is not a regular file")
            yield _input(str(path), path, file)
    except (OSError, ValueError) as error:
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        raise MalformedInput(f"cannot read {path}: {reason}") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


@contextmanager
def _regular(file: BinaryIO, name: str, path: Path | None) -> Iterator[Input]:
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode) and file.seekable() and file.tell() == 0:
        yield _input(name, path, file)
    elif stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        with _spooled(file, name) as spool:
            yield _input(name, None, spool)
    else:
        kind = "folder" if stat.S_ISDIR(mode) else "device"
        raise Refused(f"{name} is a {kind}, not a file or a pipe")


def _input(name: str, path: Path | None, file: BinaryIO) -> Input:
    file.seek(0)
    head = file.read(HEAD)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not size:
        raise MalformedInput(f"{name} is empty")
    return Input(name, path, file, size, head)


def _spooled(source: BinaryIO, name: str) -> BinaryIO:
    """Copy a pipe to an unnamed temporary file.

    Raises `Refused` where the copy cannot be written, or would be too long.
    """
    try:
        ceiling = min(MAX_SPOOL_BYTES, free_space(tempfile.gettempdir()) // 2)
        with ExitStack() as stack:
            spool = stack.enter_context(tempfile.TemporaryFile())
            total = 0
            for chunk in _chunks(source, name):
                total += len(chunk)
                if total > ceiling:
                    raise Refused(
                        f"{name} gives more than {ceiling} bytes, the most that is read from a "
                        f"pipe: save it to a file and name that"
                    )
                spool.write(chunk)
            spool.flush()
            stack.pop_all()
    except OSError as error:
        place = f" {tempfile.tempdir!s}" if tempfile.tempdir else ""
        raise Refused(
            f"cannot spool {name} to the temporary folder{place}: {_reason(error)}; set TMPDIR to "
            f"another folder, or save it to a file and name that"
        ) from error
    return spool


def _chunks(source: BinaryIO, name: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = source.read(2**20)
        except OSError as error:
            raise UsageError(f"cannot read {name}: {_reason(error)}") from error
        if not chunk:
            return
        yield chunk


@contextmanager
def replacing(path: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Write one file whole or not at all: see `replacing_all`."""
    with replacing_all(path, force=force) as (file,):
        yield file


@contextmanager
def replacing_all(
    *paths: Path, force: bool = False, synced: bool = True
) -> Iterator[list[BinaryIO]]:
    """Write files whole or not at all; those at `paths` change when the block has ended well.

    They take their names in this order, and if `synced` all are on the disk before the first does.
    Raises `OutputExists` before anything is written unless `force`, `OutputFailed` when writing
    fails.
    """
    for path in paths:
        check_replaceable(path, force=force)
    targets = [Path(os.path.realpath(path)) for path in paths]  # links are written through
    parts = [target.with_name(f".convfc-{secrets.token_hex(8)}.part") for target in targets]
    try:
        with ExitStack() as locks:
            with ExitStack() as stack:
                files: list[BinaryIO] = []
                for part in parts:
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
                    handle = os.open(part, flags, 0o666)
                    files.append(stack.enter_context(open(handle, "w+b", buffering=0)))
                    if _locked(handle):
                        locks.callback(os.close, os.dup(handle))
                yield files
                for file in files if synced else ():
                    os.fsync(file.fileno())
            for path, part, target in zip(paths, parts, targets, strict=True):
                _put(part, target, path, force=force)
        for folder in {target.parent for target in targets} if synced else ():
            _sync_folder(folder)
    except OSError as error:
        raise OutputFailed(f"cannot write {paths[0]}: {_reason(error)}") from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def sync(paths: Sequence[Path]) -> None:
    """Have files on the disk, and then their names; raises `OutputFailed`."""
    targets = [Path(os.path.realpath(path)) for path in paths]
    for path, target in zip(paths, targets, strict=True):
        try:
            with open(target, "r+b", buffering=0) as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputFailed(f"cannot write {path}: {_reason(error)}") from error
    for folder in {target.parent for target in targets}:
        _sync_folder(folder)


def holds(file: BinaryIO, write: Callable[["_Comparison"], None]) -> bool:
    """Whether a file has just the bytes that `write` writes. It stands at its beginning."""
    try:
        write(_Comparison(file))
        return not file.read(1)
    except _Different:
        return False
    finally:
        file.seek(0)


class _Comparison:
    """An output that takes what a file has, and nothing else."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Take some bytes; raises `_Different`."""
        part = bytes(data[: 2**20])
        if self._file.read(len(part)) != part:
            raise _Different
        return len(part)


class _Different(Exception):
    """The file has other bytes."""


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of processes that ended before they could.

    Where the system cannot lock files, none is removed: it may be that of a living process.
    """
    for part in folder.iterdir():
        if not _PART.fullmatch(part.name) or part.is_symlink() or not part.is_file():
            continue
        with suppress(OSError), open(part, "r+b", opener=_without_waiting) as file:
            if _locked(file.fileno()):
                part.unlink()


def remove(path: Path) -> None:
    """Have a file gone from the disk before anything else is done, if it is there."""
    with suppress(FileNotFoundError):
        path.unlink()
        _sync_folder(path.parent)


def _put(part: Path, target: Path, path: Path, *, force: bool) -> None:
    """Give a finished file its name; without `force`, never in place of another."""
    if not force:
        try:
            os.link(part, target)
            return
        except FileExistsError as error:
            raise OutputExists(
                f"{path} was created by another process: it was not overwritten"
            ) from error
        except OSError:  # a file system without links: what is left is to look once more
            check_replaceable(path, force=False)
    os.replace(part, target)


REPLACE = Hint(Advice.REPLACE)


def check_replaceable(path: Path, *, force: bool, hint: Hint = REPLACE) -> None:
    """Raise unless a file may be put at `path`; `hint` says what to do where one is there."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputFailed(f"cannot write {path}: {_reason(error)}") from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder", Hint(Advice.ELSEWHERE))
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a regular file", Hint(Advice.STREAM))
    if not force:
        raise OutputExists(f"{path} exists", hint)


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder and those above it; what it made and stays empty is removed at the end.

    Raises `OutputFailed`.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]  # innermost first
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFailed(f"cannot make the folder {path}: {_reason(error)}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # one that is not empty, and those above it
            for folder in new:
                folder.rmdir()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other runs from writing into a folder until the block ends.

    The claim is a lock of the operating system: it leaves no file behind, and ends with the process
    that holds it, however that ends. Where the system cannot lock a folder, nothing is claimed.
    Raises `UsageError` while another run holds it.
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            locked = _locked(handle)
            if locked is False:
                raise UsageError(
                    f"another run is writing into {folder}: wait until it ends",
                    Hint(Advice.ELSEWHERE),
                )
            if locked:  # not only closed: a child that was forked meanwhile still has it open
                stack.callback(fcntl.flock, handle, fcntl.LOCK_UN)
        yield


def _locked(handle: int) -> bool | None:
    """Lock an open file or folder: whether it is locked now, or None where the system cannot."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def free_space(path: str | os.PathLike[str]) -> int:
    """Bytes free where `path` lies or would lie."""
    return shutil.disk_usage(_existing(Path(path))).free


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def check_folder(path: Path) -> None:
    """Raise `OutputExists` where a folder can neither be nor be made."""
    place = _existing(path)
    if not place.is_dir():
        name = path if place == path.absolute() else place
        raise OutputExists(f"{name} exists and is not a folder", Hint(Advice.ELSEWHERE))


def human(size: int) -> str:
    """A number of bytes as people read it."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # not every system lets a folder be opened; the file itself is synced
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
