"""The values that a listing is made of: entries, what interrupts a chain, the parsed network."""

import pytest

from convfc_cli.errors import Defect, Unsupported
from convfc_cli.models.entry import Entry
from convfc_cli.models.keras.config import Graph
from convfc_cli.models.onnx.listing import NodeGraph
from convfc_cli.models.producer import Producer, Reason
from convfc_cli.models.registry import read
from tests.support.paths import SAMPLES


def test_an_entry_is_resolved_or_has_an_error() -> None:
    (good, *_) = read(SAMPLES / "lenet.onnx").entries
    with pytest.raises(Defect, match="an outline or an error"):
        Entry(0, "c", "c", "Conv")
    with pytest.raises(Defect, match="an outline or an error"):
        Entry(0, "c", "c", "Conv", error=Unsupported("no"), resolved=good.resolved)


def test_what_interrupts_a_chain_is_a_value() -> None:
    model = read(SAMPLES / "lenet.onnx")
    first, second = (entry.producer for entry in model.entries)
    assert first == Producer(Reason.INPUT, "x")
    assert second == Producer(Reason.OPERATOR, "max_pool2d", "MaxPool", "node_max_pool2d")
    assert str(second) == "MaxPool 'node_max_pool2d'"
    assert model.layer("node_linear").producer is None


def test_a_model_keeps_its_parsed_network() -> None:
    network = read(SAMPLES / "lenet.onnx").graph
    assert isinstance(network, NodeGraph)
    assert "Conv" in network.operators()
    assert len(network.nodes) == len(network.model.graph.node)
    network = read(SAMPLES / "digits_keras3.keras").graph
    assert isinstance(network, Graph)
    assert network.inputs
    assert read(SAMPLES / "digits_torch.h5").graph is None


@pytest.mark.parametrize("name", ["lenet.onnx", "digits_keras3.keras"])
def test_entries_and_models_are_short_to_print_and_can_be_in_sets(name: str) -> None:
    model = read(SAMPLES / name)
    assert len(repr(model)) < 1000
    for entry in model.layers():
        assert len(repr(entry)) < 2000
    assert len(set(model.layers())) == len(list(model.layers()))
