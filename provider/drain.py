"""Draining: no new promises, the old ones kept. The mark lies in the journal, so it outlasts a restart."""

from __future__ import annotations

from dataclasses import dataclass

from provider.errors import Refusal
from provider.journal import Journal

MARK = "draining"
STAY, LEAVE = "stay", "leave"
RETRY_SECONDS = 60
LATE_SECONDS = 30
"""How long after a quote's time limit its job may still be seen: blocks, confirmations, an endpoint that lags."""


@dataclass(frozen=True)
class Left:
    """What keeps a draining provider: open jobs (bonds that are locked count), and quotes that can still be posted."""

    jobs: int
    quotes: int

    @property
    def nothing(self) -> bool:
        return self.jobs == 0 and self.quotes == 0


class Drain:
    """Whether this provider takes new work. Safe from any thread; every method is a read or a write of the journal.

    Raises (every method): JournalError.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.left_draws_in: int | None = None  # block until which it may have been drawn; None = it still may be
        self._state = journal.mark(MARK) or ""  # so that a quote costs no read: only this process changes it

    @property
    def active(self) -> bool:
        return bool(self._state)

    @property
    def leaves(self) -> bool:
        """Whether the agent ends once nothing is left."""
        return self._state == LEAVE

    def begin(self, *, leave: bool) -> None:
        """Stops new promises. Repeating it is harmless; the last `leave` counts."""
        self._set(LEAVE if leave else STAY)

    def end(self) -> None:
        """Takes new work again."""
        self.left_draws_in = None
        self._set("")

    def gone(self) -> None:
        """The agent ended because nothing was left: the next start drains on, and stays."""
        self._set(STAY)

    def left(self, now: int) -> Left:
        """`now`: chain time, unix seconds."""
        return Left(len(self._journal.open_jobs()), self._journal.quotes_outstanding(now - LATE_SECONDS))

    def check(self) -> None:
        """Raises Refusal DRAINING while no new promise is made."""
        if self.active:
            raise Refusal(
                "DRAINING",
                "This provider takes no new work; what it promised is kept.",
                hint="Ask another provider.",
                status=503,
                retry_after=RETRY_SECONDS,
            )

    def _set(self, state: str) -> None:
        self._journal.set_mark(MARK, state)
        self._state = state
