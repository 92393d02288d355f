"""Proof that a matrix file is what it says: against its layer, applied in another way.

The file is read once, in slabs of rows, at bounded memory. For each slab the oracle
(`Linear.apply`, by sliding windows) says what the rows must do, and the stored entries are held
to it:

structure   row lengths as the geometry's own count of taps, columns strictly increasing and in
            range: before any arithmetic, because sparse products trust their indices.
exact       Each entry's bits are an integer (`_planes`). For inputs r drawn uniformly from
            [0, 2**64), M r and the oracle's answer must agree modulo 2**64. If any entry differs,
            by d with 0 < |d| <= 2**32, then d r = c (mod 2**64) for one c has at most 2**32
            solutions r, so one probe misses it with probability at most 2**-32, whatever else is
            wrong; k independent probes with 2**-32k. A right matrix never fails. NaN payloads,
            infinities and -0.0 are bits like any others. Source: Freivalds 1977, here over the
            ring Z/2**64, in which unsigned arithmetic is exact.
product     M x + b in float64 against the oracle, within the rounding bound (`rounding`).

What is trusted: the oracle (`direct`), the layout, NumPy's and SciPy's arithmetic, and, for a file
alone, that its kernel and geometry are the model's.
"""

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convfc_cli.errors import Defect, Refused, WrongContents
from convfc_cli.layers import Convolution, Linear, Weights
from convfc_cli.matrices.format import Block, Progress, Stored
from convfc_cli.matrices.matrix import Matrix, digest
from convfc_cli.report import Finding, Report
from convfc_cli.rounding import (
    as_float64,
    as_ones,
    largest_ratio,
    left_out_note,
    real_answer,
    worst_ratio,
)
from convfc_cli.streams import CHUNK

Array = NDArray[Any]

LARGEST = 2**32
"""Bytes of all random inputs together: a vector of 64-bit numbers for each probe and two more."""

PROBES = 3
"""Exact probes by default: a wrong matrix passes with probability at most 2**-96."""


def verify(
    stored: Stored,
    *,
    original: Matrix | None = None,
    listed: dict[str, Any] | None = None,
    probes: int = PROBES,
    seed: int | None = None,
    progress: Progress = lambda done: None,
) -> Report:
    """Check a stored matrix; with `original`, also that it is that one; with `listed`, that it is
    what a manifest says of it.

    Raises `MalformedInput` for a damaged file; wrong contents are no error but a report that is not
    `ok`. `seed` repeats a run; who knows it beforehand can craft a file that passes.
    """
    matrix = stored.matrix
    strength = f"2^-{32 * probes}" if seed is None else "seed given"
    strength = "digest only" if matrix.form == "operator" else strength
    seed = secrets.randbits(256) if seed is None else seed
    findings = [_digest_finding(stored)]
    if listed is not None:
        findings.append(_manifest_finding(matrix, listed))
    if original is not None:
        findings.append(_origin_finding(matrix, original))
    try:
        if matrix.form != "operator":
            if stored.structural:
                findings.append(_bias_finding(stored))
            checks = _Checks(stored, probes, seed)
            checks.run(progress)
            findings += checks.findings(strength)
        stored.finish()
    except WrongContents as error:
        stored.check_undamaged()
        findings.append(Finding("entries", False, str(error)))
    trusted = ["the oracle (sliding windows), the layout, NumPy and SciPy"]
    if original is None:
        trusted.append("kernel and geometry in the file: origin not checked, add --model")
    return Report(
        file=stored.name,
        layer=matrix.origin.layer,
        shape=matrix.shape,
        nonzeros=matrix.layer.index_map.nnz,
        form=matrix.form,
        seed=seed,
        strength=strength,
        findings=tuple(findings),
        trusted=tuple(trusted),
    )


def _digest_finding(stored: Stored) -> Finding:
    holds = stored.stated_digest == digest(stored.matrix.layer)
    if holds:
        return Finding("digest", True, "geometry, kernel and bias are as they were written")
    return Finding("digest", False, "geometry, kernel or bias are not as they were written")


def check_size(inputs: int, probes: int) -> None:
    """Raise `Refused` where the random inputs of a proof would take too much memory."""
    if 8 * inputs * (probes + 2) > LARGEST:
        raise Refused(
            f"a proof with {probes} probes takes {8 * inputs * (probes + 2)} bytes for the "
            f"{inputs} inputs of the layer, more than {LARGEST}: --no-verify writes it without"
        )


