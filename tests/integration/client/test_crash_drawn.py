"""kill -9 of a client whose replicas the chain draws, at every point between the question and the answer: one job, one
draw, one settlement. The providers here let half an hour pass before they draw, and a day before they settle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from assay.network import LocalNetwork, NetworkPlan
from client import Client
from client.errors import JobNotKnown
from client.results import JobResult
from market.anvil import development_accounts
from market.transactions import Transactions
from market.views import JobState
from tests.integration.client.conftest import Connect, Town
from tests.integration.client.crashing import DRAW, DRAWN_POINTS, TOKENS, WINDOW
from tests.integration.client.killed import PROMPT, Books, count, holdings, kill_at, sent_by

GRACE = 100_000
"""Seconds, of which a provider waits half the window at most."""
OUT_OF_REACH = 300
"""Blocks after which nobody can read the draw block's hash any more: the next draw only arms another one."""
SECONDS = 60
STRANGER = 9  # of anvil's accounts

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def town(tiny_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Three honest providers, all of which are drawn for a job of three."""
    home = tmp_path_factory.mktemp("home")
    plan = NetworkPlan(home / "network", (tiny_pack,), providers=3, draw_grace=GRACE, settle_grace=GRACE)
    with LocalNetwork(plan) as network:
        yield Town(network, home)


@pytest.fixture
def looking(connect: Connect, tmp_path: Path) -> Client:
    """A client with a folder of its own, which outlives those that are killed."""
    return connect(tmp_path / "looking")


@contextmanager
def no_blocks(town: Town) -> Iterator[None]:
    """What is sent waits in the endpoint's pool."""
    town.network.anvil.set_automine(False)
    try:
        yield
    finally:
        town.network.anvil.set_automine(True)
        town.network.anvil.mine()


def draws(client: Client, books: Books) -> tuple[int, int]:
    """How many only armed another one, and how many were made."""
    return count(client, "DrawArmed", books.job), count(client, "Drawn", books.job)


def assert_bought_by_a_second_draw(client: Client, books: Books, result: JobResult) -> None:
    """After one that only armed it."""
    books.assert_bought_once(client, result)
    assert draws(client, books) == (1, 1)
    assert sent_by(client) == books.sent + 4  # post, draw in vain, draw, settle


def draw_as_stranger(client: Client, books: Books) -> None:
    """Anyone may."""
    jobs = client.marketplace.jobs
    with Transactions(jobs.chain, development_accounts()[STRANGER], ":memory:") as stranger:
        stranger.send(jobs.draw(books.job))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_client_killed_at_one_point_after_the_other_buys_one_drawn_answer(
    town: Town, connect: Connect, tmp_path: Path, looking: Client, record_property: Record
) -> None:
    """Ten processes die over one job, two of them over a draw that only arms another one."""
    jobs, before = looking.marketplace.jobs, Books.of(looking, town.providers)

    def kill(point: str, action: str = "watch") -> None:
        what = PROMPT if action == "run" else before.job_text
        kill_at(town, point, tmp_path / "client", what, action=action)

    kill("stored", "run")
    kill("post-persisted", "run")
    before.assert_untouched(looking)
    kill("post-mined")
    assert jobs.job(before.job).state is JobState.DRAWING

    town.network.anvil.mine(OUT_OF_REACH)
    kill("draw-persisted")
    assert draws(looking, before) == (0, 0)
    kill("draw-mined")
    assert draws(looking, before) == (1, 0)
    kill("draw-broadcast")
    assert draws(looking, before) == (1, 1)

    kill("open")
    kill("settle-persisted")
    assert jobs.job(before.job).state is JobState.REVEALING
    kill("settled")
    kill("answered")
    client = connect(tmp_path / "client")
    result = client.watch(before.job)
    assert_bought_by_a_second_draw(client, before, result)
    assert client.watch(before.job).answer == result.answer


@pytest.mark.slow
@pytest.mark.parametrize("point", DRAWN_POINTS)
def test_client_killed_while_it_buys_a_drawn_answer_buys_it_once(
    town: Town, connect: Connect, tmp_path: Path, looking: Client, point: str, record_property: Record
) -> None:
    record_property("crash_point", f"client drawn {point}")
    before = Books.of(looking, town.providers)
    kill_at(town, point, tmp_path / "client")

    client = connect(tmp_path / "client")
    if point in ("unstored", "stored", "post-persisted"):
        before.assert_untouched(looking)
    if point in ("unstored", "stored"):
        with pytest.raises(JobNotKnown):
            client.watch(before.job)
        result = client.run(PROMPT, draw=True, commit_window=WINDOW, max_output_tokens=TOKENS)
    else:
        result = client.watch(before.job)
    before.assert_bought_once(client, result)
    assert draws(client, before) == (0, 1)
    assert sent_by(client) == before.sent + 3


@pytest.mark.slow
@pytest.mark.parametrize("point", ["post-broadcast", "draw-broadcast"])
@pytest.mark.parametrize("forgotten", [False, True])
def test_client_killed_while_what_it_sent_waits_for_a_block_sends_it_once(
    town: Town, connect: Connect, tmp_path: Path, looking: Client, point: str, forgotten: bool
) -> None:
    """Also where the endpoint forgot it."""
    jobs, before = looking.marketplace.jobs, Books.of(looking, town.providers)
    data_dir = tmp_path / "client"
    if point == "draw-broadcast":
        kill_at(town, "posted", data_dir)
    with no_blocks(town):
        if point == "draw-broadcast":
            kill_at(town, point, data_dir, before.job_text, action="watch")
            assert jobs.job(before.job).state is JobState.DRAWING
        else:
            kill_at(town, point, data_dir)
            before.assert_untouched(looking)
        if forgotten:
            town.network.anvil.rpc("anvil_dropAllTransactions")
    client = connect(data_dir)
    before.assert_bought_once(client, client.watch(before.job))
    assert count(client, "Drawn", before.job) == 1
    assert sent_by(client) == before.sent + 3


@pytest.mark.slow
@pytest.mark.parametrize("point", DRAW)
def test_client_killed_over_a_draw_that_only_arms_another_goes_on_with_that(
    town: Town, connect: Connect, tmp_path: Path, looking: Client, point: str
) -> None:
    before = Books.of(looking, town.providers)
    kill_at(town, "posted", tmp_path / "client")
    town.network.anvil.mine(OUT_OF_REACH)
    kill_at(town, point, tmp_path / "client", before.job_text, action="watch")
    client = connect(tmp_path / "client")
    assert_bought_by_a_second_draw(client, before, client.watch(before.job))


@pytest.mark.slow
def test_client_whose_draw_went_out_of_reach_while_it_was_dead_draws_again(
    town: Town, connect: Connect, tmp_path: Path, looking: Client
) -> None:
    """What lies on disk was to draw; now it arms another draw, with the gas of the former."""
    before = Books.of(looking, town.providers)
    kill_at(town, "draw-persisted", tmp_path / "client")
    town.network.anvil.mine(OUT_OF_REACH)
    client = connect(tmp_path / "client")
    assert_bought_by_a_second_draw(client, before, client.watch(before.job))


@pytest.mark.slow
def test_client_whose_draw_was_armed_by_another_while_it_was_dead_draws_all_the_same(
    town: Town, connect: Connect, tmp_path: Path, looking: Client
) -> None:
    """What lies on disk was to arm a draw; now it would make it, with gas that is too little for that."""
    before = Books.of(looking, town.providers)
    kill_at(town, "posted", tmp_path / "client")
    town.network.anvil.mine(OUT_OF_REACH)
    kill_at(town, "draw-persisted", tmp_path / "client", before.job_text, action="watch")
    draw_as_stranger(looking, before)
    town.network.anvil.mine()
    client = connect(tmp_path / "client")
    assert_bought_by_a_second_draw(client, before, client.watch(before.job))


@pytest.mark.slow
def test_client_whose_draw_waits_while_another_arms_it_draws_all_the_same(
    town: Town, connect: Connect, tmp_path: Path, looking: Client
) -> None:
    """It had failed for lack of gas, and the client with it."""
    before = Books.of(looking, town.providers)
    kill_at(town, "posted", tmp_path / "client")
    town.network.anvil.mine(OUT_OF_REACH)
    client = connect(tmp_path / "client")
    with ThreadPoolExecutor(1) as pool:
        with no_blocks(town):
            watching = pool.submit(client.watch, before.job)
            until(lambda: town.network.anvil.rpc("txpool_status")["pending"] != "0x0")
            town.network.anvil.rpc("anvil_dropAllTransactions")  # sent again in three seconds
        draw_as_stranger(looking, before)
        town.network.anvil.mine(2)
        result = watching.result(SECONDS)
    assert_bought_by_a_second_draw(client, before, result)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["posted", "draw-persisted"])
