"""Jobs whose providers the chain draws, over real processes: the command line, a client that vanishes, a contract."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Market

PROMPT = "the cat sat"
GRACE = 1


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Iterator[Market]:
    running = Market.start(tmp_path_factory.mktemp("network"), tiny_pack, settle_grace=GRACE)
    yield running
    running.network.stop()


def assay(market: Market, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    info = market.info
    where = ["--rpc", info.rpc_url, "--deployment", info.deployment, "--keystore", info.client_keystore]
    where += ["--password-file", info.password_file, "--data-dir", str(tmp_path / "client")]
    return subprocess.run(
        [sys.executable, "-m", "assay", *arguments, *where], capture_output=True, text=True, timeout=120, check=False
    )


def test_job_posted_with_draw_is_drawn_answered_settled_and_paid(market: Market, tmp_path: Path) -> None:
    vault, token = market.contracts.vault, market.contracts.token
    before = {p.address.lower(): vault.credit(token.address, p.address) for p in market.info.providers}
    done = assay(market, tmp_path, "job", "post", "--draw", "--yes", "--json", "-t", "6", PROMPT)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    job = bytes.fromhex(result["job_id"][2:])
    assert market.contracts.jobs.job(job).is_drawn
    assert result["state"] == "settled"
    assert result["answer"]
    assert result["burnt"] == 0
    assert {p["address"] for p in result["providers"]} == set(before)
    assert [p["role"] for p in result["providers"]] == ["agreed"] * 3
    assert {"Jobs.post", "Jobs.draw", "Jobs.settle"} <= set(result["gas"])
    for provider in result["providers"]:
        earned = vault.credit(token.address, provider["address"]) - before[provider["address"]]
        assert earned == provider["paid"] > 0
    assert result["escrow"] == result["paid"] + result["refunded"]
    assert "drawn" in done.stderr
    market.assert_vault_is_whole()
