"""Retention: whole trajectories go, the oldest first, and never one that is being recorded."""

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from rwml import Message, Step, Store, Trajectory, open_store
from rwml.errors import StoreError, UsageError
from rwml.retention import (
    FRESH_S,
    Pruned,
    Retention,
    Sweeper,
    parse_duration,
    parse_size,
)
from rwml.store import retention as sql
from rwml.store.batches import Batch
from rwml.store.retention import used_bytes
from rwml.store.tables import pseudonyms, trajectories
from rwml.testing import make_trajectory

DAY = 86_400.0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwml.retention.PAUSE_S", 0.0)


def set_age(store: Store, id: str, age_s: float) -> None:
    then = sa.update(trajectories).where(trajectories.c.id == id)
    store._transact(lambda c: c.execute(then.values(recorded_at=time.time() - age_s)))


def add(store: Store, task: int, *, age_s: float = 0.0, bulk: int = 0) -> str:
    """Adds a trajectory that was last written a while ago; `bulk` makes it that much larger."""
    made = make_trajectory(task)
    big = Step(index=4, action=Message(role="assistant", content=noise(task, bulk)))
    made = made.model_copy(update={"steps": (*made.steps, big)}) if bulk else made
    store.add(made)
    set_age(store, made.id, age_s)
    return made.id


def noise(seed: int, length: int) -> str:
    """Text that PostgreSQL cannot compress much."""
    return random.Random(seed).randbytes(length // 2).hex()


def ids(store: Store) -> list[str]:
    return [t.id for t in store.trajectories()]


def test_what_is_older_than_the_ttl_goes_whole(store: Store) -> None:
    add(store, 1, age_s=31 * DAY)
    add(store, 2, age_s=29 * DAY)
    add(store, 3, age_s=90 * DAY)
    name = {"trajectory_id": "shop-1", "digest": b"d", "name": "<EMAIL_1>"}
    store._transact(lambda c: c.execute(sa.insert(pseudonyms).values(name)))
    retention = Retention.parse("30d")
    planned = retention.plan(store)
    assert (planned.trajectories, planned.steps) == (2, 8)
    assert ids(store) == ["shop-1", "shop-2", "shop-3"]  # only planned
    pruned = retention.enforce(store)
    assert (pruned.trajectories, pruned.steps) == (2, 8)
    assert pruned.bytes_before >= pruned.bytes_after > 0
    assert list(store.trajectories()) == [make_trajectory(2)]
    assert store.counts().orphans == 0
    assert store.pseudonyms("shop-1") == {}
    again = retention.enforce(store)
    assert (again.trajectories, again.steps) == (0, 0)


def test_no_limit_removes_nothing(store: Store) -> None:
    add(store, 1, age_s=1000 * DAY)
    assert Retention().enforce(store).trajectories == 0
    assert Retention().plan(store).trajectories == 0
    assert ids(store) == ["shop-1"]


def test_the_oldest_go_until_the_rest_fits(store: Store) -> None:
    for task in range(20):
        add(store, task, age_s=DAY * (20 - task), bulk=50_000)
    limit = used_bytes(store) - 300_000
    retention = Retention(max_bytes=limit)
    planned = retention.plan(store)
    pruned = retention.enforce(store)
    left = sorted(int(name.removeprefix("shop-")) for name in ids(store))
    assert left == list(range(20 - len(left), 20))  # a run of the newest
    assert 12 <= len(left) <= 14  # 6 of 50 kB are enough, 8 would be too many
    assert abs(planned.trajectories - pruned.trajectories) <= 1
    assert pruned.bytes_before > limit >= pruned.bytes_after == used_bytes(store)
    assert pruned.trajectories == 20 - len(left)
    assert retention.enforce(store).trajectories == 0  # and not more with every sweep


def test_one_that_is_too_large_alone_goes(store: Store) -> None:
    add(store, 1, age_s=DAY, bulk=2_000_000)
    add(store, 2, age_s=DAY / 2)
    assert Retention(max_bytes=1_000_000).enforce(store).trajectories == 1
    assert ids(store) == ["shop-2"]


def test_what_is_being_recorded_stays(store: Store) -> None:
    add(store, 1, bulk=200_000)
    add(store, 2, age_s=FRESH_S / 2, bulk=200_000)
    retention = Retention(ttl_s=0.001, max_bytes=1)
    planned, pruned = retention.plan(store), retention.enforce(store)
    assert (planned.trajectories, pruned.trajectories) == (0, 0)
    assert pruned.bytes_after > 1  # and it does not claim otherwise
    set_age(store, "shop-2", FRESH_S + 60)
    assert retention.enforce(store).trajectories == 1
    assert ids(store) == ["shop-1"]


def test_a_conversation_that_goes_on_is_not_old(store: Store) -> None:
    add(store, 1, age_s=40 * DAY)
    store.write_batch(Batch(touched={"shop-1": time.time()}))
    assert Retention.parse("30d").enforce(store).trajectories == 0


def test_many_go_in_small_transactions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "BATCH_TRAJECTORIES", 3)
    for task in range(10):
        add(store, task, age_s=DAY)
    batches: list[int] = []

    def count(store: Store, limits: sql.Limits) -> sql.Removed:
        removed = sql.remove_batch(store, limits)
        batches.append(removed.trajectories)
        return removed

    monkeypatch.setattr("rwml.retention.remove_batch", count)
    assert Retention(ttl_s=3600).enforce(store).trajectories == 10
    assert batches == [3, 3, 3, 1, 0]


