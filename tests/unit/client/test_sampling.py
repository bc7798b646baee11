"""From what people write to the wire's integers and back, without a float."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import BadRequest
from client.sampling import SamplingChoice, format_q16, parse_q16
from market.hashing import ZERO32, keccak256
from market.types import Sampler

SEED, DRAWN = keccak256(b"seed"), keccak256(b"drawn")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1", 65536),
        ("0", 0),
        ("0.0", 0),
        ("0.7", 45875),  # 45875.2
        (".9", 58982),
        ("2.", 131072),
        (" 0.5 ", 32768),
        (1, 65536),
        (Decimal("0.95"), 62259),
        (Decimal("1E+2"), 6553600),
        ("0.00001", 1),
        ("0.00000762939453125", 1),  # exactly half of the least step: upward
        ("65535.9999", 4294967289),
    ],
)
def test_parse_q16_gives_the_nearest_multiple(written: Any, expected: int) -> None:
    assert parse_q16("temperature", written) == expected


@given(st.integers(0, 10**12), st.integers(0, 8))
def test_parse_q16_equals_exact_fractions(number: int, places: int) -> None:
    value = Fraction(number, 10**places)
    text = f"{number // 10**places}.{number % 10**places:0{places}d}" if places else str(number)
    nearest = int(value * 65536 + Fraction(1, 2))
    if nearest < 1 << 32 and (nearest or not number):
        assert parse_q16("temperature", text) == nearest
    else:
        with pytest.raises(BadRequest):
            parse_q16("temperature", text)


@given(st.one_of(st.integers(0, 1 << 17), st.integers(0, (1 << 32) - 1)))
def test_format_q16_reads_back_as_the_same_value(value: int) -> None:
    assert parse_q16("temperature", format_q16(value)) == value


@pytest.mark.parametrize("value", [45875, 58982, 65536, 32768, 0])
def test_format_q16_is_short(value: int) -> None:
    assert format_q16(value) in ("0.7", "0.9", "1", "0.5", "0")


@pytest.mark.parametrize(
    ("written", "says"),
    [("", "no plain number"), ("1e-3", "no plain number"), ("-1", "no plain number"), ("0,7", "no plain number"),
     ("nan", "no plain number"), (Decimal("NaN"), "no plain number"), ("1.2.3", "no plain number"), (0.7, "float"),
     (True, "float"), ("65536", "too large"), ("0.000001", "too small"), ("1" * 40, "no plain number")],
)  # fmt: skip
def test_parse_q16_refuses_what_is_no_exact_number(written: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        parse_q16("temperature", written)
    assert "Nothing was sent" in caught.value.hint


def test_nothing_given_and_temperature_0_are_greedy() -> None:
    for temperature in (None, "0", 0, "0.00"):
        chosen = SamplingChoice.of(temperature, None, None, None, DRAWN)
        assert chosen == SamplingChoice(Sampler.GREEDY, 0, 0, 0, ZERO32)
        assert (chosen.describe(), chosen.to_json()) == ("greedy", {"sampler": "greedy"})


def test_anything_given_is_sampled_with_a_seed_that_is_told() -> None:
    chosen = SamplingChoice.of("0.7", 40, "0.9", SEED, DRAWN)
    assert chosen == SamplingChoice(Sampler.SEEDED_BY_REQUEST, 45875, 40, 58982, SEED)
    assert chosen.describe() == f"temperature 0.7  top-k 40  top-p 0.9  seed 0x{SEED.hex()}"
    assert SamplingChoice.of("0.7", None, None, None, DRAWN).seed == DRAWN
    for fields in ((None, 40, None, None), (None, None, "0.9", None), (None, None, None, SEED)):
        assert SamplingChoice.of(*fields, DRAWN).temperature_q16 == 65536
    assert SamplingChoice.of("1", None, None, SEED, DRAWN).describe() == f"temperature 1  seed 0x{SEED.hex()}"


def test_seed_of_the_chain_is_none_of_the_requests_and_told_once_it_is_known() -> None:
    chosen = SamplingChoice.of("0.7", 40, "0.9", None, DRAWN, by_chain=True)
    assert chosen == SamplingChoice(Sampler.SEEDED_BY_CHAIN, 45875, 40, 58982, ZERO32)
    assert chosen.describe() == "temperature 0.7  top-k 40  top-p 0.9  seed from the chain, once the job is posted"
    assert chosen.to_json()["sampler"] == "seeded_by_chain"
    assert chosen.to_json()["seed"] is None
    assert SamplingChoice.of(None, None, None, None, DRAWN, by_chain=True).temperature_q16 == 65536
    known = replace(chosen, seed=SEED)
    assert known.describe() == f"temperature 0.7  top-k 40  top-p 0.9  seed from the chain 0x{SEED.hex()}"
    assert known.to_json()["seed"] == "0x" + SEED.hex()


@pytest.mark.parametrize(
    ("temperature", "seed", "says"),
    [("0", None, "the chain's seed would have no effect"), ("1", SEED, "given twice"), (None, SEED, "given twice")],
)
def test_seed_of_the_chain_beside_what_rules_it_out_is_refused(
    temperature: str | None, seed: bytes | None, says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        SamplingChoice.of(temperature, None, None, seed, DRAWN, by_chain=True)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("0", 40, None, None), "top-k would have no effect"),
        (("0", None, "1", SEED), "top-p and seed would have no effect"),
        (("1", -1, None, None), "top-k takes 0"),
        (("1", 1 << 32, None, None), "top-k takes 0"),
        (("1", None, "0", None), "above 0 and up to 1"),
        (("1", None, "1.00001", None), "above 0 and up to 1"),
        (("1", None, None, b"short"), "32 bytes, not 5"),
    ],
)
def test_fields_that_none_may_have_are_refused(fields: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        SamplingChoice.of(*fields, DRAWN)
