"""The matrix of a kernel in an array, or of a live layer."""

import json
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import signal

import convfc_cli as convfc
from convfc_cli.errors import Unsupported, UsageError
from tests.support.paths import RECORDED

Array = np.ndarray[Any, Any]

A = [[1, 2], [3, 4]]

PAGE = [
    [1, 2, 0, 3, 4, 0, 0, 0, 0],
    [0, 1, 2, 0, 3, 4, 0, 0, 0],
    [0, 0, 0, 1, 2, 0, 3, 4, 0],
    [0, 0, 0, 0, 1, 2, 0, 3, 4],
    [5, 6, 0, 7, 8, 0, 0, 0, 0],
    [0, 5, 6, 0, 7, 8, 0, 0, 0],
    [0, 0, 0, 5, 6, 0, 7, 8, 0],
    [0, 0, 0, 0, 5, 6, 0, 7, 8],
]
"""Two 2 x 2 kernels over 3 x 3: the 8 x 9 matrix that is written out wherever people ask."""


def test_the_matrix_that_people_write_out() -> None:
    kernel = np.arange(1, 9).reshape(2, 1, 2, 2)
    for shape in ((3, 3), (1, 3, 3), [3, 3], np.array([1, 3, 3])):
        assert convfc.conv_matrix(kernel, shape).toarray().tolist() == PAGE
    assert convfc.conv_matrix(A, (3, 3)).toarray().tolist() == PAGE[:4]
    assert convfc.conv_matrix(np.flip(A), (3, 3), flip=True).toarray().tolist() == PAGE[:4]


def test_convmtx2() -> None:
    """MATLAB's `convmtx2(H, m, n) @ x(:)` is the full true convolution, by columns."""
    h = np.arange(1.0, 7.0).reshape(3, 2)
    matrix = convfc.conv_matrix(h, (5, 4), padding="full", flip=True, layout="fortran")
    assert matrix.shape == (7 * 5, 5 * 4)
    x = np.random.default_rng(1).standard_normal((5, 4))
    made = (matrix @ x.ravel(order="F")).reshape((7, 5), order="F")
    np.testing.assert_allclose(made, signal.convolve2d(x, h), rtol=1e-13)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_the_words_of_scipy(mode: str) -> None:
    """Its `same` puts an odd zero before the input, where Keras and PyTorch put it after."""
    generator = np.random.default_rng(2)
    word = {"same": "same-lower"}.get(mode, mode)
    for k, kk, n, nn in product((1, 2, 3), (2, 3), (4, 5), (3, 6)):
        kernel, x = generator.standard_normal((k, kk)), generator.standard_normal((n, nn))
        made = convfc.conv_matrix(kernel, x.shape, padding=word) @ x.ravel()
        wanted = signal.correlate(x, kernel, mode, method="direct")
        np.testing.assert_allclose(made, wanted.ravel(), atol=1e-13)
        made = convfc.conv_matrix(kernel, x.shape, padding=word, flip=True) @ x.ravel()
        wanted = signal.convolve(x, kernel, mode, method="direct")
        np.testing.assert_allclose(made, wanted.ravel(), atol=1e-13)


PADDINGS: list[tuple[Any, list[tuple[int, int]]]] = [
    (0, [(0, 0), (0, 0)]),
    (2, [(2, 2), (2, 2)]),
    ((1, 2), [(1, 1), (2, 2)]),
    (((1, 0), (2, 3)), [(1, 0), (2, 3)]),
    ((1, (0, 2)), [(1, 1), (0, 2)]),
    (np.array([[1, 0], [0, 1]]), [(1, 0), (0, 1)]),
    ("valid", [(0, 0), (0, 0)]),
    ("half", [(2, 2), (1, 1)]),
    ("full", [(4, 4), (1, 1)]),
    ("causal", [(4, 0), (1, 0)]),
    ("same", [(1, 2), (0, 1)]),
    ("same-lower", [(2, 1), (1, 0)]),
    (-1, [(-1, -1), (-1, -1)]),
]
"""What a 3 x 2 kernel, dilated by 2 and 1 (spans 5 and 2), is padded by with stride 2 and 1 over
8 x 5: of 4 outputs 6 + 5 inputs are read, 3 more than there are; of 5, 1 more."""


