"""Change any number: a whole trace in which one element differs, from the way down to the verdict of the EVM.

Of every operation, continued consistently or not; and what else a provider may have computed instead of the model.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from market.hashing import keccak256
from market.inference.engine import load_engine
from market.inference.model import Int64Array, IntegerModel
from market.inference.sampling import Sampling
from market.models.pack import Pack, load_pack
from market.types import Sampler
from market.verification.accusation import accuse_output, accuse_token
from market.verification.geometry import Operation, Place
from market.verification.model_trees import ModelTrees
from market.verification.products import Products
from market.verification.trace import Trace
from tests.liar import coarser, skipped_layers, stale_key, stale_value, swapped_rows, wrong_positions
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.claims import deploy_judge
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.trials import Trial, answered, small
from tests.unit.market.verification.setting import Setting, ids

Op = Operation
Judged = Callable[[str, int], None]
FEW, MANY = 3, 100  # lies about each of the twenty operations of the tiny model
OF_REAL = 2
ALL = 65_536
ARGMAX = Sampling(0, 0, ALL, bytes(32))
DRAWN = Sampling(ALL, 0, ALL, keccak256(b"drawn"))
LENGTHS = ((1, 1), (30, 35), (60, 6), (190, 70))
"""One position, a block's last and the next one's first, many blocks."""


@pytest.fixture(scope="module")
def judge(judge_chain: RevmChain) -> Contract:
    return deploy_judge(judge_chain)


@pytest.fixture(scope="module")
def tiny(tiny_pack: Path, judge: Contract) -> Trial:
    return Trial.of(judge, answered(load_pack(tiny_pack)))


@pytest.fixture(scope="module")
def real(real_pack: Path, judge: Contract) -> Trial:
    """A 64-token answer to a 128-token prompt, as the engine that serves gives it."""
    base = served(load_pack(real_pack))
    return Trial.of(judge, base, Products.proved(base.model))


@pytest.fixture(scope="module")
def real_drawn(real: Trial) -> Trial:
    """The same prompt, answered with a seed."""
    return Trial(real.judge, served(real.base.pack, DRAWN), real.products)


def served(pack: Pack, sampling: Sampling = ARGMAX) -> Setting:
    prompt = ids("prompt", 128, pack.model.config.vocabulary)
    return Setting(pack, prompt, load_engine(pack, threads=1).generate(prompt, 64, (), sampling=sampling).ids)


def sweep(trial: Trial, operation: Operation, seed: str, count: int) -> int:
    """So many lies, every other one continued. Returns how many."""
    rng = random.Random(f"{seed} {operation.name}")
    for number in range(count):
        place, element = trial.element(rng, operation)
        trial.convict_of_one(place, element, small(rng), continued=number % 2 == 0)
    return count


every_operation = pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)


@every_operation
def test_lie_is_proved_at_its_element(tiny: Trial, operation: Operation) -> None:
    sweep(tiny, operation, "few", FEW)


@pytest.mark.slow
@every_operation
def test_lie_is_proved_at_its_element_a_hundred_times(tiny: Trial, operation: Operation, judged: Judged) -> None:
    """2,000 lies in all."""
    judged("lies, tiny model", sweep(tiny, operation, "many", MANY))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_lie_in_a_text_of_another_length_is_proved_at_its_element(
    tiny: Trial, lengths: tuple[int, int], judged: Judged
) -> None:
    trial = Trial(tiny.judge, answered(tiny.base.pack, *lengths), tiny.products)
    for operation in Operation:
        judged("lies, tiny model, other lengths", sweep(trial, operation, str(lengths), FEW))


@pytest.mark.slow
@every_operation
def test_lie_about_the_real_model_is_proved_at_its_element(real: Trial, operation: Operation, judged: Judged) -> None:
    judged("lies, real model", sweep(real, operation, "real", OF_REAL))


# ---- another computation than the model's

Fraud = Callable[[Trial], tuple[Trace, int, Operation]]
"""A trace, and the group and operation in which it is first wrong."""


def middle(trial: Trial) -> int:
    """A layer that is neither the first nor, where there are more than two, the last."""
    return trial.base.shape.layers // 2


def swapped_weight_row(trial: Trial) -> tuple[Trace, int, Operation]:
    layer = middle(trial)
    return trial.trace(model=swapped_rows(trial.base.model, layer, "gate", (3, 90))), layer + 1, Op.GATE


def other_quantisation(trial: Trial) -> tuple[Trace, int, Operation]:
    return trial.trace(model=coarser(trial.base.model)), 1, Op.QUERY


def truncated_layers(trial: Trial) -> tuple[Trace, int, Operation]:
    layer, layers = middle(trial), trial.base.shape.layers
    return trial.trace(hook=skipped_layers(range(layer, layers))), layer + 1, Op.DOWN


def first_layer_left_out(trial: Trial) -> tuple[Trace, int, Operation]:
    return trial.trace(hook=skipped_layers((0,))), 1, Op.DOWN


def wrong_rotary_position(trial: Trial) -> tuple[Trace, int, Operation]:
    return trial.trace(model=wrong_positions(trial.base.model)), 1, Op.ROTATE_QUERY


def stale_key_in_the_cache(trial: Trial) -> tuple[Trace, int, Operation]:
    layer = middle(trial)
    return trial.trace(hook=stale_key(layer, 40)), layer + 1, Op.ROTATE_KEY


def stale_value_in_the_cache(trial: Trial) -> tuple[Trace, int, Operation]:
    layer = middle(trial)
    return trial.trace(hook=stale_value(layer, 40)), layer + 1, Op.VALUE


def edited_prompt(trial: Trial) -> tuple[Trace, int, Operation]:
    prompt = trial.base.input_ids
    return trial.trace(input_ids=(*prompt[:9], prompt[9] ^ 1, *prompt[10:])), 0, Op.EMBEDDING


FRAUDS: tuple[Fraud, ...] = (
    swapped_weight_row,
    other_quantisation,
    truncated_layers,
    first_layer_left_out,
    wrong_rotary_position,
    stale_key_in_the_cache,
    stale_value_in_the_cache,
    edited_prompt,
)
every_fraud = pytest.mark.parametrize("fraud", FRAUDS, ids=lambda fraud: fraud.__name__)


def try_fraud(trial: Trial, fraud: Fraud) -> None:
    liar, group, operation = fraud(trial)
    place, _ = trial.convict(liar)
    assert (place.group, place.operation) == (group, operation)


@every_fraud
def test_other_computation_is_proved_where_it_departs(tiny: Trial, fraud: Fraud) -> None:
    try_fraud(tiny, fraud)


@pytest.mark.slow
@every_fraud
def test_other_computation_of_the_real_model_is_proved_where_it_departs(real: Trial, fraud: Fraud) -> None:
    try_fraud(real, fraud)


# ---- ties, and answers that are not what the logits give


def remade(trial: Trial, model: IntegerModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Trial:
    """Of another model of the same program."""
    pack = trial.base.pack
    trees = ModelTrees(model, trial.base.shape)
    roots = dataclasses.replace(pack.roots, weights_root=trees.weights_root, tables_root=trees.tables_root)
    return Trial(trial.judge, Setting(dataclasses.replace(pack, model=model, roots=roots), prompt, answer))


def test_later_index_of_equal_scores_is_proved_wrong(tiny: Trial) -> None:
    """Equal ids under equal rotations are equal keys: where cos and sin do not turn, a prompt of one id ties all."""
    tables = tiny.base.model.tables
    still = {
        name: np.broadcast_to(getattr(tables, name)[:1], getattr(tables, name).shape).copy()
        for name in ("rope_cos", "rope_sin")
    }
    model = dataclasses.replace(tiny.base.model, tables=dataclasses.replace(tables, **still))
    trial = remade(tiny, model, (7,) * 70, (7,))
    for index in (1, 64):
        place = Place(1, Op.SOFTMAX, 69, 2)
        for continued in (True, False):
            trial.convict_of_one(place, 1, index, continued)


def test_later_id_of_equal_logits_is_proved_wrong(tiny: Trial) -> None:
    """The answer's id and a later one share their row of the embedding, which is the head."""
    base = tiny.base
    for position in (0, len(base.output_ids) - 1):
        first = base.output_ids[position]
        later = next(i for i in range(first + 1, base.shape.vocabulary) if i not in (*base.input_ids, *base.output_ids))
        table = base.model.embedding
        weight, multiplier = table.weight.copy(), table.multiplier.copy()
        weight[later], multiplier[later] = weight[first], multiplier[first]
        embedding = dataclasses.replace(table, weight=weight, multiplier=multiplier)
        model = dataclasses.replace(base.model, embedding=embedding, head=embedding)
        answer = base.output_ids
        right = remade(tiny, model, base.input_ids, answer)
        wrong = remade(tiny, model, base.input_ids, (*answer[:position], later, *answer[position + 1 :]))
        assert right.base.honest.logits()[position, later] == right.base.honest.logits()[position, first]
        accusation = accuse_output(wrong.accuser(), wrong.base.claim())
        assert accusation is not None
        assert (accusation.position, accusation.output, accusation.rival) == (position, later, first)
        assert wrong.finds_output_wrong(wrong.base.honest.root(), accusation)
        assert accuse_output(right.accuser(), right.base.claim()) is None
        innocent = accuse_token(right.accuser(), position, first, later)
        assert not right.finds_output_wrong(right.base.honest.root(), innocent)


