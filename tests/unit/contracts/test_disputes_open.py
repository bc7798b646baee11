"""Disputes: deployment, and what a dispute can be opened about."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from eth_abi import encode

from market.hashing import ZERO32, keccak256, pack_stop_tokens, pack_tokens, tokens_root
from market.types import Model
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.disputes import (
    ANSWER,
    BOND,
    CHARGED,
    CLAIM_TYPES,
    CONTEXT,
    MODEL,
    OPENER,
    OTHER,
    PROMPT,
    PROVIDER,
    REQUEST_FEE,
    ROOT_FEE,
    ROUNDS,
    SHARE_BPS,
    STOP,
    VOCABULARY,
    WINDOW,
    DisputeWorld,
    Game,
    request,
)
from tests.unit.contracts.world import CLIENT, DAY

OPEN, GUILTY = 1, 2
LENGTHS = 0
MAX_WINDOW = 6 * DAY // 25


def word(text: str) -> bytes:
    return text.encode().ljust(32, b"\0")


# --- deployment


def test_deployment_says_what_it_was_given(arena: DisputeWorld) -> None:
    disputes = arena.disputes
    assert (disputes.vault(), disputes.judge()) == (arena.vault.address, arena.judge.address)
    assert disputes.stakeToken() == arena.token.address
    assert (disputes.replyWindow(), disputes.rootFee(), disputes.requestFee()) == (WINDOW, ROOT_FEE, REQUEST_FEE)
    assert (disputes.MAX_ROUNDS(), disputes.EXPIRY_WINDOW()) == (11, 7 * DAY)
    assert (disputes.MIN_REPLY_WINDOW(), disputes.MAX_REPLY_WINDOW()) == (30, MAX_WINDOW)


@pytest.mark.parametrize("window", [29, MAX_WINDOW + 1])
def test_deployment_with_a_reply_window_out_of_range_reverts(arena: DisputeWorld, window: int) -> None:
    with reverts("ReplyWindowOutOfRange", window=window, minimum=30, maximum=MAX_WINDOW):
        arena.deploy("Disputes", arena.vault.address, arena.judge.address, window, 1, 1)


@pytest.mark.parametrize("window", [30, MAX_WINDOW])
def test_the_longest_dispute_ends_a_day_before_subjects_take_no_verdict(arena: DisputeWorld, window: int) -> None:
    disputes = arena.deploy("Disputes", arena.vault.address, arena.judge.address, window, 1, 1)
    assert (2 * disputes.MAX_ROUNDS() + 3) * disputes.replyWindow() <= arena.jobs.DISPUTE_DEADLINE() - DAY


@pytest.mark.parametrize("fees", [(0, 1), (1, 0)])
def test_deployment_without_a_reply_fee_reverts(arena: DisputeWorld, fees: tuple[int, int]) -> None:
    with reverts("NoReplyFee"):
        arena.deploy("Disputes", arena.vault.address, arena.judge.address, WINDOW, *fees)


# --- opening


def test_dispute_freezes_the_bond_and_asks_for_the_root(game: Game) -> None:
    world, now = game.world, game.world.chain.now
    before = world.token.balanceOf(OPENER.address)
    game.open()
    end = now + DAY + (2 * ROUNDS + 3) * WINDOW
    (opened,), (disputed,) = world.logs("DisputeOpened"), world.logs("Disputed")
    assert tuple(opened.values.values()) == (*game.triple, OPENER.address)
    assert disputed.values["disputeId"] == game.id == world.disputes.disputeIdOf(*game.triple)
    assert tuple(disputed.values["claim"].values()) == game.claim
    assert (disputed.values["endAt"], disputed.values["deadline"]) == (end, now + WINDOW)
    assert (disputed.values["inputIds"], disputed.values["outputIds"]) == (pack_tokens(PROMPT), pack_tokens(ANSWER))
    assert game.view == {
        "state": OPEN,
        "endAt": end,
        "unanswered": 1,
        "prepaid": ROOT_FEE,
        "claimHash": keccak256(encode(CLAIM_TYPES, list(game.claim))),
        "root": ZERO32,
    }
    assert world.disputes.nodes(game.id, 0, 0) == {
        "requester": OPENER.address,
        "deadline": now + WINDOW,
        "answered": False,
        "levels": 2,
        "payloadBytes": 0,
        "hash": ZERO32,
    }
    assert world.held_by(world.disputes) == ROOT_FEE == world.disputes.prepaidBy(game.id, OPENER.address)
    assert world.token.balanceOf(OPENER.address) == before - ROOT_FEE
    assert world.receipts.sessions(game.receipt.subject_id)[4] == 1


def test_dispute_twice_reverts_whoever_asks(game: Game) -> None:
    game.open()
    with reverts("AlreadyDisputed", disputeId=game.id):
        game.open(OTHER)


def test_dispute_of_a_second_receipt_stands_beside_the_first(game: Game) -> None:
    game.open()
    Game(game.world, index=1).open(OTHER)
    assert game.world.receipts.sessions(game.receipt.subject_id)[4] == 2


@pytest.mark.parametrize("field", ["request", "model", "output", "inputIds", "outputIds"])
def test_dispute_about_anything_else_than_what_was_answered_reverts(game: Game, field: str) -> None:
    others: dict[str, tuple[Any, bytes, bytes]] = {}
    other_request = request(nonce=keccak256(b"other"))
    others["request"] = (other_request.values(), game.request.request_hash, other_request.request_hash)
    other_model = dataclasses.replace(MODEL, tables_root=keccak256(b"other"))
    others["model"] = (other_model.values(), MODEL.model_id, other_model.model_id)
    other_output = dataclasses.replace(game.output, finish=2)
    others["output"] = (other_output.values(), game.output.output_hash, other_output.output_hash)
    others["inputIds"] = (pack_tokens([5, 6, 8]), tokens_root(PROMPT), tokens_root([5, 6, 8]))
    others["outputIds"] = (pack_tokens([11, 2]), game.output.output_root, tokens_root([11, 2]))
    value, expected, got = others[field]
    with reverts("HashMismatch", field=word(field), expected=expected, got=got):
        game.open(**{field: value})


def test_dispute_where_the_subject_names_another_model_than_the_request_reverts(arena: DisputeWorld) -> None:
    game = Game(arena)
    other = dataclasses.replace(MODEL, tables_root=keccak256(b"other"))
    subject = arena.deploy("HostileSubject")
    frozen = (other.model_id, game.request.request_hash, game.output.output_hash, 0, arena.chain.now, ZERO32)
    subject.set(frozen, False, False)
    with reverts("HashMismatch", field=word("request's model"), expected=MODEL.model_id, got=other.model_id):
        game.open(subject=subject.address, model=other.values())


@pytest.mark.parametrize("extra", [1, 31])
def test_dispute_with_ids_in_broken_words_reverts(game: Game, extra: int) -> None:
    with reverts("IdsMalformed", length=32 + extra):
        game.open(outputIds=pack_tokens(ANSWER) + bytes(extra))


@pytest.mark.parametrize(
    ("part", "error"), [("program_root", "ProgramNotAccepted"), ("tables_root", "TablesNotAccepted")]
)
def test_dispute_about_a_model_that_nobody_can_judge_reverts(arena: DisputeWorld, part: str, error: str) -> None:
    other: Model = dataclasses.replace(MODEL, **{part: keccak256(b"other")})
    game = Game(arena, request=request(model_id=other.model_id)).session()
    name = "programRoot" if part == "program_root" else "tablesRoot"
    with reverts(error, **{name: keccak256(b"other")}):
        game.open(model=other.values())


@pytest.mark.parametrize(
    ("changes", "prompt", "reason"),
    [
        ({"input_tokens": 0, "input_root": ZERO32}, [], "context"),
        ({"max_output_tokens": CONTEXT - 2}, PROMPT, "context"),
        ({"input_tokens": 4}, PROMPT, "vocabulary"),  # filler is no id
        ({"input_tokens": 2}, PROMPT, "inputIds"),
        ({"input_tokens": 9}, PROMPT, "inputIds"),
        ({"input_root": tokens_root([5, 6, VOCABULARY])}, [5, 6, VOCABULARY], "vocabulary"),
    ],
)
def test_dispute_about_a_prompt_without_a_trace_reverts(
    arena: DisputeWorld, changes: dict[str, Any], prompt: list[int], reason: str
) -> None:
    game = Game(arena, request=request(**changes), prompt=prompt).session()
    with reverts("PromptWithoutTrace", reason=word(reason)):
        game.open()


def test_dispute_about_the_longest_request_and_the_last_id_opens(arena: DisputeWorld) -> None:
    asked = request(max_output_tokens=CONTEXT - 3, input_root=tokens_root([VOCABULARY - 1] * 3))
    game = Game(arena, request=asked, prompt=[VOCABULARY - 1] * 3, ids=[VOCABULARY - 1, STOP]).session().open()
    assert game.view["state"] == OPEN


@pytest.mark.parametrize("finish", [0, 3, 4])
def test_dispute_about_an_answer_that_came_to_no_end_reverts(arena: DisputeWorld, finish: int) -> None:
    game = Game(arena, finish=finish).session()
    with reverts("FinishNotJudged", finish=finish):
        game.open()


def test_dispute_about_a_seed_that_the_subject_lacks_reverts(arena: DisputeWorld) -> None:
    """A session's receipts have no seed of the chain: whoever signed one is not judged by any."""
    game = Game(arena, request=request(sampler=2, top_p_q16=65_536)).session()
    with reverts("NoSeed", subject=arena.receipts.address, subjectId=game.subject_id):
        game.open()


