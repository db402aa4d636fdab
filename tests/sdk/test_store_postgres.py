"""The store on a PostgreSQL server that others use too."""

import threading
import time

import pytest
import sqlalchemy as sa

from rwml import open_store
from rwml.errors import StoreError
from rwml.testing import make_trajectory


def execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_keys_are_compared_by_bytes_whatever_the_locale(postgres_url: str) -> None:
    open_store(postgres_url).close()
    engine = sa.create_engine(postgres_url)
    query = (
        "select relname || '.' || attname from pg_attribute"
        " join pg_class on attrelid = pg_class.oid"
        " join pg_collation on attcollation = pg_collation.oid"
        " where relname in ('trajectories', 'steps') and collname = 'C'"
    )
    with engine.connect() as connection:
        found = set(connection.exec_driver_sql(query).scalars())
    engine.dispose()
    keys = {f"trajectories.{name}" for name in ("id", "source", "task_id", "split")}
    assert found == {*keys, "steps.trajectory_id"}


def test_a_shared_database_is_used_beside_others_tables(postgres_url: str) -> None:
    execute(postgres_url, "create table customers (a int)")
    with open_store(postgres_url) as store:
        store.add(make_trajectory(1))
        assert store.counts().trajectories == 1


def test_tables_of_another_program_are_refused(postgres_url: str) -> None:
    execute(postgres_url, "create table steps (a int)")
    for create in (True, False):
        with pytest.raises(StoreError, match="another program"):
            open_store(postgres_url, create=create)


def test_a_reader_makes_no_tables(postgres_url: str) -> None:
    with pytest.raises(StoreError, match="is no rwml store"):
        open_store(postgres_url, create=False)
    with open_store(postgres_url) as store:
        assert store.counts().trajectories == 0


def test_broken_connections_are_replaced(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        store.add(make_trajectory(1))
        execute(
            postgres_url,
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid != pg_backend_pid()",
        )
        store.add(make_trajectory(2))
        assert store.counts().trajectories == 2


def test_a_server_that_is_away_is_a_store_error_without_the_password(postgres_url: str) -> None:
    away = sa.make_url("postgresql://user:hunter2@/nowhere?host=/nonexistent")
    with pytest.raises(StoreError, match="cannot open") as caught:
        open_store(away.render_as_string(hide_password=False))
    assert "hunter2" not in str(caught.value)


def test_a_deadlock_with_another_writer_is_tried_again(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    touch = "update trajectories set split = 'other' where id = 'shop-{}'"
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with open_store(postgres_url) as store, engine.connect() as other, engine.connect() as watch:
        headers = [make_trajectory(task) for task in (1, 2)]
        store.write(headers=headers)
        other.exec_driver_sql("set deadlock_timeout = '60s'")  # so that the store is broken off
        other.exec_driver_sql(touch.format(2))
        writer = threading.Thread(target=lambda: store.write(headers=headers))
        writer.start()
        deadline = time.monotonic() + 30
        while not watch.exec_driver_sql(waiting).scalar():
            watch.rollback()
            assert time.monotonic() < deadline
        other.exec_driver_sql(touch.format(1))
        other.commit()
        writer.join()
        assert watch.exec_driver_sql("select split from trajectories").scalars().all() == [None] * 2
        watch.rollback()
        broken = "select deadlocks from pg_stat_database where datname = current_database()"
        while not watch.exec_driver_sql(broken).scalar():
            watch.rollback()
            assert time.monotonic() < deadline
    engine.dispose()
