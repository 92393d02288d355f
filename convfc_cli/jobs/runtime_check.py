"""The original nodes of a model, run by other runtimes and held to the layer as it was read.

So a kernel misread, or a padding misunderstood, does not pass. A chain is held to its layers, and
each of these to its own node.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from convfc_cli.errors import Defect, Refused, WrongContents
from convfc_cli.hints import Advice, Hint
from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.linear import Linear
from convfc_cli.layers.product import Product
from convfc_cli.layout import Layout
from convfc_cli.models import chain
from convfc_cli.models.entry import Entry
from convfc_cli.proof.report import Finding
from convfc_cli.rounding import RuntimeResult, bounds, ratio_text, worst_ratio
from convfc_cli.runtimes.oracle import RUNTIME as ORACLE
from convfc_cli.runtimes.registry import runtimes
from convfc_cli.runtimes.runtime import RunnableLayer


def run_original(entry: Entry, layer: Linear) -> Finding:
    """Hold the layer as it was read to the original node, of a chain each to its own.

    Raises `WrongContents` where they differ.
    """
    if entry.parts:
        return _run_parts(entry, layer)
    note = "; the kernel was flipped after that" if entry.flipped else ""
    layer = layer.flipped() if entry.flipped and isinstance(layer, Convolution) else layer
    finding = believed(_findings(entry, layer))
    if finding.holds is False:
        raise WrongContents(
            f"layer {entry.name}: {finding.detail}; one of them misreads the model, so nothing is "
            f"written",
            Hint(Advice.NO_PROOF),
        )
    return replace(finding, detail=finding.detail + note)


def _run_parts(entry: Entry, layer: Linear) -> Finding:
    """Hold a chain to its layers, and each of these to its original node."""
    try:
        whole = _hold_to_parts(entry, layer, [chain.real(part) for part in entry.parts])
        findings = [run_original(part, part.load()) for part in entry.parts]
    except Refused as error:  # to load them again may be more than the command has left
        return Finding("runtime", None, f"the original nodes were not run: {error}")
    unclear = [finding for finding in findings if finding.holds is None]
    worst = (unclear or sorted(findings, key=lambda finding: finding.worst or 0))[-1]
    detail = f"of {len(findings)} layers, each on its own, the worst: {worst.detail}"
    if whole.holds is None:
        return replace(whole, detail=f"{whole.detail}; {detail}")
    return replace(worst, detail=detail)


def _hold_to_parts(entry: Entry, layer: Linear, layers: Sequence[Linear]) -> Finding:
    """Hold a chain to what its layers compute, one after another, by their oracles: also where
    numbers for each channel have gone into a kernel. Raises `Defect` where they differ.
    """
    name = "the chain, layer by layer"
    x = np.random.default_rng(secrets.randbits(128)).standard_normal(layer.input_shape)
    x = x.astype(layer.dtype)
    y = ORACLE.apply(Product(layers), x[None])
    if isinstance(y, str):
        return Finding("runtime", None, f"{name}, was not run: {y}")
    finding = check_runtime(layer, RuntimeResult.of(ORACLE.label, x, y[0]), name)
    if finding.holds is False:
        raise Defect(f"the chain {entry.name} does not compute what its layers do")
    return finding


def _findings(entry: Entry, layer: Linear) -> Iterator[Finding]:
    """What each runtime in turn says of the layer as it was read."""
    runnable = entry.runnable()
    for result in runtime_results(runnable, secrets.randbits(128)):
        if isinstance(result, str):
            yield Finding("runtime", None, result)
        else:
            assert runnable is not None
            yield check_runtime(layer, result, runnable.name)


def runtime_results(runnable: RunnableLayer | None, seed: int) -> Iterator[RuntimeResult | str]:
    """Run a layer as its model has it in each runtime in turn; or say why one does not run it.

    All are given the same inputs, drawn by the seed. Those that are not installed come last.
    """
    if runnable is None:
        yield "no runtime runs this kind of file"
        return
    missing = {runtime: runtime.missing() for runtime in runtimes()}
    for runtime in sorted(missing, key=lambda runtime: bool(missing[runtime])):
        if missing[runtime]:
            yield f"{runtime.name} is not installed: {missing[runtime]}"
            continue
        try:
            result = runnable.run(runtime, np.random.default_rng(seed))
        except Refused as error:  # no fault of the layer, which is read already
            result = str(error)
        yield result


def check_runtime(layer: Linear, result: RuntimeResult, name: str = "the original node") -> Finding:
    """Hold what another runtime made of the original node, called `name`, to the layer as it was
    read.
    """
    against = result.runtime
    runtime = f"{name}, run by {against}"
    shape = layer.output_shape
    if result.y.shape != shape:
        message = f"{runtime}, gives {result.y.shape}, the layer {shape}"
        return Finding("runtime", False, message, against=against)
    layout = Layout()
    y = layout.vector(result.y)
    largest, left_out = 0.0, 0
    try:
        parts = bounds(layer, result, layout)
    except Refused as error:
        return Finding("runtime", None, f"{runtime}: {error}", against=against)
    for part, answer, bound in parts:
        worst, wrong, skipped = worst_ratio(y[part], answer, bound, finite=layer.finite)
        if wrong is not None:
            place = layout.unflatten(part.start + wrong, shape)
            message = f"gives {y[part][wrong]!s}, the layer as it was read {answer[wrong]:.9g}"
            detail = f"output {place}: {runtime}, {message}"
            return Finding("runtime", False, detail, against=against)
        largest, left_out = max(largest, worst), left_out + skipped
    compared = True if left_out < prod(shape) else None
    ratio = ratio_text(largest, left_out, prod(shape), result.beyond)
    return Finding("runtime", compared, f"{runtime}: {ratio}", against=against, worst=largest)


def believed(findings: Iterable[Finding]) -> Finding:
    """Decide which runtime is believed, of what they say one after another, until one of them
    agrees with the layer.

    It is believed then, and whatever contradicts it stands alone. Where none agrees, one that
    contradicts is believed; where none compared anything, nothing is known. The detail also has
    what the others said.
    """
    by_outcome: dict[bool | None, list[Finding]] = {True: [], False: [], None: []}
    for finding in findings:
        by_outcome[finding.holds].append(finding)
        if finding.holds:
            break
    agreed, contradicting, unclear = (by_outcome[outcome] for outcome in (True, False, None))
    reasons = [finding.detail for finding in unclear]
    if agreed:
        alone = [f"{one.against} stands alone: {one.detail}" for one in contradicting]
        return replace(agreed[0], detail=_joined(agreed[0].detail, *alone, *reasons))
    if contradicting:
        details = [finding.detail for finding in contradicting]
        return replace(contradicting[0], detail=_joined(*details, *reasons))
    if ran := [finding for finding in unclear if finding.against]:
        return replace(ran[0], detail=_joined(*reasons))
    return Finding("runtime", None, f"the original node was not run: {_joined(*reasons)}")


def _joined(*details: str) -> str:
    return "; ".join(dict.fromkeys(details))
