"""Forks: parent and child both record, each what is its own, and neither breaks the other."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rwml import Store, forking, open_store
from rwml.forking import Gate

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

HEAD = """
import multiprocessing, os, sys, threading, rwml
from rwml.recorder import Recorder, RecorderStats

def record(recorder, name, steps=10):
    with recorder.trajectory(id=name, source="mine") as t:
        for n in range(steps):
            t.act({"role": "assistant", "content": f"{name} {n}"})
            t.observe({"role": "user", "content": "ok"})

def end(*children):
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, child
"""


def run(code: str, path: Path) -> str:
    """Runs a program on a store; it must end well and without a word. Returns the store's URL."""
    url = f"sqlite:///{path / 'rwml.db'}"
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code, url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return url


def steps(store: Store) -> dict[str, int]:
    return {t.id: len(t.steps) for t in store.trajectories()}


def test_parent_and_child_both_record_once(tmp_path: Path) -> None:
    url = run(
        """
recorder = Recorder(store=sys.argv[1])
record(recorder, "before", 200)  # much of it waits when the process forks
child = os.fork()
if not child:
    assert recorder.stats == RecorderStats(), recorder.stats
record(recorder, "parent" if child else "child")
assert recorder.flush(30), recorder.stats
if child:
    assert recorder.stats.accepted == recorder.stats.written == 202 + 200 + 12 + 10
    end(child)
else:
    assert recorder.stats.accepted == recorder.stats.written == 12 + 10
""",
        tmp_path,
    )
    with open_store(url, create=False) as store:
        assert steps(store) == {"before": 200, "parent": 10, "child": 10}
        assert store.counts().orphans == 0


def test_child_goes_on_when_its_parent_has_closed(tmp_path: Path) -> None:
    """The last one to close takes SQLite's log away; a child must not be writing into it."""
    url = run(
        """
recorder = Recorder(store=sys.argv[1])
record(recorder, "before")
assert recorder.flush(30)
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child:
    os.read(ready[0], 1)
    recorder.close()
    os.write(go[1], b"x")
    end(child)
else:
    record(recorder, "first")
    assert recorder.flush(30)
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    record(recorder, "second")
""",
        tmp_path,
    )
    with open_store(url, create=False) as store:
        assert steps(store) == {"before": 10, "first": 10, "second": 10}


def test_forks_in_the_middle_of_writing(tmp_path: Path) -> None:
    url = run(
        """
store = rwml.open_store(sys.argv[1])
recorder = Recorder(store=store, queue_records=100_000)
stop = threading.Event()

def go_on():
    n = 0
    while not stop.is_set():
        record(recorder, f"parent-{n}", 5)
        n += 1
        recorder.flush(30)
        list(store.trajectories())

thread = threading.Thread(target=go_on)
thread.start()
children = []
for n in range(8):
    child = os.fork()
    if not child:
        record(recorder, f"child-{n}")
        assert recorder.flush(60), recorder.stats
        sys.exit(0)
    children.append(child)
end(*children)
stop.set()
thread.join()
assert recorder.flush(60), recorder.stats
""",
        tmp_path,
    )
    with open_store(url, create=False) as store:
        found = steps(store)
    assert {name: n for name, n in found.items() if name.startswith("child")} == {
        f"child-{n}": 10 for n in range(8)
    }
    assert all(n == 5 for name, n in found.items() if name.startswith("parent"))


def test_children_of_multiprocessing_lose_nothing_at_their_end(tmp_path: Path) -> None:
    url = run(
        """
recorder = Recorder(store=sys.argv[1])
context = multiprocessing.get_context("fork")
children = [context.Process(target=record, args=(recorder, f"child-{n}", 300)) for n in range(2)]
for child in children:
    child.start()
for child in children:
    child.join()
    assert child.exitcode == 0
""",
        tmp_path,
    )
    with open_store(url, create=False) as store:
        assert steps(store) == {"child-0": 300, "child-1": 300}


def test_closed_recorder_stays_closed_in_the_child(tmp_path: Path) -> None:
    run(
        """
recorder = Recorder(store=sys.argv[1])
recorder.close()
child = os.fork()
record(recorder, "late", 1)
recorder.close()
assert (recorder.stats.accepted, recorder.stats.dropped) == (0, 4)
if child:
    end(child)
""",
        tmp_path,
    )


def test_recorders_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    run(
        """
import gc, weakref
from rwml.forking import _registered
gone = []
for n in range(3):
    recorder = Recorder(store=sys.argv[1])
    gone.append(weakref.ref(recorder))
    recorder.close()
del recorder
gc.collect()
assert [ref() for ref in gone] == [None] * 3
assert len(_registered()) == 0
""",
        tmp_path,
    )


def test_gate_waits_for_those_inside_and_keeps_others_out() -> None:
    gate = Gate()
    entered, leave, again = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with gate.inside():
            entered.set()
            assert leave.wait(30)
        with gate.inside():
            again.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(30)
    assert not gate.shut(0.01)
    assert gate.is_busy
    leave.set()
    assert gate.shut(30)
    assert not again.wait(0.05)
    gate.open()
    assert again.wait(30)
    thread.join(30)


def test_who_is_collected_during_a_fork_keeps_nobody_from_being_told(tmp_path: Path) -> None:
    class Someone:
        pass

    told = tmp_path / "told"
    short_lived = [Someone(), Someone()]
    lives = Someone()
    # Whichever comes first takes the other one with it.
    for place in range(2):
        forking.register(short_lived[place], child=lambda _: short_lived.clear())
    forking.register(lives, child=lambda _: told.touch())
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert told.exists()
