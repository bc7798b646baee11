"""A provider that would sell OPTIMISTIC, on a market whose judge does not know its model yet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from market.judging import acceptances
from market.types import Mode
from tests.integration.provider.market import LocalAgent, Market


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = Market(tmp_path_factory.mktemp("market"))
    yield market
    market.close()


def doctor(config: Path) -> dict[str, Any]:
    """What `assay doctor` finds of the judge."""
    command = [sys.executable, "-m", "assay", "doctor", "--provider", str(config), "--json"]
    document = json.loads(subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout)
    (finding,) = [check for check in document["checks"] if check["check"] == "judge"]
    return dict(finding)


def test_init_says_that_the_judge_must_know_what_is_sold_as_optimistic(market: Market, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "assay",
        "provider",
        "init",
        "--config",
        str(tmp_path / "provider.toml"),
        "--light",
    ]
    command += ["--rpc", market.anvil.rpc_url, "--deployment", str(market.manifest), "--pack", str(market.pack.path)]
    made = subprocess.run(
        [*command, "--password-file", str(market.password_file), "--mode", "optimistic"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"assay dispute accept {market.pack.path}" in made.stdout
    assert "assay doctor --provider" in made.stdout


def test_optimistic_is_not_offered_before_the_judge_knows_the_model_and_the_provider_is_told_what_to_do(
    market: Market, tmp_path: Path
) -> None:
    config, account = market.provider(tmp_path, modes=("none", "optimistic"))
    finding = doctor(config)
    assert (finding["ok"], finding["fix"].startswith("assay dispute accept")) == (False, True)
    agent = LocalAgent(config, account)

    def offered() -> tuple[bool, list[int]]:
        offer = market.contracts.registry.offer(account.address, market.pack.model_id)
        (model,) = httpx.get(f"{agent.url}/v1/models").json()["models"]
        assert offer.offers(Mode.NONE)
        return offer.offers(Mode.OPTIMISTIC), model["modes"]

    try:
        assert f"assay dispute accept {market.pack.path}" in "\n".join(agent.reports)
        assert offered() == (False, [Mode.NONE])
        request, _ = market.request()
        body = {
            "request": request.to_json(),
            "modelId": None,
            "client": market.client.address.lower(),
            "mode": int(Mode.OPTIMISTIC),
        }
        refused = httpx.post(f"{agent.url}/v1/quotes", json=body)
        assert refused.json()["error"]["code"] == "NotJudged"
        for call in acceptances(market.chain, market.deployment.judge, market.pack):
            market.guardian.send(call)
        assert agent.agent.offers_again() is not None
        agent.agent.onboard()  # what the agent does by itself, once a minute
        assert offered() == (True, [Mode.NONE, Mode.OPTIMISTIC])
        assert httpx.post(f"{agent.url}/v1/quotes", json=body).status_code == 200
        assert agent.agent.offers_again() is None
    finally:
        agent.stop()
    assert doctor(config)["ok"]
