"""The JSON Schemas of what the commands print, and what is held to them: all that the tests see."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

COMMANDS = ("convert", "inspect", "map", "verify")


@cache
def schema(command: str) -> dict[str, Any]:
    """The schema of a command, as a user finds it."""
    text = files("convfc_cli.cli").joinpath(f"schemas/{command}.json").read_text()
    content: dict[str, Any] = json.loads(text)
    return content


@cache
def _validator(command: str) -> Draft202012Validator:
    return Draft202012Validator(schema(command))


def held(output: str) -> dict[str, Any]:
    """What a command printed with --json, which must fit its schema."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"JSON has no {constant}")

    content: dict[str, Any] = json.loads(output, parse_constant=refuse)
    assert output == json.dumps(content, indent=1) + "\n"
    command = content["schema"].removeprefix("convfc.").removesuffix("/1")
    for error in _validator(command).iter_errors(content):
        raise AssertionError(f"{command} {error.json_path}: {error.message}")
    return content


def keys(command: str) -> set[str]:
    """Every key of a schema, with the definition that it is in: `matrix.file`."""
    whole = schema(command)
    places = {"": whole, **whole["$defs"]}
    return {f"{name}.{key}" for name, place in places.items() for key in place["properties"]}


def used(command: str, content: Any, name: str = "") -> Iterator[str]:
    """The keys of a schema that an output gives a value to."""
    whole = schema(command)
    place = whole["$defs"][name] if name else whole
    for key, value in content.items():
        if value in (None, [], {}):
            continue
        yield f"{name}.{key}"
        inner = _reference(place["properties"][key])
        for item in (value if isinstance(value, list) else [value]) if inner else ():
            yield from used(command, item, inner)


def _reference(what: dict[str, Any]) -> str:
    """The definition that a value, or each of several, is of; empty for none."""
    choices = [what, what.get("items", {}), *what.get("anyOf", ())]
    return "".join(choice.get("$ref", "").removeprefix("#/$defs/") for choice in choices)
