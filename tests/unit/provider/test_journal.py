"""The journal keeps what it was told, once, in the order it was told."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from eth_account import Account

from market.config import queue_path
from market.hashing import keccak256, pack_tokens, tokens_root
from market.types import Acceptance, Finish, Mode, Output, Quote
from provider import journal as module
from provider.errors import JournalError
from provider.journal import Journal
from provider.pricing import Ask
from provider.records import Stage
from tests.unit.provider import samples

NOW = samples.NOW
JOB = keccak256(b"job")
SALT = keccak256(b"salt")
ANSWER = (7, 8, 2)
OUTPUT = Output(tokens_root(ANSWER), len(ANSWER), Finish.STOP)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "data" / "journal.sqlite", samples.OWNER)
    yield journal
    journal.close()


def quote(nonce: int = 7, **fields: object) -> Quote:
    made = samples.shop().quote(Ask(samples.CLIENT, Mode.QUORUM, samples.request()), samples.situation(), nonce)
    return replace(made, **fields)  # type: ignore[arg-type]


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def add_job(journal: Journal, job_id: bytes = JOB, digest: bytes = b"d" * 32) -> bool:
    return journal.add_job(
        job_id,
        client=samples.CLIENT,
        model_id=samples.MODEL_ID,
        request_hash=samples.request().request_hash,
        quote_digest=digest,
        bond=2**100,
        commit_deadline=NOW + 60,
        now=NOW,
    )


def test_journal_is_readable_by_its_owner_alone(journal: Journal) -> None:
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


def test_journal_syncs_every_transaction_to_disk(journal: Journal) -> None:
    assert journal._number("PRAGMA synchronous") == 2  # FULL
    assert journal._number("PRAGMA journal_mode") == "wal"


def test_quote_is_read_back_as_it_was_signed(journal: Journal) -> None:
    journal.add_quote(b"d" * 32, quote(), b"s" * 65, NOW)
    row = journal.quote(b"d" * 32)
    assert row is not None
    assert (row.quote.to_json(), row.signature, row.job_id) == (quote().to_json(), b"s" * 65, None)
    assert journal.quote(b"e" * 32) is None


def test_quote_with_a_used_nonce_is_refused(journal: Journal) -> None:
    journal.add_quote(b"d" * 32, quote(), b"s" * 65, NOW)
    with pytest.raises(JournalError):
        journal.add_quote(b"e" * 32, quote(), b"s" * 65, NOW)
    assert journal.quote(b"e" * 32) is None


def test_request_is_covered_by_its_quote_or_one_for_the_model_until_they_are_old(journal: Journal) -> None:
    request = samples.request()
    assert not journal.covers(request, NOW)
    journal.add_quote(b"d" * 32, quote(), b"s" * 65, NOW)
    assert journal.covers(request, NOW + 60)
    assert not journal.covers(request, NOW + 61)
    longer = samples.request(max_output_tokens=17)
    assert not journal.covers(longer, NOW)
    journal.add_quote(b"e" * 32, quote(8, request_hash=bytes(32), max_output_tokens=17), b"s" * 65, NOW)
    assert journal.covers(longer, NOW)
    assert not journal.covers(samples.request(max_output_tokens=18), NOW)


def test_reserved_counts_jobs_until_they_are_committed_and_no_quotes(journal: Journal) -> None:
    journal.add_quote(b"d" * 32, quote(), b"s" * 65, NOW)
    assert journal.reserved() == 0
    add_job(journal)
    assert (journal.reserved(), journal.promised(b"other")) == (2**100, 0)  # nobody delivered its prompt yet
    journal.advance(JOB, Stage.RUNNING, NOW)
    assert (journal.reserved(), journal.promised(b"other"), journal.promised(JOB)) == (2**100, 2**100, 0)
    journal.advance(JOB, Stage.COMMITTED, NOW)  # the bond is locked in the vault now
    assert (journal.reserved(), journal.promised(b"other")) == (0, 0)


def test_quotes_beyond_what_is_kept_are_forgotten_by_their_expiry_unless_a_job_used_them(journal: Journal) -> None:
    add_job(journal, digest=b"u" * 32)
    journal.add_quote(b"u" * 32, quote(1, valid_until=NOW + 1), b"s" * 65, NOW)
    journal._db.execute("UPDATE quotes SET job_id = ?", (JOB,))
    for nonce, valid_until in ((2, NOW + 40), (3, NOW + 20), (4, NOW + 30)):
        journal.add_quote(bytes([nonce]) * 32, quote(nonce, valid_until=valid_until), b"s" * 65, NOW, keep=2)
    kept = [digest[0] for digest in (b"u" * 32, *(bytes([n]) * 32 for n in (2, 3, 4))) if journal.quote(digest)]
    assert kept == [ord("u"), 2, 4]


def test_request_is_read_back_with_its_prompt(journal: Journal) -> None:
    request = samples.request()
    assert journal.request(request.request_hash) is None
    journal.put_request(request, samples.IDS, NOW)
    stored = journal.request(request.request_hash)
    assert stored is not None
    assert (stored.request, stored.ids) == (request, samples.IDS)
    assert journal.request_count() == 1


def test_acceptance_is_kept_as_it_was_first_given(journal: Journal) -> None:
    first = Acceptance(JOB, samples.request().request_hash, NOW)
    journal.add_acceptance(first, b"a" * 65)
    journal.add_acceptance(replace(first, accepted_at=NOW + 9), b"b" * 65)
    assert journal.acceptance(JOB, first.request_hash) == (first, b"a" * 65)
    assert journal.acceptance_count(first.request_hash) == 1


def test_job_is_added_once(journal: Journal) -> None:
    assert add_job(journal)
    journal.advance(JOB, Stage.RUNNING, NOW + 1)
    assert not add_job(journal)
    row = journal.job(JOB)
    assert row is not None
    assert (row.stage, row.bond, row.client) == (Stage.RUNNING, 2**100, samples.CLIENT)


def test_answer_and_salt_are_written_once(journal: Journal) -> None:
    add_job(journal)
    row = journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW)
    assert (row.stage, row.ids, row.output, row.salt, row.inference_ms) == (Stage.ANSWERED, ANSWER, OUTPUT, SALT, 12)
    again = journal.record_answer(JOB, (1,), Output(tokens_root((1,)), 1, Finish.STOP), bytes(32), 99, NOW + 1)
    assert (again.ids, again.output, again.salt, again.inference_ms) == (ANSWER, OUTPUT, SALT, 12)


def test_advance_keeps_what_it_is_not_told(journal: Journal) -> None:
    add_job(journal)
    journal.advance(JOB, Stage.FINAL, NOW + 1, paid=2**100, outcome="SETTLED", final_at=5, release_at=6)
    row = journal.advance(JOB, Stage.CLOSED, NOW + 2, reason="done")
    assert (row.paid, row.outcome, row.final_at, row.release_at, row.reason) == (2**100, "SETTLED", 5, 6, "done")
    assert journal.earned() == 2**100
    assert journal.history(JOB) == [Stage.SEEN, Stage.FINAL, Stage.CLOSED]
    assert journal.open_jobs() == []


def test_advance_of_an_unknown_job_is_refused(journal: Journal) -> None:
    with pytest.raises(JournalError):
        journal.advance(JOB, Stage.RUNNING, NOW)


def test_forget_drops_prompts_but_not_those_of_open_jobs(journal: Journal) -> None:
    request = samples.request()
    journal.put_request(request, samples.IDS, NOW)
    journal.add_acceptance(Acceptance(JOB, request.request_hash, NOW), b"a" * 65)
    add_job(journal)
    journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW)
    journal.forget(NOW + 1, outputs_before=NOW)
    assert journal.request(request.request_hash) is not None
    journal.advance(JOB, Stage.CLOSED, NOW, final_at=NOW)
    journal.forget(NOW + 1, outputs_before=NOW)
    assert journal.request(request.request_hash) is None
    assert journal.acceptance(JOB, request.request_hash) is None
    row = journal.job(JOB)
    assert row is not None
    assert row.ids == ANSWER
    journal.forget(NOW + 1, outputs_before=NOW + 1)
    row = journal.job(JOB)
    assert row is not None
    assert (row.ids, row.output) == (None, None)


def test_log_probabilities_are_kept_as_long_as_their_answer(journal: Journal) -> None:
    request = samples.request()
    journal.put_request(request, samples.IDS, NOW)
    journal.want_log_probabilities(JOB, 5)
    journal.want_log_probabilities(JOB, 9)  # the first wish stands
    journal.add_acceptance(Acceptance(JOB, request.request_hash, NOW), b"a" * 65)
    journal.forget(NOW - 1, outputs_before=0)
    assert (journal.log_probabilities_wanted(JOB), journal.log_probabilities(JOB)) == (5, None)
    assert journal.log_probabilities_wanted(keccak256(b"another")) == 0
    add_job(journal)
    journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW, '{"secret": 1}')
    journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW, "again")
    journal.advance(JOB, Stage.CLOSED, NOW, final_at=NOW)
    journal.forget(NOW + 1, outputs_before=NOW)
    assert journal.log_probabilities(JOB) == '{"secret": 1}'
    assert b"secret" not in bytes_of(journal.path)
    journal.forget(NOW + 1, outputs_before=NOW + 1)
    assert (journal.log_probabilities_wanted(JOB), journal.log_probabilities(JOB)) == (0, None)


def test_log_probabilities_nobody_asked_for_are_not_kept(journal: Journal) -> None:
    add_job(journal)
    journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW, "{}")
    assert journal.log_probabilities(JOB) is None


def test_log_probabilities_of_a_job_that_never_came_are_forgotten_with_its_prompt(journal: Journal) -> None:
    request = samples.request()
    journal.put_request(request, samples.IDS, NOW)
    journal.want_log_probabilities(JOB, 5)
    journal.add_acceptance(Acceptance(JOB, request.request_hash, NOW), b"a" * 65)
    journal.forget(NOW + 1, outputs_before=0)
    assert journal.log_probabilities_wanted(JOB) == 0


def test_journal_of_before_log_probabilities_takes_them(journal: Journal) -> None:
    journal._db.execute("DROP TABLE log_probabilities")
    journal.close()
    again = Journal(journal.path, samples.OWNER)
    again.want_log_probabilities(JOB, 5)
    assert again.log_probabilities_wanted(JOB) == 5
    again.close()


def test_prompt_of_a_closed_job_is_dropped_though_its_time_is_not_over(journal: Journal) -> None:
    request = samples.request()
    journal.put_request(request, samples.IDS, NOW + 3_600)
    journal.add_acceptance(Acceptance(JOB, request.request_hash, NOW), b"a" * 65)
    journal.forget(NOW + 1, outputs_before=0)
    assert journal.request(request.request_hash) is not None  # its job may still be posted
    add_job(journal)
    other = keccak256(b"a job of the same prompt that is not posted yet")
    journal.add_acceptance(Acceptance(other, request.request_hash, NOW), b"a" * 65)
    journal.advance(JOB, Stage.CLOSED, NOW, final_at=NOW)
    journal.forget(NOW + 1, outputs_before=0)
    assert journal.request(request.request_hash) is not None
    add_job(journal, other)
    journal.forget(NOW + 1, outputs_before=0)
    assert journal.request(request.request_hash) is not None  # open
    journal.advance(other, Stage.REFUSED, NOW, reason="TOO_LITTLE_TIME")
    journal.forget(NOW + 1, outputs_before=0)
    assert journal.request(request.request_hash) is None


def test_what_is_forgotten_is_overwritten_in_the_file_and_its_log(journal: Journal) -> None:
    """Among many rows of all sizes, so that pages were split and filled anew."""
    made = random.Random(7)
    secrets: list[bytes] = []
    for number in range(150):
        ids = tuple(made.randrange(2**31) for _ in range(made.choice([3, 40, 300, 2_000])))
        request = samples.request(ids, nonce=keccak256(number.to_bytes(2)))
        job = keccak256(b"job" + number.to_bytes(2))
        journal.put_request(request, ids, NOW)
        journal.add_job(
            job,
            client=samples.CLIENT,
            model_id=samples.MODEL_ID,
            request_hash=request.request_hash,
            quote_digest=keccak256(b"quote" + number.to_bytes(2)),
            bond=1,
            commit_deadline=NOW,
            now=NOW,
        )
        journal.record_answer(job, ids[::-1], Output(tokens_root(ids), len(ids), Finish.STOP), SALT, 1, NOW)
        if number % 3 == 0:
            journal.advance(job, Stage.CLOSED, NOW, final_at=NOW)
            secrets += [row[0][-16:] for row in journal._db.execute("SELECT question FROM requests")][-1:]
            secrets += [row[0][-16:] for row in journal._db.execute("SELECT answer FROM jobs WHERE job_id = ?", (job,))]
            if number % 2 == 0:
                journal.forget(NOW + 1, outputs_before=NOW + 1)

    assert len(set(secrets)) == 100
    assert any(secret in bytes_of(journal.path) for secret in secrets)
    journal.forget(NOW + 1, outputs_before=NOW + 1)
    left = bytes_of(journal.path)
    assert [secret for secret in secrets if secret in left] == []
    assert len(journal.open_jobs()) == 100


def test_reader_that_holds_the_log_puts_overwriting_off_to_the_next_time(journal: Journal) -> None:
    request = samples.request()
    journal.put_request(request, samples.IDS, NOW)
    reader = sqlite3.connect(journal.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM requests").fetchall()
    log = journal.path.with_name(journal.path.name + "-wal")
    try:
        journal.forget(NOW + 1, outputs_before=0)
        assert log.stat().st_size > 0
    finally:
        reader.close()
    journal.forget(NOW + 1, outputs_before=0)
    assert log.stat().st_size == 0


def test_journal_survives_a_writer_that_never_closed(journal: Journal) -> None:
    add_job(journal)
    journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW)
    again = Journal(journal.path, samples.OWNER)
    row = again.job(JOB)
    again.close()
    assert row is not None
    assert row.salt == SALT


def test_read_only_journal_sees_what_the_writer_wrote_and_writes_nothing(journal: Journal) -> None:
    reader = Journal.read_only(journal.path)
    add_job(journal)
    assert reader.job(JOB) is not None
    with pytest.raises(JournalError):
        reader.set_mark("a", "b")
    reader.close()


def test_prompts_and_answers_are_on_disk_and_nobody_reads_them_without_the_key(journal: Journal) -> None:
    ids, answer = (1_234_567, 7_654_321), (2_345_678, 8_765_432)
    request = samples.request(ids)
    journal.put_request(request, ids, NOW)
    add_job(journal)
    journal.record_answer(JOB, answer, Output(tokens_root(answer), 2, Finish.STOP), SALT, 12, NOW)
    on_disk = bytes_of(journal.path)
    for token in (*ids, *answer):
        for way in (token.to_bytes(4, "big"), token.to_bytes(4, "little"), str(token).encode(), token.to_bytes(3)):
            assert way not in on_disk
    assert request.nonce.hex().encode() not in on_disk  # or prompts could be tried against the request's hash
    assert request.input_root.hex().encode() not in on_disk
    assert tokens_root(answer).hex().encode() not in on_disk
    assert SALT not in on_disk
    stranger = Journal.read_only(journal.path)
    row = stranger.job(JOB)
    assert row is not None
    assert (row.ids, row.output, row.salt) == (None, None, None)
    with pytest.raises(JournalError, match="without the provider's key"):
        stranger.request(request.request_hash)
    stranger.close()
    owner = Journal.read_only(journal.path, samples.OWNER)
    kept, row = owner.request(request.request_hash), owner.job(JOB)
    owner.close()
    assert kept is not None
    assert row is not None
    assert (kept.request, kept.ids, row.ids, row.salt) == (request, ids, answer, SALT)


STRANGER = Account.from_key(b"\2" * 32)


def test_journal_of_another_key_is_refused_and_tells_nothing(journal: Journal) -> None:
    request = samples.request()
    journal.put_request(request, samples.IDS, NOW)
    add_job(journal)
    journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW)
    with pytest.raises(JournalError, match=f"belongs to the provider {samples.OWNER.address.lower()}") as refused:
        Journal(journal.path, STRANGER)
    assert "left as it is" in str(refused.value)
    other = Journal.read_only(journal.path, STRANGER)
    for look in (lambda: other.request(request.request_hash), lambda: other.job(JOB)):
        with pytest.raises(JournalError, match="not encrypted with the key of 0x"):
            look()
    with pytest.raises(JournalError, match=f"Job 0x{JOB.hex()}: "):
        other.job(JOB)
    other.close()
    assert journal.request(request.request_hash) is not None


def test_answer_that_is_forgotten_leaves_no_hash_to_try_answers_against(journal: Journal) -> None:
    add_job(journal)
    journal.record_answer(JOB, ANSWER, OUTPUT, SALT, 12, NOW)
    journal.advance(JOB, Stage.REFUSED, NOW, reason="COMMIT_WINDOW_MISSED")
    journal.forget(NOW + 1, outputs_before=NOW + 1)
    row = journal.job(JOB)
    assert row is not None
    assert (row.ids, row.output, row.salt, row.reason) == (None, None, None, "COMMIT_WINDOW_MISSED")


CLEAR_SCHEMA = """
CREATE TABLE quotes (
    digest BLOB PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, client TEXT NOT NULL, model_id BLOB NOT NULL,
    request_hash BLOB NOT NULL, body TEXT NOT NULL, signature BLOB NOT NULL, bond TEXT NOT NULL,
    issued_at INTEGER NOT NULL, valid_until INTEGER NOT NULL, job_id BLOB);
