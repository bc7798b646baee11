from __future__ import annotations

import dataclasses
import json
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from eth_account import Account

from client import store as module
from client.store import FINAL, POSTED, JobRecord, JobStore, StoredAcceptance, StoredQuote, updated
from market.errors import ConfigError
from market.hashing import ZERO32, keccak256, pack_tokens
from market.types import Acceptance, Mode
from tests.unit.client.examples import NOW, OWNER, request, signed

RECORD = JobRecord(
    job_id=keccak256(b"job"),
    client=OWNER.address,
    created_at=NOW,
    mode=Mode.QUORUM,
    quorum=2,
    commit_window=60,
    reveal_window=40,
    request=request(),
    ids=(1, 2, 3),
    messages=({"role": "user", "content": "the cat"},),
    quotes=tuple(StoredQuote(*signed(number), f"http://127.0.0.1:{9000 + number}") for number in range(3)),
    selection_seed=keccak256(b"seed"),
    stop_strings=("\n\n", "end"),
    log_probabilities=3,
)


def test_store_gives_back_a_job_after_a_restart_field_for_field(tmp_path: Path) -> None:
    acceptance = StoredAcceptance(Acceptance(RECORD.job_id, RECORD.request.request_hash, NOW), b"\1" * 65)
    record = dataclasses.replace(
        RECORD,
        state=POSTED,
        post_transaction="0x12",
        acceptances={"0xaa": acceptance},
        refusals={"0xbb": "it is busy"},
        steps_ms={"discovery": 3},
        result={"answer": "sat", "ids": [4]},
    )
    with JobStore(tmp_path / "jobs.sqlite", "m", OWNER) as store:
        store.put(record)
    with JobStore(tmp_path / "jobs.sqlite", "m", OWNER) as store:
        assert store.get(record.job_id) == record
        assert store.all() == [record]


def test_store_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    with JobStore(tmp_path / "deep" / "jobs.sqlite", "m", OWNER):
        assert stat.S_IMODE((tmp_path / "deep" / "jobs.sqlite").stat().st_mode) == 0o600


def test_store_keeps_markets_apart(tmp_path: Path) -> None:
    with (
        JobStore(tmp_path / "jobs.sqlite", "one", OWNER) as one,
        JobStore(tmp_path / "jobs.sqlite", "two", OWNER) as two,
    ):
        one.put(RECORD)
        assert two.get(RECORD.job_id) is None
        two.put(dataclasses.replace(RECORD, quorum=3))
        assert one.get(RECORD.job_id) == RECORD


def test_store_update_changes_what_is_kept_and_forget_removes_it() -> None:
    with JobStore(":memory:", "m", OWNER) as store:
        store.put(RECORD)
        assert updated(store, RECORD, state=FINAL).state == FINAL
        kept = store.get(RECORD.job_id)
        assert kept is not None
        assert kept.state == FINAL
        store.forget(RECORD.job_id)
        assert store.all() == []


def test_store_finds_jobs_by_their_first_digits() -> None:
    other = dataclasses.replace(RECORD, job_id=keccak256(b"other"), created_at=NOW + 1)
    with JobStore(":memory:", "m", OWNER) as store:
        store.put(RECORD)
        store.put(other)
        assert store.find("0x" + other.job_id.hex()[:8].upper()) == [other.job_id]
        assert len(store.find("0x")) == 2
        assert [record.job_id for record in store.all()] == [other.job_id, RECORD.job_id]
        assert store.all(limit=1) == [other]


def test_store_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_text("this is no database, it is a letter to nobody in particular")
    with pytest.raises(ConfigError, match="cannot be opened"):
        JobStore(tmp_path / "jobs.sqlite", "m", OWNER)


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


CANARIES = dataclasses.replace(
    RECORD,
    ids=(1_234_567, 7_654_321, 9),
    messages=({"role": "user", "content": "the canary sings"},),
    stop_strings=("canary stop",),
    state=POSTED,
    refusals={"0xbb": "I do not sing as canaries do"},
    result={"answer": "canary answer", "ids": [2_345_678]},
)


def ways(record: JobRecord) -> list[bytes]:
    """How the prompt, the answer, and what prompts could be tried against, may be written."""
    tokens = (*record.ids[:2], *record.result["ids"])
    return [
        b"canary",
        *(token.to_bytes(4) for token in tokens),
        *(str(token).encode() for token in tokens),
        record.request.nonce.hex().encode(),
        record.request.input_root.hex().encode(),
    ]


