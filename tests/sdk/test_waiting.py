"""The queue before the writer: in order, bounded, and safe to use from a signal handler."""

import subprocess
import sys
import textwrap
import threading

from hypothesis import given
from hypothesis import strategies as st

from rwml.waiting import WaitingRecords


def make(*, items: int = 1000, size: int = 1000, batch: int = 10) -> WaitingRecords:
    return WaitingRecords(items=items, size=size, batch=batch, lock=threading.RLock())


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 20))
def test_everything_comes_out_once_in_order(sizes: list[int], batch: int) -> None:
    queue = make(batch=batch)
    assert all(queue.put(number, size) for number, size in enumerate(sizes))
    assert len(queue) == len(sizes)
    queue.hurry()
    found: list[int] = []
    while len(found) < len(sizes):
        taken = queue.take(0.0)
        assert len(taken) <= batch
        found += taken
        queue.done(len(taken))
    assert found == list(range(len(sizes)))
    assert len(queue) == 0
    assert queue.wait_done(0.0)


def test_what_is_in_work_counts() -> None:
    queue = make(items=3)
    assert [queue.put(n, 1) for n in range(4)] == [True, True, True, False]
    taken = queue.take(0.0)
    assert not queue.put(4, 1)
    queue.done(len(taken))
    assert queue.put(5, 1)


def test_bytes_are_bounded_but_one_item_always_fits() -> None:
    queue = make(size=10)
    assert queue.put("large", 100)
    assert not queue.put("more", 1)
    queue.done(len(queue.take(0.0)))
    assert queue.put("a", 6)
    assert not queue.put("b", 5)
    assert queue.put("c", 4)


def test_after_closing_nothing_is_taken_and_the_rest_can_be_drained() -> None:
    queue = make()
    queue.put(1, 1)
    queue.close()
    assert not queue.put(2, 1)
    assert queue.drain() == [1]
    assert len(queue) == 0
    assert queue.take(0.0) == []


def test_waiting_tells_the_truth() -> None:
    queue = make()
    queue.put(1, 1)
    assert not queue.wait_done(0.01)
    consumer = threading.Thread(target=lambda: queue.done(len(queue.take(30))))
    consumer.start()
    assert queue.wait_done(30)
    consumer.join(30)


def test_a_signal_handler_may_record_and_flush_in_the_middle_of_a_put() -> None:
    program = """
        import signal, sys, tempfile, threading, time
        from rwml import Recorder, Trajectory
        with tempfile.TemporaryDirectory() as folder:
            recorder = Recorder(store=f"sqlite:///{folder}/rwml.db", queue_records=1_000_000)
            handled = 0

            def handle(*_):
                global handled
                recorder.record_header(Trajectory(source="handler"))
                recorder.flush(0.05)
                handled += 1
                signal.setitimer(signal.ITIMER_REAL, 0.002)  # again, but never within itself

            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            deadline = time.monotonic() + 60
            recorded = 0
            while handled < 100 and time.monotonic() < deadline:
                recorder.record_header(Trajectory(source="main"))
                recorded += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert handled >= 100, handled
            assert recorder.flush(60), recorder.stats
            stats = recorder.stats
            assert stats.written == stats.accepted == recorded + handled, (stats, recorded, handled)
            recorder.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
