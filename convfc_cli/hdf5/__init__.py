"""Untrusted HDF5 files: their objects are listed in a child, their values read here as bytes."""
