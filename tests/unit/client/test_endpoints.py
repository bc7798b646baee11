import httpx
import pytest

from client.endpoints import GuardedTransport, check_endpoint
from client.errors import UnsafeEndpoint


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80",
        "http://localhost",
        "http://a.localhost:1",
        "http://10.0.0.8",
        "http://192.168.1.1",
        "http://169.254.169.254/latest",
        "http://[::1]:8080",
        "http://[::ffff:10.0.0.1]",
        "http://[fe80::1]",
        "http://0.0.0.0",
        "http://100.64.0.1",
        "http://224.0.0.1",
    ],
)
def test_endpoint_in_a_private_network_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(UnsafeEndpoint, match="not a public address"):
        check_endpoint(url, allow_private=False)
    assert check_endpoint(url, allow_private=True).hostname


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.example",
        "http://",
        "http://u:p@a.example",
        "http://a.example/?q=1",
        "http://[::1",
    ],
)
def test_endpoint_that_is_no_plain_http_url_is_refused_always(url: str) -> None:
    with pytest.raises(UnsafeEndpoint):
        check_endpoint(url, allow_private=True)


def test_endpoint_with_public_address_passes() -> None:
    assert check_endpoint("https://provider.example:8443/assay", allow_private=False).port == 8443


class Inner(httpx.AsyncBaseTransport):
    def __init__(self, seen: list[httpx.Request]) -> None:
        self.seen = seen

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        return httpx.Response(200, text="ok")


def resolver(*addresses: str):  # type: ignore[no-untyped-def]
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


async def test_transport_connects_to_the_checked_address_under_the_original_name() -> None:
    seen: list[httpx.Request] = []
    transport = GuardedTransport(resolver("93.184.215.14"), lambda: Inner(seen))
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.get("https://provider.example/v1/models")).text == "ok"
    assert seen[0].url.host == "93.184.215.14"
    assert seen[0].headers["host"] == "provider.example"
    assert seen[0].extensions["sni_hostname"] == "provider.example"


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("93.184.215.14", "127.0.0.1"), ("::1",)])
async def test_transport_refuses_a_name_with_any_private_address(addresses: tuple[str, ...]) -> None:
    seen: list[httpx.Request] = []
    transport = GuardedTransport(resolver(*addresses), lambda: Inner(seen))
    async with httpx.AsyncClient(transport=transport) as http:
        with pytest.raises(UnsafeEndpoint):
            await http.get("http://rebind.example/")
    assert not seen