@pytest.mark.parametrize(("sampler", "given"), [(0, False), (1, False), (2, True)])
def test_claim_has_the_seed_of_the_request_or_of_the_subject(arena: DisputeWorld, sampler: int, given: bool) -> None:
    """A subject that lies about the seed has its own providers judged wrongly, and nobody else's."""
    own, subjects = keccak256(b"of the request"), keccak256(b"of the subject")
    game = Game(arena, request=request(sampler=sampler, seed=own, top_p_q16=65_536))
    subject = arena.deploy("HostileSubject")
    frozen = (MODEL.model_id, game.request.request_hash, game.output.output_hash, 0, arena.chain.now, subjects)
    subject.set(frozen, False, False)
    game.open(subject=subject.address)
    (opened,) = arena.logs("Disputed")
    assert opened.values["claim"]["seed"] == (subjects if given else own)
    assert opened.values["claim"]["sampler"] == sampler


def test_dispute_after_the_subjects_window_reverts(arena: DisputeWorld) -> None:
    game = Game(arena)
    now = arena.chain.now
    for end in (now - 1, now + 365 * DAY + 1):
        subject = arena.deploy("HostileSubject")
        subject.set((MODEL.model_id, game.request.request_hash, game.output.output_hash, 0, end, ZERO32), False, False)
        with reverts("DisputeEndOutOfRange", disputeEnd=end, minimum=now, maximum=now + 365 * DAY):
            game.open(subject=subject.address)


