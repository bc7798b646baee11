"""A deployment survives kills, reorganisations and endpoints that cannot estimate; it refuses to mix with another."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.anvil import Anvil
from market.chain import Chain
from market.deployer import Deployed, Deployer, Done
from market.deployment import Deployment
from market.deployment_cost import Cost
from market.deployment_steps import DAY, DeploymentParameters, plan_digest, steps
from market.deployment_verify import verify
from market.errors import AssayError, ChainError, ConfigError, ContractError
from market.fees import FeePolicy
from market.networks import Kind, Networks
from market.transactions import Transactions
from tests.integration.chain.deploy_crash import NETWORK, OUTSIDE, SENDER
from tests.rpc_proxy import Fault, FaultProxy

STEPS = [step.name for step in steps(DeploymentParameters())]
DEFAULTS = DeploymentParameters()


@pytest.fixture
def staging() -> Iterator[Anvil]:
    with Anvil.start(chain_id=NETWORK.chain_id) as anvil:
        yield anvil


def deployer(anvil: Anvil, manifest: Path, **changes: Any) -> Deployer:
    made: dict[str, Any] = {
        "chain": Chain(anvil.rpc_url),
        "network": NETWORK,
        "parameters": DEFAULTS,
        "guardian": anvil.accounts[SENDER].address,
        "manifest": manifest,
    }
    return Deployer(**{**made, **changes})


def sender(anvil: Anvil, manifest: Path) -> Transactions:
    return Transactions(Chain(anvil.rpc_url), anvil.accounts[SENDER], manifest.with_name("queue.sqlite"))


def run(anvil: Anvil, manifest: Path, **options: Any) -> Deployed:
    with sender(anvil, manifest) as transactions:
        return deployer(anvil, manifest).run(transactions, **options)


class Power(Exception):
    """The process ends in the middle."""


def stop_after(anvil: Anvil, manifest: Path, step: str) -> None:
    def cut(entry: Any) -> None:
        if entry.name == step:
            raise Power

    with pytest.raises(Power):
        run(anvil, manifest, on_step=cut)


def assert_whole(anvil: Anvil, manifest: Path) -> Deployment:
    """It is the shipped code, wired and sealed, and the sender sent each step exactly once."""
    chain, deployment = Chain(anvil.rpc_url), Deployment.load(manifest)
    assert [check for check in verify(chain, deployment, Networks()) if not check.ok] == []
    assert chain.transaction_count(anvil.accounts[SENDER].address) == len(STEPS)
    assert not manifest.with_name(manifest.name + ".progress").exists()
    return deployment


@pytest.mark.parametrize("points", [("began", "persisted", "mined", "recorded", "saved"), ("broadcast",)], ids=" ".join)
def test_deployment_killed_at_every_checkpoint_in_turn_makes_nothing_twice(
    staging: Anvil, tmp_path: Path, points: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    """What died after "persisted" is broadcast by the next run's watcher, so "broadcast" has a sweep of its own."""
    manifest = tmp_path / "deployment.json"
    command = [sys.executable, "-m", "tests.integration.chain.deploy_crash", staging.rpc_url, manifest, *points]
    done = subprocess.run(command, timeout=300, stdout=subprocess.PIPE, text=True, check=True)
    died = done.stdout.splitlines()
    for point in died:
        record_property("crash_point", f"deployment {point}")
    expected = [name for name in points if name in OUTSIDE]
    for point in set(points) - set(OUTSIDE):
        first = 1 if point == "recorded" else 0  # it is recorded when one more is done
        expected += [f"{point} {index + first}" for index in range(len(STEPS))]
    assert sorted(died) == sorted(expected)
    assert_whole(staging, manifest)