def test_it_stops_between_two_transactions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "BATCH_TRAJECTORIES", 1)
    for task in range(3):
        add(store, task, age_s=DAY)
    stop = threading.Event()

    def stopping(store: Store, limits: sql.Limits) -> sql.Removed:
        stop.set()
        return sql.remove_batch(store, limits)

    monkeypatch.setattr("rwml.retention.remove_batch", stopping)
    assert Retention(ttl_s=3600).enforce(store, stop=stop).trajectories == 1
    assert len(ids(store)) == 2


def test_one_that_is_written_meanwhile_stays(store: Store) -> None:
    """Chosen as old, written before it is removed: looked at again under the lock."""
    add(store, 1, age_s=DAY)
    limits = Retention(ttl_s=3600)._limits()
    with store._reading() as connection:
        assert [old.key for old in sql._oldest(store._reading, before=limits.fresh)] == ["shop-1"]
        connection.rollback()
    add(store, 1)
    assert sql.remove_batch(store, limits) == sql.Removed()
    assert ids(store) == ["shop-1"]


def test_expired_steps_without_a_trajectory_go_too(store: Store) -> None:
    def lost(name: str, *taken: datetime | None) -> None:
        made = [
            Step(index=n, action=Message(role="assistant", content="a"), started_at=time)
            for n, time in enumerate(taken)
        ]
        store.write(steps_by_trajectory=[(name, step) for step in made])

    now = datetime.now(UTC)
    lost("old", now - timedelta(days=40), now - timedelta(days=31))
    lost("partly", now - timedelta(days=40), now)
    lost("undated", None)
    lost("naive", (now - timedelta(days=40)).replace(tzinfo=None))
    add(store, 1)
    retention = Retention.parse("30d")
    assert retention.plan(store).steps == 3
    pruned = retention.enforce(store)
    assert (pruned.trajectories, pruned.steps) == (0, 3)
    assert store.counts().orphans == 3
    assert Retention(max_bytes=10**12).enforce(store).steps == 0


WRITE = """
import sys
from rwml import open_store
from rwml.testing import make_trajectory
with open_store(sys.argv[1]) as store:
    for task in range(int(sys.argv[2]), int(sys.argv[2]) + 60):
        store.add(make_trajectory(task))
"""
PRUNE = """
import sys
from rwml import open_store
from rwml.retention import Retention
from rwml.store import retention
retention.BATCH_TRAJECTORIES = 10
with open_store(sys.argv[1]) as store:
    Retention(ttl_s=3600).enforce(store)
"""


