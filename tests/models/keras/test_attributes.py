"""Every attribute of Keras's convolutions, each alone, with a stride, and in both kinds of file.

The oracle loops over the definition in Keras's own order of axes and of the kernel's; a transposed
convolution is there what Keras defines it to be, the gradient of the convolution. All numbers are
whole, so that nothing is rounded. What Keras 2 and 3 themselves computed is recorded beside
(`data/make_keras_attributes.py`).
"""

import json
from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import convfc_cli as convfc
from convfc_cli.errors import MalformedInput
from tests.support.keras_files import both, given_input, layer, legacy, only, ramp, sequential
from tests.support.paths import DATA

pytestmark = pytest.mark.usefixtures("in_place")

Array = NDArray[Any]
Config = Mapping[str, Any]

RECORDED = DATA / "recorded" / "keras" / "attributes.npz"

GROUPS = {
    "Conv1D": "conv1d",
    "Conv2D": "conv2d",
    "Conv3D": "conv3d",
    "Conv1DTranspose": "conv1d_transpose",
    "Conv2DTranspose": "conv2d_transpose",
    "Conv3DTranspose": "conv3d_transpose",
    "DepthwiseConv1D": "depthwise_conv1d",
    "DepthwiseConv2D": "depthwise_conv2d",
}
"""The classes that are read, and what Keras calls the first of each in a `.keras`."""

KERNEL = (3, 2, 2)
SIZES = {1: (8,), 2: (7, 6), 3: (5, 6, 4)}
SMALL = {1: (4,), 2: (4, 3), 3: (3, 4, 2)}

CONV: dict[str, dict[str, Any]] = {
    "same": {"padding": "same"},
    "SAME": {"padding": "SAME"},
    "valid": {"padding": "valid"},
    "dilation": {"dilation_rate": (2, 3, 2)},
    "one dilation": {"dilation_rate": 2},
    "channels_first": {"data_format": "channels_first"},
    "channels_last": {"data_format": "channels_last"},
    "groups": {"groups": 2},
    "no bias": {"use_bias": False},
    "one size": {"kernel_size": 2},
}
"""Values of attributes; sequences have one for each axis."""

DEPTHWISE = {
    **{name: value for name, value in CONV.items() if name != "groups"},
    "multiplier": {"depth_multiplier": 3},
}

TRANSPOSED = {
    **{name: value for name, value in CONV.items() if name != "groups"},
    "output padding": {"output_padding": (1, 2, 1), "strides": (2, 3, 2)},
    "one output padding": {"output_padding": 0},
    "no output padding": {"output_padding": None},
}

SPELLINGS = {"SAME", "valid", "channels_last", "one dilation", "no output padding"}
"""Other ways to write what another case has, or the default: looked at alone."""

STRIDES: dict[str, dict[str, Any]] = {
    "": {},
    "strides": {"strides": (2, 3, 2)},
    "one stride": {"strides": 2},
}


def span(kernel: int, dilation: int) -> int:
    return 1 + (kernel - 1) * dilation


# n, k, s, d -> where the first window begins, by hand: as many windows as strides fit into n, each
# one whole; what they reach beyond the n is zeros, half of them (rounded down) before.
WINDOWS = [
    ((4, 2, 1, 1), 0),  # 4 windows reach 3+2 = 5: 1 zero, none before
    ((4, 3, 1, 1), 1),  # 4 windows reach 3+3 = 6: 2
    ((4, 3, 2, 1), 0),  # 2 windows reach 2+3 = 5: 1
    ((5, 3, 2, 1), 1),  # 3 windows reach 4+3 = 7: 2
    ((5, 2, 1, 3), 1),  # 5 windows of span 4 reach 8: 3
    ((6, 5, 3, 1), 1),  # 2 windows reach 3+5 = 8: 2
    ((8, 1, 4, 1), 0),  # 2 windows reach 4+1 = 5: none
    ((7, 4, 1, 2), 3),  # 7 windows of span 7 reach 13: 6
]


def before(n: int, k: int, s: int, d: int) -> int:
    """The zeros before an axis under `same`."""
    windows = len(range(0, n, s))
    return max(0, (windows - 1) * s + span(k, d) - n) // 2


@pytest.mark.parametrize(("case", "zeros"), WINDOWS)
def test_the_oracle_pads_as_the_hand_table_has_it(case: tuple[int, ...], zeros: int) -> None:
    assert before(*case) == zeros


def each(value: Any, rank: int) -> tuple[Any, ...]:
    return tuple(value[:rank]) if isinstance(value, tuple | list) else (value,) * rank


