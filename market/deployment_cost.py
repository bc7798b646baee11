"""What a deployment costs before it is sent: gas of every step, at what the chain asks for gas now.

A step whose contracts are not there yet is estimated with their code put in place for the question alone (the third
argument of eth_estimateGas: https://geth.ethereum.org/docs/interacting-with-geth/rpc/objects#state-override-set). So a
parameter that a constructor refuses is refused before anything is spent. Where an endpoint does not do that, the step
is reckoned from above by the rules that gas follows (https://eips.ethereum.org/EIPS/eip-3860 and the yellow paper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from market.artefacts import LIBRARIES, STEPS
from market.chain import Call, Chain
from market.deployment_steps import Creation, Instruction, Plan, Step
from market.errors import ChainError, ContractError
from market.fees import Fees
from market.hashing import keccak256
from market.transactions import GAS_MARGIN, GAS_RESERVE

_CREATION_GAS = 53_000
_BYTE_OF_CALLDATA = 16
_WORD_OF_INITCODE = 2
_BYTE_OF_CODE = 200
_CONSTRUCTOR_GAS = 300_000  # a dozen storage slots and what reads them
_LIBRARY_GAS = 10_000  # it has no constructor, and copies its code


@dataclass(frozen=True)
class StepCost:
    """One step that is still to be sent.

    Attributes:
        gas: expected; wei: that at the present price.
        limit: gas that the transaction reserves; unused gas is free.
        simulated: whether a node ran it; else `gas` is reckoned from above.
    """

    name: str
    label: str
    gas: int
    wei: int
    limit: int
    simulated: bool


@dataclass(frozen=True)
class Cost:
    """The rest of a deployment.

    Attributes:
        price: wei per gas, the next block's base fee and the tip.
        fees: what a transaction would offer now.
        wei: expected in all.
        needs: wei that the account must hold for every transaction to be accepted at the present price: nodes want
            limit × offer to be there before each.
    """

    steps: tuple[StepCost, ...]
    price: int
    fees: Fees
    wei: int
    needs: int


def cost_of(chain: Chain, plan: Plan, left: Sequence[Step], fees: Fees) -> Cost:
    """Estimates the steps that are left.

    Args:
        plan: with the addresses of what has been made.

    Raises:
        ContractError: a step would be refused, decoded: a parameter is out of range. Nothing was sent.
        ChainUnreachable: the chain could not be asked.
    """
    price = min(fees.max_fee, chain.head().base_fee + fees.priority_fee)
    made = dict(plan.made)
    absent: dict[str, bytes] = {}
    costs: list[StepCost] = []
    for step in left:
        supposed = Plan(plan.chain_id, plan.guardian, plan.parameters, made)
        gas, simulated = _gas(chain, supposed, step, absent)
        limit = gas * GAS_MARGIN[0] // GAS_MARGIN[1] + GAS_RESERVE
        costs.append(StepCost(step.name, step.label, gas, gas * price, limit, simulated))
        if isinstance(step, Creation):
            address = _stand_in(step.name)
            absent[address] = step.runtime_code(supposed, address)
            made[step.name] = address
    spent = needs = 0
    for cost in costs:
        needs = max(needs, spent + cost.limit * fees.max_fee)
        spent += cost.wei
    return Cost(tuple(costs), price, fees, spent, needs)


def _gas(chain: Chain, plan: Plan, step: Step, absent: Mapping[str, bytes]) -> tuple[int, bool]:
    call = step.call(plan)
    if isinstance(step, Instruction):
        if call.to in absent:  # its code could be put in place, but not its storage
            return step.gas, False
        return chain.estimate_gas(call, plan.guardian), True
    try:
        return chain.estimate_gas(call, plan.guardian, supposing=absent), True
    except ContractError as error:
        if not absent or error.code not in ("Reverted", "UnknownRevert"):
            raise  # the constructor's own word
    except ChainError as error:
        if not absent or error.code == "ChainUnreachable":
            raise
    own = _LIBRARY_GAS if step.contract in (*LIBRARIES, *STEPS) else _CONSTRUCTOR_GAS
    return _from_above(call, len(step.artefact.runtime.code)) + own, False


def _from_above(call: Call, runtime_bytes: int) -> int:
    size = len(call.data)
    return _CREATION_GAS + _BYTE_OF_CALLDATA * size + _WORD_OF_INITCODE * -(-size // 32) + _BYTE_OF_CODE * runtime_bytes


def _stand_in(name: str) -> str:
    """An address where no contract is, with as many zero bytes as a real one would have."""
    return str(to_checksum_address(keccak256(b"assay deployment " + name.encode())[12:]))


def cost_json(cost: Cost) -> dict[str, Any]:
    """As `--dry-run --json` prints it; wei as text."""
    return {
        "steps": [
            {
                "name": step.name,
                "call": step.label,
                "gas": step.gas,
                "wei": str(step.wei),
                "gas_limit": step.limit,
                "simulated": step.simulated,
            }
            for step in cost.steps
        ],
        "gas_price_wei": str(cost.price),
        "max_fee_per_gas_wei": str(cost.fees.max_fee),
        "total_gas": sum(step.gas for step in cost.steps),
        "total_wei": str(cost.wei),
        "needed_wei": str(cost.needs),
    }
