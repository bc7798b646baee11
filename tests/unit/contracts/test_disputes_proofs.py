"""Disputes: proofs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from eth_abi import encode
from eth_account.signers.local import LocalAccount

from market.hashing import keccak256
from market.settlement import slash
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.disputes import (
    BOND,
    CHARGED,
    LEAF_BITS,
    LOGITS_LEAF,
    OPENER,
    OTHER,
    PROVIDER,
    REQUEST_FEE,
    ROOT_FEE,
    SHARE_BPS,
    DisputeWorld,
    Game,
    Tree,
    prove_output,
    prove_outside,
)
from tests.unit.contracts.world import CLIENT, REPLICAS

NONE, OPEN, GUILTY, NOT_GUILTY, EXPIRED = range(5)
ELEMENT, OUTPUT, OUTSIDE = 3, 4, 5
LEAF = 1_234
THIRD, FOURTH = REPLICAS[3], REPLICAS[4]


@pytest.fixture
def rooted(game: Game) -> Game:
    return game.open().answer_root()


@pytest.fixture
def liar(arena: DisputeWorld) -> Game:
    game = Game(arena, tree=Tree(lie=LEAF)).session().open().answer_root()
    game.mark_wrong(LEAF)
    return game


@dataclass
class Purse:
    """What everybody has, and what a conviction changes of it, to the unit."""

    game: Game

    def __post_init__(self) -> None:
        self.before = self._all()

    def _all(self) -> dict[str, int]:
        world = self.game.world
        credit = {who.address: world.credit(who) for who in (CLIENT, OPENER, THIRD, FOURTH, PROVIDER)}
        stake = world.vault.stakeOf(PROVIDER.address)
        return credit | {
            "burnt": world.burnt(),
            "free stake": stake[0],
            "bonded stake": stake[1],
            "sessions": world.held_by(world.receipts),
            "disputes": world.held_by(world.disputes),
        }

    def shows(self, **changes: int) -> None:
        now = self._all()
        assert {who: now[who] - had for who, had in self.before.items() if now[who] != had} == changes
        self.before = now

    def shows_conviction(self, requester: LocalAccount, prover: LocalAccount, prepaid: dict[LocalAccount, int]) -> None:
        """The client is paid back first, requester and prover share the reward, the rest of the bond is burnt; then
        every prepayment goes back to who paid it, once."""
        division = slash(BOND, CHARGED, SHARE_BPS)
        changes = Counter({CLIENT.address: division.refunded, "burnt": division.burnt})
        changes[requester.address] += division.reward // 2
        changes[prover.address] += division.reward - division.reward // 2
        self.shows(**changes, sessions=-BOND, **{"bonded stake": -BOND})
        disputes, game = self.game.world.disputes, self.game
        assert sum(prepaid.values()) == self.before["disputes"] == game.view["prepaid"]
        for payer, amount in prepaid.items():
            disputes.refund(game.id, payer.address, sender=PROVIDER.address)
            self.shows(**{payer.address: amount}, disputes=-amount)
            with reverts("NothingToRefund", disputeId=game.id, payer=payer.address):
                disputes.refund(game.id, payer.address, sender=PROVIDER.address)
        assert self.before["disputes"] == 0


def test_wrong_element_makes_guilty(liar: Game) -> None:
    liar.descend(LEAF, THIRD).prove(LEAF, OTHER)
    (event,) = liar.world.logs("FaultFound")
    assert tuple(event.values.values()) == (liar.id, ELEMENT, THIRD.address, OTHER.address)
    assert liar.view["state"] == GUILTY


@pytest.mark.parametrize("asked", [False, True])
def test_wrong_element_of_a_leaf_that_nobody_got_belongs_to_who_opened(liar: Game, asked: bool) -> None:
    """Who asks for a leaf just before its proof has not paid for what led there."""
    if asked:
        liar.descend_to_ask(LEAF, THIRD)
    liar.prove(LEAF, OTHER)
    (event,) = liar.world.logs("FaultFound")
    assert tuple(event.values.values()) == (liar.id, ELEMENT, OPENER.address, OTHER.address)


def test_right_element_proves_nothing(rooted: Game) -> None:
    with reverts("NothingWrong", disputeId=rooted.id):
        rooted.prove(LEAF)
    with reverts("NothingWrong", disputeId=rooted.id):
        prove_output(rooted)


class Twins(Tree):
    """Every leaf is its sibling's equal, so that its path fits both places."""

    def payload(self, index: int) -> bytes:
        return super().payload(index & ~1)


