"""Disputes about jobs, about receipts that contradict each other, and about subjects that mean harm."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest

from market.hashing import ZERO32, keccak256, tokens_root
from market.settlement import BondState, slash
from market.types import ZERO_ADDRESS, Output
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.disputes import (
    ANSWER,
    BOND,
    CHARGED,
    MODEL,
    OPENER,
    OTHER,
    PROVIDER,
    ROOT_FEE,
    SHARE_BPS,
    WINDOW,
    DisputeWorld,
    Game,
    JobGame,
    Tree,
    honest,
    request,
    settled_job,
)
from tests.unit.contracts.world import CLIENT, DAY, DISPUTE_WINDOW, REPLICAS, answer
from tests.unit.contracts.world import SHARE_BPS as JOBS_SHARE_BPS

NONE, OPEN, GUILTY, NOT_GUILTY, EXPIRED = range(5)
CONTRADICTION = 1
LEAF = 1_234
RIGHT = Output(tokens_root(ANSWER), len(ANSWER), 1)
REWARD = min(BOND * SHARE_BPS // 10_000, (BOND - CHARGED) // 2)


def settled(world: DisputeWorld, tree: Tree | None = None) -> JobGame:
    return settled_job(JobGame(world, tree=tree or honest()))


def bond_state(game: JobGame, index: int = 0) -> BondState:
    return BondState(game.world.jobs.replicas(game.job_id)[index]["bondState"])


# --- jobs


def test_job_whose_answer_is_wrong_pays_back_out_of_the_bond(arena: DisputeWorld) -> None:
    game = settled(arena, Tree(lie=LEAF)).open(OPENER)
    assert bond_state(game) is BondState.DISPUTED
    game.answer_root().descend(LEAF, OPENER)
    game.mark_wrong(LEAF)
    terms = arena.jobs.replicas(game.job_id)[0]
    paid, bond = terms["paid"], terms["bond"]
    assert paid == price_of(terms) > 0
    credit = {who: arena.credit(who) for who in (CLIENT, OPENER, REPLICAS[1])}
    burnt = arena.burnt()
    game.prove(LEAF, REPLICAS[1])
    division = slash(bond, paid, JOBS_SHARE_BPS)
    assert bond_state(game) is BondState.SLASHED
    assert arena.credit(CLIENT) == credit[CLIENT] + division.refunded
    assert arena.credit(OPENER) == credit[OPENER] + division.reward // 2
    assert arena.credit(REPLICAS[1]) == credit[REPLICAS[1]] + division.reward - division.reward // 2
    assert arena.burnt() == burnt + division.burnt
    (event,) = arena.logs("BondSlashed")
    assert (event.values["requester"], event.values["prover"]) == (OPENER.address, REPLICAS[1].address)


def price_of(replica: dict[str, Any]) -> int:
    metered = 3 * replica["pricePerMInput"] + replica["outputTokens"] * replica["pricePerMOutput"]
    return int(replica["baseFee"] - (-metered // 1_000_000))


def test_job_whose_answer_holds_keeps_its_bond_and_earns_the_replies(arena: DisputeWorld) -> None:
    game = settled(arena).open(OPENER).answer_root()
    end = game.view["endAt"]
    arena.chain.now = end + 1
    before = arena.credit(PROVIDER)
    game.close()
    assert bond_state(game) is BondState.LOCKED
    assert arena.credit(PROVIDER) == before + ROOT_FEE * 9 // 10
    arena.jobs.releaseBond(game.job_id, PROVIDER.address)
    assert bond_state(game) is BondState.RELEASED


def test_every_dispute_about_a_job_can_be_decided_after_its_end(arena: DisputeWorld) -> None:
    """Whoever is slow to say that a reply was missed has until the subject's deadline."""
    arena.judge.setRounds(10)
    game = settled(arena)
    arena.chain.now += DISPUTE_WINDOW
    game.open()
    last = arena.chain.now + arena.jobs.DISPUTE_DEADLINE()
    assert game.view["endAt"] + DAY <= last
    arena.chain.now = last
    game.missed(0, 0)
    assert bond_state(game) is BondState.SLASHED


def test_job_that_is_not_final_is_not_disputed(arena: DisputeWorld) -> None:
    asked = request()
    job = arena.post(3, asked=asked, terms={"model_id": MODEL.model_id})
    game = JobGame(arena, request=asked, job_id=job.id)
    with reverts("WrongState", jobId=job.id, has=2, needs=4):
        game.open()
    assert game.view["state"] == NONE


