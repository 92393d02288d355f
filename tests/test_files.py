"""`files`: opening an untrusted file, and replacing a file whole or not at all."""

import hashlib
import io
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from convfc_cli import files
from convfc_cli.errors import (
    MalformedInput,
    OutputExists,
    OutputFailed,
    Refused,
    UsageError,
)
from convfc_cli.files import Input, holds, opened, replacing
from convfc_cli.matrices.stored_zip import write_all


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def standard_input(file: io.IOBase | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another standard input."""
    stream = None if file is None else io.TextIOWrapper(file)  # type: ignore[type-var]
    monkeypatch.setattr(sys, "stdin", stream)
    try:
        yield
    finally:
        if stream is not None:
            stream.detach()
        monkeypatch.undo()


# replacing


def test_a_new_file_appears_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with replacing(path) as out:
        out.write(b"one")
        assert not path.exists()
        assert len(list(tmp_path.iterdir())) == 1  # beside it
        out.write(b"two")
    assert path.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_can_be_read_before_it_takes_its_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "new") as out:
        out.write(b"abcdef")
        out.seek(2)
        assert out.read(3) == b"cde"
    assert (tmp_path / "new").read_bytes() == b"abcdef"


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OutputExists, match="exists"), replacing(path):
        pytest.fail("nothing is begun")
    assert path.read_bytes() == b"old"
    with replacing(path, force=True) as out:
        out.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = replacing(path)
    writer.__enter__().write(b"ours")
    path.write_bytes(b"theirs")
    with pytest.raises(OutputExists):
        writer.__exit__(None, None, None)
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def fail(written: int, error: type[BaseException]) -> None:
    assert written
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MalformedInput])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_error_inside_leaves_nothing(
    tmp_path: Path, error: type[BaseException], old: bytes | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), replacing(path, force=True) as out:
        fail(out.write(b"new"), error)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if old is None else [old])


def test_an_error_of_the_system_inside_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputFailed, match=r"cannot write .*file: no space left") as caught,
        replacing(tmp_path / "file"),
    ):
        raise OSError(28, "No space left on device")
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_the_end_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OutputFailed, match="input/output error"), replacing(path, force=True):
        pass
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for step in ("fsync", "link", "replace"):
        real = getattr(os, step)

        def noted(*arguments: object, step: str = step, real: object = real) -> None:
            steps.append(step)
            real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(files.os, step, noted)
    with replacing(tmp_path / "file") as out:
        out.write(b"x")
    assert steps == ["fsync", "link", "fsync"]  # the file, its name, its folder
    steps.clear()
    with replacing(tmp_path / "file", force=True) as out:
        out.write(b"y")
    assert steps == ["fsync", "replace", "fsync"]


def test_of_two_files_both_are_on_the_disk_before_either_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        path.write_bytes(b"old")
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)

    def write() -> None:
        with files.replacing_all(*paths, force=True) as opened:
            for file in opened:
                file.write(b"new")

    with pytest.raises(OutputFailed, match="no space left"):
        write()
    assert [path.read_bytes() for path in paths] == [b"old", b"old"]
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with pytest.raises(OutputExists), replacing(link):
        pass
    with replacing(link, force=True) as out:
        out.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "far") == ["target"]


def test_a_link_to_nothing_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as out:
        out.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_link_that_goes_round(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(OutputFailed, match="link"), replacing(tmp_path / "link"):
        pass
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_what_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        with replacing(tmp_path / "ours"):
            pass
        (tmp_path / "usual").touch()
    assert mode(tmp_path / "ours") == mode(tmp_path / "usual") == 0o666 & ~mask


def test_a_folder_is_no_destination(tmp_path: Path) -> None:
    for force in (False, True):
        with pytest.raises(UsageError, match="is a folder"), replacing(tmp_path, force=force):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_device_or_a_pipe_is_no_destination(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(UsageError, match="is not a regular file"), replacing(place, force=True):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputFailed, match="no such file"), replacing(tmp_path / "no" / "file"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(OutputFailed, match="not a directory"), replacing(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("length", [200, 255])
def test_a_long_name(tmp_path: Path, length: int) -> None:
    """The name beside it fits, too."""
    with replacing(tmp_path / ("n" * length)) as out:
        out.write(b"x")
    assert [len(path.name) for path in tmp_path.iterdir()] == [length]


def test_a_long_name_of_many_bytes(tmp_path: Path) -> None:
    name = "ü" * 127  # 254 bytes
    with replacing(tmp_path / name) as out:
        out.write(b"x")
    assert os.listdir(tmp_path) == [name]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with replacing(tmp_path / "file", force=True) as one:
        with replacing(tmp_path / "file", force=True) as two:
            one.write(b"one")
            two.write(b"two")
        assert (tmp_path / "file").read_bytes() == b"two"
    assert (tmp_path / "file").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b"", b"a", b"abcdefg", b"x" * (2**20 + 1)])
@pytest.mark.parametrize("other", [lambda b: b, lambda b: b[:-1], lambda b: b + b"\0", bytes.upper])
def test_a_file_is_held_to_what_would_be_written(
    content: bytes, other: Callable[[bytes], bytes]
) -> None:
    file = io.BytesIO(other(content))
    same = holds(file, lambda out: (write_all(out, content[:3]), write_all(out, content[3:])))
    assert same is (other(content) == content)
    assert file.tell() == 0


def test_made_folder_keeps_what_was_there_and_what_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with files.made_folder(tmp_path / "old" / "a" / "b"):
        assert (tmp_path / "old" / "a" / "b").is_dir()
    assert os.listdir(tmp_path / "old") == []
    with files.made_folder(tmp_path / "old"):
        pass
    assert os.listdir(tmp_path) == ["old"]
    with suppress(KeyError), files.made_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
        raise KeyError
    assert os.listdir(tmp_path / "a") == ["file"]
    with (
        pytest.raises(OutputFailed, match="cannot make the folder"),
        files.made_folder(tmp_path / "a" / "file" / "b"),
    ):
        pass


def test_free_space_of_a_place_that_is_not_there_yet(tmp_path: Path) -> None:
    here, there = (files.free_space(tmp_path / name) for name in (".", "a/b/c"))
    assert here > 0
    assert abs(here - there) < 2**30


# opened


def test_a_regular_file(tmp_path: Path) -> None:
    content = os.urandom(3 * files.HEAD)
    (tmp_path / "f").write_bytes(content)
    with opened(tmp_path / "f") as source:
        assert (source.name, source.path) == (str(tmp_path / "f"), tmp_path / "f")
        assert (source.size, source.head) == (len(content), content[: files.HEAD])
        assert source.file.read() == content
        assert source.kept().sha256() == hashlib.sha256(content).hexdigest()
    assert source.file.closed


def test_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = os.urandom(300_000)
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    with opened(tmp_path / "pipe") as source:
        assert source.path is None
        assert source.size == len(content)
        source.file.seek(100_000)
        assert source.file.read() == content[100_000:]
        assert source.kept().sha256() == hashlib.sha256(content).hexdigest()
    writer.join()


def test_a_process_substitution(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    try:
        with opened(f"/dev/fd/{reading}") as source:
            assert (source.path, source.head) == (None, b"through a pipe")
    finally:
        os.close(reading)


def test_nothing_stays_of_what_was_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reading, writing = os.pipe()
    os.write(writing, b"x")
    os.close(writing)
    with opened(f"/dev/fd/{reading}") as source:
        assert source.size == 1
        assert list(tmp_path.iterdir()) == []  # it has no name
    os.close(reading)


def test_a_pipe_that_gives_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_SPOOL_BYTES", 10)
    for size, refused in ((10, False), (11, True)):
        reading, writing = os.pipe()
        os.write(writing, bytes(size))
        os.close(writing)
        if refused:
            with pytest.raises(Refused, match="more than 10 bytes"), opened(f"/dev/fd/{reading}"):
                pass
        else:
            with opened(f"/dev/fd/{reading}") as source:
                assert source.size == 10
        os.close(reading)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"])
def test_a_device(device: str) -> None:
    with pytest.raises(Refused, match="is a device"), opened(device):
        pass


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "no such file"),
        (".", "is a directory"),
        ("file/inside", "not a directory"),
        ("x" * 300, "name too long"),
    ],
)
def test_what_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UsageError, match=reason) as caught, opened(name):
        pass
    assert isinstance(caught.value.__cause__, OSError)


def test_an_empty_path() -> None:
    with pytest.raises(UsageError, match="the path of a file to read is empty"), opened(""):
        pass


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(MalformedInput, match="is empty"), opened(tmp_path / "f"):
        pass


def test_an_empty_pipe() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(MalformedInput, match="is empty"), opened(f"/dev/fd/{reading}"):
        pass
    os.close(reading)


def test_a_file_of_no_permission(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "f").chmod(0)
    if os.access(tmp_path / "f", os.R_OK):
        pytest.skip("root may read it")
    with pytest.raises(UsageError, match="permission denied"), opened(tmp_path / "f"):
        pass


def test_a_file_called_dash_is_named_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_bytes(b"x")
    with opened("./-") as source:
        assert source.head == b"x"


def test_standard_input_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with (
        open(tmp_path / "f", "rb") as file,
        standard_input(file, monkeypatch),
        opened("-") as source,
    ):
        assert (source.name, source.path, source.size) == ("standard input", None, 10)
        assert source.file.read() == b"0123456789"


def test_standard_input_of_which_a_part_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`(read line; convfc verify -) < file`: what is left of it."""
    (tmp_path / "f").write_bytes(b"0123456789")
    with open(tmp_path / "f", "rb") as file:
        file.seek(4)
        with standard_input(file, monkeypatch), opened("-") as source:
            assert (source.size, source.head) == (6, b"456789")
            assert source.kept().sha256() == hashlib.sha256(b"456789").hexdigest()
            source.file.seek(0)
            assert source.file.read() == b"456789"


def test_standard_input_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"piped")
    os.close(writing)
    with (
        os.fdopen(reading, "rb") as file,
        standard_input(file, monkeypatch),
        opened("-") as source,
    ):
        assert (source.path, source.head) == (None, b"piped")
        source.file.seek(1)
        assert source.file.read() == b"iped"


