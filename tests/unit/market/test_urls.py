from __future__ import annotations

import pytest

from market.urls import HIDDEN, NAMELESS, origin_of, without_secrets


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://mainnet.example.org/v3/0123456789abcdef", "https://mainnet.example.org"),
        ("https://user:word@example.org:8545/?key=1#x", "https://example.org:8545"),
        ("http://[::1]:8545/key", "http://[::1]:8545"),
        ("wss://example.org/ws/key", "wss://example.org"),
        ("localhost/key", NAMELESS),
        ("http:///key", NAMELESS),
        ("http://example.org:port/key", NAMELESS),
        ("http://[::1/key", NAMELESS),
        ("", NAMELESS),
    ],
)
def test_origin_of_a_url_is_scheme_host_and_port_alone(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_text_that_repeats_parts_of_a_url_loses_them_and_keeps_its_words() -> None:
    url = "https://someone:pass%2Fword@example.org/v3/SECRETKEY?token=QUERYKEY"
    said = f"v3 of {url}: SECRETKEY, QUERYKEY, someone and pass/word are over the limit"
    assert without_secrets(said, url) == (
        f"v3 of https://example.org: {HIDDEN}, {HIDDEN}, {HIDDEN} and {HIDDEN} are over the limit"
    )
