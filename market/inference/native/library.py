"""The shared library of C kernels: where it is, what its structures look like, and single operations of it.

Nothing here decides anything: ``market.inference.native.selftest`` proves a kernel, ``market.inference.native_engine``
runs it. Names and shapes are those of engine.h and kernels.h beside this file.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_int32, c_int64, c_void_p
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from market.inference.errors import BackendError, SelfTestError
from market.inference.model import AnyArray, Int32Array, Int64Array, Linear, Tables

KERNELS = ("avx512vnni", "avx2", "portable")  # the fastest first
WITHOUT_LIBRARY = "torch or numpy"
KEY_BLOCK = 16  # positions that share a block of the key cache
QUERIES = 6  # most queries of one call of attend
HEAD_SIZE_MAX = 256
ACCUMULATOR_L1 = ((1 << 31) - 1) // 32639  # rows of larger L1 norm need int64 sums


class MatrixStruct(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("multiplier", c_void_p),
        ("sum", c_void_p),
        ("rows", c_int32),
        ("columns", c_int32),
        ("exponent", c_int32),
        ("wide", c_int32),
    )


class AttentionStruct(Structure):
    _fields_ = (
        ("exp2_high", c_void_p),
        ("exp2_low", c_void_p),
        ("multiplier", c_int64),
        ("score_shift", c_int32),
        ("value_shift", c_int32),
        ("size", c_int32),
    )


MATRICES = ("query", "key", "value", "attention_output", "gate", "up", "down")


class LayerStruct(Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("feed_forward_norm", c_void_p),
        *((name, MatrixStruct) for name in MATRICES),
        ("query_fraction", c_int32),
        ("key_fraction", c_int32),
        ("value_fraction", c_int32),
    )


SHAPES = ("vocabulary", "context", "hidden", "feed_forward", "layers", "heads", "kv_heads", "head_size")
TABLES = ("exp2_high", "exp2_low", "rope_cos", "rope_sin")


class ModelStruct(Structure):
    _fields_ = (
        *((name, c_int32) for name in SHAPES),
        ("epsilon", c_int64),
        ("score_multiplier", c_int64),
        ("layer", POINTER(LayerStruct)),
        ("embedding", MatrixStruct),
        ("head", MatrixStruct),
        ("output_norm", c_void_p),
        *((name, c_void_p) for name in TABLES),
    )


class SlotStruct(Structure):
    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("capacity", c_int32))


class BatchStruct(Structure):
    _fields_ = (
        ("rows", c_int32),
        ("slots", c_int32),
        ("wanted", c_int32),
        ("id", c_void_p),
        ("slot", c_void_p),
        ("position", c_void_p),
        ("cache", POINTER(SlotStruct)),
        ("wanted_row", c_void_p),
        ("logits", c_void_p),
        ("likeliest", c_void_p),
        ("trace", c_void_p),
    )


class TraceAttentionStruct(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value", "score", "softmax", "sum", "mix")),
        ("hidden", c_int64),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("blocks", c_int32),
    )


class SectionStruct(Structure):
    _fields_ = (
        ("elements", c_void_p),
        ("statistic", c_void_p),
        *((name, c_int64) for name in ("row_stride", "head_stride", "block_stride", "element_stride")),
        *((name, c_int32) for name in ("first", "per_row", "per_block", "step", "chunk")),
        *((name, c_int32) for name in ("rows", "slots", "block_bits", "fields", "size", "narrow")),
    )


STRUCTURES: tuple[type[Structure], ...] = (
    MatrixStruct,
    AttentionStruct,
    LayerStruct,
    ModelStruct,
    SlotStruct,
    BatchStruct,
    TraceAttentionStruct,
    SectionStruct,
)
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "assay_layout": (c_int, [c_int]),
    "assay_kernel_supported": (c_int, [c_char_p]),
    "assay_linear": (c_int, [c_char_p, POINTER(MatrixStruct), c_void_p, c_int, c_int, c_void_p, c_void_p]),
    "assay_normalise": (None, [c_char_p, c_void_p, c_void_p, c_int64, c_int, c_void_p]),
    "assay_rotate": (None, [c_char_p, c_void_p, c_void_p, c_void_p, c_int]),
    "assay_to_cache": (None, [c_char_p, c_void_p, c_int, c_int, c_void_p]),
    "assay_activate": (None, [c_char_p, c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_void_p]),
    "assay_attend": (
        c_int,
        [c_char_p, POINTER(AttentionStruct), c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p],
    ),
    "assay_row_sums": (c_int32, [c_char_p, c_void_p, c_int, c_int, c_void_p]),
    "assay_engine_new": (c_void_p, [POINTER(ModelStruct), c_char_p, c_int, c_int, c_int]),
    "assay_engine_free": (None, [c_void_p]),
    "assay_engine_run": (None, [c_void_p, POINTER(BatchStruct)]),
    "assay_engine_leave_out": (None, [c_void_p, c_int64]),
    "assay_engine_runs_alone": (c_int64, [c_void_p]),
    "assay_trace_linear": (
        c_int,
        [c_char_p, POINTER(MatrixStruct), c_int, c_int, c_void_p, c_void_p, c_int, c_void_p, c_int64],
    ),
    "assay_trace_pack": (c_int, [c_void_p, c_int64, c_int, c_void_p]),
    "assay_trace_norm": (None, [c_char_p, c_void_p, c_void_p, c_int64, c_int, c_int, c_void_p, c_void_p]),
    "assay_trace_quantise": (None, [c_char_p, c_void_p, c_int, c_int, c_void_p]),
    "assay_trace_rotate": (
        None,
        [c_char_p, c_void_p, c_void_p, c_void_p, c_int, c_int, c_int, c_int, c_void_p],
    ),
    "assay_trace_to_cache": (None, [c_char_p, c_void_p, c_int64, c_int]),
    "assay_trace_attend": (
        c_int,
        [c_char_p, POINTER(AttentionStruct), POINTER(TraceAttentionStruct), c_int, c_int, c_int],
    ),
    "assay_section_leaf_max": (c_int, []),
    "assay_section_root": (c_int, [c_int, POINTER(SectionStruct), c_char_p, c_int, c_int, c_void_p]),
    "assay_keccak_width": (c_int, []),
    "assay_keccak_leaves": (c_int, [c_int, c_void_p, c_void_p, c_void_p, c_int64, c_void_p]),
    "assay_keccak_level": (c_int, [c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
}


@cache
def library() -> ctypes.CDLL | None:
    """The library, or None where the package was installed without it.

    Raises SelfTestError for one that was built from other sources than these.
    """
    spec = find_spec("market.inference.native._kernels")
    if spec is None or spec.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(spec.origin)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise SelfTestError(f"native library {spec.origin} ({error})", WITHOUT_LIBRARY) from error
    if [loaded.assay_layout(i) for i in range(len(STRUCTURES))] != [ctypes.sizeof(s) for s in STRUCTURES]:
        raise SelfTestError(f"native library {spec.origin} (other structures than this package)", WITHOUT_LIBRARY)
    return loaded


def supported() -> tuple[str, ...]:
    """Kernels that this processor can run, the fastest first; none without the library."""
    loaded = library()
    return tuple(name for name in KERNELS if loaded and loaded.assay_kernel_supported(name.encode()))


def pointer(array: AnyArray | None) -> int | None:
    """Address of a C-contiguous array, which must stay alive as long as the address is used."""
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("the array is not contiguous")
    return array.ctypes.data


class Matrix:
    """A weight matrix ready for C; the weights stay where they are."""

    def __init__(self, loaded: ctypes.CDLL, kernel: bytes, linear: Linear) -> None:
        rows, columns = linear.weight.shape
        self._kept = (linear.weight, linear.multiplier, np.empty(rows, dtype=np.int32))
        weight, multiplier, sums = self._kept
        largest = loaded.assay_row_sums(kernel, pointer(weight), rows, columns, pointer(sums))
        self.struct = MatrixStruct(
            pointer(weight),
            pointer(multiplier),
            pointer(sums),
            rows,
            columns,
            linear.exponent,
            int(largest > ACCUMULATOR_L1),
        )


class Kernel:
    """Single operations of one kernel, on plain rows: for the self-test and the tests. Shapes as in ``reference``."""

    def __init__(self, loaded: ctypes.CDLL | None, name: str) -> None:
        """Raises BackendError without a library."""
        if loaded is None:
            raise BackendError(f"kernels {name}", "the package was installed without a C compiler")
        self.name, self._library, self._name = name, loaded, name.encode()

    def linear(self, matrix: Linear, y: Int64Array, grouped: bool) -> tuple[Int64Array, Int32Array]:
        """quantise, then linear: Q16 rows [T, K] → Q16 rows [T, N] and the shifts [T].

        ``grouped``: lay the bytes of the activations as for many rows, whatever T is.
        """
        y = np.ascontiguousarray(y, dtype=np.int64)
        out = np.empty((len(y), len(matrix.weight)), dtype=np.int64)
        shift = np.empty(len(y), dtype=np.int32)
        struct = Matrix(self._library, self._name, matrix)
        done = self._library.assay_linear(
            self._name, struct.struct, pointer(y), len(y), int(grouped), pointer(out), pointer(shift)
        )
        if not done:
            raise MemoryError
        return out, shift

    def normalise(self, x: Int64Array, gain: Int32Array, epsilon: int) -> Int64Array:
        """One row [D]."""
        out = np.empty_like(x)
        self._library.assay_normalise(self._name, pointer(x), pointer(gain), epsilon, len(x), pointer(out))
        return out

    def rotate(self, z: Int64Array, cos: Int32Array, sin: Int32Array) -> Int64Array:
        """One head [S] and its row of both tables."""
        out = z.copy()
        self._library.assay_rotate(self._name, pointer(out), pointer(cos), pointer(sin), len(z))
        return out

    def to_cache(self, z: Int64Array, fraction: int) -> Int64Array:
        out = np.empty(len(z), dtype=np.int16)
        self._library.assay_to_cache(self._name, pointer(z), fraction, len(z), pointer(out))
        return out.astype(np.int64)

    def activate(self, gate: Int64Array, up: Int64Array, tables: Tables) -> Int64Array:
        """(silu(gate) * up + 2^15) >> 16 of one row."""
        out = np.empty_like(gate)
        high, low = pointer(tables.exp2_high), pointer(tables.exp2_low)
        self._library.assay_activate(self._name, pointer(gate), pointer(up), high, low, len(gate), pointer(out))
        return out

    def attend(
        self,
        queries: Int64Array,
        positions: Int32Array,
        keys: Int64Array,
        values: Int64Array,
        fractions: tuple[int, int, int],
        multiplier: int,
        tables: Tables,
    ) -> Int64Array:
        """Up to QUERIES queries [J, S] over keys and values [U, S]; the j-th sees the first positions[j] of them."""
        q, k, v = (np.ascontiguousarray(a, dtype=np.int16) for a in (queries, keys, values))
        out = np.empty(q.shape, dtype=np.int64)
        constants = AttentionStruct(
            pointer(tables.exp2_high),
            pointer(tables.exp2_low),
            multiplier,
            fractions[0] + fractions[1] + 2,
            16 - fractions[2],
            q.shape[1],
        )
        arguments = (pointer(q), len(q), pointer(positions), pointer(k), pointer(v), len(k), pointer(out))
        if not self._library.assay_attend(self._name, constants, *arguments):
            raise MemoryError
        return out