def test_deployment_taken_up_again_reports_what_was_there(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    stop_after(staging, manifest, "vault")
    seen: list[tuple[str, bool]] = []
    deployed = run(staging, manifest, on_step=lambda entry: seen.append((entry.name, entry.resumed)))
    assert seen == [(name, name in ("token", "vault")) for name in STEPS]
    assert_whole(staging, manifest)
    assert [(entry.name, entry.resumed) for entry in deployed.done] == seen
    paid = 10_000 * 10**18 - Chain(staging.rpc_url).balance(staging.accounts[SENDER].address)
    assert deployed.wei == paid


def test_deployment_whose_account_runs_dry_says_how_far_it_is_and_goes_on(staging: Anvil, tmp_path: Path) -> None:
    manifest, address = tmp_path / "deployment.json", staging.accounts[SENDER].address

    def spend(entry: Done) -> None:
        if entry.name == "vault":
            staging.rpc("anvil_setBalance", address, "0x1")

    with pytest.raises(ChainError, match=f"2 of {len(STEPS)} steps are done and kept: the same") as refused:
        run(staging, manifest, on_step=spend)
    assert refused.value.code == "InsufficientFunds"
    staging.rpc("anvil_setBalance", address, hex(10**18))
    run(staging, manifest)
    assert_whole(staging, manifest)


def test_deployment_whose_queue_was_lost_goes_on_by_what_the_chain_has(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    stop_after(staging, manifest, "registry")
    for path in tmp_path.glob("queue.sqlite*"):
        path.unlink()
    run(staging, manifest)
    assert_whole(staging, manifest)


def test_deployment_that_a_reorganisation_takes_back_is_made_again(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    staging.mine(10)
    waiting = threading.Event()
    result: list[Deployed] = []

    def deploy() -> None:
        result.append(run(staging, manifest, confirmations=3, on_wait=lambda _: waiting.set()))

    thread = threading.Thread(target=deploy, daemon=True)
    thread.start()
    assert waiting.wait(60)
    staging.reorg(4)  # all but the token: the seal, too, whose confirmations are awaited
    deadline = time.monotonic() + 60
    while thread.is_alive() and time.monotonic() < deadline:
        staging.mine()
        time.sleep(0.3)
    thread.join(10)
    assert result
    deployment = assert_whole(staging, manifest)
    chain = Chain(staging.rpc_url)
    assert not chain.rpc("eth_getCode", deployment.token, hex(deployment.block - 1))[2:]
    assert chain.rpc("eth_getCode", deployment.token, hex(deployment.block))[2:]


def test_half_done_deployment_with_other_parameters_is_not_mixed(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    stop_after(staging, manifest, "token")
    others: list[dict[str, Any]] = [
        {"parameters": replace(DEFAULTS, cap=5)},
        {"parameters": replace(DEFAULTS, unbonding_window=20 * DAY)},
        {"guardian": staging.accounts[0].address},
    ]
    for changes in others:
        with pytest.raises(ConfigError, match="half done") as refused:
            deployer(staging, manifest, **changes)
        assert refused.value.code == "OtherDeployment"
    run(staging, manifest)
    assert_whole(staging, manifest)


def test_half_done_deployment_on_a_chain_that_is_gone_says_so(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    stop_after(staging, manifest, "token")
    time.sleep(1)  # the first block's time is in its hash
    with Anvil.start(chain_id=NETWORK.chain_id) as anew, pytest.raises(ConfigError) as refused:
        deployer(anew, manifest)
    assert refused.value.code == "ChainStartedAnew"


def test_half_done_deployment_on_a_development_chain_that_is_gone_begins_anew(anvil: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    local = Networks().named("local")
    with sender(anvil, manifest) as transactions, pytest.raises(Power):
        deployer(anvil, manifest, network=local).run(transactions, on_step=_cut)
    time.sleep(1)
    with Anvil.start() as anew:
        fresh = deployer(anew, manifest, network=local)
        assert [step.name for step in fresh.left()] == STEPS
        with sender(anew, manifest) as transactions:
            fresh.run(transactions)
        Deployment.load(manifest).check(Chain(anew.rpc_url))


def _cut(_entry: Any) -> None:
    raise Power


def test_manifest_that_exists_is_left_as_it_is(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    run(staging, manifest)
    written = manifest.read_bytes()
    with pytest.raises(ConfigError, match="nothing was sent") as refused:
        deployer(staging, manifest)
    assert refused.value.code == "ManifestExists"
    assert manifest.read_bytes() == written


def test_other_code_where_a_step_was_made_stops_the_deployment(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    stop_after(staging, manifest, "vault")
    vault = deployer(staging, manifest).plan.made["vault"]
    staging.rpc("anvil_setCode", vault, "0x6000")
    with pytest.raises(ChainError, match="other code") as refused:
        run(staging, manifest)
    assert (refused.value.code, refused.value.details["contract"]) == ("CodeMismatch", "vault")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1}', '{"done": [{"wei": "x"}]}'])
def test_progress_that_is_unreadable_is_refused(staging: Anvil, tmp_path: Path, text: str) -> None:
    (tmp_path / "deployment.json.progress").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        deployer(staging, tmp_path / "deployment.json")
    assert refused.value.code == "BadProgress"


@pytest.mark.parametrize("kind", [Kind.MAIN, Kind.UNKNOWN])
def test_test_token_has_no_place_where_money_is(staging: Anvil, tmp_path: Path, kind: Kind) -> None:
    network = NETWORK.model_copy(update={"kind": kind})
    with pytest.raises(ConfigError, match="nothing was sent") as refused:
        deployer(staging, tmp_path / "deployment.json", network=network)
    assert refused.value.code == "NoTestToken"


def test_digest_of_a_deployment_changes_with_every_parameter(staging: Anvil, tmp_path: Path) -> None:
    plan = deployer(staging, tmp_path / "deployment.json").plan
    other: dict[str, Any] = {"token": "0x" + "11" * 20}
    changed = [{name: other.get(name, 1)} for name in vars(DEFAULTS)]
    digests = {plan_digest(replace(plan, parameters=replace(DEFAULTS, **change))) for change in changed}
    assert len(digests | {plan_digest(plan)}) == len(changed) + 1


# ---------------------------------------------------------------------------------------------------------- the cost


def cost(rpc_url: str, anvil: Anvil, manifest: Path, parameters: DeploymentParameters = DEFAULTS) -> Cost:
    made = deployer(anvil, manifest, chain=Chain(rpc_url, attempts=1), parameters=parameters)
    return made.cost(FeePolicy())


def test_cost_of_every_step_is_what_it_then_takes(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    expected = {step.name: step for step in cost(staging.rpc_url, staging, manifest).steps}
    deployed = run(staging, manifest)
    assert [step.simulated for step in expected.values()] == [True] * (len(STEPS) - 1) + [False]
    for entry in deployed.done:
        gas = expected[entry.name].gas
        assert entry.gas <= gas + 100, entry.name  # an address may have another number of zero bytes
        if expected[entry.name].simulated:
            assert gas <= entry.gas + 100, entry.name


def test_cost_of_a_resumed_deployment_is_that_of_the_rest(staging: Anvil, tmp_path: Path) -> None:
    manifest = tmp_path / "deployment.json"
    stop_after(staging, manifest, "proofs")
    rest = cost(staging.rpc_url, staging, manifest)
    assert [(step.name, step.simulated) for step in rest.steps] == [("seal", True)]
    assert rest.needs == rest.steps[0].limit * rest.fees.max_fee


def test_account_with_what_is_needed_can_deploy_and_with_less_cannot(staging: Anvil, tmp_path: Path) -> None:
    """`needs` is exact: nodes accept every transaction with it."""
    manifest = tmp_path / "deployment.json"
    address = staging.accounts[SENDER].address
    needs = cost(staging.rpc_url, staging, manifest).needs
    staging.rpc("anvil_setBalance", address, hex(needs))
    run(staging, manifest)
    assert_whole(staging, manifest)


@pytest.mark.parametrize("answer", ["refuses", "ignores"])
def test_endpoint_without_state_overrides_gives_a_bound(staging: Anvil, tmp_path: Path, answer: str) -> None:
    manifest = tmp_path / "deployment.json"
    with FaultProxy(staging.rpc_url) as proxy:
        proxy.fault = lambda question: _without_overrides(question, answer)
        bounded = cost(proxy.rpc_url, staging, manifest)
    used = {entry.name: entry.gas for entry in run(staging, manifest).done}
    assert [step.name for step in bounded.steps if step.simulated] == ["token"]
    for step in bounded.steps:
        assert used[step.name] <= step.gas < 2 * used[step.name], step.name


def _without_overrides(question: dict[str, Any], answer: str) -> Fault | None:
    if question["method"] != "eth_estimateGas" or len(question["params"]) < 3:
        return None
    code = {"code": -32602, "message": "too many arguments, want at most 2"}
    if answer == "ignores":
        code = {"code": 3, "message": "execution reverted"}
    return Fault(body=json.dumps({"jsonrpc": "2.0", "id": question["id"], "error": code}))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"challenger_share_bps": 9000}, "ShareOutOfRange"),
        ({"unbonding_window": 60}, "UnbondingTooShort"),
        ({"unbonding_window": 400 * DAY}, "UnbondingTooLong"),
        ({"cap": 0}, "ZeroAmount"),
    ],
    ids=lambda value: str(value),
)
def test_parameter_that_a_constructor_refuses_is_refused_before_anything_is_sent(
    staging: Anvil, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    with pytest.raises(ContractError) as refused:
        cost(staging.rpc_url, staging, tmp_path / "deployment.json", replace(DEFAULTS, **change))
    assert refused.value.code == code


def test_cost_on_an_endpoint_that_is_gone_says_so(staging: Anvil, tmp_path: Path) -> None:
    with FaultProxy(staging.rpc_url) as proxy:
        proxy.fault = lambda question: Fault(status=503) if question["method"] == "eth_estimateGas" else None
        with pytest.raises(AssayError) as refused:
            cost(proxy.rpc_url, staging, tmp_path / "deployment.json")
    assert refused.value.code == "ChainUnreachable"
