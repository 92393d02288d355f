"""What the commands print as JSON: one object each, with the same keys for the same things.

`schemas/` beside this module has a JSON Schema for each command. A later version of a schema has
another number.
"""

import re
from typing import TYPE_CHECKING, Any

from convfc_cli.cli.hints import ways
from convfc_cli.errors import ConvfcError
from convfc_cli.json_values import json_number
from convfc_cli.vocabulary import NOT_VERIFIED

if TYPE_CHECKING:
    from convfc_cli.jobs.result import Conversion, Result
    from convfc_cli.jobs.statements import Unproven
    from convfc_cli.models.model import Model
    from convfc_cli.outline import Outline
    from convfc_cli.proof.report import Report

Record = dict[str, Any]
"""Plain values, as JSON has them."""


def head(command: str) -> Record:
    """What the object of each command begins with."""
    from convfc_cli import __version__

    return {"schema": f"convfc.{command}/1", "version": __version__}


def of_model(model: "Model") -> Record:
    """A model file, all of which is read for its digest."""
    return {"file": model.name, "kind": model.kind, "sha256": model.sha256}


def of_error(error: ConvfcError) -> Record:
    """An error, and what helps."""
    kinds = (kind for kind in type(error).__mro__ if kind.__module__ == ConvfcError.__module__)
    return {
        "kind": next(kinds).__name__,
        "exit_code": error.exit_code,
        "message": str(error),
        "hints": ways(error),
    }


def warning(kind: str, message: str) -> Record:
    """What may surprise."""
    return {"kind": kind, "message": message}


def of_outline(outline: "Outline | None") -> Record:
    """The sizes of a layer, where they are known."""
    return {
        "input_shape": outline.input_shape if outline else None,
        "output_shape": outline.output_shape if outline else None,
        "nonzeros": outline.nnz if outline else None,
    }


def of_conversion(done: "Conversion", warnings: list[Record]) -> Record:
    """All that a conversion wrote, and what it could not."""
    return {
        **head("convert"),
        "model": of_model(done.plan.model),
        "matrices": list(map(_of_result, done.results)),
        "failed": [
            {
                "position": entry.position,
                "layer": entry.name,
                "output": entry.output,
                "op": entry.op,
                "error": of_error(error),
            }
            for entry, error in done.failures
        ],
        "warnings": warnings,
    }


def _of_result(result: "Result") -> Record:
    """A matrix that was written."""
    item, report = result.item, result.report
    entry, spec = item.entry, item.spec
    outline = entry.require()
    return {
        "file": str(item.path),
        "group": result.group or None,
        "beside": [str(path) for path in item.beside],
        "position": entry.position,
        "layer": entry.name,
        "output": entry.output,
        "weight": entry.weight or None,
        "op": entry.op,
        **of_outline(outline),
        "kernel_shape": outline.kernel_shape or None,
        "groups": outline.groups,
        "notes": entry.notes(),
        "form": spec.form,
        "layout": spec.layout.order,
        "transpose": spec.transpose,
        "dtype": item.dtype.name,
        "shape": item.shape,
        "bytes": result.size,
        "kept": result.kept,
        "verdict": result.verdict,
        "report": report.to_json()["report"] if report else None,
    }


def of_verified(report: "Report") -> Record:
    """A matrix that was read, and proven or found wrong."""
    return {**report.to_json(), "error": None}


def of_unread(file: str | None, error: ConvfcError) -> Record:
    """A matrix that could not be read, or a folder."""
    unknown = dict.fromkeys(("group", "layer", "form", "shape", "nonzeros"))
    found = {"verdict": "error", "report": None, "error": of_error(error)}
    return {"file": file, **unknown, **found}


def of_unproven(one: "Unproven") -> Record:
    """A matrix as its file describes it."""
    stated = one.statement
    spec, origin = stated.spec, stated.origin
    known = re.fullmatch("[0-9a-f]{64}", origin.sha256)
    return {
        "file": one.file,
        "group": stated.group or None,
        "beside": [str(path) for path in one.beside],
        "position": origin.position,
        "layer": origin.layer,
        "output": origin.output,
        "weight": origin.weight or None,
        "op": origin.op,
        "input_shape": stated.input_shape,
        "output_shape": stated.output_shape,
        "nonzeros": stated.nonzeros,
        "kernel_shape": stated.kernel_shape or None,
        "groups": stated.groups,
        "notes": origin.notes,
        "form": spec.form,
        "layout": spec.layout.order,
        "transpose": spec.transpose,
        "dtype": stated.dtype,
        "shape": stated.shape,
        "bytes": one.size,
        "model": {"file": origin.file, "kind": None, "sha256": origin.sha256 if known else None},
        "digest": stated.digest,
        "verdict": NOT_VERIFIED,
    }


Row = tuple[int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, float]
"""An entry as `map` finds it: row, column, output, input and kernel element, value."""


def of_entry(row: Row) -> Record:
    """An entry of a matrix in terms of its layer."""
    keys = ("row", "column", "output_element", "input_element", "kernel_element")
    return {**dict(zip(keys, row[:5], strict=True)), "value": json_number(row[5])}