def oracle(kind: str, config: Config, x: Array, kernel: Array, bias: Array | None) -> Array:
    """The layer applied to a batch in Keras's own order, by its definition."""
    first = config.get("data_format") == "channels_first"
    x = np.moveaxis(x, 1, -1) if first else x
    rank = x.ndim - 2
    sizes = x.shape[1:-1]
    k = kernel.shape[:rank]
    s, d = each(config.get("strides", 1), rank), each(config.get("dilation_rate", 1), rank)
    padding = config.get("padding", "valid").lower()
    if kind.endswith("Transpose"):
        extra = each(config.get("output_padding"), rank)
        large = tuple(map(enlarged, sizes, k, s, d, (padding,) * rank, extra))
    else:
        large = sizes
    spans = list(map(span, k, d))
    if padding == "same":
        low = list(map(before, large, k, s, d))
        counts = [len(range(0, n, step)) for n, step in zip(large, s, strict=True)]
    elif padding == "causal":
        low = [e - 1 for e in spans]
        counts = [len(range(0, n, step)) for n, step in zip(large, s, strict=True)]
    else:
        low = [0] * rank
        counts = [len(range(0, n - e + 1, t)) for n, e, t in zip(large, spans, s, strict=True)]
    if kind.endswith("Transpose"):
        assert tuple(counts) == sizes, "the convolution of which this is the gradient"
        y = np.zeros((len(x), *large, kernel.shape[-2]))
    elif kind.startswith("Depthwise"):
        y = np.zeros((len(x), *counts, kernel.shape[-2] * kernel.shape[-1]))
    else:
        y = np.zeros((len(x), *counts, kernel.shape[-1]))
    groups = config.get("groups") or 1
    for place, taps in product(product(*map(range, counts)), product(*map(range, k))):
        at = tuple(
            p * s_ + t * d_ - lo for p, s_, t, d_, lo in zip(place, s, taps, d, low, strict=True)
        )
        if not all(0 <= i < n for i, n in zip(at, large, strict=True)):
            continue
        if kind.endswith("Transpose"):
            for f, c in np.ndindex(kernel.shape[-2:]):
                y[(slice(None), *at, f)] += x[(slice(None), *place, c)] * kernel[(*taps, f, c)]
        elif kind.startswith("Depthwise"):
            multiplier = kernel.shape[-1]
            for c, m in np.ndindex(kernel.shape[-2:]):
                product_ = x[(slice(None), *at, c)] * kernel[(*taps, c, m)]
                y[(slice(None), *place, c * multiplier + m)] += product_
        else:
            near, far = kernel.shape[-1] // groups, kernel.shape[-2]
            for c, f in np.ndindex(kernel.shape[-2:]):
                source = x[(slice(None), *at, f // near * far + c)]
                y[(slice(None), *place, f)] += source * kernel[(*taps, c, f)]
    if bias is not None:
        y += bias
    return np.moveaxis(y, -1, 1) if first else y


def enlarged(n: int, k: int, s: int, d: int, padding: str, extra: int | None) -> int:
    """The outputs of a transposed convolution along one axis."""
    reach = (n - 1) * s + span(k, d)
    if extra is None:
        return n * s if padding == "same" else max(reach, n * s)
    if padding == "same":
        return reach + extra - 2 * (span(k, d) // 2)
    return reach + extra


def applied(path: Path, x: Array, *, first: bool) -> Array:
    """The only layer of a file by its matrix: of a tensor in Keras's own order, flattened."""
    entry = only(path)
    convolution = entry.load()
    layout = "channels-first" if first else "channels-last"
    vector = convfc.matrix(path, layout=layout).astype(np.float64) @ x.reshape(-1)
    channels, *sizes = convolution.output_shape
    y = vector.reshape(1, *((channels, *sizes) if first else (*sizes, channels)))
    if convolution.bias is not None:
        bias = convolution.bias.astype(np.float64)
        y = y + (bias.reshape(-1, *(1,) * len(sizes)) if first else bias)
    return y


def checked(kind: str, config: dict[str, Any], folder: Path) -> None:
    """A layer of this configuration in both kinds of file, against the oracle."""
    rank = int(kind[kind.index("D") - 1]) if not kind.startswith("Depthwise") else int(kind[-2])
    config = {"filters": 4, "kernel_size": KERNEL, **config}
    config = {
        key: list(value[:rank]) if isinstance(value, tuple) else value
        for key, value in config.items()
    }
    groups, channels = config.get("groups", 1), 2
    k = each(config["kernel_size"], rank)
    if kind.startswith("Depthwise"):
        kernel = ramp(*k, channels, config.get("depth_multiplier", 1))
        outputs = channels * config.get("depth_multiplier", 1)
        del config["filters"]
    elif kind.endswith("Transpose"):
        kernel, outputs = ramp(*k, 4, channels), 4
    else:
        kernel, outputs = ramp(*k, channels, 4), 4
        channels *= groups
    arrays = [kernel]
    if config.get("use_bias", True):
        arrays.append(ramp(outputs, start=100))
    sizes = (SMALL if kind.endswith("Transpose") else SIZES)[rank]
    first = config.get("data_format") == "channels_first"
    shape = (channels, *sizes) if first else (*sizes, channels)
    x = ramp(1, *shape, start=7).astype(np.float64) % 97
    item = layer(kind, "conv", **config)
    model = sequential(given_input("x", *shape), item)
    expected = oracle(kind, config, x, *(arrays if len(arrays) == 2 else [*arrays, None]))
    for path in both(folder, model, item, arrays, GROUPS[kind]):
        found = applied(path, x, first=first)
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)


def choices() -> list[Any]:
    """Each value alone and each two together, without a stride and with one."""
    found = []
    for kind in GROUPS:
        table = CONV
        if kind.endswith("Transpose"):
            table = TRANSPOSED
        elif kind.startswith("Depthwise"):
            table = DEPTHWISE
        if kind == "Conv1D":
            table = {**CONV, "causal": {"padding": "causal"}}
        pairs = [
            pair
            for pair in combinations(table, 2)
            if not set(table[pair[0]]) & set(table[pair[1]]) and not SPELLINGS & set(pair)
        ]
        for names in [(), *((name,) for name in table), *pairs]:
            if "3D" in kind and len(names) > 1:
                continue
            for stride, value in STRIDES.items():
                config = dict(value)
                for name in names:
                    config.update(table[name])
                if _is_none(kind, config) or (stride == "one stride" and len(names) > 1):
                    continue
                told = "+".join([*names, *filter(None, [stride])]) or "plain"
                found.append(pytest.param(kind, config, id=f"{kind}-{told}"))
    return found


def _is_none(kind: str, config: Config) -> bool:
    """Transposed layers that are the gradient of no convolution: Keras computes them nowhere."""
    if not kind.endswith("Transpose") or config.get("padding", "").lower() != "same":
        return False
    extra = config.get("output_padding")
    kernel, dilations = config.get("kernel_size", KERNEL), config.get("dilation_rate", 1)
    for axis in range(int(kind[4])):
        k, d = (each(value, 3)[axis] for value in (kernel, dilations))
        if extra is not None and span(k, d) % 2 == 0 and each(extra, 3)[axis] == 0:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "config"), choices())
