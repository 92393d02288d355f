"""A child process for what may crash or run away: native code and evaluators on untrusted input.

`run` calls a function in a child that is forked for this one call and sees all that its caller
sees. `call` calls a function in one child that stays, so that a library imported there, or a
session kept there, serves later calls too. Either way memory and CPU time are bounded for each
call. A child that crashes or goes beyond its limits ends, and the caller gets an error of ours;
nothing that the child prints reaches anybody.

Only Linux is known to survive a fork whatever libraries are loaded; elsewhere, and in a child,
functions are called in place and without limits.
"""

import atexit
import gc
import math
import os
import pickle
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from convfc_cli.errors import ConvfcError, MalformedInput, Refused


@dataclass(frozen=True)
class Limits:
    """What one call may take."""

    memory: int = 2**30
    """Bytes beyond what the child has when the call begins."""

    seconds: int = 10
    """CPU time of all its threads together."""

    @property
    def patience(self) -> int:
        """Seconds that may pass by the clock: other processes want the processor too."""
        return PATIENCE * self.seconds


PATIENCE = 20
"""How much longer than its CPU time a call may take."""

USUAL = Limits()


class Failed(Exception):
    """What a function raised that is not an error of ours: `kind` is the name of its class.

    The exception itself stays in the child: its class may be one of a library that only the child
    has imported.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


def run(function: Callable[[], Any], what: str, limits: Limits = USUAL) -> Any:
    """Return `function()`, called in a child of its own. Its result is pickled.

    `what` is done, for messages. Raises an error of ours as it is and `Failed` for any other;
    `Refused` beyond the limits, `MalformedInput` where the child crashes.
    """
    if not _is_possible():
        return _in_place(function, (), what)
    child = _Child(function, what)
    try:
        return child.ask((), what, limits)
    finally:
        child.end()


def call(function: Callable[..., Any], *given: Any, what: str, limits: Limits = USUAL) -> Any:
    """Return `function(*given)`, called in the child that stays; otherwise as `run`.

    The function is found by its name, and the arguments are pickled: the child has what its parent
    had at the first call. A new child takes the place of one that ended.
    """
    if not _is_possible():
        return _in_place(function, given, what)
    with _lock:
        return _lasting(what).ask((function, *given), what, limits)


def _is_possible() -> bool:
    return sys.platform == "linux" and not _inside


_inside = False
"""Whether this process is such a child."""

_lock = threading.Lock()
_child: "_Child | None" = None


def _lasting(what: str) -> "_Child":
    global _child
    if _child is None or not _child.is_usable():
        _end()
        _child = _Child(lambda function, *given: function(*given), what)
    return _child


@atexit.register
def _end() -> None:
    if _child is not None:
        _child.end()


class _Child:
    """A forked process that answers calls of one function, one after another."""

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        """Raises `Refused` where the system has no process or no pipe left for it."""
        self._parent, self._pid = os.getpid(), 0
        self._files = ExitStack()
        try:
            with _signals_held(), ExitStack() as theirs:
                requests, self._requests = _pipe(theirs, self._files)
                self._replies, replies = _pipe(self._files, theirs)
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", DeprecationWarning)  # it uses no threads
                        self._pid = os.fork()
                    if not self._pid:
                        self._files.close()  # or it would wait for itself when its parent is gone
                        _serve(function, requests, replies)
                finally:
                    if os.getpid() != self._parent:  # no handlers, no buffers of the parent's
                        os._exit(1)
        except BaseException as error:  # also what the handler of a signal raises
            self.end()
            if isinstance(error, OSError):
                reason = (error.strerror or str(error)).lower()
                raise Refused(
                    f"no process can be started for {what}: {reason}; end other programs, or raise "
                    f"the limits of this one (ulimit -u, ulimit -n)"
                ) from error
            raise

    def is_usable(self) -> bool:
        """Whether it runs, and is a child of this process and not of one that forked it."""
        if not self._pid or self._parent != os.getpid():
            return False
        with suppress(ChildProcessError):  # whoever called us has all children reaped
            if os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                return True
        self._pid = 0  # somebody killed it while nobody asked
        return False

    def ask(self, given: tuple[Any, ...], what: str, limits: Limits) -> Any:
        """What the function makes of these; see `run` for what is raised."""
        try:
            try:
                pickle.dump((given, limits), self._requests, pickle.HIGHEST_PROTOCOL)
                self._requests.flush()
                if not self._has_replied(limits.patience):
                    raise _late(what, limits)
                is_last = pickle.load(self._replies)
                is_result, answer = pickle.load(self._replies)
            except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
                raise self._fate(what, limits) from error
        except BaseException:  # also a signal: the child is in the middle of something
            self.end()
            raise
        if is_last:
            self.end()
        if is_result:
            return answer
        raise _translated(answer, what, limits)

    def _has_replied(self, seconds: int) -> bool:
        """Whether something can be read from it, after so long at most."""
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def _fate(self, what: str, limits: Limits) -> ConvfcError:
        """Why it does not answer: it has ended, or will in a moment."""
        status = 0
        with suppress(ChildProcessError):  # whoever called us has all children reaped
            _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._pid = 0
        if -code == signal.SIGXCPU:
            return Refused(f"{what} takes more than {limits.seconds} seconds of CPU time")
        if -code == signal.SIGALRM:
            return _late(what, limits)
        if -code == signal.SIGKILL:  # the system's way where memory runs out
            return Refused(f"{what} was killed by the system: too much memory, perhaps")
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return MalformedInput(f"{what} crashes ({how})")

    def end(self) -> None:
        """End it, whatever it is doing."""
        if self._pid and self._parent == os.getpid():
            with suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
        self._pid = 0
        with suppress(OSError):  # what was not sent is lost
            self._files.close()


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """The two ends of a pipe, to read from and to write to, and who closes each."""
    reading, writing = os.pipe()
    return reader.enter_context(open(reading, "rb")), writer.enter_context(open(writing, "wb"))


@contextmanager
def _signals_held() -> Iterator[None]:
    """Have signals wait: a handler of the parent's must not run in a child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Callable[..., Any], requests: BinaryIO, replies: BinaryIO) -> None:
    """What the child does: it answers until nobody asks any more. Raises `EOFError` then."""
    global _inside
    _inside = True
    gc.freeze()  # the parent's objects are not looked at again, so that their pages stay shared
    _detach()
    start = _memory()
    while True:
        given, limits = pickle.load(requests)
        with _bounded(limits):
            answer = _answer(function, given)
            try:
                pickled = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
            except MemoryError:
                pickled = pickle.dumps((False, MemoryError()))
            del given, answer
        keeps = _memory() - start - len(pickled)
        pickle.dump(keeps > limits.memory, replies)  # whether this was the last call
        replies.write(pickled)
        replies.flush()
        del pickled  # the next call has all the memory


