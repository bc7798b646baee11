"""The local index: who offers which model, with what stake and record, built from events alone.

`sync` is one RPC question when nothing happened. Look-ups never ask the chain. After a reorg the index equals a fresh
one: logs of fallen blocks are removed and what stands is added up again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, insert, inspect, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from market.chain import Chain
from market.deployment import Deployment
from market.errors import ConfigError, MarketError
from market.events import Event, Follower, Mark, Rewind, decode_log, struct_of
from market.index_tables import VERSION, AccountRow, Base, FactRow, LogRow, MarkRow, ModelRow, OfferRow
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
        jobs_paid: replicas paid a price or a kill fee; jobs_missed: replicas that committed and stayed silent.
    """

    provider: str
    endpoint: str
    labels: bytes
    offer: Offer
    stake: int
    jobs_paid: int
    jobs_missed: int


class UnknownModel(MarketError):
    """No published model has that id or name, or several have the name."""

    assurance = "Nothing was sent."


class Index:
    """See the module. Thread-safe; several processes may share one SQLite file.

    Args:
        url: SQLAlchemy URL, e.g. market.config.index_url(…); "sqlite://" forgets with the process.
        confirmations: blocks on top before a block is read.

    Raises:
        ConfigError: the database cannot be opened.
    """

    def __init__(self, url: str, chain: Chain, deployment: Deployment, *, confirmations: int = 0) -> None:
        self._lock = threading.RLock()
        self._url = url
        self._engine = _engine(url)
        self._reader = self._engine.execution_options(reads=True)
        self._offers: dict[bytes, tuple[IndexedOffer, ...]] = {}
        self._models: tuple[IndexedModel, ...] | None = None
        self._seen: tuple[Mark, ...] = ()
        identity = {"chain": str(chain.chain_id), "start": str(deployment.block)} | deployment.addresses
        with _readable(url):
            self._prepare(identity)
        self._store = _Marks(self._reader)
        self._follower = Follower(
            chain,
            [deployment.registry, deployment.vault, deployment.jobs],
            self._store,
            confirmations=confirmations,
            start_block=deployment.block,
        )

    def close(self) -> None:
        self._engine.dispose()

    # ------------------------------------------------------------------------------------------------------- sync

    def sync(self) -> int:
        """Takes over everything new on the chain. Returns the number of events that were applied.

        Raises:
            ChainUnreachable, ChainError: what was taken over stays; look-ups go on with it.
        """
        applied = 0
        with self._lock, _readable(self._url):
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
        with Session(self._engine) as session, session.begin():
            if tuple(_load_marks(session.connection())) != tuple(before):
                return False
            for item in items:
                if isinstance(item, Rewind):
                    _rewind(session, item.to_block)
                else:
                    _record(session, item)
            session.execute(
                delete(MarkRow).where(MarkRow.number.in_([mark.number for mark in set(before) - set(after)]))
            )
            session.add_all(MarkRow(number=mark.number, hash=mark.hash) for mark in set(after) - set(before))
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
        with self._lock, _readable(self._url):
            if self._models is None:
                with Session(self._reader) as session:
                    rows = session.scalars(select(ModelRow).order_by(ModelRow.sequence))
                    self._models = tuple(_model(row) for row in rows)
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
        with self._lock, _readable(self._url):
            found = self._offers.get(model_id)
            if found is None:
                found = self._offers[model_id] = tuple(self._read_offers(model_id))
            return found

    def _read_offers(self, model_id: bytes) -> Iterator[IndexedOffer]:
        columns = [getattr(OfferRow, field.name) for field in fields(Offer)]
        account = (AccountRow.endpoint, AccountRow.labels, AccountRow.stake)
        record = (AccountRow.jobs_paid, AccountRow.jobs_missed)
        question = (
            select(OfferRow.provider, *account, *record, *columns)
            .join(AccountRow, AccountRow.address == OfferRow.provider)
            .where(OfferRow.model_id == model_id)
            .order_by(OfferRow.provider)
        )
        with self._reader.connect() as connection:
            for provider, endpoint, labels, stake, paid, missed, *terms in connection.execute(question):
                yield IndexedOffer(provider, endpoint, labels, Offer(*terms), stake, paid, missed)

    # --------------------------------------------------------------------------------------------------- set-up

    def _prepare(self, identity: dict[str, str]) -> None:
        facts = identity | {"version": str(VERSION)}
        with self._engine.begin() as connection:
            if _read_facts(connection) == facts:
                return
            # another version or another market: the chain knows everything, so it is read again
            for table in inspect(connection).get_table_names():
                connection.execute(text(f'DROP TABLE "{table}"'))
            Base.metadata.create_all(connection)
            connection.execute(insert(FactRow), [{"name": name, "value": value} for name, value in facts.items()])


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


# ------------------------------------------------------------------------------------------------------ what events do


def _record(session: Session, event_: Event) -> None:
    key = (event_.block_hash, event_.log_index)
    if session.get(LogRow, key) is not None:
        return
    session.add(
        LogRow(block_hash=key[0], log_index=key[1], block_number=event_.block_number, raw=json.dumps(dict(event_.raw)))
    )
    _add_up(session, event_)


