"""What once broke in the hands of people who tried to break it; each a case of its own."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from convfc_cli.direct import convolve, convolve_transposed
from convfc_cli.geometry import Axis
from convfc_cli.taps import IndexMap
from convfc_cli.toeplitz import rows
from tests.support.cli_models import LENET, ROOT, net, process, run, shell

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_characters_that_the_output_cannot_hold_are_escaped(encoding: str) -> None:
    net(Path("m.onnx"), names=("a\x1b[31mß漢",))
    extra = {"PYTHONIOENCODING": encoding}
    done = process("convert", "m.onnx", "-v", cwd=Path(), env=extra)
    assert done.code == 0
    assert "\\ufffd" in done.err
    assert Path("m.onnx.fc/manifest.json").is_file()
    missing = process("convert", "n漢.onnx", cwd=Path(), env=extra)
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert "n\\u6f22.onnx" in missing.err


@pytest.mark.slow
def test_a_full_standard_error_does_not_change_the_outcome(model: Path) -> None:
    assert shell("convfc convert m.onnx 2>/dev/full", Path()).code == 0
    assert shell("convfc verify nowhere 2>/dev/full", Path()).code == 2


def test_a_manifest_that_is_a_pipe_is_no_manifest(model: Path) -> None:
    run("convert", model, "--no-verify").succeeded()
    manifest = Path("m.onnx.fc/manifest.json")
    manifest.unlink()
    os.mkfifo(manifest)
    assert "has no manifest.json" in run("verify", "m.onnx.fc").failed(3)


def test_the_model_itself_is_not_replaced(model: Path) -> None:
    model.rename("m.npz")
    before = Path("m.npz").read_bytes()
    assert "is the model itself" in run("convert", "m.npz", "-o", "m.npz", "--force").failed(2)
    assert Path("m.npz").read_bytes() == before


def test_what_force_leaves_in_a_folder_is_named() -> None:
    net(Path("m.onnx"), names=("a", "b"))
    run("convert", "m.onnx", "-l", "a", "-o", "f/", "--no-verify").succeeded()
    done = run("convert", "m.onnx", "-l", "b", "-o", "f/", "--no-verify", "--force").succeeded()
    assert "000-a.npz was there before and is not in the manifest" in done.err


def test_a_failed_force_leaves_the_old_folder_complete(model: Path) -> None:
    run("convert", model).succeeded()
    net(Path("m.onnx"), shape=(1, 2, "h", "w"))
    run("convert", "m.onnx", "--force").failed(2)
    assert run("verify", "m.onnx.fc").succeeded().lines == ["proven\tm.onnx.fc/000-conv.npz\t2^-96"]


def test_an_operator_file_is_called_consistent_not_proven(model: Path) -> None:
    run("convert", model, "--form", "operator").succeeded()
    done = run("verify").succeeded()
    assert done.lines == ["consistent\tm.onnx.fc/000-conv.npz\tdigest only"]
    assert "0 of 1 proven, 1 consistent" in done.err


def test_a_flipped_kernel_is_not_called_the_models_bit_for_bit(model: Path) -> None:
    done = run("convert", model, "--flip-kernel", "-v", "-o", "c.npz").succeeded()
    assert "; the kernel was flipped after that" in " ".join(done.err.split())
    (report,) = json.loads(run("verify", "c.npz", "--model", model, "--json").succeeded().out)[
        "matrices"
    ]
    (origin,) = (f["detail"] for f in report["report"]["findings"] if f["check"] == "origin")
    assert origin == "geometry, kernel and bias are the model's, flipped"


def test_an_origin_that_names_another_layer_is_wrong(model: Path) -> None:
    run("convert", model, "-o", "c.npz").succeeded()
    with np.load("c.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["convfc"] = np.array(str(arrays["convfc"]).replace('"op": "Conv"', '"op": "Forged"'))
    np.savez("forged.npz", **arrays)
    assert run("verify", "forged.npz").code == 0
    done = run("verify", "forged.npz", "--model", model)
    assert done.code == 1
    assert "origin: the model's layer is not the Forged" in done.out


def test_bytes_before_the_first_member_are_not_passed_over(model: Path) -> None:
    run("convert", model, "-o", "c.npz").succeeded()
    content = Path("c.npz").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile("d.npz", "w") as out:
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
    assert run("verify", "d.npz").code == 0
    Path("d.npz").write_bytes(content + Path("d.npz").read_bytes())
    assert "holds more than its members" in run("verify", "d.npz").failed(3)


def test_a_field_that_is_there_twice_is_malformed(model: Path) -> None:
    run("convert", model, "-o", "c.npz").succeeded()
    with np.load("c.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    text = str(arrays["convfc"])
    arrays["convfc"] = np.array(text.replace('"groups": 1', '"groups": 2, "groups": 1'))
    np.savez("twice.npz", **arrays)
    assert "it has a field twice" in run("verify", "twice.npz").failed(3)


def test_a_kernel_element_of_a_huge_layer_is_listed_as_it_comes() -> None:
    axis = Axis(inputs=2**30, outputs=2**30, kernel=1, stride=1, dilation=1, offset=0)
    taps = IndexMap((1, 1, 1, 1), (axis, axis)).of_kernel((0, 0, 0, 0))
    assert [next(taps).input for _ in range(3)] == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]


@pytest.mark.slow
def test_a_layer_too_large_to_be_run_is_written_unchecked_by_it_and_says_so() -> None:
    net(Path("m.onnx"), shape=(1, 2, "h", "w"))
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2)\n"
    code += "from convfc_cli.cli.main import main; main(sys.argv[1:])"
    command = ("convert", "m.onnx", "--input-shape", "1,2,6000,6000", "--form", "operator")
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"the original node was not run: the layer's tensors are too large" in done.stderr


def test_a_plan_that_no_proof_could_hold_is_refused_before_it_is_written(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("strides", [9000, 9000]))
    for info in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in info.type.tensor_type.shape.dim[2:]:
            dim.dim_param = "open"
    onnx.save(proto, "m.onnx")
    arguments = ("convert", "m.onnx", "-l", "conv", "--input-shape", "1,2,9001,9001")
    assert "fewer probes take less, and no proof takes none" in run(*arguments).failed(5)
    assert not Path("m.onnx.fc").exists()


@pytest.mark.slow
def test_row_pointers_of_a_kernel_as_wide_as_its_input_take_linear_time() -> None:
    # 2 * 2**15 segments; what was quadratic took minutes
    size = 2**15
    axis = Axis(inputs=size, outputs=size, kernel=size, stride=1, dilation=1, offset=size // 2)
    matrix = rows(IndexMap((1, 1, size), (axis,)), np.zeros((1, 1, size), np.float32))
    assert matrix.nnz == 3 * size * size // 4
    indptr, _, _ = matrix.block(size - 2, size)
    assert np.diff(indptr).tolist() == [size // 2 + 2, size // 2 + 1]


def test_kernel_elements_that_read_padding_alone_change_nothing() -> None:
    axis = Axis(inputs=2, outputs=3, kernel=9, stride=1, dilation=1, offset=4)
    x, kernel = np.array([[3.0, 5.0]]), np.arange(1.0, 10.0).reshape(1, 1, 9)
    # y[o] = sum over i of x[i] * kernel[i - o + 4]
    assert convolve(x, kernel, [axis]).tolist() == [[3 * 5 + 5 * 6, 3 * 4 + 5 * 5, 3 * 3 + 5 * 4]]
    y = np.array([[1.0, 0.0, 0.0]])
    assert convolve_transposed(y, kernel, [axis]).tolist() == [[5, 6]]


def test_one_layer_may_be_named_by_a_text() -> None:
    import convfc_cli as convfc

    done = convfc.convert(LENET, "f/", layers="conv2d_1", options=convfc.Options(proof=None))
    assert [result.item.entry.output for result in done.results] == ["conv2d_1"]
