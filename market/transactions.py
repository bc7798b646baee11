"""Sending transactions so that none is lost, doubled or left in doubt.

One `Transactions` per key and chain. A transaction is on disk before the endpoint sees it; a crash at any point is
recovered by opening the queue again. One background thread watches what is pending: it awaits receipts, broadcasts
again what the endpoint forgot or a reorg dropped, replaces what is stuck by an offer 12.5 % higher, and fills a nonce
that was lost and holds up those behind it.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from market.chain import CREATE, DEVELOPMENT_CHAIN_IDS, Call, Chain, RpcError
from market.errors import AssayError, ChainError, ConfigError, ContractError
from market.fees import FeePolicy, Fees
from market.filelock import FileLock
from market.transaction_queue import MEMORY, Attempt, Row, State, TransactionQueue
from market.transaction_watch import Timing, Watch

_LOG = logging.getLogger(__name__)
NONCE_TRIES = 5
CHECKPOINTS = ("persisted", "broadcast", "mined", "replaced", "reopened", "filled")
"""Where a crash test may end the process: a transaction is on disk; was handed to the endpoint; was found in a block;
its dearer offer is on disk; a reorg took it back on disk; a filler of a nonce gap is on disk."""
GAS_MARGIN = (5, 4)
"""Estimates are for the state as it is; another's transaction in between may make ours dearer (the last commit of a
job, for instance, also fixes a deadline), so the limit is 5/4 of the estimate plus GAS_RESERVE. Unused gas is free."""
GAS_RESERVE = 60_000


@dataclass(frozen=True)
class Sent:
    """A transaction that is in a block and succeeded.

    Attributes:
        hash: 0x-prefixed transaction hash.
        gas_used: gas; effective_gas_price: wei per gas.
        logs: as JSON-RPC gives them (market.events.decode_log reads one).
        contract_address: of the contract it created, if it did.
    """

    hash: str
    block_number: int
    gas_used: int
    effective_gas_price: int
    logs: tuple[dict[str, Any], ...]
    label: str
    contract_address: str | None = None


class Queued:
    """A transaction that was handed to the endpoint and is watched. Made by `Transactions.enqueue`."""

    def __init__(self, ended: Callable[[float], Row], result: Callable[[Row], Sent], timeout: float) -> None:
        self._ended = ended
        self._result = result
        self._until = time.monotonic() + timeout

    @property
    def is_over(self) -> bool:
        """Whether it is in a block or lost, so that `wait` returns at once; no RPC call. Raises ChainError: Closed."""
        return self._ended(0).state is not State.PENDING

    def wait(self) -> Sent:
        """Waits for the receipt, until the time-out that it was enqueued with. Raises as `Transactions.send` does once
        something was sent."""
        return self._result(self._ended(max(self._until - time.monotonic(), 0)))


class TransactionPending(ChainError):
    """The time-out passed before the transaction was in a block; it stays queued and watched."""


class TransactionRefused(ChainError):
    """The endpoint refused the transaction for certain; nothing was sent."""


class NonceTaken(ChainError):
    """Another program sent a transaction with the same key and nonce; ours never happens."""


class _Outcome(enum.Enum):
    SENT = enum.auto()
    NONCE_TAKEN = enum.auto()


class Transactions:
    """The single writer of one key on one chain. Safe to call from many threads.

    Args:
        chain, account: where and as whom.
        queue: file of the queue; a lock lies beside it. ":memory:" forgets with the process (development only).
        clock: unix seconds, for the record.
        fees: ceiling and tips.
        timing: how fast the watcher polls, re-broadcasts and replaces.
        checkpoint: called at each of CHECKPOINTS, by its name; for crash tests.
        lock_timeout: seconds to wait for another process that uses the same queue.

    Raises:
        ConfigError: the queue is in use (code Locked), unreadable, or of another key or chain.
        ChainUnreachable: the nonce could not be compared with the chain's.
    """

    def __init__(
        self,
        chain: Chain,
        account: LocalAccount,
        queue: Path | str,
        *,
        clock: Callable[[], float] = time.time,
        fees: FeePolicy | None = None,
        timing: Timing | None = None,
        checkpoint: Callable[[str], None] = lambda _: None,
        lock_timeout: float = 5.0,
    ) -> None:
        self.chain = chain
        self.address: str = account.address
        self._account = account
        self._clock = clock
        self._fees = fees or FeePolicy()
        self._checkpoint = checkpoint
        self._ceilings: dict[int, int] = {}  # rows for which more than the usual may be paid
        self._nonce_lock = threading.Lock()
        self._lock_file: FileLock | None = None
        if str(queue) != MEMORY:
            queue = Path(queue)
            lock = queue.with_name(queue.name + ".lock")
            self._lock_file = FileLock(lock, f"the transaction queue of {self.address}", timeout=lock_timeout)
        try:
            self._queue = TransactionQueue(queue, chain_id=chain.chain_id, address=self.address)
            try:
                self._forget_dead_chain()
                self._watch = Watch(
                    chain,
                    self.address,
                    self._queue,
                    replace=self._replace,
                    fill=self._fill,
                    timing=timing or Timing(),
                    checkpoint=checkpoint,
                )
            except BaseException:
                self._queue.close()
                raise
        except BaseException:
            if self._lock_file is not None:
                self._lock_file.close()
            raise

    # ------------------------------------------------------------------------------------------------------ send

    def send(self, call: Call, *, timeout: float = 120.0, key: str | None = None, ceiling: int | None = None) -> Sent:
        """Simulates, sends and waits for the receipt.

        Args:
            timeout: seconds to wait for a block.
            key: idempotency key. While a transaction with this key is pending or mined, nothing new is sent: its
                result is awaited and returned. One that reverted or was lost frees its key. Without a key, a
                process that died in the middle cannot know whether what it sent still happens.
            ceiling: wei per gas that may be paid for this one, where that is more than usual; also for one that was
                sent with this key before and is stuck, and for those before it, which hold it up. Kept in memory:
                whoever starts again says it again.

        Raises:
            ContractError: it would revert (nothing was sent), or it reverted in a block (the gas is gone).
            FeeAboveCap, TransactionRefused: nothing was sent.
            TransactionPending: not in a block yet; it stays queued, and sending again with the same key awaits it.
            NonceTaken: another program used this key; ours never happens.
            ChainUnreachable: the chain could not be asked; nothing was sent.
        """
        return self.enqueue(call, timeout=timeout, key=key, ceiling=ceiling).wait()

    def enqueue(
        self,
        call: Call,
        *,
        timeout: float = 120.0,
        key: str | None = None,
        ceiling: int | None = None,
        block: str = "pending",
    ) -> Queued:
        """As `send`, but does not wait: several may be on their way, with one nonce after the other. If one of them
        reverts, the others happen all the same.

        Args:
            timeout: seconds from now that `Queued.wait` waits for a block at most.
            block: it is simulated on. "pending" knows what waits in the endpoint's pool, ours and others'; "latest"
                only what happened: for what must be sent whatever somebody else says, and perhaps takes back.

        Raises:
            As `send` does where nothing was sent.
        """
        self._watch.check()
        row = self._sent_before(key)
        fees = self._fees if ceiling is None else self._fees.up_to(ceiling)
        if row is None:
            try:
                estimate = self.chain.estimate_gas(call, self.address, block)
            except ContractError as error:
                error.hint = error.hint if "othing" in str(error) else f"Nothing was sent. {error.hint}".strip()
                raise
            gas = estimate * GAS_MARGIN[0] // GAS_MARGIN[1] + GAS_RESERVE
            row = self._submit(call, gas, fees.suggest(self.chain), key)
        for held_up_by in self._queue.pending() if ceiling is not None else ():
            if held_up_by.nonce < row.nonce:
                self._ceilings[held_up_by.id] = max(self._ceilings.get(held_up_by.id, 0), fees.ceiling)
        self._ceilings[row.id] = fees.ceiling
        row_id = row.id
        return Queued(lambda left: self._ended(row_id, left), lambda ended: self._result(ended, timeout), timeout)

    def _ended(self, row_id: int, timeout: float) -> Row:
        """The row once it has ended, or as it stands when the time-out passes."""
        row = self._watch.wait(row_id, timeout)
        if row.state is not State.PENDING:
            self._ceilings.pop(row_id, None)
        return row

    def pending(self) -> int:
        """How many transactions are not in a block yet."""
        return len(self._queue.pending())

    def close(self) -> None:
        """Stops watching and lets the next writer in; what is pending stays queued. Safe to repeat."""
        self._watch.close()
        with self._nonce_lock:  # a send that is being persisted and broadcast comes to its end
            self._queue.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------------- one nonce

    def _sent_before(self, key: str | None) -> Row | None:
        if key is None:
            return None
        with self._nonce_lock:
            self._watch.check()
            return self._queue.by_key(key)

    def _submit(self, call: Call, gas: int, fees: Fees, key: str | None) -> Row:
        """Takes the next nonce, persists, broadcasts. Nonces are handed out and first broadcast one at a time, so a
        refused transaction is always the newest and leaves no gap when it is forgotten."""
        with self._nonce_lock:
            self._watch.check()
            for _ in range(NONCE_TRIES):
                # another thread may have sent the same key while we simulated
                row = self._queue.by_key(key) if key is not None else None
                if row is not None:
                    return row
                nonce = self._next_nonce()
                attempt = self._sign(call, nonce, gas, fees)
                row_id = self._queue.add(call, nonce=nonce, gas=gas, key=key, attempt=attempt, now=int(self._clock()))
                self._checkpoint("persisted")
                try:
                    outcome = self._broadcast_first(attempt, gas, call)
                except TransactionRefused:
                    self._queue.forget(row_id)
                    raise
                if outcome is _Outcome.SENT:
                    self._checkpoint("broadcast")
                    self._watch.add(row_id)
                    return self._queue.get(row_id)
                self._queue.forget(row_id)
        raise NonceTaken(
            f"Another program keeps using the key of {self.address}; nothing was sent.",
            hint="Use one key in one program only.",
        )

    def _next_nonce(self) -> int:
        """The lowest nonce that neither the chain nor its pool nor our queue has."""
        nonce = self.chain.transaction_count(self.address, "pending")
        while self._queue.has_nonce(nonce):
            nonce += 1
        return nonce

    def _sign(self, call: Call, nonce: int, gas: int, fees: Fees) -> Attempt:
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": self.chain.chain_id,
            "nonce": nonce,
            "to": b"" if call.to == CREATE else to_checksum_address(call.to),
            "value": call.value,
            "data": call.data,
            "gas": gas,
            "maxFeePerGas": fees.max_fee,
            "maxPriorityFeePerGas": fees.priority_fee,
        }
        signed = self._account.sign_transaction(transaction)
        return Attempt("0x" + signed.hash.hex(), bytes(signed.raw_transaction), fees)

    def _broadcast_first(self, attempt: Attempt, gas: int, call: Call) -> _Outcome:
        try:
            self.chain.broadcast(attempt.raw)
        except RpcError as error:
            reason = error.details["reason"].lower()
            if "already" in reason or "known transaction" in reason:
                return _Outcome.SENT
            if "nonce" in reason:
                return self._whose_nonce(attempt)
            raise self._refusal(error, attempt, gas, call) from None
        except ChainError:
            # nobody knows whether it arrived: it stays queued, and the watcher finds out
            _LOG.warning("no answer to the broadcast of %s (%s); it stays queued", attempt.hash, call.label)
        return _Outcome.SENT

    def _whose_nonce(self, attempt: Attempt) -> _Outcome:
        """A repeated request may find its own first try mined; otherwise somebody else took the nonce."""
        try:
            return _Outcome.SENT if self.chain.is_known(attempt.hash) else _Outcome.NONCE_TAKEN
        except ChainError:
            return _Outcome.SENT  # in doubt it stays queued, and the watcher finds out

    def _refusal(self, error: RpcError, attempt: Attempt, gas: int, call: Call) -> TransactionRefused:
        if "insufficient funds" in error.details["reason"].lower():
            needs = gas * attempt.fees.max_fee + call.value
            return TransactionRefused(
                f"{call.label}: {self.address} may need {needs} wei for gas and has less. Nothing was sent.",
                hint="Send it some of the chain's own coin.",
                code="InsufficientFunds",
                address=self.address,
                needs=needs,
            )
        return TransactionRefused(
            f"{call.label}: the endpoint refused the transaction: {error.details['reason']}. Nothing was sent.",
            reason=error.details["reason"],
        )

    def _replace(self, row: Row) -> Attempt | None:
        """A dearer attempt at a stuck nonce, persisted; None where the ceiling is reached."""
        last, policy = row.attempts[-1], self._fees.up_to(self._ceilings.get(row.id, 0))
        try:
            now = policy.suggest(self.chain)
        except AssayError:
            now = last.fees
        fees = policy.replacement(last.fees, now)
        if fees is None:
            return None
        attempt = self._sign(row.call, row.nonce, row.gas, fees)
        self._queue.add_attempt(row.id, attempt, int(self._clock()))
        self._checkpoint("replaced")
        return attempt

    def _fill(self, nonce: int) -> int | None:
        """Persists a transfer of nothing to ourselves with a nonce that was lost, so that later ones can go on.

        It outbids what we once offered with that nonce: a transaction that was given up as lost stays lost. Returns the
        row's id; None where somebody is sending with that nonce now, or gas is too dear.
        """
        with self._nonce_lock:
            if self._queue.has_nonce(nonce):
                return None
            call = Call(self.address, b"", "a filler of a nonce gap")
            try:
                gas = self.chain.estimate_gas(call, self.address) * GAS_MARGIN[0] // GAS_MARGIN[1]
                fees = self._fees.suggest(self.chain)
            except AssayError as error:
                _LOG.warning("the gap at nonce %d of %s stays for now: %s", nonce, self.address, error.code)
                return None
            for lost in self._queue.lost_at(nonce):
                fees = self._fees.replacement(lost.attempts[-1].fees, fees) or fees
            attempt = self._sign(call, nonce, gas, fees)
            row_id = self._queue.add(call, nonce=nonce, gas=gas, key=None, attempt=attempt, now=int(self._clock()))
            self._checkpoint("filled")
        return row_id

    # ----------------------------------------------------------------------------------------------------- the end

    def _result(self, row: Row, timeout: float) -> Sent:
        what, newest = row.call.label, row.attempts[-1].hash
        if row.state is State.MINED and row.receipt is not None:
            return _sent(row.receipt, what)
        if row.state is State.REVERTED and row.error is not None:
            failure = ContractError(row.error["message"], hint=row.error["hint"], code=row.error["code"])
            failure.details = row.error["details"]
            raise failure
        if row.state is State.LOST:
            raise NonceTaken(
                f"{what}: another program sent a transaction with nonce {row.nonce} of {self.address}; "
                "ours never happens and cost nothing.",
                hint="Use one key in one program only, then try again.",
                nonce=row.nonce,
            )
        raise TransactionPending(
            f"{what}: transaction {newest} is not in a block after {timeout:g} s. It stays queued and is watched.",
            hint="Wait, or send again with the same key: that awaits this one.",
            hash=newest,
            nonce=row.nonce,
        )

    def _forget_dead_chain(self) -> None:
        """A development chain that was started from nothing has nothing to do with our queue any more."""
        genesis = self.chain.block(0).hash
        stored = self._queue.fact("genesis")
        if stored is not None and stored != genesis:
            if self.chain.chain_id not in DEVELOPMENT_CHAIN_IDS:
                raise ConfigError(
                    f"The queue was written for a chain {self.chain.chain_id} with another first block.",
                    hint="Check the RPC URL.",
                    expected=stored,
                    got=genesis,
                )
            _LOG.warning("development chain %d was started anew: its old transactions are dropped", self.chain.chain_id)
            self._queue.forget_all()
        self._queue.set_fact("genesis", genesis)


def _sent(receipt: dict[str, Any], label: str) -> Sent:
    created = receipt.get("contractAddress")
    return Sent(
        hash=receipt["transactionHash"],
        block_number=int(receipt["blockNumber"], 16),
        gas_used=int(receipt["gasUsed"], 16),
        effective_gas_price=int(receipt.get("effectiveGasPrice") or "0x0", 16),
        logs=tuple(receipt["logs"]),
        label=label,
        contract_address=to_checksum_address(created) if created else None,
    )
