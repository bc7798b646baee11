"""What a watcher remembers: how far it has read, public answers, what came of each. One SQLite file.

What a look at the chain brings and how far it reached are written in one transaction; so are an audit and its cost. A
watcher that was killed anywhere goes on, and never looks at an answer twice.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.errors import ConfigError
from market.events import Event, Mark, Rewind, struct_of
from market.hashing import unpack_tokens
from market.types import Output, Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS request (
  job BLOB PRIMARY KEY, block INTEGER NOT NULL, body TEXT NOT NULL, ids BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS revealed (
  job BLOB, provider TEXT, block INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (job, provider));
CREATE TABLE IF NOT EXISTS published (
  job BLOB, provider TEXT, block INTEGER NOT NULL, ids BLOB NOT NULL, PRIMARY KEY (job, provider));
CREATE TABLE IF NOT EXISTS audit (
  job BLOB, provider TEXT, block INTEGER NOT NULL, at INTEGER NOT NULL, state TEXT NOT NULL, keyed_root BLOB,
  dispute BLOB, wei TEXT NOT NULL DEFAULT '0', reward TEXT NOT NULL DEFAULT '0', PRIMARY KEY (job, provider));
"""


@dataclass(frozen=True)
class Audit:
    """What came of one answer.

    Attributes:
        state: skipped (not drawn), unknown (no pack), safe (no bond any more), right, wrong (and not disputed yet),
            hidden (wrong, and its ids not shown), demanded (they are to be published), disputed, guilty, or over
            (disputed or demanded, and ended otherwise).
        keyed_root: shows that this watcher computed the trace; see `watch.keyed_root`.
        wei: gas paid for it; reward in base units.
    """

    job_id: bytes
    provider: str
    state: str
    keyed_root: bytes | None = None
    dispute_id: bytes | None = None
    wei: int = 0
    reward: int = 0


