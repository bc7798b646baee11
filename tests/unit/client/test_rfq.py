import time

import anyio

from client.matching import Candidate, LeftOut
from client.rfq import RfqPolicy, gather_quotes
from client.selection import VerifiedQuote
from tests.unit.client.examples import account, candidate, verified

NUMBER = {account(n).address: n for n in range(30)}
QUICK = RfqPolicy(width=4, most=8, timeout=1.2, hedge_after=0.1, grace=0.05)


class Providers:
    """Providers that answer after so many seconds; None = refuses at once."""

    def __init__(self, delays: dict[int, float | None]) -> None:
        self.delays = delays
        self.asked: list[int] = []

    async def ask(self, asked: Candidate) -> VerifiedQuote | LeftOut:
        number = NUMBER[asked.provider]
        self.asked.append(number)
        delay = self.delays.get(number, 0.0)
        if delay is None:
            return LeftOut(asked.provider, asked.endpoint, "negotiation", "OVERLOADED", "it is busy")
        await anyio.sleep(delay)
        return verified(number)


async def gather(providers: Providers, count: int, enough: int):  # type: ignore[no-untyped-def]
    begin = time.monotonic()
    quotes, left_out = await gather_quotes(
        [candidate(n) for n in range(count)], providers.ask, enough=enough, policy=QUICK
    )
    reasons = {NUMBER[item.provider]: item.constraint for item in left_out}
    return [NUMBER[q.provider] for q in quotes], reasons, time.monotonic() - begin


async def test_rfq_asks_in_parallel_and_stops_when_all_have_answered() -> None:
    quotes, reasons, seconds = await gather(Providers(dict.fromkeys(range(3), 0.3)), 3, 3)
    assert quotes == [0, 1, 2]
    assert not reasons
    assert seconds < 0.85  # one after the other would take 0.9


async def test_rfq_silent_provider_ends_at_the_hard_time_out() -> None:
    quotes, reasons, seconds = await gather(Providers({1: 60}), 2, 2)
    assert quotes == [0]
    assert reasons == {1: "timeout"}
    assert 1.15 < seconds < 3


async def test_rfq_refusal_is_replaced_by_the_next_provider() -> None:
    providers = Providers({0: None, 1: None})
    quotes, reasons, seconds = await gather(providers, 6, 4)
    assert quotes == [2, 3, 4, 5]
    assert reasons == {0: "OVERLOADED", 1: "OVERLOADED"}
    assert seconds < 1.1


async def test_rfq_slow_provider_is_hedged_by_the_next() -> None:
    providers = Providers({3: 60})
    quotes, reasons, seconds = await gather(providers, 6, 4)
    assert quotes == [0, 1, 2, 4]
    assert reasons == {3: "timeout", 5: "not_asked"}
    assert providers.asked == [0, 1, 2, 3, 4]
    assert seconds < 1.1


async def test_rfq_with_enough_quotes_waits_only_the_grace_for_the_rest() -> None:
    quotes, reasons, seconds = await gather(Providers({2: 0.02, 3: 60}), 4, 2)
    assert quotes == [0, 1, 2]
    assert reasons == {3: "timeout"}
    assert seconds < 1.1


async def test_rfq_never_asks_more_than_the_limit() -> None:
    providers = Providers(dict.fromkeys(range(20)))
    quotes, reasons, _ = await gather(providers, 20, 3)
    assert not quotes
    assert sorted(providers.asked) == list(range(8))
    assert list(reasons.values()).count("not_asked") == 12


async def test_rfq_without_candidates_returns_at_once() -> None:
    assert (await gather(Providers({}), 0, 3))[:2] == ([], {})
