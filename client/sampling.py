"""How the answer's tokens are chosen: what a caller writes, as the Request's integers, and back. No float anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from client.errors import BadRequest
from market.hashing import ZERO32
from market.types import Request, Sampler

ONE_Q16 = 1 << 16
UINT32_MOST = (1 << 32) - 1
DIGITS_MOST = 30
_PLAIN = re.compile(rf"([0-9]{{1,{DIGITS_MOST}}})(?:\.([0-9]{{0,{DIGITS_MOST}}}))?|\.([0-9]{{1,{DIGITS_MOST}}})")

Number = str | int | Decimal
"""A number as it was written. A float is refused: 0.7 as a float is not 0.7."""


@dataclass(frozen=True)
class SamplingChoice:
    """The sampling fields of a Request. Greedy has every field at zero.

    Attributes:
        temperature_q16, top_p_q16: in units of 1/65,536; top_p_q16 65,536 = no limit.
        top_k: 0 = no limit.
        seed: the request's, or the one that the chain gave its job; zero where nobody knows that yet.
    """

    sampler: Sampler
    temperature_q16: int
    top_k: int
    top_p_q16: int
    seed: bytes

    @classmethod
    def of(
        cls,
        temperature: Number | None,
        top_k: int | None,
        top_p: Number | None,
        seed: bytes | None,
        drawn_seed: bytes,
        *,
        by_chain: bool = False,
    ) -> Self:
        """Greedy where nothing is given or the temperature is 0; else seeded, at temperature 1 where only others are.

        Args:
            drawn_seed: 32 random bytes, for a request that names no seed.
            by_chain: the chain gives the seed, once the job is posted.

        Raises:
            BadRequest: a value that none may have, or that would have no effect.
        """
        others = {"top-k": top_k, "top-p": top_p, "seed": seed, "the chain's seed": by_chain or None}
        given = [name for name, value in others.items() if value is not None]
        degree = ONE_Q16 if temperature is None else parse_q16("temperature", temperature)
        if degree == 0 and given:
            raise BadRequest(
                f"Temperature 0 always takes the likeliest token, so {' and '.join(given)} would have no effect.",
                hint="Nothing was sent. Leave them out, or raise the temperature.",
            )
        if degree == 0 or (temperature is None and not given):
            return cls(Sampler.GREEDY, 0, 0, 0, ZERO32)
        if top_k is not None and not 0 <= top_k <= UINT32_MOST:
            raise BadRequest(f"top-k takes 0 (no limit) to {UINT32_MOST}, not {top_k}.", hint="Nothing was sent.")
        share = ONE_Q16 if top_p is None else parse_q16("top-p", top_p)
        if not 1 <= share <= ONE_Q16:
            raise BadRequest(f"top-p is a share above 0 and up to 1, not {top_p}.", hint="Nothing was sent.")
        if seed is not None and len(seed) != 32:
            raise BadRequest(f"The seed takes 32 bytes, not {len(seed)}.", hint="Nothing was sent.")
        if by_chain and seed is not None:
            raise BadRequest(
                "The seed is given twice: by you and by the chain.", hint="Nothing was sent. Leave one of them out."
            )
        if by_chain:
            return cls(Sampler.SEEDED_BY_CHAIN, degree, top_k or 0, share, ZERO32)
        return cls(Sampler.SEEDED_BY_REQUEST, degree, top_k or 0, share, drawn_seed if seed is None else seed)

    @classmethod
    def of_request(cls, request: Request, chain_seed: bytes = ZERO32) -> Self:
        """The fields of a request that was sent. `chain_seed`: what the chain gave its job, where it seeds it."""
        sampler = Sampler(request.sampler)
        seed = chain_seed if sampler is Sampler.SEEDED_BY_CHAIN else request.seed
        return cls(sampler, request.temperature_q16, request.top_k, request.top_p_q16, seed)

    @property
    def awaits_seed(self) -> bool:
        """Whether the chain is still to give it."""
        return self.sampler is Sampler.SEEDED_BY_CHAIN and self.seed == ZERO32

    def describe(self) -> str:
        """One line for people, with all that reproduces the choice."""
        if self.sampler is Sampler.GREEDY:
            return "greedy"
        parts = [f"temperature {format_q16(self.temperature_q16)}"]
        if self.top_k:
            parts.append(f"top-k {self.top_k}")
        if self.top_p_q16 != ONE_Q16:
            parts.append(f"top-p {format_q16(self.top_p_q16)}")
        given = "seed from the chain" if self.sampler is Sampler.SEEDED_BY_CHAIN else "seed"
        told = ", once the job is posted" if self.awaits_seed else f" 0x{self.seed.hex()}"
        return "  ".join([*parts, given + told])

    def to_json(self) -> dict[str, Any]:
        """Decimal strings beside the wire's integers; a greedy choice is its name alone."""
        name = self.sampler.name.lower()
        if self.sampler is Sampler.GREEDY:
            return {"sampler": name}
        return {
            "sampler": name,
            "temperature": format_q16(self.temperature_q16),
            "temperature_q16": self.temperature_q16,
            "top_k": self.top_k,
            "top_p": format_q16(self.top_p_q16),
            "top_p_q16": self.top_p_q16,
            "seed": None if self.awaits_seed else "0x" + self.seed.hex(),
        }


def parse_q16(name: str, value: Number) -> int:
    """The multiple of 1/65,536 nearest to a plain decimal number, halves upward.

    Raises:
        BadRequest: no plain number, a float, too large for uint32, or above 0 and rounded to it.
    """
    if isinstance(value, (float, bool)):
        raise BadRequest(
            f"{name} was given as the float {value}, which stands for a neighbour of that number.",
            hint=f'Nothing was sent. Write it as text: {name.replace("-", "_")}="{value}".',
        )
    text = format(value, "f") if isinstance(value, Decimal) else str(value).strip()
    found = _PLAIN.fullmatch(text)
    if found is None:
        raise BadRequest(f"{name}: “{text[:60]}” is no plain number.", hint="Nothing was sent. Write for example 0.7.")
    whole, part = found[1] or "0", found[2] or found[3] or ""
    scale: int = 10 ** len(part)
    number = int(whole + part)
    nearest = (2 * number * ONE_Q16 + scale) // (2 * scale)
    if nearest > UINT32_MOST:
        raise BadRequest(f"{name}: {text} is too large; 65535.9 is the most.", hint="Nothing was sent.")
    if number and not nearest:
        raise BadRequest(f"{name}: {text} is too small; the least above 0 is 0.00001.", hint="Nothing was sent.")
    return nearest


def format_q16(value: int) -> str:
    """The shortest decimal that `parse_q16` reads as this value."""
    for places in range(6):
        scaled = (2 * value * 10**places + ONE_Q16) // (2 * ONE_Q16)
        if (2 * scaled * ONE_Q16 + 10**places) // (2 * 10**places) == value:
            break
    whole, part = divmod(scaled, 10**places)
    return f"{whole}.{part:0{places}d}" if places else str(whole)
