"""The child process: results, errors, limits, crashes, and what becomes of it."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convfc_cli import contained
from convfc_cli.contained import Failed, Limits, call, run
from convfc_cli.errors import MalformedInput, Refused, SizeMissing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")

STRICT = Limits(memory=2**26, seconds=1)


def spin() -> None:
    while True:
        pass


def complain() -> None:
    raise SizeMissing("the size is open", "x=1,2")


def loud() -> str:
    os.write(1, b"to standard output")
    os.write(2, b"to standard error")
    print("through Python", flush=True)
    return "done"


def pid() -> int:
    return os.getpid()


def test_run_sees_what_its_caller_sees() -> None:
    mine = {"a": np.arange(3)}
    found = run(lambda: (os.getpid(), mine["a"] * 2), "doubling")
    assert found[0] != os.getpid()
    assert found[1].tolist() == [0, 2, 4]


def test_call_keeps_its_child() -> None:
    assert call(pid, what="asking") == call(pid, what="asking") != os.getpid()
    assert call(divmod, 7, 3, what="dividing") == (2, 1)


def test_an_error_of_ours_arrives_whole() -> None:
    for ask in (lambda: run(complain, "asking"), lambda: call(complain, what="asking")):
        with pytest.raises(SizeMissing, match="the size is open") as caught:
            ask()
        assert caught.value.hint == "x=1,2"


def test_an_error_keeps_nothing_of_where_it_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cause has frames too, and what was alive in them."""
    monkeypatch.setattr(contained, "_inside", True)
    for fail in (fail_with_much, lose_much):
        arrays: list[weakref.ref[Any]] = []
        with pytest.raises(Refused):
            call(fail, arrays, what="failing")
        (array,) = arrays
        assert array() is None


def fail_with_much(arrays: list[weakref.ref[Any]]) -> None:
    try:
        lose_much(arrays)
    except MemoryError as error:
        raise Refused("it is too much") from error


def lose_much(arrays: list[weakref.ref[Any]]) -> None:
    much = np.ones(1000)
    arrays.append(weakref.ref(much))
    try:
        raise ValueError
    except ValueError as error:
        raise MemoryError from error


def test_any_other_error_arrives_as_its_name_and_message() -> None:
    with pytest.raises(Failed, match="invalid literal") as caught:
        call(int, "seven", what="reading")
    assert caught.value.kind == "ValueError"


@pytest.mark.parametrize("size", [2**27, 2**34])
def test_memory_is_bounded(size: int) -> None:
    before = call(pid, what="asking")
    with pytest.raises(Refused, match=r"making zeros takes more than 67108864 bytes of memory"):
        call(bytes, size, what="making zeros", limits=STRICT)
    assert call(pid, what="asking") == before


def test_a_result_too_large_to_send_is_refused() -> None:
    with pytest.raises(Refused, match="bytes of memory"):
        call(bytes, 40 * 2**20, what="making zeros", limits=STRICT)
    assert len(call(bytes, 2**20, what="making zeros", limits=STRICT)) == 2**20


@pytest.mark.slow
def test_cpu_time_is_bounded_for_each_call_and_not_for_all() -> None:
    begun = time.process_time()
    with pytest.raises(Refused, match="spinning takes more than 1 seconds of CPU time"):
        run(spin, "spinning", STRICT)
    assert time.process_time() - begun < 1
    for _ in range(3):  # 1.5 seconds in all
        assert call(busy, 0.5, what="working", limits=STRICT)


def busy(seconds: float) -> bool:
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass
    return True


@pytest.mark.slow
def test_a_call_that_sleeps_is_ended_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contained, "PATIENCE", 1)
    with pytest.raises(Refused, match="sleeping takes more than 1 seconds"):
        call(time.sleep, 30, what="sleeping", limits=STRICT)
    assert call(pid, what="asking") != os.getpid()


@pytest.mark.slow
def test_the_clock_runs_only_while_a_child_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    contained._end()
    monkeypatch.setattr(contained, "PATIENCE", 1)
    before = call(pid, what="asking", limits=STRICT)
    time.sleep(1.3)
    assert call(pid, what="asking", limits=STRICT) == before
    contained._end()


@pytest.mark.parametrize(
    ("number", "most"),
    [(signal.SIGALRM, "20 seconds$"), (signal.SIGXCPU, "1 seconds of CPU time$")],
)
def test_a_limit_ends_a_child_whatever_its_parent_does_at_the_signal(
    number: int, most: str
) -> None:
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(Refused, match=f"dying takes more than {most}"):
            run(lambda: os.kill(os.getpid(), number), "dying", STRICT)
    finally:
        signal.signal(number, previous)


def test_a_crash_is_malformed_input_and_the_next_call_has_a_new_child() -> None:
    before = call(pid, what="asking")
    with pytest.raises(MalformedInput, match=r"reading address 0 crashes \(signal 11\)"):
        call(ctypes.string_at, 0, what="reading address 0")
    assert call(pid, what="asking") not in (before, os.getpid())


def test_what_the_system_kills_is_refused() -> None:
    with pytest.raises(Refused, match="killed by the system"):
        run(lambda: os.kill(os.getpid(), signal.SIGKILL), "dying")


@pytest.mark.parametrize("reaped", [False, True])
def test_a_child_that_was_killed_while_idle_is_replaced(reaped: bool) -> None:
    before = call(pid, what="asking")
    held = descriptors()
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | (0 if reaped else os.WNOWAIT))
    assert call(pid, what="asking") not in (before, os.getpid())
    assert descriptors() == held


