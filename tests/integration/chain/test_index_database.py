"""The index's database: SQLite and a real Postgres, migrations, and every way it can be unusable: it fails closed."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select

from market import index_database
from market.chain import Call
from market.deployment import DeploymentParameters, deploy
from market.errors import ConfigError
from market.index import Index
from market.index_tables import REVISION, Base, LogRow
from tests.integration.chain.test_index import OTHER, assert_fresh, contents, index, rows
from tests.integration.chain.world import CLIENT, DEPLOYER, World


def test_migrations_make_exactly_the_tables(calm_world: World, database: str) -> None:
    with index(calm_world, database) as found, found._database.reader.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    config = Config()
    config.set_main_option("script_location", "market:index_migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_log_is_stored_once_by_chain_block_and_place(calm_world: World, database: str) -> None:
    with index(calm_world, database) as found:
        found.sync()
        key = [column.name for column in LogRow.__table__.primary_key]
        assert key == ["chain_id", "block_hash", "log_index"]
        with found._database.reader.connect() as connection:
            logs = connection.execute(select(LogRow.chain_id, LogRow.block_hash, LogRow.log_index)).all()
        assert len(logs) == len(set(logs)) > 10


def test_index_of_an_installation_before_migrations_is_read_anew(world: World, tmp_path: Path) -> None:
    world.publish()
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT)")
        old.execute("INSERT INTO facts VALUES ('version', '1')")
        old.execute("CREATE TABLE models (model_id BLOB PRIMARY KEY, sequence INTEGER)")
    old.close()
    with index(world, f"sqlite:///{path}") as found:
        found.sync()
        assert_fresh(world, found)


def test_index_of_a_newer_installation_is_left_as_it_is(world: World, database: str) -> None:
    world.publish()
    with index(world, database) as found:
        found.sync()
        with found._database.writing() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer installation") as refused:
        Index(database, world.chain, world.deployment)
    assert refused.value.code == "NewerIndex"


def test_database_of_another_program_is_left_as_it_is(world: World, tmp_path: Path) -> None:
    path = tmp_path / "books.sqlite"
    with sqlite3.connect(path) as books:
        books.execute("CREATE TABLE accounts (owner TEXT)")
        books.execute("INSERT INTO accounts VALUES ('somebody')")
    with pytest.raises(ConfigError, match="another program"):
        Index(f"sqlite:///{path}", world.chain, world.deployment)
    assert books.execute("SELECT owner FROM accounts").fetchall() == [("somebody",)]
    books.close()


def test_two_markets_share_one_postgres_without_touching_each_other(world: World, postgres: str) -> None:
    world.publish()
    with world.as_(DEPLOYER) as transactions:
        other = deploy(world.chain, transactions, parameters=DeploymentParameters(token=world.token.address))
    with index(world, postgres) as one:
        one.sync()
        two = Index(postgres, world.chain, other)
        two.sync()
        assert len(one.models()) == 1
        assert len(two.models()) == 0
        two.close()
        assert_fresh(world, one)


def test_many_that_share_a_database_take_each_event_over_once(world: World, database: str) -> None:
    world.publish()
    shared = [Index(database, world.chain, world.deployment) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            world.send(CLIENT, world.token.mint(world.account(CLIENT).address, 1))
            world.send(DEPLOYER, world.registry.set_provider(f"http://{number}.example"))
            list(pool.map(lambda one: one.sync(), shared))
    for one in shared:
        assert contents(one) == contents(shared[0])
        assert rows(one) == rows(shared[0])
    assert_fresh(world, shared[0])
    for one in shared:
        one.close()


def test_name_that_is_no_text_does_not_stop_the_index(world: World, database: str) -> None:
    """Contracts take any bytes as a string: one hostile name must not blind every client for ever."""
    world.publish()
    call = world.registry.publish_model(OTHER, "ab", "c")
    data = call.data.replace(b"ab" + bytes(30), b"\xff\x00" + bytes(30))
    assert data != call.data
    world.send(CLIENT, Call(call.to, data, call.label))
    with index(world, database) as found:
        found.sync()
        assert [model.name for model in found.models()] == ["toy", "\ufffd\ufffd"]
        assert_fresh(world, found)


# ------------------------------------------------------------------------------------------------------- unusable


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_database, "LOCK_SECONDS", 1)


def test_locked_sqlite_says_so_and_takes_nothing_over(world: World, tmp_path: Path, hurried: None) -> None:
    path = tmp_path / "index.sqlite"
    with index(world, f"sqlite:///{path}") as found:
        found.sync()
        before = rows(found)
        world.publish()
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match="nothing was taken over") as locked:
            found.sync()
        assert locked.value.code == "IndexLocked"
        assert rows(found) == before  # look-ups go on
        holder.execute("ROLLBACK")
        holder.close()
        assert found.sync() == 1
        assert_fresh(world, found)


def test_locked_postgres_says_so_and_takes_nothing_over(world: World, postgres: str, hurried: None) -> None:
    with index(world, postgres) as found:
        found.sync()
        world.publish()
        with psycopg.connect(postgres) as holder:
            holder.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [found._database._schema])
            with pytest.raises(ConfigError) as locked:
                found.sync()
            assert locked.value.code == "IndexLocked"
        assert found.sync() == 1
        assert_fresh(world, found)


FULL_DISK = """
import resource, sys
from pathlib import Path
from market.chain import Chain
from market.deployment import Deployment
from market.errors import ConfigError
from market.index import Index
path = Path(sys.argv[3])
found = Index(f"sqlite:///{path}", Chain(sys.argv[1]), Deployment.load(Path(sys.argv[2])))
written = max(file.stat().st_size for file in path.parent.glob(path.name + "*"))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (written + 512, hard))
try:
    found.sync()
