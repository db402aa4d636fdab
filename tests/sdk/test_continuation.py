"""A conversation that goes on in another process is one trajectory, whatever the database."""

import threading

import pytest
from pydantic import JsonValue

from rwml import Message, Outcome, Recorder, Step, Store, Tool, ToolCall, Trajectory, open_store
from rwml.capture import Capture
from rwml.records import Continuation, HeaderRecord, StepRecord

HELLO = (Message(role="system", content="rules"), Message(role="user", content="hello"))
ANSWER = Message(role="assistant", content="What can I do?")
REPLY = (Message(role="user", content="Cancel my order."),)
SECOND = Message(role="assistant", content="It is cancelled.")
TIP, NEXT, TAIL = b"d" * 16, b"e" * 16, b"t" * 16


def begin(url: str, *, name: str = "first", tail: bytes | None = None) -> None:
    """One process: a conversation up to an answer that waits for the user."""
    with Recorder(store=url) as recorder:
        recorder.put(HeaderRecord(Trajectory(id=name, source="mine", initial=HELLO)))
        recorder.put(StepRecord(name, Step(index=0, action=ANSWER), digest=TIP, tail=tail))
        assert recorder.flush(30)


def go_on(url: str, continues: Continuation, *, name: str = "second") -> None:
    """Another process: its first request holds all that was said before."""
    with Recorder(store=url) as recorder:
        header = Trajectory(
            id=name, source="mine", initial=(*HELLO, ANSWER, *REPLY), tools=(Tool(name="cancel"),)
        )
        recorder.put(HeaderRecord(header, continues=continues))
        recorder.put(StepRecord(name, Step(index=0, action=SECOND), digest=NEXT))
        done = header.model_copy(update={"outcome": Outcome(status="completed")})
        recorder.put(HeaderRecord(done))
        assert recorder.flush(30)
        stats = recorder.stats
    assert stats.accepted == stats.written


def read(url: str) -> list[Trajectory]:
    with open_store(url, create=False) as store:
        return list(store.trajectories())


def test_the_other_process_completes_the_step_and_goes_on(url: str) -> None:
    begin(url)
    go_on(url, Continuation(TIP, None, REPLY))
    (whole,) = read(url)
    assert (whole.id, whole.initial) == ("first", HELLO)
    assert [tool.name for tool in whole.tools] == ["cancel"]
    assert whole.outcome.status == "completed"
    first, second = whole.steps
    assert (first.index, first.action, first.observation) == (0, ANSWER, REPLY)
    assert (first.kind, first.status) == ("user", "ok")
    assert (second.index, second.action, second.status) == (1, SECOND, "pending")


def test_a_third_process_finds_the_second_ones_step(url: str) -> None:
    begin(url)
    go_on(url, Continuation(TIP, None, REPLY))
    go_on(url, Continuation(NEXT, None, REPLY), name="third")
    (whole,) = read(url)
    assert [step.index for step in whole.steps] == [0, 1, 2]
    assert [step.status for step in whole.steps] == ["ok", "ok", "pending"]


def test_a_second_answer_to_the_same_action_is_a_trajectory_of_its_own(url: str) -> None:
    begin(url)
    go_on(url, Continuation(TIP, None, REPLY))
    go_on(url, Continuation(TIP, None, REPLY), name="branch")
    assert [(t.id, len(t.steps)) for t in read(url)] == [("branch", 1), ("first", 2)]


@pytest.mark.parametrize("digest", [None, b"?" * 16])
def test_a_cut_history_is_linked_by_its_tail(url: str, digest: bytes | None) -> None:
    begin(url, tail=TAIL)
    go_on(url, Continuation(digest, TAIL, REPLY))
    assert [len(t.steps) for t in read(url)] == [2]


def test_a_tail_that_fits_two_conversations_links_neither(url: str) -> None:
    begin(url, tail=TAIL)
    begin(url, name="other", tail=TAIL)
    go_on(url, Continuation(None, TAIL, REPLY))
    assert [(t.id, len(t.steps)) for t in read(url)] == [("first", 1), ("other", 1), ("second", 1)]


def test_an_unknown_history_begins_a_trajectory(url: str) -> None:
    begin(url)
    go_on(url, Continuation(b"?" * 16, None, REPLY))
    first, second = read(url)
    assert (first.steps[0].status, first.steps[0].observation) == ("pending", ())
    assert second.initial == (*HELLO, ANSWER, *REPLY)


