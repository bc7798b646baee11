"""Where a client may connect to. Endpoints come from a public registry: anybody can write anything there.

Only http and https, no credentials in the URL, no redirects (httpx follows none unless told), and no address that is
not globally reachable: but this machine's own on a development chain, and private networks where the user said so. A
name is resolved once for each request, every address it has is checked, and the connection goes to a checked one: a
second answer of the name server cannot lead elsewhere (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import enum
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

import anyio
import httpx

from client.errors import UnsafeEndpoint

Resolver = Callable[[str, int], Awaitable[list[str]]]


class Reach(enum.IntEnum):
    """How far into its surroundings a client may connect. Each takes in those before it."""

    PUBLIC = 0  # globally reachable addresses
    LOOPBACK = 1  # and this machine: development chains
    PRIVATE = 2  # and private networks: where the user said so


_EMBEDDING = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))  # NAT64; IPv4-compatible
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # connecting there ends on this machine


def needed_reach(text: str) -> Reach | None:
    """The reach that connecting to an address takes; None where it never makes sense.

    That is unspecified, multicast, reserved and link-local addresses (cloud machines find their credentials on one).
    An IPv4 address inside an IPv6 one (mapped, compatible, 6to4, NAT64) counts as itself.

    Raises:
        ValueError: it is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_loopback:
            return Reach.LOOPBACK
        address = _embedded(address) or address
    odd = address.is_unspecified or address.is_multicast or address.is_reserved or address.is_link_local
    if odd or (isinstance(address, ipaddress.IPv4Address) and address in _THIS_NETWORK):
        return None
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def check_endpoint(url: str, reach: Reach) -> SplitResult:
    """Checks what can be seen without asking a name server.

    Raises:
        UnsafeEndpoint: bad scheme, no host, credentials, query or fragment, or a literal address beyond `reach`.
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
    name = host.rstrip(".")
    if reach < Reach.LOOPBACK and (name == "localhost" or name.endswith(".localhost")):
        raise _beyond(host)
    with contextlib.suppress(ValueError):  # a name: checked when it is resolved
        _check_address(name, reach)
    return parts


def _check_address(address: str, reach: Reach) -> None:
    needed = needed_reach(address)
    if needed is None or needed > reach:
        raise _beyond(address)


def _beyond(host: str) -> UnsafeEndpoint:
    return UnsafeEndpoint(
        f"The endpoint leads to {host}, which is not a public address.",
        hint="This machine is allowed on a development chain, a private network by --allow-private-endpoints.",
        code="endpoint",
        host=host,
    )


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, by the system's resolver."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx transport that connects to checked addresses only.

    Args:
        reach: how far.
        resolver: name → addresses; the system's by default.
        make: builds the inner transport; one per host, so that a TLS connection is never shared between names.
    """

    def __init__(
        self,
        reach: Reach = Reach.PUBLIC,
        resolver: Resolver = resolve,
        make: Callable[[], httpx.AsyncBaseTransport] = httpx.AsyncHTTPTransport,
    ) -> None:
        self._reach = reach
        self._resolver = resolver
        self._make = make
        self._inner: dict[str, httpx.AsyncBaseTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        check_endpoint(str(request.url.copy_with(query=None, fragment=None)), self._reach)
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA cannot write
            raise httpx.ConnectError(f"{host} has no address", request=request) from error
        for address in addresses:
            _check_address(address, self._reach)
        inner = self._transport_of(host)
        refused = httpx.ConnectError(f"{host} has no address", request=request)
        for address in addresses:
            try:
                return await inner.handle_async_request(_directed(request, address))
            except httpx.ConnectError as error:  # nothing was sent: IPv6 without a route, for instance
                refused = error
        raise refused

    def _transport_of(self, host: str) -> httpx.AsyncBaseTransport:
        """The host's own, made once: each holds its connections, and a TLS context that takes tens of milliseconds."""
        if host not in self._inner:
            self._inner[host] = self._make()
        return self._inner[host]

    async def aclose(self) -> None:
        for inner in self._inner.values():
            await inner.aclose()


def _directed(request: httpx.Request, address: str) -> httpx.Request:
    """The request to an address instead of its host's name, which the Host header and TLS keep."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )
