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

from assay.doctor import Finding, check_judge
from market.judging import acceptances
from market.networks import Network, shipped
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
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    document = json.loads(run.stdout)
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


def sold(market: Market, folder: Path, network: Network, **sections: dict[str, str]) -> tuple[bool, bool, str, Path]:
    """Whether a provider on such a chain offers OPTIMISTIC, on chain and by HTTP; what it says; its file."""
    folder.mkdir()
    config, account = market.provider(folder, modes=("none", "optimistic"))
    tables = [f'[{name}]\n"{key}" = "{value}"\n' for name, keys in sections.items() for key, value in keys.items()]
    config.write_text(config.read_text(encoding="utf-8") + "\n" + "\n".join(tables), encoding="utf-8")
    agent = LocalAgent(config, account, network_of=lambda _: network)
    try:
        offer = market.contracts.registry.offer(account.address, market.pack.model_id)
        (model,) = httpx.get(f"{agent.url}/v1/models").json()["models"]
        assert model["uri"] == sections.get("model_uris", {}).get(market.pack.name, "")
        return offer.offers(Mode.OPTIMISTIC), Mode.OPTIMISTIC in model["modes"], "\n".join(agent.reports), config
    finally:
        agent.stop()


def answerable(config: Path, network: Network) -> Finding:
    """What the doctor finds of the provider's side of a dispute."""
    (finding,) = [finding for finding in check_judge(config, lambda _: network) if finding.check == "disputes"]
    return finding


def test_optimistic_is_not_offered_where_the_window_is_too_short_or_nobody_can_fetch_the_weights(
    tmp_path: Path,
) -> None:
    """Although the judge knows the model. On a development chain neither counts."""
    base = shipped()["sepolia"].model_copy(update={"confirmations": 0})
    strict, fair = (base.model_copy(update={"censorship_budget": seconds}) for seconds in (60, 59))
    market = Market(tmp_path, reply_window=62)  # 3 rebuilds of a second, and the smaller budget
    try:
        for call in acceptances(market.chain, market.deployment.judge, market.pack):
            market.guardian.send(call)
        uri = {market.pack.name: "https://example.org/tiny"}
        *offered, said, config = sold(market, tmp_path / "short", strict, model_uris=uri)
        assert offered == [False, False]
        assert "gives 62 s for a reply" in said
        assert "63 s may be needed" in said
        finding = answerable(config, strict)
        assert not finding.ok
        assert "62 s" in finding.found

        *offered, said, config = sold(market, tmp_path / "hidden", fair)
        assert offered == [False, False]
        assert "where its weights can be fetched" in said
        finding = answerable(config, fair)
        assert not finding.ok
        assert "model_uris" in finding.found
        assert answerable(config, shipped()["local"]).ok

        *offered, said, config = sold(market, tmp_path / "good", fair, model_uris=uri)
        assert offered == [True, True]
        assert "not offered" not in said
        assert answerable(config, fair).ok
    finally:
        market.close()