def test_results_of_tools_are_the_observation_and_errors_are_told(url: str) -> None:
    calls = tuple(ToolCall(id=name, name="look") for name in "ab")
    action = Message(role="assistant", tool_calls=calls)
    results = tuple(Message(role="tool", content=name, tool_call_id=name) for name in "ab")
    partly = Step(index=0, action=action, observation=results[:1], kind="tool")
    with Recorder(store=url) as recorder:
        recorder.put(HeaderRecord(Trajectory(id="first", source="mine", initial=HELLO)))
        recorder.put(StepRecord("first", partly, digest=TIP))
    go_on(url, Continuation(TIP, None, results, failed=True))
    (whole,) = read(url)
    assert whole.steps[0].observation == results
    assert (whole.steps[0].kind, whole.steps[0].status) == ("tool", "error")


def test_in_one_process_and_one_batch(url: str) -> None:
    with Recorder(store=url) as recorder:
        recorder.put(HeaderRecord(Trajectory(id="first", source="mine", initial=HELLO)))
        recorder.put(StepRecord("first", Step(index=0, action=ANSWER), digest=TIP))
        recorder.put(
            HeaderRecord(
                Trajectory(id="second", source="mine", initial=(*HELLO, ANSWER, *REPLY)),
                continues=Continuation(TIP, None, REPLY),
            )
        )
        recorder.put(StepRecord("second", Step(index=0, action=SECOND)))
    (whole,) = read(url)
    assert [step.status for step in whole.steps] == ["ok", "pending"]


def test_digests_go_when_a_step_is_complete(store: Store) -> None:
    with Recorder(store=store) as recorder:
        recorder.put(HeaderRecord(Trajectory(id="first", source="mine", initial=HELLO)))
        step = Step(index=0, action=ANSWER)
        recorder.put(StepRecord("first", step, digest=TIP, tail=TAIL))
        assert recorder.flush(30)
        assert store.find_pending(TIP, None) is not None
        done = step.model_copy(update={"observation": REPLY, "kind": "user", "status": "ok"})
        recorder.put(StepRecord("first", done, digest=TIP, tail=TAIL))
        assert recorder.flush(30)
    assert store.find_pending(TIP, TAIL) is None
    with store._reading() as connection:
        rows = connection.exec_driver_sql("select digest, tail from steps").all()
    assert [tuple(row) for row in rows] == [(None, None)]


