"""The manifest of a deployment (which contracts, where, with which code) and how one is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from eth_utils.address import is_address, to_checksum_address
from pydantic.alias_generators import to_camel

from market.chain import Chain
from market.contracts import Contract, Jobs, Registry, Token, Vault
from market.deployment_steps import Creation, DeploymentParameters, Plan, creations, modules, steps
from market.errors import ChainError, ChainUnreachable, ConfigError, WrongChain
from market.files import write_atomically
from market.hashing import keccak256
from market.networks import Network, Networks, Randomness
from market.proof_contracts import EzklVerifier, ProofJobs
from market.reply_window import require_reply_window
from market.transactions import Sent, Transactions

__all__ = ["CONTRACTS", "FORMAT", "Contracts", "Deployment", "DeploymentParameters", "Successor", "deploy"]

FORMAT = 3
CONTRACTS = ("vault", "registry", "judge", "disputes", "jobs", "verifier", "proofs", "token")
_OLD = {1: "before parameters were written down", 2: "before there were disputes"}


class Arbiter(Contract):
    """The disputes of a deployment, as far as its wiring goes."""

    artefact_name = "Disputes"

    def address_of(self, getter: str) -> str:
        """What "vault", "judge" or "stakeToken" says, checksummed."""
        return str(to_checksum_address(self._read(getter)))


@dataclass(frozen=True)
class Successor:
    """The deployment that took over from a deprecated one."""

    chain_id: int
    vault: str


@dataclass(frozen=True)
class Deployment:
    """Where one market lives, and what was fixed when it was made.

    Attributes:
        network: the chain's name (market.networks).
        vault, registry, judge, disputes, jobs, verifier, proofs, token: checksummed addresses; `token` is the stake
            token, in which jobs are paid.
        libraries: name → checksummed address of each external library that the contracts are linked to.
        block: number of the block of the first contract; nothing of the market is older.
        code_hashes: name of a contract or library → 0x keccak256 of the runtime code.
        guardian: who deployed and sealed it, and may deprecate it.
        parameters: `parameters.token` is None where the token is the worthless test token, made with the market.
        randomness: where draws on this chain get their random numbers, and how far they can be bent.
        successor: who took over, once somebody has written that into the manifest.
    """

    chain_id: int
    vault: str
    registry: str
    judge: str
    disputes: str
    jobs: str
    verifier: str
    proofs: str
    token: str
    block: int
    code_hashes: dict[str, str]
    network: str
    guardian: str
    parameters: DeploymentParameters
    randomness: Randomness
    libraries: dict[str, str] = field(default_factory=dict)
    successor: Successor | None = None

    @property
    def addresses(self) -> dict[str, str]:
        """The contracts, then the libraries."""
        return {**{name: getattr(self, name) for name in CONTRACTS}, **self.libraries}

    @property
    def plan(self) -> Plan:
        """The finished deployment, as its steps see it."""
        return Plan(self.chain_id, self.guardian, self.parameters, self.addresses)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a manifest.

        Raises:
            ConfigError: it is missing or malformed.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ConfigError(
                f"There is no deployment manifest at {path}.",
                hint="Start a local network with `assay up`, or name the manifest of the market you use.",
                path=str(path),
            ) from None
        except (OSError, ValueError, ConfigError) as error:
            raise ConfigError(
                f"The deployment manifest {path} is unreadable: {error}",
                hint="Get the manifest of the market again.",
                path=str(path),
            ) from None

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The manifest's JSON form: chainId and block as numbers, addresses and hashes as hex.

        Raises:
            ConfigError: unknown, missing or mistyped fields.
        """
        needed = {"format", "chainId", "network", "block", "codeHashes", "guardian", "parameters", "randomness"}
        if isinstance(data, dict) and data.get("format") in _OLD:
            raise ConfigError(f"it is of format {data['format']}, {_OLD[data['format']]}; deploy again.")
        _expect(data, {*needed, *CONTRACTS}, {"libraries", "successor"}, "the manifest")
        if data["format"] != FORMAT:
            raise ConfigError(f"its format is {data['format']!r}; this installation reads format {FORMAT}.")
        libraries = data.get("libraries", {})
        if not isinstance(libraries, dict):
            raise ConfigError("libraries are addresses by name.")
        hashes = data["codeHashes"]
        _expect(hashes, {*CONTRACTS, *libraries}, set(), "codeHashes")
        return cls(
            chain_id=_number(data["chainId"], "chainId"),
            network=_text(data["network"], "network"),
            block=_number(data["block"], "block"),
            code_hashes={name: _text(value, "codeHashes").lower() for name, value in hashes.items()},
            guardian=_address(data["guardian"], "guardian"),
            parameters=_parameters(data["parameters"]),
            randomness=_randomness(data["randomness"]),
            libraries={name: _address(value, name) for name, value in libraries.items()},
            successor=_successor(data.get("successor")),
            **{name: _address(data[name], name) for name in CONTRACTS},
        )

    def to_json(self) -> dict[str, Any]:
        chosen = {to_camel(name): value for name, value in asdict(self.parameters).items()}
        document = {
            "format": FORMAT,
            "chainId": self.chain_id,
            "network": self.network,
            "block": self.block,
            **{name: getattr(self, name).lower() for name in CONTRACTS},
            "libraries": {name: address.lower() for name, address in self.libraries.items()},
            "codeHashes": self.code_hashes,
            "guardian": self.guardian.lower(),
            "parameters": {name: value.lower() if isinstance(value, str) else value for name, value in chosen.items()},
            "randomness": self.randomness.model_dump(),
        }
        if self.successor is not None:
            document["successor"] = {"chainId": self.successor.chain_id, "vault": self.successor.vault.lower()}
        return document

    def save(self, path: Path) -> None:
        """Writes the manifest whole or not at all."""
        write_atomically(path, json.dumps(self.to_json(), indent=2).encode() + b"\n", mode=0o644)

    def check(self, chain: Chain) -> None:
        """Compares the manifest with the chain; call it before trusting the contracts with anything.

        Raises:
            WrongChain: another chain id.
            ChainError: code CodeMissing, CodeMismatch, NotSealed or WrongWiring, with the contract's name.
        """
        if chain.chain_id != self.chain_id:
            raise WrongChain(
                f"The deployment is on chain {self.chain_id}; {chain.origin} serves chain {chain.chain_id}.",
                hint="Check the RPC URL and the manifest; nothing was sent.",
                expected=self.chain_id,
                got=chain.chain_id,
            )
        for name, address in self.addresses.items():
            self._check_code(chain, name, address)
        self._check_wiring(chain)

    def _check_code(self, chain: Chain, name: str, address: str) -> None:
        code = chain.code(address)
        if not code:
            raise ChainError(
                f"There is no contract at {address}, where the manifest places the {name}; nothing was sent.",
                hint="The chain was started anew, or the manifest is for another one. Deploy again.",
                code="CodeMissing",
                contract=name,
                address=address,
            )
        got = code_hash(code)
        if got != self.code_hashes[name]:
            raise ChainError(
                f"The contract at {address} is not the {name} of the manifest; nothing was sent.",
                hint="Get the manifest from somebody you trust, and do not deposit.",
                code="CodeMismatch",
                contract=name,
                expected=self.code_hashes[name],
                got=got,
            )

    def _check_wiring(self, chain: Chain) -> None:
        vault, registry, jobs = Vault(chain, self.vault), Registry(chain, self.registry), Jobs(chain, self.jobs)
        disputes = Arbiter(chain, self.disputes)
        verifier, proofs = EzklVerifier(chain, self.verifier), ProofJobs(chain, self.proofs)
        if not vault.is_sealed():
            raise ChainError(
                "The vault is not sealed: its modules could still change; nothing was sent.",
                hint="Wait until the deployment is finished, and do not deposit.",
                code="NotSealed",
                address=self.vault,
            )
        wiring = {
            "jobs, disputes and proofs are the vault's only modules": vault.modules() == modules(self.plan),
            "disputes are the arbiter of jobs": jobs.arbiter() == self.disputes,
            "disputes use the vault": disputes.address_of("vault") == self.vault,
            "disputes are judged by the judge": disputes.address_of("judge") == self.judge,
            "the jobs contract uses the vault": jobs.vault() == self.vault,
            "the vault's stake token is the manifest's": vault.stake_token() == self.token,
            "the jobs contract draws from the registry": jobs.registry() == self.registry,
            "proofs use the vault": proofs.vault() == self.vault,
            "proofs are checked by the verifier": proofs.verifier() == self.verifier,
            "the verifier reads models from the registry": verifier.registry() == self.registry,
            "the registry weighs stake in the vault": registry.vault() == self.vault,
        }
        for what, holds in wiring.items():
            if not holds:
                raise ChainError(f"The manifest contradicts the chain: not true that {what}.", code="WrongWiring")


