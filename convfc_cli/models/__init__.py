"""The kinds of model file, one package each; `registry` finds them."""