def test_the_key_stays_with_the_store(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with open_store(url) as one, open_store(url) as other:
        assert one.key == other.key
        assert len(one.key) == 32
        monkeypatch.setenv("RWML_KEY", "a secret text of some length")
    with open_store(url) as named:
        assert named.key not in (one.key, b"")
    monkeypatch.setenv("RWML_KEY", "short")
    from rwml.errors import UsageError

    with open_store(url) as short, pytest.raises(UsageError, match="RWML_KEY must have 16"):
        _ = short.key


def test_a_hidden_step_is_no_transition(url: str) -> None:
    call = ToolCall(id="1", name="get_salary", arguments={"of": "me"})
    result = Message(role="tool", content="much", tool_call_id="1")
    step = Step(
        index=0,
        action=Message(role="assistant", tool_calls=(call,)),
        observation=(result,),
        kind="tool",
        status="ok",
    )
    with Recorder(store=url, capture=Capture(skip_tools=["get_salary"])) as recorder:
        recorder.record(Trajectory(id="t", source="mine", initial=HELLO, steps=(step,)))
        assert recorder.flush(30)
    with open_store(url) as store:
        (found,) = store.trajectories()
        assert found.steps[0].action.tool_calls[0].arguments == {}
        assert "much" not in str(found)
        assert list(store.transitions()) == []
        assert store.counts().transitions == store.stats().transitions == 0


def test_a_trajectory_that_is_sampled_out_leaves_nothing(url: str) -> None:
    with Recorder(store=url, capture=Capture(sample=0.5)) as recorder:
        for n in range(40):
            recorder.record(
                Trajectory(id=f"t{n}", source="mine", steps=(Step(index=0, action=ANSWER),))
            )
        assert recorder.flush(30)
        stats = recorder.stats
    with open_store(url) as store:
        kept = store.stats()
    assert 5 < kept.trajectories < 35
    assert kept.steps == kept.trajectories
    assert stats.written == 2 * kept.trajectories
    assert stats.skipped == 80 - stats.written
    with Recorder(store=url, capture=Capture(sample=0.5)) as later:  # knows of none of them
        for n in range(40):
            later.record_step(f"t{n}", Step(index=1, action=SECOND))
        assert later.flush(30)
    with open_store(url) as store:
        assert store.stats().trajectories == kept.trajectories
        assert store.stats().steps == 2 * kept.steps


def test_a_process_that_knows_less_does_not_take_an_answer_back(url: str) -> None:
    begin(url)
    go_on(url, Continuation(TIP, None, REPLY))
    with Recorder(store=url) as recorder:  # the first process, which heard of no answer
        known = Step(index=0, action=ANSWER, model="now it is known")
        recorder.put(StepRecord("first", known, digest=TIP))
        assert recorder.flush(30)
    (whole,) = read(url)
    assert (whole.steps[0].status, whole.steps[0].observation) == ("ok", REPLY)
    with Recorder(store=url) as recorder:  # by hand, what is recorded counts
        recorder.record(whole.model_copy(update={"steps": (known,)}))
        assert recorder.flush(30)
    assert read(url)[0].steps == (known,)


def test_of_two_actions_that_look_alike_neither_gets_the_answer(url: str) -> None:
    begin(url)
    begin(url, name="other")
    go_on(url, Continuation(TIP, None, REPLY))
    assert [(t.id, len(t.steps)) for t in read(url)] == [("first", 1), ("other", 1), ("second", 1)]


def test_two_answers_in_one_batch_are_two_trajectories(url: str) -> None:
    begin(url)
    with Recorder(store=url) as recorder:
        for name in ("second", "third"):
            header = Trajectory(id=name, source="mine", initial=(*HELLO, ANSWER, *REPLY))
            recorder.put(HeaderRecord(header, continues=Continuation(TIP, None, REPLY)))
            action = Message(role="assistant", content=name)
            recorder.put(StepRecord(name, Step(index=0, action=action)))
        assert recorder.flush(30)
    first, third = read(url)
    assert [step.action.content for step in first.steps] == [ANSWER.content, "second"]
    assert [step.action.content for step in third.steps] == ["third"]


def test_of_two_processes_that_ask_at_once_one_gets_the_action(url: str) -> None:
    begin(url)
    with open_store(url) as one, open_store(url) as other:
        turns = threading.Barrier(2)
        found: list[object] = []

        def ask(store: Store) -> None:
            turns.wait(10)
            found.append(store.claim_pending(TIP, None))

        asking = [threading.Thread(target=ask, args=[store]) for store in (one, other)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert len(found) == 2
        assert found.count(None) == 1
        assert one.find_pending(TIP, None) is None  # though it is pending as yet
    go_on(url, Continuation(TIP, None, REPLY))
    assert [(t.id, len(t.steps)) for t in read(url)] == [("first", 1), ("second", 1)]


def test_what_goes_on_with_a_recorded_conversation_is_not_sampled_out(url: str) -> None:
    half = Capture(sample=0.5)

    def name(taken: bool) -> str:
        names = (f"t{n}" for n in range(100))
        return next(n for n in names if half.takes(Trajectory(id=n, source="mine")) is taken)

    begin(url, name=name(taken=True))
    with Recorder(store=url, capture=half) as recorder:
        header = Trajectory(id=name(taken=False), source="mine", initial=(*HELLO, ANSWER, *REPLY))
        recorder.put(HeaderRecord(header, continues=Continuation(TIP, None, REPLY)))
        recorder.put(StepRecord(header.id, Step(index=0, action=SECOND), digest=NEXT))
        recorder.put(HeaderRecord(header.model_copy(update={"outcome": Outcome(reward=1.0)})))
        assert recorder.flush(30)
        stats = recorder.stats
        assert (stats.accepted, stats.written, stats.skipped) == (4, 4, 0)
    (whole,) = read(url)
    assert [step.status for step in whole.steps] == ["ok", "pending"]
    assert whole.outcome.status == "unknown"


def test_a_tenant_that_opted_out_does_not_go_on_with_anything(url: str) -> None:
    begin(url)
    with Recorder(store=url, capture=Capture(sample=0.5, skip_tenants=["acme"])) as recorder:
        about: dict[str, JsonValue] = {"tenant": "acme"}
        header = Trajectory(id="second", source="mine", initial=HELLO, metadata=about)
        recorder.put(HeaderRecord(header, continues=Continuation(TIP, None, REPLY)))
        assert recorder.flush(30)
    (first,) = read(url)
    assert first.steps[0].status == "pending"
