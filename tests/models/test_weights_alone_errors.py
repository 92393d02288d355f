"""Descriptions of weights alone that do not fit: the message, the command it offers, the API."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

import convfc_cli as convfc
from convfc_cli.errors import SizeMissing, UsageError
from convfc_cli.models.request import WeightsSpec
from tests.support.cli_models import LENET, arrays, listing, matrix_of, run, shell
from tests.support.hdf5_files import matlab, matrix, ramp, weights
from tests.support.weights_alone import PLAIN, convert, describing, state, stored_as, varied

pytestmark = pytest.mark.usefixtures("folder", "in_place")

# What a person may get wrong: one line that says so, and nothing is written

BAD: list[tuple[str, int, str]] = [
    ("--weight conv.wieght", 2, "no dataset 'conv.wieght'; there are conv.weight"),
    ("--weight conv", 2, "no dataset 'conv'; there are conv.bias, conv.weight"),
    ("--weight /", 2, "no dataset '/'; there are"),
    ("--weight=", 2, "no dataset ''; there are"),
    ("--weight a/b/c", 2, "no dataset 'a/b/c'"),
    ("--weight ../conv.weight", 5, "leads out of it"),
    ("--bias conv.bais", 2, "no dataset 'conv.bais'; there are conv.bias"),
    ("--bias ../x", 5, "leads out of it"),
    ("--kernel-order oihx", 2, "'oihx' must name each axis once"),
    ("--kernel-order oihh", 2, "'oihh' must name each axis once"),
    ("--kernel-order omhw", 2, "'omhw' must name each axis once"),
    ("--kernel-order oi", 2, "such as oihw for PyTorch"),
    ("--weight solid --kernel-order oihwo", 2, "'oihwo' must name each axis once"),
    ("--kernel-order oidw", 2, "'oidw' must name each axis once"),
    ("--kernel-order=", 2, "'' must name each axis once"),
    ("--kernel-order oiw", 2, "names 3 axes; conv.weight has 4, (3, 2, 3, 2)"),
    ("--kernel-order oidhw", 2, "names 5 axes; conv.weight has 4"),
    ("--input-shape 1,3,5,4", 2, "1,3,5,4 does not fit conv.weight"),
    ("--input-shape 1,2,5", 2, "reads 1,2 and 2 spatial sizes, batch and channels first"),
    ("--input-shape 1,2,5,4,1", 2, "does not fit"),
    ("--input-shape 1,5,4,2", 2, "does not fit"),
    ("--input-shape 5,4", 2, "give 1,C,H,W"),
    ("--input-shape x=1,2,5,4", 2, "names 'x'; the layer is 'conv.weight'"),
    ("--input-shape 1,2,0,4", 2, "no output: size 0"),
    ("--input-shape 1,2,2,4", 2, "no output: size 2 with padding (0, 0) is less than the kernel's"),
    ("--input-shape a", 2, "'a' is not a shape"),
    ("--groups 2 --input-shape 1,4,5,4", 2, "3 channels cannot be shared out over 2 groups"),
    ("--groups 3", 2, "reads 1,6 and 2 spatial sizes"),
    ("--groups 0", 2, "--groups"),
    ("--stride 0", 2, "stride is 0"),
    ("--stride 1,2,3", 2, "stride has 3 values for 2 spatial axes"),
    ("--stride 1.5", 2, "'1.5' is not a size of each axis"),
    ("--dilation 0", 2, "dilation is 0"),
    ("--dilation 1,1,1", 2, "dilation has 3 values"),
    ("--dilation 3", 2, "kernel's span 7"),
    ("--pad -2", 2, "no output: size 5 with padding (-2, -2)"),
    ("--pad 1,1,1", 2, "pad has 3 values"),
    ("--pad most", 2, "'most' is not one of valid, same, same-lower, half, full, causal"),
    ("--pad 1:2:3", 2, "'1:2:3' is not one of"),
    ("--pad 2000000000000", 2, "outputs is 4000000000003; it must lie between 1 and 2**40"),
    ("--output-padding 1", 2, "an output padding goes with a transposed convolution"),
    ("--transposed --input-shape 1,3,5,4", 2, "reads 1,2 and 2 spatial sizes"),
    ("--transposed --pad same", 2, "is ambiguous for a transposed convolution: give numbers"),
    ("-l conv.wieght", 2, "has no layer 'conv.wieght': did you mean conv.weight?"),
    ("--flip", 2, "No such option"),
]


@pytest.mark.parametrize(("options", "code", "told"), BAD)
def test_a_description_that_does_not_fit(folder: Path, options: str, code: int, told: str) -> None:
    path = state(folder)
    with h5py.File(path, "a") as file:
        file["solid"] = ramp(3, 2, 2, 2, 3)
    before = listing(folder)
    given = varied([*PLAIN, "--bias", "none"], *options.split())
    assert told in run("convert", path, *given).failed(code)
    assert listing(folder) == before


TRANSPOSED_BAD = [
    ("--pad 2", "no output: 1 inputs spread over 3"),
    ("--output-padding 1", "output_padding 1 must be at least 0 and less than"),
    ("--output-padding 0,2 --stride 2", "output_padding 2 must be"),
    ("--output-padding 1,1,1", "output_padding has 3 values for 2 spatial axes"),
    ("--groups 2", "3 channels cannot be shared out over 2 groups"),
    ("--pad causal", "the padding causal is ambiguous for a transposed convolution"),
    ("--pad valid", "the padding valid is ambiguous for a transposed convolution"),
    ("--kernel-order imhw", "a depthwise order (with m) goes without transposed and groups"),
]


@pytest.mark.parametrize(("options", "told"), TRANSPOSED_BAD)
def test_a_description_of_a_transposed_layer_that_does_not_fit(
    folder: Path, options: str, told: str
) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2, 3, 3)})
    given = varied([*describing("iohw", "k"), "--input-shape", "1,3,1,1"], *options.split())
    assert told in run("convert", path, *given, "--transposed").failed(2)
    assert os.listdir() == ["w.h5"]


def test_a_depthwise_order_goes_without_groups(folder: Path) -> None:
    path = weights(folder / "w.h5", {"k": ramp(3, 2, 3, 3)})
    given = [*describing("imhw", "k"), "--groups", "3", "--input-shape", "1,3,5,5"]
    assert "goes without transposed and groups" in run("convert", path, *given).failed(2)


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_options_that_go_together(folder: Path, command: str) -> None:
    path = state(folder)
    subject: Sequence[object] = ["c.npz", "--model", path] if command == "verify" else [path]
    assert "--weight needs --kernel-order, such as oihw or hwio" in run(
        command, *subject, "--weight", "conv.weight"
    ).failed(2)
    for option, value in (
        ("--kernel-order", "oihw"),
        ("--bias", "none"),
        ("--stride", "1"),
        ("--pad", "same"),
        ("--dilation", "1"),
        ("--groups", "1"),
        ("--output-padding", "1"),
    ):
        assert f"{option} goes with --weight" in run(command, *subject, option, value).failed(2)
    assert "--transposed goes with --weight" in run(command, *subject, "--transposed").failed(2)


def test_one_layer_has_one_size(folder: Path) -> None:
    path = state(folder)
    more = ["--bias", "none", "--input-shape", "conv.weight=1,2,9,9"]
    complaint = run("convert", path, *PLAIN, *more).failed(2)
    assert "2 shapes are given; there is one layer, conv.weight" in complaint


def test_the_layer_answers_to_its_name(folder: Path) -> None:
    path = state(folder)
    given = [*PLAIN[:4], "--bias", "none"]
    found = convert(path, *given, "--input-shape", "conv.weight=1,2,5,4", "-l", "weight")
    assert np.array_equal(found["M"], matrix(ramp(3, 2, 3, 2), (5, 4))[0])
    slashes = ["--weight", "/conv.weight", "--kernel-order", "oihw", "--bias", "/conv.bias"]
    found = convert(path, *slashes, *PLAIN[4:])
    assert json.loads(str(found["convfc"]))["origin"]["layer"] == "conv.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "shape", "options"),
    [
        ("oihw", (3, 2, 3, 2), []),
        ("oihw", (3, 2, 3, 2), ["--groups", "3"]),
        ("oiw", (2, 1, 700), ["--dilation", "2"]),
        ("hwio", (3, 2, 100, 3), ["--pad", "-30"]),
        ("oidhw", (1, 2, 1, 70, 1), []),
        ("imhw", (3, 2, 3, 3), ["--stride", "3"]),
        ("iohw", (3, 2, 3, 2), ["--transposed", "--pad", "70"]),
    ],
)
def test_a_missing_size_prints_a_command_that_works(
    folder: Path, order: str, shape: tuple[int, ...], options: list[str]
) -> None:
    letters = {"m": "im"}.get(order[1], "io" if "--transposed" in options else "oi")
    kernel = stored_as(ramp(*shape), letters + "dhw"[-(len(shape) - 2) :], order)
    weights(folder / "my w.h5", {"a b/kernel:0": kernel})
    given = ["my w.h5", *describing(order, "a b/kernel:0"), *options, "--form", "operator"]
    told = run("convert", *given, "-o", "c.npz").failed(2)
    channels = shape[0] if order.startswith("i") else shape[1] * (3 if "--groups" in options else 1)
    assert f"its file does not say the size of its input, {channels} channels" in told
    command = told[told.index("convfc convert") :]
    pasted = run(*shlex.split(command)[1:]) if options else shell(command, folder)
    assert pasted.succeeded().lines == ["c.npz"]


def test_what_no_size_mends_is_said_at_once(folder: Path) -> None:
    path = state(folder)
    given = [*PLAIN[:4], "--bias", "none"]
    assert "3 channels cannot be" in run("convert", path, *given, "--groups", "2").failed(2)
    assert "stride is 0" in run("inspect", path, *given, "--stride", "0").failed(2)


def test_weights_alone_are_not_converted(folder: Path) -> None:
    path = state(folder)
    for more in ([], ["-l", "conv.weight"], ["--input-shape", "1,2,5,4"], ["--keep-going"]):
        told = run("convert", path, *more).failed(2)
        assert "layer conv.weight (weights): its file does not say what its axes are" in told
        assert "describe that, and the size of its input (bias: conv.bias)" in told
    assert os.listdir() == ["w.h5"]


@pytest.mark.parametrize(
    ("name", "shape", "bias", "outputs", "order"),
    [
        ("conv.weight", (3, 2, 3, 2), "conv.bias", 3, "oihw"),
        ("conv.weight", (3, 2, 3, 2), None, 0, "oihw"),
        ("up.weight", (3, 2, 3, 2), "up.bias", 2, "iohw --transposed"),
        ("conv.weight", (3, 2, 4), "conv.bias", 3, "oiw"),
        ("conv.weight", (3, 2, 1, 2, 3), "conv.bias", 3, "oidhw"),
        ("conv.weight", (3, 2, 3, 2), "conv.bias", 7, "oihw"),
        ("c/kernel:0", (3, 2, 2, 5), "c/bias:0", 5, "hwio"),
        ("c/kernel:0", (3, 2, 5), "c/bias:0", 5, "wio"),
        ("d/depthwise_kernel:0", (3, 2, 2, 5), "d/bias:0", 10, "hwim"),
        ("d/depthwise_kernel:0", (3, 2, 2, 5), None, 0, "hwim"),
        (
            "layers/conv2d_transpose/vars/0",
            (3, 2, 4, 5),
            "layers/conv2d_transpose/vars/1",
            4,
            "hwoi",
        ),
        (
            "layers/depthwise_conv2d/vars/0",
            (3, 2, 4, 5),
            "layers/depthwise_conv2d/vars/1",
            20,
            "hwim",
        ),
        ("with space/W", (3, 2, 300, 2), "with space/b", 3, "oihw"),
    ],
)
def test_weights_alone_print_a_command_that_works(
    folder: Path, name: str, shape: tuple[int, ...], bias: str | None, outputs: int, order: str
) -> None:
    """Once the names and the bias leave a choice; what it means is for people to say."""
    datasets = {name: ramp(*shape), **({bias: ramp(outputs)} if bias else {})}
    path = weights(folder / "w.h5", datasets)
    told = run("convert", "w.h5", "--form", "operator").failed(2)
    command = told[told.index("convfc convert") :]
    assert f" --kernel-order {order} " in f"{command} "
    assert (f"--bias {shlex.quote(str(bias))} " in command) == (outputs not in (0, 7))
    assert command.removeprefix("convfc convert w.h5 ") in told
    done = run(*shlex.split(command)[1:]).succeeded()
    stored = arrays(Path(done.lines[0]))
    assert stored["kernel"].size == ramp(*shape).size
    assert ("kernel_bias" in stored) == (outputs not in (0, 7))
    said = run("inspect", path.name).succeeded().err
    assert command.replace(" --form operator", "") in said


def test_a_command_for_matlab(folder: Path) -> None:
    matlab(folder / "net.mat", {"w": ramp(3, 2, 4, 5), "b": ramp(5, 1)})
    told = run("convert", "net.mat").failed(2)
    assert "--weight w --bias b --kernel-order hwio --input-shape 1,4,64,64" in told


# A whole model


def test_an_onnx_model_has_no_use_for_a_description(folder: Path) -> None:
    told = run("convert", LENET, *describing("oihw", "w"), "--input-shape", "1,1,28,28")
    assert "for files of weights alone" in told.failed(2)
    assert os.listdir() == []


# The API


def test_the_api_says_what_the_command_says(folder: Path) -> None:
    path = state(folder)
    spec = WeightsSpec("conv.weight", "oihw", bias="conv.bias", stride=(2,), pad="same")
    wanted, outputs = matrix(ramp(3, 2, 3, 2), (5, 4), stride=(2, 2), pads=((1, 1), (0, 0)))
    model = convfc.read(path, (1, 2, 5, 4), spec)
    (entry,) = model.entries
    assert (model.kind, entry.require().output_shape) == ("hdf5", outputs)
    layer = entry.load()
    assert np.array_equal(layer.kernel, ramp(3, 2, 3, 2))
    assert layer.bias is not None
    assert np.array_equal(layer.bias, ramp(3))
    for shape in ((1, 2, 5, 4), {None: (1, 2, 5, 4)}, {"conv.weight": (1, 2, 5, 4)}):
        found = convfc.matrix(path, weights=spec, input_shape=shape)
        assert np.array_equal(found.toarray(), wanted)
    done = convfc.convert(path, "c.npz", weights=spec, input_shape=(1, 2, 5, 4))
    assert done.exit_code == 0
    assert np.array_equal(matrix_of(Path("c.npz")), wanted)
    assert convfc.verify("c.npz", model=convfc.read(path, weights=spec)).ok
    other = WeightsSpec("conv.weight", "oihw", bias="conv.bias", stride=(2,), pad=((1, 1), (1, 1)))
    assert not convfc.verify("c.npz", model=convfc.read(path, weights=other)).ok


def test_a_layer_without_a_size_takes_any(folder: Path) -> None:
    (entry,) = convfc.read(
        state(folder), weights=WeightsSpec("conv.weight", "oihw", bias="")
    ).entries
    assert entry.status == "needs a size"
    with pytest.raises(SizeMissing) as missing:
        entry.require()
    assert missing.value.hint == "1,2,64,64"
    for sizes in ((5, 4), (3, 2), (9, 2)):
        found = entry.at((2, *sizes))
        assert found.require().output_shape == matrix(ramp(3, 2, 3, 2), sizes)[1]
        assert found.at((2, 7, 7)).require().input_shape == (2, 7, 7)
    with pytest.raises(UsageError, match="does not fit"):
        entry.at((3, 5, 4))


def test_the_api_holds_a_description_to_its_words(folder: Path) -> None:
    path = state(folder)
    for spec, told in (
        (WeightsSpec("conv.weight", "oihw", "", pad="most"), "'most' is not one of"),
        (WeightsSpec("conv.weight", "oihw", "", pad="valid", transposed=True), "is ambiguous"),
        (WeightsSpec("conv.weight", "oihw", "", stride=(1, 1, 1)), "stride has 3 values"),
        (WeightsSpec("conv.weight", "oihw", "", stride=()), "stride has 0 values"),
        (WeightsSpec("conv.weight", "oihw", "", output_padding=(0, 1)), "goes with a transposed"),
    ):
        with pytest.raises(UsageError, match=told):
            convfc.read(path, weights=spec)
