"""Providers of proofs announce themselves, and clients find them by the index, compare them and take the best."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.endpoints import Reach
from client.errors import BadRequest, NotEnoughProviders
from client.proofs import ProofClient
from client.provers import ProverPolicy, Provers
from market.errors import ConfigError
from market.index import Index
from market.keystore import save_account
from market.proofs.artefact import ProofArtefact
from market.types import Mode
from provider.config import Prices
from provider.proofs_cli import ProvingAgent, proving
from tests.integration.chain.world import CLIENT, PROVIDERS, STAKE
from tests.integration.proofs.shopping import BASE_FEE, STRANGER, VALUES, Shopping

DEAR = 3 * BASE_FEE
OTHER = 1  # the second provider, dearer
FAR = Reach.LOOPBACK


@pytest.fixture(scope="module")
def agent(shopping: Shopping, tiny: ProofArtefact, private: ProofArtefact) -> Iterator[ProvingAgent]:
    """Announced, at the usual price."""
    with proving(dataclasses.replace(shopping.settings(tiny, private), endpoint="", label="eu")) as running:
        yield running


@pytest.fixture
def index(shopping: Shopping) -> Iterator[Index]:
    found = Index("sqlite://", shopping.world.chain, shopping.world.deployment)
    yield found
    found.close()


def _client(shopping: Shopping, index: Index, policy: ProverPolicy | None = None) -> ProofClient:
    """The shopping client, with an index to look in."""
    client = shopping.client
    token, who = shopping.world.token.address, shopping.world.account(CLIENT).address
    client._provers = Provers(index, policy or ProverPolicy(reach=FAR), token=token, client=who)
    return client


def _address(shopping: Shopping, provider: int) -> str:
    return shopping.world.account(PROVIDERS[provider]).address


def test_an_agent_announces_where_it_is_and_what_a_proof_costs(
    shopping: Shopping, agent: ProvingAgent, index: Index, tiny: ProofArtefact, private: ProofArtefact
) -> None:
    index.sync()
    for artefact in (tiny, private):
        (found,) = index.offers(artefact.model_id)
        assert (found.provider, found.endpoint) == (_address(shopping, 0), agent.url)
        assert found.labels.rstrip(b"\0") == b"eu"
        assert found.offer.offers(Mode.PROOF)
        assert not found.offer.offers(Mode.QUORUM)
        shape = (found.offer.max_input_tokens, found.offer.max_output_tokens)
        assert shape == (artefact.program.inputs, artefact.program.outputs)
        assert (found.offer.base_fee, found.is_drawable) == (BASE_FEE, False)


def test_announcing_again_sends_nothing(shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact) -> None:
    del agent
    said: list[str] = []
    settings = shopping.settings(tiny, provider=OTHER)
    with proving(dataclasses.replace(settings, endpoint="http://prover.example"), said.append):
        assert len(said) == 2
    with proving(dataclasses.replace(settings, endpoint="http://prover.example", leave=True), said.append):
        assert len(said) == 2
    assert said[2:] == [f"no longer offers proofs of tiny (0x{tiny.model_id.hex()})"]
    view = shopping.world.registry.offer(_address(shopping, OTHER), tiny.model_id)
    assert view.modes == 0


def test_a_client_that_names_nobody_buys_from_the_cheapest(
    shopping: Shopping, agent: ProvingAgent, index: Index, tiny: ProofArtefact
) -> None:
    dear = dataclasses.replace(
        shopping.settings(tiny, provider=OTHER), endpoint="", prices=Prices(base_fee=DEAR), leave=True
    )
    with proving(dear) as other:
        client = _client(shopping, index)
        offered = client.negotiate(tiny, VALUES)
        assert (offered.quote.provider, offered.price) == (_address(shopping, 0), BASE_FEE)
        assert [(item.provider, item.constraint) for item in offered.left_out] == [(_address(shopping, OTHER), "score")]
        assert client.classify(offered).paid == BASE_FEE

        denied = _client(shopping, index, ProverPolicy(deny=frozenset({_address(shopping, 0)}), reach=FAR)).negotiate(
            tiny, VALUES
        )
        assert (denied.endpoint, denied.price) == (other.url, DEAR)
    index.sync()
    (left,) = index.offers(tiny.model_id)
    assert left.provider == _address(shopping, 0)
    assert left.jobs_paid >= 1


def test_a_private_input_is_bought_from_a_provider_that_was_found(
    shopping: Shopping, agent: ProvingAgent, index: Index, private: ProofArtefact
) -> None:
    offered = _client(shopping, index).negotiate(private, VALUES)
    assert offered.endpoint == agent.url
    assert _client(shopping, index).classify(offered).paid == BASE_FEE


def test_who_is_left_out_is_told_with_the_reason(
    shopping: Shopping, agent: ProvingAgent, index: Index, tiny: ProofArtefact, other: ProofArtefact
) -> None:
    """Too dear; not to be connected to; selling another mode; dead; and a model that nobody proves."""
    del agent
    world = shopping.world
    offer = dataclasses.replace(
        world.registry.offer(_address(shopping, 0), tiny.model_id), base_fee=1, modes=1 << Mode.QUORUM
    )
    set_offer = world.registry.set_offer
    world.send(STRANGER, world.registry.set_provider("http://127.0.0.1:9"), set_offer(tiny.model_id, offer))
    with pytest.raises(NotEnoughProviders) as caught:
        _client(shopping, index).negotiate(tiny, VALUES, max_price=BASE_FEE - 1)
    reasons = {item["constraint"] for item in caught.value.details["left_out"]}
    assert reasons == {"max_price", "mode"}
    world.send(STRANGER, set_offer(tiny.model_id, dataclasses.replace(offer, modes=1 << Mode.PROOF)))
    found = _client(shopping, index).negotiate(tiny, VALUES)
    assert [(item.constraint) for item in found.left_out] == ["unreachable"]
    with pytest.raises(NotEnoughProviders) as caught:
        _client(shopping, index, ProverPolicy(reach=Reach.PUBLIC)).negotiate(tiny, VALUES)
    assert {item["constraint"] for item in caught.value.details["left_out"]} == {"endpoint"}
    world.send(STRANGER, world.registry.remove_provider())
    with pytest.raises(NotEnoughProviders, match="nobody offers it"):
        _client(shopping, index)._provers.find(  # type: ignore[union-attr]
            dataclasses.replace(found.request, model_id=other.model_id), other.name, lambda *_quote: (0, b"")
        )


def test_without_an_index_a_provider_must_be_named(shopping: Shopping, index: Index, tiny: ProofArtefact) -> None:
    client = _client(shopping, index)
    client._provers = None
    with pytest.raises(BadRequest, match="no index"):
        client.negotiate(tiny, VALUES)


def test_a_stake_is_asked_of_nobody(shopping: Shopping, agent: ProvingAgent, index: Index) -> None:
    del agent
    assert shopping.world.vault.stake_of(_address(shopping, 0)).free < STAKE


def test_the_command_finds_its_provider(
    shopping: Shopping, agent: ProvingAgent, tiny: ProofArtefact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from client.cli_job import job_app

    keystore = tmp_path / "key.json"
    save_account(keystore, shopping.world.account(CLIENT), "password", light=True)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASSAY_PASSWORD", "password")
    market = [
        "--rpc",
        shopping.world.anvil.rpc_url,
        "--deployment",
        str(shopping.manifest),
        "--keystore",
        str(keystore),
    ]

    def run(*options: str) -> Any:
        command = ["classify", "1,2,3,-4", "--artefact", str(tiny.folder), *options, *market]
        return CliRunner().invoke(job_app, command, catch_exceptions=True)

    quoted = run("--quote", "--json")
    assert quoted.exit_code == 0, quoted.output
    document = json.loads(quoted.stdout)
    assert (document["endpoint"], document["price"]) == (agent.url, str(BASE_FEE))
    posted = shopping.world.contracts.proofs.client_nonce(shopping.world.account(CLIENT).address)
    bought = run("--yes", "--json")
    assert bought.exit_code == 0, bought.output
    assert json.loads(bought.stdout.splitlines()[-1])["provider"] == _address(shopping, 0).lower()
    assert shopping.world.contracts.proofs.client_nonce(shopping.world.account(CLIENT).address) == posted + 1
    refused = run("--yes", "--deny", _address(shopping, 0))
    assert isinstance(refused.exception, NotEnoughProviders)
    assert "deny list" in str(refused.exception)
    odd = run("--yes", "--allow", "nobody")
    assert isinstance(odd.exception, BadRequest)


def test_an_address_that_nobody_reaches_is_not_announced(tmp_path: Path) -> None:
    from provider.proofs_cli import prove

    with pytest.raises(ConfigError, match="--endpoint"):
        prove([tmp_path], tmp_path, host="0.0.0.0")  # noqa: S104 - refused