def test_dispute_in_the_windows_last_second_opens(game: Game) -> None:
    game.world.chain.now += DAY
    game.open()
    assert game.view["endAt"] == game.world.chain.now + (2 * ROUNDS + 3) * WINDOW


def test_dispute_with_more_rounds_than_fit_reverts(game: Game) -> None:
    game.world.judge.setRounds(11)
    with reverts("TooManyRounds", rounds=12, limit=11):
        game.open()
    game.world.judge.setRounds(10)
    game.open()


# --- what the ids alone tell

LENGTHENED = [11, 12, 13, 14, 15, 16, 17, 18]  # as many as were asked for


@pytest.mark.parametrize(
    ("ids", "finish"),
    [
        ([STOP], 1),
        (ANSWER, 1),
        (LENGTHENED, 2),
        ([*LENGTHENED[:-1], STOP], 1),
        ([VOCABULARY - 1, STOP], 1),
    ],
)
def test_answer_that_keeps_the_rules_is_not_judged_by_its_ids(arena: DisputeWorld, ids: list[int], finish: int) -> None:
    game = Game(arena, ids=ids, finish=finish).session().open()
    assert game.view["state"] == OPEN


@pytest.mark.parametrize(
    ("ids", "finish"),
    [
        ([], 1),
        ([], 2),
        ([*LENGTHENED, STOP], 1),
        ([*LENGTHENED, 19], 2),
        ([11, STOP, 12, STOP], 1),
        ([STOP, STOP], 1),
        ([11, 12], 1),
        ([11, 12], 2),
        ([11, STOP], 2),
        (LENGTHENED, 1),
        ([*LENGTHENED[:-1], STOP], 2),
        ([VOCABULARY, STOP], 1),
        ([11, VOCABULARY], 1),
    ],
)
def test_answer_that_breaks_a_rule_about_lengths_is_guilty_at_once(
    arena: DisputeWorld, ids: list[int], finish: int
) -> None:
    assert_guilty_at_once(Game(arena, ids=ids, finish=finish).session())


