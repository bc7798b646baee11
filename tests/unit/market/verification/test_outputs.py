"""The output predicate: another id beats the one that was returned, or none does."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from market.inference import reference, reference_sampling
from market.inference.sampling import Sampling
from market.verification.accusation import Accuser, accuse_output, accuse_token
from market.verification.descent import Descent
from market.verification.step import OpeningError
from market.verification.structs import Claim
from tests.unit.market.verification.setting import Setting

SAMPLERS = [(0, 0), (1, 0), (1, 1), (1, 65536), (1, 2**20), (1, 2**32 - 1), (2, 0), (2, 65536)]
SEED = b"\x05" * 32


def answered(tiny: Setting, sampler: int, temperature: int) -> Setting:
    """A receipt whose output is what its own trace gives."""
    sampling = Sampling(temperature, 0, 65536, SEED)

    def pick(logits: np.ndarray, position: int) -> int:
        if sampler == 0:
            return reference.argmax(logits)
        return reference_sampling.pick(logits, position, sampling, tiny.model.tables)

    prompt = tiny.input_ids[:20]
    return Setting(tiny.pack, prompt, tuple(reference.generate(tiny.model, prompt, 5, (), pick)))


def accuser_of(base: Setting) -> Accuser:
    return Accuser(Descent(base.honest, base.honest.root()), base.trees)


@pytest.mark.parametrize(("sampler", "temperature"), SAMPLERS)
def test_nobody_beats_what_the_sampler_picks(tiny: Setting, sampler: int, temperature: int) -> None:
    base = answered(tiny, sampler, temperature)
    claim, accuser, rng = base.claim(sampler, temperature, SEED), accuser_of(base), random.Random(temperature)
    assert accuse_output(accuser, claim) is None
    for position, output in enumerate(base.output_ids):
        for rival in {0, 287, *(rng.randrange(288) for _ in range(6))} - {output}:
            accusation = accuse_token(accuser, position, output, rival)
            assert not base.step.is_output_wrong(claim, base.honest.root(), accusation)


@pytest.mark.parametrize(("sampler", "temperature"), SAMPLERS)
def test_one_wrong_id_is_found_and_proved(tiny: Setting, sampler: int, temperature: int) -> None:
    """The trace follows the wrong id, so what comes after it may be right or wrong; the first wrong one is accused."""
    right = answered(tiny, sampler, temperature)
    wrong = list(right.output_ids)
    wrong[2] = (wrong[2] + 1) % 288
    base = Setting(tiny.pack, right.input_ids, tuple(wrong))
    claim = base.claim(sampler, temperature, SEED)
    accusation = accuse_output(accuser_of(base), claim)
    assert accusation is not None
    assert (accusation.position, accusation.output, accusation.rival) == (2, wrong[2], right.output_ids[2])
    assert base.step.is_output_wrong(claim, base.honest.root(), accusation)


def test_of_equal_logits_the_lower_id_wins(tiny: Setting) -> None:
    """Two ids with the same weights; an untied head, since equal embeddings would do as well but change the prompt."""
    model = tiny.model
    base = answered(tiny, 0, 0)
    best = base.output_ids[0]
    twin = 100 if best != 100 else 101
    weight, multiplier = model.embedding.weight.copy(), model.embedding.multiplier.copy()
    weight[twin], multiplier[twin] = weight[best], multiplier[best]
    twins = dataclasses.replace(model.embedding, weight=weight, multiplier=multiplier)
    pack = dataclasses.replace(tiny.pack, model=dataclasses.replace(model, embedding=twins, head=twins))
    low, high = sorted((best, twin))
    for output, wrong in ((low, False), (high, True)):
        both = Setting(pack, base.input_ids, (output,))
        logits = both.honest.logits()[0]
        assert logits[low] == logits[high] == logits.max()
        rival = high if output == low else low
        accusation = accuse_token(accuser_of(both), 0, output, rival)
        assert both.step.is_output_wrong(both.claim(), both.honest.root(), accusation) is wrong


@pytest.mark.parametrize(
    "change", [{"top_k": 287}, {"top_p_q16": 60000}, {"sampler": 3}], ids=["top-k", "top-p", "unknown"]
)
def test_samplers_without_a_step_are_refused(tiny: Setting, change: dict[str, int]) -> None:
    claim: Claim = dataclasses.replace(tiny.claim(1, 65536, SEED), **change)
    accuser = accuser_of(tiny)
    with pytest.raises(ValueError, match="no step"):
        accuse_output(accuser, claim)
    accusation = accuse_token(accuser, 0, tiny.output_ids[0], 5)
    with pytest.raises(ValueError, match="no step"):
        tiny.step.is_output_wrong(claim, tiny.honest.root(), accusation)


def test_an_id_does_not_beat_itself(tiny: Setting) -> None:
    accusation = accuse_token(accuser_of(tiny), 3, tiny.output_ids[3], tiny.output_ids[3])
    assert not tiny.step.is_output_wrong(tiny.claim(), tiny.honest.root(), accusation)


def test_a_top_k_of_everything_is_none(tiny: Setting) -> None:
    base = answered(tiny, 1, 65536)
    claim = dataclasses.replace(base.claim(1, 65536, SEED), top_k=288)
    assert accuse_output(accuser_of(base), claim) is None


def test_output_openings_that_do_not_hold(tiny: Setting) -> None:
    claim, root = tiny.claim(), tiny.honest.root()
    good = accuse_output(accuser_of(tiny), claim)
    assert good is not None
    for bad in (
        dataclasses.replace(good, position=good.position + 1),
        dataclasses.replace(good, position=12),
        dataclasses.replace(good, output=good.output + 1),
        dataclasses.replace(good, rival=288),
        dataclasses.replace(good, output_logits=good.ids),
        dataclasses.replace(good, ids=dataclasses.replace(good.ids, payload=bytes(32))),
        dataclasses.replace(good, rival_logits=dataclasses.replace(good.rival_logits, path=())),
    ):
        with pytest.raises(OpeningError):
            tiny.step.is_output_wrong(claim, root, bad)