def _answer(function: Callable[..., Any], given: Any) -> tuple[bool, Any]:
    """(whether it is a result, the result or the error); errors leave their frames behind."""
    try:
        return True, function(*given)
    except ConvfcError as error:
        return False, error.without_frames()
    except MemoryError:
        return False, MemoryError()
    except Exception as error:
        return False, Failed(type(error).__name__, str(error))


def _detach() -> None:
    """Let go of what the parent reads, prints and handles."""
    import faulthandler
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what becomes of it
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as by nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in (
        *(signal.SIGTERM, signal.SIGPIPE),
        *(signal.SIGALRM, signal.SIGXCPU),  # what ends it beyond its limits
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # those that waited
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the parent's have its buffers


def _memory() -> int:
    """Bytes that this process can write to, touched or not: what RLIMIT_DATA counts.

    Not the address space: a thread reserves much of that which it never uses.
    """
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _bounded(limits: Limits) -> Iterator[None]:
    import resource

    def bound(kind: int, most: int) -> tuple[int, int]:
        soft, hard = resource.getrlimit(kind)
        least = min(n for n in (most, soft, hard) if n != resource.RLIM_INFINITY)
        resource.setrlimit(kind, (least, hard))
        return soft, hard

    used = resource.getrusage(resource.RUSAGE_SELF)
    before = bound(resource.RLIMIT_DATA, _memory() + limits.memory)
    cpu = bound(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + limits.seconds)
    signal.setitimer(signal.ITIMER_REAL, limits.patience)  # its parent may be gone
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, before)
        resource.setrlimit(resource.RLIMIT_CPU, cpu)


def _in_place(function: Callable[..., Any], given: tuple[Any, ...], what: str) -> Any:
    is_result, answer = _answer(function, given)
    if is_result:
        return answer
    raise _translated(answer, what, USUAL)


def _late(what: str, limits: Limits) -> Refused:
    return Refused(f"{what} takes more than {limits.patience} seconds")


def _translated(error: Exception, what: str, limits: Limits) -> Exception:
    if isinstance(error, MemoryError):
        return Refused(f"{what} takes more than {limits.memory} bytes of memory")
    return error
