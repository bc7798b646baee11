"""Where a client may connect to. Endpoints come from a public registry: anybody can write anything there.

Only http and https, no credentials in the URL, no redirects (httpx follows none unless told), and no address that is
not globally reachable, unless the chain is a development chain or the user allowed it. A name is resolved once, every
address it has is checked, and the connection goes to a checked address: a second answer of the name server cannot
lead elsewhere (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

import anyio
import httpx

from client.errors import UnsafeEndpoint

Resolver = Callable[[str, int], Awaitable[list[str]]]


def check_endpoint(url: str, *, allow_private: bool) -> SplitResult:
    """Checks what can be seen without asking a name server.

    Raises:
        UnsafeEndpoint: bad scheme, no host, credentials, query or fragment, or a literal private address.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UnsafeEndpoint(f"The endpoint {url[:80]!r} is no URL.", code="endpoint") from None
    if parts.scheme not in ("http", "https"):
        raise UnsafeEndpoint(f"The endpoint's scheme is {parts.scheme[:20]!r}, not http or https.", code="endpoint")
    if not host or parts.username is not None or parts.query or parts.fragment:
        raise UnsafeEndpoint("The endpoint must be scheme, host, port and path only.", code="endpoint")
    if not allow_private:
        if host == "localhost" or host.endswith(".localhost"):
            raise _private(host)
        _refuse_private(host)
    return parts


def _refuse_private(host: str) -> None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return  # a name: checked when it is resolved
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if not address.is_global or address.is_multicast:
        raise _private(host)


def _private(host: str) -> UnsafeEndpoint:
    return UnsafeEndpoint(
        f"The endpoint leads to {host}, which is not a public address.",
        hint="Only a development chain, or --allow-private-endpoints, permits that.",
        code="endpoint",
        host=host,
    )


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, by the system's resolver."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx transport that connects to checked public addresses only.

    Args:
        resolver: name → addresses; the system's by default.
        make: builds the inner transport; one per host, so that a TLS connection is never shared between names.
    """

    def __init__(
        self,
        resolver: Resolver = resolve,
        make: Callable[[], httpx.AsyncBaseTransport] = httpx.AsyncHTTPTransport,
    ) -> None:
        self._resolver = resolver
        self._make = make
        self._inner: dict[str, httpx.AsyncBaseTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        check_endpoint(str(request.url.copy_with(query=None, fragment=None)), allow_private=False)
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            addresses = await self._resolver(host, port)
        except OSError as error:
            raise httpx.ConnectError(f"{host} has no address", request=request) from error
        for address in addresses:
            _refuse_private(address)
        if not addresses:
            raise httpx.ConnectError(f"{host} has no address", request=request)
        inner = self._inner.setdefault(host, self._make())
        return await inner.handle_async_request(
            httpx.Request(
                request.method,
                request.url.copy_with(host=addresses[0]),
                headers=request.headers,  # the Host header keeps the name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
        )

    async def aclose(self) -> None:
        for inner in self._inner.values():
            await inner.aclose()
