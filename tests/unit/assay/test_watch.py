"""What a watcher keeps, and what shows that it worked."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.watch import keyed_root
from assay.watch_cli import share
from assay.watch_store import Audit, WatchStore
from client.errors import BadRequest
from market.errors import ConfigError
from market.events import Event, Mark, Rewind
from market.hashing import keccak256, pack_stop_tokens, pack_tokens, tokens_root
from market.types import Output, Request

JOB, PROVIDER = b"\1" * 32, "0x" + "11" * 20
INPUT, OUTPUT = (5, 6, 7), (8, 9)
REQUEST = Request(b"\2" * 32, tokens_root(INPUT), 3, 4, pack_stop_tokens([2]), 0, 0, 0, 0, bytes(32), bytes(32))
ANSWER = Output(tokens_root(OUTPUT), 2, 2)


def event(name: str, block: int, **args: object) -> Event:
    return Event(name, {"jobId": JOB, **args}, PROVIDER, block, "0x", "0x", 0)


def struct(value: Request | Output) -> dict[str, object]:
    return {name: getattr(value, attribute) for attribute, name, _ in value.members()}


def published(block: int) -> list[Event | Rewind]:
    return [
        event("RequestPublished", block, request=struct(REQUEST), ids=pack_tokens(INPUT)),
        event("Revealed", block + 1, provider=PROVIDER, output=struct(ANSWER)),
        event("OutputPublished", block + 2, provider=PROVIDER, output=struct(ANSWER), ids=pack_tokens(OUTPUT)),
    ]


def opened(path: Path, market: str = "31337:jobs") -> WatchStore:
    return WatchStore(path / "watch.sqlite", market)


def test_answer_is_unseen_once_prompt_and_output_are_public_and_until_it_was_audited(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first, second, third = published(10)
    store.take([first, second])
    assert store.unseen() == []
    store.take([third])
    assert store.unseen() == [(JOB, PROVIDER, 12)]
    assert store.request(JOB) == (REQUEST, INPUT)
    assert store.output(JOB, PROVIDER) == ANSWER
    assert store.ids(JOB, PROVIDER) == OUTPUT
    store.put(Audit(JOB, PROVIDER, "right", b"\3" * 32), 12, 1_000)
    store.close()
    again = opened(tmp_path)
    assert again.unseen() == []
    assert again.audits("right") == [Audit(JOB, PROVIDER, "right", b"\3" * 32)]
    again.close()


def test_look_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    store = opened(tmp_path)

    def look() -> None:
        with store.once():
            store.take(published(10))
            store.save([Mark(12, "0xabc")])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        look()
    assert store.unseen() == []
    assert store.load() == []
    with store.once():
        store.take(published(10))
        store.save([Mark(12, "0xabc")])
    assert store.load() == [Mark(12, "0xabc")]
    store.close()


def test_disagreement_is_told_until_every_replica_was_judged(tmp_path: Path) -> None:
    """Also one that was passed over as not drawn; jobs whose replicas agree, or whose prompt is private, are none."""
    store, other = opened(tmp_path), "0x" + "33" * 20
    asked, revealed, shown = published(10)
    store.take([revealed, event("Revealed", 12, provider=other, output=struct(ANSWER))])
    assert store.disagreements() == []  # they agree, and nobody knows about what
    store.take([asked])
    assert store.disagreements() == []
    store.take([event("Revealed", 13, provider=other, output=struct(Output(tokens_root((9, 9)), 2, 2)))])
    assert store.disagreements() == [(JOB, 13)]
    store.put(Audit(JOB, PROVIDER, "right"), 13, 1_000)
    assert store.disagreements() == [(JOB, 13)]
    store.put(Audit(JOB, other, "skipped"), 13, 1_000)
    assert store.disagreements() == [(JOB, 13)]
    store.put(Audit(JOB, other, "hidden"), 13, 1_000)
    assert store.disagreements() == []
    assert store.audit(JOB, other) == Audit(JOB, other, "hidden")
    store.take([shown])
    assert store.unseen() == []  # it was judged already
    store.close()


def test_reorganisation_takes_answers_back_but_never_what_was_spent(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.take(published(10))
    store.put(Audit(JOB, PROVIDER, "disputed", None, b"\4" * 32, wei=7), 12, 1_000)
    store.take([Rewind(9)])
    assert store.request(JOB) is None
    assert store.spent_since(0) == 7
    assert store.spent_since(1_001) == 0
    store.put(Audit(JOB, PROVIDER, "right"), 12, 1_000)
    store.take([Rewind(9), *published(10)])
    assert store.unseen() == [(JOB, PROVIDER, 12)]  # it is looked at again
    store.close()


def test_record_of_another_market_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    store = opened(tmp_path)
    secret = store.secret
    store.close()
    with pytest.raises(ConfigError, match="another market"):
        opened(tmp_path, "1:jobs")
    store = opened(tmp_path)
    assert store.secret == secret
    assert len(secret) == 32
    store.close()


def test_keyed_root_is_worth_nothing_to_another_watcher() -> None:
    root = keccak256(b"trace")
    mine = keyed_root(PROVIDER, root)
    assert mine == keccak256(b"assay watch" + b"\x11" * 20 + root)
    assert keyed_root("0x" + "22" * 20, root) != mine
    assert keyed_root(PROVIDER, keccak256(b"other")) != mine


@pytest.mark.parametrize("text", ["", "x", "1.1", "-0.1", "nan", "inf"])
def test_rate_is_a_share(text: str) -> None:
    with pytest.raises(BadRequest):
        share(text)
    assert share("0.25") * 4 == 1
