"""Matrix files as MatrixMarket and as edge lists: what other readers find, and faulty ones."""

import csv
import io
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import assume, given
from hypothesis import strategies as st

from convfc_cli.errors import Unsupported, UsageError
from convfc_cli.geometry import Axis
from convfc_cli.layers.convolution import Convolution
from convfc_cli.matrices import decimals, registry, text
from convfc_cli.matrices.decimals import Entries, Texts
from convfc_cli.matrices.matrix import Matrix, Spec
from convfc_cli.taps import IndexMap
from tests.support import brute, crafted
from tests.support.cli_models import run
from tests.support.crafted import example, outcome, rendered, within
from tests.support.strategies import SPECIAL, problems, specs

MTX, EDGES = (registry.formats()[name] for name in ("mtx", "edges"))

every_kind = pytest.mark.parametrize("kind", [MTX, EDGES], ids=lambda kind: kind.name)


@pytest.fixture(params=[MTX, EDGES], ids=lambda kind: kind.name)
def file(request, tmp_path):
    """A file of each kind, with the operator file beside it."""
    return crafted.written(request.param, example(), tmp_path)


def told(path, data):
    """What is said of the file with these bytes instead."""
    path.write_bytes(data)
    return outcome(path)


def entry_lines(path):
    """The lines before the first entry, and those of the entries."""
    found = path.read_bytes().splitlines(keepends=True)
    return found[: len(found) - 72], found[-72:]


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.slow
@given(problems(), specs())
def test_scipy_reads_the_matrix_bit_for_bit(problem, spec):
    assume(crafted.holds(MTX, problem.layer))
    data = rendered(MTX, Matrix(problem.layer, spec))
    expected = problem.csr(spec)
    loaded = scipy.io.mmread(io.BytesIO(data))
    assert loaded.shape == expected.shape
    rows = np.repeat(np.arange(len(expected.indptr) - 1), np.diff(expected.indptr))
    assert loaded.row.tolist() == rows.tolist()
    assert loaded.col.tolist() == expected.indices.tolist()
    values = loaded.data.astype(problem.kernel.dtype)
    assert np.array_equal(brute.bits(values), brute.bits(expected.data))


@pytest.mark.slow
@given(problems(), specs())
def test_csv_reads_an_edge_from_each_input_to_each_output(problem, spec):
    assume(crafted.holds(EDGES, problem.layer))
    data = rendered(EDGES, Matrix(problem.layer, spec))
    header, *edges = csv.reader(io.StringIO(data.decode(), newline=""))
    assert header == ["source", "destination", "weight"]
    expected = problem.csr(spec)
    rows = np.repeat(np.arange(len(expected.indptr) - 1), np.diff(expected.indptr))
    places = (rows, expected.indices) if spec.transpose else (expected.indices, rows)
    assert [[int(place) for place in edge[:2]] for edge in edges] == np.transpose(places).tolist()
    values = np.array([float(edge[2]) for edge in edges]).astype(problem.kernel.dtype)
    assert np.array_equal(brute.bits(values), brute.bits(expected.data))


def test_a_transpose_lists_the_same_edges_by_source():
    plain, turned = (
        rendered(EDGES, example(spec=Spec(transpose=transpose))).splitlines()
        for transpose in (False, True)
    )
    assert plain != turned
    assert sorted(plain) == sorted(turned)
    places = [tuple(map(int, line.split(b",")[:2])) for line in turned[1:]]
    assert places == sorted(places)


def test_the_files_are_these():
    kernel = np.array([[[1, -0.1]]], np.float32)
    layer = Convolution(kernel, IndexMap(kernel.shape, (Axis(3, 2, 2, 1, 1, 0),)))
    assert rendered(MTX, Matrix(layer)).decode() == (
        "%%MatrixMarket matrix coordinate real general\n"
        "2 3 4\n1 1 1.0\n1 2 -0.1\n2 2 1.0\n2 3 -0.1\n"
    )
    assert rendered(EDGES, Matrix(layer)).decode() == (
        "source,destination,weight\n0,0,1.0\n1,0,-0.1\n1,1,1.0\n2,1,-0.1\n"
    )


def read_back(values):
    """Values written as lines, and read by the reader of such files."""
    places = np.zeros((len(values), 1), np.uint8) + np.uint8(ord("7"))
    text = decimals.lines(places, " ", places, " ", Texts()(values), "\n")
    whole = np.frombuffer(text, np.uint8)
    return Entries(" ", values.dtype).read(whole, np.flatnonzero(whole == 10))[2]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(seed=st.integers(0, 2**32))
