from __future__ import annotations

import dataclasses
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client import store as module
from client.store import FINAL, POSTED, JobRecord, JobStore, StoredAcceptance, StoredQuote, updated
from market.errors import ConfigError
from market.hashing import keccak256
from market.types import Acceptance, Mode
from tests.unit.client.examples import CLIENT, NOW, request, signed

RECORD = JobRecord(
    job_id=keccak256(b"job"),
    client=CLIENT,
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
    with JobStore(tmp_path / "jobs.sqlite", "m") as store:
        store.put(record)
    with JobStore(tmp_path / "jobs.sqlite", "m") as store:
        assert store.get(record.job_id) == record
        assert store.all() == [record]


def test_store_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    with JobStore(tmp_path / "deep" / "jobs.sqlite", "m"):
        assert stat.S_IMODE((tmp_path / "deep" / "jobs.sqlite").stat().st_mode) == 0o600


def test_store_keeps_markets_apart(tmp_path: Path) -> None:
    with JobStore(tmp_path / "jobs.sqlite", "one") as one, JobStore(tmp_path / "jobs.sqlite", "two") as two:
        one.put(RECORD)
        assert two.get(RECORD.job_id) is None
        two.put(dataclasses.replace(RECORD, quorum=3))
        assert one.get(RECORD.job_id) == RECORD


def test_store_update_changes_what_is_kept_and_forget_removes_it() -> None:
    with JobStore(":memory:", "m") as store:
        store.put(RECORD)
        assert updated(store, RECORD, state=FINAL).state == FINAL
        kept = store.get(RECORD.job_id)
        assert kept is not None
        assert kept.state == FINAL
        store.forget(RECORD.job_id)
        assert store.all() == []


def test_store_finds_jobs_by_their_first_digits() -> None:
    other = dataclasses.replace(RECORD, job_id=keccak256(b"other"), created_at=NOW + 1)
    with JobStore(":memory:", "m") as store:
        store.put(RECORD)
        store.put(other)
        assert store.find("0x" + other.job_id.hex()[:8].upper()) == [other.job_id]
        assert len(store.find("0x")) == 2
        assert [record.job_id for record in store.all()] == [other.job_id, RECORD.job_id]
        assert store.all(limit=1) == [other]


def test_store_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_text("this is no database, it is a letter to nobody in particular")
    with pytest.raises(ConfigError, match="cannot be opened"):
        JobStore(tmp_path / "jobs.sqlite", "m")


def test_locked_store_says_so_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.2)
    with JobStore(tmp_path / "jobs.sqlite", "m") as store:
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
from tests.unit.client.test_store import RECORD
path = Path(sys.argv[1])
store = JobStore(path, "m")
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
