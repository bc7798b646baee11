"""Requests up to the model's last position, and how their tokens shall be chosen."""

from __future__ import annotations

import pytest

from client.errors import BadRequest
from client.job_options import ChainLimits, JobOptions, Prompt, build_request, check_options
from client.model_files import Limits, ModelText
from market.hashing import ZERO32, keccak256
from market.models.text import Text
from market.models.tiny import RandomSource
from market.types import Mode, Request, Sampler

SOURCE = RandomSource()
MODEL = ModelText(Text(SOURCE.tokenizer, SOURCE.template), Limits(context=2048, vocabulary=288, stop_tokens=(2,)))
NONCE, DRAWN = keccak256(b"nonce"), keccak256(b"drawn")


def request_for(count: int, options: JobOptions) -> Request:
    return build_request(ZERO32, Prompt(ids=(5,) * count), MODEL, options, NONCE, DRAWN)[0]


@pytest.mark.parametrize("count", [1, 1000, 2047])
def test_request_fills_the_context_of_2048(count: int) -> None:
    asked = request_for(count, JobOptions(max_output_tokens=2048 - count))
    assert (asked.input_tokens, asked.max_output_tokens) == (count, 2048 - count)
    with pytest.raises(BadRequest, match="2048"):
        request_for(count, JobOptions(max_output_tokens=2049 - count))


def test_request_without_sampling_options_is_plain_greedy() -> None:
    assert request_for(1, JobOptions()).is_plain_greedy


def test_request_carries_the_sampling_options_and_the_drawn_seed() -> None:
    asked = request_for(1, JobOptions(temperature="0.7", top_k=40, top_p="0.9"))
    fields = (asked.sampler, asked.temperature_q16, asked.top_k, asked.top_p_q16, asked.seed)
    assert fields == (Sampler.SEEDED_BY_REQUEST, 45875, 40, 58982, DRAWN)
    assert request_for(1, JobOptions(seed=NONCE)).seed == NONCE


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (JobOptions(private=True, mode=Mode.OPTIMISTIC, replicas=1, quorum=1), "PrivateOptimistic"),
        (JobOptions(private=True, draw=True), "PrivateDraw"),
        (JobOptions(private=True), None),
        (JobOptions(mode=Mode.OPTIMISTIC, replicas=1, quorum=1), None),
    ],
)
def test_job_that_would_publish_its_prompt_is_refused_where_it_shall_be_private(
    options: JobOptions, code: str | None
) -> None:
    limits = ChainLimits(min_window=30, max_window=3_600, max_replicas=7)
    if code is None:
        check_options(options, limits)
        return
    with pytest.raises(BadRequest, match="no private form") as refused:
        check_options(options, limits)
    assert refused.value.code == code


def test_request_seeded_by_the_chain_carries_no_seed() -> None:
    asked = request_for(1, JobOptions(temperature="0.7", seed_by_chain=True))
    fields = (asked.sampler, asked.temperature_q16, asked.top_k, asked.top_p_q16, asked.seed)
    assert fields == (Sampler.SEEDED_BY_CHAIN, 45875, 0, 65536, ZERO32)
