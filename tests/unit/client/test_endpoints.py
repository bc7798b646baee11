"""Where the client connects, whatever the registry says: real sockets here, only the name server is a stub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from client.endpoints import GuardedTransport, Reach, Resolver, check_endpoint, needed_reach
from client.errors import UnsafeEndpoint
from client.model_files import ModelFiles, ModelFilesUnavailable
from client.provider_http import ProviderHttp, ProviderRefused, ProviderUnreachable
from market.models.pack import load_pack

ALWAYS = (
    "169.254.169.254",  # credentials of cloud machines
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
)
LOOPBACK = ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")
PRIVATE = ("10.0.0.8", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1", "2002:a00:1::")
PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14")


@pytest.mark.parametrize(
    ("addresses", "reach"),
    [(ALWAYS, None), (LOOPBACK, Reach.LOOPBACK), (PRIVATE, Reach.PRIVATE), (PUBLIC, Reach.PUBLIC)],
)
def test_address_is_judged_by_what_it_leads_to(addresses: tuple[str, ...], reach: Reach | None) -> None:
    assert {address: needed_reach(address) for address in addresses} == dict.fromkeys(addresses, reach)


@pytest.mark.parametrize("reach", Reach)
@pytest.mark.parametrize(
    ("host", "least"),
    [
        ("127.0.0.1:80", Reach.LOOPBACK),
        ("localhost", Reach.LOOPBACK),
        ("localhost.:1", Reach.LOOPBACK),
        ("a.localhost:1", Reach.LOOPBACK),
        ("[::1]:8080", Reach.LOOPBACK),
        ("10.0.0.8", Reach.PRIVATE),
        ("[::ffff:10.0.0.1]", Reach.PRIVATE),
        ("169.254.169.254", None),
        ("[fe80::1]", None),
    ],
)
def test_endpoint_beyond_the_reach_is_refused(host: str, least: Reach | None, reach: Reach) -> None:
    if least is not None and reach >= least:
        assert check_endpoint(f"http://{host}", reach).hostname
        return
    with pytest.raises(UnsafeEndpoint, match="not a public address"):
        check_endpoint(f"http://{host}", reach)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.example",
        "gopher://a.example",
        "http://",
        "http://u:p@a.example",
        "http://a.example/?q=1",
        "http://a.example/#f",
        "http://[::1",
    ],
)
def test_endpoint_that_is_no_plain_http_url_is_refused_always(url: str) -> None:
    with pytest.raises(UnsafeEndpoint):
        check_endpoint(url, Reach.PRIVATE)


def test_endpoint_with_public_address_passes() -> None:
    assert check_endpoint("https://provider.example:8443/assay", Reach.PUBLIC).port == 8443


class Machine:
    """A real HTTP server on the loopback address that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer.encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    machine = Machine()
    server = await asyncio.start_server(machine.serve, "127.0.0.1", 0)
    machine.port = server.sockets[0].getsockname()[1]
    yield machine
    server.close()
    await server.wait_closed()


class NameServer:
    """Answers each question with the next of its answers, the last one for ever."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.questions = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.questions += 1
        return list(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def client(reach: Reach, resolver: Resolver) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=GuardedTransport(reach, resolver), trust_env=False, timeout=5)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::1", "10.0.0.1", "169.254.169.254", "224.0.0.1"]
)
async def test_name_that_leads_inside_is_refused_before_a_connection(machine: Machine, address: str) -> None:
    names = NameServer((address,))
    async with client(Reach.PUBLIC, names) as http:
        with pytest.raises(UnsafeEndpoint):
            await http.get(f"http://provider.example:{machine.port}/")
    assert (machine.asked, names.questions) == ([], 1)


async def test_name_with_one_address_inside_among_public_ones_is_refused(machine: Machine) -> None:
    async with client(Reach.PUBLIC, NameServer(("93.184.215.14", "127.0.0.1"))) as http:
        with pytest.raises(UnsafeEndpoint):
            await http.get(f"http://provider.example:{machine.port}/")
    assert machine.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
async def test_ways_to_write_this_machines_address_are_refused(machine: Machine, host: str) -> None:
    """The system's own resolver reads numbers as addresses."""
    async with httpx.AsyncClient(transport=GuardedTransport(), trust_env=False) as http:
        with pytest.raises((UnsafeEndpoint, httpx.ConnectError, httpx.InvalidURL)):
            await http.get(f"http://{host}:{machine.port}/")
    assert machine.asked == []