def _rewind(session: Session, to_block: int) -> None:
    """Removes what fell and adds up the rest again."""
    session.execute(delete(LogRow).where(LogRow.block_number > to_block))
    for table in (OfferRow, AccountRow, ModelRow):
        session.execute(delete(table))
    session.expire_all()
    for raw in session.scalars(select(LogRow.raw).order_by(LogRow.block_number, LogRow.log_index)).all():
        event_ = decode_log(json.loads(raw))
        if event_ is not None:
            _add_up(session, event_)


def _add_up(session: Session, event_: Event) -> None:
    handler = _HANDLERS.get(event_.name)
    if handler is not None:
        handler(session, event_.args)
        session.flush()


def _account(session: Session, address: str) -> AccountRow:
    row = session.get(AccountRow, address)
    if row is None:
        row = AccountRow(address=address, endpoint="", labels=bytes(32), stake=0, jobs_paid=0, jobs_missed=0)
        session.add(row)
    return row


def _model_published(session: Session, args: dict[str, Any]) -> None:
    roots = struct_of(Model, args["roots"])
    session.add(
        ModelRow(
            model_id=args["modelId"],
            sequence=session.query(ModelRow).count(),
            name=args["name"],
            uri=args["uri"],
            publisher=args["publisher"],
            **vars(roots),
        )
    )


def _provider_set(session: Session, args: dict[str, Any]) -> None:
    row = _account(session, args["provider"])
    row.endpoint, row.labels = args["endpoint"], args["labels"]


def _provider_removed(session: Session, args: dict[str, Any]) -> None:
    row = _account(session, args["provider"])
    row.endpoint, row.labels = "", bytes(32)
    session.execute(delete(OfferRow).where(OfferRow.provider == args["provider"]))


def _offer_set(session: Session, args: dict[str, Any]) -> None:
    offer = struct_of(Offer, args["offer"])
    session.merge(OfferRow(model_id=args["modelId"], provider=args["provider"], **vars(offer)))


def _offer_removed(session: Session, args: dict[str, Any]) -> None:
    session.execute(delete(OfferRow).where(OfferRow.model_id == args["modelId"], OfferRow.provider == args["provider"]))


def _staked_more(session: Session, args: dict[str, Any]) -> None:
    _account(session, args["owner"]).stake += args["amount"]


def _staked_less(session: Session, args: dict[str, Any]) -> None:
    _account(session, args["owner"]).stake -= args["amount"]


def _replica_paid(session: Session, args: dict[str, Any]) -> None:
    _account(session, args["provider"]).jobs_paid += 1


def _replica_missed(session: Session, args: dict[str, Any]) -> None:
    _account(session, args["provider"]).jobs_missed += 1


_HANDLERS: dict[str, Callable[[Session, dict[str, Any]], None]] = {
    "ModelPublished": _model_published,
    "ProviderSet": _provider_set,
    "ProviderRemoved": _provider_removed,
    "OfferSet": _offer_set,
    "OfferRemoved": _offer_removed,
    "Staked": _staked_more,
    "Unbonded": _staked_more,
    "UnstakeRequested": _staked_less,
    "Bonded": _staked_less,
    "ReplicaPaid": _replica_paid,
    "ReplicaMissed": _replica_missed,
}
"""Vault's Staked, UnstakeRequested, Bonded and Unbonded are exactly the changes of `staked[owner]`."""


# ------------------------------------------------------------------------------------------------------------- SQL


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        in_memory = parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")
        # one connection for all threads; the index's own lock keeps them apart
        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} if in_memory else {}
        engine = create_engine(parsed, **options)
    except SQLAlchemyError as error:
        shown = _shown(url)
        raise ConfigError(f"The index URL {shown} cannot be used: {error.__class__.__name__}.") from None
    if engine.dialect.name == "sqlite":
        # pysqlite begins late and never immediately; https://docs.sqlalchemy.org/en/20/dialects/sqlite.html
        event.listen(engine, "connect", _set_up_connection)
        event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _set_up_connection(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _shown(url: str) -> str:
    """The URL without password and query, for messages."""
    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "(no SQLAlchemy URL)"


@contextmanager
def _readable(url: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise ConfigError(
            f"The index {_shown(url)} cannot be used: {error.__class__.__name__}.",
            hint="Delete the file: everything in it is read from the chain again.",
            reason=str(getattr(error, "orig", error)),
        ) from None


def _read_facts(connection: Connection) -> dict[str, str]:
    if not inspect(connection).has_table(FactRow.__tablename__):
        return {}
    return {row.name: row.value for row in connection.execute(select(FactRow.name, FactRow.value))}


def _load_marks(connection: Connection) -> list[Mark]:
    return [Mark(*row) for row in connection.execute(select(MarkRow.number, MarkRow.hash).order_by(MarkRow.number))]


def _model(row: ModelRow) -> IndexedModel:
    roots = Model(**{field.name: getattr(row, field.name) for field in fields(Model)})
    return IndexedModel(row.model_id, roots, row.name, row.uri)


def _hex(value: str) -> bytes:
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        return b""