def deploy(
    chain: Chain,
    transactions: Transactions,
    *,
    parameters: DeploymentParameters | None = None,
    network: Network | None = None,
    on_step: Callable[[str, Sent], None] = lambda _name, _sent: None,
) -> Deployment:
    """Deploys vault, registry, judge, disputes and jobs, and seals the vault; the sender becomes the guardian.

    For a chain of our own, where a deployment that stops half-way is thrown away; market.deployer goes on with one.

    Args:
        network: what is known of the chain; by default what this installation knows of its id.
        on_step: told each step as it is in a block ("token", "vault", …, "jobs", "seal").

    Returns:
        The manifest, checked against the chain. Nothing is written to disk.

    Raises:
        ConfigError: as `require_sound`.
        ContractError: a parameter is out of range (ShareOutOfRange, UnbondingTooShort, …).
    """
    chosen = parameters or DeploymentParameters()
    known = network or Networks().of(chain.chain_id)
    require_sound(chain, known, chosen)
    made: dict[str, str] = {}
    plan = Plan(chain.chain_id, transactions.address, chosen, made)
    blocks: list[int] = []
    for step in steps(chosen):
        sent = transactions.send(step.call(plan))
        if isinstance(step, Creation):
            made[step.name] = created_at(sent)
            blocks.append(sent.block_number)
        on_step(step.name, sent)
    return finished(chain, plan, known, min(blocks))