def test_a_child_that_keeps_too_much_is_replaced() -> None:
    before = call(pid, what="asking", limits=STRICT)
    for _ in range(2):
        call(keep, 40 * 2**20, what="keeping", limits=STRICT)
    assert call(pid, what="asking", limits=STRICT) != before


def test_what_a_call_is_given_is_not_kept() -> None:
    """Arguments may be larger than what a call may take."""
    before = call(pid, what="asking", limits=STRICT)
    much = bytes(100 * 2**20)
    assert call(len, much, what="counting", limits=STRICT) == len(much)
    with pytest.raises(Failed, match="no key in this"):
        call(lookup, much, what="looking", limits=STRICT)
    assert call(pid, what="asking", limits=STRICT) == before


def lookup(given: bytes) -> None:
    raise KeyError("no key in this")


kept: list[bytes] = []


def keep(size: int) -> int:
    kept.append(b"\1" * size)
    return len(kept)


def test_within_a_child_calls_are_made_in_place() -> None:
    inner, outer = run(lambda: (call(pid, what="asking"), os.getpid()), "asking")
    assert inner == outer != os.getpid()


def test_elsewhere_than_on_linux_calls_are_made_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert call(pid, what="asking") == run(pid, "asking") == os.getpid()
    with pytest.raises(Failed, match="invalid literal"):
        call(int, "seven", what="reading")
    with pytest.raises(SizeMissing):
        run(complain, "asking")


def test_nothing_that_a_child_prints_reaches_anybody(capfd: pytest.CaptureFixture[str]) -> None:
    print("before it")  # in a buffer that the child inherits
    assert run(loud, "printing") == call(loud, what="printing") == "done"
    assert capfd.readouterr() == ("before it\n", "")


def test_a_signal_to_the_parent_ends_the_child() -> None:
    class Stop(BaseException):
        pass

    def stop(number: int, frame: Any) -> None:
        raise Stop

    before = call(pid, what="asking")
    previous = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Stop):
            call(time.sleep, 60, what="sleeping")
    finally:
        signal.signal(signal.SIGALRM, previous)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_child_that_begins_runs_nothing_of_its_parent(number: int) -> None:
    """Neither its handlers nor its `finally` blocks."""
    script = f"""
import os, signal, sys
from convfc_cli.contained import run

def say(what):
    os.write(1, f"{{what}}{{' in the child' * (os.getpid() != parent)}} ".encode())

def stop(number, frame):
    say("stopped")
    raise SystemExit

def begin():
    found = fork()
    if not found:
        os.kill(os.getpid(), {int(number)})
    return found

parent, fork, os.fork = os.getpid(), os.fork, begin
signal.signal({int(number)}, stop)
try:
    say(run(lambda: "done", "it"))
except Exception as error:
    say(error)
finally:
    say("the end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    expected = "done" if number == signal.SIGINT else "it crashes (signal 15)"
    assert (done.stdout.decode(), done.stderr) == (f"{expected} the end ", b"")


def test_a_signal_while_a_child_begins_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    def stop(number: int, frame: Any) -> None:
        raise Stop

    fork, begun = os.fork, list[int]()

    def begin() -> int:
        found = fork()
        if found:  # to this thread: one of a library might take it, and this one hear of it at once
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            begun.append(found)
        return found

    monkeypatch.setattr(os, "fork", begin)
    previous = signal.signal(signal.SIGUSR1, stop)
    before = descriptors()
    try:
        with pytest.raises(Stop):
            run(pid, "asking")
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert descriptors() == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    (child,) = begun
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_hangup_that_the_parent_ignores_does_not_end_its_child() -> None:
    """As under nohup: the terminal goes, and all its processes are told."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(lambda: os.kill(os.getpid(), signal.SIGHUP) or "done", "working") == "done"
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        with pytest.raises(MalformedInput, match=r"working crashes \(signal 1\)"):
            run(lambda: os.kill(os.getpid(), signal.SIGHUP), "working")
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("what", ["fork", "pipe"])
def test_a_child_that_cannot_be_started_is_refused(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    pipes = [os.pipe, fail]
    before = descriptors()
    with monkeypatch.context() as patch:
        if what == "fork":
            patch.setattr(os, "fork", fail)
        else:
            patch.setattr(os, "pipe", lambda: pipes.pop(0)())
        told = "no process can be started for asking: resource temporarily unavailable; end other"
        with pytest.raises(Refused, match=told):
            run(pid, "asking")
    assert descriptors() == before
    assert run(pid, "asking") != os.getpid()


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_a_process_that_was_forked_has_a_child_of_its_own() -> None:
    mine = call(pid, what="asking")
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(theirs, str(call(pid, what="asking")).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(ours, 20)) not in (mine, child)
    os.close(ours)
    os.close(theirs)
    assert call(pid, what="asking") == mine


@pytest.mark.slow
def test_a_call_that_sleeps_ends_though_its_parent_was_killed() -> None:
    script = (
        "import os, time; from convfc_cli import contained; contained.PATIENCE = 1; "
        "told = os.dup(1); limits = contained.Limits(seconds=2); "
        "say = lambda: os.write(told, str(os.getpid()).encode()); "
        "contained.run(lambda: (say(), time.sleep(60)), 'sleeping', limits)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(os.read(parent.stdout.fileno(), 20))
        begun = time.monotonic()
        parent.kill()
    assert is_running(child)
    while is_running(child):
        assert time.monotonic() - begun < 20
        time.sleep(0.01)


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_it_goes_when_its_parent_goes(end: str) -> None:
    script = (
        "import os; from convfc_cli.contained import call; "
        f"print(call(os.getpid, what='asking'), flush=True); {end}"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert found.stderr == b""
    begun = time.monotonic()
    while is_running(int(found.stdout)):
        assert time.monotonic() - begun < 10
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
