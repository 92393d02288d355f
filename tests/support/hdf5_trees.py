"""HDF5 files that h5py writes into the current folder, opened as untrusted trees."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h5py

from convfc_cli.files import opened
from convfc_cli.hdf5.tree import Dataset, Group, open_tree

NAME = "file.h5"
Fill = Callable[[h5py.File], object]


def tree(fill: Fill | None = None, **options: Any) -> Group:
    """The root of a file in the current folder, written if `fill` says with what."""
    if fill is not None:
        with h5py.File(NAME, "w", **options) as file:
            fill(file)
    with opened(NAME) as source:
        return open_tree(source)


def the_dataset(fill: Fill, **options: Any) -> Dataset:
    """The dataset "x" of a file."""
    found = tree(fill, **options).dataset("x")
    assert found is not None
    return found


def hold(**options: Any) -> Fill:
    """A file with the dataset "x"."""
    return lambda file: file.create_dataset("x", **options)


def first_of(root: Group) -> Dataset:
    return next(root.walk())


@contextmanager
def little_memory(most: int = 16 * 2**20) -> Iterator[None]:
    """Fails if more is taken meanwhile, by Python or NumPy."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


FILTERS: list[dict[str, Any]] = [
    {},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True},
    {"shuffle": True},
]
