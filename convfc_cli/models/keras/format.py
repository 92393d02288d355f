"""Keras models, whole: `.h5` of Keras 1, 2 and 3, and the `.keras` zip. Keras is never imported.

The container is detected from the content: HDF5 with the attribute `model_config`, or a zip with
`config.json` in it. What reads it is imported when there is one.
"""

import zipfile

from convfc_cli.files import Input
from convfc_cli.hdf5.tree import is_hdf5, open_tree
from convfc_cli.models.model import Model, ModelFormat
from convfc_cli.models.request import Request
from convfc_cli.zips import open_zip


class Keras(ModelFormat):
    """A whole Keras model."""

    name = "keras"
    summary = (
        "whole models, `.h5` of Keras 1, 2 and 3, `.keras`: Conv, ConvTranspose, DepthwiseConv"
    )

    def recognizes(self, source: Input) -> bool:
        """Whether it is a zip with a configuration, or HDF5 with one as an attribute."""
        if source.head.startswith(b"PK\3\4"):
            try:
                with open_zip(source.file, source.name) as archive:
                    return "config.json" in archive.namelist()
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
                return b"config.json" in source.head or b"metadata.json" in source.head
        return is_hdf5(source) and "model_config" in open_tree(source).attributes()

    def open(self, source: Input, request: Request) -> Model:
        from convfc_cli.models.keras.container import legacy, zipped

        read = zipped if source.head.startswith(b"PK\3\4") else legacy
        return Model(source.name, self.name, read(source, request), source.kept(), source.path)


FORMAT = Keras()
