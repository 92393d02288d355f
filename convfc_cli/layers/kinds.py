"""All kinds of layers there are: importing this module makes each known by its name."""

from convfc_cli.layers.convolution import Convolution
from convfc_cli.layers.dense import Dense
from convfc_cli.layers.diagonal import Diagonal
from convfc_cli.layers.gather import Gather
from convfc_cli.layers.local import LocallyConnected
from convfc_cli.layers.product import Product

KINDS = (Convolution, Dense, Diagonal, Gather, LocallyConnected, Product)
