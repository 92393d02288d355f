"""Results for programs, on standard output: JSON documents and tab-separated lines."""

import json
from collections.abc import Iterable, Sequence

from convfc_cli.cli.terminal import printable


def print_json(value: object) -> None:
    """A JSON document on standard output."""
    print(_text(value))


def print_json_stream(head: dict[str, object], name: str, items: Iterable[object]) -> None:
    """A JSON object on standard output, `head` and a last member `name`: a list, each item as it
    comes.
    """
    print(_text(head).removesuffix("\n}"), end=f',\n "{name}": [')
    between, end = "", ""
    for item in items:
        text = _text(item).replace("\n", "\n  ")
        print(f"{between}\n  {text}", end="")
        between, end = ",", "\n "
    print(f"{end}]\n}}")


def _text(value: object) -> str:
    return json.dumps(value, indent=1, allow_nan=False)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Tab-separated lines on standard output, a header first."""
    print("\t".join(header))
    for row in rows:
        print("\t".join(printable(str(cell)) for cell in row))