def test_proof_beside_the_request_is_no_evidence_for_a_job(arena: DisputeWorld) -> None:
    game = settled(arena)
    got = keccak256(keccak256(type(game.request).type_string().encode()) + game.evidence[:352] + b"\0")
    with reverts("EvidenceMismatch", expected=game.request.request_hash, got=got):
        game.open(proof=b"\0")


def test_receipt_for_a_job_that_says_otherwise_than_its_reveal_makes_guilty(arena: DisputeWorld) -> None:
    game = settled(arena)
    receipt = game.receipt_for(answer("told the client"), subject_id=game.job_id)
    told = receipts_of_jobs(game)
    evidence = game.evidence[:352]
    contradiction = told.signed(receipt)
    for wrong in (
        dataclasses.replace(receipt, subject_id=keccak256(b"another job")),
        dataclasses.replace(receipt, request_hash=keccak256(b"another request")),
        told.receipt_for(RIGHT, subject_id=game.job_id),
    ):
        with reverts("NoContradiction", disputeId=game.id):
            contradict(game, evidence, told.signed(wrong))
    with reverts("NoContradiction", disputeId=game.id):
        contradict(game, evidence, told.signed(receipt, REPLICAS[1]))
    contradict(game, evidence, contradiction)
    assert game.view["state"] == GUILTY
    assert bond_state(game) is BondState.SLASHED


def receipts_of_jobs(game: Game) -> Game:
    """Signs in the domain of jobs."""

    class Signer(Game):
        @property
        def domain(self) -> Any:
            return self.world.domain

    return Signer(game.world)


# --- two outputs for one request


def contradict(game: Game, evidence: bytes, contradiction: bytes) -> None:
    game.world.disputes.contradict(*game.triple, evidence, contradiction, sender=OTHER.address)


OTHER_OUTPUT = Output(tokens_root([11, 2]), 2, 1)


@pytest.mark.parametrize("is_open", [False, True])
def test_two_receipts_for_one_request_make_guilty_at_once(game: Game, is_open: bool) -> None:
    world = game.world
    if is_open:
        game.open()
    before = world.credit(OTHER)
    contradict(game, b"" if is_open else game.evidence, game.signed(game.receipt_for(OTHER_OUTPUT)))
    (event,) = world.logs("FaultFound")
    assert tuple(event.values.values()) == (game.id, CONTRADICTION, OTHER.address, OTHER.address)
    assert len(world.logs("DisputeOpened")) == (not is_open)
    assert world.credit(OTHER) == before + CHARGED + REWARD  # it is the client, too
    assert game.view["state"] == GUILTY
    if is_open:
        world.disputes.refund(game.id, OPENER.address)
        assert world.credit(OPENER) == ROOT_FEE


@pytest.mark.parametrize(
    "changes",
    [
        {"output": RIGHT},
        {"index": 7},
        {"request_hash": keccak256(b"other")},
        {"subject_id": keccak256(b"session of nobody")},
    ],
)
def test_receipts_that_agree_or_are_about_something_else_prove_nothing(game: Game, changes: dict[str, Any]) -> None:
    others = {name: value for name, value in changes.items() if name != "output"}
    receipt = game.receipt_for(changes.get("output", OTHER_OUTPUT), **others)
    if receipt.subject_id != game.receipt.subject_id:
        with reverts("BadReceipt"):
            contradict(game, game.evidence, game.signed(receipt))
    else:
        with reverts("NoContradiction", disputeId=game.id):
            contradict(game, game.evidence, game.signed(receipt))
    assert game.view["state"] == NONE


def test_receipt_that_somebody_else_signed_is_none(game: Game) -> None:
    with reverts("BadReceipt"):
        contradict(game, game.evidence, game.signed(game.receipt_for(OTHER_OUTPUT), OTHER))
    with reverts("BadReceipt"):
        game.open(proof=game.signed(game.receipt, OTHER))


def test_contradiction_after_the_end_reverts(game: Game) -> None:
    game.open().answer_root()
    game.world.chain.now = game.view["endAt"] + 1
    game.close()
    with reverts("AlreadyDisputed", disputeId=game.id):
        contradict(game, game.evidence, game.signed(game.receipt_for(OTHER_OUTPUT)))


def test_receipt_after_its_sessions_window_or_without_a_bond_is_not_disputed(game: Game) -> None:
    with reverts("BadReceipt"):
        dataclasses.replace(game).open(subjectId=keccak256(b"not its digest"))
    game.world.chain.now += DAY + 1
    with reverts("NotNow"):
        game.open()


