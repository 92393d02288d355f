"""Commands whose help groups their options, and options that are given once."""

from functools import partial
from typing import Any

import click

GROUPS = {
    "Layers": ("layers", "layer", "include", "compose", "fold_bn", "chains", "input_shapes"),
    "Look-up": ("output_at", "input_at", "kernel_at", "entry_at"),
    "Weights alone": (
        *("weight", "kernel_order", "bias", "stride", "pad", "dilation", "groups", "transposed"),
        "output_padding",
    ),
    "Matrix": (
        *(
            "form",
            "file_format",
            "layout",
            "transpose",
            "dtype",
            "dequantize",
            "kernel_index",
            "flip_kernel",
        ),
    ),
    "Files": ("output", "max_bytes", "force", "resume", "keep_going", "dry_run"),
    "Proof": ("no_verify", "model", "probes", "seed", "exhaustive", "against"),
}
"""What options are about, by the names of their parameters, in the order of the help."""

OTHERS = "Output"
"""The group of all others."""

NAMES = 30
"""Characters for the name of an option; a longer one has a line of its own."""


class Option(click.Option):
    """An option that is an error where it is given twice, unless it is repeatable."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Have the parser collect every value, so that none is lost to the last."""
        repeatable, self.multiple = self.multiple, True
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.multiple = repeatable

    def consume_value(self, ctx: click.Context, opts: Any) -> Any:
        """The one value, or all where the option is repeatable. Raises `click.UsageError`."""
        given = opts.get(self.name)
        if not self.multiple and isinstance(given, list):
            if len(given) > 1:
                raise click.UsageError(f"{self.opts[-1]} is given {len(given)} times", ctx)
            opts = {**opts, self.name: given[0]}
        return super().consume_value(ctx, opts)


option = partial(click.option, cls=Option)
"""The decorator of an option."""


class Command(click.Command):
    """A command whose help lists its options by what they are about."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group, their texts in one column."""
        by_name = {name: group for group, names in GROUPS.items() for name in names}
        records: dict[str, list[tuple[str, str]]] = {group: [] for group in (*GROUPS, OTHERS)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                records[by_name.get(param.name or "", OTHERS)].append(record)
        widest = max(len(name) for group in records.values() for name, _ in group)
        for group, lines in records.items():
            if lines:
                (name, text), *rest = lines
                with formatter.section(group):
                    formatter.write_dl([(name.ljust(min(widest, NAMES)), text), *rest], NAMES)
