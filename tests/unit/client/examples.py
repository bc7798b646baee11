"""Small honest examples that the tests of the client vary one field at a time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount

from client.endpoints import Reach
from client.matching import Candidate, Constraints
from client.quotes import Wanted
from client.selection import VerifiedQuote
from client.signatures import SignatureChecker
from market.chain import Call
from market.hashing import ZERO32, keccak256, pack_stop_tokens, tokens_root
from market.signing import Domain, sign
from market.types import Mode, Quote, Request
from market.views import Offer

TOKEN = "0x3333333333333333333333333333333333333333"
CLIENT = "0x2222222222222222222222222222222222222222"
DOMAIN = Domain(31337, "0x4444444444444444444444444444444444444444")
MODEL_ID = keccak256(b"model")
OWNER = Account.from_key(keccak256(b"owner"))
"""Whose key opens stores."""
NOW = 1_700_000_000
SHARE_BPS = 3000


def account(number: int) -> LocalAccount:
    return Account.from_key(keccak256(b"account %d" % number))


@dataclass(frozen=True)
class Listed:
    provider: str
    endpoint: str
    labels: bytes
    offer: Offer
    stake: int = 1_000_000
    jobs_paid: int = 0
    jobs_missed: int = 0
    weight: int = 0


def offer(**changes: Any) -> Offer:
    return dataclasses.replace(Offer(TOKEN, 10, 1_000_000, 2_000_000, 4096, 256, 0b11), **changes)


def listed(number: int, **changes: Any) -> Listed:
    base = Listed(account(number).address, f"http://127.0.0.1:{9000 + number}", b"eu gpu".ljust(32, b"\0"), offer())
    return dataclasses.replace(base, **changes)


def constraints(**changes: Any) -> Constraints:
    base = Constraints(Mode.QUORUM, 100, 50, TOKEN, SHARE_BPS, reach=Reach.LOOPBACK)
    return dataclasses.replace(base, **changes)


def request(ids: tuple[int, ...] = (1, 2, 3), max_output_tokens: int = 16) -> Request:
    stop = pack_stop_tokens([2])
    nonce = keccak256(b"nonce")
    return Request(MODEL_ID, tokens_root(ids), len(ids), max_output_tokens, stop, 0, 0, 0, 0, ZERO32, nonce)


def quote(number: int, **changes: Any) -> Quote:
    """A quote for `request()`: price 10 + 3 + 32 = 45, bond 65 ≥ 45 / 0.7."""
    wanted = request()
    base = Quote(
        provider=account(number).address,
        client=CLIENT,
        model_id=MODEL_ID,
        request_hash=wanted.request_hash,
        mode=Mode.QUORUM,
        token=TOKEN,
        base_fee=10,
        price_per_m_input=1_000_000,
        price_per_m_output=2_000_000,
        kill_fee=4,
        miss_fee=45,
        bond=65,
        max_input_tokens=3,
        max_output_tokens=16,
        valid_until=NOW + 60,
        nonce=number,
    )
    return dataclasses.replace(base, **changes)


def signed(number: int, domain: Domain = DOMAIN, **changes: Any) -> tuple[Quote, bytes]:
    value = quote(number, **changes)
    return value, sign(domain, value, account(number))


def candidate(number: int, **changes: Any) -> Candidate:
    base = Candidate(account(number).address, f"http://127.0.0.1:{9000 + number}", 45, 1_000_000, 0, 0)
    return dataclasses.replace(base, **changes)


class NoContracts:
    """A chain on which every account is a plain key."""

    def code(self, address: str) -> bytes:
        return b""

    def call(self, call: Call) -> bytes:
        raise AssertionError("a plain key is never called")


def wanted(**changes: Any) -> Wanted:
    base = Wanted(
        client=CLIENT,
        request=request(),
        mode=Mode.QUORUM,
        token=TOKEN,
        share_bps=SHARE_BPS,
        max_price=None,
        max_kill_fee_bps=2_000,
        signatures=SignatureChecker(DOMAIN, NoContracts()),
        is_used=lambda digest: False,
    )
    return dataclasses.replace(base, **changes)


def verified(number: int, price: int = 45, **changes: Any) -> VerifiedQuote:
    value, signature = signed(number)
    base = VerifiedQuote(
        quote=value,
        signature=signature,
        digest=DOMAIN.digest(value),
        endpoint=f"http://127.0.0.1:{9000 + number}",
        price=price,
        latency_ms=5,
        stake=65,
        jobs_paid=0,
        jobs_missed=0,
    )
    return dataclasses.replace(base, **changes)
