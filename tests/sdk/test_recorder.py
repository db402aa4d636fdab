"""The recorder: the value stored is the value then, every loss is counted, nothing is raised."""

import contextlib
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwml import Message, Outcome, Recorder, Step, Store, Trajectory, open_store
from rwml.errors import SchemaError, StoreError, StoreUnavailableError
from rwml.recorder import RecorderStats
from rwml.records import HeaderRecord
from rwml.store.batches import Batch
from rwml.testing import make_trajectory
from rwml.trajectory_recorder import complete_step


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'rwml.db'}"


@pytest.fixture
def store(url: str):
    with open_store(url) as opened:
        yield opened


def leave_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pytest the recorder raises what it otherwise swallows; pytest sets this per phase."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")


class StalledStore(Store):
    """A real store whose writes wait until `go` is set."""

    def __init__(self, store: Store) -> None:
        super().__init__(engine=store._engine, lock=store._lock)
        self.go = threading.Event()
        self.reached = threading.Event()

    def write_batch(self, batch: Batch, **options: Any) -> None:
        self.reached.set()
        assert self.go.wait(30)
        super().write_batch(batch, **options)


class FailingStore(Store):
    """A real store whose writes fail."""

    def __init__(self, store: Store, error: Exception) -> None:
        super().__init__(engine=store._engine, lock=store._lock)
        self.error = error

    def write_batch(self, batch: Batch, **options: Any) -> None:
        raise self.error


