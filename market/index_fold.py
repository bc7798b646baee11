"""What events add up to: models, accounts, offers, drawable lists. A batch is added up in memory, then written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from market.events import Event, decode_log, struct_of
from market.index_tables import AccountRow, ListingRow, LogRow, ModelRow, OfferRow
from market.types import Model
from market.views import Offer

BATCH = 500
"""Rows of one statement: below the databases' limits of bound values."""
T = TypeVar("T")


@dataclass
class _Account:
    endpoint: str = ""
    labels: bytes = bytes(32)
    stake: int = 0
    jobs_paid: int = 0
    jobs_missed: int = 0


def record(connection: Connection, chain_id: int, events: Sequence[Event]) -> None:
    """Stores logs and adds them up; one that is there already (chain, block hash, log index) is left out."""
    if not events:
        return
    above = LogRow.block_number >= min(event.block_number for event in events)
    known = {tuple(row) for row in connection.execute(select(LogRow.block_hash, LogRow.log_index).where(above))}
    events = [event for event in events if (event.block_hash, event.log_index) not in known]
    rows = [
        {
            "chain_id": chain_id,
            "block_hash": event.block_hash,
            "log_index": event.log_index,
            "block_number": event.block_number,
            "subject": subject_of(event),
            "raw": json.dumps(dict(event.raw), separators=(",", ":")),
        }
        for event in events
    ]
    _insert(connection, LogRow, rows)
    _add_up(connection, events)


def rewind(connection: Connection, to_block: int) -> None:
    """Removes the logs above a block, and adds up again what still stands of those whom they changed."""
    fallen = LogRow.block_number > to_block
    question = select(LogRow.subject).where(fallen, LogRow.subject.is_not(None)).distinct()
    subjects = [str(subject) for subject in connection.scalars(question)]
    connection.execute(delete(LogRow).where(fallen))
    standing: list[Event] = []
    for some in _batches(subjects):
        models = [bytes.fromhex(subject[2:]) for subject in some if len(subject) == 66]
        connection.execute(delete(ModelRow).where(ModelRow.model_id.in_(models)))
        connection.execute(delete(AccountRow).where(AccountRow.address.in_(some)))
        connection.execute(delete(OfferRow).where(OfferRow.provider.in_(some)))
        connection.execute(delete(ListingRow).where(ListingRow.provider.in_(some)))
        for raw in connection.scalars(select(LogRow.raw).where(LogRow.subject.in_(some))):
            event = decode_log(json.loads(raw))
            if event is not None:
                standing.append(event)
    _add_up(connection, sorted(standing, key=lambda event: (event.block_number, event.log_index)))


def subject_of(event: Event) -> str | None:
    """Whom the event changes in the index: a model's id, an account's address, or nobody."""
    if event.name == "ModelPublished":
        return f"0x{event.args['modelId'].hex()}"
    name = _SUBJECTS.get(event.name)
    return None if name is None else str(event.args[name])


# ------------------------------------------------------------------------------------------------------ adding up


class _Sum:
    """Changes of one batch, in memory."""

    def __init__(self) -> None:
        self.accounts: dict[str, _Account] = {}
        self.models: list[dict[str, Any]] = []
        self.offers: dict[tuple[bytes, str], Offer | None] = {}  # None: removed
        self.listings: dict[tuple[bytes, str], int | None] = {}  # weight; None: pruned
        self.emptied: set[str] = set()  # providers whose offers of before this batch are gone

    def take(self, event: Event) -> None:
        handler = _HANDLERS.get(event.name)
        if handler is not None:
            handler(self, event)


def _add_up(connection: Connection, events: Sequence[Event]) -> None:
    total = _Sum()
    for some in _batches(
        sorted({str(event.args[_SUBJECTS[event.name]]) for event in events if event.name in _SUBJECTS})
    ):
        for address, *values in connection.execute(select(*_ACCOUNT_COLUMNS).where(AccountRow.address.in_(some))):
            total.accounts[address] = _Account(*values)
    for event in events:
        total.take(event)
    _insert(connection, ModelRow, total.models)
    _write_accounts(connection, total.accounts)
    _write_offers(connection, total)
    _write_listings(connection, total)


def _write_accounts(connection: Connection, accounts: dict[str, _Account]) -> None:
    for some in _batches(accounts):
        connection.execute(delete(AccountRow).where(AccountRow.address.in_(some)))
    _insert(connection, AccountRow, [{"address": address, **asdict(row)} for address, row in accounts.items()])


def _write_offers(connection: Connection, total: _Sum) -> None:
    for providers in _batches(sorted(total.emptied)):
        connection.execute(delete(OfferRow).where(OfferRow.provider.in_(providers)))
    for keys in _batches(total.offers):
        connection.execute(delete(OfferRow).where(tuple_(OfferRow.model_id, OfferRow.provider).in_(keys)))
    rows = [
        {"model_id": model_id, "provider": provider, **vars(offer)}
        for (model_id, provider), offer in total.offers.items()
        if offer is not None
    ]
    _insert(connection, OfferRow, rows)


