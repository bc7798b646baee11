"""An answer that was paid for is demanded on chain: the provider publishes it, or loses its bond."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable

import pytest
from eth_account.signers.local import LocalAccount

from client import Client
from client.demands import Demand, demand_next
from client.errors import BadRequest
from client.render import answer_text
from market.contracts import Token
from market.errors import ChainError, ContractError
from market.settlement import Terms, price
from market.views import BondState
from tests.integration.client.conftest import Town
from tests.integration.client.test_cli import assay, document

__all__ = ["assay"]
PROMPT = "the cat sat"
SECONDS = 40


def bought(client: Client, town: Town) -> tuple[bytes, str]:
    """A settled job of honest providers, and its answer."""
    result = client.run(PROMPT, max_output_tokens=5, allow=frozenset(town.honest))
    assert result.answer is not None
    return result.job_id, result.answer


def until(look: Callable[[], Demand], state: str) -> Demand:
    deadline = time.monotonic() + SECONDS
    while (found := look()).state != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_demanded_answer_is_published_and_read_from_the_chain(client: Client, town: Town, assay) -> None:
    job, answer = bought(client, town)
    provider = town.honest[0]
    before = client.balance()
    first = document(assay("job", "demand", "0x" + job.hex(), provider, "--yes", "--json"))
    assert first["state"] == "demanded"
    assert first["fee"] > 0
    found = until(lambda: client.demand(job, provider), "published")
    assert found.answer == answer
    after = client.balance()
    assert after.wallet + after.credit == before.wallet + before.credit - first["fee"]
    shown = assay("job", "demand", "0x" + job.hex(), provider, "--yes").stdout
    assert answer_text(answer) in shown
    assert json.loads(json.dumps(found.to_json()))["ids"]


def test_provider_that_stays_silent_loses_its_bond_and_everything_comes_back(client: Client, town: Town) -> None:
    job, _ = bought(client, town)
    provider = town.honest[1]
    paid = next(r.paid for r in client.marketplace.jobs.replicas(job) if r.provider == provider)
    with town.frozen(1):
        demanded = client.demand(job, provider)
        assert client.demand(job, provider).state == "waiting"
        credit = client.balance().credit
        town.pass_time(client.marketplace.jobs.demand_window() + 2)
        time.sleep(1.1)  # the client asks for the chain's time once a second
        assert client.demand(job, provider).state == "slashed"
    replica = next(r for r in client.marketplace.jobs.replicas(job) if r.provider == provider)
    assert replica.bond_state is BondState.SLASHED
    assert client.balance().credit >= credit + demanded.fee + paid


def test_demand_of_an_answer_that_was_not_paid_costs_its_price_too(client: Client, town: Town) -> None:
    liar = town.adversary("liar")
    pool = frozenset([*town.honest[:2], liar])
    result = client.run(PROMPT, max_output_tokens=5, allow=pool)
    before = client.balance()
    with pytest.raises(BadRequest, match="no replica"):
        client.demand(result.job_id, client.address)
    assert client.balance() == before
    first = client.demand(result.job_id, liar)
    replica = next(r for r in client.marketplace.jobs.replicas(result.job_id) if r.provider == liar)
    terms = Terms(replica.base_fee, replica.price_per_m_input, replica.price_per_m_output, 0, 0, 0)
    job = client.marketplace.jobs.job(result.job_id)
    assert (first.state, first.price) == ("demanded", price(terms, job.input_tokens, replica.output_tokens))
    assert first.price > 0
    assert first.wei > 0
    after = client.balance()
    assert after.wallet + after.credit == before.wallet + before.credit - first.fee - first.price
    found = until(lambda: client.demand(result.job_id, liar), "published")
    assert found.ids is not None
    assert found.answer != result.answer


class NoPermits(Token):
    """A token as there were before ERC-2612."""

    def permit(self, account: LocalAccount, spender: str, value: int, deadline: int) -> bytes:
        raise ChainError("no such function")


def test_fee_in_a_token_without_permits_is_approved_only_where_the_demand_is_taken(client: Client, town: Town) -> None:
    """A demand that the contract refused left an allowance behind."""
    old, _ = bought(client, town)
    town.pass_time(client.marketplace.jobs.dispute_window() + 2)
    time.sleep(1.1)  # the client asks for the chain's time once a second
    job, _ = bought(client, town)
    withdraw_all(client)  # else credit pays the fee
    plain = client.marketplace
    token = NoPermits(plain.chain, plain.token.address)
    place = dataclasses.replace(plain, token=token)
    wallet = client.wallet
    assert wallet is not None

    def allowance() -> int:
        return token.allowance(client.address, place.vault.address)

    before = allowance()
    sent = place.chain.transaction_count(client.address)
    with pytest.raises(ContractError) as caught:
        demand_next(place, wallet, old, town.honest[0])
    assert caught.value.code in ("TooLate", "WrongBondState")  # its agent may have released the bond by now
    assert (allowance(), place.chain.transaction_count(client.address)) == (before, sent)
    assert demand_next(place, wallet, job, town.honest[0]).state == "demanded"
    assert place.chain.transaction_count(client.address) == sent + 2
    assert allowance() == 0


def withdraw_all(client: Client) -> None:
    if client.balance().credit:
        client.withdraw()
