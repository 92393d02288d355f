"""The walls of the house, in one table: which room may import which, and where each library lives.

`tests.house.test_walls` holds the package and the lint rules of `pyproject.toml` to it.
"""

from dataclasses import dataclass

ROOMS = (
    {"hints"},
    {"arrays", "discovery", "errors", "outline", "streams", "vocabulary"},
    {"budget", "contained", "files", "geometry", "layout", "json_values", "naming", "zips"},
    {"direct", "hdf5", "taps"},
    {"toeplitz"},
    {"layers"},
    {"rounding"},
    {"runtimes"},
    {"matrices", "models"},
    {"proof"},
    {"jobs"},
    {"cli"},
)
"""Modules and packages, from the foundation up: each imports only from those above it in the list.
Those of one line do not see each other.
"""

WITHIN = {
    "hdf5": ({"chunks"}, {"heaps"}, {"survey"}, {"tree"}, {"floats"}),
    "layers": (
        {"slabs"},
        {"linear"},
        {"description", "registry", "tied"},
        {"blockwise", "convolution"},
        {"dense", "diagonal", "from_array", "gather", "locally_connected", "sparse_product"},
        {"product"},
        {"compose"},
        {"filling"},
    ),
    "proof": (
        {"report"},
        {"bias", "check", "metadata"},
        {"impulses", "integers", "probes", "reals", "structure"},
        {"kernel_index", "product"},
        {"levels"},
        {"verify"},
    ),
}
"""The same of all modules of a package; of a package that is not here, only that there are no
cycles.
"""

APART = {
    ("proof", "models"): "a proof knows the file and the layer, not where it came from",
    ("direct", "taps"): "the oracle shares no code with what it checks",
    ("direct", "toeplitz"): "the oracle shares no code with what it checks",
    ("toeplitz", "direct"): "the builder shares no code with what checks it",
}
"""(one, other): rooms of which the one does not reach the other, not even through a third."""

LIGHT = ("errors", "hints", "json_values", "layout", "vocabulary")
"""What a command may import before it knows what to do: modules without NumPy."""


@dataclass(frozen=True)
class Library:
    """Where a library may be imported: patterns of files below `convfc_cli/`."""

    rooms: tuple[str, ...] = ("**",)
    why: str = ""
    late: bool = True
    """Whether it is imported only when it is needed, inside a function."""

    early: tuple[str, ...] = ()
    """The files that import it at their top, which are themselves imported late."""


LIBRARIES = {
    "click": Library(("cli/*.py",), "only cli/ talks to people", late=False),
    "rich": Library(("cli/*.py",), "only cli/ talks to people"),
    "onnx": Library(
        ("models/onnx/*.py", "runtimes/onnx*.py", "runtimes/reference.py"),
        "only models/onnx/ reads ONNX, and runtimes/ runs it",
        early=("models/onnx/{[!f]*,fused}.py", "runtimes/onnx*.py", "runtimes/reference.py"),
    ),
    "onnxruntime": Library(
        ("runtimes/onnxruntime.py",), "only runtimes/onnxruntime.py runs a node in it"
    ),
    "h5py": Library(("hdf5/tree.py",), "only hdf5/tree.py imports it"),
    "google": Library(
        ("models/onnx/format.py",), "only models/onnx/format.py catches what its decoder raises"
    ),
    "scipy": Library(early=("matrices/operator.py",)),
}

NOTHING_SEES = {"convfc_cli.cli": ("nothing sees cli/", ("cli/*.py", "__main__.py"))}
"""A room of ours that the lint rules keep like a library."""
