"""While the store is away: records wait on this machine, bounded, and arrive once, in order."""

import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rwml import Message, Outcome, Recorder, Step, Trajectory, open_store
from rwml.errors import StoreError
from rwml.records import Continuation, HeaderRecord, StepRecord
from rwml.serialisation import LARGE_CHARS, PIECE_CHARS
from rwml.spool import Spool, spool_folder
from rwml.store.batches import Batch, header_row, step_row
from rwml.testing import make_trajectory


def wait_until(is_so: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def batch(task: int) -> Batch:
    trajectory = make_trajectory(task)
    return Batch(
        headers=[header_row(trajectory)],
        cuts={trajectory.id: len(trajectory.steps)},
        steps=[
            step_row(trajectory.id, step, digest=b"\x00\xff", tail=None)
            for step in trajectory.steps
        ],
        names=[(trajectory.id, b"\x01" * 16, "<EMAIL_1>", None)],
        touched={trajectory.id: 12.5},
    )


def test_batches_come_back_as_they_were_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    batches = [batch(task) for task in range(3)]
    for one in batches:
        spool.add(one)
    assert spool.records == sum(len(one) for one in batches)
    found = []
    while (oldest := spool.oldest()) is not None:
        token, one = oldest
        found.append(one)
        spool.remove(token)
    assert found == batches
    assert not spool
    assert not (tmp_path / "spool").exists()


def test_a_large_record_is_encoded_in_pieces_into_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = batch(0)
    text = 'ß\n"\\😀' * LARGE_CHARS
    large.steps += [large.steps[0]._replace(step_index=9, body=json.dumps({"content": text}))]
    large.headers += [large.headers[0]._replace(id="é", reward=float("inf"), body=text)]
    large.merges = [large.headers[0]]
    parts = ("made_at", "headers", "cuts", "steps", "names", "touched", "merges")
    whole = json.dumps([getattr(large, name) for name in parts], default=bytes.hex)
    longest = 0
    encode = json.dumps

    def noted(value: Any, **options: Any) -> str:
        nonlocal longest
        encoded = encode(value, **options)
        longest = max(longest, len(encoded))
        return encoded

    def noted_too(encoded: str) -> Any:
        nonlocal longest
        longest = max(longest, len(encoded))
        return decode(encoded)

    decode = json.loads
    spool = Spool(tmp_path / "spool")
    monkeypatch.setattr(json, "dumps", noted)
    monkeypatch.setattr(json, "loads", noted_too)
    spool.add(large)
    assert (spool.oldest() or (None, None))[1] == large
    monkeypatch.undo()
    assert PIECE_CHARS < longest <= 12 * PIECE_CHARS  # characters beyond U+FFFF take twelve
    with contextlib.closing(sqlite3.connect(next(tmp_path.rglob("*.spool")))) as file:
        [(kept,)] = file.execute("select body from batches")
    assert kept == whole


def test_what_is_left_of_a_batch_keeps_its_place(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    first, second = batch(0), batch(1)
    first.merges = [header_row(make_trajectory(5))]
    spool.add(first)
    spool.add(second)
    token, found = spool.oldest() or (None, Batch())
    singles = list(found.singles())
    assert Batch.joined(singles[:1] + singles[1:]).steps == first.steps
    spool.replace(token, Batch.joined(singles[2:]))
    assert spool.records == len(first) - 2 + len(second)
    token, rest = spool.oldest() or (None, Batch())
    assert (rest.headers, rest.merges, rest.steps) == ([], [], first.steps)
    assert rest.names == first.names
    spool.remove(token)
    assert (spool.oldest() or (None, None))[1] == second


def test_files_are_for_this_user_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add(batch(0))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert set(modes.values()) == {0o700, 0o600}


def test_it_is_bounded(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=64 * 1024)

    def fill() -> None:
        for task in range(1000):
            spool.add(batch(task))

    with pytest.raises(StoreError, match="full"):
        fill()
    taken = spool.records
    assert 0 < taken < 5000
    token, _ = spool.oldest() or (None, None)
    spool.remove(token)
    spool.add(batch(1))  # there is room again
    assert spool.records == taken


def test_a_file_in_use_is_left_alone_and_one_left_behind_is_taken_over(tmp_path: Path) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    left = batch(1)
    first.add(left)
    assert second.adopt() == 0
    first.release()
    assert second.adopt() == len(left)
    assert second.adopt() == 0
    assert (second.oldest() or (None, None))[1] == left


def test_a_file_that_is_no_spool_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "broken.spool").write_bytes(b"no database at all" * 100)
    spool = Spool(tmp_path)
    assert spool.adopt() == 0
    good = batch(0)
    spool.add(good)
    assert (spool.oldest() or (None, None))[1] == good
    assert (tmp_path / "broken.spool").exists()


@contextlib.contextmanager
def away(url: str) -> Iterator[None]:
    """Nobody can write to the store: SQLite's file is locked, PostgreSQL's database has moved."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
            other.execute("begin exclusive")
            yield
        return
    named = sa.make_url(url)
    admin = sa.create_engine(named.set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            gone = "select pg_terminate_backend(pid) from pg_stat_activity where datname = "
            connection.exec_driver_sql(f"alter database {named.database} allow_connections false")
            connection.exec_driver_sql(gone + f"'{named.database}'")
        yield
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"alter database {named.database} allow_connections true")
        admin.dispose()


def test_what_is_recorded_while_the_store_is_away_arrives(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    spool = tmp_path / "spool"
    with Recorder(store=url, spool=spool) as recorder:
        recorder.record(make_trajectory(0))
        assert recorder.flush(30)
        with away(url):
            recorder.record(make_trajectory(1))
            wait_until(lambda: recorder.stats.spooled == 5)
            recorder.record(make_trajectory(2))
            wait_until(lambda: recorder.stats.spooled == 10)
            assert not recorder.flush(1)
            assert list(spool.rglob("*.spool"))
        wait_until(lambda: recorder.stats.spooled == 0)
        assert recorder.flush(30)
        assert recorder.stats.written == recorder.stats.accepted == 15
    assert not list(spool.iterdir())
    with open_store(url) as store:
        assert list(store.trajectories()) == [make_trajectory(task) for task in range(3)]


def test_a_program_starts_while_the_store_is_away_and_another_catches_up(
    postgres_url: str, tmp_path: Path
) -> None:
    program = """
        import sys
        from pathlib import Path
        from rwml import Recorder
        from rwml.testing import make_trajectory
        recorder = Recorder(store=sys.argv[1], spool=Path(sys.argv[2]))
        recorder.record(make_trajectory(7))
        recorder.flush(3)
        recorder.close()
        assert recorder.stats.spooled == 5, recorder.stats
    """
    with open_store(postgres_url):
        pass
    with away(postgres_url):
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), postgres_url, str(tmp_path / "s")],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "RWML_KEY": "0123456789abcdef"},
        )
        assert ended.returncode == 0, ended.stderr
        assert "waits on this machine" in ended.stderr
    with Recorder(store=postgres_url, spool=tmp_path / "s") as recorder:
        recorder.record(make_trajectory(8))
        wait_until(lambda: recorder.stats.written == 10)
        assert recorder.stats.accepted == 10
    with open_store(postgres_url) as store:
        assert list(store.trajectories()) == [make_trajectory(7), make_trajectory(8)]


def test_without_room_on_disk_records_wait_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    blocked = tmp_path / "a file"
    blocked.write_text("no folder can be made here")
    with Recorder(store=url, spool=blocked / "spool", queue_records=100) as recorder:
        recorder.record(make_trajectory(0))
        assert recorder.flush(30)
        with away(url):
            for task in range(1, 101):
                recorder.record(make_trajectory(task))
            wait_until(lambda: recorder.stats.dropped > 0)
            stats = recorder.stats
            assert stats.accepted - stats.written <= 2 * 100
        wait_until(lambda: recorder.stats.waiting == 0)
        stats = recorder.stats
        assert stats.accepted == stats.written
        assert stats.accepted + stats.dropped == 101 * 5
    with open_store(url) as store:
        assert sum(len(t.steps) + 1 for t in store.trajectories()) == stats.written


def test_what_waited_does_not_take_back_what_was_written_since(url: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    old = make_trajectory(1, length=5)
    late = Batch(headers=[header_row(old)], cuts={old.id: 2})
    late.steps = [step_row(old.id, step) for step in old.steps]
    spool.add(late)
    new = make_trajectory(1, length=3)
    with open_store(url) as store:
        store.add(new)
        _, found = spool.oldest() or (None, Batch())
        store.write_batch(found, is_late=True)
        (kept,) = store.trajectories()
        assert kept.steps[:4] == new.steps
        assert len(kept.steps) == len(old.steps)  # what the store did not have
        store.write_batch(found)
        assert next(store.trajectories()).steps == old.steps[:6]


def test_a_batch_that_cannot_be_read_is_counted_and_stops_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with open_store(url) as store:
        folder = spool_folder(store, tmp_path)
    left = Spool(folder)
    left.add(batch(1))
    left.release()
    (file,) = folder.glob("*.spool")
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update batches set body = '[1, 2]'")
    with Recorder(store=url, spool=tmp_path) as recorder:
        recorder.record(make_trajectory(2))
        wait_until(lambda: recorder.stats.failed == 5 and recorder.stats.written == 5)
        assert recorder.stats.spooled == recorder.stats.waiting == 0
    with open_store(url) as store:
        assert list(store.trajectories()) == [make_trajectory(2)]


def test_files_of_another_user_are_left_alone(tmp_path: Path) -> None:
    mine = Spool(tmp_path / "spool")
    mine.add(batch(1))
    mine.release()
    (tmp_path / "spool").chmod(0o777)  # anybody could have put them there
    other = Spool(tmp_path / "spool")
    assert other.adopt() == 0
    with pytest.raises(StoreError, match="not this user's alone"):
        other.add(batch(2))


@contextlib.contextmanager
def silent(url: str) -> Iterator[None]:
    """The processes of the server that serve this database are stopped: no answer, no error."""
    named = sa.make_url(url)
    admin = sa.create_engine(named.set(database="postgres"))
    with admin.connect() as connection:
        serving = "select pid from pg_stat_activity where datname = "
        found = list(connection.exec_driver_sql(f"{serving}'{named.database}'").scalars())
    admin.dispose()
    assert found
    for process in found:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in found:
            os.kill(process, signal.SIGCONT)


def test_a_server_that_is_silent_stops_nobody(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    answered = Continuation(b"?" * 16, b"!" * 16, (Message(role="user", content="and?"),))
    with Recorder(store=postgres_url, spool=tmp_path / "spool", queue_records=200) as recorder:
        recorder.record(make_trajectory(0))
        assert recorder.flush(30)
        with silent(postgres_url):
            for task in range(1, 21):  # more than the queue holds, each with a question
                header = HeaderRecord(make_trajectory(task), None, answered)
                recorder.put(header)
                for step in make_trajectory(task).steps:
                    recorder.record_step(header.trajectory.id, step)
            wait_until(lambda: recorder.stats.waiting == 0)
            assert recorder.stats.spooled == 100
            for task in range(21, 61):
                recorder.record(make_trajectory(task))
            wait_until(lambda: recorder.stats.waiting == 0)
            assert recorder.stats.spooled == 300
        wait_until(lambda: recorder.stats.spooled == 0)
        assert recorder.stats.written == recorder.stats.accepted == 61 * 5
        assert recorder.stats.dropped == 0
    with open_store(postgres_url) as store:
        assert sorted(t.id for t in store.trajectories()) == sorted(
            make_trajectory(task).id for task in range(61)
        )


def test_a_program_ends_in_time_while_its_server_is_silent(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    recorder = Recorder(store=postgres_url, spool=tmp_path / "spool")
    recorder.record(make_trajectory(0))
    assert recorder.flush(30)
    with silent(postgres_url):
        recorder.record(make_trajectory(1))
        recorder.close()
        assert recorder.stats.spooled == 5
        assert recorder.stats.waiting == 0
    with Recorder(store=postgres_url, spool=tmp_path / "spool") as later:
        wait_until(lambda: later.stats.written == 5)
    with open_store(postgres_url) as store:
        assert list(store.trajectories()) == [make_trajectory(0), make_trajectory(1)]


def test_a_header_that_goes_on_with_anothers_waits_like_all_else(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    said = (Message(role="user", content="hello"),)
    asked = Step(index=0, action=Message(role="assistant", content="yes?"))
    first = Trajectory(id="first", source="mine", initial=said)
    with Recorder(store=url, spool=tmp_path / "one") as recorder:
        recorder.put(HeaderRecord(first))
        recorder.put(StepRecord("first", asked, digest=b"d" * 16))
        assert recorder.flush(30)
    with Recorder(store=url, spool=tmp_path / "two") as recorder:
        second = Trajectory(id="second", source="mine", initial=(*said, asked.action))
        reply = (Message(role="user", content="bye"),)
        recorder.put(HeaderRecord(second, continues=Continuation(b"d" * 16, None, reply)))
        assert recorder.flush(30)
        with away(url):
            done = second.model_copy(update={"outcome": Outcome(status="completed", reward=1.0)})
            recorder.put(HeaderRecord(done))
            wait_until(lambda: recorder.stats.spooled == 1)
        wait_until(lambda: recorder.stats.spooled == 0)
        assert (recorder.stats.failed, recorder.stats.written) == (0, recorder.stats.accepted)
    with open_store(url) as store:
        (whole,) = store.trajectories()
    assert (whole.id, whole.initial, whole.outcome.reward) == ("first", said, 1.0)
    assert whole.steps[0].observation == reply