def test_requesters_half_goes_by_the_place_that_the_judge_names(arena: DisputeWorld) -> None:
    """Whoever asked for a leaf of the same bytes beside the wrong one gets nothing; a prover has no say in it."""
    liar = Game(arena, tree=Twins(lie=LEAF)).session().open().answer_root()
    liar.mark_wrong(LEAF)
    liar.descend(LEAF, THIRD)
    liar.ask(LEAF_BITS, LEAF ^ 1, OTHER, up=1).answer(LEAF_BITS, LEAF ^ 1)
    assert liar.tree.payload(LEAF ^ 1) == liar.tree.payload(LEAF)
    liar.prove(LEAF, OTHER)
    (event,) = liar.world.logs("FaultFound")
    assert tuple(event.values.values()) == (liar.id, ELEMENT, THIRD.address, OTHER.address)


def test_proof_before_the_root_is_given_reverts(game: Game) -> None:
    game.open()
    game.mark_wrong(LEAF)
    with reverts("NotAnswered", disputeId=game.id, depth=0, index=0):
        game.prove(LEAF)


def test_proof_in_the_last_second_counts_and_later_reverts(liar: Game) -> None:
    end = liar.view["endAt"]
    liar.world.chain.now = end + 1
    for call in (lambda: liar.prove(LEAF), lambda: prove_output(liar), lambda: prove_outside(liar, 2, 3, 2)):
        with reverts("PastDeadline", disputeId=liar.id, timestamp=end + 1, deadline=end):
            call()
    liar.world.chain.now = end
    liar.prove(LEAF)


def test_better_id_makes_guilty(rooted: Game) -> None:
    rooted.world.judge.setWrong(keccak256(encode(["uint32"] * 3, [3, 12, 40])), True)
    rooted.descend(LOGITS_LEAF, THIRD)
    purse = Purse(rooted)
    prove_output(rooted, FOURTH)
    (event,) = rooted.world.logs("FaultFound")
    assert tuple(event.values.values()) == (rooted.id, OUTPUT, THIRD.address, FOURTH.address)
    purse.shows_conviction(THIRD, FOURTH, {OPENER: ROOT_FEE, THIRD: 4 * REQUEST_FEE})


@pytest.mark.parametrize(("depth", "index"), [(2, 3), (7, 31), (12, 31), (13, 62)])
def test_anything_outside_the_program_makes_guilty(arena: DisputeWorld, depth: int, index: int) -> None:
    arena.judge.setOutside(13, 62)
    tree = Tree(hidden=(depth, index))
    game = Game(arena, tree=tree).session().open().answer_root()
    above = 0
    for asked in (2, 7):
        if asked < depth:
            at = index >> (depth - asked)
            game.ask(asked, at, THIRD).answer(asked, at)
            above = asked
    purse = Purse(game)
    prove_outside(game, depth, index, depth - above, FOURTH)
    (event,) = game.world.logs("FaultFound")
    requester = THIRD if above else OPENER
    assert tuple(event.values.values()) == (game.id, OUTSIDE, requester.address, FOURTH.address)
    asked = sum(stop < depth for stop in (2, 7))
    purse.shows_conviction(requester, FOURTH, {OPENER: ROOT_FEE} | ({THIRD: asked * REQUEST_FEE} if asked else {}))


@pytest.mark.parametrize(("depth", "index"), [(2, 3), (7, 31), (11, 15), (12, 31), (13, 63)])
def test_nothing_outside_the_program_is_no_fault(rooted: Game, depth: int, index: int) -> None:
    with reverts("NothingWrong", disputeId=rooted.id):
        prove_outside(rooted, depth, index, depth)


def test_what_is_inside_the_program_is_not_outside(rooted: Game) -> None:
    with reverts("NodeInside", disputeId=rooted.id, depth=2, index=1):
        prove_outside(rooted, 2, 1, 2)
