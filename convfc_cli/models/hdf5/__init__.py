"""HDF5 files that are not whole Keras models: NIR graphs, and weights alone."""
