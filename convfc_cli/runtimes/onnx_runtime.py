"""What runs ONNX nodes: how a layer is put to it, and how its failures are told."""

from abc import abstractmethod
from typing import Any

import numpy as np

from convfc_cli.layers import Convolution
from convfc_cli.runtimes.onnx_node import Node, stated
from convfc_cli.runtimes.runtime import LARGEST, Array, Runtime


class OnnxRuntime(Runtime):
    """A runtime of ONNX nodes."""

    def apply(
        self, layer: Convolution, x: Array, kernel: Array, bias: Array | None = None
    ) -> Array | str:
        if not isinstance(layer, Convolution):
            return f"{self.name} does not run a {type(layer).__name__}"
        index_map = layer.index_map
        node = stated(index_map, x.dtype.name, bias=bias is not None)
        if isinstance(node, str):
            return f"{self.name} cannot run it ({node})"
        feeds = {"x": node.given(x), "w": kernel}
        y = self.run(node.node, feeds if bias is None else {**feeds, "b": bias})
        return y if isinstance(y, str) else node.asked(y)

    def run(self, node: Node, feeds: dict[str, Array]) -> Array | str:
        """What the node makes of its inputs, or why the runtime is not asked."""
        if missing := self.missing():
            return f"{self.name} is not installed: {missing}"
        index_map = node.index_map
        if index_map.rows + index_map.columns > LARGEST:
            return "the layer's tensors are too large to run it for a check"
        if why := self.unfit(node, feeds):
            return f"{self.name} {why}"
        try:
            with np.errstate(all="ignore"):
                return np.asarray(self.answer(node, feeds))
        except Exception as error:  # it raises types of its own for whatever it does not implement
            return f"{self.name} cannot run it ({' '.join(str(error).split())[:100]})"

    @abstractmethod
    def unfit(self, node: Node, feeds: dict[str, Array]) -> str:
        """Why its answer would be worth nothing; otherwise nothing."""

    @abstractmethod
    def answer(self, node: Node, feeds: dict[str, Array]) -> Any:
        """The output of the node; raises whatever it likes."""
