"""Forgetting what waits on the disk: written and searched, or said where that cannot be."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.sdk.test_spool import wait_until

from rwml import Message, Recorder, Step, Store, Trajectory
from rwml.catching_up import deliver_left
from rwml.errors import StoreUnavailableError
from rwml.spool import Spool, spool_folder
from rwml.store.batches import Batch, header_row
from rwml.testing import FaultyStore

ANN = "ann@example.com"
CANARY = "canary-7f3a9c"
AWAY = StoreUnavailableError("away")

Forget = Callable[..., tuple[int, dict]]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and spools of servers' stores: not in the tester's own home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.delenv("RWML_SPOOL", raising=False)


@pytest.fixture
def forget(rwml, url: str) -> Forget:
    """The command on the store, with --json; returns exit code and result."""

    def run(*arguments: str) -> tuple[int, dict]:
        code, out, err = rwml("forget", "--store", url, "--json", *arguments)
        assert err == ""
        return code, json.loads(out)

    return run


@pytest.fixture
def cut_off(store: Store) -> FaultyStore:
    """The store, away for those who write to it by this name."""
    return FaultyStore(store, fail=AWAY)


def told(text: str, id: str) -> Trajectory:
    action = Message(role="assistant", content=text)
    return Trajectory(id=id, source="x", steps=(Step(index=0, action=action),))


def leave(cut_off: FaultyStore) -> Path:
    """A process records something and ends, while the store is away; where it waits."""
    recorder = Recorder(store=cut_off)
    recorder.record(told(f"{CANARY} of {ANN}", "a"))
    recorder.record(told("nothing", "b"))
    recorder.close()
    assert recorder.stats.spooled == 4
    (file,) = spool_folder(cut_off).glob("*.spool")
    assert CANARY.encode() in file.read_bytes()
    return file


@pytest.mark.parametrize("text", [CANARY, ANN])
def test_what_ended_processes_left_is_forgotten_too(
    forget: Forget, rwml, url: str, store: Store, cut_off: FaultyStore, text: str
) -> None:
    file = leave(cut_off)
    code, found = forget("--match", text)
    assert (code, found["would_remove"], found["waiting_elsewhere"]) == (1, 0, 4)
    assert "4 records wait" in rwml("forget", "--store", url, "--match", text)[1]
    assert (file.exists(), store.counts().trajectories) == (True, 0)
    code, found = forget("--match", text, "--yes")
    assert (code, found["delivered"], found["removed"], found["steps"]) == (0, 4, 1, 1)
    assert (found["waiting_elsewhere"], found["unreadable_files"]) == (0, 0)
    assert not file.parent.exists()
    assert [t.id for t in store.trajectories()] == ["b"]


def test_what_a_live_process_holds_is_left_to_it_and_said(
    forget: Forget, rwml, url: str, store: Store, cut_off: FaultyStore
) -> None:
    store.add(told(CANARY, "before"))
    with Recorder(store=cut_off) as recorder:
        recorder.record(told(f"{CANARY} of {ANN}", "a"))
        wait_until(lambda: recorder.stats.spooled == 2)
        code, found = forget("--match", CANARY, "--yes")
        assert (code, found["removed"], found["delivered"]) == (0, 1, 0)
        assert found["waiting_elsewhere"] == 2
        _, out, _ = rwml("forget", "--store", url, "--match", CANARY, "--yes")
        assert "2 records wait on this machine's disk and were not searched" in out
        assert recorder.stats.spooled == 2
        cut_off.fail = None
        assert recorder.flush(30)
        code, found = forget("--match", ANN, "--yes")
        assert (code, found["removed"], found["waiting_elsewhere"]) == (0, 1, 0)
        folder = spool_folder(cut_off)
        files = list(folder.iterdir()) if folder.exists() else []
        assert not [file.name for file in files if CANARY.encode() in file.read_bytes()]
    assert store.counts().trajectories == 0


def test_a_file_that_cannot_be_read_is_said(forget: Forget, rwml, url: str, store: Store) -> None:
    folder = spool_folder(store)
    folder.mkdir(mode=0o700, parents=True)
    torn = folder / "torn.spool"
    torn.write_bytes(b"no database at all" * 100)
    torn.chmod(0o600)
    for extra in ([], ["--yes"]):
        code, found = forget("--match", CANARY, *extra)
        assert (code, found["unreadable_files"], found["waiting_elsewhere"]) == (1, 1, 0)
        assert "1 spool files" in rwml("forget", "--store", url, "--match", CANARY, *extra)[1]
    assert torn.exists()
    assert str(folder) in rwml("doctor", "--store", url)[1]


def test_nothing_is_forgotten_while_what_was_left_cannot_be_written(
    store: Store, cut_off: FaultyStore, url: str
) -> None:
    file = leave(cut_off)
    with pytest.raises(StoreUnavailableError, match="4 records that wait in"):
        deliver_left(cut_off, patience_s=0.01)
    assert file.exists()
    assert deliver_left(store) == 4
    assert deliver_left(store) == 0


def test_a_store_that_is_busy_is_waited_for(store: Store, cut_off: FaultyStore) -> None:
    leave(cut_off)
    begun = cut_off.writes
    cut_off.fail = lambda write: AWAY if write <= begun + 2 else None
    assert deliver_left(cut_off) == 4
    assert cut_off.failures == begun + 2


def test_what_is_delivered_leaves_no_byte_in_a_file_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def careless(*arguments, **options) -> sqlite3.Connection:  # as most builds of SQLite are
        connection = connect(*arguments, **options)
        connection.execute("pragma secure_delete=off")
        return connection

    monkeypatch.setattr("rwml.spool.sqlite3.connect", careless)
    spool = Spool(tmp_path)
    spool.add(Batch(headers=[header_row(told("", CANARY * 1000))]))
    spool.add(Batch(headers=[header_row(told("", CANARY))]))
    (file,) = tmp_path.glob("*.spool")
    for _ in range(2):
        assert CANARY.encode() in file.read_bytes()
        token, _ = spool.oldest() or (None, None)
        spool.remove(token)
    assert CANARY.encode() not in file.read_bytes()