CREATE INDEX quotes_by_request ON quotes (request_hash, valid_until);
CREATE INDEX quotes_by_expiry ON quotes (valid_until) WHERE job_id IS NULL;
CREATE TABLE requests (
    request_hash BLOB PRIMARY KEY, body TEXT NOT NULL, ids BLOB NOT NULL, keep_until INTEGER NOT NULL);
CREATE TABLE acceptances (
    subject_id BLOB NOT NULL, request_hash BLOB NOT NULL, accepted_at INTEGER NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (subject_id, request_hash));
CREATE INDEX acceptances_by_request ON acceptances (request_hash);
CREATE TABLE jobs (
    job_id BLOB PRIMARY KEY, client TEXT NOT NULL, model_id BLOB NOT NULL, request_hash BLOB NOT NULL,
    quote_digest BLOB NOT NULL, bond TEXT NOT NULL, commit_deadline INTEGER NOT NULL, public INTEGER NOT NULL,
    stage TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
    salt BLOB, ids BLOB, output TEXT, inference_ms INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT '', paid TEXT NOT NULL DEFAULT '0', final_at INTEGER NOT NULL DEFAULT 0,
    release_at INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
CREATE INDEX jobs_by_stage ON jobs (stage);
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job_id BLOB NOT NULL, stage TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX history_by_job ON history (job_id);
CREATE VIEW open_jobs AS SELECT * FROM jobs WHERE stage NOT IN ('CLOSED', 'REFUSED');
CREATE VIEW unbonded_jobs AS SELECT * FROM jobs WHERE stage IN ('SEEN', 'RUNNING', 'ANSWERED', 'COMMITTING');
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE log_probabilities (job_id BLOB PRIMARY KEY, top INTEGER NOT NULL, body TEXT);
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


IDS, FORMER_ANSWER = (1_234_567, 7_654_321, 9), (2_345_678, 8_765_432)
CLOSED = keccak256(b"closed")
FORMER_OUTPUT = Output(tokens_root(FORMER_ANSWER), 2, Finish.STOP)
NEEDLES = (
    *(token.to_bytes(4) for token in (*IDS[:2], *FORMER_ANSWER)),
    b"likely canaries",
    samples.request(IDS).nonce.hex().encode(),
    FORMER_OUTPUT.output_root.hex().encode(),
    SALT,
)


def in_the_clear(path: Path) -> sqlite3.Connection:
    """What version 1 wrote, with its log full, as kill -9 leaves it."""
    request = samples.request(IDS)
    path.parent.mkdir(exist_ok=True)
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(CLEAR_SCHEMA)
    row = (request.request_hash, json.dumps(request.to_json()), pack_tokens(IDS), NOW)
    old.execute("INSERT INTO requests VALUES (?,?,?,?)", row)
    for job, stage, kept in ((JOB, "ANSWERED", pack_tokens(FORMER_ANSWER)), (CLOSED, "CLOSED", None)):
        old.execute(
            "INSERT INTO jobs (job_id, client, model_id, request_hash, quote_digest, bond, commit_deadline, public, "
            "stage, salt, ids, output, created_at, updated_at) VALUES (?,?,?,?,?,'5',?,0,?,?,?,?,?,?)",
            (job, samples.CLIENT, samples.MODEL_ID, request.request_hash, b"q", NOW, stage, SALT, kept,
             json.dumps(FORMER_OUTPUT.to_json()), NOW, NOW),
        )  # fmt: skip
    made = replace(quote(), provider=samples.OWNER.address)
    old.execute(
        "INSERT INTO quotes VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (b"q", "7", samples.CLIENT, samples.MODEL_ID, request.request_hash, json.dumps(made.to_json()), b"s" * 65, "5",
         NOW, made.valid_until, JOB),
    )  # fmt: skip
    old.execute("INSERT INTO log_probabilities VALUES (?, 3, 'likely canaries')", (JOB,))
    old.execute("INSERT INTO marks VALUES ('drain', 'kept')")
    assert all(needle in bytes_of(path) for needle in NEEDLES)
    return old


