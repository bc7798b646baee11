"""The engine that serves on CPUs: docs/numerics.md in C, with the weights where the pack's files are mapped.

Bit-equal to ``market.inference.reference`` with every kernel, thread count, batch and cut of the prompt.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from market.inference.engine import Generation, check_request, continued
from market.inference.errors import BackendError, PromptError
from market.inference.model import Config, Int64Array, IntegerModel, Layer
from market.inference.native import library as lib
from market.inference.sampling import Picker

ROWS = 256  # most positions of one pass, over all sequences: bounds the engine's memory
Int16Array = npt.NDArray[np.int16]


class Cache:
    """Keys and values of one sequence, int16, in the blocks that the kernels read; untouched memory costs nothing.

    ``length`` positions are filled. Setting it to less forgets the later ones.
    """

    def __init__(self, config: Config, capacity: int) -> None:
        """Room for ``capacity`` positions, at most the context."""
        rounded = -(-capacity // lib.KEY_BLOCK) * lib.KEY_BLOCK
        shape = (config.layers, config.kv_heads, rounded, config.head_size)
        self.keys: Int16Array = np.zeros(shape, dtype=np.int16)
        self.values: Int16Array = np.zeros(shape, dtype=np.int16)
        self.capacity = capacity
        self.length = 0

    def copy_prefix(self, other: Cache, length: int) -> None:
        """Becomes the first ``length`` positions of ``other``, a cache of the same model."""
        if not 0 <= length <= min(other.length, self.capacity):
            raise ValueError(f"{length} positions are not there or do not fit")
        end = -(-length // lib.KEY_BLOCK) * lib.KEY_BLOCK
        self.keys[:, :, :end] = other.keys[:, :, :end]
        self.values[:, :, :end] = other.values[:, :, :end]
        self.length = length


class Work(NamedTuple):
    """New ids of one sequence."""

    cache: Cache
    ids: Sequence[int]


class NativeEngine:
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

    def new_cache(self, capacity: int) -> Cache:
        """An empty cache for one sequence of up to ``capacity`` positions."""
        return Cache(self.config, capacity)

    def generate(
        self,
        ids: Sequence[int],
        max_output_tokens: int,
        stop_tokens: Sequence[int],
        cancelled: Callable[[], bool] | None = None,
        on_token: Callable[[int], None] | None = None,
        sampling: Picker | None = None,
    ) -> Generation:
        """See ``Engine.generate``. Raises PromptError before anything is computed."""
        check_request(self.config, ids, max_output_tokens, stop_tokens)
        cache = self.new_cache(len(ids) + max_output_tokens)

        def advance(new: Sequence[int], made: int) -> int:
            if sampling is None or made < 0:
                return self.step([Work(cache, new)])[0]
            return sampling.pick(self.step_logits([Work(cache, new)])[0], made)

        return continued(self.config, ids, max_output_tokens, stop_tokens, advance, ROWS, cancelled, on_token)

    def step(self, batch: Sequence[Work]) -> list[int]:
        """Appends each entry's ids to its cache, all in as few passes as fit; returns the likeliest next id of each.

        An entry's result does not depend on the others. Raises PromptError, with nothing computed, for ids outside the
        vocabulary, an entry without ids, or one that its cache or the context has no room for.
        """
        return self._run(batch, logits=None)

    def step_logits(self, batch: Sequence[Work]) -> Int64Array:
        """``step``, but the logits [entries, V] in Q16 of the last position of each."""
        logits = np.empty((len(batch), self.config.vocabulary), dtype=np.int64)
        self._run(batch, logits)
        return logits

    def forward(self, ids: Sequence[int], cache: Cache | None = None) -> Int64Array:
        """Appends ids to the cache (a new one unless given); logits [len(ids), V] in Q16 of all of them."""
        logits = np.empty((len(ids), self.config.vocabulary), dtype=np.int64)
        self._run([Work(cache or self.new_cache(len(ids)), ids)], logits, every=True)
        return logits

    def residuals(self, ids: Sequence[int]) -> Int64Array:
        """The residual stream [layers + 1, len(ids), hidden] before each layer and at the end; up to ROWS ids."""
        if len(ids) > ROWS:
            raise ValueError(f"at most {ROWS} ids")
        trace = np.empty((self.config.layers + 1, len(ids), self.config.hidden), dtype=np.int64)
        self._run([Work(self.new_cache(len(ids)), ids)], logits=None, trace=trace)
        return trace

    @property
    def passes_alone(self) -> int:
        """Passes that left the other threads out, because waiting for them had cost more than they did."""
        return int(self._library.assay_engine_runs_alone(self._handle))

    def _run(
        self, batch: Sequence[Work], logits: Int64Array | None, every: bool = False, trace: Int64Array | None = None
    ) -> list[int]:
        """All passes of a batch. ``every``: results of every row, not of each entry's last."""
        with self._lock:
            self._check(batch)
            counts = [len(work.ids) for work in batch]
            ids = np.fromiter((token for work in batch for token in work.ids), dtype=np.int32, count=sum(counts))
            slot = np.repeat(np.arange(len(batch), dtype=np.int32), counts)
            start = np.repeat([work.cache.length for work in batch] - np.cumsum([0, *counts[:-1]]), counts)
            position = (start + np.arange(len(ids))).astype(np.int32)
            wanted = np.arange(len(ids)) if every else np.cumsum(counts) - 1
            likeliest = np.empty(len(wanted), dtype=np.int32)
            slots = (lib.SlotStruct * len(batch))(
                *(
                    lib.SlotStruct(work.cache.keys.ctypes.data, work.cache.values.ctypes.data, work.cache.keys.shape[2])
                    for work in batch
                )
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
            for work, count in zip(batch, counts, strict=True):
                work.cache.length += count
            return [int(token) for token in likeliest]

    def _check(self, batch: Sequence[Work]) -> None:
        if len({id(work.cache) for work in batch}) != len(batch):
            raise ValueError("a sequence stands twice in one batch")
        top = self.config.vocabulary - 1
        for work in batch:
            if not work.ids:
                raise PromptError("empty", 0, 1, "A sequence has no new tokens.")
            room, total = min(work.cache.capacity, self.config.context), work.cache.length + len(work.ids)
            if total > room:
                raise PromptError("context", total, room, f"{total} positions do not fit the {room} there are.")
            if min(work.ids) < 0 or max(work.ids) > top:
                worst = min(work.ids) if min(work.ids) < 0 else max(work.ids)
                raise PromptError("vocabulary", worst, top, f"Token id {worst} is outside 0..{top}.")

    def _model_struct(self, model: IntegerModel) -> lib.ModelStruct:
        c = model.config
        layers = (lib.LayerStruct * c.layers)(*(self._layer_struct(layer) for layer in model.layers))
        self._kept.append(layers)
        embedding = lib.Matrix(self._library, model.embedding)
        head = embedding if model.head is model.embedding else lib.Matrix(self._library, model.head)
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
        matrices = [lib.Matrix(self._library, getattr(layer, name)) for name in lib.MATRICES]
        self._kept += matrices
        return lib.LayerStruct(
            lib.pointer(layer.attention_norm),
            lib.pointer(layer.feed_forward_norm),
            *(matrix.struct for matrix in matrices),
            layer.query_fraction,
            layer.key_fraction,
            layer.value_fraction,
        )
