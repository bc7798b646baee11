"""How long reading a model's weights takes: the maps that decoding reads, in C, prefetched as far ahead."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from pathlib import Path

from bench.common import BUILD
from market.models.pack import Pack

SOURCE = Path(__file__).parent / "bandwidth.c"
PASSES, TRIES = 8, 3


class _Matrix(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("rows", ctypes.c_int64), ("columns", ctypes.c_int64))


class Weights:
    """The weights of a pack, each matrix once."""

    def __init__(self, pack: Pack) -> None:
        """Compiles the reader for this processor."""
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise SystemExit("the memory bandwidth is measured in C: install a compiler (Debian: gcc libc6-dev)")
        BUILD.mkdir(parents=True, exist_ok=True)
        library = BUILD / "bandwidth.so"
        flags = ["-std=c11", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]
        subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE)], check=True)
        self._read = ctypes.CDLL(str(library)).assay_bench_read
        self._read.restype = ctypes.c_uint64
        self._arrays = list({id(matrix.weight): matrix.weight for matrix in pack.model.matrices()}.values())
        self._matrices = (_Matrix * len(self._arrays))(*(_Matrix(a.ctypes.data, *a.shape) for a in self._arrays))
        self.size = sum(array.nbytes for array in self._arrays)

    def seconds(self, threads: int) -> float:
        """To read them all once, the way that is quicker: the best of a few tries of several passes each."""
        return min(self._seconds(threads, side_by_side) for _ in range(TRIES) for side_by_side in (0, 1))

    def _seconds(self, threads: int, side_by_side: int) -> float:
        started = time.perf_counter()
        done = self._read(self._matrices, len(self._matrices), PASSES, threads, side_by_side)
        took = time.perf_counter() - started
        if not done:
            raise SystemExit("threads could not be started")
        return took / PASSES
