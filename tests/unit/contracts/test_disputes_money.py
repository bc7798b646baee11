"""Disputes: prepayments, rewards and how a dispute ends."""

from __future__ import annotations

import pytest
from eth_abi import encode

from market.hashing import keccak256
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.disputes import (
    BOND,
    CHARGED,
    LEAF_BITS,
    OPENER,
    OTHER,
    PROVIDER,
    REQUEST_FEE,
    ROOT_FEE,
    SHARE_BPS,
    WINDOW,
    DisputeWorld,
    Game,
    Tree,
    prove_output,
)
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import CLIENT, DAY, GUARDIAN, REPLICAS, pack_permit

NONE, OPEN, GUILTY, NOT_GUILTY, EXPIRED = range(5)
LEAF = 1_234
THIRD = REPLICAS[3]
REWARD = min(BOND * SHARE_BPS // 10_000, (BOND - CHARGED) // 2)


@pytest.fixture
def liar(arena: DisputeWorld) -> Game:
    game = Game(arena, tree=Tree(lie=LEAF)).session().open().answer_root()
    game.mark_wrong(LEAF)
    return game


@pytest.fixture
def rooted(game: Game) -> Game:
    return game.open().answer_root()


def refund(game: Game, who: str) -> None:
    game.world.disputes.refund(game.id, who, sender=GUARDIAN.address)


# --- prepaying


def test_every_request_is_prepaid_and_counted_for_its_payer(rooted: Game) -> None:
    disputes = rooted.world.disputes
    rooted.ask(2, 0, THIRD).ask(2, 1, THIRD).ask(2, 2)
    assert disputes.prepaidBy(rooted.id, THIRD.address) == 2 * REQUEST_FEE
    assert disputes.prepaidBy(rooted.id, OPENER.address) == ROOT_FEE + REQUEST_FEE
    assert rooted.view["prepaid"] == ROOT_FEE + 3 * REQUEST_FEE == rooted.world.held_by(disputes)


@pytest.mark.parametrize("move", ["dispute", "request"])
def test_prepaying_takes_credit_first_then_a_permit(game: Game, move: str) -> None:
    world = game.world
    fee = ROOT_FEE if move == "dispute" else REQUEST_FEE
    if move == "request":
        game.open(OTHER).answer_root()
    world.token.approve(world.vault.address, 0, sender=OPENER.address)
    world.vault.deposit(world.token.address, OPENER.address, 100, sender=OTHER.address)
    permit = pack_permit(world.permit(OPENER, world.vault.address, fee - 100))
    before = world.token.balanceOf(OPENER.address)
    if move == "dispute":
        game.open(permit=permit)
    else:
        game.ask(2, 1, permit=permit)
    assert (world.credit(OPENER), world.token.balanceOf(OPENER.address)) == (0, before - (fee - 100))


@pytest.mark.parametrize("move", ["dispute", "request"])
def test_without_a_prepayment_nothing_is_asked_for(game: Game, move: str) -> None:
    world = game.world
    fee = ROOT_FEE if move == "dispute" else REQUEST_FEE
    if move == "request":
        game.open(OTHER).answer_root()
    world.token.approve(world.vault.address, fee - 1, sender=OPENER.address)
    with reverts("ERC20InsufficientAllowance", spender=world.vault.address, allowance=fee - 1, needed=fee):
        game.open() if move == "dispute" else game.ask(2, 1)
    assert game.view["state"] == (NONE if move == "dispute" else OPEN)
    assert game.view["unanswered"] == 0


# --- not guilty


def test_honest_provider_earns_nine_tenths_and_keeps_its_bond(rooted: Game) -> None:
    world = rooted.world
    rooted.descend(LEAF, THIRD)
    end, prepaid = rooted.view["endAt"], ROOT_FEE + 4 * REQUEST_FEE
    before = world.credit(PROVIDER)
    world.chain.now = end
    with reverts("NotYet", disputeId=rooted.id, timestamp=end, opensAt=end + 1):
        rooted.close()
    world.chain.now = end + 1
    rooted.close(OTHER)
    paid = prepaid * 9 // 10
    (event,) = world.logs("RepliesPaid")
    assert tuple(event.values.values()) == (rooted.id, PROVIDER.address, paid, prepaid - paid)
    (resolved,) = world.logs("DisputeResolved")
    assert tuple(resolved.values.values()) == (*rooted.triple, False)
    assert world.credit(PROVIDER) == before + paid
    assert world.burnt() == prepaid - paid
    assert world.held_by(world.disputes) == 0
    session = world.receipts.sessions(rooted.receipt.subject_id)
    assert (session[2], session[4]) == (BOND, 0)
    world.receipts.release(rooted.receipt.subject_id)
    assert world.vault.stakeOf(PROVIDER.address)[1] == 0
    for payer in (OPENER, THIRD):
        with reverts("WrongDisputeState", disputeId=rooted.id, has=NOT_GUILTY, needs=GUILTY):
            refund(rooted, payer.address)


# --- guilty


def test_guilty_pays_the_client_then_requester_and_prover_and_burns_the_rest(liar: Game) -> None:
    world = liar.world
    liar.descend(LEAF, THIRD)
    before = {who: world.credit(who) for who in (CLIENT, THIRD, OTHER, PROVIDER)}
    liar.prove(LEAF, OPENER)
    assert world.credit(CLIENT) == before[CLIENT] + CHARGED
    assert world.credit(THIRD) == before[THIRD] + REWARD // 2
    assert world.credit(OPENER) == REWARD - REWARD // 2
    assert world.credit(PROVIDER) == before[PROVIDER]
    assert world.burnt() == BOND - CHARGED - REWARD >= (BOND - CHARGED) // 2
    assert world.held_by(world.receipts) == 0
    assert world.vault.stakeOf(PROVIDER.address)[1] == 0


def test_guilty_gives_every_prepayment_back_once(liar: Game) -> None:
    world = liar.world
    liar.descend(LEAF, THIRD).prove(LEAF, OTHER)
    held = ROOT_FEE + 4 * REQUEST_FEE
    assert world.held_by(world.disputes) == held == liar.view["prepaid"]
    for payer, amount in ((THIRD, 4 * REQUEST_FEE), (OPENER, ROOT_FEE)):
        before = world.credit(payer)
        refund(liar, payer.address)
        (event,) = world.logs("PrepaymentRefunded")
        assert tuple(event.values.values()) == (liar.id, payer.address, amount)
        assert world.credit(payer) == before + amount
        held -= amount
        assert world.held_by(world.disputes) == held == liar.view["prepaid"]
        with reverts("NothingToRefund", disputeId=liar.id, payer=payer.address):
            refund(liar, payer.address)
    assert held == 0


def test_refund_before_the_end_reverts(rooted: Game) -> None:
    with reverts("WrongDisputeState", disputeId=rooted.id, has=OPEN, needs=GUILTY):
        refund(rooted, OPENER.address)


def test_refund_of_who_paid_nothing_reverts(liar: Game) -> None:
    liar.prove(LEAF)
    with reverts("NothingToRefund", disputeId=liar.id, payer=CLIENT.address):
        refund(liar, CLIENT.address)


def test_missed_reply_rewards_who_asked_and_who_said_so(rooted: Game) -> None:
    world = rooted.world
    rooted.ask(2, 1, THIRD)
    before = world.credit(THIRD)
    world.chain.now += WINDOW + 1
    rooted.missed(2, 1, OTHER)
    assert world.credit(THIRD) == before + REWARD // 2
    assert world.credit(OTHER) == CHARGED + REWARD - REWARD // 2  # it is the client, too


def test_prover_that_asked_gets_the_whole_reward(liar: Game) -> None:
    liar.descend(LEAF, OPENER).prove(LEAF, OPENER)
    assert liar.world.credit(OPENER) == REWARD


def test_second_conviction_of_one_session_finds_no_bond_and_still_pays_back(arena: DisputeWorld) -> None:
    first = Game(arena, tree=Tree(lie=LEAF)).session().open().answer_root()
    second = Game(arena, tree=first.tree, index=1).open().answer_root()
    first.mark_wrong(LEAF)
    first.prove(LEAF)
    credit, burnt = arena.credit(OPENER), arena.burnt()
    second.prove(LEAF)
    assert (arena.credit(OPENER), arena.burnt()) == (credit, burnt)
    refund(second, OPENER.address)
    assert arena.credit(OPENER) == credit + ROOT_FEE


def test_money_of_one_dispute_never_pays_for_another(arena: DisputeWorld) -> None:
    first = Game(arena, tree=Tree(lie=LEAF)).session().open().answer_root()
    second = Game(arena, tree=first.tree, index=1).open(OTHER).answer_root()
    first.mark_wrong(LEAF)
    first.prove(LEAF)
    refund(first, OPENER.address)
    assert arena.held_by(arena.disputes) == ROOT_FEE == second.view["prepaid"]


# --- the clock runs out


def test_dispute_whose_subject_took_no_verdict_expires(rooted: Game) -> None:
    world, end = rooted.world, rooted.view["endAt"]
    rooted.ask(2, 1, THIRD)
    world.chain.now = end + 7 * DAY
    with reverts("NotYet", disputeId=rooted.id, timestamp=end + 7 * DAY, opensAt=end + 7 * DAY + 1):
        world.disputes.expire(rooted.id, sender=OTHER.address)
    world.chain.now += 1
    world.disputes.expire(rooted.id, sender=OTHER.address)
    (event,) = world.logs("DisputeExpired")
    assert event.values == {"disputeId": rooted.id}
    assert rooted.view["state"] == EXPIRED
    before = world.credit(THIRD)
    refund(rooted, THIRD.address)
    refund(rooted, OPENER.address)
    assert (world.credit(THIRD), world.credit(OPENER)) == (before + REQUEST_FEE, ROOT_FEE)
    assert world.held_by(world.disputes) == 0


# --- a deprecated vault


def test_liar_in_a_deprecated_vault_is_found_without_prepayments(arena: DisputeWorld) -> None:
    game = Game(arena, tree=Tree(lie=LEAF)).session()
    game.mark_wrong(LEAF)
    arena.vault.deprecate(sender=GUARDIAN.address)
    before = arena.token.balanceOf(OPENER.address)
    game.open().answer_root().descend(LEAF).prove(LEAF)
    assert arena.credit(OPENER) == REWARD
    assert arena.token.balanceOf(OPENER.address) == before
    assert game.view["prepaid"] == 0
    with reverts("NothingToRefund", disputeId=game.id, payer=OPENER.address):
        refund(game, OPENER.address)


def test_honest_provider_in_a_deprecated_vault_is_cleared_and_paid_nothing(game: Game) -> None:
    world = game.world
    world.vault.deprecate(sender=GUARDIAN.address)
    game.open().answer_root().ask(2, 0).answer(2, 0)
    before = (world.credit(PROVIDER), world.burnt())
    world.chain.now = game.view["endAt"] + 1
    game.close()
    assert world.logs("Paid") == []
    assert (world.credit(PROVIDER), world.burnt()) == before
    assert game.view["state"] == NOT_GUILTY


def test_dispute_that_began_before_deprecation_ends_like_any_other(rooted: Game) -> None:
    world = rooted.world
    rooted.ask(2, 0)
    world.vault.deprecate(sender=GUARDIAN.address)
    rooted.answer(2, 0).ask(2, 1).answer(2, 1)
    before = world.credit(PROVIDER)
    world.chain.now = rooted.view["endAt"] + 1
    rooted.close()
    assert world.credit(PROVIDER) == before + (ROOT_FEE + REQUEST_FEE) * 9 // 10
    assert world.held_by(world.disputes) == 0


# --- floods


def test_flood_of_requests_pays_for_its_replies_and_costs_nobody_else(rooted: Game) -> None:
    """Others' requests fill no slot, close no window and make nobody's own dearer."""
    world = rooted.world
    for group in range(3):
        rooted.ask(2, group, THIRD).answer(2, group)
    rooted.ask(7, 0).ask(7, 1)
    before = world.chain.gas_used
    for index in range(2, 90):
        if index != 31:  # outside
            rooted.ask(7, index, THIRD).answer(7, index)
    rooted.ask(7, 90)
    assert world.chain.gas_used <= before + 200  # zero bytes in other hashes
    paid = world.disputes.prepaidBy(rooted.id, THIRD.address)
    assert paid == (3 + 87) * REQUEST_FEE
    for index in (0, 1, 90):
        rooted.answer(7, index)
    world.chain.now = rooted.view["endAt"] + 1
    earned = world.credit(PROVIDER)
    rooted.close()
    assert world.credit(PROVIDER) - earned == (ROOT_FEE + 93 * REQUEST_FEE) * 9 // 10


def gas_of_the_rest(world: DisputeWorld, flood: bool) -> dict[str, int]:
    """Move → gas of everything that follows the root, of both sides, from the same place on each time."""
    assert isinstance(world.chain, RevmChain)
    gas: dict[str, int] = {}
    with world.chain.undone():
        judge, chain = world.judge, world.chain
        game = Game(world, tree=Tree(lie=LEAF)).session().open().answer_root()
        game.mark_wrong(LEAF)
        other = Game(world, tree=game.tree, index=1).open().answer_root()
        for group in range(3):
            game.ask(2, group, THIRD).answer(2, group)
        asked = [(7, index) for index in range(90) if index not in (LEAF >> 6, 31)] if flood else []
        for key in asked:
            game.ask(*key, THIRD)
        for key in asked[:60]:  # the others wait meanwhile
            game.answer(*key)
        for depth in (7, 12, LEAF_BITS):
            game.ask(depth, LEAF >> (LEAF_BITS - depth))
            gas[f"request {depth}"] = chain.gas_used
            game.answer(depth, LEAF >> (LEAF_BITS - depth))
            gas[f"reply {depth}"] = chain.gas_used
        for key in asked[60:]:
            game.answer(*key)
        with world.chain.undone():
            game.prove(LEAF, OTHER)
            gas["prove"] = chain.gas_used
            refund(game, OPENER.address)
            gas["refund"] = chain.gas_used
        with world.chain.undone():
            judge.setWrong(keccak256(encode(["uint32"] * 3, [3, 12, 40])), True)
            prove_output(game)
            gas["prove output"] = chain.gas_used
        other.ask(2, 1)
        gas["request in another dispute"] = chain.gas_used
        other.answer(2, 1)
        gas["reply in another dispute"] = chain.gas_used
        chain.now = game.view["endAt"] + 1
        game.close()
        gas["close"] = chain.gas_used
    return gas


def test_flood_of_requests_makes_no_move_of_anybody_dearer(arena: DisputeWorld) -> None:
    """Replies, proofs, refunds and the end cost what they cost without it."""
    calm, flooded = gas_of_the_rest(arena, flood=False), gas_of_the_rest(arena, flood=True)
    assert calm.keys() == flooded.keys()
    dearer = {move: flooded[move] - used for move, used in calm.items() if flooded[move] > used + 100}
    assert not dearer


def test_challenger_that_is_a_contract_pays_and_earns_by_itself(arena: DisputeWorld) -> None:
    """Whoever signed the transaction has no part in it."""
    game, disputes = Game(arena, tree=Tree(lie=LEAF)).session(), arena.disputes
    puppet = arena.deploy("Puppet")
    arena.vault.deposit(arena.token.address, puppet.address, 100_000, sender=THIRD.address)
    earned = arena.credit(THIRD)

    def play(move: str, *arguments: object) -> None:
        puppet.run(disputes.address, disputes.encode(move, *arguments), sender=THIRD.address)

    play("dispute", game.params())
    game.answer_root()
    game.mark_wrong(LEAF)
    asked = (2, 7, 12, LEAF_BITS)
    for depth in asked:
        index = LEAF >> (LEAF_BITS - depth)
        play("request", game.claim, game.node(depth, index), b"")
        assert disputes.nodes(game.id, depth, index)["requester"] == puppet.address
        game.answer(depth, index)
    prepaid = ROOT_FEE + len(asked) * REQUEST_FEE
    assert (disputes.prepaidBy(game.id, puppet.address), disputes.prepaidBy(game.id, THIRD.address)) == (prepaid, 0)
    play("prove", game.claim, game.accusation(LEAF))
    refund(game, puppet.address)
    assert arena.vault.credit(arena.token.address, puppet.address) == 100_000 + REWARD
    assert arena.credit(THIRD) == earned
