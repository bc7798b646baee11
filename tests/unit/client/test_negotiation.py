"""A provider that sends something wrong is left out by name; the job goes on without it or is refused."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest

from client.errors import NotEnoughProviders, PriceAboveCap
from market.models.pack import Pack, load_pack
from market.signing import Domain
from tests.unit.client.examples import DOMAIN, NOW, account
from tests.unit.client.market_of_one import Street, negotiate, quoting


@pytest.fixture(scope="module")
def pack(tiny_pack: Path) -> Pack:
    return load_pack(tiny_pack)


async def test_negotiation_with_honest_providers_chooses_as_many_as_wanted(pack: Pack, tmp_path: Path) -> None:
    street = Street({number: quoting(number) for number in range(5)})
    bargain = await negotiate(pack, street, tmp_path, count=5)
    assert len(bargain.report.chosen) == 3
    assert [item.constraint for item in bargain.report.left_out] == ["score", "score"]
    assert bargain.report.escrow == sum(quote.price for quote in bargain.report.chosen)
    assert len(street.asked) == 5
    assert all(b"the cat" not in asked.content for asked in street.asked)  # a quote needs no prompt


@pytest.mark.parametrize(
    ("bad", "constraint", "words"),
    [
        (quoting(0, Domain(1, DOMAIN.verifying_contract)), "signature", "not signed by it for chain 31337"),
        (quoting(0, Domain(31337, account(9).address)), "signature", "and contract 0x4444"),
        (quoting(0, valid_until=NOW - 1), "quote_expired", "its quote ends at"),
        (quoting(0, token=account(9).address), "token", "jobs are paid in"),
        (quoting(0, client=account(9).address), "quote_mismatch", "another client"),
        (quoting(0, bond=1), "bond", "is below the"),
        (quoting(0, bond=10**9), "stake", "does not cover the quoted bond"),
        (quoting(1), "quote_provider", "it sent a quote of"),
        (lambda asked: httpx.Response(200, text="not JSON"), "malformed", "malformed"),
        (lambda asked: httpx.Response(200, json={"quote": {}, "signature": "0x00"}), "malformed", "malformed at quote"),
        (lambda asked: httpx.Response(200, content=b" " * (2 << 20)), "too_large", "larger than"),
        (lambda asked: httpx.Response(302, headers={"location": "http://127.0.0.1:9001/"}), "HTTP_302", "302"),
        (lambda asked: httpx.Response(500, text="<html>"), "HTTP_500", "500"),
        (
            lambda asked: httpx.Response(
                429, json={"error": {"code": "OVERLOADED", "message": "busy \x1b[31mnow", "details": {}}}
            ),
            "OVERLOADED",
            "it refused: busy  [31mnow",
        ),
    ],
)
async def test_negotiation_leaves_out_a_provider_that_answers_wrongly(
    pack: Pack, tmp_path: Path, bad, constraint: str, words: str
) -> None:
    street = Street({0: bad} | {number: quoting(number) for number in (1, 2, 3)})
    bargain = await negotiate(pack, street, tmp_path, count=4)
    assert {quote.provider for quote in bargain.report.chosen} == {account(n).address for n in (1, 2, 3)}
    (left_out,) = bargain.report.left_out
    assert (left_out.provider, left_out.stage, left_out.constraint) == (account(0).address, "negotiation", constraint)
    assert words in left_out.message

    with pytest.raises(NotEnoughProviders) as caught:
        await negotiate(pack, street, tmp_path, count=3)
    assert words in caught.value.message
    assert "Nothing was spent" in caught.value.hint


async def test_negotiation_with_a_dead_and_a_slow_provider_names_both(pack: Pack, tmp_path: Path) -> None:
    async def sleep(asked: httpx.Request) -> httpx.Response:
        await anyio.sleep(30)
        return httpx.Response(200)

    class Slow(Street):
        async def __call__(self, asked: httpx.Request) -> httpx.Response:  # type: ignore[override]
            return await sleep(asked) if asked.url.port == 9001 else super().__call__(asked)

    with pytest.raises(NotEnoughProviders) as caught:
        await negotiate(pack, Slow({2: quoting(2)}), tmp_path)
    reasons = {item["provider"]: item["constraint"] for item in caught.value.details["left_out"]}
    assert reasons == {account(0).address.lower(): "unreachable", account(1).address.lower(): "timeout"}


async def test_negotiation_with_quotes_above_the_cap_names_the_cheapest(pack: Pack, tmp_path: Path) -> None:
    # the list price fits the cap, the quotes do not: the cap holds against what binds
    street = Street({number: quoting(number, base_fee=500 + number, bond=5000, miss_fee=900) for number in range(3)})
    with pytest.raises(NotEnoughProviders, match="it quotes") as caught:
        await negotiate(pack, street, tmp_path, max_price=200)
    assert "The cheapest above your cap asks" in caught.value.hint
    with pytest.raises(PriceAboveCap) as dear:
        await negotiate(pack, street, tmp_path, max_escrow=1000)
    assert dear.value.details["cap"] == 1000


async def test_negotiation_leaves_out_a_used_quote(pack: Pack, tmp_path: Path) -> None:
    street = Street({number: quoting(number) for number in range(4)})
    first = await negotiate(pack, street, tmp_path, count=4, replicas=4, quorum=3)
    used = frozenset({first.report.chosen[0].digest})
    second = await negotiate(pack, street, tmp_path, count=4, used=used)
    assert [item.constraint for item in second.report.left_out] == ["quote_used"]


async def test_negotiation_of_one_seed_is_repeatable(pack: Pack, tmp_path: Path) -> None:
    street = Street({number: quoting(number) for number in range(6)})
    seeds = [bytes([n]) * 32 for n in range(8)]
    choices = []
    for seed in seeds:
        bargain = await negotiate(pack, street, tmp_path, count=6, selection_seed=seed)
        assert bargain.report.selection_seed == seed
        choices.append(frozenset(quote.provider for quote in bargain.report.chosen))
    assert len(set(choices)) > 1
