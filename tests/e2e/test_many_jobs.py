"""Fifty jobs at once over five providers: every one settles, once, and no nonce is left out."""

from __future__ import annotations

from pathlib import Path

from tests.e2e import crowd


def test_fifty_concurrent_jobs_all_settle_once_and_leave_no_nonce_gap(tmp_path: Path, tiny_pack: Path) -> None:
    outcome = crowd.buy(tmp_path / "network", tiny_pack)
    assert len({result.job_id for result in outcome.results}) == crowd.JOBS
    assert all(result.settled and result.answer is not None for result in outcome.results)
    assert outcome.settled_events == crowd.JOBS
    assert set(outcome.gaps.values()) == {0}
    for result in outcome.results:
        assert result.paid + result.refunded == result.escrow
