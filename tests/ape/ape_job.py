"""A whole job through ape: its compiler plugin, its foundry provider, its contract objects and decoded errors.

Run by tests/ape/test_ape.py, with `ape test -c tests/ape/ape.ini tests/ape`. The settings in ape-config.yaml are
those of tools/compiler.py; that they give the same bytecode is one of the tests.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import ape
import pytest
from ape.api import AccountAPI
from ape.contracts import ContractContainer, ContractInstance
from ethpm_types import ContractType

from market.artefacts import LIBRARIES, STEPS
from market.code import Code
from market.hashing import ZERO32, keccak256, pack_stop_tokens, tokens_root
from market.settlement import JobState, Terms, price
from market.signing import Domain
from market.types import ZERO_ADDRESS, Commitment, Mode, Output, Quote, Request
from tests.ape.command import without_metadata
from tools.build_contracts import ABI, SHIPPED

DAY = 86_400
STAKE, BOND = 10**6, 10_000
ASKED = Request(
    model_id=keccak256(b"model"),
    input_root=tokens_root([1, 2, 3]),
    input_tokens=3,
    max_output_tokens=16,
    stop_tokens=pack_stop_tokens([2]),
    sampler=0,
    temperature_q16=0,
    top_k=0,
    top_p_q16=0,
    seed=ZERO32,
    nonce=keccak256(b"nonce"),
)
RIGHT = Output(tokens_root([7, 8, 2]), 3, 1)
WRONG = Output(tokens_root([7, 9, 2]), 3, 1)


@dataclasses.dataclass
class Market:
    token: ContractInstance
    vault: ContractInstance
    jobs: ContractInstance
    client: AccountAPI
    providers: list[AccountAPI]
    domain: Domain


def salt_of(provider: AccountAPI) -> bytes:
    return keccak256(str(provider.address).encode())


@pytest.fixture(scope="session", autouse=True)
def libraries(project: Any, accounts: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name → address, of libraries deployed with the shipped code: a test compares what ape compiles with it.

    ape knows no Jobs and no Judge before it knows the libraries; then it compiles all sources, once and at once: what
    it compiles after a change, alone, comes out in another order.
    """
    deployed = {name: accounts[0].deploy(shipped(name)) for name in (*STEPS, *LIBRARIES)}
    nowhere = ape.Project(tmp_path_factory.mktemp("empty"))  # in its own project ape compiles each library again, alone
    for library in deployed.values():
        ape.compilers.solidity.add_library(library, project=nowhere)
    project.load_contracts(use_cache=False)
    return {name: library.address for name, library in deployed.items()}


def shipped(name: str) -> ContractContainer:
    """A contract as ape knows one, of market/abi."""
    artefact = json.loads((ABI / f"{name}.json").read_text(encoding="utf-8"))
    code = {"deploymentBytecode": artefact["bytecode"], "runtimeBytecode": artefact["deployedBytecode"]}
    kept = {key: artefact[key] for key in ("abi", "contractName")}
    kept |= {key: {"bytecode": value} for key, value in code.items()}
    return ContractContainer(ContractType.model_validate(kept | {"sourceId": artefact["sourceName"]}))


@pytest.fixture
def market(project: Any, accounts: Any) -> Market:
    deployer, client, *providers = accounts[:5]
    token = deployer.deploy(project.TestToken)
    vault = deployer.deploy(project.Vault, deployer, token, 14 * DAY, [(token.address, 10**12)])
    registry = deployer.deploy(project.Registry, vault, 10**6)
    jobs = deployer.deploy(project.Jobs, vault, registry, ZERO_ADDRESS, DAY, 2_000, DAY, 100)
    vault.seal([jobs.address], sender=deployer)
    for actor in (client, *providers):
        token.mint(actor, STAKE, sender=actor)
        token.approve(vault, STAKE, sender=actor)
    for provider in providers:
        vault.deposit(token, provider, STAKE, sender=provider)
        vault.stake(STAKE, sender=provider)
    chain_id = project.provider.chain_id if hasattr(project, "provider") else ape.chain.chain_id
    return Market(token, vault, jobs, client, providers, Domain(chain_id, jobs.address))


