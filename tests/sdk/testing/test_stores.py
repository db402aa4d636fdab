"""Stores for tests: gone when closed, and failing when told to."""

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rwml import Message, Recorder, Step, Store, Trajectory
from rwml.errors import StoreError, StoreUnavailableError
from rwml.store import Subject
from rwml.testing import FaultyStore, MemoryStore, fail_on, make_trajectory, memory_store, recorded


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with memory_store() as opened:
        yield opened


def test_a_memory_store_is_a_store(store: MemoryStore) -> None:
    assert isinstance(store, Store)
    store.add(make_trajectory(1))
    assert list(store.trajectories(id="shop-1")) == [make_trajectory(1)]
    assert len(list(store.transitions(history=1))) == 4
    assert store.counts().transitions == store.stats().transitions == 4
    assert store.find_ids("shop", limit=5) == ["shop-1"]
    assert store.forget(Subject(trajectory="shop-1")).erased is True
    assert str(store.folder) in store.url


def test_it_is_gone_when_it_is_closed(store: MemoryStore) -> None:
    store.add(make_trajectory(1))
    assert list(store.folder.iterdir())
    store.close()
    assert not store.folder.exists()
    store.close()


def test_a_forked_child_leaves_it_to_its_parent(store: MemoryStore) -> None:
    store.add(make_trajectory(1))
    child = os.fork()
    if child == 0:
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert store.counts().trajectories == 1


def test_two_are_two(store: MemoryStore) -> None:
    with memory_store() as other:
        other.add(make_trajectory(1))
        assert store.counts().trajectories == 0


def test_every_write_fails_until_the_fault_is_taken_away(store: MemoryStore) -> None:
    faulty = FaultyStore(store, fail=StoreError("the disk is full"))
    for _ in range(2):
        with pytest.raises(StoreError, match="disk is full"):
            faulty.add(make_trajectory(1))
    assert faulty.counts().trajectories == 0
    faulty.fail = None
    faulty.add(make_trajectory(1))
    assert (faulty.writes, faulty.failures) == (3, 2)
    assert store.counts().trajectories == 1


def test_the_nth_write_fails(store: MemoryStore) -> None:
    faulty = FaultyStore(store, fail=fail_on(2, 4, error=StoreError("no")))
    outcomes = []
    for number in range(1, 6):
        try:
            faulty.add(make_trajectory(number))
        except StoreError:
            outcomes.append(number)
    assert outcomes == [2, 4]
    assert [t.task_id for t in store.trajectories()] == ["1", "3", "5"]


def test_writes_hang_until_they_are_let_go(store: MemoryStore) -> None:
    faulty = FaultyStore(store)
    with ThreadPoolExecutor(1) as pool:
        with faulty.stalled():
            write = pool.submit(faulty.add, make_trajectory(1))
            assert faulty.wait_stalled()
            assert not write.done()
            assert faulty.counts().trajectories == 0  # reading goes on
        write.result(timeout=30)
    assert store.counts().trajectories == 1


def test_closing_lets_go_of_what_hangs(store: MemoryStore) -> None:
    faulty = FaultyStore(store)
    with faulty.stalled():
        thread = threading.Thread(target=_try_to_add, args=[faulty])
        thread.start()
        assert faulty.wait_stalled()
        faulty.close()
        thread.join(30)
        assert not thread.is_alive()


def _try_to_add(store: Store) -> None:
    with contextlib.suppress(StoreError):  # its folder may be gone by now
        store.add(make_trajectory(1))


def test_a_recorder_over_a_faulty_store_raises_nothing(store: MemoryStore) -> None:
    faulty = FaultyStore(store, fail=StoreUnavailableError("away"))
    with Recorder(store=faulty) as recorder:
        recorder.record(make_trajectory(1))
        assert not recorder.flush(0.5)
        faulty.fail = None
    assert faulty.failures >= 1


def test_recorded_says_what_was_not_stored(store: MemoryStore) -> None:
    faulty = FaultyStore(store)
    with Recorder(store=faulty) as recorder:
        with faulty.stalled():
            recorder.record(Trajectory(id="t", source="x"))
            with pytest.raises(AssertionError, match="not everything was stored"):
                recorded(recorder, timeout_s=0.2)
        assert [t.id for t in recorded(recorder)] == ["t"]
        recorder.record_step("t", Step(index=0, action=Message(role="assistant", content="a")))
        assert len(recorded(recorder)[0].steps) == 1
