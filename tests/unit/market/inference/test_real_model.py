"""SmolLM2-135M-Instruct: 3 prompts × 32 tokens, every logit equal between the engines and between ways to run them.

The reference has no cache: it runs prompt and answer once, teacher-forced, which gives the logits of all answer
positions.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from market.inference import reference
from market.inference.batch import Part, Want
from market.inference.model import Int64Array
from market.inference.native import library, selftest
from market.inference.torch_engine import TorchEngine
from market.models.pack import Pack
from market.models.text import load_text

OUTPUT_TOKENS = 32
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def engine(real_pack: Pack) -> TorchEngine:
    return TorchEngine(real_pack.model, threads=1)


@pytest.fixture(scope="module")
def sequences(real_pack: Pack, engine: TorchEngine) -> list[tuple[list[int], list[int]]]:
    """Prompt and its 32 greedy output ids (no stop token, so that each prompt gives 32)."""
    text = load_text(real_pack)
    prompts = [text.encode(prompt) for prompt in PROMPTS]
    return [(prompt, list(engine.generate(prompt, OUTPUT_TOKENS, []).ids)) for prompt in prompts]


def logits(engine: TorchEngine, ids: list[list[int]], chunks: list[int], first: int) -> Int64Array:
    """Logits of the positions from ``first`` on of the first row of a batch run in chunks."""
    rows, start, parts = torch.tensor(ids), 0, []
    cache = engine.new_cache(len(ids), len(ids[0]))
    for count in chunks:
        parts.append(engine.forward(rows[:, start : start + count], cache)[0])
        start += count
    assert start == len(ids[0])
    return torch.cat(parts)[first:].numpy()


def digest(values: Int64Array) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_logits_of_a_prompt_and_32_tokens_equal_the_reference(
    index: int, real_pack: Pack, engine: TorchEngine, sequences: list[tuple[list[int], list[int]]]
) -> None:
    prompt, output = sequences[index]
    ids = prompt + output[:-1]
    expected = reference.forward(real_pack.model, ids, first=len(prompt) - 1)  # [32, V]
    assert expected.shape == (OUTPUT_TOKENS, real_pack.limits.vocabulary)
    assert np.array_equal(logits(engine, [ids], [len(ids)], len(prompt) - 1), expected)
    assert [reference.argmax(row) for row in expected] == output


@pytest.mark.parametrize("outputs", [12, pytest.param(OUTPUT_TOKENS, marks=pytest.mark.slow)])
def test_logits_however_the_work_is_cut_have_one_hash(
    engine: TorchEngine, sequences: list[tuple[list[int], list[int]]], outputs: int
) -> None:
    prompt, output = sequences[0]
    ids = prompt + output[: outputs - 1]
    count = len(ids)
    others = [[(token + shift) % 49152 for token in ids] for shift in (1, 2, 3)]
    digests = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for batch in ([ids], [ids, *others]):
                for name, chunks in (("at once", [count]), ("mixed", [3, 1, 1, count - 9, 4])):
                    digests[threads, len(batch), name] = digest(logits(engine, batch, chunks, len(prompt) - 1))
            digests[threads, 1, "by token"] = digest(logits(engine, [ids], [1] * count, len(prompt) - 1))
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 10
    assert len(set(digests.values())) == 1, digests


def test_logits_of_the_float32_product_equal_those_of_int8(
    real_pack: Pack, engine: TorchEngine, sequences: list[tuple[list[int], list[int]]]
) -> None:
    other = TorchEngine(real_pack.model, product="float32")
    assert other.product.name == "float32"
    prompt, output = sequences[1]
    ids = prompt + output[:7]
    assert np.array_equal(logits(other, [ids], [len(ids)], 0), logits(engine, [ids], [len(ids)], 0))


def test_answer_to_a_chat_prompt_is_text_that_stops(real_pack: Pack, engine: TorchEngine) -> None:
    text = load_text(real_pack)
    ids = text.encode_chat([{"role": "user", "content": "What is the capital of France?"}])
    generation = engine.generate(ids, 40, real_pack.limits.stop_tokens)
    assert text.decode(generation.ids) == "The capital of France is Paris."
    assert generation.ids[-1] in real_pack.limits.stop_tokens


@pytest.mark.parametrize("kernel", library.KERNELS)
def test_native_kernels_give_the_same_logits_and_answers(
    kernel: str, real_pack: Pack, engine: TorchEngine, sequences: list[tuple[list[int], list[int]]]
) -> None:
    """The same as what the reference was compared with above: logits, then answers, one by one and together."""
    if kernel not in library.supported():
        pytest.skip(f"the package was installed without {kernel}, or this processor cannot run it")
    native = selftest.proved(library.Kernel(library.library(), kernel), real_pack.model, threads=2)
    prompt, output = sequences[0]
    ids = [*prompt, *output[:-1]]
    assert digest(native.forward(ids)) == digest(logits(engine, [ids], [len(ids)], 0))
    for prompt, output in sequences:
        assert list(native.generate(prompt, OUTPUT_TOKENS, []).ids) == output
    parts = [Part(native.new_slot(len(prompt) + OUTPUT_TOKENS), prompt, Want.TOKEN) for prompt, _ in sequences]
    for step in range(OUTPUT_TOKENS):
        tokens = native.step(parts)
        assert tokens == [output[step] for _, output in sequences]
        parts = [
            Part(part.slot, [output[step]], Want.TOKEN) for part, (_, output) in zip(parts, sequences, strict=True)
        ]
