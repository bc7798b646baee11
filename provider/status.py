"""What a provider has, owes and earned: out of the chain and the journal, also while its agent runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from market.deployment import Contracts
from market.inference.engine import Engine, kernels_in_use, threads_in_use
from provider.drain import Drain
from provider.journal import Journal
from provider.records import BONDED, JobRow, Stage

_ENGINE = "engine"  # the journal's mark


@dataclass(frozen=True)
class Bond:
    """Stake locked for one job; `free_at` is 0 while its job is not final."""

    job_id: str
    amount: int
    free_at: int


@dataclass(frozen=True)
class OpenJob:
    """A job with something left to do."""

    job_id: str
    stage: str
    commit_deadline: int


@dataclass(frozen=True)
class RefusedJob:
    job_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class EngineInUse:
    """What an agent computes with.

    Attributes:
        device: as configured; kernels: what passed the self-test there, one name for each kind in use.
        threads: of the engine, None where the library decides; started_at: unix seconds.
    """

    device: str
    kernels: tuple[str, ...]
    threads: int | None
    started_at: int

    @classmethod
    def of(cls, engines: Iterable[Engine], device: str, now: int) -> Self:
        loaded = list(engines)
        kernels = tuple(sorted({kernels_in_use(engine) for engine in loaded}))
        return cls(device, kernels, max((threads_in_use(engine) or 0 for engine in loaded), default=0) or None, now)

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        kernels = ", ".join(self.kernels)
        return f"{kernels}{'' if self.device in kernels else f' on {self.device}'}{threads}"

    def note(self, journal: Journal) -> None:
        """For `assay provider status`, which is another process."""
        journal.set_mark(_ENGINE, json.dumps(asdict(self)))

    @classmethod
    def noted(cls, journal: Journal) -> Self | None:
        text = journal.mark(_ENGINE)
        if text is None:
            return None
        fields = json.loads(text)
        return cls(fields["device"], tuple(fields["kernels"]), fields["threads"], fields["started_at"])


@dataclass(frozen=True)
class Status:
    """Money in base units of the token, times in unix seconds.

    Attributes:
        staked: free stake; bonds: locked beside it; exiting, exit_ready_at: stake on its way out.
        credit: can be withdrawn now; wallet: tokens outside the vault; gas_wei: the chain's coin.
        earned: escrow paid to this provider, as far as the journal goes back.
        draining: whether it takes no new work.
        engine: what computed when the agent last started, None before the first start.
    """

    address: str
    endpoint: str
    token: str
    symbol: str
    decimals: int
    staked: int
    credit: int
    wallet: int
    gas_wei: int
    exiting: int
    exit_ready_at: int
    earned: int
    settled_jobs: int
    draining: bool
    engine: EngineInUse | None
    bonds: tuple[Bond, ...]
    open_jobs: tuple[OpenJob, ...]
    refused_jobs: tuple[RefusedJob, ...]

    @property
    def locked(self) -> int:
        return sum(bond.amount for bond in self.bonds)

    def to_json(self) -> dict[str, Any]:
        """Token amounts in base units and times as integers, wei as a decimal string, as the client's commands do."""
        fields = asdict(self)
        token = {"address": fields.pop("token"), "symbol": fields.pop("symbol"), "decimals": fields.pop("decimals")}
        return fields | {"token": token, "gas_wei": str(self.gas_wei), "locked": self.locked}


def gather(address: str, contracts: Contracts, journal: Journal | None, balance: Callable[[str], int]) -> Status:
    """Reads everything. `journal` None: this provider has not run yet.

    Raises:
        ChainError: the chain could not be read.
    """
    vault, token = contracts.vault, contracts.token
    leaving = vault.exit_of(address)
    open_rows: list[JobRow] = [] if journal is None else journal.open_jobs()
    rows = [] if journal is None else journal.jobs(100)
    return Status(
        address=address.lower(),
        endpoint=contracts.registry.provider(address).endpoint,
        token=token.address.lower(),
        symbol=token.symbol(),
        decimals=token.decimals(),
        staked=vault.staked(address),
        credit=vault.credit(token.address, address),
        wallet=token.balance_of(address),
        gas_wei=balance(address),
        exiting=leaving.amount,
        exit_ready_at=leaving.ready_at,
        earned=0 if journal is None else journal.earned(),
        settled_jobs=0 if journal is None else journal.settled_count(),
        draining=journal is not None and Drain(journal).active,
        engine=None if journal is None else EngineInUse.noted(journal),
        bonds=tuple(Bond(_hex(row.job_id), row.bond, row.release_at) for row in open_rows if row.stage in BONDED),
        open_jobs=tuple(OpenJob(_hex(row.job_id), row.stage, row.commit_deadline) for row in open_rows),
        refused_jobs=tuple(
            RefusedJob(_hex(row.job_id), row.reason, row.detail) for row in rows if row.stage is Stage.REFUSED
        ),
    )


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
