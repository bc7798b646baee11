"""The local index: who offers which model, with what stake and record, built from events alone.

`sync` is one RPC question when nothing happened. Look-ups never ask the chain. After a reorg the index equals a fresh
one: logs of fallen blocks are removed, and what stands of those they changed is added up again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select

from market.chain import Chain
from market.deployment import Deployment
from market.errors import MarketError
from market.events import Event, Follower, Mark, Rewind
from market.index_database import IndexDatabase
from market.index_fold import record, rewind
from market.index_tables import AccountRow, ListingRow, MarkRow, ModelRow, OfferRow
from market.types import Model
from market.views import Offer


@dataclass(frozen=True)
class IndexedModel:
    """A published model. Its name is its publisher's choice and proves nothing; the id does."""

    model_id: bytes
    roots: Model
    name: str
    uri: str


@dataclass(frozen=True)
class IndexedOffer:
    """A provider's offer beside what the chain knows of the provider.

    Attributes:
        stake: free stake in base units (not locked in bonds).
        jobs_paid: replicas paid a price or a kill fee, and proofs; jobs_missed: replicas that committed and stayed
            silent.
        weight: of 65,536: its chance to be taken when a draw picks it; 0 = it is not on the drawable list.
    """

    provider: str
    endpoint: str
    labels: bytes
    offer: Offer
    stake: int
    jobs_paid: int
    jobs_missed: int
    weight: int = 0

    @property
    def is_drawable(self) -> bool:
        """Listed, and the offer takes bonds; whether the stake suffices on the day is the contract's to say."""
        return self.weight > 0 and self.offer.max_bond > 0


class UnknownModel(MarketError):
    """No published model has that id or name, or several have the name."""

    assurance = "Nothing was sent."