def call(call_id: str, **arguments) -> dict:
    function = {"name": "look", "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def result(call_id: str, text: str) -> dict:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def test_a_trajectory_by_hand(store: Store) -> None:
    system = {"role": "system", "content": "rules"}
    with (
        Recorder(store=store) as recorder,
        recorder.trajectory(id="t", source="mine", task_id="7", messages=[system]) as t,
    ):
        t.observe({"role": "user", "content": "hi"})
        t.act(call("a", x=1), model="m", latency_s=0.5)
        t.observe(result("a", "seen"))
        t.act({"role": "assistant", "content": "bye"})
        t.finish(Outcome(status="completed", reward=1.0))
    (found,) = store.trajectories()
    assert (found.id, found.source, found.task_id) == ("t", "mine", "7")
    assert [m.content for m in found.initial] == ["rules", "hi"]
    assert found.outcome == Outcome(status="completed", reward=1.0)
    assert [(s.status, s.kind, s.model) for s in found.steps] == [
        ("ok", "tool", "m"),
        ("pending", None, None),
    ]
    (transition,) = found.transitions()
    assert transition.next_state == (Message.from_openai(result("a", "seen")),)


events = st.lists(
    st.tuples(st.sampled_from(["act", "observe", "error"]), st.text(max_size=5)), max_size=12
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events)
def test_any_sequence_gives_the_expected_transitions(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    initial: list[str] = []
    turns: list[tuple[str, list[str], bool]] = []
    with (
        open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store,
        Recorder(store=store) as recorder,
    ):
        with recorder.trajectory(source="mine") as t:
            for what, text in events:
                if what == "act":
                    t.act({"role": "assistant", "content": text})
                    turns.append((text, [], False))
                else:
                    status = "error" if what == "error" else "ok"
                    t.observe({"role": "user", "content": text}, status=status)
                    if turns:
                        action, seen, failed = turns[-1]
                        turns[-1] = (action, [*seen, text], failed or what == "error")
                    else:
                        initial.append(text)
        assert recorder.flush(30)
        (found,) = store.trajectories(id=t.id)
    assert [m.content for m in found.initial] == initial
    assert [s.action.content for s in found.steps] == [action for action, _, _ in turns]
    assert [
        (n.action.content, [m.content for m in n.next_state], n.status) for n in found.transitions()
    ] == [(action, seen, "error" if failed else "ok") for action, seen, failed in turns if seen]


@given(st.permutations(["a", "b", "c"]))
def test_results_pair_by_id_in_any_order(order: list[str]) -> None:
    wire = {"role": "assistant", "tool_calls": []}
    for name in "abc":
        wire["tool_calls"] += call(name)["tool_calls"]
    step = Step(index=0, action=Message.from_openai(wire))
    for call_id in order:
        step = complete_step(step, (Message.from_openai(result(call_id, call_id.upper())),))
    (transition,) = Trajectory(source="s", steps=(step,)).transitions()
    assert [m.content for m in transition.next_state] == ["A", "B", "C"]


def test_an_error_stays_an_error() -> None:
    step = Step(index=0, action=Message(role="assistant"))
    step = complete_step(step, (Message(role="tool", content="x"),), status="error")
    assert complete_step(step, (Message(role="tool", content="y"),)).status == "error"


def test_value_at_call_time_is_stored(store: Store) -> None:
    stalled = StalledStore(store)
    with Recorder(store=stalled) as recorder, recorder.trajectory(source="mine") as t:
        action, answer = call("a", x=[1]), result("a", "then")
        t.act(action)
        t.observe(answer)
        action["tool_calls"][0]["function"]["arguments"]["x"].append(2)
        answer["content"] = "later"
        stalled.go.set()
    (found,) = store.trajectories()
    assert found.steps[0].action.tool_calls[0].arguments == {"x": [1]}
    assert found.steps[0].observation[0].content == "then"


def test_same_id_again_updates(store: Store) -> None:
    for text in ("first", "second"):
        with (
            Recorder(store=store) as recorder,
            recorder.trajectory(id="t", source="mine") as t,
        ):
            t.act({"role": "assistant", "content": text})
    (found,) = store.trajectories()
    assert [s.action.content for s in found.steps] == ["second"]


def test_flush_is_true_only_when_durable(store: Store, url: str) -> None:
    stalled = StalledStore(store)
    recorder = Recorder(store=stalled)
    assert recorder.flush(0.01)
    recorder.record(Trajectory(id="t", source="mine"))
    assert stalled.reached.wait(30)
    assert not recorder.flush(0.01)
    assert store.counts().trajectories == 0
    stalled.go.set()
    assert recorder.flush(30)
    with open_store(url, create=False) as other:
        assert other.counts().trajectories == 1
    recorder.close()


@pytest.mark.parametrize("error", [StoreError("disk full"), RuntimeError("a bug")])
def test_failing_store_is_counted_not_raised(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    leave_pytest(monkeypatch)
    with Recorder(store=FailingStore(store, error)) as recorder:
        with recorder.trajectory(source="mine") as t:
            t.act({"role": "assistant", "content": "x"})
            t.observe({"role": "user", "content": "y"})
        assert not recorder.flush(30)
        stats = recorder.stats
    assert (stats.accepted, stats.written, stats.failed) == (4, 0, 4)


def test_full_queue_is_counted_and_never_blocks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pytest(monkeypatch)
    stalled = StalledStore(store)
    recorder = Recorder(store=stalled, queue_records=3)
    recorder.record(Trajectory(id="t", source="mine"))
    assert stalled.reached.wait(30)  # the writer holds this one
    for n in range(5):
        recorder.record_step("t", Step(index=n, action=Message(role="assistant")))
    assert (recorder.stats.accepted, recorder.stats.dropped) == (3, 3)  # what is in work counts
    stalled.go.set()
    assert recorder.flush(30)
    recorder.close()
    assert recorder.stats.written == 3
    assert len(next(store.trajectories()).steps) == 2


def test_one_record_that_cannot_be_stored_does_not_take_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pytest(monkeypatch)
    stalled = StalledStore(store)
    with Recorder(store=stalled) as recorder:
        recorder.record(Trajectory(id="t", source="mine"))
        assert stalled.reached.wait(30)
        for n in (0, 2**70, 2):  # no database has such an index
            recorder.record_step("t", Step(index=n, action=Message(role="assistant")))
        stalled.go.set()
        assert not recorder.flush(30)
        assert (recorder.stats.written, recorder.stats.failed) == (3, 1)
        recorder.record_step("t", Step(index=3, action=Message(role="assistant")))
    assert [s.index for s in next(store.trajectories()).steps] == [0, 2, 3]


def test_one_value_that_the_database_refuses_does_not_take_the_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PostgreSQL refuses a NUL; the store says so with a StoreError."""
    leave_pytest(monkeypatch)
    with contextlib.closing(sqlite3.connect(tmp_path / "rwml.db")) as connection:
        connection.execute(
            "create trigger refuse before insert on trajectories when new.task_id = 'bad' "
            "begin select raise(abort, 'not this one'); end"
        )
    stalled = StalledStore(store)
    with Recorder(store=stalled) as recorder:
        for name in ("first", "good", "bad", "fine"):  # the first goes alone, the others together
            recorder.record(Trajectory(id=name, source="mine", task_id=name))
            recorder.record_step(name, Step(index=0, action=Message(role="assistant")))
            assert stalled.reached.wait(30)
        stalled.go.set()
        assert not recorder.flush(30)
        assert (recorder.stats.written, recorder.stats.failed) == (7, 1)
    assert [t.id for t in store.trajectories()] == ["fine", "first", "good"]


def test_a_store_out_of_reach_is_not_asked_for_each_record_and_catches_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave_pytest(monkeypatch)
    asked: list[int] = []

    class Unreachable(StalledStore):
        is_away = True

        def write_batch(self, batch: Batch, **options: Any) -> None:
            self.reached.set()
            assert self.go.wait(30)
            if self.is_away:
                asked.append(len(batch))
                raise StoreUnavailableError("locked")
            super().write_batch(batch, **options)

    away = Unreachable(store)
    with Recorder(store=away) as recorder:
        recorder.record(make_trajectory(0))
        assert away.reached.wait(30)
        for task in range(1, 6):
            recorder.record(make_trajectory(task))
        away.go.set()
        assert not recorder.flush(1)
        stats = recorder.stats
        assert (stats.written, stats.failed, stats.waiting) == (0, 0, 0)
        assert stats.spooled == stats.accepted == 30
        assert len(asked) < 5
        assert set(asked) == {5}  # the first batch, again and again
        away.is_away = False
        deadline = time.monotonic() + 30
        while not recorder.flush(1) and time.monotonic() < deadline:
            pass
        assert recorder.stats.written == recorder.stats.accepted == 30
    assert list(store.trajectories()) == [make_trajectory(task) for task in range(6)]
    assert caplog.text.count("wait on this machine") == 1


def test_a_record_that_races_with_close_is_written_or_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(store=store)
    put, closing = recorder._queue.put, threading.Thread(target=recorder.close)

    def put_late(record, size: int) -> bool:
        closing.start()
        closing.join(0.5)  # close would be done, if it were let in between
        return put(record, size)

    monkeypatch.setattr(recorder._queue, "put", put_late)
    recorder.record_header(Trajectory(id="t", source="mine"))
    closing.join(30)
    stats = recorder.stats
    assert stats.accepted == stats.written + stats.failed
    assert stats.accepted + stats.dropped == 1
    assert store.counts().trajectories == stats.written


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_a_dead_writer_leaves_is_dropped_at_close(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    class Exits(StalledStore):
        def write_batch(self, batch: Batch, **options: Any) -> None:
            self.reached.set()
            assert self.go.wait(30)
            raise SystemExit

    deadly = Exits(store)
    recorder = Recorder(store=deadly)
    recorder.record(Trajectory(source="mine"))
    assert deadly.reached.wait(30)
    for _ in range(3):
        recorder.record(Trajectory(source="mine"))
    deadly.go.set()
    recorder.close()
    assert recorder.stats.dropped == 3
    assert "3 were dropped" in caplog.text


def test_close_raises_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(store=url)

    def fail() -> None:
        raise RuntimeError("recorded text")

    monkeypatch.setattr(recorder._store, "close", fail)
    recorder.close()
    assert "could not be closed: RuntimeError" in caplog.text
    assert "recorded text" not in caplog.text


@pytest.mark.parametrize("what", ["header", "step", "store"])
def test_logs_hold_no_recorded_text(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    leave_pytest(monkeypatch)
    caplog.set_level(logging.DEBUG)
    failing = FailingStore(store, ValueError("hush")) if what == "store" else store
    with Recorder(store=failing) as recorder:
        messages = [{"role": "hush"}] if what == "header" else []
        with recorder.trajectory(source="mine", messages=messages) as t:
            t.act({"role": "assistant", "content": "hush"})
            if what == "step":
                t.act({"role": "assistant"}, usage={"hush": "hush"})  # type: ignore[arg-type]
        recorder.flush(30)
        assert recorder.stats.errors + recorder.stats.failed
    assert "rwml: " in caplog.text
    assert "hush" not in caplog.text


def test_bad_calls_are_swallowed_and_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pytest(monkeypatch)
    with Recorder(store=store) as recorder, recorder.trajectory(source="mine") as t:
        t.act({"role": "robot"})
        t.act("no message")  # type: ignore[arg-type]
        t.act({"role": "assistant", "content": "good"})
        assert recorder.stats.errors == 2
    assert [s.action.content for s in next(store.trajectories()).steps] == ["good"]


def test_bad_calls_are_raised_under_pytest(store: Store) -> None:
    with (
        Recorder(store=store) as recorder,
        recorder.trajectory(source="mine") as t,
        pytest.raises(SchemaError),
    ):
        t.act({"role": "robot"})


def test_guard_lets_cancellation_through(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pytest(monkeypatch)
    with (
        Recorder(store=store) as recorder,
        pytest.raises(KeyboardInterrupt),
        recorder.guard(),
    ):
        raise KeyboardInterrupt


def test_closed_recorder_counts_what_it_refuses(store: Store) -> None:
    recorder = Recorder(store=store)
    recorder.close()
    recorder.close()
    recorder.record(Trajectory(source="mine"))
    assert (recorder.stats.accepted, recorder.stats.dropped) == (0, 1)


def test_half_a_surrogate_pair_does_not_cost_the_step(store: Store) -> None:
    with Recorder(store=store) as recorder, recorder.trajectory(source="mine") as t:
        t.act({"role": "assistant", "content": "a\ud800b"})
        assert recorder.flush(30)
    assert next(store.trajectories()).steps[0].action.content == "a\ufffdb"


def test_threads_record_at_once(store: Store) -> None:
    def one(n: int) -> None:
        with recorder.trajectory(id=f"t{n}", source="mine") as t:
            for index in range(20):
                t.act({"role": "assistant", "content": f"{n}-{index}"})
                t.observe({"role": "user", "content": f"{n}-{index}!"})

    with Recorder(store=store) as recorder:
        threads = [threading.Thread(target=one, args=[n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = list(store.trajectories())
    assert [t.id for t in found] == [f"t{n}" for n in range(8)]
    for n, each in enumerate(found):
        assert [s.action.content for s in each.steps] == [f"{n}-{i}" for i in range(20)]
        assert [s.observation[0].content for s in each.steps] == [f"{n}-{i}!" for i in range(20)]


def test_flushed_records_survive_a_kill(url: str) -> None:
    code = (
        "import os, signal, sys, rwml\n"
        "recorder = rwml.Recorder(store=sys.argv[1])\n"
        "t = recorder.trajectory(id='t', source='mine').__enter__()\n"
        "t.observe({'role': 'user', 'content': 'hi'})\n"
        "t.act({'role': 'assistant', 'content': 'x'})\n"
        "t.observe({'role': 'user', 'content': 'y'})\n"
        "assert recorder.flush(30)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, url], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with open_store(url, create=False) as store:
        (transition,) = store.transitions()
        assert store.counts().orphans == 0
    assert [m.content for m in transition.context] == ["hi"]
    assert transition.next_state[0].content == "y"


def test_process_that_just_ends_loses_nothing(url: str) -> None:
    code = (
        "import sys, rwml\n"
        "recorder = rwml.Recorder(store=sys.argv[1])\n"
        "with recorder.trajectory(source='mine') as t:\n"
        "    for n in range(500):\n"
        "        t.act({'role': 'assistant', 'content': str(n)})\n"
    )
    subprocess.run([sys.executable, "-c", code, url], timeout=60, check=True)
    with open_store(url, create=False) as store:
        assert store.counts().pending == 500


def test_a_shorter_recording_of_an_id_replaces_the_longer_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"

    def episode(length: int) -> Trajectory:
        action = Message(role="assistant", content=f"of {length}")
        steps = tuple(Step(index=index, action=action) for index in range(length))
        return Trajectory(id="same", source="test", steps=steps)

    with Recorder(store=url) as recorder:
        for length in (3, 5, 2):
            recorder.record(episode(length))
        recorder.record_step("same", Step(index=2, action=Message(role="assistant", content="+")))
        assert recorder.flush()
    (trajectory,) = open_store(url).trajectories()
    assert [step.action.content for step in trajectory.steps] == ["of 2", "of 2", "+"]

    with Recorder(store=url) as recorder, recorder.trajectory(id="same", source="test") as t:
        t.act({"role": "assistant", "content": "alone"})
    (trajectory,) = open_store(url).trajectories()
    assert [step.action.content for step in trajectory.steps] == ["alone"]


def test_deferred_calls_run_in_turn_in_the_writers_thread(store: Store) -> None:
    order: list[str] = []

    def work(name: str) -> None:
        order.append(f"{name} in {threading.current_thread().name}")
        recorder.put_deferred(HeaderRecord(Trajectory(id=name, source="mine")))

    with Recorder(store=store) as recorder:
        for name in "abc":
            recorder.defer(work, name)
        assert recorder.flush(30)
        assert order == [f"{name} in rwml-writer" for name in "abc"]
        assert recorder.stats.accepted == recorder.stats.written == 3
    assert [t.id for t in store.trajectories()] == ["a", "b", "c"]


def test_a_deferred_call_that_fails_is_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leave_pytest(monkeypatch)

    def fail() -> None:
        raise ValueError("hush")

    with Recorder(store=store) as recorder:
        recorder.defer(fail)
        recorder.record(make_trajectory(1))
        recorder.flush(30)
        assert (recorder.stats.errors, recorder.stats.written) == (1, 5)
    assert "recording failed: ValueError" in caplog.text
    assert "hush" not in caplog.text


def test_a_deferred_call_that_fails_is_raised_by_flush_under_pytest(store: Store) -> None:
    def fail() -> None:
        raise ValueError("seen")

    with Recorder(store=store) as recorder:
        recorder.defer(fail)
        with pytest.raises(ValueError, match="seen"):
            recorder.flush(30)
        assert recorder.flush(30)


def test_the_queue_is_bounded_in_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pytest(monkeypatch)
    stalled = StalledStore(store)
    recorder = Recorder(store=stalled, queue_bytes=1_000_000)
    text = Message(role="assistant", content="x" * 300_000)
    for n in range(10):
        recorder.record_step("t", Step(index=n, action=text))
    assert (recorder.stats.accepted, recorder.stats.dropped) == (3, 7)
    recorder.defer(print, "never", size=1_000_000)
    assert recorder.stats.dropped == 8
    stalled.go.set()
    recorder.close()
    assert recorder.stats.written == 3


def test_one_record_larger_than_the_bound_is_taken(store: Store) -> None:
    with Recorder(store=store, queue_bytes=1_000) as recorder:
        recorder.record_step(
            "t", Step(index=0, action=Message(role="assistant", content="x" * 9999))
        )
        assert recorder.flush(30)
        assert recorder.stats.written == 1


def test_switched_off_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWML_DISABLED", "1")
    with Recorder(store=f"sqlite:///{tmp_path / 'rwml.db'}") as recorder:
        assert recorder.takes_nothing
        with recorder.trajectory(source="mine") as t:
            t.act({"role": "assistant", "content": "x"})
        recorder.defer(print, "never")
        assert recorder.flush(1)
        assert recorder.stats == RecorderStats()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ['"' * 600_000, "é\n" * 300_000, "\ud800" * 300_000])
def test_a_large_text_is_stored_as_it_is(store: Store, text: str) -> None:
    step = Step(
        index=0,
        action=Message(role="assistant", content="look"),
        observation=(Message(role="user", content=text),),
        metadata={"n": float("nan"), "deep": [{"a": []}]},
    )
    with Recorder(store=store, redact=None) as recorder:
        recorder.record(Trajectory(id="t", source="mine", steps=(step,)))
        assert recorder.flush(30)
    (found,) = next(store.trajectories()).steps
    assert found.observation[0].content == text.encode("utf-16", "surrogatepass").decode(
        "utf-16", "replace"
    )
    small = step.model_copy(update={"observation": ()})
    with Recorder(store=store, redact=None) as recorder:
        recorder.record(Trajectory(id="small", source="mine", steps=(small,)))
    assert next(store.trajectories(id="small")).steps[0].metadata == found.metadata
