"""The node's view of the chain: typed contracts, one transaction queue, and an idea of what time it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from market.chain import Block, Call, Chain
from market.contracts import Jobs, Vault
from market.errors import ContractError
from market.events import Event, decode_logs
from market.fees import FeePolicy
from market.hashing import chain_seed
from market.signing import Domain
from market.transactions import Queued, Transactions
from market.types import Output
from market.views import JobState, JobView, ReplicaView
from provider.seeds import JobSeed

URGENT_CEILING = 10 * FeePolicy().ceiling
"""Wei per gas for what a bond hangs on, when little time is left."""


@dataclass(frozen=True)
class Outlook:
    """What was true at one head. Money in base units, fee in wei per gas; `gas_wei`: the account's gas coin."""

    head: Block
    stake: int
    fee_per_gas: int
    seen: float  # monotonic seconds
    gas_wei: int = 0


class ChainSide:
    """Implements provider.job_chain.JobChain and provider.draws.DrawChain. Thread-safe; reads are RPC calls unless they
    say otherwise.

    Args:
        clock: unix seconds of this machine; monotonic: seconds that never jump.
        timeout: seconds one transaction may take until its receipt.
    """

    def __init__(
        self,
        chain: Chain,
        jobs: Jobs,
        vault: Vault,
        transactions: Transactions,
        *,
        timeout: float = 120.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._jobs = jobs
        self._vault = vault
        self._transactions = transactions
        self._timeout = timeout
        self._clock = clock
        self._monotonic = monotonic
        self._tip = FeePolicy().min_priority_fee
        self.address = transactions.address
        self.domain: Domain = jobs.domain
        self.dispute_window = jobs.dispute_window()
        self.dispute_deadline = jobs.dispute_deadline()
        self._known: Outlook | None = None
        self.look()

    def look(self) -> Outlook:
        """Reads head, stake, fee and gas coin, and remembers them."""
        head = self._chain.head()
        stake = self._vault.staked(self.address)
        if self._known is not None and self._known.head.hash == head.hash:
            seen, coins = self._known.seen, self._known.gas_wei  # time passes on a chain without new blocks, too
        else:
            seen, coins = self._monotonic(), self._chain.balance(self.address)
        outlook = Outlook(head, stake, head.base_fee + self._tip, seen, coins)
        self._known = outlook
        return outlook

    @property
    def outlook(self) -> Outlook:
        """What `look` saw last; no RPC call."""
        return self._known if self._known is not None else self.look()

    def now(self) -> int:
        """About the next block's timestamp; no RPC call.

        The newest head's time plus what passed since it was seen, or this machine's clock where that is later: a chain
        without transactions may have had no block for hours, and a development chain may be ahead.
        """
        outlook = self.outlook
        return max(outlook.head.timestamp + int(self._monotonic() - outlook.seen), int(self._clock()))

    def seen(self, depth: int = 0) -> int:
        """Timestamp of the newest head seen (no RPC call), or of the block `depth` below it."""
        head = self.outlook.head
        return self._chain.block(max(head.number - depth, 0)).timestamp if depth else head.timestamp

    def job(self, job_id: bytes, depth: int = 0) -> JobView | None:
        try:
            job = self._jobs.job(job_id, max(self.outlook.head.number - depth, 0) if depth else "latest")
        except ContractError as error:
            if error.code == "UnknownJob":
                return None
            raise
        return None if job.state is JobState.NONE else job

    def replicas(self, job_id: bytes) -> list[ReplicaView]:
        return self._jobs.replicas(job_id)

    def seed(self, job_id: bytes) -> JobSeed:
        """The contract's word, or, while the posting block is the newest one, what it will say in the next: a chain
        without other transactions has no next block until somebody commits.
        """
        view = self._jobs.seed_of(job_id)
        age = self._chain.head().number - view.block
        if not view.is_known and view.block and age <= 0:
            view = replace(view, seed=chain_seed(job_id, bytes.fromhex(self._chain.block(view.block).hash[2:])))
        return JobSeed(view, age)

    def stake(self) -> int:
        return self._vault.staked(self.address)

    def fee_per_gas(self) -> int:
        """Wei per gas at the newest head seen; no RPC call."""
        return self.outlook.fee_per_gas

    def enqueue(self, call: Call, key: str, waits: int | None = None) -> Queued:
        """Sends any call, and does not wait until it is mined.

        Args:
            waits: seconds for which it may wait for cheaper gas; at 0 it is sent for up to URGENT_CEILING. None: it
                may wait for ever. What may not is simulated on the newest block, whatever waits in pools.
        """
        ceiling = URGENT_CEILING if waits == 0 else None
        timeout = min(self._timeout, waits) if waits else self._timeout
        # somebody's transaction in a pool would make ours look done already, and can be taken back at the last moment
        block = "pending" if waits is None else "latest"
        return self._transactions.enqueue(call, timeout=timeout, key=key, ceiling=ceiling, block=block)

    def commit(self, job_id: bytes, commitment: bytes, key: str) -> None:
        self._transactions.send(self._jobs.commit(job_id, commitment), timeout=self._timeout, key=key)

    def reveal(self, job_id: bytes, output: Output, salt: bytes, key: str) -> None:
        self._transactions.send(self._jobs.reveal(job_id, output, salt), timeout=self._timeout, key=key)

    def settle(self, job_id: bytes, key: str) -> None:
        self._transactions.send(self._jobs.settle(job_id), timeout=self._timeout, key=key)

    def fix_seed(self, job_id: bytes, key: str) -> None:
        self._transactions.send(self._jobs.fix_seed(job_id), timeout=self._timeout, key=key)

    def draw(self, job_id: bytes, key: str) -> None:
        self._transactions.send(self._jobs.draw(job_id), timeout=self._timeout, key=key)

    def publish_output(self, job_id: bytes, ids: Sequence[int], key: str) -> None:
        self._transactions.send(self._jobs.publish_output(job_id, ids), timeout=self._timeout, key=key)

    def published_request(self, job_id: bytes, since: int) -> Event | None:
        """The event with a public job's prompt, in block `since` or later."""
        events = decode_logs(self._chain.logs([self._jobs.address], since, self.outlook.head.number))
        return next((e for e in events if e.name == "RequestPublished" and e.args["jobId"] == job_id), None)

    def release_bond(self, job_id: bytes, key: str) -> None:
        call = self._jobs.release_bond(job_id, self.address)
        self._transactions.send(call, timeout=self._timeout, key=key)
