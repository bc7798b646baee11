"""The manifest of a deployment (which contracts, where, with which code) and how one is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from eth_utils.address import is_address, to_checksum_address

from market.artefacts import load
from market.chain import CREATE, DEVELOPMENT_CHAIN_IDS, Call, Chain
from market.contracts import Jobs, Registry, Token, Vault
from market.errors import ChainError, ConfigError, WrongChain
from market.files import write_atomically
from market.hashing import keccak256
from market.transactions import Sent, Transactions
from market.types import ZERO_ADDRESS

FORMAT = 1
DAY = 86_400
CONTRACTS = ("vault", "registry", "jobs", "token")


@dataclass(frozen=True)
class Deployment:
    """Where one market lives.

    Attributes:
        vault, registry, jobs, token: checksummed addresses; `token` is the stake token, in which jobs are paid.
        block: number of the block of the first contract; nothing of the market is older.
        code_hashes: name → 0x keccak256 of the runtime code.
    """

    chain_id: int
    vault: str
    registry: str
    jobs: str
    token: str
    block: int
    code_hashes: dict[str, str]

    @property
    def addresses(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in CONTRACTS}

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
        fields = {"format", "chainId", "block", "codeHashes", *CONTRACTS}
        if not isinstance(data, dict) or set(data) != fields or data["format"] != FORMAT:
            raise ConfigError(f"expected format {FORMAT} with the fields {', '.join(sorted(fields))}.")
        numbers = [data["chainId"], data["block"]]
        if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
            raise ConfigError("chainId and block are numbers.")
        if not all(isinstance(data[name], str) and is_address(data[name]) for name in CONTRACTS):
            raise ConfigError("a contract's address is malformed.")
        hashes = data["codeHashes"]
        if not isinstance(hashes, dict) or set(hashes) != set(CONTRACTS):
            raise ConfigError(f"codeHashes has exactly {', '.join(CONTRACTS)}.")
        return cls(
            chain_id=data["chainId"],
            block=data["block"],
            code_hashes={name: str(value).lower() for name, value in hashes.items()},
            **{name: to_checksum_address(data[name]) for name in CONTRACTS},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "chainId": self.chain_id,
            "block": self.block,
            **{name: address.lower() for name, address in self.addresses.items()},
            "codeHashes": self.code_hashes,
        }

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
        got = _hash(code)
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
        vault, jobs = Vault(chain, self.vault), Jobs(chain, self.jobs)
        if not vault.is_sealed():
            raise ChainError(
                "The vault is not sealed: its modules could still change; nothing was sent.",
                hint="Wait until the deployment is finished, and do not deposit.",
                code="NotSealed",
                address=self.vault,
            )
        wiring = {
            "the jobs contract is the vault's only module": vault.modules() == [self.jobs],
            "the jobs contract uses the vault": jobs.vault() == self.vault,
            "the vault's stake token is the manifest's": vault.stake_token() == self.token,
        }
        for what, holds in wiring.items():
            if not holds:
                raise ChainError(f"The manifest contradicts the chain: not true that {what}.", code="WrongWiring")


@dataclass(frozen=True)
class DeploymentParameters:
    """What a deployment fixes for ever. Windows in seconds, cap in base units of the token.

    Attributes:
        token: an existing ERC-20; None deploys the worthless test token (development chains only).
        arbiter: the contract that may slash; the zero address until one is built, so nobody can.
        cap: most the vault ever takes of the token.
    """

    token: str | None = None
    arbiter: str = ZERO_ADDRESS
    dispute_window: int = 1 * DAY
    unbonding_window: int = 14 * DAY
    challenger_share_bps: int = 3000
    cap: int = 1_000_000 * 10**6


def deploy(
    chain: Chain,
    transactions: Transactions,
    *,
    parameters: DeploymentParameters | None = None,
    on_step: Callable[[str, Sent], None] = lambda _name, _sent: None,
) -> Deployment:
    """Deploys vault, registry and jobs, and seals the vault; the sender becomes the guardian.

    Args:
        on_step: told each step as it is in a block ("token", "vault", "registry", "jobs", "seal").

    Returns:
        The manifest, checked against the chain. Nothing is written to disk.

    Raises:
        ConfigError: no token named on a chain that is not a development one.
        ContractError: a parameter is out of range (ShareOutOfRange, UnbondingTooShort, …).
    """
    chosen = parameters or DeploymentParameters()
    if chosen.token is None and chain.chain_id not in DEVELOPMENT_CHAIN_IDS:
        raise ConfigError(
            f"Chain {chain.chain_id} is no development chain, so the test token is not deployed; nothing was sent.",
            hint="Name the token that stakes and prices are in.",
        )
    blocks: list[int] = []

    def create(name: str, contract: str, *arguments: Any) -> str:
        call = Call(CREATE, load(contract).creation_code(arguments), f"{contract}.constructor")
        sent = transactions.send(call)
        if sent.contract_address is None:
            raise ChainError(f"The receipt of {sent.hash} names no contract.", code="NoContract")
        blocks.append(sent.block_number)
        on_step(name, sent)
        return sent.contract_address

    token = to_checksum_address(chosen.token) if chosen.token is not None else create("token", "TestToken")
    vault = create("vault", "Vault", transactions.address, token, chosen.unbonding_window, [(token, chosen.cap)])
    registry = create("registry", "Registry")
    jobs = create("jobs", "Jobs", vault, chosen.arbiter, chosen.dispute_window, chosen.challenger_share_bps)
    on_step("seal", transactions.send(Vault(chain, vault).seal([jobs])))
    addresses = {"vault": vault, "registry": registry, "jobs": jobs, "token": token}
    code_hashes = {name: _hash(chain.code(address)) for name, address in addresses.items()}
    deployment = Deployment(chain_id=chain.chain_id, block=min(blocks), code_hashes=code_hashes, **addresses)
    deployment.check(chain)
    return deployment


@dataclass(frozen=True)
class Contracts:
    """Typed clients of one deployment."""

    vault: Vault
    registry: Registry
    jobs: Jobs
    token: Token

    @classmethod
    def of(cls, chain: Chain, deployment: Deployment) -> Self:
        return cls(
            Vault(chain, deployment.vault),
            Registry(chain, deployment.registry),
            Jobs(chain, deployment.jobs),
            Token(chain, deployment.token),
        )


def _hash(code: bytes) -> str:
    return "0x" + keccak256(code).hex()
