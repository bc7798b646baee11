"""What strangers read when this machine has a trouble of its own, and by which names they are refused."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

import provider
from market.artefacts import shipped
from market.chain import Chain
from market.errors import AssayError, ChainError, ChainUnreachable, ConfigError, ContractError, WireError
from market.events import HeadWaker
from market.views import JobView
from provider.agent import unready
from provider.app import create_app, for_strangers
from provider.config import Timing
from provider.draws import Draws
from provider.errors import JournalError, Refusal, Stopping
from provider.watcher import Watcher
from tests.unit.provider import samples
from tests.unit.provider.test_desk import JOB, Counter

DEAD = "http://127.0.0.1:1/v3/CANARY"
SENTENCE = "The chain cannot be asked right now; try again later."


def ask_a_dead_chain() -> None:
    """A real question, and an error that says more than market.chain's do."""
    try:
        Chain(DEAD, attempts=1)
    except ChainUnreachable as error:
        raise ChainUnreachable(f"{error.message} {DEAD}", hint=DEAD, rpc_url=DEAD) from error


class DeadSide:
    """A ChainSide whose chain went away after its last look."""

    def __init__(self, counter: Counter) -> None:
        self.outlook = counter.chain.outlook

    def job(self, job_id: bytes, depth: int = 0) -> JobView | None:
        ask_a_dead_chain()
        raise AssertionError("the chain answered")


class DeadFollower:
    def poll(self) -> list[Any]:
        ask_a_dead_chain()
        return []


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    counter = Counter(tmp_path / "journal.sqlite")
    yield counter
    counter.journal.close()


def watching(counter: Counter, follower: Any) -> Watcher:
    side: Any = DeadSide(counter)
    draws = Draws(side, counter.journal, samples.shop(), Timing(), lambda _: False)
    return Watcher(
        follower, side, counter.journal, draws, lambda _: None, keep_requests=1, keep_outputs=1, poll_seconds=0.01
    )


async def test_output_asked_of_a_provider_without_its_chain_tells_nothing_of_the_endpoint(counter: Counter) -> None:
    counter.answered()
    counter.chain.job = DeadSide(counter).job  # type: ignore[method-assign]
    app = create_app(counter.desk, {}, samples.shop(), list)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://provider") as client:
        answer = await client.get(f"/v1/outputs/0x{JOB.hex()}")
    assert answer.status_code == 503
    assert answer.json() == {"error": {"code": "ChainUnreachable", "message": SENTENCE, "details": {}}}


async def test_readiness_and_log_name_a_chain_failure_by_its_code_alone(counter: Counter) -> None:
    watcher = watching(counter, DeadFollower())
    side: Any = DeadSide(counter)
    with capture_logs() as lines:
        task = asyncio.create_task(watcher.run(HeadWaker(None)))
        while watcher.failure is None:
            await asyncio.sleep(0.001)
        app = create_app(counter.desk, {}, samples.shop(), lambda: unready(watcher, side, samples.shop()))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://provider") as client:
            answer = await client.get("/readyz")
            body = {"client": samples.CLIENT, "mode": 1, "modelId": "0x" + "11" * 32, "request": None}
            quote = await client.post("/v1/quotes", json=body)
        task.cancel()
    assert (quote.status_code, quote.json()["error"]["code"]) == (503, "NOT_READY")  # it could not keep the promise
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["ChainUnreachable"])
    assert [(line["event"], line["code"]) for line in lines] == [("chain_unreadable", "ChainUnreachable")]
    assert "CANARY" not in answer.text + quote.text + str(lines)


@pytest.mark.parametrize(
    "error",
    [
        Refusal("NOT_PAID", "It was not paid.", paid="0"),
        WireError("ids: not a list.", field="ids"),
        ContractError("The stake is too small.", code="InsufficientStake", has=1),
        Stopping(),
    ],
)
def test_refusal_reaches_a_stranger_as_it_is(error: AssayError) -> None:
    assert for_strangers(error) is error


@pytest.mark.parametrize("kind", [ChainError, ChainUnreachable, JournalError, ConfigError, AssayError])
def test_trouble_of_this_machine_reaches_a_stranger_by_its_code_alone(kind: type[AssayError]) -> None:
    told = for_strangers(kind("It broke at CANARY.", hint="See CANARY.", code="Broken", path="CANARY")).as_json()
    assert (told["error"]["code"], told["error"]["details"]) == ("Broken", {})
    assert "CANARY" not in str(told)


def test_no_refusal_has_a_second_name_for_a_contract_error() -> None:
    named = {error.name for artefact in shipped() for error in artefact.errors}
    taken = {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper(): name for name in named}
    assert taken["UNKNOWN_MODEL"] == "UnknownModel"
    used = {
        node.value
        for path in Path(provider.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert "UnknownModel" in used
    assert {code: taken[code] for code in used & taken.keys()} == {}