def quote(market: Market, provider: AccountAPI) -> Quote:
    return Quote(
        provider=provider.address,
        client=ZERO_ADDRESS,
        model_id=ASKED.model_id,
        request_hash=ZERO32,
        mode=Mode.QUORUM,
        token=market.token.address,
        base_fee=1_000,
        price_per_m_input=500_000,
        price_per_m_output=2_000_000,
        kill_fee=100,
        miss_fee=3_000,
        bond=BOND,
        max_input_tokens=1_024,
        max_output_tokens=256,
        valid_until=2**40,
        nonce=1,
    )


def signed(market: Market, value: Quote, provider: AccountAPI) -> tuple[tuple[Any, ...], bytes]:
    signature = provider.sign_raw_msghash(market.domain.digest(value))
    return value.values(), signature.encode_rsv()


def post(market: Market, max_escrow: int = 10**6) -> tuple[bytes, list[Quote]]:
    quotes = [quote(market, provider) for provider in market.providers]
    pairs = [signed(market, q, p) for q, p in zip(quotes, market.providers, strict=True)]
    params = (Mode.QUORUM, 2, max_escrow, 60, 60, ASKED.values(), pairs, b"", b"", 0)
    receipt = market.jobs.post(params, sender=market.client)
    (event,) = receipt.events.filter(market.jobs.JobPosted)
    return bytes(event.jobId), quotes


def commit(market: Market, job: bytes, provider: AccountAPI, output: Output) -> None:
    value = Commitment(job, provider.address, output.output_hash, salt_of(provider))
    market.jobs.commit(job, market.domain.digest(value), sender=provider)


def test_job_from_post_to_withdrawal(market: Market, chain: Any) -> None:
    job, quotes = post(market)
    for provider, output in zip(market.providers, (RIGHT, RIGHT, WRONG), strict=True):
        commit(market, job, provider, output)
    for provider, output in zip(market.providers, (RIGHT, RIGHT, WRONG), strict=True):
        market.jobs.reveal(job, output.values(), salt_of(provider), sender=provider)
    receipt = market.jobs.settle(job, sender=market.providers[2])
    (event,) = receipt.events.filter(market.jobs.Settled)
    cost = price(Terms.of(quotes[0]), 3, 3)
    assert (event.outputHash, event.paid) == (RIGHT.output_hash, 2 * cost)
    assert market.jobs.job(job).state == JobState.SETTLED
    credits_ = [market.vault.credit(market.token, p) for p in market.providers]
    assert credits_ == [cost, cost, 0]

    chain.pending_timestamp += DAY + 1
    for provider in market.providers:
        market.jobs.releaseBond(job, provider, sender=market.client)
        assert market.vault.staked(provider) == STAKE
    for owner in (market.client, *market.providers[:2]):
        owed, before = market.vault.credit(market.token, owner), market.token.balanceOf(owner)
        market.vault.withdraw(market.token, owner, owed, sender=owner)
        assert market.token.balanceOf(owner) == before + owed
    market.vault.requestUnstake(STAKE, sender=market.providers[0])
    chain.pending_timestamp += 14 * DAY + 1
    market.vault.finishUnstake(market.providers[0], sender=market.client)
    assert market.vault.credit(market.token, market.providers[0]) == STAKE


def test_error_is_decoded_by_its_name(market: Market) -> None:
    with ape.reverts(market.jobs.EscrowAboveCap):
        post(market, max_escrow=1)
    with ape.reverts(market.vault.NotModule):
        market.vault.pay(market.token, market.client, 1, sender=market.client)


@pytest.mark.parametrize("name", SHIPPED.values())
def test_ape_compiles_to_the_shipped_code(project: Any, libraries: dict[str, str], name: str) -> None:
    shipped = json.loads((ABI / f"{name}.json").read_text(encoding="utf-8"))
    compiled = project.get_contract(name).contract_type
    linked = Code.parse(shipped["deployedBytecode"], shipped["deployedLinkReferences"]).linked(libraries)
    ours, theirs = linked.hex(), compiled.runtime_bytecode.bytecode
    assert without_metadata(theirs) == without_metadata(ours)
    assert [entry["name"] for entry in shipped["abi"] if "name" in entry] == [
        entry.name for entry in compiled.abi if getattr(entry, "name", None)
    ]
