"""Token units ↔ base units. Decimal only: no float is ever near money."""

from __future__ import annotations

import re
from decimal import Decimal, localcontext

from market.errors import BadAmount

_MOST = 1 << 128  # amounts are uint128 on chain
_PLAIN = re.compile(r"[0-9]{1,39}(\.[0-9]{0,36})?|\.[0-9]{1,36}")


def parse_amount(text: str, decimals: int) -> int:
    """Reads an amount written by a person, e.g. "0.25", as base units of a token with `decimals` places.

    Raises:
        BadAmount: no plain non-negative decimal number, too many places, or too large for uint128.
    """
    plain = text.strip().replace("_", "")
    if not _PLAIN.fullmatch(plain):
        raise BadAmount(f"“{text[:60]}” is not an amount.", hint="Write a plain number, for example 0.25.")
    with localcontext(prec=200):  # exact for every amount that the pattern admits
        scaled = Decimal(plain).scaleb(decimals)
        if scaled != scaled.to_integral_value():
            raise BadAmount(f"“{text}” has more than the token's {decimals} decimal places.", hint="Round it.")
        base = int(scaled)
    if base >= _MOST:
        raise BadAmount(f"“{text}” is more than the contracts can hold.")
    return base


def format_amount(amount: int, decimals: int, symbol: str = "") -> str:
    """Base units as a person reads them, without trailing zeros: 1250000, 6 → "1.25"."""
    sign, amount = ("-", -amount) if amount < 0 else ("", amount)
    whole, part = divmod(amount, 10**decimals)
    fraction = f".{part:0{decimals}d}".rstrip("0").rstrip(".") if decimals else ""
    return f"{sign}{whole}{fraction} {symbol}".rstrip()
