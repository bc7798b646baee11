"""`verify` finds every way in which a chain can differ from its manifest, also where the manifest was made to agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from market.anvil import Anvil
from market.artefacts import load
from market.chain import CREATE, Call
from market.contracts import Vault
from market.deployment import DeploymentParameters, Successor, code_hash
from market.deployment_steps import creations
from market.deployment_verify import Check, verify
from market.networks import Networks, Randomness
from tests.integration.chain.world import DEPLOYER, World, build

OTHER = "0x" + "11" * 20
MADE = [step.name for step in creations(DeploymentParameters())]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Anvil.start(options=("--slots-in-an-epoch", "1")) as anvil:
        yield build(anvil, tmp_path_factory.mktemp("verify"))


@pytest.fixture
def market(shared: World) -> Iterator[World]:
    """The shared market; what a test does to its chain is undone."""
    snapshot = shared.anvil.snapshot()
    yield shared
    shared.anvil.revert(snapshot)


def checks(market: World, **changes: Any) -> tuple[Check, ...]:
    return verify(market.chain, replace(market.deployment, **changes), Networks())


def wrong(market: World, **changes: Any) -> dict[str, str]:
    """What differs → code."""
    return {check.what: check.code for check in checks(market, **changes) if not check.ok}


def said(market: World, what: str, **changes: Any) -> str:
    return next(check.found for check in checks(market, **changes) if check.what == what)


def test_verify_of_an_honest_deployment_finds_nothing(market: World) -> None:
    assert wrong(market) == {}
    compared = {check.what for check in checks(market) if not check.note}
    assert {f"code of {name}, as shipped" for name in MADE} <= compared


@pytest.mark.parametrize("name", MADE)
def test_code_with_one_bit_changed_is_found_though_the_manifest_vouches_for_it(market: World, name: str) -> None:
    address = market.deployment.addresses[name]
    code = bytearray(market.chain.code(address))
    code[-20] ^= 1  # in the tail that nothing runs: only a comparison finds it
    market.anvil.rpc("anvil_setCode", address, "0x" + code.hex())
    hashes = {**market.deployment.code_hashes, name: code_hash(bytes(code))}
    replace(market.deployment, code_hashes=hashes).check(market.chain)
    assert wrong(market, code_hashes=hashes) == {f"code of {name}, as shipped": "CodeMismatch"}


@pytest.mark.parametrize("name", MADE)
def test_wrong_hash_in_the_manifest_is_found(market: World, name: str) -> None:
    hashes = {**market.deployment.code_hashes, name: "0x" + "00" * 32}
    assert wrong(market, code_hashes=hashes) == {f"code of {name}, as in the manifest": "CodeMismatch"}


def test_immutable_that_the_constructor_was_not_given_is_found(market: World) -> None:
    """Jobs whose code holds another arbiter than its getter would have to admit."""
    arbiter = bytes.fromhex("22" * 20).rjust(32, b"\0")
    code = bytearray(market.chain.code(market.deployment.jobs))
    places = load("Jobs").runtime.immutables["arbiter"]
    start, length = places[0]
    code[start : start + length] = arbiter
    market.anvil.rpc("anvil_setCode", market.deployment.jobs, "0x" + code.hex())
    assert "code of jobs, as shipped" in wrong(market)


def test_empty_address_is_found_and_everything_that_hangs_on_it(market: World) -> None:
    found = wrong(market, jobs=OTHER)
    assert found["code of jobs, as shipped"] == "CodeMissing"
    assert found["vault of jobs"] == "NotAContract"
    assert found["modules of the vault"] == "WrongWiring"
    assert "vault is sealed" not in found


@pytest.mark.parametrize("name", sorted(set(vars(DeploymentParameters())) - {"token"}))
def test_parameter_that_the_manifest_misstates_is_found(market: World, name: str) -> None:
    parameters = replace(market.deployment.parameters, **{name: 5})
    assert wrong(market, parameters=parameters)[name.replace("_", " ")] == "WrongParameter"


def test_guardian_that_is_another_is_found_and_one_that_renounced_is_fine(market: World) -> None:
    assert wrong(market, guardian=OTHER) == {"guardian (or none any more)": "WrongGuardian"}
    market.send(DEPLOYER, market.vault.renounce_guardian())
    assert wrong(market) == {}


def test_vault_that_is_not_sealed_is_found(market: World) -> None:
    deployment = market.deployment
    arguments = (deployment.guardian, deployment.token, deployment.parameters.unbonding_window)
    data = load("Vault").creation_code((*arguments, [(deployment.token, deployment.parameters.cap)]))
    vault = market.send(DEPLOYER, Call(CREATE, data, "Vault.constructor")).contract_address
    assert vault is not None
    found = wrong(market, vault=vault)
    assert found["vault is sealed"] == "NotSealed"
    assert found["vault of jobs"] == found["modules of the vault"] == "WrongWiring"
    assert "code of vault, as shipped" not in found
    # the same vault sealed with a stranger beside jobs
    market.send(DEPLOYER, Vault(market.chain, vault).seal([deployment.jobs, OTHER]))
    found = wrong(market, vault=vault)
    assert "vault is sealed" not in found
    assert found["modules of the vault"] == "WrongWiring"


def test_other_chain_is_found_and_nothing_else_is_asked(market: World) -> None:
    assert wrong(market, chain_id=1) == {"chain id": "WrongChain"}
    assert len(checks(market, chain_id=1)) == 1


def test_token_that_is_not_ours_is_compared_with_the_manifest_alone(market: World) -> None:
    parameters = replace(market.deployment.parameters, token=market.deployment.token)
    assert wrong(market, parameters=parameters) == {}
    what = "token is a contract that Assay does not ship"
    assert said(market, what, parameters=parameters) == market.deployment.token.lower()


def test_library_that_this_version_does_not_have_is_found(market: World) -> None:
    hashes = {**market.deployment.code_hashes, "Luck": market.deployment.code_hashes["jobs"]}
    libraries = {**market.deployment.libraries, "Luck": market.deployment.jobs}
    found = wrong(market, libraries=libraries, code_hashes=hashes)
    assert found == {"code of Luck, as shipped": "UnknownContract"}


def test_randomness_that_the_chain_does_not_have_is_found(market: World) -> None:
    assert wrong(market, randomness=Randomness(source="beacon", bias="Nobody.")) == {"randomness": "WrongRandomness"}


def test_what_is_no_difference_is_said(market: World) -> None:
    assert said(market, "deprecated") == "no"
    assert said(market, "deployment is final").startswith("yes")
    assert said(market, "deployment is final", block=10**6).startswith("not yet")
    market.send(DEPLOYER, market.vault.deprecate())
    assert wrong(market) == {}
    assert said(market, "deprecated") == "yes"
    assert "chain 5" in said(market, "successor", successor=Successor(5, OTHER))