def test_any_bits_come_back_as_a_double_that_is_rounded_and_by_the_reader(dtype, seed):
    random, special = np.random.default_rng(seed), SPECIAL[dtype]
    patterns = random.integers(0, 2 ** (8 * dtype().itemsize), 300, special.dtype)
    values = np.concatenate((patterns, special)).view(dtype)
    values[np.isnan(values)] = np.nan
    found = [float(bytes(text).rstrip(b"\0")) for text in Texts()(values)]
    again = np.array(found).astype(dtype)
    assert np.array_equal(brute.bits(again), brute.bits(values))
    assert np.array_equal(brute.bits(read_back(values)), brute.bits(values))


def test_a_text_that_would_be_rounded_twice_to_another_value_gets_more_digits(monkeypatch):
    value = np.nextafter(np.float32(1), np.float32(2))
    monkeypatch.setattr(
        decimals,
        "_shortest",
        lambda values: np.array([b"1.0" if values.itemsize == 4 else repr(float(values[0]))], "S"),
    )
    (text,) = Texts()(np.array([value]))
    assert bytes(text).rstrip(b"\0") == b"1.0000001192092896"


def test_integers_are_written_and_read_as_such():
    values = np.array([0, -1, 7, 2**31 - 1, -(2**31)], np.int32)
    assert [bytes(text).rstrip(b"\0") for text in Texts()(values)] == [
        *(b"0", b"-1", b"7", b"2147483647", b"-2147483648")
    ]
    assert np.array_equal(read_back(values), values)
    numbers = np.array([0, 9, 10, 99, 100, 10**12, 10**18 - 1])
    found = [int(bytes(text).lstrip(b"\0")) for text in decimals.whole(numbers)]
    assert found == numbers.tolist()


@every_kind
@pytest.mark.parametrize("nan", [0xFFC00000, 0x7FC00001, 0x7F800001])
def test_a_nan_of_which_text_keeps_nothing_is_unsupported(kind, nan):
    kernel = np.array([[[1, 2]]], np.float32)
    kernel.view(np.uint32)[0, 0, 1] = nan
    layer = Convolution(kernel, IndexMap(kernel.shape, (Axis(3, 2, 2, 1, 1, 0),)))
    with pytest.raises(Unsupported, match="a NaN with a sign or a payload"):
        rendered(kind, Matrix(layer))


@pytest.mark.slow
@every_kind
@given(problem=problems(), spec=specs(), size=st.integers(1, 5), memory=st.integers(1, 9))
def test_files_are_the_same_and_proven_however_many_lines_are_looked_at_together(
    kind, problem, spec, size, memory
):
    assume(crafted.holds(kind, problem.layer))
    matrix = Matrix(problem.layer, spec)
    data = rendered(kind, matrix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "LINES", size)
        patch.setattr(text, "CHUNK", size)
        patch.setattr(text, "PIECE", 80)
        patch.setattr(decimals, "REMEMBERED", memory)
        assert rendered(kind, matrix) == data
        assert crafted.failures(crafted.verified(kind, matrix, data)) == []


def test_no_more_values_are_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(decimals, "REMEMBERED", 9)
    memory, asked = decimals._Memory(), []
    for start in (0, 3, 1, 5, 40, 2):
        keys = np.arange(start, start + 4)

        def find(new, keys=keys):
            asked.append(keys[new].tolist())
            return keys[new] * 10

        assert memory.look_up(keys, find).tolist() == (keys * 10).tolist()
        assert len(memory._keys) <= 9
    assert asked == [
        [0, 1, 2, 3],
        [4, 5, 6],
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [40, 41, 42, 43],
        [2, 3, 4, 5],
    ]


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_changed_digit_is_wrong_and_the_place_is_told(file):
    head, entries = entry_lines(file)
    for number, line in enumerate(entries):
        for found in re.finditer(rb"[0-9]", line):
            digit = b"%d" % ((int(found[0]) + 3) % 10)
            changed = line[: found.start()] + digit + line[found.end() :]
            data = b"".join([*head, *entries[:number], changed, *entries[number + 1 :]])
            kind, message = told(file, data)
            if changed[: found.end()].lstrip(b" ").startswith(b"0") or b" 0" in changed:
                assert kind in {"wrong", "MalformedInput"}, changed
            elif re.search(rb"(^|[ ,])0[0-9]", changed):
                assert kind == "MalformedInput", changed
            else:
                assert kind in {"wrong", "WrongContents"}, (changed, message)
                assert "row " in message or "entry (" in message or "is written" in message


@pytest.mark.slow
def test_every_flipped_byte_is_found(file):
    data = bytearray(file.read_bytes())
    for place in range(len(data)):
        data[place] ^= 1 << place % 8
        kind, _ = told(file, bytes(data))
        assert kind in {"wrong", "WrongContents", "MalformedInput"}, place
        data[place] ^= 1 << place % 8
    assert told(file, bytes(data)) == ("ok", "")


