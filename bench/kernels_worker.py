"""One engine in a process of its own, measured on request (bench.kernels): reads names of figures, writes JSON lines.

Runs under the interpreter it is given: for llama.cpp that one has llama-cpp-python and nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
PROMPT = [(i * 7919 + 13) % 49152 for i in range(512)]
DECODED, STREAMS, BATCH_STEPS = 48, 8, 16


class Native:
    """Ours."""

    def __init__(self, path: str, threads: int) -> None:
        from market.inference.engine import load_engine
        from market.inference.native_engine import NativeEngine, Work
        from market.models.pack import load_pack

        engine = load_engine(load_pack(path), threads=threads)
        if not isinstance(engine, NativeEngine):
            raise TypeError("the native engine is not here")
        self._engine, self._work = engine, Work

    def sequence(self, count: int) -> list[Any]:
        return [self._engine.new_cache(len(PROMPT) + DECODED) for _ in range(count)]

    def step(self, sequences: list[Any], ids: list[list[int]]) -> list[int]:
        return self._engine.step([self._work(cache, new) for cache, new in zip(sequences, ids, strict=True)])


class Torch:
    """The published floats in torch float32; one cache holds all sequences of a batch."""

    def __init__(self, path: str, threads: int) -> None:
        import torch

        from bench.float_llama import FloatLlama
        from market.models import recipe
        from market.models.fetch import fetch_source
        from market.models.packer import open_source

        del path
        torch.set_num_threads(threads)
        root = Path(__file__).parent.parent
        source = fetch_source(recipe.read(root / "recipes/smollm2-135m-instruct.toml"), root / "build/downloads")
        self._torch, self._model = torch, FloatLlama(open_source(source), 2048)

    def sequence(self, count: int) -> list[Any]:
        return [self._model.new_cache(count, len(PROMPT) + DECODED)] * count

    def step(self, sequences: list[Any], ids: list[list[int]]) -> list[int]:
        logits = self._model.forward(self._torch.tensor(ids), sequences[0], last_only=True)
        return [int(token) for token in logits[:, -1].argmax(-1)]


class Llama:
    """llama.cpp by its C interface, with its own greedy sampler."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._api = api = llama_cpp
        api.llama_backend_init()
        loading = api.llama_model_default_params()
        loading.use_extra_bufts = False  # its AMX tiles: some virtual machines announce them and trap on their use
        model = api.llama_model_load_from_file(path.encode(), loading)
        parameters = api.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_seq_max = 2048 + 4096, 512, STREAMS
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = api.llama_init_from_model(model, parameters)
        self._sampler = api.llama_sampler_init_greedy()
        self._batch = api.llama_batch_init(512, 0, 1)

    def sequence(self, count: int) -> list[Any]:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        return [[index, 0] for index in range(count)]

    def step(self, sequences: list[Any], ids: list[list[int]]) -> list[int]:
        batch, row, last = self._batch, 0, []
        for sequence, new in zip(sequences, ids, strict=True):
            for token in new:
                batch.token[row], batch.pos[row], batch.n_seq_id[row] = token, sequence[1], 1
                batch.seq_id[row][0], batch.logits[row] = sequence[0], False
                sequence[1] += 1
                row += 1
            batch.logits[row - 1] = True
            last.append(row - 1)
        batch.n_tokens = row
        if self._api.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        return [self._api.llama_sampler_sample(self._sampler, self._context, index) for index in last]


def timed(work: Callable[[], int]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    return {"tokens": tokens, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def figure(engine: Any, name: str) -> dict[str, float]:
    if name == "memory":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return {"mib": int(status.split("VmHWM:")[1].split()[0]) / 1024}
    if name == "first":
        engine.step(engine.sequence(1), [PROMPT[:16]])
        started = int(Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19])
        return {"seconds": time.clock_gettime(time.CLOCK_BOOTTIME) - started / 100}
    if name == "prefill":
        sequence = engine.sequence(1)
        return timed(lambda: len(PROMPT) + 0 * engine.step(sequence, [PROMPT])[0])
    count, steps = (1, DECODED) if name == "decode" else (STREAMS, BATCH_STEPS)
    sequences = engine.sequence(count)
    tokens = engine.step(sequences, [PROMPT[:16]] * count)

    def decode() -> int:
        nonlocal tokens
        for _ in range(steps):
            tokens = engine.step(sequences, [[token] for token in tokens])
        return steps * count

    return timed(decode)


if __name__ == "__main__":
    engine = {"native": Native, "torch": Torch, "llama": Llama}[sys.argv[1]](sys.argv[3], int(sys.argv[2]))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(figure(engine, line.strip())) + "\n")
        sys.stdout.flush()
