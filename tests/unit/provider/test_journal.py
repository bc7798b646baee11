"""The journal keeps what it was told, once, in the order it was told."""

from __future__ import annotations

import random
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from market.hashing import keccak256, tokens_root
from market.types import Acceptance, Finish, Output
from provider import journal as module
from provider.errors import JournalError
from provider.journal import Journal
from provider.records import Stage
from tests.unit.provider import samples
from tests.unit.provider.journals import ANSWER, JOB, NOW, OUTPUT, SALT, add_job, bytes_of, quote


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
from tests.unit.provider.journals import JOB, add_job
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