def test_a_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        standard_input(None, monkeypatch),
        pytest.raises(UsageError, match="standard input is closed: name a file"),
        opened("-"),
    ):
        pass


@pytest.mark.parametrize("name", ["-", "path"])
def test_a_pipe_that_cannot_be_spooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    reading, writing = os.pipe()
    os.write(writing, b"piped")
    os.close(writing)
    with os.fdopen(reading, "rb") as file, standard_input(file, monkeypatch):
        named, told = (f"/dev/fd/{reading}",) * 2 if name == "path" else ("-", "standard input")
        expected = f"cannot spool {told} to the temporary folder {tmp_path}/gone: no such file"
        with pytest.raises(Refused, match=f"{expected}.*; set TMPDIR"), opened(named):
            pass


def test_a_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.FileIO):
        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

    reading, writing = os.pipe()
    with (
        io.BufferedReader(Failing(reading)) as file,
        standard_input(file, monkeypatch),
        pytest.raises(UsageError, match="cannot read standard input: input/output error"),
        opened("-"),
    ):
        pass
    os.close(writing)


def test_standard_input_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Folder(io.BytesIO):
        def fileno(self) -> int:
            return handle

    handle = os.open(tmp_path, os.O_RDONLY)
    with (
        standard_input(Folder(), monkeypatch),
        pytest.raises(Refused, match="standard input is a folder, not a file or a pipe"),
        opened("-"),
    ):
        pass
    os.close(handle)


def test_an_error_of_the_system_while_standard_input_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file that is named: an error of what is read, not of the output."""
    (tmp_path / "f").write_bytes(b"0123456789")
    with (
        open(tmp_path / "f", "rb") as file,
        standard_input(file, monkeypatch),
        pytest.raises(UsageError, match="cannot read standard input: input"),
        opened("-"),
    ):
        raise OSError(5, "Input/output error")


# looks_like_text


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"plain words\n", True),
        (b"tabs\tand\r\nlines\f", True),
        ("Grüße, 世界, ∞".encode(), True),
        ("ab∞".encode()[:-1], True),  # a character cut at the end of the head
        ("ab∞".encode()[:-2], True),
        (b"nul\x00", False),
        (b"\x1b[31m", False),
        (b"\x7f", False),
        (b"\xff\xfe\x00w", False),
        (b"\x80 early and then a lot of text", False),
        (b"PK\x03\x04", False),
        (b"\x93NUMPY\x01\x00", False),
        (b"\x08\x08\x12\x07pytorch", False),
    ],
)
def test_looks_like_text(head: bytes, text: bool) -> None:
    assert Input("f", None, io.BytesIO(head), len(head), head).looks_like_text() is text