def early_stop(answer: tuple[int, ...], stop: int) -> tuple[tuple[int, ...], int]:
    """A stop token that the model did not give, and the position where it stands."""
    return (*answer[:3], stop), 3


def extra_token(answer: tuple[int, ...], stop: int) -> tuple[tuple[int, ...], int]:
    """Something else in the place of what ends the answer, and one more token."""
    return (*answer[:-1], stop, answer[-1]), len(answer) - 1


every_length = pytest.mark.parametrize("fraud", [early_stop, extra_token], ids=lambda fraud: fraud.__name__)
OtherLength = Callable[[tuple[int, ...], int], tuple[tuple[int, ...], int]]


def try_length(trial: Trial, fraud: OtherLength) -> None:
    """Where the ids alone tell (docs/disputes.md, section 1) the game itself judges: test_disputes_open."""
    base = trial.base
    stop = next(i for i in range(base.shape.vocabulary) if i not in base.output_ids)
    trial.convict_of_output(*fraud(base.output_ids, stop))


@every_length
def test_answer_of_another_length_is_proved_by_the_logits(tiny: Trial, fraud: OtherLength) -> None:
    try_length(tiny, fraud)


@pytest.mark.slow
@every_length
def test_answer_of_another_length_is_proved_by_the_logits_of_the_real_model(
    real: Trial, fraud: OtherLength, judged: Judged
) -> None:
    try_length(real, fraud)
    judged("wrong ids, real model", 1)


