"""One account's transactions, and the clock of its chain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time

from eth_account.signers.local import LocalAccount

from market.chain import Call, Chain
from market.errors import ChainError
from market.transactions import Sent, Transactions

LOCK_SECONDS = 60.0
"""How long to wait for another process of the same account that is sending."""
PENDING_SECONDS = 60.0


class Wallet:
    """Sends for one account. The queue is open only around sending, so that a second command of the same account may
    send while the first one waits for its answer.

    Args:
        queue: file of the transaction queue.
        linger: seconds the queue stays open after the last use: the next transaction usually follows soon.
    """

    def __init__(self, chain: Chain, account: LocalAccount, queue: Path, *, linger: float = 2.0) -> None:
        self._chain = chain
        self.account = account
        self._queue = queue
        self._linger = linger
        self._lock = threading.Lock()
        self._users = 0
        self._transactions: Transactions | None = None
        self._timer: threading.Timer | None = None

    @contextmanager
    def open(self) -> Iterator[Transactions]:
        """The account's only writer, for as long as the block lasts.

        Raises:
            ConfigError: code Locked, another process has been sending for a minute.
        """
        with self._lock:
            self._cancel_timer()
            if self._transactions is None:
                self._transactions = Transactions(self._chain, self.account, self._queue, lock_timeout=LOCK_SECONDS)
            self._users += 1
            transactions = self._transactions
        try:
            yield transactions
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._timer = threading.Timer(self._linger, self.close)
                    self._timer.daemon = True
                    self._timer.start()

    def close(self) -> None:
        """Lets another process send, unless something is being sent right now. Safe to repeat."""
        with self._lock:
            self._cancel_timer()
            if self._users == 0 and self._transactions is not None:
                self._transactions.close()
                self._transactions = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send(self, call: Call, key: str | None = None) -> Sent:
        """Sends one transaction and awaits its receipt. Raises as `Transactions.send`."""
        with self.open() as transactions:
            return transactions.send(call, key=key)

    def send_again_what_is_gone(self) -> None:
        """Opens the queue, which broadcasts again what a reorg took back, and waits until all of it is in blocks.

        Raises:
            ChainError: something has been pending for a minute; ConfigError: another process is sending.
        """
        with self.open() as transactions:
            await_earlier(transactions)


def await_earlier(transactions: Transactions) -> None:
    """Waits until nothing older is pending: an unmined `post` would take the next job's number.

    Raises:
        ChainError: something has been pending for a minute.
    """
    deadline = monotonic() + PENDING_SECONDS
    while transactions.pending():
        if monotonic() > deadline:
            raise ChainError(
                f"{transactions.pending()} earlier transactions of this account are not in a block yet.",
                hint="Nothing new was sent. Wait, then try again: they stay queued and are watched.",
                code="EarlierPending",
            )
        sleep(0.05)


class ChainClock:
    """Unix seconds as the contracts will see them in the next block.

    A development chain may run ahead of the machine; a real one lags by a block. The pending block's time is asked once
    a second and carried on by the machine's clock in between.
    """

    def __init__(self, chain: Chain, wall: Callable[[], float] = time, *, refresh: float = 1.0) -> None:
        self._chain = chain
        self._wall = wall
        self._refresh = refresh
        self._asked_at = float("-inf")
        self._ahead = 0.0

    def now(self) -> int:
        """Raises ChainUnreachable."""
        wall = self._wall()
        if not self._asked_at <= wall < self._asked_at + self._refresh:
            self._ahead = max(0.0, self._next_timestamp() - wall)
            self._asked_at = wall
        return int(wall + self._ahead)

    def _next_timestamp(self) -> int:
        try:
            return self._chain.block("pending").timestamp
        except ChainError:
            return self._chain.head().timestamp  # an endpoint without pending blocks
