"""Hashes are compared for being equal, not for order: what differs is refused above the right value and below it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from market.hashing import keccak256, pack_tokens, tokens_root
from market.settlement import JobState, ReplicaState
from market.types import Output, Request
from tests.unit.contracts.checks import reverts
from tests.unit.contracts.test_jobs_bonds import dispute, evidence
from tests.unit.contracts.world import CLIENT, INPUT, REPLICAS, REVEAL_WINDOW, World, answer, request, salt_of

ONE, TWO, THREE = REPLICAS[:3]
A, P = CLIENT.address, ONE.address
RIGHT = answer()
SIDES = ["below", "above"]


def beside(right: bytes, side: str, make: Callable[[int], bytes]) -> int:
    """The first number of which `make` gives a hash on that side of the right one."""
    return next(i for i in range(1_000) if (make(i) < right) == (side == "below") and make(i) != right)


def other_output(side: str, right: Output = RIGHT) -> Output:
    return answer(f"other {beside(right.output_hash, side, lambda i: answer(f'other {i}').output_hash)}")


def other_hash(right: bytes, side: str) -> bytes:
    return keccak256(bytes([beside(right, side, lambda i: keccak256(bytes([i])))]))


@pytest.mark.parametrize("side", SIDES)
def test_late_reveal_of_another_output_is_refused(world: World, side: str) -> None:
    other = other_output(side)
    job = world.post()
    world.commit(job, (ONE, RIGHT), (TWO, RIGHT), (THREE, other))
    world.reveal(job, (ONE, RIGHT), (TWO, RIGHT))
    world.warp(REVEAL_WINDOW + 1)
    with reverts("LateAndNotAgreed", jobId=job.id, provider=THREE.address):
        world.reveal(job, (THREE, other))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("first", [True, False])
def test_other_output_makes_no_agreement(world: World, side: str, first: bool) -> None:
    pair = [RIGHT, other_output(side)]
    job = world.post()
    answers = list(zip((ONE, TWO), pair if first else pair[::-1], strict=True))
    world.commit(job, *answers)
    world.commit(job, (THREE, answer("third")))
    world.reveal(job, *answers)
    assert world.job(job)["outputHash"] == bytes(32)


@pytest.mark.parametrize("side", SIDES)
def test_other_output_is_not_paid(world: World, side: str) -> None:
    job = world.settled(RIGHT, RIGHT, other_output(side))
    assert world.job(job)["state"] == JobState.SETTLED
    assert [world.replica(job, i)["paid"] > 0 for i in range(3)] == [True, True, False]
    assert world.credit(THREE) == 0


@pytest.mark.parametrize("side", SIDES)
def test_other_output_opens_no_commitment(world: World, side: str) -> None:
    job = world.post()
    world.commit(job, *((p, RIGHT) for p in REPLICAS[:3]))
    expected = world.commitment(job, ONE, RIGHT)
    digest = world.jobs.hashCommitment
    salt = bytes([beside(expected, side, lambda i: digest(job.id, P, RIGHT.output_hash, bytes([i]) * 32))]) * 32
    with reverts(
        "BadReveal", jobId=job.id, provider=P, expected=expected, got=digest(job.id, P, RIGHT.output_hash, salt)
    ):
        world.jobs.reveal(job.id, RIGHT.values(), salt, sender=P)
    world.jobs.reveal(job.id, RIGHT.values(), salt_of(ONE), sender=P)
    assert world.replica(job, 0)["state"] == ReplicaState.REVEALED


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("field", ["modelId", "requestHash"])
def test_quote_for_another_model_or_request_is_refused(world: World, field: str, side: str) -> None:
    if field == "modelId":
        change = {"model_id": other_hash(request().model_id, side)}
    else:
        change = {"request_hash": other_hash(request().request_hash, side)}
    quotes = [world.quote(ONE, **change), *(world.quote(p) for p in (TWO, THREE))]
    with reverts("QuoteMismatch", provider=P, field=field.encode().ljust(32, b"\0")):
        world.jobs.post(world.params(quotes), sender=A)


@pytest.mark.parametrize("side", SIDES)
def test_other_inline_input_is_refused(world: World, side: str) -> None:
    right = tokens_root(INPUT)
    other = [*INPUT[:-1], 100 + beside(right, side, lambda i: tokens_root([*INPUT[:-1], 100 + i]))]
    with reverts("InputMismatch", expected=right, got=tokens_root(other)):
        world.post(inline=pack_tokens(other))


@pytest.mark.parametrize("side", SIDES)
def test_evidence_about_another_request_is_refused(world: World, side: str) -> None:
    job = world.settled(RIGHT, RIGHT, answer("wrong"))

    def changed(i: int) -> Request:
        return request(nonce=keccak256(bytes([i])))

    right = job.request.request_hash
    other = changed(beside(right, side, lambda i: changed(i).request_hash))
    with reverts("EvidenceMismatch", expected=right, got=other.request_hash):
        dispute(world, job, data=evidence(other))


@pytest.mark.parametrize("mode", [0, 2, 3])
def test_quote_for_a_mode_below_or_above_is_refused(world: World, mode: int) -> None:
    quotes = [world.quote(ONE, mode=mode), *(world.quote(p) for p in (TWO, THREE))]
    with reverts("QuoteMismatch", provider=P, field=b"mode".ljust(32, b"\0")):
        world.jobs.post(world.params(quotes), sender=A)
