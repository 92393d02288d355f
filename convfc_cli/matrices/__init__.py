"""The kinds of matrix file, one module each; `registry` finds them."""
