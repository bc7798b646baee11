"""The engine that serves on CPUs: docs/numerics.md in C, with the weights where the pack's files are mapped.

Bit-equal to ``market.inference.reference`` with every kernel, thread count, batch and cut of the prompt.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from market.inference.batch import Part, Result, Want
from market.inference.engine import Engine
from market.inference.errors import BackendError, PromptError
from market.inference.model import Config, Int64Array, IntegerModel, Layer, Linear
from market.inference.native import library as lib

ROWS = 256  # most positions of one pass, over all sequences: bounds the engine's memory
Int16Array = npt.NDArray[np.int16]


class Cache:
    """Keys and values of one sequence, int16, in the blocks that the kernels read; untouched memory costs nothing.

    ``length`` positions are filled.
    """

    def __init__(self, config: Config, capacity: int) -> None:
        """Room for ``capacity`` positions, at most the context."""
        rounded = -(-capacity // lib.KEY_BLOCK) * lib.KEY_BLOCK
        shape = (config.layers, config.kv_heads, rounded, config.head_size)
        self.keys: Int16Array = np.zeros(shape, dtype=np.int16)
        self.values: Int16Array = np.zeros(shape, dtype=np.int16)
        self.capacity = capacity
        self.length = 0

    def truncate(self, length: int) -> None:
        self.length = length


class NativeEngine(Engine):
    """Forward passes over one model; calls from several threads run one after the other."""

    def __init__(self, model: IntegerModel, kernel: str, threads: int | None = None, pin: bool = False) -> None:
        """``kernel`` is one of ``library.supported()`` and is not tested here (``selftest.proved`` does that).

        ``threads``: None for one on every processor that this process may use. ``pin``: tie all but the caller's to
        processors of their own. Raises BackendError for a kernel that does not exist here.
        """
        loaded = lib.library()
        if loaded is None or kernel not in lib.supported():
            raise BackendError(f"kernels {kernel}", "this machine or this installation does not have it")
        if not 2 <= model.config.head_size <= lib.HEAD_SIZE_MAX:
            raise BackendError("native kernels", f"the model's heads are wider than {lib.HEAD_SIZE_MAX}")
        self.config, self.kernels = model.config, kernel
        self.threads = threads or len(os.sched_getaffinity(0))
        self._library = loaded
        self._kept: list[object] = [model]  # what C holds addresses of
        struct = self._model_struct(model)
        handle = loaded.assay_engine_new(struct, kernel.encode(), self.threads, ROWS, int(pin))
        if not handle:
            raise MemoryError("no memory for the engine's buffers")
        self._handle = handle
        self._lock = threading.Lock()
        weakref.finalize(self, loaded.assay_engine_free, handle)

    def new_slot(self, capacity: int) -> Cache:
        """See ``BatchEngine.new_slot``; at most the context."""
        return Cache(self.config, capacity)

    def step(self, parts: Sequence[Part]) -> list[Result]:
        """See ``BatchEngine.step``: all parts in as few passes as fit.

        Raises PromptError, with nothing computed, for ids outside the vocabulary, a part without ids, or one that its
        slot or the context has no room for.
        """
        batch = [(cast(Cache, part.slot), part.ids) for part in parts]  # as `new_slot` made them
        ends = np.cumsum([len(part.ids) for part in parts]) - 1
        wanted = ends[[part.want is not Want.NOTHING for part in parts]]
        logits: Int64Array | None = None
        if any(part.want is Want.LOGITS for part in parts):
            logits = np.empty((len(wanted), self.config.vocabulary), dtype=np.int64)
        likeliest, results, row = self._run(batch, wanted, logits), list[Result](), 0
        for part in parts:
            results.append(None if part.want is Want.NOTHING else likeliest[row])
            if part.want is Want.LOGITS and logits is not None:
                results[-1] = logits[row]
            row += part.want is not Want.NOTHING
        return results

    def forward(self, ids: Sequence[int], slot: Cache | None = None) -> Int64Array:
        """Appends ids to the slot (a new one unless given); logits [len(ids), V] in Q16 of all of them."""
        logits = np.empty((len(ids), self.config.vocabulary), dtype=np.int64)
        self._run([(slot or self.new_slot(len(ids)), ids)], np.arange(len(ids)), logits)
        return logits

    def residuals(self, batch: Sequence[tuple[Cache, Sequence[int]]]) -> Int64Array:
        """Appends ids to slots; the residual stream [layers + 1, all ids, hidden] before each layer and at the end, in
        the order of the batch. One pass: up to ROWS ids.
        """
        rows = sum(len(ids) for _, ids in batch)
        if rows > ROWS:
            raise ValueError(f"at most {ROWS} ids")
        trace = np.empty((self.config.layers + 1, rows, self.config.hidden), dtype=np.int64)
        self._run(batch, np.arange(0), trace=trace)
        return trace

    def leave_out(self, passes: int) -> None:
        """The next passes are the caller's thread's alone, as after one in which waiting for the others cost more than
        they did; 0: on all threads again. For tests: the pool decides this for itself.
        """
        with self._lock:
            self._library.assay_engine_leave_out(self._handle, passes)

    @property
    def passes_alone(self) -> int:
        """Passes that left the other threads out."""
        return int(self._library.assay_engine_runs_alone(self._handle))

    def _run(
        self,
        batch: Sequence[tuple[Cache, Sequence[int]]],
        wanted: npt.NDArray[np.intp],
        logits: Int64Array | None = None,
        trace: Int64Array | None = None,
    ) -> list[int]:
        """All passes of a batch. ``wanted``: ascending rows, counted over all ids, whose likeliest next id is returned;
        their logits are written to ``logits`` where that is given.
        """
        with self._lock:
            self._check(batch)
            counts = [len(ids) for _, ids in batch]
            ids = np.fromiter((token for _, new in batch for token in new), dtype=np.int32, count=sum(counts))
            slot = np.repeat(np.arange(len(batch), dtype=np.int32), counts)
            start = np.repeat([cache.length for cache, _ in batch] - np.cumsum([0, *counts[:-1]]), counts)
            position = (start + np.arange(len(ids))).astype(np.int32)
            likeliest = np.empty(len(wanted), dtype=np.int32)
            slots = (lib.SlotStruct * len(batch))(
                *(lib.SlotStruct(c.keys.ctypes.data, c.values.ctypes.data, c.keys.shape[2]) for c, _ in batch)
            )
            done = 0
            for first in range(0, len(ids), ROWS):
                rows = slice(first, min(first + ROWS, len(ids)))
                here = int(np.searchsorted(wanted, rows.stop)) - done
                wanted_row = (wanted[done : done + here] - first).astype(np.int32)
                arrays = [ids[rows], slot[rows], position[rows], wanted_row]
                pointers = [array.ctypes.data for array in arrays]
                struct = lib.BatchStruct(
                    rows.stop - first,
                    len(batch),
                    here,
                    *pointers[:3],
                    slots,
                    pointers[3],
                    logits[done:].ctypes.data if logits is not None else None,
                    likeliest[done:].ctypes.data,
                    lib.pointer(trace),
                )
                self._library.assay_engine_run(self._handle, struct)
                done += here
            for (cache, _), count in zip(batch, counts, strict=True):
                cache.length += count
            found: list[int] = likeliest.tolist()
            return found

    def _check(self, batch: Sequence[tuple[Cache, Sequence[int]]]) -> None:
        if len({id(cache) for cache, _ in batch}) != len(batch):
            raise ValueError("a sequence stands twice in one batch")
        top = self.config.vocabulary - 1
        for cache, ids in batch:
            if not ids:
                raise PromptError("empty", 0, 1, "A sequence has no new tokens.")
            room, total = min(cache.capacity, self.config.context), cache.length + len(ids)
            if total > room:
                raise PromptError("context", total, room, f"{total} positions do not fit the {room} there are.")
            if min(ids) < 0 or max(ids) > top:
                worst = min(ids) if min(ids) < 0 else max(ids)
                raise PromptError("vocabulary", worst, top, f"Token id {worst} is outside 0..{top}.")

    def _model_struct(self, model: IntegerModel) -> lib.ModelStruct:
        c = model.config
        layers = (lib.LayerStruct * c.layers)(*(self._layer_struct(layer) for layer in model.layers))
        self._kept.append(layers)
        embedding = self._matrix(model.embedding)
        head = embedding if model.head is model.embedding else self._matrix(model.head)
        self._kept += [embedding, head]
        return lib.ModelStruct(
            *(getattr(c, name) for name in lib.SHAPES),
            c.epsilon,
            c.score_multiplier,
            ctypes.cast(layers, ctypes.POINTER(lib.LayerStruct)),
            embedding.struct,
            head.struct,
            lib.pointer(model.output_norm),
            *(lib.pointer(getattr(model.tables, name)) for name in lib.TABLES),
        )

    def _layer_struct(self, layer: Layer) -> lib.LayerStruct:
        matrices = [self._matrix(getattr(layer, name)) for name in lib.MATRICES]
        self._kept += matrices
        return lib.LayerStruct(
            lib.pointer(layer.attention_norm),
            lib.pointer(layer.feed_forward_norm),
            *(matrix.struct for matrix in matrices),
            layer.query_fraction,
            layer.key_fraction,
            layer.value_fraction,
        )

    def _matrix(self, linear: Linear) -> lib.Matrix:
        return lib.Matrix(self._library, self.kernels.encode(), linear)
