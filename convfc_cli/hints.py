"""What to do about an error, as a value: the command line words it as options of its own."""

from dataclasses import dataclass
from enum import Enum


class Advice(Enum):
    """What helps. Each member says it in the terms of the API, and what the values of its `Hint`
    are.
    """

    REPLACE = "set Options.force, or choose another output"
    RESUME = "set Options.resume or Options.force, or choose another output"
    ELSEWHERE = "choose another output"
    STREAM = "choose another output, or stream the bytes"
    LAYERS = "choose layers: the position of one"
    OUTPUT = "name a file, a folder, or a stream"
    LAYOUT = "choose another layout: its name"
    SHAPE = "leave out the shapes that are given, or export the model with them or with open sizes"
    BIAS = "say which dataset is the bias: its name"
    NO_WEIGHTS = "leave out the description of weights"
    INCLUDE = "include the other linear layers"
    CHAINS_ALONE = "give either chains or layers"
    FORM = "choose another form: its name, and what it writes"
    ALLOW = "set Options.max_bytes: how many"
    NO_PROOF = "set Options.proof to None, and report the model"
    FLIP = "set Options.flip_kernel"
    DESCRIBE = "describe the weights again"


@dataclass(frozen=True)
class Hint:
    """One piece of advice, with the values that it needs."""

    advice: Advice
    values: tuple[object, ...] = ()
