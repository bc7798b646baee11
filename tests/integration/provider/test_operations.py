"""Running a provider from day to day: what it shows, how it is drained, and what it does when nobody asks."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from market.types import Mode
from market.views import JobState, ReplicaState
from provider.config import Terms
from provider.records import Stage
from tests.integration.provider.market import DISPUTE_WINDOW, STAKE, LocalAgent, Market, Program, until
from tests.integration.provider.test_cli import assay

BOARD = Path(__file__).resolve().parents[3] / "docs" / "operations" / "grafana.json"
ALERTS = BOARD.with_name("alerts.yml")


@pytest.fixture(scope="module")
def working(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAgent]:
    """An agent with metrics that has finished one job, refused one and said no to a quote."""
    agent = LocalAgent(*market.provider(tmp_path_factory.mktemp("working"), metrics_port=0))
    job, _ = market.start_job(agent.url)
    until(lambda: market.settled(job))
    until(lambda: agent.journal.job(job).stage is Stage.FINAL)  # type: ignore[union-attr]
    assert httpx.post(f"{agent.url}/v1/quotes", json={}).status_code == 400
    yield agent
    agent.stop()


def scrape(agent: LocalAgent) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name → label values → value."""
    assert agent.agent.metrics_url is not None
    answer = httpx.get(agent.agent.metrics_url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_metrics_agree_with_journal_chain_and_queue(market: Market, working: LocalAgent) -> None:
    found = scrape(working)

    def value(name: str, *labels: str) -> float:
        return found["assay_provider_" + name][labels]

    (listed,) = working.journal.jobs()
    row = working.journal.job(listed.job_id)
    assert row is not None
    (replica,) = market.contracts.jobs.replicas(row.job_id)
    address = working.agent.address
    assert value("jobs_finished_total", "SETTLED") == value("jobs", "FINAL") == value("quotes_total") == 1
    assert value("earned_base_units_total") == replica.paid > 0
    assert value("refusals_total", "MALFORMED") == value("http_responses_total", "400") == 1
    assert value("stake_base_units", "locked") == replica.bond
    assert value("stake_base_units", "free") == market.contracts.vault.staked(address) == STAKE - replica.bond
    assert value("transactions_sent_total") == value("transactions_mined_total") > 4
    assert value("transactions_sent_total") == market.chain.transaction_count(address)
    assert value("gas_spent_wei_total") == pytest.approx(10**19 - market.chain.balance(address), rel=1e-12)
    assert value("gas_coin_wei") == pytest.approx(market.chain.balance(address), rel=1e-12)
    assert value("inference_seconds_count") == 1
    assert value("output_tokens_total") == len(row.ids or ())
    assert (value("ready"), value("draining"), value("books_readable"), value("engine_queue_depth")) == (1, 0, 1, 0)


def test_metrics_are_not_on_the_public_address(working: LocalAgent) -> None:
    answer = httpx.get(f"{working.url}/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


def test_every_metric_of_the_board_and_the_alerts_exists(working: LocalAgent) -> None:
    assert working.agent.metrics_url is not None
    text = httpx.get(working.agent.metrics_url).text
    there = set(re.findall(r"^(?:# TYPE )?([a-z_]+)[ {]", text, re.MULTILINE))
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    names = set(re.findall(r"\b(?:assay_provider|process)_[a-z_]+\b", asked + ALERTS.read_text(encoding="utf-8")))
    assert len(names) > 25
    assert names - there == set()
    unused = {name for name in there if name.startswith("assay_provider_") and not name.endswith("_created")} - names
    assert {name for name in unused if not name.startswith("assay_provider_inference_seconds")} == {
        "assay_provider_head_timestamp_seconds"
    }


def test_day_without_demand_sends_no_transaction(market: Market, working: LocalAgent, tmp_path: Path) -> None:
    """Profit guard: whoever waits for jobs pays no gas, whatever the clock says."""
    idle = LocalAgent(*market.provider(tmp_path, metrics_port=0))
    try:
        before = market.chain.transaction_count(idle.agent.address)
        balance = market.chain.balance(idle.agent.address)
        start = market.chain.head().timestamp
        for _ in range(24):
            market.anvil.increase_time(3_600)
            market.anvil.mine()
            head = market.chain.head().number
            until(lambda head=head: scrape(idle)["assay_provider_head_block"][()] >= head)
        assert market.chain.head().timestamp >= start + 86_400
        market.quote(idle.url, market.request()[0], Mode.NONE)  # it is awake, and a quote costs no gas
        assert market.chain.transaction_count(idle.agent.address) == before
        assert market.chain.balance(idle.agent.address) == balance
    finally:
        idle.stop()


def test_metrics_of_an_address_that_is_not_allowed_are_refused(market: Market, tmp_path: Path) -> None:
    config, account = market.provider(tmp_path, metrics_port=0)
    text = config.read_text(encoding="utf-8")
    line = '# allow = ["127.0.0.0/8", "::1/128"]'
    assert line in text
    config.write_text(text.replace(line, 'allow = ["192.0.2.0/24"]'), encoding="utf-8")
    agent = LocalAgent(config, account)
    try:
        assert agent.agent.metrics_url is not None
        answer = httpx.get(agent.agent.metrics_url)
        assert answer.status_code == 403
        assert "assay_provider" not in answer.text
    finally:
        agent.stop()


def owner(command: str, market: Market, program: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = str(program.config.keystore.parent / "provider.toml")
    secret = ("--password-file", str(market.password_file)) if command in ("drain", "resume") else ()
    return assay(command, "--config", config, *secret, *arguments)


def document(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_drained_agent_refuses_work_keeps_its_promises_and_ends(market: Market, tmp_path: Path) -> None:
    config, account = market.provider(tmp_path, terms=Terms(bond=10_000, valid_seconds=20))
    program = Program(market, config)
    try:
        program.ready()
        request, ids = market.request("promised before the drain")
        quote = market.quote(program.url, request, Mode.NONE)
        started = document(owner("drain", market, program, "--exit", "--json"))
        assert (started["draining"], started["running"], started["quotes"]) == (True, True, 1)

        refused = httpx.post(
            f"{program.url}/v1/quotes",
            json={"request": request.to_json(), "modelId": None, "client": market.client.address.lower(), "mode": 0},
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "DRAINING")
        assert int(refused.headers["retry-after"]) > 0
        unready = httpx.get(f"{program.url}/readyz")
        assert (unready.status_code, unready.json()["reasons"]) == (503, ["DRAINING"])

        job = market.post([quote], request)
        assert market.deliver(program.url, job, request, ids).status_code == 200
        until(lambda: market.settled(job))
        assert market.output(program.url, job).status_code == 200
        market.anvil.increase_time(DISPUTE_WINDOW + 60)
        assert program.process.wait(60) == 0
        (replica,) = market.contracts.jobs.replicas(job)
        assert market.job(job).state is JobState.SETTLED
        assert market.contracts.vault.staked(account.address) == STAKE
        assert replica.paid > 0
        assert any(line["event"] == "drained" for line in program.lines())
    finally:
        program.close()

    again = Program(market, config)  # after a restart it drains on, and stays to be asked for answers
    try:
        again.ready()
        assert httpx.get(f"{again.url}/readyz").json()["reasons"] == ["DRAINING"]
        assert market.output(again.url, job).status_code == 200
        assert document(owner("resume", market, again, "--json")) == {"draining": False, "running": True}
        until(lambda: httpx.get(f"{again.url}/readyz").status_code == 200)
        assert again.end(signal.SIGTERM) == 0
        stopped = document(owner("drain", market, again, "--json"))
        assert (stopped["draining"], stopped["running"]) == (True, False)
        assert document(owner("status", market, again, "--json"))["draining"] is True
        assert document(owner("resume", market, again, "--json")) == {"draining": False, "running": False}
        earnings_are_exact(market, again, account.address, job)
    finally:
        again.close()


def test_silence_after_a_commitment_shows_in_the_earnings_as_what_the_chain_took(
    market: Market, tmp_path: Path
) -> None:
    config, account = market.provider(tmp_path, confirmations=1)
    agent = LocalAgent(config, account)
    job, _ = market.start_job(agent.url)
    market.anvil.mine()  # the job is believed, and committed to; the reveal waits for one block more
    try:
        until(lambda: market.job(job).state is JobState.REVEALING)
        until(lambda: agent.journal.job(job).stage is Stage.COMMITTED)  # type: ignore[union-attr]
    finally:
        agent.stop()
    market.anvil.increase_time(200)
    market.transactions.send(market.contracts.jobs.settle(job))
    (replica,) = market.contracts.jobs.replicas(job)
    assert replica.state is ReplicaState.MISSED
    again = LocalAgent(config, account)
    try:
        until(lambda: again.journal.job(job).outcome == "EXPIRED")  # type: ignore[union-attr]
    finally:
        again.stop()
    found = document(assay("earnings", "--config", str(config), "--by", "job", "--json"))
    (line,) = [line for line in found["lines"] if line["job"] == "0x" + job.hex()]
    assert (line["missed_fees"], line["income"], line["paid_jobs"]) == (replica.miss_fee, 0, 0)
    assert replica.miss_fee > 0


def earnings_are_exact(market: Market, program: Program, address: str, job: bytes) -> None:
    """Income as the chain paid it, and every wei that left the account."""
    found = document(owner("earnings", market, program, "--by", "job", "--json"))
    (replica,) = market.contracts.jobs.replicas(job)
    total = found["total"]
    assert (total["income"], total["jobs"], total["paid_jobs"], total["missed_fees"]) == (replica.paid, 1, 1, 0)
    assert int(total["gas_wei"]) == 10**19 - market.chain.balance(address)
    assert total["transactions"] == market.chain.transaction_count(address)
    lines = {line["job"]: line for line in found["lines"]}
    assert lines["0x" + job.hex()]["income"] == replica.paid
    assert lines["none"]["income"] == 0
    assert int(lines["0x" + job.hex()]["gas_wei"]) + int(lines["none"]["gas_wei"]) == int(total["gas_wei"])

    shown = owner("earnings", market, program, "--csv")
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert sum(int(row["income"]) for row in rows) == replica.paid
    assert sum(int(row["gas_wei"]) for row in rows) == int(total["gas_wei"])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", row["day"]) for row in rows)
    assert "income" in owner("earnings", market, program, "--since", "30d").stdout