async def test_connection_goes_to_the_address_that_was_checked_under_the_name_that_was_asked(machine: Machine) -> None:
    names = NameServer(("127.0.0.1",), ("203.0.113.1",))
    async with client(Reach.LOOPBACK, names) as http:
        assert (await http.get(f"http://provider.example:{machine.port}/v1/models")).text == "ok"
    assert names.questions == 1  # nobody asks again between check and connection
    assert f"host: provider.example:{machine.port}" in machine.asked[0].lower()


async def test_name_that_is_bound_anew_to_this_machine_is_refused_at_the_next_request(machine: Machine) -> None:
    """DNS rebinding: harmless when it is checked, inside when it is used."""
    names = NameServer(("127.0.0.1",), ("169.254.169.254",))
    async with client(Reach.LOOPBACK, names) as http:
        assert (await http.get(f"http://provider.example:{machine.port}/")).text == "ok"
        with pytest.raises(UnsafeEndpoint):
            await http.get(f"http://provider.example:{machine.port}/")
    assert len(machine.asked) == 1


async def test_redirect_is_not_followed(machine: Machine) -> None:
    inside = Machine()
    server = await asyncio.start_server(inside.serve, "127.0.0.1", 0)
    target = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/latest/meta-data"
    machine.answer = f"HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    async with client(Reach.LOOPBACK, NameServer(("127.0.0.1",))) as http:
        with pytest.raises(ProviderRefused) as refused:
            await ProviderHttp(http).models(f"http://provider.example:{machine.port}")
    server.close()
    assert (refused.value.code, inside.asked) == ("HTTP_302", [])


async def test_redirect_that_a_caller_follows_is_checked_like_any_request(machine: Machine) -> None:
    machine.answer = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with client(Reach.LOOPBACK, NameServer(("127.0.0.1",))) as http:
        with pytest.raises(UnsafeEndpoint):
            await http.get(f"http://provider.example:{machine.port}/", follow_redirects=True)


async def test_next_address_is_tried_where_one_does_not_answer(machine: Machine) -> None:
    async with client(Reach.LOOPBACK, NameServer(("127.0.0.2", "127.0.0.1"))) as http:
        assert (await http.get(f"http://provider.example:{machine.port}/")).text == "ok"


async def test_name_without_an_address_is_unreachable(machine: Machine) -> None:
    async with client(Reach.PUBLIC, NameServer(())) as http:
        with pytest.raises(ProviderUnreachable):
            await ProviderHttp(http).models(f"http://provider.example:{machine.port}")


async def test_tokenizer_and_template_are_not_fetched_from_inside(
    machine: Machine, tmp_path: Path, tiny_pack: Path
) -> None:
    roots = load_pack(tiny_pack).roots
    async with client(Reach.PUBLIC, NameServer(("127.0.0.1",))) as http:
        with pytest.raises(ModelFilesUnavailable):
            await ModelFiles(ProviderHttp(http), tmp_path).load(roots, [f"http://provider.example:{machine.port}"])
    assert machine.asked == []


async def test_tls_keeps_the_name_though_the_connection_goes_to_an_address() -> None:
    seen: list[httpx.Request] = []

    class Inner(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, text="ok")

    transport = GuardedTransport(Reach.PUBLIC, NameServer(("93.184.215.14",)), Inner)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.get("https://provider.example/v1/models")).text == "ok"
    assert seen[0].url.host == "93.184.215.14"
    assert seen[0].headers["host"] == "provider.example"
    assert seen[0].extensions["sni_hostname"] == "provider.example"


async def test_transport_of_a_host_is_made_once_and_keeps_its_connections() -> None:
    """Each was made and thrown away per request: a TLS context took most of a quote's time."""
    made: list[httpx.AsyncBaseTransport] = []

    def make() -> httpx.AsyncBaseTransport:
        made.append(httpx.MockTransport(lambda _: httpx.Response(200)))
        return made[-1]

    transport = GuardedTransport(Reach.PUBLIC, NameServer(("93.184.215.14",)), make)
    async with httpx.AsyncClient(transport=transport) as http:
        for host in ("one.example", "one.example", "two.example"):
            await http.get(f"https://{host}/")
    assert len(made) == 2
