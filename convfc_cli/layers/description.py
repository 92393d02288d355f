"""A layer as metadata: all of it but its arrays, and back."""

from typing import Any

from convfc_cli.geometry import Axis
from convfc_cli.json_values import exactly
from convfc_cli.layers.linear import Linear, Read


def described(layer: Linear) -> dict[str, Any]:
    """All of a layer but its arrays, as JSON has it."""
    shapes = {"input_shape": layer.input_shape, "output_shape": layer.output_shape}
    return {"kind": layer.kind, **shapes, **layer.geometry()}


def unbiased(layer: Linear) -> dict[str, Any]:
    """What `described` says, but whether there is a bias: none is as good as one of zeros."""
    return _without_bias(described(layer))


def _without_bias(content: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in content.items() if key not in ("bias", "bias_shape")}
    if "factors" in kept:
        kept["factors"] = list(map(_without_bias, kept["factors"]))
    return kept


def restored(geometry: dict[str, Any], read: Read) -> Linear:
    """The layer of an untrusted description; raises what `Linear.restore` does."""
    kind = exactly(str, geometry["kind"])
    if kind not in Linear.kinds:
        raise ValueError(f"it is of the unknown kind {kind[:80]!r}")
    return Linear.kinds[kind].restore(geometry, read)


def axes_of(geometry: dict[str, Any]) -> tuple[Axis, ...]:
    """The axes that an untrusted description states; raises what `restore` does."""
    return tuple(
        Axis(**{key: exactly(int, number) for key, number in exactly(dict, axis).items()})
        for axis in exactly(list, geometry["axes"])
    )
