"""`convfc inspect`: what a model holds."""

import sys

import click

from convfc_cli.cli import options
from convfc_cli.cli.output import is_terminal, print_json, print_rows, print_table, say, shape

HEADER = ("@", "layer", "op", "input", "output", "kernel", "nonzeros", "csr", "status")

EPILOG = """\b
Examples:
  convfc inspect model.onnx
  convfc inspect model.onnx --input-shape x=1,3,224,224
  convfc inspect model.onnx | cut -f 2,7
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@options.input_shape
@options.common
def inspect(
    model: str, input_shapes: tuple[options.Shape, ...], as_json: bool, quiet: bool
) -> None:
    """List the convolutions of MODEL: shapes, nonzeros, and the bytes of each matrix.

    A table on a terminal, tab-separated lines in a pipe. No weight is read.
    """
    import numpy as np

    from convfc_cli.conversion import human
    from convfc_cli.errors import UsageError
    from convfc_cli.matrices.matrix import Spec
    from convfc_cli.matrices.registry import by_form
    from convfc_cli.models.registry import read

    found = read(model, options.shapes(input_shapes))
    if not found.entries:
        raise UsageError(f"{found.name} has no convolution: there is nothing to list")
    spec = Spec()
    rows, listed, total, nonzeros = [], [], 0, 0
    for entry in found.entries:
        index_map = entry.index_map
        size = 0
        if index_map is not None:
            dtype = np.dtype("float64" if entry.dtype == "float64" else "float32")
            size = by_form(spec.form).size(spec, index_map, dtype)
            total, nonzeros = total + size, nonzeros + index_map.nnz
        listed.append(
            {
                "position": entry.position,
                "layer": entry.name,
                "output": entry.output,
                "op": entry.op,
                "status": entry.status,
                "reason": str(entry.error) if entry.error else None,
                "input_shape": index_map.input_shape if index_map else None,
                "output_shape": index_map.output_shape if index_map else None,
                "kernel_shape": index_map.kernel_shape if index_map else None,
                "groups": index_map.groups if index_map else None,
                "nonzeros": index_map.nnz if index_map else None,
                "bytes": size or None,
                "dtype": entry.dtype or None,
            }
        )
        status = entry.status if not entry.error else f"{entry.status}: {entry.error}"
        shapes = (
            (
                shape(index_map.input_shape),
                shape(index_map.output_shape),
                _kernel(index_map.kernel_shape),
            )
            if index_map
            else ("", "", "")
        )
        numbers = (f"{index_map.nnz:,}", human(size)) if index_map else ("", "")
        rows.append((entry.position, entry.name, entry.op, *shapes, *numbers, status))
    if as_json:
        print_json(
            {"model": found.name, "kind": found.kind, "sha256": found.sha256, "layers": listed}
        )
        return
    if is_terminal(sys.stdout):
        print_table(HEADER, rows, numbers=("@", "nonzeros", "csr"))
    else:
        plain = (
            "position",
            "layer",
            "op",
            "input",
            "output",
            "kernel",
            "nonzeros",
            "bytes",
            "status",
        )
        print_rows(
            plain,
            (
                (*row[:6], item["nonzeros"] or "", item["bytes"] or "", row[8])
                for row, item in zip(rows, listed, strict=True)
            ),
        )
    ready = sum(entry.error is None for entry in found.entries)
    say(
        f"{ready} of {len(found.entries)} layers ready: {nonzeros:,} nonzeros, "
        f"{human(total)} as csr",
        quiet=quiet,
    )
    hints = [entry.size_hint for entry in found.entries if entry.size_hint]
    if hints:
        say(f"sizes are open: convfc inspect {model} --input-shape {hints[0]}", quiet=quiet)


def _kernel(sizes: tuple[int, ...]) -> str:
    return shape(sizes)
