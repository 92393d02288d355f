"""What the metadata say: the digest, the manifest that lists the file, and the model behind it."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.arrays import bits
from convfc_cli.layers.description import unbiased
from convfc_cli.layers.linear import Linear
from convfc_cli.matrices.format import StoredMatrix
from convfc_cli.matrices.matrix import Matrix, digest
from convfc_cli.proof.report import Finding


def digest_finding(stored: StoredMatrix) -> Finding:
    """Whether the file carries the digest of its geometry and arrays."""
    holds = stored.stated_digest == digest(stored.matrix.layer)
    if holds:
        detail = "geometry, kernel and bias are as they were written"
        return Finding("digest", True, detail, "SHA-256", "the file's own")
    return Finding("digest", False, "geometry, kernel or bias are not as they were written")


def manifest_finding(matrix: Matrix, listed: dict[str, Any]) -> Finding:
    """Whether the matrix is what a manifest lists."""
    origin = matrix.origin
    facts = {
        **{"layer": origin.layer, "output": origin.output, "position": origin.position},
        **{"op": origin.op, "form": matrix.form, "shape": list(matrix.shape)},
        **{"nonzeros": matrix.nonzeros, "sha256": origin.sha256},
    }
    for key, value in facts.items():
        if listed.get(key) != value:
            detail = f"{key} is {str(value)[:80]}, by the manifest {str(listed.get(key))[:80]}"
            return Finding("manifest", False, detail)
    detail = "layer, shape and model are those that it lists"
    return Finding("manifest", True, detail, against="manifest.json")


def origin_finding(matrix: Matrix, expected: Matrix) -> Finding:
    """Whether the matrix is that of the model's layer, geometry and bits."""
    layer, original, origin = matrix.layer, expected.layer, matrix.origin
    wanted = replace(expected.origin, weight=expected.origin.weight if origin.weight else "")
    if replace(origin, file="", sha256="") != replace(wanted, file="", sha256=""):
        detail = f"{origin.op} {origin.layer!r} of {origin.dtype or 'unknown dtype'}"
        return Finding(
            "origin", False, f"the model's layer is not the {detail} that the file names"
        )
    if unbiased(layer) != unbiased(original):
        detail = f"{_geometry_of(layer)}, in the model {_geometry_of(original)}"
        return Finding("origin", False, f"the geometry is not that of the model's layer: {detail}")
    arrays, originals = layer.arrays(), original.arrays()
    for name, array in arrays.items():
        if not name.endswith("kernel_bias") and array.tobytes() != originals[name].tobytes():
            wrong = np.argwhere(bits(array) != bits(originals[name]))[0]
            place = tuple(int(i) for i in wrong)
            detail = f"{array[place]!s}, in the model {originals[name][place]!s}"
            return Finding("origin", False, f"{name} element {place} is {detail}")
    for ours, theirs in zip(layer.biases(), original.biases(), strict=True):
        if not _same_bits(ours, theirs):
            return Finding("origin", False, "the bias is not that of the model's layer")
    changes = ["flipped"] * origin.flipped + ["dequantized"] * origin.dequantized
    if "int" in origin.dtype and not origin.dequantized and layer.dtype.kind == "f":
        changes.append(f"integers in {layer.dtype.name}")
    if origin.dtype and layer.dtype.itemsize < np.dtype(_widest(origin.dtype)).itemsize:
        changes.append(f"rounded to {layer.dtype.name}")
    detail = f"the model's, {' and '.join(changes)}" if changes else "the model's, bit for bit"
    if origin.sha256 != expected.origin.sha256:
        detail += "; the model file is another than the one it was written from"
    return Finding("origin", True, f"geometry, kernel and bias are {detail}", against="the model")


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays of a shape are equal bit for bit; what both repeat is looked at once."""
    strides = zip(one.strides, other.strides, strict=True)
    once = tuple(slice(None) if any(both) else slice(1) for both in strides)
    return one[once].tobytes() == other[once].tobytes()


def _geometry_of(layer: Linear) -> str:
    shapes = (layer.input_shape, layer.output_shape, layer.outline.kernel_shape)
    sizes = "{} to {} by {}".format(*("x".join(map(str, shape)) for shape in shapes))
    return f"{layer.kind} of {sizes} in {layer.dtype}"


def _widest(dtype: str) -> str:
    return dtype if dtype == "float64" else "float32"
