"""Options that several commands share, and how their values are read."""

import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from convfc_cli.cli.command import option
from convfc_cli.cli.hints import MAX_SHAPE
from convfc_cli.errors import OutputFailed
from convfc_cli.vocabulary import PADS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = Callable[..., Any]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""What all commands have in common."""

Shape = tuple[str | None, tuple[int, ...]]


class ShapeType(click.ParamType[Any]):
    """NAME=1,3,224,224 or NAME:[1,3,224,224] or 1,3,224,224: split at the last = or :."""

    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Shape:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        match = re.fullmatch(r"(?s:(.+)[=:])?\[?\s*(\d+(?:\s*,\s*\d+)*)\s*\]?", value)
        if not match or len(value) > MAX_SHAPE:
            self.fail(
                f"{value!r} is not a shape: write NAME=1,3,224,224, or 1,3,224,224", param, ctx
            )
        return match[1], tuple(int(size) for size in match[2].split(","))


class PathType(click.ParamType[Any]):
    """A path to read, or -: any text but none, which would stand for the current directory."""

    name = "path"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        """Leave it to the shell, which knows files."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("the path is empty: name a file, or - for standard input", param, ctx)
        return str(value)


PATH = PathType()


class SizeType(click.ParamType[Any]):
    """A number of bytes: 500000000, 5e8, 500MB, 8GiB, in small letters too."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = r"\d{1,18}(?:\.\d{1,18})?(?:e\+?\d{1,2})?"
        match = re.fullmatch(rf"({number})\s*([kmgt]?)(i?)b?", value, re.IGNORECASE | re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a size: write 500000000, 500MB or 8GiB", param, ctx)
        power = " KMGT".index(match[2].upper() or " ")
        return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


class IntegersType(click.ParamType[Any]):
    """Integers with commas between: 0,5,5."""

    name = "integers"

    def __init__(self, what: str) -> None:
        self._what = what

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d{1,15}(,\d{1,15})*", value):
            self.fail(f"{value!r} is not a {self._what}", param, ctx)
        return tuple(int(number) for number in value.split(","))


INDEX = IntegersType("position: write integers, 0,5,5")

SIZES = IntegersType("size of each axis: write one integer for all, or 2,1")


_SHAPE = option(
    "--input-shape",
    "input_shapes",
    type=ShapeType(),
    multiple=True,
    metavar="[NAME=]N,C,H,W",
    help="Size of a tensor that the model leaves open. Without NAME: the model's only input, or "
    "that of the one layer that is picked. Repeatable.",
)


include = option(
    "--include",
    multiple=True,
    metavar="OPERATOR",
    help="Also linear layers that are not convolutions, by their operator: AveragePool, "
    "BatchNormalization, Dense ...; linear: all of them. Repeatable.",
)


class PadType(click.ParamType[Any]):
    """Padding: a word, or for each axis a number or LOW:HIGH."""

    name = "pad"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple) or value.lower() in PADS:
            return value if isinstance(value, tuple) else value.lower()
        ends = [re.fullmatch(r"(-?\d{1,15})(?::(-?\d{1,15}))?", part) for part in value.split(",")]
        if not all(ends):
            words = ", ".join(PADS)
            self.fail(
                f"{value!r} is not one of {words}, 1 for all axes, 1,2 or 0:1,0:1", param, ctx
            )
        return tuple((int(end[1]), int(end[2] or end[1])) for end in ends if end)


_GEOMETRY = ("stride", "pad", "dilation", "groups", "transposed", "output_padding")
"""Fields of `WeightsSpec` whose options bear their names."""

_WEIGHTS = (
    option(
        "--weight",
        metavar="DATASET",
        help="The kernel, in an HDF5 file that has weights alone; `convfc inspect` lists what may "
        "be one. It goes with --kernel-order and --input-shape, and with the options below.",
    ),
    option(
        "--kernel-order",
        metavar="LETTERS",
        help="What the kernel's axes are: o output and i input channels, d h w spatial ones, m "
        "outputs of each input (depthwise): oihw in PyTorch, hwio in Keras; of a transposed layer "
        "iohw in PyTorch, hwoi in Keras.",
    ),
    option("--bias", metavar="DATASET", help="The bias, or none."),
    option("--stride", type=SIZES, metavar="N[,N]", help="One for all axes, or one for each."),
    option(
        "--pad",
        type=PadType(),
        metavar="PAD",
        help="Zeros around the input: 1, 1,2 for each axis, 0:1,0:1 before and after; or valid "
        "(the default), same (the odd one after), same-lower (before), half, full, causal. With "
        "--transposed, what is cropped.",
    ),
    option("--dilation", type=SIZES, metavar="N[,N]", help="As --stride."),
    option("--groups", type=click.IntRange(1, 2**40), metavar="N", help="Groups; 1 if none."),
    option("--transposed", is_flag=True, help="It is a transposed convolution."),
    option(
        "--output-padding",
        type=SIZES,
        metavar="N[,N]",
        help="Of a transposed convolution: outputs added at the end.",
    ),
)


def request(command: Command) -> Command:
    """--input-shape, and the options that describe a convolution of which a file has the weights
    alone: together the argument `request` of the command, a `Request`.
    """

    @wraps(command)
    def requested(
        *arguments: Any,
        input_shapes: tuple[Shape, ...],
        weight: str | None,
        kernel_order: str | None,
        bias: str | None,
        **rest: Any,
    ) -> Any:
        from convfc_cli.models.request import Request, WeightsSpec

        geometry = {name: rest.pop(name) for name in _GEOMETRY}
        geometry = {name: value for name, value in geometry.items() if value not in (None, False)}
        shapes = dict(input_shapes)
        if len(shapes) != len(input_shapes):
            raise click.UsageError("--input-shape gives the same tensor twice")
        spec = None
        if weight is not None:
            if kernel_order is None:
                raise click.UsageError("--weight needs --kernel-order, such as oihw or hwio")
            if bias == "":
                raise click.UsageError("--bias is empty: name a dataset, or say none")
            spec = WeightsSpec(weight, kernel_order, "" if bias == "none" else bias, **geometry)
        elif kernel_order is not None:
            raise click.UsageError("--kernel-order goes with --weight")
        elif alone := sorted([*geometry, *["bias"] * (bias is not None)]):
            raise click.UsageError(f"--{alone[0].replace('_', '-')} goes with --weight")
        return command(*arguments, request=Request(shapes, spec), **rest)

    for add in (*reversed(_WEIGHTS), _SHAPE):
        requested = add(requested)
    return requested


quiet = option(
    "-q", "--quiet", is_flag=True, help="No messages and no progress: only data and errors."
)

verbose = option("-v", "--verbose", is_flag=True, help="Also every check of every matrix.")

as_json = option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")

debug = option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")


def common(command: Command) -> Command:
    """--json, -q and --debug; and the command is not begun where standard output is closed, for
    what every command finds is printed there. Raises `OutputFailed`.
    """

    @wraps(command)
    def begun(*arguments: Any, **named: Any) -> Any:
        if not sys.stdout.writable():
            raise OutputFailed("standard output is closed, and the results are printed there")
        return command(*arguments, **named)

    return as_json(quiet(debug(begun)))