def test_prompts_and_answers_are_on_disk_and_nobody_reads_them_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with JobStore(path, "m", OWNER) as store:
        store.put(CANARIES)
        left = bytes_of(path)
        assert [way for way in ways(CANARIES) if way in left] == []
    for account in (None, Account.from_key(b"\2" * 32)):
        with JobStore(path, "m", account) as store:
            (seen,) = store.all()
            assert seen.is_encrypted
            assert seen.question is None
            assert (seen.ids, seen.messages, seen.stop_strings, seen.refusals, seen.result) == ((), None, (), {}, {})
            assert (seen.state, seen.quorum, seen.quotes) == (POSTED, CANARIES.quorum, CANARIES.quotes)
            assert seen.request.model_id == CANARIES.request.model_id
            assert set(seen.request.values()[1:]) == {0, ZERO32}
            assert store.find("0x" + CANARIES.job_id.hex()[:6]) == [CANARIES.job_id]
    with JobStore(path, "m", OWNER) as store:
        assert store.get(CANARIES.job_id) == CANARIES
        assert CANARIES.question == (CANARIES.request, CANARIES.ids)


def test_whoever_follows_a_job_without_its_key_takes_nothing_from_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with JobStore(path, "m", OWNER) as store:
        store.put(CANARIES)
    with JobStore(path, "m", None) as store:
        seen = store.get(CANARIES.job_id)
        assert seen is not None
        updated(store, seen, state=FINAL, steps_ms={"settlement": 3}, result={"answer": "mine"})
        with pytest.raises(ValueError, match="with its key alone"):
            store.put(dataclasses.replace(CANARIES, job_id=keccak256(b"new")))
    with JobStore(path, "m", OWNER) as store:
        (kept,) = store.all()
        assert kept == dataclasses.replace(CANARIES, state=FINAL, steps_ms={"settlement": 3})


def test_job_moved_to_another_place_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with JobStore(path, "m", OWNER) as store:
        store.put(CANARIES)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE job SET job_id = ?", (keccak256(b"other"),))
    database.close()
    with JobStore(path, "m", OWNER) as store:
        with pytest.raises(ConfigError, match=r"The job 0x.* damaged"):
            store.get(keccak256(b"other"))
        (listed,) = store.all()  # the others can be listed all the same
        assert listed.is_encrypted


CLEAR_SCHEMA = """
CREATE TABLE job (
    market TEXT NOT NULL,
    job_id BLOB NOT NULL,
    client TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    ids BLOB NOT NULL,
    body TEXT NOT NULL,
    result TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (market, job_id)
) STRICT;
PRAGMA journal_mode = WAL;
"""


def in_the_clear(path: Path, *records: tuple[str, JobRecord]) -> None:
    """A store as clients wrote it that encrypted nothing, with its log full, as kill -9 leaves it."""
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(CLEAR_SCHEMA)
    for market, record in records:
        body = module._body(record) | {
            "request": record.request.to_json(),
            "messages": record.messages,
            "stopStrings": record.stop_strings,
            "refusals": dict(record.refusals),
        }
        row = (record.job_id, record.client, record.created_at, record.state, len(record.ids), pack_tokens(record.ids))
        old.execute(
            "INSERT INTO job VALUES (?,?,?,?,?,?,?,?,?)",
            (market, *row, json.dumps(body), json.dumps(dict(record.result))),
        )
    assert all(way in bytes_of(path) for way in (b"canary", *(token.to_bytes(4) for token in CANARIES.ids[:2])))
    old.close()


def test_store_in_the_clear_is_encrypted_when_its_owner_opens_it(tmp_path: Path) -> None:
    path, stranger = tmp_path / "jobs.sqlite", Account.from_key(b"\2" * 32)
    in_the_clear(path, ("m", CANARIES), ("elsewhere", CANARIES))
    with JobStore(path, "m", None) as store:  # `assay job list` without a password
        (seen,) = store.all()
        assert not seen.is_encrypted  # anybody can read it, as before
        assert seen == CANARIES
        updated(store, seen, state=FINAL)
        with sqlite3.connect(path) as older:  # a program of the older version beside it still writes
            older.execute("INSERT INTO job VALUES ('x', x'00', '', 0, '', 0, x'00', '', '{}')")
        older.close()
    with JobStore(path, "m", stranger) as store:
        assert store.all() == [dataclasses.replace(CANARIES, state=FINAL)]
    assert b"canary" in bytes_of(path)  # nobody can encrypt it under a key that is not here
    with JobStore(path, "m", OWNER) as store:
        left = bytes_of(path)
        assert [way for way in ways(CANARIES) if way in left] == []
        assert store.all() == [dataclasses.replace(CANARIES, state=FINAL)]
    with JobStore(path, "elsewhere", OWNER) as store:
        assert store.all() == [CANARIES]