@pytest.mark.parametrize(
    ("packed", "count"),
    [
        (pack_tokens(ANSWER) * 2, 4),  # a word too many
        (pack_tokens(ANSWER), 9),  # a word too few
        (pack_tokens(ANSWER), 3),  # an id where filler is due
        (pack_tokens(ANSWER)[:-4] + bytes(4), 4),  # no filler
        (b"", 4),
    ],
)
def test_output_that_is_not_in_its_canonical_form_is_guilty_at_once(
    arena: DisputeWorld, packed: bytes, count: int
) -> None:
    assert_guilty_at_once(Game(arena, packed=packed, output_tokens=count).session())


@pytest.mark.parametrize("stop", [20, 50, 90])
def test_every_stop_token_counts_wherever_it_stands(arena: DisputeWorld, stop: int) -> None:
    asked = request(stop_tokens=pack_tokens([20, 30, 40, 50, 60, 70, 80, 90]))
    assert Game(arena, request=asked, ids=[11, stop]).session().open().view["state"] == OPEN
    assert_guilty_at_once(Game(arena, request=asked, ids=[stop, 11, stop], index=1))


def test_without_stop_tokens_only_the_length_ends_an_answer(arena: DisputeWorld) -> None:
    asked = request(stop_tokens=pack_stop_tokens([]))
    game = Game(arena, request=asked, ids=LENGTHENED, finish=2).session().open()
    assert game.view["state"] == OPEN
    assert_guilty_at_once(Game(arena, request=asked, ids=[11, 12], finish=1, index=1))


def assert_guilty_at_once(game: Game) -> None:
    world = game.world
    before = {who: world.credit(who) for who in (OPENER, CLIENT, PROVIDER)}
    game.open()
    assert game.view["state"] == GUILTY
    (found,) = world.logs("FaultFound")
    assert tuple(found.values.values()) == (game.id, LENGTHS, OPENER.address, OPENER.address)
    (resolved,) = world.logs("DisputeResolved")
    assert tuple(resolved.values.values()) == (*game.triple, True)
    reward = min(BOND * SHARE_BPS // 10_000, (BOND - CHARGED) // 2)
    assert world.credit(OPENER) == before[OPENER] + reward
    assert world.credit(CLIENT) == before[CLIENT] + CHARGED
    assert world.credit(PROVIDER) == before[PROVIDER]
    assert game.view["prepaid"] == 0


# --- what can be judged


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"sampler": 1, "top_p_q16": 65_536, "seed": keccak256(b"seed"), "temperature_q16": 65_536}, True),
        ({"sampler": 1, "seed": keccak256(b"seed"), "temperature_q16": 65_536}, False),
        ({"sampler": 1, "top_p_q16": 65_536}, True),
        ({"sampler": 1, "top_p_q16": 65_535}, False),
        ({"sampler": 1, "top_k": 1}, False),
        ({"sampler": 2, "top_p_q16": 65_536, "temperature_q16": 65_536}, True),
        ({"sampler": 2, "top_p_q16": 65_536, "top_k": 1}, False),
        ({"sampler": 2}, False),
        ({"sampler": 3, "top_p_q16": 65_536}, False),
        ({"max_output_tokens": CONTEXT - 3}, True),
        ({"max_output_tokens": CONTEXT - 2}, False),
        ({"input_tokens": 0}, False),
    ],
)
def test_can_judge_says_which_answers_can_be_proved_wrong(
    arena: DisputeWorld, changes: dict[str, Any], holds: bool
) -> None:
    assert arena.disputes.canJudge(MODEL.values(), request(**changes).values()) is holds


@pytest.mark.parametrize("part", ["program_root", "tables_root"])
def test_can_judge_only_models_that_the_judge_accepts(arena: DisputeWorld, part: str) -> None:
    other: Model = dataclasses.replace(MODEL, **{part: keccak256(b"other")})
    assert not arena.disputes.canJudge(other.values(), request().values())
