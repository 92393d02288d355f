"""One module for each kind of matrix file; its FORMAT fulfils `matrices.format`."""