def test_an_attribute(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    checked(kind, config, tmp_path)


def recorded() -> list[Any]:
    """Every case that Keras computed: class, configuration, input, weights, output."""
    found = []
    with np.load(RECORDED) as file:
        numbers = file["numbers"].astype(np.float64)
        at = 0
        for kind, config, versions, shapes in json.loads(str(file["cases"])):
            arrays = []
            for shape in shapes:
                size = int(np.prod(shape))
                arrays.append(numbers[at : at + size].reshape(shape))
                at += size
            told = ",".join(f"{key}={value}" for key, value in config.items())
            found.append(pytest.param(kind, config, versions, arrays, id=f"{kind}-{told}"))
        assert at == len(numbers)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "config", "versions", "arrays"), recorded())
def test_what_keras_computed(
    kind: str, config: dict[str, Any], versions: list[int], arrays: list[Array], tmp_path: Path
) -> None:
    x, *weights, expected = arrays
    weights = [array.astype(np.float32) for array in weights]
    item = layer(kind, "conv", **config)
    model = sequential(given_input("x", *x.shape[1:]), item)
    assert np.array_equal(oracle(kind, config, x, *(*weights, None)[:2]), expected)
    h5, keras = both(tmp_path, model, item, weights, GROUPS[kind])
    path = keras if 3 in versions else h5
    found = applied(path, x, first=config.get("data_format") == "channels_first")
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def test_every_class_and_both_versions_are_recorded() -> None:
    cases = [case.values for case in recorded()]
    assert {kind for kind, *_ in cases} == set(GROUPS)
    assert sum(3 in versions for _, _, versions, _ in cases) > 100
    assert sum(2 in versions for _, _, versions, _ in cases) > 100
    for key in ("dilation_rate", "groups", "depth_multiplier", "output_padding", "use_bias"):
        assert any(key in config for _, config, _, _ in cases), key


