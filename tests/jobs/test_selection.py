"""Which layers a selection takes, and with what they are proven."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import convfc_cli as convfc
from convfc_cli.errors import UsageError
from convfc_cli.hints import Advice, Hint
from convfc_cli.jobs.selection import Selection, names, select
from convfc_cli.models.request import Request
from tests.support.cli_models import net
from tests.support.paths import SAMPLES

LINEAR = SAMPLES / "linear.onnx"


@pytest.mark.parametrize("beside", [{"layers": ("conv",)}, {"include": ("linear",)}])
def test_chains_are_composed_in_place_of_layers(beside: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(UsageError, match="in place of single layers"):
        Selection(compose=("a:b",), **beside)


def test_a_name_alone_is_one_name() -> None:
    assert names("conv") == ("conv",)
    assert names(["a", "b"]) == ("a", "b")


def test_layers_in_the_order_of_the_model(tmp_path: Path) -> None:
    path = net(tmp_path / "m.onnx", names=("a", "b", "c"))
    _, entries = select(path, Selection(layers=("c", "a")), Request())
    assert [entry.name for entry in entries] == ["a", "c"]


def test_folded_normalization_as_the_api_has_it(tmp_path: Path) -> None:
    done = convfc.convert(LINEAR, f"{tmp_path}/to/", fold_bn=True)
    assert any("BatchNormalization" in result.item.entry.op for result in done.results)
    assert all(result.report is not None for result in done.results)


def test_the_proof_that_is_asked_of_a_conversion(tmp_path: Path) -> None:
    options = convfc.Options(proof=convfc.Proof(exhaustive=True))
    done = convfc.convert(net(tmp_path / "m.onnx"), f"{tmp_path}/to/", options=options)
    (report,) = (result.report for result in done.results)
    assert report is not None
    assert report.strength == "every entry"


def test_what_is_there_is_replaced_on_request(tmp_path: Path) -> None:
    path = net(tmp_path / "m.onnx")
    convfc.convert(path, tmp_path / "c.npz")
    with pytest.raises(convfc.ConvfcError, match=r"c\.npz exists$") as caught:
        convfc.convert(path, tmp_path / "c.npz")
    assert caught.value.hints == (Hint(Advice.REPLACE),)


def test_a_size_for_one_layer_of_several_inputs_leaves_out_no_other(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((1, 1, 2, 2), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Flatten", ["y"], ["f"], "flat"),
    ]
    open_size = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "h", "w"])
    fixed = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 3, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "cf"]
    graph = helper.make_graph(nodes, "two", [open_size, fixed], outputs, [weight])
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    selection = Selection(layers=("conv",), include=("Flatten",))
    _, entries = select(path, selection, Request({None: (1, 1, 8, 8)}))
    assert [entry.name for entry in entries] == ["conv", "flat"]
    assert entries[0].require().output_shape == (1, 7, 7)
