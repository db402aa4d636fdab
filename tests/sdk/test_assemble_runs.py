"""`rwml.assemble` where callers are known: runs that look alike, tool results by event, turns."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rwml.assemble import Assembler, Caller, Completion, ToolResult
from rwml.records import HeaderRecord, Record
from rwml.schema import Message, Provenance, Step, ToolCall, Trajectory

KEY = b"a test's key"
SYSTEM = Message(role="system", content="You help.")


def user(text: str) -> Message:
    return Message(role="user", content=text)


def says(text: str) -> Message:
    return Message(role="assistant", content=text)


def calls(*ids: str) -> Message:
    return Message(role="assistant", tool_calls=tuple(ToolCall(id=i, name="look") for i in ids))


def result(id: str, text: str) -> Message:
    return Message(role="tool", content=text, tool_call_id=id)


class Written:
    """What a store holds after records were written."""

    def __init__(self) -> None:
        self.assembler = Assembler(key=KEY, source="test")
        self.headers: dict[str, Trajectory] = {}
        self.steps: dict[str, dict[int, Step]] = {}

    def take(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, HeaderRecord):
                self.headers[record.trajectory.id] = record.trajectory
            else:
                self.steps.setdefault(record.trajectory_id, {})[record.step.index] = record.step

    def trajectories(self) -> list[Trajectory]:
        return [
            header.model_copy(
                update={"steps": tuple(step for _, step in sorted(self.steps[name].items()))}
            )
            for name, header in self.headers.items()
        ]

    def ask(self, history: list[Message], answer: Message | None, **more: Any) -> None:
        completion = Completion(messages=tuple(history), response=answer, **more)
        self.take(self.assembler.add(completion))

    def answer(self, message: Message, **more: Any) -> None:
        digest = self.assembler.hasher.message(message)
        self.take(self.assembler.result(ToolResult(message=message, digest=digest, **more)))


@dataclass
class Run:
    """An agent's run; all of them begin alike and use the same call ids."""

    name: str
    history: list[Message] = field(default_factory=lambda: [SYSTEM, user("go")])
    waiting: list[Message] = field(default_factory=list)
    truth: list[tuple[str, ...]] = field(default_factory=list)

    def move(self, written: Written, chance: random.Random, thread: str | None) -> None:
        where = {"thread_id": thread}
        if self.waiting:
            for message in self.waiting:
                if chance.random() < 0.7:  # else only the history will tell
                    written.answer(message, runs=(self.name, "tools", "t"), **where)
            self.history += self.waiting
            self.truth.append(tuple(m.content or "" for m in self.waiting))
            self.waiting = []
        number = len(self.truth)
        action = calls(f"c{number}", f"d{number}")
        caller = Caller(
            runs=(self.name, f"{self.name}-{number}", f"{self.name}-{number}-model"),
            site=f"{self.name}/{number}",
        )
        written.ask(self.history, action, caller=caller, name=f"{self.name}:{number}", **where)
        self.history.append(action)
        same = chance.random() < 0.3  # even what came back may be the same
        text = "same" if same else self.name
        self.waiting = [result(f"{letter}{number}", text) for letter in "cd"]


@given(st.integers(1, 6), st.integers(0, 2**32), st.sampled_from([None, "t"]))
@settings(deadline=None, max_examples=200)
def test_runs_that_look_alike_do_not_mix(count: int, seed: int, thread: str | None) -> None:
    chance = random.Random(seed)
    runs = [Run(f"r{number}") for number in range(count)]
    written = Written()
    for _ in range(count * 5):
        chance.choice(runs).move(written, chance, thread)
    found = {t.id.split(":")[0]: t for t in written.trajectories()}
    assert len(found) == len(written.trajectories())  # one each
    for run in runs:
        if len(run.history) == 2:  # it never moved
            continue
        states = [tuple(m.content for m in s.ordered_observation()) for s in found[run.name].steps]
        assert states[: len(run.truth)] == run.truth
        assert len(states) == len(run.truth) + 1