@pytest.mark.slow
def test_lines_dropped_doubled_or_exchanged_are_wrong_and_the_row_is_named(file):
    head, entries = entry_lines(file)
    for number in range(71):
        dropped = entries[:number] + entries[number + 1 :]
        doubled = [*entries[: number + 1], *entries[number:]]
        turned = [*entries[:number], entries[number + 1], entries[number], *entries[number + 2 :]]
        for changed in (dropped, doubled, turned):
            if changed is dropped and number >= 64:  # the last row then seems cut short
                continue
            kind, message = told(file, b"".join([*head, *changed]))
            assert kind == "wrong", number
            assert re.search(r"row \d+ has", message)


@pytest.mark.slow
def test_what_ends_early_or_late_is_malformed(file):
    head, entries = entry_lines(file)
    whole = b"".join([*head, *entries])
    for count in range(72):
        kind, message = told(file, b"".join([*head, *entries[:count]]))
        assert kind == "MalformedInput"
        assert "cut short" in message
    for extra in (entries[-1], b"\n", b" ", b"% done\n", b"\0", entries[0]):
        assert told(file, whole + extra)[0] == "MalformedInput"
    assert told(file, whole) == ("ok", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        *(lambda line, sep: line.replace(sep, b" " + sep), lambda line, sep: b" " + line),
        *(lambda line, sep: line[:-1] + b" \n", lambda line, sep: line[:-1] + b"\r\n"),
        *(lambda line, sep: line.replace(sep, b"\t"), lambda line, sep: b"+" + line),
        *(lambda line, sep: b"0" + line, lambda line, sep: b"\n" + line),
        *(lambda line, sep: b"% note\n" + line, lambda line, sep: line[:-1] + sep + b"1\n"),
        *(lambda line, sep: line.replace(b".", b"_"), lambda line, sep: line[:-1] + b"\0\n"),
        *(lambda line, sep: line.replace(b".", "\u0662".encode()), lambda line, sep: sep + line),
        *(lambda line, sep: line.rsplit(sep, 1)[0] + sep + b"0x1p3\n", lambda line, sep: sep * 2),
        *(lambda line, sep: line.rsplit(sep, 1)[0] + sep + b"1_0.0\n", lambda line, sep: b"\xff"),
        *(lambda line, sep: line.rsplit(sep, 1)[0] + sep + b"\n", lambda line, sep: line[:-1]),
        lambda line, sep: line.rsplit(sep, 1)[0] + sep + b"infinity\n",
        lambda line, sep: line.rsplit(sep, 1)[0] + sep + b"NaN\n",
        lambda line, sep: line.rsplit(sep, 1)[0] + sep + b"-nan\n",
        lambda line, sep: b"1" * 19 + line,
        lambda line, sep: b":" + line[1:],
        lambda line, sep: line[:-1] + b"0" * 40 + b"\n",
        lambda line, sep: b"9" * 10**6 + line,
    ],
)
@pytest.mark.parametrize("number", [0, 30, 71])
def test_a_line_that_is_not_as_it_is_written_is_malformed(file, change, number):
    head, entries = entry_lines(file)
    separator = b"," if file.suffix == ".csv" else b" "
    entries[number] = change(entries[number], separator)
    kind, message = told(file, b"".join([*head, *entries]))
    assert kind == "MalformedInput"
    assert "line " in message or "cut short" in message
    assert len(message) < 600


@pytest.mark.parametrize(
    "value", [b"1.00", b"1", b"1e0", b"0.10000000149011612", b"1e999", b"00.5"]
)
@pytest.mark.parametrize("together", [7, 100])
def test_a_number_that_is_written_otherwise_is_wrong(file, value, together, monkeypatch):
    monkeypatch.setattr(text, "LINES", together)
    head, entries = entry_lines(file)
    separator = b"," if file.suffix == ".csv" else b" "
    entries[40] = entries[40].rsplit(separator, 1)[0] + separator + value + b"\n"
    kind, message = told(file, b"".join([*head, *entries]))
    assert kind == "wrong"
    number = 41 + len(head)
    assert f"line {number} is" in message
    assert "where the value is written" in message


