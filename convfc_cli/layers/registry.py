"""All kinds of layers by name: every class of this package with a `kind`."""

from functools import cache

from convfc_cli import discovery
from convfc_cli.layers.linear import Linear


@cache
def kinds() -> dict[str, type[Linear]]:
    """All kinds by the names that files have for them."""
    for _ in discovery.modules("convfc_cli.layers"):
        pass  # a class makes itself known when its module is imported
    return Linear.kinds
