"""The watcher of a transaction queue: receipts, re-broadcasts, replacements, reorgs. One daemon thread.

It looks at the chain only while something is pending or young enough to be dropped by a reorg.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from market.chain import Call, Chain, RpcError
from market.errors import ChainError, ConfigError, ContractError
from market.transaction_queue import Attempt, Row, State, TransactionQueue

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """How patient the watcher is; seconds unless it says blocks.

    The first look after a broadcast comes at once, then the pause grows from poll_first to poll_max by half each time.
    """

    poll_first: float = 0.005
    poll_max: float = 0.1
    rebroadcast_after: float = 3.0
    replace_after: float = 30.0
    lost_after: float = 10.0
    gap_after: float = 10.0
    watch_interval: float = 1.0
    watch_depth: int = 32  # blocks after which a reorg is no longer expected


@dataclass
class _Age:
    """What this process knows about a pending row; monotonic seconds."""

    checked: float  # last broadcast, or last proof that the endpoint knows it
    offered: float  # when the newest attempt was made
    overtaken: float | None = None  # since when its nonce is used up without one of our receipts


@dataclass
class _Shallow:
    """A finished row that a reorg could still undo."""

    row_id: int
    number: int
    hash: str


@dataclass
class _Young:
    rows: list[_Shallow] = field(default_factory=list)
    head: str = ""
    next_look: float = 0.0


class Watch:
    """Watches one queue.

    Args:
        replace: makes and persists a dearer attempt at a row; None where there is none to make.
        fill: makes and persists a transaction that only uses up a nonce; returns its row, None where that must wait.
        checkpoint: called with "mined" before a receipt is stored, "reopened" after a reorg took one back.

    Raises:
        ChainUnreachable: the chain's nonce could not be read at the start.
    """

    def __init__(
        self,
        chain: Chain,
        address: str,
        queue: TransactionQueue,
        *,
        replace: Callable[[Row], Attempt | None],
        fill: Callable[[int], int | None],
        timing: Timing,
        checkpoint: Callable[[str], None],
    ) -> None:
        self._chain = chain
        self._address = address
        self._queue = queue
        self._replace = replace
        self._fill = fill
        self._gap: tuple[int, float] | None = None  # a nonce that nobody seems to have, and since when
        self._timing = timing
        self._checkpoint = checkpoint
        self._changed = threading.Condition()
        self._fresh = False  # something was added since the last look
        self._closed = False
        self._failure: BaseException | None = None
        self._ages: dict[int, _Age] = {}
        self._young = _Young()
        self._adopt()
        self._thread = threading.Thread(target=self._run, name=f"transactions {address[:10]}", daemon=True)
        self._thread.start()

    def add(self, row_id: int) -> None:
        """A row was just broadcast."""
        now = time.monotonic()
        with self._changed:
            self._ages[row_id] = _Age(checked=now, offered=now)
            self._fresh = True
            self._changed.notify_all()

    def wait(self, row_id: int, timeout: float) -> Row:
        """The row once it has ended, or as it stands when the time-out passes.

        Raises:
            ChainError: code Closed: the watcher was closed meanwhile; the row stays queued.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                self.check()
                row = self._queue.get(row_id)
                remaining = deadline - time.monotonic()
                if row.state is not State.PENDING or remaining <= 0:
                    return row
                self._changed.wait(remaining)

    def check(self) -> None:
        """Raises ChainError, code Closed, where nobody watches any more."""
        if self._closed or self._failure is not None:
            raise ChainError(
                "The transaction queue is closed; what was pending stays queued.",
                hint="Open the queue again: it goes on by itself.",
                code="Closed",
                reason=str(self._failure or ""),
            )

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # ------------------------------------------------------------------------------------------------- the thread

    def _adopt(self) -> None:
        """What an earlier process left: pending rows are broadcast again by the first look, and so is everything that
        the chain's nonce says never happened (a reorg, or a development chain that went back)."""
        count = self._chain.transaction_count(self._address)
        self._queue.reopen(row.id for row in self._queue.ended_from_nonce(count))
        head = self._chain.head().number  # an endpoint that lags reopens too many: sent again, they are found mined
        self._young.rows = [
            _Shallow(row.id, row.block_number or 0, row.block_hash or "")
            for row in self._queue.ended_after(head - self._timing.watch_depth)
        ]
        pending = self._queue.pending()
        self._fresh = bool(pending)
        if pending:
            _LOG.info("adopting %d unfinished transactions of %s", len(pending), self._address)
        for row in pending:
            self._ages[row.id] = _Age(checked=float("-inf"), offered=time.monotonic())

    def _run(self) -> None:
        pause = self._timing.poll_first
        try:
            while not self._rests(pause):
                if self._take_fresh():
                    pause = self._timing.poll_first
                try:
                    if self._ages and self._look_at_pending():
                        pause = self._timing.poll_first
                    self._look_for_reorg()
                except ChainError as error:
                    _LOG.warning("watching transactions of %s: %s", self._address, error)
                    pause = max(pause, self._timing.poll_max)
                pause = min(pause * 1.5, self._timing.poll_max)
        except BaseException as error:  # noqa: BLE001 (a full disk, a crash test: waiters are told, the queue stays)
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            if not isinstance(error, ConfigError):
                _LOG.exception("the watcher of %s stopped", self._address)

    def _rests(self, pause: float) -> bool:
        """Waits until the next look is due. Returns whether the watcher was closed."""
        with self._changed:
            if not self._fresh and not self._closed:
                self._changed.wait(self._pause(pause))
            return self._closed

    def _take_fresh(self) -> bool:
        with self._changed:
            fresh, self._fresh = self._fresh, False
        return fresh

    def _pause(self, pause: float) -> float | None:
        """Seconds until the next look; None = until something is added."""
        if self._ages:
            return pause
        if self._young.rows:
            return max(self._young.next_look - time.monotonic(), 0.0)
        return None

    # ----------------------------------------------------------------------------------------------- pending rows

    def _look_at_pending(self) -> bool:
        """One look at every pending row. Returns whether any ended."""
        with self._chain.pinned():  # a nonce of one endpoint and receipts of another that lags would look like a loss
            return self._look_at_rows()

    def _look_at_rows(self) -> bool:
        count = self._chain.transaction_count(self._address)
        ended = False
        rows = self._queue.pending()
        for row in rows:
            if row.id not in self._ages:
                continue  # persisted, not broadcast yet: its sender is at work
            if row.nonce < count:
                ended |= self._find_receipt(row)
            else:
                self._ages[row.id].overtaken = None
                self._push(row, lowest=row is rows[0])
        self._look_for_gap(count, rows)
        return ended

    def _look_for_gap(self, count: int, rows: list[Row]) -> None:
        """Fills the nonce the chain waits for, where neither our queue nor the endpoint's pool has it for a while."""
        if not rows or rows[0].nonce <= count or self._chain.transaction_count(self._address, "pending") > count:
            self._gap = None
            return
        now = time.monotonic()
        if self._gap is None or self._gap[0] != count:
            self._gap = (count, now)
        if now - self._gap[1] < self._timing.gap_after:
            return
        self._gap = None
        row_id = self._fill(count)
        if row_id is not None:
            _LOG.warning("nonce %d of %s was lost: filled, so that %d go on", count, self._address, len(rows))
            self._ages[row_id] = _Age(checked=float("-inf"), offered=now)

    def _find_receipt(self, row: Row) -> bool:
        for attempt in reversed(row.attempts):
            receipt = self._chain.receipt(attempt.hash)
            if receipt is not None:
                self._finish(row, receipt)
                return True
        age = self._ages[row.id]
        age.overtaken = age.overtaken or time.monotonic()
        if time.monotonic() - age.overtaken < self._timing.lost_after:
            return False  # endpoints show a nonce before its receipt
        _LOG.error("nonce %d of %s was used by another program; %s is lost", row.nonce, self._address, row.call.label)
        self._end(row, State.LOST)
        return True

    def _finish(self, row: Row, receipt: dict[str, Any]) -> None:
        self._checkpoint("mined")
        if int(receipt["status"], 16) == 1:
            self._end(row, State.MINED, receipt)
            return
        error = self._why(row.call, receipt)
        described = {"message": error.message, "hint": error.hint, "code": error.code, "details": error.details}
        self._end(row, State.REVERTED, receipt, described)

    def _end(
        self, row: Row, state: State, receipt: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> None:
        self._queue.finish(row.id, state, receipt, error)
        with self._changed:
            self._ages.pop(row.id, None)
            if receipt is not None:
                shallow = _Shallow(row.id, int(receipt["blockNumber"], 16), receipt["blockHash"])
                self._young.rows.append(shallow)
            self._changed.notify_all()

    def _why(self, call: Call, receipt: dict[str, Any]) -> ContractError:
        """The reason of a mined revert: the call again, on the state before its block and then after it."""
        number, gas = int(receipt["blockNumber"], 16), int(receipt["gasUsed"], 16)
        for block in (number - 1, number):
            try:
                self._chain.call(call, self._address, block)
            except ContractError as error:
                error.message += f" It was mined in block {number} and cost {gas} gas; nothing else changed."
                error.args = (error.message,)
                return error
            except ChainError:
                continue  # an endpoint without old states
        return ContractError(
            f"{call.label}: reverted in block {number}, probably for lack of gas; "
            f"it cost {gas} gas and nothing else changed.",
            hint="Try again: the state it met is gone.",
            code="Reverted",
            gas_used=gas,
        )

    def _push(self, row: Row, *, lowest: bool) -> None:
        """Broadcasts again what the endpoint forgot; replaces the lowest nonce when it is stuck."""
        age, now = self._ages[row.id], time.monotonic()
        if lowest and now - age.offered >= self._timing.replace_after:
            age.offered = now
            attempt = self._replace(row)
            if attempt is None:
                _LOG.warning("%s is stuck at the fee ceiling; it stays queued", row.call.label)
            else:
                _LOG.info("%s is stuck: offering %d wei per gas", row.call.label, attempt.fees.max_fee)
                self._broadcast(attempt, row)
            age.checked = now
        elif now - age.checked >= self._timing.rebroadcast_after:
            age.checked = now
            if not any(self._chain.is_known(attempt.hash) for attempt in reversed(row.attempts)):
                self._broadcast(row.attempts[-1], row)

    def _broadcast(self, attempt: Attempt, row: Row) -> None:
        try:
            self._chain.broadcast(attempt.raw)
        except RpcError as error:  # already known, nonce just used, price not risen enough: the next look tells
            _LOG.info("broadcast of %s (nonce %d): %s", row.call.label, row.nonce, error.details["reason"])

    # ----------------------------------------------------------------------------------------------------- reorgs

    def _look_for_reorg(self) -> None:
        """Checks young blocks from the newest down to the first that stands: all below it stand, too."""
        if not self._young.rows or time.monotonic() < self._young.next_look:
            return
        with self._chain.pinned():
            self._compare_young()

    def _compare_young(self) -> None:
        self._young.next_look = time.monotonic() + self._timing.watch_interval
        head = self._chain.head()
        if head.hash == self._young.head:
            return
        keep = [row for row in self._young.rows if row.number > head.number - self._timing.watch_depth]
        keep.sort(key=lambda row: row.number)
        while keep and self._hash_of(keep[-1].number, head.number) != keep[-1].hash:
            fallen = keep.pop()
            _LOG.warning("a reorg dropped block %d of %s's transactions", fallen.number, self._address)
            self._queue.reopen([fallen.row_id])
            self._checkpoint("reopened")
            with self._changed:
                self._ages[fallen.row_id] = _Age(checked=float("-inf"), offered=time.monotonic())
                self._fresh = True
        self._young.rows, self._young.head = keep, head.hash

    def _hash_of(self, number: int, head: int) -> str | None:
        return self._chain.block(number).hash if number <= head else None
