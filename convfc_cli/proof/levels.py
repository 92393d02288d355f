"""Which levels a proof consists of: those wanted that the kind of layer has."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.layers.product import Product
from convfc_cli.proof.check import Check, Subject
from convfc_cli.proof.probes import Probes
from convfc_cli.proof.product import Factors, ProductEntries, ProductOutputs
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.runtime import as_read


def of_entries(
    subject: Subject, inputs: Sequence[NDArray[Any]], seed: int, strength: str
) -> list[Check]:
    """Those that hold the entries to the layer: copies bit for bit, sums within rounding."""
    layer = subject.layer
    if not isinstance(layer, Product):
        return [Probes(subject, inputs, strength)]
    random = np.random.default_rng(seed)
    return [
        Factors(layer, subject.matrix.layout, seed, len(inputs), strength),
        ProductEntries(subject, layer),
        ProductOutputs(subject, ORACLE, as_read(subject.matrix.layer), random),
    ]