def test_client_that_is_dead_while_others_draw_and_settle_finds_its_answer(
    town: Town, connect: Connect, tmp_path: Path, looking: Client, point: str
) -> None:
    """What lies on disk comes too late, and costs its gas alone."""
    jobs, before = looking.marketplace.jobs, Books.of(looking, town.providers)
    kill_at(town, point, tmp_path / "client")
    with Transactions(jobs.chain, development_accounts()[STRANGER], ":memory:") as stranger:
        stranger.send(jobs.draw(before.job))
        until(lambda: (job := jobs.job(before.job)).revealed == job.replicas)
        stranger.send(jobs.settle(before.job))
    client = connect(tmp_path / "client")
    before.assert_bought_once(client, client.watch(before.job))
    assert count(client, "Drawn", before.job) == 1


@pytest.mark.slow
def test_client_whose_terms_ran_out_while_it_was_dead_has_posted_nothing(
    town: Town, connect: Connect, tmp_path: Path, looking: Client
) -> None:
    """The post on disk comes too late: it costs its gas, and the question is asked again."""
    before = Books.of(looking, town.providers)
    kill_at(town, "post-persisted", tmp_path / "client")
    town.pass_time(2 * WINDOW)
    client = connect(tmp_path / "client")
    with pytest.raises(JobNotKnown):
        client.watch(before.job)
    before.assert_untouched(client)
    before.assert_bought_once(client, client.run(PROMPT, draw=True, commit_window=WINDOW, max_output_tokens=TOKENS))