@given(st.permutations(["a", "b", "c"]), st.integers(0, 3))
def test_results_come_in_any_order_and_the_history_has_the_last_word(
    order: list[str], told: int
) -> None:
    written = Written()
    written.ask([user("go")], calls("a", "b", "c"))
    for name in order[:told]:
        written.answer(result(name, name.upper()))
    (found,) = written.trajectories()
    assert found.steps[0].status == ("ok" if told == 3 else "pending")
    assert sorted(m.content or "" for m in found.steps[0].observation) == sorted(
        name.upper() for name in order[:told]
    )
    changed = [result(name, f"{name}!") for name in "abc"]
    written.ask([user("go"), calls("a", "b", "c"), *changed], says("done"))
    (found,) = written.trajectories()
    assert [m.content for m in found.steps[0].ordered_observation()] == ["a!", "b!", "c!"]
    assert found.steps[0].status == "ok"


def test_what_the_tools_said_is_not_written_again() -> None:
    written = Written()
    written.ask([user("go")], calls("a"))
    written.answer(result("a", "A"))
    history = (user("go"), calls("a"), result("a", "A"))
    completion = Completion(messages=history, response=says("done"))
    (record,) = written.assembler.add(completion)
    assert not isinstance(record, HeaderRecord)
    assert record.step.index == 1


def test_a_failed_tool_that_is_tried_again_is_no_error() -> None:
    written = Written()
    written.ask([user("go")], calls("a"))
    written.answer(result("a", "too dark"), failed=True)
    assert written.trajectories()[0].steps[0].status == "error"
    written.answer(result("a", "A"))
    (found,) = written.trajectories()
    assert [m.content for m in found.steps[0].observation] == ["A"]
    assert found.steps[0].status == "ok"


def turn(text: str, run: str, agent: str = "agent") -> dict[str, Any]:
    caller = Caller(runs=(run, "model"), site=run, agent=agent, says=True)
    return {"thread_id": "t", "name": f"t:{run}", "caller": caller}


def test_a_user_replies_to_the_last_answer_of_the_same_agent() -> None:
    written = Written()
    written.ask([SYSTEM, user("a")], says("A"), **turn("a", "1"))
    written.ask([SYSTEM, user("x")], says("X"), **turn("x", "1b", agent="other"))
    written.ask([SYSTEM, user("b")], says("B"), **turn("b", "2"))
    written.ask([user("c")], says("C"), **turn("c", "3"))  # another system prompt
    found = {
        t.id: [[m.content for m in s.observation] for s in t.steps] for t in written.trajectories()
    }
    assert found == {"t:1": [["b"], []], "t:1b": [[]], "t:3": [[]]}


def test_the_same_question_again_is_no_reply() -> None:
    written = Written()
    for run in ("1", "2"):
        written.ask([user("a")], says(f"answer {run}"), **turn("a", run))
    assert [len(t.steps) for t in written.trajectories()] == [1, 1]
    assert written.assembler.stats.relinked == 0


def test_what_another_process_may_know_is_named() -> None:
    written = Written()
    history = [user("a"), says("A"), user("b")]
    (header, step) = written.assembler.add(Completion(messages=tuple(history), response=says("B")))
    assert isinstance(header, HeaderRecord)
    assert header.continues is not None
    assert header.continues.observation == (user("b"),)
    other = Assembler(key=KEY, source="other")
    (_, first) = other.add(Completion(messages=(user("a"),), response=says("A")))
    assert not isinstance(first, HeaderRecord)
    assert (first.digest, first.tail) == (header.continues.digest, header.continues.tail)
    assert not isinstance(step, HeaderRecord)
    assert step.digest != first.digest


def test_memory_is_bounded_in_bytes() -> None:
    assembler = Assembler(key=KEY, source="test", kept_bytes=1_000_000)
    for number in range(100):
        text = f"{number} " + "long " * 20_000
        assembler.add(Completion(messages=(user(text),), response=says("A")))
    assert len(assembler) <= 10
    assert assembler.stats.evicted >= 90


def test_calls_of_one_place_below_different_parents_are_one() -> None:
    """A node that was run again, after an interrupt or a failure, asks the same again."""
    written = Written()
    where = Provenance(checkpoint_ns="agent:1")
    for parent in ("n1", "n2"):
        caller = Caller(runs=("r", parent, f"{parent}-model"), site="agent:1")
        written.ask([user("a")], says("A"), caller=caller, thread_id="t", provenance=where)
    assert len(written.trajectories()) == 1
    assert written.assembler.stats.duplicates == 1
