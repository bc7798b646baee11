"""Many jobs at once over five providers, fifty in the long run: each settles, once, no nonce is left out, all five
serve, and stakes, bonds and credits are what the jobs say (`crowd.buy` checks those)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import crowd


@pytest.mark.parametrize("jobs", [20, pytest.param(crowd.JOBS, marks=pytest.mark.slow)])
def test_concurrent_jobs_all_settle_once_and_leave_no_nonce_gap(tmp_path: Path, tiny_pack: Path, jobs: int) -> None:
    outcome = crowd.buy(tmp_path / "network", tiny_pack, jobs)
    assert len({result.job_id for result in outcome.results}) == jobs
    assert all(result.settled and result.answer is not None for result in outcome.results)
    assert outcome.settled_events == jobs
    assert outcome.holes == ()
    assert len(outcome.answers) == crowd.PROVIDERS
    assert min(outcome.answers) > 0
    assert sum(outcome.answers) >= 2 * jobs
    for result in outcome.results:
        assert result.paid + result.refunded == result.escrow
