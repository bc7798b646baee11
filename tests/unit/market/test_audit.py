"""The audit rate: where honesty becomes the best reply, and which answers are looked at."""

from __future__ import annotations

import os
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import audit as bench_audit
from market.audit import AuditPolicy, Stakes, break_even, is_audited
from tools import audit_table

AMOUNTS = st.integers(0, 10**24)
SECRET = bytes(range(32))


def income(stakes: Stakes, rate: Fraction, colluding: Fraction) -> Fraction:
    """What cheating brings more than honesty, from the outcomes one by one."""
    caught = rate * (1 - colluding)
    lost = stakes.payment + stakes.bond - -(-stakes.bond * stakes.challenger_share_bps // 10_000)
    return (1 - caught) * (stakes.saved + stakes.bribe) + caught * (stakes.saved + stakes.bribe - lost)


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, st.integers(0, 3_000), st.fractions(0, Fraction(99, 100)))
def test_cheating_pays_below_the_rate_and_not_above_it(
    payment: int, bond: int, saved: int, bribe: int, share: int, colluding: Fraction
) -> None:
    stakes = Stakes(payment, bond, share, saved, bribe)
    rate = break_even(stakes, colluding)
    if rate is None:
        assert income(stakes, Fraction(1), colluding) >= 0
        return
    assert income(stakes, rate, colluding) == 0
    assert income(stakes, rate + (1 - rate) / 2, colluding) < 0 or stakes.at_risk == 0
    assert rate == 0 or income(stakes, rate / 2, colluding) > 0


def test_a_bond_of_nine_prices_needs_one_look_in_ten() -> None:
    assert break_even(Stakes(payment=100, bond=900, challenger_share_bps=0, saved=100)) == Fraction(1, 10)


def test_half_of_the_audits_by_friends_double_the_rate() -> None:
    stakes = Stakes(payment=100, bond=900, challenger_share_bps=0, saved=100)
    assert break_even(stakes, Fraction(1, 2)) == Fraction(1, 5)


def test_nothing_deters_who_has_nothing_to_lose() -> None:
    assert break_even(Stakes(payment=0, bond=0, challenger_share_bps=0, saved=1)) is None
    assert AuditPolicy().rate(payment=100, bond=0, challenger_share_bps=3_000) == 1


def test_a_policy_stays_above_the_break_even_rate_by_its_margin() -> None:
    policy = AuditPolicy(colluding_bps=5_000, margin_bps=5_000, least_bps=0)
    assert policy.rate(payment=100, bond=900, challenger_share_bps=0) == Fraction(3, 10)


def test_a_policy_never_goes_below_its_least_rate() -> None:
    assert AuditPolicy(least_bps=250).rate(payment=1, bond=10**9, challenger_share_bps=0) == Fraction(1, 40)


@pytest.mark.parametrize("rate", [Fraction(1, 100), Fraction(1, 3), Fraction(9, 10)])
def test_the_share_of_answers_audited_is_the_rate(rate: Fraction) -> None:
    count = 20_000
    hits = sum(is_audited(SECRET, index.to_bytes(32, "big"), bytes(32), rate) for index in range(count))
    deviation = float(count * rate * (1 - rate)) ** 0.5
    assert abs(hits - float(count * rate)) < 4 * deviation


def test_the_draw_depends_on_secret_subject_and_output_and_comes_out_the_same_again() -> None:
    def drawn(secret: bytes, last: int) -> list[bool]:
        return [is_audited(secret, bytes([i]) * 32, bytes([last]) * 32, Fraction(1, 2)) for i in range(128)]

    assert drawn(SECRET, 0) == drawn(SECRET, 0)
    assert drawn(SECRET, 0) != drawn(SECRET, 1)
    assert drawn(SECRET, 0) != drawn(os.urandom(32), 0)


def test_all_or_nothing() -> None:
    assert all(is_audited(SECRET, bytes([i]) * 32, bytes(32), Fraction(1)) for i in range(64))
    assert not any(is_audited(SECRET, bytes([i]) * 32, bytes(32), Fraction(0)) for i in range(64))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="basis points"):
        Stakes(payment=1, bond=1, challenger_share_bps=10_001, saved=1)
    with pytest.raises(ValueError, match="not negative"):
        Stakes(payment=-1, bond=1, challenger_share_bps=0, saved=1)
    with pytest.raises(ValueError, match="below 1"):
        break_even(Stakes(1, 1, 0, 1), Fraction(1))
    with pytest.raises(ValueError, match="32 bytes"):
        is_audited(b"short", bytes(32), bytes(32), Fraction(1))


def test_the_table_in_the_docs_is_what_the_formula_gives() -> None:
    assert audit_table.main(["--check"]) == 0


@pytest.mark.parametrize("setting", bench_audit.SETTINGS, ids=lambda setting: setting.name)
def test_cheating_stops_paying_where_the_formula_says(setting: bench_audit.Setting) -> None:
    found, error = bench_audit.crossing(setting, seed=11, jobs=1_500)
    assert error < float(setting.even) / 10
    assert abs(found - float(setting.even)) <= 3 * error


def test_providers_that_copy_the_better_paid_cheat_below_the_rate_only() -> None:
    setting, few = bench_audit.SETTINGS[0], {"generations": 25, "jobs": 30}
    assert bench_audit.cheaters_left(setting, Fraction(1, 2), seed=3, **few) > 0.9
    assert bench_audit.cheaters_left(setting, Fraction(2), seed=3, **few) == 0