except ConfigError as error:
    print(error.code, error.message)
print(len(found.models()))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
found.sync()
print(len(found.models()))
"""


def test_full_disk_says_so_and_takes_nothing_over(world: World, tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the same failed write, without a file system of its own."""
    world.publish()
    world.deployment.save(tmp_path / "deployment.json")
    path = tmp_path / "full" / "index.sqlite"
    path.parent.mkdir()
    arguments = [world.anvil.rpc_url, str(tmp_path / "deployment.json"), str(path)]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    said, before, after = done.stdout.splitlines()
    assert said.startswith("IndexDiskFull")
    assert "nothing was taken over" in said
    assert (before, after) == ("0", "1")
    with index(world, f"sqlite:///{path}") as found:
        assert_fresh(world, found)


def test_file_that_is_no_database_says_what_to_do(calm_world: World, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_text("no database" * 500, encoding="utf-8")
    with pytest.raises(ConfigError, match="Delete the file"):
        Index(f"sqlite:///{path}", calm_world.chain, calm_world.deployment)


def test_postgres_that_is_not_there_or_refuses_says_so_without_the_password(calm_world: World, postgres: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"postgresql://u:Canary@127.0.0.1:{probe.getsockname()[1]}/index?application_name=Canary"
        refused = postgres.replace("CanaryOfPostgres", "CanaryOther")
        for url in (nowhere, refused):
            with pytest.raises(ConfigError, match="cannot be reached") as away:
                Index(url, calm_world.chain, calm_world.deployment)
            assert away.value.code == "IndexUnreachable"
            assert "Canary" not in str(away.value) + str(away.value.details)


def test_postgres_without_its_driver_says_what_to_install(calm_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"assay\[postgres\]") as missing:
        Index("postgresql://u:Canary@h/index", calm_world.chain, calm_world.deployment)
    assert missing.value.code == "DriverMissing"
    assert "Canary" not in str(missing.value)


@pytest.mark.parametrize("url", ["nodb://u:Canary@h/index?key=Canary", "Canary", "mysql://u:Canary@h/index"])
def test_url_of_no_known_database_is_shown_without_its_password(calm_world: World, url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Index(url, calm_world.chain, calm_world.deployment)
    assert "Canary" not in str(refused.value) + str(refused.value.details)


def test_connection_that_postgres_ended_is_made_anew(world: World, postgres: str) -> None:
    with index(world, postgres) as found:
        found.sync()
        world.publish()
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        assert found.sync() == 1
        assert_fresh(world, found)
