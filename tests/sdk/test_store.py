"""The store: idempotent, refuses what is not its own, streams, counts what is there."""

import sqlite3
import stat
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from rwml import Message, Outcome, Step, Store, ToolCall, Trajectory, open_store
from rwml.errors import StoreError, StoreUnavailableError
from rwml.store.database import PAGE
from rwml.store.tables import STORE_VERSION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rwml.db"


@pytest.fixture
def store(path: Path):
    with open_store(f"sqlite:///{path}") as opened:
        yield opened


def step(index: int = 0, *, call_id: str = "a", answer: str | None = "seen", **fields) -> Step:
    return Step(
        index=index,
        action=Message(role="assistant", tool_calls=(ToolCall(id="a", name="look"),)),
        observation=()
        if answer is None
        else (Message(role="tool", content=answer, tool_call_id=call_id),),
        **{"kind": "tool", "status": "ok", **fields},
    )


def trajectory(id: str = "t", *steps: Step, **fields) -> Trajectory:
    return Trajectory(id=id, steps=steps, **{"source": "test", **fields})


def test_what_goes_in_comes_out(store: Store) -> None:
    whole = trajectory(
        "t",
        step(0),
        step(1, status="error", latency_s=0.5, metadata={"a": [1]}),
        task_id="7",
        split="train",
        initial=(Message(role="system", content="rules ☃"),),
        outcome=Outcome(status="completed", success=True, reward=1.0),
    )
    store.add(whole)
    assert list(store.trajectories()) == [whole]
    assert [t.id for t in store.transitions(history=0)] == ["t/0/0", "t/1/0"]


def test_writing_twice_is_writing_once(store: Store) -> None:
    store.add(trajectory("t", step(0, answer="first"), step(1)))
    store.add(trajectory("t", step(0, answer="second"), step(1), task_id="9"))
    (found,) = store.trajectories()
    assert found.task_id == "9"
    assert [s.observation[0].content for s in found.steps] == ["second", "seen"]
    assert store.counts().transitions == 2


def test_attempts_of_a_step_are_kept_apart(store: Store) -> None:
    store.add(trajectory("t", step(0), step(0, attempt=1, answer="again")))
    assert [t.id for t in store.transitions()] == ["t/0/0", "t/0/1"]


def test_a_batch_is_all_or_nothing(store: Store) -> None:
    bad = step(2**70)
    with pytest.raises(OverflowError):
        store.write(headers=[trajectory("t")], steps_by_trajectory=[("t", step(0)), ("t", bad)])
    assert store.counts().trajectories == 0
    assert store.counts().orphans == 0


def test_streaming_crosses_pages_in_order(store: Store) -> None:
    wanted = [f"t{n:04}" for n in range(2 * PAGE + 3)]
    store.write(
        headers=[trajectory(name) for name in reversed(wanted)],
        steps_by_trajectory=[(name, step(n)) for name in wanted for n in range(2)],
    )
    found = list(store.trajectories())
    assert [t.id for t in found] == wanted
    assert all([s.index for s in t.steps] == [0, 1] for t in found)


def test_exactly_one_page_ends(store: Store) -> None:
    store.write(headers=[trajectory(f"t{n:04}") for n in range(PAGE)])
    assert sum(1 for _ in store.trajectories()) == PAGE


def test_a_reader_half_way_does_not_block_the_writer(store: Store) -> None:
    store.write(headers=[trajectory(f"t{n:04}") for n in range(PAGE + 1)])
    reading = store.trajectories()
    next(reading)
    store.add(trajectory("z"))
    assert [t.id for t in reading][-1] == "z"


def test_filters(store: Store) -> None:
    store.add(trajectory("a", step(), source="x", task_id="1", split="train"))
    store.add(trajectory("b", step(), source="x", task_id="2", split="test"))
    store.add(trajectory("c", step(), source="y"))

    def ids(**filters: str | None) -> list[str]:
        return [t.id for t in store.trajectories(**filters)]

    assert ids(source="x") == ["a", "b"]
    assert ids(source="x", task_id="2") == ["b"]
    assert ids(split="train", task_id=None) == ["a"]
    assert ids(id="c") == ["c"]
    assert ids(source="z") == []
    assert [t.trajectory_id for t in store.transitions(source="y")] == ["c"]
    assert store.counts(source="x").transitions == 2
    with pytest.raises(StoreError, match="unknown filter 'colour'"):
        ids(colour="red")


def test_counts(store: Store) -> None:
    store.add(
        trajectory(
            "t",
            step(0),
            step(1, status="error"),
            step(2, status="pending", kind=None, answer=None),
            step(3, status="interrupted", kind=None, answer=None),
            step(4, call_id="nobody's"),
            step(5, answer=None),
        )
    )
    store.write(steps_by_trajectory=[("lost", step(0))])
    counts = store.counts()
    assert (
        (counts.trajectories, counts.transitions) == (1, len(list(store.transitions()))) == (1, 3)
    )
    assert (counts.errors, counts.pending, counts.interrupted) == (1, 1, 1)
    assert counts.orphans == 2  # a result without a call, a step without a trajectory
    assert store.counts(source="test").orphans == 1
    assert store.counts(source="other").orphans == 0


