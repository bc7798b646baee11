"""Several transactions on their way at once: none waits for another's block, and one that is refused stops no other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from market.chain import Call
from market.errors import AssayError, ContractError


class Sent(Protocol):
    """A transaction on its way (market.transactions.Queued is one)."""

    @property
    def is_over(self) -> bool: ...

    def wait(self) -> object:
        """Raises ContractError: it reverted in a block; AssayError: nobody knows yet, or it was lost."""


Enqueue = Callable[[Call, str, int | None], Sent]
"""Sends a call under an idempotency key without waiting for its block; told for how many seconds it may wait for
cheaper gas, None: for ever. Raises ContractError: it would revert; AssayError: it could not be sent."""


@dataclass(frozen=True)
class _Flight:
    sent: Sent
    size: int
    landed: Callable[[], None]
    refused: Callable[[ContractError], None]


class Flights:
    """See the module. Not for several threads at once.

    Args:
        enqueue: see Enqueue.
        room: how much may be on its way at once, in what `start` calls size.
    """

    def __init__(self, enqueue: Enqueue, room: int) -> None:
        self._enqueue = enqueue
        self._room = room
        self._flying: deque[_Flight] = deque()
        self._taken = 0
        self._trouble: AssayError | None = None
        self.landed = 0

    def start(
        self,
        call: Call,
        key: str,
        waits: int | None,
        *,
        size: int = 1,
        landed: Callable[[], None],
        refused: Callable[[ContractError], None],
    ) -> None:
        """Sends one more, as soon as there is room. Then one of `landed` and `refused` is called, now or later, unless
        it comes to no end while this looks on.

        Raises:
            AssayError: this one could not be sent, or what became of an earlier one could not be learnt.
        """
        while self._flying and self._taken + size > self._room:
            self._land()
        self._check()
        try:
            sent = self._enqueue(call, key, waits)
        except ContractError as error:
            refused(error)
            return
        self._flying.append(_Flight(sent, size, landed, refused))
        self._taken += size

    def collect(self) -> None:
        """Tells of those that ended, the oldest first, without waiting. Raises AssayError as `start` does."""
        while self._flying and self._flying[0].sent.is_over:
            self._land()
        self._check()

    def finish(self) -> None:
        """Waits for all. Raises AssayError: what became of one could not be learnt, and no other came to an end."""
        while self._flying:
            self._land()
        if not self.landed:
            self._check()

    def _check(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    def _land(self) -> None:
        flight = self._flying.popleft()
        self._taken -= flight.size
        try:
            flight.sent.wait()
        except ContractError as error:
            flight.refused(error)
        except AssayError as error:
            self._trouble = self._trouble or error
        else:
            self.landed += 1
            flight.landed()
