"""A deployment that survives its process: whatever kills it, the next run goes on, and makes nothing twice.

What has been reached is kept beside the manifest until that is written, and every transaction is in the sender's queue
before the chain hears of it. A step is believed done when the chain has the very code that the step makes.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from eth_abi.exceptions import EncodingError

from market.chain import DEVELOPMENT_CHAIN_IDS, Chain, same_address
from market.contracts import Vault
from market.deployment import Deployment, created_at, finished, require_sound
from market.deployment_cost import Cost, cost_of
from market.deployment_steps import Creation, DeploymentParameters, Plan, Step, plan_digest, steps
from market.errors import AssayError, ChainError, ConfigError
from market.fees import FeePolicy
from market.files import write_atomically
from market.networks import Network
from market.transactions import Sent, Transactions

STEP_SECONDS = 600.0
"""How long one transaction may take to be in a block before the command gives up waiting; it stays queued."""
_ROUNDS = 5


@dataclass(frozen=True)
class Done:
    """A step that is in a block.

    Attributes:
        address: of what it made, "" for the seal.
        wei: what it cost.
        resumed: whether an earlier run recorded it.
    """

    name: str
    transaction: str
    address: str
    block: int
    gas: int
    wei: int
    resumed: bool = False

    @classmethod
    def of(cls, step: Step, sent: Sent) -> Self:
        address = created_at(sent) if isinstance(step, Creation) else ""
        wei = sent.gas_used * sent.effective_gas_price
        return cls(step.name, sent.hash, address, sent.block_number, sent.gas_used, wei)


@dataclass(frozen=True)
class Progress:
    """How far a deployment has come: the file beside the manifest.

    Attributes:
        key: random; idempotency keys of this deployment begin with it.
        genesis: hash of the chain's first block: a chain that was started anew has nothing of ours.
        digest: of everything the deployment sends.
    """

    key: str
    chain_id: int
    genesis: str
    guardian: str
    digest: str
    done: tuple[Done, ...] = field(default=())

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """None where nothing was begun.

        Raises:
            ConfigError: code BadProgress.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**data, "done": tuple(Done(**{**entry, "wei": int(entry["wei"])}) for entry in data["done"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"The progress of the deployment in {path} is unreadable: {error}. Nothing was sent.",
                hint="Restore the file, or remove it to begin anew: what it had deployed then stays unused.",
                code="BadProgress",
                path=str(path),
            ) from None

    def save(self, path: Path) -> None:
        content = {**asdict(self), "done": [{**asdict(entry), "wei": str(entry.wei)} for entry in self.done]}
        write_atomically(path, json.dumps(content, indent=1).encode() + b"\n", mode=0o600)


@dataclass(frozen=True)
class Deployed:
    """What `Deployer.run` did. `wei` is the cost of all steps, earlier runs' among them."""

    deployment: Deployment
    done: tuple[Done, ...]

    @property
    def wei(self) -> int:
        return sum(entry.wei for entry in self.done)


class Deployer:
    """One deployment, into one manifest.

    Args:
        guardian: the account that sends it.
        manifest: the file to write; the progress is kept beside it until then.
        checkpoint: called with "began", "recorded" and "saved" at these points; for crash tests.

    Raises:
        ConfigError: code NoTestToken, NotAToken, ReplyWindowTooShort, BadParameter, ManifestExists, OtherDeployment,
            ChainStartedAnew or BadProgress. Nothing was sent.
        ChainUnreachable: the chain could not be asked.
    """

    def __init__(
        self,
        chain: Chain,
        network: Network,
        parameters: DeploymentParameters,
        guardian: str,
        manifest: Path,
        *,
        checkpoint: Callable[[str], None] = lambda _: None,
    ) -> None:
        require_sound(chain, network, parameters)
        self._chain = chain
        self._network = network
        self._manifest = manifest
        self._progress_file = manifest.with_name(manifest.name + ".progress")
        self._checkpoint = checkpoint
        self._parameters = parameters
        self._steps = steps(parameters)
        digest = _digest(Plan(chain.chain_id, guardian, parameters))
        fresh = Progress(secrets.token_hex(16), chain.chain_id, chain.block(0).hash, guardian, digest)
        earlier = self._taken_up(fresh)
        self._progress = replace(earlier, done=tuple(replace(entry, resumed=True) for entry in earlier.done))
        if manifest.exists() and not self.is_finished:
            raise ConfigError(
                f"{manifest} exists; nothing was sent.",
                hint="It may be a market in use. Name another file with --deployment, or move it away.",
                code="ManifestExists",
                path=str(manifest),
            )

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run wrote the manifest and was killed before it could tidy up."""
        if not self._manifest.exists() or len(self._progress.done) < len(self._steps):
            return False
        return Deployment.load(self._manifest).vault == self.plan.made.get("vault")

    @property
    def plan(self) -> Plan:
        """The deployment as far as it has come."""
        made = {entry.name: entry.address for entry in self._progress.done if entry.address}
        return Plan(self._chain.chain_id, self._progress.guardian, self._parameters, made)

    @property
    def done(self) -> Sequence[Done]:
        """Steps that earlier runs recorded."""
        return self._progress.done

    def left(self) -> tuple[Step, ...]:
        """Steps that the chain does not have yet: never sent, or taken back by a reorganisation.

        Raises:
            ChainError: code CodeMismatch: other code is where a step of ours should be.
        """
        return tuple(step for step in self._steps if not self._holds(step))

    def cost(self, fees: FeePolicy) -> Cost:
        """What the rest costs. Raises as `cost_of`, and FeeAboveCap."""
        return cost_of(self._chain, self.plan, self.left(), fees.suggest(self._chain))

    def run(
        self,
        transactions: Transactions,
        *,
        confirmations: int = 0,
        on_step: Callable[[Done], None] = lambda _: None,
        on_wait: Callable[[int], None] = lambda _: None,
    ) -> Deployed:
        """Sends what is left, waits for the confirmations, writes the manifest.

        Args:
            transactions: of the guardian.
            confirmations: blocks on top of the last step before the manifest is written.
            on_step: told each step as it is in a block, those of earlier runs too (`resumed`).
            on_wait: told how many confirmations are still missing.

        Raises:
            ContractError, TransactionPending, …: as `Transactions.send`; a later run goes on from there.
        """
        if not self._progress_file.exists():
            self._progress.save(self._progress_file)
            self._checkpoint("began")
        for entry in self.done:
            on_step(entry)
        for _ in range(_ROUNDS):
            for step in self._steps:
                if not self._holds(step):
                    on_step(self._send(step, transactions))
            self._confirm(confirmations, on_wait)
            if not self.left():
                return self._save()
        raise _unstable()

    def _send(self, step: Step, transactions: Transactions) -> Done:
        """Sends the step once and waits until the chain has what it makes."""
        others = tuple(earlier for earlier in self._progress.done if earlier.name != step.name)
        deadline = time.monotonic() + STEP_SECONDS
        while True:
            entry = Done.of(step, self._sent(step, transactions))
            self._progress = replace(self._progress, done=(*others, entry))
            if self._holds(step):
                self._progress.save(self._progress_file)
                self._checkpoint("recorded")
                return entry
            if time.monotonic() > deadline:
                raise _unstable()
            time.sleep(0.2)  # a reorganisation that the queue has not noticed yet: it looks once a second

    def _sent(self, step: Step, transactions: Transactions) -> Sent:
        key = f"deploy/{self._progress.key}/{step.name}"
        try:
            return transactions.send(step.call(self.plan), timeout=STEP_SECONDS, key=key)
        except AssayError as error:
            reached = f"{len(self.done)} of {len(self._steps)} steps are done and kept: the same command goes on there."
            error.hint = f"{error.hint} {reached}".strip()
            raise

    def _holds(self, step: Step) -> bool:
        """Whether the chain has what the step makes."""
        plan = self.plan
        if not any(entry.name == step.name for entry in self._progress.done):
            return False
        if isinstance(step, Creation):
            address = plan.made[step.name]
            code = self._chain.code(address)
            if code and code != step.runtime_code(plan, address):
                raise ChainError(
                    f"At {address}, where this deployment made {step.contract}, the chain has other code.",
                    hint="Do not go on: the chain is no faithful EVM, or the endpoint lies.",
                    code="CodeMismatch",
                    contract=step.name,
                    address=address,
                )
            return bool(code)
        vault = Vault(self._chain, plan.made[step.target])
        return bool(self._chain.code(vault.address)) and vault.is_sealed()

    def _confirm(self, confirmations: int, on_wait: Callable[[int], None]) -> None:
        newest = max(entry.block for entry in self._progress.done)
        told = 0
        while (missing := newest + confirmations - self._chain.head().number) > 0:
            if missing != told:
                on_wait(missing)
            told = missing
            time.sleep(max(0.05, min(self._network.block_time_ms / 2000, 2.0)))

    def _save(self) -> Deployed:
        blocks = [self._block_of(entry) for entry in self._progress.done]
        deployment = finished(self._chain, self.plan, self._network, min(blocks))
        deployment.save(self._manifest)
        self._checkpoint("saved")
        return self.tidy_up(deployment)

    def tidy_up(self, deployment: Deployment | None = None) -> Deployed:
        """Removes the progress of a deployment whose manifest is written."""
        deployment = deployment or Deployment.load(self._manifest)
        self._progress_file.unlink(missing_ok=True)
        return Deployed(deployment, self._progress.done)

    def _block_of(self, entry: Done) -> int:
        """A reorganisation may have put the transaction into another block since it was recorded."""
        receipt = self._chain.receipt(entry.transaction)
        return int(receipt["blockNumber"], 16) if receipt is not None else entry.block

    def _taken_up(self, fresh: Progress) -> Progress:
        """The progress of an earlier run, if this is the same deployment on the same chain."""
        earlier = Progress.load(self._progress_file)
        if earlier is None:
            return fresh
        if earlier.chain_id == fresh.chain_id and earlier.genesis != fresh.genesis:
            if fresh.chain_id in DEVELOPMENT_CHAIN_IDS:
                self._progress_file.unlink()
                return fresh
            raise ConfigError(
                f"The deployment in {self._progress_file} began on a chain {fresh.chain_id} with another first block.",
                hint="Nothing was sent. Check the RPC URL; if that chain is gone, remove the file and begin anew.",
                code="ChainStartedAnew",
                expected=earlier.genesis,
                got=fresh.genesis,
            )
        same = earlier.chain_id == fresh.chain_id and earlier.digest == fresh.digest
        if not same or not same_address(earlier.guardian, fresh.guardian):
            raise ConfigError(
                f"{self._progress_file} belongs to another deployment, half done: on chain {earlier.chain_id} by "
                f"{earlier.guardian}, with other parameters, key or version than these. Nothing was sent.",
                hint="Finish that one with its own options, or name another file with --deployment; or remove the "
                "file: what it had deployed then stays unused.",
                code="OtherDeployment",
                path=str(self._progress_file),
            )
        return earlier


def _unstable() -> ChainError:
    return ChainError(
        "The chain keeps taking the deployment back; it stays queued and is sent again by the next run.",
        hint="Wait until the chain is calm, then run the same command.",
        code="Unstable",
    )


def _digest(plan: Plan) -> str:
    try:
        return plan_digest(plan)
    except EncodingError as error:
        raise ConfigError(
            f"A parameter does not fit into the contracts: {error}. Nothing was sent.",
            hint="Windows are below 2^64 seconds, amounts below 2^256 base units, and nothing is negative.",
            code="BadParameter",
        ) from None


def done_json(entry: Done) -> dict[str, Any]:
    """A step as --json prints it; wei as text."""
    return {
        "name": entry.name,
        "transaction": entry.transaction,
        "address": entry.address.lower() or None,
        "block": entry.block,
        "gas": entry.gas,
        "wei": str(entry.wei),
        "resumed": entry.resumed,
    }
