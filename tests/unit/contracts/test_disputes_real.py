"""Whole games about the real model: a 64-token answer to a 128-token prompt, one wrong number or one wrong id, from the
receipt to the slash. The challenger knows of the provider's trace what the replies said, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from market.inference.engine import load_engine
from market.models.pack import load_pack
from market.settlement import slash
from market.types import Model
from market.verification.accusation import Accuser, accuse_token
from market.verification.challenger import Challenger
from market.verification.descent import Agrees, Ask, Descent, Leaf, Move
from market.verification.geometry import ROOT, Operation, Place
from market.verification.products import Products
from market.verification.trace import Trace
from tests.gas.disputes import JudgedWorld
from tests.liar import lie
from tests.stateful.dispute_stage import JudgedGame, Shown, asked_of, introduce
from tests.unit.contracts.disputes import BOND, CHARGED, OPENER, PROVIDER, REQUEST_FEE, ROOT_FEE, SHARE_BPS
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, REPLICAS
from tests.unit.market.verification.setting import Setting, ids

PROMPT, ANSWER = 128, 64
PROVER = REPLICAS[4]
GUILTY = 2


@dataclass(frozen=True)
class Stage:
    """A market whose judge knows the real model, and what that answers."""

    world: JudgedWorld
    base: Setting
    model: Model
    products: Products

    def game(self, trace: Trace) -> JudgedGame:
        """About the trace's own ids."""
        prompt, answer = list(trace.input_ids), list(trace.output_ids)
        asked = asked_of(self.model, prompt, ANSWER)
        shown = {"prompt": prompt, "ids": answer, "finish": 2, "tree": Shown(trace), "model": self.model}
        return JudgedGame(self.world, request=asked, **shown)


@pytest.fixture(scope="module")
def deployed_real(real_pack: Path) -> Stage:
    pack, world = load_pack(real_pack), JudgedWorld()
    prompt = ids("disputed", PROMPT, pack.model.config.vocabulary)
    base = Setting(pack, prompt, load_engine(pack, threads=1).generate(prompt, ANSWER, ()).ids)
    return Stage(world, base, introduce(world, pack, base.trees), Products.proved(pack.model))


@pytest.fixture
def stage(deployed_real: Stage) -> Iterator[Stage]:
    chain = deployed_real.world.chain
    assert isinstance(chain, RevmChain)
    with chain.undone():
        yield deployed_real


def descend(game: JudgedGame, honest: Trace) -> tuple[Descent, Move, int]:
    """Opens the dispute and asks for what differs, as long as there is anything to ask. Returns how many requests."""
    game.session().open().answer_root()
    descent, asked = Descent(honest, game.view["root"]), 0
    descent.add(ROOT, game.tree.hashes(*ROOT))
    while isinstance(move := descent.next(), Ask):
        game.ask(*move.node, up=move.node.depth - move.answered.depth).answer(*move.node)
        descent.add(move.node, game.tree.hashes(*move.node))
        asked += 1
    return descent, move, asked


def check_slash(game: JudgedGame, before: dict[str, int], requests: int) -> None:
    """The bond is divided between client, requester, prover and nobody, and the prepayments go back."""
    world = game.world
    assert game.view["state"] == GUILTY
    assert game.view["prepaid"] == ROOT_FEE + requests * REQUEST_FEE
    world.disputes.refund(game.id, OPENER.address, sender=PROVER.address)
    division = slash(BOND, CHARGED, SHARE_BPS)
    half = division.reward // 2
    gained = {name: amount - before[name] for name, amount in credits_of(world).items()}
    assert gained == {
        "client": division.refunded,
        "requester": half + ROOT_FEE + requests * REQUEST_FEE,
        "prover": division.reward - half,
        "provider": 0,
        "burnt": division.burnt,
    }
    assert world.held_by(world.receipts) == world.held_by(world.disputes) == 0


def credits_of(world: JudgedWorld) -> dict[str, int]:
    people = {"client": CLIENT, "requester": OPENER, "prover": PROVER, "provider": PROVIDER}
    return {name: world.credit(who) for name, who in people.items()} | {"burnt": world.burnt()}


@pytest.mark.slow
@pytest.mark.parametrize("continued", [True, False])
def test_one_wrong_number_of_the_real_model_is_found_proved_and_slashed(stage: Stage, continued: bool) -> None:
    base, place, element = stage.base, Place(17, Operation.DOWN, 150, 5), 31
    texts = base.input_ids, base.output_ids
    liar = lie(base.model, base.shape, *texts, place, element, 1, continued, stage.products)
    game, before = stage.game(liar), credits_of(stage.world)
    descent, move, requests = descend(game, base.honest)
    assert isinstance(move, Leaf)
    assert move.place == place
    leaf = (move.node.depth, move.node.index)
    game.ask(*leaf, up=leaf[0] - move.answered.depth).answer(*leaf)
    accusation = Accuser(descent, base.trees).accuse(place, game.payload(*leaf))
    assert accusation.element == element
    stage.world.disputes.prove(game.claim, accusation.values(), sender=PROVER.address)
    check_slash(game, before, requests + 1)


@pytest.mark.slow
def test_one_wrong_id_of_the_real_model_is_proved_by_its_own_logits_and_slashed(stage: Stage) -> None:
    """The trace of the answer as it was given is right, so there is no way down: the root is all that is asked for."""
    right, position = stage.base.output_ids, 20
    second = stage.base.honest.logits()[position].copy()
    second[right[position]] = second.min()
    answer = (*right[:position], int(second.argmax()), *right[position + 1 :])
    base = Setting(stage.base.pack, stage.base.input_ids, answer)
    shown = Trace(base.model, base.shape, base.input_ids, answer, products=stage.products)
    game, before = stage.game(shown), credits_of(stage.world)
    descent, move, requests = descend(game, base.honest)
    assert (move, requests) == (Agrees(), 0)
    wrong = Challenger(base.claim(), base.honest, base.trees, base.step).wrong_output()
    assert wrong == (position, answer[position], right[position])
    accusation = accuse_token(Accuser(descent, base.trees), *wrong)
    stage.world.disputes.proveOutput(game.claim, accusation.values(), sender=PROVER.address)
    check_slash(game, before, 0)
