"""What a deployment consists of, as a list: one line per contract, in the order in which they are made.

A contract that is linked to an external library needs the library's own step before its own, called like the library;
linking finds it by that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from eth_utils.address import to_checksum_address

from market.artefacts import LIBRARIES, STEPS, Artefact, encode_values, load
from market.chain import CREATE, Call
from market.code import domain_immutables, word
from market.hashing import keccak256
from market.signing import Domain
from market.types import ZERO_ADDRESS

DAY = 86_400


@dataclass(frozen=True)
class DeploymentParameters:
    """What a deployment fixes for ever. Windows in seconds, cap in base units of the token.

    Attributes:
        token: an existing ERC-20; None deploys the worthless test token (development and test chains only).
        cap: most the vault ever takes of the token.
        draw_stake_cap: base units of stake above which a provider's chance to be drawn grows no more; a 16th of it is
            the least that can be drawn.
        demand_window: seconds in which a provider must publish an output that is demanded.
        demand_fee: base units that a demand costs and publishing earns, for each 512 tokens begun; it should pay for
            the gas of publishing as many (180,000).
        reply_window: seconds in which a provider must give a reply that is asked for in a dispute.
        root_fee, request_fee: base units of the token that a dispute and each of its requests prepay; each should pay
            for the coin that the gas of its reply costs (market.dispute_gas.REPLY), half as much again. The contract
            knows no rate between the two: the default, 0.8 of a token of 6 decimals, does so at 2 gwei where a coin is
            worth 2,500 tokens.
    """

    token: str | None = None
    dispute_window: int = 1 * DAY
    unbonding_window: int = 14 * DAY
    challenger_share_bps: int = 3000
    cap: int = 1_000_000 * 10**6
    draw_stake_cap: int = 1_600 * 10**6
    demand_window: int = 1 * DAY
    demand_fee: int = 1 * 10**6
    reply_window: int = 3_600
    root_fee: int = 800_000
    request_fee: int = 800_000


@dataclass(frozen=True)
class Plan:
    """A deployment, as far as it has come.

    Attributes:
        guardian: who sends it; only this account may seal and deprecate.
        made: name of a step → address of what it made.
    """

    chain_id: int
    guardian: str
    parameters: DeploymentParameters
    made: Mapping[str, str] = field(default_factory=dict)

    @property
    def token(self) -> str:
        """The token that stakes and prices are in."""
        return self.made["token"] if self.parameters.token is None else to_checksum_address(self.parameters.token)


Arguments: TypeAlias = Callable[[Plan], tuple[Any, ...]]


@dataclass(frozen=True)
class Creation:
    """A step that makes a contract.

    Attributes:
        name: of the step, and of the address in the manifest.
        contract: of the artefact.
        arguments: of its constructor.
        derived: immutables that the constructor does not take but reads: name → (type, value).
        domain: EIP-712 name and version, where it has one.
    """

    name: str
    contract: str
    arguments: Arguments = lambda _: ()
    derived: Callable[[Plan], Mapping[str, tuple[str, Any]]] = lambda _: {}
    domain: tuple[str, str] | None = None

    @property
    def label(self) -> str:
        return f"{self.contract}.constructor"

    @property
    def artefact(self) -> Artefact:
        return load(self.contract)

    def call(self, plan: Plan) -> Call:
        """The transaction, once everything before it has been made."""
        return Call(CREATE, self.artefact.creation_code(self.arguments(plan), plan.made), self.label)

    def constructor_arguments(self, plan: Plan) -> bytes:
        """As they stand behind the creation code: ABI-encoded."""
        return encode_values(self.artefact.constructor, self.arguments(plan))

    def runtime_code(self, plan: Plan, address: str) -> bytes:
        """The code that the chain must have at `address`: the shipped code with this deployment's values in it."""
        artefact = self.artefact
        given = zip(artefact.constructor, self.arguments(plan), strict=True)
        values = {
            parameter.name.rstrip("_"): word(parameter.kind, value)
            for parameter, value in given
            if parameter.name.rstrip("_") in artefact.runtime.immutables
        }
        values |= {name: word(kind, value) for name, (kind, value) in self.derived(plan).items()}
        if self.domain is not None:
            values |= domain_immutables(Domain(plan.chain_id, address, *self.domain))
        return artefact.runtime.deployed(address, values, plan.made)


@dataclass(frozen=True)
class Instruction:
    """A step that calls a contract made before.

    Attributes:
        gas: an upper bound, for an estimate while that contract is not there yet.
    """

    name: str
    contract: str
    function: str
    target: str
    arguments: Arguments
    gas: int

    @property
    def label(self) -> str:
        return f"{self.contract}.{self.function}"

    def call(self, plan: Plan) -> Call:
        """The transaction, once everything before it has been made."""
        data = load(self.contract).function(self.function).encode_input(self.arguments(plan))
        return Call(plan.made[self.target], data, self.label)


Step: TypeAlias = Creation | Instruction


def steps(parameters: DeploymentParameters) -> tuple[Step, ...]:
    """All steps in order. The last one seals the vault: before it nothing can be deposited."""
    token = Creation("token", "TestToken", domain=("Test USD", "1"))
    return (
        *((token,) if parameters.token is None else ()),
        Creation(
            "vault",
            "Vault",
            lambda plan: (plan.guardian, plan.token, parameters.unbonding_window, [(plan.token, parameters.cap)]),
        ),
        Creation("registry", "Registry", lambda plan: (plan.made["vault"], parameters.draw_stake_cap)),
        *(Creation(step, step) for step in STEPS),
        Creation("judge", "Judge"),
        Creation(
            "disputes",
            "Disputes",
            lambda plan: (
                plan.made["vault"],
                plan.made["judge"],
                parameters.reply_window,
                parameters.root_fee,
                parameters.request_fee,
            ),
            derived=lambda plan: {"stakeToken": ("address", plan.token)},
        ),
        *(Creation(library, library) for library in LIBRARIES),
        Creation(
            "jobs",
            "Jobs",
            lambda plan: (
                plan.made["vault"],
                plan.made["registry"],
                plan.made["disputes"],
                parameters.dispute_window,
                parameters.challenger_share_bps,
                parameters.demand_window,
                parameters.demand_fee,
            ),
            derived=lambda plan: {"stakeToken": ("address", plan.token)},
            domain=("Assay Jobs", "1"),
        ),
        Creation("verifier", "EzklVerifier", lambda plan: (plan.made["registry"],)),
        Creation(
            "proofs",
            "ProofJobs",
            lambda plan: (plan.made["vault"], plan.made["verifier"]),
            derived=lambda plan: {"stakeToken": ("address", plan.token)},
            domain=("Assay Proofs", "1"),
        ),
        Instruction("seal", "Vault", "seal", "vault", lambda plan: (modules(plan),), gas=200_000),
    )


def modules(plan: Plan) -> list[str]:
    """What the vault is sealed with: whoever may hold users' money."""
    return [plan.made["jobs"], plan.made["disputes"], plan.made["proofs"]]


def creations(parameters: DeploymentParameters) -> tuple[Creation, ...]:
    """The steps that make contracts."""
    return tuple(step for step in steps(parameters) if isinstance(step, Creation))


def plan_digest(plan: Plan) -> str:
    """Hash of everything that a deployment would send: another installation or other parameters give another one.

    Addresses that are not made yet stand as zero.
    """
    blank = {step.name: ZERO_ADDRESS for step in creations(plan.parameters)}
    empty = Plan(plan.chain_id, plan.guardian, plan.parameters, blank)
    return "0x" + keccak256(b"".join(keccak256(step.call(empty).data) for step in steps(plan.parameters))).hex()
