"""Whose answer the desk gives out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from eth_account import Account

from market.api import LogProbabilitiesBody
from market.chain import Block
from market.errors import BadSignature
from market.hashing import keccak256, tokens_root
from market.types import Finish, Mode, Output
from market.views import JobState, ReplicaState
from provider.catalogue import Served
from provider.chainside import Outlook
from provider.config import Limits
from provider.desk import Desk
from provider.errors import Refusal
from provider.journal import Journal
from provider.journal_cipher import JournalCipher
from provider.pricing import Ask
from provider.records import Stage
from tests.unit.provider import samples
from tests.unit.provider.fakes import FakeChain

JOB = keccak256(b"job")
IDS = (7, 8, 2)
OURS = Output(tokens_root(IDS), len(IDS), Finish.STOP)
THEIRS = keccak256(b"what the majority agreed on")
NOW = samples.NOW


class DeskChain(FakeChain):
    """FakeChain with the look that quotes are made by."""

    @property
    def outlook(self) -> Outlook:
        return Outlook(Block(1, "0x1", "0x0", self.time), self.staked, self.gas_price, 0.0)


class Counter:
    """A desk whose job was answered, revealed and settled; its request is public, so that no access is needed."""

    def __init__(self, path: Path) -> None:
        self.quote = samples.shop().quote(Ask(samples.CLIENT, Mode.QUORUM, samples.request()), samples.situation(), 7)
        self.chain = DeskChain(self.quote)
        self.journal = Journal(path, samples.OWNER)
        self.kicked: list[bytes] = []
        self.desk = Desk(
            self.chain,
            self.journal,
            samples.shop(),
            {},
            Account.from_key(b"\x01" * 32),
            load=lambda: 0,
            kick=self.kicked.append,
        )

    def answered(self) -> None:
        self.journal.add_job(
            JOB,
            client=samples.CLIENT,
            model_id=samples.MODEL_ID,
            request_hash=samples.request().request_hash,
            quote_digest=b"d" * 32,
            bond=1_000,
            commit_deadline=NOW + 60,
            now=NOW,
        )
        self.journal.mark_public(JOB)
        self.journal.record_answer(JOB, IDS, OURS, b"s" * 32, 12, NOW)

    def settled(self, *, agreed: bytes, paid: int, seen: bool) -> None:
        """`seen`: the node wrote the end down; else the desk asks the chain."""
        self.chain.change(state=JobState.SETTLED, output_hash=agreed, final_at=NOW)
        self.chain.mine = replace(self.chain.mine, state=ReplicaState.REVEALED, paid=paid)
        if seen:
            self.journal.advance(JOB, Stage.FINAL, NOW, outcome="SETTLED", paid=paid, final_at=NOW)


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    counter = Counter(tmp_path / "journal.sqlite")
    yield counter
    counter.journal.close()


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("paid", [13, 1])  # the price, the kill fee
def test_answer_that_was_paid_is_given_out(counter: Counter, paid: int, seen: bool) -> None:
    counter.answered()
    counter.settled(agreed=OURS.output_hash, paid=paid, seen=seen)
    delivered = counter.desk.output(JOB, None, b"")
    assert (delivered.ids, delivered.receipt.charged) == (IDS, paid)


@pytest.mark.parametrize("seen", [False, True])
def test_answer_that_a_majority_outvoted_is_kept_back(counter: Counter, seen: bool) -> None:
    """Sybils that agree on garbage paid nothing for the honest answer, and get nothing."""
    counter.answered()
    counter.settled(agreed=THEIRS, paid=0, seen=seen)
    with pytest.raises(Refusal) as caught:
        counter.desk.output(JOB, None, b"")
    assert (caught.value.code, caught.value.status) == ("NOT_PAID", 409)


@pytest.mark.parametrize("seen", [False, True])
def test_answer_of_a_free_job_is_given_out_where_it_is_the_agreed_one(counter: Counter, seen: bool) -> None:
    counter.answered()
    counter.settled(agreed=OURS.output_hash, paid=0, seen=seen)
    assert counter.desk.output(JOB, None, b"").ids == IDS


@pytest.mark.parametrize("state", [JobState.OPEN, JobState.REVEALING, JobState.EXPIRED, JobState.CANCELLED])
def test_answer_of_a_job_that_is_not_settled_is_kept_back(counter: Counter, state: JobState) -> None:
    counter.answered()
    counter.chain.change(state=state, output_hash=OURS.output_hash)
    with pytest.raises(Refusal, match="SETTLED"):
        counter.desk.output(JOB, None, b"")


def test_answer_of_a_private_job_needs_its_clients_signature(counter: Counter) -> None:
    counter.answered()
    counter.settled(agreed=OURS.output_hash, paid=13, seen=True)
    counter.journal._db.execute("UPDATE jobs SET public = 0")
    with pytest.raises(BadSignature):
        counter.desk.output(JOB, None, b"")


@pytest.mark.parametrize(("asked", "limit", "kept"), [(7, 20, 7), (7, 3, 3), (7, 0, 0), (0, 20, 0)])
def test_log_probabilities_are_noted_as_far_as_the_limit_allows(
    tmp_path: Path, asked: int, limit: int, kept: int
) -> None:
    quoted = Counter(tmp_path / "journal.sqlite")
    quoted.journal.add_quote(b"d" * 32, quoted.quote, b"s" * 65, NOW)
    served = SimpleNamespace(product=samples.PRODUCT, text=None)
    desk = Desk(
        quoted.chain,
        quoted.journal,
        samples.shop(limits=Limits(max_input_tokens=100, max_output_tokens=64, max_log_probabilities=limit)),
        {samples.MODEL_ID: cast(Served, served)},
        Account.from_key(b"\x01" * 32),
        load=lambda: 0,
        kick=quoted.kicked.append,
    )
    request = samples.request()
    desk.accept(request.request_hash, JOB, request, samples.IDS, None, asked)
    assert quoted.journal.log_probabilities_wanted(JOB) == kept
    assert quoted.kicked == [JOB]
    quoted.journal.close()


def test_log_probabilities_go_out_beside_the_answer_and_not_into_what_is_signed(counter: Counter) -> None:
    counter.journal.want_log_probabilities(JOB, 1)
    counter.answered()
    counter.settled(agreed=OURS.output_hash, paid=13, seen=True)
    without = counter.desk.output(JOB, None, b"")
    assert without.log_probabilities is None
    told = LogProbabilitiesBody(chosen=[-1, -2, -3], top_ids=[[7], [8], [2]], top=[[-1], [-2], [-3]])
    body = JournalCipher(samples.OWNER).log_probabilities(JOB, told.model_dump_json())
    counter.journal._db.execute("UPDATE log_probabilities SET body = ?", (body,))
    delivered = counter.desk.output(JOB, None, b"")
    assert delivered.log_probabilities == told
    assert (delivered.receipt, delivered.signature) == (without.receipt, without.signature)