def _manifest_finding(matrix: Matrix, listed: dict[str, Any]) -> Finding:
    origin = matrix.origin
    own = {
        **{"layer": origin.layer, "output": origin.output, "position": origin.position},
        **{"op": origin.op, "form": matrix.form, "shape": list(matrix.shape)},
        **{"nonzeros": matrix.layer.index_map.nnz, "sha256": origin.sha256},
    }
    for key, value in own.items():
        if listed.get(key) != value:
            told = f"{key} is {str(value)[:80]}, by the manifest {str(listed.get(key))[:80]}"
            return Finding("manifest", False, told)
    return Finding("manifest", True, "layer, shape and model are those that it lists")


def _origin_finding(matrix: Matrix, expected: Matrix) -> Finding:
    layer, original, origin = matrix.layer, expected.layer, matrix.origin
    if replace(origin, file="", sha256="") != replace(expected.origin, file="", sha256=""):
        told = f"{origin.op} {origin.layer!r} of {origin.dtype or 'unknown dtype'}"
        return Finding("origin", False, f"the model's layer is not the {told} that the file names")
    if layer.index_map != original.index_map:
        return Finding("origin", False, "the geometry is not that of the model's layer")
    if layer.kernel.dtype != original.kernel.dtype:
        return Finding(
            "origin", False, f"the kernel is {layer.dtype}, the model's layer {original.dtype}"
        )
    if layer.kernel.tobytes() != original.kernel.tobytes():
        wrong = np.argwhere(_bits(layer.kernel) != _bits(original.kernel))[0]
        place = tuple(int(i) for i in wrong)
        return Finding(
            "origin",
            False,
            f"kernel element {place} is {layer.kernel[place]!s}, "
            f"in the model {original.kernel[place]!s}",
        )
    ours, theirs = layer.bias_tensor(), original.bias_tensor()
    if ours.tobytes() != theirs.tobytes():
        return Finding("origin", False, "the bias is not that of the model's layer")
    changes = ["flipped"] if origin.flipped else []
    if origin.dtype and layer.dtype.itemsize < np.dtype(_widest(origin.dtype)).itemsize:
        changes.append(f"rounded to {layer.dtype.name}")
    told = f"the model's, {' and '.join(changes)}" if changes else "the model's, bit for bit"
    if origin.sha256 != expected.origin.sha256:
        told += "; the model file is another than the one it was written from"
    return Finding("origin", True, f"geometry, kernel and bias are {told}")


def _widest(dtype: str) -> str:
    return dtype if dtype == "float64" else "float32"


def _bias_finding(stored: Stored) -> Finding:
    bias, layer = stored.bias(), stored.matrix.layer
    shape = (layer.index_map.rows,)
    if bias.shape != shape or bias.dtype != layer.dtype:
        raise WrongContents(f"bias is {bias.shape} of {bias.dtype}, not {shape} of {layer.dtype}")
    expected = stored.matrix.bias
    wrong = np.flatnonzero(_bits(bias) != _bits(np.ascontiguousarray(expected)))
    if len(wrong):
        at = int(wrong[0])
        raise WrongContents(f"bias {at} is {bias[at]!s}, by the kernel_bias {expected[at]!s}")
    return Finding("bias", True, f"{len(bias):,} values, bit for bit")


