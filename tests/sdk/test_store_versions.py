"""Stores of earlier versions: still opened, migrated whole or not at all, never by a reader."""

import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rwml import Trajectory, open_store
from rwml.errors import StoreError
from rwml.store import database
from rwml.store.erasure import other_keys
from rwml.store.migrations import MIGRATIONS, Migration
from rwml.store.tables import STORE_VERSION
from rwml.testing import make_trajectory

GOLDEN = sorted((Path(__file__).parent / "golden").glob("store_v*.db"))


def test_every_version_has_its_golden_store_and_its_migration() -> None:
    versions = range(1, STORE_VERSION + 1)
    assert [path.stem for path in GOLDEN] == [f"store_v{version}" for version in versions]
    assert [migration.version for migration in MIGRATIONS] == list(versions)[1:]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_golden_store_is_read_and_written(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    shutil.copy(golden, path)
    texts = json.loads(golden.with_suffix(".json").read_text(encoding="utf-8"))
    expected = [Trajectory.model_validate_json(json.dumps(text)) for text in texts]
    with open_store(f"sqlite:///{path}") as store:
        assert list(store.trajectories()) == expected
        assert store.stats().trajectories == len(expected) == 3
        for trajectory in expected:
            store.add(trajectory)  # the same rows: nothing is doubled
        assert list(store.trajectories()) == expected
        store.add(make_trajectory(5))
        assert store.counts().trajectories == 4
        if golden.stem > "store_v2":
            assert store.pseudonyms("everything") == {b"d" * 16: "<EMAIL_1>"}
            assert other_keys(store) == 1


def add_column(connection: Connection) -> None:
    connection.exec_driver_sql("alter table trajectories add column extra integer default 7")


def break_off(connection: Connection) -> None:
    connection.exec_driver_sql("update trajectories set source = 'half migrated'")
    connection.exec_driver_sql("alter table trajectories add column broken integer")
    raise StoreError("the disk is full")


@pytest.fixture
def old(url: str) -> str:
    """A store of today's version, which the tests' later versions migrate."""
    with open_store(url) as store:
        store.add(make_trajectory(1))
    return url


def use(monkeypatch: pytest.MonkeyPatch, *migrations: Migration) -> None:
    monkeypatch.setattr(database, "MIGRATIONS", migrations)
    monkeypatch.setattr(database, "STORE_VERSION", STORE_VERSION + len(migrations))


def look(url: str, query: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return rows


def test_an_older_store_is_migrated_once(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    first = Migration(STORE_VERSION + 1, add_column)
    second = Migration(STORE_VERSION + 2, lambda _: calls.append("second"))
    use(monkeypatch, first, second)
    for _ in range(2):
        with open_store(old) as store:
            assert list(store.trajectories()) == [make_trajectory(1)]
    assert calls == ["second"]
    assert look(old, "select version from rwml_schema") == [(STORE_VERSION + 2,)]
    assert look(old, "select extra from trajectories") == [(7,)]


def test_a_migration_that_fails_changes_nothing(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Migration(STORE_VERSION + 1, add_column)
    use(monkeypatch, first, Migration(STORE_VERSION + 2, break_off))
    with pytest.raises(StoreError, match="disk is full"):
        open_store(old)
    monkeypatch.undo()
    with open_store(old) as store:
        assert list(store.trajectories()) == [make_trajectory(1)]
    assert look(old, "select version from rwml_schema") == [(STORE_VERSION,)]
    assert look(old, "select source from trajectories") == [("shop",)]
    assert "extra" not in columns(old)
    assert "broken" not in columns(old)


def columns(url: str) -> set[str]:
    engine = sa.create_engine(url)
    found = {column["name"] for column in sa.inspect(engine).get_columns("trajectories")}
    engine.dispose()
    return found


def test_a_reader_leaves_an_older_store_alone(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Migration(STORE_VERSION + 1, add_column))
    with pytest.raises(StoreError, match="opening it for writing once"):
        open_store(old, create=False)
    assert "extra" not in columns(old)


def test_a_missing_migration_is_refused(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Migration(STORE_VERSION + 2, add_column))
    monkeypatch.setattr(database, "STORE_VERSION", STORE_VERSION + 2)
    with pytest.raises(StoreError, match="no way from store version"):
        open_store(old)
    assert "extra" not in columns(old)