# ---- one id of the real model's answer


@dataclass(frozen=True)
class From:
    """The draws of an answer from a position on: what continues consistently after another id."""

    sampling: Sampling
    position: int

    def pick(self, logits: Int64Array, position: int) -> int:
        return self.sampling.pick(logits, self.position + position)


def likeliest_other(trial: Trial, position: int) -> int:
    """The id with the largest logit but the one that was answered."""
    logits = trial.base.honest.logits()[position].copy()
    logits[trial.base.output_ids[position]] = np.iinfo(np.int64).min
    return int(np.argmax(logits))


def with_another_id(trial: Trial, sampling: Sampling, position: int, continued: bool) -> tuple[int, ...]:
    """The answer with one likely but wrong id; what follows is what the model gives after it, or is left as it was."""
    answer = trial.base.output_ids
    start, rest = (*answer[:position], likeliest_other(trial, position)), answer[position + 1 :]
    if continued:
        engine, text = load_engine(trial.base.pack, threads=1), (*trial.base.input_ids, *start)
        rest = engine.generate(text, len(rest), (), sampling=From(sampling, position + 1)).ids
    return (*start, *rest)


ONE_ID = pytest.mark.parametrize(("position", "continued"), [(0, False), (9, True), (40, False), (61, True)])


@pytest.mark.slow
@ONE_ID
def test_wrong_greedy_id_of_the_real_model_is_proved_at_its_position(
    real: Trial, position: int, continued: bool, judged: Judged
) -> None:
    real.convict_of_output(with_another_id(real, ARGMAX, position, continued), position)
    judged("wrong ids, real model", 1)


@pytest.mark.slow
@ONE_ID
def test_wrong_seeded_id_of_the_real_model_is_proved_at_its_position(
    real_drawn: Trial, position: int, continued: bool, judged: Judged
) -> None:
    answer = with_another_id(real_drawn, DRAWN, position, continued)
    sampling = {"sampler": Sampler.SEEDED_BY_REQUEST, "temperature_q16": DRAWN.temperature_q16, "seed": DRAWN.seed}
    real_drawn.convict_of_output(answer, position, **sampling)
    judged("wrong ids, real model", 1)