def test_only_the_arbiter_judges_receipts(game: Game) -> None:
    receipts = game.world.receipts
    with reverts("NotArbiter"):
        receipts.freeze(game.subject_id, PROVIDER.address, game.evidence, sender=OPENER.address)
    with reverts("NotArbiter"):
        receipts.resolve(game.subject_id, PROVIDER.address, True, OPENER.address, OPENER.address, sender=OPENER.address)


# --- hostile subjects


def hostile(arena: DisputeWorld, *, refuses: bool = False, says: bool = False) -> tuple[Game, Contract]:
    """A game about a subject that somebody made up, on the same provider."""
    subject = arena.deploy("HostileSubject")
    game = Game(arena)

    class MadeUp(Game):
        @property
        def triple(self) -> tuple[str, bytes, str]:
            return subject.address, keccak256(b"anything"), PROVIDER.address

    made = MadeUp(arena)
    frozen = (MODEL.model_id, game.request.request_hash, game.output.output_hash, 2**200, arena.chain.now + DAY, ZERO32)
    subject.set(frozen, refuses, says)
    return made, subject


def test_made_up_subject_costs_its_provider_nothing(arena: DisputeWorld) -> None:
    game, _ = hostile(arena, says=True)
    free = arena.vault.stakeOf(PROVIDER.address)
    game.open()
    contradict(game, b"", b"")
    assert game.view["state"] == GUILTY
    assert arena.vault.stakeOf(PROVIDER.address) == free
    assert arena.credit(OTHER) == 0


def test_subject_that_takes_no_verdict_keeps_no_prepayment(arena: DisputeWorld) -> None:
    game, _ = hostile(arena, refuses=True)
    game.open()
    arena.chain.now += WINDOW + 1
    with pytest.raises(Revert):
        game.missed(0, 0)
    assert game.view["state"] == OPEN
    arena.chain.now = game.view["endAt"] + 7 * DAY + 1
    arena.disputes.expire(game.id)
    arena.disputes.refund(game.id, OPENER.address)
    assert arena.credit(OPENER) == ROOT_FEE


@pytest.mark.parametrize("move", ["dispute", "contradict", "request", "missed", "close", "expire", "refund", "prove"])
@pytest.mark.parametrize("moment", ["freeze", "resolve"])
def test_subject_that_calls_back_reaches_no_dispute(arena: DisputeWorld, moment: str, move: str) -> None:
    victim = Game(arena, tree=Tree(lie=LEAF)).session().open().answer_root()
    victim.mark_wrong(LEAF)
    arena.chain.now += 2 * WINDOW
    other = Game(arena, index=1)
    calls = {
        "dispute": (other.params(),),
        "contradict": (*other.triple, other.evidence, other.signed(other.receipt_for(OTHER_OUTPUT))),
        "request": (victim.claim, victim.node(2, 1), b""),
        "missed": (victim.claim, 0, 0),
        "close": (victim.claim,),
        "expire": (victim.id,),
        "refund": (victim.id, OPENER.address),
        "prove": (victim.claim, victim.accusation(LEAF)),
    }
    game, subject = hostile(arena)
    data = arena.disputes.encode(move, *calls[move])
    if moment == "resolve":
        game.open()
        arena.chain.now += WINDOW + 1
    before = victim.view
    for bubbles in (True, False):
        subject.setCallback(arena.disputes.address, data, bubbles)
        with reverts("ReentrancyGuardReentrantCall") if bubbles else nullcontext():
            game.open() if moment == "freeze" else game.missed(0, 0)
        assert not subject.called()
    assert victim.view == before


def test_prepayments_of_a_made_up_subject_are_counted_apart(arena: DisputeWorld) -> None:
    real = Game(arena).session().open()
    game, _ = hostile(arena)
    game.open(OTHER)
    arena.chain.now += WINDOW + 1
    game.missed(0, 0)
    arena.disputes.refund(game.id, OTHER.address)
    assert arena.held_by(arena.disputes) == ROOT_FEE == real.view["prepaid"]
    assert arena.credit(OTHER) == ROOT_FEE


def test_jobs_know_no_prover_but_the_arbiters(arena: DisputeWorld) -> None:
    game = settled(arena)
    for caller in (OPENER.address, PROVIDER.address):
        with reverts("NotArbiter", caller=caller):
            arena.jobs.resolve(game.job_id, PROVIDER.address, True, caller, caller, sender=caller)
    with reverts("UnknownJob", jobId=bytes(32)):
        arena.jobs.contradicts(bytes(32), ZERO_ADDRESS, b"")