def require_sound(chain: Chain, network: Network, parameters: DeploymentParameters) -> None:
    """Whatever deploys calls it before anything is spent: what the contracts would take and nobody should.

    Raises:
        ConfigError: as `require_token` and `require_reply_window`.
    """
    require_token(chain, network, parameters)
    require_reply_window(network, parameters)


def require_token(chain: Chain, network: Network, parameters: DeploymentParameters) -> None:
    """Call it before anything is spent: a vault whose token is none could never take a deposit.

    Raises:
        ConfigError: code NoTestToken: no token is named, and the test token has no place on this chain. Code NotAToken:
            what is named does not answer as a token does.
    """
    if parameters.token is not None:
        try:
            Token(chain, parameters.token).decimals()
        except ChainUnreachable:
            raise
        except ChainError:
            raise ConfigError(
                f"{parameters.token} on chain {chain.chain_id} is no ERC-20 token; nothing was sent.",
                hint="Check the address and the chain.",
                code="NotAToken",
                token=parameters.token,
            ) from None
    elif not network.takes_test_token:
        raise ConfigError(
            f"Chain {network.chain_id} ({network.name}) is no development or test chain as far as Assay knows, so the "
            "test token is not deployed; nothing was sent.",
            hint="Name the token that stakes and prices are in with --token. A test chain of your own is declared in "
            "networks.toml in the folder of ASSAY_HOME.",
            code="NoTestToken",
            network=network.name,
        )


def created_at(sent: Sent) -> str:
    """Address of the contract that a transaction made.

    Raises:
        ChainError: code NoContract where its receipt names none.
    """
    if sent.contract_address is None:
        raise ChainError(f"The receipt of {sent.hash} names no contract.", code="NoContract", hash=sent.hash)
    return sent.contract_address


