"""A job's life as data: what Hypothesis draws, and a player that yields after every transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

from market.types import Mode, Output
from tests.unit.contracts.world import CLIENT, REPLICAS, STRANGER, PostedJob, World, answer

RIGHT, WRONG = answer(), answer("wrong")


@dataclass(frozen=True)
class Part:
    """What one replica does. `answer` None = it never commits."""

    answer: Output | None
    reveals: str  # "in time", "late" or "never"


@dataclass(frozen=True)
class Plan:
    """A job: the client cancels before the first commit, or each replica plays its part."""

    cancelled: bool
    parts: tuple[Part, ...]
    terms: dict[str, int]

    @property
    def quorum(self) -> int:
        return len(self.parts) // 2 + 1


parts = st.builds(
    Part,
    answer=st.sampled_from([RIGHT, RIGHT, RIGHT, WRONG, None]),
    reveals=st.sampled_from(["in time", "in time", "in time", "late", "never"]),
)
plans = st.builds(
    Plan,
    cancelled=st.integers(0, 7).map(lambda draw: draw == 7),
    parts=st.lists(parts, min_size=2, max_size=7).map(tuple),
    terms=st.fixed_dictionaries(
        {
            "base_fee": st.integers(0, 5_000),
            "price_per_m_input": st.integers(0, 10**9),
            "price_per_m_output": st.integers(0, 10**8),
            "kill_fee": st.integers(0, 5_000),
            "miss_fee": st.integers(50_000, 60_000),
            "bond": st.integers(2_000_000, 3_000_000),
        }
    ).map(lambda terms: terms | {"kill_fee": min(terms["kill_fee"], terms["base_fee"])}),
)


def play(world: World, plan: Plan) -> Iterator[PostedJob]:
    """Plays the plan to a final state; silence is waited out. Yields the job after each transaction."""
    count = len(plan.parts)
    job = world.post(count, quorum=plan.quorum, mode=Mode.QUORUM, terms=plan.terms)
    yield job
    if plan.cancelled:
        world.jobs.cancel(job.id, sender=CLIENT.address)
        yield job
        return
    committed = [(p, part) for p, part in zip(REPLICAS, plan.parts, strict=False) if part.answer is not None]
    for provider, part in committed:
        assert part.answer is not None
        world.commit(job, (provider, part.answer))
        yield job
    if len(committed) < count:
        world.chain.now = world.job(job)["commitDeadline"] + 1
    if len(committed) >= plan.quorum:
        yield from _reveal(world, job, committed)
    world.settle(job, STRANGER)
    yield job


def _reveal(world: World, job: PostedJob, committed: list[tuple[object, Part]]) -> Iterator[PostedJob]:
    for provider, part in committed:
        if part.reveals == "in time":
            world.reveal(job, (provider, part.answer))  # type: ignore[arg-type]
            yield job
    view = world.job(job)
    if view["revealed"] == view["committed"]:
        return
    end = view["revealDeadline"] or view["commitDeadline"] + view["revealWindow"]
    world.chain.now = end + 1
    for provider, part in committed:
        if part.reveals == "late" and part.answer is not None and part.answer.output_hash == view["outputHash"]:
            world.reveal(job, (provider, part.answer))  # type: ignore[arg-type]
            yield job
