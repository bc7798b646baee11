"""The listening socket and uvicorn on it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from market.errors import ConfigError
from provider.config import Limits
from provider.connections import guarded
from provider.errors import PortInUse


def listen(host: str, port: int) -> socket.socket:
    """Binds and listens; port 0 takes a free one.

    Raises:
        PortInUse: another program listens there.
        ConfigError: the address is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio sets TCP_NODELAY only where the protocol is named; without it every answer waits 40 ms for an ACK
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unusable(host, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host, port) from None
        raise _unusable(host, error) from None
    return listener


def _unusable(host: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"Cannot listen on {host}: {error.strerror}. Nothing was started.", hint="Set another `host`.", host=host
    )


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the agent decides when to stop."""

    def __init__(self, app: Any, limits: Limits, protocol: type[asyncio.Protocol] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol or guarded(limits),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                limit_concurrency=limits.connections,
                timeout_keep_alive=limits.keep_alive_seconds,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=64 * 1024,
                server_header=False,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
