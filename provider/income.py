"""Taking money out: bonds that came free, stake that leaves, credit that goes to an address."""

from __future__ import annotations

from dataclasses import dataclass

from market.chain import Call
from market.deployment import Contracts
from market.errors import ConfigError
from market.transactions import Sent, Transactions
from provider.journal import Journal
from provider.keys import JobKey
from provider.records import BONDED


@dataclass(frozen=True)
class Action:
    """One thing that was done. Amount in base units."""

    what: str  # released, unstaking, unstaked, withdrawn
    amount: int
    transaction: str
    note: str = ""


class Income:
    """Each method sends what it can and says what it did. Raises ChainError; ContractError where a contract refuses.

    Args:
        now: the chain's time, unix seconds.
        key: start of the idempotency keys; with one, each method sends at most once in all.
    """

    def __init__(
        self,
        contracts: Contracts,
        transactions: Transactions,
        journal: Journal | None,
        now: int,
        key: str | None = None,
    ) -> None:
        self._contracts = contracts
        self._transactions = transactions
        self._journal = journal
        self._now = now
        self._key = key
        self._address = transactions.address

    def release(self) -> list[Action]:
        """Returns the bonds that are due to the stake; asks the chain, whose jobs may be further than the journal."""
        jobs = self._contracts.jobs
        window, deadline, actions = jobs.dispute_window(), jobs.dispute_deadline(), []
        for row in [] if self._journal is None else self._journal.open_jobs():
            if row.stage not in BONDED:
                continue
            job = jobs.job(row.job_id)
            mine = next(
                (
                    replica
                    for replica in jobs.replicas(row.job_id)
                    if replica.provider.lower() == self._address.lower() and replica.is_held
                ),
                None,
            )
            # of an output that is demanded and was not published the bond is lost, whatever the time
            if mine is None or not job.state.is_final or mine.is_demanded:
                continue
            if self._now < mine.bond_free_at(job, window, deadline):
                continue
            key = JobKey.RELEASE.of(row.job_id, row.attempts)  # the agent's own: both together release once
            sent = self._transactions.send(jobs.release_bond(row.job_id, self._address), key=key)
            actions.append(Action("released", row.bond, sent.hash, "0x" + row.job_id.hex()))
        return actions

    def begin_leaving(self, amount: int | None) -> list[Action]:
        """Starts unbonding of `amount` of the free stake, or of all of it (None)."""
        staked = self._contracts.vault.staked(self._address)
        wanted = staked if amount is None else amount
        if wanted == 0:
            return []
        sent = self._send(self._contracts.vault.request_unstake(wanted))
        ready_at = self._contracts.vault.exit_of(self._address).ready_at
        return [Action("unstaking", wanted, sent.hash, f"ready at {ready_at}")]

    def finish_leaving(self) -> list[Action]:
        """Turns a finished exit into credit.

        Raises:
            ConfigError: nothing is leaving.
            ContractError: ExitNotReady.
        """
        leaving = self._contracts.vault.exit_of(self._address)
        if leaving.amount == 0:
            raise ConfigError("Nothing is leaving the stake.", hint="Begin with --unstake.")
        sent = self._send(self._contracts.vault.finish_unstake(self._address))
        return [Action("unstaked", leaving.amount, sent.hash)]

    def withdraw(self, to: str, amount: int | None) -> list[Action]:
        """Sends credit to an address: `amount`, or all of it (None)."""
        token = self._contracts.token.address
        wanted = self._contracts.vault.credit(token, self._address) if amount is None else amount
        if wanted == 0:
            return []
        sent = self._send(self._contracts.vault.withdraw(token, to, wanted))
        return [Action("withdrawn", wanted, sent.hash, to)]

    def _send(self, call: Call) -> Sent:
        return self._transactions.send(call, key=None if self._key is None else f"{self._key}:{call.label}")
