"""Values that the provider's unit tests share."""

from __future__ import annotations

from dataclasses import replace

from eth_account import Account

from market.hashing import ZERO32, keccak256, pack_stop_tokens, tokens_root
from market.types import Mode, Request
from provider.config import Gas, Limits, Prices, Terms
from provider.pricing import Product, Shop, Situation

OWNER = Account.from_key(b"\x01" * 32)
"""Whose key opens journals."""
PROVIDER = "0x" + "11" * 20
CLIENT = "0x" + "22" * 20
TOKEN = "0x" + "33" * 20
MODEL_ID = keccak256(b"model")
NOW = 1_700_000_000
IDS = (1, 2, 3, 4)


def request(ids: tuple[int, ...] = IDS, max_output_tokens: int = 16, **fields: object) -> Request:
    base = Request(
        model_id=MODEL_ID,
        input_root=tokens_root(ids),
        input_tokens=len(ids),
        max_output_tokens=max_output_tokens,
        stop_tokens=pack_stop_tokens([2]),
        sampler=0,
        temperature_q16=0,
        top_k=0,
        top_p_q16=0,
        seed=ZERO32,
        nonce=keccak256(b"nonce"),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


PRODUCT = Product(
    MODEL_ID,
    "sample",
    context=256,
    vocabulary=512,
    prices=Prices(base_fee=10, per_m_input=50_000, per_m_output=200_000),
)


def shop(**fields: object) -> Shop:
    base = Shop(
        provider=PROVIDER,
        token=TOKEN,
        challenger_share_bps=3_000,
        products={MODEL_ID: PRODUCT},
        modes=(Mode.QUORUM,),
        terms=Terms(bond=1_000, kill_fee_bps=1_000),
        gas=Gas(),
        limits=Limits(max_input_tokens=100, max_output_tokens=64),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def situation(**fields: int) -> Situation:
    base = Situation(now=NOW, stake=1_000_000, reserved=0, load=0, fee_per_gas=10**9)
    return replace(base, **fields)
