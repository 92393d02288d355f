"""Whom to believe: what follows from what several runtimes say of one layer as it was read."""

from collections.abc import Iterable
from dataclasses import replace

from convfc_cli.proof.report import Finding


def believed(accounts: Iterable[Finding]) -> Finding:
    """What the runtimes' accounts of a layer come to. They run one by one, until one of
    them agrees with the layer.

    It is believed then, and whatever contradicts it stands alone. Where none agrees, one that
    contradicts is believed; where none compared anything, nothing is known. What the others said
    is told too.
    """
    found: dict[bool | None, list[Finding]] = {True: [], False: [], None: []}
    for account in accounts:
        found[account.holds].append(account)
        if account.holds:
            break
    unasked = [one.detail for one in found[None]]
    if found[True]:
        (agreed,) = found[True]
        alone = [f"{one.against} stands alone: {one.detail}" for one in found[False]]
        return replace(agreed, detail=_told(agreed.detail, *alone, *unasked))
    if found[False]:
        first = found[False][0]
        return replace(first, detail=_told(*(one.detail for one in found[False]), *unasked))
    if ran := [one for one in found[None] if one.against]:
        return replace(ran[0], detail=_told(*unasked))
    return Finding("runtime", None, f"the original node was not run: {_told(*unasked)}")


def _told(*details: str) -> str:
    return "; ".join(dict.fromkeys(details))