def test_file_mode_is_private(path: Path, store: Store) -> None:
    store.add(trajectory("t", step()))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_missing_store_is_refused_and_not_made(path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        open_store(f"sqlite:///{path}", create=False)
    assert list(path.parent.iterdir()) == []


def test_empty_file_is_no_store_for_a_reader(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="is no rwml store"):
        open_store(f"sqlite:///{path}", create=False)
    assert path.read_bytes() == b""
    with open_store(f"sqlite:///{path}") as store:
        store.add(trajectory("t"))


def test_newer_store_is_refused_unchanged(path: Path) -> None:
    with open_store(f"sqlite:///{path}") as store:
        store.add(trajectory("t", step()))
    with sqlite3.connect(path) as connection:
        connection.execute("update rwml_schema set version = ?", (STORE_VERSION + 1,))
    connection.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(StoreError, match="upgrade rwml"):
            open_store(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", ["steps", "customers"])
def test_foreign_database_is_refused_unchanged(path: Path, table: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"create table {table} (a)")
    connection.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(StoreError, match="another program"):
            open_store(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before


def test_file_that_is_no_database_is_refused_unchanged(path: Path) -> None:
    path.write_text("dear diary, " * 100)
    with pytest.raises(StoreError, match="cannot open"):
        open_store(f"sqlite:///{path}")
    assert path.read_text() == "dear diary, " * 100


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "mysql://host/db",
        "oracle://host/db",
    ],
)
def test_urls_that_cannot_be_a_store(url: str) -> None:
    with pytest.raises(StoreError):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//bob:hush@host/db",
        "postgresql://bob:hu@hush:x@host/db",
        "postgresql://bob:hu@hush@host/db",
        "postgresql://bob:a@host:hush/db",
        "postgresql://bob:hush@127.0.0.1:9/db",
        "postgresql://bob@127.0.0.1:9/db?password=hush",
        "mysql://bob:hush@host/db",
    ],
)
def test_no_password_of_a_url_is_told(url: str) -> None:
    if "127.0.0.1" in url:
        pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_locked_store_is_unavailable_and_a_refused_value_is_not(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(
            "create trigger refuse before insert on trajectories when new.id = 'bad' "
            "begin select raise(abort, 'not this one'); end"
        )
    connection.close()
    with pytest.raises(StoreError, match="not this one") as caught:
        store.add(trajectory("bad"))
    assert not isinstance(caught.value, StoreUnavailableError)
    monkeypatch.setattr("rwml.store.database.LOCK_TIMEOUT_S", 0.01)
    with open_store(f"sqlite:///{path}") as other:
        code = (
            "import filelock, sys\n"
            "with filelock.FileLock(sys.argv[1]):\n"
            "    print(flush=True)\n"
            "    sys.stdin.read()\n"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, f"{path}.lock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            with pytest.raises(StoreUnavailableError, match="locked"):
                other.add(trajectory("t"))
        finally:
            holder.communicate()


def test_directory_that_cannot_be_made_is_a_store_error(path: Path) -> None:
    path.write_text("a file")
    with pytest.raises(StoreError, match="cannot make a store"):
        open_store(f"sqlite:///{path}/rwml.db")


def test_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_store("sqlite:///rwml.db") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        thread = threading.Thread(target=store.add, args=[trajectory("t")])  # a new connection
        thread.start()
        thread.join()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with open_store(f"sqlite:///{tmp_path}/rwml.db", create=False) as store:
        assert [t.id for t in store.trajectories()] == ["t"]


def test_row_that_does_not_fit_is_a_store_error(path: Path, store: Store) -> None:
    store.add(trajectory("t"))
    with sqlite3.connect(path) as connection:
        connection.execute("update trajectories set body = '{}'")
    connection.close()
    with pytest.raises(StoreError, match="trajectory t does not fit"):
        list(store.trajectories())


def test_what_does_not_fit_is_not_quoted(path: Path, store: Store) -> None:
    store.add(trajectory("t", step(0)))
    with sqlite3.connect(path) as connection:
        connection.execute("""update steps set body = '{"index": "hush", "hush": 1}'""")
    connection.close()
    with pytest.raises(StoreError, match="trajectory t does not fit the schema: Step: ") as caught:
        list(store.trajectories())
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_processes_write_and_create_at_once(path: Path) -> None:
    code = (
        "import sys, rwml\n"
        "from rwml import Trajectory\n"
        "for n in range(20):\n"
        "    with rwml.open_store(sys.argv[1]) as store:\n"
        "        store.add(Trajectory(id=f'{sys.argv[2]}-{n}', source='test'))\n"
    )
    url = f"sqlite:///{path}"
    running = [subprocess.Popen([sys.executable, "-c", code, url, str(n)]) for n in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    with open_store(url, create=False) as store:
        assert store.counts().trajectories == 60
