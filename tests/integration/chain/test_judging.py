"""A model becomes one that can be judged: its program and tables are shown to the deployed judge, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.contracts import Contract
from market.dispute_contracts import Judge
from market.errors import ContractError
from market.judging import acceptances
from market.models.pack import load_pack
from market.types import Request
from market.verification.model_trees import ModelTrees
from market.verification.structs import Shape
from tests.integration.chain.world import CLIENT, World


class Arbiter(Contract):
    """What a client asks before it buys OPTIMISTIC."""

    artefact_name = "Disputes"


def test_model_is_shown_to_the_judge_once_by_anybody(world: World, tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    judge, arbiter = world.deployment.judge, Arbiter(world.chain, world.deployment.disputes)
    asked = Request(
        model_id=pack.model_id,
        input_root=bytes(32),
        input_tokens=3,
        max_output_tokens=4,
        stop_tokens=b"\xff" * 32,
        sampler=0,
        temperature_q16=0,
        top_k=0,
        top_p_q16=0,
        seed=bytes(32),
        nonce=bytes(32),
    )
    calls = acceptances(world.chain, judge, pack)
    assert [call.label for call in calls] == ["Judge.acceptProgram", "Judge.acceptTables"]
    for call in calls:
        assert not arbiter.view("canJudge", pack.roots.values(), asked.values())
        world.send(CLIENT, call)
    assert arbiter.view("canJudge", pack.roots.values(), asked.values())
    assert acceptances(world.chain, judge, pack) == []


def test_tables_of_another_root_are_refused(world: World, tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    path = ModelTrees(pack.model, Shape.of(pack.program)).tables_path()
    other = Judge(world.chain, world.deployment.judge).accept_tables(bytes(32), path)
    with pytest.raises(ContractError) as refused:
        world.send(CLIENT, other)
    assert refused.value.code == "TablesMismatch"
