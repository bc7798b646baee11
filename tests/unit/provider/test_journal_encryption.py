"""Prompts, answers and salts are in a journal for its provider's key alone, also in one that was in the clear."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from eth_account import Account

from market.config import queue_path
from market.hashing import tokens_root
from market.types import Finish, Output
from provider.errors import JournalError
from provider.journal import Journal
from provider.records import Stage
from tests.unit.provider import samples
from tests.unit.provider.journals import (
    ANSWER,
    CLOSED,
    FORMER_ANSWER,
    FORMER_OUTPUT,
    IDS,
    JOB,
    NEEDLES,
    NOW,
    OUTPUT,
    SALT,
    add_job,
    bytes_of,
    in_the_clear,
    quote,
)


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
