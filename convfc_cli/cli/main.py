"""The command `convfc`: its subcommands, and the one place where errors become exit codes.

Nothing here, nor at the top of any module of `cli`, imports NumPy, ONNX or rich: `--help` must be
quick.
"""

import codecs
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

from convfc_cli import __version__
from convfc_cli.cli import options
from convfc_cli.cli.completion import answered, completion
from convfc_cli.cli.convert import convert
from convfc_cli.cli.hints import describing, with_size, worded
from convfc_cli.cli.inspect import inspect
from convfc_cli.cli.map import map_
from convfc_cli.cli.terminal import say
from convfc_cli.cli.verify import verify
from convfc_cli.errors import (
    ConvfcError,
    Defect,
    OutputFailed,
    Refused,
    SizeMissing,
    UsageError,
    WeightsAlone,
)

MIN_MEMORY = 2**28
"""Bytes of address space without which NumPy and ONNX are not loaded: where it runs out on the way,
one of them ends the process as if it had found something wrong."""

CAUGHT = {"SIGINT": "interrupted", "SIGHUP": "hung up"}
"""What is said of a signal; of others, terminated."""

MAX_MESSAGE = 2000
"""Characters of a message: more, and long untrusted names hide what it says."""

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell counts it

HELP = """\
The fully connected weight matrix of a convolution, proven right.

Reads the convolutions of a trained network and writes, for each, the sparse matrix M with
vec(conv(x)) = M vec(x) + b, which output, input and kernel element each nonzero is, and a
proof.

\b
Start here:
  convfc convert model.onnx          every layer into model.onnx.fc/, verified
  convfc inspect model.onnx          what there is, and how large it would be
  convfc verify                      prove the files again
  convfc map FILE --output-at 0,5,5  what feeds an output, through which weights
"""
"""Not a docstring: `python -OO` drops those."""

EPILOG = """\b
Exit codes:
  0    done (and verified)
  1    a well-formed file whose contents are wrong
  2    usage: also output exists, size missing, nothing to do
  3    damaged or malformed input, incomplete folder
  4    unsupported; also a check that could not be made as asked, or verify --seed
  5    refused by a limit or a policy
  6    output could not be written
  70   a defect of convfc
  129  hung up    130  interrupted    141  broken pipe    143  terminated
"""


@click.group(context_settings=options.CONTEXT, help=HELP, epilog=EPILOG)
@click.version_option(__version__, prog_name="convfc")
def cli() -> None:
    """Run `convfc`; `HELP` says what it does."""


for command in (inspect, convert, verify, map_, completion):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with a documented code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    signals = _Signals()
    try:
        code = _run(arguments)
    except BaseException as error:
        if "--debug" in arguments and isinstance(error, Exception):
            traceback.print_exc()
        code = _explained(error, arguments, signals.caught)
    signals.is_done = True
    # A library may swallow what a signal raises, or turn it into an error of its own.
    sys.exit(128 + signals.caught if signals.caught else code)


class _Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into an exception, so that every `finally` runs."""

    is_done = False
    """Whether nothing is left to be cleaned up, and nobody left who would catch an exception."""

    def __init__(self) -> None:
        self.caught = 0
        signals = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as by nohup
            signals.append(hangup)
        for number in signals:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.is_done:
            os._exit(128 + number)
        if self.caught:
            return  # what is being cleaned up is not to be interrupted
        self.caught = number
        raise SystemExit(128 + number)


def _as_it_can(error: UnicodeError) -> tuple[str | bytes, int]:
    """A byte that was no text is printed as it was, a character that cannot be printed escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    try:
        return text.encode("ascii", "surrogateescape"), error.end
    except UnicodeEncodeError:
        return text.encode("ascii", "backslashreplace"), error.end


def _prepare_streams() -> None:
    """Let standard output and standard error print anything.

    One that was closed, as by >&-, gets its number back, lest another file be opened under it and
    a library print there. Standard error then keeps nothing; to standard output nothing can be
    written, which `options.common` tells by its mode.
    """
    codecs.register_error("convfc", _as_it_can)
    for number, name, mode in ((1, "stdout", "r"), (2, "stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY), number)
            setattr(sys, name, open(number, mode))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):  # a path is any bytes, printed as they are
            stream.reconfigure(errors="convfc")


def _run(arguments: list[str]) -> int:
    # Not `cli.main`: that turns a broken pipe into exit code 1.
    try:
        if answered(cli):
            return 0
        with cli.make_context("convfc", list(arguments), obj=arguments) as ctx:
            _check_memory()
            from convfc_cli import budget

            with budget.command():
                try:
                    cli.invoke(ctx)
                except SizeMissing as error:  # its hint is found on what the command has left
                    raise SizeMissing(str(error), error.hint) from error
    except click.exceptions.Exit as request:
        return request.exit_code
    finally:
        sys.stdout.flush()
    return 0


def _check_memory() -> None:
    """Raise `Refused` where too little address space is left to load libraries into."""
    with suppress(ImportError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY and limit < MIN_MEMORY:
            raise Refused(
                f"the limit of {limit} bytes of address space (ulimit -v) is below {MIN_MEMORY}: "
                f"raise it"
            )


def _explained(error: BaseException, arguments: list[str], caught: int) -> int:
    """Say in one line what went wrong; returns the exit code."""
    if caught:
        return _line(CAUGHT.get(signal.Signals(caught).name, "terminated"), 128 + caught)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return BROKEN_PIPE
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        with suppress(OSError):
            print(error.format_message(), file=sys.stderr, flush=True)
        return UsageError.exit_code
    if isinstance(error, click.ClickException):
        help_ = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            help_ = f" (see {error.ctx.command_path} --help)"
        return _line(f"error: {error.format_message()}{help_}", UsageError.exit_code)
    if isinstance(error, SizeMissing):
        command = with_size(arguments, error.hint)
        way = f"specify it, for example: {command}" if command else "specify it with --input-shape"
        return _line(f"error: {error}; {way}", error.exit_code)
    if isinstance(error, WeightsAlone) and error.example is not None:
        from convfc_cli.naming import shell_command

        sized = any(argument.startswith("--input-shape") for argument in arguments)
        command = shell_command(["convfc", *arguments, *describing(error.example, sized=sized)])
        return _line(f"error: {error}; if so, for example: {command}", error.exit_code)
    if isinstance(error, ConvfcError):
        return _line(f"error: {worded(error)}", error.exit_code)
    if isinstance(error, MemoryError):
        return _line(
            "error: out of memory; convert -l or --no-verify, verify with fewer checks take less",
            Refused.exit_code,
        )
    if isinstance(error, OSError):  # files raise errors of ours: this is standard output
        _discard_output()
        what = error.filename if error.filename is not None else "the output"
        return _line(
            f"error: cannot write {what}: {(error.strerror or str(error)).lower()}",
            OutputFailed.exit_code,
        )
    return _line(
        f"defect of convfc, please report it: {type(error).__name__}: {error} (--debug shows more)",
        Defect.exit_code,
    )


def _discard_output() -> None:
    """Python would try to write what is left once more when it closes standard output."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(message: str, code: int) -> int:
    if len(message) > MAX_MESSAGE:
        half = MAX_MESSAGE // 2
        more = f" ... ({len(message) - 2 * half} more characters) ... "
        message = message[:half] + more + message[-half:]
    say(f"convfc: {' '.join(message.splitlines())}")
    return code
