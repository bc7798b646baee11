"""What an answer's ids alone show."""

from __future__ import annotations

import dataclasses

import pytest

from market.dispute_evidence import Evidence
from market.errors import HashMismatch
from market.hashing import pack_stop_tokens, tokens_root
from market.types import Finish, Model, Output, Request

MODEL = Model(b"\1" * 32, b"\2" * 32, b"\3" * 32, b"\4" * 32, b"\5" * 32)
INPUT = (10, 11)
VOCABULARY, MOST, STOP = 100, 4, 2


def evidence(ids: tuple[int, ...], finish: int) -> Evidence:
    stops = pack_stop_tokens([STOP])
    request = Request(MODEL.model_id, tokens_root(INPUT), 2, MOST, stops, 0, 0, 0, 0, bytes(32), bytes(32))
    output = Output(tokens_root(ids), len(ids), finish)
    return Evidence("0x" + "11" * 20, bytes(32), "0x" + "22" * 20, request, MODEL, output, INPUT, ids)


@pytest.mark.parametrize(
    ("ids", "finish", "word"),
    [
        ((5, 6, 7, 8), Finish.LENGTH, None),
        ((5, STOP), Finish.STOP, None),
        ((5, 6, 7, STOP), Finish.STOP, None),
        ((5, 6), Finish.ERROR, None),  # came to no end: it is not judged
        ((5, 6), Finish.LENGTH, "without a stop token"),
        ((5, 6, 7, 8, 9), Finish.LENGTH, "5 tokens"),
        ((5, STOP, 7, 8), Finish.LENGTH, "goes on behind stop token 2"),
        ((5, 6, 7, 8), Finish.STOP, "ended by stop"),
        ((5, 6, 7, STOP), Finish.LENGTH, "ended by length"),
        ((5, 6, VOCABULARY, 8), Finish.LENGTH, "outside the vocabulary"),
    ],
)
def test_lengths_stop_tokens_and_vocabulary_are_judged_from_the_ids(
    ids: tuple[int, ...], finish: int, word: str | None
) -> None:
    found = evidence(ids, finish).forbidden(VOCABULARY)
    if word is None:
        assert found is None
    else:
        assert found is not None
        assert word in found


def test_evidence_that_does_not_belong_together_is_refused() -> None:
    whole = evidence((5, 6, 7, 8), Finish.LENGTH)
    whole.check()
    for changed in (
        dataclasses.replace(whole, output_ids=(5, 6, 7, 9)),
        dataclasses.replace(whole, input_ids=(10,)),
        dataclasses.replace(whole, model=dataclasses.replace(MODEL, weights_root=b"\6" * 32)),
    ):
        with pytest.raises(HashMismatch):
            changed.check()
