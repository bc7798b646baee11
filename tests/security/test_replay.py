"""Everything that is signed or hashed, used again: on a second chain, on a second contract, in another job, twice."""

from __future__ import annotations

import dataclasses

import pytest

from market.signing import Domain, sign
from market.types import Commitment, Quote
from tests.security.money import books
from tests.unit.contracts.abi import CHAIN_ID
from tests.unit.contracts.checks import new_vault, reverts
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.world import (
    CLIENT,
    OTHER_CLIENT,
    REPLICAS,
    STRANGER,
    PostedJob,
    World,
    answer,
    pack_permit,
    request,
    salt_of,
)

A, B = CLIENT.address, OTHER_CLIENT.address
ONE, TWO, THREE = REPLICAS[:3]
P = ONE.address
RIGHT = answer()
OTHER_CHAIN = 1_337  # another development chain: the test token mints on no other kind


@pytest.fixture(scope="module")
def twin() -> World:
    """The same contracts at the same addresses on another chain: all that differs is the chain's id."""
    world = World()
    made = World(world.artefacts, RevmChain(list(world.artefacts.values()), chain_id=OTHER_CHAIN))
    assert (made.jobs.address, made.vault.address, made.token.address) == (
        world.jobs.address,
        world.vault.address,
        world.token.address,
    )
    return made


def second_jobs(world: World) -> World:
    """The same world beside which a second vault and Jobs stand, with everybody's stake in both."""
    other = World.__new__(World)
    other.__dict__.update(world.__dict__)
    other.vault = new_vault(world, modules=None)
    other.jobs = world.deploy("Jobs", *other.jobs_arguments())
    other.vault.seal([other.jobs.address], sender=other.vault.guardian())
    other.domain = Domain(CHAIN_ID, other.jobs.address)
    for owner in (A, *(p.address for p in REPLICAS[:3])):
        world.token.mint(owner, 10**8, sender=owner)
        world.token.approve(other.vault.address, 10**8, sender=owner)
    for provider in REPLICAS[:3]:
        other.vault.deposit(world.token.address, provider.address, 10**6, sender=provider.address)
        other.vault.stake(10**6, sender=provider.address)
    return other


def quotes_of(world: World) -> list[Quote]:
    return [world.quote(p) for p in REPLICAS[:3]]


def test_quote_signed_for_one_chain_is_worth_nothing_on_another(world: World, twin: World) -> None:
    quotes = quotes_of(world)
    signed = [world.signed(quote) for quote in quotes]
    before = books(twin.vault)
    with reverts("BadSignature", provider=P):
        twin.jobs.post(twin.params(signed), sender=A)
    assert books(twin.vault) == before
    world.jobs.post(world.params(signed), sender=A)
    assert world.jobs.hashQuote(quotes[0].values()) != twin.jobs.hashQuote(quotes[0].values())


def test_quote_signed_for_one_contract_is_worth_nothing_at_another(world: World) -> None:
    other = second_jobs(world)
    signed = [world.signed(quote) for quote in quotes_of(world)]
    with reverts("BadSignature", provider=P):
        other.jobs.post(other.params(signed), sender=A)
    other.jobs.post(other.params([other.signed(q) for q in quotes_of(other)]), sender=A)


def test_quote_of_a_wallet_contract_is_bound_to_chain_and_contract_as_well(world: World, twin: World) -> None:
    wallet = world.deploy("ContractWallet", ONE.address)
    assert twin.deploy("ContractWallet", ONE.address).address == wallet.address
    quote = world.quote(ONE, provider=wallet.address)
    params = world.params([world.signed(quote, ONE), *(world.quote(p) for p in (TWO, THREE))])
    with reverts("BadSignature", provider=wallet.address):
        twin.jobs.post(params, sender=A)
    with reverts("BadSignature", provider=wallet.address):
        second_jobs(world).jobs.post(params, sender=A)
    world.jobs.post(params, sender=A)


def test_quote_is_bound_to_every_one_of_its_fields(world: World) -> None:
    """Each field changed to another value that post would take, under the signature of the first."""
    quote = world.quote(ONE)
    _, signature = world.signed(quote)
    rest = [world.quote(p) for p in (TWO, THREE)]
    others = {
        "client": A,
        "request_hash": request().request_hash,
        "base_fee": quote.base_fee - 1,
        "price_per_m_input": quote.price_per_m_input - 1,
        "price_per_m_output": quote.price_per_m_output - 1,
        "kill_fee": quote.kill_fee - 1,
        "miss_fee": quote.miss_fee + 1,
        "bond": quote.bond + 1,
        "max_input_tokens": quote.max_input_tokens - 1,
        "max_output_tokens": quote.max_output_tokens - 1,
        "valid_until": quote.valid_until - 1,
        "nonce": quote.nonce + 1_000,
    }
    for field, value in others.items():
        changed = dataclasses.replace(quote, **{field: value})
        with reverts("BadSignature", provider=P):
            world.jobs.post(world.params([(changed.values(), signature), *rest]), sender=A)
        assert isinstance(world.chain, RevmChain)
        with world.chain.undone():  # nothing else is wrong with it
            world.jobs.post(world.params([changed, *rest]), sender=A)
    world.jobs.post(world.params([(quote.values(), signature), *rest]), sender=A)


