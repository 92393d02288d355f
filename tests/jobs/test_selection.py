"""Which layers a selection takes, and with what they are proven."""

from pathlib import Path

import pytest

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
