"""The index's database: opening SQLite or Postgres by URL, its migrations, and what its errors mean.

On Postgres, each market has a schema of its own in the database that the URL names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, insert, inspect, make_url, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from market.errors import ConfigError
from market.index_tables import REVISION, Base, FactRow

POSTGRES = "postgresql"
LOCK_SECONDS = 10
"""How long a writer waits for another one."""
_OURS = frozenset({*Base.metadata.tables, "alembic_version"})


class IndexDatabase:
    """An opened index of one market, its tables as this installation writes them.

    Args:
        url: SQLAlchemy URL: sqlite:///…, "sqlite://" (memory), postgresql://….
        identity: facts that name the market. An index of another market, or of an installation before migrations, is
            dropped and read from the chain again.
        schema: of the market's tables, on Postgres.

    Raises:
        ConfigError: it cannot be opened, holds another program's tables, or was written by a newer installation.
    """

    def __init__(self, url: str, identity: dict[str, str], *, schema: str) -> None:
        self._url = url
        self._schema = schema
        self.engine = _engine(url, schema)
        self.reader = self.engine.execution_options(reads=True)
        try:
            with self.usable():
                self._prepare(identity)
        except BaseException:
            self.engine.dispose()
            raise

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Makes ConfigError of the database's own errors inside."""
        try:
            yield
        except SQLAlchemyError as error:
            raise _config_error(self._url, error) from None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer of this index is in."""
        with self.engine.begin() as connection:  # on SQLite it begins IMMEDIATE
            if connection.dialect.name == POSTGRES:
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": self._schema})
            yield connection

    def _prepare(self, identity: dict[str, str]) -> None:
        with self.reader.connect() as connection:
            if _revision(connection) == REVISION and _facts(connection) == identity:
                return
        with self.writing() as connection:
            if connection.dialect.name == POSTGRES:
                connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"'))
            tables = set(inspect(connection).get_table_names())
            if tables and "facts" not in tables:
                raise ConfigError(
                    f"The database {_shown(self._url)} holds tables of another program; it was left as it is.",
                    hint="Name a database of its own for the index.",
                    code="NotAnIndex",
                )
            known = _revision(connection)
            if tables and (known is None or _facts(connection) != identity):
                for table in tables & _OURS:
                    connection.execute(text(f'DROP TABLE "{table}"'))
            self._migrate(connection)
            connection.execute(delete(FactRow))
            connection.execute(insert(FactRow), [{"name": name, "value": value} for name, value in identity.items()])

    def _migrate(self, connection: Connection) -> None:
        from alembic import command  # a tenth of a second that an index which is up to date never pays
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", "market:index_migrations")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise ConfigError(
                f"The index {_shown(self._url)} was written by a newer installation; it was left as it is.",
                hint="Update this installation, or name another index.",
                code="NewerIndex",
                revision=_revision(connection),
            ) from None


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _facts(connection: Connection) -> dict[str, str]:
    if not inspect(connection).has_table(FactRow.__tablename__):
        return {}
    return {row.name: row.value for row in connection.execute(select(FactRow.name, FactRow.value))}


def _engine(url: str, schema: str) -> Engine:
    try:
        parsed = _with_driver(make_url(url))
        options: dict[str, Any] = {}
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            # one connection for all threads; the index's own lock keeps them apart
            options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        elif parsed.get_backend_name() == POSTGRES:
            options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": LOCK_SECONDS}}
        engine = create_engine(parsed, **options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The index {_shown(url)} needs the package {error.name}, which is not installed.",
            hint="pip install 'assay[postgres]'.",
            code="DriverMissing",
        ) from None
    except SQLAlchemyError as error:
        raise ConfigError(f"The index URL {_shown(url)} cannot be used: {error.__class__.__name__}.") from None
    if engine.dialect.name == "sqlite":
        # pysqlite begins late and never immediately; https://docs.sqlalchemy.org/en/20/dialects/sqlite.html
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin)
    elif engine.dialect.name == POSTGRES:

        def search_own_schema(connection: Any, _record: object) -> None:
            connection.autocommit = True
            connection.execute(f'SET search_path TO "{schema}"')
            connection.autocommit = False

        event.listen(engine, "connect", search_own_schema)
    else:
        raise ConfigError(f"The index URL {_shown(url)} cannot be used: only SQLite and Postgres are.")
    return engine


def _with_driver(url: URL) -> URL:
    """postgres:// and postgresql:// mean psycopg 3."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgres", POSTGRES) else url


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in (f"busy_timeout={LOCK_SECONDS * 1000}", "journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _shown(url: str) -> str:
    """The URL without password and query, for messages."""
    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "(no SQLAlchemy URL)"


def _config_error(url: str, error: SQLAlchemyError) -> ConfigError:
    shown, reason = _shown(url), str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    if "locked" in reason or state.startswith("55P"):
        return ConfigError(
            f"The index {shown} is locked by another program for more than {LOCK_SECONDS} s; nothing was taken over.",
            hint="Try again; what the index had before stays, and no money depends on it.",
            code="IndexLocked",
            reason=reason,
        )
    if "disk is full" in reason or "disk I/O error" in reason or state.startswith("53"):
        return ConfigError(
            f"The disk of the index {shown} is full or broken ({reason}); nothing was taken over.",
            hint="Free disk space; what the index had before stays, and no money depends on it.",
            code="IndexDiskFull",
            reason=reason,
        )
    if url.startswith("postgres"):
        away = isinstance(error, OperationalError)
        return ConfigError(
            f"The index {shown} cannot be {'reached' if away else 'used'} ({error.__class__.__name__}); "
            "nothing was taken over.",
            hint="Check that Postgres runs and the URL, user and password are right.",
            code="IndexUnreachable" if away else "IndexUnusable",
            # psycopg's own words name host and user, never the password
            reason=reason,
        )
    return ConfigError(
        f"The index {shown} cannot be used: {error.__class__.__name__}.",
        hint="Delete the file: everything in it is read from the chain again.",
        code="IndexUnusable",
        reason=reason,
    )
