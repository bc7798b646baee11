"""Private inputs on disk: kept while a job waits for them, overwritten afterwards, bounded without one."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.errors import JournalError
from provider.proof_inputs import UNPOSTED_INPUTS, UNPOSTED_SECONDS, InputStore, PrivateInput

GIVEN = PrivateInput((7, 0, 2**32 - 2), (1 << 248) - 1)
NOW = 1_800_000_000


def _hash(number: int) -> bytes:
    return number.to_bytes(32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "inputs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[InputStore]:
    store = InputStore(path)
    yield store
    store.close()


def _bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_what_was_put_is_there_after_another_process_opens_the_file(store: InputStore, path: Path) -> None:
    """Without closing the first: that is what kill -9 leaves."""
    store.put(_hash(1), GIVEN, NOW)
    again = InputStore(path)
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


def test_what_a_job_no_longer_needs_is_overwritten(store: InputStore, path: Path) -> None:
    secret = PrivateInput((0xDEADBEEF, 0xDEADBEEF), 5)
    store.put(_hash(1), secret, NOW)
    store.claim(b"one", _hash(1), NOW + 100)
    store.claim(b"two", _hash(1), NOW + 200)
    assert b"\xde\xad\xbe\xef" in _bytes_of(path)
    store.release(b"one")
    assert store.get(_hash(1)) == secret  # the other job waits for it
    store.release(b"two")
    store.release(b"unknown")
    assert store.get(_hash(1)) is None
    assert b"\xde\xad\xbe\xef" not in _bytes_of(path)


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
    store = InputStore(path)
    store._db.execute("PRAGMA user_version = 9")
    store.close()
    with pytest.raises(JournalError, match="version 9"):
        InputStore(path)
    path.write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(JournalError, match="cannot be used"):
        InputStore(path)
