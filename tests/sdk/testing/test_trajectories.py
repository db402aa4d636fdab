"""`TrajectoryBuilder`: what it builds is what a recorder would store."""

import pytest

import rwml
from rwml import Message, Outcome, Recorder
from rwml.errors import UsageError
from rwml.schema import Provenance
from rwml.testing import TrajectoryBuilder, memory_store, recorded


def test_it_builds_what_a_recorder_records() -> None:
    built = (
        TrajectoryBuilder("t", source="shop", tools=())
        .system("Help.")
        .user("Where is my order?")
        .calls(("look", {"order": 7}), ("look", {"order": 8}), model="m")
        .returns("sent", "lost")
        .says("Number 8 is lost.")
        .user("Cancel it.")
        .calls(("cancel", {"order": 8}))
        .fails("Error: not yours")
        .says("I cannot.")
        .build(outcome=Outcome(status="completed", success=False))
    )
    with memory_store() as store, Recorder(store=store) as recorder:
        messages = ({"role": "system", "content": "Help."}, built.initial[1])
        with recorder.trajectory(id="t", source="shop", messages=messages) as t:
            for step in built.steps:
                t.act(step.action, model=step.model)
                t.observe(*step.observation, status="error" if step.status == "error" else "ok")
            t.finish(built.outcome)
        (found,) = recorded(recorder)
    steps = [step.model_copy(update={"started_at": None}) for step in found.steps]
    assert found.model_copy(update={"steps": tuple(steps), "started_at": None}) == built


def test_parallel_calls_are_paired_by_id() -> None:
    builder = TrajectoryBuilder().calls(("f", {}), ("g", {}))
    (step,) = builder.returns(by_id={"call_0_1": "g's", "call_0_0": "f's"}).build().steps
    assert [message.content for message in step.observation] == ["g's", "f's"]
    assert [message.content for message in step.ordered_observation()] == ["f's", "g's"]
    assert (step.kind, step.status, step.orphans()) == ("tool", "ok", 0)


def test_orphans_pending_tips_and_interrupts() -> None:
    builder = TrajectoryBuilder().user("?").calls(("f", {})).returns(by_id={"nobody": "x"})
    assert builder.build().steps[0].orphans() == 1
    tip = builder.says("Done?").build().steps[-1]
    assert (tip.status, tip.kind, tip.observation) == ("pending", None, ())
    assert builder.interrupted().build().steps[-1].status == "interrupted"


def test_text_environments() -> None:
    builder = TrajectoryBuilder(source="alfworld").environment("You are in a room.").says("go")
    (transition,) = builder.environment("A hall.").build().transitions()
    assert transition.kind == "environment"
    assert [message.content for message in transition.context] == ["You are in a room."]


def test_fields_of_trajectory_and_step() -> None:
    thread = Provenance(thread_id="7")
    built = TrajectoryBuilder("t", task_id="9", metadata={"thread_id": "7"}).says(
        "a", provenance=thread
    )
    found = built.build()
    assert (found.task_id, found.metadata) == ("9", {"thread_id": "7"})
    assert found.steps[0].provenance == thread
    assert [tool.name for tool in built.calls(("f", {}), ("g", {}), ("f", {})).build().tools] == [
        "f",
        "g",
    ]


def test_what_cannot_be_is_refused() -> None:
    for wrong in (
        lambda: TrajectoryBuilder().returns("x"),
        lambda: TrajectoryBuilder().interrupted(),
        lambda: TrajectoryBuilder().says("a").system("late"),
        lambda: TrajectoryBuilder().calls(("f", {})).returns("one", "two"),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_the_result_is_an_ordinary_trajectory() -> None:
    with memory_store() as store:
        built = TrajectoryBuilder("t").user("hi").says("hello").user("bye").build()
        store.add(built)
        assert list(store.trajectories()) == [built]
        assert isinstance(built, rwml.Trajectory)
        assert built.initial == (Message(role="user", content="hi"),)