def test_beside_processes_that_write_and_others_that_prune(url: str) -> None:
    with open_store(url) as store:
        for task in range(120):
            add(store, task, age_s=DAY)
    work = [(WRITE, "1000"), (WRITE, "2000"), (PRUNE, ""), (PRUNE, "")]
    jobs = [subprocess.Popen([sys.executable, "-c", code, url, arg]) for code, arg in work]
    assert [job.wait(120) for job in jobs] == [0] * 4
    with open_store(url) as store:
        Retention(ttl_s=3600).enforce(store)  # what a pruner may have skipped as it was locked
        fresh = {f"shop-{1000 * (n + 1) + task}" for n in range(2) for task in range(60)}
        assert set(ids(store)) == fresh
        counts = store.counts()
        assert (counts.trajectories, counts.transitions, counts.orphans) == (120, 480, 0)


def test_pruners_at_once_do_not_remove_twice_the_excess(url: str) -> None:
    with open_store(url) as store:
        for task in range(30):
            add(store, task, age_s=DAY * (30 - task), bulk=50_000)
        retention = Retention(max_bytes=used_bytes(store) - 500_000)
        threads = [threading.Thread(target=retention.enforce, args=(store,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 18 <= len(ids(store)) <= 20


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_enforced_in_the_background(store: Store) -> None:
    add(store, 1, age_s=DAY)
    add(store, 2)
    sweeper = Sweeper(retention=Retention(ttl_s=3600), store=store, first_s=0, every_s=0.01)
    wait_for(lambda: sweeper.removed == 1)
    add(store, 3, age_s=DAY)
    wait_for(lambda: sweeper.removed == 2)
    assert sweeper.stop(30)
    add(store, 4, age_s=DAY)
    assert ids(store) == ["shop-2", "shop-4"]


def test_a_failure_is_told_once_and_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(store, 1, age_s=DAY)
    tries: list[int] = []

    def fails_twice(store: Store, limits: sql.Limits) -> sql.Removed:
        tries.append(1)
        if len(tries) < 3:
            raise StoreError("the disk is full")
        return sql.remove_batch(store, limits)

    monkeypatch.setattr("rwml.retention.remove_batch", fails_twice)
    sweeper = Sweeper(retention=Retention(ttl_s=3600), store=store, first_s=0, every_s=0.001)
    wait_for(lambda: sweeper.removed == 1)
    assert sweeper.stop(30)
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == ["rwml: retention could not be enforced: the disk is full"]


def test_a_sqlite_file_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "GIVEN_BACK_PAGES", 50)
    path = tmp_path / "rwml.db"
    with sqlite3.connect(path) as connection:  # as every new store should be made
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")
    connection.close()
    with open_store(f"sqlite:///{path}") as store:
        for task in range(20):
            add(store, task, age_s=DAY, bulk=100_000)
        add(store, 100)
    large = path.stat().st_size
    with open_store(f"sqlite:///{path}") as store:
        pruned = Retention(ttl_s=3600).enforce(store)
    assert (pruned.trajectories, pruned.bytes_before) == (20, large)
    assert path.stat().st_size == pruned.bytes_after < 200_000 < large
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_new_sqlite_stores_can_shrink(tmp_path: Path) -> None:
    path = tmp_path / "rwml.db"
    open_store(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()


def test_an_older_sqlite_file_keeps_its_size_for_new_rows(tmp_path: Path) -> None:
    path = tmp_path / "rwml.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA auto_vacuum=NONE")
        connection.execute("VACUUM")
    connection.close()
    with open_store(f"sqlite:///{path}") as store:
        for task in range(10):
            add(store, task, age_s=DAY, bulk=100_000)
        pruned = Retention(ttl_s=3600).enforce(store)
        assert pruned.bytes_after < 200_000 < pruned.bytes_before


def test_the_estimate_on_postgresql_is_near_the_size_of_fresh_tables(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(postgres_url) as store:
        for task in range(150):
            store.add(make_trajectory(task, length=20))
        for task in range(1000, 1100):
            add(store, task, bulk=20_000)
        with store._reading() as connection:
            tables = "pg_total_relation_size('trajectories') + pg_total_relation_size('steps')"
            size = connection.exec_driver_sql(f"select {tables}").scalar() or 0
        assert 0.6 * size < used_bytes(store) < 1.2 * size
        whole = used_bytes(store)
        monkeypatch.setattr(sql, "SAMPLE_PAGES", 100)
        assert 0.3 * whole < used_bytes(store) < 3 * whole  # a small sample: seven deviations


@given(st.floats(0.001, 10_000).map(lambda x: round(x, 3)), st.sampled_from("smhdw"))
def test_durations(number: float, unit: str) -> None:
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[unit]
    assert parse_duration(f"{number:.3f}{unit}") == pytest.approx(number * factor)


@given(st.integers(1, 10_000), st.sampled_from(["B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB"]))
def test_sizes(number: int, unit: str) -> None:
    power = " KMGT".index(unit[0].upper()) if len(unit) > 1 else 0
    base = 1024 if "i" in unit else 1000
    assert parse_size(f"{number} {unit}") == number * base**power


@given(st.text(max_size=12))
def test_any_other_text_is_refused(text: str) -> None:
    for parse, unit in ((parse_duration, "smhdw"), (parse_size, "b")):
        with contextlib.suppress(UsageError):  # and nothing else
            assert parse(text) > 0
            assert text.strip()[-1].lower() in unit


@pytest.mark.parametrize("text", ["", "30", "-1d", "0s", "1y", "1d 2h", "1e3s", "9" * 400 + "d"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UsageError, match="30d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "0GB", "-1MB", "1PB", "5G", "9" * 400 + "TB"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="5GB"):
        parse_size(text)


@pytest.mark.parametrize(
    "wrong", [{"ttl_s": 0}, {"ttl_s": -1.0}, {"max_bytes": 0}, {"ttl_s": True}, {"ttl_s": "30d"}]
)
def test_limits_are_above_zero(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Retention(**wrong)


def test_command_prunes(rwml, url: str, store: Store) -> None:
    add(store, 1, age_s=31 * DAY)
    add(store, 2)
    command = ["prune", "--store", url, "--ttl", "30d", "--max-size", "5GB", "--json"]
    code, out, err = rwml(*command, "--dry-run")
    planned = json.loads(out)
    assert (code, err, planned["dry_run"]) == (0, "", True)
    assert (planned["trajectories"], planned["steps"]) == (1, 4)
    assert len(ids(store)) == 2
    code, out, _ = rwml(*command)
    pruned = json.loads(out)
    assert code == 0
    assert {k: v for k, v in pruned.items() if not k.startswith("bytes")} == {
        "trajectories": 1,
        "steps": 4,
        "dry_run": False,
        "within": True,
    }
    assert pruned["bytes_before"] >= pruned["bytes_after"] > 0
    assert ids(store) == ["shop-2"]
    assert "removed 0 trajectories" in rwml(*command[:-1])[1]


def test_command_says_when_the_store_stays_too_large(rwml, url: str, store: Store) -> None:
    add(store, 1)
    code, out, _ = rwml("prune", "--store", url, "--max-size", "1kB", "--json")
    assert (code, json.loads(out)["within"]) == (1, False)
    code, out, _ = rwml("prune", "--store", url, "--max-size", "1kB")
    assert (code, "be still being recorded" in out) == (1, True)
    assert ids(store) == ["shop-1"]


def test_command_takes_limits_from_the_environment(
    rwml, url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RWML_TTL", raising=False)
    monkeypatch.delenv("RWML_MAX_SIZE", raising=False)
    code, out, err = rwml("prune", "--store", url)
    assert (code, out, err.count("\n")) == (2, "", 1)
    monkeypatch.setenv("RWML_TTL", "30d")
    add(store, 1, age_s=31 * DAY)
    assert rwml("prune", "--store", url)[0] == 0
    assert ids(store) == []


@pytest.mark.parametrize("wrong", [["--ttl", "30"], ["--max-size", "big"]])
def test_command_refuses_bad_limits(rwml, url: str, store: Store, wrong: list[str]) -> None:
    code, out, err = rwml("prune", "--store", url, *wrong)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_what_was_done_can_be_compared() -> None:
    assert Pruned(1, 2, 3, 4) == Pruned(trajectories=1, steps=2, bytes_before=3, bytes_after=4)
    assert Trajectory(source="x").steps == ()
