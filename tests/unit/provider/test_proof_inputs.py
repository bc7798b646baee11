"""Private inputs on disk: kept while a job waits for them, overwritten afterwards, bounded without one."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from eth_account import Account

from market.hashing import pack_tokens
from provider.errors import JournalError
from provider.proof_inputs import UNPOSTED_INPUTS, UNPOSTED_SECONDS, InputStore, PrivateInput
from tests.unit.provider import samples

GIVEN = PrivateInput((7, 0, 2**32 - 2), (1 << 248) - 1)
NOW = 1_800_000_000


def _hash(number: int) -> bytes:
    return number.to_bytes(32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "inputs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[InputStore]:
    store = InputStore(path, samples.OWNER)
    yield store
    store.close()


def _bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_what_was_put_is_there_after_another_process_opens_the_file(store: InputStore, path: Path) -> None:
    """Without closing the first: that is what kill -9 leaves."""
    store.put(_hash(1), GIVEN, NOW)
    again = InputStore(path, samples.OWNER)
    assert again.get(_hash(1)) == GIVEN
    assert again.get(_hash(2)) is None
    again.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_input_of_an_open_job_is_never_crowded_out(store: InputStore) -> None:
    store.put(_hash(1), GIVEN, NOW)
    store.claim(b"job", _hash(1), NOW + 100)
    store.put(_hash(2), GIVEN, NOW + 1)
    for number in range(3, 3 + UNPOSTED_INPUTS):
        store.put(_hash(number), GIVEN, NOW + number)
    assert store.get(_hash(1)) == GIVEN
    assert store.get(_hash(2)) is None  # the oldest of those that no job names
    assert all(store.get(_hash(number)) for number in range(3, 3 + UNPOSTED_INPUTS))
    store.forget(NOW + 100)  # the deadline's second belongs to the job
    assert store.get(_hash(1)) == GIVEN


def test_a_place_is_held_for_an_input_that_comes_after_its_job(store: InputStore) -> None:
    store.claim(b"job", _hash(1), NOW + 100)
    store.put(_hash(1), GIVEN, NOW)
    for number in range(2, 2 + 2 * UNPOSTED_INPUTS):
        store.put(_hash(number), GIVEN, NOW + number)
    assert store.get(_hash(1)) == GIVEN


def _encrypted(store: InputStore) -> list[bytes]:
    return [row[0] for row in store._db.execute("SELECT input FROM inputs")]


def test_what_a_job_no_longer_needs_is_overwritten(store: InputStore, path: Path) -> None:
    store.put(_hash(1), GIVEN, NOW)
    store.claim(b"one", _hash(1), NOW + 100)
    store.claim(b"two", _hash(1), NOW + 200)
    (encrypted,) = _encrypted(store)
    assert encrypted in _bytes_of(path)
    store.release(b"one")
    assert store.get(_hash(1)) == GIVEN  # the other job waits for it
    store.release(b"two")
    store.release(b"unknown")
    assert store.get(_hash(1)) is None
    assert encrypted[-16:] not in _bytes_of(path)


def test_inputs_are_on_disk_and_nobody_reads_them_without_the_key(store: InputStore, path: Path) -> None:
    secret = PrivateInput((0xDEADBEEF, 0xDEADBEEF), 0xC0FFEE << 200)
    store.put(_hash(1), secret, NOW)
    left = _bytes_of(path)
    assert [way for way in _ways(secret) if way in left] == []
    stranger = InputStore(path, Account.from_key(b"\2" * 32))
    with pytest.raises(JournalError, match="not encrypted with the key of"):
        stranger.get(_hash(1))
    stranger.close()
    assert store.get(_hash(1)) == secret


def _ways(secret: PrivateInput) -> list[bytes]:
    token, blinding = secret.ids[0], secret.blinding
    return [token.to_bytes(4), str(token).encode(), blinding.to_bytes(32), hex(blinding)[2:].encode()]


CLEAR_SCHEMA = """
CREATE TABLE inputs (
    request_hash BLOB PRIMARY KEY, ids BLOB NOT NULL, count INTEGER NOT NULL, blinding BLOB NOT NULL,
    received INTEGER NOT NULL) STRICT;