class Index:
    """See the module. Thread-safe; several processes may share one SQLite file or Postgres database.

    Args:
        url: SQLAlchemy URL, e.g. market.config.index_url(…) or postgresql://user:password@host/database (extra
            `postgres`); "sqlite://" forgets with the process.
        confirmations: blocks on top before a block is read.

    Raises:
        ConfigError: the database cannot be opened.
    """

    def __init__(self, url: str, chain: Chain, deployment: Deployment, *, confirmations: int = 0) -> None:
        self._lock = threading.RLock()
        self._chain_id = chain.chain_id
        self._offers: dict[bytes, tuple[IndexedOffer, ...]] = {}
        self._models: tuple[IndexedModel, ...] | None = None
        self._seen: tuple[Mark, ...] = ()
        identity = {"chain": str(chain.chain_id), "start": str(deployment.block)} | deployment.addresses
        schema = f"assay_{chain.chain_id}_{deployment.registry[2:14].lower()}"
        self._database = IndexDatabase(url, identity, schema=schema)
        self._reader = self._database.reader
        self._store = _Marks(self._reader)
        self._follower = Follower(
            chain,
            [deployment.registry, deployment.vault, deployment.jobs, deployment.proofs],
            self._store,
            confirmations=confirmations,
            start_block=deployment.block,
        )

    def close(self) -> None:
        self._database.close()

    # ------------------------------------------------------------------------------------------------------- sync

    def sync(self) -> int:
        """Takes over everything new on the chain. Returns the number of events that were applied.

        Raises:
            ChainUnreachable, ChainError: what was taken over stays; look-ups go on with it.
        """
        applied = 0
        with self._lock, self._database.usable():
            while True:
                items = self._follower.poll()
                moved = self._store.pending(self._follower)
                if moved is None:
                    break
                if self._apply(items, *moved):
                    applied += sum(isinstance(item, Event) for item in items)
            self._forget_if_moved()
        return applied

    def _apply(self, items: Sequence[Event | Rewind], before: Sequence[Mark], after: Sequence[Mark]) -> bool:
        """Everything in one transaction; nothing where another process was faster."""
        with self._database.writing() as connection:
            if tuple(_load_marks(connection)) != tuple(before):
                return False
            for item in items:
                if isinstance(item, Rewind):
                    rewind(connection, item.to_block)
            record(connection, self._chain_id, [item for item in items if isinstance(item, Event)])
            gone, new = set(before) - set(after), set(after) - set(before)
            connection.execute(delete(MarkRow).where(MarkRow.number.in_([mark.number for mark in gone])))
            if new:
                connection.execute(insert(MarkRow), [vars(mark) for mark in new])
        return True

    def _forget_if_moved(self) -> None:
        seen = tuple(self._store.load())
        if seen != self._seen:
            self._offers.clear()
            self._models = None
            self._seen = seen

    # ---------------------------------------------------------------------------------------------------- look-ups

    def models(self) -> Sequence[IndexedModel]:
        """All published models, oldest first."""
        with self._lock, self._database.usable():
            if self._models is None:
                question = select(*ModelRow.__table__.columns).order_by(ModelRow.block_number, ModelRow.log_index)
                with self._reader.connect() as connection:
                    self._models = tuple(map(_model, connection.execute(question)))
            return self._models

    def find_model(self, name_or_id: str | bytes) -> IndexedModel:
        """The model with this id (bytes, or 0x and 64 hex digits) or this name.

        Raises:
            UnknownModel: there is none, or the name is not unique: anybody may publish under any name.
        """
        models = self.models()
        if isinstance(name_or_id, bytes) or (name_or_id.startswith("0x") and len(name_or_id) == 66):
            wanted = name_or_id if isinstance(name_or_id, bytes) else _hex(name_or_id)
            found = [model for model in models if model.model_id == wanted]
        else:
            found = [model for model in models if model.name == name_or_id]
        if len(found) == 1:
            return found[0]
        said = "0x" + name_or_id.hex() if isinstance(name_or_id, bytes) else name_or_id
        if found:
            raise UnknownModel(
                f"{len(found)} published models are called {said!r}.",
                hint="Name the one you mean by its id.",
                code="AmbiguousModel",
                candidates=["0x" + model.model_id.hex() for model in found],
            )
        raise UnknownModel(
            f"No published model is called {said!r}.",
            hint=f"Published: {', '.join(sorted({model.name for model in models})[:8]) or 'none yet'}.",
            model=said,
        )

    def offers(self, model_id: bytes) -> Sequence[IndexedOffer]:
        """All offers for a model, by provider's address."""
        with self._lock, self._database.usable():
            found = self._offers.get(model_id)
            if found is None:
                found = self._offers[model_id] = tuple(self._read_offers(model_id))
            return found

    def _read_offers(self, model_id: bytes) -> Iterator[IndexedOffer]:
        columns = [getattr(OfferRow, field.name) for field in fields(Offer)]
        account = (AccountRow.endpoint, AccountRow.labels, AccountRow.stake)
        record = (AccountRow.jobs_paid, AccountRow.jobs_missed)
        question = (
            select(OfferRow.provider, ListingRow.weight, *account, *record, *columns)
            .join(AccountRow, AccountRow.address == OfferRow.provider)
            .outerjoin(
                ListingRow,
                (ListingRow.model_id == OfferRow.model_id) & (ListingRow.provider == OfferRow.provider),
            )
            .where(OfferRow.model_id == model_id)
            .order_by(OfferRow.provider)
        )
        with self._reader.connect() as connection:
            for provider, weight, endpoint, labels, stake, paid, missed, *terms in connection.execute(question):
                yield IndexedOffer(provider, endpoint, labels, Offer(*terms), stake, paid, missed, weight or 0)


class _Marks:
    """The follower's cursor in the index's own database, saved with the events in one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loaded: Sequence[Mark] = ()
        self._saved: Sequence[Mark] | None = None

    def load(self) -> Sequence[Mark]:
        with self._engine.connect() as connection:
            self._loaded = tuple(_load_marks(connection))
        return self._loaded

    def save(self, marks: Sequence[Mark]) -> None:
        self._saved = tuple(marks)

    def pending(self, follower: Follower) -> tuple[Sequence[Mark], Sequence[Mark]] | None:
        """(marks that were read, marks to store) of the last poll; None where it moved nothing."""
        self._saved = None
        follower.commit()
        return None if self._saved is None else (self._loaded, self._saved)


def _load_marks(connection: Connection) -> list[Mark]:
    return [Mark(*row) for row in connection.execute(select(MarkRow.number, MarkRow.hash).order_by(MarkRow.number))]


def _model(row: Row[Any]) -> IndexedModel:
    roots = Model(**{field.name: getattr(row, field.name) for field in fields(Model)})
    return IndexedModel(row.model_id, roots, row.name, row.uri)


def _hex(value: str) -> bytes:
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        return b""
