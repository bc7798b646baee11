"""The list of steps fits the shipped contracts: nothing in their code stays blank."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from market.artefacts import load
from market.deployment_steps import Creation, DeploymentParameters, Instruction, Plan, creations, steps
from market.dispute_gas import REPLY
from market.types import ZERO_ADDRESS

TOKEN = "0x" + "11" * 20
GUARDIAN = "0x" + "22" * 20


def plan(parameters: DeploymentParameters) -> Plan:
    made = {step.name: "0x" + f"{index + 64:02x}" * 20 for index, step in enumerate(creations(parameters))}
    return Plan(1, GUARDIAN, parameters, made)


@pytest.mark.parametrize("step", creations(DeploymentParameters()), ids=lambda step: step.name)
def test_every_blank_of_a_contract_is_filled_by_its_step(step: Creation) -> None:
    finished = plan(DeploymentParameters())
    address = finished.made[step.name]
    code = step.runtime_code(finished, address)
    blank = load(step.contract).runtime
    assert len(code) == len(blank.code)
    for name, places in blank.immutables.items():
        (value,) = {code[start : start + length] for start, length in places}
        assert any(value), name


def test_every_library_and_contract_is_made_before_what_needs_it() -> None:
    made: dict[str, str] = {}
    for step in steps(DeploymentParameters()):
        so_far = Plan(1, GUARDIAN, DeploymentParameters(), dict(made))
        assert step.call(so_far).data
        if isinstance(step, Creation):
            assert set(step.artefact.libraries) <= set(made)
            made[step.name] = ZERO_ADDRESS


def test_own_token_is_no_step_and_takes_the_test_tokens_place() -> None:
    parameters = DeploymentParameters(token=TOKEN)
    assert "token" not in {step.name for step in steps(parameters)}
    vault = next(step for step in creations(parameters) if step.name == "vault")
    assert vault.arguments(plan(parameters))[1:3] == (TOKEN, parameters.unbonding_window)


def test_vault_is_sealed_last() -> None:
    last = steps(DeploymentParameters())[-1]
    assert isinstance(last, Instruction)
    assert last.label == "Vault.seal"


def test_gas_that_the_fees_of_a_dispute_are_meant_for_is_what_its_replies_take() -> None:
    """The figure that docs/deploying.md says, and that `assay chain deploy --dry-run` shows beside the fees."""
    root = Path(__file__).resolve().parents[3]
    gas = json.loads((root / "tests" / "gas" / "snapshot.json").read_text(encoding="utf-8"))
    replies = [used for name, used in gas.items() if name.startswith(("dispute: root", "dispute: reply"))]
    assert len(replies) == 6
    assert 0.9 * REPLY <= max(replies) <= REPLY
    assert f"gas of a reply, about {REPLY:,}" in (root / "docs" / "deploying.md").read_text(encoding="utf-8")
    fees = DeploymentParameters()
    meant = REPLY * 3 // 2 * 2 * 10**9 * 2_500 * 10**6 // 10**18  # at 2 gwei and 2,500 tokens of 6 decimals a coin
    assert meant <= min(fees.root_fee, fees.request_fee) <= 1.1 * meant
