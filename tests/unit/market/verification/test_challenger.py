"""An honest challenger against providers that changed one number, another token, or nothing."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from market.hashing import leaf_hash
from market.inference.model import AnyArray
from market.models.pack import load_pack
from market.verification.challenger import Agrees, Over, Prove, ProveOutput, ProveOutside, RequestNode, SayMissed, Wait
from market.verification.geometry import LOGITS_CHUNK, Geometry, Node, Operation, Place, number_of
from market.verification.layer import Hook
from market.verification.trace import Trace
from market.verification.tree import fold_path
from tests.unit.market.verification.games import START, WINDOW, Hiding, Play, Players, claim_about

INPUT = tuple(random.Random(5).choices(range(3, 280), k=70))
OUTPUT_TOKENS = 6


@pytest.fixture(scope="module")
def players(tiny_pack: Path) -> Players:
    return Players(load_pack(tiny_pack))


@pytest.fixture(scope="module")
def output(players: Players) -> tuple[int, ...]:
    return players.answer(INPUT, OUTPUT_TOKENS)


@pytest.fixture(scope="module")
def honest(players: Players, output: tuple[int, ...]) -> Trace:
    return players.trace(INPUT, output)


def adds(change: int, group: int, operation: Operation, part: str, at: tuple[int, ...]) -> Hook:
    """Changes one number, from which the provider goes on consistently."""

    def hook(seen_group: int, seen: Operation, seen_part: str, array: AnyArray) -> None:
        if (seen_group, seen, seen_part) == (group, operation, part):
            array[at] += change

    return hook


LIES = {
    "embedding": (0, Operation.EMBEDDING, "elements", (3, 70)),
    "norm": (1, Operation.ATTENTION_NORM, "norm", (66, 1)),
    "norm value": (2, Operation.ATTENTION_NORM, "elements", (10, 65)),
    "query": (1, Operation.QUERY, "elements", (9, 3, 7)),
    "key": (2, Operation.KEY, "elements", (70, 1, 15)),
    "rotated query": (1, Operation.ROTATE_QUERY, "elements", (70, 5, 9)),
    "rotated key": (1, Operation.ROTATE_KEY, "elements", (2, 0, 1)),
    "value": (2, Operation.VALUE, "elements", (65, 1, 3)),
    "score": (1, Operation.SCORES, "elements", (70, 4, 66)),
    "weights' sum": (2, Operation.SOFTMAX, "sums", (70, 2, 0)),
    "mixed sum": (1, Operation.MIX_SUM, "sums", (71, 1, 1, 5)),
    "mix": (1, Operation.MIX, "elements", (0, 0, 0)),
    "quantised mix": (2, Operation.QUANTISE_MIX, "elements", (5, 40)),
    "attention output": (1, Operation.ATTENTION_OUTPUT, "elements", (74, 71)),
    "gate": (1, Operation.GATE, "elements", (1, 159)),
    "up": (2, Operation.UP, "elements", (1, 0)),
    "activation": (2, Operation.ACTIVATION, "elements", (33, 100)),
    "down": (2, Operation.DOWN, "elements", (72, 64)),
    "last norm": (3, Operation.OUTPUT_NORM, "elements", (1, 3)),
    "logit": (3, Operation.LOGITS, "elements", (2, 287)),
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_challenger_finds_the_very_number_that_was_changed(
    players: Players, honest: Trace, output: tuple[int, ...], lie: str
) -> None:
    group, operation, part, at = LIES[lie]
    play = Play(
        claim_about(players.pack, INPUT, output), players.trace(INPUT, output, adds(1, group, operation, part, at))
    )
    move = play.run(players.challenger(play.claim, honest))
    assert isinstance(move, Prove), move.reason
    accused = move.accusation
    assert (accused.group, accused.operation) == (group, number_of(operation))
    row, element = place_of(play.theirs.geometry, operation, part, at)
    assert accused.row == row
    if element is not None:
        assert accused.element == element
    root = play.theirs.root()
    assert root != honest.root()
    leaf = play.theirs.geometry.node_of(Place(group, operation, row, accused.slot)).index
    assert fold_path(leaf_hash(accused.accused.payload), leaf, accused.accused.path) == root
    requests = [m for m in play.moves if isinstance(m, RequestNode)]
    assert len(requests) <= play.theirs.geometry.rounds() + 1  # and one for the payload


def place_of(geometry: Geometry, operation: Operation, part: str, at: tuple[int, ...]) -> tuple[int, int | None]:
    """Row and element of what a hook changed."""
    if operation is Operation.VALUE:
        return at[0] // 64, at[0] % 64
    if part == "sums":
        return at[0], at[-1] if operation is Operation.MIX_SUM else 2 + at[2]
    if part == "norm":
        return at[0], at[1]
    if operation is Operation.SCORES:
        return at[0], at[2] % 64
    if len(at) == 3:
        return at[0], at[2]
    chunk = {Operation.LOGITS: 128, Operation.QUANTISE_MIX: geometry.shape.head_size}.get(operation, 64)
    return at[0], at[1] % chunk


def test_challenger_shows_the_index_that_contradicts_a_maximum(
    players: Players, honest: Trace, output: tuple[int, ...]
) -> None:
    cases = [
        (1, Operation.ATTENTION_NORM, (7, 1)),
        (2, Operation.ACTIVATION, (7, 0)),
        (1, Operation.SOFTMAX, (70, 3, 0)),
    ]
    for (group, operation, at), change in itertools.product(cases, (-1, 1, 1000)):
        hook = adds(change, group, operation, "maximum", at)
        play = Play(claim_about(players.pack, INPUT, output), players.trace(INPUT, output, hook))
        move = play.run(players.challenger(play.claim, honest))
        assert isinstance(move, Prove), move.reason
        assert move.accusation.operation == number_of(operation)


def test_challenger_needs_no_request_where_the_logits_give_another_id(
    players: Players, output: tuple[int, ...]
) -> None:
    wrong = (*output[:2], output[2] ^ 1, *output[3:])
    claim = claim_about(players.pack, INPUT, wrong)
    play = Play(claim, players.trace(INPUT, wrong))
    move = play.run(players.challenger(claim, players.trace(INPUT, wrong)))
    assert isinstance(move, ProveOutput)
    assert (move.accusation.position, move.accusation.output) == (2, output[2] ^ 1)
    assert move.accusation.rival == output[2]
    assert len(play.moves) == 1
    root = play.theirs.root()
    opening, geometry = move.accusation.rival_logits, play.theirs.geometry
    leaf = Place(geometry.groups - 1, Operation.LOGITS, 2, output[2] // LOGITS_CHUNK)
    assert fold_path(leaf_hash(opening.payload), geometry.node_of(leaf).index, opening.path) == root


def test_challenger_that_is_lied_to_about_the_logits_proves_the_logits_wrong(
    players: Players, output: tuple[int, ...]
) -> None:
    """A liar that makes its id win in its own trace."""
    wrong = (*output[:2], output[2] ^ 1, *output[3:])

    def hook(_: int, operation: Operation, __: str, array: AnyArray) -> None:
        if operation is Operation.LOGITS:
            array[2, output[2] ^ 1] = np.iinfo(np.int32).max

    claim = claim_about(players.pack, INPUT, wrong)
    play = Play(claim, players.trace(INPUT, wrong, hook))
    move = play.run(players.challenger(claim, players.trace(INPUT, wrong)))
    assert isinstance(move, Prove)
    assert (move.accusation.row, move.accusation.slot * 128 + move.accusation.element) == (2, output[2] ^ 1)


def test_challenger_of_an_honest_provider_says_that_the_answer_is_right(
    players: Players, honest: Trace, output: tuple[int, ...]
) -> None:
    play = Play(claim_about(players.pack, INPUT, output), players.trace(INPUT, output))
    move = play.run(players.challenger(play.claim, honest))
    assert isinstance(move, Agrees)
    assert move.close_from == play.dispute.end_at + 1
    assert play.moves == [move]


def test_challenger_uses_what_others_asked_for(players: Players, honest: Trace, output: tuple[int, ...]) -> None:
    lie = adds(1, 1, Operation.GATE, "elements", (1, 159))
    alone = Play(claim_about(players.pack, INPUT, output), players.trace(INPUT, output, lie))
    alone.run(players.challenger(alone.claim, honest))
    nodes = [move.node for move in alone.moves if isinstance(move, RequestNode)]
    joined = Play(alone.claim, alone.theirs)
    joined.answer_root()
    for node in nodes:
        joined.request(node)
        joined.answer(node)
    assert isinstance(players.challenger(alone.claim, honest).next(joined.dispute, START, WINDOW), Prove)


def test_challenger_waits_for_replies_and_says_when_one_is_overdue(
    players: Players, honest: Trace, output: tuple[int, ...]
) -> None:
    play = Play(claim_about(players.pack, INPUT, output), players.trace(INPUT, output))
    challenger = players.challenger(play.claim, honest)
    waiting = challenger.next(play.dispute, START + WINDOW, WINDOW)
    assert isinstance(waiting, Wait)
    assert waiting.until == START + WINDOW
    missed = challenger.next(play.dispute, START + WINDOW + 1, WINDOW)
    assert isinstance(missed, SayMissed)
    assert missed.node == Node(0, 0)


def test_challenger_asks_for_nothing_whose_reply_would_come_after_the_end(
    players: Players, honest: Trace, output: tuple[int, ...]
) -> None:
    lie = adds(1, 1, Operation.GATE, "elements", (1, 159))
    play = Play(claim_about(players.pack, INPUT, output), players.trace(INPUT, output, lie))
    play.answer_root()
    challenger = players.challenger(play.claim, honest)
    last = play.dispute.end_at - 2 * WINDOW
    assert isinstance(challenger.next(play.dispute, last, WINDOW), RequestNode)
    assert isinstance(challenger.next(play.dispute, last + 1, WINDOW), Over)


def test_challenger_proves_what_is_hidden_outside_the_program_at_once(
    players: Players, honest: Trace, output: tuple[int, ...]
) -> None:
    decoy = Node(honest.geometry.group_bits, 0).child(5, 9)  # the embedding's group has one operation
    hidden = Hiding(players.pack.model, players.shape, INPUT, output, decoy)
    play = Play(claim_about(players.pack, INPUT, output), hidden)
    move = play.run(players.challenger(play.claim, honest))
    assert isinstance(move, ProveOutside)
    assert honest.geometry.place_of(move.node) is None
    asked = play.dispute.asked[Node(move.node.depth - len(move.path), move.node.index >> len(move.path))]
    assert fold_path(move.hash, move.node.index, move.path) == asked.hash
    assert len(play.moves) == 2