@pytest.mark.slow
def test_client_that_asks_something_else_after_it_was_killed_loses_neither_prompt(
    town: Town, connect: Connect, tmp_path: Path, looking: Client
) -> None:
    """The post on disk takes its number first."""
    before = Books.of(looking, town.providers)
    kill_at(town, "post-persisted", tmp_path / "client")
    client = connect(tmp_path / "client")
    with ThreadPoolExecutor(1) as pool:
        with no_blocks(town):
            asking = pool.submit(client.run, "who sat", draw=True, commit_window=WINDOW, max_output_tokens=TOKENS)
            until(lambda: town.network.anvil.rpc("txpool_status")["pending"] != "0x0")
            time.sleep(0.5)  # whoever does not wait for the block takes the same number meanwhile
        other = asking.result(SECONDS)
    assert other.settled
    result = client.watch(before.job)
    assert (result.job_id, result.settled) == (before.job, True)
    assert other.job_id != before.job
    prompts = {entry.job_id: entry.prompt for entry in client.list()}
    assert prompts == {before.job: PROMPT, other.job_id: "who sat"}
    assert before.holdings - holdings(client) == result.paid + other.paid
    assert (count(client, "Settled", before.job), count(client, "Settled", other.job_id)) == (1, 1)
    assert sent_by(client) == before.sent + 6