class _Checks:
    """One pass over the rows of a stored matrix."""

    def __init__(self, stored: Stored, probes: int, seed: int) -> None:
        self.stored, self.matrix, self.probes = stored, stored.matrix, probes
        transpose = self.matrix.layout.transpose
        self.layer: Linear = self.matrix.layer.adjoint() if transpose else self.matrix.layer
        self.rows, self.columns = self.matrix.shape
        self.numbered = self.matrix.spec.kernel_index
        self.planes = _planes(self.layer.dtype, structural=stored.structural)
        self.bias = np.zeros(self.rows, np.float32) if transpose else self.matrix.bias
        shape = self.layer.input_shape
        check_size(prod(shape), probes)
        self.exact = [_uniform(seed, probe, shape) for probe in range(probes)]
        self.x = np.random.default_rng(seed).standard_normal(shape)
        self.entries = self.left_out = 0
        self.worst = 0.0

    def run(self, progress: Progress) -> None:
        """Read all rows; raises `WrongContents` at the first that is wrong."""
        layout = self.matrix.layout
        per_row = max(1, self.matrix.layer.index_map.nnz // self.rows)
        exact = [layout.vector(x) for x in self.exact]
        x, size = layout.vector(self.x), self.layer.dtype.itemsize + 4
        ones = np.ones(self.layer.input_shape, np.uint64)
        most = max(1, CHUNK // per_row)
        numbered = self._numbered().slabs(layout, most) if self.numbered else None
        for slab in self.layer.slabs(layout, most):
            counts = slab.apply(ones, as_ones).astype(np.int64)
            expected = [[slab.apply(r, plane) for r in self.exact] for plane in self.planes]
            bias = self.bias[slab.rows.start : slab.rows.stop]
            answer, scale = real_answer(slab, self.x, bias)
            places = next(numbered) if numbered else None
            numbers = [places.apply(r, _plus_one) for r in self.exact] if places else []
            for block in self.stored.rows(counts):
                start = block.first - slab.rows.start
                part = slice(start, start + len(block.indptr) - 1)
                self._check_structure(block)
                for plane, answers in zip(self.planes, expected, strict=True):
                    self._check_exact(block, plane(block.data), exact, [y[part] for y in answers])
                if block.kernel_index is not None:
                    self._check_numbers(block, exact, [y[part] for y in numbers])
                self._check_real(block, x, answer[part], scale[part], counts[part])
                self.entries += len(block.data)
                progress(len(block.data) * size)
        nnz = self.matrix.layer.index_map.nnz
        if slab.rows.stop != self.rows:
            raise Defect(f"{slab.rows.stop} of {self.rows} rows were looked at")
        if self.stored.structural and self.entries != nnz:
            raise WrongContents(f"{self.entries} entries, where the geometry plans {nnz}")

    def _numbered(self) -> Linear:
        """The layer with each weight's flat index in place of the weight."""
        kernel = self.matrix.layer.kernel
        numbers = np.arange(kernel.size, dtype=np.float64).reshape(kernel.shape)
        layer = Convolution(numbers, self.matrix.layer.index_map)
        return layer.adjoint() if self.matrix.layout.transpose else layer

    def findings(self, strength: str) -> Iterator[Finding]:
        """What the pass has shown."""
        if self.stored.structural:
            yield Finding(
                "structure",
                True,
                f"{self.entries:,} entries, rows as long as the geometry says, columns increasing",
            )
        promise = f"a wrong file passes with probability at most {strength}"
        if not strength.startswith("2^-"):
            promise = "with a seed that was given, so nothing is proven against a crafted file"
        told = f"every bit and every zero, by {self.probes} random probes modulo 2^64: {promise}"
        yield Finding("entries", True, told)
        yield Finding(
            "product",
            True if self.left_out < self.rows else None,
            f"M x + b on real inputs, in float64: {largest_ratio(self.worst)} of the rounding bound"
            f"{left_out_note(self.left_out)}",
        )

    def _check_structure(self, block: Block) -> None:
        indices = block.indices
        if not len(indices):
            return
        if int(indices.min()) < 0 or int(indices.max()) >= self.columns:
            wrong = int(np.flatnonzero((indices < 0) | (indices >= self.columns))[0])
            row = block.first + int(np.searchsorted(block.indptr, wrong, side="right")) - 1
            raise WrongContents(
                f"row {row} has column {int(indices[wrong])}, out of range [0, {self.columns})"
            )
        rising = indices[1:] > indices[:-1]
        starts = block.indptr[1:-1]
        starts = starts[(starts > 0) & (starts < len(indices))]
        rising[starts - 1] = True  # from one row to the next, columns may fall
        if not rising.all():
            wrong = int(np.flatnonzero(~rising)[0]) + 1
            row = block.first + int(np.searchsorted(block.indptr, wrong, side="right")) - 1
            raise WrongContents(
                f"row {row} has column {int(indices[wrong])} after {int(indices[wrong - 1])}: "
                f"columns must increase strictly"
            )

    def _check_exact(self, block: Block, bits: Array, xs: list[Array], ys: list[Array]) -> None:
        for x, y in zip(xs, ys, strict=True):
            wrong = np.flatnonzero(_product(block, bits, x) != y)
            if len(wrong):
                raise WrongContents(self._explain(block, int(wrong[0])))

    def _check_numbers(self, block: Block, xs: list[Array], ys: list[Array]) -> None:
        """Each entry's kernel_index, as if the flat indices themselves were the weights."""
        index, size = block.kernel_index, self.matrix.layer.kernel.size
        assert index is not None
        wrong = np.flatnonzero((index < 0) | (index >= size))
        if len(wrong):
            raise WrongContents(
                f"kernel_index has {int(index[wrong[0]])}, beyond the {size} weights"
            )
        for x, y in zip(xs, ys, strict=True):
            wrong = np.flatnonzero(_product(block, index.astype(np.uint64) + np.uint64(1), x) != y)
            if len(wrong):
                row = block.first + int(wrong[0])
                raise WrongContents(f"kernel_index of row {row} names other kernel elements")

    def _check_real(
        self, block: Block, x: Array, answer: Array, scale: Array, counts: Array
    ) -> None:
        bias = as_float64(self.bias[block.first : block.first + len(answer)])
        with np.errstate(all="ignore"):
            error = _product(block, as_float64(block.data), x) + bias - answer
            bound = (counts + 1) * (2.0**-52 * (1 + 2.0**-20) * scale + 2.0**-1021)
        worst, wrong, left_out = worst_ratio(error, bound)
        self.worst, self.left_out = max(self.worst, worst), self.left_out + left_out
        if wrong is not None:
            raise WrongContents(
                f"row {block.first + wrong}: M x + b is further from the oracle than rounding"
            )

    def _explain(self, block: Block, row: int) -> str:
        """The first wrong entry of a wrong row, in terms of the layer."""
        matrix = self.matrix
        index_map, layout = matrix.layer.index_map, matrix.layout
        at = block.first + row
        part = slice(int(block.indptr[row]), int(block.indptr[row + 1]))
        _, columns, values = self.layer.rows(replace(layout, transpose=False)).block(at, at + 1)
        found = dict(zip(block.indices[part].tolist(), block.data[part], strict=True))
        expected = dict(zip(columns.tolist(), values, strict=True))
        zero = np.zeros((), self.layer.dtype)[()]
        for column in sorted(found.keys() | expected.keys()):
            have, want = found.get(column), expected.get(column)
            if self.stored.structural and (have is None) != (want is None):
                break
            have, want = have if have is not None else zero, want if want is not None else zero
            if have.tobytes() != want.tobytes():
                break
        else:
            return f"row {at} is not what the layer computes, though its entries look right"
        output, source = (column, at) if layout.transpose else (at, column)
        output_index = layout.unflatten(output, index_map.output_shape)
        input_index = layout.unflatten(source, index_map.input_shape)
        kernel = index_map.kernel_of(output_index, input_index)
        where = f"kernel element {kernel}" if kernel else "a structural zero"
        return (
            f"entry ({at}, {column}), output {output_index} from input {input_index}: {where}, "
            f"expected {_shown(expected.get(column))}, found {_shown(found.get(column))}"
        )


def _planes(dtype: np.dtype[Any], *, structural: bool) -> list[Weights]:
    """The bits of an entry as integers of at most 2**32: one function a 32-bit half.

    The lowest half plus one, so that an entry that is stored as zero differs from one that is not
    stored at all; not so for a dense file, which cannot tell them apart.
    """
    one = np.uint64(1 if structural else 0)
    if dtype.itemsize == 4:
        return [lambda w: _bits(w).astype(np.uint64) + one]
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    return [lambda w: (_bits(w) & low) + one, lambda w: _bits(w) >> high]


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _uniform(seed: int, probe: int, shape: tuple[int, ...]) -> Array:
    """Uniform 64-bit integers: SHAKE-256 of the seed, so that no one without it can tell them."""
    key = seed.to_bytes(max(32, (seed.bit_length() + 7) // 8), "little") + bytes([probe])
    stream = hashlib.shake_256(key).digest(8 * prod(shape))
    return np.frombuffer(stream, np.uint64).reshape(shape)


def _plus_one(numbers: Array) -> Array:
    return numbers.astype(np.uint64) + np.uint64(1)


def _product(block: Block, data: Array, x: Array) -> Array:
    """The block's rows times x, in the dtype of both."""
    from scipy.sparse import csr_array

    indptr = block.indptr.astype(block.indices.dtype)
    with np.errstate(all="ignore"):
        return csr_array((data, block.indices, indptr), shape=(len(indptr) - 1, len(x))) @ x


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