@pytest.mark.parametrize("together", [1, 5, 100])
def test_texts_with_one_key_are_told_apart(file, together, monkeypatch):
    monkeypatch.setattr(text, "LINES", together)
    monkeypatch.setattr(decimals, "_MIX", np.zeros(4, np.uint64))
    assert outcome(file) == ("ok", "")
    data = file.read_bytes()
    assert told(file, data.replace(b"0.5\n", b"0.6\n"))[0] == "wrong"
    assert told(file, data.replace(b"0.5\n", b"0.5x\n"))[0] == "MalformedInput"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"12 48 73", "WrongContents"),
        (b"13 48 72", "WrongContents"),
        (b"12 48 99999999999999999999", "WrongContents"),
        (b"12 48", "WrongContents"),
        (b"12 48 -72", "MalformedInput"),
        (b"12 48 7_2", "MalformedInput"),
        (b"1" * 10**6, "MalformedInput"),
        (b"", "MalformedInput"),
    ],
)
def test_other_sizes_in_a_matrix_market_header(line, expected, tmp_path):
    path = crafted.written(MTX, example(), tmp_path)
    first, _, rest = path.read_bytes().split(b"\n", 2)
    kind, message = told(path, b"\n".join([first, line, rest]))
    assert kind == expected
    assert "line 2" in message
    assert "12 48 72" in message


@pytest.mark.parametrize(
    "first",
    [
        b"%%MatrixMarket matrix coordinate integer general",
        b"%%MatrixMarket matrix coordinate real symmetric",
        b"%%MatrixMarket matrix array real general",
        b"%%MatrixMarket",
        b"%%MatrixMarket matrix coordinate real general\n%",
    ],
)
def test_another_kind_of_matrix_market_is_malformed(first, tmp_path):
    path = crafted.written(MTX, example(), tmp_path)
    _, rest = path.read_bytes().split(b"\n", 1)
    assert told(path, first + b"\n" + rest)[0] == "MalformedInput"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "times"),
    [
        (b"1 1 \n", 10**6),
        (b"1,1,\n", 10**6),
        (b"1", 10**8),
        (b"1 1 1.0\n", 10**7),
        (b"\n", 10**8),
        (b"\0", 10**8),
        (b",", 10**8),
    ],
)
def test_hostile_text_takes_little_memory_and_time(file, part, times):
    head, _ = entry_lines(file)
    file.write_bytes(b"".join(head) + part * times)
    tracemalloc.start()
    try:
        with within(10):
            assert outcome(file)[0] in {"MalformedInput", "wrong"}
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@given(st.binary(max_size=300), st.integers(0, 2000))
def test_any_bytes_are_refused_with_a_documented_error(content, place):
    for kind in (MTX, EDGES):
        data = rendered(kind, example())
        changed = data[:place] + content + data[place + len(content) :]
        found = crafted.outcome_beside(kind, example(), changed)
        assert found in (
            {"ok"} if changed == data else {"wrong", "WrongContents", "MalformedInput"}
        )


def test_the_operator_file_is_needed_and_stands_beside(file):
    crafted.sidecar(file).unlink()
    kind, message = outcome(file)
    assert kind == "MalformedInput"
    assert f"{file.name} needs {file.name}.operator.npz beside it" in message


@every_kind
def test_text_from_a_pipe_is_a_usage_error_that_says_why(kind):
    with pytest.raises(UsageError, match="its operator file beside it"):
        registry.stored(crafted.in_memory(rendered(kind, example())))


# --- the command --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c.mtx", "c.csv", "c.mat"])
def test_the_command_writes_proves_and_explains_it(model, name):
    assert run("convert", model, "-o", name).succeeded().lines == [
        name,
        f"{name}.operator.npz",
    ]
    run("convert", model, "-o", "c.npz").succeeded()
    assert "proven" in run("verify", name).succeeded().out
    run("verify", name, "--exhaustive", "--model", model).succeeded()
    rows = [run("map", file, "--output-at", "0,0,0").succeeded().out for file in (name, "c.npz")]
    assert rows[0] == rows[1]
    told = run("convert", model, "-o", name, "--kernel-index", "--force").failed(2)
    assert told.endswith(" has no room for a kernel_index: take *.h5 or *.npz")
    assert "does not hold the form dense" in run(
        "convert", model, "-o", name, "--form", "dense", "--force"
    ).failed(2)
    data = Path(name).read_bytes()
    assert "name the file" in run("verify", "-", stdin=data).failed(2)
    other = b"7" if data[-2:-1] == b"8" else b"8"
    Path(name).write_bytes(crafted.patched(data, len(data) - 2, other))
    assert run("verify", name).code == 1
    for damaged in (data[:-1], data + b"x"):
        Path(name).write_bytes(damaged)
        run("verify", name).failed(3)


def test_other_text_in_a_pipe_is_still_taken_for_paths():
    assert "use xargs convfc verify" in run("verify", "-", stdin=b"a.npz\nb.npz\n").failed(3)
