"""A draw that nobody makes: who makes it, when, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.errors import ContractError
from market.hashing import ZERO32, keccak256
from market.types import ZERO_ADDRESS, Mode
from market.views import BondState, JobState, JobView, ReplicaState, ReplicaView
from provider.config import Gas, Timing
from provider.draws import FORGOTTEN, GAS_PATIENCE, SLOTS, Draws, Pending
from provider.journal import Journal
from provider.node import Next
from provider.pricing import Shop
from tests.unit.provider import samples

JOB = keccak256(b"drawn job")
NOW = samples.NOW
DEADLINE = NOW + 600
POSTED_IN = 70
TIMING = Timing(draw_grace=20, draw_stagger=4)
LONGEST = 20 + (SLOTS - 1) * 4
VIEW = JobView(
    client=samples.CLIENT,
    state=JobState.DRAWING,
    mode=Mode.QUORUM,
    quorum=2,
    replicas=3,
    committed=0,
    revealed=0,
    input_tokens=4,
    max_output_tokens=16,
    reveal_window=60,
    commit_deadline=DEADLINE,
    reveal_deadline=0,
    final_at=0,
    escrow=90,
    model_id=samples.MODEL_ID,
    request_hash=ZERO32,
    output_hash=ZERO32,
    draw_block=POSTED_IN,
    inline_input=True,
)
UNDRAWN = ReplicaView(
    provider=ZERO_ADDRESS,
    state=ReplicaState.UNDRAWN,
    bond_state=BondState.NONE,
    finish=0,
    output_tokens=0,
    base_fee=10,
    price_per_m_input=50_000,
    price_per_m_output=200_000,
    kill_fee=2,
    miss_fee=14,
    bond=100,
    paid=0,
    digest=ZERO32,
)


class DrawingChain:
    """One job whose draw is to come."""

    address = samples.PROVIDER

    def __init__(self) -> None:
        self.time = NOW
        self.view: JobView | None = VIEW
        self.undrawn = UNDRAWN
        self.staked = 100
        self.gas_price = 1
        self.drawn: list[str] = []  # keys
        self.refuse: ContractError | None = None

    def change(self, **fields: Any) -> None:
        assert self.view is not None
        self.view = replace(self.view, **fields)

    def now(self) -> int:
        return self.time

    def seen(self, depth: int = 0) -> int:
        return self.time - depth

    def job(self, job_id: bytes, depth: int = 0) -> JobView | None:
        assert depth == 0
        return self.view if job_id == JOB else None

    def replicas(self, job_id: bytes) -> list[ReplicaView]:
        assert job_id == JOB
        return [self.undrawn] * 3

    def stake(self) -> int:
        return self.staked

    def fee_per_gas(self) -> int:
        return self.gas_price

    def draw(self, job_id: bytes, key: str) -> None:
        assert job_id == JOB
        if self.refuse is not None:
            raise self.refuse
        self.drawn.append(key)


class Hall:
    """A provider that waits for draws, on a chain that it can be taken away from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chain = DrawingChain()
        self.shop: Shop = samples.shop(max_bond=1_000)
        self.listed = True
        self.timing = TIMING
        self.restart()

    def restart(self) -> None:
        self.journal = Journal(self.path, samples.OWNER)
        self.draws = Draws(self.chain, self.journal, self.shop, self.timing, lambda _: self.listed)

    def post(self, **fields: Any) -> bool:
        return self.draws.opened(JOB, {"drawBlock": POSTED_IN, "modelId": samples.MODEL_ID, **fields}, POSTED_IN)

    def due(self) -> int:
        """Goes to the time at which this provider's turn comes, and returns it."""
        waits = self.draws.step(JOB)
        assert waits is not None
        assert waits.at is not None
        self.chain.time = waits.at
        return waits.at


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    hall = Hall(tmp_path / "journal.sqlite")
    yield hall
    hall.journal.close()


def test_draw_that_nobody_makes_is_made_after_this_providers_own_time(hall: Hall) -> None:
    assert hall.post()
    due = hall.due()
    assert NOW + 20 <= due <= NOW + LONGEST
    assert hall.chain.drawn == []
    assert hall.draws.step(JOB) == Next(at=due + 1)
    assert hall.chain.drawn == [f"draw:{JOB.hex()}:{POSTED_IN}"]


def test_providers_have_times_of_their_own_so_that_one_pays(hall: Hall) -> None:
    times = set()
    hall.post()
    for number in range(40):
        hall.chain.address = "0x" + keccak256(b"%d" % number)[:20].hex()
        waits = hall.draws.step(JOB)
        assert waits is not None
        times.add(waits.at)
    assert times == {NOW + 20 + slot * 4 for slot in range(SLOTS)}


