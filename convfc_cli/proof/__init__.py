"""The proof of a stored matrix: one module for each level, and `verify`, which runs them."""
