"""The heavy operations of a layer: the engine's kernels in C where they are, else numpy with float32 planes.

Both are exact (docs/numerics.md, section 6.1). Whoever accuses or answers takes ``Products.proved``, so that nobody is
accused, or convicted, because of a processor's flaw or a kernel's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL
from itertools import pairwise

import numpy as np

from market.inference.errors import SelfTestError
from market.inference.model import AnyArray, Int64Array, IntegerModel, Linear, Tables
from market.inference.native import library as native
from market.inference.native import selftest
from market.inference.reference import ACTIVATION_LIMIT
from market.verification.exact import Exponential, narrowed, shift_round
from market.verification.rows import Rows

ROWS = 4096  # rows of a matrix at once, where they are widened to float32 or the result is narrowed
RIGHT_SHIFT_MAX = 62  # of an honest trace; the kernels take no other
TESTED_ROWS, TESTED_WIDTH = 19, 512  # rows of activations; rows of a matrix at either end
SPLIT = 64  # fewer rows of a matrix than these are not worth a thread of their own


class Products:
    """Multiplies for any number of traces, on threads of its own."""

    def __init__(self, kernel: str | None = None, threads: int | None = None) -> None:
        """kernel: one of ``native.supported()``, ``numpy``, or None for the fastest; threads: None for one on every
        processor that this process may use.
        """
        self.kernel = kernel or next(iter(native.supported()), "numpy")
        self._library = None if self.kernel == "numpy" else native.library()
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, "assay-products")
        self.rows = None if self._library is None else Rows(self._library, self.kernel, self._threads, self._share)
        self._matrices: dict[int, tuple[Linear, native.Matrix]] = {}  # with the sums of their rows; 4 bytes a row

    @classmethod
    def proved(cls, model: IntegerModel, threads: int | None = None) -> Products:
        """With the fastest kernel that passes the engine's own test of products and activation on this model, and whose
        products of a trace are numpy's.
        """
        for name in native.supported():
            kernel = native.Kernel(native.library(), name)
            try:
                selftest.check_matrices(kernel, model)
                selftest.check_rows(kernel, model)
            except SelfTestError:
                continue
            products = cls(name, threads)
            if products.agree(model):
                return products
        return cls("numpy", threads)

    def agree(self, model: IntegerModel) -> bool:
        """Whether products and activation are those of numpy's planes: each shape of the model, few rows and more than
        two groups of them, extremes among them.
        """
        chance = np.random.default_rng(20261129)
        seen: set[tuple[int, ...]] = set()
        for matrix in model.matrices():
            if matrix.weight.shape in seen:
                continue
            seen.add(matrix.weight.shape)
            q = chance.integers(-ACTIVATION_LIMIT, ACTIVATION_LIMIT + 1, (TESTED_ROWS, matrix.weight.shape[1]))
            q[:, 0] = ACTIVATION_LIMIT  # what quantising leaves as it is has 15 bits
            q[1], q[2, 1:], q[3] = ACTIVATION_LIMIT, -ACTIVATION_LIMIT, 0
            shift = chance.integers(0, 4, (TESTED_ROWS, 1))
            width = len(matrix.weight)
            ends = (slice(0, min(width, TESTED_WIDTH)), slice(max(0, width - TESTED_WIDTH), width))
            for count in (1, 3, TESTED_ROWS):
                got = self.linear(matrix, q[:count], shift[:count])
                exact = np.empty_like(got)
                for rows in ends:
                    self._planes(matrix, q[:count], shift[:count], rows, exact, strict=True)
                    if not np.array_equal(got[:, rows], exact[:, rows]):
                        return False
        gate, up = chance.integers(-(2**24), 2**24, (2, TESTED_ROWS, 64))
        plain = Products("numpy", 1).activate(gate.copy(), up, model.tables)
        return np.array_equal(self.activate(gate, up, model.tables), plain) and (
            self.rows is None or self.rows.agree(model)
        )

    def linear(self, matrix: Linear, q: Int64Array, shift: Int64Array) -> Int64Array:
        """Section 3.4: q [T, K] int16-valued with shifts [T, 1] → [T, N]."""
        out = np.empty((len(q), len(matrix.weight)), dtype=np.int64)
        self.linear_into(matrix, q, shift, out)
        return out

    def linear_into(self, matrix: Linear, q: Int64Array, shift: Int64Array, out: AnyArray, strict: bool = True) -> None:
        """``linear`` into an array of an integer type. Where that does not hold the result, OverflowError is raised if
        ``strict``, else upper bits are lost.
        """
        q, shift, rows = np.ascontiguousarray(q), shift.reshape(-1, 1), len(matrix.weight)
        library, right = self._library, matrix.exponent - shift
        if library is not None and int(right.min()) >= 1 and int(right.max()) <= RIGHT_SHIFT_MAX:
            struct, narrow = self._matrix(library, matrix), shift.astype(np.int32)
            parts = [
                (start, min(start + ROWS, stop))
                for first, stop in pairwise(self._edges(rows))
                for start in range(first, stop, ROWS)
            ]

            def run(part: tuple[int, int]) -> bool:
                return self._native(library, struct, q, narrow, part, out, strict)

            if all(list(self._pool.map(run, parts))):
                return
        for start in range(0, rows, ROWS):
            self._planes(matrix, q, shift, slice(start, start + ROWS), out, strict)

    def activate(self, gate: Int64Array, up: Int64Array, tables: Tables) -> Int64Array:
        """z of section 4, (silu(gate) · up + 2^15) >> 16, of contiguous arrays of any one shape."""
        library = self._library
        if library is None:
            product = Exponential(tables).silu(gate)
            product *= up
            product += 2**15
            product >>= 16
            return product
        out = np.empty_like(gate)
        high, low = native.pointer(tables.exp2_high), native.pointer(tables.exp2_low)

        def run(start: int, stop: int) -> None:
            arrays = [array.ctypes.data + 8 * start for array in (gate, up, out)]
            library.assay_activate(self.kernel.encode(), *arrays[:2], high, low, stop - start, arrays[2])

        list(self._pool.map(lambda part: run(*part), pairwise(self._edges(gate.size))))
        return out

    def _share(self, work: Callable[[int, int], None], parts: Iterable[tuple[int, int]]) -> None:
        list(self._pool.map(lambda part: work(*part), parts))

    def _edges(self, size: int) -> Sequence[int]:
        """Where to cut for the threads: at multiples of SPLIT, as the engine does."""
        pieces = max(1, min(self._threads, size // SPLIT))
        return [*(size * i // pieces // SPLIT * SPLIT for i in range(pieces)), size]

    def _native(
        self,
        library: CDLL,
        struct: native.Matrix,
        q: Int64Array,
        shift: AnyArray,
        part: tuple[int, int],
        out: AnyArray,
        strict: bool,
    ) -> bool:
        """False for rows that the kernels cannot take, which no honest trace has. Raises MemoryError."""
        start, stop = part
        direct = out.dtype == np.int64
        target = out if direct else np.empty((len(q), stop - start), dtype=np.int64)
        address = target.ctypes.data + (8 * start if direct else 0)
        rows = native.pointer(q), native.pointer(shift), len(q)
        done = library.assay_trace_linear(
            self.kernel.encode(), struct.struct, start, stop, *rows, address, target.shape[1]
        )
        if not done:
            raise MemoryError
        if done == 1 and not direct:
            out[:, start:stop] = narrowed(target, out.dtype.itemsize) if strict else target
        return bool(done == 1)

    def _matrix(self, library: CDLL, matrix: Linear) -> native.Matrix:
        if id(matrix) not in self._matrices:
            self._matrices[id(matrix)] = matrix, native.Matrix(library, self.kernel.encode(), matrix)
        return self._matrices[id(matrix)][1]

    def _planes(
        self, matrix: Linear, q: Int64Array, shift: Int64Array, rows: slice, out: AnyArray, strict: bool
    ) -> None:
        """By byte planes: every partial sum is an integer below 2^24."""
        count = len(q)
        planes = np.empty((2 * count, q.shape[1]), dtype=np.float32)
        high = (q + 128) >> 8
        planes[:count] = high
        planes[count:] = q - (high << 8)
        sums = planes @ matrix.weight[rows].astype(np.float32).T
        total = sums[:count].astype(np.float64)
        total *= 256
        total += sums[count:]
        exact = total.astype(np.int64)
        exact *= matrix.multiplier[rows].astype(np.int64)
        result = shift_round(exact, matrix.exponent - shift)
        out[:, rows] = narrowed(result, out.dtype.itemsize) if strict else result
