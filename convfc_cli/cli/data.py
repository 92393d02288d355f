"""Results for programs, on standard output: JSON documents and tab-separated lines."""

import json
from collections.abc import Iterable, Sequence

from convfc_cli.cli.terminal import printable


def print_json(value: object) -> None:
    """A JSON document on standard output."""
    print(json.dumps(value, indent=1, allow_nan=False))


def print_json_list(items: Iterable[object]) -> None:
    """A JSON list on standard output, each item as it comes."""
    before = "["
    for item in items:
        text = json.dumps(item, indent=1, allow_nan=False).replace("\n", "\n ")
        print(f"{before}\n {text}", end="")
        before = ","
    print("[]" if before == "[" else "\n]")


def print_rows(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Tab-separated lines on standard output, a header first."""
    print("\t".join(header))
    for row in rows:
        print("\t".join(printable(str(cell)) for cell in row))