def test_permit_of_another_chain_gives_no_allowance(world: World, twin: World) -> None:
    here = pack_permit(world.permit(CLIENT, world.vault.address, 10**8))
    twin.token.approve(twin.vault.address, 0, sender=A)
    before = books(twin.vault)
    with pytest.raises(Exception, match="ERC20InsufficientAllowance"):
        twin.jobs.post(twin.params(quotes_of(twin), permit=here), sender=A)
    assert books(twin.vault) == before
    world.token.approve(world.vault.address, 0, sender=A)
    world.post(permit=here)


def test_permit_for_another_vault_gives_no_allowance(world: World) -> None:
    other = second_jobs(world)
    permit = pack_permit(world.permit(CLIENT, other.vault.address, 10**8))
    world.token.approve(world.vault.address, 0, sender=A)
    with pytest.raises(Exception, match="ERC20InsufficientAllowance"):
        world.post(permit=permit)


def test_permit_serves_once(world: World) -> None:
    world.token.approve(world.vault.address, 0, sender=A)
    cost = sum_of_escrow(world)
    permit = pack_permit(world.permit(CLIENT, world.vault.address, cost))
    world.post(permit=permit)
    with pytest.raises(Exception, match="ERC20InsufficientAllowance"):
        world.post(permit=permit)


def test_permit_of_somebody_else_pays_for_nobody(world: World) -> None:
    """A permit is checked against the caller: with another's in hand one still pays oneself."""
    world.token.approve(world.vault.address, 0, sender=B)
    stolen = pack_permit(world.permit(CLIENT, world.vault.address, 10**8))
    before = world.token.balanceOf(A)
    with pytest.raises(Exception, match="ERC20InsufficientAllowance"):
        world.post(client=OTHER_CLIENT, permit=stolen)
    assert world.token.balanceOf(A) == before


def sum_of_escrow(world: World) -> int:
    """Escrow of a job of three as `post` makes it."""
    assert isinstance(world.chain, RevmChain)
    with world.chain.undone():
        world.token.approve(world.vault.address, 10**9, sender=A)
        return int(world.job(world.post())["escrow"])


# --- commitments


def commit_of(domain: Domain, job_id: bytes) -> bytes:
    return domain.digest(Commitment(job_id, P, RIGHT.output_hash, salt_of(ONE)))


@pytest.mark.parametrize("what", ["chain", "contract", "job", "provider"])
def test_commitment_made_for_something_else_never_opens(world: World, what: str) -> None:
    job, other = world.post(), world.post()
    made = {
        "chain": commit_of(Domain(CHAIN_ID + 1, world.jobs.address), job.id),
        "contract": commit_of(Domain(CHAIN_ID, world.vault.address), job.id),
        "job": commit_of(world.domain, other.id),
        "provider": world.domain.digest(Commitment(job.id, TWO.address, RIGHT.output_hash, salt_of(ONE))),
    }[what]
    world.jobs.commit(job.id, made, sender=P)
    world.commit(job, (TWO, RIGHT), (THREE, RIGHT))
    with reverts("BadReveal", jobId=job.id, provider=P, expected=made, got=commit_of(world.domain, job.id)):
        world.reveal(job, (ONE, RIGHT))


def test_reveal_of_one_job_opens_no_other(world: World) -> None:
    jobs: list[PostedJob] = [world.post(), world.post()]
    for job, output in zip(jobs, (RIGHT, answer("other")), strict=True):
        world.commit(job, *((p, output) for p in REPLICAS[:3]))
    expected = world.replica(jobs[1], 0)["digest"]
    got = world.commitment(jobs[1], ONE, RIGHT)
    with reverts("BadReveal", jobId=jobs[1].id, provider=P, expected=expected, got=got):
        world.reveal(jobs[1], (ONE, RIGHT))


def test_job_ids_differ_by_chain_contract_client_and_nonce(world: World, twin: World) -> None:
    other = second_jobs(world)
    ids = {w.jobs.jobIdOf(who, nonce) for w in (world, twin, other) for who in (A, B) for nonce in (0, 1)}
    assert len(ids) == 12


def test_transaction_of_a_stranger_cannot_spend_anothers_signature_over_a_quote(world: World) -> None:
    """A quote that names its client is of no use to whoever copies it from the pool of transactions."""
    quotes = [world.quote(p, client=A) for p in REPLICAS[:3]]
    signed = [(q.values(), sign(world.domain, q, p)) for q, p in zip(quotes, REPLICAS, strict=False)]
    with reverts("QuoteMismatch", provider=P, field=b"client".ljust(32, b"\0")):
        world.jobs.post(world.params(signed), sender=STRANGER.address)
    world.jobs.post(world.params(signed), sender=A)
