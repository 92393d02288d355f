"""The kinds of model file, one module each; `registry` finds them."""
