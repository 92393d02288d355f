"""Which shape might be given, for a message: a shape that a Keras model can really be given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from convfc_cli.models.keras.config import Graph, Shape, input_shape
from convfc_cli.models.keras.walk import Call

TRIED = (32, 64, 28, 128, 16, 8, 256, 4, 2, 1)
"""Sizes that are tried where the file contradicts the usual one, for an example."""

MAX_TRIED = 20_000
"""Calls of layers that are tried for a hint, in all messages together."""


@dataclass
class Hints:
    """Shapes of the model's input if that is open, else of what a layer reads.

    Whatever the file declares is in them, and nothing that the file contradicts.
    """

    graph: Graph
    calls: int
    """Of layers, in all."""

    fits: Callable[[Mapping[str, Sequence[int]]], bool]
    """Whether nothing in the file contradicts these shapes."""

    left: int = MAX_TRIED
    _hints: dict[tuple[str | int | None, ...], str] = field(default_factory=dict)

    def hint(self, call: Call, guess: Sequence[int]) -> str:
        """A value for the size that this call lacks, with `guess` for what is not known of the
        layer's own input, without its batch, in the model's order.
        """
        channels = -1 if call.channels_last else 0
        before = call.layer.calls[0][0].layer if call.layer.calls and call.layer.calls[0] else ""
        scope = "/".join(step.name for step in call.chain[:-1])
        tensor = f"{scope}/{before}".strip("/") or self.graph.inputs[0]
        if self._open_input is None:
            declared = _first_known(call.shape, call.layer.built)
            shape = declared if declared is not None else (None,) * (len(guess) + 1)
            return self._settled(tensor, shape, guess, channels)
        name, shape = self._open_input
        usual = _usual(len(shape) - 1, channels_last=call.channels_last)
        if tensor == name and guess and len(usual) == len(guess):
            usual[channels] = guess[channels]
        return self._settled(name, shape, usual, channels)

    @cached_property
    def _open_input(self) -> tuple[str, tuple[int | None, ...]] | None:
        """The first input that the model leaves open: its name, and what its readers declare."""
        graph = self.graph
        for name in graph.inputs:
            shape = input_shape(graph.by_name[name])
            if shape is not None and None in shape[1:]:
                for reader in graph.layers:
                    for ref in (ref for call in reader.calls for ref in call):
                        if ref.layer == name:
                            declared = input_shape(reader) if reader.graph is not None else None
                            shape = _first_known(shape, ref.stated, declared, reader.built)
                assert shape is not None
                return name, shape
        return None

    def _settled(
        self, tensor: str, shape: tuple[int | None, ...], guess: Sequence[int], channels: int
    ) -> str:
        if len(guess) != len(shape) - 1:
            guess = (64,) * (len(shape) - 1)
        key = (tensor, *shape, *guess)
        if key not in self._hints:
            sizes = self._tried(tensor, shape[1:], guess, channels)
            self._hints[key] = f"{tensor}={','.join(map(str, (1, *sizes)))}"
        return self._hints[key]

    def _tried(
        self, tensor: str, shape: Sequence[int | None], guess: Sequence[int], channels: int
    ) -> Sequence[object]:
        """The shape with a size for each that is open; `?` where none is found that fits.

        What has taken enough time already is not tried.
        """
        if len(guess) > 1 and not shape[channels]:
            shape = [*shape]
            shape[channels] = guess[channels]
        for size in (None, *TRIED):
            trial = guess if size is None else [size] * len(guess)
            sizes = [known or other for known, other in zip(shape, trial, strict=True)]
            self.left -= self.calls
            if self.left < 0 or self.fits({tensor: (1, *sizes)}):
                return sizes
        return ["?" if size is None else size for size in shape]


def _usual(rank: int, *, channels_last: bool) -> list[int]:
    """A usual size for each axis of an input but its batch."""
    sizes = {1: [100], 2: [1000, 4], 3: [224, 224, 3], 4: [16, 112, 112, 3]}.get(rank, [1] * rank)
    return sizes if channels_last or rank == 1 else [sizes[-1], *sizes[:-1]]


def _first_known(*accounts: Shape) -> Shape:
    """Of each size the first account that has it; those of another rank than the first are left."""
    known = [shape for shape in accounts if shape is not None]
    if not known:
        return None
    same = [shape for shape in known if len(shape) == len(known[0])]
    return tuple(next((size for size in sizes if size), None) for sizes in zip(*same, strict=True))
