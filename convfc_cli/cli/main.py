"""The command `convfc`: its subcommands, and the one place where errors become exit codes.

Nothing here, nor at the top of any module of `cli`, imports NumPy, ONNX or rich: `--help` must be
quick.
"""

import io
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from convfc_cli import __version__
from convfc_cli.cli import convert, inspect, map, verify
from convfc_cli.cli.output import say
from convfc_cli.errors import ConvfcError, OutputFailed, SizeMissing

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell counts it
INTERRUPTED = 128 + signal.SIGINT
DEFECT = 70

EPILOG = """\b
Exit codes:
  0    done (and verified)
  1    a well-formed file whose contents are wrong
  2    usage: also output exists, size missing, nothing to do
  3    damaged or malformed input, incomplete folder
  4    unsupported
  5    refused by a limit or a policy
  6    output could not be written
  70   a defect of convfc
  130  interrupted    141  broken pipe
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="convfc")
def cli() -> None:
    """The fully connected weight matrix of a convolution, proven right.

    Reads the convolutions of a trained network and writes, for each, the sparse matrix M with
    vec(conv(x)) = M vec(x) + b, which output, input and kernel element each nonzero is, and a
    proof.

    \b
    Start here:
      convfc convert model.onnx       every layer into model.onnx.fc/, verified
      convfc inspect model.onnx       what there is, and how large it would be
      convfc verify                   prove the files again
      convfc map FILE --output 0,5,5  what feeds an output, through which weights
    """


for command in (inspect.inspect, convert.convert, verify.verify, map.map_):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with a documented code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path is any bytes, and is printed as they are
            stream.reconfigure(errors="surrogateescape")
    try:
        code = _run(arguments)
    except BaseException as error:
        if debug and isinstance(error, Exception):
            raise
        code = _told(error, arguments)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    code = cli.main(arguments, prog_name="convfc", standalone_mode=False)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"cannot write to standard output: {error.strerror}") from error
    return code if isinstance(code, int) else 0


def _told(error: BaseException, arguments: list[str]) -> int:
    """Say in one line what went wrong; returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        # Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return _line("interrupted", INTERRUPTED)
    if isinstance(error, click.ClickException):
        help_ = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            help_ = f" (see {error.ctx.command_path} --help)"
        return _line(f"error: {error.format_message()}{help_}", 2)
    if isinstance(error, SizeMissing) and error.hint:
        command = shlex.join(["convfc", *arguments, "--input-shape", error.hint])
        return _line(f"error: {error}; say it, for instance: {command}", error.exit_code)
    if isinstance(error, ConvfcError):
        return _line(f"error: {error}", error.exit_code)
    if isinstance(error, MemoryError):
        return _line("error: out of memory: fewer layers at a time, with -l, take less", 5)
    return _line(
        f"defect of convfc, please report it: {type(error).__name__}: {error} (--debug shows more)",
        DEFECT,
    )


def _line(message: str, code: int) -> int:
    say(f"convfc: {' '.join(message.split())}")
    return code


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # through every `finally`: no temporary file stays