def test_the_layout_of_a_matrix_is_that_of_keras(tmp_path: Path) -> None:
    kernel = ramp(2, 2, 2, 3)
    item = layer("Conv2D", "conv", filters=3, kernel_size=2, use_bias=False)
    model = sequential(given_input("x", 4, 3, 2), item)
    path = legacy(tmp_path / "m.h5", model, {"conv": [("conv/kernel:0", kernel)]})
    x = ramp(1, 4, 3, 2)
    expected = oracle("Conv2D", item["config"], x, kernel, None)
    assert np.array_equal(convfc.matrix(path) @ x.reshape(-1), expected.reshape(-1))


CONFIG: dict[str, Any] = {"filters": 3, "kernel_size": [2, 2]}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"filters": "3"}, "integer"),
    ({"filters": 3.0}, "integer"),
    ({"filters": None}, "integer"),
    ({"kernel_size": [2]}, "each of 2 axes"),
    ({"kernel_size": [2, 2, 2]}, "each of 2 axes"),
    ({"kernel_size": [2, 0]}, "kernel is 0"),
    ({"kernel_size": [2, -2]}, "kernel is -2"),
    ({"strides": [1, 0]}, "stride is 0"),
    ({"strides": [True, 1]}, "integer"),
    ({"dilation_rate": -1}, "dilation is -1"),
    ({"padding": "reflect"}, "reflect"),
    ({"padding": ""}, "padding"),
    ({"data_format": "channels_middle"}, "channels_middle"),
    ({"groups": 2}, "2"),
    ({"groups": -1}, "groups"),
]
"""What no Conv2D of 2 channels and 3 filters can have, and a part of what is said of it."""


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_a_configuration_that_is_none(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    item = layer("Conv2D", "conv", **{**CONFIG, **change})
    model = sequential(given_input("x", 4, 3, 2), item)
    named = [("conv/kernel:0", ramp(2, 2, 2, 3)), ("conv/bias:0", ramp(3))]
    entry = only(legacy(tmp_path / "m.h5", model, {"conv": named}))
    with pytest.raises(MalformedInput, match=told):
        entry.load()


@pytest.mark.parametrize("missing", ["filters", "kernel_size"])
def test_a_configuration_that_lacks_what_has_no_default(missing: str, tmp_path: Path) -> None:
    item = layer("Conv2D", "conv", **{k: v for k, v in CONFIG.items() if k != missing})
    model = sequential(given_input("x", 4, 3, 2), item)
    named = [("conv/kernel:0", ramp(2, 2, 2, 3)), ("conv/bias:0", ramp(3))]
    entry = only(legacy(tmp_path / "m.h5", model, {"conv": named}))
    with pytest.raises(MalformedInput, match=f"lacks '{missing}'"):
        entry.load()


def test_output_padding_must_be_less_than_the_stride(tmp_path: Path) -> None:
    item = layer("Conv1DTranspose", "conv", filters=3, kernel_size=2, strides=2, output_padding=2)
    model = sequential(given_input("x", 4, 2), item)
    named = [("conv/kernel:0", ramp(2, 3, 2)), ("conv/bias:0", ramp(3))]
    entry = only(legacy(tmp_path / "m.h5", model, {"conv": named}))
    with pytest.raises(MalformedInput, match="output_padding 2 must be"):
        entry.load()


def test_a_window_larger_than_the_input_says_so(tmp_path: Path) -> None:
    item = layer("Conv2D", "conv", filters=3, kernel_size=5)
    model = sequential(given_input("x", 4, 6, 2), item)
    named = [("conv/kernel:0", ramp(5, 5, 2, 3)), ("conv/bias:0", ramp(3))]
    entry = only(legacy(tmp_path / "m.h5", model, {"conv": named}))
    with pytest.raises(MalformedInput, match="size 4"):
        entry.load()


@pytest.mark.parametrize("kind", ["Conv2D", "Conv3D", "DepthwiseConv1D", "Conv1DTranspose"])
def test_causal_is_for_convolutions_along_a_line(kind: str, tmp_path: Path) -> None:
    config = {"name": "a", "kernel_size": 2, "filters": 1, "padding": "causal", "use_bias": False}
    model = {"class_name": kind, "config": config}
    path = legacy(tmp_path / "m.h5", sequential(given_input("x", *(5,) * 3, 1), model), {})
    (entry,) = convfc.read(path).entries
    assert isinstance(entry.error, MalformedInput)
    assert "causal" in str(entry.error)
