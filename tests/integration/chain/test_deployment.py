"""Deploying a market, and refusing one that is not what its manifest says."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from market.anvil import Anvil
from market.anvil_state import copy_of
from market.artefacts import load
from market.chain import CREATE, Call, Chain
from market.contracts import Vault
from market.deployment import CONTRACTS, Deployment, DeploymentParameters, Successor, deploy
from market.deployment_steps import creations
from market.deployment_steps import steps as deployment_steps
from market.errors import ChainError, ConfigError, ContractError, WrongChain
from market.hashing import keccak256
from market.transactions import Transactions
from tests.integration.chain.world import CLIENT, DEPLOYER, World, build


def test_deployment_reports_each_step_and_checks_out(anvil: Anvil, tmp_path: Path) -> None:
    steps: list[str] = []
    world = build(anvil, tmp_path, on_step=lambda name, sent: steps.append(f"{name} {sent.label}"))
    assert steps == [f"{step.name} {step.label}" for step in deployment_steps(DeploymentParameters())]
    assert (steps[0], steps[-2], steps[-1]) == (
        "token TestToken.constructor",
        "proofs ProofJobs.constructor",
        "seal Vault.seal",
    )
    assert world.deployment.block == 1
    world.deployment.check(world.chain)


def test_manifest_saved_and_loaded_is_the_same(world: World, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "deployment.json"
    world.deployment.save(path)
    assert Deployment.load(path) == world.deployment
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["vault"] == world.vault.address.lower()
    assert (written["network"], written["guardian"]) == ("local", world.account(DEPLOYER).address.lower())
    assert written["parameters"]["unbondingWindow"] == DeploymentParameters().unbonding_window
    assert written["randomness"]["source"] == "blockhash"


def test_manifest_with_a_successor_keeps_it(world: World, tmp_path: Path) -> None:
    path = tmp_path / "deployment.json"
    successor = Successor(31337, world.vault.address)
    replaced = dataclasses.replace(world.deployment, successor=successor, libraries={"Luck": world.jobs.address})
    hashes = {name: world.deployment.code_hashes[name] for name in CONTRACTS}
    hashes["Luck"] = hashes["jobs"]
    replaced = dataclasses.replace(replaced, code_hashes=hashes)
    replaced.save(path)
    assert Deployment.load(path) == replaced
    replaced.check(world.chain)


@pytest.mark.parametrize(
    ("parameters", "name", "value"),
    [({"cap": "5"}, "cap", "'5'"), ({"rootFee": None}, "rootFee", "None"), ({"disputeWindow": True}, "dispute", "Tr")],
)
def test_manifest_with_a_mistyped_parameter_names_it(
    calm_world: World, parameters: dict[str, Any], name: str, value: str
) -> None:
    document = calm_world.deployment.to_json()
    with pytest.raises(ConfigError, match=f"{name}.*{value}"):
        Deployment.from_json({**document, "parameters": document["parameters"] | parameters})


def test_deployment_with_chosen_parameters_has_them(chain: Chain, anvil: Anvil) -> None:
    parameters = DeploymentParameters(
        dispute_window=600, unbonding_window=20 * 86_400, challenger_share_bps=1000, cap=5
    )
    with Transactions(chain, anvil.accounts[DEPLOYER], ":memory:") as transactions:
        first = deploy(chain, transactions, parameters=parameters)
        second = deploy(chain, transactions, parameters=DeploymentParameters(token=first.token))
    assert second.token == first.token
    assert second.vault != first.vault


def test_deployment_with_a_short_unbonding_window_is_refused_by_the_contract(chain: Chain, anvil: Anvil) -> None:
    with (
        Transactions(chain, anvil.accounts[DEPLOYER], ":memory:") as transactions,
        pytest.raises(ContractError) as refused,
    ):
        deploy(chain, transactions, parameters=DeploymentParameters(unbonding_window=60))
    assert refused.value.code == "UnbondingTooShort"
    assert refused.value.details["window"] == 60


def test_test_token_on_a_real_chain_is_refused(tmp_path: Path) -> None:
    with Anvil.start(chain_id=4242) as anvil:
        chain = Chain(anvil.rpc_url)
        with (
            Transactions(chain, anvil.accounts[DEPLOYER], ":memory:") as transactions,
            pytest.raises(ConfigError, match="test token"),
        ):
            deploy(chain, transactions)
        assert chain.transaction_count(anvil.accounts[DEPLOYER].address) == 0


def _refused(world: World, **changes: Any) -> ChainError:
    deployment = dataclasses.replace(world.deployment, **changes)
    with pytest.raises(ChainError) as refused:
        deployment.check(world.chain)
    return refused.value


def test_manifest_of_another_chain_is_refused(calm_world: World) -> None:
    assert isinstance(_refused(calm_world, chain_id=1), WrongChain)


def test_manifest_that_names_an_empty_address_is_refused(calm_world: World) -> None:
    error = _refused(calm_world, jobs="0x" + "99" * 20)
    assert (error.code, error.details["contract"]) == ("CodeMissing", "jobs")


def test_manifest_that_names_other_code_is_refused(calm_world: World) -> None:
    error = _refused(calm_world, registry=calm_world.token.address)
    assert (error.code, error.details["contract"]) == ("CodeMismatch", "registry")


def test_manifest_with_an_unsealed_vault_is_refused(world: World) -> None:
    arguments = (world.account(DEPLOYER).address, world.token.address, 14 * 86_400, [(world.token.address, 5)])
    data = load("Vault").creation_code(arguments)
    sent = world.send(DEPLOYER, Call(CREATE, data, "Vault.constructor"))
    assert sent.contract_address is not None
    # the same code with the same immutables, but not sealed
    assert _refused(world, vault=sent.contract_address).code == "NotSealed"


def test_manifest_that_mixes_two_markets_is_refused(world: World) -> None:
    with Transactions(world.chain, world.account(DEPLOYER), ":memory:") as transactions:
        other = deploy(world.chain, transactions, parameters=DeploymentParameters(token=world.deployment.token))
    error = _refused(
        world, jobs=other.jobs, code_hashes={**world.deployment.code_hashes, "jobs": other.code_hashes["jobs"]}
    )
    assert error.code == "WrongWiring"


def test_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="assay up"):
        Deployment.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": 2},
        {"format": 4},
        {"network": 1},
        {"guardian": "0x12"},
        {"parameters": {}},
        {"parameters": None},
        {"randomness": {"source": "blockhash"}},
        {"randomness": {"source": "blockhash", "bias": 7}},
        {"libraries": []},
        {"libraries": {"Luck": "0x12"}},
        {"libraries": {"Luck": "0x" + "11" * 20}},
        {"successor": {"vault": "0x" + "11" * 20}},
        {"successor": "0x" + "11" * 20},
        {"extra": 1},
        {"chainId": "31337"},
        {"block": -1},
        {"block": True},
        {"vault": "0x12"},
        {"vault": None},
        {"codeHashes": {}},
        {"codeHashes": []},
    ],
    ids=str,
)
def test_malformed_manifest_is_refused(calm_world: World, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "deployment.json"
    path.write_text(json.dumps({**calm_world.deployment.to_json(), **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"deployment\.json"):
        Deployment.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"'])
def test_manifest_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "deployment.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="unreadable"):
        Deployment.load(path)


# ---------------------------------------------------------------------------------------------------- anvil itself


def test_anvil_keeps_its_state_in_a_file(tmp_path: Path) -> None:
    state = tmp_path / "state" / "chain.json"
    with Anvil.start(state=state) as anvil:
        world = build(anvil, tmp_path)
        genesis = world.chain.block(0).hash
    with Anvil.start(state=state) as anvil:
        chain = Chain(anvil.rpc_url)
        world.deployment.check(chain)
        assert chain.block(0).hash == genesis
        with Transactions(chain, anvil.accounts[DEPLOYER], world.queue(DEPLOYER)) as transactions:
            assert transactions.pending() == 0
            transactions.send(world.token.mint(transactions.address, 1))


def test_anvil_killed_hard_keeps_the_state_of_a_second_ago(tmp_path: Path) -> None:
    state = tmp_path / "chain.json"
    anvil = Anvil.start(state=state)
    world = build(anvil, tmp_path)
    time.sleep(2.5)
    anvil.kill()
    with Anvil.start(state=state) as again:
        world.deployment.check(Chain(again.rpc_url))


def test_anvil_killed_while_it_saves_goes_on_from_the_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tmp_path / "chain.json"
    anvil = Anvil.start(state=state)
    world = build(anvil, tmp_path)
    written = anvil.rpc("eth_blockNumber")
    while (copied := chain_in(copy_of(state))) is None or copied < int(written, 16):
        time.sleep(0.05)
    anvil.kill()
    os.truncate(state, state.stat().st_size // 2)
    with Anvil.start(state=state) as again:
        world.deployment.check(Chain(again.rpc_url))
        assert int(again.rpc("eth_blockNumber"), 16) >= int(written, 16)
    assert "going on from the copy" in caplog.text


def chain_in(copy: Path) -> int | None:
    """Number of the newest block in the copy, which is whole whenever it is read."""
    try:
        return int(json.loads(copy.read_bytes())["best_block_number"])
    except FileNotFoundError:
        return None


def test_anvil_with_a_damaged_state_and_no_copy_says_what_to_do(tmp_path: Path) -> None:
    state = tmp_path / "chain.json"
    state.write_text('{"block": {"num', encoding="utf-8")
    with pytest.raises(ConfigError, match="damaged") as refused:
        Anvil.start(state=state)
    assert refused.value.hint is not None
    assert "Move it away" in refused.value.hint
    assert state.read_text(encoding="utf-8") == '{"block": {"num'


def test_a_new_chain_never_takes_an_older_ones_copy(tmp_path: Path) -> None:
    state = tmp_path / "chain.json"
    copy_of(state).write_text("{}", encoding="utf-8")
    with Anvil.start(state=state):
        assert not copy_of(state).exists() or copy_of(state).stat().st_size > len("{}")


def test_anvil_on_a_port_in_use_says_so(anvil: Anvil) -> None:
    with pytest.raises(ConfigError, match="did not start"):
        Anvil.start(anvil.port)


def test_anvil_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Anvil.start(binary=Path("/bin/false"))


def test_anvil_dies_with_the_process_that_started_it() -> None:
    code = "import sys; from market.anvil import Anvil; print(Anvil.start().pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while _lives(pid):
        assert time.monotonic() < deadline, "anvil outlived its parent"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_anvil_stops_twice_without_harm() -> None:
    anvil = Anvil.start()
    assert anvil.is_running
    anvil.stop()
    anvil.stop()
    assert not anvil.is_running


def test_manifest_whose_vault_has_a_second_module_is_refused(world: World) -> None:
    """Any module may take credit and allowance, so an unknown one beside Jobs would be a thief's door."""
    vault_arguments = (
        world.account(DEPLOYER).address,
        world.token.address,
        world.vault.unbonding_window(),
        [(world.token.address, 5)],
    )
    vault = world.send(DEPLOYER, Call(CREATE, load("Vault").creation_code(vault_arguments), "Vault.constructor"))
    assert vault.contract_address is not None
    step = next(step for step in creations(world.deployment.parameters) if step.name == "jobs")
    made = {**world.deployment.addresses, "vault": vault.contract_address}
    jobs = world.send(DEPLOYER, step.call(dataclasses.replace(world.deployment.plan, made=made)))
    assert jobs.contract_address is not None
    thief = world.account(CLIENT).address
    world.send(DEPLOYER, Vault(world.chain, vault.contract_address).seal([jobs.contract_address, thief]))
    hashes = {
        name: "0x" + keccak256(world.chain.code(address)).hex()
        for name, address in (("vault", vault.contract_address), ("jobs", jobs.contract_address))
    }
    error = _refused(
        world,
        vault=vault.contract_address,
        jobs=jobs.contract_address,
        code_hashes={**world.deployment.code_hashes, **hashes},
    )
    assert error.code == "WrongWiring"
    assert "only module" in error.message
