import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import BadAmount
from market.money import format_amount, parse_amount


@given(st.integers(0, 2**128 - 1), st.integers(0, 18))
def test_amount_written_and_read_again_is_the_same(amount: int, decimals: int) -> None:
    assert parse_amount(format_amount(amount, decimals), decimals) == amount


@pytest.mark.parametrize(
    ("text", "units"),
    [("1.25", 1_250_000), (" 0.000001 ", 1), ("1_000", 1_000_000_000), ("7.", 7_000_000), (".5", 500_000)],
)
def test_amount_in_units_is_read_exactly(text: str, units: int) -> None:
    assert parse_amount(text, 6) == units


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an amount"),
        ("-1", "not an amount"),
        ("1e3", "not an amount"),
        ("nan", "not an amount"),
        ("1,5", "not an amount"),
        ("0.0000001", "6 decimal places"),
        ("9" * 39, "more than the contracts can hold"),
    ],
)
def test_amount_that_cannot_be_read_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(BadAmount, match=why) as caught:
        parse_amount(text, 6)
    assert caught.value.exit_code == 2