CREATE TABLE claims (
    job_id BLOB PRIMARY KEY, request_hash BLOB NOT NULL, deadline INTEGER NOT NULL) STRICT;
CREATE INDEX claims_by_request ON claims (request_hash);
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


def test_inputs_in_the_clear_are_encrypted_when_the_store_is_opened(path: Path) -> None:
    """What version 1 wrote, with its log full, as kill -9 leaves it."""
    path.parent.mkdir()
    secret = PrivateInput((0xDEADBEEF, 7), 0xC0FFEE << 200)
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(CLEAR_SCHEMA)
    for number in (1, 2):
        row = (_hash(number), pack_tokens(secret.ids), 2, secret.blinding.to_bytes(32), NOW + number)
        old.execute("INSERT INTO inputs VALUES (?,?,?,?,?)", row)
    old.execute("INSERT INTO claims VALUES (?,?,?)", (b"job", _hash(1), NOW + 100))
    assert all(way in _bytes_of(path) for way in (_ways(secret)[0], _ways(secret)[2]))
    old.close()
    store = InputStore(path, samples.OWNER)
    left = _bytes_of(path)
    assert [way for way in _ways(secret) if way in left] == []
    assert store.get(_hash(1)) == store.get(_hash(2)) == secret
    store.forget(NOW + 2 + UNPOSTED_SECONDS)  # its deadline is past, the other is as old as it may be
    assert (store.get(_hash(1)), store.get(_hash(2))) == (None, secret)
    store.close()
    assert InputStore(path, samples.OWNER).get(_hash(2)) == secret


def test_inputs_are_given_up_after_the_deadline_and_without_a_job(store: InputStore) -> None:
    store.put(_hash(1), GIVEN, NOW)
    store.claim(b"job", _hash(1), NOW + 100)
    store.put(_hash(2), GIVEN, NOW)
    store.forget(NOW + 101)
    assert store.get(_hash(1)) is None
    store.forget(NOW + UNPOSTED_SECONDS)
    assert store.get(_hash(2)) == GIVEN
    store.forget(NOW + UNPOSTED_SECONDS + 1)
    assert store.get(_hash(2)) is None


def test_a_file_of_another_version_or_kind_is_left_as_it_is(path: Path) -> None:
    store = InputStore(path, samples.OWNER)
    store._db.execute("PRAGMA user_version = 9")
    store.close()
    with pytest.raises(JournalError, match="version 9"):
        InputStore(path, samples.OWNER)
    path.write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(JournalError, match="cannot be used"):
        InputStore(path, samples.OWNER)


def test_reader_that_holds_the_log_puts_overwriting_off_to_the_next_change(store: InputStore, path: Path) -> None:
    store.put(_hash(1), GIVEN, NOW)
    store.claim(b"one", _hash(1), NOW + 100)
    (encrypted,) = _encrypted(store)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM inputs").fetchall()
    store.release(b"one")
    assert encrypted[-16:] in _bytes_of(path)
    reader.close()
    store.put(_hash(2), GIVEN, NOW)
    assert encrypted[-16:] not in _bytes_of(path)


def test_two_programs_that_open_older_inputs_encrypt_them_once(path: Path) -> None:
    path.parent.mkdir()
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(CLEAR_SCHEMA)
    row = (_hash(1), pack_tokens(GIVEN.ids), len(GIVEN.ids), GIVEN.blinding.to_bytes(32), NOW)
    old.execute("INSERT INTO inputs VALUES (?,?,?,?,?)", row)
    old.close()
    opened: list[InputStore] = []
    openers = [Thread(target=lambda: opened.append(InputStore(path, samples.OWNER))) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert [store.get(_hash(1)) for store in opened] == [GIVEN] * 4
    for store in opened:
        store.close()
