"""The modules of a package, found by looking into its folder: nothing else registers them."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType


def modules(package: str, inner: str = "") -> Iterator[ModuleType]:
    """Import the modules of a package in the order of their names; with `inner`, the module of that
    name in each package within it.

    >>> [module.__name__ for module in modules("convfc_cli.models", "format")][:2]
    ['convfc_cli.models.hdf5.format', 'convfc_cli.models.keras.format']
    """
    for info in pkgutil.iter_modules(import_module(package).__path__):
        name = f"{package}.{info.name}"
        if not inner:
            yield import_module(name)
        elif info.ispkg:
            yield import_module(f"{name}.{inner}")