def finished(chain: Chain, plan: Plan, network: Network, block: int) -> Deployment:
    """The manifest of a deployment whose every step is in a block, checked against the chain.

    Raises:
        ChainError: code CodeMismatch where a contract's code is not the shipped code; and as `Deployment.check`.
    """
    addresses = {**plan.made, "token": plan.token}
    hashes = {name: code_hash(chain.code(address)) for name, address in addresses.items()}
    for step in creations(plan.parameters):
        expected = code_hash(step.runtime_code(plan, plan.made[step.name]))
        if hashes[step.name] != expected:
            raise ChainError(
                f"The chain's code of {step.contract} at {plan.made[step.name]} is not the code that was sent.",
                hint="Do not use this deployment: the chain is no faithful EVM, or the endpoint lies.",
                code="CodeMismatch",
                contract=step.name,
                expected=expected,
                got=hashes[step.name],
            )
    deployment = Deployment(
        chain_id=plan.chain_id,
        network=network.name,
        block=block,
        code_hashes=hashes,
        guardian=to_checksum_address(plan.guardian),
        parameters=plan.parameters,
        randomness=network.random,
        libraries={name: address for name, address in addresses.items() if name not in CONTRACTS},
        vault=addresses["vault"],
        registry=addresses["registry"],
        judge=addresses["judge"],
        disputes=addresses["disputes"],
        jobs=addresses["jobs"],
        verifier=addresses["verifier"],
        proofs=addresses["proofs"],
        token=addresses["token"],
    )
    deployment.check(chain)
    return deployment


@dataclass(frozen=True)
class Contracts:
    """Typed clients of one deployment."""

    vault: Vault
    registry: Registry
    jobs: Jobs
    token: Token
    arbiter: Arbiter
    verifier: EzklVerifier
    proofs: ProofJobs

    @classmethod
    def of(cls, chain: Chain, deployment: Deployment) -> Self:
        return cls(
            Vault(chain, deployment.vault),
            Registry(chain, deployment.registry),
            Jobs(chain, deployment.jobs),
            Token(chain, deployment.token),
            Arbiter(chain, deployment.disputes),
            EzklVerifier(chain, deployment.verifier),
            ProofJobs(chain, deployment.proofs),
        )


def code_hash(code: bytes) -> str:
    """0x keccak256, as a manifest has it."""
    return "0x" + keccak256(code).hex()


# --------------------------------------------------------------------------------------------- the manifest's fields


def _expect(data: Any, needed: set[str], optional: set[str], what: str) -> None:
    if not isinstance(data, dict) or not needed <= set(data) <= needed | optional:
        raise ConfigError(f"{what} has exactly the fields {', '.join(sorted(needed))}.")


def _number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name} is a number, not {value!r}.")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is text, not {value!r}.")
    return value


def _address(value: Any, name: str) -> str:
    if not isinstance(value, str) or not is_address(value):
        raise ConfigError(f"{name}: {value!r} is no address.")
    return to_checksum_address(value)


def _parameters(data: Any) -> DeploymentParameters:
    names = {to_camel(entry.name): entry for entry in fields(DeploymentParameters)}
    _expect(data, set(names), set(), "parameters")
    read: dict[str, Any] = {}
    for name, entry in names.items():
        value = data[name]
        if entry.type == "int":
            read[entry.name] = _number(value, name)
        else:
            read[entry.name] = None if value is None and "None" in str(entry.type) else _address(value, name)
    return DeploymentParameters(**read)


def _randomness(data: Any) -> Randomness:
    _expect(data, set(Randomness.model_fields), set(), "randomness")
    return Randomness(**{name: _text(value, name) for name, value in data.items()})


def _successor(data: Any) -> Successor | None:
    if data is None:
        return None
    _expect(data, {"chainId", "vault"}, set(), "successor")
    return Successor(_number(data["chainId"], "chainId"), _address(data["vault"], "vault"))