class WatchStore:
    """See the module. Also the cursor of the follower that feeds it, and the answers that it collected.

    Raises (every method): ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path, market: str) -> None:
        """`market`: which chain and contracts; a file of another one is refused."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise ConfigError(f"The watcher's record {path} cannot be used: {error}.", path=str(path)) from None
        known = self._fact("market")
        if known is not None and known != market.encode():
            raise ConfigError(
                f"The watcher's record {path} is about another market; it was left as it is.",
                hint="Give another folder with --data-dir.",
                path=str(path),
            )
        self._set_fact("market", market.encode())
        if self._fact("secret") is None:
            self._set_fact("secret", secrets.token_bytes(32))

    @property
    def secret(self) -> bytes:
        """Decides which answers are audited: drawn once, kept."""
        return self._fact("secret") or b""

    def close(self) -> None:
        self._database.close()

    # ------------------------------------------------------------------------------------------ reading the chain

    def load(self) -> Sequence[Mark]:
        text = self._fact("marks")
        return [Mark(number, block_hash) for number, block_hash in json.loads(text)] if text else []

    def save(self, marks: Sequence[Mark]) -> None:
        self._set_fact("marks", json.dumps([(mark.number, mark.hash) for mark in marks]).encode())

    def take(self, items: Iterable[Event | Rewind]) -> None:
        """Writes down what a look brought; the caller commits its follower inside the same `with store.once()`."""
        for item in items:
            if isinstance(item, Rewind):
                for table in ("request", "revealed", "published"):
                    self._database.execute(f"DELETE FROM {table} WHERE block > ?", (item.to_block,))  # noqa: S608
                # an answer that came again is looked at again; money that was spent stays counted
                where = "block > ? AND state NOT IN ('demanded', 'disputed', 'guilty', 'over')"
                self._database.execute(f"DELETE FROM audit WHERE {where}", (item.to_block,))  # noqa: S608
            elif item.name in ("RequestPublished", "Revealed", "OutputPublished"):
                self._note(item)

    def once(self) -> Transaction:
        """All or nothing of what is written inside."""
        return Transaction(self._database)

    def _note(self, event: Event) -> None:
        args, block = event.args, event.block_number
        job_id = args["jobId"]
        if event.name == "RequestPublished":
            body = json.dumps(struct_of(Request, args["request"]).to_json())
            row: tuple[Any, ...] = (job_id, block, body, args["ids"])
            self._database.execute("INSERT OR REPLACE INTO request VALUES (?, ?, ?, ?)", row)
            return
        body = json.dumps(struct_of(Output, args["output"]).to_json())
        self._database.execute(
            "INSERT OR REPLACE INTO revealed VALUES (?, ?, ?, ?)", (job_id, args["provider"], block, body)
        )
        if event.name == "OutputPublished":
            row = (job_id, args["provider"], block, args["ids"])
            self._database.execute("INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?)", row)

    # ---------------------------------------------------------------------------------------------------- answers

    def request(self, job_id: bytes) -> tuple[Request, tuple[int, ...]] | None:
        row = self._database.execute("SELECT body, ids FROM request WHERE job = ?", (job_id,)).fetchone()
        if row is None:
            return None
        request = Request.from_json(json.loads(row[0]))
        return request, tuple(unpack_tokens(row[1], request.input_tokens))

    def output(self, job_id: bytes, provider: str) -> Output | None:
        query = "SELECT body FROM revealed WHERE job = ? AND provider = ?"
        row = self._database.execute(query, (job_id, provider)).fetchone()
        return None if row is None else Output.from_json(json.loads(row[0]))

    def ids(self, job_id: bytes, provider: str) -> tuple[int, ...] | None:
        query = "SELECT ids FROM published WHERE job = ? AND provider = ?"
        row = self._database.execute(query, (job_id, provider)).fetchone()
        output = self.output(job_id, provider)
        return None if row is None or output is None else tuple(unpack_tokens(row[0], output.output_tokens))

    def unseen(self) -> list[tuple[bytes, str, int]]:
        """Public answers without an audit: job, provider, block of the publication; oldest first."""
        query = (
            "SELECT p.job, p.provider, p.block FROM published p JOIN request r ON r.job = p.job "
            "LEFT JOIN audit a ON a.job = p.job AND a.provider = p.provider WHERE a.job IS NULL ORDER BY p.block"
        )
        return list(self._database.execute(query))

    def disagreements(self) -> list[tuple[bytes, int]]:
        """Public jobs whose replicas revealed different outputs, not all judged yet; block of the last reveal."""
        query = (
            "SELECT r.job, MAX(r.block) FROM revealed r JOIN request q ON q.job = r.job "
            "LEFT JOIN audit a ON a.job = r.job AND a.provider = r.provider GROUP BY r.job "
            "HAVING COUNT(DISTINCT r.body) > 1 AND SUM(a.state IS NULL OR a.state = 'skipped') > 0 ORDER BY 2"
        )
        return list(self._database.execute(query))

    # ----------------------------------------------------------------------------------------------------- audits

    def audit(self, job_id: bytes, provider: str) -> Audit | None:
        return next((a for a in self.audits() if (a.job_id, a.provider) == (job_id, provider)), None)

    def put(self, audit: Audit, block: int, now: int) -> None:
        """Writes what came of an answer."""
        self._database.execute(
            "INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                audit.job_id,
                audit.provider,
                block,
                now,
                audit.state,
                audit.keyed_root,
                audit.dispute_id,
                str(audit.wei),
                str(audit.reward),
            ),
        )

    def change(self, audit: Audit) -> None:
        """Writes what became of an answer that was audited before."""
        self._database.execute(
            "UPDATE audit SET state = ?, dispute = ?, wei = ?, reward = ? WHERE job = ? AND provider = ?",
            (audit.state, audit.dispute_id, str(audit.wei), str(audit.reward), audit.job_id, audit.provider),
        )

    def audits(self, *states: str) -> list[Audit]:
        """Answers in these states (all where none is given), oldest first."""
        query = "SELECT job, provider, state, keyed_root, dispute, wei, reward FROM audit ORDER BY at, rowid"
        rows = self._database.execute(query)
        found = [
            Audit(job, provider, state, keyed, dispute, int(wei), int(reward))
            for job, provider, state, keyed, dispute, wei, reward in rows
        ]
        return [audit for audit in found if not states or audit.state in states]

    def spent_since(self, at: int) -> int:
        """Wei that audits since a unix second cost."""
        rows = self._database.execute("SELECT wei FROM audit WHERE at >= ?", (at,))
        return sum(int(wei) for (wei,) in rows)

    def _fact(self, name: str) -> bytes | None:
        row = self._database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def _set_fact(self, name: str, value: bytes) -> None:
        self._database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))


class Transaction:
    """BEGIN … COMMIT, or ROLLBACK where an error comes out."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: object, at: object) -> None:
        self._database.execute("COMMIT" if kind is None else "ROLLBACK")