def _write_listings(connection: Connection, total: _Sum) -> None:
    for keys in _batches(total.listings):
        connection.execute(delete(ListingRow).where(tuple_(ListingRow.model_id, ListingRow.provider).in_(keys)))
    rows = [
        {"model_id": model_id, "provider": provider, "weight": weight}
        for (model_id, provider), weight in total.listings.items()
        if weight is not None
    ]
    _insert(connection, ListingRow, rows)


def _insert(connection: Connection, kind: type[Any], rows: Sequence[dict[str, Any]]) -> None:
    """New rows; one that is there already stays as it is."""
    table: Table = kind.__table__
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).on_conflict_do_nothing()
    for some in _batches(rows):
        connection.execute(statement, some)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, BATCH)):
        yield some


_ACCOUNT_FIELDS = tuple(field.name for field in fields(_Account))
_ACCOUNT_COLUMNS = (AccountRow.address, *(getattr(AccountRow, name) for name in _ACCOUNT_FIELDS))


# ------------------------------------------------------------------------------------------------------ what events do


def _model_published(total: _Sum, event: Event) -> None:
    args = event.args
    total.models.append(
        {
            "model_id": args["modelId"],
            "block_number": event.block_number,
            "log_index": event.log_index,
            "name": args["name"],
            "uri": args["uri"],
            "publisher": args["publisher"],
            **vars(struct_of(Model, args["roots"])),
        }
    )


def _account(total: _Sum, event: Event) -> _Account:
    return total.accounts.setdefault(str(event.args[_SUBJECTS[event.name]]), _Account())


def _provider_set(total: _Sum, event: Event) -> None:
    account = _account(total, event)
    account.endpoint, account.labels = event.args["endpoint"], event.args["labels"]


def _provider_removed(total: _Sum, event: Event) -> None:
    account = _account(total, event)
    account.endpoint, account.labels = "", bytes(32)
    provider = event.args["provider"]
    total.emptied.add(provider)
    for key in [key for key in total.offers if key[1] == provider]:
        del total.offers[key]


def _offer_set(total: _Sum, event: Event) -> None:
    _account(total, event)
    total.offers[event.args["modelId"], event.args["provider"]] = struct_of(Offer, event.args["offer"])


def _offer_removed(total: _Sum, event: Event) -> None:
    total.offers[event.args["modelId"], event.args["provider"]] = None


def _offer_listed(total: _Sum, event: Event) -> None:
    total.listings[event.args["modelId"], event.args["provider"]] = event.args["weight"]


def _offer_pruned(total: _Sum, event: Event) -> None:
    total.listings[event.args["modelId"], event.args["provider"]] = None


def _staked_more(total: _Sum, event: Event) -> None:
    _account(total, event).stake += event.args["amount"]


def _staked_less(total: _Sum, event: Event) -> None:
    _account(total, event).stake -= event.args["amount"]


def _replica_paid(total: _Sum, event: Event) -> None:
    _account(total, event).jobs_paid += 1


def _replica_missed(total: _Sum, event: Event) -> None:
    _account(total, event).jobs_missed += 1


_HANDLERS: dict[str, Callable[[_Sum, Event], None]] = {
    "ModelPublished": _model_published,
    "ProviderSet": _provider_set,
    "ProviderRemoved": _provider_removed,
    "OfferSet": _offer_set,
    "OfferRemoved": _offer_removed,
    "OfferListed": _offer_listed,
    "OfferPruned": _offer_pruned,
    "Staked": _staked_more,
    "Unbonded": _staked_more,
    "UnstakeRequested": _staked_less,
    "Bonded": _staked_less,
    "ReplicaPaid": _replica_paid,
    "Proved": _replica_paid,
    "ReplicaMissed": _replica_missed,
}
"""Vault's Staked, UnstakeRequested, Bonded and Unbonded are exactly the changes of `staked[owner]`. A proof job that
expires is held against nobody: its client may have kept the input back, at the price of some gas."""

_SUBJECTS: dict[str, str] = {
    **dict.fromkeys(("ProviderSet", "ProviderRemoved", "OfferSet", "OfferRemoved"), "provider"),
    **dict.fromkeys(("OfferListed", "OfferPruned"), "provider"),
    **dict.fromkeys(("ReplicaPaid", "ReplicaMissed", "Proved"), "provider"),
    **dict.fromkeys(("Staked", "Unbonded", "UnstakeRequested", "Bonded"), "owner"),
}
"""Which argument of an event names the account that it changes. Every handled event but ModelPublished is here."""
