"""A whole trace of the tiny model: the judge finds nothing wrong in it, whatever is accused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from market.models.pack import load_pack
from market.verification.accusation import accuse_token
from market.verification.geometry import Operation, Place
from market.verification.inputs import is_maximum, maximum_count
from tests.unit.contracts.claims import deploy_judge
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.trials import Trial, answered

FEW, MANY = 6, 60


@pytest.fixture(scope="module")
def trial(tiny_pack: Path, judge_chain: RevmChain) -> Trial:
    return Trial.of(deploy_judge(judge_chain), answered(load_pack(tiny_pack)))


def accuse(trial: Trial, operation: Operation, seed: str, count: int) -> None:
    """Elements with any witness, and the paddings behind them."""
    rng, root = random.Random(f"{seed} {operation.name}"), trial.base.honest.root()
    for _ in range(count):
        place, element = trial.element(rng, operation)
        witness = 0
        if is_maximum(operation, place.slot, element):
            witness = rng.randrange(maximum_count(trial.base.geometry, place))
        assert not trial.finds_wrong(root, trial.base.accuse_anyway(place, element, witness)), (place, element)
        padding = trial.base.geometry.section(place.group, operation).elements(place.row, place.slot)
        assert not trial.finds_wrong(root, trial.base.accuse_anyway(place, padding)), place


every_operation = pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)


@every_operation
def test_honest_element_is_never_wrong(trial: Trial, operation: Operation) -> None:
    accuse(trial, operation, "few", FEW)


@pytest.mark.slow
@every_operation
def test_honest_element_is_never_wrong_many_times(trial: Trial, operation: Operation) -> None:
    accuse(trial, operation, "many", MANY)


def test_wrong_padding_is_found(trial: Trial) -> None:
    """The last chunk of a row of 72 has padding."""
    trial.convict_of_one(Place(1, Operation.DOWN, 3, 1), 8, 1, continued=False)


def test_nobody_beats_a_greedy_answer(trial: Trial) -> None:
    root = trial.base.honest.root()
    for position, output in enumerate(trial.base.output_ids):
        for rival in range(0, 288, 17):
            accusation = accuse_token(trial.accuser(), position, output, rival)
            assert not trial.finds_output_wrong(root, accusation)
