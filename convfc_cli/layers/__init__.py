"""What can become a matrix: the contract, and one module for each kind of layer."""
