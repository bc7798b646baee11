"""Tables of the local index (SQLAlchemy, SQLite by default). Logs are the truth; the rest is what they add up to."""

from __future__ import annotations

from sqlalchemy import Dialect, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

VERSION = 1
"""Of the tables. Another version, or another market, is dropped and read from the chain again."""


class Amount(TypeDecorator[int]):
    """uint128 and uint256 as decimal text: SQLite's integers have 64 bits."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:  # noqa: ARG002 (SQLAlchemy's signature)
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else int(value)


class Base(DeclarativeBase):
    type_annotation_map = {bytes: LargeBinary}  # noqa: RUF012 (SQLAlchemy's own declaration)


class FactRow(Base):
    """Which market this is an index of: name → value."""

    __tablename__ = "facts"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class MarkRow(Base):
    """Blocks that were read."""

    __tablename__ = "marks"
    number: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str]


class LogRow(Base):
    """Every log that was applied, as JSON-RPC gave it: a rewind replays what still stands."""

    __tablename__ = "logs"
    block_hash: Mapped[str] = mapped_column(primary_key=True)
    log_index: Mapped[int] = mapped_column(primary_key=True)
    block_number: Mapped[int] = mapped_column(index=True)
    raw: Mapped[str]


class ModelRow(Base):
    """A published model; `sequence` is the order of publication."""

    __tablename__ = "models"
    model_id: Mapped[bytes] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(index=True)
    name: Mapped[str] = mapped_column(index=True)
    uri: Mapped[str]
    publisher: Mapped[str]
    weights_root: Mapped[bytes]
    program_root: Mapped[bytes]
    tables_root: Mapped[bytes]
    tokenizer_hash: Mapped[bytes]
    template_hash: Mapped[bytes]


class AccountRow(Base):
    """What is known of an address; `endpoint` is "" while it is no provider."""

    __tablename__ = "accounts"
    address: Mapped[str] = mapped_column(primary_key=True)
    endpoint: Mapped[str] = mapped_column(default="")
    labels: Mapped[bytes] = mapped_column(default=bytes(32))
    stake: Mapped[int] = mapped_column(Amount, default=0)
    jobs_paid: Mapped[int] = mapped_column(default=0)
    jobs_missed: Mapped[int] = mapped_column(default=0)


class OfferRow(Base):
    """A provider's offer for a model."""

    __tablename__ = "offers"
    model_id: Mapped[bytes] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(ForeignKey(AccountRow.address), primary_key=True)
    token: Mapped[str]
    base_fee: Mapped[int] = mapped_column(Amount)
    price_per_m_input: Mapped[int] = mapped_column(Amount)
    price_per_m_output: Mapped[int] = mapped_column(Amount)
    max_input_tokens: Mapped[int]
    max_output_tokens: Mapped[int]
    modes: Mapped[int]

    __table_args__ = (Index("offers_of_provider", "provider"),)
