"""Disputes: requests, replies, and moves at the wrong time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from eth_abi import encode

from market.hashing import ZERO32, keccak256, leaf_hash
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.disputes import (
    CLAIM_TYPES,
    LEAF_BITS,
    OPENER,
    OTHER,
    PROVIDER,
    ROUNDS,
    WINDOW,
    Game,
    Tree,
    levels_at,
    prove_output,
    prove_outside,
)
from tests.unit.contracts.world import DAY, REPLICAS

NONE, OPEN, GUILTY, NOT_GUILTY, EXPIRED = range(5)
MISSED = 2
LEAF = 1_234
THIRD = REPLICAS[3]


@pytest.fixture
def rooted(game: Game) -> Game:
    return game.open().answer_root()


# --- the root


def test_root_is_what_the_replys_hashes_fold_to(game: Game) -> None:
    game.open().answer_root()
    (event,) = game.world.logs("RootGiven")
    root = game.tree.node(0, 0)
    assert event.values == {"disputeId": game.id, "root": root, "hashes": game.tree.hashes(0, 0)}
    assert (game.view["root"], game.view["unanswered"]) == (root, 0)
    assert game.world.disputes.nodes(game.id, 0, 0)["answered"]


def test_root_by_anybody_else_reverts(game: Game) -> None:
    game.open()
    for who in (OPENER, OTHER):
        with reverts("NotProvider", disputeId=game.id, caller=who.address):
            game.answer_root(who)


def test_root_is_given_once_and_for_ever(rooted: Game) -> None:
    rooted.tree = Tree(lie=LEAF)
    with reverts("AlreadyAnswered", disputeId=rooted.id, depth=0, index=0):
        rooted.answer_root()


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_root_of_another_number_of_hashes_reverts(game: Game, count: int) -> None:
    game.open()
    with reverts("BadReplyLength", disputeId=game.id, expected=4, got=count):
        game.world.disputes.answerRoot(game.claim, [ZERO32] * count, sender=PROVIDER.address)


def test_root_in_the_last_second_counts_and_later_reverts(game: Game) -> None:
    game.open()
    deadline = game.world.chain.now + WINDOW
    game.world.chain.now = deadline + 1
    with reverts("PastDeadline", disputeId=game.id, timestamp=deadline + 1, deadline=deadline):
        game.answer_root()
    game.world.chain.now = deadline
    game.answer_root()


# --- requests


def test_request_asks_for_one_node_for_everybody(rooted: Game) -> None:
    now = rooted.world.chain.now
    rooted.ask(2, 1, OTHER)
    (event,) = rooted.world.logs("NodeRequested")
    assert tuple(event.values.values()) == (
        rooted.id,
        OTHER.address,
        2,
        1,
        rooted.tree.node(2, 1),
        5,
        now + WINDOW,
    )
    assert rooted.view["unanswered"] == 1
    with reverts("AlreadyRequested", disputeId=rooted.id, depth=2, index=1):
        rooted.ask(2, 1)
    rooted.answer(2, 1)
    with reverts("AlreadyRequested", disputeId=rooted.id, depth=2, index=1):
        rooted.ask(2, 1)
    with reverts("AlreadyRequested", disputeId=rooted.id, depth=0, index=0):
        rooted.world.disputes.request(rooted.claim, (0, 0, rooted.tree.node(0, 0), []), b"", sender=OPENER.address)


@pytest.mark.parametrize("depth", range(1, LEAF_BITS + 1))
def test_request_of_any_node_that_a_reply_shows(rooted: Game, depth: int) -> None:
    """Levels in the middle of a reply are nodes like any other."""
    for asked in (2, 7, 12):
        if asked < depth:
            rooted.ask(asked, LEAF >> (LEAF_BITS - asked)).answer(asked, LEAF >> (LEAF_BITS - asked))
    index = LEAF >> (LEAF_BITS - depth)
    rooted.ask(depth, index).answer(depth, index)
    node = rooted.world.disputes.nodes(rooted.id, depth, index)
    assert node["answered"]
    assert (node["levels"], node["payloadBytes"]) == (levels_at(depth), 40 if depth == LEAF_BITS else 0)


def test_request_before_the_root_is_given_reverts(game: Game) -> None:
    game.open()
    with reverts("NotAnswered", disputeId=game.id, depth=0, index=0):
        game.ask(2, 1)


def test_request_below_a_node_that_was_not_answered_reverts(rooted: Game) -> None:
    with reverts("NotAnswered", disputeId=rooted.id, depth=2, index=1):
        rooted.ask(7, 33)
    rooted.ask(2, 1)
    with reverts("NotAnswered", disputeId=rooted.id, depth=2, index=1):
        rooted.ask(7, 33)


@pytest.mark.parametrize("up", [0, 3])
def test_request_with_a_path_to_nowhere_reverts(rooted: Game, up: int) -> None:
    node = (2, 1, rooted.tree.node(2, 1), [ZERO32] * up)
    with reverts("NotAnswered", disputeId=rooted.id, depth=2, index=1):
        rooted.world.disputes.request(rooted.claim, node, b"", sender=OPENER.address)


def test_request_of_another_hash_than_the_providers_reverts(rooted: Game) -> None:
    _, _, node, path = rooted.node(2, 1)
    root = rooted.tree.node(0, 0)
    for other in ((2, 2, node, path), (2, 1, keccak256(b"x"), path), (2, 1, node, path[::-1]), (2, 1, path[0], path)):
        with pytest.raises(Revert) as caught:
            rooted.world.disputes.request(rooted.claim, other, b"", sender=OPENER.address)
        assert (caught.value.name, caught.value.values["expected"]) == ("BadPath", root)


@pytest.mark.parametrize(("depth", "index"), [(2, 4), (1, 2), (65, 0), (256, 0), (300, 1 << 3)])
def test_places_that_no_tree_has_revert(rooted: Game, depth: int, index: int) -> None:
    claim, node, disputes = rooted.claim, (depth, index, ZERO32, [ZERO32]), rooted.world.disputes
    calls: list[Any] = [
        lambda: disputes.request(claim, node, b"", sender=OPENER.address),
        lambda: disputes.proveOutside(claim, node, sender=OPENER.address),
        lambda: disputes.missed(claim, depth, index, sender=OPENER.address),
        lambda: disputes.answerHashes(rooted.id, depth, index, [ZERO32], sender=OPENER.address),
        lambda: disputes.answerPayload(rooted.id, depth, index, b"", sender=OPENER.address),
        lambda: disputes.nodes(rooted.id, depth, index),
    ]
    for call in calls:
        with reverts("NoSuchPlace", disputeId=rooted.id, depth=depth, index=index):
            call()


@pytest.mark.parametrize(("depth", "index"), [(2, 3), (13, 63), (12, 31)])
def test_request_of_what_is_outside_the_program_reverts(rooted: Game, depth: int, index: int) -> None:
    with reverts("NodeOutside", disputeId=rooted.id, depth=depth, index=index):
        rooted.ask(depth, index, up=depth)


def test_requests_are_taken_until_two_windows_before_the_end(rooted: Game) -> None:
    last = rooted.view["endAt"] - 2 * WINDOW
    rooted.world.chain.now = last + 1
    with reverts("PastDeadline", disputeId=rooted.id, timestamp=last + 1, deadline=last):
        rooted.ask(2, 1)
    rooted.world.chain.now = last
    rooted.ask(2, 1)
    rooted.world.chain.now = last + WINDOW
    rooted.answer(2, 1)
    assert rooted.world.chain.now < rooted.view["endAt"]


def test_who_opens_in_the_last_second_and_takes_a_window_for_each_move_reaches_the_payload(game: Game) -> None:
    """And has a window left to prove it: this is what endAt is made of."""
    world = game.world
    world.chain.now += DAY
    game.open()
    world.chain.now += WINDOW
    game.answer_root()
    way = [(2, LEAF >> 11), (7, LEAF >> 6), (10, LEAF >> 3), (11, LEAF >> 2), (12, LEAF >> 1), (13, LEAF)]
    assert len(way) == ROUNDS
    at = 0
    for depth, index in way:
        world.chain.now += WINDOW
        game.ask(depth, index, up=depth - at)
        at = depth
        world.chain.now += WINDOW
        game.answer(depth, index)
    world.chain.now += WINDOW
    assert world.chain.now <= game.view["endAt"]
    game.mark_wrong(LEAF)
    game.prove(LEAF)
    assert game.view["state"] == GUILTY


# --- replies


def test_replies_are_events_that_everybody_can_read(rooted: Game) -> None:
    rooted.ask(2, 0).answer(2, 0)
    (event,) = rooted.world.logs("HashesGiven")
    assert event.values == {"disputeId": rooted.id, "depth": 2, "index": 0, "hashes": rooted.tree.hashes(2, 0)}
    rooted.descend_to_ask(LEAF, depths=(7, 12)).answer(LEAF_BITS, LEAF)
    (event,) = rooted.world.logs("PayloadGiven")
    payload = rooted.tree.payload(LEAF)
    assert event.values == {"disputeId": rooted.id, "depth": LEAF_BITS, "index": LEAF, "payload": payload}


def test_reply_may_come_from_anybody_who_has_it(rooted: Game) -> None:
    rooted.ask(2, 1).answer(2, 1, THIRD)
    assert rooted.view["unanswered"] == 0


def test_reply_that_was_not_asked_for_or_was_given_reverts(rooted: Game) -> None:
    with reverts("NotRequested", disputeId=rooted.id, depth=2, index=1):
        rooted.answer(2, 1)
    rooted.ask(2, 1).answer(2, 1)
    with reverts("AlreadyAnswered", disputeId=rooted.id, depth=2, index=1):
        rooted.answer(2, 1)


def test_reply_that_is_not_what_the_node_was_made_from_reverts(rooted: Game) -> None:
    rooted.ask(2, 1)
    hashes = rooted.tree.hashes(2, 1)
    disputes = rooted.world.disputes
    for other in ([*hashes[:-1], ZERO32], hashes[::-1], rooted.tree.hashes(2, 0)):
        with pytest.raises(Revert) as caught:
            disputes.answerHashes(rooted.id, 2, 1, other, sender=PROVIDER.address)
        assert (caught.value.name, caught.value.values["expected"]) == ("BadReply", rooted.tree.node(2, 1))


@pytest.mark.parametrize("count", [0, 1, 2, 31, 33, 64])
def test_reply_of_another_number_of_hashes_reverts(rooted: Game, count: int) -> None:
    rooted.ask(2, 1)
    with reverts("BadReplyLength", disputeId=rooted.id, expected=32, got=count):
        rooted.world.disputes.answerHashes(rooted.id, 2, 1, [ZERO32] * count, sender=PROVIDER.address)


def test_reply_about_a_leaf_shows_its_payload_and_never_its_own_hash(rooted: Game) -> None:
    rooted.descend_to_ask(LEAF)
    disputes, node = rooted.world.disputes, rooted.tree.node(LEAF_BITS, LEAF)
    with reverts("BadReplyLength", disputeId=rooted.id, expected=1, got=1):
        disputes.answerHashes(rooted.id, LEAF_BITS, LEAF, [node], sender=PROVIDER.address)
    rooted.answer(LEAF_BITS, LEAF)


def test_reply_about_a_node_is_no_payload(rooted: Game) -> None:
    rooted.ask(2, 2)
    left, right = rooted.tree.node(3, 4), rooted.tree.node(3, 5)
    with reverts("BadReplyLength", disputeId=rooted.id, expected=0, got=64):
        rooted.world.disputes.answerPayload(rooted.id, 2, 2, left + right, sender=PROVIDER.address)
    with reverts("BadReplyLength", disputeId=rooted.id, expected=0, got=0):
        rooted.world.disputes.answerPayload(rooted.id, 2, 2, b"", sender=PROVIDER.address)


def test_payload_of_another_length_value_or_padding_reverts(rooted: Game) -> None:
    rooted.descend_to_ask(LEAF)
    payload, disputes = rooted.tree.payload(LEAF), rooted.world.disputes

    def give(data: bytes) -> None:
        disputes.answerPayload(rooted.id, LEAF_BITS, LEAF, data, sender=PROVIDER.address)

    for length in (0, 32, 63, 96):
        with reverts("BadReplyLength", disputeId=rooted.id, expected=64, got=length):
            give(payload.ljust(96, b"\0")[:length])
    for place in (40, 63):
        with reverts("BadPadding", disputeId=rooted.id):
            give(payload[:place] + b"\1" + payload[place + 1 :])
    other = payload[:39] + bytes([payload[39] ^ 1]) + payload[40:]
    with reverts("BadReply", disputeId=rooted.id, expected=leaf_hash(payload), got=leaf_hash(other)):
        give(other)
    give(payload)


def test_reply_in_the_last_second_counts_and_later_reverts(rooted: Game) -> None:
    rooted.ask(2, 1)
    deadline = rooted.world.chain.now + WINDOW
    rooted.world.chain.now = deadline + 1
    with reverts("PastDeadline", disputeId=rooted.id, timestamp=deadline + 1, deadline=deadline):
        rooted.answer(2, 1)
    rooted.world.chain.now = deadline
    rooted.answer(2, 1)


# --- missed


def test_missed_root_makes_guilty_once_its_window_is_over(game: Game) -> None:
    game.open()
    deadline = game.world.chain.now + WINDOW
    game.world.chain.now = deadline
    with reverts("NotYet", disputeId=game.id, timestamp=deadline, opensAt=deadline + 1):
        game.missed(0, 0)
    game.world.chain.now = deadline + 1
    game.missed(0, 0, OTHER)
    (event,) = game.world.logs("FaultFound")
    assert tuple(event.values.values()) == (game.id, MISSED, OPENER.address, OTHER.address)
    assert game.view["state"] == GUILTY


def test_missed_node_makes_guilty_even_after_the_end(rooted: Game) -> None:
    rooted.ask(2, 1, THIRD)
    rooted.world.chain.now = rooted.view["endAt"] + 1
    with reverts("Unanswered", disputeId=rooted.id, count=1):
        rooted.close()
    rooted.missed(2, 1, OTHER)
    (event,) = rooted.world.logs("FaultFound")
    assert tuple(event.values.values()) == (rooted.id, MISSED, THIRD.address, OTHER.address)


def test_missed_of_what_was_answered_or_never_asked_for_reverts(rooted: Game) -> None:
    rooted.world.chain.now += 2 * WINDOW
    with reverts("AlreadyAnswered", disputeId=rooted.id, depth=0, index=0):
        rooted.missed(0, 0)
    with reverts("NotRequested", disputeId=rooted.id, depth=2, index=1):
        rooted.missed(2, 1)


# --- claims and states


@pytest.mark.parametrize("position", range(3, 15))
def test_moves_about_another_claim_revert(rooted: Game, position: int) -> None:
    right = rooted.claim
    value = right[position]
    other = keccak256(b"other") if isinstance(value, bytes) else value + 1
    claim = (*right[:position], other, *right[position + 1 :])
    expected, got = (keccak256(encode(CLAIM_TYPES, list(values))) for values in (right, claim))
    disputes, who = rooted.world.disputes, PROVIDER.address
    calls: list[Any] = [
        lambda: disputes.answerRoot(claim, rooted.tree.hashes(0, 0), sender=who),
        lambda: disputes.request(claim, rooted.node(2, 1), b"", sender=who),
        lambda: disputes.prove(claim, rooted.accusation(LEAF), sender=who),
        lambda: disputes.proveOutside(claim, rooted.node(2, 3), sender=who),
        lambda: disputes.missed(claim, 0, 0, sender=who),
        lambda: disputes.close(claim, sender=who),
    ]
    for call in calls:
        with reverts("ClaimMismatch", disputeId=rooted.id, expected=expected, got=got):
            call()


def end(game: Game, state: int) -> None:
    if state == NONE:
        return
    game.open().answer_root()
    if state == GUILTY:
        game.mark_wrong(LEAF)
        game.prove(LEAF)
    elif state == NOT_GUILTY:
        game.world.chain.now = game.view["endAt"] + 1
        game.close()
    else:
        game.world.chain.now = game.view["endAt"] + 7 * DAY + 1
        game.world.disputes.expire(game.id)


@pytest.mark.parametrize("state", [NONE, GUILTY, NOT_GUILTY, EXPIRED])
def test_nothing_moves_in_a_dispute_that_is_not_open(game: Game, state: int) -> None:
    end(game, state)
    assert game.view["state"] == state
    calls: list[Any] = [
        game.answer_root,
        lambda: game.ask(2, 1),
        lambda: game.answer(2, 1),
        lambda: game.answer(LEAF_BITS, LEAF),
        lambda: game.prove(LEAF),
        lambda: prove_output(game),
        lambda: prove_outside(game, 2, 3, 2),
        lambda: game.missed(0, 0),
        game.close,
        lambda: game.world.disputes.expire(game.id),
    ]
    for call in calls:
        with reverts("WrongDisputeState", disputeId=game.id, has=state, needs=OPEN):
            call()
    if state != NONE:
        with reverts("AlreadyDisputed", disputeId=game.id):
            game.open()


def test_many_moves_fit_into_one_transaction(rooted: Game) -> None:
    disputes = rooted.world.disputes
    asks = [disputes.encode("request", rooted.claim, rooted.node(2, i), b"") for i in range(3)]
    disputes.multicall(asks, sender=OTHER.address)
    assert rooted.view["unanswered"] == 3
    replies = [disputes.encode("answerHashes", rooted.id, 2, i, rooted.tree.hashes(2, i)) for i in range(3)]
    disputes.multicall(replies, sender=PROVIDER.address)
    assert rooted.view["unanswered"] == 0
    assert disputes.nodes(rooted.id, 2, 2)["requester"] == OTHER.address


def test_one_refused_move_undoes_the_whole_transaction(rooted: Game) -> None:
    disputes = rooted.world.disputes
    right = disputes.encode("request", rooted.claim, rooted.node(2, 0), b"")
    with reverts("AlreadyRequested", disputeId=rooted.id, depth=2, index=0):
        disputes.multicall([right, right], sender=OTHER.address)
    assert rooted.view["unanswered"] == 0


def test_another_receipt_of_the_same_session_is_another_game(rooted: Game) -> None:
    other = dataclasses.replace(rooted, index=1).open()
    with reverts("NotRequested", disputeId=other.id, depth=2, index=1):
        other.answer(2, 1)
    assert (other.view["unanswered"], rooted.view["unanswered"]) == (1, 0)
