"""The jobs of the API and the command line: convert a model, verify a matrix file."""
