"""The store as a SQLite file: private, never somebody else's, where it was put."""

import sqlite3
import stat
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from rwml import Store, Trajectory, open_store
from rwml.errors import StoreError, StoreUnavailableError
from rwml.store.tables import STORE_VERSION
from rwml.testing import make_trajectory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rwml.db"


@pytest.fixture
def store(path: Path):
    with open_store(f"sqlite:///{path}") as opened:
        yield opened


def named(name: str) -> Trajectory:
    return make_trajectory(1).model_copy(update={"id": name})


def test_file_mode_is_private(path: Path, store: Store) -> None:
    store.add(make_trajectory(1))
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
        store.add(make_trajectory(1))


def test_newer_store_is_refused_unchanged(path: Path) -> None:
    with open_store(f"sqlite:///{path}") as store:
        store.add(make_trajectory(1))
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


def test_directory_that_cannot_be_made_is_a_store_error(path: Path) -> None:
    path.write_text("a file")
    with pytest.raises(StoreError, match="cannot make a store"):
        open_store(f"sqlite:///{path}/rwml.db")


def test_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_store("sqlite:///rwml.db") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        thread = threading.Thread(target=store.add, args=[make_trajectory(1)])  # a new connection
        thread.start()
        thread.join()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with open_store(f"sqlite:///{tmp_path}/rwml.db", create=False) as store:
        assert [t.id for t in store.trajectories()] == ["shop-1"]


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
        store.add(named("bad"))
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
                other.add(named("t"))
        finally:
            holder.communicate()


def test_what_does_not_fit_is_not_quoted(path: Path, store: Store) -> None:
    store.add(named("t"))
    with sqlite3.connect(path) as connection:
        connection.execute("""update steps set body = '{"index": "hush", "hush": 1}'""")
    connection.close()
    with pytest.raises(StoreError, match="trajectory t does not fit the schema: Step: ") as caught:
        list(store.trajectories())
    assert "hush" not in "".join(traceback.format_exception(caught.value))