@pytest.mark.parametrize(("padding", "pads"), PADDINGS)
def test_every_way_to_say_padding(padding: Any, pads: list[tuple[int, int]]) -> None:
    kernel = np.arange(1.0, 13.0).reshape(2, 1, 3, 2)
    found = convfc.conv_matrix(kernel, (8, 5), (2, 1), padding, (2, 1))
    x = np.random.default_rng(3).standard_normal((8, 5))
    edges = [(max(0, low), max(0, high)) for low, high in pads]
    cut = tuple(
        slice(max(0, -low), n - max(0, -high)) for (low, high), n in zip(pads, (8, 5), strict=True)
    )
    padded = np.pad(x[cut], edges)
    rows, columns = padded.shape[0] - 4, padded.shape[1] - 1
    y = [
        sum(k[a, b] * padded[2 * i + 2 * a, j + b] for a, b in product(range(3), range(2)))
        for k in kernel[:, 0]
        for i in range(0, (rows + 1) // 2)
        for j in range(columns)
    ]
    np.testing.assert_allclose(found @ x.ravel(), y, atol=1e-12)


def test_groups_and_channels() -> None:
    kernel = np.arange(1.0, 25.0).reshape(4, 2, 3)
    matrix = convfc.conv_matrix(kernel, (4, 5), groups=2)
    assert (matrix != convfc.conv_matrix(kernel, (5,), groups=2)).nnz == 0
    assert matrix.toarray()[:6, 10:].any() == matrix.toarray()[6:, :10].any() == False  # noqa: E712
    np.testing.assert_array_equal(matrix.toarray()[6, 10:13], kernel[2, 0])


@pytest.mark.parametrize(
    "options", [{}, {"padding": (1, 0)}, {"output_padding": (0, 1)}, {"stride": 3, "dilation": 2}]
)
def test_a_transposed_convolution_is_the_transpose(options: dict[str, Any]) -> None:
    kernel = np.arange(1.0, 25.0).reshape(2, 2, 2, 3)
    options = {"stride": 2, **options}
    up = convfc.convolution(kernel, (2, 4, 3), transposed=True, **options)
    spare = options.pop("output_padding", (0, 0))
    pads = convfc_pads(options.pop("padding", (0, 0)), spare)
    down = convfc.conv_matrix(kernel, up.output_shape, padding=pads, **options)
    given = {**options, "padding": tuple(low for low, _ in pads), "output_padding": spare}
    matrix = convfc.conv_matrix(kernel, (2, 4, 3), transposed=True, **given)
    np.testing.assert_array_equal(matrix.toarray(), down.toarray().T)


def convfc_pads(pads: tuple[int, ...], spare: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The padding of the convolution that a transposed one turns round."""
    return tuple((p, p - more) for p, more in zip(pads, spare, strict=True))


def test_the_index_map_comes_with_it() -> None:
    layer = convfc.convolution(A, (3, 3))
    assert [(tap.input, weight) for tap, weight in layer.of_output((0, 1, 1))] == [
        ((0, 1, 1), 1),
        ((0, 1, 2), 2),
        ((0, 2, 1), 3),
        ((0, 2, 2), 4),
    ]
    assert layer.index_map.nnz == 16


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        *(("float16", "float32"), ("float32", "float32"), ("float64", "float64")),
        *(("int32", "int32"), ("int64", "float64"), ("uint8", "float64"), ("bool", "float64")),
    ],
)
def test_dtypes(dtype: str, kept: str) -> None:
    matrix = convfc.conv_matrix(np.ones((2, 2), dtype), (3, 3))
    assert (matrix.dtype.name, matrix.sum()) == (kept, 16)


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((A, (3,)), {}, "do not fit: expected"),
    ((A, (1, 1, 3, 3)), {}, "do not fit: expected"),
    ((3.0, (3,)), {}, "do not fit: expected"),
    ((A, (2, 3, 3)), {}, "reads 1 channels; input_shape (2, 3, 3) has 2"),
    ((np.ones((2, 2, 3)), (3, 5)), {}, "reads 2 channels"),
    ((A, (1.5, 3)), {}, "must be integers"),
    ((A, (True, 3)), {}, "must be integers"),
    ((A, (1, 3)), {}, "no output: size 1"),
    ((A, (3, 3)), {"stride": 0}, "stride is 0"),
    ((A, (3, 3)), {"stride": (1, 2, 3)}, "stride (1, 2, 3): expected an integer, or one for"),
    ((A, (3, 3)), {"stride": "2"}, "stride '2': expected an integer"),
    ((A, (3, 3)), {"dilation": (1, 1.5)}, "dilation (1, 1.5): expected an integer"),
    ((A, (3, 3)), {"padding": "most"}, "'most' is not one of valid"),
    ((A, (3, 3)), {"padding": ((1, 1),)}, "padding ((1, 1),): expected a word, an integer"),
    ((A, (3, 3)), {"padding": (1, (1, 2, 3))}, "expected a word"),
    ((A, (3, 3)), {"padding": None}, "padding None: expected a word"),
    ((A, (3, 3)), {"groups": 2}, "cannot be shared out over 2 groups"),
    ((A, (3, 3)), {"output_padding": 1}, "goes with a transposed convolution"),
    ((A, (3, 3)), {"transposed": True, "padding": "same"}, "is ambiguous for a transposed"),
    ((A, (3, 3)), {"layout": "rows"}, "layout 'rows' is not one of"),
    (([["a", "b"]], (3, 3)), {}, "expected real numbers"),
    (([[1j, 2]], (3, 3)), {}, "a kernel of complex128: expected real numbers"),
    ((np.ones((1, 0, 2)), (3,)), {}, "is empty or too large"),
]


@pytest.mark.parametrize(("given", "options", "told"), WRONG)
def test_what_does_not_fit_says_so(given: tuple[Any, ...], options: Any, told: str) -> None:
    with pytest.raises(UsageError) as error:
        convfc.conv_matrix(*given, **options)
    assert told in str(error.value)


# Live layers: objects with the attributes that PyTorch's and Keras's have


def recorded() -> dict[str, dict[str, Array]]:
    """By layer: its attributes, kernel and bias, an input and what the library made of it."""
    layers: dict[str, dict[str, Array]] = {}
    with np.load(RECORDED / "live" / "layers.npz") as file:
        for key in file.files:
            name, _, what = key.partition("/")
            layers.setdefault(name, {})[what] = file[key]
    return layers


LAYERS = recorded()


def live(name: str) -> Any:
    """The layer as an object with the attributes and the class name of the real one."""
    values = LAYERS[name]
    library, _, kind = name.split("_")
    has = json.loads(str(values["attributes"]))
    has["weight" if library == "pytorch" else "kernel"] = values["kernel"]
    return type(kind, (SimpleNamespace,), {})(**has, bias=values.get("bias"))


@pytest.mark.parametrize("name", LAYERS)
def test_a_live_layer_computes_what_its_library_does(name: str) -> None:
    layer, x, y = live(name), LAYERS[name]["x"], LAYERS[name]["y"]
    whole = convfc.convolution(layer, x.shape)
    last = getattr(layer, "data_format", "") == "channels_last"
    bias = whole.bias_tensor()
    bias = np.moveaxis(bias, 0, -1) if last else bias
    spatial = x.shape[:-1] if last else x.shape[1:]
    for shape in (x.shape, spatial):
        matrix = convfc.conv_matrix(layer, shape)
        made = (matrix.astype(np.float64) @ x.ravel()).reshape(y.shape) + bias
        np.testing.assert_allclose(made, y, atol=2e-6)
    flipped = convfc.conv_matrix(layer, x.shape, flip=True)
    assert (flipped != matrix).nnz > 0


def test_a_tensor_is_taken_to_the_processor() -> None:
    """By the methods of PyTorch; nothing else of a tensor is used."""
    steps = []

    class Tensor:
        def __getattr__(self, name: str) -> Any:
            steps.append(name)
            return lambda: np.ones((1, 1, 2, 2), np.float32) if name == "numpy" else self

    name = "pytorch_4_Conv2d"
    layer = live(name)
    layer.weight = Tensor()
    assert convfc.conv_matrix(layer, (1, 3, 3)).sum() == 16
    assert steps[:3] == ["detach", "cpu", "numpy"]


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("pytorch_2_Conv2d", {"padding_mode": "circular"}, Unsupported, "'circular' does not pad"),
    ("keras_1_Conv2D", {"kernel": None}, UsageError, "has no weights yet: apply it once"),
    ("keras_1_Conv2D", {"padding": "most"}, UsageError, "'most' is not one of"),
    ("keras_9_Conv2DTranspose", {"padding": "most"}, UsageError, "'most' is not one of"),
]


@pytest.mark.parametrize(("name", "change", "kind", "told"), REFUSED)
def test_a_layer_that_is_refused(
    name: str, change: dict[str, Any], kind: type[Exception], told: str
) -> None:
    layer = live(name)
    for key, value in change.items():
        setattr(layer, key, value)
    with pytest.raises(kind, match=told):
        convfc.conv_matrix(layer, LAYERS[name]["x"].shape)


def test_a_shape_that_a_layer_does_not_take() -> None:
    for name in LAYERS:
        with pytest.raises(UsageError):
            convfc.conv_matrix(live(name), (7, *LAYERS[name]["x"].shape, 7))
        channels = (np.array(LAYERS[name]["x"].shape) + 7).tolist()
        with pytest.raises(UsageError, match="channels"):
            convfc.conv_matrix(live(name), channels)


def test_another_layer_is_refused() -> None:
    pool = type("MaxPool2d", (SimpleNamespace,), {})(kernel_size=2)
    with pytest.raises(Unsupported, match="a MaxPool2d is not a convolution of PyTorch or Keras"):
        convfc.conv_matrix(pool, (3, 3))
    separable = type("SeparableConv2D", (SimpleNamespace,), {})
    layer = separable(kernel_size=2, dilation_rate=1, data_format="channels_last")
    with pytest.raises(Unsupported, match="is two convolutions"):
        convfc.conv_matrix(layer, (3, 3))
    half = type("Conv2d", (SimpleNamespace,), {})(kernel_size=2, padding_mode="zeros")
    with pytest.raises(Unsupported, match="has no attribute 'weight'"):
        convfc.conv_matrix(half, (3, 3))
