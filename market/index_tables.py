"""Tables of the local index (SQLAlchemy; SQLite and Postgres). Logs are the truth; the rest is what they add up to.

A change here needs a migration in market/index_migrations; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Dialect, Index, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

REVISION = "0002"
"""The newest migration: an index of this revision is opened without Alembic."""


class Amount(TypeDecorator[int]):
    """uint128 and uint256 as decimal text: the databases' integers have 64 bits."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:  # noqa: ARG002 (SQLAlchemy's signature)
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else int(value)


class Base(DeclarativeBase):
    type_annotation_map = {bytes: LargeBinary, int: BigInteger}  # noqa: RUF012 (SQLAlchemy's own declaration)


class FactRow(Base):
    """Which market this is an index of: name → value."""

    __tablename__ = "facts"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class MarkRow(Base):
    """Blocks that were read."""

    __tablename__ = "marks"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[str]


class LogRow(Base):
    """Every log that was taken over, as JSON-RPC gave it; `subject` is whom it changes: an address, a model id, nobody.

    A rewind adds up again what still stands of the subjects whose logs fell.
    """

    __tablename__ = "logs"
    chain_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    block_hash: Mapped[str] = mapped_column(primary_key=True)
    log_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    block_number: Mapped[int] = mapped_column(index=True)
    subject: Mapped[str | None] = mapped_column(index=True)
    raw: Mapped[str]


class ModelRow(Base):
    """A published model; block and log say in which order."""

    __tablename__ = "models"
    model_id: Mapped[bytes] = mapped_column(primary_key=True)
    block_number: Mapped[int]
    log_index: Mapped[int]
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
    endpoint: Mapped[str]
    labels: Mapped[bytes]
    stake: Mapped[int] = mapped_column(Amount)
    jobs_paid: Mapped[int]
    jobs_missed: Mapped[int]


class OfferRow(Base):
    """A provider's offer for a model."""

    __tablename__ = "offers"
    model_id: Mapped[bytes] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str]
    base_fee: Mapped[int] = mapped_column(Amount)
    price_per_m_input: Mapped[int] = mapped_column(Amount)
    price_per_m_output: Mapped[int] = mapped_column(Amount)
    max_input_tokens: Mapped[int]
    max_output_tokens: Mapped[int]
    modes: Mapped[int]
    max_bond: Mapped[int] = mapped_column(Amount, server_default="0")

    __table_args__ = (Index("offers_of_provider", "provider"),)


class ListingRow(Base):
    """A provider's entry in the drawable list of a model. It outlives the offer until somebody prunes it."""

    __tablename__ = "listings"
    model_id: Mapped[bytes] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    weight: Mapped[int]

    __table_args__ = (Index("listings_of_provider", "provider"),)
