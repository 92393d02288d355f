"""Whole Keras models, `.h5` and `.keras`: their configuration, shapes and weights."""
