"""Jobs whose providers the chain draws, over real processes: the command line, a client that vanishes, a contract."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from web3 import Web3

from client import Progress
from client.errors import NoAgreement
from market.anvil import development_accounts
from market.chain import CREATE, Call, Chain
from market.events import decode_logs
from market.hashing import keccak256, pack_stop_tokens, pack_tokens
from market.transactions import Transactions
from market.types import Output
from market.views import JobState, ReplicaState
from tests.e2e.conftest import Market
from tests.unit.contracts.artefacts import artefacts

PROMPT = "the cat sat"
ASKER = 1  # of anvil's accounts: the network's client
CAP = 10**6
TEMPERATURE_Q16 = 1 << 16
SECONDS = 90


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Path) -> Iterator[Market]:
    running = Market.start(tmp_path_factory.mktemp("network"), tiny_pack, settle_grace=1, draw_grace=2)
    yield running
    running.network.stop()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return value


def assay(market: Market, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    command = program(market, tmp_path, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def program(market: Market, tmp_path: Path, *arguments: str) -> list[str]:
    info = market.info
    where = ["--rpc", info.rpc_url, "--deployment", info.deployment, "--keystore", info.client_keystore]
    where += ["--password-file", info.password_file, "--data-dir", str(tmp_path / "client")]
    return [sys.executable, "-m", "assay", *arguments, *where]


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_job_posted_with_draw_is_drawn_answered_settled_and_paid(market: Market, tmp_path: Path) -> None:
    vault, token = market.contracts.vault, market.contracts.token
    before = {p.address.lower(): vault.credit(token.address, p.address) for p in market.info.providers}
    done = assay(market, tmp_path, "job", "post", "--draw", "--yes", "--json", "-t", "6", PROMPT)
    result = document(done)
    job = market.contracts.jobs.job(bytes.fromhex(result["job_id"][2:]))
    assert job.is_drawn
    assert job.inline_input
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
    assert "3 of 3 providers are to be drawn" in done.stderr
    assert "committed" in done.stderr
    market.assert_vault_is_whole()


def test_client_that_vanishes_after_the_post_does_not_keep_the_job_from_its_draw(
    market: Market, tmp_path: Path
) -> None:
    options = ("--draw", "--no-wait", "--yes", "--json", "-t", "5", "--commit-window", "30")
    posted = document(assay(market, tmp_path, "job", "post", *options, PROMPT))
    assert posted["state"] == "drawing"
    assert [p["role"] for p in posted["providers"]] == ["undrawn"] * 3
    job = bytes.fromhex(posted["job_id"][2:])
    until(lambda: market.contracts.jobs.job(job).state is JobState.SETTLED)
    found = document(assay(market, tmp_path, "job", "watch", posted["job_id"], "--json"))  # it comes back after all
    assert found["answer"]
    (listed,) = json.loads(assay(market, tmp_path, "job", "list", "--json").stdout)
    assert listed["replicas"] == 3


@pytest.mark.parametrize(
    "after", ["the job is on chain", pytest.param("of 3 (committed|revealed)|3 that committed", marks=pytest.mark.slow)]
)
def test_job_post_with_draw_that_is_killed_goes_on_with_watch(market: Market, tmp_path: Path, after: str) -> None:
    """kill -9 between the post and the draw, and between the draw and the answers. An agent may be faster to draw."""
    before = market.contracts.jobs.client_nonce(market.info.client)
    command = program(market, tmp_path, "job", "post", "--draw", "--yes", "-t", "5", PROMPT)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(re.search(after, line) for line in process.stderr)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (listed,) = json.loads(assay(market, tmp_path, "job", "list", "--json").stdout)
    found = document(assay(market, tmp_path, "job", "watch", listed["job_id"], "--json"))
    assert found["state"] == "settled"
    assert found["answer"]
    assert found["escrow"] == found["paid"] + found["refunded"]
    job = bytes.fromhex(listed["job_id"][2:])
    for name in ("JobPosted", "Drawn", "Settled"):
        assert sum(event.args["jobId"] == job for event in market.events(name)) == 1
    assert market.contracts.jobs.client_nonce(market.info.client) == before + 1
    market.assert_vault_is_whole()


def test_contract_that_asks_reads_the_answer_of_drawn_agents(market: Market) -> None:
    """Nobody but the asker does anything: the agents make the draw, answer, settle; the answer is brought and read. Its
    seed is the draw's: who answered and with which tokens, nobody chose.
    """
    contracts, chain = market.contracts, Chain(market.info.rpc_url)
    compiled = artefacts()["Consumer"]
    code = Web3().eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"])
    with market.client() as client:
        offered = client.negotiate(PROMPT, draw=True, max_output_tokens=6)
    drawn, request = offered.report.drawn, offered.bargain.request
    assert drawn is not None
    with Transactions(chain, development_accounts()[ASKER], ":memory:") as asker:

        def send(name: str, *arguments: Any) -> Any:
            return asker.send(Call(consumer, _bytes(code.encode_abi(name, arguments)), f"Consumer.{name}"))

        def read(name: str, *arguments: Any) -> bytes:
            return chain.call(Call(consumer, _bytes(code.encode_abi(name, arguments)), f"Consumer.{name}"))

        creation = code.constructor(contracts.jobs.address, TEMPERATURE_Q16).data_in_transaction
        consumer = asker.send(Call(CREATE, _bytes(creation), "Consumer")).contract_address
        assert consumer is not None
        before = contracts.token.balance_of(asker.address)
        asker.send(contracts.token.approve(consumer, CAP))
        stop = pack_stop_tokens(offered.bargain.text.limits.stop_tokens)
        ids = pack_tokens(offered.bargain.ids)
        lengths = request.input_tokens, request.max_output_tokens
        asked = send("ask", ids, *lengths, stop, drawn.quote.values(), CAP)
        (posted,) = [e for e in decode_logs(asked.logs) if e.name == "JobPosted"]
        job = posted.args["jobId"]
        until(lambda: contracts.jobs.job(job).state is JobState.SETTLED)

        seed = contracts.jobs.seed_of(job)
        assert seed.is_fixed
        assert seed.seed == keccak256(job + _bytes(chain.block(seed.block).hash))
        replicas = contracts.jobs.replicas(job)
        assert {r.provider.lower() for r in replicas} == {p.address.lower() for p in market.info.providers}
        assert {r.state for r in replicas} == {ReplicaState.REVEALED}
        answer = _served(market, job)
        output = Output.from_json(answer["output"])
        send("answer", job, output.values(), pack_tokens(answer["ids"]))
        (stored,) = chain.web3.codec.decode(["bytes"], read("answers", job))
        assert stored == pack_tokens(answer["ids"])
        if sum(r.paid for r in replicas) < contracts.jobs.job(job).escrow:  # else NothingDue
            send("refund", job)
        assert contracts.token.balance_of(asker.address) == before - sum(r.paid for r in replicas)
        assert all(r.paid > 0 for r in replicas)
    market.assert_vault_is_whole()


def _served(market: Market, job: bytes) -> dict[str, Any]:
    """The answer, as anybody may have it: the prompt is public."""
    answer = httpx.get(f"{market.info.providers[0].endpoint}/v1/outputs/0x{job.hex()}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def test_draw_that_finds_too_few_is_made_again_and_costs_nothing_in_the_end(market: Market) -> None:
    """Providers left between the plan and the draw. The last test here: their agents are not told."""
    registry, jobs = market.contracts.registry, market.contracts.jobs
    rpc = registry.chain.rpc
    seen: list[Progress] = []
    with market.client() as client:
        offered = client.negotiate(PROMPT, draw=True, max_output_tokens=4, commit_window=600)
        for provider in market.info.providers[:2]:
            call = registry.remove_offer(offered.report.model_id)
            rpc("anvil_impersonateAccount", provider.address)
            data = {"from": provider.address, "to": call.to, "data": "0x" + call.data.hex()}
            rpc("eth_sendTransaction", data)
        before = client.balance()
        posted = jobs.job_id_of(client.address, jobs.client_nonce(client.address))

        def end() -> None:
            until(lambda: sum("is made again" in progress.text for progress in seen) and _armed(market, posted) > 1)
            market.network.anvil.increase_time(700)
            market.network.anvil.mine()

        waiting = threading.Thread(target=end, daemon=True)
        waiting.start()
        result = client.run(offered=offered, progress=seen.append)
        waiting.join(SECONDS)
        assert result.job_id == posted
        assert result.state is JobState.EXPIRED
        assert (result.paid, result.burnt, result.refunded) == (0, 0, result.escrow)
        after = client.balance()
        assert after.wallet + after.credit == before.wallet + before.credit
        assert result.exit_code == NoAgreement.exit_code
        with pytest.raises(NoAgreement, match="too few took its terms") as caught:
            result.raise_for_state()
        assert caught.value.code == "NobodyDrawn"
        assert _armed(market, posted) < 10  # each costs gas: they come ever more seldom


def _armed(market: Market, job: bytes) -> int:
    return sum(event.args["jobId"] == job for event in market.events("DrawArmed"))
