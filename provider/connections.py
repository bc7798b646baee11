"""Connections that cost this machine something and bring nothing: silent ones, endless heads, unread answers.

uvicorn alone waits for ever for a request's head and for a client that does not read, and counts no addresses.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from provider.config import Limits
from provider.limits import network_of

FLUSH_SECONDS = 2.0
"""What a connection that is being closed gets to take its last bytes."""


def guarded(limits: Limits, network_of: Callable[[str], str] = network_of) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 protocol with the limits of connections; all connections of the class share their count.

    Args:
        network_of: whom an address counts for; "" for nobody.
    """
    open_by_network: Counter[str] = Counter()

    class Guarded(H11Protocol):
        _network = ""
        _head: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._network = network_of(self.client[0]) if self.client else ""
            if self._network:
                open_by_network[self._network] += 1
                if open_by_network[self._network] > limits.connections_per_address:
                    transport.abort()
                    return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._network:
                open_by_network[self._network] -= 1
                if not open_by_network[self._network]:
                    del open_by_network[self._network]  # addresses are not kept
            self._stop_timers()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._await_head()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self.loop.call_later(FLUSH_SECONDS, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._unread = self.loop.call_later(limits.answer_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _await_head(self) -> None:
            """A head that has begun, or the first one, has to come to its end; between requests keep-alive counts."""
            if self.conn.their_state is not h11.IDLE:
                if self._head is not None:
                    self._head.cancel()
                    self._head = None
            elif self._head is None and self.timeout_keep_alive_task is None:
                self._head = self.loop.call_later(limits.head_seconds, self._give_up)

        def _give_up(self) -> None:
            self.transport.close()
            self.loop.call_later(FLUSH_SECONDS, self.transport.abort)

        def _stop_timers(self) -> None:
            for timer in (self._head, self._unread):
                if timer is not None:
                    timer.cancel()
            self._head = self._unread = None

    return Guarded
