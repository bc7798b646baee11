"""The engine's peer: llama.cpp through its C API, in a process and a virtual environment of its own.

    .venv-bench/bin/python bench/llama_peer.py SOURCE.gguf Q8_0.gguf [plain] [bare]

``plain`` leaves out the layouts of weights for AMX, which some virtual machines announce and trap on. Requantises the
source to Q8_0 unless that is there, says that it is ready, with its version and layouts, then answers one JSON object
per line of input with one per line of output. It samples with llama.cpp's own greedy sampler and never passes through
the binding's Python classes. ``import llama_cpp`` loads them all the same, and numpy, jinja2 and diskcache with them:
that is in this process's start and in its memory. ``bare`` loads the binding's module of ctypes declarations alone,
past the package's ``__init__``.

    {"do": "prefill", "threads": 1, "ids": […]} → {"wall": s, "cpu": s}
    {"do": "decode", "threads": 1, "ids": […], "count": 48} → {"wall": s, "cpu": s, "ids": […]} of the decoding alone
    {"do": "batch", "threads": 2, "prompts": [[…], …], "count": 32} → the same for all sequences together
    {"do": "memory"} → {"bytes": peak resident}

``"context": 768`` beside prefill and decode: positions that the cache is made for, instead of CONTEXT.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

CONTEXT, MICRO_BATCH, SEQUENCES = 1024, 512, 8


class Failure(RuntimeError):
    """llama.cpp refused."""


def binding(*, bare: bool) -> Any:
    """The binding, or its declarations under a parent that is a name and a path and loads nothing."""
    if not bare:
        return import_module("llama_cpp")
    spec = find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise Failure("llama_cpp is not installed")
    parent = ModuleType("llama_cpp")
    parent.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = parent
    declarations = import_module("llama_cpp.llama_cpp")
    if "numpy" in sys.modules:
        raise Failure("the binding's declarations load numpy too: nothing is bare about them any more")
    return declarations


llama = binding(bare="bare" in sys.argv[3:])


def quantise(source: Path, target: Path) -> None:
    """Q8_0 of the same weights."""
    if target.exists():
        return
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = llama.LLAMA_FTYPE_MOSTLY_Q8_0
    parameters.allow_requantize = True
    parameters.nthread = 2
    unfinished = target.with_suffix(".unfinished")
    code = llama.llama_model_quantize(os.fsencode(source), os.fsencode(unfinished), ctypes.byref(parameters))
    if code != 0:
        raise Failure(f"llama_model_quantize: {code}")
    unfinished.rename(target)


class Peer:
    """A model, one context for one sequence and one for eight."""

    def __init__(self, path: Path, *, plain: bool) -> None:
        parameters = llama.llama_model_default_params()
        parameters.use_extra_bufts = not plain
        self.model = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.model:
            raise Failure(f"cannot load {path}")
        self.sampler = llama.llama_sampler_init_greedy()
        self._contexts: dict[tuple[int, int], Any] = {}

    def context(self, sequences: int, threads: int, positions: int = CONTEXT) -> Any:
        """Empty, with its threads."""
        key = sequences, positions
        if key not in self._contexts:
            parameters = llama.llama_context_default_params()
            parameters.n_ctx = positions * (1 if sequences == 1 else 2)
            parameters.n_batch = parameters.n_ubatch = min(MICRO_BATCH, parameters.n_ctx)
            parameters.n_seq_max = sequences
            made = llama.llama_init_from_model(self.model, parameters)
            if positions != CONTEXT and llama.llama_n_ctx(made) != positions:
                raise Failure(f"a cache of {positions} positions has {llama.llama_n_ctx(made)}")
            self._contexts[key] = made
        context = self._contexts[key]
        llama.llama_set_n_threads(context, threads, threads)
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        return context

    def prefill(self, context: Any, ids: Sequence[int]) -> None:
        """Also computes the logits of the last id."""
        array = (llama.llama_token * len(ids))(*ids)
        if llama.llama_decode(context, llama.llama_batch_get_one(array, len(ids))) != 0:
            raise Failure("llama_decode")

    def pick(self, context: Any, row: int = -1) -> int:
        return int(llama.llama_sampler_sample(self.sampler, context, row))

    def decode(self, context: Any, token: int, count: int) -> list[int]:
        output = [token]
        for _ in range(count):
            self.prefill(context, output[-1:])
            output.append(self.pick(context))
        return output


def answer(peer: Peer, asked: dict[str, Any]) -> dict[str, Any]:
    took: dict[str, Any] = {}
    if asked["do"] == "memory":
        return {"bytes": peak_memory()}
    positions = asked.get("context", CONTEXT)
    if asked["do"] == "prefill":
        context = peer.context(1, asked["threads"], positions)
        with timed(took):
            peer.prefill(context, asked["ids"])
            peer.pick(context)
    elif asked["do"] == "decode":
        context = peer.context(1, asked["threads"], positions)
        peer.prefill(context, asked["ids"])
        token = peer.pick(context)
        with timed(took):
            took["ids"] = peer.decode(context, token, asked["count"])
    elif asked["do"] == "batch":
        _batch(peer, asked, took)
    return took


def _batch(peer: Peer, asked: dict[str, Any], took: dict[str, Any]) -> None:
    prompts = asked["prompts"]
    context = peer.context(SEQUENCES, asked["threads"])
    batch = llama.llama_batch_init(MICRO_BATCH, 0, 1)
    tokens, positions = [], [len(prompt) for prompt in prompts]
    for sequence, prompt in enumerate(prompts):
        fill(batch, [(token, at, sequence, at == len(prompt) - 1) for at, token in enumerate(prompt)])
        if llama.llama_decode(context, batch) != 0:
            raise Failure("llama_decode")
        tokens.append(peer.pick(context))
    with timed(took):
        for _ in range(asked["count"]):
            fill(batch, [(token, positions[s], s, True) for s, token in enumerate(tokens)])
            if llama.llama_decode(context, batch) != 0:
                raise Failure("llama_decode")
            tokens = [peer.pick(context, s) for s in range(len(tokens))]
            positions = [position + 1 for position in positions]
    llama.llama_batch_free(batch)


def fill(batch: Any, rows: Sequence[tuple[int, int, int, bool]]) -> None:
    """(token, position, sequence, whether its logits are wanted)"""
    batch.n_tokens = len(rows)
    for row, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, wanted
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence


@contextmanager
def timed(took: dict[str, Any]) -> Iterator[None]:
    """Wall and processor seconds of the block."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    took["wall"], took["cpu"] = time.perf_counter() - wall, time.process_time() - cpu


def peak_memory() -> int:
    """Bytes: the most that this process had resident."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def version() -> str:
    """Of the binding, and the commit of llama.cpp that it was built from."""
    commit = sys.modules["llama_cpp.llama_cpp"]._lib.ggml_commit  # the binding does not wrap it
    commit.restype = ctypes.c_char_p
    number = getattr(llama, "__version__", "without its classes")
    return f"llama-cpp-python {number}, commit {commit().decode()}"


def main(source: str, target: str, *how: str) -> None:
    callback = llama.llama_log_callback(lambda *_: None)  # kept: C holds it
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    llama.llama_backend_init()
    quantise(Path(source), Path(target))
    peer = Peer(Path(target), plain="plain" in how)
    layouts = f"use_extra_bufts = {str('plain' not in how).lower()}"
    print(json.dumps({"ready": True, "version": version(), "layouts": layouts}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(peer, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
