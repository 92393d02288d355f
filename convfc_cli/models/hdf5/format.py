"""HDF5 that is not a whole Keras model: weights alone, of whatever make, and NIR graphs.

Weights alone (Keras's `.weights.h5`, PyTorch's state dicts, Caffe's `.caffemodel.h5`, MATLAB v7.3,
bare datasets) say nothing of how they are used: see `weights_alone`. So do Keras's sharded weights:
a JSON that names the files, which must lie beside it.
"""

from convfc_cli.files import Input
from convfc_cli.hdf5.tree import is_hdf5, open_tree
from convfc_cli.models.entry import Entry
from convfc_cli.models.hdf5 import nir
from convfc_cli.models.hdf5.shards import Shards, is_sharded, shards
from convfc_cli.models.model import Listing, Model, ModelFormat
from convfc_cli.models.request import Request
from convfc_cli.models.weights_alone import Tree, candidates, described


class Hdf5(ModelFormat):
    """HDF5 files that say nothing of layers, and NIR."""

    name = "hdf5"
    summary = (
        "NIR graphs; weights alone, described by the user: Keras's `.weights.h5` (also sharded), "
        "PyTorch state dicts, Caffe, MATLAB v7.3"
    )

    def recognizes(self, source: Input) -> bool:
        """Whether it is HDF5, neither a Keras model nor a matrix file, or the JSON of shards."""
        if is_sharded(source):
            return True
        if not is_hdf5(source):
            return False
        return {"model_config", "convfc"}.isdisjoint(open_tree(source).attributes())

    def open(self, source: Input, request: Request) -> Model:
        sharded = shards(source) if is_sharded(source) else None
        listing = Listing(_entries(source, sharded, request))
        return Model(
            *(source.name, self.name, listing, source.kept(), source.path),
            beside=lambda: sharded.paths if sharded else (),
        )


FORMAT = Hdf5()


def _entries(source: Input, sharded: Shards | None, request: Request) -> tuple[Entry, ...]:
    tree: Tree
    if sharded is not None:
        tree = sharded
    else:
        tree = root = open_tree(source)
        if request.weights is None and nir.is_nir(root):
            return nir.list_layers(root, request.shapes)
    if request.weights is None:
        return candidates(tree)
    return described(tree, request.weights, request.shapes)
