from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf

import anyio
import anyio.lowlevel

from client.matching import Candidate, LeftOut
from client.rfq import RfqPolicy, gather_quotes
from client.selection import VerifiedQuote
from tests.unit.client.examples import account, candidate, verified

NUMBER: dict[str, int] = {account(n).address: n for n in range(30)}
PATIENT = RfqPolicy(width=4, most=8, timeout=600, hedge_after=0.4, grace=0.4)
"""Its hard time-out is longer than LIMIT: what ends, ended for another reason."""
HASTY = RfqPolicy(width=4, most=8, timeout=1.0, hedge_after=600, grace=600)
"""Only the hard time-out ends its waiting."""
LIMIT = 60.0

Behaviour = Callable[[], Awaitable[None]]


class Refusing(Exception):
    """The provider says no at once."""


async def refuse() -> None:
    raise Refusing


class Providers:
    """Providers that answer at once unless `behaviours` says what they do before."""

    def __init__(self, behaviours: dict[int, Behaviour]) -> None:
        self.behaviours = behaviours
        self.asked: list[int] = []
        self.answered: list[int] = []

    async def ask(self, asked: Candidate) -> VerifiedQuote | LeftOut:
        number = NUMBER[asked.provider]
        self.asked.append(number)
        try:
            await self.behaviours.get(number, anyio.lowlevel.checkpoint)()
        except Refusing:
            return LeftOut(asked.provider, asked.endpoint, "negotiation", "OVERLOADED", "it is busy")
        self.answered.append(number)
        return verified(number)


async def gather(
    providers: Providers, count: int, enough: int, policy: RfqPolicy = PATIENT
) -> tuple[list[int], dict[int, str], list[LeftOut]]:
    with anyio.fail_after(LIMIT if policy is PATIENT else inf):
        quotes, left_out = await gather_quotes(
            [candidate(n) for n in range(count)], providers.ask, enough=enough, policy=policy
        )
    reasons = {NUMBER[item.provider]: item.constraint for item in left_out}
    return [NUMBER[q.provider] for q in quotes], reasons, left_out


async def test_rfq_asks_in_parallel_and_stops_when_all_have_answered() -> None:
    providers = Providers({})

    async def wait_for_the_others() -> None:
        while len(providers.asked) < 3:  # one after the other would wait for ever
            await anyio.lowlevel.checkpoint()

    providers.behaviours = dict.fromkeys(range(3), wait_for_the_others)
    quotes, reasons, _ = await gather(providers, 3, 3)
    assert quotes == [0, 1, 2]
    assert not reasons


async def test_rfq_silent_provider_ends_at_the_hard_time_out() -> None:
    quotes, reasons, left_out = await gather(Providers({1: anyio.sleep_forever}), 2, 2, HASTY)
    assert quotes == [0]
    assert reasons == {1: "timeout"}
    assert left_out[0].message == "it did not answer within 1000 ms"


async def test_rfq_refusal_is_replaced_by_the_next_provider() -> None:
    quotes, reasons, _ = await gather(Providers({0: refuse, 1: refuse}), 6, 4)
    assert quotes == [2, 3, 4, 5]
    assert reasons == {0: "OVERLOADED", 1: "OVERLOADED"}


async def test_rfq_slow_provider_is_hedged_by_the_next() -> None:
    providers = Providers({3: anyio.sleep_forever})
    quotes, reasons, _ = await gather(providers, 6, 4)
    assert quotes == [0, 1, 2, 4]
    assert reasons == {3: "timeout", 5: "not_asked"}
    assert providers.asked == [0, 1, 2, 3, 4]


async def test_rfq_with_enough_quotes_waits_only_the_grace_for_the_rest() -> None:
    providers = Providers({3: anyio.sleep_forever})

    async def wait_for_enough() -> None:
        while len(providers.answered) < 2:
            await anyio.lowlevel.checkpoint()

    providers.behaviours[2] = wait_for_enough
    quotes, reasons, left_out = await gather(providers, 4, 2)
    assert quotes == [0, 1, 2]
    assert reasons == {3: "timeout"}
    assert left_out[0].message.startswith("it had not answered 400 ms after")


async def test_rfq_never_asks_more_than_the_limit() -> None:
    providers = Providers(dict.fromkeys(range(20), refuse))
    quotes, reasons, _ = await gather(providers, 20, 3)
    assert not quotes
    assert sorted(providers.asked) == list(range(8))
    assert list(reasons.values()).count("not_asked") == 12


async def test_rfq_without_candidates_returns_at_once() -> None:
    assert (await gather(Providers({}), 0, 3))[:2] == ([], {})