def test_short_time_to_draw_is_half_left_to_others(hall: Hall) -> None:
    hall.chain.change(commit_deadline=NOW + 30)
    hall.post()
    assert NOW < hall.due() <= NOW + 15


def test_nothing_is_sent_once_somebody_was_faster(hall: Hall) -> None:
    hall.post()
    hall.due()
    hall.chain.refuse = ContractError("no", code="WrongState")
    assert hall.draws.step(JOB) == Next(at=hall.chain.time + 1)
    hall.chain.change(state=JobState.OPEN)
    assert hall.draws.step(JOB) is None  # the node's turn
    assert hall.draws.pending(JOB) == Pending(POSTED_IN, POSTED_IN, NOW)  # until the events were read
    hall.draws.over(JOB)
    assert hall.draws.pending(JOB) is None
    assert hall.draws.step(JOB) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hall: setattr(hall, "listed", False),
        lambda hall: setattr(hall.chain, "staked", 99),
        lambda hall: setattr(hall.chain, "undrawn", replace(UNDRAWN, price_per_m_output=199_999)),
        lambda hall: setattr(hall.chain, "undrawn", replace(UNDRAWN, bond=1_001)),
        lambda hall: hall.chain.change(mode=Mode.NONE),
        lambda hall: hall.chain.change(input_tokens=101),
        lambda hall: hall.chain.change(max_output_tokens=65),
        lambda hall: hall.chain.change(draw_failed=True),
        lambda hall: hall.chain.change(client=samples.PROVIDER),
    ],
    ids=["unlisted", "stake", "price", "bond", "mode", "input", "output", "failed", "own"],
)
def test_draw_that_cannot_be_this_providers_is_left_to_others(hall: Hall, spoil: Any) -> None:
    hall.post()
    hall.due()
    spoil(hall)
    hall.draws.step(JOB)
    assert hall.chain.drawn == []


def test_draw_waits_while_its_gas_costs_more_than_the_job_pays(hall: Hall) -> None:
    gas = Gas(token_per_coin=10**18, commit_gas=4, reveal_gas=4, draw_gas=6)
    hall.shop = replace(hall.shop, gas=gas)
    hall.restart()
    hall.post()
    due = hall.due()
    hall.chain.gas_price = 2  # 28 of gas; the job pays 10 + ceil(3.4) = 14
    assert hall.draws.step(JOB) == Next(at=due + GAS_PATIENCE)
    hall.chain.gas_price = 1
    hall.draws.step(JOB)
    assert len(hall.chain.drawn) == 1


def test_draw_whose_block_went_out_of_reach_has_a_time_and_a_key_of_its_own(hall: Hall) -> None:
    hall.post()
    hall.chain.time += 300
    hall.chain.change(draw_block=POSTED_IN + 257)
    due = hall.due()
    assert due >= NOW + 320
    hall.draws.step(JOB)
    assert hall.chain.drawn == [f"draw:{JOB.hex()}:{POSTED_IN + 257}"]
    found = hall.draws.pending(JOB)
    assert found is not None
    assert found.posted_in == POSTED_IN  # where the prompt stands


def test_restart_goes_on_where_the_draw_was_left(hall: Hall) -> None:
    hall.post()
    first = hall.due()
    hall.journal.close()
    hall.restart()
    assert hall.draws.open() == [JOB]
    hall.draws.step(JOB)
    assert hall.chain.time == first
    assert len(hall.chain.drawn) == 1


@pytest.mark.parametrize("fields", [{"drawBlock": 0}, {"modelId": keccak256(b"another")}], ids=["quotes", "model"])
def test_job_that_cannot_be_drawn_for_this_provider_is_not_remembered(hall: Hall, fields: dict[str, Any]) -> None:
    assert not hall.post(**fields)
    assert hall.draws.open() == []


@pytest.mark.parametrize("taken_back", [False, True])
def test_draw_that_nobody_closes_is_forgotten_in_the_end(hall: Hall, taken_back: bool) -> None:
    hall.post()
    if taken_back:
        hall.chain.view = None
    else:
        hall.chain.time = DEADLINE + 1
    waits = hall.draws.step(JOB)
    assert waits == Next(at=(NOW if taken_back else DEADLINE) + FORGOTTEN + 1)
    assert hall.draws.open() == [JOB]
    hall.chain.time = waits.at or 0
    hall.draws.step(JOB)
    assert hall.draws.open() == []
    assert hall.chain.drawn == []
