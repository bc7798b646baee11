"""Jobs from prompt to money, on a real chain with real providers."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from client import Client, JobOptions, JobResult, Progress
from client.errors import BadRequest, JobCancelled, NoAgreement
from client.steps import STEPS
from client.store import JobRecord, StoredQuote
from market.inference import reference, reference_sampling
from market.inference.engine import load_engine
from market.inference.log_probabilities import recomputed
from market.inference.sampling import Sampling
from market.models.pack import load_pack
from market.models.text import Text
from market.receipts import verify_receipt
from market.types import Mode
from market.views import JobState
from tests.integration.client.conftest import UNUSED_ACCOUNT, Connect, Town

PROMPT = "the cat sat"


@pytest.fixture
def honest(town: Town) -> JobOptions:
    """A short answer from the three honest providers."""
    return JobOptions(allow=frozenset(town.honest), max_output_tokens=6)


def holdings(client: Client) -> int:
    balance = client.balance()
    return balance.wallet + balance.credit


class AtText:
    """Does something once when progress says so."""

    def __init__(self, text: str, act) -> None:  # type: ignore[no-untyped-def]
        self._text = text
        self._act = act
        self.seen: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if self._act is not None and self._text in progress.text:
            act, self._act = self._act, None
            threading.Thread(target=act).start()


def test_job_with_three_honest_providers_ends_with_the_agreed_answer(
    client: Client, honest: JobOptions, tiny_pack: Path
) -> None:
    before = holdings(client)
    seen: list[Progress] = []
    result = client.run(PROMPT, options=honest, max_output_tokens=12, progress=seen.append)
    assert result.state is JobState.SETTLED
    text = Text((tiny_pack / "tokenizer.json").read_bytes(), (tiny_pack / "template.jinja").read_bytes())
    assert result.answer == text.decode(result.ids)
    assert 1 <= len(result.ids) <= 12
    assert {replica.role for replica in result.providers} == {"agreed"}
    assert {replica.address for replica in result.providers} == honest.allow
    assert result.paid == sum(replica.paid for replica in result.providers) > 0
    assert result.escrow == result.paid + result.refunded
    assert before - holdings(client) == result.paid
    assert set(result.steps_ms) == set(STEPS)
    assert result.steps_ms["total"] > result.steps_ms["inference"] > 0
    assert set(result.gas) > {"Jobs.post", "Jobs.settle"}
    assert len(result.gas) == 8
    assert {progress.step for progress in seen} >= {
        "discovery",
        "matching",
        "negotiation",
        "distribution",
        "settlement",
    }
    result.raise_for_state()


def test_job_receipts_verify_from_their_json_alone(client: Client, honest: JobOptions) -> None:
    result = client.run(PROMPT, options=honest)
    assert len(result.receipts) == 3
    for ended in (result, client.show(result.job_id)):
        for document in json.loads(json.dumps(ended.to_json()))["receipts"]:
            read = verify_receipt(document)
            assert read.domain == client.marketplace.jobs.domain
            assert read.receipt.subject_id == result.job_id
            assert read.ids == result.ids
        assert {receipt.provider for receipt in ended.receipts} == {part.address for part in result.providers}


def test_job_from_ids_with_one_provider_and_mode_none_is_paid_on_delivery(client: Client, honest: JobOptions) -> None:
    result = client.run(ids=[5, 6, 7], options=honest, mode=Mode.NONE, replicas=1, quorum=1, max_output_tokens=4)
    assert [replica.role for replica in result.providers] == ["agreed"]
    assert result.settled


def test_job_of_one_prompt_twice_gives_the_same_ids(client: Client, honest: JobOptions) -> None:
    alone = dataclasses.replace(honest, replicas=1, quorum=1, mode=Mode.NONE)
    assert client.run(PROMPT, options=alone).ids == client.run(PROMPT, options=alone).ids


def test_job_sampled_by_its_seed_is_agreed_on_by_all_and_can_be_asked_again(
    client: Client, honest: JobOptions, tiny_pack: Path
) -> None:
    options = dataclasses.replace(honest, temperature="1.5", top_k=200, top_p="0.95", max_output_tokens=12)
    result = client.run(PROMPT, options=options)
    assert {replica.role for replica in result.providers} == {"agreed"}
    chosen = result.sampling
    assert chosen is not None
    assert chosen.to_json() | {"seed": ""} == {
        "sampler": "seeded_by_request",
        "temperature": "1.5",
        "temperature_q16": 98304,
        "top_k": 200,
        "top_p": "0.95",
        "top_p_q16": 62259,
        "seed": "",
    }
    assert client.show(result.job_id).sampling == chosen
    model = load_pack(tiny_pack)
    text = Text((tiny_pack / "tokenizer.json").read_bytes(), (tiny_pack / "template.jinja").read_bytes())
    prompt = text.encode_chat([{"role": "user", "content": PROMPT}])
    sampling = Sampling(98304, 200, 62259, chosen.seed)
    expected = reference.generate(
        model.model,
        prompt,
        12,
        model.limits.stop_tokens,
        lambda logits, position: reference_sampling.pick(logits, position, sampling, model.model.tables),
    )
    assert list(result.ids) == expected
    alone = dataclasses.replace(options, replicas=1, quorum=1, mode=Mode.NONE)
    assert client.run(PROMPT, options=alone, seed=chosen.seed).ids == result.ids
    others = [client.run(PROMPT, options=alone, seed=bytes([n]) * 32).ids for n in range(2)]
    assert any(ids != result.ids for ids in others)


def test_job_seeded_by_the_chain_is_told_its_seed_and_comes_out_otherwise_the_next_time(
    connect: Connect, honest: JobOptions
) -> None:
    client = connect()
    options = dataclasses.replace(honest, temperature="3", seed_by_chain=True, max_output_tokens=12)
    assert client.quote(PROMPT, options=options).sampling.to_json()["seed"] is None
    first, second = (client.run(PROMPT, options=options) for _ in range(2))
    for result in (first, second):
        assert {replica.role for replica in result.providers} == {"agreed"}
        assert result.sampling is not None
        seed = client.marketplace.jobs.seed_of(result.job_id)
        assert seed.is_fixed
        assert result.sampling.seed == seed.seed
        assert client.show(result.job_id).to_json()["sampling"]["seed"] == "0x" + seed.seed.hex()
        record = client.store.get(result.job_id)
        assert record is not None
        assert record.request.seed == bytes(32)
    assert first.ids != second.ids
    alone = dataclasses.replace(options, seed_by_chain=False, replicas=1, quorum=1, mode=Mode.NONE)
    assert first.sampling is not None
    assert client.run(PROMPT, options=alone, seed=first.sampling.seed).ids == first.ids


def test_job_with_log_probabilities_tells_what_anybody_can_recompute(
    connect: Connect, honest: JobOptions, tiny_pack: Path
) -> None:
    client = connect()
    plain = client.run(PROMPT, options=honest)
    assert plain.log_probabilities == ()
    posted = client.post(PROMPT, options=honest, log_probabilities=3)
    result = client.watch(posted.job_id)  # what was asked for survives a restart
    assert result.ids == plain.ids
    assert result.problems == ()  # three providers told the same
    pack = load_pack(tiny_pack)
    text = Text((tiny_pack / "tokenizer.json").read_bytes(), (tiny_pack / "template.jinja").read_bytes())
    prompt = text.encode_chat([{"role": "user", "content": PROMPT}])
    expected = recomputed(load_engine(pack, threads=1), prompt, result.ids, 3)
    assert [(told.chosen.id, told.chosen.ln_q16) for told in result.log_probabilities] == [
        (each.chosen.token, each.chosen.value_q16) for each in expected
    ]
    assert [[(each.id, each.ln_q16) for each in told.top] for told in result.log_probabilities] == [
        [(each.token, each.value_q16) for each in one.top] for one in expected
    ]
    assert [told.chosen.text for told in result.log_probabilities] == [
        text.decode([token], keep_special=True) for token in result.ids
    ]
    shown = client.show(result.job_id)
    assert shown.log_probabilities == result.log_probabilities
    assert json.loads(json.dumps(shown.to_json()))["log_probabilities"][0]["chosen"]["id"] == result.ids[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log_probabilities": 21}, "up to 20"),
        ({"log_probabilities": -1}, "up to 20"),
        ({"log_probabilities": 20, "max_output_tokens": 2049}, "an answer holds 43008"),
        ({"log_probabilities": 1, "draw": True, "allow": frozenset()}, "--logprobs"),
    ],
)
def test_log_probabilities_that_cannot_be_told_are_refused_before_anybody_is_asked(
    client: Client, honest: JobOptions, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        client.quote(PROMPT, options=dataclasses.replace(honest, **changes))


def test_job_with_a_stop_string_is_cut_here_and_nowhere_else(connect: Connect, honest: JobOptions) -> None:
    client = connect()
    alone = dataclasses.replace(honest, replicas=1, quorum=1, mode=Mode.NONE, max_output_tokens=12)
    whole = client.run(PROMPT, options=alone)
    assert whole.answer is not None
    assert whole.stop_string is None
    stop = whole.answer[3:6]
    posted = client.post(PROMPT, options=alone, stop_strings=("never said", stop))
    cut = client.watch(posted.job_id)
    assert cut.answer == whole.answer[: whole.answer.find(stop)]
    assert (cut.stop_string, cut.ids, cut.finish) == (stop, whole.ids, whole.finish)
    assert client.show(posted.job_id).answer == cut.answer
    verify_receipt(json.loads(json.dumps(cut.receipts[0].to_json())))


def test_job_posted_and_watched_by_another_process_goes_on_to_its_answer(
    connect: Connect, honest: JobOptions, tmp_path: Path
) -> None:
    first = connect(tmp_path / "one")
    posted = first.post(PROMPT, options=honest)
    first.close()
    second = connect(tmp_path / "one")
    assert [job.job_id for job in second.list()] == [posted.job_id]
    result = second.watch("0x" + posted.job_id.hex()[:10])
    assert result.settled
    assert result.answer is not None
    again = second.watch(posted.job_id)
    assert again.ids == result.ids
    assert second.show(posted.job_id).answer == result.answer


def test_job_watched_with_another_key_in_the_same_folder_keeps_its_prompt(
    connect: Connect, town: Town, honest: JobOptions, tmp_path: Path
) -> None:
    """Nothing is delivered anew in its name, and nothing of its record is lost."""
    first = connect(tmp_path / "one")
    posted = first.post(PROMPT, options=honest)
    first.close()
    other = connect(tmp_path / "one", account=town.network.anvil.accounts[UNUSED_ACCOUNT])
    result = other.watch(posted.job_id)
    assert (result.settled, result.answer, result.sampling) == (True, None, None)
    assert any("encrypted under the key of" in problem for problem in other.show(posted.job_id).problems)
    (listed,) = other.list()
    assert (listed.is_encrypted, listed.prompt, listed.answer) == (True, "", None)
    other.close()
    again = connect(tmp_path / "one")
    assert [job.prompt for job in again.list()] == [PROMPT]
    assert again.watch(posted.job_id).answer is not None
    assert again.show(posted.job_id).problems == ()


def test_job_watched_from_a_machine_without_its_record_still_gives_the_answer(
    connect: Connect, honest: JobOptions, tmp_path: Path
) -> None:
    result = connect(tmp_path / "one").run(PROMPT, options=honest)
    elsewhere = connect(tmp_path / "two").watch(result.job_id)
    assert (elsewhere.ids, elsewhere.answer) == (result.ids, result.answer)


def test_job_prepared_but_never_sent_is_reported_as_costing_nothing(client: Client, honest: JobOptions) -> None:
    offered = client.negotiate(PROMPT, options=honest)
    bargain = offered.bargain
    record = JobRecord(
        job_id=b"\7" * 32,
        client=client.address,
        created_at=1,
        mode=Mode.QUORUM,
        quorum=2,
        commit_window=60,
        reveal_window=60,
        request=bargain.request,
        ids=bargain.ids,
        messages=bargain.prompt.messages,
        quotes=tuple(StoredQuote(q.quote, q.signature, q.endpoint) for q in bargain.report.chosen),
        selection_seed=bargain.report.selection_seed,
    )
    client.store.put(record)
    with pytest.raises(Exception, match="never posted, so nothing was spent") as caught:
        client.watch(record.job_id)
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_job_with_a_liar_pays_the_two_that_agree_and_not_the_liar(client: Client, town: Town) -> None:
    liar = town.adversary("liar")
    result = client.run(PROMPT, max_output_tokens=6, allow=frozenset({*town.honest[:2], liar}))
    roles = {replica.address: (replica.role, replica.paid) for replica in result.providers}
    assert roles.pop(liar) == ("disagreed", 0)
    assert {role for role, _ in roles.values()} == {"agreed"}
    assert liar not in {signed.provider for signed in result.receipts}


def test_job_without_agreement_expires_and_the_escrow_comes_back(client: Client, town: Town) -> None:
    before = holdings(client)
    pair = frozenset({town.adversary("liar"), town.honest[0]})
    result = client.run(PROMPT, max_output_tokens=6, replicas=2, quorum=2, allow=pair)
    assert result.state is JobState.EXPIRED
    assert (result.answer, result.paid, result.refunded) == (None, 0, result.escrow)
    assert {replica.role for replica in result.providers} == {"disagreed"}
    assert holdings(client) == before
    assert result.exit_code == 5
    with pytest.raises(NoAgreement, match="came back as credit"):
        result.raise_for_state()


def test_job_with_a_mute_replica_is_settled_after_the_reveal_window(client: Client, town: Town) -> None:
    mute = town.adversary("mute")
    passed = AtText("2 of 3 revealed", lambda: town.pass_time(61))
    result = client.run(PROMPT, max_output_tokens=6, allow=frozenset({*town.honest[:2], mute}), progress=passed)
    roles = {replica.address: (replica.role, replica.paid) for replica in result.providers}
    assert result.settled
    assert roles[mute] == ("missed", 0)
    client.index.sync()
    assert {offer.provider: offer.jobs_missed for offer in client.index.offers(result.model_id)}[mute] == 1


def test_job_with_a_replica_that_never_commits_is_settled_after_the_commit_window(
    client: Client, town: Town, honest: JobOptions
) -> None:
    offered = client.negotiate(PROMPT, options=honest)
    with town.frozen(0):
        passed = AtText("2 of 3 committed", lambda: town.pass_time(121))
        result = client.run(offered=offered, progress=passed)
    roles = {replica.address: (replica.role, replica.status, replica.paid) for replica in result.providers}
    assert result.settled
    assert roles[town.providers[0]] == ("refused", "assigned", 0)
    assert result.refunded >= result.escrow // 3
    assert any("2 are enough" in progress.text for progress in passed.seen)


def test_job_that_nobody_takes_expires_and_the_whole_escrow_comes_back(
    client: Client, town: Town, honest: JobOptions
) -> None:
    before = holdings(client)
    offered = client.negotiate(PROMPT, options=honest, commit_window=30, reveal_window=30)
    with town.frozen(0, 1, 2):
        passed = AtText("0 of 3 committed", lambda: town.pass_time(31))
        result = client.run(offered=offered, progress=passed)
    assert result.state is JobState.EXPIRED
    assert result.refunded == result.escrow
    assert {replica.role for replica in result.providers} == {"refused"}
    assert any("0 of 3 providers hold the prompt, 2 are needed" in progress.text for progress in passed.seen)
    assert holdings(client) == before


def test_job_cancelled_before_the_first_commit_costs_the_kill_fee_only(
    client: Client, town: Town, honest: JobOptions
) -> None:
    before = holdings(client)
    offered = client.negotiate(PROMPT, options=honest, replicas=1, quorum=1, mode=Mode.NONE)
    kill_fee = offered.report.chosen[0].quote.kill_fee
    with town.frozen(0, 1, 2):
        posted = client.post(offered=offered)
        assert posted.state is JobState.OPEN
        assert client.balance().escrowed == posted.escrow
        result = client.cancel(posted.job_id)
    assert result.state is JobState.CANCELLED
    assert (result.paid, result.refunded) == (kill_fee, posted.escrow - kill_fee)
    assert holdings(client) == before - kill_fee
    with pytest.raises(JobCancelled):
        result.raise_for_state()
    withdrawn = client.withdraw()
    assert withdrawn.amount >= result.refunded
    assert client.balance().credit == 0


def test_jobs_posted_at_once_from_many_threads_each_get_their_own_answer(client: Client, honest: JobOptions) -> None:
    def buy(number: int) -> JobResult:
        alone = dataclasses.replace(honest, replicas=1, quorum=1, mode=Mode.NONE, max_output_tokens=3)
        return client.run(ids=[number + 3], options=alone)

    before = client.marketplace.jobs.client_nonce(client.address)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(buy, range(4)))
    assert all(result.settled and result.ids for result in results)
    assert len({result.job_id for result in results}) == 4
    assert client.marketplace.jobs.client_nonce(client.address) == before + 4
