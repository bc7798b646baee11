"""ProofJobs: post, settle by proof, expire. What a proof says is test_ezkl_verifier.py's; real proofs are in
tests/integration/proofs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from market.hashing import ZERO32, keccak256, pack_tokens, tokens_root
from market.types import ZERO_ADDRESS, Mode, Output
from tests.unit.contracts.abi import Revert
from tests.unit.contracts.proofs import INPUT, OUTPUT, PRICE, PROVIDER, WINDOW, ProofWorld, pack
from tests.unit.contracts.world import CLIENT, DAY, OTHER_CLIENT, REPLICAS, STRANGER, pack_permit

PROOF = bytes(64)
OPEN, SETTLED, EXPIRED = 1, 2, 3


@contextmanager
def _refused(name: str, **values: Any) -> Iterator[None]:
    """A revert with this error, and these of its values."""
    with pytest.raises(Revert) as caught:
        yield
    assert caught.value.name == name
    assert {key: caught.value.values[key] for key in values} == values


def test_a_proof_settles_and_pays_in_one_transaction(proving: ProofWorld) -> None:
    before = proving.credit(PROVIDER)
    job = proving.post_proof(proving.proof_request(proving.offer()))
    assert proving.proof_held() == PRICE
    proving.settle_proof(job, pack(PROOF, proving.instances(job)))
    assert proving.credit(PROVIDER) == before + PRICE
    assert proving.proof_held() == 0
    found = proving.proof_job(job)
    assert found["state"] == SETTLED
    assert found["outputHash"] == Output(tokens_root(OUTPUT), len(OUTPUT), 2).output_hash
    (event,) = proving.logs("Proved")
    assert event.values["ids"] == pack_tokens(OUTPUT)
    assert event.values["paid"] == PRICE


def test_a_settled_job_is_not_settled_or_expired_again(proving: ProofWorld) -> None:
    job = proving.post_proof(proving.proof_request(proving.offer()))
    proof = pack(PROOF, proving.instances(job))
    proving.settle_proof(job, proof)
    with _refused("ProofJobNotOpen", state=SETTLED):
        proving.settle_proof(job, proof)
    proving.warp(DAY)
    with _refused("ProofJobNotOpen"):
        proving.proofs.expire(job.id, sender=CLIENT.address)


def test_only_the_assigned_provider_settles(proving: ProofWorld) -> None:
    job = proving.post_proof(proving.proof_request(proving.offer()))
    proof = pack(PROOF, proving.instances(job))
    for other in (CLIENT, STRANGER, REPLICAS[1]):
        with _refused("NotTheProver"):
            proving.settle_proof(job, proof, sender=other)
    assert proving.proof_held() == PRICE


def test_a_job_settles_in_the_last_second_and_not_after(proving: ProofWorld) -> None:
    model_id = proving.offer()
    in_time, late = (proving.post_proof(proving.proof_request(model_id)) for _ in range(2))
    proving.warp(WINDOW)
    with _refused("ProofNotDue"):
        proving.proofs.expire(in_time.id, sender=CLIENT.address)
    proving.settle_proof(in_time, pack(PROOF, proving.instances(in_time)))
    proving.warp(1)
    with _refused("ProofTooLate"):
        proving.settle_proof(late, pack(PROOF, proving.instances(late)))


def test_a_job_that_nobody_proves_gives_the_whole_escrow_back_to_the_client(proving: ProofWorld) -> None:
    job = proving.post_proof(proving.proof_request(proving.offer()))
    before = proving.credit(CLIENT)
    proving.warp(WINDOW + 1)
    proving.proofs.expire(job.id, sender=STRANGER.address)
    assert proving.credit(CLIENT) == before + PRICE
    assert proving.proof_held() == 0
    assert proving.proof_job(job)["state"] == EXPIRED
    with _refused("ProofJobNotOpen", state=EXPIRED):
        proving.proofs.expire(job.id, sender=STRANGER.address)


def test_a_job_that_costs_nothing_ends_like_any_other_and_moves_nothing(proving: ProofWorld) -> None:
    model_id = proving.offer()
    free = {"base_fee": 0, "price_per_m_input": 0, "price_per_m_output": 0}
    asked = proving.proof_request(model_id)
    proved, unproved = (proving.post_proof(asked, proving.proof_quote(model_id, **free)) for _ in range(2))
    before = (proving.credit(PROVIDER), proving.credit(CLIENT))
    proving.settle_proof(proved, pack(PROOF, proving.instances(proved)))
    assert [event.name for event in proving.chain.logs] == ["Proved"]
    proving.warp(WINDOW + 1)
    proving.proofs.expire(unproved.id, sender=STRANGER.address)
    assert [event.name for event in proving.chain.logs] == ["ProofExpired"]
    assert [proving.proof_job(job)["state"] for job in (proved, unproved)] == [SETTLED, EXPIRED]
    assert (proving.credit(PROVIDER), proving.credit(CLIENT)) == before


def test_a_refused_proof_pays_nothing(proving: ProofWorld) -> None:
    job = proving.post_proof(proving.proof_request(proving.offer()))
    proving.halo2.setAnswer(proving.halo2.NO(), sender=STRANGER.address)
    with _refused("ProofRefused"):
        proving.settle_proof(job, pack(PROOF, proving.instances(job)))
    assert (proving.proof_held(), proving.proof_job(job)["state"]) == (PRICE, OPEN)


def test_another_request_than_the_posted_one_settles_nothing(proving: ProofWorld) -> None:
    model_id = proving.offer()
    job = proving.post_proof(proving.proof_request(model_id))
    other = proving.proof_request(model_id, nonce=keccak256(b"other"))
    with _refused("RequestMismatch"):
        proving.settle_proof(job, pack(PROOF, proving.instances(job)), asked=other)


def test_jobs_that_nobody_posted_do_not_exist(proving: ProofWorld) -> None:
    job = proving.post_proof(proving.proof_request(proving.offer()))
    unknown = type(job)(ZERO32, job.request)
    for call in (
        lambda: proving.proof_job(unknown),
        lambda: proving.settle_proof(unknown, b""),
        lambda: proving.proofs.expire(unknown.id, sender=CLIENT.address),
    ):
        with _refused("UnknownProofJob"):
            call()


@pytest.mark.parametrize("window", [29, DAY + 1])
def test_windows_outside_the_limits_are_refused(proving: ProofWorld, window: int) -> None:
    asked = proving.proof_request(proving.offer())
    with _refused("ProofWindowOutOfRange", window=window, minimum=proving.proofs.MIN_WINDOW()):
        proving.post_proof(asked, window=window)
    assert proving.proofs.MAX_WINDOW() == DAY


def test_a_model_without_a_verifier_cannot_be_bought(proving: ProofWorld) -> None:
    with _refused("ModelNotProvable"):
        proving.post_proof(proving.proof_request(proving.publish()))


@pytest.mark.parametrize(("field", "value"), [("input_tokens", 4), ("max_output_tokens", 3)])
def test_a_request_of_another_shape_than_the_model_is_refused(proving: ProofWorld, field: str, value: int) -> None:
    with _refused("ShapeMismatch"):
        proving.post_proof(proving.proof_request(proving.offer(), **{field: value}))


def test_sampled_requests_are_refused(proving: ProofWorld) -> None:
    with _refused("BadSampler"):
        proving.post_proof(proving.proof_request(proving.offer(), sampler=1))


@pytest.mark.parametrize("field", ["bond", "miss_fee", "kill_fee"])
def test_a_quote_that_promises_what_is_not_kept_is_refused(proving: ProofWorld, field: str) -> None:
    model_id = proving.offer()
    with _refused("NoCollateral"):
        proving.post_proof(proving.proof_request(model_id), proving.proof_quote(model_id, **{field: 1}))


def test_a_quote_is_accepted_once_and_only_with_its_providers_signature(proving: ProofWorld) -> None:
    model_id = proving.offer()
    asked, quote = proving.proof_request(model_id), proving.proof_quote(model_id)
    with _refused("BadSignature"):
        proving.post_proof(asked, proving.sign_proof_quote(quote, signer=REPLICAS[1]))
    with _refused("BadSignature"):  # a signature for the module of quorum jobs means nothing here
        proving.post_proof(asked, proving.signed(quote))
    proving.post_proof(asked, quote)
    with _refused("QuoteUsed"):
        proving.post_proof(asked, quote)
    assert proving.proofs.quoteUsed(proving.proof_domain.digest(quote), CLIENT.address)
    proving.post_proof(asked, quote, client=OTHER_CLIENT)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"mode": Mode.NONE}, "QuoteMismatch"),
        ({"client": OTHER_CLIENT.address}, "QuoteMismatch"),
        ({"request_hash": keccak256(b"other")}, "QuoteMismatch"),
        ({"token": ZERO_ADDRESS}, "WrongToken"),
        ({"valid_until": 1}, "QuoteExpired"),
        ({"max_input_tokens": 2}, "QuoteLimit"),
        ({"max_output_tokens": 1}, "QuoteLimit"),
    ],
)
def test_a_quote_for_something_else_is_refused(proving: ProofWorld, changes: dict[str, Any], name: str) -> None:
    model_id = proving.offer()
    with _refused(name):
        proving.post_proof(proving.proof_request(model_id), proving.proof_quote(model_id, **changes))


def test_a_client_never_pays_more_than_its_cap(proving: ProofWorld) -> None:
    with _refused("EscrowAboveCap", escrow=PRICE, cap=PRICE - 1):
        proving.post_proof(proving.proof_request(proving.offer()), max_escrow=PRICE - 1)


def test_an_input_that_is_given_is_the_requests_and_is_published(proving: ProofWorld) -> None:
    model_id = proving.offer()
    packed = pack_tokens(INPUT)
    proving.post_proof(proving.proof_request(model_id), given=packed)
    (event,) = proving.logs("ProofRequested")
    assert event.values["input"] == packed
    with _refused("InputMismatch"):
        proving.post_proof(proving.proof_request(model_id), given=pack_tokens([1, 2, 3]))
    with _refused("InputLengthMismatch"):
        proving.post_proof(proving.proof_request(model_id), given=packed + packed)
    with _refused("InputFillerMismatch"):
        proving.post_proof(proving.proof_request(model_id), given=packed[:-1] + b"\0")


@pytest.mark.parametrize(
    ("changes", "name"), [({"input_tokens": 0}, "EmptyInput"), ({"max_output_tokens": 0}, "NoOutputAsked")]
)
def test_empty_requests_are_refused(proving: ProofWorld, changes: dict[str, int], name: str) -> None:
    with _refused(name):
        proving.post_proof(proving.proof_request(proving.offer(), **changes))


def test_a_job_id_names_chain_contract_client_and_number(proving: ProofWorld) -> None:
    model_id = proving.offer()
    nonce = proving.proofs.clientNonce(CLIENT.address)
    expected = proving.proofs.jobIdOf(CLIENT.address, nonce)
    assert proving.post_proof(proving.proof_request(model_id)).id == expected
    assert proving.proofs.clientNonce(CLIENT.address) == nonce + 1
    assert proving.jobs.jobIdOf(CLIENT.address, nonce) != expected


def test_the_module_says_what_it_is_wired_to(proving: ProofWorld) -> None:
    assert proving.proofs.vault() == proving.vault.address
    assert proving.proofs.verifier() == proving.verifier.address
    assert proving.proofs.stakeToken() == proving.token.address
    assert proving.verifier.registry() == proving.registry.address
    assert proving.proofs.eip712Domain()[1] == proving.proof_domain.name


def test_an_escrow_may_come_with_a_permit(proving: ProofWorld) -> None:
    asked = proving.proof_request(proving.offer())
    proving.token.approve(proving.vault.address, 0, sender=CLIENT.address)
    permit = pack_permit(proving.permit(CLIENT, proving.vault.address, PRICE))
    proving.post_proof(asked, permit=permit)
    assert proving.proof_held() == PRICE