def assert_encrypted(path: Path) -> None:
    request = samples.request(IDS)
    journal = Journal(path, samples.OWNER)
    left = bytes_of(path)
    assert [needle for needle in NEEDLES if needle in left] == []
    kept, row, closed = journal.request(request.request_hash), journal.job(JOB), journal.job(CLOSED)
    assert kept is not None
    assert row is not None
    assert closed is not None
    assert (kept.request, kept.ids) == (request, IDS)
    assert (row.ids, row.output, row.salt, row.stage) == (FORMER_ANSWER, FORMER_OUTPUT, SALT, Stage.ANSWERED)
    assert (closed.ids, closed.output, closed.salt) == (None, FORMER_OUTPUT, SALT)
    assert [each.job_id for each in journal.open_jobs()] == [JOB]
    assert (journal.log_probabilities(JOB), journal.mark("drain")) == ("likely canaries", "kept")
    journal.close()


def test_journal_in_the_clear_is_encrypted_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    in_the_clear(path).close()
    assert_encrypted(path)
    assert_encrypted(path)


def test_commands_that_read_a_journal_do_it_beside_an_older_agent(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = in_the_clear(path)
    for account in (None, samples.OWNER):
        beside = Journal.read_only(path, account)
        assert (beside.tally().stages, beside.mark("drain")) == ({"ANSWERED": 1, "CLOSED": 1}, "kept")
        row = beside.job(JOB)
        assert row is not None
        assert row.ids is None
        beside.close()
    old.execute("UPDATE jobs SET ids = ids")  # its tables are as they were
    old.close()


def test_older_agent_beside_this_one_can_write_nothing_in_the_clear(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = in_the_clear(path)
    Journal(path, samples.OWNER).close()
    for statement in (
        "UPDATE jobs SET ids = x'00', output = '', salt = x'00', inference_ms = 1 WHERE salt IS NULL",
        "INSERT INTO requests VALUES (x'00', '', x'00', 0)",
    ):
        with pytest.raises(sqlite3.OperationalError):
            old.execute(statement)
    old.close()


def test_journal_in_the_clear_is_left_to_its_own_provider(tmp_path: Path) -> None:
    """`assay provider drain` with a keystore that was changed a moment ago, say."""
    path = tmp_path / "journal.sqlite"
    in_the_clear(path).close()
    with pytest.raises(JournalError, match=f"belongs to the provider {samples.OWNER.address.lower()}"):
        Journal(path, STRANGER)
    assert_encrypted(path)


@pytest.mark.parametrize("which", ["own", "another's", "both"])
def test_journal_of_drawn_jobs_in_the_clear_is_of_whoever_has_a_queue_beside_it(tmp_path: Path, which: str) -> None:
    """They have no quotes, which would name the provider; an agent that starts has made its own queue already."""
    path = tmp_path / "journal.sqlite"
    old = in_the_clear(path)
    old.execute("DELETE FROM quotes")
    old.close()
    if which in ("own", "both"):
        queue_path(tmp_path, 1, samples.OWNER.address).touch()
    if which == "own":
        assert_encrypted(path)
        return
    queue_path(tmp_path, 1, STRANGER.address).touch()
    with pytest.raises(JournalError, match=f"belongs to the provider {STRANGER.address.lower()}"):
        Journal(path, samples.OWNER)
    assert all(needle in bytes_of(path) for needle in NEEDLES)


def test_journal_in_the_clear_whose_key_was_changed_is_of_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = in_the_clear(path)
    made = replace(quote(), provider=STRANGER.address, nonce=1)
    old.execute(
        "INSERT INTO quotes VALUES (?,?,?,?,?,?,?,?,?,?,NULL)",
        (
            b"r",
            "1",
            samples.CLIENT,
            samples.MODEL_ID,
            bytes(32),
            json.dumps(made.to_json()),
            b"s" * 65,
            "5",
            NOW - 1,
            0,
        ),
    )
    old.close()
    assert_encrypted(path)


def test_damaged_answer_stops_no_other_job(journal: Journal) -> None:
    for job in (JOB, CLOSED):
        add_job(journal, job)
        journal.record_answer(job, ANSWER, OUTPUT, SALT, 12, NOW)
    journal._db.execute("UPDATE jobs SET answer = substr(answer, 2) WHERE job_id = ?", (JOB,))
    assert {row.job_id for row in journal.open_jobs()} == {row.job_id for row in journal.jobs()} == {JOB, CLOSED}
    assert journal.tally().stages == {"ANSWERED": 2}
    with pytest.raises(JournalError, match=f"Job 0x{JOB.hex()}: .*damaged"):
        journal.job(JOB)
    other = journal.job(CLOSED)
    assert other is not None
    assert other.ids == ANSWER


MIGRATION = """
import os, signal, sqlite3, sys
from pathlib import Path
import provider.journal_cipher as module
from provider.journal import Journal
from tests.unit.provider import samples
at, encrypted = int(sys.argv[2]), 0
real = module.Cipher.encrypt
def encrypt(self, content, place):
    global encrypted
    encrypted += 1
    if encrypted == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, content, place)
module.Cipher.encrypt = encrypt
Journal._emptied_log = lambda self: os.kill(os.getpid(), signal.SIGKILL)
Journal(Path(sys.argv[1]), samples.OWNER)
"""


@pytest.mark.parametrize("at", [1, 2, 4, 99], ids=["first", "second", "last", "encrypted-and-its-log-full"])
def test_killed_in_the_middle_of_encrypting_it_goes_on_at_the_next_start(tmp_path: Path, at: int) -> None:
    path = tmp_path / "journal.sqlite"
    in_the_clear(path).close()
    command = [sys.executable, "-c", MIGRATION, str(path), str(at)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    journal = Journal(path, samples.OWNER)
    journal.forget(NOW - 1, outputs_before=0)  # as each start of the agent does: it empties the log
    journal.close()
    assert_encrypted(path)


def test_two_programs_that_open_an_older_journal_encrypt_it_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    in_the_clear(path).close()
    opened: list[Journal] = []
    openers = [Thread(target=lambda: opened.append(Journal(path, samples.OWNER))) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert len(opened) == 4
    for journal in opened:
        journal.close()
    assert_encrypted(path)


def test_read_only_journal_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="has not run yet"):
        Journal.read_only(tmp_path / "none.sqlite")


def test_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError) as caught:
        Journal(path, samples.OWNER)
    assert (caught.value.details["has"], caught.value.details["needs"]) == (99, 2)


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(JournalError):
        Journal(path, samples.OWNER)


def test_failed_write_leaves_nothing_behind(journal: Journal) -> None:
    add_job(journal)

    def half_a_write() -> None:
        with journal._write() as db:
            db.execute("UPDATE jobs SET stage = 'CLOSED'")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_a_write()
    row = journal.job(JOB)
    assert row is not None
    assert row.stage is Stage.SEEN
    journal.set_mark("cursor", "5")
    assert journal.mark("cursor") == "5"


def test_many_threads_write_without_loss(journal: Journal) -> None:
    threads = [
        Thread(target=lambda n=n: [add_job(journal, keccak256(bytes([n, i]))) for i in range(5)]) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.open_jobs()) == 40


def test_locked_journal_says_so_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_MILLISECONDS", 200)
    journal = Journal(tmp_path / "journal.sqlite", samples.OWNER)
    holder = sqlite3.connect(journal.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match=r"locked.*The last change was not made"):
        add_job(journal)
    holder.execute("ROLLBACK")
    holder.close()
    assert journal.job(JOB) is None
    assert add_job(journal)
    journal.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from provider.errors import JournalError
from provider.journal import Journal
from tests.unit.provider import samples
from tests.unit.provider.test_journal import JOB, add_job
journal = Journal(Path(sys.argv[1]), samples.OWNER)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
written = max(file.stat().st_size for file in journal.path.parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (written, hard))
try:
    for number in range(10_000):
        add_job(journal, number.to_bytes(32))
except JournalError as error:
    print(error.message)
assert journal.job(number.to_bytes(32)) is None
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert add_job(journal, number.to_bytes(32))
journal.close()
"""


def test_journal_on_a_full_disk_says_so_and_changes_nothing(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the same failed write, without a file system of its own."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "data" / "journal.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "The last change was not made" in done.stdout