@pytest.mark.parametrize("body", ["{", "null", "{}"])
def test_damaged_row_of_an_older_store_keeps_no_other_from_being_encrypted(tmp_path: Path, body: str) -> None:
    path = tmp_path / "jobs.sqlite"
    damaged = dataclasses.replace(CANARIES, job_id=keccak256(b"damaged"), created_at=1)
    in_the_clear(path, ("m", damaged), ("m", CANARIES))
    with sqlite3.connect(path) as old:
        old.execute("UPDATE job SET body = ? WHERE job_id = ?", (body, damaged.job_id))
    old.close()
    with JobStore(path, "m", OWNER) as store:
        assert store.all() == [CANARIES]
        with pytest.raises(ConfigError, match=f"0x{damaged.job_id.hex()} of the store is damaged") as told:
            store.get(damaged.job_id)
        assert "left as it is" in str(told.value)
        assert store.get(CANARIES.job_id) == CANARIES
        with JobStore(path, "m", OWNER) as another:  # no lock was left behind
            another.put(dataclasses.replace(CANARIES, state=FINAL))
    with closing(sqlite3.connect(path)) as now:
        encrypted = now.execute("SELECT job_id FROM job WHERE secret IS NOT NULL").fetchall()
    assert encrypted == [(CANARIES.job_id,)]


KILLED = """
import os, signal, sys
from pathlib import Path
from client.store import JobStore
from tests.unit.client.examples import OWNER
JobStore._empty_log = lambda self: os.kill(os.getpid(), signal.SIGKILL)
JobStore(Path(sys.argv[1]), "m", OWNER)
"""


def test_client_killed_before_the_log_was_emptied_does_it_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    in_the_clear(path, ("m", CANARIES))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert b"canary" in bytes_of(path)
    with JobStore(path, "m", OWNER) as store:
        assert b"canary" not in bytes_of(path)
        assert store.all() == [CANARIES]


def test_reader_that_holds_the_log_puts_overwriting_off_to_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    in_the_clear(path, ("m", CANARIES))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM job").fetchall()
    with JobStore(path, "m", OWNER) as store:
        assert store.all() == [CANARIES]
        reader.close()
        store.put(CANARIES)
        assert b"canary" not in bytes_of(path)


def test_two_clients_bring_one_store_up_to_date(tmp_path: Path) -> None:
    path, stranger = tmp_path / "jobs.sqlite", Account.from_key(b"\2" * 32)
    other = dataclasses.replace(CANARIES, client=stranger.address, job_id=keccak256(b"other"))
    in_the_clear(path, ("m", CANARIES), ("m", other))
    stores: list[JobStore] = []
    openers = [
        threading.Thread(target=lambda account=account: stores.append(JobStore(path, "m", account)))  # type: ignore[misc]
        for account in (OWNER, stranger, OWNER, stranger)
    ]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert len(stores) == 4
    stores[0].put(dataclasses.replace(CANARIES if stores[0].get(CANARIES.job_id) == CANARIES else other))
    assert b"canary" not in bytes_of(path)  # or else at the next start
    assert sorted(store.get(CANARIES.job_id) == CANARIES for store in stores) == [False, False, True, True]
    assert sorted(store.get(other.job_id) == other for store in stores) == [False, False, True, True]
    for store in stores:
        store.close()


def test_locked_store_says_so_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.2)
    with JobStore(tmp_path / "jobs.sqlite", "m", OWNER) as store:
        store.put(RECORD)
        holder = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        for change in (lambda: updated(store, RECORD, state=POSTED), lambda: store.forget(RECORD.job_id)):
            with pytest.raises(ConfigError, match="locked") as refused:
                change()
            assert "Nothing more was sent" in str(refused.value.hint)
        holder.execute("ROLLBACK")
        holder.close()
        assert store.all() == [RECORD]
        assert updated(store, RECORD, state=POSTED) == store.get(RECORD.job_id)


FULL_DISK = """
import dataclasses, resource, sys
from pathlib import Path
from client.store import JobStore
from market.errors import ConfigError
from tests.unit.client.examples import OWNER
from tests.unit.client.test_store import RECORD
path = Path(sys.argv[1])
store = JobStore(path, "m", OWNER)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
written = max(file.stat().st_size for file in path.parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (written, hard))
try:
    for number in range(10_000):
        record = dataclasses.replace(RECORD, job_id=number.to_bytes(32))
        store.put(record)
except ConfigError as error:
    print(error.message, error.hint)
assert store.get(record.job_id) is None
assert len(store.all(10_000)) == number
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.put(record)
assert store.get(record.job_id) == record
store.close()
"""


def test_store_on_a_full_disk_says_so_and_changes_nothing(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the same failed write, without a file system of its own."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "jobs.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "Nothing more was sent" in done.stdout
