"""Options that several commands share, and how their values are read."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # generic since click 8.4, and only for type checkers
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType

Command = Callable[..., Any]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""What all commands have in common."""

Shape = tuple[str | None, tuple[int, ...]]


class ShapeType(_ParamType):
    """NAME=1,3,224,224 or NAME:[1,3,224,224] or 1,3,224,224: split at the last = or :."""

    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Shape:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        found = re.fullmatch(r"(?:(.+)[=:])?\[?\s*(\d+(?:\s*,\s*\d+)*)\s*\]?", value)
        if not found or len(value) > 1000:
            self.fail(f"{value!r} is no shape: write NAME=1,3,224,224, or 1,3,224,224", param, ctx)
        return found[1], tuple(int(size) for size in found[2].split(","))


class SizeType(_ParamType):
    """A number of bytes: 500000000, 500MB, 8GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([kKMGT]?)(i?)B?", value)
        if not found:
            self.fail(f"{value!r} is no size: write 500000000, 500MB or 8GiB", param, ctx)
        power = " KMGT".index(found[2].upper() or " ")
        return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


class IndexType(_ParamType):
    """Whole numbers with commas between: 0,5,5."""

    name = "index"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d{1,15}(,\d{1,15})*", value):
            self.fail(f"{value!r} is no position: write whole numbers, 0,5,5", param, ctx)
        return tuple(int(number) for number in value.split(","))


def shapes(given: Sequence[Shape]) -> dict[str | None, tuple[int, ...]]:
    """The shapes of several --input-shape by name."""
    found = dict(given)
    if len(found) != len(given):
        raise click.UsageError("--input-shape gives the same tensor twice")
    return found


input_shape = click.option(
    "--input-shape",
    "input_shapes",
    type=ShapeType(),
    multiple=True,
    metavar="[NAME=]N,C,H,W",
    help="Size of a tensor that the model leaves open. Without NAME: the model's only input, or "
    "with one -l that layer's own input. Repeatable.",
)

quiet = click.option(
    "-q", "--quiet", is_flag=True, help="No messages and no progress: only data and errors."
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")

debug = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
)


def common(command: Command) -> Command:
    """--json, -q and --debug."""
    return as_json(quiet(debug(command)))
