"""The agent's memory: one SQLite file, written and synced to disk before every transaction it speaks of.

Write-ahead log with synchronous=FULL (https://www.sqlite.org/pragma.html#pragma_synchronous): what a call has returned
from survives kill -9 and power loss. One connection behind a lock; `Journal.read_only` opens a second one beside a
running agent. Amounts are decimal text (uint128 outgrows SQLite's 64 bits). Prompts and answers are encrypted under
the provider's key (market.at_rest) until `forget` drops them; they are never logged.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eth_account.signers.local import LocalAccount

from market.at_rest import Undecipherable, emptied_log
from market.types import Acceptance, Output, Quote, Request
from provider.errors import JournalError
from provider.journal_cipher import JournalCipher, bring_up_to_date
from provider.journal_schema import (
    BUSY_MILLISECONDS,
    CLEAR_VERSION,
    SCHEMA_VERSION,
    connect,
    wrong_version,
)
from provider.records import BONDED, Answered, JobRow, QuoteRow, Stage, StoredRequest, Tally


class Journal:
    """See the module. Safe to call from many threads; every method is one transaction.

    Raises (every method):
        JournalError: the disk is full, the file is locked for too long or damaged. Nothing was written.
    """

    def __init__(self, path: Path, account: LocalAccount) -> None:
        """Opens or creates the journal. What an older version left in the clear is encrypted first.

        Args:
            account: the provider's; its key opens prompts and answers.

        Raises:
            JournalError: another schema version, another provider's, or not a journal. It was left as it is.
        """
        self.path = path
        self._cipher: JournalCipher | None = JournalCipher(account)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._lock = threading.RLock()
        self._log_holds_dropped = True  # an earlier process may have ended between dropping and overwriting
        with self._mapped():
            self._db = connect(f"file:{path}?mode=rw")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
        try:
            with self._write() as db:
                was_in_the_clear = bring_up_to_date(db, path, account, self._cipher)
            if was_in_the_clear:
                self._log_holds_dropped = not self._emptied_log()
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def read_only(cls, path: Path, account: LocalAccount | None = None) -> Journal:
        """Opens an existing journal for reading, also while an agent writes it.

        Args:
            account: the provider's; without it `JobRow` has neither ids, output nor salt, and there are no prompts.

        Raises:
            JournalError: there is none, or it is of another version.
        """
        if not path.exists():
            raise JournalError(f"There is no journal at {path}: this provider has not run yet.", path=str(path))
        self = cls.__new__(cls)
        self.path, self._lock = path, threading.RLock()
        self._cipher = None if account is None else JournalCipher(account)
        with self._mapped():
            self._db = connect(f"file:{path}?mode=ro")
        version = self._version()
        if version not in (CLEAR_VERSION, SCHEMA_VERSION):
            self._db.close()
            raise wrong_version(path, version)
        if version == CLEAR_VERSION:
            self._cipher = None  # nothing in it is encrypted yet; counts and stages are read the same way
        return self

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # ------------------------------------------------------------------------------------------------ quotes

    def add_quote(self, digest: bytes, quote: Quote, signature: bytes, now: int, *, keep: int = 50_000) -> None:
        """Records a quote before it is given out. Its nonce was never used before.

        Quotes that no job used are proof of nothing yet: of more than `keep`, those that expire first are forgotten.

        Raises:
            JournalError: the nonce was used.
        """
        with self._write() as db:
            db.execute(
                "INSERT INTO quotes VALUES (?,?,?,?,?,?,?,?,?,?,NULL)",
                (
                    digest,
                    str(quote.nonce),
                    quote.client.lower(),
                    quote.model_id,
                    quote.request_hash,
                    json.dumps(quote.to_json()),
                    signature,
                    str(quote.bond),
                    now,
                    quote.valid_until,
                ),
            )
            db.execute(
                "DELETE FROM quotes WHERE rowid IN (SELECT rowid FROM quotes WHERE job_id IS NULL "
                "ORDER BY valid_until, rowid LIMIT max(0, (SELECT count(*) FROM quotes WHERE job_id IS NULL) - ?))",
                (keep,),
            )

    def quote(self, digest: bytes) -> QuoteRow | None:
        row = self._one("SELECT * FROM quotes WHERE digest = ?", digest)
        if row is None:
            return None
        return QuoteRow(
            digest=row["digest"],
            quote=Quote.from_json(json.loads(row["body"])),
            signature=row["signature"],
            issued_at=row["issued_at"],
            job_id=row["job_id"],
        )

    def covers(self, request: Request, since: int) -> bool:
        """Whether a quote that was valid at or after `since` names this request, or its model with room for it."""
        found = self._one(
            "SELECT 1 FROM quotes WHERE request_hash IN (?, zeroblob(32)) AND model_id = ? AND valid_until >= ? "
            "AND CAST(json_extract(body, '$.maxInputTokens') AS INTEGER) >= ? "
            "AND CAST(json_extract(body, '$.maxOutputTokens') AS INTEGER) >= ? "
            "LIMIT 1",  # strangers may have made this table long
            request.request_hash,
            request.model_id,
            since,
            request.input_tokens,
            request.max_output_tokens,
        )
        return found is not None

    def quotes_outstanding(self, since: int) -> int:
        """Quotes that no job used and that can be posted at or after `since`."""
        return int(self._number("SELECT count(*) FROM quotes WHERE job_id IS NULL AND valid_until >= ?", since))

    def reserved(self) -> int:
        """Bonds of the jobs that were assigned and are not committed to yet, base units."""
        return sum(int(row["bond"]) for row in self._all("SELECT bond FROM unbonded_jobs"))

    def promised(self, besides: bytes) -> int:
        """Bonds of the jobs but one that are being worked on and are not committed to yet, base units."""
        rows = self._all("SELECT bond FROM unbonded_jobs WHERE stage != 'SEEN' AND job_id != ?", besides)
        return sum(int(row["bond"]) for row in rows)

    # ---------------------------------------------------------------------------------------------- requests

    def put_request(self, request: Request, ids: Sequence[int], keep_until: int) -> None:
        """Stores a request with its prompt; one that is there already is kept the longer."""
        with self._write() as db:
            db.execute(
                "INSERT INTO requests VALUES (?,?,?) ON CONFLICT (request_hash) DO UPDATE SET "
                "keep_until = max(keep_until, excluded.keep_until)",
                (request.request_hash, self._key().question(request, ids), keep_until),
            )

    def request(self, request_hash: bytes) -> StoredRequest | None:
        row = self._one("SELECT question FROM requests WHERE request_hash = ?", request_hash)
        if row is None:
            return None
        with self._mapped():
            return StoredRequest(*self._key().open_question(request_hash, row["question"]))

    def request_count(self) -> int:
        return int(self._number("SELECT count(*) FROM requests"))

    def acceptance(self, subject_id: bytes, request_hash: bytes) -> tuple[Acceptance, bytes] | None:
        row = self._one(
            "SELECT accepted_at, signature FROM acceptances WHERE subject_id = ? AND request_hash = ?",
            subject_id,
            request_hash,
        )
        return None if row is None else (Acceptance(subject_id, request_hash, row["accepted_at"]), row["signature"])

    def add_acceptance(self, acceptance: Acceptance, signature: bytes) -> None:
        with self._write() as db:
            db.execute(
                "INSERT OR IGNORE INTO acceptances VALUES (?,?,?,?)",
                (acceptance.subject_id, acceptance.request_hash, acceptance.accepted_at, signature),
            )

    def acceptance_count(self, request_hash: bytes) -> int:
        return int(self._number("SELECT count(*) FROM acceptances WHERE request_hash = ?", request_hash))

    def forget(self, now: int, outputs_before: int) -> None:
        """Drops prompts nobody can need, answers of jobs that became final before `outputs_before`, and quotes a day
        past their expiry that no job used.

        A prompt is needed while a job of it is open (until the bond is back: a dispute recomputes the answer), and
        until its time is over while a job it was accepted for may still be posted. What is dropped is overwritten, in
        the file and in the write-ahead log; a reader that holds the log puts that off to the next call.
        """
        with self._write() as db:
            dropped = db.execute(
                "DELETE FROM requests WHERE request_hash NOT IN (SELECT request_hash FROM open_jobs) "
                "AND (keep_until < ? OR (request_hash IN (SELECT request_hash FROM jobs) AND request_hash "
                "NOT IN (SELECT request_hash FROM acceptances WHERE subject_id NOT IN (SELECT job_id FROM jobs))))",
                (now,),
            ).rowcount
            db.execute("DELETE FROM acceptances WHERE request_hash NOT IN (SELECT request_hash FROM requests)")
            db.execute("DELETE FROM quotes WHERE job_id IS NULL AND valid_until < ?", (now - 86_400,))
            dropped += db.execute(
                "UPDATE jobs SET answer = NULL WHERE answer IS NOT NULL AND "
                "((stage = 'CLOSED' AND final_at < ?1) OR (stage = 'REFUSED' AND updated_at < ?1))",
                (outputs_before,),
            ).rowcount
            dropped += db.execute(
                "DELETE FROM log_probabilities WHERE job_id NOT IN (SELECT subject_id FROM acceptances) "
                "AND job_id NOT IN (SELECT job_id FROM jobs WHERE answer IS NOT NULL)"
            ).rowcount
        self._log_holds_dropped |= dropped > 0
        if self._log_holds_dropped:
            self._log_holds_dropped = not self._emptied_log()

    def _emptied_log(self) -> bool:
        """Brings the write-ahead log into the file and cuts it to nothing; False, at once, where a reader holds it."""
        with self._lock, self._mapped():
            return emptied_log(self._db, BUSY_MILLISECONDS)

    # -------------------------------------------------------------------------------------------------- jobs

    def add_job(
        self,
        job_id: bytes,
        *,
        client: str,
        model_id: bytes,
        request_hash: bytes,
        quote_digest: bytes,
        bond: int,
        commit_deadline: int,
        now: int,
    ) -> bool:
        """Records an assignment and ties its quote to it. False, and nothing changes, when the job is known."""
        with self._write() as db:
            inserted = db.execute(
                "INSERT OR IGNORE INTO jobs (job_id, client, model_id, request_hash, quote_digest, bond, "
                "commit_deadline, public, stage, created_at, updated_at) VALUES (?,?,?,?,?,?,?,0,?,?,?)",
                (job_id, client, model_id, request_hash, quote_digest, str(bond), commit_deadline, "SEEN", now, now),
            ).rowcount
            if inserted:
                db.execute("UPDATE quotes SET job_id = ? WHERE digest = ?", (job_id, quote_digest))
                db.execute("INSERT INTO history (job_id, stage, at) VALUES (?,?,?)", (job_id, Stage.SEEN, now))
        return bool(inserted)

    def job(self, job_id: bytes) -> JobRow | None:
        row = self._one("SELECT * FROM jobs WHERE job_id = ?", job_id)
        return None if row is None else self._job(row)

    def open_jobs(self) -> list[JobRow]:
        """Jobs with something left to do, oldest first, without their answers: one that is damaged stops no other."""
        return [JobRow.of(row, None) for row in self._all("SELECT * FROM open_jobs ORDER BY created_at, job_id")]

    def jobs(self, limit: int = 1_000) -> list[JobRow]:
        """The latest jobs, newest first, without their answers."""
        rows = self._all("SELECT * FROM jobs ORDER BY created_at DESC, job_id LIMIT ?", limit)
        return [JobRow.of(row, None) for row in rows]

    def earned(self) -> int:
        """Escrow paid to this provider in all jobs of this journal."""
        return sum(int(row["paid"]) for row in self._all("SELECT paid FROM jobs WHERE paid != '0'"))

    def settled_count(self) -> int:
        """Jobs that paid this provider."""
        return int(self._number("SELECT count(*) FROM jobs WHERE outcome = 'SETTLED' AND paid != '0'"))

    def tally(self) -> Tally:
        """Counts over the whole journal."""
        rows = self._all("SELECT stage, outcome, reason, count(*) AS count FROM jobs GROUP BY stage, outcome, reason")
        stages, outcomes, refusals = Counter[str](), Counter[str](), Counter[str]()
        for row in rows:
            stages[row["stage"]] += row["count"]
            if row["stage"] == Stage.REFUSED:
                refusals[row["reason"]] += row["count"]
            elif row["outcome"]:
                outcomes[row["outcome"]] += row["count"]
        locked = sum(row.bond for row in self.open_jobs() if row.stage in BONDED)
        return Tally(dict(stages), dict(outcomes), dict(refusals), locked)

    def advance(
        self,
        job_id: bytes,
        stage: Stage,
        now: int,
        *,
        reason: str | None = None,
        detail: str | None = None,
        attempts: int | None = None,
        outcome: str | None = None,
        paid: int | None = None,
        final_at: int | None = None,
        release_at: int | None = None,
    ) -> JobRow:
        """Moves a job to a stage, with what is now known about it, and returns its row."""
        with self._write() as db:
            row = db.execute(
                "UPDATE jobs SET stage = ?, updated_at = ?, "
                "reason = coalesce(?, reason), detail = coalesce(?, detail), "
                "attempts = coalesce(?, attempts), outcome = coalesce(?, outcome), paid = coalesce(?, paid), "
                "final_at = coalesce(?, final_at), release_at = coalesce(?, release_at) WHERE job_id = ? RETURNING *",
                (
                    stage,
                    now,
                    reason,
                    detail,
                    attempts,
                    outcome,
                    None if paid is None else str(paid),
                    final_at,
                    release_at,
                    job_id,
                ),
            ).fetchone()
            if row is None:
                raise JournalError(f"Job 0x{job_id.hex()} is not in the journal.", job_id="0x" + job_id.hex())
            db.execute(
                "INSERT INTO history (job_id, stage, at) SELECT ?1, ?2, ?3 WHERE ?2 IS NOT "
                "(SELECT stage FROM history WHERE job_id = ?1 ORDER BY id DESC LIMIT 1)",
                (job_id, stage, now),
            )
        return self._job(row)

    def mark_public(self, job_id: bytes) -> None:
        """Notes that the job's request stands on chain, so that anyone may read the answer."""
        with self._write() as db:
            db.execute("UPDATE jobs SET public = 1 WHERE job_id = ?", (job_id,))

    def record_answer(
        self,
        job_id: bytes,
        ids: Sequence[int],
        output: Output,
        salt: bytes,
        inference_ms: int,
        now: int,
        log_probabilities: str | None = None,
    ) -> JobRow:
        """Writes answer and salt, once: a job that has them keeps the first ones. Returns the row as it stands.

        `log_probabilities`: JSON, kept as long as the answer where `want_log_probabilities` asked for it.
        """
        answer = self._key().answer(job_id, Answered(tuple(ids), output, salt))
        with self._write() as db:
            written = db.execute(
                "UPDATE jobs SET answer = ?, inference_ms = ? WHERE job_id = ? AND answer IS NULL",
                (answer, inference_ms, job_id),
            ).rowcount
            if written:
                told = log_probabilities
                body = None if told is None else self._key().log_probabilities(job_id, told)
                db.execute("UPDATE log_probabilities SET body = ? WHERE job_id = ?", (body, job_id))
            return self.advance(job_id, Stage.ANSWERED, now)

    def forget_answer(self, job_id: bytes, now: int) -> None:
        """Takes answer and salt back, and what was sent under their keys: a commitment to them must not be opened."""
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET answer = NULL, inference_ms = NULL, attempts = attempts + 1 WHERE job_id = ?",
                (job_id,),
            )
            self.advance(job_id, Stage.RUNNING, now)

    def want_log_probabilities(self, job_id: bytes, top: int) -> None:
        """Notes that a job's client wants to know log-probabilities; the first wish stands."""
        with self._write() as db:
            db.execute("INSERT OR IGNORE INTO log_probabilities VALUES (?,?,NULL)", (job_id, top))

    def log_probabilities_wanted(self, job_id: bytes) -> int:
        """How many likeliest tokens are to be told of for each output token; 0: nothing."""
        row = self._one("SELECT top FROM log_probabilities WHERE job_id = ?", job_id)
        return 0 if row is None else int(row["top"])

    def log_probabilities(self, job_id: bytes) -> str | None:
        """What `record_answer` was given."""
        row = self._one("SELECT body FROM log_probabilities WHERE job_id = ?", job_id)
        if row is None or row["body"] is None:
            return None
        with self._mapped():
            return self._key().open_log_probabilities(job_id, row["body"])

    def history(self, job_id: bytes) -> list[Stage]:
        """The stages a job went through, in order."""
        rows = self._all("SELECT stage FROM history WHERE job_id = ? ORDER BY id", job_id)
        return [Stage(row["stage"]) for row in rows]

    # ------------------------------------------------------------------------------------------------- marks

    def mark(self, name: str) -> str | None:
        """A named note, such as how far the events of a contract were read."""
        row = self._one("SELECT value FROM marks WHERE name = ?", name)
        return None if row is None else str(row["value"])

    def set_mark(self, name: str, value: str) -> None:
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO marks VALUES (?,?)", (name, value))

    def drop_mark(self, name: str) -> None:
        with self._write() as db:
            db.execute("DELETE FROM marks WHERE name = ?", (name,))

    def mark_names(self, prefix: str) -> list[str]:
        """Names of the notes that begin with `prefix`."""
        return [
            row["name"] for row in self._all("SELECT name FROM marks WHERE substr(name, 1, ?) = ?", len(prefix), prefix)
        ]

    # ----------------------------------------------------------------------------------------------- plumbing

    def _job(self, row: sqlite3.Row) -> JobRow:
        if self._cipher is None or row["answer"] is None:
            return JobRow.of(row, None)
        with self._mapped(f" Job 0x{row['job_id'].hex()}:"):
            return JobRow.of(row, self._cipher.open_answer(row["job_id"], row["answer"]))

    def _key(self) -> JournalCipher:
        if self._cipher is None:
            raise JournalError(f"The journal {self.path} was opened without the provider's key.", path=str(self.path))
        return self._cipher

    def _version(self) -> int:
        return int(self._number("PRAGMA user_version"))

    @contextmanager
    def _mapped(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except Undecipherable as error:
            raise JournalError(f"The journal {self.path}:{what} {error}", path=str(self.path)) from None
        except sqlite3.Error as error:
            raise JournalError(
                f"The journal {self.path} cannot be used: {error}. The last change was not made.",
                hint="Check the disk's space and that no other program holds the file.",
                path=str(self.path),
            ) from None

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; joins the one that is open on this thread."""
        with self._lock, self._mapped():
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.OperationalError):  # a failed COMMIT may have ended the transaction
                    self._db.execute("ROLLBACK")
                raise

    def _all(self, statement: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, self._mapped():
            return self._db.execute(statement, values).fetchall()

    def _one(self, statement: str, *values: object) -> sqlite3.Row | None:
        rows = self._all(statement, *values)
        return rows[0] if rows else None

    def _number(self, statement: str, *values: object) -> Any:
        return self._all(statement, *values)[0][0]
