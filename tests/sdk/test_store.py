"""The store, on SQLite and PostgreSQL alike: idempotent, streams, counts what is there."""

import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from rwml import Message, Outcome, Step, Store, ToolCall, Trajectory, open_store
from rwml.errors import StoreError
from rwml.store.rows import PAGE, as_key, from_key
from rwml.store.tables import STORE_VERSION


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


def execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


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
    with pytest.raises((OverflowError, StoreError)):
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


def test_row_that_does_not_fit_is_a_store_error(url: str, store: Store) -> None:
    store.add(trajectory("t"))
    execute(url, "update trajectories set body = '{}'")
    with pytest.raises(StoreError, match="trajectory t does not fit"):
        list(store.trajectories())


def test_newer_store_is_refused(url: str) -> None:
    open_store(url).close()
    execute(url, f"update rwml_schema set version = {STORE_VERSION + 1}")
    for create in (True, False):
        with pytest.raises(StoreError, match="upgrade rwml"):
            open_store(url, create=create)


HOSTILE_IDS = [
    "a\x00b",
    "a\x01b",
    "a\x01\x01b",
    "\x00",
    "x" * 5000,
    "x" * 4999 + "y",
    "z\U0001f600",
]


def test_hostile_texts_come_back(store: Store) -> None:
    text = 'nul \x00, escape \x1b, separator \u2028, astral \U0001f600, quote "'
    added = [
        trajectory(
            name,
            step(0, answer=text, metadata={text: [text]}),
            source=name,
            task_id=name,
            split=name,
            initial=(Message(role="user", content=text),),
        )
        for name in HOSTILE_IDS
    ]
    for one in added:
        store.add(one)
        store.add(one)  # finds itself again, however its id is stored
    assert sorted(store.trajectories(), key=lambda t: t.id) == sorted(added, key=lambda t: t.id)
    for one in added:
        assert list(store.trajectories(id=one.id, source=one.id, task_id=one.id)) == [one]
    assert store.counts().orphans == 0


def test_keys_are_unique_ordered_and_reversible() -> None:
    short = ["", "\x00", "\x00\x00", "\x00\x01", "\x01", "\x01\x00", "\x01\x02", "\x02", "a"]
    keys = [as_key(text) for text in short]
    assert keys == sorted(set(keys))
    assert [from_key(key) for key in keys] == short
    assert not any("\x00" in key for key in keys)
    long = {as_key("x" * 5000 + end) for end in ("a", "b")}
    assert len(long) == 2
    assert max(map(len, long)) < 300


def test_ids_are_ordered_by_bytes(store: Store) -> None:
    names = ["b", "B", "a", "A", "_", "-", "é", "z", "10", "9", "\U0001f600", "\uffee"]
    store.write(headers=[trajectory(name) for name in names])
    assert [t.id for t in store.trajectories()] == sorted(names, key=str.encode)


def test_one_key_twice_in_a_batch_keeps_the_last(store: Store) -> None:
    store.write(
        headers=[trajectory("t", task_id="1"), trajectory("t", task_id="2")],
        steps_by_trajectory=[("t", step(0, answer="first")), ("t", step(0, answer="last"))],
    )
    (found,) = store.trajectories()
    assert found.task_id == "2"
    assert [s.observation[0].content for s in found.steps] == ["last"]


def test_find_ids_by_prefix(store: Store) -> None:
    store.write(headers=[trajectory(name) for name in ("ab1", "ab2", "AB3", "a%", "b", "ab\x00")])
    assert store.find_ids("ab", limit=5) == ["ab\x00", "ab1", "ab2"]
    assert store.find_ids("ab", limit=1) == ["ab\x00"]
    assert store.find_ids("a%", limit=5) == ["a%"]
    assert store.find_ids("c", limit=5) == []


def test_threads_write_the_same_rows_at_once(store: Store) -> None:
    names = [f"t{n}" for n in range(20)]
    failures: list[BaseException] = []

    def write(worker: int) -> None:
        order = names if worker % 2 else names[::-1]
        try:
            for _ in range(5):
                store.write(
                    headers=[trajectory(name) for name in order],
                    lengths=dict.fromkeys(order, 2),
                    steps_by_trajectory=[(name, step(n)) for name in order for n in range(2)],
                )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.counts().transitions == 40


def test_threads_make_the_store_at_once(url: str) -> None:
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def make() -> None:
        start.wait()
        try:
            open_store(url).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(start.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_processes_write_and_create_at_once(url: str) -> None:
    code = (
        "import sys, rwml\n"
        "from rwml import Trajectory\n"
        "for n in range(20):\n"
        "    with rwml.open_store(sys.argv[1]) as store:\n"
        "        store.add(Trajectory(id=f'{sys.argv[2]}-{n}', source='test'))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, url, str(n)]) for n in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    with open_store(url, create=False) as store:
        assert store.counts().trajectories == 60
